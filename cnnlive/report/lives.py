"""What is alive at each step of a timeline, buffer by buffer: the other side of what a timeline adds up.

Names, sizes and half-open lives over the steps of the plan's own timeline. What is there all the time (weights,
optimizer state, the inputs of a training step) is not listed; everything else is, so that the buffers alive at a step
add up to its bytes above that.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from cnnlive._types import I64, frozen
from cnnlive.report.frame import TRAINING_KINDS, training_instants, training_kinds
from cnnlive.report.text import shape_text

__all__ = ["Lives", "alive_at", "inference_lives", "node_words", "remat_instants", "remat_lives", "training_lives"]


class Lives(NamedTuple):
    """Columns of buffers; ``what`` is a shape and type or the op that made it, ``kind`` what it is there for.

    ``[born, dead)`` are steps; ``scope`` is the path of the modules around the op that makes the buffer.
    """

    name: list[str]
    what: list[str]
    scope: list[str]
    kind: list[str]
    nbytes: I64
    born: I64
    dead: I64


def alive_at(lives: Lives, n_steps: int) -> I64:
    """Return the bytes alive at each step; (n_steps,) int64.

    Parameters
    ----------
    lives : Lives
    n_steps : int
    """
    change = np.zeros(n_steps + 1, np.int64)
    np.add.at(change, lives.born, lives.nbytes)
    np.add.at(change, lives.dead, -lives.nbytes)
    return frozen(np.cumsum(change)[:n_steps])


def _lives(rows: Sequence[tuple[str, str, str, str, int, int, int]]) -> Lives:
    name, what, scope, kind, nbytes, born, dead = map(list, zip(*rows, strict=True)) if rows else ([],) * 7
    numbers = [np.array(c, np.int64) for c in (nbytes, born, dead)]
    return Lives(name, what, scope, kind, *numbers)


def _steps_of(at: I64, begin: I64, end: I64) -> tuple[I64, I64]:
    """Return the steps at whose instants something is alive that events `begin` and `end` make and free.

    `at` is the number of events before each step's instant, and never falls.
    """
    return np.searchsorted(at, begin), np.searchsorted(at, end)


def _rest(kind: str, name: str, what: str, nbytes: I64) -> list[tuple[str, str, str, str, int, int, int]]:
    """Return what is left over at each step as buffers, as long as it stays the same."""
    cuts = [0, *(np.flatnonzero(np.diff(nbytes)) + 1).tolist(), len(nbytes)]
    return [(name, what, "", kind, int(nbytes[a]), a, b) for a, b in pairwise(cuts)
            if b > a and nbytes[a]]  # fmt: skip


def inference_lives(plan: Any) -> Lives:
    """Return every buffer of an inference, and the scratch of its ops.

    Parameters
    ----------
    plan : InferencePlan

    Returns
    -------
    Lives
        Kinds ``"input"``, ``"output"``, ``"activation"`` and ``"scratch"``. The sum is ``plan.timeline``.

    Notes
    -----
    O(n_ops + n_tensors).
    """
    net = plan.network
    lives = plan._lives
    ends = {b.name: "output" for b in plan.outputs} | {b.name: "input" for b in plan.inputs}
    rows = []
    for t in np.flatnonzero(lives.part_born < lives.part_dead).tolist():
        b = plan._part(t)
        what = f"{shape_text([b.shape])} {b.dtype}"
        kind = ends.get(b.name, "activation")
        rows.append((b.name, what, net.op_scopes[int(net.producer[t])], kind, b.nbytes, b.born, b.dead))
    for step, op in enumerate(plan.order.tolist()):
        nbytes = int(plan._scratch[op])
        if nbytes:
            name, what = f"scratch of {net.op_names[op]}", f"allocated and dropped by {net.op_kinds[op]}"
            rows.append((name, what, net.op_scopes[op], "scratch", nbytes, step, step + 1))
    return _lives(rows)


def training_lives(plan: Any) -> Lives:
    """Return what a training step makes and lets go.

    Parameters
    ----------
    plan : TrainingPlan

    Returns
    -------
    Lives
        Kinds as in :data:`cnnlive.report.frame.TRAINING_KINDS`, from ``"gradients"`` on; names as in
        ``plan.live_at_peak``. The sums by kind are those of :func:`cnnlive.report.frame.training_kinds`.

    Notes
    -----
    O(events of the step).
    """
    run, tape, net = plan._run, plan.tape, plan.network
    n, n_events = tape.n_records, int(run.answer[0])
    events = run.events[:n_events]
    store = np.abs(events) - 1
    begin = np.full(len(run.kind), n_events + 1, np.int64)
    end = begin.copy()
    number = np.arange(1, n_events + 1)
    begin[store[events > 0]] = number[events > 0]
    end[store[events < 0]] = number[events < 0]
    born, dead = _steps_of(training_instants(plan)[0], begin, end)
    saved = np.zeros(len(run.kind), bool)
    saved[tape.saved_stores] = True
    sizes = net.sizes_at(plan.batch)
    made = len(tape.store_spec)
    rows = []
    for s in np.flatnonzero((born < dead) & (begin <= n_events)).tolist():
        op, record = tape.records[int(run.owner[s]) % n]
        node = "loss" if op < 0 else net.op_names[op]
        scope = "" if op < 0 else net.op_scopes[op]
        tensor = int(tape.store_tensor[s]) if s < made else -1
        if run.kind[s] == 2:
            kind = "gradients"
        elif run.kind[s] == 1:
            kind = "temporaries"
        else:
            kind = "saved" if saved[s] else "activations"
        if tensor >= 0:
            name, what = net.tensor_name(tensor), shape_text([net.shape(tensor, sizes)])
        else:
            name = f"{node} ({record}{'' if s < made else ' backward'})"
            what = record if s < made else f"{record} backward"
        rows.append((name, what, scope, kind, int(run.nbytes[s]), int(born[s]), int(dead[s])))
    # Gradients that were there before, and what the optimizer's step makes, are no events of the tape.
    kinds = training_kinds(plan)
    for row, kind in enumerate(TRAINING_KINDS[4:], 4):
        mine = [r for r in rows if r[3] == kind]
        rest = kinds[row] - alive_at(_lives(mine), kinds.shape[1])
        if kind == "gradients":
            rows += _rest(kind, "gradients of earlier passes", "of all parameters", rest)
        else:
            rows += _rest(kind, "optimizer.step", plan.optimizer.name, rest)
    return _lives(rows)


def remat_instants(plan: Any) -> tuple[I64, list[tuple[int, int, str, int, int]]]:
    """Replay the schedule of a plan with recomputation.

    Parameters
    ----------
    plan : RematPlan

    Returns
    -------
    at : (n_nodes,) int64
        The event that is the worst instant of each node's step.
    held : list of (value or node, node, kind, first event, event behind the last)
        What is alive then: ``"value"`` by number, ``"scratch"`` of a node, ``"twice"`` for an output that was there
        already and is made beside the other.
    """
    problem = plan.problem
    out_ptr, sizes, share = problem.out_ptr.tolist(), problem.nbytes.tolist(), problem.share.tolist()
    over, scratch = problem.overwrites.tolist(), problem.scratch.tolist()
    at = np.zeros(problem.n, np.int64)
    held: list[tuple[int, int, str, int, int]] = []
    # Buffers have numbers of their own: a value may be made again while what overwrote it lives on in its first bytes.
    buffer: dict[int, int] = {}  # value to its buffer
    members: dict[int, set[int]] = {}
    since: list[tuple[int, int, int]] = []  # of each buffer: the value that began it, its node, the event
    done, most, used, event = 0, -1, 0, 0

    def free(b: int) -> None:
        nonlocal used
        for v in members.pop(b):
            del buffer[v]
        first, node, begin = since[b]
        held.append((first, node, "value", begin, event + 1))
        used -= sizes[first]

    for what, x in plan.schedule:
        if what == "free":
            free(buffer[x])
            continue
        event += 1
        outputs = range(out_ptr[x], out_ptr[x + 1])
        now = used + scratch[x] + sum(sizes[v] for v in outputs if share[v] < 0)
        if scratch[x]:
            held.append((x, x, "scratch", event, event + 1))
        for v in outputs:
            if share[v] < 0:
                if v in buffer:
                    held.append((v, x, "twice", event, event + 1))
                else:
                    buffer[v] = len(since)
                    members[len(since)] = {v}
                    since.append((v, x, event))
                    used += sizes[v]
            elif over[v]:
                b = buffer[share[v]]
                if v in buffer:
                    free(b)
                else:
                    for w in members[b]:
                        del buffer[w]
                    members[b], buffer[v] = {v}, b
            elif v not in buffer:
                buffer[v] = buffer[share[v]]
                members[buffer[v]].add(v)
        if now > most:
            most, at[done] = now, event
        if x == done:  # a node's step ends with its own first run
            done, most = done + 1, -1
    event += 1
    for b in list(members):
        free(b)
    return frozen(at), held


def remat_lives(plan: Any) -> Lives:
    """Return what a plan with recomputation holds: values as often as they are made, and scratch.

    Parameters
    ----------
    plan : RematPlan or CheckpointPlan

    Returns
    -------
    Lives
        Kinds ``"forward"`` (made by forward nodes, again or not), ``"backward"``, ``"gradients"`` (made by backward and
        there to the end) and ``"scratch"``. With ``problem.fixed_bytes`` the sum is ``plan.timeline``.
    """
    whole = hasattr(plan, "step")
    problem = (plan.remat if whole else plan).problem
    at, held = remat_instants(plan.remat if whole else plan)
    first = problem.out_ptr.tolist()
    name_of, what_of, scope_of = node_words(plan)
    begin, end = (np.array([h[k] for h in held], np.int64) for k in (3, 4))
    born, dead = _steps_of(at, begin, end)
    made = set[int]()
    rows = []
    for k, (x, node, what, _, _) in enumerate(held):
        if what == "scratch":
            nbytes, kind, name = int(problem.scratch[x]), "scratch", f"scratch of {name_of[node]}"
        else:
            nbytes = int(problem.nbytes[x])
            kind = "forward" if node <= problem.loss else "gradients" if problem.outlives[x] else "backward"
            out = x - first[node]
            name = name_of[node] + (f":{out}" if first[node + 1] - first[node] > 1 else "")
        words = what_of[node]
        if what == "twice" or (what == "value" and x in made):
            words = f"{words}, made again" if words else "made again"
        if what == "value":
            made.add(x)
        if born[k] < dead[k] and nbytes:
            rows.append((name, words, scope_of[node], kind, nbytes, int(born[k]), int(dead[k])))
    return _lives(rows)


def node_words(plan: Any) -> tuple[list[str], list[str], list[str]]:
    """Return the op, the op of PyTorch and the scope of each node of a plan with recomputation.

    A node that belongs to no op goes by its own name.

    Parameters
    ----------
    plan : RematPlan or CheckpointPlan
    """
    if not hasattr(plan, "step"):
        n = plan.problem.n
        return list(plan.problem.names), [""] * n, [""] * n
    net, tape, phases = plan.training.network, plan.training.tape, plan.step.phase.tolist()
    names, whats, scopes = [], [], []
    for node, phase, record in zip(plan.step.problem.names, phases, plan.step.record.tolist(), strict=True):
        op, what = tape.records[record] if record >= 0 else (None, "")
        known = op is not None and op >= 0
        names.append(net.op_names[op] if known else "optimizer.step" if phase == 2 else node)
        whats.append(f"{what} backward" if what and phase == 1 else what)
        scopes.append(net.op_scopes[op] if known else "")
    return names, whats, scopes
