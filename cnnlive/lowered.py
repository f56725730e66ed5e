"""Lowering: a graph as flat arrays, once. Nothing behind this line knows networkx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._arrays import Rows, columns_of
from cnnlive._kernels.counts import count
from cnnlive._kernels.shapes import propagate
from cnnlive._types import DTYPE_CODE, I64, IS_FLOATING, ITEMSIZES, Columns, column, csr, frozen
from cnnlive.errors import GraphError, LoweringError, ShapeError
from cnnlive.graph import Graph, tensor_name
from cnnlive.ops import operator, weight_columns

if TYPE_CHECKING:
    from cnnlive._types import Attrs, Shape

__all__ = ["Lowered", "Sizes", "check_operators", "lower"]

_LIMIT: Final = 2**62
_MACS_RULES: Final = {"none": 0, "conv": 1, "linear": 2, "matmul": 3}
_FOLDS: Final = {"": 0, "base": 1, "norm": 2, "activation": 3}
_ROLES: Final = ("weight", "bias", "buffer", "counter")
_OWNS_ALL: Final = (1, 1, 1, 1)

# What an op's outputs have to do with the bytes of its inputs.
WRITES, VIEW, OVERWRITES, MAY_OVERWRITE, MAY_OVERWRITE_EITHER = range(5)


@dataclass(frozen=True, slots=True, eq=False)
class Sizes(Columns):
    """Every tensor's shape and size at one batch.

    Attributes
    ----------
    rank : (n_tensors,) int64
    dims : (n_tensors, 6) int64
        Unused dimensions hold 1.
    numel : (n_tensors,) int64, elements
    """

    rank: I64
    dims: I64
    numel: I64


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Lowered(Columns):
    """A graph as flat arrays; the only thing kernels ever see.

    All arrays are C-contiguous, read-only int64. Ops are numbered in program order, tensors in the order in
    which the ops write them.

    Attributes
    ----------
    name : str
    op_names, op_kinds, op_scopes : tuple of str
        Node, operator and module path of each op.
    op_attrs : tuple of mapping
        Attributes of each op, canonical; what needs more than the columns reads them (training does, once).
    parameter_order : (n_ops,)
        Ops in the order in which the framework lists their parameters.
    holds : (n_holds, 2)
        Tensors that :meth:`cnnlive.Graph.hold` named, and the op through which each is held; see :meth:`frames`.
    in_ptr, in_idx : (n_ops + 1,), (n_edges,)
        CSR list of the tensors each op reads.
    out_ptr : (n_ops + 1,)
        Op writes the tensors ``out_ptr[op] .. out_ptr[op + 1]``.
    producer, reads : (n_tensors,)
        The op that writes a tensor; how many edges leave it.
    kind : (n_tensors,)
        0 activation, 1 network input, 2 stored parameter.
    is_output : (n_tensors,)
        1 for the network's outputs.
    outputs : (n_outputs,)
        The network's outputs, in the order in which the graph names them.
    dtype : (n_tensors,)
        Position in ``cnnlive._types.DTYPES``.
    rule, attr_ptr, attr : (n_ops,), (n_ops + 1,), (n_attr,)
        Shape rule and its columns, see :mod:`cnnlive._kernels.shapes`; no rules where sizes were given as they are.
    macs_rule, weight_rule, owner : (n_ops,), (n_ops, 6), (n_ops, 4)
        See :mod:`cnnlive._kernels.counts`.
    tied : (n_tied, 3)
        Op, role (0 to 3, as in `owner`) and the op that holds what the first shares.
    frozen : (n_ops, 4)
        1 for a weight or bias (roles as in `owner`) that is not trained, at every op that shares it in that role.
    alias : (n_ops,)
        0 writes bytes of its own, 1 view of input 0, 2 overwrites input 0 as the graph says, 3 may
        overwrite input 0, 4 may overwrite input 0 or 1; -k takes over whichever of the first k inputs dies there.
    fold : (n_ops,)
        Part in fusion: 0 none, 1 base, 2 normalisation, 3 activation.
    statistics : (n_normalisations, 4)
        Op, first and last + 1 dimension, and bytes k: eager PyTorch allocates k bytes for each group that such an op
        normalises, and drops them when the op is done unless backward keeps them.
    index_bytes : (n_ops,)
        Bytes per output element that eager PyTorch allocates and drops while the op runs.
    scratch : (n_ops,)
        Bytes that an op takes while it runs in every runtime; 0 but where :meth:`from_arrays` was told.
    before_ptr, before_idx : (n_ops + 1,), (n_before,)
        CSR list of the ops that have to run before one that overwrites what they read.
    batch : int
        First dimension of the first network input, as built.
    sizes : Sizes
        Shapes at that batch.
    counts : (n_ops, 5)
        Multiply-accumulates at that batch, weights, biases, buffers, batch counters (elements).
    """

    name: str
    op_names: tuple[str, ...]
    op_kinds: tuple[str, ...]
    op_scopes: tuple[str, ...]
    op_attrs: tuple[Attrs, ...]
    parameter_order: I64
    holds: I64
    in_ptr: I64
    in_idx: I64
    out_ptr: I64
    producer: I64
    reads: I64
    kind: I64
    is_output: I64
    outputs: I64
    dtype: I64
    rule: I64
    attr_ptr: I64
    attr: I64
    macs_rule: I64
    weight_rule: I64
    owner: I64
    tied: I64
    frozen: I64
    alias: I64
    fold: I64
    statistics: I64
    index_bytes: I64
    scratch: I64
    before_ptr: I64
    before_idx: I64
    batch: int
    sizes: Sizes
    counts: I64
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"<Lowered {self.name!r}: {self.n_ops:,} ops, {self.n_parameters:,} parameters>"

    @classmethod
    def from_arrays(
        cls,
        nbytes: ArrayLike,
        op_inputs: Rows,
        op_outputs: Rows,
        scratch: ArrayLike | None = None,
        inplace: Rows | None = None,
        *,
        outputs: Sequence[int] | None = None,
        views: Sequence[int] = (),
        op_names: Sequence[str] | None = None,
        name: str = "",
    ) -> Lowered:
        """Make a net of plain arrays: sizes of tensors, and which of them each op reads and writes.

        What no op writes is an input of the network. Ops that do not stand in a legal order are put into one: each as
        soon as what it reads is there, the first given first.

        Parameters
        ----------
        nbytes : (n_tensors,) integers, bytes
        op_inputs, op_outputs : lists of tensors per op, or a CSR pair of numpy arrays
            A pair is ``(ptr, idx)``: op ``i`` has the tensors ``idx[ptr[i]:ptr[i + 1]]``.
        scratch : (n_ops,) integers, bytes, optional
            What each op takes only while it runs.
        inplace : as `op_inputs`, optional
            Inputs of each op whose bytes its one output takes over where nobody wants them afterwards, the sizes are
            equal, and planning is not asked for ``inplace="never"``; the first that can be taken is.
        outputs : sequence of int, optional
            Tensors that are kept to the end. Default: those that no op reads.
        views : sequence of int
            Ops whose outputs are no bytes of their own but those of their first input.
        op_names : sequence of str, optional
            Default: ``op0``, ``op1``, ... An input of the network is called ``input`` and its tensor's number.
        name : str

        Returns
        -------
        Lowered
            Inputs of the network are ops too and come first. Its tensors have type uint8, one batch and no weights:
            it can be planned for inference, orders and arenas.

        Raises
        ------
        LoweringError
            If lengths differ, a size is negative or a tensor unknown, two ops write one tensor, a tensor belongs to no
            op, `inplace` or `views` name what cannot be, or all sizes together reach 2**62 bytes. Names the op.
        CycleError
            If ops wait for each other; names them.

        Notes
        -----
        O(n_tensors + n_edges).

        Examples
        --------
        >>> from cnnlive import Lowered, plan_inference
        >>> net = Lowered.from_arrays([8, 4, 4, 2], [[0], [0], [1, 2]], [[1], [2], [3]])
        >>> net.op_names, plan_inference(net).activation_peak_bytes
        (('input0', 'op0', 'op1', 'op2'), 16)
        """
        columns, dims = columns_of(nbytes, op_inputs, op_outputs, scratch, inplace, outputs, views, op_names)
        sizes = Sizes(column(np.ones(len(dims))), dims, column(dims[:, 0]))
        return cls(name=name, sizes=sizes, **columns)

    @property
    def n_ops(self) -> int:
        """Number of ops, inputs and stored parameters among them."""
        return len(self.op_names)

    @property
    def n_tensors(self) -> int:
        """Number of tensors."""
        return int(self.producer.shape[0])

    @property
    def n_parameters(self) -> int:
        """Trainable parameters (elements), shared ones once."""
        return int(self.counts[:, 1:3].sum())

    @property
    def n_buffers(self) -> int:
        """Elements stored but not trained, without batch counters."""
        return int(self.counts[:, 3].sum())

    def macs(self, batch: int | None = None) -> int:
        """Multiply-accumulates of convolutions and matrix products; `batch` default: as built."""
        return sum(self.counts_at(self.batch if batch is None else batch)[:, 0].tolist())

    def counts_at(self, batch: int) -> I64:
        """Return `counts` at another batch."""
        return self.counts if batch == self.batch else self._count(self.sizes_at(batch))

    def tensor_name(self, tensor: int) -> str:
        """Name of a tensor: its op's, with ``:k`` for further outputs."""
        op = int(self.producer[tensor])
        return tensor_name(self.op_names[op], tensor - int(self.out_ptr[op]))

    def shape(self, tensor: int, sizes: Sizes | None = None) -> Shape:
        """Shape of a tensor at the batch of `sizes`."""
        s = sizes or self.sizes
        return tuple(s.dims[tensor, : s.rank[tensor]].tolist())

    def sizes_at(self, batch: int) -> Sizes:
        """Propagate the shapes at another batch.

        Parameters
        ----------
        batch : int
            First dimension of every network input.

        Raises
        ------
        ShapeError
            If a shape is impossible at that batch or has 2**62 elements or more; names the op.

        Notes
        -----
        O(n_edges); the last few batches are kept.
        """
        if batch == self.batch:
            return self.sizes
        kept: dict[int, Sizes] = self._cache.setdefault("sizes", {})
        sizes = kept.get(batch)
        if sizes is None:
            sizes = self._propagate(batch)
            if len(kept) >= 8:
                kept.clear()
            kept[batch] = sizes
        return sizes

    def _propagate(self, batch: int) -> Sizes:
        if not len(self.rule):
            raise ShapeError(
                f"{self.name or 'network'} at batch {batch}: it was made of plain sizes, which are of one batch; "
                f"allowed: {self.batch}"
            )
        n = self.n_tensors
        rank = np.empty(n, np.int64)
        dims = np.empty((n, 6), np.int64)
        numel = np.empty(n, np.int64)
        status, op = propagate(self.rule, self.attr_ptr, self.attr, self.in_ptr, self.in_idx, self.out_ptr,
                               batch, rank, dims, numel)  # fmt: skip
        if status:
            shapes = [tuple(dims[t, : rank[t]].tolist()) for t in self.in_idx[self.in_ptr[op] : self.in_ptr[op + 1]]]
            what = "the shapes are impossible" if status == 1 else "the result has 2**62 elements or more"
            hint = "; a reshape to literal sizes fits one batch only" if self.op_kinds[op] == "reshape" else ""
            raise ShapeError(
                f"{self.op_names[op]} ({self.op_kinds[op]}) at batch {batch or self.batch}: {what}{hint} "
                f"[input shapes: {', '.join(map(str, shapes)) or 'none'}]"
            )
        return _checked_sizes(rank, dims, numel, batch or self.batch)

    def _count(self, sizes: Sizes) -> I64:
        counts = np.empty((self.n_ops, 5), np.int64)
        status, op = count(self.macs_rule, self.weight_rule, self.owner, self.attr_ptr, self.attr, self.in_ptr,
                           self.in_idx, self.out_ptr, sizes.rank, sizes.dims, sizes.numel,
                           counts)  # fmt: skip
        if status:
            raise ShapeError(f"{self.op_names[op]} ({self.op_kinds[op]}): 2**62 multiply-accumulates or more")
        return frozen(counts)

    @property
    def weight_dtype(self) -> I64:
        """(n_ops,) dtype code of what each op stores: of a parameter its own, else the floating type it writes."""
        found: I64 | None = self._cache.get("weight_dtype")
        if found is not None:
            return found
        written = self.dtype[self.out_ptr[:-1]]
        literal = np.array([k == "parameter" for k in self.op_kinds], dtype=bool)
        return self._keep("weight_dtype", np.where(IS_FLOATING[written] | literal, written, 0))

    def dtypes(self, dtype: str | None) -> I64:
        """Return the dtype code of each tensor, with every floating type replaced by `dtype` if that is given."""
        key = ("dtypes", dtype)
        found: I64 | None = self._cache.get(key)
        return self._keep(key, _replaced(self.dtype, dtype)) if found is None else found

    def itemsizes(self, dtype: str | None) -> I64:
        """Return the bytes per element of each tensor under :meth:`dtypes`."""
        key = ("items", dtype)
        found: I64 | None = self._cache.get(key)
        return self._keep(key, ITEMSIZES[self.dtypes(dtype)]) if found is None else found

    def weight_itemsizes(self, dtype: str | None) -> I64:
        """Return the bytes per element of what each op stores, floating types replaced likewise."""
        return ITEMSIZES[_replaced(self.weight_dtype, dtype)]

    def _keep(self, key: Any, values: ArrayLike) -> I64:
        """Put an array into the cache, as a column."""
        kept = self._cache[key] = column(values)
        return kept

    def frames(self) -> I64:
        """Return through which op eager Python holds each tensor: (n_tensors,) int64, ops in program order.

        A tensor that :meth:`cnnlive.Graph.hold` names is held through the op named there. For any other, module
        calls tell. The ops whose module path (``scope``) lies under one path, as far as they follow each other
        without a break, are one call of that module; network inputs and stored parameters in between break
        nothing. A call's arguments live until it returns: a tensor that was made before the call and is read
        inside it is held through the call's last op. An op itself is the call of a leaf module or a function and
        holds its inputs while it runs, no longer. Whatever the rule says, a tensor is held through its last reader,
        or its producer if there is none.

        So of two calls of one module that follow each other directly the second needs a path of its own,
        such as ``"block@1"``; and each prefix of a path counts as a call, also that of a mere list of modules.

        Returns
        -------
        (n_tensors,) int64
            Holding a view holds the bytes that it looks at.

        Notes
        -----
        O(n_ops + n_edges), done once per lowered graph.
        """
        found: I64 | None = self._cache.get("frames")
        return self._keep("frames", _frames(self)) if found is None else found

    def held_reads(self) -> tuple[I64, I64, I64]:
        """Return `in_ptr`, `in_idx` and `reads` with one read more of each tensor that outlives its readers.

        That read stands last at the op through which :meth:`frames` says that the tensor is held, so liveness under
        eager frames is liveness over these columns.
        """
        found: tuple[I64, I64, I64] | None = self._cache.get("held_reads")
        if found is None:
            last = last_readers(self)
            until = self.frames()
            held = np.flatnonzero(until > last)
            held = held[np.argsort(until[held], kind="stable")]
            idx = np.insert(self.in_idx, self.in_ptr[until[held] + 1], held)
            ptr = self.in_ptr.copy()
            ptr[1:] += np.cumsum(np.bincount(until[held], minlength=self.n_ops))
            reads = self.reads.copy()
            reads[held] += 1
            found = self._cache["held_reads"] = (column(ptr), column(idx), column(reads))
        return found

    def fused(
        self,
        begun: tuple[tuple[int, int], ...] = (),
        activations: tuple[str, ...] | None = None,
        bases: tuple[str, ...] = (),
    ) -> Lowered:
        """Return the same net with convolution (or linear), batch normalisation and activation as one op.

        Parameters
        ----------
        begun : tuple of (int, int)
            Placeholders of tensors that such an op of an earlier piece of the net makes, and how far its chain has
            come: 1 the base, 2 also a normalisation. What goes on with a chain vanishes into the placeholder.
        activations : tuple of str, optional
            Operators of the activations that are taken in. Default: all.
        bases : tuple of str
            Further operators that take in an activation, though no normalisation.

        A base op is followed while its only reader is a batch normalisation with running statistics (once)
        or an activation (once, last). The normalisation's scale and shift vanish into the base's weight and
        bias: a base without bias gets one.

        Notes
        -----
        O(n_ops + n_edges), done once per lowered graph.
        """
        key = ("fused", begun, activations, bases)
        found: Lowered | None = self._cache.get(key)
        if found is None:
            plain = not begun and not self.fold.any()
            found = self._cache[key] = self if plain else _fuse(self, dict(begun), activations, bases)
        return found

    def padded(self) -> Lowered:
        """Return the same net with padding that TensorFlow Lite cannot say as an op of its own.

        There a convolution or pool has the padding SAME (as little as gives ceil(size / stride) outputs, the odd one
        behind) or VALID (none). Any other, such as PyTorch's symmetric one with a stride of 2, becomes a ``pad`` in
        front of the op, as does all padding that an average counts in. Convolutions and pools over 1 to 3 dimensions;
        of transposed convolutions padding crops, and stays.

        Notes
        -----
        O(n_ops + n_edges), done once per lowered graph. Source: TensorFlow, lite/kernels/padding.h.
        """
        found: Lowered | None = self._cache.get("padded")
        if found is None:
            found = self._cache["padded"] = _pad(self)
        return found


def _replaced(codes: I64, dtype: str | None) -> I64:
    """Return dtype codes with every floating one replaced by that of `dtype`, if that is given."""
    return codes if dtype is None else np.where(IS_FLOATING[codes], np.int64(DTYPE_CODE[dtype]), codes)


def last_readers(net: Lowered) -> I64:
    """Return the last op that reads each tensor, or its producer."""
    last = net.producer.copy()
    # Edges stand in program order, and numpy keeps the last of several values assigned to one place.
    last[net.in_idx] = np.repeat(np.arange(net.n_ops), np.diff(net.in_ptr))
    return last


def _frames(net: Lowered) -> I64:
    until = last_readers(net)
    calls: list[tuple[int, int, int]] = []  # depth, first and last op of each module call
    stack: list[tuple[str, int]] = []  # the calls open now, outermost first: part of the path and first op
    path, latest = "", -1
    for op, (kind, scope) in enumerate(zip(net.op_kinds, net.op_scopes, strict=True)):
        if kind in ("input", "parameter"):
            continue
        if scope != path:
            parts, same = scope.split(".") if scope else [], 0
            while same < min(len(parts), len(stack)) and stack[same][0] == parts[same]:
                same += 1
            calls += [(depth, first, latest) for depth, (_, first) in enumerate(stack[same:], same)]
            del stack[same:]
            stack += [(part, op) for part in parts[same:]]
            path = scope
        latest = op
    calls += [(depth, first, latest) for depth, (_, first) in enumerate(stack)]
    reader = np.repeat(np.arange(net.n_ops), np.diff(net.in_ptr))
    made = np.where(net.kind == 1, -1, net.producer)[net.in_idx]
    explicit = net.holds[:, 0]
    free = np.ones(net.n_tensors, bool)
    free[explicit] = False
    free[net.kind == 2] = False
    for depth in range(max((depth for depth, *_ in calls), default=-1) + 1):
        start, end = np.full((2, net.n_ops), -1, np.int64)
        for d, a, b in calls:
            if d == depth:
                start[a : b + 1], end[a : b + 1] = a, b
        outside = np.flatnonzero((start[reader] > made) & free[net.in_idx])
        np.maximum.at(until, net.in_idx[outside], end[reader[outside]])
    until[explicit] = np.maximum(until[explicit], net.holds[:, 1])
    return until


def _checked_sizes(rank: I64, dims: I64, numel: I64, batch: int) -> Sizes:
    total = float(numel.astype(np.float64).sum()) * int(ITEMSIZES.max())
    if total >= _LIMIT:
        raise ShapeError(f"all tensors together at batch {batch} can take {total:.3g} bytes; allowed: below 2**62")
    return Sizes(column(rank), column(dims, (len(rank), 6)), column(numel))


def check_batch(batch: object, name: str = "batch") -> int:
    """Return the batch as an integer; `name` is what an error calls it.

    Raises
    ------
    ShapeError
        If it is not an integer >= 1.
    """
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or not 1 <= batch < _LIMIT:
        raise ShapeError(f"{name}={batch!r}; allowed: an integer >= 1, below 2**62")
    return int(batch)


def lower(graph: Graph | Lowered) -> Lowered:
    """Lower a graph to flat arrays; done once, and again after the graph has changed.

    Parameters
    ----------
    graph : Graph or Lowered
        A lowered graph is returned as it is.

    Returns
    -------
    Lowered

    Raises
    ------
    LoweringError
        If the graph is empty, or its parameters together take 2**62 bytes or more.
    ShapeError
        If all tensors together can take 2**62 bytes or more.
    GraphError
        If an op overwrites a tensor (``inplace=True``) that a later op reads; names both.

    Notes
    -----
    O(n_ops + n_edges), a few microseconds per op.
    """
    if isinstance(graph, Lowered):
        return graph
    if not isinstance(graph, Graph):
        raise GraphError(
            f"{graph!r} is neither a Graph nor a Lowered; cnnlive.zoo.load and cnnlive.read_onnx make a Graph of a name"
        )
    kept = graph._lowered
    if kept is not None and kept[0] == graph.version:
        return kept[1]  # type: ignore[no-any-return]
    lowered = _lower(graph)
    graph._lowered = (graph.version, lowered)
    return lowered


def check_operators(net: Lowered, what: str) -> Lowered:
    """Return a net whose ops are of the operator table; `what` is what needs that.

    Raises
    ------
    GraphError
        If it was made of plain sizes.
    """
    if not len(net.rule):
        raise GraphError(
            f"{what} needs to know what the ops of {net.name or 'the network'} do, and it was made of plain sizes; "
            "allowed: a Graph, or what lower makes of one"
        )
    return net


def _alias_code(kind: str, overwrites: tuple[int, ...], asked: bool) -> int:
    if kind == "view":
        return VIEW
    if asked:
        return OVERWRITES
    if kind == "elementwise" and overwrites:
        return MAY_OVERWRITE_EITHER if overwrites == (0, 1) else MAY_OVERWRITE
    return WRITES


def _lower(graph: Graph) -> Lowered:
    if not len(graph):
        raise LoweringError("the graph has no ops")
    multigraph = graph._nx
    shapes, dtypes, pred = graph._shapes, graph._dtypes, multigraph.pred
    first: dict[str, int] = {}
    producer: list[int] = []
    dtype: list[int] = []
    kind: list[int] = []
    rank: list[int] = []
    dims: list[Shape] = []
    inputs: list[list[int]] = []
    in_count: list[int] = []
    out_count: list[int] = []
    attr: list[int] = []
    attr_ptr = [0]
    rule: list[int] = []
    macs_rule: list[int] = []
    weight_rule: list[tuple[int, ...]] = []
    owner: list[tuple[int, ...]] = []
    ties: list[tuple[int, int, str]] = []
    holds: list[tuple[int, str]] = []
    untrained: list[tuple[int, int]] = []
    alias: list[int] = []
    fold: list[int] = []
    statistics: list[tuple[int, int, int, int]] = []
    index_bytes: list[int] = []
    kinds: list[str] = []
    scopes: list[str] = []
    attrs: list[Attrs] = []
    for op, (name, data) in enumerate(multigraph.nodes.items()):
        kind_name = data["op"]
        entry = operator(kind_name)
        row: list[int] = []
        in_shapes: list[Shape] = []
        uses = pred[name]
        if uses:
            edges = [(e["input"], u, e["output"]) for u, keyed in uses.items() for e in keyed.values()]
            if len(edges) > 1:
                edges.sort()
            for _, u, output in edges:
                row.append(first[u] + output)
                in_shapes.append(shapes[u][output])
        inputs.append(row)
        in_count.append(len(row))
        n_out = len(shapes[name])
        out_count.append(n_out)
        first[name] = len(producer)
        tensor_kind = 1 if kind_name == "input" else 2 if kind_name == "parameter" else 0
        for d in dtypes[name]:
            producer.append(op)
            dtype.append(DTYPE_CODE[d])
            kind.append(tensor_kind)
        for shape in shapes[name]:
            rank.append(len(shape))
            dims.append(shape + _ONES[len(shape)])
        rule.append(entry.rule.code)
        attr += entry.rule.encode(in_shapes, data)
        attr_ptr.append(len(attr))
        macs_rule.append(_MACS_RULES[entry.macs])
        weight_rule.append(weight_columns(entry, in_shapes, data))
        tied = data.get("tied")
        owner.append(tuple(int(role not in tied) for role in _ROLES) if tied else _OWNS_ALL)
        if tied:
            ties += [(op, k, tied[role]) for k, role in enumerate(_ROLES) if role in tied]
        if "frozen" in data:
            untrained += [(op, _ROLES.index(role)) for role in data["frozen"]]
        if "until" in data:
            holds += [(first[name] + output, last) for output, last in data["until"].items()]
        alias.append(_alias_code(entry.alias, entry.overwrites, bool(data.get("inplace"))))
        fold.append(_FOLDS[entry.folds] if entry.folds != "norm" or data.get("track_running_stats") else 0)
        index_bytes.append(8 if entry.indices and n_out == 1 else 0)
        if kind_name in _GROUPS or kind_name.startswith("instance_norm"):
            statistics.append((op, *_groups(kind_name, in_shapes[0], data)))
        kinds.append(kind_name)
        scopes.append(data.get("scope", ""))
        attrs.append(data)
    n_ops, n_tensors = len(kinds), len(producer)
    in_ptr = np.zeros(n_ops + 1, np.int64)
    np.cumsum(in_count, out=in_ptr[1:])
    out_ptr = np.zeros(n_ops + 1, np.int64)
    np.cumsum(out_count, out=out_ptr[1:])
    in_idx = column([t for row in inputs for t in row])
    outputs = [first[t.node] + t.output for t in graph.outputs]
    order: Sequence[int] = range(n_ops)
    if multigraph.graph["parameter_order"]:
        position = {name: op for op, name in enumerate(first)}
        order = [position[name] for name in graph.parameter_order]
    is_output = np.zeros(n_tensors, np.int64)
    is_output[outputs] = 1
    names = tuple(first)
    number = {name: op for op, name in enumerate(names)} if ties or holds else {}
    tied_columns = [(op, role, number[other]) for op, role, other in ties]
    before = _overwritten_readers(names, kinds, alias, inputs, first, out_count, kind, is_output)
    before_ptr, before_idx = csr(before)
    batch = next((shapes[n][0][0] for n, k in zip(names, kinds, strict=True) if k == "input"), 1)
    # The graph knows its own shapes; the kernel is asked for those at other batches, and need not be loaded before.
    all_dims = np.array(dims, np.int64)
    sizes = _checked_sizes(column(rank), all_dims, all_dims.prod(axis=1), batch)
    lowered = Lowered(
        name=graph.name, op_names=names, op_kinds=tuple(kinds), op_scopes=tuple(scopes),
        op_attrs=tuple(attrs), parameter_order=column(order),
        holds=column([(t, number[last]) for t, last in holds], (len(holds), 2)),
        in_ptr=column(in_ptr), in_idx=in_idx, out_ptr=column(out_ptr),
        producer=column(producer), reads=column(np.bincount(in_idx, minlength=n_tensors)), kind=column(kind),
        is_output=column(is_output), outputs=column(outputs), dtype=column(dtype), rule=column(rule),
        attr_ptr=column(attr_ptr), attr=column(attr),
        macs_rule=column(macs_rule), weight_rule=column(weight_rule), owner=column(owner),
        tied=column(tied_columns, (len(ties), 3)), frozen=_frozen(n_ops, untrained, tied_columns),
        alias=column(alias), fold=column(fold), statistics=column(statistics, (len(statistics), 4)),
        index_bytes=column(index_bytes), scratch=column(np.zeros(n_ops)), before_ptr=before_ptr,
        before_idx=before_idx, batch=batch, sizes=sizes, counts=_NOT_COUNTED,
    )  # fmt: skip
    return _counted(lowered)


def _frozen(n_ops: int, untrained: Sequence[tuple[int, int]], tied: Sequence[tuple[int, int, int]]) -> I64:
    """Mark what is not trained at every op that shares it, by whichever of them it was frozen."""
    marks = np.zeros((n_ops, len(_ROLES)), np.int64)
    for op, role in untrained:
        marks[op, role] = 1
    if untrained:
        holder = {(op, role): (other, role) for op, role, other in tied if op != other}

        def root(place: tuple[int, int]) -> tuple[int, int]:
            while place in holder:
                place = holder[place]
            return place

        for place in untrained:
            marks[root(place)] = 1
        for place in holder:
            marks[place] = marks[root(place)]
    return column(marks)


_GROUPS: Final = ("layer_norm", "group_norm")


def _groups(kind: str, shape: Shape, attrs: Attrs) -> tuple[int, int, int]:
    """Return the dimensions whose product counts the groups of a normalisation, and its bytes for each.

    Mean and inverse deviation in 32 bits; an instance normalisation also repeats its weight and bias per image.
    """
    if kind == "layer_norm":
        return 0, len(shape) - len(attrs["normalized_shape"]), 8
    if kind == "group_norm":
        return 0, 1, 8 * int(attrs["num_groups"])
    return 0, 2, 16 if attrs["affine"] else 8


_ONES: Final = tuple((1,) * (6 - rank) for rank in range(7))
_NOT_COUNTED: Final = column([], (0, 5))


def _counted(lowered: Lowered) -> Lowered:
    """Fill in the counts at the graph's own batch."""
    object.__setattr__(lowered, "counts", lowered._count(lowered.sizes))
    if float(lowered.counts[:, 1:].astype(np.float64).sum()) * 8 >= _LIMIT:
        raise LoweringError("the parameters together take 2**62 bytes or more")
    return lowered


def _overwritten_readers(
    names: Sequence[str],
    kinds: Sequence[str],
    alias: Sequence[int],
    inputs: Sequence[Sequence[int]],
    first: dict[str, int],
    out_count: Sequence[int],
    kind: Sequence[int],
    is_output: I64,
) -> list[list[int]]:
    """List, per op that overwrites its input, the other ops that read those bytes and have to run before it.

    What shares the overwritten bytes: the input itself, what it is a view of, and every view of those; only
    the pieces of one split do not overlap. An op that reads them and comes later in the program is an error.
    """
    rows: list[list[int]] = [[] for _ in names]
    if OVERWRITES not in alias:
        return rows
    starts = list(first.values())
    readers: list[list[int]] = [[] for _ in kind]
    base = [-1] * len(kind)  # the tensor that a view looks at
    views: dict[int, list[int]] = {}
    for op, row in enumerate(inputs):
        for t in row:
            readers[t].append(op)
        if alias[op] == VIEW:
            written = range(starts[op], starts[op] + out_count[op])
            views.setdefault(row[0], []).extend(written)
            for t in written:
                base[t] = row[0]
    for op, row in enumerate(inputs):
        if alias[op] != OVERWRITES:
            continue
        target = row[0]
        if len(readers[target]) == 1 and base[target] < 0 and not kind[target] and not is_output[target]:
            continue  # the common case: nobody else looks at these bytes
        shared = [target]
        below = list(views.get(target, ()))
        root = target
        while base[root] >= 0:
            child, root = root, base[root]
            shared.append(root)
            through = _producer(starts, child)
            disjoint = set(range(starts[through], starts[through] + out_count[through]))
            below += [v for v in views[root] if v not in disjoint]
        if kind[root] == 2:
            raise GraphError(
                f"{names[op]} ({kinds[op]}) overwrites {names[_producer(starts, root)]}, a stored parameter, in place"
            )
        while below:
            view = below.pop()
            shared.append(view)
            below += views.get(view, ())
        for t in shared:
            if is_output[t]:
                shown = names[_producer(starts, t)]
                raise GraphError(f"{names[op]} ({kinds[op]}) overwrites {shown}, an output of the network, in place")
            for reader in readers[t]:
                if reader == op or alias[reader] == VIEW:
                    continue
                if reader > op:
                    raise GraphError(
                        f"{names[reader]} ({kinds[reader]}) reads {names[_producer(starts, t)]} after {names[op]} "
                        f"({kinds[op]}) has overwritten it in place"
                    )
                rows[op].append(reader)
    return rows


def _producer(starts: Sequence[int], tensor: int) -> int:
    return int(np.searchsorted(starts, tensor, side="right")) - 1


def _fuse(
    net: Lowered, begun: Mapping[int, int], activations: tuple[str, ...] | None, bases: tuple[str, ...]
) -> Lowered:
    n_ops = net.n_ops
    # Where a chain begins, and how far it has come there.
    begun = {op: 2 for op, kind in enumerate(net.op_kinds) if kind in bases} | dict(begun)
    fold, in_ptr, in_idx = net.fold.tolist(), net.in_ptr.tolist(), net.in_idx.tolist()
    out_ptr = net.out_ptr.tolist()
    reads, is_output = net.reads.tolist(), net.is_output.tolist()
    reader = np.full(net.n_tensors, -1, np.int64)
    reader[net.in_idx] = np.repeat(np.arange(n_ops), np.diff(net.in_ptr))
    only_reader = reader.tolist()
    dropped = np.zeros(n_ops, bool)
    renamed = np.arange(net.n_tensors)  # the tensor that takes a vanished one's place
    gone, inner = np.zeros((2, net.n_tensors), bool)  # vanished; never written any more
    weight_rule, owner = net.weight_rule.copy(), net.owner.copy()
    names, dtype, out_of = list(net.op_names), net.dtype.copy(), net.is_output.copy()
    for op in range(n_ops):
        if fold[op] != 1 and op not in begun:
            continue
        written = out_ptr[op]
        last, stage = written, begun.get(op, 1)
        while reads[last] == 1 and not is_output[last]:
            follower = only_reader[last]
            if fold[follower] == 3 and activations is not None and net.op_kinds[follower] not in activations:
                break
            if fold[follower] <= stage or in_ptr[follower + 1] - in_ptr[follower] != 1:
                break
            stage = fold[follower]
            if stage == 2 and op not in begun:
                weight_rule[op, 2] = 1
                owner[op, 1] = 1
            dropped[follower] = True
            names[op] += "+" + net.op_names[follower].rpartition(".")[2]
            inner[last] = True
            last = out_ptr[follower]
            renamed[last] = written
            gone[last] = True
        dtype[written] = dtype[last]
        out_of[written] |= out_of[last]
    # What only a vanished normalisation held is held by the first that shares it, and tied to that by the rest.
    ties, heirs = [], dict[tuple[int, int], int]()
    for op, role, holder in net.tied.tolist():
        if dropped[op]:
            continue
        if dropped[holder] and heirs.setdefault((holder, role), op) == op:
            owner[op, role] = 1
        else:
            ties.append((op, role, heirs.get((holder, role), holder)))
    kept_ops = np.flatnonzero(~dropped)
    kept_tensors = np.flatnonzero(~gone)
    new_op = np.cumsum(~dropped) - 1
    new_tensor = np.cumsum(~gone) - 1

    def rows(ptr: list[int], idx: list[int]) -> list[list[int]]:
        return [idx[ptr[i] : ptr[i + 1]] for i in kept_ops]

    new_in = [[int(new_tensor[renamed[t]]) for t in row] for row in rows(in_ptr, in_idx)]
    new_out = np.zeros(len(kept_ops) + 1, np.int64)
    np.cumsum(np.diff(net.out_ptr)[kept_ops], out=new_out[1:])
    before_ptr, before_idx = net.before_ptr.tolist(), net.before_idx.tolist()
    # A reader that was folded away reads as part of its base.
    base_of = np.arange(n_ops)
    for folded in np.flatnonzero(dropped).tolist():
        base_of[folded] = base_of[net.producer[in_idx[in_ptr[folded]]]]
    new_before = [
        [int(new_op[base_of[b]]) for b in row if base_of[b] != i]
        for i, row in zip(kept_ops, rows(before_ptr, before_idx), strict=True)
    ]
    holds = [(new_tensor[renamed[t]], new_op[base_of[u]]) for t, u in net.holds.tolist() if not inner[t]]
    attr = [net.attr[net.attr_ptr[i] : net.attr_ptr[i + 1]].tolist() for i in kept_ops]
    in_csr, attr_csr, before_csr = csr(new_in), csr(attr), csr(new_before)
    sizes = Sizes(*(column(a[kept_tensors]) for a in (net.sizes.rank, net.sizes.dims, net.sizes.numel)))
    fused = Lowered(
        name=net.name, op_names=tuple(names[i] for i in kept_ops), op_kinds=tuple(net.op_kinds[i] for i in kept_ops),
        op_scopes=tuple(net.op_scopes[i] for i in kept_ops), op_attrs=tuple(net.op_attrs[i] for i in kept_ops),
        parameter_order=column(new_op[net.parameter_order[~dropped[net.parameter_order]]]),
        holds=column(holds, (len(holds), 2)), in_ptr=in_csr[0], in_idx=in_csr[1],
        out_ptr=column(new_out),
        producer=column(new_op[net.producer[kept_tensors]]),
        reads=column(np.bincount(in_csr[1], minlength=len(kept_tensors))), kind=column(net.kind[kept_tensors]),
        is_output=column(out_of[kept_tensors]),
        outputs=column(new_tensor[renamed[net.outputs]]), dtype=column(dtype[kept_tensors]),
        rule=column(net.rule[kept_ops]),
        attr_ptr=attr_csr[0], attr=attr_csr[1], macs_rule=column(net.macs_rule[kept_ops]),
        weight_rule=column(weight_rule[kept_ops]), owner=column(owner[kept_ops]),
        tied=column([(new_op[op], role, new_op[holder]) for op, role, holder in ties], (len(ties), 3)),
        frozen=column(net.frozen[kept_ops]),
        alias=column(net.alias[kept_ops]),
        fold=column(net.fold[kept_ops]), statistics=column(
            [(new_op[op], *row) for op, *row in net.statistics.tolist()], (len(net.statistics), 4)
        ),
        index_bytes=column(net.index_bytes[kept_ops]), scratch=column(net.scratch[kept_ops]), before_ptr=before_csr[0],
        before_idx=before_csr[1], batch=net.batch, sizes=sizes, counts=_NOT_COUNTED,
    )  # fmt: skip
    return _counted(fused)


def _explicit_padding(kind: str, attrs: Attrs, size: Shape, out: Shape) -> tuple[tuple[int, int], ...] | None:
    """Return what a convolution or pool is padded with if that is neither SAME nor VALID, else None.

    `size` and `out` are the sizes of its input and output along the spatial dimensions.
    """
    padding, kernel, n = attrs["padding"], attrs["kernel_size"], len(size)
    if padding == "same_upper":
        return None
    dilation = attrs.get("dilation", (1,) * n)
    found, same, valid = [], True, True
    for i in range(n):
        extent, stride = dilation[i] * (kernel[i] - 1) + 1, attrs["stride"][i]
        needed = (out[i] - 1) * stride + extent - size[i]  # below 0: the last positions are not read
        if padding == "same_lower":
            total = max(needed, 0)
            before, after = total - total // 2, total // 2
        else:
            before, after = padding[i]
        reached = max(needed - before, 0)
        same = same and out[i] == -(-size[i] // stride) and before == max(needed, 0) // 2
        valid = valid and before == 0 and reached == 0
        found.append((before, max(after, reached)))
    if valid or (same and not (kind.startswith("avg") and attrs["count_include_pad"])):
        return None
    return tuple(found)


_PADDED: Final = tuple(f"{kind}{n}d" for kind in ("conv", "max_pool", "avg_pool") for n in (1, 2, 3))


def _pad(net: Lowered) -> Lowered:
    pads: dict[int, tuple[tuple[int, int], ...]] = {}
    for op, kind in enumerate(net.op_kinds):
        if kind in _PADDED:
            size, out = net.shape(int(net.in_idx[net.in_ptr[op]])), net.shape(int(net.out_ptr[op]))
            found = _explicit_padding(kind, net.op_attrs[op], size[2:], out[2:])
            if found is not None:
                pads[op] = found
    if not pads:
        return net
    n_ops, n = net.n_ops, len(pads)
    before = np.array(list(pads), np.int64)
    made = net.out_ptr[before]  # a pad's tensor comes before those of its op
    # Where ops and tensors of the net stand in the new one, and where the pads do.
    new_op = np.arange(n_ops) + np.searchsorted(before, np.arange(n_ops), side="right")
    new_tensor = np.arange(net.n_tensors) + np.searchsorted(made, np.arange(net.n_tensors), side="right")
    pad_op, pad_tensor = new_op[before] - 1, new_tensor[made] - 1
    names, taken = list(net.op_names), set(net.op_names)
    attrs, kinds, scopes = list(net.op_attrs), list(net.op_kinds), list(net.op_scopes)
    attr = [net.attr[net.attr_ptr[i] : net.attr_ptr[i + 1]].tolist() for i in range(n_ops)]
    source = net.in_idx[net.in_ptr[before]]
    dims = net.sizes.dims[source].copy()
    reads = [new_tensor[net.in_idx[net.in_ptr[i] : net.in_ptr[i + 1]]].tolist() for i in range(n_ops)]
    entry = operator("pad")
    added: list[tuple[str, Attrs, list[int]]] = []
    for k, (op, pad) in enumerate(pads.items()):
        name = f"{net.op_names[op]}.pad"
        while name in taken:
            name += "@pad"
        taken.add(name)
        flat = tuple(x for pair in reversed(pad) for x in pair)
        how = {"pad": flat, "mode": "constant"}
        shape = net.shape(int(source[k]))
        added.append((name, how, entry.rule.encode([shape], how)))
        for i, (a, b) in enumerate(pad):
            dims[k, 2 + i] += a + b
        attrs[op] = {**attrs[op], "padding": ((0, 0),) * len(pad)} | (
            {"ceil_mode": False} if "ceil_mode" in attrs[op] else {}
        )
        attr[op] = operator(kinds[op]).rule.encode([tuple(dims[k, : len(shape)].tolist())], attrs[op])
        reads[op][0] = int(pad_tensor[k])

    def ops(values: ArrayLike, of_pad: ArrayLike) -> I64:
        return column(np.insert(np.asarray(values), before, of_pad, axis=0))

    def tensors(values: ArrayLike, of_pad: ArrayLike) -> I64:
        return column(np.insert(np.asarray(values), made, of_pad, axis=0))

    def mixed(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
        row: list[Any] = [None] * (n_ops + n)
        for i, value in zip((*new_op.tolist(), *pad_op.tolist()), (*old, *new), strict=True):
            row[i] = value
        return row

    ptr, idx = net.before_ptr.tolist(), net.before_idx.tolist()
    waits = [[int(new_op[b]) for b in idx[ptr[i] : ptr[i + 1]]] for i in range(n_ops)]
    in_csr = csr(mixed(reads, [[int(new_tensor[t])] for t in source.tolist()]))
    attr_csr = csr(mixed(attr, [row for _, _, row in added]))
    before_csr = csr(mixed(waits, [[]] * n))
    all_dims = tensors(net.sizes.dims, dims)
    sizes = _checked_sizes(tensors(net.sizes.rank, net.sizes.rank[source]), all_dims, column(all_dims.prod(axis=1)),
                           net.batch)  # fmt: skip
    padded = Lowered(
        name=net.name, op_names=tuple(mixed(names, [name for name, _, _ in added])),
        op_kinds=tuple(mixed(kinds, ["pad"] * n)), op_scopes=tuple(mixed(scopes, [scopes[op] for op in pads])),
        op_attrs=tuple(mixed(attrs, [how for _, how, _ in added])),
        parameter_order=column([*new_op[net.parameter_order], *pad_op]),
        holds=column([(new_tensor[t], new_op[op]) for t, op in net.holds.tolist()], (len(net.holds), 2)),
        in_ptr=in_csr[0], in_idx=in_csr[1], out_ptr=column([0, *np.cumsum(ops(np.diff(net.out_ptr), 1))]),
        producer=tensors(new_op[net.producer], pad_op),
        reads=column(np.bincount(in_csr[1], minlength=net.n_tensors + n)), kind=tensors(net.kind, 0),
        is_output=tensors(net.is_output, 0), outputs=column(new_tensor[net.outputs]),
        dtype=tensors(net.dtype, net.dtype[source]), rule=ops(net.rule, entry.rule.code), attr_ptr=attr_csr[0],
        attr=attr_csr[1], macs_rule=ops(net.macs_rule, 0), weight_rule=ops(net.weight_rule, 0), owner=ops(net.owner, 1),
        tied=column([(new_op[op], role, new_op[holder]) for op, role, holder in net.tied.tolist()], (len(net.tied), 3)),
        frozen=ops(net.frozen, 0), alias=ops(net.alias, WRITES), fold=ops(net.fold, 0),
        statistics=column([(new_op[op], *row) for op, *row in net.statistics.tolist()], (len(net.statistics), 4)),
        index_bytes=ops(net.index_bytes, 0), scratch=ops(net.scratch, 0), before_ptr=before_csr[0],
        before_idx=before_csr[1], batch=net.batch, sizes=sizes, counts=_NOT_COUNTED,
    )  # fmt: skip
    return _counted(padded)
