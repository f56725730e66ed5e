"""Runtime profiles: the rules that differ between runtimes, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from cnnlive.errors import GraphError, UnknownProfileError

__all__ = ["INPLACE", "PROFILES", "Inplace", "Profile", "profile_of"]

Inplace = Literal["graph", "dead", "never"]
INPLACE: Final[tuple[str, ...]] = get_args(Inplace)


@dataclass(frozen=True, slots=True)
class Profile:
    """The rules of one runtime.

    Attributes
    ----------
    name, summary : str
    inplace : str
        ``"graph"``: an op overwrites its input where the graph says ``inplace=True``. ``"dead"``: also
        wherever an elementwise op may and the input has no later reader. ``"never"``.
    fuse : bool
        Convolution (or linear), batch normalisation and activation run as one op.
    keeps_inputs : bool
        The caller holds the network's inputs to the end; otherwise they die after their last reader.
    pool_indices : bool
        Maximum pools allocate an int64 index per output element while they run, layer, group and instance
        normalisations two numbers for each group that they normalise.
    batch_counters : bool
        The int64 counter of each batch normalisation is stored beside its running statistics.
    frames : bool
        A value lives as long as a Python frame refers to it: what a module was given, until its call returns.
        See :meth:`cnnlive.Lowered.frames`. Defined for ops in program order only.
    alignment : int
        Bytes; offsets of buffers in the arena are multiples of it.
    pads : bool
        Sizes of buffers are rounded up to the alignment before they are placed.
    placement : str
        How the runtime places buffers in its arena: a method of :func:`cnnlive.plan_arena`.
    """

    name: str
    summary: str
    inplace: Inplace = "graph"
    fuse: bool = False
    keeps_inputs: bool = False
    pool_indices: bool = False
    batch_counters: bool = False
    frames: bool = False
    alignment: int = 64
    pads: bool = False
    placement: str = "auto"

    def __post_init__(self) -> None:
        """Refuse rules that do not exist."""
        if self.inplace not in INPLACE:
            raise GraphError(f"inplace={self.inplace!r}; allowed: {', '.join(map(repr, INPLACE))}")
        if self.alignment < 1:
            raise GraphError(f"alignment={self.alignment!r}; allowed: 1 or more bytes")


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        p.name: p
        for p in (
            Profile(
                name="ideal",
                summary="liveness alone: a tensor is dropped after its last reader, the network's input too",
            ),
            Profile(
                name="torch",
                summary="eager PyTorch: a module's call keeps what it was given until it returns, the caller keeps "
                "the input, maximum pools allocate int64 indices",
                keeps_inputs=True,
                pool_indices=True,
                batch_counters=True,
                frames=True,
            ),
            Profile(
                name="torch_fx",
                summary="PyTorch running torch.fx code: values dropped after last use, the caller keeps the input, "
                "maximum pools allocate int64 indices",
                keeps_inputs=True,
                pool_indices=True,
                batch_counters=True,
            ),
        )
    }
)


def profile_of(profile: str | Profile) -> Profile:
    """Look a profile up by name; a :class:`Profile` is returned as it is.

    Raises
    ------
    UnknownProfileError
        If no profile has that name.
    """
    if isinstance(profile, Profile):
        return profile
    found = PROFILES.get(profile)
    if found is None:
        raise UnknownProfileError(f"unknown profile {profile!r}; allowed: {', '.join(PROFILES)}")
    return found
