"""Report of an execution order: its peak beside the program's, and where the two differ."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from cnnlive.plan.inference import InferencePlan
from cnnlive.plan.order import OrderPlan
from cnnlive.report.text import Lines, at_peak, both_bytes, grid, header, indented, percent, sparkline
from cnnlive.units import format_bytes

__all__ = ["Run", "order_data", "order_report", "order_runs", "order_timeline"]

_NARROW = 76


class Run(NamedTuple):
    """Ops that follow each other in an order as they do in the program.

    ``step`` is the first step in the order, ``program_step`` that in the program, ``first`` and ``last`` name the ops.
    """

    step: int
    program_step: int
    n_ops: int
    first: str
    last: str


def order_runs(plan: OrderPlan) -> tuple[Run, ...]:
    """Cut an order where it leaves the program's; the runs at both ends that stand where the program has them go out.

    Parameters
    ----------
    plan : OrderPlan

    Returns
    -------
    tuple of Run
        In execution order; none where the order is the program's.
    """
    order, names = plan.order, plan.network.op_names
    n = len(order)
    begins = np.flatnonzero(np.diff(order, prepend=-2) != 1)
    ends = np.append(begins[1:], n)
    runs = [
        Run(a, int(order[a]), b - a, names[order[a]], names[order[b - 1]])
        for a, b in zip(begins.tolist(), ends.tolist(), strict=True)
    ]
    first = 0
    while first < len(runs) and runs[first].step == runs[first].program_step:
        first += 1
    last = len(runs)
    while last > first and runs[last - 1].step == runs[last - 1].program_step:
        last -= 1
    return tuple(runs[first:last])


def order_data(plan: OrderPlan, best: InferencePlan, program: InferencePlan) -> dict[str, Any]:
    """Return plain data of an order: what ``cnnlive order --json`` prints.

    Parameters
    ----------
    plan : OrderPlan
    best, program : InferencePlan
        The same network in that order and in the program's.

    Returns
    -------
    dict
        Its keys are those of ``docs/json.md``.
    """
    found = best.to_dict()
    data = {key: found[key] for key in ("network", "batch", "dtype", "profile", "inplace", "fuse")}
    return {
        **data,
        "status": plan.status,
        "optimal": plan.optimal,
        "peak_bytes": plan.peak_bytes,
        "program_peak_bytes": plan.program_peak_bytes,
        "lower_bound": plan.lower_bound,
        "gap": plan.gap,
        "n_states": plan.n_states,
        "peak_step": best.peak_step,
        "peak_op": best.peak_op,
        "live_at_peak": found["live_at_peak"],
        "order": list(plan.op_names),
        "ops": plan.order.tolist(),
        "timeline": found["timeline"],
        "program_timeline": program.timeline.tolist(),
    }


def _proof(plan: OrderPlan) -> str | Text:
    if plan.optimal:
        return Text("proven: no order takes less", "green")
    return Text(f"the best found; at most {100 * plan.gap:.2g} % above the least", "yellow")


def _amounts(plan: OrderPlan, program: InferencePlan, columns: int) -> RenderableType:
    people = columns >= _NARROW
    table = grid(*("lrrl" if people else "lrl"))

    def add(name: str, nbytes: int, words: str | Text, *, signed: bool = False, style: str = "") -> None:
        cells = both_bytes(nbytes, signed)
        table.add_row(*(Text(t, style) for t in (name, *(cells if people else cells[1:]))), words)

    add("peak", plan.peak_bytes, _proof(plan), style="bold")
    add("program order", plan.program_peak_bytes, f"at step {program.peak_step}: {program.peak_op}")
    difference = plan.peak_bytes - plan.program_peak_bytes
    if difference:
        share = percent(difference, plan.program_peak_bytes)
        add("difference", difference, f"{share} less than in program order", signed=True)
    add("lower bound", plan.lower_bound, "no order takes less than this")
    return table


def _steps(best: InferencePlan, steps: range, top: int, width: int, ascii_only: bool) -> Lines:
    """Return the steps of a range: bytes alive, as a bar too, and where the op stands in the program."""
    bar = "#" if ascii_only else "█"
    names = best.network.op_names
    rows = []
    for step in steps:
        op, nbytes = int(best.order[step]), int(best.timeline[step])
        rows.append((str(step), f"{nbytes:,}", bar * (nbytes * width // max(top, 1)), str(op), names[op]))
    heads = [("step", "r"), ("alive B", "r"), ("", "l"), ("program", "r"), ("op", "l")]
    bold = best.peak_step - steps.start if best.peak_step in steps else None
    return Lines(heads, rows, bold, gives=4, may_go=(2,), least=20)


def _differs(plan: OrderPlan, limit: int) -> RenderableType:
    runs = order_runs(plan)
    if not runs:
        return Text("The program's order is as good as any." if plan.optimal else "No better order was found.")
    moved = int((plan.order != np.arange(len(plan.order))).sum())

    def span(step: int, n: int) -> str:
        return str(step) if n == 1 else f"{step} to {step + n - 1}"

    rows = [
        (span(r.step, r.n_ops), span(r.program_step, r.n_ops), r.first if r.n_ops == 1 else f"{r.first} to {r.last}")
        for r in runs[:limit]
    ]
    if len(runs) > limit:
        rows.append((f"({len(runs) - limit} more)", "", ""))
    heads = [("steps", "l"), ("in the program", "l"), ("ops", "l")]
    words = f"{moved:,} of {len(plan.order):,} ops run at another step than in the program:"
    return Group(words, Lines(heads, rows, gives=2, least=20))


def _timelines(best: InferencePlan, program: InferencePlan, columns: int, ascii_only: bool) -> RenderableType:
    top = program.activation_peak_bytes
    width = max(1, min(60, columns - 12))
    lines = [f"activations over the {len(best.order):,} steps, 0 to {format_bytes(top)}"]
    for name, plan in (("best", best), ("program", program)):
        lines.append(f"{name:<7} {sparkline(plan.timeline.tolist(), width, top=top, ascii_only=ascii_only)}".rstrip())
    return Group(lines[0], *(Text(line, "cyan", no_wrap=True) for line in lines[1:]))


def order_report(
    plan: OrderPlan,
    best: InferencePlan,
    program: InferencePlan,
    *,
    top: int = 4,
    columns: int = 120,
    ascii_only: bool = False,
) -> RenderableType:
    """Report an execution order on one screen, beside the program's.

    Parameters
    ----------
    plan : OrderPlan
    best, program : InferencePlan
        The same network in that order and in the program's.
    top : int
        Most buffers that are listed at the peak, and most runs of ops where the orders differ.
    columns : int
        Width of the screen: a narrow one gets no amounts for people and shorter timelines.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    head, table = at_peak(best, top)
    n = len(plan.order)
    around = range(max(0, best.peak_step - 2), min(n, best.peak_step + 3))
    tried = f" · {plan.n_states:,} sets of ops kept by the search" if plan.n_states else ""
    words = (
        "counted: activations alive at each step, as `cnnlive inference` counts them. Not counted: weights, which are "
        "the same in every order; gaps between buffers in one block of memory (`cnnlive arena`)."
    )
    return Group(
        header(best, "execution order"),
        f"{n:,} ops{tried}",
        "",
        indented(
            _amounts(plan, program, columns), "", head, table, "",
            _steps(best, around, max(plan.program_peak_bytes, plan.peak_bytes), 16, ascii_only), "",
            _differs(plan, top), "", _timelines(best, program, columns, ascii_only),
        ),
        "",
        Text(words, "dim"),
    )  # fmt: skip


def order_timeline(best: InferencePlan, *, width: int = 30, ascii_only: bool = False) -> Lines:
    """Return one row per step: the bytes alive, as a number and as a bar, and where the op stands in the program.

    Parameters
    ----------
    best : InferencePlan
        Of any order.
    width : int
        Columns of the longest bar.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    return _steps(best, range(len(best.order)), best.activation_peak_bytes, width, ascii_only)
