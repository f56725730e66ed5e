"""One training step on a tape: forward, then backward in the order of PyTorch's autograd engine."""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64


@kernel
def spec_bytes(spec: I64, dims: I64, nbytes: I64) -> None:
    """Fill ``nbytes`` (n_specs,) from rows ``(tensor, lo, hi, k, without)``.

    A row is k times the product of the tensor's dimensions ``lo .. hi - 1``, divided by dimension `without`
    unless that is negative.
    """
    for s in range(spec.shape[0]):
        t = spec[s, 0]
        size = spec[s, 3]
        for d in range(spec[s, 1], spec[s, 2]):
            size *= dims[t, d]
        if spec[s, 4] >= 0:
            size //= dims[t, spec[s, 4]]
        nbytes[s] = size


@kernel
def train_step(
    spec_nbytes: I64,
    store_spec: I64,
    store_refs: I64,
    alloc_ptr: I64,
    alloc_idx: I64,
    drop_ptr: I64,
    drop_idx: I64,
    saved_ptr: I64,
    saved_idx: I64,
    edge_ptr: I64,
    edge_value: I64,
    edge_spec: I64,
    edge_copies: I64,
    out_ptr: I64,
    out_value: I64,
    code_ptr: I64,
    code: I64,
    value_spec: I64,
    leaf_uses: I64,
    seed_value: I64,
    seed_handle: I64,
    seed_store: I64,
    seed_form: I64,
    seed_nbytes: I64,
    seed_refs: I64,
    held: int,
    accumulates: int,
    refs: I64,
    nbytes: I64,
    kind: I64,
    owner: I64,
    events: I64,
    buffer: I64,
    uses: I64,
    handle_store: I64,
    handle_refs: I64,
    handle_form: I64,
    slot: I64,
    temps: I64,
    forward: I64,
    backward: I64,
    marks: I64,
    answer: I64,
) -> None:
    """Run a tape forward and backward; everything alive beforehand counts nothing.

    Parameters
    ----------
    spec_nbytes : (n_specs,)
        Bytes of each spec, see :func:`spec_bytes`.
    store_spec, store_refs : (n_stores,)
        Spec of each storage that forward makes, and how many hold it: Python once, each backward node once.
    alloc_ptr, alloc_idx, drop_ptr, drop_idx : CSR
        Storages that each record makes, and those that Python lets go when it is done.
    saved_ptr, saved_idx : CSR
        Storages that each record's backward node holds.
    edge_ptr, edge_value, edge_spec, edge_copies : CSR and (n_edges,)
        Inputs that take a gradient; the spec that the gradient is made at (before it is summed to the input's
        shape or cast to its type); 1 where a parameter's gradient is copied into the parameter's layout.
    out_ptr, out_value : CSR
        Outputs of each record.
    code_ptr, code : CSR and (n_code, 4)
        Derivative of each record: ``(0, spec, -)`` makes a temporary; ``(1, edge, spec, layout)`` makes a gradient,
        contiguous (0), laid out as the incoming one (1) or dense but permuted (2);
        ``(2, edge, output)`` hands the incoming one on; ``(3, edge, output)`` a view of it; ``(4, edge, spec)``
        a slice of it, contiguous if `spec` is 1; ``(5, edge, spec)`` a reshape, which copies what is not
        contiguous; ``(6, edge, -)`` an expanded view; ``(7, edge, output)`` a permuted view; ``(8, output, -)``
        makes zeros for an output that got no gradient; ``(9, -, -)`` frees the temporaries.
    value_spec, leaf_uses : (n_values,)
        Spec of each value's gradient; how many edges lead to a leaf, 0 for what is none.
    seed_value, seed_handle : (n_seeds,)
        The values that backward starts from, and which of the given handles each has as its gradient; usually the
        loss alone, several values at the end of a piece of a net.
    seed_store, seed_form : (n_handles,)
        Which of the given storages each given handle looks at, and its form: bit 1 dense, bit 2 contiguous; 3 is an
        ordinary tensor, 0 an expanded view.
    seed_nbytes, seed_refs : (n_storages,)
        Bytes of each given storage, and how many holders it has beside the handles.
    held : int
        1: the caller holds the first given handle until backward has ended.
    accumulates : int
        1: the leaves have gradients already, which are added to in place.
    refs, nbytes, kind, owner, events : scratch and output, long enough for all storages and their events
        ``kind``: 0 made forward, 1 made backward, 2 a leaf's gradient; ``owner``: the record that made it, in
        backward ``n_records +`` it. ``events``: ``b + 1`` makes storage b, ``-(b + 1)`` frees it.
    buffer, uses, handle_store, handle_refs, handle_form, slot, temps : scratch
    forward, backward : (n_records,)
        Most bytes alive while each record runs.
    marks : (n_records, 3)
        How many events there are when each record's backward begins, when it lets go of what was saved, and when it
        ends.
    answer : (19,)
        0 and 1: number of events, of storages. 2: bytes alive at the end of forward. 3 to 8 of forward, 9 to 14 of
        backward: peak, record and event that reach it first, bytes of kind 0, 1, 2 there. 15 to 17: bytes at the end
        of leaves' gradients, made forward, made backward. 18: number of events of forward.

    Notes
    -----
    O(records + edges). The engine runs nodes by falling sequence number, and a node's consumers all have
    higher ones: backward is the tape in reverse. Rules: PyTorch, torch/csrc/autograd/engine.cpp (release
    after each node, sums to the input's shape while its inputs are held), input_buffer.cpp (accumulation in
    place into what nobody else holds) and functions/accumulate_grad.h (the first gradient is stolen).
    """
    # Making and freeing a storage is written out wherever it happens: a call that passes arrays costs more than that
    # (half the time of the caching allocator's kernel, where it was measured).
    n = store_spec.shape[0]
    n_records = alloc_ptr.shape[0] - 1
    for s in range(n):
        nbytes[s] = spec_nbytes[store_spec[s]]
        refs[s] = store_refs[s]
        kind[s] = 0
    ev = 0
    made = 0  # bytes made forward, backward, of leaves' gradients
    temporary = 0
    grads = 0
    best = 0
    best_record = 0
    best_event = 0
    best_made = 0
    for p in range(n_records):
        most = made
        for a in range(alloc_ptr[p], alloc_ptr[p + 1]):
            s = alloc_idx[a]
            owner[s] = p
            made += nbytes[s]
            events[ev] = s + 1
            ev += 1
            if made > best:
                best = made
                best_record = p
                best_event = ev
                best_made = made
        most = max(most, made)
        forward[p] = most
        for a in range(drop_ptr[p], drop_ptr[p + 1]):
            s = drop_idx[a]
            refs[s] -= 1
            if refs[s] == 0:
                made -= nbytes[s]
                events[ev] = -(s + 1)
                ev += 1
    answer[2] = made
    answer[18] = ev
    answer[3] = best
    answer[4] = best_record
    answer[5] = best_event
    answer[6] = best_made
    answer[7] = 0
    answer[8] = 0

    best = made
    best_record = n_records - 1
    best_event = ev
    best_made = made
    best_temporary = 0
    best_grads = 0
    n_handles = 0
    for v in range(value_spec.shape[0]):
        buffer[v] = -1
        uses[v] = leaf_uses[v]
    for p in range(n_records):
        backward[p] = 0
        for k in range(3):
            marks[p, k] = 0
    first_seed = n
    for k in range(seed_nbytes.shape[0]):
        nbytes[n] = seed_nbytes[k]
        refs[n] = seed_refs[k]
        kind[n] = 1
        owner[n] = 2 * n_records - 1
        temporary += int(nbytes[n])
        events[ev] = n + 1
        ev += 1
        n += 1
        best = made + temporary
        best_event = ev
        best_temporary = temporary
    for h in range(seed_store.shape[0]):
        handle_store[h] = first_seed + seed_store[h]
        refs[handle_store[h]] += 1
        handle_refs[h] = held
        handle_form[h] = seed_form[h]
        n_handles += 1
    for k in range(seed_value.shape[0]):
        h = seed_handle[k]
        handle_refs[h] += 1
        buffer[seed_value[k]] = h
    for p in range(n_records - 1, -1, -1):
        first_out = out_ptr[p]
        active = False
        for o in range(first_out, out_ptr[p + 1]):
            if buffer[out_value[o]] >= 0:
                active = True
        if not active:
            continue
        first = edge_ptr[p]
        marks[p, 0] = ev
        n_temps = 0
        most = made + temporary + grads
        # The derivative: everything it makes is alive together with what came in and what was saved.
        for c in range(code_ptr[p], code_ptr[p + 1]):
            what = code[c, 0]
            a = code[c, 1]
            b = code[c, 2]
            if what == 9:
                for k in range(n_temps):
                    s = temps[k]
                    refs[s] = 0
                    temporary -= nbytes[s]
                    events[ev] = -(s + 1)
                    ev += 1
                n_temps = 0
                continue
            if what == 8:
                if buffer[out_value[first_out + a]] >= 0:
                    continue
                b = value_spec[out_value[first_out + a]]
            elif what == 0:
                b = a
            source = -1
            if what >= 2 and what <= 7:
                source = buffer[out_value[first_out + (b if what == 2 or what == 3 or what == 7 else 0)]]
            fresh = what <= 1 or what == 8 or (what == 5 and handle_form[source] & 2 == 0)
            if what == 2:
                handle_refs[source] += 1
                slot[a] = source
                continue
            if fresh:
                s = n
                n += 1
                nbytes[s] = spec_nbytes[b]
                refs[s] = 1
                kind[s] = 1
                owner[s] = n_records + p
                temporary += int(nbytes[s])
                events[ev] = s + 1
                ev += 1
                total = made + temporary + grads
                most = max(most, total)
                if total > best:
                    best = total
                    best_record = p
                    best_event = ev
                    best_made = made
                    best_temporary = temporary
                    best_grads = grads
                if what == 0 or what == 8:
                    temps[n_temps] = s
                    n_temps += 1
                    continue
                form = 3
                if what == 1 and code[c, 3] == 2:
                    form = 1
                elif what == 1 and code[c, 3] == 1:
                    for o in range(first_out, out_ptr[p + 1]):
                        if buffer[out_value[o]] >= 0 and handle_form[buffer[out_value[o]]] & 1:
                            form = handle_form[buffer[out_value[o]]]
            else:
                s = handle_store[source]
                refs[s] += 1
                form = handle_form[source]
                if what == 4:
                    form = form if spec_nbytes[b] == 1 else 0
                elif what == 6:
                    form = 0
                elif what == 7:
                    form = form ^ 2 if form & 1 else 0
            h = n_handles
            n_handles += 1
            handle_store[h] = s
            handle_refs[h] = 1
            handle_form[h] = form
            slot[a] = h
        for k in range(n_temps):
            s = temps[k]
            refs[s] = 0
            temporary -= nbytes[s]
            events[ev] = -(s + 1)
            ev += 1
        # Sums to the shape, and casts to the type, of the input: what came in is still held.
        for e in range(first, edge_ptr[p + 1]):
            want = spec_nbytes[value_spec[edge_value[e]]]
            if spec_nbytes[edge_spec[e]] != want:
                s = n
                n += 1
                nbytes[s] = want
                refs[s] = 1
                kind[s] = 1
                owner[s] = n_records + p
                temporary += want
                events[ev] = s + 1
                ev += 1
                total = made + temporary + grads
                most = max(most, total)
                if total > best:
                    best = total
                    best_record = p
                    best_event = ev
                    best_made = made
                    best_temporary = temporary
                    best_grads = grads
                h = slot[e - first]
                handle_refs[h] -= 1
                if handle_refs[h] == 0:
                    s = handle_store[h]
                    refs[s] -= 1
                    if refs[s] == 0:
                        temporary -= nbytes[s]
                        events[ev] = -(s + 1)
                        ev += 1
                handle_store[n_handles] = n - 1
                handle_refs[n_handles] = 1
                handle_form[n_handles] = 3
                slot[e - first] = n_handles
                n_handles += 1
        # Now what came in dies, then what was saved.
        for o in range(first_out, out_ptr[p + 1]):
            h = buffer[out_value[o]]
            if h >= 0:
                buffer[out_value[o]] = -1
                handle_refs[h] -= 1
                if handle_refs[h] == 0:
                    s = handle_store[h]
                    refs[s] -= 1
                    if refs[s] == 0:
                        temporary -= nbytes[s]
                        events[ev] = -(s + 1)
                        ev += 1
        marks[p, 1] = ev
        for a in range(saved_ptr[p], saved_ptr[p + 1]):
            s = saved_idx[a]
            refs[s] -= 1
            if refs[s] == 0:
                made -= nbytes[s]
                events[ev] = -(s + 1)
                ev += 1
        # Hand on: into an empty buffer, or added to what waits there; a leaf keeps its gradient.
        for e in range(first, edge_ptr[p + 1]):
            v = edge_value[e]
            h = slot[e - first]
            old = buffer[v]
            if old < 0:
                buffer[v] = h
            else:
                out_of_place = handle_refs[old] != 1 or refs[handle_store[old]] != 1 or handle_form[old] & 1 == 0
                if out_of_place:
                    s = n
                    n += 1
                    nbytes[s] = spec_nbytes[value_spec[v]]
                    refs[s] = 1
                    kind[s] = 1
                    owner[s] = n_records + p
                    temporary += int(nbytes[s])
                    events[ev] = s + 1
                    ev += 1
                    total = made + temporary + grads
                    most = max(most, total)
                    if total > best:
                        best = total
                        best_record = p
                        best_event = ev
                        best_made = made
                        best_temporary = temporary
                        best_grads = grads
                    handle_refs[old] -= 1
                    if handle_refs[old] == 0:
                        s = handle_store[old]
                        refs[s] -= 1
                        if refs[s] == 0:
                            temporary -= nbytes[s]
                            events[ev] = -(s + 1)
                            ev += 1
                    handle_store[n_handles] = n - 1
                    handle_refs[n_handles] = 1
                    handle_form[n_handles] = 3
                    buffer[v] = n_handles
                    n_handles += 1
                handle_refs[h] -= 1
                if handle_refs[h] == 0:
                    s = handle_store[h]
                    refs[s] -= 1
                    if refs[s] == 0:
                        temporary -= nbytes[s]
                        events[ev] = -(s + 1)
                        ev += 1
        for e in range(first, edge_ptr[p + 1]):
            v = edge_value[e]
            if uses[v] == 0:
                continue
            uses[v] -= 1
            if uses[v] > 0:
                continue
            h = buffer[v]
            buffer[v] = -1
            s = handle_store[h]
            keeps = accumulates == 0 and handle_refs[h] == 1 and edge_copies[e] == 0
            if keeps:
                if kind[s] == 1:
                    kind[s] = 2
                    temporary -= nbytes[s]
                    grads += nbytes[s]
                continue
            if accumulates == 0:
                g = n
                n += 1
                nbytes[g] = spec_nbytes[value_spec[v]]
                refs[g] = 1
                kind[g] = 2
                owner[g] = n_records + p
                grads += int(nbytes[g])
                events[ev] = g + 1
                ev += 1
                total = made + temporary + grads
                most = max(most, total)
                if total > best:
                    best = total
                    best_record = p
                    best_event = ev
                    best_made = made
                    best_temporary = temporary
                    best_grads = grads
            handle_refs[h] -= 1
            if handle_refs[h] == 0:
                refs[s] -= 1
                if refs[s] == 0:
                    temporary -= nbytes[s]
                    events[ev] = -(s + 1)
                    ev += 1
        backward[p] = most
        marks[p, 2] = ev
    if held == 1:
        s = handle_store[0]
        refs[s] -= 1
        if refs[s] == 0:
            temporary -= int(nbytes[s])
            events[ev] = -(s + 1)
            ev += 1
    answer[0] = ev
    answer[1] = n
    answer[9] = best
    answer[10] = best_record
    answer[11] = best_event
    answer[12] = best_made
    answer[13] = best_temporary
    answer[14] = best_grads
    answer[15] = grads
    answer[16] = made
    answer[17] = temporary


@kernel
def train_steps(
    start: I64,
    tensor_ptr: I64,
    dims: I64,
    spec: I64,
    store_spec: I64,
    store_refs: I64,
    alloc_ptr: I64,
    alloc_idx: I64,
    drop_ptr: I64,
    drop_idx: I64,
    saved_ptr: I64,
    saved_idx: I64,
    edge_ptr: I64,
    edge_value: I64,
    edge_spec: I64,
    edge_copies: I64,
    out_ptr: I64,
    out_value: I64,
    code_ptr: I64,
    code: I64,
    value_spec: I64,
    leaf_uses: I64,
    inputs: I64,
    targets: I64,
    saved_stores: I64,
    root: I64,
    held: I64,
    first: I64,
    form: I64,
    written: I64,
    spec_nbytes: I64,
    written_seed: I64,
    seed_nbytes: I64,
    refs: I64,
    nbytes: I64,
    kind: I64,
    owner: I64,
    events: I64,
    buffer: I64,
    uses: I64,
    handle_store: I64,
    handle_refs: I64,
    handle_form: I64,
    slot: I64,
    temps: I64,
    forward: I64,
    backward: I64,
    marks: I64,
    answer: I64,
    found: I64,
) -> None:
    """Run the tapes of many graphs end to end, each as :func:`train_step` does, and keep totals.

    Parameters
    ----------
    start : (n_graphs + 1, 22)
        Where each graph's part begins in `spec` and the columns after it, up to `saved_stores`.
    tensor_ptr, dims : (n_graphs + 1,), (n_tensors, 6)
        Tensors of each graph, and their dimensions; the pointer need not begin with 0.
    root, held : (n_graphs,)
        Value of the loss; 1 if the caller holds its gradient.
    first, form : (1,)
        0 and 3: the gradient of the loss is the first handle, an ordinary tensor.
    written, spec_nbytes, written_seed, seed_nbytes
        Scratch, twice the same memory: to write to, and read-only as `train_step` takes it.
    refs ... answer : scratch, as long as the largest graph needs
    found : (n_graphs, 5)
        Peaks of forward and of backward; bytes that are alive at the end beside gradients of leaves; bytes that
        forward packs; bytes of inputs and targets.
    """
    for g in range(start.shape[0] - 1):
        t = tensor_ptr[g] - tensor_ptr[0]
        spec_bytes(spec[start[g, 0] : start[g + 1, 0]], dims[t : t + tensor_ptr[g + 1] - tensor_ptr[g]], written)
        n_seeds = 0
        if root[g] >= 0:
            n_seeds = 1
            written_seed[0] = written[value_spec[start[g, 17] + root[g]]]
        train_step(
            spec_nbytes,
            store_spec[start[g, 1] : start[g + 1, 1]],
            store_refs[start[g, 2] : start[g + 1, 2]],
            alloc_ptr[start[g, 3] : start[g + 1, 3]],
            alloc_idx[start[g, 4] : start[g + 1, 4]],
            drop_ptr[start[g, 5] : start[g + 1, 5]],
            drop_idx[start[g, 6] : start[g + 1, 6]],
            saved_ptr[start[g, 7] : start[g + 1, 7]],
            saved_idx[start[g, 8] : start[g + 1, 8]],
            edge_ptr[start[g, 9] : start[g + 1, 9]],
            edge_value[start[g, 10] : start[g + 1, 10]],
            edge_spec[start[g, 11] : start[g + 1, 11]],
            edge_copies[start[g, 12] : start[g + 1, 12]],
            out_ptr[start[g, 13] : start[g + 1, 13]],
            out_value[start[g, 14] : start[g + 1, 14]],
            code_ptr[start[g, 15] : start[g + 1, 15]],
            code[start[g, 16] : start[g + 1, 16]],
            value_spec[start[g, 17] : start[g + 1, 17]],
            leaf_uses[start[g, 18] : start[g + 1, 18]],
            root[g : g + n_seeds],
            first[:n_seeds],
            first[:n_seeds],
            form[:n_seeds],
            seed_nbytes[:n_seeds],
            first[:n_seeds],
            held[g],
            0,
            refs,
            nbytes,
            kind,
            owner,
            events,
            buffer,
            uses,
            handle_store,
            handle_refs,
            handle_form,
            slot,
            temps,
            forward,
            backward,
            marks,
            answer,
        )
        found[g, 0] = answer[3]
        found[g, 1] = answer[9]
        found[g, 2] = answer[16] + answer[17]
        found[g, 3] = 0
        for k in range(start[g, 21], start[g + 1, 21]):
            found[g, 3] += nbytes[saved_stores[k]]
        found[g, 4] = 0
        for k in range(start[g, 19], start[g + 1, 19]):
            found[g, 4] += written[inputs[k]]
        for k in range(start[g, 20], start[g + 1, 20]):
            found[g, 4] += written[targets[k]]
