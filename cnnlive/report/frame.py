"""Tables of results as data frames: columns of numbers first, pandas or polars where asked for.

What a timeline consists of, kind by kind, is worked out here too: drawings and tables take it from one place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from cnnlive._types import I64, frozen
from cnnlive.errors import CnnliveError, MissingExtraError, close_names
from cnnlive.nas.base import METRICS
from cnnlive.report.text import shape_text

__all__ = [
    "INFERENCE_KINDS",
    "LIBRARIES",
    "TRAINING_KINDS",
    "Column",
    "ReportError",
    "columns_of",
    "genes_of",
    "inference_kinds",
    "is_bytes",
    "keep_all_timeline",
    "node_ops",
    "peak_node",
    "phase_ends",
    "tables_of",
    "to_frame",
    "training_instants",
    "training_kinds",
]

#: What the activations of a step of inference are there for.
INFERENCE_KINDS: Final[tuple[str, ...]] = ("read", "written", "held", "scratch")
#: What the bytes of a training step are, in the order in which they are stacked.
TRAINING_KINDS: Final[tuple[str, ...]] = (
    "parameters", "buffers", "optimizer_state", "inputs", "gradients", "saved", "activations", "temporaries",
)  # fmt: skip
LIBRARIES: Final = ("pandas", "polars")

# Types of columns by library. "int?" may lack a value.
_PANDAS: Final = {"int": "int64", "int?": "Int64", "float": "float64", "bool": "bool", "text": "string"}
_POLARS: Final = {"int": "Int64", "int?": "Int64", "float": "Float64", "bool": "Boolean", "text": "String"}


class ReportError(CnnliveError, ValueError):
    """A drawing, a table or a library that does not exist; the message lists those that do."""


class Column(NamedTuple):
    """A column of a table: name, type (``"int"``, ``"int?"``, ``"float"``, ``"bool"``, ``"text"``), and values."""

    name: str
    kind: str
    values: Any


# ---------------------------------------------------------------------------------- timelines by kind


def inference_kinds(plan: Any) -> I64:
    """Split the activations alive at each step by what they are there for.

    Parameters
    ----------
    plan : InferencePlan

    Returns
    -------
    (4, n_ops) int64
        Rows as `INFERENCE_KINDS`: buffers that the op reads (those that it writes in place, and what it views, among
        them); buffers that it begins; others, which wait for a later reader or are outputs; the op's scratch. The sum
        is ``plan.timeline``.

    Notes
    -----
    O(n_ops + n_edges).
    """
    net, lives = plan.network, plan._lives
    part, born, dead, nbytes = (a.tolist() for a in (lives.part, lives.part_born, lives.part_dead, plan._nbytes))
    in_ptr, in_idx, out_ptr = net.in_ptr.tolist(), net.in_idx.tolist(), net.out_ptr.tolist()
    found = np.zeros((4, len(plan.order)), np.int64)
    for step, op in enumerate(plan.order.tolist()):
        read = {part[t] for t in in_idx[in_ptr[op] : in_ptr[op + 1]]}
        written = {part[t] for t in range(out_ptr[op], out_ptr[op + 1])} - read
        for row, buffers in enumerate((read, written)):
            found[row, step] = sum(nbytes[b] for b in buffers if born[b] <= step < dead[b])
    found[3] = plan._scratch[plan.order]
    found[2] = plan.timeline - found[0] - found[1] - found[3]
    return frozen(found)


def training_instants(plan: Any) -> tuple[I64, I64]:
    """Find when each step of a training plan's timeline is at its worst.

    Parameters
    ----------
    plan : TrainingPlan

    Returns
    -------
    at : (2 * n_records + 1,) int64
        The number of events of the step before that instant; never falling.
    alive : (4, n_events + 1) int64
        Bytes alive after so many events: the last four of `TRAINING_KINDS`.

    Notes
    -----
    O(events of the step).
    """
    run, tape = plan._run, plan.tape
    n, n_forward, n_events = tape.n_records, int(run.answer[18]), int(run.answer[0])
    saved = np.zeros(len(run.kind), bool)
    saved[tape.saved_stores] = True
    events = run.events[:n_events]
    store = np.abs(events) - 1
    row = np.where(run.kind[store] == 2, 0, np.where(run.kind[store] == 1, 3, np.where(saved[store], 1, 2)))
    change = np.zeros((4, n_events + 1), np.int64)
    change[row, np.arange(1, n_events + 1)] = np.where(events > 0, run.nbytes[store], -run.nbytes[store])
    alive = np.cumsum(change, axis=1)  # after so many events
    total = alive.sum(axis=0)
    at = np.full(2 * n + 1, n_events, np.int64)
    # Forward: a record's worst instant is when it has made everything and nothing of it is let go.
    refs, event = tape.store_refs.tolist(), 0
    made, drops = np.diff(tape.alloc_ptr).tolist(), tape.drop_idx.tolist()
    for p in range(n):
        event += made[p]
        at[p] = event
        for s in drops[tape.drop_ptr[p] : tape.drop_ptr[p + 1]]:
            refs[s] -= 1
            event += refs[s] == 0
    marks, now = run.marks.tolist(), n_forward
    for k, p in enumerate(range(n - 1, -1, -1), n):
        begin, _, end = marks[p]
        if end:
            at[k] = begin + int(total[begin : end + 1].argmax())
            now = end
        else:
            at[k] = now
    return frozen(at), frozen(alive)


def training_kinds(plan: Any) -> I64:
    """Split what is alive at the worst instant of each step of a training plan's timeline by kind.

    Parameters
    ----------
    plan : TrainingPlan

    Returns
    -------
    (8, 2 * n_records + 1) int64
        Rows as `TRAINING_KINDS`. ``saved`` is what forward made and backward keeps, ``activations`` what else forward
        made, ``temporaries`` what backward or the optimizer made; what becomes a parameter's gradient is one from its
        making on, as in ``plan.live_at_peak``. The sum is ``plan.timeline`` wherever that is above 0; where a record
        has no backward, it is what stays alive meanwhile.

    Notes
    -----
    O(events of the step).
    """
    at, alive = training_instants(plan)
    n = plan.tape.n_records
    before, behind = plan._floors
    fixed = (plan.parameter_bytes, plan.buffer_bytes, plan.composition["optimizer_state"],
             plan.input_bytes + plan.target_bytes)  # fmt: skip
    found = np.zeros((8, 2 * n + 1), np.int64)
    for kind, nbytes in enumerate(fixed):
        found[kind] = nbytes
    found[4:, : 2 * n] = alive[:, at[:-1]]
    found[4, :n] += before - sum(fixed)
    found[4, n : 2 * n] += behind - sum(fixed)
    found[4:, -1] = plan.gradient_bytes, *alive[1:, -1].tolist()
    found[7, -1] += plan.optimizer_peak - int(found[:, -1].sum())
    return frozen(found)


def keep_all_timeline(plan: Any) -> I64:
    """Return what a plan's timeline would be with everything kept; (n_nodes,) int64.

    Parameters
    ----------
    plan : RematPlan or CheckpointPlan
    """
    evaluated = getattr(plan, "remat", plan)._evaluated()
    evaluated.reset(evaluated.model.start)
    found: I64 = evaluated.timeline
    return found


def phase_ends(plan: Any) -> list[tuple[str, int]]:
    """Return the phases of a timeline, each with the step behind its last one; phases without steps are left out."""
    kind = type(plan).__name__
    if kind in ("TrainingPlan", "WrapPlan"):
        n = len(plan.timeline) // 2
        ends = [("forward", n), ("backward", 2 * n), ("optimizer", 2 * n + 1)]
    elif kind == "CheckpointPlan":
        phase = plan.step.phase
        ends = [(name, int((phase <= k).sum())) for k, name in enumerate(("forward", "backward", "optimizer"))]
    elif kind == "RematPlan":
        ends = [("forward", plan.problem.loss + 1), ("backward", plan.problem.n)]
    else:
        return []
    return [(name, end) for k, (name, end) in enumerate(ends) if end > (ends[k - 1][1] if k else 0)]


def _phases(plan: Any, n: int) -> list[str]:
    found: list[str] = []
    for name, end in phase_ends(plan):
        found += [name] * (min(end, n) - len(found))
    return found


def node_ops(plan: Any) -> list[str]:
    """Return the op of the graph that each node of a checkpoint plan belongs to; the start and releases have none."""
    training, records = plan.training, plan.step.record.tolist()
    names = []
    for phase, record in zip(plan.step.phase.tolist(), records, strict=True):
        op = training.tape.records[record][0] if record >= 0 else None
        label = "" if op is None else "loss" if op < 0 else training.network.op_names[op]
        names.append("optimizer.step" if phase == 2 else label)
    return names


def peak_node(plan: Any) -> int:
    """Return the first step of a timeline that reaches its maximum."""
    return int(np.argmax(plan.timeline))


# ---------------------------------------------------------------------------------- tables


def _rows(rows: Sequence[Any], fields: Sequence[tuple[str, str, Callable[[Any], Any]]]) -> list[Column]:
    return [Column(name, kind, [get(row) for row in rows]) for name, kind, get in fields]


def _field(name: str, kind: str = "int") -> tuple[str, str, Callable[[Any], Any]]:
    return name, kind, lambda row: getattr(row, name)


def _shapes(name: str) -> tuple[str, str, Callable[[Any], Any]]:
    return name, "text", lambda row: shape_text(getattr(row, name))


def _inference_ops(plan: Any) -> list[Column]:
    fields = [_field("step"), _field("name", "text"), _field("op", "text"), _field("scope", "text"),
              _shapes("input_shapes"), _shapes("output_shapes"), _field("parameters"), _field("macs"),
              _field("output_bytes"), _field("live_bytes")]  # fmt: skip
    return _rows(plan.ops, fields)


def _inference_buffers(plan: Any) -> list[Column]:
    fields = [_field("name", "text"), _field("nbytes"), _field("born"), _field("dead"),
              ("shape", "text", lambda b: shape_text([b.shape])), _field("dtype", "text")]  # fmt: skip
    return _rows(plan.buffers, fields)


def _inference_timeline(plan: Any) -> list[Column]:
    names, order = plan.network.op_names, plan.order.tolist()
    kinds = inference_kinds(plan)
    return [
        Column("step", "int", np.arange(len(order))),
        Column("name", "text", [names[op] for op in order]),
        *(Column(f"{kind}_bytes", "int", row) for kind, row in zip(INFERENCE_KINDS, kinds, strict=True)),
        Column("live_bytes", "int", plan.timeline),
    ]


def _training_ops(plan: Any) -> list[Column]:
    fields = [_field("name", "text"), _field("op", "text"), _field("scope", "text"), _field("parameter_bytes"),
              _field("saved_bytes"), _field("gradient_bytes"), _field("forward_bytes"),
              _field("backward_bytes")]  # fmt: skip
    return _rows(plan.ops, fields)


def _training_timeline(plan: Any) -> list[Column]:
    phases, names, records = zip(*plan.steps, strict=True)
    return [
        Column("step", "int", np.arange(len(phases))),
        Column("phase", "text", list(phases)),
        Column("name", "text", list(names)),
        Column("record", "text", list(records)),
        *(Column(f"{kind}_bytes", "int", row) for kind, row in zip(TRAINING_KINDS, training_kinds(plan), strict=True)),
        Column("live_bytes", "int", plan.timeline),
    ]


def _training_live(plan: Any) -> list[Column]:
    fields = [_field("name", "text"), _field("nbytes"), _field("kind", "text"), _field("op", "text")]
    return _rows(plan.live_at_peak, fields)


def _order_ops(plan: Any) -> list[Column]:
    net, order, program = plan.network, plan.order.tolist(), plan.program
    step = np.empty(len(order), np.int64)
    step[program.order] = np.arange(len(order))
    return [
        Column("step", "int", np.arange(len(order))),
        Column("name", "text", [net.op_names[op] for op in order]),
        Column("op", "text", [net.op_kinds[op] for op in order]),
        Column("scope", "text", [net.op_scopes[op] for op in order]),
        Column("program_step", "int", step[plan.order]),
        Column("live_bytes", "int", plan.best.timeline),
        Column("program_live_bytes", "int", program.timeline[step[plan.order]]),
    ]


def _of_buffers(b: Any) -> list[Column]:
    return [Column("id", "text", list(b.ids)), Column("lower", "int", b.lower), Column("upper", "int", b.upper),
            Column("size", "int", b.nbytes)]  # fmt: skip


def _arena_buffers(plan: Any) -> list[Column]:
    offsets = [None] * plan.buffers.n if plan.offsets is None else plan.offsets.tolist()
    more = [Column("alignment", "int", plan.buffers.alignment), Column("offset", "int?", offsets)]
    return [*_of_buffers(plan.buffers), *more]


def _shared_buffers(plan: Any) -> list[Column]:
    objects = [None if k < 0 else k for k in plan.object_of.tolist()]
    return [*_of_buffers(plan.buffers), Column("object", "int?", objects)]


def _shared_objects(plan: Any) -> list[Column]:
    held = np.bincount(plan.object_of[plan.object_of >= 0], minlength=plan.n_objects)
    return [Column("object", "int", np.arange(plan.n_objects)), Column("nbytes", "int", plan.object_bytes),
            Column("buffers", "int", held)]  # fmt: skip


def _profiles(found: Any) -> list[Column]:
    fields = [
        ("profile", "text", lambda row: row.profile.name),
        _field("activation_peak_bytes", "int?"),
        _field("arena_bytes", "int?"),
        _field("weight_bytes", "int?"),
        _field("workspace_bytes", "int?"),
        ("peak_op", "text", lambda row: row.peak_op or ""),
        _field("reason", "text"),
    ]
    return _rows(found.rows, fields)


def _rule_steps(found: Any) -> list[Column]:
    rows = [(row.profile.name, *step) for row in found.rows for step in row.steps]
    names = (("profile", "text"), ("step", "text"), ("nbytes", "int"), ("words", "text"))
    return [Column(name, kind, [row[k] for row in rows]) for k, (name, kind) in enumerate(names)]


def _remat_nodes(plan: Any) -> list[Column]:
    problem, again = plan.problem, plan.recomputed
    return [
        Column("node", "int", np.arange(problem.n)),
        Column("name", "text", list(problem.names)),
        Column("phase", "text", _phases(plan, problem.n)),
        Column("cost", "int", problem.cost),
        Column("recomputed", "int", [again.get(name, 0) for name in problem.names]),
        Column("live_bytes", "int", plan.timeline),
        Column("keep_all_bytes", "int", keep_all_timeline(plan)),
    ]


def _checkpoint_nodes(plan: Any) -> list[Column]:
    nodes = _remat_nodes(plan.remat)
    nodes[2] = Column("phase", "text", _phases(plan, plan.step.problem.n))
    return [*nodes[:2], Column("op", "text", node_ops(plan)), *nodes[2:]]


def _frontier_plans(found: Any) -> list[Column]:
    knee = found.knee
    numbers = [("budget", "int"), ("peak_bytes", "int"), ("cost", "int"), ("overhead", "float"), ("lower_bound", "int"),
               ("gap", "float"), ("status", "text")]  # fmt: skip
    return [*_rows(found.plans, [_field(*n) for n in numbers]),
            Column("knee", "bool", [plan is knee for plan in found.plans])]  # fmt: skip


def _chain_plans(found: Any) -> list[Column]:
    cost, n = found.chain.step_cost, len(found)
    return [
        Column("peak_bytes", "int", found.peak_bytes),
        Column("overhead_cost", "float", found.overhead),
        Column("overhead", "float", found.overhead / cost if cost else np.zeros(n)),
        Column("knee", "bool", np.arange(n) == found.knee),
    ]


def _chain_runs(plan: Any) -> list[Column]:
    runs = plan.runs
    return [
        Column("run", "int", np.arange(len(runs))),
        Column("stage", "text", [plan.chain.ids[r.stage] for r in runs]),
        Column("what", "text", [r[0] for r in runs]),
        Column("live_bytes", "int", plan.timeline),
    ]


def _regions(plan: Any) -> list[Column]:
    fields = [_field("module", "text"), ("saved", "text", lambda r: ", ".join(r.saved)), _field("random", "bool")]
    return _rows(plan.regions, fields)


def _wrap_timeline(plan: Any) -> list[Column]:
    n = len(plan.timeline)
    return [Column("step", "int", np.arange(n)), Column("phase", "text", _phases(plan, n)),
            Column("live_bytes", "int", plan.timeline)]  # fmt: skip


def _wrap_plans(found: Any) -> list[Column]:
    return [Column("peak_bytes", "int", found.peaks), Column("cost", "int", found.costs),
            Column("overhead", "float", found.overhead), Column("modules", "int", found.modules),
            Column("knee", "bool", np.arange(len(found)) == found.knee)]  # fmt: skip


def _numbers(name: str, values: Any) -> Column:
    found = np.asarray(values)
    return Column(name, "float" if found.dtype.kind == "f" else "int", found)


def _candidates(found: Any) -> list[Column]:
    return [Column("candidate", "int", np.arange(found.n)), *(_numbers(name, v) for name, v in found.items())]


def is_bytes(metric: str) -> bool:
    """Say whether a metric of search spaces is an amount of bytes; counts and scores are not.

    Examples
    --------
    >>> is_bytes("training_peak:sgd"), is_bytes("macs"), is_bytes("score")
    (True, False, False)
    """
    return metric.partition(":")[0] in METRICS and metric not in ("params", "macs")


def genes_of(found: Any) -> tuple[str, tuple[Any, ...], tuple[int, ...]]:
    """Return the space's name, its genes, and the positions of a member's values in them; none if there is no member.

    Parameters
    ----------
    found : Best or Walk
    """
    space = getattr(found, "space", found)
    return space.name, tuple(space.genes), () if found.x is None else tuple(int(v) for v in found.x)


def _genes(found: Any) -> list[Column]:
    _, genes, x = genes_of(found)
    rows = list(zip(genes, x, strict=False))
    return [
        Column("gene", "text", [g.name for g, _ in rows]),
        Column("value", "text", [str(g.values[v]) for g, v in rows]),
        Column("position", "int", [v for _, v in rows]),
        Column("allowed", "text", [", ".join(map(str, g.values)) for g, _ in rows]),
    ]


def _metrics(found: Any) -> list[Column]:
    budgets = getattr(found, "budgets", {})
    return [
        Column("metric", "text", list(found.metrics)),
        Column("value", "int", list(found.metrics.values())),
        Column("budget", "int?", [budgets.get(name) for name in found.metrics]),
    ]


def _members(found: Any) -> list[Column]:
    chosen = [point.values for point in found]
    return [
        _numbers("score", found.scores if len(found) else np.zeros(0, np.int64)),
        Column(found.metric, "int", found.values),
        Column("knee", "bool", [k == found.knee for k in range(len(found))]),
        *(Column(f"gene.{g.name}", "text", [str(values[g.name]) for values in chosen]) for g in found.genes),
    ]


def parts_of(fit: Any) -> dict[str, int]:
    """Return what a Fit's ``needed_bytes`` consist of; they add up to it."""
    plan = fit.plan
    if type(plan).__name__ == "TrainingPlan":
        found = {name: nbytes for name, nbytes in plan.composition.items() if nbytes}
    else:
        found = {"parameters": plan.parameter_bytes, "buffers": plan.buffer_bytes,
                 "activations": plan.activation_peak_bytes}  # fmt: skip
    found |= {"context": fit.context_bytes, "workspace": fit.workspace_bytes}
    found["allocator"] = fit.needed_bytes - sum(found.values())
    return {name: nbytes for name, nbytes in found.items() if nbytes}


def _parts(found: Mapping[str, int]) -> list[Column]:
    return [Column("part", "text", list(found)), Column("nbytes", "int", list(found.values()))]


_TABLES: Final[Mapping[str, Mapping[str, Callable[[Any], list[Column]]]]] = {
    "InferencePlan": {"ops": _inference_ops, "buffers": _inference_buffers, "timeline": _inference_timeline},
    "TrainingPlan": {"ops": _training_ops, "timeline": _training_timeline, "live": _training_live},
    "OrderPlan": {"ops": _order_ops},
    "ArenaPlan": {"buffers": _arena_buffers},
    "SharedObjectsPlan": {"buffers": _shared_buffers, "objects": _shared_objects},
    "Comparison": {"profiles": _profiles, "steps": _rule_steps},
    "Fit": {"parts": lambda fit: _parts(parts_of(fit))},
    "RuleOfThumb": {"terms": lambda rule: _parts(rule.terms)},
    "RematPlan": {"nodes": _remat_nodes},
    "CheckpointPlan": {"nodes": _checkpoint_nodes},
    "WrapPlan": {"regions": _regions, "timeline": _wrap_timeline},
    "Frontier": {"plans": _frontier_plans},
    "CheckpointFrontier": {"plans": _frontier_plans},
    "ChainPlan": {"runs": _chain_runs},
    "ChainFrontier": {"plans": _chain_plans},
    "WrapFrontier": {"plans": _wrap_plans},
    "Evaluation": {"candidates": _candidates},
    "Best": {"genes": _genes, "metrics": _metrics},
    "Walk": {"genes": _genes, "metrics": _metrics},
    "Front": {"members": _members},
}


def tables_of(result: object) -> tuple[str, ...]:
    """Return the names of the tables that a result has; the first is the one that is given unless asked otherwise.

    Examples
    --------
    >>> import cnnlive
    >>> tables_of(cnnlive.plan_inference(zoo.load("vgg16")))
    ('ops', 'buffers', 'timeline')
    """
    return tuple(_TABLES.get(type(result).__name__, ()))


def columns_of(result: object, table: str | None = None) -> list[Column]:
    """Return the columns of a table of a result, without any library.

    Parameters
    ----------
    result : result of a planner
    table : str, optional
        One of :func:`tables_of`. Default: the first.

    Returns
    -------
    list of Column

    Raises
    ------
    ReportError
        If the result has no tables, or not this one.
    """
    tables = _TABLES.get(type(result).__name__)
    if tables is None:
        raise ReportError(f"{type(result).__name__} has no tables; allowed: {', '.join(_TABLES)}")
    name = next(iter(tables)) if table is None else table
    if name not in tables:
        raise ReportError(
            f"{type(result).__name__} has no table {name!r}{close_names(name, tables)}; allowed: "
            f"{', '.join(map(repr, tables))}"
        )
    return tables[name](result)


def to_frame(result: object, table: str | None = None, *, library: str = "pandas") -> Any:
    """Return a table of a result as a data frame.

    Parameters
    ----------
    result : result of a planner
    table : str, optional
        One of :func:`tables_of`. Default: the first.
    library : {"pandas", "polars"}

    Returns
    -------
    pandas.DataFrame or polars.DataFrame
        Bytes and counts are 64-bit integers (nullable where a value may be missing), shares floats, names texts.

    Raises
    ------
    ReportError
        If there is no such table or library.
    MissingExtraError
        Without the library.

    Examples
    --------
    >>> import cnnlive
    >>> frame = to_frame(cnnlive.plan_inference(zoo.load("vgg16")))  # doctest: +SKIP
    >>> frame.nlargest(3, "live_bytes")[["name", "live_bytes"]]  # doctest: +SKIP
    """
    columns = columns_of(result, table)
    if library not in LIBRARIES:
        raise ReportError(f"library={library!r}; allowed: {', '.join(map(repr, LIBRARIES))}")
    try:
        module = importlib.import_module(library)
    except ImportError:
        other = LIBRARIES[library == "pandas"]
        raise MissingExtraError(
            f"a data frame needs the package {library}, which is not installed: pip install {library} "
            f"(or library={other!r}, which needs {other})"
        ) from None
    if library == "polars":
        series = [module.Series(c.name, _plain(c.values), dtype=getattr(module, _POLARS[c.kind])) for c in columns]
        return module.DataFrame(series)
    return module.DataFrame({c.name: module.array(_plain(c.values), dtype=_PANDAS[c.kind]) for c in columns})


def _plain(values: Any) -> list[Any]:
    return list(values.tolist() if isinstance(values, np.ndarray) else values)
