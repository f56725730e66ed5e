"""Arenas: greedy fits against the same in plain Python, proven placements of whole nets, and 62,000 buffers.

How fast the exact search is on hard instances is in ``bench_arena_search.py``.
"""

from __future__ import annotations

import csv
from bisect import insort
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import cnnlive
from cnnlive import lower
from cnnlive.buffers import Buffers
from cnnlive.plan.arena import buffers_of, place, plan_arena, plan_shared_objects
from cnnlive.plan.inference import plan_inference
from cnnlive.verify import check_arena

NETS = ("vgg16", "resnet50", "mobilenet_v2", "googlenet", "densenet121", "unet", "nasnet_a_imagenet",
        "darts_v2_imagenet", "amoebanet", "randwire")  # fmt: skip
GREEDY = ("greedy_by_size", "greedy_by_size_first_fit", "tflm", "tflite", "xla", "onnxruntime")
SHARED = Path(__file__).parents[2] / "shared" / "data" / "idealloc"


def best_fit(lower, upper, nbytes):
    """Greedy by size, best fit, as plain Python does it: what is placed, sorted by offset, for each buffer."""
    placed, offsets, height = [], [0] * len(nbytes), 0
    for i in sorted(range(len(nbytes)), key=lambda i: -nbytes[i]):
        best, smallest, floor = -1, 1 << 62, 0
        for begin, end, j in placed:
            if lower[j] < upper[i] and lower[i] < upper[j]:
                if nbytes[i] <= begin - floor < smallest:
                    best, smallest = floor, begin - floor
                floor = max(floor, end)
        offsets[i] = floor if best < 0 else best
        insort(placed, (offsets[i], offsets[i] + nbytes[i], i))
        height = max(height, offsets[i] + nbytes[i])
    return offsets, height


@cache
def fused_inception():
    """125 tensors and the input: the size of net that a search asks about."""
    return buffers_of(plan_inference(cnnlive.zoo.load("inception_v3"), fuse=True), alignment=1)


@pytest.mark.benchmark(group="greedy fit of 125 tensors (Inception v3, fused)")
@pytest.mark.parametrize("method", GREEDY)
def test_greedy(benchmark, method):
    b = fused_inception()
    height = place(b, method)[1]
    assert benchmark(place, b, method)[1] == height
    benchmark.extra_info["buffers"] = b.n


@pytest.mark.benchmark(group="greedy fit of 125 tensors (Inception v3, fused)")
def test_greedy_in_plain_python(benchmark):
    b = fused_inception()
    columns = [a.tolist() for a in (b.lower, b.upper, b.nbytes)]
    offsets, height = benchmark(best_fit, *columns)
    assert (offsets, height) == (place(b)[0].tolist(), place(b)[1])


@pytest.mark.parametrize("name", NETS)
def test_proven_arena(benchmark, name):
    """From the lowered net to the offsets of all its buffers, with proof."""
    benchmark.group = f"arena {name}"
    net = lower(cnnlive.zoo.load(name))
    plan = plan_arena(net)
    assert plan.optimal
    assert benchmark(plan_arena, net).arena_bytes == plan.arena_bytes
    benchmark.extra_info.update(buffers=plan.buffers.n, nodes=plan.n_nodes)


@pytest.mark.parametrize("name", NETS)
def test_greedy_in_plain_python_of_a_net(benchmark, name):
    benchmark.group = f"arena {name}"
    b = buffers_of(plan_inference(cnnlive.zoo.load(name)), alignment=1)
    columns = [a.tolist() for a in (b.lower, b.upper, b.nbytes)]
    found = benchmark.pedantic(best_fit, columns, rounds=3)[1]
    benchmark.extra_info["percent_above_the_least"] = round(100 * (found / plan_arena(b).lower_bound - 1), 2)


@cache
def many(n=62_000, seed=62):
    """Buffers like those of a CNN: most die soon, residual ones later, some skip far ahead; sizes go by stages."""
    rng = np.random.default_rng(seed)
    life = rng.choice([1, 1, 1, 2, 3, 4, 6, 10], n) + 1
    life += np.where(rng.random(n) < 0.03, rng.integers(0, 200, n), 0)
    life += np.where(rng.random(n) < 0.005, rng.integers(0, 5000, n), 0)
    stage = np.arange(n) * 8 // n
    pixels = np.array([56, 28, 28, 14, 14, 28, 28, 56])[stage] ** 2
    nbytes = (
        pixels * rng.choice([16, 24, 32, 48, 64, 96, 120, 128, 256], n) * np.array([1, 4, 4, 16, 16, 4, 4, 1])[stage]
    )
    return Buffers.of(np.arange(n), np.minimum(np.arange(n) + life, n), nbytes, name="cnn-like")


@cache
def file(name):
    path = SHARED / f"{name}.csv"
    if not path.exists():
        pytest.skip("the folder of shared instances is not there")
    with path.open() as lines:
        rows = [[int(r[k]) for k in ("lower", "upper", "size")] for r in csv.DictReader(lines)]
    return Buffers.of(*zip(*rows, strict=True), name=name)


@pytest.mark.parametrize("name", ["cnn-like", "S_1"])
@pytest.mark.parametrize("method", ["skyline", "auto", "greedy_by_size"])
def test_many_buffers(benchmark, name, method):
    b = many() if name == "cnn-like" else file(name)
    benchmark.group = f"{b.n:,} buffers ({name})"
    plan = plan_arena(b, method=method, max_nodes=0)
    check_arena(plan)
    if method == "auto":
        assert plan.gap <= 0.005
    found = benchmark.pedantic(plan_arena, (b,), {"method": method, "max_nodes": 0}, rounds=3)
    assert found.arena_bytes == plan.arena_bytes
    benchmark.extra_info["percent_above_the_bound"] = round(100 * plan.gap, 3)


@pytest.mark.benchmark(group="shared objects of 125 tensors (Inception v3, fused)")
@pytest.mark.parametrize("method", ["greedy_by_size", "greedy_by_breadth", "greedy_in_order", "min_cost_flow"])
def test_shared_objects(benchmark, method):
    b = fused_inception()
    plan = plan_shared_objects(b, method=method)
    assert benchmark(plan_shared_objects, b, method=method).total_bytes == plan.total_bytes
    benchmark.extra_info["percent_above_the_bound"] = round(100 * plan.gap, 2)
