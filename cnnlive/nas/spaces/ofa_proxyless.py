"""OFA-Proxyless and MCUNet's spaces: the MobileNetV2-like net of Once-for-All, with widths and resolutions.

Cai et al., https://arxiv.org/abs/1908.09791; Lin et al., "MCUNet: Tiny Deep Learning on IoT Devices",
https://arxiv.org/abs/2007.10319, section 3.1. The references are ``OFAProxylessNASNets`` of
github.com/mit-han-lab/once-for-all and of github.com/mit-han-lab/mcunet (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cnnlive.errors import AttributeValueError
from cnnlive.nas.space import Slot
from cnnlive.nas.spaces._common import resolutions_of, widths_of
from cnnlive.nas.spaces._ofa import (
    DEPTHS,
    EXPANSIONS,
    KERNEL_SIZES,
    OfaSpace,
    classifier,
    conv_layer,
    first_conv,
    global_pool,
    residual_block,
    searched,
)
from cnnlive.zoo._blocks import factor, scaled, whole

if TYPE_CHECKING:
    from cnnlive.graph import Graph, Tensor

__all__ = ["ofa_proxyless"]

# Channels and stride of the searched stages; the last has one block.
_STAGES: Final = ((24, 2), (40, 2), (80, 2), (96, 1), (192, 2), (320, 1))
_BASES: Final = (32, 16, *(base for base, _ in _STAGES))
_MIXES: Final = ("ofa", "mcunet", "none")


def _mcunet_mix(g: Graph, x: Tensor, *, width: float) -> Tensor:
    """Add MCUNet's last convolution, which widths below 1 do not narrow."""
    return conv_layer(g, x, base=1280, width=max(1.0, width), act="relu6")


def ofa_proxyless(
    *,
    width: float = 1.0,
    widths: Sequence[float] | None = None,
    resolutions: int | Sequence[int] = tuple(range(128, 225, 16)),
    num_classes: int = 1000,
    kernel_sizes: Sequence[int] = KERNEL_SIZES,
    expansions: Sequence[float] = EXPANSIONS,
    depths: Sequence[int] = DEPTHS,
    mix: str = "ofa",
) -> OfaSpace:
    """Return the search space OFA-Proxyless: five stages of up to four blocks and a sixth of one, ReLU6, no SE.

    ``ofa_proxyless(widths=[0.2, 0.3, ..., 1.0], resolutions=range(48, 225, 16), mix="mcunet")`` are the 108 spaces that
    MCUNet chooses from, as one.

    Parameters
    ----------
    width : float
        Multiplies all channels, rounded to multiples of 8; OFA trained 1.3. Not read if `widths` is given.
    widths : sequence of float, optional
        Makes the width a gene.
    resolutions : int, or sequence of int
        Height and width of the image.
    num_classes : int
    kernel_sizes, expansions, depths : sequence
        Alternatives of each block's depthwise kernel and expansion ratio, and of each stage's number of blocks.
    mix : {"ofa", "mcunet", "none"}
        The last convolution: of 1,280 channels times the width; of at least 1,280; left out, as in MCUNet's small
        nets. The first two differ for widths below 1 alone.

    Returns
    -------
    OfaSpace
        `encode` takes OFA's dicts: 21 entries of ``ks`` and ``e``, six of ``d``, the last of which stands for one
        block whatever it is, ``r`` or ``image_size``, and ``wid``, a position among `widths`. `decode` gives them.

    Raises
    ------
    AttributeValueError
        For an argument that is not allowed, also two widths that give the same nets.

    Examples
    --------
    >>> space = ofa_proxyless(widths=(0.5, 1.0), resolutions=(128, 160))
    >>> x = space.encode({"ks": 3, "e": 3, "d": 2, "r": 160, "wid": 0})
    >>> space.decode(x)["d"]
    [2, 2, 2, 2, 2, 1]
    """
    if mix not in _MIXES:
        raise AttributeValueError(f"mix={mix!r}; allowed: {', '.join(map(repr, _MIXES))}")
    ks, es, ds = searched(kernel_sizes, expansions, depths)
    found = resolutions_of(resolutions)
    several = None if widths is None else widths_of(widths)
    if several is not None:
        seen: dict[tuple[int, ...], float] = {}
        for w in several:
            other = seen.setdefault(tuple(scaled(base, w) for base in _BASES), w)
            if other != w:
                raise AttributeValueError(f"widths {other} and {w} give the same channels; allowed: one of them")
    # What an option is told of the width: by a gene, or fixed in it.
    gene: dict[str, str] = {} if several is None else {"width": "w"}
    fixed: dict[str, Any] = {} if several is not None else {"width": factor("width", width)}
    before = (
        Slot("first_conv", partial(first_conv, base=32, act="relu6", **fixed), {"resolution": "r", **gene}),
        Slot("blocks_0", partial(residual_block, base=16, stride=1, act="relu6", shortcut=False, **fixed), gene),
    )
    blocks = {
        key: partial(residual_block, base=key[0], stride=key[1], act="relu6", **fixed)
        for base, stride in _STAGES
        for key in ((base, stride), (base, 1))
    }
    stages = [(1 if base == _BASES[-1] else ds[-1], blocks[base, stride], blocks[base, 1]) for base, stride in _STAGES]
    last = {
        "ofa": [Slot("feature_mix_layer", partial(conv_layer, base=1280, act="relu6", **fixed), gene)],
        "mcunet": [Slot("feature_mix_layer", partial(_mcunet_mix, **fixed), gene)],
        "none": [],
    }[mix]
    after = (
        *last,
        Slot("global_avg_pool", partial(global_pool, keepdim=False)),
        Slot("classifier", partial(classifier, num_classes=whole("num_classes", num_classes))),
    )
    return OfaSpace(
        "ofa_proxyless",
        stages=stages,
        before=before,
        after=after,
        resolutions=found,
        kernel_sizes=ks,
        expansions=es,
        depths=ds,
        widths=several,
    )
