"""The rules of runtime profiles in words: what ``cnnlive profiles`` shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from types import MappingProxyType
from typing import Final

from cnnlive.profiles import Profile

__all__ = ["RULES", "profile_rows"]

RULES: Final = MappingProxyType(
    {
        "inplace": "which ops overwrite their input",
        "fuse": "convolution, normalisation and activation as one op",
        "keeps_inputs": "the caller holds the network's inputs to the end",
        "pool_indices": "maximum pools allocate an int64 index per output element while they run",
        "batch_counters": "the int64 counter of each batch normalisation is stored",
        "frames": "a module's call keeps what it was given until it returns",
    }
)


def profile_rows(profiles: Iterable[Profile]) -> list[tuple[str, ...]]:
    """Return a row per rule: its name, its value in each profile, and what it means.

    Parameters
    ----------
    profiles : iterable of Profile

    Returns
    -------
    list of tuple of str
    """
    words = {True: "yes", False: "no"}
    names = [f.name for f in fields(Profile) if f.name not in ("name", "summary")]
    columns = [[getattr(p, name) for name in names] for p in profiles]
    return [
        (name, *(words.get(column[i], str(column[i])) for column in columns), RULES.get(name, ""))
        for i, name in enumerate(names)
    ]
