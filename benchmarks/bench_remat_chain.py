"""Whole frontiers of chains, every plan written out: one level, nested, exact, and a chain of 10,000 stages.

Chains are like CNNs: sizes halve in six steps, times U(0.5, 1.5); what is saved is U(1.5, 5) times the output; a
forward run costs U(0.5, 2), a backward run twice that. The Rotor solver in C of a peer took 52 ms, 640 ms, 6.1 s and
231 s for one budget of such chains of 50, 100, 200 and 500 stages and as many slots as here.
"""

from __future__ import annotations

import resource

import numpy as np
import pytest

from cnnlive.plan.chain import BASELINES, Chain, chain_baseline, chain_frontier


def synthetic(n, seed=0):
    rng = np.random.default_rng(seed)
    act = (2**26 * 0.5 ** (np.arange(n + 1) * 6 // (n + 1)) * rng.uniform(0.5, 1.5, n + 1)).astype(np.int64)
    saved = (act[1:] * rng.uniform(1.5, 5, n)).astype(np.int64)
    cost = rng.uniform(0.5, 2, n)
    return Chain.of(cost, 2 * cost, act, saved, name=f"synthetic {n}")


def lost(rough, exact):
    """Return points of overhead that a frontier is above another, on average over 400 budgets in its lower half."""
    low, high = exact.minimum_bytes, exact.keep_all_bytes
    budgets = np.linspace(low, (low + high) // 2, 400).astype(np.int64)
    found = [f.overhead[np.searchsorted(f.peak_bytes, budgets, side="right") - 1] for f in (rough, exact)]
    return float((found[0] - found[1]).mean() / exact.chain.step_cost * 100)


@pytest.mark.parametrize("n", [50, 100, 200, 500])
def test_one_level(benchmark, n):
    benchmark.group = f"chain, one level, {n} stages, 500 slots"
    chain = synthetic(n)
    frontier = chain_frontier(chain)  # compiles; not timed
    assert len(benchmark(chain_frontier, chain)) == len(frontier)
    benchmark.extra_info["plans"] = len(frontier)
    if n <= 200:
        benchmark.extra_info["points above the exact frontier"] = lost(frontier, chain_frontier(chain, slots=None))


@pytest.mark.parametrize("n", [50, 100, 200, 500])
def test_nested(benchmark, n):
    benchmark.group = f"chain, nested, {n} stages, 500 slots"
    chain = synthetic(n)
    chain_frontier(synthetic(40), nested=True)  # compiles; not timed
    rounds = 3 if n == 500 else 10
    frontier = benchmark.pedantic(chain_frontier, (chain,), {"nested": True}, rounds=rounds)
    benchmark.extra_info["plans"] = len(frontier)
    if n <= 100:
        exact = chain_frontier(chain, slots=None, nested=True)
        benchmark.extra_info["points above the exact frontier"] = lost(frontier, exact)


@pytest.mark.parametrize(("n", "nested"), [(200, False), (30, True), (50, True), (100, True)])
def test_exact(benchmark, n, nested):
    benchmark.group = f"chain, {'nested' if nested else 'one level'}, {n} stages, every plan"
    chain = synthetic(n)
    chain_frontier(synthetic(10), slots=None, nested=nested)  # compiles; not timed
    frontier = benchmark.pedantic(chain_frontier, (chain,), {"slots": None, "nested": nested}, rounds=5)
    benchmark.extra_info["plans"] = len(frontier)


def test_long(benchmark):
    benchmark.group = "chain, one level, 10,000 stages"
    chain = synthetic(10_000)
    chain_frontier(synthetic(10), max_stages=4)  # compiles; not timed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frontier = benchmark.pedantic(chain_frontier, (chain,), rounds=5)
    benchmark.extra_info["plans"] = len(frontier)
    benchmark.extra_info["MB above what the process had at most before"] = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ) / 1024


@pytest.mark.parametrize("method", BASELINES)
def test_rules(benchmark, method):
    benchmark.group = "chain, known rules, 200 stages"
    chain = synthetic(200)
    frontier = chain_baseline(chain, method)
    assert len(benchmark(chain_baseline, chain, method)) == len(frontier)
    best = chain_frontier(chain, nested=method == "revolve")
    above = [float(o) - best.plan(int(p)).overhead for p, o in zip(frontier.peak_bytes, frontier.overhead, strict=True)]
    benchmark.extra_info["points above the best, on average"] = float(np.mean(above)) / chain.step_cost * 100
