"""AlexNet in the form of Krizhevsky, "One weird trick for parallelizing CNNs", https://arxiv.org/abs/1404.5997."""

from __future__ import annotations

from typing import Final

from cnnlive.graph import Graph
from cnnlive.zoo._blocks import Builder, Resolution, image

__all__ = ["NETS", "alexnet"]


def alexnet(train: bool = False, *, num_classes: int = 1000, resolution: Resolution = 224) -> Graph:
    """Build AlexNet.

    Parameters
    ----------
    train : bool
        Both graphs are the same.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.

    Examples
    --------
    >>> alexnet().n_parameters
    61100840
    """
    g = Graph("alexnet")
    x = image(g, resolution)
    with g.scope("features"):
        x = g.relu(g.conv2d(x, 64, 11, 4, 2, name="0"), inplace=True, name="1")
        x = g.max_pool2d(x, 3, 2, name="2")
        x = g.relu(g.conv2d(x, 192, 5, 1, 2, name="3"), inplace=True, name="4")
        x = g.max_pool2d(x, 3, 2, name="5")
        for i, channels in ((6, 384), (8, 256), (10, 256)):
            x = g.relu(g.conv2d(x, channels, 3, 1, 1, name=str(i)), inplace=True, name=str(i + 1))
        x = g.max_pool2d(x, 3, 2, name="12")
    x = g.flatten(g.adaptive_avg_pool2d(x, 6, name="avgpool"))
    with g.scope("classifier"):
        for i in (0, 3):
            x = g.linear(g.dropout(x, name=str(i)), 4096, name=str(i + 1))
            x = g.relu(x, inplace=True, name=str(i + 2))
        g.linear(x, num_classes, name="6")
    return g


NETS: Final[dict[str, Builder]] = {"alexnet": alexnet}
