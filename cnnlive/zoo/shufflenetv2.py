"""ShuffleNetV2: Ma et al., "Practical Guidelines for Efficient CNN ...", https://arxiv.org/abs/1807.11164."""

from __future__ import annotations

from functools import partial
from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, conv_bn, image, scaled

__all__ = ["NETS"]

_REPEATS: Final = (4, 8, 4)


def _conv_bn_relu(g: Graph, x: Tensor, channels: int, kernel_size: int, stride: int, first: int) -> Tensor:
    x = conv_bn(g, x, channels, kernel_size, stride, names=(str(first), str(first + 1)))
    return g.relu(x, inplace=True, name=str(first + 2))


def _unit(g: Graph, x: Tensor, out_channels: int, stride: int) -> Tensor:
    """Add a unit: half the channels pass by, or through a branch of their own if the resolution is halved."""
    half = out_channels // 2
    if stride == 1:
        left, right = g.chunk(x, 2)
    else:
        right = x
        with g.scope("branch1"):
            left = conv_bn(g, x, x.channels, 3, stride, names="01", groups=x.channels)
            left = _conv_bn_relu(g, left, half, 1, 1, 2)
    with g.scope("branch2"):
        right = _conv_bn_relu(g, right, half, 1, 1, 0)
        right = conv_bn(g, right, half, 3, stride, names="34", groups=half)
        right = _conv_bn_relu(g, right, half, 1, 1, 5)
    return g.channel_shuffle(g.concat([left, right]), 2)


def _shufflenet_v2(
    name: str,
    channels: tuple[int, int, int],
    last: int,
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    width: float = 1.0,
) -> Graph:
    """Build a ShuffleNetV2; `width` multiplies the stages' channels, rounded to multiples of 4."""
    g = Graph(name)
    x = image(g, resolution)
    with g.scope("conv1"):
        x = _conv_bn_relu(g, x, 24, 3, 2, 0)
    x = g.max_pool2d(x, 3, 2, 1, name="maxpool")
    for stage, (c, repeats) in enumerate(zip(channels, _REPEATS, strict=True), 2):
        with g.scope(f"stage{stage}"):
            for i in range(repeats):
                with g.scope(str(i)):
                    x = _unit(g, x, scaled(c, width, 4), 1 if i else 2)
    with g.scope("conv5"):
        x = _conv_bn_relu(g, x, last, 1, 1, 0)
    g.linear(g.mean(x, (2, 3)), num_classes, name="fc")
    return g


NETS: Final[dict[str, Builder]] = {
    f"shufflenet_v2_{size}": partial(_shufflenet_v2, f"shufflenet_v2_{size}", channels, last)
    for size, channels, last in (
        ("x0_5", (48, 96, 192), 1024),
        ("x1_0", (116, 232, 464), 1024),
        ("x1_5", (176, 352, 704), 1024),
        ("x2_0", (244, 488, 976), 2048),
    )
}
