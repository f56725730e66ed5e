"""RegNet: Radosavovic et al., "Designing Network Design Spaces", https://arxiv.org/abs/2003.13678."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Final

from cnnlive.errors import AttributeValueError
from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import (
    Builder,
    Resolution,
    activation,
    conv_bn_act,
    factor,
    image,
    make_divisible,
    squeeze_excitation,
    whole,
)

__all__ = ["NETS"]


def _stages(depth: int, w_0: int, w_a: float, w_m: float, group_width: int) -> list[tuple[int, int, int]]:
    """Return (blocks, width, group width) of each stage: section 3.3 of the paper.

    The widths w_0 + w_a j of the blocks j are rounded to w_0 w_m**s for integers s, then to multiples of 8; a
    stage is a run of equal widths, which is then made divisible by its group width.
    """
    whole("depth", depth)
    if factor("w_m", w_m) <= 1:
        raise AttributeValueError(f"w_m={w_m!r}; allowed: a number above 1")
    if w_a:
        factor("w_a", w_a)
    if whole("w_0", w_0) % 8:
        raise AttributeValueError(f"w_0={w_0!r}; allowed: a multiple of 8")
    steps = [round(math.log((w_0 + w_a * j) / w_0) / math.log(w_m)) for j in range(depth)]
    widths = [round(w_0 * w_m**s / 8) * 8 for s in steps]
    stages = []
    for width, run in itertools.groupby(widths):
        group = min(whole("group_width", group_width), width)
        stages.append((len(list(run)), make_divisible(width, group), group))
    return stages


def _block(g: Graph, x: Tensor, channels: int, stride: int, group_width: int, se_ratio: float) -> Tensor:
    shortcut = x
    if x.channels != channels or stride != 1:
        shortcut = conv_bn_act(g, x, channels, 1, stride, scope="proj", act=None)
    with g.scope("f"):
        y = conv_bn_act(g, x, channels, scope="a", act="relu")
        y = conv_bn_act(g, y, channels, 3, stride, scope="b", act="relu", groups=channels // group_width)
        if se_ratio:
            y = squeeze_excitation(g, y, round(factor("se_ratio", se_ratio) * x.channels), scope="se")
        y = conv_bn_act(g, y, channels, scope="c", act=None)
    return activation(g, g.add(shortcut, y), "relu", inplace=True, name="activation")


def _regnet(
    name: str,
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    depth: int = 16,
    w_0: int = 48,
    w_a: float = 27.89,
    w_m: float = 2.09,
    group_width: int = 8,
    se_ratio: float = 0.0,
) -> Graph:
    """Build a RegNet from the paper's parameters; without squeeze-excitation if `se_ratio` is 0."""
    g = Graph(name)
    x = conv_bn_act(g, image(g, resolution), 32, 3, 2, scope="stem", act="relu")
    with g.scope("trunk_output"):
        for s, (blocks, channels, group) in enumerate(_stages(depth, w_0, w_a, w_m, group_width), 1):
            with g.scope(f"block{s}"):
                for i in range(blocks):
                    with g.scope(f"block{s}-{i}"):
                        x = _block(g, x, channels, 1 if i else 2, group, se_ratio)
    x = g.flatten(g.adaptive_avg_pool2d(x, 1, name="avgpool"))
    g.linear(x, num_classes, name="fc")
    return g


def _net(size: str, depth: int, w_0: int, w_a: float, w_m: float, group_width: int, resolution: int = 224) -> Builder:
    return partial(
        _regnet,
        f"regnet_{size}",
        resolution=resolution,
        depth=depth,
        w_0=w_0,
        w_a=w_a,
        w_m=w_m,
        group_width=group_width,
        se_ratio=0.25 if size.startswith("y") else 0.0,
    )


# The largest was published for images of 384 pixels, the others for 224.
NETS: Final[dict[str, Builder]] = {
    "regnet_y_400mf": _net("y_400mf", 16, 48, 27.89, 2.09, 8),
    "regnet_y_800mf": _net("y_800mf", 14, 56, 38.84, 2.4, 16),
    "regnet_y_1_6gf": _net("y_1_6gf", 27, 48, 20.71, 2.65, 24),
    "regnet_y_3_2gf": _net("y_3_2gf", 21, 80, 42.63, 2.66, 24),
    "regnet_y_8gf": _net("y_8gf", 17, 192, 76.82, 2.19, 56),
    "regnet_y_16gf": _net("y_16gf", 18, 200, 106.23, 2.48, 112),
    "regnet_y_32gf": _net("y_32gf", 20, 232, 115.89, 2.53, 232),
    "regnet_y_128gf": _net("y_128gf", 27, 456, 160.83, 2.52, 264, 384),
    "regnet_x_400mf": _net("x_400mf", 22, 24, 24.48, 2.54, 16),
    "regnet_x_800mf": _net("x_800mf", 16, 56, 35.73, 2.28, 16),
    "regnet_x_1_6gf": _net("x_1_6gf", 18, 80, 34.01, 2.25, 24),
    "regnet_x_3_2gf": _net("x_3_2gf", 25, 88, 26.31, 2.25, 48),
    "regnet_x_8gf": _net("x_8gf", 23, 80, 49.56, 2.88, 120),
    "regnet_x_16gf": _net("x_16gf", 22, 216, 55.59, 2.1, 128),
    "regnet_x_32gf": _net("x_32gf", 23, 320, 69.86, 2.0, 168),
}
