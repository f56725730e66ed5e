"""Ragged batches: many graphs end to end in flat arrays, evaluated without a Python object per graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnlive._kernels.backward import train_steps
from cnnlive._kernels.batch import evaluate_graphs, first_fault, fuse_nodes, sizes_peak
from cnnlive._types import DTYPE_CODE, DTYPES, I64, IS_FLOATING, ITEMSIZES, Columns, column, frozen
from cnnlive.errors import CnnliveError, GraphError, LoweringError, OrderError, ShapeError
from cnnlive.graph import Graph
from cnnlive.lowered import Lowered, check_operators, lower
from cnnlive.nas._chunks import chunk_bounds, run_chunks
from cnnlive.nas.base import Metric, Setting, read_metrics, read_setting
from cnnlive.nas.results import Evaluation
from cnnlive.nas.steps import StepRule, read_step
from cnnlive.nas.training import Scratch, Templates, templates, train
from cnnlive.plan.inference import share_table
from cnnlive.plan.optimizers import Optimizer
from cnnlive.plan.order import minimum_peak, minimum_peaks, share_codes
from cnnlive.plan.training import _optimizer_step, _precision, _tape
from cnnlive.profiles import Inplace, Profile
from cnnlive.tape import Tape

if TYPE_CHECKING:
    from cnnlive.nas.palette import Palette

__all__ = ["Batch", "Rules", "evaluate_batch"]

I32 = NDArray[np.int32]

_LIMIT: Final = 2**62
_WIDTH: Final = 32
_NONE: Final = column([])


def _small(values: ArrayLike) -> I32:
    """Return a C-contiguous, read-only int32 array."""
    array = np.ascontiguousarray(values, dtype=np.int32)
    array.setflags(write=False)
    return array


_NO_FREE: Final = _small(np.zeros((0, 2)))
_NO_UNTIL: Final = _small([])
_RULES: Final = 22


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Rules(Columns):
    """What the ops of a batch have in common: the columns of :class:`cnnlive.Lowered`, once per kind of op.

    Attributes
    ----------
    names : tuple of str
        Operator of each of the k kinds.
    rule, attr_ptr, attr : (k,), (k + 1,), (n_attr,)
        Shape rule and its columns, see :mod:`cnnlive._kernels.shapes`.
    patch_ptr, patch : (k + 1,), (n_patches, 2)
        Place in `attr`, and which of the two free values of an op stands there.
    inputs, rank, least : (k, 2), (k,), (k, 2)
        Least and most number of inputs, -1 where there may be any number; dimensions that the first has to have, 0:
        any; the least that each free value may be.
    macs_rule, weight_rule, owner : (k,), (k, 6), (k, 4)
        See :mod:`cnnlive._kernels.counts`.
    alias, fold, kind, index_bytes : (k,)
        As in :class:`cnnlive.Lowered`; `kind` of what the op writes.
    out_ptr, dtype : (k + 1,), (n_out,)
        Types of the outputs of each kind.
    stored : (k,)
        Type of what an op stores.
    statistics : (k, 3)
        First and last + 1 dimension and bytes, 0 for none.
    """

    names: tuple[str, ...]
    rule: I64
    attr_ptr: I64
    attr: I64
    patch_ptr: I64
    patch: I64
    inputs: I64
    rank: I64
    least: I64
    macs_rule: I64
    weight_rule: I64
    owner: I64
    alias: I64
    fold: I64
    kind: I64
    index_bytes: I64
    out_ptr: I64
    dtype: I64
    stored: I64
    statistics: I64

    @property
    def n_kinds(self) -> int:
        """Number of kinds."""
        return len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class _Program(Columns):
    """The table that the kernel reads, for one question."""

    table: I64
    patch: I64
    items: I64
    attr: I64


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Batch(Columns):
    """Many graphs end to end in flat, read-only arrays.

    Made by :meth:`from_graphs`, :meth:`from_lowered`, :meth:`from_arrays`, :meth:`from_nodes` or :meth:`from_sizes`.
    ``len(batch)`` is the number of graphs, ``batch[i:j]`` some of them (views, no copies); a batch can be pickled.

    Attributes
    ----------
    rules : Rules or None
        What the kinds of ops are; None for a batch of sizes.
    graph_ptr, tensor_ptr : (n + 1,) int64
        Ops and tensors of each graph. These and all other pointers may begin above 0, in a slice.
    kind : (n_ops,) int32
        Kind of each op, in program order.
    in_ptr, in_idx : (n_ops + 1,) int64, (n_edges,) int32
        Tensors that each op reads, numbered within the graph in the order in which ops write them.
    free : (n_ops, 2) int32, or (0, 2)
        Integers that take the place of attributes.
    output_ptr, output_idx : (n + 1,) int64, (n_outputs,) int32
        Outputs of each graph.
    until : (n_tensors,) int32, or (0,)
        Op of the graph through which eager Python's frames hold each tensor, where that is known.
    nbytes : (n_tensors,) int64, or (0,)
        Bytes of each tensor, of a batch of sizes.
    palette : Palette or None
        What the nodes are of.
    nets : tuple of Lowered
        What the batch was made of, as far as there are such; questions about fusion, frames and training read them
        once.
    first : int
        Number of the first graph in the batch that this is a slice of; errors count from there.
    """

    rules: Rules | None
    graph_ptr: I64
    tensor_ptr: I64
    kind: I32
    in_ptr: I64
    in_idx: I32
    free: I32
    output_ptr: I64
    output_idx: I32
    until: I32
    nbytes: I64
    palette: Palette | None = None
    nets: tuple[Lowered, ...] = ()
    first: int = 0
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.graph_ptr) - 1

    @property
    def n_ops(self) -> int:
        """Ops of all graphs together."""
        return int(self.graph_ptr[-1] - self.graph_ptr[0])

    @property
    def n_tensors(self) -> int:
        """Tensors of all graphs together."""
        return int(self.tensor_ptr[-1] - self.tensor_ptr[0])

    def __repr__(self) -> str:
        return f"<Batch of {len(self):,} graphs, {self.n_ops:,} ops>"

    def __getitem__(self, which: slice) -> Batch:
        """Return consecutive graphs as a batch of views.

        Raises
        ------
        TypeError
            For anything but a slice without a step.
        """
        if not isinstance(which, slice) or which.step not in (None, 1):
            raise TypeError(f"{which!r} of a batch; allowed: a slice of consecutive graphs")
        i, j, _ = which.indices(len(self))
        j = max(i, j)
        ptr, tensors, edges, outputs = self.graph_ptr, self.tensor_ptr, self.in_ptr, self.output_ptr
        a, b = int(ptr[i] - ptr[0]), int(ptr[j] - ptr[0])
        t, u = int(tensors[i] - tensors[0]), int(tensors[j] - tensors[0])
        e, f = int(edges[a] - edges[0]), int(edges[b] - edges[0])
        o, p = int(outputs[i] - outputs[0]), int(outputs[j] - outputs[0])
        # Blocks of a few graphs are cut by the thousand: `replace` takes three times as long.
        return Batch(
            self.rules, ptr[i : j + 1], tensors[i : j + 1], self.kind[a:b], edges[a : b + 1], self.in_idx[e:f],
            self.free[a:b], outputs[i : j + 1], self.output_idx[o:p], self.until[t:u], self.nbytes[t:u], self.palette,
            self.nets[i:j], self.first + i,
        )  # fmt: skip

    # ------------------------------------------------------------------ making one

    @classmethod
    def from_graphs(cls, graphs: Iterable[Graph | Lowered]) -> Batch:
        """Lower graphs and put them end to end.

        Raises
        ------
        GraphError
            If something is neither a Graph nor lowered; names its number.
        CnnliveError
            What lowering raises, with a note that says which graph it was.

        Notes
        -----
        Lowering costs a few microseconds per op, and is done once per graph.
        """
        if isinstance(graphs, Graph | Lowered):
            raise GraphError(f"{graphs!r} is one graph; a batch is made of a list of them")
        return cls.from_lowered(_lowered(i, g) for i, g in enumerate(graphs))

    @classmethod
    def from_lowered(cls, nets: Iterable[Lowered]) -> Batch:
        """Put lowered graphs end to end.

        Raises
        ------
        GraphError
            If something is not lowered; names its number.

        Notes
        -----
        O(ops), some tens of microseconds per graph. The lowered graphs stay in `nets`.
        """
        nets = tuple(nets)
        for i, net in enumerate(nets):
            if not isinstance(net, Lowered):
                raise GraphError(f"number {i} of the list is {net!r}, not a lowered graph")
        if not nets:
            return _EMPTY
        statistics = np.zeros((sum(net.n_ops for net in nets), 3), np.int64)
        ops = _summed([net.n_ops for net in nets])
        for i, net in enumerate(nets):
            if len(net.statistics):
                statistics[int(ops[i]) + net.statistics[:, 0]] = net.statistics[:, 1:]

        def together(name: str) -> I64:
            return np.concatenate([getattr(net, name) for net in nets])

        return _assemble(
            ops, _pointers([net.in_ptr for net in nets]), together("in_idx"), _pointers([net.out_ptr for net in nets]),
            together("is_output"), [k for net in nets for k in net.op_kinds],
            _Ops(together("rule"), _pointers([net.attr_ptr for net in nets]), together("attr"), together("macs_rule"),
                 together("weight_rule"), together("owner"), together("alias"), together("fold"),
                 np.concatenate([net.kind[net.out_ptr[:-1]] for net in nets]), together("index_bytes"),
                 together("dtype"), together("weight_dtype"), statistics), nets,
        )  # fmt: skip

    @classmethod
    def from_arrays(
        cls,
        graph_ptr: ArrayLike,
        *,
        in_ptr: ArrayLike,
        in_idx: ArrayLike,
        out_ptr: ArrayLike,
        rule: ArrayLike,
        attr_ptr: ArrayLike,
        attr: ArrayLike,
        is_output: ArrayLike,
        kind: ArrayLike,
        dtype: ArrayLike | None = None,
        macs_rule: ArrayLike | None = None,
        weight_rule: ArrayLike | None = None,
        owner: ArrayLike | None = None,
        alias: ArrayLike | None = None,
        fold: ArrayLike | None = None,
        index_bytes: ArrayLike | None = None,
        statistics: ArrayLike | None = None,
        until: ArrayLike | None = None,
        names: Sequence[str] | None = None,
    ) -> Batch:
        """Make a batch of the columns of :class:`cnnlive.Lowered`, of many graphs end to end.

        Parameters
        ----------
        graph_ptr : (n + 1,)
            Ops of each graph.
        in_ptr, in_idx : (n_ops + 1,), (n_edges,)
            Tensors that each op reads, numbered within the graph.
        out_ptr : (n_ops + 1,)
            Op writes the tensors ``out_ptr[op] .. out_ptr[op + 1]``, here counted through the whole batch.
        rule, attr_ptr, attr : (n_ops,), (n_ops + 1,), (n_attr,)
            Shape rule of each op and its columns.
        is_output, kind : (n_tensors,)
            1 for outputs of the network; 0 activation, 1 network input, 2 stored parameter.
        dtype : (n_tensors,), optional
            Position in ``cnnlive._types.DTYPES``. Default: float32.
        macs_rule, weight_rule, owner, alias, fold, index_bytes : optional
            (n_ops,), (n_ops, 6), (n_ops, 4), (n_ops,), (n_ops,), (n_ops,). Default: nothing is counted, everything
            is owned, and every op writes bytes of its own.
        statistics : (n_normalisations, 4), optional
            With ops counted through the whole batch.
        until : (n_tensors,), optional
            Op of the graph through which eager Python's frames hold a tensor, 0: nothing beyond its last reader.
            Profiles with frames need it.
        names : sequence of str, optional
            Operator of each op, for errors.

        Returns
        -------
        Batch

        Raises
        ------
        LoweringError
            For arrays that do not hold together; names the graph and the op.
        ShapeError
            If shapes are impossible as written, or sizes add up to 2**62 bytes.

        Notes
        -----
        O(n_edges), one pass.
        """
        ptr, edges = _pointer("graph_ptr", graph_ptr), _pointer("in_ptr", in_ptr)
        n_ops = int(ptr[-1])
        outs, attrs = _pointer("out_ptr", out_ptr), _pointer("attr_ptr", attr_ptr)
        for name, column_, length in (("in_ptr", edges, n_ops), ("out_ptr", outs, n_ops), ("attr_ptr", attrs, n_ops)):
            if len(column_) != length + 1:
                raise LoweringError(f"{name} has {len(column_)} entries for {n_ops} ops; allowed: {length + 1}")
        n_tensors = int(outs[-1])
        if (np.diff(outs) < 1).any():
            op = int(np.flatnonzero(np.diff(outs) < 1)[0])
            raise LoweringError(f"{_place(ptr, op)} writes no tensor")
        first_out = outs[:-1]
        kinds = _column("kind", kind, (n_tensors,))
        types = np.zeros(n_tensors, np.int64) if dtype is None else _column("dtype", dtype, (n_tensors,))
        owners = np.ones((n_ops, 4), np.int64) if owner is None else _column("owner", owner, (n_ops, 4))

        def optional(name: str, values: ArrayLike | None, *more: int) -> I64:
            return np.zeros((n_ops, *more), np.int64) if values is None else _column(name, values, (n_ops, *more))

        sums = np.zeros((n_ops, 3), np.int64)
        if statistics is not None:
            rows = np.asarray(statistics, np.int64).reshape(-1, 4)
            if len(rows) and not (rows[:, 0].min() >= 0 and rows[:, 0].max() < n_ops):
                raise LoweringError(f"statistics name op {int(rows[:, 0].max())}; allowed: 0 to {n_ops - 1}")
            sums[rows[:, 0]] = rows[:, 1:]
        if len(types) and not (types.min() >= 0 and types.max() < len(DTYPES)):
            raise LoweringError(f"dtype holds {int(types.max())}; allowed: 0 to {len(DTYPES) - 1}")
        written = types[first_out]
        stored = np.where(IS_FLOATING[written] | (kinds[first_out] == 2), written, 0)
        ops = _Ops(
            _column("rule", rule, (n_ops,)), attrs, _column("attr", attr, (int(attrs[-1]),)),
            optional("macs_rule", macs_rule), optional("weight_rule", weight_rule, 6), owners, optional("alias", alias),
            optional("fold", fold), kinds[first_out], optional("index_bytes", index_bytes), types, stored, sums,
        )  # fmt: skip
        if names is not None and len(names) != n_ops:
            raise LoweringError(f"{len(names)} names for {n_ops} ops")
        batch = _assemble(
            ptr, edges, _column("in_idx", in_idx, (int(edges[-1]),)), outs,
            _column("is_output", is_output, (n_tensors,)), names or ["op"] * n_ops, ops, (),
        )  # fmt: skip
        if until is not None:
            batch = replace(batch, until=_narrow("until", until, (n_tensors,)))
        assert batch.rules is not None
        first_of = np.full(batch.rules.n_kinds, -1)
        first_of[batch.kind[::-1]] = np.arange(n_ops)[::-1]
        for k, op in enumerate(first_of.tolist()):
            wrong = _wrong_columns(batch.rules, k)
            if wrong:
                raise LoweringError(f"{_place(ptr, op)}: {wrong}")
        _check(batch)
        if len(batch):
            batch._ask(read_setting(), 0, True, None, 1, None)
        return batch

    @classmethod
    def from_nodes(
        cls,
        palette: Palette,
        graph_ptr: ArrayLike,
        kind: ArrayLike,
        in_ptr: ArrayLike,
        in_idx: ArrayLike,
        free: ArrayLike | None = None,
        until: ArrayLike | None = None,
        *,
        check: bool = True,
    ) -> Batch:
        """Make a batch of nodes: graphs whose ops are of the kinds of a palette, each with one output.

        Parameters
        ----------
        palette : Palette
        graph_ptr : (n + 1,) int64
            Nodes of each graph, in program order; the last is its output.
        kind : (n_nodes,) int32
            Kind of each node.
        in_ptr, in_idx : (n_nodes + 1,) int64, (n_edges,) int32
            Nodes that each node reads, numbered within the graph.
        free : (n_nodes, 2) int32, optional
            Values of ``FREE[0]`` and ``FREE[1]``. Default: no kind has any.
        until : (n_nodes,) int32, optional
            Node through which eager Python's frames hold the output, 0: nothing beyond its last reader. Training, and
            profiles with frames, need it.
        check : bool
            False trusts the arrays, which then have to be of these types, contiguous, and right: anything else reads
            and writes memory at random.

        Returns
        -------
        Batch
            Arrays of these types are not copied, and become read-only.

        Raises
        ------
        LoweringError
            For arrays that do not hold together; names the graph and the node.

        Notes
        -----
        O(n_edges), one pass.
        """
        rules = _palette_rules(palette)
        ptr, edges = _pointer("graph_ptr", graph_ptr), _pointer("in_ptr", in_ptr)
        n = int(ptr[-1])
        if len(edges) != n + 1:
            raise LoweringError(f"in_ptr has {len(edges)} entries for {n} nodes; allowed: {n + 1}")
        if free is None and len(rules.patch):
            raise LoweringError("kinds of the palette have free values, and no node gives any")
        batch = cls(
            rules, ptr, ptr, _narrow("kind", kind, (n,)), edges, _narrow("in_idx", in_idx, (int(edges[-1]),)),
            _NO_FREE if free is None else _narrow("free", free, (n, 2)), column(np.arange(len(ptr))),
            _small(np.diff(ptr) - 1),
            _NO_UNTIL if until is None else _narrow("until", until, (n,)), _NONE, palette,
        )  # fmt: skip
        if check:
            _check(batch)
        return batch

    @classmethod
    def from_sizes(cls, graph_ptr: ArrayLike, in_ptr: ArrayLike, in_idx: ArrayLike, nbytes: ArrayLike) -> Batch:
        """Make a batch of graphs of which nothing is known but sizes: the question is then the in-order peak alone.

        Parameters
        ----------
        graph_ptr : (n + 1,) int64
            Nodes of each graph, in program order; each writes one tensor, and the last is the output.
        in_ptr, in_idx : (n_nodes + 1,) int64, (n_edges,) int32
            Nodes that each node reads, numbered within the graph.
        nbytes : (n_nodes,) int64
            Bytes of each tensor. A node without inputs writes its tensor when its turn comes.

        Raises
        ------
        LoweringError
            For arrays that do not hold together, a size below 0, or 2**62 bytes in one graph; names graph and node.

        Examples
        --------
        >>> evaluate_batch(Batch.from_sizes([0, 3], [0, 0, 1, 2], [0, 1], [4, 3, 2]), metrics="inference_peak")
        {'inference_peak': array([7])}
        """
        ptr, edges = _pointer("graph_ptr", graph_ptr), _pointer("in_ptr", in_ptr)
        n = int(ptr[-1])
        if len(edges) != n + 1:
            raise LoweringError(f"in_ptr has {len(edges)} entries for {n} nodes; allowed: {n + 1}")
        sizes = frozen(_column("nbytes", nbytes, (n,)))
        if n and int(sizes.min()) < 0:
            raise LoweringError(f"{_place(ptr, int(np.argmin(sizes)), 'node')} has {int(sizes.min())} bytes")
        batch = cls(
            None, ptr, ptr, _small(np.zeros(n)), edges, _narrow("in_idx", in_idx, (int(edges[-1]),)),
            _NO_FREE, column(np.arange(len(ptr))), _small(np.diff(ptr) - 1), _NO_UNTIL, sizes,
        )  # fmt: skip
        _check(batch)
        if n and float(sizes.max()) * float(np.diff(ptr).max()) >= _LIMIT:
            totals = np.add.reduceat(sizes.astype(np.float64), ptr[:-1])
            if (totals >= _LIMIT).any():
                g = int(np.flatnonzero(totals >= _LIMIT)[0])
                raise LoweringError(f"graph {g} has tensors of {totals[g]:.3g} bytes together; allowed: below 2**62")
        return batch

    # ------------------------------------------------------------------ asking it

    def fused(self) -> Batch:
        """Return the batch of the graphs in which convolution, normalisation and activation are one op.

        Raises
        ------
        GraphError
            If the batch was made of columns of ops of several outputs, or that share weights.
        """
        found: Batch | None = self._cache.get("fused")
        if found is None:
            if self.nets:
                made = replace(Batch.from_lowered(net.fused() for net in self.nets), first=self.first, _cache={})
            else:
                made = _fused(self)
            found = self._cache["fused"] = made
        return found

    def framed(self) -> Batch:
        """Return the batch with `until`: how long eager Python's frames hold each tensor.

        Raises
        ------
        GraphError
            If that is not known: then give `until`, or make the batch of graphs.
        """
        if len(self.until) or not self.n_tensors:
            return self
        if not self.nets:
            raise GraphError("eager Python's frames hold values, and the batch does not say which: give until")
        found: Batch | None = self._cache.get("framed")
        if found is None:
            until = _small(np.concatenate([net.frames() for net in self.nets]))
            found = self._cache["framed"] = replace(self, until=until, _cache={})
        return found

    def _ask(
        self, setting: Setting, at: int, macs: bool, training: _Training | None, threads: int | None,
        executor: Executor | None,
    ) -> I64:  # fmt: skip
        """Return parameters, multiply-accumulates, bytes of weights and peak of each graph, then columns of training.

        `at` is the batch, 0: as written.
        """
        rules = setting.profile
        batch = self.fused() if rules.fuse else self
        batch = batch.framed() if rules.frames or training else batch
        program = batch._program(setting, macs)
        # What travels to a chunk is arrays alone.
        plain = replace(batch, palette=None, nets=())
        question = _Question(program, at, int(rules.keeps_inputs), int(rules.inplace == "dead"), rules.frames, training)

        def task(begin: int, end: int) -> tuple[Any, tuple[Any, ...]]:
            return _answer, (plain[begin:end], question)

        try:
            parts = run_chunks(batch.graph_ptr, task, threads=threads, executor=executor)
        except _Failed as failed:
            raise batch._words(failed, at) from None
        return np.concatenate(parts)

    def _minimum(self, setting: Setting, threads: int | None, executor: Executor | None) -> I64:
        """Return the least peak of each graph over all orders."""
        rules = setting.profile
        if self.nets or setting.profile.frames:
            nets = self.nets or [None] * len(self)

            def each(begin: int, end: int) -> tuple[Any, tuple[Any, ...]]:
                return _minimum_of_nets, (nets[begin:end], setting, self.first + begin)

            return np.concatenate(run_chunks(self.graph_ptr, each, threads=threads, executor=executor, unit=64))
        assert self.rules is not None
        if rules.fuse:
            return self.fused()._minimum(replace(setting, profile=replace(rules, fuse=False)), threads, executor)
        if self.n_tensors != self.n_ops:
            raise GraphError("minimum_peak of plain arrays: ops of one output each; or give graphs")
        program = self._program(setting, False)
        share = share_codes(self.rules.alias, rules.inplace)
        held = np.array([0, 6 if rules.keeps_inputs else 2, 1])[self.rules.kind]
        plain = replace(self, palette=None, until=_NO_UNTIL)

        def task(begin: int, end: int) -> tuple[Any, tuple[Any, ...]]:
            return _minimum_of_nodes, (plain[begin:end], program, setting.batch, share, held)

        try:
            return np.concatenate(run_chunks(self.graph_ptr, task, threads=threads, executor=executor, unit=16))
        except _Failed as failed:
            raise self._words(failed, setting.batch) from None

    def _of_nodes(self, setting: Setting, metrics: Sequence[Metric]) -> _Training:
        """Return what training the nodes of a palette costs, by kind and optimizer."""
        assert self.palette is not None
        made = templates(self.palette, precision=setting.precision, device=setting.device, loss=setting.loss)
        rules = tuple(read_step(m.optimizer, setting.device, made.item) for m in metrics if m.optimizer is not None)
        return _Training(made, rules)

    def _of_nets(
        self, setting: Setting, metrics: Sequence[Metric], threads: int | None, executor: Executor | None
    ) -> dict[str, I64]:
        """Return the columns of metrics of training, of lowered graphs."""
        if not self.nets:
            raise GraphError("training needs a batch made of graphs, lowered graphs or nodes of a palette")
        tapes = self._tapes(setting)
        question = _Question(self._program(read_setting(), False), setting.batch, 0, 0, False)
        plain = replace(self, nets=(), until=_NO_UNTIL)

        def task(begin: int, end: int) -> tuple[Any, tuple[Any, ...]]:
            return _answer_tapes, (plain[begin:end], question, tapes.cut(begin, end))

        try:
            run = np.concatenate(run_chunks(self.graph_ptr, task, threads=threads, executor=executor, unit=8))
        except _Failed as failed:
            raise self._words(failed, setting.batch) from None
        found = {"saved": run[:, 3]}
        for metric in metrics:
            if metric.optimizer is not None:
                step = self._steps(setting, tapes, metric.optimizer)
                static = tapes.resident[:, 0] + run[:, 4] + step[:, 1]
                in_step = static + tapes.resident[:, 1] + run[:, 2] + step[:, 0]
                found[metric.label] = np.maximum(static + run[:, :2].max(axis=1), in_step)
        return found

    def _tapes(self, setting: Setting) -> _Tapes:
        """Return the tapes of a training step of each net, end to end; recorded once."""
        key = ("tapes", setting.precision, setting.device, setting.loss)
        found: _Tapes | None = self._cache.get(key)
        if found is None:
            made = [_numbered(self.first + i, _tape_of, net, setting) for i, net in enumerate(self.nets)]  # fmt: skip
            found = self._cache[key] = _Tapes(
                tuple(made),
                np.column_stack([_summed([len(getattr(t, name)) for t in made]) for name in _TAPE]),
                tuple(column(np.concatenate([getattr(t, name) for t in made])) for name in _TAPE),
                column([(t.root, t.root_held, t.n_dynamic + 1) for t in made], (len(made), 3)),
                column([(t.parameter_bytes + t.buffer_bytes, t.gradient_bytes) for t in made], (len(made), 2)),
            )  # fmt: skip
        return found

    def _steps(self, setting: Setting, tapes: _Tapes, rule: Optimizer) -> I64:
        """Return the peak of the optimizer's step, and the bytes of its state, for each net; found once."""
        key = ("steps", setting.precision, setting.device, setting.loss, rule)
        found: I64 | None = self._cache.get(key)
        if found is None:
            rows = [_optimizer_step(tape, rule, setting.device, False) for tape in tapes.tapes]
            found = self._cache[key] = column([(step.peak, step.state_bytes) for step in rows], (len(rows), 2))
        return found

    def _program(self, setting: Setting, macs: bool) -> _Program:
        key = (setting.dtype, setting.weight_dtype, setting.profile, setting.convention, macs)
        found: _Program | None = self._cache.get(key)
        if found is None:
            assert self.rules is not None
            found = self._cache[key] = _program(self.rules, setting, macs)
        return found

    def _words(self, failed: _Failed, at: int) -> CnnliveError:
        """Return the error that says what went wrong where."""
        status, g, op = failed.args
        net = self.nets[g - self.first] if self.nets else None
        if net is not None:
            name = f"{net.op_names[op]} ({net.op_kinds[op]})"
        else:
            assert self.rules is not None
            where = int(self.graph_ptr[g - self.first] - self.graph_ptr[0]) + op
            name = f"op {op} ({self.rules.names[self.kind[where]]})"
        batch = f" at batch {at}" if at else ""
        what = {
            1: f"{name}{batch}: the shapes are impossible",
            2: f"{name}{batch}: the result has 2**62 elements or more",
            3: f"{name}{batch}: 2**62 multiply-accumulates or more",
            4: f"all tensors together{batch} can take 2**62 bytes or more",
            5: f"2**62 multiply-accumulates or more{batch}, with {name}",
            6: f"the parameters take 2**62 bytes or more, with {name}",
        }[status]
        if net is not None and status == 1:
            try:
                net.sizes_at(at)
            except ShapeError as error:
                what = str(error)
        return (LoweringError if status == 6 else ShapeError)(f"graph {g}: {what}")


def evaluate_batch(
    graphs: Batch | Iterable[Graph | Lowered],
    *,
    metrics: str | Sequence[str] = ("params", "macs", "inference_peak"),
    batch: int = 1,
    dtype: str | None = None,
    weight_dtype: str | None = None,
    profile: str | Profile = "ideal",
    fuse: bool | None = None,
    inplace: Inplace | bool | None = None,
    convention: str = "macs",
    optimizer: str | Optimizer = "adam",
    optimizer_options: Mapping[str, Any] | None = None,
    precision: str | None = None,
    device: str = "cuda",
    loss: str = "cross_entropy",
    threads: int | None = None,
    executor: Executor | None = None,
) -> Evaluation:
    """Evaluate many graphs at once: what the planners say of each, as columns.

    Parameters
    ----------
    graphs : Batch or iterable of Graph or Lowered
        Make a :class:`Batch` of graphs that are asked about more than once.
    metrics : str or sequence of str
        Of :data:`cnnlive.nas.METRICS`: ``"params"``, ``"macs"``, ``"weight_bytes"``, ``"inference_peak"``,
        ``"inference_total"``, ``"minimum_peak"``, ``"saved"``, ``"training_peak"``, and ``"training_peak:sgd"`` for
        another optimizer than `optimizer`.
    batch : int
        First dimension of every network input; for training, images per forward pass.
    dtype, weight_dtype, profile, fuse, inplace
        As of :func:`cnnlive.plan_inference`, one type for everything; of inference alone. With `fuse` also parameters
        and multiply-accumulates are those of the fused network, as that plan has them.
    convention : str
        What ``"macs"`` counts, of :data:`cnnlive.nas.CONVENTIONS`.
    optimizer, optimizer_options
        Of training peaks that name no optimizer; options hold for all.
    precision, device, loss
        As of :func:`cnnlive.plan_training`; of training alone.
    threads : int, optional
        Default: every core that this process may use. Little work is done by the caller alone.
    executor : concurrent.futures.Executor, optional
        Takes chunks of the batch, pickled, instead of threads: a process pool, or the executor of a cluster.

    Returns
    -------
    Evaluation
        A dict of a column per metric, (n,) int64, in the order asked for; of no graphs, columns of length 0.

    Raises
    ------
    GraphError
        For something in the list that is no graph, or a question that the batch cannot answer.
    ShapeError, LoweringError
        If the shapes of a graph are impossible at the batch, or it has 2**62 bytes or multiply-accumulates or more.
        Names the number of the graph, and the op.
    AttributeValueError, DTypeError, UnknownProfileError
        For a metric or setting that does not exist.

    Notes
    -----
    O(n_edges) of all graphs together, except for ``minimum_peak``; memory per worker is O(largest graph) beside the
    batch and the result. No Python object per graph is touched, but for what fusion, frames and training need to know
    of lowered graphs, once per batch. An error or an interruption cancels the chunks that have not begun, and nothing
    is returned.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> nets = [zoo.load("resnet18"), zoo.load("vgg16")]
    >>> evaluate_batch(nets, metrics=("params", "inference_peak"))
    {'params': array([ 11689512, 138357544]), 'inference_peak': array([ 6422528, 25690112])}
    """
    options = dict(optimizer_options or {})
    asked = read_metrics(metrics, optimizer, device, **options)
    setting = read_setting(
        batch=batch, dtype=dtype, weight_dtype=weight_dtype, profile=profile, fuse=fuse, inplace=inplace,
        precision=precision, device=device, loss=loss, convention=convention,
    )  # fmt: skip
    many = graphs if isinstance(graphs, Batch) else Batch.from_graphs(graphs)
    if not len(many):
        return Evaluation({metric.label: np.zeros(0, np.int64) for metric in asked})
    if many.rules is None:
        return Evaluation(_of_sizes(many, asked, setting, threads, executor))
    names = {metric.name for metric in asked}
    found: dict[str, I64] = {}
    trained = tuple(metric for metric in asked if metric.name in ("saved", "training_peak"))
    nodes = many._of_nodes(setting, trained) if trained and many.palette is not None else None
    if names & _INFERENCE or nodes is not None:
        if nodes is not None and setting.profile.fuse:
            # A net trains as it was built.
            alone = many._ask(read_setting(batch=setting.batch), setting.batch, False, nodes, threads, executor)
            columns = many._ask(setting, setting.batch, "macs" in names, None, threads, executor)
            columns = np.concatenate((columns, alone[:, 4:]), axis=1)
        else:
            columns = many._ask(setting, setting.batch, "macs" in names, nodes, threads, executor)
        macs = columns[:, 1] * (2 if convention == "flops" else 1)
        found = {"params": columns[:, 0], "macs": macs, "weight_bytes": columns[:, 2],
                 "inference_peak": columns[:, 3], "inference_total": columns[:, 2] + columns[:, 3]}  # fmt: skip
        if nodes is not None:
            peaks = [metric.label for metric in trained if metric.optimizer is not None]
            found |= {"saved": columns[:, 4], **{label: columns[:, 5 + i] for i, label in enumerate(peaks)}}
    if "minimum_peak" in names:
        found["minimum_peak"] = many._minimum(setting, threads, executor)
    if trained and nodes is None:
        found |= many._of_nets(setting, trained, threads, executor)
    return Evaluation({m.label: np.ascontiguousarray(found[m.label if m.optimizer else m.name]) for m in asked})


_INFERENCE: Final = frozenset({"params", "macs", "weight_bytes", "inference_peak", "inference_total"})


def _of_sizes(
    many: Batch, asked: Sequence[Metric], setting: Setting, threads: int | None, executor: Executor | None
) -> dict[str, I64]:
    """Answer what sizes tell."""
    wrong = [metric.label for metric in asked if metric.name != "inference_peak"]
    if wrong:
        raise GraphError(f"a batch of sizes does not tell {wrong[0]}; allowed: inference_peak")
    if setting != read_setting(precision=setting.precision, device=setting.device, loss=setting.loss):
        raise GraphError("a batch of sizes has no batch, types or profile to choose: its bytes are what is alive")

    def task(begin: int, end: int) -> tuple[Any, tuple[Any, ...]]:
        return _answer_sizes, (many[begin:end],)

    peak = np.concatenate(run_chunks(many.graph_ptr, task, threads=threads, executor=executor))
    return {metric.label: peak for metric in asked}


class _Failed(Exception):  # noqa: N818 - never leaves the module: the batch words it
    """A kernel's status, the number of the graph, and the op."""


@dataclass(frozen=True, slots=True, eq=False)
class _Training:
    """What training costs, by kind of node and by optimizer."""

    templates: Templates
    steps: tuple[StepRule, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """What every chunk of a batch is asked: table, batch size (0: as written), rules, whether frames hold values."""

    program: _Program
    at: int
    keeps_inputs: int
    reuse: int
    frames: bool
    training: _Training | None = None


def _answer(batch: Batch, q: _Question) -> I64:
    """Evaluate a chunk; raises _Failed."""
    return _answer_inference(batch, q) if q.training is None else _answer_all(batch, q, q.training)


def _answer_inference(batch: Batch, q: _Question) -> I64:
    found, moved = _evaluate(batch, q, _nowhere())
    if moved and q.at:
        # What weights there are is a matter of the graph as written.
        found[:, 0:3:2] = _evaluate(batch, replace(q, at=0), _nowhere())[0][:, 0:3:2]
    return found


# Nodes whose sizes are kept between two kernels, 32 bytes each. Smaller blocks stay in a core's own cache, and pay more
# for the calls between: 20,000 graphs of 130 nodes on two threads take 53 ms with 2**14, 50 ms with 2**17.
_BLOCK: Final = 1 << 17


def _answer_all(batch: Batch, q: _Question, training: _Training) -> I64:
    """Evaluate a chunk, training among it, in blocks of a few graphs."""
    made = training.templates
    table = q.program.table.copy()
    counted = table[:, 15] != 0
    apart = (counted & (made.span[:, 1] > made.span[:, 0]) & (made.span != table[:, 16:18]).any(axis=1)).any()
    table[~counted, 16:18] = made.span[~counted]
    table[:, 0] |= 16 * (table[:, 14:18] != 0).any(axis=1)
    both = replace(q, program=replace(q.program, table=frozen(table)))
    spans = table.copy()
    spans[:, 14:16], spans[:, 16:18] = 0, made.span
    alone = replace(q, program=replace(q.program, table=frozen(spans)))
    bounds = chunk_bounds(batch.graph_ptr, -(-batch.n_ops // _BLOCK))
    blocks = [batch[i:j] for i, j in pairwise(bounds)]
    longest, edges = (
        int(np.diff(p).max()) for p in (batch.graph_ptr, batch.in_ptr[batch.graph_ptr - batch.graph_ptr[0]])
    )
    scratch, mine = Scratch(longest, edges), _scratch(batch, q.program)
    most = max(block.n_ops for block in blocks)
    every_size, every_class = np.empty((most, 4), np.int64), np.empty(len(batch), np.int64)
    _, no_bytes, _, no_shapes = _nowhere()
    answer = np.empty((len(batch), 5 + len(training.steps)), np.int64)
    for block, begin, end in zip(blocks, bounds, bounds[1:], strict=False):
        sizes, classes = every_size[: block.n_ops], every_class[begin:end]
        found, moved = _evaluate(block, both, (sizes, no_bytes, classes, no_shapes), mine)
        if apart:
            _evaluate(block, alone, (sizes, no_bytes, classes, no_shapes), mine)
        if moved and q.at:
            written = np.empty_like(sizes)
            as_built, _ = _evaluate(block, replace(both, at=0), (written, no_bytes, classes.copy(), no_shapes), mine)
            found[:, 0:3:2] = as_built[:, 0:3:2]
            sizes[:, 1:3] = written[:, 1:3]
        try:
            trained = train(made, block.graph_ptr, block.kind, block.in_ptr, block.in_idx, block.until, sizes, classes,
                            training.steps, scratch)  # fmt: skip
        except CnnliveError as error:
            # It counts the graphs that it was given.
            number, rest = str(error).removeprefix("graph ").split(maxsplit=1)
            where = f"graph {block.first + int(number.rstrip(',:'))}{number[len(number.rstrip(',:')) :]}"
            raise type(error)(f"{where} {rest}") from None
        answer[begin:end, :4], answer[begin:end, 4:] = found, trained
    return answer


# `sizes`, `beside`, `classes` and `shapes` of the kernel.
_PerNode: TypeAlias = tuple[I64, I64, I64, I64]


def _nowhere() -> _PerNode:
    return np.empty((0, 4), np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 6), np.int64)


def _unsigned(array: I32) -> NDArray[np.uint32]:
    return array.view(np.uint32)


def _scratch(batch: Batch, program: _Program) -> tuple[I64, I64, I64]:
    """Return what the kernel writes to beside its results: `attr`, `work`, `steps`, for the largest graph."""
    n_ops, n_tensors = (int(np.diff(p).max(initial=0)) for p in (batch.graph_ptr, batch.tensor_ptr))
    steps = np.zeros((n_ops, 8), np.int64)
    steps[:, 3] = -1
    return program.attr.copy(), np.empty((n_tensors, 16), np.int64), steps


def _evaluate(
    batch: Batch, q: _Question, per_node: _PerNode, scratch: tuple[I64, I64, I64] | None = None
) -> tuple[I64, bool]:
    """Call the kernel, which may fill `sizes`, `beside`, `classes`; return what it found, whether a batch moved."""
    attr, work, steps = scratch or _scratch(batch, q.program)
    found = np.empty((len(batch), 4), np.int64)
    status, g, op = evaluate_graphs(
        batch.graph_ptr, _unsigned(batch.kind), batch.in_ptr, _unsigned(batch.in_idx), batch.free, batch.output_ptr,
        batch.output_idx, batch.until if q.frames else _NO_UNTIL, q.program.table, q.program.patch, q.program.items,
        attr, batch.tensor_ptr, q.at, q.keeps_inputs, q.reuse, work, steps, *per_node, found,
    )  # fmt: skip
    if status not in (0, 7):
        raise _Failed(int(status), batch.first + int(g), int(op))
    return found, bool(status == 7)


def _answer_sizes(batch: Batch) -> I64:
    """Return the peak of each graph of a chunk of sizes."""
    longest = int(np.diff(batch.graph_ptr).max(initial=0))
    peak = np.empty(len(batch), np.int64)
    sizes_peak(batch.graph_ptr, batch.in_ptr, _unsigned(batch.in_idx), batch.nbytes, np.empty(longest, np.int64),
               np.zeros(longest, np.int64), peak)  # fmt: skip
    return peak


def _minimum_of_nets(nets: Sequence[Lowered], setting: Setting, first: int) -> I64:
    """Return the least peak of each of some lowered graphs."""
    return column([
        _numbered(first + i, minimum_peak, net, batch=setting.batch, dtype=setting.dtype, profile=setting.profile)
        for i, net in enumerate(nets)
    ])  # fmt: skip


def _minimum_of_nodes(batch: Batch, program: _Program, at: int, share: I64, held: I64) -> I64:
    """Return the least peak of each graph of a chunk whose ops have one output each."""
    sizes, beside = np.empty((batch.n_ops, 4), np.int64), np.empty(batch.n_ops, np.int64)
    _evaluate(batch, _Question(program, at, 0, 0, False), (sizes, beside, *_nowhere()[2:]))
    flags = held[batch.kind]
    flags[_within(batch, batch.output_ptr, batch.output_idx)] |= 4
    peaks, bounds = minimum_peaks(
        batch.graph_ptr - batch.graph_ptr[0], batch.in_ptr - batch.in_ptr[0], batch.in_idx,
        sizes[:, 0] * program.table[batch.kind, 4], share[batch.kind].astype(np.int32), flags.astype(np.int32), beside,
    )  # fmt: skip
    if (peaks != bounds).any():
        g = int(np.flatnonzero(peaks != bounds)[0])
        raise OrderError(
            f"graph {batch.first + g}: the search ran out of states; its least peak is at least {bounds[g]:,} and at "
            f"most {peaks[g]:,} bytes"
        )
    return peaks


def _within(batch: Batch, ptr: I64, idx: I32) -> I64:
    """Return numbers within graphs as numbers within a batch of one tensor per op."""
    return column(idx + np.repeat((batch.graph_ptr - batch.graph_ptr[0])[:-1], np.diff(ptr)))


# Columns of a tape, in the order of the kernel.
_TAPE: Final = (
    "spec", "store_spec", "store_refs", "alloc_ptr", "alloc_idx", "drop_ptr", "drop_idx", "saved_ptr", "saved_idx",
    "edge_ptr", "edge_value", "edge_spec", "edge_copies", "out_ptr", "out_value", "code_ptr", "code", "value_spec",
    "leaf_uses", "inputs", "targets", "saved_stores",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Tapes:
    """Tapes end to end: what `train_steps` reads, and per net root, `held`, most handles, and resident bytes."""

    tapes: tuple[Tape, ...]
    start: I64
    columns: tuple[I64, ...]
    scalars: I64
    resident: I64

    def cut(self, begin: int, end: int) -> _Tapes:
        """Return the arrays of consecutive graphs."""
        a, b = self.start[begin], self.start[end]
        columns = tuple(c[i:j] for c, i, j in zip(self.columns, a, b, strict=True))
        return _Tapes((), self.start[begin : end + 1] - a, columns, self.scalars[begin:end], self.resident[begin:end])


def _tape_of(net: Lowered, setting: Setting) -> Tape:
    """Return the tape of an ordinary training step; kept with the net."""
    _, dtype, autocast = _precision(setting.precision, net)
    return _tape(net, setting.device, dtype, autocast, setting.loss, None, False, (), False, False)


def _answer_tapes(batch: Batch, q: _Question, tapes: _Tapes) -> I64:
    """Run the tapes of a chunk, see `train_steps`; raises _Failed."""
    shapes = np.empty((batch.n_tensors, 6), np.int64)
    _evaluate(batch, q, (*_nowhere()[:3], shapes))
    most = dict(zip(_TAPE, np.diff(tapes.start, axis=0).max(axis=0, initial=0).tolist(), strict=True))
    more = int(tapes.scalars[:, 2].max(initial=0))
    total, records, values = most["store_spec"] + more, most["alloc_ptr"], most["value_spec"]
    written, seed = np.empty(most["spec"], np.int64), np.empty(1, np.int64)
    lengths = (
        total,
        total,
        total,
        total,
        2 * total,
        values,
        values,
        more,
        more,
        more,
        more,
        more,
        records,
        records,
        (records, 3),
        19,
    )
    found = np.empty((len(batch), 5), np.int64)
    arguments: list[Any] = [
        column(tapes.start), batch.tensor_ptr, frozen(shapes), *map(column, tapes.columns),
        column(tapes.scalars[:, 0]), column(tapes.scalars[:, 1]), column([0]), column([3]), written,
        frozen(written.view()), seed, frozen(seed.view()), *(np.empty(n, np.int64) for n in lengths), found,
    ]  # fmt: skip
    train_steps(*arguments)
    return found


def _numbered(g: int, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a planner; its errors say of which graph they are."""
    try:
        return function(*args, **options)
    except CnnliveError as error:
        raise type(error)(f"graph {g}: {error}") from error


def _program(rules: Rules, setting: Setting, macs: bool) -> _Program:
    """Put the rules of a question into the table that the kernel reads, see `evaluate_graphs`."""
    profile, n = setting.profile, rules.n_kinds
    table = np.zeros((n, _WIDTH), np.int64)
    if not n:
        return _Program(frozen(table), column([], (0, 2)), _NONE, _NONE)
    items = ITEMSIZES[replaced(rules.dtype, setting.dtype)]
    stored = setting.dtype if setting.weight_dtype is None else setting.weight_dtype
    per_weight = ITEMSIZES[replaced(rules.stored, stored)]
    owns = rules.weight_rule[:, 1:5] * rules.owner
    table[:, 0] = 3
    table[rules.rule == 2, 0] = 0
    table[rules.rule == 9, 0] = 2
    table[:, 1], table[:, 2] = rules.attr_ptr[:-1], rules.attr_ptr[1:]
    table[:, 3] = share_table(profile)[rules.alias]
    table[:, 4] = items[rules.out_ptr[:-1]]
    table[:, 5] = np.where((table[:, 3] == 1) | (rules.kind == 2), 0, table[:, 4])
    table[:, 6] = rules.weight_rule[:, 0]
    table[:, 7:9] = owns[:, :2]
    table[:, 9] = owns[:, 0] * per_weight
    table[:, 10] = (owns[:, 1] + owns[:, 2]) * per_weight
    table[:, 11] = owns[:, 3] * 8 * profile.batch_counters
    if macs:
        table[:, 12] = rules.macs_rule
        if setting.convention == "macs+bias":
            table[:, 13] = (rules.macs_rule > 0) & (rules.macs_rule < 3) & (rules.weight_rule[:, 2] > 0)
    if profile.pool_indices:
        table[:, 14] = rules.index_bytes
        table[:, 15] = rules.statistics[:, 2]
    table[:, 16:18] = rules.statistics[:, :2]
    table[:, 18], table[:, 19] = rules.patch_ptr[:-1], rules.patch_ptr[1:]
    table[:, 20], table[:, 21], table[:, 22] = rules.rule, rules.rank, rules.weight_rule[:, 5]
    table[:, 23] = np.diff(rules.out_ptr)
    table[:, 24] = rules.out_ptr[:-1]
    table[:, 25] = rules.kind
    _convolutions(rules, table)
    table[:, 0] += 4 * (table[:, 18] < table[:, 19])
    table[:, 0] += 8 * ((table[:, 7:12] != 0).any(axis=1) | (table[:, 12] != 0) | (table[:, 13] != 0))
    table[:, 0] += 16 * ((table[:, 14:18] != 0).any(axis=1))
    table[:, 0] += 32 * (table[:, 3] == 1) + 64 * ((table[:, 23] > 1) | (table[:, 25] == 1))
    return _Program(frozen(table), rules.patch, frozen(items), rules.attr)


def _convolutions(rules: Rules, table: I64) -> None:
    """Mark the convolutions of images of which only channels and groups are free: the kernel has lines for those."""
    n_attr = np.diff(rules.attr_ptr)
    which = np.flatnonzero((rules.rule == 3) & (n_attr == 17) & (rules.weight_rule[:, 0] == 1))
    if not len(which):
        return
    start = rules.attr_ptr[which]
    a = rules.attr[start[:, None] + np.arange(17)]
    free = np.full(len(rules.attr), -1)
    free[rules.patch[:, 0]] = rules.patch[:, 1]
    fixed = (free[start] < 0) & (free[start[:, None] + np.arange(3, 17)] < 0).all(axis=1)
    sizes = a[:, [5, 6, 9, 11, 12, 15]]
    plain = fixed & (a[:, 0] == 2) & (a[:, 3] == 0) & (sizes >= 1).all(axis=1)
    which, a = which[plain], a[plain]
    table[which, 0] = 1
    start = rules.attr_ptr[which]
    table[which, 2], table[which, 20] = free[start + 1], free[start + 2]
    for i in range(2):
        k, stride, before, after, dilation = (a[:, 5 + 6 * i + j] for j in range(5))
        # Padding to ceil(n / stride) positions is what adds up to a window less one.
        table[which, 26 + 2 * i] = np.where(a[:, 4] != 0, -1, before + after - dilation * (k - 1) - 1)
        table[which, 27 + 2 * i] = stride
    table[which, 30] = a[:, 5] * a[:, 11]


def replaced(codes: I64, dtype: str | None) -> I64:
    """Return dtype codes with every floating one replaced by that of `dtype`, if that is given."""
    return codes if dtype is None else column(np.where(IS_FLOATING[codes], DTYPE_CODE[dtype], codes))


def _fused(batch: Batch) -> Batch:
    """Fuse a batch of nodes; how long frames hold values is not known of the result."""
    rules = batch.rules
    assert rules is not None
    if batch.n_tensors != batch.n_ops or (rules.owner == 0).any():
        raise GraphError("fuse=True of plain arrays: ops of one output each, which share no weights; or give graphs")
    n, bases = rules.n_kinds, np.flatnonzero(rules.fold == 1)
    with_norm = np.arange(n)
    with_norm[bases] = n + np.arange(len(bases))
    ops, graphs = batch.n_ops, len(batch)
    longest = int(np.diff(batch.graph_ptr).max(initial=0))
    ptr, in_ptr, output = np.empty(graphs + 1, np.int64), np.empty(ops + 1, np.int64), np.empty(graphs, np.int32)
    kind, in_idx = np.empty(ops, np.int32), np.empty(len(batch.in_idx), np.int32)
    free = np.empty_like(batch.free)
    reads, reader, into, number = (np.empty(longest, np.int64) for _ in range(4))
    fuse_nodes(
        batch.graph_ptr, _unsigned(batch.kind), batch.in_ptr, _unsigned(batch.in_idx), batch.free, rules.fold,
        frozen(with_norm), reads, reader, into, number, ptr, kind, in_ptr, in_idx, free, output,
    )  # fmt: skip
    kept = int(ptr[-1])
    made = frozen(ptr)
    return Batch(
        _with_norms(rules, bases), made, made, _small(kind[:kept]), column(in_ptr[: kept + 1]),
        _small(in_idx[: int(in_ptr[kept])]), _small(free[:kept]), column(np.arange(graphs + 1)), _small(output),
        _NO_UNTIL, _NONE, None, (), batch.first,
    )  # fmt: skip


def _with_norms(rules: Rules, bases: I64) -> Rules:
    """Return rules with more kinds behind: bases into which a normalisation has vanished, which have a bias."""
    n_attr, n_patch = np.diff(rules.attr_ptr), np.diff(rules.patch_ptr)
    rows = np.concatenate((np.arange(rules.n_kinds), bases))
    attr_ptr = _summed(n_attr[rows])
    patches = rules.patch[_spans(rules.patch_ptr[:-1][rows], n_patch[rows])].copy()
    patches[:, 0] += np.repeat(attr_ptr[:-1] - rules.attr_ptr[:-1][rows], n_patch[rows])
    weights = rules.weight_rule[rows]
    weights[rules.n_kinds :, 2] = 1
    return replace(
        rules, names=tuple(rules.names[k] for k in rows), attr_ptr=attr_ptr,
        attr=column(rules.attr[_spans(rules.attr_ptr[:-1][rows], n_attr[rows])]), patch_ptr=_summed(n_patch[rows]),
        patch=column(patches, (len(patches), 2)), weight_rule=column(weights),
        out_ptr=column(np.arange(len(rows) + 1)), dtype=column(rules.dtype[rows]),
        **{name: column(getattr(rules, name)[rows])
           for name in ("rule", "inputs", "rank", "least", "macs_rule", "owner", "alias", "fold", "kind",
                        "index_bytes", "stored", "statistics")},
    )  # fmt: skip


# ---------------------------------------------------------------------------------- putting graphs together


@dataclass(frozen=True, slots=True)
class _Ops:
    """Columns of many ops end to end; `dtype` is per tensor."""

    rule: I64
    attr_ptr: I64
    attr: I64
    macs_rule: I64
    weight_rule: I64
    owner: I64
    alias: I64
    fold: I64
    kind: I64
    index_bytes: I64
    dtype: I64
    stored: I64
    statistics: I64


def _lowered(i: int, graph: Any) -> Lowered:
    if not isinstance(graph, Graph | Lowered):
        raise GraphError(f"number {i} of the list is {graph!r}, neither a Graph nor a Lowered")
    try:
        return check_operators(lower(graph), "a batch")
    except CnnliveError as error:
        error.add_note(f"(number {i} of the list)")
        raise


def _summed(counts: ArrayLike) -> I64:
    return column(np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(counts, np.int64))]))


def _pointers(pieces: Sequence[I64]) -> I64:
    """Put pointers end to end, each of which begins with 0."""
    counts = np.concatenate([np.diff(p) for p in pieces])
    return _summed(counts)


def _spans(start: I64, length: I64) -> I64:
    """Return the integers ``start[i] .. start[i] + length[i]`` of every i, end to end."""
    ends = np.cumsum(length)
    return column(np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(start - (ends - length), length))


def _assemble(
    graph_ptr: I64, in_ptr: I64, in_idx: I64, out_ptr: I64, is_output: I64, names: Sequence[str], ops: _Ops,
    nets: tuple[Lowered, ...],
) -> Batch:  # fmt: skip
    """Make a batch of the columns of ops: what ops have in common is kept once."""
    n_out, n_attr = np.diff(out_ptr), np.diff(ops.attr_ptr)
    fixed = np.column_stack(
        (ops.rule, ops.macs_rule, ops.weight_rule, ops.owner, ops.alias, ops.fold, ops.kind, ops.index_bytes,
         ops.stored, ops.statistics, n_out, n_attr)
    )  # fmt: skip
    ragged = ((ops.attr_ptr, n_attr, ops.attr), (out_ptr, n_out, ops.dtype))
    first, which = _distinct(fixed, ragged)
    attr_ptr, outs = _summed(n_attr[first]), _summed(n_out[first])
    inputs = np.ones((len(first), 2), np.int64)
    inputs[:, 1] = -1
    rule = ops.rule[first]
    inputs[rule == 0] = 0
    # A stored parameter is a literal shape that scales with nothing.
    inputs[(rule == 1) & (n_attr[first] > 1), 0] = 0
    inputs[(rule == 7) | (ops.alias[first] == 4), 0] = 2
    attr = ops.attr[_spans(ops.attr_ptr[first], n_attr[first])]
    scales = np.flatnonzero(rule == 1)
    inputs[scales, 0] = [int(_scales(attr[attr_ptr[k] : attr_ptr[k + 1]].tolist())) for k in scales]
    rules = Rules(
        names=tuple(names[i] for i in first), rule=column(rule), attr_ptr=attr_ptr, attr=column(attr),
        patch_ptr=column(np.zeros(len(first) + 1)), patch=column([], (0, 2)), inputs=column(inputs),
        rank=column(np.zeros(len(first))), least=column(np.zeros((len(first), 2))),
        macs_rule=column(ops.macs_rule[first]), weight_rule=column(ops.weight_rule[first]),
        owner=column(ops.owner[first]), alias=column(ops.alias[first]), fold=column(ops.fold[first]),
        kind=column(ops.kind[first]), index_bytes=column(ops.index_bytes[first]), out_ptr=outs,
        dtype=column(ops.dtype[_spans(out_ptr[first], n_out[first])]), stored=column(ops.stored[first]),
        statistics=column(ops.statistics[first]),
    )  # fmt: skip
    tensor_ptr = column(out_ptr[graph_ptr])
    shown = np.flatnonzero(is_output)
    owner = np.searchsorted(tensor_ptr, shown, side="right") - 1
    return Batch(
        rules, graph_ptr, tensor_ptr, _small(which), in_ptr, _small(in_idx), _NO_FREE,
        _summed(np.bincount(owner, minlength=len(graph_ptr) - 1)),
        _small(shown - tensor_ptr[owner]), _NO_UNTIL, _NONE, None, nets,
    )  # fmt: skip


def _scales(attr: list[int]) -> bool:
    """Whether a literal shape takes its first dimension from the first input."""
    i, found = 0, False
    while i + 1 < len(attr):
        found |= attr[i + 1] != 0
        i += 2 + max(attr[i], 0)
    return found


def _distinct(fixed: I64, ragged: Sequence[tuple[I64, I64, I64]]) -> tuple[I64, I64]:
    """Return the first of all equal rows, and which of those each row equals; ragged columns belong to the rows."""
    rng = np.random.default_rng(0x5EED)

    def odd(n: int) -> NDArray[np.uint64]:
        return rng.integers(0, 1 << 63, n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

    # A sum of products with random odd numbers, modulo 2**64; equality is checked below.
    key = (fixed.view(np.uint64) * odd(fixed.shape[1])).sum(axis=1, dtype=np.uint64)
    for start, length, values in ragged:
        if not len(values):
            continue
        place = np.arange(len(values)) - np.repeat(start[:-1], length)
        sums = np.zeros(len(values) + 1, np.uint64)
        np.cumsum(np.ascontiguousarray(values).view(np.uint64) * odd(int(length.max()))[place], out=sums[1:])
        key += (sums[start[1:]] - sums[start[:-1]]) * odd(1)
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    equal = np.array_equal(fixed, fixed[first][which])
    for start, length, values in ragged:
        equal = equal and np.array_equal(values, values[_spans(start[:-1][first[which]], length)])
    if not equal:
        first = which = np.arange(len(fixed))
    return first, which


def _palette_rules(palette: Palette) -> Rules:
    """Return the rules of a palette's kinds; made once per palette."""
    found: Rules | None = palette._cache.get("rules")
    if found is None:
        kinds = palette.kinds
        n = kinds.n_kinds
        at = np.flatnonzero(kinds.attr_free >= 0)
        kind_of = np.repeat(np.arange(n), np.diff(kinds.attr_ptr))
        # 0 keeps or does not fit wherever it is not an amount of padding or the bound of a slice.
        least = np.where(np.isin(kinds.rule, (3, 4, 16, 17)), 0, 1)[:, None].repeat(2, axis=1)
        codes = np.full(n, kinds.dtype)
        found = palette._cache["rules"] = Rules(
            names=kinds.ops, rule=kinds.rule, attr_ptr=kinds.attr_ptr, attr=kinds.attr,
            patch_ptr=_summed(np.bincount(kind_of[at], minlength=n)),
            patch=column(np.column_stack((at, kinds.attr_free[at])), (len(at), 2)), inputs=kinds.inputs,
            rank=kinds.rank, least=column(np.where(kinds.uses != 0, least, 0), (n, 2)), macs_rule=kinds.macs_rule,
            weight_rule=kinds.weight_rule, owner=column(np.ones((n, 4))), alias=kinds.alias, fold=kinds.fold,
            kind=kinds.kind, index_bytes=kinds.index_bytes, out_ptr=column(np.arange(n + 1)), dtype=column(codes),
            stored=column(codes), statistics=kinds.statistics,
        )  # fmt: skip
    return found


# ---------------------------------------------------------------------------------- reading arrays


def _column(name: str, values: ArrayLike, shape: tuple[int, ...]) -> I64:
    """Read integers of a shape as int64."""
    array = np.asarray(values)
    if array.dtype.kind not in "iub" and array.size:
        raise LoweringError(f"{name} is of type {array.dtype}; allowed: integers")
    if array.shape != shape and not (array.size == 0 and 0 in shape):
        raise LoweringError(f"{name} has shape {array.shape}; allowed here: {shape}")
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 1 << 63:
        raise LoweringError(f"{name} holds {int(array.max())}; allowed: below 2**63")
    return np.ascontiguousarray(array, dtype=np.int64).reshape(shape).view()


def _narrow(name: str, values: ArrayLike, shape: tuple[int, ...]) -> I32:
    """Read integers of a shape as read-only int32, without a copy where they are."""
    if isinstance(values, np.ndarray) and values.dtype == np.int32 and values.shape == shape:
        array = np.ascontiguousarray(values).view()
    else:
        wide = _column(name, values, shape)
        if wide.size and not (int(wide.min()) >= -(2**31) and int(wide.max()) < 2**31):
            raise LoweringError(f"{name} holds {int(np.abs(wide).max())}; allowed: what fits 32 bits")
        array = wide.astype(np.int32)
    array.setflags(write=False)
    return array


def _pointer(name: str, values: ArrayLike) -> I64:
    """Read a pointer, which begins with 0 and does not fall."""
    array = np.asarray(values)
    ptr = frozen(_column(name, array, (array.size,)))
    if not len(ptr) or ptr[0] != 0 or (ptr[1:] < ptr[:-1]).any():
        raise LoweringError(f"{name} has to begin with 0 and must not fall")
    return ptr


def _place(graph_ptr: I64, op: int, what: str = "op") -> str:
    g = int(np.searchsorted(graph_ptr, op, side="right")) - 1
    return f"graph {g}, {what} {op - int(graph_ptr[g])}"


def _check(batch: Batch) -> None:
    """Refuse arrays that the kernels must not see; they begin with 0."""
    rules = batch.rules
    if rules is None:
        inputs, uses, least, n_out = column([[0, -1]]), column([[0, 0]]), column([[0, 0]]), column([1])
    else:
        uses = np.zeros((rules.n_kinds, 2), np.int64)
        uses[np.repeat(np.arange(rules.n_kinds), np.diff(rules.patch_ptr)), rules.patch[:, 1]] = 1
        inputs, uses, least, n_out = rules.inputs, frozen(uses), rules.least, column(np.diff(rules.out_ptr))
    status, g, op = first_fault(
        batch.graph_ptr, batch.tensor_ptr, _unsigned(batch.kind), batch.in_ptr, _unsigned(batch.in_idx), batch.free,
        batch.output_ptr, batch.until, inputs, uses, least, n_out,
    )  # fmt: skip
    if not status:
        return
    where = int(batch.graph_ptr[g]) + op
    kind = int(batch.kind[where]) if status in (3, 4, 5) else 0
    reads = batch.in_idx[batch.in_ptr[where] : batch.in_ptr[where + 1]].tolist() if status in (3, 4) else []
    name = "" if rules is None or not 0 <= kind < rules.n_kinds else f" ({rules.names[kind]})"
    low, high = inputs[kind].tolist() if status == 4 else (0, 0)
    raise LoweringError(f"graph {g}" + {
        1: " has no ops",
        2: f", op {op} is of kind {batch.kind[where] if status == 2 else 0}; allowed: 0 to {len(inputs) - 1}",
        3: f", op {op}{name} reads {reads}; allowed: tensors that come before it, from 0",
        4: f", op {op}{name} reads {len(reads)} tensors; allowed: {low}"
           + ("" if high == low else " or more" if high < 0 else f" to {high}"),
        5: f", op {op}{name} has free values {batch.free[where].tolist() if status == 5 else 0}; "
           f"allowed: {least[kind].tolist()} or more",
        6: " has no output",
        7: f": tensor {op} is held through no op of it",
    }[int(status)])  # fmt: skip


def _wrong_columns(rules: Rules, k: int) -> str:
    """Return what is wrong with the columns of a kind, in words; nothing if they are what the kernels take."""
    a = rules.attr[rules.attr_ptr[k] : rules.attr_ptr[k + 1]].tolist()
    n_out = int(rules.out_ptr[k + 1] - rules.out_ptr[k])
    rule = int(rules.rule[k])
    if not 0 <= rule < _RULES:
        return f"shape rule {rule}; allowed: 0 to {_RULES - 1}"
    if not _fits(rule, a, n_out):
        return f"columns {a} of shape rule {rule}, with {n_out} outputs"
    weights = rules.weight_rule[k].tolist()
    allowed = {0: True, 1: rule == 3, 2: rule == 6, 3: True, 4: 1 <= weights[5] <= 6}
    if not allowed.get(weights[0], False) or not all(0 <= w < 1 << 56 for w in weights[1:]):
        return f"weight_rule {weights} with shape rule {rule}"
    macs = int(rules.macs_rule[k])
    if not {0: True, 1: weights[0] == 1, 2: weights[0] == 2, 3: rule == 7}.get(macs, False):
        return f"macs_rule {macs} with shape rule {rule} and weight_rule {weights}"
    low, high, nbytes = rules.statistics[k].tolist()
    for name, value, top in (
        ("alias", int(rules.alias[k]), 4), ("kind", int(rules.kind[k]), 2), ("fold", int(rules.fold[k]), 3),
        ("owner", int(rules.owner[k].max()), 1), ("owner", int(rules.owner[k].min()), 1),
        ("index_bytes", int(rules.index_bytes[k]), 64), ("statistics", low, 6), ("statistics", high, 6),
        ("statistics", nbytes, 1 << 32),
    ):  # fmt: skip
        if not 0 <= value <= top:
            return f"{name} {value}; allowed: 0 to {top}"
    if rule in (0, 1) and rules.inputs[k, 0] == 0 and (rules.alias[k] or nbytes or weights[0]):
        return "an op without inputs has nothing to share, to normalise or to weigh"
    if int(rules.kind[k]) == 1 and rule != 0:
        return f"a network input with shape rule {rule}; allowed: 0"
    return ""


def _fits(rule: int, a: list[int], n_out: int) -> bool:
    """Whether columns are of the form that a shape rule reads."""
    n = len(a)

    def axes(dims: list[int]) -> bool:
        return all(0 <= d < 6 for d in dims) and dims == sorted(set(dims))

    def positive(values: Iterable[int], least: int = 1) -> bool:
        return all(least <= v < 1 << 62 for v in values)

    if n_out != 1 and rule not in (1, 4, 5, 15):
        return False
    if rule in (2, 7, 9):
        return n == 0
    if rule == 0:
        return 1 <= n <= 6 and positive(a)
    if rule == 1:
        for _ in range(n_out):
            if len(a) < 2 or not 0 <= a[0] <= min(6, len(a) - 2) or a[1] not in (0, 1) or not positive(a[2 : 2 + a[0]]):
                return False
            a = a[2 + a[0] :]
        return not a
    if rule in (3, 4):
        head, each = (5, 6) if rule == 3 else (3, 5)
        windows = [a[i : i + each] for i in range(head, n, each)]
        whole = n > head and a[0] in (1, 2, 3) and n == head + each * a[0] and n_out <= (1 if rule == 3 else 2)
        return whole and all(positive((*w[:2], w[4])) for w in windows) and (rule == 4 or positive(a[1:3]))
    if rule == 5:
        return 1 <= n <= 3 and positive(a, 0) and n_out <= 2
    if rule in (6, 8):
        return n == 1 and (positive(a) if rule == 6 else axes(a))
    if rule == 10:
        return 1 <= n <= 6 and positive(a, -1) and a.count(-1) <= 1
    if rule == 11:
        return n == 2 and 0 <= a[0] <= a[1] < 6
    if rule == 12:
        return 1 <= n <= 6 and sorted(a) == list(range(n))
    if rule == 13:
        return n >= 1 and a[0] in (0, 1) and axes(a[1:])
    if rule == 14:
        rest = a[1:]
        literal = n > 1 and a[0] == 0 and positive(rest)
        return literal or (n > 1 and a[0] == 1 and n % 2 == 1 and all(abs(e) < 1100 for e in rest[1::2]))
    if rule == 15:
        even = n == 2 and positive(a[1:])
        return n >= 2 and 0 <= a[0] < 6 and (even or (a[1] == 0 and n == 2 + n_out and positive(a[2:])))
    if rule == 16:
        return n >= 4 and n % 4 == 0 and all(0 <= d < 6 for d in a[::4]) and 0 not in a[3::4]
    if rule == 17:
        return n % 2 == 0 and n <= 12
    if rule in (18, 19):
        return n <= 6 and axes(a) and (n > 0 or rule == 18)
    if rule == 20:
        return n == 2 and positive(a[:1]) and a[1] in (0, 1)
    return 1 <= n <= 6 and positive(a, 0)


_EMPTY: Final = Batch(
    None, column([0]), column([0]), _small([]), column([0]), _small([]), _NO_FREE,
    column([0]), _small([]), _NO_UNTIL, _NONE,
)  # fmt: skip
