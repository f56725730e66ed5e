"""Exact memory cost of convolutional neural networks.

Names are resolved on first use (PEP 562): ``import cnnlive`` imports neither numba nor networkx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnlive import errors, nas, ops, zoo
    from cnnlive.buffers import Buffers
    from cnnlive.errors import CnnliveError
    from cnnlive.graph import Graph, Tensor
    from cnnlive.io.buffers import read_buffers, write_buffers
    from cnnlive.io.json import read_json
    from cnnlive.io.onnx import read_onnx
    from cnnlive.io.sources import load_source
    from cnnlive.io.tflite import read_tflite
    from cnnlive.io.torch import from_torch
    from cnnlive.lowered import Lowered, lower
    from cnnlive.mixed import autocast
    from cnnlive.plan.allocator import CudaAllocator
    from cnnlive.plan.arena import ArenaPlan, SharedObjectsPlan, plan_arena, plan_shared_objects
    from cnnlive.plan.batchsize import CONTEXT_BYTES, Fit, fits, largest_batch
    from cnnlive.plan.chain import Chain, ChainFrontier, ChainPlan, chain_baseline, chain_frontier, plan_chain
    from cnnlive.plan.checkpoint import CheckpointFrontier, CheckpointPlan, checkpoint_frontier, plan_checkpoints
    from cnnlive.plan.compare import Comparison, compare_profiles
    from cnnlive.plan.costs import Costs, Flops, Measured, Roofline, read_cost_model, read_costs
    from cnnlive.plan.inference import InferencePlan, plan_inference
    from cnnlive.plan.optimizers import Optimizer
    from cnnlive.plan.order import OrderPlan, minimum_peak, plan_order
    from cnnlive.plan.remat import Frontier, RematPlan, RematProblem, plan_remat, remat_frontier
    from cnnlive.plan.remat_exact import prove_remat
    from cnnlive.plan.rules import RuleOfThumb, rules_of_thumb
    from cnnlive.plan.training import TrainingPlan, plan_training
    from cnnlive.plan.warm import warm_up
    from cnnlive.plan.wraps import Region, WrapFrontier, WrapPlan, plan_wraps, simulate_wraps, wrap_frontier
    from cnnlive.profiles import PROFILES, Profile, Takeover
    from cnnlive.report.html import html_report, write_report
    from cnnlive.units import format_bytes, parse_bytes

__version__ = "0.1.0"

_MODULE_OF = {
    "ArenaPlan": "cnnlive.plan.arena",
    "Buffers": "cnnlive.buffers",
    "CONTEXT_BYTES": "cnnlive.plan.batchsize",
    "Chain": "cnnlive.plan.chain",
    "ChainFrontier": "cnnlive.plan.chain",
    "ChainPlan": "cnnlive.plan.chain",
    "CheckpointFrontier": "cnnlive.plan.checkpoint",
    "CheckpointPlan": "cnnlive.plan.checkpoint",
    "CnnliveError": "cnnlive.errors",
    "Comparison": "cnnlive.plan.compare",
    "Costs": "cnnlive.plan.costs",
    "CudaAllocator": "cnnlive.plan.allocator",
    "Fit": "cnnlive.plan.batchsize",
    "Flops": "cnnlive.plan.costs",
    "Frontier": "cnnlive.plan.remat",
    "Graph": "cnnlive.graph",
    "InferencePlan": "cnnlive.plan.inference",
    "Lowered": "cnnlive.lowered",
    "Measured": "cnnlive.plan.costs",
    "Optimizer": "cnnlive.plan.optimizers",
    "OrderPlan": "cnnlive.plan.order",
    "PROFILES": "cnnlive.profiles",
    "Profile": "cnnlive.profiles",
    "Region": "cnnlive.plan.wraps",
    "RematPlan": "cnnlive.plan.remat",
    "RematProblem": "cnnlive.plan.remat",
    "Roofline": "cnnlive.plan.costs",
    "RuleOfThumb": "cnnlive.plan.rules",
    "SharedObjectsPlan": "cnnlive.plan.arena",
    "Takeover": "cnnlive.profiles",
    "Tensor": "cnnlive.graph",
    "TrainingPlan": "cnnlive.plan.training",
    "WrapFrontier": "cnnlive.plan.wraps",
    "WrapPlan": "cnnlive.plan.wraps",
    "autocast": "cnnlive.mixed",
    "chain_baseline": "cnnlive.plan.chain",
    "chain_frontier": "cnnlive.plan.chain",
    "checkpoint_frontier": "cnnlive.plan.checkpoint",
    "compare_profiles": "cnnlive.plan.compare",
    "errors": "",
    "fits": "cnnlive.plan.batchsize",
    "format_bytes": "cnnlive.units",
    "from_torch": "cnnlive.io.torch",
    "html_report": "cnnlive.report.html",
    "largest_batch": "cnnlive.plan.batchsize",
    "load_source": "cnnlive.io.sources",
    "lower": "cnnlive.lowered",
    "minimum_peak": "cnnlive.plan.order",
    "nas": "",
    "ops": "",
    "parse_bytes": "cnnlive.units",
    "plan_arena": "cnnlive.plan.arena",
    "plan_chain": "cnnlive.plan.chain",
    "plan_checkpoints": "cnnlive.plan.checkpoint",
    "plan_inference": "cnnlive.plan.inference",
    "plan_order": "cnnlive.plan.order",
    "plan_remat": "cnnlive.plan.remat",
    "plan_shared_objects": "cnnlive.plan.arena",
    "plan_training": "cnnlive.plan.training",
    "plan_wraps": "cnnlive.plan.wraps",
    "prove_remat": "cnnlive.plan.remat_exact",
    "read_buffers": "cnnlive.io.buffers",
    "read_cost_model": "cnnlive.plan.costs",
    "read_costs": "cnnlive.plan.costs",
    "read_json": "cnnlive.io.json",
    "read_onnx": "cnnlive.io.onnx",
    "read_tflite": "cnnlive.io.tflite",
    "remat_frontier": "cnnlive.plan.remat",
    "rules_of_thumb": "cnnlive.plan.rules",
    "simulate_wraps": "cnnlive.plan.wraps",
    "torch": "",
    "warm_up": "cnnlive.plan.warm",
    "wrap_frontier": "cnnlive.plan.wraps",
    "write_buffers": "cnnlive.io.buffers",
    "write_report": "cnnlive.report.html",
    "zoo": "",
}

__all__ = [
    "CONTEXT_BYTES",
    "PROFILES",
    "ArenaPlan",
    "Buffers",
    "Chain",
    "ChainFrontier",
    "ChainPlan",
    "CheckpointFrontier",
    "CheckpointPlan",
    "CnnliveError",
    "Comparison",
    "Costs",
    "CudaAllocator",
    "Fit",
    "Flops",
    "Frontier",
    "Graph",
    "InferencePlan",
    "Lowered",
    "Measured",
    "Optimizer",
    "OrderPlan",
    "Profile",
    "Region",
    "RematPlan",
    "RematProblem",
    "Roofline",
    "RuleOfThumb",
    "SharedObjectsPlan",
    "Takeover",
    "Tensor",
    "TrainingPlan",
    "WrapFrontier",
    "WrapPlan",
    "autocast",
    "chain_baseline",
    "chain_frontier",
    "checkpoint_frontier",
    "compare_profiles",
    "errors",
    "fits",
    "format_bytes",
    "from_torch",
    "html_report",
    "largest_batch",
    "load_source",
    "lower",
    "minimum_peak",
    "nas",
    "ops",
    "parse_bytes",
    "plan_arena",
    "plan_chain",
    "plan_checkpoints",
    "plan_inference",
    "plan_order",
    "plan_remat",
    "plan_shared_objects",
    "plan_training",
    "plan_wraps",
    "prove_remat",
    "read_buffers",
    "read_cost_model",
    "read_costs",
    "read_json",
    "read_onnx",
    "read_tflite",
    "remat_frontier",
    "rules_of_thumb",
    "simulate_wraps",
    "warm_up",
    "wrap_frontier",
    "write_buffers",
    "write_report",
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
