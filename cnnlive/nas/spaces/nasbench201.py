"""NAS-Bench-201, also the topology space of NATS-Bench: cells of 4 nodes whose 6 edges have one of 5 operations.

Dong, Yang, "NAS-Bench-201", https://arxiv.org/abs/2001.00326; Dong et al., "NATS-Bench",
https://arxiv.org/abs/2009.00437. Op order and in-place flags follow D-X-Y/AutoDL-Projects, ``models/cell_infers``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._kernels import encoders
from cnnlive._types import I64, frozen
from cnnlive.errors import SpaceError
from cnnlive.graph import Graph, Tensor
from cnnlive.nas.base import Gene
from cnnlive.nas.encoded import EncodedSpace, Encoder, number_kinds
from cnnlive.nas.palette import FREE, Palette
from cnnlive.zoo._blocks import whole

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["DATASETS", "EDGES", "OPERATIONS", "NasBench201", "nasbench201"]

OPERATIONS: Final = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
#: Edges of a cell, to <- from, in the order of the genes.
EDGES: Final = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
#: Resolution and classes.
DATASETS: Final = MappingProxyType({"cifar10": (32, 10), "cifar100": (32, 100), "imagenet16-120": (16, 120)})

# Python's sum() begins with 0, and a sum with a number makes a new tensor. A scale without offset would be a product.
_NOTHING: Final = 2.0**-1022
_CELL: Final = re.compile(r"\|([^|+]*)\|\+\|([^|+]*)\|([^|+]*)\|\+\|([^|+]*)\|([^|+]*)\|([^|+]*)\|")
_POWERS: Final = 5 ** np.arange(5, -1, -1)


def _relu_conv_bn(g: Graph, x: Tensor, channels: int, kernel: int, name: str, stride: int = 1) -> Tensor:
    with g.scope(f"{name}.op"):
        x = g.relu(x, name="0")
        x = g.conv2d(x, channels, kernel, stride=stride, padding=kernel // 2, bias=False, name="1")
        return g.batch_norm2d(x, name="2")


def _cell(g: Graph, x: Tensor, row: Sequence[int]) -> Tensor:
    """Add a cell: each node is the sum of its edges, in their order."""
    nodes = [x]
    for node in range(1, 4):
        total: Tensor | None = None
        for edge, (to, source) in enumerate(EDGES):
            if to != node:
                continue
            term, name = nodes[source], f"layers.{edge}"
            match OPERATIONS[row[edge]]:
                case "none":
                    term = g.scale(term, factor=0.0, name=name)
                case "avg_pool_3x3":
                    term = g.avg_pool2d(term, 3, stride=1, padding=1, count_include_pad=False, name=name)
                case "nor_conv_1x1":
                    term = _relu_conv_bn(g, term, x.channels, 1, name)
                case "nor_conv_3x3":
                    term = _relu_conv_bn(g, term, x.channels, 3, name)
            if total is None:
                total = g.scale(term, offset=_NOTHING, name=f"sum.{node}.0")
            else:
                total = g.add(total, term, name=f"sum.{node}.{source}")
        assert total is not None
        nodes.append(total)
    for held in nodes[1:3]:  # the cell's list of its nodes
        g.hold(held, nodes[3])
    return nodes[3]


def _block(g: Graph, x: Tensor, channels: int) -> Tensor:
    y = _relu_conv_bn(g, x, channels, 3, "conv_a", 2)
    y = _relu_conv_bn(g, y, channels, 3, "conv_b")
    with g.scope("downsample"):
        z = g.avg_pool2d(x, 2, stride=2, name="0")
        z = g.conv2d(z, channels, 1, bias=False, name="1")
    return g.add(z, y, name="sum")


def _build(row: tuple[int, ...], *, name: str, channels: int, cells: int, resolution: int, classes: int) -> Graph:
    g = Graph(name)
    x = g.input((1, 3, resolution, resolution))
    x = g.batch_norm2d(g.conv2d(x, channels, 3, padding=1, bias=False, name="stem.0"), name="stem.1")
    number = 0
    for stage in range(3):
        for k in range(cells + (stage > 0)):
            with g.scope(f"cell{number}"):
                x = _block(g, x, channels << stage) if stage and not k else _cell(g, x, row)
            number += 1
    y = g.batch_norm2d(x, name="lastact.0")
    y = g.relu(y, inplace=True, name="lastact.1")
    y = g.flatten(g.adaptive_avg_pool2d(y, 1, name="global_pooling"), name="flatten")
    y = g.linear(y, classes, name="classifier")
    g.hold(x, y)  # the net's variable of its features
    g.output(y)
    return g


class NasBench201(EncodedSpace):
    """The space that :func:`nasbench201` makes; its notation is the benchmark's architecture string."""

    def __init__(self, dataset: str, channels: int, cells: int) -> None:
        if dataset not in DATASETS:
            raise SpaceError(f"dataset={dataset!r}; allowed: {', '.join(map(repr, DATASETS))}")
        resolution, classes = DATASETS[dataset]
        channels, cells = whole("channels", channels), whole("cells", cells)
        palette = Palette()
        conv: dict[str, Any] = {"out_channels": FREE[0], "bias": False}
        kinds = number_kinds(palette, (
            ("input", {"shape": (1, 3, resolution, resolution)}),
            ("conv2d", conv | {"kernel_size": 3, "padding": 1}),
            ("conv2d", conv | {"kernel_size": 1}),
            ("batch_norm2d", {}),
            ("relu", {}),
            ("scale", {"factor": 0.0}),
            ("scale", {"offset": _NOTHING}),
            ("add", {}),
            ("avg_pool2d", {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}),
            ("conv2d", conv | {"kernel_size": 3, "padding": 1, "stride": 2}),
            ("avg_pool2d", {"kernel_size": 2, "stride": 2}),
            ("relu", {"inplace": True}),
            ("adaptive_avg_pool2d", {"output_size": 1}),
            ("flatten", {}),
            ("linear", {"out_features": FREE[0]}),
        ))  # fmt: skip
        self.cells = cells

        def encoder(cells: int) -> Encoder:
            shape = frozen(np.array([channels, cells, classes], np.int64))
            return Encoder(encoders.nasbench201, (kinds, shape), 26 + 3 * cells * 24, 29 + 3 * cells * 27)

        name = f"nasbench201-{dataset}"
        build = partial(_build, name=name, channels=channels, cells=cells, resolution=resolution, classes=classes)
        genes = [Gene(f"{to}<-{source}", OPERATIONS) for to, source in EDGES]
        super().__init__(name, genes, palette, encoder(cells), build)
        self._short = encoder(1)

    def _compute(
        self, packed: I64, metrics: Sequence[str], options: Mapping[str, Any], threads: int | None,
        executor: Executor | None,
    ) -> dict[str, I64]:  # fmt: skip
        def sums(asked: Sequence[str]) -> dict[str, I64]:
            # Every edge has the same shapes, so each adds what it adds whatever the others are.
            cells = np.zeros((6, 5, 6), np.int64)
            for edge in range(6):
                cells[edge, :, edge] = range(5)
            table = self.run(self.encoder, cells.reshape(-1, 6), asked, options, 1, None)
            found = {}
            for m in asked:
                rows = table[m].reshape(6, 5)
                found[m] = rows[0, 0] + sum(rows[e, packed[:, e]] - rows[e, 0] for e in range(6))
            return found

        def peaks(asked: Sequence[str]) -> dict[str, I64]:
            # Tensors of a 3x3 convolution are those of a 1x1 one. Cells of a stage are alike, and one tensor goes from
            # each to the next: a net of one cell per stage has every peak of one with more.
            places, which = np.unique(np.where(packed == 3, 2, packed) @ _POWERS, return_inverse=True)
            cells = places[:, None] // _POWERS % 5
            found = self.run(self._short, cells, asked, options, threads, executor)
            return {m: found[m][which] for m in asked}

        return self._divide(packed, metrics, options, threads, executor, sums, peaks)

    def encode(self, native: str | Mapping[str, Any]) -> I64:
        """Return the genotype of ``"|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"``, or of a mapping of gene to operation.

        Raises
        ------
        SpaceError
            If the text has another form, or an operation or node in it does not exist.
        """
        if not isinstance(native, str):
            return super().encode(native)
        found = _CELL.fullmatch(native.strip())
        if found is None:
            raise SpaceError(f"{native!r} is not an architecture; allowed: '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|'")
        row = np.zeros(6, np.int64)
        for edge, (part, (to, source)) in enumerate(zip(found.groups(), EDGES, strict=True)):
            op, mark, node = part.partition("~")
            if not mark or op not in OPERATIONS or node != str(source):
                raise SpaceError(f"{part!r} in {native!r}; allowed as this edge into node {to}: an operation and "
                                 f"'~{source}', operations: {', '.join(OPERATIONS)}")  # fmt: skip
            row[edge] = OPERATIONS.index(op)
        return row

    def decode(self, x: ArrayLike) -> str:
        """Return a genotype as the benchmark's architecture string."""
        ops = [f"{OPERATIONS[v]}~{source}" for v, (_, source) in zip(self.row(x), EDGES, strict=True)]
        return "+".join(f"|{'|'.join(part)}|" for part in (ops[:1], ops[1:3], ops[3:]))


def nasbench201(dataset: str = "cifar10", *, channels: int = 16, cells: int = 5) -> NasBench201:
    """Return NAS-Bench-201: 5**6 = 15,625 cells, each repeated in three stages.

    The genes are the operations of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1 and 3<-2. As in the reference code a node is
    Python's ``sum`` of its edges in this order, which begins with a sum with 0, an op of its own; ``none`` is a product
    with 0, also an op; ``skip_connect`` is no op; a cell holds its nodes until it returns. The published tables count
    multiply-accumulates by convention ``"macs+bias"``.

    Parameters
    ----------
    dataset : str
        ``"cifar10"``, ``"cifar100"`` or ``"imagenet16-120"``.
    channels : int
        Of the first stage; they double twice.
    cells : int
        Of each stage.

    Returns
    -------
    NasBench201
        Notation: ``"|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"``.

    Raises
    ------
    SpaceError, AttributeValueError
        For a dataset or a size that does not exist.

    Examples
    --------
    >>> space = nasbench201()
    >>> cell = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    >>> space.graph(space.encode(cell)).n_parameters
    129306
    """
    return NasBench201(dataset, channels, cells)
