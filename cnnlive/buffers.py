"""Buffers with lives in steps: what an arena planner places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._types import I64, Columns, column
from cnnlive.errors import ArenaError

__all__ = ["Buffers"]

_LIMIT: Final = 2**62


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Buffers(Columns):
    """Buffers to be placed in one block of memory; made by :meth:`of`. Arrays are read-only int64.

    Attributes
    ----------
    name : str
    ids : tuple of str
        What each buffer is called.
    lower, upper : (n,), steps
        Life, half-open: ``[lower, upper)``. Two buffers conflict if their lives have a step in common.
    nbytes : (n,), bytes
        A buffer of no bytes conflicts with none.
    alignment : (n,), bytes
        The offset is a multiple of it.
    fixed : (n,), bytes
        The offset, where it is given; -1 elsewhere.
    """

    name: str
    ids: tuple[str, ...]
    lower: I64
    upper: I64
    nbytes: I64
    alignment: I64
    fixed: I64

    @classmethod
    def of(
        cls,
        lower: ArrayLike,
        upper: ArrayLike,
        nbytes: ArrayLike,
        *,
        alignment: ArrayLike = 1,
        fixed: ArrayLike = -1,
        ids: Sequence[object] | None = None,
        name: str = "",
    ) -> Buffers:
        """Make buffers of plain arrays, and check them.

        Parameters
        ----------
        lower, upper, nbytes : (n,) integers
            As the attributes.
        alignment, fixed : int or (n,) integers
            One for all buffers, or one each.
        ids : sequence, optional
            Default: ``"0"``, ``"1"``, ...
        name : str

        Raises
        ------
        ArenaError
            If lengths differ, an entry is no integer, a life ends before it begins, a size or offset is negative, an
            alignment is below 1, an offset that is given is no multiple of it, two ids are equal, or the sizes add up
            to 2**62 bytes or more. Names the buffer.

        Examples
        --------
        >>> b = Buffers.of([0, 1], [2, 3], [64, 32], ids=["a", "b"])
        >>> b.n, b.nbytes.tolist()
        (2, [64, 32])
        """
        begin, end, size = (_integers(v, w) for v, w in ((lower, "lower"), (upper, "upper"), (nbytes, "nbytes")))
        n = len(size)
        align, offset = (_integers(v, w, n) for v, w in ((alignment, "alignment"), (fixed, "fixed")))
        names = tuple(map(str, range(n) if ids is None else ids))
        for values, what in ((begin, "lower"), (end, "upper"), (align, "alignment"), (offset, "fixed"), (names, "ids")):
            if len(values) != n:
                raise ArenaError(f"{what} has {len(values)} entries and nbytes {n}; allowed: one for each buffer")
        if len(set(names)) != n:
            twice = next(x for i, x in enumerate(names) if x in names[:i])
            raise ArenaError(f"two buffers have the id {twice!r}")
        off = (offset >= 0) & (offset % np.maximum(align, 1) != 0)
        for wrong, words in (
            (end < begin, "lives in [{}, {}), which ends before it begins"),
            (size < 0, "has {2} bytes; allowed: 0 or more"),
            (align < 1, "has the alignment {3}; allowed: 1 or more"),
            (offset < -1, "is fixed at {4}; allowed: 0 or more, or -1 for not fixed"),
            (off, "is fixed at {4}, which is no multiple of its alignment {3}"),
        ):
            if wrong.any():
                i = int(np.flatnonzero(wrong)[0])
                raise ArenaError(f"buffer {names[i]} " + words.format(begin[i], end[i], size[i], align[i], offset[i]))
        # padded to their alignments, the sizes have to fit as well, and so do offsets that are given
        total = size.astype(np.float64).sum() + align.astype(np.float64).sum()
        largest = max((float(np.abs(a.astype(np.float64)).max()) for a in (begin, end, 2 * offset) if n), default=0.0)
        if max(total, largest) >= _LIMIT:
            raise ArenaError("sizes and alignments together, an offset or a step reach 2**62; allowed: less")
        return cls(name, names, column(begin), column(end), column(size), column(align), column(offset))

    @property
    def n(self) -> int:
        """Number of buffers."""
        return len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Buffers {self.name!r}: {self.n:,} buffers, {int(self.nbytes.sum()):,} B>"


def _integers(values: Any, what: str, n: int | None = None) -> I64:
    array = np.asarray(values)
    if array.ndim == 0 and n is not None:
        array = np.full(n, array)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ArenaError(f"{what} is {array.ndim}-dimensional of {array.dtype}; allowed: a list of integers")
    if array.dtype.kind == "u" and array.size and int(array.max()) >= _LIMIT:
        raise ArenaError(f"{what} has {int(array.max())}; allowed: below 2**62")
    return array.astype(np.int64)
