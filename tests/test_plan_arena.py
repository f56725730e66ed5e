"""Arenas of networks and of plain buffers: what other planners expect, what is proven, and what is refused."""

import csv
import itertools
import json
import math
import pickle
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive import Graph, Lowered, lower, plan_inference, plan_order, zoo
from cnnlive.buffers import Buffers
from cnnlive.errors import ArenaError, OrderError, UnitError
from cnnlive.plan.arena import (
    METHODS,
    SHARED_METHODS,
    _sections,
    _windows,
    buffers_of,
    place,
    plan_arena,
    plan_shared_objects,
)
from cnnlive.profiles import profile_of
from cnnlive.verify import VerificationError, check_arena, check_shared_objects

CASES = json.loads((Path(__file__).parent / "data" / "allocation_cases.json").read_text())["cases"]
SHARED = Path(__file__).parents[2] / "shared" / "data"
HEURISTICS = METHODS[2:]


def of_rows(rows, **options):
    return Buffers.of([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows],
                      alignment=[r[3] if len(r) > 3 else 1 for r in rows], **options)  # fmt: skip


@st.composite
def buffers(draw, most=10):
    n = draw(st.integers(1, most))
    lower = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    upper = [x + draw(st.integers(1, 5)) for x in lower]
    return Buffers.of(lower, upper, draw(st.lists(st.integers(1, 60), min_size=n, max_size=n)))


@st.composite
def nets(draw, most=7):
    """A random net of plain arrays: every op reads one to three tensors before it and writes one; some need scratch."""
    n = draw(st.integers(1, most))
    reads = [draw(st.lists(st.integers(0, k), min_size=1, max_size=3, unique=True)) for k in range(n)]
    nbytes = draw(st.lists(st.integers(0, 40), min_size=n + 1, max_size=n + 1))
    scratch = draw(st.lists(st.sampled_from([0, 0, 0, 8, 30]), min_size=n, max_size=n))
    return Lowered.from_arrays(nbytes, reads, [[k + 1] for k in range(n)], scratch=scratch)


def two_branches():
    """Ends of two branches that are best run one after the other, and are not in the program."""
    g = Graph("two branches")
    x = g.input((1, 1, 8, 8))
    a, b = g.conv2d(x, 8, 1), g.conv2d(x, 8, 1)
    g.add(g.max_pool2d(a, 8), g.max_pool2d(b, 8))
    return g


# ---------------------------------------------------------------------------------- what others expect


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cases_of_other_planners_hold(case):
    b = of_rows(case["buffers"])
    for key, expected in case["arena"].items():
        method, _, alignment = key.partition(", alignment ")
        plan = plan_arena(b, method=method, alignment=int(alignment) if alignment else None)
        check_arena(plan)
        assert [plan.arena_bytes, plan.offsets.tolist()][: len(expected)] == expected
    for method, sizes in case["shared"].items():
        plan = plan_shared_objects(b, method=method)
        check_shared_objects(plan)
        assert plan.object_bytes.tolist() == sizes
    plan = plan_arena(b)
    check_arena(plan)
    assert (plan.arena_bytes, plan.status) == (case["least"], "optimal")


def test_cases_whose_sizes_are_padded():
    """Runtimes that round sizes up to the alignment have these totals, and less would not do."""
    for name, total in (
        ("xla_decreasing_size_align20", 120),
        ("iree_layout_static_align16", 432),
        ("tflite_arena_basic", 7168),
        ("minimalloc_even_alignment", 4),
    ):
        plan = plan_arena(of_rows(CASES[name]["buffers"]), pads=True)
        check_arena(plan)
        assert (plan.arena_bytes, plan.status) == (total, "optimal")
    iree = of_rows(CASES["iree_layout_static_align16"]["buffers"])
    plan = plan_arena(iree, method="iree", pads=True)
    assert (plan.arena_bytes, plan.offsets.tolist()) == (432, [0, 112, 0, 224, 0, 208])


def test_the_smallest_case_above_its_load():
    b = of_rows(CASES["minimalloc_infeasible_tricky"]["buffers"])
    assert plan_arena(b).peak_load == 4
    assert plan_arena(b, capacity=4).status == "infeasible"
    assert plan_arena(b, capacity=5).status == "feasible"
    assert plan_arena(b, method="greedy_by_size").status == "feasible"


def test_every_case_of_the_shared_folder():
    folder = SHARED / "allocation_cases"
    if not folder.is_dir():
        pytest.skip("the folder of shared instances is not there")
    rows = defaultdict(list)
    with (folder / "cases.csv").open() as file:
        for r in csv.DictReader(file):
            rows[r["case"]].append([int(r[k]) for k in ("lower", "upper", "size", "alignment")])
    with (folder / "expected.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert {r["case"] for r in expected} == set(rows)
    for r in expected:
        b = of_rows(rows[r["case"]], name=r["case"])
        plain, padded = plan_arena(b), plan_arena(b, pads=True)
        for plan in (plain, padded):
            check_arena(plan)
            assert plan.optimal, r["case"]
        assert plain.peak_load == int(r["max_live_load"])
        assert padded.peak_load == int(r["max_live_load_sizes_padded_to_alignment"])
        assert padded.arena_bytes == int(r["optimal_height_padded"])
        assert plain.arena_bytes <= padded.arena_bytes
        greedy = plan_arena(b, method="greedy_by_size", pads=True)
        assert greedy.arena_bytes == int(r["greedy_size_bestfit_padded"]), r["case"]


def test_large_instances_of_the_shared_folder():
    folder = SHARED / "idealloc"
    if not folder.is_dir():
        pytest.skip("the folder of shared instances is not there")
    for name, most in (("S_1", 0.002), ("resnet50", 0.0)):
        with (folder / f"{name}.csv").open() as file:
            rows = [[int(r[k]) for k in ("lower", "upper", "size")] for r in csv.DictReader(file)]
        plan = plan_arena(of_rows(rows), method="skyline")
        check_arena(plan)
        assert plan.gap <= most


def test_mobilenets_counted_as_pisarchyk_and_lee_do():
    """MiB of intermediate tensors, without the network's input and output; float32, 1,001 classes, then a reshape.

    The figures were computed from the architectures by another program, by the rules of arXiv 2001.03288.
    """
    for name, tensors, total, arena, shared in (
        ("mobilenet_v1", 30, 19.248, 4.594, {"greedy_by_size_simple": 4.594, "greedy_by_breadth": 4.594}),
        ("mobilenet_v2", 65, 26.313, 5.742, {"greedy_by_size_simple": 7.178, "greedy_by_breadth": 6.891}),
    ):
        b = buffers_of(plan_inference(zoo.load(name), fuse=True), alignment=1)
        lower, upper, nbytes = (a.tolist()[1:-1] for a in (b.lower, b.upper, b.nbytes))
        end = upper[-1]
        b = Buffers.of([*lower, end - 1, end], [*upper, end + 1, end + 2], [*nbytes, 4004, 4004])
        assert (b.n, b.nbytes.sum() / 2**20) == (tensors, pytest.approx(total, abs=5e-4))
        for method in ("greedy_by_size", "greedy_by_breadth", "auto"):
            assert plan_arena(b, method=method).arena_bytes / 2**20 == pytest.approx(arena, abs=5e-4)
        for method, size in shared.items():
            assert plan_shared_objects(b, method=method).total_bytes / 2**20 == pytest.approx(size, abs=5e-4)


# ---------------------------------------------------------------------------------- plain buffers


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15)
@given(b=buffers())
def test_every_method_is_legal_and_not_below_the_load(method, b):
    plan = plan_arena(b, method=method)
    check_arena(plan)
    assert plan.arena_bytes >= plan.peak_load
    assert plan.fragmentation_bytes == plan.arena_bytes - plan.peak_load
    assert plan.peak_load == max(sum(b.nbytes[(b.lower <= t) & (t < b.upper)].tolist()) for t in range(20))


@settings(max_examples=25)
@given(b=buffers(most=6))
def test_auto_is_the_least_of_all(b):
    ids = range(b.n)

    def first_fit(order):
        at = {}
        for i in order:
            walls = sorted(
                (at[j], at[j] + int(b.nbytes[j]))
                for j in at
                if max(b.lower[i], b.lower[j]) < min(b.upper[i], b.upper[j])
            )
            floor = 0
            for begin, end in walls:
                if begin - floor >= b.nbytes[i]:
                    break
                floor = max(floor, end)
            at[i] = floor
        return max(at[i] + int(b.nbytes[i]) for i in ids)

    plan = plan_arena(b)
    least = min(map(first_fit, itertools.permutations(ids)))
    assert (plan.arena_bytes, plan.lower_bound, plan.status) == (least, least, "optimal")
    assert plan_arena(b, capacity=least).status in ("optimal", "feasible")
    assert plan_arena(b, capacity=least - 1).status == "infeasible"
    for method in HEURISTICS:
        found = plan_arena(b, method=method)
        assert found.arena_bytes >= least
        assert found.lower_bound <= least
        below = plan_arena(b, method=method, capacity=least - 1)
        assert below.status == ("infeasible" if found.lower_bound >= least else "unknown")
        check_arena(below)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8)
@given(b=buffers(), factor=st.integers(2, 9))
def test_sizes_scale_heights(method, b, factor):
    plan = plan_arena(b, method=method)
    scaled = plan_arena(Buffers.of(b.lower, b.upper, b.nbytes * factor), method=method)
    assert scaled.arena_bytes == plan.arena_bytes * factor
    assert scaled.offsets.tolist() == (plan.offsets * factor).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_numbers_of_buffers_do_not_matter_where_none_are_equal(method):
    rng = random.Random(5)
    rows = [(t, t + rng.randrange(1, 6), 1 + 7 * k) for k, t in enumerate(rng.sample(range(60), 30))]
    first = plan_arena(Buffers.of(*zip(*rows, strict=True)), method=method)
    mixed = rng.sample(range(30), 30)
    again = plan_arena(Buffers.of(*zip(*[rows[k] for k in mixed], strict=True)), method=method)
    if method != "iree":  # which goes by the numbers
        assert again.arena_bytes == first.arena_bytes
    # when does not matter either
    later = plan_arena(
        Buffers.of(*zip(*[(5 * a - 700, 5 * z - 700, n) for a, z, n in rows], strict=True)), method=method
    )
    assert later.offsets.tolist() == first.offsets.tolist()


def test_fixed_buffers_stay_in_every_method():
    b = Buffers.of([0, 0, 1, 3, 0], [4, 2, 4, 6, 6], [8, 16, 8, 8, 0], alignment=[4, 8, 1, 1, 1],
                   fixed=[12, -1, -1, 40, 3], ids=["in", "a", "b", "out", "none"])  # fmt: skip
    for method in METHODS:
        plan = plan_arena(b, method=method)
        check_arena(plan)
        assert (plan.offset_of["in"], plan.offset_of["out"], plan.offset_of["none"]) == (12, 40, 3)
        assert plan.lower_bound == 48
    assert plan_arena(b).status == "optimal"


def test_fixed_buffers_that_overlap_have_no_arena():
    b = Buffers.of([0, 0, 2, 5], [3, 9, 4, 9], [8] * 4, fixed=[0, 24, 4, 30], ids=["a", "b", "c", "d"])
    for method in METHODS:
        plan = plan_arena(b, method=method)
        check_arena(plan)
        assert plan.status == "infeasible"
        assert plan.reason == "the fixed buffers a at [0, 8) and c at [4, 12) overlap, and both are alive at step 2"
    b = Buffers.of([0, 1], [3, 4], [8, 8], fixed=[8, 3])
    assert "1 at [3, 11)" in plan_arena(b).reason
    # one after the other, or next to each other, they do not
    assert plan_arena(Buffers.of([0, 3], [3, 4], [8, 8], fixed=[0, 4])).optimal
    assert plan_arena(Buffers.of([0, 1], [3, 4], [8, 8], fixed=[0, 8])).optimal


def test_a_capacity_below_the_bound_is_infeasible_in_words():
    b = Buffers.of([0, 0, 1, 2, 2, 2], [5, 3, 9, 3, 9, 3], [100, 7, 60, 5, 9, 1], ids="abcdef")
    reason = plan_arena(b, capacity=150).reason
    assert reason == (
        "step 2 needs 182 bytes at once, above the capacity of 150: a (100 B), c (60 B), e (9 B), b (7 B) and 2 more"
    )
    assert plan_arena(Buffers.of([0, 2], [9, 5], [64, 8]), capacity="71").reason == (
        "steps 2 to 4 need 72 bytes at once, above the capacity of 71: 0 (64 B), 1 (8 B)"
    )
    aligned = Buffers.of([0, 0], [2, 2], [1, 1], alignment=16)
    assert plan_arena(aligned, capacity=10).reason == (
        "steps 0 to 1 need 17 bytes at once with alignment, above the capacity of 10: 0 (1 B), 1 (1 B)"
    )
    pinned = Buffers.of([0], [2], [8], fixed=96, ids=["x"])
    for method in METHODS:
        plan = plan_arena(pinned, capacity=100, method=method)
        assert (plan.status, plan.offsets, plan.arena_bytes) == ("infeasible", None, None)
        assert plan.reason == "x is fixed and ends at 104, above the capacity of 100"
        check_arena(plan)
    assert plan_arena(pinned, capacity=104).arena_bytes == 104


def test_a_heuristic_that_needs_more_proves_nothing():
    b = of_rows(CASES["tflm_medium"]["buffers"])
    plan = plan_arena(b, method="tflm", capacity=85)
    check_arena(plan)
    assert (plan.status, plan.lower_bound, plan.gap, plan.fragmentation_bytes) == ("unknown", 80, None, None)
    assert plan.reason == "tflm needs 90 bytes, above the capacity of 85; that proves nothing"
    assert plan_arena(b, method="tflm", capacity=90).status == "feasible"
    assert plan_arena(b, capacity=85).status in ("optimal", "feasible")
    with pytest.raises(ArenaError, match="there are no offsets: unknown, tflm needs 90"):
        _ = plan.offset_of


def test_a_search_that_is_cut_off_is_not_infeasible():
    b = of_rows(CASES["minimalloc_infeasible_tricky"]["buffers"])
    plan = plan_arena(b, capacity=4, max_nodes=0)
    check_arena(plan)
    assert plan.status == "unknown"
    plan = plan_arena(b, method="exact", time_limit=0)
    check_arena(plan)
    assert (plan.status, plan.lower_bound) == ("feasible", 4)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "best_fit"}, ArenaError, "method='best_fit'; allowed: auto, exact, skyline, greedy_by_size"),
        ({"method": "tfml"}, ArenaError, "did you mean tflm"),
        ({"capacity": -1}, UnitError, "not negative"),
        ({"capacity": "much"}, UnitError, "not an amount"),
        ({"alignment": 0}, ArenaError, "alignment=0; allowed: 1 or more"),
        ({"alignment": 2.5}, ArenaError, r"alignment=2\.5; allowed"),
        ({"time_limit": -1}, ArenaError, "time_limit=-1; allowed: seconds"),
        ({"time_limit": math.nan}, ArenaError, "time_limit=nan; allowed"),
        ({"max_nodes": -1}, ArenaError, "max_nodes=-1; allowed"),
        ({"batch": 2}, ArenaError, "batch is of a graph, and plain buffers was given|batch is of a graph"),
        ({"order": "best"}, ArenaError, "order is of a graph"),
        ({"order": [0]}, ArenaError, "order is of a graph"),
        ({"profile": "tflm"}, ArenaError, "profile is of a graph"),
        ({"fuse": True}, ArenaError, "fuse is of a graph"),
        ({"inplace": "dead"}, ArenaError, "inplace is of a graph"),
        ({"dtype": "int8"}, ArenaError, "dtype is of a graph"),
    ],
)
def test_questions_without_a_meaning_are_errors(options, error, words):
    with pytest.raises(error, match=words):
        plan_arena(Buffers.of([0], [1], [8]), **options)


def test_an_alignment_that_a_fixed_offset_does_not_have_is_an_error():
    b = Buffers.of([0], [1], [8], fixed=4, ids=["x"])
    with pytest.raises(ArenaError, match="buffer x is fixed at 4, which is no multiple of its alignment 16"):
        plan_arena(b, alignment=16)


def cnn_like(n, seed):
    """Buffers of which most die soon, some later, and a few skip far ahead."""
    rng = np.random.default_rng(seed)
    life = rng.choice([2, 2, 2, 3, 4, 5, 7, 11], n)
    life += np.where(rng.random(n) < 0.03, rng.integers(0, 200, n), 0)
    life += np.where(rng.random(n) < 0.005, rng.integers(0, 3000, n), 0)
    nbytes = rng.choice([16, 24, 32, 48, 64, 96, 120, 128, 256], n) * 3136
    return Buffers.of(np.arange(n), np.minimum(np.arange(n) + life, n), nbytes)


def test_very_many_buffers_are_placed_close_to_the_bound():
    """More than an exact search takes: fits in several orders, and searches of windows of time."""
    for seed, most in ((0, 0.001), (1, 0.001), (7, 0.001), (33, 0.01), (3, 0.01)):
        b = cnn_like(5200, seed)
        plan = plan_arena(b)
        check_arena(plan)
        assert plan.gap <= most
        within = plan_arena(b, capacity=plan.arena_bytes)
        check_arena(within)
        assert within.offsets is not None
        below = plan_arena(b, capacity=plan.arena_bytes - 1)
        check_arena(below)
        assert below.offsets is not None or below.status == ("infeasible" if plan.optimal else "unknown")
        hurried = plan_arena(b, time_limit=0)
        check_arena(hurried)
        assert hurried.arena_bytes >= plan.arena_bytes
    # fixed ones stay, and the rest goes round them
    fixed = np.where(np.arange(b.n) % 1500 == 0, 0, -1)
    pinned = plan_arena(Buffers.of(b.lower, b.upper, b.nbytes, fixed=fixed))
    check_arena(pinned)
    assert pinned.gap <= 0.02


def test_windows_of_time_around_the_highest_are_placed_anew():
    b = cnn_like(3000, 7)
    s = _sections(b)
    offsets, height = place(b, "iree")
    lowered, top, n_nodes = _windows(b, s, offsets, s.bound, math.inf, 10_000)
    check_arena(b, lowered)
    assert top == (lowered + b.nbytes)[s.first < s.last].max() < height
    assert _windows(b, s, offsets, s.bound, math.inf, 0)[1:] == (height, 0)
    assert _windows(b, s, offsets, height, math.inf, 10_000)[1:] == (height, 0)
    assert n_nodes <= 10_000 + 2000


def test_placing_alone_knows_heuristics_only():
    b = Buffers.of([0, 1, 2], [2, 3, 4], [64, 32, 64])
    for method in HEURISTICS:
        offsets, height = place(b, method)
        assert height == plan_arena(b, method=method).arena_bytes
        check_arena(b, offsets)
    with pytest.raises(ArenaError, match="method='auto'; allowed: skyline, greedy_by_size"):
        place(b, "auto")


# ---------------------------------------------------------------------------------- networks


@settings(max_examples=40)
@given(nets())
def test_buffers_of_a_net_are_those_of_its_plan(net):
    plan = plan_inference(net)
    b = buffers_of(plan)
    found = [*plan.buffers]
    assert b.ids[: len(found)] == tuple(x.name for x in found)
    assert b.nbytes.tolist()[: len(found)] == [x.nbytes for x in found]
    assert [*zip(b.lower, b.upper, strict=True)][: len(found)] == [(x.born, x.dead) for x in found]
    # what is left is scratch: one step each
    steps = {
        int(x): int(n) for x, y, n in list(zip(b.lower, b.upper, b.nbytes, strict=True))[len(found) :] if y == x + 1
    }
    assert steps == {k: int(net.scratch[op]) for k, op in enumerate(plan.order.tolist()) if net.scratch[op]}
    alive = [int(b.nbytes[(b.lower <= t) & (t < b.upper)].sum()) for t in range(net.n_ops)]
    assert alive == plan.timeline.tolist()


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "mobilenet_v2", "unet", "shufflenet_v2_x1_0"])
def test_arenas_of_nets_are_proven(name):
    graph = zoo.load(name)
    inference = plan_inference(graph)
    plan = plan_arena(graph)
    check_arena(plan)
    assert plan.optimal
    assert (plan.name, plan.order, plan.plan.peak_bytes) == (inference.name, "program", inference.peak_bytes)
    assert plan.peak_load == inference.activation_peak_bytes <= plan.arena_bytes
    assert (plan.offsets % 64 == 0).all()
    assert plan.timeline[:, 1].max() == plan.peak_load
    for method in HEURISTICS:
        other = plan_arena(inference, method=method)
        check_arena(other)
        assert other.arena_bytes >= plan.arena_bytes
        assert other.order == "given"
    assert plan_arena(lower(graph)).arena_bytes == plan.arena_bytes


def test_the_profile_says_how_to_place():
    graph = zoo.load("resnet18")
    for name in ("tflm", "onnxruntime"):
        rules = profile_of(name)
        plan = plan_arena(graph, profile=name)
        check_arena(plan)
        assert plan.method == rules.placement == name
        assert set(plan.buffers.alignment.tolist()) == {rules.alignment}
        assert (plan.buffers.nbytes % rules.alignment == 0).all() == rules.pads
    rules = replace(profile_of("ideal"), alignment=100, pads=True, placement="xla")
    plan = plan_arena(graph, profile=rules)
    assert plan.method == "xla"
    assert (plan.buffers.nbytes % 100 == 0).all()
    plan = plan_arena(graph, profile=rules, pads=False, alignment=8, method="auto")
    assert (plan.method, set(plan.buffers.alignment.tolist())) == ("auto", {8})
    assert int(plan.buffers.nbytes.sum()) == plan_inference(graph).activation_bytes
    assert plan_arena(graph, batch=2, dtype="int8").plan.batch == 2
    for wrong in (0, 1.5):
        with pytest.raises(ArenaError, match="alignment="):
            plan_arena(graph, alignment=wrong)


def test_scratch_is_a_buffer_of_one_step():
    net = Lowered.from_arrays([8, 4, 4, 2], [[0], [0], [1, 2]], [[1], [2], [3]], scratch=[0, 100, 3])
    plan = plan_arena(net, alignment=1)
    check_arena(plan)
    assert plan.buffers.ids == ("input0", "op0", "op1", "op2", "op1 (scratch)", "op2 (scratch)")
    assert plan.arena_bytes == plan.plan.activation_peak_bytes == 116
    assert "op1 (scratch)" in plan.offset_of


def test_the_best_order_is_scored_with_its_arena():
    graph = two_branches()
    program, best = plan_arena(graph), plan_arena(graph, order="best")
    for plan in (program, best):
        check_arena(plan)
    order = plan_order(graph)
    assert best.lower_bound == order.lower_bound
    assert (best.order, best.arena_bytes, best.status) == ("least peak", 2336, "optimal")
    assert best.plan.order.tolist() == order.order.tolist()
    assert program.arena_bytes == 4352
    assert plan_arena(graph, order=order.order.tolist()).arena_bytes == best.arena_bytes
    assert plan_arena(graph, order=order.op_names).order == "given"
    # nothing better than the program's: that is said, and proven
    chain = plan_arena(zoo.load("vgg11"), order="best")
    assert (chain.order, chain.status) == ("program", "optimal")
    fits = plan_arena(graph, order="best", capacity=2500)
    assert (fits.status, fits.order) == ("optimal", "least peak")
    none = plan_arena(graph, order="best", capacity=2000)
    check_arena(none)
    assert none.status == "infeasible"
    assert none.reason == "every order of the ops needs 2,336 bytes at some step, above the capacity of 2,000"
    with pytest.raises(OrderError, match="frames"):
        plan_arena(graph, order="best", profile="torch")


def test_orders_that_were_tried_prove_nothing_of_others():
    net = Lowered.from_arrays([1, 1], [[0]], [[1]])
    plan = plan_arena(net, order="best", alignment=16)
    check_arena(plan)
    assert (plan.arena_bytes, plan.lower_bound, plan.status) == (17, 2, "feasible")
    plan = plan_arena(net, order="best", alignment=16, capacity=10)
    check_arena(plan)
    assert (plan.status, plan.lower_bound) == ("unknown", 2)
    assert plan.reason.startswith("not in the orders tried, which proves nothing of others: step 1 needs 17 bytes")
    assert plan_arena(net, alignment=16, capacity=10).status == "infeasible"


@settings(max_examples=40)
@given(net=nets(most=6))
def test_the_bound_of_the_best_order_is_one_of_every_order(net):
    best = plan_arena(net, order="best", alignment=1)
    check_arena(best)
    assert best.arena_bytes <= plan_arena(net, alignment=1).arena_bytes
    arenas = [plan_arena(net, order=order, alignment=1).arena_bytes for order in orders(net)]
    assert best.lower_bound <= min(arenas) <= best.arena_bytes
    if best.optimal:
        assert best.arena_bytes == min(arenas)


def orders(net):
    """Every legal order of a net's ops."""

    def rest(done):
        if len(done) == net.n_ops:
            yield done
            return
        for op in range(net.n_ops):
            reads = net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]]
            if op not in done and all(net.producer[t] in done for t in reads):
                yield from rest([*done, op])

    return rest([])


# ---------------------------------------------------------------------------------- results


def test_results_are_plain_and_pickle():
    plan = plan_arena(two_branches(), method="xla", capacity="1MiB")
    again = pickle.loads(pickle.dumps(plan))
    assert again.offsets.tolist() == plan.offsets.tolist()
    assert not again.offsets.flags.writeable
    data = json.loads(json.dumps(plan.to_dict()))
    assert (data["arena_bytes"], data["status"], data["capacity"], data["order"]) == (
        plan.arena_bytes, plan.status, 2**20, "program",
    )  # fmt: skip
    assert {r["id"]: r["offset"] for r in data["buffers"]} == plan.offset_of
    assert data["ops"][0] == "input"
    assert repr(plan) == f"<ArenaPlan 'two branches': {plan.arena_bytes:,} B, {plan.status}>"
    none = plan_arena(Buffers.of([0], [2], [8], name="x"), capacity=4)
    assert repr(none) == "<ArenaPlan 'x': infeasible>"
    assert json.loads(json.dumps(none.to_dict()))["buffers"][0]["offset"] is None
    assert str(none).splitlines()[1].startswith("  infeasible: steps 0 to 1 need 8 bytes at once")
    shared = plan_shared_objects(two_branches())
    assert pickle.loads(pickle.dumps(shared)).total_bytes == shared.total_bytes
    assert json.loads(json.dumps(shared.to_dict()))["object_bytes"] == shared.object_bytes.tolist()
    assert repr(shared) == (
        f"<SharedObjectsPlan 'two branches': {shared.total_bytes:,} B in {shared.n_objects} objects, {shared.status}>"
    )


def test_a_plan_prints_on_one_screen():
    for plan in (plan_arena(zoo.load("nasnet_a")), plan_shared_objects(zoo.load("resnet18"))):
        text = str(plan)
        assert len(text.splitlines()) < 20
        assert max(map(len, text.splitlines())) < 130
    tight = of_rows(CASES["tflm_medium"]["buffers"])
    assert "90 B  at most 12.50% above the least" in str(plan_arena(tight, method="tflm"))
    assert "80 B  proven least" in str(plan_arena(tight))
    assert "and" not in str(plan_arena(Buffers.of([0], [1], [8]))).split("\n", 1)[1]
    some = plan_shared_objects(of_rows(CASES["tflm_medium"]["buffers"]), method="greedy_by_size")
    assert "at most 11.11% above the least" in str(some)


def test_the_timeline_has_the_moments_at_which_it_changes():
    plan = plan_arena(Buffers.of([0, 2, 2, 7], [5, 4, 2, 9], [8, 4, 99, 1]))
    assert plan.timeline.tolist() == [[0, 8], [2, 12], [4, 8], [5, 0], [7, 1], [9, 0]]
    assert plan_arena(Buffers.of([], [], [])).timeline.shape == (0, 2)
    assert plan_arena(Buffers.of([], [], [])).peak_load == 0


# ---------------------------------------------------------------------------------- shared objects


@settings(max_examples=60)
@given(b=buffers())
def test_the_smallest_objects_are_kept(b):
    plans = [plan_shared_objects(b, method=m) for m in SHARED_METHODS[1:]]
    for plan in plans:
        check_shared_objects(plan)
        assert plan.total_bytes >= plan_arena(b).arena_bytes
        assert plan.gap == pytest.approx(plan.total_bytes / plan.lower_bound - 1)
    assert plan_shared_objects(b).total_bytes == min(p.total_bytes for p in plans)


def test_shared_objects_of_nets_and_what_is_refused():
    graph = zoo.load("squeezenet1_1")
    plan = plan_shared_objects(graph, batch=2, profile="torch_fx")
    check_shared_objects(plan)
    assert plan_shared_objects(plan_inference(graph, batch=2, profile="torch_fx")).total_bytes == plan.total_bytes
    many = Buffers.of(range(1200), range(2, 1202), [1 + k % 7 for k in range(1200)])
    assert plan_shared_objects(many).method != "min_cost_flow"
    with pytest.raises(ArenaError, match="method='size'; allowed: auto, greedy_by_size"):
        plan_shared_objects(graph, method="size")
    with pytest.raises(ArenaError, match="batch is of a graph, and none was given"):
        plan_shared_objects(many, batch=2)
    with pytest.raises(ArenaError, match="buffer x is fixed at an offset"):
        plan_shared_objects(Buffers.of([0], [1], [4], fixed=0, ids=["x"]))


# ---------------------------------------------------------------------------------- the checks themselves


def test_wrong_placements_are_found():
    b = Buffers.of([0, 1, 4], [3, 5, 9], [8, 8, 8], alignment=[4, 4, 1], fixed=[-1, 8, -1], ids="abc")
    check_arena(b, [0, 8, 0])
    for offsets, words in (
        ([4, 8, 0], r"buffers a at \[4, 12\) and b at \[8, 16\) overlap at step 1"),
        ([0, 8, 9], r"buffers b at \[8, 16\) and c at \[9, 17\) overlap at step 4"),
        ([2, 8, 0], "buffer a is at 2, which is no multiple of its alignment 4"),
        ([-4, 8, 0], "buffer a is at -4"),
        ([0, 12, 0], "buffer b is at 12 and fixed at 8"),
        ([0, 8], "2 offsets for 3 buffers"),
    ):
        with pytest.raises(VerificationError, match=words):
            check_arena(b, offsets)


def test_wrong_plans_are_found():
    good = plan_arena(Buffers.of([0, 1], [3, 5], [8, 8]))
    fields = {n: getattr(good, n) for n in ("buffers", "offsets", "arena_bytes", "lower_bound", "status", "capacity")}
    check_arena(SimpleNamespace(**fields))
    for change, words in (
        ({"status": "fine"}, "'fine' is no status"),
        ({"status": "infeasible"}, "the plan is infeasible and has offsets"),
        ({"offsets": None, "arena_bytes": None}, "the plan is optimal and has no offsets"),
        ({"arena_bytes": 15}, "takes 15 bytes, below the lower bound of 16"),
        ({"arena_bytes": 17, "status": "feasible"}, "said to take 17 bytes, and the last buffer ends at 16"),
        ({"capacity": 8}, "above the capacity of 8"),
        ({"status": "feasible"}, "the plan is feasible with 16 bytes and a lower bound of 16"),
    ):
        with pytest.raises(VerificationError, match=words):
            check_arena(SimpleNamespace(**fields | change))


def test_wrong_objects_are_found():
    good = plan_shared_objects(Buffers.of([0, 1, 3, 9], [3, 5, 6, 9], [8, 6, 7, 3]))
    fields = {n: getattr(good, n) for n in ("buffers", "object_of", "object_bytes", "lower_bound", "status")}
    check_shared_objects(SimpleNamespace(**fields))
    for change, words in (
        ({"object_of": [0, 0, 0, -1]}, "buffers 0 and 1 are alive together in object 0"),
        ({"object_of": [0, 1, -1, -1]}, "buffer 2 of 7 bytes has the object -1"),
        ({"object_of": [0, 1, 0, 1]}, "buffer 3 of 3 bytes has the object 1"),
        ({"object_bytes": [8, 7]}, "object 1 has 7 bytes, and its largest buffer 6"),
        ({"object_bytes": [8]}, "buffers lie in 2 objects, and there are 1"),
        ({"status": "feasible"}, "the plan is feasible with 14 bytes and a lower bound of 14"),
    ):
        with pytest.raises(VerificationError, match=words):
            check_shared_objects(SimpleNamespace(**fields | {k: np.array(v) if k != "status" else v
                                                             for k, v in change.items()}))  # fmt: skip


@pytest.mark.parametrize(("upper", "nbytes"), [(0, 8), (2, 0)], ids=["no life", "no bytes"])
def test_a_fixed_buffer_that_is_never_alive_raises_neither_arena_nor_bound(upper, nbytes):
    plan = plan_arena(Buffers.of([0, 0], [2, upper], [8, nbytes], fixed=[-1, 64]))
    assert (plan.arena_bytes, plan.lower_bound, plan.status) == (8, 8, "optimal")
    assert plan.offsets.tolist() == [0, 64]
