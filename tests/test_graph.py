"""The graph: building, errors that name the node, parameters, other forms."""

import json

import networkx as nx
import pytest
from hypothesis import given
from strategies import graphs

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
    assert g.sum(x[2], 1).shape == g.amax(x[2], 1).shape == (1, 6, 6)
    assert g.cast(x[2], "half").dtype == "float16"
    assert g.matmul(x[2], g.parameter((6, 2))).shape == (1, 4, 6, 2)
    assert g.linear(x[1], 5).shape == (1, 4, 5)
    assert g.layer_norm(x[1], 6).shape == g.group_norm(x[1], 2).shape == g.local_response_norm(x[1], 5).shape
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
    with pytest.raises(errors.GraphError, match="tied to 'nobody'"):
        g.op("conv2d", x, out_channels=4, kernel_size=3, tied="nobody")
    with pytest.raises(errors.GraphError, match="whose weight has the shapes"):
        g.op("conv2d", x, out_channels=4, kernel_size=1, tied={"weight": "a"})
    with pytest.raises(errors.GraphError, match="the role 'mean'; allowed: bias, weight"):
        g.op("conv2d", x, out_channels=4, kernel_size=3, tied={"mean": "a"})


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
