"""Inference memory: the exact peak of a network that runs in a given order under a runtime's rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from cnnlive._kernels.liveness import first_violation, least_needs, live_at, live_ranges, peak_of
from cnnlive._types import (
    DTYPE_CODE,
    DTYPES,
    I64,
    IS_FLOATING,
    ITEMSIZES,
    Columns,
    Result,
    Shape,
    column,
    dtype_name,
    frozen,
)
from cnnlive.errors import DTypeError, GraphError, OrderError, close_names
from cnnlive.graph import Graph
from cnnlive.lowered import VIEW, Lowered, Sizes, check_batch, lower
from cnnlive.mixed import autocast as _autocast
from cnnlive.ops import OPERATORS
from cnnlive.plan._tflm import from_a_file, requested
from cnnlive.profiles import INPLACE, Inplace, Profile, Takeover, profile_of
from cnnlive.units import format_bytes

__all__ = ["InferencePlan", "LiveBuffer", "OpRow", "eager_scratch", "held_table", "peak_in_order", "plain_rules",
           "plan_inference", "read_rules", "share_table", "shares_of", "stored_bytes", "workspace_bytes"]  # fmt: skip


class LiveBuffer(NamedTuple):
    """One buffer: the tensor that first writes it, its size, and its half-open life in steps."""

    name: str
    nbytes: int
    born: int
    dead: int
    shape: Shape
    dtype: str


class OpRow(NamedTuple):
    """One op of the per-op table, at its step.

    ``output_bytes`` is what the op allocates: 0 for a view and an op in place. ``live_bytes`` is everything
    alive while it runs. Counts of parameters include buffers; shared ones stand at their first op.
    """

    step: int
    name: str
    op: str
    scope: str
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    parameters: int
    macs: int
    output_bytes: int
    live_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class _Lives(Columns):
    """What does not change with the batch: which tensors share bytes, and when each buffer lives."""

    order: I64
    share: I64
    held: I64
    buffer: I64
    born: I64
    dead: I64
    # A buffer that shrinks when a smaller tensor is written into it is one for the arena, and in the columns above;
    # here each of its sizes is a part by itself, named by the tensor that is written. Else the same arrays.
    part: I64
    part_born: I64
    part_dead: I64


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InferencePlan(Result):
    """What a network's inference costs in memory; made by :func:`plan_inference`.

    Attributes
    ----------
    name : str
        The network.
    batch : int
    profile : Profile
        The rules that held.
    dtype, weight_dtype : str, mapping or None
        As asked for; None is as built, and for weights as `dtype`.
    network : Lowered
        What was planned, ops numbered as in `order`: the fused network where `profile` fuses.
    peak_bytes : int
        Weights and activations together.
    weight_bytes : int
        Parameters and buffers, which stay for the whole run: ``parameter_bytes + buffer_bytes``.
    parameter_bytes, buffer_bytes : int
        Trained parameters; running statistics, constants and (as the profile says) batch counters.
    activation_peak_bytes : int
        The most bytes of activations alive at one step, equal to ``timeline.max()``.
    peak_step, peak_op : int, str
        The first step that reaches it and the op that runs there.
    lower_bound : int
        Activation bytes that no order of the ops goes below: what some op needs by itself, or with ``order="best"``
        what the search has proven.
    optimal : bool
        ``activation_peak_bytes == lower_bound``: proof that no other order is better.
    timeline : (n_ops,) int64
        Activation bytes alive while each step runs, scratch included.
    order : (n_ops,) int64
        ``order[k]`` is the op that runs at step ``k``.
    """

    name: str
    batch: int
    profile: Profile
    dtype: str | Mapping[str, str] | None
    weight_dtype: str | None
    network: Lowered
    peak_bytes: int
    weight_bytes: int
    parameter_bytes: int
    buffer_bytes: int
    activation_peak_bytes: int
    peak_step: int
    peak_op: str
    lower_bound: int
    optimal: bool
    timeline: I64
    order: I64
    _sizes: Sizes
    _nbytes: I64
    _dtypes: I64
    _lives: _Lives
    _scratch: I64

    @property
    def live_at_peak(self) -> tuple[LiveBuffer, ...]:
        """What is alive at the peak, the largest first; with the scratch of the op it adds up to the peak."""
        return self.live_at(self.peak_step)

    @property
    def scratch_at_peak(self) -> int:
        """Bytes that the op at the peak allocates and drops while it runs."""
        return int(self._scratch[self.order[self.peak_step]])

    def live_at(self, step: int) -> tuple[LiveBuffer, ...]:
        """Return what is alive during a step, the largest first.

        Raises
        ------
        OrderError
            If there is no such step.
        """
        self._op_at(step)
        found = np.empty(self.network.n_tensors, np.int64)
        n = live_at(self._lives.part_born, self._lives.part_dead, step, found)
        return tuple(sorted(map(self._part, found[:n].tolist()), key=lambda b: -b.nbytes))

    def reads_at(self, step: int) -> tuple[LiveBuffer, ...]:
        """Return the buffers that the op of a step reads, each once, in the order of its inputs.

        Raises
        ------
        OrderError
            If there is no such step.
        """
        op, net = self._op_at(step), self.network
        return self._buffers(net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]])

    def writes_at(self, step: int) -> tuple[LiveBuffer, ...]:
        """Return the buffers that the op of a step writes, in place too, each once.

        Raises
        ------
        OrderError
            If there is no such step.
        """
        op, net = self._op_at(step), self.network
        return self._buffers(np.arange(net.out_ptr[op], net.out_ptr[op + 1]))

    def _op_at(self, step: int) -> int:
        if not 0 <= step < self.order.shape[0]:
            raise OrderError(f"there is no step {step}; allowed: 0 to {self.order.shape[0] - 1}")
        return int(self.order[step])

    def _buffers(self, tensors: I64) -> tuple[LiveBuffer, ...]:
        """Return the buffers behind tensors, each once; what is not counted (stored parameters) has none."""
        found = dict.fromkeys(self._lives.part[tensors].tolist())
        return tuple(self._part(b) for b in found if not self._lives.held[b] & 1)

    def _part(self, tensor: int) -> LiveBuffer:
        return self._buffer(tensor, self._lives.part_born, self._lives.part_dead)

    def _buffer(self, tensor: int, born: I64, dead: I64) -> LiveBuffer:
        return LiveBuffer(
            self.network.tensor_name(tensor),
            int(self._nbytes[tensor]),
            int(born[tensor]),
            int(dead[tensor]),
            self.network.shape(tensor, self._sizes),
            DTYPES[self._dtypes[tensor]],
        )

    @property
    def buffers(self) -> tuple[LiveBuffer, ...]:
        """Every buffer in the order of its first writer: what an arena planner needs.

        One that shrinks (a profile whose ops write smaller outputs into their inputs) is here once, at its first size.
        """
        born, dead = self._lives.born, self._lives.dead
        return tuple(self._buffer(t, born, dead) for t in np.flatnonzero(born < dead).tolist())

    @property
    def buffer_of(self) -> dict[str, str]:
        """The buffer that holds each tensor, by name; views and what is written in place share one."""
        names = [self.network.tensor_name(t) for t in range(self.network.n_tensors)]
        return {name: names[b] for name, b in zip(names, self._lives.buffer.tolist(), strict=True)}

    @property
    def inputs(self) -> tuple[LiveBuffer, ...]:
        """The buffers of the network's inputs."""
        return self._buffers(np.flatnonzero(self.network.kind == 1))

    @property
    def outputs(self) -> tuple[LiveBuffer, ...]:
        """The buffers of the network's outputs, each once."""
        return self._buffers(np.flatnonzero(self.network.is_output == 1))

    @property
    def workspace_bytes(self) -> int:
        """Bytes that the profile's runtime keeps for its kernels all the time; in no other figure here."""
        return workspace_bytes(self.network, self.profile, self._sizes)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products at this batch."""
        return self.network.macs(self.batch)

    @property
    def input_bytes(self) -> int:
        """Bytes of the network's inputs, whoever holds them."""
        return int(self._nbytes[self.network.kind == 1].sum())

    @property
    def output_bytes(self) -> int:
        """Bytes of the network's outputs; those that share a buffer count once."""
        return int(self._nbytes[np.unique(self._lives.part[self.network.is_output == 1])].sum())

    @property
    def activation_bytes(self) -> int:
        """Bytes of all buffers together, as if none were ever freed."""
        return int(self._nbytes[self._lives.born < self._lives.dead].sum())

    @property
    def ops(self) -> tuple[OpRow, ...]:
        """The per-op table in execution order."""
        net, sizes = self.network, self._sizes
        counts = net.counts_at(self.batch)
        own = np.where(self._lives.buffer == np.arange(net.n_tensors), self._nbytes, 0)
        own[self._lives.held & 1 == 1] = 0
        rows = []
        for step, op in enumerate(self.order.tolist()):
            written = range(int(net.out_ptr[op]), int(net.out_ptr[op + 1]))
            read = net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]].tolist()
            rows.append(
                OpRow(
                    step,
                    net.op_names[op],
                    net.op_kinds[op],
                    net.op_scopes[op],
                    tuple(net.shape(t, sizes) for t in read),
                    tuple(net.shape(t, sizes) for t in written),
                    int(counts[op, 1:4].sum()),
                    int(counts[op, 0]),
                    sum(int(own[t]) for t in written),
                    int(self.timeline[step]),
                )
            )
        return tuple(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what ``cnnlive inference --json`` prints."""
        return {
            "network": self.name,
            "batch": self.batch,
            "dtype": dict(self.dtype) if isinstance(self.dtype, Mapping) else self.dtype,
            "weight_dtype": self.weight_dtype,
            "profile": self.profile.name,
            "inplace": self.profile.inplace,
            "fuse": self.profile.fuse,
            "peak_bytes": self.peak_bytes,
            "weight_bytes": self.weight_bytes,
            "parameter_bytes": self.parameter_bytes,
            "buffer_bytes": self.buffer_bytes,
            "activation_peak_bytes": self.activation_peak_bytes,
            "scratch_at_peak_bytes": self.scratch_at_peak,
            "activation_bytes": self.activation_bytes,
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
            "parameters": self.network.n_parameters,
            "buffers": self.network.n_buffers,
            "macs": self.macs,
            "peak_step": self.peak_step,
            "peak_op": self.peak_op,
            "live_at_peak": [b._asdict() | {"shape": list(b.shape)} for b in self.live_at_peak],
            "lower_bound": self.lower_bound,
            "optimal": self.optimal,
            "order": [self.network.op_names[op] for op in self.order.tolist()],
            "timeline": self.timeline.tolist(),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.name or 'network'}, inference, batch {self.batch}, profile {self.profile.name}",
            f"  peak         {format_bytes(self.peak_bytes):>10}  {self.peak_bytes:>16,} B",
            f"  weights      {format_bytes(self.weight_bytes):>10}  {self.weight_bytes:>16,} B",
            f"  activations  {format_bytes(self.activation_peak_bytes):>10}  {self.activation_peak_bytes:>16,} B"
            f"  at {self.peak_op}",
        ]
        lines += [f"    {b.name:<30} {b.nbytes:>16,} B  {b.shape} {b.dtype}" for b in self.live_at_peak[:8]]
        if self.scratch_at_peak:
            lines.append(f"    {'(scratch)':<30} {self.scratch_at_peak:>16,} B")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<InferencePlan {self.name!r}: {self.peak_bytes:,} B at {self.peak_op!r}>"


def plan_inference(
    graph: Graph | Lowered,
    *,
    batch: int = 1,
    dtype: str | Mapping[str, str] | None = None,
    weight_dtype: str | None = None,
    order: Literal["program", "best"] | Sequence[int] | Sequence[str] = "program",
    profile: str | Profile = "ideal",
    fuse: bool | None = None,
    inplace: Inplace | bool | None = None,
    autocast: str | None = None,
) -> InferencePlan:
    """Exact memory of one inference.

    A tensor is alive from the step that writes it up to and including the last step that reads it; while an
    op runs, its inputs, its outputs and its scratch all count. The network's inputs are alive from the first
    step, its outputs to the end. Views share the bytes of what they look at, which stay alive as long as any
    of them is read; an op in place writes into its input's bytes. Where the profile has ``frames``, a tensor also
    stays as long as a Python frame refers to it (:meth:`cnnlive.Lowered.frames`). Weights are counted apart, in
    full. Not counted: an allocator's rounding and fragmentation, workspaces of kernels, the runtime itself.

    Parameters
    ----------
    graph : Graph or Lowered
    batch : int
        First dimension of every network input.
    dtype : str or mapping of str to str, optional
        One type for everything that is floating, weights too. Or types by name: an op's holds for what that op
        writes, a tensor's such as ``"pool:1"`` for that output alone, and ``"*"`` for everything floating that
        is not named, weights too; without it the rest stays as built. Integer tensors keep their type unless
        they are named, or the op writes nothing floating.
    weight_dtype : str, optional
        Type of the weights where it differs from `dtype`.
    order : "program", "best" or sequence
        Ops in execution order, by number or by name. Network inputs and stored parameters may be left out of a
        sequence of names: they come first then. ``"best"`` is an order of :func:`cnnlive.plan_order`: of least peak,
        or where that is not proven, ``optimal`` is false.
    profile : str or Profile
        The runtime's rules, such as ``"ideal"``, ``"torch"`` (eager) or ``"tflm"``; see ``cnnlive.PROFILES``.
    fuse : bool, optional
        Run convolution (or linear), batch normalisation and activation as one op. Default: as the profile.
    inplace : {"graph", "dead", "never"} or bool, optional
        Ops in place as the graph says, also wherever an elementwise op may, or never. True is ``"graph"``,
        False ``"never"``. Default: as the profile; if it is given, the profile's `takeover` does not hold.
    autocast : {"float16", "bfloat16"}, optional
        Mixed precision as PyTorch's autocast: the graph with its casts written out, see :func:`cnnlive.autocast`;
        parameters stay in 32 bits, and their casts are kept to the end beside them. `graph` is a Graph then.

    Returns
    -------
    InferencePlan

    Raises
    ------
    OrderError
        If `order` is not a legal order; names the first offending op. Also if it is not the program's and the
        profile has ``frames``, which are of the program.
    ShapeError
        If the batch is impossible for the net, or its tensors take 2**62 bytes together.
    DTypeError, UnknownProfileError, GraphError
        For an unknown type, profile, or op in a mapping of types; for a type that the profile does not have.

    Notes
    -----
    O(n_ops + n_edges). The graph is lowered once and the lives of its buffers are found once per profile; a
    further plan costs one pass over a difference array.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> plan = plan_inference(zoo.load("vgg16"))
    >>> plan.activation_peak_bytes == 2 * 64 * 224 * 224 * 4
    True
    """
    if autocast is not None:
        if dtype is not None:
            raise DTypeError("dtype and autocast exclude each other; autocast decides on the types itself")
        graph, weight_dtype = _autocast(graph, autocast), weight_dtype or "float32"  # type: ignore[arg-type]
    net = graph if isinstance(graph, Lowered) else lower(graph)
    rules = read_rules(profile, fuse, inplace)
    if rules.pad_ops and fuse is None and from_a_file(net):
        # A TFLite file has been through the converter: its ops are the ones that run.
        rules = replace(rules, fuse=False, pad_ops=False)
    if rules.fuse:
        net = net.fused((), rules.activations, rules.bases)
    if rules.pad_ops:
        net = net.padded()
    if type(batch) is not int or not 0 < batch < 1 << 62:
        batch = check_batch(batch)
    sizes = net.sizes_at(batch)
    codes: I64 | None = None
    asked: str | Mapping[str, str] | None
    if dtype is None or not isinstance(dtype, Mapping):
        asked = uniform = None if dtype is None else dtype_name(dtype)
        nbytes = frozen(sizes.numel * net.itemsizes(uniform))
    else:
        asked = {name: dtype_name(value) for name, value in dtype.items()}
        uniform = asked.get("*")
        codes = _mixed(net, asked, rules)
        nbytes = frozen(sizes.numel * ITEMSIZES[codes])
    if rules.dtypes:
        _check_types(net, rules, net.dtypes(uniform) if codes is None else codes)
    if weight_dtype is not None:
        weight_dtype = dtype_name(weight_dtype)
    stored = uniform if weight_dtype is None else weight_dtype
    parameter_bytes, statistic_bytes, counter_bytes = stored_bytes(net, stored)
    buffer_bytes = statistic_bytes + counter_bytes if rules.batch_counters else statistic_bytes

    proven = 0
    scratch = eager_scratch(net, sizes) if rules.pool_indices else net.scratch
    if rules.placement == "tflm" and from_a_file(net):
        scratch = requested(net)
    if isinstance(order, str):
        if order not in ("program", "best"):
            raise OrderError(f"order={order!r}; allowed: 'program', 'best' or a sequence of ops")
        if order == "program":
            lives = _program_lives(net, rules, sizes, nbytes)
        elif rules.frames:
            raise OrderError(
                f"the Python frames of profile {rules.name!r} are those of the program, and so is its order; "
                "allowed with it: order='program'"
            )
        else:
            from cnnlive.plan.order import best_order  # noqa: PLC0415 - it plans by this function itself

            share, held = _shares(net, rules, sizes, nbytes)
            found = best_order(net, share, held, nbytes, scratch)
            lives, proven = _lives(net, rules, sizes, nbytes, found.order), found.bound
            if rules.reuses:
                # The search knows nothing of dead buffers that are used again: its bound holds, its order may not do.
                program = _program_lives(net, rules, sizes, nbytes)
                lives = min(lives, program, key=lambda x: _peak(x, nbytes, scratch))
    else:
        read = _read_order(net, order)
        if rules.frames and not np.array_equal(read, _program(net)):
            moved = net.op_names[int(read[np.flatnonzero(read != _program(net))[0]])]
            raise OrderError(
                f"the order moves {moved}, and the Python frames of profile {rules.name!r} are those of the program; "
                "allowed with it: the program's order"
            )
        lives = _lives(net, rules, sizes, nbytes, read)
    timeline = np.empty(net.n_ops, np.int64)
    peak, step = peak_of(lives.order, nbytes, lives.part_born, lives.part_dead, scratch, timeline)
    seen = np.full(net.n_tensors, -1, np.int64)
    bound = least_needs(net.in_ptr, net.in_idx, net.out_ptr, lives.share, lives.held, lives.part,
                        nbytes, scratch, seen)  # fmt: skip
    peak, step, bound = int(peak), int(step), max(int(bound), proven)  # numpy scalars where nothing is compiled
    weight_bytes = parameter_bytes + buffer_bytes
    return InferencePlan(
        net.name,
        batch,
        rules,
        asked,
        weight_dtype,
        net,
        peak + weight_bytes,
        weight_bytes,
        parameter_bytes,
        buffer_bytes,
        peak,
        step,
        net.op_names[lives.order[step]],
        bound,
        peak == bound,
        frozen(timeline),
        lives.order,
        sizes,
        nbytes,
        net.dtypes(uniform) if codes is None else codes,
        lives,
        scratch,
    )


def read_rules(profile: str | Profile, fuse: bool | None, inplace: Inplace | bool | None) -> Profile:
    """Return a profile with the two rules changed that planners take beside it.

    Raises
    ------
    UnknownProfileError, GraphError
        For a profile or a rule that does not exist.
    """
    rules = profile_of(profile)
    if inplace is not None:
        mode = ("graph" if inplace else "never") if isinstance(inplace, bool) else inplace
        if mode not in INPLACE:
            raise GraphError(f"inplace={inplace!r}; allowed: 'graph', 'dead', 'never', True, False")
        if mode != rules.inplace or rules.takeover is not None:
            rules = replace(rules, inplace=mode, takeover=None)
    if fuse is not None and fuse is not rules.fuse:
        if not isinstance(fuse, bool | np.bool_):
            raise GraphError(f"fuse={fuse!r}; allowed: True, False, None")
        rules = replace(rules, fuse=bool(fuse))
    return rules


# The rules that only plans of one network know, with the value that leaves them out.
_OF_PLANS: Mapping[str, Any] = {
    "takeover": None, "copies": (), "copies_at_ends": (), "activations": None, "bases": (), "pad_ops": False,
    "counts_inputs": True, "reuses": False, "dtypes": (), "workspace": "",
}  # fmt: skip


def plain_rules(profile: str | Profile, fuse: bool | None, inplace: Inplace | bool | None) -> Profile:
    """Do what :func:`read_rules` does for planners of many networks at once, which know fewer rules.

    Raises
    ------
    UnknownProfileError, GraphError
        As there, and for a profile with a rule that such planners do not know; names profile and rules.
    """
    rules = read_rules(profile, fuse, inplace)
    strange = [name for name, without in _OF_PLANS.items() if getattr(rules, name) != without]
    if strange:
        raise GraphError(
            f"profile {rules.name!r} has rules that batches and search spaces do not know: {', '.join(strange)}; "
            "allowed there: profiles without them, such as 'ideal', 'torch' and 'torch_fx'"
        )
    return rules


def eager_scratch(net: Lowered, sizes: Sizes) -> I64:
    """Bytes that eager ops allocate and drop: their scratch, indices of pools, statistics of normalisations."""
    scratch = net.scratch + net.index_bytes * sizes.numel[net.out_ptr[:-1]]
    for op, first, last, k in net.statistics.tolist():
        scratch[op] += k * int(sizes.dims[net.in_idx[net.in_ptr[op]], first:last].prod())
    return frozen(scratch)


def stored_bytes(net: Lowered, dtype: str | None) -> tuple[int, int, int]:
    """Bytes of parameters, of buffers, and of batch counters."""
    found = net._cache.get(("weight_bytes", dtype))
    if found is None:
        counts = net.counts
        items = net.weight_itemsizes(dtype)
        exact = (counts[:, 1:4] * items[:, None]).sum(axis=0).tolist()
        found = (exact[0] + exact[1], exact[2], int(counts[:, 4].sum()) * 8)
        net._cache["weight_bytes", dtype] = found
    return found


def _mixed(net: Lowered, dtype: Mapping[str, str], rules: Profile) -> I64:
    """Return the dtype code of every tensor under a mapping of op and tensor names to types."""
    shares = shares_of(net, rules)[0] == 1
    built = net.dtypes(dtype.get("*"))
    codes = built.copy()
    number = {name: op for op, name in enumerate(net.op_names)}
    tensors: list[tuple[int, str]] = []
    for name, value in dtype.items():
        if name in number:
            op = number[name]
            written = np.arange(net.out_ptr[op], net.out_ptr[op + 1])
            floating = written[IS_FLOATING[net.dtype[written]]]
            codes[floating if len(floating) else written] = DTYPE_CODE[value]
        elif name == "*":
            continue
        else:
            op, tensor = _output(net, number, name, rules)
            tensors.append((tensor, value))
        if shares[op]:
            raise DTypeError(
                f"{name} ({net.op_kinds[op]}) writes no bytes of its own; name the op whose bytes it shares"
            )
    for tensor, value in tensors:
        codes[tensor] = DTYPE_CODE[value]
    # What shares bytes shares their type.
    for op in np.flatnonzero(shares).tolist():
        source = net.in_idx[net.in_ptr[op]]
        if codes[source] != built[source]:
            codes[net.out_ptr[op] : net.out_ptr[op + 1]] = codes[source]
    return codes


def _output(net: Lowered, number: Mapping[str, int], name: object, rules: Profile) -> tuple[int, int]:
    """Return op and number of a tensor that is named as ``"op:k"``."""
    producer, _, k = str(name).rpartition(":")
    op = number.get(producer)
    if op is None or not k.isdecimal():
        whose = "fused network" if rules.fuse else "network"
        raise GraphError(f"dtype names {name!r}, which is not an op of the {whose}{close_names(name, net.op_names)}")
    n = int(net.out_ptr[op + 1] - net.out_ptr[op])
    if int(k) >= n:
        raise GraphError(f"dtype names {name!r}, and {producer} has {'outputs' if n > 1 else 'output'} :0"
                         + (f" to :{n - 1}" if n > 1 else ""))  # fmt: skip
    return op, int(net.out_ptr[op]) + int(k)


def _check_types(net: Lowered, rules: Profile, codes: I64) -> None:
    """Refuse activations of types that the runtime does not have; what the network has as integers may stay."""
    allowed = [DTYPE_CODE[d] for d in rules.dtypes]
    wrong = np.flatnonzero((net.kind != 2) & IS_FLOATING[net.dtype] & ~np.isin(codes, allowed))
    if len(wrong):
        t = int(wrong[0])
        raise DTypeError(
            f"profile {rules.name!r} has no activations of type {DTYPES[codes[t]]}, which {net.tensor_name(t)} has; "
            f"allowed: {', '.join(map(repr, rules.dtypes))} (dtype={rules.dtypes[0]!r})"
        )


def _program_lives(net: Lowered, rules: Profile, sizes: Sizes, nbytes: I64) -> _Lives:
    # Ops that take over what dies look at sizes, which change with the batch and the types; the rest do not.
    if _takes_over(net, rules):
        return _lives(net, rules, sizes, nbytes, _program(net))
    key = ("lives", rules.frames, *_share_key(rules))
    lives = net._cache.get(key)
    if lives is None:
        lives = net._cache[key] = _lives(net, rules, sizes, nbytes, _program(net))
    return lives


def _program(net: Lowered) -> I64:
    order: I64 | None = net._cache.get("program")
    return net._keep("program", np.arange(net.n_ops)) if order is None else order


_NOTHING_ALIKE = column([])


def _lives(net: Lowered, rules: Profile, sizes: Sizes, nbytes: I64, order: I64) -> _Lives:
    n = net.n_tensors
    share, held = _shares(net, rules, sizes, nbytes)
    buffer, uses, born, dead, inside, freed = np.zeros((6, n), np.int64)
    in_ptr, in_idx, reads = net.held_reads() if rules.frames else (net.in_ptr, net.in_idx, net.reads)
    like = _alike(net, sizes, nbytes) if rules.reuses else _NOTHING_ALIKE
    live_ranges(order, in_ptr, in_idx, net.out_ptr, share, reads, held, nbytes, _takes_over(net, rules), like, buffer,
                uses, born, dead, inside, freed)  # fmt: skip
    columns = (frozen(buffer), frozen(born), frozen(dead))
    if rules.takeover is None or rules.takeover.fits != "smaller" or not (inside >= 0).any():
        return _Lives(order, share, held, *columns, *columns)
    # A part in another buffer comes after it in the order, and lives on where that ends.
    whole = np.arange(n)
    first, last = born.copy(), dead.copy()
    for t in sorted(np.flatnonzero(inside >= 0).tolist(), key=born.__getitem__):
        whole[t] = whole[inside[t]]
        last[whole[t]] = max(last[whole[t]], dead[t])
        first[t] = last[t] = 0
    return _Lives(order, share, held, frozen(whole[buffer]), frozen(first), frozen(last), *columns)


def _peak(lives: _Lives, nbytes: I64, scratch: I64) -> int:
    live = np.empty(len(lives.order), np.int64)
    return int(peak_of(lives.order, nbytes, lives.part_born, lives.part_dead, scratch, live)[0])


def peak_in_order(plan: InferencePlan, order: I64) -> int:
    """Return the activation peak of a planned network in another legal order, in bytes."""
    lives = _lives(plan.network, plan.profile, plan._sizes, plan._nbytes, order)
    return _peak(lives, plan._nbytes, plan._scratch)


def _alike(net: Lowered, sizes: Sizes, nbytes: I64) -> I64:
    """Give tensors of one shape and size one number; -1: without dimensions. The last answer is kept."""
    asked = (sizes.dims.tobytes(), nbytes.tobytes())
    kept = net._cache.get("alike")
    if kept is None or kept[0] != asked:
        _, like = np.unique(np.column_stack([sizes.rank, sizes.dims, nbytes]), axis=0, return_inverse=True)
        kept = net._cache["alike"] = (asked, column(np.where(sizes.rank == 0, -1, like.reshape(-1))))
    found: I64 = kept[1]
    return found


def _share_key(rules: Profile) -> tuple[Any, ...]:
    key = (rules.inplace, rules.keeps_inputs)
    if rules.takeover is None and not rules.copies and not rules.copies_at_ends and rules.counts_inputs:
        return key
    return (*key, rules.takeover, rules.copies, rules.copies_at_ends, rules.counts_inputs)


def shares_of(net: Lowered, rules: Profile, sizes: Sizes | None = None) -> tuple[I64, I64]:
    """Return what each op does with its inputs' bytes, and how each tensor is held, under a profile.

    `sizes` are of the batch, default the network's own: ops may ask for inputs of their output's shape.
    """
    key = ("share", *_share_key(rules))
    if rules.takeover is not None and rules.takeover.fits == "shape" and sizes is not None and sizes is not net.sizes:
        key = (*key, sizes.dims.tobytes())
    found = net._cache.get(key)
    if found is None:
        if rules.takeover is None and not rules.copies and not rules.copies_at_ends:
            shares = np.where(net.alias < 0, 0 if rules.inplace == "never" else 1 - net.alias,
                              share_table(rules)[np.maximum(net.alias, 0)])  # fmt: skip
        else:
            shares = _shares_by_rule(net, rules, sizes or net.sizes)
        held = held_table(rules)[net.kind]
        found = net._cache[key] = (frozen(shares), frozen(held | (net.is_output * 4)))
    return found


def _shares(net: Lowered, rules: Profile, sizes: Sizes, nbytes: I64) -> tuple[I64, I64]:
    """Do what :func:`shares_of` does, and leave out what is too small."""
    share, held = shares_of(net, rules, sizes)
    if rules.takeover is not None and rules.takeover.over:
        share = frozen(np.where((share < 0) & (nbytes[net.out_ptr[:-1]] <= rules.takeover.over), 0, share))
    return share, held


def _shares_by_rule(net: Lowered, rules: Profile, sizes: Sizes) -> I64:
    """Return codes of `share` for a profile whose runtime copies views, or says itself what it takes over."""
    share = np.zeros(net.n_ops, np.int64)
    takeover, never = rules.takeover, rules.inplace == "never"
    table = share_table(rules)
    in_ptr, in_idx, out_ptr, kind = net.in_ptr.tolist(), net.in_idx.tolist(), net.out_ptr.tolist(), net.kind.tolist()
    alias = net.alias.tolist()
    # An output of the network is one also through ops that vanish, such as dropout.
    ends = net.is_output.tolist()
    vanishing = set(rules.copies).union(rules.copies_at_ends)
    for op in range(net.n_ops - 1, -1, -1):
        if alias[op] == VIEW and net.op_kinds[op] not in vanishing:
            x = in_idx[in_ptr[op]]
            ends[x] |= max(ends[out_ptr[op] : out_ptr[op + 1]])
    root = list(range(net.n_tensors))
    for op, name in enumerate(net.op_kinds):
        if alias[op] < 0:
            share[op] = 0 if never else 1 - alias[op]
        elif alias[op] != VIEW:
            share[op] = table[alias[op]] if takeover is None else 0
        elif name not in rules.copies:
            x, written = in_idx[in_ptr[op]], range(out_ptr[op], out_ptr[op + 1])
            at_end = kind[root[x]] == 1 or any(ends[t] for t in written)
            if name not in rules.copies_at_ends or not at_end:
                share[op] = 1
                for t in written:
                    root[t] = root[x]
    if takeover is None:
        return share
    # Reads of the bytes of a tensor, not counting by what looks at them.
    readers = [0] * net.n_tensors
    for op in np.flatnonzero(share != 1).tolist():
        for x in in_idx[in_ptr[op] : in_ptr[op + 1]]:
            readers[root[x]] += 1
    for op in np.flatnonzero((share == 0) & (net.alias >= 0) & (net.alias != VIEW)).tolist():
        reads, t = in_idx[in_ptr[op] : in_ptr[op + 1]], out_ptr[op]
        roots = [root[x] for x in reads]
        if out_ptr[op + 1] != t + 1 or (ends[t] and not takeover.to_outputs):
            continue
        bits = 0
        for i in _may_take(net, op, takeover):
            if i >= len(reads) or i >= _MOST_TAKEN or roots.count(roots[i]) > 1:
                continue
            x, r = reads[i], roots[i]
            if (
                kind[r] != 2
                and (kind[r] != 1 or takeover.from_inputs)
                and (not takeover.alone or (readers[r] == 1 and net.reads[x] == 1 and net.reads[r] == 1))
                and (takeover.fits != "shape" or net.shape(x, sizes) == net.shape(t, sizes))
            ):
                bits |= 2 << i
        if bits:
            share[op] = ~(bits | (takeover.fits == "smaller"))
    return share


# Inputs of an op that a code of `share` has bits for.
_MOST_TAKEN: Final = 61


def _may_take(net: Lowered, op: int, takeover: Takeover) -> tuple[int, ...]:
    """Return the inputs that the kernel of an op may write into, if they die."""
    name = net.op_kinds[op]
    if takeover.ops is None:
        return OPERATORS[name].overwrites if name in OPERATORS else ()
    by_name = dict(takeover.ops)
    if "depthwise" in by_name and name in ("conv1d", "conv2d", "conv3d"):
        columns = net.attr[net.attr_ptr[op] :]
        channels = net.sizes.dims[net.in_idx[net.in_ptr[op]], 1]
        if columns[1] == columns[2] == channels > 1:  # channels out, groups
            return by_name["depthwise"]
    return by_name.get(name, ())


def _takes_over(net: Lowered, rules: Profile) -> bool:
    """Whether any op may write into an input that dies there, or into a buffer that is dead."""
    key = ("takes over", rules.reuses, *_share_key(rules))
    found: bool | None = net._cache.get(key)
    if found is None:
        share = shares_of(net, rules)[0]
        # Shapes may be equal at some batches only.
        by_shape = rules.takeover is not None and rules.takeover.fits == "shape"
        found = net._cache[key] = rules.reuses or by_shape or bool(((share > 1) | (share < 0)).any())
    return found


def workspace_bytes(net: Lowered, rules: Profile, sizes: Sizes) -> int:
    """Bytes that a runtime keeps beside activations for the whole run, by the rule that its profile names."""
    if not rules.workspace:
        return 0
    # TinyEngine, code_generator/operators/{conv2d,depthwiseConv2d}.py: two columns of im2col in 16 bits, or two padded
    # planes of a depthwise convolution in place; a kernel in 16 bits unless it is 1 x 1. The largest of each stays.
    im2col = kernel = 0
    for op, name in enumerate(net.op_kinds):
        if name != "conv2d":
            continue
        columns = net.attr[net.attr_ptr[op] : net.attr_ptr[op + 1]].tolist()
        dims = sizes.dims[net.in_idx[net.in_ptr[op]]].tolist()
        (h, up, down), (w, left, right) = ((columns[i], columns[i + 2], columns[i + 3]) for i in (5, 11))
        if columns[1] == columns[2] == dims[1] > 1:
            im2col = max(im2col, 2 * (dims[2] + up + down) * (dims[3] + left + right))
        else:
            im2col = max(im2col, 4 * h * w * dims[1])
            kernel = max(kernel, 2 * h * w * dims[1] * columns[1] if h > 1 else 0)
    return int(im2col + kernel)


def share_table(rules: Profile) -> I64:
    """Return what an op does with its inputs' bytes, by its alias code where that is not negative."""
    dead = rules.inplace == "dead"
    # own bytes, view, asked in place, may overwrite input 0, may overwrite either
    return np.array([0, 1, 0 if rules.inplace == "never" else 1, 2 if dead else 0, 3 if dead else 0], np.int64)


def held_table(rules: Profile) -> I64:
    """Return how a tensor that is no output is held, by its kind: activation, network input, stored parameter."""
    return np.array([0, (6 if rules.keeps_inputs else 2) if rules.counts_inputs else 1, 1], np.int64)


def _read_order(net: Lowered, order: Sequence[int] | Sequence[str]) -> I64:
    if not isinstance(order, Iterable):
        raise OrderError(f"order={order!r}; allowed: 'program' or a sequence of ops")
    steps: list[Any] = list(order)
    if any(isinstance(s, str) for s in steps):
        number = {name: op for op, name in enumerate(net.op_names)}
        for s in steps:
            if s not in number:
                raise OrderError(
                    f"the order names {s!r}, which is not an op of the network{close_names(s, net.op_names)}"
                )
        numbers = [number[s] for s in steps]
        given = set(numbers)
        numbers = [op for op, k in enumerate(net.op_kinds) if k in ("input", "parameter") and op not in given] + numbers
    else:
        try:
            numbers = [int(s) for s in steps]
        except (TypeError, ValueError):
            raise OrderError("the order is neither a sequence of op numbers nor of op names") from None
    seen: set[int] = set()
    for op in numbers:
        if not 0 <= op < net.n_ops:
            raise OrderError(f"the order has op {op}; allowed: 0 to {net.n_ops - 1}")
        if op in seen:
            raise OrderError(f"the order runs {net.op_names[op]} twice")
        seen.add(op)
    if len(seen) != net.n_ops:
        missing = next(op for op in range(net.n_ops) if op not in seen)
        raise OrderError(f"the order leaves out {net.op_names[missing]}: it has {len(seen)} of {net.n_ops} ops")
    array = frozen(np.array(numbers, np.int64))
    op, earlier = first_violation(array, net.in_ptr, net.in_idx, net.producer, net.before_ptr, net.before_idx,
                                  np.empty(net.n_ops, np.int64))  # fmt: skip
    if op >= 0:
        reads = net.producer[net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]]]
        why = "whose output it reads" if earlier in reads else "which reads the bytes that it overwrites"
        raise OrderError(f"the order runs {net.op_names[op]} before {net.op_names[earlier]}, {why}")
    return array
