"""``cnnlive report``: everything about a network as one HTML file."""

# ruff: noqa: PLC0415 - imports inside the command are what keeps the others quick

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cnnlive.cli._answer import Screen, answer, output_options, wanted
from cnnlive.cli._checkpoint import read_problem
from cnnlive.cli._complete import NETWORKS, complete_file, complete_profiles
from cnnlive.cli._files import check_out, write_text
from cnnlive.cli._help import LAST, command, under
from cnnlive.cli._nets import load_net, naming_order, read_order
from cnnlive.cli._options import (
    inference_options,
    memory_options,
    net_argument,
    optimizer_options,
    option_names,
    read_dtype,
    read_profiles,
    refuse,
    source_options,
    step_options,
    with_options,
)
from cnnlive.cli._progress import progress_bar
from cnnlive.cli._training import as_trained, training_arguments
from cnnlive.errors import AttributeValueError, BudgetError, import_extra

if TYPE_CHECKING:
    from cnnlive.lowered import Lowered
    from cnnlive.plan.batchsize import Fit
    from cnnlive.plan.inference import InferencePlan
    from cnnlive.plan.remat import RematProblem

__all__ = ["report"]

_ENDINGS: Final = (".html", ".htm")
_TRAIN_HELP: Final = "Also a training step: its timeline, its layers, its rules of thumb, and checkpoints."
_BUDGET_HELP: Final = (
    "Memory of the device, as 24GiB: drawn as a line; with --train, where the step does not fit, also a plan of "
    "checkpoints that does."
)
_COSTS_HELP: Final = "What running an op again costs, as for `cnnlive checkpoint`."
_OUT_HELP: Final = "The file to write, .html.  [default: NET.html in this folder]"
#: What a page of cnnlive has in its head.
_MARK: Final = b'<meta name="generator" content="cnnlive">'
_HEAD: Final = 4096  # bytes
_TRAINING_ONLY: Final = ("allocator", "cuda_conf", "with_frontier", "points", "costs", "time_limit")
_OF_ALL: Final = ("net", "title", "path", "open_it", "quiet", "as_json")
_page, _checkpoints, _output = under("Report"), under("Checkpoints"), under(LAST)
# What is no part of the command line that a report shows.
_NOT_SHOWN: Final = ("path", "open_it", "quiet", "as_json")


@command(
    "Everything about a network as one interactive HTML file.",
    examples=[
        "report resnet50",
        "report resnet50 --train --batch 32 --optimizer adam -o resnet50.html",
        "report vgg16 --train --batch 64 --budget 5GiB --open",
        "report model.tflite --profile tflm",
        "report buffers.csv",
    ],
)
@lambda command: with_options(
    command,
    [
        net_argument,
        _page("--train", "with_train", is_flag=True, help=_TRAIN_HELP),
        _page("--batch", default=1, show_default=True, help="Images per pass."),
        _page("--budget", metavar="BYTES", help=_BUDGET_HELP),
        _page(
            "--profiles", metavar="NAME,NAME,...", help="Runtimes to compare, some of `cnnlive profiles`.  "
            "[default: all]", shell_complete=complete_profiles,
        ),
        _page("--title", metavar="TEXT", help="Of the page.  [default: the network's name]"),
        *inference_options(order=True),
        *step_options(),
        *optimizer_options(),
        *memory_options(),
        _checkpoints(
            "--frontier/--no-frontier", "with_frontier", default=True, show_default=True,
            help="Memory against the time of recomputing; with --train.",
        ),
        _checkpoints("--points", type=click.IntRange(min=2), default=12, show_default=True, help="Budgets to plan."),
        _checkpoints("--costs", default="roofline", show_default=True, metavar="NAME|FILE", help=_COSTS_HELP),
        _checkpoints("--time-limit", type=float, metavar="SECONDS", help="For each search.  [default: none]"),
        *(o for o in source_options("") if option_names([o]) != ["train"]),
        _output("-o", "--out", "path", metavar="FILE", help=_OUT_HELP, shell_complete=complete_file),
        _output("--open", "open_it", is_flag=True, help="Open the file in the browser."),
    ],
)  # fmt: skip
@output_options()
def report(net: str, title: str | None, path: str | None, open_it: bool, **how: Any) -> None:
    """Write everything about a network into one HTML file, which needs nothing else and loads nothing.

    The timeline of an inference by kind of memory, its arena, its layers, rules of thumb and runtimes side by side;
    with --train the training step as well, and what checkpoints make of it. NET is as for `cnnlive inference`. It may
    also be a .csv file of buffers (an arena), or a .json file of a problem of recomputation (a frontier).

    With --train a network of the zoo or of PyTorch is taken twice: for inference as it is used, for the training step
    as it trains.
    """
    asked = wanted()
    if open_it and asked.as_json and path is None:
        raise AttributeValueError("--open opens the file, and --json writes none; allowed: --json with --out")
    file = _file(path, net) if path is not None or not asked.as_json else None
    if file is not None:
        import_extra("plotly", "report", "a report")  # before anything is computed
    with progress_bar(f"report of {net}"):
        results, notes = _results(net, how)
        from cnnlive.report.html import fill, payload

        found = payload(results, title=title, command=_command_line(), notes=notes)
        if file is not None:
            write_text(file, fill(found))

    def shown(screen: Screen) -> None:
        from rich.console import Group
        from rich.text import Text

        from cnnlive.report.text import grid, indented, note

        rows = grid("l", "r", "r", "l")
        for card in found["cards"]:
            rows.add_row(*(Text(card[key]) for key in ("label", "value", "text", "hint")))
        head = Text(f"{found['title']}  {found['subtitle']}".strip())
        screen.show(Group(head, indented(rows)) if found["cards"] else head)
        for words in notes:
            screen.show(note(words))
        click.echo(f"\nwrote {file}")

    answer("report", lambda: found, shown)
    if open_it and file is not None:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())


def _file(out: str | None, net: str) -> Path:
    """Return the file to write; nothing but a report of ours is overwritten unasked."""
    if out is not None:
        path = check_out(out, _ENDINGS, net)
        assert path is not None
        return path
    name = net.rpartition(":")[2] if Path(net).suffix.lower() not in (*NETWORKS, ".csv") else Path(net).stem
    path = Path(f"{Path(name).name or 'report'}.html")
    ours = not path.exists()
    if path.is_file():
        with path.open("rb") as file:
            ours = _MARK in file.read(_HEAD)
    if not ours:
        raise AttributeValueError(f"{path} is there and no report of cnnlive; allowed: -o FILE, which overwrites it")
    return path


def _command_line() -> str:
    """Return the command that was run, as one types it, without what says where it goes."""
    context = click.get_current_context()
    words = ["cnnlive", "report", str(context.params["net"])]
    for parameter in context.command.params:
        value: Any = context.params.get(parameter.name or "")
        source = context.get_parameter_source(parameter.name or "")
        if not isinstance(parameter, click.Option) or source is not click.core.ParameterSource.COMMANDLINE:
            continue
        if parameter.name in _NOT_SHOWN:
            continue
        if parameter.is_flag:
            words.append((parameter.opts if value else parameter.secondary_opts)[-1])
            continue
        for one in value if parameter.multiple else (value,):
            words += [parameter.opts[-1], str(one)]
    return shlex.join(words)


# ---------------------------------------------------------------------------------- what is in it


def _results(net: str, how: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """Return what the report is of, and what there is to say beside it."""
    if Path(net).suffix.lower() == ".csv":
        _only(_OF_ALL, f"is for networks, and {net} is a list of buffers")
        from cnnlive.io.buffers import read_buffers
        from cnnlive.plan.arena import plan_arena

        return [plan_arena(read_buffers(Path(net)))], []
    problem = read_problem(net)
    if problem is not None:
        _only((*_OF_ALL, "budget", "points", "time_limit"), f"is for networks, and {net} is a problem")
        return _of_problem(problem, net, how)
    train = how.pop("with_train")
    ones = {name: how.pop(name) for name in option_names([*step_options(), *optimizer_options()])}
    ones |= {name: how.pop(name) for name in _TRAINING_ONLY}
    if not train:
        refuse(list(ones), "is for a training step; add --train")
    if how["budget"] is None:
        refuse(["context", "workspace"], "is set aside of a device; add --budget")
    if not ones["with_frontier"]:
        refuse(["points"], "is for the frontier, and --no-frontier was given")
        if how["budget"] is None:
            refuse(
                ["costs", "time_limit"], "is for checkpoints, of which there are none without a frontier or --budget"
            )
    return _of_net(net, how, ones if train else None)


def _only(allowed: Sequence[str], words: str) -> None:
    """Refuse all options but some."""
    refuse([p.name or "" for p in click.get_current_context().command.params if p.name not in allowed], words)


def _of_problem(problem: RematProblem, net: str, how: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """Plan a problem that was measured elsewhere."""
    from cnnlive.plan.remat import plan_remat, remat_frontier

    limit, budget = how["time_limit"], how["budget"]
    try:
        budget = None if budget is None else int(budget)
    except ValueError:
        words = f"allowed for the problem {net}: an integer, in its unit"
        raise AttributeValueError(f"--budget {budget!r}; {words}") from None
    with progress_bar(f"frontier of {net}") as progress:
        found: list[Any] = [remat_frontier(problem, points=how["points"], time_limit=limit, progress=progress)]
    if budget is None:
        return found, []
    try:
        with progress_bar(f"plan of {net}") as progress:
            return [plan_remat(problem, budget=budget, time_limit=limit, progress=progress), *found], []
    except BudgetError as error:
        return found, [f"No plan was found within {budget:,}; the least that one was found for is "
                       f"{error.minimum_bytes:,}."]  # fmt: skip


def _of_net(net: str, how: dict[str, Any], training: dict[str, Any] | None) -> tuple[list[Any], list[str]]:
    """Plan a network: a training step where one is asked for, an inference, its arena, its runtimes."""
    from cnnlive.lowered import lower

    batch, budget = how["batch"], how["budget"]
    aside: dict[str, Any] = {"context_bytes": how["context"], "workspace_bytes": how["workspace"]}
    source = how["settings"], how["input_shapes"]
    # What is quick comes first: an option that is wrong is to be found before a search that takes minutes.
    asked = None if training is None else _training_options(training)
    used = lower(load_net(net, None, *source))
    result, plan, more = _inference(used, batch, budget if asked is None else None, aside, how)
    from cnnlive.report.reasons import inference_rule

    results = [result, inference_rule(used, plan), *more]
    if asked is None:
        return results, []
    is_file = Path(net).suffix.lower() in NETWORKS
    trained = used if is_file else lower(load_net(net, as_trained(net, None), *source))
    step, rules, notes = _training(net, trained, batch, budget, aside, asked)
    return [*step, *rules, *results], notes


def _training_options(how: dict[str, Any]) -> dict[str, Any]:
    """Part the options of a training step into those of the step and those of checkpoints."""
    checkpoints = {key: how.pop(key) for key in ("with_frontier", "points", "costs", "time_limit")}
    return {**checkpoints, "step": training_arguments(**how)}


def _training(
    net: str, graph: Lowered, batch: int, budget: str | None, aside: dict[str, Any], how: dict[str, Any]
) -> tuple[list[Any], list[Any], list[str]]:
    """Plan a training step, and what checkpoints make of it; its rules of thumb come separately."""
    from cnnlive.plan.batchsize import fits
    from cnnlive.plan.checkpoint import checkpoint_frontier, plan_checkpoints
    from cnnlive.plan.training import plan_training
    from cnnlive.report.reasons import training_rules
    from cnnlive.units import format_bytes, parse_bytes

    asked = dict(how["step"])
    search = {"batch": batch, "costs": how["costs"], "time_limit": how["time_limit"],
              **{k: v for k, v in asked.items() if k != "allocator"}}  # fmt: skip
    plan = plan_training(graph, batch=batch, **asked)
    found: list[Any] = [plan]
    notes: list[str] = []
    if budget is not None:
        flavour = asked.pop("device")
        found = [fits(graph, device=budget, batch=batch, flavour=flavour, **aside, **asked)]
        room = parse_bytes(budget) - sum(map(parse_bytes, aside.values()))
        if plan.peak_bytes > room:
            try:
                with progress_bar(f"checkpoints within {budget}") as progress:
                    found.append(plan_checkpoints(graph, budget=max(room, 0), progress=progress, **search))
            except BudgetError as error:
                least, have = format_bytes(error.minimum_bytes), format_bytes(max(room, 0))
                notes.append(f"No checkpoints make batch {batch} fit {have}: the least that a plan was found for is "
                             f"{least} ({error.minimum_bytes:,} B).")  # fmt: skip
    if how["with_frontier"]:
        with progress_bar(f"frontier of {net}") as progress:
            found.append(checkpoint_frontier(graph, points=how["points"], progress=progress, **search))
    return found, list(training_rules(plan)), notes


def _inference(
    graph: Lowered, batch: int, budget: str | None, aside: dict[str, Any], how: dict[str, Any]
) -> tuple[Fit | InferencePlan, InferencePlan, list[Any]]:
    """Plan an inference, whether it fits a budget where there is one, its arena, and the same under other runtimes."""
    from cnnlive.plan.arena import plan_arena
    from cnnlive.plan.batchsize import fits
    from cnnlive.plan.compare import compare_profiles
    from cnnlive.plan.inference import plan_inference

    names = read_profiles(how["profiles"])
    asked: dict[str, Any] = {"batch": batch, "dtype": read_dtype(how["dtype"], how["dtypes"]),
                             "order": read_order(how["order"])}  # fmt: skip
    rules = {key: how[key] for key in ("profile", "fuse", "inplace")}
    with naming_order(how["order"]):
        plan = plan_inference(graph, weight_dtype=how["weight_dtype"], **asked, **rules)
        found: Fit | InferencePlan = plan
        if budget is not None:
            found = fits(graph, device=budget, mode="inference", weight_dtype=how["weight_dtype"], **aside, **asked,
                         **rules)  # fmt: skip
        with progress_bar("its arena"):
            arena = plan_arena(graph, **asked, **rules)
        with progress_bar("other runtimes"):
            others = compare_profiles(graph, profiles=names, arena=True, **asked)
    return found, plan, [arena, others]
