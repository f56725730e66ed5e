"""Semantic segmentation on a dilated ResNet-50: FCN and DeepLabV3.

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation",
https://arxiv.org/abs/1411.4038; Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation",
https://arxiv.org/abs/1706.05587. Module paths and op order follow torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, conv_bn, image, whole
from cnnlive.zoo.resnet import stages

__all__ = ["NETS", "deeplabv3_resnet50", "fcn_resnet50"]

_BLOCKS: Final = (3, 4, 6, 3)


def _unit(g: Graph, x: Tensor, channels: int, kernel: int, dilation: int = 1, first: int = 0) -> Tensor:
    """Add convolution, batch normalisation and ReLU, named from `first` on."""
    x = conv_bn(g, x, channels, kernel, names=(f"{first}", f"{first + 1}"), dilation=dilation)
    return g.relu(x, name=f"{first + 2}")


def _fcn_head(g: Graph, x: Tensor, num_classes: int) -> Tensor:
    x = _unit(g, x, x.channels // 4, 3)
    return g.conv2d(g.dropout(x, 0.1, name="3"), num_classes, 1, name="4")


def _deeplab_head(g: Graph, x: Tensor, num_classes: int, rates: Sequence[int], channels: int = 256) -> Tensor:
    """Add atrous spatial pyramid pooling and the classifier."""
    with g.scope("0"):
        with g.scope("convs.0"):
            branches = [_unit(g, x, channels, 1)]
        for i, rate in enumerate(rates, 1):
            with g.scope(f"convs.{i}"):
                branches.append(_unit(g, x, channels, 3, whole("rates", rate)))
        with g.scope(f"convs.{len(rates) + 1}"):
            y = _unit(g, g.adaptive_avg_pool2d(x, 1, name="0"), channels, 1, first=1)
            branches.append(g.interpolate(y, size=x.shape[2:], mode="bilinear"))
        y = g.concat(branches)
        with g.scope("project"):
            y = g.dropout(_unit(g, y, channels, 1), 0.5, name="3")
        for branch in branches:  # a list in the reference implementation
            g.hold(branch, until=y)
    return g.conv2d(_unit(g, y, channels, 3, first=1), num_classes, 1, name="4")


def _segmentation(
    name: str, train: bool, num_classes: int, resolution: Resolution, head: Callable[[Graph, Tensor], Tensor]
) -> Graph:
    """Build backbone, head and, for training, the auxiliary head on the third stage."""
    g = Graph(name)
    x = image(g, resolution)
    size = x.shape[2:]
    with g.scope("backbone"):
        *_, third, last = stages(g, x, _BLOCKS, dilated=(2, 3))
    with g.scope("classifier"):
        y = head(g, last)
    outputs = [g.interpolate(y, size=size, mode="bilinear", name="out")]
    if train:
        with g.scope("aux_classifier"):
            y = _fcn_head(g, third, num_classes)
        outputs.append(g.interpolate(y, size=size, mode="bilinear", name="aux"))
        g.hold(third, until=outputs[-1])
    g.hold(last, until=outputs[-1])  # the backbone's dict of features outlives the heads
    g.output(*outputs)
    return g


def fcn_resnet50(train: bool = False, *, num_classes: int = 21, resolution: Resolution = 224) -> Graph:
    """Build FCN on ResNet-50.

    Parameters
    ----------
    train : bool
        Adds the auxiliary head.
    num_classes : int
        Channels of the output, which has the input's resolution.
    resolution : int or (int, int)
        Height and width of the image; torchvision's weights are evaluated at 520.

    Returns
    -------
    Graph
    """
    return _segmentation("fcn_resnet50", train, num_classes, resolution, lambda g, x: _fcn_head(g, x, num_classes))


def deeplabv3_resnet50(
    train: bool = False,
    *,
    num_classes: int = 21,
    resolution: Resolution = 224,
    rates: Sequence[int] = (12, 24, 36),
) -> Graph:
    """Build DeepLabV3 on ResNet-50.

    Parameters
    ----------
    train : bool
        Adds the auxiliary head.
    num_classes : int
        Channels of the output, which has the input's resolution.
    resolution : int or (int, int)
        Height and width of the image; torchvision's weights are evaluated at 520.
    rates : sequence of int
        Dilations of the pyramid's 3x3 convolutions.

    Returns
    -------
    Graph
    """
    return _segmentation(
        "deeplabv3_resnet50",
        train,
        num_classes,
        resolution,
        lambda g, x: _deeplab_head(g, x, num_classes, rates),
    )


NETS: Final[dict[str, Builder]] = {
    "deeplabv3_resnet50": deeplabv3_resnet50,
    "fcn_resnet50": fcn_resnet50,
}
