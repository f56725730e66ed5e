"""``cnnlive training`` and ``cnnlive fit``."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cnnlive.cli._answer import Screen, answer, output_options, wanted
from cnnlive.cli._complete import NETWORKS
from cnnlive.cli._help import command, under
from cnnlive.cli._nets import load_net
from cnnlive.cli._options import (
    inference_options,
    memory_options,
    net_argument,
    optimizer_options,
    option_names,
    read_dtype,
    read_pairs,
    refuse,
    source_options,
    step_options,
    training_options,
    with_options,
)
from cnnlive.cli._progress import progress_bar
from cnnlive.errors import AttributeValueError

if TYPE_CHECKING:
    from cnnlive.lowered import Lowered
    from cnnlive.plan.allocator import CudaAllocator
    from cnnlive.plan.batchsize import Fit

__all__ = ["as_trained", "fit", "training", "training_arguments"]

_CHECKPOINTS_HELP: Final = (
    "Also the largest batches with recomputation that costs up to 10, 20 and 30 % of a step (see `cnnlive "
    "checkpoint`).  [default: yes, for a training step of a network of at most 250 ops; no with --check, --batch, "
    "--allocator]"
)
#: Ops of a network for which plans are so quick that batches with checkpoints are found unasked.
SMALL: Final = 250
_OVERHEADS: Final = (0.1, 0.2, 0.3)
_AT_MOST: Final = 1 << 20
_MODULES: Final = 10  # in JSON
_question, _report = under("Question"), under("Report")
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


@command(
    "Memory of one training step, exact, and the rule of thumb.",
    examples=[
        "training vgg16 --batch 32 --optimizer adam",
        "training resnet50 --batch 64 --optimizer sgd --momentum 0.9 --precision autocast",
        "training timm:convnext_tiny --batch 64 --optimizer adamw --allocator --context 1.8GiB",
        "training my_package.nets:build --input-shape 1,1,64,64 --loss mse --ops --top 10",
    ],
)
@lambda command: with_options(
    command,
    [
        net_argument,
        under("Step")("--batch", default=1, show_default=True, help="Images per forward pass."),
        *step_options(),
        *optimizer_options(),
        *memory_options(),
        *source_options("trained"),
    ],
)
@_report("--ops", "with_ops", is_flag=True, help="List parameters, gradients and what is saved by op.")
@_report("--top", type=click.IntRange(min=1), help="Tensors to list at the peak (default 6), and ops of --ops.")
@_report("--timeline", is_flag=True, help="List the bytes alive at every step.")
@output_options()
def training(
    net: str, batch: int, context: str, workspace: str, with_ops: bool, top: int | None, timeline: bool,
    train: bool | None, settings: Sequence[str], input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Memory of one training step in eager PyTorch: forward, loss, backward, optimizer step.

    NET is as for `cnnlive inference`. Networks of the zoo and PyTorch models are taken as they train, auxiliary heads
    and their losses among it; --eval takes them as they are used. A file is taken as it is.
    """
    with progress_bar(f"training step of {net}"):
        from cnnlive.plan.training import plan_training
        from cnnlive.units import parse_bytes

        arguments = training_arguments(**how)
        aside = parse_bytes(context), parse_bytes(workspace)
        graph = load_net(net, as_trained(net, train), settings, input_shapes)
        plan = plan_training(graph, batch=batch, **arguments)
        from cnnlive.report.reasons import training_reasons, training_rules

        rules = training_rules(plan)

    def data() -> dict[str, Any]:
        whole = plan.to_dict()
        return {
            "network": whole.pop("name"),
            **whole,
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
        }

    def report(screen: Screen) -> None:
        from cnnlive.report.training import training_ops_table, training_report, training_timeline_table

        found = training_report(
            plan, rules, context_bytes=aside[0], workspace_bytes=aside[1], live=top or 6, columns=screen.columns,
            ascii_only=screen.ascii_only,
        )  # fmt: skip
        screen.show(found)
        if with_ops:
            screen.show(training_ops_table(plan, top=top, narrow=screen.narrow), widen=True)
        if timeline:
            screen.show(training_timeline_table(plan, ascii_only=screen.ascii_only))

    answer("training", data, report)


def as_trained(net: str, train: bool | None) -> bool | None:
    """Take a network as it trains where its source can tell, unless the options say otherwise."""
    return True if train is None and Path(net).suffix.lower() not in NETWORKS else train


@command(
    "The largest batch within a budget, and what dominates there.",
    examples=[
        "fit resnet50 --budget 24GiB --optimizer adam",
        "fit resnet50 --budget 24GiB --optimizer sgd --momentum 0.9 --allocator --context 1.8GiB",
        "fit vgg16 --budget 16GiB --batch 64 --check --quiet && python train.py",
        "fit mobilenet_v2 --budget 64MiB --inference --dtype float16",
    ],
    exits={0: "answered, whether it fits or not; with --check: it fits", 1: "with --check: it does not fit"},
)
@lambda command: with_options(
    command,
    [
        net_argument,
        _question("--budget", required=True, metavar="BYTES", help="Memory of the device, as 24GiB."),
        _question("--batch", type=int, help="Ask for this batch.  [default: find the largest]"),
        _question("--multiple-of", type=int, default=1, show_default=True, help="Only batches that are multiples."),
        _question("--inference", "infer", is_flag=True, help="Of an inference; the default is a training step."),
        _question("--checkpoints/--no-checkpoints", default=None, help=_CHECKPOINTS_HELP),
        _question("--check", is_flag=True, help="Exit code 1 if it does not fit."),
        *step_options(),
        *optimizer_options(),
        *memory_options(),
        *inference_options(heading="With --inference"),
        *source_options("trained, with --inference used"),
    ],
)
@output_options()
def fit(
    net: str, budget: str, batch: int | None, multiple_of: int, infer: bool, checkpoints: bool | None, check: bool,
    context: str, workspace: str, train: bool | None, settings: Sequence[str], input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Find the largest batch that fits a budget, without and with checkpoints, and what dominates there.

    NET and all options are as for `cnnlive training`; with --inference as for `cnnlive inference`. With --batch it is
    asked whether that batch fits. Not to fit is an answer: the exit code is 0, or 1 with --check.
    """
    asked = wanted()
    if asked.quiet and not (check or asked.as_json):
        raise click.UsageError("--quiet leaves no answer here; allowed: with --check (an exit code) or --json")
    with progress_bar(f"what fits of {net}"):
        from cnnlive.lowered import lower
        from cnnlive.plan.batchsize import fits, largest_batch

        arguments = _fit_arguments(infer, how)
        if checkpoints:
            _check_checkpoints(net, budget, batch, infer, arguments)
        arguments.update(mode="inference" if infer else "training", context_bytes=context, workspace_bytes=workspace)
        graph = lower(load_net(net, train if infer else as_trained(net, train), settings, input_shapes))
        largest = None
        batches = [batch] if batch is not None else []
        if batch is None:
            largest = largest_batch(graph, budget=budget, multiple_of=multiple_of, at_most=_AT_MOST, **arguments)
            batches = [b for b in (largest, largest + multiple_of) if 0 < b <= _AT_MOST]
        found = [fits(graph, device=budget, batch=b, **arguments) for b in batches]
        # Where the answer is an exit code, nobody looks at more.
        has_more = not (check or infer or batch is not None or arguments.get("allocator") is not None)
        more = None
        if checkpoints or (checkpoints is None and has_more and graph.n_ops <= SMALL):
            more = _with_checkpoints(graph, budget, multiple_of, arguments)
    hint = checkpoints is None and has_more and more is None

    def data() -> dict[str, Any]:
        return _fit_data(found, "inference" if infer else "training", largest, more)

    def report(screen: Screen) -> None:
        from cnnlive.report.checkpoint import batches_table
        from cnnlive.report.text import note
        from cnnlive.report.training import fit_report

        words = f"batch {batch} {'fits' if found[0] else 'does not fit'}"
        if largest is not None:
            words = f"largest batch that fits: {largest}" if largest else f"not even batch {multiple_of} fits"
        table = None if more is None else batches_table(largest or 0, more)
        screen.show(fit_report(found, words, table))
        if hint:
            what = f"Batches with checkpoints take a while for {graph.n_ops:,} ops: --checkpoints finds them."
            screen.show(note(what))

    answer("fit", data, report, code=int(check and not found[0]))


def _with_checkpoints(
    graph: Lowered, budget: str, multiple_of: int, arguments: dict[str, Any]
) -> list[tuple[float, int]]:
    """Find the largest batches for several overheads."""
    from cnnlive.plan.batchsize import largest_batch

    found = []
    with progress_bar("largest batches with checkpoints") as progress:
        for k, share in enumerate(_OVERHEADS):
            if progress is not None:
                progress(k / len(_OVERHEADS), f"largest batch at {share:.0%} more time")
            how_many = largest_batch(
                graph, budget=budget, multiple_of=multiple_of, at_most=_AT_MOST, checkpoints=True, max_overhead=share,
                **arguments,
            )  # fmt: skip
            found.append((share, how_many))
    return found


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
    other = option_names(training_options() if infer else inference_options())
    refuse(other, "is for " + ("a training step, and --inference was given" if infer else "inference; add --inference"))
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
    from cnnlive.report.training import dominant

    first = found[0]
    rows = []
    for one in found:
        data = one.to_dict()
        plan = data.pop("plan")
        plan = {"network": plan.pop("name"), **plan} if "name" in plan else plan
        most = dominant(one.plan)
        modules = [row._asdict() for row in most.modules[:_MODULES]]
        rows.append({"batch": one.plan.batch, **data, "dominates": most.name, "modules": modules, "plan": plan})
    return {
        "network": first.plan.name, "mode": mode, "budget_bytes": first.budget_bytes,
        "context_bytes": first.context_bytes, "workspace_bytes": first.workspace_bytes, "largest_batch": largest,
        "fits": bool(first), "batches": rows,
        "checkpoints": [{"max_overhead": s, "largest_batch": b} for s, b in more or ()],
    }  # fmt: skip
