"""``cnnlive order``: in which order the ops run."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from cnnlive.cli._files import check_out, write_text
from cnnlive.cli._nets import ORDER_HEAD, load_net
from cnnlive.cli._options import (
    json_option,
    json_text,
    network_options,
    read_dtype,
)
from cnnlive.errors import OrderError

if TYPE_CHECKING:
    from pathlib import Path

    from cnnlive.plan.order import OrderPlan

__all__ = ["order"]

_ORDER_EXAMPLES: Final = """\b
Examples:
  cnnlive order randwire
  cnnlive order model.onnx --dtype int8 --fuse --out order.txt
  cnnlive inference model.onnx --dtype int8 --fuse --order order.txt"""
_ORDER_ENDINGS: Final = (".json", ".csv", ".txt")
_ORDER_OUT_HELP: Final = (
    "Write the order: .txt (names, one a line, which --order of other commands reads), .csv (step, op, name) or .json."
)


@click.command(short_help="The execution order of least peak, with proof.", epilog=_ORDER_EXAMPLES)
@network_options(order=False, weights=False)
@click.option("--max-states", type=int, default=1_000_000, show_default=True, help="Sets of ops the search may keep.")
@click.option("--top", type=click.IntRange(min=1), default=4, show_default=True, help="Rows of each table.")
@click.option("--timeline", is_flag=True, help="List the bytes alive at every step.")
@click.option("--out", metavar="FILE", help=_ORDER_OUT_HELP)
@json_option
def order(
    net: str, batch: int, dtype: str | None, dtypes: Sequence[str], profile: str, fuse: bool | None, inplace: Any,
    max_states: int, top: int, timeline: bool, out: str | None, as_json: bool, train: bool | None,
    settings: Sequence[str], input_shapes: Sequence[str],
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
    plan = plan_order(network, max_states=max_states, **how)
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
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(ORDER_HEAD.split(","))
        writer.writerows(zip(range(len(names)), plan.order.tolist(), names, strict=True))
        return file.getvalue()
    for k, name in enumerate(names):
        if name != name.strip() or len(name.splitlines()) != 1 or (k == 0 and name[0] in "[{"):
            raise OrderError(
                f"the name {name!r} cannot stand on a line of its own; allowed: --out FILE.json or FILE.csv"
            )
    return "\n".join(names) + "\n"
