"""A chain of slots compiled: what every option adds, for every state it can meet, as tables that a walk reads.

Boundaries between slots have *states*: the shapes that are handed on, and what both sides have to agree on (see
:mod:`cnnlive.nas.fragment`). A *stage* is one slot, or a few neighbours joined: for every state in front, every
combination of its genes' values and every state behind, which state follows and what the step adds.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cnnlive._kernels.trellis import narrow, walk, walk_one
from cnnlive._types import I16, I64, Columns, column, frozen
from cnnlive.errors import CnnliveError, GraphError, SpaceError
from cnnlive.nas.base import Metric, Setting
from cnnlive.nas.fragment import (
    NONE,
    START,
    Boundary,
    Counts,
    Fragment,
    Inference,
    Measured,
    Minimum,
    Part,
    Step,
    Training,
    build_fragment,
    build_key,
)
from cnnlive.plan.training import PRECISIONS

if TYPE_CHECKING:
    from cnnlive.nas.space import Slot, Space

__all__ = [
    "Question",
    "Stage",
    "Tables",
    "Trellis",
    "ask",
    "combine",
    "compile_stages",
    "compile_trellis",
    "join",
]

# A joined stage has no more rows than this: it should stay in a core's own cache.
_ROWS: Final = 8192
_COMBINATIONS: Final = 2048
_BLOCK: Final = 128
_LIMIT: Final = 1 << 62
# More states or combinations than this are no trellis.
_MOST: Final = 2_000_000


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a space, taken apart: the parts to measure, and how metrics come out of their numbers.

    Attributes
    ----------
    metrics : tuple of Metric
    parts : tuple of Part
    adds : tuple of str
        Names of what adds up, part by part.
    peaks : tuple of str
    tail : (n_peaks,) int64
        Which of `adds` lies on top of each peak, -1: none.
    """

    metrics: tuple[Metric, ...]
    parts: tuple[Part, ...]
    adds: tuple[str, ...]
    peaks: tuple[str, ...]
    tail: I64

    @property
    def n_numbers(self) -> int:
        """Numbers of a candidate."""
        return len(self.adds) + len(self.peaks)

    @property
    def width(self) -> int:
        """Numbers of a step: a peak has its own bytes and its lead."""
        return len(self.adds) + 2 * len(self.peaks)

    def answer(self, numbers: I64) -> dict[str, I64]:
        """Return the metrics of candidates from their numbers (n_numbers, n)."""
        named = dict(zip((*self.adds, *self.peaks), numbers, strict=True))
        found = {}
        for metric in self.metrics:
            if metric.name == "inference_total":
                value = named["inference_peak"] + named["weight_bytes"]
            elif metric.name == "training_peak":
                value = self._training(metric, named)
            else:
                value = named[metric.name]
            found[metric.label] = value
        return found

    def _training(self, metric: Metric, named: Mapping[str, I64]) -> I64:
        step = next(p for p in self.parts if isinstance(p, Step) and p.optimizer == metric.optimizer)
        peak = np.maximum(np.maximum(named["forward"], named["backward"]), named["loss"])
        if step.rule is not None:
            own = step.rule.peak(named["gradients"], named["leaves"])
        else:
            own = np.maximum(named[step.peaks[0][0]], 0)
        peak = np.maximum(peak, named["behind"] + own)
        total: I64 = named["static"] + named[step.adds[0]] + peak
        return total


def ask(metrics: Sequence[Metric], setting: Setting) -> Question:
    """Take metrics apart into what has to be measured.

    Raises
    ------
    AttributeValueError
        If the optimizer's step does not compose.
    """
    names = {m.name for m in metrics}
    parts: list[Part] = []
    if names & {"params", "macs", "weight_bytes", "inference_total"}:
        parts.append(Counts(setting))
    if names & {"inference_peak", "inference_total"}:
        parts.append(Inference(setting))
    if "minimum_peak" in names:
        parts.append(Minimum(setting))
    if names & {"saved", "training_peak"}:
        base, autocast = PRECISIONS[setting.precision] if setting.precision is not None else (None, None)
        training = Training(setting, base, autocast)
        parts.append(training)
        rules = dict.fromkeys(m.optimizer for m in metrics if m.optimizer is not None)
        parts += [Step(training, rule, k) for k, rule in enumerate(rules)]
    adds = tuple(name for p in parts for name in p.adds)
    peaks = [peak for p in parts for peak in p.peaks]
    tail = column([adds.index(behind) if behind else -1 for _, behind in peaks])
    return Question(tuple(metrics), tuple(parts), adds, tuple(name for name, _ in peaks), tail)


@dataclass(frozen=True, eq=False)
class Stage:
    """One slot, or neighbours joined.

    Attributes
    ----------
    genes : tuple of int
        Columns of the genotype that decide it; a combination of their values is a number, the last counting fastest.
    cards : tuple of int
        How many values each has.
    next : (n_states, n_combinations) int64
        The state behind.
    front : (n_states, n_combinations, n_behind) int64
        The state in front as seen from behind; -1: never met.
    numbers : (n_states, n_combinations, n_behind, width) int64
        What the step adds, as in `Question`.
    """

    genes: tuple[int, ...]
    cards: tuple[int, ...]
    next: I64
    front: I64
    numbers: I64

    @property
    def rows(self) -> int:
        """Rows of the table of numbers."""
        return int(np.prod(self.numbers.shape[:3]))


def combine(first: I64, second: I64, tail: I64, n_adds: int) -> I64:
    """Compose the numbers of a step with those of what follows it; the last axis holds the numbers."""
    out = np.empty(np.broadcast_shapes(first.shape, second.shape), np.int64)
    out[..., :n_adds] = first[..., :n_adds] + second[..., :n_adds]
    for j, t in enumerate(tail.tolist()):
        own, lead = n_adds + 2 * j, n_adds + 2 * j + 1
        front = first[..., own] + (second[..., t] if t >= 0 else 0)
        out[..., own] = np.maximum(np.maximum(front, first[..., lead] + second[..., own]), NONE)
        out[..., lead] = first[..., lead] + second[..., lead]
    return out


def join(a: Stage, b: Stage, question: Question) -> Stage:
    """Join two neighbouring stages into one."""
    genes = tuple(dict.fromkeys((*a.genes, *b.genes)))
    card = dict(zip((*a.genes, *b.genes), (*a.cards, *b.cards), strict=True))
    cards = tuple(card[g] for g in genes)
    grid = np.indices(cards).reshape(len(cards), -1) if cards else np.zeros((1, 1), np.int64)
    raw_a, raw_b = (
        np.ravel_multi_index([grid[genes.index(g)] for g in s.genes], s.cards) if s.genes else np.zeros_like(grid[0])
        for s in (a, b)
    )  # fmt: skip
    middle = a.next[:, raw_a]  # (states, combinations)
    after = b.next[middle, raw_b[None, :]]
    behind = np.arange(b.front.shape[2])
    met = b.front[middle[..., None], raw_b[None, :, None], behind]
    safe = np.maximum(met, 0)
    states = np.arange(a.next.shape[0])[:, None, None]
    front = np.where(met >= 0, a.front[states, raw_a[None, :, None], safe], -1)
    numbers = combine(
        a.numbers[states, raw_a[None, :, None], safe], b.numbers[middle[..., None], raw_b[None, :, None], behind],
        question.tail, len(question.adds),
    )  # fmt: skip
    return Stage(genes, cards, after, front, numbers)


@dataclass(frozen=True, eq=False)
class Trellis:
    """A space compiled for one question.

    Attributes
    ----------
    question : Question
    stages : tuple of Stage
        One per slot.
    tables : Tables
        The same with neighbours joined, as kernels read it.
    """

    question: Question
    stages: tuple[Stage, ...]
    tables: Tables

    def walker(self) -> Callable[[I64], I64]:
        """Return a function from one genotype (int64) to its numbers, which it overwrites at the next call.

        Raises
        ------
        SpaceError
            (the function) if a value is no option.
        """
        q = self.question
        tables = self.tables
        scratch = np.empty(q.n_numbers + tables.n_stages, np.int64)
        numbers = scratch[: q.n_numbers]
        program, table, tail = tables.program, tables.table, q.tail

        def one(x: I64) -> I64:
            if walk_one(x, program, table, tail, scratch):
                raise SpaceError("a value of the genotype is no option")
            return numbers

        return one


@dataclass(frozen=True, slots=True, eq=False)
class Tables(Columns):
    """What a walk reads, and nothing else: small enough to be sent to other processes.

    Attributes
    ----------
    cardinality : (n_genes,) int16 and int64
    program, table, tail : int64 arrays
        See :func:`cnnlive._kernels.trellis.walk`.
    n_stages, n_numbers : int
    """

    short: I16
    cardinality: I64
    program: I64
    table: I64
    tail: I64
    n_stages: int
    n_numbers: int

    def walk(self, x: NDArray[Any], begin: int, end: int, out: I64, at_out: int) -> bool:
        """Fill numbers (n_numbers, n) for rows of genotypes, C-contiguous integers; False: one is out of range."""
        if x.dtype != np.int16:
            wide = x[begin:end]
            begin, end = 0, end - begin
            if wide.dtype.itemsize == 1:
                x = wide.astype(np.int16)
            else:
                wide = frozen(wide.astype(np.int64, copy=False).view())
                x = np.empty(wide.shape, np.int16)
                if narrow(wide, self.cardinality, x) >= 0:
                    return False
            x.setflags(write=False)
        genes = np.empty((x.shape[1], _BLOCK), np.int16)
        arc, state = np.empty((self.n_stages, _BLOCK), np.int64), np.empty(_BLOCK, np.int64)
        total = np.empty((self.n_numbers, _BLOCK), np.int64)
        return int(walk(x, begin, end, self.short, self.program, self.table, self.tail, genes, arc, state, total, out,
                        at_out)) < 0  # fmt: skip

    def numbers(self, x: NDArray[Any]) -> I64 | None:
        """Return the numbers (n_numbers, n) of genotypes; None: one is out of range."""
        out = np.empty((self.n_numbers, len(x)), np.int64)
        return out if self.walk(frozen(x.view()), 0, len(x), out, 0) else None


def _pack(stages: Sequence[Stage]) -> tuple[I64, I64]:
    program: list[int] = []
    starts: list[int] = []
    table: list[I64] = []
    size = 0

    def put(array: I64) -> int:
        nonlocal size
        table.append(np.ascontiguousarray(array).reshape(-1))
        size += array.size
        return size - array.size

    for stage in stages:
        starts.append(len(program))
        strides = [int(np.prod(stage.cards[k + 1 :])) for k in range(len(stage.cards))]
        places = (put(stage.next), put(np.maximum(stage.front, 0)), put(stage.numbers))
        program += [len(stage.genes), stage.next.shape[1], stage.front.shape[2], *places]
        program += [v for row in zip(stage.genes, strides, stage.cards, strict=True) for v in row]
    return column([*program, *starts, len(stages)]), frozen(np.concatenate(table))


def _joined(stages: Sequence[Stage], question: Question) -> list[Stage]:
    """Join neighbours while their tables stay small, those with the smallest first."""
    done = list(stages)
    while len(done) > 1:
        sizes = []
        for a, b in itertools.pairwise(done):
            cards = dict(zip((*a.genes, *b.genes), (*a.cards, *b.cards), strict=True))
            n = math.prod(cards.values())
            rows = n * a.next.shape[0] * b.front.shape[2]
            sizes.append(rows if n <= _COMBINATIONS else _ROWS + 1)
        k = int(np.argmin(sizes))
        if sizes[k] > _ROWS:
            return done
        done[k : k + 2] = [join(done[k], done[k + 1], question)]
    return done


@contextlib.contextmanager
def _named(fragment: Fragment) -> Iterator[None]:
    """Say of which slot and option an error is."""
    try:
        yield
    except SpaceError:
        raise
    except CnnliveError as error:
        raise SpaceError(f"{fragment.label} given {fragment.before}: {error}") from error


class _Compiler:
    """Finds the states of every boundary and measures every step between them."""

    def __init__(self, space: Space, question: Question, fragments: dict[Any, Fragment], show: bool | None) -> None:
        self.space = space
        self.question = question
        self.fragments = fragments
        self.measured: dict[Any, Measured] = {}
        self.states: dict[Any, tuple[Any, ...]] = {}
        self.show = show

    def options(self, slot: Slot) -> list[dict[str, Any] | None]:
        """Return what each combination of a slot's genes gives its builder; None: the slot is switched off."""
        space = self.space
        columns = space.columns_of(slot)
        n = int(np.prod([space.genes[c].cardinality for c in columns]))
        if n > _MOST:
            raise SpaceError(f"slot {slot.name!r} has {n:,} options; allowed: {_MOST:,}")
        found: list[dict[str, Any] | None] = []
        for row in itertools.product(*(space.genes[c].values for c in columns)):
            given = dict(zip((space.genes[c].name for c in columns), row, strict=True))
            on = all(given[g] in values for g, values in slot.when.items())
            found.append({k: given[g] for k, g in slot.genes.items()} if on else None)
        return found

    def fragment(self, i: int, values: Mapping[str, Any], before: Boundary) -> Fragment:
        slot = self.space.slots[i]
        last, first = i == len(self.space.slots) - 1, i == 0
        key = (build_key(slot.build), tuple(sorted(values.items())), before, last, first)
        found = self.fragments.get(key)
        if found is None:
            found = self.fragments[key] = build_fragment(slot, values, before, last, first)
        return found

    def measure(self, k: int, fragment: Fragment, f: tuple[Any, ...], b: tuple[Any, ...]) -> Measured:
        key = (k, id(fragment), f, b)
        found = self.measured.get(key)
        if found is None:
            with _named(fragment):
                found = self.measured[key] = self.question.parts[k].measure(fragment, f, b)
        return found

    def forward(self, k: int, fragment: Fragment, f: tuple[Any, ...]) -> tuple[Any, ...]:
        key = (k, id(fragment), f)
        found = self.states.get(key)
        if found is None:
            with _named(fragment):
                found = self.states[key] = self.question.parts[k].forward(fragment, f)
        return found

    def run(self) -> tuple[Stage, ...]:
        space, parts = self.space, self.question.parts
        n = len(space.slots)
        options = [self.options(slot) for slot in space.slots]
        fronts: list[dict[Any, int]] = [{(START, *(p.start for p in parts)): 0}]
        steps: list[list[list[Fragment | None]]] = []
        follows: list[I64] = []
        for i, slot in enumerate(_shown(space.slots, f"{space.name}: options", self.show)):
            behind: dict[Any, int] = {}
            step: list[list[Fragment | None]] = []
            follow = np.zeros((len(fronts[i]), len(options[i])), np.int64)
            if i in (0, n - 1) and None in options[i]:
                raise SpaceError(f"slot {slot.name!r} is the {'first' if i == 0 else 'last'} one and may be switched "
                                 "off; it has to be there always")  # fmt: skip
            for state, (boundary, *fs) in enumerate(fronts[i]):
                row: list[Fragment | None] = []
                known: dict[int, int] = {}
                for raw, values in enumerate(options[i]):
                    if values is None:
                        row.append(None)
                        follow[state, raw] = behind.setdefault((boundary, *fs), len(behind))
                        continue
                    fragment = self.fragment(i, values, boundary)
                    row.append(fragment)
                    if id(fragment) not in known:
                        if i == n - 1:
                            key: tuple[Any, ...] = ()
                        else:
                            key = (fragment.behind, *(self.forward(k, fragment, f) for k, f in enumerate(fs)))
                        known[id(fragment)] = behind.setdefault(key, len(behind))
                    follow[state, raw] = known[id(fragment)]
                step.append(row)
            if len(behind) > _MOST // 100:
                raise SpaceError(f"slot {slot.name!r} leaves {len(behind):,} states; no trellis can hold that")
            fronts.append(behind)
            steps.append(step)
            follows.append(follow)
        # Backwards: the states that can be met from behind, for each state in front.
        stages: list[Stage] = []
        seen: list[list[Any]] = [[None]]  # per state of the boundary behind
        width, n_adds = self.question.width, len(self.question.adds)
        switched_off = np.zeros(width, np.int64)
        switched_off[n_adds::2] = NONE
        for i in _shown(range(n - 1, -1, -1), f"{space.name}: steps", self.show):
            n_states, n_raw = follows[i].shape
            n_behind = max(map(len, seen))
            front = np.full((n_states, n_raw, n_behind), -1, np.int64)
            numbers = np.zeros((n_states, n_raw, n_behind, width), np.int64)
            met: list[dict[Any, int]] = [{} for _ in range(n_states)]
            for state, (_, *fs) in enumerate(fronts[i]):
                known_rows: dict[Any, tuple[int, I64]] = {}
                for raw in range(n_raw):
                    fragment_or_none = steps[i][state][raw]
                    for at, b in enumerate(seen[follows[i][state, raw]]):
                        key = (id(fragment_or_none), at)
                        if key not in known_rows:
                            if fragment_or_none is None:
                                known_rows[key] = (met[state].setdefault(b, len(met[state])), switched_off)
                            else:
                                known_rows[key] = self._step(fragment_or_none, fs, b, met[state])
                        front[state, raw, at], numbers[state, raw, at] = known_rows[key]
            columns = space.columns_of(space.slots[i])
            cards = tuple(space.genes[c].cardinality for c in columns)
            stages.append(Stage(columns, cards, follows[i], front, numbers))
            seen = [list(states) for states in met]
        if len(seen[0]) != 1:
            raise SpaceError(f"space {space.name!r}: the network before its first slot has {len(seen[0])} states")
        return tuple(reversed(stages))

    def _step(self, fragment: Fragment, fs: Sequence[Any], b: Any, met: dict[Any, int]) -> tuple[int, I64]:
        question = self.question
        adds: list[int] = []
        peaks: list[int] = []
        in_front = []
        for k, part in enumerate(question.parts):
            behind = part.final(fragment) if b is None else b[k]
            found = self.measure(k, fragment, fs[k], behind)
            in_front.append(found.b)
            adds += found.numbers[: len(part.adds)]
            peaks += found.numbers[len(part.adds) :]
        return met.setdefault(tuple(in_front), len(met)), np.array(adds + peaks, np.int64)


def _shown(items: Sequence[Any], what: str, show: bool | None) -> Iterator[Any]:
    """Go through slots, with a bar on a terminal where it takes a while."""
    if show is None:
        show = sys.stderr.isatty()
    if not show:
        yield from items
        return
    from rich.console import Console  # noqa: PLC0415 - only where something is shown
    from rich.progress import track  # noqa: PLC0415

    yield from track(items, what, console=Console(stderr=True), transient=True)


def compile_stages(space: Space, question: Question, show: bool | None = None) -> tuple[Stage, ...]:
    """Find the states of every boundary of a space and measure every step, slot by slot."""
    stages = _Compiler(space, question, space.fragments, show).run()
    most = [0] * question.width
    for slot, stage in zip(space.slots, stages, strict=True):
        largest = stage.numbers.reshape(-1, question.width).max(axis=0).tolist()
        most = [total + max(more, 0) for total, more in zip(most, largest, strict=True)]
        # A peak is no more than everything together, so nothing that the walk adds up can wrap.
        if sum(most) >= _LIMIT:
            raise SpaceError(f"slot {slot.name!r} brings space {space.name!r} to 2**62 multiply-accumulates or bytes, "
                             "or more; nothing is counted beyond that")  # fmt: skip
    return stages


def compile_trellis(space: Space, metrics: Sequence[Metric], setting: Setting, show: bool | None = None) -> Trellis:
    """Compile a space for a question.

    Raises
    ------
    SpaceError
        If an option cannot be built for a shape that it can meet, or does not come apart at its boundary.
    """
    for m in metrics:
        if m.name in ("saved", "training_peak") and setting.loss == "output":
            raise GraphError("loss='output' is not known for spaces; allowed: the losses that are named")
    question = ask(metrics, setting)
    stages = compile_stages(space, question, show)
    joined = _joined(stages, question)
    program, table = _pack(joined)
    short = space.cardinalities.astype(np.int16)
    short.setflags(write=False)
    tables = Tables(short, column(space.cardinalities), program, table, question.tail, len(joined), question.n_numbers)
    return Trellis(question, stages, tables)
