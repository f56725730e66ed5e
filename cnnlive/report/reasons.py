"""Why the rule of thumb and the exact figure differ, in terms that add up to the difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from cnnlive.graph import Graph
from cnnlive.lowered import Lowered
from cnnlive.plan.inference import InferencePlan, LiveBuffer
from cnnlive.plan.rules import RuleOfThumb, rules_of_thumb

__all__ = ["Reason", "inference_rule", "reasons", "stored_kinds"]

_LISTED: Final = 3


class Reason(NamedTuple):
    """One term of exact minus rule: what it is called, its bytes (signed), and words for it."""

    name: str
    nbytes: int
    words: str


def inference_rule(
    graph: Graph | Lowered, plan: InferencePlan, dtype: str | None = None, weight_dtype: str | None = None
) -> RuleOfThumb:
    """Return the rule of thumb for inference at the batch and the types of a plan.

    Parameters
    ----------
    graph : Graph or Lowered
        The network that was planned.
    plan : InferencePlan
    dtype, weight_dtype : str, optional
        As given to the planner. Default: the type that most bytes of the plan's activations have; `dtype`.

    Returns
    -------
    RuleOfThumb
    """
    if dtype is None:
        nbytes: dict[str, int] = {}
        for b in plan.buffers:
            nbytes[b.dtype] = nbytes.get(b.dtype, 0) + b.nbytes
        dtype = max(nbytes, key=nbytes.__getitem__, default="float32")
    rule = rules_of_thumb(graph, batch=plan.batch, dtype=dtype)["inference"]
    if weight_dtype is None or weight_dtype == dtype:
        return rule
    weights = rules_of_thumb(graph, batch=plan.batch, dtype=weight_dtype)["inference"].terms["weights"]
    maps = rule.terms["two_maps"]
    return replace(rule, nbytes=weights + maps, terms={"weights": weights, "two_maps": maps})


def reasons(plan: InferencePlan, rule: RuleOfThumb) -> tuple[Reason, ...]:
    """Split exact minus rule of thumb into its causes.

    Parameters
    ----------
    plan : InferencePlan
    rule : RuleOfThumb
        The rule for inference on the same network, batch and type.

    Returns
    -------
    tuple of Reason
        Only terms that are not zero, the largest first; they add up to ``plan.peak_bytes - rule.nbytes``.
        ``"branch"``: what is alive at the peak beside the op's own inputs and outputs. ``"input"``: the
        network's input, which the rule leaves out. ``"scratch"``: what the op at the peak allocates and
        drops. ``"op"``: what that op reads and writes itself, less the rule's two maps. ``"buffers"``:
        running statistics, constants and batch counters. ``"parameters"``: parameters that the rule counts
        otherwise.
    """
    net, lives = plan._net, plan._lives
    step = plan.peak_step
    op = int(plan.order[step])
    own = {int(lives.buffer[t]) for t in net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]]}
    own |= {int(lives.buffer[t]) for t in range(int(net.out_ptr[op]), int(net.out_ptr[op + 1]))}
    alive = np.flatnonzero((lives.born <= step) & (step < lives.dead)).tolist()
    images = [t for t in alive if net.kind[t] == 1]
    others = [t for t in alive if t not in own and net.kind[t] != 1]
    mine = [t for t in alive if t in own and net.kind[t] != 1]

    def total(tensors: list[int]) -> int:
        return sum(int(plan._nbytes[t]) for t in tensors)

    maps = rule.terms["two_maps"]
    found = [
        Reason("branch", total(others), _branch(plan, [plan._buffer(t) for t in others])),
        Reason("input", total(images), _input(plan, images, own)),
        Reason("scratch", plan.scratch_at_peak, f"{net.op_kinds[op]} allocates pool indices while it runs"),
        Reason("op", total(mine) - maps, _op(plan, len(mine), total(mine), maps, not own.isdisjoint(images))),
        Reason("buffers", plan.buffer_bytes, f"{stored_kinds(plan)} are counted"),
        Reason("parameters", plan.parameter_bytes - rule.terms["weights"], _parameters(plan)),
    ]
    return tuple(sorted((r for r in found if r.nbytes), key=lambda r: -abs(r.nbytes)))


def _listed(words: list[str]) -> str:
    more = len(words) - _LISTED
    return ", ".join(words[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _branch(plan: InferencePlan, others: list[LiveBuffer]) -> str:
    names = plan._net.op_names
    last = plan.order.shape[0]
    until = [
        f"{b.name} (to the end)" if b.dead >= last else f"{b.name} (until {names[plan.order[b.dead - 1]]})"
        for b in sorted(others, key=lambda b: -b.nbytes)
    ]
    count = "1 more tensor is" if len(others) == 1 else f"{len(others)} more tensors are"
    return f"{count} alive than {plan.peak_op} reads and writes: {_listed(until)}"


def _input(plan: InferencePlan, images: list[int], own: set[int]) -> str:
    what = "the network's input is" if len(images) == 1 else f"{len(images)} inputs of the network are"
    if own.issuperset(images):
        return f"{what} counted: {plan.peak_op} reads it"
    why = "the caller keeps it" if plan.profile.keeps_inputs else "a later op reads it"
    return f"{what} counted: {why}"


def _op(plan: InferencePlan, n: int, nbytes: int, maps: int, reads_image: bool) -> str:
    tensors = "1 map" if n == 1 else f"{n} maps"
    if reads_image:
        takes = "take" if n > 1 else "takes"
        words = f"{plan.peak_op} reads the input; besides, {tensors} {takes} {nbytes:,} B"
        return f"{words}, the rule's two {maps:,} B"
    words = f"{plan.peak_op} itself takes {nbytes:,} B in {tensors}, the rule's two maps {maps:,} B"
    if nbytes > maps:
        return words
    if plan.profile.fuse:
        return f"{words}: fused ops write one map where the rule sees several"
    if plan.profile.inplace == "dead":
        return f"{words}: ops overwrite what dies where the rule sees two maps"
    return f"{words}: those are not the input and output of one op"


def stored_kinds(plan: InferencePlan) -> str:
    """Name what the buffers of a network hold, such as ``"running statistics"``.

    Parameters
    ----------
    plan : InferencePlan

    Returns
    -------
    str
    """
    kinds = {plan._net.op_kinds[i] for i in np.flatnonzero(plan._net.counts[:, 3:].any(axis=1))}
    norms = any("norm" in k for k in kinds)
    what = ["running statistics"] if norms else []
    what += ["constants"] if "parameter" in kinds else []
    what += ["batch counters"] if norms and plan.profile.batch_counters else []
    return " and ".join(what) or "stored buffers"


def _parameters(plan: InferencePlan) -> str:
    if plan.profile.fuse:
        return "normalisations are folded into the weights and biases before them"
    return "some parameters have a type of their own"
