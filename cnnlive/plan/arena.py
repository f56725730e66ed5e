"""Arenas: where in one block of memory each buffer lies, how large the block is, and how small it could be."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import numpy as np

from cnnlive._kernels.arena import (
    fit,
    greedy,
    objects_by_flow,
    objects_by_size,
    objects_in_turn,
    positional_maxima,
    section_loads,
    section_ranks,
)
from cnnlive._types import I64, Result, column, frozen
from cnnlive.buffers import Buffers
from cnnlive.errors import ArenaError, close_names
from cnnlive.graph import Graph
from cnnlive.lowered import Lowered
from cnnlive.plan._tflm import as_told, from_a_file
from cnnlive.plan.arena_search import (
    BY_SIZE,
    MAX_NODES,
    Placement,
    Sections,
    dives,
    ordered,
    search_from,
    search_placement,
    sections_of,
)
from cnnlive.plan.inference import InferencePlan, plan_inference
from cnnlive.plan.order import plan_order
from cnnlive.profiles import Inplace, Profile
from cnnlive.units import format_bytes, parse_bytes

__all__ = ["METHODS", "SHARED_METHODS", "ArenaPlan", "SharedObjectsPlan", "buffers_of", "place", "plan_arena",
           "plan_shared_objects"]  # fmt: skip

Status = Literal["optimal", "feasible", "infeasible", "unknown"]

# Planners that sort once and then place: what they sort by (letters of `order_by`), and the rule of `fit`.
_GREEDY: Final[Mapping[str, tuple[I64, int]]] = MappingProxyType(
    {
        "greedy_by_size": (column([8]), 1),
        "greedy_by_size_first_fit": (column([8]), 0),
        "tflm": (column([8, 7]), 0),
        "tflite": (column([9, 8, -3]), 2),
        "xla": (column([8, 1]), 1),
        "iree": (column([]), 2),
        "onnxruntime": (column([-3]), 3),
    }
)
#: Methods of :func:`plan_arena`.
METHODS: Final = ("auto", "exact", "skyline", "greedy_by_size", "greedy_by_size_first_fit", "greedy_by_breadth", "tflm",
                  "tflite", "xla", "iree", "onnxruntime")  # fmt: skip
#: Methods of :func:`plan_shared_objects`.
SHARED_METHODS: Final = ("auto", "greedy_by_size", "greedy_by_size_simple", "greedy_by_breadth", "greedy_in_order",
                         "min_cost_flow")  # fmt: skip

_BY_BIRTH: Final = column([-3])
_BY_BREADTH: Final = column([-7, 8])
_FLOW_LIMIT: Final = 1000
# Above so many buffers the exact search gives up, and what it leaves is improved by fits in these orders, where few are
# alive together, and by searches of windows of time.
_MANY: Final = 5000
_FITS: Final = tuple(column(letters) for letters in ((5, 0), (5, 8, 0), (5, 1, 0), (5, 1), (5, 4, 0), (8,)))
_FIT_PAIRS: Final = 10_000_000
_ROUNDS: Final = 6
_WINDOW: Final = 1200
_WINDOW_NODES: Final = 2000


# ---------------------------------------------------------------------------------- the result


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ArenaPlan(Result):
    """Offsets of buffers in one arena, and how good they are; made by :func:`plan_arena`.

    Attributes
    ----------
    name : str
        The network, or the name of the buffers.
    buffers : Buffers
        What was placed: lives, and sizes as they were placed (rounded up where the profile ``pads``).
    offsets : (n,) int64 or None
        Bytes from the begin of the arena; None where the status is ``"infeasible"`` or ``"unknown"``.
    arena_bytes : int or None
        The largest ``offset + nbytes`` of a buffer that is ever alive.
    lower_bound : int
        No placement takes less. With ``order="best"``: none in any order of the ops.
    status : {"optimal", "feasible", "infeasible", "unknown"}
        ``"optimal"``: proven least. ``"feasible"``: legal, and not proven least. ``"infeasible"``: proven that no
        placement exists, or none within the capacity. ``"unknown"``: none within the capacity was found, and nothing is
        proven.
    method : str
    capacity : int or None
        Bytes that had to do.
    reason : str
        Why there is no placement, or where it is from.
    n_nodes : int
        Nodes that an exact search has visited.
    order : str
        ``"program"``, ``"given"``, or ``"least peak"`` where ``order="best"`` went by :func:`cnnlive.plan_order`;
        empty for plain buffers.
    plan : InferencePlan or None
        The plan whose buffers these are; its ``order`` is the order of the ops.
    """

    name: str
    buffers: Buffers
    offsets: I64 | None
    arena_bytes: int | None
    lower_bound: int
    status: Status
    method: str
    capacity: int | None
    reason: str
    n_nodes: int
    order: str
    plan: InferencePlan | None

    @property
    def optimal(self) -> bool:
        """Whether no placement takes less, which is proven."""
        return self.status == "optimal"

    @property
    def offset_of(self) -> dict[str, int]:
        """The offset of each buffer, by its id.

        Raises
        ------
        ArenaError
            If the plan has no placement.
        """
        return dict(zip(self.buffers.ids, self._placed().tolist(), strict=True))

    @property
    def gap(self) -> float | None:
        """How far the arena may be above the least one, as a share of the bound; None if there is no arena."""
        if self.arena_bytes is None:
            return None
        return self.arena_bytes / self.lower_bound - 1.0 if self.lower_bound and not self.optimal else 0.0

    @property
    def peak_load(self) -> int:
        """The most bytes alive at one step: the arena if nothing were lost between buffers."""
        return int(self.timeline[:, 1].max(initial=0))

    @property
    def fragmentation_bytes(self) -> int | None:
        """Bytes by which the arena exceeds the most that is alive at one step, or None if there is none."""
        return None if self.arena_bytes is None else self.arena_bytes - self.peak_load

    @property
    def timeline(self) -> I64:
        """Bytes alive, (k, 2) int64: ``timeline[i, 1]`` bytes from step ``timeline[i, 0]`` on, at last 0."""
        b = self.buffers
        alive = b.lower < b.upper
        steps = np.concatenate([b.lower[alive], b.upper[alive]])
        change = np.concatenate([b.nbytes[alive], -b.nbytes[alive]])
        moments, which = np.unique(steps, return_inverse=True)
        sums = np.zeros(len(moments), np.int64)
        np.add.at(sums, which, change)
        return frozen(np.stack([moments, np.cumsum(sums)], axis=1).astype(np.int64))

    def _placed(self) -> I64:
        if self.offsets is None:
            raise ArenaError(f"there are no offsets: {self.status}, {self.reason}")
        return self.offsets

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what ``cnnlive arena --json`` prints."""
        b = self.buffers
        offsets = [None] * b.n if self.offsets is None else self.offsets.tolist()
        columns = (b.ids, b.lower.tolist(), b.upper.tolist(), b.nbytes.tolist(), b.alignment.tolist(), offsets)
        names = ("id", "lower", "upper", "size", "alignment", "offset")
        return {
            "network": self.name,
            "method": self.method,
            "order": self.order,
            "profile": self.plan.profile.name if self.plan else None,
            "batch": self.plan.batch if self.plan else None,
            "status": self.status,
            "optimal": self.optimal,
            "arena_bytes": self.arena_bytes,
            "lower_bound": self.lower_bound,
            "gap": self.gap,
            "peak_load_bytes": self.peak_load,
            "fragmentation_bytes": self.fragmentation_bytes,
            "sum_bytes": int(b.nbytes.sum()),
            "capacity": self.capacity,
            "reason": self.reason,
            "n_nodes": self.n_nodes,
            "ops": _op_names(self.plan),
            "buffers": [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)],
        }

    def __str__(self) -> str:
        b = self.buffers
        title = f"{self.name or 'buffers'}, arena, {self.method}"
        lines = [title + (f", profile {self.plan.profile.name}, order: {self.order}" if self.plan else "")]
        if self.arena_bytes is None:
            lines.append(f"  {self.status}: {self.reason}")
        else:
            proof = "proven least" if self.optimal else f"at most {self.gap:.2%} above the least"
            lines.append(f"  arena    {format_bytes(self.arena_bytes):>10}  {self.arena_bytes:>16,} B  {proof}")
        rows = [("bound", self.lower_bound), ("alive", self.peak_load), ("sum", int(b.nbytes.sum()))]
        lines += [f"  {what:<7}  {format_bytes(x):>10}  {x:>16,} B" for what, x in rows]
        if self.offsets is not None:
            for i in np.argsort(-b.nbytes, kind="stable")[:8].tolist():
                life = f"[{b.lower[i]}, {b.upper[i]})"
                lines.append(f"    {b.ids[i]:<30} {b.nbytes[i]:>16,} B  at {self.offsets[i]:,}  {life}")
            if b.n > 8:
                lines.append(f"    and {b.n - 8:,} more")
        return "\n".join(lines)

    def __repr__(self) -> str:
        what = self.status if self.arena_bytes is None else f"{self.arena_bytes:,} B, {self.status}"
        return f"<ArenaPlan {self.name!r}: {what}>"


def _op_names(plan: InferencePlan | None) -> list[str] | None:
    return None if plan is None else [plan.network.op_names[op] for op in plan.order.tolist()]


# ---------------------------------------------------------------------------------- buffers


def buffers_of(plan: InferencePlan, *, alignment: int | None = None, pads: bool | None = None) -> Buffers:
    """Return the buffers of an inference plan as an arena planner takes them.

    One for each buffer of ``plan.buffers``, in their order, and after them one for each op with scratch, which lives
    while the op runs and is called ``"<op> (scratch)"``. Of a TFLite file under ``tflm`` they are what that runtime's
    planner is told: in the order of the file's tensors, then what kernels request.

    Parameters
    ----------
    plan : InferencePlan
    alignment : int, optional
        Bytes that offsets are multiples of. Default: as the profile.
    pads : bool, optional
        Round sizes up to the alignment. Default: as the profile.

    Raises
    ------
    ArenaError
        If the alignment is below 1, or sizes reach 2**62 bytes with it.

    Examples
    --------
    >>> from cnnlive import Graph
    >>> g = Graph()
    >>> x = g.relu(g.conv2d(g.input((1, 3, 8, 8)), 8, 3, padding=1))
    >>> buffers_of(plan_inference(g)).ids
    ('input', 'conv2d', 'relu')
    """
    align = plan.profile.alignment if alignment is None else alignment
    if type(align) is not int or align < 1:
        raise ArenaError(f"alignment={align!r}; allowed: 1 or more bytes")
    if plan.profile.placement == "tflm" and from_a_file(plan.network):
        return as_told(plan, align, plan.profile.pads if pads is None else pads)
    net, lives = plan.network, plan._lives
    names: list[str] | None = net._cache.get("tensor_names")
    if names is None:
        names = net._cache["tensor_names"] = [net.tensor_name(t) for t in range(net.n_tensors)]
    found = np.flatnonzero(lives.born < lives.dead)
    ids = [names[t] for t in found.tolist()]
    lower, upper, nbytes = lives.born[found], lives.dead[found], plan._nbytes[found]
    steps = np.flatnonzero(plan._scratch[plan.order])
    if len(steps):
        ops = plan.order[steps]
        ids += [f"{net.op_names[op]} (scratch)" for op in ops.tolist()]
        nbytes = np.concatenate([nbytes, plan._scratch[ops]])
        lower, upper = np.concatenate([lower, steps]), np.concatenate([upper, steps + 1])
    if plan.profile.pads if pads is None else pads:
        nbytes = (nbytes + (align - 1)) // align * align
    if len(steps) or align >= 1 << 20 or int(nbytes.sum()) >= 1 << 61:
        return Buffers.of(lower, upper, nbytes, alignment=align, ids=ids, name=plan.name)
    # what a plan is made of is checked already, and names of tensors differ
    n = len(ids)
    same = column(np.full(n, align)), column(np.full(n, -1))
    return Buffers(plan.name, tuple(ids), column(lower), column(upper), column(nbytes), *same)


def _sections(b: Buffers) -> Sections:
    return _unrounded(b, sections_of(b))


def _unrounded(b: Buffers, s: Sections) -> Sections:
    """Return sections with what is alive in each as it is, which is what reasons and rules speak of."""
    load = np.empty(s.n, np.int64)
    section_loads(s.n, s.first, s.last, b.nbytes, load)
    return s._replace(load=load)


# ---------------------------------------------------------------------------------- heuristics


def place(buffers: Buffers, method: str = "greedy_by_size") -> tuple[I64, int]:
    """Place buffers by a heuristic, without any proof: what :func:`plan_arena` does at the least cost.

    Parameters
    ----------
    buffers : Buffers
        Fixed ones may not overlap, which is not checked.
    method : str
        Any of :func:`plan_arena` but ``"auto"`` and ``"exact"``.

    Returns
    -------
    offsets : (n,) int64, bytes
    height : int, bytes

    Raises
    ------
    ArenaError
        For another method.

    Examples
    --------
    >>> offsets, height = place(Buffers.of([0, 1, 2], [2, 3, 4], [64, 32, 64]))
    >>> offsets.tolist(), height
    ([0, 64, 0], 96)
    """
    rule = _GREEDY.get(method)
    if rule is not None:
        offsets = np.empty(buffers.n, np.int64)
        height = greedy(rule[0], buffers.lower, buffers.upper, buffers.nbytes, buffers.alignment, buffers.fixed,
                        rule[1], np.empty((12, buffers.n), np.int64), offsets)  # fmt: skip
        return offsets, int(height)
    if method == "greedy_by_breadth":
        return _by_breadth(buffers, _sections(buffers))
    if method == "skyline":
        return _skyline(buffers, _sections(buffers))
    allowed = METHODS[2:]
    raise ArenaError(f"method={method!r}{close_names(method, allowed)}; allowed: {', '.join(allowed)}")


def _fit(b: Buffers, order: I64, rule: int) -> tuple[I64, int]:
    offsets = np.empty(b.n, np.int64)
    height = fit(order, b.lower, b.upper, b.nbytes, b.alignment, b.fixed, rule, np.empty((11, b.n), np.int64), offsets)
    return offsets, int(height)


def _breadth_order(b: Buffers, s: Sections) -> I64:
    rank = np.empty(s.n, np.int64)
    section_ranks(s.n, s.load, rank, np.empty((4, s.n), np.int64))
    return ordered(b, s, _BY_BREADTH, rank)


def _by_breadth(b: Buffers, s: Sections) -> tuple[I64, int]:
    return _fit(b, _breadth_order(b, s), 1)


def _skyline(b: Buffers, s: Sections) -> tuple[I64, int]:
    """Dive by several orders and keep the best; fixed buffers come first and the rest fits in the order of the dive."""
    pinned = bool((b.fixed >= 0).any())
    found: list[tuple[I64, int]] = []
    for offsets, height in dives(b, s):
        fitted = _fit(b, np.argsort(offsets, kind="stable"), 0) if pinned else (offsets, height)
        found.append(fitted)
        if fitted[1] <= s.bound:
            break
    return min(found, key=lambda f: f[1])


# ---------------------------------------------------------------------------------- the planner


def plan_arena(
    graph: Graph | Lowered | InferencePlan | Buffers,
    *,
    batch: int = 1,
    dtype: str | Mapping[str, str] | None = None,
    order: Literal["program", "best"] | Sequence[int] | Sequence[str] = "program",
    profile: str | Profile = "ideal",
    fuse: bool | None = None,
    inplace: Inplace | bool | None = None,
    alignment: int | None = None,
    pads: bool | None = None,
    capacity: int | str | None = None,
    method: str | None = None,
    time_limit: float | None = None,
    max_nodes: int | None = None,
) -> ArenaPlan:
    """Place every buffer of a network, or any buffers, in one arena, and say how good that is.

    Buffers that are alive at the same step do not overlap, every offset is a multiple of the buffer's alignment, and
    fixed offsets stay. A buffer without bytes, or never alive, conflicts with none and is at 0 unless it is fixed. What
    a graph's buffers are is what :func:`cnnlive.plan_inference` counts; the scratch of an op is one more, alive while
    the op runs. Weights are not in the arena.

    Parameters
    ----------
    graph : Graph, Lowered, InferencePlan or Buffers
        Of buffers and of a plan the lives are given, and what is asked of a graph must not be.
    batch, dtype, profile, fuse, inplace
        As for :func:`cnnlive.plan_inference`.
    order : "program", "best" or sequence
        ``"best"`` scores order and placement together: the buffers of the program's order are placed, and those of an
        order of least peak (which can pack worse), and the smaller arena is kept. The lower bound is then one of every
        order, that of :func:`cnnlive.plan_order`.
    alignment : int, optional
        Of every buffer. Default: the profile's; of plain buffers their own.
    pads : bool, optional
        Round sizes up to the alignment before placing. Default: as the profile; plain buffers as they are.
    capacity : int or str, optional
        Ask for a placement within so many bytes (or a text such as ``"256KiB"``). A heuristic that needs more leaves
        the answer ``"unknown"``.
    method : str, optional
        ``"auto"`` proves where it can: lower bound, heuristics, and an exact search where they differ. ``"exact"`` goes
        on searching until it is done or `time_limit` or `max_nodes` is reached. ``"skyline"`` is for
        very many buffers. ``"greedy_by_size"`` and ``"greedy_by_breadth"`` (best fit; Pisarchyk and Lee 2020),
        ``"greedy_by_size_first_fit"``. ``"tflm"``, ``"tflite"``, ``"xla"``, ``"iree"`` and ``"onnxruntime"`` are what
        those runtimes do, see the notes. Default: the profile's, ``"auto"`` for plain buffers.
    time_limit : float, optional
        Seconds for a search.
    max_nodes : int, optional
        Nodes for a search. Default: 200,000 for ``"auto"``, any number for ``"exact"``.

    Returns
    -------
    ArenaPlan

    Raises
    ------
    ArenaError
        For an option that has no meaning: an unknown method, an alignment below 1, the batch of plain buffers.
    UnitError
        If `capacity` is no amount of bytes.
    OrderError, ShapeError, DTypeError, UnknownProfileError, GraphError
        As :func:`cnnlive.plan_inference` does.

    Notes
    -----
    The least arena is NP-hard to find (dynamic storage allocation; Garey and Johnson 1979, SR2). The lower bound is the
    most bytes alive at one step, with alignment taken into account. Of more than 5,000 buffers ``"auto"`` searches
    windows of time around the highest buffer only, after fits in several orders; memory stays linear in buffers.

    Rules of runtimes, read in their sources; fixed buffers come first in each:

    - ``tflm`` (TensorFlow Lite Micro, ``GreedyMemoryPlanner``): the largest first, of equal ones the one registered
      later, into the first gap. Sizes are rounded up to 16 before (`pads`).
    - ``tflite`` (``ArenaPlanner``): what lives from the first step to the last, then the largest, of equal ones the one
      used first, into the smallest gap, measured from its unaligned begin.
    - ``xla`` (``GlobalDecreasingSizeBestFitHeap``): the largest, then the longest life, into the smallest gap.
    - ``iree`` (``LayoutSlices``): as given, into the smallest gap. Sizes and total are rounded up (`pads`).
    - ``onnxruntime`` (``MemPatternPlanner``): in the order of allocation, into the smallest gap, of which the space
      below the top of the arena is one. Sizes are rounded up to 256 (`pads`).

    `arena_bytes` ends with the last byte of a buffer as placed; a runtime that rounds sizes up has the total of `pads`.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> plan = plan_arena(zoo.load("mobilenet_v2"))
    >>> plan.arena_bytes, plan.status
    (9633792, 'optimal')
    >>> plan_arena(Buffers.of([0, 1], [2, 3], [64, 32]), capacity=90).reason
    'step 1 needs 96 bytes at once, above the capacity of 90: 0 (64 B), 1 (32 B)'
    """
    limit = None if capacity is None else parse_bytes(capacity)
    if time_limit is not None and not time_limit >= 0:
        raise ArenaError(f"time_limit={time_limit!r}; allowed: seconds, 0 or more")
    if max_nodes is not None and (type(max_nodes) is not int or max_nodes < 0):
        raise ArenaError(f"max_nodes={max_nodes!r}; allowed: 0 or more")
    if isinstance(graph, Buffers | InferencePlan):
        given = {
            "batch": batch != 1,
            "dtype": dtype is not None,
            "profile": profile != "ideal",
            "fuse": fuse is not None,
            "inplace": inplace is not None,
            "order": not _is(order, "program"),
        }
        wrong = next((name for name, differs in given.items() if differs), None)
        if wrong is not None:
            what = "plain buffers" if isinstance(graph, Buffers) else "a plan"
            raise ArenaError(
                f"{wrong} is of a graph, and {what} was given; allowed with it: alignment, pads, capacity, method, "
                "time_limit, max_nodes"
            )
    if isinstance(graph, Buffers):
        return _plan(
            _realigned(graph, alignment, pads), None, "", _method(method, "auto"), limit, time_limit, max_nodes
        )
    if isinstance(graph, InferencePlan):
        plans, bound = [("given", graph)], None
    else:
        plans, bound = _plans(graph, order, batch=batch, dtype=dtype, profile=profile, fuse=fuse, inplace=inplace)
    tried: list[ArenaPlan] = []
    for name, plan in plans:
        buffers = buffers_of(plan, alignment=alignment, pads=pads)
        found = _plan(buffers, plan, name, _method(method, plan.profile.placement), limit, time_limit, max_nodes)
        tried.append(found)
        if bound is not None and found.arena_bytes is not None and found.arena_bytes <= bound:
            break
    # of equal arenas the first
    best = min(tried, key=lambda p: np.inf if p.arena_bytes is None else p.arena_bytes)
    return best if bound is None else _of_every_order(best, bound)


def _is(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text


def _method(method: str | None, default: str) -> str:
    name = default if method is None else method
    if name not in METHODS:
        raise ArenaError(f"method={name!r}{close_names(name, METHODS)}; allowed: {', '.join(METHODS)}")
    return name


def _realigned(b: Buffers, alignment: int | None, pads: bool | None) -> Buffers:
    if alignment is not None and (type(alignment) is not int or alignment < 1):
        raise ArenaError(f"alignment={alignment!r}; allowed: 1 or more bytes")
    if alignment is None and not pads:
        return b
    align = b.alignment if alignment is None else np.full(b.n, alignment)
    nbytes = (b.nbytes + (align - 1)) // align * align if pads else b.nbytes
    return Buffers.of(b.lower, b.upper, nbytes, alignment=align, fixed=b.fixed, ids=b.ids, name=b.name)


def _plans(graph: Graph | Lowered, order: Any, **asked: Any) -> tuple[list[tuple[str, InferencePlan]], int | None]:
    """Return the plans whose buffers are to be placed, each with the name of its order, and a bound of every order."""
    if not _is(order, "best"):
        name = "program" if _is(order, "program") else "given"
        return [(name, plan_inference(graph, order=order, **asked))], None
    least = plan_order(graph, **asked)
    plans = [("program", plan_inference(graph, **asked))]
    if not np.array_equal(least.order, plans[0][1].order):
        plans.append(("least peak", plan_inference(graph, order=least.order.tolist(), **asked)))
    # the order of the lower peak first: it is the one that can meet the bound
    plans.sort(key=lambda p: p[1].activation_peak_bytes)
    return plans, least.lower_bound


def _of_every_order(plan: ArenaPlan, bound: int) -> ArenaPlan:
    """Say of the best of several orders what is proven of all of them."""
    status, reason = plan.status, plan.reason
    if plan.arena_bytes is not None:
        status = "optimal" if plan.arena_bytes == bound else "feasible"
    elif plan.capacity is not None and bound > plan.capacity:
        status = "infeasible"
        reason = f"every order of the ops needs {bound:,} bytes at some step, above the capacity of {plan.capacity:,}"
    elif status == "infeasible":
        status, reason = "unknown", f"not in the orders tried, which proves nothing of others: {reason}"
    return ArenaPlan(plan.name, plan.buffers, plan.offsets, plan.arena_bytes, bound, status, plan.method, plan.capacity,
                     reason, plan.n_nodes, plan.order, plan.plan)  # fmt: skip


def _plan(
    b: Buffers,
    plan: InferencePlan | None,
    order: str,
    method: str,
    capacity: int | None,
    time_limit: float | None,
    max_nodes: int | None,
) -> ArenaPlan:
    """Place buffers whose lives are given."""
    s = sections_of(b)

    def result(status: Status, reason: str, *, offsets: I64 | None = None, height: int | None = None,
               bound: int = s.bound, n_nodes: int = 0) -> ArenaPlan:  # fmt: skip
        kept = None if offsets is None else frozen(offsets)
        return ArenaPlan(b.name, b, kept, height, bound, status, method, capacity, reason, n_nodes, order, plan)

    clash = _clash(b)
    if clash:
        return result("infeasible", clash)
    if capacity is not None and s.bound > capacity:
        return result("infeasible", _too_much(b, _unrounded(b, s), capacity))
    if method in ("auto", "exact"):
        nodes = max_nodes if max_nodes is not None else MAX_NODES if method == "auto" else 1 << 62
        until = np.inf if time_limit is None else time.monotonic() + time_limit
        found = search_from(b, s, capacity=capacity, time_limit=time_limit, max_nodes=nodes)
        if b.n > _MANY and found.status in ("feasible", "unknown"):
            found = _improved(b, _unrounded(b, s), found, capacity, until, nodes)
        height = None if found.offsets is None else found.height
        status = cast("Status", found.status)
        return result(status, found.reason, offsets=found.offsets, height=height,
                      bound=max(s.bound, found.bound), n_nodes=found.n_nodes)  # fmt: skip
    if method == "skyline":
        offsets, height = _skyline(b, _unrounded(b, s))
    elif method == "greedy_by_breadth":
        offsets, height = _by_breadth(b, _unrounded(b, s))
    else:
        offsets, height = place(b, method)
    if capacity is not None and height > capacity:
        return result(
            "unknown", f"{method} needs {height:,} bytes, above the capacity of {capacity:,}; that proves nothing"
        )
    return result("optimal" if height == s.bound else "feasible", method, offsets=offsets, height=height)


def _improved(
    b: Buffers, s: Sections, found: Placement, capacity: int | None, until: float, max_nodes: int
) -> Placement:
    """Lower a placement of very many buffers, which were too many to be searched."""
    goal = s.bound if capacity is None else capacity
    best = None if found.offsets is None else (found.offsets, found.height)
    alive = s.first < s.last
    born, over = (np.bincount(a[alive], minlength=s.n + 1)[: s.n] for a in (s.first, s.last))
    n_pairs = (born * (np.cumsum(born - over) - born / 2)).sum()
    reason = found.reason
    for first, rule in _orders(b, s, _FITS if n_pairs <= _FIT_PAIRS else _FITS[:1] if best is None else ()):
        order = first
        for _ in range(_ROUNDS):
            if (best is not None and best[1] <= goal) or time.monotonic() >= until:
                break
            fitted = _fit(b, order, rule)
            if best is None or fitted[1] < best[1]:
                best, reason = fitted, "the best of fits in several orders"
            elif best[1] < fitted[1]:
                break
            # as good as the best so far: again, with what is highest in front
            highest = (s.first < s.last) & (fitted[0] + b.nbytes == fitted[1])
            order = np.concatenate([np.flatnonzero(highest), order[~highest[order]]])
    if best is None:
        return found
    n_nodes = found.n_nodes
    if best[1] > goal:
        offsets, height, searched = _windows(b, s, best[0], goal, until, max_nodes - n_nodes)
        n_nodes += searched
        if height < best[1]:
            best, reason = (offsets, height), "fits, and searches of windows of time"
    if capacity is not None and best[1] > capacity:
        return found._replace(n_nodes=n_nodes)
    status = "optimal" if best[1] == s.bound else "feasible"
    return Placement(best[0], best[1], s.bound, status, n_nodes, reason)


def _orders(b: Buffers, s: Sections, by: Sequence[I64]) -> Iterator[tuple[I64, int]]:
    """Yield orders in which to fit, each with a rule of `fit`."""
    for letters in by:
        order = ordered(b, s, letters, s.load)
        if letters is _FITS[1]:  # what lives far longer than most comes first
            life = (b.upper - b.lower)[order]
            order = order[np.argsort(life <= 4 * np.median(life), kind="stable")]
        for rule in (0, 1):
            yield order, rule


def _windows(b: Buffers, s: Sections, offsets: I64, goal: int, until: float, max_nodes: int) -> tuple[I64, int, int]:
    """Place anew what lives inside a window of time around the highest buffer, as long as that lowers it.

    Returns offsets, height and the nodes searched.
    """
    offsets = offsets.copy()
    alive = s.first < s.last
    ends = np.where(alive, offsets + b.nbytes, 0)
    n_nodes = 0
    while True:
        highest = int(ends.argmax())
        top, margin, lowered = int(ends[highest]), 8, False
        while top > goal and not lowered:
            margin *= 4
            begin, end = int(s.first[highest]) - margin, int(s.last[highest]) + margin
            near = np.flatnonzero(alive & (s.first < end) & (s.last > begin))
            inside = (s.first[near] >= begin) & (s.last[near] <= end) & (b.fixed[near] < 0)
            others = int(ends[near[~inside]].max(initial=0))
            if np.count_nonzero(inside) > _WINDOW or n_nodes >= max_nodes or time.monotonic() >= until:
                break
            if others >= top:
                continue
            lower, upper = np.maximum(s.first[near], begin), np.minimum(s.last[near], end)
            part = Buffers.of(lower, upper, b.nbytes[near], alignment=b.alignment[near],
                              fixed=np.where(inside, -1, offsets[near]))  # fmt: skip
            for capacity in (max(goal, others), None):
                seconds = None if until == np.inf else max(until - time.monotonic(), 0.0)
                nodes = min(_WINDOW_NODES, max_nodes - n_nodes)
                found = search_placement(part, capacity=capacity, time_limit=seconds, max_nodes=nodes)
                n_nodes += found.n_nodes
                if found.offsets is not None and found.height < top:
                    lowered = True
                    offsets[near] = found.offsets
                    ends[near] = found.offsets + b.nbytes[near]
                    break
        if not lowered:
            return offsets, top, n_nodes


def _clash(b: Buffers) -> str:
    """Name two fixed buffers that overlap while both are alive, or return nothing."""
    pinned = np.flatnonzero((b.fixed >= 0) & (b.nbytes > 0) & (b.lower < b.upper))
    if not len(pinned):
        return ""
    events = [(int(b.lower[i]), 1, i) for i in pinned.tolist()] + [(int(b.upper[i]), 0, i) for i in pinned.tolist()]
    alive: list[tuple[int, int, int]] = []  # what is alive, by offset; no two of them overlap
    for step, born, i in sorted(events):
        entry = (int(b.fixed[i]), int(b.fixed[i] + b.nbytes[i]), i)
        at = bisect_left(alive, entry)
        if not born:
            del alive[at]
            continue
        for begin, end, other in alive[max(at - 1, 0) : at + 1]:
            if begin < entry[1] and entry[0] < end:
                return (
                    f"the fixed buffers {b.ids[other]} at [{begin:,}, {end:,}) and {b.ids[i]} at "
                    f"[{entry[0]:,}, {entry[1]:,}) overlap, and both are alive at step {step}"
                )
        alive.insert(at, entry)
    return ""


def _too_much(b: Buffers, s: Sections, capacity: int) -> str:
    """Say in words why the lower bound is above the capacity."""
    ends = np.where((b.fixed >= 0) & (s.first < s.last), b.fixed + b.nbytes, 0)
    if ends.max(initial=0) > capacity:
        i = int(ends.argmax())
        return f"{b.ids[i]} is fixed and ends at {int(ends[i]):,}, above the capacity of {capacity:,}"
    at = int(s.load.argmax())
    alive = np.flatnonzero((s.first <= at) & (at < s.last))
    alive = alive[np.argsort(-b.nbytes[alive], kind="stable")]
    begin, end = int(b.lower[alive].max()), int(b.upper[alive].min())
    when = f"step {begin} needs" if end == begin + 1 else f"steps {begin} to {end - 1} need"
    names = ", ".join(f"{b.ids[i]} ({int(b.nbytes[i]):,} B)" for i in alive[:4].tolist())
    more = f" and {len(alive) - 4:,} more" if len(alive) > 4 else ""
    load = int(s.load[at])
    needs = f"{load:,} bytes at once" if load > capacity else f"{s.bound:,} bytes at once with alignment"
    return f"{when} {needs}, above the capacity of {capacity:,}: {names}{more}"


# ---------------------------------------------------------------------------------- shared objects


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SharedObjectsPlan(Result):
    """Buffers that share whole objects, for runtimes without an arena; made by :func:`plan_shared_objects`.

    Attributes
    ----------
    name : str
    buffers : Buffers
    object_of : (n,) int64
        The object of each buffer; -1 where it has no bytes or is never alive.
    object_bytes : (n_objects,) int64
        The size of each object: that of the largest buffer in it.
    lower_bound : int
        The sum of positional maxima: no objects take less together.
    status : {"optimal", "feasible"}
        ``"optimal"``: the total is the bound.
    method : str
    """

    name: str
    buffers: Buffers
    object_of: I64
    object_bytes: I64
    lower_bound: int
    status: Literal["optimal", "feasible"]
    method: str

    @property
    def n_objects(self) -> int:
        """Number of objects."""
        return int(self.object_bytes.shape[0])

    @property
    def total_bytes(self) -> int:
        """Bytes of all objects."""
        return int(self.object_bytes.sum())

    @property
    def optimal(self) -> bool:
        """Whether no objects take less, which is proven."""
        return self.status == "optimal"

    @property
    def gap(self) -> float:
        """How far the total is above the lower bound, as a share of it."""
        return self.total_bytes / self.lower_bound - 1.0 if self.lower_bound else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "network": self.name,
            "method": self.method,
            "status": self.status,
            "total_bytes": self.total_bytes,
            "lower_bound": self.lower_bound,
            "object_bytes": self.object_bytes.tolist(),
            "object_of": dict(zip(self.buffers.ids, self.object_of.tolist(), strict=True)),
        }

    def __str__(self) -> str:
        proof = "proven least" if self.optimal else f"at most {self.gap:.2%} above the least"
        lines = [
            f"{self.name or 'buffers'}, shared objects, {self.method}",
            f"  total    {format_bytes(self.total_bytes):>10}  {self.total_bytes:>16,} B  {proof}",
            f"  bound    {format_bytes(self.lower_bound):>10}  {self.lower_bound:>16,} B",
            f"  objects  {self.n_objects:>10,}",
        ]
        held = np.bincount(self.object_of[self.object_of >= 0], minlength=self.n_objects)
        for k in np.argsort(-self.object_bytes, kind="stable")[:8].tolist():
            lines.append(f"    {k:<10,} {self.object_bytes[k]:>16,} B  of {held[k]:,} buffers")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<SharedObjectsPlan {self.name!r}: {self.total_bytes:,} B in {self.n_objects} objects, {self.status}>"


def plan_shared_objects(
    graph: Graph | Lowered | InferencePlan | Buffers, *, method: str = "auto", **asked: Any
) -> SharedObjectsPlan:
    """Share whole objects between buffers that are not alive together, so that the objects are small in sum.

    For runtimes without an arena, such as textures of a GPU: an object is used by one buffer at a time and is as large
    as the largest of them. Alignments do not matter.

    Parameters
    ----------
    graph : Graph, Lowered, InferencePlan or Buffers
    method : str
        ``"greedy_by_size"`` is that of TensorFlow Lite's GPU delegate, which also looks at the steps between lives
        ("greedy by size improved" in the paper), ``"greedy_by_size_simple"`` the paper's without. Then
        ``"greedy_by_breadth"``, ``"greedy_in_order"`` and ``"min_cost_flow"``. ``"auto"`` is the smallest of all, the
        flow among them up to 1,000 buffers.
    **asked
        What :func:`cnnlive.plan_inference` takes, where a graph is given.

    Returns
    -------
    SharedObjectsPlan

    Raises
    ------
    ArenaError
        For an unknown method, a fixed offset, or options of a graph where none is given.

    Notes
    -----
    Pisarchyk and Lee, "Efficient memory management for deep neural net inference" (arXiv 2001.03288, 2020). The greedy
    ones take O(n^2), the flow O(n^3).

    Examples
    --------
    >>> from cnnlive import zoo
    >>> plan_shared_objects(zoo.load("mobilenet_v1"), inplace="dead", fuse=True)
    <SharedObjectsPlan 'mobilenet_v1': 4,816,896 B in 2 objects, optimal>
    """
    if method not in SHARED_METHODS:
        raise ArenaError(
            f"method={method!r}{close_names(method, SHARED_METHODS)}; allowed: {', '.join(SHARED_METHODS)}"
        )
    if isinstance(graph, Buffers | InferencePlan):
        if asked:
            raise ArenaError(f"{next(iter(asked))} is of a graph, and none was given")
        b = graph if isinstance(graph, Buffers) else buffers_of(graph, alignment=1)
    else:
        b = buffers_of(plan_inference(graph, **asked), alignment=1)
    if (b.fixed >= 0).any():
        who = b.ids[int(np.flatnonzero(b.fixed >= 0)[0])]
        raise ArenaError(f"buffer {who} is fixed at an offset; shared objects have none")
    s = _sections(b)
    by_size = ordered(b, s, BY_SIZE, s.load)
    maxima, alive = np.empty(b.n, np.int64), np.empty(s.n, np.int64)
    n_maxima = positional_maxima(by_size, s.n, s.first, s.last, b.nbytes, alive, maxima)
    bound = int(maxima[:n_maxima].sum())
    tried: list[SharedObjectsPlan] = []
    for name in SHARED_METHODS[1:] if method == "auto" else (method,):
        if method == "auto" and name == "min_cost_flow" and b.n > _FLOW_LIMIT:
            continue
        object_of, sizes = _shared(b, s, name, maxima, n_maxima)
        status: Literal["optimal", "feasible"] = "optimal" if int(sizes.sum()) == bound else "feasible"
        tried.append(SharedObjectsPlan(b.name, b, frozen(object_of), frozen(sizes), bound, status, name))
        if status == "optimal":
            break
    return min(tried, key=lambda p: p.total_bytes)


def _shared(b: Buffers, s: Sections, method: str, maxima: I64, n_maxima: int) -> tuple[I64, I64]:
    """Return the object of each buffer and the objects' sizes."""
    object_of, sizes, head, link = np.empty((4, b.n), np.int64)
    columns = (b.lower, b.upper, b.nbytes)
    if method == "greedy_by_size":
        work = np.empty((3, b.n), np.int64)
        n = objects_by_size(n_maxima, maxima, *columns, head, link, work, object_of, sizes)
    elif method == "greedy_by_size_simple":
        n = objects_in_turn(ordered(b, s, BY_SIZE, s.load), 2, *columns, head, link, object_of, sizes)
    elif method == "greedy_by_breadth":
        n = objects_in_turn(_breadth_order(b, s), 0, *columns, head, link, object_of, sizes)
    elif method == "greedy_in_order":
        n = objects_in_turn(ordered(b, s, _BY_BIRTH, s.load), 1, *columns, head, link, object_of, sizes)
    else:
        work = np.empty((7, 2 * b.n + 1), np.int64)
        n = objects_by_flow(ordered(b, s, _BY_BIRTH, s.load), *columns, work, object_of, sizes)
    return object_of.copy(), sizes[:n].copy()
