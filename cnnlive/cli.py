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

            if Path(name).suffix.lower() in FILES or name in zoo.names():
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

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx file, or a .json file that Graph.to_json wrote.
    """


# ---------------------------------------------------------------------------------- what the commands share


# The first line keeps click from joining the rest.
_INFERENCE_EXAMPLES: Final = """\b
Examples:
  cnnlive inference resnet50 --batch 8
  cnnlive inference mobilenet_v2 --dtype int8 --fuse
  cnnlive inference model.onnx --profile torch_fx --json"""
_OPS_EXAMPLES: Final = """\b
Examples:
  cnnlive ops vgg16
  cnnlive ops model.onnx --sort live --limit 10"""
_DTYPE_HELP: Final = "Type of all that is floating: float32, float16, bfloat16, int8, ...  [default: as built]"
_PROFILE_HELP: Final = "Rules of the runtime (see `cnnlive profiles`)."
_DTYPE_OF_HELP: Final = "Type of what one op or tensor writes, as conv1=float16; --dtype is for the rest; repeatable."
_FUSE_HELP: Final = "Convolution, batch normalisation and activation as one op.  [default: as the profile]"
_INPLACE_HELP: Final = "Ops in place: as the graph says, where possible, or none.  [default: as the profile]"
_ORDER_HELP: Final = "Execution order: op names, one a line; or JSON, as --json writes it.  [default: program order]"
_SET_HELP: Final = "Zoo: an argument of the network, as resolution=299 (see `cnnlive zoo NET`); repeatable."
_SHAPE_HELP: Final = (
    "ONNX: shape of an input that the file leaves open, as data=1,3,224,224; the batch is --batch; repeatable."
)


def _network_options(command: F) -> F:
    """Add the argument NET and the options that say how it is built and run."""
    options = [
        click.argument("net"),
        click.option("--batch", default=1, show_default=True, help="First dimension of every network input."),
        click.option("--dtype", metavar="TYPE", help=_DTYPE_HELP),
        click.option("--dtype-of", "dtypes", multiple=True, metavar="NAME=TYPE", help=_DTYPE_OF_HELP),
        click.option("--weight-dtype", metavar="TYPE", help="Type of the weights, where it differs from --dtype."),
        click.option("--profile", default="ideal", show_default=True, metavar="|".join(PROFILES), help=_PROFILE_HELP),
        click.option("--fuse/--no-fuse", default=None, help=_FUSE_HELP),
        click.option("--inplace", type=click.Choice(INPLACE), metavar="|".join(INPLACE), help=_INPLACE_HELP),
        click.option("--order", metavar="FILE", help=_ORDER_HELP),
        click.option("--train/--eval", default=None, help="Zoo: the graph as trained or as used.  [default: used]"),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=_SET_HELP),
        click.option("--input-shape", "input_shapes", multiple=True, metavar="NAME=SIZES", help=_SHAPE_HELP),
    ]
    for option in reversed(options):
        command = option(command)
    return command


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
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise AttributeValueError(f"--set {pair!r}; allowed: KEY=VALUE, such as resolution=299")
        found[key.strip().replace("-", "_")] = _value(value.strip())
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
    if is_file and settings:
        raise AttributeValueError(f"--set is for networks of the zoo, and {net} is a file")
    if is_file and train is not None:
        raise AttributeValueError(f"--train and --eval are for networks of the zoo, and {net} is a file")
    if input_shapes and suffix != ".onnx":
        raise AttributeValueError(f"--input-shape is for .onnx files, and {net} is not one")
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
        raise UnknownNetError("NET is empty; allowed: a network of the zoo, an .onnx file or a .json file")
    if Path(net).exists():
        raise ReadError(f"{net} is neither an .onnx nor a .json file, nor a network of the zoo")
    hint = close_names(net.lower(), known)
    raise UnknownNetError(
        f"unknown network {net!r}{hint} (`cnnlive zoo` lists all {len(known)}; files end in .onnx or .json)"
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
