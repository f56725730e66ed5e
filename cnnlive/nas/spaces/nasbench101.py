"""NAS-Bench-101: all cells of at most 7 vertices and 9 edges with 3 operations.

Ying et al., "NAS-Bench-101: Towards Reproducible Neural Architecture Search", https://arxiv.org/abs/1902.09635. How
cells are pruned, channels, projections, truncation and the op order follow google-research/nasbench,
``nasbench/lib/model_spec.py`` and ``model_builder.py``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnlive._kernels import encoders, encoders_nasbench101
from cnnlive._types import I64, frozen
from cnnlive.errors import SpaceError
from cnnlive.graph import Graph, Tensor
from cnnlive.nas.base import Gene
from cnnlive.nas.encoded import EncodedSpace, Encoder, number_kinds
from cnnlive.nas.palette import FREE, Palette
from cnnlive.zoo._blocks import whole

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["OPERATIONS", "VERTICES", "NasBench101", "nasbench101", "vertex_channels"]

OPERATIONS: Final = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
VERTICES: Final = 7
MOST_EDGES: Final = 9
# Bits of the labels in a packed cell, and all bits but those that tell one convolution from the other.
_LABELS: Final = 10
_POOLS: Final = ~0b01_01_01_01_01
_PAIRS: Final = tuple(itertools.combinations(range(VERTICES), 2))
#: Unique cells with so many interior vertices.
_UNIQUE: Final = (1, 6, 84, 2_441, 62_010, 359_082)


def vertex_channels(input_channels: int, output_channels: int, matrix: ArrayLike) -> list[int]:
    """Return the channels of each vertex of a module.

    The vertices that feed the output share its channels, the first ones taking what does not divide; any other
    interior vertex has as many as the largest that it feeds. A projection of the module's input to the output is added,
    so it takes no share.

    Parameters
    ----------
    input_channels, output_channels : int
    matrix : (v, v) of 0 and 1
        Upper-triangular; every vertex lies on a path from input to output.

    Examples
    --------
    >>> vertex_channels(8, 8, [[0, 1, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    [8, 3, 3, 2, 8]
    """
    edges = np.asarray(matrix)
    last = len(edges) - 1
    feeders = [v for v in range(1, last) if edges[v, last]]
    found = {v: output_channels // len(feeders) + (i < output_channels % len(feeders)) for i, v in enumerate(feeders)}
    for v in range(last - 1, 0, -1):
        if v not in found:
            found[v] = max(found[w] for w in range(v + 1, last) if edges[v, w])
    return [input_channels, *(found[v] for v in range(1, last)), output_channels]


def _conv_bn_relu(g: Graph, x: Tensor, channels: int, kernel: int, name: str) -> Tensor:
    x = g.conv2d(x, channels, kernel, padding=kernel // 2, bias=False, name=f"{name}.conv")
    return g.relu(g.batch_norm2d(x, name=f"{name}.bn"), name=f"{name}.relu")


def _module(g: Graph, x: Tensor, channels: int, matrix: NDArray[Any], ops: Sequence[str]) -> Tensor:
    """Add a module: for each vertex its truncated inputs, its projection, their sum, its operation."""
    width = vertex_channels(x.channels, channels, matrix)
    last = len(matrix) - 1
    value = [x]
    for v in range(1, last):
        terms = []
        for u in range(1, v):
            if matrix[u, v]:
                cut = width[u] > width[v]
                terms.append(g.slice(value[u], 1, 0, width[v], name=f"truncate{u}-{v}") if cut else value[u])
        if matrix[0, v]:
            terms.append(_conv_bn_relu(g, x, width[v], 1, f"projection{v}"))
        y = g.add_n(terms, name=f"sum{v}") if len(terms) > 1 else terms[0]
        if ops[v] == "maxpool3x3":
            value.append(g.max_pool2d(y, 3, stride=1, padding=1, name=f"vertex{v}"))
        else:
            value.append(_conv_bn_relu(g, y, width[v], int(ops[v][4]), f"vertex{v}"))
    feeders = [value[v] for v in range(1, last) if matrix[v, last]]
    if matrix[0, last]:
        y = g.concat(feeders, name="concat") if len(feeders) > 1 else feeders[0] if feeders else x
        z = _conv_bn_relu(g, x, channels, 1, "projection")
        y = g.add(y, z, name="sum") if feeders else z
    else:
        y = g.concat(feeders, name="concat") if len(feeders) > 1 else feeders[0]
    for t in value[1:]:
        if t.node != y.node:
            g.hold(t, y)  # the module's list of its vertices
    return y


def _build(
    row: tuple[int, ...], *, channels: int, stacks: int, modules: int, resolution: int, classes: int
) -> Graph:  # fmt: skip
    g = Graph("nasbench101")
    matrix, ops = _cell(row)
    x = _conv_bn_relu(g, g.input((1, 3, resolution, resolution)), channels, 3, "stem")
    for stack in range(stacks):
        if stack:
            x = g.max_pool2d(x, 2, stride=2, name=f"downsample{stack}")
        for k in range(modules):
            with g.scope(f"stack{stack}_module{k}"):
                x = _module(g, x, channels << stack, matrix, ops)
    g.output(g.linear(g.mean(x, (2, 3), name="global_pooling"), classes, name="dense"))
    return g


def _cell(row: Sequence[int]) -> tuple[NDArray[np.int64], list[str]]:
    """Return matrix and operations of a canonical row, without vertices that are not there."""
    matrix = np.zeros((VERTICES, VERTICES), np.int64)
    for bit, (u, v) in zip(row, _PAIRS, strict=False):
        matrix[u, v] = bit
    kept = [v for v in range(VERTICES) if v in (0, VERTICES - 1) or matrix[v].any()]
    ops = ["input", *(OPERATIONS[label] for label in row[len(_PAIRS) :]), "output"]
    return matrix[np.ix_(kept, kept)], [ops[v] for v in kept]


class NasBench101(EncodedSpace):
    """The space that :func:`nasbench101` makes; its notation is a pair (matrix, ops), or a text of bits and labels."""

    def __init__(self, channels: int, stacks: int, modules: int, resolution: int, classes: int) -> None:
        channels, stacks, modules = whole("channels", channels, 5), whole("stacks", stacks), whole("modules", modules)
        resolution, classes = whole("resolution", resolution, 1 << (stacks - 1)), whole("classes", classes)
        palette = Palette()
        conv: dict[str, Any] = {"out_channels": FREE[0], "bias": False}
        kinds = number_kinds(palette, (
            ("input", {"shape": (1, 3, resolution, resolution)}),
            ("conv2d", conv | {"kernel_size": 3, "padding": 1}),
            ("conv2d", conv | {"kernel_size": 1}),
            ("batch_norm2d", {}),
            ("relu", {}),
            ("max_pool2d", {"kernel_size": 3, "stride": 1, "padding": 1}),
            ("slice", {"dim": 1, "start": 0, "stop": FREE[0]}),
            ("add_n", {}),
            ("concat", {"dim": 1}),
            ("add", {}),
            ("max_pool2d", {"kernel_size": 2, "stride": 2}),
            ("mean", {"dim": (2, 3)}),
            ("linear", {"out_features": FREE[0]}),
        ))  # fmt: skip

        def encoder(first: int, others: int) -> Encoder:
            shape = frozen(np.array([channels, stacks, first, others, classes], np.int64))
            # A module: at most 5 vertices of 4 ops, 9 edges that end in a slice or a projection, a concatenation.
            total = first + (stacks - 1) * others
            return Encoder(encoders.nasbench101, (kinds, shape), 6 + stacks + 52 * total, 6 + stacks + 70 * total)

        build = functools.partial(_build, channels=channels, stacks=stacks, modules=modules, resolution=resolution,
                        classes=classes)  # fmt: skip
        genes = [Gene(f"{u}->{v}", (0, 1)) for u, v in _PAIRS]
        genes += [Gene(f"op{v}", OPERATIONS) for v in range(1, VERTICES - 1)]
        super().__init__("nasbench101", genes, palette, encoder(modules, modules), build)
        # Modules of a stack but the first of all but the first stack are alike.
        self._short = encoder(1, min(modules, 2))

    # ------------------------------------------------------------------------------ genotypes

    def pack(self, X: ArrayLike) -> I64:  # noqa: N803
        """Return pruned cells as one integer each."""
        rows = frozen(np.ascontiguousarray(self.check(X), np.int64))
        codes = np.empty(len(rows), np.int64)
        status, row = encoders_nasbench101.prune(rows, MOST_EDGES, codes)
        if status == 1:
            raise SpaceError(f"row {row} of the genotypes: no path leads from input to output")
        if status:
            raise SpaceError(f"row {row} of the genotypes has more than {MOST_EDGES} edges after pruning; "
                             f"allowed: {MOST_EDGES}")  # fmt: skip
        return codes

    def unpack(self, packed: I64) -> I64:
        """Return the genotypes of packed cells."""
        rows = np.empty((len(packed), self.n_genes), np.int64)
        encoders_nasbench101.unpack(frozen(np.ascontiguousarray(packed)), rows)
        return rows

    def canonical(self, X: ArrayLike) -> I64:  # noqa: N803
        """Return pruned cells: what lies on no path from input to output is gone, the other vertices come first.

        Equal rows are the same net, op by op. Isomorphic cells that list their vertices in another order compute the
        same function, but in another program order, and with other channels where these do not divide: they stay
        different, see :meth:`representative`.

        Raises
        ------
        SpaceError
            If the output cannot be reached, or more than 9 edges are left.
        """
        return self.unpack(self.pack(X))

    def random(self, n: int, *, rng: np.random.Generator | int | None = None) -> I64:
        """Draw n cells as the benchmark's baselines do: bits and labels uniformly, until they make a valid cell."""
        rng = np.random.default_rng(rng)
        found = np.zeros((0, self.n_genes), np.int64)
        while len(found) < n:
            rows = rng.integers(0, self.cardinalities, (2 * n + 64, self.n_genes), dtype=np.int64)
            found = np.concatenate([found, rows[self.is_valid(rows)]])
        return self.canonical(found[:n])

    def is_valid(self, X: ArrayLike) -> NDArray[np.bool_]:  # noqa: N803
        """Whether rows have a path from input to output and at most 9 edges after pruning."""
        rows = np.ascontiguousarray(self.check(X), np.int64)
        good = np.ones(len(rows), bool)
        start = 0
        codes = np.empty(len(rows), np.int64)
        while start < len(rows):
            status, row = encoders_nasbench101.prune(frozen(rows[start:]), MOST_EDGES, codes[start:])
            if not status:
                break
            good[start + row] = False
            start += row + 1
        return good

    def representative(self, X: ArrayLike) -> I64:  # noqa: N803
        """Return, for each cell, the member of the space that is isomorphic to it."""
        rows = self.canonical(X)
        found: I64 = np.empty_like(rows)
        for i, row in enumerate(rows):
            found[i] = _first_of_its_class(tuple(row.tolist()))
        return found

    def encode(self, native: Any) -> I64:
        """Return the pruned genotype of a cell.

        Parameters
        ----------
        native : (matrix, ops), str, or mapping of gene to value
            An upper-triangular matrix of 0 and 1 of 2 to 7 vertices, and the name of each vertex's operation, those of
            input and output included. Or, as a text, the matrix's upper triangle column by column and the labels 0 to 2
            of the interior vertices: ``"101:2"`` has an edge 0->1, none 0->2, an edge 1->2.

        Raises
        ------
        SpaceError
            If it is not such a cell, has a cycle, too many vertices or edges, or no path from input to output.
        """
        if isinstance(native, Mapping):
            return super().encode(native)
        matrix, ops = _read_text(native) if isinstance(native, str) else _read_pair(native)
        row = np.zeros(self.n_genes, np.int64)
        last = len(matrix) - 1
        for bit, (u, v) in enumerate(_PAIRS):
            if v == VERTICES - 1:
                row[bit] = matrix[u, last] if u < last else 0
            elif v < last:
                row[bit] = matrix[u, v]
        for v, op in enumerate(ops[1:-1]):
            row[len(_PAIRS) + v] = OPERATIONS.index(op)
        found: I64 = self.canonical(row)[0]
        return found

    def decode(self, x: ArrayLike) -> tuple[list[list[int]], list[str]]:
        """Return a genotype as (matrix, ops), pruned."""
        matrix, ops = _cell(self.canonical(self.row(x))[0].tolist())
        return matrix.tolist(), ops

    def text(self, x: ArrayLike) -> str:
        """Return a genotype as a text of bits and labels, pruned; see :meth:`encode`."""
        packed = self.pack(x)
        if len(packed) != 1:
            self.row(x)  # says so
        code = int(packed[0])
        bits, interior = _columns(code >> _LABELS)
        return f"{bits}:{''.join(str(code >> 2 * (5 - v) & 3) for v in range(1, interior + 1))}"

    # ------------------------------------------------------------------------------ members

    def n_members(self) -> int:
        """Count the unique cells."""
        return sum(_UNIQUE)

    def _list(self) -> I64:
        return unique_codes()

    def _positions(self, packed: I64) -> I64:
        listed = self._members("evaluate")
        place = np.searchsorted(listed, packed)
        place[place == len(listed)] = 0
        found: I64 = np.where(listed[place] == packed, place, -1)
        return found

    def _place(self, x: Any) -> int:
        return int(self._positions(self.pack(self.row(x)))[0])

    def _compute(
        self, packed: I64, metrics: Sequence[str], options: Mapping[str, Any], threads: int | None,
        executor: Executor | None,
    ) -> dict[str, I64]:  # fmt: skip
        def sums(asked: Sequence[str]) -> dict[str, I64]:
            # The labels do not touch the channels, so each adds what it adds whatever the others are.
            matrices, which = np.unique(packed >> _LABELS, return_inverse=True)
            steps = [0] + [label << 2 * (5 - v) for v in range(1, 6) for label in (1, 2)]
            codes = ((matrices << _LABELS)[:, None] + np.array(steps)).ravel()
            table = self.run(self.encoder, codes, asked, options, threads, executor)
            found = {}
            for m in asked:
                rows = table[m].reshape(-1, len(steps))
                more = np.zeros((len(matrices), 5, 4), np.int64)
                more[:, :, 1:3] = (rows[:, 1:] - rows[:, :1]).reshape(-1, 5, 2)
                found[m] = rows[which, 0]
                for v in range(5):
                    found[m] += more[which, v, packed >> 2 * (4 - v) & 3]
            return found

        def peaks(asked: Sequence[str]) -> dict[str, I64]:
            # Tensors of a 1x1 convolution are those of a 3x3 one, and modules that are alike hand on one tensor.
            codes, which = np.unique(packed & _POOLS, return_inverse=True)
            found = self.run(self._short, codes, asked, options, threads, executor)
            return {m: found[m][which] for m in asked}

        return self._divide(packed, metrics, options, threads, executor, sums, peaks)


@functools.cache
def _columns(bits: int) -> tuple[str, int]:
    """Return the upper triangle of a packed matrix column by column, and how many interior vertices it has."""
    last = len(_PAIRS) - 1
    edges = {pair for k, pair in enumerate(_PAIRS) if bits >> (last - k) & 1}
    interior = max((v for _, v in edges if v < VERTICES - 1), default=0)
    kept = [*range(interior + 1), VERTICES - 1]
    return "".join(str(int((u, v) in edges)) for k, v in enumerate(kept) for u in kept[:k]), interior


@functools.cache
def unique_codes() -> I64:
    """Return one cell of each class of isomorphic ones, packed, in ascending order."""
    found = []
    for interior, n in enumerate(_UNIQUE):
        codes = np.empty(n, np.int64)
        order = permutations(interior)
        same, labelled = np.empty(len(order), np.int64), np.zeros(1, np.int64)
        total = encoders_nasbench101.unique_cells(interior, MOST_EDGES, order, same, codes, labelled)
        assert total == n
        found.append(codes)
    return frozen(np.sort(np.concatenate(found)))


def permutations(interior: int) -> I64:
    """Return all orders of the interior vertices, as the kernel reads them; the identity first."""
    found = np.zeros((len(list(itertools.permutations(range(interior)))), VERTICES - 2), np.int64)
    for i, order in enumerate(itertools.permutations(range(1, interior + 1))):
        found[i, :interior] = order
    return frozen(found)


def _first_of_its_class(row: tuple[int, ...]) -> list[int]:
    """Return the isomorphic cell that comes first by its bits column by column, then its labels."""
    matrix, ops = _cell(row)
    last = len(matrix) - 1
    labels = [OPERATIONS.index(op) for op in ops[1:-1]]
    best: tuple[int, tuple[int, ...]] | None = None
    for order in itertools.permutations(range(1, last)):
        place = [0, *order, last]
        bits = 0
        for u, v in zip(*np.nonzero(matrix), strict=True):
            a, b = place[u], place[v]
            if a > b:
                break
            bits |= 1 << (a + b * (b - 1) // 2)
        else:
            moved = [0] * len(labels)
            for v, label in enumerate(labels, 1):
                moved[place[v] - 1] = label
            best = min(best or (bits, tuple(moved)), (bits, tuple(moved)))
    assert best is not None
    found = [0] * (len(_PAIRS) + VERTICES - 2)
    for v in range(1, last + 1):
        for u in range(v):
            if best[0] >> (u + v * (v - 1) // 2) & 1:
                found[_PAIRS.index((u, v if v < last else VERTICES - 1))] = 1
    found[len(_PAIRS) : len(_PAIRS) + len(labels)] = best[1]
    return found


def _read_pair(native: Any) -> tuple[NDArray[np.int64], list[str]]:
    try:
        given, names = native
        matrix, ops = np.asarray(given), list(names)
    except (TypeError, ValueError):
        raise SpaceError(f"{native!r} is not a cell; allowed: a pair of a matrix and a list of operations, "
                         "or a text") from None  # fmt: skip
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not 2 <= len(matrix) <= VERTICES:
        raise SpaceError(f"the matrix has shape {matrix.shape}; allowed: (v, v) for 2 to {VERTICES} vertices")
    if matrix.dtype.kind not in "iub" or ((matrix != 0) & (matrix != 1)).any():
        raise SpaceError("the matrix holds other values than 0 and 1")
    back = np.argwhere(np.tril(matrix))
    if len(back):
        u, v = back[0].tolist()
        raise SpaceError(f"the matrix has an edge {u}->{v}: a cycle, or vertices out of order; allowed: edges from a "
                         "lower to a higher vertex")  # fmt: skip
    if len(ops) != len(matrix):
        raise SpaceError(f"{len(ops)} operations for {len(matrix)} vertices; allowed: one each, input and output too")
    if (ops[0], ops[-1]) != ("input", "output"):
        raise SpaceError(f"the first and last operation are {ops[0]!r} and {ops[-1]!r}; allowed: 'input' and 'output'")
    for v, op in enumerate(ops[1:-1], 1):
        if op not in OPERATIONS:
            raise SpaceError(f"vertex {v} has operation {op!r}; allowed: {', '.join(OPERATIONS)}")
    return matrix.astype(np.int64), ops


def _read_text(text: str) -> tuple[NDArray[np.int64], list[str]]:
    bits, mark, labels = text.strip().partition(":")
    n = len(labels) + 2
    if set(bits) - set("01") or set(labels) - set("012") or n > VERTICES or len(bits) != n * (n - 1) // 2 or not mark:
        raise SpaceError(f"{text!r} is not a cell; allowed: v (v - 1) / 2 bits 0 and 1, a colon, and v - 2 labels 0 to "
                         f"2, for 2 to {VERTICES} vertices v")  # fmt: skip
    matrix = np.zeros((n, n), np.int64)
    rest = iter(bits)
    for v in range(1, n):
        for u in range(v):
            matrix[u, v] = int(next(rest))
    return matrix, ["input", *(OPERATIONS[int(label)] for label in labels), "output"]


def nasbench101(
    *, channels: int = 128, stacks: int = 3, modules: int = 3, resolution: int = 32, classes: int = 10
) -> NasBench101:  # fmt: skip
    """Return NAS-Bench-101: 423,624 cells, each repeated in 3 stacks of 3 modules.

    A genotype is the upper triangle of a 7x7 matrix, row by row, and the operations of vertices 1 to 5; vertex 6 is the
    output. Any row with a path from input to output and at most 9 edges after pruning can be evaluated; members are one
    cell of each class of isomorphic ones, the one that the benchmark lists.

    A module runs vertex after vertex: the truncations of its inputs (views of the first channels), the projection of
    the module's input (1x1 convolution, batch normalisation, ReLU) if it has that edge, one op that sums them all, and
    its operation; then the concatenation, and the sum with the projection of the module's input. Nothing is in place.
    A module's call is taken to hold a list of its vertices until it returns, as the reference code does.

    Parameters
    ----------
    channels : int
        Of the first stack; they double from stack to stack.
    stacks, modules : int
        Stacks, and modules of each.
    resolution : int
        Of the image; it halves from stack to stack.
    classes : int

    Returns
    -------
    NasBench101
        Notation: (matrix, ops), operations named as in `OPERATIONS`; see :meth:`NasBench101.encode`.

    Examples
    --------
    >>> space = nasbench101()
    >>> x = space.encode(([[0, 1], [0, 0]], ["input", "output"]))
    >>> space.graph(x).n_parameters
    882570
    """
    return NasBench101(channels, stacks, modules, resolution, classes)
