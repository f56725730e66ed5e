"""Checkpoints of a training step: what is kept, what is recomputed, and the largest batch with them."""

import json

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive import (
    CheckpointPlan,
    Flops,
    Graph,
    checkpoint_frontier,
    largest_batch,
    lower,
    plan_checkpoints,
    plan_training,
    zoo,
)
from cnnlive.errors import BudgetError, GraphError, RematError, ShapeError, UnitError
from cnnlive.plan.optimizers import read_optimizer
from cnnlive.verify_remat import check_remat, replay


@pytest.fixture(scope="module")
def resnet():
    return lower(zoo.load("resnet18"))


@pytest.fixture(scope="module")
def half(resnet):
    keep = plan_training(resnet, batch=32).peak_bytes
    return plan_checkpoints(resnet, batch=32, budget=int(0.6 * keep))


def drops(batch_norm=True):
    """A chain with batch-norm and dropout."""
    g = Graph("drops")
    x = g.input((1, 3, 16, 16))
    for k in range(4):
        x = g.conv2d(x, 16, kernel_size=3, padding=1, name=f"conv{k}")
        x = g.batch_norm2d(x, name=f"bn{k}") if batch_norm else x
        x = g.dropout(g.relu(x, name=f"relu{k}"), p=0.1, name=f"drop{k}")
    g.output(g.linear(g.flatten(g.adaptive_avg_pool2d(x, 1)), 10, name="fc"))
    return g


def test_a_plan_is_within_its_budget_and_says_what_it_costs(half):
    assert half.peak_bytes <= half.budget < half.keep_bytes
    assert half.peak_bytes == max(half.timeline)
    assert 0 < half.overhead < 0.2
    assert half.lower_bound <= half.cost
    assert half.gap == pytest.approx((half.cost - half.lower_bound) / half.plain_cost)
    assert replay(half.step.problem, half.schedule) == (half.peak_bytes, half.cost)
    assert half.recomputed
    assert set(half.recomputed) <= set(half.training.network.op_names)


def test_keeping_everything_is_the_step_of_plan_training(resnet):
    keep = plan_training(resnet, batch=8, optimizer="sgd", device="cpu")
    plan = plan_checkpoints(resnet, batch=8, budget=keep.peak_bytes, optimizer="sgd", device="cpu")
    assert (plan.peak_bytes, plan.overhead, plan.recomputed) == (keep.peak_bytes, 0.0, {})
    assert plan.status == "optimal"
    # what is kept: what backward saves, and the outputs and the loss, which Python holds
    assert plan.saved_bytes == keep.forward_end_bytes
    assert plan.warnings == ()


@settings(max_examples=40)
@given(graph=strategies.training_graphs(), share=st.floats(0.5, 1.0), batch=st.integers(1, 3))
def test_any_net_has_a_plan_from_the_least_budget_on(graph, share, batch):
    keep = plan_training(graph, batch=batch).peak_bytes
    try:
        plan = plan_checkpoints(graph, batch=batch, budget=int(share * keep))
    except BudgetError as error:
        plan = plan_checkpoints(graph, batch=batch, budget=error.minimum_bytes)
    check_remat(plan.remat)
    assert CheckpointPlan.from_dict(json.loads(json.dumps(plan.to_dict())), graph).to_dict() == plan.to_dict()


def test_a_budget_below_the_least_names_the_least(resnet):
    with pytest.raises(BudgetError, match=r"resnet18, batch 32: no plan for a budget of 1,000 bytes") as caught:
        plan_checkpoints(resnet, batch=32, budget=1000)
    least = caught.value.minimum_bytes
    assert f"{least:,}" in str(caught.value)
    assert plan_checkpoints(resnet, batch=32, budget=least).peak_bytes <= least
    assert f"takes {plan_training(resnet, batch=32).peak_bytes:,}" in str(caught.value)


def test_a_frontier_falls_from_the_least_budget_to_no_overhead(resnet):
    frontier = checkpoint_frontier(resnet, batch=16, points=8)
    costs = [p.cost for p in frontier.plans]
    assert costs == sorted(costs, reverse=True)
    assert frontier.plans[0].budget == frontier.least_bytes >= frontier.least_bound
    assert frontier.plans[-1].overhead == 0.0
    assert frontier.plans[-1].peak_bytes == frontier.keep_bytes == plan_training(resnet, batch=16).peak_bytes
    assert frontier.knee in frontier.plans
    assert (frontier.name, frontier.batch) == ("resnet18", 16)
    data = json.loads(json.dumps(frontier.to_dict()))
    assert [p["cost"] for p in data["plans"]] == costs
    assert "knee" in str(frontier)
    for plan in frontier.plans:
        check_remat(plan.remat)


def test_the_least_budget_of_a_frontier_is_the_floor_where_single_plans_reach_it():
    frontier = checkpoint_frontier(zoo.load("inception_v3"), batch=32, points=2)
    assert frontier.least_bytes == frontier.least_bound
    assert frontier.plans[0].peak_bytes == frontier.least_bytes


def test_a_frontier_does_not_begin_with_a_plan_of_many_times_the_step():
    g = Graph("many blocks")
    x = g.relu(g.conv2d(g.input((1, 3, 32, 32)), 16, 3, padding=1), inplace=True)
    for _ in range(14):
        y = g.relu(g.batch_norm2d(g.conv2d(x, 16, 3, padding=1)), inplace=True)
        x = g.relu(g.add(g.batch_norm2d(g.conv2d(y, 16, 3, padding=1)), x), inplace=True)
    g.linear(g.flatten(g.global_avg_pool2d(x)), 10)
    frontier = checkpoint_frontier(g, batch=16, points=4)
    with pytest.raises(BudgetError) as single:
        plan_checkpoints(g, batch=16, budget=1)
    assert single.value.minimum_bytes < frontier.least_bytes  # the price of going lower is several steps more
    assert frontier.plans[0].overhead < 1


def test_a_frontier_takes_budgets(resnet):
    keep = plan_training(resnet, batch=16).peak_bytes
    frontier = checkpoint_frontier(resnet, batch=16, budgets=[keep, keep * 3 // 4, "1KiB"])
    assert [p.budget for p in frontier.plans] == [keep * 3 // 4, keep]
    with pytest.raises(BudgetError):
        checkpoint_frontier(resnet, batch=16, budgets=["1KiB"])


@pytest.mark.parametrize("method", ["chain", "nested", "checkpoint_sequential", "chen_sqrt", "chen_greedy", "revolve"])
def test_the_search_is_no_worse_than_any_other_method(resnet, method):
    keep = plan_training(resnet, batch=16).peak_bytes
    budget = int(0.9 * keep)
    plan = plan_checkpoints(resnet, batch=16, budget=budget, method=method)
    check_remat(plan.remat)
    assert plan.method == method
    assert plan.peak_bytes <= budget
    assert plan_checkpoints(resnet, batch=16, budget=budget).cost <= plan.cost
    frontier = checkpoint_frontier(resnet, batch=16, points=4, method=method)
    assert [p.method for p in frontier.plans] == [method] * len(frontier.plans)


def test_the_cost_model_decides_what_is_cheap(resnet):
    keep = plan_training(resnet, batch=16).peak_bytes
    roof, flops = (plan_checkpoints(resnet, batch=16, budget=int(0.85 * keep), costs=c) for c in ("roofline", Flops()))
    assert roof.costs.name != flops.costs.name
    assert flops.overhead < roof.overhead  # operations alone make normalisation almost free
    kinds = dict(zip(resnet.op_names, resnet.op_kinds, strict=True))
    assert not any(kinds[op] == "conv2d" for op in flops.recomputed)


def test_random_ops_are_not_recomputed_unless_asked():
    g = drops()
    keep = plan_training(g, batch=64).peak_bytes
    least = []
    for again in (False, True):
        with pytest.raises(BudgetError) as caught:
            plan_checkpoints(g, batch=64, budget=1, recompute_random=again)
        least.append(caught.value.minimum_bytes)
        plan = plan_checkpoints(g, batch=64, budget=least[-1], recompute_random=again)
        assert any(op.startswith("drop") for op in plan.recomputed) is again
        assert any("random ops run again" in w for w in plan.warnings) is again
        read = CheckpointPlan.from_dict(plan.to_dict(), g)
        assert (read.recompute_random, read.cost) == (again, plan.cost)
    assert least[1] < least[0] < keep


def test_batch_norm_that_runs_again_is_named():
    plan = plan_checkpoints(drops(), batch=64, budget=int(0.75 * plan_training(drops(), batch=64).peak_bytes))
    norms = [op for op in plan.recomputed if op.startswith("bn")]
    assert norms
    (warning,) = plan.warnings
    assert warning.startswith(f"{len(norms)} batch-norm layers run again (")
    assert norms[0] in warning
    plain = drops(batch_norm=False)
    plan = plan_checkpoints(plain, batch=64, budget=int(0.75 * plan_training(plain, batch=64).peak_bytes))
    assert plan.recomputed
    assert plan.warnings == ()


def test_a_plan_goes_through_json_with_its_options(resnet):
    rule = read_optimizer("sgd", device="cpu", momentum=0.9)
    keep = plan_training(resnet, batch=4, optimizer=rule, device="cpu", precision="autocast_bfloat16").peak_bytes
    plan = plan_checkpoints(resnet, batch=4, budget=int(0.9 * keep), optimizer=rule, device="cpu",
                            precision="autocast_bfloat16", costs="flops")  # fmt: skip
    data = json.loads(json.dumps(plan.to_dict()))
    read = CheckpointPlan.from_dict(data, resnet)
    assert read.to_dict() == plan.to_dict() | {"options": read.to_dict()["options"]}
    assert read.training.optimizer == rule
    assert (read.schedule, read.peak_bytes) == (plan.schedule, plan.peak_bytes)
    assert str(read) == str(plan)
    assert repr(read) == repr(plan)


def test_a_loss_of_ones_own_is_given_again():
    g = drops(batch_norm=False)

    def loss(graph, outputs):
        return graph.mean(graph.mul(outputs[0], outputs[0]), dim=(0, 1), keepdim=True)

    keep = plan_training(g, batch=64, loss=loss).peak_bytes
    plan = plan_checkpoints(g, batch=64, budget=int(0.8 * keep), loss=loss)
    data = json.loads(json.dumps(plan.to_dict()))
    assert data["options"] == {"loss": None}
    assert CheckpointPlan.from_dict(data, g, loss=loss).cost == plan.cost


def test_data_of_another_net_are_refused(resnet, half):
    data = half.to_dict()
    with pytest.raises(RematError, match="states are not those of drops"):
        CheckpointPlan.from_dict(data, drops())
    with pytest.raises(RematError, match="lacks 'states'"):
        CheckpointPlan.from_dict({k: v for k, v in data.items() if k != "states"}, resnet)
    with pytest.raises(RematError, match="its peak_bytes is"):
        CheckpointPlan.from_dict(data | {"batch": 31}, resnet)
    with pytest.raises(RematError, match="states are not those of resnet18"):
        CheckpointPlan.from_dict(data | {"states": [7] * len(data["states"])}, resnet)


def test_the_largest_batch_grows_with_checkpoints(resnet):
    budget = "4GiB"
    plain = largest_batch(resnet, budget=budget)
    some, more = (largest_batch(resnet, budget=budget, checkpoints=True, max_overhead=x) for x in (0.05, 0.2))
    assert plain < some < more
    plan = plan_checkpoints(resnet, batch=more, budget=budget)
    assert plan.peak_bytes <= 4 * 2**30
    assert plan.overhead <= 0.2
    assert largest_batch(resnet, budget=budget, checkpoints=True, max_overhead=0) == plain
    assert largest_batch(resnet, budget=budget, checkpoints=True, multiple_of=64) % 64 == 0
    aside = largest_batch(resnet, budget=budget, checkpoints=True, context_bytes="1GiB", workspace_bytes="1GiB")
    assert aside == largest_batch(resnet, budget="2GiB", checkpoints=True)
    assert largest_batch(resnet, budget=1000, checkpoints=True) == 0
    flops = largest_batch(resnet, budget=budget, checkpoints=True, costs="flops", flavour="cpu", seed=1)
    assert flops > plain


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"method": "magic"}, RematError, "allowed: 'search', 'chain'"),
        ({"exact": True, "method": "chain"}, RematError, "allowed: method='search'"),
        ({"effort": "much"}, RematError, "effort is 'much'"),
        ({"budget": "much"}, UnitError, "much"),
        ({"costs": "much"}, RematError, "costs='much'"),
        ({"batch": 0}, ShapeError, "batch"),
        ({"allocator": "cuda"}, GraphError, "allocator is not for checkpoints"),
        ({"time_limit": -1}, RematError, "time_limit is -1"),
    ],
)
def test_what_is_not_allowed_says_what_is(options, kind, words):
    with pytest.raises(kind, match=words):
        plan_checkpoints(drops(), **({"budget": "1GiB"} | options))


def test_the_largest_batch_with_checkpoints_has_a_plan_at_that_price():
    net = lower(zoo.load("mobilenet_v2"))
    batches = [largest_batch(net, budget="2GiB")]
    for price in (0.1, 0.2, float("inf")):
        batches.append(largest_batch(net, budget="2GiB", checkpoints=True, max_overhead=price))
        assert plan_checkpoints(net, batch=batches[-1], budget="2GiB").overhead <= price
    assert batches == sorted(set(batches))


def test_frontiers_and_batches_say_what_is_allowed(resnet):
    with pytest.raises(RematError, match="allowed: 'search'"):
        checkpoint_frontier(resnet, method="magic")
    with pytest.raises(GraphError, match="allowed: mode='training'"):
        largest_batch(resnet, budget=1, mode="inference", checkpoints=True)
    with pytest.raises(GraphError, match="max_overhead=-0.1; allowed"):
        largest_batch(resnet, budget=1, checkpoints=True, max_overhead=-0.1)
