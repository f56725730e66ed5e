"""The least arena: bounds, cheap fits, and a search that finds a placement or proves that there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from math import gcd
from random import Random
from typing import Any, Final, NamedTuple

import numpy as np

from cnnlive._kernels.arena import arena_bound, dive, greedy, order_by, sections
from cnnlive._kernels.arena_search import begin, connect, search, survey
from cnnlive._types import I64, column, frozen
from cnnlive.buffers import Buffers
from cnnlive.errors import ArenaError

__all__ = ["BY_SIZE", "MAX_NODES", "Placement", "Sections", "check_limits", "dives", "ordered", "search_from",
           "search_placement", "sections_of"]  # fmt: skip

MAX_NODES: Final = 200_000

# What buffers are sorted by, as letters of `order_by`: A area, C sections, T most bytes of a section, W life, Z size.
_LETTERS: Final = {"A": 0, "W": 1, "C": 4, "T": 5, "Z": 8}
BY_SIZE: Final = column([_LETTERS["Z"]])
_DIVES: Final = ("TWA", "CA", "TAW", "ZW", "WAT", "AC", "CZ", "ZA")
# How to search, the likeliest first: who comes first of equally low buffers, how much the height of a section counts
# against what it has to spare, and by how much sections that close cases gain weight.
_SEARCHES: Final = (
    ("CA", 3.0, 0.01),
    ("WA", 1.0, 1.0),
    ("AT", 1000.0, 0.0),
    ("TWA", 3.0, 0.01),
    ("TZ", 1000.0, 0.1),
    ("CT", 1.0, 0.01),
    ("ZW", 1000.0, 0.0),
    ("TA", 0.3, 1.0),
    ("WZ", 0.3, 0.01),
    ("TC", 10.0, 0.1),
    ("CA", 1.0, 0.0),
    ("TA", 0.0, 1.0),
)
# Of these are the searches of later rounds drawn: another search is likelier to find something than more of the same.
_ORDERS: Final = ("TWA", "TC", "CA", "WA", "CT", "TA", "WZ", "AT", "TZ", "ZW", "ZA")
_BY_HEIGHT: Final = (0.0, 0.3, 1.0, 3.0, 10.0, 1000.0)
_LEARN: Final = (0.0, 0.01, 0.1, 1.0)
# Nodes of the first round for each buffer; a search that goes straight through takes one.
_FIRST_NODES: Final = 3
_GROWTH: Final = 2
# Nodes between two looks at the clock, tenths of a second at most.
_SLICE: Final = 2000
# Above these a part of time is not searched: lists of neighbours take memory, and a node a look at each section.
_MAX_PAIRS: Final = 3_000_000
_MAX_BUFFERS: Final = 5000
# Above this fits by size, which take quadratic time, are left out where there are dives instead.
_LARGE: Final = 5000


class Placement(NamedTuple):
    """What :func:`search_placement` found.

    Attributes
    ----------
    offsets : (n,) int64 or None
        None where there is no placement, or none within the capacity was found.
    height : int, bytes
        The largest ``offset + nbytes`` of a buffer that is ever alive; 0 without offsets.
    bound : int, bytes
        No placement is lower.
    status : str
        ``"optimal"``: the height is the bound. ``"feasible"``: there are offsets, within the capacity if there is one.
        ``"infeasible"``: proven that there is no placement. ``"unknown"``: none within the capacity was found, and none
        was ruled out.
    n_nodes : int
        Nodes of the search; 0 where bounds and fits sufficed.
    reason : str
        What the status rests on, in words.
    """

    offsets: I64 | None
    height: int
    bound: int
    status: str
    n_nodes: int
    reason: str


def search_placement(
    buffers: Buffers, *, capacity: int | None = None, time_limit: float | None = None, max_nodes: int = MAX_NODES
) -> Placement:
    """Find the lowest placement of buffers, or one within a capacity, and prove it.

    Parameters
    ----------
    buffers : Buffers
        Fixed offsets are kept, alignments honoured.
    capacity : int, optional
        Bytes. With it any placement of that height will do.
    time_limit : float, optional
        Seconds after which the best so far is returned. Looked at every few thousand nodes.
    max_nodes : int
        The same in nodes of the search, of which there are some 100,000 to 1,000,000 in a second. Unlike with a time
        limit, equal arguments give equal placements. 0: bounds and fits only.

    Returns
    -------
    Placement

    Raises
    ------
    ArenaError
        If `capacity`, `time_limit` or `max_nodes` is negative, or not a number.

    Notes
    -----
    NP-hard (Garey and Johnson 1979, SR2). First the bound: in each section of time the sum of what is alive, rounded up
    to what all offsets are multiples of except for the buffer on top. Then fits by size and dives along the skyline; a
    height equal to the bound is proven. Then a depth-first search (see ``cnnlive._kernels.arena_search``) by several
    orders and with growing numbers of nodes, at a height equal to the bound, and in between at heights from there to
    the best placement so far. One that ends without a placement raises the bound. Time is parted where nothing lives
    on; each part is searched for itself, unless it has more than 5,000 buffers or 3,000,000 pairs of neighbours. With
    more than 5,000 buffers there are no fits by size, which take quadratic time, unless some are fixed: no dive can do
    that.

    Examples
    --------
    >>> tricky = Buffers.of([0, 0, 4, 2, 1, 3, 1], [1, 3, 5, 5, 2, 4, 4], [3, 1, 3, 1, 2, 2, 1])
    >>> found = search_placement(tricky)
    >>> found.height, found.bound, found.status
    (5, 5, 'optimal')
    >>> search_placement(tricky, capacity=4)[3:]
    ('infeasible', 12, 'every placement was tried')
    """
    check_limits(capacity, time_limit, max_nodes)
    overlap = _overlap_of_pinned(buffers)
    times = sections_of(buffers)
    if overlap:
        return Placement(None, 0, times.bound, "infeasible", 0, overlap)
    if capacity is not None and times.bound > capacity:
        return Placement(None, 0, times.bound, "infeasible", 0, _above(buffers, times, capacity))
    return search_from(buffers, times, capacity=capacity, time_limit=time_limit, max_nodes=max_nodes)


def search_from(
    buffers: Buffers, times: Sections, *, capacity: int | None, time_limit: float | None, max_nodes: int
) -> Placement:
    """Do what :func:`search_placement` does, from the sections on; no fixed buffers overlap, and the bound fits."""
    check_limits(capacity, time_limit, max_nodes)
    goal = times.bound if capacity is None else capacity
    offsets, height = _fits(buffers, times, goal)
    if height <= goal:
        return _placed(offsets, height, times.bound, times, 0, "")
    budget = _Budget(max_nodes, None if time_limit is None else time.monotonic() + time_limit)
    return _search(buffers, times, offsets, capacity, budget)


class Sections(NamedTuple):
    """Sections of buffers; what is alive in each, rounded up; what rounding costs the top one; the bound; the grain."""

    n: int
    first: I64
    last: I64
    load: I64
    slack: I64
    bound: int
    grain: int


def sections_of(b: Buffers) -> Sections:
    """Part the time of buffers into sections, and bound their arena."""
    first, last = np.empty((2, b.n), np.int64)
    n = sections(b.lower, b.upper, b.nbytes, first, last, np.empty((6, b.n), np.int64))
    load, slack = np.empty((2, n), np.int64)
    bound, grain = arena_bound(n, first, last, b.nbytes, b.alignment, b.fixed, load, slack)
    return Sections(n, first, last, load, slack, int(bound), int(grain))


def check_limits(capacity: object, time_limit: object, max_nodes: object) -> None:
    """Refuse a limit that is negative or not a number."""
    for value, what, types in (
        (0 if capacity is None else capacity, "capacity", (int, np.integer)),
        (0 if time_limit is None else time_limit, "time_limit", (int, float, np.integer, np.floating)),
        (max_nodes, "max_nodes", (int, np.integer)),
    ):
        if isinstance(value, bool) or not isinstance(value, types) or not value >= 0:
            raise ArenaError(f"{what}={value!r}; allowed: 0 or more")


def _overlap_of_pinned(b: Buffers) -> str:
    """Two fixed buffers that overlap, in words."""
    pinned = b.fixed >= 0
    if not pinned.any():
        return ""
    who = np.flatnonzero(pinned & (b.nbytes > 0) & (b.lower < b.upper))
    who = who[np.argsort(b.lower[who], kind="stable")]
    lower, upper, at = b.lower[who], b.upper[who], b.fixed[who]
    end = at + b.nbytes[who]
    for k, stop in enumerate(np.searchsorted(lower, upper, "left").tolist()):
        others = slice(k + 1, stop)
        hits = np.flatnonzero((at[others] < end[k]) & (end[others] > at[k]))
        if len(hits):
            j = k + 1 + int(hits[0])
            return (
                f"the buffers {b.ids[who[k]]} and {b.ids[who[j]]} are fixed and overlap: both are alive at steps "
                f"[{max(lower[k], lower[j])}, {min(upper[k], upper[j])}) and take bytes "
                f"[{max(at[k], at[j]):,}, {min(end[k], end[j]):,})"
            )
    return ""


def _above(b: Buffers, s: Sections, capacity: int) -> str:
    """Why the bound is above the capacity, in words."""
    tops = np.where((b.fixed >= 0) & (s.first < s.last), b.fixed + b.nbytes, 0)
    i = int(tops.argmax())
    if tops[i] > capacity:
        return (
            f"the buffer {b.ids[i]} is fixed at {b.fixed[i]:,} and ends at {tops[i]:,} B, "
            f"above the capacity of {capacity:,}"
        )
    need = s.load - s.slack
    k = int(np.flatnonzero(need > capacity)[0])
    alive = (s.first <= k) & (k < s.last)
    steps = f"[{b.lower[alive].max()}, {b.upper[alive].min()})"
    plain = int(b.nbytes[alive].sum())
    if plain > capacity:
        return f"at steps {steps} the live buffers add up to {plain:,} B, more than the capacity of {capacity:,}"
    return (
        f"at steps {steps} the live buffers take {need[k]:,} B aligned to {s.grain:,}, "
        f"more than the capacity of {capacity:,}"
    )


# ---------------------------------------------------------------------------------- fits


def _fits(b: Buffers, s: Sections, goal: int) -> tuple[I64, int]:
    """Try cheap fits until one reaches the goal; return the lowest of all."""
    best: tuple[I64, int] | None = None
    for offsets, height in _each_fit(b, s):
        if best is None or height < best[1]:
            best = offsets, height
            if height <= goal:
                break
    assert best is not None
    return best


def _each_fit(b: Buffers, s: Sections) -> Iterator[tuple[I64, int]]:
    pinned = bool((b.fixed >= 0).any())
    if pinned or b.n <= _LARGE:
        yield from _by_size(b)
    if not pinned:
        yield from dives(b, s)


def _by_size(b: Buffers) -> Iterator[tuple[I64, int]]:
    work = np.empty((12, b.n), np.int64)
    for rule in (1, 0):
        offsets = np.empty(b.n, np.int64)
        columns = b.lower, b.upper, b.nbytes, b.alignment, b.fixed
        yield offsets, int(greedy(BY_SIZE, *columns, rule, work, offsets))


def dives(b: Buffers, s: Sections) -> Iterator[tuple[I64, int]]:
    """Go along the skyline by one order after the other; fixed offsets are not kept. Yield offsets and heights."""
    n_leaves = 1 << max(1, (b.n - 1).bit_length())
    tree, sky = np.empty((2, 2 * n_leaves), np.int64), np.empty((3, s.n + 1), np.int64)
    leaf, births, stack = np.empty(b.n, np.int64), np.empty(s.n + 1, np.int64), np.empty(130, np.int64)
    for letters in _DIVES:
        offsets = np.empty(b.n, np.int64)
        order = ordered(b, s, _CODES[letters], s.load)
        yield offsets, int(dive(order, s.n, s.grain, s.first, s.last, b.nbytes, b.alignment, n_leaves, tree, leaf,
                                births, sky, stack, offsets))  # fmt: skip


def ordered(b: Buffers, s: Sections, letters: I64, over: I64) -> I64:
    """Return the buffers as :func:`order_by` sorts them; `over` is a value of each section."""
    order = np.empty(b.n, np.int64)
    order_by(letters, b.lower, b.upper, b.nbytes, s.first, s.last, over, order, np.empty((3, b.n), np.int64))
    return order


_CODES: Final = {name: column([_LETTERS[x] for x in name]) for name in {*_DIVES, *_ORDERS}}


# ---------------------------------------------------------------------------------- search


class _Budget:
    """Nodes and seconds that are left."""

    def __init__(self, max_nodes: int, until: float | None) -> None:
        self.max_nodes = max_nodes
        self.until = until
        self.n_nodes = 0

    @property
    def out(self) -> str:
        """What has run out, in words; empty if nothing has."""
        if self.n_nodes >= self.max_nodes:
            return f"{self.max_nodes:,} nodes were searched"
        return "the time was over" if self.until is not None and time.monotonic() >= self.until else ""


class _Part:
    """Buffers of a stretch of time in which something is always alive, as a model to be searched."""

    def __init__(self, b: Buffers, s: Sections, members: I64) -> None:
        self.members = members
        self.buffers, self.sections = b, s
        # contiguous columns, as kernels want them
        pick = [frozen(a[members]) for a in (s.first, s.last, b.nbytes, b.alignment, b.fixed)]
        first, last, self.nbytes, alignment, self.fixed = pick
        origin = int(first.min())
        self.first, self.last = frozen(first - origin), frozen(last - origin)
        n, n_sections = len(members), int(self.last.max())
        padded = (self.nbytes + (s.grain - 1)) // s.grain * s.grain
        self.unit = unit = _unit(padded, alignment, self.fixed)
        self.size = frozen(padded // unit)
        self.align = frozen(np.where(self.fixed >= 0, 1, np.maximum(alignment // unit, 1)))
        self.pin = frozen(np.where(self.fixed >= 0, self.fixed // unit, -1))
        self.sec_ptr, born_ptr = np.empty(n_sections + 1, np.int64), np.empty(n_sections + 2, np.int64)
        self.pair_ptr, self.con_ptr = np.empty((2, n + 1), np.int64)
        survey(self.first, self.last, self.sec_ptr, self.pair_ptr, born_ptr, self.con_ptr)
        n_pairs, n_near = int(self.pair_ptr[n]), int(self.con_ptr[n])
        self.searchable = n <= _MAX_BUFFERS and max(n_pairs, n_near // 2) <= _MAX_PAIRS
        if not self.searchable:
            return
        self.con_idx, self.pins_near = np.empty(n_near, np.int64), np.empty(n, np.int64)
        member = np.empty((2, n_pairs), np.int64)
        connect(self.first, self.last, self.pin, self.sec_ptr, self.pair_ptr, born_ptr, self.con_ptr, self.con_idx,
                self.pins_near, member, np.empty(n + n_sections + 1, np.int64))  # fmt: skip
        n_decisions = 2 * n + 256
        n_words = (n_decisions >> 5) + 1
        self.state = np.empty((4, n), np.int64)
        secs, self.regs = np.empty((4, n_sections), np.int64), np.empty(9, np.int64)
        self.ceiling, self.weight = np.empty(n_sections, np.int64), np.empty(n_sections)
        self.rank, self.roof = np.empty((2, n), np.int64)
        model = (self.first, self.last, self.size, self.align, self.pin, self.sec_ptr)
        near = (self.con_ptr, self.con_idx, self.pins_near)
        self._begin = (*model, *near, self.roof, self.ceiling, self.state, secs, self.regs)
        scratch = (
            np.empty((n_near + 16 * n + 32 * n_sections + 64, 4), np.int64),
            np.empty((n_decisions, 3), np.int64),
            2 * self.con_ptr + 32 * np.arange(n + 1),
            np.empty((3, 2 * n_near + 32 * n), np.int64),
            np.empty(n_words, np.int64),
            np.empty((n_decisions, n_words), np.int64),
            np.empty((n_decisions, 1 + n_words), np.int64),
            np.empty((2, n + 1), np.int64),
        )
        self._search: tuple[Any, ...] = (*model, self.pair_ptr, *near, self.rank, self.roof, self.ceiling, self.state,
                                         secs, member, *scratch, self.weight, self.regs)  # fmt: skip

    def next_height(self, height: int) -> int:
        """Return a height below which there is nothing, after a search for this one has ended with nothing.

        A placement's height is that of a buffer on a whole number of units. A search for more is the same search until
        there is enough for what it missed most narrowly.
        """
        step = int((self.unit - (height - self.nbytes) % self.unit).min())
        return height + step + (int(self.regs[8]) - 1) * self.unit

    def height(self, offsets: I64) -> int:
        return int((offsets + self.nbytes).max())

    def attempt(self, how: tuple[str, float, float], height: int, n_nodes: int, budget: _Budget) -> int:
        """Search for a placement of at most that height; return 0 none, 1 found, 2 or 3 unknown."""
        letters, by_height, learn = how
        order = ordered(self.buffers, self.sections, _CODES[letters], self.sections.load)
        place = np.empty(self.buffers.n, np.int64)
        place[order] = np.arange(self.buffers.n)
        self.rank[:] = place[self.members]
        self.roof[:] = (height - self.nbytes) // self.unit
        np.minimum(self.roof, self.pin, out=self.roof, where=self.pin >= 0)
        self.weight[:] = 1.0
        begin(*self._begin)
        status = 2
        done = 0
        while status == 2 and done < n_nodes and not budget.out:
            step = min(_SLICE, n_nodes - done, budget.max_nodes - budget.n_nodes)
            status = int(search(step, by_height, learn, *self._search))
            budget.n_nodes += int(self.regs[2]) - done
            done = int(self.regs[2])
        return status

    def found(self) -> I64:
        offsets: I64 = self.state[0] * self.unit
        return offsets


def _unit(padded: I64, alignment: I64, fixed: I64) -> int:
    """Return a common divisor of all offsets of placements in which no buffer can drop."""
    unit = gcd(int(np.gcd.reduce(padded)), int(np.gcd.reduce(fixed[fixed >= 0])))
    alignments = set(alignment.tolist())
    changed = True
    while changed:
        changed = False
        for a in alignments:
            if unit % a and a % unit:
                unit = gcd(unit, a)
                changed = True
    return unit


def _parts(s: Sections) -> list[I64]:
    """Return the buffers of each stretch of time, parted where nothing lives on."""
    alive = np.flatnonzero(s.first < s.last)
    begins = np.bincount(s.first[alive], minlength=s.n + 1)
    ends = np.bincount(s.last[alive], minlength=s.n + 1)
    # buffers alive both before and after the begin of a section
    crossing = np.cumsum(begins - ends)[: s.n] - begins[: s.n]
    cuts = np.flatnonzero(crossing == 0)
    if len(cuts) == 1:
        return [alive]
    part = np.searchsorted(cuts, s.first[alive], "right")
    order = np.argsort(part, kind="stable")
    return np.split(alive[order], np.flatnonzero(np.diff(part[order])) + 1)


def _search(b: Buffers, s: Sections, offsets: I64, capacity: int | None, budget: _Budget) -> Placement:
    """Search the parts whose fit is too high, the highest first."""
    ends = offsets + b.nbytes
    parts = _parts(s)
    parts.sort(key=lambda members: -int(ends[members].max()))
    bound = s.bound
    height = 0
    why = ""
    for members in parts:
        top = int(ends[members].max())
        # nothing is gained by making one part lower than another one is
        goal = max(bound, height) if capacity is None else capacity
        if top > goal:
            part = _Part(b, s, members)
            if not part.searchable:
                why = f"a part of {len(members):,} buffers was not searched: too many, or too many alive together"
            else:
                there, top, proven = _lowest(part, offsets[members], top, goal, capacity is not None, budget)
                bound = max(bound, proven)
                offsets[members] = there
                why = budget.out or why
        height = max(height, top)
        if capacity is not None and height > capacity:
            if bound > capacity:
                return Placement(None, 0, bound, "infeasible", budget.n_nodes, "every placement was tried")
            why += f"; the lowest placement found takes {height:,} B, more than the capacity of {capacity:,}"
            return Placement(None, 0, bound, "unknown", budget.n_nodes, why)
    return _placed(offsets, height, bound, s, budget.n_nodes, why)


def _placed(offsets: I64, height: int, bound: int, s: Sections, n_nodes: int, why: str) -> Placement:
    status = "optimal" if height == bound else "feasible"
    if status == "optimal":
        why = "as low as what is alive at once" if bound == s.bound else "everything lower was tried"
    return Placement(frozen(offsets), height, bound, status, n_nodes, why or "within the capacity")


def _lowest(part: _Part, offsets: I64, top: int, goal: int, decide: bool, budget: _Budget) -> tuple[I64, int, int]:
    """Return offsets of a part, their height, and a bound that was proven (0: none).

    From `top` down to `goal`, below which nothing is asked for; with `decide`, at the goal or not at all.
    """
    bound = 0
    n_nodes = _FIRST_NODES * len(part.members) + 100
    searches: Sequence[tuple[str, float, float]] = _SEARCHES
    rng = Random(0)
    while not budget.out:
        for how in searches:
            status = part.attempt(how, goal, n_nodes, budget)
            while status == 0:
                bound = goal = min(part.next_height(goal), top)
                if decide or goal >= top:
                    return offsets, top, bound
                status = part.attempt(how, goal, n_nodes, budget)
            if status == 1:
                offsets = part.found()
                return offsets, part.height(offsets), bound
        n_nodes *= _GROWTH
        # heights between: half way to what is known, as long as that pays
        low = goal
        while not decide and top - low > max(part.unit, (top - goal) // 16) and not budget.out:
            height = low + (top - low) // 2
            for how in searches:
                status = part.attempt(how, height, n_nodes // _GROWTH, budget)
                if status < 2:
                    break
            if status == 1:
                offsets = part.found()
                top = part.height(offsets)
            else:
                low = height
            if status == 0:
                bound = goal = low = min(part.next_height(height), top)
        searches = [(rng.choice(_ORDERS), rng.choice(_BY_HEIGHT), rng.choice(_LEARN)) for _ in _SEARCHES]
    return offsets, top, bound
