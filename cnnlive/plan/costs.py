"""What running an op costs: FLOPs, a roofline of FLOPs and bytes, or the user's own measurements.

A model answers for a tape (:mod:`cnnlive.tape`): one cost forward and one backward for each of its records. What does
not depend on the batch is found once per tape, and an answer at a batch is a few sums over flat arrays.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any, ClassVar, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnnlive._kernels.backward import spec_bytes
from cnnlive._kernels.counts import count
from cnnlive._types import F64, I64, Columns, column, frozen
from cnnlive.errors import ReadError, RematError, close_names
from cnnlive.lowered import OVERWRITES, Lowered, check_batch
from cnnlive.tape import FRESH, TEMPORARY, Tape

__all__ = ["GPUS", "Costs", "Flops", "Measured", "OpTime", "Roofline", "Work", "read_cost_model", "read_costs",
           "work_of"]  # fmt: skip

Bools: TypeAlias = NDArray[np.bool_]
Records: TypeAlias = tuple[I64, I64, F64]  # record, spec of bytes, how often

_LIMIT: Final = 2**60
_SLOWEST: Final = 1e-9  # per second; times of a step are finite then
_MILLISECOND: Final = 1e6  # in nanoseconds
_PER_MS: Final[Mapping[str, float]] = MappingProxyType({"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6})
_SHOWN: Final = 8  # names in a message
# The kernels of these read their input twice: once for its statistics, once to normalise it.
_TWICE: Final = ("batch_norm", "instance_norm", "group_norm")


class Work(NamedTuple):
    """What each record of a tape does at a batch: float64 amounts, (n_records,) each.

    Attributes
    ----------
    forward_bytes, backward_bytes : float64, bytes
        Read and written, see :func:`work_of`.
    sum_bytes : float64, bytes
        Read and written by kernels beside that of the backward node: sums of gradients, and their copies.
    forward_macs, backward_macs : float64
        Multiply-accumulates of convolutions, linear layers and matrix products.
    forward_elements, backward_elements : float64
        Elements of the op's results, at records that are no such product.
    forward_runs, backward_runs : bool
        Whether the record runs anything: views, and sums whose backward hands the gradient on, do not.
    has_backward : bool
        Whether the record has a backward node that the loss leads to.
    """

    forward_bytes: F64
    backward_bytes: F64
    sum_bytes: F64
    forward_macs: F64
    backward_macs: F64
    forward_elements: F64
    backward_elements: F64
    forward_runs: Bools
    backward_runs: Bools
    has_backward: Bools


class Costs(ABC):
    """A cost model: what each record of a tape costs at a batch.

    A model of one's own derives from this class, which asks for `name`, `unit`, :meth:`of` and :meth:`to_dict`;
    :func:`work_of` counts the bytes and products that most models start from.
    """

    __slots__ = ()
    unit: ClassVar[str] = "ns"

    @property
    @abstractmethod
    def name(self) -> str:
        """How plans call the model."""

    @abstractmethod
    def of(self, net: Lowered, tape: Tape, batch: int) -> tuple[I64, I64]:
        """Return the cost of each record of `tape`, which is a tape of `net`, forward and backward.

        Parameters
        ----------
        net : Lowered
        tape : Tape
        batch : int

        Returns
        -------
        forward, backward : (n_records,) int64
            In `unit`: 0 for what runs nothing, at least 1 for what does.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON; :func:`read_cost_model` makes the model of it again."""


@dataclass(frozen=True, slots=True)
class Flops(Costs):
    """Floating-point operations: two for each multiply-accumulate, and one for each element that another op writes.

    Backward, a convolution, a linear layer or a matrix product repeats its products once for each gradient: that of
    its input and that of its weight, so usually twice, and once for the first convolution of a net, whose input takes
    none. Other ops count as in forward; ops that only hand on a gradient, and views, count nothing.

    Costs are in thousands of FLOPs. Normalisations and activations, which are bound by memory, look cheaper than they
    are: a :class:`Roofline` prices them better.

    Examples
    --------
    >>> from cnnlive import plan_training, zoo
    >>> step = plan_training(zoo.load("vgg16"), batch=1)
    >>> forward, backward = Flops().of(step.network, step.tape, 1)
    >>> int(forward.sum()), int(backward.sum())
    (30955646, 61722766)
    """

    unit: ClassVar[str] = "kFLOP"

    @property
    def name(self) -> str:
        """``"flops"``."""
        return "flops"

    def of(self, net: Lowered, tape: Tape, batch: int) -> tuple[I64, I64]:
        """Return thousands of FLOPs, see :meth:`Costs.of`."""
        w = work_of(net, tape, batch)
        forward = (2 * w.forward_macs + w.forward_elements) / 1000
        backward = (2 * w.backward_macs + w.backward_elements) / 1000
        return _whole(self, forward, w.forward_runs), _whole(self, backward, w.backward_runs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {"name": "flops"}


@dataclass(frozen=True, slots=True)
class Roofline(Costs):
    """Time as a roofline: an op takes as long as its FLOPs or as its bytes, whichever is longer.

    So a convolution counts by its products, while a normalisation, an activation or a pool, which do next to nothing
    with each number that they move, counts by its bytes. Only the ratio of the two parameters decides what is worth
    recomputing; their size makes the unit nanoseconds. What starting a kernel takes is not counted.

    Parameters
    ----------
    flops_per_second : float
        Default: 19.5e12, 32-bit arithmetic of NVIDIA's A100. Where tensor cores do the products (TF32, 16 bits) give
        their rate: 156e12 and 312e12 there.
    bytes_per_second : float
        Bandwidth of the memory. Default: 1.555e12, that of the A100 with 40 GB.

    Raises
    ------
    RematError
        If a rate is not a positive, finite number.

    Notes
    -----
    Source of the defaults: NVIDIA A100 Tensor Core GPU, data sheet and architecture white paper (2020). Real kernels
    reach about 70 to 80 % of both.

    Examples
    --------
    >>> from cnnlive import plan_training, zoo
    >>> step = plan_training(zoo.load("vgg16"), batch=1)
    >>> forward, backward = Roofline().of(step.network, step.tape, 1)
    >>> [(name, cost) for (_, name), cost in zip(step.tape.records[:3], forward.tolist())]
    [('conv2d', 8893), ('relu_', 16521), ('conv2d', 189712)]
    """

    flops_per_second: float = 19.5e12
    bytes_per_second: float = 1.555e12

    def __post_init__(self) -> None:
        """Check the rates.

        Raises
        ------
        RematError
            If one is not a positive, finite number.
        """
        for what in ("flops_per_second", "bytes_per_second"):
            given = getattr(self, what)
            if not _is_number(given) or not _SLOWEST <= given < math.inf:
                raise RematError(f"roofline: {what}={given!r}; allowed: a positive number, {_SLOWEST} or more")
            object.__setattr__(self, what, float(given))

    @property
    def name(self) -> str:
        """``"roofline"``, with the rates unless they are the default."""
        if self == Roofline():
            return "roofline"
        rates = (self.flops_per_second, self.bytes_per_second)
        return "roofline:" + ",".join(f"{r:g}" if float(f"{r:g}") == r else repr(r) for r in rates)

    def of(self, net: Lowered, tape: Tape, batch: int) -> tuple[I64, I64]:
        """Return nanoseconds, see :meth:`Costs.of`."""
        w = work_of(net, tape, batch)
        per_mac, per_byte = 2e9 / self.flops_per_second, 1e9 / self.bytes_per_second
        forward = np.maximum(w.forward_macs * per_mac, w.forward_bytes * per_byte)
        backward = np.maximum(w.backward_macs * per_mac, w.backward_bytes * per_byte) + w.sum_bytes * per_byte
        return _whole(self, forward, w.forward_runs), _whole(self, backward, w.backward_runs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {"name": "roofline", "flops_per_second": self.flops_per_second,
                "bytes_per_second": self.bytes_per_second}  # fmt: skip


class OpTime(NamedTuple):
    """The measured time of an op of the graph, or of all ops under a module path; None: not measured."""

    op: str
    forward_ms: float
    backward_ms: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Measured(Costs):
    """Measured milliseconds; :func:`read_costs` reads them from a file.

    Parameters
    ----------
    times : sequence of OpTime
        A name is that of an op of the graph; where there is none, that of a module (``"layer1.0"``), and the time is
        that of all ops under it. What backward takes may be left out, see `backward_factor`. ``"loss"`` is the loss,
        unless an op has that name.
    batch : int, optional
        The batch that was measured: times are scaled in proportion to the batch that is planned. Default: they are
        taken as they are at any batch.
    backward_factor : float, optional
        A backward that was not measured takes the forward time times this, if it runs anything. Default: times what
        the roofline has for the ratio of the two, which is 2 for most convolutions, 1 for the first, 5/3 for a batch
        normalisation and 3/2 for an activation.
    fill : Roofline, optional
        Prices what was not measured, in proportion: scaled so that it agrees in the sum with what was. Default: an
        op without a time is an error, and the loss is priced by the default roofline, scaled likewise.
    source : str
        Where they are from; errors name it.

    Raises
    ------
    ReadError
        If there is no time, a name is empty or stands twice, or a number is no time.

    Notes
    -----
    An op that PyTorch runs as several, or a module, has its time shared out among them in proportion to the roofline;
    the sum stays exactly the measured one. Costs are nanoseconds.
    """

    times: tuple[OpTime, ...]
    batch: int | None = None
    backward_factor: float | None = None
    fill: Roofline | None = None
    source: str = "measured times"

    def __post_init__(self) -> None:
        """Check every number.

        Raises
        ------
        ReadError
            If one is no time, or a name stands twice.
        """
        times = tuple(OpTime(*t) for t in self.times)
        if not times:
            raise ReadError(f"{self.source}: no times; allowed: one row for each op at least")
        seen: set[str] = set()
        for op, forward, backward in times:
            if not isinstance(op, str) or not op:
                raise ReadError(f"{self.source}: an op is called {op!r}; allowed: a name")
            if op in seen:
                raise ReadError(f"{self.source}: op {op!r} stands twice; allowed: once")
            seen.add(op)
            for what, value in (("forward", forward), ("backward", backward)):
                if (value is not None or what == "forward") and (not _is_number(value) or not 0 <= value < math.inf):  # type: ignore[operator]
                    raise ReadError(f"{self.source}: op {op!r} takes {value!r} {what}; allowed: milliseconds, 0 or "
                                    "more")  # fmt: skip
        factor = self.backward_factor
        if factor is not None and (not _is_number(factor) or not 0 <= factor < math.inf):
            raise ReadError(f"{self.source}: backward_factor={factor!r}; allowed: a number, 0 or more")
        if self.batch is not None:
            check_batch(self.batch, f"{self.source}: batch")
        if self.fill is not None and not isinstance(self.fill, Roofline):
            raise ReadError(f"{self.source}: fill={self.fill!r}; allowed: None or a Roofline")
        object.__setattr__(self, "times", times)

    @property
    def name(self) -> str:
        """``"measured"``."""
        return "measured"

    def __repr__(self) -> str:
        return f"<Measured {self.source!r}: {len(self.times):,} ops>"

    def of(self, net: Lowered, tape: Tape, batch: int) -> tuple[I64, I64]:
        """Return nanoseconds, see :meth:`Costs.of`.

        Raises
        ------
        RematError
            If a row names no op and no module of the net, two rows name the same op, or, without `fill`, an op that
            writes anything has no row; the message lists which.
        """
        base = self.fill or Roofline()
        w = work_of(net, tape, batch)
        forward, backward = base.of(net, tape, batch)
        row = self._rows(net, tape, w)
        given = row >= 0
        n = len(self.times)
        scale = _MILLISECOND * (batch / self.batch if self.batch is not None else 1.0)
        ms = np.array([t.forward_ms for t in self.times])
        back = np.array([np.nan if t.backward_ms is None else t.backward_ms for t in self.times])
        f, b = (np.bincount(row[given], c[given], minlength=n) for c in (forward, backward))
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused where it is added up
            return self._told(ms, back, scale, f, b, forward, backward, row, tape, w)

    def _told(self, ms: F64, back: F64, scale: float, f: F64 | I64, b: F64 | I64, forward: I64, backward: I64, row: I64,
              tape: Tape, w: Work) -> tuple[I64, I64]:  # fmt: skip
        given = row >= 0
        # What was not measured, in the measured scale.
        there = f > 0
        agree = ms[there].sum() * scale / f[there].sum() if there.any() else 1.0
        ahead = ms * scale
        if self.backward_factor is None:
            guess = np.where(there, ahead * b / np.maximum(f, 1), b * agree)
        else:
            guess = np.where(b > 0, ahead * self.backward_factor, 0.0)
        behind = np.where(np.isnan(back), guess, back * scale)
        everywhere = np.ones(tape.n_records, bool)
        return (
            np.where(given, self._shared(ahead, forward, row, everywhere),
                     _whole(self, forward * agree, w.forward_runs)),
            np.where(given, self._shared(behind, backward, row, w.has_backward),
                     _whole(self, backward * agree, w.backward_runs)),
        )  # fmt: skip

    def _shared(self, total: F64, weight: I64, row: I64, allowed: Bools) -> I64:
        """Share the time of each row out among its records, in whole nanoseconds."""
        n = len(total)
        whole = _whole(self, total, total > 0)
        shares = np.zeros(len(row), np.int64)
        mine = np.flatnonzero((row >= 0) & allowed)
        order = mine[np.argsort(row[mine], kind="stable")]
        of, parts = row[order], weight[order].astype(np.float64)
        last = np.flatnonzero(np.append(of[1:] != of[:-1], True)) if len(of) else np.zeros(0, np.int64)
        # What the roofline has at nothing gives all to the last record.
        sums = np.bincount(of, parts, minlength=n)
        parts[last] += sums[of[last]] == 0
        sums = np.bincount(of, parts, minlength=n)
        running = np.cumsum(parts)
        before = np.zeros(n)
        before[of[last]] = running[last] - sums[of[last]]
        upto = np.floor(whole[of] * np.minimum((running - before[of]) / sums[of], 1.0)).astype(np.int64)
        upto[last] = whole[of[last]]
        first = np.append(True, of[1:] != of[:-1])[: len(of)]
        shares[order] = upto - np.where(first, 0, np.append(0, upto[:-1])[: len(of)])
        return shares

    def _rows(self, net: Lowered, tape: Tape, work: Work) -> I64:
        """Return the row of each record, or -1; checked once per tape."""
        key = ("measured", self)
        found: I64 | None = tape._cache.get(key)
        if found is None:
            found = tape._cache[key] = self._match(net, tape, work)
        return found

    def _match(self, net: Lowered, tape: Tape, work: Work) -> I64:
        number = {"loss": net.n_ops, **{name: op for op, name in enumerate(net.op_names)}}
        row_of = np.full(net.n_ops + 1, -1, np.int64)
        unknown = []
        for k, (name, *_) in enumerate(self.times):
            exact = number.get(name)
            under = name + "."
            ops = [exact] if exact is not None else [
                op for op, scope in enumerate(net.op_scopes) if scope == name or scope.startswith(under)
            ]  # fmt: skip
            if not ops:
                unknown.append(name)
            for op in ops:
                if row_of[op] >= 0:
                    raise RematError(f"{self.source}: the rows {self.times[row_of[op]].op!r} and {name!r} both give a "
                                     f"time of {net.op_names[op]}; allowed: one")  # fmt: skip
                row_of[op] = k
        if unknown:
            known = [*net.op_names, *{s: None for s in net.op_scopes if s}]
            near = close_names(unknown[0], known)
            raise RematError(f"{self.source}: {_listed(unknown)} no op or module of {net.name or 'the network'}{near}")
        op_of = np.array([op for op, _ in tape.records], np.int64)
        op_of[op_of < 0] = net.n_ops
        if self.fill is None:
            needed = np.unique(op_of[work.forward_runs & (row_of[op_of] < 0)])
            missing = [net.op_names[op] for op in needed.tolist() if op < net.n_ops]
            if missing:
                raise RematError(
                    f"{self.source}: no time of {len(missing):,} of the ops that {net.name or 'the network'} runs: "
                    f'{_named(missing)}; give them, or fill="roofline" to price them by the roofline'
                )
        return frozen(row_of[op_of])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON; :func:`read_costs` reads it too."""
        return {
            "name": "measured", "source": self.source, "batch": self.batch, "backward_factor": self.backward_factor,
            "fill": None if self.fill is None else self.fill.to_dict(), "ops": [t._asdict() for t in self.times],
        }  # fmt: skip


def _is_number(value: object) -> bool:
    """Say whether a value is a number; an integer beyond what a double holds is none here."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return not isinstance(value, int) or abs(value) <= sys.float_info.max


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def _listed(names: Sequence[str]) -> str:
    return f"{_named([repr(n) for n in names])} {'is' if len(names) == 1 else 'are'}"


def _whole(model: Costs, values: F64, runs: Bools) -> I64:
    """Return costs as integers: what runs costs 1 at least, everything else nothing."""
    values = np.where(runs, values, 0.0)
    total = float(values.sum())
    if not total < _LIMIT:
        raise RematError(f"{model.name}: the costs of the step add up to {total:.3g} {model.unit}; allowed: below "
                         "2**60")  # fmt: skip
    return np.maximum(np.rint(values).astype(np.int64), runs)


# ---------------------------------------------------------------------------------- the work of a tape


def work_of(net: Lowered, tape: Tape, batch: int) -> Work:
    """Count what each record of a tape reads, writes and multiplies at a batch.

    Forward, a record reads the tensors of its op, its parameters and, where it normalises by their statistics, those
    tensors twice, and writes what it makes or overwrites. Part of a tensor that a view shows counts as that part. A
    record that makes nothing runs nothing.

    Backward, it reads what its node holds, the incoming gradient once, or once for each product, and the weight of a
    product; it writes the gradients, and writes and reads the temporaries of their expression. Whatever a node holds
    is taken as read. Beside that, a gradient that is summed to a smaller shape is read and written, and one that is
    added to another costs two reads and a write, at the record that comes second. Where a gradient is handed on as it
    is, nothing runs.

    Not counted: workspaces of kernels, copies of gradients that lie the wrong way, starting a kernel.

    Parameters
    ----------
    net : Lowered
    tape : Tape
        A tape of that net.
    batch : int

    Returns
    -------
    Work

    Raises
    ------
    ShapeError
        If the shapes are impossible at that batch.

    Notes
    -----
    O(n_records + n_edges), once per tape; then as much in a few passes over flat arrays.
    """
    batch = check_batch(batch)
    plan = tape._cache.get("work")
    if plan is None:
        plan = tape._cache["work"] = _prepare(net, tape)
    kept: dict[int, Work] = tape._cache.setdefault("works", {})
    found = kept.get(batch)
    if found is None:
        found = plan.at(net, tape, batch)
        if len(kept) >= 8:
            kept.clear()
        kept[batch] = found
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Plan(Columns):
    """What the work of a tape consists of, at any batch.

    Attributes
    ----------
    forward, backward, beside : (record, spec, times)
        Bytes that scale with the batch: forward, of backward nodes, and of sums beside them.
    forward_fixed, backward_fixed : (n_records,) float64, bytes
        Bytes that do not.
    sum_record, sum_from, sum_to : gradients that may be summed to a smaller shape: from and to which spec.
    main : (n_ops,) record that does an op's arithmetic, or -1.
    products : (n_ops,) how many gradients an op's backward makes by as many products.
    """

    forward: Records
    backward: Records
    beside: Records
    forward_fixed: F64
    backward_fixed: F64
    sum_record: I64
    sum_from: I64
    sum_to: I64
    op_of: I64
    main: I64
    products: I64
    forward_runs: Bools
    backward_runs: Bools
    has_backward: Bools

    def at(self, net: Lowered, tape: Tape, batch: int) -> Work:
        n = tape.n_records
        sizes = net.sizes_at(batch)
        nbytes = np.empty(len(tape.spec), np.int64)
        spec_bytes(tape.spec, sizes.dims, nbytes)
        forward, backward, beside = (
            _summed(record, nbytes[spec] * times, n)
            for record, spec, times in (self.forward, self.backward, self.beside)
        )
        a, b = nbytes[self.sum_from], nbytes[self.sum_to]
        sums = a != b
        beside += _summed(self.sum_record, np.where(sums, a + b, 0), n)
        runs = self.backward_runs.copy()
        runs[self.sum_record[sums]] = True
        macs = net.counts_at(batch)[:, 0].astype(np.float64)
        product = (self.main >= 0) & (net.macs_rule > 0)
        at = self.main[product]
        ahead, behind = np.zeros(n), np.zeros(n)
        ahead[at] = macs[product]
        behind[at] = macs[product] * self.products[product]
        # Elements that the op of a record writes; the loss: those of the network's output.
        written = np.add.reduceat(sizes.numel, net.out_ptr[:-1]) if net.n_ops else np.zeros(0, np.int64)
        of = np.append(written, sizes.numel[net.outputs].sum()).astype(np.float64)[self.op_of]
        of[at] = 0
        return Work(
            forward + self.forward_fixed, backward + self.backward_fixed, beside, ahead, behind,
            of * self.forward_runs, of * runs, self.forward_runs, runs, self.has_backward,
        )  # fmt: skip


def _summed(record: I64, values: F64 | I64, n: int) -> F64:
    """Add up what belongs to each record; of nothing `bincount` makes integers."""
    return np.bincount(record, values, minlength=n).astype(np.float64, copy=False)


def _prepare(net: Lowered, tape: Tape) -> _Plan:
    n, n_ops = tape.n_records, net.n_ops
    record = np.arange(n)
    op_of = np.array([op for op, _ in tape.records], np.int64)
    cast = np.array([name == "_to_copy" for _, name in tape.records], bool)
    op_of[op_of < 0] = n_ops
    makes = np.diff(tape.alloc_ptr) > 0
    runs = makes | (tape.over >= 0)
    root, inputs = _roots(net, op_of, runs, n_ops)
    # What overwrites an input of the network makes no storage and overwrites none of forward's.
    into = [op for op in np.flatnonzero(net.alias == OVERWRITES).tolist() if inputs[root[net.out_ptr[op]]]]
    if into:
        runs = runs | np.isin(op_of, into) & ~cast
    main = np.full(n_ops + 1, -1, np.int64)
    able = np.flatnonzero(runs & ~cast)
    np.maximum.at(main, op_of[able], able)
    edge_record = np.repeat(record, np.diff(tape.edge_ptr))
    reached = _reached(tape)
    attrs = net.op_attrs
    twice = np.zeros(n_ops + 1, bool)
    twice[:n_ops] = [
        kind.startswith(_TWICE) and not a.get("use_running_stats")
        for kind, a in zip(net.op_kinds, attrs, strict=True)
    ]  # fmt: skip
    doubled = np.zeros(n, bool)
    doubled[main[twice & (main >= 0)]] = True
    product = np.append(net.macs_rule > 0, False)
    products = _products(net, tape, main, product, edge_record, reached)
    parts = _parts(net, tape, root)

    def times(at: I64, stores: I64, usual: F64) -> F64:
        return usual if not parts else usual * [
            parts.get((op, s), 1.0) for op, s in zip(op_of[at].tolist(), stores.tolist(), strict=True)
        ]  # fmt: skip

    # ---- forward
    reads = np.repeat(record, np.diff(tape.read_ptr))
    made = np.repeat(record, np.diff(tape.alloc_ptr))
    over = np.flatnonzero(tape.over >= 0)
    ahead: list[tuple[I64, I64, F64]] = [
        (reads, tape.store_spec[tape.read_idx], times(reads, tape.read_idx, 1.0 + doubled[reads])),
        (made, tape.store_spec[tape.alloc_idx], np.ones(len(made))),
        (over, tape.store_spec[tape.over[over]], times(over, tape.over[over], np.ones(len(over)))),
    ]
    leaf_of = np.full(len(tape.value_spec), -1, np.int64)
    for k, leaf in enumerate(tape.leaves):
        if leaf.name != "input":
            leaf_of[leaf.value] = k
    of_leaf = np.flatnonzero(leaf_of[tape.edge_value] >= 0)
    ahead.append((edge_record[of_leaf], tape.value_spec[tape.edge_value[of_leaf]], np.ones(len(of_leaf))))
    fixed, weights = _weights(net, tape, op_of, main, edge_record[of_leaf], leaf_of[tape.edge_value[of_leaf]])
    given, constant = _given(net, tape, root, inputs, main, doubled, set(into))
    ahead += given
    fixed += constant
    if tape.n_loss and len(tape.targets):
        k = len(tape.targets)
        ahead.append((np.full(k, n - 1), tape.targets, np.ones(k)))
    # ---- backward
    has_backward = reached & (np.diff(tape.edge_ptr) > 0)
    code_record = np.repeat(record, np.diff(tape.code_ptr))
    kind = tape.code[:, 0]
    fresh, temporary = (np.flatnonzero((kind == what) & reached[code_record]) for what in (FRESH, TEMPORARY))
    works = np.zeros(n, bool)
    works[code_record[fresh]] = works[code_record[temporary]] = True
    saved = np.repeat(record, np.diff(tape.saved_ptr))
    outs = np.repeat(record, np.diff(tape.out_ptr))
    often = np.maximum(1.0 + doubled, np.append(products, 0)[op_of] * (main[op_of] == record))
    behind: list[tuple[I64, I64, F64]] = [
        (saved, tape.store_spec[tape.saved_idx], times(saved, tape.saved_idx, (1.0 + doubled[saved]) * works[saved])),
        (outs, tape.value_spec[tape.out_value], often[outs] * works[outs]),
        (code_record[fresh], tape.code[fresh, 2], np.ones(len(fresh))),
        (code_record[temporary], tape.code[temporary, 1], np.full(len(temporary), 2.0)),
    ]
    mine = np.flatnonzero(reached[edge_record])
    order = mine[np.argsort(-edge_record[mine], kind="stable")]
    _, first = np.unique(tape.edge_value[order], return_index=True)
    added = np.delete(order, first)
    relaid = mine[tape.edge_copies[mine] > 0]
    beside = [(edge_record[e], tape.value_spec[tape.edge_value[e]], np.full(len(e), k))
              for e, k in ((added, 3.0), (relaid, 2.0))]  # fmt: skip
    # The products of backward read the weight, if the node does not hold its cast, and of an input of the network what
    # forward read.
    back_fixed = np.zeros(n)
    still = tape.spec[:, 1] == tape.spec[:, 2]
    holds = np.zeros(n + 1, bool)
    holds[saved[still[tape.store_spec[tape.saved_idx]]]] = True
    some = np.flatnonzero(product[:n_ops] & (products > 0) & ~holds[main[:n_ops]])
    back_fixed[main[some]] = weights[some]
    for at, spec, t in given:
        behind.append((at, spec, t * (product[op_of[at]] & works[at] & (main[op_of[at]] == at))))
    runs_back = works.copy()
    runs_back[edge_record[added]] = True
    return _Plan(
        _joined(ahead, runs), _joined(behind, None), _joined(beside, None), fixed * runs, back_fixed, edge_record[mine],
        tape.edge_spec[mine], tape.value_spec[tape.edge_value[mine]], op_of, main[:n_ops], products, runs, runs_back,
        has_backward,
    )  # fmt: skip


def _joined(pieces: Sequence[Records], runs: Bools | None) -> Records:
    record, spec, times = (np.concatenate(c) for c in zip(*pieces, strict=True))
    keep = times > 0 if runs is None else (times > 0) & runs[record]
    return column(record[keep]), column(spec[keep]), times[keep]


def _reached(tape: Tape) -> Bools:
    """Return which records have a backward node that the loss leads to."""
    reached = np.zeros(tape.n_records, bool)
    wanted = {tape.root}
    outs, ptr = tape.out_value.tolist(), tape.out_ptr.tolist()
    edges, at = tape.edge_value.tolist(), tape.edge_ptr.tolist()
    for p in range(tape.n_records - 1, -1, -1) if tape.root >= 0 else ():
        if not wanted.isdisjoint(outs[ptr[p] : ptr[p + 1]]):
            reached[p] = True
            wanted.update(edges[at[p] : at[p + 1]])
    return reached


def _roots(net: Lowered, op_of: I64, runs: Bools, n_ops: int) -> tuple[I64, Bools]:
    """Return the tensor whose bytes each tensor shows, and which of them are inputs or constants of the network."""
    writes = np.zeros(n_ops + 1, bool)
    writes[op_of[runs]] = True
    source = net.kind > 0
    root = np.arange(net.n_tensors)
    at, idx, out = net.in_ptr.tolist(), net.in_idx.tolist(), net.out_ptr.tolist()
    shows = ~writes[:n_ops] | (net.alias == OVERWRITES)
    shows &= np.diff(net.in_ptr) > 0
    for op in np.flatnonzero(shows).tolist():
        root[out[op] : out[op + 1]] = root[idx[at[op]]]
    return root, source


def _parts(net: Lowered, tape: Tape, root: I64) -> dict[tuple[int, int], float]:
    """Return what share of a storage an op reads through views of it, where that is not all."""
    numel = net.sizes.numel
    seen, whole = numel[net.in_idx], numel[root[net.in_idx]]
    some = np.flatnonzero(seen < whole)
    if not len(some):
        return {}
    reader = np.repeat(np.arange(net.n_ops), np.diff(net.in_ptr))
    store = {t: s for s, t in enumerate(tape.store_tensor.tolist()) if t >= 0}
    found: dict[tuple[int, int], float] = {}
    asked = {(int(reader[e]), int(root[net.in_idx[e]])) for e in some}
    ops = np.unique(reader[some])
    for op in ops.tolist():
        for e in range(int(net.in_ptr[op]), int(net.in_ptr[op + 1])):
            t = int(root[net.in_idx[e]])
            s = store.get(t, -1)
            if s >= 0 and (op, t) in asked:
                found[op, s] = min(1.0, found.get((op, s), 0.0) + float(seen[e]) / float(whole[e]))
    return found


def _products(net: Lowered, tape: Tape, main: I64, product: Bools, edge_record: I64, reached: Bools) -> I64:
    """Return how many gradients each op makes by a product: all but that of a bias."""
    n_ops = net.n_ops
    bias = np.zeros(len(tape.value_spec), bool)
    for leaf in tape.leaves:
        bias[leaf.value] = leaf.name == "bias"
    # Under autocast a bias is cast before it is used.
    out_record = np.repeat(np.arange(tape.n_records), np.diff(tape.out_ptr))
    casts = np.array([name == "_to_copy" for _, name in tape.records], bool)[out_record]
    source = tape.edge_ptr[out_record[casts]]
    bias[tape.out_value[casts]] = bias[tape.edge_value[source]]
    counted = np.flatnonzero(~bias[tape.edge_value] & reached[edge_record])
    per_record = np.bincount(edge_record[counted], minlength=tape.n_records)
    products = np.zeros(n_ops, np.int64)
    some = np.flatnonzero(product[:n_ops] & (main[:n_ops] >= 0))
    products[some] = np.minimum(per_record[main[some]], 2)
    return products


def _weights(net: Lowered, tape: Tape, op_of: I64, main: I64, record: I64, leaf: I64) -> tuple[F64, F64]:
    """Return the bytes of parameters that no edge leads to, at each main record, and of each op's weight alone."""
    n_ops = net.n_ops
    counts = np.empty((n_ops, 5), np.int64)
    s = net.sizes
    count(net.macs_rule, net.weight_rule, frozen(np.ones((n_ops, 4), np.int64)), net.attr_ptr, net.attr, net.in_ptr,
          net.in_idx, net.out_ptr, s.rank, s.dims, s.numel, counts)  # fmt: skip
    item = net.weight_itemsizes(None).astype(np.float64)
    number = {name: op for op, name in enumerate(net.op_names)}
    elements = np.zeros(len(tape.leaves))
    for k, f in enumerate(tape.leaves):
        elements[k] = math.prod(f.shape)
        item[number[f.op]] = f.itemsize
    seen = np.bincount(op_of[record], elements[leaf], minlength=n_ops + 1)[:n_ops]
    rest = np.maximum(counts[:, 1:4].sum(axis=1) - seen, 0) * item
    fixed = np.zeros(tape.n_records)
    has = main[:n_ops] >= 0
    fixed[main[:n_ops][has]] = rest[has]
    return fixed, counts[:, 1] * item


def _given(net: Lowered, tape: Tape, root: I64, source: Bools, main: I64, doubled: Bools,
           into: set[int]) -> tuple[list[Records], F64]:  # fmt: skip
    """Return what ops read of the network's inputs, and the bytes that they read of its constants."""
    spec = {int(tape.spec[s, 0]): int(s) for s in tape.inputs}
    rows: list[tuple[int, int, float]] = []
    fixed = np.zeros(tape.n_records)
    reader = np.repeat(np.arange(net.n_ops), np.diff(net.in_ptr))
    numel = net.sizes.numel
    trained = {f.op for f in tape.leaves if f.trainable}
    # Autocast reads an input to cast it; the op reads what that makes.
    casts = {(op, int(root[tape.spec[tape.store_spec[tape.alloc_idx[tape.alloc_ptr[k]]], 0]])): k
             for k, (op, name) in enumerate(tape.records)
             if name == "_to_copy" and tape.alloc_ptr[k] < tape.alloc_ptr[k + 1]}  # fmt: skip
    item = net.weight_itemsizes(None)
    for e in np.flatnonzero(source[root[net.in_idx]]).tolist():
        op, t = int(reader[e]), int(net.in_idx[e])
        at, r = int(main[op]), int(root[t])
        if at < 0:
            continue
        at = casts.get((op, r), at)
        share = min(1.0, float(numel[t]) / float(max(numel[r], 1))) * (1 + doubled[at])
        if r in spec:
            rows.append((at, spec[r], share + (op in into)))
        elif net.op_names[net.producer[r]] not in trained:
            # A trained constant is a parameter, which an edge leads to.
            fixed[at] += share * float(numel[r]) * float(item[net.producer[r]])
    columns = np.array(rows, np.float64).reshape(-1, 3)
    return [(column(columns[:, 0]), column(columns[:, 1]), columns[:, 2])], fixed


# ---------------------------------------------------------------------------------- reading


def read_costs(
    source: str | os.PathLike[str] | IO[str] | Mapping[str, Any] | Iterable[Any],
    *,
    batch: int | None = None,
    backward_factor: float | None = None,
    fill: str | Roofline | None = None,
) -> Measured:
    r"""Read measured times of ops: CSV, JSON or plain data.

    CSV begins with a line that names the columns, in any order: ``op``, ``forward_ms`` and, where it was measured,
    ``backward_ms``; ``_us``, ``_ns`` and ``_s`` are other units. An empty backward is one that was not measured; blank
    lines are skipped. JSON and plain data are a mapping of each op to a number (milliseconds forward), a pair or a
    mapping of those columns; a list of such rows, each with its ``op``; or ``{"ops": either}`` with ``batch``,
    ``backward_factor`` and ``fill`` beside it, which is what :meth:`Measured.to_dict` gives.

    Names are those of the graph's ops, or of modules; see :class:`Measured`, also for what the options do. They are
    compared with the graph when a plan is made.

    Parameters
    ----------
    source : path, text, text stream, mapping or rows
        Text is what holds a line break or begins with a bracket; any other is a path.
    batch, backward_factor, fill : optional
        Replace what the source says. `fill` is a :class:`Roofline` or ``"roofline"``, with rates if wanted as for
        :func:`read_cost_model`.

    Returns
    -------
    Measured

    Raises
    ------
    ReadError
        If the source cannot be read, an op stands twice, or a number is no time; names the row and what is allowed.

    Examples
    --------
    >>> times = read_costs("op,forward_ms,backward_ms\nconv1,0.9,1.7\nrelu,0.1,\n")
    >>> times.times
    (OpTime(op='conv1', forward_ms=0.9, backward_ms=1.7), OpTime(op='relu', forward_ms=0.1, backward_ms=None))
    >>> read_costs({"conv1": [0.9, 1.7], "relu": 0.1}).times == times.times
    True
    """
    where, said = "measured times", {}
    if isinstance(source, str) and ("\n" in source or source.lstrip()[:1] in ("{", "[")):
        data: Any = _parsed(source, where)
    elif isinstance(source, str | os.PathLike):
        where = repr(str(os.fspath(source)))
        try:
            with open(source, encoding="utf-8-sig", newline="") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            raise ReadError(
                f"{where} cannot be read as times of ops: {getattr(error, 'strerror', None) or error}"
            ) from None
        data = _parsed(text, where)
    elif hasattr(source, "read"):
        where = str(getattr(source, "name", where))
        data = _parsed(source.read(), where)
    else:
        data = source
    if isinstance(data, Mapping) and isinstance(data.get("ops"), Mapping | list | tuple):
        said = {k: v for k, v in data.items() if k != "ops"}
        if extra := sorted(str(k) for k in said if k not in _BESIDE):
            raise ReadError(f"{where}: {extra[0]!r} stands beside 'ops'; allowed: {', '.join(_BESIDE)}"
                            f"{close_names(extra[0], _BESIDE)}")  # fmt: skip
        if said.get("name", "measured") != "measured":
            raise ReadError(f"{where}: name={said['name']!r}; allowed with times of ops: 'measured'")
        data = data["ops"]
        where = str(said.get("source", where))
    filled = fill if fill is not None else said.get("fill")
    return Measured(
        tuple(_times(data, where)), batch if batch is not None else said.get("batch"),
        backward_factor if backward_factor is not None else said.get("backward_factor"),
        None if filled is None else _roofline(filled, where), where,
    )  # fmt: skip


_BESIDE: Final = ("batch", "backward_factor", "fill", "source", "name")


def _roofline(fill: Any, where: str) -> Roofline:
    try:
        model = read_cost_model(fill)
    except (RematError, ReadError) as error:
        raise ReadError(f"{where}: fill: {error}") from None
    if not isinstance(model, Roofline):
        raise ReadError(f"{where}: fill={fill!r}; allowed: 'roofline', with or without rates")
    return model


def _parsed(text: str, where: str) -> Any:
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, where))
        except (ValueError, RecursionError) as error:
            if isinstance(error, ReadError):
                raise
            raise ReadError(f"{where}: no JSON: {error}") from None
    return _table(text, where)


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ReadError(f"{where}: {key!r} stands twice; allowed: once")
            seen.add(key)
    return found


def _columns(names: Iterable[str], here: str) -> dict[str, tuple[str, float]]:
    """Return what each column of times means: forward or backward, and how many milliseconds its unit has."""
    found: dict[str, tuple[str, float]] = {}
    for name in names:
        what, _, unit = name.rpartition("_")
        if what in ("forward", "backward") and unit in _PER_MS:
            if any(what == w for w, _ in found.values()):
                raise ReadError(f"{here}two columns of {what} times; allowed: one")
            found[name] = (what, _PER_MS[unit])
        elif name != "op":
            allowed = ("op", "forward_ms", "backward_ms")
            raise ReadError(f"{here}unknown column {name!r}; allowed: {', '.join(allowed)}, or _us, _ns, _s"
                            f"{close_names(name, allowed)}")  # fmt: skip
    if not any(what == "forward" for what, _ in found.values()):
        raise ReadError(f"{here}no column forward_ms; allowed: op,forward_ms or op,forward_ms,backward_ms")
    return found


def _table(text: str, where: str) -> list[tuple[str, OpTime]]:
    """Read CSV; each row with what an error calls it."""
    reader = csv.reader(io.StringIO(text), skipinitialspace=True, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for values in reader:
            if any(v.strip() for v in values):
                rows.append((reader.line_num, [v.strip() for v in values]))
    except csv.Error as error:
        raise ReadError(f"{where}, line {reader.line_num}: {error}") from None
    if not rows:
        raise ReadError(f"{where}: empty; allowed: a line that names the columns, op,forward_ms,backward_ms")
    (line, header), *body = rows
    here = f"{where}, line {line}: "
    if "op" not in header or len(set(header)) < len(header):
        raise ReadError(f"{here}the columns are {','.join(header)}; allowed: op,forward_ms,backward_ms, each once")
    columns = _columns(header, here)
    found: list[tuple[str, OpTime]] = []
    lines: dict[str, int] = {}
    for line, values in body:
        here = f"{where}, line {line}: "
        if len(values) != len(header):
            raise ReadError(f"{here}{len(values)} values for the {len(header)} columns {','.join(header)}")
        row = dict(zip(header, values, strict=True))
        name = row["op"]
        if not name:
            raise ReadError(f"{here}no op; allowed: a name")
        if name in lines:
            raise ReadError(f"{here}op {name!r} stands in line {lines[name]} already; allowed: once")
        lines[name] = line
        times: dict[str, float | None] = {}
        for title, (what, per) in columns.items():
            given = row[title]
            if not given and what == "backward":
                continue
            try:
                value = float(given)
            except ValueError:
                value = math.nan
            times[f"{what}_ms"] = _time(value, f"{here}op {name!r} has {title}={given!r}", per)
        found.append((here, OpTime(name, **times)))  # type: ignore[arg-type]
    return found


def _time(value: object, what: str, per: float = 1.0) -> float:
    """Return a time in milliseconds; `per` is how many a unit of it has."""
    if not _is_number(value) or not 0 <= float(value) * per < math.inf:  # type: ignore[arg-type]
        raise ReadError(f"{what}; allowed: a number, 0 or more")
    return float(value) * per  # type: ignore[arg-type]


def _times(data: Any, where: str) -> Iterable[OpTime]:
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield _one(name, value, f"{where}: op {name!r} has ")
        return
    if isinstance(data, str) or not isinstance(data, Iterable):
        raise ReadError(f"{where}: {data!r}; allowed: a mapping of ops to milliseconds, or a list of rows")
    for k, row in enumerate(data):
        here = f"{where}, row {k + 1}: "
        if isinstance(row, Mapping):
            if "op" not in row:
                raise ReadError(f"{here}no op; allowed: op, forward_ms, backward_ms")
            yield _one(row["op"], {t: v for t, v in row.items() if t != "op"}, here)
        elif isinstance(row, tuple) and len(row) == 2 and isinstance(row[1], OpTime):
            yield row[1]
        elif isinstance(row, list | tuple) and 2 <= len(row) <= 3:
            yield _one(row[0], list(row[1:]), here)
        else:
            raise ReadError(f"{here}{row!r}; allowed: [op, forward_ms] or [op, forward_ms, backward_ms]")


def _one(name: object, value: Any, here: str) -> OpTime:
    """Read the time of one op."""
    if not isinstance(name, str):
        raise ReadError(f"{here}{name!r} as its op; allowed: a name")
    if isinstance(value, Mapping):
        columns = _columns(value, here)
        times: dict[str, float | None] = {}
        for title, (what, per) in columns.items():
            if value[title] is None and what == "backward":
                continue
            times[f"{what}_ms"] = _time(value[title], f"{here}{title}={value[title]!r}", per)
        return OpTime(name, **times)  # type: ignore[arg-type]
    pair = list(value) if isinstance(value, list | tuple) else [value]
    if not 1 <= len(pair) <= 2:
        raise ReadError(f"{here}{value!r}; allowed: milliseconds forward, or forward and backward")
    ahead = _time(pair[0], f"{here}{pair[0]!r}")
    return OpTime(name, ahead, None if len(pair) < 2 or pair[1] is None else _time(pair[1], f"{here}{pair[1]!r}"))


# 32-bit arithmetic without tensor cores, and bandwidth, of NVIDIA's data sheets: Tesla P100 PCIe 16 GB (2016), Tesla
# V100 SXM2 (2018), T4 (2019), A100 40 GB (2020), H100 SXM (2023).
GPUS: Final[Mapping[str, Roofline]] = MappingProxyType({
    "p100": Roofline(9.3e12, 0.732e12),
    "v100": Roofline(15.7e12, 0.9e12),
    "t4": Roofline(8.1e12, 0.32e12),
    "a100": Roofline(),
    "h100": Roofline(67e12, 3.35e12),
})  # fmt: skip


def read_cost_model(costs: str | os.PathLike[str] | Costs | Mapping[str, Any]) -> Costs:
    """Return the cost model that an option names.

    Parameters
    ----------
    costs : str, path, Costs or mapping
        ``"flops"``; ``"roofline"``; ``"roofline:a100"``, one of `GPUS`; ``"roofline:19.5e12,1.555e12"``, FLOP/s and
        bytes/s; a file or text of measured times as :func:`read_costs` takes it, a file by its suffix ``.csv`` or
        ``.json``; a mapping of ops to milliseconds, or what :meth:`Costs.to_dict` gave; or a model, which is taken as
        it is.

    Raises
    ------
    RematError
        If it is none of these.
    ReadError
        If a file or its times cannot be read.

    Examples
    --------
    >>> read_cost_model("roofline:h100")
    Roofline(flops_per_second=67000000000000.0, bytes_per_second=3350000000000.0)
    """
    if isinstance(costs, Costs):
        return costs
    if isinstance(costs, Mapping):
        return _from_dict(costs)
    if isinstance(costs, str) and "\n" not in costs and costs.lstrip()[:1] not in ("{", "["):
        kind, colon, rates = costs.partition(":")
        kind = kind.strip().lower()
        if kind == "flops" and not colon:
            return Flops()
        if kind == "roofline":
            return _from_text(costs, rates.strip()) if colon else Roofline()
        if not costs.lower().endswith((".csv", ".json")):
            raise RematError(
                f"costs={costs!r}; allowed: 'flops', 'roofline', 'roofline:FLOP/s,bytes/s', 'roofline:' and one of "
                f"{', '.join(GPUS)}, or a file .csv or .json of measured times{close_names(kind, _MODELS)}"
            )
    elif not isinstance(costs, str | os.PathLike):
        raise RematError(f"costs={costs!r}; allowed: a name, a file, a mapping of ops to milliseconds or a Costs")
    return read_costs(costs)


_MODELS: Final = ("flops", "roofline", "measured")


def _from_text(costs: str, rates: str) -> Roofline:
    gpu = GPUS.get(rates.lower())
    if gpu is not None:
        return gpu
    try:
        given = [float(r) for r in rates.split(",")]
    except ValueError:
        given = []
    if len(given) != 2:
        raise RematError(f"costs={costs!r}; allowed behind 'roofline:': FLOP/s and bytes/s, such as 19.5e12,1.555e12, "
                         f"or one of {', '.join(GPUS)}{close_names(rates.lower(), GPUS)}")  # fmt: skip
    return Roofline(*given)


def _from_dict(data: Mapping[str, Any]) -> Costs:
    name = data.get("name")
    if name == "flops" and len(data) == 1:
        return Flops()
    if name == "roofline":
        rates = {k: v for k, v in data.items() if k != "name"}
        if extra := sorted(str(k) for k in rates if k not in ("flops_per_second", "bytes_per_second")):
            raise RematError(f"roofline: unknown {extra[0]!r}; allowed: flops_per_second, bytes_per_second")
        return Roofline(**rates)
    if isinstance(name, str) and name != "measured":
        raise RematError(f"costs of name {name!r}; allowed: {', '.join(_MODELS)}{close_names(name, _MODELS)}")
    return read_costs(data)
