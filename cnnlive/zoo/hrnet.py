"""HRNet: Wang et al., "Deep High-Resolution Representation Learning ...", https://arxiv.org/abs/1908.07919.

Module paths and op order follow timm's ``hrnet_w18``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, image, wholes

__all__ = ["NETS", "hrnet_w18"]

_BLOCKS: Final = 4  # per branch of a module
_HEAD: Final = (32, 64, 128, 256)  # a quarter of each branch's channels in the classification head
_FEATURES: Final = 2048


def _conv_bn(
    g: Graph, x: Tensor, channels: int, kernel: int, stride: int = 1, conv: str = "0", bn: str = "1"
) -> Tensor:
    x = g.conv2d(x, channels, kernel, stride=stride, padding=kernel // 2, bias=False, name=conv)
    return g.batch_norm2d(x, name=bn)


def _residual(g: Graph, x: Tensor, convs: Sequence[tuple[int, int]]) -> Tensor:
    """Add a residual block of (channels, kernel) convolutions, the shortcut projected if channels differ."""
    y, last = x, len(convs)
    for i, (channels, kernel) in enumerate(convs, start=1):
        y = _conv_bn(g, y, channels, kernel, conv=f"conv{i}", bn=f"bn{i}")
        if i < last:
            y = g.relu(y, inplace=True, name=f"act{i}")
    if x.channels != y.channels:
        with g.scope("downsample"):
            x = _conv_bn(g, x, y.channels, 1)
    return g.relu(g.add(y, x, inplace=True, name="add"), inplace=True, name=f"act{last}")


def _bottlenecks(g: Graph, x: Tensor, planes: int, blocks: int) -> Tensor:
    for i in range(blocks):
        with g.scope(f"{i}"):
            x = _residual(g, x, ((planes, 1), (planes, 3), (4 * planes, 1)))
    return x


def _conv_bn_relu(g: Graph, x: Tensor, channels: int, stride: int) -> Tensor:
    return g.relu(_conv_bn(g, x, channels, 3, stride), inplace=True, name="2")


def _transition(g: Graph, xs: list[Tensor], channels: Sequence[int]) -> list[Tensor]:
    """Give each branch its channels and open new ones, at half the resolution, from the last."""
    result = []
    for i, c in enumerate(channels):
        with g.scope(f"{i}"):
            if i >= len(xs):
                with g.scope("0"):
                    result.append(_conv_bn_relu(g, xs[-1], c, 2))
            elif xs[i].channels != c:
                result.append(_conv_bn_relu(g, xs[i], c, 1))
            else:
                result.append(xs[i])
    return result


def _fuse_branch(g: Graph, x: Tensor, source: int, target: int, channels: Sequence[int]) -> Tensor:
    """Bring branch `source` to the channels and resolution of branch `target`."""
    steps = target - source
    with g.scope(f"fuse_layers.{target}.{source}"):
        if steps < 0:
            return g.interpolate(_conv_bn(g, x, channels[target], 1), scale_factor=2**-steps, name="2")
        for k in range(steps):
            with g.scope(f"{k}"):
                x = _conv_bn(g, x, channels[source if k < steps - 1 else target], 3, 2)
                x = g.relu(x, name="2") if k < steps - 1 else x
    return x


def _module(g: Graph, xs: list[Tensor]) -> list[Tensor]:
    """Run the branches one after the other, then fuse each with all others."""
    channels = [x.channels for x in xs]
    ys = []
    for b, x in enumerate(xs):
        y = x
        for i in range(_BLOCKS):
            with g.scope(f"branches.{b}.{i}"):
                y = _residual(g, y, ((channels[b], 3), (channels[b], 3)))
        ys.append(y)
    fused = []
    for i in range(len(ys)):
        total = _fuse_branch(g, ys[0], 0, i, channels)
        for j in range(1, len(ys)):
            total = g.add(total, _fuse_branch(g, ys[j], j, i, channels), name=f"fuse_add.{i}.{j}")
        fused.append(g.relu(total, name=f"fuse_act.{i}"))
    return fused


def hrnet_w18(
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    width: int = 18,
    modules: Sequence[int] = (1, 4, 3),
) -> Graph:
    """Build HRNet with the classification head.

    Parameters
    ----------
    train : bool
        Makes no difference: the reference trains without dropout.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image, a multiple of 32.
    width : int
        Channels of the branch of highest resolution; each further branch has twice as many.
    modules : sequence of 3 ints
        Modules in the stages of two, three and four branches.

    Returns
    -------
    Graph
    """
    g = Graph("hrnet_w18")
    x = image(g, resolution)
    for i in (1, 2):
        x = g.relu(_conv_bn(g, x, 64, 3, 2, f"conv{i}", f"bn{i}"), inplace=True, name=f"act{i}")
    with g.scope("layer1"):
        xs = [_bottlenecks(g, x, 64, _BLOCKS)]
    for i, count in enumerate(wholes("modules", modules, 3)):
        with g.scope(f"transition{i + 1}"):
            xs = _transition(g, xs, [width * 2**b for b in range(i + 2)])
        for m in range(count):
            with g.scope(f"stage{i + 2}.{m}"):
                xs = _module(g, xs)
    with g.scope("incre_modules.0"):
        y = _bottlenecks(g, xs[0], _HEAD[0], 1)
    for i in range(1, 4):
        with g.scope(f"incre_modules.{i}"):
            x = _bottlenecks(g, xs[i], _HEAD[i], 1)
        with g.scope(f"downsamp_modules.{i - 1}"):
            y = g.conv2d(y, 4 * _HEAD[i], 3, stride=2, padding=1, name="0")
            y = g.relu(g.batch_norm2d(y, name="1"), inplace=True, name="2")
        y = g.add(x, y, name=f"head_add.{i}")
    with g.scope("final_layer"):
        y = g.conv2d(y, _FEATURES, 1, name="0")
        y = g.relu(g.batch_norm2d(y, name="1"), inplace=True, name="2")
    y = g.flatten(g.global_avg_pool2d(y, name="global_pool.pool"), name="global_pool.flatten")
    g.linear(y, num_classes, name="classifier")
    return g


NETS: Final[dict[str, Builder]] = {"hrnet_w18": hrnet_w18}
