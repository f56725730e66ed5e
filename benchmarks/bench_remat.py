"""Rematerialisation: moves a second, bounds, plans and frontiers, on CNN training graphs made here and, where they lie
beside the project, on measured ones.

The yardstick of a move is a full evaluation of the same kernels from nothing.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from cnnlive._kernels import remat as kernels
from cnnlive.plan import remat
from cnnlive.plan.remat import RematProblem, plan_remat, remat_frontier
from cnnlive.verify_remat import check_remat

DATA = Path(__file__).parents[2] / "shared" / "data" / "checkpointing"


def residual(blocks=20):
    """A bottleneck ResNet's training graph of about 400 nodes: convolutions, batch norms, ReLUs and additions."""
    nbytes, cost, reads, saves = [], [], [], []

    def op(inputs, size, time, saved):
        nbytes.append(size)
        cost.append(time)
        reads.append(inputs)
        saves.append(saved)
        return len(nbytes) - 1

    def conv(x, size, time):
        y = op([x] if x >= 0 else [], size, time, "input")
        return op([y], size, 2 + size // 300, "input")

    def relu(x):
        return op([x], nbytes[x], 1 + nbytes[x] // 600, "output")

    x = relu(conv(-1, 60_000, 200))
    for k in range(blocks):
        wide = 48_000 >> (4 * k // blocks)
        y = relu(conv(x, wide // 4, 90))
        y = relu(conv(y, wide // 4, 140))
        y = conv(y, wide, 90)
        x = relu(op([y, x], wide, 1 + wide // 500, ""))
    loss = op([x], 1, 5, "output")
    edges = [(j, i) for i, row in enumerate(reads) for j in row]
    gradient = {}
    for i in reversed(range(loss + 1)):
        p = len(nbytes)
        nbytes.append(nbytes[reads[i][0]] if reads[i] else 1)
        cost.append(2 * cost[i])
        edges += [(g, p) for g in gradient.get(i, [])]
        edges += [(j, p) for j in reads[i] if saves[i] == "input"] + [(i, p)] * (saves[i] == "output")
        for j in reads[i]:
            gradient.setdefault(j, []).append(p)
    return RematProblem.of(cost, nbytes, edges, loss, name=f"residual {len(nbytes)}")


def zoo(name):
    found = sorted((DATA / "monet_zoo").glob(f"{name}*.json"))
    if not found:
        pytest.skip("no monet_zoo beside the project")
    data = json.loads(found[0].read_text())
    nodes = data["nodes"]
    problem = RematProblem.of(
        [round(x["time_ms"] * 100) for x in nodes], [round(x["mem_bytes"] / 1024) for x in nodes], data["edges"],
        data["loss_node"], fixed_bytes=round(nodes[-1]["fixed_bytes"] / 1024), name=name,
    )  # fmt: skip
    known = {float(gb): x.get("best_objective") or x.get("saved_solution", {}).get("objective")
             for gb, x in data["checkmate_gurobi"].items()}  # fmt: skip
    return problem, known


def test_moves(benchmark):
    """One change of one gap, tried and taken back, at 60 % of the peak; `extra_info` has moves a second."""
    problem = residual()
    plan = plan_remat(problem, budget=int(0.6 * problem.peak_bytes))
    e = remat._Evaluator(problem)
    e.reset(plan.states)
    rng = random.Random(0)
    moves = [(rng.choice(e.model.free.tolist()), rng.randrange(3)) for _ in range(1000)]
    benchmark.group = "remat: moves"
    args = {k: e.args(getattr(kernels, k)) for k in ("attempt",)}

    def run():
        for g, state in moves:
            if e.work["state"][g] != state:
                kernels.attempt(g, state, 0, 0, *args["attempt"])

    run()
    benchmark(run)
    assert e.cost == plan.cost


def test_annealing_moves(benchmark):
    """100,000 moves of annealing in one call, 1.5 changes each, most of them taken back."""
    problem = residual()
    search = remat._Search(problem, 0, None)
    budget = int(0.6 * problem.peak_bytes)
    benchmark.group = "remat: moves"

    def run():
        search.e.reset(search.keep)
        return search.anneal(budget, 100_000, remat._WARM, 3)

    assert run()
    benchmark(run)
    benchmark.extra_info["nodes"] = problem.n


def test_evaluation_from_nothing(benchmark):
    problem = residual()
    plan = plan_remat(problem, budget=int(0.6 * problem.peak_bytes))
    e = remat._Evaluator(problem)
    benchmark.group = "remat: moves"
    assert benchmark(e.reset, plan.states)


def test_bounds_of_twenty_budgets(benchmark):
    problem = residual()
    model = remat._model(problem)
    peak = problem.peak_bytes
    benchmark.group = "remat: bounds"

    def run():
        bounds = remat._Bounds(problem, model)  # the problem keeps those that planning made
        return bounds([peak * k // 20 for k in range(1, 21)])

    assert len(benchmark(run)) == 20


def test_bounds_of_another_batch(benchmark):
    """The same step with twice the bytes: the graph is known."""
    problem = residual()
    remat._bounds(problem)
    benchmark.group = "remat: bounds"

    def run():
        return remat._bounds(problem.resized(nbytes=2 * problem.nbytes, cost=2 * problem.cost)).least_bytes

    assert benchmark(run) == 2 * remat._bounds(problem).least_bytes


@pytest.mark.parametrize("effort", ["default", "best"])
def test_frontier(benchmark, effort):
    problem = residual()
    benchmark.group = f"remat: frontier, {effort}"
    frontier = remat_frontier(problem, effort=effort)
    for plan in frontier.plans:
        check_remat(plan)
    benchmark.pedantic(remat_frontier, (problem,), {"effort": effort}, rounds=10 if effort == "default" else 1)
    over = [p.overhead for p in frontier.plans]
    benchmark.extra_info["mean overhead, percent"] = round(100 * sum(over) / len(over), 3)
    benchmark.extra_info["least budget, share of the peak"] = round(frontier.least_bytes / frontier.keep_bytes, 4)
    benchmark.extra_info["mean gap, points"] = round(100 * sum(p.gap for p in frontier.plans) / len(frontier.plans), 3)
    benchmark.extra_info["nodes"] = problem.n


@pytest.mark.parametrize("effort", ["default", "best"])
@pytest.mark.parametrize("name", ["vgg16", "unet", "mobilenet"])
def test_measured_graphs(benchmark, name, effort):
    """All budgets of a graph of the MONeT zoo; `extra_info`: overhead here, best known, bound, in percent by GB."""
    problem, known = zoo(name)
    feasible = {gb: x for gb, x in known.items() if x}
    benchmark.group = f"remat: {name}, all budgets, {effort}"
    plan_remat(problem, budget=10 * 2**20)
    plans = benchmark.pedantic(
        lambda: {gb: plan_remat(problem, budget=int(gb * 2**20), effort=effort) for gb in feasible}, rounds=1
    )
    for gb, plan in plans.items():
        check_remat(plan)
        shares = (plan.cost, feasible[gb], plan.lower_bound)
        benchmark.extra_info[f"{gb} GB"] = [round(100 * (x / problem.plain_cost - 1), 2) for x in shares]
