"""Limits: budgets of a search space, against a space whose every number stands in a table."""

import concurrent.futures
import pickle
import threading
import timeit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tabled_space import ROWS, TABLE, Fast, Tabled, value

from cnnlive.errors import AttributeValueError, CnnliveError, DTypeError, OrderError, ShapeError, SpaceError, UnitError
from cnnlive.nas import spaces
from cnnlive.nas.base import read_setting
from cnnlive.nas.limit import KEYWORDS, Limit
from cnnlive.plan.inference import plan_inference
from cnnlive.plan.optimizers import read_optimizer
from cnnlive.plan.training import plan_training


@pytest.fixture(params=[Tabled, Fast])
def space(request):
    return request.param()


amounts = st.integers(1, 8000)
budgets = st.dictionaries(st.sampled_from(sorted(KEYWORDS)), amounts, min_size=1)


# ---------------------------------------------------------------------------------- the answers


@given(
    budgets=budgets, fast=st.booleans(), batch=st.integers(1, 3), train_batch=st.none() | st.integers(1, 3),
    int8=st.booleans(), flops=st.booleans(),
)  # fmt: skip
def test_every_answer_equals_the_definition(budgets, fast, batch, train_batch, int8, flops):
    space = Fast() if fast else Tabled()
    how = {"batch": batch}
    if int8 and budgets.keys() & {"weights", "peak", "total", "minimum_peak"}:
        how["dtype"] = "int8"
    if flops and "macs" in budgets:
        how["convention"] = "flops"
    trains = budgets.keys() & {"saved", "training"}
    limit = Limit(space, **budgets, **how, **({"train_batch": train_batch} if trains and train_batch else {}))
    training = {**how, "batch": train_batch or batch}
    labels = [label for key, label in KEYWORDS.items() if key in budgets]
    tops = {label: budgets[key] for key, label in KEYWORDS.items() if key in budgets}
    table = np.array(
        [[value(r, n, **(training if n in ("saved", "training_peak") else how)) for n in labels] for r in ROWS]
    )
    fits = [all(v <= tops[n] for n, v in zip(labels, row, strict=True)) for row in table]

    assert limit.names == tuple(labels)
    assert limit.budgets == tops
    mask = limit.mask(ROWS)
    assert mask.dtype == bool
    assert mask.tolist() == fits
    assert [limit.ok(row) for row in ROWS] == fits
    assert [limit(tuple(row.tolist())) for row in ROWS] == fits
    values = limit.values(ROWS)
    assert tuple(values) == limit.names
    assert np.array_equal(np.stack(list(values.values()), axis=1), table)
    violation = limit.violation(ROWS)
    assert violation.dtype == np.float64
    expected = [[(int(v) - tops[n]) / tops[n] for n, v in zip(labels, row, strict=True)] for row in table]
    assert violation.tolist() == expected
    assert (violation <= 0).all(axis=1).tolist() == fits
    assert [list(limit.items(row)) for row in ROWS] == [list(zip(labels, row, strict=True)) for row in expected]
    assert [limit.profile(space.values(row)) for row in ROWS] == [max(row) for row in expected]
    assert limit.count() == sum(fits)
    if any(fits):
        assert limit.mask(limit.sample(50, rng=1)).all()
        assert np.array_equal(limit.sample(50, rng=1), limit.sample(50, rng=1))


def test_who_meets_a_budget_exactly_fits(space):
    for name, key in {label: key for key, label in KEYWORDS.items()}.items():
        top = value(ROWS[5], name)
        assert Limit(space, **{key: top}).ok(ROWS[5])
        assert not Limit(space, **{key: top - 1}).ok(ROWS[5])
        assert dict(Limit(space, **{key: top}).items(ROWS[5])) == {name: 0.0}
        assert Limit(space, **{key: top - 1}).violation(ROWS[5]).item() > 0


def test_the_sign_is_exact_past_what_a_float_holds():
    class Huge(Tabled):
        def evaluate(self, X, metrics, **how):
            return {label: np.full(len(self.check(X)), 2**62 + 1) for label in metrics}

    assert Limit(Huge(), macs=2**62).violation(ROWS[:1]).item() > 0
    assert Limit(Huge(), macs=2**62 + 1).violation(ROWS[:1]).item() == 0
    assert Limit(Huge(), macs=2**62 + 2).violation(ROWS[:1]).item() < 0
    assert not Limit(Huge(), macs=2**62).ok(ROWS[0])
    assert dict(Limit(Huge(), macs=2**62).items(ROWS[0]))["macs"] > 0


def test_each_optimizer_may_have_its_budget(space):
    limit = Limit(space, training={"sgd": 500, "adam": "1kB"})
    assert limit.budgets == {"training_peak:sgd": 500, "training_peak:adam": 1000}
    assert limit.metrics["training_peak:sgd"].optimizer == read_optimizer("sgd")
    for row in ROWS:
        assert limit.ok(row) == (value(row, "training_peak:sgd") <= 500 and value(row, "training_peak:adam") <= 1000)
    named = Limit(space, training=700, optimizer="sgd", optimizer_options={"momentum": 0.9})
    assert named.metrics["training_peak"].optimizer == read_optimizer("sgd", momentum=0.9)
    assert [named.ok(r) for r in ROWS] == [value(r, "training_peak", optimizer="sgd") <= 700 for r in ROWS]


def test_amounts_are_texts_or_integers_of_any_kind(space):
    limit = Limit(space, peak="256KiB", total=np.int64(7), params=np.int32(1_000_000), training="8GiB", saved="1.5 kB")
    assert limit.budgets == {
        "params": 1_000_000, "inference_peak": 262_144, "inference_total": 7, "saved": 1500,
        "training_peak": 8 * 2**30,
    }  # fmt: skip
    assert all(type(top) is int for top in limit.budgets.values())
    assert Limit(space, inference_peak="256KiB").budgets == {"inference_peak": 262_144}
    assert Limit(space, peak=5, params=None, weight_bytes=None).names == ("inference_peak",)


def test_inference_and_training_have_settings_of_their_own(space):
    limit = Limit(space, peak="256KiB", dtype="int8", training="8GiB", train_batch=64, precision="autocast")
    rules = {"dtype": "int8", "precision": "autocast"}
    assert limit.setting_of("inference_peak") == limit.setting_of("peak") == read_setting(batch=1, **rules)
    assert limit.setting_of("params") == read_setting(batch=1, **rules)
    assert limit.setting_of("training_peak:sgd") == limit.setting_of("saved") == read_setting(batch=64, **rules)
    together = Limit(space, peak=1, training=1, batch=8)
    assert together.setting_of("peak") == together.setting_of("training") == read_setting(batch=8)


# ---------------------------------------------------------------------------------- how little is computed


def test_what_does_not_fit_is_not_asked_for_more():
    space = Tabled()
    limit = Limit(space, params=500, training=500, train_batch=2)
    few = int((TABLE["params"] <= 500).sum())
    limit.mask(ROWS)
    assert space.asked == [(("params",), 24), (("training_peak",), few)]
    space.asked.clear()
    for row in ROWS:
        limit.ok(row)
    assert len(space.asked) == 24 + few


def test_only_who_exceeds_in_program_order_is_ordered():
    space = Tabled()
    order = 4 * int(np.median(TABLE["inference_peak"]))
    limit = Limit(space, minimum_peak=order, params=700)
    left = (TABLE["params"] <= 700) & (4 * TABLE["inference_peak"] > order)
    limit.mask(ROWS)
    assert space.asked == [(("params", "inference_peak"), 24), (("minimum_peak",), int(left.sum()))]
    space.asked.clear()
    for row in ROWS:
        limit.ok(row)
    assert sum(labels == ("minimum_peak",) for labels, _ in space.asked) == int(left.sum())


def test_one_call_gives_all_metrics_of_one_setting():
    space = Tabled()
    Limit(space, params=1, peak=1, minimum_peak=1, training=1).values(ROWS)
    assert space.asked == [(("params", "inference_peak", "training_peak", "minimum_peak"), 24)]
    space.asked.clear()
    Limit(space, params=1, peak=1, training=1, train_batch=2).violation(ROWS)
    assert space.asked == [(("params", "inference_peak"), 24), (("training_peak",), 24)]


def test_an_evaluator_is_made_once():
    space = Fast()
    limit = Limit(space, params=700, peak=3000)
    for row in ROWS:
        limit.ok(row)
        list(limit.items(row))
    assert space.asked == [("evaluator", ("params", "inference_peak"))] * 2


def seconds(function, *args):
    """Return the least time of a call: what is measured is never faster than it is."""
    return min(timeit.repeat(lambda: function(*args), number=300, repeat=30)) / 300


def test_a_limit_adds_little_to_the_walk_of_a_candidate():
    space = spaces.nasbench_macro()
    limit = Limit(space, params=10**9, macs=10**12, peak="1GiB")
    walk = space.evaluator(("params", "macs", "inference_peak"))
    row = space.random(1, rng=0)[0]
    assert limit.ok(row)
    assert seconds(limit.ok, row) < 3 * seconds(walk, row)  # 1.6 where nothing else runs


# ---------------------------------------------------------------------------------- protocols


def test_an_efficiency_is_one_metric_of_a_native_candidate(space):
    limit = Limit(space, params=1, dtype=None, peak=10, batch=2)
    for metric in ("peak", "inference_peak"):
        efficiency = limit.as_efficiency(metric)
        for row in ROWS:
            sample = space.decode(row)
            expected = value(row, "inference_peak", batch=2)
            assert efficiency.get_efficiency(sample) == efficiency.profile(sample) == expected
            assert type(efficiency.predict_efficiency(sample)) is int
    assert limit.as_efficiency("training_peak:sgd").get_efficiency(space.decode(ROWS[3])) == value(
        ROWS[3], "training_peak:sgd", batch=2
    )
    assert limit.as_efficiency("macs").profile({"depth": 2}) == value(np.array([1, 0, 0]), "macs", batch=2)
    with pytest.raises(AttributeValueError, match="unknown metric 'latency'"):
        limit.as_efficiency("latency")
    with pytest.raises(SpaceError, match="gene 'depth' has no value 9"):
        limit.as_efficiency("peak").get_efficiency({"depth": 9})


def test_a_limit_travels(space):
    limit = Limit(space, peak=2000, training=700, train_batch=2, optimizer="sgd")
    fits = limit.mask(ROWS).tolist()
    assert [limit.ok(row) for row in ROWS] == fits
    list(limit.items(ROWS[0]))
    efficiency = limit.as_efficiency("peak")
    there = pickle.loads(pickle.dumps(limit))
    assert [there.ok(row) for row in ROWS] == fits
    assert there.budgets == limit.budgets
    assert there.setting_of("training") == limit.setting_of("training")
    again = pickle.loads(pickle.dumps(efficiency))
    assert again.get_efficiency(space.decode(ROWS[7])) == efficiency.get_efficiency(space.decode(ROWS[7]))


def test_a_limit_shows_its_budgets(space):
    text = repr(Limit(space, training={"sgd": "1GiB"}, params=1_000_000, peak="256KiB"))
    assert text.endswith("params <= 1,000,000, inference_peak <= 262,144 B, training_peak:sgd <= 1,073,741,824 B)")


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, AttributeValueError, "without a budget.*allowed: params, macs, weights, peak"),
        ({"peak": None}, AttributeValueError, "without a budget"),
        ({"peaks": 5}, AttributeValueError, "no budget is called 'peaks'; did you mean peak"),
        ({"latency": 5}, AttributeValueError, "'latency'.*allowed: .*minimum_peak.*inference_peak"),
        ({"peak": 5, "inference_peak": 5}, AttributeValueError, "two budgets"),
        ({"training": {"sgd": 5}, "training_peak:sgd": 5}, AttributeValueError, "'training_peak:sgd' has two budgets"),
        ({"peak": "256 apples"}, UnitError, "peak: '256 apples' is not an amount of bytes; allowed: .*KiB"),
        ({"peak": "-3"}, UnitError, "peak: '-3'"),
        ({"peak": 0}, AttributeValueError, "peak=0; a budget is .* from 1 to"),
        ({"peak": "0B"}, AttributeValueError, "peak='0B'; a budget is"),
        ({"peak": -5}, AttributeValueError, "peak=-5"),
        ({"peak": 2**63}, AttributeValueError, "a budget is"),
        ({"peak": 1e6}, UnitError, "peak=1000000.0 is no budget; allowed: an integer or a text"),
        ({"peak": True}, UnitError, "peak=True is no budget"),
        ({"params": "1M"}, AttributeValueError, "params='1M' is no budget; allowed: an integer"),
        ({"params": 1e6}, AttributeValueError, "params=1000000.0 is no budget; allowed: an integer"),
        ({"macs": True}, AttributeValueError, "macs=True is no budget"),
        ({"training": {"sgdd": 5}}, AttributeValueError, "sgdd"),
        ({"training": {}}, AttributeValueError, "without a budget"),
        ({"peak": {"sgd": 5}}, AttributeValueError, "for each optimizer is for training alone"),
        ({"training": 5, "optimizer": "adamm"}, CnnliveError, "adamm"),
        ({"training": 5, "dtype": "float16"}, AttributeValueError, "dtype= is of inference .*precision="),
        ({"peak": 5, "precision": "float16"}, AttributeValueError, "precision= is of training .*dtype="),
        ({"peak": 5, "train_batch": 64}, AttributeValueError, "train_batch= is of training; .*for inference_peak only"),
        ({"saved": 5, "optimizer": "sgd"}, AttributeValueError, "optimizer="),
        ({"training": {"sgd": 5}, "optimizer": "sgd"}, AttributeValueError, "that names no optimizer"),
        ({"params": 5, "profile": "torch_fx"}, AttributeValueError, "profile="),
        ({"peak": 5, "convention": "flops"}, AttributeValueError, "convention= is of macs"),
        ({"macs": 5, "convention": "mac"}, AttributeValueError, "convention='mac'; allowed: 'macs'"),
        ({"minimum_peak": 5, "profile": "torch"}, OrderError, "over all orders.*'torch'"),
        ({"peak": 5, "batch": 0}, ShapeError, "0"),
        ({"training": 5, "train_batch": -1}, ShapeError, "-1"),
        ({"peak": 5, "dtype": "float17"}, DTypeError, "float17"),
        ({"peak": 5, "profile": "nothing"}, CnnliveError, "nothing"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        Limit(Tabled(), **given)


def test_a_limit_is_of_a_space():
    with pytest.raises(AttributeValueError, match="of a search space, not of 'nasbench201'"):
        Limit("nasbench201", peak=5)
    with pytest.raises(AttributeValueError, match="unknown metric 'latency'"):
        Limit(Tabled(), peak=5).setting_of("latency")


def test_rows_that_are_none_are_named():
    limit = Limit(Tabled(), peak=2000, training=5)
    bad = ROWS.copy()
    bad[7, 1] = 4
    for ask in (limit.mask, limit.values, limit.violation):
        with pytest.raises(SpaceError, match="row 7 of the genotypes has 4 at gene 'kernel'"):
            ask(bad)
        with pytest.raises(SpaceError, match=r"shape \(24, 2\)"):
            ask(ROWS[:, :2])
    for row in (bad[7], ROWS[0, :2], ROWS[:2], [0.5, 1, 1]):
        with pytest.raises(SpaceError):
            limit.ok(row)
        with pytest.raises(SpaceError):
            list(limit.items(row))


def test_no_candidates_are_no_answers(space):
    limit = Limit(space, params=5, minimum_peak=7, training=5, train_batch=2)
    none = np.zeros((0, 3), int)
    assert limit.mask(none).shape == (0,)
    assert limit.violation(none).shape == (0, 3)
    assert {k: v.shape for k, v in limit.values(none).items()} == dict.fromkeys(limit.names, (0,))
    assert limit.mask(none).dtype == bool


def test_each_thread_has_functions_of_its_own():
    space = Fast()
    limit = Limit(space, params=700, minimum_peak=2000, training=700, train_batch=2)
    expected = limit.mask(ROWS).tolist()
    space.asked.clear()

    def ask(_):
        barrier.wait()
        list(limit.items(ROWS[0]))
        assert limit.value("peak", ROWS[3]) == value(ROWS[3], "inference_peak")
        return [limit.ok(row) for row in ROWS]

    barrier = threading.Barrier(4)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [expected] * 4
    made = [labels for kind, labels in space.asked if kind == "evaluator"]
    assert all(made.count(labels) % 4 == 0 for labels in made)


# ---------------------------------------------------------------------------------- real spaces


REAL = {
    "nasbench_macro": spaces.nasbench_macro,
    "nats_size": spaces.nats_size,
    "nasbench201": lambda: spaces.nasbench201(channels=4, cells=1),
    "ofa_proxyless": lambda: spaces.ofa_proxyless(width=0.5, resolutions=(96, 128)),
}


@pytest.mark.parametrize("name", REAL)
def test_a_limit_of_a_real_space_asks_what_planners_answer(name):
    space = REAL[name]()
    rows = space.random(40, rng=3)
    how = {"batch": 2, "dtype": "int8", "training": "1TiB", "train_batch": 3, "optimizer": "sgd"}
    seen = Limit(space, params=1, macs=1, weights=1, peak=1, total=1, saved=1, **how).values(rows)
    for row, *found in zip(rows[:8], *(column[:8] for column in seen.values()), strict=True):
        graph = space.graph(row)
        inference = plan_inference(graph, batch=2, dtype="int8")
        training = plan_training(graph, batch=3, optimizer="sgd")
        assert dict(zip(seen, found, strict=True)) == {
            "params": graph.n_parameters, "macs": inference.macs, "weight_bytes": inference.weight_bytes,
            "inference_peak": inference.activation_peak_bytes, "inference_total": inference.peak_bytes,
            "saved": training.saved_bytes, "training_peak": training.peak_bytes,
        }  # fmt: skip
    tops = {key: int(np.median(seen[KEYWORDS[key]])) for key in ("params", "peak", "saved")}
    limit = Limit(space, **tops, **{**how, "training": int(np.median(seen["training_peak"]))})
    fits = [all(seen[label][i] <= top for label, top in limit.budgets.items()) for i in range(len(rows))]
    assert 0 < sum(fits) < len(rows)
    assert limit.mask(rows).tolist() == [limit.ok(row) for row in rows] == fits
    assert (limit.violation(rows) <= 0).all(axis=1).tolist() == fits
    there = pickle.loads(pickle.dumps(limit))
    assert [there.ok(row) for row in rows] == fits
    efficiency = limit.as_efficiency("total")
    for row in space.canonical(rows[:5]):
        assert efficiency.get_efficiency(space.decode(row)) == limit.value("total", row)


@pytest.mark.parametrize("name", ["nasbench_macro", "nats_size", "nasbench201"])
def test_a_limit_of_a_real_space_counts_and_samples_what_fits(name):
    space = REAL[name]()
    everything = np.concatenate(list(space.members()))
    seen = space.evaluate(everything, ("params", "inference_peak", "minimum_peak"))
    tops = {label: int(np.quantile(column, 0.6)) for label, column in seen.items()}
    limit = Limit(space, params=tops["params"], peak=tops["inference_peak"])
    mask = limit.mask(everything)
    fits = (seen["params"] <= tops["params"]) & (seen["inference_peak"] <= tops["inference_peak"])
    assert np.array_equal(mask, fits)
    assert limit.count() == mask.sum() > 0
    assert limit.mask(limit.sample(500, rng=0)).all()
    least = Limit(space, minimum_peak=tops["minimum_peak"])
    assert least.count() == (seen["minimum_peak"] <= tops["minimum_peak"]).sum()


def test_a_candidate_comes_in_any_integers():
    space = spaces.nasbench_macro()
    limit = Limit(space, params=10**6)
    rows = space.random(50, rng=5)
    wide = np.repeat(rows, 2, axis=1)[:, ::2]
    expected = limit.mask(rows).tolist()
    assert 0 < sum(expected) < 50
    for given_as in (list, tuple, lambda row: row[::-1].copy()[::-1], lambda row: row[None]):
        assert [limit.ok(given_as(row)) for row in rows] == expected
    for kind in (np.int8, np.int16, np.int32, np.uint8, np.uint64):
        assert [limit.ok(row) for row in rows.astype(kind)] == expected
    assert [limit.ok(row) for row in wide] == expected
    bad = rows[0].tolist()
    for wrong in ([3, *bad[1:]], [-1, *bad[1:]], [0.5, *bad[1:]], bad[:7], [*bad, 0], [True] * 8, "00000000", None, []):
        with pytest.raises(SpaceError):
            limit.ok(wrong)
        with pytest.raises(SpaceError):
            limit.ok(np.array(wrong))


@pytest.mark.parametrize("name", ["nasbench_macro", "nasbench201"])
def test_a_limit_of_another_space_is_refused(name):
    space, other = REAL[name](), REAL[name]()
    assert space.count(Limit(space, params=10**9)) == space.count()
    limit = Limit(other, params=10**9)
    for ask in (
        lambda: space.count(limit), lambda: space.sample(1, limit), lambda: space.best("macs", limit),
    ):  # fmt: skip
        with pytest.raises(SpaceError, match="the limit is of another space"):
            ask()
