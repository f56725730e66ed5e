"""Lowest placements with proof: networks as an architecture search meets them, and the instances of MiniMalloc.

The eleven challenging instances of MiniMalloc (Apache-2.0) are read from ``shared/data/minimalloc`` beside the project
where they are at hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnnlive.buffers import Buffers
from cnnlive.plan.arena_search import search_placement

INSTANCES = Path(__file__).parents[2] / "shared" / "data" / "minimalloc"


def network(n, seed):
    """Buffers of a random network of `n` tensors in four stages: each op reads one to three of the last eight tensors.

    At the begin of a stage maps get four times smaller and channels twice as many; a tensor has a quarter to four times
    the channels of its stage. What nobody reads is read by the last op.
    """
    rng = np.random.default_rng(seed)
    stage = np.arange(n) * 4 // n
    channels = 32 * 2**stage * rng.choice([1, 2, 3, 4, 8, 16], n) // 4
    nbytes = channels * (64 >> stage) ** 2
    dead = np.zeros(n, np.int64)
    for op in range(1, n):
        for t in {
            op - 1 if rng.random() < 0.5 else op - 1 - rng.integers(0, min(op, 8)) for _ in range(rng.integers(1, 4))
        }:
            dead[t] = op + 1
    dead[dead == 0] = n
    return Buffers.of(np.arange(n), dead, nbytes)


@pytest.mark.parametrize("n", [60, 100, 150])
def test_networks(benchmark, n):
    """A hundred networks, one after the other."""
    benchmark.group = f"100 networks of {n} tensors"
    nets = [network(n, seed) for seed in range(100)]
    found = [search_placement(b) for b in nets]
    benchmark.extra_info["optimal"] = sum(p.status == "optimal" for p in found)
    benchmark.extra_info["searched"] = sum(p.n_nodes > 0 for p in found)
    assert benchmark(lambda: [search_placement(b).height for b in nets]) == [p.height for p in found]


@pytest.mark.skipif(not INSTANCES.exists(), reason="the instances of MiniMalloc are not at hand")
@pytest.mark.parametrize(("name", "capacity"), [*((name, 1_048_576) for name in "ABCDEFGHIJK"), ("C", 1_039_360)])
def test_minimalloc(benchmark, name, capacity):
    benchmark.group = "MiniMalloc"
    rows = np.loadtxt(INSTANCES / f"{name}.1048576.csv", delimiter=",", skiprows=1, dtype=np.int64)
    b = Buffers.of(rows[:, 1], rows[:, 2], rows[:, 3])
    found = search_placement(b, capacity=capacity)
    assert found.height <= capacity
    benchmark.extra_info["nodes"] = found.n_nodes
    assert benchmark(search_placement, b, capacity=capacity).height == found.height
