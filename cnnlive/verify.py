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
    from cnnlive.profiles import Profile

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
    the sum of the buffers alive plus scratch, of those that shrink their size then, and the peak its maximum.

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
    if plan.network.n_ops != len(graph):
        raise VerificationError("a plan with pads as ops is of another graph; check the plan made without pad_ops")
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


class _Looks:
    """Which ops of a graph are views under a profile, and which inputs they may write into."""

    def __init__(self, graph: Graph, profile: Profile) -> None:
        self.graph, self.profile = graph, profile
        inputs = {t.name for t in graph.inputs}
        read_by: dict[str, list[str]] = {}
        for n in graph.nodes():
            for x in graph.inputs_of(n):
                read_by.setdefault(x.name, []).append(n)
        looking = [n for n in graph.nodes() if operator(graph.op_of(n)).alias == "view"]
        fixed = (*profile.copies, *profile.copies_at_ends)
        vanish = {n for n in looking if graph.op_of(n) not in fixed}
        # Outputs of the network, and what is one through ops that vanish.
        outputs = {t.name for t in graph.outputs}
        for n in reversed(graph.nodes()):
            if n in vanish and any(t.name in outputs for t in graph.tensors_of(n)):
                outputs.add(graph.inputs_of(n)[0].name)
        self.ends, self.outputs, self.inputs = inputs | outputs, outputs, inputs
        self.views: set[str] = set()
        self.root: dict[str, str] = {}
        for n in graph.nodes():
            root = [self.root[x.name] for x in graph.inputs_of(n)]
            at_end = n in looking and (root[0] in inputs or any(t.name in outputs for t in graph.tensors_of(n)))
            if n in vanish or (n in looking and graph.op_of(n) in profile.copies_at_ends and not at_end):
                self.views.add(n)
            for t in graph.tensors_of(n):
                self.root[t.name] = root[0] if n in self.views else t.name
        self.read_by = read_by
        self.readers: dict[str, int] = {}
        for n in graph.nodes():
            if n not in self.views:
                for x in graph.inputs_of(n):
                    self.readers[self.root[x.name]] = self.readers.get(self.root[x.name], 0) + 1

    def may_take(self, t: Tensor, reads: Sequence[Tensor], i: int) -> bool:
        """Whether an op may write into its input `i` under the profile's takeover, if nobody else wants that."""
        rule, op, x = self.profile.takeover, self.graph.op_of(t.node), reads[i]
        assert rule is not None
        roots = [self.root[r.name] for r in reads]
        kinds = {op: operator(op).overwrites} if rule.ops is None else dict(rule.ops)
        which = kinds.get(op, ())
        if op in ("conv1d", "conv2d", "conv3d"):
            a = self.graph.attributes(t.node)
            if a["groups"] == a["out_channels"] == reads[0].shape[1] > 1:
                which = kinds.get("depthwise", which)
        alone = len(self.read_by[x.name]) == len(self.read_by[roots[i]]) == self.readers[roots[i]] == 1
        return (
            i in which
            and i <= 60
            and len(self.graph.tensors_of(t.node)) == 1
            and roots.count(roots[i]) == 1
            and (rule.from_inputs or roots[i] not in self.inputs)
            and (rule.to_outputs or t.name not in self.outputs)
            and (alone or not rule.alone)
            and (rule.fits != "shape" or x.shape == t.shape)
        )


class _Run:
    """The table of buffers while a plan is run: which tensors are intact, and where they lie."""

    def __init__(self, graph: Graph, plan: Any) -> None:
        self.graph, self.plan, self.profile = graph, plan, plan.profile
        self.buffers = {b.name: b for b in plan.buffers}
        self.home: dict[str, str] = plan.buffer_of
        self.stored = {n for n in graph.nodes() if graph.op_of(n) == "parameter"}
        self.foreign = self.stored if self.profile.counts_inputs else self.stored | {t.name for t in graph.inputs}
        self.kept = {t.name for t in graph.inputs} if plan.profile.keeps_inputs else set()
        self.valid: dict[str, _Region] = {}
        self.written: set[str] = set()
        self.held = _held(graph) if plan.profile.frames else {}
        # Sizes of a buffer from steps on; only those change that a smaller tensor is written into.
        self.sizes: dict[str, list[tuple[int, int]]] = {}
        self.looks = _Looks(graph, plan.profile)

    def check_readable(self, who: str, step: int, t: Tensor) -> None:
        """Check that a tensor is intact and its buffer alive."""
        region = self.valid.get(t.name)
        if region is None:
            raise VerificationError(
                f"{who} reads {t.name} after its bytes were overwritten, or before they were written"
            )
        if region.buffer in self.foreign:
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
        takeover = self.profile.takeover
        asked = self.graph.attributes(t.node).get("inplace") and self.profile.inplace != "never" and takeover is None
        view = t.node in self.looks.views
        if home == t.name:
            if view or (asked and entry.alias != "view"):
                raise VerificationError(f"{t.node} has to share the bytes of its input")
            if t.node not in self.foreign:
                buffer, size = self.buffers[home], self.size(t)
                if buffer.nbytes != size or not buffer.born <= step < buffer.dead:
                    raise VerificationError(f"the buffer {home} is of the wrong size or not alive at step {step}")
                self.sizes[home] = [(buffer.born, size)]
            self.valid[t.name] = _Region(home, ())
            return
        if view:
            source = self.valid[reads[0].name]
            piece = ((t.node, t.output),) if len(self.graph.tensors_of(t.node)) > 1 else ()
            if source.buffer != home:
                raise VerificationError(f"{t.name} lies in {home}, but the bytes it looks at in {source.buffer}")
            self.valid[t.name] = _Region(home, source.pieces + piece)
            return
        if home in self.stored or (home in self.kept | self.foreign and not asked):
            allowed: Sequence[int] = ()
        elif takeover is not None:
            allowed = [i for i in range(len(reads)) if self.looks.may_take(t, reads, i)]
        else:
            allowed = (0,) if asked else entry.overwrites if self.profile.inplace == "dead" else ()
        taken = [r for i, r in enumerate(reads) if i in allowed and self.valid[r.name].buffer == home]
        if not taken and not self.may_use_again(t, home):
            raise VerificationError(f"{t.node} may not take over the bytes of {home}")
        others = self.written - {t.name}
        if not asked and any(self.held.get(n, 0) > step and self.home[n] == home for n in others):
            raise VerificationError(f"{t.node} takes over the bytes of {home}, which a Python frame still holds")
        region = self.valid[taken[0].name] if taken else _Region(home, ())
        self.valid = {name: r for name, r in self.valid.items() if not r.overlaps(region)}
        self.valid[t.name] = region
        if takeover is not None and taken:
            now, size = self.sizes[home][-1][1], self.size(t)
            if size > now or (size < now and takeover.fits != "smaller"):
                raise VerificationError(f"{t.node} writes {size} bytes into the {now} of {home}")
            if size < now:
                self.sizes[home].append((step + 1, size))

    def size(self, t: Tensor) -> int:
        """Bytes of a tensor; its type is that of the plan."""
        if self.plan.dtype is None:
            return math.prod(t.shape) * ITEMSIZE[t.dtype]
        home = self.buffers.get(self.home[t.name])
        own = self.buffers.get(t.name)
        return math.prod(t.shape) * ITEMSIZE[own.dtype if own else home.dtype if home else t.dtype]

    def may_use_again(self, t: Tensor, home: str) -> bool:
        """Whether a tensor may lie in a buffer that is dead: of its shape, no input or output of the network."""
        if not self.profile.reuses or home in self.looks.ends or t.name in self.looks.ends or not t.shape:
            return False
        first = next((x for n in self.graph.nodes() for x in self.graph.tensors_of(n) if x.name == home), None)
        return first is not None and first.shape == t.shape and self.size(t) == self.buffers[home].nbytes

    def check_held(self) -> None:
        """Check that buffers live as long as Python holds what lies in them."""
        for name, step in self.held.items():
            home = self.home[name]
            if home in self.foreign:
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
            alive = 0
            for b in self.buffers.values():
                if b.born <= step < b.dead:
                    alive += [size for since, size in self.sizes.get(b.name, [(0, b.nbytes)]) if since <= step][-1]
            if self.profile.pool_indices:
                alive += self.scratch(name)
            if self.profile.placement == "tflm":
                alive += sum(self.graph.nx.nodes[name].get("tflm", {}).get("scratch", ()))
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
