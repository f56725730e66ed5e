"""NATS-Bench's size space: Dong et al., "NATS-Bench", https://arxiv.org/abs/2009.00437, section 3.2.

One cell of NAS-Bench-201 is fixed, and the channels of five layers are searched, 8 to 64 in steps of 8 each: 32,768
nets. The reference builds them as ``DynamicShapeTinyNet`` of AutoDL-Projects (MIT).
"""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cnnlive._types import I64
from cnnlive.errors import AttributeValueError, SpaceError, close_names
from cnnlive.nas.base import Gene
from cnnlive.nas.space import Slot, Space
from cnnlive.nas.spaces._common import conv_bn, image
from cnnlive.zoo._blocks import whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cnnlive.graph import Graph, Tensor

__all__ = ["nats_size"]

#: Channels that each of the five layers may have.
WIDTHS: Final = (8, 16, 24, 32, 40, 48, 56, 64)
#: Classes and resolution of each data set.
_DATASETS: Final = {"cifar10": (10, 32), "cifar100": (100, 32), "imagenet16-120": (120, 16)}
# As an offset: a sum with 0, where 0.0 itself would stand for a product with 1.
_NOTHING: Final = sys.float_info.min
# The edges of the cell, node by node: True is a convolution, False the skip connection.
_CELL: Final = (((0, True),), ((0, True), (1, True)), ((0, False), (1, True), (2, True)))


def _relu_conv_bn(g: Graph, x: Tensor, out_channels: int, stride: int = 1) -> Tensor:
    """Add the unit of the bench: ReLU, 3x3 convolution, batch normalisation."""
    return conv_bn(g, g.relu(x, name="0"), out_channels, 3, stride, names="12")


def _stem(g: Graph, *, resolution: int, channels: int) -> Tensor:
    return conv_bn(g, image(g, resolution), channels, 3, names="01")


def _edge(g: Graph, x: Tensor, out_channels: int, conv: bool) -> Tensor:
    """Add an edge: a skip connection adds nothing where the channels agree, else a 1x1 convolution without ReLU."""
    if conv:
        with g.scope("op"):
            return _relu_conv_bn(g, x, out_channels)
    return x if x.channels == out_channels else conv_bn(g, x, out_channels, names=("conv", "bn"))


def _cell(g: Graph, x: Tensor, *, channels: int) -> Tensor:
    """Add the cell: each node is Python's ``sum`` of its edges, which begins with ``0 + edge``, a tensor of its own.

    The list of nodes keeps all of them until the cell returns.
    """
    nodes, layer = [x], 0
    for edges in _CELL:
        total: Tensor | None = None
        for source, conv in edges:
            with g.scope(f"layers_{layer}"):
                y = _edge(g, nodes[source], channels, conv)
            total = g.scale(y, offset=_NOTHING) if total is None else g.add(total, y)
            layer += 1
        assert total is not None  # every node has an edge
        nodes.append(total)
    for node in nodes[1:-1]:
        g.hold(node, until=nodes[-1])
    return nodes[-1]


def _reduction(g: Graph, x: Tensor, *, channels: int) -> Tensor:
    """Add the residual block of stride 2 between the cells; its shortcut pools and has no batch normalisation."""
    with g.scope("conv_a"), g.scope("op"):
        y = _relu_conv_bn(g, x, channels, 2)
    with g.scope("conv_b"), g.scope("op"):
        y = _relu_conv_bn(g, y, channels)
    with g.scope("downsample"):
        shortcut = g.conv2d(g.avg_pool2d(x, 2, 2, name="0"), channels, 1, bias=False, name="1")
    return g.add(shortcut, y)


def _head(g: Graph, x: Tensor, *, num_classes: int) -> Tensor:
    """Add what follows the cells. One slot, for the last cell's output is held until the net returns."""
    with g.scope("lastact"):
        x = g.relu(g.batch_norm2d(x, name="0"), inplace=True, name="1")
    x = g.adaptive_avg_pool2d(x, 1, name="global_pooling")
    return g.linear(g.flatten(x), num_classes, name="classifier")


class _NatsSize(Space):
    """The size space, with the bench's own names of its members."""

    def encode(self, native: Any) -> I64:
        """Return the genotype of an architecture string such as ``"8:8:40:32:40"``, or of an index of the bench.

        Raises
        ------
        SpaceError
            If it is neither; says what is wrong.
        """
        if isinstance(native, str):
            parts = native.split(":")
            if len(parts) != self.n_genes or not all(re.fullmatch("[0-9]+", p) for p in parts):
                raise SpaceError(f"{self.name}: {native!r} is no architecture; allowed: five numbers of channels "
                                 "between colons, such as '8:8:40:32:40'")  # fmt: skip
            for i, part in enumerate(parts):
                if part not in map(str, WIDTHS):
                    raise SpaceError(f"{self.name}: layer {i} of {native!r} has {part} channels; allowed: "
                                     f"{', '.join(map(str, WIDTHS))}")  # fmt: skip
            return self.from_values({f"c{i}": int(part) for i, part in enumerate(parts)})
        try:
            index = whole("index", native, 0)
        except AttributeValueError:
            raise SpaceError(f"{self.name}: {native!r} is no architecture; allowed: a text such as '8:8:40:32:40', "
                             "or an index of the bench")  from None  # fmt: skip
        if index >= len(WIDTHS) ** self.n_genes:
            raise SpaceError(
                f"{self.name} has no architecture {index}; allowed: 0 to {len(WIDTHS) ** self.n_genes - 1}"
            )
        return self.from_values({f"c{i}": WIDTHS[index >> 3 * (4 - i) & 7] for i in range(5)})

    def decode(self, x: ArrayLike) -> str:
        """Return the architecture string of a genotype."""
        return ":".join(str(c) for c in self.values(x).values())


def nats_size(dataset: str = "cifar10") -> Space:
    """Return the size search space of NATS-Bench: 32,768 nets.

    A convolution to c0 channels, then five layers: a cell, a residual block of stride 2, a cell, a residual block
    of stride 2, a cell, of c0 to c4 channels; batch normalisation, ReLU, global average pool, linear. The cell is
    ``|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|``.
    The bench's FLOPs are `macs` by the convention ``"macs+bias"``. Its nets also return their pooled features;
    these are no output here.

    Parameters
    ----------
    dataset : {"cifar10", "cifar100", "imagenet16-120"}
        Sets the number of classes, and the resolution: 32, of ImageNet16-120 16.

    Returns
    -------
    Space
        `encode` takes the bench's architecture strings and its indices, `decode` gives strings. Read as digits to
        base 8, a genotype is the architecture's index.

    Raises
    ------
    AttributeValueError
        For an unknown data set.

    Examples
    --------
    >>> space = nats_size()
    >>> space.encode("8:8:40:32:40").tolist(), space.decode([0, 0, 0, 1, 3])
    ([0, 0, 4, 3, 4], '8:8:8:16:32')
    """
    if dataset not in _DATASETS:
        raise AttributeValueError(f"dataset={dataset!r}{close_names(dataset, _DATASETS)}; "
                                  f"allowed: {', '.join(map(repr, _DATASETS))}")  # fmt: skip
    num_classes, resolution = _DATASETS[dataset]
    layers = (_cell, _reduction, _cell, _reduction, _cell)
    return _NatsSize(
        f"nats_size {dataset}",
        [Gene(f"c{i}", WIDTHS) for i in range(5)],
        [
            Slot("stem", partial(_stem, resolution=resolution), {"channels": "c0"}),
            *(Slot(f"cells_{i}", layer, {"channels": f"c{i}"}) for i, layer in enumerate(layers)),
            Slot("head", partial(_head, num_classes=num_classes)),
        ],
    )
