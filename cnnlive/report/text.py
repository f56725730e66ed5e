"""Reports for a terminal, from result objects only: rich renderables that fit one screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from cnnlive.plan.inference import InferencePlan, LiveBuffer, OpRow
from cnnlive.plan.rules import RuleOfThumb
from cnnlive.report.reasons import reasons, stored_kinds
from cnnlive.units import format_bytes, format_count

__all__ = [
    "Lines",
    "inference_report",
    "inference_summary",
    "is_ascii",
    "open_console",
    "ops_table",
    "plain_table",
    "shape_text",
    "show",
    "sparkline",
    "timeline_table",
]

PIPED_WIDTH: Final = 120
_ANY_WIDTH: Final = 10_000
_BARS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = "_.-=+*#@"
_IN_ASCII: Final = str.maketrans({"·": "-", "…": "...", "×": "x"})  # noqa: RUF001
_INPLACE: Final = {
    "graph": "in place as the graph says",
    "dead": "in place where possible",
    "never": "nothing in place",
}


def sparkline(values: Sequence[int], width: int = 60, *, ascii_only: bool = False) -> str:
    """Draw non-negative values as a row of bars.

    Parameters
    ----------
    values : sequence of int
    width : int
        Most columns; more values than that are joined, each column showing the largest of its share, so that
        the peak is always seen.
    ascii_only : bool
        Use ASCII characters.

    Returns
    -------
    str

    Examples
    --------
    >>> sparkline([1, 2, 4, 8], ascii_only=True)
    '_.=@'
    """
    n = len(values)
    columns = min(n, width)
    bars = _PLAIN_BARS if ascii_only else _BARS
    shares = [max(values[i * n // columns : (i + 1) * n // columns]) for i in range(columns)]
    top = max(shares, default=0)
    # Rounded up: only zero has no bar, only the largest values have a full one.
    return "".join(" " if v == 0 else bars[-(-v * len(bars) // top) - 1] for v in map(int, shares))


def shape_text(shapes: Iterable[Sequence[int]]) -> str:
    """Write shapes as people do: ``1x64x112x112``, several of them with commas.

    Examples
    --------
    >>> shape_text([(1, 64, 7, 7), (1, 64)])
    '1x64x7x7, 1x64'
    """
    return ", ".join("x".join(map(str, s)) for s in shapes)


def _bytes(nbytes: int, signed: bool = False) -> tuple[str, str]:
    """Return bytes for people and exact bytes."""
    sign = "-" if nbytes < 0 else "+" if signed else ""
    return sign + format_bytes(abs(nbytes)), f"{sign}{abs(nbytes):,} B"


def _percent(part: int, whole: int) -> str:
    share = abs(100 * part / whole)
    return f"{share:.1f} %" if share >= 0.1 else f"{share:.2g} %"


def _verdict(difference: int, exact: int, cancels: bool) -> str:
    if difference == 0:
        return "right by chance: what it misses cancels" if cancels else "the rule is right: two maps are all alive"
    return f"the rule is {_percent(difference, exact)} too {'low' if difference > 0 else 'high'}"


def _dtypes(plan: InferencePlan) -> str:
    nbytes: dict[str, int] = {}
    for b in plan.buffers:
        nbytes[b.dtype] = nbytes.get(b.dtype, 0) + b.nbytes
    return " and ".join(sorted(nbytes, key=lambda d: -nbytes[d]))


def _header(plan: InferencePlan) -> Text:
    rules = f"profile {plan.profile.name}{', fused' if plan.profile.fuse else ''}"
    parts = [f"inference, batch {plan.batch}", _dtypes(plan), rules]
    if plan.profile.inplace != "graph":
        parts.append(_INPLACE[plan.profile.inplace])
    return Text.assemble((plan.name or "network", "bold"), "  ", " · ".join(parts))


def _counts(plan: InferencePlan) -> Text:
    data = plan.to_dict()
    return Text(
        f"{len(plan.order):,} ops · {format_count(data['parameters'])} parameters ({data['parameters']:,}) · "
        f"{format_count(plan.macs)} multiply-accumulates"
    )


def _grid(*justify: str) -> Table:
    """Return a table without lines; the last column takes what is left and wraps."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for i, j in enumerate(justify):
        last = i == len(justify) - 1
        table.add_column(justify="right" if j == "r" else "left", no_wrap=not last, overflow="fold")
    return table


def _indented(*parts: RenderableType) -> Padding:
    return Padding(Group(*parts), (0, 0, 0, 2))


def _bound(plan: InferencePlan) -> str:
    if plan.optimal:
        return "no order of the ops takes less"
    return f"any order takes {plan.lower_bound:,} B or more"


def _amounts(plan: InferencePlan, rule: RuleOfThumb) -> Table:
    """Return the exact figures, and the rule of thumb under them in the same columns."""
    table = _grid("l", "r", "r", "l")
    peak = [Text(t, "bold") for t in ("peak", *_bytes(plan.peak_bytes))]
    table.add_row(*peak, "weights and activations")
    table.add_row("  parameters", *_bytes(plan.parameter_bytes), "")
    table.add_row("  buffers", *_bytes(plan.buffer_bytes), stored_kinds(plan) if plan.buffer_bytes else "")
    table.add_row("  activations", *_bytes(plan.activation_peak_bytes), _bound(plan))
    difference = plan.peak_bytes - rule.nbytes
    terms = reasons(plan, rule)
    table.add_row()
    table.add_row("rule of thumb", *_bytes(rule.nbytes), rule.formula)
    table.add_row(
        "exact - rule",
        *_bytes(difference, signed=True),
        Text(_verdict(difference, plan.peak_bytes, bool(terms)), "green" if difference == 0 else "yellow"),
    )
    for reason in terms:
        table.add_row(f"  {reason.name}", *_bytes(reason.nbytes, signed=True), reason.words)
    return table


def _life(buffer: LiveBuffer) -> str:
    return f"[{buffer.born}, {buffer.dead})"


def _at_peak(plan: InferencePlan, limit: int) -> tuple[Text, Table]:
    kind = plan._net.op_kinds[int(plan.order[plan.peak_step])]
    last = plan.order.shape[0] - 1
    where = f"peak at step {plan.peak_step} of 0 to {last}: "
    head = Text.assemble(where, (plan.peak_op, "bold"), f" ({kind})")
    live = plan.live_at_peak
    table = _grid("l", "r", "r", "l")
    table.columns[0].overflow = "fold"
    table.columns[0].no_wrap = False
    table.add_row("alive there", "", "", "shape, type, steps [born, dead)", style="dim")
    for b in live[:limit]:
        table.add_row(b.name, *_bytes(b.nbytes), f"{shape_text([b.shape])} {b.dtype} {_life(b)}")
    if len(live) > limit:
        rest = live[limit:]
        table.add_row(f"({len(rest)} more)", *_bytes(sum(b.nbytes for b in rest)), "")
    if plan.scratch_at_peak:
        table.add_row("(scratch)", *_bytes(plan.scratch_at_peak), "while the op runs")
    return head, table


def _counted(plan: InferencePlan) -> str:
    rules = plan.profile
    image = "the caller keeps the input" if rules.keeps_inputs else "the input dies after its last reader"
    scratch = "; pool indices count while they exist" if rules.pool_indices else ""
    return (
        "counted: every tensor from the step that writes it through its last reader, views and ops in place "
        f"({_INPLACE[rules.inplace].removeprefix('in place ')}) once; "
        f"{image}; outputs live to the end{scratch}; weights in full. "
        "Not counted: rounding and fragmentation of an allocator, workspaces of kernels, the runtime."
    )


def inference_report(
    plan: InferencePlan, rule: RuleOfThumb, *, live: int = 6, width: int = 60, ascii_only: bool = False
) -> RenderableType:
    """Report an inference plan on one screen, the rule of thumb beside the exact figure.

    Parameters
    ----------
    plan : InferencePlan
    rule : RuleOfThumb
        The rule for inference on the same network, batch and type.
    live : int
        Most tensors that are listed at the peak.
    width : int
        Most columns of the timeline.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    head, table = _at_peak(plan, live)
    return Group(
        _header(plan),
        _counts(plan),
        "",
        _indented(_amounts(plan, rule), "", head, table, "", _timeline(plan, width, ascii_only)),
        "",
        Text(_counted(plan), "dim"),
    )


def _timeline(plan: InferencePlan, width: int, ascii_only: bool) -> Group:
    n = len(plan.order)
    return Group(
        f"activations over the {n:,} steps, 0 to {format_bytes(plan.activation_peak_bytes)}",
        Text(sparkline(plan.timeline.tolist(), width, ascii_only=ascii_only), "cyan", no_wrap=True),
    )


def inference_summary(
    plan: InferencePlan, rule: RuleOfThumb, *, width: int = 60, ascii_only: bool = False
) -> RenderableType:
    """Report an inference plan in a few lines: sums, the rule and why it differs, the timeline.

    Parameters
    ----------
    plan : InferencePlan
    rule : RuleOfThumb
    width : int
        Most columns of the timeline.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    return Group(_header(plan), _counts(plan), _indented(_amounts(plan, rule), _timeline(plan, width, ascii_only)))


class Lines:
    """A table of texts in aligned columns, a line per row; rich's own tables take a millisecond per row.

    Parameters
    ----------
    heads : sequence of (str, str)
        Heading of each column and ``"l"`` or ``"r"``.
    rows : sequence of sequence of str
    bold : int, optional
        Row to set in bold.
    gives : int
        Column that loses its beginning where the lines are too wide: names differ at the end.
    """

    def __init__(
        self,
        heads: Sequence[tuple[str, str]],
        rows: Sequence[Sequence[str]],
        bold: int | None = None,
        gives: int = 1,
    ) -> None:
        self.heads, self.rows, self.bold, self.gives = heads, rows, bold, gives
        columns = zip(*rows, strict=True) if rows else [()] * len(heads)
        self.widths = [max(map(len, (h, *c))) for (h, _), c in zip(heads, columns, strict=True)]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        total = sum(self.widths) + 2 * len(self.widths) - 2
        return Measurement(total, total)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = list(self.widths)
        over = sum(widths) + 2 * len(widths) - 2 - options.max_width
        if over > 0:
            widths[self.gives] = max(8, len(self.heads[self.gives][0]), widths[self.gives] - over)
        left = [side == "l" for _, side in self.heads]
        most = widths[self.gives]
        dots = "..." if is_ascii(console) else "…"

        def line(cells: Sequence[str], bold: bool) -> Segment:
            texts = list(cells)
            if len(texts[self.gives]) > most:
                texts[self.gives] = dots + texts[self.gives][len(dots) - most :]
            aligned = [t.ljust(w) if at_left else t.rjust(w) for t, w, at_left in zip(texts, widths, left, strict=True)]
            return Segment("  ".join(aligned).rstrip()[: options.max_width], Style(bold=True) if bold else None)

        yield line([head for head, _ in self.heads], True)
        yield Segment.line()
        for i, row in enumerate(self.rows):
            yield line(row, i == self.bold)
            yield Segment.line()


def timeline_table(plan: InferencePlan, *, width: int = 30, ascii_only: bool = False) -> Lines:
    """Return one row per step: the activation bytes alive while it runs, as a number and as a bar.

    Parameters
    ----------
    plan : InferencePlan
    width : int
        Columns of the longest bar.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    top = max(plan.activation_peak_bytes, 1)
    bar = "#" if ascii_only else "█"
    names = plan._net.op_names
    rows = [
        (str(step), f"{nbytes:,}", bar * (nbytes * width // top), names[op])
        for step, (nbytes, op) in enumerate(zip(plan.timeline.tolist(), plan.order.tolist(), strict=True))
    ]
    heads = (("step", "r"), ("alive B", "r"), ("", "l"), ("op", "l"))
    return Lines(heads, rows, plan.peak_step, gives=3)


def ops_table(rows: Sequence[OpRow], plan: InferencePlan, *, narrow: bool = False) -> RenderableType:
    """Return the per-op table, with the sums of the whole network under it.

    Parameters
    ----------
    rows : sequence of OpRow
        Of ``plan.ops``, in any order.
    plan : InferencePlan
    narrow : bool
        Leave out the operator and write counts and bytes for people, for a terminal of 80 columns.

    Returns
    -------
    rich renderable
    """
    heads = [("step", "r"), ("name", "l"), ("op", "l"), ("output", "l"), ("params", "r"), ("MACs", "r"),
             ("output B", "r"), ("live B", "r")]  # fmt: skip
    if narrow:
        del heads[2]
        heads[-2:] = [("output", "r"), ("live", "r")]
    cells = []
    bold = None
    for i, row in enumerate(rows):
        if row.step == plan.peak_step:
            bold = i
        if narrow:
            numbers = [format_count(row.parameters), format_count(row.macs)]
            numbers += [format_bytes(row.output_bytes), format_bytes(row.live_bytes)]
        else:
            numbers = [f"{n:,}" for n in (row.parameters, row.macs, row.output_bytes, row.live_bytes)]
        kind = [] if narrow else [row.op]
        cells.append([str(row.step), row.name, *kind, shape_text(row.output_shapes), *numbers])
    human, exact = _bytes(plan.activation_peak_bytes)
    data = plan.to_dict()
    shown = "" if len(rows) == len(plan.order) else f"{len(rows):,} of "
    foot = (
        f"{shown}{len(plan.order):,} ops · {data['parameters']:,} parameters · {plan.macs:,} MACs\n"
        f"most alive: {human} ({exact}) at step {plan.peak_step}, {plan.peak_op}"
    )
    return Group(_header(plan), "", Lines(heads, cells, bold), "", Text(foot))


def plain_table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of texts; `heads` are pairs of heading and ``"l"`` or ``"r"``, the last column wraps.

    Parameters
    ----------
    heads : sequence of (str, str)
    rows : iterable of sequence of str

    Returns
    -------
    rich.table.Table
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, (head, justify) in enumerate(heads):
        last = i == len(heads) - 1
        side: Literal["left", "right"] = "right" if justify == "r" else "left"
        table.add_column(head, justify=side, no_wrap=not last, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def open_console() -> Console:
    """Return a console on standard output: colours on a terminal only, none where NO_COLOR is set."""
    console = Console(
        highlight=False,
        markup=False,
        emoji=False,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def is_ascii(console: Console) -> bool:
    """Whether a console's encoding lacks the characters that bars are drawn with."""
    return not console.encoding.lower().startswith("utf")


def show(console: Console, renderable: RenderableType, *, widen: bool = True) -> None:
    """Print a report.

    Parameters
    ----------
    console : rich.console.Console
        From :func:`open_console`.
    renderable : rich renderable
    widen : bool
        What goes to a pipe or a file is as wide as it needs to be, so that no name is cut.
    """
    if console.is_terminal:
        console.print(renderable)
        return
    width = console.measure(renderable, options=console.options.update(width=_ANY_WIDTH)).maximum if widen else 0
    console.width = max(console.width, width)
    with console.capture() as captured:
        console.print(renderable)
    text = "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
    if is_ascii(console):
        text = text.translate(_IN_ASCII).encode(console.encoding, "replace").decode(console.encoding)
    sys.stdout.write(text)
