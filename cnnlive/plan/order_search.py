"""The search behind :func:`cnnlive.plan_order`: blocks of ops, bounds, rules of thumb, beams, exact decisions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np

from cnnlive._kernels.order_search import (
    beam,
    begin,
    contract,
    explore,
    forced,
    lay_arcs,
    lay_out,
    least_alive,
    least_rise,
    list_order,
    refill,
    spell,
    survey,
    trace,
)
from cnnlive._types import I64

__all__ = ["BlockSearch", "arrays", "give_back"]

# Blocks between two sets for which the latter is looked at as a valley; more cost more than they save.
_MOST: Final = 6
# States between two looks at the clock: some ten milliseconds.
_SLICE: Final = 8192
_FIRST_ROOM: Final = 4096
# States that a level may cost before others are tried, and how much more they may then.
_FIRST_BUDGET: Final = 2000
_RAISE: Final = 8
# States of a level below the peak, which is tried for the bound alone.
_BOUND_BUDGET: Final = 65536
_WIDTHS: Final = (4, 16, 64)
# Blocks of a part times width up to which a beam is tried: some hundred milliseconds.
_MOST_BEAM: Final = 64_000
# Blocks of a part up to which what is forced to be alive is counted at each.
_MOST_FORCED: Final = 1024
# Blocks of a part up to which least cuts are looked at: some ten milliseconds.
_MOST_CUTS: Final = 512
# Blocks around a peak that are put in order anew where the whole is too much, and the states that this may cost.
_WINDOWS: Final = (40, 80)
_WINDOW_BUDGET: Final = 4000
# Words of 62 blocks that a set has at first, and may have.
_WORDS: Final = 4
_MOST_WORDS: Final = 64
_FOUND, _NONE, _UNDECIDED = range(3)


class BlockSearch:
    """The least peak of a model of ops, as ``order.model`` makes it; see :mod:`cnnlive._kernels.order_search`.

    Parameters
    ----------
    model : mapping of str to array
        Its columns.
    n, n_groups, n_edges, alive : int
        Ops, groups, edges, and bytes alive at first.
    bound : int
        No order has a lower peak.
    max_states : int
        Sets that a search may keep; all together may visit four times as many.
    until : float or None
        When to stop, by ``time.perf_counter``.

    Attributes
    ----------
    peak, bound : int
        Of the best order found, and a lower bound of every order's.
    n_states : int
        Sets that the searches kept.
    """

    def __init__(
        self,
        model: Mapping[str, I64],
        n: int,
        n_groups: int,
        n_edges: int,
        alive: int,
        bound: int,
        max_states: int,
        until: float | None,
    ) -> None:
        self._model, self._n, self._n_groups, self._alive = model, n, n_groups, alive
        self.bound, self.n_states = bound, 0
        self._max_states, self._until, self._left = max_states, until, 4 * max_states
        sizes = dict.fromkeys(_OF_OPS, n + 2) | dict.fromkeys(_OF_EDGES, n_edges + 1)
        sizes |= dict.fromkeys(_OF_GROUPS, n_groups + 1)
        sizes |= {
            "mark": max(n, n_groups) + 2,
            "found": 2 * (n + 2),
            "mind": 8,
            "far": _MOST + 1,
            "picked": _WIDTHS[-1],
        }
        a = self._a = arrays(sizes, "search")
        self._found = a["found"].reshape(n + 2, 2)
        kept: _Room = getattr(_of_thread, "room", None) or _Room()
        _of_thread.room = None
        self._words, self._states, self._queued, self._table, self._stamp = kept
        self.n_blocks = int(contract(n, n_groups, *[model[name] for name in _MODEL], *[a[name] for name in _LISTS]))
        at = a["alive_at"][:n]
        self._order = at[at >= 0]
        self._lay_out()

    def ops(self) -> I64:
        """Return the ops of the model in the order found."""
        sequence = np.empty(self._n, np.int64)
        spell(self.n_blocks, self._order, self._a["head"], self._a["link"], sequence)
        return sequence

    def run(self) -> None:
        """Search until the peak is proven, or nothing is left of the limits."""
        self._rules_of_thumb()
        for part in np.argsort(-self._tallest, kind="stable").tolist():
            if self._tallest[part] <= self.bound:
                break
            first, last = self._parts[part].tolist()
            self._solve(first, last)
        if self._states.nbytes + self._words.nbytes <= _KEPT:
            _of_thread.room = _Room(self._words, self._states, self._queued, self._table, self._stamp)
        give_back("search", self._a)

    # -------------------------------------------------------------- the order

    def _lay_out(self) -> None:
        """Give the blocks numbers as they stand in the order, and survey them."""
        a, model = self._a, self._model
        lay_out(self.n_blocks, self._n, self._n_groups, self._order, *[model[name] for name in _LAID_FROM],
                *[a[name] for name in _LAID])  # fmt: skip
        self._pre = [a[name] for name in _PRE]
        self._net = [*[a[name] for name in _NET], model["size"]]
        self._cursor = [a[name] for name in _CURSOR]
        rest = [*self._pre, a["b_birth"], a["b_last"], *self._net, a["wanted"], a["latest"], a["level"], a["need"],
                a["part"]]  # fmt: skip
        bound, peak = survey(self.n_blocks, self._n_groups, self._alive, *rest)
        self.bound = max(self.bound, int(bound))
        self.peak = max(self.bound, int(peak))
        begins = np.flatnonzero(a["part"][: self.n_blocks])
        self._parts = np.stack([begins, a["part"][begins]], axis=1)
        self._tallest = np.maximum.reduceat(a["need"][: self.n_blocks], begins)

    def _adopt(self, *spans: tuple[int, int]) -> None:
        """Take over what was found for spans of the order."""
        order = self._order.copy()
        for first, last in spans:
            order[first:last] = self._order[self._a["sequence"][first:last]]
        self._order = order
        self._lay_out()

    def _tall(self, first: int, last: int) -> int:
        return int(self._a["need"][first:last].max())

    # -------------------------------------------------------------- good orders

    def _rules_of_thumb(self) -> None:
        """Take the best of the order and three rules of thumb, part by part."""
        a = self._a
        best = np.arange(self.n_blocks)
        changed = []
        rest = [*self._pre, *self._net, *self._cursor, a["age"], a["sequence"], a["load"]]
        for (first, last), tallest in zip(self._parts.tolist(), self._tallest.tolist(), strict=True):
            least = tallest
            for rule in range(3):
                if least <= self.bound:
                    break
                peak = list_order(first, last, a["level"][first], rule, self.bound, *rest)
                if peak < least:
                    least = int(peak)
                    best[first:last] = a["sequence"][first:last]
                    changed.append((first, last))
        if changed:
            a["sequence"][: self.n_blocks] = best
            self._adopt((0, self.n_blocks))

    def _beam(self, first: int, last: int, least: int, width: int) -> None:
        """Look for an order of a part below its peak, choice by choice with `width` sets kept."""
        a = self._a
        n = last - first
        if n * width > _MOST_BEAM:
            return
        n_words = min(_WORDS, -(-n // 62))
        room = self._make_room(min((n + 2) * width + 2 * n + 256, self._max_states + 2 * n), n_words)
        rest = [*self._pre, *self._net, *self._cursor, *self._store(), a["log"], self._found, a["mind"], a["picked"]]
        goal, self._stamp = beam(first, last, a["level"][first], least, self._tall(first, last) - 1, width, room,
                                 self._stamp, len(self._table) - 1, n_words, *rest)  # fmt: skip
        if goal >= 0:
            self._trace(int(goal), first, last, n_words)
            self._adopt((first, last))

    def _in_windows(self, first: int, last: int, least: int, width: int) -> bool:
        """Put what lies around the peaks of a part in order anew; return whether the part's peak is lower now."""
        a = self._a
        peak = self._tall(first, last)
        spans: list[tuple[int, int]] = []
        begin_at = first
        for at in (first + np.flatnonzero(a["need"][first:last] == peak)).tolist():
            if at < begin_at:
                continue
            low = max(begin_at, min(at - width // 2, last - width))
            high = min(low + width, last)
            end, _ = self._decide(low, high, peak - 1, _WINDOW_BUDGET)
            if end != _FOUND:
                return False
            spans.append((low, high))
            begin_at = high
        self._adopt(*spans)
        return self._tall(first, last) < peak

    # -------------------------------------------------------------- exact search

    def _solve(self, first: int, last: int) -> None:
        """Search a part for its least peak, and raise the bound to what is proven of it."""
        n = last - first
        least = self.bound
        if n <= _MOST_FORCED:
            least = self.bound = max(least, self._forced(first, last))
        widths, to_cut = list(_WIDTHS), n <= _MOST_CUTS
        self._beam(first, last, least, widths.pop(0))
        budget = min(max(_FIRST_BUDGET, 4 * n), self._max_states)
        while (peak := self._tall(first, last)) > least and not self._stopped():
            end, above = self._decide(first, last, peak - 1, budget)
            if end == _FOUND:
                self._adopt((first, last))
                continue
            if end == _NONE:
                least = self.bound = max(self.bound, peak)
                break
            if to_cut:
                to_cut = False
                least = self.bound = max(self.bound, self._cut(first, last))
                if least >= peak:
                    break
            # Lower levels are decided sooner, and either halve what is open or give a better order.
            high = peak - 1
            while end != _FOUND and high - least > 1 and not self._stopped():
                middle = (least + high) // 2
                end, above = self._decide(first, last, middle, min(budget, _BOUND_BUDGET))
                if end == _NONE:
                    least = self.bound = max(self.bound, min(above, peak))
                elif end == _UNDECIDED:
                    if high - middle <= (peak - least) // 16:
                        break
                    high = middle
            if end == _FOUND:
                self._adopt((first, last))
                continue
            if widths:
                self._beam(first, last, least, widths.pop(0))
            for width in _WINDOWS:
                while self._tall(first, last) > least and not self._stopped():
                    if not self._in_windows(first, last, least, width):
                        break
            if budget == self._max_states:
                break
            budget = min(_RAISE * budget, self._max_states)

    def _forced(self, first: int, last: int) -> int:
        """Return the lower bound that what is alive for sure while each block of a part runs gives."""
        a, n = self._a, last - first
        n_words = -(-n // 62)
        above, below = np.empty((2, n * n_words), np.int64)
        rest = [*[a[name] for name in _FORCED], self._model["size"], above, below, a["load"]]
        return int(forced(first, last, self._n_groups, a["level"][first], n_words, *rest))

    def _cut(self, first: int, last: int) -> int:
        """Return the lower bound that the least that can be alive while each block of a part runs gives."""
        a, n, n_groups = self._a, last - first, self._n_groups
        n_words = -(-n // 62)
        above, below = np.empty((2, n * n_words), np.int64)
        rest = [*[a[name] for name in _FORCED], self._model["size"], above, below, a["load"]]
        bound = int(forced(first, last, n_groups, a["level"][first], n_words, *rest))
        n_nodes = n + n_groups + 2
        n_arcs = 2 * (len(a["b_pred_idx"]) + len(a["b_use_idx"]) + 2 * n_groups)
        arc_to, capacity, arc_idx, left = np.empty((4, n_arcs), np.int64)
        arc_ptr, via, queue = np.empty((3, n_nodes + 1), np.int64)
        rest = [*[a[name] for name in _PART], self._model["size"], arc_to, capacity, arc_ptr, arc_idx]
        n_arcs, through = map(int, lay_arcs(first, last, n_groups, a["level"][first], *rest))
        rest = [above, below, arc_to, capacity, arc_ptr, arc_idx, left, via, queue]
        rises = [*[a[name] for name in _RISES], self._model["size"], below]
        for k in range(first, last):
            if self._late():
                break
            high = int(least_rise(k, first, last, n_words, *rises))
            bound = max(bound, through + high + int(least_alive(k - first, n, n_nodes, n_arcs, n_words, *rest)))
        return bound

    def _decide(self, first: int, last: int, bound: int, budget: int) -> tuple[int, int]:
        """Look for an order of blocks `first` to ``last - 1`` within `bound`, visiting no more than `budget` sets.

        Returns how that ended, and what no order stays below if there is none. One that is found is in the sequence.
        """
        a, n = self._a, last - first
        n_words = min(_WORDS, -(-n // 62))
        while True:
            end = self._explore(first, last, bound, budget, n_words)
            if end != _NONE or not a["mind"][5]:
                return end, int(a["mind"][6])
            # A block was ready that no set reaches.
            n_words = min(4 * n_words, -(-n // 62))
            if n_words > _MOST_WORDS:
                return _UNDECIDED, bound

    def _explore(self, first: int, last: int, bound: int, budget: int, n_words: int) -> int:
        a, n = self._a, last - first
        most = self._max_states * _WORDS // max(n_words, _WORDS) + n + 1
        room = self._make_room(min(max(_FIRST_ROOM, 2 * n), most), n_words)
        rest = [*self._pre, *self._net, *self._cursor, *self._store(), a["log"], a["mind"]]
        whole = begin(first, last, a["level"][first], bound, self._stamp, len(self._table) - 1, n_words, *rest)
        end = 0 if whole else 2
        while end >= 2 and budget > 0 and not self._stopped():
            turn = min(budget, self._left, _SLICE)
            rest = [*self._net, *self._cursor, *self._store(), a["log"], self._found, a["far"], self._queued, a["mind"]]
            end = explore(last, bound, turn, _MOST, room, self._stamp, len(self._table) - 1, n_words, *rest)
            turn -= int(a["mind"][7])
            budget -= turn
            self._left -= turn
            if end == 3:
                if room >= most:
                    break
                room = self._make_room(min(4 * room, most), n_words, int(a["mind"][0]))
        n_states = int(a["mind"][0])
        self._stamp += n_states
        self.n_states += n_states
        if end == 0:
            self._trace(n_states - 1, first, last, n_words)
        return min(int(end), _UNDECIDED)

    def _trace(self, goal: int, first: int, last: int, n_words: int) -> None:
        a = self._a
        rest = [*self._pre, *self._net, *self._cursor, *self._store(), a["age"], a["sequence"], a["load"]]
        trace(goal, first, last, a["level"][first], n_words, *rest)

    def _late(self) -> bool:
        return self._until is not None and perf_counter() >= self._until

    def _stopped(self) -> bool:
        return self._left <= 0 or self._late()

    # -------------------------------------------------------------- room for sets

    def _store(self) -> list[I64]:
        return [self._words, *self._states, self._table]

    def _make_room(self, room: int, n_words: int, kept: int = 0) -> int:
        """Make room for sets, if there is not enough, and return how many there is room for; `kept` are kept."""
        if min(self._states.shape[1], len(self._words) // n_words) < room:
            # never less of either than there was, or two searches that take turns would each make both anew
            rows, n = max(room, self._states.shape[1]), max(room * n_words, len(self._words))
            words, states, queued = np.empty(n, np.int64), np.empty((7, rows), np.int64), np.empty(rows, np.int64)
            words[: kept * n_words] = self._words[: kept * n_words]
            states[:, :kept], queued[:kept] = self._states[:, :kept], self._queued[:kept]
            self._words, self._states, self._queued = words, states, queued
        if len(self._table) < 2 * room:
            self._table = np.full(1 << (2 * room - 1).bit_length(), -1, np.int64)
            self._stamp = 0
            refill(kept, n_words, len(self._table) - 1, self._words, self._states[0], self._table)
        return room


# Memory that searches of a thread use one after the other: fresh pages cost more than small searches do.
_KEPT: Final = 1 << 24
_of_thread = threading.local()


class _Room(NamedTuple):
    """Room for sets: words, other columns, marks, the table, and from where on its entries are new."""

    words: I64 = np.empty(0, np.int64)
    states: I64 = np.empty((7, 0), np.int64)
    queued: I64 = np.empty(0, np.int64)
    table: I64 = np.empty(0, np.int64)
    stamp: int = 0


def arrays(sizes: Mapping[str, int], use: str) -> dict[str, I64]:
    """Make arrays of these sizes out of one block, which is the thread's last of that use if it is large enough."""
    ends = np.cumsum(list(sizes.values())).tolist()
    block = getattr(_of_thread, use, None)
    if block is None or len(block) < ends[-1]:
        block = np.empty(ends[-1], np.int64)
    setattr(_of_thread, use, None)
    found = {name: block[end - size : end] for (name, size), end in zip(sizes.items(), ends, strict=True)}
    return found | {"": block}


def give_back(use: str, taken: Mapping[str, I64]) -> None:
    """Keep the block of arrays that nobody looks at any more for the thread's next call."""
    if taken[""].nbytes <= _KEPT:
        setattr(_of_thread, use, taken[""])


# Names of the kernels' arrays, in the order in which they take them.
_MODEL: Final = ("pred_ptr", "pred_idx", "use_ptr", "use_idx", "takes", "user_ptr", "user_idx", "size", "fresh",
                 "stays", "extra", "birth")  # fmt: skip
_LISTS: Final = ("follow_ptr", "follow_idx", "root", "count", "place", "head", "tail", "link", "n_in", "n_out",
                 "first_step", "last_step", "next_step", "first_use", "next_use", "rise", "least", "gain", "weight",
                 "mark", "node", "alive_at")  # fmt: skip
_LAID_FROM: Final = ("pred_ptr", "pred_idx", "use_idx", "takes", "user_ptr", "user_idx", "birth")
_LAID: Final = ("root", "head", "link", "first_step", "next_step", "first_use", "next_use", "rise", "least", "gain",
                "number", "mark", "b_pred_ptr", "b_pred_idx", "b_next_ptr", "b_next_idx", "b_step_ptr", "b_rise",
                "b_least", "b_gain", "b_use_ptr", "b_use_idx", "b_takes", "b_user_ptr", "b_user_idx", "b_birth",
                "b_last", "n_users")  # fmt: skip
_PRE: Final = ("b_pred_ptr", "b_pred_idx", "b_user_ptr", "b_user_idx", "n_users")
_NET: Final = ("b_next_ptr", "b_next_idx", "b_step_ptr", "b_rise", "b_least", "b_gain", "b_use_ptr", "b_use_idx",
               "b_takes")  # fmt: skip
_PART: Final = ("b_pred_ptr", "b_pred_idx", "b_user_ptr", "b_user_idx", "n_users", "b_birth", "b_last")
_FORCED: Final = (*_PART, "b_step_ptr", "b_least", "b_gain", "b_use_ptr", "b_use_idx")
_RISES: Final = ("b_user_ptr", "b_user_idx", "b_last", "b_step_ptr", "b_least", "b_gain", "b_use_ptr", "b_use_idx")
_CURSOR: Final = ("waiting", "wanted", "ran", "ready", "where")
_OF_OPS: Final = ("follow_ptr", "root", "count", "place", "head", "tail", "link", "n_in", "n_out", "first_step",
                  "last_step", "next_step", "first_use", "rise", "least", "gain", "alive_at", "number", "b_pred_ptr",
                  "b_next_ptr", "b_step_ptr", "b_rise", "b_least", "b_gain", "b_use_ptr", "waiting", "ran", "ready",
                  "where", "age", "latest", "level", "need", "load", "part", "sequence", "log")  # fmt: skip
_OF_EDGES: Final = ("follow_idx", "next_use", "weight", "b_pred_idx", "b_next_idx", "b_use_idx", "b_takes",
                    "b_user_idx")  # fmt: skip
_OF_GROUPS: Final = ("node", "b_user_ptr", "b_birth", "b_last", "n_users", "wanted")
