"""Training steps of many graphs of one output each: peaks only, from what their kinds of ops contribute to a tape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64

I32 = NDArray[np.int32]


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
    step_ptr: I64,
    step: I64,
    value: I32,
    flags: I32,
    store: I32,
    last: I32,
    saves: I32,
    kept_0: I32,
    kept_1: I32,
    uses: I32,
    waits: I32,
    nbytes: I64,
    stored: I64,
    beside: I64,
    freed: I64,
    handle_store: I32,
    handle_refs: I32,
    handle_form: I32,
    store_refs: I32,
    store_bytes: I64,
    slot: I32,
    goal: I32,
    made: I64,
    answer: I64,
) -> tuple[int, int, int]:
    """Fill a row of ``answer`` for each graph: what :func:`cnnlive._kernels.backward.train_step` gives, and totals.

    The columns of ``answer``: 0 and 1 peak of forward and of backward, above what is there all the time; 2 bytes that
    are alive at the end beside the gradients of parameters; 3 bytes that forward packs for backward; 4 and 5 elements
    of the parameters that are trained, and how many parameters these are; 6 bytes of parameters and buffers;
    7 bytes of inputs and targets; then one column per step that takes one parameter after the other: its peak.

    Parameters
    ----------
    graph_ptr : (n_graphs + 1,)
        Nodes of each graph; the last is the output. Pointers need not begin with 0.
    kind, in_ptr, in_idx : (n_nodes,), (n_nodes + 1,), (n_edges,)
        Row of `table` of each node; the nodes of the graph that it reads.
    until : (n_nodes,), or (0,)
        Node of the graph through which eager Python holds an output, 0: its last reader.
    sizes : (n_nodes, 4)
        Elements of the output, of a weight, of a vector of parameters (as the counting kernel has them), and the
        product of the dimensions that `table` names.
    classes : (n_graphs,)
        Second dimension of the output, 0 if it has one dimension only.
    table : (n_kinds + 1, 24)
        What an op contributes, the loss as the last row, see :mod:`cnnlive.nas.training`. 0: -1 an input, -2 a
        parameter, -3 a constant, 0 no op at all, 1 one node whose only input gets a new gradient, 2 one that hands
        its gradient on, 3 one that hands slices of it on, 4 anything else, 9 not known. 1: 1 shares the storage of
        its first input. 2: 1 is a view, 2 works in place. 3: what backward keeps: 1 first input, 2 output, 4 second
        input, 8 first input if the second takes a gradient, 16 the other way round. 4: the record that keeps it.
        5 and 6: bytes of its parameters per element of `sizes`. 7: how many these are. 8 and 9: bytes of its buffers
        per element of a vector, and once. 10: 1 has storages beside its output, of (11 to 14) so many bytes per
        element of the output, of the first input, per product of dimensions, and once, which backward keeps.
        15: 1 if only where an input takes a gradient. 16 and 17: records. 18 and 19: 1 has a weight, a bias.
    record : (n_records, 16)
        0 and 1: edges. 2: the value it makes, 0 the node's own, else one between records. 3: 1 if that one is as
        large as the first input. 4: 1 makes the node's storage. Bytes (as 11 to 14 of `table`) of the storages that it
        makes beside (5 to 8), that go after it (9 to 11, without products; nothing keeps them), and that go after
        backward of it (12 to 15).
    edge : (n_edges, 6)
        What takes a gradient: 0 and above an input, -1 the weight, -2 the bias, -3 every input, -10 - j a value
        between records. Then how: 1 a new gradient, 2 the incoming one, 3 a view of it, 4 a slice, 5 a reshape, which
        copies what is not contiguous, 6 an expanded view, 7 a reshape that may do so. Then 1 if it is made as large
        as the output; then bytes of temporaries per element of the output, per element of the input, and once.
    item, loss, target_item : int
        Bytes of an element; 1 if there are records of a loss in the last row of `table`; bytes of an element of the
        targets, negative: one per `classes` elements of the output.
    step_ptr, step : (n_steps + 1,), (n_rows, 4)
        Optimizer steps that take one parameter after the other, as `StepRule.rows`.
    value, flags, store, last, saves, kept_0, kept_1, uses, waits, nbytes, stored, beside, freed : scratch
        At least 8 longer than the largest graph has nodes. `freed` has to hold 0, and does so again afterwards.
    handle_store, handle_refs, handle_form, store_refs, store_bytes : scratch
        At least 16 longer than 4 times all nodes and edges of the largest graph.
    slot, goal, made : scratch
        At least 8 longer than the most inputs of a node.

    Returns
    -------
    status, graph, node : int, int, int
        0, or of the first graph that this does not know: 1 nothing takes a gradient, 2 a node's kind is not known,
        3 a node works in place on a view, 4 a reshape may have to copy, 5 a loss of classes on one dimension.

    Notes
    -----
    O(nodes + edges). What forward packs lives on, so forward needs no counts of holders: a storage that nothing packs
    goes after its last reader. In backward a gradient is a handle of a storage, as in `train_step`.
    """
    node_0 = graph_ptr[0]
    edge_0 = in_ptr[0]
    held = until.shape[0] > 0
    n_steps = step_ptr.shape[0] - 1
    the_loss = table.shape[0] - 1
    for g in range(graph_ptr.shape[0] - 1):
        first = graph_ptr[g] - node_0
        n = graph_ptr[g + 1] - graph_ptr[g]
        # Storage n is none: what inputs and parameters lie in, of no bytes.
        stored[n] = 0
        saves[n] = 0
        last[n] = 0
        seen = 0
        values = 0
        resident = 0
        given = 0
        start = in_ptr[first] - edge_0
        first_edge = start
        for p in range(n):
            k = kind[first + p]
            stop = in_ptr[first + p + 1] - edge_0
            how = table[k, 0]
            numel = sizes[first + p, 0]
            value[p] = p
            waits[p] = -1
            saves[p] = 0
            stored[p] = 0
            beside[p] = 0
            kept_0[p] = n
            kept_1[p] = n
            values += 1
            size = item * numel
            nbytes[p] = size
            last[p] = p
            if how >= 1:
                if how == 9:
                    return 2, g, p
                x = value[in_idx[start]]
                weights = table[k, 5] * sizes[first + p, 1] + table[k, 6] * sizes[first + p, 2]
                resident += weights + table[k, 8] * sizes[first + p, 2] + table[k, 9]
                grad = 1 if table[k, 7] > 0 else 0
                for e in range(start, stop):
                    v = value[in_idx[e]]
                    f = flags[v]
                    grad |= f & 1
                    seen += 1 - ((f >> 1) & 1)
                    flags[v] = f | 2
                    last[store[v]] = max(last[store[v]], p)
                flag = grad
                s = p
                if table[k, 2] == 1:
                    flag |= 4
                if table[k, 1] == 1:
                    s = store[x]
                    if table[k, 2] == 2 and flags[x] & 4:
                        if grad == 1:
                            return 3, g, p
                        flag |= 4
                else:
                    stored[p] = size
                store[p] = s
                flags[p] = flag
                if table[k, 10] == 1 and (grad == 1 or table[k, 15] == 0):
                    beside[p] = (
                        table[k, 11] * numel
                        + table[k, 12] * sizes[first + in_idx[start], 0]
                        + table[k, 13] * sizes[first + p, 3]
                        + table[k, 14]
                    )
                if grad == 1:
                    what = table[k, 3]
                    if what == 1:
                        kept_0[p] = store[x]
                    elif what != 0:
                        y = value[in_idx[stop - 1]]
                        if what & 1 or (what & 8 and flags[y] & 1):
                            kept_0[p] = store[x]
                        if what & 2:
                            kept_1[p] = s
                        elif what & 4 or (what & 16 and flags[x] & 1):
                            kept_1[p] = store[y]
                        if kept_1[p] == kept_0[p]:
                            kept_1[p] = n
                    saves[kept_0[p]] += 1
                    saves[kept_1[p]] += 1
                    if how != 1 or flags[x] & 8:
                        for e in range(start, stop):
                            v = value[in_idx[e]]
                            if flags[v] & 8:
                                uses[v] += 1
            elif how == 0:
                x = value[in_idx[start]]
                value[p] = x
                flags[p] = 0
                values -= 1
                s = store[x]
                last[s] = max(last[s], p)
            else:
                flags[p] = 0
                store[p] = n
                s = n
                if how == -1:
                    given += size
                else:
                    resident += size
                    if how == -2:
                        flags[p] = 9
                        uses[p] = 0
            if held:
                last[s] = max(last[s], until[first + p])
            start = stop
        end = value[n - 1]
        if flags[end] & 1 == 0:
            return 1, g, n - 1
        out = store[end]
        out_kept = saves[out]
        # What forward keeps; the network's output and its loss are held to the end.
        packed = 0
        for p in range(n):
            if saves[p] > 0:
                packed += stored[p]
            if flags[p] & 1:
                packed += beside[p]
        # A value that nobody reads leads nowhere: neither does backward.
        whole = seen + 1 - ((flags[end] >> 1) & 1) == values
        if not whole:
            for p in range(n):
                flags[p] &= ~2
            flags[end] |= 2
            stop = start
            for p in range(n - 1, -1, -1):
                start = in_ptr[first + p] - edge_0
                if value[p] == p and table[kind[first + p], 0] >= 1:
                    if flags[p] & 3 == 3:
                        for e in range(start, stop):
                            flags[value[in_idx[e]]] |= 2
                    elif flags[p] & 1:
                        saves[kept_0[p]] -= 1
                        saves[kept_1[p]] -= 1
                        for e in range(start, stop):
                            v = value[in_idx[e]]
                            if flags[v] & 8:
                                uses[v] -= 1
                stop = start
        live = 0
        best = 0
        trained = 0
        tensors = 0
        for j in range(n_steps):
            answer[g, 8 + j] = 0
        before = -1
        start = first_edge
        last[out] = n
        for p in range(n):
            k = kind[first + p]
            stop = in_ptr[first + p + 1] - edge_0
            how = table[k, 0]
            reached = flags[p] & 1
            if not whole:
                reached &= flags[p] >> 1
            r = table[k, 16]
            if how == 4 and table[k, 17] - r > 1:
                x = first + in_idx[start]
                numel = sizes[first + p, 0]
                for i in range(r, table[k, 17]):
                    live += record[i, 4] * stored[p]
                    live += record[i, 5] * numel + record[i, 6] * sizes[x, 0] + record[i, 8]
                    best = max(best, live)
                    live -= record[i, 9] * numel + record[i, 10] * sizes[x, 0] + record[i, 11]
            else:
                live += stored[p] + beside[p]
                best = max(best, live)
                if reached == 0:
                    live -= beside[p]
            if saves[p] == 0:
                freed[last[p]] += stored[p]
            live -= freed[p]
            freed[p] = 0
            if table[k, 7] > 0 and reached == 1:
                tensors += table[k, 7]
                for i in range(2):
                    if table[k, 18 + i] == 1:
                        elements = sizes[first + p, 1 + i] * table[k, 5 + i] // item
                        trained += elements
                        for j in range(n_steps):
                            for m in range(step_ptr[j], step_ptr[j + 1]):
                                size = step[m, 2] * elements + step[m, 3]
                                if before >= 0:
                                    size += step[m, 0] * before + step[m, 1]
                                answer[g, 8 + j] = max(answer[g, 8 + j], size)
                        before = elements
            start = stop
        freed[n] = 0
        saves[out] += 1
        numel = sizes[first + end, 0]
        if loss == 1:
            if target_item < 0:
                if classes[g] == 0:
                    return 5, g, n - 1
                given += -target_item * (numel // classes[g])
            else:
                given += target_item * numel
            k = the_loss
            kept_0[n] = n
            kept_1[n] = n
            if table[k, 3] & 1:
                kept_0[n] = out
                if out_kept == 0:
                    packed += stored[out]
                saves[out] += 1
            for i in range(table[k, 16], table[k, 17]):
                live += record[i, 5] + record[i, 6] * numel + record[i, 8]
                best = max(best, live)
                live -= record[i, 9] + record[i, 10] * numel + record[i, 11]
                packed += record[i, 12] + record[i, 13] * numel + record[i, 15]
        answer[g, 0] = best

        # Backward. The gradient of the last value waits.
        leaves = 0
        best = live
        n_handles = 1
        p = n
        if loss == 1:
            if flags[end] & 8:
                uses[end] += 1
            waits[n] = 0
            nbytes[n] = item
            flags[n] = 1
            value[n] = n
        else:
            waits[end] = 0
            p = n - 1
            if flags[end] & 8:
                # The loss is a parameter as it stands.
                return 2, g, n - 1
        handle_store[0] = 0
        handle_refs[0] = 1
        handle_form[0] = 3
        store_refs[0] = 1
        store_bytes[0] = nbytes[n] if loss == 1 else nbytes[end]
        live += store_bytes[0]
        best = max(best, live)
        stop = in_ptr[first + n] - edge_0
        while p >= 0:
            k = the_loss
            start = stop
            x = end
            if p < n:
                k = kind[first + p]
                start = in_ptr[first + p] - edge_0
            how = table[k, 0]
            if how <= 0:
                stop = start
                p -= 1
                continue
            if how == 1:
                h = waits[p]
                if h < 0:
                    stop = start
                    p -= 1
                    continue
                x = value[in_idx[start]]
                f = flags[x]
                if f & 8 == 0:
                    weights = table[k, 5] * sizes[first + p, 1] + table[k, 6] * sizes[first + p, 2]
                    leaves += weights
                    live += weights
                    if f & 1:
                        live += nbytes[x]
                    best = max(best, live)
                    # What came in dies; its handle and storage, if nobody else has them, are taken for what goes out.
                    s = handle_store[h]
                    handle_refs[h] -= 1
                    new = h
                    if handle_refs[h] == 0:
                        store_refs[s] -= 1
                        if store_refs[s] == 0:
                            live -= store_bytes[s]
                        else:
                            s = n_handles
                            n_handles += 1
                    else:
                        new = n_handles
                        s = n_handles
                        n_handles += 1
                    a = kept_0[p]
                    saves[a] -= 1
                    if saves[a] == 0:
                        live -= stored[a]
                    a = kept_1[p]
                    saves[a] -= 1
                    if saves[a] == 0:
                        live -= stored[a]
                    live -= beside[p]
                    if f & 1:
                        old = waits[x]
                        if old < 0:
                            waits[x] = new
                            handle_store[new] = s
                            handle_refs[new] = 1
                            handle_form[new] = 3
                            store_refs[s] = 1
                            store_bytes[s] = nbytes[x]
                        else:
                            t = handle_store[old]
                            if handle_refs[old] == 1 and store_refs[t] == 1 and handle_form[old] == 3:
                                live -= nbytes[x]
                            else:
                                live += nbytes[x]
                                best = max(best, live)
                                handle_refs[old] -= 1
                                if handle_refs[old] == 0:
                                    store_refs[t] -= 1
                                    if store_refs[t] == 0:
                                        live -= store_bytes[t]
                                live -= nbytes[x]
                                waits[x] = new
                                handle_store[new] = s
                                handle_refs[new] = 1
                                handle_form[new] = 3
                                store_refs[s] = 1
                                store_bytes[s] = nbytes[x]
                    stop = start
                    p -= 1
                    continue
            if p < n:
                x = value[in_idx[start]]
            for r in range(table[k, 16], table[k, 17]):
                if record[r, 2] > 0:
                    o = n + record[r, 2]
                    nbytes[o] = nbytes[x] if record[r, 3] == 1 else nbytes[p]
                    flags[o] = 1
                    waits[o] = -1
            for r in range(table[k, 17] - 1, table[k, 16] - 1, -1):
                o = p
                if record[r, 2] > 0:
                    o = n + record[r, 2]
                h = waits[o]
                if h < 0:
                    continue
                waits[o] = -1
                m = 0
                out_bytes = nbytes[o]
                for c in range(record[r, 0], record[r, 1]):
                    source = edge[c, 0]
                    what = edge[c, 1]
                    e = start
                    e_stop = start + 1
                    if source == -3:
                        e_stop = stop
                    elif source >= 0:
                        e = start + source
                        e_stop = e + 1
                    while e < e_stop:
                        # -1 and -2 stand for the parameters.
                        v = -1
                        if source >= 0 or source == -3:
                            v = x
                            if p < n:
                                v = value[in_idx[e]]
                        elif source <= -10:
                            v = n - 10 - source
                        e += 1
                        if v >= 0 and flags[v] & 1 == 0:
                            continue
                        if source == -1:
                            want = table[k, 5] * sizes[first + p, 1]
                            v = -1
                        elif source == -2:
                            want = table[k, 6] * sizes[first + p, 2]
                            v = -2
                        else:
                            want = nbytes[v]
                        size = out_bytes if edge[c, 2] == 1 else want
                        if what == 2:
                            handle_refs[h] += 1
                            new = h
                        elif what == 1 or (what == 5 and handle_form[h] != 3):
                            new = n_handles
                            n_handles += 1
                            handle_store[new] = new
                            handle_refs[new] = 1
                            handle_form[new] = 3
                            store_refs[new] = 1
                            store_bytes[new] = size
                            live += size
                            more = 0
                            if edge[c, 3] > 0 or edge[c, 4] > 0 or edge[c, 5] > 0:
                                more = edge[c, 3] * (out_bytes // item) + edge[c, 4] * (want // item) + edge[c, 5]
                            best = max(best, live + more)
                        else:
                            if what == 7 and handle_form[h] != 3:
                                return 4, g, p
                            s = handle_store[h]
                            store_refs[s] += 1
                            new = n_handles
                            n_handles += 1
                            handle_store[new] = s
                            handle_refs[new] = 1
                            handle_form[new] = handle_form[h]
                            if what == 6 or (what == 4 and sizes[first + p, 3] != 1):
                                handle_form[new] = 0
                        slot[m] = new
                        goal[m] = v
                        made[m] = size
                        m += 1
                for i in range(m):
                    v = goal[i]
                    if v == -1:
                        want = table[k, 5] * sizes[first + p, 1]
                    elif v == -2:
                        want = table[k, 6] * sizes[first + p, 2]
                    else:
                        want = nbytes[v]
                    if made[i] != want:
                        live += want
                        best = max(best, live)
                        old = slot[i]
                        handle_refs[old] -= 1
                        if handle_refs[old] == 0:
                            s = handle_store[old]
                            store_refs[s] -= 1
                            if store_refs[s] == 0:
                                live -= store_bytes[s]
                        new = n_handles
                        n_handles += 1
                        handle_store[new] = new
                        handle_refs[new] = 1
                        handle_form[new] = 3
                        store_refs[new] = 1
                        store_bytes[new] = want
                        slot[i] = new
                        made[i] = want
                handle_refs[h] -= 1
                if handle_refs[h] == 0:
                    s = handle_store[h]
                    store_refs[s] -= 1
                    if store_refs[s] == 0:
                        live -= store_bytes[s]
                if table[k, 4] == r - table[k, 16]:
                    a = kept_0[p]
                    saves[a] -= 1
                    if saves[a] == 0:
                        live -= stored[a]
                    a = kept_1[p]
                    saves[a] -= 1
                    if saves[a] == 0:
                        live -= stored[a]
                    if p < n:
                        live -= beside[p]
                if p == n:
                    live -= record[r, 12] + record[r, 13] * numel + record[r, 15]
                for i in range(m):
                    v = goal[i]
                    if v < 0:
                        continue
                    new = slot[i]
                    old = waits[v]
                    if old < 0:
                        waits[v] = new
                        continue
                    t = handle_store[old]
                    if handle_refs[old] != 1 or store_refs[t] != 1 or handle_form[old] != 3:
                        live += nbytes[v]
                        best = max(best, live)
                        handle_refs[old] -= 1
                        if handle_refs[old] == 0:
                            store_refs[t] -= 1
                            if store_refs[t] == 0:
                                live -= store_bytes[t]
                        s = n_handles
                        n_handles += 1
                        handle_store[s] = s
                        handle_refs[s] = 1
                        handle_form[s] = 3
                        store_refs[s] = 1
                        store_bytes[s] = nbytes[v]
                        waits[v] = s
                    handle_refs[new] -= 1
                    if handle_refs[new] == 0:
                        s = handle_store[new]
                        store_refs[s] -= 1
                        if store_refs[s] == 0:
                            live -= store_bytes[s]
                # A parameter keeps the gradient that nobody else holds, else a copy of it.
                for i in range(m):
                    v = goal[i]
                    new = slot[i]
                    if v >= 0:
                        if flags[v] & 8 == 0:
                            continue
                        uses[v] -= 1
                        if uses[v] > 0:
                            continue
                        new = waits[v]
                        waits[v] = -1
                        made[i] = nbytes[v]
                    s = handle_store[new]
                    if handle_refs[new] == 1:
                        leaves += store_bytes[s]
                        # It stays; others that look at this storage find nothing left to free.
                        store_bytes[s] = 0
                        continue
                    leaves += made[i]
                    live += made[i]
                    best = max(best, live)
                    handle_refs[new] -= 1
            stop = start
            p -= 1
        answer[g, 1] = best
        answer[g, 2] = live - leaves
        answer[g, 3] = packed
        answer[g, 4] = trained
        answer[g, 5] = tensors
        answer[g, 6] = resident
        answer[g, 7] = given
    return 0, graph_ptr.shape[0] - 1, 0
