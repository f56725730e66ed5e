"""``cnnlive checkpoint`` and ``cnnlive frontier``."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from cnnlive.cli._files import check_out, write_text
from cnnlive.cli._nets import load_net
from cnnlive.cli._options import json_option, json_text, source_options, training_options, with_options
from cnnlive.cli._training import as_trained, training_arguments
from cnnlive.errors import AttributeValueError, BudgetError, CnnliveError, ReadError, RematError

if TYPE_CHECKING:
    from cnnlive.graph import Graph
    from cnnlive.plan.checkpoint import CheckpointFrontier, CheckpointPlan
    from cnnlive.plan.remat import Frontier, RematPlan, RematProblem

__all__ = ["checkpoint", "frontier", "progress_bar"]

_CHECKPOINT_EXAMPLES: Final = """\b
Examples:
  cnnlive checkpoint vgg16 --batch 64 --budget 5GiB
  cnnlive checkpoint resnet50 --batch 64 --budget 3GiB --modules --policy
  cnnlive checkpoint resnet50 --batch 64 --budget 3GiB --costs times.csv --out plan.json
  cnnlive checkpoint resnet50 --read plan.json
  cnnlive checkpoint measured.json --budget 5242880 --effort best"""
_FRONTIER_EXAMPLES: Final = """\b
Examples:
  cnnlive frontier resnet50 --batch 64
  cnnlive frontier vgg16 --batch 64 --points 40 --out vgg16.csv
  cnnlive frontier densenet121 --batch 32 --budgets 2GiB,3GiB,4GiB --effort best
  cnnlive frontier measured.json"""
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
_QUIET_HELP: Final = "Print nothing but errors: the exit code answers, and --out keeps the rest."
_PROBLEM_KEYS: Final = ("in_ptr", "out_ptr", "loss")
_AFTER: Final = 1.0  # seconds before a bar appears
#: Exit codes of ``cnnlive checkpoint`` where there is no plan, as of ``cnnlive arena``.
_CODES: Final = {"infeasible": 1, "unknown": 3}
# What is asked of a plan, which one that is read has been asked already.
_OF_PLANS: Final = ("budget", "batch", "method", "effort", "exact", "time_limit", "costs", "recompute_random")


def _search_options() -> list[Callable[[Any], Any]]:
    """Return the options that say how a plan is found."""
    return [
        click.option("--method", default="search", show_default=True, metavar="NAME", help=_METHOD_HELP),
        click.option("--effort", default="default", show_default=True, metavar="default|best", help=_EFFORT_HELP),
        click.option("--seed", type=int, default=0, show_default=True, help="Of the search."),
        click.option("--time-limit", type=float, metavar="SECONDS", help="For the search.  [default: none]"),
    ]


def _step_options() -> list[Callable[[Any], Any]]:
    """Return the options that say how a step runs; plans know nothing of an allocator."""
    kept = []
    for option in training_options():
        parameter = getattr(option(lambda: None), "__click_params__")[0]  # noqa: B009 - click's, and untyped
        if parameter.name not in ("allocator", "cuda_conf"):
            kept.append(option)
    return kept


def _net_options() -> list[Callable[[Any], Any]]:
    """Return the options that are for networks and not for problems."""
    return [
        click.option("--batch", default=1, show_default=True, help="Images per forward pass."),
        click.option("--costs", default="roofline", show_default=True, metavar="NAME|FILE", help=_COSTS_HELP),
        click.option("--recompute-random", is_flag=True, help=_RANDOM_HELP),
        *_step_options(),
        *source_options("trained"),
    ]


def _names(options: Sequence[Callable[[Any], Any]]) -> set[str]:
    return {p.name for option in options for p in getattr(option(lambda: None), "__click_params__", [])}


def _refuse(names: Sequence[str] | set[str], words: str) -> None:
    """Refuse options that were given and do not apply."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is click.core.ParameterSource.COMMANDLINE:
            raise AttributeValueError(f"{parameter.opts[-1]} {words}")


@contextlib.contextmanager
def progress_bar(words: str, quiet: bool, after: float = _AFTER) -> Iterator[Callable[[float, str], None] | None]:
    """Show on a terminal how far something is, once it takes longer than a second.

    Parameters
    ----------
    words : str
        What is done.
    quiet : bool
        Show nothing.
    after : float
        Seconds before anything is shown.

    Yields
    ------
    callable or None
        To be called with the share done, 0 to 1, and what is going on. None: standard error is no terminal, or `quiet`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if quiet or not sys.stderr.isatty():
        yield None
        return
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(words, total=None)
    timer = threading.Timer(after, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda share, what: bar.update(task, total=1.0, completed=share, description=what or words)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


# ---------------------------------------------------------------------------------- what is read


def _read_json(path: str, what: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path} is no {what}: {error}") from None


def _read_problem(net: str) -> RematProblem | None:
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
    _refuse(_names(_net_options()), f"is for networks, and {net} is a problem of given costs and bytes")


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


@click.command(short_help="What to recompute so that a training step fits a budget.", epilog=_CHECKPOINT_EXAMPLES)
@lambda command: with_options(
    command,
    [
        click.argument("net"),
        click.option("--budget", metavar="BYTES", help=_BUDGET_HELP),
        *_search_options(),
        click.option("--exact", is_flag=True, help=_EXACT_HELP),
        click.option("--modules", is_flag=True, help=_MODULES_HELP),
        click.option("--policy", is_flag=True, help=_POLICY_HELP),
        *_net_options(),
    ],
)
@click.option("--ops", "with_ops", is_flag=True, help="List every op: kept, dropped, run again.")
@click.option("--top", type=click.IntRange(min=1), help="Modules to list (default 10), and ops of --ops.")
@click.option("--read", metavar="FILE", help=_READ_HELP)
@click.option("--out", metavar="FILE", help=_OUT_HELP)
@click.option("--quiet", is_flag=True, help=_QUIET_HELP)
@json_option
def checkpoint(
    net: str, budget: str | None, method: str, effort: str, seed: int, time_limit: float | None, exact: bool,
    modules: bool, policy: bool, with_ops: bool, top: int | None, read: str | None, out: str | None, quiet: bool,
    as_json: bool, train: bool | None, settings: Sequence[str], input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Say what a training step keeps and what it recomputes so that it fits a budget, and what that costs.

    NET is as for `cnnlive training`, or a .json file of a problem that was measured elsewhere (docs/checkpoints.md).

    The exit code is 0 where there is a plan, 1 where it is proven that there is none, 3 where none was found and
    nothing is proven; the answer then names the least budget that a plan was found for.
    """
    path = check_out(out, (".json",), net)
    if budget is None and read is None:
        raise click.UsageError("Missing option '--budget'.")
    search: dict[str, Any] = {"method": method, "effort": effort, "seed": seed, "time_limit": time_limit}
    problem = _read_problem(net)
    if problem is not None:
        _no_net_options(net)
        _refuse(("modules", "policy", "with_ops", "read"), f"is for networks, and {net} is a problem")
        _checkpoint_problem(problem, _units(budget or "", "--budget", net), {**search, "exact": exact}, net, top or 10,
                            path, quiet, as_json)  # fmt: skip
        return
    if read is not None:
        _refuse({*_OF_PLANS, *_names(_step_options())}, f"is for a new plan, and --read {read} was given")
        graph = load_net(net, as_trained(net, train), settings, input_shapes)
        plan = _read_plan(read, graph)
    else:
        from cnnlive.plan.checkpoint import plan_checkpoints
        from cnnlive.units import parse_bytes

        room = parse_bytes(budget or "")
        asked = _asked(how)
        graph = load_net(net, as_trained(net, train), settings, input_shapes)
        try:
            with progress_bar(f"plan of {net}", quiet) as progress:
                plan = plan_checkpoints(graph, budget=room, exact=exact, progress=progress, **search, **asked)
        except BudgetError as error:
            from cnnlive.plan.checkpoint import checkpoint_frontier

            quick = {key: search[key] for key in ("effort", "seed", "time_limit")}
            with progress_bar("the least budget", quiet) as progress:
                least = checkpoint_frontier(graph, points=2, progress=progress, **quick, **asked)
            _no_plan("checkpoint", least, room, error.minimum_bytes, method, path, quiet, as_json)
    with progress_bar("modules to wrap", quiet):
        wraps = [wrap(seed=seed) for wrap, wanted in ((plan.modules, modules), (plan.policy, policy)) if wanted]
    from cnnlive.report.checkpoint import checkpoint_data, checkpoint_ops_table, checkpoint_report

    text = ""
    if path is not None or as_json:
        text = json_text("checkpoint", checkpoint_data(plan, **{w.kind: w for w in wraps}))
    if path is not None:
        write_text(path, text + "\n")
    if quiet:
        return
    if as_json:
        click.echo(text)
        return
    from cnnlive.report.text import is_ascii, open_console, show

    console = open_console()
    plain = is_ascii(console)
    report = checkpoint_report(plan, wraps, top=top or 10, columns=console.width, ascii_only=plain)
    show(console, report, widen=False)
    if with_ops:
        click.echo()
        show(console, checkpoint_ops_table(plan, top=top))
    if path is not None:
        click.echo(f"\nwrote {path}")


def _asked(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked of the planner about the step."""
    mine = {key: how[key] for key in ("batch", "costs", "recompute_random")}
    rest = {key: value for key, value in how.items() if key not in mine}
    step = training_arguments(allocator=False, cuda_conf=None, **rest)
    del step["allocator"]
    return {**mine, **step}


def _no_plan(
    kind: str, least: CheckpointFrontier | Frontier, budget: int, minimum: int, method: str, path: Path | None,
    quiet: bool, as_json: bool,
) -> NoReturn:  # fmt: skip
    """Answer that no plan was found: the least budget that has one, and what is proven."""
    from cnnlive.report.checkpoint import frontier_data, refusal_data, refusal_report

    if method == "search":
        minimum = min(minimum, least.least_bytes)
    data = refusal_data(least, budget, minimum, method)
    status = data["status"]
    if kind == "frontier":
        data = {**frontier_data(least), "method": method, "knee": None, "points": []}
    if as_json and not quiet:
        click.echo(json_text(kind, data))
    elif not quiet:
        from cnnlive.report.text import open_console, show

        console = open_console()
        show(console, refusal_report(least, budget, minimum, method, columns=console.width), widen=False)
        if path is not None:
            click.echo(f"\nnothing to write to {path}")
    raise click.exceptions.Exit(_CODES[status])


# ---------------------------------------------------------------------------------- frontier


@click.command(short_help="Memory of a training step against the time of recomputing.", epilog=_FRONTIER_EXAMPLES)
@lambda command: with_options(
    command,
    [
        click.argument("net"),
        click.option("--points", type=click.IntRange(min=2), default=20, show_default=True, help="Budgets to plan."),
        click.option("--budgets", metavar="BYTES,BYTES,...", help=_BUDGETS_HELP),
        *_search_options(),
        *_net_options(),
    ],
)
@click.option("--out", metavar="FILE", help=_FRONTIER_OUT_HELP)
@click.option("--quiet", is_flag=True, help=_QUIET_HELP)
@json_option
def frontier(
    net: str, points: int, budgets: str | None, method: str, effort: str, seed: int, time_limit: float | None,
    out: str | None, quiet: bool, as_json: bool, train: bool | None, settings: Sequence[str],
    input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Say what each budget costs: the least that has a plan, the knee, and how far plans may be from the best.

    NET and exit codes are as for `cnnlive checkpoint`.
    """
    path = check_out(out, (".csv", ".json"), net)
    search: dict[str, Any] = {"method": method, "effort": effort, "seed": seed, "time_limit": time_limit}
    texts = None if budgets is None else [b.strip() for b in budgets.split(",") if b.strip()]
    if texts == []:
        raise AttributeValueError(f"--budgets {budgets!r} names none; allowed: amounts such as 2GiB,3GiB")
    problem = _read_problem(net)
    found: CheckpointFrontier | Frontier
    least: CheckpointFrontier | Frontier
    if problem is not None:
        _no_net_options(net)
        asked = None if texts is None else [_units(b, "--budgets", net) for b in texts]
        try:
            with progress_bar(f"frontier of {net}", quiet) as progress:
                found = _problem_frontier(problem, points, asked, search, progress)
        except BudgetError as error:
            least = _problem_frontier(problem, 2, None, {**search, "method": "search"}, None)
            _no_plan("frontier", least, max(asked or ()), error.minimum_bytes, method, path, quiet, as_json)
    else:
        from cnnlive.plan.checkpoint import checkpoint_frontier
        from cnnlive.units import parse_bytes

        step = _asked(how)
        graph = load_net(net, as_trained(net, train), settings, input_shapes)
        amounts = None if texts is None else [parse_bytes(b) for b in texts]
        try:
            with progress_bar(f"frontier of {net}", quiet) as progress:
                found = checkpoint_frontier(graph, points=points, budgets=amounts, progress=progress, **search, **step)
        except BudgetError as error:
            quick = {key: search[key] for key in ("effort", "seed", "time_limit")}
            least = checkpoint_frontier(graph, points=2, **quick, **step)
            _no_plan("frontier", least, max(amounts or ()), error.minimum_bytes, method, path, quiet, as_json)
    from cnnlive.report.checkpoint import frontier_data, frontier_report

    if path is not None:
        write_text(path, _frontier_text(found, path))
    if quiet:
        return
    if as_json:
        click.echo(json_text("frontier", frontier_data(found)))
        return
    from cnnlive.report.text import is_ascii, open_console, show

    console = open_console()
    show(console, frontier_report(found, columns=console.width, ascii_only=is_ascii(console)), widen=False)
    if path is not None:
        click.echo(f"\nwrote {path}")


def _frontier_text(found: CheckpointFrontier | Frontier, path: Path) -> str:
    """Return what a file of a frontier holds, by its ending."""
    from cnnlive.report.checkpoint import FRONTIER_COLUMNS, frontier_data, frontier_rows

    if path.suffix.lower() == ".json":
        return json_text("frontier", frontier_data(found)) + "\n"
    file = io.StringIO()
    writer = csv.DictWriter(file, FRONTIER_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "knee": int(row["knee"])} for row in frontier_rows(found))
    return file.getvalue()


# ---------------------------------------------------------------------------------- problems measured elsewhere


def _checkpoint_problem(
    problem: RematProblem, budget: int, search: Mapping[str, Any], net: str, top: int, path: Path | None, quiet: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Plan a problem, and print the plan."""
    try:
        with progress_bar(f"plan of {net}", quiet) as progress:
            plan = _plan_problem(problem, budget, search, progress)
    except BudgetError as error:
        with progress_bar("the least budget", quiet) as progress:
            least = _problem_frontier(problem, 2, None, {**search, "method": "search"}, progress)
        _no_plan("remat", least, budget, error.minimum_bytes, search["method"], path, quiet, as_json)
    from cnnlive.report.checkpoint import remat_data, remat_report

    text = json_text("remat", remat_data(plan)) if path is not None or as_json else ""
    if path is not None:
        write_text(path, text + "\n")
    if quiet:
        return
    if as_json:
        click.echo(text)
        return
    from cnnlive.report.text import is_ascii, open_console, show

    console = open_console()
    plain = is_ascii(console)
    show(console, remat_report(plan, top=top, columns=console.width, ascii_only=plain), widen=False)
    if path is not None:
        click.echo(f"\nwrote {path}")


def _plan_problem(
    problem: RematProblem, budget: int, search: Mapping[str, Any], progress: Callable[[float, str], None] | None
) -> RematPlan:
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
    progress: Callable[[float, str], None] | None,
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
