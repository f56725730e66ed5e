"""Kernels of arenas against slow Python that shares nothing with them; all of it uncompiled, too."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive._kernels import arena as kernel
from cnnlive._types import column
from cnnlive.buffers import Buffers
from cnnlive.plan.arena import _breadth_order, _sections, _shared, place, plan_arena, plan_shared_objects
from cnnlive.plan.arena_search import ordered
from cnnlive.verify import check_arena, check_shared_objects

GREEDY = (
    "greedy_by_size",
    "greedy_by_size_first_fit",
    "greedy_by_breadth",
    "tflm",
    "tflite",
    "xla",
    "iree",
    "onnxruntime",
)
SHARED = ("greedy_by_size", "greedy_by_size_simple", "greedy_by_breadth", "greedy_in_order", "min_cost_flow")

# ---------------------------------------------------------------------------------- slow versions


def up(x, align):
    return -(-x // align) * align


class Slow:
    """Buffers as Python lists, and everything from its definition."""

    def __init__(self, b):
        self.n, self.align, self.fixed = b.n, b.alignment.tolist(), b.fixed.tolist()
        self.lower, self.upper, self.size = b.lower.tolist(), b.upper.tolist(), b.nbytes.tolist()

    def alive(self, i):
        return self.size[i] > 0 and self.lower[i] < self.upper[i]

    def conflict(self, i, j):
        both = self.alive(i) and self.alive(j)
        return both and max(self.lower[i], self.lower[j]) < min(self.upper[i], self.upper[j])

    def steps(self):
        return range(min(self.lower, default=0), max(self.upper, default=0))

    def at(self, step):
        return [i for i in range(self.n) if self.alive(i) and self.lower[i] <= step < self.upper[i]]

    def load(self):
        return max((sum(self.size[i] for i in self.at(t)) for t in self.steps()), default=0)

    def fit(self, order, rule):
        at = {i: self.fixed[i] for i in range(self.n) if self.fixed[i] >= 0}
        for i in order:
            if i in at:
                continue
            if not self.alive(i):
                at[i] = 0
                continue
            walls = sorted((at[j], at[j] + self.size[j]) for j in at if self.conflict(i, j))
            gaps, floor = [], 0
            for begin, end in walls:
                gaps.append((floor, begin))
                floor = max(floor, end)
            if rule == "space below the top":
                gaps.append((floor, max((at[j] + self.size[j] for j in at if self.alive(j)), default=0)))
            best, smallest = None, 1 << 62
            for begin, end in gaps:
                here = up(begin, self.align[i])
                if here + self.size[i] <= end and end - here < smallest:
                    best, smallest = here, end - here
                    if rule == "first":
                        break
                    if rule == "unaligned":
                        smallest = end - begin
            at[i] = up(floor, self.align[i]) if best is None else best
        offsets = [at[i] for i in range(self.n)]
        return offsets, max((offsets[i] + self.size[i] for i in range(self.n) if self.alive(i)), default=0)

    def by_breadth(self):
        order = []
        for t in sorted(self.steps(), key=lambda t: (-sum(self.size[i] for i in self.at(t)), t)):
            order += [i for i in sorted(self.at(t), key=lambda i: (-self.size[i], i)) if i not in order]
        return order + [i for i in range(self.n) if i not in order]

    def greedy(self, method):
        ids = range(self.n)
        size, life = self.size, [u - w for u, w in zip(self.upper, self.lower, strict=True)]
        lived = [i for i in ids if self.lower[i] < self.upper[i]]
        whole = (min((self.lower[i] for i in lived), default=None), max((self.upper[i] for i in lived), default=None))
        key, rule = {
            "greedy_by_size": (lambda i: (-size[i], i), "best"),
            "greedy_by_size_first_fit": (lambda i: (-size[i], i), "first"),
            "tflm": (lambda i: (-size[i], -i), "first"),
            "tflite": (
                lambda i: ((self.lower[i], self.upper[i]) != whole, -size[i], self.lower[i], i),
                "unaligned",
            ),
            "xla": (lambda i: (-size[i], -life[i], i), "best"),
            "iree": (lambda i: i, "unaligned"),
            "onnxruntime": (lambda i: (self.lower[i], i), "space below the top"),
            "greedy_by_breadth": (self.by_breadth().index, "best"),
        }[method]
        return self.fit(sorted(ids, key=key), rule)

    def dive(self, order, grain):
        top = dict.fromkeys(self.steps(), 0)
        offsets, left = [0] * self.n, [i for i in order if self.alive(i)]
        while left:
            low = {i: max(top[t] for t in range(self.lower[i], self.upper[i])) for i in left}
            i = min(left, key=lambda i: (low[i], order.index(i)))
            left.remove(i)
            offsets[i] = up(low[i], self.align[i])
            for t in range(self.lower[i], self.upper[i]):
                top[t] = up(offsets[i] + self.size[i], grain)
        return offsets

    def least(self):
        """The height of the best of all orders under first fit, which some least placement is."""
        free = [i for i in range(self.n) if self.alive(i) and self.fixed[i] < 0]
        rest = [i for i in range(self.n) if i not in free]
        return min(self.fit([*order, *rest], "first")[1] for order in itertools.permutations(free))

    def maxima(self):
        rows = [sorted((self.size[i] for i in self.at(t)), reverse=True) for t in self.steps()]
        return [max(row[k] for row in rows if len(row) > k) for k in range(max(map(len, rows), default=0))]

    # shared objects: lists of buffers

    def apart(self, i, j):
        if self.upper[i] <= self.lower[j]:
            return self.lower[j] - self.upper[i]
        return self.lower[i] - self.upper[j] if self.upper[j] <= self.lower[i] else None

    def objects_by_size(self):
        maxima = self.maxima()
        left = [i for i in range(self.n) if self.alive(i)]
        position = {i: max(k for k, m in enumerate(maxima) if m >= self.size[i]) for i in left}
        best = dict.fromkeys(left, (1 << 62, None))
        table = {i: {} for i in left}  # steps to each object that the buffer may go into
        objects = []
        while left:
            i = min(left, key=lambda i: (position[i], best[i][0], -self.size[i], i))
            left.remove(i)
            k = best[i][1]
            fresh = k is None
            if fresh:
                k = len(objects)
                objects.append([])
            objects[k].append(i)
            for j in left:
                if not fresh and k not in table[j]:
                    continue
                steps = self.apart(i, j)
                if steps is None:
                    table[j].pop(k, None)
                    if best[j][1] == k:
                        best[j] = min(((d, o) for o, d in table[j].items()), default=(1 << 62, None))
                    continue
                table[j][k] = min(table[j].get(k, steps), steps)
                if steps < best[j][0]:
                    best[j] = (steps, k)
        return objects

    def objects_in_turn(self, order, closest):
        objects, sizes = [], []
        for i in (i for i in order if self.alive(i)):
            free = [k for k, o in enumerate(objects) if not any(self.conflict(i, j) for j in o)]
            large = [k for k in free if sizes[k] >= self.size[i]]
            small = [k for k in free if sizes[k] < self.size[i]]
            above = min(large, key=lambda k: (sizes[k], k), default=None)
            below = max(small, key=lambda k: (sizes[k], k if closest else -k), default=None)
            k = below if above is None else above
            if closest and above is not None and below is not None:
                k = below if self.size[i] - sizes[below] < sizes[above] - self.size[i] else above
            if k is None:
                k = len(objects)
                objects.append([])
                sizes.append(0)
            objects[k].append(i)
            sizes[k] = max(sizes[k], self.size[i])
        return objects

    def least_flow(self):
        """Least sum of bytes by which buffers exceed the one before, over all ways to chain them."""
        ids = [i for i in range(self.n) if self.alive(i)]

        def rest(k, taken):
            if k == len(ids):
                return 0
            i = ids[k]
            best = self.size[i] + rest(k + 1, taken)
            for j in ids:
                if j not in taken and self.upper[j] <= self.lower[i]:
                    best = min(best, max(self.size[i] - self.size[j], 0) + rest(k + 1, taken | {j}))
            return best

        return rest(0, frozenset())


# ---------------------------------------------------------------------------------- instances


@st.composite
def buffers(draw, most=8, pins=True, mixed=True):
    n = draw(st.integers(0, most))
    lower = draw(st.lists(st.integers(-3, 8), min_size=n, max_size=n))
    upper = [x + draw(st.integers(0, 5)) for x in lower]
    nbytes = draw(st.lists(st.integers(0, 12) | st.sampled_from([16, 100]), min_size=n, max_size=n))
    aligned = draw(st.sampled_from([[1], [4], [1, 2, 8], [6, 4]] if mixed else [[1], [4], [16]]))
    align = [draw(st.sampled_from(aligned)) for _ in range(n)]
    fixed, floor = [-1] * n, 0
    for i in range(n):  # one above the other, so that no two of them overlap
        if pins and draw(st.booleans()) and draw(st.booleans()):
            fixed[i] = up(floor + draw(st.integers(0, 9)), align[i])
            floor = fixed[i] + nbytes[i]
    return Buffers.of(lower, upper, nbytes, alignment=align, fixed=fixed)


def many(n, seed, steps=60, widest=12):
    rng = random.Random(seed)
    lower = [rng.randrange(steps) for _ in range(n)]
    upper = [x + rng.randrange(1, widest) for x in lower]
    return Buffers.of(lower, upper, [rng.choice([64, 64, 96, 128, 256, rng.randrange(500)]) for _ in range(n)])


def with_a_long_one(b):
    """Put a buffer first that lives throughout, so that all before any other may still be alive."""
    return Buffers.of([-1, *b.lower], [999, *b.upper], [77, *b.nbytes], fixed=[0, *b.fixed])


MANY = [many(40, 1), many(70, 2, 15), many(90, 3, 200, 4), many(50, 4, 30, 40), with_a_long_one(many(200, 5, 400, 4))]


# ---------------------------------------------------------------------------------- sorting, sections, bounds


@given(st.lists(st.integers(-9, 9), max_size=60))
def test_sorting_is_stable(values):
    n = len(values)
    keys, order = np.array(values, np.int64), np.arange(n)
    kernel.stable_sort(n, keys, order, np.empty(n, np.int64), np.empty(n, np.int64))
    assert order.tolist() == sorted(range(n), key=lambda i: (values[i], i))
    assert keys.tolist() == sorted(values)


@given(buffers())
def test_buffers_conflict_where_they_share_a_section(b):
    s, slow = _sections(b), Slow(b)
    for i, j in itertools.combinations(range(b.n), 2):
        share = max(s.first[i], s.first[j]) < min(s.last[i], s.last[j])
        assert share == slow.conflict(i, j)
    assert s.load.max(initial=0) == slow.load()
    # no section is part of another
    sets = [{i for i in range(b.n) if s.first[i] <= k < s.last[i]} for k in range(s.n)]
    assert not any(x < y or y < x for x, y in itertools.combinations(sets, 2))
    assert [sum(int(b.nbytes[i]) for i in x) for x in sets] == s.load.tolist()


@settings(max_examples=60)
@given(buffers(most=5))
def test_the_bound_is_one_and_no_less_than_the_load(b):
    s, slow = _sections(b), Slow(b)
    assert slow.load() <= s.bound <= slow.least()


def test_the_bound_counts_alignment_and_fixed_ends():
    assert _sections(Buffers.of([0, 0], [2, 2], [1, 1], alignment=2)).bound == 3
    assert _sections(Buffers.of([0, 1], [2, 2], [10, 20], alignment=[4, 6])).bound == 30
    assert _sections(Buffers.of([0, 1], [2, 2], [10, 19], alignment=[4, 8])).bound == 12 + 20 - 2
    assert _sections(Buffers.of([0], [2], [10], fixed=100)).bound == 110
    # rounding costs 3 bytes under the 5 and nothing under the 8, and the last buffer is not rounded
    assert _sections(Buffers.of([0, 0], [1, 1], [5, 8], alignment=8)).bound == 13


# ---------------------------------------------------------------------------------- fits


@pytest.mark.parametrize("method", GREEDY)
@settings(max_examples=60)
@given(b=buffers())
def test_greedy_methods_are_their_rules(method, b):
    offsets, height = place(b, method)
    expected, top = Slow(b).greedy(method)
    assert offsets.tolist() == expected
    assert height == top
    check_arena(b, offsets)


@pytest.mark.parametrize("method", GREEDY)
@pytest.mark.parametrize("b", MANY, ids=range(len(MANY)))
def test_greedy_methods_are_their_rules_with_more_buffers(method, b):
    offsets, height = place(b, method)
    expected, top = Slow(b).greedy(method)
    assert (offsets.tolist(), height) == (expected, top)


def test_letters_sort_by_what_they_stand_for():
    b = many(30, 7)
    s, slow = _sections(b), Slow(b)
    life = [u - w for u, w in zip(slow.upper, slow.lower, strict=True)]
    span = [range(s.first[i], s.last[i]) for i in range(b.n)]
    values = [
        [x * y for x, y in zip(slow.size, life, strict=True)],
        life,
        slow.lower,
        slow.upper,
        [len(x) for x in span],
        [max((int(s.load[k]) for k in x), default=0) for x in span],
        [min((int(s.load[k]) for k in x), default=1 << 62) for x in span],
        list(range(b.n)),
        slow.size,
    ]
    for letter, value in enumerate(values):
        for code, sign in ((letter, -1), (-1 - letter, 1)):
            found = ordered(b, s, column([code]), s.load).tolist()
            assert found == sorted(range(b.n), key=lambda i: (sign * value[i], i))
    found = ordered(b, s, column([1, -9]), s.load).tolist()
    assert found == sorted(range(b.n), key=lambda i: (-life[i], slow.size[i], i))
    # size times life stays below 2**62
    huge = Buffers.of([0, 0, 0], [2**61, 4, 1], [2**40, 2**60, 1])
    assert ordered(huge, _sections(huge), column([0]), np.zeros(9, np.int64)).tolist() == [0, 1, 2]


# ---------------------------------------------------------------------------------- the dive


def dived(b, order):
    s = _sections(b)
    leaves = 1 << max(1, (b.n - 1).bit_length())
    offsets = np.empty(b.n, np.int64)
    height = kernel.dive(
        np.array(order, np.int64), s.n, s.grain, s.first, s.last, b.nbytes, b.alignment, leaves,
        np.empty((2, 2 * leaves), np.int64), np.empty(b.n, np.int64), np.empty(s.n + 1, np.int64),
        np.empty((3, s.n + 1), np.int64), np.empty(130, np.int64), offsets,
    )  # fmt: skip
    return offsets.tolist(), height


@given(b=buffers(pins=False), rng=st.randoms(use_true_random=False))
def test_a_dive_places_the_lowest_first(b, rng):
    order = rng.sample(range(b.n), b.n)
    offsets, height = dived(b, order)
    slow = Slow(b)
    assert offsets == slow.dive(order, _sections(b).grain)
    assert height == max((offsets[i] + slow.size[i] for i in range(b.n) if slow.alive(i)), default=0)
    check_arena(b, offsets)


@pytest.mark.parametrize("b", MANY[:4], ids=range(4))
def test_a_dive_places_the_lowest_first_with_more_buffers(b):
    for seed in range(3):
        order = random.Random(seed).sample(range(b.n), b.n)
        assert dived(b, order)[0] == Slow(b).dive(order, 1)


@settings(max_examples=60)
@given(buffers(most=5))
def test_the_skyline_is_legal_and_no_better_than_the_least(b):
    offsets, height = place(b, "skyline")
    check_arena(b, offsets)
    assert height >= Slow(b).least()


# ---------------------------------------------------------------------------------- shared objects


def lists(object_of):
    objects = {}
    for i, k in enumerate(object_of.tolist()):
        if k >= 0:
            objects.setdefault(k, []).append(i)
    assert sorted(objects) == list(range(len(objects)))
    return [objects[k] for k in range(len(objects))]


def shared(b, method):
    plan = plan_shared_objects(b, method=method)
    check_shared_objects(plan)
    return lists(plan.object_of), plan


def slow_objects(b, method):
    slow = Slow(b)
    if method == "greedy_by_size":
        found = slow.objects_by_size()
    elif method == "greedy_by_size_simple":
        found = []
        for i in sorted(filter(slow.alive, range(b.n)), key=lambda i: (-slow.size[i], i)):
            free = [o for o in found if not any(slow.conflict(i, j) for j in o)]
            if not free:
                found.append(free_one := [])
                free = [free_one]
            free[0].append(i)
    elif method == "greedy_by_breadth":
        found = slow.objects_in_turn(slow.by_breadth(), closest=False)
    else:
        found = slow.objects_in_turn(sorted(range(b.n), key=lambda i: (slow.lower[i], i)), closest=True)
    return [sorted(x) for x in found]


@pytest.mark.parametrize("method", SHARED[:4])
@given(b=buffers(pins=False))
def test_shared_objects_are_their_rules(method, b):
    found, plan = shared(b, method)
    assert found == slow_objects(b, method)
    assert plan.lower_bound == sum(Slow(b).maxima()) <= plan.total_bytes


@pytest.mark.parametrize("method", SHARED[:4])
@pytest.mark.parametrize("b", MANY[:4], ids=range(4))
def test_shared_objects_are_their_rules_with_more_buffers(method, b):
    assert shared(b, method)[0] == slow_objects(b, method)


@settings(max_examples=80)
@given(b=buffers(most=6, pins=False))
def test_the_flow_costs_least(b):
    found, _ = shared(b, "min_cost_flow")
    slow = Slow(b)
    cost = 0
    for members in found:
        members.sort(key=lambda i: (slow.lower[i], i))
        sizes = [0, *[slow.size[i] for i in members]]
        cost += sum(max(y - x, 0) for x, y in itertools.pairwise(sizes))
    assert cost == slow.least_flow()


def test_sections_rank_by_load_and_then_time():
    b = Buffers.of([0, 2, 4, 6], [2, 4, 6, 8], [5, 9, 5, 9])
    assert _breadth_order(b, _sections(b)).tolist() == [1, 3, 0, 2]
    s = _sections(b)
    object_of, sizes = _shared(b, s, "greedy_by_breadth", np.empty(4, np.int64), 0)
    assert (object_of.tolist(), sizes.tolist()) == ([0, 0, 0, 0], [9])


def test_no_buffers_need_nothing():
    none = Buffers.of([], [], [])
    for method in (*GREEDY, "skyline"):
        assert place(none, method)[1] == 0
    for method in SHARED:
        assert shared(none, method)[0] == []
    assert plan_arena(none).status == "optimal"


def test_a_gap_is_remembered_by_its_unaligned_begin_where_runtimes_do():
    """Gaps [1, 9) and [20, 26) for 4 bytes aligned to 4: from 4 on the first has 5 bytes, from 1 on 8."""
    b = Buffers.of([0] * 4, [1] * 4, [1, 11, 4, 4], alignment=[1, 1, 1, 4], fixed=[0, 9, 26, -1])
    for method, offset in (("tflite", 20), ("iree", 20), ("greedy_by_size", 4), ("xla", 4), ("onnxruntime", 4)):
        assert place(b, method)[0][3] == offset
        assert Slow(b).greedy(method)[0][3] == offset
