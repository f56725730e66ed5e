"""Every error of cnnlive: one base class, one class per situation, each also a builtin.

"Does not fit" is never an error; it is a result.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

__all__ = [
    "ArenaError",
    "AttributeValueError",
    "BudgetError",
    "CnnliveError",
    "CycleError",
    "DTypeError",
    "GraphError",
    "LoweringError",
    "MissingExtraError",
    "OrderError",
    "ReadError",
    "RematError",
    "ShapeError",
    "SpaceError",
    "UnitError",
    "UnknownNetError",
    "UnknownOperatorError",
    "UnknownProfileError",
]


def close_names(name: object, known: Collection[str]) -> str:
    """Return ``"; did you mean a or b?"``, or nothing where no known name is close.

    Examples
    --------
    >>> close_names("vgg61", ["vgg16", "alexnet"])
    '; did you mean vgg16?'
    """
    import difflib  # noqa: PLC0415 - only for the message

    known = list(known)[:10_000]
    close = difflib.get_close_matches(str(name), known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


class CnnliveError(Exception):
    """Base of every error that cnnlive raises on purpose."""


class GraphError(CnnliveError, ValueError):
    """A graph that is not a well-formed CNN: duplicate names, missing inputs, a foreign tensor."""


class CycleError(GraphError):
    """A graph with a cycle; the message lists the nodes on it."""


class UnknownOperatorError(CnnliveError, LookupError):
    """An operator that is not in the operator table."""


class AttributeValueError(CnnliveError, ValueError, TypeError):
    """An operator attribute that is missing, unknown or outside what the operator allows."""


class ShapeError(CnnliveError, ValueError):
    """Shapes that the operator cannot combine, or a size that does not fit 62 bits."""


class DTypeError(CnnliveError, ValueError):
    """An unknown data type, or types that the operator cannot combine."""


class LoweringError(CnnliveError, ValueError):
    """A graph or plain arrays that cannot be lowered to what the kernels assume."""


class OrderError(CnnliveError, ValueError):
    """A sequence that is not a legal execution order; the message names the first offending op."""


class SpaceError(CnnliveError, ValueError):
    """A search space that is not well formed, a genotype that is not of it, or a question it cannot answer."""


class ArenaError(CnnliveError, ValueError):
    """Buffers that are not well formed, or a question about an arena that has no meaning."""


class RematError(CnnliveError, ValueError):
    """A rematerialisation problem that is not well formed, or a plan of another one."""


class BudgetError(RematError):
    """A budget that no plan meets.

    Attributes
    ----------
    minimum_bytes : int
        The least budget that a plan was found for, or is proven to be needed; the message says which.
    """

    def __init__(self, message: str, minimum_bytes: int) -> None:
        super().__init__(message, minimum_bytes)
        self.minimum_bytes = minimum_bytes

    def __str__(self) -> str:
        return str(self.args[0])


class UnitError(CnnliveError, ValueError):
    """A text that is not an amount of bytes."""


class UnknownProfileError(CnnliveError, LookupError):
    """A runtime profile that does not exist."""


class UnknownNetError(CnnliveError, LookupError):
    """A network name that the zoo does not know."""


class ReadError(CnnliveError, ValueError):
    """A file that cannot be read as a network: damaged, of another kind, or outside what is supported."""


class MissingExtraError(CnnliveError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


def import_extra(module: str, extra: str, doing: str) -> Any:
    """Import a module of an optional package; without its types, which not everybody has.

    Raises
    ------
    MissingExtraError
        If it is not installed: `doing` needs it, and `extra` installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"{doing} needs the package {package}, installed by the extra {extra!r}: pip install 'cnnlive[{extra}]'"
        ) from None
