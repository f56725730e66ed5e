"""One planner call, lowering, building; a plain-Python planner on lists is the yardstick of the same run."""

from __future__ import annotations

import numpy as np
import pytest

import cnnlive
from cnnlive import Graph, lower, plan_inference


def plain_peak(nbytes, reads, writes, shares):
    """In-order liveness on Python lists, as one writes it without arrays: the yardstick."""
    buffer, last = list(range(len(nbytes))), {}
    for op, row in enumerate(reads):
        for t in writes[op]:
            buffer[t] = buffer[row[0]] if shares[op] else t
        for t in (*row, *writes[op]):
            last[buffer[t]] = op
    live = peak = 0
    freed = [[] for _ in reads]
    for b, op in last.items():
        freed[op].append(b)
    for op, row in enumerate(writes):
        live += sum(nbytes[t] for t in row if buffer[t] == t)
        peak = max(peak, live)
        live -= sum(nbytes[b] for b in freed[op])
    return peak


@pytest.fixture(scope="module")
def resnet50():
    return cnnlive.zoo.load("resnet50")


@pytest.mark.benchmark(group="plan ResNet-50")
def test_plan_prepared(benchmark, resnet50):
    net = lower(resnet50)
    expected = plan_inference(net).peak_bytes
    assert benchmark(plan_inference, net).peak_bytes == expected


@pytest.mark.benchmark(group="plan ResNet-50")
def test_plan_in_plain_python(benchmark, resnet50):
    net = lower(resnet50)
    nbytes = (net.sizes.numel * 4).tolist()
    reads = [net.in_idx[a:b].tolist() for a, b in zip(net.in_ptr, net.in_ptr[1:], strict=False)]
    writes = [list(range(a, b)) for a, b in zip(net.out_ptr, net.out_ptr[1:], strict=False)]
    shares = np.isin(net.alias, (1, 2)).tolist()
    expected = plan_inference(net).activation_peak_bytes
    assert benchmark(plain_peak, nbytes, reads, writes, shares) == expected


@pytest.mark.benchmark(group="plan ResNet-50, variants")
@pytest.mark.parametrize(
    "options",
    [{"profile": "torch_fx"}, {"batch": 64, "dtype": "float16"}, {"inplace": "dead"}, {"fuse": True}],
    ids=["torch_fx", "batch-64-float16", "inplace-dead", "fused"],
)
def test_plan_variant(benchmark, resnet50, options):
    net = lower(resnet50)
    expected = plan_inference(net, **options).peak_bytes
    assert benchmark(plan_inference, net, **options).peak_bytes == expected


@pytest.mark.benchmark(group="plan ResNet-50, variants")
def test_plan_in_another_order(benchmark, resnet50):
    net = lower(resnet50)
    order = list(range(net.n_ops))
    assert benchmark(plan_inference, net, order=order).peak_bytes == plan_inference(net).peak_bytes


@pytest.mark.benchmark(group="lower ResNet-50")
def test_lower_from_networkx(benchmark, resnet50):
    def again():
        resnet50._lowered = None
        return lower(resnet50)

    assert benchmark(again).n_parameters == 25_557_032


@pytest.mark.benchmark(group="build ResNet-50")
def test_build_from_the_zoo(benchmark):
    assert benchmark(cnnlive.zoo.load, "resnet50").n_parameters == 25_557_032


@pytest.mark.benchmark(group="build ResNet-50")
def test_build_from_networkx(benchmark, resnet50):
    assert benchmark(Graph.from_networkx, resnet50.nx).n_parameters == 25_557_032
