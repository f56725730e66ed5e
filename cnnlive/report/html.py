"""The report: one HTML file with the drawings and tables of results, which needs nothing else and nobody's network.

`payload` turns results into plain data, section by section; `html_report` puts the data, the page's style and script
(``cnnlive/report/assets``) and Plotly's bundle into one file. Plotly comes from the installed package (extra
``report``): its wheel carries the whole library, so nothing is fetched, neither when a report is made nor when it is
read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from cnnlive import __version__
from cnnlive._types import I64
from cnnlive.errors import import_extra
from cnnlive.report.checkpoint import kept_by_module, kept_rows
from cnnlive.report.frame import (
    INFERENCE_KINDS,
    TRAINING_KINDS,
    ReportError,
    columns_of,
    inference_kinds,
    is_bytes,
    keep_all_timeline,
    phase_ends,
    training_kinds,
)
from cnnlive.report.lives import Lives, inference_lives, node_words, remat_lives, training_lives
from cnnlive.report.optimizers import optimizer_text
from cnnlive.report.reasons import bytes_by_type, reasons, training_reasons
from cnnlive.report.text import shape_text
from cnnlive.units import format_bytes, format_count

if TYPE_CHECKING:
    import os

__all__ = ["FORMAT", "html_report", "payload", "write_report"]

#: What the data in a report begin with.
FORMAT: Final = "cnnlive-report-1"
_ORDER: Final = ("timeline", "rules", "frontier", "arena", "profiles", "table", "text")
_MODULES: Final = 8  # that a point of a frontier names

Section = dict[str, Any]
Card = dict[str, str]
Results = Sequence[Any]
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})

_KIND_WORDS: Final[Mapping[str, str]] = {
    "parameters": "parameters", "buffers": "buffers",
    "optimizer_state": "optimizer state", "inputs": "inputs and targets", "gradients": "gradients",
    "saved": "saved for backward", "activations": "other activations", "temporaries": "temporaries",
    "held": "held for later", "read": "read by the op", "written": "written by the op", "scratch": "scratch of the op",
    "context": "context, set aside", "workspace": "workspace, set aside", "fixed": "always there",
    "forward": "made by forward", "backward": "made by backward", "alive": "alive",
}  # fmt: skip
_CONSTANT: Final = ("parameters", "buffers", "optimizer_state", "inputs", "context", "workspace", "fixed")


# ---------------------------------------------------------------------------------- pieces


_SHORT: Final[Mapping[str, str]] = {
    "timeline": "Timeline", "rules": "Rules", "frontier": "Frontier", "arena": "Arena", "profiles": "Runtimes",
    "table": "Table", "text": "Notes",
}  # fmt: skip


def _section(kind: str, title: str, words: str, short: str = "", **data: Any) -> Section:
    """Return a section; `short` is what it is called where there is little room."""
    return {"kind": kind, "title": title, "short": short or _SHORT[kind], "words": words, **data}


def _card(label: str, nbytes: int | None, hint: str = "", value: str = "") -> Card:
    """Return a figure that stands at the top: for people, exactly, and what it is."""
    if nbytes is None:
        return {"label": label, "value": value, "text": "", "hint": hint}
    return {"label": label, "value": format_bytes(nbytes), "text": f"{nbytes:,} B", "hint": hint}


def _both(nbytes: int) -> str:
    """Return bytes for people and exactly; below one KiB they are the same."""
    return f"{nbytes:,} B" if nbytes < 1024 else f"{format_bytes(nbytes)} ({nbytes:,} B)"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _proof(plan: Any) -> str:
    return "proven least" if plan.optimal else f"at most {_percent(plan.gap)} above the least"


def _timeline(
    title: str, words: str, *, mode: str, kinds: Sequence[str], rows: I64, op: Sequence[str], what: Sequence[str],
    scope: Sequence[str], ends: Sequence[tuple[str, int]] = (), limit: int | None = None, plain: I64 | None = None,
    plain_label: str = "", lives: Lives | None = None, short: str = "",
) -> Section:  # fmt: skip
    """Return a timeline: rows of bytes by kind, those without any left out, and the buffers behind them."""
    begin = 0
    phases = []
    for name, end in ends:
        phases.append({"label": name, "begin": begin, "end": end})
        begin = end
    total = rows.sum(axis=0)
    shown = [k for k in range(len(kinds)) if rows[k].any()] or [0]
    peak = int(total.argmax()) if len(total) else 0
    return _section(
        "timeline", title, words, short, mode=mode,
        kinds=[{"key": kinds[k], "label": _KIND_WORDS[kinds[k]], "constant": kinds[k] in _CONSTANT} for k in shown],
        bytes=[rows[k].tolist() for k in shown], steps={"op": list(op), "kind": list(what), "scope": list(scope)},
        phases=phases, peak=peak, peak_bytes=int(total[peak]) if len(total) else 0, limit=limit,
        plain=None if plain is None else plain.tolist(), plain_label=plain_label,
        buffers=None if lives is None else {
            key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in lives._asdict().items()
        },
    )  # fmt: skip


_TYPES: Final = {"int": "int", "int?": "int", "float": "float", "bool": "text", "text": "text"}
_LABELS: Final[Mapping[str, str]] = {
    "op": "operator", "name": "op", "macs": "MACs", "live_bytes": "alive", "nbytes": "bytes", "size": "bytes",
    "output_bytes": "allocated", "parameter_bytes": "parameters", "saved_bytes": "saved", "gradient_bytes": "gradients",
    "forward_bytes": "alive forward", "backward_bytes": "alive backward", "program_live_bytes": "alive in the program",
    "program_step": "step in the program", "keep_all_bytes": "alive with all kept",
    "activation_peak_bytes": "activation peak", "arena_bytes": "arena", "weight_bytes": "weights",
    "workspace_bytes": "workspace",
}  # fmt: skip
_HINTS: Final[Mapping[str, str]] = {
    "output_bytes": "bytes that the op allocates; 0 for a view and an op in place",
    "live_bytes": "everything alive while it runs", "macs": "multiply-accumulates at this batch",
    "saved_bytes": "what the op makes and backward keeps", "gradient_bytes": "of the op's parameters",
    "forward_bytes": "the most that is alive while it runs forward",
    "backward_bytes": "the most that is alive while its backward runs; 0: it has none",
    "parameters": "numbers stored, buffers among them; shared ones stand at their first op",
}  # fmt: skip


# What modules add up in a table, and of what they show the most; of all else neither says anything.
_SUMS: Final = ("parameters", "macs", "output_bytes", "parameter_bytes", "saved_bytes", "gradient_bytes", "kept_bytes",
                "dropped_bytes", "cost", "nbytes", "size", "buffers")  # fmt: skip
_MOST: Final = ("live_bytes", "forward_bytes", "backward_bytes", "program_live_bytes", "keep_all_bytes", "times")


def _column(key: str, label: str, kind: str, hint: str = "") -> dict[str, str | None]:
    total = "sum" if key in _SUMS else "max" if key in _MOST else None
    return {"key": key, "label": label, "type": kind, "hint": hint, "total": total}


def _plain(values: Any) -> list[Any]:
    """Return values as JSON has them: what is no finite number is none."""
    found = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in found]


def _table(
    result: Any, table: str, title: str, words: str, sort: str | None = None, short: str = ""
) -> Section:  # fmt: skip
    """Return a table of a result, as `columns_of` has it."""
    columns, rows, scope = [], {}, None
    for column in columns_of(result, table):
        values = _plain(column.values)
        if column.name == "scope":
            scope = values
        amount = column.name.endswith("bytes") or column.name == "size" or is_bytes(column.name)
        columns.append(_column(
            column.name, _LABELS.get(column.name, column.name.replace("_", " ")),
            "bytes" if amount and column.kind in ("int", "int?") else _TYPES[column.kind], _HINTS.get(column.name, ""),
        ))  # fmt: skip
        rows[column.name] = [("yes" if v else "no") for v in values] if column.kind == "bool" else values
    return _section("table", title, words, short, columns=columns, rows=rows, scope=scope, sort=sort)


# ---------------------------------------------------------------------------------- inference


def _inference_words(plan: Any) -> str:
    types = " and ".join(bytes_by_type(plan)) or "no activations"
    return f"batch {plan.batch} · {types} · profile {plan.profile.name}{', fused' if plan.profile.fuse else ''}"


def _inference_rows(plan: Any) -> tuple[list[str], I64]:
    kinds = inference_kinds(plan)
    n = len(plan.order)
    fixed = [np.full(n, nbytes, np.int64) for nbytes in (plan.parameter_bytes, plan.buffer_bytes)]
    order = (2, 0, 1, 3)
    return ["parameters", "buffers", *(INFERENCE_KINDS[k] for k in order)], np.vstack([*fixed, kinds[list(order)]])


def _inference_steps(plan: Any) -> dict[str, Any]:
    net, order = plan.network, plan.order.tolist()
    return {"op": [net.op_names[i] for i in order], "what": [net.op_kinds[i] for i in order],
            "scope": [net.op_scopes[i] for i in order]}  # fmt: skip


def _of_inference(
    plan: Any, results: Results, limit: int | None = None, aside: Mapping[str, int] = _NOTHING
) -> list[Section]:
    kinds, rows = _inference_rows(plan)
    kinds, rows = _with_aside(kinds, rows, aside)
    words = (
        f"Memory alive while each op of one inference runs ({_inference_words(plan)}). A tensor is alive from the op "
        "that writes it up to and including the last op that reads it; what an op reads, writes and allocates for "
        "itself counts while it runs. An allocator's rounding and the runtime itself are not counted."
    )
    return [
        _timeline("Inference", words, short="Inference", mode="inference", kinds=kinds, rows=rows,
                  lives=inference_lives(plan), limit=limit, **_inference_steps(plan)),
        _table(plan, "ops", "Layers of the inference", "One row per op in the order of execution.", None, "Layers"),
    ]  # fmt: skip


def _with_aside(kinds: Sequence[str], rows: I64, aside: Mapping[str, int]) -> tuple[list[str], I64]:
    """Put what is set aside at the bottom."""
    fixed = [np.full(rows.shape[1], nbytes, np.int64) for nbytes in aside.values()]
    return [*aside, *kinds], np.vstack([*fixed, rows])


def _inference_cards(plan: Any) -> list[Card]:
    return [
        _card("peak of an inference", plan.peak_bytes, "weights and activations"),
        _card("activations", plan.activation_peak_bytes, plan.peak_op),
        _card("weights", plan.weight_bytes, f"{format_count(plan.network.n_parameters)} parameters"),
    ]


def _inference_about(plan: Any) -> str:
    return f"inference, {_inference_words(plan)} · {len(plan.order):,} ops"


# ---------------------------------------------------------------------------------- training


def _training_words(plan: Any) -> str:
    passes = f" · {plan.micro_batches} micro-batches" if plan.micro_batches > 1 else ""
    return f"batch {plan.batch} · {optimizer_text(plan.optimizer)} · {plan.precision}{passes}"


def _of_training(
    plan: Any, results: Results, limit: int | None = None, aside: Mapping[str, int] = _NOTHING
) -> list[Section]:
    kinds, rows = _with_aside(TRAINING_KINDS, training_kinds(plan), aside)
    number = {name: op for op, name in enumerate(plan.network.op_names)}
    names = [name for _, name, _ in plan.steps]
    words = (
        f"Memory alive at the worst instant of each step of one training step ({_training_words(plan)}): every op of "
        "PyTorch forward, then backward with the last one first, then the optimizer. Counted are all tensors; an "
        "allocator's rounding, workspaces of kernels and the CUDA context are not."
    )
    return [
        _timeline(
            "Training step", words, short="Training", mode="training", kinds=kinds, rows=rows, op=names,
            what=[record for _, _, record in plan.steps], scope=_scopes(plan.network, number, names),
            ends=phase_ends(plan), limit=limit, lives=training_lives(plan),
        ),
        _table(plan, "ops", "Layers of the training step",
               "One row per op of the network; the loss is the last.", "saved_bytes", "Training layers"),
    ]  # fmt: skip


def _scopes(net: Any, number: Mapping[str, int], names: Iterable[str]) -> list[str]:
    return [net.op_scopes[number[name]] if name in number else "" for name in names]


def _training_cards(plan: Any) -> list[Card]:
    found = [_card("peak of a training step", plan.peak_bytes, f"{plan.peak_phase}, {plan.peak_op}")]
    if plan.reserved_bytes is not None:
        found.append(_card("reserved by the allocator", plan.reserved_bytes, "CUDA caching allocator, two steps"))
    return [
        *found,
        _card("parameters", plan.parameter_bytes, f"{format_count(plan.network.n_parameters)} parameters"),
        _card("optimizer state", plan.optimizer_bytes, plan.optimizer.name),
        _card("saved for backward", plan.saved_bytes, "activations, each storage once"),
    ]


def _training_about(plan: Any) -> str:
    return f"training step, {_training_words(plan)} · {plan.network.n_ops:,} ops"


# ---------------------------------------------------------------------------------- fit


def _of_fit(found: Any, results: Results) -> list[Section]:
    aside = {k: v for k, v in (("context", found.context_bytes), ("workspace", found.workspace_bytes)) if v}
    plan = found.plan
    sections = _KINDS[type(plan).__name__].sections(plan, results, limit=found.budget_bytes, aside=aside)
    word = "fits" if found.fits else "does not fit"
    words = f"Batch {plan.batch} {word}: what is needed, part by part. The parts add up to {_both(found.needed_bytes)}."
    return [*sections, _table(found, "parts", "What the device has to hold", words, "nbytes", "Device")]


def _fit_cards(found: Any) -> list[Card]:
    word = "fits" if found.fits else "does not fit"
    cards = [_card("needed", found.needed_bytes, f"{word} {format_bytes(found.budget_bytes)}")]
    of_plan = _KINDS[type(found.plan).__name__].cards(found.plan)
    return [*cards, *(card for card in of_plan if card["text"] != cards[0]["text"])]


# ---------------------------------------------------------------------------------- orders, arenas, profiles


def _of_order(plan: Any, results: Results) -> list[Section]:
    best = plan.best
    step = np.empty(len(plan.order), np.int64)
    step[plan.program.order] = np.arange(len(plan.order))
    kinds, rows = _inference_rows(best)
    words = (
        f"Memory alive in the best order that was found, {_proof(plan)}. The line is the program's order, with a "
        f"peak of {_both(plan.program_peak_bytes)} of activations where this one has {_both(plan.peak_bytes)}."
    )
    return [
        _timeline("Execution order", words, short="Order", mode="inference", kinds=kinds, rows=rows,
                  lives=inference_lives(best), plain=plan.program.timeline + best.weight_bytes,
                  plain_label="program's order", **_inference_steps(best)),
        _table(plan, "ops", "Ops in the best order", "One row per op in the order that was found.", None),
    ]  # fmt: skip


def _order_cards(plan: Any) -> list[Card]:
    return [_card("activations, best order", plan.peak_bytes, _proof(plan)),
            _card("activations, program's order", plan.program_peak_bytes)]  # fmt: skip


def _arena(
    title: str, words: str, plan: Any, net_plan: Any, offsets: I64 | None, total: int | None, alignment: int
) -> Section:
    """Return buffers as rectangles of time and address."""
    b = plan.buffers
    shown = np.flatnonzero((b.lower < b.upper) & (b.nbytes > 0))
    ids = [b.ids[i] for i in shown.tolist()]
    what, op, scope = ([""] * len(ids) for _ in range(3))
    steps: list[str] = []
    scopes: list[str] = []
    if net_plan is not None:
        net = net_plan.network
        number = {name: i for i, name in enumerate(net.op_names)}
        of = {buffer.name: buffer for buffer in net_plan.buffers}
        for k, name in enumerate(ids):
            i = number.get(name, number.get(name.rpartition(":")[0], -1))
            if i >= 0:
                op[k], scope[k] = net.op_kinds[i], net.op_scopes[i]
            if name in of:
                what[k] = f"{shape_text([of[name].shape])} {of[name].dtype}"
        steps = [net.op_names[i] for i in net_plan.order.tolist()]
        scopes = [net.op_scopes[i] for i in net_plan.order.tolist()]
    return _section(
        "arena", title, words, arena_bytes=total, lower_bound=plan.lower_bound, status=plan.status,
        capacity=getattr(plan, "capacity", None), alignment=alignment, method=plan.method, steps=steps,
        scopes=scopes,
        buffers={
            "name": ids, "what": what, "op": op, "scope": scope,
            "offset": None if offsets is None else offsets[shown].tolist(), "nbytes": b.nbytes[shown].tolist(),
            "born": b.lower[shown].tolist(), "dead": b.upper[shown].tolist(),
        },
    )  # fmt: skip


def _of_arena(plan: Any, results: Results) -> list[Section]:
    if plan.offsets is None:
        why = plan.reason or plan.status
        words = f"There is no placement: {why}. What is alive at once takes {_both(plan.peak_load)}."
    else:
        words = (
            f"Every buffer in one block of memory: time to the right, addresses upwards. {_both(plan.arena_bytes)}, "
            f"{_proof(plan)}; what is alive at once takes {_both(plan.peak_load)}. Weights are not in the arena."
        )
    alignment = int(plan.buffers.alignment.max(initial=1))
    return [_arena("Arena", words, plan, plan.plan, plan.offsets, plan.arena_bytes, alignment)]


def _arena_cards(plan: Any) -> list[Card]:
    if plan.arena_bytes is None:
        return [_card("arena", None, plan.reason, plan.status), _card("lower bound", plan.lower_bound)]
    return [_card("arena", plan.arena_bytes, _proof(plan))]


def _of_objects(plan: Any, results: Results) -> list[Section]:
    floor = np.concatenate([[0], np.cumsum(plan.object_bytes)])
    offsets = floor[np.maximum(plan.object_of, 0)]
    words = (
        f"{plan.n_objects:,} objects, drawn one above the other, with the buffers that use each over time; placed by "
        f"{plan.method}. An object is as large as the largest buffer in it."
    )
    return [_arena("Shared objects", words, plan, None, offsets, plan.total_bytes, 1)]


def _objects_cards(plan: Any) -> list[Card]:
    return [_card("shared objects", plan.total_bytes, plan.status)]


def _of_comparison(found: Any, results: Results) -> list[Section]:
    rows, steps = [], []
    for row in found.rows:
        words = row.reason or ", ".join(f"{s.name} {s.nbytes:+,} B" for s in row.steps) or "as ideal"
        over = None if row.arena_bytes is None else row.overhead
        rows.append({
            "name": row.profile.name, "summary": row.profile.summary, "words": words, "reason": row.reason,
            "weight_bytes": row.weight_bytes, "activation_bytes": row.activation_peak_bytes,
            "arena_bytes": row.arena_bytes, "workspace_bytes": row.workspace_bytes, "peak_op": row.peak_op,
            "peak_bytes": None if row.activation_peak_bytes is None
            else row.activation_peak_bytes + (row.weight_bytes or 0), "over": over,
        })  # fmt: skip
        steps += [{"profile": row.profile.name, "name": s.name, "label": s.words, "change": s.nbytes}
                  for s in row.steps]  # fmt: skip
    words = (
        "The same network as several runtimes hold it. From the profile ideal on, a profile's rules are switched on "
        "in groups, one after the other; what each group changes adds up to the whole difference, to the arena where "
        "there is one and else to the activation peak. Weights are beside it."
    )
    return [_section("profiles", "Runtimes side by side", words, ideal_bytes=found.ideal_bytes, profiles=rows,
                     steps=steps)]  # fmt: skip


# ---------------------------------------------------------------------------------- rules of thumb


def _of_rule(rule: Any, results: Results) -> list[Section]:
    """Return a rule of thumb against the nearest plan that it speaks of, where there is one among the results."""
    wanted, split = ("InferencePlan", reasons) if rule.name == "inference" else ("TrainingPlan", training_reasons)
    plans = [getattr(r, "plan", r) if type(r).__name__ == "Fit" else r for r in results]
    plan = next((p for p in plans if type(p).__name__ == wanted), None)
    several = len({_about(r)[0] for r in results} - {""}) > 1
    name = f"{rule.name} · {plan.name}" if plan is not None and several else rule.name
    found = {"name": name, "formula": rule.formula, "words": rule.words, "goes_wrong": rule.goes_wrong,
             "rule_bytes": rule.nbytes, "terms": [{"label": k.replace("_", " "), "nbytes": v}
                                                  for k, v in rule.terms.items()],
             "exact_bytes": None, "difference": None, "reasons": []}  # fmt: skip
    if plan is not None:
        found |= {
            "exact_bytes": plan.peak_bytes, "difference": plan.peak_bytes - rule.nbytes,
            "reasons": [{"label": r.name, "nbytes": r.nbytes, "words": r.words} for r in split(plan, rule)],
        }  # fmt: skip
    words = (
        "What the textbook's rules say, and why the exact figure is another one: the reasons add up to the difference."
    )
    return [_section("rules", "Rules of thumb", words, rules=[found])]


# ---------------------------------------------------------------------------------- recomputation


def _remat_timeline(plan: Any, title: str, words: str) -> Section:
    """Return a timeline with recomputation: what is always there, and what is held by who made it."""
    whole = hasattr(plan, "step")
    problem = (plan.remat if whole else plan).problem
    lives = remat_lives(plan)
    n = problem.n
    fixed = {"fixed": problem.fixed_bytes}
    if whole:
        training = plan.training
        fixed = {"parameters": training.parameter_bytes, "buffers": training.buffer_bytes,
                 "optimizer_state": training.composition["optimizer_state"],
                 "inputs": training.input_bytes + training.target_bytes}  # fmt: skip
        fixed["gradients"] = problem.fixed_bytes - sum(fixed.values())
    kinds = [*fixed, *(k for k in ("gradients", "forward", "backward", "scratch") if k not in fixed)]
    rows = np.zeros((len(kinds), n + 1), np.int64)
    for kind, nbytes in fixed.items():
        rows[kinds.index(kind), 0] += nbytes
    at = np.array([kinds.index(kind) for kind in lives.kind], np.int64)
    np.add.at(rows, (at, lives.born), lives.nbytes)
    np.add.at(rows, (at, lives.dead), -lives.nbytes)
    rows = np.cumsum(rows, axis=1)[:, :n]
    op, what, scope = node_words(plan)
    return _timeline(
        title, words, short="Checkpoints", mode="training", kinds=kinds, rows=rows, op=op, what=what, scope=scope,
        ends=phase_ends(plan), limit=plan.budget, plain=keep_all_timeline(plan), plain_label="everything kept",
        lives=lives,
    )  # fmt: skip


def _remat_words(plan: Any) -> str:
    proof = "no plan costs less, which is proven" if plan.status == "optimal" else (
        f"at most {_percent(plan.gap)} of the step above the cheapest"
    )  # fmt: skip
    return (
        f"Memory alive within a budget of {_both(plan.budget)}: what backward wants is dropped and made again, at "
        f"{_percent(plan.overhead)} more time; {proof}. The line is the same with everything kept. What runs again "
        "counts to the step that asks for it."
    )


def _of_checkpoints(plan: Any, results: Results) -> list[Section]:
    rows = [row for row in kept_rows(plan) if row.kept_bytes or row.dropped_bytes or row.times]
    columns = [
        ("name", "op", "text", ""), ("op", "operator", "text", ""), ("scope", "scope", "text", ""),
        ("kept_bytes", "kept", "bytes", "results that are there when backward begins"),
        ("dropped_bytes", "dropped", "bytes", "results that backward wants and that are not there then"),
        ("times", "runs again", "int", "how often"),
        ("cost", "cost of that", "int", f"in the unit of the cost model, {plan.costs.name}"),
    ]  # fmt: skip
    table = _section(
        "table", "What is kept, what runs again", "One row per op whose results backward wants.", "Kept",
        columns=[_column(*c) for c in columns],
        rows={k: [getattr(row, k) for row in rows] for k, *_ in columns}, scope=[row.scope for row in rows],
        sort="dropped_bytes",
    )  # fmt: skip
    sections = [_remat_timeline(plan, "Training step with checkpoints", _remat_words(plan)), table]
    if plan.warnings:
        sections.append(_section("text", "What to mind", "", paragraphs=list(plan.warnings)))
    return sections


def _of_remat(plan: Any, results: Results) -> list[Section]:
    table = _table(plan, "nodes", "Nodes of the problem", "Forward, then backward.", None)
    return [_remat_timeline(plan, "Recomputation", _remat_words(plan)), table]


def _remat_cards(plan: Any) -> list[Card]:
    kept = plan.keep_bytes if hasattr(plan, "step") else plan.problem.peak_bytes
    return [_card("with checkpoints", plan.peak_bytes, f"{_percent(plan.overhead)} more time"),
            _card("everything kept", kept)]  # fmt: skip


def _of_wraps(plan: Any, results: Results) -> list[Section]:
    n = len(plan.timeline) // 2
    names = [*(f"record {k}" for k in range(n)), *(f"record {k}" for k in range(n - 1, -1, -1)), "optimizer.step"]
    words = (
        f"Memory alive with {len(plan.regions):,} modules wrapped by torch.utils.checkpoint, at "
        f"{_percent(plan.overhead)} more time; with nothing wrapped the peak is {_both(plan.keep_bytes)}."
    )
    sections = [
        _timeline("Wrapped modules", words, short="Wraps", mode="training", kinds=["alive"], rows=plan.timeline[None],
                  op=names, what=[""] * len(names), scope=[""] * len(names), ends=phase_ends(plan), limit=plan.budget),
        _table(plan, "regions", "Modules to wrap", "In the order in which forward runs them.", None),
    ]  # fmt: skip
    if plan.warnings:
        sections.append(_section("text", "What to mind", "", paragraphs=list(plan.warnings)))
    return sections


def _wraps_cards(plan: Any) -> list[Card]:
    return [_card("with wrapped modules", plan.peak_bytes, f"{_percent(plan.overhead)} more time"),
            _card("nothing wrapped", plan.keep_bytes)]  # fmt: skip


def _of_frontier(found: Any, results: Results) -> list[Section]:
    plans, knee = found.plans, found.knee
    whole = hasattr(plans[0], "step")
    again = [_again(p) for p in plans]
    points = {
        "budget": [p.budget for p in plans], "peak": [p.peak_bytes for p in plans],
        "overhead": [float(p.overhead) for p in plans], "bound": [max(float(p.overhead - p.gap), 0.0) for p in plans],
        "status": [p.status for p in plans], "recomputed": [n for n, _ in again],
    }  # fmt: skip
    words = (
        "Memory against time: the least more time that a plan within each budget was found for, and the proven bound "
        f"that no plan is below. Below {_both(found.least_bound)} there is proven to be no plan; from "
        f"{_both(found.keep_bytes)} on nothing runs again."
    )
    return [_section(
        "frontier", "Checkpoints: memory against time" if whole else "Recomputation: memory against time", words,
        keep_bytes=found.keep_bytes, keep_cost=plans[0].plain_cost if whole else plans[0].problem.plain_cost,
        least_bytes=found.least_bytes, least_bound=found.least_bound, knee=[p is knee for p in plans].index(True),
        points=points, modules=[names for _, names in again],
    )]  # fmt: skip


def _again(plan: Any) -> tuple[int, list[str]]:
    """Return how many ops run again, and the modules that they are of: those of which most is dropped first."""
    if not hasattr(plan, "step"):
        names = list(plan.recomputed)
        return len(names), names[:_MODULES]
    rows = kept_rows(plan)
    joined = [row for row in kept_by_module(rows, 3 * _MODULES) if row.times]
    joined.sort(key=lambda row: -row.dropped_bytes)
    return sum(row.times > 0 for row in rows), [row.name for row in joined[:_MODULES]]


def _frontier_cards(found: Any) -> list[Card]:
    knee = found.knee
    return [_card("least, with recomputation", found.least_bytes, f"{_percent(found.plans[0].overhead)} more time"),
            _card("knee", knee.budget, f"{_percent(knee.overhead)} more time")]  # fmt: skip


def _of_chain(plan: Any, results: Results) -> list[Section]:
    runs, ids = plan.runs, plan.chain.ids
    words = (
        f"Memory alive during each run of a stage, at {_percent(plan.ratio)} more time; with everything kept the peak "
        f"is {_both(plan.keep_all_bytes)}."
    )
    return [
        _timeline("Chain", words, short="Chain", mode="training", kinds=["alive"], rows=plan.timeline[None],
                  op=[ids[r.stage] for r in runs], what=[r[0] for r in runs], scope=[""] * len(runs)),
        _table(plan, "runs", "Runs of stages", "Everything that is run, in order.", None),
    ]  # fmt: skip


def _chain_cards(plan: Any) -> list[Card]:
    return [_card("peak of the chain", plan.peak_bytes, f"{_percent(plan.ratio)} more time"),
            _card("everything kept", plan.keep_all_bytes)]  # fmt: skip


def _of_chain_frontier(found: Any, results: Results) -> list[Section]:
    cost = found.chain.step_cost
    shares = (found.overhead / cost if cost else np.zeros(len(found))).tolist()
    peaks = found.peak_bytes.tolist()
    words = (
        f"Memory against time: all {len(found):,} plans of the method {found.method} that none other is better than. "
        f"From {_both(found.keep_all_bytes)} on nothing runs again."
    )
    return [_section(
        "frontier", "Chain: memory against time", words, keep_bytes=found.keep_all_bytes, keep_cost=float(cost),
        least_bytes=found.minimum_bytes, least_bound=None, knee=found.knee,
        points={"budget": peaks, "peak": peaks, "overhead": shares, "bound": None, "status": None,
                "recomputed": None},
        modules=None,
    )]  # fmt: skip


def _chain_frontier_cards(found: Any) -> list[Card]:
    return [_card("least, with recomputation", found.minimum_bytes),
            _card("everything kept", found.keep_all_bytes)]  # fmt: skip


def _of_wrap_frontier(found: Any, results: Results) -> list[Section]:
    peaks = found.peaks.tolist()
    words = (
        f"Memory against time: choices of {found.kind} to wrap with torch.utils.checkpoint that none other is better "
        f"than. With nothing wrapped the peak is {_both(found.keep_bytes)}."
    )
    return [_section(
        "frontier", "Wrapped modules: memory against time", words, keep_bytes=found.keep_bytes,
        keep_cost=int(found.plain_cost), least_bytes=found.least_bytes, least_bound=None,
        knee=int(found.knee),
        points={"budget": peaks, "peak": peaks, "overhead": found.overhead.tolist(), "bound": None, "status": None,
                "recomputed": None},
        modules=None,
    )]  # fmt: skip


def _wrap_frontier_cards(found: Any) -> list[Card]:
    return [_card("least, with wrapped modules", found.least_bytes), _card("nothing wrapped", found.keep_bytes)]


def _problem_about(problem: Any) -> tuple[str, str]:
    return problem.name, f"recomputation, {problem.n:,} nodes"


def _chain_about(chain: Any) -> tuple[str, str]:
    return chain.name, f"chain of {chain.n:,} stages"


def _arena_about(plan: Any) -> tuple[str, str]:
    of = getattr(plan, "plan", None)
    return plan.name, f"{plan.buffers.n:,} buffers" if of is None else _inference_about(of)


# ---------------------------------------------------------------------------------- which sections


class _Kind(NamedTuple):
    """How a kind of result is reported.

    Attributes
    ----------
    about : callable
        The name of what a result is about, and what it is of, in words.
    cards : callable
        Its figures for the top of the page.
    sections : callable
        Its sections; given the result and the others of the report, the nearest first.
    """

    about: Callable[[Any], tuple[str, str]]
    cards: Callable[[Any], list[Card]]
    sections: Callable[..., list[Section]]


def _no_cards(_: Any) -> list[Card]:
    return []


def _tables(*names: tuple[str, str, str]) -> Callable[..., list[Section]]:
    """Return what makes a section of each of a result's tables, given its name, title and words."""
    return lambda result, results: [_table(result, *name) for name in names]


_METRICS: Final = ("metrics", "Metrics", "What was counted, and the limit's budgets.")
_GENES: Final = ("genes", "Genes", "The values of the member that was found, of those that each gene may have.")
_KINDS: Final[Mapping[str, _Kind]] = {
    "TrainingPlan": _Kind(lambda p: (p.name, _training_about(p)), _training_cards, _of_training),
    "InferencePlan": _Kind(lambda p: (p.name, _inference_about(p)), _inference_cards, _of_inference),
    "Fit": _Kind(lambda fit: _about(fit.plan), _fit_cards, _of_fit),
    "CheckpointPlan": _Kind(lambda p: _about(p.training), _remat_cards, _of_checkpoints),
    "RematPlan": _Kind(lambda p: _problem_about(p.problem), _remat_cards, _of_remat),
    "WrapPlan": _Kind(lambda p: (p.name, f"{len(p.regions):,} modules wrapped"), _wraps_cards, _of_wraps),
    "ChainPlan": _Kind(lambda p: _chain_about(p.chain), _chain_cards, _of_chain),
    "OrderPlan": _Kind(lambda p: _about(p.program), _order_cards, _of_order),
    "CheckpointFrontier": _Kind(lambda f: _about(f.plans[0]), _frontier_cards, _of_frontier),
    "Frontier": _Kind(lambda f: _problem_about(f.problem), _frontier_cards, _of_frontier),
    "ChainFrontier": _Kind(lambda f: _chain_about(f.chain), _chain_frontier_cards, _of_chain_frontier),
    "WrapFrontier": _Kind(lambda f: (f.name, f"{f.kind} to wrap"), _wrap_frontier_cards, _of_wrap_frontier),
    "ArenaPlan": _Kind(_arena_about, _arena_cards, _of_arena),
    "SharedObjectsPlan": _Kind(_arena_about, _objects_cards, _of_objects),
    "Comparison": _Kind(lambda c: (c.name, ""), _no_cards, _of_comparison),
    "RuleOfThumb": _Kind(lambda rule: ("", ""), _no_cards, _of_rule),
    "Evaluation": _Kind(lambda e: ("", f"{e.n:,} candidates of a search space"), _no_cards,
                        _tables(("candidates", "Candidates", "A row per candidate."))),
    "Best": _Kind(lambda b: (b.name, f"member of a search space, {b.status}"), _no_cards, _tables(_METRICS, _GENES)),
    "Walk": _Kind(lambda w: (w.space.name, "member of a search space"), _no_cards, _tables(_METRICS, _GENES)),
    "Front": _Kind(lambda f: (f.name, f"score against {f.metric}, {len(f):,} members"), _no_cards,
                   _tables(("members", "Members", "None has another with a better score and no more of the metric."))),
}  # fmt: skip


def _about(result: Any) -> tuple[str, str]:
    return _KINDS[type(result).__name__].about(result)


def _as_results(results: object) -> list[Any]:
    """Return the results as a list; one alone is a list too."""
    found = [results] if type(results).__name__ in _KINDS else results
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        raise ReportError(f"{type(results).__name__} has no report; allowed: {', '.join(_KINDS)}, or several of them")
    found = list(found)
    if not found:
        raise ReportError(f"a report of nothing; allowed: one or more of {', '.join(_KINDS)}")
    for result in found:
        if type(result).__name__ not in _KINDS:
            raise ReportError(f"{type(result).__name__} has no report; allowed: {', '.join(_KINDS)}")
    return found


def payload(
    results: object, *, title: str | None = None, command: str | None = None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the data of a report: what its drawings and tables show.

    Parameters
    ----------
    results : result of a planner, or a sequence of them
        A plan, a frontier, a comparison, a fit, a rule of thumb, ... A rule of thumb is held against the plan of an
        inference or of a training step that stands last before it, or else first behind it; it has to be of the same
        network, batch and types. Several networks may be reported together.
    title : str, optional
        Default: the names of the networks.
    command : str, optional
        A command line that makes the same report, to be shown in it.
    notes : sequence of str, optional
        Further paragraphs, to be shown at the end.

    Returns
    -------
    dict
        Strict JSON once it is written: texts, integers, finite floats, lists. Its keys are in ``docs/report.md``.

    Raises
    ------
    ReportError
        If there is nothing to report, or something that has no report; lists what has one.

    Examples
    --------
    >>> import cnnlive
    >>> data = payload(cnnlive.plan_inference(cnnlive.zoo.load("vgg16")))
    >>> data["title"], [section["kind"] for section in data["sections"]]
    ('vgg16', ['timeline', 'table'])
    """
    found = _as_results(results)
    abouts = [_about(result) for result in found]
    names = list(dict.fromkeys(name for name, _ in abouts if name))
    words = next((words for _, words in abouts if words), "") if len(names) < 2 else f"{len(names)} networks"
    sections: list[Section] = []
    cards: list[Card] = []
    for k, (result, (name, _)) in enumerate(zip(found, abouts, strict=True)):
        kind = _KINDS[type(result).__name__]
        of = f" · {name}" if name and len(names) > 1 else ""
        made = kind.cards(result)[: 1 if cards else None]  # those of the first, and one of each other
        cards += [{**card, "label": card["label"] + of} for card in made]
        for section in kind.sections(result, [*found[:k][::-1], *found[k + 1 :]]):
            rules = next((s for s in sections if s["kind"] == section["kind"] == "rules"), None)
            if rules is None:
                sections.append({**section, **{key: section[key] + of for key in ("title", "short")}})
            else:
                rules["rules"] += section["rules"]
    if notes:
        sections.append(_section("text", "Notes", "", paragraphs=list(notes)))
    sections.sort(key=lambda section: _ORDER.index(section["kind"]))
    for key, of_key, numbered in (("id", "kind", "{}-{}"), ("title", "title", "{}, {}"), ("short", "short", "{} {}")):
        count = dict[str, int]()
        for section in sections:
            text = section[of_key]
            count[text] = count.get(text, 0) + 1
            section[key] = text if count[text] == 1 else numbered.format(text, count[text])
    return {
        "format": FORMAT, "version": __version__, "title": _text(title or ", ".join(names) or "cnnlive report"),
        "subtitle": words, "command": None if command is None else _text(command), "cards": cards, "sections": sections,
    }  # fmt: skip


def _text(text: str) -> str:
    """Return a text that can be written: a file's name may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode("utf-8")


# ---------------------------------------------------------------------------------- the file


def json_for_script(data: Mapping[str, Any]) -> str:
    r"""Write data as JSON that can stand inside a ``script`` element.

    Examples
    --------
    >>> json_for_script({"name": "</script>"})
    '{"name":"\\u003c/script>"}'
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (resources.files("cnnlive.report") / "assets" / name).read_text(encoding="utf-8")


def html_report(
    results: object, *, title: str | None = None, command: str | None = None, notes: Sequence[str] = ()
) -> str:
    """Return a report of results as one HTML file that needs nothing else.

    Style, script, data and Plotly's whole library are inside; nothing is fetched when it is opened. The same results
    give the same text.

    Parameters
    ----------
    results : result of a planner, or a sequence of them
    title, command, notes
        As for :func:`payload`.

    Returns
    -------
    str
        Some megabytes, of which Plotly takes almost five.

    Raises
    ------
    ReportError
        As :func:`payload`.
    MissingExtraError
        Without Plotly; names the extra.

    Examples
    --------
    >>> import cnnlive
    >>> text = html_report(cnnlive.plan_inference(cnnlive.zoo.load("vgg16")))  # doctest: +SKIP
    """
    return fill(payload(results, title=title, command=command, notes=notes))


def fill(data: Mapping[str, Any]) -> str:
    """Put the data of :func:`payload` into the page.

    Parameters
    ----------
    data : mapping

    Returns
    -------
    str

    Raises
    ------
    MissingExtraError
        Without Plotly; names the extra.
    """
    plotly = import_extra("plotly.offline", "report", "a report")
    parts = {
        "title": escape(data["title"]), "style": _asset("report.css"), "plotly": plotly.get_plotlyjs(),
        "script": _asset("report.js"), "data": json_for_script(data),
    }  # fmt: skip
    # One pass: what is filled in may hold such marks itself.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("report.html"))


def write_report(
    path: str | os.PathLike[str], results: object, *, title: str | None = None, command: str | None = None,
    notes: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write a report of results to a file; see :func:`html_report`.

    Parameters
    ----------
    path : path
    results : result of a planner, or a sequence of them
    title, command, notes
        As for :func:`payload`.

    Raises
    ------
    ReportError, MissingExtraError
        As :func:`html_report`.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import cnnlive
    >>> write_report("vgg16.html", cnnlive.plan_inference(cnnlive.zoo.load("vgg16")))  # doctest: +SKIP
    """
    text = html_report(results, title=title, command=command, notes=notes)
    Path(path).write_text(text, encoding="utf-8", newline="\n")
