"""A training step as a problem of recomputation: with everything kept it is the step that plan_training knows."""

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive import Graph, lower, plan_training, zoo
from cnnlive.errors import RematError
from cnnlive.plan.remat import RematProblem, plan_remat
from cnnlive.plan.steps import _groups, _Part, step_graph
from cnnlive.verify_remat import check_remat


def steps_of(plan, **options):
    n = plan.tape.n_records
    return step_graph(plan, np.full(n, 10, np.int64), np.full(n, 20, np.int64), **options)


def evaluated(problem):
    """The plan in which everything is kept."""
    return plan_remat(problem, budget=problem.peak_bytes)


def agree(plan):
    """Assert that node by node the problem has the bytes that the step has record by record."""
    step = steps_of(plan)
    kept = evaluated(step.problem)
    assert step.problem.peak_bytes == kept.peak_bytes == plan.peak_bytes
    assert kept.cost == step.problem.plain_cost
    check_remat(kept)
    n = plan.tape.n_records
    most = np.zeros(2 * n + 1, np.int64)
    where = np.where(step.phase == 0, step.record, 2 * n - 1 - step.record)
    where[step.phase == 2] = 2 * n
    mine = (step.record >= 0) | (step.phase == 2)
    np.maximum.at(most, where[mine], kept.timeline[mine])
    truth = plan.timeline.copy()
    seen = truth > 0
    # the gradient of the loss is there before the first record of backward begins
    assert (most[seen] == truth[seen]).all()
    assert (most[~seen] == 0).all()
    return step


@settings(max_examples=80)
@given(graph=strategies.training_graphs(), data=st.data())
def test_with_everything_kept_it_is_the_step_byte_for_byte(graph, data):
    options = {
        "device": data.draw(st.sampled_from(["cpu", "cuda"])),
        "optimizer": data.draw(st.sampled_from(["sgd", "adam", "adagrad"])),
        "precision": data.draw(st.sampled_from(["float32", "bfloat16", "autocast"])),
        "zero_grad": data.draw(st.sampled_from(["before_forward", "before_backward", "after_step"])),
        "micro_batches": data.draw(st.integers(1, 2)),
        "first_step": data.draw(st.booleans()),
        "host_scalars": data.draw(st.booleans()),
    }
    agree(plan_training(graph, batch=data.draw(st.integers(1, 3)), **options))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "googlenet", "shufflenet_v2_x1_0"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nets_of_the_zoo_are_the_steps_that_they_are(name, device):
    step = agree(plan_training(zoo.load(name, train=True), batch=4, device=device))
    assert step.problem.n < 2.4 * step.plan.tape.n_records + 4


@settings(max_examples=60)
@given(graph=strategies.training_graphs(), share=st.floats(0.0, 1.0), batch=st.integers(1, 3))
def test_plans_below_the_peak_are_legal(graph, share, batch):
    problem = steps_of(plan_training(graph, batch=batch)).problem
    assert problem.to_dict() == RematProblem.from_dict(problem.to_dict()).to_dict()
    floor = problem.fixed_bytes
    budget = floor + int((problem.peak_bytes - floor) * share)
    try:
        plan = plan_remat(problem, budget=budget)
    except RematError as error:
        budget = error.minimum_bytes
        assert budget > floor
        plan = plan_remat(problem, budget=budget)
    check_remat(plan)


def block(inplace=True):
    """Convolution, normalisation, activation in place, twice, with a skip and a dropout."""
    g = Graph("block")
    x = g.input((1, 3, 8, 8), name="input")
    x = g.conv2d(x, 8, kernel_size=3, padding=1, name="conv1")
    y = g.batch_norm2d(x, name="bn1")
    y = g.relu(y, inplace=inplace, name="relu1")
    y = g.conv2d(y, 8, kernel_size=3, padding=1, name="conv2")
    y = g.add(x, y, name="add")
    y = g.dropout(y, p=0.5, name="drop")
    y = g.flatten(y, name="flatten")
    g.output(g.linear(y, 4, name="fc"))
    return g


def node(step, name):
    return step.problem.names.index(name)


def values_of(step, name):
    i = node(step, name)
    return list(range(step.problem.out_ptr[i], step.problem.out_ptr[i + 1]))


def test_an_op_in_place_takes_over_the_bytes_of_what_it_reads():
    step = steps_of(plan_training(block(), batch=2))
    (relu,), (bn, *statistics) = values_of(step, "relu1"), values_of(step, "bn1")
    assert step.problem.share[relu] == bn
    assert step.problem.overwrites[relu] == 1
    assert step.store[relu] == step.store[bn]
    assert len(statistics) == 2
    apart = steps_of(plan_training(block(inplace=False), batch=2))
    assert apart.problem.share[values_of(apart, "relu1")[0]] == -1


def test_random_ops_run_again_only_when_asked():
    plan = plan_training(block(), batch=2)
    step = steps_of(plan)
    assert not step.problem.may_rerun[node(step, "drop")]
    assert step.problem.may_rerun[node(step, "conv2")]
    step = steps_of(plan, recompute_random=True)
    assert step.problem.may_rerun[node(step, "drop")]


def test_views_losses_and_the_optimizer_do_not_run_again():
    step = steps_of(plan_training(block(), batch=2))
    p = step.problem
    for name in p.names:
        if "loss" in name or name in ("flatten", "optimizer.step"):
            assert not p.may_rerun[node(step, name)], name
    assert p.names[-1] == "optimizer.step"
    assert p.names[p.loss] == "loss (nll_loss_forward)"


def test_what_python_holds_is_not_dropped_before_it_lets_go():
    # x is read by the normalisation and by the sum: nothing between them may drop it
    step = steps_of(plan_training(block(), batch=2))
    (x,) = values_of(step, "conv1")
    assert step.problem.held[x] == node(step, "add")
    g = Graph("held")
    a = g.conv2d(g.input((1, 3, 8, 8)), 4, kernel_size=3, name="a")
    b = g.relu(a, name="b")
    c = g.relu(b, name="c")
    g.hold(a, until=c)
    g.output(c)
    step = steps_of(plan_training(g, batch=1, loss="mse"))
    (a,) = values_of(step, "a")
    assert step.problem.names[step.problem.held[a]] == "c (release)"


def test_an_input_overwritten_later_pins_what_reads_it_before():
    g = Graph("overwritten")
    x = g.input((1, 3, 8, 8), name="x")
    a = g.conv2d(x, 4, kernel_size=1, name="a")
    y = g.relu(x, inplace=True, name="y")
    b = g.conv2d(y, 4, kernel_size=1, name="b")
    g.output(g.add(a, b, name="sum"))
    plan = plan_training(g, batch=1, loss="mse")
    pinned = {plan.network.op_names[op] for (op, _), p in zip(plan.tape.records, plan.tape.pinned, strict=True) if p}
    assert pinned == {"a", "y"}
    step = steps_of(plan)
    assert [step.problem.may_rerun[node(step, n)] for n in ("a", "b", "sum")] == [0, 1, 1]


def test_numbers_that_pytorch_wraps_are_held_until_backward():
    g = Graph("scaled")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, kernel_size=3, name="a")
    g.output(g.scale(x, factor=2.0, name="twice"))
    step = steps_of(plan_training(g, batch=1, loss="mse", host_scalars=True))
    number, _ = values_of(step, "twice")
    assert step.problem.nbytes[number] == 8
    assert step.problem.names[step.problem.held[number]] == "twice backward"


def test_outputs_of_the_network_are_held_to_the_end():
    step = steps_of(plan_training(block(), batch=2))
    (scores,) = values_of(step, "fc")
    assert step.problem.outlives[scores]
    assert step.problem.held[scores] == step.problem.n - 1
    assert step.problem.names[-1] == "optimizer.step"


def test_what_a_record_does_after_it_has_let_go_reads_nothing_saved():
    step = steps_of(plan_training(zoo.load("unet"), batch=2))
    later = [i for i, name in enumerate(step.problem.names) if name.endswith("backward (2)")]
    assert later
    for i in later:
        reads = step.problem.in_idx[step.problem.in_ptr[i] : step.problem.in_ptr[i + 1]]
        assert (step.store[reads] < 0).all()


def test_what_is_overwritten_is_held_until_then():
    g = Graph("late in place")
    a = g.conv2d(g.input((1, 3, 8, 8)), 4, kernel_size=3, name="a")
    b = g.sigmoid(a, name="b")
    c = g.relu(a, inplace=True, name="c")
    g.output(g.add(b, c, name="sum"))
    step = steps_of(plan_training(g, batch=1, loss="mse"))
    (before,) = values_of(step, "a")
    assert step.problem.held[before] == node(step, "c")


def test_a_product_is_held_while_a_number_is_added():
    g = Graph("affine")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, kernel_size=3, name="a")
    g.output(g.scale(x, factor=2.0, offset=1.0, name="affine"))
    step = agree(plan_training(g, batch=1, loss="mse"))
    (product,) = values_of(step, "affine (mul)")
    assert step.problem.held[product] == node(step, "affine (add)")


@pytest.mark.parametrize(
    ("parts", "groups"),
    [
        # storages 0 to 3 have 10, 8, 9 and 5 bytes: what is made, what is let go, whether what was saved goes then
        ([([0], [], False), ([2], [], False)], [([0, 2], 19, False)]),
        ([([0], [0], False), ([1], [], False)], [([0, 1], 10, False)]),
        ([([0], [9], False), ([2], [], False)], [([0], 10, False), ([2], 9, False)]),  # 15 at once, and 19 live on
        ([([0], [0], True), ([1], [], True)], [([0, 1], 10, False)]),  # no more than before what was saved goes
        ([([1], [1], True), ([0], [], True)], [([1], 8, False), ([0], 10, True)]),  # more than before
        ([([1], [1], True), ([0], [0], True), ([2], [], True)], [([1], 8, False), ([0, 2], 10, True)]),
        ([([1], [1], False), ([0], [], True)], [([1, 0], 10, False)]),
    ],
)  # fmt: skip
def test_stretches_of_backward_are_one_node_where_that_says_the_same(parts, groups):
    nbytes = [10, 8, 9, 5, 0, 0, 0, 0, 0, 4]
    found = _groups([_Part(*p) for p in parts], nbytes)
    assert [(g.made, g.most, g.behind) for g in found] == groups


def test_costs_are_one_for_each_record():
    plan = plan_training(block(), batch=2)
    one = np.ones(plan.tape.n_records, np.int64)
    with pytest.raises(RematError, match="forward has 1 costs; allowed: one for each of"):
        step_graph(plan, one[:1], one)
    with pytest.raises(RematError, match="backward has 1 costs"):
        step_graph(plan, one, one[:1])
    net = lower(block())
    assert repr(steps_of(plan_training(net, batch=2))).startswith("<StepGraph 'block': ")
