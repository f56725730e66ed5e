"""Reference CNNs, built without any framework: one file per family.

``names()`` lists them, ``load(name)`` builds one. Nodes carry the module paths of the reference
implementation (torchvision's where it has the net) as names and scopes.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from cnnlive.errors import AttributeValueError, CnnliveError, UnknownNetError, close_names

if TYPE_CHECKING:
    from cnnlive.graph import Graph

__all__ = ["arguments", "families", "family_of", "load", "names"]

# Which file builds which nets; a file is imported when one of its nets is asked for. Its NETS maps each
# name to a function (train, *, num_classes, resolution, ...) -> Graph.
_FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "alexnet": ("alexnet",),
    "convnext": ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    "darts": tuple(
        name + suffix for name in ("darts_v1", "darts_v2", "nasnet_a", "amoebanet") for suffix in ("", "_imagenet")
    ),
    "densenet": ("densenet", "densenet121", "densenet161", "densenet169", "densenet201"),
    "efficientnet": tuple(
        f"efficientnet_{size}" for size in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2_s", "v2_m", "v2_l")
    ),
    "googlenet": ("googlenet",),
    "hrnet": ("hrnet_w18",),
    "inception": ("inception_v3",),
    "mnasnet": ("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    "mobilenetv1": ("mobilenet_v1",),
    "mobilenetv2": ("mobilenet_v2",),
    "mobilenetv3": ("mobilenet_v3_large", "mobilenet_v3_small"),
    "nasnet": ("nasnet_a_large",),
    "pnasnet": ("pnasnet5_large",),
    "randwire": ("randwire",),
    "regnet": tuple(
        f"regnet_{size}"
        for size in (
            *("y_400mf", "y_800mf", "y_1_6gf", "y_3_2gf", "y_8gf", "y_16gf", "y_32gf", "y_128gf"),
            *("x_400mf", "x_800mf", "x_1_6gf", "x_3_2gf", "x_8gf", "x_16gf", "x_32gf"),
        )
    ),
    "resnet": (
        *("resnet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    ),
    "segmentation": ("deeplabv3_resnet50", "fcn_resnet50"),
    "shufflenetv2": ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    "squeezenet": ("squeezenet1_0", "squeezenet1_1"),
    "unet": ("unet",),
    "vgg": ("plain", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
}
_FAMILY_OF: Final = {name: family for family, members in _FAMILIES.items() for name in members}


def names(family: str | None = None) -> list[str]:
    """Return the names of all networks, or of one family, sorted.

    Raises
    ------
    UnknownNetError
        If there is no such family.
    """
    if family is None:
        return sorted(_FAMILY_OF)
    if family not in _FAMILIES:
        raise UnknownNetError(f"unknown family {family!r}; allowed: {', '.join(sorted(_FAMILIES))}")
    return sorted(_FAMILIES[family])


def families() -> dict[str, tuple[str, ...]]:
    """Return the networks of each family, both in the order in which people list them: sizes from the smallest on."""
    return dict(_FAMILIES)


def family_of(name: str) -> str:
    """Return the family of a network.

    Raises
    ------
    UnknownNetError
        If there is no network of that name.
    """
    family = _FAMILY_OF.get(name)
    if family is None:
        hint = close_names(name, _FAMILY_OF)
        raise UnknownNetError(f"unknown network {name!r}{hint} (cnnlive.zoo.names() lists all {len(_FAMILY_OF)})")
    return family


def _builder(name: str) -> Callable[..., Graph]:
    module = importlib.import_module(f"cnnlive.zoo.{family_of(name)}")
    builder: Callable[..., Graph] = module.NETS[name]
    return builder


def arguments(name: str) -> dict[str, Any]:
    """Return the arguments that a network takes beside `train`, with their defaults.

    Raises
    ------
    UnknownNetError
        If there is no network of that name.
    """
    parameters = inspect.signature(_builder(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "train"}


def load(name: str, train: bool = False, **args: Any) -> Graph:
    """Build a network of the zoo.

    Parameters
    ----------
    name : str
        One of :func:`names`.
    train : bool
        The graph as it is trained: with auxiliary heads, stochastic depth and dropout active.
    **args
        What the family can vary, see :func:`arguments`: ``num_classes``, ``resolution``, ``width``, ...

    Returns
    -------
    Graph
        At a batch of 1; planners take another batch.

    Raises
    ------
    UnknownNetError
        If there is no network of that name.
    AttributeValueError
        If the network does not take an argument, or not that value.

    Examples
    --------
    >>> load("resnet50").n_parameters
    25557032
    """
    builder = _builder(name)
    allowed = arguments(name)
    for key in args:
        if key not in allowed:
            raise AttributeValueError(f"{name} takes no argument {key!r}; allowed: {', '.join(allowed)}")
    try:
        return builder(train, **args)
    except CnnliveError:
        raise
    except (ValueError, TypeError, ZeroDivisionError) as error:
        given = ", ".join(f"{k}={v!r}" for k, v in args.items())
        raise AttributeValueError(f"{name}({given}): {error}") from error
