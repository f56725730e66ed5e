"""Running checkpoint plans in PyTorch: what a plan drops is dropped, what it recomputes is recomputed, when it says so.

A :class:`cnnlive.plan.checkpoint.CheckpointPlan` is carried out op by op. Forward runs under hooks of saved tensors,
which hand autograd tokens in place of tensors, and under a dispatch mode below autograd, which notes for every record
of the plan's tape the ops that PyTorch runs. Backward asks for what a node has saved; that is when the plan's schedule
is carried on to the node: ops run again on what is there, and what the schedule frees is let go.
A :class:`cnnlive.plan.wraps.WrapPlan` is carried out by ``torch.utils.checkpoint``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cnnlive.errors import GraphError, MissingExtraError, RematError, ShapeError, close_names, import_extra
from cnnlive.io.torch import from_torch
from cnnlive.lowered import lower
from cnnlive.ops import operator
from cnnlive.plan.checkpoint import CheckpointPlan
from cnnlive.plan.training import tape_bytes
from cnnlive.plan.wraps import WrapPlan

if TYPE_CHECKING:
    from types import TracebackType

    from cnnlive.plan.steps import StepGraph
    from cnnlive.plan.wraps import Region

__all__ = ["Applied", "applied", "apply", "remove"]

_NAME: Final = "_cnnlive_applied"


@functools.cache
def _torch() -> Any:
    """Return the package torch; without types, which would take mypy through all of it."""
    return import_extra("torch", "torch", "running a plan")


# ---------------------------------------------------------------------------------- what a plan says, for this file

Action: TypeAlias = tuple[str, int]  # ("run", record) or ("free", value)


@dataclass(frozen=True, slots=True)
class _Step:
    """What the schedule does for one record of backward: before its node runs, and behind it."""

    record: int
    before: tuple[Action, ...]
    needs: tuple[int, ...]
    behind: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class _Program:
    """A schedule by records of the tape and values of the problem.

    Attributes
    ----------
    name, batch : str, int
    labels : tuple of str
        Each record's op and PyTorch's name of it, for messages.
    n_graph : int
        Records from here on are the loss.
    allocs : tuple of tuple of int
        Storages that each record makes and a dispatch mode can see, in order.
    over : tuple of int
        The storage that each record overwrites, or -1.
    made : tuple of dict
        For each record: storage to the value that lies in it afterwards.
    changed : dict
        Record that overwrites to the value before and the value after.
    maker : dict
        Value to the record that makes it.
    frees : tuple of tuple of int
        Values that are freed once a record has run forward.
    steps : tuple of _Step
    step_of : dict
        Record to its place in `steps`.
    draws : frozenset of int
        Records that draw random numbers and run again.
    """

    name: str
    batch: int
    labels: tuple[str, ...]
    n_graph: int
    allocs: tuple[tuple[int, ...], ...]
    over: tuple[int, ...]
    made: tuple[dict[int, int], ...]
    changed: dict[int, tuple[int, int]]
    maker: dict[int, int]
    frees: tuple[tuple[int, ...], ...]
    steps: tuple[_Step, ...]
    step_of: dict[int, int]
    draws: frozenset[int]


def _program(step: StepGraph, schedule: Sequence[tuple[str, int]]) -> _Program:
    """Sort a schedule by the records of the tape.

    Raises
    ------
    RematError
        If it runs a forward node again before backward begins, where Python's frames hold what is read.
    """
    tape, problem = step.plan.tape, step.problem
    n = tape.n_records
    net = step.plan.network
    labels = tuple(f"{'loss' if op < 0 else net.op_names[op]} ({name})" for op, name in tape.records)
    record, phase, store = step.record.tolist(), step.phase.tolist(), step.store.tolist()
    out_ptr, in_ptr, in_idx = problem.out_ptr.tolist(), problem.in_ptr.tolist(), problem.in_idx.tolist()
    share = problem.share.tolist()  # in a step graph only ops in place share bytes: views are no values
    numbers = set(tape.numbers.tolist())  # no dispatch mode sees them made
    alloc_ptr, alloc_idx = tape.alloc_ptr.tolist(), tape.alloc_idx.tolist()
    nbytes = step.plan._run.nbytes.tolist()
    allocs = tuple(
        tuple(s for s in alloc_idx[a:b] if s not in numbers and nbytes[s] > 0) for a, b in pairwise(alloc_ptr)
    )
    overwritten = tuple(tape.over.tolist())
    made: list[dict[int, int]] = [{} for _ in range(n)]
    changed: dict[int, tuple[int, int]] = {}
    maker: dict[int, int] = {}
    for i, p in enumerate(record):
        if p < 0 or phase[i] != 0:
            continue
        for v in range(out_ptr[i], out_ptr[i + 1]):
            made[p][store[v]] = v
            maker[v] = p
            if share[v] >= 0:
                changed[p] = (share[v], v)
    seen = [bool(row) or s >= 0 for row, s in zip(allocs, overwritten, strict=True)]
    frees: list[list[int]] = [[] for _ in range(n)]
    steps: list[tuple[int, list[Action], list[int], list[Action]]] = []
    ran: set[int] = set()
    at = -1  # the last record that a dispatch mode sees
    waiting: list[Action] = []
    forward = True
    for kind, x in schedule:
        if kind == "free":
            if store[x] < 0:
                continue
            if not forward:
                waiting.append(("free", x))
            elif at >= 0:
                frees[at].append(x)
            continue
        p = record[x]
        if phase[x] == 0:
            if x not in ran:
                ran.add(x)
                at = p if p >= 0 and seen[p] else at
            elif forward:
                raise RematError(f"the plan runs {problem.names[x]} again before backward begins; allowed: schedules "
                                 "in which forward runs once, as Python runs it")  # fmt: skip
            elif p >= 0 and made[p]:
                waiting.append(("run", p))
            continue
        forward = False
        needs = [v for v in in_idx[in_ptr[x] : in_ptr[x + 1]] if store[v] >= 0] if phase[x] == 1 else []
        if steps:
            # What is freed before anything runs again belongs to the node before.
            k = next((k for k, (what, _) in enumerate(waiting) if what == "run"), len(waiting))
            steps[-1][3].extend(waiting[:k])
            waiting = waiting[k:]
        if steps and steps[-1][0] == p and p >= 0:
            steps[-1][3].extend(waiting)
            steps[-1][2].extend(needs)
        else:
            steps.append((p, waiting, needs, []))
        waiting = []
    if steps:
        steps[-1][3].extend(waiting)
    found = tuple(_Step(p, tuple(a), tuple(dict.fromkeys(b)), tuple(c)) for p, a, b, c in steps)
    random = tape.random.tolist()
    again = {x for s in found for kind, x in (*s.before, *s.behind) if kind == "run"}
    return _Program(
        step.plan.name, step.plan.batch, labels, n - tape.n_loss, allocs, overwritten, tuple(made), changed, maker,
        tuple(map(tuple, frees)), found, {s.record: k for k, s in enumerate(found) if s.record >= 0},
        frozenset(p for p in again if random[p]),
    )  # fmt: skip


# ---------------------------------------------------------------------------------- one forward and its backward

# Ops that update statistics which are no results: where their running mean and variance stand, or their momentum.
_STATISTICS: Final = {
    "aten::native_batch_norm": (3, 4),
    "aten::cudnn_batch_norm": (3, 4),
    "aten::miopen_batch_norm": (3, 4),
}
# Ops that read no bytes.
_UNREAD: Final = frozenset({"aten::empty_like", "aten::new_empty", "aten::new_empty_strided"})
_MOMENTUM: Final = {"aten::_native_batch_norm_legit": 6, "aten::_batch_norm_with_update": 5}


@dataclass(slots=True)
class _Held:
    """An argument of an op: a value and how the tensor lies in it; or, where forward made none of it, the tensor."""

    value: int
    given: Any
    version: int
    dtype: Any
    size: Any
    stride: Any
    offset: int


@dataclass(slots=True)
class _Call:
    """An op as it was called, and which of its results are values."""

    func: Any
    args: Any
    kwargs: Any
    made: list[tuple[int, int]]
    state: Any = None  # of the generator, before


@dataclass(slots=True)
class _Kind:
    """What the schema of an op says: whether it only looks at bytes that are there, and which arguments it writes."""

    view: bool
    write: bool
    alone: bool  # it writes its first argument and nothing else
    positions: tuple[int, ...]
    names: tuple[str, ...]
    by_name: tuple[tuple[int, str], ...]  # positional arguments that may be given by name
    draws: bool

    def writes(self, args: Any, kwargs: Any) -> list[Any]:
        """Return the tensors that a call writes."""
        found = [args[i] for i in self.positions if i < len(args)]
        found += [kwargs[name] for i, name in self.by_name if i >= len(args) and name in kwargs]
        found += [kwargs[name] for name in self.names if name in kwargs]
        tensors: list[Any] = []
        for x in found:
            tensors += x if isinstance(x, list | tuple) else [x]
        return [t for t in tensors if t is not None]


@functools.cache
def _kind(func: Any) -> _Kind:
    schema = func._schema
    written = [(i, a) for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    infos = [r.alias_info for r in schema.returns]
    view = bool(infos) and all(i is not None and not i.is_write for i in infos)
    n = sum(not a.kwarg_only for a in schema.arguments)
    return _Kind(
        view, bool(written), [i for i, _ in written] == [0] and all(i is not None for i in infos),
        tuple(i for i, a in written if i < n), tuple(a.name for i, a in written if i >= n),
        tuple((i, a.name) for i, a in written if i < n), _torch().Tag.nondeterministic_seeded in func.tags,
    )  # fmt: skip


class _Token:
    """What autograd saves in place of a tensor."""

    __slots__ = (
        "__weakref__", "dtype", "given", "offset", "record", "sequence", "size", "storage", "stride", "value",
        "version",
    )  # fmt: skip

    def __init__(self, x: Any, storage: Any, value: int, sequence: int) -> None:
        self.dtype, self.size, self.stride, self.offset = x.dtype, x.size(), x.stride(), x.storage_offset()
        self.storage = storage
        self.value = value
        self.sequence = sequence
        self.record = -1
        # what forward did not make, as it is
        self.given = None if value >= 0 else x if x.is_leaf else x.detach()
        self.version = 0 if value >= 0 else x._version


def _seen(storage: Any, dtype: Any, size: Any, stride: Any, offset: int) -> Any:
    """Return a storage as a tensor; nothing is allocated."""
    return _torch().empty(0, dtype=dtype, device=storage.device).set_(storage, offset, size, stride)


class _Run:
    """One forward under a program, and the backward that follows; what autograd has saved keeps it alive."""

    def __init__(self, program: _Program, nbytes: Sequence[int], where: Callable[[], str]) -> None:
        torch = _torch()
        self.program = program
        self.nbytes = nbytes
        self.where = where
        self.weak = importlib.import_module("torch.multiprocessing.reductions").StorageWeakRef
        self.peek = torch._C._autograd._get_sequence_nr
        self.tensor = torch.Tensor
        # alignment: the record that comes next, what it has still to make, and the last one that an op belonged to
        self.at = -1
        self.left: list[int] = []
        self.written = False
        self.last = -1
        self.next()
        # values: where they lie; the storages of forward with what lies in them; how to make them again
        self.table: dict[int, Any] = {}
        self.known: dict[int, list[Any]] = {}  # address: weak reference, storage of the tape, value
        self.place: dict[int, list[Any]] = {}  # storage of the tape: the same
        self.calls: dict[int, list[_Call]] = {}
        # tokens
        self.pending: list[_Token] = []
        self.sequence = -1
        self.saved: set[int] = set()
        self.tokens: dict[int, list[weakref.ref[_Token]]] = {}
        # backward
        self.step = 0
        self.watched: dict[int, tuple[Any, int]] = {}
        self.again: dict[int, int] = {}  # record to how often it ran again

    # -------------------------------------------------------------- alignment

    @property
    def over(self) -> bool:
        """Whether every record has run."""
        return self.at == len(self.program.allocs)

    def next(self) -> None:
        """Go to the next record that a dispatch mode sees."""
        p = self.at + 1
        allocs, over = self.program.allocs, self.program.over
        while p < len(allocs) and not allocs[p] and over[p] < 0:
            p += 1
        self.at = p
        self.left = list(allocs[p]) if p < len(allocs) else []
        self.written = False

    def align(self, func: Any, fresh: Sequence[Any], written: set[int]) -> tuple[int, list[int], bool]:
        """Return the record that an op belongs to, what it makes of it, and whether the record is complete with it.

        Raises
        ------
        RematError
            If the tape has another op there.
        """
        found = []
        program, p = self.program, self.at
        for storage in fresh:
            n = storage.nbytes()
            s = next((s for s in self.left if self.nbytes[s] == n), -1)
            if s < 0:
                raise self.differs(func, n)
            self.left.remove(s)
            found.append(s)
        self.written |= program.over[p] in written
        if not fresh and program.over[p] not in written:
            mine = self.program.made[self.last] if self.last >= 0 else {}
            if not all(s in mine and mine[s] not in self.saved for s in written):
                raise RematError(
                    f"{self.where()}: {func} overwrites what an earlier op made, where the plan of "
                    f"{program.name or 'the network'} has {program.labels[p]}; allowed: the module that the plan was "
                    "made for"
                )
            return self.last, found, False
        self.last = p
        return p, found, not self.left and (program.over[p] < 0 or self.written)

    def differs(self, func: Any, n: int) -> RematError:
        """Word the error of an op that the tape does not have."""
        p, program = self.at, self.program
        expected = [self.nbytes[s] for s in self.left]
        then = " and ".join(f"{b:,}" for b in expected) + " bytes" if expected else "no new bytes"
        return RematError(
            f"{self.where()}: {func} makes {n:,} bytes where the plan of {program.name or 'the network'} has "
            f"{program.labels[p]}, which makes {then}; allowed: the module, the shape of inputs, the precision and the "
            "device that the plan was made for"
        )

    def drop(self, v: int) -> None:
        """Let go of a value."""
        self.table.pop(v, None)
        self.watched.pop(v, None)

    def finish(self, p: int) -> None:
        """Carry out what the schedule says once a record has run forward."""
        if p in self.program.changed:
            before, after = self.program.changed[p]
            if before in self.table:
                self.table[after] = self.table.pop(before)
            entry = self.place.get(self.program.over[p])
            if entry is not None:
                entry[2] = after
        for v in self.program.frees[p]:
            self.drop(v)
        self.next()

    # -------------------------------------------------------------- forward

    def dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an op of forward and note it."""
        if self.over:
            self.settle_all(-1, -1)
            return func(*args, **kwargs)
        sequence = self.peek()
        if self.pending:
            self.settle_all(sequence, self.at)
        self.sequence = sequence
        kind = _kind(func)
        if kind.view:
            return func(*args, **kwargs)
        known = self.known
        if kind.alone and args[0].untyped_storage()._cdata not in known:
            return func(*args, **kwargs)  # a counter, a statistic
        given: set[int] = set()
        plain = [self.hold(a, given) for a in args]
        named = {name: self.hold(a, given) for name, a in kwargs.items()}
        written: set[int] = set()
        if kind.write:
            entries = [known.get(t.untyped_storage()._cdata) for t in kind.writes(args, kwargs)]
            written = {e[1] for e in entries if e is not None}
        draws = kind.draws and not self.program.draws.isdisjoint((self.at, self.last))
        state = _random_state(args, kwargs) if draws else None
        out = func(*args, **kwargs)
        fresh = []
        for k, t in enumerate(out if isinstance(out, tuple | list) else (out,)):
            if isinstance(t, self.tensor):
                storage = t.untyped_storage()
                key = storage._cdata
                if key not in given and key not in known and storage.nbytes() and not (k == 3 and _reserves(func)):
                    fresh.append((k, storage))
        if not fresh and not written:
            return out
        p, stores, complete = self.align(func, [storage for _, storage in fresh], written)
        values = self.program.made[p]
        made = []
        for (k, storage), s in zip(fresh, stores, strict=True):
            v = values[s]
            made.append((k, v))
            known[storage._cdata] = self.place[s] = [self.weak(storage), s, v]
            self.table[v] = storage
        if func._schema.name in _UNREAD:  # what they are given is read for its shape alone
            func, plain, named = _as_empty(out)
        self.calls.setdefault(p, []).append(_Call(func, plain, named, made, state))
        if complete:
            self.finish(p)
        return out

    def hold(self, x: Any, given: set[int]) -> Any:
        """Return an argument without the bytes that forward made."""
        if isinstance(x, self.tensor):
            key = x.untyped_storage()._cdata
            given.add(key)
            entry = self.known.get(key)
            if entry is None:
                return _Held(-1, x, x._version, None, None, None, 0)
            return _Held(entry[2], None, 0, x.dtype, x.size(), x.stride(), x.storage_offset())
        if isinstance(x, list | tuple):
            return [self.hold(y, given) for y in x]
        return x

    def end(self, outputs: Any = ()) -> None:
        """Forward is over: what autograd packs from now on is none of this."""
        if self.pending:
            self.settle_all(-1, -1)
        for t in _tensors(outputs):
            self.watch(t)

    def watch(self, t: Any) -> None:
        """Remember the version of a tensor that the caller holds: what it overwrites cannot be read again."""
        entry = self.known.get(t.untyped_storage()._cdata)
        if entry is not None and entry[2] in self.table:
            self.watched[entry[2]] = (weakref.ref(t), t._version)

    # -------------------------------------------------------------- what autograd saves

    def pack(self, x: Any) -> _Token:
        """Return what autograd holds in place of a tensor."""
        storage = x.untyped_storage()
        entry = self.known.get(storage._cdata)
        sequence = self.peek()
        token = _Token(x, storage, -1 if entry is None else entry[2], sequence)
        if entry is not None:
            self.saved.add(entry[2])
            if sequence == self.sequence:
                self.settle(token, self.last)
            else:
                self.pending.append(token)  # the op comes next; or it has made further nodes, which the next one shows
        return token

    def settle_all(self, sequence: int, record: int) -> None:
        """Settle what was packed since the last op: for the op that comes now, or for the last one."""
        for token in self.pending:
            self.settle(token, record if token.sequence == sequence else self.last)
        self.pending.clear()

    def settle(self, token: _Token, record: int) -> None:
        """Let a token of a node in the schedule hold nothing until backward comes to the node; others hold on."""
        for p in (record, self.last):
            k = self.program.step_of.get(p)
            if k is not None and token.value in self.program.steps[k].needs:
                token.record, token.storage = p, None
                self.tokens.setdefault(p, []).append(weakref.ref(token))
                return

    def unpack(self, token: _Token) -> Any:
        """Return the tensor that autograd saved; the schedule is carried on to where that is there."""
        if token.given is not None:
            if token.given._version != token.version:
                raise RematError(f"a tensor of {tuple(token.size)} that backward needs was modified by an op in place "
                                 "after forward had read it; allowed: a copy")  # fmt: skip
            return token.given
        if token.record < 0 and self.known[token.storage._cdata][2] != token.value:
            raise RematError(f"what {self.program.labels[self.program.maker[token.value]]} made is needed by backward "
                             "and was overwritten by an op in place; allowed: a copy")  # fmt: skip
        if token.storage is None:
            self.reach(token.record)
            if token.storage is None:  # backward runs in an order that the plan does not know, or once more
                there = set(self.table)
                with self.quiet():
                    self.ensure([token.value])
                token.storage = self.at_value(token.value)
                self.forget(there)
        return _seen(token.storage, token.dtype, token.size, token.stride, token.offset)

    # -------------------------------------------------------------- backward

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Run ops as forward ran them below autograd and autocast."""
        torch = _torch()
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield

    def reach(self, record: int) -> None:
        """Carry out the schedule up to a record's node of backward, and behind it: its tokens hold what it needs."""
        k = self.program.step_of.get(record, -1)
        if k < self.step:
            return
        for step in self.program.steps[self.step : k]:
            for kind, x in (*step.before, *step.behind):
                if kind == "free":
                    self.drop(x)
        self.step = k + 1
        step = self.program.steps[k]
        self.act(step.before)
        for ref in self.tokens.get(record, ()):
            token = ref()
            if token is not None and token.value in self.table:
                token.storage = self.at_value(token.value)
        self.act(step.behind)

    def act(self, actions: Sequence[Action]) -> None:
        """Run records again and let go of values."""
        with self.quiet() if any(kind == "run" for kind, _ in actions) else nullcontext():
            for kind, x in actions:
                if kind == "free":
                    self.drop(x)
                elif x in self.calls:  # a loss that was computed outside keeps what it needs
                    self.make(x)

    def at_value(self, v: int) -> Any:
        """Return the storage of a value.

        Raises
        ------
        RematError
            If the caller has overwritten it.
        """
        if v in self.watched:
            ref, version = self.watched[v]
            t = ref()
            if t is not None and t._version != version:
                raise RematError(f"what {self.program.labels[self.program.maker[v]]} made was modified by an op in "
                                 "place after forward, and backward needs it; allowed: a copy")  # fmt: skip
        return self.table[v]

    def ensure(self, values: Sequence[int]) -> None:
        """Make what is missing of some values, outside of the schedule, from what is there."""
        while missing := [v for v in values if v not in self.table]:
            v = missing[0]
            p = self.program.maker[v]
            while missing := [u for u in self.reads(p) if u not in self.table]:
                p = self.program.maker[missing[0]]
            self.run(p)

    def forget(self, there: set[int]) -> None:
        """Let go of what was made outside of the schedule."""
        for v in set(self.table) - there:
            self.drop(v)

    def reads(self, p: int) -> list[int]:
        """Return the values that a record needs in order to run again.

        Raises
        ------
        RematError
            If its ops were not seen.
        """
        if p not in self.calls:
            raise RematError(f"backward needs what {self.program.labels[p]} made, which ran outside of the module; "
                             "allowed: the loss inside the context of the applied plan")  # fmt: skip
        own = {v for call in self.calls[p] for _, v in call.made}
        held = [h for call in self.calls[p] for h in _held((call.args, call.kwargs))]
        return [v for v in dict.fromkeys(h.value for h in held) if v >= 0 and v not in own]

    def make(self, p: int) -> None:
        """Run a record again, as the schedule says."""
        needs = self.reads(p)
        if all(v in self.table for v in needs):
            self.run(p)
            return
        there = set(self.table) | set(self.program.made[p].values())
        self.ensure(needs)
        self.run(p)
        self.forget(there)

    def run(self, p: int) -> None:
        """Run the ops of a record again; what it makes that is there already is let go at once."""
        program = self.program
        own: dict[int, Any] = {}
        for call in self.calls[p]:
            self.call(call, own, program.labels[p])
        if p in program.changed:
            before, after = program.changed[p]
            own[after] = own.pop(before) if before in own else self.table[before]
            self.drop(before)
        for v, storage in own.items():
            if v not in self.table:
                self.watched.pop(v, None)
                self.table[v] = storage
        self.again[p] = self.again.get(p, 0) + 1

    def call(self, call: _Call, own: dict[int, Any], label: str) -> None:
        """Run an op again; statistics that it updates beside are left as they are."""
        func = call.func
        name = func._schema.name
        args, kwargs = call.args, call.kwargs
        if name in _STATISTICS or name in _MOMENTUM:
            args = _still_args(name, args)
        else:
            for h in _kind(func).writes(args, kwargs):
                if h.value < 0:
                    raise RematError(f"{label}: {func} overwrites a tensor that forward did not make, and the plan "
                                     "runs it again; allowed: ops that change nothing beside")  # fmt: skip
        if call.state is None and _kind(func).draws:
            raise RematError(f"{label}: {func} draws random numbers and has to run again, which the plan does not do; "
                             "allowed: backward through the whole graph, in one go")  # fmt: skip
        with _drawing(call.state):
            out = func(*[self.given(x, own, label, func) for x in args],
                       **{k: self.given(x, own, label, func) for k, x in kwargs.items()})  # fmt: skip
        flat = out if isinstance(out, tuple | list) else (out,)
        for k, v in call.made:
            own[v] = flat[k].untyped_storage()

    def given(self, x: Any, own: dict[int, Any], label: str, func: Any) -> Any:
        """Return an argument as it was given to an op of forward."""
        if isinstance(x, list):
            return [self.given(y, own, label, func) for y in x]
        if not isinstance(x, _Held):
            return x
        if x.value >= 0:
            storage = own[x.value] if x.value in own else self.at_value(x.value)
            return _seen(storage, x.dtype, x.size, x.stride, x.offset)
        if x.given._version != x.version and func._schema.name not in _MOMENTUM:
            raise RematError(f"{label}: a tensor that {func} reads was modified by an op in place after forward, and "
                             "the plan runs it again; allowed: a copy")  # fmt: skip
        return x.given


def _held(x: Any) -> Iterator[_Held]:
    """Yield the tensors among arguments."""
    if isinstance(x, _Held):
        yield x
    elif isinstance(x, list | tuple):
        for y in x:
            yield from _held(y)
    elif isinstance(x, dict):
        yield from _held(list(x.values()))


def _tensors(x: Any) -> Iterator[Any]:
    """Yield the tensors of nested containers."""
    if isinstance(x, _torch().Tensor):
        yield x
    elif isinstance(x, Mapping):
        for y in x.values():
            yield from _tensors(y)
    elif isinstance(x, list | tuple):
        for y in x:
            yield from _tensors(y)


def _as_empty(x: Any) -> tuple[Any, list[Any], dict[str, Any]]:
    """Return the call that makes a tensor like another one without reading any."""
    kind = {"dtype": x.dtype, "device": x.device}
    return _torch().ops.aten.empty_strided.default, [list(x.size()), list(x.stride())], kind


def _reserves(func: Any) -> bool:
    """Whether an op's fourth result is a workspace of its backward, which no plan counts."""
    return str(func._schema.name) in ("aten::cudnn_batch_norm", "aten::_batch_norm_with_update")


def _random_state(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the generator of an op that draws random numbers, and its state."""
    torch = _torch()
    generator = kwargs.get("generator")
    if generator is None:
        device = next((t.device for t in _tensors(list(args))), None) or torch.device(kwargs.get("device") or "cpu")
        if device.type == "cuda":
            generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None
                                                      else device.index]  # fmt: skip
        else:
            generator = torch.default_generator
    return generator, generator.get_state()


@contextmanager
def _drawing(state: tuple[Any, Any] | None) -> Iterator[None]:
    """Draw the numbers that were drawn from a state, and leave the generator as it is."""
    if state is None:
        yield
        return
    generator, then = state
    now = generator.get_state()
    generator.set_state(then)
    try:
        yield
    finally:
        generator.set_state(now)


@functools.cache
def _recording() -> Any:
    """Return the dispatch mode that hands ops to a run; a class, made once torch is there."""
    modes: Any = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode

    class Recording(modes):  # type: ignore[misc, unused-ignore]
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # spares a wrapper around each op; nothing here is compiled

        def __init__(self, run: _Run) -> None:
            super().__init__()
            self.run = run

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return self.run.dispatch(func, args, kwargs or {})

    return Recording


# ---------------------------------------------------------------------------------- a module under a plan


class Applied:
    """A module that runs under a plan; what :func:`applied` returns.

    As a context it takes in the loss of a step: ``with applied(module): loss = criterion(module(x), y)``. That is
    needed only where the loss is part of the plan's graph, as a loss of one's own is. The next forward
    in the same context ends what the context takes in of the one before. The context stands inside of other dispatch
    modes.

    Attributes
    ----------
    plan : CheckpointPlan or WrapPlan
    module : torch.nn.Module
    """

    def __init__(self, plan: Any, module: Any) -> None:
        self.plan = plan
        self.module = module
        if not isinstance(module, _torch().nn.Module):
            raise GraphError(f"a plan is applied to a torch.nn.Module; this is a {type(module).__name__}")
        if _NAME in module.__dict__:
            raise GraphError(f"{type(module).__name__} runs under a plan already; remove(module) ends that")
        module.__dict__[_NAME] = self

    def remove(self) -> None:
        """Let the module run as it did before; a step that is under way still ends as planned."""
        self.module.__dict__.pop(_NAME, None)

    @property
    def recomputed(self) -> dict[str, int]:
        """How often ops ran again since the last forward began, by op and PyTorch's name of it."""
        return {}

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        return None

    def __repr__(self) -> str:
        return f"<Applied {self.plan!r} to {type(self.module).__name__}>"


class _Scheduled(Applied):
    """A module whose forward runs under a schedule of ops."""

    def __init__(self, plan: CheckpointPlan, module: Any) -> None:
        super().__init__(plan, module)
        self._step = plan.step
        self._program = _program(plan.step, plan.schedule)
        self._sizes: dict[int, list[int]] = {}
        self._again: dict[int, int] = {}
        self._stack: ExitStack | None = None
        self._run: _Run | None = None  # in a context
        self._before = module.__dict__.get("forward")
        self._forward = module.forward
        module.__dict__["forward"] = self._call

    def remove(self) -> None:
        """Let the module run as it did before; a step that is under way still ends as planned."""
        if self.module.__dict__.get(_NAME) is self:
            super().remove()
            del self.module.__dict__["forward"]
            if self._before is not None:
                self.module.__dict__["forward"] = self._before

    @property
    def recomputed(self) -> dict[str, int]:
        """How often ops ran again since the last forward began, by op and PyTorch's name of it."""
        record, names = self._step.record.tolist(), self._step.problem.names
        name = {p: names[i] for i, p in reversed(list(enumerate(record))) if p >= 0}
        return {name[p]: n for p, n in sorted(self._again.items())}

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's forward; under the plan where it is trained."""
        torch = _torch()
        if not torch.is_grad_enabled() or not self.module.training:
            return self._forward(*args, **kwargs)
        if self._run is not None and self._stack is not None:
            self._stack.close()
            self._end()
        run = _Run(self._program, self._nbytes((args, kwargs)), self._where)
        self._again = run.again
        with ExitStack() as stack:
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(run.pack, run.unpack))
            stack.enter_context(_recording()(run))
            out = self._forward(*args, **kwargs)
            if self._stack is not None:
                self._run = run
                self._stack.push(stack.pop_all())
        if self._stack is None:
            self._close(run)
        run.end(out)
        return out

    def _close(self, run: _Run) -> None:
        program = self._program
        if run.at < program.n_graph:
            raise RematError(
                f"forward ended where the plan of {program.name or 'the network'} has {program.labels[run.at]}; "
                "allowed: the module that the plan was made for, and a loss that is part of its graph inside the "
                "context of the applied plan"
            )

    def __enter__(self) -> Applied:
        if self._stack is not None:
            raise GraphError("the context of an applied plan is entered twice; allowed: once per step")
        self._stack = ExitStack()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        if self._stack is not None:
            self._stack.close()
        self._stack = None
        if kind is None:
            self._end()
        self._run = None

    def _end(self) -> None:
        """End what a context has taken in of the last forward."""
        run, self._run = self._run, None
        if run is not None:
            run.end()
            self._close(run)

    def _nbytes(self, given: Any) -> list[int]:
        """Bytes of each storage of the tape at the batch of some inputs.

        Raises
        ------
        ShapeError
            If it is larger than the plan's.
        """
        training = self._step.plan
        batch = next((int(t.shape[0]) for t in _tensors(given) if t.dim()), training.batch)
        if batch > training.batch:
            raise ShapeError(f"a batch of {batch}, where the plan of {self._program.name or 'the network'} is for "
                             f"{training.batch}; allowed: 1 to {training.batch}, of which smaller ones need less "
                             f"memory, or a plan with batch={batch}")  # fmt: skip
        found = self._sizes.get(batch)
        if found is None:
            spec = tape_bytes(training.tape, training.network.sizes_at(batch).dims)
            found = self._sizes[batch] = spec[training.tape.store_spec].tolist()
        return found

    def _where(self) -> str:
        """Name the module that runs just now."""
        names = {id(m): name for name, m in self.module.named_modules()}
        frame = inspect.currentframe()
        while frame is not None:
            name = names.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name or type(self.module).__name__
            frame = frame.f_back
        return type(self.module).__name__


class _Wrapped(Applied):
    """A module parts of which run under ``torch.utils.checkpoint``."""

    def __init__(self, plan: WrapPlan, module: Any) -> None:
        checkpoint = importlib.import_module("torch.utils.checkpoint")
        if any(r.saved for r in plan.regions) and not hasattr(checkpoint, "CheckpointPolicy"):
            raise MissingExtraError(f"a policy of saved ops needs PyTorch 2.5 or later; this is {_torch().__version__},"
                                    " which can wrap whole modules: plan.modules()")  # fmt: skip
        super().__init__(plan, module)
        parts = dict(module.named_modules())
        for region in plan.regions:
            if region.module not in parts or not region.module:
                super().remove()
                raise RematError(f"the plan wraps {region.module!r}, which {type(module).__name__} does not have"
                                 f"{close_names(region.module, list(parts))}")  # fmt: skip
        self._first = _First(self) if any(r.saved for r in plan.regions) else None
        self._wraps = [_Wrap(self, parts[r.module], r) for r in plan.regions]

    def remove(self) -> None:
        """Let the module run as it did before; a step that is under way still ends as planned."""
        super().remove()
        for wrap in self._wraps:
            wrap.remove()
        if self._first is not None:
            self._first.remove()


class _Forward:
    """A module's forward with another in its place."""

    def __init__(self, module: Any) -> None:
        self.part = module
        self.before = module.__dict__.get("forward")
        self.forward = module.forward
        module.__dict__["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def remove(self) -> None:
        """Put the module's own forward back."""
        if self.part.__dict__.get("forward") is self:
            del self.part.__dict__["forward"]
            if self.before is not None:
                self.part.__dict__["forward"] = self.before


class _First(_Forward):
    """Finds, when the module first runs, which products of matrices each op of the graph is."""

    def __init__(self, owner: _Wrapped) -> None:
        self.owner = owner
        self.order: dict[str, tuple[str, ...]] | None = None  # module to the names of its ops that a policy can save
        super().__init__(owner.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.order is None and _torch().is_grad_enabled() and self.part.training:
            self.order = self.read(args, kwargs)
        return self.forward(*args, **kwargs)

    def read(self, args: Any, kwargs: Any) -> dict[str, tuple[str, ...]]:
        """Import the module as it was, and return its convolutions and products, module by module in order."""
        given: Any = kwargs if kwargs else args
        if args and kwargs:
            names = list(inspect.signature(self.forward).parameters)
            given = {**dict(zip(names, args, strict=False)), **kwargs}
        mine = [self, *self.owner._wraps]
        for wrap in mine:
            del wrap.part.__dict__["forward"]
            if wrap.before is not None:
                wrap.part.__dict__["forward"] = wrap.before
        try:
            with ThreadPoolExecutor(1) as other:  # no mode, hook or context of the caller's is there
                net = lower(other.submit(from_torch, self.part, example_inputs=given, train=None).result())
        finally:
            for wrap in mine:
                wrap.part.__dict__["forward"] = wrap
        found: dict[str, list[str]] = {r.module: [] for r in self.owner.plan.regions}
        for name, kind, scope in zip(net.op_names, net.op_kinds, net.op_scopes, strict=True):
            if operator(kind).macs in _PRODUCTS:
                for module, names in found.items():
                    if name == module or f"{scope}.".startswith(f"{module}."):
                        names.append(name)
        for region in self.owner.plan.regions:
            lacks = [x for x in region.saved if x not in found[region.module]]
            if lacks:
                raise RematError(f"the plan saves {lacks[0]!r} in {region.module!r}, which has no such convolution or "
                                 f"product{close_names(lacks[0], found[region.module])}")  # fmt: skip
        return {module: tuple(names) for module, names in found.items()}


class _Wrap(_Forward):
    """A region: a module whose forward runs again in backward."""

    def __init__(self, owner: _Wrapped, part: Any, region: Region) -> None:
        self.owner = owner
        self.region = region
        self.checkpoint = importlib.import_module("torch.utils.checkpoint")
        super().__init__(part)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _torch().is_grad_enabled() or not self.owner.module.training:
            return self.forward(*args, **kwargs)
        policy = self.policy()
        # a list that the caller appends to later would be another one when the region runs again
        args, kwargs = _torch().utils._pytree.tree_map(lambda x: x, (args, kwargs))
        out = self.checkpoint.checkpoint(
            self.forward, *args, use_reentrant=False, preserve_rng_state=self.region.random,
            context_fn=functools.partial(self.contexts, policy), **kwargs,
        )  # fmt: skip
        if policy is not None:
            policy.check()
        return out

    def policy(self) -> _Policy | None:
        """Return what decides, in one run of the region, whose results are saved."""
        first = self.owner._first
        if not self.region.saved or first is None:
            return None
        if first.order is None:
            raise GraphError(f"{self.region.module!r} runs before the module that the plan is applied to; allowed: to "
                             "run that module")  # fmt: skip
        return _Policy(self.region, first.order[self.region.module])

    def contexts(self, policy: _Policy | None) -> tuple[Any, Any]:
        """Return the contexts of forward and of the second run, in which statistics stand still."""
        kept = {t.untyped_storage()._cdata for t in self.part.buffers()}
        if policy is None:
            return nullcontext(), _Contexts(kept)
        first, again = self.checkpoint.create_selective_checkpoint_contexts(policy)
        return first, _Contexts(kept, again)


class _Policy:
    """Saves the results of some convolutions and products of a region, counted as they come."""

    def __init__(self, region: Region, order: Sequence[str]) -> None:
        self.module = region.module
        self.order = order
        self.saved = frozenset(region.saved)
        policy = importlib.import_module("torch.utils.checkpoint").CheckpointPolicy
        self.save, self.run = policy.MUST_SAVE, policy.PREFER_RECOMPUTE
        self.count = [0, 0]  # forward, second run

    def __call__(self, context: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
        if func._schema.name not in _PRODUCTS_OF_ATEN:
            return self.run
        again = int(context.is_recompute)
        k = self.count[again]
        self.count[again] += 1
        if k >= len(self.order):
            raise self.differs(f"{func} is one more")
        return self.save if self.order[k] in self.saved else self.run

    def check(self) -> None:
        """Whether forward has run as many as the graph has.

        Raises
        ------
        RematError
            If not: what was saved is not what the plan says.
        """
        if self.count[0] != len(self.order):
            raise self.differs(f"{self.count[0]} ran")

    def differs(self, what: str) -> RematError:
        """Word the error of a module that is not the graph's."""
        return RematError(f"{self.module}: the graph has {len(self.order)} convolutions and products there, and {what};"
                          " allowed: the module that the plan was made for")  # fmt: skip


class _Contexts:
    """The contexts of a second run: statistics stand still, and what a policy has saved is handed out."""

    def __init__(self, kept: set[int], *inner: Any) -> None:
        self.kept = kept
        self.inner = inner
        self.stack: list[ExitStack] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            for context in (_still()(self.kept), *self.inner):
                stack.enter_context(context)
            self.stack.append(stack.pop_all())

    def __exit__(self, *error: Any) -> None:
        self.stack.pop().__exit__(*error)


@functools.cache
def _still() -> Any:
    """Return the dispatch mode in which no buffer of a module changes; a class, made once torch is there."""
    modes: Any = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode

    class Still(modes):  # type: ignore[misc, unused-ignore]
        def __init__(self, kept: set[int]) -> None:
            super().__init__()
            self.kept = kept

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = func._schema.name
            if name in _STATISTICS or name in _MOMENTUM:
                return func(*_still_args(name, args), **kwargs)
            written = _kind(func).writes(args, kwargs)
            if len(written) == 1 and written[0].untyped_storage()._cdata in self.kept:
                return written[0]  # a counter
            return func(*args, **kwargs)

    return Still


def _still_args(name: str, args: Any) -> list[Any]:
    """Return the arguments of a batch normalisation with which it leaves running statistics as they are."""
    still = list(args)
    for i in _STATISTICS.get(name, ()):
        if still[5]:  # by the batch's statistics: the running ones are only updated
            still[i] = None
    if name in _MOMENTUM:
        still[_MOMENTUM[name]] = 0.0
    return still


# Operators whose results a policy can save, and what PyTorch runs for them.
_PRODUCTS: Final = frozenset({"conv", "linear", "matmul"})
_PRODUCTS_OF_ATEN: Final = frozenset({"aten::convolution", "aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm",
                                      "aten::addbmm", "aten::mv", "aten::addmv", "aten::dot"})  # fmt: skip


# ---------------------------------------------------------------------------------- the functions


def apply(plan: CheckpointPlan | WrapPlan, module: Any) -> Any:
    """Make a module train as a plan says.

    The module itself is changed, in that its forward (or that of the modules a wrap plan names) is another one; its
    parameters, buffers, state, hooks and training flag are what they were, and :func:`remove` undoes it. Under
    ``no_grad`` and in evaluation everything passes through untouched.

    A checkpoint plan is carried out op by op: what its schedule drops is freed when the schedule says, what it
    recomputes runs when the backward node that needs it begins, and the peak is the predicted one. The ops of a second
    run read the very bytes and strides that those of the first run read, so that losses and gradients are equal bit
    for bit wherever PyTorch's kernels are deterministic. Running statistics of batch normalisations are updated once;
    random numbers that the plan recomputes are drawn again from the generator's state of the first time, and the
    generator goes on as if nothing had run again.

    A wrap plan puts ``torch.utils.checkpoint.checkpoint(use_reentrant=False)`` around the forward of its modules, for
    a policy with ``create_selective_checkpoint_contexts``. In the second run no buffer of the module changes: batch
    normalisations leave running statistics and counters as they are, so that no momentum needs a correction.

    Parameters
    ----------
    plan : CheckpointPlan or WrapPlan
        From :func:`cnnlive.plan_checkpoints`, or from the plan's ``modules()`` and ``policy()``.
    module : torch.nn.Module
        The module that the plan's graph was imported from, or one that runs the same ops.

    Returns
    -------
    torch.nn.Module
        `module`.

    Raises
    ------
    MissingExtraError
        If ``torch`` is not installed, or for a policy is older than 2.5.
    GraphError
        If `plan` or `module` is none, or the module runs under a plan already.
    RematError
        If the module does not have what the plan names. In forward: if an op makes other bytes than the plan's
        network has there; the message names the module, the op and both amounts.
    ShapeError
        In forward: if the batch is larger than the plan's. With a smaller one, such as the last of an epoch, the same
        schedule runs, and no instant takes more.

    Notes
    -----
    A checkpoint plan costs some 50 microseconds of Python per op of forward, of which a GPU that is busy notices
    nothing. Gradient accumulation, autocast, several
    losses and ``retain_graph`` work as without a plan; a second backward keeps what the first one has recomputed.
    Losses that PyTorch computes outside of the module are never recomputed; a loss that is part of the plan's graph
    runs inside ``with applied(module):``. A backward that goes another way than the plan's (part of the graph, another
    order) finds what it needs recomputed on demand, outside of the prediction. Custom autograd functions are not in
    the operator table, and no plan has any.

    Examples
    --------
    >>> import torchvision  # doctest: +SKIP
    >>> net = torchvision.models.resnet18().train()  # doctest: +SKIP
    >>> graph = cnnlive.from_torch(net, (32, 3, 224, 224), train=True)  # doctest: +SKIP
    >>> plan = cnnlive.plan_checkpoints(graph, batch=32, budget="1.5GiB")  # doctest: +SKIP
    >>> net = apply(plan, net)  # doctest: +SKIP
    >>> torch.nn.functional.cross_entropy(net(x), y).backward()  # doctest: +SKIP
    """
    _torch()
    if isinstance(plan, CheckpointPlan):
        _Scheduled(plan, module)
    elif isinstance(plan, WrapPlan):
        _Wrapped(plan, module)
    else:
        raise GraphError(f"{type(plan).__name__} is no plan to apply; allowed: CheckpointPlan, WrapPlan")
    return module


def applied(module: Any) -> Applied:
    """Return how a module runs under a plan.

    Raises
    ------
    GraphError
        If it does not.
    """
    found = getattr(module, "__dict__", {}).get(_NAME)
    if not isinstance(found, Applied):
        raise GraphError(f"{type(module).__name__} runs under no plan")
    return found


def remove(module: Any) -> Any:
    """Let a module run as it did before :func:`apply`; return it.

    Raises
    ------
    GraphError
        If it runs under no plan.
    """
    applied(module).remove()
    return module
