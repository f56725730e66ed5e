"""Modules to wrap with ``torch.utils.checkpoint``: what that costs and saves in real PyTorch, and which to choose."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from cnnlive._types import F64, I64, Result, column, frozen
from cnnlive.errors import RematError, close_names
from cnnlive.lowered import Lowered
from cnnlive.ops import operator
from cnnlive.plan._budgets import knee_of
from cnnlive.plan._plain import INTEGERS, TEXTS, checked
from cnnlive.plan.steps import FORWARD, StepGraph
from cnnlive.plan.training import TrainingPlan
from cnnlive.tape import Tape
from cnnlive.units import format_bytes, parse_bytes

__all__ = ["Region", "WrapFrontier", "WrapPlan", "plan_wraps", "simulate_wraps", "wrap_frontier"]

Kind: TypeAlias = Literal["modules", "policy"]
KINDS: Final = ("modules", "policy")
# What torch.get_rng_state() returns for a CPU: one such tensor for each region that keeps the state, and one more
# while it runs again.
_RNG_BYTES: Final = 5056
# Ops whose results a policy saves: those that cost much and are one call of the dispatcher.
_SAVEABLE: Final = frozenset({"conv", "linear", "matmul"})
# Records that an op needs beside its own.
_HELPERS: Final = frozenset({"_to_copy", "clone", "view", "as_strided", "bernoulli_", "repeat"})


@dataclass(frozen=True, slots=True)
class Region:
    """A module whose forward runs again in backward.

    Attributes
    ----------
    module : str
        Its dotted path.
    saved : tuple of str
        Ops of the graph whose results are saved (``MUST_SAVE``) while all others are recomputed.
    random : bool
        Random ops run again in it, so that the state of the generator has to be kept (``preserve_rng_state=True``);
        without them it is not kept, which on a CPU spares 5 056 bytes a region.
    """

    module: str
    saved: tuple[str, ...] = ()
    random: bool = False


_FORMS: Final[Mapping[str, Any]] = MappingProxyType({
    "name": str, "kind": KINDS, "budget": int | None, "fits": bool, "peak_bytes": int, "least_bytes": int,
    "keep_bytes": int, "cost": int, "plain_cost": int, "regions": list | tuple, "timeline": INTEGERS, "warnings": TEXTS,
})  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WrapPlan(Result):
    """Which modules to wrap, and what a step then takes; made by :func:`plan_wraps` and :func:`simulate_wraps`.

    Attributes
    ----------
    name : str
        The network.
    kind : {"modules", "policy"}
        Whether regions save results of some of their ops.
    budget : int or None
        Bytes, as asked for.
    fits : bool
        Whether `peak_bytes` is within the budget.
    peak_bytes : int
        As :attr:`cnnlive.plan.training.TrainingPlan.peak_bytes`, of the step with these regions.
    least_bytes : int
        The least peak that was found for any regions.
    keep_bytes : int
        The peak without regions.
    cost, plain_cost : int
        Cost of the step with and without recomputation, in the unit of the step's costs.
    regions : tuple of Region
        In the order in which forward runs them.
    timeline : (2 * n_records + 1,) int64
        Most bytes alive while each record runs forward, then backward (last record first; what runs again counts to
        the record that asks for it), then in the optimizer.
    warnings : tuple of str
        What running modules twice changes, and which modules were left out and why.
    """

    name: str
    kind: str
    budget: int | None
    fits: bool
    peak_bytes: int
    least_bytes: int
    keep_bytes: int
    cost: int
    plain_cost: int
    regions: tuple[Region, ...]
    timeline: I64
    warnings: tuple[str, ...]

    @property
    def overhead(self) -> float:
        """What is recomputed, as a share of the plain step."""
        return (self.cost - self.plain_cost) / max(self.plain_cost, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON; :meth:`from_dict` reads it."""
        return {
            "name": self.name, "kind": self.kind, "budget": self.budget, "fits": self.fits,
            "peak_bytes": self.peak_bytes, "least_bytes": self.least_bytes, "keep_bytes": self.keep_bytes,
            "cost": self.cost, "plain_cost": self.plain_cost, "overhead": self.overhead,
            "regions": [{"module": r.module, "saved": list(r.saved), "random": r.random} for r in self.regions],
            "timeline": self.timeline.tolist(), "warnings": list(self.warnings),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WrapPlan:
        """Make a plan from what :meth:`to_dict` returned.

        Raises
        ------
        RematError
            If something is missing or of another form; the message names it.
        """
        checked(data, "a plan", _FORMS)
        found = []
        for r in data["regions"]:
            checked(r, "a region", {"module": str, "saved": TEXTS})
            checked({"random": False, **r}, "a region", {"random": bool})
            found.append(Region(r["module"], tuple(r["saved"]), r.get("random", False)))
        regions = tuple(found)
        return cls(data["name"], data["kind"], data["budget"], data["fits"], data["peak_bytes"], data["least_bytes"],
                   data["keep_bytes"], data["cost"], data["plain_cost"], regions, column(data["timeline"]),
                   tuple(data["warnings"]))  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.name or 'network'}, {len(self.regions)} modules wrapped"
                 f"{', a policy of saved ops' if self.kind == 'policy' else ''}",
                 f"  peak       {format_bytes(self.peak_bytes):>10}  {self.peak_bytes:>16,} B",
                 f"  keep all   {format_bytes(self.keep_bytes):>10}  {self.keep_bytes:>16,} B",
                 f"  least      {format_bytes(self.least_bytes):>10}  {self.least_bytes:>16,} B"]  # fmt: skip
        if self.budget is not None:
            lines.append(f"  budget     {format_bytes(self.budget):>10}  {self.budget:>16,} B"
                         f"  {'fits' if self.fits else 'does not fit'}")  # fmt: skip
        lines.append(f"  overhead   {100 * self.overhead:>9.2f} %")
        for r in self.regions:
            lines.append(f"  {r.module}{': saves ' + ', '.join(r.saved) if r.saved else ''}")
        return "\n".join([*lines, *(f"  ! {w}" for w in self.warnings)])

    def __repr__(self) -> str:
        return f"<WrapPlan {self.name!r}: {len(self.regions)} {self.kind}, {self.peak_bytes:,} B>"


# ---------------------------------------------------------------------------------------------- the memory model
# Instants: forward record p is instant p; backward of record p has four from n + 4 * (n - 1 - p) on: before its
# derivative (saved tensors are unpacked, regions run again), the derivative, sums to the shape of the inputs, and
# after what was saved is let go.
_UNPACK, _DERIVE, _SUM, _HAND_ON = range(4)


class _Span(NamedTuple):
    """A module that may be a region: its records ``lo .. hi - 1``."""

    module: str
    lo: int
    hi: int
    first: int  # records that pack something for backward: the first and the last one
    last: int
    runs_last: bool  # what the last one packs, it makes; otherwise recomputation ends before it
    inputs: tuple[int, ...]
    random: bool
    saveable: tuple[int, ...]  # main records of ops whose results a policy can save
    norms: tuple[int, ...]  # ops whose statistics are updated again


class _Option(NamedTuple):
    """A region with a set of saved results, as changes of the step's timeline."""

    span: int
    saved: tuple[int, ...]  # records
    cost: int
    stores: I64  # forward storages that it holds, and until when
    until: I64
    trigger: int  # the instant in which it runs again
    burst: int  # most bytes that it adds then
    begin: int  # what it holds afterwards: instants begin .. begin + len(held) - 1
    held: I64
    extra: int  # bytes from its forward on, until an instant
    extra_until: int


class _Model:
    """A training step as arrays over instants, and the modules that may be regions."""

    def __init__(self, step: StepGraph, modules: Collection[str] | None, recompute_random: bool) -> None:
        self.step = step
        self.plan: TrainingPlan = step.plan
        plan = self.plan
        self.tape: Tape = plan.tape
        self.net: Lowered = plan.network
        tape = self.tape
        n = self.n = tape.n_records
        self.n_instants = 5 * n
        self.n_stores = len(tape.store_spec)
        self.nbytes = frozen(plan._run.nbytes[: self.n_stores].copy())
        self.rows = {
            name: _rows(getattr(tape, name + "_ptr"), getattr(tape, name + "_idx"))
            for name in ("alloc", "drop", "saved", "read")
        }
        self.op_of = [op for op, _ in tape.records]
        self.record_cost = self._costs()
        self.plain_cost = step.problem.plain_cost
        # storages: born, let go by Python, and by each backward node that holds it
        self.birth = np.zeros(self.n_stores, np.int64)
        self.birth[tape.alloc_idx] = np.repeat(np.arange(n), np.diff(tape.alloc_ptr))
        python = np.full(self.n_stores, self.n_instants, np.int64)
        python[tape.drop_idx] = np.repeat(np.arange(n), np.diff(tape.drop_ptr)) + 1
        holders = 1 + np.bincount(tape.saved_idx, minlength=self.n_stores)
        python[tape.store_refs > holders] = self.n_instants  # of outputs that the loss does not lead to
        self.python = python
        saver = np.repeat(np.arange(n), np.diff(tape.saved_ptr))
        order = np.argsort(tape.saved_idx, kind="stable")
        self.pair_store, self.pair_record = tape.saved_idx[order], saver[order]
        self.pair_until = self.after(self.pair_record, _SUM)
        # numbers that are wrapped as tensors are not packed: their node itself holds them
        self.numbers = set(tape.saved_idx.tolist()).difference(tape.saved_stores.tolist())
        self.pair_number = np.isin(self.pair_store, list(self.numbers))
        self.floor = self._floor()
        self.packs, self.makes = self._packs()
        self.producer = np.repeat(np.arange(self.net.n_ops), np.diff(self.net.out_ptr)).tolist()
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self.found: dict[str, tuple[int, int]] = {}
        self.spans = self._spans(modules, recompute_random)
        self.options: dict[tuple[int, tuple[int, ...]], _Option] = {}

    def at(self, record: Any, stage: int) -> Any:
        """Return the instant of a stage of a record's backward."""
        return self.n + 4 * (self.n - 1 - record) + stage

    def after(self, record: Any, stage: int) -> Any:
        """Return the instant after a stage of a record's backward."""
        return self.at(record, stage) + 1

    def _costs(self) -> list[int]:
        step = self.step
        cost = np.zeros(self.n, np.int64)
        mine = np.flatnonzero((step.phase == FORWARD) & (step.record >= 0))
        np.add.at(cost, step.record[mine], step.problem.cost[mine])
        return list(map(int, cost.tolist()))

    def _floor(self) -> I64:
        """Return what is alive beside storages that forward makes, at each instant."""
        plan, tape, run = self.plan, self.tape, self.plan._run
        n, total = self.n, int(run.answer[0])
        before, behind = plan._floors
        events = run.events[:total]
        number = np.abs(events) - 1
        change = np.where(number >= self.n_stores, np.sign(events) * run.nbytes[number], 0)
        change[: int(run.answer[18])] = 0
        alive = np.concatenate([[0], np.cumsum(change)]).tolist()
        made = np.flatnonzero((events > 0) & (number >= self.n_stores)).tolist()
        summed = run.spec_nbytes[tape.edge_spec] != run.spec_nbytes[tape.value_spec[tape.edge_value]]
        sums = np.concatenate([[0], np.cumsum(summed)])[tape.edge_ptr].tolist()
        floor = np.zeros(self.n_instants, np.int64)
        floor[:n] = before
        for p, (begin, release, end) in enumerate(run.marks.tolist()):
            if not end:
                continue
            n_sums = sums[p + 1] - sums[p]
            # the last allocations before what was saved is let go
            first_sum = made[bisect_left(made, release) - n_sums] if n_sums else release
            t = int(self.at(p, 0))
            floor[t] = behind + alive[begin]
            floor[t + 1] = behind + max(alive[begin : first_sum + 1])
            floor[t + 2] = behind + (max(alive[first_sum + 1 : release + 1]) if n_sums else alive[release])
            floor[t + 3] = behind + max(alive[release : end + 1])
        return frozen(floor)

    def _packs(self) -> tuple[list[bool], list[bool]]:
        """Return whether each record packs something for its backward node, and whether something that it makes.

        Parameters and network inputs are packed as well, which the tape does not count.
        """
        tape, net = self.tape, self.net
        edges = np.diff(tape.edge_ptr).tolist()
        packs, makes = [], []
        for p, (op, name) in enumerate(tape.records):
            row, kind = [s for s in self.rows["saved"][p] if s not in self.numbers], ""
            saved: tuple[str, ...] = ()
            if op >= 0:
                entry = operator(net.op_kinds[op])
                kind = entry.gradient
                saved = entry.saved(net.op_attrs[op]) if name not in _HELPERS else ()
            if kind == "local_response_norm":
                any_ = name in ("mul", "avg_pool3d", "pow", "div")
            elif kind in ("noise", "dropout"):
                any_ = bool(row)
            elif kind == "addcmul":
                any_ = edges[p] > 1
            else:
                any_ = bool(saved)
            packs.append(edges[p] > 0 and (any_ or bool(row)))
            mine = set(self.rows["alloc"][p])
            makes.append(packs[-1] and ("output" in saved or any(s in mine for s in row)))
        return packs, makes

    # -------------------------------------------------------------- modules

    def _spans(self, modules: Collection[str] | None, recompute_random: bool) -> list[_Span]:
        """Return the modules that may be regions, and note why others may not."""
        net = self.net
        ops = list(dict.fromkeys(op for op in self.op_of if op >= 0))
        place = {op: k for k, op in enumerate(ops)}
        members: dict[str, list[int]] = defaultdict(list)
        direct: dict[str, bool] = defaultdict(bool)
        for op in ops:
            scope = net.op_scopes[op]
            parts = scope.split(".") if scope else []
            for k in range(1, len(parts) + 1):
                members[".".join(parts[:k])].append(op)
                # a list of modules is no call: a module runs ops of its own, or has attributes for modules
                direct[".".join(parts[:k])] |= k == len(parts) or not parts[k].isdigit()
        for op in ops:
            name, kind = net.op_names[op], net.op_kinds[op]
            if name not in members and not _named_after(name, kind):
                members[name] = [op]
                direct[name] = True
        if modules is not None:
            for m in modules:
                if m not in members:
                    raise RematError(f"{m!r} is no module that runs ops{close_names(m, list(members))}")
        named = {name: op for op, name in enumerate(net.op_names)}
        lo = {op: k for k, op in reversed(list(enumerate(self.op_of)))}
        hi = {op: k + 1 for k, op in enumerate(self.op_of)}
        spans: dict[tuple[int, int], _Span] = {}
        for m, mine in members.items():
            if (direct[m] or self._in_a_row(m)) if modules is None else m in modules:
                a, b = lo[mine[0]], hi[mine[-1]]
                self.found[m] = (a, b)
                if (a, b) in spans:  # a module that does nothing but call another
                    continue
                if place[mine[-1]] - place[mine[0]] + 1 != len(mine) or self._called_again(m, mine, members, named):
                    self.left_out["runs more than once, or not in one go"].append(m)
                    continue
                why, span = self._span(m, a, b, recompute_random)
                if span is not None:
                    spans[a, b] = span
                elif why:
                    self.left_out[why].append(m)
        return sorted(spans.values(), key=lambda s: (s.lo, -s.hi))

    def _in_a_row(self, m: str) -> bool:
        """Whether a path of numbered modules may be one call: a tensor goes in and is held, that of the last goes out.

        A list whose modules are called one by one lets the first tensor go before the last of them has run.
        """
        net = self.net
        inside = [op for op, scope in enumerate(net.op_scopes) if scope.startswith(f"{m}.")]
        mine = set(inside)
        made = [op in mine for op in self.producer]
        given, handed = set[int](), {t for t in net.outputs.tolist() if made[t]}
        ptr, idx = net.in_ptr.tolist(), net.in_idx.tolist()
        for op in range(inside[0], net.n_ops):
            reads = idx[ptr[op] : ptr[op + 1]]
            if op in mine:
                given.update(t for t in reads if not made[t] and net.op_kinds[self.producer[t]] != "parameter")
            else:
                handed.update(t for t in reads if made[t])
        if len(given) != 1 or {self.producer[t] for t in handed} != {inside[-1]}:
            return False
        t = given.pop()  # the network's input is held all the time, which tells nothing
        return net.op_kinds[self.producer[t]] != "input" and int(net.frames()[t]) >= inside[-1]

    def _called_again(self, m: str, mine: Sequence[int], members: Mapping[str, Any], named: Mapping[str, int]) -> bool:
        """Whether a module runs more than once, as far as names tell: ``"conv_1"`` is a second call of ``"conv"``."""
        names = self.net.op_names

        def first(op: int) -> int:
            base, _, k = names[op].rpartition("_")
            other = named.get(base, -1) if k.isdigit() else -1
            same = other >= 0 and self.net.op_kinds[other] == self.net.op_kinds[op]
            return other if same and self.net.op_scopes[other] == self.net.op_scopes[op] else op

        if f"{m}@1" in members or "@" in m.rpartition(".")[2]:
            return True
        if m in named:
            again = named.get(f"{m}_1", -1)
            return first(mine[0]) != mine[0] or (again >= 0 and first(again) == mine[0])
        # one call after the other: the same ops over and over
        firsts = [first(op) for op in mine]
        half = next((k for k in range(1, len(mine)) if firsts[k] == firsts[0]), len(mine))
        return half < len(mine) and len(mine) % half == 0 and firsts == firsts[:half] * (len(mine) // half)

    def _span(self, module: str, lo: int, hi: int, recompute_random: bool) -> tuple[str, _Span | None]:
        tape, net = self.tape, self.net
        packing = [p for p in range(lo, hi) if self.packs[p]]
        if not packing:
            return "", None
        if any(tape.random[lo:hi].tolist()) and not recompute_random:
            return "draws random numbers", None
        if any(tape.pinned[lo:hi].tolist()):
            return "reads an input of the network that is overwritten", None
        marks = self.plan._run.marks
        if any(marks[p, 2] == 0 for p in packing):
            return "has ops that the loss does not lead back to", None
        inputs: dict[int, None] = {}
        for p in range(lo, hi):
            for s in self.rows["read"][p]:
                if self.birth[s] < lo:
                    inputs[s] = None
                    if tape.records[int(self.birth[s])][1] == "_to_copy":
                        return "shares weights that autocast casts", None
        over = tape.over.tolist()
        if any(over[p] in inputs or (over[p] >= 0 and self.birth[over[p]] < lo) for p in range(lo, hi)):
            return "overwrites its input in place", None
        if any(over[p] in inputs for p in range(hi, self.n)):
            return "has an input that is overwritten in place later", None
        last = packing[-1]
        written = {s for s in over[lo:hi] if s >= 0}
        saveable, norms = [], []
        for op in dict.fromkeys(self.op_of[lo:hi]):
            entry = operator(net.op_kinds[op])
            attrs = net.op_attrs[op]
            updates = entry.name.startswith("batch_norm") and attrs["track_running_stats"]
            if updates and not attrs["use_running_stats"] and op in self.op_of[lo : last + self.makes[last]]:
                norms.append(op)
            if entry.macs in _SAVEABLE:
                for p in range(lo, hi):
                    made = self.rows["alloc"][p]
                    if (self.op_of[p] == op and made and tape.records[p][1] not in _HELPERS
                            and not written.intersection(made)):  # fmt: skip
                        saveable.append(p)
        return "", _Span(module, lo, hi, packing[0], last, self.makes[last], tuple(inputs),
                         any(tape.random[lo:hi].tolist()), tuple(saveable), tuple(norms))  # fmt: skip

    # -------------------------------------------------------------- regions

    def option(self, number: int, saved: Iterable[int] = ()) -> _Option:
        """Return what a region does to the timeline, where the results of some records are saved."""
        key = (number, tuple(sorted(saved)))
        found = self.options.get(key)
        if found is None:
            found = self.options[key] = self._option(*key)
        return found

    def _option(self, number: int, saved: tuple[int, ...]) -> _Option:
        span = self.spans[number]
        keeps = {s for p in saved for s in self.rows["alloc"][p]}
        size = self.nbytes.tolist()
        trigger = int(self.at(span.last, _UNPACK))
        end = int(self.after(span.first, _SUM))  # the frame of the region is gone
        until = dict.fromkeys(span.inputs, end)
        rng = _RNG_BYTES if span.random and self.plan.device == "cpu" else 0
        packed: dict[int, int] = {}  # storage to the last node that unpacks it
        now = burst = rng
        cost = 0
        skipped = set(saved)
        alive: set[int] = set()
        for p in range(span.lo, span.last + 1):
            if p < span.last or span.runs_last:
                made = self.rows["alloc"][p]
                alive.update(made)
                if p not in skipped:
                    now += sum(size[s] for s in made)
                    burst = max(burst, now)
                    cost += self.record_cost[p]
            for s in self.rows["saved"][p]:
                if s in alive and s not in self.numbers:
                    packed.setdefault(s, p)
                elif s in alive:
                    alive.remove(s)  # until recomputation ends
            for s in self.rows["drop"][p] if p < span.last else ():
                if s in alive and s not in packed:
                    alive.remove(s)
                    now -= size[s]
                    if s in keeps:
                        until[s] = trigger + 1
        for s in keeps:
            if s in packed:
                until[s] = int(self.after(packed[s], _DERIVE))
            elif s not in until:
                until[s] = trigger + 1 if s in alive else end
        begin = trigger + 1
        mine = {s: int(self.after(p, _DERIVE)) for s, p in packed.items() if s not in keeps}
        held = np.zeros(max(mine.values(), default=begin) - begin + 1, np.int64)
        for s, t in mine.items():
            held[0] += size[s]
            held[t - begin] -= size[s]
        return _Option(number, saved, cost, column(list(until)), column(list(until.values())), trigger, burst, begin,
                       frozen(np.cumsum(held)), rng, end)  # fmt: skip

    def alive(self, options: Sequence[_Option]) -> I64:
        """Return the bytes alive at each instant, those of the optimizer's step left out."""
        region = np.full(self.n, -1, np.int64)
        for k, o in enumerate(options):
            span = self.spans[o.span]
            region[span.lo : span.hi] = k
        until = self.python.copy()
        plain = (region[self.pair_record] < 0) | self.pair_number
        np.maximum.at(until, self.pair_store[plain], self.pair_until[plain])
        change = np.zeros(self.n_instants + 1, np.int64)
        for o in options:
            until[o.stores] = np.maximum(until[o.stores], o.until)
            if o.extra:
                change[self.spans[o.span].lo] += o.extra
                change[o.extra_until] -= o.extra
        np.add.at(change, self.birth, self.nbytes)
        np.subtract.at(change, until, self.nbytes)
        alive = np.cumsum(change)[:-1] + self.floor
        for o in options:
            alive[o.trigger] += o.burst
            alive[o.begin : o.begin + len(o.held)] += o.held
        return alive

    def peak(self, options: Sequence[_Option]) -> int:
        """Return the most bytes alive at once."""
        return max(int(self.alive(options).max()), self.plan.optimizer_peak)

    def timeline(self, options: Sequence[_Option]) -> I64:
        """Return the most bytes alive in each record forward, each backward and the optimizer."""
        n, alive = self.n, self.alive(options)
        backward = alive[n:].reshape(n, 4).max(axis=1)
        runs = self.plan._run.marks[::-1, 2] > 0
        return frozen(np.concatenate([alive[:n], np.where(runs, backward, 0), [self.plan.optimizer_peak]]))


def _rows(ptr: I64, idx: I64) -> list[list[int]]:
    flat = idx.tolist()
    return [flat[a:b] for a, b in pairwise(ptr.tolist())]


def _named_after(name: str, kind: str) -> bool:
    """Whether an op is a call of a function, as far as its name says."""
    last = name.rpartition(".")[2]
    return last == kind or (last.startswith(f"{kind}_") and last[len(kind) + 1 :].isdigit())


# ---------------------------------------------------------------------------------------------- which to choose
_FEW: Final = 4_000  # choices that are all tried
_LADDER: Final = 32  # budgets between the least and that of no regions
_MOST_LABELS: Final = 256
_MOST_SETS: Final = 6  # sets of saved results of a region
_TRIES: Final = 3_000  # choices that are measured after those of the ladder
_SHOWN: Final = 8  # names in a warning
_SMALL: Final = 2_000  # a region that spares less than this part of what is saved is left out in large nets


class _Choice(NamedTuple):
    """Regions that do not overlap, in the order of forward, with what they come to."""

    peak: int
    cost: int
    options: tuple[tuple[int, tuple[int, ...]], ...]


class _Search:
    """The choices of regions that none other is better than, of those that were measured."""

    def __init__(self, model: _Model, kind: str, seed: int) -> None:
        self.model = model
        self.policy = kind == "policy"
        self.seed = seed
        self.seen: dict[tuple[tuple[int, tuple[int, ...]], ...], _Choice] = {}
        self.best: list[_Choice] = []  # rising peaks, falling costs
        self.peaks: list[int] = []
        self.fresh: dict[tuple[tuple[int, tuple[int, ...]], ...], _Choice] = {}  # whose neighbours were not measured
        self.sets = [self.saved_sets(k) for k in range(len(model.spans))]
        self.measure(())
        if not self.exhaust():
            if self.policy:
                for choice in _Search(model, "modules", seed).best:
                    self.measure(choice.options)
            self.climb()

    def saved_sets(self, number: int) -> list[tuple[int, ...]]:
        """Return the sets of results that a region may save: what is dearest for its bytes first."""
        model = self.model
        span = model.spans[number]
        if not self.policy:
            return [()]
        again = [p for p in span.saveable if p < span.last or (p == span.last and span.runs_last)]
        size = {p: int(model.nbytes[model.rows["alloc"][p]].sum()) for p in again}
        again.sort(key=lambda p: (-model.record_cost[p] / max(size[p], 1), p))
        counts = range(len(again) + 1)
        if len(counts) > _MOST_SETS:
            counts = sorted({round(k * len(again) / (_MOST_SETS - 1)) for k in range(_MOST_SETS)})  # type: ignore[assignment]
        return [tuple(sorted(again[:k])) for k in counts]

    def measure(self, options: Sequence[tuple[int, tuple[int, ...]]]) -> _Choice:
        """Return what a choice comes to."""
        key = tuple(sorted(options))
        found = self.seen.get(key)
        if found is None:
            made = [self.model.option(*o) for o in key]
            found = _Choice(self.model.peak(made), self.model.plain_cost + sum(o.cost for o in made), key)
            self.seen[key] = found
            self.add(found)
        return found

    def add(self, choice: _Choice) -> None:
        """Keep a choice if none that is kept is at least as good."""
        if self.worse(choice.peak, choice.cost):
            return
        best = self.best
        k = end = bisect_left(self.peaks, choice.peak)
        while end < len(best) and best[end].cost >= choice.cost:
            self.fresh.pop(best[end].options, None)
            end += 1
        best[k:end] = [choice]
        self.peaks[k:end] = [choice.peak]
        self.fresh[choice.options] = choice

    def worse(self, peak: int, cost: int) -> bool:
        """Whether a measured choice is at least as good."""
        k = bisect_right(self.peaks, peak)
        return k > 0 and self.best[k - 1].cost <= cost

    # -------------------------------------------------------------- few choices: all of them

    def exhaust(self) -> bool:
        """Measure every choice, if they are few."""
        spans = self.model.spans
        after = [next((j for j in range(k + 1, len(spans)) if spans[j].lo >= s.hi), len(spans))
                 for k, s in enumerate(spans)]  # fmt: skip
        count = [1] * (len(spans) + 1)
        for k in range(len(spans) - 1, -1, -1):
            count[k] = count[k + 1] + len(self.sets[k]) * count[after[k]]
        if count[0] > _FEW:
            return False
        stack: list[tuple[int, tuple[tuple[int, tuple[int, ...]], ...]]] = [(0, ())]
        while stack:
            k, options = stack.pop()
            if k == len(spans):
                self.measure(options)
                continue
            stack.append((k + 1, options))
            stack += [(after[k], (*options, (k, s))) for s in self.sets[k]]
        return True

    # -------------------------------------------------------------- many: along the tape, then step by step

    def climb(self) -> None:
        """Measure the choices that are best where regions' changes add up, and what lies one step from the best."""
        self.useful()
        least, most = self.model.plan.optimizer_peak, self.best[-1].peak
        low = max(least, min(need for _, need, _, _, _ in self.edges) if self.edges else most) - 1
        high = most
        while high - low > max(most // 4096, 1):  # the least budget that the sums allow
            middle = (low + high) // 2
            found = self.along(middle)
            if found is None:
                low = middle
            else:
                high = middle
                self.measure(found)
        for k in range(_LADDER):
            self.measure(self.along(high + (most - high) * k // _LADDER) or ())
        self.improve()

    def useful(self) -> None:
        """Find the options that spare something, and where the tape is cut by them."""
        model = self.model
        n = model.n
        plain = model.alive(())
        saved = int(plain[n - 1]) - int(model.floor[n - 1])
        self.edges: list[tuple[int, int, int, int, tuple[int, tuple[int, ...]]]] = []
        worth = []
        self.moves: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in model.spans]
        for k, span in enumerate(model.spans):
            for s in self.sets[k]:
                option = model.option(k, s)
                alive = model.alive([option])
                gain = int(plain[n - 1] - alive[n - 1])
                if gain * _SMALL < saved or gain <= 0:
                    continue
                need = max(int(alive[span.lo : span.hi].max()),
                           int(alive[model.at(span.hi - 1, 0) : model.after(span.lo, _HAND_ON)].max()))  # fmt: skip
                worth.append((span, need, gain, option.cost, (k, s)))
                self.moves[k].append((k, s))
        cuts = sorted({0, n, *(w[0].lo for w in worth), *(w[0].hi for w in worth)})
        place = {r: i for i, r in enumerate(cuts)}
        self.cuts = cuts
        self.into: list[list[tuple[int, int, int, int, Any]]] = [[] for _ in cuts]
        for a, b in pairwise(cuts):
            need = max(int(plain[a:b].max()), int(plain[model.at(b - 1, 0) : model.after(a, _HAND_ON)].max()))
            self.into[place[b]].append((place[a], need, 0, 0, None))
        for span, need, gain, cost, key in worth:
            self.into[place[span.hi]].append((place[span.lo], need, gain, cost, key))
            self.edges.append((place[span.lo], need, gain, cost, key))

    def along(self, budget: int) -> tuple[tuple[int, tuple[int, ...]], ...] | None:
        """Return the cheapest choice within a budget, if the bytes that earlier regions spare are simply summed.

        A label is what regions so far spare and cost; a stretch of the tape, in a region or not, needs that so much
        is spared before it.
        """
        spared = [np.zeros(1, np.int64)]
        cost = [np.zeros(1, np.int64)]
        back: list[tuple[I64, I64, I64]] = [(np.zeros(1, np.int64),) * 3]
        for place in range(1, len(self.cuts)):
            parts: list[tuple[I64, I64, I64, I64]] = []
            for e, (source, need, gain, price, _) in enumerate(self.into[place]):
                ok = np.flatnonzero(spared[source] >= need - budget)
                if len(ok):
                    parts.append((spared[source][ok] + gain, cost[source][ok] + price, ok, np.full(len(ok), e)))
            if not parts:
                spared.append(np.zeros(0, np.int64))
                cost.append(np.zeros(0, np.int64))
                back.append((np.zeros(0, np.int64),) * 3)
                continue
            s, c, label, edge = (np.concatenate(x) for x in zip(*parts, strict=True))
            order = np.lexsort((-s, c))
            top = np.maximum.accumulate(s[order])
            keep = order[np.concatenate([[True], top[1:] > top[:-1]])]
            if len(keep) > _MOST_LABELS:
                keep = keep[np.unique(np.linspace(0, len(keep) - 1, _MOST_LABELS).astype(np.int64))]
            spared.append(s[keep])
            cost.append(c[keep])
            back.append((label[keep], edge[keep], keep))
        if not len(cost[-1]):
            return None
        found = []
        place, label_ = len(self.cuts) - 1, int(np.argmin(cost[-1]))
        while place:
            e = int(back[place][1][label_])
            source, _, _, _, key = self.into[place][e]
            if key is not None:
                found.append(key)
            label_ = int(back[place][0][label_])
            place = source
        return tuple(reversed(found))

    def improve(self) -> None:
        """Measure what lies one step from the best choices: a region less, more, or with other saved results.

        What a step comes to is first summed from what each region changes alone; what seems worth it is measured.
        """
        model = self.model
        spans = model.spans
        rng = np.random.default_rng(self.seed)
        # the worst instant of each stretch, forward and backward, will do
        begin = [*self.cuts[:-1], *(int(model.at(b - 1, 0)) for b in reversed(self.cuts[1:]))]

        def worst(options: Iterable[tuple[int, tuple[int, ...]]]) -> I64:
            found: I64 = np.maximum.reduceat(model.alive([model.option(*key) for key in options]), begin)
            return found

        plain = worst(())
        moves = [key for row in self.moves for key in row]
        index = {key: i for i, key in enumerate(moves)}
        change = np.array([worst([key]) - plain for key in moves]).reshape(len(moves), len(plain))
        price = np.array([model.option(*key).cost for key in moves], np.int64)
        first = np.array([spans[k].lo for k, _ in moves], np.int64)
        behind = np.array([spans[k].hi for k, _ in moves], np.int64)
        tries = _TRIES
        while tries > 0 and self.fresh:
            choice = self.fresh.pop(list(self.fresh)[int(rng.integers(len(self.fresh)))])
            tries -= 1
            now = [index[key] for key in choice.options]
            alive = worst(choice.options)
            peaks = (alive + change).max(axis=1)
            costs = choice.cost + price
            for i in now:  # what a region overlaps goes
                over = np.flatnonzero((first < behind[i]) & (first[i] < behind))
                peaks[over] = (alive - change[i] + change[over]).max(axis=1)
                costs[over] -= price[i]
            rank = np.searchsorted(np.array(self.peaks), peaks, side="right") - 1
            good = np.flatnonzero((rank < 0) | (np.array([c.cost for c in self.best])[rank] > costs))
            steps = [(int(peaks[i]), int(costs[i]), i, -1) for i in good.tolist()]
            steps += [(int((alive - change[i]).max()), choice.cost - int(price[i]), -1, i) for i in now]
            for peak, cost, i, j in sorted(steps):
                if not self.worse(peak, cost):
                    rest = [k for k in now if k != j and (i < 0 or behind[k] <= first[i] or behind[i] <= first[k])]
                    key = tuple(sorted(moves[k] for k in (rest if i < 0 else [*rest, i])))
                    if key not in self.seen:
                        self.measure(key)
                        tries -= 1


# ---------------------------------------------------------------------------------------------- the questions
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WrapFrontier(Result):
    """Choices of modules to wrap, from the least peak to no recomputation; made by :func:`wrap_frontier`.

    ``frontier[i]`` is the plan of a choice, as :meth:`plan` returns it for that peak.

    Attributes
    ----------
    name : str
        The network.
    kind : {"modules", "policy"}
    peaks, costs : (k,) int64
        Peak in bytes, rising, and cost of the step, falling, of the choices that none other is better than, of all
        that were measured. The last one wraps nothing.
    plain_cost : int
        Cost of the step without recomputation.
    """

    name: str
    kind: str
    peaks: I64
    costs: I64
    plain_cost: int
    _model: _Model
    _choices: tuple[_Choice, ...]

    @property
    def least_bytes(self) -> int:
        """The least peak that was found."""
        return int(self.peaks[0])

    @property
    def keep_bytes(self) -> int:
        """The peak without regions."""
        return int(self._model.plan.peak_bytes)

    @property
    def modules(self) -> I64:
        """(k,) int64: how many modules each choice wraps."""
        return column([len(c.options) for c in self._choices])

    @property
    def overhead(self) -> F64:
        """(k,) float64: what is recomputed, as a share of the plain step."""
        share: F64 = (self.costs - self.plain_cost) / max(self.plain_cost, 1)
        return share

    @property
    def knee(self) -> int:
        """Position of the choice farthest below the line from the first to the last, both axes scaled to 1."""
        return knee_of(self.peaks, self.costs)

    def plan(self, budget: int | str) -> WrapPlan:
        """Return the cheapest plan within a budget, or, if there is none, that of the least peak.

        Raises
        ------
        UnitError
            If the budget is no amount of bytes.
        """
        nbytes = parse_bytes(budget)
        k = int(np.searchsorted(self.peaks, nbytes, side="right")) - 1
        return _plan(self._model, self.kind, nbytes, self._choices[max(k, 0)], self.least_bytes)

    def __len__(self) -> int:
        return len(self.peaks)

    def __getitem__(self, i: int) -> WrapPlan:
        """Return the plan of a choice, with its own peak as budget.

        Raises
        ------
        IndexError
            If there are fewer.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"choice {i} of {len(self)}")
        return self.plan(int(self.peaks[i]))

    def __repr__(self) -> str:
        return (f"<WrapFrontier {self.name!r}: {len(self):,} {self.kind}, {self.least_bytes:,} to "
                f"{int(self.peaks[-1]):,} B>")  # fmt: skip


def plan_wraps(
    step: StepGraph,
    budget: int | str,
    *,
    kind: Kind = "modules",
    seed: int = 0,
    modules: Collection[str] | None = None,
    recompute_random: bool = False,
) -> WrapPlan:
    """Choose modules to wrap with ``torch.utils.checkpoint`` such that the step stays within a budget.

    The forward of a wrapped module, a *region*, packs nothing for backward: its inputs are held instead, and it runs
    again as soon as backward needs the first tensor that it packed. Counted is what
    :func:`cnnlive.plan.training.plan_training` counts, of PyTorch 2.13 with ``use_reentrant=False`` and early stop: to
    the byte what the step then takes, not an estimate.

    Parameters
    ----------
    step : StepGraph
    budget : int or str
        Bytes of the whole step.
    kind : {"modules", "policy"}
        ``"modules"``: regions recompute everything. ``"policy"``: they may save results of convolutions, linear layers
        and matrix products (``context_fn=create_selective_checkpoint_contexts``, ``MUST_SAVE``) and recompute the
        rest. Any choice of modules is also one of policies.
    seed : int
        Of the order in which choices are improved. The same seed gives the same plan; with it, more budget never
        costs more.
    modules : collection of str, optional
        The modules that may be wrapped; of a real net those whose forward is called. Default: what the paths of the
        ops show to be a call. A path that has only numbered children is a sequence, which is called, or a mere list:
        it is taken for a sequence if one tensor goes in, not the network's input, and is held by Python until the last
        child has run, whose result alone is read outside.
    recompute_random : bool
        Modules with random ops, such as dropout, may be wrapped: the state of the generator is then kept for each.

    Returns
    -------
    WrapPlan
        The cheapest that was found; if none fits, that of the least peak, with ``fits`` False.

    Raises
    ------
    RematError
        If the kind or a module is unknown.
    UnitError
        If the budget is no amount of bytes.

    Notes
    -----
    Regions never nest or overlap, and each runs again once. A module cannot be a region if it runs more than once, if
    it overwrites its input in place or something else does so later (what runs again would read what was written), if
    it draws random numbers (unless asked), if the loss does not lead back to some of it, or if its weights are shared
    and autocast casts them. What it reads has to be handed to it as tensors: a list that is appended to later is
    another one when it runs again.

    Up to 4 000 choices are all measured, so that the plan is the best there is. In larger nets a choice is built along
    the tape, in bytes that regions spare before each stretch (a two-criteria shortest path for each of 32 budgets),
    and then improved one region at a time; a measurement takes O(records + storages), some 50 microseconds for
    ResNet-50. All budgets have the same choices: see :func:`wrap_frontier`, which answers many at the cost of one.

    The rules are those of torch/utils/checkpoint.py (2.13): inputs and saved results live until the last backward node
    of the region has let go of what it packed; a recomputed tensor until its backward node has returned, which is
    before sums to the shape of an input; recomputation ends when the last tensor is packed, which for an op that packs
    only what it reads is before it runs.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnlive import zoo
    >>> from cnnlive.plan.steps import step_graph
    >>> from cnnlive.plan.training import plan_training
    >>> training = plan_training(zoo.load("resnet50"), batch=16)
    >>> cost = np.ones(training.tape.n_records, np.int64)
    >>> plan = plan_wraps(step_graph(training, cost, cost), "1300MiB")
    >>> plan.fits, plan.keep_bytes > plan.peak_bytes
    (True, True)
    >>> [r.module for r in plan.regions[:1]]
    ['layer1']
    """
    nbytes = parse_bytes(budget)
    return wrap_frontier(step, kind=kind, seed=seed, modules=modules, recompute_random=recompute_random).plan(nbytes)


def wrap_frontier(
    step: StepGraph,
    *,
    kind: Kind = "modules",
    seed: int = 0,
    modules: Collection[str] | None = None,
    recompute_random: bool = False,
) -> WrapFrontier:
    """Return the choices of modules for all budgets; options, errors and complexity as for :func:`plan_wraps`."""
    if kind not in KINDS:
        raise RematError(f"kind={kind!r}; allowed: {', '.join(map(repr, KINDS))}")
    model = _Model(step, modules, recompute_random)
    best = _Search(model, kind, seed).best
    return WrapFrontier(step.plan.name, kind, column([c.peak for c in best]), column([c.cost for c in best]),
                        model.plain_cost, model, tuple(best))  # fmt: skip


def simulate_wraps(step: StepGraph, regions: Iterable[Region], *, budget: int | str | None = None) -> WrapPlan:
    """Return what a step takes and costs with given modules wrapped.

    Parameters
    ----------
    step : StepGraph
    regions : iterable of Region
        In any order.
    budget : int or str, optional
        Bytes that ``fits`` is about.

    Returns
    -------
    WrapPlan
        ``least_bytes`` is its own peak.

    Raises
    ------
    RematError
        If a region is no module that can be wrapped, overlaps with another or saves what cannot be saved; the message
        names it, and why.
    UnitError
        If the budget is no amount of bytes.
    """
    given = list(regions)
    model = _Model(step, [r.module for r in given], True)
    of = {(s.lo, s.hi): k for k, s in enumerate(model.spans)}
    number = {m: of[a, b] for m, (a, b) in model.found.items() if (a, b) in of}
    options = []
    names = model.net.op_names
    for r in given:
        if r.module not in number:
            why = next((why for why, left in model.left_out.items() if r.module in left), None)
            raise RematError(f"module {r.module!r} cannot be wrapped: it {why or 'packs nothing for backward'}")
        span = model.spans[number[r.module]]
        if span.random and not r.random:
            raise RematError(f"module {r.module!r} draws random numbers; allowed: a region with random=True, which "
                             "keeps the generator's state")  # fmt: skip
        known = {names[model.op_of[p]]: p for p in span.saveable}
        for name in r.saved:
            if name not in known:
                raise RematError(
                    f"region {r.module!r} cannot save {name!r}; allowed: its convolutions, linear layers and matrix "
                    f"products that nothing overwrites: {', '.join(known) or 'none'}"
                )
        options.append((number[r.module], tuple(sorted({known[name] for name in r.saved}))))
    options.sort()
    for (a, _), (b, _) in pairwise(options):
        if model.spans[b].lo < model.spans[a].hi:
            raise RematError(f"modules {model.spans[a].module!r} and {model.spans[b].module!r} overlap; allowed: "
                             "regions that do not")  # fmt: skip
    made = [model.option(*o) for o in options]
    choice = _Choice(model.peak(made), model.plain_cost + sum(o.cost for o in made), tuple(options))
    kind = "policy" if any(r.saved for r in given) else "modules"
    return _plan(model, kind, None if budget is None else parse_bytes(budget), choice, choice.peak)


def _plan(model: _Model, kind: str, budget: int | None, choice: _Choice, least: int) -> WrapPlan:
    names = model.net.op_names
    spans = [model.spans[k] for k, _ in choice.options]
    regions = tuple(
        Region(span.module, tuple(names[model.op_of[p]] for p in saved), span.random)
        for span, (_, saved) in zip(spans, choice.options, strict=True)
    )
    timeline = model.timeline([model.option(*o) for o in choice.options])
    return WrapPlan(model.plan.name, kind, budget, budget is None or choice.peak <= budget, choice.peak, least,
                    model.plan.peak_bytes, choice.cost, model.plain_cost, regions, timeline,
                    tuple(_warnings(model, choice)))  # fmt: skip


def _warnings(model: _Model, choice: _Choice) -> list[str]:
    """Return what running modules twice changes, and which were left out."""
    names = model.net.op_names
    spans = [model.spans[k] for k, _ in choice.options]
    found = []
    norms = [names[op] for span in spans for op in span.norms]
    if norms:
        found.append(
            f"the running statistics of {_listed(norms)} are updated twice in each step, unless the second time is "
            "undone, to which cnnlive.torch.apply sees: otherwise give a momentum m as 1 - sqrt(1 - m), 0.0513 for "
            "0.1; for momentum=None there is no such value"
        )
    random = [span.module for span in spans if span.random]
    if random:
        found.append(f"{_listed(random)} draw random numbers again: the generator's state has to be kept "
                     "(preserve_rng_state=True)")  # fmt: skip
    for why, left in model.left_out.items():
        several = [m for m in left if m not in names]
        if several:
            found.append(f"not wrapped, since each {why}: {_listed(several)}")
    return found


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
