"""Many graphs end to end in flat arrays: shapes, counts and the in-order peak of each, in one pass over its ops.

Graph g has the ops ``graph_ptr[g] .. graph_ptr[g + 1]``; indices of edges are local to the graph. Pointers need not
begin with 0, so that a slice of a batch is a slice of its arrays: what they point into begins at their first entry.
"""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I32, I64, U32

# Numbers of ops are unsigned: no test for what Python means by -1 (4 % of the time of the whole kernel).


@kernel
def sizes_peak(graph_ptr: I64, in_ptr: I64, in_idx: U32, nbytes: I64, last: I64, freed: I64, peak: I64) -> None:
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
    in_idx: U32,
    start: int,
    stop: int,
    batch: int,
    first: int,
    n_out: int,
    work: I64,
) -> int:
    """Fill rows ``first .. first + n_out`` of ``work`` with the shapes of the tensors that one op writes.

    A row holds six dimensions, unused ones 1, their number, and the elements. Column 8 of a tensor's row says which row
    holds its shape. Ops that hand the shape of their input on are not for this. `rule` and ``attr[a:z]`` are as in
    :mod:`cnnlive._kernels.shapes`, of which this gives the results.

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
        x = work[in_idx[start], 8]
    for i in range(6):
        work[t, i] = 1
    if rule == 0:  # input
        work[t, 6] = z - a
        for i in range(z - a):
            work[t, i] = attr[a + i]
        if batch > 0:
            work[t, 0] = batch
    elif rule == 1:  # literal dimensions, the first may scale with the batch
        for t in range(first, first + n_out):
            r = attr[a]
            work[t, 6] = r
            for i in range(r, 6):
                work[t, i] = 1
            for i in range(r):
                work[t, i] = attr[a + 2 + i]
            if attr[a + 1] != 0:
                work[t, 0] *= work[x, 0]
            a += 2 + r
    elif rule == 3:  # convolution
        n_spatial = attr[a]
        channels = work[x, 1]
        out = attr[a + 1]
        groups = attr[a + 2]
        if work[x, 6] != n_spatial + 2 or out < 1 or groups < 1 or channels % groups != 0 or out % groups != 0:
            return 1
        work[t, 6] = n_spatial + 2
        work[t, 0] = work[x, 0]
        work[t, 1] = out
        mode = attr[a + 4]
        for i in range(n_spatial):
            c = a + 5 + 6 * i
            n = work[x, 2 + i]
            if attr[a + 3] == 0:
                size = window_of(n, attr[c], attr[c + 1], attr[c + 2], attr[c + 3], attr[c + 4], mode, attr[a + 3])
            elif mode != 0:
                size = n * attr[c + 1]
            else:
                size = (n - 1) * attr[c + 1] - attr[c + 2] - attr[c + 3] + attr[c + 4] * (attr[c] - 1) + attr[c + 5] + 1
            if size < 1:
                return 1
            work[t, 2 + i] = size
    elif rule == 4:  # pool
        n_spatial = attr[a]
        if work[x, 6] != n_spatial + 2:
            return 1
        work[t, 6] = work[x, 6]
        work[t, 0] = work[x, 0]
        work[t, 1] = work[x, 1]
        for i in range(n_spatial):
            c = a + 3 + 5 * i
            size = window_of(
                work[x, 2 + i],
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
            work[t, 2 + i] = size
    elif rule == 5:  # pool to a given size, 0 keeps
        if work[x, 6] != z - a + 2:
            return 1
        work[t, 6] = work[x, 6]
        work[t, 0] = work[x, 0]
        work[t, 1] = work[x, 1]
        for i in range(z - a):
            work[t, 2 + i] = attr[a + i] if attr[a + i] != 0 else work[x, 2 + i]
    elif rule == 6:  # linear
        if attr[a] < 1 or work[x, 6] < 1:
            return 1
        work[t, 6] = work[x, 6]
        for i in range(work[x, 6] - 1):
            work[t, i] = work[x, i]
        work[t, work[x, 6] - 1] = attr[a]
    elif rule == 7 or rule == 9:  # matrix product and elementwise, leading dimensions broadcast
        kept = 2 if rule == 7 else 0
        r = 0
        for e in range(start, stop):
            r = max(r, work[work[in_idx[e], 8], 6])
        work[t, 6] = r
        for e in range(start, stop):
            y = work[in_idx[e], 8]
            lead = r - work[y, 6]
            if lead != 0 and work[y, 0] != 1:
                moved = 4
            for i in range(work[y, 6] - kept):
                n = work[y, i]
                if n != 1 and n != work[t, lead + i]:
                    if work[t, lead + i] != 1:
                        return 1
                    work[t, lead + i] = n
        if rule == 7:
            y = work[in_idx[start + 1], 8]
            if work[x, 6] < 2 or work[y, 6] < 2 or work[x, work[x, 6] - 1] != work[y, work[y, 6] - 2]:
                return 1
            work[t, r - 2] = work[x, work[x, 6] - 2]
            work[t, r - 1] = work[y, work[y, 6] - 1]
            if r == 2:
                moved = 4
    elif rule == 8:  # concat
        dim = attr[a]
        if dim >= work[x, 6]:
            return 1
        work[t, 6] = work[x, 6]
        for i in range(6):
            work[t, i] = work[x, i]
        total = 0
        for e in range(start, stop):
            y = work[in_idx[e], 8]
            wrong = work[y, 6] != work[x, 6]
            for i in range(6):
                wrong |= i != dim and work[y, i] != work[x, i]
            if wrong:
                return 1
            total += work[y, dim]
        work[t, dim] = total
    elif rule == 10:  # reshape: 0 keeps, -1 is what remains
        work[t, 6] = z - a
        known = 1
        rest = -1
        if attr[a] != 0:
            moved = 4
        for i in range(z - a):
            n = attr[a + i]
            if n == 0 and i < work[x, 6]:
                n = work[x, i]
            if n == -1:
                rest = i
            else:
                work[t, i] = n
                known *= n
        if rest >= 0:
            if known < 1 or work[x, 7] % known != 0:
                return 1
            work[t, rest] = work[x, 7] // known
        elif known != work[x, 7]:
            return 1
    elif rule == 11:  # flatten
        low = attr[a]
        high = attr[a + 1]
        if high >= work[x, 6]:
            return 1
        if low == 0 and high != 0:
            moved = 4
        work[t, 6] = work[x, 6] - (high - low)
        for i in range(low):
            work[t, i] = work[x, i]
        for i in range(low, high + 1):
            work[t, low] *= work[x, i]
        for i in range(high + 1, work[x, 6]):
            work[t, i - (high - low)] = work[x, i]
    elif rule == 12:  # permute
        if z - a != work[x, 6]:
            return 1
        work[t, 6] = work[x, 6]
        if attr[a] != 0:
            moved = 4
        for i in range(work[x, 6]):
            work[t, i] = work[x, attr[a + i]]
    elif rule == 13:  # reduce; the dimensions ascend
        r = 0
        c = a + 1
        for i in range(work[x, 6]):
            if c < z and attr[c] == i:
                c += 1
                r += attr[a]
            else:
                work[t, r] = work[x, i]
                r += 1
        work[t, 6] = r
    elif rule == 14:  # resize
        if (z - a - 1) != (work[x, 6] - 2) * (1 if attr[a] == 0 else 2):
            return 1
        work[t, 6] = work[x, 6]
        work[t, 0] = work[x, 0]
        work[t, 1] = work[x, 1]
        for i in range(work[x, 6] - 2):
            if attr[a] == 0:
                work[t, 2 + i] = attr[a + 1 + i]
            else:
                factor = float(attr[a + 1 + 2 * i])
                for _ in range(-attr[a + 2 + 2 * i]):
                    factor *= 0.5
                for _ in range(attr[a + 2 + 2 * i]):
                    factor *= 2.0
                work[t, 2 + i] = int(work[x, 2 + i] * factor)
            if work[t, 2 + i] < 1:
                return 1
    elif rule == 15:  # split
        dim = attr[a]
        chunks = attr[a + 1]
        if dim >= work[x, 6]:
            return 1
        left = work[x, dim]
        size = (left + chunks - 1) // chunks if chunks > 0 else 0
        for k in range(n_out):
            t = first + k
            work[t, 6] = work[x, 6]
            for i in range(6):
                work[t, i] = work[x, i]
            n = min(size, left) if chunks > 0 else attr[a + 2 + k]
            if n < 1:
                return 1
            work[t, dim] = n
            left -= n
        if left != 0:
            return 1
    elif rule == 16:  # slice
        work[t, 6] = work[x, 6]
        for i in range(6):
            work[t, i] = work[x, i]
        for c in range(a, z, 4):
            if attr[c] >= work[x, 6]:
                return 1
            n = work[x, attr[c]]
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
            work[t, attr[c]] = size
    elif rule == 17:  # pad, the last dimension first
        r = work[x, 6]
        if (z - a) // 2 > r:
            return 1
        work[t, 6] = r
        for i in range(r):
            work[t, i] = work[x, i]
        for i in range((z - a) // 2):
            work[t, r - 1 - i] += attr[a + 2 * i] + attr[a + 2 * i + 1]
            if work[t, r - 1 - i] < 1:
                return 1
    elif rule == 18:  # squeeze; the dimensions ascend
        r = 0
        c = a
        for i in range(work[x, 6]):
            if c < z and attr[c] == i:
                c += 1
                if work[x, i] != 1:
                    return 1
            else:
                work[t, r] = work[x, i]
                r += 1
        work[t, 6] = r
    elif rule == 19:  # unsqueeze; the dimensions ascend
        c = a
        k = 0
        work[t, 6] = work[x, 6] + z - a
        if work[t, 6] > 6:
            return 1
        if attr[a] == 0:
            moved = 4
        for i in range(work[t, 6]):
            if c < z and attr[c] == i:
                c += 1
            else:
                work[t, i] = work[x, k]
                k += 1
    elif rule == 20:  # pixel shuffle and its inverse
        f = attr[a]
        if work[x, 6] != 4 or f < 1:
            return 1
        work[t, 6] = 4
        work[t, 0] = work[x, 0]
        if attr[a + 1] != 0:
            if work[x, 1] % (f * f) != 0:
                return 1
            work[t, 1] = work[x, 1] // (f * f)
            work[t, 2] = work[x, 2] * f
            work[t, 3] = work[x, 3] * f
        else:
            if work[x, 2] % f != 0 or work[x, 3] % f != 0:
                return 1
            work[t, 1] = work[x, 1] * f * f
            work[t, 2] = work[x, 2] // f
            work[t, 3] = work[x, 3] // f
    else:  # expand, 0 keeps
        work[t, 6] = z - a
        lead = work[t, 6] - work[x, 6]
        if lead < 0:
            return 1
        if lead != 0:
            moved = 4
        for i in range(work[t, 6]):
            n = work[x, i - lead] if i >= lead else 1
            if attr[a + i] != 0:
                if n != 1 and n != attr[a + i]:
                    return 1
                n = attr[a + i]
            work[t, i] = n
    if (rule == 4 or rule == 5) and n_out == 2:
        work[first + 1, 6] = work[first, 6]
        for i in range(6):
            work[first + 1, i] = work[first, i]
    for t in range(first, first + n_out):
        total = 1
        wide = 0
        for i in range(6):
            # Two factors below 2**31 have a product below 2**62; a product that wrapped may be negative.
            wide |= total | work[t, i]
            total *= work[t, i]
        if wide < 0 or wide >= 2147483648:
            real = 1.0
            for i in range(6):
                real *= work[t, i]
            if real >= 4611686018427387904.0:
                return 2
        work[t, 7] = total
    return moved


@kernel
def evaluate_graphs(
    graph_ptr: I64,
    kind: U32,
    in_ptr: I64,
    in_idx: U32,
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
    work: I64,
    steps: I64,
    sizes: I64,
    beside: I64,
    classes: I64,
    shapes: I64,
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
        0: the rule that this kernel has lines for, 0 same shape, 1 convolution of images, 2 elementwise, 3 what
        :func:`shape_of` knows; plus 4 if values are free, 8 if anything is counted, 16 if the op allocates something
        that it drops (or columns 16 and 17 name dimensions), 32 if its output is a view, 64 if it has several or is
        a network input. 1 and 2: where its columns in `attr` begin and end; of a convolution of images, 2 and 20: which
        free value is the number of channels and of groups, -1: none. 3: `share` as in
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
    work : (n, 16) scratch, as long as the largest graph has tensors
        A tensor's dimensions (0 to 5), their number, its elements; 8: the row that holds those; 9: the tensor whose
        bytes it shares. Of a tensor with bytes of its own, 10: the last step that needs them, 11: how many they are,
        12: uses to come. 13: the next tensor held through the same op.
    steps : (n, 8) scratch, as long as the largest graph has ops
        Bytes that a step makes, that it drops itself, and that go after it; the first tensor held through it; network
        inputs. The third column has to hold 0, the fourth -1; so they do again afterwards unless the status is not 0.
    sizes, beside, classes : (n_ops, 4), (n_ops,) and (n_graphs,); or, each by itself, (0, 4), (0,) and (0,)
        Where they are wanted: elements of each op's first output, of a weight, of a vector, and the product of the
        dimensions that columns 16 and 17 name; bytes that an op allocates and drops; the second dimension of each
        graph's first output, 0 if it has none.
    shapes : (n_tensors, 6), or (0, 6)
        Dimensions of every tensor, where they are wanted.

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
            flags = table[k, 0]
            code = flags & 3
            a = table[k, 1]
            # An op without inputs has a rule that looks at none.
            x = t
            if stop > start:
                x = work[in_idx[start], 8]
            r = x
            n_out = 1
            weight = 1
            vector = 1
            products = 0
            if code == 2:  # elementwise: most inputs are of one shape
                code = 0
                for e in range(start + 1, stop):
                    y = work[in_idx[e], 8]
                    if y != x:
                        differ = 0
                        for i in range(8):
                            differ |= work[y, i] ^ work[x, i]
                        if differ != 0:
                            code = 3
            if code == 0:  # the shape of the first input, which is not copied
                work[t, 8] = x
            elif code == 1:  # convolution of images
                channels = work[x, 1]
                out = attr[a + 1]
                groups = attr[a + 2]
                if flags & 4:
                    if table[k, 2] >= 0:
                        out = free[op, table[k, 2]]
                    if table[k, 20] >= 0:
                        groups = free[op, table[k, 20]]
                h = work[x, 2] + table[k, 26]
                w = work[x, 3] + table[k, 28]
                if work[x, 6] != 4 or h < 0 or w < 0 or out < 1 or groups < 1:
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
                work[t, 8] = t
                work[t, 6] = 4
                work[t, 0] = work[x, 0]
                work[t, 1] = out
                work[t, 2] = h
                work[t, 3] = w
                work[t, 4] = 1
                work[t, 5] = 1
                rows = work[x, 0] * out
                area = h * w
                per_output = table[k, 30] * channels
                vector = out
                weight = per_output * out
                work[t, 7] = rows * area
                if table[k, 12] != 0:
                    products = work[t, 7] * per_output
                # Factors below 2**31 have a product below 2**62, and none of these has more than two.
                if (work[x, 0] | out | h | w | rows | area | per_output | work[t, 7]) >= 2147483648:
                    real = float(work[x, 0]) * float(out) * float(h) * float(w)
                    taps = float(table[k, 30]) * float(channels)
                    if real >= 4611686018427387904.0:
                        return 2, g, s
                    if taps * float(out) >= 72057594037927936.0:
                        return 6, g, s
                    if table[k, 12] != 0 and real * taps >= 4611686018427387904.0:
                        return 3, g, s
            else:
                if table[k, 21] != 0 and work[x, 6] != table[k, 21]:
                    return 1, g, s
                if flags & 4:
                    for p in range(table[k, 18], table[k, 19]):
                        attr[patch[p, 0]] = free[op, patch[p, 1]]
                n_out = table[k, 23]
                r = t
                for i in range(n_out):
                    work[t + i, 8] = t + i
                status = shape_of(table[k, 20], a, table[k, 2], attr, in_idx, start, stop, batch, t, n_out, work)
                if status == 4:
                    moved = 7
                elif status != 0:
                    return status, g, s
                if table[k, 6] == 1:
                    taps = float(work[x, 1]) * float(attr[a + 1])
                    for i in range(attr[a]):
                        weight *= attr[a + 5 + 6 * i]
                        taps *= float(attr[a + 5 + 6 * i])
                    if taps >= 72057594037927936.0:
                        return 6, g, s
                    vector = attr[a + 1]
                    # A transposed one has filters per input channel; the product is the same.
                    weight = weight * work[x, 1] * vector // attr[a + 2]
                elif table[k, 6] == 2:
                    vector = attr[a]
                    if float(vector) * float(work[x, work[x, 6] - 1]) >= 72057594037927936.0:
                        return 6, g, s
                    weight = vector * work[x, work[x, 6] - 1]
                if table[k, 12] != 0:
                    positions = work[t, 7]
                    if table[k, 12] == 3:
                        per_output = work[x, work[x, 6] - 1]
                    elif table[k, 12] == 1 and attr[a + 3] != 0:
                        # Every input element meets the filters of its channel once.
                        positions = work[x, 7]
                        per_output = weight // work[x, 1]
                    else:
                        per_output = weight // vector
                    if float(positions) * float(per_output) >= 4611686018427387904.0:
                        return 3, g, s
                    products = positions * per_output
            size = work[r, 7]
            widest |= size
            if flags & 8:
                if table[k, 6] == 3:
                    vector = work[x, 1]
                    weight = vector
                elif table[k, 6] == 4:
                    for i in range(work[x, 6] - table[k, 22], work[x, 6]):
                        vector *= work[x, i]
                    weight = vector
                params += table[k, 7] * weight + table[k, 8] * vector
                stored += table[k, 9] * weight + table[k, 10] * vector + table[k, 11]
                macs += products + table[k, 13] * size
                if ((params >> 59) | (stored >> 62) | (macs >> 62) | ((weight | vector) >> 56)) != 0:
                    return (5 if macs >> 62 != 0 else 6), g, s
            beside_bytes = 0
            groups = 1
            if flags & 16:
                for i in range(table[k, 16], table[k, 17]):
                    groups *= work[x, i]
                beside_bytes = table[k, 14] * size + table[k, 15] * groups
            steps[s, 1] = beside_bytes
            if sizes.shape[0] != 0:
                sizes[op, 0] = size
                sizes[op, 1] = weight
                sizes[op, 2] = vector
                sizes[op, 3] = groups
            if beside.shape[0] != 0:
                beside[op] = beside_bytes
            allocated = table[k, bytes_at] * size
            work[t, 11] = allocated
            steps[s, 0] = allocated
            if reuse == 0:
                target = t
                if stop > start:
                    b = work[in_idx[start], 9]
                    work[b, 10] = s
                    if flags & 32:
                        target = b
                    # The second input without a loop: 8 % of the time of the whole kernel.
                    if stop > start + 1:
                        work[work[in_idx[start + 1], 9], 10] = s
                        for e in range(start + 2, stop):
                            work[work[in_idx[e], 9], 10] = s
                work[t, 9] = target
                work[t, 10] = s
            if flags & 64:
                if table[k, 25] == 1:
                    # Network inputs are there from the first step.
                    steps[s, 0] = 0
                    steps[0, 0] += allocated
                    steps[n_inputs, 4] = t
                    n_inputs += 1
                for i in range(1, n_out):
                    size = work[t + i, 7]
                    widest |= size
                    allocated = items[table[k, 24] + i] * size
                    if reuse == 0:
                        work[t + i, 9] = t + i
                        work[t + i, 10] = s
                        if flags & 32:
                            work[t + i, 9] = target
                            allocated = 0
                        steps[s, 0] += allocated
                    work[t + i, 11] = allocated
            t += n_out
            start = stop
        if float(widest) * float(n_tensors) >= 576460752303423488.0:
            total = 0.0
            for t in range(n_tensors):
                total += float(work[work[t, 8], 7])
            if total >= 576460752303423488.0:
                return 4, g, n - 1
        first_output = output_ptr[g] - output_0
        end_output = output_ptr[g + 1] - output_0
        held = until.shape[0] != 0
        if reuse != 0:
            # Uses of each tensor: by ops, by what holds it longer than those, and by whoever never lets it go.
            for t in range(n_tensors):
                work[t, 12] = 0
            start = first_edge
            t = 0
            for s in range(n):
                k = kind[first_op + s]
                stop = in_ptr[first_op + s + 1] - edge_0
                for _ in range(table[k, 23]):
                    work[t, 10] = s
                    if table[k, 25] == 2:
                        work[t, 12] = 1
                        work[t, 11] = 0
                    t += 1
                for e in range(start, stop):
                    work[in_idx[e], 12] += 1
                    work[in_idx[e], 10] = s
                start = stop
            if held:
                for t in range(n_tensors):
                    o = until[first_tensor + t]
                    if o > work[t, 10]:
                        work[t, 12] += 1
                        work[t, 13] = steps[o, 3]
                        steps[o, 3] = t
            for o in range(first_output, end_output):
                work[output_idx[o], 12] += 1
            for i in range(n_inputs):
                work[steps[i, 4], 12] += keeps_inputs
            start = first_edge
            t = 0
            for s in range(n):
                k = kind[first_op + s]
                stop = in_ptr[first_op + s + 1] - edge_0
                share = table[k, 3]
                root = -1
                if share == 1:
                    root = work[in_idx[start], 9]
                for e in range(start, stop):
                    b = work[in_idx[e], 9]
                    work[b, 10] = s
                    work[b, 12] -= 1
                h = steps[s, 3]
                while h >= 0:
                    b = work[h, 9]
                    work[b, 10] = s
                    work[b, 12] -= 1
                    h = work[h, 13]
                steps[s, 3] = -1
                for e in range(start, start + share - 1):
                    y = in_idx[e]
                    b = work[y, 9]
                    if root < 0 and work[b, 12] == 0 and work[b, 11] == work[t, 11] and work[y, 11] == work[t, 11]:
                        root = b
                allocated = 0
                for _ in range(table[k, 23]):
                    if root < 0:
                        work[t, 9] = t
                        work[t, 10] = s
                        allocated += work[t, 11]
                    else:
                        work[t, 9] = root
                        work[root, 12] += work[t, 12]
                    t += 1
                if table[k, 25] != 1:
                    steps[s, 0] = allocated
                start = stop
            for t in range(n_tensors):
                if work[t, 9] != t:
                    work[t, 11] = 0
        elif held:
            for t in range(n_tensors):
                b = work[t, 9]
                work[b, 10] = max(work[b, 10], until[first_tensor + t])
        for o in range(first_output, end_output):
            work[work[output_idx[o], 9], 10] = n - 1
        if keeps_inputs != 0:
            for i in range(n_inputs):
                work[steps[i, 4], 10] = n - 1
        for t in range(n_tensors):
            steps[work[t, 10], 2] += work[t, 11]
        live = 0
        peak = 0
        for s in range(n):
            live += steps[s, 0]
            peak = max(peak, live + steps[s, 1])
            live -= steps[s, 2]
            steps[s, 2] = 0
        found[g, 0] = params
        found[g, 1] = macs
        found[g, 2] = stored
        found[g, 3] = peak
        if shapes.shape[0] != 0:
            for t in range(n_tensors):
                for i in range(6):
                    shapes[first_tensor + t, i] = work[work[t, 8], i]
        if classes.shape[0] != 0:
            r = work[output_idx[first_output], 8]
            classes[g] = work[r, 1] if work[r, 6] > 1 else 0
    return moved, graph_ptr.shape[0] - 1, 0


@kernel
def first_fault(
    graph_ptr: I64,
    tensor_ptr: I64,
    kind: U32,
    in_ptr: I64,
    in_idx: U32,
    free: I32,
    output_ptr: I64,
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
        op has too few or too many inputs. 5: a free value is out of range. 6: there is no output. 7: a tensor (op is
        its number) is held through no op of the graph.
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
            if k >= n_kinds:
                return 2, g, s
            stop = in_ptr[op + 1]
            n_in = stop - start
            if n_in < inputs[k, 0] or (inputs[k, 1] >= 0 and n_in > inputs[k, 1]):
                return 4, g, s
            for e in range(start, stop):
                if in_idx[e] >= t:
                    return 3, g, s
            for i in range(2):
                if uses[k, i] != 0 and free[op, i] < least[k, i]:
                    return 5, g, s
            t += n_out[k]
            start = stop
        if output_ptr[g + 1] == output_ptr[g]:
            return 6, g, n - 1
        if until.shape[0] != 0:
            for i in range(tensor_ptr[g], tensor_ptr[g + 1]):
                if until[i] < 0 or until[i] >= n:
                    return 7, g, i - tensor_ptr[g]
    return 0, graph_ptr.shape[0] - 1, 0


@kernel
def fuse_nodes(
    graph_ptr: I64,
    kind: U32,
    in_ptr: I64,
    in_idx: U32,
    free: I32,
    fold: I64,
    with_norm: I64,
    reads: I64,
    reader: I64,
    into: I64,
    number: I64,
    new_graph_ptr: I64,
    new_kind: I32,
    new_in_ptr: I64,
    new_in_idx: I32,
    new_free: I32,
    new_output: I32,
) -> None:
    """Write graphs of one output per op as :meth:`cnnlive.Lowered.fused` leaves them; the last op is the output.

    `fold` (n_kinds,) is the part of a kind in fusion, ``with_norm`` (n_kinds,) the kind that a base becomes whose
    normalisation vanishes into it. ``reads``, ``reader``, ``into`` and ``number`` are scratch, as long as the largest
    graph has ops. The results are as long as what they replace; ``new_output`` is the output of each graph.

    Notes
    -----
    O(n_edges).
    """
    ops = 0
    edges = 0
    new_graph_ptr[0] = 0
    new_in_ptr[0] = 0
    for g in range(graph_ptr.shape[0] - 1):
        first = graph_ptr[g] - graph_ptr[0]
        n = graph_ptr[g + 1] - graph_ptr[g]
        for s in range(n):
            reads[s] = 0
            into[s] = s
        for s in range(n):
            for e in range(in_ptr[first + s] - in_ptr[0], in_ptr[first + s + 1] - in_ptr[0]):
                reads[in_idx[e]] += 1
                reader[in_idx[e]] = s
        # The caller reads the output.
        reads[n - 1] += 2
        kept = 0
        for s in range(n):
            k = kind[first + s]
            if into[s] != s:
                number[s] = number[into[s]]
                continue
            changed = int(k)
            if fold[k] == 1:
                last = s
                stage = 1
                while reads[last] == 1:
                    f = reader[last]
                    part = fold[kind[first + f]]
                    if part <= stage or in_ptr[first + f + 1] - in_ptr[first + f] != 1:
                        break
                    stage = part
                    if stage == 2:
                        changed = with_norm[k]
                    into[f] = s
                    last = f
            number[s] = kept
            kept += 1
            new_kind[ops] = changed
            if free.shape[0] != 0:
                new_free[ops, 0] = free[first + s, 0]
                new_free[ops, 1] = free[first + s, 1]
            for e in range(in_ptr[first + s] - in_ptr[0], in_ptr[first + s + 1] - in_ptr[0]):
                new_in_idx[edges] = number[in_idx[e]]
                edges += 1
            ops += 1
            new_in_ptr[ops] = edges
        new_output[g] = number[n - 1]
        new_graph_ptr[g + 1] = ops
