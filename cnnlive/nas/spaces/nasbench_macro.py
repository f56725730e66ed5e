"""NAS-Bench-Macro: Su et al., https://arxiv.org/abs/2103.11922, "Prioritized Architecture Sampling".

The reference is github.com/xiusu/NAS-Bench-Macro (Apache-2.0).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cnnlive._types import I64
from cnnlive.errors import SpaceError
from cnnlive.nas.base import Gene
from cnnlive.nas.space import Slot, Space
from cnnlive.nas.spaces._common import avgpool, conv_bn, conv_bn_act, image

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cnnlive.graph import Graph, Tensor

__all__ = ["nasbench_macro"]

#: What a layer may be, in the order of the bench's digits.
LAYERS: Final = ("id", "ir_3x3_t3", "ir_5x5_t6")
# Kernel and expansion of the inverted residuals.
_BLOCKS: Final = {"ir_3x3_t3": (3, 3), "ir_5x5_t6": (5, 6)}
# Channels and stride of each layer: the first of a stage halves the resolution.
_PLACES: Final = tuple((c, 1 if i else 2) for c, n in ((64, 2), (128, 3), (256, 3)) for i in range(n))


def _stem(g: Graph) -> Tensor:
    return conv_bn_act(g, image(g, 32), 32, 3, act="relu")


def _layer(g: Graph, x: Tensor, *, layer: str, out_channels: int, stride: int) -> Tensor:
    """Add a layer: nothing at all where the identity keeps the shape."""
    if layer == "id":
        if stride == 1 and x.channels == out_channels:
            return x
        with g.scope("downsample"):
            return conv_bn(g, x, out_channels, 1, stride, names="01")
    kernel_size, expansion = _BLOCKS[layer]
    hidden = expansion * x.channels
    with g.scope("conv"):
        y = conv_bn_act(g, x, hidden, act="relu")
        y = g.relu(conv_bn(g, y, hidden, kernel_size, stride, names="34", groups=hidden), inplace=True, name="5")
        y = conv_bn(g, y, out_channels, names="67")
    return g.add(y, x) if stride == 1 and x.channels == out_channels else y


def _out(g: Graph, x: Tensor) -> Tensor:
    return avgpool(g, conv_bn_act(g, x, 1280, act="relu"))


def _classifier(g: Graph, x: Tensor) -> Tensor:
    return g.linear(g.flatten(x), 10)


class _Macro(Space):
    """The macro space, with the bench's own names of its members."""

    def encode(self, native: Any) -> I64:
        """Return the genotype of an architecture string such as ``"02012100"``.

        Raises
        ------
        SpaceError
            If it is not eight digits of 0 to 2.
        """
        if not isinstance(native, str) or len(native) != self.n_genes or set(native) - set("012"):
            raise SpaceError(f"{self.name}: {native!r} is no architecture; allowed: a text of eight digits, "
                             "each 0, 1 or 2")  # fmt: skip
        return self.from_values({f"layer{i}": LAYERS[int(digit)] for i, digit in enumerate(native)})

    def decode(self, x: ArrayLike) -> str:
        """Return the architecture string of a genotype."""
        return "".join(map(str, self.row(x)))


def nasbench_macro() -> Space:
    """Return the search space of NAS-Bench-Macro: 6,561 nets for CIFAR-10.

    A 3x3 convolution to 32 channels, three stages of 2, 3 and 3 layers of 64, 128 and 256 channels, a 1x1
    convolution to 1,280, global average pool, linear. Each layer is ``"id"`` (in the first place of a stage a 1x1
    convolution of stride 2), ``"ir_3x3_t3"`` or ``"ir_5x5_t6"``: inverted residuals of kernel 3 and expansion 3, or 5
    and 6, without squeeze-and-excitation. The bench's FLOPs are `macs` by the convention ``"macs"``.

    Each layer is a module that the net calls. The bench's own code puts them into one ``nn.Sequential``, whose call
    holds the stem's output, 131,072 bytes an image, until the last layer has run: eager inference of a net whose
    peak lies behind the first layer takes that much more there.

    Returns
    -------
    Space
        `encode` takes the bench's strings of eight digits (0 is ``"id"``), `decode` gives them.

    Examples
    --------
    >>> space = nasbench_macro()
    >>> space.graph(space.encode("02012100")).n_parameters
    890666
    """
    options = {place: partial(_layer, out_channels=place[0], stride=place[1]) for place in _PLACES}
    return _Macro(
        "nasbench_macro",
        [Gene(f"layer{i}", LAYERS) for i in range(len(_PLACES))],
        [
            Slot("stem", _stem),
            *(Slot(f"features_{i}", options[place], {"layer": f"layer{i}"}) for i, place in enumerate(_PLACES)),
            Slot("out", _out),
            Slot("classifier", _classifier),
        ],
    )
