"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions", https://arxiv.org/abs/1409.4842.

As in the reference implementation each convolution is batch-normalised, and the "5x5" ones are 3x3.
"""

from __future__ import annotations

from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, basic_conv, image

__all__ = ["NETS", "googlenet"]

# Channels: 1x1; 3x3 reduced and full; "5x5" reduced and full; behind the pool.
# A single number is the kernel of a pool.
_STAGES: Final[dict[str, tuple[int, int, int, int, int, int] | int]] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "maxpool3": 3,
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "maxpool4": 2,
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
_AUXILIARY: Final = {"inception4a": "aux1", "inception4d": "aux2"}


def _inception(g: Graph, x: Tensor, channels: tuple[int, int, int, int, int, int]) -> Tensor:
    c1, r3, c3, r5, c5, pool = channels
    branches = [basic_conv(g, x, c1, scope="branch1")]
    for scope, reduced, full in (("branch2", r3, c3), ("branch3", r5, c5)):
        with g.scope(scope):
            y = basic_conv(g, x, reduced, scope="0")
            branches.append(basic_conv(g, y, full, 3, 1, 1, scope="1"))
    with g.scope("branch4"):
        y = g.max_pool2d(x, 3, 1, 1, ceil_mode=True, name="0")
        branches.append(basic_conv(g, y, pool, scope="1"))
    return g.concat(branches)


def _auxiliary(g: Graph, x: Tensor, num_classes: int) -> Tensor:
    x = basic_conv(g, g.adaptive_avg_pool2d(x, 4), 128, scope="conv")
    x = g.relu(g.linear(g.flatten(x), 1024, name="fc1"), inplace=True)
    return g.linear(g.dropout(x, p=0.7, name="dropout"), num_classes, name="fc2")


def googlenet(train: bool = False, *, num_classes: int = 1000, resolution: Resolution = 224) -> Graph:
    """Build GoogLeNet.

    Parameters
    ----------
    train : bool
        With the two auxiliary classifiers; outputs are then the main one, the second and the first auxiliary.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.

    Examples
    --------
    >>> googlenet().n_parameters, googlenet(train=True).n_parameters
    (6624904, 13004888)
    """
    g = Graph("googlenet")
    x = basic_conv(g, image(g, resolution), 64, 7, 2, 3, scope="conv1")
    x = g.max_pool2d(x, 3, 2, ceil_mode=True, name="maxpool1")
    x = basic_conv(g, x, 64, scope="conv2")
    x = basic_conv(g, x, 192, 3, 1, 1, scope="conv3")
    x = g.max_pool2d(x, 3, 2, ceil_mode=True, name="maxpool2")
    auxiliary: list[Tensor] = []
    for name, stage in _STAGES.items():
        if isinstance(stage, int):
            x = g.max_pool2d(x, stage, 2, ceil_mode=True, name=name)
            continue
        with g.scope(name):
            x = _inception(g, x, stage)
        if train and name in _AUXILIARY:
            with g.scope(_AUXILIARY[name]):
                auxiliary.insert(0, _auxiliary(g, x, num_classes))
    x = g.flatten(g.adaptive_avg_pool2d(x, 1, name="avgpool"))
    x = g.linear(g.dropout(x, p=0.2, name="dropout"), num_classes, name="fc")
    g.output(x, *auxiliary)
    if train:
        g.order_parameters("conv1", "conv2", "conv3", *_STAGES, *_AUXILIARY.values(), "fc")
    return g


NETS: Final[dict[str, Builder]] = {"googlenet": googlenet}
