"""``cnnlive checkpoint`` and ``cnnlive frontier``."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cnnlive.cli._answer import Screen, answer, output_options
from cnnlive.cli._complete import METHODS, among, complete_file
from cnnlive.cli._help import command, under
from cnnlive.cli._nets import load_net
from cnnlive.cli._options import (
    net_argument,
    optimizer_options,
    option_names,
    refuse,
    source_options,
    step_options,
    with_options,
)
from cnnlive.cli._progress import Told, progress_bar
from cnnlive.cli._training import as_trained, training_arguments
from cnnlive.errors import AttributeValueError, BudgetError, CnnliveError, ReadError, RematError

if TYPE_CHECKING:
    from typing import TypeAlias

    from cnnlive.graph import Graph
    from cnnlive.plan.checkpoint import CheckpointFrontier, CheckpointPlan
    from cnnlive.plan.remat import Frontier, RematPlan, RematProblem

    _Frontier: TypeAlias = CheckpointFrontier | Frontier

__all__ = ["checkpoint", "frontier", "read_problem"]

_plan, _search, _report = under("Plan"), under("Search"), under("Report")
_BUDGET_HELP: Final = "Most bytes at any instant of the step, as 8GiB; of a problem an integer in its unit."
_BUDGETS_HELP: Final = "Budgets instead of evenly spaced ones; those that are too small are left out."
_COSTS_HELP: Final = (
    "What running an op costs: roofline, roofline:GPU, roofline:FLOP/s,bytes/s, flops, or a file .csv or .json of "
    "measured times."
)
_METHOD_HELP: Final = "search, chain, nested; or a known rule: checkpoint_sequential, chen_sqrt, chen_greedy, revolve."
_EFFORT_HELP: Final = "default: a fraction of a second; best: some seconds."
_EXACT_HELP: Final = "Prove or improve it with a constraint solver; for nets of up to about 150 nodes (extra exact)."
_RANDOM_HELP: Final = "Dropout and other random ops may run again; otherwise they never do."
_MODULES_HELP: Final = "What wrapping whole modules makes of the budget, and which modules."
_POLICY_HELP: Final = "The same with modules in which the results of some ops are saved."
_READ_HELP: Final = "Work a plan out anew that --out wrote, and print it instead of searching for one."
_OUT_HELP: Final = "Write the plan: .json, which --read reads."
_FRONTIER_OUT_HELP: Final = "Write it: .csv (a row per budget) or .json."
_PROBLEM_KEYS: Final = ("in_ptr", "out_ptr", "loss")
#: Exit codes of ``cnnlive checkpoint`` where there is no plan, as of ``cnnlive arena``.
_CODES: Final = {"infeasible": 1, "unknown": 3}
_EXITS: Final = {0: "there is a plan", 1: "proven: there is none", 3: "none was found, and nothing is proven"}
# What is asked of a plan, which one that is read has been asked already.
_OF_PLANS: Final = ("budget", "batch", "method", "effort", "exact", "time_limit", "costs", "recompute_random")


def _search_options() -> list[Callable[[Any], Any]]:
    """Return the options that say how a plan is found."""
    return [
        _search(
            "--method", default="search", show_default=True, metavar="NAME", help=_METHOD_HELP,
            shell_complete=among(*METHODS),
        ),
        _search(
            "--effort", default="default", show_default=True, metavar="default|best", help=_EFFORT_HELP,
            shell_complete=among("default", "best"),
        ),
        _search("--seed", type=int, default=0, show_default=True, help="Of the search."),
        _search("--time-limit", type=float, metavar="SECONDS", help="For the search.  [default: none]"),
    ]  # fmt: skip


def _net_options() -> list[Callable[[Any], Any]]:
    """Return the options that are for networks and not for problems."""
    return [
        _plan(
            "--costs", default="roofline", show_default=True, metavar="NAME|FILE", help=_COSTS_HELP,
            shell_complete=among("roofline", "flops", files=True),
        ),
        _plan("--recompute-random", is_flag=True, help=_RANDOM_HELP),
        under("Step")("--batch", default=1, show_default=True, help="Images per forward pass."),
        *step_options(),  # plans know nothing of an allocator
        *optimizer_options(),
        *source_options("trained"),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------- what is read


def _read_json(path: str, what: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path} is no {what}: {error}") from None


def read_problem(net: str) -> RematProblem | None:
    """Read a problem that was measured elsewhere; None where NET is a network."""
    if Path(net).suffix.lower() != ".json":
        return None
    data = _read_json(net, "JSON")
    if not isinstance(data, dict) or not any(key in data for key in _PROBLEM_KEYS):
        return None
    from cnnlive.plan.remat import RematProblem

    try:
        return RematProblem.from_dict(data)
    except CnnliveError as error:
        raise ReadError(f"{net}: {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise ReadError(f"{net} is no problem as RematProblem.to_dict gives it: {error}") from None


def _units(amount: str, option: str, net: str) -> int:
    """Read an amount in the unit of a problem."""
    try:
        return int(amount)
    except ValueError:
        raise AttributeValueError(
            f"{option} {amount!r}; allowed for the problem {net}: an integer, in its unit"
        ) from None


def _no_net_options(net: str) -> None:
    refuse(option_names(_net_options()), f"is for networks, and {net} is a problem of given costs and bytes")


def _read_plan(path: str, graph: Graph) -> CheckpointPlan:
    """Read a plan that --out wrote, and check it on the network."""
    from cnnlive.plan.checkpoint import CheckpointPlan

    data = _read_json(path, "plan")
    if not isinstance(data, dict) or data.get("format") != "cnnlive-checkpoint-1":
        raise ReadError(f"{path} is no plan; allowed: what `cnnlive checkpoint --out` wrote")
    if data.get("peak_bytes") is None:
        raise ReadError(f"{path} says that no plan was found; there is nothing to check")
    try:
        return CheckpointPlan.from_dict(data, graph)
    except CnnliveError as error:
        raise ReadError(f"{path}: {error}") from None
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise ReadError(f"{path} is no plan as --out writes it: {error}") from None


# ---------------------------------------------------------------------------------- checkpoint


@command(
    "What to recompute so that a training step fits a budget.",
    examples=[
        "checkpoint vgg16 --batch 64 --budget 5GiB",
        "checkpoint resnet50 --batch 64 --budget 3GiB --modules --policy",
        "checkpoint resnet50 --batch 64 --budget 3GiB --costs times.csv --out plan.json",
        "checkpoint resnet50 --read plan.json",
        "checkpoint measured.json --budget 5242880 --effort best",
    ],
    exits=_EXITS,
)
@lambda command: with_options(
    command,
    [
        net_argument,
        _plan("--budget", metavar="BYTES", help=_BUDGET_HELP),
        *_search_options(),
        _search("--exact", is_flag=True, help=_EXACT_HELP),
        *_net_options(),
        _plan("--modules", is_flag=True, help=_MODULES_HELP),
        _plan("--policy", is_flag=True, help=_POLICY_HELP),
        _plan("--read", metavar="FILE", help=_READ_HELP, shell_complete=complete_file),
    ],
)
@_report("--ops", "with_ops", is_flag=True, help="List every op: kept, dropped, run again.")
@_report("--top", type=click.IntRange(min=1), help="Modules to list (default 10), and ops of --ops.")
@output_options((".json",), _OUT_HELP)
def checkpoint(
    net: str, budget: str | None, method: str, effort: str, seed: int, time_limit: float | None, exact: bool,
    modules: bool, policy: bool, with_ops: bool, top: int | None, read: str | None, train: bool | None,
    settings: Sequence[str], input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Say what a training step keeps and what it recomputes so that it fits a budget, and what that costs.

    NET is as for `cnnlive training`, or a .json file of a problem that was measured elsewhere (docs/checkpoints.md).
    Where there is no plan, the answer names the least budget that one was found for.
    """
    if budget is None and read is None:
        raise click.UsageError("Missing option '--budget'.")
    search: dict[str, Any] = {"method": method, "effort": effort, "seed": seed, "time_limit": time_limit}
    problem = read_problem(net)
    if problem is not None:
        _no_net_options(net)
        refuse(("modules", "policy", "with_ops", "read"), f"is for networks, and {net} is a problem")
        units = _units(budget or "", "--budget", net)
        _checkpoint_problem(problem, units, {**search, "exact": exact}, net, top or 10)
        return
    least: CheckpointFrontier | None = None
    with progress_bar(f"plan of {net}") as progress:
        if read is not None:
            asked_anew = option_names([*step_options(), *optimizer_options()])
            refuse([*_OF_PLANS, *asked_anew], f"is for a new plan, and --read {read} was given")
            graph = load_net(net, as_trained(net, train), settings, input_shapes)
            plan = _read_plan(read, graph)
        else:
            from cnnlive.plan.checkpoint import checkpoint_frontier, plan_checkpoints
            from cnnlive.units import parse_bytes

            room = parse_bytes(budget or "")
            asked = _asked(how)
            graph = load_net(net, as_trained(net, train), settings, input_shapes)
            try:
                plan = plan_checkpoints(graph, budget=room, exact=exact, progress=progress, **search, **asked)
            except BudgetError as error:
                quick = {key: search[key] for key in ("effort", "seed", "time_limit")}
                with progress_bar("the least budget") as progress_of_least:
                    least = checkpoint_frontier(graph, points=2, progress=progress_of_least, **quick, **asked)
                minimum = error.minimum_bytes
        if least is None:
            with progress_bar("modules to wrap"):
                wraps = [wrap(seed=seed) for wrap, wanted in ((plan.modules, modules), (plan.policy, policy)) if wanted]
    if least is not None:
        _no_plan("checkpoint", least, room, minimum, method)
        return

    def data() -> dict[str, Any]:
        from cnnlive.report.checkpoint import checkpoint_data

        return checkpoint_data(plan, **{w.kind: w for w in wraps})

    def report(screen: Screen) -> None:
        from cnnlive.report.checkpoint import checkpoint_ops_table, checkpoint_report

        plain = screen.ascii_only
        screen.show(checkpoint_report(plan, wraps, top=top or 10, columns=screen.columns, ascii_only=plain))
        if with_ops:
            screen.show(checkpoint_ops_table(plan, top=top))

    answer("checkpoint", data, report)


def _asked(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked of the planner about the step."""
    mine = {key: how[key] for key in ("batch", "costs", "recompute_random")}
    rest = {key: value for key, value in how.items() if key not in mine}
    step = training_arguments(allocator=False, cuda_conf=None, **rest)
    del step["allocator"]
    return {**mine, **step}


def _no_plan(kind: str, least: CheckpointFrontier | Frontier, budget: int, minimum: int, method: str) -> None:
    """Answer that no plan was found: the least budget that has one, and what is proven."""
    from cnnlive.report.checkpoint import frontier_data, refusal_data, refusal_report

    if method == "search":
        minimum = min(minimum, least.least_bytes)
    found = refusal_data(least, budget, minimum, method)

    def data() -> dict[str, Any]:
        if kind == "frontier":
            return {**frontier_data(least), "method": method, "knee": None, "points": []}
        return found

    def report(screen: Screen) -> None:
        screen.show(refusal_report(least, budget, minimum, method, columns=screen.columns))

    answer(kind, data, report, written=False, code=_CODES[found["status"]])


# ---------------------------------------------------------------------------------- frontier


@command(
    "Memory of a training step against the time of recomputing.",
    examples=[
        "frontier resnet50 --batch 64",
        "frontier vgg16 --batch 64 --points 40 --out vgg16.csv",
        "frontier densenet121 --batch 32 --budgets 2GiB,3GiB,4GiB --effort best",
        "frontier measured.json",
    ],
    exits=_EXITS,
)
@lambda command: with_options(
    command,
    [
        net_argument,
        _plan("--points", type=click.IntRange(min=2), default=20, show_default=True, help="Budgets to plan."),
        _plan("--budgets", metavar="BYTES,BYTES,...", help=_BUDGETS_HELP),
        *_search_options(),
        *_net_options(),
    ],
)
@output_options((".csv", ".json"), _FRONTIER_OUT_HELP)
def frontier(
    net: str, points: int, budgets: str | None, method: str, effort: str, seed: int, time_limit: float | None,
    train: bool | None, settings: Sequence[str], input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Say what each budget costs: the least that has a plan, the knee, and how far plans may be from the best.

    NET is as for `cnnlive checkpoint`.
    """
    search: dict[str, Any] = {"method": method, "effort": effort, "seed": seed, "time_limit": time_limit}
    texts = None if budgets is None else [b.strip() for b in budgets.split(",") if b.strip()]
    if texts == []:
        raise AttributeValueError(f"--budgets {budgets!r} names none; allowed: amounts such as 2GiB,3GiB")
    problem = read_problem(net)
    amounts: list[int] | None
    if problem is not None:
        _no_net_options(net)
        amounts = None if texts is None else [_units(b, "--budgets", net) for b in texts]
        given = problem

        def ask(points: int, budgets: list[int] | None, how: Mapping[str, Any], told: Told | None) -> _Frontier:
            return _problem_frontier(given, points, budgets, how, told)

    else:
        from cnnlive.units import parse_bytes

        step = _asked(how)
        amounts = None if texts is None else [parse_bytes(b) for b in texts]
        load = functools.cache(lambda: load_net(net, as_trained(net, train), settings, input_shapes))

        def ask(points: int, budgets: list[int] | None, how: Mapping[str, Any], told: Told | None) -> _Frontier:
            from cnnlive.plan.checkpoint import checkpoint_frontier

            return checkpoint_frontier(load(), points=points, budgets=budgets, progress=told, **how, **step)

    minimum = None
    with progress_bar(f"frontier of {net}") as progress:
        try:
            found = ask(points, amounts, search, progress)
        except BudgetError as error:
            minimum = error.minimum_bytes
            with progress_bar("the least budget") as progress_of_least:
                found = ask(2, None, {**search, "method": "search"}, progress_of_least)
    if minimum is not None:
        _no_plan("frontier", found, max(amounts or ()), minimum, method)
        return

    def data() -> dict[str, Any]:
        from cnnlive.report.checkpoint import frontier_data

        return frontier_data(found)

    def report(screen: Screen) -> None:
        from cnnlive.report.checkpoint import frontier_report

        screen.show(frontier_report(found, columns=screen.columns, ascii_only=screen.ascii_only))

    answer("frontier", data, report, text=lambda _path: _frontier_text(found))


def _frontier_text(found: _Frontier) -> str:
    """Return what a CSV file of a frontier holds."""
    from cnnlive.report.checkpoint import FRONTIER_COLUMNS, frontier_rows

    file = io.StringIO()
    writer = csv.DictWriter(file, FRONTIER_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "knee": int(row["knee"])} for row in frontier_rows(found))
    return file.getvalue()


# ---------------------------------------------------------------------------------- problems measured elsewhere


def _checkpoint_problem(problem: RematProblem, budget: int, search: Mapping[str, Any], net: str, top: int) -> None:
    """Plan a problem, and print the plan."""
    least = None
    with progress_bar(f"plan of {net}") as progress:
        try:
            plan = _plan_problem(problem, budget, search, progress)
        except BudgetError as error:
            minimum = error.minimum_bytes
            with progress_bar("the least budget") as progress_of_least:
                least = _problem_frontier(problem, 2, None, {**search, "method": "search"}, progress_of_least)
    if least is not None:
        _no_plan("remat", least, budget, minimum, search["method"])
        return

    def data() -> dict[str, Any]:
        from cnnlive.report.checkpoint import remat_data

        return remat_data(plan)

    def report(screen: Screen) -> None:
        from cnnlive.report.checkpoint import remat_report

        screen.show(remat_report(plan, top=top, columns=screen.columns, ascii_only=screen.ascii_only))

    answer("remat", data, report)


def _plan_problem(problem: RematProblem, budget: int, search: Mapping[str, Any], progress: Told | None) -> RematPlan:
    from cnnlive.plan.checkpoint import METHODS

    method, exact = search["method"], search["exact"]
    if method not in METHODS:
        raise RematError(f"--method {method}; allowed: {', '.join(METHODS)}")
    if exact and method != "search":
        raise RematError(f"--exact with --method {method}; allowed: --method search")
    if method != "search":
        from cnnlive.plan.blocks import plan_blocks

        return plan_blocks(problem, budget, method=method)
    from cnnlive.plan.remat import plan_remat

    how: dict[str, Any] = {key: search[key] for key in ("effort", "seed", "time_limit")}
    how |= {key: value for key, value in (("exact", exact), ("progress", progress)) if value}
    return plan_remat(problem, budget=budget, **how)


def _problem_frontier(
    problem: RematProblem, points: int, budgets: list[int] | None, search: Mapping[str, Any],
    progress: Told | None,
) -> Frontier:  # fmt: skip
    from cnnlive.plan.checkpoint import METHODS

    method = search["method"]
    if method == "search":
        from cnnlive.plan.remat import remat_frontier

        how = {key: search[key] for key in ("effort", "seed", "time_limit")}
        more: dict[str, Any] = {"progress": progress} if progress else {}
        return remat_frontier(problem, points=points, budgets=budgets, **how, **more)
    if method not in METHODS:
        raise RematError(f"--method {method}; allowed: {', '.join(METHODS)}")
    from cnnlive.plan.blocks import blocks_frontier

    return blocks_frontier(problem, points=points, budgets=budgets, method=method)
