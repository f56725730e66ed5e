"""The independent check finds what is wrong with a plan."""

from dataclasses import replace

import numpy as np
import pytest

from cnnlive import Graph, plan_inference
from cnnlive.verify import VerificationError, check_inference, check_order


def net():
    g = Graph()
    x = g.input((1, 2, 4, 4), name="x")
    y = g.conv2d(x, 2, 1, name="y")
    flat = g.flatten(y, name="flat")
    z = g.relu(g.conv2d(x, 2, 1, name="z"), inplace=True, name="r")
    g.add(g.reshape(flat, (0, 2, 4, 4), name="back"), z, name="sum")
    g.max_pool2d(z, 2, name="pool")
    return g


class Tampered:
    """A plan with one property replaced."""

    def __init__(self, plan, **changes):
        self._plan, self._changes = plan, changes

    def __getattr__(self, name):
        return self._changes[name] if name in self._changes else getattr(self._plan, name)


def test_good_plans_pass():
    for options in ({}, {"profile": "torch_fx"}, {"inplace": "dead"}, {"inplace": "never"}):
        check_inference(net(), plan_inference(net(), **options))


def changed(plan, name, **life):
    return tuple(b._replace(**life) if b.name == name else b for b in plan.buffers)


def stolen(plan, thief, home):
    """The plan where an op takes over a buffer that lives to the end, as if a runtime had let it."""
    buffers = tuple(b for b in changed(plan, home, dead=len(plan.order)) if b.name != thief)
    profile = replace(plan.profile, inplace="dead")
    return Tampered(plan, buffer_of=plan.buffer_of | {thief: home}, profile=profile, buffers=buffers)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda p: {"timeline": np.zeros_like(p.timeline)}, "the timeline says 0"),
        (lambda p: {"activation_peak_bytes": 1}, "the peak 1 is not the timeline's maximum"),
        (lambda p: {"peak_op": "x"}, "is not where the peak is"),
        (lambda p: {"order": p.order[[1, 0, *range(2, 8)]]}, "y runs before x"),
        (lambda p: {"order": p.order[[0, 0, *range(2, 8)]]}, "x runs twice"),
        (lambda p: {"order": p.order[:-1]}, "pool never runs"),
        (lambda p: {"buffers": changed(p, "y", dead=6)}, r"sum at step 6 reads back in y, alive in \[1, 6\)"),
        (lambda p: {"buffers": changed(p, "y", nbytes=1)}, "the buffer y is of the wrong size"),
        (lambda p: {"buffers": changed(p, "sum", dead=7)}, r"the caller at step 7 reads sum"),
        (lambda p: {"buffer_of": p.buffer_of | {"flat": "flat"}}, "flat has to share the bytes"),
        (
            lambda p: {"buffer_of": p.buffer_of | {"flat": "x"}},
            "flat lies in x, but the bytes it looks at in y",
        ),
        (lambda p: {"buffer_of": p.buffer_of | {"sum": "y"}}, "sum may not take over the bytes of y"),
        (lambda p: {"profile": replace(p.profile, fuse=True)}, "a fused plan"),
        (lambda p: {"profile": replace(p.profile, pool_indices=True)}, r"step 7 \(pool\) holds"),
    ],
)
def test_what_is_wrong_is_named(tamper, message):
    plan = plan_inference(net())
    with pytest.raises(VerificationError, match=message):
        check_inference(net(), Tampered(plan, **tamper(plan)))


def test_overwritten_bytes_are_not_read():
    g = Graph()
    x = g.input((1, 4), name="x")
    y = g.relu(x, name="y")
    g.add(y, x, name="sum")
    with pytest.raises(VerificationError, match="sum reads x after its bytes were overwritten"):
        check_inference(g, stolen(plan_inference(g), "y", "x"))


def test_orders_are_checked_by_name():
    g = net()
    check_order(g, g.nodes())
    with pytest.raises(VerificationError, match="r runs before z"):
        check_order(g, ["x", "y", "flat", "r", "z", "back", "sum", "pool"])


def test_good_plans_pass_where_pieces_are_overwritten():
    # Halves of a half: what works in one of them leaves the others as they were.
    g = Graph()
    y = g.conv2d(g.input((1, 1, 2, 2)), 4, 1, name="y")
    left, right = g.chunk(y, 2)
    upper, lower = g.chunk(g.identity(left), 2)
    z = g.relu(upper, inplace=True)
    g.output(g.concat([z, lower, right, g.mul(right, g.parameter((2, 1, 1)))]))
    for mode in ("graph", "dead", "never"):
        check_inference(g, plan_inference(g, inplace=mode))


@pytest.mark.parametrize(
    ("late", "overwritten"),
    [
        (lambda g, y, left, right: g.flatten(left, name="seen"), True),  # the same piece
        (lambda g, y, left, right: g.chunk(left, 1, name="seen")[0], True),  # all of it, as one piece
        (lambda g, y, left, right: g.chunk(y, 2, dim=2, name="seen")[0], True),  # another split may overlap
        (lambda g, y, left, right: g.chunk(y, 2, dim=1, name="seen")[1], True),  # nothing is known of another split
        (lambda g, y, left, right: g.identity(y, name="seen"), True),  # the whole
        (lambda g, y, left, right: g.identity(right, name="seen"), False),  # the other piece
        (lambda g, y, left, right: g.chunk(right, 2, name="seen")[0], False),  # and a piece of that
    ],
    ids=[
        "same piece",
        "all of it as one piece",
        "split along another dimension",
        "another split",
        "the whole",
        "the other piece",
        "a piece of the other",
    ],
)
def test_overwriting_a_piece_spares_the_other_pieces_of_that_split_alone(late, overwritten):
    g = Graph()
    y = g.conv2d(g.input((1, 1, 2, 2)), 4, 1, name="y")
    left, right = g.chunk(y, 2, name="cut")
    seen = late(g, y, left, right)
    g.relu(left, name="z")
    reader = g.sigmoid(seen, name="reader").name
    # Where the bytes that are read are intact, only the timeline is not that of these buffers.
    words = f"{reader} reads {seen.name} after its bytes were overwritten" if overwritten else "the timeline says"
    with pytest.raises(VerificationError, match=words):
        check_inference(g, stolen(plan_inference(g), "z", "y"))


def test_an_op_in_place_has_to_share_and_an_output_has_to_stay_intact():
    g = Graph()
    y = g.conv2d(g.input((1, 1, 2, 2), name="x"), 1, 1, name="y")
    g.relu(y, inplace=True, name="r")
    plan = plan_inference(g)
    with pytest.raises(VerificationError, match="r has to share the bytes of its input"):
        check_inference(g, Tampered(plan, buffer_of=plan.buffer_of | {"r": "r"}))
    g = Graph()
    y = g.conv2d(g.input((1, 1, 2, 2), name="x"), 1, 1, name="y")
    g.output(y, g.relu(y, name="r"))
    with pytest.raises(VerificationError, match="the caller reads y after its bytes were overwritten"):
        check_inference(g, stolen(plan_inference(g), "r", "y"))


def test_what_is_stored_is_readable_at_any_time():
    g = Graph()
    p = g.parameter((1, 2, 4, 4), name="p")
    g.output(g.add(g.input((1, 2, 4, 4)), p), p)
    check_inference(g, plan_inference(g))


def test_what_is_stored_or_kept_by_the_caller_is_never_taken_over():
    g = Graph()
    x, p = g.input((1, 4), name="x"), g.parameter((1, 4), name="p")
    g.add(g.sigmoid(x, name="y"), g.tanh(p, name="z"), name="sum")
    with pytest.raises(VerificationError, match="z may not take over the bytes of p"):
        check_inference(g, stolen(plan_inference(g), "z", "p"))
    with pytest.raises(VerificationError, match="y may not take over the bytes of x"):
        check_inference(g, stolen(plan_inference(g, profile="torch_fx"), "y", "x"))
    check_inference(g, plan_inference(g, inplace="dead"))  # an input that nobody keeps may be
    assert plan_inference(g, inplace="dead").buffer_of["y"] == "x"
