"""A training step node by node, as recomputation sees it: what may be made again, and what only happens once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from cnnlive._types import I64, Columns, column, csr
from cnnlive.errors import RematError
from cnnlive.plan.remat import RematProblem
from cnnlive.plan.training import TrainingPlan, _optimizer_step

__all__ = ["FORWARD", "StepGraph", "step_graph"]

FORWARD, BACKWARD, OPTIMIZER = range(3)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StepGraph(Columns):
    """One training step as a problem of recomputation; made by :func:`step_graph`.

    Attributes
    ----------
    plan : TrainingPlan
        The step in which everything is kept.
    problem : RematProblem
        Its peak with everything kept is ``plan.peak_bytes``.
    record : (n_nodes,) int64
        The record of ``plan.tape`` that a node belongs to; -1 for the start, the optimizer and releases.
    phase : (n_nodes,) int64
        0 forward, 1 backward, 2 optimizer.
    store : (n_values,) int64
        The storage of the tape that a value lies in; ops in place make several values of one storage. -1: made by
        backward.
    """

    plan: TrainingPlan
    problem: RematProblem
    record: I64
    phase: I64
    store: I64

    def __repr__(self) -> str:
        return f"<StepGraph {self.problem.name!r}: {self.problem.n:,} nodes, {self.problem.loss + 1:,} of them forward>"


def step_graph(plan: TrainingPlan, forward: I64, backward: I64, *, recompute_random: bool = False) -> StepGraph:
    """Write a training step as a problem of recomputation.

    A forward record is a node that reads storages and makes or overwrites some. Python's frames hold a storage at
    least as long as they do without recomputation: where nothing reads it at the end of that time, a node that costs
    nothing does, a *release*. A backward record is a node, or a few where what it makes and frees in turn does not fit
    "inputs, outputs and scratch at once". What backward makes cannot be made again. The optimizer's step is the last
    node.

    Parameters
    ----------
    plan : TrainingPlan
    forward, backward : (n_records,) int64
        What each record costs to run forward and backward, in any unit.
    recompute_random : bool
        Ops that draw random numbers may run again.

    Returns
    -------
    StepGraph

    Raises
    ------
    RematError
        If the costs are not one for each record.

    Notes
    -----
    O(events of the step).
    """
    tape = plan.tape
    for what, costs in (("forward", forward), ("backward", backward)):
        if len(costs) != tape.n_records:
            raise RematError(f"{what} has {len(costs)} costs; allowed: one for each of {tape.n_records} records")
    nodes = _Nodes(plan, recompute_random)
    nodes.run_forward(forward.tolist())
    nodes.run_backward(backward.tolist())
    nodes.step()
    return nodes.graph()


class _Part(NamedTuple):
    """A stretch of backward: what is made, then what is let go; ``saved``: saved storages are let go by its end."""

    made: list[int]
    freed: list[int]
    saved: bool


class _Group(NamedTuple):
    """Stretches that are one node: what is made and what is let go, the most bytes that it adds and those it leaves.

    ``behind``: saved storages were let go before it begins; ``saved``: by its end.
    """

    made: list[int]
    freed: set[int]
    most: int
    left: int
    behind: bool
    saved: bool


class _Nodes:
    """Collects the columns of a problem."""

    def __init__(self, plan: TrainingPlan, recompute_random: bool) -> None:
        self.plan = plan
        self.tape = tape = plan.tape
        self.recompute_random = recompute_random
        run = plan._run
        self.nbytes: list[int] = run.nbytes.tolist()
        self.events: list[int] = run.events[: int(run.answer[0])].tolist()
        self.marks: list[list[int]] = run.marks.tolist()
        self.n_forward_events = int(run.answer[18])
        n = tape.n_records
        self.rows = {
            name: _rows(getattr(tape, name + "_ptr"), getattr(tape, name + "_idx"))
            for name in ("alloc", "drop", "saved", "read")
        }
        self.n_records = n
        self.names = _names(plan)
        # columns of nodes
        self.name: list[str] = []
        self.record: list[int] = []
        self.phase: list[int] = []
        self.cost: list[int] = []
        self.scratch: list[int] = []
        self.again: list[int] = []
        self.outs: list[list[int]] = []
        self.reads: list[list[int]] = []
        # columns of values
        self.size: list[int] = []
        self.store: list[int] = []
        self.share: list[int] = []
        self.over: list[int] = []
        self.held: list[int] = []
        self.outlives: list[int] = []
        self.value_of: dict[int, int] = {}  # storage to the value that lies in it now
        self.loss = 0
        before, behind = plan._floors
        self.fixed = behind
        self.before = before - behind  # old gradients that go between forward and backward

    def node(self, name: str, record: int, phase: int, cost: int, reads: Sequence[int], scratch: int = 0,
             again: bool = False) -> int:  # fmt: skip
        self.name.append(name)
        self.record.append(record)
        self.phase.append(phase)
        self.cost.append(cost)
        self.scratch.append(scratch)
        self.again.append(int(again))
        self.reads.append(sorted(set(reads)))
        self.outs.append([])
        return len(self.name) - 1

    def value(self, node: int, nbytes: int, store: int, share: int = -1) -> int:
        v = len(self.size)
        self.outs[node].append(v)
        self.size.append(nbytes)
        self.store.append(store)
        self.share.append(share)
        self.over.append(int(share >= 0))
        self.held.append(-1)
        return v

    def run_forward(self, cost: Sequence[int]) -> None:
        """Add the forward records, and what lets storages go after their last reader."""
        tape, held = self.tape, self.held
        over, random, pinned = tape.over.tolist(), tape.random.tolist(), tape.pinned.tolist()
        alloc, drop, read = self.rows["alloc"], self.rows["drop"], self.rows["read"]
        now = self.value_of
        last: dict[int, int] = {}  # value to its last reader so far
        old = -1
        if self.before:
            old = self.value(self.node("gradients of the step before", -1, FORWARD, 0, []), self.before, -1)
        for r in range(self.n_records):
            works = bool(alloc[r]) or over[r] >= 0
            reads = [now[s] for s in (*read[r], over[r]) if s in now] if works else []
            may = works and tape.records[r][0] >= 0 and not pinned[r] and (self.recompute_random or not random[r])
            i = self.node(self.names[r], r, FORWARD, cost[r] if works else 0, reads, again=may)
            for v in reads:
                last[v] = i
            for s in alloc[r]:
                now[s] = self.value(i, self.nbytes[s], s)
            s = over[r]
            if s >= 0:
                v = now[s]
                held[v] = i
                now[s] = self.value(i, self.nbytes[s], s, v)
            late = []
            for s in drop[r]:
                v = now[s]
                reader = last.get(v, -1)
                if reader == i:
                    held[v] = i
                elif v not in self.outs[i]:
                    late.append(v)
            if late:
                i = self.node(f"{self.names[r]} (release)", -1, FORWARD, 0, late)
                for v in late:
                    held[v] = i
        if old >= 0:
            held[old] = self.node("gradients of the step before (release)", -1, FORWARD, 0, [old])
        self.loss = len(self.name) - 1

    def run_backward(self, cost: Sequence[int]) -> None:
        """Add the backward records that run, each as one node or a few."""
        now = self.value_of
        numbers = set(self.tape.numbers.tolist())
        active = [p for p in range(self.n_records - 1, -1, -1) if self.marks[p][2] > 0]
        for k, p in enumerate(active):
            begin, release, end = self.marks[p]
            begin = self.n_forward_events if k == 0 else begin  # the gradient of the loss
            end = len(self.events) if k == len(active) - 1 else end
            saved = [now[s] for s in self.rows["saved"][p] if s in now]
            parts = _parts(self.events[begin:end], release - begin, bool(saved))
            for j, group in enumerate(_groups(parts, self.nbytes)):
                reads = [now[s] for s in group.freed if s in now and self.store[now[s]] < 0]
                reads += [] if group.behind else saved
                made = [s for s in group.made if s not in group.freed]
                scratch = group.most - sum(self.nbytes[s] for s in made)
                name = f"{self.names[p]} backward" + (f" ({j + 1})" if j else "")
                i = self.node(name, p, BACKWARD, 0 if j else cost[p], reads, scratch)
                for s in self.rows["saved"][p]:
                    if s in numbers and now[s] in reads:
                        self.held[now[s]] = i  # a number that PyTorch wraps, which the node itself holds
                for s in made:
                    now[s] = self.value(i, self.nbytes[s], -1)

    def step(self) -> None:
        """Add the optimizer's step, which finds what outlives backward."""
        p = self.plan
        peak = _optimizer_step(p.tape, p.optimizer, p.device, p.first_step, p.late_step).peak
        freed = {-e - 1 for e in self.events if e < 0}
        alive = [v for s, v in self.value_of.items() if s not in freed]
        i = self.node("optimizer.step", -1, OPTIMIZER, 0, alive, peak)
        self.outlives = [0] * len(self.size)
        for v in alive:
            self.outlives[v] = 1
            self.held[v] = i

    def graph(self) -> StepGraph:
        out_ptr = column([0, *accumulate(map(len, self.outs))])
        in_ptr, in_idx = csr(self.reads)
        problem = RematProblem(
            self.plan.name, tuple(self.name), self.loss, self.fixed, column(self.cost), column(self.scratch),
            column(self.again), out_ptr, column(self.size), in_ptr, in_idx, column(self.share), column(self.over),
            column(self.outlives), column(self.held),
        )  # fmt: skip
        return StepGraph(self.plan, problem, column(self.record), column(self.phase), column(self.store))


def _groups(parts: Sequence[_Part], nbytes: Sequence[int]) -> list[_Group]:
    """Put stretches together where one node says the same.

    That is so if the most is no less than what outlives the group, and if no instant after saved storages are let go,
    which recomputation may have made smaller or not, has more than those before.
    """
    found: list[_Group] = []
    for part in parts:
        size, gone = sum(nbytes[s] for s in part.made), sum(nbytes[s] for s in part.freed)
        if found:
            last = found[-1]
            made, freed, top = last.made + part.made, last.freed | set(part.freed), last.left + size
            most = max(last.most, top)
            released = last.saved and not last.behind
            if (not released or top <= last.most) and most >= sum(nbytes[s] for s in made if s not in freed):
                found[-1] = _Group(made, freed, most, top - gone, last.behind, part.saved)
                continue
        behind = bool(found) and found[-1].saved
        found.append(_Group(part.made, set(part.freed), size, size - gone, behind, part.saved))
    return found


def _parts(events: Sequence[int], release: int, saves: bool) -> list[_Part]:
    """Cut a record's backward after everything that is let go before something more is made."""
    found: list[_Part] = []
    made: list[int] = []
    freed: list[int] = []
    ends = gone = False
    for k, e in enumerate(events):
        if k == release and saves:
            ends = gone = True
        if e < 0:
            freed.append(-e - 1)
            ends = True
            continue
        if ends:
            found.append(_Part(made, freed, gone))
            made, freed, ends = [], [], False
        made.append(e - 1)
    return [*found, _Part(made, freed, saves)]


def _names(plan: TrainingPlan) -> list[str]:
    """Name each record by its op, with what PyTorch runs where the op has several records."""
    ops = plan.network.op_names
    of = [op for op, _ in plan.tape.records]
    many = Counter(of)
    names = [("loss" if op < 0 else ops[op]) + (f" ({name})" if many[op] > 1 else "")
             for op, name in plan.tape.records]  # fmt: skip
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found


def _rows(ptr: I64, idx: I64) -> list[list[int]]:
    a, b = ptr.tolist(), idx.tolist()
    return [b[i:j] for i, j in pairwise(a)]
