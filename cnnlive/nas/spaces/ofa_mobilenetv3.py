"""OFA-MobileNetV3: Cai et al., "Once-for-All", https://arxiv.org/abs/1908.09791, section 4.1.

The reference is ``OFAMobileNetV3`` of github.com/mit-han-lab/once-for-all (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cnnlive.errors import AttributeValueError
from cnnlive.nas.space import Slot
from cnnlive.nas.spaces._common import resolutions_of
from cnnlive.nas.spaces._ofa import (
    DEPTHS,
    EXPANSIONS,
    KERNEL_SIZES,
    OfaSpace,
    classifier,
    conv_layer,
    first_conv,
    global_pool,
    hard,
    residual_block,
    searched,
)
from cnnlive.zoo._blocks import factor, scaled, whole

if TYPE_CHECKING:
    from cnnlive.graph import Graph, Tensor

__all__ = ["ofa_mobilenetv3"]

# Channels, stride, activation and squeeze-and-excitation of the searched stages.
_STAGES: Final = (
    (24, 2, "relu", False), (40, 2, "relu", True), (80, 2, "h_swish", False), (112, 1, "h_swish", True),
    (160, 2, "h_swish", True),
)  # fmt: skip
_ACTIVATIONS: Final = ("composed", "fused")


def _feature_mix(g: Graph, x: Tensor, *, width: float, composed: bool) -> Tensor:
    """Add the 1x1 convolution behind the pool: neither bias nor normalisation, and its hard swish is not in place."""
    x = g.conv2d(x, scaled(1280, width), 1, bias=False, name="conv")
    return hard(g, x, "h_swish", inplace=False, composed=composed, name="act")


def ofa_mobilenetv3(
    *,
    width: float = 1.0,
    resolutions: int | Sequence[int] = tuple(range(128, 225, 16)),
    num_classes: int = 1000,
    kernel_sizes: Sequence[int] = KERNEL_SIZES,
    expansions: Sequence[float] = EXPANSIONS,
    depths: Sequence[int] = DEPTHS,
    activations: str = "composed",
) -> OfaSpace:
    """Return the search space OFA-MobileNetV3: five stages of up to four blocks, each of its own kernel and expansion.

    With the default choices a resolution has ``(9**2 + 9**3 + 9**4)**5``, about 2e19 nets.

    Parameters
    ----------
    width : float
        Multiplies all channels, rounded to multiples of 8; OFA trained 1.0 and 1.2.
    resolutions : int, or sequence of int
        Height and width of the image. Default: 128 to 224 in steps of 16, those of OFA's accuracy predictor; the
        paper's training draws steps of 4.
    num_classes : int
    kernel_sizes, expansions, depths : sequence
        Alternatives of each block's depthwise kernel and expansion ratio, and of each stage's number of blocks.
    activations : {"composed", "fused"}
        Hard swish and hard sigmoid as the reference's modules run them, ``x * relu6(x + 3) / 6`` op by op, or as one
        op in place, as deployed runtimes have it. Parameters and multiply-accumulates do not depend on it.

    Returns
    -------
    OfaSpace
        `encode` takes OFA's dicts of ``ks``, ``e``, ``d`` and ``r`` or ``image_size``, `decode` gives them;
        `features` and `from_features` convert to and from the one-hot vectors of OFA's accuracy predictor.

    Raises
    ------
    AttributeValueError
        For an argument that is not allowed.

    Examples
    --------
    >>> space = ofa_mobilenetv3(resolutions=224)
    >>> space.graph(space.encode({"ks": 7, "e": 6, "d": 4})).n_parameters
    7664760
    """
    if activations not in _ACTIVATIONS:
        raise AttributeValueError(f"activations={activations!r}; allowed: {', '.join(map(repr, _ACTIVATIONS))}")
    ks, es, ds = searched(kernel_sizes, expansions, depths)
    composed, width, found = activations == "composed", factor("width", width), resolutions_of(resolutions)
    swish: dict[str, Any] = {"width": width, "act": "h_swish", "composed": composed}
    before = (
        Slot("first_conv", partial(first_conv, base=16, **swish), {"resolution": "r"}),
        Slot("blocks_0", partial(residual_block, base=16, width=width, stride=1, act="relu")),
    )
    stages = [
        (
            ds[-1],
            *(
                partial(residual_block, base=base, width=width, stride=s, act=act, squeeze=squeeze, composed=composed)
                for s in (stride, 1)
            ),
        )
        for base, stride, act, squeeze in _STAGES
    ]
    after = (
        Slot("final_expand_layer", partial(conv_layer, base=960, **swish)),
        Slot("global_avg_pool", partial(global_pool, keepdim=True)),
        Slot("feature_mix_layer", partial(_feature_mix, width=width, composed=composed)),
        Slot("classifier", partial(classifier, num_classes=whole("num_classes", num_classes))),
    )
    return OfaSpace(
        "ofa_mobilenetv3",
        stages=[(n, first, later) for n, first, later in stages],
        before=before,
        after=after,
        resolutions=found,
        kernel_sizes=ks,
        expansions=es,
        depths=ds,
        widths=None,
    )
