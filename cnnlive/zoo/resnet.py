"""ResNet and its wide and grouped forms, with the stride in the 3x3 convolution of a bottleneck ("v1.5").

He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385; Xie et al.,
"Aggregated Residual Transformations ...", https://arxiv.org/abs/1611.05431 (ResNeXt); Zagoruyko and
Komodakis, "Wide Residual Networks", https://arxiv.org/abs/1605.07146.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from cnnlive.errors import AttributeValueError
from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, conv_bn, image, scaled, spread, whole, wholes

__all__ = ["NETS", "resnet", "stages"]

_BLOCKS: Final = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _block(
    g: Graph,
    x: Tensor,
    planes: int,
    stride: int,
    bottleneck: bool,
    groups: int,
    base_width: int,
    dilation: int = 1,
) -> Tensor:
    """Add a residual block: two 3x3 convolutions, or 1x1, 3x3 in groups and 1x1."""
    identity = x
    layers: tuple[tuple[int, int, int, int], ...]  # channels, kernel, stride, groups
    if bottleneck:
        inner, outer = int(planes * (base_width / 64)) * groups, 4 * planes
        layers = ((inner, 1, 1, 1), (inner, 3, stride, groups), (outer, 1, 1, 1))
    else:
        outer = planes
        layers = ((outer, 3, stride, 1), (outer, 3, 1, 1))
    out = x
    for i, (channels, kernel_size, s, n) in enumerate(layers, 1):
        d = dilation if kernel_size > 1 else 1
        out = conv_bn(g, out, channels, kernel_size, s, names=(f"conv{i}", f"bn{i}"), groups=n, dilation=d)
        if i < len(layers):
            out = g.relu(out, inplace=True)
    if stride != 1 or x.channels != outer:
        with g.scope("downsample"):
            identity = conv_bn(g, x, outer, 1, stride, names="01")
    out = g.relu(g.add(out, identity, inplace=True), inplace=True)
    if identity is not x:
        g.hold(identity, out)  # the name `identity` lives to the end of the block
    return out


def stages(
    g: Graph,
    x: Tensor,
    blocks: Sequence[int],
    *,
    bottleneck: bool = True,
    groups: int = 1,
    width_per_group: int = 64,
    width: float = 1.0,
    dilated: Sequence[int] = (),
) -> list[Tensor]:
    """Add all but the classifier and return the stages' outputs; those in `dilated` dilate, not stride."""
    x = conv_bn(g, x, scaled(64, width), 7, 2, names=("conv1", "bn1"))
    x = g.max_pool2d(g.relu(x, inplace=True), 3, 2, 1, name="maxpool")
    outputs, dilation = [], 1
    for stage, n in enumerate(wholes("blocks", blocks)):
        planes = scaled(64 * 2**stage, width)
        stride, first = 2 if stage else 1, dilation
        if stage in dilated:
            stride, dilation = 1, 2 * dilation
        with g.scope(f"layer{stage + 1}"):
            for i in range(n):
                with g.scope(str(i)):
                    # A dilated stage's first block keeps the dilation of the stage before.
                    s, d = (1, dilation) if i else (stride, first)
                    x = _block(g, x, planes, s, bottleneck, groups, width_per_group, d)
        outputs.append(x)
    return outputs


def _resnet(
    name: str,
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    width: float = 1.0,
    blocks: Sequence[int] = (2, 2, 2, 2),
    bottleneck: bool = False,
    groups: int = 1,
    width_per_group: int = 64,
) -> Graph:
    """Build a ResNet; `width` multiplies all channels, `width_per_group` / 64 those inside bottlenecks."""
    whole("groups", groups)
    whole("width_per_group", width_per_group)
    if not bottleneck and (groups != 1 or width_per_group != 64):
        raise AttributeValueError(
            f"groups={groups}, width_per_group={width_per_group}; allowed without bottleneck: 1 and 64"
        )
    g = Graph(name)
    *_, x = stages(
        g,
        image(g, resolution),
        blocks,
        bottleneck=bottleneck,
        groups=groups,
        width_per_group=width_per_group,
        width=width,
    )
    x = g.flatten(g.adaptive_avg_pool2d(x, 1, name="avgpool"))
    g.linear(x, num_classes, name="fc")
    return g


def resnet(
    train: bool = False,
    *,
    depth: int = 50,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    width: float = 1.0,
    groups: int = 1,
    width_per_group: int = 64,
) -> Graph:
    """Build a bottleneck ResNet of any depth.

    Parameters
    ----------
    train : bool
        Both graphs are the same.
    depth : int
        Layers with weights on the main path: ``3 n + 2`` for n >= 4 bottleneck blocks. 50, 101 and 152 are
        the published nets; else the blocks are spread over the four stages as 3 : 4 : 6 : 3 (those of
        ResNet-50), the running sums rounded half up.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.
    width : float
        Multiplies all channels; results are rounded to multiples of 8.
    groups, width_per_group : int
        Groups of the 3x3 convolutions, and the channels of each in the first stage, as in ResNeXt.

    Raises
    ------
    AttributeValueError
        If an argument is not allowed.

    Examples
    --------
    >>> resnet(depth=50).n_parameters
    25557032
    >>> g = resnet(depth=10_001)
    >>> sum(g.op_of(n) in ("conv2d", "linear") and "downsample" not in n for n in g.nodes())
    10001
    """
    n, rest = divmod(whole("depth", depth, 14) - 2, 3)
    if rest:
        raise AttributeValueError(f"depth={depth}; allowed: 3 n + 2, such as {3 * n + 2} or {3 * n + 5}")
    return _resnet(
        "resnet",
        train,
        num_classes=num_classes,
        resolution=resolution,
        width=width,
        bottleneck=True,
        groups=groups,
        blocks=_BLOCKS.get(depth) or spread(n, _BLOCKS[50]),
        width_per_group=width_per_group,
    )


def _bottleneck(name: str, depth: int, groups: int = 1, width_per_group: int = 64) -> Builder:
    return partial(
        _resnet, name, blocks=_BLOCKS[depth], bottleneck=True, groups=groups, width_per_group=width_per_group
    )


NETS: Final[dict[str, Builder]] = {
    "resnet": resnet,
    "resnet18": partial(_resnet, "resnet18", blocks=(2, 2, 2, 2)),
    "resnet34": partial(_resnet, "resnet34", blocks=(3, 4, 6, 3)),
    "resnet50": _bottleneck("resnet50", 50),
    "resnet101": _bottleneck("resnet101", 101),
    "resnet152": _bottleneck("resnet152", 152),
    "resnext50_32x4d": _bottleneck("resnext50_32x4d", 50, 32, 4),
    "resnext101_32x8d": _bottleneck("resnext101_32x8d", 101, 32, 8),
    "resnext101_64x4d": _bottleneck("resnext101_64x4d", 101, 64, 4),
    "wide_resnet50_2": _bottleneck("wide_resnet50_2", 50, 1, 128),
    "wide_resnet101_2": _bottleneck("wide_resnet101_2", 101, 1, 128),
}
