"""Chains of stages trained with recomputation: what to keep, what to run again, for every budget of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any, Final, Literal, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnlive._kernels import remat_chain as kernels
from cnnlive._types import F64, I32, I64, Columns, Result, column
from cnnlive.errors import BudgetError, RematError
from cnnlive.plan._budgets import knee_of
from cnnlive.plan._plain import array_of, shown
from cnnlive.units import format_bytes

__all__ = ["BASELINES", "Chain", "ChainFrontier", "ChainPlan", "chain_baseline", "chain_frontier", "plan_chain"]

BASELINES: Final = ("checkpoint_sequential", "chen_sqrt", "chen_greedy", "revolve")
RUNS: Final = ("run", "advance", "save", "backward")
_LIMIT: Final = 2**62
_MOST_COST: Final = 1e30  # the nested table holds costs in 32 bits
_MOST_OPTIONS: Final = 8
_MOST_POINTS: Final = 20_000_000  # of all rows of a frontier that is not thinned: 480 MB
_MOST_PLACES: Final = 2**22  # of one row in nested lists: what a place has bits for
_MOST_CELLS: Final = 2**30  # of the nested table: 4 GiB
_STAGES: Final = 1024
_NESTED_STAGES: Final = 512
_FEW: Final = 32  # stages up to which the nested search is exact unless there are too many plans: one millisecond
_FEW_POINTS: Final = 200_000
_WIDTH: Final = 1024  # points of a row that there is room for at first, where all are kept
_ROOM: Final = 128  # points that there is room for at first, for each stage
_PLANS: Final = 1000  # plans that there is room for at first
_PLACES: Final = 24  # ends of dropped runs looked at inside a coarse stage


class _Steps(NamedTuple):
    """Columns of a chain as the kernels take them; see ``_kernels/remat_chain.py``."""

    cost: F64
    lead: F64
    act: I64
    held: I64
    first: I64
    through: I64
    opt_ptr: I64
    extra: F64
    saved: I64
    fwd: I64
    bwd: I64


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Chain(Columns):
    """Stages run one after another, forward and then backward; made by :meth:`of`. Arrays are read-only.

    Attributes
    ----------
    name : str
    ids : tuple of str
        What each of the n stages is called.
    forward_cost, backward_cost : (n,) float64
        Of one run, in any unit.
    input_cost : (n,) float64
        What of the forward cost makes the stage's input, and is spared where a part that is run again begins there.
    activation_bytes : (n + 1,) int64
        The input of each stage, and the last output.
    gradient_bytes : (n + 1,) int64
        The gradients of those.
    forward_temp : (n,) int64
        Bytes that a stage takes beside its input and what it leaves, while it runs forward.
    option_ptr : (n + 1,) int64
        Where the options of each stage are in the next three; the first of a stage keeps everything.
    option_cost : (n_options,) float64
        What an option costs beside one forward and one backward run.
    option_saved : (n_options,) int64
        Bytes that it keeps for backward, the stage's output among them, its input not.
    option_temp : (n_options,) int64
        Bytes beside what was saved, the gradient of the output and that of the input, while backward runs.
    """

    name: str
    ids: tuple[str, ...]
    forward_cost: F64
    backward_cost: F64
    input_cost: F64
    activation_bytes: I64
    gradient_bytes: I64
    forward_temp: I64
    option_ptr: I64
    option_cost: F64
    option_saved: I64
    option_temp: I64

    @classmethod
    def of(
        cls,
        forward_cost: ArrayLike,
        backward_cost: ArrayLike,
        activation_bytes: ArrayLike,
        saved_bytes: ArrayLike,
        *,
        input_cost: ArrayLike | None = None,
        forward_temp: ArrayLike = 0,
        backward_temp: ArrayLike = 0,
        options: Sequence[Sequence[tuple[float, int, int]]] | None = None,
        gradient_bytes: ArrayLike | None = None,
        ids: Sequence[object] | None = None,
        name: str = "",
    ) -> Chain:
        """Make a chain of plain arrays, and check it.

        Parameters
        ----------
        forward_cost, backward_cost : (n,) numbers
            Milliseconds, FLOPs, or what else is to be spared.
        activation_bytes : (n + 1,) integers
            Input of each stage, and the last output.
        saved_bytes : (n,) integers
            What a stage that keeps everything leaves in memory for backward: its output among it, its input not.
        input_cost : (n,) numbers, optional
            Part of `forward_cost` that makes the input of the stage, where a stage is what makes its input and what
            follows but its output. A part that is run again begins with an input that is there, and does not spend it.
            Default: 0.
        forward_temp, backward_temp : int or (n,) integers
            Bytes beside inputs and outputs while the stage runs. `backward_temp` may be negative where the gradient of
            the input is written over other bytes.
        options : n sequences of up to seven (cost, saved bytes, temporary bytes), optional
            Other ways to run each stage, beside keeping everything. The cost comes on top of one forward and one
            backward run; the temporary bytes are those of backward.
        gradient_bytes : (n + 1,) integers, optional
            Default: as `activation_bytes`. Its first entry is 0 where nobody wants the gradient of the input.
        ids : sequence, optional
            Default: ``"0"``, ``"1"``, ...
        name : str

        Raises
        ------
        RematError
            If there is no stage, lengths differ, an entry is no number or negative, `input_cost` is above
            `forward_cost`, a stage saves less than its output, `backward_temp` is negative by more than what there is
            to write over, or bytes add up to 2**62 or more. Names the stage.

        Examples
        --------
        >>> chain = Chain.of([1, 1, 1], [2, 2, 2], [8, 8, 4, 0], [16, 12, 0], ids=["conv1", "conv2", "loss"])
        >>> chain
        <Chain '': 3 stages, 48 B with everything kept>
        """
        forward = _costs(forward_cost, "forward_cost")
        n = len(forward)
        if not n:
            raise RematError("a chain has no stages; allowed: one or more")
        if not isinstance(name, str):
            raise RematError(f"name is {shown(name)}; allowed: a text")
        if ids is not None and not isinstance(ids, Sequence | np.ndarray):
            raise RematError(f"ids is {shown(ids)}; allowed: a list of names")
        names = tuple(map(str, range(n) if ids is None else ids))
        if len(names) != n:
            raise RematError(f"ids has {len(names)} entries and the chain {n} stages; allowed: one for each")
        backward = _costs(backward_cost, "backward_cost", n)
        lead = np.zeros(n) if input_cost is None else _costs(input_cost, "input_cost", n)
        act = _integers(activation_bytes, "activation_bytes", n + 1)
        grad = act if gradient_bytes is None else _integers(gradient_bytes, "gradient_bytes", n + 1)
        saved = _integers(saved_bytes, "saved_bytes", n)
        temp, back = (_integers(v, w, n) for v, w in ((forward_temp, "forward_temp"), (backward_temp, "backward_temp")))
        if options is not None and not isinstance(options, Sequence):
            raise RematError(f"options is {shown(options)}; allowed: a list for each stage")
        rows: list[Any] = [[] for _ in range(n)] if options is None else list(options)
        if len(rows) != n:
            raise RematError(f"options has {len(rows)} entries and the chain {n} stages; allowed: one list for each")
        for i, row in enumerate(rows):
            well = isinstance(row, list | tuple) and len(row) < _MOST_OPTIONS
            if not well or not all(isinstance(option, list | tuple) and len(option) == 3 for option in row):
                raise RematError(
                    f"stage {names[i]} has the options {shown(row)}; allowed: up to {_MOST_OPTIONS - 1}, each a cost, "
                    "saved bytes and temporary bytes"
                )
        ptr = np.cumsum([0, *[1 + len(row) for row in rows]])
        stage = np.repeat(np.arange(n), np.diff(ptr))
        cost = np.zeros(len(stage))
        kept, spent = saved[stage], back[stage]
        if options is not None and any(rows):
            others = np.setdiff1d(np.arange(len(stage)), ptr[:-1])
            flat = [option for row in rows for option in row]
            cost[others] = _costs([o[0] for o in flat], "the cost of an option")
            kept[others] = _integers([o[1] for o in flat], "the saved bytes of an option", len(flat))
            spent[others] = _integers([o[2] for o in flat], "the temporary bytes of an option", len(flat))
        _check(names, forward, backward, lead, act, grad, temp, stage, cost, kept, spent)
        return cls(name, names, _real(forward), _real(backward), _real(lead), column(act), column(grad), column(temp),
                   column(ptr), _real(cost), column(kept), column(spent))  # fmt: skip

    @property
    def n(self) -> int:
        """Number of stages."""
        return len(self.ids)

    @property
    def step_cost(self) -> float:
        """Cost of one forward and one backward run of each stage."""
        return float(self.forward_cost.sum() + self.backward_cost.sum())

    @property
    def keep_all_bytes(self) -> int:
        """Peak bytes where everything is kept."""
        nodes = np.full(self.n, -1, np.int32)
        return int(_measure(_steps(self), np.array([0, self.n]), nodes)[0][0])

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"<Chain {self.name!r}: {self.n:,} stages, {self.keep_all_bytes:,} B with everything kept>"


class Run(NamedTuple):
    """One run of a stage of a plan.

    ``kind`` is ``"run"`` (keeps nothing of itself and leaves its input), ``"advance"`` (the same, its input is freed),
    ``"save"`` (keeps what `option` saves) or ``"backward"``.
    """

    kind: str
    stage: int
    option: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ChainPlan(Result):
    """What a chain keeps and what it runs again; made by :func:`plan_chain` or taken from a frontier.

    Attributes
    ----------
    chain : Chain
    nodes : int32
        The plan as a tree in preorder: ``-1 - o`` keeps a stage by its option ``o``, ``j > 0`` runs what comes before
        stage ``j`` without keeping it, goes on from ``j``, and then does the rest from the start.
    peak_bytes : int
        The most bytes in memory at one time: the chain's input, whatever was saved, gradients, temporary bytes.
    overhead : float
        What the plan costs more than one forward and one backward run of each stage.
    minimum_bytes, keep_all_bytes : int
        The least peak on the frontier that the plan is from, and that of keeping everything.
    """

    chain: Chain
    nodes: I32
    peak_bytes: int
    overhead: float
    minimum_bytes: int
    keep_all_bytes: int

    @property
    def ratio(self) -> float:
        """Overhead as a share of one plain step; 0.0 where a step costs nothing."""
        cost = self.chain.step_cost
        return self.overhead / cost if cost else 0.0

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """Stages ``begin`` to ``end`` of each part that is run without keeping and done again, in the order of running.

        What one ``torch.utils.checkpoint`` wraps. A segment inside another one is run a third time.
        """
        return tuple((a, c) for a, _, c in self._walk() if c > 0)

    @property
    def options(self) -> tuple[int, ...]:
        """By which of its options each stage is kept, when it is: 0 keeps everything."""
        kept = sorted((a, -1 - c) for a, _, c in self._walk() if c < 0)
        return tuple(option for _, option in kept)

    @property
    def nested(self) -> bool:
        """Whether some stage is run forward more than twice."""
        runs = np.zeros(self.chain.n + 1, np.int64)
        for begin, end in self.segments:
            runs[begin] += 1
            runs[end] -= 1
        return bool(np.cumsum(runs).max() > 1)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Everything that is run, in order."""
        kind, stage, option = (a.tolist() for a in self._spell())
        return tuple(Run(RUNS[k], s, o) for k, s, o in zip(kind, stage, option, strict=True))

    @property
    def timeline(self) -> I64:
        """Bytes in memory during each of :attr:`runs`; its maximum is the peak."""
        chain = self.chain
        kind, stage, option = self._spell()
        live = np.empty(len(kind), np.int64)
        on = np.repeat(np.arange(chain.n), np.diff(chain.option_ptr))
        kernels.replay(kind, stage, option, chain.activation_bytes, chain.gradient_bytes, chain.option_ptr,
                       chain.option_saved, chain.forward_temp, column(chain.forward_temp[on]), chain.option_temp,
                       np.empty(chain.n + 1, np.int64), live)  # fmt: skip
        return live

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain numbers, lists and texts."""
        return {
            "name": self.chain.name,
            "stages": list(self.chain.ids),
            "peak_bytes": self.peak_bytes,
            "overhead": self.overhead,
            "ratio": self.ratio,
            "minimum_bytes": self.minimum_bytes,
            "keep_all_bytes": self.keep_all_bytes,
            "segments": [list(s) for s in self.segments],
            "options": list(self.options),
            "nodes": self.nodes.tolist(),
        }

    def _walk(self) -> list[tuple[int, int, int]]:
        """Return first stage, last stage and choice of each node."""
        found = []
        stack = [(0, self.chain.n - 1)]
        for c in self.nodes.tolist():
            a, b = stack.pop()
            found.append((a, b, c))
            if c > 0:
                stack += [(a, c - 1), (c, b)]
            elif a < b:
                stack.append((a + 1, b))
        return found

    def _spell(self) -> tuple[I32, I32, I32]:
        n = self.chain.n
        count = 2 * n + sum(end - begin for begin, end in self.segments)
        kind, stage, option = (np.empty(count, np.int32) for _ in range(3))
        kernels.spell(self.nodes, np.empty((2 * n + 2, 3), np.int64), kind, stage, option)
        return kind, stage, option

    def __str__(self) -> str:
        lines = [
            f"{self.chain.name or 'chain'}, {self.chain.n:,} stages",
            f"  peak      {format_bytes(self.peak_bytes):>10}  {self.peak_bytes:>16,} B",
            f"  keep all  {format_bytes(self.keep_all_bytes):>10}  {self.keep_all_bytes:>16,} B",
            f"  least     {format_bytes(self.minimum_bytes):>10}  {self.minimum_bytes:>16,} B",
            f"  overhead  {self.ratio:>10.2%}",
        ]
        names = self.chain.ids
        lines += [f"  run again: {names[a]} to {names[b - 1]}" for a, b in self.segments]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<ChainPlan {self.chain.name!r}: {self.peak_bytes:,} B, {self.ratio:.2%} overhead>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ChainFrontier(Result):
    """Plans of a chain, of which none has another with neither more bytes nor more cost.

    Attributes
    ----------
    chain : Chain
    method : str
        ``"one-level"``, ``"nested"`` or one of `BASELINES`.
    peak_bytes : (n_plans,) int64
        Rising.
    overhead : (n_plans,) float64
        Falling; 0.0 comes last unless the frontier is of a baseline.
    plan_ptr, nodes : (n_plans + 1,) int64, int32
        The trees of the plans, end to end.
    keep_all_bytes : int
        Peak where everything is kept.
    """

    chain: Chain
    method: str
    peak_bytes: I64
    overhead: F64
    plan_ptr: I64
    nodes: I32
    keep_all_bytes: int

    @property
    def minimum_bytes(self) -> int:
        """The least budget that there is a plan for."""
        return int(self.peak_bytes[0])

    @property
    def knee(self) -> int:
        """Position of the plan that is farthest below the line from the first plan to the last, both axes scaled."""
        return knee_of(self.peak_bytes, self.overhead)

    def __len__(self) -> int:
        return len(self.peak_bytes)

    def __getitem__(self, i: int) -> ChainPlan:
        if not -len(self) <= i < len(self):
            raise IndexError(f"plan {i} of {len(self)}")
        i %= len(self)
        nodes = self.nodes[self.plan_ptr[i] : self.plan_ptr[i + 1]]
        peak, over = int(self.peak_bytes[i]), float(self.overhead[i])
        return ChainPlan(self.chain, _narrow(nodes), peak, over, self.minimum_bytes, self.keep_all_bytes)

    def plan(self, budget: int) -> ChainPlan:
        """Return the plan of least cost whose peak is at most `budget` bytes.

        Raises
        ------
        BudgetError
            If every plan takes more; its ``minimum_bytes`` is the least that one takes.
        """
        i = int(np.searchsorted(self.peak_bytes, budget, side="right")) - 1
        if i < 0:
            least = self.minimum_bytes
            raise BudgetError(
                f"{self.chain.name or 'the chain'} takes {least:,} bytes at least ({self.method}); the budget is "
                f"{budget:,}; allowed: {least:,} or more",
                least,
            )
        return self[i]

    def __repr__(self) -> str:
        return (
            f"<ChainFrontier {self.chain.name!r}, {self.method}: {len(self):,} plans from {self.minimum_bytes:,} to "
            f"{int(self.peak_bytes[-1]):,} B>"
        )


def chain_frontier(
    chain: Chain, *, slots: int | None = 500, nested: bool = False, max_stages: int | None = None
) -> ChainFrontier:
    """Find what a chain costs at every budget.

    Counted are the chain's input, what stages leave in memory, gradients and temporary bytes; weights are not. The peak
    of each plan is its own, in exact bytes, however coarse the search for it was.

    Parameters
    ----------
    chain : Chain
    slots : int or None
        How finely bytes are told apart while searching; None for no limit, which is exact and takes longer. One level:
        so many plans at most are kept for each stage and what follows it, none of them rounded. Nested: bytes are
        counted in so many slots, except that up to 32 stages the search is exact.
    nested : bool
        Let what is done again be dropped again, as deep as need be. Pays below about a third of what keeping everything
        takes; otherwise each stage is run forward at most twice, which is what plain checkpoints of frameworks do.
    max_stages : int, optional
        A longer chain is cut into so many runs of stages, at the smallest outputs, of which each may be kept whole or
        in part, dropped, or lie in a longer part that is. Default: 1024, for the nested search 512.

    Returns
    -------
    ChainFrontier
        At no budget worse than any of `BASELINES`, except that only the nested frontier is compared with ``"revolve"``,
        nor is the nested one worse than that of one level. Its ``minimum_bytes`` are the least possible of its kind,
        except nested for chains that are cut.

    Raises
    ------
    RematError
        If an option is none of the above, or memory for the search would pass its limit.

    Notes
    -----
    One level: for each stage the frontier of it and all behind it, as a list of (bytes, cost), from the lists of the
    stages behind with a part that is dropped between; O(n * candidates * slots) time, and costs bound the candidates.
    With ``slots=None`` it is exact: 80 ms for 200 stages, 3 s for 500.

    Nested: the recurrence of Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova ("Optimal Re-Materialization
    Strategies for Heterogeneous Chains", ACM TOMS 2024) over sub-chains, optimal among plans that keep what they have
    stored until it is used. With ``slots=None``, or up to 32 stages, each sub-chain has the list of all its plans
    worth anything, in bytes: 20 ms for 50 stages, 0.6 s for 100, 5 s for 150. Otherwise it is a table over slots, in
    O(n**3 * slots) time at worst and O(n**2 * slots) memory. It holds the extra cost alone, from the least slots of a
    sub-chain to where it is nothing; the slots are spent on budgets up to two fifths of keeping everything or three
    times the least, and beyond that plans are of one level. Plans are drawn from it in bytes: what fits is exact, the
    table, rounded to the nearest slot, says what is cheap. So no plan passes its budget, and the least budget has one.
    Unlike there, the gradient of the last output is not counted before backward begins.

    Examples
    --------
    >>> chain = Chain.of([1] * 4, [2] * 4, [8] * 5, [16] * 4)
    >>> frontier = chain_frontier(chain)
    >>> [*zip(frontier.peak_bytes.tolist(), frontier.overhead.tolist())]
    [(56, 3.0), (64, 2.0), (80, 1.0), (88, 0.0)]
    >>> frontier.plan(80).segments
    ((2, 3),)
    """
    if slots is not None and (not isinstance(slots, int | np.integer) or isinstance(slots, bool) or slots < 1):
        raise RematError(f"slots is {slots!r}; allowed: a positive integer, or None for every plan")
    limit = max_stages
    if limit is not None and (not isinstance(limit, int | np.integer) or isinstance(limit, bool) or limit < 2):
        raise RematError(f"max_stages is {max_stages!r}; allowed: an integer of 2 or more, or None")
    steps = _steps(chain)
    keep_all = int(_measure(steps, np.array([0, chain.n]), np.full(chain.n, -1, np.int32))[0][0])
    found = [_cut(chain, steps, int(limit or _STAGES), lambda s: _one_level(s, slots))]
    if nested:
        found.append(_cut(chain, steps, int(limit or _NESTED_STAGES), lambda s: _nested(s, slots)))
    if chain.n > int(limit or _STAGES):
        found.append(_least(steps))
    if nested or (slots is not None and keep_all > slots) or chain.n > int(limit or _STAGES):
        found += [_baseline(chain, method) for method in BASELINES if nested or method != "revolve"]
    return _pareto(chain, "nested" if nested else "one-level", steps, found, keep_all)


def plan_chain(
    chain: Chain, *, budget: int, slots: int | None = 500, nested: bool = False, max_stages: int | None = None
) -> ChainPlan:
    """Find the plan of least cost whose peak is at most `budget` bytes.

    Parameters
    ----------
    budget : int
        Bytes; more never cost more.
    chain, slots, nested, max_stages
        As for :func:`chain_frontier`, which has the plans of all budgets at the price of one.

    Raises
    ------
    BudgetError
        If no plan was found for the budget: names the least one.
    RematError
        As :func:`chain_frontier` does.

    Examples
    --------
    >>> chain = Chain.of([1] * 4, [2] * 4, [8] * 5, [16] * 4, name="four")
    >>> plan_chain(chain, budget=70)
    <ChainPlan 'four': 64 B, 16.67% overhead>
    >>> plan_chain(chain, budget=40, nested=True)
    Traceback (most recent call last):
    ...
    cnnlive.errors.BudgetError: four takes 48 bytes at least (nested); the budget is 40; allowed: 48 or more
    """
    return chain_frontier(chain, slots=slots, nested=nested, max_stages=max_stages).plan(budget)


def chain_baseline(
    chain: Chain, method: Literal["checkpoint_sequential", "chen_sqrt", "chen_greedy", "revolve"]
) -> ChainFrontier:
    """Return the plans that a known rule finds, for all values of what it is told.

    Parameters
    ----------
    chain : Chain
    method : str
        ``"checkpoint_sequential"``: PyTorch's; 1 to n segments of an equal number of stages, the last one kept.
        ``"chen_sqrt"``: Chen et al. 2016; the one of those with about sqrt(n) segments.
        ``"chen_greedy"``: the same paper, algorithm 3; a segment ends where what it saves passes a limit of bytes, for
        limits around the square root of all saved bytes by all inputs.
        ``"revolve"``: Griewank and Walther 2000; binomial, best for stages that are all alike, for each number of
        inputs stored at one time.

    Raises
    ------
    RematError
        If the method is none of these.

    Examples
    --------
    >>> chain = Chain.of([1] * 4, [2] * 4, [8] * 5, [16] * 4)
    >>> chain_baseline(chain, "revolve").minimum_bytes
    48
    """
    if method not in BASELINES:
        raise RematError(f"unknown method {method!r}; allowed: {', '.join(BASELINES)}")
    steps = _steps(chain)
    keep_all = int(_measure(steps, np.array([0, chain.n]), np.full(chain.n, -1, np.int32))[0][0])
    return _pareto(chain, method, steps, [_baseline(chain, method)], keep_all)


_Pool = tuple[I64, I32]


def _steps(chain: Chain) -> _Steps:
    act, grad = chain.activation_bytes, chain.gradient_bytes
    stage = np.repeat(np.arange(chain.n), np.diff(chain.option_ptr))
    held = grad[1:].copy()
    held[-1] = 0
    first = act[1:] + chain.forward_temp
    bwd = chain.option_saved + grad[stage] + grad[stage + 1] + chain.option_temp
    return _Steps(chain.forward_cost, chain.input_cost, act, column(held), column(first), column(act[:-1] + first),
                  chain.option_ptr, chain.option_cost, chain.option_saved,
                  column(chain.option_saved + chain.forward_temp[stage]), column(bwd))  # fmt: skip


def _measure(steps: _Steps, plan_ptr: I64, nodes: I32) -> tuple[I64, F64]:
    """Return peak bytes and overhead of each plan."""
    n, count = len(steps.cost), len(plan_ptr) - 1
    peak, over = np.empty(count, np.int64), np.empty(count)
    lower, upper = np.empty(2 * n, np.int64), np.empty(2 * n, np.int64)
    kernels.measure(*steps, plan_ptr, nodes, np.empty((2 * n + 2, 3), np.int64), lower, upper, peak, over)
    return peak, over


def _pareto(chain: Chain, method: str, steps: _Steps, pools: Sequence[_Pool], keep_all: int) -> ChainFrontier:
    """Measure plans, and leave those that none is better than."""
    measured = [_measure(steps, *pool) for pool in pools]
    peak, over = (np.concatenate([m[i] for m in measured]) for i in range(2))
    order = np.lexsort((over, peak))
    best = np.minimum.accumulate(over[order])
    # sums of the same costs in another order are no other plan
    order = order[np.concatenate([[True], over[order][1:] < best[:-1] * (1.0 - 1e-12)])]
    lists = [nodes[a:b] for plan_ptr, nodes in pools for a, b in pairwise(plan_ptr.tolist())]
    lists = [lists[i] for i in order.tolist()]
    ptr = np.cumsum([0, *map(len, lists)])
    return ChainFrontier(chain, method, column(peak[order]), _real(over[order]), column(ptr),
                         _narrow(np.concatenate(lists)), keep_all)  # fmt: skip


def _cut(chain: Chain, steps: _Steps, stages: int, search: Callable[[_Steps], _Pool]) -> _Pool:
    """Return what a search finds for a chain, or for the chain of so many parts of it where it is longer."""
    if chain.n <= stages:
        return search(steps)
    coarse = _coarsen(steps, stages)
    return _unfold(coarse, chain, *search(coarse.steps))


def _one_level(steps: _Steps, slots: int | None) -> _Pool:
    n = len(steps.cost)
    most = slots or 0
    width = most + 3 if slots else _WIDTH
    room = n * (most + 3) + 1 if slots else n * _ROOM + 1
    state, row_ptr = np.zeros(2, np.int64), np.zeros(n + 1, np.int64)
    store = _points(room)
    begin = n - 1
    while True:
        store[0][-1], store[1][-1] = 0, 0.0
        begin = kernels.one_level(begin, most, *steps, state, row_ptr, *store, *_points(width),
                                  *_points(width))  # fmt: skip
        if begin < 0:
            break
        if 2 * len(store[0]) > _MOST_POINTS:
            _too_many(n)
        store = _grown(store)
        width *= 2
    count = int(row_ptr[n] - row_ptr[n - 1])
    plan_ptr = np.zeros(count + 1, np.int64)
    nodes = np.empty(2 * n * min(count, _PLANS), np.int32)
    done = 0
    while (done := kernels.one_level_plans(done, count, n, row_ptr, store[2], plan_ptr, nodes)) < count:
        nodes = np.concatenate([nodes, np.empty_like(nodes)])
    return plan_ptr, nodes


def _lists(steps: _Steps, most: int) -> _Pool | None:
    """Return the plans of the whole nested frontier, or None if the search for it passes so many points."""
    n = len(steps.cost)
    rows = np.zeros((n, n, 2), np.int64)
    store, width = _points(n * n * _ROOM // 4 + 1), _WIDTH
    begin = 0
    while True:
        store[0][-1], store[1][-1] = 0, 0.0
        begin = kernels.lists(begin, int(rows[:, :, 1].max()), *steps, rows, *store, *_points(width),
                              *_points(width))  # fmt: skip
        if begin < 0:
            break
        if 2 * len(store[0]) > most or 2 * width > _MOST_PLACES:
            return None
        store = _grown(store)
        width *= 2
    count = int(rows[0, n - 1, 1] - rows[0, n - 1, 0])
    plan_ptr = np.zeros(count + 1, np.int64)
    nodes = np.empty(2 * n * min(count, _PLANS), np.int32)
    stack = np.empty((2 * n + 2, 3), np.int64)
    done = 0
    while (done := kernels.lists_plans(done, count, rows, store[2], stack, plan_ptr, nodes)) < count:
        nodes = np.concatenate([nodes, np.empty_like(nodes)])
    return plan_ptr, nodes


def _grown(store: tuple[I64, F64, I64]) -> tuple[I64, F64, I64]:
    need, over, back = (np.concatenate([a, np.empty_like(a)]) for a in store)
    return need, over, back


def _too_many(n: int) -> NoReturn:
    raise RematError(
        f"the plans of {n:,} stages pass {_MOST_POINTS:,} points with slots=None; allowed: a number of slots"
    )


def _points(count: int) -> tuple[I64, F64, I64]:
    return np.empty(count, np.int64), np.empty(count), np.empty(count, np.int64)


def _least(steps: _Steps) -> _Pool:
    """Return the one-level plan of fewest bytes."""
    n = len(steps.cost)
    row_ptr, need, back = np.zeros(n + 1, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    kernels.least_one_level(steps.act, steps.held, steps.first, steps.through, steps.opt_ptr, steps.saved, steps.fwd,
                            steps.bwd, row_ptr, need, back)  # fmt: skip
    plan_ptr, nodes = np.zeros(2, np.int64), np.empty(2 * n, np.int32)
    kernels.one_level_plans(0, 1, n, row_ptr, back, plan_ptr, nodes)
    return plan_ptr, nodes


def _nested(steps: _Steps, slots: int | None) -> _Pool:
    n = len(steps.cost)
    if slots is None:
        return _lists(steps, _MOST_POINTS) or _too_many(n)
    return (_lists(steps, _FEW_POINTS) if n <= _FEW else None) or _by_table(steps, slots)


def _by_table(steps: _Steps, slots: int) -> _Pool:
    n = len(steps.cost)
    least, free = np.zeros((n, n), np.int64), np.zeros((n, n), np.int64)
    kernels.limits(*steps[2:], least, free)
    lowest, top = int(least[0, n - 1]), int(free[0, n - 1])
    unit = 1
    rough, slots_least, slots_free = steps, least, free
    if top > slots:
        top = min(top, max(2 * top // 5, 3 * lowest))
        unit = -(-top // slots)
        rough = _in_slots(steps, unit)
        slots_least, slots_free = np.zeros_like(least), np.zeros_like(least)
        kernels.limits(*rough[2:], slots_least, slots_free)
    most = min(int(slots_free[0, n - 1]), -(-top // unit))
    rows, columns = np.zeros((n, n, 3), np.int64), np.zeros((n, n, 3), np.int64)
    cells = kernels.lay_out(most, slots_least, slots_free, rows, columns)
    if cells > _MOST_CELLS:
        raise RematError(
            f"the nested table of {n:,} stages has {cells:,} cells; allowed: {_MOST_CELLS:,}; fewer slots need less"
        )
    table, row = np.empty(cells, np.float32), np.empty(most + 2, np.float32)
    kernels.nested(*rough, rows, columns, row, table)
    begin, end, origin = rows[0, n - 1].tolist()
    falls = np.flatnonzero(np.diff(table[origin + begin : origin + end], prepend=np.float32(np.inf)) < 0)
    budget = (begin + falls) * unit
    budget = np.concatenate([[lowest], budget[budget > lowest], [top]])
    plan_ptr, nodes = np.zeros(len(budget) + 1, np.int64), np.empty(2 * n * len(budget), np.int32)
    kernels.nested_plans(budget, 1.0 / unit, *steps, least, free, rows, columns, table,
                         np.empty((2 * n + 2, 3), np.int64), plan_ptr, nodes)  # fmt: skip
    return plan_ptr, nodes


def _in_slots(steps: _Steps, unit: int) -> _Steps:
    """Return bytes as the nearest numbers of slots."""
    near = [column((a + unit // 2) // unit) for a in (steps.act, steps.held, steps.first, steps.through, steps.saved,
                                                      steps.fwd, steps.bwd)]  # fmt: skip
    return _Steps(steps.cost, steps.lead, near[0], near[1], near[2], near[3], steps.opt_ptr, steps.extra, near[4],
                  near[5], near[6])  # fmt: skip


def _baseline(chain: Chain, method: str) -> _Pool:
    n = chain.n
    if method == "revolve":
        rows = []
        for free in _counts(n, 2 if n > 512 else 0):
            nodes = np.empty(2 * n, np.int32)
            rows.append(nodes[: kernels.revolve_plan(n, free, np.empty((2 * n + 2, 3), np.int64), nodes)])
        return np.cumsum([0, *map(len, rows)]), np.concatenate(rows)
    if method == "chen_greedy":
        saved = chain.option_saved[chain.option_ptr[:-1]]
        middle = float(saved.sum()) ** 0.5 * float(chain.activation_bytes.max()) ** 0.5
        limit = np.unique((middle * 2.0 ** np.linspace(-3.0, 3.0, 49)).astype(np.int64))
        plan_ptr, nodes = np.zeros(len(limit) + 1, np.int64), np.empty(2 * n * len(limit), np.int32)
        kernels.greedy_plans(limit, chain.option_ptr, chain.option_saved, plan_ptr, nodes)
        return plan_ptr, nodes
    counts = np.array([max(1, round(n**0.5))] if method == "chen_sqrt" else _counts(n, 1))
    plan_ptr, nodes = np.zeros(len(counts) + 1, np.int64), np.empty(2 * n * len(counts), np.int32)
    kernels.even_plans(n, counts, plan_ptr, nodes)
    return plan_ptr, nodes


def _counts(n: int, least: int) -> list[int]:
    """Return what a baseline is tried with: every number; in a long chain, fewer beyond twice the square root."""
    if n <= 512:
        return list(range(least, n + (least > 0)))
    near = range(least, 2 * isqrt(n))
    return sorted({*near, *np.geomspace(2 * isqrt(n), n, 32).astype(int).tolist()})


class _Coarse(NamedTuple):
    steps: _Steps
    start: I64
    part: I64


def _coarsen(steps: _Steps, stages: int) -> _Coarse:
    """Cut a chain into up to `stages` runs of stages, each at the smallest output of an equal number of stages."""
    n = len(steps.cost)
    width = -(-(n - 1) // (stages - 1))
    padded = np.full(-(-(n - 1) // width) * width, np.iinfo(np.int64).max)
    padded[: n - 1] = steps.act[1:-1]
    rows = padded.reshape(-1, width)
    start = column(np.concatenate([[0], 1 + np.arange(len(rows)) * width + rows.argmin(axis=1), [n]]))
    m = len(start) - 1
    most = m * (_MOST_OPTIONS + 3)
    sizes = (m, m, m + 1, m, m, m, m + 1, most, most, most, most)
    real = ("cost", "lead", "extra")
    into = _Steps._make(np.empty(k, float if f in real else int) for f, k in zip(_Steps._fields, sizes, strict=True))
    into.opt_ptr[0] = 0
    part = np.empty((most, 3), np.int64)
    kernels.coarse(start, _PLACES, *steps, *into, part)
    size = int(into.opt_ptr[-1])
    found = _Steps._make(a[:size] if len(a) == most else a for a in into)
    for a in found:
        a.setflags(write=False)
    return _Coarse(found, start, column(part[:size]))


def _unfold(coarse: _Coarse, chain: Chain, plan_ptr: I64, nodes: I32) -> _Pool:
    count = len(plan_ptr) - 1
    fine_ptr = np.zeros(count + 1, np.int64)
    fine = np.empty(2 * chain.n * (count + 1), np.int32)
    stack = np.empty((2 * len(coarse.start) + 2, 3), np.int64)
    kernels.unfold(coarse.start, coarse.steps.opt_ptr, coarse.part, chain.option_ptr, plan_ptr, nodes, stack,
                   fine_ptr, fine)  # fmt: skip
    return fine_ptr, fine


def _costs(values: Any, what: str, n: int | None = None) -> F64:
    array = array_of(values, what, "iuf", "numbers")
    if array.ndim != 1:
        raise RematError(f"{what} is {shown(values)}; allowed: a list of numbers")
    if n is not None and len(array) != n:
        raise RematError(f"{what} has {len(array)} entries; allowed: {n}, one for each stage")
    return array.astype(np.float64)


def _integers(values: Any, what: str, n: int) -> I64:
    array = array_of(values, what, "iu", "integers")
    if array.ndim == 0:
        array = np.full(n, array)
    if len(array) != n:
        raise RematError(f"{what} has {len(array)} entries; allowed: {n}")
    if array.dtype.kind == "u" and int(array.max()) >= _LIMIT:
        raise RematError(f"{what} has {int(array.max())}; allowed: below 2**62")
    return array.astype(np.int64)


def _check(
    names: tuple[str, ...], forward: F64, backward: F64, lead: F64, act: I64, grad: I64, temp: I64, stage: I64,
    cost: F64, saved: I64, spent: I64,
) -> None:  # fmt: skip
    n = len(names)
    ends = (*names, "behind the last")
    for values, on, what in (
        (forward, names, "forward cost"), (backward, names, "backward cost"), (lead, names, "input cost"),
        (act, ends, "input bytes"),
        (grad, ends, "gradient bytes of the input"), (temp, names, "forward temporary bytes"),
        (cost, stage, "the cost of an option"),
    ):  # fmt: skip
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            name = names[on[i]] if on is stage else on[i]
            raise RematError(f"stage {name} has {what} {values[i]}; allowed: a number of 0 or more")
    if (lead > forward).any():
        i = int(np.flatnonzero(lead > forward)[0])
        raise RematError(
            f"stage {names[i]} has input cost {lead[i]:g}; allowed: up to its forward cost, {forward[i]:g}"
        )
    out = act[stage + 1]
    if (saved < out).any():
        i = int(np.flatnonzero(saved < out)[0])
        raise RematError(
            f"stage {names[stage[i]]} saves {saved[i]:,} bytes; allowed: {out[i]:,} or more, since what is saved has "
            "the output among it"
        )
    most = np.minimum(grad[stage], saved + grad[stage + 1])
    if (spent < -most).any():
        i = int(np.flatnonzero(spent < -most)[0])
        raise RematError(
            f"stage {names[stage[i]]} has backward temporary bytes {spent[i]:,}; allowed: {-most[i]:,} or more, what "
            "there is to write over"
        )
    largest = np.zeros(n)
    np.maximum.at(largest, stage, saved.astype(np.float64) + np.abs(spent.astype(np.float64)))
    total = largest.sum() + sum(a.astype(np.float64).sum() for a in (act, grad, temp))
    if not total < _LIMIT:
        raise RematError(f"{n:,} stages have {total:.3g} bytes; allowed: less than 2**62")
    with np.errstate(over="ignore"):
        spent_all = forward.sum() + backward.sum() + cost.sum()
    if not spent_all < _MOST_COST:
        raise RematError(f"the costs add up to {spent_all:.3g}; allowed: less than {_MOST_COST:g}")


def _real(values: NDArray[np.float64]) -> F64:
    array: F64 = np.ascontiguousarray(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def _narrow(values: I32) -> I32:
    array: I32 = np.ascontiguousarray(values, dtype=np.int32)
    array.setflags(write=False)
    return array
