"""HTML fragments of results for notebooks: a table of figures and a small drawing.

Self-contained: no scripts, no styles that reach beyond the fragment, nothing from the network. Text takes the page's
colour and the background is the page's, so that light and dark themes are both readable. What is written comes from
names that users choose, and is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cnnlive.report.frame import ReportError, genes_of, is_bytes, parts_of, phase_ends
from cnnlive.report.plot import COLOURS, maxima
from cnnlive.units import format_bytes

__all__ = ["html"]

_WIDE: Final = 480
_HIGH: Final = 72
_COLUMNS: Final = 160
_MOST_RECTANGLES: Final = 160
_LINES: Final = 8
_GUTTER: Final = 110  # where the names of bars stand
_CELL: Final = "padding:1px 10px 1px 0;text-align:{};border:none;background:transparent"
_CYCLE: Final = ("blue", "orange", "green", "pink", "sky", "red", "yellow", "grey")

Row = tuple[str, int | None, str]


# ---------------------------------------------------------------------------------- pieces


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def _amounts(rows: Iterable[Row]) -> str:
    """Return a table of names, bytes for people, exact bytes, and words."""
    found = []
    for name, nbytes, words in rows:
        cells = ("", "") if nbytes is None else (format_bytes(abs(nbytes)), f"{nbytes:,} B")
        if nbytes is not None and nbytes < 0:
            cells = (f"-{cells[0]}", cells[1])
        found.append([(name, "left"), (cells[0], "right"), (cells[1], "right"), (words, "left")])
    return _table((), found)


def _table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Return a table; texts are escaped here and nowhere else."""

    def line(cells: Sequence[tuple[str, str]], tag: str) -> str:
        inner = "".join(f'<{tag} style="{_CELL.format(side)}">{escape(text)}</{tag}>' for text, side in cells)
        return f'<tr style="background:transparent">{inner}</tr>'

    head = f"<thead>{line(heads, 'th')}</thead>" if heads else ""
    body = "".join(line(row, "td") for row in rows)
    return (
        f'<table style="border-collapse:collapse;border:none;margin:4px 0;font-variant-numeric:tabular-nums">{head}'
        f"<tbody>{body}</tbody></table>"
    )


def _card(title: str, words: str, *parts: str) -> str:
    head = f"<div><strong>{escape(title)}</strong> <span>{escape(words)}</span></div>"
    return f'<div style="font-size:13px;line-height:1.4;max-width:100%;overflow-x:auto">{head}{"".join(parts)}</div>'


def _svg(words: str, inner: str, high: int = _HIGH) -> str:
    """Return a drawing, and in words what it shows."""
    words = escape(words)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{_WIDE}" height="{high}" '
        f'viewBox="0 0 {_WIDE} {high}" style="display:block;max-width:100%;margin:4px 0 0" fill="none" '
        f'stroke="none"><title>{words}</title>{inner}</svg>'
        f'<div style="font-size:11px;opacity:0.8;margin:0 0 4px">{words}</div>'
    )


def _steps(edges: NDArray[Any], values: NDArray[Any], n: int, top: float, high: int) -> str:
    """Return the path of a line of steps from the left edge to the right one."""
    x = [_number(v) for v in (edges * (_WIDE / max(n, 1))).tolist()]
    y = [_number(v) for v in (high - 2 - (high - 12) * values / top).tolist()]
    return f"M{x[0]} {y[0]}H{x[1]}" + "".join(f"V{b}H{a}" for a, b in zip(x[2:], y[1:], strict=True))


def _sparkline(
    values: NDArray[Any], words: str, *, before: NDArray[Any] | None = None, levels: Mapping[str, int] | None = None,
    ends: Sequence[tuple[str, int]] = (), peak: str = "",
) -> str:  # fmt: skip
    """Return a timeline as steps, each column the largest of its share, the peak marked.

    `before` is another timeline behind it; `levels` are horizontal lines, `ends` the phases.
    """
    n = len(values)
    if not n:
        return ""
    levels = levels or {}
    top = float(max(int(values.max()), 0 if before is None else int(before.max()), *levels.values(), 1))
    parts = []
    if before is not None:
        edges, steps = maxima(before, _COLUMNS)
        path = _steps(edges, before[steps].astype(float), n, top, _HIGH)
        parts.append(f'<path d="{path}" stroke="{COLOURS["grey"]}" stroke-width="1"><title>before</title></path>')
    edges, steps = maxima(values, _COLUMNS)
    path = _steps(edges, values[steps].astype(float), n, top, _HIGH)
    parts.append(f'<path d="{path}V{_HIGH - 2}H0Z" fill="{COLOURS["sky"]}" fill-opacity="0.35"/>')
    parts.append(f'<path d="{path}" stroke="{COLOURS["sky"]}" stroke-width="1.4"/>')
    for _, end in list(ends)[:-1]:
        x = _number(end * _WIDE / n)
        parts.append(f'<path d="M{x} 0V{_HIGH - 2}" stroke="currentColor" stroke-opacity="0.35"/>')
    for name, level in levels.items():
        y = _number(_HIGH - 2 - (_HIGH - 12) * level / top)
        parts.append(f'<path d="M0 {y}H{_WIDE}" stroke="{COLOURS["red" if name == "budget" else "grey"]}" '
                     'stroke-dasharray="5 3">'
                     f"<title>{escape(name)}</title></path>")  # fmt: skip
    parts.append(f'<path d="M0 {_HIGH - 1.5}H{_WIDE}" stroke="currentColor" stroke-opacity="0.5"/>')
    at = int(np.argmax(values))
    x, y = _number((at + 0.5) * _WIDE / n), _number(_HIGH - 2 - (_HIGH - 12) * int(values[at]) / top)
    parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{COLOURS["red"]}"><title>{escape(peak)}</title></circle>')
    return _svg(words, "".join(parts))


def _rectangles(begin: Any, end: Any, bottom: Any, nbytes: Any, names: Sequence[str], words: str) -> str:
    """Return buffers as rectangles, time by address; of very many the largest."""
    rows = [np.asarray(a, float) for a in (begin, end, bottom, nbytes)]
    if not len(rows[0]):
        return ""
    high = 120
    left, right = float(rows[0].min()), float(rows[1].max())
    top = max(float((rows[2] + rows[3]).max()), 1.0)
    area = (rows[1] - rows[0]) * rows[3]
    shown = np.sort(np.argsort(-area, kind="stable")[:_MOST_RECTANGLES]).tolist()
    wide, tall = _WIDE / max(right - left, 1.0), (high - 2) / top
    parts = []
    for k, i in enumerate(shown):
        x, w = (rows[0][i] - left) * wide, (rows[1][i] - rows[0][i]) * wide
        y, h = high - 1 - (rows[2][i] + rows[3][i]) * tall, rows[3][i] * tall
        label = f"{names[i]}, {format_bytes(int(rows[3][i]))}"
        parts.append(f'<rect x="{_number(x)}" y="{_number(y)}" width="{_number(max(w - 0.6, 0.4))}" '
                     f'height="{_number(max(h - 0.6, 0.4))}" fill="{COLOURS[_CYCLE[k % len(_CYCLE)]]}">'
                     f"<title>{escape(label)}</title></rect>")  # fmt: skip
    return _svg(words, "".join(parts), high)


def _bars(rows: Sequence[tuple[str, int, str]], words: str, limit: int | None = None) -> str:
    """Return one named bar each of bytes, with a limit as a line."""
    most = max([nbytes for _, nbytes, _ in rows] + [limit or 0, 1])
    high, room = 13 * len(rows) + 2, _WIDE - _GUTTER
    parts = []
    for k, (name, nbytes, colour) in enumerate(rows):
        label, wide = name if len(name) <= 18 else name[:17] + "…", _number(room * max(nbytes, 0) / most)
        parts.append(f'<text x="{_GUTTER - 6}" y="{13 * k + 11}" text-anchor="end" font-size="10" '
                     f'fill="currentColor">{escape(label)}</text>'
                     f'<rect x="{_GUTTER}" y="{13 * k + 2}" width="{wide}" height="10" '
                     f'fill="{COLOURS[colour]}"><title>{escape(name)}, {format_bytes(max(nbytes, 0))}</title>'
                     "</rect>")  # fmt: skip
    if limit is not None:
        x = _number(_GUTTER + min(room * limit / most, room - 1))
        parts.append(f'<path d="M{x} 0V{high}" stroke="{COLOURS["red"]}" stroke-width="2" stroke-dasharray="4 2"/>')
    return _svg(words, "".join(parts), high)


def _curve(budgets: Sequence[int], shares: Sequence[float], bounds: Sequence[float], knee: int, words: str) -> str:
    """Return overhead by budget as steps, the bound beneath it, the knee marked."""
    x = np.asarray(budgets, float)
    y = np.asarray(shares, float)
    if len(x) > 2 * _COLUMNS:  # those that lie on one pixel are one
        kept = np.unique(np.r_[0, np.linspace(0, len(x) - 1, 2 * _COLUMNS).astype(int), knee, len(x) - 1])
        knee = int(np.searchsorted(kept, knee))
        x, y, bounds = x[kept], y[kept], [bounds[i] for i in kept.tolist()] if bounds else []
    span, top = max(float(x[-1] - x[0]), 1.0), max(float(y.max()), 1e-12)
    px = [_number(8 + (_WIDE - 16) * (v - x[0]) / span) for v in x.tolist()]
    py = [_number(_HIGH - 6 - (_HIGH - 16) * v / top) for v in y.tolist()]
    path = f"M{px[0]} {py[0]}" + "".join(f"H{a}V{b}" for a, b in zip(px[1:], py[1:], strict=True))
    parts = [f'<path d="{path}" stroke="{COLOURS["sky"]}" stroke-width="1.6"/>']
    if bounds:
        pb = [_number(_HIGH - 6 - (_HIGH - 16) * max(v, 0.0) / top) for v in bounds]
        low = f"M{px[0]} {pb[0]}" + "".join(f"V{b}H{a}" for a, b in zip(px[1:], pb[1:], strict=True))
        parts.append(f'<path d="{low}" stroke="{COLOURS["red"]}" stroke-dasharray="4 3">'
                     "<title>lower bound</title></path>")  # fmt: skip
    parts.append(f'<path d="M0 {_HIGH - 4}H{_WIDE}" stroke="currentColor" stroke-opacity="0.5"/>')
    parts.append(
        f'<circle cx="{px[knee]}" cy="{py[knee]}" r="4" fill="{COLOURS["orange"]}"><title>knee</title></circle>'
    )
    return _svg(words, "".join(parts))


def _more(share: float) -> str:
    return f"{100 * share:.3g} % more time"


# ---------------------------------------------------------------------------------- results


def _inference(plan: Any) -> str:
    live = [(b.name, b.nbytes, "x".join(map(str, b.shape)) + f" {b.dtype}") for b in plan.live_at_peak[:_LINES]]
    rows: list[Row] = [
        ("peak", plan.peak_bytes, "weights and activations"),
        ("weights", plan.weight_bytes, ""),
        ("activations", plan.activation_peak_bytes, f"at {plan.peak_op}, step {plan.peak_step:,}"),
        ("lower bound", plan.lower_bound, "no order takes less" if plan.optimal else "of every order"),
    ]
    scratch: list[Row] = [("(scratch)", plan.scratch_at_peak, "")] if plan.scratch_at_peak else []
    where = f"peak {format_bytes(plan.activation_peak_bytes)} at {plan.peak_op}, step {plan.peak_step:,}"
    over = f"activations over the {len(plan.order):,} steps, 0 to {format_bytes(plan.activation_peak_bytes)}"
    return _card(
        plan.name or "network", f"inference, batch {plan.batch}, profile {plan.profile.name}", _amounts(rows),
        _sparkline(plan.timeline, over, peak=where), _amounts([("alive at the peak:", None, ""), *live, *scratch]),
    )  # fmt: skip


def _training(plan: Any) -> str:
    where = f"in {plan.peak_phase} at {plan.peak_op}"
    rows: list[Row] = [("peak", plan.peak_bytes, where)]
    rows += [(f"  {name.replace('_', ' ')}", nbytes, "") for name, nbytes in plan.composition.items() if nbytes]
    if plan.reserved_bytes is not None:
        rows += [("allocated", plan.allocated_bytes, "CUDA caching allocator"), ("reserved", plan.reserved_bytes, "")]
    words = f"training, batch {plan.batch}, {plan.optimizer.name}, {plan.precision}"
    peak = f"peak {format_bytes(plan.peak_bytes)} {where}"
    return _card(plan.name or "network", words, _amounts(rows),
                 _sparkline(plan.timeline, _over(plan, plan.peak_bytes), ends=phase_ends(plan), peak=peak))  # fmt: skip


def _over(plan: Any, top: int) -> str:
    """Return what a timeline in phases shows."""
    return f"alive over {', '.join(name for name, _ in phase_ends(plan))}, 0 to {format_bytes(top)}"


def _order(plan: Any) -> str:
    proof = "proven least" if plan.optimal else f"at most {100 * plan.gap:.2g} % above the least"
    rows: list[Row] = [
        ("peak", plan.peak_bytes, proof),
        ("program's order", plan.program_peak_bytes, ""),
        ("lower bound", plan.lower_bound, "no order takes less"),
    ]
    words = f"activations over the {len(plan.order):,} steps: this order in blue, the program's in grey"
    drawn = _sparkline(plan.best.timeline, words, before=plan.program.timeline,
                       peak=f"peak {format_bytes(plan.peak_bytes)}")  # fmt: skip
    return _card(plan.name or "network", f"execution order, profile {plan.profile.name}", _amounts(rows), drawn)


def _arena(plan: Any) -> str:
    b = plan.buffers
    rows: list[Row] = [("arena", plan.arena_bytes, plan.status if plan.arena_bytes is not None else plan.reason)]
    rows += [("lower bound", plan.lower_bound, ""), ("alive at once", plan.peak_load, "")]
    if plan.capacity is not None:
        rows.append(("capacity", plan.capacity, ""))
    drawn = ""
    if plan.offsets is not None:
        on = np.flatnonzero((b.lower < b.upper) & (b.nbytes > 0))
        drawn = _rectangles(b.lower[on], b.upper[on], plan.offsets[on], b.nbytes[on], [b.ids[i] for i in on.tolist()],
                            f"{len(on):,} buffers: time to the right, addresses upwards")  # fmt: skip
    return _card(plan.name or "buffers", f"arena of {b.n:,} buffers, {plan.method}", _amounts(rows), drawn)


def _objects(plan: Any) -> str:
    b = plan.buffers
    rows: list[Row] = [("total", plan.total_bytes, plan.status), ("lower bound", plan.lower_bound, "")]
    on = np.flatnonzero((plan.object_of >= 0) & (b.lower < b.upper))
    floor = np.concatenate([[0], np.cumsum(plan.object_bytes)])
    drawn = _rectangles(b.lower[on], b.upper[on], floor[plan.object_of[on]], b.nbytes[on],
                        [b.ids[i] for i in on.tolist()], "time to the right, objects one above the other")  # fmt: skip
    words = f"{len(on):,} buffers in {plan.n_objects:,} shared objects, {plan.method}"
    return _card(plan.name or "buffers", words, _amounts(rows), drawn)


def _comparison(found: Any) -> str:
    heads = [("profile", "left"), ("activations", "right"), ("arena", "right"), ("why not as ideal", "left")]
    rows, bars = [], []
    for row in found.rows:
        steps = ", ".join(f"{s.name} {s.nbytes:+,} B" for s in row.steps)
        amounts = ["" if n is None else f"{n:,} B" for n in (row.activation_peak_bytes, row.arena_bytes)]
        rows.append([(row.profile.name, "left"), *((a, "right") for a in amounts), (row.reason or steps, "left")])
        if row.activation_peak_bytes is not None:
            bars.append((row.profile.name, row.activation_peak_bytes, "sky"))
    drawn = _bars(bars, "activation peaks; dashed: ideal", found.ideal_bytes) if bars else ""
    return _card(found.name or "network", f"profiles side by side, batch {found.batch}", _table(heads, rows), drawn)


def _parts(parts: Mapping[str, int]) -> str:
    rows = [(name.replace("_", " "), nbytes, _CYCLE[k % len(_CYCLE)]) for k, (name, nbytes) in enumerate(parts.items())]
    return _amounts([(name, nbytes, "") for name, nbytes, _ in rows]) + _bars(rows, "what the sum consists of")


def _fit(found: Any) -> str:
    plan = found.plan
    word = "fits" if found.fits else "does not fit"
    rows: list[Row] = [("needed", found.needed_bytes, ""), ("device", found.budget_bytes, ""),
                       ("left", found.free_bytes, "")]  # fmt: skip
    return _card(plan.name or "network", f"batch {plan.batch}, {word}", _amounts(rows), _parts(parts_of(found)))


def _rule(rule: Any) -> str:
    return _card(f"rule of thumb: {rule.name}", rule.formula, _amounts([("gives", rule.nbytes, rule.words)]),
                 _parts(rule.terms), f"<div>goes wrong: {escape(rule.goes_wrong)}</div>")  # fmt: skip


def _recomputed(again: Mapping[str, int]) -> str:
    names = [f"{name} ({times} times)" if times > 1 else name for name, times in list(again.items())[:_LINES]]
    more = f" and {len(again) - _LINES:,} more" if len(again) > _LINES else ""
    return f"<div>runs again: {escape(', '.join(names) + more)}</div>" if again else "<div>nothing runs again</div>"


def _checkpoints(plan: Any) -> str:
    whole = hasattr(plan, "step")
    problem = (plan.remat if whole else plan).problem
    kept = problem.peak_bytes
    rows: list[Row] = [
        ("budget", plan.budget, ""),
        ("peak", plan.peak_bytes, ""),
        ("everything kept", kept, ""),
        ("overhead", None, f"{_more(plan.overhead)}; {plan.status}, at most {100 * plan.gap:.2g} % above the cheapest"),
    ]
    words = f"training with checkpoints, batch {plan.batch}" if whole else "recomputation"
    peak = f"peak {format_bytes(plan.peak_bytes)}"
    over = f"{_over(plan, max(plan.peak_bytes, plan.budget, kept))}; dashed: budget in red, everything kept in grey"
    drawn = _sparkline(plan.timeline, over, levels={"budget": plan.budget, "everything kept": kept},
                       ends=phase_ends(plan), peak=peak)  # fmt: skip
    return _card((plan.name if whole else problem.name) or "network", words, _amounts(rows), drawn,
                 _recomputed(plan.recomputed))  # fmt: skip


def _wraps(plan: Any) -> str:
    rows: list[Row] = [("peak", plan.peak_bytes, "fits" if plan.fits else "does not fit")]
    levels = {"nothing wrapped": plan.keep_bytes}
    if plan.budget is not None:
        rows.append(("budget", plan.budget, ""))
        levels["budget"] = plan.budget
    rows += [("nothing wrapped", plan.keep_bytes, ""), ("overhead", None, _more(plan.overhead))]
    rows += [(r.module, None, f"saves {', '.join(r.saved)}" if r.saved else "") for r in plan.regions[: 2 * _LINES]]
    if len(plan.regions) > 2 * _LINES:
        rows.append((f"and {len(plan.regions) - 2 * _LINES:,} more modules", None, ""))
    warnings = "".join(f"<div>! {escape(w)}</div>" for w in plan.warnings)
    over = f"{_over(plan, max(plan.peak_bytes, *levels.values()))}; dashed: {', '.join(levels)}"
    drawn = _sparkline(plan.timeline, over, levels=levels, ends=phase_ends(plan),
                       peak=f"peak {format_bytes(plan.peak_bytes)}")  # fmt: skip
    return _card(plan.name or "network", f"{len(plan.regions):,} modules wrapped", _amounts(rows), drawn, warnings)


def _by(what: str, first: int, last: int) -> str:
    return f"more time by {what}, {format_bytes(first)} to {format_bytes(last)}; dot: knee"


def _frontier(found: Any) -> str:
    plans, knee = found.plans, found.knee
    first = plans[0]
    whole = hasattr(first, "step")
    rows: list[Row] = [
        ("least budget", found.least_bytes, _more(first.overhead) if first.budget <= found.least_bytes else ""),
        ("proven floor", found.least_bound, "below it there is no plan"),
        ("knee", knee.budget, _more(knee.overhead)),
        ("everything kept", found.keep_bytes, "nothing runs again"),
    ]
    at = [p is knee for p in plans].index(True)
    drawn = _curve([p.budget for p in plans], [p.overhead for p in plans], [p.overhead - p.gap for p in plans], at,
                   _by("budget", plans[0].budget, plans[-1].budget) + "; dashed: proven lower bound")  # fmt: skip
    name = first.name if whole else first.problem.name
    words = f"memory against time, {len(plans)} plans" + (f", batch {first.batch}" if whole else "")
    return _card(name or "network", words, _amounts(rows), drawn)


def _chain(plan: Any) -> str:
    names = plan.chain.ids
    rows: list[Row] = [("peak", plan.peak_bytes, ""), ("everything kept", plan.keep_all_bytes, ""),
                       ("least", plan.minimum_bytes, ""), ("overhead", None, _more(plan.ratio))]  # fmt: skip
    rows += [("runs again", None, f"{names[a]} to {names[b - 1]}") for a, b in plan.segments[:_LINES]]
    over = f"alive over {len(plan.timeline):,} runs of stages; dashed: everything kept"
    drawn = _sparkline(plan.timeline, over, levels={"everything kept": plan.keep_all_bytes},
                       peak=f"peak {format_bytes(plan.peak_bytes)}")  # fmt: skip
    return _card(plan.chain.name or "chain", f"{plan.chain.n:,} stages", _amounts(rows), drawn)


def _chain_frontier(found: Any) -> str:
    cost = found.chain.step_cost or 1.0
    shares = (found.overhead / cost).tolist()
    rows: list[Row] = [("least peak", found.minimum_bytes, _more(shares[0])),
                       ("knee", int(found.peak_bytes[found.knee]), _more(shares[found.knee])),
                       ("everything kept", found.keep_all_bytes, "nothing runs again")]  # fmt: skip
    drawn = _curve(
        found.peak_bytes.tolist(), shares, [], found.knee, _by("peak", found.minimum_bytes, int(found.peak_bytes[-1]))
    )
    words = f"{found.chain.n:,} stages, {found.method}, {len(found):,} plans"
    return _card(found.chain.name or "chain", words, _amounts(rows), drawn)


def _wrap_frontier(found: Any) -> str:
    shares = found.overhead.tolist()
    at, n = found.knee, len(found)
    rows: list[Row] = [
        ("least peak", found.least_bytes, f"{_more(shares[0])}, modules wrapped: {found.modules[0]:,}"),
        ("knee", int(found.peaks[at]), f"{_more(shares[at])}, modules wrapped: {found.modules[at]:,}"),
        ("nothing wrapped", found.keep_bytes, "nothing runs again"),
    ]
    drawn = _curve(found.peaks.tolist(), shares, [], at, _by("peak", found.least_bytes, int(found.peaks[-1])))
    return _card(found.name or "network", f"{found.kind} to wrap, {n:,} choices", _amounts(rows), drawn)


def _metric(name: str, value: float) -> tuple[str, str]:
    """Return an amount of a metric for people, and exactly."""
    if is_bytes(name):
        return format_bytes(int(value)), f"{int(value):,} B"
    return (f"{value:,}" if isinstance(value, int) else f"{value:.6g}"), ""


def _evaluation(found: Any) -> str:
    heads = [("metric", "left"), ("least", "right"), ("median", "right"), ("most", "right")]
    rows, n = [], found.n
    for name, column in found.items():
        ranked = np.sort(column)
        three = [ranked[k].item() for k in (0, (n - 1) // 2, n - 1)] if n else []
        rows.append([(name, "left"), *((_metric(name, v)[0], "right") for v in three)])
    drawn = ""
    name = next(filter(is_bytes, found), next(iter(found), None))
    if name is not None and n:
        ranked = np.sort(np.asarray(found[name]))
        least, most = (_metric(name, v)[0] for v in (ranked[0].item(), ranked[-1].item()))
        drawn = _sparkline(ranked, f"{name} of {n:,} candidates, ascending, {least} to {most}", peak=f"most: {most}")
    return _card(f"{n:,} candidates", f"{len(found)} metrics", _table(heads, rows), drawn)


def _member(found: Any) -> str:
    name, genes, x = genes_of(found)
    budgets = getattr(found, "budgets", {})
    heads = [("metric", "left"), ("", "right"), ("exactly", "right"), ("of its budget", "left")]
    rows = []
    if hasattr(found, "score"):
        words = {"optimal": "no member has more", "infeasible": "no member fits"}.get(found.status, "")
        if found.status == "feasible":
            words = f"no member has more than {found.bound:,.6g}"
        score = "" if found.score is None else _metric("score", found.score)[0]
        rows.append([("score", "left"), (score, "right"), ("", "right"), (words, "left")])
    for metric, value in found.metrics.items():
        top = budgets.get(metric)
        share = "" if top is None else f"{100 * value / top:.1f} % of {_metric(metric, top)[0]}"
        short, exact = _metric(metric, value)
        rows.append([(metric, "left"), (short, "right"), (exact, "right"), (share, "left")])
    chosen = [f"{g.name} {g.values[v]}" for g, v in zip(genes, x, strict=False)]
    more = f" and {len(chosen) - 5 * _LINES:,} more" if len(chosen) > 5 * _LINES else ""
    words = f"<div>genes: {escape(', '.join(chosen[: 5 * _LINES]) + more)}</div>" if chosen else ""
    what = getattr(found, "status", "one candidate")
    return _card(name, f"member of a search space, {what}", _table(heads, rows), _positions(genes, x), words)


def _positions(genes: Sequence[Any], x: Sequence[int]) -> str:
    """Return which of its values each gene has, as heights of bars."""
    n = len(genes)
    wide = min(_WIDE / max(n, 1), 24.0)
    parts = [f'<path d="M0 {_HIGH - 1.5}H{_WIDE}" stroke="currentColor" stroke-opacity="0.5"/>']
    for k, (gene, v) in enumerate(zip(genes, x, strict=False)):
        high = (_HIGH - 8) * (v + 1) / gene.cardinality
        label = f"{gene.name}: {gene.values[v]}, {v + 1} of {gene.cardinality}"
        parts.append(f'<rect x="{_number(k * wide)}" y="{_number(_HIGH - 2 - high)}" '
                     f'width="{_number(max(wide - 1, 0.4))}" height="{_number(high)}" fill="{COLOURS["sky"]}">'
                     f"<title>{escape(label)}</title></rect>")  # fmt: skip
    return _svg(f"{n:,} genes: which of its values each has, the first low, the last high", "".join(parts))


def _front(found: Any) -> str:
    n, metric = len(found), found.metric
    if not n:
        return _card(found.name, f"score against {metric}", "<div>no member fits</div>")
    at = found.knee
    heads = [("", "left"), (metric, "right"), ("exactly", "right"), ("score", "right")]
    rows = []
    for words, point in (("least", found[0]), ("knee", found[at]), ("best score", found[n - 1])):
        short, exact = _metric(metric, point.metrics[metric])
        rows.append([(words, "left"), (short, "right"), (exact, "right"), (_metric("score", point.score)[0], "right")])
    values, scores = found.values, found.scores.astype(float)
    least, most = (_metric(metric, v)[0] for v in (int(values[0]), int(values[-1])))
    drawn = _curve(values.tolist(), (scores - scores[0]).tolist(), [], at,
                   f"score by {metric}, {least} to {most}; dot: knee")  # fmt: skip
    return _card(found.name, f"score against {metric}, {n:,} members", _table(heads, rows), drawn)


_FRAGMENTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "InferencePlan": _inference,
    "TrainingPlan": _training,
    "OrderPlan": _order,
    "ArenaPlan": _arena,
    "SharedObjectsPlan": _objects,
    "Comparison": _comparison,
    "Fit": _fit,
    "RuleOfThumb": _rule,
    "RematPlan": _checkpoints,
    "CheckpointPlan": _checkpoints,
    "WrapPlan": _wraps,
    "Frontier": _frontier,
    "CheckpointFrontier": _frontier,
    "ChainPlan": _chain,
    "ChainFrontier": _chain_frontier,
    "WrapFrontier": _wrap_frontier,
    "Evaluation": _evaluation,
    "Best": _member,
    "Walk": _member,
    "Front": _front,
}


def html(result: object) -> str:
    """Return a result as an HTML fragment: what a notebook shows.

    Parameters
    ----------
    result : result of a planner

    Returns
    -------
    str
        One ``div``, well-formed as XML too, some kilobytes.

    Raises
    ------
    ReportError
        If there is no fragment for this kind of result.

    Examples
    --------
    >>> import cnnlive
    >>> html(cnnlive.plan_inference(zoo.load("vgg16")))[:4]
    '<div'
    """
    fragment = _FRAGMENTS.get(type(result).__name__)
    if fragment is None:
        raise ReportError(f"{type(result).__name__} has no HTML; allowed: {', '.join(_FRAGMENTS)}")
    return fragment(result)
