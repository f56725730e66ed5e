"""What spaces answer: columns of metrics, members found by exact search, fronts of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cnnlive._types import I64, Result, Shown
from cnnlive.nas.base import Gene
from cnnlive.plan._budgets import knee_of

__all__ = ["Best", "Evaluation", "Front"]


class Evaluation(dict[str, NDArray[Any]], Shown):
    """A column of numbers for each metric that was asked for: a dict, which draws itself and is a table besides.

    Examples
    --------
    >>> found = Evaluation(params=np.array([10, 20]), inference_peak=np.array([4096, 1024]))
    >>> found["params"].tolist(), list(found), found.n
    ([10, 20], ['params', 'inference_peak'], 2)
    """

    __slots__ = ()

    @property
    def n(self) -> int:
        """Number of candidates."""
        return max(map(len, self.values()), default=0)


@dataclass(frozen=True, slots=True, eq=False)
class Best(Result):
    """A member found by exact search.

    Attributes
    ----------
    x : (n_genes,) int64 or None
        Genotype; None: no member fits.
    score : float or int or None
        Of the objective.
    metrics : dict of str to int
        Of the limit's budgets and what else the search was about.
    status : {"optimal", "feasible", "infeasible"}
        ``"optimal"`` and ``"infeasible"`` are proven; ``"feasible"``: there were too many labels to keep, and this is
        the best member found.
    bound : float or int or None
        No member that fits has a larger score.
    name : str
        The space.
    genes : tuple of Gene
        Those of the space.
    budgets : dict of str to int
        Those of the limit, by metric.
    """

    x: I64 | None
    score: float | int | None
    metrics: dict[str, int]
    status: str
    bound: float | int | None
    name: str = ""
    genes: tuple[Gene, ...] = field(default=(), repr=False)
    budgets: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def values(self) -> dict[str, Any]:
        """The value of each gene by name; empty where no member fits."""
        if self.x is None:
            return {}
        return {gene.name: gene.values[v] for gene, v in zip(self.genes, self.x.tolist(), strict=True)}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Front(Result, Sequence[Best]):
    """Every trade-off between a score and a metric, a sequence of members by rising metric and score.

    Attributes
    ----------
    name : str
        The space.
    metric : str
        What is to be small.
    genes : tuple of Gene
        Those of the space.
    points : tuple of Best
    """

    name: str
    metric: str
    genes: tuple[Gene, ...]
    points: tuple[Best, ...]

    @property
    def values(self) -> I64:
        """(n,) int64: the metric of each member."""
        return np.array([p.metrics[self.metric] for p in self.points], np.int64)

    @property
    def scores(self) -> NDArray[Any]:
        """(n,) integers or floats: the score of each member."""
        return np.array([p.score for p in self.points])

    @property
    def knee(self) -> int:
        """Position of the member farthest above the line from the first to the last, both axes scaled to 1.

        Raises
        ------
        IndexError
            If there is no member.
        """
        return knee_of(self.values, -self.scores)

    def __len__(self) -> int:
        return len(self.points)

    @overload
    def __getitem__(self, i: int) -> Best: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[Best, ...]: ...
    def __getitem__(self, i: int | slice) -> Best | tuple[Best, ...]:
        """Return one member, or several as a tuple."""
        return self.points[i]

    def __iter__(self) -> Iterator[Best]:
        return iter(self.points)

    def __repr__(self) -> str:
        if not self.points:
            return f"<Front of {self.name!r}: no member fits>"
        first, last = self.points[0], self.points[-1]
        return (f"<Front of {self.name!r}: {len(self):,} members, {self.metric} {first.metrics[self.metric]:,} to "
                f"{last.metrics[self.metric]:,}, score {first.score:,} to {last.score:,}>")  # fmt: skip
