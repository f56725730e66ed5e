"""What the chains of slots of several published spaces share: checks of arguments, and a few small options."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

from cnnlive.errors import AttributeValueError, SpaceError
from cnnlive.zoo._blocks import activation, conv_bn, factor, whole

if TYPE_CHECKING:
    from cnnlive.graph import Graph, Tensor


def image(g: Graph, resolution: int) -> Tensor:
    """Add the input: one square RGB image."""
    return g.input((1, 3, resolution, resolution))


def conv_bn_act(
    g: Graph, x: Tensor, out_channels: int, kernel_size: int = 1, stride: int = 1, *, act: str, eps: float = 1e-5
) -> Tensor:
    """Add a convolution without bias, a batch normalisation and an activation in place, of names 0, 1 and 2."""
    x = conv_bn(g, x, out_channels, kernel_size, stride, names="01", eps=eps)
    return activation(g, x, act, inplace=True, name="2")


def avgpool(g: Graph, x: Tensor) -> Tensor:
    """Add a global average pool that keeps two dimensions of size 1."""
    return g.adaptive_avg_pool2d(x, 1)


def distinct(name: str, values: object) -> tuple[Any, ...]:
    """Check a list of alternatives: at least one, none twice."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
        raise AttributeValueError(f"{name}={values!r}; allowed: a sequence of one or more alternatives")
    if any(value in values[:i] for i, value in enumerate(values)):
        raise AttributeValueError(f"{name}={values!r}; allowed: alternatives that differ")
    return tuple(values)


def resolutions_of(values: object) -> tuple[int, ...]:
    """Check a list of resolutions, or a single one."""
    several = isinstance(values, Sequence) and not isinstance(values, str)
    found = distinct("resolutions", values if several else (whole("resolutions", values),))
    return tuple(whole(f"resolutions[{i}]", r) for i, r in enumerate(found))


def widths_of(values: object) -> tuple[float, ...]:
    """Check a list of width multipliers."""
    return tuple(factor(f"widths[{i}]", w) for i, w in enumerate(distinct("widths", values)))


def position(space: str, what: str, values: Sequence[Any], value: object) -> int:
    """Return where a number of a native encoding stands among those allowed.

    Raises
    ------
    SpaceError
        If it is none of them; names `what` it is.
    """
    with contextlib.suppress(TypeError, ValueError):  # an array of several is no number
        if isinstance(value, SupportsFloat) and not isinstance(value, bool) and float(value) in values:
            return values.index(float(value))
    raise SpaceError(f"{space}: {what} is {value!r}; allowed: {', '.join(map(repr, values))}")


__all__ = [
    "avgpool",
    "conv_bn",
    "conv_bn_act",
    "distinct",
    "image",
    "position",
    "resolutions_of",
    "widths_of",
]
