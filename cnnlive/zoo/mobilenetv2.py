"""MobileNetV2: Sandler et al., "Inverted Residuals and Linear Bottlenecks", https://arxiv.org/abs/1801.04381."""

from __future__ import annotations

from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, conv_bn, conv_bn_act, factor, image, scaled

__all__ = ["NETS", "mobilenet_v2"]

# Table 2 of the paper: expansion, channels, repeats, stride.
STAGES: Final = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def block(g: Graph, x: Tensor, out_channels: int, stride: int, expansion: int) -> Tensor:
    y, hidden, i = x, expansion * x.channels, 0
    with g.scope("conv"):
        if expansion != 1:
            y, i = conv_bn_act(g, y, hidden, scope="0", act="relu6"), 1
        y = conv_bn_act(g, y, hidden, 3, stride, scope=str(i), groups=hidden, act="relu6")
        y = conv_bn(g, y, out_channels, names=(str(i + 1), str(i + 2)))
    return g.add(x, y) if stride == 1 and x.channels == out_channels else y


def mobilenet_v2(
    train: bool = False, *, num_classes: int = 1000, resolution: Resolution = 224, width: float = 1.0
) -> Graph:
    """Build MobileNetV2.

    Parameters
    ----------
    train : bool
        Both graphs are the same.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.
    width : float
        Multiplies all channels, those of the last convolution only if above 1; results are rounded to
        multiples of 8.

    Examples
    --------
    >>> mobilenet_v2().n_parameters, mobilenet_v2(width=0.5).n_parameters
    (3504872, 1968680)
    """
    g = Graph("mobilenet_v2")
    x = image(g, resolution)
    with g.scope("features"):
        x = conv_bn_act(g, x, scaled(32, width), 3, 2, scope="0", act="relu6")
        i = 1
        for expansion, channels, repeats, first_stride in STAGES:
            for r in range(repeats):
                with g.scope(str(i)):
                    x = block(g, x, scaled(channels, width), 1 if r else first_stride, expansion)
                i += 1
        x = conv_bn_act(g, x, scaled(1280, max(1.0, factor("width", width))), scope=str(i), act="relu6")
    x = g.flatten(g.adaptive_avg_pool2d(x, 1))
    with g.scope("classifier"):
        g.linear(g.dropout(x, p=0.2, name="0"), num_classes, name="1")
    return g


NETS: Final[dict[str, Builder]] = {"mobilenet_v2": mobilenet_v2}
