"""Exact least peaks: whole nets with their orders, and many small graphs in one call.

The yardstick of the small graphs is a memoised search in plain Python over the sets of ops that have run.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import order_graphs
import pytest

import cnnlive
from cnnlive import lower
from cnnlive.plan.order import minimum_peaks, plan_order

NETS = ("resnet50", "densenet121", "googlenet", "unet", "mobilenet_v2", "hrnet_w18", "nasnet_a", "nasnet_a_large",
        "amoebanet", "darts_v2", "darts_v2_imagenet", "pnasnet5_large", "randwire")  # fmt: skip
LIKE = ("nasnet_a", "amoebanet", "darts_v2")


def plan_of(benchmark, net, *, proven=True, **options):
    """Time one whole ``plan_order``, and keep what it found beside the time."""
    plan = plan_order(net, **options)  # compiles; not timed
    assert plan.optimal == proven
    assert benchmark(plan_order, net, **options).peak_bytes == plan.peak_bytes
    benchmark.extra_info |= {"ops": net.n_ops, "states": plan.n_states, "peak": plan.peak_bytes,
                             "program_peak": plan.program_peak_bytes, "gap": round(plan.gap, 4)}  # fmt: skip
    return plan


@pytest.mark.parametrize("fuse", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("name", NETS)
def test_order(benchmark, name, fuse):
    if (name, fuse) == ("randwire", True):
        pytest.skip("takes seconds; see test_order_that_does_not_close")
    benchmark.group = f"order {name}"
    plan_of(benchmark, lower(cnnlive.zoo.load(name)), fuse=fuse)


@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@pytest.mark.parametrize("kind", LIKE)
def test_order_of_cells(benchmark, kind, inplace):
    """Nets of 375 to 439 plain ops, each convolution with what is fused into it."""
    benchmark.group = f"order of cells like {kind}"
    plan_of(benchmark, order_graphs.cells(kind, 14, (4, 9), inplace=inplace).lowered())


@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@pytest.mark.parametrize("seed", range(5))
def test_order_of_random_wiring(benchmark, seed, inplace):
    """Three graphs WS(32, 4, 0.75)."""
    benchmark.group = "order of RandWire"
    plan_of(benchmark, order_graphs.randwire(seed, inplace=inplace).lowered())


@pytest.mark.benchmark(group="order of 90,000 ops")
@pytest.mark.parametrize("kind", LIKE)
def test_order_of_a_long_chain_of_cells(benchmark, kind):
    plan = plan_of(benchmark, order_graphs.cells(kind, 2900, (4, 9)).lowered())
    assert plan.network.n_ops > 80_000


@pytest.mark.benchmark(group="order that does not close")
@pytest.mark.parametrize("nodes", [64, 96])
def test_order_that_does_not_close(benchmark, nodes):
    """One stage of RandWire with more nodes; 100,000 states."""
    net = order_graphs.randwire(1, nodes, stages=1).lowered()
    plan_of(benchmark, net, proven=False, max_states=30_000)


@pytest.mark.benchmark(group="order of one cell")
def test_order_of_one_cell(benchmark):
    plan_of(benchmark, one_cell().lowered())


@pytest.mark.benchmark(group="order of one cell")
def test_order_of_one_cell_in_plain_python(benchmark):
    """The yardstick: a memoised recursion over sets of ops."""
    graph = one_cell()
    found = benchmark.pedantic(order_graphs.Sets(graph).least, rounds=1)
    assert found == graph.best().peak


def one_cell():
    """Return the first cell of a net like DARTS, as a graph of its own."""
    return order_graphs.cells("darts_v2", 1, ())


def modules(n, rng):
    """Return graphs like NAS-Bench-101's modules of seven vertices and nine edges, as lists of inputs and bytes."""
    found = []
    while len(found) < n:
        edges = np.triu(rng.random((7, 7)) < 0.5, 1)
        if edges.sum() != 9 or not edges[:, 1:].any(axis=0)[:6].all() or not edges[1:6].any(axis=1).all():
            continue
        reads, nbytes = [[]], [128]
        at = {0: 0}
        last = [k for k in range(1, 6) if edges[k, 6]]
        for k in range(1, 6):
            wide = 128 // len(last) if k in last else 128
            rows = []
            for j in range(k):
                if not edges[j, k]:
                    continue
                if j == 0:  # a projection
                    reads.append([0])
                    nbytes.append(wide)
                rows.append(len(reads) - 1 if j == 0 else at[j])
            y = rows[0]
            for other in rows[1:]:
                reads.append([y, other])
                nbytes.append(wide)
                y = len(reads) - 1
            reads.append([y])
            nbytes.append(wide)
            at[k] = len(reads) - 1
        reads.append([at[k] for k in last])
        nbytes.append(128)
        found.append((reads, nbytes))
    return found


def flat(graphs):
    graph_ptr = np.cumsum([0, *[len(reads) for reads, _ in graphs]])
    rows = [row for reads, _ in graphs for row in reads]
    in_ptr = np.cumsum([0, *map(len, rows)])
    in_idx = np.array([x for row in rows for x in row], np.int32)
    nbytes = np.array([b for _, sizes in graphs for b in sizes]) * 4096
    share, held = np.zeros((2, len(nbytes)), np.int32)
    held[graph_ptr[:-1]] = 2
    held[graph_ptr[1:] - 1] = 4
    return graph_ptr, in_ptr, in_idx, nbytes, share, held, np.zeros(len(nbytes), np.int64)


@cache
def sample():
    return tuple(modules(2000, np.random.default_rng(101)))


def plain_minimum(reads, nbytes):
    """Least peak of one graph by recursion on sets of ops: the yardstick."""
    n = len(reads)
    users = [[k for k in range(n) if t in reads[k]] for t in range(n)]

    def live(done):
        return sum(
            nbytes[t] for t in range(n) if (t in done or t == 0) and (t == n - 1 or not done.issuperset(users[t]))
        )

    @cache
    def rest(done):
        if len(done) == n:
            return 0
        ready = [k for k in range(n) if k not in done and done.issuperset(reads[k])]
        now = live(done)
        return min(max(now + nbytes[k] * (k > 0), rest(done | {k})) for k in ready)

    return rest(frozenset())


@pytest.mark.benchmark(group="least peaks of 2,000 modules")
def test_minimum_peaks(benchmark):
    arrays = flat(sample())
    peaks, bounds = minimum_peaks(*arrays)
    assert (peaks == bounds).all()
    found, _ = benchmark(minimum_peaks, *arrays)
    assert (found == peaks).all()
    if benchmark.stats:
        benchmark.extra_info["us_per_graph"] = round(benchmark.stats.stats.min / len(sample()) * 1e6, 3)


@pytest.mark.benchmark(group="least peaks of 2,000 modules")
def test_minimum_peaks_in_plain_python(benchmark):
    """Of every twentieth; the figure is of one hundred graphs."""
    sys.setrecursionlimit(10_000)
    graphs = sample()[::20]
    expected = minimum_peaks(*flat(graphs))[0].tolist()
    found = benchmark.pedantic(lambda: [plain_minimum(*g) for g in graphs], rounds=1)
    assert [4096 * peak for peak in found] == expected
