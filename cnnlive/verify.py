"""Is this plan legal? Plain Python that shares no code with kernels or planners.

Each check runs the network on a table of buffers, as a runtime would, and raises `VerificationError` with
the first thing that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnlive._types import ITEMSIZE
from cnnlive.errors import CnnliveError
from cnnlive.ops import operator

if TYPE_CHECKING:
    from cnnlive.graph import Graph, Tensor

__all__ = ["VerificationError", "check_inference", "check_order"]


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
