"""Execution orders of least peak: equal to brute force over every legal order, and what must hold beside."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import naive
import numpy as np
import order_graphs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import graphs

from cnnlive import Graph, Lowered, errors, lower, plan_inference, verify, zoo
from cnnlive.plan import order_search
from cnnlive.plan.order import MAX_STATES, OrderPlan, minimum_peak, plan_order
from cnnlive.profiles import Profile

RULES = st.builds(
    Profile,
    name=st.just("drawn"),
    summary=st.just(""),
    inplace=st.sampled_from(["graph", "dead", "never"]),
    keeps_inputs=st.booleans(),
    pool_indices=st.booleans(),
)
MOST_ORDERS = 100


def legal_orders(graph):
    """Yield every legal order of a graph that runs network inputs and stored parameters first."""
    before = {n: {u for u, _ in naive.sources(graph, n)} for n in graph.nodes()}
    for reader, overwriter in naive.overwriter_conflicts(graph):
        before[overwriter].add(reader)
    free = [n for n in graph.nodes() if graph.op_of(n) in ("input", "parameter")]

    def extend(order):
        if len(order) == len(before):
            yield list(order)
        for n in graph.nodes():
            if n not in order and before[n] <= set(order):
                yield from extend([*order, n])

    return extend(free)


def least_peak(graph, rules):
    """Return the least peak by running every order; None where there are too many."""
    orders = list(itertools.islice(legal_orders(graph), MOST_ORDERS + 1))
    assume(len(orders) <= MOST_ORDERS)
    return min(
        max(
            naive.timeline(
                graph, order, inplace=rules.inplace, keeps_inputs=rules.keeps_inputs, pool_indices=rules.pool_indices
            )
        )
        for order in orders
    )


def check(graph, rules, **options):
    """Plan an order, and check that it is legal and has the peak that is said of it."""
    plan = plan_order(graph, profile=rules, **options)
    run = plan_inference(graph, order=plan.order.tolist(), profile=rules)
    assert run.activation_peak_bytes == plan.peak_bytes
    assert plan.program_peak_bytes == plan_inference(graph, profile=rules).activation_peak_bytes
    assert plan.lower_bound <= plan.peak_bytes <= plan.program_peak_bytes
    assert plan.optimal == (plan.lower_bound == plan.peak_bytes) == (plan.status == "optimal")
    if not run.profile.fuse:
        verify.check_inference(graph, run)
    return plan


# ------------------------------------------------------------------ definition


@settings(max_examples=1000)
@given(graph=graphs(max_ops=9), rules=RULES)
def test_the_peak_is_the_least_of_every_order(graph, rules):
    least = least_peak(graph, rules)
    plan = check(graph, rules)
    assert plan.optimal
    assert plan.peak_bytes == minimum_peak(graph, profile=rules) == least


@settings(max_examples=60)
@given(graph=graphs(max_ops=7), rules=RULES)
def test_running_inputs_and_parameters_first_loses_nothing(graph, rules):
    every = min(
        max(
            naive.timeline(
                graph, order, inplace=rules.inplace, keeps_inputs=rules.keeps_inputs, pool_indices=rules.pool_indices
            )
        )
        for order in naive.all_orders(graph)
    )
    assert minimum_peak(graph, profile=rules) == every


@st.composite
def weighted_sums(draw):
    """Sums of branches, each times something made of a stored parameter, which other branches may read too."""
    g = Graph("weighted")
    live = [g.input((1, 2, 4, 4))]
    factors = []
    while len(g) < draw(st.integers(6, 10)):
        x = live[draw(st.integers(0, len(live) - 1))]
        kind = draw(st.sampled_from(["weigh", "weigh", "add", "conv"]))
        if kind == "weigh":
            factor = g.sigmoid(g.parameter(draw(st.sampled_from([(1, 2, 1, 1), (1, 2, 4, 4)]))))
            then = draw(st.sampled_from(["", "identity", "relu", "relu_", "abs"]))
            if then == "identity":
                factor = g.identity(factor)
            elif then:
                factor = g.op(then.rstrip("_"), factor, **({"inplace": True} if then == "relu_" else {}))
            factors.append(factor)
            live.append(g.mul(x, factors[draw(st.integers(0, len(factors) - 1))]))
        elif kind == "add":
            live.append(g.add(x, live[draw(st.integers(0, len(live) - 1))]))
        else:
            live.append(g.conv2d(x, 2, 1))
    if draw(st.booleans()):
        g.output(*{t.name: t for t in (live[-1], live[draw(st.integers(1, len(live) - 1))])}.values())
    return g


@settings(max_examples=150)
@given(graph=weighted_sums(), rules=RULES)
def test_what_is_made_of_parameters_waits_for_its_reader(graph, rules):
    least = least_peak(graph, rules)
    assert check(graph, rules).peak_bytes == least


@given(graph=graphs(max_ops=24), rules=RULES)
def test_larger_graphs_are_proven_too_and_orders_are_what_they_say(graph, rules):
    assert check(graph, rules).optimal


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("alone", [False, True], ids=["with rules of thumb", "by search alone"])
@pytest.mark.parametrize("first", range(0, 800, 200))
def test_columns_have_the_least_peak_of_all_sets(monkeypatch, first, alone, inplace):
    """Several inputs and outputs, two outputs of one op, views, scratch, ops in place; 3,200 searches in all."""
    if alone:
        monkeypatch.setattr(order_search.BlockSearch, "_rules_of_thumb", lambda self: None)
        monkeypatch.setattr(order_search.BlockSearch, "_beam", lambda self, *_: None)
        monkeypatch.setattr(order_search.BlockSearch, "_forced", lambda self, *_: 0)
    for seed in range(first, first + 200):
        graph = order_graphs.drawn(random.Random(seed), 12, inplace)
        sets, found = order_graphs.Sets(graph), graph.best()
        assert found.peak == found.bound == sets.least() == sets.peak(found.order.tolist()), seed


@pytest.mark.parametrize("seed", range(40))
def test_what_is_forced_to_be_alive_bounds_every_order(seed):
    """The bound of few states, with and without it, stays below the least peak of graphs of up to 18 ops."""
    graph = order_graphs.drawn(random.Random(seed), 18)
    sets = order_graphs.Sets(graph)
    least = sets.least()
    for states in (1, 3, 20):
        found = graph.best(states)
        assert found.bound <= least <= found.peak == sets.peak(found.order.tolist())


# ------------------------------------------------------------------ relations


@given(graph=graphs(max_ops=14), rules=RULES)
def test_twice_the_bytes_twice_the_peak(graph, rules):
    """Indices and integers keep their size, so only nets without them double."""
    assume(not rules.pool_indices)
    assume(all(t.dtype.startswith("float") for n in graph.nodes() for t in graph.tensors_of(n)))
    single, double = (plan_order(graph, profile=rules, dtype=d) for d in ("float32", "float64"))
    assert double.peak_bytes == 2 * single.peak_bytes
    assert double.order.tolist() == single.order.tolist()


@settings(max_examples=40)
@given(graph=graphs(max_ops=14), rules=RULES, batch=st.integers(2, 5))
def test_the_bound_grows_with_the_batch(graph, rules, batch):
    more = plan_order(graph, profile=rules, batch=batch)
    assert plan_order(graph, profile=rules).peak_bytes <= more.peak_bytes


@given(graph=graphs(max_ops=14), rules=RULES)
def test_planning_in_the_best_order_is_planning_in_that_order(graph, rules):
    plan, best = plan_order(graph, profile=rules), plan_inference(graph, order="best", profile=rules)
    assert best.activation_peak_bytes == plan.peak_bytes
    assert best.lower_bound == plan.lower_bound
    assert best.optimal
    verify.check_inference(graph, best)


@given(graph=graphs(max_ops=14), rules=RULES)
def test_the_planned_order_is_planned_again(graph, rules):
    """An order that is optimal already, as the program of a new graph, stays."""
    plan = plan_order(graph, profile=rules)
    data = graph.to_dict()
    rows = {row["name"]: row for row in data["ops"]}
    again = Graph.from_dict({**data, "ops": [rows[name] for name in plan.op_names]})
    found = plan_order(again, profile=rules)
    assert found.peak_bytes == plan.peak_bytes
    assert found.order.tolist() == list(range(len(graph)))


@given(graph=graphs(max_ops=20), rules=RULES)
def test_equal_questions_have_equal_answers(graph, rules):
    first, second = plan_order(graph, profile=rules), plan_order(lower(graph), profile=rules)
    assert first.order.tolist() == second.order.tolist()
    assert first.n_states == second.n_states


@given(graph=graphs(max_ops=24), rules=RULES, states=st.integers(1, 8))
def test_few_states_give_an_order_and_a_bound(graph, rules, states):
    plan = check(graph, rules, max_states=states)
    least = minimum_peak(graph, profile=rules)
    assert plan.lower_bound <= least <= plan.peak_bytes
    if plan.optimal:
        assert plan.peak_bytes == least
    else:
        with pytest.raises(errors.OrderError, match="do not tell the least peak"):
            minimum_peak(graph, profile=rules, max_states=states)


# ------------------------------------------------------------------ by hand and by name


def branches(n, wide=8):
    """Return `n` branches that widen one image to `wide` channels and then shrink it to a point."""
    g = Graph("branches")
    x = g.input((1, 1, 4, 4), name="x")
    opened = [g.conv2d(x, wide, 1, name=f"open{k}") for k in range(n)]
    closed = [g.max_pool2d(y, 4, name=f"close{k}") for k, y in enumerate(opened)]
    if n < 100:
        g.concat(closed, name="all")
    return g


def test_branches_run_one_after_the_other():
    plan = plan_order(branches(3))
    image, opened, closed = 4 * 16, 4 * 8 * 16, 4 * 8
    assert plan.program_peak_bytes == image + 3 * opened
    assert plan.peak_bytes == image + opened + 2 * closed
    assert plan.op_names == ("x", "open0", "close0", "open1", "close1", "open2", "close2", "all")
    assert plan.optimal
    assert plan.gap == 0.0


def test_more_branches_than_two_words_hold_bits():
    """Branches alike cannot be told apart, so that there is no proof; but the rules of thumb see what to do."""
    plan = check(branches(130), "ideal", max_states=2000)
    assert plan.status == "feasible"
    assert plan.peak_bytes == 4 * 16 + 4 * 8 * 16 + 129 * 4 * 8
    assert plan.lower_bound >= 130 * 4 * 8
    assert plan.order.tolist() == plan_order(branches(130), max_states=2000).order.tolist()


def test_a_chain_needs_no_search():
    g = Graph("chain")
    x = g.input((1, 4, 8, 8))
    for _ in range(300):
        x = g.conv2d(x, 4, 1)
    plan = check(g, "ideal")
    assert plan.n_states == 0
    assert plan.order.tolist() == list(range(301))
    assert plan.peak_bytes == plan.lower_bound == 2 * 4 * 4 * 64


def test_an_input_that_nobody_reads_goes_first():
    g = Graph("late")
    x = g.input((1, 4, 4, 4), name="x")
    y = g.conv2d(x, 8, 1, name="y")
    g.input((1, 4, 4, 4), name="late")
    g.output(y)
    plan = check(g, "ideal")
    assert plan.peak_bytes < plan.program_peak_bytes
    assert plan.op_names == ("x", "late", "y")


def test_an_overwriter_waits_for_every_reader():
    g = Graph("overwriter")
    x = g.conv2d(g.input((1, 4, 4, 4), name="x"), 4, 1, name="c")
    y = g.conv2d(x, 64, 1, name="wide")
    z = g.relu(x, inplace=True, name="over")
    g.concat([y, z])
    for rules in ("ideal", "torch_fx"):
        names = check(g, rules).op_names
        assert names.index("wide") < names.index("over")


NETS = ["resnet18", "densenet121", "googlenet", "unet", "mobilenet_v2", "hrnet_w18", "nasnet_a_large", "pnasnet5_large",
        "amoebanet", "darts_v2", "darts_v2_imagenet", "randwire", "shufflenet_v2_x1_0"]  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_whole_nets_are_proven(name):
    graph = zoo.load(name)
    plan = check(graph, "ideal")
    assert plan.optimal
    assert check(graph, "torch_fx").optimal
    fused = plan_order(graph, fuse=True, max_states=50_000)
    assert fused.optimal or name == "randwire"
    assert fused.peak_bytes <= plan.peak_bytes


# Least peaks of whole nets, checked against the same search with another numbering; in bytes of float32.
LEAST = {"nasnet_a_large": (39_922_080, 34_190_928), "pnasnet5_large": (43_450_872, 33_106_200),
         "amoebanet": (1_474_560, 1_253_376), "randwire": (4_647_552, 3_913_728),
         "resnet18": (6_422_528, 6_422_528), "darts_v2_imagenet": (2_408_448, 2_408_448)}  # fmt: skip


@pytest.mark.parametrize("name", LEAST)
def test_least_peaks_of_nets(name):
    plan = plan_order(zoo.load(name))
    assert (plan.program_peak_bytes, plan.peak_bytes) == LEAST[name]


# Least peaks of graphs of tests/order_graphs.py, in bytes of int8; those of the search of version 0.6 too, which knew
# neither blocks nor valleys.
LIKE_SEARCHED = {"nasnet_a": 379_456, "amoebanet": 241_472, "darts_v2": 310_464}
RANDOMLY_WIRED = (794_976, 856_128, 917_280, 856_128, 978_432)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", LIKE_SEARCHED)
def test_least_peaks_of_nets_of_cells(name, inplace):
    graph = order_graphs.cells(name, 14, (4, 9), inplace=inplace)
    found = graph.best()
    assert found.peak == found.bound == LIKE_SEARCHED[name]
    assert order_graphs.Sets(graph).peak(found.order.tolist()) == found.peak


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_least_peaks_of_randomly_wired_nets(seed, inplace):
    graph = order_graphs.randwire(seed, inplace=inplace)
    found = graph.best()
    assert found.peak == found.bound == RANDOMLY_WIRED[seed]
    assert order_graphs.Sets(graph).peak(found.order.tolist()) == found.peak


@pytest.mark.parametrize("name", LIKE_SEARCHED)
def test_a_long_chain_of_cells_needs_as_little_as_a_short_one(name):
    found = order_graphs.cells(name, 300, (4, 9)).best()
    assert found.peak == found.bound == LIKE_SEARCHED[name]


@pytest.mark.parametrize("seed", range(6))
def test_numbers_of_ops_do_not_matter(seed):
    """The same graph in another legal order of its ops; tensors are numbered as they are written."""
    rng = random.Random(seed)
    graph = order_graphs.randwire(seed, 20, stages=1)
    order, left = [], set(range(len(graph.reads)))
    maker = {t: k for k, row in enumerate(graph.writes) for t in row}
    while left:
        ready = sorted(k for k in left if all(maker[t] not in left for t in graph.reads[k]))
        order.append(rng.choice(ready))
        left.discard(order[-1])
    other, name = order_graphs.Columns(), {}
    for k in order:
        made = other.op([name[t] for t in graph.reads[k]], [graph.nbytes[t] for t in graph.writes[k]])
        for t, new in zip(graph.writes[k], made, strict=True):
            name[t] = new
            other.held[new] = graph.held[t]
    first, second = graph.best(), other.best()
    assert first.peak == first.bound == second.peak == second.bound


SHARED = Path(__file__).parents[2] / "shared" / "data" / "scheduling"


@pytest.mark.parametrize("inplace", [False, True])
def test_least_peaks_that_others_have_proven(inplace):
    path = SHARED / "nas_graphs_with_optimum.json"
    if not path.exists():
        pytest.skip(f"no {path}: graphs with a proven optimum are not part of this project")
    for row in json.loads(path.read_text())["graphs"]:
        graph = order_graphs.Columns()
        for k, (reads, size, kind) in enumerate(zip(row["pred"], row["size"], row["kind"], strict=True)):
            share = len(reads) + 1 if inplace and kind in ("add", "sum") else 0
            graph.op(reads, [size], share=share, held=2 if k == 0 else 0)
        graph.held[-1] = 4
        found = graph.best()
        assert found.peak == found.bound == row["optimal_peak_inplace" if inplace else "optimal_peak"], row["name"]


def test_least_peaks_of_models_for_microcontrollers():
    path = SHARED / "tflite_activation_graphs.json"
    if not path.exists():
        pytest.skip(f"no {path}: activation graphs of public TFLite models are not part of this project")
    for row in json.loads(path.read_text())["models"]:
        net = Lowered.from_arrays(row["tensor_bytes"], [op["inputs"] for op in row["ops"]],
                                  [[op["output"]] for op in row["ops"]], outputs=row["graph_outputs"])  # fmt: skip
        plan = plan_order(net)
        assert plan.optimal
        assert plan.program_peak_bytes == row["liveness_peak"], row["name"]
        assert plan.peak_bytes == row["optimal_order_peak"], row["name"]


# ------------------------------------------------------------------ limits


def test_what_cannot_be_proven_has_a_bound():
    """Branches of sizes of their own: as many sets as there are choices of branches."""
    graph = order_graphs.wide(60, random.Random(1))
    found = graph.best(3000)
    assert found.bound < found.peak
    assert order_graphs.Sets(graph).peak(found.order.tolist()) == found.peak
    again = graph.best(3000)
    assert again.order.tolist() == found.order.tolist()
    assert again[1:] == found[1:]


def test_time_runs_out():
    graph = order_graphs.wide(60, random.Random(1))
    for seconds in (1e-9, 0.05):
        found = graph.best(time_limit=seconds)
        assert found.bound < found.peak == order_graphs.Sets(graph).peak(found.order.tolist())
    net = lower(branches(9))
    assert plan_order(net, time_limit=100.0).optimal


def test_an_interrupted_search_ends(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(order_search, "explore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        order_graphs.wide(20, random.Random(1)).best()


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), "1", True])
def test_time_is_a_positive_number(limit):
    with pytest.raises(errors.OrderError, match="time_limit=.*; allowed: seconds above 0, or None"):
        plan_order(branches(2), time_limit=limit)


@pytest.mark.parametrize("words", [1, 2])
def test_sets_that_do_not_reach_far_enough_are_made_wider(monkeypatch, words):
    """Behind the first chain, which is longer than a set reaches, an op is ready from the beginning."""
    graph = order_graphs.Columns()
    x = graph.op([], [9], held=2)[0]
    ends = []
    for shift in range(2):
        y = x
        for k in range(150):
            y = graph.op([y, x], [3 + (7 * k * k + shift) % 11])[0]
        ends.append(y)
    graph.held[graph.op(ends, [40])[0]] = 4
    whole = graph.best()
    assert whole.peak == whole.bound
    monkeypatch.setattr(order_search, "_WORDS", words)
    monkeypatch.setattr(order_search.BlockSearch, "_beam", lambda self, *_: None)
    narrow = graph.best()
    assert narrow.peak == narrow.bound == whole.peak
    monkeypatch.setattr(order_search, "_MOST_WORDS", words)
    assert graph.best(2000).bound <= whole.peak


def test_blocks_around_a_peak_are_put_in_order_anew(monkeypatch):
    """What the whole does not close within its states, windows may still bring down."""
    monkeypatch.setattr(order_search.BlockSearch, "_beam", lambda self, *_: None)
    monkeypatch.setattr(order_search.BlockSearch, "_rules_of_thumb", lambda self: None)
    peaks = {}
    for windows in ((), (40, 80)):
        monkeypatch.setattr(order_search, "_WINDOWS", windows)
        monkeypatch.setattr(order_search, "_FIRST_BUDGET", 1)
        graph = order_graphs.randwire(2, 48, stages=1)
        found = graph.best(60)
        assert order_graphs.Sets(graph).peak(found.order.tolist()) == found.peak >= found.bound
        peaks[windows] = found.peak
    assert peaks[40, 80] <= peaks[()]


# ------------------------------------------------------------------ results and errors


def test_a_plan_says_what_it_found():
    plan = plan_order(branches(3))
    assert isinstance(plan, OrderPlan)
    assert repr(plan) == "<OrderPlan 'branches': 640 B, optimal>"
    assert str(plan).splitlines()[0] == "branches, execution order"
    assert "proven least" in str(plan)
    assert not plan.order.flags.writeable
    data = plan.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert (data["network"], data["profile"], data["status"], data["gap"]) == ("branches", "ideal", "optimal", 0.0)
    assert data["order"] == list(plan.op_names)
    assert (data["peak_bytes"], data["program_peak_bytes"], data["lower_bound"]) == (640, 1600, 640)
    open_ended = replace(plan, lower_bound=320, status="feasible")
    assert open_ended.gap == 1.0
    assert "no order below 320 B" in str(open_ended)


def test_a_graph_of_inputs_alone_has_an_order():
    g = Graph("inputs")
    g.output(g.input((1, 2, 2, 2)), g.input((1, 1, 2, 2)))
    plan = check(g, "ideal")
    assert plan.peak_bytes == 4 * 12
    assert plan.order.tolist() == [0, 1]


def test_frames_are_of_the_programs_order():
    for ask in (plan_order, minimum_peak, lambda g, profile: plan_inference(g, profile=profile, order="best")):
        with pytest.raises(errors.OrderError, match="frames of profile 'torch' are those of the program"):
            ask(branches(2), profile="torch")


@pytest.mark.parametrize("states", [0, -1, 1.5, None, "many", True])
def test_states_are_a_positive_integer(states):
    with pytest.raises(errors.OrderError, match="max_states=.*; allowed: a positive integer"):
        plan_order(branches(2), max_states=states)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch": 0}, errors.ShapeError),
        ({"dtype": "float31"}, errors.DTypeError),
        ({"profile": "torhc"}, errors.UnknownProfileError),
        ({"inplace": "often"}, errors.GraphError),
        ({"fuse": "yes"}, errors.GraphError),
    ],
)
def test_bad_arguments_are_those_of_a_plan(options, error):
    with pytest.raises(error):
        plan_order(branches(2), **options)


def test_the_default_leaves_room_for_whole_nets():
    assert MAX_STATES >= 100_000
    assert np.issubdtype(plan_order(branches(2)).order.dtype, np.int64)
