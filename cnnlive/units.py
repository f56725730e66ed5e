"""Amounts of bytes as people write them."""

from __future__ import annotations

import re
from typing import Final

from cnnlive.errors import UnitError

__all__ = ["format_bytes", "format_count", "parse_bytes"]

_FACTORS: Final = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1000,
    "m": 1000**2,
    "mb": 1000**2,
    "g": 1000**3,
    "gb": 1000**3,
    "t": 1000**4,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
_AMOUNT: Final = re.compile(r"\s*(\d+(?:[._]\d+)*)\s*([a-zA-Z]*)\s*")


def parse_bytes(amount: int | str) -> int:
    """Read an amount of bytes: an integer, or a text such as ``"256KiB"`` or ``"24 GB"``.

    Parameters
    ----------
    amount : int or str
        ``kB, MB, GB, TB`` are powers of 1000, ``KiB, MiB, GiB, TiB`` powers of 1024; case is ignored.

    Returns
    -------
    int
        Bytes, rounded down.

    Raises
    ------
    UnitError
        If `amount` is negative or not an amount of bytes.

    Examples
    --------
    >>> parse_bytes("256KiB")
    262144
    >>> parse_bytes("1.5 GB")
    1500000000
    """
    if isinstance(amount, bool) or not isinstance(amount, int | str):
        raise UnitError(f"{amount!r} is not an amount of bytes; allowed: an integer or a text such as '256KiB'")
    if isinstance(amount, int):
        if amount < 0:
            raise UnitError(f"{amount} bytes: an amount of bytes is not negative")
        return amount
    match = _AMOUNT.fullmatch(amount)
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise UnitError(f"{amount!r} is not an amount of bytes; allowed: a number and B, kB, MB, GB, KiB, MiB, GiB")
    number = match.group(1).replace("_", "")
    whole, _, fraction = number.partition(".")
    if "." in fraction:
        raise UnitError(f"{amount!r} is not an amount of bytes: more than one decimal point")
    return int(whole) * factor + (int(fraction) * factor) // 10 ** len(fraction) if fraction else int(whole) * factor


def format_bytes(nbytes: int) -> str:
    """Bytes for people: three or four significant digits and a binary unit.

    Examples
    --------
    >>> format_bytes(579722400)
    '552.9 MiB'
    >>> format_bytes(1000)
    '1000 B'
    """
    if nbytes < 1024:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        # 1023.95 would print as 1024.0: move on to the next unit first.
        if value < 1023.95:
            return f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}"
    return f"{value / 1024:.2f} TiB"


def format_count(count: int) -> str:
    """Count for people: ``25.56 M``, ``4.089 G``; exact below ten thousand.

    Examples
    --------
    >>> format_count(25557032)
    '25.56 M'
    """
    if count < 10_000:
        return str(count)
    value = float(count)
    for unit in ("k", "M", "G"):
        value /= 1000
        if value < 999.95:
            return f"{value:.4g} {unit}"
    return f"{value / 1000:.4g} T"
