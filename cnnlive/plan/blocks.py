"""A training graph as a chain of blocks between its cut vertices: planned as that, answered as a plan of the graph."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeAlias

import numpy as np

from cnnlive._types import I64, Columns, column, frozen
from cnnlive.errors import BudgetError, RematError
from cnnlive.plan._budgets import budgets_of, check_points
from cnnlive.plan.chain import BASELINES, Chain, ChainFrontier, chain_baseline, chain_frontier
from cnnlive.plan.remat import Frontier, RematPlan, RematProblem, _Bounds, _Evaluator, _Model

__all__ = ["METHODS", "Blocks", "blocks_frontier", "collapse", "plan_blocks", "start_states"]

METHODS: Final = ("chain", "nested", *BASELINES)
Method: TypeAlias = Literal["chain", "nested", "checkpoint_sequential", "chen_sqrt", "chen_greedy", "revolve"]
_SHARES: Final = (0.15, 0.3, 0.5, 0.7, 0.85, 0.95)  # of the bytes inside all blocks, what options drop
_LONG: Final = 24  # forward nodes of a block that is cut elsewhere too
_NESTED_STAGES: Final = 128  # of a chain that is planned with nested recomputation
_STATES: Final = np.array([0, 1, 4, 2])  # of what is dropped as often: kept, held once, or the second time, or never
_ANY: Final = 2**62
_WORK: Final = 120_000  # plans of the chain that are evaluated on the graph, times its nodes


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Blocks(Columns):
    """A problem's forward nodes as blocks one after another; made by :func:`collapse`.

    Attributes
    ----------
    problem : RematProblem
    start : (n_blocks + 1,) int64
        Block ``k`` is the forward nodes ``start[k] .. start[k + 1] - 1``.
    end : (n_nodes,) int64
        The block to whose backward a node belongs; -1 for forward nodes.
    made, until : (n_values,) int64
        The block that writes a value and the last one whose forward nodes read it; -1 for values that no choice can
        drop before backward begins.
    dropped : (n_values,) int64
        The first option of the value's block that drops it, 0 for none: each drops what those before it drop.
    chain : Chain
        The blocks as stages.
    """

    problem: RematProblem
    start: I64
    end: I64
    made: I64
    until: I64
    dropped: I64
    chain: Chain

    @property
    def n(self) -> int:
        """Number of blocks."""
        return len(self.start) - 1

    def nodes(self, block: int) -> range:
        """Return the forward nodes of a block."""
        return range(int(self.start[block]), int(self.start[block + 1]))

    def crossing(self, block: int) -> tuple[int, ...]:
        """Return the values that a block and those behind it read of those before it: one, at a cut vertex."""
        return tuple(np.flatnonzero((self.made >= 0) & (self.made < block) & (self.until >= block)).tolist())

    @property
    def cut_vertices(self) -> tuple[int, ...]:
        """Forward nodes that write the one value through which all later forward nodes reach what was before."""
        owner = np.repeat(np.arange(self.problem.n), np.diff(self.problem.out_ptr))
        found = (self.crossing(k) for k in range(1, self.n))
        return tuple(int(owner[row[0]]) for row in found if len(row) == 1)

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"<Blocks {self.problem.name!r}: {self.n:,} blocks of {self.problem.loss + 1:,} forward nodes>"


class _Lives(NamedTuple):
    """What each value is to the forward part."""

    at_loss: I64  # the gap of a value in which the loss is, -1 for values of backward nodes
    open_: Any  # whether that gap may be dropped
    read: I64  # last forward node that reads it and can run again, or that writes it
    used: Any  # whether a backward node reads it, or it outlives the step


def _lives(problem: RematProblem, m: _Model, one_each: bool) -> _Lives:
    """Return the lives of values; `one_each`: of what a node writes, only what later nodes need again may be dropped.

    What is dropped twice runs again for each of its outputs that is needed in another step. So the others stay where
    they are small beside the largest, as statistics are, or all of them.
    """
    loss, n_values = problem.loss, len(m.nbytes)
    spans = np.flatnonzero((m.gap_begin <= loss) & (m.gap_end > loss))
    at_loss = np.full(n_values, -1, np.int64)
    at_loss[m.gap_value[spans]] = spans
    free = np.zeros(len(m.gap_value) + 1, bool)
    free[m.free] = True
    # a node that writes nothing never runs again, nor does anything for its sake
    users = m.user_idx[np.diff(m.out_ptr)[m.user_idx] > 0]
    value = np.repeat(np.arange(n_values), np.diff(m.user_ptr))[np.diff(m.out_ptr)[m.user_idx] > 0]
    read = m.value_node.copy()
    np.maximum.at(read, value, users)
    used = (at_loss >= 0) & (m.gap_end[at_loss] <= m.n)
    open_ = free[at_loss] & (at_loss >= 0)
    ptr = m.out_ptr.tolist()
    for i in np.flatnonzero(np.diff(m.out_ptr[: loss + 2]) > 1).tolist():
        row = [v for v in range(ptr[i], ptr[i + 1]) if open_[v]]
        most = int(m.nbytes[ptr[i] : ptr[i + 1]].max())
        main = [v for v in row if read[v] > i] or sorted(row, key=lambda v: -int(m.nbytes[v]))[:1]
        for v in row:
            if 16 * m.nbytes[v] < most or (one_each and v not in main):
                open_[v] = False
    return _Lives(at_loss, open_, read, used)


def _starts(problem: RematProblem, m: _Model, lives: _Lives) -> I64:
    """Return where blocks begin: behind cut vertices, and where little crosses in what is long between them."""
    loss = problem.loss
    count, size, unused, which = (np.zeros(loss + 2, np.int64) for _ in range(4))
    at = np.flatnonzero(lives.open_ & (lives.read > m.value_node))
    for where, sign in ((m.value_node[at], 1), (lives.read[at], -1)):
        np.add.at(count, where, sign)
        np.add.at(size, where, sign * m.nbytes[at])
        np.add.at(unused, where, sign * ~lives.used[at])
        np.add.at(which, where, sign * at)
    # a value that is overwritten is nothing to go on from
    gone = np.flatnonzero((m.takes >= 0) & (m.value_node <= loss))
    bad = np.zeros(loss + 2, np.int64)
    np.add.at(bad, m.value_node[m.takes[gone]], 1)
    np.add.at(bad, m.value_node[gone], -1)
    count, size, unused, which, bad = (np.cumsum(x)[:loss] for x in (count, size, unused, which, bad))
    good = bad == 0
    at = np.flatnonzero(good & (count <= 1) & (unused == 0))
    # behind what only reads the value that crosses, it still does
    same = (count[at[1:]] == 1) & (count[at[:-1]] == 1) & (which[at[1:]] == which[at[:-1]])
    chosen: list[int] = np.delete(at, 1 + np.flatnonzero(same)).tolist()
    for allowed in (good & (count <= 1), good):
        found: list[int] = []
        for a, b in pairwise([-1, *chosen, loss]):
            last = a
            while b - last > _LONG:
                inside = np.arange(last + 2, min(last + 1 + _LONG, b - 1))
                inside = inside[allowed[inside]]
                if not len(inside):
                    break
                # the smallest, and the last of those
                last = int(inside[::-1][np.argmin(size[inside][::-1])])
                found.append(last)
        chosen = sorted({*chosen, *found})
    return column([0, *(k + 1 for k in chosen), loss + 1])


def _ends(problem: RematProblem, m: _Model, until: I64, n_blocks: int) -> I64:
    """Return the block that each backward node works on: from the last to the first, by what it reads of forward."""
    end = np.full(m.n, -1, np.int64)
    most = [10**9 if u < 0 else u for u in until.tolist()]
    ptr, idx = m.in_ptr.tolist(), m.in_idx.tolist()
    now = n_blocks - 1
    for p in range(problem.loss + 1, m.n):
        now = min(now, min((most[v] for v in idx[ptr[p] : ptr[p + 1]]), default=now))
        end[p] = now
    return end


def _taken(m: _Model) -> Any:
    """Return which values are overwritten."""
    found = np.zeros(len(m.nbytes), bool)
    found[m.takes[m.takes >= 0]] = True
    return found


def _options(problem: RematProblem, m: _Model, lives: _Lives, made: I64, until: I64) -> I64:
    """Return the option from which on each value is dropped inside its block: the cheapest for their bytes first."""
    ptr, idx, owner = m.in_ptr.tolist(), m.in_idx.tolist(), m.value_node.tolist()
    again = m.again.tolist()
    gone = _taken(m) | ((made >= 0) & (made == until) & ~lives.used)
    # with what has to run before a node, because nobody holds it anyway
    price = [0.0] * m.n
    for i in range(problem.loss + 1):
        price[i] = again[i] + sum(price[owner[v]] for v in idx[ptr[i] : ptr[i + 1]] if gone[v])
    inside = np.flatnonzero((made >= 0) & (made == until) & lives.used)
    dropped = np.zeros(len(made), np.int64)
    if not len(inside):
        return dropped
    ratio = np.array(price)[m.value_node[inside]] / m.nbytes[inside]
    order = np.lexsort((inside, ratio))
    total = np.cumsum(m.nbytes[inside[order]])
    # of all blocks together, so that what an option drops costs about the same everywhere
    share = (total - m.nbytes[inside[order]] / 2) / total[-1]
    level = 1 + np.searchsorted(_SHARES, share)
    some = level <= len(_SHARES)
    # numbered from 1 on in each block
    key = made[inside[order[some]]] * (len(_SHARES) + 1) + level[some]
    found = np.unique(key)
    block = found // (len(_SHARES) + 1)
    number = 1 + np.arange(len(found)) - np.searchsorted(block, block)
    dropped[inside[order[some]]] = number[np.searchsorted(found, key)]
    return dropped


def _inner(m: _Model, made: I64, until: I64, lives: _Lives, loss: int) -> Any:
    """Return which forward nodes have to run to make again what is inside their block; others make what leaves it."""
    ptr, idx = m.in_ptr.tolist(), m.in_idx.tolist()
    wanted = ((made >= 0) & (made == until) & lives.used).tolist()
    inside = ((made >= 0) & (made == until)) | _taken(m)
    found = np.zeros(loss + 1, bool)
    out_ptr = m.out_ptr.tolist()
    for i in reversed(range(loss + 1)):
        if any(wanted[out_ptr[i] : out_ptr[i + 1]]):
            found[i] = True
            for v in idx[ptr[i] : ptr[i + 1]]:
                wanted[v] = wanted[v] or bool(inside[v])
    return found


def collapse(problem: RematProblem) -> Blocks:
    """Part the forward nodes of a problem at its cut vertices, and make a chain of the parts.

    A block begins behind each node whose one output is all that later forward nodes read of what was before, where
    backward reads that output too; behind others, and in what is long between cut vertices, only where a block would
    pass 24 nodes: then where the fewest bytes cross. Values that can never be dropped are left out of account, since
    they are there whatever is chosen, and a block never begins with a value that is overwritten later.

    Parameters
    ----------
    problem : RematProblem

    Returns
    -------
    Blocks
        Each stage of its chain keeps all that backward reads, or by one of up to six options drops what is cheapest
        for its bytes inside the block. ``input_cost`` is what makes the input of a block, which is not run again where
        a part that was dropped begins with it.

    Notes
    -----
    O(n + edges), and eight evaluations of whole schedules, from which costs and peaks of options are taken. Peaks and
    costs of the chain are those of the graph where blocks are parted by cut vertices and every node can run again, but
    for what cannot be had by blocks: backward nodes that work on two of them.

    Examples
    --------
    >>> problem = RematProblem.of(
    ...     cost=[1] * 12, nbytes=[10] * 6 + [1] * 6, loss=5, name="chain",
    ...     edges=[(i, i + 1) for i in range(11)] + [(i, 10 - i) for i in range(5)],
    ... )
    >>> blocks = collapse(problem)
    >>> blocks, blocks.cut_vertices
    (<Blocks 'chain': 6 blocks of 6 forward nodes>, (0, 1, 2, 3))
    """  # fmt: skip
    return _works(problem)[0].blocks


class _Layout(NamedTuple):
    """How deep a plan of the chain drops blocks, and what is left in memory between them."""

    level: I64  # of each block: 0 kept, 1 dropped and kept when it runs again, 2 dropped then too
    option: I64
    border: I64  # the level at which the input of each block is held; that behind the last is 0


def _layout(n: int, nodes: Iterable[int]) -> _Layout:
    level, option, border = [0] * n, [0] * n, [n] * (n + 1)
    border[0] = border[n] = 0
    stack = [(0, n - 1, 0)]
    for c in nodes:
        a, b, depth = stack.pop()
        if c > 0:
            border[c] = min(border[c], depth)
            stack += [(a, c - 1, depth + 1), (c, b, depth)]
        else:
            level[a], option[a] = depth, -1 - c
            border[a + 1] = min(border[a + 1], depth)
            if a < b:
                stack.append((a + 1, b, depth))
    return _Layout(*(np.array(x, np.int64) for x in (level, option, border)))


class _Work:
    """Blocks of a problem, and the exact evaluator of what is made of them."""

    def __init__(self, problem: RematProblem, e: _Evaluator, one_each: bool) -> None:
        self.problem, self.e = problem, e
        self.m = m = e.model
        self.keep = m.start.copy()
        e.reset(self.keep)
        self.keep_peak, self.keep_cost = e.peak_bytes, e.cost
        lives = _lives(problem, m, one_each)
        self.start = _starts(problem, m, lives)
        n = len(self.start) - 1
        block = np.searchsorted(self.start, np.arange(problem.loss + 1), side="right") - 1
        self.made, self.until = np.full((2, len(m.nbytes)), -1, np.int64)
        at = np.flatnonzero(lives.open_)
        self.made[at], self.until[at] = block[m.value_node[at]], block[lives.read[at]]
        self.gap = lives.at_loss[at]
        self.values = at
        self.used = lives.used[at]
        self.far = [(k, int(self.made[v]), int(self.until[v])) for k, v in enumerate(at.tolist())
                    if self.until[v] > self.made[v] + 1]  # fmt: skip
        self.dropped = _options(problem, m, lives, self.made, self.until)
        self.end = _ends(problem, m, self.until, n)
        self.chains = self._chains(n, block, lives)
        self.blocks = Blocks(problem, self.start, frozen(self.end), frozen(self.made), frozen(self.until),
                             frozen(self.dropped), self.chains[0])  # fmt: skip

    def states(self, layout: _Layout) -> I64:
        """Return the states of the gaps under a plan of the chain."""
        at = self.values
        made, crosses = self.made[at], self.until[at] > self.made[at]
        level = np.where(crosses, layout.border[made + 1], layout.level[made])
        for k, a, b in self.far:
            level[k] = layout.border[a + 1 : b + 1].min()
        option = layout.option[made]
        dropped = ~crosses & (self.dropped[at] > 0) & (self.dropped[at] <= option)
        # what backward does not read is held only to go on from it
        inside = ~crosses & ~self.used
        times = level + np.where(inside, option > 0, dropped)
        times[inside] = np.maximum(times[inside], 1)
        found = self.keep.copy()
        found[self.gap] = np.take(_STATES, times, mode="clip")
        return found

    def _chains(self, n: int, block: I64, lives: _Lives) -> list[Chain]:
        """Return the blocks as a chain; as two where values cross blocks that do not read them.

        The first counts the bytes of a value where it first leaves a block, the second at every block that it crosses:
        either may say too little or too much of what is dropped in between. Costs and peaks are measured, on the
        schedules that keep everything, that drop all blocks, and that take each option everywhere.
        """
        problem, m, e = self.problem, self.m, self.e
        at, made, until, nbytes = self.values, self.made, self.until, self.m.nbytes
        fixed, loss = problem.fixed_bytes, problem.loss
        once, each = np.zeros((2, n + 1), np.int64)
        for v in at[until[at] > made[at]].tolist():
            once[made[v] + 1] += nbytes[v]
            each[made[v] + 1 : until[v] + 1] += nbytes[v]
        inside = at[self.used & (until[at] == made[at])]
        backward, end = self.end >= 0, self.end[loss + 1 :]
        again = (m.again * m.may_rerun)[: loss + 1]
        inner = _inner(m, made, until, lives, loss)
        lead = np.concatenate([[0], np.bincount(block, again * ~inner, n)[:-1]]).astype(np.int64)
        # gradients that are there when the backward of a block begins
        first = np.searchsorted(-end, -np.arange(n)) + loss + 1
        later = np.flatnonzero(m.value_node > loss)
        last = m.gap_ptr[1:][later] - 1
        life = np.zeros(m.n + 2, np.int64)
        np.add.at(life, m.value_node[later] + 1, nbytes[later])
        np.add.at(life, np.where(m.gap_end[last] == m.n, m.n, m.gap_begin[last]) + 1, -nbytes[later])
        grad = np.zeros(n + 1, np.int64)
        grad[1:n] = np.cumsum(life)[first[: n - 1]]

        def measured() -> tuple[I64, I64, I64]:
            """Return most bytes while each block runs forward and backward, and what is run again for it."""
            line = e.timeline - fixed
            ahead, back = np.zeros((2, n), np.int64)
            np.maximum.at(ahead, block, line[: loss + 1])
            np.maximum.at(back, end, line[loss + 1 :])
            a, size = e.work["closure"].T
            run = np.concatenate([[0], np.cumsum(m.again[e.work["pool"][: int(e.work["totals"][1])]])])
            spent = run[a + size] - run[a]
            changed = np.flatnonzero((e.work["state"] > 0) & (m.gap_end < m.n))
            np.add.at(spent, m.gap_end[changed], m.gap_cost[changed])
            return ahead, back, np.bincount(end, spent[loss + 1 :], n).astype(np.int64)

        none, open_ = np.zeros(n, np.int64), np.zeros(n + 1, np.int64)
        found: list[tuple[int, tuple[I64, I64, I64]]] = []
        count = np.zeros(n, np.int64)
        np.maximum.at(count, made[inside], self.dropped[inside])
        for option in range(int(count.max()) + 1):
            if e.reset(self.states(_Layout(none, none + option, open_))):
                found.append((option, measured()))
        known = e.reset(self.states(_Layout(none + 1, none, open_)))
        ahead, _, run = measured()
        forward_cost = lead + (run if known else np.bincount(block, again * inner, n).astype(np.int64))
        backward_cost = np.bincount(end, problem.cost[backward], n).astype(np.int64)
        # what cannot run again counts to the last block, so that a plain step costs what it does
        rest = problem.plain_cost - int(forward_cost.sum() + backward_cost.sum())
        backward_cost[-1] = max(backward_cost[-1] + rest, 0)
        chains = []
        for act in (once, each) if self.far else (once,):
            # most bytes of each step beside what is held for it
            through = np.maximum(ahead - np.cumsum(act[:-1]) - act[1:], 0)
            options: list[list[tuple[float, int, int]]] = [[] for _ in range(n)]
            for option, (_, back, run) in found:
                saved = act[1:].copy()
                kept = inside[(self.dropped[inside] == 0) | (self.dropped[inside] > option)]
                np.add.at(saved, made[kept], nbytes[kept])
                temp = back - np.cumsum(saved) - grad[:-1] - grad[1:]
                temp = np.maximum(temp, -np.minimum(grad[:-1], saved + grad[1:]))
                for i in np.flatnonzero(count >= option).tolist():
                    options[i].append((int(run[i]), int(saved[i]), int(temp[i])))
            saved, temp = (np.array([row[0][k] for row in options], np.int64) for k in (1, 2))
            chains.append(
                Chain.of(forward_cost, backward_cost, act, saved, input_cost=lead, forward_temp=through,
                         backward_temp=temp, options=[row[1:] for row in options], gradient_bytes=grad,
                         ids=[problem.names[k] for k in self.start[1:] - 1], name=problem.name)
            )  # fmt: skip
        return chains


def _works(problem: RematProblem) -> list[_Work]:
    """Return the blocks of a problem, and where nodes have several outputs, those with one that may be dropped each.

    Neither is better: at 80 % of what keeping everything takes MobileNetV2 costs 4.0 % with one each and 5.9 % with
    more, at 40 % 33 and 20 %; plans are chosen of both.
    """
    e = _Evaluator(problem)
    more = _Work(problem, e, False)
    once = np.bincount(more.m.value_node[more.values], minlength=problem.n).max(initial=0) <= 1
    return [more] if once else [_Work(problem, e, True), more]


class _Plan(NamedTuple):
    peak: int
    cost: int
    states: I64


def _frontier(chain: Chain, method: str, slots: int) -> ChainFrontier:
    if method in ("chain", "nested"):
        return chain_frontier(chain, slots=slots, nested=method == "nested",
                              max_stages=_NESTED_STAGES if method == "nested" else None)  # fmt: skip
    return chain_baseline(chain, method)  # type: ignore[arg-type]


def _plans(works: Sequence[_Work], method: str, slots: int) -> list[_Plan]:
    """Return the plans of a method, evaluated exactly, of which none is worse than another; bytes rise, costs fall.

    Which plans of the chain are evaluated does not depend on a budget, so that more of it never costs more.
    """
    e = works[0].e
    most = min(max(_WORK // works[0].problem.n, 32), 400)
    seen: set[bytes] = set()
    found = [_Plan(works[0].keep_peak, works[0].keep_cost, works[0].keep)]
    one_level = ["chain"] if method == "nested" else []
    for work in works:
        for frontier in (_frontier(chain, m, slots) for chain in work.chains for m in [*one_level, method]):
            for i in np.unique(np.linspace(0, len(frontier) - 1, most).astype(int)).tolist():
                states = work.states(_layout(work.blocks.n, frontier[i].nodes.tolist()))
                key = states.tobytes()
                if key not in seen and e.go(states):
                    found.append(_Plan(e.peak_bytes, e.cost, states))
                seen.add(key)
    found.sort(key=lambda p: p[:2])
    best = found[:1]
    for plan in found[1:]:
        if plan.cost < best[-1].cost:
            best.append(plan)
    return best


def _check(method: Any, slots: Any, budgets: Iterable[Any]) -> None:
    if method not in METHODS:
        raise RematError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    if isinstance(slots, bool) or not isinstance(slots, int | np.integer) or slots < 1:
        raise RematError(f"slots is {slots!r}; allowed: an integer of 1 or more")
    for b in budgets:
        if isinstance(b, bool) or not isinstance(b, int | np.integer) or not 0 <= b < _ANY:
            raise RematError(f"budget is {b!r}; allowed: an integer of 0 or more, below 2**62")


def _answer(problem: RematProblem, plan: _Plan, budget: int, bound: int, method: str) -> RematPlan:
    return RematPlan(problem, budget, frozen(plan.states), plan.peak, plan.cost, max(bound, 0),
                     "optimal" if plan.cost == bound else "feasible", method)  # fmt: skip


def _refuse(problem: RematProblem, method: str, budget: int, least: int, bound: int) -> NoReturn:
    raise BudgetError(
        f"{problem.name or 'this problem'}: {method} has no plan for a budget of {budget:,} bytes; allowed: {least:,} "
        f"or more; below {bound:,} there is no plan by any method",
        least,
    )


def plan_blocks(problem: RematProblem, budget: int, *, method: Method = "chain", slots: int = 500) -> RematPlan:
    """Plan a problem as a chain of its blocks, or by a known rule.

    Parameters
    ----------
    problem : RematProblem
    budget : int
        Bytes that may be alive at once, fixed ones included.
    method : str
        ``"chain"``: each block is run forward at most twice, and keeps all or drops what is cheap for its bytes.
        ``"nested"``: what is done again may be dropped again; pays below about 30 % of what keeping everything takes.
        ``"checkpoint_sequential"``, ``"chen_sqrt"``, ``"chen_greedy"``, ``"revolve"``: rules on the same blocks, kept
        whole; see :func:`~cnnlive.plan.chain.chain_baseline`.
    slots : int
        How many plans of what follows a block are told apart; for ``"nested"``, see
        :func:`~cnnlive.plan.chain.chain_frontier`.

    Returns
    -------
    RematPlan
        Its states are evaluated exactly on the problem: never above `budget`, and more budget never costs more. Its
        `effort` is the method.

    Raises
    ------
    BudgetError
        If the method has no plan for the budget: names the least that it has one for, and the proven bound.
    RematError
        If an argument is outside what is allowed.

    Notes
    -----
    A frontier of the chain, see :func:`collapse`, whose plans become states of gaps: what a kept block holds inside is
    held, or dropped by the block's option; a dropped block's values are recomputed where its backward first needs one
    of them, and held from there; those dropped twice from the second need on; what is dropped more often is made again
    in each step that needs it, which costs more than the chain says. O(n_plans) evaluations of the whole schedule.

    Examples
    --------
    >>> chain = RematProblem.of(
    ...     cost=[1] * 12, nbytes=[10] * 6 + [1] * 6, loss=5, name="chain",
    ...     edges=[(i, i + 1) for i in range(11)] + [(i, 10 - i) for i in range(5)],
    ... )
    >>> plan = plan_blocks(chain, 42)
    >>> plan.peak_bytes, plan.cost, plan.recomputed
    (41, 14, {'1': 1, '3': 1})
    """  # fmt: skip
    _check(method, slots, [budget])
    works = _works(problem)
    bounds = _Bounds(problem, works[0].m)
    keep = _Plan(works[0].keep_peak, works[0].keep_cost, works[0].keep)
    found = [keep] if budget >= keep.peak else _plans(works, method, slots)
    at = bisect_right([p.peak for p in found], budget) - 1
    if at < 0:
        _refuse(problem, method, budget, found[0].peak, bounds.least_bytes)
    return _answer(problem, found[at], int(budget), bounds([budget])[0], method)


def blocks_frontier(
    problem: RematProblem,
    *,
    points: int = 20,
    budgets: Sequence[int] | None = None,
    method: Method | None = None,
    nested: bool | None = None,
    slots: int = 500,
) -> Frontier:
    """Plan a problem for many budgets by the chain of its blocks, at the price of one.

    Parameters
    ----------
    problem : RematProblem
    points : int
        Number of budgets, evenly spaced from the least that the method has a plan for to where nothing is recomputed.
    budgets : sequence of int, optional
        Budgets instead. Those below the least are left out.
    method : str, optional
        As for :func:`plan_blocks`. Default: by `nested`.
    nested : bool, optional
        Instead of `method`: ``"nested"`` or ``"chain"``. Default: nested where a budget is given that is below 30 % of
        what keeping everything takes.
    slots : int
        As for :func:`plan_blocks`.

    Returns
    -------
    Frontier
        A larger budget never costs more; each plan is the one that :func:`plan_blocks` returns.

    Raises
    ------
    BudgetError
        If `budgets` are given and the method has a plan for none.
    RematError
        If an argument is outside what is allowed.

    Examples
    --------
    >>> chain = RematProblem.of(
    ...     cost=[1] * 12, nbytes=[10] * 6 + [1] * 6, loss=5, name="chain",
    ...     edges=[(i, i + 1) for i in range(11)] + [(i, 10 - i) for i in range(5)],
    ... )
    >>> [(plan.peak_bytes, plan.cost) for plan in blocks_frontier(chain, points=4).plans]
    [(31, 15), (41, 14), (51, 13), (61, 12)]
    """  # fmt: skip
    _check("chain" if method is None else method, slots, budgets or ())
    if method is not None and nested is not None:
        raise RematError(f"method is {method!r} and nested {nested!r}; allowed: one of the two")
    check_points(points)
    works = _works(problem)
    keep = _Plan(works[0].keep_peak, works[0].keep_cost, works[0].keep)
    bounds = _Bounds(problem, works[0].m)
    if method is None:
        low = nested is None and any(10 * b < 3 * keep.peak for b in budgets or ())
        method = "nested" if nested or low else "chain"
    found = _plans(works, method, slots)
    least = found[0].peak
    asked = budgets_of(points, budgets, least, keep.peak)
    if not asked:
        _refuse(problem, method, max(budgets or (0,)), least, bounds.least_bytes)
    peaks = [p.peak for p in found]
    plans = [_answer(problem, keep if b >= keep.peak else found[bisect_right(peaks, b) - 1], b, bound, method)
             for b, bound in zip(asked, bounds(asked), strict=True)]  # fmt: skip
    return Frontier(problem, tuple(plans), least, bounds.least_bytes, keep.peak)


def start_states(problem: RematProblem, budget: int, *, slots: int = 200) -> I64:
    """Return states of the gaps to begin a search from: the chain's plan for a budget.

    Parameters
    ----------
    problem : RematProblem
    budget : int
        Bytes that may be alive at once, fixed ones included.
    slots : int
        As for :func:`plan_blocks`.

    Returns
    -------
    (n_gaps,) int64
        As in :attr:`~cnnlive.plan.remat.RematPlan.states`. Within the budget if the chain has such a plan, with or
        without nested recomputation; otherwise that of the lowest peak found.

    Raises
    ------
    RematError
        If an argument is outside what is allowed.

    Notes
    -----
    Plans of the chain are tried by bisection of its frontier, about ten evaluations: it may miss a cheaper one that
    :func:`plan_blocks` sees.

    Examples
    --------
    >>> chain = RematProblem.of(
    ...     cost=[1] * 12, nbytes=[10] * 6 + [1] * 6, loss=5, name="chain",
    ...     edges=[(i, i + 1) for i in range(11)] + [(i, 10 - i) for i in range(5)],
    ... )
    >>> int((start_states(chain, 42) == 1).sum())
    2
    """  # fmt: skip
    _check("chain", slots, [budget])
    works = _works(problem)
    e = works[0].e
    lowest = _Plan(works[0].keep_peak, works[0].keep_cost, works[0].keep)
    if budget >= lowest.peak:
        return frozen(lowest.states)
    best: _Plan | None = None
    for method in ("chain", "nested"):
        for work, chain in ((w, c) for w in works for c in w.chains):
            frontier = _frontier(chain, method, slots)
            low, high = 0, len(frontier)
            while low < high:
                middle = (low + high) // 2
                states = work.states(_layout(work.blocks.n, frontier[middle].nodes.tolist()))
                known = e.go(states)  # not where it recomputes more than there is room for
                fits = known and e.peak_bytes <= budget
                if fits and (best is None or e.cost < best.cost):
                    best = _Plan(e.peak_bytes, e.cost, states)
                if known and not fits and e.peak_bytes < lowest.peak:
                    lowest = _Plan(e.peak_bytes, e.cost, states)
                low, high = (middle + 1, high) if fits else (low, middle)
        if best is not None:
            break
    return frozen((best or lowest).states)
