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
    plan = plan_inference(g)
    stolen = Tampered(
        plan, buffer_of=plan.buffer_of | {"y": "x"}, profile=replace(plan.profile, inplace="dead"),
        buffers=tuple(b for b in plan.buffers if b.name != "y"),
    )  # fmt: skip
    with pytest.raises(VerificationError, match="sum reads x after its bytes were overwritten"):
        check_inference(g, stolen)


def test_orders_are_checked_by_name():
    g = net()
    check_order(g, g.nodes())
    with pytest.raises(VerificationError, match="r runs before z"):
        check_order(g, ["x", "y", "flat", "r", "z", "back", "sum", "pool"])
