"""SqueezeNet: Iandola et al., "SqueezeNet: AlexNet-level accuracy ...", https://arxiv.org/abs/1602.07360.

Version 1.1 is the authors' later release with an earlier reduction of the resolution.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, image

__all__ = ["NETS"]

# Squeeze channels of the fire modules, which expand to four times as many twice; 0 is a pool.
_FIRES: Final = {
    "squeezenet1_0": (0, 16, 16, 32, 0, 32, 48, 48, 64, 0, 64),
    "squeezenet1_1": (0, 16, 16, 0, 32, 32, 0, 48, 48, 64, 64),
}


def _fire(g: Graph, x: Tensor, squeeze: int) -> Tensor:
    x = g.relu(g.conv2d(x, squeeze, 1, name="squeeze"), inplace=True, name="squeeze_activation")
    branches = []
    for name, kernel_size in (("expand1x1", 1), ("expand3x3", 3)):
        branch = g.conv2d(x, 4 * squeeze, kernel_size, padding=kernel_size // 2, name=name)
        branches.append(g.relu(branch, inplace=True, name=f"{name}_activation"))
    joined = g.concat(branches)
    g.hold(x, until=joined)  # a local variable of the reference implementation
    return joined


def _squeezenet(
    name: str,
    stem: tuple[int, int],
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
) -> Graph:
    """Build a SqueezeNet; `stem` gives the first convolution's channels and kernel."""
    g = Graph(name)
    x = image(g, resolution)
    with g.scope("features"):
        x = g.relu(g.conv2d(x, *stem, 2, name="0"), inplace=True, name="1")
        for i, squeeze in enumerate(_FIRES[name], 2):
            if squeeze:
                with g.scope(str(i)):
                    x = _fire(g, x, squeeze)
            else:
                x = g.max_pool2d(x, 3, 2, ceil_mode=True, name=str(i))
    with g.scope("classifier"):
        x = g.conv2d(g.dropout(x, name="0"), num_classes, 1, name="1")
        x = g.adaptive_avg_pool2d(g.relu(x, inplace=True, name="2"), 1, name="3")
    g.flatten(x)
    return g


NETS: Final[dict[str, Builder]] = {
    "squeezenet1_0": partial(_squeezenet, "squeezenet1_0", (96, 7)),
    "squeezenet1_1": partial(_squeezenet, "squeezenet1_1", (64, 3)),
}
