"""Drawings of results with matplotlib: timelines stacked by kind, arenas, frontiers, comparisons.

matplotlib is imported when something is drawn (extra ``viz``). Every drawing returns its Axes, takes ``ax=``, shows
nothing by itself and works on every backend.

Colours are those of Okabe and Ito (Color Universal Design, 2008), told apart with any colour vision; where colours
repeat, outlines and names tell more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnnlive._types import I64
from cnnlive.errors import close_names, import_extra
from cnnlive.report.frame import (
    INFERENCE_KINDS,
    TRAINING_KINDS,
    ReportError,
    genes_of,
    inference_kinds,
    is_bytes,
    keep_all_timeline,
    node_ops,
    parts_of,
    peak_node,
    phase_ends,
    training_kinds,
)
from cnnlive.units import format_bytes

__all__ = ["COLOURS", "drawings_of", "maxima", "plot", "scope_bands"]

Axes: TypeAlias = Any  # matplotlib.axes.Axes, of a package that need not be there

#: The palette by name.
COLOURS: Final[Mapping[str, str]] = {
    "blue": "#0072B2", "sky": "#56B4E9", "green": "#009E73", "orange": "#E69F00", "red": "#D55E00",
    "yellow": "#F0E442", "pink": "#CC79A7", "grey": "#8C8C8C",
}  # fmt: skip
_OF_KIND: Final[Mapping[str, str]] = {
    "weights": "blue", "parameters": "blue", "buffers": "sky", "optimizer_state": "green", "inputs": "grey",
    "gradients": "orange", "saved": "red", "activations": "yellow", "temporaries": "pink",
    "read": "sky", "written": "red", "held": "grey", "scratch": "yellow", "context": "grey", "workspace": "yellow",
    "allocator": "pink",
}  # fmt: skip
_WORDS: Final[Mapping[str, str]] = {
    "optimizer_state": "optimizer state", "inputs": "inputs and targets", "saved": "saved for backward",
    "activations": "other activations", "read": "read by the op", "written": "written by the op",
    "held": "held for later", "scratch": "scratch of the op"
}  # fmt: skip
_BAR_WORDS: Final[Mapping[str, str]] = {"inputs": "inputs and targets", "allocator": "allocator's rounding, gaps"}
_NOT_TENSORS: Final = ("context", "workspace", "allocator")
_CYCLE: Final = ("blue", "orange", "green", "pink", "sky", "red", "yellow", "grey")
_NAMED_STEPS: Final = 48  # so many steps have their names on the axis
_BANDS: Final = 14  # most groups of layers that are told apart above a timeline
_UNITS: Final = (("B", 1), ("KiB", 1024), ("MiB", 1024**2), ("GiB", 1024**3), ("TiB", 1024**4))
_SMALL: Final = 8.0
_STYLE: Final[Mapping[str, Any]] = {
    "font.size": 9.0, "axes.titlesize": 10.0, "axes.labelsize": 9.0, "xtick.labelsize": _SMALL,
    "ytick.labelsize": _SMALL, "legend.fontsize": _SMALL, "figure.dpi": 120.0, "axes.linewidth": 0.7,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7,
}  # fmt: skip


def _load(module: str) -> Any:
    return import_extra(f"matplotlib.{module}", "viz", "drawing")


# ---------------------------------------------------------------------------------- parts of drawings


def maxima(values: NDArray[Any], most: int) -> tuple[I64, I64]:
    """Join steps into at most `most` columns, each with the step of the largest value in it.

    Parameters
    ----------
    values : (n,) numbers
    most : int

    Returns
    -------
    edges : (k + 1,) int64
        Column ``j`` is of the steps ``edges[j] .. edges[j + 1] - 1``.
    steps : (k,) int64
        The first step in each column that has its largest value: so no peak is lost.

    Examples
    --------
    >>> maxima(np.array([1, 9, 2, 3, 8, 8]), 2)
    (array([0, 3, 6]), array([1, 4]))
    """
    n = len(values)
    columns = max(1, min(n, most))
    edges = np.arange(columns + 1, dtype=np.int64) * n // columns
    if n in (columns, 0):
        return edges, np.arange(n, dtype=np.int64)
    tops = np.maximum.reduceat(values, edges[:-1])
    where = np.flatnonzero(values == np.repeat(tops, np.diff(edges)))
    return edges, where[np.searchsorted(where, edges[:-1])]


def scope_bands(scopes: Sequence[str], most: int = _BANDS) -> list[tuple[str, int, int]]:
    """Group consecutive steps by the layers they belong to.

    Parameters
    ----------
    scopes : sequence of str
        The dotted path of each step's layer.
    most : int

    Returns
    -------
    list of (str, int, int)
        Name, first step and the step behind the last one, at the depth that gives the most groups up to `most`; empty
        where none gives two.

    Examples
    --------
    >>> scope_bands(["", "layer1.0", "layer1.1", "layer2.0"], most=3)
    [('', 0, 1), ('layer1', 1, 3), ('layer2', 3, 4)]
    """
    parts = [scope.split(".") if scope else [] for scope in scopes]
    best: list[tuple[str, int, int]] = []
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = [".".join(part[:depth]) for part in parts]
        cuts = [0, *(k for k in range(1, len(names)) if names[k] != names[k - 1]), len(names)]
        if len(cuts) - 1 > most:
            break
        best = [(names[a], a, b) for a, b in pairwise(cuts)]
    return best if len(best) > 1 else []


def _axes(ax: Axes | None, width: float = 7.2, height: float = 3.4) -> Axes:
    """Return the given axes or those of a new figure, without the lines that say nothing."""
    if ax is None:
        _, ax = _load("pyplot").subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    return ax


def _ink() -> str:
    return str(_load("pyplot").rcParams["text.color"])


def _box(ax: Axes) -> dict[str, Any]:
    """Return what keeps a text readable on top of lines."""
    return {"facecolor": ax.get_facecolor(), "edgecolor": "none", "alpha": 0.72, "pad": 0.8}


def _plain(text: str) -> str:
    """Keep a name from being read as a formula."""
    return text.replace("$", r"\$")


def _short(name: str, most: int = 30) -> str:
    return _plain(name if len(name) <= most else "…" + name[1 - most :])


def _title(ax: Axes, name: str, *parts: str, pad: float = 8.0) -> None:
    words = " · ".join(part for part in parts if part)
    ax.set_title(_plain(f"{name or 'network'} · {words}"), loc="left", pad=pad)


@functools.cache
def _locator() -> Any:
    ticker = _load("ticker")

    class Binary(ticker.MaxNLocator):  # type: ignore[misc, name-defined]
        """Ticks at round numbers of the binary unit that fits."""

        def tick_values(self, vmin: float, vmax: float) -> Any:
            _, factor = _unit(max(abs(vmin), abs(vmax)))
            ticks = np.asarray(super().tick_values(vmin / factor, vmax / factor))
            return (ticks if factor > 1 else ticks[ticks == np.round(ticks)]) * factor  # there is no half of a byte

    return Binary


def _unit(most: float) -> tuple[str, int]:
    """Return the largest unit that `most` has one of, with its bytes."""
    return next((u for u in reversed(_UNITS) if most >= u[1]), _UNITS[0])


def _tick(axis: Any) -> Callable[[float, int | None], str]:
    def label(value: float, _: int | None = None) -> str:
        unit, factor = _unit(max(map(abs, axis.get_view_interval())))
        return f"{value / factor:.6g} {unit}" if value else "0"

    return label


def _bytes(axis: Any, ticks: int = 6) -> None:
    """Write bytes on an axis in binary units."""
    axis.set_major_locator(_locator()(nbins=ticks, steps=[1, 2, 2.5, 5, 10], integer=False))
    axis.set_major_formatter(_load("ticker").FuncFormatter(_tick(axis)))


def _columns(ax: Axes) -> int:
    """Return the pixels that the axes are wide."""
    return max(100, int(ax.get_window_extent().width))


def _annotate(
    ax: Axes, x: float, y: float, text: str, *, marker: str = "o", above: bool = True, colour: str = ""
) -> None:
    """Mark a point and name it, on the side where there is room."""
    ink = colour or _ink()
    ax.plot([x], [y], marker=marker, markersize=5.5, color=ink, markeredgecolor=ax.get_facecolor(), linestyle="none",
            zorder=6, clip_on=False)  # fmt: skip
    left, right = ax.get_xlim()
    share = (x - left) / (right - left) if right > left else 0.5
    side = "left" if share < 0.3 else "right" if share > 0.7 else "center"
    shift = {"left": -4, "right": 4, "center": 0}[side]
    ax.annotate(text, (x, y), (shift, 7 if above else -7), textcoords="offset points", ha=side,
                va="bottom" if above else "top", fontsize=_SMALL, color=_ink(), zorder=7, linespacing=1.25,
                bbox=_box(ax))  # fmt: skip


def _level(
    ax: Axes, y: float, text: str, *, colour: str, style: str = "--", at: float = 0.0, above: bool = False
) -> None:
    """Draw a horizontal line and name it at its end."""
    ax.axhline(y, color=colour, linestyle=style, linewidth=1.1, zorder=4)
    ax.annotate(text, (at, y), (3 if at < 0.5 else -3, 2.5 if above else -3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="left" if at < 0.5 else "right", va="bottom" if above else "top",
                fontsize=_SMALL, color=_ink(), zorder=7, bbox=_box(ax))  # fmt: skip


def _legend(ax: Axes, own: bool, reverse: bool = False) -> None:
    """Name the colours: beside the axes of a figure of one's own, under given ones."""
    handles, labels = ax.get_legend_handles_labels()
    if reverse:
        handles, labels = handles[::-1], labels[::-1]
    if len(handles) < 2:
        return
    style: dict[str, Any] = {"fontsize": _SMALL, "borderaxespad": 0.2, "handlelength": 1.2, "handleheight": 1.0}
    if own:
        style |= {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
    else:
        under = 36 / 72 * ax.figure.dpi / ax.get_window_extent().height  # ticks and their label
        style |= {"loc": "upper left", "bbox_to_anchor": (0.0, -under), "frameon": False, "ncols": 3}
    ax.legend(handles, labels, **style)


class _Steps:
    """The horizontal axis of a timeline: steps, joined where there are more of them than pixels.

    A last step that stands for a whole phase (the optimizer) is drawn wide enough to be seen.
    """

    def __init__(self, ax: Axes, values: I64, ends: Sequence[tuple[str, int]] = ()) -> None:
        n = len(values)
        self.n, self.ends = n, list(ends)
        last_wide = bool(ends) and ends[-1][0] == "optimizer" and n > 1
        body = n - 1 if last_wide else n
        edges, self.steps = maxima(np.asarray(values)[:body], _columns(ax))
        self.edges: NDArray[Any] = edges - 0.5
        self.wide = max(1.0, 0.045 * body) if last_wide else 1.0
        if last_wide:
            self.edges = np.append(self.edges, n - 1.5 + self.wide)
            self.steps = np.append(self.steps, n - 1)
        ax.set_xlim(self.edges[0], self.edges[-1])

    def at(self, step: int) -> float:
        """Return the middle of a step."""
        return step if step < self.n - 1 else step - 0.5 + self.wide / 2

    def phases(self, ax: Axes) -> None:
        """Name the phases above the axes, with a line between them."""
        begin = self.edges[0]
        for k, (name, end) in enumerate(self.ends):
            until = self.edges[-1] if k == len(self.ends) - 1 else end - 0.5
            if k:
                ax.axvline(begin, color=_ink(), linewidth=0.7, alpha=0.45, zorder=5)
            narrow = name == "optimizer"
            ax.annotate(name, (1.0 if narrow else (begin + until) / 2, 1.0), (0, 2), textcoords="offset points",
                        xycoords="axes fraction" if narrow else ("data", "axes fraction"),
                        ha="right" if narrow else "center", va="bottom", fontsize=_SMALL, alpha=0.8)  # fmt: skip
            begin = until


def _named(ax: Axes, names: Sequence[str]) -> bool:
    """Write the names of few steps on the axis; return whether they are."""
    if len(names) > _NAMED_STEPS:
        ax.set_xlabel("step")
        ticker = _load("ticker")
        ax.xaxis.set_major_locator(ticker.MaxNLocator(nbins=9, integer=True, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        return False
    ax.set_xticks(range(len(names)), [_short(name, 24) for name in names], rotation=90, fontsize=6.5)
    ax.tick_params(axis="x", length=0)
    return True


def _mark_bands(ax: Axes, scopes: Sequence[str]) -> bool:
    """Part a timeline by layers, with their names above where they fit; not at all where fewer than two do."""
    width = ax.get_window_extent().width / max(len(scopes), 1)
    pixels = ax.figure.dpi / 72 * (_SMALL - 1) * 0.62  # of a letter
    named = []
    bands = scope_bands(scopes)
    for name, begin, end in bands:
        parts = name.split(".")
        label = ".".join(parts[-2:]) if parts[-1].isdecimal() else parts[-1]
        if label and (end - begin) * width > len(label) * pixels:
            named.append((label, (begin + end - 1) / 2))
    if len(named) < 2:
        return False
    for _, begin, _ in bands[1:]:
        ax.axvline(begin - 0.5, color=_ink(), linewidth=0.6, alpha=0.25, zorder=5)
    for label, middle in named:
        ax.annotate(_plain(label), (middle, 1.0), (0, 2), xycoords=("data", "axes fraction"),
                    textcoords="offset points", ha="center", va="bottom", fontsize=_SMALL - 1, alpha=0.8)  # fmt: skip
    return True


def _stack(ax: Axes, steps: _Steps, rows: I64, kinds: Sequence[str], words: Mapping[str, str] = _WORDS) -> None:
    """Draw rows on top of one another; kinds without bytes are left out."""
    base = np.zeros(len(steps.steps))
    for kind, row in zip(kinds, rows, strict=True):
        if not row.any():
            continue
        top = base + row[steps.steps]
        ax.stairs(top, steps.edges, baseline=base, fill=True, linewidth=0, zorder=2, color=COLOURS[_OF_KIND[kind]],
                  label=words.get(kind, kind))  # fmt: skip
        base = top
    thin = len(steps.steps) > 150
    ax.stairs(base, steps.edges, baseline=None, color=_ink(), linewidth=0.35 if thin else 0.7, zorder=3)


def _room(ax: Axes, top: float, lines: int = 2) -> None:
    """Leave room above the data for so many lines of text that name the peak."""
    points = ax.get_window_extent().height * 72 / ax.figure.dpi
    share = min((1.35 * _SMALL * lines + 14) / (0.85 * points), 0.5)  # a layout may take some of the height
    ax.set_ylim(0, top / (1 - share) if top else 1)
    ax.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.6)
    _bytes(ax.yaxis)


def _curve(ax: Axes, steps: _Steps, values: I64, *, colour: str, fill: float = 0.0, label: str = "", width: float = 1.3,
           style: str = "-") -> None:  # fmt: skip
    """Draw a line over the steps, and what is under it."""
    chosen = values[steps.steps]
    if fill:
        ax.stairs(chosen, steps.edges, baseline=0, fill=True, color=colour, alpha=fill, linewidth=0, zorder=2)
    ax.stairs(chosen, steps.edges, baseline=None, color=colour, linewidth=width, linestyle=style, zorder=3,
              label=label or None)  # fmt: skip


# ---------------------------------------------------------------------------------- timelines


def _inference(plan: Any, ax: Axes | None, *, weights: bool = False) -> Axes:
    """Draw the activations alive at each step by what they are there for; with `weights` on top of these."""
    own = ax is None
    ax = _axes(ax)
    rows, kinds, fixed = inference_kinds(plan)[[2, 0, 1, 3]], [INFERENCE_KINDS[k] for k in (2, 0, 1, 3)], 0
    if weights:
        fixed = plan.weight_bytes
        rows, kinds = np.vstack([np.full_like(plan.timeline, fixed), rows]), ["weights", *kinds]
    net, order = plan.network, plan.order.tolist()
    steps = _Steps(ax, plan.timeline)
    _stack(ax, steps, rows, kinds)
    _room(ax, plan.activation_peak_bytes + fixed, 2 if weights else 3)
    bands = not _named(ax, [net.op_names[op] for op in order]) and _mark_bands(ax, [net.op_scopes[op] for op in order])
    ax.set_ylabel("memory alive" if weights else "activations alive")
    kind = net.op_kinds[order[plan.peak_step]]
    beside = "" if weights else f"\nand weights {format_bytes(plan.weight_bytes)}"
    _annotate(ax, steps.at(plan.peak_step), plan.activation_peak_bytes + fixed,
              f"peak {format_bytes(plan.activation_peak_bytes + fixed)}{beside}\n"
              f"at {_short(plan.peak_op)} ({kind}), step {plan.peak_step:,}")  # fmt: skip
    _title(ax, plan.name, f"inference, batch {plan.batch}", f"profile {plan.profile.name}", pad=16 if bands else 8)
    _legend(ax, own, reverse=True)
    return ax


def _training(plan: Any, ax: Axes | None) -> Axes:
    """Draw everything alive over a training step, by kind."""
    own = ax is None
    ax = _axes(ax)
    rows, timeline = training_kinds(plan), plan.timeline
    steps = _Steps(ax, rows.sum(axis=0), phase_ends(plan))
    _stack(ax, steps, rows, TRAINING_KINDS)
    _room(ax, plan.peak_bytes)
    peak = int(timeline.argmax())
    _named(ax, [name for _, name, _ in plan.steps])
    steps.phases(ax)
    ax.set_ylabel("memory alive")
    where = "in the optimizer" if plan.peak_phase == "optimizer" else f"in {plan.peak_phase} at {_short(plan.peak_op)}"
    _annotate(ax, steps.at(peak), plan.peak_bytes, f"peak {format_bytes(plan.peak_bytes)}\n{where}, step {peak:,}")
    _title(ax, plan.name, f"training, batch {plan.batch}", plan.optimizer.name, plan.precision, pad=18)
    _legend(ax, own, reverse=True)
    return ax


def _order(plan: Any, ax: Axes | None) -> Axes:
    """Draw the activations alive in the program's order and in the best one, with the bound of all orders."""
    own = ax is None
    ax = _axes(ax)
    before, after = plan.program.timeline, plan.best.timeline
    # Each line has its own maxima: where steps are joined, the step of one peak is not that of the other.
    for values, colour, fill, width, label in (
        (before, "grey", 0.0, 1.1, f"program's order, {format_bytes(plan.program_peak_bytes)}"),
        (after, "blue", 0.35, 1.3, f"best order, {format_bytes(plan.peak_bytes)}"),
    ):
        _curve(ax, _Steps(ax, values), values, colour=COLOURS[colour], fill=fill, label=label, width=width)
    ax.axhline(plan.lower_bound, color=COLOURS["red"], linestyle="--", linewidth=1.1, zorder=4,
               label=f"no order below {format_bytes(plan.lower_bound)}")  # fmt: skip
    _room(ax, max(plan.program_peak_bytes, plan.peak_bytes), 4)
    _named(ax, plan.op_names)
    ax.set_ylabel("activations alive")
    first, second = int(before.argmax()), int(after.argmax())
    where = f"at {_short(plan.op_names[second])}, step {second:,}"
    if plan.peak_bytes == plan.program_peak_bytes:
        _annotate(ax, second, plan.peak_bytes, f"peak {format_bytes(plan.peak_bytes)}\n{where}", colour=COLOURS["blue"])
    else:
        at = _short(plan.network.op_names[plan.program.order[first]])
        peaks = [format_bytes(n) for n in (plan.program_peak_bytes, plan.peak_bytes)]
        _annotate(ax, first, plan.program_peak_bytes, f"program's peak {peaks[0]}\nat {at}, step {first:,}",
                  colour=COLOURS["grey"])  # fmt: skip
        # The peak of the best order is under the other line: it is named where the headroom is free.
        less = 100 * (1 - plan.peak_bytes / plan.program_peak_bytes)
        side, corner = ("left", 0.01) if first > len(before) / 2 else ("right", 0.99)
        # From its name down, then along its height: the name of the program's peak is above that.
        line = {"arrowstyle": "-", "color": COLOURS["blue"], "linewidth": 0.7, "shrinkB": 3, "relpos": (0.5, 0),
                "connectionstyle": "angle,angleA=-90,angleB=0"}  # fmt: skip
        ax.annotate(f"best order's peak {peaks[1]}, {less:.1f} % less\n{where}", (second, plan.peak_bytes),
                    (corner, 0.985), textcoords="axes fraction", ha=side, va="top", fontsize=_SMALL, zorder=7,
                    linespacing=1.25, bbox=_box(ax), arrowprops=line)  # fmt: skip
        ax.plot([second], [plan.peak_bytes], "o", markersize=5.5, color=COLOURS["blue"],
                markeredgecolor=ax.get_facecolor(), zorder=6, clip_on=False)  # fmt: skip
    proof = "proven least" if plan.optimal else f"at most {100 * plan.gap:.2g} % above the least"
    _title(ax, plan.name, "execution orders", f"profile {plan.profile.name}", proof)
    _legend(ax, own)
    return ax


def _checkpoints(plan: Any, ax: Axes | None) -> Axes:
    """Draw what is alive with recomputation and without, the budget, and what runs again."""
    own = ax is None
    ax = _axes(ax)
    kept, timeline = keep_all_timeline(plan), plan.timeline
    remat = getattr(plan, "remat", plan)
    problem = remat.problem
    ends = phase_ends(plan)
    steps = _Steps(ax, timeline, ends)
    all_kept = _Steps(ax, kept, ends)
    _curve(ax, all_kept, kept, colour=COLOURS["grey"], fill=0.18, label="everything kept", width=1.0)
    _curve(ax, steps, timeline, colour=COLOURS["blue"], fill=0.45, label="with recomputation")
    again = remat.recomputed
    rug = [i for i, name in enumerate(problem.names) if name in again]
    if rug:
        ax.plot(rug, [0.0] * len(rug), linestyle="none", marker="|", markersize=7, markeredgewidth=0.9,
                color=COLOURS["orange"], zorder=6, clip_on=False, label="runs again in backward")  # fmt: skip
    _room(ax, max(int(kept.max()), plan.budget))
    ops = node_ops(plan) if hasattr(plan, "step") else list(problem.names)
    _named(ax, list(problem.names))
    ax.set_ylabel("memory alive")
    if len(problem.names) > _NAMED_STEPS:
        ax.set_xlabel("node (forward, then backward)")
    steps.phases(ax)
    _level(ax, plan.budget, f"budget {format_bytes(plan.budget)}", colour=COLOURS["red"], above=True)
    top, peak = int(kept.argmax()), peak_node(plan)
    if int(kept[top]) > plan.peak_bytes:
        _annotate(ax, steps.at(top), int(kept[top]), f"everything kept: {format_bytes(int(kept[top]))}",
                  colour=COLOURS["grey"])  # fmt: skip
    name = ops[peak] or problem.names[peak]
    _annotate(ax, steps.at(peak), plan.peak_bytes, f"peak {format_bytes(plan.peak_bytes)} at {_short(name)}",
              above=False, colour=COLOURS["blue"])  # fmt: skip
    who = f"batch {plan.batch}" if hasattr(plan, "batch") else "recomputation"
    title = problem.name if not hasattr(plan, "step") else plan.name
    _title(ax, title or "problem", who, f"{100 * plan.overhead:.3g} % more time",
           "proven least" if remat.optimal else f"gap at most {100 * plan.gap:.2g} %", pad=18)  # fmt: skip
    _legend(ax, own)
    return ax


def _wraps(plan: Any, ax: Axes | None) -> Axes:
    """Draw what is alive with wrapped modules, the budget, and the peak without them."""
    own = ax is None
    ax = _axes(ax)
    steps = _Steps(ax, plan.timeline, phase_ends(plan))
    _curve(ax, steps, plan.timeline, colour=COLOURS["blue"], fill=0.45)
    _room(ax, max(plan.keep_bytes, plan.budget or 0, plan.peak_bytes))
    _named(ax, ["record"] * 10_000)
    ax.set_xlabel("record (forward, then backward)")
    steps.phases(ax)
    ax.set_ylabel("memory alive")
    _level(ax, plan.keep_bytes, f"nothing wrapped: {format_bytes(plan.keep_bytes)}", colour=COLOURS["grey"], above=True)
    if plan.budget is not None:
        word = "" if plan.fits else ", not met"
        _level(ax, plan.budget, f"budget {format_bytes(plan.budget)}{word}", colour=COLOURS["red"], above=True, at=1.0)
    peak = peak_node(plan)
    _annotate(ax, steps.at(peak), plan.peak_bytes, f"peak {format_bytes(plan.peak_bytes)}, step {peak:,}",
              above=False, colour=COLOURS["blue"])  # fmt: skip
    what = f"{len(plan.regions)} modules wrapped" + (", a policy of saved ops" if plan.kind == "policy" else "")
    _title(ax, plan.name, what, f"{100 * plan.overhead:.3g} % more time", pad=18)
    _legend(ax, own)
    return ax


def _chain(plan: Any, ax: Axes | None) -> Axes:
    """Draw what is alive during each run of a chain's stages."""
    own = ax is None
    ax = _axes(ax)
    timeline, runs = plan.timeline, plan.runs
    steps = _Steps(ax, timeline)
    _curve(ax, steps, timeline, colour=COLOURS["blue"], fill=0.45)
    _room(ax, max(plan.keep_all_bytes, plan.peak_bytes))
    _named(ax, [f"{plan.chain.ids[r.stage]} {r[0]}" for r in runs])
    if len(runs) > _NAMED_STEPS:
        ax.set_xlabel("run of a stage")
    ax.set_ylabel("memory alive")
    peak = int(timeline.argmax())
    stage = plan.chain.ids[runs[peak].stage]
    if plan.keep_all_bytes > plan.peak_bytes:
        _level(ax, plan.keep_all_bytes, f"everything kept: {format_bytes(plan.keep_all_bytes)}", colour=COLOURS["grey"],
               above=True)  # fmt: skip
    _annotate(ax, peak, plan.peak_bytes, f"peak {format_bytes(plan.peak_bytes)}\nat {_short(stage)} ({runs[peak][0]})",
              colour=COLOURS["blue"])  # fmt: skip
    _title(ax, plan.chain.name or "chain", f"{plan.chain.n:,} stages", f"{100 * plan.ratio:.3g} % more time")
    _legend(ax, own)
    return ax


# ---------------------------------------------------------------------------------- arenas


def _groups(plan: Any, by: str, area: NDArray[Any]) -> list[str]:
    """Return what each buffer of a placement is coloured by; nothing where its ops are not known."""
    ids = list(plan.buffers.ids)
    if plan.plan is None:
        return [""] * len(ids)
    net = plan.plan.network
    number = {name: op for op, name in enumerate(net.op_names)}
    ops = [number.get(i, number.get(i.rpartition(":")[0], -1)) for i in ids]
    if by == "op":
        return [net.op_kinds[op] if op >= 0 else "" for op in ops]
    parts = [net.op_names[op].split(".") if op >= 0 else [""] for op in ops]
    names: list[str] = []
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = [".".join(part[:depth]) for part in parts]
        sums: dict[str, float] = {}
        for name, share in zip(names, area.tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + share
        if max(sums.values(), default=0.0) <= 0.6 * sum(sums.values()):
            break
    return names


def _rectangles(ax: Axes, rows: NDArray[Any], groups: Sequence[str]) -> bool:
    """Draw buffers as rows of (begin, end, bottom, top), coloured by group; return whether colours repeat."""
    found = list(dict.fromkeys(groups))
    repeat = len(found) > len(_CYCLE)
    if len(found) == 1:  # nothing to tell apart: neighbours differ
        colours = [COLOURS[_CYCLE[k % len(_CYCLE)]] for k in range(len(rows))]
    else:
        colour = {g: COLOURS[_CYCLE[k % len(_CYCLE)]] for k, g in enumerate(found)}
        colours = [colour[g] for g in groups]
        if not repeat:
            patches = _load("patches")
            for g in found:
                ax.add_patch(patches.Rectangle((0, 0), 0, 0, color=colour[g], label=_short(g or "(network)", 22)))
    wide, high = _points(ax)
    sides = np.minimum((rows[:, 1] - rows[:, 0]) * wide, (rows[:, 3] - rows[:, 2]) * high)
    corners = [[(a, c), (b, c), (b, d), (a, d)] for a, b, c, d in rows.tolist()]
    # Outlines thin with their rectangles, so that small ones are not painted over.
    ax.add_collection(_load("collections").PolyCollection(
        corners, facecolors=colours, edgecolors=ax.get_facecolor(), linewidths=np.clip(0.12 * sides, 0.0, 0.7), zorder=2
    ))  # fmt: skip
    return repeat


def _points(ax: Axes) -> tuple[float, float]:
    """Return how many points a step is wide, and a byte high."""
    box, scale = ax.get_window_extent(), 72 / ax.figure.dpi
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    return box.width * scale / (right - left), box.height * scale / (top - bottom)


def _label_rectangles(ax: Axes, rows: NDArray[Any], names: Sequence[str]) -> None:
    """Write names into the rectangles that have room for them, upright or along the address."""
    wide, high = _points(ax)
    size = 6.0
    # The relative luminance at which black and white are equally far, by the guidelines for accessible web content.
    faces = ax.collections[-1].get_facecolor()[:, :3]
    linear = np.where(faces <= 0.04045, faces / 12.92, ((faces + 0.055) / 1.055) ** 2.4)
    inks = np.where(linear @ (0.2126, 0.7152, 0.0722) > 0.179, "black", "white").tolist()
    for (a, b, c, d), name, ink in zip(rows.tolist(), names, inks, strict=True):
        w, h = (b - a) * wide, (d - c) * high
        length = len(name) * size * 0.62
        if (w > length + 4 and h > size + 3) or (h > length + 4 and w > size + 3):
            ax.text((a + b) / 2, (c + d) / 2, _plain(name), ha="center", va="center", fontsize=size, color=ink,
                    rotation=0 if w > length + 4 else 90, zorder=3, clip_on=True)  # fmt: skip


def _arena(plan: Any, ax: Axes | None, *, colour: str = "layer") -> Axes:
    """Draw buffers as rectangles, time by address; `colour` is by ``"layer"`` or by ``"op"``."""
    if colour not in ("layer", "op"):
        raise ReportError(f"colour={colour!r}; allowed: 'layer', 'op'")
    own = ax is None
    ax = _axes(ax, 7.2, 4.0)
    b = plan.buffers
    shown = np.flatnonzero((b.lower < b.upper) & (b.nbytes > 0))
    first, last = (int(b.lower[shown].min()), int(b.upper[shown].max())) if len(shown) else (0, 1)
    ax.set_xlim(first - 0.5, last - 0.5)
    proof = f"gap at most {100 * plan.gap:.2g} %" if plan.gap else "proven least" if plan.optimal else ""
    repeat = False
    if plan.offsets is None:
        _load_line(ax, plan)
        proof = plan.status
    else:
        begin, end, nbytes, at = b.lower[shown], b.upper[shown], b.nbytes[shown], plan.offsets[shown]
        rows = np.column_stack([begin - 0.5, end - 0.5, at, at + nbytes])
        groups = _groups(plan, colour, (b.upper - b.lower).clip(0) * b.nbytes.astype(float))
        _room(ax, max(plan.arena_bytes, plan.capacity or 0, plan.lower_bound), 1)
        repeat = _rectangles(ax, rows, [groups[i] for i in shown.tolist()])
        _label_rectangles(ax, rows, [_short(b.ids[i], 40).replace(r"\$", "$") for i in shown.tolist()])
        same = plan.arena_bytes == plan.lower_bound
        _level(ax, plan.arena_bytes, f"arena {format_bytes(plan.arena_bytes)}" + (" = lower bound" if same else ""),
               colour=_ink(), style="-", above=True)  # fmt: skip
        if not same:
            _level(ax, plan.lower_bound, f"lower bound {format_bytes(plan.lower_bound)}", colour=COLOURS["red"], at=1.0)
    if plan.capacity is not None:
        _level(ax, plan.capacity, f"capacity {format_bytes(plan.capacity)}", colour=COLOURS["red"], at=1.0, above=True)
    net = None if plan.plan is None else plan.plan.network
    _named(ax, ["step"] * 10_000 if net is None else [net.op_names[op] for op in plan.plan.order.tolist()])
    ax.set_ylabel("memory alive" if plan.offsets is None else "address")
    if repeat:
        ax.set_xlabel(f"{ax.get_xlabel() or 'op'} (neighbouring {colour}s differ in colour; colours repeat)")
    profile = "" if plan.plan is None else plan.plan.profile.name
    known = plan.offsets is None or plan.method in ("auto", profile)
    _title(ax, plan.name or "buffers", f"arena, {len(shown):,} buffers", f"profile {profile}" if profile else "",
           "" if known else f"placed by {plan.method}", proof)  # fmt: skip
    _legend(ax, own)
    return ax


def _load_line(ax: Axes, plan: Any) -> None:
    """Draw what is alive, of a placement that there is none of."""
    t = plan.timeline
    if len(t) > 1:
        edges, alive, at = t[:, 0] - 0.5, t[:-1, 1], int(t[:, 1].argmax())
        ax.stairs(alive, edges, baseline=0, fill=True, color=COLOURS["blue"], alpha=0.45, linewidth=0, zorder=2)
        ax.stairs(alive, edges, baseline=None, color=COLOURS["blue"], linewidth=1.3, zorder=3)
    _room(ax, max(plan.peak_load, plan.capacity or 0, plan.lower_bound))
    if len(t) > 1:
        _annotate(ax, float(t[at, 0]), plan.peak_load, f"{format_bytes(plan.peak_load)} alive at step {t[at, 0]:,}")


def _objects(plan: Any, ax: Axes | None) -> Axes:
    """Draw shared objects one above the other, with the buffers that use each over time."""
    own = ax is None
    ax = _axes(ax, 7.2, 4.0)
    b = plan.buffers
    shown = np.flatnonzero((plan.object_of >= 0) & (b.lower < b.upper))
    floor = np.concatenate([[0], np.cumsum(plan.object_bytes)])
    first, last = (int(b.lower[shown].min()), int(b.upper[shown].max())) if len(shown) else (0, 1)
    ax.set_xlim(first - 0.5, last - 0.5)
    at = floor[plan.object_of[shown]]
    rows = np.column_stack([b.lower[shown] - 0.5, b.upper[shown] - 0.5, at, at + b.nbytes[shown]])
    _room(ax, plan.total_bytes, 1)
    _rectangles(ax, rows, [""] * len(rows))
    _label_rectangles(ax, rows, [b.ids[i] for i in shown.tolist()])
    ax.hlines(floor[1:-1], first - 0.5, last - 0.5, color=_ink(), linewidth=0.8, alpha=0.6, zorder=4)
    same = plan.total_bytes == plan.lower_bound
    _level(ax, plan.total_bytes, f"total {format_bytes(plan.total_bytes)}" + (" = lower bound" if same else ""),
           colour=_ink(), style="-", above=True)  # fmt: skip
    if not same:
        _level(ax, plan.lower_bound, f"lower bound {format_bytes(plan.lower_bound)}", colour=COLOURS["red"], at=1.0)
    _named(ax, ["step"] * 10_000)
    ax.set_ylabel("objects, one above the other")
    _title(ax, plan.name or "buffers", f"{len(shown):,} buffers in {plan.n_objects:,} objects", plan.method)
    _legend(ax, own)
    return ax


# ---------------------------------------------------------------------------------- frontiers


def _frontier(found: Any, ax: Axes | None, *, x: str = "budget") -> Axes:
    """Draw what recomputation costs against memory: plans, the proven bound, the knee, and keeping everything."""
    if x not in ("budget", "peak"):
        raise ReportError(f"x={x!r}; allowed: 'budget', 'peak'")
    own = ax is None
    ax = _axes(ax, 7.2, 3.6)
    plans, knee = found.plans, found.knee
    budgets = np.array([p.budget if x == "budget" else p.peak_bytes for p in plans], float)
    costs = np.array([100 * p.overhead for p in plans])
    bounds = np.array([100 * (p.overhead - p.gap) for p in plans])
    keep, least = found.keep_bytes, found.least_bound
    right = max(keep, budgets[-1])
    span = max(right - min(least, budgets[0]), 1)
    ax.set_xlim(min(least, budgets[0]) - 0.08 * span, right + 0.06 * span)
    _percents(ax, costs)
    ax.axvspan(ax.get_xlim()[0], least, color=COLOURS["grey"], alpha=0.22, linewidth=0, label="proven: no plan")
    # A plan holds from its budget on; a bound holds for every budget up to its own.
    wide = np.append(budgets, max(keep, budgets[-1]))
    ax.plot(wide, np.append(costs, costs[-1]), drawstyle="steps-post", color=COLOURS["blue"], linewidth=1.4, zorder=4)
    ax.plot(budgets, costs, "o", color=COLOURS["blue"], markersize=4, zorder=5, label="plans",
            markeredgecolor=ax.get_facecolor(), markeredgewidth=0.6)  # fmt: skip
    ax.plot(np.append(least, budgets), np.append(bounds[0], bounds), drawstyle="steps-pre", color=COLOURS["red"],
            linestyle="--", linewidth=1.1, zorder=3, label="lower bound")  # fmt: skip
    _knee(ax, knee.budget if x == "budget" else knee.peak_bytes, 100 * knee.overhead)
    _keep(ax, keep)
    ax.set_xlabel("budget" if x == "budget" else "peak of the plan")
    first = plans[0]
    name = first.name if hasattr(first, "step") else first.problem.name
    who = f"training, batch {first.batch}, {first.training.optimizer.name}" if hasattr(first, "step") else "problem"
    _title(ax, name or "network", who, f"{len(plans)} plans from {format_bytes(found.least_bytes)}")
    _legend(ax, own)
    return ax


def _percents(ax: Axes, costs: NDArray[Any]) -> None:
    top = float(costs.max(initial=0.0))
    ax.set_ylim(-0.03 * max(top, 1e-9), 1.12 * top if top else 1.0)
    ax.yaxis.set_major_formatter(_load("ticker").FuncFormatter(lambda v, _: f"{v:.6g} %"))
    ax.grid(color="#888888", alpha=0.25, linewidth=0.6)
    ax.set_ylabel("more time by recomputation")
    _bytes(ax.xaxis)


def _knee(ax: Axes, x: float, y: float) -> None:
    ax.plot([x], [y], marker="D", markersize=7, color=COLOURS["orange"], markeredgecolor=_ink(), markeredgewidth=0.8,
            linestyle="none", zorder=6, label="knee")  # fmt: skip
    ax.annotate(f"knee: {format_bytes(int(x))}, {y:.3g} %", (x, y), (8, 8), textcoords="offset points", ha="left",
                va="bottom", fontsize=_SMALL, zorder=7, bbox=_box(ax))  # fmt: skip


def _keep(ax: Axes, keep: int) -> None:
    ax.axvline(keep, color=_ink(), linewidth=0.9, linestyle=":", zorder=3)
    ax.plot([keep], [0], marker="s", markersize=6, color=COLOURS["green"], markeredgecolor=_ink(), markeredgewidth=0.8,
            linestyle="none", zorder=6, clip_on=False, label="everything kept")  # fmt: skip
    ax.annotate(f"everything kept: {format_bytes(keep)}", (keep, 1.0), (-4, -2), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="right", va="top", rotation=90, fontsize=_SMALL)  # fmt: skip


def _chain_frontier(found: Any, ax: Axes | None) -> Axes:
    """Draw what recomputing a chain costs against its peak."""
    cost = found.chain.step_cost
    share = found.overhead / cost if cost else np.zeros(len(found))
    title = (found.chain.name or "chain", f"{found.chain.n:,} stages", found.method,
             f"{len(found):,} plans from {format_bytes(found.minimum_bytes)}")  # fmt: skip
    return _choices(ax, found.peak_bytes, share, found.knee, found.keep_all_bytes, title)


def _wrap_frontier(found: Any, ax: Axes | None) -> Axes:
    """Draw what running wrapped modules twice costs against the peak."""
    what = "choices of modules" if found.kind == "modules" else "policies of modules"
    title = (found.name, f"{len(found):,} {what} from {format_bytes(found.least_bytes)}")
    return _choices(ax, found.peaks, found.overhead, found.knee, found.keep_bytes, title)


def _choices(
    ax: Axes | None, peaks: I64, overhead: NDArray[Any], at: int, keep: int, title: Sequence[str]
) -> Axes:  # fmt: skip
    """Draw plans of which each holds from its peak on, the knee, and everything kept."""
    own = ax is None
    ax = _axes(ax, 7.2, 3.6)
    x, share, n = peaks.astype(float), 100 * overhead, len(peaks)
    right = max(keep, x[-1])
    span = max(right - x[0], 1)
    ax.set_xlim(x[0] - 0.1 * span, right + 0.06 * span)
    _percents(ax, share)
    ax.axvspan(ax.get_xlim()[0], x[0], color=COLOURS["grey"], alpha=0.22, linewidth=0, label="no plan of this kind")
    few = n <= 60
    ax.plot(np.append(x, right), np.append(share, share[-1]), drawstyle="steps-post", color=COLOURS["blue"],
            linewidth=1.4, zorder=4, label=None if few else f"{n:,} plans")  # fmt: skip
    if few:
        ax.plot(x, share, "o", color=COLOURS["blue"], markersize=4, zorder=5, label="plans",
                markeredgecolor=ax.get_facecolor(), markeredgewidth=0.6)  # fmt: skip
    _knee(ax, float(x[at]), float(share[at]))
    _keep(ax, keep)
    ax.set_xlabel("peak of the plan")
    _title(ax, *title)
    _legend(ax, own)
    return ax


# ---------------------------------------------------------------------------------- search spaces


def _scale(axis: Any, metric: str) -> None:
    """Write a metric on an axis: bytes in binary units, counts in powers of ten."""
    axis.set_label_text(_plain(metric.replace("_", " ")))
    if is_bytes(metric):
        _bytes(axis)
    else:
        ticker = _load("ticker")
        axis.set_major_locator(ticker.MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(ticker.EngFormatter(sep=" "))


def _amount(metric: str, value: float) -> str:
    return format_bytes(int(value)) if is_bytes(metric) else f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _evaluation(found: Any, ax: Axes | None, *, x: str | None = None, y: str | None = None) -> Axes:
    """Draw candidates by two metrics, or (``y="share"``) what share of them keeps a budget of one."""
    names = list(found)
    x = next(filter(is_bytes, names), names[0] if names else "share") if x is None else x
    y = next((name for name in names if name != x), "share") if y is None else y
    for option, name, allowed in (("x", x, names), ("y", y, [*names, "share"])):
        if name not in allowed:
            raise ReportError(f"{option}={name!r}; allowed: {', '.join(map(repr, allowed))}")
    own = ax is None
    ax = _axes(ax, 7.2, 3.6)
    n, amounts = found.n, np.asarray(found[x])
    if y == "share":
        ax.plot(np.repeat(np.sort(amounts), 2), np.repeat(np.arange(n + 1) * (100 / max(n, 1)), 2)[1:-1],
                color=COLOURS["blue"], linewidth=1.4)  # fmt: skip
        ax.yaxis.set_major_formatter(_load("ticker").FuncFormatter(lambda v, _: f"{v:.6g} %"))
        ax.set_ylabel("candidates that take no more")
    else:
        size = float(np.clip(4 - np.log10(max(n, 1)) / 2, 1.2, 4))
        ax.plot(amounts, found[y], "o", markersize=size, markeredgewidth=0, alpha=0.6, color=COLOURS["blue"],
                rasterized=n > 5000)  # fmt: skip
        _scale(ax.yaxis, y)
    _scale(ax.xaxis, x)
    ax.grid(color="#888888", alpha=0.25, linewidth=0.6)
    _title(ax, f"{n:,} candidates", f"{x.replace('_', ' ')} from {_amount(x, amounts.min().item())} to "
           f"{_amount(x, amounts.max().item())}" if n else "")  # fmt: skip
    _legend(ax, own)
    return ax


def _about_member(found: Any) -> tuple[str, ...]:
    """Return what a drawing of a member is named: space, score, proof."""
    if not hasattr(found, "score"):
        return found.space.name, "one candidate"
    if found.x is None:
        return found.name, "no member fits", found.status
    proof = "proven best" if found.status == "optimal" else f"no member above {found.bound:,.6g}"
    return found.name, f"score {_amount('score', found.score)}", proof


def _genes(found: Any, ax: Axes | None) -> Axes:
    """Draw which of its values each gene has."""
    _, genes, x = genes_of(found)
    most = max([g.cardinality for g in genes], default=1)
    ax = _axes(ax, 7.2, min(1.6 + 0.22 * most, 4.5))
    shown = [(k, v) for k, g in enumerate(genes) for v in range(g.cardinality)]
    small = most > 25
    ax.plot([k for k, _ in shown], [v for _, v in shown], "o", markersize=1.5 if small else 4, color=COLOURS["grey"],
            alpha=0.35, label="allowed", zorder=2)  # fmt: skip
    ax.plot(range(len(x)), x, "s", markersize=5 if small else 7, color=COLOURS["blue"], label="chosen", zorder=3)
    if len(x) <= 24:
        for k, (gene, v) in enumerate(zip(genes, x, strict=False)):
            ax.annotate(_short(str(gene.values[v]), 12), (k, v), (0, 5), textcoords="offset points", ha="center",
                        va="bottom", fontsize=_SMALL - 1, zorder=4, bbox=_box(ax))  # fmt: skip
    ax.set_xlim(-0.6, max(len(genes), 1) - 0.4)
    ax.set_ylim(-0.6, most + 0.1)
    if not _named(ax, [g.name for g in genes]):
        ax.set_xlabel("gene")
    ax.yaxis.set_major_locator(_load("ticker").MaxNLocator(nbins=6, integer=True))
    ax.set_ylabel("position of the value")
    _title(ax, *_about_member(found))
    return ax


def _metric_bars(found: Any, ax: Axes | None) -> Axes:
    """Draw the metrics of a member as shares of their budgets, or their amounts where there are none."""
    budgets = getattr(found, "budgets", {})
    rows = list(found.metrics.items())[::-1]
    ax = _axes(ax, 7.2, 1.0 + 0.36 * max(len(rows), 2))
    for k, (name, value) in enumerate(rows):
        top = budgets.get(name)
        words = _amount(name, value)
        if top is not None:
            ax.barh([k], [100 * value / top], 0.6, color=COLOURS["blue"], zorder=2)
            words += f" of {_amount(name, top)}, {100 * value / top:.1f} %"
        ax.annotate(words, (100 * value / top if top is not None else 0, k), (4, 0), textcoords="offset points",
                    va="center", fontsize=_SMALL, zorder=5, bbox=_box(ax))  # fmt: skip
    ax.set_xlim(0, 140)
    ax.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    ax.set_yticks(range(len(rows)), [_plain(name) for name, _ in rows])
    ax.tick_params(axis="y", length=0)
    if budgets:
        ax.axvline(100, color=COLOURS["red"], linestyle="--", linewidth=1.1, zorder=3)
        ax.xaxis.set_major_formatter(_load("ticker").FuncFormatter(lambda v, _: f"{v:.6g} %"))
        ax.set_xlabel("share of the budget")
    else:
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
    _title(ax, *_about_member(found))
    return ax


def _front(found: Any, ax: Axes | None) -> Axes:
    """Draw every trade-off between score and metric: the best score within each amount."""
    own = ax is None
    ax = _axes(ax, 7.2, 3.6)
    x, y, n = found.values.astype(float), found.scores.astype(float), len(found)
    few = n <= 60
    ax.plot(x, y, drawstyle="steps-post", color=COLOURS["blue"], linewidth=1.4, label=None if few else f"{n:,} members")
    if few:
        ax.plot(x, y, "o", color=COLOURS["blue"], markersize=4, label="members", zorder=3,
                markeredgecolor=ax.get_facecolor(), markeredgewidth=0.6)  # fmt: skip
    _scale(ax.xaxis, found.metric)
    _scale(ax.yaxis, "score")
    if n:
        at, high = found[found.knee], y[found.knee] > (y[0] + y[-1]) / 2
        ax.plot([x[found.knee]], [y[found.knee]], marker="D", markersize=7, color=COLOURS["orange"], linestyle="none",
                markeredgecolor=_ink(), markeredgewidth=0.8, zorder=4, label="knee")  # fmt: skip
        ax.annotate(f"knee: {_amount(found.metric, at.metrics[found.metric])}, score {_amount('score', at.score)}",
                    (x[found.knee], y[found.knee]), (8, -8 if high else 8), textcoords="offset points", ha="left",
                    va="top" if high else "bottom",
                    fontsize=_SMALL, zorder=5, bbox=_box(ax))  # fmt: skip
    ax.grid(color="#888888", alpha=0.25, linewidth=0.6)
    _title(ax, found.name, f"score against {found.metric.replace('_', ' ')}", f"{n:,} members" if n else "none fits")
    _legend(ax, own)
    return ax


# ---------------------------------------------------------------------------------- bars


def _comparison(found: Any, ax: Axes | None) -> Axes:
    """Draw activation peak and arena of each profile as bars, with the ideal peak as a line."""
    own = ax is None
    rows = found.rows[::-1]
    ax = _axes(ax, 7.2, 1.0 + 0.42 * max(len(rows), 2))
    peaks = [row.activation_peak_bytes or 0 for row in rows]
    arenas = [row.arena_bytes or 0 for row in rows]
    at = np.arange(len(rows), dtype=float)
    with_arena = any(arenas)
    high = 0.36 if with_arena else 0.6
    shift = high / 2 if with_arena else 0.0
    ax.barh(at + shift, peaks, high, color=COLOURS["blue"], label="activation peak", zorder=2)
    if with_arena:
        ax.barh(at - shift, arenas, high, color=COLOURS["orange"], label="arena as the runtime places it", zorder=2)
    most = max([*peaks, *arenas, found.ideal_bytes, 1])
    ax.set_xlim(0, 1.2 * most)
    for k, row in enumerate(rows):
        if row.activation_peak_bytes is None:
            words = row.reason if len(row.reason) <= 90 else row.reason[:89] + "…"
            ax.annotate(_plain(words), (0, at[k]), (4, 0), textcoords="offset points", va="center",
                        fontsize=_SMALL - 1, style="italic", zorder=5, bbox=_box(ax))  # fmt: skip
        for nbytes, y in ((row.activation_peak_bytes, at[k] + shift), (row.arena_bytes, at[k] - shift)):
            if nbytes is not None:
                ax.annotate(format_bytes(nbytes), (nbytes, y), (3, 0), textcoords="offset points", va="center",
                            fontsize=_SMALL - 1, zorder=5, bbox=_box(ax))  # fmt: skip
    ax.axvline(found.ideal_bytes, color=_ink(), linestyle="--", linewidth=1.0, zorder=3,
               label=f"ideal {format_bytes(found.ideal_bytes)}")  # fmt: skip
    ax.set_yticks(at, [row.profile.name for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.grid(axis="x", color="#888888", alpha=0.25, linewidth=0.6)
    _bytes(ax.xaxis)
    ax.set_xlabel("memory of activations")
    dtype = found.dtype if isinstance(found.dtype, str) else "types by name" if found.dtype else ""
    _title(ax, found.name, f"profiles, batch {found.batch}", dtype)
    _legend(ax, own)
    return ax


def _bar(ax: Axes | None, parts: Mapping[str, int], total: int, title: Sequence[str], limit: int | None) -> Axes:
    """Draw parts of a sum as one bar, with a limit."""
    own = ax is None
    ax = _axes(ax, 7.2, max(1.7, 0.8 + 0.19 * (len(parts) + 1)))
    left = 0
    for k, (name, nbytes) in enumerate(parts.items()):
        if nbytes <= 0:
            continue
        colour = COLOURS[_OF_KIND.get(name, _CYCLE[k % len(_CYCLE)])]
        label = _BAR_WORDS.get(name, name.replace("_", " "))
        ax.barh([0], [nbytes], 0.6, left=[left], color=colour, edgecolor=ax.get_facecolor(), linewidth=0.7, zorder=2,
                hatch="////" if name in _NOT_TENSORS else None, label=f"{label}, {format_bytes(nbytes)}")  # fmt: skip
        left += nbytes
    ax.set_xlim(0, 1.05 * max(total, left, limit or 0, 1))
    ax.annotate(f"sum {format_bytes(total)}", (total, 0.3), (0, 2), textcoords="offset points", ha="right", va="bottom",
                fontsize=_SMALL)  # fmt: skip
    if limit is not None:
        ax.axvline(limit, color=COLOURS["red"], linestyle="--", linewidth=1.3, zorder=4,
                   label=f"device, {format_bytes(limit)}")  # fmt: skip
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_ylim(-0.5, 0.75)
    _bytes(ax.xaxis)
    _title(ax, *title)
    _legend(ax, own)
    return ax


def _fit(found: Any, ax: Axes | None) -> Axes:
    """Draw what a net needs, part by part, against what the device has."""
    plan = found.plan
    mode = "training" if type(plan).__name__ == "TrainingPlan" else "inference"
    free = format_bytes(abs(found.free_bytes))
    word = f"fits, {free} left" if found.fits else f"does not fit, {free} too much"
    return _bar(
        ax, parts_of(found), found.needed_bytes, (plan.name, f"{mode}, batch {plan.batch}", word), found.budget_bytes
    )


def _rule(rule: Any, ax: Axes | None) -> Axes:
    """Draw the terms that a rule of thumb adds up."""
    terms = {name: nbytes for name, nbytes in rule.terms.items() if nbytes}
    return _bar(ax, terms, rule.nbytes, (f"rule of thumb, {rule.name}", rule.formula), None)


# ---------------------------------------------------------------------------------- which drawing

_DRAWINGS: Final[Mapping[str, Mapping[str, Callable[..., Axes]]]] = {
    "InferencePlan": {"timeline": _inference},
    "TrainingPlan": {"timeline": _training},
    "OrderPlan": {"timeline": _order},
    "ArenaPlan": {"arena": _arena},
    "SharedObjectsPlan": {"objects": _objects},
    "Comparison": {"bars": _comparison},
    "Fit": {"parts": _fit},
    "RuleOfThumb": {"parts": _rule},
    "RematPlan": {"timeline": _checkpoints},
    "CheckpointPlan": {"timeline": _checkpoints},
    "WrapPlan": {"timeline": _wraps},
    "Frontier": {"frontier": _frontier},
    "CheckpointFrontier": {"frontier": _frontier},
    "ChainPlan": {"timeline": _chain},
    "ChainFrontier": {"frontier": _chain_frontier},
    "WrapFrontier": {"frontier": _wrap_frontier},
    "Evaluation": {"candidates": _evaluation},
    "Best": {"genes": _genes, "metrics": _metric_bars},
    "Walk": {"genes": _genes, "metrics": _metric_bars},
    "Front": {"frontier": _front},
}


def drawings_of(result: object) -> tuple[str, ...]:
    """Return the names of the drawings that a result has; the first is the one that is drawn unless asked otherwise.

    Examples
    --------
    >>> import cnnlive
    >>> drawings_of(cnnlive.plan_arena(zoo.load("vgg16")))
    ('arena',)
    """
    return tuple(_DRAWINGS.get(type(result).__name__, ()))


def plot(result: object, kind: str | None = None, *, ax: Axes | None = None, **options: Any) -> Axes:
    """Draw a result of a planner.

    Bytes are on the axes in binary units. The peak is marked and named. Where there are more steps than pixels, each
    pixel's column shows the largest step in it, so that no peak is lost; those steps are of the width at the time of
    drawing.

    Parameters
    ----------
    result : result of a planner
    kind : str, optional
        One of :func:`drawings_of`. Default: the first.
    ax : matplotlib.axes.Axes, optional
        Where to draw. Default: a figure of its own, with its legend beside the axes.
    **options
        ``weights=True`` (inference): weights under the activations. ``colour="layer"`` or ``"op"`` (arena).
        ``x="budget"`` or ``"peak"`` (frontiers of a problem or a training step). ``x`` a metric and ``y`` another or
        ``"share"`` (evaluated candidates).

    Returns
    -------
    matplotlib.axes.Axes
        Nothing is shown and nothing is saved: ``ax.figure.savefig("plan.pdf")``.

    Raises
    ------
    MissingExtraError
        Without matplotlib; names the extra.
    ReportError
        If the result has no drawings, not this one, or an option is outside what is allowed.

    Examples
    --------
    >>> import cnnlive
    >>> ax = plot(cnnlive.plan_inference(zoo.load("vgg16")))  # doctest: +SKIP
    >>> ax.figure.savefig("vgg16.pdf")  # doctest: +SKIP
    """
    drawings = _DRAWINGS.get(type(result).__name__)
    if drawings is None:
        raise ReportError(f"{type(result).__name__} has no drawings; allowed: {', '.join(_DRAWINGS)}")
    name = next(iter(drawings)) if kind is None else kind
    if name not in drawings:
        raise ReportError(
            f"{type(result).__name__} has no drawing {name!r}{close_names(name, drawings)}; allowed: "
            f"{', '.join(map(repr, drawings))}"
        )
    draw = drawings[name]
    known = getattr(draw, "__kwdefaults__", None) or {}
    for option in options:
        if option not in known:
            raise ReportError(
                f"the drawing {name!r} of {type(result).__name__} has no option {option!r}; allowed: "
                f"{', '.join(map(repr, known)) or 'none'}"
            )
    if ax is not None:  # whose style is that of the caller
        _load("ticker")
        return draw(result, ax, **options)
    with _load("pyplot").rc_context(dict(_STYLE)):
        return draw(result, None, **options)
