"""Compile what is compiled, before it is needed."""

from __future__ import annotations

from random import Random

from cnnlive.buffers import Buffers
from cnnlive.graph import Graph
from cnnlive.lowered import Lowered
from cnnlive.plan.arena import METHODS, SHARED_METHODS, plan_arena, plan_shared_objects
from cnnlive.plan.arena_search import search_placement
from cnnlive.plan.chain import Chain, chain_frontier
from cnnlive.plan.inference import plan_inference
from cnnlive.plan.order import plan_order
from cnnlive.plan.remat import RematProblem, remat_frontier
from cnnlive.plan.training import plan_training

__all__ = ["warm_up"]


def warm_up() -> None:
    """Compile every kernel, or load it from the cache on disk.

    Call it before forking workers or timing anything: a first plan otherwise pays for its share of it (a minute
    in all in a process that finds nothing cached, most of it for the searches: orders, placements, recomputation).
    """
    graph = Graph("warm-up")
    x = graph.input((1, 1, 2, 2))
    x = graph.relu(graph.conv2d(x, 1, 1), inplace=True)
    graph.linear(graph.flatten(graph.add(x, x)), 2)
    plan = plan_inference(graph, batch=2, order=list(range(len(graph))))
    assert plan.live_at_peak
    assert plan_training(graph, batch=2, allocator="cuda").fits
    # Two branches that are opened before one is closed: another order is better.
    wide = Graph("warm-up, order")
    x = wide.input((1, 1, 2, 2))
    one, other = (wide.conv2d(x, 8, 1) for _ in range(2))
    wide.add(wide.conv2d(one, 1, 1), wide.conv2d(other, 1, 1))
    assert plan_order(wide).peak_bytes < plan_inference(wide).activation_peak_bytes
    # Without structure, and with fewer states than a proof takes: all that a search may turn to.
    for seed in (1, 2):
        plan_order(_random_net(20, seed), max_states=30)
    for method in METHODS:
        assert plan_arena(wide, method=method, order="best").offsets is not None
    for method in SHARED_METHODS[1:]:
        plan_shared_objects(wide, method=method)
    # MiniMalloc's smallest list that needs more than is ever alive: it takes a search.
    tricky = Buffers.of([0, 0, 4, 2, 1, 3, 1], [1, 3, 5, 5, 2, 4, 4], [3, 1, 3, 1, 2, 2, 1])
    assert search_placement(tricky).bound == 5
    chain = Chain.of([1] * 40, [2] * 40, [8] * 41, [16] * 40)
    for slots in (4, None):
        chain_frontier(chain, slots=slots, max_stages=8)
    chain_frontier(chain, slots=20, nested=True)
    assert len(chain_frontier(chain, slots=None, nested=True, max_stages=8)[0].timeline)
    # Eight layers with skips, and a least budget above the bound: annealing looks for less.
    n = 8
    edges = [(i, i + 1) for i in range(2 * n)] + [(i, 2 * n - i) for i in range(n)] + [(i, i + 2) for i in range(n - 2)]
    step = RematProblem.of(
        [1 + 7 * i % 5 for i in range(2 * n + 1)], [*(8 + 5 * i % 7 for i in range(n)), 1, *[8] * n], edges, n
    )
    assert remat_frontier(step, points=3)


def _random_net(n: int, seed: int) -> Lowered:
    rng = Random(seed)
    sizes = [rng.choice((1, 2, 3, 4, 8)) for _ in range(n + 1)]
    reads = [sorted({rng.randint(max(0, i - 9), i) for _ in range(rng.choice((1, 1, 2, 3)))}) for i in range(n)]
    return Lowered.from_arrays(sizes, reads, [[i + 1] for i in range(n)])
