"""U-Net in the padded form with batch normalisation that is used today.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
https://arxiv.org/abs/1505.04597. Module paths and op order follow milesial/Pytorch-UNet, which pads the
upsampled tensor to the skip connection's size even where nothing is missing; that pad copies.
"""

from __future__ import annotations

from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, image, whole

__all__ = ["NETS", "unet"]


def _double_conv(g: Graph, x: Tensor, middle: int, out: int) -> Tensor:
    with g.scope("double_conv"):
        for i, channels in ((0, middle), (3, out)):
            x = g.conv2d(x, channels, 3, padding=1, bias=False, name=f"{i}")
            x = g.relu(g.batch_norm2d(x, name=f"{i + 1}"), inplace=True, name=f"{i + 2}")
    return x


def _up(g: Graph, x: Tensor, skip: Tensor, out: int, bilinear: bool) -> Tensor:
    """Upsample, pad to the skip connection's size, join behind it, and convolve twice."""
    if bilinear:
        x = g.interpolate(x, scale_factor=2, mode="bilinear", name="up")
    else:
        x = g.conv_transpose2d(x, x.channels // 2, 2, stride=2, name="up")
    dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
    padded = g.pad(x, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2), name="pad")
    x = g.concat([skip, padded], name="cat")
    with g.scope("conv"):
        x = _double_conv(g, x, x.channels // 2 if bilinear else out, out)
    g.hold(padded, until=x)  # a local variable of the reference
    return x


def unet(
    train: bool = False,
    *,
    num_classes: int = 2,
    resolution: Resolution = 224,
    width: int = 64,
    depth: int = 4,
    bilinear: bool = False,
) -> Graph:
    """Build a U-Net.

    Parameters
    ----------
    train : bool
        Makes no difference: the net has no auxiliary head and no dropout.
    num_classes : int
        Channels of the output, which has the input's resolution.
    resolution : int or (int, int)
        Height and width of the image.
    width : int
        Channels at full resolution; they double at each level.
    depth : int
        Number of times the resolution is halved.
    bilinear : bool
        Upsample by interpolation, with half the channels at the bottom, instead of transposed convolutions.

    Returns
    -------
    Graph
    """
    half = 2 if bilinear else 1
    whole("depth", depth)
    g = Graph("unet")
    x = image(g, resolution)
    with g.scope("inc"):
        x = _double_conv(g, x, width, width)
    skips = []
    for i in range(1, depth + 1):
        skips.append(x)
        channels = width * 2**i // (half if i == depth else 1)
        with g.scope(f"down{i}.maxpool_conv"):
            x = g.max_pool2d(x, 2, name="0")
            with g.scope("1"):
                x = _double_conv(g, x, channels, channels)
    kept = [*skips, x]
    for i, skip in enumerate(reversed(skips), start=1):
        channels = skip.channels // (half if i < depth else 1)
        with g.scope(f"up{i}"):
            x = _up(g, x, skip, channels, bilinear)
    logits = g.conv2d(x, num_classes, 1, name="outc.conv")
    for x in kept:
        g.hold(x, until=logits)  # local variables too: x1 to x5
    return g


NETS: Final[dict[str, Builder]] = {"unet": unet}
