"""What each kind of op contributes to a training step, read off the tape of a graph of that op alone.

The recorder of :mod:`cnnlive.tape` knows what PyTorch's ops and backward nodes allocate, hold and let go. Asked once
per kind it gives a template; :mod:`cnnlive._kernels.batch_training` runs the templates of many graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np

from cnnlive._kernels.batch_training import train_graphs
from cnnlive._types import FLOATING, I32, I64, ITEMSIZE, U32, Columns, column
from cnnlive.errors import CnnliveError, GraphError, SpaceError
from cnnlive.graph import Graph
from cnnlive.lowered import lower
from cnnlive.nas.palette import Palette
from cnnlive.nas.steps import StepRule
from cnnlive.ops import operator, weights_of
from cnnlive.plan.training import _PRECISION_NAMES, PRECISIONS
from cnnlive.tape import _END, FRESH, NARROW, PERMUTED, RESHAPE, SAME, SPREAD, TEMPORARY, VIEW, _Recorder
from cnnlive.tape import FREE as FREE_TEMPORARIES

__all__ = ["Scratch", "Templates", "templates", "train"]

# How a gradient is made, in the kernel's numbers.
_HOW: Final = {FRESH: 1, SAME: 2, VIEW: 3, NARROW: 4, RESHAPE: 5, SPREAD: 6}
_MAYBE_COPIES: Final = 7
_EVERY, _WEIGHT, _BIAS, _BETWEEN = -3, -1, -2, -10
# The word of a kind, in the kernel's bits: how backward goes, then flags.
_NOTHING, _NEW, _ON, _ANYTHING, _UNKNOWN, _INPUT, _PARAMETER, _CONSTANT = 0, 1, 2, 4, 9, 10, 11, 12
_SHARES, _WORKS, _SAVES, _BESIDE, _ONLY_WITH, _OWNS, _SEVERAL = 16, 32, 128, 4096, 8192, 16384, 32768
_SAME_SHAPE: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Templates(Columns):
    """Columns for :func:`cnnlive._kernels.batch_training.train_graphs`, and why it does not know a kind.

    Attributes
    ----------
    table, record, edge : int64 arrays
        As the kernel describes them, flat; the last row of `table` is the loss.
    span : (n_kinds, 2) int64
        First and last + 1 dimension of the first input whose product is in the fourth column of its `sizes`; an empty
        range is 1.
    item, loss, target_item : int
        As the kernel takes them.
    reasons : tuple of str
        Per kind: "" or why its training is not known.
    """

    table: I64
    record: I64
    edge: I64
    span: I64
    item: int
    loss: int
    target_item: int
    reasons: tuple[str, ...]


def templates(
    palette: Palette, *, precision: str | None = None, device: str = "cuda", loss: str = "cross_entropy"
) -> Templates:
    """Return what the kinds of a palette and a loss contribute to a training step; kept with the palette.

    Parameters
    ----------
    palette : Palette
    precision : str, optional
        As in :func:`cnnlive.plan_training`, one type for everything: no autocast. Default: the palette's.
    device : {"cuda", "cpu"}
    loss : str
        One of those of :func:`cnnlive.plan_training`.

    Raises
    ------
    SpaceError
        For autocast.
    GraphError
        For an unknown precision or loss.

    Notes
    -----
    A kind that this cannot describe is no error until a graph has it: see `Templates.reasons`.
    """
    name = _PRECISION_NAMES.get(precision, precision) if precision is not None else palette.dtype
    if name not in PRECISIONS:
        raise GraphError(f"precision={precision!r}; allowed: {', '.join(map(repr, PRECISIONS))}")
    dtype, autocast = PRECISIONS[name]
    if autocast is not None or dtype is None:
        raise SpaceError(
            f"precision={precision!r} in bulk; allowed: one type, {', '.join(p for p in PRECISIONS if p in FLOATING)}"
        )
    key = ("templates", dtype, device, loss)
    found: Templates | None = palette._cache.get(key)
    if found is None:
        found = palette._cache[key] = _Writer(dtype, device).write(palette, loss)
    return found


class _NotKnownError(Exception):
    """A kind whose contribution this cannot describe, and why."""


class _Edge(NamedTuple):
    source: int
    how: int
    as_output: int
    temporaries: tuple[int, int, int]  # bytes per element of the output, per element of the source, and once


class _Record(NamedTuple):
    edges: tuple[_Edge, ...]
    value: int
    as_input: int
    makes: int
    allocates: tuple[int, int, int, int]
    lets_go: tuple[int, int, int]
    packed: tuple[int, int, int, int]


class _Template(NamedTuple):
    """One kind: which storage its output lies in, what it saves, its records."""

    shares: int
    works: int
    saves: int
    saving: int
    packs: tuple[int, int, int, int]
    only_with_gradient: int
    span: tuple[int, int]
    records: tuple[_Record, ...]


class _Writer:
    """Makes the templates of one type, device and loss."""

    def __init__(self, dtype: str, device: str) -> None:
        self.dtype = dtype
        self.device = device
        self.item = ITEMSIZE[dtype]
        self.records: list[tuple[int, ...]] = []
        self.edges: list[tuple[int, ...]] = []

    def write(self, palette: Palette, loss: str) -> Templates:
        rows, spans, reasons = [], [], []
        for number in range(len(palette)):
            row, span, reason = self.kind(palette, number)
            rows.append(row)
            spans.append(span)
            reasons.append(reason)
        last, target = self.loss(loss)
        rows.append(last)
        return Templates(
            column(rows).reshape(-1), column(self.records).reshape(-1), column(self.edges).reshape(-1),
            column(spans, (len(spans), 2)), self.item, int(loss != "output"), target, tuple(reasons),
        )  # fmt: skip

    def kind(self, palette: Palette, number: int) -> tuple[list[int], tuple[int, int], str]:
        op = palette.kinds.ops[number]
        row = [0] * 24
        rule = palette.kinds.weight_rule[number].tolist()
        net = palette.example(number)
        shapes = [net.shape(t) for t in net.in_idx[net.in_ptr[-2] :].tolist()]
        owned = weights_of(operator(op), shapes, net.op_attrs[-1])
        row[6] = row[7] = len(self.records)
        # The counting kernel's columns say how many there are of a size; here every one is a tensor of its own.
        row[8], row[9] = (self.item * n for n in rule[1:3])
        row[10] = sum(w.role in ("weight", "bias") for w in owned)
        row[11], row[12] = self.item * rule[3], 8 * rule[4]
        row[13], row[14] = (int(any(w.role == role for w in owned)) for role in ("weight", "bias"))
        if op == "input":
            row[0] = _INPUT
        elif op == "parameter":
            row[0] = _PARAMETER if row[10] else _CONSTANT
        else:
            row[0] = _OWNS * bool(owned)
            try:
                t = self.template(palette, number)
            except _NotKnownError as why:
                row[0] = _UNKNOWN
                return row, (0, 0), f"kind {number} ({op}): {why}"
            self.put(row, t, palette.kinds.inputs[number].tolist() == [1, 1])
            return row, t.span, ""
        return row, (0, 0), ""

    def put(self, row: list[int], t: _Template, one_input: bool) -> None:
        """Write a template into the columns."""
        row[1:6] = t.saving, *t.packs
        row[6] = len(self.records)
        for r in t.records:
            start = len(self.edges)
            self.edges += [(e.source, e.how, e.as_output, *e.temporaries, 0, 0) for e in r.edges]
            self.records.append(
                (start, len(self.edges), r.value, r.as_input, r.makes, *r.allocates, *r.lets_go, *r.packed)
            )
        row[7] = len(self.records)
        how = _ANYTHING if t.records else _NOTHING
        if one_input and len(t.records) == 1 and t.records[0].edges:
            first, *weights = t.records[0].edges
            if first.source == 0 and all(
                e.how == 1 and not e.as_output and not any(e.temporaries) for e in (first, *weights)
            ):
                how = _NEW
        if len(t.records) == 1 and not t.saves and not any(t.packs) and t.records[0].edges:
            edges = t.records[0].edges
            inputs = len(edges) == 2 or edges[0].source == _EVERY
            if inputs and all(e.how == _HOW[SAME] and (e.source >= 0 or e.source == _EVERY) for e in edges):
                how = _ON
        row[0] |= (
            how | _SHARES * t.shares | _WORKS * t.works | _SAVES * t.saves | _BESIDE * any(t.packs)
            | _ONLY_WITH * t.only_with_gradient | _SEVERAL * (len(t.records) > 1)
        )  # fmt: skip

    def template(self, palette: Palette, number: int) -> _Template:
        """Record a kind with every combination of gradients and values of what is free, and merge what they say."""
        op = palette.kinds.ops[number]
        entry = operator(op)
        most = int(palette.kinds.inputs[number, 1])
        if op == "as_strided" or entry.gradient in ("none", "permute", "instance_norm"):
            raise _NotKnownError("its backward depends on more than this op")
        if entry.saves_to_one is not None and palette.kinds.uses[number].any():
            raise _NotKnownError("what it keeps depends on what is free")
        n_inputs = 3 if most < 0 else most
        if n_inputs > 2 and most >= 0:
            raise _NotKnownError(f"it has {n_inputs} inputs")
        probes = range(3) if palette.kinds.uses[number].any() else range(1)
        found = [self.one(palette, number, n_inputs, (True,) * n_inputs, probe, most < 0) for probe in probes]
        if any(f != found[0] for f in found[1:]):
            raise _NotKnownError("its backward depends on what is free")
        t = found[0]
        given = {e.source for r in t.records for e in r.edges}
        if t.records and _EVERY not in given and not given >= set(range(n_inputs)):
            raise _NotKnownError("some input gets no gradient")
        if palette.kinds.rule[number] == _SAME_SHAPE:
            # As large as the output is as large as the input.
            alike = [r._replace(edges=tuple(e._replace(as_output=0) if e.source == 0 else e for e in r.edges))
                     for r in t.records]  # fmt: skip
            t = t._replace(records=tuple(alike))
        without = self.one(palette, number, n_inputs, (False,) * n_inputs, 0, most < 0)
        if without.packs != t.packs:
            if any(without.packs):
                raise _NotKnownError("what it keeps depends on which inputs take a gradient")
            t = t._replace(only_with_gradient=1)
        saves = t.saves
        if n_inputs == 2:
            ways = {takes: self.one(palette, number, 2, takes, 0, False) for takes in ((True, False), (False, True))}
            # A factor is kept for the gradient of the other.
            if saves & 1 and not ways[True, False].saves & 1:
                saves += 7
            if saves & 4 and not ways[False, True].saves & 4:
                saves += 12
            for takes, other in ways.items():
                edges = tuple(e for e in t.records[0].edges if e.source < 0 or takes[e.source])
                if len(t.records) != 1 or other.records[0].edges != edges or other.packs != t.packs:
                    raise _NotKnownError("its backward depends on which inputs take a gradient")
                first = saves & 1 or (saves & 8 and takes[1])
                second = saves & 4 or (saves & 16 and takes[0])
                if other.saves != bool(first) + (saves & 2) + 4 * bool(second):
                    raise _NotKnownError("what it keeps depends on which inputs take a gradient")
        if saves & 2 and saves & ~3:
            raise _NotKnownError("it keeps more than two tensors")
        return t._replace(saves=saves)

    def one(
        self, palette: Palette, number: int, n_inputs: int, takes: tuple[bool, ...], probe: int, every: bool
    ) -> _Template:
        """Record a kind once; `takes` says which inputs take a gradient."""
        net = palette.example(number, probe, n_inputs)
        r = _Recorder(net, True, self.device, self.dtype, None, (), True, False, False)
        for op in range(n_inputs):
            r.run(op)
        for v, grad in zip(range(n_inputs), takes, strict=True):
            r.v_store[v] = r.store(r.v_spec[v])
            r.v_grad[v] = grad
        last = net.n_ops - 1
        inputs = [r.of_tensor[t] for t in net.in_idx[net.in_ptr[last] :].tolist()]
        try:
            r.run(last)
        except CnnliveError as error:
            raise _NotKnownError(str(error)) from error
        out = r.of_tensor[int(net.out_ptr[last])]
        names = {v: name for (_, name), v in r.of_weight.items()}
        works = 2 if net.op_attrs[last].get("inplace") else int(out in r.base)
        return self.read(r, inputs, out, names, net, works, every)

    def read(
        self, r: _Recorder, inputs: Sequence[int], out: int, names: Mapping[int, str], net: Any, works: int, every: bool
    ) -> _Template:
        """Turn the records of one op into a template."""
        if out in inputs:
            if r.records:
                raise _NotKnownError("it hands its input on and does more")
            return _Template(1, 0, 0, 0, (0,) * 4, 0, (0, 0), ())
        if PERMUTED in r.v_layout:
            raise _NotKnownError("its output is laid out in another order")
        reader = _Reader(self.item, r, inputs, out, names, net.in_idx[net.in_ptr[-2] :].tolist(), every)
        return reader.template(works, net)

    def loss(self, loss: str) -> tuple[list[int], int]:
        """Write the records of a loss, behind a value that takes a gradient."""
        row = [0] * 24
        row[0] = _ANYTHING
        row[6] = row[7] = len(self.records)
        g = Graph()
        g.input((1, 6), dtype=self.dtype)
        net = lower(g)
        r = _Recorder(net, True, self.device, self.dtype, None, (), True, False, False)
        r.run(0)
        r.v_store[0] = r.store(r.v_spec[0])
        r.lose(loss, None)
        if loss == "output":
            return row, 0
        reader = _Reader(self.item, r, [0], r.root, {}, [0], False)
        t = reader.template(0, net, is_loss=True)
        self.put(row, t, False)
        _tensor, _lo, _hi, k, without = r.rows[r.targets[0]]
        return row, -k if without >= 0 else k


class _Reader:
    """Reads the records of one op off a recorder: sizes as multiples of elements, values by where they come from."""

    def __init__(
        self, item: int, r: _Recorder, inputs: Sequence[int], out: int, names: Mapping[int, str],
        tensors: Sequence[int], every: bool,
    ) -> None:  # fmt: skip
        self.item = item
        self.r = r
        self.inputs = inputs
        self.out = out
        self.names = names
        self.tensors = tensors
        self.every = every
        self.span = (0, 0)
        self.between: dict[int, int] = {}

    def form(self, spec: int, product: bool = True) -> tuple[int, int, int, int]:
        """Return bytes per element of the output, of the first input, per product of dimensions, and once."""
        tensor, lo, hi, k, without = self.r.rows[spec]
        is_input = tensor in self.tensors
        if lo >= hi:
            return 0, 0, 0, k
        if without >= 0:
            raise _NotKnownError("it makes tensors of another size")
        if (lo, hi) == (0, 6):
            if not is_input:
                return k, 0, 0, 0
            if tensor == self.tensors[0]:
                return 0, k, 0, 0
            raise _NotKnownError("it makes tensors as large as a further input")
        if not product:
            raise _NotKnownError("it makes tensors of another size between its records")
        if tensor != self.tensors[0]:
            raise _NotKnownError("it counts by dimensions of its output")
        self.spans(lo, hi)
        return 0, 0, k, 0

    def spans(self, lo: int, hi: int) -> None:
        if self.span[1] > self.span[0] and self.span != (lo, hi):
            raise _NotKnownError("it counts by two products of dimensions")
        self.span = (lo, hi)

    def source(self, value: int) -> int:
        if value in self.inputs:
            return list(self.inputs).index(value)
        if value in self.names:
            role = self.names[value]
            if role not in ("weight", "bias"):
                raise _NotKnownError(f"it takes a gradient of its {role}")
            return _WEIGHT if role == "weight" else _BIAS
        return _BETWEEN - self.between[value]

    def template(self, works: int, net: Any, is_loss: bool = False) -> _Template:
        r = self.r
        n = len(r.records)
        active = [bool(edges) for edges in r.edges]
        outs = {p: r.outs[p][0] for p in range(n) if r.outs[p]}
        if any(len(o) > 1 for o in r.outs):
            raise _NotKnownError("it has several outputs")
        for p in range(n):
            if active[p] and outs[p] != self.out:
                self.between[outs[p]] = p + 1
        # The making of noise is no record of its own: nothing goes between it and the product.
        merged = n == 2 and r.records[0][1] == "bernoulli_"
        own = r.v_store[self.out]
        of_inputs = {r.v_store[v]: i for i, v in enumerate(self.inputs)}
        packs = [0] * 4
        first = [[0] * 4 for _ in range(n)]
        gone = [[0] * 4 for _ in range(n)]
        packed = [[0] * 4 for _ in range(n)]
        makes = [0] * n
        saves, saving = 0, 0
        for p in range(n):
            for s in r.alloc[p]:
                if s == own and not is_loss:
                    makes[p] = 1
                    continue
                form = self.form(r.s_spec[s], product=not is_loss)
                keepers = [q for q in range(n) if s in r.saved[q]]
                if (n == 1 and not is_loss) or merged:
                    # One record, with the making of noise before it at most.
                    _add(packs, form)
                    if active[n - 1] and keepers != [n - 1]:
                        raise _NotKnownError("it makes what it does not keep")
                    continue
                _add(first[p], form)
                if r.s_until[s] == _END:
                    continue
                if keepers:
                    if not is_loss:
                        raise _NotKnownError("it keeps what lies between its records")
                    _add(packed[min(keepers)], form)
                else:
                    _add(gone[min(r.s_until[s], n - 1)], form)
        for p in range(n):
            for s in r.saved[p]:
                bit = 0
                if s in of_inputs:
                    bit = (1, 4)[of_inputs[s]] if of_inputs[s] < 2 and not (self.every and of_inputs[s]) else 0
                    if not bit:
                        raise _NotKnownError("it keeps a further input")
                elif s == own and not is_loss:
                    bit = 2
                if bit:
                    if saves and saving != p:
                        raise _NotKnownError("two of its records keep what it reads")
                    saves |= bit
                    saving = p
        records = []
        for p in range(n):
            if merged and p == 0:
                continue
            if n > 1 and not active[p] and not merged and any(active):
                raise _NotKnownError("one of its records has no backward")
            value, as_input = 0, 0
            if p in outs and outs[p] != self.out:
                value = self.between[outs[p]]
                as_input = int(self.size(r.v_spec[outs[p]]) == "input")
            records.append(_Record(
                self.edges_of(p, net), value, as_input, makes[p], _four(first[p]),
                (gone[p][0], gone[p][1], gone[p][3]), _four(packed[p]),
            ))  # fmt: skip
        if merged:
            saving = 0
        shares = 0 if is_loss else int(not any(makes))
        if shares and own != r.v_store[self.inputs[0]]:
            raise _NotKnownError("its output lies in no storage of its own nor of its first input")
        return _Template(shares, works, saves, saving, _four(packs), 0, self.span, tuple(records))

    def size(self, spec: int) -> str:
        """Say whether a tensor between records is as large as the output or as the first input."""
        form = self.form(spec, product=False)
        if form == (self.item, 0, 0, 0) or spec == self.r.v_spec[self.out]:
            return "output"
        if form == (0, self.item, 0, 0):
            return "input"
        raise _NotKnownError("it makes tensors of another size between its records")

    def edges_of(self, p: int, net: Any) -> tuple[_Edge, ...]:
        r = self.r
        temporaries: list[int] = []
        edges: list[_Edge] = []
        for what, a, b, _layout in r.codes[p]:
            if what == TEMPORARY:
                temporaries.append(a)
                continue
            if what == FREE_TEMPORARIES:
                temporaries = []
                continue
            if what not in _HOW:
                raise _NotKnownError("its gradient is made in a way of its own")
            value = r.edges[p][a]
            spec, made = r.v_spec[value], r.edge_spec[p][a]
            out = r.v_spec[r.outs[p][0]]
            if made not in (spec, out):
                raise _NotKnownError("a gradient is made at another size")
            how = _HOW[what]
            if what == NARROW:
                # Before the dimension that is joined inputs and output are alike.
                self.spans(*r.rows[b][1:3])
            if what in (VIEW, RESHAPE) and not self.joins(net):
                how = _MAYBE_COPIES
            per_out = per_source = once = 0
            for t in temporaries:
                per_output, per_input, product, constant = self.form(t)
                if product:
                    raise _NotKnownError("a temporary of another size")
                if per_input and self.r.rows[t][0] != self.r.rows[spec][0]:
                    raise _NotKnownError("a temporary of the size of another input")
                per_out += per_output
                per_source += per_input
                once += constant
            edges.append(_Edge(self.source(value), how, int(made == out and made != spec),
                               (per_out, per_source, once)))  # fmt: skip
        if self.every and edges:
            if any(e._replace(source=0) != edges[0] for e in edges):
                raise _NotKnownError("its inputs differ in backward")
            return (edges[0]._replace(source=_EVERY),)
        return tuple(edges)

    @staticmethod
    def joins(net: Any) -> bool:
        """Whether an op on the shape of a tensor joins neighbouring dimensions, or takes apart, on any shape alike."""
        kind, attrs = net.op_kinds[-1], net.op_attrs[-1]
        if kind == "flatten":
            return bool(attrs["start_dim"] >= 1)
        if kind in ("squeeze", "unsqueeze"):
            return bool(all(d >= 1 for d in attrs["dim"]))
        return bool(kind != "reshape" or tuple(attrs["shape"]) == (0, -1))


def _add(total: list[int], form: Sequence[int]) -> None:
    for i, n in enumerate(form):
        total[i] += n


def _four(values: Sequence[int]) -> tuple[int, int, int, int]:
    a, b, c, d = values
    return a, b, c, d


class Scratch:
    """What :func:`train` writes to beside its result: as long as the largest graph needs, made once per thread."""

    def __init__(self, n_nodes: int, n_edges: int) -> None:
        n, handles = n_nodes + 8, 4 * (n_nodes + n_edges) + 32
        u32, i64 = np.uint32, np.int64
        self.nodes = (n_nodes, n_edges)
        self.arrays: tuple[U32, U32, I64, U32, I64, U32, I64, I64] = (
            np.zeros(8 * n, u32), np.zeros(n, u32), np.zeros(8 * n, i64), np.zeros(4 * handles, u32),
            np.zeros(handles, i64), np.zeros(n_edges + 8, u32), np.zeros(n_edges + 8, i64),
            np.zeros(2 * n_edges + 16, i64),
        )  # fmt: skip

    def fresh(self) -> None:
        """Make it fit for use again after a graph that was refused."""
        self.arrays[2][:] = 0


def train(
    t: Templates,
    graph_ptr: I64,
    kind: I32,
    in_ptr: I64,
    in_idx: I32,
    until: I32,
    sizes: I64,
    classes: I64,
    rules: Sequence[StepRule],
    scratch: Scratch,
) -> I64:
    """Training memory of a chunk of graphs of one palette.

    Parameters
    ----------
    t : Templates
    graph_ptr, kind, in_ptr, in_idx, until : arrays
        The nodes, checked; C-contiguous and read-only. Pointers need not begin with 0.
    sizes : (n_nodes, 4) int64
        Elements of each node's output, of a weight, of a vector of parameters (as the counting kernel has them), and
        the product of dimensions that ``t.span`` names. Writable, as `classes`: another kernel fills them.
    classes : (n_graphs,) int64
        Second dimension of the output; 0 if it has one only.
    rules : sequence of StepRule
        Optimizers whose peak is asked for.
    scratch : Scratch

    Returns
    -------
    (n_graphs, 1 + n_rules) int64, bytes
        `TrainingPlan.saved_bytes`, and `TrainingPlan.peak_bytes` with each optimizer.

    Raises
    ------
    SpaceError
        If a graph has a node that this does not know how to train; names graph and node.
    GraphError
        If nothing in a graph takes a gradient, or its output is none for the loss.
    """
    columns, steps = _rule_columns(tuple(rules))
    answer = np.empty((len(graph_ptr) - 1, 1 + len(rules)), np.int64)
    status, graph, node = train_graphs(
        graph_ptr, kind, in_ptr, in_idx, until, sizes.reshape(-1), classes, t.table, t.record, t.edge, t.item, t.loss,
        t.target_item, columns, steps, *scratch.arrays, answer,
    )  # fmt: skip
    if status:
        scratch.fresh()
        raise _refusal(t, status, graph, node, int(kind[graph_ptr[graph] - graph_ptr[0] + node]))
    return answer


@lru_cache(maxsize=64)
def _rule_columns(rules: tuple[StepRule, ...]) -> tuple[I64, I64]:
    """Return optimizers as the kernel reads them."""
    ends = list(accumulate((len(r.rows) for r in rules), initial=0))
    rows = [(int(r.lists), *r.state.tolist(), start, end, 0, 0, 0)
            for r, start, end in zip(rules, ends[:-1], ends[1:], strict=True)]  # fmt: skip
    steps = [row for r in rules for row in r.rows.tolist()]
    return column(rows).reshape(-1), column(steps).reshape(-1)


def _refusal(t: Templates, status: int, graph: int, node: int, kind: int) -> CnnliveError:
    """Word a status of the kernel; `graph` counts within the chunk."""
    where = f"graph {graph}, node {node}"
    if status == 1:
        return GraphError(f"graph {graph} has no parameter that takes a gradient")
    if status == 2:
        return SpaceError(f"{where}: training in bulk does not know {t.reasons[kind] or 'a loss that is a parameter'}")
    if status == 3:
        return SpaceError(f"{where}: training in bulk does not know an op in place on a view that takes a gradient")
    if status == 4:
        return SpaceError(f"{where}: training in bulk does not know whether this reshape of slices copies")
    return GraphError(f"graph {graph}: loss='cross_entropy' needs class scores; the output has one dimension")
