"""What NASNet and PNASNet share: separable branches and pools, padded as in TensorFlow, as timm has them."""

from __future__ import annotations

from cnnlive.graph import Graph, Tensor

__all__ = ["act_conv_bn", "branch", "conv_same", "factorized_reduction", "pool_same", "stem_conv"]

_EPS = 0.001


def _pad_same(g: Graph, x: Tensor, kernel: int, stride: int, name: str) -> Tensor:
    """Pad to ceil(size / stride) outputs with a separate op, which copies even where nothing is missing."""
    pads: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += (total // 2, total - total // 2)
    return g.pad(x, pads, name=f"{name}.pad")


def conv_same(g: Graph, x: Tensor, channels: int, kernel: int, stride: int, groups: int, name: str) -> Tensor:
    """Add a convolution; only a stride above 1 needs padding that depends on the input's size."""
    padding = kernel // 2
    if stride > 1:
        x, padding = _pad_same(g, x, kernel, stride, name), 0
    return g.conv2d(x, channels, kernel, stride=stride, padding=padding, groups=groups, bias=False, name=name)


def pool_same(g: Graph, x: Tensor, kind: str, stride: int, name: str) -> Tensor:
    """Add a 3x3 ``max`` or ``avg`` pool."""
    padding = 1
    if stride > 1:
        x, padding = _pad_same(g, x, 3, stride, name), 0
    if kind == "max":
        return g.max_pool2d(x, 3, stride=stride, padding=padding, name=name)
    return g.avg_pool2d(x, 3, stride=stride, padding=padding, count_include_pad=False, name=name)


def stem_conv(g: Graph, x: Tensor, channels: int, name: str) -> Tensor:
    """Add the unpadded first convolution."""
    with g.scope(name):
        x = g.conv2d(x, channels, 3, stride=2, bias=False, name="conv")
        return g.batch_norm2d(x, eps=_EPS, name="bn")


def act_conv_bn(g: Graph, x: Tensor, channels: int, stride: int, name: str) -> Tensor:
    """Add ReLU, 1x1 convolution, batch normalisation."""
    with g.scope(name):
        x = conv_same(g, g.relu(x, name="act"), channels, 1, stride, 1, "conv")
        return g.batch_norm2d(x, eps=_EPS, name="bn")


def branch(
    g: Graph,
    x: Tensor,
    channels: int,
    kernel: int,
    stride: int,
    name: str,
    *,
    inplace: bool,
    stem: bool = False,
) -> Tensor:
    """Add two separable convolutions; the first keeps the channels, except in a stem cell."""
    middle = channels if stem else x.channels
    with g.scope(name):
        for i, out, s in ((1, middle, stride), (2, channels, 1)):
            x = g.relu(x, inplace=inplace and i == 2, name=f"act_{i}")
            with g.scope(f"separable_{i}"):
                x = conv_same(g, x, x.channels, kernel, s, x.channels, "depthwise_conv2d")
                x = g.conv2d(x, out, 1, bias=False, name="pointwise_conv2d")
            x = g.batch_norm2d(x, eps=_EPS, name=f"bn_sep_{i}")
    return x


def factorized_reduction(g: Graph, x: Tensor, channels: int) -> Tensor:
    """Halve the resolution: every second pixel, and again from one pixel further, half the channels each."""
    x = g.relu(x, name="act")
    paths = []
    for path in ("path_1", "path_2"):
        with g.scope(path):
            y = x if path == "path_1" else g.pad(x, (-1, 1, -1, 1), name="pad")
            y = g.avg_pool2d(y, 1, stride=2, count_include_pad=False, name="avgpool")
            paths.append(g.conv2d(y, channels // 2, 1, bias=False, name="conv"))
    return g.batch_norm2d(g.concat(paths, name="paths"), eps=_EPS, name="final_path_bn")
