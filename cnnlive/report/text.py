"""Reports for a terminal, from result objects only: rich renderables that fit one screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from cnnlive.plan.inference import InferencePlan, OpRow
from cnnlive.plan.rules import RuleOfThumb
from cnnlive.profiles import PROFILES, Profile
from cnnlive.report.reasons import bytes_by_type, last_use, reasons, stored_kinds
from cnnlive.units import format_bytes, format_count

__all__ = [
    "Lines",
    "at_peak",
    "both_bytes",
    "grid",
    "header",
    "indented",
    "inference_report",
    "inference_summary",
    "is_ascii",
    "note",
    "open_console",
    "ops_table",
    "percent",
    "plain_table",
    "printable",
    "shape_text",
    "show",
    "sparkline",
    "timeline_table",
]

PIPED_WIDTH: Final = 120
_ANY_WIDTH: Final = 10_000
_NARROW: Final = 76
_BARS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = "_.-=+*#@"
_IN_ASCII: Final = str.maketrans({"·": "-", "…": "...", "×": "x"})  # noqa: RUF001
_INPLACE: Final = {
    "graph": "in place as the graph says",
    "dead": "in place where possible",
    "never": "nothing in place",
}


def sparkline(values: Sequence[int], width: int = 60, *, top: int | None = None, ascii_only: bool = False) -> str:
    """Draw non-negative values as a row of bars.

    Parameters
    ----------
    values : sequence of int
    width : int
        Most columns; more values than that are joined, each column showing the largest of its share, so that
        the peak is always seen.
    top : int, optional
        What a full bar stands for.  Default: the largest value.
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
    top = max(shares, default=0) if top is None else top
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


def both_bytes(nbytes: int, signed: bool = False) -> tuple[str, str]:
    """Return bytes for people and exact bytes."""
    sign = "-" if nbytes < 0 else "+" if signed else ""
    return sign + format_bytes(abs(nbytes)), f"{sign}{abs(nbytes):,} B"


def percent(part: int, whole: int) -> str:
    """Return the share of `part` in `whole`, without a sign: ``"3.1 %"``."""
    share = abs(100 * part / whole)
    return f"{share:.1f} %" if share >= 0.1 else f"{share:.2g} %"


def _verdict(difference: int, exact: int, cancels: bool) -> str:
    if difference == 0:
        return (
            "right by chance: what it misses cancels"
            if cancels
            else "the rule is right: two maps are all that is alive"
        )
    return f"the rule is {percent(difference, exact)} too {'low' if difference > 0 else 'high'}"


def _inplace(rules: Profile) -> str:
    return "in place as the runtime's kernels do" if rules.takeover is not None else _INPLACE[rules.inplace]


def header(plan: InferencePlan, what: str = "inference") -> Text:
    """Return the line that says what was planned: the network, `what` of it, batch, types and rules."""
    rules = f"profile {plan.profile.name}{', fused' if plan.profile.fuse else ''}"
    parts = [f"{what}, batch {plan.batch}", " and ".join(bytes_by_type(plan)) or "no activations", rules]
    usual = PROFILES.get(plan.profile.name)
    if plan.profile.inplace != (usual.inplace if usual is not None else "graph"):
        parts.append(_inplace(plan.profile))
    return Text.assemble((plan.name or "network", "bold"), "  ", " · ".join(parts))


def _counts(plan: InferencePlan) -> Text:
    n = plan.network.n_parameters
    exact = f" ({n:,})" if n >= 10_000 else ""
    return Text(
        f"{len(plan.order):,} ops · {format_count(n)} parameters{exact} · "
        f"{format_count(plan.macs)} multiply-accumulates"
    )


def grid(*justify: str) -> Table:
    """Return a table without lines; the last column takes what is left and wraps."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for i, j in enumerate(justify):
        last = i == len(justify) - 1
        table.add_column(justify="right" if j == "r" else "left", no_wrap=not last, overflow="fold")
    return table


def indented(*parts: RenderableType) -> Padding:
    """Return the parts one under the other, two columns from the left."""
    return Padding(Group(*parts), (0, 0, 0, 2))


def _bound(plan: InferencePlan) -> str:
    if plan.optimal:
        return "no order of the ops takes less"
    return f"any order takes {plan.lower_bound:,} B or more"


def _amounts(plan: InferencePlan, rule: RuleOfThumb, columns: int) -> Table:
    """Return the exact figures, and the rule of thumb under them in the same columns."""
    people = columns >= _NARROW
    table = grid(*("lrrl" if people else "lrl"))

    def add(name: str, nbytes: int, words: str | Text, *, signed: bool = False, style: str = "") -> None:
        cells = both_bytes(nbytes, signed)
        table.add_row(*(Text(t, style) for t in (name, *(cells if people else cells[1:]))), words)

    add("peak", plan.peak_bytes, "weights and activations", style="bold")
    add("  parameters", plan.parameter_bytes, "")
    if plan.buffer_bytes:
        add("  buffers", plan.buffer_bytes, stored_kinds(plan))
    add("  activations", plan.activation_peak_bytes, _bound(plan))
    difference = plan.peak_bytes - rule.nbytes
    terms = reasons(plan, rule)
    table.add_row()
    add("rule of thumb", rule.nbytes, rule.formula)
    verdict = _verdict(difference, plan.peak_bytes, bool(terms))
    add("exact - rule", difference, Text(verdict, "yellow" if difference else "green"), signed=True)
    for reason in terms:
        add(f"  {reason.name}", reason.nbytes, reason.words, signed=True)
    return table


def _why(plan: InferencePlan) -> dict[str, str]:
    """Return why each buffer is alive at the peak, by its name."""
    reads, writes, inputs, outputs = (
        {b.name for b in buffers}
        for buffers in (plan.reads_at(plan.peak_step), plan.writes_at(plan.peak_step), plan.inputs, plan.outputs)
    )
    found = {}
    for b in plan.live_at_peak:
        if b.name in reads or b.name in writes:
            done = [word for word, names in (("read", reads), ("written", writes)) if b.name in names]
            found[b.name] = f"{' and '.join(done)} here"
        elif b.name in inputs and plan.profile.keeps_inputs:
            found[b.name] = "kept by the caller"
        else:
            found[b.name] = "an output" if b.name in outputs else last_use(plan, b)
    return found


def at_peak(plan: InferencePlan, limit: int) -> tuple[Text, Lines]:
    """Return the line that says where the peak is, and the table of at most `limit` buffers that are alive there."""
    kind = plan.network.op_kinds[int(plan.order[plan.peak_step])]
    last = plan.order.shape[0] - 1
    where = f"peak at step {plan.peak_step} of 0 to {last}: "
    head = Text.assemble(where, (plan.peak_op, "bold"), f" ({kind})")
    live = plan.live_at_peak
    why = _why(plan)
    rows: list[tuple[str, ...]] = [
        (b.name, *both_bytes(b.nbytes), shape_text([b.shape]), b.dtype, f"[{b.born}, {b.dead})", why[b.name])
        for b in live[:limit]
    ]
    if len(live) > limit:
        rest = live[limit:]
        rows.append((f"({len(rest)} more)", *both_bytes(sum(b.nbytes for b in rest)), "", "", "", ""))
    if plan.scratch_at_peak:
        rows.append(("(scratch)", *both_bytes(plan.scratch_at_peak), "", "", "", "while the op runs"))
    heads = [("alive there", "l"), ("", "r"), ("", "r"), ("shape", "l"), ("type", "l"), ("[born, dead)", "l"),
             ("why", "l")]  # fmt: skip
    if len(bytes_by_type(plan)) == 1:  # the header says it
        rows = [row[:4] + row[5:] for row in rows]
        del heads[4]
    return head, Lines(heads, rows, gives=0, may_go=(1, len(heads) - 2, 3), least=20)


def _counted(plan: InferencePlan) -> str:
    rules = plan.profile
    image = "the caller keeps the input" if rules.keeps_inputs else "the input dies after its last reader"
    scratch = "; pool indices count while they exist" if rules.pool_indices else ""
    frames = " or the end of the module call that holds it" if rules.frames else ""
    return (
        f"counted: every tensor from the step that writes it through its last reader{frames}, views and ops in place "
        f"({_inplace(rules).removeprefix('in place ')}) once; "
        f"{image}; outputs live to the end{scratch}; weights in full. "
        "Not counted: rounding and fragmentation of an allocator, workspaces of kernels, the runtime."
    )


def inference_report(
    plan: InferencePlan, rule: RuleOfThumb, *, live: int = 6, columns: int = 120, ascii_only: bool = False
) -> RenderableType:
    """Report an inference plan on one screen, the rule of thumb beside the exact figure.

    Parameters
    ----------
    plan : InferencePlan
    rule : RuleOfThumb
        The rule for inference on the same network, batch and type.
    live : int
        Most tensors that are listed at the peak.
    columns : int
        Width of the screen: a narrow one gets no amounts for people, a shorter timeline.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    head, table = at_peak(plan, live)
    return Group(
        header(plan),
        _counts(plan),
        "",
        indented(_amounts(plan, rule, columns), "", head, table, "", _timeline(plan, columns, ascii_only)),
        "",
        Text(_counted(plan), "dim"),
    )


def _timeline(plan: InferencePlan, columns: int, ascii_only: bool) -> Group:
    n = len(plan.order)
    width = max(1, min(60, columns - 4))
    return Group(
        f"activations over the {n:,} steps, 0 to {format_bytes(plan.activation_peak_bytes)}",
        Text(sparkline(plan.timeline.tolist(), width, ascii_only=ascii_only), "cyan", no_wrap=True),
    )


def inference_summary(
    plan: InferencePlan, rule: RuleOfThumb, *, columns: int = 120, ascii_only: bool = False
) -> RenderableType:
    """Report an inference plan in a few lines: sums, the rule and why it differs, the timeline.

    Parameters
    ----------
    plan : InferencePlan
    rule : RuleOfThumb
    columns : int
        Width of the screen.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    parts = _amounts(plan, rule, columns), _timeline(plan, columns, ascii_only)
    return Group(header(plan), _counts(plan), indented(*parts))


def _cells(text: str) -> int:
    """Return the columns of a screen that a text takes; those of East Asia take two each."""
    return len(text) if text.isascii() else cell_len(text)


def _ending(text: str, most: int) -> str:
    """Return as much of the end of a text as there are columns for."""
    while _cells(text) > most:
        text = text[max(1, (_cells(text) - most) // 2) :]
    return text


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
    may_go : sequence of int
        Columns that are left out on a narrow screen, the first of them first.
    least : int
        Width of the column that gives, below which others are left out.
    """

    def __init__(
        self,
        heads: Sequence[tuple[str, str]],
        rows: Sequence[Sequence[str]],
        bold: int | None = None,
        gives: int = 1,
        may_go: Sequence[int] = (),
        least: int = 8,
    ) -> None:
        self.heads, self.rows, self.bold, self.gives, self.may_go, self.least = heads, rows, bold, gives, may_go, least
        columns = zip(*rows, strict=True) if rows else [()] * len(heads)
        self.widths = [max(map(_cells, (h, *c))) for (h, _), c in zip(heads, columns, strict=True)]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        total = sum(self.widths) + 2 * len(self.widths) - 2
        return Measurement(total, total)

    def _fit(self, most: int) -> tuple[list[int], list[int]]:
        """Return the columns that are shown in `most` characters, and the width of each column."""
        widths = list(self.widths)
        shown = list(range(len(widths)))
        least = min(max(self.least, len(self.heads[self.gives][0])), widths[self.gives])
        leaving = list(self.may_go)
        while (over := sum(widths[c] + 2 for c in shown) - 2 - most) > widths[self.gives] - least and leaving:
            shown.remove(leaving.pop(0))
        widths[self.gives] = max(least, widths[self.gives] - max(over, 0))
        return shown, widths

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, widths = self._fit(options.max_width)
        most = widths[self.gives]
        dots = "..." if is_ascii(console) else "…"

        def line(cells: Sequence[str], bold: bool) -> Segment:
            texts = list(cells)
            if _cells(texts[self.gives]) > most:
                texts[self.gives] = dots + _ending(texts[self.gives], most - len(dots))
            aligned = []
            for c in shown:
                blank = " " * (widths[c] - _cells(texts[c]))
                aligned.append(texts[c] + blank if self.heads[c][1] == "l" else blank + texts[c])
            whole = "  ".join(aligned).rstrip()
            if _cells(whole) > options.max_width:
                whole = set_cell_size(whole, options.max_width).rstrip()
            return Segment(whole, Style(bold=True) if bold else None)

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
    names = plan.network.op_names
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
    human, exact = both_bytes(plan.activation_peak_bytes)
    shown = "" if len(rows) == len(plan.order) else f"{len(rows):,} of "
    foot = (
        f"{shown}{len(plan.order):,} ops · {plan.network.n_parameters:,} parameters · {plan.macs:,} MACs\n"
        f"most alive: {human} ({exact}) at step {plan.peak_step}, {plan.peak_op}"
    )
    words = "output: bytes that the op allocates, none for a view or in place; live: all that is alive while it runs"
    table = Lines(heads, cells, bold, may_go=(3, 4) if narrow else (), least=12)
    return Group(header(plan), "", table, "", Text(foot), Text(words, "dim"))


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


def note(words: str) -> Text:
    """Return a line under a table, such as what else to try."""
    return Text(words, "dim")


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
        What goes to a pipe or a file is as wide as its longest line; else sentences wrap, but no name is cut.
    """
    if console.is_terminal and not is_ascii(console):
        console.print(renderable)
        return
    if not console.is_terminal:
        needs = console.measure(renderable, options=console.options.update(width=_ANY_WIDTH))
        console.width = max(console.width, needs.maximum if widen else needs.minimum)
    with console.capture() as captured:
        console.print(renderable)
    text = captured.get()
    if not console.is_terminal:
        text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    sys.stdout.write(printable(console, text))


def printable(console: Console, text: str) -> str:
    """Return a text with other characters for those that a console's encoding lacks.

    Parameters
    ----------
    console : rich.console.Console
    text : str
    """
    if not is_ascii(console):
        return text
    return text.replace("·Σ", "*sum ").translate(_IN_ASCII).encode(console.encoding, "replace").decode(console.encoding)
