"""Counting: parameters, buffers and multiply-accumulates of every op."""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64


@kernel
def count(
    macs_rule: I64,
    weight_rule: I64,
    owner: I64,
    attr_ptr: I64,
    attr: I64,
    in_ptr: I64,
    in_idx: I64,
    out_ptr: I64,
    rank: I64,
    dims: I64,
    numel: I64,
    counts: I64,
) -> tuple[int, int]:
    """Fill ``counts`` (n_ops, 5): multiply-accumulates, weights, biases, buffers, batch counters (elements).

    `macs_rule`: 0 none, 1 convolution, 2 linear, 3 matrix product. `weight_rule` (n_ops, 6) holds a rule and
    its columns: 0 literal counts, 1 convolution, 2 linear, 3 vectors per channel, 4 the trailing dimensions.
    `owner` (n_ops, 4) is 0 where another op owns that role.

    Returns
    -------
    status, op : int, int
        0 and n_ops, or 2 and the first op with 2**62 multiply-accumulates or more.

    Notes
    -----
    O(n_ops).
    """
    n_ops = macs_rule.shape[0]
    for op in range(n_ops):
        counts[op, 0] = 0
        rule = weight_rule[op, 0]
        a = attr_ptr[op]
        x = in_idx[in_ptr[op]] if in_ptr[op + 1] > in_ptr[op] else -1
        t = out_ptr[op]
        per_output = 0
        if rule == 1:
            window = 1
            for i in range(attr[a]):
                window *= attr[a + 5 + 6 * i]
            # A transposed convolution has in_channels filters of out_channels / groups; the product is the same.
            weight = window * dims[x, 1] * attr[a + 1] // attr[a + 2]
            vector = attr[a + 1]
            per_output = weight // attr[a + 1]
        elif rule == 2:
            vector = attr[a]
            per_output = dims[x, rank[x] - 1]
            weight = vector * per_output
        elif rule == 3:
            vector = dims[x, 1]
            weight = vector
        elif rule == 4:
            vector = 1
            for i in range(rank[x] - weight_rule[op, 5], rank[x]):
                vector *= dims[x, i]
            weight = vector
        else:
            vector = 1
            weight = 1
        counts[op, 1] = weight_rule[op, 1] * weight * owner[op, 0]
        counts[op, 2] = weight_rule[op, 2] * vector * owner[op, 1]
        counts[op, 3] = weight_rule[op, 3] * vector * owner[op, 2]
        counts[op, 4] = weight_rule[op, 4] * owner[op, 3]
        if macs_rule[op] == 0:
            continue
        positions = numel[t]
        if macs_rule[op] == 3:
            per_output = dims[x, rank[x] - 1]
        elif macs_rule[op] == 1 and attr[a + 3] != 0:
            # Transposed: every input element meets the filters of its channel once.
            positions = numel[x]
            per_output = weight // dims[x, 1]
        if float(positions) * float(per_output) >= 4611686018427387904.0:
            return 2, op
        counts[op, 0] = positions * per_output
    return 0, n_ops
