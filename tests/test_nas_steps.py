"""The optimizer's step in bulk gives what its trace on the same parameters gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnlive.errors import AttributeValueError
from cnnlive.nas.steps import read_step, step_of
from cnnlive.plan.optimizers import (
    _RULES,
    OPTIMIZERS,
    read_optimizer,
    state_blocks,
    state_from_construction,
    step_trace,
)

CHOICES = [(name, how) for name in OPTIMIZERS for how in _RULES[name].implementations]
NOT_IN_BULK = {
    *[(name, how) for name, how in CHOICES if name.startswith("adafactor") or name == "muon"],
    ("rprop", "foreach"),
    ("asgd", "foreach"),
}
FLAGS = ("amsgrad", "maximize", "nesterov", "centered", "decoupled_weight_decay", "caution")


@st.composite
def rules(draw, choices=CHOICES):
    name, how = draw(st.sampled_from(choices))
    device = draw(st.sampled_from(["cpu", "cuda"]))
    known = _RULES[name].options
    options = {flag: draw(st.booleans()) for flag in FLAGS if flag in known}
    if "weight_decay" in known:
        options["weight_decay"] = draw(st.sampled_from([0.0, 0.1]))
    if "momentum" in known and name != "muon":
        options["momentum"] = 0.9 if options.get("nesterov") else draw(st.sampled_from([0.0, 0.9]))
    if device == "cuda" and "capturable" in known:
        options["capturable"] = draw(st.booleans())
    return read_optimizer(name, device=device, implementation=how, **options), device


sizes = st.integers(1, 40)
shapes = st.lists(st.one_of(st.tuples(sizes), st.tuples(sizes, sizes), st.tuples(sizes, sizes, st.just(3))), max_size=6)


def peak_of(trace):
    change = np.where(trace.events > 0, 1, -1) * trace.nbytes[np.abs(trace.events) - 1]
    return int(np.cumsum(change).max(initial=0))


@given(rule=rules([c for c in CHOICES if c not in NOT_IN_BULK]), shapes=shapes, itemsize=st.sampled_from([2, 4, 8]))
def test_peak_and_state_are_those_of_the_trace(rule, shapes, itemsize):
    rule, device = rule
    if rule.name == "lion" and rule.implementation == "foreach" and rule["caution"]:
        with pytest.raises(AttributeValueError, match="lists and single parameters"):
            read_step(rule, device, itemsize)
        return
    step = read_step(rule, device, itemsize)
    items = [itemsize] * len(shapes)
    elements = [int(np.prod(s)) for s in shapes]
    peak = peak_of(step_trace(rule, shapes, items, device=device, first=False))
    assert step.peak_of(elements) == peak
    total = sum(elements) * itemsize
    if step.lists:
        assert step.peak([total, 0], [len(shapes), 0]).tolist() == [peak, 0]
        assert step.pair(3, 4) == 0
    else:
        with pytest.raises(AttributeValueError, match="after the other"):
            step.peak(total, len(shapes))
    where = "cpu"
    if (state_from_construction(rule) and step.lists and rule.implementation == "foreach") or dict(rule.options).get(
        "capturable"
    ):
        where = device
    assert step.state_bytes(total, len(shapes)) == state_blocks(rule, shapes, items, device=where).sum()


@given(
    rule=rules([c for c in CHOICES if c[1] == "single" and c[0] != "muon"]),
    shapes=shapes,
    cut=st.integers(0, 6),
    itemsize=st.sampled_from([2, 4, 8]),
)
def test_steps_of_pieces_compose(rule, shapes, cut, itemsize):
    rule, device = rule
    first, held = step_of(rule, device, itemsize, shapes[:cut])
    second, _ = step_of(rule, device, itemsize, shapes[cut:], held)
    assert max(first, second) == peak_of(step_trace(rule, shapes, [itemsize] * len(shapes), device=device, first=False))


@pytest.mark.parametrize(("name", "how"), sorted(NOT_IN_BULK))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_totals_and_pairs_do_not_tell_is_refused(name, how, device):
    with pytest.raises(AttributeValueError, match="not known in bulk"):
        read_step(read_optimizer(name, device=device, implementation=how), device, 4)


def test_a_step_that_holds_more_than_the_parameter_before_is_refused(monkeypatch):
    from cnnlive.plan import optimizers  # noqa: PLC0415

    program = optimizers._Program("", (("each", "older=old old=x +x"),))
    monkeypatch.setitem(optimizers._RULES, "three", optimizers._Rule(lambda _c: program, {}))
    with pytest.raises(AttributeValueError, match="more than the parameter before"):
        read_step(optimizers.Optimizer("three", (), "single"), "cuda", 4)


def test_lion_in_chunks_and_lists_have_no_pieces():
    with pytest.raises(AttributeValueError, match="not known in bulk"):
        read_step(read_optimizer("lion", chunk_elements=100), "cuda", 4)
    with pytest.raises(AttributeValueError, match="goes through lists"):
        step_of(read_optimizer("adam"), "cuda", 4, [(3,)])
