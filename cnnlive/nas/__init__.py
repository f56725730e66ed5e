"""Neural architecture search: the memory of many candidate networks at once, and exact search under a memory budget.

Names are resolved on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnlive.nas import spaces
    from cnnlive.nas.base import CONVENTIONS, METRICS, Gene, SearchSpace
    from cnnlive.nas.batch import Batch, evaluate_batch
    from cnnlive.nas.encoded import EncodedSpace, Encoder, Nodes
    from cnnlive.nas.limit import Limit
    from cnnlive.nas.palette import FREE, Palette
    from cnnlive.nas.results import Best, Evaluation, Front
    from cnnlive.nas.search import Walk
    from cnnlive.nas.space import Slot, Space
    from cnnlive.nas.warm import warm_up

_MODULE_OF = {
    "CONVENTIONS": "base",
    "METRICS": "base",
    "Batch": "batch",
    "Best": "results",
    "EncodedSpace": "encoded",
    "Encoder": "encoded",
    "Evaluation": "results",
    "FREE": "palette",
    "Front": "results",
    "Gene": "base",
    "Limit": "limit",
    "Nodes": "encoded",
    "Palette": "palette",
    "SearchSpace": "base",
    "Slot": "space",
    "Space": "space",
    "Walk": "search",
    "evaluate_batch": "batch",
    "spaces": "",
    "warm_up": "warm",
}

__all__ = [
    "CONVENTIONS",
    "FREE",
    "METRICS",
    "Batch",
    "Best",
    "EncodedSpace",
    "Encoder",
    "Evaluation",
    "Front",
    "Gene",
    "Limit",
    "Nodes",
    "Palette",
    "SearchSpace",
    "Slot",
    "Space",
    "Walk",
    "evaluate_batch",
    "spaces",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    """Import the module behind a public name on its first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cnnlive.nas' has no attribute {name!r}")
    module = _MODULE_OF[name]
    value = (
        getattr(importlib.import_module(f"cnnlive.nas.{module}"), name)
        if module
        else importlib.import_module(f"cnnlive.nas.{name}")
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
