"""Budgets of a frontier, and the point of a curve where it bends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cnnlive.errors import RematError

__all__ = ["budgets_of", "check_points", "knee_of"]


def check_points(points: int) -> None:
    """Refuse a number of budgets that spans nothing.

    Raises
    ------
    RematError
        If it is no integer of 2 or more.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise RematError(f"points is {points!r}; allowed: an integer of 2 or more")


def budgets_of(points: int, budgets: Sequence[int] | None, least: int, keep: int) -> list[int]:
    """Return ascending budgets: those given that are `least` or more, or `points` of them, evenly spaced up to `keep`.

    Examples
    --------
    >>> budgets_of(4, None, 10, 40), budgets_of(4, [30, 5, 30], 10, 40), budgets_of(4, [5], 10, 40)
    ([10, 20, 30, 40], [30], [])
    """
    asked = [least + (keep - least) * k // (points - 1) for k in range(points)] if budgets is None else budgets
    return sorted({int(b) for b in asked if b >= least})


def knee_of(amounts: ArrayLike, costs: ArrayLike) -> int:
    """Return the position of the point farthest below the line from the first to the last, both axes scaled to 1.

    Parameters
    ----------
    amounts : (n,) numbers
        Rising.
    costs : (n,) numbers
        Falling; scores that rise are given with their sign turned.

    Examples
    --------
    >>> knee_of([10, 20, 30, 40], [9, 2, 1, 0])
    1
    """
    x, y = np.asarray(amounts), np.asarray(costs)
    wide, high = (abs(float(v[-1] - v[0])) or 1.0 for v in (x, y))
    return int(np.argmin((x - x[0]) / wide + (y - y[-1]) / high))
