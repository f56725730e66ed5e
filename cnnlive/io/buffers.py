"""Reading and writing buffers and placements as CSV, in the format of MiniMalloc."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from cnnlive._types import is_text
from cnnlive.buffers import Buffers
from cnnlive.errors import ArenaError, ReadError

if TYPE_CHECKING:
    from cnnlive.plan.arena import ArenaPlan

__all__ = ["read_buffers", "write_buffers"]

_NEEDED: Final = ("id", "lower", "upper", "size")
_COLUMNS: Final = (*_NEEDED, "alignment", "offset")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")


def read_buffers(source: str | os.PathLike[str] | IO[str]) -> Buffers:
    r"""Read buffers from a CSV file such as those of MiniMalloc.

    The first line names the columns, in any order: ``id``, ``lower``, ``upper`` and ``size``, and where needed
    ``alignment`` (empty: 1) and ``offset`` (empty or -1: not fixed). A life is half-open, ``[lower, upper)``. Blank
    lines are skipped.

    Parameters
    ----------
    source : path or text stream

    Returns
    -------
    Buffers
        Called as the file without its suffix. What a plan wrote with its offsets comes back with all of them fixed.

    Raises
    ------
    ReadError
        If the file cannot be opened, is no UTF-8 text, or is not such a table; names the file, the line, and what is
        allowed.

    Examples
    --------
    >>> import io
    >>> b = read_buffers(io.StringIO("id,lower,upper,size\na,0,2,64\nb,1,3,32\n"))
    >>> b.ids, b.nbytes.tolist()
    (('a', 'b'), [64, 32])
    """
    if not isinstance(source, str | os.PathLike):
        where = str(getattr(source, "name", "the text"))
        return _read(source, where, "")
    path = os.fspath(source)
    where = repr(str(path))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _read(file, where, Path(file_title(path)).stem)
    except (OSError, ValueError) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(f"{where} cannot be read as buffers: {getattr(error, 'strerror', None) or error}") from None


def file_title(path: str | bytes | os.PathLike[Any]) -> str:
    """Return a file's name as a text that can be written, whatever bytes it has."""
    return os.path.basename(os.fsdecode(path)).encode("utf-8", "replace").decode()


def _read(file: IO[str], where: str, name: str) -> Buffers:
    rows = _rows(file, where)
    header = [title.strip() for title in next(rows, (1, []))[1]]
    _check_header(header, where)
    at = {title: k for k, title in enumerate(header)}
    table: dict[str, list[Any]] = {title: [] for title in _COLUMNS}
    lines: dict[str, int] = {}
    for line, row in rows:
        here = f"{where}, line {line}: "
        if len(row) != len(header):
            raise ReadError(f"{here}{len(row)} values for the {len(header)} columns {','.join(header)}")
        who = row[at["id"]]
        if who in lines:
            raise ReadError(f"{here}the id {who!r} is that of line {lines[who]}; allowed: one buffer for each id")
        lines[who] = line
        table["id"].append(who)
        values = {title: _integer(row[at[title]], title, here) if title in at else None for title in _COLUMNS[1:]}
        lower, upper, size = values["lower"], values["upper"], values["size"]
        missing = next((title for title in _NEEDED[1:] if values[title] is None), None)
        if missing or lower is None or upper is None or size is None:
            raise ReadError(f"{here}{missing} is empty; allowed: an integer")
        alignment = 1 if values["alignment"] is None else values["alignment"]
        offset = -1 if values["offset"] is None else values["offset"]
        for wrong, words in (
            (upper < lower, f"upper is {upper}; allowed: lower, which is {lower}, or more"),
            (size < 0, f"size is {size}; allowed: 0 or more"),
            (alignment < 1, f"alignment is {alignment}; allowed: 1 or more"),
            (offset < -1, f"offset is {offset}; allowed: 0 or more, and -1 or nothing for a buffer that is not fixed"),
            (offset >= 0 and alignment > 0 and offset % max(alignment, 1) > 0,
             f"offset is {offset}; allowed: multiples of the alignment, which is {alignment}"),
        ):  # fmt: skip
            if wrong:
                raise ReadError(here + words)
        for title, value in zip(_COLUMNS[1:], (lower, upper, size, alignment, offset), strict=True):
            table[title].append(value)
    try:
        return Buffers.of(table["lower"], table["upper"], table["size"], alignment=table["alignment"],
                          fixed=table["offset"], ids=table["id"], name=name)  # fmt: skip
    except ArenaError as error:
        raise ReadError(f"{where}: {error}") from None


def _rows(file: IO[str], where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the values of each line that is not blank."""
    reader = csv.reader(_lines(file, where), strict=True)
    try:
        for row in reader:
            if any(value.strip() for value in row):
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise ReadError(f"{where} is no UTF-8 text: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise ReadError(f"{where}, line {reader.line_num}: {error}") from None


def _lines(file: IO[str], where: str) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if "\0" in line:
            raise ReadError(f"{where}, line {number}: there is a NUL character, so this is no CSV text")
        yield line


def _check_header(header: list[str], where: str) -> None:
    allowed = f"allowed: {', '.join(_NEEDED)} and, where needed, alignment and offset"
    if not header:
        raise ReadError(f"{where} is empty; needed: a first line with the columns; {allowed}")
    for title in header:
        if title == "gaps":
            raise ReadError(
                f"{where}, line 1: the column 'gaps' is not supported, buffers live without gaps; {allowed}"
            )
        if title not in _COLUMNS:
            raise ReadError(f"{where}, line 1: there is a column {title!r}; {allowed}")
        if header.count(title) > 1:
            raise ReadError(f"{where}, line 1: the column {title!r} is there twice; {allowed}")
    for title in _NEEDED:
        if title not in header:
            raise ReadError(f"{where}, line 1: the column {title!r} is missing; {allowed}")


def _integer(text: str, title: str, here: str) -> int | None:
    """Return the integer of a cell, or None where it is empty."""
    text = text.strip()
    if not text:
        return None
    if not _INTEGER.fullmatch(text):
        shown = text if len(text) <= 40 else text[:37] + "..."
        raise ReadError(f"{here}{title} is {shown!r}; allowed: an integer of up to 19 digits")
    value = int(text)
    if abs(value) >= 2**62:
        raise ReadError(f"{here}{title} is {value}; allowed: below 2**62")
    return value


def write_buffers(
    target: str | os.PathLike[str] | IO[str], buffers: Buffers | ArenaPlan, offsets: Sequence[int] | None = None
) -> None:
    """Write buffers, or a placement with its offsets, as the CSV that :func:`read_buffers` reads.

    Parameters
    ----------
    target : path or text stream
        A file that exists is replaced when the new one is complete, and stays if writing fails.
    buffers : Buffers or ArenaPlan
        A plan has offsets, and its sizes are those that were placed.
    offsets : sequence of int, optional
        Of buffers; default: those that are fixed.

    Raises
    ------
    ArenaError
        If a plan has no placement, there are not as many offsets as buffers, or an id cannot stand in a text file.
    OSError
        If the file cannot be written.

    Notes
    -----
    The columns ``alignment`` and ``offset`` are left out where no buffer has any.

    Examples
    --------
    >>> import sys
    >>> write_buffers(sys.stdout, Buffers.of([0, 1], [2, 3], [64, 32], ids="ab"), [0, 64])
    id,lower,upper,size,offset
    a,0,2,64,0
    b,1,3,32,64
    """
    b: Buffers
    if isinstance(buffers, Buffers):
        b, at = buffers, buffers.fixed.tolist() if offsets is None else [int(x) for x in offsets]
    else:
        b, at = buffers.buffers, list(buffers.offset_of.values())
    if len(at) != b.n:
        raise ArenaError(f"there are {len(at)} offsets for {b.n} buffers; allowed: one for each")
    for name in b.ids:
        if "\0" in name or not is_text(name):
            raise ArenaError(f"the id {name!r} cannot stand in a CSV file; allowed: texts without a NUL character")
    columns: dict[str, Sequence[object]] = {
        "id": b.ids, "lower": b.lower.tolist(), "upper": b.upper.tolist(), "size": b.nbytes.tolist()
    }  # fmt: skip
    if (b.alignment != 1).any():
        columns["alignment"] = b.alignment.tolist()
    if any(x >= 0 for x in at):
        columns["offset"] = ["" if x < 0 else x for x in at]
    with _open(target) as file:
        # A writer quotes the end of line that it was given, and a reader knows the other one too.
        other = any("\r" in name for name in b.ids)
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if other else csv.QUOTE_MINIMAL)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@contextlib.contextmanager
def _open(target: str | os.PathLike[str] | IO[str]) -> Iterator[IO[str]]:
    """Give a stream to write to; of a path, a file beside it that becomes it if all goes well and else is removed."""
    if not isinstance(target, str | os.PathLike):
        yield target
        return
    path = Path(target)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
