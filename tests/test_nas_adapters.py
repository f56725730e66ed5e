"""Limits and spaces in the hands of Optuna, pymoo and nevergrad, and executors of candidates."""

import ast
import concurrent.futures
import multiprocessing
import pickle
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from tabled_space import ROWS, TABLE, Fast, Tabled, value

import cnnlive
from cnnlive.errors import MissingExtraError, SpaceError
from cnnlive.nas import adapters, spaces
from cnnlive.nas.base import Gene
from cnnlive.nas.limit import Limit
from cnnlive.nas.table import write_table


@pytest.fixture
def limit():
    return Limit(Fast(), params=600, peak=4 * 600)


def fits(row):
    return value(row, "params") <= 600 and value(row, "inference_peak") <= 4 * 600


def score(rows):
    """What searches maximise: multiply-accumulates, as a proxy of accuracy."""
    return np.array([value(row, "macs") for row in rows])


BEST = max(value(row, "macs") for row in ROWS if fits(row))


# ---------------------------------------------------------------------------------- Optuna


@pytest.fixture
def optuna():
    optuna = pytest.importorskip("optuna", "5.0")
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield optuna
    optuna.logging.set_verbosity(before)


def test_an_optuna_trial_chooses_values(optuna):
    space = Tabled()
    space.genes = (
        Gene("depth", (1, 2, 3)), Gene("width", (16, 24, 40)), Gene("op", ("conv", "pool", None)),
        Gene("pair", ((1, 2), (3, 4))), Gene("flag", (False, True)), Gene("even", (4, 6, 8)), Gene("down", (3, 2)),
        Gene("one", (5,)),
    )  # fmt: skip
    params = {"depth": 3, "width": 24, "op": None, "pair": 1, "flag": True, "even": 6, "down": 2, "one": 5}
    trial = optuna.trial.FixedTrial({f"net.{k}": v for k, v in params.items()})
    assert adapters.suggest(trial, space, prefix="net.").tolist() == [2, 1, 2, 1, 1, 1, 1, 0]
    kinds = {k.removeprefix("net."): d for k, d in trial.distributions.items()}
    assert {k for k, d in kinds.items() if isinstance(d, optuna.distributions.IntDistribution)} == {
        "depth", "even", "one",
    }  # fmt: skip
    assert (kinds["even"].low, kinds["even"].high, kinds["even"].step) == (4, 8, 2)
    assert kinds["width"].choices == (16, 24, 40)
    assert kinds["pair"].choices == (0, 1)


@pytest.mark.parametrize("sampler", ["TPESampler", "RandomSampler", "NSGAIISampler"])
def test_optuna_prunes_what_does_not_fit_and_finds_the_best(optuna, limit, sampler):
    built = []

    def objective(trial):
        row = adapters.suggest(trial, limit.space)
        assert adapters.constrain(trial, limit, row)
        built.append(tuple(row.tolist()))
        return float(score([row])[0])

    study = optuna.create_study(direction="maximize", sampler=getattr(optuna.samplers, sampler)(seed=0))
    study.optimize(objective, n_trials=150)
    assert all(map(fits, built))
    assert study.best_value == BEST
    pruned = study.get_trials(states=[optuna.trial.TrialState.PRUNED])
    assert len(built) + len(pruned) == 150
    assert pruned
    for trial in study.trials:
        row = limit.space.from_values(trial.params)
        assert trial.constraints == dict(limit.items(row))
        assert (max(trial.constraints.values()) > 0) == (trial.state == optuna.trial.TrialState.PRUNED)


def test_without_pruning_optuna_keeps_what_does_not_fit_as_infeasible(optuna, limit):
    def objective(trial):
        row = adapters.suggest(trial, limit.space)
        assert adapters.constrain(trial, limit, row, prune=False) == fits(row)
        return float(score([row])[0])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=100)
    assert len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == 100
    assert study.best_value == BEST  # best_trial is the best of the feasible
    assert max(t.value for t in study.trials) > BEST


def test_a_pruned_trial_says_why(optuna):
    limit = Limit(Fast(), params=1)
    trial = optuna.create_study().ask()
    row = adapters.suggest(trial, limit.space)
    with pytest.raises(optuna.TrialPruned, match="params is .* % above its budget"):
        adapters.constrain(trial, limit, row)


# ---------------------------------------------------------------------------------- pymoo


def macs(rows):
    assert len(rows)
    assert all(map(fits, rows))
    return -score(rows)


def two_scores(rows):
    return np.stack([-score(rows), [value(row, "params") for row in rows]], axis=1)


@pytest.fixture
def pymoo():
    return pytest.importorskip("pymoo")


def integer_operators():
    from pymoo.operators.crossover.sbx import SBX  # noqa: PLC0415 - where pymoo is installed
    from pymoo.operators.mutation.pm import PM  # noqa: PLC0415
    from pymoo.operators.repair.rounding import RoundingRepair  # noqa: PLC0415
    from pymoo.operators.sampling.rnd import IntegerRandomSampling  # noqa: PLC0415

    return {
        "sampling": IntegerRandomSampling(),
        "crossover": SBX(vtype=float, repair=RoundingRepair()),
        "mutation": PM(vtype=float, repair=RoundingRepair()),
    }


def test_pymoo_finds_the_best_that_fits(pymoo, limit):
    from pymoo.algorithms.soo.nonconvex.ga import GA  # noqa: PLC0415
    from pymoo.optimize import minimize  # noqa: PLC0415

    problem = adapters.problem(limit, macs)
    found = minimize(problem, GA(pop_size=20, **integer_operators()), ("n_gen", 15), seed=1)
    assert -found.F[0] == BEST
    assert limit.ok(np.rint(found.X).astype(int))
    assert found.G.tolist() == limit.violation(np.rint(found.X).astype(int))[0].tolist()
    assert 0 < problem.n_rejected < problem.n_asked <= 20 * 15


def test_pymoo_finds_a_front(pymoo, limit):
    from pymoo.algorithms.moo.nsga2 import NSGA2  # noqa: PLC0415
    from pymoo.optimize import minimize  # noqa: PLC0415

    problem = adapters.problem(limit, two_scores, n_obj=2)
    found = minimize(problem, NSGA2(pop_size=30, **integer_operators()), ("n_gen", 20), seed=1)
    all_scores = two_scores([row for row in ROWS if fits(row)])
    front = {
        tuple(a) for a in all_scores.tolist()
        if not any((b <= a).all() and (b < a).any() for b in all_scores)
    }  # fmt: skip
    assert set(map(tuple, found.F.tolist())) == front


def test_a_pymoo_problem_travels(pymoo, limit):
    problem = adapters.problem(limit, macs)
    problem.evaluate(ROWS.astype(float))
    there = pickle.loads(pickle.dumps(problem))
    assert (there.n_asked, there.n_rejected) == (24, 24 - sum(map(fits, ROWS)))
    assert np.array_equal(there.evaluate(ROWS)[0], problem.evaluate(ROWS)[0])
    nothing = adapters.problem(Limit(Fast(), params=1), macs)
    assert (nothing.evaluate(ROWS)[1] > 0).all()


# ---------------------------------------------------------------------------------- nevergrad


@pytest.fixture
def nevergrad():
    return pytest.importorskip("nevergrad")


def test_nevergrad_proposes_what_fits(nevergrad, limit):
    space = limit.space
    parameters = adapters.parametrization(space, limit)
    parameters.random_state.seed(1)
    assert [type(p).__name__ for p in parameters] == ["TransitionChoice", "TransitionChoice", "Choice"]
    optimizer = nevergrad.optimizers.RandomSearch(parameters, budget=100)
    seen = []

    def loss(row):
        seen.append(row)
        return -float(score([row])[0])

    best = optimizer.minimize(loss).value
    assert all(isinstance(row, tuple) and fits(row) for row in seen)
    assert score([best])[0] == BEST
    pickle.dumps(parameters)


def test_nevergrad_takes_violations_too(nevergrad, limit):
    parameters = adapters.parametrization(limit.space)
    parameters.random_state.seed(3)
    optimizer = nevergrad.optimizers.RandomSearch(parameters, budget=100)
    for _ in range(100):
        candidate = optimizer.ask()
        optimizer.tell(candidate, -float(score([candidate.value])[0]), limit.violation(candidate.value)[0])
    assert fits(optimizer.provide_recommendation().value)


def test_a_limit_of_another_space_is_refused(nevergrad, limit):
    with pytest.raises(SpaceError, match="the limit is of"):
        adapters.parametrization(Tabled(), limit)


# ---------------------------------------------------------------------------------- protocols


class RangeProfilerFilter:
    """What NNI's filter of this name asks of a profiler: a number for a sample, held between two bounds."""

    def __init__(self, profiler, low=None, high=None):
        self.profiler, self.low, self.high = profiler, low, high

    def filter(self, sample):
        number = self.profiler.profile(sample)
        return (self.low is None or number >= self.low) and (self.high is None or number <= self.high)


def test_a_filter_of_profiled_samples_keeps_what_fits(limit):
    keep = RangeProfilerFilter(limit, high=0)
    peak = RangeProfilerFilter(limit.as_efficiency("peak"), high=4 * 600)
    for row in ROWS:
        sample = limit.space.values(row)
        assert keep.filter(sample) == fits(row)
        assert peak.filter(sample) == (value(row, "inference_peak") <= 4 * 600)


def test_a_finder_draws_until_the_efficiency_is_low_enough(limit):
    """As once-for-all's finders do: draw, ask ``get_efficiency``, draw again."""
    predictor = limit.as_efficiency("peak")
    rng = np.random.default_rng(0)
    found = []
    while len(found) < 20:
        sample = limit.space.decode(limit.space.random(1, rng=rng)[0])
        if predictor.get_efficiency(sample) <= 4 * 600:
            found.append(limit.space.from_values(sample))
    assert all(value(row, "inference_peak") <= 4 * 600 for row in found)
    assert TABLE["inference_peak"].max() > 600


@pytest.mark.parametrize(
    ("module", "ask"),
    [
        ("pymoo.core.problem", lambda limit: adapters.problem(limit, macs)),
        ("nevergrad", lambda limit: adapters.parametrization(limit.space)),
    ],
)
def test_a_missing_library_is_named(monkeypatch, limit, module, ask):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"package {module.partition('.')[0]}, .*cnnlive\[nas\]"):
        ask(limit)


# ---------------------------------------------------------------------------------- executors

METRICS = ("params", "macs", "inference_peak", "training_peak:sgd")


@pytest.fixture(scope="module")
def candidates():
    """A space of each engine, more rows than one chunk takes, and what threads of this process give."""
    found = []
    for space in (spaces.nasbench_macro(), spaces.nasbench201(channels=4, cells=1)):
        rows = np.random.default_rng(0).integers(0, space.cardinalities, (150_000, space.n_genes))
        found.append((space, rows, space.evaluate(rows, METRICS)))
    return found


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in found)


class Counting(concurrent.futures.Executor):
    """Runs in this process at once, counts, and fails at one task."""

    def __init__(self, fails_at=None):
        self.n = 0
        self.fails_at = fails_at

    def submit(self, function, /, *args, **kwargs):
        self.n += 1
        future = concurrent.futures.Future()
        if self.n == self.fails_at:
            future.set_exception(ConnectionError("the machine is gone"))
        else:
            # What goes through an executor has to survive the way.
            function, args, kwargs = pickle.loads(pickle.dumps((function, args, kwargs)))
            future.set_result(function(*args, **kwargs))
        return future


def fresh(space):
    """A space that remembers nothing of what it has evaluated."""
    return pickle.loads(pickle.dumps(space))


def test_chunks_through_an_executor_give_the_same(candidates):
    for space, rows, expected in candidates:
        executor = Counting()
        assert same(fresh(space).evaluate(rows, METRICS, executor=executor), expected)
        assert executor.n > 1


def test_a_process_pool_gives_the_same(candidates):
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for space, rows, expected in candidates:
            assert same(fresh(space).evaluate(rows, METRICS, executor=pool), expected)
            top = int(np.median(expected["inference_peak"]))
            limit = Limit(fresh(space), peak=top)
            assert np.array_equal(limit.mask(rows, executor=pool), expected["inference_peak"] <= top)
            assert pool.submit(limit.ok, rows[0]).result() == (expected["inference_peak"][0] <= top)


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None, silence_logs=40
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


def test_dask_workers_give_the_same(candidates, client):
    assert len(client.scheduler_info()["workers"]) == 2
    for space, rows, expected in candidates:
        assert same(fresh(space).evaluate(rows, METRICS, executor=client.get_executor()), expected)


def test_an_executor_that_fails_in_the_middle_raises_and_leaves_nothing(candidates, tmp_path):
    for space, rows, expected in candidates:
        space = fresh(space)  # noqa: PLW2901 - so that nothing is looked up
        with pytest.raises(ConnectionError, match="the machine is gone"):
            space.evaluate(rows, METRICS, executor=Counting(fails_at=2))
        limit = Limit(space, training={"sgd": int(np.median(expected["training_peak:sgd"]))})
        with pytest.raises(ConnectionError):
            limit.violation(rows, executor=Counting(fails_at=2))
        # What was computed before it failed is not taken for the whole.
        assert same(space.evaluate(rows, METRICS), expected)


def test_a_table_whose_executor_fails_is_not_written(tmp_path):
    space = spaces.nasbench201(channels=4, cells=1)
    with pytest.raises(ConnectionError):
        write_table(space, tmp_path / "a.csv", chunk=5000, executor=Counting(fails_at=3))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------- examples


def example(name, capsys, monkeypatch, *arguments):
    """Run an example in this process; return its names, how many were asked and rejected, and what it says is best."""
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    found = runpy.run_path(str(path), run_name="__main__")
    text = capsys.readouterr().out
    asked, rejected = re.match(r"(\d+) candidates, (\d+) of them rejected .* before they were built\n", text).groups()
    best = [
        int(n.replace(",", "")) for n in re.search(r"best: (\S+) MACs, (\S+) parameters, (\S+) bytes", text).groups()
    ]
    return found, int(asked), int(rejected), best, ast.literal_eval(re.search(r"^ +(\{.*\})$", text, re.M).group(1))


@pytest.mark.parametrize(
    ("name", "library", "arguments", "asked"),
    [
        ("search_optuna", "optuna", ["--trials", 40], 40),
        ("search_pymoo", "pymoo", ["--population", 20, "--generations", 4], 80),
    ],
)
def test_an_example_finds_what_fits(capsys, monkeypatch, name, library, arguments, asked):
    pytest.importorskip(library)
    found, n, rejected, best, native = example(name, capsys, monkeypatch, *arguments)
    assert n == asked
    assert 0 < rejected < asked
    space = spaces.ofa_proxyless(widths=found["WIDTHS"], resolutions=found["RESOLUTIONS"], mix="mcunet")
    plan = cnnlive.plan_inference(space.graph(space.encode(native)), dtype="int8")
    assert best == [plan.macs, plan.network.n_parameters, plan.activation_peak_bytes]
    assert plan.activation_peak_bytes <= 262_144
