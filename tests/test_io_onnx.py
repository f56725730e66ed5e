"""The ONNX reader against onnx's own shape inference, and against damaged and unsupported files."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import cnnlive
from cnnlive.errors import (
    CnnliveError,
    MissingExtraError,
    ReadError,
    ShapeError,
    UnknownOperatorError,
)
from cnnlive.graph import Tensor

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - only where onnx is installed

reader = importlib.import_module("cnnlive.io.onnx")

LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("light_*.onnx"))
NEWEST = onnx.defs.onnx_opset_version()
FLOAT = TensorProto.FLOAT


def value(name, shape, dtype=FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def stored(name, *shape, fill=None, dtype=np.float32):
    return numpy_helper.from_array(np.full(shape, 1 if fill is None else fill, dtype), name)


def ints(name, *numbers):
    return numpy_helper.from_array(np.asarray(numbers, np.int64), name)


def node(op, inputs, outputs="y", **attrs):
    return helper.make_node(op, inputs.split(" ") if inputs else [], outputs.split(), **attrs)


def model(nodes, inputs, initialisers=(), opset=NEWEST, outputs=("y",), **parts):
    nodes = [nodes] if isinstance(nodes, onnx.NodeProto) else list(nodes)
    if isinstance(inputs, tuple):
        inputs = [value("x", list(inputs))]
    graph = helper.make_graph(nodes, "net", inputs, [onnx.ValueInfoProto(name=o) for o in outputs], list(initialisers))
    # A low IR version, so that every onnx that this library supports reads what is written here.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **parts)


def known_shapes(proto):
    """Return every static shape that onnx's own inference knows."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    found = {}
    for info in [*inferred.value_info, *inferred.output, *inferred.input]:
        t = info.type.tensor_type
        if t.HasField("shape") and all(d.HasField("dim_value") for d in t.shape.dim):
            found[info.name] = tuple(d.dim_value for d in t.shape.dim)
    return found


def compare_with_onnx(proto, complete=True):
    """Read a model and hold every shape to onnx's, the outputs' among them; return the graph."""
    graph, values = reader._read(proto)
    expected = known_shapes(proto)
    assert not complete or {o.name for o in proto.graph.output} <= expected.keys()
    for name, shape in expected.items():
        assert values[name].shape == shape, name
    assert cnnlive.Graph.from_dict(graph.to_dict()).to_dict() == graph.to_dict()
    return graph


def weight_elements(proto):
    """Count the elements of what the nodes of a model read as weights; from the file alone."""
    sizes = {t.name: math.prod(t.dims) for t in proto.graph.initializer}
    vectors = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if t.data_type == TensorProto.INT64}
    origin = {}
    used = {}
    for n in proto.graph.node:
        if n.op_type == "ConstantOfShape":
            sizes[n.output[0]] = int(np.prod(vectors[n.input[0]]))
        elif n.op_type in ("Unsqueeze", "Reshape"):
            origin[n.output[0]] = n.input[0]
        else:
            for i in n.input:
                i = origin.get(i, i)  # noqa: PLW2901 - the stored tensor behind it
                if i in sizes:
                    used[i] = sizes[i]
    return sum(used.values())


# ---------------------------------------------------------------------------------- the nine CNNs


def test_the_wheel_of_onnx_ships_nine_cnns():
    assert len(LIGHT) == 9


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_every_shape_of_a_shipped_cnn_equals_onnx_own_inference(path):
    graph, values = reader._read(path)
    proto = onnx.load(path)
    expected = known_shapes(proto)
    compared = [name for name in values if name in expected]
    assert len(compared) == len(values)
    assert all(values[name].shape == expected[name] for name in compared)
    computing = [n for n in proto.graph.node if any(isinstance(values[o], Tensor) for o in n.output)]
    assert len(graph) - sum(graph.op_of(n) in ("input", "parameter") for n in graph.nodes()) == len(computing)


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_parameters_and_buffers_of_a_shipped_cnn_equal_the_elements_of_its_weights(path):
    graph = cnnlive.read_onnx(path)
    assert graph.n_parameters + graph.n_buffers == weight_elements(onnx.load(path))


# The published counts of the architectures; AlexNet, DenseNet and Inception differ from torchvision's in the
# layers of their Caffe originals.
PARAMETERS = {
    "light_resnet50": 25_557_032,
    "light_vgg19": 143_667_240,
    "light_bvlc_alexnet": 60_965_224,
    "light_squeezenet": 1_235_496,
    "light_inception_v1": 6_998_552,
}


@pytest.mark.parametrize(("stem", "n"), PARAMETERS.items())
def test_a_shipped_cnn_has_the_parameters_that_its_architecture_is_known_for(stem, n):
    graph = cnnlive.read_onnx(next(p for p in LIGHT if p.stem == stem))
    assert graph.n_parameters == n
    assert graph.name == stem + ".onnx"


def test_densenet_counts_its_scale_layers_beside_the_normalisations():
    graph = cnnlive.read_onnx(next(p for p in LIGHT if p.stem == "light_densenet121"))
    scale_layers = sum(graph.tensors_of(n)[0].shape[0] for n in graph.nodes() if graph.op_of(n) == "parameter")
    assert graph.n_buffers == scale_layers == 83_648
    assert graph.n_parameters == 7_978_856 + scale_layers  # torchvision's count, and theirs


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_a_shipped_cnn_is_planned(path):
    plan_module = pytest.importorskip("cnnlive.plan.inference")
    graph = cnnlive.read_onnx(path)
    plan = plan_module.plan_inference(graph)
    assert plan.weight_bytes >= 4 * (graph.n_parameters + graph.n_buffers)
    largest = max(
        math.prod(t.shape) for n in graph.nodes() for t in graph.tensors_of(n) if graph.op_of(n) != "parameter"
    )
    assert plan.activation_peak_bytes >= 4 * largest


# ---------------------------------------------------------------------------------- operators against onnx

W4 = [stored("w", 8, 4, 3, 3), stored("b", 8)]
X = (2, 4, 11, 14)
CONVS = {
    "plain": {},
    "pads": {"pads": [1, 0, 2, 3]},
    "strides": {"strides": [2, 3], "pads": [1, 1, 1, 1]},
    "dilations": {"dilations": [2, 3]},
    "same_upper": {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    "same_lower": {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
    "valid": {"auto_pad": "VALID", "strides": [2, 2]},
    "kernel": {"kernel_shape": [3, 3]},
}
POOLS = {
    "plain": {"kernel_shape": [3, 2]},
    "pads": {"kernel_shape": [3, 3], "pads": [1, 0, 2, 1], "strides": [2, 2]},
    "ceil": {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1},
    "ceil_pads": {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    "same": {"kernel_shape": [3, 3], "strides": [2, 3], "auto_pad": "SAME_UPPER"},
    "same_lower": {"kernel_shape": [2, 2], "strides": [2, 3], "auto_pad": "SAME_LOWER"},
    "valid": {"kernel_shape": [3, 2], "strides": [3, 3], "auto_pad": "VALID"},
}
TRANSPOSED = {
    "plain": {},
    "strides": {"strides": [2, 3], "pads": [1, 0, 0, 2]},
    "output_padding": {"strides": [2, 2], "output_padding": [1, 0]},
    "dilations": {"dilations": [2, 1]},
    "same": {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    "same_lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "valid": {"auto_pad": "VALID", "strides": [2, 2]},
    "output_shape": {"output_shape": [23, 30], "strides": [2, 2]},
    "large_output_shape": {"output_shape": [40, 50], "strides": [2, 2]},
}


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 22, NEWEST])
@pytest.mark.parametrize("case", CONVS)
def test_convolutions_have_the_shapes_of_onnx(case, opset):
    graph = compare_with_onnx(model(node("Conv", "x w b", **CONVS[case]), X, W4, opset))
    assert graph.n_parameters == 8 * 4 * 9 + 8


@pytest.mark.parametrize("opset", [7, 10, 11, 18, NEWEST])
@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_have_the_shapes_of_onnx(op, case, opset):
    attrs = POOLS[case]
    if "ceil_mode" in attrs and opset < 10:
        attrs = {k: v for k, v in attrs.items() if k != "ceil_mode"}
    compare_with_onnx(model(node(op, "x", **attrs), X, (), opset))


@pytest.mark.parametrize("opset", [7, 11, NEWEST])
@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions_have_the_shapes_of_onnx(case, opset):
    initialisers = [stored("w", 4, 3, 3, 4), stored("b", 6)]
    graph = compare_with_onnx(
        model(node("ConvTranspose", "x w b", group=2, **TRANSPOSED[case]), X, initialisers, opset)
    )
    assert graph.n_parameters == 4 * 3 * 12 + 6


def resize(opset, **parts):
    """Return a case: a Resize of `X`, its constants, and the opset."""
    names = ["x", "", "scales" if "scales" in parts else "", "sizes" if "sizes" in parts else ""]
    given = [numpy_helper.from_array(np.asarray(parts["scales"], np.float32), "scales")] if "scales" in parts else []
    given += [ints("sizes", *parts["sizes"])] if "sizes" in parts else []
    attrs = {k: v for k, v in parts.items() if k not in ("scales", "sizes")}
    while not names[-1]:
        names.pop()
    return helper.make_node("Resize", names, ["y"], **attrs), X, given, opset


# name: (nodes, input shape, initialisers, opset)
CASES = {
    "conv1d": (node("Conv", "x w"), (2, 4, 9), [stored("w", 6, 2, 3)], 22, {"group": 2}),
    "conv3d": (node("Conv", "x w"), (1, 2, 5, 6, 7), [stored("w", 3, 2, 2, 2, 2)], 22),
    "max_pool_indices": (node("MaxPool", "x", "y i", kernel_shape=[2, 2]), X, [], 22),
    "max_pool_dilated": (node("MaxPool", "x", kernel_shape=[3, 3], dilations=[2, 3]), X, [], 22),
    "average_pool_dilated": (node("AveragePool", "x", kernel_shape=[3, 3], dilations=[2, 3]), X, [], 22),
    "global_average": (node("GlobalAveragePool", "x"), X, [], 22),
    "global_max_3d": (node("GlobalMaxPool", "x"), (1, 2, 3, 4, 5), [], 22),
    "gemm": (node("Gemm", "x w b"), (2, 5), [stored("w", 5, 7), stored("b", 7)], 13),
    "gemm_trans_b": (node("Gemm", "x w b", transB=1), (2, 5), [stored("w", 7, 5), stored("b", 1, 7)], 7),
    "gemm_trans_a": (node("Gemm", "x w", transA=1), (5, 2), [stored("w", 5, 7)], 13),
    "gemm_odd_c": (node("Gemm", "x w c"), (2, 5), [stored("w", 5, 7), stored("c", 2, 1)], 13),
    "matmul": (node("MatMul", "x w"), (2, 3, 5), [stored("w", 5, 7)], 13),
    "matmul_batched_weight": (node("MatMul", "x w"), (2, 3, 5), [stored("w", 2, 5, 7)], 13),
    "matmul_weight_first": (node("MatMul", "w x"), (5, 3), [stored("w", 4, 5)], 13),
    "batch_norm_7": (
        node("BatchNormalization", "x s s2 m v"),
        X,
        [stored(n, 4) for n in ("s", "s2", "m", "v")],
        7,
    ),
    "batch_norm": (
        node("BatchNormalization", "x s s2 m v"),
        X,
        [stored(n, 4) for n in ("s", "s2", "m", "v")],
        15,
    ),
    "instance_norm": (node("InstanceNormalization", "x s b"), X, [stored("s", 4), stored("b", 4)], 22),
    "layer_norm": (
        node("LayerNormalization", "x s b", axis=-2),
        (2, 3, 5, 6),
        [stored("s", 5, 6), stored("b", 5, 6)],
        17,
    ),
    "layer_norm_no_bias": (node("LayerNormalization", "x s"), (2, 3, 6), [stored("s", 6)], 17),
    "lrn": (node("LRN", "x", size=3), X, [], 13),
    "softmax_7": (node("Softmax", "x"), (2, 5), [], 7),
    "log_softmax": (node("LogSoftmax", "x", axis=1), X, [], 13),
    "prelu": (node("PRelu", "x s"), X, [stored("s", 4, 1, 1)], 16),
    "prelu_single": (node("PRelu", "x s"), X, [stored("s", 1)], 9),
    "prelu_per_pixel": (node("PRelu", "x s"), X, [stored("s", 11, 14)], 9),
    "clip_6": (node("Clip", "x", min=0.0, max=6.0), X, [], 7),
    "clip_13": (node("Clip", "x lo hi"), X, [stored("lo", fill=0), stored("hi", fill=6)], 13),
    "add_vector": (node("Add", "x w"), X, [stored("w", 4, 1, 1)], 13),
    "add_wider": (node("Add", "x w"), (4, 1), [stored("w", 3, 1, 5)], 13),
    "sum_3": (node("Sum", "x x x"), X, [], 13),
    "mean_2": (node("Mean", "x x"), X, [], 13),
    "mean_1": (node("Mean", "x"), X, [], 13),
    "mean_3": (node("Mean", "x x x"), X, [], 13),
    "max_3": (node("Max", "x w x"), X, [stored("w", 4, 1, 1)], 13),
    "min_1": (node("Min", "x"), X, [], 13),
    "pow": (node("Pow", "x w"), X, [stored("w", fill=2)], 13),
    "concat": (node("Concat", "x w x", axis=-1), X, [stored("w", 2, 4, 11, 1)], 13),
    "split_attribute": (node("Split", "x", "y z", axis=1, split=[1, 3]), X, [], 7),
    "split_input": (node("Split", "x s", "y z", axis=-1), X, [ints("s", 5, 9)], 13),
    "split_equal": (node("Split", "x", "y z", axis=3), X, [], 11),
    "split_number": (node("Split", "x", "y z w", axis=2, num_outputs=3), X, [], 18),
    "slice_attributes": (node("Slice", "x", starts=[1, 2], ends=[9, 1000], axes=[2, 3]), X, [], 9),
    "slice_inputs": (
        node("Slice", "x s e a t"),
        X,
        [ints("s", -1, 0), ints("e", -(2**63) + 1, 2**63 - 1), ints("a", 3, 1), ints("t", -2, 2)],
        13,
    ),
    "slice_no_axes": (node("Slice", "x s e"), X, [ints("s", 0, 1), ints("e", 2, 3)], 13),
    "pad_attribute": (node("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 3, 4], mode="reflect"), X, [], 7),
    "pad_input": (node("Pad", "x p", mode="edge"), X, [ints("p", 0, 1, 1, 2, 0, 0, 3, -4)], 13),
    "pad_axes": (node("Pad", "x p  a"), X, [ints("p", 1, 2, 3, 4), ints("a", 3, -2)], 18),
    "reshape": (node("Reshape", "x s"), X, [ints("s", 0, 2, -1, 7)], 13),
    "reshape_batch": (node("Reshape", "x s"), X, [ints("s", 2, -1)], 7),
    "reshape_groups": (node("Reshape", "x s"), X, [ints("s", 4, 2, 11, 14)], 7),
    "flatten": (node("Flatten", "x"), X, [], 7),
    "flatten_0": (node("Flatten", "x", axis=0), X, [], 9),
    "flatten_2": (node("Flatten", "x", axis=2), X, [], 13),
    "flatten_negative": (node("Flatten", "x", axis=-1), X, [], 13),
    "squeeze_attribute": (node("Squeeze", "x", axes=[1, 3]), (2, 1, 5, 1), [], 7),
    "squeeze_input": (node("Squeeze", "x a"), (2, 1, 5, 1), [ints("a", -1)], 13),
    "squeeze_all": (node("Squeeze", "x"), (1, 3, 1, 5), [], 13),
    "unsqueeze_attribute": (node("Unsqueeze", "x", axes=[0, 3]), (2, 3), [], 7),
    "unsqueeze_input": (node("Unsqueeze", "x a"), (2, 3), [ints("a", -1, 1)], 13),
    "transpose": (node("Transpose", "x", perm=[0, 2, 3, 1]), X, [], 13),
    "transpose_default": (node("Transpose", "x"), (2, 3, 5), [], 7),
    "expand": (node("Expand", "x s"), (2, 1, 5), [ints("s", 4, 1)], 13),
    "expand_wider": (node("Expand", "x s"), (3, 1), [ints("s", 2, 1, 6)], 13),
    "tile": (node("Tile", "x r"), X, [ints("r", 1, 1, 3, 1)], 13),
    "gather_scalar": (node("Gather", "x i", axis=2), X, [stored("i", fill=-1, dtype=np.int64)], 13),
    "gather_range": (node("Gather", "x i", axis=3), X, [ints("i", 3, 2, 1, 0)], 13),
    "depth_to_space": (node("DepthToSpace", "x", blocksize=2), X, [], 13),
    "space_to_depth": (node("SpaceToDepth", "x", blocksize=2), (1, 3, 4, 6), [], 13),
    "upsample_7": (node("Upsample", "x", scales=[1.0, 1.0, 2.0, 1.5]), X, [], 7),
    "upsample_9": (node("Upsample", "x s"), X, [numpy_helper.from_array(np.float32([1, 1, 2, 0.6]), "s")], 9),
    "resize_10": (node("Resize", "x s"), X, [numpy_helper.from_array(np.float32([1, 1, 0.3, 3]), "s")], 10),
    "resize_scales": resize(13, scales=[1, 1, 1.7, 0.6], mode="linear"),
    "resize_sizes": resize(13, sizes=[2, 4, 20, 7], mode="cubic"),
    "resize_axes": resize(18, sizes=[20, 7], axes=[3, 2]),
    "resize_not_larger": resize(18, sizes=[20, 20], axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    "reduce_mean": (node("ReduceMean", "x", axes=[2, 3]), X, [], 13),
    "reduce_mean_18": (node("ReduceMean", "x a", keepdims=0), X, [ints("a", -1, 2)], 18),
    "reduce_sum": (node("ReduceSum", "x a", keepdims=0), X, [ints("a", 1)], 13),
    "reduce_max_all": (node("ReduceMax", "x"), X, [], 13),
    "argmax": (node("ArgMax", "x", axis=1, keepdims=0), X, [], 13),
    "argmax_kept": (node("ArgMax", "x", axis=-1), X, [], 18),
    "reduce_l2": (node("ReduceL2", "x", axes=[2, 3]), X, [], 13),
    "reduce_l1_all": (node("ReduceL1", "x", keepdims=1), X, [], 18),
    "reduce_noop": (node("ReduceSum", "x", noop_with_empty_axes=1), X, [], 13),
    "dropout": (node("Dropout", "x", "y mask"), X, [], 7),
    "dropout_13": (node("Dropout", "x r"), X, [stored("r", fill=0.25)], 13),
    "cast": (node("Cast", "x", to=TensorProto.FLOAT16), X, [], 13),
    "cast_like": (node("CastLike", "x l"), X, [stored("l", 1, dtype=np.float64)], 15),
    "quantize": (
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")],
        X,
        [stored("s", fill=0.5), stored("z", fill=0, dtype=np.int8)],
        13,
    ),
}
UNARY = [
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "HardSigmoid",
    "Exp",
    "Log",
    "Sqrt",
    "Abs",
    "Neg",
    "Reciprocal",
    "Floor",
    "Erf",
    "Identity",
    "HardSwish",
    "Mish",
    "Celu",
    "Gelu",
]


@pytest.mark.parametrize("case", CASES)
def test_operators_have_the_shapes_of_onnx(case):
    nodes, shape, initialisers, opset, *attrs = CASES[case]
    if attrs:
        nodes = helper.make_node(nodes.op_type, nodes.input, nodes.output, **attrs[0])
    outputs = [o for n in ([nodes] if isinstance(nodes, onnx.NodeProto) else nodes[-1:]) for o in n.output]
    outputs = [o for o in outputs if o != "mask"]
    compare_with_onnx(model(nodes, shape, initialisers, opset, outputs))


@pytest.mark.parametrize("op", UNARY)
def test_activations_keep_the_shape(op):
    graph = compare_with_onnx(model(node(op, "x"), X, (), NEWEST if op == "Gelu" else 18))
    assert len(graph) == 2


@pytest.mark.parametrize(("opset", "n"), [(18, 2), (21, 4)])
def test_group_normalisation_holds_a_scale_per_group_before_opset_21_and_per_channel_since(opset, n):
    nodes = node("GroupNormalization", "x s b", num_groups=2)
    graph = cnnlive.read_onnx(model(nodes, X, [stored("s", n), stored("b", n)], opset))
    assert graph.n_parameters == 2 * n
    assert [t.shape for t in graph.outputs] == [X]


def test_a_clip_to_0_and_6_is_relu6_and_a_maximum_with_0_is_relu():
    bounds = [stored("lo", fill=0), stored("hi", fill=6)]
    assert cnnlive.read_onnx(model(node("Clip", "x lo hi"), X, bounds)).op_of("y") == "relu6"
    assert cnnlive.read_onnx(model(node("Clip", "x lo"), X, bounds)).op_of("y") == "relu"
    nodes = [node("Constant", "", "zero", value_float=0.0), node("Max", "x zero")]
    assert cnnlive.read_onnx(model(nodes, X)).op_of("y") == "relu"


def test_older_opsets_give_the_limits_of_clip_as_attributes():
    graph = cnnlive.read_onnx(model(node("Clip", "x", min=-1.0), X, (), 7))
    assert graph.attributes("y") == {"min": -1.0, "max": None, "inplace": False}


# ---------------------------------------------------------------------------------- constants


def test_numbers_written_into_the_graph_are_no_weights():
    nodes = [
        node("Constant", "", "two", value=numpy_helper.from_array(np.float32(2))),
        node("Mul", "x two", "a"),
        node("Div", "a two", "b"),
        node("Sub", "two b", "c"),
        node("Add", "c two", "y"),
    ]
    graph = cnnlive.read_onnx(model(nodes, X))
    assert [graph.op_of(n) for n in graph.nodes()] == ["input", *["scale"] * 4]
    assert graph.n_parameters == graph.n_buffers == 0


def test_a_chain_that_computes_a_shape_leaves_no_ops():
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n axis", "n1"),
        node("Slice", "s one four", "rest"),
        node("ReduceProd", "rest", "p"),
        node("Concat", "n1 p", "target", axis=0),
        node("Reshape", "x target"),
    ]
    constants = [stored("zero", fill=0, dtype=np.int64), ints("axis", 0), ints("one", 1), ints("four", 4)]
    proto = model(nodes, X, constants, 13)
    graph = compare_with_onnx(proto, complete=False)  # onnx does not follow the product
    assert graph.nodes() == ["x", "y"]
    assert graph.attributes("y") == {"shape": (0, 4 * 11 * 14)}


def test_arithmetic_on_shapes_is_done():
    nodes = [
        node("Shape", "x", "s", start=2),
        node("Cast", "s", "f", to=FLOAT),
        node("Mul", "f half", "g"),
        node("Floor", "g", "h"),
        node("Cast", "h", "hw", to=TensorProto.INT64),
        node("Shape", "x", "nc", end=2),
        node("Concat", "nc hw", "sizes", axis=0),
        node("Resize", "x  sizes"),
    ]
    nodes[-1].input[:] = ["x", "", "", "sizes"]
    graph = cnnlive.read_onnx(model(nodes, X, [stored("half", fill=0.5)]))
    assert graph.nodes() == ["x", "y"]
    assert graph.outputs[0].shape == (2, 4, 5, 7)


FOLDED = {
    "Range": (
        [node("Range", "a b c", "t")],
        [
            stored("a", fill=1, dtype=np.int64),
            stored("b", fill=8, dtype=np.int64),
            stored("c", fill=3, dtype=np.int64),
        ],
        [1, 4, 7],
    ),
    "Where": (
        [node("Equal", "a b", "q"), node("Where", "q a c", "t")],
        [ints("a", -1, 7), ints("b", -1, 2), ints("c", 28, 4)],
        [-1, 4],
    ),
    "Expand": ([node("Expand", "a b", "t")], [ints("a", 2), ints("b", 2)], [2, 2]),
    "Tile": ([node("Tile", "a b", "t")], [ints("a", 1, 2), ints("b", 2)], [1, 2, 1, 2]),
    "ConstantOfShape": (
        [helper.make_node("ConstantOfShape", ["a"], ["t"], value=ints("v", 3))],
        [ints("a", 2)],
        [3, 3],
    ),
    "Squeeze": (
        [node("Unsqueeze", "a b", "q"), node("Squeeze", "q b", "t")],
        [ints("a", 4, 7), ints("b", 0)],
        [4, 7],
    ),
    "Transpose": (
        [
            node("Reshape", "a b", "q"),
            node("Transpose", "q", "p"),
            node("Flatten", "p", "f", axis=0),
            node("Squeeze", "f z", "t"),
        ],
        [ints("a", 1, 2, 3, 4), ints("b", 2, 2), ints("z", 0)],
        [1, 3, 2, 4],
    ),
    "Split": ([node("Split", "a", "t u", axis=0)], [ints("a", 4, 7, 9, 9)], [4, 7]),
    "Div": ([node("Div", "a b", "t")], [ints("a", -7, 7), ints("b", 2, 2)], [-3, 3]),
    "Min": (
        [node("Min", "a b", "q"), node("Max", "q c", "t")],
        [ints("a", 1, 9), ints("b", 3, 3), ints("c", 2, 2)],
        [2, 3],
    ),
    "Size": ([node("Size", "x", "q"), node("Unsqueeze", "q z", "t")], [ints("z", 0)], [24]),
    "Sqrt": (
        [
            node("Cast", "a", "f", to=FLOAT),
            node("Sqrt", "f", "g"),
            node("Ceil", "g", "h"),
            node("Cast", "h", "t", to=TensorProto.INT64),
        ],
        [ints("a", 9, 10)],
        [3, 4],
    ),
    "Mod": (
        [node("Mod", "a b", "q"), node("Neg", "q", "p"), node("Abs", "p", "o"), node("Pow", "o b", "t")],
        [ints("a", 5, 6), ints("b", 3, 4)],
        [8, 16],
    ),
    "ReduceSum": ([node("ReduceSum", "a", "t")], [ints("a", 5, 6)], [11]),
}


@pytest.mark.parametrize("case", FOLDED)
def test_constants_are_folded_to_the_right_values(case):
    nodes, constants, expected = FOLDED[case]
    _, values = reader._read(model([*nodes, node("Relu", "x")], (4, 6), constants, 13))
    assert values["t"].known().tolist() == expected


def test_weights_made_by_constant_of_shape_and_by_constants_are_weights():
    kernel = numpy_helper.from_array(np.ones((8, 4, 3, 3), np.float32))
    nodes = [
        node("ConstantOfShape", "s", "b"),
        node("Constant", "", "w", value=kernel),
        node("Conv", "x w b"),
    ]
    graph = cnnlive.read_onnx(model(nodes, X, [ints("s", 8)]))
    assert graph.nodes() == ["x", "y"]
    assert graph.n_parameters == 8 * 4 * 9 + 8


def test_a_reshaped_weight_is_the_same_weight():
    nodes = [
        node("Unsqueeze", "w a", "w2"),
        node("Unsqueeze", "w a", "w3"),
        node("Mul", "x w2", "p"),
        node("Add", "p w3"),
    ]
    graph = cnnlive.read_onnx(model(nodes, X, [stored("w", 4), ints("a", 1, 2)]))
    assert graph.n_parameters == 4
    assert [graph.op_of(n) for n in graph.nodes()] == ["input", "parameter", "mul", "add"]


def test_a_weight_computed_from_large_weights_is_folded_by_its_shape():
    nodes = [node("Mul", "w s", "u"), node("Concat", "u w", "v", axis=0), node("Conv", "x v")]
    graph = cnnlive.read_onnx(model(nodes, X, [stored("w", 64, 4, 5, 5), stored("s", 64, 1, 1, 1)]))
    assert graph.n_parameters == 128 * 4 * 25


def test_a_dequantised_weight_is_a_weight():
    nodes = [node("DequantizeLinear", "q s", "w"), node("Conv", "x w")]
    graph = cnnlive.read_onnx(model(nodes, X, [stored("q", 8, 4, 3, 3, dtype=np.int8), stored("s", fill=0.1)]))
    assert graph.nodes() == ["x", "y"]
    assert graph.n_parameters == 8 * 4 * 9


def test_external_weight_data_is_never_opened(tmp_path):
    proto = model(node("Conv", "x w b"), X, [stored("w", 8, 4, 3, 3), stored("b", 8)])
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    graph = cnnlive.read_onnx(tmp_path / "net.onnx")
    assert graph.n_parameters == 8 * 4 * 9 + 8
    assert graph.name == "net.onnx"


def test_a_shape_stored_in_external_data_is_an_error(tmp_path):
    proto = model(node("Reshape", "x s"), X, [ints("s", 2, -1)])
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ReadError, match=r"net\.onnx: y \(Reshape\).*'s'.*outside the file"):
        cnnlive.read_onnx(tmp_path / "net.onnx")


# ---------------------------------------------------------------------------------- weights that are shared


def test_a_convolution_used_twice_counts_once():
    nodes = [node("Conv", "x w b", "p", pads=[1] * 4), node("Conv", "p w b", pads=[1] * 4)]
    graph = cnnlive.read_onnx(model(nodes, X, [stored("w", 4, 4, 3, 3), stored("b", 4)]))
    assert graph.n_parameters == 4 * 4 * 9 + 4
    assert graph.nx.nodes["y"]["tied"] == {"weight": "p", "bias": "p"}


def test_a_shared_weight_with_a_bias_of_its_own_counts_once():
    nodes = [node("Conv", "x w b", "p", pads=[1] * 4), node("Conv", "p w c", pads=[1] * 4)]
    graph = cnnlive.read_onnx(model(nodes, X, [stored("w", 4, 4, 3, 3), stored("b", 4), stored("c", 4)]))
    assert graph.n_parameters == 4 * 4 * 9 + 8
    assert graph.nx.nodes["y"]["tied"] == {"weight": "p"}


@pytest.mark.parametrize(
    ("inputs", "unique"),
    [
        ("s b m v", 4),
        ("s b b v", 3),
        ("s b m s", 3),
        ("v v v v", 1),
        ("s b2 m2 v", 6),
        ("s b m2 v", 5),
        ("s2 b m v", 5),
    ],
)
def test_vectors_of_normalisations_shared_in_any_way_count_once(inputs, unique):
    nodes = [node("BatchNormalization", "x s b m v", "p"), node("BatchNormalization", f"p {inputs}")]
    names = sorted({*"sbmv", *inputs.split()})
    graph = cnnlive.read_onnx(model(nodes, X, [stored(n, 4) for n in names]))
    assert graph.n_parameters + graph.n_buffers == 4 * len(names)
    alone = cnnlive.read_onnx(model(node("BatchNormalization", f"x {inputs}"), X, [stored(n, 4) for n in names]))
    assert alone.n_parameters + alone.n_buffers == 4 * len(set(inputs.split()))
    assert unique >= 1


def test_a_vector_that_is_a_bias_and_an_operand_counts_once():
    nodes = [node("Conv", "x w b", "p"), node("Conv", "x w2 b", "q"), node("Add", "p q")]
    graph = cnnlive.read_onnx(model(nodes, X, [stored("w", 8, 4, 3, 3), stored("w2", 8, 4, 3, 3), stored("b", 8)]))
    assert graph.n_parameters == 2 * 8 * 4 * 9 + 8


def test_a_constant_is_one_parameter_whatever_shape_it_is_read_in():
    nodes = [node("Reshape", "w s", "w2"), node("Add", "x w2", "p"), node("Mul", "p w")]
    graph = cnnlive.read_onnx(model(nodes, (2, 3, 6), [stored("w", 3, 6), ints("s", 1, 3, 6)]))
    assert graph.n_parameters == 18
    assert [graph.op_of(n) for n in graph.nodes()] == ["input", "parameter", "add", "reshape", "mul"]


def test_a_weight_that_is_an_operand_too_counts_once():
    first = [node("Mul", "x w", "p"), node("Conv", "p w")]
    then = [node("Conv", "x w", "p"), node("Mul", "w p")]
    for nodes in (first, then):
        graph = cnnlive.read_onnx(model(nodes, (3, 3, 1, 1), [stored("w", 3, 3, 1, 1)]))
        assert graph.n_parameters == 9


def test_a_gemm_of_two_activations_is_a_product_and_a_sum():
    graph = compare_with_onnx(model(node("Gemm", "x x x", transB=1), (5, 5), (), 13))
    assert [graph.op_of(n) for n in graph.nodes()] == ["input", "transpose", "matmul", "add"]


def test_a_matrix_shared_with_its_transpose_counts_once():
    nodes = [node("Gemm", "x w", "p"), node("Gemm", "p w", transB=1)]
    graph = compare_with_onnx(model(nodes, (2, 5), [stored("w", 5, 7)]))
    assert graph.n_parameters == cnnlive.lower(graph).n_parameters == 35
    assert graph.nx.nodes["y"]["tied"] == {"weight": "p"}


def test_a_shared_weight_is_tied_to_the_op_that_holds_it_not_to_one_of_its_shape():
    nodes = [node("Conv", "x a", "p"), node("Conv", "x b", "q"), node("Conv", "q b")]
    graph = cnnlive.read_onnx(model(nodes, X, [stored("a", 4, 4, 1, 1), stored("b", 4, 4, 1, 1)]))
    assert graph.nx.nodes["y"]["tied"] == {"weight": "q"}
    assert graph.n_parameters == 32


def test_an_untrained_normalisation_whose_equal_vectors_are_stored_once_still_folds():
    # Exporters store equal tensors once: before training scale and variance are ones, bias and mean zeros.
    nodes = [node("Conv", "x w", "p"), node("BatchNormalization", "p one zero zero one", "q"), node("Relu", "q")]
    graph = cnnlive.read_onnx(model(nodes, X, [stored("w", 8, 4, 3, 3), stored("one", 8), stored("zero", 8, fill=0)]))
    assert (graph.n_parameters, graph.n_buffers) == (8 * 4 * 9 + 16, 0)
    assert graph.nx.nodes["q"]["tied"] == {"buffer": "q"}
    assert cnnlive.lower(graph).fused().op_names == ("x", "p+q+y")


# ---------------------------------------------------------------------------------- what exporters write


def test_a_gather_of_scattered_or_many_indices_is_a_copy():
    for index in (ints("i", 0, 2, 3), stored("i", 1, 2, 2, dtype=np.int64)):
        graph = compare_with_onnx(model(node("Gather", "x i", axis=1), X, [index]))
        assert [graph.op_of(n) for n in graph.nodes()] == ["input", "parameter", "gather"]
        assert graph.n_buffers == math.prod(index.dims)
        assert graph.outputs[0].dtype == "float32"
        plan = cnnlive.plan_inference(graph, batch=3)
        assert plan.output_bytes == 3 * 4 * math.prod(graph.outputs[0].shape[1:])


def test_an_index_stored_outside_the_file_is_read_by_its_shape(tmp_path):
    proto = model(node("Gather", "x i", axis=1), X, [ints("i", 0, 1)])
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert cnnlive.read_onnx(tmp_path / "net.onnx").outputs[0].shape == (X[0], 2, *X[2:])


def test_padding_that_the_file_computes_and_clips_is_folded():
    # TensorFlow's "same" padding in PyTorch: max(0, what the window lacks), computed from the input's shape.
    nodes = [
        node("Shape", "x", "s"),
        node("Sub", "s big", "less"),
        node("Clip", "less zero ", "pads0"),
        node("Slice", "pads0 two four", "spatial"),
        node("Concat", "none spatial none one2", "pads", axis=0),
        node("Pad", "x pads"),
    ]
    numbers = [ints("big", 1, 1, 100, 4), stored("zero", fill=0, dtype=np.int64), ints("two", 2), ints("four", 4),
               ints("none", 0, 0), ints("one2", 1, 1)]  # fmt: skip
    graph, _ = reader._read(model(nodes, (1, 4, 9, 7), numbers))
    assert graph.outputs[0].shape == (1, 4, 0 + 9 + 1, 3 + 7 + 1)


def test_a_clip_of_a_constant_by_attributes_is_folded():
    nodes = [
        node("Clip", "f", "g", min=0.0, max=3.0),
        node("Cast", "g", "s", to=TensorProto.INT64),
        node("Tile", "x s"),
    ]
    graph = cnnlive.read_onnx(model(nodes, (2, 6), [numpy_helper.from_array(np.array([1, 7], np.float32), "f")], 10))
    assert graph.outputs[0].shape == (2, 18)


def test_weights_that_the_file_standardises_count_once_and_are_no_activations():
    nodes = [
        node("Reshape", "w flat", "rows"),
        node("BatchNormalization", "rows gain zero zero one", "standard"),
        node("Reshape", "standard back", "weight"),
        node("Conv", "x weight"),
    ]
    vectors = [stored(n, 8) for n in ("gain", "zero", "one")]
    numbers = [ints("flat", 1, 8, -1), ints("back", 8, 4, 3, 3)]
    graph = compare_with_onnx(model(nodes, X, [stored("w", 8, 4, 3, 3), *vectors, *numbers]))
    assert graph.nodes() == ["x", "y"]
    assert graph.n_parameters == 8 * 4 * 9


def test_a_constant_cast_like_an_activation_is_a_constant():
    nodes = [node("CastLike", "zero x", "z"), node("Expand", "z n", "b"), node("Conv", "x w b")]
    graph = compare_with_onnx(model(nodes, X, [stored("zero", fill=0), ints("n", 8), stored("w", 8, 4, 3, 3)]))
    assert graph.nodes() == ["x", "y"]
    assert graph.n_parameters == 8 * 4 * 9 + 8


def test_a_cast_like_nothing_is_an_error():
    with pytest.raises(ReadError, match=r"z \(CastLike\): reads constants only"):
        cnnlive.read_onnx(model([node("CastLike", "zero ", "z"), node("Add", "x z")], X, [stored("zero", fill=0)]))


# ---------------------------------------------------------------------------------- names, inputs, outputs


def test_unnamed_nodes_take_the_name_of_their_first_output_and_names_stay_unique():
    nodes = [node("Relu", "x", "a"), node("Relu", "a", "b"), node("Relu", "b", "c"), node("Relu", "c")]
    nodes[1].name = "act"
    nodes[2].name = "act"
    nodes[3].name = "x"
    assert cnnlive.read_onnx(model(nodes, X)).nodes() == ["x", "a", "act", "act_1", "x_1"]


def test_inputs_with_an_initialiser_are_weights():
    inputs = [value("x", list(X)), value("w", [8, 4, 3, 3]), value("b", [8])]
    graph = cnnlive.read_onnx(model(node("Conv", "x w b"), inputs, W4, 7))
    assert [t.node for t in graph.inputs] == ["x"]


def test_a_file_is_read_from_a_path_from_text_from_bytes_and_from_memory(tmp_path):
    proto = model(node("Relu", "x"), X)
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    graphs = [
        cnnlive.read_onnx(s, name="n")
        for s in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), proto)
    ]
    assert all(g.to_dict() == graphs[0].to_dict() for g in graphs)
    assert cnnlive.read_onnx(proto).name == "net"


def test_marked_outputs_are_the_outputs_of_the_file():
    nodes = [node("Relu", "x", "a"), node("Sigmoid", "a", "y"), node("Tanh", "a", "z")]
    graph = cnnlive.read_onnx(model(nodes, X, outputs=("z", "a")))
    assert [t.node for t in graph.outputs] == ["z", "a"]


def test_an_open_batch_is_one_and_other_open_dimensions_need_input_shapes():
    proto = model(node("Relu", "x"), [value("x", ["n", 3, "height", None])])
    with pytest.raises(
        ReadError, match=r"'x' of shape \(n, 3, height, \?\) leaves dimension 2, 'height', open.*input_shapes"
    ):
        cnnlive.read_onnx(proto)
    assert cnnlive.read_onnx(proto, input_shapes={"x": (2, 3, 8, 9)}).outputs[0].shape == (2, 3, 8, 9)
    proto = model(node("Relu", "x"), [value("x", ["n", 3, 8, 9])])
    assert cnnlive.read_onnx(proto).outputs[0].shape == (1, 3, 8, 9)


def test_input_shapes_may_change_the_batch_and_nothing_else_that_the_file_fixes():
    proto = model(node("Relu", "x"), (1, 3, 8, 9))
    assert cnnlive.read_onnx(proto, input_shapes={"x": [4, 3, 8, 9]}).outputs[0].shape == (4, 3, 8, 9)
    with pytest.raises(ReadError, match=r"whose dimension 1 is 3"):
        cnnlive.read_onnx(proto, input_shapes={"x": (1, 4, 8, 9)})
    with pytest.raises(ReadError, match=r"has 4 dimensions, \(1, 3, 8, 9\)"):
        cnnlive.read_onnx(proto, input_shapes={"x": (1, 4)})
    with pytest.raises(ReadError, match=r"names 'img', which is not an input; allowed: x"):
        cnnlive.read_onnx(proto, input_shapes={"img": (1, 4)})
    with pytest.raises(ReadError, match="a sequence of integers"):
        cnnlive.read_onnx(proto, input_shapes={"x": "huge"})
    with pytest.raises(ReadError, match="at least 1"):
        cnnlive.read_onnx(proto, input_shapes={"x": (0, 3, 8, 9)})


def test_an_input_without_a_shape_needs_input_shapes():
    proto = model(node("Relu", "x"), [value("x", None)])
    with pytest.raises(ReadError, match="'x' has no shape in the file; give it: input_shapes"):
        cnnlive.read_onnx(proto)
    assert cnnlive.read_onnx(proto, input_shapes={"x": (1, 2)}).outputs[0].shape == (1, 2)


def test_a_reshape_follows_the_batch():
    nodes = [node("Reshape", "x s", "p"), node("Reshape", "p t")]
    graph = cnnlive.read_onnx(model(nodes, X, [ints("s", 4, 2, 11, 14), ints("t", 2, 4, -1)]))
    assert graph.attributes("p")["shape"] == (-1, 2, 11, 14)
    assert graph.attributes("y")["shape"] == (-1, 4, 154)


def test_functions_of_the_file_are_inlined():
    body = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["o"])]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("custom", "Swish2", ["a"], ["o"], body, opsets)
    graph = helper.make_graph(
        [helper.make_node("Swish2", ["x"], ["y"], domain="custom")],
        "net",
        [value("x", [1, 2])],
        [value("y", None)],
    )
    proto = helper.make_model(
        graph, opset_imports=[*opsets, helper.make_opsetid("custom", 1)], functions=[function], ir_version=8
    )
    read = cnnlive.read_onnx(proto)
    assert [read.op_of(n) for n in read.nodes()] == ["input", "sigmoid", "mul"]


# ---------------------------------------------------------------------------------- errors


def if_model():
    branch = helper.make_graph([node("Relu", "x", "r")], "branch", [], [value("r", None)])
    return model(
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch, name="choose"),
        X,
        [stored("c", fill=True, dtype=bool)],
    )


def test_control_flow_is_an_error_that_names_the_node():
    with pytest.raises(UnknownOperatorError, match=r"choose \(If\): control flow cannot be planned"):
        cnnlive.read_onnx(if_model())


@pytest.mark.parametrize("op", ["LSTM", "NonMaxSuppression", "Nonsense"])
def test_an_unknown_operator_is_an_error_that_names_the_node(op):
    with pytest.raises(UnknownOperatorError, match=rf"y \({op}\): the operator '{op}'"):
        cnnlive.read_onnx(model(node(op, "x"), X))


def test_an_operator_of_another_domain_is_an_error():
    with pytest.raises(UnknownOperatorError, match=r"y \(FusedConv\).*domain 'com\.microsoft'"):
        cnnlive.read_onnx(model(node("FusedConv", "x", domain="com.microsoft"), X))


@pytest.mark.parametrize("opset", [1, 6, NEWEST + 1])
def test_an_opset_outside_the_range_is_an_error(opset):
    with pytest.raises(ReadError, match=rf"opset {opset}; allowed: 7 to {NEWEST}"):
        cnnlive.read_onnx(model(node("Relu", "x"), X, (), opset))


def test_what_is_not_a_model_is_an_error(tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("not a model at all, only words " * 9)
    for source, words in [
        (tmp_path / "missing.onnx", r"missing\.onnx' cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory|Permission"),
        (tmp_path / "empty.onnx", r"empty\.onnx' cannot be read as ONNX: it is empty"),
        (tmp_path / "text.onnx", r"text\.onnx' is damaged or not ONNX"),
        (b"", "it is empty"),
        (b"\xff" * 40, "the bytes given is damaged|are damaged|damaged or not ONNX"),
        ("nul\0byte", "cannot be read"),
        (7, "cannot read a int; allowed: a path, bytes or an onnx.ModelProto"),
        (onnx.ModelProto(), "holds no graph"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
    ]:
        with pytest.raises(ReadError, match=words):
            cnnlive.read_onnx(source)


def test_a_truncated_file_is_an_error(tmp_path):
    data = LIGHT[4].read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ReadError, match=r"cut\.onnx"):
        cnnlive.read_onnx(tmp_path / "cut.onnx")


def sequence_model():
    info = helper.make_tensor_sequence_value_info("x", FLOAT, None)
    return model(node("Relu", "x"), [info])


def sparse_model():
    proto = model(node("Relu", "x"), X)
    sparse = helper.make_sparse_tensor(stored("w", 1), ints("i", 0), [4])
    proto.graph.sparse_initializer.append(sparse)
    return proto


def no_opset_model():
    proto = model(node("Relu", "x"), X)
    del proto.opset_import[:]
    return proto


WRONG = {
    "undefined name": (model(node("Relu", "z"), X), r"y \(Relu\) reads 'z', which no node before it writes"),
    "out of order": (model([node("Relu", "a"), node("Relu", "x", "a")], X), r"y \(Relu\) reads 'a'"),
    "written twice": (model([node("Relu", "x"), node("Relu", "x")], X), "'y' is defined twice"),
    "undefined output": (model(node("Relu", "x", "a"), X), "the output 'y' reads 'y'"),
    "no inputs": (model(node("Relu", "x"), []), "no inputs"),
    "no outputs": (model(node("Relu", "x"), X, outputs=()), "no outputs"),
    "constant output": (model(node("Shape", "x"), X), "no output depends on an input: y"),
    "string input": (model(node("Relu", "x"), [value("x", [1, 2], TensorProto.STRING)]), "element type 8"),
    "sequence input": (sequence_model(), "'x' is not a tensor"),
    "scalar input": (model(node("Relu", "x"), [value("x", [])]), r"the shape \(\); allowed: one dimension"),
    "sparse weight": (sparse_model(), "'w' is sparse"),
    "no opset": (no_opset_model(), "no opset"),
    "dropout mask": (
        model([node("Dropout", "x", "a m"), node("Cast", "m", to=FLOAT)], X),
        r"reads 'm', output 1 of a \(Dropout\), which is not supported",
    ),
    "computed weight": (model(node("Conv", "x x"), X), "the weight 'x' is computed while the network runs"),
    "missing weight": (model(node("Conv", "x"), X), "the weight is missing"),
    "wrong channels": (
        model(node("Conv", "x w"), X, [stored("w", 8, 3, 3, 3)]),
        r"y \(Conv\): the weight 'w' has shape",
    ),
    "wrong kernel": (
        model(node("Conv", "x w", kernel_shape=[2, 3]), X, W4),
        "kernel_shape=.2, 3. differs from the weight",
    ),
    "wrong rank": (
        model(node("Conv", "x w"), X, [stored("w", 8, 4, 3)]),
        "allowed: 4 dimensions for this input",
    ),
    "wrong strides": (model(node("Conv", "x w", strides=[1]), X, W4), "strides has 1 entries; allowed: 2"),
    "wrong pads": (model(node("Conv", "x w", pads=[1, 1]), X, W4), "pads has 2 entries; allowed: 4"),
    "wrong auto_pad": (
        model(node("Conv", "x w", auto_pad="FULL"), X, W4),
        "auto_pad='FULL'; allowed: NOTSET",
    ),
    "wrong features": (
        model(node("Gemm", "x w"), (2, 5), [stored("w", 6, 7)]),
        r"y \(Gemm\): the weight 'w'",
    ),
    "gemm rank": (model(node("Gemm", "x w"), X, [stored("w", 6, 7)]), "allowed: 2 dimensions"),
    "wrong vector": (
        model(node("BatchNormalization", "x s s s t"), X, [stored("s", 4), stored("t", 5)]),
        r"y \(Batch",
    ),
    "training": (
        model(node("BatchNormalization", "x s b m v", training_mode=1), X, [stored(n, 4) for n in "sbmv"]),
        "training_mode=1; allowed",
    ),
    "large kernel": (model(node("MaxPool", "x", kernel_shape=[50, 2]), X), r"y \(max_pool2d\).*does not fit"),
    "no kernel": (model(node("MaxPool", "x"), X), r"y \(max_pool2d\): kernel_size"),
    "squeeze": (model(node("Squeeze", "x a"), X, [ints("a", 1)]), "is not 1 and cannot be squeezed"),
    "reshape": (model(node("Reshape", "x s"), X, [ints("s", 5, 5)]), r"y \(reshape\).*do not fill"),
    "empty reshape": (model(node("Reshape", "x s", allowzero=1), X, [ints("s", 0, 5)]), "allowzero=1"),
    "computed shape": (model(node("Reshape", "x x"), X), "the shape 'x' is computed while the network runs"),
    "resized channels": (model(*resize(18, scales=[1, 2, 1, 1])), "spatial dimensions only"),
    "gather outside": (model(node("Gather", "x i", axis=1), X, [ints("i", 7)]), "each from -4 to 3"),
    "split": (model(node("Split", "x s", "y z", axis=1), X, [ints("s", 1, 1)]), r"y \(split\).*add up to 2"),
    "split parts": (model(node("Split", "x s", "y z", axis=1), X, [ints("s", 4)]), "1 parts for 2 outputs"),
    "pad": (model(node("Pad", "x p"), X, [ints("p", 1, 1)]), "pads has 2 entries; allowed: 8"),
    "axis": (model(node("Softmax", "x", axis=4), X), "axis=4 is outside the 4 dimensions"),
    "tile": (model(node("Tile", "x r"), X, [ints("r", 1, 2, 2, 1)]), "one dimension at a time"),
    "scalar result": (model(node("ReduceMean", "x", keepdims=0), X), "0 dimensions; allowed: 1 to 6"),
    "constant conv": (model([node("Conv", "w w", "q"), node("Add", "x q")], X, W4), "reads constants only"),
    "no attribute": (model(node("Concat", "x x"), X), r"y \(Concat\): cannot be read: KeyError: 'axis'"),
    "bad fold": (
        model([node("Reshape", "a s", "t"), node("Relu", "x")], X, [ints("a", 1, 2), ints("s", 3)]),
        r"t \(Reshape\): cannot be read: ValueError",
    ),
    "string constant": (
        model([node("Constant", "", "c", value_string="s"), node("Relu", "x")], X),
        "a dense tensor of numbers",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_model_is_an_error_that_says_what_is_wrong(case):
    proto, words = WRONG[case]
    with pytest.raises(CnnliveError, match=words):
        cnnlive.read_onnx(proto)


def test_errors_are_the_builtin_errors_too():
    assert issubclass(ReadError, ValueError)
    with pytest.raises(ShapeError):
        cnnlive.read_onnx(WRONG["wrong channels"][0])


def test_a_missing_onnx_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cnnlive\[onnx\]'"):
        cnnlive.read_onnx(b"anything")


def fuzzed_model():
    nodes = [
        node("Conv", "x w b", "a", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "a s s2 m v", "c"),
        node("Relu", "c", "d"),
        node("MaxPool", "d", "e", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "e", "f"),
        node("Gather", "f zero", "n"),
        node("Unsqueeze", "n axis", "n1"),
        node("Concat", "n1 minus", "t", axis=0),
        node("Reshape", "e t", "g"),
        node("Gemm", "g k", "h"),
        node("Split", "h", "i j", axis=1, num_outputs=2),
        node("Add", "i j"),
    ]
    vectors = [stored(n, 8) for n in ("b", "s", "s2", "m", "v")]
    integers = [stored("zero", fill=0, dtype=np.int64), ints("axis", 0), ints("minus", -1)]
    return model(nodes, (2, 4, 6, 6), [stored("w", 8, 4, 3, 3), *vectors, *integers, stored("k", 72, 6)], 18)


def test_a_damaged_file_either_reads_or_is_a_clear_error():
    proto = fuzzed_model()
    data = proto.SerializeToString()
    assert cnnlive.read_onnx(data).outputs[0].shape == (2, 3)
    rng = np.random.default_rng(7)
    # Most bytes are weights, which nobody reads; damage is aimed at the rest.
    weights = np.ones(len(data), bool)
    for tensor in proto.graph.initializer:
        at = data.find(tensor.raw_data)
        if len(tensor.raw_data) > 64:
            weights[at : at + len(tensor.raw_data)] = False
    structure = np.flatnonzero(weights)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(600):
        damaged = bytearray(data)
        if rng.random() < 0.15:
            damaged = damaged[: rng.choice(structure)]
        else:
            for at in rng.choice(structure, rng.integers(1, 4)):
                damaged[at] = rng.integers(256) if rng.random() < 0.5 else damaged[at] ^ (1 << rng.integers(8))
        try:
            cnnlive.read_onnx(bytes(damaged))
            outcomes["read"] += 1
        except CnnliveError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50


def test_a_graph_is_named_as_asked_or_after_the_file_or_as_inside_it(tmp_path):
    proto = model(node("Relu", "x"), X)
    path = tmp_path / "my.onnx"
    path.write_bytes(proto.SerializeToString())
    names = [cnnlive.read_onnx(s).name for s in (path, str(path), path.read_bytes(), proto)]
    assert names == ["my.onnx", "my.onnx", "net", "net"]
    assert cnnlive.read_onnx(path, name="mine").name == "mine"
    assert cnnlive.read_onnx(memoryview(path.read_bytes())).to_dict() == cnnlive.read_onnx(proto).to_dict()


def test_what_is_approximated_keeps_every_byte():
    x = (1, 2, 9, 9)
    dilated = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], dilations=[2, 3])
    graph = cnnlive.read_onnx(model(dilated, x, (), 22))
    assert graph.attributes("y")["kernel_size"] == (5, 4)  # from the first to the last position
    assert graph.outputs[0].shape == (1, 2, 5, 6)
    assert cnnlive.read_onnx(model(helper.make_node("Celu", ["x"], ["y"], alpha=2.0), x)).op_of("y") == "elu"
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0, transB=1)
    graph = cnnlive.read_onnx(model(gemm, (3, 4), [stored("w", 5, 4), stored("b", 5)]))
    assert graph.nodes() == ["x", "y"]
    assert (graph.op_of("y"), graph.n_parameters, graph.outputs[0].shape) == ("linear", 25, (3, 5))
