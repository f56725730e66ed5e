"""MobileNet V1.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
https://arxiv.org/abs/1704.04861. Module paths, symmetric padding and activations in place follow timm's
``mobilenetv1_100``.
"""

from __future__ import annotations

from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, image, scaled

__all__ = ["NETS", "mobilenet_v1"]

# (blocks, channels, stride of the first) of each stage
_STAGES: Final = ((1, 64, 1), (2, 128, 2), (2, 256, 2), (6, 512, 2), (2, 1024, 2))


def _norm_act(g: Graph, x: Tensor, name: str) -> Tensor:
    return g.relu6(g.batch_norm2d(x, name=name), inplace=True, name=f"{name}.act")


def mobilenet_v1(
    train: bool = False, *, num_classes: int = 1000, resolution: Resolution = 224, width: float = 1.0
) -> Graph:
    """Build MobileNet V1.

    Parameters
    ----------
    train : bool
        Makes no difference: the reference trains without dropout.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.
    width : float
        Multiplies all channels; results are rounded to multiples of 8. The paper has 1, 0.75, 0.5 and 0.25.

    Returns
    -------
    Graph
    """
    g = Graph("mobilenet_v1")
    x = g.conv2d(image(g, resolution), scaled(32, width), 3, 2, 1, bias=False, name="conv_stem")
    x = _norm_act(g, x, "bn1")
    for i, (blocks, channels, stride) in enumerate(_STAGES):
        for j in range(blocks):
            with g.scope(f"blocks.{i}.{j}"):
                s = 1 if j else stride
                x = g.conv2d(x, x.channels, 3, s, 1, groups=x.channels, bias=False, name="conv_dw")
                x = _norm_act(g, x, "bn1")
                x = _norm_act(g, g.conv2d(x, scaled(channels, width), 1, bias=False, name="conv_pw"), "bn2")
    x = g.flatten(g.global_avg_pool2d(x, name="global_pool.pool"), name="global_pool.flatten")
    g.linear(x, num_classes, name="classifier")
    return g


NETS: Final[dict[str, Builder]] = {"mobilenet_v1": mobilenet_v1}
