"""Labels: what the two ends of a chain of slots do to budgets, merged where they are alike, and met in the middle.

A *tail*, some last slots with their options, is told apart by a vector of integers: sums, and peaks less their
budgets. A *front*, some first slots, is told apart by a vector of the same columns: what it leaves of each budget,
negated. Front and tail together keep all budgets if their vectors add up to 0 or less everywhere. One step further
changes either vector in the same way, by sums and maxima, so that one kernel carries both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cnnlive._kernels import labels as kernels
from cnnlive._types import F64, I64, column, frozen
from cnnlive.nas.fragment import NONE
from cnnlive.nas.trellis import Question

__all__ = ["FAR", "Layer", "Meeting", "Problem", "Progress", "Term", "TooManyError", "carried", "reduce"]

#: No budget is as large.
FAR: Final = 1 << 62
_BIG: Final = 1 << 60  # what stands for an amount without a bound in a vector
_UNMET: Final = 1 << 61  # bounds of nodes that nothing leads to
_LIMB: Final = 40
_EMPTY: Final = -(1 << 63)
_LEAF: Final = 16
_CHUNK: Final = 1 << 21  # labels that a kernel carries before Python looks at the keyboard: a quarter of a second
_TIMES: Final = 1 << 22
_STEPS: Final = 1 << 15  # carried into one table
_STRIDE: Final = 1 << 9
_BLOCK: Final = 512  # labels carried at a time, column by column
_SOME: Final = 1 << 16  # samples drawn at a time
_BELOW: Final = 1 - 2**-53
_CALL: Final = 4000  # steps that take as long as two binary searches over the arcs of a node


class TooManyError(Exception):
    """More labels than may be kept."""


@dataclass(frozen=True, eq=False)
class Term:
    """One amount that a budget bounds: a sum, or a peak on top of sums, and `once`.

    Attributes
    ----------
    adds : tuple of (name, factor, divisor)
        Sums of the question; each step's number is divided, rounded down, before it is multiplied.
    peak : str
        "": none.
    budget : int
        `FAR`: none is set.
    once : int
        Added to the amount.
    group : str
        Without a budget: the metric whose value the amount is part of, and which has to stay known.
    """

    adds: tuple[tuple[str, int, int], ...]
    peak: str = ""
    budget: int = FAR
    once: int = 0
    group: str = ""


@dataclass(eq=False)
class Layer:
    """The steps of one slot between nodes: a state, the state as seen from behind, and genes that are still open."""

    left: I64
    right: I64
    raw: I64
    numbers: I64  # (n_arcs, width)
    n_left: int
    n_right: int


# ------------------------------------------------------------------ what has to be told apart


@dataclass(eq=False)
class _Top:
    """A peak in the making: what leads before it, and its own bytes on top of each sum behind; less its budget."""

    lead: list[I64]
    own: dict[int, list[I64]]
    end: int
    group: str


@dataclass(eq=False)
class Problem:
    """Vectors that have to be told apart, and the steps between them.

    Attributes
    ----------
    left, right : list of (n_arcs,) int64
        Nodes of each layer's arcs: steps of equal nodes and numbers are one arc.
    times : list of (n_arcs,) int64
        How many steps an arc stands for.
    member_ptr, member : lists of int64 arrays
        Which steps.
    gain : list of (n_arcs, width) int64
    own : list of (n_arcs, n_entries) int64
    peak, tail : (n_entries,) int64
        Column of the peak that an entry raises, and of the sum that it lies on; -1: none.
    nodes : list of int
        Number of nodes at each boundary.
    end : (width,) int64
        Vector of an empty tail.
    front : (2, width) int64
        Least and largest vector of an empty front; they differ where nothing says what is left.
    tail_least, tail_largest, front_least, front_largest : lists of (n_nodes, width) int64
        Bounds of the vectors of what can be completed within the budgets.
    """

    left: list[I64]
    right: list[I64]
    times: list[I64]
    member_ptr: list[I64]
    member: list[I64]
    gain: list[I64]
    own: list[I64]
    peak: I64
    tail: I64
    nodes: list[int]
    end: I64
    front: I64
    tail_least: list[I64] = field(default_factory=list)
    tail_largest: list[I64] = field(default_factory=list)
    front_least: list[I64] = field(default_factory=list)
    front_largest: list[I64] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Columns of a vector."""
        return len(self.end)

    def tail_range(self, i: int) -> tuple[I64, I64]:
        """Return what raises and what drops vectors of tails at boundary i, by node."""
        low = np.minimum(-self.front_largest[i], self.tail_largest[i])
        return column(np.maximum(low, NONE)), column(-self.front_least[i])

    def front_range(self, i: int) -> tuple[I64, I64]:
        """Return what raises and what drops vectors of fronts at boundary i, by node."""
        low = np.minimum(-self.tail_largest[i], self.front_largest[i])
        return column(np.maximum(low, NONE)), column(-self.tail_least[i])


def carried(vectors: I64, gain: I64, own: I64, source: I64, target: I64) -> I64:
    """Return vectors (n, width) carried over one arc each; entries without a target are left out."""
    out: I64 = vectors + gain
    for e, (s, t) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        if t >= 0:
            np.maximum(out[:, t], own[:, e] + (vectors[:, s] if s >= 0 else 0), out=out[:, t])
    return np.maximum(out, NONE)


def reduce(question: Question, layers: Sequence[Layer], terms: Sequence[Term]) -> Problem:
    """Return as few columns, entries and arcs as tell members apart that budgets tell apart.

    Peaks with the same lead are one, whatever they lie on; a sum that no peak lies on is a peak without bytes of its
    own. What no member exceeds is left out, and so is what another column or the rest of a peak exceeds first.
    """
    sums, tops, budgets = _columns(question, layers, terms)
    problem = _assembled(layers, sums, tops, budgets)
    for _ in range(3):
        _bound(problem, living=False)
        _drop_arcs(problem)
        _bound(problem, living=False)
        problem = _without_idle(problem)
    _bound(problem, living=True)
    return _merged(problem)


def _columns(
    question: Question, layers: Sequence[Layer], terms: Sequence[Term]
) -> tuple[list[list[I64]], list[_Top], list[int]]:
    place = {name: k for k, name in enumerate(question.adds)}

    def total(adds: Sequence[tuple[str, int, int]]) -> list[I64]:
        return [
            sum((factor * (layer.numbers[:, place[name]] // divisor) for name, factor, divisor in adds),
                start=np.zeros(len(layer.left), np.int64))
            for layer in layers
        ]  # fmt: skip

    sums: list[list[I64]] = []
    known: dict[bytes, int] = {}

    def number(gains: list[I64]) -> int:
        if not any(g.any() for g in gains):
            return -1
        key = np.concatenate(gains).tobytes()
        if key not in known:
            known[key] = len(sums)
            sums.append(gains)
        return known[key]

    tops: dict[tuple[str, bytes], _Top] = {}

    def add(lead: list[I64], own: Mapping[int, list[I64]], end: int, group: str) -> None:
        top = tops.setdefault((group, np.concatenate(lead).tobytes()), _Top(lead, {}, NONE, group))
        top.end = max(top.end, end)
        for k, entry in own.items():
            before = top.own.get(k)
            top.own[k] = [np.maximum(a, b) for a, b in zip(before, entry, strict=True)] if before else entry

    for term in terms:
        if term.peak:
            j = question.peaks.index(term.peak)
            base, at = total(term.adds), len(question.adds) + 2 * j
            behind = question.tail[j]
            form = (*term.adds, (question.adds[behind], 1, 1)) if behind >= 0 else term.adds
            less = term.once - (term.budget if not term.group else 0)
            own = [_less(layer.numbers[:, at], b, less) for layer, b in zip(layers, base, strict=True)]
            lead = [layer.numbers[:, at + 1] + b for layer, b in zip(layers, base, strict=True)]
            add(lead, {number(total(form)): own}, NONE, term.group)
    budgets = [FAR] * len(sums)
    alone: list[tuple[list[I64], int]] = []
    for term in terms:
        if not term.peak:
            gains, room = total(term.adds), term.budget - term.once
            key = np.concatenate(gains).tobytes()
            if term.group:
                add(gains, {}, term.once, term.group)
            elif key in known:
                budgets[known[key]] = min(budgets[known[key]], room)
            elif ("", key) in tops:
                add(gains, {}, -room, "")
            else:
                alone.append((gains, room))
    for gains, room in alone:
        # Sums that are multiples of one another are one.
        unit = max(1, gcd(*(int(np.gcd.reduce(g)) for g in gains)))
        add([g // unit for g in gains], {}, -(room // unit), "")
    return sums, list(tops.values()), budgets


def _less(own: I64, base: I64, less: int) -> I64:
    found: I64 = np.where(own > NONE // 2, own + base + less, NONE)
    return found


def _assembled(layers: Sequence[Layer], sums: list[list[I64]], tops: list[_Top], budgets: list[int]) -> Problem:
    columns = [*sums, *(top.lead for top in tops)]
    entries = [(len(sums) + j, k, own) for j, top in enumerate(tops) for k, own in top.own.items()]
    n = [len(layer.left) for layer in layers]
    gain = [_stacked([c[i] for c in columns], n[i]) for i in range(len(layers))]
    own = [_stacked([e[2][i] for e in entries], n[i]) for i in range(len(layers))]
    start = np.array([*(-min(b, _BIG) for b in budgets), *(_BIG if top.group else 0 for top in tops)], np.int64)
    low = np.array([*start[: len(sums)], *(-_BIG if top.group else 0 for top in tops)], np.int64)
    return Problem(
        [layer.left for layer in layers], [layer.right for layer in layers], [np.ones(k, np.int64) for k in n],
        [np.arange(k + 1) for k in n], [np.arange(k) for k in n], gain, own,
        np.array([p for p, _, _ in entries], np.int64), np.array([k for _, k, _ in entries], np.int64),
        [layers[0].n_left, *(layer.n_right for layer in layers)],
        np.array([*(0 for _ in sums), *(top.end for top in tops)], np.int64), np.stack([low, start]),
    )  # fmt: skip


def _stacked(columns: Sequence[I64], n: int) -> I64:
    return np.stack(columns, axis=1) if columns else np.zeros((n, 0), np.int64)


def _bound(problem: Problem, living: bool) -> None:
    """Fill the bounds of vectors by node: of all, or of those `living` that some other end completes.

    Only the former tell which entries may go: what an entry rules out is not among the living.
    """
    p, n = problem, len(problem.left)
    for turn in range(2 if living else 1):
        for largest in (False, True):
            pick = np.maximum if largest else np.minimum
            now = np.tile(p.end, (p.nodes[n], 1))
            found = [now]
            for i in range(n - 1, -1, -1):
                out = np.full((p.nodes[i], p.width), -_UNMET if largest else _UNMET, np.int64)
                pick.at(out, p.left[i], carried(now[p.right[i]], p.gain[i], p.own[i], p.tail, p.peak))
                now = np.minimum(out, -p.front_least[i]) if largest and turn else out
                found.insert(0, now)
            if largest:
                p.tail_largest = found
            else:
                p.tail_least = found
        for largest in (False, True):
            pick = np.maximum if largest else np.minimum
            now = p.front[int(largest)][None].copy()
            found = [now]
            for i in range(n):
                out = np.full((p.nodes[i + 1], p.width), -_UNMET if largest else _UNMET, np.int64)
                pick.at(out, p.right[i], carried(now[p.left[i]], p.gain[i], p.own[i], p.peak, p.tail))
                now = np.minimum(out, -p.tail_least[i + 1]) if largest and living else out
                found.append(now)
            if largest:
                p.front_largest = found
            else:
                p.front_least = found


def _drop_arcs(problem: Problem) -> None:
    """Leave out arcs that no front and no tail bring within the budgets."""
    p = problem
    for i in range(len(p.left)):
        behind = carried(p.tail_least[i + 1][p.right[i]], p.gain[i], p.own[i], p.tail, p.peak)
        ahead = p.front_least[i][p.left[i]]
        kept = (behind + ahead <= 0).all(axis=1)
        p.left[i], p.right[i], p.gain[i], p.own[i] = p.left[i][kept], p.right[i][kept], p.gain[i][kept], p.own[i][kept]
        p.member[i] = p.member[i][kept]


def _without_idle(problem: Problem) -> Problem:
    """Leave out entries that never decide, peaks that no member exceeds, and sums that nothing reads."""
    p = problem
    of_peak = {int(j): np.flatnonzero(p.peak == j).tolist() for j in set(p.peak.tolist())}
    own = [o.copy() for o in p.own]
    # A sum that is nowhere more than another, step by step; the last row and column: no sum.
    gains = np.concatenate(p.gain)
    gains = np.concatenate([gains, np.zeros((len(gains), 1), np.int64)], axis=1)
    on = sorted({*p.tail.tolist(), -1})
    less = {(a, b): bool((gains[:, a] <= gains[:, b]).all()) for a in on for b in on}
    for i in range(len(p.left)):
        zero = np.zeros((p.nodes[i + 1], 1), np.int64)
        low = np.concatenate([p.tail_least[i + 1], zero], axis=1)[p.right[i]]
        high = np.concatenate([p.tail_largest[i + 1], zero], axis=1)[p.right[i]]
        for j, entries in of_peak.items():
            for e in entries:
                value = own[i][:, e] + high[:, p.tail[e]]
                idle = value + p.front_largest[i][p.left[i], j] <= 0
                idle |= value <= p.gain[i][:, j] + low[:, j]
                for other in entries:
                    if other != e:
                        idle |= value <= own[i][:, other] + low[:, p.tail[other]]
                        if less[int(p.tail[e]), int(p.tail[other])]:
                            idle |= own[i][:, e] <= own[i][:, other]
                own[i][idle, e] = NONE
    front = p.front.copy()
    kept = np.ones(p.width, bool)
    never = p.tail_largest[0][0] + front[1] <= 0
    used = [e for e in range(len(p.peak)) if not never[p.peak[e]] and any((o[:, e] > NONE).any() for o in own)]
    lies_on = {int(p.tail[e]) for e in used}
    for c in range(p.width):
        if never[c]:
            kept[c] = c in lies_on
            front[:, c] = np.minimum(front[:, c], -_BIG)
    number = np.append(np.cumsum(kept) - 1, -1)
    return Problem(
        p.left, p.right, p.times, p.member_ptr, p.member, [g[:, kept] for g in p.gain], [o[:, used] for o in own],
        number[p.peak[used]], number[p.tail[used]], p.nodes, p.end[kept], front[:, kept],
    )  # fmt: skip


def _merged(problem: Problem) -> Problem:
    """Make steps of equal nodes and numbers one arc, and every array one that kernels read."""
    p = problem
    if not p.width:
        p.gain = [np.zeros((len(a), 1), np.int64) for a in p.left]
        p.end, p.front = np.zeros(1, np.int64), np.zeros((2, 1), np.int64)
        zero = [np.zeros((k, 1), np.int64) for k in p.nodes]
        p.tail_least, p.tail_largest, p.front_least, p.front_largest = zero, zero, zero, zero
    for i in range(len(p.left)):
        key = np.concatenate([p.left[i][:, None], p.right[i][:, None], p.gain[i], p.own[i]], axis=1)
        _, first, group = np.unique(key, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(group.reshape(-1), kind="stable")
        steps = p.member[i]
        ptr = np.concatenate([[0], np.cumsum(np.bincount(group.reshape(-1), minlength=len(first)))])
        if len(first) and np.diff(ptr).max() >= _TIMES:
            first, order, ptr = np.arange(len(key)), np.arange(len(key)), np.arange(len(key) + 1)
        p.left[i], p.right[i] = column(p.left[i][first]), column(p.right[i][first])
        p.gain[i], p.own[i] = column(p.gain[i][first]), column(p.own[i][first])
        p.times[i], p.member_ptr[i], p.member[i] = column(np.diff(ptr)), column(ptr), column(steps[order])
    p.peak, p.tail = column(p.peak), column(p.tail)
    return p


# ------------------------------------------------------------------ how far it is


class Progress:
    """A bar on a terminal, from half a second on."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._since = time.monotonic()
        self._bar: Any = None
        self._wanted = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, done: float) -> None:
        """Show how much is done."""
        if not self._wanted:
            return
        if self._bar is None:
            if time.monotonic() - self._since < 0.5:
                return
            from rich.console import Console  # noqa: PLC0415 - only where something is shown
            from rich.progress import Progress as Bar  # noqa: PLC0415

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.add_task(self.what, total=self.total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)


# ------------------------------------------------------------------ labels of both ends


@dataclass(eq=False)
class _Steps:
    """Arcs of one layer in one direction, those that lead to a node together."""

    ptr: list[int]  # by node
    arc: I64
    origin: I64
    gain: I64
    own: I64
    times: I64
    source: I64
    target: I64
    low: I64
    high: I64


@dataclass(eq=False)
class _Boundary:
    """Labels of one boundary: vectors and counts, those of a node together, rising in column `by`; -1: in none."""

    rows: I64
    ptr: I64
    by: int

    def weights(self, width: int) -> F64:
        """Return the counts, rounded to 53 bits."""
        return _rounded(self.rows[:, width:])


def _rounded(limbs: I64) -> F64:
    value = np.zeros(len(limbs))
    for k in range(limbs.shape[1] - 1, -1, -1):
        value = value * float(1 << _LIMB) + limbs[:, k]
    value.setflags(write=False)
    return value


@dataclass(eq=False)
class _Tails:
    """Labels of one node seen along some columns: in an order in which neighbours lie close, and summed up.

    Along one column ``points`` rise, and ``share`` is the running sum of weights, 0 in front. Along several they are
    leaves of a tree (see :func:`cnnlive._kernels.labels.boxes`).
    """

    row: I64  # of the boundary
    points: I64
    limbs: I64
    whole: int
    share: F64 | None = None
    tree: tuple[I64, I64, I64] | None = None


class Meeting:
    """Labels of fronts and tails, met at the boundary where they are few.

    Parameters
    ----------
    problem : Problem
    most_labels, most_bytes : int
        At one boundary, and of all that is kept.

    Raises
    ------
    TooManyError
        With the number of labels.

    Notes
    -----
    Either end is carried on while that costs less than carrying on the other; with s slots of k options each and
    few equal labels, O(k^(s/2)) instead of O(k^s).
    """

    def __init__(self, problem: Problem, most_labels: int, most_bytes: int) -> None:
        self.problem = problem
        self.most_labels, self.most_bytes = most_labels, most_bytes
        p, n = problem, len(problem.left)
        self._fronts_paths, self._tails_paths = _paths(p)
        self.fronts: dict[int, _Boundary] = {0: self._first(column(p.front[1][None]), 1)}
        end = column(np.tile(p.end, (p.nodes[n], 1)))
        self.tails: dict[int, _Boundary] = {n: self._first(end, p.nodes[n])}
        a, b = 0, n
        with Progress("counting", n) as bar:
            while a < b:
                ahead = self._cost(self.fronts[a], p.left[a])
                behind = self._cost(self.tails[b], p.right[b - 1])
                done = n - (b - a)
                if ahead < behind:
                    self.fronts[a + 1] = self._carry(self.fronts[a], self._steps(a, True), a + 1, True, bar, done)
                    a += 1
                else:
                    self.tails[b - 1] = self._carry(self.tails[b], self._steps(b - 1, False), b - 1, False, bar, done)
                    b -= 1
                if b - a == 1 and self._is_line(a):
                    break
            self.front_at, self.tail_at = a, b
            self._seen: dict[tuple[int, tuple[int, ...]], _Tails] = {}
            self._sums: dict[int, int] = {}
            self._bounds: tuple[I64, I64, I64] | None = None
            self._across = self._crossing()
            self.total, self.weight = self._joined(bar)

    @property
    def _scratch(self) -> tuple[I64, I64, I64]:
        """What a kernel carries a block of labels in; anew for each call, which may be on any thread."""
        return (
            np.empty((self.problem.width, _BLOCK), np.int64), np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64),
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes of labels that are kept."""
        return sum(b.rows.nbytes for side in (self.fronts, self.tails) for b in side.values())

    def _first(self, vectors: I64, n: int) -> _Boundary:
        rows = np.concatenate([vectors, np.ones((n, 1), np.int64)], axis=1)
        return _Boundary(column(rows), column(np.arange(n + 1)), 0)

    def _cost(self, labels: _Boundary, origin: I64) -> int:
        return int(np.diff(labels.ptr)[origin].sum())

    def _steps(self, i: int, forward: bool) -> _Steps:
        p = self.problem
        origin, node, at = (p.left[i], p.right[i], i + 1) if forward else (p.right[i], p.left[i], i)
        arc = np.argsort(node, kind="stable")
        ptr = np.searchsorted(node[arc], np.arange(p.nodes[at] + 1)).tolist()
        low, high = p.front_range(at) if forward else p.tail_range(at)
        source, target = (p.peak, p.tail) if forward else (p.tail, p.peak)
        return _Steps(ptr, arc, column(origin[arc]), column(p.gain[i][arc]), column(p.own[i][arc]),
                      column(p.times[i][arc]), source, target, low, high)  # fmt: skip

    def _carry(self, labels: _Boundary, steps: _Steps, at: int, forward: bool, bar: Progress, done: int) -> _Boundary:
        """Return the labels one boundary further."""
        p = self.problem
        limbs = _limbs(max((self._fronts_paths if forward else self._tails_paths)[at], default=1))
        found, ptr, n = [np.zeros((0, p.width + limbs), np.int64)], [0], 0
        kept = self.nbytes
        state = np.zeros(3, np.int64)
        begin, end = np.zeros(len(steps.arc), np.int64), np.zeros(len(steps.arc), np.int64)
        for node in range(p.nodes[at]):
            first, last = steps.ptr[node], steps.ptr[node + 1]
            begin[first:last] = labels.ptr[steps.origin[first:last]]
            for bound in self._ranges(labels, steps, node):
                self._cut(labels, steps, node, bound, end)
                n_steps = int((end[first:last] - begin[first:last]).sum())
                table = _table(min(n_steps + 2, 1 << 16), p.width + limbs)
                state[:] = (first, 0, 0)
                while True:
                    status = kernels.fill(
                        labels.rows, begin, end, last, steps.gain, steps.own, steps.times, steps.source, steps.target,
                        steps.low, steps.high, node, *self._scratch, table, state, _CHUNK,
                    )  # fmt: skip
                    known = n + int(state[2])
                    if known > self.most_labels or kept + known * 8 * table.shape[1] > self.most_bytes:
                        raise TooManyError(known)
                    if status == 0:
                        break
                    if status == 1:
                        table = self._entered(frozen(table[table[:, 0] != _EMPTY]), len(table) * 4)
                    bar.at(done + (node + 0.5) / p.nodes[at])
                used = np.flatnonzero(table[:, 0] != _EMPTY)
                if labels.by >= 0:
                    used = used[np.argsort(table[used, labels.by])]
                found.append(table[used])
                n += len(used)
                begin[first:last] = end[first:last]
            ptr.append(n)
            bar.at(done + (node + 1) / p.nodes[at])
        return self._sorted(frozen(np.concatenate(found)), column(ptr), labels.by, steps)

    def _ranges(self, labels: _Boundary, steps: _Steps, node: int) -> list[int]:
        """Return bounds between which the labels of a node are made, so that each table stays in a cache.

        They are of the column in which the labels that come in rise, and of what that is once it has been carried.
        """
        arcs = slice(steps.ptr[node], steps.ptr[node + 1])
        origin = steps.origin[arcs]
        begin, end = labels.ptr[origin], labels.ptr[origin + 1]
        if labels.by < 0 or (end - begin).sum() <= 2 * _STEPS:
            return [FAR]
        parts = [labels.rows[a:b:_STRIDE, labels.by] + g
                 for a, b, g in zip(begin, end, steps.gain[arcs, labels.by], strict=True)]  # fmt: skip
        values = np.sort(np.concatenate(parts))[:: _STEPS // _STRIDE]
        low, high = int(steps.low[node, labels.by]), int(steps.high[node, labels.by])
        values = np.unique(values[(values > low) & (values <= high)])
        return [*values.tolist(), high + 1]

    def _cut(self, labels: _Boundary, steps: _Steps, node: int, bound: int, out: I64) -> None:
        """Fill for each arc to a node: where the labels begin that it carries to the bound or beyond."""
        first, last = steps.ptr[node], steps.ptr[node + 1]
        if bound >= FAR:
            out[first:last] = labels.ptr[steps.origin[first:last] + 1]
            return
        kernels.cut(labels.rows, labels.ptr, first, last, steps.origin, steps.gain, steps.own, steps.source,
                    steps.target, labels.by, bound, out)  # fmt: skip

    def _sorted(self, rows: I64, ptr: I64, by: int, steps: _Steps) -> _Boundary:
        """Sort the labels of each node along the column that tells most apart and keeps its order when carried on.

        A column does if what entries raise it to is the same for all labels of a node.
        """
        if not len(rows):
            return _Boundary(rows, ptr, 0)
        vectors = rows[:, : self.problem.width]
        varies = _varies(_Boundary(rows, ptr, by))[: self.problem.width]
        aims = {(int(t), int(s)) for s, t in zip(steps.source, steps.target, strict=True)}
        fine = [c for c in range(len(varies)) if not any(t == c and s >= 0 and varies[s] for t, s in aims)]
        if not fine:
            return _Boundary(rows, ptr, -1)
        some = vectors[:: max(1, len(vectors) // 10_000)]
        best = max(fine, key=lambda c: len(np.unique(some[:, c])))
        if best != by:
            rows = frozen(np.concatenate([part[np.argsort(part[:, best])] for part in np.split(rows, ptr[1:-1])]))
        return _Boundary(rows, ptr, best)

    def _entered(self, rows: I64, capacity: int) -> I64:
        """Return a table of labels that are all different."""
        width = self.problem.width
        table = _table(capacity, rows.shape[1])
        state = np.zeros(3, np.int64)
        begin, end = np.zeros(1, np.int64), np.full(1, len(rows))
        while kernels.fill(
            rows, begin, end, 1, column(np.zeros((1, width))), column(np.zeros((1, 0))), column([1]), column([]),
            column([]), *_wide(width), 0, *self._scratch, table, state, _CHUNK,
        ):  # fmt: skip
            pass
        return table

    # -------------------------------------------------------------- the middle

    def _is_line(self, i: int) -> bool:
        """Whether the labels in front of layer i and behind it differ along one column each, in which they rise."""
        fronts, tails = self.fronts[i], self.tails[i + 1]
        if fronts.by != tails.by or fronts.by < 0 or not len(fronts.rows) or not len(tails.rows):
            return False
        others = [c for c in range(self.problem.width) if c != fronts.by]
        return not (_varies(fronts)[others].any() or _varies(tails)[others].any())

    def _crossing(self) -> _Steps:
        """Return the arcs from fronts to tails, by node in front: those of a layer, or of each node to itself."""
        p, i = self.problem, self.front_at
        if self.tail_at > i:
            arc = np.argsort(p.left[i], kind="stable")
            ptr = np.searchsorted(p.left[i][arc], np.arange(p.nodes[i] + 1)).tolist()
            return _Steps(ptr, arc, p.right[i][arc], column(p.gain[i][arc]), column(p.own[i][arc]),
                          column(p.times[i][arc]), p.peak, p.tail, p.end, p.end)  # fmt: skip
        n, none = p.nodes[i], column([])
        return _Steps(list(range(n + 1)), np.arange(n), np.arange(n), np.zeros((n, p.width), np.int64),
                      np.zeros((n, 0), np.int64), np.ones(n, np.int64), none, none, p.end, p.end)  # fmt: skip

    def _asked(self, vectors: I64, k: int) -> I64:
        """Return vectors of fronts carried over arc k of those that cross; what may not be there fits nothing."""
        steps = self._across
        out = carried(vectors, steps.gain[k], steps.own[k : k + 1], steps.source, steps.target)
        for e, (s, t) in enumerate(zip(steps.source.tolist(), steps.target.tolist(), strict=True)):
            if t < 0:
                out[vectors[:, s] + steps.own[k, e] > 0] = _BIG << 1
        return out

    def _joined(self, bar: Progress) -> tuple[int, F64]:
        """Return how many pairs of fronts and tails fit, and the weight of each front times its tails."""
        p, steps = self.problem, self._across
        fronts, done = self.fronts[self.front_at], len(p.left) - 1
        found, weight = 0, np.zeros(len(fronts.rows))
        line = self.tail_at > self.front_at
        for node in range(len(fronts.ptr) - 1):
            f, f_end = fronts.ptr[node : node + 2].tolist()
            arcs = range(steps.ptr[node], steps.ptr[node + 1])
            for k in arcs if f < f_end else ():
                if line:
                    found += self._line(f, f_end, k, weight)
                else:
                    found += self._plane(f, f_end, k, weight)
                bar.at(done + (node + (k + 1 - arcs.start) / len(arcs)) / (len(fronts.ptr) - 1))
        weight *= fronts.weights(p.width)
        return found, weight

    def _line(self, f: int, f_end: int, k: int, weight: F64) -> int:
        """Return the pairs over one arc where labels differ along one column each."""
        steps, width = self._across, self.problem.width
        fronts, tails = self.fronts[self.front_at].rows, self.tails[self.tail_at]
        t, t_end = tails.ptr[steps.origin[k] : steps.origin[k] + 2].tolist()
        if t == t_end:
            return 0
        whole = self._whole(int(steps.origin[k]))
        left, at = _as_limbs(whole, _limbs(whole)), np.full(1, t_end - t)
        out = np.zeros(len(left) + fronts.shape[1] - width + 1, np.int64)
        while f < f_end:
            f = kernels.cross(fronts, f, f_end, tails.rows, t, tails.by, steps.gain, steps.own, steps.times, k,
                              steps.source, steps.target, at, left, 8 * _CHUNK, weight, out)  # fmt: skip
        found = sum(int(v) << (_LIMB * j) for j, v in enumerate(out.tolist()))
        return found * int(steps.times[k])

    def _whole(self, node: int) -> int:
        """Return the sum of the counts of a node's tails."""
        found = self._sums.get(node)
        if found is None:
            tails, width = self.tails[self.tail_at], self.problem.width
            limbs = tails.rows[tails.ptr[node] : tails.ptr[node + 1], width:]
            found = self._sums[node] = _product(limbs, np.ones((len(limbs), 1), np.int64))
        return found

    def _plane(self, f: int, f_end: int, k: int, weight: F64) -> int:
        """Return the pairs over one arc, whatever labels look like."""
        p, steps, fronts = self.problem, self._across, self.fronts[self.front_at].rows
        query = self._asked(fronts[f:f_end, : p.width], k)
        node, times = int(steps.origin[k]), int(steps.times[k])
        columns = self._columns(query, node)
        if columns is None:
            return 0
        limbs = fronts[f:f_end, p.width :]
        if not columns:
            weight[f:f_end] += float(times) * float(self._whole(node))
            return times * self._whole(node) * _product(limbs, np.ones((len(limbs), 1), np.int64))
        sums = self._weighed(self._tails_of(node, columns), query[:, columns])
        weight[f:f_end] += float(times) * _rounded(sums)
        return times * _product(limbs, sums)

    def _columns(self, query: I64, node: int) -> tuple[int, ...] | None:
        """Return the columns along which some of the queries leave some of a node's tails out; None: none fits."""
        tails, width = self.tails[self.tail_at], self.problem.width
        if self._bounds is None:
            begin = tails.ptr[:-1][np.diff(tails.ptr) > 0]
            number = np.cumsum(np.diff(tails.ptr) > 0) - 1
            vectors = tails.rows[:, :width]
            least, largest = (
                (f.reduceat(vectors, begin) for f in (np.minimum, np.maximum)) if len(begin) else (vectors,) * 2
            )
            self._bounds = (number, least, largest)
        if not len(query) or tails.ptr[node] == tails.ptr[node + 1]:
            return None
        number, least, largest = self._bounds
        if (query.min(axis=0) + least[number[node]] > 0).any():
            return None
        return tuple(np.flatnonzero(query.max(axis=0) + largest[number[node]] > 0).tolist())

    def _tails_of(self, node: int, columns: tuple[int, ...]) -> _Tails:
        found = self._seen.get((node, columns))
        if found is not None:
            return found
        width, tails = self.problem.width, self.tails[self.tail_at]
        t, t_end = tails.ptr[node : node + 2].tolist()
        rows = tails.rows[t:t_end]
        ones = np.ones((len(rows), 1), np.int64)
        if not columns:
            found = _Tails(np.arange(t, t_end), ones, rows[:, width:], self._whole(node))
        else:
            in_order = columns == (tails.by,)
            order = np.arange(len(rows)) if in_order else _curve(rows[:, columns])
            points, limbs = column(rows[:, columns][order]), column(rows[:, width:][order])
            found = _Tails(t + order, points, limbs, self._whole(node))
        if len(columns) > 1:
            half = 1
            while half * _LEAF < len(points):
                half *= 2
            least, largest = np.empty((2 * half, len(columns)), np.int64), np.empty((2 * half, len(columns)), np.int64)
            total = np.empty((2 * half, _limbs(found.whole)), np.int64)
            kernels.boxes(points, limbs, _LEAF, least, largest, total)
            found.tree = (frozen(least), frozen(largest), frozen(total))
        else:
            found.share = np.concatenate([[0.0], np.cumsum(_rounded(found.limbs))])
        self._seen[node, columns] = found
        return found

    def _weighed(self, seen: _Tails, query: I64) -> I64:
        """Return for each query the sum of the counts of the tails that fit, in limbs."""
        sums = np.empty((len(query), _limbs(seen.whole)), np.int64)
        if seen.tree is not None:
            turn, stack = _curve(query), np.empty(128, np.int64)
            given, tree = column(query[turn]), seen.tree
            _in_chunks(len(query), lambda a, b: kernels.weigh(seen.points, seen.limbs, _LEAF, *tree, given, a, b, stack,
                                                              sums))  # fmt: skip
            out = np.empty_like(sums)
            out[turn] = sums
            return out
        rises = bool((query[1:] >= query[:-1]).all())
        turn = np.arange(len(query)) if rises else np.argsort(query[:, 0])
        given, at = column(query if rises else query[turn]), np.full(1, len(seen.points))
        left = _as_limbs(seen.whole, sums.shape[1])
        _in_chunks(len(query), lambda a, b: kernels.sweep(seen.points, seen.limbs, given, a, b, at, left, sums))
        if rises:
            return sums
        out = np.empty_like(sums)
        out[turn] = sums
        return out

    # -------------------------------------------------------------- members

    def draw(self, n: int, rng: np.random.Generator) -> list[I64] | None:
        """Draw members that fit: for every layer, the step (n,) of each; None: there are none."""
        p, m, across = self.problem, self.front_at, self._across
        if not self.total:
            return None
        share = np.cumsum(self.weight)
        # The first whose running sum is above what was drawn: never one of weight 0.
        front = np.searchsorted(share, np.minimum(rng.random(n), _BELOW) * share[-1], side="right")
        front.sort()
        tail, crossed = np.empty(n, np.int64), np.empty(n, np.int64)
        fronts = self.fronts[m]
        node_of = np.searchsorted(fronts.ptr, front, side="right") - 1
        for node in np.unique(node_of).tolist():
            mine = np.flatnonzero(node_of == node)
            for some in np.array_split(mine, len(mine) // _SOME + 1):
                vectors, of = np.unique(front[some], return_inverse=True)
                vectors = fronts.rows[vectors, : p.width]
                first, last = across.ptr[node], across.ptr[node + 1]
                each = np.zeros((len(vectors), last - first))
                asked: list[tuple[_Tails, I64] | None] = []
                for k in range(first, last):
                    query = self._asked(vectors, k)
                    columns = self._columns(query, int(across.origin[k]))
                    if columns is None:
                        asked.append(None)
                        continue
                    seen = self._tails_of(int(across.origin[k]), columns)
                    asked.append((seen, query[:, columns]))
                    sums = np.full(len(query), float(seen.whole)) if not columns else _rounded(
                        self._weighed(seen, query[:, columns]))  # fmt: skip
                    each[:, k - first] = float(across.times[k]) * sums
                shares = np.cumsum(each, axis=1)
                drawn = np.minimum(rng.random(len(some)), _BELOW) * shares[of, -1]
                arc = (shares[of] <= drawn[:, None]).sum(axis=1)
                for k, found in enumerate(asked):
                    here = np.flatnonzero(arc == k)
                    if found is None or not len(here):
                        continue
                    goal = rng.random(len(here)) * (each[of[here], k] / float(across.times[first + k]))
                    tail[some[here]] = self._picked(found[0], found[1][of[here]], goal)
                crossed[some] = across.arc[first + arc]
        steps: list[I64] = [np.zeros(0, np.int64)] * len(p.left)
        with Progress("drawing", len(p.left)) as bar:
            for i in range(m - 1, -1, -1):
                front = self._trace(front, self.fronts, i + 1, i, True, steps, rng)
                bar.at(m - i)
            if self.tail_at > m:
                steps[m] = self._members(m, crossed, rng)
            for i in range(self.tail_at, len(p.left)):
                tail = self._trace(tail, self.tails, i, i + 1, False, steps, rng)
                bar.at(i + 1)
        return steps

    def _trace(
        self, label: I64, side: Mapping[int, _Boundary], at: int, to: int, forward: bool, out: list[I64],
        rng: np.random.Generator,
    ) -> I64:  # fmt: skip
        """Choose the step that leads to each label at one boundary; return the labels where they begin."""
        p, i = self.problem, min(at, to)
        steps, here, there = self._steps(i, forward), side[at], side[to]
        wanted, of = np.unique(label, return_inverse=True)
        weight = there.weights(p.width)
        goal = rng.random(len(label)) * _rounded(here.rows[wanted, p.width :])[of]
        order = np.lexsort((goal, of))
        goal = goal[order]
        goal.setflags(write=False)
        goal_ptr = column(np.concatenate([[0], np.cumsum(np.bincount(of, minlength=len(wanted)))]))
        running, done = np.zeros(len(wanted)), np.zeros(len(wanted), np.int64)
        arc, origin = np.full(len(label), -1, np.int64), np.empty(len(label), np.int64)
        node_of = np.searchsorted(here.ptr, wanted, side="right") - 1
        state = np.zeros(3, np.int64)
        begin, end = np.zeros(len(steps.arc), np.int64), np.zeros(len(steps.arc), np.int64)
        for node in np.unique(node_of).tolist():
            mine = np.flatnonzero(node_of == node)
            rows = column(np.concatenate([here.rows[wanted[mine], : p.width], mine[:, None]], axis=1))
            table = self._entered(rows, 2 * len(rows) + 2)
            first, last = steps.ptr[node], steps.ptr[node + 1]
            bounds = self._around(there, steps, node, rows)
            if bounds is None:
                begin[first:last] = there.ptr[steps.origin[first:last]]
                bounds = [(FAR, FAR)]
            for lower, upper in bounds:
                if lower < FAR:
                    self._cut(there, steps, node, lower, begin)
                self._cut(there, steps, node, upper, end)
                state[:] = (first, 0, 0)
                while kernels.trace(
                    there.rows, weight, begin, end, last, steps.gain, steps.own, steps.times, steps.source,
                    steps.target, steps.low, steps.high, node, *self._scratch, table, goal_ptr, goal, running, done,
                    arc, origin, state, _CHUNK,
                ):  # fmt: skip
                    pass
        # Where rounding kept the running sum below several goals, the last one says which step came last.
        last = goal_ptr[1:][of[order]] - 1
        short = arc < 0
        arc[short], origin[short] = arc[last[short]], origin[last[short]]
        chosen = np.empty_like(arc)
        begin = np.empty_like(arc)
        chosen[order], begin[order] = steps.arc[arc], origin
        out[i] = self._members(i, chosen, rng)
        return begin

    def _members(self, i: int, arc: I64, rng: np.random.Generator) -> I64:
        """Choose among the equal steps that arcs of layer i stand for."""
        p = self.problem
        which = (rng.random(len(arc)) * p.times[i][arc]).astype(np.int64)
        found: I64 = p.member[i][p.member_ptr[i][arc] + which]
        return found

    def _picked(self, seen: _Tails, query: I64, goal: NDArray[np.float64]) -> I64:
        """Return for each query the tail at which the sum of weights of those that fit passes its goal; as rows."""
        out = np.empty(len(query), np.int64)
        if seen.tree is None:
            assert seen.share is not None
            fitting = np.full(len(query), len(seen.row))
            if query.shape[1]:
                fitting = np.searchsorted(seen.points[:, 0], -query[:, 0], side="right")
            out[:] = np.minimum(np.searchsorted(seen.share, goal, side="right"), fitting) - 1
            return seen.row[out]
        weight, total = _rounded(seen.limbs), _rounded(seen.tree[2])
        given, stack = column(query), np.empty(128, np.int64)
        goal.setflags(write=False)
        least, largest, _ = seen.tree
        _in_chunks(len(query), lambda a, b: kernels.pick(seen.points, weight, _LEAF, least, largest, total, given, a, b,
                                                         goal, stack, out))  # fmt: skip
        return seen.row[out]

    def _around(self, there: _Boundary, steps: _Steps, node: int, rows: I64) -> list[tuple[int, int]] | None:
        """Return ranges of what labels are carried to that hold all that lead to `rows`; None: look at every step."""
        if there.by < 0:
            return None
        values = np.unique(rows[:, there.by])
        origin = steps.origin[steps.ptr[node] : steps.ptr[node + 1]]
        if len(values) * _CALL > np.diff(there.ptr)[origin].sum():
            return None
        low = int(steps.low[node, there.by])
        return [(v if v > low else NONE, v + 1) for v in values.tolist()]


def _varies(labels: _Boundary) -> NDArray[np.bool_]:
    """Return which columns, of limbs too, are not the same for all labels of each node."""
    begin = labels.ptr[:-1][np.diff(labels.ptr) > 0]
    found: NDArray[np.bool_] = (np.minimum.reduceat(labels.rows, begin) != np.maximum.reduceat(labels.rows, begin)).any(
        axis=0
    )
    return found


def _in_chunks(n: int, run: Callable[[int, int], None]) -> None:
    """Call a kernel for ranges of about a quarter of a second."""
    at, size = 0, 1024
    while at < n:
        since = time.monotonic()
        run(at, min(at + size, n))
        at += size
        took = time.monotonic() - since
        size = max(16, min(4 * size, int(size * 0.25 / max(took, 1e-6))))


def _table(capacity: int, width: int) -> I64:
    rows = 4
    while rows < capacity:
        rows *= 2
    table = np.empty((rows, width), np.int64)
    table[:, 0] = _EMPTY
    return table


def _wide(width: int) -> tuple[I64, I64]:
    return column(np.full((1, width), _EMPTY)), column(np.full((1, width), -(_EMPTY + 1)))


def _paths(p: Problem) -> tuple[list[list[int]], list[list[int]]]:
    """Return how many beginnings and ends every node has, by boundary; exact integers."""
    n = len(p.left)
    fronts: list[list[int]] = [[1]]
    for i in range(n):
        out = [0] * p.nodes[i + 1]
        for a, b, k in zip(p.left[i].tolist(), p.right[i].tolist(), p.times[i].tolist(), strict=True):
            out[b] += k * fronts[-1][a]
        fronts.append(out)
    tails: list[list[int]] = [[1] * p.nodes[n]]
    for i in range(n - 1, -1, -1):
        out = [0] * p.nodes[i]
        for a, b, k in zip(p.left[i].tolist(), p.right[i].tolist(), p.times[i].tolist(), strict=True):
            out[a] += k * tails[0][b]
        tails.insert(0, out)
    return fronts, tails


def _as_limbs(value: int, n: int) -> I64:
    return np.array([value >> (_LIMB * k) & ((1 << _LIMB) - 1) for k in range(n)], np.int64)


def _limbs(value: int) -> int:
    return max(1, -(-int(value).bit_length() // _LIMB))


def _product(a: I64, b: I64) -> int:
    """Return the sum over rows of the products of numbers in limbs."""
    half = _LIMB // 2
    found = 0
    for i in range(a.shape[1]):
        for part in (0, 1):
            x = (a[:, i] >> (half * part)) & ((1 << half) - 1)
            for j in range(b.shape[1]):
                y = x * b[:, j]  # below 2**60
                shift = _LIMB * (i + j) + half * part
                found += int((y & ((1 << 30) - 1)).sum()) << shift
                found += int((y >> 30).sum()) << (shift + 30)
    return found


def _curve(points: I64) -> I64:
    """Return an order of points (n, d) in which neighbours lie close: by value, or along a Z-order curve of ranks."""
    d = points.shape[1]
    if d == 1 or len(points) < 2:
        order: I64 = np.argsort(points[:, 0], kind="stable")
        return order
    bits = min(62 // d, 20)
    key = np.zeros(len(points), np.int64)
    for c in range(d):
        known, rank = np.unique(points[:, c], return_inverse=True)
        cell = rank.reshape(-1).astype(np.int64) * (1 << bits) // len(known)
        for bit in range(bits):
            key |= ((cell >> bit) & 1) << (bit * d + c)
    found: I64 = np.argsort(key, kind="stable")
    return found
