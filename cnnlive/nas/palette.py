"""Palettes: the kinds of ops that a family of graphs is made of, as columns, so that a graph needs no Python object.

A graph is then a few flat arrays: the kind of each node, which nodes it reads, and up to two integers of its own in
place of attributes (:data:`FREE`). :meth:`Palette.graph` makes the ordinary Graph of the same nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._types import DTYPE_CODE, FLOATING, I64, Columns, Shape, column, dtype_name
from cnnlive.errors import CnnliveError, DTypeError, ShapeError, SpaceError
from cnnlive.graph import Graph, Tensor
from cnnlive.lowered import Lowered, lower
from cnnlive.ops import operator

__all__ = ["FREE", "Kinds", "Palette"]


@dataclass(frozen=True, slots=True)
class _Free:
    """Stands for an integer attribute whose value the node gives."""

    number: int

    def __repr__(self) -> str:
        return f"FREE[{self.number}]"


#: In an attribute: the value stands in the node, in ``free[:, 0]`` or ``free[:, 1]``.
FREE: Final = (_Free(0), _Free(1))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Kinds(Columns):
    """What :func:`cnnlive.lowered.lower` puts into columns for an op, for each kind of a palette.

    All arrays are C-contiguous, read-only int64; k is the number of kinds.

    Attributes
    ----------
    ops : tuple of str
        Operator of each kind.
    dtype : int
        Position in ``cnnlive._types.DTYPES`` of the one floating type of every tensor and weight.
    kind : (k,)
        Of the output: 0 activation, 1 network input, 2 stored parameter.
    rank : (k,)
        Number of dimensions that the first input has to have; 0: any, or no input.
    inputs : (k, 2)
        Least and most number of inputs; most is -1 where there may be any number.
    uses : (k, 2)
        1 where ``FREE[0]``, ``FREE[1]`` stand for an attribute.
    rule, attr_ptr, attr : (k,), (k + 1,), (n_attr,)
        Shape rule and its columns, see :mod:`cnnlive._kernels.shapes`. Where `attr_free` is not -1 the value
        ``free[node, attr_free[j]]`` takes the place of ``attr[j]`` (which is 0).
    attr_free : (n_attr,)
        -1, 0 or 1.
    macs_rule, weight_rule : (k,), (k, 6)
        See :mod:`cnnlive._kernels.counts`; every kind owns what it counts, and no FREE changes a column.
    bias : (k,)
        1 for a convolution or linear layer with a bias of its own.
    alias, fold, index_bytes : (k,)
        As in :class:`cnnlive.lowered.Lowered`.
    statistics : (k, 3)
        First and last + 1 dimension and bytes, as in :class:`cnnlive.lowered.Lowered`; bytes 0: no such normalisation.
    """

    ops: tuple[str, ...]
    dtype: int
    kind: I64
    rank: I64
    inputs: I64
    uses: I64
    rule: I64
    attr_ptr: I64
    attr: I64
    attr_free: I64
    macs_rule: I64
    weight_rule: I64
    bias: I64
    alias: I64
    fold: I64
    index_bytes: I64
    statistics: I64

    @property
    def n_kinds(self) -> int:
        """Number of kinds."""
        return len(self.ops)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind: the operator, its attributes with FREE in them, example shapes of its inputs, and its columns."""

    op: str
    attributes: Mapping[str, Any]
    shapes: tuple[Any, ...]
    n_inputs: tuple[int, int]
    rank: int
    uses: tuple[int, int]
    row: _Row
    free: tuple[int, ...]
    probes: _Probes


@dataclass(frozen=True, slots=True)
class _Row:
    """The columns of one op, of a graph that holds it."""

    kind: int
    rule: int
    attr: tuple[int, ...]
    macs_rule: int
    weight_rule: tuple[int, ...]
    alias: int
    fold: int
    index_bytes: int
    statistics: tuple[int, ...]


# Values that stand for FREE[0] and FREE[1] where columns are compared: an attribute shows by following them. Several
# sets, since one value may have to divide another, or a literal.
_Probes = tuple[tuple[int, int], ...]
_SETS: Final[tuple[_Probes, ...]] = (((12, 6), (24, 8), (30, 10)), ((4, 2), (16, 8), (8, 4)))


class Palette:
    """The kinds of ops of a family of graphs.

    Parameters
    ----------
    dtype : str
        The floating type of every input, tensor and weight.

    Examples
    --------
    >>> p = Palette()
    >>> p.add("input", shape=(1, 3, 32, 32)), p.add("conv2d", out_channels=FREE[0], kernel_size=3, padding=1)
    (0, 1)
    >>> p.graph([0, 1], [0, 0, 1], [0], [[0, 0], [16, 0]]).n_parameters
    448
    """

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = dtype_name(dtype)
        if self.dtype not in FLOATING:
            raise DTypeError(f"dtype={dtype!r} of a palette; allowed: {', '.join(sorted(FLOATING))}")
        self._kinds: list[_Kind] = []
        self._cache: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def __repr__(self) -> str:
        return f"<Palette: {', '.join(k.op for k in self._kinds)}>"

    def __getstate__(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "_kinds": self._kinds, "_cache": {}}

    def add(self, op: str, *, inputs: Sequence[Sequence[Any]] | None = None, **attributes: Any) -> int:
        """Add a kind and return its number.

        Parameters
        ----------
        op : str
            Operator of the table, with one output.
        inputs : sequence of shapes, optional
            Example shapes of what it reads, with a batch of 1: needed where the operator's columns depend on the
            number of dimensions and that is not 4 (2 for ``linear``), on their sizes (``layer_norm``), or on how many
            inputs there are. A kind is for inputs of as many dimensions as its example, unless nothing depends on it.
        **attributes
            The operator's own. An integer, or an integer inside a tuple, may be ``FREE[0]`` or ``FREE[1]``; one FREE
            may stand in several places.

        Raises
        ------
        SpaceError
            If FREE stands for an attribute that the columns do not simply contain; if the operator has several
            outputs, or another type than the palette's.
        UnknownOperatorError, AttributeValueError, ShapeError, GraphError
            As :meth:`cnnlive.Graph.op` raises them.
        """
        entry = operator(op)
        if op in ("input", "parameter"):
            given = dtype_name(attributes.setdefault("dtype", self.dtype))
            if given != self.dtype:
                raise SpaceError(f"{op} of type {given} in a palette of type {self.dtype}; allowed: one type")
        elif entry.dtype in ("attribute", "index"):
            raise SpaceError(f"{op} writes another type than it reads; a palette has one type, {self.dtype}")
        if entry.rule.code == 1 and op != "parameter":
            raise SpaceError(f"the shape of {op} is a Python function, which no palette can hold")
        if op == "squeeze" and attributes.get("dim") is None:
            raise SpaceError("squeeze without dim drops what happens to be 1; allowed in a palette: dimensions")
        uses = tuple(int(any(f == n for f in _frees(attributes))) for n in range(2))
        examples = [tuple(tuple(s) for s in inputs)] if inputs is not None else _examples(op, entry.inputs[0])
        shapes, probes, rows = self._first_that_builds(op, attributes, examples)
        free = _follow(op, attributes, probes, rows)
        least, most = entry.inputs
        if least != most and most is not None:
            least = most = len(shapes)
        rank = len(shapes[0]) if shapes else 0
        if inputs is None and shapes and self._any_rank(op, attributes, len(shapes), probes[0], rows[0]):
            rank = 0
        self._kinds.append(
            _Kind(op, dict(attributes), shapes, (least, -1 if most is None else most), rank,
                  (uses[0], uses[1]), rows[0], free, probes)
        )  # fmt: skip
        self._cache.clear()
        return len(self._kinds) - 1

    def _first_that_builds(
        self, op: str, attributes: Mapping[str, Any], examples: Sequence[tuple[Any, ...]]
    ) -> tuple[tuple[Any, ...], _Probes, list[_Row]]:
        first: CnnliveError | None = None
        for probes in _probes(attributes):
            for shapes in examples:
                try:
                    return shapes, probes, [self._row(op, attributes, shapes, probe) for probe in probes]
                except ShapeError as error:
                    first = first or error
        assert first is not None
        raise first

    def _any_rank(self, op: str, attributes: Mapping[str, Any], n: int, probe: Sequence[int], row: _Row) -> bool:
        """Whether nothing depends on the number of dimensions."""
        if op == "linear":  # one op in PyTorch for matrices, two for anything else
            return False
        try:
            return all(self._row(op, attributes, (_example(rank),) * n, probe) == row for rank in (2, 3, 4, 5))
        except (CnnliveError, TypeError, ValueError):
            return False

    def example(self, number: int, probe: int = 0, n_inputs: int | None = None) -> Lowered:
        """Return a lowered graph of one node of a kind, the last op, behind inputs of the example shapes.

        `probe` (0 to 2) chooses among values that stand for what is FREE.
        """
        kind = self._kinds[number]
        shapes = kind.shapes
        if n_inputs is not None:
            shapes = tuple(shapes[min(i, len(shapes) - 1)] for i in range(n_inputs))
        return self._lowered(kind.op, kind.attributes, shapes, kind.probes[probe])

    def _lowered(
        self, op: str, attributes: Mapping[str, Any], shapes: tuple[Any, ...], probe: Sequence[int]
    ) -> Lowered:
        g = Graph()
        read = [g.input(_filled(s, probe), dtype=self.dtype) for s in shapes]
        out = g.op(op, *read, **{k: _filled(v, probe) for k, v in attributes.items()})
        if not isinstance(out, Tensor):
            raise SpaceError(f"{op} has {len(out)} outputs; allowed in a palette: one")
        return lower(g)

    def _row(self, op: str, attributes: Mapping[str, Any], shapes: tuple[Any, ...], probe: Sequence[int]) -> _Row:
        net = self._lowered(op, attributes, shapes, probe)
        k = net.n_ops - 1
        if op == "input" and net.attr[0] != 1:
            raise SpaceError(
                f"input of shape {attributes['shape']}; allowed in a palette: a batch of 1, as first number"
            )
        statistics = net.statistics[0, 1:] if len(net.statistics) else (0, 0, 0)
        return _Row(
            int(net.kind[-1]), int(net.rule[k]), tuple(net.attr[net.attr_ptr[k] :].tolist()), int(net.macs_rule[k]),
            tuple(net.weight_rule[k].tolist()), int(net.alias[k]), int(net.fold[k]), int(net.index_bytes[k]),
            tuple(int(v) for v in statistics),
        )  # fmt: skip

    @property
    def kinds(self) -> Kinds:
        """The columns of every kind."""
        found: Kinds | None = self._cache.get("kinds")
        if found is None:
            rows = [k.row for k in self._kinds]
            n = len(rows)
            lengths = [0, *(len(r.attr) for r in rows)]
            free = [f for k in self._kinds for f in k.free]
            attr = [0 if f >= 0 else v for k in self._kinds for v, f in zip(k.row.attr, k.free, strict=True)]
            found = self._cache["kinds"] = Kinds(
                ops=tuple(k.op for k in self._kinds), dtype=DTYPE_CODE[self.dtype],
                kind=column([r.kind for r in rows]), rank=column([k.rank for k in self._kinds]),
                inputs=column([k.n_inputs for k in self._kinds], (n, 2)),
                uses=column([k.uses for k in self._kinds], (n, 2)), rule=column([r.rule for r in rows]),
                attr_ptr=column(np.cumsum(lengths)), attr=column(attr),
                attr_free=column(free), macs_rule=column([r.macs_rule for r in rows]),
                weight_rule=column([r.weight_rule for r in rows], (n, 6)),
                bias=column([int(r.weight_rule[0] in (1, 2) and r.weight_rule[2] != 0) for r in rows]),
                alias=column([r.alias for r in rows]), fold=column([r.fold for r in rows]),
                index_bytes=column([r.index_bytes for r in rows]),
                statistics=column([r.statistics for r in rows], (n, 3)),
            )  # fmt: skip
        return found

    def graph(
        self,
        kind: ArrayLike,
        in_ptr: ArrayLike,
        in_idx: ArrayLike,
        free: ArrayLike,
        until: ArrayLike | None = None,
        name: str = "",
    ) -> Graph:
        """Make the Graph of one graph's nodes; node i is named ``n<i>``.

        Parameters
        ----------
        kind : (n,)
            Kind of each node, in program order.
        in_ptr, in_idx : (n + 1,), (n_edges,)
            CSR list of the nodes that each reads.
        free : (n, 2)
            Values of ``FREE[0]``, ``FREE[1]``.
        until : (n,), optional
            Node through which eager Python's frames hold the output; 0: nothing beyond its last reader.

        Returns
        -------
        Graph
            The last node is its output.

        Raises
        ------
        SpaceError
            If a node is of no kind or reads what does not come before it; what Graph raises otherwise.
        """
        kinds, ptr, idx = (np.asarray(a).tolist() for a in (kind, in_ptr, in_idx))
        values = np.asarray(free).reshape(-1, 2).tolist()
        held = np.asarray(until).tolist() if until is not None else [0] * len(kinds)
        g = Graph(name)
        tensors: list[Tensor] = []
        for node, k in enumerate(kinds):
            if not 0 <= k < len(self):
                raise SpaceError(f"node {node} is of kind {k}; allowed: 0 to {len(self) - 1}")
            read = idx[ptr[node] : ptr[node + 1]]
            if any(not 0 <= i < node for i in read):
                raise SpaceError(f"node {node} reads {read}; allowed: nodes before it")
            what = self._kinds[k]
            attributes = {key: _filled(v, values[node]) for key, v in what.attributes.items()}
            tensors.append(g.op(what.op, *[tensors[i] for i in read], name=f"n{node}", **attributes))
        for node, last in enumerate(held):
            if last > node:
                g.hold(tensors[node], f"n{last}")
        if tensors:
            g.output(tensors[-1])
        return g


def _frees(value: Any) -> Iterator[int]:
    """Yield the numbers of every FREE in a value."""
    if isinstance(value, _Free):
        yield value.number
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _frees(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _frees(v)


def _filled(value: Any, values: Sequence[int]) -> Any:
    """Return a value with numbers in place of every FREE."""
    if isinstance(value, _Free):
        return values[value.number]
    if isinstance(value, list | tuple):
        return tuple(_filled(v, values) for v in value)
    return value


def _probes(attributes: Mapping[str, Any]) -> Iterator[_Probes]:
    literals = math.lcm(*(v for v in attributes.values() if type(v) is int and 0 < v <= 1024))
    for scale in (1, literals) if 1 < literals <= 1 << 20 else (1,):
        for probes in _SETS:
            yield tuple((a * scale, b * scale) for a, b in probes)
            yield tuple((b * scale, a * scale) for a, b in probes)


def _example(rank: int) -> Shape:
    # Channels that the probes and most numbers of groups divide, and room for the windows of CNNs.
    return (1, 6720, *(64,) * (rank - 2))


def _examples(op: str, n: int) -> list[tuple[Any, ...]]:
    """List the examples to try for n inputs, the likeliest first."""
    if n == 0:
        return [()]
    if op == "squeeze":  # only what is 1 is dropped
        return [((1, 1, 1, 1),)]
    ranks = (2, 3, 4) if op == "linear" else (4, 2, 3, 5)
    return [(_example(rank),) * n for rank in ranks]


def _follow(op: str, attributes: Mapping[str, Any], probes: _Probes, rows: Sequence[_Row]) -> tuple[int, ...]:
    """Return, per attribute column, which FREE it follows, -1 for none."""
    uses = set(_frees(attributes))
    words = ", ".join(f"{k}={v!r}" for k, v in attributes.items() if any(True for _ in _frees(v)))
    one = rows[0]
    for other in rows[1:]:
        if replace(other, attr=one.attr) != one or len(other.attr) != len(one.attr):
            raise SpaceError(f"{op}: {words} changes more than the columns of its shape rule; allowed: a number")
    free = []
    for values in zip(*(r.attr for r in rows), strict=True):
        follows = [f for f in range(2) if values == tuple(p[f] for p in probes)]
        if follows:
            free.append(follows[0])
        elif len(set(values)) == 1:
            free.append(-1)
        else:
            raise SpaceError(f"{op}: {words} is not a column as it stands, but makes {values} of {probes}")
    missing = uses - set(free)
    if missing:
        raise SpaceError(f"{op}: {words} is in no column of its shape rule; allowed: a number")
    return tuple(free)
