"""Options that several commands share, and how their texts are read."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

from cnnlive.errors import AttributeValueError
from cnnlive.profiles import INPLACE

F = TypeVar("F", bound=Callable[..., Any])
NARROW: Final = 110
DTYPE_HELP: Final = "Type of all that is floating: float32, float16, bfloat16, int8, ...  [default: as built]"
PROFILE_HELP: Final = "Rules of the runtime: one of `cnnlive profiles`."
_DTYPE_OF_HELP: Final = "Type of what one op or tensor writes, as conv1=float16; --dtype is for the rest; repeatable."
_FUSE_HELP: Final = "Convolution, batch normalisation and activation as one op.  [default: as the profile]"
_INPLACE_HELP: Final = "Ops in place: as the graph says, where possible, or none.  [default: as the profile]"
_ORDER_HELP: Final = (
    "Execution order: program, best (what `cnnlive order` finds), or a file: op names, one a line; or what --json or "
    "`cnnlive order --out` wrote.  [default: program]"
)
_SET_HELP: Final = "Zoo: an argument of the network, as resolution=299 (see `cnnlive zoo NET`); repeatable."
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


def with_options(command: F, options: Sequence[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def source_options(train: str) -> list[Callable[[F], F]]:
    """Return the options that say how NET is built; `train` is the default of ``--train/--eval``, in words."""
    return [
        click.option("--train/--eval", default=None, help=f"{_TRAIN_HELP}  [default: {train}]"),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=_SET_HELP),
        click.option("--input-shape", "input_shapes", multiple=True, metavar="NAME=SIZES", help=_SHAPE_HELP),
    ]


batch_option = click.option("--batch", default=1, show_default=True, help="First dimension of every network input.")
order_option = click.option("--order", metavar="program|best|FILE", help=_ORDER_HELP)


def dtype_options() -> list[Callable[[F], F]]:
    """Return the options that say of which types the activations are."""
    return [
        click.option("--dtype", metavar="TYPE", help=DTYPE_HELP),
        click.option("--dtype-of", "dtypes", multiple=True, metavar="NAME=TYPE", help=_DTYPE_OF_HELP),
    ]


def inference_options(order: bool = False, weights: bool = True) -> list[Callable[[F], F]]:
    """Return the options that say how an inference runs; `order` and `weights`: those that not all take."""
    weight = click.option("--weight-dtype", metavar="TYPE", help="Type of the weights, where it differs from --dtype.")
    return [
        *dtype_options(),
        *([weight] if weights else []),
        click.option("--profile", default="ideal", show_default=True, metavar="NAME", help=PROFILE_HELP),
        click.option("--fuse/--no-fuse", default=None, help=_FUSE_HELP),
        click.option("--inplace", type=click.Choice(INPLACE), metavar="|".join(INPLACE), help=_INPLACE_HELP),
        *([order_option] if order else []),
    ]


def training_options() -> list[Callable[[F], F]]:
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


set_aside = [
    click.option("--context", default="0", metavar="BYTES", help=_CONTEXT_HELP),
    click.option("--workspace", default="0", metavar="BYTES", help=_WORKSPACE_HELP),
]


def network_options(order: bool = True, weights: bool = True) -> Callable[[F], F]:
    """Return what adds the argument NET and the options that say how it is built and run in inference.

    Parameters
    ----------
    order, weights : bool
        Whether the command takes an order, and whether types of weights matter to it.
    """
    options = [click.argument("net"), batch_option, *inference_options(order, weights), *source_options("used")]
    return lambda command: with_options(command, options)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON (keys: docs/json.md).")


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


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    found = read_pairs(pairs, "--set", "resolution=299")
    if "train" in found:
        raise AttributeValueError("--set train; the option for that is --train")
    return found


def read_dtype(dtype: str | None, pairs: Sequence[str]) -> str | dict[str, str] | None:
    """Join ``--dtype`` and ``--dtype-of`` to what a planner takes."""
    found = {} if dtype is None else {"*": dtype}
    for pair in pairs:
        name, equals, value = pair.rpartition("=")
        if not equals or not name:
            raise AttributeValueError(f"--dtype-of {pair!r}; allowed: NAME=TYPE, such as conv1=float16")
        found[name] = value
    return found if pairs else dtype


def read_pairs(pairs: Sequence[str], option: str, such: str) -> dict[str, Any]:
    """Read KEY=VALUE pairs; a value is a number, a truth value, None, several of them, or text."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise AttributeValueError(f"{option} {pair!r}; allowed: KEY=VALUE, such as {such}")
        found[key.strip().replace("-", "_")] = _value(value.strip())
    return found


def read_sizes(texts: Sequence[str], net: str) -> tuple[int, ...] | None:
    """Read the one shape that a PyTorch model takes."""
    if not texts:
        return None
    try:
        (text,) = texts
        return tuple(int(d) for d in text.replace("x", ",").split(","))
    except ValueError:
        words = "allowed: one, its sizes with the batch, such as 1,3,224,224"
        raise AttributeValueError(f"--input-shape {' '.join(texts)!r} for {net}; {words}") from None


def read_shapes(pairs: Sequence[str]) -> dict[str, tuple[int, ...]]:
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


def print_json(kind: str, data: Mapping[str, Any]) -> None:
    """Print an object as JSON."""
    click.echo(json_text(kind, data))


def json_text(kind: str, data: Mapping[str, Any]) -> str:
    """Write an object, a key on each line, and of a list of objects each on a line of its own."""
    fields = []
    for key, value in {"format": f"cnnlive-{kind}-1", **data}.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        fields.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}"
