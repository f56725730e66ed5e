"""The operator table: every entry is whole, and a user's operator takes the same path as a built-in one."""

import json
from pathlib import Path

import naive
import numpy as np
import pytest

import cnnlive
from cnnlive import Graph, errors, lower, plan_inference, verify
from cnnlive.ops import OPERATORS, Attribute, Operator, Weight, operator, register, unregister
from cnnlive.ops._entry import integer


@pytest.fixture
def registered():
    entries = []

    def add(**columns):
        entries.append(register(Operator(**columns)))
        return entries[-1]

    yield add
    for entry in entries:
        unregister(entry.name)


@pytest.mark.parametrize("entry", OPERATORS.values(), ids=OPERATORS)
def test_every_entry_is_whole(entry):
    assert entry.summary
    assert entry.name == entry.name.lower()
    least, most = entry.inputs
    assert most is None or least <= most
    assert all(i < (most or least) for i in entry.overwrites)
    assert bool(entry.overwrites) == (entry.alias == "elementwise")
    assert ("inplace" not in entry.attributes) or entry.alias in ("elementwise", "view")
    for key, attribute in entry.attributes.items():
        if attribute.default != "required":
            assert attribute.read(attribute.default) is not NotImplemented, key
            assert attribute.read(attribute.read(attribute.default)) == attribute.read(attribute.default), key


def test_a_registered_operator_plans_like_a_built_in_one(registered):
    registered(
        name="swish2", summary="x * sigmoid(x)", shape="same", alias="elementwise", overwrites=(0,), folds="activation",
        attributes=dict(operator("relu").attributes),
    )  # fmt: skip

    def net(op):
        g = Graph()
        x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3)
        g.linear(g.flatten(g.op(op, x, inplace=True, name="act")), 10)
        return g

    for options in ({}, {"fuse": True}, {"inplace": "dead"}, {"inplace": "never"}, {"batch": 3}):
        ours, theirs = (plan_inference(net(op), **options) for op in ("swish2", "relu"))
        assert ours.timeline.tolist() == theirs.timeline.tolist()
        assert ours.peak_bytes == theirs.peak_bytes
    verify.check_inference(net("swish2"), plan_inference(net("swish2")))
    assert Graph.from_networkx(net("swish2").nx).to_dict() == net("swish2").to_dict()


def test_a_registered_operator_may_bring_shapes_and_weights_of_its_own(registered):
    registered(
        name="pair_conv",
        summary="Two convolutions with one kernel, as two outputs.",
        attributes={"out_channels": Attribute("required", integer(1), "int")},
        shape=lambda shapes, a: ((shapes[0][0], a["out_channels"], *shapes[0][2:]),) * 2,
        weights=lambda shapes, a: (
            Weight("weight", "weight", (a["out_channels"], shapes[0][1])),
            Weight("buffer", "window", (7,)),
        ),
    )
    g = Graph()
    x = g.input((2, 3, 4, 4))
    a, b = g.op("pair_conv", x, out_channels=5)
    g.add(a, b)
    assert a.shape == (2, 5, 4, 4)
    net = lower(g)
    assert (net.n_parameters, net.n_buffers) == (g.n_parameters, g.n_buffers) == (15, 7)
    assert plan_inference(g, batch=6).activation_peak_bytes == 3 * 6 * 5 * 16 * 4  # the batch scales
    assert net.shape(1, net.sizes_at(6)) == (6, 5, 4, 4)


def test_a_registered_shape_rule_may_fail_with_words_of_its_own(registered):
    def refuse(shapes, attrs):
        raise errors.ShapeError("only on Sundays")

    registered(name="moody", summary="Fails.", shape=refuse)
    g = Graph()
    with pytest.raises(errors.ShapeError, match=r"moody \(moody\): only on Sundays \[input shapes: \(1, 2\)\]"):
        g.op("moody", g.input((1, 2)))


def test_names_are_taken_once(registered):
    registered(name="mine", summary="Mine.", shape="same")
    with pytest.raises(errors.GraphError, match="'mine' is already registered"):
        register(Operator(name="mine", summary="Mine too.", shape="same"))
    with pytest.raises(errors.GraphError, match="'conv2d' is already registered"):
        register(Operator(name="conv2d", summary="Mine too.", shape="same"))
    with pytest.raises(errors.UnknownOperatorError, match="'nobody'"):
        unregister("nobody")


def test_an_unregistered_operator_is_unknown_also_to_a_graph_that_has_it():
    register(Operator(name="fleeting", summary="Soon gone.", shape="same"))
    g = Graph()
    g.op("fleeting", g.input((1,)))
    unregister("fleeting")
    with pytest.raises(errors.UnknownOperatorError, match="'fleeting'"):
        lower(g)


def test_every_column_of_the_lowered_arrays_is_read_only_and_64_bits():
    g = Graph()
    g.relu(g.conv2d(g.input((1, 3, 4, 4)), 3, 1), inplace=True)
    for net in (lower(g), lower(g).fused()):
        columns = [getattr(net, f) for f in type(net).__slots__ if isinstance(getattr(net, f), np.ndarray)]
        columns += [net.sizes.rank, net.sizes.dims, net.sizes.numel]
        assert len(columns) > 20
        for column in columns:
            assert column.dtype == np.int64
            assert column.flags.c_contiguous
            assert not column.flags.writeable


SAVED = json.loads((Path(__file__).parent / "data" / "torch_saved.json").read_text(encoding="utf-8"))["saved_bytes"]


@pytest.mark.parametrize("name", SAVED)
def test_what_the_table_says_backward_keeps_is_what_pytorch_kept(name):
    data = cnnlive.zoo.load(
        name, train=name != "fcn_resnet50", resolution=299 if name == "inception_v3" else 224
    ).to_dict()
    for row in data["ops"]:
        if row["op"] == "input":
            row["attributes"]["shape"] = (8, *row["attributes"]["shape"][1:])
    assert naive.saved_bytes(Graph.from_dict(data)) == SAVED[name]


def test_in_place_and_to_one_position_other_things_are_kept():
    assert operator("relu").saved({"inplace": True}) == operator("relu").saved({"inplace": False}) == ("output",)
    assert [operator("silu").saved({"inplace": i}) for i in (False, True)] == [("input",), ("clone",)]
    assert [operator("leaky_relu").saved({"inplace": i}) for i in (False, True)] == [("input",), ("output",)]
    pool = operator("adaptive_avg_pool2d")
    assert [pool.saved({"output_size": s}) for s in ((1, 1), (1, 2))] == [(), ("input",)]


@pytest.mark.parametrize("column", ["shape", "weights", "macs", "alias", "folds", "dtype"])
def test_a_word_that_the_table_does_not_know_is_an_error(column):
    words = {"shape": "same", column: "guess"}
    with pytest.raises(errors.AttributeValueError, match=f"operator 'mine': {column}='guess'; allowed: '"):
        Operator(name="mine", summary="", **words)


@pytest.mark.parametrize("value", ["10**9", "three", 1.5, float("inf"), float("nan"), None, True])
def test_what_is_no_integer_is_told_what_is_allowed(value):
    g = Graph()
    with pytest.raises(errors.AttributeValueError, match="allowed: an integer >= 1$"):
        g.linear(g.input((1, 3)), value)


def test_every_summary_is_a_sentence():
    for entry in OPERATORS.values():
        assert entry.summary.endswith("."), entry.name


def test_a_registered_operator_counts_no_products_unless_it_says_so(registered):
    conv = operator("conv2d")
    for name, macs in {"lookup": "none", "my_conv": "conv"}.items():
        registered(
            name=name, summary="Has the weights of a convolution.", attributes=dict(conv.attributes), shape="conv",
            weights="conv", macs=macs, folds="base",
        )  # fmt: skip
    g = Graph()
    x = g.input((1, 4, 6, 6))
    g.op("lookup", x, out_channels=2, kernel_size=3)
    assert (lower(g).n_parameters, lower(g).macs()) == (4 * 2 * 9 + 2, 0)
    g.op("my_conv", x, out_channels=2, kernel_size=3)
    assert (lower(g).n_parameters, lower(g).macs()) == (2 * (4 * 2 * 9 + 2), 2 * 4 * 4 * 4 * 9)


def test_a_registered_operator_has_the_aliases_indices_and_types_that_it_says(registered):
    registered(
        name="mine", summary="Takes over either input.", shape="broadcast", inputs=(2, 2), alias="elementwise",
        overwrites=(0, 1),
    )  # fmt: skip
    registered(name="second", summary="Takes over its first input alone.", shape="broadcast", inputs=(2, 2),
               alias="elementwise", overwrites=(0,))  # fmt: skip
    registered(name="peek", summary="A view.", shape="same", alias="view")
    registered(name="top", summary="A maximum with indices.", shape="same", indices=True)
    registered(name="to", summary="Casts.", shape="same", dtype="attribute",
               attributes=dict(operator("cast").attributes))  # fmt: skip

    def net(op):
        g = Graph()
        x = g.input((1, 1, 2, 2))
        a, b = g.conv2d(x, 1, 1, name="a"), g.conv2d(x, 1, 1, name="b")
        y = g.op(op, a, b, name="y")
        return g, a, y

    for op, home in {"mine": "b", "second": "y"}.items():
        g, a, y = net(op)
        g.output(a, y)  # the first input stays
        assert plan_inference(g, inplace="dead").buffer_of["y"] == home
    g = Graph()
    x = g.input((1, 4), name="x")
    y = g.op("top", g.op("peek", x, name="p"), name="t")
    half = g.op("to", y, dtype="float16")
    assert half.dtype == "float16"
    assert plan_inference(g).buffer_of["p"] == "x"
    assert plan_inference(g).timeline.tolist() == [16, 16, 32, 24]
    assert plan_inference(g, profile="torch_fx").timeline.tolist() == [16, 16, 32 + 4 * 8, 16 + 16 + 8]


def test_a_registered_operator_may_demand_more_than_its_shape_rule(registered):
    def even(shapes, attrs):
        if shapes[0][1] % 2:
            raise errors.ShapeError("only even channels")

    registered(name="fussy", summary="Fails.", shape="same", check=even)
    registered(name="void", summary="Gives nothing.", shape=lambda shapes, attrs: ())
    g = Graph()
    g.op("fussy", g.input((1, 2)))
    with pytest.raises(errors.ShapeError, match=r"odd \(fussy\): only even channels \[input shapes: \(1, 3\)\]"):
        g.op("fussy", g.input((1, 3)), name="odd")
    with pytest.raises(errors.ShapeError, match="gives no output"):
        g.op("void", g.input((1, 3)))


def test_a_registered_shape_scales_with_the_batch_only_where_it_is_a_multiple(registered):
    registered(name="pairs", summary="Twice the batch, and a table.",
               shape=lambda shapes, attrs: ((2 * shapes[0][0], 3), (5, 3), (shapes[0][0],)))  # fmt: skip
    g = Graph()
    g.op("pairs", g.input((2, 3)))
    net = lower(g)
    sizes = net.sizes_at(4)
    assert [net.shape(t, sizes) for t in range(4)] == [(4, 3), (8, 3), (5, 3), (4,)]


def test_a_registered_operator_says_how_many_inputs_it_takes(registered):
    registered(name="one_or_two", summary="Takes one or two.", shape="broadcast", inputs=(1, 2))
    registered(name="pair", summary="Takes two.", shape="broadcast", inputs=(2, 2))
    registered(name="some", summary="Takes any number.", shape="broadcast", inputs=(2, None))
    g = Graph()
    x = g.input((1, 3))
    for n in (1, 2):
        g.op("one_or_two", *[x] * n)
    for op, n, allowed in (("one_or_two", 0, "1 to 2"), ("one_or_two", 3, "1 to 2"), ("pair", 3, "2"),
                           ("some", 1, "2 or more")):  # fmt: skip
        with pytest.raises(errors.GraphError, match=rf"\({op}\): {n} inputs; allowed: {allowed}$"):
            g.op(op, *[x] * n)
    assert g.op("some", *[x] * 9).shape == (1, 3)


@pytest.mark.parametrize("shapes", [(1, 3), None, ((1, 2.5),), "abc", [3]])
def test_a_shape_function_that_returns_no_shapes_is_an_error(registered, shapes):
    registered(name="mine", summary=".", shape=lambda _shapes, _attributes: shapes)
    g = Graph()
    with pytest.raises(errors.ShapeError, match="the shape function of mine returned"):
        g.op("mine", g.input((1, 3)))


@pytest.mark.parametrize("weights", [None, (1,), Weight("weight", "w", (3,))])
def test_a_weight_function_that_returns_no_weights_is_an_error(registered, weights):
    registered(name="mine", summary=".", shape="same", weights=lambda _shapes, _attributes: weights)
    g = Graph()
    x = g.input((1, 3))

    def parameters():
        g.op("mine", x)
        return g.n_parameters

    with pytest.raises(errors.AttributeValueError, match="allowed: a tuple of Weight"):
        parameters()


@pytest.mark.parametrize(("role", "shape"), [("wait", (3,)), ("weight", (-3,))])
def test_a_weight_that_cannot_be_is_an_error(role, shape):
    with pytest.raises(errors.AttributeValueError, match="weight 'w': role="):
        Weight(role, "w", shape)


def test_a_fused_op_writes_the_type_of_its_last_part(registered):
    registered(
        name="requantise", summary="Rounds to a type.", shape="same", folds="activation", dtype="attribute",
        attributes=dict(operator("cast").attributes),
    )  # fmt: skip
    g = Graph()
    x = g.conv2d(g.input((1, 1, 4, 4)), 2, 1, name="conv")
    g.op("requantise", x, dtype="int8", name="q")
    plan = plan_inference(g, fuse=True)
    assert plan.timeline.tolist() == [64, 64 + 32]
    assert [(b.name, b.dtype) for b in plan.buffers] == [("input", "float32"), ("conv+q", "int8")]
    assert plan.weight_bytes == 4 * (2 + 2)  # the weights are floating as before


def test_weights_of_a_layer_need_not_come_with_its_shapes(registered):
    registered(
        name="same_conv",
        summary="A convolution that keeps its size.",
        shape="same",
        weights="conv",
        attributes={k: OPERATORS["conv2d"].attributes[k] for k in ("out_channels", "kernel_size", "groups", "bias")},
    )
    registered(
        name="project",
        summary="A matrix that is stored, and a result of another shape.",
        shape=lambda shapes, a: (shapes[0][:1],),
        weights="linear",
        attributes=dict(OPERATORS["linear"].attributes),
    )
    g = Graph()
    x = g.input((1, 4, 6, 6))
    g.op("same_conv", x, out_channels=6, kernel_size=3, groups=2)
    g.op("project", x, out_features=5)
    expected = 4 * 6 // 2 * 9 + 6 + 6 * 5 + 5
    assert lower(g).n_parameters == g.n_parameters == expected


@pytest.mark.parametrize("columns", [{"macs": "conv"}, {"macs": "linear", "shape": "linear"}, {"macs": "matmul"}])
def test_multiply_accumulates_are_counted_or_refused_but_never_left_out(columns):
    with pytest.raises(errors.AttributeValueError, match=r"macs='\w+' is counted from shape='\w+' and weights='\w+'"):
        Operator(**{"name": "odd", "summary": "Odd.", "shape": "same", **columns})


def test_a_slice_without_bounds_is_the_whole_in_either_direction():
    g = Graph()
    x = g.input((1, 5))
    assert [g.slice(x, 1, step=s).shape[1] for s in (1, 2, -1, -2, -5)] == [5, 3, 5, 3, 1]
