"""Many graphs end to end in flat arrays: shapes, counts and the in-order peak of each, in one pass over its ops.

Graph g has the ops ``graph_ptr[g] .. graph_ptr[g + 1]``; indices of edges are local to the graph. Pointers need not
begin with 0, so that a slice of a batch is a slice of its arrays: what they point into begins at their first entry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64

I32 = NDArray[np.int32]


@kernel
def sizes_peak(graph_ptr: I64, in_ptr: I64, in_idx: I32, nbytes: I64, last: I64, freed: I64, peak: I64) -> None:
    """Fill ``peak`` (n_graphs,): most bytes alive at once where each node writes one tensor of ``nbytes``.

    The last node of a graph is its output. ``last`` and ``freed`` are scratch, as long as the largest graph has
    nodes; ``freed`` has to hold 0 and does so again afterwards.

    Notes
    -----
    O(n_edges). The first and the last input of a node are stored without a loop: random numbers of inputs cost a
    wrong guess per node otherwise (6.4 ns a node against 4.7).
    """
    node_0 = graph_ptr[0]
    edge_0 = in_ptr[0]
    for g in range(graph_ptr.shape[0] - 1):
        first = graph_ptr[g] - node_0
        n = graph_ptr[g + 1] - graph_ptr[g]
        start = in_ptr[first] - edge_0
        for s in range(n):
            last[s] = s
            stop = in_ptr[first + s + 1] - edge_0
            if stop > start:
                last[in_idx[start]] = s
                last[in_idx[stop - 1]] = s
                for e in range(start + 1, stop - 1):
                    last[in_idx[e]] = s
            start = stop
        for s in range(n - 1):
            freed[last[s]] += nbytes[first + s]
        live = 0
        best = 0
        for s in range(n):
            live += nbytes[first + s]
            best = max(best, live)
            live -= freed[s]
            freed[s] = 0
        peak[g] = best


@kernel
def window_of(n: int, k: int, s: int, before: int, after: int, d: int, mode: int, ceil: int) -> int:
    """Count the positions of a window along one dimension; below 1 if it does not fit. As in the shapes' kernel."""
    if k < 1 or s < 1 or d < 1 or before < 0 or after < 0:
        return 0
    if mode != 0:
        return (n + s - 1) // s
    span = n + before + after - d * (k - 1) - 1
    if s == 1:
        return span + 1
    if ceil == 0:
        return span // s + 1
    out = (span + s - 1) // s + 1
    if (out - 1) * s >= n + before:
        out -= 1
    return out


@kernel
def shape_of(
    rule: int,
    a: int,
    z: int,
    attr: I64,
    in_idx: I32,
    start: int,
    stop: int,
    batch: int,
    first: int,
    n_out: int,
    row: I64,
    rank: I64,
    dims: I64,
    numel: I64,
) -> int:
    """Fill ``rank``, ``dims`` and ``numel`` of the tensors ``first .. first + n_out`` that one op writes.

    `rule` and ``attr[a:z]`` are as in :mod:`cnnlive._kernels.shapes`, of which this gives the results; the dimensions
    of a tensor stand in row ``row[tensor]`` of ``dims``.

    Returns
    -------
    int
        0; 1 the shapes are impossible, 2 an output has 2**62 elements or more; 4: all is well, and the first
        dimension may have become another, so that later sizes of weights may hang on the batch.
    """
    t = first
    moved = 0
    x = 0
    if stop > start:
        x = row[in_idx[start]]
    for i in range(6):
        dims[t, i] = 1
    if rule == 0:  # input
        rank[t] = z - a
        for i in range(z - a):
            dims[t, i] = attr[a + i]
        if batch > 0:
            dims[t, 0] = batch
    elif rule == 1:  # literal dimensions, the first may scale with the batch
        for t in range(first, first + n_out):
            r = attr[a]
            rank[t] = r
            for i in range(r, 6):
                dims[t, i] = 1
            for i in range(r):
                dims[t, i] = attr[a + 2 + i]
            if attr[a + 1] != 0:
                dims[t, 0] *= dims[x, 0]
            a += 2 + r
    elif rule == 2:  # same
        rank[t] = rank[x]
        for i in range(6):
            dims[t, i] = dims[x, i]
    elif rule == 3:  # convolution
        n_spatial = attr[a]
        channels = dims[x, 1]
        out = attr[a + 1]
        groups = attr[a + 2]
        if rank[x] != n_spatial + 2 or out < 1 or groups < 1 or channels % groups != 0 or out % groups != 0:
            return 1
        rank[t] = n_spatial + 2
        dims[t, 0] = dims[x, 0]
        dims[t, 1] = out
        mode = attr[a + 4]
        for i in range(n_spatial):
            c = a + 5 + 6 * i
            n = dims[x, 2 + i]
            if attr[a + 3] == 0:
                size = window_of(n, attr[c], attr[c + 1], attr[c + 2], attr[c + 3], attr[c + 4], mode, attr[a + 3])
            elif mode != 0:
                size = n * attr[c + 1]
            else:
                size = (n - 1) * attr[c + 1] - attr[c + 2] - attr[c + 3] + attr[c + 4] * (attr[c] - 1) + attr[c + 5] + 1
            if size < 1:
                return 1
            dims[t, 2 + i] = size
    elif rule == 4:  # pool
        n_spatial = attr[a]
        if rank[x] != n_spatial + 2:
            return 1
        rank[t] = rank[x]
        dims[t, 0] = dims[x, 0]
        dims[t, 1] = dims[x, 1]
        for i in range(n_spatial):
            c = a + 3 + 5 * i
            size = window_of(
                dims[x, 2 + i],
                attr[c],
                attr[c + 1],
                attr[c + 2],
                attr[c + 3],
                attr[c + 4],
                attr[a + 1],
                attr[a + 2],
            )
            if size < 1:
                return 1
            dims[t, 2 + i] = size
    elif rule == 5:  # pool to a given size, 0 keeps
        if rank[x] != z - a + 2:
            return 1
        rank[t] = rank[x]
        dims[t, 0] = dims[x, 0]
        dims[t, 1] = dims[x, 1]
        for i in range(z - a):
            dims[t, 2 + i] = attr[a + i] if attr[a + i] != 0 else dims[x, 2 + i]
    elif rule == 6:  # linear
        if attr[a] < 1 or rank[x] < 1:
            return 1
        rank[t] = rank[x]
        for i in range(rank[x] - 1):
            dims[t, i] = dims[x, i]
        dims[t, rank[x] - 1] = attr[a]
    elif rule == 7 or rule == 9:  # matrix product and elementwise, leading dimensions broadcast
        kept = 2 if rule == 7 else 0
        r = 0
        for e in range(start, stop):
            r = max(r, rank[row[in_idx[e]]])
        rank[t] = r
        for e in range(start, stop):
            y = row[in_idx[e]]
            lead = r - rank[y]
            if lead != 0 and dims[y, 0] != 1:
                moved = 4
            for i in range(rank[y] - kept):
                n = dims[y, i]
                if n != 1 and n != dims[t, lead + i]:
                    if dims[t, lead + i] != 1:
                        return 1
                    dims[t, lead + i] = n
        if rule == 7:
            y = row[in_idx[start + 1]]
            if rank[x] < 2 or rank[y] < 2 or dims[x, rank[x] - 1] != dims[y, rank[y] - 2]:
                return 1
            dims[t, r - 2] = dims[x, rank[x] - 2]
            dims[t, r - 1] = dims[y, rank[y] - 1]
            if r == 2:
                moved = 4
    elif rule == 8:  # concat
        dim = attr[a]
        if dim >= rank[x]:
            return 1
        rank[t] = rank[x]
        for i in range(6):
            dims[t, i] = dims[x, i]
        total = 0
        for e in range(start, stop):
            y = row[in_idx[e]]
            wrong = rank[y] != rank[x]
            for i in range(6):
                wrong |= i != dim and dims[y, i] != dims[x, i]
            if wrong:
                return 1
            total += dims[y, dim]
        dims[t, dim] = total
    elif rule == 10:  # reshape: 0 keeps, -1 is what remains
        rank[t] = z - a
        known = 1
        rest = -1
        if attr[a] != 0:
            moved = 4
        for i in range(z - a):
            n = attr[a + i]
            if n == 0 and i < rank[x]:
                n = dims[x, i]
            if n == -1:
                rest = i
            else:
                dims[t, i] = n
                known *= n
        if rest >= 0:
            if known < 1 or numel[x] % known != 0:
                return 1
            dims[t, rest] = numel[x] // known
        elif known != numel[x]:
            return 1
    elif rule == 11:  # flatten
        low = attr[a]
        high = attr[a + 1]
        if high >= rank[x]:
            return 1
        if low == 0 and high != 0:
            moved = 4
        rank[t] = rank[x] - (high - low)
        for i in range(low):
            dims[t, i] = dims[x, i]
        for i in range(low, high + 1):
            dims[t, low] *= dims[x, i]
        for i in range(high + 1, rank[x]):
            dims[t, i - (high - low)] = dims[x, i]
    elif rule == 12:  # permute
        if z - a != rank[x]:
            return 1
        rank[t] = rank[x]
        if attr[a] != 0:
            moved = 4
        for i in range(rank[x]):
            dims[t, i] = dims[x, attr[a + i]]
    elif rule == 13:  # reduce; the dimensions ascend
        r = 0
        c = a + 1
        for i in range(rank[x]):
            if c < z and attr[c] == i:
                c += 1
                r += attr[a]
            else:
                dims[t, r] = dims[x, i]
                r += 1
        rank[t] = r
    elif rule == 14:  # resize
        if (z - a - 1) != (rank[x] - 2) * (1 if attr[a] == 0 else 2):
            return 1
        rank[t] = rank[x]
        dims[t, 0] = dims[x, 0]
        dims[t, 1] = dims[x, 1]
        for i in range(rank[x] - 2):
            if attr[a] == 0:
                dims[t, 2 + i] = attr[a + 1 + i]
            else:
                factor = float(attr[a + 1 + 2 * i])
                for _ in range(-attr[a + 2 + 2 * i]):
                    factor *= 0.5
                for _ in range(attr[a + 2 + 2 * i]):
                    factor *= 2.0
                dims[t, 2 + i] = int(dims[x, 2 + i] * factor)
            if dims[t, 2 + i] < 1:
                return 1
    elif rule == 15:  # split
        dim = attr[a]
        chunks = attr[a + 1]
        if dim >= rank[x]:
            return 1
        left = dims[x, dim]
        size = (left + chunks - 1) // chunks if chunks > 0 else 0
        for k in range(n_out):
            t = first + k
            rank[t] = rank[x]
            for i in range(6):
                dims[t, i] = dims[x, i]
            n = min(size, left) if chunks > 0 else attr[a + 2 + k]
            if n < 1:
                return 1
            dims[t, dim] = n
            left -= n
        if left != 0:
            return 1
    elif rule == 16:  # slice
        rank[t] = rank[x]
        for i in range(6):
            dims[t, i] = dims[x, i]
        for c in range(a, z, 4):
            if attr[c] >= rank[x]:
                return 1
            n = dims[x, attr[c]]
            low = attr[c + 1]
            high = attr[c + 2]
            step = attr[c + 3]
            if step == 0:
                return 1
            least = 0 if step > 0 else -1
            most = n if step > 0 else n - 1
            low = max(low + n, least) if low < 0 else min(low, most)
            high = max(high + n, least) if high < 0 else min(high, most)
            size = (high - low + step - 1) // step if step > 0 else (low - high - step - 1) // -step
            if size < 1:
                return 1
            dims[t, attr[c]] = size
    elif rule == 17:  # pad, the last dimension first
        r = rank[x]
        if (z - a) // 2 > r:
            return 1
        rank[t] = r
        for i in range(r):
            dims[t, i] = dims[x, i]
        for i in range((z - a) // 2):
            dims[t, r - 1 - i] += attr[a + 2 * i] + attr[a + 2 * i + 1]
            if dims[t, r - 1 - i] < 1:
                return 1
    elif rule == 18:  # squeeze; the dimensions ascend
        r = 0
        c = a
        for i in range(rank[x]):
            if c < z and attr[c] == i:
                c += 1
                if dims[x, i] != 1:
                    return 1
            else:
                dims[t, r] = dims[x, i]
                r += 1
        rank[t] = r
    elif rule == 19:  # unsqueeze; the dimensions ascend
        c = a
        k = 0
        rank[t] = rank[x] + z - a
        if rank[t] > 6:
            return 1
        if attr[a] == 0:
            moved = 4
        for i in range(rank[t]):
            if c < z and attr[c] == i:
                c += 1
            else:
                dims[t, i] = dims[x, k]
                k += 1
    elif rule == 20:  # pixel shuffle and its inverse
        f = attr[a]
        if rank[x] != 4 or f < 1:
            return 1
        rank[t] = 4
        dims[t, 0] = dims[x, 0]
        if attr[a + 1] != 0:
            if dims[x, 1] % (f * f) != 0:
                return 1
            dims[t, 1] = dims[x, 1] // (f * f)
            dims[t, 2] = dims[x, 2] * f
            dims[t, 3] = dims[x, 3] * f
        else:
            if dims[x, 2] % f != 0 or dims[x, 3] % f != 0:
                return 1
            dims[t, 1] = dims[x, 1] * f * f
            dims[t, 2] = dims[x, 2] // f
            dims[t, 3] = dims[x, 3] // f
    else:  # expand, 0 keeps
        rank[t] = z - a
        lead = rank[t] - rank[x]
        if lead < 0:
            return 1
        if lead != 0:
            moved = 4
        for i in range(rank[t]):
            n = dims[x, i - lead] if i >= lead else 1
            if attr[a + i] != 0:
                if n != 1 and n != attr[a + i]:
                    return 1
                n = attr[a + i]
            dims[t, i] = n
    if (rule == 4 or rule == 5) and n_out == 2:
        rank[first + 1] = rank[first]
        for i in range(6):
            dims[first + 1, i] = dims[first, i]
    for t in range(first, first + n_out):
        total = 1
        wide = 0
        for i in range(6):
            # Two factors below 2**31 have a product below 2**62; a product that wrapped may be negative.
            wide |= total | dims[t, i]
            total *= dims[t, i]
        if wide < 0 or wide >= 2147483648:
            real = 1.0
            for i in range(6):
                real *= dims[t, i]
            if real >= 4611686018427387904.0:
                return 2
        numel[t] = total
    return moved


@kernel
def evaluate_graphs(
    graph_ptr: I64,
    kind: I32,
    in_ptr: I64,
    in_idx: I32,
    free: I32,
    output_ptr: I64,
    output_idx: I32,
    until: I32,
    table: I64,
    patch: I64,
    items: I64,
    attr: I64,
    tensor_ptr: I64,
    batch: int,
    keeps_inputs: int,
    reuse: int,
    row: I64,
    rank: I64,
    dims: I64,
    numel: I64,
    buffer: I64,
    last: I64,
    own: I64,
    uses: I64,
    next_held: I64,
    made: I64,
    scratch: I64,
    freed: I64,
    held_at: I64,
    inputs: I64,
    sizes: I64,
    beside: I64,
    classes: I64,
    found: I64,
) -> tuple[int, int, int]:
    """Fill ``found`` (n_graphs, 4): parameters, multiply-accumulates, bytes of weights, peak of activations.

    Parameters
    ----------
    graph_ptr, tensor_ptr : (n_graphs + 1,)
        Ops and tensors of each graph.
    kind : (n_ops,)
        Row of `table` that says what an op is.
    in_ptr, in_idx : (n_ops + 1,), (n_edges,)
        Tensors that each op reads, numbered within the graph in the order in which ops write them.
    free : (n_ops, 2), or (0, 2) where nothing reads it
        Values that take the place of attributes.
    output_ptr, output_idx : (n_graphs + 1,), (n_outputs,)
        Outputs of each graph, numbered likewise.
    until : (n_tensors,), or (0,)
        Op of the graph through which eager Python holds each tensor.
    table : (n_kinds, 32)
        0: rule that this kernel has lines for: 0 same shape, 1 convolution of images, 2 elementwise; 3 what
        :func:`shape_of` knows. 1 and 2: where its columns in `attr` begin and end. 3: `share` as in
        :func:`cnnlive._kernels.liveness.live_ranges`. 4: bytes per element of its first output; 5: the same if it
        allocates that itself, else 0. 6: `weight_rule`. 7 and 8: how many weights, and vectors, are parameters;
        9 and 10: bytes of what they and buffers hold, per element; 11: bytes of counters. 12: `macs_rule`. 13: what an
        output element counts beside its products. 14: bytes of indices per output element. 15 to 17: bytes of
        statistics per group, and the first and last + 1 dimension whose product counts the groups. 18 and 19: its rows
        in `patch`. 20: shape rule. 21: dimensions that its first input has to have, 0: any. 22: trailing dimensions
        that a normalisation is over. 23: number of outputs; 24: where `items` has the bytes per element of each.
        25: 0 activation, 1 network input, 2 stored parameter. 26 to 30, of the convolution: what to add to the height
        before dividing by the stride, the stride, both for the width, and elements of the window.
    patch : (n_patches, 2)
        Place in `attr`, and which of the two values of `free` stands there.
    items : (n,)
        See column 24.
    attr : (n_attr,)
        Columns of the shape rules; written to where a value is free.
    batch : int
        First dimension of every network input; 0: as written.
    keeps_inputs, reuse : int
        1: network inputs live to the end; ops may take over what dies (`share` 2 and 3).
    row, rank, dims, numel, buffer, last, own, uses, next_held : scratch, as long as a graph has tensors
        ``dims`` is (n, 6).
    made, scratch, freed, held_at, inputs : scratch, as long as a graph has ops
        ``freed`` has to hold 0, ``held_at`` -1; so they do again afterwards unless the status is not 0.
    sizes, beside, classes : (n_ops, 4), (n_ops,) and (n_graphs,), or (0, 4), (0,) and (0,)
        Where they are wanted: elements of each op's first output, of a weight, of a vector, and the product of the
        dimensions that columns 16 and 17 name; bytes that an op allocates and drops; the second dimension of each
        graph's first output, 0 if it has none.

    Returns
    -------
    status, graph, op : int, int, int
        0 if all went well. 1: the shapes of an op are impossible. 2: it writes 2**62 elements or more. 3: it has
        2**62 multiply-accumulates or more. 4: the tensors of the graph can take 2**62 bytes together. 5: it has 2**62
        multiply-accumulates or more, 6: parameters of 2**62 bytes or more. `graph` is then the first for which that
        holds. 7: all went well, and in some graph the batch may have moved into other dimensions.

    Notes
    -----
    O(n_edges).
    """
    op_0 = graph_ptr[0]
    edge_0 = in_ptr[0]
    tensor_0 = tensor_ptr[0]
    output_0 = output_ptr[0]
    moved = 0
    bytes_at = 5 if reuse == 0 else 4
    for g in range(graph_ptr.shape[0] - 1):
        first_op = graph_ptr[g] - op_0
        n = graph_ptr[g + 1] - graph_ptr[g]
        n_tensors = tensor_ptr[g + 1] - tensor_ptr[g]
        start = in_ptr[first_op] - edge_0
        first_edge = start
        first_tensor = tensor_ptr[g] - tensor_0
        n_inputs = 0
        t = 0
        params = 0
        macs = 0
        stored = 0
        widest = 0
        for s in range(n):
            op = first_op + s
            k = kind[op]
            stop = in_ptr[op + 1] - edge_0
            a = table[k, 1]
            for p in range(table[k, 18], table[k, 19]):
                attr[patch[p, 0]] = free[op, patch[p, 1]]
            code = table[k, 0]
            # An op without inputs has a rule that looks at none.
            x = t
            if stop > start:
                x = row[in_idx[start]]
            r = x
            n_out = 1
            weight = 1
            vector = 1
            products = 0
            if code == 2:  # elementwise: most inputs are of one shape
                code = 0
                for e in range(start + 1, stop):
                    y = row[in_idx[e]]
                    if y != x:
                        same = rank[y] == rank[x]
                        for i in range(6):
                            same &= dims[y, i] == dims[x, i]
                        if not same:
                            code = 3
            if code == 0:  # the shape of the first input, which is not copied
                row[t] = x
                if table[k, 6] == 3:
                    vector = dims[x, 1]
                    weight = vector
                elif table[k, 6] == 4:
                    for i in range(rank[x] - table[k, 22], rank[x]):
                        vector *= dims[x, i]
                    weight = vector
            elif code == 1:  # convolution of images
                channels = dims[x, 1]
                out = attr[a + 1]
                groups = attr[a + 2]
                h = dims[x, 2] + table[k, 26]
                w = dims[x, 3] + table[k, 28]
                if rank[x] != 4 or h < 0 or w < 0 or out < 1 or groups < 1:
                    return 1, g, s
                if groups != 1:
                    filters = channels // groups
                    if filters * groups != channels or out % groups != 0:
                        return 1, g, s
                    channels = filters
                if table[k, 27] != 1:
                    h //= table[k, 27]
                if table[k, 29] != 1:
                    w //= table[k, 29]
                h += 1
                w += 1
                r = t
                row[t] = t
                rank[t] = 4
                dims[t, 0] = dims[x, 0]
                dims[t, 1] = out
                dims[t, 2] = h
                dims[t, 3] = w
                dims[t, 4] = 1
                dims[t, 5] = 1
                rows = dims[x, 0] * out
                area = h * w
                per_output = table[k, 30] * channels
                vector = out
                weight = per_output * out
                numel[t] = rows * area
                if table[k, 12] != 0:
                    products = numel[t] * per_output
                # Factors below 2**31 have a product below 2**62, and none of these has more than two.
                if (dims[x, 0] | out | h | w | rows | area | per_output | numel[t]) >= 2147483648:
                    real = float(dims[x, 0]) * float(out) * float(h) * float(w)
                    taps = float(table[k, 30]) * float(channels)
                    if real >= 4611686018427387904.0:
                        return 2, g, s
                    if taps * float(out) >= 72057594037927936.0:
                        return 6, g, s
                    if table[k, 12] != 0 and real * taps >= 4611686018427387904.0:
                        return 3, g, s
            else:
                if table[k, 21] != 0 and rank[x] != table[k, 21]:
                    return 1, g, s
                n_out = table[k, 23]
                r = t
                for i in range(n_out):
                    row[t + i] = t + i
                status = shape_of(
                    table[k, 20], a, table[k, 2], attr, in_idx, start, stop, batch, t, n_out, row, rank, dims, numel
                )
                if status == 4:
                    moved = 7
                elif status != 0:
                    return status, g, s
                if table[k, 6] == 1:
                    taps = float(dims[x, 1]) * float(attr[a + 1])
                    for i in range(attr[a]):
                        weight *= attr[a + 5 + 6 * i]
                        taps *= float(attr[a + 5 + 6 * i])
                    if taps >= 72057594037927936.0:
                        return 6, g, s
                    vector = attr[a + 1]
                    # A transposed one has filters per input channel; the product is the same.
                    weight = weight * dims[x, 1] * vector // attr[a + 2]
                elif table[k, 6] == 2:
                    vector = attr[a]
                    if float(vector) * float(dims[x, rank[x] - 1]) >= 72057594037927936.0:
                        return 6, g, s
                    weight = vector * dims[x, rank[x] - 1]
                elif table[k, 6] == 3:
                    vector = dims[x, 1]
                    weight = vector
                elif table[k, 6] == 4:
                    for i in range(rank[x] - table[k, 22], rank[x]):
                        vector *= dims[x, i]
                    weight = vector
                if table[k, 12] != 0:
                    positions = numel[t]
                    if table[k, 12] == 3:
                        per_output = dims[x, rank[x] - 1]
                    elif table[k, 12] == 1 and attr[a + 3] != 0:
                        # Every input element meets the filters of its channel once.
                        positions = numel[x]
                        per_output = weight // dims[x, 1]
                    else:
                        per_output = weight // vector
                    if float(positions) * float(per_output) >= 4611686018427387904.0:
                        return 3, g, s
                    products = positions * per_output
            size = numel[r]
            widest |= size
            params += table[k, 7] * weight + table[k, 8] * vector
            stored += table[k, 9] * weight + table[k, 10] * vector + table[k, 11]
            macs += products + table[k, 13] * size
            if ((params >> 59) | (stored >> 62) | (macs >> 62) | ((weight | vector) >> 56)) != 0:
                return (5 if macs >> 62 != 0 else 6), g, s
            groups = 1
            for i in range(table[k, 16], table[k, 17]):
                groups *= dims[x, i]
            scratch[s] = table[k, 14] * size + table[k, 15] * groups
            if sizes.shape[0] != 0:
                sizes[op, 0] = size
                sizes[op, 1] = weight
                sizes[op, 2] = vector
                sizes[op, 3] = groups
                beside[op] = scratch[s]
            allocated = table[k, bytes_at] * size
            own[t] = allocated
            if reuse == 0:
                target = t
                if stop > start:
                    if table[k, 3] == 1:
                        target = buffer[in_idx[start]]
                    last[buffer[in_idx[start]]] = s
                    last[buffer[in_idx[stop - 1]]] = s
                    for e in range(start + 1, stop - 1):
                        last[buffer[in_idx[e]]] = s
                buffer[t] = target
                last[t] = s
            if n_out > 1:
                for i in range(1, n_out):
                    size = numel[t + i]
                    widest |= size
                    own[t + i] = items[table[k, 24] + i] * size
                    if reuse == 0:
                        if table[k, 3] == 1:
                            own[t + i] = 0
                        allocated += own[t + i]
                        buffer[t + i] = buffer[t] if table[k, 3] == 1 else t + i
                        last[t + i] = s
            made[s] = allocated
            if table[k, 25] == 1:
                # Network inputs are there from the first step.
                made[s] = 0
                made[0] += allocated
                inputs[n_inputs] = t
                n_inputs += 1
            t += n_out
            start = stop
        if float(widest) * float(n_tensors) >= 576460752303423488.0:
            total = 0.0
            for t in range(n_tensors):
                total += float(numel[row[t]])
            if total >= 576460752303423488.0:
                return 4, g, n - 1
        first_output = output_ptr[g] - output_0
        end_output = output_ptr[g + 1] - output_0
        held = until.shape[0] != 0
        if reuse != 0:
            # Uses of each tensor: by ops, by what holds it longer than those, and by whoever never lets it go.
            for t in range(n_tensors):
                uses[t] = 0
            start = first_edge
            t = 0
            for s in range(n):
                k = kind[first_op + s]
                stop = in_ptr[first_op + s + 1] - edge_0
                for _ in range(table[k, 23]):
                    last[t] = s
                    if table[k, 25] == 2:
                        uses[t] = 1
                        own[t] = 0
                    t += 1
                for e in range(start, stop):
                    uses[in_idx[e]] += 1
                    last[in_idx[e]] = s
                start = stop
            if held:
                for t in range(n_tensors):
                    o = until[first_tensor + t]
                    if o > last[t]:
                        uses[t] += 1
                        next_held[t] = held_at[o]
                        held_at[o] = t
            for o in range(first_output, end_output):
                uses[output_idx[o]] += 1
            for i in range(n_inputs):
                uses[inputs[i]] += keeps_inputs
            start = first_edge
            t = 0
            for s in range(n):
                k = kind[first_op + s]
                stop = in_ptr[first_op + s + 1] - edge_0
                share = table[k, 3]
                root = -1
                if share == 1:
                    root = buffer[in_idx[start]]
                for e in range(start, stop):
                    b = buffer[in_idx[e]]
                    last[b] = s
                    uses[b] -= 1
                h = held_at[s]
                while h >= 0:
                    b = buffer[h]
                    last[b] = s
                    uses[b] -= 1
                    h = next_held[h]
                held_at[s] = -1
                for e in range(start, start + share - 1):
                    y = in_idx[e]
                    b = buffer[y]
                    if root < 0 and uses[b] == 0 and own[b] == own[t] and own[y] == own[t]:
                        root = b
                allocated = 0
                for _ in range(table[k, 23]):
                    if root < 0:
                        buffer[t] = t
                        last[t] = s
                        allocated += own[t]
                    else:
                        buffer[t] = root
                        uses[root] += uses[t]
                    t += 1
                if table[k, 25] != 1:
                    made[s] = allocated
                start = stop
            for t in range(n_tensors):
                if buffer[t] != t:
                    own[t] = 0
        elif held:
            for t in range(n_tensors):
                b = buffer[t]
                last[b] = max(last[b], until[first_tensor + t])
        for o in range(first_output, end_output):
            last[buffer[output_idx[o]]] = n - 1
        if keeps_inputs != 0:
            for i in range(n_inputs):
                last[inputs[i]] = n - 1
        for t in range(n_tensors):
            freed[last[t]] += own[t]
        live = 0
        peak = 0
        for s in range(n):
            live += made[s]
            peak = max(peak, live + scratch[s])
            live -= freed[s]
            freed[s] = 0
        found[g, 0] = params
        found[g, 1] = macs
        found[g, 2] = stored
        found[g, 3] = peak
        if classes.shape[0] != 0:
            r = row[output_idx[first_output]]
            classes[g] = dims[r, 1] if rank[r] > 1 else 0
    return moved, graph_ptr.shape[0] - 1, 0


@kernel
def first_fault(
    graph_ptr: I64,
    tensor_ptr: I64,
    kind: I32,
    in_ptr: I64,
    in_idx: I32,
    free: I32,
    output_ptr: I64,
    output_idx: I32,
    until: I32,
    inputs: I64,
    uses: I64,
    least: I64,
    n_out: I64,
) -> tuple[int, int, int]:
    """Find the first graph whose arrays do not hold together.

    All pointers have to begin with 0, none may fall, and each has to end with the length of what it points into.
    `inputs` (n_kinds, 2) holds the least and most number of inputs, `uses` and `least` (n_kinds, 2) whether a free
    value is used and its least value, `n_out` (n_kinds,) how many tensors a kind writes.

    Returns
    -------
    status, graph, op : int, int, int
        0 if all is well. 1: a graph without ops. 2: no such kind. 3: an op reads what does not come before it. 4: an
        op has too few or too many inputs. 5: a free value is out of range. 6: an output is no tensor of the graph
        (op is its position among the outputs), 7: there is no output. 8: the tensors do not add up. 9: a tensor
        (its number) is held through no op of the graph.
    """
    n_kinds = inputs.shape[0]
    for g in range(graph_ptr.shape[0] - 1):
        first_op = graph_ptr[g]
        n = graph_ptr[g + 1] - first_op
        if n < 1:
            return 1, g, 0
        t = 0
        start = in_ptr[first_op]
        for s in range(n):
            op = first_op + s
            k = kind[op]
            if k < 0 or k >= n_kinds:
                return 2, g, s
            stop = in_ptr[op + 1]
            n_in = stop - start
            if n_in < inputs[k, 0] or (inputs[k, 1] >= 0 and n_in > inputs[k, 1]):
                return 4, g, s
            for e in range(start, stop):
                if in_idx[e] < 0 or in_idx[e] >= t:
                    return 3, g, s
            for i in range(2):
                if uses[k, i] != 0 and free[op, i] < least[k, i]:
                    return 5, g, s
            t += n_out[k]
            start = stop
        if tensor_ptr[g + 1] - tensor_ptr[g] != t:
            return 8, g, n - 1
        if output_ptr[g + 1] == output_ptr[g]:
            return 7, g, n - 1
        for o in range(output_ptr[g], output_ptr[g + 1]):
            if output_idx[o] < 0 or output_idx[o] >= t:
                return 6, g, o - output_ptr[g]
        if until.shape[0] != 0:
            for i in range(tensor_ptr[g], tensor_ptr[g + 1]):
                if until[i] < 0 or until[i] >= n:
                    return 9, g, i - tensor_ptr[g]
    return 0, graph_ptr.shape[0] - 1, 0
