"""DARTS: a normal and a reduction cell, each step adding up two operations on earlier states.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", https://arxiv.org/abs/1806.09055. The nets are those
of :mod:`cnnlive.zoo.darts` without what training adds: drop path and the auxiliary head.
"""

from __future__ import annotations

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
from cnnlive.zoo._blocks import whole
from cnnlive.zoo.darts import Genotype, darts_cifar, darts_imagenet

__all__ = ["OPERATIONS", "Darts", "Genotype", "darts"]

#: Operations that DARTS's genotypes choose from.
OPERATIONS: Final = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
                     "dil_conv_5x5")  # fmt: skip
#: What its genotypes of NASNet-A and AmoebaNet-A have beside them.
MORE_OPERATIONS: Final = ("sep_conv_7x7", "conv_7x1_1x7")
_SIZES: Final = {"cifar10": (36, 20, 32, 10), "imagenet": (48, 14, 224, 1000)}
_FIELDS: Final = ("normal", "normal_concat", "reduce", "reduce_concat")
# An edge's operation has at most 8 ops (separable twice), each with one input.
_EDGE: Final = 8


def _build(
    row: tuple[int, ...], *, dataset: str, channels: int, layers: int, steps: int, operations: tuple[str, ...],
    concat: str, resolution: int, classes: int,
) -> Graph:  # fmt: skip
    genotype = _genotype(row, steps, operations, concat)
    net = darts_imagenet if dataset == "imagenet" else darts_cifar
    return net(genotype=genotype, channels=channels, layers=layers, resolution=resolution, num_classes=classes)


def _genotype(row: Sequence[int], steps: int, operations: Sequence[str], concat: str) -> Genotype:
    normal, reduce = (tuple((operations[row[i]], int(row[i + 1])) for i in range(start, start + 4 * steps, 2))
                      for start in (0, 4 * steps))  # fmt: skip
    return Genotype(normal, _joined(normal, steps, concat), reduce, _joined(reduce, steps, concat))


def _joined(edges: Sequence[tuple[str, int]], steps: int, concat: str) -> tuple[int, ...]:
    """Return the states that are joined: all new ones, or those that none reads."""
    read = {state for _, state in edges} if concat == "loose" else set()
    return tuple(s for s in range(2, steps + 2) if s not in read)


class Darts(EncodedSpace):
    """The space that :func:`darts` makes; its notation is a :class:`Genotype`."""

    def __init__(
        self, dataset: str, channels: int | None, layers: int | None, steps: int, operations: Sequence[str],
        concat: str, resolution: int | None, classes: int | None,
    ) -> None:  # fmt: skip
        if dataset not in _SIZES:
            raise SpaceError(f"dataset={dataset!r}; allowed: {', '.join(map(repr, _SIZES))}")
        if concat not in ("all", "loose"):
            raise SpaceError(f"concat={concat!r}; allowed: 'all', 'loose'")
        known = OPERATIONS + MORE_OPERATIONS
        if not operations or len(set(operations)) != len(operations) or set(operations) - set(known):
            raise SpaceError(f"operations={operations!r}; allowed: some of {', '.join(known)}, none twice")
        sizes = [
            default if given is None else given
            for given, default in zip((channels, layers, resolution, classes), _SIZES[dataset], strict=True)
        ]
        c, n, pixels, classes = (whole(name, value) for name, value in
                                 zip(("channels", "layers", "resolution", "classes"), sizes, strict=True))  # fmt: skip
        if c % 2 or n < 3:
            raise SpaceError(f"channels={c}, layers={n}; allowed: even channels and at least 3 layers")
        self.steps, self.operations, self.concat = whole("steps", steps), tuple(operations), concat
        palette = Palette()
        conv: dict[str, Any] = {"out_channels": FREE[0], "bias": False}
        kinds = number_kinds(palette, (
            ("input", {"shape": (1, 3, pixels, pixels)}),
            ("batch_norm2d", {}),
            ("relu", {}),
            ("conv2d", conv | {"kernel_size": 3, "padding": 1}),
            ("conv2d", conv | {"kernel_size": 1}),
            ("conv2d", conv | {"kernel_size": 1, "stride": 2}),
            ("slice", {"dim": 2, "start": 1}),
            ("concat", {"dim": 1}),
            ("add", {}),
            ("conv2d", conv | {"kernel_size": 3, "padding": 1, "stride": 2}),
            ("relu", {"inplace": True}),
            ("adaptive_avg_pool2d", {"output_size": 1}) if dataset == "cifar10" else
            ("avg_pool2d", {"kernel_size": -(-pixels // 32), "stride": -(-pixels // 32)}),
            ("flatten", {}),
            ("linear", {"out_features": FREE[0]}),
            ("slice", {"dim": 3, "start": 1}),
        ))  # fmt: skip
        table = frozen(np.array([_kinds_of(palette, op) for op in self.operations], np.int64))
        shape = frozen(np.array([c, n, steps, concat == "loose", dataset == "imagenet", classes], np.int64))
        cell = 2 * steps * _EDGE + steps + 10
        encoder = Encoder(encoders.darts, (kinds, table, shape), 13 + n * cell, 13 + n * (cell + 2 * steps), steps + 2)
        build = partial(_build, dataset=dataset, channels=c, layers=n, steps=steps, operations=self.operations,
                        concat=concat, resolution=pixels, classes=classes)  # fmt: skip
        genes = []
        for cell_name in ("normal", "reduce"):
            for k in range(2 * steps):
                genes.append(Gene(f"{cell_name}{k}_op", self.operations))
                genes.append(Gene(f"{cell_name}{k}_state", tuple(range(2 + k // 2))))
        super().__init__(f"darts-{dataset}", genes, palette, encoder, build)

    def encode(self, native: Any) -> I64:
        """Return the genotype of a `Genotype`, or of anything with its four fields or keys.

        Raises
        ------
        SpaceError
            If a cell has another number of edges, an edge another operation or state, or other states are joined.
        """
        if isinstance(native, Mapping) and not set(_FIELDS) & set(native):
            return super().encode(native)
        parts = []
        for name in _FIELDS:
            value = native.get(name) if isinstance(native, Mapping) else getattr(native, name, None)
            if value is None:
                raise SpaceError(f"{native!r} is not a genotype; allowed: one with {', '.join(_FIELDS)}")
            parts.append(value)
        row: list[int] = []
        for name, edges, joined in ((_FIELDS[0], parts[0], parts[1]), (_FIELDS[2], parts[2], parts[3])):
            try:
                pairs = [(op, state) for op, state in edges]
                states = tuple(int(s) for s in joined)
            except (TypeError, ValueError):
                raise SpaceError(f"{name} is {edges!r}, joined {joined!r}; allowed: pairs (operation, state), "
                                 "and states") from None  # fmt: skip
            if len(pairs) != 2 * self.steps:
                raise SpaceError(f"{name} has {len(pairs)} edges; allowed: {2 * self.steps}, two for each step")
            for k, (op, state) in enumerate(pairs):
                if op not in self.operations:
                    raise SpaceError(f"{name}, edge {k}: operation {op!r}; allowed: {', '.join(self.operations)}")
                if isinstance(state, bool) or not isinstance(state, int | np.integer) or not 0 <= state < 2 + k // 2:
                    raise SpaceError(f"{name}, edge {k}: state {state!r}; allowed: 0 to {1 + k // 2}")
                row += [self.operations.index(op), int(state)]
            expected = _joined(pairs, self.steps, self.concat)
            if states != expected:
                raise SpaceError(f"{name}_concat is {states}; allowed in this space: {expected}, since "
                                 f"concat={self.concat!r}")  # fmt: skip
        return np.array(row, np.int64)

    def decode(self, x: ArrayLike) -> Genotype:
        """Return a row as a `Genotype`."""
        return _genotype(self.row(x), self.steps, self.operations, self.concat)


def _kinds_of(palette: Palette, operation: str) -> tuple[int, int, int, int, int]:
    """Add an operation's kinds; return its row in the encoder's table."""

    def conv(kernel: int | tuple[int, int], stride: int | tuple[int, int], padding: int | tuple[int, int],
             **more: Any) -> int:  # fmt: skip
        return palette.add("conv2d", out_channels=FREE[0], kernel_size=kernel, stride=stride, padding=padding,
                           bias=False, **more)  # fmt: skip

    kernel = int(operation[-1]) if operation[-1].isdigit() else 0
    if operation == "skip_connect":
        return 0, 0, 0, 0, 0
    if operation == "conv_7x1_1x7":
        first, second = [conv((1, 7), (1, s), (0, 3)) for s in (1, 2)], [conv((7, 1), (s, 1), (3, 0)) for s in (1, 2)]
        return 4, first[0], first[1], second[0], second[1]
    if operation.startswith("sep_conv"):
        one, two = (conv(kernel, s, kernel // 2, groups=FREE[0]) for s in (1, 2))
        return 2, one, two, one, one
    if operation.startswith("dil_conv"):
        one, two = (conv(kernel, s, 2 * (kernel // 2), groups=FREE[0], dilation=2) for s in (1, 2))
        return 3, one, two, 0, 0
    more: dict[str, Any] = {"count_include_pad": False} if operation == "avg_pool_3x3" else {}
    pools = [palette.add(f"{operation[:3]}_pool2d", kernel_size=3, stride=s, padding=1, **more) for s in (1, 2)]
    return 1, pools[0], pools[1], 0, 0


def darts(
    dataset: str = "cifar10",
    *,
    channels: int | None = None,
    layers: int | None = None,
    steps: int = 4,
    operations: Sequence[str] = OPERATIONS,
    concat: str = "all",
    resolution: int | None = None,
    classes: int | None = None,
) -> Darts:
    """Return the space of DARTS.

    A genotype holds, per edge of the normal cell and then of the reduction cell, its operation and the state that it
    reads; each step adds up two edges. Every combination is a member, also two edges of a step that read one state, in
    either order: the order is that of the program.

    Parameters
    ----------
    dataset : str
        ``"cifar10"`` (20 layers of 36 channels) or ``"imagenet"`` (14 of 48, behind two stems).
    channels, layers, resolution, classes : int, optional
        Where they differ from the paper's.
    steps : int
        New states of a cell: 4, and 5 in DARTS's genotypes of NASNet-A and AmoebaNet-A.
    operations : sequence of str
        What edges choose from; beside `OPERATIONS` there are ``sep_conv_7x7`` and ``conv_7x1_1x7``.
    concat : str
        Which new states make up a cell's output: ``"all"``, or ``"loose"``, those that no edge reads.

    Returns
    -------
    Darts
        Notation: :class:`cnnlive.zoo.darts.Genotype`.

    Examples
    --------
    >>> from cnnlive.zoo.darts import GENOTYPES
    >>> space = darts()
    >>> space.graph(space.encode(GENOTYPES["darts_v2"])).n_parameters
    3349342
    """
    return Darts(dataset, channels, layers, steps, operations, concat, resolution, classes)
