"""Optimizers in words: what ``cnnlive optimizers`` and ``docs/training.md`` show."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from cnnlive.errors import AttributeValueError
from cnnlive.plan.optimizers import OPTIMIZERS, Optimizer, read_optimizer, state_blocks, step_trace

__all__ = ["HEADS", "OptimizerRow", "optimizer_cells", "optimizer_rows", "optimizer_text", "optimizers_markdown"]

HEADS: Final = ("optimizer", "with", "state", "single", "foreach", "fused", "options")
IMPLEMENTATIONS: Final = ("single", "foreach", "fused")
# Options that change what a step takes most; each gets a row of its own.
_VARIANTS: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "sgd": (
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 1e-4},
        {"momentum": 0.9, "nesterov": True},
    ),
    "adam": ({"weight_decay": 1e-4}, {"amsgrad": True}),
    "adamw": ({"amsgrad": True},),
    "rmsprop": ({"momentum": 0.9}, {"momentum": 0.9, "centered": True}),
    "adafactor_timm": ({"betas": (0.9, 0.999)},),
}
_SIDE: Final = 512
_N: Final = 8


class OptimizerRow(NamedTuple):
    """One optimizer with some of its options set; amounts are multiples of bytes, on square matrices of float32.

    ``state`` is what is kept between steps, in multiples of all parameters. The others are the most that a step
    makes: ``single`` for one parameter, ``foreach`` and ``fused`` for all of them; None where there is no such
    implementation. ``takes`` are the options that change bytes, with their defaults.
    """

    name: str
    options: dict[str, Any]
    state: float
    single: float | None
    foreach: float | None
    fused: float | None
    takes: dict[str, Any]


def optimizer_text(rule: Optimizer) -> str:
    """Name an optimizer with the options that are not the default: ``"sgd(momentum=0.9), foreach"``.

    Parameters
    ----------
    rule : Optimizer

    Returns
    -------
    str
    """
    default = dict(read_optimizer(rule.name).options)
    changed = ", ".join(f"{name}={value}" for name, value in rule.options if value != default[name])
    return f"{rule.name}{f'({changed})' if changed else ''}, {rule.implementation}"


def optimizer_rows(name: str | None = None) -> list[OptimizerRow]:
    """Return a row per optimizer and notable set of options.

    Parameters
    ----------
    name : str, optional
        One optimizer only.

    Returns
    -------
    list of OptimizerRow

    Raises
    ------
    AttributeValueError
        For an unknown name.
    """
    names = OPTIMIZERS if name is None else (read_optimizer(name).name,)
    return [_row(n, options) for n in names for options in ({}, *_VARIANTS.get(n, ()))]


def _row(name: str, options: dict[str, Any]) -> OptimizerRow:
    whole = _SIDE * _SIDE * 4
    state = 0.0
    made: dict[str, float | None] = dict.fromkeys(IMPLEMENTATIONS)
    for implementation in IMPLEMENTATIONS:
        try:
            rule = read_optimizer(name, implementation=implementation, **options)
        except AttributeValueError:
            continue
        n = 1 if implementation == "single" else _N
        shapes, items = [(_SIDE, _SIDE)] * n, [4] * n
        trace = step_trace(rule, shapes, items, device="cuda", first=False)
        change = np.where(trace.events > 0, 1, -1) * trace.nbytes[np.abs(trace.events) - 1]
        made[implementation] = int(np.cumsum(change).max(initial=0)) / whole / n
        if implementation == "single":
            state = int(state_blocks(rule, shapes, items, device="cuda").sum()) / whole
    takes = dict(read_optimizer(name).options)
    return OptimizerRow(name, options, state, made["single"], made["foreach"], made["fused"], takes)


def _multiple(value: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "< 0.01" if text == "0" and value else text


def optimizer_cells(row: OptimizerRow) -> list[str]:
    """Return the texts of a row; name and options only where the row has no option set."""
    with_ = ", ".join(f"{k}={v}" for k, v in row.options.items())
    takes = ", ".join(f"{k}={v}" if v or v is None else k for k, v in row.takes.items())
    amounts = [_multiple(v) for v in (row.state, row.single, row.foreach, row.fused)]
    return ["" if row.options else row.name, with_, *amounts, "" if row.options else takes]


def optimizers_markdown() -> str:
    """Return the table of optimizers for ``docs/training.md``.

    Returns
    -------
    str
    """
    lines = ["| " + " | ".join(HEADS) + " |", "| --- | --- |" + " ---: |" * 4 + " --- |"]
    for cells in map(optimizer_cells, optimizer_rows()):
        code = [f"`{cells[0]}`" if cells[0] else "", f"`{cells[1]}`" if cells[1] else "", *cells[2:6]]
        code.append(", ".join(f"`{word}`" for word in cells[6].split(", ")) if cells[6] else "")
        lines.append("| " + " | ".join(code) + " |")
    return "\n".join(lines) + "\n"
