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
from cnnlive.errors import CnnliveError

__all__ = ["FILES", "main"]

FILES: Final = (".onnx", ".tflite", ".json")


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

            suffix = Path(name).suffix.lower()
            if suffix in (*FILES, ".csv") or ":" in name or name in zoo.names():
                command = "arena" if suffix == ".csv" else "inference"
                raise click.UsageError(f"No such command {name!r}. Did you mean 'cnnlive {command} {name}'?", ctx)
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

    NET is a network of the zoo (see `cnnlive zoo`), an .onnx or .tflite file, a .json file that Graph.to_json wrote, or
    a PyTorch model: torchvision:NAME, timm:NAME or package.module:factory.
    """
