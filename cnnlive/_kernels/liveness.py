"""Liveness: which tensors share bytes, when each buffer lives, and the peak.

A buffer is named by the tensor that first wrote it. Lives are half-open steps ``[born, dead)``; a tensor
that is not the first of its buffer, and a stored parameter, has ``born == dead == 0``.
"""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64


@kernel
def live_ranges(
    order: I64,
    in_ptr: I64,
    in_idx: I64,
    out_ptr: I64,
    share: I64,
    reads: I64,
    held: I64,
    nbytes: I64,
    reuse: bool,
    like: I64,
    buffer: I64,
    uses: I64,
    born: I64,
    dead: I64,
    inside: I64,
    freed: I64,
) -> None:
    """Fill ``buffer``, ``born`` and ``dead`` (n_tensors,) for the ops run in `order`; ``uses`` is scratch.

    Tensors ``out_ptr[op] .. out_ptr[op + 1]`` are what an op writes. `share` per op: 0 writes bytes of its own;
    1 its outputs are the bytes of input 0; k >= 2 the output takes the bytes of the first of its k - 1 first inputs
    that nothing reads afterwards and whose size is equal; k < 0 likewise of those inputs ``i`` that have bit
    ``i + 1`` in ``~k``, and if bit 0 is set the output may be smaller. `held` per tensor: 1 never counted
    (a stored parameter), 2 lives from the first step, 4 lives to the end, and their sums. `reads` is how many
    edges leave each tensor. `reuse` has to be True if any `share` is neither 0 nor 1, and if `like` is given.

    `like` (n_tensors,), or empty: an op that takes nothing over writes each output into the dead buffer of the same
    number, not below 0, that was freed last; never into that of an input or output of the network. ``freed`` is
    scratch for it.

    ``inside`` (n_tensors,): where a smaller tensor lies in the bytes of another buffer, that buffer, else -1. The
    tensor begins a buffer of its own then, born one step after the op that writes it, when the other ends.

    Notes
    -----
    O(n_edges), one pass; with `like` also the dead buffers at each op.
    """
    n_steps = order.shape[0]
    n_freed = 0
    for s in range(n_steps):
        op = order[s]
        start = in_ptr[op]
        end = in_ptr[op + 1]
        written = out_ptr[op]
        mode = share[op]
        root = -1
        if mode == 1:
            root = buffer[in_idx[start]]
        for e in range(start, end):
            dead[buffer[in_idx[e]]] = s + 1
        if reuse:
            for e in range(start, end):
                uses[buffer[in_idx[e]]] -= 1
            if mode > 1 or mode < 0:
                for e in range(start, end):
                    may = e - start < mode - 1
                    if mode < 0 and e - start < 61:
                        may = (~mode >> (e - start + 1)) & 1 == 1
                    x = in_idx[e]
                    r = buffer[x]
                    may = may and uses[r] == 0 and held[r] & 5 == 0 and nbytes[x] == nbytes[r]
                    smaller = mode < 0 and ~mode & 1 and nbytes[r] > nbytes[written]
                    if root < 0 and may and (smaller or nbytes[r] == nbytes[written]):
                        root = r
        for t in range(written, out_ptr[op + 1]):
            inside[t] = -1
            if root >= 0 and (mode == 1 or nbytes[root] == nbytes[t]):
                buffer[t] = root
                if reuse:
                    uses[root] += reads[t] + (held[t] >> 2)
                continue
            r = -1
            if root >= 0:
                inside[t] = root
                born[t] = s + 1
            else:
                born[t] = s
                if like.shape[0] > 0 and like[t] >= 0 and held[t] & 7 == 0:
                    k = n_freed - 1
                    while k >= 0 and like[freed[k]] != like[t]:
                        k -= 1
                    if k >= 0:
                        r = freed[k]
                        n_freed -= 1
                        for i in range(k, n_freed):
                            freed[i] = freed[i + 1]
            if r < 0:
                r = t
            buffer[t] = r
            dead[r] = s + 1
            if reuse:
                uses[r] = reads[t] + (held[t] >> 2)
        if like.shape[0] > 0:
            # uses below 0: it is on the list
            for e in range(start, end):
                r = buffer[in_idx[e]]
                if uses[r] == 0 and held[r] & 7 == 0:
                    uses[r] = -1
                    freed[n_freed] = r
                    n_freed += 1
            for t in range(written, out_ptr[op + 1]):
                r = buffer[t]
                if uses[r] == 0 and held[r] & 7 == 0:
                    uses[r] = -1
                    freed[n_freed] = r
                    n_freed += 1
    for t in range(held.shape[0]):
        r = buffer[t]
        if r != t or held[t] & 1:
            born[t] = 0
            dead[t] = 0
        if held[t] >= 2 and held[r] & 1 == 0:
            if held[t] & 4:
                dead[r] = n_steps
            if held[t] & 2:
                born[r] = 0


@kernel
def peak_of(order: I64, nbytes: I64, born: I64, dead: I64, scratch: I64, live: I64) -> tuple[int, int]:
    """Fill ``live`` (bytes alive during each step); return ``(peak, first step at peak)``.

    `scratch` (n_ops,) bytes count only while their op runs.

    Notes
    -----
    O(n_ops + n_tensors), one pass over a difference array.
    """
    n_steps = live.shape[0]
    for s in range(n_steps):
        live[s] = 0
    # live[s] first holds the change on entering step s, then its running sum.
    for t in range(nbytes.shape[0]):
        if born[t] < dead[t]:
            live[born[t]] += nbytes[t]
            if dead[t] < n_steps:
                live[dead[t]] -= nbytes[t]
    total = 0
    best = -1
    best_step = 0
    for s in range(n_steps):
        total += live[s]
        now = total + scratch[order[s]]
        live[s] = now
        if now > best:
            best = now
            best_step = s
    return best, best_step


@kernel
def live_at(born: I64, dead: I64, step: int, found: I64) -> int:
    """Fill ``found`` with the buffers alive during `step`, ascending; return how many."""
    n = 0
    for t in range(born.shape[0]):
        if born[t] <= step < dead[t]:
            found[n] = t
            n += 1
    return n


@kernel
def least_needs(
    in_ptr: I64,
    in_idx: I64,
    out_ptr: I64,
    share: I64,
    held: I64,
    buffer: I64,
    nbytes: I64,
    scratch: I64,
    seen: I64,
) -> int:
    """Bytes that some op needs in every order: the largest sum of its distinct inputs, outputs and scratch.

    Network inputs that live to the end (`held` 6) count at every op. ``seen`` (n_tensors,) is scratch and
    has to hold -1.

    Notes
    -----
    O(n_edges). A lower bound of the peak of any order, since an op's inputs and outputs are alive together.
    """
    always = 0
    for t in range(held.shape[0]):
        if held[t] == 6:
            always += nbytes[t]
            seen[t] = in_ptr.shape[0]
    best = always
    for op in range(share.shape[0]):
        need = always + scratch[op]
        mode = share[op]
        reusable = False
        for e in range(in_ptr[op], in_ptr[op + 1]):
            x = in_idx[e]
            r = buffer[x]
            if mode >= 2 and nbytes[x] == nbytes[out_ptr[op]]:
                reusable = True
            if mode < 0 and (nbytes[x] == nbytes[out_ptr[op]] or (~mode & 1 and nbytes[x] > nbytes[out_ptr[op]])):
                reusable = True
            if seen[r] < op:
                seen[r] = op
                if held[r] & 1 == 0:
                    need += nbytes[r]
        if mode != 1 and not reusable:
            for t in range(out_ptr[op], out_ptr[op + 1]):
                if held[t] & 1 == 0 and seen[t] < op:
                    need += nbytes[t]
        best = max(best, need)
    return best


@kernel
def first_violation(
    order: I64, in_ptr: I64, in_idx: I64, producer: I64, before_ptr: I64, before_idx: I64, step: I64
) -> tuple[int, int]:
    """Find the first op in `order` that runs before an op it has to follow; ``(op, that op)`` or ``(-1, -1)``.

    An op follows the producers of its inputs and, if it overwrites bytes, every other reader of them
    (`before_ptr`, `before_idx`). ``step`` (n_ops,) is filled with the inverse of `order`.
    """
    n_ops = order.shape[0]
    for s in range(n_ops):
        step[order[s]] = s
    for s in range(n_ops):
        op = order[s]
        for e in range(in_ptr[op], in_ptr[op + 1]):
            if step[producer[in_idx[e]]] > s:
                return op, producer[in_idx[e]]
        for e in range(before_ptr[op], before_ptr[op + 1]):
            if step[before_idx[e]] > s:
                return op, before_idx[e]
    return -1, -1
