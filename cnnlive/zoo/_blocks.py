"""What several families share: rounding of channels, checks of arguments, and small composite modules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, SupportsFloat, SupportsIndex, TypeAlias

from cnnlive.errors import AttributeValueError

if TYPE_CHECKING:
    from cnnlive.graph import Graph, Tensor

Builder: TypeAlias = "Callable[..., Graph]"
Resolution: TypeAlias = int | Sequence[int]


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, at least one of them, and never more than a tenth down."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


def scaled(channels: int, width: float, divisor: int = 8) -> int:
    """Multiply a number of channels by a checked width."""
    return make_divisible(channels * factor("width", width), divisor)


def factor(name: str, value: object) -> float:
    """Check a multiplier: a number above 0, and not so large that results overflow."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat) or not 0 < float(value) <= 1e6:
        raise AttributeValueError(f"{name}={value!r}; allowed: a number above 0, at most 1e6")
    return float(value)


def whole(name: str, value: object, least: int = 1) -> int:
    """Check a count: an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or operator.index(value) < least:
        raise AttributeValueError(f"{name}={value!r}; allowed: an integer of at least {least}")
    return operator.index(value)


def wholes(name: str, values: object, length: int | None = None) -> tuple[int, ...]:
    """Check a list of counts, each at least 1."""
    given = 0 if isinstance(values, str) or not isinstance(values, Sequence) else len(values)
    if not isinstance(values, Sequence) or not given or given != (length or given):
        raise AttributeValueError(f"{name}={values!r}; allowed: {length or 'one or more'} integers of at least 1")
    return tuple(whole(f"{name}[{i}]", v) for i, v in enumerate(values))


def spread(total: int, shares: Sequence[int]) -> tuple[int, ...]:
    """Cut `total` into integers in proportion to `shares`, by rounding the running sums half up."""
    whole_share = sum(shares)
    ends = [(2 * total * sum(shares[: i + 1]) + whole_share) // (2 * whole_share) for i in range(len(shares))]
    return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


def image(g: Graph, resolution: Resolution) -> Tensor:
    """Add the input: one RGB image, square or of (height, width)."""
    height, width = wholes("resolution", resolution, 2) if isinstance(resolution, Sequence) else (resolution,) * 2
    return g.input((1, 3, whole("resolution", height), whole("resolution", width)))


def conv_bn(
    g: Graph,
    x: Tensor,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    *,
    names: Sequence[str],
    groups: int = 1,
    eps: float = 1e-5,
    dilation: int = 1,
) -> Tensor:
    """Add a convolution without bias, padded by half the dilated kernel, and a batch normalisation."""
    padding = dilation * (kernel_size // 2)
    conv = g.conv2d(x, out_channels, kernel_size, stride, padding, dilation, groups, False, name=names[0])
    return g.batch_norm2d(conv, eps=eps, name=names[1])


def conv_bn_act(
    g: Graph,
    x: Tensor,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    *,
    scope: str,
    act: str | None,
    groups: int = 1,
    eps: float = 1e-5,
) -> Tensor:
    """Add a convolution, a batch normalisation and, unless `act` is None, an activation in place."""
    with g.scope(scope):
        x = conv_bn(g, x, out_channels, kernel_size, stride, names="01", groups=groups, eps=eps)
        return x if act is None else activation(g, x, act, inplace=True, name="2")


def activation(g: Graph, x: Tensor, act: str, *, inplace: bool, name: str) -> Tensor:
    """Add an activation by its operator's name."""
    result: Tensor = g.op(act, x, inplace=inplace, name=name)
    return result


def basic_conv(
    g: Graph,
    x: Tensor,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    *,
    scope: str,
) -> Tensor:
    """Add the unit of the Inception nets: convolution, batch normalisation, ReLU in place."""
    with g.scope(scope):
        x = g.conv2d(x, out_channels, kernel_size, stride, padding, bias=False, name="conv")
        return g.relu(g.batch_norm2d(x, eps=1e-3, name="bn"), inplace=True)


def squeeze_excitation(
    g: Graph,
    x: Tensor,
    squeeze_channels: int,
    *,
    scope: str,
    act: str = "relu",
    inplace: bool = False,
    scale: str = "sigmoid",
) -> Tensor:
    """Add a squeeze-and-excitation (Hu et al., https://arxiv.org/abs/1709.01507) of 1x1 convolutions."""
    with g.scope(scope):
        s = g.adaptive_avg_pool2d(x, 1, name="avgpool")
        s = g.conv2d(s, squeeze_channels, 1, name="fc1")
        s = activation(g, s, act, inplace=inplace, name="activation")
        s = g.conv2d(s, x.channels, 1, name="fc2")
        s = activation(g, s, scale, inplace=False, name="scale_activation")
        return g.mul(s, x)
