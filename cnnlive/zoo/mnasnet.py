"""MNASNet-B1: Tan et al., "MnasNet: Platform-Aware Neural Architecture Search", https://arxiv.org/abs/1807.11626."""

from __future__ import annotations

from functools import partial
from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, conv_bn, factor, image, scaled

__all__ = ["NETS"]

# Channels, kernel, stride, expansion, repeats.
_STAGES: Final = (
    (24, 3, 2, 3, 3), (40, 5, 2, 3, 3), (80, 5, 2, 6, 3), (96, 3, 1, 6, 2), (192, 5, 2, 6, 4),
    (320, 3, 1, 6, 1),
)  # fmt: skip


def _conv_bn_relu(
    g: Graph, x: Tensor, channels: int, kernel_size: int = 1, stride: int = 1, *, first: int, groups: int = 1
) -> Tensor:
    x = conv_bn(g, x, channels, kernel_size, stride, names=(str(first), str(first + 1)), groups=groups)
    return g.relu(x, inplace=True, name=str(first + 2))


def _block(g: Graph, x: Tensor, out_channels: int, kernel_size: int, stride: int, expansion: int) -> Tensor:
    hidden = expansion * x.channels
    with g.scope("layers"):
        y = _conv_bn_relu(g, x, hidden, first=0)
        y = _conv_bn_relu(g, y, hidden, kernel_size, stride, first=3, groups=hidden)
        y = conv_bn(g, y, out_channels, names="67")
    return g.add(y, x) if stride == 1 and x.channels == out_channels else y


def _mnasnet(
    name: str,
    alpha: float,
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    width: float = 1.0,
) -> Graph:
    """Build a MNASNet; `width` multiplies the variant's own factor, results are rounded to multiples of 8."""
    alpha *= factor("width", width)
    g = Graph(name)
    x = image(g, resolution)
    with g.scope("layers"):
        stem = scaled(32, alpha)
        x = _conv_bn_relu(g, x, stem, 3, 2, first=0)
        x = _conv_bn_relu(g, x, stem, 3, first=3, groups=stem)
        x = conv_bn(g, x, scaled(16, alpha), names="67")
        for stage, (channels, kernel_size, stride, expansion, repeats) in enumerate(_STAGES, 8):
            with g.scope(str(stage)):
                for i in range(repeats):
                    with g.scope(str(i)):
                        x = _block(g, x, scaled(channels, alpha), kernel_size, 1 if i else stride, expansion)
        x = _conv_bn_relu(g, x, 1280, first=14)
    x = g.mean(x, (2, 3))
    with g.scope("classifier"):
        g.linear(g.dropout(x, p=0.2, inplace=True, name="0"), num_classes, name="1")
    return g


NETS: Final[dict[str, Builder]] = {
    name: partial(_mnasnet, name, alpha)
    for name, alpha in (("mnasnet0_5", 0.5), ("mnasnet0_75", 0.75), ("mnasnet1_0", 1.0), ("mnasnet1_3", 1.3))
}
