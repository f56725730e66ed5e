"""``cnnlive inference`` and ``cnnlive ops``."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from cnnlive.cli._nets import load_net, plan_net
from cnnlive.cli._options import NARROW, json_option, network_options, print_json

__all__ = ["inference", "ops"]

_INFERENCE_EXAMPLES: Final = """\b
Examples:
  cnnlive inference resnet50 --batch 8
  cnnlive inference mobilenet_v2 --dtype int8 --fuse
  cnnlive inference model.onnx --profile torch_fx --json"""
_OPS_EXAMPLES: Final = """\b
Examples:
  cnnlive ops vgg16
  cnnlive ops model.onnx --sort live --limit 10"""


@click.command(short_help="Memory of one inference, exact, and the rule of thumb.", epilog=_INFERENCE_EXAMPLES)
@network_options()
@click.option("--timeline", is_flag=True, help="List the bytes alive at every step.")
@json_option
def inference(
    net: str, timeline: bool, as_json: bool, train: bool | None, settings: Sequence[str],
    input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Memory of one inference: weights, activations, what is alive at the peak, and the rule of thumb.

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx or .tflite file, a .json file that Graph.to_json wrote, or
    a PyTorch model: torchvision:NAME, timm:NAME or package.module:factory.
    """
    graph = load_net(net, train, settings, input_shapes)
    plan = plan_net(graph, **how)
    from cnnlive.report.reasons import inference_rule, reasons

    rule = inference_rule(graph, plan)
    if as_json:
        print_json(
            "inference",
            {
                **plan.to_dict(),
                "rule_of_thumb": {
                    **rule.to_dict(),
                    "difference": plan.peak_bytes - rule.nbytes,
                    "reasons": [reason._asdict() for reason in reasons(plan, rule)],
                },
            },
        )
        return
    from cnnlive.report.text import inference_report, is_ascii, open_console, show, timeline_table

    console = open_console()
    plain = is_ascii(console)
    show(console, inference_report(plan, rule, columns=console.width, ascii_only=plain), widen=False)
    if timeline:
        click.echo()
        show(console, timeline_table(plan, ascii_only=plain))


@click.command(short_help="Per-op table: shapes, parameters, MACs, bytes.", epilog=_OPS_EXAMPLES)
@network_options()
@click.option(
    "--sort",
    type=click.Choice(["bytes", "live", "macs", "params"]),
    help="Largest first.  [default: in order]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Rows to print.")
@json_option
def ops(
    net: str, sort: str | None, limit: int | None, as_json: bool, train: bool | None, settings: Sequence[str],
    input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Per-op table: output shape, parameters, multiply-accumulates, bytes written and alive.

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx or .tflite file, a .json file that Graph.to_json wrote, or
    a PyTorch model: torchvision:NAME, timm:NAME or package.module:factory.
    """
    plan = plan_net(load_net(net, train, settings, input_shapes), **how)
    rows = list(plan.ops)
    if sort:
        column = {"bytes": "output_bytes", "live": "live_bytes", "macs": "macs", "params": "parameters"}[sort]
        rows.sort(key=lambda row: -getattr(row, column))
    rows = rows[:limit]
    if as_json:
        kept = ("network", "batch", "dtype", "weight_dtype", "profile", "inplace", "fuse")
        data = plan.to_dict()
        print_json("ops", {**{k: data[k] for k in kept}, "ops": [row._asdict() for row in rows]})
        return
    from cnnlive.report.text import open_console, ops_table, show

    console = open_console()
    show(console, ops_table(rows, plan, narrow=console.is_terminal and console.width < NARROW))
