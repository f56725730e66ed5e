"""Exact search on OFA-MobileNetV3 under budgets: counting, drawing 1,000 members, and the best member.

``extra_info`` has the number of members that fit. The first call compiles the space for the budgets; it is made
before, and is not timed. A count is made anew each time.
"""

from __future__ import annotations

import numpy as np
import pytest

from cnnlive.nas import Limit, spaces
from cnnlive.nas.search import Search

BUDGETS = {
    "peak, params": {"peak": "4MiB", "params": 5_000_000},
    "macs": {"macs": 200_000_000},
    "training 3 GiB": {"training": "3GiB", "train_batch": 32},
    "training 2 GiB": {"training": "2GiB", "train_batch": 32},
}


@pytest.fixture(scope="module")
def ofa():
    return spaces.ofa_mobilenetv3()


@pytest.fixture(scope="module")
def widths():
    return spaces.ofa_proxyless(widths=(0.3, 0.5, 1.0), resolutions=(96, 160, 224))


def prepared(space, budgets):
    """Return a search whose problem is known and that has not counted."""
    found = Search(space, Limit(space, **budgets))
    assert found.problem.width > 0
    return found


def counted(benchmark, found):
    def again():
        found._met = found._count = None
        return found.count()

    n = benchmark.pedantic(again, rounds=2, warmup_rounds=0)
    benchmark.extra_info["members"] = n
    assert n > 0


@pytest.mark.benchmark(group="count members that fit")
@pytest.mark.parametrize("budgets", BUDGETS)
def test_count(benchmark, ofa, budgets):
    counted(benchmark, prepared(ofa, BUDGETS[budgets]))


@pytest.mark.benchmark(group="count members that fit")
def test_count_widths(benchmark, widths):
    counted(benchmark, prepared(widths, {"params": 3_000_000}))


@pytest.mark.benchmark(group="draw members that fit")
@pytest.mark.parametrize("n", [1000, 100_000])
@pytest.mark.parametrize("budgets", ["peak, params", "training 3 GiB"])
def test_sample(benchmark, ofa, budgets, n):
    found = prepared(ofa, BUDGETS[budgets])
    found.count()
    rng = np.random.default_rng(0)
    assert len(benchmark.pedantic(found.sample, (n, rng), rounds=2, warmup_rounds=0)) == n


@pytest.mark.benchmark(group="best member that fits")
@pytest.mark.parametrize("budgets", ["peak, params", "training 3 GiB", "training 2 GiB"])
def test_best(benchmark, ofa, budgets):
    found = prepared(ofa, BUDGETS[budgets])
    assert benchmark.pedantic(found.best, ("macs",), rounds=2, warmup_rounds=0).status == "optimal"
