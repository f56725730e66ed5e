"""Type aliases, the data types of tensors, and read-only arrays."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnlive.errors import DTypeError

__all__ = [
    "DTYPES",
    "DTYPE_CODE",
    "F32",
    "F64",
    "FLOATING",
    "I16",
    "I32",
    "I64",
    "IS_FLOATING",
    "ITEMSIZE",
    "ITEMSIZES",
    "U32",
    "Attrs",
    "Columns",
    "Result",
    "Shape",
    "Shown",
    "column",
    "csr",
    "dtype_name",
    "frozen",
    "is_text",
    "promote",
]

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
I16: TypeAlias = NDArray[np.int16]
I32: TypeAlias = NDArray[np.int32]
U32: TypeAlias = NDArray[np.uint32]
I64: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]
Attrs: TypeAlias = Mapping[str, Any]

# Position in this table is the dtype code of the lowered arrays.
ITEMSIZE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "float32": 4,
        "float16": 2,
        "bfloat16": 2,
        "float64": 8,
        "int8": 1,
        "uint8": 1,
        "bool": 1,
        "int16": 2,
        "int32": 4,
        "int64": 8,
    }
)
DTYPES: Final = tuple(ITEMSIZE)
DTYPE_CODE: Final = {name: code for code, name in enumerate(DTYPES)}
FLOATING: Final = frozenset({"float32", "float16", "bfloat16", "float64"})
# The same by code: what arrays of codes are looked up in.
ITEMSIZES: Final = np.array(list(ITEMSIZE.values()), dtype=np.int64)
IS_FLOATING: Final = np.array([name in FLOATING for name in DTYPES])
_ALIASES: Final = {"float": "float32", "half": "float16", "double": "float64", "fp32": "float32", "fp16": "float16",
                   "bf16": "bfloat16", "long": "int64"}  # fmt: skip


def dtype_name(dtype: object) -> str:
    """Name one of `DTYPES` from a text, a numpy dtype or a framework dtype such as ``torch.float16``.

    Raises
    ------
    DTypeError
        If it is none of them.

    Examples
    --------
    >>> dtype_name("half"), dtype_name(np.int8)
    ('float16', 'int8')
    """
    if isinstance(dtype, str):
        name = dtype
    elif isinstance(dtype, type | np.dtype):
        name = np.dtype(dtype).name
    else:
        name = str(dtype)
    name = name.rpartition(".")[2]
    name = _ALIASES.get(name, name)
    if name not in ITEMSIZE:
        raise DTypeError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    return name


def is_text(value: object) -> bool:
    r"""Say whether a value is a text that can be written: half of a surrogate pair cannot.

    Examples
    --------
    >>> is_text("conv1"), is_text(1), is_text("\ud800")
    (True, False, False)
    """
    if not isinstance(value, str):
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def promote(dtypes: tuple[str, ...]) -> str:
    """Return the dtype of an operation that mixes `dtypes`: floats before integers, wide before narrow."""
    first = dtypes[0]
    if dtypes.count(first) == len(dtypes):
        return first
    floats = {d for d in dtypes if d in FLOATING}
    if floats == {"float16", "bfloat16"}:
        return "float32"
    if {"int8", "uint8"} <= set(dtypes) <= {"int8", "uint8", "bool"}:
        return "int16"
    return max(floats or set(dtypes), key=lambda d: (ITEMSIZE[d], d))


def frozen(array: I64) -> I64:
    """Return the array, read-only: a kernel is compiled for one kind of each argument."""
    array.setflags(write=False)
    return array


def column(values: ArrayLike, shape: tuple[int, ...] | None = None) -> I64:
    """Return a C-contiguous, read-only int64 array: the one form that kernels are compiled for."""
    array: I64 = np.ascontiguousarray(values, dtype=np.int64)
    return frozen(array if shape is None else array.reshape(shape))


def csr(rows: Sequence[Sequence[int]]) -> tuple[I64, I64]:
    """Return lists of integers end to end, as where each begins and ends, and their entries."""
    return column([0, *accumulate(map(len, rows))]), column([x for row in rows for x in row])


class Columns:
    """Base of frozen dataclasses of arrays: a pickled copy has read-only arrays again, and an empty cache."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        names = [f.name for f in fields(self) if f.name != "_cache"]  # type: ignore[arg-type]
        return _rebuild, (type(self), [getattr(self, name) for name in names])


class Shown:
    """Base of results: they draw themselves, show themselves in notebooks, give their tables and make pages.

    The methods are in :mod:`cnnlive.report`, layers above this one, and are looked up by name when one is called; so
    neither matplotlib nor pandas is imported before, and imports still point one way.
    """

    __slots__ = ()

    def plot(self, kind: str | None = None, *, ax: Any = None, **options: Any) -> Any:
        """Draw the result with matplotlib (extra ``viz``); see :func:`cnnlive.report.plot.plot`.

        Parameters
        ----------
        kind : str, optional
            Which drawing, where a result has several. Default: the first of them.
        ax : matplotlib.axes.Axes, optional
            Where to draw. Default: a figure of its own.
        **options
            Of the drawing.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        MissingExtraError
            Without matplotlib.
        ReportError
            If the result has no such drawing.
        """
        return importlib.import_module("cnnlive.report.plot").plot(self, kind, ax=ax, **options)

    def to_frame(self, table: str | None = None, *, library: str = "pandas") -> Any:
        """Return a table of the result as a data frame; see :func:`cnnlive.report.frame.to_frame`.

        Parameters
        ----------
        table : str, optional
            Which table, where a result has several. Default: the first of them.
        library : {"pandas", "polars"}

        Returns
        -------
        pandas.DataFrame or polars.DataFrame

        Raises
        ------
        MissingExtraError
            Without the library.
        ReportError
            If there is no such table or library.
        """
        return importlib.import_module("cnnlive.report.frame").to_frame(self, table, library=library)

    def write_html(self, path: str | os.PathLike[str], *, title: str | None = None) -> None:
        """Write the result as one interactive HTML file (extra ``report``); see :func:`cnnlive.write_report`.

        Parameters
        ----------
        path : path
        title : str, optional
            Of the page. Default: the network's name.

        Raises
        ------
        MissingExtraError
            Without Plotly.
        OSError
            If the file cannot be written.
        """
        importlib.import_module("cnnlive.report.html").write_report(path, self, title=title)

    def _repr_html_(self) -> str:
        html: str = importlib.import_module("cnnlive.report.notebook").html(self)
        return html


class Result(Columns, Shown):
    """Base of what planners return: a Columns that is shown."""

    __slots__ = ()


def _rebuild(cls: type, values: list[Any]) -> Any:
    return cls(*[frozen(v) if isinstance(v, np.ndarray) else v for v in values])
