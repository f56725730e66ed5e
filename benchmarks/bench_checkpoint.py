"""Checkpoints of real training steps: problem, plan, frontier, largest batch, from a lowered net."""

from __future__ import annotations

import pytest

from cnnlive import checkpoint_frontier, largest_batch, lower, plan_checkpoints, plan_training, zoo
from cnnlive.plan.costs import Roofline
from cnnlive.plan.steps import step_graph
from cnnlive.verify_remat import check_remat

NETS = ("resnet50", "mobilenet_v2", "densenet121")


def net_of(name):
    net = lower(zoo.load(name))
    return net, plan_training(net, batch=64)


@pytest.mark.parametrize("name", NETS)
def test_step_graph(benchmark, name):
    """A training step written as a problem, costs included."""
    net, plan = net_of(name)
    benchmark.group = "checkpoints: the problem"

    def run():
        return step_graph(plan, *Roofline().of(net, plan.tape, 64))

    benchmark.extra_info["nodes"] = benchmark(run).problem.n


@pytest.mark.parametrize("name", NETS)
def test_plan(benchmark, name):
    """One plan at 60 % of what keeping everything takes."""
    net, keep = net_of(name)
    benchmark.group = "checkpoints: one plan"
    budget = int(0.6 * keep.peak_bytes)
    plan_checkpoints(net, batch=64, budget=budget)  # compiles; not timed
    plan = benchmark.pedantic(plan_checkpoints, (net,), {"batch": 64, "budget": budget}, rounds=5)
    check_remat(plan.remat)
    benchmark.extra_info.update(overhead=plan.overhead, certified=plan.gap)


@pytest.mark.parametrize("name", NETS)
def test_frontier(benchmark, name):
    """Twenty budgets."""
    net, _ = net_of(name)
    benchmark.group = "checkpoints: frontier of 20 points"
    checkpoint_frontier(net, batch=64)  # compiles; not timed
    frontier = benchmark.pedantic(checkpoint_frontier, (net,), {"batch": 64}, rounds=3)
    half = [p for p in frontier.plans if p.budget >= frontier.keep_bytes / 2]
    benchmark.extra_info["nodes"] = frontier.plans[0].step.problem.n
    benchmark.extra_info["certified"] = max(p.gap for p in half)


def test_largest_batch_with_checkpoints(benchmark):
    """Of a ResNet-50 in 24 GiB at 20 % overhead."""
    net, _ = net_of("resnet50")
    benchmark.group = "checkpoints: largest batch"
    options = {"budget": "24GiB", "checkpoints": True, "max_overhead": 0.2}
    found = benchmark.pedantic(largest_batch, (net,), options, rounds=3, warmup_rounds=1)
    benchmark.extra_info["batch"] = found
    benchmark.extra_info["without"] = largest_batch(net, budget="24GiB")
    assert found > benchmark.extra_info["without"]
