"""``cnnlive order``, ``arena`` and ``compare``: in which order ops run, where buffers lie, what runtimes make of it."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cnnlive.cli._answer import Screen, answer, output_options
from cnnlive.cli._complete import ARENA_METHODS, SHARED_METHODS, among, complete_profiles
from cnnlive.cli._help import command, under
from cnnlive.cli._nets import ORDER_HEAD, load_net, naming_order, read_order
from cnnlive.cli._options import (
    batch_option,
    dtype_options,
    net_argument,
    network_options,
    order_option,
    read_dtype,
    read_profiles,
    refuse,
    source_options,
    with_options,
)
from cnnlive.cli._progress import progress_bar
from cnnlive.errors import OrderError

if TYPE_CHECKING:
    from cnnlive.buffers import Buffers
    from cnnlive.lowered import Lowered
    from cnnlive.plan.arena import ArenaPlan, SharedObjectsPlan
    from cnnlive.plan.compare import Comparison
    from cnnlive.plan.order import OrderPlan

__all__ = ["arena", "compare", "order"]

_inference, _search, _arena, _report = under("Inference"), under("Search"), under("Arena"), under("Report")

_ORDER_ENDINGS: Final = (".json", ".csv", ".txt")
_ORDER_OUT_HELP: Final = (
    "Write the order: .txt (names, one a line, which --order of other commands reads), .csv (step, op, name) or .json."
)
_ARENA_ENDINGS: Final = (".csv", ".json")
_PROFILES_HELP: Final = "Some of `cnnlive profiles`.  [default: all]"
_COMPARE_OUT_HELP: Final = "Write it: .csv (a row per profile, a column per step) or .json."
_ARENA_OUT_HELP: Final = "Write the offsets: .csv (which `cnnlive arena` reads, with every buffer fixed) or .json."
_CAPACITY_HELP: Final = "Ask whether so much is enough, as 256KiB; exit code 0: it fits, 1: it does not, 3: not known."
_METHOD_HELP: Final = (
    "auto, exact, skyline, greedy_by_size, greedy_by_size_first_fit, greedy_by_breadth, or what a runtime does: tflm, "
    "tflite, xla, iree, onnxruntime; of --shared-objects: auto, greedy_by_size, greedy_by_size_simple, "
    "greedy_by_breadth, greedy_in_order, min_cost_flow.  [default: as the profile]"
)
_METHODS: Final = tuple(dict.fromkeys(ARENA_METHODS + SHARED_METHODS))
#: Exit codes of `cnnlive arena`, by the status of the plan.
_CODES: Final = {"optimal": 0, "feasible": 0, "infeasible": 1, "unknown": 3}
# What is asked of a network and not of a list of buffers.
_OF_NETWORKS: Final = ("batch", "dtype", "dtypes", "profile", "fuse", "inplace", "order", "train", "settings",
                       "input_shapes")  # fmt: skip
_OF_OFFSETS: Final = ("alignment", "pads", "capacity", "time_limit", "max_nodes", "out")


@command(
    "The execution order of least peak, with proof.",
    examples=[
        "order randwire",
        "order model.onnx --dtype int8 --fuse --out order.txt",
        "inference model.onnx --dtype int8 --fuse --order order.txt",
    ],
)
@network_options(order=False, weights=False)
@_search("--max-states", type=int, default=1_000_000, show_default=True, help="Sets of ops a search may keep.")
@_search("--time-limit", type=float, metavar="SECONDS", help="For the search.  [default: none]")
@_report("--top", type=click.IntRange(min=1), default=4, show_default=True, help="Rows of each table.")
@_report("--timeline", is_flag=True, help="List the bytes alive at every step.")
@output_options(_ORDER_ENDINGS, _ORDER_OUT_HELP)
def order(
    net: str, batch: int, dtype: str | None, dtypes: Sequence[str], profile: str, fuse: bool | None, inplace: Any,
    max_states: int, time_limit: float | None, top: int, timeline: bool, train: bool | None, settings: Sequence[str],
    input_shapes: Sequence[str],
) -> None:  # fmt: skip
    """Find the execution order with the least peak of activations, and prove that no order takes less.

    Where the search ends without a proof, the best order that it found is printed with the bound that holds for all.
    """
    with progress_bar(f"order of {net}"):
        graph = load_net(net, train, settings, input_shapes)
        from cnnlive.lowered import lower
        from cnnlive.plan.inference import plan_inference
        from cnnlive.plan.order import plan_order

        network = lower(graph)
        how: dict[str, Any] = {"batch": batch, "dtype": read_dtype(dtype, dtypes), "profile": profile, "fuse": fuse,
                               "inplace": inplace}  # fmt: skip
        plan = plan_order(network, max_states=max_states, time_limit=time_limit, **how)
        best = plan_inference(network, order=plan.order.tolist(), **how)
        program = plan_inference(network, **how)

    def data() -> dict[str, Any]:
        from cnnlive.report.order import order_data

        return order_data(plan, best, program)

    def report(screen: Screen) -> None:
        from cnnlive.report.order import order_report, order_timeline

        plain = screen.ascii_only
        screen.show(order_report(plan, best, program, top=top, columns=screen.columns, ascii_only=plain))
        if timeline:
            screen.show(order_timeline(best, ascii_only=plain))

    answer("order", data, report, text=lambda path: _order_text(plan, path))


def _order_text(plan: OrderPlan, path: Path) -> str:
    """Return what a file of an order holds that is not JSON, by its ending."""
    names = plan.op_names
    if path.suffix.lower() == ".csv":
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


@command(
    "Where in one block of memory each buffer lies.",
    examples=[
        "arena mobilenet_v2 --dtype int8 --fuse --order best",
        "arena model.tflite --profile tflm --capacity 256KiB --quiet && ./flash.sh",
        "arena model.onnx --out offsets.csv",
        "arena buffers.csv --capacity 1MiB --time-limit 10",
        "arena resnet50 --shared-objects",
    ],
    exits={
        0: "there is a placement",
        1: "proven: there is none within --capacity, or with the buffers that are fixed",
        3: "none was found within --capacity, and nothing is proven",
    },
)
@network_options(order=True, weights=False)
@_arena(
    "--method", metavar="NAME", help=_METHOD_HELP, shell_complete=among(*dict.fromkeys(ARENA_METHODS + SHARED_METHODS))
)
@_arena("--alignment", type=int, metavar="BYTES", help="Offsets are multiples of it.  [default: as the profile]")
@_arena("--pads/--no-pads", default=None, help="Round sizes up to the alignment.  [default: as the profile]")
@_arena("--capacity", metavar="BYTES", help=_CAPACITY_HELP)
@_arena("--shared-objects", is_flag=True, help="Share whole buffers instead of placing them at offsets.")
@_search("--time-limit", type=float, metavar="SECONDS", help="For a search.  [default: none]")
@_search("--max-nodes", type=int, help="Nodes for a search.  [default: 200000 of auto, any of exact]")
@_report("--top", type=click.IntRange(min=1), default=8, show_default=True, help="Buffers to list.")
@output_options(_ARENA_ENDINGS, _ARENA_OUT_HELP)
def arena(
    net: str, method: str | None, alignment: int | None, pads: bool | None, capacity: str | None,
    time_limit: float | None, max_nodes: int | None, shared_objects: bool, top: int, **how: Any,
) -> None:  # fmt: skip
    """Place every buffer of a network in one block of memory, and say how large it has to be.

    NET may also be a .csv file of buffers: id, lower, upper, size and, where wanted, alignment and offset (of a buffer
    that is fixed), with lives [lower, upper).
    """
    if shared_objects:
        refuse(_OF_OFFSETS, "is for offsets, and --shared-objects was given")
    order = how["order"]
    with progress_bar(f"arena of {net}"):
        subject, asked = _subject(net, how)
        from cnnlive.plan.arena import plan_arena, plan_shared_objects

        limits: dict[str, Any] = {} if max_nodes is None else {"max_nodes": max_nodes}
        with naming_order(order):
            if shared_objects:
                objects = plan_shared_objects(subject, method=method or "auto", **asked)
            else:
                plan = plan_arena(
                    subject, method=method, alignment=alignment, pads=pads, capacity=capacity, time_limit=time_limit,
                    **limits, **asked,
                )  # fmt: skip
    if shared_objects:
        _shared(objects, top)
        return

    def data() -> dict[str, Any]:
        from cnnlive.report.arena import arena_data

        return arena_data(plan)

    def report(screen: Screen) -> None:
        from cnnlive.report.arena import arena_report

        screen.show(arena_report(plan, top=top, columns=screen.columns))

    written = plan.offsets is not None
    answer("arena", data, report, text=lambda _path: _arena_text(plan), written=written, code=_CODES[plan.status])


def _subject(net: str, how: dict[str, Any]) -> tuple[Lowered | Buffers, dict[str, Any]]:
    """Read or build what is to be placed, and what is asked of it."""
    if Path(net).suffix.lower() == ".csv":
        refuse(_OF_NETWORKS, f"is for networks, and {net} is a list of buffers")
        from cnnlive.io.buffers import read_buffers

        return read_buffers(Path(net)), {}
    from cnnlive.lowered import lower

    graph = load_net(net, how.pop("train"), how.pop("settings"), how.pop("input_shapes"))
    how["dtype"] = read_dtype(how["dtype"], how.pop("dtypes"))
    how["order"] = read_order(how["order"])
    return lower(graph), how


def _shared(plan: SharedObjectsPlan, top: int) -> None:
    """Answer with shared objects."""

    def data() -> dict[str, Any]:
        from cnnlive.report.arena import shared_data

        return shared_data(plan)

    def report(screen: Screen) -> None:
        from cnnlive.report.arena import shared_report

        screen.show(shared_report(plan, top=top, columns=screen.columns))

    answer("shared-objects", data, report)


def _arena_text(plan: ArenaPlan) -> str:
    """Return what a CSV file of a placement holds."""
    from cnnlive.io.buffers import write_buffers

    file = io.StringIO()
    write_buffers(file, plan)
    return file.getvalue()


@command(
    "The same network as several runtimes hold it, side by side.",
    examples=[
        "compare mobilenet_v2 --dtype int8",
        "compare model.tflite --profiles tflm,tflite,tinyengine",
        "compare resnet50 --profiles ideal,torch,onnxruntime --no-arena --out resnet50.csv",
    ],
)
@lambda command: with_options(
    command,
    [
        net_argument,
        _inference("--profiles", metavar="NAME,NAME,...", help=_PROFILES_HELP, shell_complete=complete_profiles),
        batch_option("Inference"),
        *dtype_options("Inference"),
        order_option("Inference"),
        _inference("--arena/--no-arena", "with_arena", default=True, show_default=True, help="Place the buffers, too."),
        *source_options("used"),
    ],
)
@output_options(_ARENA_ENDINGS, _COMPARE_OUT_HELP)
def compare(
    net: str, profiles: str | None, batch: int, dtype: str | None, dtypes: Sequence[str], order: str | None,
    with_arena: bool, train: bool | None, settings: Sequence[str], input_shapes: Sequence[str],
) -> None:  # fmt: skip
    """Plan the same network under the rules of several runtimes, and say which rules make the difference.

    From the profile `ideal` on, the rules of a profile are switched on in groups, one after the other; what each group
    changes adds up to the whole difference. A runtime that cannot take the network as asked is listed with the reason.
    """
    names = read_profiles(profiles)
    steps = read_order(order)
    with progress_bar(f"{net} under several profiles"):
        graph = load_net(net, train, settings, input_shapes)
        from cnnlive.plan.compare import compare_profiles

        with naming_order(order):
            found = compare_profiles(
                graph, batch=batch, dtype=read_dtype(dtype, dtypes), profiles=names, order=steps, arena=with_arena
            )

    def report(screen: Screen) -> None:
        from cnnlive.report.compare import compare_report

        screen.show(compare_report(found, columns=screen.columns), widen=True)

    answer("compare", found.to_dict, report, text=lambda _path: _compare_text(found))


def _compare_text(found: Comparison) -> str:
    """Return what a CSV file of a comparison holds."""
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
