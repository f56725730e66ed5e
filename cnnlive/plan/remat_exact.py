"""Exact rematerialisation: CP-SAT proves that a plan is the cheapest, or finds a cheaper one."""

from __future__ import annotations

import contextlib
import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

from cnnlive._types import I64, frozen
from cnnlive.errors import RematError, import_extra
from cnnlive.plan.remat import RematPlan, RematProblem, _Model, _Search

__all__ = ["prove_remat"]

_LARGE: Final = 2**48  # bytes and costs together in the solver's units: exact as floats
_TERMS: Final = 4_000_000  # of the rows of what is alive while nodes run again; above, the bound goes without them
_DECISIONS: Final = 1_000_000
_TRIES: Final = 20_000  # of the descent from each plan that the solver finds
_PART: Final = 0.7  # of the time, for all schedules; the rest is for those that states express
_TRUE: Final = True  # literals that are known
_FALSE: Final = False
_TICK: Final = 0.1  # seconds between two looks for an interruption


def prove_remat(
    plan: RematPlan,
    *,
    time_limit: float = 60.0,
    work_limit: float | None = None,
    workers: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> RematPlan:
    """Prove a plan the cheapest, or find a cheaper one, or say how far it may be from that.

    For graphs of up to about 150 nodes; needs OR-Tools, which the extra ``exact`` installs.

    Parameters
    ----------
    plan : RematPlan
        As :func:`plan_remat` gives it. The better it is, the sooner the proof ends.
    time_limit : float
        Seconds, all together. Where they run out, the plan is ``"feasible"`` with the bound that was reached.
    work_limit : float, optional
        A limit in CP-SAT's deterministic time, which is about seconds, for each of the two searches.
    workers : int
        Threads of the solver.
    seed : int
        With one worker, and where it ends before the time does, equal arguments give equal plans.
    progress : callable, optional
        Called with the cost and the proven bound whenever one of them is better.

    Returns
    -------
    RematPlan
        Never more costly than `plan`, within its budget; of ``effort`` "exact". Its ``lower_bound`` is the better of
        the plan's own and what CP-SAT proved; it is ``"optimal"`` where that is its cost.

    Raises
    ------
    MissingExtraError
        If OR-Tools is not installed.
    RematError
        If an argument is outside what is allowed, or the graph is too large to be written out.

    Notes
    -----
    The bound holds for all schedules that run the steps in their order and, before each step, any choice of nodes that
    may run again, each at most once and in program order (the frontier-advancing schedules of Jain et al., MLSys
    2020), where any value is held between any two steps or not: a value may have as many intervals of retention as
    there are steps. Views run again, and outputs that outlive the step are held, as :class:`RematProblem` says; a node
    that reads what is overwritten for good does not run again. Such a schedule may compute a value before it is needed
    and hold what it takes for that; no :attr:`RematPlan.states` say so. If the cheapest schedule is one of those, a
    second search, for the cheapest plan that states express, gives what is returned, and ``lower_bound`` stays below
    its cost. What runs a node twice before one step is in neither class; the knapsack of :func:`plan_remat` bounds
    that as well.

    In the program there is a Boolean for each value and step that it may be held before, and one for each node and
    step that it may run again before: Moccasin's retention intervals (Bartan et al., ICML 2023) without a limit to
    their number. Memory is one row for each step and one for each node that runs again before it. Its size is
    O(forward nodes^2 x nodes).

    An interrupt from the keyboard ends the search, and the best plan so far is returned.

    Examples
    --------
    >>> from cnnlive.plan.remat import RematProblem, plan_remat
    >>> chain = RematProblem.of(
    ...     cost=[1] * 12, nbytes=[10] * 6 + [1] * 6, loss=5, name="chain",
    ...     edges=[(i, i + 1) for i in range(11)] + [(i, 10 - i) for i in range(5)],
    ... )
    >>> plan = prove_remat(plan_remat(chain, budget=32))  # doctest: +SKIP
    >>> plan.cost, plan.lower_bound, plan.status  # doctest: +SKIP
    (15, 15, 'optimal')
    """  # fmt: skip
    if not isinstance(plan, RematPlan):
        raise RematError(f"plan is {type(plan).__name__}; allowed: a RematPlan")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise RematError(f"workers is {workers!r}; allowed: an integer of 1 or more")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise RematError(f"seed is {seed!r}; allowed: an integer of 0 or more, below 2**31")
    for what, limit in (("time_limit", time_limit), ("work_limit", work_limit)):
        if limit is not None and not limit > 0:
            raise RematError(f"{what} is {limit!r}; allowed: above 0")
    if time_limit is None:
        raise RematError("time_limit is None; allowed: seconds above 0")
    _cp_model()
    run = _Run(plan, time.monotonic() + time_limit, time_limit, work_limit, workers, seed, progress)
    with contextlib.suppress(KeyboardInterrupt):
        run.go()
    return run.result()


@functools.cache
def _cp_model() -> Any:
    """Return the module of OR-Tools; without types, which are not there for those who lack it."""
    return import_extra("ortools.sat.python.cp_model", "exact", "an exact plan")


class _Run:
    """The best plan and the best bound so far, and the two searches that improve them."""

    def __init__(self, plan: RematPlan, end: float, seconds: float, work: float | None, workers: int, seed: int,
                 progress: Callable[[int, int], object] | None) -> None:  # fmt: skip
        self.plan, self.end, self.seconds, self.work = plan, end, seconds, work
        self.workers, self.seed, self.progress = workers, seed, progress
        self.best = (plan.states, plan.peak_bytes, plan.cost)  # one thing, as it may be interrupted at any time
        self.bound = plan.lower_bound

    @property
    def states(self) -> I64:
        return self.best[0]

    @property
    def cost(self) -> int:
        return self.best[2]

    def go(self) -> None:
        """Search among all schedules, then among those that states express."""
        problem = self.plan.problem
        self.search = _Search(problem, self.seed, None)
        e = self.search.e
        if len(self.states) != len(e.model.start) or not e.go(self.states):
            raise RematError(f"the plan has {len(self.states)} states; allowed: those of a plan of its problem")
        _, peak, cost = self.best
        for what, said, found in (("cost", cost, e.cost), ("peak", peak, e.peak_bytes)):
            if said != found:
                raise RematError(f"the plan's {what} is {found:,} and not {said:,}")
        if peak > self.plan.budget:
            raise RematError(f"the plan's peak of {peak:,} bytes is above its budget of {self.plan.budget:,}")
        if self.bound > self.cost:
            raise RematError(f"the plan's cost of {self.cost:,} is below its bound of {self.bound:,}")
        for narrow, part in ((False, _PART), (True, 1.0)):
            left = self.end - time.monotonic() - (1.0 - part) * self.seconds
            if left <= 0 or self.cost <= self.bound:
                continue
            program = _Program(problem, self.search.e.model, self.plan.budget, narrow)
            bound = program.solve(self, self.end - time.monotonic() - (1.0 - part) * self.seconds)
            if not narrow:
                self.bounded(bound)

    def bounded(self, bound: int) -> None:
        """Note a bound."""
        bound = min(bound, self.cost)
        if bound > self.bound:
            self.bound = bound
            self.tell()

    def offer(self, states: I64) -> None:
        """Improve a plan, and keep it if it is the best."""
        search = self.search
        if not search.e.go(states):
            return
        if search.repair(self.plan.budget):
            if search.e.cost > self.bound:
                search.descend(self.plan.budget, _TRIES)
            if search.e.cost < self.cost and search.e.peak_bytes <= self.plan.budget:
                self.best = (search.state, search.e.peak_bytes, search.e.cost)
                self.tell()

    def tell(self) -> None:
        """Report what there is."""
        if self.progress is not None:
            self.progress(self.cost, self.bound)

    def result(self) -> RematPlan:
        """Return the best plan."""
        states, peak, cost = self.best
        return RematPlan(self.plan.problem, self.plan.budget, frozen(states), peak, cost, self.bound,
                         "optimal" if cost == self.bound else "feasible", "exact")  # fmt: skip


class _Program:
    """All schedules of a problem within a budget, as Booleans.

    ``held[v, p]``: the value is there when step `p` begins. ``again[c, p]``: the node runs again before step `p`. What
    is always so is `_TRUE`, and what never is, is not there.

    A value that is held is read before it is freed, and a node that runs again is one whose output is read or held:
    schedules that do more cost and hold no less. In the first steps, as long as all fits, all is held.
    """

    def __init__(self, problem: RematProblem, model: _Model, budget: int, narrow: bool) -> None:
        m = model
        self.model, self.plain, self.narrow = m, problem.plain_cost, narrow
        self.n = m.n
        self.owner, self.may = m.value_node.tolist(), m.may_rerun.tolist()
        self.gap_ptr, self.begin, self.stop = m.gap_ptr.tolist(), m.gap_begin.tolist(), m.gap_end.tolist()
        self.outputs = [range(a, b) for a, b in zip(m.out_ptr[:-1].tolist(), m.out_ptr[1:].tolist(), strict=True)]
        idx, ptr = m.in_idx.tolist(), m.in_ptr.tolist()
        self.reads = [idx[ptr[i] : ptr[i + 1]] for i in range(m.n)]
        users, at = m.user_idx.tolist(), m.user_ptr.tolist()
        self.users = [users[at[v] : at[v + 1]] for v in range(len(self.owner))]
        self.takes = m.takes.tolist()
        self.taker = {u: self.owner[w] for w, u in enumerate(self.takes) if u >= 0}
        # bytes down and room up, costs down: where the unit is not exact, the bound still is one
        amounts = [*m.nbytes.tolist(), *m.scratch.tolist()]
        unit = _unit(amounts)
        self.nbytes = [b // unit for b in m.nbytes.tolist()]
        self.scratch = [b // unit for b in m.scratch.tolist()]
        left = budget - problem.fixed_bytes
        self.room = left // unit if not any(b % unit for b in amounts) else -(-left // unit)
        charges = [*m.again[m.may_rerun == 1].tolist(), *m.gap_cost.tolist()]
        self.unit = _unit(charges, m.n)
        self.exact = not any(c % self.unit for c in charges)
        self.latest = self._latest()
        self.roomy = self._roomy()
        self.p = _cp_model().CpModel()
        self.held: dict[tuple[int, int], Any] = {}
        self.again: dict[tuple[int, int], Any] = {}
        self.charged: dict[int, Any] = {}
        self.either: list[tuple[Any, Any, Any]] = []
        self._decisions()
        self._rules()
        self._memory()
        if narrow:
            self._states()
        self._cost()

    def _latest(self) -> list[int]:
        """Return the last step before which it may be of use to run each node again; -1: none."""
        latest = [-1] * self.n
        for c in reversed(range(self.n)):
            if self.may[c]:
                for v in self.outputs[c]:
                    ends = [e for e in self.stop[self.gap_ptr[v] : self.gap_ptr[v + 1]] if e < self.n]
                    latest[c] = max([latest[c], *ends[-1:], *(latest[r] for r in self.users[v])])
        return latest

    def _last(self, v: int) -> int:
        """Return the last step before which it may be of use to hold a value."""
        last: int = self.owner[v]
        for e in self.stop[self.gap_ptr[v] : self.gap_ptr[v + 1]]:
            if e <= self.n:
                last = max(last, min(e, self.n - 1))
        for r in self.users[v]:
            last = max(last, self.latest[r])
        return last

    def _roomy(self) -> int:
        """Return the number of steps, from the first on, in which everything that is of use can be held."""
        change = [0] * (self.n + 1)
        for v, b in enumerate(self.nbytes):
            change[self.owner[v]] += b if self.takes[v] < 0 else 0
            change[(self.taker[v] if v in self.taker else self._last(v)) + 1] -= b
        for w, u in enumerate(self.takes):
            if u >= 0:
                # it has its bytes from the one it takes the place of, which gives them up after this step
                change[self.owner[w] + 1] += self.nbytes[w]
        live = 0
        for p in range(self.n):
            live += change[p]
            if live + self.scratch[p] > self.room:
                return p
        return self.n

    def _decisions(self) -> None:
        n = self.n
        count = sum(max(last - c, 0) for c, last in enumerate(self.latest))
        if 2 * count > _DECISIONS:
            raise RematError(f"an exact plan of {n:,} nodes has about {2 * count:,} decisions; allowed: {_DECISIONS:,}")
        for c in range(n):
            for p in range(max(c + 1, self.roomy), self.latest[c] + 1):
                self.again[c, p] = self.p.new_bool_var("")
        until = self.model.kept_until.tolist()
        for v, o in enumerate(self.owner):
            last = max((self.latest[r] for r in self.users[v]), default=-1)
            for g in range(self.gap_ptr[v], self.gap_ptr[v + 1]):
                a, b = self.begin[g], self.stop[g]
                if b <= n:
                    closed = not self.may[o] or not self.nbytes[v] or b == n or b <= until[v]
                    closed |= self.narrow and (b == a + 1 or b < self.roomy)
                    for p in range(a + 1, min(b, n - 1) + 1):
                        known = closed or (p < self.roomy and not self.narrow)
                        self.held[v, p] = _TRUE if known else self.p.new_bool_var("")
                elif v in self.taker:
                    # what was overwritten, made a second time
                    for p in range(a + 2, last + 1) if self.may[o] and not self.narrow else ():
                        self.held[v, p] = self.p.new_bool_var("")
                elif self.nbytes[v]:
                    for p in range(a + 1, last + 1):
                        known = p < self.roomy and not self.narrow
                        self.held[v, p] = _TRUE if known else self.p.new_bool_var("")
                else:
                    for p in range(a + 1, n):
                        self.held[v, p] = _TRUE

    def _is_held(self, v: int, p: int) -> Any:
        return self.held.get((v, p), _FALSE)

    def _runs(self, c: int, p: int) -> Any:
        return self.again.get((c, p), _FALSE)

    def _wanted(self, v: int, p: int) -> list[Any]:
        """Return literals of which one holds if step `p`, or a node that runs again before it, reads a value."""
        if v in self.reads[p]:
            return [_TRUE]
        return [self.again[r, p] for r in self.users[v] if (r, p) in self.again]

    def _clause(self, *literals: Any) -> None:
        """At least one of these."""
        if not any(x is _TRUE for x in literals):
            self.p.add_bool_or([x for x in literals if x is not _FALSE])

    def _rules(self) -> None:
        """Constrain what must be there and what is of no use."""
        for p in range(self.n):
            for v in self.reads[p]:
                self._clause(self._is_held(v, p), self._runs(self.owner[v], p))
        for (c, p), x in self.again.items():
            for v in self.reads[c]:
                self._clause(_not(x), self._is_held(v, p), self._runs(self.owner[v], p))
                if self.taker.get(v) == c:
                    self._clause(_not(x), _not(self._is_held(v, p + 1)))
            outputs = self.outputs[c]
            if len(outputs) == 1:
                self._clause(_not(x), _not(self._is_held(outputs[0], p)))
            self._clause(_not(x), *(y for v in outputs for y in (*self._wanted(v, p), self._is_held(v, p + 1))))
        for (v, p), x in self.held.items():
            if p - 1 > self.owner[v]:
                self._clause(_not(x), self._is_held(v, p - 1), self._runs(self.owner[v], p - 1))
            if x is not _TRUE:
                self._clause(_not(x), self._is_held(v, p + 1), *self._wanted(v, p))

    def _memory(self) -> None:
        """Constrain the bytes alive in each step, and while each node runs again before it."""
        values = [v for v, b in enumerate(self.nbytes) if b]
        inside = len(self.again) * len(values) // 2 <= _TERMS
        by_node: list[list[int]] = [[] for _ in range(self.n)]
        for v in values:
            by_node[self.owner[v]].append(v)
        for p in range(self.n):
            there = [v for v in values if self.owner[v] < p]
            own = set(self.reads[p])
            # what is alive after the nodes run again that were looked at: those from the last on
            after = {v: _TRUE if v in own else self._is_held(v, p + 1) for v in there}
            self._limit(p, p, after, own)
            for c in reversed(range(p)) if inside else ():
                x = self.again.get((c, p))
                for v in by_node[c]:
                    # it is made by `c` or there from the start, until then
                    after[v] = self._is_held(v, p)
                if x is None:
                    continue
                self._limit(c, p, after, set(self.reads[c]), x)
                for v in self.reads[c]:
                    if self.nbytes[v] and after[v] is not _TRUE:
                        after[v] = self._either(after[v], x)

    def _either(self, x: Any, y: Any) -> Any:
        """Return a literal that holds if one of two does."""
        if x is _FALSE:
            return y
        z = self.p.new_bool_var("")
        self.either.append((z, x, y))
        self.p.add_implication(x, z)
        self.p.add_implication(y, z)
        return z

    def _limit(self, c: int, p: int, there: dict[int, Any], own: set[int], only: Any = None) -> None:
        """Constrain the bytes while node `c` runs before or in step `p`."""
        fixed = self.scratch[c] + sum(self.nbytes[v] for v in own)
        fixed += sum(self.nbytes[v] for v in self.outputs[c] if self.takes[v] < 0)
        row = [(v, x) for v, x in there.items() if v not in own and x is not _FALSE]
        fixed += sum(self.nbytes[v] for v, x in row if x is _TRUE)
        row = [(v, x) for v, x in row if x is not _TRUE]
        sizes = [self.nbytes[v] for v, _ in row]
        if fixed + sum(sizes) <= self.room:
            return
        if fixed > self.room:
            self._clause(_FALSE if only is None else _not(only))
            return
        some = _cp_model().LinearExpr.weighted_sum([x for _, x in row], sizes) <= self.room - fixed
        limit = self.p.add(some)
        if only is not None:
            limit.only_enforce_if(only)

    def _cost(self) -> None:
        m = self.model
        literals, costs = [], []
        for (c, _), x in self.again.items():
            literals.append(x)
            costs.append(int(m.again[c]) // self.unit)
        for g in np.flatnonzero(m.gap_cost).tolist():
            v = int(m.gap_value[g])
            parts = [self._is_held(v, p) for p in range(self.begin[g] + 1, self.stop[g] + 1)]
            if any(x is not _TRUE for x in parts):
                # views run again at the end of a gap through which what they show was not held
                self.charged[g] = y = self.p.new_bool_var("")
                for x in parts:
                    self._clause(x, y)
                literals.append(y)
                costs.append(int(m.gap_cost[g]) // self.unit)
        self.spent = _cp_model().LinearExpr.weighted_sum(literals, costs)
        self.p.minimize(self.spent)

    def _states(self) -> None:
        """Allow only what states of gaps express: see :attr:`RematPlan.states`."""
        free = set(self.model.free.tolist())
        for (c, p), x in self.again.items():
            # on demand: for an output that is read in this step and was not held
            asked = []
            for v in self.outputs[c]:
                if len(self.outputs[c]) == 1:
                    asked += self._wanted(v, p)
                    continue
                held, wanted = self._is_held(v, p), self._wanted(v, p)
                if wanted and held is not _TRUE:
                    y = self.p.new_bool_var("")
                    self._clause(_not(y), _not(held))
                    self._clause(_not(y), *wanted)
                    asked.append(y)
            self._clause(_not(x), *asked)
        for g in sorted(free):
            self._gap(g)

    def _gap(self, g: int) -> None:
        v = int(self.model.gap_value[g])
        a, b = self.begin[g], self.stop[g]
        open_ = b > self.n
        steps = range(a + 1, (max((self.latest[r] for r in self.users[v]), default=a) if open_ else b - 1) + 1)
        never = self.p.new_bool_var("")  # state 2
        late = self.p.new_bool_var("")  # state 4 is allowed
        for p in (*steps, *([] if open_ else [b])):
            self._clause(_not(never), _not(self._is_held(v, p)))
        later: dict[int, Any] = {}  # whether it is wanted after a step, where no step ends the gap
        if open_:
            y: Any = _FALSE
            for p in reversed(steps):
                later[p] = y
                for x in self._wanted(v, p):
                    y = self._either(y, x)
        before: Any = _FALSE  # whether it was wanted earlier in the gap
        for p in steps:
            x, then = self._is_held(v, p), self._is_held(v, p + 1)
            more = later.get(p, _TRUE)
            wanted = self._wanted(v, p)
            for w in wanted:
                # made again and held from there, or from when it is wanted next, unless no one wants it any more
                self._clause(x, then, _not(w), never, _not(more), late)
                self._clause(x, then, _not(w), never, _not(more), _not(before))
            self._clause(x, _not(then), *wanted)
            # freed after it was wanted for the first time, or the last
            self._clause(_not(x), then, _not(more), _not(before))
            self._clause(_not(x), then, _not(more), self._is_held(v, a + 1))
            for w in wanted:
                before = self._either(before, w)

    def solve(self, run: _Run, seconds: float) -> int:
        """Search for what costs less than the best plan; return a bound of the cost."""
        top = (run.cost - self.plain) // self.unit
        low = -(-max(run.bound - self.plain, 0) // self.unit) if self.exact else 0
        if seconds <= 0 or top < low:
            return run.bound
        self.p.add_linear_constraint(self.spent, low, top)
        self._hint(run)
        cp = _cp_model()
        solver = cp.CpSolver()
        how = solver.parameters
        how.max_time_in_seconds, how.num_workers, how.random_seed = seconds, run.workers, run.seed
        how.linearization_level, how.catch_sigint_signal = 2, False
        if run.work is not None:
            how.max_deterministic_time = run.work
        events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        held, again = self.held, self.again

        class Found(cp.CpSolverSolutionCallback):  # type: ignore[misc, name-defined]
            def on_solution_callback(self) -> None:
                there = {k for k, x in held.items() if x is _TRUE or self.boolean_value(x)}
                events.put(("plan", (there, {k for k, x in again.items() if self.boolean_value(x)})))

        solver.best_bound_callback = lambda bound: events.put(("bound", bound))

        def work() -> None:
            try:
                events.put(("end", solver.solve(self.p, Found())))
            except Exception as error:
                events.put(("end", error))

        # The solver has a thread, so that this one hears of an interruption
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            what = ""
            while what != "end":
                try:
                    what, found = events.get(timeout=_TICK)
                except queue.Empty:
                    continue
                if what == "bound" and not self.narrow:
                    run.bounded(self._whole(found))
                elif what == "plan":
                    run.offer(self._read(*found))
        finally:
            while thread.is_alive():
                solver.stop_search()
                thread.join(_TICK)
        if isinstance(found, Exception):
            raise found
        if found not in (cp.OPTIMAL, cp.FEASIBLE, cp.UNKNOWN):
            raise RematError(f"CP-SAT finds no plan where there is one: {solver.status_name(found)}")
        return self._whole(solver.best_objective_bound)

    def _whole(self, bound: float) -> int:
        """Return a bound of what recomputation costs, in the solver's units, as one of the whole cost."""
        return self.plain + max(math.ceil(bound - 1e-3), 0) * self.unit

    def _hint(self, run: _Run) -> None:
        """Tell the solver of the best plan."""
        e, n = run.search.e, self.n
        e.go(run.states)
        pool = e.work["pool"].tolist()
        closures = e.work["closure"].tolist()
        again = {(c, p) for p, (begin, count) in enumerate(closures) for c in pool[begin : begin + count]}
        gap_value = self.model.gap_value.tolist()
        held = {
            (gap_value[k % len(gap_value)], p)
            for k, (a, b) in enumerate(e.work["hold"].tolist()) if a >= 0 for p in range(a + 1, min(b, n - 1) + 1)
        }  # fmt: skip
        value: dict[int, bool] = {}
        for known, have in ((self.held, held), (self.again, again)):
            for k, x in known.items():
                if x is not _TRUE:
                    value[x.index] = k in have
        for z, x, y in self.either:
            value[z.index] = value[x.index] or value[y.index]
        for g, y in self.charged.items():
            value[y.index] = bool(run.states[g])
        for i, there in value.items():
            self.p.add_hint(self.p.get_bool_var_from_proto_index(i), there)

    def _read(self, held: set[tuple[int, int]], again: set[tuple[int, int]]) -> I64:
        """Return the states nearest to a solution."""
        state = self.model.start.copy()
        wanted = {(v, p) for c, p in again for v in self.reads[c]}
        for g in self.model.free.tolist():
            v, a, b = int(self.model.gap_value[g]), self.begin[g], self.stop[g]
            there = [(v, p) in held for p in range(a + 1, min(b, self.n - 1) + 1)]
            if all(there[:1]):
                end = there.index(False) if False in there else len(there)
                more = b < self.n or any((v, p) in wanted for p in range(a + 1 + end, self.n))
                state[g] = 3 if end < len(there) and more else 0
            else:
                first = next((p for p in range(a + 1, min(b, self.n - 1) + 1) if (v, p) in wanted), b)
                late = first < b and (v, first + 1) not in held
                state[g] = (4 if late else 1) if any(there) else 2
        return state


def _not(x: Any) -> Any:
    if x is _TRUE or x is _FALSE:
        return _FALSE if x is _TRUE else _TRUE
    return x.negated()


def _unit(amounts: Iterable[int], times: int = 1) -> int:
    """Return what amounts are counted in: what divides them all, or more where they are too large."""
    amounts = list(amounts)
    common, total = max(math.gcd(*amounts), 1), sum(amounts) * times
    return common if total // common < _LARGE else -(-total // _LARGE)
