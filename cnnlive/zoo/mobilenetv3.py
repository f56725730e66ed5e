"""MobileNetV3: Howard et al., "Searching for MobileNetV3", https://arxiv.org/abs/1905.02244."""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import (
    Builder,
    Resolution,
    activation,
    conv_bn_act,
    image,
    make_divisible,
    scaled,
    squeeze_excitation,
)

__all__ = ["NETS"]

_EPS: Final = 1e-3


class Row(NamedTuple):
    """A bottleneck, as in Tables 1 and 2 of the paper."""

    kernel_size: int
    expanded: int
    out_channels: int
    squeeze: bool
    act: str
    stride: int


LARGE: Final = (
    Row(3, 16, 16, False, "relu", 1),
    Row(3, 64, 24, False, "relu", 2),
    Row(3, 72, 24, False, "relu", 1),
    Row(5, 72, 40, True, "relu", 2),
    Row(5, 120, 40, True, "relu", 1),
    Row(5, 120, 40, True, "relu", 1),
    Row(3, 240, 80, False, "hardswish", 2),
    Row(3, 200, 80, False, "hardswish", 1),
    Row(3, 184, 80, False, "hardswish", 1),
    Row(3, 184, 80, False, "hardswish", 1),
    Row(3, 480, 112, True, "hardswish", 1),
    Row(3, 672, 112, True, "hardswish", 1),
    Row(5, 672, 160, True, "hardswish", 2),
    Row(5, 960, 160, True, "hardswish", 1),
    Row(5, 960, 160, True, "hardswish", 1),
)
_SMALL: Final = (
    Row(3, 16, 16, True, "relu", 2),
    Row(3, 72, 24, False, "relu", 2),
    Row(3, 88, 24, False, "relu", 1),
    Row(5, 96, 40, True, "hardswish", 2),
    Row(5, 240, 40, True, "hardswish", 1),
    Row(5, 240, 40, True, "hardswish", 1),
    Row(5, 120, 48, True, "hardswish", 1),
    Row(5, 144, 48, True, "hardswish", 1),
    Row(5, 288, 96, True, "hardswish", 2),
    Row(5, 576, 96, True, "hardswish", 1),
    Row(5, 576, 96, True, "hardswish", 1),
)


def block(g: Graph, x: Tensor, row: Row, width: float) -> Tensor:
    expanded, out_channels = scaled(row.expanded, width), scaled(row.out_channels, width)
    y, i = x, 0
    with g.scope("block"):
        if expanded != x.channels:
            y, i = conv_bn_act(g, y, expanded, scope="0", act=row.act, eps=_EPS), 1
        y = conv_bn_act(
            g, y, expanded, row.kernel_size, row.stride, scope=str(i), groups=expanded, act=row.act, eps=_EPS
        )
        if row.squeeze:
            i += 1
            y = squeeze_excitation(g, y, make_divisible(expanded // 4), scope=str(i), scale="hardsigmoid")
        y = conv_bn_act(g, y, out_channels, scope=str(i + 1), act=None, eps=_EPS)
    return g.add(y, x, inplace=True) if row.stride == 1 and x.channels == out_channels else y


def _mobilenet_v3(
    name: str,
    rows: tuple[Row, ...],
    hidden: int,
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    width: float = 1.0,
) -> Graph:
    """Build a MobileNetV3; `width` multiplies all channels, rounded to multiples of 8."""
    g = Graph(name)
    x = image(g, resolution)
    with g.scope("features"):
        x = conv_bn_act(g, x, scaled(16, width), 3, 2, scope="0", act="hardswish", eps=_EPS)
        for i, row in enumerate(rows, 1):
            with g.scope(str(i)):
                x = block(g, x, row, width)
        x = conv_bn_act(g, x, 6 * x.channels, scope=str(len(rows) + 1), act="hardswish", eps=_EPS)
    x = g.flatten(g.adaptive_avg_pool2d(x, 1, name="avgpool"))
    with g.scope("classifier"):
        x = activation(g, g.linear(x, scaled(hidden, width), name="0"), "hardswish", inplace=True, name="1")
        g.linear(g.dropout(x, p=0.2, inplace=True, name="2"), num_classes, name="3")
    return g


NETS: Final[dict[str, Builder]] = {
    "mobilenet_v3_large": partial(_mobilenet_v3, "mobilenet_v3_large", LARGE, 1280),
    "mobilenet_v3_small": partial(_mobilenet_v3, "mobilenet_v3_small", _SMALL, 1024),
}
