"""MobileNetV2 and V3 with a width of its own for each block or stage.

Sandler et al., https://arxiv.org/abs/1801.04381, table 2; Howard et al., https://arxiv.org/abs/1905.02244, table 1.
Kernels, strides and expansions are those of the papers; torchvision's modules are the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, SupportsFloat

import numpy as np

from cnnlive._types import I64
from cnnlive.errors import AttributeValueError, SpaceError, close_names
from cnnlive.nas.base import Gene
from cnnlive.nas.space import Slot, Space
from cnnlive.nas.spaces._common import avgpool, conv_bn_act, image, position, resolutions_of, widths_of
from cnnlive.zoo import mobilenetv2, mobilenetv3
from cnnlive.zoo._blocks import activation, scaled, whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cnnlive.graph import Graph, Tensor

__all__ = ["mobilenet"]

_PER: Final = ("block", "stage")
#: Multipliers that the papers report, by version.
WIDTHS: Final[Mapping[int, tuple[float, ...]]] = {2: (0.35, 0.5, 0.75, 1.0, 1.4), 3: (0.35, 0.5, 0.75, 1.0, 1.25)}


class _Layer(NamedTuple):
    """A slot with a width: its name, its stage, its option, and the channels that a width of 1 gives it."""

    slot: str
    stage: str
    build: Callable[..., Tensor]
    channels: tuple[int, ...]
    least: float = 0.0

    def at(self, width: float) -> tuple[int, ...]:
        """Return its channels at a width."""
        return tuple(scaled(c, max(self.least, width)) for c in self.channels)


# ------------------------------------------------------------------ options


def _stem(g: Graph, *, resolution: int, width: float, channels: int, act: str, eps: float) -> Tensor:
    return conv_bn_act(g, image(g, resolution), scaled(channels, width), 3, 2, act=act, eps=eps)


def _block_v2(g: Graph, x: Tensor, *, width: float, channels: int, stride: int, expansion: int) -> Tensor:
    return mobilenetv2.block(g, x, scaled(channels, width), stride, expansion)


def _block_v3(g: Graph, x: Tensor, *, width: float, row: mobilenetv3.Row) -> Tensor:
    return mobilenetv3.block(g, x, row, width)


def _last_v2(g: Graph, x: Tensor, *, width: float) -> Tensor:
    return conv_bn_act(g, x, scaled(1280, max(1.0, width)), act="relu6")


def _last_v3(g: Graph, x: Tensor) -> Tensor:
    return conv_bn_act(g, x, 6 * x.channels, act="hardswish", eps=1e-3)


def _classifier_v2(g: Graph, x: Tensor, *, num_classes: int) -> Tensor:
    return g.linear(g.dropout(g.flatten(x), p=0.2, name="0"), num_classes, name="1")


def _classifier_v3(g: Graph, x: Tensor, *, width: float, num_classes: int) -> Tensor:
    x = activation(g, g.linear(g.flatten(x), scaled(1280, width), name="0"), "hardswish", inplace=True, name="1")
    return g.linear(g.dropout(x, p=0.2, inplace=True, name="2"), num_classes, name="3")


def _layers(version: int, num_classes: int) -> list[_Layer]:
    """Return the slots that a width changes, in their order; the first has the input, V3's last is the classifier."""
    if version == 2:
        found = [_Layer("features_0", "stem", partial(_stem, channels=32, act="relu6", eps=1e-5), (32,))]
        for stage, (expansion, channels, repeats, stride) in enumerate(mobilenetv2.STAGES, 1):
            options = {s: partial(_block_v2, channels=channels, stride=s, expansion=expansion) for s in (stride, 1)}
            found += [
                _Layer(f"features_{len(found) + k}", f"stage{stage}", options[1 if k else stride], (channels,))
                for k in range(repeats)
            ]
        return [*found, _Layer(f"features_{len(found)}", "last", _last_v2, (1280,), 1.0)]
    found = [_Layer("features_0", "stem", partial(_stem, channels=16, act="hardswish", eps=1e-3), (16,))]
    rows = {row: partial(_block_v3, row=row) for row in mobilenetv3.LARGE}
    stages = dict.fromkeys(row.out_channels for row in mobilenetv3.LARGE)
    names = {channels: f"stage{i}" for i, channels in enumerate(stages, 1)}
    for i, row in enumerate(mobilenetv3.LARGE, 1):
        found.append(_Layer(f"features_{i}", names[row.out_channels], rows[row], (row.expanded, row.out_channels)))
    return [*found, _Layer("classifier", "classifier", partial(_classifier_v3, num_classes=num_classes), (1280,))]


# ------------------------------------------------------------------ space


class _MobileNets(Space):
    """MobileNets by the width multiplier of each of their layers.

    Attributes
    ----------
    widths : tuple of float
    resolutions : tuple of int
    alike : dict
        Of each gene: width -> the first width that gives its layers the same channels.
    """

    def __init__(
        self,
        name: str,
        widths: Sequence[float],
        resolutions: Sequence[int],
        groups: Mapping[str, Sequence[_Layer]],
        slots: Sequence[Slot],
    ) -> None:
        self.widths, self.resolutions = tuple(widths), tuple(resolutions)
        self.alike: dict[str, dict[float, float]] = {}
        genes = []
        for gene, layers in groups.items():
            # Of widths that give the same channels a gene has the first alone.
            first: dict[tuple[tuple[int, ...], ...], float] = {}
            self.alike[gene] = {w: first.setdefault(tuple(layer.at(w) for layer in layers), w) for w in self.widths}
            genes.append(Gene(gene, tuple(first.values())))
        super().__init__(name, [Gene("r", self.resolutions), *genes], slots)

    def encode(self, native: Any) -> I64:
        """Return the genotype of width multipliers.

        Parameters
        ----------
        native : number, sequence of number, or mapping
            One multiplier for the whole net, or one per gene but the resolution; or a mapping of ``widths`` to either
            and ``r`` to the resolution, which may be left out where the space has one. Multipliers that give a
            layer the same channels are one value of its gene.

        Raises
        ------
        SpaceError
            If a multiplier or the resolution is not of the space, or there are more or fewer than genes.
        """
        said = dict(native) if isinstance(native, Mapping) else {"widths": native}
        for key in said:
            if key not in ("widths", "r"):
                raise SpaceError(f"{self.name}: unknown key {key!r}{close_names(key, ('widths', 'r'))}; "
                                 "allowed: 'widths' and 'r'")  # fmt: skip
        given, r = said.get("widths"), said.get("r")
        given = given.tolist() if isinstance(given, np.ndarray) else given
        if isinstance(given, SupportsFloat):
            given = [given] * len(self.alike)
        if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != len(self.alike):
            raise SpaceError(f"{self.name}: {native!r} is no net; allowed: a width multiplier, or {len(self.alike)} "
                             "of them, or a mapping of 'widths' to either and 'r' to a resolution")  # fmt: skip
        if r is None and len(self.resolutions) > 1:
            raise SpaceError(f"{self.name}: 'r' is missing; allowed: {', '.join(map(str, self.resolutions))}")
        values: dict[str, Any] = {
            gene: alike[self.widths[position(self.name, f"the width of {gene}", self.widths, w)]]
            for (gene, alike), w in zip(self.alike.items(), given, strict=True)
        }
        values["r"] = self.resolutions[0 if r is None else position(self.name, "r", self.resolutions, r)]
        return self.from_values(values)

    def decode(self, x: ArrayLike) -> dict[str, Any]:
        """Return ``{"widths": [...], "r": ...}``: a multiplier per gene, the least of those that give the same."""
        said = self.values(x)
        r = said.pop("r")
        return {"widths": list(said.values()), "r": r}


def mobilenet(
    version: int = 2,
    *,
    widths: Sequence[float] | None = None,
    per: str = "block",
    resolutions: int | Sequence[int] = 224,
    num_classes: int = 1000,
) -> Space:
    """Return the MobileNets of version 2, or 3 (large), whose blocks or stages have width multipliers of their own.

    One multiplier for the whole net gives torchvision's ``width_mult``. As there, a block has a shortcut where its
    channels and resolution are kept, so not between blocks of different widths; V2 expands what it is given six
    times; V3 multiplies its expanded channels too, leaves the expansion out where it changes no channels, and its
    last convolution has six times the channels of the last block.

    Parameters
    ----------
    version : {2, 3}
    widths : sequence of float, optional
        Multipliers of each gene; channels are rounded to multiples of 8, and of multipliers that give a gene's layers
        the same channels it has the least. Default: 0.35, 0.5, 0.75, 1 and 1.4 (V3: 1.25), as published.
    per : {"block", "stage"}
        Whether each block has a gene, or the blocks of a stage share one. First convolution, V2's last one and V3's
        hidden layer of the classifier have genes of their own.
    resolutions : int, or sequence of int
    num_classes : int

    Returns
    -------
    Space
        `encode` takes one multiplier, or one per gene, `decode` gives one per gene.

    Raises
    ------
    AttributeValueError
        For an argument that is not allowed.

    Examples
    --------
    >>> space = mobilenet(2, resolutions=(160, 224))
    >>> x = space.encode({"widths": 0.5, "r": 224})
    >>> space.graph(x).n_parameters
    1968680
    """
    if isinstance(version, bool) or version not in WIDTHS:
        raise AttributeValueError(f"version={version!r}; allowed: 2 or 3")
    if per not in _PER:
        raise AttributeValueError(f"per={per!r}; allowed: {', '.join(map(repr, _PER))}")
    classes = whole("num_classes", num_classes)
    layers = _layers(version, classes)
    groups: dict[str, list[_Layer]] = {}
    gene_of: dict[str, str] = {}
    for layer in layers:
        gene = layer.slot if per == "block" else layer.stage
        groups.setdefault(gene, []).append(layer)
        gene_of[layer.slot] = gene
    slots = [Slot(layer.slot, layer.build, {"width": gene_of[layer.slot]}) for layer in layers]
    slots[0] = Slot(layers[0].slot, layers[0].build, {"resolution": "r", "width": gene_of[layers[0].slot]})
    pool = Slot("avgpool", avgpool)
    if version == 2:
        slots += [pool, Slot("classifier", partial(_classifier_v2, num_classes=classes))]
    else:
        slots[-1:] = [Slot(f"features_{len(layers) - 1}", _last_v3), pool, slots[-1]]
    found = sorted(widths_of(WIDTHS[version] if widths is None else widths))
    return _MobileNets(f"mobilenet_v{version}", found, resolutions_of(resolutions), groups, slots)
