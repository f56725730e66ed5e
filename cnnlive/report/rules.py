"""The rules of runtime profiles in words: what ``cnnlive profiles`` shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Final

from cnnlive.profiles import Profile, Takeover

__all__ = ["DEFAULTS", "RULES", "profile_rows", "value_words"]

RULES: Final = MappingProxyType(
    {
        "inplace": "which ops overwrite their input",
        "takeover": "the runtime's kernels decide what is overwritten, not the graph",
        "copies": "views elsewhere, copies here",
        "copies_at_ends": "copies where they read an input of the network or write an output",
        "fuse": "convolution, normalisation and activation as one op",
        "activations": "activations that fusion takes in",
        "bases": "further ops that take in an activation",
        "pad_ops": "padding other than SAME and VALID is an op of its own",
        "keeps_inputs": "the caller holds the network's inputs to the end",
        "counts_inputs": "the network's inputs are counted",
        "pool_indices": "maximum pools allocate an int64 index per output element while they run",
        "batch_counters": "the int64 counter of each batch normalisation is stored",
        "frames": "a module's call keeps what it was given until it returns",
        "reuses": "a dead buffer of the same shape is used again, and held until then",
        "dtypes": "types that activations may have",
        "workspace": "rule for what kernels need all the time",
        "alignment": "bytes; offsets in the arena are multiples of it",
        "pads": "sizes are rounded up to the alignment",
        "placement": "method of `plan_arena`",
    }
)
#: Every rule's value in a profile that says nothing: that of ``ideal``.
DEFAULTS: Final = MappingProxyType({f.name: f.default for f in fields(Profile) if f.name in RULES})


def value_words(rule: str, value: Any) -> str:
    """Return the value of a rule as people read it.

    Examples
    --------
    >>> value_words("fuse", True), value_words("copies", ("split", "slice")), value_words("activations", None)
    ('yes', 'split, slice', 'all')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Takeover):
        return _takeover(value)
    if value is None:
        return "all" if rule == "activations" else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or ("any" if rule == "dtypes" else "none")
    return str(value) or "none"


def _takeover(rule: Takeover) -> str:
    """Say who may write into what, and when."""
    inputs = {(0,): "", (0, 1): " (either input)"}
    by_inputs: dict[tuple[int, ...], list[str]] = {}
    for op, which in rule.ops or ():
        by_inputs.setdefault(which, []).append(op)
    who = [", ".join(ops) + inputs.get(which, f" (inputs {which})") for which, ops in by_inputs.items()]
    words = ["; ".join(who) or "all elementwise ops"]
    words.append({"bytes": "equal size", "shape": "equal shape", "smaller": "equal size or smaller"}[rule.fits])
    words += ["one reader"] * rule.alone + [f"over {rule.over} B"] * (rule.over > 0)
    words += ["no network input"] * (not rule.from_inputs) + ["no network output"] * (not rule.to_outputs)
    return "; ".join(words)


def profile_rows(profiles: Iterable[Profile]) -> list[tuple[str, str, str, str]]:
    """Return a row per rule in which a profile differs from ``ideal``: profile, rule, meaning, value.

    Parameters
    ----------
    profiles : iterable of Profile

    Returns
    -------
    list of tuple of str
    """
    rows = []
    for p in profiles:
        found = [(rule, getattr(p, rule)) for rule, default in DEFAULTS.items() if getattr(p, rule) != default]
        rows += [(p.name, rule, RULES[rule], value_words(rule, value)) for rule, value in found]
        if not found:
            rows.append((p.name, "", "liveness alone", ""))
    return rows
