"""The cell-based nets of the DARTS code, also with its genotypes of NASNet-A and AmoebaNet-A.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", https://arxiv.org/abs/1806.09055; NASNet:
https://arxiv.org/abs/1707.07012; AmoebaNet: https://arxiv.org/abs/1802.01548. Module paths, op order and
in-place flags follow quark0/darts, ``cnn/model.py`` and ``cnn/operations.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, image, whole

__all__ = ["GENOTYPES", "NETS", "Genotype", "darts_cifar", "darts_imagenet"]


class Genotype(NamedTuple):
    """A normal and a reduction cell.

    ``normal`` and ``reduce`` list (operation, state) pairs, two for each new state; states 0 and 1 are the
    outputs of the two cells before, 2 is the first new one. ``normal_concat`` and ``reduce_concat`` list
    the states that are joined to the cell's output.
    """

    normal: tuple[tuple[str, int], ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[tuple[str, int], ...]
    reduce_concat: tuple[int, ...]


_SHORT: Final = {
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "sep7": "sep_conv_7x7",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
    "7x1": "conv_7x1_1x7",
}
_OPERATIONS: Final = tuple(_SHORT.values())


def _cell(text: str) -> tuple[tuple[str, int], ...]:
    """Read ``"sep3~0 skip~1 ..."``: operations and the states they read."""
    pairs = (word.split("~") for word in text.split())
    return tuple((_SHORT[op], int(state)) for op, state in pairs)


GENOTYPES: Final = MappingProxyType({
    "darts_v1": Genotype(
        normal=_cell("sep3~1 sep3~0 skip~0 sep3~1 skip~0 sep3~1 sep3~0 skip~2"),
        normal_concat=(2, 3, 4, 5),
        reduce=_cell("max~0 max~1 skip~2 max~0 max~0 skip~2 skip~2 avg~0"),
        reduce_concat=(2, 3, 4, 5),
    ),
    "darts_v2": Genotype(
        normal=_cell("sep3~0 sep3~1 sep3~0 sep3~1 sep3~1 skip~0 skip~0 dil3~2"),
        normal_concat=(2, 3, 4, 5),
        reduce=_cell("max~0 max~1 skip~2 max~1 max~0 skip~2 skip~2 max~1"),
        reduce_concat=(2, 3, 4, 5),
    ),
    "nasnet_a": Genotype(
        normal=_cell("sep5~1 sep3~0 sep5~0 sep3~0 avg~1 skip~0 avg~0 avg~0 sep3~1 skip~1"),
        normal_concat=(2, 3, 4, 5, 6),
        reduce=_cell("sep5~1 sep7~0 max~1 sep7~0 avg~1 sep5~0 skip~3 avg~2 sep3~2 max~1"),
        reduce_concat=(4, 5, 6),
    ),
    "amoebanet": Genotype(
        normal=_cell("avg~0 max~1 sep3~0 sep5~2 sep3~0 avg~3 sep3~1 skip~1 skip~0 avg~1"),
        normal_concat=(4, 5, 6),
        reduce=_cell("avg~0 sep3~1 max~0 sep7~2 sep7~0 avg~1 max~0 max~1 7x1~0 sep3~5"),
        reduce_concat=(3, 4, 6),
    ),
})  # fmt: skip


def _conv(g: Graph, x: Tensor, channels: int, kernel: int, name: str, *, stride: int = 1, padding: int = 0) -> Tensor:
    return g.conv2d(x, channels, kernel, stride=stride, padding=padding, bias=False, name=name)


def _relu_conv_bn(g: Graph, x: Tensor, channels: int, name: str) -> Tensor:
    with g.scope(f"{name}.op"):
        return g.batch_norm2d(_conv(g, g.relu(x, name="0"), channels, 1, "1"), name="2")


def _factorized_reduce(g: Graph, x: Tensor, channels: int, name: str) -> Tensor:
    with g.scope(name):
        x = g.relu(x, name="relu")
        a = _conv(g, x, channels // 2, 1, "conv_1", stride=2)
        b = _conv(g, g.slice(x, (2, 3), start=(1, 1), name="shift"), channels // 2, 1, "conv_2", stride=2)
        return g.batch_norm2d(g.concat([a, b], name="cat"), name="bn")


def _separable(g: Graph, x: Tensor, kernel: int, stride: int, dilation: int, first: int) -> Tensor:
    """Add ReLU, depthwise and pointwise convolution, batch normalisation, named from `first` on."""
    x = g.relu(x, name=f"{first}")
    x = g.conv2d(x, x.channels, kernel, stride=stride, padding=dilation * (kernel // 2), dilation=dilation,
                 groups=x.channels, bias=False, name=f"{first + 1}")  # fmt: skip
    return g.batch_norm2d(_conv(g, x, x.channels, 1, f"{first + 2}"), name=f"{first + 3}")


def _operation(g: Graph, x: Tensor, kind: str, stride: int, name: str) -> Tensor:
    match kind:
        case "skip_connect":
            return x if stride == 1 else _factorized_reduce(g, x, x.channels, name)
        case "max_pool_3x3":
            return g.max_pool2d(x, 3, stride=stride, padding=1, name=name)
        case "avg_pool_3x3":
            return g.avg_pool2d(x, 3, stride=stride, padding=1, count_include_pad=False, name=name)
        case "conv_7x1_1x7":
            with g.scope(name):
                x = g.relu(x, name="0")
                x = g.conv2d(x, x.channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False, name="1")
                x = g.conv2d(x, x.channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False, name="2")
                return g.batch_norm2d(x, name="3")
        case "dil_conv_3x3" | "dil_conv_5x5":
            with g.scope(f"{name}.op"):
                return _separable(g, x, int(kind[-1]), stride, 2, 0)
        case "sep_conv_3x3" | "sep_conv_5x5" | "sep_conv_7x7":
            with g.scope(f"{name}.op"):
                x = _separable(g, x, int(kind[-1]), stride, 1, 0)
                return _separable(g, x, int(kind[-1]), 1, 1, 4)
    raise ValueError(f"unknown operation {kind!r} in the genotype; allowed: {', '.join(_OPERATIONS)}")


def _add_cell(
    g: Graph, genotype: Genotype, s0: Tensor, s1: Tensor, channels: int, *,
    halve: bool, reduction: bool, drop_path: float,
) -> Tensor:  # fmt: skip
    """Add a cell; `halve` brings the older input to the newer one's resolution."""
    s0 = (_factorized_reduce if halve else _relu_conv_bn)(g, s0, channels, "preprocess0")
    states = [s0, _relu_conv_bn(g, s1, channels, "preprocess1")]
    cell, joined = (genotype.reduce, genotype.reduce_concat) if reduction else (genotype.normal, genotype.normal_concat)
    for i in range(0, len(cell), 2):
        pair = []
        for k, (kind, state) in enumerate(cell[i : i + 2], start=i):
            if not 0 <= state < len(states):
                raise ValueError(f"operation {k} reads state {state}; allowed: 0 to {len(states) - 1}")
            stride = 2 if reduction and state < 2 else 1
            pair.append((states[state], _operation(g, states[state], kind, stride, f"_ops.{k}")))
        # Drop path comes after both operations and spares the skip connections that hand a state on.
        a, b = (
            g.stochastic_depth(y, drop_path, name=f"drop_path.{k}") if drop_path and y is not x else y
            for k, (x, y) in enumerate(pair, start=i)
        )
        states.append(g.add(a, b, name=f"add.{i // 2}"))
    return g.concat([states[i] for i in joined], name="cat")


def _auxiliary(g: Graph, x: Tensor, num_classes: int, stride: int, last_norm: bool) -> Tensor:
    """Add the auxiliary head's ops after its first ReLU."""
    with g.scope("auxiliary_head"):
        with g.scope("features"):
            x = g.avg_pool2d(x, 5, stride=stride, count_include_pad=False, name="1")
            x = g.relu(g.batch_norm2d(_conv(g, x, 128, 1, "2"), name="3"), inplace=True, name="4")
            x = _conv(g, x, 768, 2, "5")
            if last_norm:
                x = g.batch_norm2d(x, name="6")
            x = g.relu(x, inplace=True, name="7" if last_norm else "6")
        if x.shape[2:] != (1, 1):
            raise ValueError(f"the auxiliary head's features are {x.shape[2:]}; allowed at its classifier: (1, 1)")
        return g.linear(g.flatten(x, name="flatten"), num_classes, name="classifier")


def _read(genotype: str | Genotype, channels: int, layers: int, drop_path: float) -> tuple[str, Genotype]:
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path={drop_path!r}; allowed: 0 or more and less than 1")
    if whole("channels", channels, 2) % 2:
        raise ValueError(f"channels={channels}; allowed: even numbers")
    whole("layers", layers, 3)  # two of which reduce
    if isinstance(genotype, Genotype):
        return "darts", genotype
    if genotype not in GENOTYPES:
        raise ValueError(f"unknown genotype {genotype!r}; allowed: {', '.join(GENOTYPES)}, or a Genotype")
    return genotype, GENOTYPES[genotype]


def _stack(
    g: Graph, genotype: Genotype, s0: Tensor, s1: Tensor, channels: int, layers: int, *,
    halve: bool, drop_path: float, auxiliary: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Add all cells, and the auxiliary head after the second reduction."""
    aux: Tensor | None = None
    for i in range(layers):
        reduction = i in (layers // 3, 2 * layers // 3)
        channels *= 2 if reduction else 1
        with g.scope(f"cells.{i}"):
            y = _add_cell(g, genotype, s0, s1, channels, halve=halve, reduction=reduction, drop_path=drop_path)
        s0, s1, halve = s1, y, reduction
        if auxiliary is not None and i == 2 * layers // 3:
            # The head's first ReLU works in place: the cells that follow read what it leaves.
            s1 = g.relu(s1, inplace=True, name="auxiliary_head.features.0")
            aux = auxiliary(s1)
    return s1, aux


def darts_cifar(
    train: bool = False,
    *,
    num_classes: int = 10,
    resolution: Resolution = 32,
    channels: int = 36,
    layers: int = 20,
    genotype: str | Genotype = "darts_v2",
    drop_path: float = 0.2,
) -> Graph:
    """Build the CIFAR net of a genotype.

    Parameters
    ----------
    train : bool
        Adds drop path and the auxiliary head, which needs a resolution of 32 to 40.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.
    channels : int
        Channels of the first cell's states; they double at each of the two reductions.
    layers : int
        Number of cells.
    genotype : str or Genotype
        One of ``GENOTYPES``, or one of your own.
    drop_path : float
        Chance of dropping a branch in training.

    Returns
    -------
    Graph
    """
    label, cells = _read(genotype, channels, layers, drop_path)
    g = Graph(label)
    x = g.batch_norm2d(_conv(g, image(g, resolution), 3 * channels, 3, "stem.0", padding=1), name="stem.1")
    head = partial(_auxiliary, g, num_classes=num_classes, stride=3, last_norm=True) if train else None
    drop_path = drop_path if train else 0.0
    x, aux = _stack(g, cells, x, x, channels, layers, halve=False, drop_path=drop_path, auxiliary=head)
    x = g.flatten(g.global_avg_pool2d(x, name="global_pooling"), name="flatten")
    g.output(g.linear(x, num_classes, name="classifier"), *([] if aux is None else [aux]))
    return g


def darts_imagenet(
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    channels: int = 48,
    layers: int = 14,
    genotype: str | Genotype = "darts_v2",
    drop_path: float = 0.0,
) -> Graph:
    """Build the ImageNet net of a genotype.

    Parameters
    ----------
    train : bool
        Adds drop path and the auxiliary head, which needs a resolution of 224 to 256.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image, a multiple of 32.
    channels : int
        Channels of the stem and of the first cell's states; they double at each of the two reductions.
    layers : int
        Number of cells.
    genotype : str or Genotype
        One of ``GENOTYPES``, or one of your own.
    drop_path : float
        Chance of dropping a branch in training.

    Returns
    -------
    Graph
    """
    label, cells = _read(genotype, channels, layers, drop_path)
    g = Graph(f"{label}_imagenet")
    x = image(g, resolution)
    with g.scope("stem0"):
        x = g.batch_norm2d(_conv(g, x, channels // 2, 3, "0", stride=2, padding=1), name="1")
        x = _conv(g, g.relu(x, inplace=True, name="2"), channels, 3, "3", stride=2, padding=1)
        x = g.batch_norm2d(x, name="4")
    with g.scope("stem1"):
        # In place: the first cell, too, reads what this ReLU leaves.
        s0 = g.relu(x, inplace=True, name="0")
        s1 = g.batch_norm2d(_conv(g, s0, channels, 3, "1", stride=2, padding=1), name="2")
    head = partial(_auxiliary, g, num_classes=num_classes, stride=2, last_norm=False) if train else None
    drop_path = drop_path if train else 0.0
    x, aux = _stack(g, cells, s0, s1, channels, layers, halve=True, drop_path=drop_path, auxiliary=head)
    # A kernel of 7 at the reference's resolution of 224.
    x = g.flatten(g.avg_pool2d(x, x.shape[2:], name="global_pooling"), name="flatten")
    g.output(g.linear(x, num_classes, name="classifier"), *([] if aux is None else [aux]))
    return g


NETS: Final[dict[str, Builder]] = {
    name + suffix: partial(build, genotype=name)
    for name in GENOTYPES
    for suffix, build in (("", darts_cifar), ("_imagenet", darts_imagenet))
}
