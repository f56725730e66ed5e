"""Lowest placements and their proofs, against trying every order of placing; each placement is checked on its own."""

import os
from pathlib import Path

import numpy as np
import pytest

from cnnlive._kernels.arena import arena_bound, sections
from cnnlive._kernels.arena_search import search
from cnnlive.buffers import Buffers
from cnnlive.errors import ArenaError
from cnnlive.plan import arena_search as searching
from cnnlive.plan.arena_search import Sections, _Budget, _Part, _parts, search_placement

COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
MANY = 1 if COMPILED else 0.1
# where the scratch of a search stands among its arguments
TRAIL, DECISIONS, RISE_PTR, LIFTS = -10, -9, -8, -4
SHARED = Path(__file__).parents[2] / "shared" / "data"
TRICKY = Buffers.of([0, 0, 4, 2, 1, 3, 1], [1, 3, 5, 5, 2, 4, 4], [3, 1, 3, 1, 2, 2, 1])


def legal_height(b, offsets):
    """The height of a placement; fails if it is none. Compares all pairs."""
    alive = [i for i in range(b.n) if b.nbytes[i] > 0 and b.lower[i] < b.upper[i]]
    for i in range(b.n):
        at = int(offsets[i])
        assert at >= 0
        assert at % int(b.alignment[i]) == 0
        assert b.fixed[i] in (-1, at)
        if i not in alive:
            assert at == max(0, int(b.fixed[i]))
    for i in alive:
        for j in alive:
            if i < j and b.lower[i] < b.upper[j] and b.lower[j] < b.upper[i]:
                assert offsets[i] + b.nbytes[i] <= offsets[j] or offsets[j] + b.nbytes[j] <= offsets[i], (i, j)
    return max((int(offsets[i] + b.nbytes[i]) for i in alive), default=0)


def least_height(b):
    """Place the buffers in every order, each as low as possible: one of these placements is lowest. Pinned come first.

    In a lowest placement with the least sum of offsets no buffer can drop; placed by ascending offset, each as low as
    possible, none ends up higher.
    """
    rows = zip(
        b.lower.tolist(), b.upper.tolist(), b.nbytes.tolist(), b.alignment.tolist(), b.fixed.tolist(), strict=True
    )
    rows = [r for r in rows if r[2] > 0 and r[0] < r[1]]
    pinned = [(lo, up, at, at + size) for lo, up, size, _, at in rows if at >= 0]
    free = [r for r in rows if r[4] < 0]
    for i, p in enumerate(pinned):
        for q in pinned[:i]:
            if p[0] < q[1] and q[0] < p[1] and p[2] < q[3] and q[2] < p[3]:
                return None
    best = [sum(r[2] + r[3] for r in rows) + max((p[3] for p in pinned), default=0)]

    def place(todo, placed, height):
        if height >= best[0]:
            return
        if not todo:
            best[0] = height
        for k, (lo, up, size, align, _) in enumerate(todo):
            at = 0
            for begin, end in sorted((p[2], p[3]) for p in placed if p[0] < up and lo < p[1]):
                if at + size <= begin:
                    break
                at = max(at, -(-end // align) * align)
            place(todo[:k] + todo[k + 1 :], [*placed, (lo, up, at, at + size)], max(height, at + size))

    place(free, pinned, max((p[3] for p in pinned), default=0))
    return best[0] if rows else 0


def some_buffers(rng, n, kind):
    lower = rng.integers(0, n, n)
    upper = lower + rng.integers(1 if kind != "gaps" else 0, 2 + n // 2, n)
    nbytes = rng.integers(1 if kind != "gaps" else 0, 9, n)
    alignment, fixed = np.ones(n, np.int64), np.full(n, -1)
    if kind == "scaled":
        nbytes = nbytes * 12
    if kind in ("aligned", "pinned and aligned"):
        alignment = rng.choice([1, 2, 3, 4], n)
    if kind == "equally aligned":
        alignment[:] = 4
    if kind.startswith("pinned"):
        some = rng.random(n) < 0.3
        fixed[some] = (rng.integers(0, 14, n) // alignment * alignment)[some]
    return Buffers.of(lower, upper, nbytes, alignment=alignment, fixed=fixed)


def model(b):
    first, last = np.empty((2, b.n), np.int64)
    n = sections(b.lower, b.upper, b.nbytes, first, last, np.empty((6, b.n), np.int64))
    load, slack = np.empty((2, n), np.int64)
    bound, grain = arena_bound(n, first, last, b.nbytes, b.alignment, b.fixed, load, slack)
    times = Sections(n, first, last, load, slack, int(bound), int(grain))
    return times, [_Part(b, times, members) for members in _parts(times)] if n else []


KINDS = ["plain", "gaps", "scaled", "aligned", "equally aligned", "pinned", "pinned and aligned"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_placement_is_as_low_as_trying_every_order_makes_it(kind):
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(int(250 * MANY)):
        b = some_buffers(rng, int(rng.integers(1, 7)), kind)
        least = least_height(b)
        found = search_placement(b)
        if least is None:
            assert (found.status, found.offsets) == ("infeasible", None)
            assert "fixed and overlap" in found.reason
            continue
        assert found.status == "optimal"
        assert found.height == found.bound == least == legal_height(b, found.offsets)
        enough = search_placement(b, capacity=least)
        assert (enough.status, enough.height) == ("optimal" if enough.bound == least else "feasible", least)
        assert legal_height(b, enough.offsets) == least
        more = search_placement(b, capacity=least + 3)
        assert more.status == ("optimal" if more.height == more.bound else "feasible")
        assert least <= legal_height(b, more.offsets) == more.height <= least + 3
        if least:
            less = search_placement(b, capacity=least - 1)
            assert (less.status, less.offsets, less.height) == ("infeasible", None, 0)
            assert less.bound <= least
            assert less.reason


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_searching_finds_what_there_is_and_nothing_else(kind):
    rng = np.random.default_rng(100 + KINDS.index(kind))
    for _ in range(int(200 * MANY)):
        b = some_buffers(rng, int(rng.integers(2, 8 if COMPILED else 7)), kind)
        if least_height(b) is None:
            continue
        _, parts = model(b)
        for part in parts:
            alone = Buffers.of(*(a[part.members] for a in (b.lower, b.upper, b.nbytes)),
                               alignment=b.alignment[part.members], fixed=b.fixed[part.members])  # fmt: skip
            least = least_height(alone)
            for how in searching._SEARCHES[:: 1 if COMPILED else 4]:
                for height in (least - 1, least, least + 2, 2 * least + 5):
                    budget = _Budget(10**6, None)
                    assert part.attempt(how, height, 10**6, budget) == (height >= least), (how, height, least)
                    if height < least:
                        assert height < part.next_height(height) <= least
                    if height >= least:
                        assert legal_height(alone, part.found()) <= height


def test_the_least_height_may_be_above_what_is_alive():
    found = search_placement(TRICKY)
    assert found[1:4] == (5, 5, "optimal")
    assert legal_height(TRICKY, found.offsets) == 5
    assert found.reason == "everything lower was tried"
    none = search_placement(TRICKY, capacity=4)
    assert (none.status, none.bound, none.reason) == ("infeasible", 5, "every placement was tried")


def test_out_of_nodes_is_unknown_or_feasible_and_never_infeasible():
    for nodes in range(13):
        decided = search_placement(TRICKY, capacity=4, max_nodes=nodes)
        found = search_placement(TRICKY, max_nodes=nodes)
        assert decided.n_nodes <= nodes
        assert decided.status in ("unknown", "infeasible")
        if decided.status == "unknown":
            assert decided.offsets is None
            assert f"{nodes} nodes were searched; the lowest placement found takes 5 B" in decided.reason
            assert (found.status, found.height, found.bound) == ("feasible", 5, 4)
            assert found.reason == f"{nodes} nodes were searched"
    assert search_placement(TRICKY, capacity=4, max_nodes=12).status == "infeasible"


def test_out_of_time_says_so():
    found = search_placement(TRICKY, time_limit=0)
    assert (found.status, found.height, found.bound, found.reason) == ("feasible", 5, 4, "the time was over")
    found = search_placement(TRICKY, capacity=4, time_limit=0.0)
    assert found.status == "unknown"
    assert search_placement(TRICKY, time_limit=3600).status == "optimal"


def test_a_search_goes_on_where_it_stopped():
    _, (part,) = model(TRICKY)
    for height, status in ((4, 0), (5, 1)):
        how = searching._SEARCHES[0]
        nodes, answers = 0, []
        assert part.attempt(how, height, 0, _Budget(10, None)) == 2
        while not answers or answers[-1] == 2:
            answers.append(int(search(1, *how[1:], *part._search)))
            assert part.regs[2] <= nodes + 1
            nodes = int(part.regs[2])
        assert len(answers) > 3
        assert answers[-1] == status
        # and stays there
        assert search(5, *how[1:], *part._search) == status
        whole = _Budget(10**6, None)
        assert part.attempt(how, height, 10**6, whole) == status
        assert whole.n_nodes == nodes


def cut_up(seed, n, width=24, height=24):
    """A rectangle of time and bytes cut into pieces: buffers that fit it without a byte to spare."""
    rng = np.random.default_rng(seed)
    pieces = [(0, 0, width, height)]
    while len(pieces) < n:
        x, y, w, h = pieces.pop(max(range(len(pieces)), key=lambda k: pieces[k][2] * pieces[k][3]))
        if (rng.random() < w / (w + h) and w > 1) or h == 1:
            cut = int(rng.integers(1, w))
            pieces += [(x, y, cut, h), (x + cut, y, w - cut, h)]
        else:
            cut = int(rng.integers(1, h))
            pieces += [(x, y, w, cut), (x, y + cut, w, h - cut)]
    x, _, w, h = np.array([pieces[k] for k in rng.permutation(n)]).T
    return Buffers.of(x, x + w, h)


@pytest.mark.parametrize(
    ("position", "scratch"),
    [
        (TRAIL, np.empty((5, 4), np.int64)),
        (DECISIONS, np.empty((1, 3), np.int64)),
        (RISE_PTR, np.arange(25) * 20),
        (LIFTS, np.empty((0, 9), np.int64)),
    ],
)
def test_without_room_nothing_is_claimed(position, scratch):
    times, (part,) = model(cut_up(28, 24))
    arguments = list(part._search)
    arguments[position] = scratch
    how = searching._SEARCHES[0]
    part.attempt(how, times.bound, 0, _Budget(1, None))
    for _ in range(2):
        assert search(10**6, *how[1:], *arguments) == 3


@pytest.mark.parametrize("n", [12, 30, 80])
def test_pieces_of_a_rectangle_are_put_together_again(n):
    for seed in range(int(20 * MANY) + 2):
        b = cut_up(seed, n)
        found = search_placement(b)
        assert found[1:4] == (24, 24, "optimal")
        assert legal_height(b, found.offsets) == 24


def test_parts_of_time_are_searched_each_for_itself():
    late = [x + 10 for x in TRICKY.lower.tolist()], [x + 10 for x in TRICKY.upper.tolist()]
    b = Buffers.of([*TRICKY.lower, *late[0], 30], [*TRICKY.upper, *late[1], 31],
                   [*TRICKY.nbytes, *(2 * TRICKY.nbytes), 2])  # fmt: skip
    found = search_placement(b)
    assert found[1:4] == (10, 10, "optimal")
    assert legal_height(b, found.offsets) == 10
    assert search_placement(b, capacity=9).status == "infeasible"
    # a part that may be as high as the other needs no search
    tall = Buffers.of([*TRICKY.lower, 30], [*TRICKY.upper, 31], [*TRICKY.nbytes, 5])
    assert search_placement(tall)[1:5] == (5, 5, "optimal", 0)


def test_reasons_name_steps_buffers_and_bytes():
    b = Buffers.of([0, 4, 4], [9, 9, 12], [500, 300, 240], ids=["a", "b", "c"])
    found = search_placement(b, capacity=1024)
    assert found.status == "infeasible"
    assert found.reason == ("at steps [4, 9) the live buffers add up to 1,040 B, more than the capacity of 1,024")
    b = Buffers.of([0, 0], [1, 1], [10, 10], alignment=16)
    assert search_placement(b).height == search_placement(b).bound == 26
    assert search_placement(b, capacity=25).reason == (
        "at steps [0, 1) the live buffers take 26 B aligned to 16, more than the capacity of 25"
    )
    b = Buffers.of([0], [1], [10], fixed=[1000], ids=["p"])
    assert search_placement(b)[1:4] == (1010, 1010, "optimal")
    assert search_placement(b, capacity=100).reason == (
        "the buffer p is fixed at 1,000 and ends at 1,010 B, above the capacity of 100"
    )
    b = Buffers.of([0, 3, 2], [9, 8, 6], [10, 10, 5], fixed=[0, 100, 8], ids=["p", "q", "r"])
    assert search_placement(b).reason == (
        "the buffers p and r are fixed and overlap: both are alive at steps [2, 6) and take bytes [8, 10)"
    )
    assert search_placement(b).status == search_placement(b, capacity=10**6).status == "infeasible"


def test_few_none_and_empty_buffers():
    assert search_placement(Buffers.of([], [], np.zeros(0, np.int64)))[1:5] == (0, 0, "optimal", 0)
    assert search_placement(Buffers.of([3], [9], [7])).offsets.tolist() == [0]
    none = search_placement(Buffers.of([0, 2, 5], [9, 2, 6], [0, 8, 0], fixed=[-1, -1, 24]), capacity=0)
    assert none.offsets.tolist() == [0, 0, 24]
    assert (none.height, none.status) == (0, "optimal")


def test_sizes_of_2_to_the_60():
    unit = 1 << 58
    b = Buffers.of(TRICKY.lower, TRICKY.upper, TRICKY.nbytes * unit)
    found = search_placement(b)
    assert (found.height, found.status) == (5 * unit, "optimal")
    assert legal_height(b, found.offsets) == 5 * unit
    # no divisor in common
    b = Buffers.of(TRICKY.lower, TRICKY.upper, TRICKY.nbytes * unit + [1, 0, 0, 0, 0, 0, 0])
    found = search_placement(b)
    assert found.status == "optimal"
    assert legal_height(b, found.offsets) == found.height
    assert search_placement(b, capacity=found.height - 1).status == "infeasible"


def test_what_is_given_is_checked():
    for options in ({"capacity": -1}, {"capacity": 1.5}, {"capacity": True}, {"time_limit": -1}, {"time_limit": "1"},
                    {"time_limit": float("nan")}, {"max_nodes": -1}, {"max_nodes": None}):  # fmt: skip
        with pytest.raises(ArenaError, match=next(iter(options))):
            search_placement(TRICKY, **options)


def test_equal_arguments_give_equal_placements():
    b = cut_up(145, 24)
    one, other = search_placement(b), search_placement(b)
    assert one.offsets.tolist() == other.offsets.tolist()
    assert one[1:] == other[1:]
    assert not one.offsets.flags.writeable


def test_an_interrupt_comes_through(monkeypatch):
    calls = []

    def interrupted(*arguments):
        calls.append(arguments[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return search(1, *arguments[1:])

    monkeypatch.setattr(searching, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search_placement(TRICKY)
    assert len(calls) == 3
    assert max(calls) <= searching._SLICE


@pytest.mark.parametrize("limit", ["_MAX_PAIRS", "_MAX_BUFFERS"])
def test_a_part_that_is_too_large_is_not_searched(monkeypatch, limit):
    monkeypatch.setattr(searching, limit, 5)
    found = search_placement(TRICKY)
    assert (found.status, found.height, found.bound) == ("feasible", 5, 4)
    assert found.reason == "a part of 7 buffers was not searched: too many, or too many alive together"
    assert search_placement(TRICKY, capacity=4).status == "unknown"


def test_many_buffers_are_only_dived(monkeypatch):
    monkeypatch.setattr(searching, "_LARGE", 5)
    assert search_placement(TRICKY)[1:4] == (5, 5, "optimal")
    # fixed ones cannot be dived
    b = Buffers.of([0, 0, 1, 1, 2, 2], [2, 1, 3, 2, 4, 3], [4, 2, 4, 4, 4, 4], fixed=[-1, 4, -1, -1, -1, -1])
    assert search_placement(b).height == least_height(b)


def test_a_thousand_random_ones_of_many_buffers_are_legal_and_at_their_bound():
    rng = np.random.default_rng(5)
    for _ in range(int(200 * MANY)):
        n = int(rng.integers(20, 60 if COMPILED else 25))
        lower = rng.integers(0, n, n)
        b = Buffers.of(lower, lower + rng.integers(1, 8, n), rng.integers(1, 40, n) * 8,
                       alignment=int(rng.choice([1, 16])))  # fmt: skip
        found = search_placement(b, max_nodes=20_000 if COMPILED else 300)
        assert found.bound <= legal_height(b, found.offsets) == found.height
        assert (found.status == "optimal") == (found.height == found.bound)


# ---------------------------------------------------------------------------------- published instances


def read(path):
    rows = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.int64)
    return Buffers.of(rows[:, 1], rows[:, 2], rows[:, 3])


@pytest.mark.skipif(not COMPILED, reason="thousands of nodes")
@pytest.mark.skipif(not SHARED.exists(), reason="the instances of MiniMalloc are not at hand")
@pytest.mark.parametrize("name", list("ABCDEFGHIJK"))
def test_the_challenging_instances_of_minimalloc_are_solved(name):
    b = read(SHARED / "minimalloc" / f"{name}.1048576.csv")
    found = search_placement(b, capacity=1_048_576)
    assert found.status == ("feasible" if name in "CDJ" and found.height > found.bound else "optimal")
    assert legal_height(b, found.offsets) == found.height <= 1_048_576
    if name not in "DJ":
        best = search_placement(b)
        assert (best.status, best.height) == ("optimal", 1_039_360 if name == "C" else 1_048_576)
        assert legal_height(b, best.offsets) == best.height


@pytest.mark.skipif(not SHARED.exists(), reason="the cases of other planners are not at hand")
def test_the_optima_of_other_planners_cases_are_met():
    read_rows = [line.split(",") for line in (SHARED / "allocation_cases" / "cases.csv").read_text().split()[1:]]
    optima = [
        line.split(",")[:6] for line in (SHARED / "allocation_cases" / "expected.csv").read_text().splitlines()[1:]
    ]
    assert len(optima) >= 20
    for name, *_, optimum in optima:
        lower, upper, size, align = np.array([r[2:6] for r in read_rows if r[0] == name], dtype=np.int64).T
        b = Buffers.of(lower, upper, -(-size // align) * align, alignment=align)
        found = search_placement(b)
        assert (found.status, found.height) == ("optimal", int(optimum)), name
        assert legal_height(b, found.offsets) == found.height


@pytest.mark.skipif(not COMPILED, reason="thousands of nodes")
@pytest.mark.skipif(not SHARED.exists(), reason="the instances of MiniMalloc are not at hand")
@pytest.mark.parametrize(
    ("name", "how", "height", "n_nodes"),
    [("D", ("TA", 1.0, 0.01), 1_001_472, 30_082), ("J", ("CA", 3.0, 0.0), 1_008_640, 1_044)],
)
def test_the_open_instances_get_lower_than_was_published(name, how, height, n_nodes):
    """Heights published before: D 1,016,832, J 1,009,664."""
    b = read(SHARED / "minimalloc" / f"{name}.1048576.csv")
    _, (part,) = model(b)
    budget = _Budget(n_nodes + 1, None)
    assert part.attempt(how, height, n_nodes + 1, budget) == 1
    assert budget.n_nodes == n_nodes
    assert legal_height(b, part.found()) == height
