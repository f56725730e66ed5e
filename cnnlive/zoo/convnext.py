"""ConvNeXt: Liu et al., "A ConvNet for the 2020s", https://arxiv.org/abs/2201.03545."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from cnnlive.errors import AttributeValueError
from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, image, wholes

__all__ = ["NETS"]

_EPS: Final = 1e-6


def _layer_norm2d(g: Graph, x: Tensor, scope: str) -> Tensor:
    """Add a layer normalisation over the channels of each position."""
    with g.scope(scope):
        y = g.layer_norm(g.permute(x, (0, 2, 3, 1)), x.channels, eps=_EPS)
        return g.permute(y, (0, 3, 1, 2))


def _block(g: Graph, x: Tensor, p: float) -> Tensor:
    dim = x.channels
    scale = g.parameter((dim, 1, 1), name="layer_scale")
    with g.scope("block"):
        y = g.conv2d(x, dim, 7, 1, 3, groups=dim, name="0")
        y = g.layer_norm(g.permute(y, (0, 2, 3, 1), name="1"), dim, eps=_EPS, name="2")
        y = g.gelu(g.linear(y, 4 * dim, name="3"), name="4")
        y = g.permute(g.linear(y, dim, name="5"), (0, 3, 1, 2), name="6")
    y = g.stochastic_depth(g.mul(scale, y), p, name="stochastic_depth")
    return g.add(y, x, inplace=True)


def _convnext(
    name: str,
    p: float,
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    dims: Sequence[int] = (96, 192, 384, 768),
    depths: Sequence[int] = (3, 3, 9, 3),
) -> Graph:
    """Build a ConvNeXt of `depths` blocks on `dims` channels; `p` is the last block's stochastic depth."""
    dims, depths = wholes("dims", dims), wholes("depths", depths)
    if len(dims) != len(depths):
        raise AttributeValueError(f"dims={dims} and depths={depths}; allowed: as many depths as dims")
    g = Graph(name)
    x = image(g, resolution)
    with g.scope("features"):
        with g.scope("0"):
            x = _layer_norm2d(g, g.conv2d(x, dims[0], 4, 4, name="0"), "1")
        block = 0
        for s, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            if s:
                with g.scope(str(2 * s)):
                    x = g.conv2d(_layer_norm2d(g, x, "0"), dim, 2, 2, name="1")
            with g.scope(str(2 * s + 1)):
                for i in range(depth):
                    with g.scope(str(i)):
                        x = _block(g, x, p * block / max(1, sum(depths) - 1))
                    block += 1
    x = g.adaptive_avg_pool2d(x, 1, name="avgpool")
    with g.scope("classifier"):
        g.linear(g.flatten(_layer_norm2d(g, x, "0"), name="1"), num_classes, name="2")
    return g


NETS: Final[dict[str, Builder]] = {
    f"convnext_{size}": partial(_convnext, f"convnext_{size}", p, dims=(c, 2 * c, 4 * c, 8 * c), depths=(3, 3, n, 3))
    for size, c, n, p in (
        ("tiny", 96, 9, 0.1),
        ("small", 96, 27, 0.4),
        ("base", 128, 27, 0.5),
        ("large", 192, 27, 0.5),
    )
}
