"""Is this recomputation plan legal? Plain Python that shares no code with kernels or planners.

A plan's schedule is replayed on a table of buffers, as a runtime would run it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cnnlive.errors import RematError

if TYPE_CHECKING:
    from cnnlive.plan.remat import RematPlan, RematProblem

__all__ = ["check_remat", "replay"]


def replay(problem: RematProblem, schedule: Iterable[tuple[str, int]]) -> tuple[int, int]:
    """Run a schedule on a table of buffers.

    A node finds every value that it reads, or the schedule is wrong. It takes bytes for its outputs, those that share
    bytes left out, and its scratch while it runs; an output that is there already is made beside the other and dropped
    at once. A value that is freed goes with its views, and an overwritten one as well.

    Parameters
    ----------
    problem : RematProblem
    schedule : iterable of ("run", node) and ("free", value)

    Returns
    -------
    tuple of int
        Most bytes alive at once, fixed ones included, and the cost.

    Raises
    ------
    RematError
        With the first thing that is wrong.

    Examples
    --------
    >>> from cnnlive.plan.remat import RematProblem
    >>> two = RematProblem.of([3, 4], [10, 1], [(0, 1)], 0)
    >>> replay(two, [("run", 0), ("run", 1), ("free", 0), ("free", 1)])
    (11, 7)
    >>> replay(two, [("run", 1)])
    Traceback (most recent call last):
        ...
    cnnlive.errors.RematError: action 0 runs node 1, whose input 0 (an output of node 0) is not there
    """
    n, names = problem.n, problem.names
    out_ptr, in_ptr, reads = problem.out_ptr.tolist(), problem.in_ptr.tolist(), problem.in_idx.tolist()
    sizes, share, over = problem.nbytes.tolist(), problem.share.tolist(), problem.overwrites.tolist()
    cost, scratch, may = problem.cost.tolist(), problem.scratch.tolist(), problem.may_rerun.tolist()
    until = problem.held.tolist()
    owner = [i for i in range(n) for _ in range(out_ptr[i + 1] - out_ptr[i])]
    buffer: dict[int, int] = {}  # value to its buffer
    held: dict[int, set[int]] = {}  # buffer to its values
    nbytes: dict[int, int] = {}
    runs = [0] * n
    used = peak = problem.fixed_bytes
    spent = fresh = 0
    for k, (what, x) in enumerate(schedule):
        if what == "free":
            if x not in buffer:
                raise RematError(
                    f"action {k} frees value {x} (an output of node {names[owner[x]]}), which is not there"
                )
            b = buffer[x]
            for v in held.pop(b):
                if until[v] >= 0 and not runs[until[v]]:
                    raise RematError(f"action {k} frees an output of node {names[owner[v]]}, which is held until node "
                                     f"{names[until[v]]} has run")  # fmt: skip
                del buffer[v]
            used -= nbytes.pop(b)
            continue
        if what != "run":
            raise RematError(f"action {k} is {what!r}; allowed: run, free")
        is_view = out_ptr[x] < out_ptr[x + 1] and share[out_ptr[x]] >= 0 and not over[out_ptr[x]]
        if runs[x] and not is_view and x > problem.loss:
            raise RematError(f"action {k} runs backward node {names[x]} again")
        if runs[x] and not may[x] and not is_view:
            raise RematError(f"action {k} runs node {names[x]} again, which may not be recomputed")
        for v in reads[in_ptr[x] : in_ptr[x + 1]]:
            if v not in buffer:
                raise RematError(f"action {k} runs node {names[x]}, whose input {v} (an output of node "
                                 f"{names[owner[v]]}) is not there")  # fmt: skip
        runs[x] += 1
        spent += cost[x]
        outputs = range(out_ptr[x], out_ptr[x + 1])
        peak = max(peak, used + scratch[x] + sum(sizes[v] for v in outputs if share[v] < 0))
        for v in outputs:
            if share[v] < 0:
                if v not in buffer:
                    buffer[v] = fresh
                    held[fresh], nbytes[fresh] = {v}, sizes[v]
                    used += sizes[v]
                    fresh += 1
            elif over[v]:
                b = buffer[share[v]]
                for w in held[b]:
                    del buffer[w]
                if v in buffer:
                    del held[b]
                    used -= nbytes.pop(b)
                else:
                    held[b], buffer[v] = {v}, b
            elif v not in buffer:
                buffer[v] = buffer[share[v]]
                held[buffer[v]].add(v)
    for i, count in enumerate(runs):
        if not count:
            raise RematError(f"node {names[i]} never runs")
    for v, keep in enumerate(problem.outlives.tolist()):
        if keep and v not in buffer:
            raise RematError(f"value {v} (an output of node {names[owner[v]]}) does not outlive the step")
    return peak, spent


def check_remat(plan: RematPlan) -> None:
    """Replay a plan and compare what it says of itself.

    Raises
    ------
    RematError
        If the schedule is wrong, its peak or cost is not what the plan says, or the peak is above the budget.

    Examples
    --------
    >>> from cnnlive.plan.remat import RematProblem, plan_remat
    >>> two = RematProblem.of([3, 4], [10, 1], [(0, 1)], 0)
    >>> check_remat(plan_remat(two, budget=11))
    """
    peak, cost = replay(plan.problem, plan.schedule)
    for what, found, said in (("peak", peak, plan.peak_bytes), ("cost", cost, plan.cost)):
        if found != said:
            raise RematError(f"the plan's {what} is {found:,} and not {said:,}")
    if peak > plan.budget:
        raise RematError(f"the plan's peak of {peak:,} bytes is above its budget of {plan.budget:,}")
