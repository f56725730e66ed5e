"""Options that several commands share, and how their texts are read."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from cnnlive.cli._complete import (
    DTYPES,
    LOSSES,
    OPTIMIZERS,
    PRECISIONS,
    among,
    complete_net,
    complete_profile,
    complete_setting,
)
from cnnlive.cli._help import under
from cnnlive.errors import AttributeValueError
from cnnlive.profiles import INPLACE, PROFILES, profile_of

F = TypeVar("F", bound=Callable[..., Any])
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
    "float32 parameters.  [default: as built]"
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


def option_names(options: Sequence[Callable[[Any], Any]]) -> list[str]:
    """Return the names under which a command gets the values of some options."""
    return [p.name for option in options for p in getattr(option(lambda: None), "__click_params__", [])]


def refuse(names: Sequence[str], words: str) -> None:
    """Refuse options that were given and do not apply."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is click.core.ParameterSource.COMMANDLINE:
            raise AttributeValueError(f"{parameter.opts[-1]} {words}")


net_argument = click.argument("net", shell_complete=complete_net)


def source_options(train: str) -> list[Callable[[F], F]]:
    """Return the options that say how NET is built; `train` is the default of ``--train/--eval``, in words."""
    option = under("Network")
    return [
        option("--train/--eval", default=None, help=f"{_TRAIN_HELP}  [default: {train}]"),
        option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help=_SET_HELP, shell_complete=complete_setting
        ),
        option("--input-shape", "input_shapes", multiple=True, metavar="NAME=SIZES", help=_SHAPE_HELP),
    ]


def batch_option(heading: str) -> Callable[[F], F]:
    """Return the option ``--batch`` under a heading."""
    return under(heading)("--batch", default=1, show_default=True, help="First dimension of every network input.")


def order_option(heading: str) -> Callable[[F], F]:
    """Return the option ``--order`` under a heading."""
    complete = among("program", "best", files=True)
    return under(heading)("--order", metavar="program|best|FILE", help=_ORDER_HELP, shell_complete=complete)


def dtype_options(heading: str) -> list[Callable[[F], F]]:
    """Return the options that say of which types the activations are."""
    option = under(heading)
    return [
        option("--dtype", metavar="TYPE", help=DTYPE_HELP, shell_complete=among(*DTYPES)),
        option("--dtype-of", "dtypes", multiple=True, metavar="NAME=TYPE", help=_DTYPE_OF_HELP),
    ]


def inference_options(order: bool = False, weights: bool = True, heading: str = "Inference") -> list[Callable[[F], F]]:
    """Return the options that say how an inference runs; `order` and `weights`: those that not all take."""
    option = under(heading)
    weight = option(
        "--weight-dtype", metavar="TYPE", help="Type of the weights, where it differs from --dtype.",
        shell_complete=among(*DTYPES),
    )  # fmt: skip
    return [
        *dtype_options(heading),
        *([weight] if weights else []),
        option(
            "--profile", default="ideal", show_default=True, metavar="NAME", help=PROFILE_HELP,
            shell_complete=complete_profile,
        ),
        option("--fuse/--no-fuse", default=None, help=_FUSE_HELP),
        option("--inplace", type=click.Choice(INPLACE), metavar="|".join(INPLACE), help=_INPLACE_HELP),
        *([order_option(heading)] if order else []),
    ]  # fmt: skip


def step_options() -> list[Callable[[F], F]]:
    """Return the options that say how a training step runs, without those of its optimizer."""
    option = under("Step")
    return [
        option(
            "--precision", metavar="TYPE", help=_PRECISION_HELP, shell_complete=among(*PRECISIONS),
        ),
        option(
            "--device", default="cuda", show_default=True, metavar="cuda|cpu",
            help="Whose kernels and defaults; none is needed.", shell_complete=among("cuda", "cpu"),
        ),
        option(
            "--loss", default="cross_entropy", show_default=True, metavar="NAME", help=_LOSS_HELP,
            shell_complete=among(*LOSSES),
        ),
        option("--aux-weight", type=float, help="Weight of the losses of auxiliary outputs; 0 leaves them out."),
        option("--autocast-loss", is_flag=True, help="The loss is computed inside autocast."),
        option(
            "--zero-grad", default="before_forward", show_default=True, metavar="WHEN",
            help="Where optimizer.zero_grad() stands: before_forward, before_backward or after_step.",
            shell_complete=among("before_forward", "before_backward", "after_step"),
        ),
        option(
            "--set-to-none/--no-set-to-none", default=True, show_default=True,
            help="Whether zero_grad frees gradients or fills them with zeros.",
        ),
        option(
            "--micro-batches", type=int, default=1, show_default=True,
            help="Passes of --batch images each whose gradients accumulate before a step.",
        ),
        option(
            "--freeze", "frozen_layers", multiple=True, metavar="PATTERN",
            help="Ops that are not trained: a name, a module path or a pattern with *; repeatable.",
        ),
        option("--input-gradients", is_flag=True, help="The network's inputs take gradients."),
        option("--first-step", is_flag=True, help="The step that creates the optimizer's state."),
        option("--late-step", is_flag=True, help="A step after RAdam has begun to rectify, its sixth or later."),
    ]  # fmt: skip


def optimizer_options() -> list[Callable[[F], F]]:
    """Return the options of the optimizer."""
    option = under("Optimizer")
    return [
        option(
            "--optimizer", default="adam", show_default=True, metavar="NAME", help="One of `cnnlive optimizers`.",
            shell_complete=among(*OPTIMIZERS),
        ),
        option("--momentum", type=float, help="Of sgd, rmsprop, muon and adafactor_bv."),
        option("--weight-decay", type=float, help="Of all but rprop."),
        option("--nesterov", is_flag=True, help="Of sgd and muon."),
        option("--amsgrad", is_flag=True, help="Of adam and adamw."),
        option(
            "-O", "--option", "optimizer_options", multiple=True, metavar="KEY=VALUE",
            help="Any option of the optimizer, as centered=true; repeatable.",
        ),
        option(
            "--implementation", metavar="single|foreach|fused", help="[default: foreach on cuda, single on cpu]",
            shell_complete=among("single", "foreach", "fused"),
        ),
    ]  # fmt: skip


def memory_options(aside: bool = True) -> list[Callable[[F], F]]:
    """Return the options about what is on a device beside the tensors; `aside`: what is set aside for others, too."""
    option = under("Memory")
    return [
        option("--allocator", is_flag=True, help="Replay in a model of PyTorch's CUDA caching allocator."),
        option("--cuda-conf", metavar="TEXT", help=_CONF_HELP),
        *([option("--context", default="0", metavar="BYTES", help=_CONTEXT_HELP),
           option("--workspace", default="0", metavar="BYTES", help=_WORKSPACE_HELP)] if aside else []),
    ]  # fmt: skip


def training_options() -> list[Callable[[F], F]]:
    """Return the options that say how a training step runs, its optimizer and the allocator among it."""
    return [*step_options(), *optimizer_options(), *memory_options(aside=False)]


def network_options(order: bool = True, weights: bool = True, heading: str = "Inference") -> Callable[[F], F]:
    """Return what adds the argument NET and the options that say how it is built and run in inference.

    Parameters
    ----------
    order, weights : bool
        Whether the command takes an order, and whether types of weights matter to it.
    heading : str
        Of the options that are about the run.
    """
    options = [net_argument, batch_option(heading), *inference_options(order, weights, heading),
               *source_options("used")]  # fmt: skip
    return lambda command: with_options(command, options)


def as_typed(value: Any) -> str:
    """Write a default as one types it after ``--set KEY=``."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


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


def read_profiles(text: str | None) -> list[str] | None:
    """Read the names of profiles, each once; None leaves the choice to the planner."""
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise AttributeValueError(f"--profiles {text!r} names none; allowed: {', '.join(PROFILES)}")
    for name in names:
        profile_of(name)
    return names


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
