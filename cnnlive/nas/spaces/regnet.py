"""RegNet: stages whose widths follow a quantised line.

Radosavovic et al., "Designing Network Design Spaces", https://arxiv.org/abs/2003.13678. The ops are those of
:mod:`cnnlive.zoo.regnet`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._kernels import encoders
from cnnlive._types import I64, frozen
from cnnlive.errors import SpaceError
from cnnlive.graph import Graph
from cnnlive.nas.base import Gene
from cnnlive.nas.encoded import EncodedSpace, Encoder, number_kinds
from cnnlive.nas.palette import FREE, Palette
from cnnlive.zoo._blocks import conv_bn_act, image, make_divisible, whole
from cnnlive.zoo.regnet import _block as block

__all__ = ["GENES", "RegNet", "regnet"]

#: Genes, in their order: depth, initial width, slope, quantisation, width of the groups.
GENES: Final = ("depth", "w0", "wa", "wm", "gw")
_DEPTHS: Final = tuple(range(6, 41))
_INITIAL: Final = tuple(range(8, 513, 8))
_SLOPES: Final = tuple(i / 100 for i in range(500, 25_601))
_FACTORS: Final = tuple(i / 100 for i in range(150, 301))
_GROUPS: Final = (1, 2, 4, *range(8, 337, 8))
_SE: Final = 250  # squeeze channels per 1000 of the block's input
_ROUNDING: Final = ("nearest", "divisible")


def stages_of(
    depth: int, w_0: int, w_a: float, w_m: float, group_width: int, rounding: str = "nearest"
) -> list[tuple[int, int, int]]:  # fmt: skip
    """Return blocks, width and group width of each stage; see :func:`regnet`."""
    steps = [round(math.log((w_0 + w_a * j) / w_0) / math.log(w_m)) for j in range(depth)]
    found = []
    for width, run in itertools.groupby(round(w_0 * w_m**s / 8) * 8 for s in steps):
        group = min(group_width, width)
        fitted = round(width / group) * group if rounding == "nearest" else make_divisible(width, group)
        found.append((len(list(run)), fitted, group))
    return found


def _build(
    row: tuple[int, ...], *, name: str, genes: tuple[tuple[Any, ...], ...], se: bool, rounding: str, resolution: int,
    classes: int,
) -> Graph:  # fmt: skip
    depth, w_0, w_a, w_m, width = (values[v] for values, v in zip(genes, row, strict=True))
    g = Graph(name)
    x = conv_bn_act(g, image(g, resolution), 32, 3, 2, scope="stem", act="relu")
    with g.scope("trunk_output"):
        for s, (blocks, channels, group) in enumerate(stages_of(depth, w_0, w_a, w_m, width, rounding), 1):
            with g.scope(f"block{s}"):
                for i in range(blocks):
                    with g.scope(f"block{s}-{i}"):
                        x = block(g, x, channels, 1 if i else 2, group, _SE / 1000 if se else 0.0)
    x = g.flatten(g.adaptive_avg_pool2d(x, 1, name="avgpool"))
    g.output(g.linear(x, classes, name="fc"))
    return g


class RegNet(EncodedSpace):
    """The space that :func:`regnet` makes; its notation is a mapping of `GENES`."""

    def __init__(
        self, se: bool, grids: Sequence[Sequence[float]], rounding: str, resolution: int, classes: int
    ) -> None:  # fmt: skip
        if rounding not in _ROUNDING:
            raise SpaceError(f"rounding={rounding!r}; allowed: {', '.join(map(repr, _ROUNDING))}")
        genes = [Gene(name, tuple(grid)) for name, grid in zip(GENES, grids, strict=True)]
        for gene in genes:
            for value in gene.values:
                _check(gene.name, value)
        resolution, classes = whole("resolution", resolution), whole("classes", classes)
        self.rounding = rounding
        palette = Palette()
        conv: dict[str, Any] = {"out_channels": FREE[0], "bias": False}
        wide = conv | {"kernel_size": 3, "padding": 1}
        kinds = number_kinds(palette, (
            ("input", {"shape": (1, 3, resolution, resolution)}),
            ("conv2d", wide | {"stride": 2}),
            ("batch_norm2d", {}),
            ("relu", {"inplace": True}),
            ("conv2d", conv | {"kernel_size": 1}),
            ("conv2d", conv | {"kernel_size": 1, "stride": 2}),
            ("conv2d", wide | {"groups": FREE[1]}),
            ("conv2d", wide | {"groups": FREE[1], "stride": 2}),
            ("add", {}),
            ("adaptive_avg_pool2d", {"output_size": 1}),
            ("conv2d", {"out_channels": FREE[0], "kernel_size": 1}),
            ("sigmoid", {}),
            ("mul", {}),
            ("flatten", {}),
            ("linear", {"out_features": FREE[0]}),
            ("relu", {}),
        ))  # fmt: skip
        table = np.zeros((len(genes), max(gene.cardinality for gene in genes)))
        for i, gene in enumerate(genes):
            table[i, : gene.cardinality] = gene.values
        table.setflags(write=False)
        shape = frozen(np.array([_ROUNDING.index(rounding), classes, _SE if se else 0], np.int64))
        deepest = max(genes[0].values)
        encoder = Encoder(encoders.regnet, (table, kinds, shape), 7 + 18 * deepest, 7 + 20 * deepest, deepest)
        name = f"regnet{'y' if se else 'x'}"
        build = partial(_build, name=name, genes=tuple(gene.values for gene in genes), se=se, rounding=rounding,
                        resolution=resolution, classes=classes)  # fmt: skip
        super().__init__(name, genes, palette, encoder, build)

    def encode(self, native: Any) -> I64:
        """Return the genotype of a mapping with the keys of `GENES`.

        Raises
        ------
        SpaceError
            If a key is missing or unknown, or its value not on the grid.
        """
        if not isinstance(native, Mapping) or set(native) != set(GENES):
            raise SpaceError(f"{native!r} is not a RegNet; allowed: a mapping with the keys {', '.join(GENES)}")
        return self.from_values(native)

    def decode(self, x: ArrayLike) -> dict[str, Any]:
        """Return a genotype as a mapping of `GENES`."""
        return self.values(x)

    def stages(self, x: ArrayLike) -> list[tuple[int, int, int]]:
        """Return blocks, width and group width of each stage of a candidate."""
        depth, w_0, w_a, w_m, group_width = (self.values(x)[name] for name in GENES)
        return stages_of(depth, w_0, w_a, w_m, group_width, self.rounding)


def _check(name: str, value: Any) -> None:
    if name in ("wa", "wm"):
        least = 0.0 if name == "wa" else 1.0
        good = isinstance(value, int | float) and least <= value <= 1e6 and (name == "wa" or value > 1)
        words = "numbers from 0" if name == "wa" else "numbers above 1"
    else:
        step = 8 if name == "w0" else 1
        good = isinstance(value, int) and 1 <= value <= 1_000_000 and value % step == 0
        words = "multiples of 8" if name == "w0" else "integers from 1"
    if isinstance(value, bool) or not good:
        raise SpaceError(f"{name} may be {value!r}; allowed: {words}")


def regnet(
    *,
    se: bool = False,
    depths: Sequence[int] = _DEPTHS,
    initial_widths: Sequence[int] = _INITIAL,
    slopes: Sequence[float] = _SLOPES,
    factors: Sequence[float] = _FACTORS,
    group_widths: Sequence[int] = _GROUPS,
    rounding: str = "nearest",
    resolution: int = 224,
    classes: int = 1000,
) -> RegNet:
    """Return the space of RegNetX or, with squeeze-excitation, RegNetY.

    The genes are the paper's parameters on grids: depth, w_0, w_a, w_m and group width. Widths ``w_0 + w_a j`` are
    rounded to ``w_0 w_m**k`` for whole k, then to multiples of 8; runs of equal widths are stages; a group wider than
    its stage is cut to it, and the stage's width is made to divide by it. So every combination is a net. Different
    ones may be the same net: rows are compared, not nets.

    Parameters
    ----------
    se : bool
        Squeeze-excitation with a quarter of the block's input channels: RegNetY.
    depths, initial_widths, slopes, factors, group_widths : sequence of numbers
        The grids of the genes.
    rounding : str
        How widths are made to divide by the group width: ``"nearest"`` multiple, as pycls does, or ``"divisible"``, as
        torchvision does: the next one up where that would lose more than a tenth.
    resolution, classes : int

    Returns
    -------
    RegNet
        Notation: a mapping of `GENES`. pycls's "flops" are multiply-accumulates of convention ``"macs+bias"``.

    Examples
    --------
    >>> space = regnet()
    >>> x = space.encode({"depth": 13, "w0": 24, "wa": 36.44, "wm": 2.49, "gw": 8})
    >>> space.graph(x).n_parameters, space.stages(x)
    (2684792, [(1, 24, 8), (1, 56, 8), (4, 152, 8), (7, 368, 8)])
    """
    return RegNet(se, (depths, initial_widths, slopes, factors, group_widths), rounding, resolution, classes)
