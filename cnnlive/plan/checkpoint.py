"""Checkpoints of a real training step: what to keep and what to recompute, so that a batch fits a budget."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from cnnlive._types import I64, Result, column
from cnnlive.errors import BudgetError, GraphError, RematError
from cnnlive.graph import Graph
from cnnlive.lowered import Lowered
from cnnlive.plan._plain import INTEGERS, checked
from cnnlive.plan.costs import Costs, read_cost_model
from cnnlive.plan.optimizers import Optimizer
from cnnlive.plan.remat import (
    Effort,
    Frontier,
    Progress,
    RematPlan,
    _bounds,
    _Evaluator,
    affordable,
    plan_remat,
    remat_frontier,
)
from cnnlive.plan.steps import FORWARD, StepGraph, step_graph
from cnnlive.plan.training import TrainingPlan, plan_training
from cnnlive.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from cnnlive.plan.wraps import WrapPlan

__all__ = ["METHODS", "CheckpointFrontier", "CheckpointPlan", "checkpoint_frontier", "plan_checkpoints"]

METHODS: Final = ("search", "chain", "nested", "checkpoint_sequential", "chen_sqrt", "chen_greedy", "revolve")
Method = Literal["search", "chain", "nested", "checkpoint_sequential", "chen_sqrt", "chen_greedy", "revolve"]
CostModel = str | os.PathLike[str] | Costs | Mapping[str, Any]


def plan_checkpoints(
    graph: Graph | Lowered,
    *,
    budget: int | str,
    batch: int = 1,
    costs: CostModel = "roofline",
    method: Method = "search",
    effort: Effort = "default",
    exact: bool = False,
    recompute_random: bool = False,
    seed: int = 0,
    time_limit: float | None = None,
    progress: Progress | None = None,
    **training: Any,
) -> CheckpointPlan:
    """Choose what backward finds kept and what is recomputed, so that a training step fits a budget.

    The step, and what is counted in it, are those of :func:`cnnlive.plan_training`: with everything kept the peak is
    its peak, byte for byte. What forward made and only backward still wants may be dropped as soon as Python lets it
    go, and is made again before the op of backward that wants it, from what is kept then; gradients, and whatever else
    backward makes, are not. :func:`cnnlive.torch.apply` carries such a plan out; :meth:`CheckpointPlan.modules` and
    :meth:`CheckpointPlan.policy` say what ``torch.utils.checkpoint`` makes of the same budget.

    Parameters
    ----------
    graph : Graph or Lowered
        A net as it trains.
    budget : int or str
        Most bytes at any instant of the step, of all that :func:`plan_training` counts: a number, or a text such as
        ``"8GiB"``.
    batch : int
    costs : str, Costs, mapping or path
        What an op costs to run: ``"roofline"``, ``"flops"``, a model of :mod:`cnnlive.plan.costs`, or measured
        milliseconds as :func:`cnnlive.read_costs` reads them.
    method : str
        ``"search"``: any choice of values. ``"chain"``: blocks between the cut vertices, each with a few options, by
        dynamic programming; ``"nested"``: the same with recomputation inside recomputation.
        ``"checkpoint_sequential"``, ``"chen_sqrt"``, ``"chen_greedy"``, ``"revolve"``: the known rules on those blocks.
    effort : {"default", "best"}
        Of the search: some tens of milliseconds, or up to a few seconds.
    exact : bool
        Prove the plan or improve it with a constraint solver (extra ``exact``); for nets of up to about 150 nodes.
    recompute_random : bool
        Dropout and other random ops may be recomputed; what carries the plan out has to restore the generator then.
    seed : int
        Of the search; the same seed gives the same plan unless a time limit cuts it short.
    time_limit : float, optional
        Seconds.
    progress : callable, optional
        Called with the share done (0 to 1) and what is going on.
    **training
        As :func:`plan_training` takes them: ``optimizer="sgd"``, ``precision="autocast"``, ``device="cpu"``, ... No
        `allocator`: a caching allocator's rounding and fragments are not in the plan.

    Returns
    -------
    CheckpointPlan

    Raises
    ------
    BudgetError
        If no plan was found; ``minimum_bytes`` is the least budget that one was found for.
    RematError, UnitError
        If an argument is outside what is allowed.
    ReadError
        If measured costs cannot be read.
    GraphError, ShapeError, AttributeValueError
        As :func:`plan_training`.

    Notes
    -----
    `lower_bound` and `gap` hold for every schedule that runs the ops in the order of the program. The methods and
    their sources: :mod:`cnnlive.plan.remat`, :mod:`cnnlive.plan.chain`, :mod:`cnnlive.plan.blocks`.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> plan = plan_checkpoints(zoo.load("vgg16"), batch=64, budget="5GiB")
    >>> plan.peak_bytes <= 5 * 2**30 < plan.keep_bytes
    True
    >>> plan.overhead < 0.05
    True
    """
    if method not in METHODS:
        raise RematError(f"method={method!r}; allowed: {', '.join(map(repr, METHODS))}")
    if exact and method != "search":
        raise RematError(f"exact=True with method={method!r}; allowed: method='search'")
    room = parse_bytes(budget)
    model = read_cost_model(costs)
    step = _step(graph, batch, model, recompute_random, training)
    plan = _plan(step, room, method, effort, exact, seed, time_limit, progress)
    return CheckpointPlan(step, plan, method, model, recompute_random, training)


def checkpoint_frontier(
    graph: Graph | Lowered,
    *,
    batch: int = 1,
    points: int = 20,
    budgets: Sequence[int | str] | None = None,
    costs: CostModel = "roofline",
    method: Method = "search",
    effort: Effort = "default",
    recompute_random: bool = False,
    seed: int = 0,
    time_limit: float | None = None,
    progress: Progress | None = None,
    **training: Any,
) -> CheckpointFrontier:
    """Plan for many budgets: the memory of a training step against the time that recomputation takes.

    Parameters
    ----------
    graph : Graph or Lowered
    batch : int
    points : int
        Number of budgets, evenly spaced from the least one that a plan is found for to where nothing is recomputed. At
        default effort that search is short: single plans, and ``effort="best"``, may go lower, at a price.
    budgets : sequence of int or str, optional
        Budgets instead. Those below the least one that a plan is found for are left out.
    costs, method, effort, recompute_random, seed, time_limit, progress, **training
        As for :func:`plan_checkpoints`.

    Returns
    -------
    CheckpointFrontier
        A larger budget never costs more.

    Raises
    ------
    BudgetError
        If `budgets` are given and no plan was found for any.
    RematError, ReadError, UnitError, GraphError, ShapeError, AttributeValueError
        As :func:`plan_checkpoints`.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> frontier = checkpoint_frontier(zoo.load("resnet18"), batch=32, points=5)
    >>> [plan.overhead for plan in frontier.plans] == sorted((p.overhead for p in frontier.plans), reverse=True)
    True
    """
    if method not in METHODS:
        raise RematError(f"method={method!r}; allowed: {', '.join(map(repr, METHODS))}")
    asked = None if budgets is None else [parse_bytes(b) for b in budgets]
    model = read_cost_model(costs)
    step = _step(graph, batch, model, recompute_random, training)
    if method == "search":
        found = remat_frontier(step.problem, points=points, budgets=asked, effort=effort, seed=seed,
                               time_limit=time_limit, progress=progress)  # fmt: skip
    else:
        from cnnlive.plan.blocks import blocks_frontier  # noqa: PLC0415 - loaded where it is asked for

        found = blocks_frontier(step.problem, points=points, budgets=asked, method=method)
    plans = tuple(CheckpointPlan(step, plan, method, model, recompute_random, training) for plan in found.plans)
    return CheckpointFrontier(plans, found)


def fits_checkpointed(
    graph: Graph | Lowered,
    *,
    budget: int,
    batch: int,
    max_overhead: float,
    costs: CostModel = "roofline",
    recompute_random: bool = False,
    seed: int = 0,
    **training: Any,
) -> bool:
    """Say whether a plan of at most this overhead is found for a budget, by as much search as a frontier's point gets.

    Options as for :func:`plan_checkpoints`.
    """
    step = _step(graph, batch, read_cost_model(costs), recompute_random, training)
    if step.plan.peak_bytes <= budget:
        return True
    return affordable(step.problem, budget, max_overhead, seed)


def _step(graph: Graph | Lowered, batch: int, costs: Costs, recompute_random: bool,
          training: Mapping[str, Any]) -> StepGraph:  # fmt: skip
    if training.get("allocator") is not None:
        raise GraphError("allocator is not for checkpoints, which are planned at the level of tensors; allowed: None")
    plan = plan_training(graph, batch=batch, **training)
    return step_graph(plan, *costs.of(plan.network, plan.tape, batch), recompute_random=recompute_random)


def _plan(step: StepGraph, budget: int, method: Method, effort: Effort, exact: bool, seed: int,
          time_limit: float | None, progress: Progress | None) -> RematPlan:  # fmt: skip
    try:
        if method == "search":
            return plan_remat(step.problem, budget=budget, effort=effort, exact=exact, seed=seed,
                              time_limit=time_limit, progress=progress)  # fmt: skip
        from cnnlive.plan.blocks import plan_blocks  # noqa: PLC0415 - loaded where it is asked for

        return plan_blocks(step.problem, budget, method=method)
    except BudgetError as error:
        what = step.plan
        raise BudgetError(
            f"{what.name or 'the network'}, batch {what.batch}: no plan for a budget of {budget:,} bytes; the least "
            f"that one was found for is {error.minimum_bytes:,} ({format_bytes(error.minimum_bytes)}), and with "
            f"everything kept the step takes {what.peak_bytes:,}",
            error.minimum_bytes,
        ) from None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CheckpointPlan(Result):
    """What a training step keeps and what it recomputes; made by :func:`plan_checkpoints`.

    Attributes
    ----------
    step : StepGraph
        The training step; ``step.plan`` is its :class:`cnnlive.TrainingPlan` with everything kept.
    remat : RematPlan
        States, schedule, bound.
    method : str
    costs : Costs
    recompute_random : bool
    options : dict
        What was asked of :func:`plan_training`.
    """

    step: StepGraph
    remat: RematPlan
    method: str
    costs: Costs
    recompute_random: bool
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The network."""
        return self.step.plan.name

    @property
    def batch(self) -> int:
        """Images per forward pass."""
        return self.step.plan.batch

    @property
    def training(self) -> TrainingPlan:
        """The step with everything kept."""
        return self.step.plan

    @property
    def budget(self) -> int:
        """Bytes that were allowed."""
        return self.remat.budget

    @property
    def peak_bytes(self) -> int:
        """Most bytes alive at any instant of the step."""
        return self.remat.peak_bytes

    @property
    def keep_bytes(self) -> int:
        """The peak with everything kept."""
        return self.step.plan.peak_bytes

    @property
    def cost(self) -> int:
        """Cost of forward and backward with what is recomputed, in the unit of the cost model."""
        return self.remat.cost

    @property
    def plain_cost(self) -> int:
        """Cost of forward and backward with everything kept."""
        return self.remat.problem.plain_cost

    @property
    def overhead(self) -> float:
        """Cost of what is recomputed, as a share of forward and backward."""
        return self.remat.overhead

    @property
    def lower_bound(self) -> int:
        """No schedule in the order of the program that meets the budget costs less."""
        return self.remat.lower_bound

    @property
    def gap(self) -> float:
        """How much the plan may cost above the cheapest, as a share of forward and backward."""
        return self.remat.gap

    @property
    def status(self) -> str:
        """``"optimal"`` or ``"feasible"``."""
        return self.remat.status

    @property
    def effort(self) -> str:
        """Of the search."""
        return self.remat.effort

    @property
    def recomputed(self) -> dict[str, int]:
        """How often each op of the graph runs again, by its name; an op of several records counts its busiest."""
        found: dict[str, int] = {}
        names, record = self.step.problem.names, self.step.record.tolist()
        number = {name: i for i, name in enumerate(names)}
        for name, times in self.remat.recomputed.items():
            op = self.training.tape.records[record[number[name]]][0]
            label = "loss" if op < 0 else self.training.network.op_names[op]
            found[label] = max(found.get(label, 0), times)
        return found

    @property
    def saved_bytes(self) -> int:
        """What forward made and is still there when backward begins, outputs and the loss included."""
        problem, alive = self.step.problem, dict[int, int]()
        share = problem.share.tolist()
        for what, i in self.remat.schedule:
            if what == "run":
                if self.step.phase[i] != FORWARD:
                    break
                for v in range(problem.out_ptr[i], problem.out_ptr[i + 1]):
                    alive.pop(share[v], None)
                    alive[v] = int(problem.nbytes[v])
            else:
                alive.pop(i, None)
        return sum(alive.values())

    @property
    def timeline(self) -> I64:
        """(n_nodes,) int64: most bytes alive in the step of each node, what is recomputed before it included."""
        return self.remat.timeline

    @property
    def schedule(self) -> list[tuple[str, int]]:
        """``("run", node)`` and ``("free", value)``, in order; nodes and values as ``step.problem`` numbers them."""
        return self.remat.schedule

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever carries the plan out has to mind."""
        net, again = self.training.network, self.recomputed
        kind = dict(zip(net.op_names, net.op_kinds, strict=True))
        attrs = dict(zip(net.op_names, net.op_attrs, strict=True))
        norms = [n for n in again if kind.get(n, "").startswith("batch_norm") and attrs[n].get("track_running_stats")]
        nodes, records = self.step.problem.names, self.step.record.tolist()
        drawn = {nodes[i] for i, r in enumerate(records) if r >= 0 and self.training.tape.random[r]}
        random = [n for n in self.remat.recomputed if n in drawn]
        found = []
        if norms:
            found.append(
                f"{len(norms)} batch-norm layers run again ({_some(norms)}): their running statistics must not be "
                "updated twice; cnnlive.torch.apply sees to it"
            )
        if random:
            found.append(
                f"{len(random)} random ops run again ({_some(random)}): the generator's state has to be restored; "
                "cnnlive.torch.apply sees to it"
            )
        return tuple(found)

    def modules(self, *, seed: int = 0) -> WrapPlan:
        """Choose modules to wrap with ``torch.utils.checkpoint`` for the same budget.

        See :func:`cnnlive.plan.wraps.plan_wraps`. What wrapping whole modules loses shows in its own peak and overhead.
        """
        from cnnlive.plan.wraps import plan_wraps  # noqa: PLC0415 - loaded where it is asked for

        return plan_wraps(self.step, self.budget, kind="modules", seed=seed, recompute_random=self.recompute_random)

    def policy(self, *, seed: int = 0) -> WrapPlan:
        """Choose modules to wrap, and ops in them whose results are saved, for selective checkpointing.

        See :func:`cnnlive.plan.wraps.plan_wraps`.
        """
        from cnnlive.plan.wraps import plan_wraps  # noqa: PLC0415 - loaded where it is asked for

        return plan_wraps(self.step, self.budget, kind="policy", seed=seed, recompute_random=self.recompute_random)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON; :meth:`from_dict` reads it."""
        options = {k: None if callable(v) else v for k, v in self.options.items()}
        rule = options.get("optimizer")
        if isinstance(rule, Optimizer):
            options = {**options, **dict(rule.options), "optimizer": rule.name, "implementation": rule.implementation}
        return {
            "name": self.name, "batch": self.batch, "budget": self.budget, "peak_bytes": self.peak_bytes,
            "keep_bytes": self.keep_bytes, "cost": self.cost, "plain_cost": self.plain_cost,
            "overhead": self.overhead, "lower_bound": self.lower_bound, "gap": self.gap, "status": self.status,
            "method": self.method, "effort": self.effort, "costs": self.costs.to_dict(),
            "recompute_random": self.recompute_random, "options": options, "recomputed": self.recomputed,
            "saved_bytes": self.saved_bytes, "warnings": list(self.warnings), "states": self.remat.states.tolist(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], graph: Graph | Lowered, **training: Any) -> CheckpointPlan:
        """Make a plan from what :meth:`to_dict` returned and the net that it is for.

        Parameters
        ----------
        data : mapping
        graph : Graph or Lowered
        **training
            Options that plain data do not hold: a loss of one's own.

        Raises
        ------
        RematError
            If something is missing, or the plan is not one of this net: its peak, cost and bound are worked out anew.
            What a solver had proven (`exact`) has to be proven again.
        """
        options = {k: v for k, v in _checked(data).get("options", {}).items() if v is not None} | training
        model = read_cost_model(data["costs"])
        again = data.get("recompute_random", False)
        step = _step(graph, data["batch"], model, again, options)
        plan = _read_plan(step, data)
        for what in ("peak_bytes", "cost"):
            if getattr(plan, what) != data[what]:
                raise RematError(f"the plan is of another net or step: its {what} is {getattr(plan, what):,} here and "
                                 f"{data[what]:,} in the data")  # fmt: skip
        return CheckpointPlan(step, plan, data["method"], model, again, options)

    def __str__(self) -> str:
        again = self.recomputed
        return (
            f"{self.name or 'network'}, training with checkpoints, batch {self.batch}, {self.training.optimizer.name}\n"
            f"  budget       {format_bytes(self.budget):>10}  {self.budget:>16,} B\n"
            f"  peak         {format_bytes(self.peak_bytes):>10}  {self.peak_bytes:>16,} B\n"
            f"  keeping all  {format_bytes(self.keep_bytes):>10}  {self.keep_bytes:>16,} B\n"
            f"  overhead     {100 * self.overhead:>9.2f}%  {len(again):>16,} ops run again\n"
            f"  gap          {100 * self.gap:>9.2f}%  {self.status:>16}"
        )

    def __repr__(self) -> str:
        return (
            f"<CheckpointPlan {self.name!r}, batch {self.batch}: {self.peak_bytes:,} of {self.keep_bytes:,} B, "
            f"+{100 * self.overhead:.2f} %, {self.status}>"
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CheckpointFrontier(Result):
    """Plans by budget; made by :func:`checkpoint_frontier`.

    Attributes
    ----------
    plans : tuple of CheckpointPlan
        Budgets ascend and costs never do.
    remat : Frontier
        The same as plans of the step's problem.
    """

    plans: tuple[CheckpointPlan, ...]
    remat: Frontier

    @property
    def name(self) -> str:
        """The network."""
        return self.plans[0].name

    @property
    def batch(self) -> int:
        """Images per forward pass."""
        return self.plans[0].batch

    @property
    def least_bytes(self) -> int:
        """Least budget that a plan was found for."""
        return self.remat.least_bytes

    @property
    def least_bound(self) -> int:
        """Below this budget there is proven to be no plan."""
        return self.remat.least_bound

    @property
    def keep_bytes(self) -> int:
        """The peak with everything kept."""
        return self.remat.keep_bytes

    @property
    def knee(self) -> CheckpointPlan:
        """The plan farthest below the line from the first to the last, both axes scaled to 1."""
        return self.plans[self.remat.plans.index(self.remat.knee)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "name": self.name, "batch": self.batch, "least_bytes": self.least_bytes, "least_bound": self.least_bound,
            "keep_bytes": self.keep_bytes, "knee": self.plans.index(self.knee),
            "plans": [p.to_dict() for p in self.plans],
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.name or 'network'}, training with checkpoints, batch {self.batch}",
                 "      budget        peak    overhead      gap"]  # fmt: skip
        for p in self.plans:
            knee = "  knee" if p is self.knee else ""
            lines.append(f"  {format_bytes(p.budget):>10}  {format_bytes(p.peak_bytes):>10}  {100 * p.overhead:>9.2f}%"
                         f"  {100 * p.gap:>6.2f}%{knee}")  # fmt: skip
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<CheckpointFrontier {self.name!r}, batch {self.batch}: {len(self.plans)} plans, {self.least_bytes:,} to "
            f"{self.keep_bytes:,} B>"
        )


_FORMS: Final[Mapping[str, Any]] = MappingProxyType({
    "batch": int, "budget": int, "peak_bytes": int, "cost": int, "lower_bound": int, "states": INTEGERS,
    "method": METHODS, "effort": str, "costs": str | Mapping,
})  # fmt: skip


def _checked(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the form of a plan's data."""
    checked(data, "a checkpoint plan", _FORMS)
    options, again = data.get("options", {}), data.get("recompute_random", False)
    if not isinstance(options, Mapping) or not all(isinstance(k, str) for k in options):
        raise RematError(f"options={options!r}; allowed: a table of options of plan_training")
    if not isinstance(again, bool):
        raise RematError(f"recompute_random={again!r}; allowed: True or False")
    if not data["peak_bytes"] <= data["budget"]:
        raise RematError(f"budget={data['budget']:,} is below the plan's peak_bytes={data['peak_bytes']:,}")
    return data


def _read_plan(step: StepGraph, data: Mapping[str, Any]) -> RematPlan:
    e = _Evaluator(step.problem)
    given = np.asarray(data["states"])
    start = e.model.start
    fixed = np.ones(len(start), bool)
    fixed[e.model.free] = False
    if given.shape != start.shape or given.dtype.kind != "i" or (given < 0).any() or (given > 4).any() or (
        given[fixed] != start[fixed]
    ).any():  # fmt: skip
        raise RematError(f"the plan's states are not those of {step.plan.name or 'this net'}: {given.size} of "
                         f"{len(start)}; allowed: 0 to 4 for each gap, 0 where nothing may be dropped")  # fmt: skip
    states = column(given)
    if not e.reset(states):
        raise RematError(f"the plan's states recompute more than {step.plan.name or 'this net'} has room for")
    budget = int(data["budget"])
    bound = min(max(_bounds(step.problem)([budget])[0], 0), e.cost)
    status: Literal["optimal", "feasible"] = "optimal" if bound == e.cost else "feasible"
    return RematPlan(step.problem, budget, states, e.peak_bytes, e.cost, bound, status, data["effort"])


def _some(names: Sequence[str], n: int = 4) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
