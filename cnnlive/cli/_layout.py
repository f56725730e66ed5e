"""``cnnlive order``, ``arena`` and ``compare``: in which order ops run, where buffers lie, what runtimes make of it."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cnnlive.cli._files import check_out, write_text
from cnnlive.cli._nets import ORDER_HEAD, load_net, naming_order, read_order
from cnnlive.cli._options import (
    batch_option,
    dtype_options,
    json_option,
    json_text,
    network_options,
    order_option,
    read_dtype,
    source_options,
    with_options,
)
from cnnlive.errors import AttributeValueError, OrderError
from cnnlive.profiles import PROFILES, profile_of

if TYPE_CHECKING:
    from cnnlive.buffers import Buffers
    from cnnlive.lowered import Lowered
    from cnnlive.plan.arena import ArenaPlan
    from cnnlive.plan.compare import Comparison
    from cnnlive.plan.order import OrderPlan

__all__ = ["arena", "compare", "order"]

_ORDER_EXAMPLES: Final = """\b
Examples:
  cnnlive order randwire
  cnnlive order model.onnx --dtype int8 --fuse --out order.txt
  cnnlive inference model.onnx --dtype int8 --fuse --order order.txt"""
_ARENA_EXAMPLES: Final = """\b
Examples:
  cnnlive arena mobilenet_v2 --dtype int8 --fuse --order best
  cnnlive arena model.tflite --profile tflm --capacity 256KiB && ./flash.sh
  cnnlive arena model.onnx --out offsets.csv
  cnnlive arena buffers.csv --capacity 1MiB --time-limit 10
  cnnlive arena resnet50 --shared-objects"""
_COMPARE_EXAMPLES: Final = """\b
Examples:
  cnnlive compare mobilenet_v2 --dtype int8
  cnnlive compare model.tflite --profiles tflm,tflite,tinyengine
  cnnlive compare resnet50 --profiles ideal,torch,onnxruntime --no-arena --out resnet50.csv"""
_ORDER_ENDINGS: Final = (".json", ".csv", ".txt")
_ORDER_OUT_HELP: Final = (
    "Write the order: .txt (names, one a line, which --order of other commands reads), .csv (step, op, name) or .json."
)


_ARENA_ENDINGS: Final = (".csv", ".json")
_COMPARE_OUT_HELP: Final = "Write it: .csv (a row per profile, a column per step) or .json."
_ARENA_OUT_HELP: Final = "Write the offsets: .csv (which `cnnlive arena` reads, with every buffer fixed) or .json."
_CAPACITY_HELP: Final = "Ask whether so much is enough, as 256KiB; exit code 0: it fits, 1: it does not, 3: not known."
_METHOD_HELP: Final = (
    "auto, exact, skyline, greedy_by_size, greedy_by_size_first_fit, greedy_by_breadth, or what a runtime does: tflm, "
    "tflite, xla, iree, onnxruntime; of --shared-objects: auto, greedy_by_size, greedy_by_size_simple, "
    "greedy_by_breadth, greedy_in_order, min_cost_flow.  [default: as the profile]"
)
#: Exit codes of `cnnlive arena`, by the status of the plan.
_CODES: Final = {"optimal": 0, "feasible": 0, "infeasible": 1, "unknown": 3}
# What is asked of a network and not of a list of buffers.
_OF_NETWORKS: Final = ("batch", "dtype", "dtypes", "profile", "fuse", "inplace", "order", "train", "settings",
                       "input_shapes")  # fmt: skip
_OF_OFFSETS: Final = ("alignment", "pads", "capacity", "time_limit", "max_nodes", "out")


@click.command(short_help="The execution order of least peak, with proof.", epilog=_ORDER_EXAMPLES)
@network_options(order=False, weights=False)
@click.option("--max-states", type=int, default=1_000_000, show_default=True, help="Sets of ops a search may keep.")
@click.option("--time-limit", type=float, metavar="SECONDS", help="For the search.  [default: none]")
@click.option("--top", type=click.IntRange(min=1), default=4, show_default=True, help="Rows of each table.")
@click.option("--timeline", is_flag=True, help="List the bytes alive at every step.")
@click.option("--out", metavar="FILE", help=_ORDER_OUT_HELP)
@json_option
def order(
    net: str, batch: int, dtype: str | None, dtypes: Sequence[str], profile: str, fuse: bool | None, inplace: Any,
    max_states: int, time_limit: float | None, top: int, timeline: bool, out: str | None, as_json: bool,
    train: bool | None, settings: Sequence[str], input_shapes: Sequence[str],
) -> None:  # fmt: skip
    """Find the execution order with the least peak of activations, and prove that no order takes less.

    Where the search ends without a proof, the best order that it found is printed with the bound that holds for all.
    """
    path = check_out(out, _ORDER_ENDINGS, net)
    graph = load_net(net, train, settings, input_shapes)
    from cnnlive.lowered import lower
    from cnnlive.plan.inference import plan_inference
    from cnnlive.plan.order import plan_order
    from cnnlive.report.order import order_data, order_report, order_timeline

    network = lower(graph)
    how: dict[str, Any] = {"batch": batch, "dtype": read_dtype(dtype, dtypes), "profile": profile, "fuse": fuse,
                           "inplace": inplace}  # fmt: skip
    plan = plan_order(network, max_states=max_states, time_limit=time_limit, **how)
    best = plan_inference(network, order=plan.order.tolist(), **how)
    program = plan_inference(network, **how)
    data = order_data(plan, best, program)
    if path is not None:
        write_text(path, _order_text(plan, data, path))
    if as_json:
        click.echo(json_text("order", data))
        return
    from cnnlive.report.text import is_ascii, open_console, show

    console = open_console()
    plain = is_ascii(console)
    report = order_report(plan, best, program, top=top, columns=console.width, ascii_only=plain)
    show(console, report, widen=False)
    if timeline:
        click.echo()
        show(console, order_timeline(best, ascii_only=plain))
    if path is not None:
        click.echo(f"\nwrote {path}")


def _order_text(plan: OrderPlan, data: dict[str, Any], path: Path) -> str:
    """Return what a file of an order holds, by its ending."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return json_text("order", data) + "\n"
    names = plan.op_names
    if suffix == ".csv":
        file = io.StringIO()
        file.write(ORDER_HEAD + "\n")
        # A writer quotes the end of line that it was given, and a reader knows the other one too.
        other = any("\r" in name for name in names)
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if other else csv.QUOTE_MINIMAL)
        writer.writerows(zip(range(len(names)), plan.order.tolist(), names, strict=True))
        return file.getvalue()
    for k, name in enumerate(names):
        if name != name.strip() or len(name.splitlines()) != 1 or (k == 0 and name[0] in "[{"):
            raise OrderError(
                f"the name {name!r} cannot stand on a line of its own; allowed: --out FILE.json or FILE.csv"
            )
    return "\n".join(names) + "\n"


@click.command(short_help="Where in one block of memory each buffer lies.", epilog=_ARENA_EXAMPLES)
@network_options(order=True, weights=False)
@click.option("--method", metavar="NAME", help=_METHOD_HELP)
@click.option("--alignment", type=int, metavar="BYTES", help="Offsets are multiples of it.  [default: as the profile]")
@click.option("--pads/--no-pads", default=None, help="Round sizes up to the alignment.  [default: as the profile]")
@click.option("--capacity", metavar="BYTES", help=_CAPACITY_HELP)
@click.option("--time-limit", type=float, metavar="SECONDS", help="For a search.  [default: none]")
@click.option("--max-nodes", type=int, help="Nodes for a search.  [default: 200000 of auto, any of exact]")
@click.option("--shared-objects", is_flag=True, help="Share whole buffers instead of placing them at offsets.")
@click.option("--top", type=click.IntRange(min=1), default=8, show_default=True, help="Buffers to list.")
@click.option("--out", metavar="FILE", help=_ARENA_OUT_HELP)
@json_option
def arena(
    net: str, method: str | None, alignment: int | None, pads: bool | None, capacity: str | None,
    time_limit: float | None, max_nodes: int | None, shared_objects: bool, top: int, out: str | None, as_json: bool,
    **how: Any,
) -> None:  # fmt: skip
    """Place every buffer of a network in one block of memory, and say how large it has to be.

    NET may also be a .csv file of buffers: id, lower, upper, size and, where wanted, alignment and offset (of a buffer
    that is fixed), with lives [lower, upper).

    The exit code is 0 where there is a placement, 1 where it is proven that there is none (within --capacity, or with
    the buffers that are fixed), 3 where none was found within --capacity and nothing is proven.
    """
    path = check_out(out, _ARENA_ENDINGS, net)
    if shared_objects:
        _refuse(_OF_OFFSETS, "is for offsets, and --shared-objects was given")
    order = how["order"]
    subject, asked = _subject(net, how)
    if shared_objects:
        with naming_order(order):
            _shared(subject, method or "auto", asked, top, as_json)
        return
    from cnnlive.plan.arena import plan_arena
    from cnnlive.report.arena import arena_data, arena_report

    limits: dict[str, Any] = {} if max_nodes is None else {"max_nodes": max_nodes}
    with naming_order(order):
        plan = plan_arena(
            subject, method=method, alignment=alignment, pads=pads, capacity=capacity, time_limit=time_limit, **limits,
            **asked,
        )  # fmt: skip
    data = arena_data(plan)
    written = path is not None and plan.offsets is not None
    if path is not None and written:
        _write_arena(plan, data, path)
    if as_json:
        click.echo(json_text("arena", data))
    else:
        from cnnlive.report.text import open_console, show

        console = open_console()
        show(console, arena_report(plan, top=top, columns=console.width), widen=False)
        if path is not None:
            click.echo(f"\nwrote {path}" if written else f"\nnothing to write to {path}")
    click.get_current_context().exit(_CODES[plan.status])


def _refuse(names: Sequence[str], words: str) -> None:
    """Refuse options that were given and do not apply."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is click.core.ParameterSource.COMMANDLINE:
            raise AttributeValueError(f"{parameter.opts[-1]} {words}")


def _subject(net: str, how: dict[str, Any]) -> tuple[Lowered | Buffers, dict[str, Any]]:
    """Read or build what is to be placed, and what is asked of it."""
    if Path(net).suffix.lower() == ".csv":
        _refuse(_OF_NETWORKS, f"is for networks, and {net} is a list of buffers")
        from cnnlive.io.buffers import read_buffers

        return read_buffers(Path(net)), {}
    from cnnlive.lowered import lower

    graph = load_net(net, how.pop("train"), how.pop("settings"), how.pop("input_shapes"))
    how["dtype"] = read_dtype(how["dtype"], how.pop("dtypes"))
    how["order"] = read_order(how["order"])
    return lower(graph), how


def _shared(subject: Lowered | Buffers, method: str, asked: dict[str, Any], top: int, as_json: bool) -> None:
    """Print shared objects."""
    from cnnlive.plan.arena import plan_shared_objects
    from cnnlive.report.arena import shared_data, shared_report

    plan = plan_shared_objects(subject, method=method, **asked)
    if as_json:
        click.echo(json_text("shared-objects", shared_data(plan)))
        return
    from cnnlive.report.text import open_console, show

    console = open_console()
    show(console, shared_report(plan, top=top, columns=console.width), widen=False)


def _write_arena(plan: ArenaPlan, data: dict[str, Any], path: Path) -> None:
    """Write a placement, by the ending of the file."""
    if path.suffix.lower() == ".json":
        write_text(path, json_text("arena", data) + "\n")
        return
    from cnnlive.io.buffers import write_buffers

    file = io.StringIO()
    write_buffers(file, plan)
    write_text(path, file.getvalue())


@click.command(short_help="The same network as several runtimes hold it, side by side.", epilog=_COMPARE_EXAMPLES)
@lambda command: with_options(
    command,
    [
        click.argument("net"),
        click.option("--profiles", metavar="NAME,NAME,...", help="Some of `cnnlive profiles`.  [default: all]"),
        batch_option,
        *dtype_options(),
        order_option,
        click.option(
            "--arena/--no-arena", "with_arena", default=True, show_default=True, help="Place the buffers, too."
        ),
        *source_options("used"),
    ],
)
@click.option("--out", metavar="FILE", help=_COMPARE_OUT_HELP)
@json_option
def compare(
    net: str, profiles: str | None, batch: int, dtype: str | None, dtypes: Sequence[str], order: str | None,
    with_arena: bool, out: str | None, as_json: bool, train: bool | None, settings: Sequence[str],
    input_shapes: Sequence[str],
) -> None:  # fmt: skip
    """Plan the same network under the rules of several runtimes, and say which rules make the difference.

    From the profile `ideal` on, the rules of a profile are switched on in groups, one after the other; what each group
    changes adds up to the whole difference. A runtime that cannot take the network as asked is listed with the reason.
    """
    path = check_out(out, _ARENA_ENDINGS, net)
    names = None
    if profiles is not None:
        names = list(dict.fromkeys(name.strip() for name in profiles.split(",") if name.strip()))
        if not names:
            raise AttributeValueError(f"--profiles {profiles!r} names none; allowed: {', '.join(PROFILES)}")
        for name in names:
            profile_of(name)
    steps = read_order(order)
    graph = load_net(net, train, settings, input_shapes)
    from cnnlive.plan.compare import compare_profiles

    with naming_order(order):
        found = compare_profiles(
            graph, batch=batch, dtype=read_dtype(dtype, dtypes), profiles=names, order=steps, arena=with_arena
        )
    if path is not None:
        write_text(path, _compare_text(found, path))
    if as_json:
        click.echo(json_text("compare", found.to_dict()))
        return
    from cnnlive.report.compare import compare_report
    from cnnlive.report.text import open_console, show

    console = open_console()
    show(console, compare_report(found, columns=console.width))
    if path is not None:
        click.echo(f"\nwrote {path}")


def _compare_text(found: Comparison, path: Path) -> str:
    """Return what a file of a comparison holds, by its ending."""
    if path.suffix.lower() == ".json":
        return json_text("compare", found.to_dict()) + "\n"
    from cnnlive.plan.compare import STEPS

    file = io.StringIO()
    rows = found.to_dict()["profiles"]
    kept = [key for key in rows[0] if key != "steps"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*kept, *("step_" + name.replace(" ", "_") for name in STEPS)])
    for row in rows:
        steps = {step["name"]: step["nbytes"] for step in row["steps"]}
        changes = [steps.get(name, 0) if row["activation_peak_bytes"] is not None else None for name in STEPS]
        writer.writerow([*(row[key] for key in kept), *changes])
    return file.getvalue()
