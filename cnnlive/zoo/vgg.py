"""VGG: Simonyan and Zisserman, "Very Deep Convolutional Networks ...", https://arxiv.org/abs/1409.1556.

The letters are the columns of its Table 1. ``plain`` is the same chain at any depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, image, scaled, spread, whole, wholes

__all__ = ["NETS", "plain"]

_CHANNELS: Final = (64, 128, 256, 512, 512)
_LAYERS: Final = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _features(g: Graph, x: Tensor, layers: Sequence[int], batch_norm: bool, width: float) -> Tensor:
    """Add the five stages of 3x3 convolutions, each ended by a pool."""
    names = map(str, count())
    with g.scope("features"):
        for channels, n in zip(_CHANNELS, wholes("layers", layers, 5), strict=True):
            for _ in range(n):
                x = g.conv2d(x, scaled(channels, width), 3, 1, 1, name=next(names))
                if batch_norm:
                    x = g.batch_norm2d(x, name=next(names))
                x = g.relu(x, inplace=True, name=next(names))
            x = g.max_pool2d(x, 2, 2, name=next(names))
    return x


def _vgg(
    name: str,
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    width: float = 1.0,
    layers: Sequence[int] = (1, 1, 2, 2, 2),
    batch_norm: bool = False,
) -> Graph:
    """Build a VGG; `width` multiplies all channels and the hidden layers of the classifier."""
    g = Graph(name)
    x = _features(g, image(g, resolution), layers, batch_norm, width)
    x = g.flatten(g.adaptive_avg_pool2d(x, 7, name="avgpool"))
    with g.scope("classifier"):
        for i in (0, 3):
            x = g.relu(g.linear(x, scaled(4096, width), name=str(i)), inplace=True, name=str(i + 1))
            x = g.dropout(x, name=str(i + 2))
        g.linear(x, num_classes, name="6")
    return g


def plain(
    train: bool = False,
    *,
    depth: int = 16,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    width: float = 1.0,
    batch_norm: bool = False,
) -> Graph:
    """Build a chain of any depth in the form of VGG.

    Parameters
    ----------
    train : bool
        Both graphs are the same.
    depth : int
        Layers with weights: ``depth - 1`` convolutions 3x3, spread evenly over five stages of 64, 128, 256,
        512 and 512 channels with a pool after each, and one linear layer behind a global mean pool. At
        least 6.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.
    width : float
        Multiplies all channels.
    batch_norm : bool
        Put a batch normalisation behind each convolution.

    Raises
    ------
    AttributeValueError
        If an argument is not allowed.

    Examples
    --------
    >>> g = plain(depth=1000)
    >>> sum(g.op_of(n) == "conv2d" for n in g.nodes())
    999
    """
    g = Graph("plain")
    x = _features(g, image(g, resolution), spread(whole("depth", depth, 6) - 1, (1,) * 5), batch_norm, width)
    x = g.flatten(g.adaptive_avg_pool2d(x, 1, name="avgpool"))
    g.linear(x, num_classes, name="classifier")
    return g


NETS: Final[dict[str, Builder]] = {
    f"vgg{depth}{'_bn' * bn}": partial(_vgg, f"vgg{depth}{'_bn' * bn}", layers=layers, batch_norm=bn)
    for depth, layers in _LAYERS.items()
    for bn in (False, True)
} | {"plain": plain}
