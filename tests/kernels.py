"""Finds every compiled kernel, whatever is in cnnlive._kernels."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import cnnlive._kernels


def modules() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(cnnlive._kernels.__path__) if m.name != "_jit")


def all_kernels() -> dict[str, Callable[..., object]]:
    found = {}
    for name in modules():
        module = importlib.import_module(f"cnnlive._kernels.{name}")
        for key, value in vars(module).items():
            plain = getattr(value, "py_func", value)
            if inspect.isfunction(plain) and plain.__module__ == module.__name__:
                found[f"{name}.{key}"] = value
    return found
