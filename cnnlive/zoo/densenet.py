"""DenseNet-BC: Huang et al., "Densely Connected Convolutional Networks", https://arxiv.org/abs/1608.06993."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from cnnlive.errors import AttributeValueError
from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, conv_bn, image, spread, whole, wholes

__all__ = ["NETS", "densenet"]

_BLOCKS: Final = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


def _layer(g: Graph, features: list[Tensor], growth_rate: int) -> Tensor:
    joined = g.concat(features)
    x = g.relu(g.batch_norm2d(joined, name="norm1"), inplace=True, name="relu1")
    narrow = g.conv2d(x, 4 * growth_rate, 1, bias=False, name="conv1")
    x = g.relu(g.batch_norm2d(narrow, name="norm2"), inplace=True, name="relu2")
    x = g.conv2d(x, growth_rate, 3, 1, 1, bias=False, name="conv2")
    # Local variables of the reference implementation.
    g.hold(joined, until=narrow)
    g.hold(narrow, until=x)
    return x


def _densenet(
    name: str,
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    blocks: Sequence[int] = (6, 12, 24, 16),
    growth_rate: int = 32,
) -> Graph:
    """Build a DenseNet-BC: twice `growth_rate` channels at first, halved by each transition."""
    k = whole("growth_rate", growth_rate)
    counts = wholes("blocks", blocks)
    g = Graph(name)
    x = image(g, resolution)
    with g.scope("features"):
        x = conv_bn(g, x, 2 * k, 7, 2, names=("conv0", "norm0"))
        x = g.max_pool2d(g.relu(x, inplace=True, name="relu0"), 3, 2, 1, name="pool0")
        for b, n in enumerate(counts, 1):
            with g.scope(f"denseblock{b}"):
                features = [x]
                for i in range(n):
                    with g.scope(f"denselayer{i + 1}"):
                        features.append(_layer(g, features, k))
                x = g.concat(features)
            if b < len(counts):
                with g.scope(f"transition{b}"):
                    x = g.relu(g.batch_norm2d(x, name="norm"), inplace=True, name="relu")
                    x = g.conv2d(x, x.channels // 2, 1, bias=False, name="conv")
                    x = g.avg_pool2d(x, 2, 2, name="pool")
        last = g.batch_norm2d(x, name="norm5")
    x = g.flatten(g.adaptive_avg_pool2d(g.relu(last, inplace=True), 1))
    g.hold(last, until=g.linear(x, num_classes, name="classifier"))
    return g


def densenet(
    train: bool = False,
    *,
    depth: int = 121,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    growth_rate: int = 32,
) -> Graph:
    """Build a DenseNet-BC of any depth.

    Parameters
    ----------
    train : bool
        Both graphs are the same.
    depth : int
        Layers with weights: ``2 n + 5`` for n >= 7 dense layers. 121, 161 (with a growth rate of 48), 169
        and 201 are the published nets; else the layers are spread over the four blocks as 6 : 12 : 24 : 16
        (those of DenseNet-121), the running sums rounded half up.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.
    growth_rate : int
        Channels that each layer adds.

    Raises
    ------
    AttributeValueError
        If an argument is not allowed.

    Notes
    -----
    A layer reads all layers before it in its block, so the graph has O(depth**2) edges.

    Examples
    --------
    >>> densenet(depth=161, growth_rate=48).n_parameters
    28681000
    """
    n, rest = divmod(whole("depth", depth, 19) - 5, 2)
    if rest:
        raise AttributeValueError(f"depth={depth}; allowed: 2 n + 5, such as {2 * n + 5} or {2 * n + 7}")
    return _densenet(
        "densenet",
        train,
        num_classes=num_classes,
        resolution=resolution,
        growth_rate=growth_rate,
        blocks=_BLOCKS.get(depth) or spread(n, _BLOCKS[121]),
    )


NETS: Final[dict[str, Builder]] = {
    f"densenet{depth}": partial(_densenet, f"densenet{depth}", blocks=blocks, growth_rate=48 if depth == 161 else 32)
    for depth, blocks in _BLOCKS.items()
} | {"densenet": densenet}
