"""Many candidates in contiguous chunks, on threads or through any executor."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np

from cnnlive._types import I64
from cnnlive.errors import AttributeValueError

__all__ = ["available_threads", "chunk_bounds", "read_threads", "run_chunks"]

T = TypeVar("T")
# What a task is: a function and its arguments. Through an executor both are pickled.
Task = tuple[Callable[..., T], tuple[Any, ...]]

# Less than this is done before a second thread has begun.
_INLINE: Final = 1 << 14
# A chunk between two looks at the keyboard: some milliseconds of a kernel's work.
_LARGEST: Final = 1 << 20
# What a chunk that travels to another process should be worth.
_REMOTE: Final = 1 << 15


def available_threads() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_threads(threads: int | None) -> int:
    """Check a number of threads; None is every core that this process may use.

    Raises
    ------
    AttributeValueError
        If it is not an integer >= 1.
    """
    if threads is None:
        return available_threads()
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1:
        raise AttributeValueError(f"threads={threads!r}; allowed: an integer >= 1 or None, for every core")
    return int(threads)


def chunk_bounds(weights: int | I64, pieces: int) -> list[int]:
    """Cut candidates into at most `pieces` contiguous chunks of about equal weight.

    Parameters
    ----------
    weights : int or (n + 1,) int64
        Number of candidates of equal weight; or weights summed up, such as ``graph_ptr``.
    pieces : int

    Returns
    -------
    list of int
        Where each chunk begins, and n at the end; no chunk is empty.
    """
    if isinstance(weights, int):
        n, total, first = weights, weights, 0
    else:
        n, first = len(weights) - 1, int(weights[0])
        total = int(weights[-1]) - first
    targets = first + (np.arange(1, max(pieces, 1), dtype=np.int64) * total) // max(pieces, 1)
    inner = targets if isinstance(weights, int) else np.searchsorted(weights, targets)
    return sorted({0, *np.clip(inner, 0, n).tolist(), n}) if n else [0, 0]


def run_chunks(
    weights: int | I64,
    task: Callable[[int, int], Task[T]],
    *,
    threads: int | None = None,
    executor: Executor | None = None,
    unit: int = 1,
) -> list[T]:
    """Evaluate candidates in contiguous chunks and return what each chunk gave, in order.

    Parameters
    ----------
    weights : int or (n + 1,) int64
        Number of candidates, or their weights summed up (``graph_ptr``): chunks are of about equal weight.
    task : callable
        ``task(begin, end)`` returns a function and its arguments, which evaluate candidates ``begin .. end - 1``.
        The function should let go of the GIL. It is given to threads of this process as it is; for an executor it
        has to be of a module's top level and its arguments are pickled, so cut them to the chunk.
    threads : int, optional
        Default: every core that this process may use. With 1, or with little to do, nothing is started.
    executor : concurrent.futures.Executor, optional
        Takes the chunks instead of threads, through ``submit``; it is not shut down.
    unit : int
        Roughly the nodes that a weight of 1 stands for.

    Returns
    -------
    list
        One result per chunk; none for no candidates.

    Raises
    ------
    AttributeValueError
        If `threads` or `executor` is none.
    Exception
        What the first failing chunk, by position, raises. Chunks that have not begun are cancelled then, and when
        the caller interrupts; those that run are waited for on threads of this process.

    Notes
    -----
    Nothing outlives the call: a child that is forked afterwards finds no pool without threads.
    """
    threads = read_threads(threads)
    if executor is not None and not hasattr(executor, "submit"):
        raise AttributeValueError(f"executor={executor!r}; allowed: a concurrent.futures.Executor")
    n = weights if isinstance(weights, int) else len(weights) - 1
    if n == 0:
        return []
    total = unit * (n if isinstance(weights, int) else int(weights[-1] - weights[0]))
    if executor is not None:
        pieces = min(max(total // _REMOTE, 1), max(4 * threads, 32, total // _LARGEST))
    else:
        pieces = -(-total // _LARGEST)
        if threads > 1 and total > _INLINE:
            pieces = max(4 * threads, pieces) if total > 8 * threads * _INLINE else threads
    bounds = chunk_bounds(weights, int(pieces))
    chunks = list(pairwise(bounds))
    if executor is not None:
        return _collect(executor, task, chunks)
    if threads == 1 or len(chunks) == 1:
        return [function(*args) for function, args in (task(a, b) for a, b in chunks)]
    with ThreadPoolExecutor(min(threads, len(chunks))) as pool:
        return _collect(pool, task, chunks)


def _collect(pool: Executor, task: Callable[[int, int], Task[T]], chunks: list[tuple[int, int]]) -> list[T]:
    """Return the results in order; the first failure, or an interruption, cancels what has not begun."""
    futures: list[Future[T]] = []
    try:
        for begin, end in chunks:
            function, args = task(begin, end)
            futures.append(pool.submit(function, *args))
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
