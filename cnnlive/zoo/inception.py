"""Inception v3: Szegedy et al., "Rethinking the Inception Architecture", https://arxiv.org/abs/1512.00567."""

from __future__ import annotations

from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, basic_conv, image

__all__ = ["NETS", "inception_v3"]


def _conv(g: Graph, x: Tensor, scope: str, channels: int, height: int = 1, width: int = 0, stride: int = 1) -> Tensor:
    """Add a convolution of a kernel (height, width), a width of 0 being the height; padded unless strided."""
    kernel = (height, width or height)
    return basic_conv(
        g, x, channels, kernel, stride, (kernel[0] // 2, kernel[1] // 2) if stride == 1 else 0, scope=scope
    )


def _pooled(g: Graph, x: Tensor, channels: int) -> Tensor:
    return _conv(g, g.avg_pool2d(x, 3, 1, 1), "branch_pool", channels)


def _double(g: Graph, x: Tensor, stride: int) -> Tensor:
    x = _conv(g, x, "branch3x3dbl_1", 64)
    x = _conv(g, x, "branch3x3dbl_2", 96, 3)
    return _conv(g, x, "branch3x3dbl_3", 96, 3, stride=stride)


def _block_a(g: Graph, x: Tensor, pool_channels: int) -> Tensor:
    return g.concat(
        [
            _conv(g, x, "branch1x1", 64),
            _conv(g, _conv(g, x, "branch5x5_1", 48), "branch5x5_2", 64, 5),
            _double(g, x, 1),
            _pooled(g, x, pool_channels),
        ]
    )


def _block_b(g: Graph, x: Tensor) -> Tensor:
    return g.concat([_conv(g, x, "branch3x3", 384, 3, stride=2), _double(g, x, 2), g.max_pool2d(x, 3, 2)])


def _block_c(g: Graph, x: Tensor, c: int) -> Tensor:
    branch1 = _conv(g, x, "branch1x1", 192)
    short = _conv(g, x, "branch7x7_1", c)
    short = _conv(g, short, "branch7x7_2", c, 1, 7)
    short = _conv(g, short, "branch7x7_3", 192, 7, 1)
    long = _conv(g, x, "branch7x7dbl_1", c)
    for i, (channels, height, width) in enumerate(((c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7)), 2):
        long = _conv(g, long, f"branch7x7dbl_{i}", channels, height, width)
    return g.concat([branch1, short, long, _pooled(g, x, 192)])


def _block_d(g: Graph, x: Tensor) -> Tensor:
    short = _conv(g, _conv(g, x, "branch3x3_1", 192), "branch3x3_2", 320, 3, stride=2)
    long = _conv(g, x, "branch7x7x3_1", 192)
    long = _conv(g, long, "branch7x7x3_2", 192, 1, 7)
    long = _conv(g, long, "branch7x7x3_3", 192, 7, 1)
    long = _conv(g, long, "branch7x7x3_4", 192, 3, stride=2)
    return g.concat([short, long, g.max_pool2d(x, 3, 2)])


def _fork(g: Graph, x: Tensor, scope: str) -> Tensor:
    return g.concat([_conv(g, x, f"{scope}a", 384, 1, 3), _conv(g, x, f"{scope}b", 384, 3, 1)])


def _block_e(g: Graph, x: Tensor) -> Tensor:
    branch1 = _conv(g, x, "branch1x1", 320)
    short = _fork(g, _conv(g, x, "branch3x3_1", 384), "branch3x3_2")
    long = _conv(g, _conv(g, x, "branch3x3dbl_1", 448), "branch3x3dbl_2", 384, 3)
    long = _fork(g, long, "branch3x3dbl_3")
    return g.concat([branch1, short, long, _pooled(g, x, 192)])


def _auxiliary(g: Graph, x: Tensor, num_classes: int) -> Tensor:
    x = basic_conv(g, g.avg_pool2d(x, 5, 3), 128, scope="conv0")
    x = basic_conv(g, x, 768, 5, scope="conv1")
    return g.linear(g.flatten(g.adaptive_avg_pool2d(x, 1)), num_classes, name="fc")


def inception_v3(train: bool = False, *, num_classes: int = 1000, resolution: Resolution = 299) -> Graph:
    """Build Inception v3.

    Parameters
    ----------
    train : bool
        With the auxiliary classifier; outputs are then the main one and the auxiliary one.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image, at least 75.

    Examples
    --------
    >>> inception_v3().n_parameters, inception_v3(train=True).n_parameters
    (23834568, 27161264)
    """
    g = Graph("inception_v3")
    x = basic_conv(g, image(g, resolution), 32, 3, 2, scope="Conv2d_1a_3x3")
    x = basic_conv(g, x, 32, 3, scope="Conv2d_2a_3x3")
    x = basic_conv(g, x, 64, 3, 1, 1, scope="Conv2d_2b_3x3")
    x = g.max_pool2d(x, 3, 2, name="maxpool1")
    x = basic_conv(g, x, 80, scope="Conv2d_3b_1x1")
    x = basic_conv(g, x, 192, 3, scope="Conv2d_4a_3x3")
    x = g.max_pool2d(x, 3, 2, name="maxpool2")
    for name, pool_channels in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        with g.scope(name):
            x = _block_a(g, x, pool_channels)
    with g.scope("Mixed_6a"):
        x = _block_b(g, x)
    for name, channels in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        with g.scope(name):
            x = _block_c(g, x, channels)
    auxiliary = []
    if train:
        with g.scope("AuxLogits"):
            auxiliary.append(_auxiliary(g, x, num_classes))
    with g.scope("Mixed_7a"):
        x = _block_d(g, x)
    for name in ("Mixed_7b", "Mixed_7c"):
        with g.scope(name):
            x = _block_e(g, x)
    x = g.dropout(g.adaptive_avg_pool2d(x, 1, name="avgpool"), name="dropout")
    x = g.linear(g.flatten(x), num_classes, name="fc")
    g.output(x, *auxiliary)
    return g


NETS: Final[dict[str, Builder]] = {"inception_v3": inception_v3}
