"""Exact memory cost of convolutional neural networks.

Names are resolved on first use (PEP 562): ``import cnnlive`` imports neither numba nor networkx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnlive import errors, ops, zoo
    from cnnlive.errors import CnnliveError
    from cnnlive.graph import Graph, Tensor
    from cnnlive.io.json import read_json
    from cnnlive.io.onnx import read_onnx
    from cnnlive.lowered import Lowered, lower
    from cnnlive.plan.inference import InferencePlan, plan_inference, warm_up
    from cnnlive.plan.rules import RuleOfThumb, rules_of_thumb
    from cnnlive.profiles import PROFILES, Profile
    from cnnlive.units import format_bytes, parse_bytes

__version__ = "0.1.0.dev0"

_MODULE_OF = {
    "CnnliveError": "cnnlive.errors",
    "Graph": "cnnlive.graph",
    "InferencePlan": "cnnlive.plan.inference",
    "Lowered": "cnnlive.lowered",
    "PROFILES": "cnnlive.profiles",
    "Profile": "cnnlive.profiles",
    "RuleOfThumb": "cnnlive.plan.rules",
    "Tensor": "cnnlive.graph",
    "errors": "",
    "format_bytes": "cnnlive.units",
    "lower": "cnnlive.lowered",
    "ops": "",
    "parse_bytes": "cnnlive.units",
    "plan_inference": "cnnlive.plan.inference",
    "read_json": "cnnlive.io.json",
    "read_onnx": "cnnlive.io.onnx",
    "rules_of_thumb": "cnnlive.plan.rules",
    "warm_up": "cnnlive.plan.inference",
    "zoo": "",
}

__all__ = [
    "PROFILES",
    "CnnliveError",
    "Graph",
    "InferencePlan",
    "Lowered",
    "Profile",
    "RuleOfThumb",
    "Tensor",
    "errors",
    "format_bytes",
    "lower",
    "ops",
    "parse_bytes",
    "plan_inference",
    "read_json",
    "read_onnx",
    "rules_of_thumb",
    "warm_up",
    "zoo",
]


def __getattr__(name: str) -> Any:
    """Import the module behind a public name on its first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cnnlive' has no attribute {name!r}")
    module = _MODULE_OF[name]
    value = getattr(importlib.import_module(module), name) if module else importlib.import_module(f"cnnlive.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
