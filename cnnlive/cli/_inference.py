"""``cnnlive inference`` and ``cnnlive ops``."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from cnnlive.cli._answer import Screen, answer, output_options
from cnnlive.cli._help import command, under
from cnnlive.cli._nets import load_net, plan_net
from cnnlive.cli._options import network_options
from cnnlive.cli._progress import progress_bar

__all__ = ["inference", "ops"]

_report = under("Report")


@command(
    "Memory of one inference, exact, and the rule of thumb.",
    examples=[
        "inference resnet50 --batch 8",
        "inference mobilenet_v2 --dtype int8 --fuse",
        "inference model.onnx --profile torch_fx --json",
    ],
)
@network_options()
@_report("--timeline", is_flag=True, help="List the bytes alive at every step.")
@output_options()
def inference(
    net: str, timeline: bool, train: bool | None, settings: Sequence[str], input_shapes: Sequence[str], **how: Any
) -> None:
    """Memory of one inference: weights, activations, what is alive at the peak, and the rule of thumb.

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx or .tflite file, a .json file that Graph.to_json wrote, or
    a PyTorch model: torchvision:NAME, timm:NAME or package.module:factory.
    """
    with progress_bar(f"inference of {net}"):
        graph = load_net(net, train, settings, input_shapes)
        plan = plan_net(graph, **how)
        from cnnlive.report.reasons import inference_rule, reasons

        rule = inference_rule(graph, plan)

    def data() -> dict[str, Any]:
        why = [reason._asdict() for reason in reasons(plan, rule)]
        thumb = {**rule.to_dict(), "difference": plan.peak_bytes - rule.nbytes, "reasons": why}
        return {**plan.to_dict(), "rule_of_thumb": thumb}

    def report(screen: Screen) -> None:
        from cnnlive.report.text import inference_report, timeline_table

        screen.show(inference_report(plan, rule, columns=screen.columns, ascii_only=screen.ascii_only))
        if timeline:
            screen.show(timeline_table(plan, ascii_only=screen.ascii_only))

    answer("inference", data, report)


@command(
    "Per-op table: shapes, parameters, MACs, bytes.",
    examples=["ops vgg16", "ops model.onnx --sort live --limit 10"],
)
@network_options()
@_report(
    "--sort",
    type=click.Choice(["bytes", "live", "macs", "params"]),
    help="Largest first.  [default: in order]",
)
@_report("--limit", type=click.IntRange(min=1), help="Rows to print.")
@output_options()
def ops(
    net: str, sort: str | None, limit: int | None, train: bool | None, settings: Sequence[str],
    input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Per-op table: output shape, parameters, multiply-accumulates, bytes written and alive.

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx or .tflite file, a .json file that Graph.to_json wrote, or
    a PyTorch model: torchvision:NAME, timm:NAME or package.module:factory.
    """
    with progress_bar(f"ops of {net}"):
        plan = plan_net(load_net(net, train, settings, input_shapes), **how)
        rows = list(plan.ops)
    if sort:
        column = {"bytes": "output_bytes", "live": "live_bytes", "macs": "macs", "params": "parameters"}[sort]
        rows.sort(key=lambda row: -getattr(row, column))
    rows = rows[:limit]

    def data() -> dict[str, Any]:
        kept = ("network", "batch", "dtype", "weight_dtype", "profile", "inplace", "fuse")
        whole = plan.to_dict()
        return {**{k: whole[k] for k in kept}, "ops": [row._asdict() for row in rows]}

    def report(screen: Screen) -> None:
        from cnnlive.report.text import ops_table

        screen.show(ops_table(rows, plan, narrow=screen.narrow), widen=True)

    answer("ops", data, report)
