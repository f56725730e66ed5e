"""What a shell completes. Nothing that plans is imported: names stand here, and tests hold them equal to the code's."""

# ruff: noqa: PLC0415 - imports inside the functions are what keeps completing quick

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import click
from click.shell_completion import CompletionItem

from cnnlive.errors import CnnliveError
from cnnlive.profiles import PROFILES

__all__ = [
    "ARENA_METHODS", "BENCHMARKS", "DTYPES", "LOSSES", "METHODS", "NETWORKS", "OPTIMIZERS", "PRECISIONS",
    "SHARED_METHODS", "Completer", "among", "complete_family", "complete_file", "complete_net", "complete_operator",
    "complete_profile", "complete_profiles", "complete_setting", "complete_zoo",
]  # fmt: skip

Items: TypeAlias = list[CompletionItem]
Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], Items]

#: Endings of files that are networks.
NETWORKS: Final = (".onnx", ".tflite", ".json")
OPTIMIZERS: Final = ("sgd", "adam", "adamw", "nadam", "radam", "adamax", "adagrad", "adadelta", "rmsprop", "rprop",
                     "asgd", "adafactor", "adafactor_timm", "adafactor_bv", "lion", "muon")  # fmt: skip
DTYPES: Final = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "bool", "int16", "int32", "int64")
PRECISIONS: Final = ("float32", "float16", "bfloat16", "float64", "autocast", "autocast_float16", "autocast_bfloat16")
LOSSES: Final = ("cross_entropy", "mse", "bce", "bce_with_logits", "l1", "smooth_l1", "output")
METHODS: Final = ("search", "chain", "nested", "checkpoint_sequential", "chen_sqrt", "chen_greedy", "revolve")
ARENA_METHODS: Final = ("auto", "exact", "skyline", "greedy_by_size", "greedy_by_size_first_fit", "greedy_by_breadth",
                        "tflm", "tflite", "xla", "iree", "onnxruntime")  # fmt: skip
SHARED_METHODS: Final = ("auto", "greedy_by_size", "greedy_by_size_simple", "greedy_by_breadth", "greedy_in_order",
                         "min_cost_flow")  # fmt: skip
BENCHMARKS: Final = ("nasbench101", "nasbench201", "nats_size", "nasbench_macro")


def complete_file(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Leave it to the shell, which knows files."""
    return [CompletionItem(incomplete, type="file")]


def among(*names: str, files: bool = False) -> Completer:
    """Return what completes one of some names, or, where none begins like that, a file."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return found or (complete_file(context, parameter, incomplete) if files else [])

    return complete


complete_profile: Final = among(*PROFILES)


def complete_profiles(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Complete the last of several profiles, which commas part."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [CompletionItem(before + comma + name) for name in PROFILES if name.startswith(last) and name not in taken]


def complete_zoo(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Complete a network of the zoo."""
    from cnnlive import zoo

    return [CompletionItem(name, help=zoo.family_of(name)) for name in zoo.names() if name.startswith(incomplete)]


def complete_family(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Complete a family of the zoo."""
    from cnnlive import zoo

    return [CompletionItem(name) for name in zoo.families() if name.startswith(incomplete)]


def complete_net(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Complete a network: of the zoo, a file of the folder, and where neither begins like that any file."""
    if os.sep not in incomplete:
        files = sorted(f for f in os.listdir() if f.startswith(incomplete) and Path(f).suffix.lower() in NETWORKS)
        found = [*complete_zoo(context, parameter, incomplete), *(CompletionItem(f, help="file") for f in files)]
        if found:
            return found
    return complete_file(context, parameter, incomplete)


def complete_setting(context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Complete ``KEY=VALUE`` with what the network takes and its default; the network has to stand before."""
    from cnnlive import zoo
    from cnnlive.cli._options import as_typed

    try:
        found = zoo.arguments(context.params.get("net") or "")
    except CnnliveError:
        return []
    texts = [f"{key}={as_typed(value)}" for key, value in found.items()]
    return [CompletionItem(text) for text in texts if text.startswith(incomplete)]


def complete_operator(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Complete an operator."""
    from cnnlive.ops import OPERATORS

    return [CompletionItem(name) for name in sorted(OPERATORS) if name.startswith(incomplete)]
