"""Rematerialisation: what a schedule with dropped values costs and holds, kept up to date move by move.

A *value* is what a node writes. Its life is cut into *gaps* at the steps that read it in the program: gap ``g`` of
value ``gap_value[g]`` lies between the steps ``gap_begin[g]`` (which writes or reads the value) and ``gap_end[g]`` (the
next that reads it; ``n_steps`` for a value that outlives the run, ``n_steps + 1`` where no step reads it any more).
``state[g]`` says what happens inside:

- 0, keep: the value is held all through (after the last read: until recomputation reads it for the last time);
- 1, drop: it is freed at once, recomputed where it is next needed, or where its node next runs again for another
  output, and held from there;
- 2, transient: freed at once, and recomputed in every step that needs it;
- 3, lend: held until recomputation first reads it, then as 1;
- 4, late: as 2 where it is first needed, from there on as 1.

Before a step runs, whatever it needs and is not held is recomputed in program order: its *closure*. ``first[g]`` is the
first step that needs the value of a gap in state 1, 3 or 4 (``n_steps``: none does), ``first[n_gaps + g]`` the second
in states 3 and 4; a dropped value is recomputed there. ``hold[g]`` and ``hold[n_gaps + g]`` are the steps ``(from,
to)`` between which it is held: it is there when steps ``from + 1 .. to`` begin.

Closures lie in ``pool`` at ``closure[p] = (begin, length)``. ``heads`` and ``links`` are lists, for each node, of the
steps that recompute it, in ascending order (``links[k] = (next, step)``). ``tree`` holds, over the steps, the most
bytes alive in each: row 0 the maxima of subtrees, row 1 what was added to all of a subtree. ``local[p]`` is the most
that step ``p`` has above what is held when it begins.

``queue`` and ``flag`` are three sets: 0 steps whose closures are out of date, 1 gaps whose holds are, 2 steps whose
``local`` is. ``totals``: 0 cost, 1 end of the pool, 2 first free link, 3 entries of the journal, 4 stamp, 5 to 7 sizes
of the three sets, 8 whether the journal is written, 9 whether there was no room, 10 links in use, 11 cost and 12 end
of the pool when the journal was empty, 13 random state, 14 and 15 what annealing found.
"""

from __future__ import annotations

import numpy as np

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64


@kernel
def push(q: int, x: int, queue: I64, flag: I64, totals: I64) -> None:
    """Put `x` into set `q`."""
    if flag[q, x] == 0:
        flag[q, x] = 1
        queue[q, totals[5 + q]] = x
        totals[5 + q] += 1


@kernel
def note(kind: int, a: int, b: int, c: int, journal: I64, totals: I64) -> None:
    """Remember an old value: 0 state, 1 first, 2 hold, 3 local, 4 closure; or 5 a link made, 6 one removed."""
    if totals[8] == 1:
        k = totals[3]
        journal[k, 0] = kind
        journal[k, 1] = a
        journal[k, 2] = b
        journal[k, 3] = c
        totals[3] = k + 1


@kernel
def add_range(begin: int, end: int, amount: int, tree: I64) -> None:
    """Add `amount` to the bytes of the steps ``[begin, end)``."""
    if begin >= end or amount == 0:
        return
    size = tree.shape[1] // 2
    i = begin + size
    j = end + size
    while i < j:
        if i & 1:
            tree[0, i] += amount
            tree[1, i] += amount
            i += 1
        if j & 1:
            j -= 1
            tree[0, j] += amount
            tree[1, j] += amount
        i >>= 1
        j >>= 1
    i = (begin + size) >> 1
    j = (end - 1 + size) >> 1
    while i >= 1:
        tree[0, i] = max(tree[0, 2 * i], tree[0, 2 * i + 1]) + tree[1, i]
        if j != i:
            tree[0, j] = max(tree[0, 2 * j], tree[0, 2 * j + 1]) + tree[1, j]
        i >>= 1
        j >>= 1


@kernel
def peak_step(tree: I64) -> int:
    """Return a step with the most bytes."""
    size = tree.shape[1] // 2
    i = 1
    while i < size:
        i = 2 * i
        if tree[0, i + 1] > tree[0, i]:
            i += 1
    return int(i - size)


@kernel
def add_link(c: int, p: int, heads: I64, links: I64, totals: I64) -> None:
    """Put step `p` among those that recompute node `c`."""
    e = totals[2]
    totals[2] = links[e, 0]
    totals[10] += 1
    before = -1
    k = heads[c]
    while k >= 0 and links[k, 1] < p:
        before = k
        k = links[k, 0]
    links[e, 0] = k
    links[e, 1] = p
    if before < 0:
        heads[c] = e
    else:
        links[before, 0] = e


@kernel
def remove_link(c: int, p: int, heads: I64, links: I64, totals: I64) -> None:
    """Take step `p` out of those that recompute node `c`."""
    before = -1
    k = heads[c]
    while links[k, 1] != p:
        before = k
        k = links[k, 0]
    if before < 0:
        heads[c] = links[k, 0]
    else:
        links[before, 0] = links[k, 0]
    links[k, 0] = totals[2]
    totals[2] = k
    totals[10] -= 1


@kernel
def next_demand(g: int, after: int, n: int, gap_value: I64, gap_end: I64, user_ptr: I64, user_idx: I64, heads: I64,
                links: I64) -> int:  # fmt: skip
    """First step after `after` that needs the value of a gap, inside it or at its end; `n` if none does."""
    best = min(gap_end[g], n)
    v = gap_value[g]
    for e in range(user_ptr[v], user_ptr[v + 1]):
        k = heads[user_idx[e]]
        while k >= 0 and links[k, 1] <= after:
            k = links[k, 0]
        if k >= 0 and links[k, 1] < best:
            best = links[k, 1]
    return int(best)


@kernel
def next_run(g: int, after: int, n: int, gap_value: I64, gap_end: I64, value_node: I64, user_ptr: I64, user_idx: I64,
             heads: I64, links: I64) -> int:  # fmt: skip
    """First step after `after` in which the value of a gap is needed or its node runs again for another output."""
    best = next_demand(g, after, n, gap_value, gap_end, user_ptr, user_idx, heads, links)
    k = heads[value_node[gap_value[g]]]
    while k >= 0 and links[k, 1] <= after:
        k = links[k, 0]
    if k >= 0 and links[k, 1] < best:
        best = links[k, 1]
    return int(best)


@kernel
def last_demand(v: int, user_ptr: I64, user_idx: I64, heads: I64, links: I64) -> int:
    """Last step that recomputes a reader of a value; -1 if none does."""
    best = -1
    for e in range(user_ptr[v], user_ptr[v + 1]):
        k = heads[user_idx[e]]
        while k >= 0:
            best = max(best, links[k, 1])
            k = links[k, 0]
    return best


@kernel
def gap_before(v: int, p: int, gap_ptr: I64, gap_end: I64) -> int:
    """Gap of a value that step `p` lies in or ends."""
    g = gap_ptr[v]
    while gap_end[g] < p:
        g += 1
    return int(g)


@kernel
def set_state(g: int, new: int, n: int, value_node: I64, gap_value: I64, gap_begin: I64, gap_end: I64, gap_cost: I64,
              user_ptr: I64, user_idx: I64, state: I64, first: I64, heads: I64, links: I64, queue: I64, flag: I64,
              journal: I64, totals: I64) -> None:  # fmt: skip
    """Change the state of a gap and note what that puts out of date."""
    old = state[g]
    if old == new:
        return
    note(0, g, old, 0, journal, totals)
    state[g] = new
    push(1, g, queue, flag, totals)
    if old == 0:
        totals[0] += gap_cost[g]
    elif new == 0:
        totals[0] -= gap_cost[g]
    p = next_demand(g, gap_begin[g], n, gap_value, gap_end, user_ptr, user_idx, heads, links)
    if new == 1 or old == 1:
        note(1, g, first[g], 0, journal, totals)
        q = first[g]
        if old != 1:
            q = next_run(g, gap_begin[g], n, gap_value, gap_end, value_node, user_ptr, user_idx, heads, links)
        first[g] = q if new == 1 else n
        if old < 2 and new < 2:
            p = q
    if new >= 3 or old >= 3:
        m = state.shape[0]
        note(1, g, first[g], 0, journal, totals)
        note(1, m + g, first[m + g], 0, journal, totals)
        if old >= 3:
            first[m + g] = n
            if new != 1:
                first[g] = n
        if new >= 3:
            first[g] = p
            if p < n and p < gap_end[g]:
                first[m + g] = next_demand(g, p, n, gap_value, gap_end, user_ptr, user_idx, heads, links)
    if old >= 2 or new >= 2:
        p = gap_begin[g]
        while p < n:
            p = next_demand(g, p, n, gap_value, gap_end, user_ptr, user_idx, heads, links)
            if p < n:
                push(0, p, queue, flag, totals)
            if p >= gap_end[g]:
                p = n
    elif p < n:
        push(0, p, queue, flag, totals)


@kernel
def demand(v: int, p: int, n: int, top: int, value_node: I64, gap_ptr: I64, gap_end: I64, state: I64, first: I64,
           want: I64, mark: I64, stack: I64, queue: I64, flag: I64, journal: I64, totals: I64) -> int:  # fmt: skip
    """Ask for a value in step `p`; if it is not held, push its node. Return the height of the stack."""
    stamp = totals[4]
    if want[v] == stamp:
        return top
    want[v] = stamp
    g = gap_before(v, p, gap_ptr, gap_end)
    s = state[g]
    if s == 0:
        return top
    if s == 1:
        if first[g] > p:
            note(1, g, first[g], 0, journal, totals)
            if first[g] < n:
                push(0, first[g], queue, flag, totals)
            first[g] = p
            push(1, g, queue, flag, totals)
        if first[g] < p:
            return top
    if s >= 3:
        m = state.shape[0]
        a = first[g]
        b = first[m + g]
        if p < a:
            # what was the first need is the second now
            note(1, g, a, 0, journal, totals)
            note(1, m + g, b, 0, journal, totals)
            first[g] = p
            first[m + g] = a
            push(1, g, queue, flag, totals)
            if a < n:
                push(0, a, queue, flag, totals)
            if b < n:
                push(0, b, queue, flag, totals)
        elif a < p < b:
            note(1, m + g, b, 0, journal, totals)
            first[m + g] = p
            push(1, g, queue, flag, totals)
            if b < n:
                push(0, b, queue, flag, totals)
        if first[m + g] != p and (s == 3 or first[g] != p):
            return top
    c = value_node[v]
    if mark[c] != stamp:
        mark[c] = stamp
        stack[top] = c
        top += 1
    return top


@kernel
def restep(p: int, n: int, in_ptr: I64, in_idx: I64, out_ptr: I64, value_node: I64, again: I64, gap_ptr: I64,
           gap_value: I64, gap_end: I64, user_ptr: I64, user_idx: I64, state: I64, first: I64, closure: I64, pool: I64,
           heads: I64, links: I64, want: I64, mark: I64, stack: I64, queue: I64, flag: I64, journal: I64,
           totals: I64) -> None:  # fmt: skip
    """Make the closure of step `p` anew."""
    totals[4] += 1
    stamp = totals[4]
    base = totals[1]
    # room for the worst case: all nodes recomputed, what this step notes, and what settling the bytes does after it
    if base + n > pool.shape[0] or totals[3] + 4 * want.shape[0] + 3 * n + 2 * state.shape[0] > journal.shape[0] - 8:
        totals[9] = 1
        return
    top = 0
    count = 0
    for e in range(in_ptr[p], in_ptr[p + 1]):
        top = demand(in_idx[e], p, n, top, value_node, gap_ptr, gap_end, state, first, want, mark, stack, queue, flag,
                     journal, totals)  # fmt: skip
    while top > 0:
        top -= 1
        c = stack[top]
        # ascending; a node comes after its inputs, which the stack gives later: most go in front
        k = base + count
        while k > base and pool[k - 1] > c:
            pool[k] = pool[k - 1]
            k -= 1
        pool[k] = c
        count += 1
        # what else it writes is there too: held from here if it is to be held once recomputed
        for v in range(out_ptr[c], out_ptr[c + 1]):
            if state[gap_before(v, p, gap_ptr, gap_end)] == 1:
                top = demand(v, p, n, top, value_node, gap_ptr, gap_end, state, first, want, mark, stack, queue, flag,
                             journal, totals)  # fmt: skip
        for e in range(in_ptr[c], in_ptr[c + 1]):
            top = demand(in_idx[e], p, n, top, value_node, gap_ptr, gap_end, state, first, want, mark, stack, queue,
                         flag, journal, totals)  # fmt: skip
    begin = closure[p, 0]
    length = closure[p, 1]
    if totals[10] + count > links.shape[0]:
        totals[9] = 1
        return
    note(4, p, begin, length, journal, totals)
    closure[p, 0] = base
    closure[p, 1] = count
    totals[1] = base + count
    push(2, p, queue, flag, totals)
    i = 0
    j = 0
    while i < length or j < count:
        a = pool[begin + i] if i < length else n
        b = pool[base + j] if j < count else n
        if a == b:
            i += 1
            j += 1
            continue
        if a < b:
            i += 1
            c = a
            remove_link(c, p, heads, links, totals)
            note(5, c, p, 1, journal, totals)
            totals[0] -= again[c]
        else:
            j += 1
            c = b
            add_link(c, p, heads, links, totals)
            note(5, c, p, 0, journal, totals)
            totals[0] += again[c]
        for e in range(in_ptr[c], in_ptr[c + 1]):
            push(1, gap_before(in_idx[e], p, gap_ptr, gap_end), queue, flag, totals)
    # what only the nodes that are gone needed here is recomputed later, or never
    i = begin
    while i < begin + length:
        c = pool[i]
        i += 1
        if mark[c] != stamp:
            n_in = in_ptr[c + 1] - in_ptr[c]
            for e in range(n_in + out_ptr[c + 1] - out_ptr[c]):
                v = in_idx[in_ptr[c] + e] if e < n_in else out_ptr[c] + e - n_in
                if want[v] != stamp:
                    g = gap_before(v, p, gap_ptr, gap_end)
                    m = state.shape[0]
                    if state[g] == 1 and first[g] == p:
                        note(1, g, p, 0, journal, totals)
                        first[g] = next_run(g, p, n, gap_value, gap_end, value_node, user_ptr, user_idx, heads, links)
                        push(1, g, queue, flag, totals)
                        if first[g] < n:
                            push(0, first[g], queue, flag, totals)
                    elif state[g] >= 3 and (first[g] == p or first[m + g] == p):
                        q = next_demand(g, p, n, gap_value, gap_end, user_ptr, user_idx, heads, links)
                        if first[g] == p:
                            note(1, g, p, 0, journal, totals)
                            first[g] = q
                            if q < n:
                                push(0, q, queue, flag, totals)
                                r = next_demand(g, q, n, gap_value, gap_end, user_ptr, user_idx, heads, links)
                                q = r if q < gap_end[g] else n
                        if p < first[m + g] and first[m + g] < n:
                            push(0, first[m + g], queue, flag, totals)
                        note(1, m + g, first[m + g], 0, journal, totals)
                        first[m + g] = q
                        push(1, g, queue, flag, totals)
                        if q < n:
                            push(0, q, queue, flag, totals)


@kernel
def settle_cost(n: int, in_ptr: I64, in_idx: I64, out_ptr: I64, value_node: I64, again: I64, gap_ptr: I64,
                gap_value: I64, gap_end: I64, user_ptr: I64, user_idx: I64, state: I64, first: I64, closure: I64,
                pool: I64, heads: I64, links: I64, want: I64, mark: I64, stack: I64, queue: I64, flag: I64,
                journal: I64, totals: I64) -> None:  # fmt: skip
    """Bring closures and the cost up to date: step by step forward, as a change can put only later ones out of date."""
    while totals[5] > 0 and totals[9] == 0:
        k = 0
        for i in range(1, totals[5]):
            if queue[0, i] < queue[0, k]:
                k = i
        p = queue[0, k]
        totals[5] -= 1
        queue[0, k] = queue[0, totals[5]]
        flag[0, p] = 0
        restep(p, n, in_ptr, in_idx, out_ptr, value_node, again, gap_ptr, gap_value, gap_end, user_ptr, user_idx, state,
               first, closure, pool, heads, links, want, mark, stack, queue, flag, journal, totals)  # fmt: skip


@kernel
def holds(g: int, p: int, hold: I64) -> bool:
    """Whether the value of a gap is held when step `p` begins."""
    r = g + hold.shape[0] // 2
    return bool((hold[g, 0] < p <= hold[g, 1]) or (hold[r, 0] < p <= hold[r, 1]))


@kernel
def local_peak(p: int, in_ptr: I64, in_idx: I64, out_ptr: I64, takes: I64, nbytes: I64, scratch: I64, gap_ptr: I64,
               gap_end: I64, hold: I64, closure: I64, pool: I64, want: I64, last: I64, totals: I64) -> int:  # fmt: skip
    """Most bytes in step `p`, closure and all, above what is held when it begins."""
    totals[4] += 1
    stamp = totals[4]
    begin = closure[p, 0]
    count = closure[p, 1]
    for i in range(count + 1):
        c = pool[begin + i] if i < count else p
        for e in range(in_ptr[c], in_ptr[c + 1]):
            want[in_idx[e]] = stamp
            last[in_idx[e]] = i
    live = 0
    peak = 0
    for i in range(count + 1):
        c = pool[begin + i] if i < count else p
        rise = scratch[c]
        stay = 0
        for v in range(out_ptr[c], out_ptr[c + 1]):
            g = gap_ptr[v]
            inside = False
            if i < count:
                g = gap_before(v, p, gap_ptr, gap_end)
                inside = holds(g, p, hold)
                if gap_end[g] == p:
                    g += 1
            after = holds(g, p + 1, hold)
            there = not inside and (after or (want[v] == stamp and last[v] > i))
            if takes[v] < 0:
                rise += nbytes[v]
                if there:
                    stay += nbytes[v]
            elif not there:
                stay -= nbytes[v]
        peak = max(peak, live + rise)
        live += stay
        for e in range(in_ptr[c], in_ptr[c + 1]):
            v = in_idx[e]
            if last[v] == i:
                g = gap_before(v, p, gap_ptr, gap_end)
                if gap_end[g] == p:
                    g += 1
                taken = False
                for w in range(out_ptr[c], out_ptr[c + 1]):
                    if takes[w] == v:
                        taken = True
                if not taken and not holds(g, p + 1, hold):
                    live -= nbytes[v]
    return peak


@kernel
def settle_peak(n: int, in_ptr: I64, in_idx: I64, out_ptr: I64, takes: I64, nbytes: I64, scratch: I64, gap_ptr: I64,
                gap_value: I64, gap_begin: I64, gap_end: I64, user_ptr: I64, user_idx: I64, state: I64, first: I64,
                hold: I64, closure: I64, pool: I64, heads: I64, links: I64, local: I64, tree: I64, want: I64,
                last: I64, queue: I64, flag: I64, journal: I64, totals: I64) -> int:  # fmt: skip
    """Bring holds and bytes up to date; return the peak."""
    m = state.shape[0]
    for i in range(totals[6]):
        g = queue[1, i]
        flag[1, g] = 0
        v = gap_value[g]
        for part in range(2):
            r = g + part * m
            begin = gap_begin[g]
            end = gap_end[g]
            if part == 1:
                begin = first[r] if state[g] >= 3 else n
            elif state[g] == 1:
                begin = first[g]
            elif state[g] == 2 or state[g] == 4 or (state[g] == 3 and first[g] >= n):
                begin = n
            if begin >= n:
                begin = -1
                end = -1
            elif part == 0 and state[g] == 3:
                end = first[g]
            elif end > n:
                end = max(last_demand(v, user_ptr, user_idx, heads, links), begin)
            if begin == end:
                begin = -1
                end = -1
            a = hold[r, 0]
            b = hold[r, 1]
            if a != begin or b != end:
                note(2, r, a, b, journal, totals)
                if a >= 0:
                    add_range(a + 1, min(b + 1, n), -nbytes[v], tree)
                    push(2, a, queue, flag, totals)
                    if b < n:
                        push(2, b, queue, flag, totals)
                if begin >= 0:
                    add_range(begin + 1, min(end + 1, n), nbytes[v], tree)
                    push(2, begin, queue, flag, totals)
                    if end < n:
                        push(2, end, queue, flag, totals)
                hold[r, 0] = begin
                hold[r, 1] = end
    totals[6] = 0
    for i in range(totals[7]):
        p = queue[2, i]
        flag[2, p] = 0
        new = local_peak(p, in_ptr, in_idx, out_ptr, takes, nbytes, scratch, gap_ptr, gap_end, hold, closure, pool,
                         want, last, totals)  # fmt: skip
        if new != local[p]:
            note(3, p, local[p], 0, journal, totals)
            add_range(p, p + 1, new - local[p], tree)
            local[p] = new
    totals[7] = 0
    return int(tree[0, 1])


@kernel
def undo(n: int, nbytes: I64, gap_value: I64, state: I64, first: I64, hold: I64, closure: I64, heads: I64, links: I64,
         local: I64, tree: I64, queue: I64, flag: I64, journal: I64, totals: I64) -> None:  # fmt: skip
    """Take back everything since the journal was empty."""
    for q in range(3):
        for i in range(totals[5 + q]):
            flag[q, queue[q, i]] = 0
        totals[5 + q] = 0
    k = totals[3]
    while k > 0:
        k -= 1
        kind = journal[k, 0]
        a = journal[k, 1]
        b = journal[k, 2]
        c = journal[k, 3]
        if kind == 0:
            state[a] = b
        elif kind == 1:
            first[a] = b
        elif kind == 2:
            size = nbytes[gap_value[a % state.shape[0]]]
            if hold[a, 0] >= 0:
                add_range(hold[a, 0] + 1, min(hold[a, 1] + 1, n), -size, tree)
            if b >= 0:
                add_range(b + 1, min(c + 1, n), size, tree)
            hold[a, 0] = b
            hold[a, 1] = c
        elif kind == 3:
            add_range(a, a + 1, b - local[a], tree)
            local[a] = b
        elif kind == 4:
            closure[a, 0] = b
            closure[a, 1] = c
        elif c == 1:
            add_link(a, b, heads, links, totals)
        else:
            remove_link(a, b, heads, links, totals)
    totals[3] = 0
    totals[9] = 0
    totals[0] = totals[11]
    totals[1] = totals[12]


@kernel
def commit(n: int, closure: I64, pool: I64, totals: I64) -> None:
    """Make everything since the journal was empty final; tidy the pool where it runs full."""
    totals[3] = 0
    if 2 * totals[1] > pool.shape[0]:
        # closures are few beside what lies about: moved to the end in use first, then to the front
        top = totals[1]
        count = 0
        for p in range(n):
            count += closure[p, 1]
        if top + count <= pool.shape[0]:
            k = top
            for p in range(n):
                for i in range(closure[p, 1]):
                    pool[k] = pool[closure[p, 0] + i]
                    k += 1
            k = 0
            for p in range(n):
                closure[p, 0] = k
                k += closure[p, 1]
            for i in range(count):
                pool[i] = pool[top + i]
            totals[1] = count
    totals[11] = totals[0]
    totals[12] = totals[1]


@kernel
def evaluate(base_cost: int, n: int, in_ptr: I64, in_idx: I64, out_ptr: I64, takes: I64, nbytes: I64, scratch: I64,
             value_node: I64, again: I64, gap_ptr: I64, gap_value: I64, gap_begin: I64, gap_end: I64, gap_cost: I64,
             user_ptr: I64, user_idx: I64, state: I64, first: I64, hold: I64, closure: I64, pool: I64, heads: I64,
             links: I64, local: I64, tree: I64, want: I64, last: I64, mark: I64, stack: I64, queue: I64, flag: I64,
             journal: I64, totals: I64) -> bool:  # fmt: skip
    """Evaluate the schedule of ``state`` from nothing; False where it recomputes more than there is room for."""
    totals[0] = base_cost
    for k in range(1, 13):
        totals[k] = 0
    for k in range(links.shape[0]):
        links[k, 0] = k + 1
    for i in range(tree.shape[1]):
        tree[0, i] = 0
        tree[1, i] = 0
    for v in range(want.shape[0]):
        want[v] = 0
    for p in range(n):
        heads[p] = -1
        mark[p] = 0
        closure[p, 0] = 0
        closure[p, 1] = 0
        local[p] = 0
        flag[0, p] = 1
        flag[1, p] = 0
        flag[2, p] = 0
    for g in range(state.shape[0]):
        flag[1, g] = 0
    for g in range(state.shape[0]):
        first[g] = n
        first[g + state.shape[0]] = n
        for r in range(g, hold.shape[0], state.shape[0]):
            hold[r, 0] = -1
            hold[r, 1] = -1
        push(1, g, queue, flag, totals)
        if state[g] != 0:
            totals[0] += gap_cost[g]
    for p in range(n):
        # every step is made in its turn, so that no set of them is needed
        restep(p, n, in_ptr, in_idx, out_ptr, value_node, again, gap_ptr, gap_value, gap_end, user_ptr, user_idx, state,
               first, closure, pool, heads, links, want, mark, stack, queue, flag, journal, totals)  # fmt: skip
    for p in range(n):
        flag[0, p] = 0
    settle_peak(n, in_ptr, in_idx, out_ptr, takes, nbytes, scratch, gap_ptr, gap_value, gap_begin, gap_end, user_ptr,
                user_idx, state, first, hold, closure, pool, heads, links, local, tree, want, last, queue, flag,
                journal, totals)  # fmt: skip
    done = totals[9] == 0
    totals[8] = 1
    commit(n, closure, pool, totals)
    return bool(done)


@kernel
def draw(below: int, totals: I64) -> int:
    """Draw an integer in ``[0, below)``: Lehmer's generator, whose products fit 64 bits."""
    totals[13] = totals[13] * 48271 % 2147483647
    return int((totals[13] >> 3) % below)


@kernel
def anneal(kinds: int, now: int, until: int, n_moves: int, budget: int, warmth: float, cold: float, soft: float,
           hard: float, base_cost: int, n: int, in_ptr: I64, in_idx: I64, out_ptr: I64, takes: I64, nbytes: I64,
           scratch: I64, value_node: I64, again: I64, gap_ptr: I64, gap_value: I64, gap_begin: I64, gap_end: I64,
           gap_cost: I64,
           user_ptr: I64, user_idx: I64, state: I64, first: I64, hold: I64, closure: I64, pool: I64, heads: I64,
           links: I64, local: I64, tree: I64, want: I64, last: I64, mark: I64, stack: I64, queue: I64, flag: I64,
           journal: I64, free: I64, best: I64, lowest: I64, totals: I64) -> None:  # fmt: skip
    """Anneal the states of the gaps, moves ``now`` to ``until`` of ``n_moves``; ``best`` is the cheapest within budget.

    Moves go to the first `kinds` states. Temperature and price of a byte too many (in units of mean cost per byte of
    the budget) run geometrically from `warmth` to `cold` and from `soft` to `hard`. ``totals[14]`` is the cost of
    ``best``, or -1; ``totals[15]`` the peak of ``lowest``, the lowest one seen above budget.
    """
    n_free = free.shape[0]
    rate = float(base_cost) / float(max(budget, 1))
    for it in range(now, until):
        part = it / n_moves
        temperature = warmth * (cold / warmth) ** part * base_cost
        price = soft * (hard / soft) ** part * rate
        value = totals[0] + price * max(tree[0, 1] - budget, 0)
        limit = value - temperature * np.log((draw(1000000, totals) + 1) / 1000000.0)
        r = draw(100, totals)
        count = 1
        if r < 35:
            count = 2
        elif r < 45:
            count = 3
        k = draw(n_free, totals)
        centre = k
        was = 0
        for q in range(count):
            if q > 0:
                k = draw(n_free, totals)
                if draw(10, totals) < 6:
                    k = min(max(centre + draw(13, totals) - 6, 0), n_free - 1)
            g = free[k]
            old = state[g]
            s = draw(10, totals)
            new = 0
            if s >= 9:
                new = 2 + draw(kinds - 2, totals)
            elif s >= 5:
                new = 1
            if new == old:
                new = 1 if old == 0 else 0
            if q == 0:
                was = old
            elif count == 2 and r < 25 and was != old:
                new = was
            set_state(g, new, n, value_node, gap_value, gap_begin, gap_end, gap_cost, user_ptr, user_idx, state, first,
                      heads, links, queue, flag, journal, totals)  # fmt: skip
        settle_cost(n, in_ptr, in_idx, out_ptr, value_node, again, gap_ptr, gap_value, gap_end, user_ptr, user_idx,
                    state, first, closure, pool, heads, links, want, mark, stack, queue, flag, journal,
                    totals)  # fmt: skip
        good = totals[9] == 0 and totals[0] <= limit
        if good:
            peak = settle_peak(n, in_ptr, in_idx, out_ptr, takes, nbytes, scratch, gap_ptr, gap_value, gap_begin,
                               gap_end, user_ptr, user_idx, state, first, hold, closure, pool, heads, links, local,
                               tree, want, last, queue, flag, journal, totals)  # fmt: skip
            good = totals[0] + price * max(peak - budget, 0) <= limit
        if good:
            commit(n, closure, pool, totals)
            if tree[0, 1] <= budget and (totals[14] < 0 or totals[0] < totals[14]):
                totals[14] = totals[0]
                for g in range(state.shape[0]):
                    best[g] = state[g]
            elif budget < tree[0, 1] and tree[0, 1] < totals[15]:
                totals[15] = tree[0, 1]
                for g in range(state.shape[0]):
                    lowest[g] = state[g]
        else:
            undo(n, nbytes, gap_value, state, first, hold, closure, heads, links, local, tree, queue, flag, journal,
                 totals)  # fmt: skip


@kernel
def shuffle(order: I64, totals: I64) -> None:
    """Put `order` into a random order."""
    for i in range(order.shape[0] - 1, 0, -1):
        j = draw(i + 1, totals)
        x = order[i]
        order[i] = order[j]
        order[j] = x


@kernel
def attempt(g: int, new: int, limit: int, budget: int, n: int, in_ptr: I64, in_idx: I64, out_ptr: I64, takes: I64,
            nbytes: I64, scratch: I64, value_node: I64, again: I64, gap_ptr: I64, gap_value: I64, gap_begin: I64,
            gap_end: I64, gap_cost: I64, user_ptr: I64, user_idx: I64, state: I64, first: I64, hold: I64, closure: I64,
            pool: I64, heads: I64, links: I64, local: I64, tree: I64, want: I64, last: I64, mark: I64, stack: I64,
            queue: I64, flag: I64, journal: I64, totals: I64) -> bool:  # fmt: skip
    """Change the state of a gap if that costs less than `limit` in all and stays within `budget`."""
    set_state(g, new, n, value_node, gap_value, gap_begin, gap_end, gap_cost, user_ptr, user_idx, state, first, heads,
              links, queue, flag, journal, totals)  # fmt: skip
    settle_cost(n, in_ptr, in_idx, out_ptr, value_node, again, gap_ptr, gap_value, gap_end, user_ptr, user_idx, state,
                first, closure, pool, heads, links, want, mark, stack, queue, flag, journal, totals)  # fmt: skip
    if totals[9] == 0 and totals[0] < limit:
        peak = settle_peak(n, in_ptr, in_idx, out_ptr, takes, nbytes, scratch, gap_ptr, gap_value, gap_begin, gap_end,
                           user_ptr, user_idx, state, first, hold, closure, pool, heads, links, local, tree, want, last,
                           queue, flag, journal, totals)  # fmt: skip
        if peak <= budget:
            commit(n, closure, pool, totals)
            return True
    undo(n, nbytes, gap_value, state, first, hold, closure, heads, links, local, tree, queue, flag, journal, totals)
    return False


@kernel
def descend(kinds: int, at: int, idle: int, n_tries: int, budget: int, n: int, in_ptr: I64, in_idx: I64, out_ptr: I64,
            takes: I64, nbytes: I64, scratch: I64, value_node: I64, again: I64, gap_ptr: I64, gap_value: I64,
            gap_begin: I64, gap_end: I64, gap_cost: I64, user_ptr: I64, user_idx: I64, state: I64, first: I64,
            hold: I64, closure: I64, pool: I64, heads: I64, links: I64, local: I64, tree: I64, want: I64, last: I64,
            mark: I64, stack: I64, queue: I64, flag: I64, journal: I64, order: I64,
            totals: I64) -> tuple[int, int, int]:  # fmt: skip
    """Improve a schedule within budget by keeping what was dropped, or that and dropping what was kept.

    Where `kinds` is 2, dropped ones' states are changed among themselves as well. Goes round `order` from entry `at`,
    of which the last `idle` gave nothing, until a round gives nothing or `n_tries` changes were tried. Return where it
    stands: the next entry, entries without gain, tries left.
    """
    m = order.shape[0]
    while idle < m and n_tries > 0:
        g = order[at]
        at = at + 1 if at + 1 < m else 0
        idle += 1
        # dropping what is held costs nothing less
        if state[g] == 0:
            continue
        for new in range(1, 5 if kinds == 2 else 1):
            if new != state[g]:
                n_tries -= 1
                if attempt(g, new, totals[0], budget, n, in_ptr, in_idx, out_ptr, takes, nbytes, scratch, value_node,
                           again, gap_ptr, gap_value, gap_begin, gap_end, gap_cost, user_ptr, user_idx, state, first,
                           hold, closure, pool, heads, links, local, tree, want, last, mark, stack, queue, flag,
                           journal, totals):  # fmt: skip
                    idle = 0
        old = state[g]
        cost = totals[0]
        n_tries -= 1
        # kept whatever the peak is, for a lower cost; then something else has to make room where it is too much
        if not attempt(g, 0, cost, 4611686018427387904, n, in_ptr, in_idx, out_ptr, takes, nbytes, scratch, value_node,
                       again, gap_ptr, gap_value, gap_begin, gap_end, gap_cost, user_ptr, user_idx, state, first, hold,
                       closure, pool, heads, links, local, tree, want, last, mark, stack, queue, flag, journal,
                       totals):  # fmt: skip
            continue
        done = tree[0, 1] <= budget
        crowded = peak_step(tree)
        over = tree[0, 1] - budget
        k = 0
        while k < m and not done:
            other = order[m - 1 - k]
            k += 1
            if other == g or state[other] != 0 or hold[other, 0] > crowded or hold[other, 1] < crowded:
                continue
            # what it takes off is hardly more than the value itself, and its node hardly costs less
            v = gap_value[other]
            if nbytes[v] < over or totals[0] + again[value_node[v]] >= cost:
                continue
            for new in range(1, 5):
                if not done:
                    n_tries -= 1
                    done = attempt(other, new, cost, budget, n, in_ptr, in_idx, out_ptr, takes, nbytes, scratch,
                                   value_node, again, gap_ptr, gap_value, gap_begin, gap_end, gap_cost, user_ptr,
                                   user_idx, state, first, hold, closure, pool, heads, links, local, tree, want, last,
                                   mark, stack, queue, flag, journal, totals)  # fmt: skip
        if done:
            idle = 0
        else:
            attempt(g, old, 4611686018427387904, 4611686018427387904, n, in_ptr, in_idx, out_ptr, takes, nbytes,
                    scratch, value_node, again, gap_ptr, gap_value, gap_begin, gap_end, gap_cost, user_ptr, user_idx,
                    state, first, hold, closure, pool, heads, links, local, tree, want, last, mark, stack, queue, flag,
                    journal, totals)  # fmt: skip
    return at, idle, n_tries


@kernel
def change(target: I64, n: int, in_ptr: I64, in_idx: I64, out_ptr: I64, takes: I64, nbytes: I64, scratch: I64,
           value_node: I64, again: I64, gap_ptr: I64, gap_value: I64, gap_begin: I64, gap_end: I64, gap_cost: I64,
           user_ptr: I64, user_idx: I64, state: I64, first: I64, hold: I64, closure: I64, pool: I64, heads: I64,
           links: I64, local: I64, tree: I64, want: I64, last: I64, mark: I64, stack: I64, queue: I64, flag: I64,
           journal: I64, totals: I64) -> bool:  # fmt: skip
    """Go over to other states by what differs; False, and nothing changed, where there is no room for that."""
    for g in range(state.shape[0]):
        set_state(g, target[g], n, value_node, gap_value, gap_begin, gap_end, gap_cost, user_ptr, user_idx, state,
                  first, heads, links, queue, flag, journal, totals)  # fmt: skip
    settle_cost(n, in_ptr, in_idx, out_ptr, value_node, again, gap_ptr, gap_value, gap_end, user_ptr, user_idx, state,
                first, closure, pool, heads, links, want, mark, stack, queue, flag, journal, totals)  # fmt: skip
    if totals[9] == 0:
        settle_peak(n, in_ptr, in_idx, out_ptr, takes, nbytes, scratch, gap_ptr, gap_value, gap_begin, gap_end,
                    user_ptr, user_idx, state, first, hold, closure, pool, heads, links, local, tree, want, last, queue,
                    flag, journal, totals)  # fmt: skip
        commit(n, closure, pool, totals)
        return True
    undo(n, nbytes, gap_value, state, first, hold, closure, heads, links, local, tree, queue, flag, journal, totals)
    return False


@kernel
def bytes_in(p: int, tree: I64) -> int:
    """Most bytes alive in a step."""
    i = p + tree.shape[1] // 2
    total = tree[0, i]
    i >>= 1
    while i >= 1:
        total += tree[1, i]
        i >>= 1
    return int(total)


@kernel
def repair(part: int, noise: int, n_tries: int, stop: int, budget: int, n: int, in_ptr: I64, in_idx: I64, out_ptr: I64,
           takes: I64, nbytes: I64, scratch: I64, value_node: I64, again: I64, gap_ptr: I64, gap_value: I64,
           gap_begin: I64, gap_end: I64, gap_cost: I64, user_ptr: I64, user_idx: I64, state: I64, first: I64,
           hold: I64, closure: I64, pool: I64, heads: I64, links: I64, local: I64, tree: I64, want: I64, last: I64,
           mark: I64, stack: I64, queue: I64, flag: I64, journal: I64, free: I64, guess: I64,
           totals: I64) -> int:  # fmt: skip
    """Bring the peak within budget, each time by the change that costs least for what it takes off the worst step.

    It stops on the way there when the peak is no more than `stop`. Where `part` is 0, holding less is tried first, in
    state 1, and all other changes only where that is not enough; state 4 at the very last. What a change is worth is
    raised by up to `noise` percent, by chance. ``guess`` remembers what each change cost when it was last tried (-1:
    never; ``-2 - p``: it took nothing off step ``p``), and only those are tried again that may be worth most. Return
    the tries left; 0 means that no change helps.
    """
    fresh = False
    while tree[0, 1] > max(budget, stop) and n_tries > 0:
        crowded = peak_step(tree)
        peak = tree[0, 1]
        cost = totals[0]
        best = 0.0
        best_gap = -1
        best_new = 0
        stage = part
        while stage < 3 and best_gap < 0:
            top = -1
            top_new = 0
            top_score = -1.0
            # twice round: what seems to be worth most, then, after that, whatever may be worth more
            for k in range(-free.shape[0], free.shape[0] + 1):
                g = top
                if k < 0:
                    g = free[k + free.shape[0]]
                elif k > 0:
                    g = free[k - 1]
                if g < 0:
                    continue
                old = state[g]
                if hold[g, 0] > crowded or hold[g, 1] < crowded:
                    continue
                # what it can take off is hardly more than the value itself
                most = min(nbytes[gap_value[g]], peak - budget) * (1.0 + noise / 100.0)
                for new in range(1, 4 if stage < 2 else 5):
                    # one way only, so that it ends: from holding much to holding nothing
                    if new == old or old == 2 or (new == 3 and old > 0) or (new == 1 and old == 4):
                        continue
                    if (stage == 0 and (old != 0 or new != 1)) or (stage == 2 and new != 4):
                        continue
                    known = guess[5 * g + new]
                    if k < 0:
                        if known >= 0 and most > top_score * (known + 1.0e-9):
                            top = g
                            top_new = new
                            top_score = most / (known + 1.0e-9)
                        continue
                    if (g == top and new == top_new) != (k == 0):
                        continue
                    if known == -2 - crowded:
                        continue
                    if known >= 0 and most <= 0.7 * best * known:
                        continue
                    n_tries -= 1
                    set_state(g, new, n, value_node, gap_value, gap_begin, gap_end, gap_cost, user_ptr, user_idx, state,
                              first, heads, links, queue, flag, journal, totals)  # fmt: skip
                    settle_cost(n, in_ptr, in_idx, out_ptr, value_node, again, gap_ptr, gap_value, gap_end, user_ptr,
                                user_idx, state, first, closure, pool, heads, links, want, mark, stack, queue, flag,
                                journal, totals)  # fmt: skip
                    guess[5 * g + new] = max(totals[0] - cost, 0)
                    if totals[9] == 0 and most > best * (totals[0] - cost):
                        now = settle_peak(n, in_ptr, in_idx, out_ptr, takes, nbytes, scratch, gap_ptr, gap_value,
                                          gap_begin, gap_end, user_ptr, user_idx, state, first, hold, closure, pool,
                                          heads, links, local, tree, want, last, queue, flag, journal,
                                          totals)  # fmt: skip
                        off = min(peak - bytes_in(crowded, tree), peak - budget)
                        # less in this step, and no other one worse than it was
                        if off > 0 and now <= peak:
                            score = off / (totals[0] - cost + 1.0e-9) if totals[0] > cost else 1.0e18
                            score *= 1.0 + noise * draw(1000, totals) / 100000.0
                            if score > best:
                                best = score
                                best_gap = g
                                best_new = new
                        else:
                            guess[5 * g + new] = -2 - crowded
                    undo(n, nbytes, gap_value, state, first, hold, closure, heads, links, local, tree, queue, flag,
                         journal, totals)  # fmt: skip
            stage += 1
        if best_gap < 0:
            if fresh:
                return 0
            for k in range(guess.shape[0]):
                guess[k] = -1
            fresh = True
            continue
        fresh = False
        attempt(best_gap, best_new, 4611686018427387904, 4611686018427387904, n, in_ptr, in_idx, out_ptr, takes, nbytes,
                scratch, value_node, again, gap_ptr, gap_value, gap_begin, gap_end, gap_cost, user_ptr, user_idx, state,
                first, hold, closure, pool, heads, links, local, tree, want, last, mark, stack, queue, flag, journal,
                totals)  # fmt: skip
    return n_tries if n_tries != 0 else -1


@kernel
def bounds(base: I64, full: I64, piece_bytes: I64, piece_cost: I64, piece_least: I64, piece_begin: I64, piece_end: I64,
           budgets: I64, costs: I64, steps: I64) -> None:  # fmt: skip
    """Fill ``costs`` with a bound of what recomputation costs under each budget, and the steps that give it; -1: none.

    In each step ``full[p]`` bytes are alive if all is kept, and ``base[p]`` whatever the plan; each piece, in the order
    of cost per byte, can be left out in steps ``piece_begin .. piece_end - 1`` for its cost, or less of it for no less
    than ``piece_least``. A fractional knapsack in each step, then one branch on the piece that is cut (Martello and
    Toth 1977).
    """
    for b in range(budgets.shape[0]):
        costs[b] = 0
        steps[b] = 0
    for p in range(base.shape[0]):
        for b in range(budgets.shape[0]):
            need = full[p] - budgets[b]
            if need <= 0 or costs[b] < 0:
                continue
            if base[p] > budgets[b]:
                costs[b] = -1
                steps[b] = p
                continue
            cost = 0
            before = -1
            cut = -1
            after = -1
            for k in range(piece_bytes.shape[0]):
                if piece_begin[k] <= p < piece_end[k]:
                    if cut >= 0:
                        after = k
                        break
                    if piece_bytes[k] >= need:
                        cut = k
                    else:
                        need -= piece_bytes[k]
                        cost += piece_cost[k]
                        before = k
            # the piece that is cut is left out, so that others need not be; or it is not
            taken = cost + piece_least[cut]
            if before >= 0:
                ratio = piece_cost[before] / piece_bytes[before]
                taken -= int(np.ceil((piece_bytes[cut] - need) * ratio * 1.000000001))
            taken = max(taken, cost + int(piece_cost[cut] * (need / piece_bytes[cut]) * 0.999999999))
            if after >= 0:
                rest = cost + int(piece_cost[after] * (need / piece_bytes[after]) * 0.999999999)
                taken = min(taken, rest)
            if taken > costs[b]:
                costs[b] = taken
                steps[b] = p
