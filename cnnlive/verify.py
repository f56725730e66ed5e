"""Is this plan legal? Plain Python that shares no code with kernels or planners.

Each check runs the network on a table of buffers, as a runtime would, and raises `VerificationError` with
the first thing that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    operator table and the profile let it, and never those of a stored parameter; the timeline has to be the sum
    of the buffers alive plus scratch, and the peak its maximum.

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
    buffers = {b.name: b for b in plan.buffers}
    stored = {n for n in names if graph.op_of(n) == "parameter"}
    valid: dict[str, _Region] = {}
    for step, name in enumerate(order):
        reads = graph.inputs_of(name)
        for t in reads:
            _check_readable(name, step, t, valid, buffers, stored)
        for t in graph.tensors_of(name):
            _write(graph, plan, t, reads, valid, buffers, stored, step)
    for t in graph.outputs:
        _check_readable("the caller", len(order) - 1, t, valid, buffers, stored)
    _check_timeline(graph, plan, order)


def _check_readable(
    who: str, step: int, t: Tensor, valid: dict[str, _Region], buffers: dict[str, Any], stored: set[str]
) -> None:
    region = valid.get(t.name)
    if region is None:
        raise VerificationError(f"{who} reads {t.name} after its bytes were overwritten, or before they were written")
    if region.buffer in stored:
        return
    home = buffers[region.buffer]
    if not home.born <= step < home.dead:
        raise VerificationError(
            f"{who} at step {step} reads {t.name} in {home.name}, alive in [{home.born}, {home.dead})"
        )


def _write(
    graph: Graph,
    plan: Any,
    t: Tensor,
    reads: Sequence[Tensor],
    valid: dict[str, _Region],
    buffers: dict[str, Any],
    stored: set[str],
    step: int,
) -> None:
    entry, home = operator(graph.op_of(t.node)), plan.buffer_of[t.name]
    asked = graph.attributes(t.node).get("inplace") and plan.profile.inplace != "never"
    if home == t.name:
        if entry.alias == "view" or asked:
            raise VerificationError(f"{t.node} has to share the bytes of its input")
        if t.node not in stored:
            buffer = buffers[home]
            if buffer.nbytes != math.prod(t.shape) * ITEMSIZE[buffer.dtype] or not buffer.born <= step < buffer.dead:
                raise VerificationError(f"the buffer {home} is of the wrong size or not alive at step {step}")
        valid[t.name] = _Region(home, ())
        return
    if entry.alias == "view":
        source = valid[reads[0].name]
        piece = ((t.node, t.output),) if len(graph.tensors_of(t.node)) > 1 else ()
        if source.buffer != home:
            raise VerificationError(f"{t.name} lies in {home}, but the bytes it looks at in {source.buffer}")
        valid[t.name] = _Region(home, source.pieces + piece)
        return
    allowed = (0,) if asked else entry.overwrites if plan.profile.inplace == "dead" else ()
    kept = plan.profile.keeps_inputs and not asked and home in {i.name for i in graph.inputs}
    if home in stored or kept:
        allowed = ()
    taken = [r for i, r in enumerate(reads) if i in allowed and valid[r.name].buffer == home]
    if not taken:
        raise VerificationError(f"{t.node} may not take over the bytes of {home}")
    region = valid[taken[0].name]
    for other in [o for o, r in valid.items() if r.overlaps(region)]:
        del valid[other]
    valid[t.name] = region


def _check_timeline(graph: Graph, plan: Any, order: Sequence[str]) -> None:
    timeline = plan.timeline.tolist()
    for step, name in enumerate(order):
        alive = sum(b.nbytes for b in plan.buffers if b.born <= step < b.dead)
        written = graph.tensors_of(name)
        if plan.profile.pool_indices and operator(graph.op_of(name)).indices and len(written) == 1:
            alive += ITEMSIZE["int64"] * math.prod(written[0].shape)
        if alive != timeline[step]:
            raise VerificationError(f"step {step} ({name}) holds {alive} bytes, the timeline says {timeline[step]}")
    if max(timeline) != plan.activation_peak_bytes:
        raise VerificationError(f"the peak {plan.activation_peak_bytes} is not the timeline's maximum {max(timeline)}")
    if order[plan.peak_step] != plan.peak_op or timeline[plan.peak_step] != max(timeline):
        raise VerificationError(f"{plan.peak_op} at step {plan.peak_step} is not where the peak is")
