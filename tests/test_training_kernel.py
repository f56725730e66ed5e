"""The kernel that runs a training step, against the autograd engine from its definition."""

import naive
import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive import Graph, lower
from cnnlive.plan.training import _run
from cnnlive.tape import record


def compare(tape, net, batch, accumulates):
    """Assert that kernel and oracle give the same total after every event, and the same worst instants."""
    run = _run(net, tape, batch, accumulates)
    answer = run.answer.tolist()
    events = run.events[: answer[0]]
    totals = np.cumsum(np.where(events > 0, 1, -1) * run.nbytes[np.abs(events) - 1]).tolist()
    truth = naive.train_step(tape, net.sizes_at(batch).dims, accumulates)
    assert totals == truth.totals
    assert answer[2] == truth.forward_end
    for k, phase in ((3, "forward"), (9, "backward")):
        total, parts = truth.peaks[phase]
        assert answer[k] == total
        assert answer[k + 3 : k + 6] == [parts.get(kind, 0) for kind in ("forward", "backward", "gradient")]
        if total:
            assert totals[answer[k + 2] - 1] == total  # the event that reaches it
    assert answer[15:18] == [truth.end.get(kind, 0) for kind in ("gradient", "forward", "backward")]
    assert max(run.forward.tolist(), default=0) == truth.peaks["forward"][0]
    return run, truth


@settings(max_examples=100)
@given(
    graph=strategies.training_graphs(),
    options=strategies.TRAINING_OPTIONS,
    batch=st.integers(1, 3),
    accumulates=st.booleans(),
)
def test_a_step_is_the_engine_from_its_definition(graph, options, batch, accumulates):
    net = lower(graph)
    dtype, autocast = options["precision"]
    others = {key: value for key, value in options.items() if key != "precision"}
    compare(record(net, dtype=dtype, autocast=autocast, **others), net, batch, accumulates)


@settings(max_examples=30)
@given(graph=strategies.training_graphs(), frames=st.booleans(), batch=st.integers(1, 3))
def test_an_inference_on_a_tape_keeps_nothing(graph, frames, batch):
    net = lower(graph)
    tape = record(net, train=False, frames=frames)
    run, truth = compare(tape, net, batch, False)
    alive = np.flatnonzero(run.refs[: len(tape.store_spec)] > 0)
    assert tape.root == -1
    assert len(tape.saved_idx) == len(tape.code) == len(tape.saved_stores) == 0
    assert run.nbytes[alive].sum() == truth.forward_end
    assert len(alive) <= len(net.outputs)


@pytest.mark.parametrize("held", [False, True])
def test_the_gradient_of_the_loss_counts_before_anything_is_made_of_it(held):
    g = Graph()
    x = g.input((1, 1))
    g.output(g.add(x, g.parameter((1, 1))))
    net = lower(g)
    run, _ = compare(record(net, loss="output", host_scalars=held), net, 1, False)
    # The parameter steals it, unless the caller holds it: then it is copied.
    assert run.answer[9] == 4 + 4 + (4 if held else 0)
    assert run.answer[15:18].tolist() == [4, 4, 0]


def test_a_leaf_that_two_ops_read_gathers_once():
    g = Graph()
    x = g.input((1, 2, 4, 4))
    y = g.op("conv2d", x, out_channels=2, kernel_size=1, name="first")
    y = g.op("conv2d", y, out_channels=2, kernel_size=1, tied="first")
    g.linear(g.flatten(y), 3)
    net = lower(g)
    tape = record(net)
    compare(tape, net, 2, False)
    assert sorted(tape.leaf_uses.tolist())[-2:] == [2, 2]


@pytest.mark.parametrize("accumulates", [False, True])
def test_nodes_that_the_loss_does_not_lead_to_keep_nothing_and_do_not_run(accumulates):
    g = Graph()
    x = g.input((1, 2, 4, 4))
    a, b = g.chunk(g.conv2d(x, 4, 1), 2)
    g.relu(g.conv2d(b, 8, 3))  # nobody reads it
    g.output(g.linear(g.flatten(g.global_avg_pool2d(a)), 3))
    net = lower(g)
    tape = record(net)
    run, _ = compare(tape, net, 3, accumulates)
    asleep = [p for p, (_, name) in enumerate(tape.records) if run.backward[p] == 0]
    assert [tape.records[p][1] for p in asleep] == ["conv2d", "relu"]
    assert not any(tape.saved_ptr[p + 1] - tape.saved_ptr[p] for p in asleep)
    # Half of the map's gradient is zeros that nobody delivered: made, and added to nothing.
    assert 8 in tape.code[:, 0].tolist()


def test_an_expanded_gradient_is_never_added_to_in_place():
    g = Graph()
    x = g.conv2d(g.input((1, 2, 4, 4)), 2, 1)
    y = g.relu(x)
    total = g.sum(x, dim=(2, 3), keepdim=True)  # the later op delivers first: one number per map, seen as a map
    g.output(g.linear(g.flatten(g.mul(y, total)), 3))
    net = lower(g)
    run, _ = compare(record(net), net, 2, False)
    made_by = run.owner[: run.answer[1]] - len(run.backward)
    assert np.count_nonzero(made_by == 1) == 2  # by the ReLU: its gradient, and the sum of both


def test_a_convolution_of_permuted_maps_gives_permuted_gradients():
    g = Graph()
    x = g.conv2d(g.input((1, 2, 4, 4)), 3, 1)
    y = g.permute(g.conv2d(g.permute(x, (0, 2, 3, 1)), 4, 3, padding=1), (0, 3, 1, 2))
    g.output(g.linear(g.flatten(g.permute(y, (0, 2, 1, 3))), 3))
    net = lower(g)
    tape = record(net)
    compare(tape, net, 2, False)
    assert 2 in tape.code[:, 3].tolist()


def test_slices_of_a_gradient_are_added_up_in_a_new_one_while_the_whole_is_held():
    g = Graph()
    x = g.conv2d(g.input((1, 1, 8, 8)), 4, 1)
    g.linear(g.flatten(g.global_avg_pool2d(g.concat([x, x]))), 3)
    net = lower(g)
    tape = record(net)
    run, truth = compare(tape, net, 2, False)
    assert tape.records[run.answer[10]][1] == "cat"
    whole = 2 * 8 * 64 * 4
    # The gradient of the whole, held through both slices, and their sum.
    assert whole + whole // 2 <= truth.peaks["backward"][1]["backward"] < 2 * whole
    assert 4 in tape.code[:, 0].tolist()


def test_a_slice_along_the_first_dimension_is_contiguous():
    g = Graph()
    x = g.conv2d(g.input((1, 2, 4, 4)), 2, 1)
    g.output(g.linear(g.flatten(g.concat([x, g.relu(x)], dim=0)), 3))
    net = lower(g)
    run, _ = compare(record(net), net, 1, False)
    assert run.answer[17] == 0


def made_backward(tape, run, name):
    """How many storages the records of a name make in backward."""
    owners = run.owner[: run.answer[1]] - len(tape.records)
    return sum(tape.records[p][1] == name for p in owners.tolist() if p >= 0)


@pytest.mark.parametrize("times", [1, 2])
def test_a_reshape_copies_a_gradient_that_was_permuted_once_and_not_one_that_was_permuted_back(times):
    g = Graph()
    x = g.reshape(g.conv2d(g.input((1, 2, 4, 4)), 4, 1), (0, 2, 2, 4, 4))
    for _ in range(times):
        x = g.permute(x, (0, 2, 1, 3, 4))
    g.linear(g.flatten(g.contiguous(x)), 3)
    net = lower(g)
    tape = record(net)
    run, _ = compare(tape, net, 2, False)
    assert made_backward(tape, run, "reshape") == (1 if times == 1 else 0)


def test_a_gradient_laid_out_as_its_permuted_input_is_contiguous_to_what_permuted_it():
    g = Graph()
    x = g.permute(g.conv2d(g.input((1, 2, 4, 4)), 4, 1), (0, 2, 3, 1))
    x = g.conv2d(g.permute(g.linear(x, 4), (0, 3, 1, 2)), 4, 3)
    g.linear(g.flatten(x), 3)
    net = lower(g)
    tape = record(net)
    run, _ = compare(tape, net, 2, False)
    assert made_backward(tape, run, "view") == 0


@pytest.mark.parametrize("dim", [0, 1])
def test_a_slice_that_nobody_shares_is_added_to_in_place_if_it_is_contiguous(dim):
    g = Graph()
    x = g.conv2d(g.input((1, 2, 4, 4)), 2, 1)
    y = g.relu(x)
    z = g.concat([x, g.input((1, 2, 4, 4))], dim=dim)  # read last, so its gradient comes first
    g.output(g.linear(g.flatten(z), 3), g.linear(g.flatten(y), 3))
    net = lower(g)
    tape = record(net)
    run, _ = compare(tape, net, 2, False)
    assert made_backward(tape, run, "relu") == (1 if dim == 0 else 2)
