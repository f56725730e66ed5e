"""``cnnlive training`` and ``cnnlive fit``."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cnnlive.cli._group import FILES
from cnnlive.cli._nets import load_net
from cnnlive.cli._options import (
    NARROW,
    inference_options,
    json_option,
    print_json,
    read_dtype,
    read_pairs,
    set_aside,
    source_options,
    training_options,
    with_options,
)
from cnnlive.errors import AttributeValueError

if TYPE_CHECKING:
    from cnnlive.plan.allocator import CudaAllocator
    from cnnlive.plan.batchsize import Fit

__all__ = ["as_trained", "fit", "training", "training_arguments"]

_TRAINING_EXAMPLES: Final = """\b
Examples:
  cnnlive training vgg16 --batch 32 --optimizer adam
  cnnlive training resnet50 --batch 64 --optimizer sgd --momentum 0.9 --precision autocast
  cnnlive training timm:convnext_tiny --batch 64 --optimizer adamw --allocator --context 1.8GiB
  cnnlive training my_package.nets:build --input-shape 1,1,64,64 --loss mse --ops --top 10"""
_FIT_EXAMPLES: Final = """\b
Examples:
  cnnlive fit resnet50 --budget 24GiB --optimizer sgd --momentum 0.9 --allocator --context 1.8GiB
  cnnlive fit vgg16 --budget 16GiB --batch 64 --check && python train.py
  cnnlive fit resnet50 --budget 24GiB --optimizer adam --checkpoints
  cnnlive fit mobilenet_v2 --budget 64MiB --inference --dtype float16"""
_CHECKPOINTS_HELP: Final = (
    "Also the largest batches with recomputation that costs up to 10, 20 and 30 % of a step (see `cnnlive checkpoint`)."
)
_OVERHEADS: Final = (0.1, 0.2, 0.3)
# Arguments of read_optimizer itself, which no option of an optimizer may replace.
_NO_OPTIONS: Final = ("optimizer", "device", "implementation")


def training_arguments(
    *, optimizer: str, momentum: float | None, weight_decay: float | None, nesterov: bool, amsgrad: bool,
    optimizer_options: Sequence[str], implementation: str | None, device: str, frozen_layers: Sequence[str],
    allocator: bool, cuda_conf: str | None, **others: Any,
) -> dict[str, Any]:  # fmt: skip
    """Turn the options of a training step into the arguments of plan_training."""
    from cnnlive.plan.optimizers import read_optimizer

    given = read_pairs(optimizer_options, "-O", "centered=true")
    named = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "amsgrad": amsgrad}
    given.update({name: value for name, value in named.items() if value is not None and value is not False})
    for name in _NO_OPTIONS:
        if name in given:
            raise AttributeValueError(f"-O {name}; the option for that is --{name}")
    rule = read_optimizer(optimizer, device=device, implementation=implementation, **given)
    return {
        "optimizer": rule, "device": device, "frozen_layers": frozen_layers,
        "allocator": _allocator(device, allocator, cuda_conf), **others,
    }  # fmt: skip


def _allocator(device: str, asked: bool, conf: str | None) -> CudaAllocator | None:
    if not asked and conf is None:
        return None
    if device == "cpu":
        raise AttributeValueError("--allocator and --cuda-conf are CUDA's, and --device is cpu")
    from cnnlive.plan.allocator import CudaAllocator

    return CudaAllocator.from_conf(conf or "")


@click.command(short_help="Memory of one training step, exact, and the rule of thumb.", epilog=_TRAINING_EXAMPLES)
@lambda command: with_options(
    command,
    [
        click.argument("net"),
        click.option("--batch", default=1, show_default=True, help="Images per forward pass."),
        *training_options(),
        *set_aside,
        *source_options("trained"),
    ],
)
@click.option("--ops", "with_ops", is_flag=True, help="List parameters, gradients and what is saved by op.")
@click.option("--top", type=click.IntRange(min=1), help="Tensors to list at the peak (default 6), and ops of --ops.")
@click.option("--timeline", is_flag=True, help="List the bytes alive at every step.")
@json_option
def training(
    net: str, batch: int, context: str, workspace: str, with_ops: bool, top: int | None, timeline: bool,
    as_json: bool, train: bool | None, settings: Sequence[str], input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Memory of one training step in eager PyTorch: forward, loss, backward, optimizer step.

    NET is as for `cnnlive inference`. Networks of the zoo and PyTorch models are taken as they train, auxiliary heads
    and their losses among it; --eval takes them as they are used. A file is taken as it is.
    """
    from cnnlive.plan.training import plan_training
    from cnnlive.units import parse_bytes

    arguments = training_arguments(**how)
    aside = parse_bytes(context), parse_bytes(workspace)
    graph = load_net(net, as_trained(net, train), settings, input_shapes)
    plan = plan_training(graph, batch=batch, **arguments)
    from cnnlive.report.reasons import training_reasons, training_rules

    rules = training_rules(plan)
    if as_json:
        data = plan.to_dict()
        print_json(
            "training",
            {
                "network": data.pop("name"),
                **data,
                "context_bytes": aside[0],
                "workspace_bytes": aside[1],
                "live_at_peak": [t._asdict() for t in plan.live_at_peak],
                "rules_of_thumb": [
                    {
                        **rule.to_dict(),
                        "difference": plan.peak_bytes - rule.nbytes,
                        "reasons": [reason._asdict() for reason in training_reasons(plan, rule)],
                    }
                    for rule in rules
                ],
                "timeline": [
                    {"phase": phase, "op": op, "record": record, "nbytes": nbytes}
                    for (phase, op, record), nbytes in zip(plan.steps, plan.timeline.tolist(), strict=True)
                ],
                "ops": [row._asdict() for row in plan.ops],
            },
        )
        return
    from cnnlive.report.text import is_ascii, open_console, show
    from cnnlive.report.training import training_ops_table, training_report, training_timeline_table

    console = open_console()
    plain = is_ascii(console)
    report = training_report(
        plan, rules, context_bytes=aside[0], workspace_bytes=aside[1], live=top or 6, columns=console.width,
        ascii_only=plain,
    )  # fmt: skip
    show(console, report, widen=False)
    if with_ops:
        click.echo()
        show(console, training_ops_table(plan, top=top, narrow=console.is_terminal and console.width < NARROW))
    if timeline:
        click.echo()
        show(console, training_timeline_table(plan, ascii_only=plain))


def as_trained(net: str, train: bool | None) -> bool | None:
    """Take a network as it trains where its source can tell, unless the options say otherwise."""
    return True if train is None and Path(net).suffix.lower() not in FILES else train


@click.command(short_help="Whether a network fits a budget, and the largest batch.", epilog=_FIT_EXAMPLES)
@lambda command: with_options(
    command,
    [
        click.argument("net"),
        click.option("--budget", required=True, metavar="BYTES", help="Memory of the device, as 24GiB."),
        click.option("--batch", type=int, help="Ask for this batch.  [default: find the largest]"),
        click.option("--multiple-of", type=int, default=1, show_default=True, help="Only batches that are multiples."),
        click.option("--inference", "infer", is_flag=True, help="Of an inference; the default is a training step."),
        click.option("--checkpoints", is_flag=True, help=_CHECKPOINTS_HELP),
        click.option("--check", is_flag=True, help="Exit code 1 if it does not fit."),
        *set_aside,
        *training_options(),
        *inference_options(),
        *source_options("trained, with --inference used"),
    ],
)
@json_option
def fit(
    net: str, budget: str, batch: int | None, multiple_of: int, infer: bool, checkpoints: bool, check: bool,
    context: str, workspace: str, as_json: bool, train: bool | None, settings: Sequence[str],
    input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Whether a training step (or an inference) fits a budget, and the largest batch that does.

    NET and all options are as for `cnnlive training`; with --inference as for `cnnlive inference`. Not to fit is an
    answer: the exit code is 0, or 1 with --check.
    """
    from cnnlive.lowered import lower
    from cnnlive.plan.batchsize import fits, largest_batch

    arguments = _fit_arguments(infer, how)
    if checkpoints:
        _check_checkpoints(net, budget, batch, infer, arguments)
    arguments.update(mode="inference" if infer else "training", context_bytes=context, workspace_bytes=workspace)
    graph = lower(load_net(net, train if infer else as_trained(net, train), settings, input_shapes))
    largest = None
    if batch is not None:
        batches = [batch]
    else:
        largest = largest_batch(graph, budget=budget, multiple_of=multiple_of, at_most=1 << 20, **arguments)
        batches = [b for b in (largest, largest + multiple_of) if 0 < b <= 1 << 20]
    found = [fits(graph, device=budget, batch=b, **arguments) for b in batches]
    good = bool(found[0])
    more = None
    if checkpoints:
        from cnnlive.cli._checkpoint import progress_bar

        more = []
        with progress_bar("largest batches", quiet=False) as progress:
            for k, share in enumerate(_OVERHEADS):
                if progress is not None:
                    progress(k / len(_OVERHEADS), f"largest batch at {share:.0%} more time")
                how_many = largest_batch(
                    graph, budget=budget, multiple_of=multiple_of, at_most=1 << 20, checkpoints=True,
                    max_overhead=share, **arguments,
                )  # fmt: skip
                more.append((share, how_many))
    if as_json:
        print_json("fit", _fit_data(found, "inference" if infer else "training", largest, more))
    else:
        from cnnlive.report.text import open_console, show
        from cnnlive.report.training import fit_report

        words = f"batch {batch} {'fits' if good else 'does not fit'}"
        if largest is not None:
            words = f"largest batch that fits: {largest}" if largest else f"not even batch {multiple_of} fits"
        console = open_console()
        show(console, fit_report(found, words), widen=False)
        if more is not None:
            from cnnlive.report.checkpoint import batches_table

            click.echo()
            show(console, batches_table(largest or 0, more), widen=False)
    if check and not good:
        click.get_current_context().exit(1)


def _check_checkpoints(net: str, budget: str, batch: int | None, infer: bool, arguments: dict[str, Any]) -> None:
    """Refuse what has no meaning with ``--checkpoints``."""
    if infer:
        raise AttributeValueError("--checkpoints is for a training step, and --inference was given")
    if batch is not None:
        words = f"cnnlive checkpoint {net} --batch {batch} --budget {budget}"
        raise AttributeValueError(f"--checkpoints asks for the largest batch, and --batch was given; try: {words}")
    if arguments["allocator"] is not None:
        raise AttributeValueError("--checkpoints plans tensors, not what an allocator reserves; leave --allocator out")


def _fit_arguments(infer: bool, how: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the mode asked for; one of the other mode is an error."""
    context = click.get_current_context()
    other = {p.name for option in (training_options() if infer else inference_options())
             for p in getattr(option(lambda: None), "__click_params__", [])}  # fmt: skip
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in other and source is click.core.ParameterSource.COMMANDLINE:
            words = "a training step, and --inference was given" if infer else "inference; add --inference"
            raise AttributeValueError(f"{parameter.opts[-1]} is for {words}")
    mine = {name: value for name, value in how.items() if name not in other}
    if not infer:
        arguments = training_arguments(**mine)
        arguments["flavour"] = arguments.pop("device")
        return arguments
    mine["dtype"] = read_dtype(mine["dtype"], mine.pop("dtypes"))
    return mine


def _fit_data(
    found: Sequence[Fit], mode: str, largest: int | None, more: Sequence[tuple[float, int]] | None
) -> dict[str, Any]:
    first = found[0]
    rows = []
    for answer in found:
        data = answer.to_dict()
        plan = data.pop("plan")
        plan = {"network": plan.pop("name"), **plan} if "name" in plan else plan
        rows.append({"batch": answer.plan.batch, **data, "plan": plan})
    return {
        "network": first.plan.name, "mode": mode, "budget_bytes": first.budget_bytes,
        "context_bytes": first.context_bytes, "workspace_bytes": first.workspace_bytes, "largest_batch": largest,
        "fits": bool(first), "batches": rows,
        "checkpoints": [{"max_overhead": s, "largest_batch": b} for s, b in more or ()],
    }  # fmt: skip
