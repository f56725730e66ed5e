"""The command line. Everything slow is imported inside the commands, so that ``--help`` is quick."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

import cnnlive
from cnnlive.errors import AttributeValueError, CnnliveError, OrderError, ReadError, UnknownNetError, close_names
from cnnlive.profiles import INPLACE, PROFILES

if TYPE_CHECKING:
    from cnnlive.graph import Graph
    from cnnlive.plan.allocator import CudaAllocator
    from cnnlive.plan.batchsize import Fit
    from cnnlive.plan.inference import InferencePlan

__all__ = ["main"]

F = TypeVar("F", bound=Callable[..., Any])
NARROW: Final = 110
FILES: Final = (".onnx", ".json")


class _Main(click.Group):
    """A group whose every failure is one line on stderr and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of this file."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find a command; who names a network instead is told which commands take it."""
        name = args[0] if args else ""
        if name not in self.commands:
            from cnnlive import zoo

            if Path(name).suffix.lower() in FILES or ":" in name or name in zoo.names():
                raise click.UsageError(f"No such command {name!r}. Did you mean 'cnnlive inference {name}'?", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a reader who has seen enough, such as ``head``, ends it without a word."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The interpreter flushes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(141)
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.Abort:
            code = 130
        except click.ClickException as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                _complain(error.format_message())
            code = error.exit_code
        except CnnliveError as error:
            _complain(str(error))
            code = 2
        except OSError as error:
            _complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
            code = 2
        sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    click.echo(f"cnnlive: error: {' '.join(message.split())}", err=True)


@click.group(
    cls=_Main,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(cnnlive.__version__, prog_name="cnnlive")
def main() -> None:
    """Exact memory cost of convolutional neural networks.

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx file, a .json file that Graph.to_json wrote, or a PyTorch
    model: torchvision:NAME, timm:NAME or package.module:factory.
    """


# ---------------------------------------------------------------------------------- what the commands share


# The first line keeps click from joining the rest.
_INFERENCE_EXAMPLES: Final = """\b
Examples:
  cnnlive inference resnet50 --batch 8
  cnnlive inference mobilenet_v2 --dtype int8 --fuse
  cnnlive inference model.onnx --profile torch_fx --json"""
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
  cnnlive fit mobilenet_v2 --budget 64MiB --inference --dtype float16"""
_OPS_EXAMPLES: Final = """\b
Examples:
  cnnlive ops vgg16
  cnnlive ops model.onnx --sort live --limit 10"""
_TABLE_EXAMPLES: Final = """\b
Examples:
  cnnlive nasbench-memory nasbench201 --out nasbench201.parquet
  cnnlive nasbench-memory nats_size --set dataset=cifar100 --train-batch 256 --out nats_size.csv"""
_DTYPE_HELP: Final = "Type of all that is floating: float32, float16, bfloat16, int8, ...  [default: as built]"
_PROFILE_HELP: Final = "Rules of the runtime (see `cnnlive profiles`)."
_DTYPE_OF_HELP: Final = "Type of what one op or tensor writes, as conv1=float16; --dtype is for the rest; repeatable."
_FUSE_HELP: Final = "Convolution, batch normalisation and activation as one op.  [default: as the profile]"
_INPLACE_HELP: Final = "Ops in place: as the graph says, where possible, or none.  [default: as the profile]"
_ORDER_HELP: Final = "Execution order: op names, one a line; or JSON, as --json writes it.  [default: program order]"
_SET_HELP: Final = "Zoo: an argument of the network, as resolution=299 (see `cnnlive zoo NET`); repeatable."
_SPACE_HELP: Final = "An argument of the search space, as dataset=cifar100; repeatable."
_SHAPE_HELP: Final = (
    "ONNX: shape of an input that the file leaves open, as data=1,3,224,224; PyTorch: of the input, as 1,3,224,224. "
    "The batch is --batch; repeatable."
)
_TRAIN_HELP: Final = "Zoo, PyTorch: the graph as trained (with auxiliary heads) or as used."
_PRECISION_HELP: Final = (
    "float32, float16, bfloat16 or float64; autocast (to float16) or autocast_bfloat16: mixed precision with "
    "float32 parameters."
)
_LOSS_HELP: Final = (
    "cross_entropy (also of segmentation maps), mse, bce, bce_with_logits, l1, smooth_l1; output: what the network "
    "returns is the loss."
)
_CONF_HELP: Final = "Replay with options of PYTORCH_CUDA_ALLOC_CONF, as expandable_segments:True; means --allocator."
_CONTEXT_HELP: Final = "Set aside for the CUDA context and libraries, as 1.8GiB.  [default: nothing]"
_WORKSPACE_HELP: Final = "Set aside for workspaces of kernels, as 8519680 (cuBLAS).  [default: nothing]"
# Arguments of read_optimizer itself, which no option of an optimizer may replace.
_NO_OPTIONS: Final = ("optimizer", "device", "implementation")


def _options(command: F, options: Sequence[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def _source_options(train: str) -> list[Callable[[F], F]]:
    """Return the options that say how NET is built; `train` is the default of ``--train/--eval``, in words."""
    return [
        click.option("--train/--eval", default=None, help=f"{_TRAIN_HELP}  [default: {train}]"),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=_SET_HELP),
        click.option("--input-shape", "input_shapes", multiple=True, metavar="NAME=SIZES", help=_SHAPE_HELP),
    ]


def _inference_options(order: bool) -> list[Callable[[F], F]]:
    """Return the options that say how an inference runs."""
    options = [
        click.option("--dtype", metavar="TYPE", help=_DTYPE_HELP),
        click.option("--dtype-of", "dtypes", multiple=True, metavar="NAME=TYPE", help=_DTYPE_OF_HELP),
        click.option("--weight-dtype", metavar="TYPE", help="Type of the weights, where it differs from --dtype."),
        click.option("--profile", default="ideal", show_default=True, metavar="|".join(PROFILES), help=_PROFILE_HELP),
        click.option("--fuse/--no-fuse", default=None, help=_FUSE_HELP),
        click.option("--inplace", type=click.Choice(INPLACE), metavar="|".join(INPLACE), help=_INPLACE_HELP),
    ]
    return [*options, click.option("--order", metavar="FILE", help=_ORDER_HELP)] if order else options


def _training_options() -> list[Callable[[F], F]]:
    """Return the options that say how a training step runs."""
    return [
        click.option(
            "--optimizer", default="adam", show_default=True, metavar="NAME", help="One of `cnnlive optimizers`."
        ),
        click.option("--momentum", type=float, help="Of the optimizer."),
        click.option("--weight-decay", type=float, help="Of the optimizer."),
        click.option("--nesterov", is_flag=True, help="Of the optimizer."),
        click.option("--amsgrad", is_flag=True, help="Of the optimizer."),
        click.option(
            "-O", "--option", "optimizer_options", multiple=True, metavar="KEY=VALUE",
            help="Any option of the optimizer, as centered=true; repeatable.",
        ),
        click.option(
            "--implementation", metavar="single|foreach|fused",
            help="Of the optimizer.  [default: foreach on cuda, single on cpu]",
        ),
        click.option("--precision", show_default="as built", metavar="TYPE", help=_PRECISION_HELP),
        click.option(
            "--device", default="cuda", show_default=True, metavar="cuda|cpu",
            help="Whose kernels and defaults; none is needed.",
        ),
        click.option("--loss", default="cross_entropy", show_default=True, metavar="NAME", help=_LOSS_HELP),
        click.option("--aux-weight", type=float, help="Weight of the losses of auxiliary outputs; 0 leaves them out."),
        click.option("--autocast-loss", is_flag=True, help="The loss is computed inside autocast."),
        click.option(
            "--zero-grad", default="before_forward", show_default=True,
            metavar="before_forward|before_backward|after_step", help="Where optimizer.zero_grad() stands.",
        ),
        click.option(
            "--set-to-none/--no-set-to-none", default=True, show_default=True,
            help="Whether zero_grad frees gradients or fills them with zeros.",
        ),
        click.option(
            "--micro-batches", type=int, default=1, show_default=True,
            help="Passes of --batch images each whose gradients accumulate before a step.",
        ),
        click.option(
            "--freeze", "frozen_layers", multiple=True, metavar="PATTERN",
            help="Ops that are not trained: a name, a module path or a pattern with *; repeatable.",
        ),
        click.option("--input-gradients", is_flag=True, help="The network's inputs take gradients."),
        click.option("--first-step", is_flag=True, help="The step that creates the optimizer's state."),
        click.option("--late-step", is_flag=True, help="A step after RAdam has begun to rectify, its sixth or later."),
        click.option("--allocator", is_flag=True, help="Replay in a model of PyTorch's CUDA caching allocator."),
        click.option("--cuda-conf", metavar="TEXT", help=_CONF_HELP),
    ]  # fmt: skip


_set_aside = [
    click.option("--context", default="0", metavar="BYTES", help=_CONTEXT_HELP),
    click.option("--workspace", default="0", metavar="BYTES", help=_WORKSPACE_HELP),
]


def _network_options(command: F) -> F:
    """Add the argument NET and the options that say how it is built and run in inference."""
    batch = click.option("--batch", default=1, show_default=True, help="First dimension of every network input.")
    return _options(command, [click.argument("net"), batch, *_inference_options(order=True), *_source_options("used")])


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON (keys: docs/json.md).")


def _value(text: str) -> Any:
    """Read a number, a truth value, None or several of them; anything else is text."""
    import ast

    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    found = _pairs(pairs, "--set", "resolution=299")
    if "train" in found:
        raise AttributeValueError("--set train; the option for that is --train")
    return found


def _dtype(dtype: str | None, pairs: Sequence[str]) -> str | dict[str, str] | None:
    """Join ``--dtype`` and ``--dtype-of`` to what a planner takes."""
    found = {} if dtype is None else {"*": dtype}
    for pair in pairs:
        name, equals, value = pair.rpartition("=")
        if not equals or not name:
            raise AttributeValueError(f"--dtype-of {pair!r}; allowed: NAME=TYPE, such as conv1=float16")
        found[name] = value
    return found if pairs else dtype


def _pairs(pairs: Sequence[str], option: str, such: str) -> dict[str, Any]:
    """Read KEY=VALUE pairs; a value is a number, a truth value, None, several of them, or text."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise AttributeValueError(f"{option} {pair!r}; allowed: KEY=VALUE, such as {such}")
        found[key.strip().replace("-", "_")] = _value(value.strip())
    return found


def _sizes(texts: Sequence[str], net: str) -> tuple[int, ...] | None:
    """Read the one shape that a PyTorch model takes."""
    if not texts:
        return None
    try:
        (text,) = texts
        return tuple(int(d) for d in text.replace("x", ",").split(","))
    except ValueError:
        words = "allowed: one, its sizes with the batch, such as 1,3,224,224"
        raise AttributeValueError(f"--input-shape {' '.join(texts)!r} for {net}; {words}") from None


def _shapes(pairs: Sequence[str]) -> dict[str, tuple[int, ...]]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.rpartition("=")
        try:
            found[name] = tuple(int(d) for d in value.replace("x", ",").split(","))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise AttributeValueError(f"--input-shape {pair!r}; allowed: NAME=SIZES, such as data=1,3,224,224")
    return found


def _load(net: str, train: bool | None, settings: Sequence[str], input_shapes: Sequence[str]) -> Graph:
    """Read or build NET."""
    suffix = Path(net).suffix.lower()
    is_file = suffix in FILES
    if ":" in net and not is_file:
        if settings:
            raise AttributeValueError(f"--set is for networks of the zoo, and {net} is a PyTorch model")
        from cnnlive.io.sources import load_source

        try:
            return load_source(net, input_shape=_sizes(input_shapes, net), train=bool(train))
        except (CnnliveError, OSError):
            raise
        except Exception as error:  # code of the user's runs there, and may raise whatever it likes
            raise ReadError(f"{net}: {type(error).__name__}: {error}") from error
    if is_file and settings:
        raise AttributeValueError(f"--set is for networks of the zoo, and {net} is a file")
    if is_file and train is not None:
        raise AttributeValueError(f"--train and --eval are for the zoo and PyTorch, and {net} is a file")
    if input_shapes and suffix != ".onnx":
        raise AttributeValueError(f"--input-shape is for .onnx files and PyTorch, and {net} is neither")
    if suffix == ".onnx":
        from cnnlive.io.onnx import read_onnx

        try:
            return read_onnx(Path(net), input_shapes=_shapes(input_shapes) or None)
        except ReadError as error:
            # The reader speaks of its argument, the command line of its option.
            words = re.sub(r"input_shapes=\{'(.*?)': \(\.\.\.\)\}", r"--input-shape \1=...", str(error))
            raise ReadError(words.replace("input_shapes", "--input-shape")) from None
    if suffix == ".json":
        from cnnlive.io.json import read_json

        return read_json(Path(net))
    _check_name(net)
    from cnnlive import zoo

    values = _settings(settings)
    if "name" in values:  # the one word that load itself takes
        raise AttributeValueError(f"{net} takes no argument 'name'; allowed: {', '.join(zoo.arguments(net))}")
    return zoo.load(net, train=bool(train), **values)


def _check_name(net: str) -> None:
    from cnnlive import zoo

    known = zoo.names()
    if net in known:
        return
    if not net:
        raise UnknownNetError("NET is empty; allowed: a network of the zoo, an .onnx or .json file, torchvision:NAME")
    if Path(net).exists():
        raise ReadError(f"{net} is neither an .onnx nor a .json file, nor a network of the zoo")
    hint = close_names(net.lower(), known)
    raise UnknownNetError(
        f"unknown network {net!r}{hint} (`cnnlive zoo` lists all {len(known)}; files end in .onnx or .json; "
        "PyTorch models are torchvision:NAME, timm:NAME or package.module:factory)"
    )


def _read_order(path: str | None) -> Any:
    if path is None:
        return "program"
    allowed = "allowed: op names, one a line; a JSON list of them; or what --json printed"
    try:
        text = Path(path).read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise OrderError(f"{path} is not text; {allowed}") from None
    if not text:
        raise OrderError(f"{path} is empty; {allowed}")
    if text[0] not in "[{":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        order = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OrderError(f"{path} is not JSON: {error}") from None
    if isinstance(order, dict):
        order = order.get("order")
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise OrderError(f"{path} is no execution order; {allowed}")
    return order


def _plan(
    graph: Graph, *, batch: int, dtype: str | None, dtypes: Sequence[str], weight_dtype: str | None, profile: str,
    fuse: bool | None, inplace: Any, order: str | None,
) -> InferencePlan:  # fmt: skip
    from cnnlive.plan.inference import plan_inference

    steps = _read_order(order)
    try:
        return plan_inference(
            graph, batch=batch, dtype=_dtype(dtype, dtypes), weight_dtype=weight_dtype, order=steps, profile=profile,
            fuse=fuse, inplace=inplace,
        )  # fmt: skip
    except OrderError as error:
        raise OrderError(f"{order}: {error}") from None


def _training_arguments(
    *, optimizer: str, momentum: float | None, weight_decay: float | None, nesterov: bool, amsgrad: bool,
    optimizer_options: Sequence[str], implementation: str | None, device: str, frozen_layers: Sequence[str],
    allocator: bool, cuda_conf: str | None, **others: Any,
) -> dict[str, Any]:  # fmt: skip
    """Turn the options of a training step into the arguments of plan_training."""
    from cnnlive.plan.optimizers import read_optimizer

    given = _pairs(optimizer_options, "-O", "centered=true")
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


def _print_json(kind: str, data: Mapping[str, Any]) -> None:
    """Print an object, a key on each line, and of a list of objects each on a line of its own."""
    fields = []
    for key, value in {"format": f"cnnlive-{kind}-1", **data}.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        fields.append(f" {json.dumps(key)}: {text}")
    click.echo("{\n" + ",\n".join(fields) + "\n}")


# ---------------------------------------------------------------------------------- the commands


@main.command(short_help="Memory of one inference, exact, and the rule of thumb.", epilog=_INFERENCE_EXAMPLES)
@_network_options
@click.option("--timeline", is_flag=True, help="List the bytes alive at every step.")
@_json_option
def inference(
    net: str, timeline: bool, as_json: bool, train: bool | None, settings: Sequence[str],
    input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Memory of one inference: weights, activations, what is alive at the peak, and the rule of thumb.

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx file, or a .json file that Graph.to_json wrote.
    """
    graph = _load(net, train, settings, input_shapes)
    plan = _plan(graph, **how)
    from cnnlive.report.reasons import inference_rule, reasons

    rule = inference_rule(graph, plan)
    if as_json:
        _print_json(
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


@main.command(short_help="Memory of one training step, exact, and the rule of thumb.", epilog=_TRAINING_EXAMPLES)
@lambda command: _options(
    command,
    [
        click.argument("net"),
        click.option("--batch", default=1, show_default=True, help="Images per forward pass."),
        *_training_options(),
        *_set_aside,
        *_source_options("trained"),
    ],
)
@click.option("--ops", "with_ops", is_flag=True, help="List parameters, gradients and what is saved by op.")
@click.option("--top", type=click.IntRange(min=1), help="Tensors to list at the peak (default 6), and ops of --ops.")
@click.option("--timeline", is_flag=True, help="List the bytes alive at every step.")
@_json_option
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

    arguments = _training_arguments(**how)
    aside = parse_bytes(context), parse_bytes(workspace)
    graph = _load(net, _as_trained(net, train), settings, input_shapes)
    plan = plan_training(graph, batch=batch, **arguments)
    from cnnlive.report.reasons import training_reasons, training_rules

    rules = training_rules(plan)
    if as_json:
        data = plan.to_dict()
        _print_json(
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


def _as_trained(net: str, train: bool | None) -> bool | None:
    """Take a network as it trains where its source can tell, unless the options say otherwise."""
    return True if train is None and Path(net).suffix.lower() not in FILES else train


@main.command(short_help="Whether a network fits a budget, and the largest batch.", epilog=_FIT_EXAMPLES)
@lambda command: _options(
    command,
    [
        click.argument("net"),
        click.option("--budget", required=True, metavar="BYTES", help="Memory of the device, as 24GiB."),
        click.option("--batch", type=int, help="Ask for this batch.  [default: find the largest]"),
        click.option("--multiple-of", type=int, default=1, show_default=True, help="Only batches that are multiples."),
        click.option("--inference", "infer", is_flag=True, help="Of an inference; the default is a training step."),
        click.option("--check", is_flag=True, help="Exit code 1 if it does not fit."),
        *_set_aside,
        *_training_options(),
        *_inference_options(order=False),
        *_source_options("trained, with --inference used"),
    ],
)
@_json_option
def fit(
    net: str, budget: str, batch: int | None, multiple_of: int, infer: bool, check: bool, context: str, workspace: str,
    as_json: bool, train: bool | None, settings: Sequence[str], input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Whether a training step (or an inference) fits a budget, and the largest batch that does.

    NET and all options are as for `cnnlive training`; with --inference as for `cnnlive inference`. Not to fit is an
    answer: the exit code is 0, or 1 with --check.
    """
    from cnnlive.lowered import lower
    from cnnlive.plan.batchsize import fits, largest_batch

    arguments = _fit_arguments(infer, how)
    arguments.update(mode="inference" if infer else "training", context_bytes=context, workspace_bytes=workspace)
    graph = lower(_load(net, train if infer else _as_trained(net, train), settings, input_shapes))
    largest = None
    if batch is not None:
        batches = [batch]
    else:
        largest = largest_batch(graph, budget=budget, multiple_of=multiple_of, at_most=1 << 20, **arguments)
        batches = [b for b in (largest, largest + multiple_of) if 0 < b <= 1 << 20]
    found = [fits(graph, device=budget, batch=b, **arguments) for b in batches]
    good = bool(found[0])
    if as_json:
        _print_json("fit", _fit_data(found, "inference" if infer else "training", largest))
    else:
        from cnnlive.report.text import open_console, show
        from cnnlive.report.training import fit_report

        words = f"batch {batch} {'fits' if good else 'does not fit'}"
        if largest is not None:
            words = f"largest batch that fits: {largest}" if largest else f"not even batch {multiple_of} fits"
        show(open_console(), fit_report(found, words), widen=False)
    if check and not good:
        click.get_current_context().exit(1)


def _fit_arguments(infer: bool, how: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the mode asked for; one of the other mode is an error."""
    context = click.get_current_context()
    other = {p.name for option in (_training_options() if infer else _inference_options(order=False))
             for p in getattr(option(lambda: None), "__click_params__", [])}  # fmt: skip
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in other and source is click.core.ParameterSource.COMMANDLINE:
            words = "a training step, and --inference was given" if infer else "inference; add --inference"
            raise AttributeValueError(f"{parameter.opts[-1]} is for {words}")
    mine = {name: value for name, value in how.items() if name not in other}
    if not infer:
        arguments = _training_arguments(**mine)
        arguments["flavour"] = arguments.pop("device")
        return arguments
    mine["dtype"] = _dtype(mine["dtype"], mine.pop("dtypes"))
    return mine


def _fit_data(found: Sequence[Fit], mode: str, largest: int | None) -> dict[str, Any]:
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
    }  # fmt: skip


@main.command(short_help="Per-op table: shapes, parameters, MACs, bytes.", epilog=_OPS_EXAMPLES)
@_network_options
@click.option(
    "--sort",
    type=click.Choice(["bytes", "live", "macs", "params"]),
    help="Largest first.  [default: in order]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Rows to print.")
@_json_option
def ops(
    net: str, sort: str | None, limit: int | None, as_json: bool, train: bool | None, settings: Sequence[str],
    input_shapes: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Per-op table: output shape, parameters, multiply-accumulates, bytes written and alive.

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx file, or a .json file that Graph.to_json wrote.
    """
    plan = _plan(_load(net, train, settings, input_shapes), **how)
    rows = list(plan.ops)
    if sort:
        column = {"bytes": "output_bytes", "live": "live_bytes", "macs": "macs", "params": "parameters"}[sort]
        rows.sort(key=lambda row: -getattr(row, column))
    rows = rows[:limit]
    if as_json:
        kept = ("network", "batch", "dtype", "weight_dtype", "profile", "inplace", "fuse")
        data = plan.to_dict()
        _print_json("ops", {**{k: data[k] for k in kept}, "ops": [row._asdict() for row in rows]})
        return
    from cnnlive.report.text import open_console, ops_table, show

    console = open_console()
    show(console, ops_table(rows, plan, narrow=console.is_terminal and console.width < NARROW))


@main.command(short_help="Reference networks, or one of them.")
@click.argument("net", required=False)
@click.option("--family", help="Networks of one family only.")
@_json_option
def zoo(net: str | None, family: str | None, as_json: bool) -> None:
    """List reference networks by family; with NET its arguments and size."""
    from cnnlive import zoo as nets

    if net is not None:
        if family:
            raise click.UsageError("NET and --family exclude each other.")
        if Path(net).suffix.lower() in FILES:
            raise UnknownNetError(f"{net} is a file, not a network of the zoo; try: cnnlive inference {net}")
        _check_name(net)
        _zoo_net(net, as_json)
        return
    families = nets.families()
    if family is not None:
        nets.names(family)  # raises where there is no such family
        families = {family: families[family]}
    if as_json:
        _print_json("zoo", {"families": families})
        return
    from cnnlive.report.text import note, open_console, plain_table, show

    console = open_console()
    rows = [(f, str(len(members)), ", ".join(members)) for f, members in families.items()]
    show(console, plain_table([("family", "l"), ("nets", "r"), ("names", "l")], rows))
    show(console, note("`cnnlive zoo NET` says how large one is and what --set may set."))


def _zoo_net(net: str, as_json: bool) -> None:
    from cnnlive import zoo as nets

    arguments = nets.arguments(net)
    graph = nets.load(net)
    data = {
        "network": net,
        "family": nets.family_of(net),
        "arguments": arguments,
        "parameters": graph.n_parameters,
        "buffers": graph.n_buffers,
        "ops": len(graph),
        "inputs": [{"name": t.name, "shape": t.shape, "dtype": t.dtype} for t in graph.inputs],
        "outputs": [{"name": t.name, "shape": t.shape, "dtype": t.dtype} for t in graph.outputs],
    }
    if as_json:
        _print_json("net", data)
        return
    from cnnlive.report.text import open_console, plain_table, shape_text, show
    from cnnlive.units import format_count

    rows = [
        ("family", nets.family_of(net)),
        ("parameters", f"{graph.n_parameters:,} ({format_count(graph.n_parameters)})"),
        ("buffers", f"{graph.n_buffers:,}"),
        ("ops", f"{len(graph):,}"),
        ("inputs", shape_text(t.shape for t in graph.inputs)),
        ("outputs", shape_text(t.shape for t in graph.outputs)),
        *(
            ("" if i else "arguments", f"--set {key}={_as_typed(value)}")
            for i, (key, value) in enumerate(arguments.items())
        ),
    ]
    show(open_console(), plain_table([(net, "l"), ("", "l")], rows))


def _as_typed(value: Any) -> str:
    """Write a default as one types it after ``--set KEY=``."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@main.command(short_help="The operator table, or one operator.")
@click.argument("name", required=False)
@_json_option
def operators(name: str | None, as_json: bool) -> None:
    """List the operator table, or one operator in full."""
    from cnnlive.report.operators import HEADS, operator_row, operator_rows

    if name is None:
        rows = operator_rows()
    else:
        from cnnlive.ops import operator

        rows = [operator_row(operator(name))]
    if as_json:
        _print_json("operators", {"operators": [row._asdict() for row in rows]})
        return
    from cnnlive.report.text import note, open_console, plain_table, show

    console = open_console()
    if name is None:
        listed = [(r.name, r.summary) for r in rows]
        show(console, plain_table([("operator", "l"), ("what it does", "l")], listed))
        show(console, note("`cnnlive operators NAME` says all that the table knows of one."))
        return
    cells = []
    for head, text in list(zip(HEADS, rows[0], strict=True))[1:]:
        for i, line in enumerate(text.split("; ") if head == "attributes" else [text]):
            cells.append(("" if i else head, line or "none"))
    show(console, plain_table([(name, "l"), ("", "l")], cells))


@main.command(short_help="The optimizers, their options and their memory.")
@click.argument("name", required=False)
@_json_option
def optimizers(name: str | None, as_json: bool) -> None:
    """List the optimizers: what they keep and what a step makes, in multiples of the parameters' bytes."""
    from cnnlive.report.optimizers import HEADS, optimizer_cells, optimizer_rows

    rows = optimizer_rows(name)
    if as_json:
        _print_json("optimizers", {"optimizers": [row._asdict() for row in rows]})
        return
    from cnnlive.report.text import note, open_console, plain_table, show

    console = open_console()
    sides = "llrrrrl"
    show(console, plain_table(list(zip(HEADS, sides, strict=True)), map(optimizer_cells, rows)))
    words = (
        "In multiples of the parameters' bytes, for square float32 matrices. state: kept between steps; single: made "
        "for one parameter in a step; foreach, fused: for all of them. Options that change no byte (lr, betas, eps) "
        "are taken as well."
    )
    show(console, note(words))


@main.command(short_help="The rules that differ between runtimes.")
@_json_option
def profiles(as_json: bool) -> None:
    """List the runtime profiles: the rules that differ between runtimes."""
    from dataclasses import asdict

    if as_json:
        _print_json("profiles", {"profiles": [asdict(p) for p in PROFILES.values()]})
        return
    from cnnlive.report.rules import profile_rows
    from cnnlive.report.text import open_console, plain_table, show

    console = open_console()
    heads = [("rule", "l"), *((name, "l") for name in PROFILES), ("meaning", "l")]
    show(console, plain_table(heads, profile_rows(PROFILES.values())))
    click.echo()
    show(
        console, plain_table([("profile", "l"), ("what it is", "l")], [(p.name, p.summary) for p in PROFILES.values()])
    )


@main.command(
    "nasbench-memory", short_help="Write the memory of every member of a NAS benchmark.", epilog=_TABLE_EXAMPLES
)
@click.argument("name")
@click.option("--out", required=True, metavar="FILE", help="Ends in .parquet (needs the extra 'table') or .csv.")
@click.option("--batch", default=1, show_default=True, help="Images of an inference.")
@click.option("--dtype", metavar="TYPE", help=_DTYPE_HELP)
@click.option("--profile", default="ideal", show_default=True, metavar="|".join(PROFILES), help=_PROFILE_HELP)
@click.option("--train-batch", type=int, help="Images of a training step.  [default: as --batch]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=_SPACE_HELP)
def nasbench_memory(name: str, out: str, settings: Sequence[str], **how: Any) -> None:
    """Write a table of every member of a benchmark: parameters, MACs and memory, in bytes.

    NAME is nasbench101, nasbench201, nats_size or nasbench_macro. A row has the member's name in the benchmark's own
    notation, params, macs, inference_peak (activations in program order), minimum_peak (in the best order),
    training_peak_sgd and training_peak_adam. The file appears when it is whole.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cnnlive.nas.table import benchmark, write_table

    space = benchmark(name, **_settings(settings))
    console = Console(stderr=True)
    columns = TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(name, total=None)
        bar.update(task, total=space.count())
        n = write_table(space, out, progress=lambda done: bar.update(task, completed=done), **how)
    click.echo(f"{n:,} rows: {out}")
