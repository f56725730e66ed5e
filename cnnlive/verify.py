"""Is this plan legal? Plain Python that shares no code with kernels or planners.

Each check runs the network on a table of buffers, as a runtime would, and raises `VerificationError` with
the first thing that is wrong.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnlive._types import ITEMSIZE
from cnnlive.errors import CnnliveError
from cnnlive.ops import operator

if TYPE_CHECKING:
    from cnnlive.graph import Graph, Tensor

__all__ = ["VerificationError", "check_arena", "check_inference", "check_order", "check_shared_objects"]


class VerificationError(CnnliveError, AssertionError):
    """A plan that is not what it says; the message names the first thing that is wrong."""


class _Region(NamedTuple):
    """Bytes of a buffer: the whole, or the piece reached by following splits."""

    buffer: str
    pieces: tuple[tuple[str, int], ...]

    def overlaps(self, other: _Region) -> bool:
        """Whether they have bytes in common; only two pieces of one split surely have none."""
        if self.buffer != other.buffer:
            return False
        return all(a == b or a[0] != b[0] for a, b in zip(self.pieces, other.pieces, strict=False))


def check_order(graph: Graph, order: Sequence[str]) -> None:
    """Check that every op runs once, after all ops whose outputs it reads.

    Raises
    ------
    VerificationError
        If it does not.

    Notes
    -----
    O(n_ops + n_edges).
    """
    done: set[str] = set()
    for name in order:
        if name in done:
            raise VerificationError(f"{name} runs twice")
        for source in graph.inputs_of(name):
            if source.node not in done:
                raise VerificationError(f"{name} runs before {source.node}, whose output it reads")
        done.add(name)
    missing = [n for n in graph.nodes() if n not in done]
    if missing:
        raise VerificationError(f"{missing[0]} never runs")


def check_inference(graph: Graph, plan: Any) -> None:
    """Check an :class:`~cnnlive.InferencePlan`, made without fusion and at the batch of `graph`.

    Whatever an op reads has to lie in a buffer that is alive, with bytes that nobody has overwritten since
    they were written for it; outputs have to be intact at the end; an op may share bytes only where the
    operator table and the profile let it, and never those of a stored parameter; under a profile with ``frames`` the
    order has to be the program's and what Python holds has to be alive and intact as long; the timeline has to be
    the sum of the buffers alive plus scratch, and the peak its maximum.

    Parameters
    ----------
    graph : Graph
    plan : InferencePlan

    Raises
    ------
    VerificationError
        Naming the first op, buffer or step that is wrong.

    Notes
    -----
    O(n_ops x n_buffers).
    """
    if plan.profile.fuse:
        raise VerificationError("a fused plan is of another graph; check the plan made without fusion")
    names = graph.nodes()
    order = [names[op] for op in plan.order.tolist()]
    check_order(graph, order)
    if plan.profile.frames and order != names:
        raise VerificationError(f"profile {plan.profile.name!r} is of the program's order, and the plan has another")
    run = _Run(graph, plan)
    for step, name in enumerate(order):
        reads = graph.inputs_of(name)
        for t in reads:
            run.check_readable(name, step, t)
        for t in graph.tensors_of(name):
            run.write(t, reads, step)
    for t in graph.outputs:
        run.check_readable("the caller", len(order) - 1, t)
    run.check_held()
    run.check_timeline(order)


def _held(graph: Graph) -> dict[str, int]:
    """Return through which step, in program order, eager Python holds each tensor beside what its readers do."""
    position = {n: k for k, n in enumerate(graph.nodes())}
    born = {n: -1 if graph.op_of(n) == "input" else k for n, k in position.items()}
    ran = [n for n in position if graph.op_of(n) not in ("input", "parameter")]
    path = {n: graph.nx.nodes[n]["scope"].split(".") if graph.nx.nodes[n].get("scope") else [] for n in ran}
    held: dict[str, int] = {}
    for depth in range(1, max(map(len, path.values()), default=0) + 1):
        outer = {n: path[n][:depth] if len(path[n]) >= depth else [] for n in ran}
        for inside, run in groupby(ran, outer.__getitem__):
            call = list(run) if inside else []
            for t in (t for n in call for t in graph.inputs_of(n)):
                if born[t.node] < born[call[0]] and graph.op_of(t.node) != "parameter":
                    held[t.name] = max(held.get(t.name, 0), born[call[-1]])
    for name in graph.nodes():
        for output, last in graph.nx.nodes[name].get("until", {}).items():
            held[graph.tensors_of(name)[output].name] = position[last]
    return held


class _Run:
    """The table of buffers while a plan is run: which tensors are intact, and where they lie."""

    def __init__(self, graph: Graph, plan: Any) -> None:
        self.graph, self.plan, self.profile = graph, plan, plan.profile
        self.buffers = {b.name: b for b in plan.buffers}
        self.home: dict[str, str] = plan.buffer_of
        self.stored = {n for n in graph.nodes() if graph.op_of(n) == "parameter"}
        self.kept = {t.name for t in graph.inputs} if plan.profile.keeps_inputs else set()
        self.valid: dict[str, _Region] = {}
        self.written: set[str] = set()
        self.held = _held(graph) if plan.profile.frames else {}

    def check_readable(self, who: str, step: int, t: Tensor) -> None:
        """Check that a tensor is intact and its buffer alive."""
        region = self.valid.get(t.name)
        if region is None:
            raise VerificationError(
                f"{who} reads {t.name} after its bytes were overwritten, or before they were written"
            )
        if region.buffer in self.stored:
            return
        home = self.buffers[region.buffer]
        if not home.born <= step < home.dead:
            raise VerificationError(
                f"{who} at step {step} reads {t.name} in {home.name}, alive in [{home.born}, {home.dead})"
            )

    def write(self, t: Tensor, reads: Sequence[Tensor], step: int) -> None:
        """Put a tensor where the plan says, if it may lie there; what it overwrites is no longer intact."""
        entry, home = operator(self.graph.op_of(t.node)), self.home[t.name]
        self.written.add(t.name)
        asked = self.graph.attributes(t.node).get("inplace") and self.profile.inplace != "never"
        if home == t.name:
            if entry.alias == "view" or asked:
                raise VerificationError(f"{t.node} has to share the bytes of its input")
            if t.node not in self.stored:
                buffer = self.buffers[home]
                size = math.prod(t.shape) * ITEMSIZE[buffer.dtype]
                if buffer.nbytes != size or not buffer.born <= step < buffer.dead:
                    raise VerificationError(f"the buffer {home} is of the wrong size or not alive at step {step}")
            self.valid[t.name] = _Region(home, ())
            return
        if entry.alias == "view":
            source = self.valid[reads[0].name]
            piece = ((t.node, t.output),) if len(self.graph.tensors_of(t.node)) > 1 else ()
            if source.buffer != home:
                raise VerificationError(f"{t.name} lies in {home}, but the bytes it looks at in {source.buffer}")
            self.valid[t.name] = _Region(home, source.pieces + piece)
            return
        allowed = (0,) if asked else entry.overwrites if self.profile.inplace == "dead" else ()
        if home in self.stored or (home in self.kept and not asked):
            allowed = ()
        taken = [r for i, r in enumerate(reads) if i in allowed and self.valid[r.name].buffer == home]
        if not taken:
            raise VerificationError(f"{t.node} may not take over the bytes of {home}")
        others = self.written - {t.name}
        if not asked and any(self.held.get(n, 0) > step and self.home[n] == home for n in others):
            raise VerificationError(f"{t.node} takes over the bytes of {home}, which a Python frame still holds")
        region = self.valid[taken[0].name]
        self.valid = {name: r for name, r in self.valid.items() if not r.overlaps(region)}
        self.valid[t.name] = region

    def check_held(self) -> None:
        """Check that buffers live as long as Python holds what lies in them."""
        for name, step in self.held.items():
            home = self.home[name]
            if home in self.stored:
                continue
            if not self.buffers[home].born <= step < self.buffers[home].dead:
                raise VerificationError(
                    f"Python holds {name} through step {step}, and {home} dies at {self.buffers[home].dead}"
                )

    def scratch(self, name: str) -> int:
        """Bytes that an op of eager PyTorch writes beside its outputs: indices, or statistics of each group."""
        op, attrs, written = self.graph.op_of(name), self.graph.attributes(name), self.graph.tensors_of(name)
        if operator(op).indices and len(written) == 1:
            return int(ITEMSIZE["int64"] * math.prod(written[0].shape))
        of_a_group = 2 * ITEMSIZE["float32"]
        if op == "layer_norm":
            return int(of_a_group * math.prod(written[0].shape) // math.prod(attrs["normalized_shape"]))
        if op == "group_norm":
            return of_a_group * written[0].shape[0] * int(attrs["num_groups"])
        if op in ("instance_norm1d", "instance_norm2d", "instance_norm3d"):
            return of_a_group * (2 if attrs["affine"] else 1) * math.prod(written[0].shape[:2])
        return 0

    def check_timeline(self, order: Sequence[str]) -> None:
        """Check every step's bytes and the peak against the buffers."""
        timeline = self.plan.timeline.tolist()
        for step, name in enumerate(order):
            alive = sum(b.nbytes for b in self.buffers.values() if b.born <= step < b.dead)
            if self.profile.pool_indices:
                alive += self.scratch(name)
            if alive != timeline[step]:
                raise VerificationError(f"step {step} ({name}) holds {alive} bytes, the timeline says {timeline[step]}")
        peak, step = max(timeline), self.plan.peak_step
        if peak != self.plan.activation_peak_bytes:
            raise VerificationError(f"the peak {self.plan.activation_peak_bytes} is not the timeline's maximum {peak}")
        if order[step] != self.plan.peak_op or timeline[step] != peak:
            raise VerificationError(f"{self.plan.peak_op} at step {step} is not where the peak is")


def check_arena(plan: Any, offsets: Sequence[int] | None = None) -> None:
    """Check a placement: an :class:`~cnnlive.ArenaPlan`, or :class:`~cnnlive.Buffers` and their offsets.

    No two buffers that are alive at one step may overlap, every offset has to be a multiple of the buffer's alignment
    and not negative, and fixed ones have to be where they are fixed. Of a plan also: the arena ends where its last
    buffer ends, is not below the bound nor above the capacity, and is said to be optimal only if it can be; a plan
    without a placement has none.

    Parameters
    ----------
    plan : ArenaPlan or Buffers
    offsets : sequence of int, optional
        Of buffers; a plan has its own.

    Raises
    ------
    VerificationError
        Naming the first buffer that is wrong, or both that overlap.

    Notes
    -----
    A sweep over births and deaths that keeps what is alive sorted by offset: O(n log n), and for each birth a move of
    what is alive.
    """
    b = plan if offsets is not None else plan.buffers
    if offsets is None:
        _check_status(plan)
        if plan.offsets is None:
            return
        offsets = plan.offsets.tolist()
    at = [int(x) for x in offsets]
    if len(at) != len(b.ids):
        raise VerificationError(f"{len(at)} offsets for {len(b.ids)} buffers")
    lower, upper, nbytes = b.lower.tolist(), b.upper.tolist(), b.nbytes.tolist()
    alignment, fixed = b.alignment.tolist(), b.fixed.tolist()
    for i, name in enumerate(b.ids):
        if at[i] < 0 or at[i] % alignment[i]:
            raise VerificationError(
                f"buffer {name} is at {at[i]}, which is no multiple of its alignment {alignment[i]}"
            )
        if fixed[i] >= 0 and at[i] != fixed[i]:
            raise VerificationError(f"buffer {name} is at {at[i]} and fixed at {fixed[i]}")
    found = [i for i in range(len(at)) if nbytes[i] and lower[i] < upper[i]]
    # deaths before births: a life ends before the step of its upper end
    events = sorted([(lower[i], 1, i) for i in found] + [(upper[i], 0, i) for i in found])
    alive: list[tuple[int, int]] = []
    for step, born, i in events:
        k = bisect_left(alive, (at[i], i))
        if not born:
            del alive[k]
            continue
        for _, other in alive[max(k - 1, 0) : k + 1]:
            if at[other] < at[i] + nbytes[i] and at[i] < at[other] + nbytes[other]:
                raise VerificationError(
                    f"buffers {b.ids[other]} at [{at[other]}, {at[other] + nbytes[other]}) and {b.ids[i]} at "
                    f"[{at[i]}, {at[i] + nbytes[i]}) overlap at step {step}"
                )
        insort(alive, (at[i], i))
    height = max((at[i] + nbytes[i] for i in found), default=0)
    if plan is not b and plan.arena_bytes != height:
        raise VerificationError(
            f"the arena is said to take {plan.arena_bytes} bytes, and the last buffer ends at {height}"
        )


def _check_status(plan: Any) -> None:
    """Check that what a plan says of its arena fits together."""
    status, arena, bound = plan.status, plan.arena_bytes, plan.lower_bound
    if status not in ("optimal", "feasible", "infeasible", "unknown"):
        raise VerificationError(f"{status!r} is no status of a plan")
    if (arena is None) != (plan.offsets is None) or (arena is None) != (status in ("infeasible", "unknown")):
        raise VerificationError(f"the plan is {status} and has {'no ' if plan.offsets is None else ''}offsets")
    if arena is None:
        return
    if arena < bound:
        raise VerificationError(f"the arena takes {arena} bytes, below the lower bound of {bound}")
    if plan.capacity is not None and arena > plan.capacity:
        raise VerificationError(f"the arena takes {arena} bytes, above the capacity of {plan.capacity}")
    if (status == "optimal") != (arena == bound):
        raise VerificationError(f"the plan is {status} with {arena} bytes and a lower bound of {bound}")


def check_shared_objects(plan: Any) -> None:
    """Check a :class:`~cnnlive.SharedObjectsPlan`.

    No two buffers of an object may be alive at one step; an object is as large as its largest buffer; the total is not
    below the bound, and said to be optimal where it meets it.

    Raises
    ------
    VerificationError
        Naming the first buffer or object that is wrong.

    Notes
    -----
    O(n log n).
    """
    b, object_of, sizes = plan.buffers, plan.object_of.tolist(), plan.object_bytes.tolist()
    lower, upper, nbytes = b.lower.tolist(), b.upper.tolist(), b.nbytes.tolist()
    busy: dict[int, int] = {}
    largest: dict[int, int] = {}
    for i in sorted(range(len(b.ids)), key=lower.__getitem__):
        k = object_of[i]
        if (k >= 0) != (nbytes[i] > 0 and lower[i] < upper[i]):
            raise VerificationError(f"buffer {b.ids[i]} of {nbytes[i]} bytes has the object {k}")
        if k < 0:
            continue
        other = busy.get(k)
        if other is not None and upper[other] > lower[i]:
            raise VerificationError(f"buffers {b.ids[other]} and {b.ids[i]} are alive together in object {k}")
        busy[k] = i
        largest[k] = max(largest.get(k, 0), nbytes[i])
    for k, size in enumerate(sizes):
        if size != largest.get(k):
            raise VerificationError(f"object {k} has {size} bytes, and its largest buffer {largest.get(k)}")
    if len(largest) != len(sizes):
        raise VerificationError(f"buffers lie in {len(largest)} objects, and there are {len(sizes)}")
    total, bound = sum(sizes), plan.lower_bound
    if total < bound or (plan.status == "optimal") != (total == bound):
        raise VerificationError(f"the plan is {plan.status} with {total} bytes and a lower bound of {bound}")
