"""Where a network comes from, as text: ``torchvision:NAME``, ``timm:NAME``, ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cnnlive.errors import AttributeValueError, CnnliveError, MissingExtraError, ReadError, UnknownNetError, close_names
from cnnlive.graph import Graph

__all__ = ["load_source"]


def load_source(text: str, *, input_shape: Sequence[int] | None = None, train: bool = False) -> Graph:
    """Load a network from a text that says where it is defined.

    Parameters
    ----------
    text : str
        ``"torchvision:NAME"`` or ``"timm:NAME"``: a model that the package lists, without its trained weights.
        ``"package.module:name"``: what `name` in that module is: a Graph, a torch.nn.Module, or a function without
        arguments that returns one; modules are also looked for in the working directory.
    input_shape : sequence of int, optional
        With the batch. Default: one image of the size that timm's description of the model gives, of 299 pixels for
        torchvision's Inception v3, else of 224; 16 of them for a video model.
    train : bool
        Import the forward as it is trained.

    Returns
    -------
    Graph

    Raises
    ------
    MissingExtraError
        If a package is not installed; says how to install it.
    UnknownNetError
        If the package has no model of that name; says which come close.
    ReadError, AttributeValueError
        If the text is none of these forms, or what it names is no network.
    """
    source, colon, name = text.partition(":")
    if not colon or not source or not name:
        raise ReadError(
            f"{text!r} names no network; allowed: 'torchvision:NAME', 'timm:NAME' or 'package.module:factory'"
        )
    if source == "torchvision":
        made, shape = _torchvision(name)
    elif source == "timm":
        made, shape = _timm(name)
    else:
        made, shape = _defined(source, name), None
    if isinstance(made, Graph):
        return made
    from cnnlive.io.torch import from_torch  # noqa: PLC0415 - imports nothing, but its use imports torch

    given = tuple(input_shape) if input_shape is not None else shape or (1, 3, 224, 224)
    try:
        return from_torch(made, given, train=train, name=name)
    except CnnliveError as error:
        hint = "" if input_shape is not None else f" [input shape {given}, taken as none was given]"
        raise type(error)(f"{text}: {error}{hint}") from error


def _package(name: str) -> Any:
    try:
        importlib.import_module("torch")
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        extra = "pip install 'cnnlive[torch]'" + ("" if missing == "torch" else f" {name}")
        raise MissingExtraError(f"{name}: models need the package {missing}, which is not installed: {extra}") from None


def _built(make: Callable[[], Any], source: str) -> Any:
    """Build a model without data where its constructor allows it."""
    torch = importlib.import_module("torch")
    try:
        try:
            with torch.device("meta"):
                return make()
        except (RuntimeError, NotImplementedError):  # a constructor that computes
            return make()
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ReadError(f"{source} cannot be built: {type(error).__name__}: {error}") from error


def _torchvision(name: str) -> tuple[Any, tuple[int, ...]]:
    models = _package("torchvision").models
    known = models.list_models()
    if name not in known:
        raise UnknownNetError(f"torchvision has no model {name!r}{close_names(name, known)}")
    builder = models.get_model_builder(name)
    options: dict[str, Any] = {"weights": None}
    parameters = inspect.signature(builder).parameters
    if "weights_backbone" in parameters:
        options["weights_backbone"] = None
    # Random values of no use; for these two they also take long.
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    size = 299 if name.endswith("inception_v3") else 224
    frames = (16,) if models.get_model_builder(name).__module__.startswith("torchvision.models.video") else ()
    return _built(lambda: builder(**options), f"torchvision:{name}"), (1, 3, *frames, size, size)


def _timm(name: str) -> tuple[Any, tuple[int, ...]]:
    timm = _package("timm")
    base = name.partition(".")[0]
    known = timm.list_models()
    if base not in known:
        raise UnknownNetError(f"timm has no model {name!r}{close_names(base, known)}")
    model = _built(lambda: timm.create_model(name, pretrained=False), f"timm:{name}")
    size = tuple(getattr(model, "default_cfg", {}).get("input_size") or (3, 224, 224))
    return model, (1, *size)


def _defined(module: str, name: str) -> Any:
    """Import a module and return what a name in it stands for."""
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        here = ""
    added = bool(here) and here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and module.startswith(error.name):
            raise ReadError(f"{module}:{name}: there is no module {error.name!r}") from None
        raise ReadError(f"{module}:{name}: importing {module} failed: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ReadError(f"{module}:{name}: {module} has no {part!r}{close_names(part, dir(found))}")
        found = getattr(found, part)
    if callable(found) and not _is_module(found) and not isinstance(found, Graph):
        made: Any = _called(found, f"{module}:{name}")
        found = made
    if not isinstance(found, Graph) and not _is_module(found):
        raise AttributeValueError(
            f"{module}:{name} is a {type(found).__name__}; allowed: a Graph, a torch.nn.Module, or a function without "
            "arguments that returns one"
        )
    return found


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _called(factory: Any, source: str) -> Any:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise AttributeValueError(f"{source} needs arguments ({error}); give a function without any") from None
    except ValueError:
        pass
    return _built(factory, source) if "torch" in sys.modules else factory()
