"""Search spaces: candidates per second, one candidate, exact search; planning one graph is the yardstick."""

from __future__ import annotations

import numpy as np
import pytest

import cnnlive
from cnnlive.nas import Limit, spaces

ROWS = 1_000_000
PLAIN = ("params", "macs", "inference_peak")


def rate(benchmark, n):
    benchmark.extra_info["candidates_per_s"] = n / benchmark.stats["median"]


@pytest.fixture(scope="module")
def ofa():
    space = spaces.ofa_mobilenetv3()
    space.compile(PLAIN)
    return space


@pytest.fixture(scope="module")
def rows(ofa):
    return ofa.random(ROWS, rng=0)


@pytest.mark.benchmark(group="one million OFA-MobileNetV3 candidates")
@pytest.mark.parametrize("kind", ["int16", "int64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_candidates(benchmark, ofa, rows, kind, threads):
    x = rows.astype(kind)
    found = benchmark.pedantic(ofa.evaluate, (x,), {"threads": threads}, rounds=15, warmup_rounds=1)
    assert found["macs"][0] == ofa.evaluate(x[:1])["macs"][0]
    rate(benchmark, ROWS)


@pytest.mark.benchmark(group="one million OFA-MobileNetV3 candidates")
def test_candidates_with_training(benchmark, ofa, rows):
    x = rows.astype(np.int16)
    metrics = (*PLAIN, "training_peak:sgd", "training_peak:adam")
    benchmark.pedantic(ofa.evaluate, (x, metrics), rounds=9, warmup_rounds=1)
    rate(benchmark, ROWS)


@pytest.mark.benchmark(group="one OFA-MobileNetV3 candidate")
def test_limit_ok(benchmark, ofa, rows):
    limit = Limit(ofa, peak="4MiB", params=5_000_000)
    x = np.ascontiguousarray(rows[0])
    assert benchmark(limit.ok, x) in (True, False)


@pytest.mark.benchmark(group="one OFA-MobileNetV3 candidate")
def test_evaluator(benchmark, ofa, rows):
    one = ofa.evaluator(PLAIN)
    x = np.ascontiguousarray(rows[0])
    assert len(benchmark(one, x)) == 3


@pytest.mark.benchmark(group="one OFA-MobileNetV3 candidate")
def test_mutate(benchmark, ofa, rows):
    walk = ofa.walk(rows[0])
    assert benchmark(lambda: ofa.mutate(walk, {"ks3": 7}).metrics)["params"] > 0


@pytest.mark.benchmark(group="one OFA-MobileNetV3 candidate")
def test_build_and_plan_its_graph(benchmark, ofa, rows):
    expected = ofa.evaluate(rows[:1])["inference_peak"][0]
    assert benchmark(lambda: cnnlive.plan_inference(ofa.graph(rows[0])).activation_peak_bytes) == expected


@pytest.mark.benchmark(group="OFA-MobileNetV3, exact search")
def test_compile(benchmark):
    benchmark.pedantic(lambda: spaces.ofa_mobilenetv3().compile(PLAIN), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="OFA-MobileNetV3, exact search")
def test_count_under_a_peak(benchmark, ofa):
    def count():
        ofa._searches.clear()
        return ofa.count(Limit(ofa, peak="4MiB"))

    assert benchmark.pedantic(count, rounds=5, warmup_rounds=1) == 87_034_621_970_289_943_404


@pytest.mark.benchmark(group="OFA-MobileNetV3, exact search")
def test_best_under_two_budgets(benchmark, ofa):
    def best():
        ofa._searches.clear()
        return ofa.best("macs", Limit(ofa, peak="4MiB", params=5_000_000))

    assert benchmark.pedantic(best, rounds=3, warmup_rounds=1).status == "optimal"


@pytest.mark.benchmark(group="OFA-MobileNetV3, exact search")
def test_sample_a_thousand_that_fit(benchmark, ofa):
    limit = Limit(ofa, peak="4MiB")
    assert len(benchmark(ofa.sample, 1000, limit, rng=0)) == 1000


@pytest.mark.benchmark(group="all of NAS-Bench-201")
def test_all_of_nasbench201(benchmark):
    space = spaces.nasbench201()
    x = np.concatenate(list(space.members()))
    found = benchmark(space.evaluate, x, PLAIN)
    assert found["params"].sum() == 6_227_406_250


@pytest.mark.benchmark(group="all of NAS-Bench-201")
def test_all_of_nasbench201_for_the_first_time(benchmark):
    space = spaces.nasbench201()
    x = np.concatenate(list(space.members()))

    def fresh():
        space.forget()
        return space.evaluate(x, PLAIN)

    assert benchmark.pedantic(fresh, rounds=9, warmup_rounds=1)["params"].sum() == 6_227_406_250


@pytest.fixture(scope="module")
def nasbench101():
    space = spaces.nasbench101()
    return space, np.concatenate(list(space.members()))


@pytest.mark.benchmark(group="all 423,624 nets of NAS-Bench-101")
@pytest.mark.parametrize("metric", ["inference_peak", "minimum_peak"])
def test_all_of_nasbench101(benchmark, nasbench101, metric):
    space, x = nasbench101

    def fresh():
        space.forget()
        return space.evaluate(x, metric)[metric]

    assert len(benchmark.pedantic(fresh, rounds=3, warmup_rounds=1)) == 423_624
