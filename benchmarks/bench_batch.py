"""Ragged batches: graphs per second from flat arrays, beside lowered graphs and the planner of one graph.

Every batch has graphs of 130 nodes, each another net; ``extra_info`` has microseconds per graph (the fastest round).
The planner called per graph is the yardstick of the same run.
"""

from __future__ import annotations

import numpy as np
import pytest

from cnnlive import Graph, lower, plan_inference, plan_training
from cnnlive.nas.batch import Batch, evaluate_batch
from cnnlive.nas.palette import FREE, Palette

NODES = 130
GRAPHS = 20_000
INPUT, CONV1, CONV3, DEPTHWISE, STRIDED, NORM, RELU, ADD, POOL, FLATTEN, LINEAR = range(11)


@pytest.fixture(scope="module")
def palette():
    p = Palette()
    convolution = {"out_channels": FREE[0], "bias": False}
    p.add("input", shape=(1, 3, FREE[0], FREE[0]))
    p.add("conv2d", kernel_size=1, **convolution)
    p.add("conv2d", kernel_size=3, padding=1, **convolution)
    p.add("conv2d", kernel_size=3, padding=1, groups=FREE[0], **convolution)
    p.add("conv2d", kernel_size=3, padding=1, stride=2, **convolution)
    p.add("batch_norm2d")
    p.add("relu", inplace=True)
    p.add("add", inplace=True)
    p.add("adaptive_avg_pool2d", output_size=1)
    p.add("flatten")
    p.add("linear", out_features=10)
    return p


def one_graph(rng):
    """A net of bottlenecks, inverted bottlenecks, basic blocks and plain convolutions in random order, as rows."""
    kinds, reads, free = [], [], []

    def node(kind, *x, value=0):
        kinds.append(kind)
        reads.append(x)
        free.append((value, 0))
        return len(kinds) - 1

    def unit(kind, x, channels, active=True):
        y = node(NORM, node(kind, x, value=channels))
        return node(RELU, y) if active else y

    width = int(rng.choice([16, 24, 32]))
    x = unit(CONV3, node(INPUT, value=32), width)
    while len(kinds) < NODES - 12:
        block = int(rng.integers(0, 4))
        if block == 0:
            x = node(RELU, node(ADD, unit(CONV1, unit(CONV3, unit(CONV1, x, width // 2), width // 2), width, False), x))
        elif block == 1:
            wide = width * int(rng.choice([2, 3]))
            x = node(ADD, unit(CONV1, unit(DEPTHWISE, unit(CONV1, x, wide), wide), width, False), x)
        elif block == 2:
            x = node(RELU, node(ADD, unit(CONV3, unit(CONV3, x, width), width, False), x))
        else:
            width = min(width + 8, 96)
            x = unit(STRIDED if rng.random() < 0.3 else CONV3, x, width)
    while len(kinds) < NODES - 3:
        x = node(RELU, x)
    node(LINEAR, node(FLATTEN, node(POOL, x)))
    return kinds, reads, free


@pytest.fixture(scope="module")
def arrays():
    """The flat arrays of 400 different nets, over and over."""
    rng = np.random.default_rng(0)
    rows = [one_graph(rng) for _ in range(400)]
    kind, free = (np.array([v for row in rows for v in row[i]], np.int32) for i in (0, 2))
    counts = [len(r) for row in rows for r in row[1]]
    idx = np.array([v for row in rows for r in row[1] for v in r], np.int32)
    times = GRAPHS // len(rows)
    return {
        "graph_ptr": np.arange(GRAPHS + 1, dtype=np.int64) * NODES,
        "kind": np.tile(kind, times),
        "in_ptr": np.concatenate([[0], np.cumsum(np.tile(counts, times))]),
        "in_idx": np.tile(idx, times),
        "free": np.tile(free, (times, 1)),
        "until": np.zeros(NODES * GRAPHS, np.int32),
    }


@pytest.fixture(scope="module")
def flat(palette, arrays):
    return Batch.from_nodes(palette, **arrays)


@pytest.fixture(scope="module")
def sizes(arrays):
    nbytes = np.random.default_rng(0).integers(1, 1 << 20, NODES * GRAPHS)
    return Batch.from_sizes(arrays["graph_ptr"], arrays["in_ptr"], arrays["in_idx"], nbytes)


def per_graph(benchmark, n, function, *args, **options):
    function(*args, **options)  # compiles; not timed
    found = benchmark(function, *args, **options)
    if benchmark.stats is not None:
        benchmark.extra_info["us per graph"] = round(benchmark.stats.stats.min / n * 1e6, 3)
    return found


@pytest.mark.benchmark(group="batch of 20,000 graphs of 130 nodes, in-order peak from sizes")
@pytest.mark.parametrize("threads", [1, 2])
def test_peaks_of_sizes(benchmark, sizes, threads):
    found = per_graph(benchmark, len(sizes), evaluate_batch, sizes, metrics="inference_peak", threads=threads)
    assert (found["inference_peak"] > 0).all()


QUESTIONS = {
    "inference": {"metrics": ("params", "macs", "inference_peak")},
    "torch": {"metrics": ("params", "macs", "inference_peak"), "profile": "torch"},
    "dead": {"metrics": ("params", "macs", "inference_peak"), "inplace": "dead"},
    "and-training": {"metrics": ("params", "macs", "inference_peak", "training_peak")},
    "and-two-optimizers": {"metrics": ("params", "macs", "inference_peak", "training_peak", "training_peak:sgd")},
}


@pytest.mark.benchmark(group="batch of 20,000 graphs of 130 nodes")
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("threads", [1, 2])
def test_nodes(benchmark, flat, question, threads):
    found = per_graph(benchmark, len(flat), evaluate_batch, flat, threads=threads, **QUESTIONS[question])
    assert (found["params"] > 0).all()


@pytest.mark.benchmark(group="batch of 20,000 graphs of 130 nodes, from arrays")
def test_checking_nodes(benchmark, palette, arrays):
    assert len(per_graph(benchmark, GRAPHS, Batch.from_nodes, palette, **arrays)) == GRAPHS


@pytest.fixture(scope="module")
def nets(palette, arrays):
    made = []
    for i in range(100):
        a, b = arrays["graph_ptr"][i : i + 2]
        start = arrays["in_ptr"][a]
        edges = slice(start, arrays["in_ptr"][b])
        made.append(lower(palette.graph(arrays["kind"][a:b], arrays["in_ptr"][a : b + 1] - start,
                                        arrays["in_idx"][edges], arrays["free"][a:b])))  # fmt: skip
    return made


@pytest.mark.benchmark(group="100 lowered graphs of 130 nodes")
def test_batch_of_lowered_graphs(benchmark, nets):
    found = per_graph(benchmark, len(nets), Batch.from_lowered, nets)
    assert len(found) == len(nets)


@pytest.mark.benchmark(group="100 lowered graphs of 130 nodes")
@pytest.mark.parametrize("metric", ["inference_peak", "training_peak"])
def test_evaluating_lowered_graphs(benchmark, nets, metric):
    batch = Batch.from_lowered(nets)
    found = per_graph(benchmark, len(nets), evaluate_batch, batch, metrics=metric, threads=1)
    one = plan_inference(nets[0]).activation_peak_bytes if metric[0] == "i" else plan_training(nets[0]).peak_bytes
    assert found[metric][0] == one


@pytest.mark.benchmark(group="100 lowered graphs of 130 nodes")
def test_planner_per_graph(benchmark, nets):
    peaks = per_graph(benchmark, len(nets), lambda: [plan_inference(net).activation_peak_bytes for net in nets])
    assert min(peaks) > 0


@pytest.mark.benchmark(group="100 lowered graphs of 130 nodes")
def test_training_planner_per_graph(benchmark, nets):
    peaks = per_graph(benchmark, len(nets), lambda: [plan_training(net).peak_bytes for net in nets])
    assert min(peaks) > 0


@pytest.mark.benchmark(group="building one graph of 130 nodes")
def test_building_and_lowering(benchmark, palette, arrays):
    def build() -> Graph:
        end = arrays["in_ptr"][NODES]
        g = palette.graph(arrays["kind"][:NODES], arrays["in_ptr"][: NODES + 1], arrays["in_idx"][:end],
                          arrays["free"][:NODES])  # fmt: skip
        lower(g)
        return g

    assert len(benchmark(build)) == NODES
