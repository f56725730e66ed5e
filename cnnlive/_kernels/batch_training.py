"""Training steps of many graphs of one output each: peaks only, from what their kinds of ops contribute to a tape."""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I32, I64, U32


@kernel
def train_graphs(
    graph_ptr: I64,
    kind: I32,
    in_ptr: I64,
    in_idx: I32,
    until: I32,
    sizes: I64,
    classes: I64,
    table: I64,
    record: I64,
    edge: I64,
    item: int,
    loss: int,
    target_item: int,
    rule: I64,
    step: I64,
    node: U32,
    uses: U32,
    amount: I64,
    handle: U32,
    held_bytes: I64,
    slot: U32,
    goal: I64,
    made: I64,
    answer: I64,
) -> tuple[int, int, int]:
    """Fill ``answer`` (n_graphs, 1 + n_rules): bytes that backward keeps, and the peak of a step with each optimizer.

    Parameters
    ----------
    graph_ptr : (n_graphs + 1,)
        Nodes of each graph; the last is the output. Pointers need not begin with 0.
    kind, in_ptr, in_idx : (n_nodes,), (n_nodes + 1,), (n_edges,)
        Row of `table` of each node; the nodes of the graph that it reads.
    until : (n_nodes,), or (0,)
        Node of the graph through which eager Python holds an output, 0: its last reader.
    sizes : (4 * n_nodes,)
        Four of each node: elements of the output, of a weight, of a vector of parameters (as the counting kernel has
        them), and the product of the dimensions that `Templates.span` names.
    classes : (n_graphs,)
        Second dimension of the output, 0 if it has one dimension only.
    table : (24 * (n_kinds + 1),)
        Rows of 24: what an op contributes, the loss as the last. 0: a word, see below. 1: the record that lets go of
        what forward kept. 2 to 5: bytes, per element of the output, of the first input, per product of dimensions,
        and once, of the storages beside its output, which backward keeps. 6 and 7: its records. 8 and 9: bytes of its
        weight and bias per element of `sizes`; 10: how many these are; 11 and 12: bytes of its buffers per element of
        a vector, and once; 13 and 14: 1 has a weight, a bias.
        The word's bits: 0 to 3 say how backward goes: 0 not at all, the output is the input; 1 one input gets a new
        gradient; 2 the gradient is handed on; 4 anything else; 9 not known; 10 a network input, 11 a parameter, 12 a
        constant. 16 shares the storage of its first input. 32 is a view, 64 works in place. What backward keeps: 128
        the first input, 256 the output, 512 the second input, 1024 the first if the second takes a gradient, 2048 the
        other way round. 4096 has storages beside its output, 8192 only where an input takes a gradient. 16384 has
        parameters or buffers. 32768 has several records.
    record : (16 * n_records,)
        Rows of 16. 0 and 1: edges. 2: the value it makes, 0 the node's own, else one between records. 3: 1 if that
        one is as large as the first input. 4: 1 makes the node's storage. Bytes (as 2 to 5 of `table`) of the storages
        that it makes beside (5 to 8), that go after it (9 to 11, without products; nothing keeps them), and that go
        after backward of it (12 to 15).
    edge : (8 * n_edges,)
        Rows of 8. What takes a gradient: 0 and above an input, -1 the weight, -2 the bias, -3 every input, -10 - j a
        value between records. Then how: 1 a new gradient, 2 the incoming one, 3 a view of it, 4 a slice, 5 a reshape,
        which copies what is not contiguous, 6 an expanded view, 7 a reshape that may do so. Then 1 if it is made as
        large as the output; then bytes of temporaries per element of the output, per element of the input, and once.
    item, loss, target_item : int
        Bytes of an element; 1 if there are records of a loss in the last row of `table`; bytes of an element of the
        targets, negative: one per `classes` elements of the output.
    rule, step : (8 * n_rules,), (4 * n_rows,)
        Optimizers, as `StepRule` has them. Of each: 1 if it steps lists; bytes of state per element and per parameter;
        where its rows in `step` begin and end.
    node : (8 * n,) scratch, n at least 8 more than nodes of the largest graph
        Of each node: the value it stands for; bits (1 takes a gradient, 2 is read, 4 a view, 8 a leaf, 16 keeps a
        second storage); the node whose storage it lies in; the last node that holds that; how many backward nodes
        keep it; two storages that it keeps itself; the gradient that waits for it: 0 none, 1 one of its own that
        nobody else looks at, or a handle.
    uses : (n,) scratch
    amount : (8 * n,) scratch
        Bytes of each node: of its gradient, of its storage, of storages beside it, of what goes after it, of its
        parameters. The fourth has to hold 0, and does so again afterwards unless the status is not 0.
    handle, held_bytes : (4 * m,), (m,) scratch, m at least 32 more than 4 times nodes and edges of the largest graph
        Of each handle: its storage, who holds it, whether it is contiguous; who holds the storage of that number, and
        its bytes.
    slot, goal, made : scratch, 8 longer than the most inputs of a node

    Returns
    -------
    status, graph, node : int, int, int
        0, or of the first graph that this does not know: 1 nothing takes a gradient, 2 a node's kind is not known,
        3 a node works in place on a view, 4 a reshape may have to copy, 5 a loss of classes on one dimension.

    Notes
    -----
    O(nodes + edges). What forward packs lives on, so forward needs no counts of holders: a storage that nothing packs
    goes after its last reader. In backward most gradients belong to one value alone and need no handle. Rows in flat
    arrays, unsigned numbers of nodes (no test whether an index is below 0) and words of bits: 37 ns a node became 2x.
    """
    # What this leaves is not below 0, and the compiler sees it: no test of every index.
    mask = 2147483647
    node_0 = graph_ptr[0]
    edge_0 = in_ptr[0]
    held = until.shape[0] > 0
    the_loss = table.shape[0] - 24
    for g in range(graph_ptr.shape[0] - 1):
        first = (graph_ptr[g] - node_0) & mask
        n = (graph_ptr[g + 1] - graph_ptr[g]) & mask
        # Storage n is none: what inputs and parameters lie in, of no bytes; who keeps it is not counted.
        none = 8 * n
        amount[none + 1] = 0
        node[none + 3] = 0
        node[none + 4] = 2147483648
        seen = 0
        values = n
        resident = 0
        given = 0
        trained = 0
        tensors = 0
        idle = 0
        start = (in_ptr[first] - edge_0) & mask
        first_edge = start
        for p in range(n):
            q = (first + p) & mask
            k = 24 * (kind[q] & mask)
            word = table[k]
            how = word & 15
            stop = (in_ptr[q + 1] - edge_0) & mask
            q *= 4
            numel = sizes[q]
            size = item * numel
            b = 8 * (p & mask)
            node[b] = p
            node[b + 3] = p
            node[b + 4] = 0
            node[b + 7] = 0
            amount[b] = size
            amount[b + 1] = 0
            amount[b + 2] = 0
            s = p
            if 0 < how < 8:
                x = 8 * node[8 * (in_idx[start] & mask)]
                bits = node[x + 1]
                seen += 1 - ((bits >> 1) & 1)
                node[x + 1] = bits | 2
                grad = bits & 1
                a = 8 * node[x + 2]
                node[a + 3] = max(node[a + 3], p)
                y = x
                leaf = bits & 8
                for e in range(start + 1, stop):
                    y = 8 * node[8 * (in_idx[e] & mask)]
                    more = node[y + 1]
                    grad |= more & 1
                    leaf |= more & 8
                    seen += 1 - ((more >> 1) & 1)
                    node[y + 1] = more | 2
                    c = 8 * node[y + 2]
                    node[c + 3] = max(node[c + 3], p)
                if word & 16384:
                    weights = table[k + 8] * sizes[q + 1] + table[k + 9] * sizes[q + 2]
                    resident += weights + table[k + 11] * sizes[q + 2] + table[k + 12]
                    amount[b + 4] = weights
                    if table[k + 10] > 0:
                        grad = 1
                        trained += weights
                        tensors += table[k + 10]
                else:
                    amount[b + 4] = 0
                flag = grad
                if word & 112:
                    if word & 32:
                        flag |= 4
                    if word & 64 and bits & 4:
                        if grad == 1:
                            return 3, g, p
                        flag |= 4
                    if word & 16:
                        s = node[x + 2]
                    else:
                        amount[b + 1] = size
                else:
                    amount[b + 1] = size
                if word & 4096 and (grad == 1 or word & 8192 == 0):
                    beside = (
                        table[k + 2] * numel
                        + table[k + 3] * sizes[4 * ((first + in_idx[start]) & mask)]
                        + table[k + 4] * sizes[q + 3]
                        + table[k + 5]
                    )
                    amount[b + 2] = beside
                    if grad == 0:
                        amount[b + 3] += beside
                        idle -= beside
                if grad == 1:
                    keeps = n
                    if word & 128 or (word & 1024 and node[y + 1] & 1):
                        keeps = node[x + 2]
                        node[8 * keeps + 4] += 1
                    if word & 2816:
                        second = n
                        if word & 256:
                            second = s
                        elif word & 512 or (word & 2048 and bits & 1):
                            second = node[y + 2]
                        if second != keeps and second != n:
                            node[b + 6] = second
                            flag |= 16
                            node[8 * second + 4] += 1
                    node[b + 5] = keeps
                    if leaf:
                        for e in range(start, stop):
                            v = node[8 * (in_idx[e] & mask)]
                            if node[8 * v + 1] & 8:
                                uses[v] += 1
                node[b + 1] = flag
            elif how == 0:
                x = node[8 * (in_idx[start] & mask)]
                node[b] = x
                node[b + 1] = 0
                values -= 1
                s = node[8 * x + 2]
                node[8 * s + 3] = max(node[8 * s + 3], p)
            elif how == 9:
                return 2, g, p
            else:
                s = n
                node[b + 1] = 0
                if how == 10:
                    given += size
                else:
                    weights = table[k + 8]
                    resident += weights + table[k + 11] + table[k + 12]
                    amount[b + 4] = weights
                    if how == 11:
                        node[b + 1] = 9
                        uses[p] = 0
                        trained += weights
                        tensors += 1
            node[b + 2] = s
            if held:
                a = 8 * s + 3
                node[a] = max(node[a], until[first + p])
            start = stop
        last_edge = start
        end = node[8 * (n - 1)]
        if node[8 * end + 1] & 1 == 0:
            return 1, g, n - 1
        out = node[8 * end + 2]
        out_kept = node[8 * out + 4]
        # A value that nobody reads leads nowhere: neither does backward. What it packs is packed all the same.
        whole = seen + 1 - ((node[8 * end + 1] >> 1) & 1) == values
        if not whole:
            for p in range(n):
                b = 8 * p
                node[b + 1] &= 4294967293
                if node[b + 4] > 0:
                    idle += amount[b + 1]
            node[8 * end + 1] |= 2
            stop = start
            for p in range(n - 1, -1, -1):
                b = 8 * p
                start = in_ptr[first + p] - edge_0
                bits = node[b + 1]
                if bits & 1 and start < stop and node[b] == p:
                    if bits & 2:
                        for e in range(start, stop):
                            node[8 * node[8 * (in_idx[e] & mask)] + 1] |= 2
                    else:
                        node[8 * node[b + 5] + 4] -= 1
                        if bits & 16:
                            node[8 * node[b + 6] + 4] -= 1
                        for e in range(start, stop):
                            v = node[8 * (in_idx[e] & mask)]
                            if node[8 * v + 1] & 8:
                                uses[v] -= 1
                        amount[b + 3] += amount[b + 2]
                        trained -= amount[b + 4]
                        tensors -= table[24 * kind[first + p] + 10]
                elif bits & 3 == 1 and node[b] == p:
                    trained -= amount[b + 4]
                    tensors -= 1
                stop = start
            for p in range(n):
                if node[8 * p + 4] > 0:
                    idle -= amount[8 * p + 1]
        live = 0
        best = 0
        packed = idle
        node[8 * out + 3] = n
        start = first_edge
        for p in range(n):
            b = 8 * (p & mask)
            word = table[24 * (kind[(first + p) & mask] & mask)]
            if word & 32768:
                k = 24 * kind[first + p]
                x = 4 * (first + in_idx[in_ptr[first + p] - edge_0])
                numel = sizes[4 * (first + p)]
                for r in range(16 * table[k + 6], 16 * table[k + 7], 16):
                    live += record[r + 4] * amount[b + 1]
                    live += record[r + 5] * numel + record[r + 6] * sizes[x] + record[r + 8]
                    best = max(best, live)
                    live -= record[r + 9] * numel + record[r + 10] * sizes[x] + record[r + 11]
            else:
                beside = amount[b + 2]
                live += amount[b + 1] + beside
                best = max(best, live)
                packed += beside
            if node[b + 4] == 0:
                amount[8 * node[b + 3] + 3] += amount[b + 1]
            else:
                packed += amount[b + 1]
            live -= amount[b + 3]
            amount[b + 3] = 0
        amount[none + 3] = 0
        node[8 * out + 4] += 1
        numel = sizes[4 * (first + end)]
        if loss == 1:
            if target_item < 0:
                if classes[g] == 0:
                    return 5, g, n - 1
                given += -target_item * (numel // classes[g])
            else:
                given += target_item * numel
            node[none + 5] = n
            node[none + 1] = 1
            if table[the_loss] & 128:
                node[none + 5] = out
                if out_kept == 0:
                    packed += amount[8 * out + 1]
                node[8 * out + 4] += 1
            for r in range(16 * table[the_loss + 6], 16 * table[the_loss + 7], 16):
                live += record[r + 5] + record[r + 6] * numel + record[r + 8]
                best = max(best, live)
                live -= record[r + 9] + record[r + 10] * numel + record[r + 11]
                packed += record[r + 12] + record[r + 13] * numel + record[r + 15]
        most = best

        # Backward. The gradient of the last value waits.
        leaves = 0
        n_handles = 2
        p = n
        b = none
        if loss == 1:
            if node[8 * end + 1] & 8:
                uses[end] += 1
            amount[none] = item
        else:
            p = n - 1
            b = 8 * end
            if node[b + 1] & 8:
                # The loss is a parameter as it stands.
                return 2, g, n - 1
        node[b + 7] = 1
        live += amount[b]
        best = live
        stop = last_edge
        while p >= 0:
            k = the_loss
            start = stop
            if p < n:
                q = (first + p) & mask
                k = 24 * (kind[q] & mask)
                start = (in_ptr[q] - edge_0) & mask
            b = 8 * (p & mask)
            how = table[k] & 15
            h = node[b + 7]
            if how == 1 and h != 0:
                x = 8 * node[8 * (in_idx[start] & mask)]
                bits = node[x + 1]
                if bits & 8 == 0:
                    # What came in dies once there is what goes out.
                    weights = amount[b + 4]
                    leaves += weights
                    live += weights
                    if bits & 1:
                        size = amount[x]
                        live += size
                        best = max(best, live)
                        old = node[x + 7]
                        if old == 0:
                            node[x + 7] = 1
                        elif old == 1:
                            # Added in place to what waits there, after what came in and was kept has gone.
                            live -= size
                    else:
                        best = max(best, live)
                        old = 0
                    live -= amount[b + 2]
                    if h == 1:
                        live -= amount[b]
                    else:
                        handle[4 * h + 1] -= 1
                        if handle[4 * h + 1] == 0:
                            t = handle[4 * h]
                            handle[4 * t + 3] -= 1
                            if handle[4 * t + 3] == 0:
                                live -= held_bytes[t]
                    a = 8 * node[b + 5]
                    node[a + 4] -= 1
                    if node[a + 4] == 0:
                        live -= amount[a + 1]
                    if node[b + 1] & 16:
                        a = 8 * node[b + 6]
                        node[a + 4] -= 1
                        if node[a + 4] == 0:
                            live -= amount[a + 1]
                    if old > 1:
                        t = handle[4 * old]
                        if handle[4 * old + 1] == 1 and handle[4 * t + 3] == 1 and handle[4 * old + 2] == 1:
                            live -= size
                        else:
                            live += size
                            best = max(best, live)
                            handle[4 * old + 1] -= 1
                            if handle[4 * old + 1] == 0:
                                handle[4 * t + 3] -= 1
                                if handle[4 * t + 3] == 0:
                                    live -= held_bytes[t]
                            live -= size
                            node[x + 7] = 1
                    stop = start
                    p -= 1
                    continue
            if how == 2 and h != 0:
                m = 0
                plain = True
                for e in range(start, stop):
                    x = 8 * node[8 * (in_idx[e] & mask)]
                    bits = node[x + 1]
                    m += bits & 1
                    plain &= bits & 9 == 0 or (bits & 8 == 0 and amount[x] == amount[b])
                if plain:
                    if m > 1:
                        if h == 1:
                            h = n_handles
                            n_handles += 1
                            handle[4 * h] = h
                            handle[4 * h + 1] = m
                            handle[4 * h + 2] = 1
                            handle[4 * h + 3] = 1
                            held_bytes[h] = amount[b]
                        else:
                            handle[4 * h + 1] += m - 1
                    for e in range(start, stop):
                        x = 8 * node[8 * (in_idx[e] & mask)]
                        if node[x + 1] & 1 == 0:
                            continue
                        old = node[x + 7]
                        if old == 0:
                            node[x + 7] = h
                            continue
                        if old > 1:
                            t = handle[4 * old]
                            if handle[4 * old + 1] != 1 or handle[4 * t + 3] != 1 or handle[4 * old + 2] == 0:
                                live += amount[x]
                                best = max(best, live)
                                handle[4 * old + 1] -= 1
                                if handle[4 * old + 1] == 0:
                                    handle[4 * t + 3] -= 1
                                    if handle[4 * t + 3] == 0:
                                        live -= held_bytes[t]
                                node[x + 7] = 1
                        if h == 1:
                            live -= amount[x]
                        else:
                            handle[4 * h + 1] -= 1
                            if handle[4 * h + 1] == 0:
                                t = handle[4 * h]
                                handle[4 * t + 3] -= 1
                                if handle[4 * t + 3] == 0:
                                    live -= held_bytes[t]
                    stop = start
                    p -= 1
                    continue
            if how == 0 or how > 9 or (h == 0 and table[k] & 32768 == 0):
                stop = start
                p -= 1
                continue
            x = end
            if p < n:
                x = node[8 * (in_idx[start] & mask)]
            for r in range(16 * table[k + 6], 16 * table[k + 7], 16):
                if record[r + 2] > 0:
                    o = 8 * (n + record[r + 2])
                    amount[o] = amount[8 * x] if record[r + 3] == 1 else amount[b]
                    node[o + 1] = 1
                    node[o + 7] = 0
            for r in range(16 * (table[k + 7] - 1), 16 * (table[k + 6] - 1), -16):
                o = b
                if record[r + 2] > 0:
                    o = 8 * (n + record[r + 2])
                h = node[o + 7]
                if h == 0:
                    continue
                node[o + 7] = 0
                out_bytes = amount[o]
                if h == 1:
                    h = n_handles
                    n_handles += 1
                    handle[4 * h] = h
                    handle[4 * h + 1] = 1
                    handle[4 * h + 2] = 1
                    handle[4 * h + 3] = 1
                    held_bytes[h] = out_bytes
                m = 0
                for c in range(8 * record[r], 8 * record[r + 1], 8):
                    source = edge[c]
                    what = edge[c + 1]
                    e = start
                    e_stop = start + 1
                    if source == -3:
                        e_stop = stop
                    elif source >= 0:
                        e = start + source
                        e_stop = e + 1
                    while e < e_stop:
                        # -1 and -2 stand for the parameters.
                        v = source
                        want = 0
                        if source >= 0 or source == -3:
                            v = x
                            if p < n:
                                v = node[8 * (in_idx[e] & mask)]
                            want = amount[8 * v]
                        elif source == -1:
                            want = table[k + 8] * sizes[4 * (first + p) + 1]
                        elif source == -2:
                            want = table[k + 9] * sizes[4 * (first + p) + 2]
                        else:
                            v = n - 10 - source
                            want = amount[8 * v]
                        e += 1
                        if v >= 0 and node[8 * v + 1] & 1 == 0:
                            continue
                        size = out_bytes if edge[c + 2] == 1 else want
                        if what == 2:
                            handle[4 * h + 1] += 1
                            new = h
                        elif what == 1 or (what == 5 and handle[4 * h + 2] == 0):
                            live += size
                            more = 0
                            if edge[c + 3] > 0 or edge[c + 4] > 0 or edge[c + 5] > 0:
                                more = edge[c + 3] * (out_bytes // item) + edge[c + 4] * (want // item) + edge[c + 5]
                            best = max(best, live + more)
                            new = 1
                        else:
                            if what == 7 and handle[4 * h + 2] == 0:
                                return 4, g, p
                            s = handle[4 * h]
                            handle[4 * s + 3] += 1
                            new = n_handles
                            n_handles += 1
                            handle[4 * new] = s
                            handle[4 * new + 1] = 1
                            handle[4 * new + 2] = handle[4 * h + 2]
                            if what == 6 or (what == 4 and sizes[4 * (first + p) + 3] != 1):
                                handle[4 * new + 2] = 0
                        slot[m] = new
                        goal[m] = v
                        made[2 * m] = size
                        made[2 * m + 1] = want
                        m += 1
                # Sums to the shape of the input, while what came in is still held.
                for i in range(m):
                    want = made[2 * i + 1]
                    if made[2 * i] != want:
                        live += want
                        best = max(best, live)
                        old = slot[i]
                        if old == 1:
                            live -= made[2 * i]
                        else:
                            # It came in as it is, and is held still.
                            handle[4 * old + 1] -= 1
                        slot[i] = 1
                handle[4 * h + 1] -= 1
                if handle[4 * h + 1] == 0:
                    s = handle[4 * h]
                    handle[4 * s + 3] -= 1
                    if handle[4 * s + 3] == 0:
                        live -= held_bytes[s]
                if 16 * (table[k + 6] + table[k + 1]) == r:
                    a = 8 * node[b + 5]
                    node[a + 4] -= 1
                    if node[a + 4] == 0:
                        live -= amount[a + 1]
                    if node[b + 1] & 16:
                        a = 8 * node[b + 6]
                        node[a + 4] -= 1
                        if node[a + 4] == 0:
                            live -= amount[a + 1]
                    if p < n:
                        live -= amount[b + 2]
                if p == n:
                    live -= record[r + 12] + record[r + 13] * numel + record[r + 15]
                for i in range(m):
                    v = goal[i]
                    if v < 0:
                        continue
                    new = slot[i]
                    old = node[8 * v + 7]
                    if old == 0:
                        node[8 * v + 7] = new
                        continue
                    if old > 1:
                        t = handle[4 * old]
                        if handle[4 * old + 1] != 1 or handle[4 * t + 3] != 1 or handle[4 * old + 2] == 0:
                            live += made[2 * i + 1]
                            best = max(best, live)
                            handle[4 * old + 1] -= 1
                            if handle[4 * old + 1] == 0:
                                handle[4 * t + 3] -= 1
                                if handle[4 * t + 3] == 0:
                                    live -= held_bytes[t]
                            node[8 * v + 7] = 1
                    if new == 1:
                        live -= made[2 * i + 1]
                    else:
                        handle[4 * new + 1] -= 1
                        if handle[4 * new + 1] == 0:
                            s = handle[4 * new]
                            handle[4 * s + 3] -= 1
                            if handle[4 * s + 3] == 0:
                                live -= held_bytes[s]
                # A parameter keeps the gradient that nobody else holds, else a copy of it.
                for i in range(m):
                    v = goal[i]
                    new = slot[i]
                    if v >= 0:
                        if node[8 * v + 1] & 8 == 0:
                            continue
                        uses[v] -= 1
                        if uses[v] != 0:
                            continue
                        new = node[8 * v + 7]
                        node[8 * v + 7] = 0
                    if new == 1:
                        leaves += made[2 * i + 1]
                    elif handle[4 * new + 1] == 1:
                        # It stays; others that look at this storage find nothing left to free.
                        s = handle[4 * new]
                        leaves += held_bytes[s]
                        held_bytes[s] = 0
                    else:
                        leaves += made[2 * i + 1]
                        live += made[2 * i + 1]
                        best = max(best, live)
                        handle[4 * new + 1] -= 1
            stop = start
            p -= 1
        most = max(most, best)
        # The optimizer steps while gradients, the output and the loss are there.
        answer[g, 0] = packed
        elements = trained // item
        for j in range(0, rule.shape[0], 8):
            largest = 0
            if rule[j] == 1:
                if tensors > 0:
                    for m in range(4 * rule[j + 3], 4 * rule[j + 4], 4):
                        largest = max(largest, step[m] * elements + step[m + 1] * tensors + step[m + 2])
            else:
                before = -1
                for p in range(n):
                    k = 24 * kind[first + p]
                    bits = node[8 * p + 1]
                    if table[k + 10] > 0 and bits & 1 and (whole or bits & 2):
                        for i in range(2):
                            if table[k + 13 + i] == 1:
                                size = sizes[4 * (first + p) + 1 + i] * table[k + 8 + i] // item
                                for m in range(4 * rule[j + 3], 4 * rule[j + 4], 4):
                                    there = step[m + 2] * size + step[m + 3]
                                    if before >= 0:
                                        there += step[m] * before + step[m + 1]
                                    largest = max(largest, there)
                                before = size
            state = rule[j + 1] * elements + rule[j + 2] * tensors
            answer[g, 1 + j // 8] = max(most, trained + live - leaves + largest) + resident + given + state
    return 0, graph_ptr.shape[0] - 1, 0
