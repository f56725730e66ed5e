"""Reports of training plans, and of what fits, for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from cnnlive.plan.batchsize import Fit
from cnnlive.plan.inference import InferencePlan
from cnnlive.plan.rules import RuleOfThumb
from cnnlive.plan.training import TrainingPlan
from cnnlive.report.optimizers import optimizer_text
from cnnlive.report.reasons import bytes_by_type, training_reasons
from cnnlive.report.text import Lines, both_bytes, grid, indented, percent, sparkline
from cnnlive.units import format_bytes, format_count

__all__ = [
    "Dominant",
    "ModuleShare",
    "dominant",
    "fit_report",
    "training_ops_table",
    "training_report",
    "training_timeline_table",
]

_NARROW: Final = 84
_SETTING: Final = {"before_backward": "zero_grad before backward", "after_step": "zero_grad after the step"}


def _header(plan: TrainingPlan, batch: bool = True) -> Text:
    parts = [f"training, batch {plan.batch}" if batch else "training", optimizer_text(plan.optimizer)]
    parts += [plan.precision, plan.device, plan.loss]
    if plan.zero_grad in _SETTING:
        parts.append(_SETTING[plan.zero_grad])
    if plan.micro_batches > 1:
        parts.append(f"{plan.micro_batches} micro-batches")
    if plan.first_step:
        parts.append("first step")
    if plan.late_step:
        parts.append("late step")
    return Text.assemble((plan.name or "network", "bold"), "  ", " · ".join(parts))


def _counts(plan: TrainingPlan) -> Text:
    n, outputs = plan.network.n_parameters, len(plan.network.outputs)
    trained = sum(leaf.nbytes // leaf.itemsize for leaf in plan.tape.leaves if leaf.trainable and leaf.name != "input")
    words = [f"{plan.network.n_ops:,} ops", f"{format_count(n)} parameters ({n:,})"]
    if trained != n:
        words.append(f"{format_count(trained)} of them trained")
    if outputs > 1:
        words.append(f"{outputs} outputs, auxiliary ones among them")
    return Text(" · ".join(words))


def _words(plan: TrainingPlan) -> dict[str, str]:
    has = plan.composition
    made = f"{percent(has['gradients'], plan.gradient_bytes)} of all" if plan.gradient_bytes else "nothing is trained"
    return {
        "gradients": made,
        "optimizer_state": f"of {plan.optimizer.name}",
        "activations": "made by forward and still alive",
        "temporaries": {
            "forward": "of the op itself",
            "backward": "gradients of activations, and what the op makes",
            "optimizer": "of the step",
        }[plan.peak_phase],
        "inputs": "images and targets",
        "buffers": "stored, not trained",
    }


def _amounts(
    plan: TrainingPlan, rules: Sequence[RuleOfThumb], beside: Sequence[tuple[str, int, str]], columns: int
) -> RenderableType:
    """Return the peak and what it is made of, the totals, and the rules of thumb under them in the same columns."""
    people = columns >= _NARROW
    table = grid(*("lrrrl" if people else "lrrl"))

    def add(
        name: str, nbytes: int, words: str | Text = "", *, share: bool = False, signed: bool = False, style: str = ""
    ) -> None:
        human, exact = both_bytes(nbytes, signed)
        cells = [name, *([human] if people else []), exact, percent(nbytes, plan.peak_bytes) if share else ""]
        table.add_row(*(Text(t, style) for t in cells), words)

    record = f" ({plan.peak_record})" if plan.peak_record not in (plan.peak_op, plan.optimizer.name) else ""
    where = plan.peak_op if plan.peak_phase == "optimizer" else f"in {plan.peak_phase} at {plan.peak_op}{record}"
    add("peak", plan.peak_bytes, Text(where, "bold"), style="bold")
    words = _words(plan)
    for name, nbytes in sorted(plan.composition.items(), key=lambda item: -item[1]):
        if nbytes:
            add(f"  {name.replace('_', ' ')}", nbytes, words.get(name, ""), share=True)
    for name, nbytes, text in beside:
        add(name, nbytes, text)
    table.add_row()
    add("totals: static", plan.static_bytes, "parameters, buffers, inputs, optimizer state")
    add("  gradients", plan.gradient_bytes, "of the parameters, once all are made")
    add("  saved", plan.saved_bytes, "activations that backward keeps")
    for name, nbytes in (
        ("forward", plan.forward_peak),
        ("backward", plan.backward_peak),
        ("optimizer", plan.optimizer_peak),
    ):
        add(f"  {name} peak", nbytes, "the peak" if name == plan.peak_phase else "")
    for k, rule in enumerate(rules):
        difference = plan.peak_bytes - rule.nbytes
        table.add_row()
        add("rule of thumb" if k == 0 else "practitioner's", rule.nbytes, rule.formula)
        low = "low" if difference > 0 else "high"
        verdict = f"the rule is {percent(difference, plan.peak_bytes)} too {low}" if difference else "equal"
        add("exact - rule", difference, Text(verdict, "yellow" if difference else "green"), signed=True)
        for reason in training_reasons(plan, rule) if k == 0 else ():
            add(f"  {reason.name}", reason.nbytes, reason.words, signed=True)
    return table


def _alive(plan: TrainingPlan, limit: int) -> Lines:
    live = plan.live_at_peak
    rows = [(t.name, *both_bytes(t.nbytes), t.kind) for t in live[:limit]]
    if len(live) > limit:
        rest = live[limit:]
        rows.append((f"({len(rest)} more)", *both_bytes(sum(t.nbytes for t in rest)), ""))
    heads = [("alive at the peak", "l"), ("", "r"), ("", "r"), ("what", "l")]
    return Lines(heads, rows, gives=0, may_go=(1,), least=20)


def _timeline(plan: TrainingPlan, columns: int, ascii_only: bool) -> Group:
    values = plan.timeline.tolist()
    n = (len(values) - 1) // 2
    width = max(4, min(34, (columns - 12) // 2))
    parts = values[:n], values[n:-1], values[-1:]
    bars = [sparkline(part, width, top=plan.peak_bytes, ascii_only=ascii_only) for part in parts]
    bar = "|" if ascii_only else "│"
    return Group(
        f"alive over forward {bar} backward {bar} optimizer, 0 to {format_bytes(plan.peak_bytes)}",
        Text(bar.join(bars), "cyan", no_wrap=True),
    )


def _counted(plan: TrainingPlan, context: bool, workspace: bool) -> str:
    missing = [] if plan.reserved_bytes is not None else ["rounding and fragmentation of the allocator (--allocator)"]
    missing += [] if context else ["the CUDA context (--context 1.8GiB)"]
    missing += [] if workspace else ["workspaces of kernels (--workspace 8519680)"]
    if plan.device == "cpu":
        missing = ["scratch of kernels, the allocator, the process itself"]
    words = (
        "counted: every tensor that a training step of eager PyTorch has alive at once, each storage once: parameters, "
        "buffers, inputs and targets, optimizer state, gradients, activations, temporaries."
    )
    return f"{words} Not counted: {', '.join(missing)}." if missing else words


def training_report(
    plan: TrainingPlan,
    rules: Sequence[RuleOfThumb],
    *,
    context_bytes: int = 0,
    workspace_bytes: int = 0,
    live: int = 6,
    columns: int = 120,
    ascii_only: bool = False,
) -> RenderableType:
    """Report a training plan on one screen, the rules of thumb beside the exact figure.

    Parameters
    ----------
    plan : TrainingPlan
    rules : sequence of RuleOfThumb
        See :func:`cnnlive.report.reasons.training_rules`; the first is explained term by term.
    context_bytes, workspace_bytes : int
        What else is on the device, added up with the peak where given.
    live : int
        Most tensors that are listed at the peak.
    columns : int
        Width of the screen: a narrow one gets no amounts for people and a shorter timeline.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    beside: list[tuple[str, int, str]] = []
    if plan.allocated_bytes is not None and plan.reserved_bytes is not None:
        beside.append(("allocated", plan.allocated_bytes, "max_memory_allocated() of the first two steps"))
        beside.append(("reserved", plan.reserved_bytes, "max_memory_reserved()"))
    added = context_bytes + workspace_bytes
    if context_bytes:
        beside.append(("context", context_bytes, "as given"))
    if workspace_bytes:
        beside.append(("workspace", workspace_bytes, "as given"))
    if added:
        base = plan.peak_bytes if plan.reserved_bytes is None else plan.reserved_bytes
        what = "peak" if plan.reserved_bytes is None else "reserved"
        beside.append(("on the device", base + added, f"{what} and what was given"))
    return Group(
        _header(plan),
        _counts(plan),
        "",
        indented(
            _amounts(plan, rules, beside, columns), "", _alive(plan, live), "", _timeline(plan, columns, ascii_only)
        ),
        "",
        Text(_counted(plan, bool(context_bytes), bool(workspace_bytes)), "dim"),
    )


def training_timeline_table(plan: TrainingPlan, *, width: int = 24, ascii_only: bool = False) -> Lines:
    """Return one row per step: the most bytes alive while it runs, as a number and as a bar.

    Parameters
    ----------
    plan : TrainingPlan
    width : int
        Columns of the longest bar.
    ascii_only : bool
        Draw with ASCII characters.

    Returns
    -------
    rich renderable
    """
    bar = "#" if ascii_only else "█"
    values = plan.timeline.tolist()
    rows: list[tuple[str, ...]] = []
    bold = None
    for nbytes, (phase, node, record) in zip(values, plan.steps, strict=True):
        if phase == "backward" and not nbytes:  # it has none
            continue
        if nbytes == plan.peak_bytes and phase == plan.peak_phase and bold is None:
            bold = len(rows)
        rows.append((phase, f"{nbytes:,}", bar * (nbytes * width // max(plan.peak_bytes, 1)), record, node))
    heads = (("phase", "l"), ("alive B", "r"), ("", "l"), ("PyTorch's op", "l"), ("op", "l"))
    return Lines(heads, rows, bold, gives=4, may_go=(3, 2))


def training_ops_table(plan: TrainingPlan, *, top: int | None = None, narrow: bool = False) -> RenderableType:
    """Return the per-op table of a training plan.

    Parameters
    ----------
    plan : TrainingPlan
    top : int, optional
        Only so many ops, those that backward keeps most of.
    narrow : bool
        Leave out the operator and write bytes for people.

    Returns
    -------
    rich renderable
    """
    rows = plan.ops
    if top is not None:
        rows = sorted(rows, key=lambda row: -row.saved_bytes)[:top]
    heads = [("name", "l"), ("op", "l"), ("params B", "r"), ("gradient B", "r"), ("saved B", "r"),
             ("alive forward B", "r"), ("alive backward B", "r")]  # fmt: skip
    if narrow:
        heads = [("name", "l"), ("params", "r"), ("saved", "r"), ("forward", "r"), ("backward", "r")]
    cells = []
    bold = None
    for k, row in enumerate(rows):
        if row.name == plan.peak_op:
            bold = k
        numbers = [row.parameter_bytes, row.gradient_bytes, row.saved_bytes, row.forward_bytes, row.backward_bytes]
        if narrow:
            del numbers[1]
        texts = [format_bytes(n) if narrow else f"{n:,}" for n in numbers]
        cells.append([row.name, *([] if narrow else [row.op]), *texts])
    words = "saved: what the op makes and backward keeps; alive: the most while it runs, everything counted"
    table = Lines(heads, cells, bold, gives=0, may_go=(1,) if narrow else (1, 3), least=12)
    return Group(table, "", Text(words, "dim"))


# ---------------------------------------------------------------------------------- what fits


def _subject(plan: TrainingPlan | InferencePlan) -> Text:
    if isinstance(plan, TrainingPlan):
        return _header(plan, batch=False)
    fused = ", fused" if plan.profile.fuse else ""
    parts = ["inference", " and ".join(bytes_by_type(plan)), f"profile {plan.profile.name}{fused}"]
    return Text.assemble((plan.name or "network", "bold"), "  ", " · ".join(parts))


def _parts(plan: TrainingPlan | InferencePlan) -> dict[str, int]:
    if isinstance(plan, TrainingPlan):
        return plan.composition
    return {"parameters": plan.parameter_bytes, "buffers": plan.buffer_bytes, "activations": plan.activation_peak_bytes}


class ModuleShare(NamedTuple):
    """A module, or an op in none, and its share of what dominates."""

    module: str
    share: float


class Dominant(NamedTuple):
    """What most of a peak consists of.

    Attributes
    ----------
    name : str
        A part of the peak, as in the composition of a plan.
    nbytes : int
    modules : tuple of ModuleShare
        Who holds it, the most first. What is alive counts by bytes; parameters, their gradients and the optimizer's
        state count by parameters.
    largest : str
        The largest tensor of it; empty where it is parameters.
    largest_bytes : int
    """

    name: str
    nbytes: int
    modules: tuple[ModuleShare, ...]
    largest: str
    largest_bytes: int


_ALIVE: Final = {"activations": "activation", "temporaries": "temporary"}
_SPLIT: Final = 0.6  # a module that holds more than this is taken apart
_WHAT: Final = {
    "activations": "activations that backward keeps",
    "optimizer_state": "state of the optimizer",
    "temporaries": "temporaries: gradients of activations, or of the optimizer's step",
}
_MODULES: Final = 5


def dominant(plan: TrainingPlan | InferencePlan) -> Dominant:
    """Return what most of a peak consists of, and which modules hold it.

    Parameters
    ----------
    plan : TrainingPlan or InferencePlan

    Returns
    -------
    Dominant
    """
    name, nbytes = max(_parts(plan).items(), key=lambda item: item[1])
    net = plan.network
    path = {op: f"{scope}.{op}" if scope and not op.startswith(f"{scope}.") else op
            for op, scope in zip(net.op_names, net.op_scopes, strict=True)}  # fmt: skip
    held: list[tuple[str, str, int]] = []
    if isinstance(plan, TrainingPlan) and name in _ALIVE:
        held = [(t.op, t.name, t.nbytes) for t in plan.live_at_peak if t.kind == _ALIVE[name]]
    elif isinstance(plan, InferencePlan) and name == "activations":
        held = [(b.name if b.name in path else b.name.rpartition(":")[0], b.name, b.nbytes) for b in plan.live_at_peak]
    if held:
        top = max(held, key=lambda row: row[2])
        amounts = Counter[str]()
        for op, _, n in held:
            amounts[path.get(op, op)] += n
        return Dominant(name, nbytes, _by_module(amounts), *top[1:])
    if isinstance(plan, TrainingPlan):
        amounts = Counter({path.get(row.name, row.name): row.parameter_bytes for row in plan.ops})
    else:
        amounts = Counter({path.get(row.name, row.name): row.parameters for row in plan.ops})
    return Dominant(name, nbytes, _by_module(amounts), "", 0)


def _by_module(amounts: Mapping[str, int]) -> tuple[ModuleShare, ...]:
    """Sum amounts of dotted paths by their outermost modules; one that holds most of it is taken apart."""
    total = sum(amounts.values())
    depth = dict.fromkeys((path.split(".")[0] for path, n in amounts.items() if n), 1)
    apart: set[str] = set()
    while True:
        sums = Counter[str]()
        for path, n in amounts.items():
            parts = path.split(".")
            module = next((m for k in range(len(parts), 0, -1) if (m := ".".join(parts[:k])) in depth), "")
            sums[module] += n
        most = sums.most_common(1)
        module = most[0][0] if most else ""
        if module in apart or not most or not most[0][1] > _SPLIT * total:
            break
        apart.add(module)
        below = {".".join(path.split(".")[: depth[module] + 1]) for path, n in amounts.items()
                 if n and path.startswith(f"{module}.")}  # fmt: skip
        if not below:
            break
        level = depth.pop(module) + 1
        depth.update(dict.fromkeys(sorted(below), level))
        if module in amounts:  # an op of the module's own name stays beside its parts
            depth[module] = level
    return tuple(ModuleShare(m, n / total) for m, n in sums.most_common() if n and m)


def _limit(plan: TrainingPlan | InferencePlan) -> str:
    """Say where the peak is."""
    phase = plan.peak_phase if isinstance(plan, TrainingPlan) else "inference"
    where = "in the optimizer's step" if phase == "optimizer" else f"in {phase} at {plan.peak_op}"
    return f"batch {plan.batch} peaks {where}"


def _dominates(plan: TrainingPlan | InferencePlan) -> list[RenderableType]:
    """Say what most of a peak is, and who holds it."""
    found = dominant(plan)
    words = found.name.replace("_", " ")
    if isinstance(plan, TrainingPlan):
        words = _WHAT.get(found.name, words)
    words = f"{words}, {percent(found.nbytes, max(plan.peak_bytes, 1))}"
    parts: list[RenderableType] = [Text.assemble(f"what dominates at batch {plan.batch}: ", (words, "bold"))]
    rows = [(m.module, f"{100 * m.share:.1f} %") for m in found.modules[:_MODULES]]
    if rest := found.modules[_MODULES:]:
        rows.append((f"({len(rest)} more)", f"{100 * sum(m.share for m in rest):.1f} %"))
    if rows:
        parts.append(indented(Lines([("held by", "l"), ("share", "r")], rows, gives=0, least=12)))
    if found.largest:
        parts.append(Text(f"the largest tensor of it: {found.largest}, {format_bytes(found.largest_bytes)}"))
    return parts


def _columns(found: Sequence[Fit]) -> Lines:
    plans = [fit.plan for fit in found]
    rows: list[tuple[str, list[int], bool]] = [("needs", [fit.needed_bytes for fit in found], False)]
    names = dict.fromkeys(name for plan in plans for name, nbytes in _parts(plan).items() if nbytes)
    rows.append(("  peak of the tensors", [plan.peak_bytes for plan in plans], False))
    rows += [(f"    {name.replace('_', ' ')}", [_parts(plan).get(name, 0) for plan in plans], False) for name in names]
    reserved = [getattr(plan, "reserved_bytes", None) for plan in plans]
    if None not in reserved:
        rows.append(("  reserved by the allocator", [n or 0 for n in reserved], False))
    for name, given in (("context", found[0].context_bytes), ("workspace", found[0].workspace_bytes)):
        if given:
            rows.append((f"  {name}", [given] * len(found), False))
    rows.append(("left of the budget", [fit.free_bytes for fit in found], True))
    cells = [(name, *(text for n in amounts for text in both_bytes(n, signed))) for name, amounts, signed in rows]
    heads = [("", "l")]
    for fit in found:
        heads += [(f"batch {fit.plan.batch}", "r"), ("fits" if fit else "does not fit", "r")]
    return Lines(heads, cells, 0, gives=0, may_go=tuple(range(2, len(heads), 2)), least=12)


def fit_report(found: Sequence[Fit], answer: str, batches: RenderableType | None = None) -> RenderableType:
    """Report whether a net fits a budget, at one batch or at two of them side by side.

    Parameters
    ----------
    found : sequence of Fit
        At least one; more stand beside each other.
    answer : str
        The answer in words.
    batches : rich renderable, optional
        More of the answer, which stands below it.

    Returns
    -------
    rich renderable
    """
    first = found[0]
    plan = first.plan
    reserved = isinstance(plan, TrainingPlan) and plan.reserved_bytes is not None
    budget = Text(f"budget {format_bytes(first.budget_bytes)} ({first.budget_bytes:,} B)")
    parts: list[RenderableType] = [] if batches is None else [batches, ""]
    parts += [*_dominates(plan), "", _columns(found), "", *(Text(_limit(fit.plan)) for fit in found)]
    if len(found) == 2 and not reserved:
        step = found[1].plan.batch - plan.batch
        more = found[1].needed_bytes - first.needed_bytes
        images = "one image more takes" if step == 1 else f"{step} images more take"
        parts.append(Text(f"{images} {format_bytes(more)} ({more:,} B)"))
    if reserved and not all(found):
        parts.append(Text("needs, where it does not fit: what the allocator would reserve without a limit"))
    missing = [] if reserved else ["rounding and fragmentation of the allocator"]
    if isinstance(plan, TrainingPlan) and not reserved:
        missing[0] += " (--allocator)"
    missing += [] if first.context_bytes else ["the CUDA context (--context 1.8GiB)"]
    missing += [] if first.workspace_bytes else ["workspaces of kernels (--workspace 8519680)"]
    note = f"Not counted: {', '.join(missing)}." if missing else ""
    return Group(_subject(plan), budget, "", Text(f"  {answer}", "bold"), "", indented(*parts), "", Text(note, "dim"))
