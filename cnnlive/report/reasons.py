"""Why the rule of thumb and the exact figure differ, in terms that add up to the difference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cnnlive.graph import Graph
from cnnlive.lowered import Lowered
from cnnlive.plan.inference import InferencePlan, LiveBuffer
from cnnlive.plan.rules import RuleOfThumb, rules_of_thumb
from cnnlive.plan.training import TrainingPlan

__all__ = [
    "Reason",
    "bytes_by_type",
    "inference_rule",
    "last_use",
    "reasons",
    "stored_kinds",
    "training_reasons",
    "training_rules",
]


class Reason(NamedTuple):
    """One term of exact minus rule: what it is called, its bytes (signed), and words for it."""

    name: str
    nbytes: int
    words: str


def inference_rule(graph: Graph | Lowered, plan: InferencePlan) -> RuleOfThumb:
    """Return the rule of thumb for inference at the batch and the types of a plan.

    Parameters
    ----------
    graph : Graph or Lowered
        The network that was planned.
    plan : InferencePlan
        Where it was not made for one type, the rule takes the type that most bytes of the activations have.

    Returns
    -------
    RuleOfThumb
    """
    dtype = plan.dtype if plan.dtype is None or isinstance(plan.dtype, str) else plan.dtype.get("*")
    if dtype is None:
        dtype = next(iter(bytes_by_type(plan)), "float32")
    rule = rules_of_thumb(graph, batch=plan.batch, dtype=dtype)["inference"]
    if plan.weight_dtype is None or plan.weight_dtype == dtype:
        return rule
    weights = rules_of_thumb(graph, batch=plan.batch, dtype=plan.weight_dtype)["inference"].terms["weights"]
    maps = rule.terms["two_maps"]
    return replace(rule, nbytes=weights + maps, terms={"weights": weights, "two_maps": maps})


def bytes_by_type(plan: InferencePlan) -> dict[str, int]:
    """Return the bytes of a plan's buffers by their type, the most first.

    Parameters
    ----------
    plan : InferencePlan

    Returns
    -------
    dict of str to int
    """
    nbytes: dict[str, int] = {}
    for b in plan.buffers:
        nbytes[b.dtype] = nbytes.get(b.dtype, 0) + b.nbytes
    return dict(sorted(nbytes.items(), key=lambda item: -item[1]))


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
    step = plan.peak_step
    own = {b.name for b in (*plan.reads_at(step), *plan.writes_at(step))}
    inputs = {b.name for b in plan.inputs}
    alive = plan.live_at_peak
    images = [b for b in alive if b.name in inputs]
    others = [b for b in alive if b.name not in own | inputs]
    mine = [b for b in alive if b.name in own - inputs]
    reads_image = not own.isdisjoint(inputs)
    maps = rule.terms["two_maps"]
    kind = plan.network.op_kinds[int(plan.order[step])]
    found = [
        Reason("branch", _total(others), _branch(plan, others)),
        Reason("input", _total(images), _input(plan, images, own)),
        Reason("scratch", plan.scratch_at_peak, f"{kind} allocates pool indices while it runs"),
        Reason("op", _total(mine) - maps, _op(plan, len(mine), _total(mine), maps, reads_image)),
        Reason("buffers", plan.buffer_bytes, f"{stored_kinds(plan)} are counted"),
        Reason("parameters", plan.parameter_bytes - rule.terms["weights"], _parameters(plan)),
    ]
    return tuple(sorted((r for r in found if r.nbytes), key=lambda r: -abs(r.nbytes)))


def training_rules(plan: TrainingPlan) -> tuple[RuleOfThumb, RuleOfThumb]:
    """Return the two rules of thumb for training at the batch and the precision of a plan.

    Parameters
    ----------
    plan : TrainingPlan

    Returns
    -------
    (RuleOfThumb, RuleOfThumb)
        The textbook's for Adam and the practitioner's. Mixed precision keeps its parameters in float32, and so do
        the rules.
    """
    largest = max(plan.tape.leaves, key=lambda leaf: leaf.nbytes)
    dtype = {2: "float16", 8: "float64"}.get(largest.itemsize, "float32")
    rules = rules_of_thumb(plan.network, batch=plan.batch, dtype=dtype)
    return rules["training_adam"], rules["practitioner"]


def training_reasons(plan: TrainingPlan, rule: RuleOfThumb) -> tuple[Reason, ...]:
    """Split the exact training peak minus a rule of thumb into its causes.

    Parameters
    ----------
    plan : TrainingPlan
    rule : RuleOfThumb
        One of :func:`training_rules`.

    Returns
    -------
    tuple of Reason
        Only terms that are not zero, the largest first; they add up to ``plan.peak_bytes - rule.nbytes``.
        ``"kept"``: what backward keeps less the rule's maps. ``"released"`` (negative): what of it is gone, or not
        there yet, at the peak; ``"held"`` (positive): what else forward made and is alive there. ``"gradients"``,
        ``"state"``, ``"parameters"``: of the parameters, as far as the rule counts them otherwise.
        ``"temporaries"``, ``"input"``, ``"buffers"``: what a rule leaves out.
    """
    has, terms = plan.composition, rule.terms
    saved, maps = plan.saved_bytes, terms["feature_maps"]
    behind = has["activations"] - saved
    found = [
        Reason("kept", saved - maps, _kept(plan, saved - maps)),
        Reason("held" if behind > 0 else "released", behind, _behind(plan, behind)),
        Reason("temporaries", has["temporaries"], _temporaries(plan)),
        Reason("input", has["inputs"] - terms.get("input", 0), "images and targets"),
        Reason("buffers", has["buffers"], _buffer_kinds(plan.network)),
    ]
    if "moments" in terms:
        found += [
            Reason("state", has["optimizer_state"] - terms["moments"], _state(plan)),
            Reason("gradients", has["gradients"] - terms["gradients"], _gradients(plan)),
            Reason("parameters", has["parameters"] - terms["weights"], "some parameters have a type of their own"),
        ]
    else:
        of_parameters = has["parameters"] + has["gradients"] + has["optimizer_state"]
        words = "parameters, gradients made by then and optimizer state, for the rule's four times the parameters"
        found.append(Reason("parameters", of_parameters - terms["parameters"], words))
    return tuple(sorted((r for r in found if r.nbytes), key=lambda r: -abs(r.nbytes)))


def _kept(plan: TrainingPlan, more: int) -> str:
    words = f"backward keeps {plan.saved_bytes:,} B"
    return f"{words}, not all maps" if more < 0 else f"{words}, not maps alone"


def _behind(plan: TrainingPlan, more: int) -> str:
    if more > 0:
        return "not kept by backward, but held by Python or the op there"
    if plan.peak_phase == "forward":
        return f"not made yet when {plan.peak_op} runs"
    return f"already let go when {plan.peak_op} runs"


def _temporaries(plan: TrainingPlan) -> str:
    if plan.peak_phase == "optimizer":
        return f"{plan.optimizer.name} ({plan.optimizer.implementation}) makes them during its step"
    if plan.peak_phase == "forward":
        return "made and dropped by the op at the peak"
    return "gradients of activations, and what the op there makes"


def _state(plan: TrainingPlan) -> str:
    has = plan.composition["optimizer_state"]
    if not has:
        return f"{plan.optimizer.name} keeps {'none yet' if plan.optimizer_bytes else 'none'}, the rule has two moments"
    return f"{plan.optimizer.name} keeps {has:,} B, the rule has two moments"


def _gradients(plan: TrainingPlan) -> str:
    share = 100 * plan.composition["gradients"] / max(plan.gradient_bytes, 1)
    return f"{share:.1f} % of them exist by then"


def _buffer_kinds(net: Lowered) -> str:
    """Say what the buffers of a trained network hold."""
    norms = any("norm" in net.op_kinds[i] for i in np.flatnonzero(net.counts[:, 3:].any(axis=1)))
    return "running statistics and batch counters" if norms else "stored constants"


def _total(buffers: Iterable[LiveBuffer]) -> int:
    return sum(b.nbytes for b in buffers)


def last_use(plan: InferencePlan, buffer: LiveBuffer) -> str:
    """Say how long a buffer lives: ``"until layer1.1.add"`` or ``"to the end"``.

    Parameters
    ----------
    plan : InferencePlan
    buffer : LiveBuffer

    Returns
    -------
    str
    """
    if buffer.dead >= len(plan.order):
        return "to the end"
    return f"until {plan.network.op_names[plan.order[buffer.dead - 1]]}"


def _branch(plan: InferencePlan, others: list[LiveBuffer]) -> str:
    if not others:
        return ""
    first = f"{others[0].name} {last_use(plan, others[0])}"
    if len(others) == 1:
        return f"one more tensor is alive: {first}"
    return f"{len(others)} more tensors are alive, such as {first}"


def _input(plan: InferencePlan, images: list[LiveBuffer], own: set[str]) -> str:
    what = "the network's input is" if len(images) == 1 else f"{len(images)} inputs of the network are"
    if own.issuperset(b.name for b in images):
        return f"{what} counted: the op at the peak reads it"
    why = "the caller keeps it" if plan.profile.keeps_inputs else "a later op reads it"
    return f"{what} counted: {why}"


def _op(plan: InferencePlan, n: int, nbytes: int, maps: int, reads_image: bool) -> str:
    tensors = "1 map" if n == 1 else f"{n} maps"
    besides = " beside the input" if reads_image else ""
    words = f"the op at the peak takes {nbytes:,} B in {tensors}{besides}, the rule's two {maps:,} B"
    if nbytes > maps or reads_image:
        return words
    if plan.profile.fuse:
        return f"{words}: fused ops write one map where the rule sees several"
    if plan.profile.inplace == "dead":
        return f"{words}: ops overwrite what dies where the rule sees two maps"
    return f"{words}, which are not one op's"


def stored_kinds(plan: InferencePlan) -> str:
    """Name what the buffers of a network hold, such as ``"running statistics"``.

    Parameters
    ----------
    plan : InferencePlan

    Returns
    -------
    str
    """
    kinds = {plan.network.op_kinds[i] for i in np.flatnonzero(plan.network.counts[:, 3:].any(axis=1))}
    norms = any("norm" in k for k in kinds)
    what = ["running statistics"] if norms else []
    what += ["constants"] if "parameter" in kinds else []
    what += ["batch counters"] if norms and plan.profile.batch_counters else []
    return " and ".join(what) or "stored buffers"


def _parameters(plan: InferencePlan) -> str:
    if plan.profile.fuse:
        return "normalisations are folded into the weights and biases before them"
    return "some parameters have a type of their own"
