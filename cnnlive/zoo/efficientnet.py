"""EfficientNet and EfficientNetV2.

Tan and Le, "EfficientNet: Rethinking Model Scaling for CNNs", https://arxiv.org/abs/1905.11946, and
"EfficientNetV2: Smaller Models and Faster Training", https://arxiv.org/abs/2104.00298.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final, NamedTuple

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import (
    Builder,
    Resolution,
    conv_bn_act,
    factor,
    image,
    make_divisible,
    scaled,
    squeeze_excitation,
)

__all__ = ["NETS"]


class _Stage(NamedTuple):
    """A stage of (fused) inverted bottlenecks; the stride is that of the first."""

    fused: bool
    expansion: int
    kernel_size: int
    stride: int
    out_channels: int
    layers: int


class _Variant(NamedTuple):
    """A published net: its stem, stages and factors; `last` channels before the classifier, 0: four times."""

    stem: int
    stages: tuple[_Stage, ...]
    last: int
    width: float
    depth: float
    dropout: float
    eps: float


def _stages(*rows: tuple[int, int, int, int, int], fused: int = 0) -> tuple[_Stage, ...]:
    return tuple(_Stage(i < fused, *row) for i, row in enumerate(rows))


_B: Final = _stages(
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
)  # fmt: skip
_S: Final = _stages(
    (1, 3, 1, 24, 2), (4, 3, 2, 48, 4), (4, 3, 2, 64, 4), (4, 3, 2, 128, 6), (6, 3, 1, 160, 9),
    (6, 3, 2, 256, 15), fused=3,
)  # fmt: skip
_M: Final = _stages(
    (1, 3, 1, 24, 3), (4, 3, 2, 48, 5), (4, 3, 2, 80, 5), (4, 3, 2, 160, 7), (6, 3, 1, 176, 14),
    (6, 3, 2, 304, 18), (6, 3, 1, 512, 5), fused=3,
)  # fmt: skip
_L: Final = _stages(
    (1, 3, 1, 32, 4), (4, 3, 2, 64, 7), (4, 3, 2, 96, 7), (4, 3, 2, 192, 10), (6, 3, 1, 224, 19),
    (6, 3, 2, 384, 25), (6, 3, 1, 640, 7), fused=3,
)  # fmt: skip


def _block(g: Graph, x: Tensor, stage: _Stage, out_channels: int, stride: int, p: float, eps: float) -> Tensor:
    """Add a block: expand, depthwise and squeeze-excitation, or both in one convolution if fused; project."""
    expanded, i = make_divisible(x.channels * stage.expansion), 0
    conv = partial(conv_bn_act, g, eps=eps)
    y = x
    with g.scope("block"):
        if stage.fused:
            single = expanded == x.channels
            width = out_channels if single else expanded
            y = conv(y, width, stage.kernel_size, stride, scope="0", act="silu")
        else:
            single = False
            if expanded != x.channels:
                y, i = conv(y, expanded, scope="0", act="silu"), 1
            y = conv(y, expanded, stage.kernel_size, stride, scope=str(i), groups=expanded, act="silu")
            i += 1
            y = squeeze_excitation(g, y, max(1, x.channels // 4), scope=str(i), act="silu", inplace=True)
        if not single:
            y = conv(y, out_channels, scope=str(i + 1), act=None)
    if stride == 1 and x.channels == out_channels:
        y = g.add(g.stochastic_depth(y, p, name="stochastic_depth"), x, inplace=True)
    return y


def _efficientnet(
    name: str,
    variant: _Variant,
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    width: float = 1.0,
    depth: float = 1.0,
) -> Graph:
    """Build an EfficientNet; `width` and `depth` multiply the variant's own factors.

    Channels are rounded to multiples of 8, layers up; a fixed last convolution is never narrowed.
    """
    widening, deepening = variant.width * factor("width", width), variant.depth * factor("depth", depth)
    g = Graph(name)
    conv = partial(conv_bn_act, g, eps=variant.eps)
    layers = [math.ceil(stage.layers * deepening) for stage in variant.stages]
    x = image(g, resolution)
    with g.scope("features"):
        x = conv(x, scaled(variant.stem, widening), 3, 2, scope="0", act="silu")
        block = 0
        for s, (stage, n) in enumerate(zip(variant.stages, layers, strict=True), 1):
            with g.scope(str(s)):
                for i in range(n):
                    out_channels, stride = scaled(stage.out_channels, widening), 1 if i else stage.stride
                    with g.scope(str(i)):
                        x = _block(g, x, stage, out_channels, stride, 0.2 * block / sum(layers), variant.eps)
                    block += 1
        last = scaled(variant.last, max(1.0, widening)) if variant.last else 4 * x.channels
        x = conv(x, last, scope=str(len(layers) + 1), act="silu")
    x = g.flatten(g.adaptive_avg_pool2d(x, 1, name="avgpool"))
    with g.scope("classifier"):
        g.linear(g.dropout(x, p=variant.dropout, inplace=True, name="0"), num_classes, name="1")
    return g


NETS: Final[dict[str, Builder]] = {
    f"efficientnet_{size}": partial(_efficientnet, f"efficientnet_{size}", variant, resolution=resolution)
    for size, resolution, variant in (
        ("b0", 224, _Variant(32, _B, 0, 1.0, 1.0, 0.2, 1e-5)),
        ("b1", 240, _Variant(32, _B, 0, 1.0, 1.1, 0.2, 1e-5)),
        ("b2", 288, _Variant(32, _B, 0, 1.1, 1.2, 0.3, 1e-5)),
        ("b3", 300, _Variant(32, _B, 0, 1.2, 1.4, 0.3, 1e-5)),
        ("b4", 380, _Variant(32, _B, 0, 1.4, 1.8, 0.4, 1e-5)),
        ("b5", 456, _Variant(32, _B, 0, 1.6, 2.2, 0.4, 1e-3)),
        ("b6", 528, _Variant(32, _B, 0, 1.8, 2.6, 0.5, 1e-3)),
        ("b7", 600, _Variant(32, _B, 0, 2.0, 3.1, 0.5, 1e-3)),
        ("v2_s", 384, _Variant(24, _S, 1280, 1.0, 1.0, 0.2, 1e-3)),
        ("v2_m", 480, _Variant(24, _M, 1280, 1.0, 1.0, 0.3, 1e-3)),
        ("v2_l", 480, _Variant(32, _L, 1280, 1.0, 1.0, 0.4, 1e-3)),
    )
}
