"""What the Once-for-All spaces share: layers as the reference's modules run them, and dicts as native encoding.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
https://arxiv.org/abs/1908.09791; the reference is github.com/mit-han-lab/once-for-all (MIT).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cnnlive._types import I64
from cnnlive.errors import AttributeValueError, SpaceError, close_names
from cnnlive.nas.base import Gene
from cnnlive.nas.space import Slot, Space
from cnnlive.nas.spaces._common import conv_bn, distinct, image, position
from cnnlive.zoo._blocks import make_divisible, scaled, whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cnnlive.graph import Graph, Tensor

#: Alternatives of every block and stage of the published spaces: kernel sizes, expansion ratios, depths.
KERNEL_SIZES: Final = (3, 5, 7)
EXPANSIONS: Final = (3, 4, 6)
DEPTHS: Final = (2, 3, 4)


# ------------------------------------------------------------------ layers


def hard(g: Graph, x: Tensor, act: str, *, inplace: bool, composed: bool, name: str) -> Tensor:
    """Add a hard swish or a hard sigmoid: one op, or the ops that the reference's module is composed of.

    These are ``x + 3``, ReLU6, the product with ``x`` (of a swish), and a division by 6; `inplace` is of the ReLU6
    alone, so that each of the others makes a tensor.
    """
    if not composed:
        fused: Tensor = g.op("hardswish" if act == "h_swish" else "hardsigmoid", x, inplace=inplace, name=name)
        return fused
    with g.scope(name):
        y = g.relu6(g.scale(x, offset=3.0), inplace=inplace)
        return g.scale(g.mul(x, y) if act == "h_swish" else y, factor=1 / 6)


def activation(g: Graph, x: Tensor, act: str, *, composed: bool, inplace: bool = True) -> Tensor:
    """Add an activation by OFA's name of it."""
    if act == "h_swish":
        return hard(g, x, act, inplace=inplace, composed=composed, name="act")
    result: Tensor = g.op(act, x, inplace=inplace, name="act")
    return result


def global_pool(g: Graph, x: Tensor, *, keepdim: bool) -> Tensor:
    """Add the reference's global pool: a mean over columns, then one over rows."""
    return g.mean(g.mean(x, -1, keepdim), -2 if keepdim else -1, keepdim)


def squeeze_excitation(g: Graph, x: Tensor, *, composed: bool) -> Tensor:
    """Add OFA's squeeze-and-excitation: a quarter of the channels, rounded to a multiple of 8."""
    with g.scope("se"):
        y = global_pool(g, x, keepdim=True)
        with g.scope("fc"):
            y = g.relu(g.conv2d(y, make_divisible(x.channels // 4), 1, name="reduce"), inplace=True, name="relu")
            y = g.conv2d(y, x.channels, 1, name="expand")
            y = hard(g, y, "h_sigmoid", inplace=True, composed=composed, name="h_sigmoid")
        return g.mul(x, y)


def conv_layer(
    g: Graph,
    x: Tensor,
    *,
    base: int,
    width: float,
    act: str,
    composed: bool = False,
    kernel_size: int = 1,
    stride: int = 1,
) -> Tensor:
    """Add a convolution of `base` channels times `width`, a batch normalisation and an activation."""
    x = conv_bn(g, x, scaled(base, width), kernel_size, stride, names=("conv", "bn"))
    return activation(g, x, act, composed=composed)


def first_conv(g: Graph, *, base: int, width: float, act: str, resolution: int, composed: bool = False) -> Tensor:
    """Add the input and the first convolution, of stride 2."""
    x = image(g, resolution)
    return conv_layer(g, x, base=base, width=width, act=act, composed=composed, kernel_size=3, stride=2)


def residual_block(
    g: Graph,
    x: Tensor,
    *,
    base: int,
    width: float,
    stride: int,
    act: str,
    kernel_size: int = 3,
    expand_ratio: float = 1,
    squeeze: bool = False,
    composed: bool = False,
    shortcut: bool = True,
) -> Tensor:
    """Add a mobile inverted bottleneck of `base` channels times `width`.

    The shortcut is there where the shape is kept, unless `shortcut` is false.
    """
    out_channels = scaled(base, width)
    hidden = x.channels if expand_ratio == 1 else make_divisible(round(x.channels * expand_ratio))
    with g.scope("conv"):
        y = x
        if expand_ratio != 1:
            with g.scope("inverted_bottleneck"):
                y = activation(g, conv_bn(g, y, hidden, names=("conv", "bn")), act, composed=composed)
        with g.scope("depth_conv"):
            y = conv_bn(g, y, hidden, kernel_size, stride, names=("conv", "bn"), groups=hidden)
            y = activation(g, y, act, composed=composed)
            if squeeze:
                y = squeeze_excitation(g, y, composed=composed)
        with g.scope("point_linear"):
            y = conv_bn(g, y, out_channels, names=("conv", "bn"))
    return g.add(y, x) if shortcut and stride == 1 and x.channels == out_channels else y


def classifier(g: Graph, x: Tensor, *, num_classes: int) -> Tensor:
    """Add the classifier: a view where the pool kept its dimensions, dropout in place, linear."""
    x = x if len(x.shape) == 2 else g.flatten(x)
    return g.linear(g.dropout(x, p=0.1, inplace=True, name="dropout"), num_classes, name="linear")


# ------------------------------------------------------------------ space


class OfaSpace(Space):
    """A space whose members are OFA's dicts of kernel sizes, expansion ratios, depths and resolution.

    Attributes
    ----------
    stages : tuple of int
        Blocks of each stage at full depth.
    places : list of (int, int)
        Stage of each block, and the least depth at which it is there.
    resolutions, kernel_sizes, expansions, depths, widths : tuple
        What is searched. `widths` is None where the width is fixed.
    """

    def __init__(
        self,
        name: str,
        *,
        stages: Sequence[tuple[int, Callable[..., Tensor], Callable[..., Tensor]]],
        before: Sequence[Slot],
        after: Sequence[Slot],
        resolutions: Sequence[int],
        kernel_sizes: Sequence[int],
        expansions: Sequence[float],
        depths: Sequence[int],
        widths: Sequence[float] | None,
    ) -> None:
        self.stages = tuple(n for n, _, _ in stages)
        self.resolutions, self.widths = tuple(resolutions), None if widths is None else tuple(widths)
        self.kernel_sizes, self.expansions, self.depths = tuple(kernel_sizes), tuple(expansions), tuple(depths)
        blocks: list[Slot] = []
        genes: dict[str, list[Gene]] = {"ks": [], "e": [], "d": []}
        wide = {} if widths is None else {"width": "w"}
        self.places: list[tuple[int, int]] = []
        for stage, (n, first, later) in enumerate(stages):
            if n > 1:
                genes["d"].append(Gene(f"d{stage}", self.depths))
            for k in range(n):
                i = len(self.places)
                self.places.append((stage, k + 1))
                genes["ks"].append(Gene(f"ks{i}", self.kernel_sizes))
                genes["e"].append(Gene(f"e{i}", self.expansions))
                there = tuple(d for d in self.depths if d > k)
                when = {f"d{stage}": there} if n > 1 and (k == n - 1 or len(there) < len(self.depths)) else {}
                blocks.append(Slot(f"blocks_{i + 1}", later if k else first,
                                   {"kernel_size": f"ks{i}", "expand_ratio": f"e{i}", **wide}, when))  # fmt: skip
        rest = [Gene("r", self.resolutions)] + ([] if self.widths is None else [Gene("w", self.widths)])
        super().__init__(name, [*genes["ks"], *genes["e"], *genes["d"], *rest], [*before, *blocks, *after])

    @property
    def n_blocks(self) -> int:
        """Blocks at full depth, the first one of the net, which is fixed, left out."""
        return len(self.places)

    def encode(self, native: Any) -> I64:
        """Return the genotype of a dict of OFA.

        Parameters
        ----------
        native : mapping
            ``ks`` and ``e``: of each block, or one value for all; ``d``: of each stage, or one for all; ``r`` or
            ``image_size``: an integer or a list of one, which may be left out where the space has one
            resolution. ``wid``: position among `widths`, None where the width is fixed. What is given for a block
            that its stage's depth switches off is not read, and may be 0 or None too.

        Raises
        ------
        SpaceError
            If a key is missing or unknown, or a list has another length or a value that is not allowed; names it.
        """
        if not isinstance(native, Mapping):
            raise SpaceError(f"{self.name}: {native!r} is no dict of 'ks', 'e', 'd' and 'r'")
        known = ("ks", "e", "d", "r", "image_size", "wid")
        for key in native:
            if key not in known:
                raise SpaceError(f"{self.name}: unknown key {key!r}{close_names(key, known)}; "
                                 f"allowed: {', '.join(map(repr, known))}")  # fmt: skip
        values: dict[str, Any] = {"r": self._read_resolution(native), **self._read_width(native)}
        for stage, depth in enumerate(self._read_list(native, "d", len(self.stages))):
            if self.stages[stage] > 1:
                values[f"d{stage}"] = self.depths[position(self.name, f"d[{stage}]", self.depths, depth)]
            else:  # the reference takes the least of what is asked and the blocks that there are
                position(self.name, f"d[{stage}]", sorted({1, *self.depths}), depth)
        choices: tuple[tuple[str, tuple[Any, ...]], ...] = (("ks", self.kernel_sizes), ("e", self.expansions))
        for key, allowed in choices:
            for i, value in enumerate(self._read_list(native, key, self.n_blocks)):
                stage, least = self.places[i]
                if values.get(f"d{stage}", 1) >= least:
                    values[f"{key}{i}"] = allowed[position(self.name, f"{key}[{i}]", allowed, value)]
                elif value is not None:  # a block that is switched off: any alternative, or none
                    position(self.name, f"{key}[{i}]", (0, *allowed), value)
        return self.from_values(values)

    def _read_list(self, native: Mapping[str, Any], key: str, n: int) -> list[Any]:
        if key not in native:
            raise SpaceError(f"{self.name}: {key!r} is missing")
        given = native[key]
        if isinstance(given, np.ndarray):
            given = given.tolist()
        if isinstance(given, str) or not isinstance(given, Sequence):
            return [given] * n
        if len(given) != n:
            raise SpaceError(f"{self.name}: {key!r} has {len(given)} entries; allowed: {n}, or one value for all")
        return list(given)

    def _read_resolution(self, native: Mapping[str, Any]) -> int:
        found = []
        for key in ("r", "image_size"):
            if native.get(key) is not None:
                [value] = self._read_list(native, key, 1)
                found.append(self.resolutions[position(self.name, key, self.resolutions, value)])
        if not found and len(self.resolutions) == 1:
            return self.resolutions[0]
        if not found:
            raise SpaceError(f"{self.name}: 'r' is missing; allowed: {', '.join(map(str, self.resolutions))}")
        if found[0] != found[-1]:
            raise SpaceError(f"{self.name}: r={found[0]} and image_size={found[1]} disagree")
        return found[0]

    def _read_width(self, native: Mapping[str, Any]) -> dict[str, float]:
        wid = native.get("wid")
        if self.widths is None:
            if wid is not None:
                raise SpaceError(f"{self.name}: wid={wid!r}, and the width of this space is fixed; allowed: None")
            return {}
        places = range(len(self.widths))
        return {"w": self.widths[position(self.name, "wid", places, wid)]}

    def decode(self, x: ArrayLike) -> dict[str, Any]:
        """Return the dict of a genotype: ``ks`` and ``e`` of each block, ``d`` of each stage, ``r``, a list of one.

        Blocks that are switched off have the first kernel size and expansion ratio. Where the width is searched
        ``wid`` is there too.
        """
        said = self.values(self.canonical(x)[0])
        found = {key: [said[f"{key}{i}"] for i in range(self.n_blocks)] for key in ("ks", "e")}
        found["d"] = [said.get(f"d{stage}", 1) for stage in range(len(self.stages))]
        found["r"] = [said["r"]]
        return found if self.widths is None else {**found, "wid": self.widths.index(said["w"])}

    def features(self, X: ArrayLike) -> NDArray[np.float32]:  # noqa: N803 - a matrix of genotypes
        """Return what OFA's accuracy predictor reads: one-hot vectors.

        Returns
        -------
        (n, n_features) float32
            Block by block the kernel size, all 0 if the block is switched off; likewise the expansion ratio; last the
            resolution, from 112 on in steps of 16. The published predictor of OFA-MobileNetV3 reads these 128.

        Raises
        ------
        SpaceError
            If the space has a resolution that is none of 112, 128, ..., 224, or searches the width.
        """
        x = self.canonical(X)
        if self.widths is not None or any(r not in _FEATURE_RESOLUTIONS for r in self.resolutions):
            raise SpaceError(f"{self.name}: OFA's features know resolutions {_FEATURE_RESOLUTIONS} and no widths")
        on = np.ones((len(x), self.n_blocks), bool)
        for i, (stage, least) in enumerate(self.places):
            if self.stages[stage] > 1:
                on[:, i] = np.array(self.depths)[x[:, self._position[f"d{stage}"]]] >= least
        parts = []
        for start, choices in ((0, self.kernel_sizes), (self.n_blocks, self.expansions)):
            hot = (x[:, start : start + self.n_blocks, None] == np.arange(len(choices))) & on[:, :, None]
            parts.append(hot.reshape(len(x), -1))
        where = np.array([_FEATURE_RESOLUTIONS.index(r) for r in self.resolutions])[x[:, self._position["r"]]]
        parts.append(where[:, None] == np.arange(len(_FEATURE_RESOLUTIONS)))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def from_features(self, features: ArrayLike) -> I64:
        """Return the genotypes of vectors that :meth:`features` gives: (n, n_features) -> (n, n_genes).

        Raises
        ------
        SpaceError
            If a vector is not of a member of this space; names its row.
        """
        f = np.atleast_2d(np.asarray(features, np.float32))
        k, e, b = len(self.kernel_sizes), len(self.expansions), self.n_blocks
        width = b * (k + e) + len(_FEATURE_RESOLUTIONS)
        if f.ndim != 2 or f.shape[1] != width:
            raise SpaceError(f"{self.name}: features have shape {np.shape(features)}; allowed: (n, {width})")
        x = np.zeros((len(f), self.n_genes), np.int64)
        kernels, expansions = f[:, : b * k].reshape(-1, b, k), f[:, b * k : b * (k + e)].reshape(-1, b, e)
        x[:, :b], x[:, b : 2 * b] = kernels.argmax(axis=2), expansions.argmax(axis=2)
        on = np.greater(kernels.max(axis=2), 0)
        start = 0
        for stage, n in enumerate(self.stages):
            if n > 1:
                depth = on[:, start : start + n].sum(axis=1)
                x[:, self._position[f"d{stage}"]] = np.equal(depth[:, None], self.depths).argmax(axis=1)
            start += n
        resolution = np.array(_FEATURE_RESOLUTIONS)[f[:, b * (k + e) :].argmax(axis=1)]
        x[:, self._position["r"]] = np.equal(resolution[:, None], self.resolutions).argmax(axis=1)
        wrong = np.flatnonzero(np.not_equal(self.features(x), f).any(axis=1))
        if len(wrong):
            raise SpaceError(f"{self.name}: row {wrong[0]} of the features is of no member of this space")
        return self.canonical(x)


_FEATURE_RESOLUTIONS: Final = tuple(range(112, 225, 16))


def searched(kernel_sizes: object, expansions: object, depths: object) -> tuple[tuple[Any, ...], ...]:
    """Check what a space searches: odd kernel sizes, expansion ratios of at least 1, depths of at least 1.

    Raises
    ------
    AttributeValueError
        For an empty list, a value twice, or one that is not allowed.
    """
    ks = tuple(whole("kernel_sizes", k) for k in distinct("kernel_sizes", kernel_sizes))
    for k in ks:
        if k % 2 == 0:
            raise AttributeValueError(f"kernel_sizes={kernel_sizes!r}; allowed: odd integers")
    es = distinct("expansions", expansions)
    for e in es:
        if isinstance(e, bool) or not isinstance(e, int | float) or not 1 <= e <= 1e3:
            raise AttributeValueError(f"expansions={expansions!r}; allowed: numbers of at least 1")
    return ks, es, tuple(sorted(whole("depths", d) for d in distinct("depths", depths)))


__all__ = [
    "DEPTHS",
    "EXPANSIONS",
    "KERNEL_SIZES",
    "OfaSpace",
    "activation",
    "classifier",
    "conv_layer",
    "first_conv",
    "global_pool",
    "residual_block",
    "searched",
]
