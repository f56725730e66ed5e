"""Reading the JSON that :meth:`cnnlive.Graph.to_json` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from cnnlive.errors import CnnliveError, ReadError
from cnnlive.graph import Graph

__all__ = ["read_json"]


def read_json(source: str | os.PathLike[str] | Mapping[str, Any]) -> Graph:
    """Read a graph from a JSON file, a JSON text, or the plain data that both hold.

    Parameters
    ----------
    source : str, path or mapping
        A path; a text, recognised by its opening brace; or what :meth:`cnnlive.Graph.to_dict` returns.

    Returns
    -------
    Graph
        Equal to the one written, attribute for attribute and in the same order.

    Raises
    ------
    ReadError
        If the file cannot be opened, is not JSON, or an object has a key twice; the message gives the file's name.
    GraphError, UnknownOperatorError, AttributeValueError, ShapeError
        If the data is JSON and not a graph; the message gives the file's name and the op.

    Examples
    --------
    >>> g = Graph("tiny")
    >>> x = g.relu(g.input((1, 3, 8, 8)))
    >>> read_json(g.to_json()).to_dict() == g.to_dict()
    True
    """
    if isinstance(source, Mapping):
        return _build(source, "")
    text = os.fspath(source)
    where = "the text"
    if not isinstance(source, str) or not source.lstrip().startswith("{"):
        where = repr(text)
        try:
            with open(text, encoding="utf-8") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ReadError(f"{where} cannot be read as a graph: {reason}") from None
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except ReadError as error:
        raise ReadError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{where} is not JSON: {error}") from None
    if not isinstance(data, Mapping):
        raise ReadError(f"{where} holds JSON of type {type(data).__name__}; allowed: an object, as to_json writes it")
    return _build(data, f"{where}: ")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice: the second would take the place of the first without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ReadError(f"the key {twice!r} stands twice in one object; allowed: once")
    return found


def _build(data: Mapping[str, Any], where: str) -> Graph:
    try:
        return Graph.from_dict(data)
    except CnnliveError as error:
        raise type(error)(f"{where}{error}") from None
