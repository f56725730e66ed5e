"""The group of all commands, and how each of them fails."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

import cnnlive
from cnnlive.cli._complete import NETWORKS
from cnnlive.cli._help import ERROR, write_exits
from cnnlive.errors import CnnliveError, close_names

__all__ = ["main"]

_EXAMPLES: Final = (
    ("cnnlive inference resnet50", "one image: how much, where it peaks"),
    ("cnnlive training resnet50 --batch 32", "a step, and what it consists of"),
    ("cnnlive fit resnet50 --budget 24GiB", "the largest batch that fits"),
    ("cnnlive arena net.tflite --profile tflm", "what a microcontroller reserves"),
)
_EXITS: Final = {
    0: "answered",
    1: "answered with no: it does not fit (fit --check, arena, checkpoint, frontier)",
    2: ERROR,
    3: "not known: nothing was found and nothing is proven (arena, checkpoint, frontier)",
    130: "interrupted",
    141: "the reader of standard output left, as `head` does",
}


class _Main(click.Group):
    """A group whose every failure is one line on stderr and exit code 2, and whose help has sections of commands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections: dict[str, list[str]] = {}

    def add_section(self, heading: str, *commands: click.Command) -> None:
        """Add commands under a heading of the help."""
        for command in commands:
            self.add_command(command)
            self.sections.setdefault(heading, []).append(command.name or "")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which people meet them."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, section by section, in columns that are as wide in each."""
        widest = max(map(len, self.commands), default=0)
        for heading, names in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(widest), self.commands[name].short_help or "") for name in names])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands before the two options that there are."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write how to begin, and what exit codes mean."""
        with formatter.section("Examples"):
            formatter.write_dl(_EXAMPLES, col_max=40)
        write_exits(formatter, _EXITS)
        formatter.write_paragraph()
        formatter.write_text("`cnnlive COMMAND --help` has the options and examples of a command.")

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find a command; who names a network instead is told which commands take it."""
        name = args[0] if args else ""
        if name in self.commands or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from cnnlive import zoo

        suffix = Path(name).suffix.lower()
        if suffix in (*NETWORKS, ".csv") or ":" in name or name in zoo.names():
            command = "arena" if suffix == ".csv" else "inference"
            raise click.UsageError(f"no command {name!r}; did you mean 'cnnlive {command} {name}'?", ctx)
        words = f"no command {name!r}{close_names(name, self.commands)} (`cnnlive --help` lists them)"
        raise click.UsageError(words, ctx)

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
        except (click.Abort, KeyboardInterrupt):
            click.echo("cnnlive: interrupted", err=True)
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
    name="cnnlive",
    cls=_Main,
    no_args_is_help=True,
    subcommand_metavar="COMMAND [OPTIONS] [NET]",
    options_metavar="",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(cnnlive.__version__, prog_name="cnnlive")
def main() -> None:
    """Exact memory cost of convolutional neural networks.

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx or .tflite file, a .json file that Graph.to_json wrote, or
    a PyTorch model: torchvision:NAME, timm:NAME or package.module:factory.
    """
