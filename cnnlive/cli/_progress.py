"""What a terminal shows while something takes longer than a second."""

# ruff: noqa: PLC0415 - imports inside the functions are what keeps quick commands quick

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["QUIET", "Told", "progress_bar"]

#: What planners call: the share done, 0 to 1, and what is going on.
Told: TypeAlias = Callable[[float | None, str], None]
#: Where a command's context says that ``--quiet`` was given.
QUIET: Final = "cnnlive.quiet"

_AFTER: Final = 1.0  # seconds before a bar appears
_COMPILING: Final = "compiling kernels, once"
_WIDTH: Final = 30


class _Bar:
    """A bar on standard error that appears when its time has come, and leaves no trace."""

    def __init__(self, words: str, after: float) -> None:
        from rich.console import Console
        from rich.live import Live

        self.words: str = words
        self.share: float | None = None
        self.began = time.monotonic()
        self.compiling = _Compiling()
        # What is printed meanwhile goes where it was meant to go: standard output may be a file.
        self.live = Live(console=Console(stderr=True), transient=True, redirect_stdout=False, refresh_per_second=8,
                         get_renderable=self.drawn)  # fmt: skip
        self.timer = threading.Timer(after, self.live.start)
        self.timer.daemon = True
        self.timer.start()

    def tell(self, share: float | None, what: str) -> None:
        """Show how far it is, and what is going on."""
        self.share, self.words = share, what or self.words

    def drawn(self) -> RenderableType:
        """Return the line as it is now."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        compiling = self.compiling()
        known = None if compiling else self.share
        seconds = int(time.monotonic() - self.began)
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_row(
            Text(_COMPILING if compiling else self.words),
            ProgressBar(total=None if known is None else 1.0, completed=known or 0.0, width=_WIDTH),
            Text(f"{seconds // 60}:{seconds % 60:02d}"),
        )
        return line

    def stop(self) -> None:
        """Take the line away."""
        self.timer.cancel()
        self.timer.join()
        self.live.stop()
        self.compiling.stop()


class _Compiling:
    """Whether numba compiles at this moment, which takes longer than any plan and happens once per machine."""

    def __init__(self) -> None:
        self.depth = 0
        self.listener: object | None = None

    def __call__(self) -> bool:
        if self.listener is None:
            self._listen()
        return self.depth > 0

    def _listen(self) -> None:
        numba = sys.modules.get("numba")
        if numba is None or getattr(numba.__spec__, "_initializing", False):  # it is being imported
            return
        from numba.core import event

        outer = self

        class Listener(event.Listener):
            def on_start(self, event: object) -> None:
                outer.depth += 1

            def on_end(self, event: object) -> None:
                outer.depth = max(outer.depth - 1, 0)  # it may have begun before

        self.listener = Listener()
        event.register("numba:compile", self.listener)  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Listen no more."""
        if self.listener is not None:
            from numba.core import event

            event.unregister("numba:compile", self.listener)  # type: ignore[no-untyped-call]


_shown: list[_Bar] = []  # one at most: a screen has room for no more


@contextlib.contextmanager
def progress_bar(words: str, quiet: bool = False, after: float = _AFTER) -> Iterator[Told | None]:
    """Show on a terminal how far something is, once it takes longer than a second.

    Inside another bar it is that one which says for a while what is done here.

    Parameters
    ----------
    words : str
        What is done.
    quiet : bool
        Show nothing, as where the command was given ``--quiet``.
    after : float
        Seconds before anything is shown.

    Yields
    ------
    callable or None
        To be called with the share done, 0 to 1, and what is going on. None: standard error is no terminal, or `quiet`.
    """
    context = click.get_current_context(silent=True)
    if quiet or (context is not None and context.meta.get(QUIET)) or not (_shown or sys.stderr.isatty()):
        yield None
        return
    if _shown:
        bar = _shown[-1]
        before = bar.share, bar.words
        bar.tell(None, words)
        try:
            yield bar.tell
        finally:
            bar.tell(*before)
        return
    bar = _Bar(words, after)
    _shown.append(bar)
    try:
        yield bar.tell
    finally:
        _shown.pop()
        bar.stop()
