"""The graph: building, errors that name the node, parameters, other forms."""

import json

import networkx as nx
import pytest
from hypothesis import given
from strategies import graphs, graphs_in_frames

import cnnlive
from cnnlive import Graph, errors
from cnnlive._builder import Builder
from cnnlive.ops import OPERATORS


def test_nodes_and_edges_carry_the_operator_its_parameters_and_the_indices():
    g = Graph("net")
    x = g.input((1, 3, 8, 8), name="x")
    a, b = g.chunk(g.conv2d(x, 4, 3, name="conv"), 2, name="cut")
    g.sub(b, a, name="sub")
    assert isinstance(g.nx, nx.MultiDiGraph)
    assert g.nx.nodes["conv"]["op"] == "conv2d"
    assert g.nx.nodes["conv"]["kernel_size"] == (3, 3)
    assert sorted((u, v, e["output"], e["input"]) for u, v, e in g.nx.edges(data=True)) == [
        ("conv", "cut", 0, 0), ("cut", "sub", 0, 1), ("cut", "sub", 1, 0), ("x", "conv", 0, 0)]  # fmt: skip
    assert nx.is_frozen(g.nx)
    assert g.nodes() == ["x", "conv", "cut", "sub"]
    assert [t.name for t in g.inputs_of("sub")] == ["cut:1", "cut"]


def test_names_are_free_or_refused():
    g = Graph()
    x = g.input((1, 3))
    assert [g.relu(x).name for _ in range(3)] == ["relu", "relu_1", "relu_2"]
    with pytest.raises(errors.GraphError, match=r"relu \(tanh\): there is already an op of that name, relu"):
        g.tanh(x, name="relu")
    with g.scope("block"), g.scope("1"):
        assert g.relu(x).name == "block.1.relu"
        assert g.relu(x, name="act").name == "block.1.act"
    assert g.nx.nodes["block.1.act"]["scope"] == "block.1"
    assert g.relu(x, name="last").name == "last"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda g, x: g.op("conv4d", x),
            errors.UnknownOperatorError,
            "unknown operator 'conv4d'; did you mean conv",
        ),
        (
            lambda g, x: g.op("conv2d", x, out_channels=4),
            errors.AttributeValueError,
            "kernel_size is missing",
        ),
        (
            lambda g, x: g.conv2d(x, 4, 0),
            errors.AttributeValueError,
            "kernel_size=0; allowed: an integer >= 1",
        ),
        (lambda g, x: g.conv2d(x, 4, (1, 2, 3)), errors.AttributeValueError, "or 2 of them"),
        (
            lambda g, x: g.conv2d(x, 4, 3, padding="full"),
            errors.AttributeValueError,
            "padding='full'; allowed:",
        ),
        (
            lambda g, x: g.op("relu", x, inplaced=True),
            errors.AttributeValueError,
            "'inplaced'; allowed: inplace",
        ),
        (
            lambda g, x: g.conv2d(x, 4, 3, groups=2),
            errors.ShapeError,
            r"groups=2 divides not .*in_channels=3",
        ),
        (lambda g, x: g.conv1d(x, 4, 3), errors.ShapeError, r"\(1, 3, 8, 8\), allowed: 3 dimensions"),
        (lambda g, x: g.add(x, g.input((1, 3, 8, 7))), errors.ShapeError, "do not broadcast"),
        (
            lambda g, x: g.add(g.mean(x, 2, True), x, inplace=True),
            errors.ShapeError,
            "inplace=True writes into",
        ),
        (lambda g, x: g.concat([]), errors.GraphError, "0 inputs; allowed: 1 or more"),
        (lambda g, x: g.op("add", x), errors.GraphError, "1 inputs; allowed: 2"),
        (lambda g, x: g.op("relu", "x"), errors.GraphError, "'x', not a Tensor"),
        (lambda g, x: g.relu(Graph().input((1,))), errors.GraphError, "belongs to another graph"),
        (
            lambda g, x: g.input((1, 0)),
            errors.AttributeValueError,
            r"shape=\(1, 0\); allowed: an integer >= 1",
        ),
        (lambda g, x: g.input(()), errors.ShapeError, "0 dimensions; allowed: 1 to 6"),
        (lambda g, x: g.input((1,) * 7), errors.ShapeError, "7 dimensions; allowed: 1 to 6"),
        (lambda g, x: g.input((2**31, 2**31)), errors.ShapeError, r"allowed: 1 to 2\*\*62 - 1"),
        (lambda g, x: g.input((1,), dtype="int7"), errors.AttributeValueError, "unknown dtype 'int7'"),
        (lambda g, x: g.flatten(x, 2, 1), errors.ShapeError, "start_dim=2 lies behind end_dim=1"),
        (lambda g, x: g.argmax(x, dim=(1, 2)), errors.ShapeError, r"dim=\(1, 2\); allowed: one dimension"),
        (lambda g, x: g.op("argmax", x, dim=1, dtype="int8"), errors.AttributeValueError, "unknown attribute 'dtype'"),
        (lambda g, x: g.mean(x, dim=4), errors.ShapeError, "dim=4 is outside the 4 dimensions"),
        (lambda g, x: g.mean(x, dim=(1, -3)), errors.ShapeError, "names a dimension twice"),
        (lambda g, x: g.permute(x, (0, 1)), errors.ShapeError, "is not a permutation"),
        (lambda g, x: g.reshape(x, (-1, -1)), errors.ShapeError, "more than one -1"),
        (
            lambda g, x: g.reshape(x, (1, 7, -1)),
            errors.ShapeError,
            r"192 elements .* do not fill \(0, 7, -1\)",
        ),
        (lambda g, x: g.reshape(x, (1, 7)), errors.ShapeError, "192 elements .* do not fill"),
        (lambda g, x: g.reshape(g.mean(x, (1, 2, 3)), (1, 1, 0)), errors.ShapeError, "keeps dimension 2"),
        (lambda g, x: g.expand(x, (3, 8)), errors.ShapeError, "fewer dimensions"),
        (lambda g, x: g.expand(x, (1, 4, 8, 8)), errors.ShapeError, "does not expand"),
        (lambda g, x: g.slice(x, dim=1, step=0), errors.AttributeValueError, "step=0"),
        (lambda g, x: g.slice(x, dim=(1, 2), start=(0, 0, 0)), errors.AttributeValueError, "3 entries for 2"),
        (lambda g, x: g.slice(x, dim=1, start=3), errors.ShapeError, "is empty"),
        (lambda g, x: g.split(x, (1, 1)), errors.ShapeError, "add up to 2, not to the 3"),
        (lambda g, x: g.pad(x, (1,)), errors.ShapeError, "1 entries"),
        (lambda g, x: g.pad(x, (-4, -4)), errors.ShapeError, r"pad=\(-4, -4\) leaves nothing"),
        (lambda g, x: g.interpolate(x), errors.AttributeValueError, "either size or scale_factor"),
        (lambda g, x: g.interpolate(x, scale_factor=0.01), errors.ShapeError, "leaves nothing"),
        (lambda g, x: g.interpolate(x, scale_factor=-1), errors.AttributeValueError, "positive numbers"),
        (lambda g, x: g.group_norm(x, 2), errors.ShapeError, "num_groups=2 does not divide"),
        (lambda g, x: g.layer_norm(x, 7), errors.ShapeError, r"does not end with normalized_shape=\(7,\)"),
        (lambda g, x: g.batch_norm1d(x), errors.ShapeError, "allowed: 3 or 2 dimensions"),
        (lambda g, x: g.prelu(x, 2), errors.ShapeError, "neither 1 nor the channels"),
        (lambda g, x: g.channel_shuffle(x, 2), errors.ShapeError, "groups=2 does not divide"),
        (
            lambda g, x: g.pixel_shuffle(x, 2),
            errors.ShapeError,
            "not a multiple of upscale_factor squared, 4",
        ),
        (lambda g, x: g.pixel_unshuffle(x, 3), errors.ShapeError, "not multiples of downscale_factor=3"),
        (lambda g, x: g.matmul(x, g.parameter((7, 2))), errors.ShapeError, "inner dimensions 8 and 7"),
        (lambda g, x: g.matmul(x, g.parameter((8,))), errors.ShapeError, "two or more dimensions"),
        (lambda g, x: g.relu(x, inplace=2), errors.AttributeValueError, "inplace=2; allowed: True or False"),
        (lambda g, x: g.softmax(x, "one"), errors.AttributeValueError, "dim='one'"),
        (lambda g, x: g.pad(x, (1, 1), mode="mirror"), errors.AttributeValueError, "'constant' or 'reflect'"),
        # what PyTorch refuses, too
        (lambda g, x: g.softmax(x, 4), errors.ShapeError, r"\(softmax\): dim=4 is outside"),
        (lambda g, x: g.log_softmax(x, -5), errors.ShapeError, "dim=-5 is outside the 4 dimensions"),
        (lambda g, x: g.pad(x, (8, 0), mode="reflect"), errors.ShapeError, "'reflect' reaches beyond a dimension of 8"),
        (
            lambda g, x: g.pad(x, (0, 9), mode="circular"),
            errors.ShapeError,
            "'circular' reaches beyond a dimension of 8",
        ),
        (lambda g, x: g.pad(x, (-5, -4, 0, 0)), errors.ShapeError, "crops more than there is"),
        (lambda g, x: g.pad(x, (-10, 7)), errors.ShapeError, r"pad=\(-10, 7\) crops more"),
        (lambda g, x: g.max_pool2d(x, 2, padding=2), errors.ShapeError, "windows of 2 .* in the padding alone"),
        (lambda g, x: g.avg_pool2d(x, 3, padding=(0, 3)), errors.ShapeError, "in the padding alone"),
        (
            lambda g, x: g.conv_transpose2d(x, 2, 3, stride=2, output_padding=2),
            errors.ShapeError,
            r"output_padding=\(2, 2\) is not below stride=\(2, 2\) or dilation=\(1, 1\)",
        ),
        (lambda g, x: g.conv_transpose2d(x, 2, 3, padding=-1), errors.AttributeValueError, "padding=-1"),
        (lambda g, x: g.interpolate(x, 3, mode="linear"), errors.ShapeError, "mode='linear' is for 3 dimensions"),
        (lambda g, x: g.layer_norm(x, (1, 3, 8, 8)), errors.ShapeError, "takes in the batch"),
        (lambda g, x: g.instance_norm1d(g.flatten(x)), errors.ShapeError, "allowed: 3 dimensions"),
        (lambda g, x: g.local_response_norm(g.flatten(x), 5), errors.ShapeError, "one dimension more"),
        (lambda g, x: g.channel_shuffle(g.flatten(x), 2), errors.ShapeError, "channels and one dimension more"),
        (lambda g, x: g.gather(x, g.parameter((2,), "int64"), 4), errors.ShapeError, "dim=4 is outside"),
    ],
)
def test_errors_name_the_node_and_what_is_allowed(build, error, message):
    g = Graph()
    x = g.input((1, 3, 8, 8))
    before = len(g)
    with pytest.raises(error, match=message) as caught:
        build(g, x)
    assert isinstance(caught.value, errors.CnnliveError)
    assert len(g) <= before + 1  # nothing half added; a second input at most
    assert "\n" not in str(caught.value)


def test_every_operator_has_a_builder_method():
    renamed = {"add_n"}
    for op in OPERATORS:
        assert callable(getattr(Builder, op)), op
    assert renamed <= set(OPERATORS)
    for name in ("global_avg_pool2d", "global_max_pool1d", "max_pool3d_with_indices"):
        assert callable(getattr(Builder, name))


def test_every_builder_method_reaches_its_operator():
    g = Graph()
    x = {n: g.input((1, 4, *[6] * n)) for n in (1, 2, 3)}
    for n in (1, 2, 3):
        for op in ("conv", "conv_transpose"):
            assert getattr(g, f"{op}{n}d")(x[n], 2, 3).shape[1] == 2
        for op in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"):
            assert getattr(g, f"{op}{n}d")(x[n], 3).shape[1] == 4
        for op in ("batch_norm", "instance_norm"):
            assert getattr(g, f"{op}{n}d")(x[n]).shape == x[n].shape
        assert getattr(g, f"global_avg_pool{n}d")(x[n]).shape == (1, 4, *[1] * n)
        assert getattr(g, f"global_max_pool{n}d")(x[n]).shape == (1, 4, *[1] * n)
        y, indices = getattr(g, f"max_pool{n}d_with_indices")(x[n], 2)
        assert (y.dtype, indices.dtype) == ("float32", "int64")
    for op in ("relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid", "tanh", "softplus", "mish",
               "exp", "hardsigmoid", "hardswish", "clip", "scale", "prelu", "softmax", "log_softmax", "dropout",
               "dropout2d", "log", "sqrt", "abs", "neg", "reciprocal", "floor", "erf", "identity",
               "contiguous"):  # fmt: skip
        assert getattr(g, op)(x[2]).shape == x[2].shape
    assert g.dropout3d(x[3]).shape == x[3].shape
    assert g.stochastic_depth(x[2], 0.1).shape == x[2].shape
    for op in ("add", "sub", "mul", "div", "minimum", "maximum", "pow"):
        assert getattr(g, op)(x[2], g.mean(x[2], 1, True)).shape == x[2].shape
    assert g.add_n([x[2]] * 3).shape == x[2].shape
    assert g.concat([x[2]] * 3).channels == 12
    assert [t.channels for t in g.split(x[2], 3)] == [3, 1]
    assert [t.channels for t in g.split(x[2], (1, 3))] == [1, 3]
    assert [t.channels for t in g.chunk(x[2], 3)] == [2, 2]
    made = g.opaque("TOPK_V2", [x[2]], [(1, 4, 6, 3), (1, 4, 6, 3)], ["float32", "int32"])
    assert [(t.shape, t.dtype) for t in made] == [((1, 4, 6, 3), "float32"), ((1, 4, 6, 3), "int32")]
    assert g.slice(x[2], 1, 1).channels == 3
    assert g.pad(x[2], (1, 1)).shape[3] == 8
    assert g.reshape(x[2], (1, -1)).shape == g.flatten(x[2]).shape == (1, 144)
    assert g.squeeze(g.unsqueeze(x[2], 1)).shape == x[2].shape
    assert g.permute(x[2], (0, 2, 3, 1)).shape == (1, 6, 6, 4)
    assert g.transpose(x[2], 1, 2).shape == (1, 6, 4, 6)
    assert g.expand(g.mean(x[2], 1, True), (1, 4, -1, -1)).shape == x[2].shape
    assert g.channel_shuffle(x[2], 2).shape == x[2].shape
    assert g.pixel_unshuffle(g.pixel_shuffle(x[2], 2), 2).shape == x[2].shape
    assert g.interpolate(x[2], 3).shape == g.interpolate(x[2], scale_factor=0.5).shape == (1, 4, 3, 3)
    assert (g.argmax(x[2], 1).shape, g.argmax(x[2], 1, keepdim=True).dtype) == ((1, 6, 6), "int64")
    assert g.sum(x[2], 1).shape == g.amax(x[2], 1).shape == g.vector_norm(x[2], dim=1).shape == (1, 6, 6)
    assert g.gather(x[2], g.parameter((2, 9), "int64", trainable=False), 1).shape == (1, 2, 9, 6, 6)
    assert g.cast(x[2], "half").dtype == "float16"
    assert g.matmul(x[2], g.parameter((6, 2))).shape == (1, 4, 6, 2)
    assert g.linear(x[1], 5).shape == (1, 4, 5)
    assert g.layer_norm(x[1], 6).shape == g.group_norm(x[1], 2).shape == g.local_response_norm(x[1], 5).shape
    for op in ("rsqrt", "sign", "sin", "cos", "pow_scalar", "roll", "detach"):
        assert getattr(g, op)(x[2]).shape == x[2].shape
    for op in ("amin", "logsumexp", "std", "var"):
        assert getattr(g, op)(x[2], 1).shape == (1, 6, 6)
    for op in ("std_mean", "var_mean", "max", "min"):
        assert [t.shape for t in getattr(g, op)(x[2], 1)] == [(1, 6, 6)] * 2
    assert [(t.shape, t.dtype) for t in g.topk(x[2], 2, 1)] == [((1, 2, 6, 6), "float32"), ((1, 2, 6, 6), "int64")]
    holds = g.compare(x[2], g.mean(x[2], 1, True))
    assert (holds.shape, holds.dtype) == (x[2].shape, "bool")
    assert (g.where(holds, x[2]).dtype, g.masked_fill(x[2], holds).dtype) == ("float32", "float32")
    assert g.addcmul(x[2], x[2], x[2]).shape == g.assign(x[2], x[1]).shape == g.cumsum(x[2], 1).shape == x[2].shape
    assert g.expand_as(g.mean(x[2], 1, True), x[2]).shape == x[2].shape
    assert g.repeat(x[1], (1, 1, 2, 3)).shape == (1, 1, 8, 18)
    assert g.gather_elements(x[1], g.argmax(x[1], 1, True)).shape == (1, 1, 6)
    assert g.grid_sample(x[2], g.fill((1, 3, 5, 2), x[2])).shape == (1, 4, 3, 5)
    assert g.unfold(x[2], 2, stride=2).shape == (1, 16, 9)
    assert g.as_strided(x[2], (0, 2, 3)).shape == (1, 2, 3)
    assert g.unfold_dim(x[2], 2, 3, 2).shape == (1, 4, 2, 6, 3)
    assert g.fold(g.unfold(x[2], 2, stride=2), 6, 2).shape == x[2].shape
    assert g.dynamic_conv2d(x[2], g.fill((1, 4, 2, 2), x[2]), 2).shape == (1, 1, 5, 5)
    assert g.rms_norm(x[2], 6).shape == g.scaled_dot_product_attention(x[2], x[2], x[2]).shape == x[2].shape
    assert set(OPERATORS) == {g.op_of(n) for n in g.nodes()}


def test_types_promote_floats_before_integers_and_wide_before_narrow():
    g = Graph()
    single, half, brain, long, byte = (g.input((1,), d) for d in ("float32", "float16", "bfloat16", "int64", "int8"))
    assert g.add(single, half).dtype == "float32"
    assert g.add(half, brain).dtype == "float32"
    assert g.add(half, long).dtype == "float16"
    assert g.add(byte, long).dtype == "int64"
    assert g.concat([half, half], dim=0).dtype == "float16"


def test_outputs_are_the_marked_ones_or_what_nobody_reads():
    g = Graph()
    x = g.input((1, 2, 4, 4))
    y = g.relu(x)
    pooled, _ = g.max_pool2d_with_indices(y, 2)
    g.parameter((3,))
    assert [t.name for t in g.outputs] == ["max_pool2d"]
    g.output(y, pooled, y)
    assert [t.name for t in g.outputs] == ["relu", "max_pool2d"]
    with pytest.raises(errors.GraphError, match="not a tensor of this graph"):
        g.output(Graph().input((1,)))


def test_parameters_are_listed_with_their_shapes():
    g = Graph()
    x = g.input((1, 4, 8, 8))
    x = g.batch_norm2d(g.conv2d(x, 6, 3, groups=2, bias=False, name="c"), name="n")
    g.conv_transpose2d(x, 4, 2, groups=2, name="t")
    assert [(o.op, o.weight.name, o.weight.shape) for o in g.weights()] == [
        ("c", "weight", (6, 2, 3, 3)), ("n", "weight", (6,)), ("n", "bias", (6,)), ("n", "running_mean", (6,)),
        ("n", "running_var", (6,)), ("n", "num_batches_tracked", ()), ("t", "weight", (6, 2, 2, 2)),
        ("t", "bias", (4,))]  # fmt: skip
    assert (g.n_parameters, g.n_buffers) == (108 + 12 + 48 + 4, 12)


def test_weights_are_shared_by_role_and_checked():
    g = Graph()
    x = g.input((1, 4, 8, 8))
    g.conv2d(x, 4, 3, name="a")
    g.op("conv2d", x, out_channels=4, kernel_size=3, name="b", tied={"weight": "a"})
    assert g.n_parameters == 144 + 4 + 4
    # of as many elements, in any role, also of the op itself
    y = g.op("conv2d", x, out_channels=6, kernel_size=(2, 3), bias=False, tied={"weight": "a"})
    g.op("batch_norm2d", y, name="n", tied={"buffer": "n"})
    g.op("parameter", shape=(12, 12), tied={"weight": "a"})
    assert (g.n_parameters, g.n_buffers) == (144 + 4 + 4 + 6 + 6, 0)
    assert Graph.from_networkx(g.nx).to_dict() == Graph.from_dict(g.to_dict()).to_dict() == g.to_dict()
    with pytest.raises(errors.GraphError, match="tied to 'alone', which holds nothing"):
        g.op("batch_norm2d", x, name="alone", tied="alone")
    with pytest.raises(errors.GraphError, match="tied to 'nobody'"):
        g.op("conv2d", x, out_channels=4, kernel_size=3, tied="nobody")
    with pytest.raises(
        errors.GraphError, match=r"which holds nothing of as many elements as the weight of \(4, 4, 1, 1\)"
    ):
        g.op("conv2d", x, out_channels=4, kernel_size=1, tied={"weight": "a"})
    with pytest.raises(errors.GraphError, match="the role 'mean'; allowed: bias, weight"):
        g.op("conv2d", x, out_channels=4, kernel_size=3, tied={"mean": "a"})


def test_what_is_not_trained_is_said_by_role_or_by_name():
    g = Graph()
    x = g.input((1, 4, 8, 8), name="x")
    with g.scope("layer1"):
        x = g.conv2d(x, 4, 3, padding=1, name="conv")
        x = g.batch_norm2d(x, name="bn")
    with g.scope("layer1@1"):
        x = g.op("conv2d", x, out_channels=4, kernel_size=3, padding=1, name="conv", tied="layer1.conv")
    with g.scope("layer10"):
        x = g.conv2d(x, 4, 3, bias=False, name="conv")
    x = g.mul(x, g.parameter((4, 1, 1), name="scale"))
    g.op("linear", x, out_features=2, name="fc", frozen=("bias",))

    def frozen():
        return {n: d["frozen"] for n, d in g.nx.nodes(data=True) if "frozen" in d}

    assert frozen() == {"fc": ("bias",)}
    version = g.version
    for pattern in ("layer2", "layer1.con", "mul", "x", ""):
        with pytest.raises(errors.GraphError, match=f"freeze: {pattern!r} matches no op that has weights"):
            g.freeze("fc", pattern)
    with pytest.raises(errors.GraphError, match="did you mean layer1.conv"):
        g.freeze("layer1.convs")
    with pytest.raises(errors.GraphError, match="names and patterns, not 3"):
        g.freeze(3)
    assert (frozen(), g.version) == ({"fc": ("bias",)}, version)
    g.freeze("layer1")  # both calls, and not layer10
    both = ("weight", "bias")
    assert frozen() == {"fc": ("bias",), "layer1.conv": both, "layer1.bn": both, "layer1@1.conv": both}
    assert g.version > version
    g.freeze("*0.conv", "scale", "f?")
    assert frozen()["layer10.conv"] == frozen()["scale"] == ("weight",)
    assert frozen()["fc"] == both
    assert g.attributes("fc") == {"out_features": 2, "bias": True}
    assert Graph.from_networkx(g.nx).to_dict() == Graph.from_dict(g.to_dict()).to_dict() == g.to_dict()
    with pytest.raises(errors.GraphError, match=r"last \(linear\): frozen names the role 'buffer'; allowed: weight"):
        g.op("linear", x, out_features=2, bias=False, name="last", frozen=["buffer"])


def test_a_tensor_is_held_until_a_later_op():
    g = Graph()
    x = g.input((1, 4, 8, 8), name="x")
    a, b = g.chunk(x, 2, name="cut")
    y = g.add(a, b, name="y")
    last = g.relu(y, name="last")
    version = g.version
    g.hold(b, until=last)
    g.hold(a, until="y")
    assert g.version > version
    assert g.nx.nodes["cut"]["until"] == {0: "y", 1: "last"}
    g.hold(b, until=y)  # the last word counts
    assert g.nx.nodes["cut"]["until"] == {0: "y", 1: "y"}
    assert "until" not in g.attributes("cut")
    assert Graph.from_networkx(g.nx).to_dict() == Graph.from_dict(g.to_dict()).to_dict() == g.to_dict()
    with pytest.raises(errors.GraphError, match="cut:1 until 'lost', which is not an op; did you mean last"):
        g.hold(b, until="lost")
    for op in ("y", "cut"):
        with pytest.raises(errors.GraphError, match=f"y until '{op}', which does not come after it; allowed: a later"):
            g.hold(y, until=op)
    with pytest.raises(errors.GraphError, match="not a tensor of this graph"):
        g.hold(Graph().input((1,)), until="last")
    with pytest.raises(errors.GraphError, match="not a tensor of this graph"):
        g.hold(x, until=Graph().input((1,)))


@given(graph=graphs_in_frames())
def test_round_trips_keep_modules_and_variables(graph):
    assert Graph.from_networkx(graph.nx).to_dict() == Graph.from_dict(json.loads(graph.to_json())).to_dict()
    assert Graph.from_networkx(graph.nx).to_dict() == graph.to_dict()


@given(graph=graphs())
def test_round_trips_are_exact(graph):
    data = graph.to_dict()
    assert Graph.from_dict(json.loads(graph.to_json())).to_dict() == data
    assert Graph.from_networkx(graph.nx).to_dict() == data
    assert cnnlive.read_json(graph.to_json()).to_dict() == data


def test_a_copy_of_the_networkx_graph_can_be_edited_and_read_back():
    g = Graph("net")
    g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="c")
    copy = nx.MultiDiGraph(g.nx)
    copy.nodes["c"]["out_channels"] = 8
    assert Graph.from_networkx(copy).n_parameters == 2 * g.n_parameters
    with pytest.raises(nx.NetworkXError):
        g.nx.add_node("x")


def test_a_graph_made_by_hand_is_put_in_order():
    hand = nx.DiGraph(name="hand")
    hand.add_node("last", op="relu")
    hand.add_node("first", op="input", shape=(1, 3))
    hand.add_edge("first", "last")
    g = Graph.from_networkx(hand)
    assert g.nodes() == ["first", "last"]
    assert g.name == "hand"


def test_graphs_made_by_hand_are_checked():
    def made(*edges, **ops):
        hand = nx.MultiDiGraph()
        for name, op in ops.items():
            hand.add_node(name, **({"op": op} if isinstance(op, str) else op))
        for u, v, *rest in edges:
            hand.add_edge(u, v, **(rest[0] if rest else {}))
        return hand

    x = {"op": "input", "shape": (1, 3)}
    with pytest.raises(errors.CycleError, match="a -> b -> c -> a"):
        Graph.from_networkx(made(("a", "b"), ("b", "c"), ("c", "a"), a="relu", b="relu", c="relu"))
    with pytest.raises(errors.GraphError, match="node 'a' has no attribute 'op'"):
        Graph.from_networkx(made(a={}))
    with pytest.raises(errors.GraphError, match="has no attribute 'input' and 'y' reads 2"):
        Graph.from_networkx(made(("x", "y"), ("x", "y"), x=x, y="add"))
    with pytest.raises(errors.GraphError, match="two edges with input=0"):
        Graph.from_networkx(made(("x", "y", {"input": 0}), ("x", "y", {"input": 0}), x=x, y="add"))
    with pytest.raises(errors.GraphError, match=r"input=\[0, 2\]; allowed: 0 to 1"):
        Graph.from_networkx(made(("x", "y", {"input": 0}), ("x", "y", {"input": 2}), x=x, y="add"))
    with pytest.raises(errors.GraphError, match="'x' has no output 1"):
        Graph.from_networkx(made(("x", "y", {"output": 1}), x=x, y="relu"))
    with pytest.raises(errors.GraphError, match="not a directed networkx graph"):
        Graph.from_networkx(nx.Graph())
    with pytest.raises(errors.UnknownOperatorError, match="y: unknown operator 'rellu'"):
        Graph.from_networkx(made(("x", "y"), x=x, y="rellu"))
    marked = made(x=x)
    marked.graph["outputs"] = [("x", 3)]
    with pytest.raises(errors.GraphError, match="no tensor 3 of 'x'"):
        Graph.from_networkx(marked)


def test_looking_for_what_is_not_there_is_an_error():
    g = Graph()
    g.input((1,))
    for look in (g.attributes, g.op_of, g.tensors_of):
        with pytest.raises(errors.GraphError, match="no op named 'nope'"):
            look("nope")
    assert "input" in g
    assert repr(g) == "<Graph '': 1 ops, 0 parameters>"


def test_every_change_is_a_new_version_and_renews_what_was_derived():
    g = Graph()
    x = g.input((1, 3))
    assert g.weights() is g.weights()
    seen = [g.version]
    g.linear(x, 2, name="fc")
    seen.append(g.version)
    assert g.n_parameters == 8
    g.output(x)
    seen.append(g.version)
    assert seen == sorted(set(seen))
    g.op("linear", x, out_features=2, tied="fc")
    shared = {o.op: o.shared for o in g.weights()}
    assert shared == {"fc": False, "linear": True}
    assert g.n_parameters == 8
    assert [o.weight.dtype for o in g.weights()] == [None] * 4
    g.batch_norm1d(x)
    assert [o.weight.dtype for o in g.weights()[-2:]] == [None, "int64"]  # the counter of batches


def test_a_scope_ends_also_where_an_op_fails():
    g = Graph()
    x = g.input((1, 3))
    with pytest.raises(errors.ShapeError), g.scope("block"):
        g.conv2d(x, 1, 1)
    assert g.relu(x).name == "relu"
    with g.scope("block"):
        g.relu(x, name="act")
    assert "scope" not in g.attributes("block.act")


def test_names_that_are_no_texts_are_refused():
    hand = nx.DiGraph()
    hand.add_node(7, op="input", shape=(1, 3))
    with pytest.raises(errors.GraphError, match="a non-empty text as name, not 7"):
        Graph.from_networkx(hand)
    with pytest.raises(errors.GraphError, match="a non-empty text as name, not ''"):
        Graph().input((1,), name="")


def test_the_closest_legal_order_is_taken_and_a_legal_one_is_kept():
    hand = nx.DiGraph(name="hand")
    for name, op in {"y": "relu", "z": "relu", "x": "input", "w": "input"}.items():
        hand.add_node(name, op=op, **({"shape": (1, 3)} if op == "input" else {}))
    hand.add_edges_from([("x", "y"), ("w", "z")])
    g = Graph.from_networkx(hand, name="other")
    assert g.nodes() == ["x", "y", "w", "z"]  # an op as soon as it may, in the order of the nodes
    assert [t.name for t in g.inputs] == ["x", "w"]
    assert g.name == "other"
    legal = Graph.from_networkx(g.nx)
    assert legal.nodes() == g.nodes()
    late = Graph()
    a = late.input((1, 3), name="a")
    late.input((1, 3), name="unread")
    late.relu(a, name="b")
    assert Graph.from_networkx(late.nx).nodes() == ["a", "unread", "b"]


def test_edges_say_which_output_they_carry():
    hand = nx.MultiDiGraph()
    hand.add_node("x", op="input", shape=(1, 3))
    hand.add_node("cut", op="split", sizes=(1, 2))
    hand.add_node("y", op="relu")
    hand.add_edge("x", "cut")
    hand.add_edge("cut", "y", output=1)
    g = Graph.from_networkx(hand)
    assert [t.name for t in g.inputs_of("y")] == ["cut:1"]
    assert g.tensors_of("y")[0].shape == (1, 2)
    for outside in (-1, 2):
        hand.edges["cut", "y", 0]["output"] = outside
        with pytest.raises(errors.GraphError, match=f"'cut' has no output {outside}"):
            Graph.from_networkx(hand)
    hand.edges["cut", "y", 0]["output"] = 0
    for outside in (("cut", 2), ("cut", -1), ("nope", 0)):
        hand.graph["outputs"] = [outside]
        with pytest.raises(errors.GraphError, match="listed under outputs"):
            Graph.from_networkx(hand)


def test_of_an_op_that_nobody_reads_all_outputs_count():
    g = Graph()
    a, b = g.chunk(g.input((1, 4)), 2, name="cut")
    assert g.outputs[1].name == "cut:1"
    assert [t.name for t in g.outputs] == [a.name, b.name]
    g.relu(b, name="r")
    assert [t.name for t in g.outputs] == ["r"]  # one piece is read: the other is no output by itself
    assert repr(b) == "Tensor('cut:1', shape=(1, 2), dtype=float32)"


def test_limits_are_inclusive():
    g = Graph()
    assert g.input((1,) * 6).shape == (1,) * 6
    assert g.input((2**31, 2**31 - 1)).shape == (2**31, 2**31 - 1)
    with pytest.raises(errors.ShapeError, match=r"has 4611686018427387904 elements; allowed: 1 to 2\*\*62 - 1"):
        g.input((2**62,))
    assert g.input((2**62 - 1,)).shape == (2**62 - 1,)


@pytest.mark.parametrize(
    ("padding", "canonical", "size"),
    [
        (0, ((0, 0), (0, 0)), (7, 5)),
        ("valid", ((0, 0), (0, 0)), (7, 5)),
        (1, ((1, 1), (1, 1)), (9, 7)),
        ((1, 2), ((1, 1), (2, 2)), (9, 9)),
        ([2, (0, 1)], ((2, 2), (0, 1)), (11, 6)),
        (((1, 0), (0, 2)), ((1, 0), (0, 2)), (8, 7)),
        ("same", "same_upper", (9, 7)),
        ("same_lower", "same_lower", (9, 7)),
    ],
    ids=str,
)
def test_every_form_of_padding_is_read(padding, canonical, size):
    g = Graph()
    y = g.conv2d(g.input((1, 1, 9, 7)), 1, 3, padding=padding, name="y")
    assert g.attributes("y")["padding"] == canonical
    assert y.shape == (1, 1, *size)


@pytest.mark.parametrize("padding", [-1, (1, 2, 3), ((1, 2, 3), 1), ((-1, 0), 0), (1.5, 0), None], ids=str)
def test_what_is_no_padding_is_an_error(padding):
    g = Graph()
    with pytest.raises(errors.AttributeValueError, match="padding="):
        g.conv2d(g.input((1, 1, 9, 7)), 1, 3, padding=padding)


def test_a_size_to_pool_to_is_one_for_all_or_one_for_each_dimension():
    g = Graph()
    x = g.input((1, 1, 9, 7))
    sizes = (3, None, (2, None), [None, 4])
    assert [g.adaptive_avg_pool2d(x, s).shape[2:] for s in sizes] == [(3, 3), (9, 7), (2, 7), (9, 4)]
    for wrong in ((1,), (1, 2, 3), 0, (1, 0)):
        with pytest.raises(errors.AttributeValueError, match="output_size=.*an integer >= 1"):
            g.adaptive_avg_pool2d(x, wrong)


# What comes out, by hand, from PyTorch's definitions: (operator, input shape, attributes, output shapes).
BY_HAND = [
    ("conv1d", (2, 4, 9), {"out_channels": 6, "kernel_size": 3, "stride": 2}, [(2, 6, 4)]),  # (9 - 3) // 2 + 1
    ("conv2d", (1, 3, 8, 9), {"out_channels": 5, "kernel_size": (3, 2), "dilation": (1, 4)}, [(1, 5, 6, 5)]),
    ("conv2d", (1, 3, 8, 9), {"out_channels": 5, "kernel_size": 4, "stride": 3, "padding": "same"}, [(1, 5, 3, 3)]),
    ("conv3d", (1, 1, 5, 6, 7), {"out_channels": 2, "kernel_size": 5, "padding": 2}, [(1, 2, 5, 6, 7)]),
    # (n - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    ("conv_transpose1d", (1, 2, 4),
     {"out_channels": 3, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "dilation": 2},
     [(1, 3, 10)]),
    ("conv_transpose2d", (1, 2, 4, 5), {"out_channels": 3, "kernel_size": 2, "stride": 2}, [(1, 3, 8, 10)]),
    ("conv_transpose2d", (1, 2, 4, 5), {"out_channels": 3, "kernel_size": 5, "stride": (1, 3), "padding": "same"},
     [(1, 3, 4, 15)]),
    ("max_pool2d", (1, 2, 9, 8), {"kernel_size": 3}, [(1, 2, 3, 2)]),  # the stride is the kernel
    ("max_pool2d", (1, 2, 9, 8), {"kernel_size": 3, "stride": (1, 2)}, [(1, 2, 7, 3)]),
    ("max_pool2d", (1, 2, 9, 8), {"kernel_size": 3, "stride": (1, 2), "ceil_mode": True}, [(1, 2, 7, 4)]),
    ("max_pool2d", (1, 2, 9, 8), {"kernel_size": 2, "stride": 1, "dilation": 3, "return_indices": True},
     [(1, 2, 6, 5)] * 2),
    ("avg_pool1d", (1, 2, 9), {"kernel_size": 4, "stride": 2, "padding": 1}, [(1, 2, 4)]),
    ("avg_pool1d", (1, 2, 4), {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}, [(1, 2, 2)]),
    ("adaptive_max_pool1d", (1, 2, 9), {"output_size": 4}, [(1, 2, 4)]),
    ("adaptive_max_pool2d", (1, 2, 9, 7), {"output_size": (None, 3), "return_indices": True}, [(1, 2, 9, 3)] * 2),
    ("linear", (2, 3, 4), {"out_features": 5}, [(2, 3, 5)]),
    ("split", (1, 7), {"sizes": 3}, [(1, 3), (1, 3), (1, 1)]),
    ("split", (7, 2), {"sizes": (5, 2), "dim": -2}, [(5, 2), (2, 2)]),
    ("chunk", (1, 10), {"chunks": 4}, [(1, 3), (1, 3), (1, 3), (1, 1)]),
    ("chunk", (1, 5), {"chunks": 4}, [(1, 2), (1, 2), (1, 1)]),  # fewer than asked for, as in PyTorch
    ("slice", (4, 9), {"dim": 1, "start": 2, "stop": -1, "step": 3}, [(4, 2)]),  # positions 2 and 5
    ("slice", (4, 9), {"dim": 1, "start": None, "step": -4}, [(4, 3)]),  # positions 8, 4 and 0
    ("slice", (4, 9), {"dim": 1, "start": 7, "stop": 0, "step": -3}, [(4, 3)]),  # positions 7, 4 and 1
    ("slice", (4, 9), {"dim": (0, 1), "start": 1}, [(3, 8)]),  # one bound for both
    ("pad", (1, 2, 5, 6), {"pad": (1, 2)}, [(1, 2, 5, 9)]),
    ("pad", (1, 2, 5, 6), {"pad": (0, -1, 3, 0)}, [(1, 2, 8, 5)]),
    ("reshape", (2, 6, 4), {"shape": (0, 3, -1)}, [(2, 3, 8)]),
    ("reshape", (2, 6, 4), {"shape": (12, 4)}, [(12, 4)]),
    ("reshape", (2, 6, 4), {"shape": (-1, 0)}, [(8, 6)]),
    ("flatten", (2, 3, 4, 5), {}, [(2, 60)]),
    ("flatten", (2, 3, 4, 5), {"start_dim": -3, "end_dim": -2}, [(2, 12, 5)]),
    ("squeeze", (1, 3, 1, 1), {}, [(1, 3)]),  # the batch stays
    ("squeeze", (1, 3, 1, 1), {"dim": (0, 1, -1)}, [(3, 1)]),  # a dimension that is not 1 stays, as in PyTorch
    ("unsqueeze", (2, 3), {"dim": (0, -1)}, [(1, 2, 3, 1)]),
    ("permute", (2, 3, 4), {"dims": (-1, 0, 1)}, [(4, 2, 3)]),
    ("transpose", (2, 3, 4), {"dim0": 0, "dim1": -1}, [(4, 3, 2)]),
    ("expand", (2, 1, 4), {"shape": (5, -1, 3, 0)}, [(5, 2, 3, 4)]),
    ("channel_shuffle", (1, 6, 2), {"groups": 3}, [(1, 6, 2)]),
    ("pixel_shuffle", (1, 18, 2, 4), {"upscale_factor": 3}, [(1, 2, 6, 12)]),
    ("pixel_unshuffle", (1, 2, 6, 12), {"downscale_factor": 3}, [(1, 18, 2, 4)]),
    ("interpolate", (1, 2, 5, 7), {"scale_factor": (2, 0.5)}, [(1, 2, 10, 3)]),
    ("interpolate", (1, 2, 5, 7), {"size": (3, 11)}, [(1, 2, 3, 11)]),
    ("mean", (2, 3, 4, 5), {}, [(2,)]),  # all but the batch
    ("mean", (2, 3, 4, 5), {"dim": (-1, 1), "keepdim": True}, [(2, 1, 4, 1)]),
    ("amax", (2, 3, 4, 5), {"dim": 2}, [(2, 3, 5)]),
]  # fmt: skip


@pytest.mark.parametrize(("op", "shape", "attributes", "outputs"), BY_HAND, ids=str)
def test_shapes_are_those_of_pytorch(op, shape, attributes, outputs):
    g = Graph()
    g.op(op, g.input(shape), name="y", **attributes)
    assert [t.shape for t in g.tensors_of("y")] == outputs


def test_concatenation_adds_one_dimension_and_broadcasting_stretches_ones():
    g = Graph()
    a, b, c = g.input((2, 3, 4)), g.input((2, 5, 4)), g.input((1, 4))
    assert g.concat([a, b, a]).shape == (2, 11, 4)
    assert g.concat([a, a], dim=-1).shape == (2, 3, 8)
    assert g.add(a, c).shape == g.add(c, a).shape == (2, 3, 4)
    assert g.mul(g.input((3, 1)), c).shape == (3, 4)
    assert g.add_n([c, b, g.input((5, 1))]).shape == (2, 5, 4)
    with pytest.raises(errors.ShapeError, match="do not broadcast"):
        g.add(a, b)
    with pytest.raises(errors.ShapeError, match="differ outside the concatenated dimension 2"):
        g.concat([a, b], dim=2)


def test_a_factor_has_to_divide_height_and_width():
    for shape in ((1, 1, 6, 7), (1, 1, 7, 6)):
        g = Graph()
        with pytest.raises(errors.ShapeError, match="not multiples of downscale_factor=3"):
            g.pixel_unshuffle(g.input(shape), 3)


def test_a_literal_batch_in_a_reshape_follows_the_batch():
    g = Graph()
    x = g.input((2, 6))
    g.reshape(x, (2, 3, 2), name="kept")
    assert g.attributes("kept")["shape"] == (0, 3, 2)
    g.reshape(x, (6, 2), name="literal")
    assert g.attributes("literal")["shape"] == (6, 2)
    g.reshape(x, (-1, 3), name="rest")
    assert g.attributes("rest")["shape"] == (-1, 3)


def test_a_window_fits_exactly_or_not_at_all():
    g = Graph()
    x = g.input((1, 2, 4, 3))
    fitting = (4, 3)
    assert g.conv2d(x, 1, fitting).shape == g.avg_pool2d(g.conv2d(x, 1, 1), fitting).shape == (1, 1, 1, 1)
    for larger in ((5, 3), (4, 4)):
        i = int(larger == (4, 4))
        with pytest.raises(errors.ShapeError, match=f"a kernel of {larger[i]} .* along spatial dimension {i}"):
            g.conv2d(x, 1, larger)
        for pool in (g.max_pool2d, g.avg_pool2d):
            with pytest.raises(errors.ShapeError, match=f"a window of {larger[i]} .* along spatial dimension {i}"):
                pool(x, larger)
