"""Search spaces and limits in the terms of optimisation libraries. Each library is imported when it is used.

What needs no adapter: a loop over ``limit.mask(X)``; DEAP's ``DeltaPenalty(limit.ok, ...)``; NNI's
``RangeProfilerFilter(limit, max=0)``; once-for-all's finders, which ask ``limit.as_efficiency("peak")``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._types import I64
from cnnlive.errors import SpaceError, import_extra

if TYPE_CHECKING:
    from cnnlive.nas.base import Gene, SearchSpace
    from cnnlive.nas.limit import Limit

__all__ = ["constrain", "parametrization", "problem", "suggest"]


def _load(module: str) -> Any:
    return import_extra(module, "nas", "this")


# ---------------------------------------------------------------------------------- Optuna


def suggest(trial: Any, space: SearchSpace, *, prefix: str = "") -> I64:
    """Let an Optuna trial choose a candidate.

    Parameters
    ----------
    trial : optuna.trial.BaseTrial
    space : SearchSpace
    prefix : str
        Before the name of each gene.

    Returns
    -------
    (n_genes,) int64
        A canonical genotype.

    Notes
    -----
    A gene whose values are integers at equal steps is suggested as an integer, other values that Optuna knows (numbers,
    texts, truth values, None) as categories, and what is left by its position in the gene's values.
    """
    row: I64 = space.canonical([_suggest_gene(trial, gene, prefix + gene.name) for gene in space.genes])[0]
    return row


def _suggest_gene(trial: Any, gene: Gene, name: str) -> int:
    values = gene.values
    if all(type(v) is int for v in values):
        step = values[1] - values[0] if len(values) > 1 else 1
        if step > 0 and values == tuple(range(values[0], values[-1] + 1, step)):
            return int((trial.suggest_int(name, values[0], values[-1], step=step) - values[0]) // step)
    if all(v is None or type(v) in (bool, int, float, str) for v in values):
        return values.index(trial.suggest_categorical(name, values))
    return int(trial.suggest_categorical(name, tuple(range(len(values)))))


def constrain(trial: Any, limit: Limit, x: ArrayLike, *, prune: bool = True) -> bool:
    """Tell an Optuna trial by how much its candidate exceeds each budget, and prune it where it does.

    Parameters
    ----------
    trial : optuna.trial.Trial
        Of Optuna 5 or later.
    limit : Limit
    x : (n_genes,) integers
    prune : bool
        Whether a candidate that does not fit ends the trial before anything is built. Samplers learn from the
        constraints of pruned trials too where they use pruned trials (TPE does).

    Returns
    -------
    bool
        Whether the candidate fits.

    Raises
    ------
    optuna.TrialPruned
        If it does not fit and `prune` is set; names the metric that is exceeded the most.
    """
    worst, name = max((violation, name) for name, violation in _tell(trial, limit, x))
    if worst > 0 and prune:
        raise _load("optuna").TrialPruned(f"{name} is {100 * worst:.3g} % above its budget")
    return worst <= 0


def _tell(trial: Any, limit: Limit, x: ArrayLike) -> list[tuple[str, float]]:
    found = list(limit.items(x))
    for name, violation in found:
        trial.set_constraint(name, violation)
    return found


# ---------------------------------------------------------------------------------- pymoo


def problem(limit: Limit, objective: Callable[[I64], ArrayLike], *, n_obj: int = 1) -> Any:
    """Return a pymoo problem: the members of a space that fit, of least `objective`.

    Parameters
    ----------
    limit : Limit
    objective : callable
        ``objective(X)`` with an (m, n_genes) int64 matrix of canonical genotypes that fit, m >= 1, returns what is to
        be minimised: (m,) or (m, n_obj) numbers. Candidates that do not fit never reach it.
    n_obj : int
        Number of objectives.

    Returns
    -------
    pymoo.core.problem.Problem
        One integer variable per gene, its position; one inequality constraint per budget. `n_asked` and `n_rejected`
        count the candidates that the algorithm proposed and those that did not fit. It can be pickled if `limit` and
        `objective` can.

    Notes
    -----
    Use integer operators: ``IntegerRandomSampling()`` and ``RoundingRepair()``. A candidate that does not fit has an
    objective of 1e30: pymoo's algorithms compare such candidates by their violations alone.
    """
    base = _load("pymoo.core.problem").Problem
    space = limit.space

    class SpaceProblem(base):  # type: ignore[misc, valid-type]  # pymoo has no types
        """Members of a search space under a limit."""

        def __init__(self) -> None:
            super().__init__(
                n_var=space.n_genes, n_obj=n_obj, n_ieq_constr=len(limit.names), vtype=int,
                xl=np.zeros(space.n_genes), xu=space.cardinalities - 1.0,
            )  # fmt: skip
            self.n_asked = 0
            self.n_rejected = 0

        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            rows = space.canonical(np.rint(x).astype(np.int64))
            violation = limit.violation(rows)
            fits = (violation <= 0).all(axis=1)
            self.n_asked += len(rows)
            self.n_rejected += int(np.count_nonzero(~fits))
            scores = np.full((len(rows), n_obj), 1e30)
            if fits.any():
                scores[fits] = np.asarray(objective(rows[fits]), np.float64).reshape(-1, n_obj)
            out["F"] = scores
            out["G"] = violation

        def __reduce__(self) -> tuple[Any, ...]:
            return _problem_again, (limit, objective, n_obj, dict(self.__dict__))

    return SpaceProblem()


def _problem_again(limit: Limit, objective: Callable[[I64], ArrayLike], n_obj: int, state: dict[str, Any]) -> Any:
    found = problem(limit, objective, n_obj=n_obj)
    found.__dict__.update(state)
    return found


# ---------------------------------------------------------------------------------- nevergrad


def parametrization(space: SearchSpace, limit: Limit | None = None) -> Any:
    """Return the nevergrad parametrization of a space: a tuple of positions, one per gene.

    Parameters
    ----------
    space : SearchSpace
    limit : Limit, optional
        Registered as a cheap constraint: nevergrad proposes again what does not fit, and penalises what it proposes
        all the same.

    Returns
    -------
    nevergrad.p.Tuple
        Its value is a genotype as a tuple of integers, not canonical. Genes with ascending numbers as values are
        ordered choices, others unordered ones.

    Raises
    ------
    SpaceError
        If the limit is of another space.
    """
    parameters = _load("nevergrad").p
    genes = []
    for gene in space.genes:
        numbers = all(type(v) in (int, float) for v in gene.values)
        ordered = numbers and list(gene.values) == sorted(gene.values)
        kind = parameters.TransitionChoice if ordered else parameters.Choice
        genes.append(kind(range(gene.cardinality)))
    found = parameters.Tuple(*genes)
    if limit is not None:
        if limit.space is not space:
            raise SpaceError(f"the limit is of {limit.space!r}, not of {space!r}")
        found.register_cheap_constraint(limit)
    return found
