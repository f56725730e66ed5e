"""The TFLite reader against files that the tests write, also damaged ones."""

from __future__ import annotations

import contextlib
import json
import math
import random
import struct
import sys

import numpy as np
import pytest

import cnnlive
from cnnlive.errors import MissingExtraError, ReadError

tflite = pytest.importorskip("tflite", reason="the schema package tflite is not installed (extra 'tflite')")
import tflite_models as models  # noqa: E402 - needs the schema package
from tflite_models import NONE, SAME, VALID, Net  # noqa: E402 - as above

from cnnlive.io.tflite import read_tflite  # noqa: E402 - as above
from cnnlive.verify import check_inference  # noqa: E402 - as above

DTYPES = ("float32", "int8")


def net(make, dtype="float32"):
    n = Net(dtype)
    make(n)
    return n


def ops(graph):
    return [graph.op_of(n) for n in graph.nodes() if graph.op_of(n) not in ("input", "parameter")]


def compare(n, graph=None):
    """Hold every activation of a graph to the file's size, type and place in the file; return the graph."""
    graph = graph or read_tflite(n.write())
    written = {i for _, _, outs, _, _ in n.ops for i in outs} | set(n.inputs)
    found = {}
    for name in graph.nodes():
        told = graph.nx.nodes[name].get("tflm")
        assert (told is None) == (graph.op_of(name) == "parameter")
        if told:
            found |= dict(zip(told["tensors"], graph.tensors_of(name), strict=True))
    assert set(found) == written
    for i, tensor in found.items():
        row = n.tensors[i]
        assert math.prod(tensor.shape) == math.prod(row["shape"]), row
        assert tensor.dtype == row["dtype"], row
        if tensor.output == 0:
            assert tensor.name == row["name"], row
    order = [graph.nodes().index(found[outs[0]].node) for _, _, outs, _, _ in n.ops]
    assert order == sorted(order)
    stored = {row["buffer"]: len(n.buffers[row["buffer"]]) for row in n.tensors}
    plan = cnnlive.plan_inference(graph, batch=graph.inputs[0].shape[0])
    assert plan.weight_bytes <= sum(stored.values()) + sum(
        math.prod(row["shape"]) * np.dtype(row["dtype"]).itemsize for row in n.tensors if row["variable"]
    )
    assert cnnlive.Graph.from_dict(json.loads(graph.to_json())).to_json() == graph.to_json()
    assert cnnlive.Graph.from_networkx(graph.nx).to_dict() == graph.to_dict()
    return graph


# ---------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", models.NETS, ids=lambda m: m.__name__)
def test_every_tensor_has_the_size_and_type_that_the_file_states(make, dtype):
    graph = compare(net(make, dtype))
    assert ("opaque" in ops(graph)) == (make is models.streaming)


@pytest.mark.parametrize("seed", range(30))
def test_random_nets_are_read_as_the_table_has_them(seed):
    graph = compare(models.random_net(seed))
    assert "opaque" not in ops(graph)


def test_images_have_their_channels_second():
    n = Net()
    x = n.input((1, 5, 7, 3))
    n.output(n.conv(x, 4, (2, 3), (1, 2)))
    g = read_tflite(n.write())
    assert [t.shape for t in (*g.inputs, *g.outputs)] == [(1, 3, 5, 7), (1, 4, 5, 4)]
    assert g.attributes("t3") == {
        "out_channels": 4, "kernel_size": (2, 3), "stride": (1, 2), "padding": "same_upper", "dilation": (1, 1),
        "groups": 1, "bias": True,
    }  # fmt: skip


def as_built(n, g):
    """Build the net of :func:`test_a_float_net_costs_what_the_same_net_built_by_hand_costs` twice."""
    x, y = n.input((1, 17, 17, 3)), g.input((1, 3, 17, 17))
    x, y = n.conv(x, 8, 3, 2), g.conv2d(y, 8, 3, stride=2, padding="same")
    a, b = n.depthwise(x), g.conv2d(y, 8, 3, padding="same", groups=8)
    a, b = n.conv(a, 8, 1), g.conv2d(b, 8, 1)
    x, y = n.binary("ADD", x, a), g.add(y, b)
    x, y = n.unary("LOGISTIC", x), g.sigmoid(y)
    x, y = n.concat(x, n.pool(x, "MAX", 3, 1, SAME)), g.concat([y, g.max_pool2d(y, 3, stride=1, padding="same")])
    x, y = n.pad(x, [(0, 0), (1, 2), (0, 3), (0, 0)]), g.pad(y, (0, 3, 1, 2))
    x, y = n.transpose_conv(x, 4), g.conv_transpose2d(y, 4, 3, stride=2, padding=[(0, 1), (0, 1)])
    x, y = n.reduce("MEAN", x, [1, 2], False), g.mean(y, (2, 3))
    n.output(n.softmax(n.dense(x, 10)))
    g.output(g.softmax(g.linear(y, 10), dim=-1))


def test_a_float_net_costs_what_the_same_net_built_by_hand_costs():
    n, g = Net(), cnnlive.Graph()
    as_built(n, g)
    read = compare(n)
    assert ops(read) == ops(g)
    assert (read.n_parameters, read.n_buffers) == (g.n_parameters, 0)
    ours, theirs = cnnlive.lower(read), cnnlive.lower(g)
    assert ours.macs() == theirs.macs() > 0
    for batch in (1, 5):
        for profile in ("ideal", "torch_fx"):
            pair = [cnnlive.plan_inference(x, batch=batch, profile=profile) for x in (ours, theirs)]
            assert pair[0].timeline.tolist() == pair[1].timeline.tolist()
            assert pair[0].weight_bytes == pair[1].weight_bytes
        pair = [cnnlive.plan_training(x, batch=batch).peak_bytes for x in (ours, theirs)]
        assert pair[0] == pair[1]


def test_quantised_weights_count_the_bytes_of_the_file():
    n, g = Net("int8"), cnnlive.Graph()
    as_built(n, g)
    read = compare(n)
    plan = cnnlive.plan_inference(read)
    biases = [o.weight.shape[0] for o in g.weights() if o.weight.role == "bias"]
    assert plan.weight_bytes == g.n_parameters + 3 * sum(biases)
    assert (read.n_parameters, read.n_buffers) == (g.n_parameters, 0)
    assert plan.macs == cnnlive.lower(g).macs()
    conv = read.nx.nodes["t3"]
    assert (conv["tied"], read.attributes("t1")["dtype"]) == ({"weight": "t1", "bias": "t2"}, "int8")
    assert cnnlive.plan_inference(read, dtype="float16").weight_bytes == plan.weight_bytes


def test_weights_of_another_type_than_the_activations_keep_it():
    n = Net()
    w, b = n.const((5, 3, 3, 4), "int8"), n.bias_of(5)
    y = n.op("CONV_2D", [n.input((1, 8, 8, 4)), w, b], [n.tensor((1, 8, 8, 5))], "Conv2DOptions", StrideH=1, StrideW=1)
    n.output(n.dense(n.reshape(y, (1, 320)), 3))
    g = compare(n)
    assert ops(g) == ["conv2d", "reshape", "linear"]
    assert cnnlive.plan_inference(g).weight_bytes == 180 + 4 * (5 + 960 + 3)
    assert cnnlive.plan_inference(g, dtype="float16").weight_bytes == 180 + 2 * (5 + 960 + 3)
    assert g.n_parameters == 180 + 5 + 960 + 3


def test_what_several_ops_share_counts_once():
    for dtype, stored in (("float32", 4 * (9 * 4 * 4 + 4)), ("int8", 9 * 4 * 4 + 4 * 4)):
        n = Net(dtype)
        x = n.conv(n.input((1, 6, 6, 4)), 4)
        code, (_, w, b), _, options, values = n.ops[0]
        for _ in range(2):
            y = n.tensor((1, 6, 6, 4))
            n.ops.append((code, [x, w, b], [y], options, values))
            x = y
        # another tensor of the same buffer
        n.tensors.append({**n.tensors[w], "name": "again"})
        n.ops.append((code, [x, len(n.tensors) - 1, b], [n.tensor((1, 6, 6, 4))], options, values))
        n.output(len(n.tensors) - 1)
        g = compare(n)
        assert cnnlive.plan_inference(g).weight_bytes == stored
        assert g.n_parameters == 9 * 4 * 4 + 4


def test_constants_are_operands_in_the_shape_in_which_they_broadcast():
    n = Net()
    x = n.input((1, 8, 8, 6))
    scale, shift = n.const((6,)), n.const((1, 1, 6))
    y = n.binary("SUB", n.binary("ADD", n.binary("MUL", x, scale), shift), n.const(()))
    n.output(n.binary("MAXIMUM", y, n.const((8, 8, 1))))
    g = compare(n)
    assert ops(g) == ["mul", "add", "sub", "maximum"]
    assert [t.shape for t in g.inputs_of("t4")] == [(1, 6, 8, 8), (1, 6, 1, 1)]
    assert g.n_parameters == 6 + 6 + 1 + 64


def test_one_constant_in_two_shapes_counts_once():
    n = Net()
    row = n.const((6,))
    a = n.binary("ADD", n.input((1, 4, 4, 6)), row)
    n.output(n.reduce("MEAN", a, [1, 2], False))
    n.output(n.binary("ADD", n.outputs[0], row))
    g = compare(n)
    assert ops(g) == ["add", "mean", "add"]
    assert cnnlive.plan_inference(g).weight_bytes == 24


def test_weights_that_an_op_computes_are_inputs():
    n = Net()
    x = n.input((1, 6, 6, 2))
    w = n.op("DEQUANTIZE", [n.const((5, 3, 3, 2), "float16")], [n.tensor((5, 3, 3, 2))])
    y = n.tensor((1, 6, 6, 5))
    n.output(n.op("CONV_2D", [x, w, n.bias_of(5)], [y], "Conv2DOptions", Padding=SAME, StrideH=1, StrideW=1))
    g = compare(n)
    assert ops(g) == ["cast", "conv2d"]
    plan = cnnlive.plan_inference(g)
    assert plan.weight_bytes == 90 * 2 + 5 * 4
    assert plan.macs == 36 * 90
    assert plan.activation_peak_bytes == 4 * (72 + 90 + 180)


def test_state_is_stored_beside_the_weights():
    g = compare(net(models.streaming, "int8"))
    assert ops(g) == ["opaque", "opaque", "linear", "softmax"]
    assert [g.attributes(n)["kind"] for n in g.nodes() if g.op_of(n) == "opaque"] == ["SVDF"] * 2
    assert g.n_buffers == 20 * 12 + 20 * 6 + 12 + 6  # and 32-bit biases of an op that the table does not know
    peak = cnnlive.plan_inference(g).activation_peak_bytes
    assert peak == 24 + 12


def test_a_dense_layer_over_an_image_is_one_op():
    n = Net("int8")
    x = n.input((1, 4, 4, 5))
    w = n.const((7, 80), "int8", scale=models.WEIGHT_SCALE)
    y = n.op("FULLY_CONNECTED", [x, w, n.bias_of(7)], [n.tensor((1, 7))], "FullyConnectedOptions")
    n.output(n.softmax(n.dense(y, 3)))
    g = compare(n)
    assert ops(g) == ["conv2d", "conv2d", "softmax"]
    assert cnnlive.lower(g).macs() == 80 * 7 + 7 * 3


CASES = {
    "argmax as int64": (lambda n, x: n.op("ARG_MAX", [x, n.const((), "int32", 3)], [n.tensor((1, 4, 4), "int64")],
                                          "ArgMaxOptions"), "argmax"),
    "argmax as int32": (lambda n, x: n.op("ARG_MAX", [x, n.const((), "int32", 3)], [n.tensor((1, 4, 4), "int32")],
                                          "ArgMaxOptions"), "opaque"),
    "prelu": (lambda n, x: n.op("PRELU", [x, n.const((1, 1, 6))], [n.tensor((1, 4, 4, 6))]), "prelu"),
    "prelu for each element": (lambda n, x: n.op("PRELU", [x, n.const((4, 4, 6))], [n.tensor((1, 4, 4, 6))]), "opaque"),
    "leaky": (lambda n, x: n.op("LEAKY_RELU", [x], [n.tensor((1, 4, 4, 6))], "LeakyReluOptions", Alpha=0.25),
              "leaky_relu"),
    "clip": (lambda n, x: n.unary("RELU_N1_TO_1", x), "clip"),
    "squeeze": (lambda n, x: n.op("SQUEEZE", [n.reduce("SUM", x, [1])], [n.tensor((1, 4, 6))], "SqueezeOptions"),
                "reshape"),
    "tile": (lambda n, x: n.op("TILE", [x, n.const((4,), "int32", [1, 2, 3, 1])], [n.tensor((1, 8, 12, 6))]), "repeat"),
    "slice": (lambda n, x: n.op("SLICE", [x, *[n.const((4,), "int32", v) for v in ([0, 1, 2, 0], [1, 3, -1, 2])]],
                                [n.tensor((1, 3, 2, 2))]), "slice"),
    "one row": (lambda n, x: n.strided_slice(x, [0, -2, 0, 0], [0] * 4, ShrinkAxisMask=2, BeginMask=13, EndMask=13),
                "slice"),
    "a new axis": (lambda n, x: n.op("STRIDED_SLICE", [x, *[n.const((1,), "int32", [v]) for v in (0, 1, 1)]],
                                     [n.tensor((1, 1, 4, 4, 6))], "StridedSliceOptions", NewAxisMask=1), "opaque"),
    "split unequally": (lambda n, x: n.op("SPLIT_V", [x, n.const((2,), "int32", [2, 4]), n.const((), "int32", 3)],
                                                 [n.tensor((1, 4, 4, 2)), n.tensor((1, 4, 4, 4))], "SplitVOptions",
                                                 NumSplits=2)[0], "split"),
    "depth to space": (lambda n, x: n.op("DEPTH_TO_SPACE", [n.conv(x, 8)], [n.tensor((1, 8, 8, 2))],
                                         "DepthToSpaceOptions", BlockSize=2), "pixel_shuffle"),
    "space to depth": (lambda n, x: n.op("SPACE_TO_DEPTH", [x], [n.tensor((1, 2, 2, 24))], "SpaceToDepthOptions",
                                         BlockSize=2), "pixel_unshuffle"),
    "a table that is looked up": (lambda n, x: n.op("GATHER", [n.const((50, 6)), n.input((1, 4), "int32")],
                                                    [n.tensor((1, 4, 6))], "GatherOptions", Axis=0), "gather"),
    "comparison": (lambda n, x: n.op("LESS", [x, n.const((6,))], [n.tensor((1, 4, 4, 6), "bool")]), "compare"),
    "matrices": (lambda n, x: n.op("BATCH_MATMUL", [n.input((1, 8, 6)), n.input((1, 6, 5))], [n.tensor((1, 8, 5))],
                                   "BatchMatMulOptions"), "matmul"),
    "matrices, one transposed": (lambda n, x: n.op("BATCH_MATMUL", [n.input((1, 8, 6)), n.input((1, 5, 6))],
                                                   [n.tensor((1, 8, 5))], "BatchMatMulOptions", AdjY=True), "opaque"),
    "both halves": (lambda n, x: n.op("TOPK_V2", [n.reshape(x, (1, 96)), n.const((), "int32", 5)],
                                      [n.tensor((1, 5)), n.tensor((1, 5), "int32")], "TopKV2Options")[0], "opaque"),
    "symmetric": (lambda n, x: n.op("MIRROR_PAD", [x, n.const((4, 2), "int32", [[0, 0], [1, 1], [1, 1], [0, 0]])],
                                            [n.tensor((1, 6, 6, 6))], "MirrorPadOptions", Mode=1), "opaque"),
    "of no table": (lambda n, x: n.op("TFLite_Detection_PostProcess", [x], [n.tensor((1, 10, 4))]), "opaque"),
    "pooling that the file sees otherwise": (lambda n, x: n.op("MAX_POOL_2D", [x], [n.tensor((1, 3, 3, 6))],
                                             "Pool2DOptions", Padding=VALID, StrideH=2, StrideW=2, FilterHeight=2,
                                             FilterWidth=2), "opaque"),
    "a convolution without strides": (lambda n, x: n.op("CONV_2D", [x, n.weight_of((6, 1, 1, 6)), n.bias_of(6)],
                                                        [n.tensor((1, 4, 4, 6))]), "opaque"),
    "a bias of another length": (lambda n, x: n.op("CONV_2D", [x, n.weight_of((6, 1, 1, 6)), n.bias_of(5)],
                                                   [n.tensor((1, 4, 4, 6))], "Conv2DOptions", StrideH=1, StrideW=1),
                                 "opaque"),
    "complex numbers": (lambda n, x: n.op("RFFT2D", [n.reduce("MEAN", x, [3], False)],
                                          [n.tensor((1, 4, 3), "complex64")]), "opaque"),
    "volumes": (lambda n, x: n.op("CONV_3D", [n.input((1, 4, 5, 6, 2)), n.const((3, 3, 3, 2, 7)), n.bias_of(7)],
                                  [n.tensor((1, 2, 5, 3, 7))], "Conv3DOptions", Padding=SAME, StrideD=2, StrideH=1,
                                  StrideW=2), "conv3d"),
    "volumes unlike": (lambda n, x: n.op("CONV_3D", [n.input((1, 4, 5, 6, 2)), n.const((3, 3, 3, 4, 7))],
                       [n.tensor((1, 4, 5, 6, 7))], "Conv3DOptions", StrideD=1, StrideH=1, StrideW=1), "opaque"),
    "a depthwise weight of two": (lambda n, x: n.op("DEPTHWISE_CONV_2D", [x, n.const((2, 1, 1, 6))],
                                  [n.tensor((1, 4, 4, 6))], "DepthwiseConv2DOptions", StrideH=1, StrideW=1), "opaque"),
    "dense with a weight of three": (lambda n, x: n.op("FULLY_CONNECTED", [x, n.const((1, 7, 6))], [n.tensor((16, 7))],
                                     "FullyConnectedOptions"), "opaque"),
    "dense of no whole rows": (lambda n, x: n.op("FULLY_CONNECTED", [x, n.const((7, 12))], [n.tensor((8, 7))],
                               "FullyConnectedOptions"), "opaque"),
    "transposed": (lambda n, x: n.op("TRANSPOSE_CONV", [n.const((4,), "int32"), n.const((2, 1, 1, 5)), x],
                                    [n.tensor((1, 4, 4, 2))], "TransposeConvOptions", StrideH=1, StrideW=1), "opaque"),
    "an axis that is not there": (lambda n, x: n.op("CONCATENATION", [x, x], [n.tensor((1, 4, 4, 12))],
                                  "ConcatenationOptions", Axis=7), "opaque"),
    "axes that are computed": (lambda n, x: n.op("SUM", [x, n.input((1,), "int32")], [n.tensor((1, 4, 4, 1))],
                               "ReducerOptions", KeepDims=True), "opaque"),
    "a permutation of too few": (lambda n, x: n.op("TRANSPOSE", [x, n.const((3,), "int32", [0, 2, 1])],
                                 [n.tensor((1, 4, 4, 6))]), "opaque"),
    "a slice of too few": (lambda n, x: n.op("SLICE", [x, *[n.const((2,), "int32", [0, 1])] * 2],
                           [n.tensor((1, 4, 4, 6))]), "opaque"),
    "ranges of too many": (lambda n, x: n.op("STRIDED_SLICE", [x, *[n.const((5,), "int32", [1] * 5)] * 3],
                           [n.tensor((1, 4, 4, 6))], "StridedSliceOptions"), "opaque"),
    "tiles of too few": (lambda n, x: n.op("TILE", [x, n.const((3,), "int32", [1, 1, 1])], [n.tensor((1, 4, 4, 6))]),
                         "opaque"),
    "an image that is looked up": (lambda n, x: n.op("GATHER", [x, n.input((1, 2), "int32")], [n.tensor((1, 4, 4, 2))],
                                   "GatherOptions", Axis=3), "opaque"),
    "nothing to read": (lambda n, x: n.binary("ADD", x, n.op("RANDOM_UNIFORM", [], [n.tensor((1, 4, 4, 6))])), "add"),
    "seven": (lambda n, x: n.op("RESHAPE", [x], [n.tensor((1, 2, 2, 2, 2, 2, 3))], "ReshapeOptions"), "reshape"),
    "a builtin of tomorrow": (lambda n, x: n.op("BUILTIN_250", [x], [n.tensor((1, 2))]), "opaque"),
    "grouped": (lambda n, x: n.conv(x, 6, groups=3), "conv2d"),
    "dilated": (lambda n, x: n.conv(x, 6, 2, d=3), "conv2d"),
    "without bias": (lambda n, x: n.conv(x, 6, bias=False), "conv2d"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators_are_those_of_the_table_or_opaque(name):
    make, expected = CASES[name]
    n = Net()
    x = n.input((1, 4, 4, 6))
    n.output(make(n, x))
    graph = compare_kinds(n)
    assert ops(graph)[-1] == expected


def compare_kinds(n):
    """As :func:`compare`, for types that have another name in the graph."""
    graph = read_tflite(n.write())
    for t in n.tensors:
        t["dtype"] = {"complex64": "int64"}.get(t["dtype"], t["dtype"])
    return compare(n, graph)


def test_opaque_ops_carry_the_names_and_types_of_the_file():
    n = Net()
    x = n.input((1, 96))
    n.output(*n.op("TOPK_V2", [x, n.const((), "int32", 5)], [n.tensor((1, 5)), n.tensor((1, 5), "int32")]))
    g = read_tflite(n.write())
    assert g.attributes("t2") == {"kind": "TOPK_V2", "shapes": ((1, 5), (1, 5)), "dtype": ("float32", "int32")}
    assert [t.name for t in g.outputs] == ["t2", "t2:1"]
    assert cnnlive.plan_inference(g).activation_peak_bytes == 4 * 96 + 20 + 20
    assert cnnlive.plan_inference(g, batch=3).activation_peak_bytes == 3 * (4 * 96 + 20 + 20)


def test_asymmetric_padding_is_that_of_the_file():
    n = Net()
    x = n.input((1, 10, 10, 2))
    n.output(n.conv(x, 3, 3, 2), n.pool(x, "AVERAGE", 3, 2, SAME), n.transpose_conv(x, 3, 4, 3, VALID))
    g = compare(n)
    assert [t.shape[2:] for t in g.outputs] == [(5, 5), (5, 5), (31, 31)]
    assert ops(g) == ["conv2d", "avg_pool2d", "conv_transpose2d"]
    assert not g.attributes("t4")["count_include_pad"]


# ---------------------------------------------------------------------------------- batches


def test_the_batch_is_the_first_dimension_where_inputs_have_one():
    def sizes(make):
        g = compare(net(make))
        return g.inputs[0].shape, cnnlive.plan_inference(g, batch=g.inputs[0].shape[0]).activation_bytes

    def images(n):
        n.output(n.softmax(n.dense(n.reshape(n.conv(n.input((3, 4, 4, 2)), 2), (3, 32)), 5)))

    def rows(n):
        n.output(n.softmax(n.dense(n.input((49, 40)), 7)))

    def signal(n):
        n.output(n.conv(n.reshape(n.input((400,)), (1, 20, 20, 1)), 3))

    def number(n):
        n.output(n.binary("ADD", n.input(()), n.input((5,))))

    def mixed(n):
        x, y = n.input((1, 4, 4, 2)), n.input((3, 4, 4, 2))
        n.output(n.conv(x, 3), n.unary("RELU", y))

    assert sizes(images) == ((3, 2, 4, 4), 4 * 3 * (32 + 32 + 5 + 5))
    assert sizes(rows) == ((1, 49, 40), 4 * 49 * (40 + 7 + 7))
    assert sizes(signal) == ((1, 400), 4 * 400 * 4)
    assert sizes(number) == ((1,), 4 * (1 + 5 + 5))
    assert sizes(mixed) == ((1, 2, 4, 4), 4 * (32 + 48 + 96 + 96))
    g = read_tflite(net(images).write())
    assert cnnlive.plan_inference(g, batch=7).activation_bytes == 4 * 7 * (32 + 32 + 5 + 5)


def test_an_open_batch_is_read_as_the_file_has_it():
    n = Net()
    x = n.input((1, 4, 4, 2), signature=[-1, 4, 4, 2])
    n.output(n.conv(x, 2))
    g = compare(n)
    assert cnnlive.plan_inference(g, batch=6).activation_bytes == 6 * 256


# ---------------------------------------------------------------------------------- sources


def test_paths_bytes_and_names(tmp_path):
    data = net(models.chain).write()
    file = tmp_path / "my net.tflite"
    file.write_bytes(data)
    found = [read_tflite(s) for s in (file, str(file), data, bytearray(data), memoryview(data))]
    assert [g.name for g in found] == ["my net.tflite"] * 2 + [""] * 3
    assert len({json.dumps(g.to_dict() | {"name": ""}) for g in found}) == 1
    assert read_tflite(data, name="given").name == "given"


def test_names_are_made_free():
    n = Net()
    x = n.input((1, 4), name="a")
    y = n.op("RELU", [x], [n.tensor((1, 4), name="a")])
    n.output(n.op("RELU", [y], [n.tensor((1, 4), name="")]))
    assert read_tflite(n.write()).nodes() == ["a", "a_1", "tensor_2"]


def test_another_subgraph_may_be_the_network():
    n = net(models.chain)
    data = n.write(extra_subgraphs=1)
    one, two = (read_tflite(data, subgraph=k) for k in (0, 1))
    assert one.nodes() == two.nodes()
    # what the interpreter places of the other subgraph besides
    assert len(one.nx.nodes["t0"]["tflm"]["idle"]) == 5
    assert "idle" not in two.nx.nodes["t0"]["tflm"]
    for wrong in (2, -1, True, "main"):
        with pytest.raises(ReadError, match="no subgraph .*; allowed: 0 to 1"):
            read_tflite(data, subgraph=wrong)


def test_data_behind_the_tables_is_found_as_in_files_above_2_gb():
    n = Net()
    x = n.input((1, 6, 6, 3))
    n.output(n.conv(x, 4))
    g = read_tflite(n.write(outside=True))
    assert g.to_dict() == read_tflite(n.write()).to_dict()
    with pytest.raises(ReadError, match="has data up to byte"):
        read_tflite(n.write(outside=True)[:-1])


def test_constant_outputs_are_left_out():
    n = Net()
    n.output(n.conv(n.input((1, 4, 4, 1)), 2), n.const((7,)))
    assert [t.shape for t in read_tflite(n.write()).outputs] == [(1, 2, 4, 4)]
    n.outputs = n.outputs[1:]
    with pytest.raises(ReadError, match="no output depends on an input"):
        read_tflite(n.write())


# ---------------------------------------------------------------------------------- the runtime's rules


def test_a_file_s_own_ops_are_final_for_tflite_runtimes():
    n = Net()
    x = n.conv(n.input((1, 8, 8, 3)), 4, act=NONE)
    x = n.unary("RELU", x)
    n.output(n.binary("ADD", x, n.const((4,))))
    g = read_tflite(n.write())
    for profile in ("tflm", "tflite"):
        plan = cnnlive.plan_inference(g, profile=profile)
        assert [plan.network.op_kinds[op] for op in plan.order] == ["input", "conv2d", "relu", "parameter", "add"]
        assert not plan.profile.fuse
        assert cnnlive.plan_inference(g, profile=profile, fuse=True).network.n_ops == 4
    check_inference(g, cnnlive.plan_inference(g, profile="tflm"))


def test_what_the_kernels_request_is_kept_with_the_op():
    n = Net("int8")
    x = n.input((1, 4, 4, 6))
    four = n.tensor((5, 6), "int4", bytes(15), scale=models.WEIGHT_SCALE)
    y = n.reduce("MEAN", x, [1, 2], False)
    z = n.op("FULLY_CONNECTED", [y, four, n.bias_of(5)], [n.tensor((1, 5))], "FullyConnectedOptions")
    n.output(z, n.transpose_conv(x, 2), n.reduce("REDUCE_MAX", x, [3]), n.unary("RELU", x))
    g = read_tflite(n.write())
    told = {name: g.nx.nodes[name].get("tflm", {}).get("scratch") for name in g.nodes()}
    assert {k: v for k, v in told.items() if v} == {
        f"t{y}": [4 * 6, 4 * 4, 4 * 2], f"t{z}": [30], f"t{n.outputs[1]}": [4 * 8 * 8 * 2], f"t{n.outputs[2]}": [16, 4],
    }  # fmt: skip
    assert g.op_of(f"t{z}") == "opaque"
    assert cnnlive.plan_inference(g).weight_bytes == 15 + 5 * 4 + 2 * 9 * 6 + 2 * 4


def test_requests_of_kernels_count_under_their_runtime_alone():
    n = Net("int8")
    n.output(n.reduce("MEAN", n.input((1, 4, 4, 6)), [1, 2], False))
    g = read_tflite(n.write())
    micro, ideal = (cnnlive.plan_inference(g, profile=p) for p in ("tflm", "ideal"))
    assert ideal.activation_peak_bytes == 96 + 6
    assert micro.activation_peak_bytes == 96 + 6 + 24 + 16 + 8
    assert micro.scratch_at_peak == 48
    check_inference(g, micro)


# ---------------------------------------------------------------------------------- what is refused


def broken(change, **parts):
    n = Net()
    x = n.input((1, 4, 4, 2))
    y = n.conv(x, 3)
    n.output(n.unary("RELU", y))
    change(n, x, y)
    return n.write(**parts)


def sets(row, **values):
    return lambda n, x, y: n.tensors[row(n, x, y)].update(values)


def reads(i):
    def change(n, x, y):
        code, _, outs, options, values = n.ops[1]
        n.ops[1] = (code, [i], outs, options, values)

    return change


def writes(*outs):
    def change(n, x, y):
        code, ins, _, options, values = n.ops[1]
        n.ops[1] = (code, ins, [*outs], options, values)

    return change


def calls(code):
    def change(n, x, y):
        _, ins, outs, _, _ = n.ops[1]
        n.ops[1] = (n.code(code), ins, outs, None, {})

    return change


REFUSED = {
    "version": (broken(lambda n, x, y: None, version=2), "schema version 2; allowed: 3"),
    "identifier": (broken(lambda n, x, y: None, identifier=b"ABCD"), "not a TFLite file: 'TFL3' is missing"),
    "no inputs": (broken(lambda n, x, y: n.inputs.clear()), "no inputs"),
    "no outputs": (broken(lambda n, x, y: n.outputs.clear()), "no output depends"),
    "control flow": (broken(calls("WHILE")), r"t4 \(WHILE\): control flow cannot be planned"),
    "once": (broken(calls("CALL_ONCE")), r"CALL_ONCE\): control flow"),
    "nothing written": (broken(writes()), "RELU writes no tensor"),
    "written twice": (broken(writes(3)), "RELU writes 't3', which is stored or written already"),
    "input written": (broken(writes(0)), "RELU writes 't0'"),
    "two at once": (broken(writes(4, 4)), "RELU writes 't4'"),
    "weight written": (broken(writes(1)), "RELU writes 't1'"),
    "no such tensor": (broken(reads(99)), "there is no tensor 99; allowed: 0 to 4"),
    "no such output": (broken(lambda n, x, y: n.outputs.append(77)), "there is no tensor 77"),
    "not yet written": (broken(reads(4)), r"t4 \(RELU\) reads tensor 4, 't4', which no operator before it writes"),
    "text": (broken(sets(lambda n, x, y: 4, dtype="string")), "RELU: the output 't4' has a type without a fixed size"),
    "text as input": (broken(sets(lambda n, x, y: x, dtype="string")), "the input 't0' has a type"),
    "four bits": (broken(sets(lambda n, x, y: 4, dtype="int4")), "'t4' has a type without"),
    "empty": (broken(sets(lambda n, x, y: 4, shape=(1, 0))), r"shape \(1, 0\), which has no elements"),
    "negative": (broken(sets(lambda n, x, y: 4, shape=(1, -4))), r"shape \(1, -4\); allowed: sizes of 0 or more"),
    "huge": (broken(sets(lambda n, x, y: 4, shape=(2**31 - 1,) * 3)), "allowed: less than 2\\*\\*62"),
    "too little data": (broken(lambda n, x, y: n.buffers.__setitem__(1, b"1234")), "type float32 has 4 bytes of data"),
    "no such buffer": (broken(sets(lambda n, x, y: 4, buffer=9)), "has the buffer 9; allowed: 0 to 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(name):
    data, words = REFUSED[name]
    with pytest.raises(ReadError, match=words) as caught:
        read_tflite(data)
    assert str(caught.value).startswith("the bytes given: ")
    assert "\n" not in str(caught.value)


def test_errors_name_the_file(tmp_path):
    file = tmp_path / "bad.tflite"
    file.write_bytes(net(models.chain).write()[:500])
    with pytest.raises(ReadError, match=r"^bad\.tflite: "):
        read_tflite(file)
    file.write_bytes(b"")
    with pytest.raises(ReadError, match="it is empty"):
        read_tflite(file)
    for missing in (tmp_path / "none.tflite", tmp_path, "a\0b"):
        with pytest.raises(ReadError, match="cannot be read"):
            read_tflite(missing)
    with pytest.raises(ReadError, match="cannot read a int; allowed: a path or bytes"):
        read_tflite(3)


def test_a_missing_schema_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cnnlive\[tflite\]'"):
        read_tflite(b"")


def test_a_file_that_is_cut_is_an_error_wherever_it_is_cut():
    for dtype in DTYPES:
        data = net(models.residual, dtype).write()
        for end in range(0, len(data) - 8, 37):
            with pytest.raises(ReadError):
                read_tflite(data[:end])


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_give_a_graph_or_a_read_error(seed):
    rng = random.Random(seed)
    files = [models.random_net(seed).write(), net(models.NETS[seed], "int8").write()]
    for _ in range(150):
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            data[rng.randrange(len(data))] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
        with contextlib.suppress(ReadError):
            read_tflite(bytes(data))


def test_a_list_that_claims_more_than_the_file_holds_is_refused_at_once():
    data = bytearray(net(models.chain).write())
    table = tflite.Model.GetRootAs(bytes(data), 0)._tab
    for slot in (6, 8, 12):  # operator codes, subgraphs, buffers
        length = table.Vector(table.Offset(slot)) - 4
        worse = bytearray(data)
        struct.pack_into("<I", worse, length, 0xFFFFFFF0)
        with pytest.raises(ReadError, match="in a file of"):
            read_tflite(bytes(worse))
