"""What ``--out`` writes: a file appears when it is whole, and what was there stays until then."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from cnnlive.errors import AttributeValueError, close_names

__all__ = ["check_out", "write_text"]


def check_out(out: str | None, endings: Sequence[str], source: str) -> Path | None:
    """Refuse, before anything is computed, a file that cannot be written.

    Parameters
    ----------
    out : str or None
        As given with ``--out``; None asks for no file.
    endings : sequence of str
        What its name may end in.
    source : str
        What the command reads, which it does not overwrite.

    Raises
    ------
    AttributeValueError
        If the name has another ending, or is that of the source.
    OSError
        If it is a folder, or there is no folder to put it in.
    """
    if out is None:
        return None
    path = Path(out)
    if path.suffix.lower() not in endings:
        hint = close_names(path.suffix.lower(), endings)
        raise AttributeValueError(
            f"--out {out} ends in {path.suffix or 'nothing'!r}{hint}; allowed: {', '.join(endings)}"
        )
    if path.is_dir() or not path.parent.is_dir():
        code = errno.EISDIR if path.is_dir() else errno.ENOENT
        raise OSError(code, os.strerror(code), str(path))
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise AttributeValueError(f"--out {out} is what the command reads; allowed: another file")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole: readers see the old one or the new one, never a part.

    Raises
    ------
    OSError
        If it cannot be written; names `path`.
    """
    if path.exists() and not path.is_file():  # a pipe or a device takes what comes
        path.write_text(text, encoding="utf-8")
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
