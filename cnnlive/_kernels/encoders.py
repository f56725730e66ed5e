"""Genotypes of published spaces to graphs in flat arrays: kinds of a palette, edges, free integers, frames.

Every encoder takes checked genotypes and fills, graph after graph, arrays that are long enough: ``graph_ptr``, and per
node ``kind``, ``in_ptr`` (of the node after), ``free`` and ``until``, and per edge ``in_idx``; see
:mod:`cnnlive.nas.encoded`. The numbers of the palette's kinds are an argument, in the order that each encoder states.
`scratch` is (8, m), m at least 8 and what the encoder states; its first row, `at`, holds the nodes and edges so far
and the first node of the graph. All arrays are C-contiguous.

``until`` is the node through which eager Python's frames hold a tensor, where that may be after its last reader.
"""

from __future__ import annotations

import numpy as np

from cnnlive._kernels._jit import kernel
from cnnlive._types import F64, I32, I64


@kernel
def new(at: I64, kind: I32, in_ptr: I64, free: I32, until: I32, k: int, first: int, second: int) -> int:
    """Append a node of kind `k` without inputs; return its number in the graph."""
    node = at[0]
    kind[node] = k
    free[node, 0] = first
    free[node, 1] = second
    until[node] = 0
    in_ptr[node + 1] = at[1]
    at[0] = node + 1
    return int(node - at[2])


@kernel
def read(at: I64, in_ptr: I64, in_idx: I32, x: int) -> None:
    """Let the last node read `x`."""
    in_idx[at[1]] = x
    at[1] += 1
    in_ptr[at[0]] = at[1]


@kernel
def put(
    at: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32, until: I32, k: int, x: int, value: int
) -> int:  # fmt: skip
    """Append a node of kind `k` that reads `x`; `value` is its first free integer."""
    node = new(at, kind, in_ptr, free, until, k, value, 0)
    read(at, in_ptr, in_idx, x)
    return node


@kernel
def put2(at: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32, until: I32, k: int, x: int, y: int) -> int:
    """Append a node of kind `k` that reads `x` and `y`."""
    node = new(at, kind, in_ptr, free, until, k, 0, 0)
    read(at, in_ptr, in_idx, x)
    read(at, in_ptr, in_idx, y)
    return node


@kernel
def hold(at: I64, until: I32, x: int, last: int) -> None:
    """Hold `x` at least through `last`."""
    node = at[2] + x
    until[node] = max(until[node], last)


@kernel
def fuse(
    graph_ptr: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32, until: I32, fold: I64, biased: I64, scratch: I64,
    graph_to: I64, kind_to: I32, in_ptr_to: I64, in_idx_to: I32, free_to: I32, until_to: I32,
) -> None:  # fmt: skip
    """Write the graphs in which a convolution takes in the normalisation and activation that alone read it.

    fold, biased : (n_kinds,): part of a kind in fusion, as in :class:`cnnlive.Lowered`, and the same kind with a bias.
    scratch : (5, m), m at least the nodes of the largest graph.
    """
    reads, reader, place, end, number = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    graph_to[0] = 0
    in_ptr_to[0] = 0
    node_to = 0
    edge_to = 0
    for g in range(graph_ptr.shape[0] - 1):
        first = graph_ptr[g]
        n = graph_ptr[g + 1] - first
        for i in range(n):
            reads[i] = 0
            place[i] = i
            end[i] = i
        for i in range(n):
            for e in range(in_ptr[first + i], in_ptr[first + i + 1]):
                reads[in_idx[e]] += 1
                reader[in_idx[e]] = i
        reads[n - 1] += 2  # the output is wanted beside its readers
        for i in range(n):
            stage = fold[kind[first + i]]
            if stage == 1:
                last = i
                while reads[last] == 1:
                    after = first + reader[last]
                    if fold[kind[after]] <= stage or in_ptr[after + 1] - in_ptr[after] != 1:
                        break
                    stage = fold[kind[after]]
                    last = reader[last]
                    place[last] = i
                    end[i] = last
        count = 0
        for i in range(n):
            if place[i] == i:
                number[i] = count
                count += 1
        for i in range(n):
            if place[i] != i:
                continue
            k = kind[first + i]
            if end[i] != i and fold[kind[first + reader[i]]] == 2:
                k = biased[k]
            kind_to[node_to] = k
            free_to[node_to, 0] = free[first + i, 0]
            free_to[node_to, 1] = free[first + i, 1]
            # What the call of a later module was given is still given to it.
            held = until[first + i]
            last = i
            while last != end[i]:
                last = reader[last]
                held = max(held, until[first + last])
            until_to[node_to] = number[place[held]]
            for e in range(in_ptr[first + i], in_ptr[first + i + 1]):
                in_idx_to[edge_to] = number[place[in_idx[e]]]
                edge_to += 1
            node_to += 1
            in_ptr_to[node_to] = edge_to
        graph_to[g + 1] = node_to


# ---------------------------------------------------------------------------------------------------- NAS-Bench-201


@kernel
def relu_conv_bn(
    at: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32, until: I32, relu: int, conv: int, norm: int,
    x: int, channels: int,
) -> int:  # fmt: skip
    """Append ReLU, convolution and batch normalisation."""
    x = put(at, kind, in_ptr, in_idx, free, until, relu, x, 0)
    x = put(at, kind, in_ptr, in_idx, free, until, conv, x, channels)
    return put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)


@kernel
def nasbench201(
    rows: I64, kinds: I64, shape: I64, scratch: I64, graph_ptr: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32,
    until: I32,
) -> None:  # fmt: skip
    """Encode NAS-Bench-201.

    rows : (n, 6): 0 none, 1 skip_connect, 2 nor_conv_1x1, 3 nor_conv_3x3, 4 avg_pool_3x3 of the edges 1<-0, 2<-0, 2<-1,
    3<-0, 3<-1, 3<-2. kinds: input, conv 3x3, conv 1x1, batch normalisation, ReLU, zero, sum with 0, sum, average pool
    3x3, conv 3x3 stride 2, average pool 2x2, ReLU in place, global pool, flatten, linear. shape: channels of the
    first stage, cells of a stage, classes.
    """
    conv3, conv1, norm, relu, zero = kinds[1], kinds[2], kinds[3], kinds[4], kinds[5]
    first, add, pool3, down, pool2 = kinds[6], kinds[7], kinds[8], kinds[9], kinds[10]
    at = scratch[0]
    at[0] = 0
    at[1] = 0
    in_ptr[0] = 0
    graph_ptr[0] = 0
    for row in range(rows.shape[0]):
        at[2] = at[0]
        channels = shape[0]
        x = new(at, kind, in_ptr, free, until, kinds[0], 0, 0)
        x = put(at, kind, in_ptr, in_idx, free, until, conv3, x, channels)
        x = put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)
        for stage in range(3):
            if stage:
                channels *= 2
                y = relu_conv_bn(at, kind, in_ptr, in_idx, free, until, relu, down, norm, x, channels)
                inner = y
                y = relu_conv_bn(at, kind, in_ptr, in_idx, free, until, relu, conv3, norm, y, channels)
                hold(at, until, inner, y)
                z = put(at, kind, in_ptr, in_idx, free, until, pool2, x, 0)
                z = put(at, kind, in_ptr, in_idx, free, until, conv1, z, channels)
                y = put2(at, kind, in_ptr, in_idx, free, until, add, z, y)
                hold(at, until, x, y)
                x = y
            for _ in range(shape[1]):
                one = x  # the cell's nodes 0, 1, 2, 3; those that are not there yet are not read
                two = x
                total = x
                for edge in range(6):
                    source = x
                    if edge == 2 or edge == 4:
                        source = one
                    elif edge == 5:
                        source = two
                    op = rows[row, edge]
                    if op == 0:
                        term = put(at, kind, in_ptr, in_idx, free, until, zero, source, 0)
                    elif op == 1:
                        term = source
                    elif op == 2:
                        term = relu_conv_bn(at, kind, in_ptr, in_idx, free, until, relu, conv1, norm, source, channels)
                    elif op == 3:
                        term = relu_conv_bn(at, kind, in_ptr, in_idx, free, until, relu, conv3, norm, source, channels)
                    else:
                        term = put(at, kind, in_ptr, in_idx, free, until, pool3, source, 0)
                    if edge == 0 or edge == 1 or edge == 3:  # the first of a node: Python's sum starts with 0
                        total = put(at, kind, in_ptr, in_idx, free, until, first, term, 0)
                    else:
                        total = put2(at, kind, in_ptr, in_idx, free, until, add, total, term)
                    if edge == 0:
                        one = total
                    elif edge == 2:
                        two = total
                # The caller holds the cell's input, and the cell a list of its nodes.
                hold(at, until, x, total)
                hold(at, until, one, total)
                hold(at, until, two, total)
                x = total
        y = put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)
        y = put(at, kind, in_ptr, in_idx, free, until, kinds[11], y, 0)
        y = put(at, kind, in_ptr, in_idx, free, until, kinds[12], y, 0)
        y = put(at, kind, in_ptr, in_idx, free, until, kinds[13], y, 0)
        y = put(at, kind, in_ptr, in_idx, free, until, kinds[14], y, shape[2])
        hold(at, until, x, y)
        graph_ptr[row + 1] = at[0]


# ---------------------------------------------------------------------------------------------------- NAS-Bench-101


@kernel
def read_cell(code: int, before: I64, label: I64) -> int:
    """Unpack a pruned NAS-Bench-101 cell; return its number of interior vertices.

    Bits 30 to 10 of `code` are the upper triangle of the matrix in row-major order, then 2 bits for the label of each
    interior vertex. before : (7,), filled with the bits of each vertex's predecessors; label : (7,).
    """
    for v in range(7):
        before[v] = 0
        label[v] = 0
    bit = 30
    interior = 0
    for i in range(6):
        for j in range(i + 1, 7):
            if (code >> bit) & 1:
                before[j] |= 1 << i
                if j < 6:
                    interior = max(interior, j)
            bit -= 1
    for v in range(1, 6):
        label[v] = (code >> (2 * (5 - v))) & 3
    return interior


@kernel
def vertex_channels(before: I64, interior: int, output: int, channels: I64) -> None:
    """Fill the channels of every interior vertex of a module with `output` channels; vertex 6 is the output.

    The vertices that feed the output share its channels, the first ones taking what does not divide; any other has
    as many as the largest it feeds.
    """
    feeders = 0
    for v in range(1, interior + 1):
        feeders += (before[6] >> v) & 1
    rest = output % max(feeders, 1)
    for v in range(1, interior + 1):
        channels[v] = 0
        if (before[6] >> v) & 1:
            channels[v] = output // feeders
            if rest:
                channels[v] += 1
                rest -= 1
    for v in range(interior - 1, 0, -1):
        if not (before[6] >> v) & 1:
            for w in range(v + 1, interior + 1):
                if (before[w] >> v) & 1:
                    channels[v] = max(channels[v], channels[w])


@kernel
def conv_bn_relu(
    at: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32, until: I32, conv: int, norm: int, relu: int,
    x: int, channels: int,
) -> int:  # fmt: skip
    """Append convolution, batch normalisation and ReLU."""
    x = put(at, kind, in_ptr, in_idx, free, until, conv, x, channels)
    x = put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)
    return put(at, kind, in_ptr, in_idx, free, until, relu, x, 0)


@kernel
def module101(
    at: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32, until: I32, kinds: I64, before: I64, label: I64,
    interior: int, output: int, channels: I64, value: I64, term: I64, x: int,
) -> int:  # fmt: skip
    """Append a NAS-Bench-101 module that reads `x`; return what it writes."""
    conv3, conv1, norm, relu, pool, cut = kinds[1], kinds[2], kinds[3], kinds[4], kinds[5], kinds[6]
    vertex_channels(before, interior, output, channels)
    for v in range(1, interior + 1):
        n = 0
        for w in range(1, v):
            if (before[v] >> w) & 1:
                term[n] = value[w]
                if channels[w] > channels[v]:
                    term[n] = put(at, kind, in_ptr, in_idx, free, until, cut, value[w], channels[v])
                n += 1
        if before[v] & 1:
            term[n] = conv_bn_relu(at, kind, in_ptr, in_idx, free, until, conv1, norm, relu, x, channels[v])
            n += 1
        y = term[0]
        if n > 1:
            y = new(at, kind, in_ptr, free, until, kinds[7], 0, 0)
            for i in range(n):
                read(at, in_ptr, in_idx, term[i])
        if label[v] == 2:
            y = put(at, kind, in_ptr, in_idx, free, until, pool, y, 0)
        else:
            conv = conv1 if label[v] else conv3
            y = conv_bn_relu(at, kind, in_ptr, in_idx, free, until, conv, norm, relu, y, channels[v])
        value[v] = y
    n = 0
    for v in range(1, interior + 1):
        if (before[6] >> v) & 1:
            term[n] = value[v]
            n += 1
    y = term[0]
    if n > 1:
        y = new(at, kind, in_ptr, free, until, kinds[8], 0, 0)
        for i in range(n):
            read(at, in_ptr, in_idx, term[i])
    if before[6] & 1:
        z = conv_bn_relu(at, kind, in_ptr, in_idx, free, until, conv1, norm, relu, x, output)
        y = put2(at, kind, in_ptr, in_idx, free, until, kinds[9], y, z) if n else z
    # The caller holds the module's input, and the module a list of its vertices.
    hold(at, until, x, y)
    for v in range(1, interior + 1):
        hold(at, until, value[v], y)
    return int(y)


@kernel
def nasbench101(
    codes: I64, kinds: I64, shape: I64, scratch: I64, graph_ptr: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32,
    until: I32,
) -> None:  # fmt: skip
    """Encode NAS-Bench-101.

    codes : (n,): pruned cells, see `read_cell`. kinds: input, conv 3x3, conv 1x1, batch normalisation, ReLU, maximum
    pool 3x3, slice, sum of many, concatenation, sum, maximum pool 2x2, mean over the image, linear. shape: channels,
    stacks, modules of the first stack and of the others, classes.
    """
    before, label, channels, value, term = scratch[1], scratch[2], scratch[3], scratch[4], scratch[5]
    at = scratch[0]
    at[0] = 0
    at[1] = 0
    in_ptr[0] = 0
    graph_ptr[0] = 0
    for row in range(codes.shape[0]):
        at[2] = at[0]
        interior = read_cell(codes[row], before, label)
        width = shape[0]
        x = new(at, kind, in_ptr, free, until, kinds[0], 0, 0)
        x = conv_bn_relu(at, kind, in_ptr, in_idx, free, until, kinds[1], kinds[3], kinds[4], x, width)
        for stack in range(shape[1]):
            if stack:
                x = put(at, kind, in_ptr, in_idx, free, until, kinds[10], x, 0)
                width *= 2
            for _ in range(shape[3] if stack else shape[2]):
                x = module101(at, kind, in_ptr, in_idx, free, until, kinds, before, label, interior, width, channels,
                              value, term, x)  # fmt: skip
        x = put(at, kind, in_ptr, in_idx, free, until, kinds[11], x, 0)
        put(at, kind, in_ptr, in_idx, free, until, kinds[12], x, shape[4])
        graph_ptr[row + 1] = at[0]


# ------------------------------------------------------------------------------------------------------------ DARTS


@kernel
def separable(
    at: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32, until: I32, relu: int, depthwise: int, conv1: int,
    norm: int, x: int, channels: int,
) -> int:  # fmt: skip
    """Append ReLU, depthwise and pointwise convolution and batch normalisation."""
    x = put(at, kind, in_ptr, in_idx, free, until, relu, x, 0)
    x = put(at, kind, in_ptr, in_idx, free, until, depthwise, x, channels)
    x = put(at, kind, in_ptr, in_idx, free, until, conv1, x, channels)
    return put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)


@kernel
def halved(
    at: I64, kind: I32, in_ptr: I64, in_idx: I32, free: I32, until: I32, kinds: I64, x: int, channels: int
) -> int:  # fmt: skip
    """Append DARTS's factorized reduction."""
    x = put(at, kind, in_ptr, in_idx, free, until, kinds[2], x, 0)
    a = put(at, kind, in_ptr, in_idx, free, until, kinds[5], x, channels // 2)
    b = put(at, kind, in_ptr, in_idx, free, until, kinds[6], x, 0)
    b = put(at, kind, in_ptr, in_idx, free, until, kinds[14], b, 0)
    b = put(at, kind, in_ptr, in_idx, free, until, kinds[5], b, channels // 2)
    x = put2(at, kind, in_ptr, in_idx, free, until, kinds[7], a, b)
    return put(at, kind, in_ptr, in_idx, free, until, kinds[1], x, 0)


@kernel
def darts(
    rows: I64, kinds: I64, operation: I64, shape: I64, scratch: I64, graph_ptr: I64, kind: I32, in_ptr: I64,
    in_idx: I32, free: I32, until: I32,
) -> None:  # fmt: skip
    """Encode the nets of DARTS.

    rows : (n, 8 * steps): per edge of the normal cell, then of the reduction cell, the operation and the state that it
    reads; two edges for each step. scratch of steps + 2. kinds: input, batch normalisation, ReLU, conv 3x3, conv 1x1,
    conv 1x1 stride 2, all rows but the first, concatenation, sum, conv 3x3 stride 2, ReLU in place, global pool,
    flatten, linear, all columns but the first. operation : (k, 5): family (0 skip, 1 pool, 2 separable twice, 3
    separable once, 4 two convolutions), kinds of the first op at stride 1 and 2 and of the second at stride 1 and 2.
    shape: channels, cells, steps, whether only states that no other reads are joined, whether the stems are those of
    ImageNet, classes.
    """
    steps = shape[2]
    state, used = scratch[1], scratch[2]
    norm, relu, conv1 = kinds[1], kinds[2], kinds[4]
    at = scratch[0]
    at[0] = 0
    at[1] = 0
    in_ptr[0] = 0
    graph_ptr[0] = 0
    for row in range(rows.shape[0]):
        at[2] = at[0]
        channels = shape[0]
        x = new(at, kind, in_ptr, free, until, kinds[0], 0, 0)
        if shape[4]:
            y = put(at, kind, in_ptr, in_idx, free, until, kinds[9], x, channels // 2)
            y = put(at, kind, in_ptr, in_idx, free, until, norm, y, 0)
            y = put(at, kind, in_ptr, in_idx, free, until, kinds[10], y, 0)
            y = put(at, kind, in_ptr, in_idx, free, until, kinds[9], y, channels)
            y = put(at, kind, in_ptr, in_idx, free, until, norm, y, 0)
            hold(at, until, x, y)
            older = put(at, kind, in_ptr, in_idx, free, until, kinds[10], y, 0)
            x = put(at, kind, in_ptr, in_idx, free, until, kinds[9], older, channels)
            newer = put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)
            hold(at, until, y, newer)
        else:
            x = put(at, kind, in_ptr, in_idx, free, until, kinds[3], x, 3 * channels)
            newer = put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)
            older = newer
        stem0 = older
        stem1 = newer
        halve = shape[4]
        for cell in range(shape[1]):
            reduce = int(cell == shape[1] // 3 or cell == 2 * shape[1] // 3)
            if reduce:
                channels *= 2
            if halve:
                state[0] = halved(at, kind, in_ptr, in_idx, free, until, kinds, older, channels)
            else:
                state[0] = relu_conv_bn(at, kind, in_ptr, in_idx, free, until, relu, conv1, norm, older, channels)
            state[1] = relu_conv_bn(at, kind, in_ptr, in_idx, free, until, relu, conv1, norm, newer, channels)
            for s in range(steps + 2):
                used[s] = 0
            for step in range(steps):
                total = 0
                first = -1  # state that the pair's first edge reads by ops of a module call of its own
                for half in range(2):
                    column = reduce * 4 * steps + 4 * step + 2 * half
                    op = rows[row, column]
                    source = rows[row, column + 1]
                    used[source] = 1
                    stride = int(reduce and source < 2)
                    a = operation[op, 1 + stride]
                    b = operation[op, 3 + stride]
                    family = operation[op, 0]
                    y = state[source]
                    if family == 0:
                        if stride:
                            y = halved(at, kind, in_ptr, in_idx, free, until, kinds, y, channels)
                    elif family == 1:
                        y = put(at, kind, in_ptr, in_idx, free, until, a, y, 0)
                    elif family == 4:
                        y = put(at, kind, in_ptr, in_idx, free, until, relu, y, 0)
                        y = put(at, kind, in_ptr, in_idx, free, until, a, y, channels)
                        y = put(at, kind, in_ptr, in_idx, free, until, b, y, channels)
                        y = put(at, kind, in_ptr, in_idx, free, until, norm, y, 0)
                    else:
                        y = separable(at, kind, in_ptr, in_idx, free, until, relu, a, conv1, norm, y, channels)
                        if family == 2:
                            y = separable(at, kind, in_ptr, in_idx, free, until, relu, b, conv1, norm, y, channels)
                    # Modules that run one after the other are one call of their list; a pool is an op between.
                    if family > 1 or (family == 0 and stride):
                        hold(at, until, state[source], y)
                        if first >= 0:
                            hold(at, until, state[first], y)
                        first = source
                    elif family == 1:
                        first = -1
                    if half:
                        total = put2(at, kind, in_ptr, in_idx, free, until, kinds[8], total, y)
                    else:
                        total = y
                state[step + 2] = total
            y = new(at, kind, in_ptr, free, until, kinds[7], 0, 0)
            for s in range(2, steps + 2):
                if not shape[3] or not used[s]:
                    read(at, in_ptr, in_idx, state[s])
            hold(at, until, older, y)
            hold(at, until, newer, y)
            older = newer
            newer = y
            halve = reduce
        hold(at, until, stem0, newer)
        hold(at, until, stem1, newer)
        x = put(at, kind, in_ptr, in_idx, free, until, kinds[11], newer, 0)
        x = put(at, kind, in_ptr, in_idx, free, until, kinds[12], x, 0)
        put(at, kind, in_ptr, in_idx, free, until, kinds[13], x, shape[5])
        graph_ptr[row + 1] = at[0]


# ----------------------------------------------------------------------------------------------------------- RegNet


@kernel
def nearest(x: float) -> int:
    """Round to the nearest integer, of two the even one; `x` is not negative."""
    low = int(x)
    rest = x - low
    if rest > 0.5 or (rest == 0.5 and low % 2):
        low += 1
    return low


@kernel
def block_widths(
    depth: int, first: float, slope: float, factor: float, group: int, divide: int, width: I64, blocks: I64,
    groups: I64,
) -> int:  # fmt: skip
    """Fill width, blocks and group width of each of RegNet's stages; return their number.

    ``first * factor**k`` for whole k are the widths of the blocks ``first + slope * j``, in multiples of 8. `divide`
    says how they are made to divide by the group width: 0 to the nearest multiple as in pycls, 1 as torchvision does,
    a multiple up where that loses a tenth.
    """
    stages = 0
    last = -1
    for j in range(depth):
        k = float(nearest(np.log((first + slope * j) / first) / np.log(factor)))
        w = nearest(first * factor**k / 8) * 8
        if w != last:
            width[stages] = w
            blocks[stages] = 0
            stages += 1
            last = w
        blocks[stages - 1] += 1
    for s in range(stages):
        w = width[s]
        g = min(group, w)
        groups[s] = g
        if divide:
            width[s] = max(g, (2 * w + g) // (2 * g) * g)
            if 10 * width[s] < 9 * w:
                width[s] += g
        else:
            width[s] = nearest(w / g) * g
    return stages


@kernel
def regnet(
    rows: I64, genes: F64, kinds: I64, shape: I64, scratch: I64, graph_ptr: I64, kind: I32, in_ptr: I64, in_idx: I32,
    free: I32, until: I32,
) -> None:  # fmt: skip
    """Encode RegNets.

    rows : (n, 5): positions of depth, w_0, w_a, w_m and group width in their rows of `genes` (5, most values). scratch
    of the largest depth. kinds: input, conv 3x3 stride 2, batch normalisation, ReLU in place, conv 1x1, conv 1x1 stride
    2, conv 3x3 of FREE[1] groups, the same of stride 2, sum, average pool to 1x1, conv 1x1 with bias, sigmoid, product,
    flatten, linear, ReLU. shape: how widths divide, classes, squeeze-excitation's channels per 1000 of the block's
    input (0: none).
    """
    width, blocks, groups = scratch[1], scratch[2], scratch[3]
    norm, relu, conv1 = kinds[2], kinds[3], kinds[4]
    at = scratch[0]
    at[0] = 0
    at[1] = 0
    in_ptr[0] = 0
    graph_ptr[0] = 0
    for row in range(rows.shape[0]):
        at[2] = at[0]
        stages = block_widths(int(genes[0, rows[row, 0]]), genes[1, rows[row, 1]], genes[2, rows[row, 2]],
                              genes[3, rows[row, 3]], int(genes[4, rows[row, 4]]), shape[0], width, blocks,
                              groups)  # fmt: skip
        image = new(at, kind, in_ptr, free, until, kinds[0], 0, 0)
        x = conv_bn_relu(at, kind, in_ptr, in_idx, free, until, kinds[1], norm, relu, image, 32)
        hold(at, until, image, x)
        stem = x
        channels = 32
        for s in range(stages):
            entry = x
            for i in range(blocks[s]):
                start = x
                stride = int(i == 0)
                w = width[s]
                shortcut = x
                if stride or channels != w:
                    shortcut = put(at, kind, in_ptr, in_idx, free, until, conv1 + stride * (kinds[5] - conv1), x, w)
                    shortcut = put(at, kind, in_ptr, in_idx, free, until, norm, shortcut, 0)
                a = conv_bn_relu(at, kind, in_ptr, in_idx, free, until, conv1, norm, relu, x, w)
                y = new(at, kind, in_ptr, free, until, kinds[6 + stride], w, w // groups[s])
                read(at, in_ptr, in_idx, a)
                y = put(at, kind, in_ptr, in_idx, free, until, norm, y, 0)
                y = put(at, kind, in_ptr, in_idx, free, until, relu, y, 0)
                hold(at, until, a, y)
                if shape[2]:
                    z = put(at, kind, in_ptr, in_idx, free, until, kinds[9], y, 0)
                    z = put(at, kind, in_ptr, in_idx, free, until, kinds[10], z, nearest(channels * shape[2] / 1000))
                    z = put(at, kind, in_ptr, in_idx, free, until, kinds[15], z, 0)
                    z = put(at, kind, in_ptr, in_idx, free, until, kinds[10], z, w)
                    z = put(at, kind, in_ptr, in_idx, free, until, kinds[11], z, 0)
                    z = put2(at, kind, in_ptr, in_idx, free, until, kinds[12], z, y)
                    hold(at, until, y, z)
                    y = z
                z = put(at, kind, in_ptr, in_idx, free, until, conv1, y, w)
                z = put(at, kind, in_ptr, in_idx, free, until, norm, z, 0)
                hold(at, until, y, z)
                x = put2(at, kind, in_ptr, in_idx, free, until, kinds[8], shortcut, z)
                x = put(at, kind, in_ptr, in_idx, free, until, relu, x, 0)
                hold(at, until, start, x)
                channels = w
            hold(at, until, entry, x)
        hold(at, until, stem, x)
        x = put(at, kind, in_ptr, in_idx, free, until, kinds[9], x, 0)
        x = put(at, kind, in_ptr, in_idx, free, until, kinds[13], x, 0)
        put(at, kind, in_ptr, in_idx, free, until, kinds[14], x, shape[1])
        graph_ptr[row + 1] = at[0]


# --------------------------------------------------------------------------------------------------------- RandWire


@kernel
def randwire(
    rows: I64, kinds: I64, stages: I64, shape: I64, scratch: I64, graph_ptr: I64, kind: I32, in_ptr: I64, in_idx: I32,
    free: I32, until: I32,
) -> None:  # fmt: skip
    """Encode randomly wired nets.

    rows : (n, sum of v (v - 1) / 2): 1 for each edge u -> v of each stage, all edges into node 1 first, then into node
    2. scratch of the most nodes. kinds: input, conv 3x3 stride 2, batch normalisation, ReLU in place, parameter,
    sigmoid, product, sum, ReLU, depthwise conv 3x3, the same of stride 2, conv 1x1, product with a number, global
    pool, flatten, dropout, linear.
    stages : (k, 2): nodes and channels. shape: channels of the first convolution and of the second (0: none), of the
    head, whether there is dropout, classes.
    """
    value, used = scratch[1], scratch[2]
    norm, relu = kinds[2], kinds[3]
    at = scratch[0]
    at[0] = 0
    at[1] = 0
    in_ptr[0] = 0
    graph_ptr[0] = 0
    for row in range(rows.shape[0]):
        at[2] = at[0]
        x = new(at, kind, in_ptr, free, until, kinds[0], 0, 0)
        x = put(at, kind, in_ptr, in_idx, free, until, kinds[1], x, shape[0])
        x = put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)
        width = shape[0]
        if shape[1]:
            x = put(at, kind, in_ptr, in_idx, free, until, relu, x, 0)
            x = put(at, kind, in_ptr, in_idx, free, until, kinds[1], x, shape[1])
            x = put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)
            width = shape[1]
        column = 0
        for s in range(stages.shape[0]):
            n = stages[s, 0]
            channels = stages[s, 1]
            for v in range(n):
                used[v] = 0
            for v in range(n):
                degree = 0
                for u in range(v):
                    degree += rows[row, column + u]
                y = x
                done = 0
                for u in range(v):
                    if rows[row, column + u]:
                        used[u] = 1
                        term = value[u]
                        if degree > 1:
                            weight = new(at, kind, in_ptr, free, until, kinds[4], 0, 0)
                            weight = put(at, kind, in_ptr, in_idx, free, until, kinds[5], weight, 0)
                            term = put2(at, kind, in_ptr, in_idx, free, until, kinds[6], term, weight)
                        if done:
                            y = put2(at, kind, in_ptr, in_idx, free, until, kinds[7], y, term)
                        else:
                            y = term
                        done = 1
                inner = put(at, kind, in_ptr, in_idx, free, until, kinds[8], y, 0)
                y = put(at, kind, in_ptr, in_idx, free, until, kinds[9 + (degree == 0)], inner,
                        channels if degree else width)  # fmt: skip
                y = put(at, kind, in_ptr, in_idx, free, until, kinds[11], y, channels)
                hold(at, until, inner, y)
                value[v] = put(at, kind, in_ptr, in_idx, free, until, norm, y, 0)
                for u in range(v):
                    if rows[row, column + u]:
                        hold(at, until, value[u], value[v])
                column += v
            y = -1
            sinks = 0
            for v in range(n):
                if not used[v]:
                    y = put2(at, kind, in_ptr, in_idx, free, until, kinds[7], y, value[v]) if sinks else value[v]
                    sinks += 1
            if sinks > 1:
                y = put(at, kind, in_ptr, in_idx, free, until, kinds[12], y, 0)
            hold(at, until, x, y)
            x = y
            width = channels
        x = put(at, kind, in_ptr, in_idx, free, until, relu, x, 0)
        x = put(at, kind, in_ptr, in_idx, free, until, kinds[11], x, shape[2])
        x = put(at, kind, in_ptr, in_idx, free, until, norm, x, 0)
        x = put(at, kind, in_ptr, in_idx, free, until, kinds[13], x, 0)
        x = put(at, kind, in_ptr, in_idx, free, until, kinds[14], x, 0)
        if shape[3]:
            x = put(at, kind, in_ptr, in_idx, free, until, kinds[15], x, 0)
        put(at, kind, in_ptr, in_idx, free, until, kinds[16], x, shape[4])
        graph_ptr[row + 1] = at[0]
