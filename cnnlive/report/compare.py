"""Report of a network under several profiles side by side, and what makes the difference."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from cnnlive.plan.compare import Comparison, ProfileRow
from cnnlive.report.text import Lines, both_bytes, indented, note
from cnnlive.units import format_bytes

__all__ = ["compare_report", "compare_summary"]

_NARROW = 76


def compare_report(found: Comparison, *, columns: int = 120) -> RenderableType:
    """Return a comparison as a terminal shows it: figures of each profile, then the steps from ``ideal`` to it.

    Parameters
    ----------
    found : Comparison
    columns : int
        Width of the terminal; below 76 only exact bytes are shown.

    Returns
    -------
    rich renderable
    """
    parts: list[RenderableType] = [compare_summary(found), "", indented(_figures(found, columns))]
    refused = [row for row in found.rows if row.activation_peak_bytes is None]
    for row in refused:
        parts.append(indented(Text(f"{row.profile.name}: {row.reason}", "yellow")))
    steps = _steps(found)
    if steps.rows:
        parts += ["", Text(f"What makes the difference, from {found.ideal_bytes:,} B of ideal on:"), indented(steps)]
    if any(row.workspace_bytes for row in found.rows):
        words = ", ".join(f"{r.profile.name} {r.workspace_bytes:,} B" for r in found.rows if r.workspace_bytes)
        parts += ["", note(f"Besides, kernels keep a workspace: {words}.")]
    words = "Weights are in neither activations nor arena, the runtime itself in none. `cnnlive profiles`: the rules."
    parts += ["", note(words)]
    return Group(*parts)


def compare_summary(found: Comparison) -> Text:
    """Return the first line of the report: what was compared, and the least and the most."""
    dtype = found.dtype if isinstance(found.dtype, str) else "types by name" if found.dtype else "types as built"
    text = Text.assemble((found.name or "network", "bold"), f" · batch {found.batch} · {dtype}")
    peaks = {r.profile.name: r.activation_peak_bytes for r in found.rows if r.activation_peak_bytes is not None}
    if len(peaks) > 1:
        least, most = min(peaks, key=lambda k: peaks[k]), max(peaks, key=lambda k: peaks[k])
        text.append(f" · {least} {format_bytes(peaks[least])} to {most} {format_bytes(peaks[most])}")
    return text


def _figures(found: Comparison, columns: int) -> Lines:
    people, arenas = columns >= _NARROW, any(row.arena_bytes is not None for row in found.rows)
    heads = [("profile", "l")]
    heads += [("activations", "r")] * people + [("bytes", "r")]
    heads += [("arena bytes", "r"), ("over", "r")] * arenas + [("weights", "r"), ("peak at", "l")]
    rows = []
    for row in found.rows:
        if row.activation_peak_bytes is None or row.weight_bytes is None:
            rows.append((row.profile.name, *("-",) * (len(heads) - 2), "cannot take it, see below"))
            continue
        short, exact = both_bytes(row.activation_peak_bytes)
        cells = [row.profile.name, *([short] if people else []), exact.removesuffix(" B")]
        if arenas:
            cells += [f"{row.arena_bytes:,}" if row.arena_bytes is not None else "-", _over(row)]
        rows.append((*cells, format_bytes(row.weight_bytes), row.peak_op or ""))
    return Lines(heads, rows, gives=len(heads) - 1, may_go=(len(heads) - 2,), least=10)


def _over(row: ProfileRow) -> str:
    if row.overhead is None:
        return "-"
    return f"{100 * row.overhead:+.1f} %" if row.arena_bytes != row.activation_peak_bytes else ""


def _steps(found: Comparison) -> Lines:
    rows = []
    for row in found.rows:
        for i, step in enumerate(row.steps):
            rows.append((row.profile.name if i == 0 else "", step.name, f"{step.nbytes:+,}", step.words))
    # Names differ at their ends and sentences do not: where there is no room for all of one, it is left out.
    heads = [("profile", "l"), ("step", "l"), ("bytes", "r"), ("what it is", "l")]
    return Lines(heads, rows, gives=0, may_go=(3,), least=12)
