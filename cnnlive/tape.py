"""The tape of a training step: what PyTorch's ops and backward nodes allocate, hold and let go, as flat arrays.

A graph's op becomes one or more *records*: the ops and autograd nodes that eager PyTorch makes of it. This is
where an operator's columns `saves`, `gradient` and `autocast` get their meaning; the kernel that runs the tape
(:mod:`cnnlive._kernels.backward`) knows records only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cnnlive._types import DTYPES, FLOATING, I64, ITEMSIZE, Columns, column, csr, frozen
from cnnlive.errors import AttributeValueError, GraphError
from cnnlive.lowered import Lowered, last_readers
from cnnlive.ops import Operator, operator, weights_of

if TYPE_CHECKING:
    from cnnlive._types import Attrs, Shape

__all__ = ["Carried", "Leaf", "Piece", "PieceTape", "Tape", "record", "record_piece"]

# Codes of the derivative, see cnnlive._kernels.backward.train_step.
TEMPORARY, FRESH, SAME, VIEW, NARROW, RESHAPE, SPREAD, PERMUTE, ZEROS, FREE = range(10)
LOSSES: Final = ("cross_entropy", "mse", "bce", "bce_with_logits", "l1", "smooth_l1", "output")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A parameter, or a network input that takes a gradient: where backward ends."""

    op: str
    name: str
    shape: Shape
    itemsize: int
    value: int
    trainable: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, and of its gradient."""
        return math.prod(self.shape) * self.itemsize


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tape(Columns):
    """A training step as flat arrays, at any batch.

    Attributes
    ----------
    records : tuple of (int, str)
        Graph op (-1: the loss) and the name of PyTorch's op, in the order of execution.
    leaves : tuple of Leaf
        Parameters in the order of the optimizer, then network inputs that take a gradient.
    root : int
        Value of the loss.
    root_held : int
        1: the caller of backward holds the gradient of the loss until it has ended.
    n_loss : int
        How many of the last records are the loss.
    spec, store_spec, ... : int64 arrays
        See :func:`cnnlive._kernels.backward.train_step`.
    inputs, targets : (k,) int64
        Specs of the network inputs and of the targets of the loss.
    resident : (k,) int64, bytes
        Every parameter, then every buffer and batch counter.
    saved_stores : (k,) int64
        The storages that forward makes and packs for backward, also where the loss does not lead there.
    numbers : (k,) int64
        The storages of numbers that PyTorch wraps as tensors on the host.
    read_ptr, read_idx : CSR
        Storages made by forward that each record reads.
    over, random, pinned : (n_records,) int64
        The storage that a record overwrites in place, or -1; 1 where it draws random numbers; 1 where it cannot run
        again, because an input of the network that it reads is overwritten later.
    parameter_bytes, buffer_bytes, gradient_bytes : int
        All parameters; all buffers and counters; gradients of what is trained, network inputs among it.
    """

    records: tuple[tuple[int, str], ...]
    leaves: tuple[Leaf, ...]
    root: int
    root_held: int
    n_loss: int
    spec: I64
    store_spec: I64
    store_refs: I64
    store_tensor: I64
    alloc_ptr: I64
    alloc_idx: I64
    drop_ptr: I64
    drop_idx: I64
    saved_ptr: I64
    saved_idx: I64
    edge_ptr: I64
    edge_value: I64
    edge_spec: I64
    edge_copies: I64
    out_ptr: I64
    out_value: I64
    code_ptr: I64
    code: I64
    value_spec: I64
    leaf_uses: I64
    inputs: I64
    targets: I64
    resident: I64
    saved_stores: I64
    numbers: I64
    read_ptr: I64
    read_idx: I64
    over: I64
    random: I64
    pinned: I64
    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def n_records(self) -> int:
        """Number of records."""
        return len(self.records)

    @property
    def n_dynamic(self) -> int:
        """No more storages, views and handles than this are made in backward."""
        return len(self.code) + 3 * len(self.edge_value) + len(self.out_value) + 2


@dataclass(frozen=True, slots=True)
class Carried:
    """What a piece of a net has to know of a tensor that an earlier piece made.

    Attributes
    ----------
    dtype : str
        The type it really has; under autocast not that of the graph.
    grad : bool
        Whether backward wants a gradient of it.
    layout : int
        `CONTIGUOUS`, `PERMUTED` or `STRIDED`.
    view : bool
        Whether it looks at another tensor's bytes: what runs in place on it is differentiated in another way.
    store : int
        Which of the given storages it lies in; -1: it is the network's input, which is counted apart.
    """

    dtype: str
    grad: bool
    layout: int
    view: bool
    store: int


@dataclass(frozen=True, slots=True)
class Piece:
    """How a net is a piece of a larger one, whose placeholder inputs are what earlier pieces made.

    Attributes
    ----------
    given : tuple of Carried
        The tensors of the net's first ops, which are placeholders.
    store_nbytes : tuple of int
        Bytes of each given storage.
    store_held : tuple of bool
        Whether backward nodes of earlier pieces hold it.
    handed : tuple of int
        Tensors that later pieces read: Python holds them until the piece has run.
    wanted : tuple of int
        Tensors that get a gradient from later pieces.
    last : bool
        The piece ends with the loss; its outputs are the network's.
    """

    given: tuple[Carried, ...]
    store_nbytes: tuple[int, ...]
    store_held: tuple[bool, ...]
    handed: tuple[int, ...]
    wanted: tuple[int, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class PieceTape:
    """The tape of a piece of a net; its given storages are its first ones, made by the record before the first op.

    Attributes
    ----------
    tape : Tape
    values : tuple of int
        Value of each tensor of the net.
    stores : tuple of int
        Storage of each tensor, -1: none of the piece's.
    carried : tuple of Carried
        What later pieces have to know of each tensor; ``store`` as in `stores`.
    held : frozenset of int
        Storages that backward nodes of the piece hold.
    packed : frozenset of int
        Storages that ops of the piece keep, also where the loss does not lead.
    cast_stores : tuple of int
        Storages that autocast holds until all forward is over.
    n_forward : int
        Records before the loss.
    """

    tape: Tape
    values: tuple[int, ...]
    stores: tuple[int, ...]
    carried: tuple[Carried, ...]
    held: frozenset[int]
    packed: frozenset[int]
    cast_stores: tuple[int, ...]
    n_forward: int


def record(
    net: Lowered,
    *,
    train: bool = True,
    device: str = "cuda",
    dtype: str | None = None,
    autocast: str | None = None,
    loss: str = "cross_entropy",
    aux_weight: float | None = None,
    autocast_loss: bool = False,
    frozen_ops: Collection[int] = (),
    input_gradients: bool = False,
    frames: bool = True,
    host_scalars: bool = False,
) -> Tape:
    """Record the training step of a net.

    Parameters
    ----------
    net : Lowered
    train : bool
        False: inference under ``no_grad``: nothing is kept, dropouts hand on.
    device : {"cpu", "cuda"}
        Whose kernels: dropout's mask differs.
    dtype : str, optional
        One type for everything floating. Default: as built.
    autocast : {"float16", "bfloat16"}, optional
        Mixed precision.
    loss : str
        One of `LOSSES`; ``"output"``: the net's output is the loss.
    aux_weight : float, optional
        Weight of the losses of further outputs; 0 leaves them out.
    autocast_loss : bool
        The loss is computed inside autocast, in 32 bits.
    frozen_ops : collection of int
        Ops whose parameters are not trained, beside those frozen in the graph.
    input_gradients : bool
        The network's inputs take gradients.
    frames : bool
        Eager Python's frames hold values, see :meth:`cnnlive.lowered.Lowered.frames`; otherwise a value is dropped
        after its last reader, as generated code does.
    host_scalars : bool
        Count the numbers that PyTorch wraps as tensors of 8 bytes on the host, and the gradient of the loss that
        ``loss.backward()`` holds while it runs.

    Returns
    -------
    Tape

    Notes
    -----
    O(n_ops + n_edges); some ten microseconds per op.
    """
    recorder = _Recorder(net, train, device, dtype, autocast, frozen_ops, input_gradients, frames, host_scalars)
    for op in range(net.n_ops):
        recorder.run(op)
    if train:
        recorder.autocast = autocast if autocast_loss else None
        recorder.lose(loss, aux_weight)
    return recorder.tape()


def record_piece(
    net: Lowered,
    piece: Piece,
    *,
    device: str = "cuda",
    dtype: str | None = None,
    autocast: str | None = None,
    loss: str = "cross_entropy",
) -> PieceTape:
    """Record the training step of a piece of a net; what is run before and behind it is in `piece`.

    Options and complexity as for :func:`record`.

    Raises
    ------
    GraphError
        If an op runs in place on a given tensor that is a view.
    """
    r = _Recorder(net, True, device, dtype, autocast, (), False, True, False)
    r.piece = piece
    stores = [r.store(r.bytes_of(nbytes), until=0) for nbytes in piece.store_nbytes]
    r.op = -1
    r.add("given", [], [], [], alloc=stores)
    for op in range(net.n_ops):
        r.run(op)
    if piece.last:
        r.autocast = None
        r.lose(loss, None)
    else:
        r.op = -1
        r.add("handed", [], [], [])
    tape = r.tape()
    n = net.n_tensors
    values = tuple(r.of_tensor[t] for t in range(n))
    carried = tuple(Carried(r.v_dtype[v], r.v_grad[v], r.v_layout[v], v in r.base, r.v_store[v]) for v in values)
    return PieceTape(
        tape, values, tuple(r.v_store[v] for v in values), carried,
        frozenset(tape.saved_idx.tolist()), frozenset(s for row in r.saved for s in row),
        tuple(s for s, until in enumerate(r.s_until) if until == _FORWARD_END),
        r.n_forward if piece.last else len(r.records),
    )  # fmt: skip


# Layout of a tensor, and how a gradient made anew gets its own.
CONTIGUOUS, PERMUTED, STRIDED = range(3)
AS_GRADIENT, AS_INPUT = 1, 2
# How the gradient of one input is made: code, argument, the temporaries of its expression; then the gradient's layout.
Rule = tuple[int, int, tuple[tuple[int, int, int], ...]] | tuple[int, int, tuple[tuple[int, int, int], ...], int]


class _Recorder:
    """Collects the columns of a tape."""

    def __init__(
        self,
        net: Lowered,
        train: bool,
        device: str,
        dtype: str | None,
        autocast: str | None,
        frozen_ops: Collection[int],
        input_gradients: bool,
        frames: bool,
        host_scalars: bool,
    ) -> None:
        self.net = net
        self.train = train
        self.device = device
        self.autocast = autocast
        self.frozen_ops = frozenset(frozen_ops)
        self.input_gradients = input_gradients
        self.host_scalars = host_scalars
        self.dtypes = [DTYPES[c] for c in net.dtypes(dtype).tolist()]
        self.weight_dtypes = [
            dtype if dtype is not None and DTYPES[c] in FLOATING else DTYPES[c] for c in net.weight_dtype.tolist()
        ]
        self.dims = net.sizes.dims.tolist()
        self.ranks = net.sizes.rank.tolist()
        self.in_ptr, self.in_idx, self.out_of = net.in_ptr.tolist(), net.in_idx.tolist(), net.out_ptr.tolist()
        self.last = (net.frames() if frames else last_readers(net)).tolist()
        self.is_output = net.is_output.tolist()
        self.frozen = net.frozen.tolist()
        ties = net.tied.tolist()
        self.tied = {(op, role): holder for op, role, holder in ties}
        # specs
        self.specs: dict[tuple[int, int, int, int, int], int] = {}
        self.rows: list[tuple[int, int, int, int, int]] = []
        # storages: spec, and the last record or graph op during which Python holds it
        self.s_spec: list[int] = []
        self.s_until: list[int] = []
        self.s_until_op: list[int] = []
        self.s_tensor: list[int] = []
        self.numbers: set[int] = set()
        # values
        self.v_spec: list[int] = []
        self.v_store: list[int] = []
        self.v_dtype: list[str] = []
        self.v_grad: list[bool] = []
        self.v_layout: list[int] = []
        self.v_leaf: dict[int, int] = {}
        self.base: dict[int, int] = {}  # a view's value -> the value of the tensor that it looks at
        self.of_tensor: dict[int, int] = {}
        self.of_weight: dict[tuple[int, str], int] = {}
        self.casts: dict[tuple[int, str], int] = {}
        self.shape_of: dict[int, Shape] = {}
        self.cacheable: set[int] = set()  # parameters that are trained: autocast keeps their casts
        # records
        self.records: list[tuple[int, str]] = []
        self.alloc: list[list[int]] = []
        self.saved: list[tuple[int, ...]] = []
        self.edges: list[list[int]] = []
        self.edge_spec: list[list[int]] = []
        self.edge_copies: list[list[int]] = []
        self.outs: list[tuple[int, ...]] = []
        self.codes: list[list[tuple[int, int, int, int]]] = []
        self.reads: list[tuple[int, ...]] = []  # values
        self.over: list[int] = []
        self.random: set[int] = set()
        self.pinned: set[int] = set()
        self.last_record: list[int] = []
        self.leaves: list[Leaf] = []
        self.leaf_ops: list[int] = []
        self.buffer_bytes: list[tuple[int, int]] = []  # op, bytes
        self.inputs: list[int] = []
        self.targets: list[int] = []
        self.target_shapes: set[Shape] = set()
        self.root = -1
        self.n_forward = 0
        self.op = 0
        self.piece: Piece | None = None  # what runs before and behind the net, where it is part of a larger one

    # -------------------------------------------------------------- pieces

    def spec(self, tensor: int, lo: int, hi: int, k: int, without: int = -1) -> int:
        """Bytes: k times the product of dimensions lo .. hi of a tensor, without one of them."""
        row = (tensor, lo, hi, k, without)
        found = self.specs.get(row)
        if found is None:
            found = self.specs[row] = len(self.rows)
            self.rows.append(row)
        return found

    def bytes_of(self, n: int) -> int:
        """Spec of a fixed number of bytes."""
        return self.spec(0, 0, 0, n)

    def full(self, tensor: int, k: int) -> int:
        """Spec of k bytes per element of a tensor."""
        return self.spec(tensor, 0, 6, k)

    def scaled(self, spec: int, k: int) -> int:
        """Spec of the same elements at k bytes each, whatever they were."""
        tensor, lo, hi, _, without = self.rows[spec]
        return self.spec(tensor, lo, hi, k, without)

    def store(self, spec: int, until: int | None = None) -> int:
        """Make a storage, held by Python through this record at least."""
        self.s_spec.append(spec)
        self.s_until.append(len(self.records) if until is None else until)
        self.s_until_op.append(-1)
        self.s_tensor.append(-1)
        return len(self.s_spec) - 1

    def number(self) -> int:
        """Make the storage of a number that PyTorch wraps as a tensor on the host."""
        store = self.store(self.bytes_of(8))
        self.numbers.add(store)
        return store

    def size(self, spec: int) -> int:
        """Bytes of a spec at the batch of the net."""
        tensor, low, high, k, without = self.rows[spec]
        return k * math.prod([int(self.dims[tensor][d]) for d in range(low, high) if d != without])

    def looks(self, views: Sequence[int], source: int) -> None:
        """Note that values are views of another, as far as autograd goes."""
        self.base.update(dict.fromkeys(views, self.base.get(source, source)))

    def value(self, spec: int, dtype: str, store: int, grad: bool, layout: int = CONTIGUOUS) -> int:
        """Make a tensor as autograd sees it."""
        self.v_layout.append(layout)
        self.v_spec.append(spec)
        self.v_store.append(store)
        self.v_dtype.append(dtype)
        self.v_grad.append(grad)
        return len(self.v_spec) - 1

    def add(
        self,
        name: str,
        ins: Sequence[int],
        outs: Sequence[int],
        rules: Sequence[Rule | None],
        *,
        alloc: Sequence[int] = (),
        saves: Sequence[int] = (),
        copies: Collection[int] = (),
        before: Sequence[tuple[int, int, int]] = (),
        over: int = -1,
        into: int = -1,
        random: bool = False,
    ) -> None:
        """Add a record: `rules` say how each input gets its gradient; `alloc` and `saves` are storages.

        `over` is the value that the op overwrites, if it runs in place: the first of `ins`. `into` is a value whose
        bytes it overwrites although autograd sees no op in place.
        """
        if over in self.base:
            if self.base[over] == _ELSEWHERE:
                raise GraphError(
                    f"{self.net.op_names[self.op]} ({name}) runs in place on a view that an earlier slot made"
                )
            if any(rule is not None and self.v_grad[v] for v, rule in zip(ins, rules, strict=False)):
                self._add_over_view(name, ins, outs, rules, alloc, saves, before)
                return
            self.base.update(dict.fromkeys(outs, self.base[over]))
        edges: list[int] = []
        specs: list[int] = []
        copied: list[int] = []
        code: list[tuple[int, int, int, int]] = []
        v_grad, v_spec = self.v_grad, self.v_spec
        for i, rule in enumerate(rules):
            if rule is None or not v_grad[ins[i]]:
                continue
            what, argument, temporaries, *layout = rule
            slot = len(edges)
            edges.append(ins[i])
            copied.append(1 if i in copies else 0)
            if temporaries:
                code += [(*t, 0) for t in temporaries]
            if what in (FRESH, RESHAPE):
                specs.append(argument)
            elif what in (SAME, VIEW, PERMUTE):
                specs.append(v_spec[outs[argument]] if what == SAME else v_spec[ins[i]])
            else:
                specs.append(v_spec[ins[i]])
            code.append((what, slot, argument, layout[0] if layout else 0))
            if temporaries:
                code.append((FREE, 0, 0, 0))
        written = over if over >= 0 else into
        if written >= 0 and self.v_store[written] < 0:
            # What reads an input of the network before it is overwritten finds another one when it runs again.
            weights = set(self.of_weight.values())
            self.pinned.update(
                p for p, row in enumerate(self.reads) if any(self.v_store[v] < 0 and v not in weights for v in row)
            )
            self.pinned.add(len(self.records))
        if random:
            self.random.add(len(self.records))
        self.reads.append(tuple(ins))
        self.over.append(self.v_store[written] if written >= 0 else -1)
        self.records.append((self.op, name))
        self.alloc.append(list(alloc))
        if edges:
            self.saved.append(tuple(dict.fromkeys(s for s in saves if s >= 0)))
            self.codes.append([*((*t, 0) for t in before), *code])
        else:
            self.saved.append(())
            self.codes.append([])
        self.edges.append(edges)
        self.edge_spec.append(specs)
        self.edge_copies.append(copied)
        self.outs.append(tuple(outs) if edges else ())

    def _add_over_view(
        self,
        name: str,
        ins: Sequence[int],
        outs: Sequence[int],
        rules: Sequence[Rule | None],
        alloc: Sequence[int],
        saves: Sequence[int],
        before: Sequence[tuple[int, int, int]],
    ) -> None:
        """Add an op that runs in place on a view: its node becomes one of the tensor that the view looks at.

        That node copies the gradient of the whole, clones the view's part of it, derives the op on the clone and
        writes the result back (torch/csrc/autograd/custom_function.cpp, CopySlices). The view itself becomes a new
        view of the whole.
        """
        base = self.base[ins[0]]
        whole, part = self.v_spec[base], self.v_spec[ins[0]]
        made = [*before]
        first, *others = rules
        handed = any(r is not None and r[0] == SAME and self.v_grad[v] for v, r in zip(ins[1:], others, strict=True))
        if not handed:
            made.append((TEMPORARY, part, 0))
        if first is not None:
            made += [*first[2], *([] if first[0] == SAME else [(TEMPORARY, part, 0)])]
        if not self.v_grad[base]:
            made.append((TEMPORARY, whole, 0))
        new = self.value(whole, self.v_dtype[base], self.v_store[base], True)
        given = [(FRESH, part, ()) if r is not None and r[0] == SAME else r for r in others]
        self.add(name, [base, *ins[1:]], [new], [(FRESH, whole, ()), *given], alloc=alloc, saves=saves, before=made,
                 into=base)  # fmt: skip
        for v in outs:
            self.base[v] = new
        self.add("as_strided", [new], outs, [(FRESH, whole, ())])

    # -------------------------------------------------------------- weights

    def weight(self, op: int, role: str, name: str, shape: Shape, trainable: bool) -> int:
        """Return the value of a parameter or buffer; shared ones are one value."""
        holder = self.tied.get((op, _ROLES.index(role)), op)
        if holder != op:
            found = self._held(holder, role, math.prod(shape))
            if found is not None:
                self.of_weight[op, name] = found
                return found
        key = (op, name)
        value = self.of_weight.get(key)
        if value is None:
            dtype = self.weight_dtypes[op]
            spec = self.bytes_of(math.prod(shape) * ITEMSIZE[dtype])
            trainable = trainable and op not in self.frozen_ops and dtype in FLOATING
            grad = self.train and trainable
            value = self.of_weight[key] = self.value(spec, dtype, -1, grad)
            self.shape_of[value] = shape
            if trainable:
                self.cacheable.add(value)
            if role in ("weight", "bias"):
                if grad:
                    self.v_leaf[value] = len(self.leaves)
                self.leaves.append(Leaf(self.net.op_names[op], name, shape, ITEMSIZE[dtype], value, grad))
                self.leaf_ops.append(op)
        return value

    def _held(self, holder: int, role: str, n: int) -> int | None:
        mine = [(name, v) for (op, name), v in self.of_weight.items() if op == holder]
        for name, v in mine:
            if name == role:
                return v
        for leaf in self.leaves:
            if any(leaf.value == v for _, v in mine) and math.prod(leaf.shape) == n:
                return leaf.value
        return None

    def weights(self, op: int, entry: Operator, attrs: Attrs) -> list[int]:
        """Return the values of an op's parameters, and of a constant that is an operand."""
        if entry.weights == "none":
            return []
        shapes = [tuple(self.dims[t][: self.ranks[t]]) for t in self.in_idx[self.in_ptr[op] : self.in_ptr[op + 1]]]
        still = self.frozen[op]
        parameters = []
        for w in weights_of(entry, shapes, attrs):
            role = _ROLES.index(w.role)
            if role < 2:
                parameters.append(self.weight(op, w.role, w.name, w.shape, not still[role]))
                continue
            if (op, role) not in self.tied:
                self.buffer_bytes.append((op, math.prod(w.shape) * ITEMSIZE[w.dtype or self.weight_dtypes[op]]))
            # Running statistics and counters take no part in backward; a constant may be an operand.
            if entry.name == "parameter":
                parameters.append(self.weight(op, w.role, w.name, w.shape, False))
        return parameters

    # -------------------------------------------------------------- types

    def cast(self, value: int, dtype: str) -> int:
        """Return the value in another type; autocast keeps the cast of a leaf until it ends."""
        if self.v_dtype[value] == dtype or self.v_dtype[value] not in FLOATING:
            return value
        cached = value in self.cacheable
        if cached and (value, dtype) in self.casts:
            return self.casts[value, dtype]
        spec = self.scaled_bytes(self.v_spec[value], ITEMSIZE[self.v_dtype[value]], ITEMSIZE[dtype])
        store = self.store(spec, until=len(self.records) + 1)
        if cached:
            self.s_until[store] = _FORWARD_END
        out = self.value(spec, dtype, store, self.v_grad[value])
        self.add("_to_copy", [value], [out], [(FRESH, self.v_spec[value], ())], alloc=[store])
        if cached:
            self.casts[value, dtype] = out
        return out

    def scaled_bytes(self, spec: int, old: int, new: int) -> int:
        """Spec of as many elements in another type."""
        tensor, lo, hi, k, without = self.rows[spec]
        return self.spec(tensor, lo, hi, k * new // old, without)

    # -------------------------------------------------------------- ops

    def run(self, op: int) -> None:
        """Record one op of the graph."""
        self.op = op
        kind = self.net.op_kinds[op]
        entry = operator(kind)
        attrs = self.net.op_attrs[op]
        reads = self.in_idx[self.in_ptr[op] : self.in_ptr[op + 1]]
        written = range(self.out_of[op], self.out_of[op + 1])
        if kind == "input" and self.piece is not None and op < len(self.piece.given):
            self.give(op, self.piece.given[op])
        elif kind == "input":
            tensor = written[0]
            dtype = self.dtypes[tensor]
            spec = self.full(tensor, ITEMSIZE[dtype])
            value = self.value(spec, dtype, -1, self.train and self.input_gradients and dtype in FLOATING)
            if self.v_grad[value]:
                self.v_leaf[value] = len(self.leaves)
                shape = tuple(self.dims[tensor][: self.ranks[tensor]])
                self.leaves.append(Leaf(self.net.op_names[op], "input", shape, ITEMSIZE[dtype], value, True))
                self.leaf_ops.append(op)
            self.inputs.append(spec)
            self.of_tensor[tensor] = value
        elif kind == "parameter":
            self.of_tensor[written[0]] = self.weights(op, entry, attrs)[0]
        else:
            ins = [self.of_tensor[t] for t in reads]
            parameters = self.weights(op, entry, attrs)
            outs = self.derive(op, entry, attrs, reads, written, ins, parameters)
            for t, v in zip(written, outs, strict=True):
                self.of_tensor[t] = v
                s = self.v_store[v]
                if s >= 0:
                    self.s_until_op[s] = max(self.s_until_op[s], self.last[t])
                    if self.s_tensor[s] < 0:
                        self.s_tensor[s] = t
                    self.keep(t, s)
        self.last_record.append(len(self.records) - 1)

    def keep(self, tensor: int, store: int) -> None:
        """Hold the storage of an output: of the network's to the end, of a piece's until the piece has run."""
        if self.piece is not None and not self.piece.last:
            if tensor in self.piece.handed:
                self.s_until[store] = _PIECE_END
        elif self.is_output[tensor]:
            self.s_until[store] = _END

    def give(self, op: int, given: Carried) -> None:
        """Make the value of a placeholder, whose storage is there already."""
        tensor = self.out_of[op]
        value = self.value(self.full(tensor, ITEMSIZE[given.dtype]), given.dtype, given.store, given.grad, given.layout)
        self.of_tensor[tensor] = value
        if given.view:
            self.base[value] = _ELSEWHERE
        if given.store >= 0:
            self.s_until_op[given.store] = max(self.s_until_op[given.store], self.last[tensor])
            self.s_tensor[given.store] = tensor
            self.keep(tensor, given.store)

    def derive(
        self,
        op: int,
        entry: Operator,
        attrs: Attrs,
        reads: Sequence[int],
        written: Sequence[int],
        ins: list[int],
        parameters: list[int],
    ) -> list[int]:
        """Record an op by its `gradient` rule and return the values of its outputs."""
        # A resize by areas is a pool.
        if self.autocast is not None and entry.autocast and attrs.get("mode") != "area":
            ins, parameters = self.autocasts(entry, ins, parameters)
        rule = _RULES.get(entry.gradient)
        if rule is None:
            raise AttributeValueError(
                f"{self.net.op_names[op]} ({entry.name}): gradient={entry.gradient!r}; allowed: "
                f"{', '.join(map(repr, _RULES))}"
            )
        return rule(self, _Op(op, entry, attrs, reads, written, ins, parameters))

    def autocasts(self, entry: Operator, ins: list[int], parameters: list[int]) -> tuple[list[int], list[int]]:
        """Cast what an op reads as autocast does."""
        target = entry.autocast_type(str(self.autocast), [self.v_dtype[v] for v in ins])
        first = len(self.s_spec)
        # The compilers that PyTorch is built with evaluate arguments from right to left.
        made = [self.cast(v, target) for v in reversed([*ins, *parameters])][::-1]
        # What is cast is held until the op itself has run, whose record comes next.
        for s in range(first, len(self.s_spec)):
            if self.s_until[s] >= 0:
                self.s_until[s] = len(self.records)
        return made[: len(ins)], made[len(ins) :]

    def output(self, x: _Op, k: int, dtype: str, grad: bool, *, shares: int = -1, layout: int = CONTIGUOUS) -> int:
        """Make the value of output k: new bytes, or those of a value that it shares them with."""
        spec = self.full(x.written[k], ITEMSIZE[dtype])
        store = self.store(spec) if shares < 0 else self.v_store[shares]
        return self.value(spec, dtype, store, grad, layout)

    def layout_of(self, x: _Op) -> int:
        """Return the layout that an op gives its output: that of its input, where it has one to follow."""
        if x.entry.shape == "broadcast":
            whole = self.dims[x.written[0]]
            sources = [v for t, v in zip(x.reads, x.ins, strict=True) if self.dims[t] == whole]
        else:
            sources = x.ins[:1] if x.entry.shape in _FOLLOW and x.entry.name not in _CONTIGUOUS else []
        return PERMUTED if sources and self.v_layout[sources[0]] == PERMUTED else CONTIGUOUS

    def result_dtype(self, x: _Op, k: int = 0) -> str:
        """Type of an output: as built, unless autocast has changed the inputs' types."""
        built: str = self.dtypes[x.written[k]]
        if self.autocast is None or built not in FLOATING or x.entry.dtype == "attribute":
            return built
        floating = [self.v_dtype[v] for v in (x.ins if x.entry.dtype == "promote" else x.ins[:1])]
        floating = [d for d in floating if d in FLOATING]
        return max(floating, key=lambda d: ITEMSIZE[d]) if floating else built

    def kept(self, x: _Op, out: int, own: Sequence[int] = ()) -> list[int]:
        """Storages that the table says the op keeps; its own, made in forward, are in `own`."""
        stores = []
        partner = {"mul": (1, 0), "div": (1, 0), "addcmul": (0, 2, 1)}.get(x.entry.name)
        for what in x.entry.saved(x.attrs):
            if what.startswith("input"):
                i = int(what[5:] or 0)
                # A factor is kept for its partner's gradient.
                if i < len(x.ins) and (partner is None or self.v_grad[x.ins[partner[i]]]):
                    stores.append(self.v_store[x.ins[i]])
            elif what == "output":
                stores.append(self.v_store[out])
            elif what == "weight":
                # A weight of its own, or one that was computed and is its second input.
                stores += [self.v_store[v] for v in [*x.ins[1:], *x.parameters][:1]]
        return [*stores, *own]

    def owned(self, x: _Op) -> list[int]:
        """Make the storages that an op writes beside its outputs."""
        own: list[int] = []
        for what in x.entry.saved(x.attrs):
            if what == "statistics" and not self.train and x.entry.name.startswith("batch_norm"):
                continue
            if what == "indices" and len(x.written) == 1:
                own.append(self.store(self.full(x.written[0], 8)))
            elif what == "statistics":
                t, name = x.reads[0], x.entry.name
                # On CUDA in 32 bits at least; on a CPU in the type of the weights.
                stores = x.attrs.get("track_running_stats") and not x.parameters
                kind = self.weight_dtypes[x.op] if stores else self.v_dtype[[*x.parameters, x.ins[0]][0]]
                width = ITEMSIZE[kind] if self.device == "cpu" or kind == "float64" else 4
                if name.startswith("batch_norm"):
                    rows = self.spec(t, 1, 2, width)
                elif name == "layer_norm":
                    rows = self.spec(t, 0, self.ranks[t] - len(x.attrs["normalized_shape"]), width)
                elif name == "group_norm":
                    rows = self.spec(t, 0, 1, width * x.attrs["num_groups"])
                else:
                    rows = self.spec(t, 0, 2, width)
                own += [self.store(rows), self.store(rows)]
            elif what == "clone" and self.train and any(self.v_grad[v] for v in x.ins):
                own.append(self.store(self.v_spec[x.ins[0]]))
        return own

    # -------------------------------------------------------------- the loss

    def lose(self, loss: str, aux_weight: float | None) -> None:
        """Record the loss on the outputs of the net."""
        net = self.net
        self.op = -1
        self.n_forward = len(self.records)
        tensors = net.outputs.tolist()
        outs = [self.of_tensor[t] for t in tensors]
        if loss not in LOSSES:
            raise GraphError(f"loss={loss!r}; allowed: {', '.join(map(repr, LOSSES))}")
        if aux_weight == 0:
            tensors, outs = tensors[:1], outs[:1]
        parts = [self._one_loss(loss, t, v) for t, v in zip(tensors, outs, strict=True)]
        total = parts[0]
        if len(parts) > 1:
            # main + weight * (aux1 + aux2 + ...)
            rest = parts[1]
            for more in parts[2:]:
                rest = self._scalar("add", [rest, more], SAME)
            if aux_weight != 1:
                rest = self._scalar("mul", [rest], FRESH)
            total = self._scalar("add", [total, rest], SAME)
        if not self.v_grad[total]:
            raise GraphError(f"{net.name or 'the network'} has no parameter that takes a gradient")
        self.root = total
        for s, until in enumerate(self.s_until):
            if until == _LOSS_END:
                self.s_until[s] = len(self.records) - 1
        if self.v_store[total] >= 0:
            self.s_until[self.v_store[total]] = _END

    def _scalar(self, name: str, ins: list[int], how: int) -> int:
        spec = self.v_spec[ins[0]]
        number = [self.number()] if self.host_scalars and name == "mul" else []
        store = self.store(spec, until=_LOSS_END)
        out = self.value(spec, self.v_dtype[ins[0]], store, any(self.v_grad[v] for v in ins))
        rules: list[Rule] = [(how, 0 if how == SAME else spec, ()) for _ in ins]
        self.add(name, ins, [out], rules, alloc=[*number, store], saves=number)
        return out

    def target(self, shape: Shape, spec: int) -> None:
        """Add what a loss compares with; losses that compare with the same shape share it."""
        if shape not in self.target_shapes:
            self.target_shapes.add(shape)
            self.targets.append(spec)

    def _one_loss(self, loss: str, tensor: int, value: int) -> int:
        if loss == "output":
            return value
        dims, rank = self.dims[tensor], self.ranks[tensor]
        if self.autocast is not None:
            value = self.cast(value, "float32")
        dtype = self.v_dtype[value]
        item = ITEMSIZE[dtype]
        full = self.full(tensor, item)
        scalar = self.bytes_of(item)
        grad = self.v_grad[value]
        if loss == "cross_entropy":
            if rank < 2:
                raise GraphError(
                    f"loss='cross_entropy' needs class scores; the output {self.net.tensor_name(tensor)} has shape "
                    f"{tuple(dims[:rank])}"
                )
            self.target((dims[0], *dims[2:]), self.spec(tensor, 0, 6, 8, 1))
            store = self.store(full, until=len(self.records) + 1)
            scores = self.value(full, dtype, store, grad)
            self.add("_log_softmax", [value], [scores], [(FRESH, full, ())], alloc=[store], saves=[store])
            weight = self.store(scalar)
            made = self.store(scalar, until=_LOSS_END)
            out = self.value(scalar, dtype, made, grad)
            name = "nll_loss_forward" if rank == 2 else "nll_loss2d_forward"
            self.add(name, [scores], [out], [(FRESH, full, ())], alloc=[made, weight], saves=[store, weight])
            return out
        self.target(tuple(dims), full)
        if loss == "l1":
            return self._l1_loss(value, full, scalar)
        # The kernels of these make the loss of every element in the storage of the result, and then shrink the tensor.
        wide = loss in ("mse", "smooth_l1", "bce")
        made = self.store(full if wide else scalar, until=_LOSS_END)
        out = self.value(scalar, dtype, made, grad)
        self.add(_LOSS_OPS[loss], [value], [out], [(FRESH, full, ())], alloc=[made], saves=[self.v_store[value]])
        return out

    def _l1_loss(self, value: int, full: int, scalar: int) -> int:
        """Record mean(abs(value - target)), which PyTorch composes."""
        dtype, grad = self.v_dtype[value], self.v_grad[value]
        difference = self.store(full, until=len(self.records) + 1)
        d = self.value(full, dtype, difference, grad)
        self.add("sub", [value], [d], [(SAME, 0, ())], alloc=[difference])
        absolute = self.store(full, until=len(self.records) + 1)
        a = self.value(full, dtype, absolute, grad)
        self.add("abs", [d], [a], [(FRESH, full, ((TEMPORARY, full, 0),))], alloc=[absolute], saves=[difference])
        made = self.store(scalar, until=_LOSS_END)
        out = self.value(scalar, dtype, made, grad)
        self.add("mean", [a], [out], [(FRESH, full, ())], alloc=[made])
        return out

    # -------------------------------------------------------------- the arrays

    def tape(self) -> Tape:
        """Put the columns together."""
        n = len(self.records)
        forward_end = (self.n_forward or n) - 1
        last_record = self.last_record
        drops: list[list[int]] = [[] for _ in range(n)]
        for s, until in enumerate(self.s_until):
            if until == _END:
                continue
            end = n - 1 if until == _PIECE_END else forward_end if until == _FORWARD_END else until
            if self.s_until_op[s] >= 0:
                end = max(end, last_record[self.s_until_op[s]])
            drops[min(end, n - 1)].append(s)
        inner = self.piece is not None and not self.piece.last
        wanted = self.piece.wanted if self.piece is not None and inner else ()
        reached = self._reached([self.of_tensor[t] for t in wanted] if inner else [self.root])
        saved = [row if p in reached else () for p, row in enumerate(self.saved)]
        refs = [1] * len(self.s_spec)
        for row in saved:
            for s in row:
                refs[s] += 1
        # An output that is in no loss holds what its backward would read, for as long as it lives itself.
        for p in self._reached([self.of_tensor[t] for t in self.net.outputs.tolist()]) - reached if not inner else ():
            for s in self.saved[p]:
                refs[s] += 1
        for s, held in enumerate(self.piece.store_held if self.piece is not None else ()):
            refs[s] += held
        uses = [0] * len(self.v_spec)
        for p in reached:
            for v in self.edges[p]:
                if v in self.v_leaf:
                    uses[v] += 1
        kept = sorted({s for row in self.saved for s in row} - self.numbers)
        alloc_ptr, alloc_idx = csr(self.alloc)
        drop_ptr, drop_idx = csr(drops)
        saved_ptr, saved_idx = csr(saved)
        edge_ptr, edge_value = csr(self.edges)
        out_ptr, out_value = csr(self.outs)
        read_ptr, read_idx = csr([
            sorted({self.v_store[v] for v in row if self.v_store[v] >= 0}) for row in self.reads
        ])  # fmt: skip
        code_ptr = frozen(np.array([0, *accumulate(map(len, self.codes))], np.int64))
        code = [c for row in self.codes for c in row]
        rank = np.argsort(self.net.parameter_order, kind="stable").tolist()
        order = sorted(
            range(len(self.leaves)),
            key=lambda i: rank[self.leaf_ops[i]] if self.leaves[i].name != "input" else self.net.n_ops,
        )
        # What the loss does not reach gets no gradient, whatever it asks for.
        leaves = tuple(
            f if not f.trainable or uses[f.value] else replace(f, trainable=False)
            for f in (self.leaves[i] for i in order)
        )
        parameters = [f.nbytes for f in leaves if f.name != "input"]
        buffers = [nbytes for _, nbytes in sorted(self.buffer_bytes, key=lambda b: rank[b[0]])]
        return Tape(
            records=tuple(self.records), leaves=leaves, root=self.root, root_held=int(self.host_scalars),
            n_loss=n - self.n_forward if self.n_forward else 0,
            spec=column(self.rows, (len(self.rows), 5)), store_spec=column(self.s_spec),
            store_refs=column(refs), store_tensor=column(self.s_tensor),
            alloc_ptr=alloc_ptr, alloc_idx=alloc_idx, drop_ptr=drop_ptr, drop_idx=drop_idx, saved_ptr=saved_ptr,
            saved_idx=saved_idx, edge_ptr=edge_ptr, edge_value=edge_value, edge_spec=csr(self.edge_spec)[1],
            edge_copies=csr(self.edge_copies)[1], out_ptr=out_ptr, out_value=out_value, code_ptr=code_ptr,
            code=column(code, (len(code), 4)), value_spec=column(self.v_spec), leaf_uses=column(uses),
            inputs=column(self.inputs), targets=column(self.targets), saved_stores=column(kept),
            numbers=column(sorted(self.numbers)),
            read_ptr=read_ptr, read_idx=read_idx, over=column(self.over),
            random=column([int(p in self.random) for p in range(n)]),
            pinned=column([int(p in self.pinned) for p in range(n)]),
            resident=column(parameters + buffers), parameter_bytes=sum(parameters),
            buffer_bytes=sum(buffers),
            gradient_bytes=sum(f.nbytes for f in leaves if f.trainable),
        )  # fmt: skip

    def _reached(self, roots: Sequence[int]) -> set[int]:
        """Return the records whose backward node some of these values lead to."""
        reached: set[int] = set()
        wanted = {v for v in roots if v >= 0}
        for p in range(len(self.records) - 1, -1, -1):
            if any(v in wanted for v in self.outs[p]):
                reached.add(p)
                wanted.update(self.edges[p])
        return reached


_ROLES: Final = ("weight", "bias", "buffer", "counter")
# Ends that are known only when all is recorded.
_END, _FORWARD_END, _LOSS_END, _PIECE_END = -1, -2, -3, -4
_ELSEWHERE: Final = -1  # what a given view looks at is no value of the piece
_LOSS_OPS: Final = {
    "mse": "mse_loss",
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "smooth_l1": "smooth_l1_loss",
}


@dataclass(slots=True)
class _Op:
    """One op of the graph, as its rule sees it."""

    op: int
    entry: Operator
    attrs: Attrs
    reads: Sequence[int]
    written: Sequence[int]
    ins: list[int]
    parameters: list[int]


def _name(x: _Op) -> str:
    return x.entry.name + ("_" if x.attrs.get("inplace") else "")


def _grad(r: _Recorder, x: _Op) -> bool:
    return any(r.v_grad[v] for v in x.ins) or any(r.v_grad[v] for v in x.parameters)


def _fresh(r: _Recorder, x: _Op) -> list[int]:
    """Record one node that makes a new gradient for every input and parameter."""
    if x.entry.name == "as_strided" and x.ins[0] in r.base:
        # What a view looks at, or another view of that.
        base = r.base[x.ins[0]]
        if r.size(r.v_spec[base]) == r.size(r.full(x.written[0], ITEMSIZE[r.v_dtype[base]])):
            return [base]
        x.ins[0] = base
    grad = _grad(r, x)
    shares = x.ins[0] if x.attrs.get("inplace") or x.entry.alias == "view" else -1
    layout = r.layout_of(x)
    outs = [r.output(x, k, r.result_dtype(x, k) if k == 0 or not x.entry.indices else "int64",
                     grad and not (k and x.entry.indices), shares=shares, layout=layout)
            for k in range(len(x.written))]  # fmt: skip
    own = r.owned(x)
    alloc = [*([] if shares >= 0 else [r.v_store[v] for v in outs]), *own]
    values = [*x.ins, *x.parameters]
    # The kernels of these two take the kept tensor first, those of other elementwise ops the gradient.
    kept_first = x.entry.name in ("relu", "leaky_relu")
    as_gradient = x.entry.alias == "elementwise" and not values[1:] and not kept_first
    follows = AS_GRADIENT if as_gradient else layout and AS_INPUT
    rules: list[Rule | None] = [(FRESH, r.v_spec[v], (), follows if i == 0 else 0) for i, v in enumerate(values)]
    further = [r.v_store[v] for v in outs[1:]] if x.entry.indices else []
    r.add(_name(x), values, outs[:1] if x.entry.indices else outs, rules, alloc=alloc,
          saves=r.kept(x, outs[0], [*own, *further]), copies=_relaid(r, x, values),
          over=-1 if x.entry.alias == "view" else shares)  # fmt: skip
    if x.entry.alias == "view":
        r.looks(outs, x.ins[0])
    return outs


def _relaid(r: _Recorder, x: _Op, values: Sequence[int]) -> tuple[int, ...]:
    """Which gradients come in another layout than their parameter: that of a kernel on channels-last input."""
    if x.entry.shape != "conv" or r.v_layout[x.ins[0]] != PERMUTED or values[1] not in r.shape_of:
        return ()
    _, channels, *kernel = r.shape_of[values[1]]
    return (1,) if channels > 1 and math.prod(kernel) > 1 else ()


def _broadcast(r: _Recorder, x: _Op) -> list[int]:
    """Record a product: every gradient is made at the output's size and then summed to the input's."""
    return _binary(r, x, lambda out: [(FRESH, out, ())] * (len(x.ins) + len(x.parameters)))


def _binary(r: _Recorder, x: _Op, rules: Callable[[int], Sequence[Rule | None]]) -> list[int]:
    shares = x.ins[0] if x.attrs.get("inplace") else -1
    own = r.owned(x)
    layout = r.v_layout[shares] if shares >= 0 else CONTIGUOUS if x.entry.name == "contiguous" else r.layout_of(x)
    out = r.output(x, 0, r.result_dtype(x), _grad(r, x), shares=shares, layout=layout)
    alloc = [*own, *([r.v_store[out]] if shares < 0 else [])]
    # Gradients are laid out as the one that comes in.
    made = [rule and ((*rule[:3], AS_GRADIENT) if rule[0] == FRESH else rule) for rule in rules(r.v_spec[out])]
    r.add(_name(x), [*x.ins, *x.parameters], [out], made, alloc=alloc, saves=r.kept(x, out, own),
          over=shares)  # fmt: skip
    return [out]


def _same(r: _Recorder, x: _Op) -> list[int]:
    """Record a sum or a copy: the incoming gradient itself goes to every input."""
    if x.entry.alias == "view":
        return _view(r, x, SAME)
    return _binary(r, x, lambda _out: [(SAME, 0, ())] * len(x.ins))


def _sub(r: _Recorder, x: _Op) -> list[int]:
    return _binary(r, x, lambda out: [(SAME, 0, ()), (FRESH, out, ())])


def _div(r: _Recorder, x: _Op) -> list[int]:
    # of the divisor: -grad * ((a / b) / b), one expression
    return _binary(r, x, lambda out: [(FRESH, out, ()), (FRESH, out, ((TEMPORARY, out, 0),) * 2)])


def _addcmul(r: _Recorder, x: _Op) -> list[int]:
    # of a factor: grad * (the other factor * value)
    a, b = (r.v_spec[v] for v in x.ins[1:])
    return _binary(r, x, lambda out: [(SAME, 0, ()), (FRESH, out, ((TEMPORARY, b, 0),)),
                                      (FRESH, out, ((TEMPORARY, a, 0),))])  # fmt: skip


def _extremum(r: _Recorder, x: _Op) -> list[int]:
    def rules(out: int) -> list[Rule | None]:
        mask = r.scaled(out, 1)
        return [(FRESH, out, ((TEMPORARY, mask, 0), (TEMPORARY, out, 0), (TEMPORARY, mask, 0)))] * 2

    return _binary(r, x, rules)


def _pow(r: _Recorder, x: _Op) -> list[int]:
    def rules(out: int) -> list[Rule | None]:
        zero, mask = r.bytes_of(r.rows[out][3]), r.scaled(out, 1)
        return [(FRESH, out, tuple((TEMPORARY, s, 0) for s in (zero, mask, out, out, out, out)))] * 2

    return _binary(r, x, rules)


def _unary(r: _Recorder, x: _Op, temporaries: Callable[[int], Sequence[int]]) -> list[int]:
    """Record one node with temporaries in its expression."""
    return _binary(r, x, lambda out: [(FRESH, r.v_spec[x.ins[0]], tuple((TEMPORARY, s, 0) for s in temporaries(out)))])


def _temporary(r: _Recorder, x: _Op) -> list[int]:
    return _unary(r, x, lambda out: (out,))


def _reciprocal(r: _Recorder, x: _Op) -> list[int]:
    return _unary(r, x, lambda out: (out, out))


def _erf(r: _Recorder, x: _Op) -> list[int]:
    return _unary(r, x, lambda out: (out, out, out, out))


def _clip(r: _Recorder, x: _Op) -> list[int]:
    # a zero, and a mask per bound
    bounds = sum(x.attrs[bound] is not None for bound in ("min", "max"))
    return _unary(r, x, lambda out: (r.bytes_of(r.rows[out][3]), *(r.scaled(out, 1),) * bounds))


def _amax(r: _Recorder, x: _Op) -> list[int]:
    # where(x == max), how many those are, and the gradient divided by it
    whole = r.v_spec[x.ins[0]]
    return _unary(r, x, lambda out: (r.scaled(whole, 1), r.scaled(out, 8), out))


def _vector_norm(r: _Recorder, x: _Op) -> list[int]:
    # x / norm, and where(norm == 0)
    whole = r.v_spec[x.ins[0]]
    return _unary(r, x, lambda out: (whole, r.scaled(out, 1)))


def _scale(r: _Recorder, x: _Op) -> list[int]:
    """Record a product with a number, a sum with one, or both; such a number is a tensor of 8 bytes on the host."""
    values = x.ins
    reverse = x.attrs["factor"] == -1.0 and x.attrs["offset"] != 0.0  # a number minus x: one op
    for name, how, given in (
        ("rsub", FRESH, reverse),
        ("mul", FRESH, not reverse and (x.attrs["factor"] != 1.0 or x.attrs["offset"] == 0.0)),
        ("add", SAME, not reverse and x.attrs["offset"] != 0.0),
    ):
        if not given:
            continue
        shares = values[0] if x.attrs["inplace"] else -1
        if values is not x.ins and shares < 0:
            r.s_until[r.v_store[values[0]]] = len(r.records)  # the expression holds the product while it adds
        out = r.output(x, 0, r.v_dtype[values[0]], _grad(r, x), shares=shares, layout=r.v_layout[values[0]])
        number = [r.number()] if r.host_scalars else []
        alloc = [*number, *([] if shares >= 0 else [r.v_store[out]])]
        r.add(name, values, [out], [(how, 0 if how == SAME else r.v_spec[out], (), AS_GRADIENT)], alloc=alloc,
              saves=number if name == "mul" else (), over=shares)  # fmt: skip
        values = [out]
    return values


def _view(r: _Recorder, x: _Op, how: int) -> list[int]:
    grad = _grad(r, x)
    layout = r.v_layout[x.ins[0]]
    layout = (PERMUTED, CONTIGUOUS, STRIDED)[layout] if how == PERMUTE else STRIDED if how == SAME else layout
    outs = [r.output(x, k, r.v_dtype[x.ins[0]], grad, shares=x.ins[0], layout=layout) for k in range(len(x.written))]
    argument = r.v_spec[x.ins[0]] if how == RESHAPE else 0
    r.add(_name(x), x.ins, outs, [(how, argument, ())])
    r.looks(outs, x.ins[0])
    return outs


def _reshape(r: _Recorder, x: _Op) -> list[int]:
    # A dimension can be taken apart however it lies: what only joins dimensions has a view as its gradient.
    return _view(r, x, VIEW if _only_joins(r.dims[x.reads[0]], r.dims[x.written[0]]) else RESHAPE)


def _only_joins(shape: Sequence[int], result: Sequence[int]) -> bool:
    """Whether a reshape does nothing but join neighbouring dimensions; the batch stays as it is."""
    if shape[0] != result[0]:
        return False
    rest = [d for d in shape[1:] if d != 1]
    for d in result[1:]:
        size = 1
        while size < d and rest:
            size *= rest.pop(0)
        if size != d:
            return False
    return not rest


def _permute(r: _Recorder, x: _Op) -> list[int]:
    return _view(r, x, PERMUTE)


def _spread(r: _Recorder, x: _Op) -> list[int]:
    return _binary(r, x, lambda _out: [(SPREAD, 0, ())])


def _identity(_r: _Recorder, x: _Op) -> list[int]:
    return x.ins[:1]


def _none(r: _Recorder, x: _Op) -> list[int]:
    shares = x.ins[0] if x.entry.alias == "view" else -1
    outs = [r.output(x, k, r.dtypes[t], False, shares=shares) for k, t in enumerate(x.written)]
    r.add(_name(x), x.ins, outs, [None] * len(x.ins), alloc=[r.v_store[v] for v in outs] if shares < 0 else (),
          random=x.entry.name == "fill")  # fmt: skip
    return outs


def _narrow(r: _Recorder, x: _Op) -> list[int]:
    permuted = all(r.v_layout[v] == PERMUTED for v in x.ins)
    out = r.output(x, 0, r.result_dtype(x), _grad(r, x), layout=PERMUTED if permuted else CONTIGUOUS)
    t = x.written[0]
    axis = x.attrs["dim"] % r.ranks[t]
    before = r.spec(t, 0, axis, 1)
    r.add("cat", x.ins, [out], [(NARROW, before, ())] * len(x.ins), alloc=[r.v_store[out]])
    return [out]


def _join(r: _Recorder, x: _Op) -> list[int]:
    grad = _grad(r, x)
    outs = [r.output(x, k, r.v_dtype[x.ins[0]], grad, shares=x.ins[0], layout=STRIDED)
            for k in range(len(x.written))]  # fmt: skip
    before = [(ZEROS, k, 0) for k in range(len(outs))]
    r.add(_name(x), x.ins, outs, [(FRESH, r.v_spec[x.ins[0]], ())], before=before)
    return outs


def _slice(r: _Recorder, x: _Op) -> list[int]:
    """Record a slice: one view per dimension that it shortens, each with a node of its own."""
    t, source, dtype, grad = x.reads[0], x.ins[0], r.v_dtype[x.ins[0]], _grad(r, x)
    shape, last = list(r.dims[t]), r.dims[x.written[0]]
    asked = x.attrs["dim"] if isinstance(x.attrs["dim"], tuple) else (x.attrs["dim"],)
    cut = [d for d in (d % r.ranks[t] for d in asked) if shape[d] != last[d]]
    for d in cut[:-1] if 0 not in cut else ():
        shape[d] = last[d]
        spec = r.spec(t, 0, 1, ITEMSIZE[dtype] * math.prod(shape[1:]))
        part = r.value(spec, dtype, r.v_store[source], grad, STRIDED)
        r.add("slice", [source], [part], [(FRESH, r.v_spec[source], ())])
        r.looks([part], source)
        source = part
    out = r.output(x, 0, dtype, grad, shares=source, layout=STRIDED)
    r.add("slice", [source], [out], [(FRESH, r.v_spec[source], ())])
    r.looks([out], source)
    return [out]


def _dropout(r: _Recorder, x: _Op) -> list[int]:
    """Record dropout: on CUDA a fused op with a mask of bools, in place and on the CPU a product with noise."""
    if not r.train or x.attrs["p"] == 0:
        return x.ins[:1]
    t = x.reads[0]
    if r.device == "cuda" and not x.attrs["inplace"]:
        out = r.output(x, 0, r.v_dtype[x.ins[0]], _grad(r, x))
        mask = r.store(r.full(t, 1))
        r.add("native_dropout", x.ins, [out], [(FRESH, r.v_spec[x.ins[0]], ())], alloc=[r.v_store[out], mask],
              saves=[mask], random=True)  # fmt: skip
        return [out]
    return _times_noise(r, x, r.full(t, ITEMSIZE[r.v_dtype[x.ins[0]]]))


def _noise(r: _Recorder, x: _Op) -> list[int]:
    """Record a drop of channels or images: a product with noise of that many elements."""
    if not r.train or x.attrs["p"] == 0:
        return x.ins[:1]
    width = ITEMSIZE[r.v_dtype[x.ins[0]]]
    t = x.reads[0]
    if x.entry.name != "stochastic_depth":
        return _times_noise(r, x, r.spec(t, 0, 2, width))
    return _times_noise(r, x, r.spec(t, 0, 1, width) if x.attrs["mode"] == "row" else r.bytes_of(width))


def _times_noise(r: _Recorder, x: _Op, spec: int) -> list[int]:
    noise = r.store(spec, until=len(r.records) + 1)
    r.add("bernoulli_", [], [], [], alloc=[noise], random=True)
    drawn = r.value(spec, r.v_dtype[x.ins[0]], noise, False)
    shares = x.ins[0] if x.attrs.get("inplace") else -1
    out = r.output(x, 0, r.v_dtype[x.ins[0]], _grad(r, x), shares=shares, layout=r.v_layout[x.ins[0]])
    r.add("mul" + ("_" if shares >= 0 else ""), [*x.ins, drawn], [out],
          [(FRESH, r.v_spec[out], (), AS_GRADIENT), None], alloc=[] if shares >= 0 else [r.v_store[out]],
          saves=[noise],
          over=shares)  # fmt: skip
    return [out]


def _linear(r: _Recorder, x: _Op) -> list[int]:
    """Record a linear layer: addmm on two dimensions, on more a product on a flattened view."""
    source = x.ins[0]
    dtype, grad = r.result_dtype(x), _grad(r, x)
    flat = r.ranks[x.reads[0]] == 2
    if not flat and r.v_layout[source] == PERMUTED:
        # What cannot be seen as a matrix is copied.
        copy = r.value(r.v_spec[source], r.v_dtype[source], r.store(r.v_spec[source], len(r.records) + 1),
                       r.v_grad[source])  # fmt: skip
        r.add("clone", [source], [copy], [(SAME, 0, ())], alloc=[r.v_store[copy]])
        for v in [*x.ins, *x.parameters]:  # what autocast has cast is held until the product is there
            if r.v_store[v] >= 0 and r.s_until[r.v_store[v]] == len(r.records) - 1:
                r.s_until[r.v_store[v]] = len(r.records)
        source = copy
    out = r.output(x, 0, dtype, grad)
    weight, *bias = [*x.ins[1:], *x.parameters]
    rules: list[Rule | None] = [(FRESH, r.v_spec[source], ()), (FRESH, r.v_spec[weight], ()),
                                *[(SAME, 0, ()) for _ in bias]]  # fmt: skip
    r.add("addmm", [source, weight, *bias], [out], rules, alloc=[r.v_store[out]],
          saves=[r.v_store[source], r.v_store[weight]])  # fmt: skip
    if flat:
        return [out]
    seen = r.value(r.v_spec[out], dtype, r.v_store[out], grad)
    r.add("view", [out], [seen], [(RESHAPE, r.v_spec[out], ())])
    r.looks([seen], out)
    return [seen]


def _instance_norm(r: _Recorder, x: _Op) -> list[int]:
    """Record instance normalisation: batch normalisation over N·C channels, weight and bias repeated N times."""
    t = x.reads[0]
    width = ITEMSIZE[r.v_dtype[x.ins[0]]]
    repeated = []
    for v in x.parameters:
        spec = r.spec(t, 0, 2, width)
        store = r.store(spec, until=len(r.records) + len(x.parameters))
        value = r.value(spec, r.v_dtype[v], store, r.v_grad[v])
        r.add("repeat", [v], [value], [(FRESH, r.v_spec[v], ())], alloc=[store])
        repeated.append(value)
    grad = _grad(r, x)
    out = r.output(x, 0, r.result_dtype(x), grad)
    own = r.owned(x)
    if x.attrs["track_running_stats"]:
        own += [r.store(r.spec(t, 0, 2, width)), r.store(r.spec(t, 0, 2, width))]  # repeated as well
    values = [x.ins[0], *repeated]
    r.add("instance_norm", values, [out], [(FRESH, r.v_spec[v], ()) for v in values], alloc=[r.v_store[out], *own],
          saves=[r.v_store[x.ins[0]], *[r.v_store[v] for v in repeated[:1]], *own])  # fmt: skip
    r.base[out] = out
    return [out]


def _local_response_norm(r: _Recorder, x: _Op) -> list[int]:
    """Record what PyTorch composes local response normalisation of: x / (k + alpha · mean of x²)^beta."""
    t, source = x.reads[0], x.ins[0]
    dtype, grad = r.v_dtype[source], _grad(r, x)
    item = ITEMSIZE[dtype]
    full = r.full(t, item)
    padded = r.spec(t, 0, 6, item * (r.dims[t][1] + x.attrs["size"] - 1), 1)
    first = len(r.records)

    def step(name: str, ins: list[int], spec: int, rules: list[Rule | None], saves: Sequence[int], until: int) -> int:
        # Each name of the function's frame is bound again by the next line.
        out = r.value(spec, dtype, r.store(spec, until=first + until), grad)
        number = [r.number()] if r.host_scalars and name in ("mul.number", "add") else []
        r.add(name, ins, [out], rules, alloc=[*number, r.v_store[out]],
              saves=[*saves, *(number if name == "mul.number" else [])])  # fmt: skip
        return out

    kept = r.v_store[source]
    square = step("mul", [source, source], full, [(FRESH, full, ()), (FRESH, full, ())], [kept], 1)
    wide = step("constant_pad_nd", [square], padded, [(FRESH, full, ())], [], 2)
    mean = step("avg_pool3d", [wide], full, [(FRESH, padded, ())], [r.v_store[wide]], 5)
    scaled = step("mul.number", [mean], full, [(FRESH, full, ())], [], 4)
    shifted = step("add", [scaled], full, [(SAME, 0, ())], [], 5)
    power: tuple[tuple[int, int, int], ...] = ((TEMPORARY, full, 0), (TEMPORARY, full, 0))
    divisor = step("pow", [shifted], full, [(FRESH, full, power)], [r.v_store[shifted]], 6)
    out = r.output(x, 0, dtype, grad)
    r.add("div", [source, divisor], [out], [(FRESH, full, ()), (FRESH, full, ((TEMPORARY, full, 0),) * 2)],
          alloc=[r.v_store[out]], saves=[kept, r.v_store[divisor]])  # fmt: skip
    return [out]


# Shape rules whose outputs are laid out as their first input, and the operators among them whose are not.
_FOLLOW: Final = frozenset({"same", "conv", "pool", "adaptive_pool", "resize", "pad"})
_CONTIGUOUS: Final = frozenset({"layer_norm", "group_norm", "softmax", "log_softmax", "contiguous", "rms_norm",
                                "channel_shuffle", "local_response_norm", "cumsum"})  # fmt: skip

_RULES: Final[dict[str, Callable[[_Recorder, _Op], list[int]]]] = {
    "fresh": _fresh,
    "broadcast": _broadcast,
    "same": _same,
    "sub": _sub,
    "addcmul": _addcmul,
    "div": _div,
    "extremum": _extremum,
    "pow": _pow,
    "temporary": _temporary,
    "reciprocal": _reciprocal,
    "erf": _erf,
    "clip": _clip,
    "scale": _scale,
    "reshape": _reshape,
    "permute": _permute,
    "spread": _spread,
    "identity": _identity,
    "none": _none,
    "narrow": _narrow,
    "join": _join,
    "slice": _slice,
    "dropout": _dropout,
    "noise": _noise,
    "linear": _linear,
    "instance_norm": _instance_norm,
    "matmul": _fresh,
    "local_response_norm": _local_response_norm,
    "amax": _amax,
    "vector_norm": _vector_norm,
}
