"""Plain lists and data that problems and results are made of: their form is checked before anything else is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cnnlive._types import is_text
from cnnlive.errors import RematError

__all__ = ["INTEGERS", "TEXTS", "array_of", "checked", "shown"]

#: Forms of lists.
INTEGERS: Final = "a list of integers of 64 bits"
TEXTS: Final = "a list of texts"


def checked(data: Any, what: str, forms: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the form of plain data; return them.

    Parameters
    ----------
    data : mapping
    what : str
        What the data are of, as errors say it.
    forms : mapping
        For each entry that has to be there: a type, or several in a union; `INTEGERS` or `TEXTS`; or a tuple of all
        values that are allowed. A boolean is no integer, and an integer has 64 bits.

    Raises
    ------
    RematError
        Names the first entry that is missing or of another form, and what is allowed.

    Examples
    --------
    >>> checked({"batch": 2}, "a plan", {"batch": int})
    {'batch': 2}
    >>> checked({"batch": True}, "a plan", {"batch": int})
    Traceback (most recent call last):
    cnnlive.errors.RematError: batch=True in a plan's data; allowed: what to_dict returns
    """
    if not isinstance(data, Mapping):
        raise RematError(f"{what}'s data is a {type(data).__name__}; allowed: what to_dict returns")
    for key, form in forms.items():
        if key not in data:
            raise RematError(f"{what}'s data lacks {key!r}")
        value = data[key]
        if isinstance(form, str):
            words, fine = form, isinstance(value, list | tuple) and all(map(_TESTS[form], value))
        elif isinstance(form, tuple):
            words = ", ".join(map(repr, form))
            fine = any(type(value) is type(v) and value == v for v in form)
        else:
            words = "what to_dict returns"
            fine = isinstance(value, form) and (_is_int(value) if isinstance(value, int) and form is not bool else True)
            fine = fine and (is_text(value) if isinstance(value, str) else True)
        if not fine:
            raise RematError(f"{key}={shown(value)} in {what}'s data; allowed: {words}")
    return data


def array_of(values: Any, what: str, kinds: str, words: str) -> NDArray[Any]:
    """Return a list as an array of one dimension, or a number as one of none.

    Parameters
    ----------
    values : array_like
    what : str
        What they are, as errors say it.
    kinds : str
        Allowed kinds of numpy's types. An empty list is of any kind.
    words : str
        What that is in words.

    Raises
    ------
    RematError
        If they are of another kind, or lists of lists.

    Examples
    --------
    >>> array_of([1, [2]], "cost", "iu", "integers")
    Traceback (most recent call last):
    cnnlive.errors.RematError: cost is [1, [2]]; allowed: a list of integers
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # lists of several lengths
        raise RematError(f"{what} is {shown(values)}; allowed: a list of {words}") from None
    if array.ndim > 1 or (array.dtype.kind not in kinds and array.size):
        raise RematError(f"{what} is {array.ndim}-dimensional of {array.dtype}; allowed: a list of {words}")
    return array


def _is_int(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


_TESTS: Final = {INTEGERS: _is_int, TEXTS: is_text}


def shown(value: Any, most: int = 60) -> str:
    """Return a value as errors show it, long ones in part."""
    text = repr(value[:8] if isinstance(value, Sequence) else value)
    return text if len(text) <= most else text[:most] + "..."
