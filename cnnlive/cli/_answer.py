"""How commands answer: a file, JSON, a report, or an exit code alone."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from cnnlive.cli._files import check_out, write_text
from cnnlive.cli._help import LAST, under
from cnnlive.cli._progress import QUIET

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Output", "Screen", "answer", "json_text", "output_options"]

F = TypeVar("F", bound=Callable[..., Any])
_OUTPUT: Final = "cnnlive.output"
_NARROW: Final = 110
_QUIET_HELP: Final = "No report and no progress; --json and files are as asked for, and the exit code answers."
_JSON_HELP: Final = "Print JSON (keys: docs/json.md)."


@dataclass(frozen=True, slots=True)
class Output:
    """What is wanted of an answer.

    Attributes
    ----------
    path : Path or None
        File that is written.
    quiet : bool
        Nothing is printed for people.
    as_json : bool
        Data are printed.
    """

    path: Path | None
    quiet: bool
    as_json: bool


def output_options(endings: Sequence[str] = (), out_help: str = "") -> Callable[[F], F]:
    """Return what adds ``--quiet`` and ``--json`` to a command, and ``--out`` where it writes files.

    The command itself takes none of them: :func:`answer` knows them. A file that cannot be written is refused before
    anything is computed.

    Parameters
    ----------
    endings : sequence of str
        What the name of a file may end in; none: the command writes no file.
    out_help : str
        What is written.
    """
    option = under(LAST)

    def decorated(command: F) -> F:
        @functools.wraps(command)
        def answering(*args: Any, quiet: bool, as_json: bool, out: str | None = None, **asked: Any) -> Any:
            context = click.get_current_context()
            path = check_out(out, endings, str(asked.get("net") or ""))
            context.meta[QUIET] = quiet
            context.meta[_OUTPUT] = Output(path, quiet, as_json)
            return command(*args, **asked)

        options = [
            *([option("--out", metavar="FILE", help=out_help)] if endings else []),
            option("--quiet", is_flag=True, help=_QUIET_HELP),
            option("--json", "as_json", is_flag=True, help=_JSON_HELP),
        ]
        for add in reversed(options):
            add(answering)
        return answering  # type: ignore[return-value]  # the same but for the options

    return decorated


def wanted() -> Output:
    """Return what the command that runs was asked for."""
    found = click.get_current_context().meta[_OUTPUT]
    assert isinstance(found, Output)
    return found


class Screen:
    """Where reports are printed: a terminal, or a pipe that is as wide as it takes.

    Attributes
    ----------
    columns : int
    ascii_only : bool
        Whether it lacks the characters that bars are drawn with.
    narrow : bool
        Whether wide tables leave columns out.
    """

    def __init__(self) -> None:
        from cnnlive.report.text import is_ascii, open_console

        self._console = open_console()
        self.columns: int = self._console.width
        self.ascii_only: bool = is_ascii(self._console)
        self.narrow: bool = self._console.is_terminal and self.columns < _NARROW
        self._begun = False

    def show(self, renderable: RenderableType, *, widen: bool = False) -> None:
        """Print a report, or what else belongs to it, after a blank line.

        Parameters
        ----------
        renderable : rich renderable
        widen : bool
            In a pipe: as wide as its longest line; else sentences wrap, but no name is cut.
        """
        from cnnlive.report.text import show

        if self._begun:
            click.echo()
        self._begun = True
        show(self._console, renderable, widen=widen)

    def say(self, line: str) -> None:
        """Print a line that is never wrapped, such as one with the name of a file, after a blank line."""
        from cnnlive.report.text import printable

        if self._begun:
            click.echo()
        self._begun = True
        click.echo(printable(self._console, line))


def answer(
    kind: str,
    data: Callable[[], Mapping[str, Any]],
    report: Callable[[Screen], None],
    *,
    text: Callable[[Path], str] | None = None,
    written: bool = True,
    code: int = 0,
) -> None:
    """Write the file that was asked for, print JSON or a report unless all shall be quiet, and end with an exit code.

    Parameters
    ----------
    kind : str
        Name of the format of the data.
    data : callable
        Returns them; called only if they are wanted.
    report : callable
        Shows the report on a screen; called only if it is wanted.
    text : callable, optional
        Of the path of a file that is not .json, what is written into it.
    written : bool
        Whether there is anything to write.
    code : int
        The exit code.
    """
    asked = wanted()
    path = asked.path if written else None
    as_data = functools.cache(lambda: json_text(kind, data()))
    if path is not None:
        is_json = text is None or path.suffix.lower() == ".json"
        write_text(path, as_data() + "\n" if is_json or text is None else text(path))
    if asked.as_json:
        click.echo(as_data())
    elif not asked.quiet:
        screen = Screen()
        report(screen)
        if asked.path is not None:
            screen.say(f"wrote {path}" if path is not None else f"nothing to write to {asked.path}")
    if code:
        click.get_current_context().exit(code)


def json_text(kind: str, data: Mapping[str, Any]) -> str:
    """Write an object, a key on each line, and of a list of objects each on a line of its own."""
    fields = []
    for key, value in {"format": f"cnnlive-{kind}-1", **data}.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        fields.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}"
