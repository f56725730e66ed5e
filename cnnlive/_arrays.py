"""Plain arrays of sizes, inputs and outputs as the columns of a lowered net."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._types import DTYPE_CODE, I64, column
from cnnlive.errors import CycleError, LoweringError

__all__ = ["Rows", "columns_of"]

# Tensors of each op: lists, or a CSR pair of arrays.
Rows: TypeAlias = Sequence[Iterable[int]] | tuple[I64, I64]

_LIMIT: Final = 2**62
# Of `cnnlive.lowered`: the op's outputs are bytes of its first input.
_VIEW: Final = 1


def columns_of(
    nbytes: ArrayLike,
    op_inputs: Rows,
    op_outputs: Rows,
    scratch: ArrayLike | None,
    inplace: Rows | None,
    outputs: Sequence[int] | None,
    views: Sequence[int],
    op_names: Sequence[str] | None,
) -> tuple[dict[str, Any], I64]:
    """Return the columns of :class:`cnnlive.Lowered` for plain arrays, and the tensors' dimensions.

    Arguments and errors are those of :meth:`cnnlive.Lowered.from_arrays`. Op kinds are ``"input"`` and ``"op"``; an op
    that may take over inputs reads those first.
    """
    size = _sizes_of(nbytes, "nbytes")
    n_tensors = len(size)
    in_ptr, in_idx = _rows(op_inputs, "op_inputs", n_tensors)
    out_ptr, out_idx = _rows(op_outputs, "op_outputs", n_tensors)
    n = len(out_ptr) - 1
    extra = np.zeros(n, np.int64) if scratch is None else _sizes_of(scratch, "scratch")
    names = [f"op{i}" for i in range(n)] if op_names is None else list(map(str, op_names))
    for what, length in (("op_inputs", len(in_ptr) - 1), ("scratch", len(extra)), ("op_names", len(names))):
        if length != n:
            raise LoweringError(f"{what} has {length} ops and op_outputs {n}; allowed: as many")
    if float(size.astype(np.float64).sum()) + float(extra.astype(np.float64).sum()) >= _LIMIT:
        raise LoweringError("all sizes together reach 2**62 bytes; allowed: below")
    writer = np.full(n_tensors, -1, np.int64)
    by_op = np.repeat(np.arange(n), np.diff(out_ptr))
    # numpy keeps the last of several values assigned to one place
    writer[out_idx] = by_op
    twice = np.flatnonzero(writer[out_idx] != by_op)
    if not len(twice):
        counted = np.bincount(out_idx, minlength=n_tensors)
        twice = np.flatnonzero(counted[out_idx] > 1)
    if len(twice):
        t = int(out_idx[twice[0]])
        raise LoweringError(f"tensor {t} is written by {names[by_op[twice[0]]]} and by {names[writer[t]]}")
    read = np.bincount(in_idx, minlength=n_tensors)
    given = np.flatnonzero(writer < 0)
    if len(given) and not read[given].all():
        raise LoweringError(f"tensor {given[read[given] == 0][0]} is neither written nor read by any op")
    empty = np.flatnonzero(np.diff(out_ptr) == 0)
    if len(empty):
        raise LoweringError(f"{names[empty[0]]} writes no tensor")
    order = _legal_order(in_ptr, in_idx, writer, names)
    # the network's inputs come first, then the ops in order
    n_given = len(given)
    made = _ragged(out_ptr, out_idx, order)
    renumbered = np.empty(n_tensors, np.int64)
    renumbered[given] = np.arange(n_given)
    renumbered[made] = np.arange(n_given, n_tensors)
    row_of = np.empty(n, np.int64)
    row_of[order] = np.arange(n)
    alias = np.zeros(n, np.int64)
    reads = in_idx.copy()
    for op in views:
        if not 0 <= op < n:
            raise LoweringError(f"views names op {op}; allowed: 0 to {n - 1}")
        if in_ptr[op] == in_ptr[op + 1]:
            raise LoweringError(f"{names[op]} is a view, and reads no tensor to look at")
        alias[op] = _VIEW
    if inplace is not None:
        _order_by_takeover(inplace, names, in_ptr, reads, out_ptr, alias, n_tensors)
    new_in_ptr = np.concatenate([np.zeros(n_given + 1, np.int64), np.cumsum(np.diff(in_ptr)[order])])
    new_out_ptr = np.concatenate([np.arange(n_given + 1), n_given + np.cumsum(np.diff(out_ptr)[order])])
    new_in = renumbered[_ragged(in_ptr, reads, order)]
    n_ops = n_given + n
    kept = np.flatnonzero(read == 0) if outputs is None else np.asarray(list(outputs), np.int64)
    wrong = [t for t in kept.tolist() if not 0 <= t < n_tensors]
    if wrong:
        raise LoweringError(f"outputs names tensor {wrong[0]}; allowed: 0 to {n_tensors - 1}")
    is_output = np.zeros(n_tensors, np.int64)
    is_output[renumbered[kept]] = 1
    nothing = np.zeros(n_ops, np.int64)
    numel = size[np.concatenate([given, made])]
    dims = np.ones((n_tensors, 6), np.int64)
    dims[:, 0] = numel
    all_names = (*(f"input{t}" for t in given.tolist()), *(names[i] for i in order.tolist()))
    if len(set(all_names)) != n_ops:
        seen: set[str] = set()
        again = next(x for x in all_names if x in seen or seen.add(x))  # type: ignore[func-returns-value]
        raise LoweringError(f"two ops are called {again!r}")
    first_op = np.concatenate(
        [np.arange(n_given), np.repeat(np.arange(n_given, n_ops), np.diff(new_out_ptr[n_given:]))]
    )
    columns = dict[str, Any](
        op_names=all_names, op_kinds=("input",) * n_given + ("op",) * n, op_scopes=("",) * n_ops,
        op_attrs=({},) * n_ops, parameter_order=column(np.arange(n_ops)), holds=column([], (0, 2)),
        in_ptr=column(new_in_ptr), in_idx=column(new_in), out_ptr=column(new_out_ptr), producer=column(first_op),
        reads=column(np.bincount(new_in, minlength=n_tensors)), kind=column(np.arange(n_tensors) < n_given),
        is_output=column(is_output), outputs=column(renumbered[kept]),
        dtype=column(np.full(n_tensors, DTYPE_CODE["uint8"])), rule=column([]), attr_ptr=column(np.zeros(n_ops + 1)),
        attr=column([]), macs_rule=column(nothing), weight_rule=column(np.zeros((n_ops, 6))),
        owner=column(np.zeros((n_ops, 4))), tied=column([], (0, 3)), frozen=column(np.zeros((n_ops, 4))),
        alias=column(np.concatenate([np.zeros(n_given), alias[order]])), fold=column(nothing),
        statistics=column([], (0, 4)), index_bytes=column(nothing),
        scratch=column(np.concatenate([np.zeros(n_given), extra[order]])), before_ptr=column(np.zeros(n_ops + 1)),
        before_idx=column([]), batch=1, counts=column(np.zeros((n_ops, 5))),
    )  # fmt: skip
    return columns, column(dims)


def _order_by_takeover(
    inplace: Rows, names: Sequence[str], in_ptr: I64, reads: I64, out_ptr: I64, alias: I64, n_tensors: int
) -> None:
    """Put the inputs that an op may take over before its others, and their number into its alias code."""
    ptr, idx = _rows(inplace, "inplace", n_tensors)
    if len(ptr) != len(in_ptr):
        raise LoweringError(f"inplace has {len(ptr) - 1} ops and op_outputs {len(in_ptr) - 1}; allowed: as many")
    for op in np.flatnonzero(np.diff(ptr)).tolist():
        row, first = reads[in_ptr[op] : in_ptr[op + 1]].tolist(), idx[ptr[op] : ptr[op + 1]].tolist()
        strange = [t for t in first if t not in row]
        if strange:
            raise LoweringError(f"{names[op]} takes over tensor {strange[0]}, which it does not read")
        if out_ptr[op + 1] - out_ptr[op] != 1 or alias[op] == _VIEW:
            raise LoweringError(f"{names[op]} takes over an input; allowed: of an op with one output that is no view")
        rest = [t for t in row if t not in first]
        again = [t for t in dict.fromkeys(first) for _ in range(row.count(t))]
        reads[in_ptr[op] : in_ptr[op + 1]] = again + rest
        alias[op] = -len(again)


def _sizes_of(values: ArrayLike, what: str) -> I64:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise LoweringError(f"{what} is {array.ndim}-dimensional of {array.dtype}; allowed: a list of integers")
    wrong = np.flatnonzero((array < 0) | (array >= _LIMIT))
    if len(wrong):
        raise LoweringError(f"{what}[{wrong[0]}] is {array[wrong[0]]}; allowed: 0 or more, below 2**62")
    return array.astype(np.int64)


def _rows(rows: Rows, what: str, n_tensors: int) -> tuple[I64, I64]:
    """Read lists of tensors, or a CSR pair."""
    if isinstance(rows, tuple) and len(rows) == 2 and all(isinstance(r, np.ndarray) for r in rows):
        ptr, idx = (np.asarray(r) for r in rows)
        if ptr.ndim != 1 or idx.ndim != 1 or any(a.size and a.dtype.kind not in "iu" for a in (ptr, idx)):
            raise LoweringError(f"{what} is no CSR pair; allowed: two one-dimensional arrays of integers")
        if not len(ptr) or ptr[0] != 0 or ptr[-1] != len(idx) or (np.diff(ptr) < 0).any():
            raise LoweringError(f"{what} is no CSR pair; allowed: pointers from 0 up to the {len(idx)} entries")
        found = ptr.astype(np.int64), idx.astype(np.int64)
    else:
        lists = [list(row) for row in rows]
        flat = [t for row in lists for t in row]
        strange = [t for t in flat if isinstance(t, bool) or not isinstance(t, int | np.integer)]
        if strange:
            raise LoweringError(f"{what} has {strange[0]!r}; allowed: numbers of tensors")
        found = np.cumsum([0, *map(len, lists)]), np.array(flat, np.int64)
    if len(found[0]) == 1:
        raise LoweringError(f"{what} has no ops")
    wrong = np.flatnonzero((found[1] < 0) | (found[1] >= n_tensors))
    if len(wrong):
        op = int(np.searchsorted(found[0], wrong[0], side="right")) - 1
        raise LoweringError(f"{what} of op {op} has tensor {found[1][wrong[0]]}; allowed: 0 to {n_tensors - 1}")
    return found


def _ragged(ptr: I64, idx: I64, rows: I64) -> I64:
    """Return the entries of `rows`, end to end."""
    length = ptr[rows + 1] - ptr[rows]
    ends = np.cumsum(length)
    found: I64 = idx[np.arange(ends[-1]) + np.repeat(ptr[rows] - ends + length, length)]
    return found


def _legal_order(in_ptr: I64, in_idx: I64, writer: I64, names: Sequence[str]) -> I64:
    """Return the ops so that each comes after those whose outputs it reads, as given where that is legal."""
    n = len(in_ptr) - 1
    reader = np.repeat(np.arange(n), np.diff(in_ptr))
    source = writer[in_idx]
    if (source < reader).all():
        return np.arange(n)
    readers: list[list[int]] = [[] for _ in range(n)]
    missing = [0] * n
    for a, b in zip(source.tolist(), reader.tolist(), strict=True):
        if a >= 0:
            readers[a].append(b)
            missing[b] += 1
    ready = [op for op in range(n) if not missing[op]]
    order = []
    while ready:
        op = heapq.heappop(ready)
        order.append(op)
        for b in readers[op]:
            missing[b] -= 1
            if not missing[b]:
                heapq.heappush(ready, b)
    if len(order) < n:
        # every op that is left waits for another that is left: going back along them ends in a cycle
        left = set(range(n)).difference(order)
        path, at = dict[int, None](), min(left)
        while at not in path:
            path[at] = None
            at = next(a for a in writer[in_idx[in_ptr[at] : in_ptr[at + 1]]].tolist() if a in left)
        cycle = list(path)[list(path).index(at) :][::-1]
        raise CycleError(f"the ops have a cycle: {' -> '.join(names[i] for i in [*cycle, cycle[0]])}")
    return np.array(order, np.int64)
