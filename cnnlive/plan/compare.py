"""The same network under the rules of several runtimes, and which of their rules make the difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from cnnlive._types import Result
from cnnlive.errors import DTypeError, GraphError, OrderError
from cnnlive.graph import Graph
from cnnlive.lowered import Lowered, lower
from cnnlive.plan.arena import ArenaPlan, buffers_of, plan_arena
from cnnlive.plan.inference import InferencePlan, plan_inference
from cnnlive.profiles import PROFILES, Profile, profile_of
from cnnlive.units import format_bytes

__all__ = ["STEPS", "Comparison", "ProfileRow", "RuleStep", "compare_profiles"]

# What is switched on one after the other, from ``ideal`` to a profile: a word, the rules, what they do.
_SWITCHES: Final[tuple[tuple[str, tuple[str, ...], str], ...]] = (
    ("fusion", ("fuse", "activations", "bases"), "normalisations and activations are part of the op before them"),
    ("pad ops", ("pad_ops",), "padding that the format cannot say is an op that copies"),
    ("copies", ("copies", "copies_at_ends"), "reshapes, slices or transposes copy"),
    ("in place", ("inplace", "takeover"), "which ops write into their input"),
    ("inputs", ("keeps_inputs", "counts_inputs"), "whether the network's input stays, or counts at all"),
    ("reuse", ("reuses",), "dead buffers are held until they are used again"),
    ("frames", ("frames",), "a module's call keeps what it was given"),
    ("scratch", ("pool_indices",), "indices of pools, statistics of normalisations"),
)
_OF_ARENA: Final = {
    "whole": "a buffer that shrinks keeps its first size in the arena",
    "padding": "sizes are rounded up",
    "placement": "gaps that alignment and the way of placing leave",
}
#: Names of the steps, in the order in which they are taken; the last three are of the arena.
STEPS: Final[tuple[str, ...]] = (*(name for name, _, _ in _SWITCHES), *_OF_ARENA)


class RuleStep(NamedTuple):
    """What one group of rules changes, with those before it switched on: its name, bytes (signed), and words."""

    name: str
    nbytes: int
    words: str


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """A network under one profile.

    Attributes
    ----------
    profile : Profile
    reason : str
        Why the runtime cannot take the network as asked; ``""`` where it can. The figures are None then.
    activation_peak_bytes, weight_bytes, workspace_bytes : int or None
        As of :class:`cnnlive.InferencePlan`.
    peak_op : str or None
    arena_bytes : int or None
        Where buffers lie as the runtime places them; None also without ``arena=True``.
    steps : tuple of RuleStep
        From the activation peak of ``ideal`` to `arena_bytes`, or to `activation_peak_bytes` where there is no arena:
        they add up to the difference exactly. Only those that change something.
    plan : InferencePlan or None
    arena : ArenaPlan or None
    """

    profile: Profile
    reason: str = ""
    activation_peak_bytes: int | None = None
    arena_bytes: int | None = None
    weight_bytes: int | None = None
    workspace_bytes: int | None = None
    peak_op: str | None = None
    steps: tuple[RuleStep, ...] = ()
    plan: InferencePlan | None = None
    arena: ArenaPlan | None = None

    @property
    def overhead(self) -> float | None:
        """How far the arena is above the activation peak, as a share of it; None without an arena."""
        if self.arena_bytes is None or not self.activation_peak_bytes:
            return None
        return self.arena_bytes / self.activation_peak_bytes - 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "profile": self.profile.name,
            "reason": self.reason,
            "activation_peak_bytes": self.activation_peak_bytes,
            "arena_bytes": self.arena_bytes,
            "weight_bytes": self.weight_bytes,
            "workspace_bytes": self.workspace_bytes,
            "peak_op": self.peak_op,
            "placement": self.profile.placement,
            "steps": [step._asdict() for step in self.steps],
        }


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Result):
    """One network under several profiles; made by :func:`compare_profiles`.

    Attributes
    ----------
    name : str
        The network.
    batch : int
    dtype : str, mapping or None
        As asked for.
    ideal_bytes : int
        The activation peak of the profile ``ideal``, from which all steps are counted.
    rows : tuple of ProfileRow
    """

    name: str
    batch: int
    dtype: str | Mapping[str, str] | None
    ideal_bytes: int
    rows: tuple[ProfileRow, ...]

    def __getitem__(self, name: str) -> ProfileRow:
        for row in self.rows:
            if row.profile.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what ``cnnlive compare --json`` prints."""
        return {
            "network": self.name,
            "batch": self.batch,
            "dtype": dict(self.dtype) if isinstance(self.dtype, Mapping) else self.dtype,
            "ideal_bytes": self.ideal_bytes,
            "profiles": [row.to_dict() for row in self.rows],
        }

    def __str__(self) -> str:
        dtype = self.dtype if isinstance(self.dtype, str) else "types by name" if self.dtype else "types as built"
        lines = [f"{self.name or 'network'}, batch {self.batch}, {dtype}: profiles side by side"]
        for row in self.rows:
            if row.activation_peak_bytes is None:
                lines.append(f"  {row.profile.name:<12} -: {row.reason}")
                continue
            arena = "" if row.arena_bytes is None else f"  arena {format_bytes(row.arena_bytes):>10}"
            steps = ", ".join(f"{s.name} {s.nbytes:+,} B" for s in row.steps)
            lines.append(
                f"  {row.profile.name:<12} {format_bytes(row.activation_peak_bytes):>10}{arena}  {steps or 'as ideal'}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Comparison {self.name!r}: {', '.join(row.profile.name for row in self.rows)}>"


def compare_profiles(
    graph: Graph | Lowered,
    *,
    batch: int = 1,
    dtype: str | Mapping[str, str] | None = None,
    profiles: Iterable[str | Profile] | None = None,
    order: Literal["program", "best"] | Sequence[int] | Sequence[str] = "program",
    arena: bool = True,
) -> Comparison:
    """Plan the same network under several profiles, and say which rules make the difference.

    From ``ideal`` to a profile its rules are switched on in groups, one after the other (`STEPS`). What each group
    changes at that point is a step; so the steps add up to the whole difference exactly, and what two groups only do
    together stands at the later one. The arena is the last three: buffers that shrink but keep their place, sizes that
    are rounded up, and gaps.

    Parameters
    ----------
    graph : Graph or Lowered
    batch, dtype
        As for :func:`cnnlive.plan_inference`.
    profiles : iterable of str or Profile, optional
        Default: all that are built in.
    order : "program", "best" or sequence
        As for :func:`cnnlive.plan_inference`; ``"best"`` is the best under each profile's own rules, also at each step.
        A sequence is of the unfused network.
    arena : bool
        Place the buffers as each runtime does.

    Returns
    -------
    Comparison
        A profile that cannot take the network as asked, because of its types or the order, is a row with the reason.

    Raises
    ------
    UnknownProfileError, ShapeError, DTypeError, OrderError, GraphError
        For what is wrong under every profile, as :func:`cnnlive.plan_inference` does.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> found = compare_profiles(zoo.load("mobilenet_v2"), dtype="int8", profiles=["ideal", "tinyengine", "tflm"])
    >>> [(row.profile.name, row.activation_peak_bytes) for row in found.rows]
    [('ideal', 2408448), ('tinyengine', 1404928), ('tflm', 2451840)]
    >>> [(step.name, step.nbytes) for step in found["tflm"].steps]
    [('fusion', -903168), ('pad ops', 946560)]
    """
    net = lower(graph)
    asked = [profile_of(p) for p in (PROFILES if profiles is None else profiles)]
    if not asked:
        raise GraphError("no profiles to compare; allowed: one or more")
    options: dict[str, Any] = {"batch": batch, "dtype": dtype, "order": order}
    ideal = plan_inference(net, profile="ideal", **options)
    rows = tuple(_row(net, ideal, rules, options, arena) for rules in asked)
    return Comparison(net.name, ideal.batch, ideal.dtype, ideal.activation_peak_bytes, rows)


def _row(net: Lowered, ideal: InferencePlan, rules: Profile, options: Mapping[str, Any], arena: bool) -> ProfileRow:
    try:
        plan = plan_inference(net, profile=rules, **options)
        steps = _rule_steps(net, ideal, plan, options)
    except (DTypeError, OrderError, GraphError) as error:
        return ProfileRow(rules, str(error))
    placed = plan_arena(plan) if arena else None
    if placed is not None:
        steps += _arena_steps(plan, placed)
    return ProfileRow(
        rules,
        "",
        plan.activation_peak_bytes,
        None if placed is None else placed.arena_bytes,
        plan.weight_bytes,
        plan.workspace_bytes,
        plan.peak_op,
        tuple(step for step in steps if step.nbytes),
        plan,
        placed,
    )


def _rule_steps(net: Lowered, ideal: InferencePlan, plan: InferencePlan, options: Mapping[str, Any]) -> list[RuleStep]:
    """Switch the rules of a plan on, group by group."""
    rules, at, before, steps = ideal.profile, plan.profile, ideal.activation_peak_bytes, []
    for name, fields, words in _SWITCHES:
        changed = {field: getattr(at, field) for field in fields if getattr(rules, field) != getattr(at, field)}
        if not changed:
            continue
        rules = replace(rules, **changed)
        after = plan_inference(net, profile=rules, **options).activation_peak_bytes
        steps.append(RuleStep(name, after - before, words))
        before = after
    assert before == plan.activation_peak_bytes  # the other rules are of weights, types and arenas
    return steps


def _arena_steps(plan: InferencePlan, placed: ArenaPlan) -> list[RuleStep]:
    """Go from the activation peak to the arena."""
    whole = _load(plan, pads=False)
    padded = _load(plan, pads=plan.profile.pads)
    arena = int(placed.arena_bytes or 0)
    nbytes = (whole - plan.activation_peak_bytes, padded - whole, arena - padded)
    return [RuleStep(name, n, words) for n, (name, words) in zip(nbytes, _OF_ARENA.items(), strict=True)]


def _load(plan: InferencePlan, *, pads: bool) -> int:
    """Return the most bytes alive at one step, of buffers as an arena has them."""
    b = buffers_of(plan, pads=pads)
    change = np.zeros(plan.network.n_ops + 1, np.int64)
    np.add.at(change, b.lower, b.nbytes)
    np.subtract.at(change, b.upper, b.nbytes)
    return int(np.cumsum(change).max())
