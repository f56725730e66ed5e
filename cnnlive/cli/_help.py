"""How help is laid out: options under headings, examples, exit codes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import click

__all__ = ["ERROR", "LAST", "Command", "Option", "command", "under"]

F = TypeVar("F", bound=Callable[..., Any])
#: The heading of options that every command has; it stands last.
LAST: Final = "Output"
#: What an exit code of 2 means, for every command.
ERROR: Final = "an error, which one line on standard error names"
_ANSWERED: Final = "answered"
_COLUMN: Final = 30  # widest column of names, as click has it


class Option(click.Option):
    """An option that stands under a heading of the help.

    Parameters
    ----------
    *args, **kwargs
        As for click's.
    heading : str
    """

    def __init__(self, *args: Any, heading: str = LAST, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


class AsOption(Protocol):
    """What makes an option of a function, as ``click.option`` does."""

    def __call__(self, *names: str, **attributes: Any) -> Callable[[F], F]:
        """Return a decorator."""


def under(heading: str) -> AsOption:
    """Return what makes options under a heading."""

    def option(*names: str, **attributes: Any) -> Callable[[F], F]:
        if isinstance(attributes.get("type"), click.IntRange):  # the range is said behind the words
            attributes.setdefault("metavar", "INTEGER")
        return click.option(*names, cls=Option, heading=heading, **attributes)

    return option


class Command(click.Command):
    """A command with examples and exit codes in its help.

    Parameters
    ----------
    *args, **kwargs
        As for click's.
    examples : sequence of str
        Lines as they are typed; ``cnnlive`` itself is left out.
    exits : mapping of int to str
        What exit codes mean; without 2, which is an error for all commands.
    """

    def __init__(
        self, *args: Any, examples: Sequence[str] = (), exits: Mapping[int, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.exits = {0: _ANSWERED, **(exits or {}), 2: ERROR}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; of those that a shell completes, an option at the end has no value yet."""
        if ctx.resilient_parsing and args:
            waiting = [p for p in self.params if isinstance(p, click.Option) and not p.is_flag and args[-1] in p.opts]
            args = args[: -1 if waiting else None]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each under its heading, in the order in which they were added."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                headings.setdefault(getattr(parameter, "heading", LAST), []).append(record)
        width = min(max(len(names) for rows in headings.values() for names, _ in rows), _COLUMN)
        for heading, rows in headings.items():
            with formatter.section(heading):  # all of them with one left column
                formatter.write_dl([(names.ljust(width), words) for names, words in rows])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the exit codes."""
        write_examples(formatter, self.examples)
        write_exits(formatter, self.exits)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Write lines as one types them; a long one goes on behind a backslash, as a shell reads it."""
    with formatter.section("Examples"):
        indent = formatter.current_indent
        for line in examples:
            lines = textwrap.wrap(
                f"cnnlive {line}", formatter.width - indent - 2, subsequent_indent="    ", break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
            formatter.write("".join(f"{'':{indent}}{part} \\\n" for part in lines[:-1]))
            formatter.write(f"{'':{indent}}{lines[-1]}\n")


def write_exits(formatter: click.HelpFormatter, exits: Mapping[int, str]) -> None:
    """Write what exit codes mean."""
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(code), words) for code, words in sorted(exits.items())])


def command(
    short_help: str, *, examples: Sequence[str], name: str | None = None, exits: Mapping[int, str] | None = None
) -> Callable[[Callable[..., Any]], Command]:
    """Return what makes a command of a function.

    Parameters
    ----------
    short_help : str
        Its line in the list of all commands.
    examples : sequence of str
        Lines as they are typed, without ``cnnlive``.
    name : str, optional
        Default: that of the function.
    exits : mapping of int to str, optional
        What exit codes mean, beside 2, an error, and 0 where it says more than that there is an answer.
    """
    return click.command(name, cls=Command, short_help=short_help, examples=examples, exits=exits)
