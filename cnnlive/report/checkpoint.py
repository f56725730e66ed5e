"""Reports of checkpoints: what is kept and what is recomputed, modules to wrap, and memory against time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from cnnlive.plan.checkpoint import CheckpointFrontier, CheckpointPlan
from cnnlive.plan.remat import Frontier, RematPlan, RematProblem
from cnnlive.plan.training import TrainingPlan
from cnnlive.plan.wraps import WrapPlan
from cnnlive.report.optimizers import optimizer_text
from cnnlive.report.text import Lines, both_bytes, grid, indented, sparkline
from cnnlive.units import format_bytes, format_count

__all__ = [
    "FRONTIER_COLUMNS",
    "KeptRow",
    "batches_table",
    "checkpoint_data",
    "checkpoint_ops_table",
    "checkpoint_report",
    "frontier_curve",
    "frontier_data",
    "frontier_report",
    "frontier_rows",
    "kept_by_module",
    "kept_rows",
    "refusal_data",
    "refusal_report",
    "remat_data",
    "remat_report",
]

_NARROW: Final = 84
_ROWS: Final = 7  # of a curve
_COLUMNS: Final = 64
_LABEL: Final = 9
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_FEW: Final = 8  # ops that are named one by one
_PHASES: Final = ("forward", "backward", "optimizer")
#: Keys of a point of a frontier, and columns of its CSV file.
FRONTIER_COLUMNS: Final = ("budget", "peak_bytes", "cost", "plain_cost", "overhead", "lower_bound", "gap", "status",
                           "knee")  # fmt: skip


# ---------------------------------------------------------------------------------- what is kept


class KeptRow(NamedTuple):
    """What becomes of an op's results, or of those of all ops under a module.

    Attributes
    ----------
    name : str
        The op, ``"loss"``, or a module's path.
    op : str
        The operator; empty for a module of several ops.
    scope : str
        Path of the modules around it.
    n_ops, n_again : int
        Ops, and how many of them run again.
    times : int
        How often the op runs again; of a module the busiest op.
    kept_bytes : int
        Results that are there when backward begins.
    dropped_bytes : int
        Results that backward wants and that are not there then.
    cost : int
        What running again costs, in the unit of the cost model.
    """

    name: str
    op: str
    scope: str
    n_ops: int
    n_again: int
    times: int
    kept_bytes: int
    dropped_bytes: int
    cost: int


def kept_rows(plan: CheckpointPlan) -> tuple[KeptRow, ...]:
    """Return one row per op that runs anything forward, in program order; the loss is the last.

    Parameters
    ----------
    plan : CheckpointPlan

    Returns
    -------
    tuple of KeptRow
    """
    step, net = plan.step, plan.training.network
    problem = step.problem
    records = plan.training.tape.records
    op_of = [records[r][0] if r >= 0 else None for r in step.record[: problem.loss + 1].tolist()]
    out_ptr, share = problem.out_ptr.tolist(), problem.share.tolist()
    runs = Counter[int]()
    alive = dict[int, None]()  # values that are there when backward begins
    forward = True
    for what, i in plan.remat.schedule:
        if what == "run":
            runs[i] += 1
            forward = forward and i <= problem.loss
            for v in range(out_ptr[i], out_ptr[i + 1]) if forward else ():
                alive.pop(share[v], None)
                alive[v] = None
        elif forward:
            alive.pop(i, None)
    kept, dropped, cost, times = Counter[int](), Counter[int](), Counter[int](), dict[int, int]()
    wanted = {v for v, begin, end in plan.remat.gaps if begin <= problem.loss < end < problem.n}
    for v in sorted({*alive, *wanted}):
        op = op_of[int(np.searchsorted(problem.out_ptr, v, side="right")) - 1]
        if step.store[v] >= 0 and op is not None:
            (kept if v in alive else dropped)[op] += int(problem.nbytes[v])
    for i, n in runs.items():
        op = op_of[i] if i <= problem.loss else None
        if n > 1 and op is not None:
            cost[op] += (n - 1) * int(problem.cost[i])
            times[op] = max(times.get(op, 0), n - 1)
    rows = []
    for op in sorted({op for op in op_of if op is not None}, key=lambda op: (op < 0, op)):
        name, kind, scope = (net.op_names[op], net.op_kinds[op], net.op_scopes[op]) if op >= 0 else ("loss", "loss", "")
        again = times.get(op, 0)
        rows.append(KeptRow(name, kind, scope, 1, int(again > 0), again, kept[op], dropped[op], cost[op]))
    return tuple(rows)


@dataclass(slots=True)
class _Module:
    """A node of the tree of modules, ops at its ends."""

    name: str
    rows: list[KeptRow] = field(default_factory=list)
    parts: dict[str, _Module] = field(default_factory=dict)

    @property
    def dropped_bytes(self) -> int:
        return sum(row.dropped_bytes for row in self.rows)

    @property
    def mixed(self) -> bool:
        """Whether some of it is kept and some is not."""
        return bool(self.parts) and bool(self.dropped_bytes) and any(row.kept_bytes for row in self.rows)

    def joined(self) -> KeptRow:
        rows = self.rows
        if len(rows) == 1 and not self.parts:
            return rows[0]
        return KeptRow(
            self.name, "", "", sum(row.n_ops for row in rows), sum(row.n_again for row in rows),
            max(row.times for row in rows), sum(row.kept_bytes for row in rows),
            sum(row.dropped_bytes for row in rows), sum(row.cost for row in rows),
        )  # fmt: skip


def kept_by_module(rows: Sequence[KeptRow], most: int) -> tuple[KeptRow, ...]:
    """Join ops to modules: modules of which parts are kept and parts are not are taken apart while there is room.

    Parameters
    ----------
    rows : sequence of KeptRow
        Of :func:`kept_rows`.
    most : int
        Most rows, unless the outermost modules are more.

    Returns
    -------
    tuple of KeptRow
        Only those with results that backward wants, or that run again; sums are those of `rows`.
    """
    root = _Module("")
    for row in rows:
        if not (row.kept_bytes or row.dropped_bytes or row.times):
            continue
        at = root
        parts = row.scope.split(".") if row.scope else []
        for k, part in enumerate(parts):
            at.rows.append(row)
            at = at.parts.setdefault(part, _Module(".".join(parts[: k + 1])))
        at.rows.append(row)
        # an op beside modules of the same name is none of them
        at.parts[f"{row.name} "] = _Module(row.name, [row])
    shown = list(root.parts.values())
    while True:
        mixed = [m for m in shown if m.mixed and len(shown) + len(m.parts) - 1 <= most]
        if not mixed:
            break
        widest = max(mixed, key=lambda m: m.dropped_bytes)
        at_ = shown.index(widest)
        shown[at_ : at_ + 1] = widest.parts.values()
    return tuple(m.joined() for m in shown)


# ---------------------------------------------------------------------------------- plain data


def checkpoint_data(
    plan: CheckpointPlan, modules: WrapPlan | None = None, policy: WrapPlan | None = None
) -> dict[str, Any]:
    """Return plain data of a plan: what ``cnnlive checkpoint --json`` prints and ``--read`` reads.

    Parameters
    ----------
    plan : CheckpointPlan
    modules, policy : WrapPlan, optional
        What wrapping modules makes of the same budget.

    Returns
    -------
    dict
        Its keys are those of ``docs/json.md``.
    """
    data = plan.to_dict()
    data["options"] = {key: value for key, value in data["options"].items() if value is not None}
    steps = zip(plan.step.phase.tolist(), plan.step.problem.names, plan.timeline.tolist(), strict=True)
    return {
        "network": data.pop("name"),
        **data,
        "minimum_bytes": None,
        "bound_bytes": None,
        "timeline": [{"phase": _PHASES[phase], "node": name, "nbytes": nbytes} for phase, name, nbytes in steps],
        "ops": [{k: v for k, v in row._asdict().items() if k not in ("n_ops", "n_again")} for row in kept_rows(plan)],
        "modules": None if modules is None else _wrap_data(modules),
        "policy": None if policy is None else _wrap_data(policy),
    }


def _wrap_data(wraps: WrapPlan) -> dict[str, Any]:
    data = wraps.to_dict()
    del data["name"], data["kind"], data["budget"], data["plain_cost"]
    return data


def refusal_data(least: CheckpointFrontier | Frontier, budget: int, minimum_bytes: int, method: str) -> dict[str, Any]:
    """Return plain data of a budget that no plan was found for; keys as where one was.

    Parameters
    ----------
    least : CheckpointFrontier or Frontier
        Of the same step or problem.
    budget, minimum_bytes : int
        Bytes that were asked for, and the least that the method has a plan for.
    method : str

    Returns
    -------
    dict
    """
    first = least.plans[0]
    data = checkpoint_data(first) if isinstance(first, CheckpointPlan) else remat_data(first)
    for key in ("peak_bytes", "cost", "overhead", "lower_bound", "gap", "saved_bytes"):
        if key in data:
            data[key] = None
    for key in ("warnings", "states", "timeline", "ops", "schedule"):
        if key in data:
            data[key] = []
    return {
        **data, "recomputed": {}, "budget": budget, "method": method, "status": _refused(least, budget),
        "minimum_bytes": minimum_bytes, "bound_bytes": least.least_bound,
    }  # fmt: skip


def _refused(least: CheckpointFrontier | Frontier, budget: int) -> str:
    """Return what is known about a budget for which there is no plan: as the status of an arena."""
    return "infeasible" if budget < least.least_bound else "unknown"


def frontier_rows(frontier: CheckpointFrontier | Frontier) -> list[dict[str, Any]]:
    """Return the points of a frontier, the least budget first, with the keys of :data:`FRONTIER_COLUMNS`.

    Parameters
    ----------
    frontier : CheckpointFrontier or Frontier

    Returns
    -------
    list of dict
    """
    knee = frontier.knee
    rows = []
    for plan in frontier.plans:
        plain = plan.plain_cost if isinstance(plan, CheckpointPlan) else plan.problem.plain_cost
        rows.append({key: plain if key == "plain_cost" else plan is knee if key == "knee" else getattr(plan, key)
                     for key in FRONTIER_COLUMNS})  # fmt: skip
    return rows


def frontier_data(frontier: CheckpointFrontier | Frontier) -> dict[str, Any]:
    """Return plain data of a frontier: what ``cnnlive frontier --json`` prints.

    Parameters
    ----------
    frontier : CheckpointFrontier or Frontier

    Returns
    -------
    dict
        Its keys are those of ``docs/json.md``.
    """
    first = frontier.plans[0]
    asked: dict[str, Any] = dict.fromkeys(("batch", "method", "costs", "recompute_random", "options"))
    if isinstance(first, CheckpointPlan):
        data = first.to_dict()
        asked = {key: data[key] for key in asked}
        asked["options"] = {key: value for key, value in data["options"].items() if value is not None}
    return {
        "network": first.name if isinstance(first, CheckpointPlan) else first.problem.name,
        **asked,
        "effort": first.effort,
        "least_bytes": frontier.least_bytes,
        "least_bound": frontier.least_bound,
        "keep_bytes": frontier.keep_bytes,
        "knee": next(k for k, plan in enumerate(frontier.plans) if plan is frontier.knee),
        "points": [{k: v for k, v in row.items() if k != "knee"} for row in frontier_rows(frontier)],
    }


def remat_data(plan: RematPlan) -> dict[str, Any]:
    """Return plain data of the plan of a problem that was measured elsewhere.

    Parameters
    ----------
    plan : RematPlan

    Returns
    -------
    dict
        Its keys are those of ``docs/json.md``.
    """
    data = plan.to_dict()
    return {
        "network": data.pop("name"),
        **data,
        "method": plan.effort if plan.effort not in ("default", "best") else "search",
        "keep_bytes": plan.problem.peak_bytes,
        "minimum_bytes": None,
        "bound_bytes": None,
        "timeline": plan.timeline.tolist(),
        "schedule": [[what, i] for what, i in plan.schedule],
    }


# ---------------------------------------------------------------------------------- words


def _header(plan: TrainingPlan, what: str) -> Text:
    parts = [f"{what}, batch {plan.batch}", optimizer_text(plan.optimizer), plan.precision, plan.device, plan.loss]
    if plan.micro_batches > 1:
        parts.append(f"{plan.micro_batches} micro-batches")
    return Text.assemble((plan.name or "network", "bold"), "  ", " · ".join(parts))


def _how(plan: CheckpointPlan) -> str:
    effort = f", effort {plan.effort}" if plan.method == "search" else ""
    words = [f"costs {plan.costs.name}", f"method {plan.method}{effort}"]
    if plan.recompute_random:
        words.append("random ops may run again")
    return " · ".join(words)


def _share(value: float) -> str:
    """Write a share as overheads are written: ``8.19 %``."""
    return f"{100 * value:.2f} %"


def _more(overhead: float) -> str:
    return f"with {_share(overhead)} more time" if overhead else "with everything kept"


def _cost(cost: int, unit: str) -> str:
    """Write a cost for people.

    Examples
    --------
    >>> _cost(12_345_678, "ns"), _cost(30_955_646, "kFLOP"), _cost(1234, "tick")
    ('12.35 ms', '30.96 GFLOP', '1,234 tick')
    """
    if unit == "ns":
        for factor, name in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
            if cost >= factor:
                return f"{cost / factor:.4g} {name}"
    if unit == "kFLOP":
        count = format_count(1000 * cost)
        return f"{count}FLOP" if " " in count else f"{count} FLOP"
    return f"{cost:,} {unit}".rstrip()


def _proof(optimal: bool, gap: float) -> Text:
    if optimal:
        return Text("proven: no plan in this order costs less", "green")
    return Text(f"the best found; at most {_share(gap)} of the step above the least", "yellow")


class _Amounts:
    """A grid of amounts with words; on a narrow screen one figure a row instead of two."""

    def __init__(self, columns: int, plain: bool = False) -> None:
        self.both, self.plain = columns >= _NARROW and not plain, plain
        self.table = grid(*("lrrl" if self.both else "lrl"))

    def add(self, name: str, short: str, long: str, words: str | Text, style: str, main: int) -> None:
        cells = (short, long) if self.both else ((short, long)[main],)
        self.table.add_row(*(Text(t, style) for t in (name, *cells)), words)

    def nbytes(self, name: str, nbytes: int, words: str | Text = "", style: str = "") -> None:
        human, exact = (f"{nbytes:,}",) * 2 if self.plain else both_bytes(nbytes)
        self.add(name, human, exact, words, style, 1)

    def share(self, name: str, value: float, cost: str, words: str | Text = "", style: str = "") -> None:
        self.add(name, _share(value), cost, words, style, 0)


def _answer(budget: str, overhead: float, again: int, what: str = "ops") -> Text:
    if not again:
        return Text(f"fits {budget} with everything kept: nothing has to run again", "bold")
    return Text(f"fits {budget} with {_share(overhead)} more time: {again:,} {what} run again", "bold")


# ---------------------------------------------------------------------------------- a plan


def _where(plan: CheckpointPlan) -> str:
    i = int(np.argmax(plan.timeline))
    name = plan.step.problem.names[i]
    return f"in {_PHASES[int(plan.step.phase[i])]} at {name.removesuffix(' backward')}"


def _figures(plan: CheckpointPlan, columns: int) -> RenderableType:
    unit = plan.costs.unit
    table = _Amounts(columns)
    table.nbytes("budget", plan.budget)
    table.nbytes("peak", plan.peak_bytes, Text(_where(plan), "bold"), "bold")
    times = f", {plan.keep_bytes / plan.peak_bytes:.2f} times the peak" if plan.peak_bytes else ""
    table.nbytes("keep-all peak", plan.keep_bytes, f"nothing runs again{times if plan.cost > plan.plain_cost else ''}")
    table.nbytes("kept at the end", plan.saved_bytes, "of what forward made, when backward begins")
    step = f"beside {_cost(plan.plain_cost, unit)} of forward and backward"
    table.share("overhead", plan.overhead, _cost(plan.cost - plan.plain_cost, unit), step, "bold")
    bound = (plan.lower_bound - plan.plain_cost) / max(plan.plain_cost, 1)
    table.share("lower bound", bound, _cost(plan.lower_bound - plan.plain_cost, unit), "of every plan in this order")
    proof = _proof(plan.status == "optimal", plan.gap)
    table.share("gap", plan.gap, _cost(plan.cost - plan.lower_bound, unit), proof)
    return table.table


def _modules_table(plan: CheckpointPlan, rows: Sequence[KeptRow]) -> Lines:
    plain = max(plan.plain_cost, 1)

    def cells(row: KeptRow, name: str) -> tuple[str, ...]:
        again = f"{row.n_again:,} of {row.n_ops:,}" if row.n_again else "-"
        if row.n_again and row.n_ops == 1:
            again = "once" if row.times == 1 else f"{row.times} times"
        cost = _share(row.cost / plain) if row.cost else ""
        return name, format_bytes(row.kept_bytes), format_bytes(row.dropped_bytes), again, cost

    whole = _Module("all", [*rows])
    whole.parts["all"] = whole
    lines = [*(cells(row, row.name) for row in rows), cells(whole.joined(), "all")]
    heads = [("module or op", "l"), ("kept", "r"), ("dropped", "r"), ("run again", "r"), ("time", "r")]
    return Lines(heads, lines, len(lines) - 1, gives=0, may_go=(4,), least=12)


def _kinds(rows: Sequence[KeptRow]) -> Text:
    """Name the ops that run again, or say how many of each operator do."""
    again = [row for row in rows if row.times]
    if len(again) <= _FEW:
        return Text("run again: " + ", ".join(f"{row.name} ({row.op})" for row in again))
    all_, kinds = Counter(row.op for row in rows), Counter(row.op for row in again)
    words = [f"{n:,} of {all_[kind]:,} {kind}" for kind, n in kinds.most_common()]
    return Text("run again: " + ", ".join(words))


def _timelines(plan: CheckpointPlan, columns: int, ascii_only: bool) -> Group:
    keep = plan.training.timeline.tolist()
    n = (len(keep) - 1) // 2
    parts = [keep[:n], [b for b in keep[n:-1] if b], keep[-1:]]
    phase = plan.step.phase
    mine = [plan.timeline[phase == k].tolist() for k in range(3)]
    top = max(plan.keep_bytes, plan.peak_bytes)
    width = max(4, min(34, (columns - 24) // 2))
    bar = "|" if ascii_only else "│"

    def drawn(values: Sequence[Sequence[int]]) -> str:
        wide = [min(width, len(a), len(b)) for a, b in zip(parts, mine, strict=True)]
        return bar.join(sparkline(v, w, top=top, ascii_only=ascii_only) for v, w in zip(values, wide, strict=True))

    lines = [Text.assemble((drawn(mine), "cyan"), "  this plan", no_wrap=True)]
    if plan.cost != plan.plain_cost:
        lines.insert(0, Text.assemble((drawn(parts), "dim cyan"), "  keep all", no_wrap=True))
    return Group(f"alive over forward {bar} backward {bar} optimizer, 0 to {format_bytes(top)}", *lines)


def _wraps(plan: CheckpointPlan, found: Sequence[WrapPlan]) -> list[RenderableType]:
    """Compare what modules and policies make of the budget with the plan op by op, and name the modules."""
    ways = [("op by op", plan.peak_bytes, plan.overhead, True, "cnnlive.torch.apply(plan, module)")]
    for w in found:
        saved = sum(len(r.saved) for r in w.regions)
        words = f"{len(w.regions):,} wrapped" + (f", {saved:,} results saved in them" if w.kind == "policy" else "")
        ways.append((_KINDS[w.kind], w.peak_bytes, w.overhead, w.fits, words))
    lines = [(name, *both_bytes(peak), _share(over), "fits" if fits else "does not fit", words)
             for name, peak, over, fits, words in ways]  # fmt: skip
    heads = [("carried out", "l"), ("", "r"), ("peak", "r"), ("overhead", "r"), ("budget", "l"), ("how", "l")]
    parts: list[RenderableType] = [Lines(heads, lines, 0, gives=0, may_go=(1, 5, 4), least=9)]
    for w in found:
        parts += ["", Text(f"{_KINDS[w.kind]}, to wrap with torch.utils.checkpoint:")]
        lines_ = [", ".join(r.module for r in w.regions) or "none"]
        if w.kind == "policy" and w.regions:
            lines_ = [r.module + (f" saves {', '.join(r.saved)}" if r.saved else "") for r in w.regions]
        parts.append(indented(*map(Text, lines_)))
        if not w.fits:
            least = f"{format_bytes(w.least_bytes)} ({w.least_bytes:,} B)"
            parts.append(Text(f"no choice of modules was found that fits; the least peak found is {least}", "yellow"))
    return parts


_KINDS: Final = {"modules": "modules", "policy": "modules and saved ops"}
_COUNTED: Final = (
    "counted: what `cnnlive training` counts, at every instant, with what runs again, which does so in backward just "
    "before the op that wants it. kept, dropped: results that backward wants. Not counted: the allocator, the CUDA "
    "context, workspaces of kernels."
)


def checkpoint_report(
    plan: CheckpointPlan,
    wraps: Sequence[WrapPlan] = (),
    *,
    top: int = 10,
    columns: int = 120,
    ascii_only: bool = False,
) -> RenderableType:
    """Report a plan: the figures, what is kept by module, what wrapping modules makes of it, what to mind.

    Parameters
    ----------
    plan : CheckpointPlan
    wraps : sequence of WrapPlan
        Of the same budget.
    top : int
        Most modules that are listed, unless the outermost are more.
    columns : int
        Width of the screen.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    rows = kept_rows(plan)
    parts: list[RenderableType] = [_figures(plan, columns), ""]
    again = sum(row.n_again for row in rows)
    if again:
        parts += [_modules_table(plan, kept_by_module(rows, top)), "", _kinds(rows), ""]
    if wraps:
        parts += [*_wraps(plan, wraps), ""]
    parts += [_timelines(plan, columns, ascii_only), ""]
    wrapped: dict[str, str] = {}
    for w in wraps:
        for words in w.warnings:
            wrapped.setdefault(words, _KINDS[w.kind])
    warnings = [*plan.warnings, *(f"{kind}: {words}" for words, kind in wrapped.items())]
    if warnings:
        parts += [*(Text(f"! {words}", "yellow") for words in warnings), ""]
    budget = f"{format_bytes(plan.budget)} ({plan.budget:,} B)"
    answer = _answer(budget, plan.overhead, again)
    return Group(
        _header(plan.training, "checkpoints"), Text(_how(plan)), "", Text.assemble("  ", answer), "", indented(*parts),
        Text(_COUNTED, "dim"),
    )  # fmt: skip


def checkpoint_ops_table(plan: CheckpointPlan, *, top: int | None = None) -> Lines:
    """Return one row per op: what is kept of its results, what is dropped, how often it runs again.

    Parameters
    ----------
    plan : CheckpointPlan
    top : int, optional
        Only so many ops, those of which most is dropped.

    Returns
    -------
    rich renderable
    """
    rows: Sequence[KeptRow] = kept_rows(plan)
    if top is not None:
        rows = sorted(rows, key=lambda row: (-row.dropped_bytes, -row.cost))[:top]
    plain = max(plan.plain_cost, 1)
    lines = [(row.name, row.op, f"{row.kept_bytes:,}", f"{row.dropped_bytes:,}", str(row.times or "-"),
              _share(row.cost / plain) if row.times else "") for row in rows]  # fmt: skip
    heads = [("name", "l"), ("op", "l"), ("kept B", "r"), ("dropped B", "r"), ("run again", "r"), ("time", "r")]
    return Lines(heads, lines, gives=0, may_go=(1,), least=12)


def refusal_report(
    least: CheckpointFrontier | Frontier, budget: int, minimum_bytes: int, method: str, *, columns: int = 120
) -> RenderableType:
    """Report a budget that no plan was found for.

    Parameters
    ----------
    least : CheckpointFrontier or Frontier
        Of the same step or problem.
    budget, minimum_bytes : int
        Bytes that were asked for, and the least that the method has a plan for.
    method : str
    columns : int
        Width of the screen.

    Returns
    -------
    rich renderable
    """
    first = least.plans[0]
    if isinstance(first, CheckpointPlan):
        head, table = [_header(first.training, "checkpoints"), Text(_how(first))], _Amounts(columns)
    else:
        head, table = _problem_header(first.problem, "checkpoints", first.effort), _Amounts(columns, plain=True)
    table.nbytes("budget", budget)
    if minimum_bytes != least.least_bytes:
        table.nbytes(f"least of {method}", minimum_bytes, "the least budget that the method has a plan for")
    table.nbytes("least budget found", least.least_bytes, _more(first.overhead), "bold")
    table.nbytes("proven floor", least.least_bound, "below it there is no plan in this order")
    table.nbytes("keep-all peak", least.keep_bytes, "nothing runs again")
    answer = Text(f"  {_REFUSED[_refused(least, budget)]}", "bold")
    return Group(*head, "", answer, "", indented(table.table))


_REFUSED: Final = {
    "infeasible": "does not fit: proven",
    "unknown": "not known: no plan was found, and nothing is proven",
}


# ---------------------------------------------------------------------------------- a frontier


def frontier_curve(
    frontier: CheckpointFrontier | Frontier,
    *,
    width: int = _COLUMNS,
    height: int = _ROWS,
    ascii_only: bool = False,
) -> list[str]:
    """Draw the overhead of the cheapest plan within each budget, from the least budget to where everything is kept.

    Parameters
    ----------
    frontier : CheckpointFrontier or Frontier
    width, height : int
        Columns and rows.
    ascii_only : bool
        Use ASCII characters.

    Returns
    -------
    list of str
        From the top down; the last row is that of the knee's mark.
    """
    plans, knee = frontier.plans, frontier.knee
    first, last = plans[0].budget, plans[-1].budget
    budgets = [plan.budget for plan in plans]
    top = max(*(plan.overhead for plan in plans), 1e-12)
    levels = []
    for c in range(width):
        budget = first + (last - first) * c // max(width - 1, 1)
        plan = plans[int(np.searchsorted(budgets, budget, side="right")) - 1]
        share = plan.overhead / top
        levels.append(int(-(-share * height * 8 // 1)))  # rounded up: only nothing is drawn as nothing
    rows = []
    for r in reversed(range(height)):
        cells = [min(max(level - 8 * r, 0), 8) for level in levels]
        rows.append("".join(("#" if k >= 4 or (k and not r) else " ") if ascii_only else _EIGHTHS[k] for k in cells))
    at = (knee.budget - first) * (width - 1) // max(last - first, 1)
    return [*rows, " " * at + "^"]


def _framed(
    frontier: CheckpointFrontier | Frontier, columns: int, ascii_only: bool, amount: Callable[[int], str]
) -> RenderableType:
    """Return the curve with its axes."""
    width = max(16, min(_COLUMNS, columns - _LABEL - 5))
    *rows, mark = frontier_curve(frontier, width=width, ascii_only=ascii_only)
    labels = {0: _share(max(plan.overhead for plan in frontier.plans)), len(rows) - 1: "0"}
    bar = "|" if ascii_only else "│"
    lines = [f"{labels.get(r, ''):>{_LABEL}} {bar}{row}".rstrip() for r, row in enumerate(rows)]
    ends = amount(frontier.plans[0].budget), amount(frontier.plans[-1].budget)
    axis = f"{'':>{_LABEL}}  {ends[0]}{ends[1].rjust(max(width - len(ends[0]), len(ends[1]) + 1))}".rstrip()
    knee = f"{'':>{_LABEL}}  {mark} knee"
    return Group(
        "overhead of the cheapest plan within each budget",
        *(Text(line, "cyan", no_wrap=True) for line in lines),
        Text(knee, no_wrap=True),
        Text(axis, no_wrap=True),
    )


def _points_table(frontier: CheckpointFrontier | Frontier, plain: bool) -> Lines:
    knee = frontier.knee
    lines: list[tuple[str, ...]] = []
    bold = None
    plans: Sequence[CheckpointPlan | RematPlan] = frontier.plans
    for k, plan in enumerate(plans):
        mark = "" if plan.status != "optimal" else "proven"
        if plan is knee:
            bold, mark = k, f"{mark} knee".lstrip()
        budget, peak = (((f"{n:,}", "") if plain else both_bytes(n)) for n in (plan.budget, plan.peak_bytes))
        lines.append((*budget, peak[0] if plain else peak[1], _share(plan.overhead), _share(plan.gap), mark))
    heads = [("budget", "r"), ("", "r"), ("peak", "r"), ("overhead", "r"), ("gap", "r"), ("", "l")]
    if plain:
        del heads[1]
        lines = [(row[0], *row[2:]) for row in lines]
    return Lines(heads, lines, bold, gives=0, may_go=() if plain else (1, 2), least=10)


_FRONTIER_WORDS: Final = (
    "gap: at most so much of the step above the cheapest plan within the budget. proven: no plan in this order costs "
    "less. knee: the point farthest below the line from the first to the last."
)


def frontier_report(
    frontier: CheckpointFrontier | Frontier, *, columns: int = 120, ascii_only: bool = False
) -> RenderableType:
    """Report memory against time: the points, the least budget, the knee, and a curve.

    Parameters
    ----------
    frontier : CheckpointFrontier or Frontier
    columns : int
        Width of the screen.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    first, knee = frontier.plans[0], frontier.knee
    plain = not isinstance(first, CheckpointPlan)
    if isinstance(first, CheckpointPlan):
        head = [_header(first.training, "frontier"), Text(_how(first))]
    else:
        head = _problem_header(first.problem, "frontier", first.effort)
    table = _Amounts(columns, plain)
    table.nbytes("least budget found", frontier.least_bytes, _least_words(frontier), "bold")
    table.nbytes("proven floor", frontier.least_bound, "below it there is no plan in this order")
    table.nbytes("knee", knee.budget, _more(knee.overhead))
    table.nbytes("keep-all peak", frontier.keep_bytes, "nothing runs again")
    curve = _framed(frontier, columns, ascii_only, _units if plain else format_bytes)
    parts: list[RenderableType] = [table.table, "", _points_table(frontier, plain)]
    parts += ["", curve] if len(frontier.plans) > 1 else []
    return Group(*head, "", indented(*parts), "", Text(_FRONTIER_WORDS, "dim"))


def _least_words(frontier: CheckpointFrontier | Frontier) -> str:
    first = frontier.plans[0]
    if first.budget > frontier.least_bytes:  # the budgets were given
        return ""
    return _more(first.overhead)


def batches_table(largest: int, found: Sequence[tuple[float, int]]) -> RenderableType:
    """Return the largest batches that fit a budget, by what recomputation may cost.

    Parameters
    ----------
    largest : int
        With everything kept.
    found : sequence of (float, int)
        Most overhead, as a share of forward and backward, and the largest batch then.

    Returns
    -------
    rich renderable
    """
    rows = [("no checkpoints", f"{largest:,}", "")]
    for share, batch in found:
        times = f"{batch / largest:.2f} times as many" if largest else ""
        rows.append((f"up to {100 * share:.0f} % more time", f"{batch:,}", times))
    heads = [("with checkpoints", "l"), ("largest batch", "r"), ("", "l")]
    words = "more time: of forward and backward, by the roofline; `cnnlive checkpoint` has the plan for a batch"
    return Group(Lines(heads, rows, gives=0, may_go=(2,), least=12), Text(words, "dim"))


# ---------------------------------------------------------------------------------- problems measured elsewhere


def _units(n: int) -> str:
    return f"{n:,}"


def _problem_header(problem: RematProblem, what: str, effort: str) -> list[Text]:
    return [
        Text.assemble((problem.name or "problem", "bold"), f"  {what} of a given problem · effort {effort}"),
        Text(f"{problem.n:,} nodes, {problem.loss + 1:,} of them forward · amounts in the unit of the problem"),
    ]


def remat_report(plan: RematPlan, *, top: int = 10, columns: int = 120, ascii_only: bool = False) -> RenderableType:
    """Report the plan of a problem that was measured elsewhere.

    Parameters
    ----------
    plan : RematPlan
    top : int
        Most nodes that are listed.
    columns : int
        Width of the screen.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    problem, again = plan.problem, plan.recomputed
    plain = problem.plain_cost
    table = _Amounts(columns, plain=True)
    table.nbytes("budget", plan.budget)
    where = problem.names[int(np.argmax(plan.timeline))]
    table.nbytes("peak", plan.peak_bytes, Text(f"at {where}", "bold"), "bold")
    table.nbytes("keep-all peak", problem.peak_bytes, "nothing runs again")
    table.share("overhead", plan.overhead, "", f"{plan.cost - plain:,} beside {plain:,}", "bold")
    bound = (plan.lower_bound - plain) / max(plain, 1)
    table.share("lower bound", bound, "", "of every plan in this order")
    table.share("gap", plan.gap, "", _proof(plan.optimal, plan.gap))
    parts: list[RenderableType] = [table.table, ""]
    if again:
        number = {name: i for i, name in enumerate(problem.names)}
        rows = [(name, str(times), f"{int(problem.cost[number[name]]) * times:,}") for name, times in again.items()]
        rows.sort(key=lambda row: -int(row[2].replace(",", "")))
        if len(rows) > top:
            rest = sum(int(row[2].replace(",", "")) for row in rows[top:])
            rows = [*rows[:top], (f"({len(rows) - top:,} more)", "", f"{rest:,}")]
        parts += [Lines([("run again", "l"), ("times", "r"), ("cost", "r")], rows, gives=0, least=16), ""]
    bar = "|" if ascii_only else "│"
    values = plan.timeline.tolist()
    ends = values[: problem.loss + 1], values[problem.loss + 1 :]
    width = max(4, min(50, (columns - 6) // 2))
    drawn = bar.join(sparkline(part, width, top=max(values), ascii_only=ascii_only) for part in ends)
    parts += [f"alive over forward {bar} backward, 0 to {plan.peak_bytes:,}", Text(drawn, "cyan", no_wrap=True)]
    answer = _answer(f"{plan.budget:,}", plan.overhead, len(again), "nodes")
    return Group(*_problem_header(problem, "checkpoints", plan.effort), "", Text.assemble("  ", answer), "",
                 indented(*parts))  # fmt: skip
