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
