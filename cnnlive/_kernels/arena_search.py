"""Depth-first search for a placement of buffers below a given height, resumable, with proof where there is none.

Everything is in units (bytes divided by a common divisor). A section is a moment at which no more buffers could be
alive together, as in the other kernels of arenas. All buffers here have a size and are alive.

The search keeps for each buffer that is not placed the least offset that it can still have, ``low``. It takes a buffer
none of whose neighbours can lie lower. Either it lies at its ``low``, and then all its neighbours lie on top of it, or
it lies higher. Every placement is of exactly one of the two kinds, so no placement is met twice, and any order of
choosing is complete; the search chooses near the section that has least to spare. Three things keep it short:

Sections. The buffers of a section that are not placed lie on top of each other: the least ``low`` among them plus the
sum of their sizes may not pass the roof.

Dominance. If there is a placement there is one whose offsets have the least sum. In it no buffer can drop. So a buffer
that lies higher than it could lie, as far as those placed are concerned (``base``), has a neighbour in the way that is
not placed yet, and lies on top of it: its ``low`` rises to the least top of a neighbour that can be in the way, and
where there is none the case is closed.

Conflicts. Where a case is closed, the decisions that it follows from are collected: each rise of a ``low`` is on
record with the decision that caused it. The search goes back to the last of them at once; those made in between, in
other parts of time, had no share. (Conflict-directed backjumping, Prosser 1993; parts of time that have come apart
need no treatment of their own.) Where no decision is left there is no placement, which is a proof.

A model is these columns:

first, last        sections of a buffer, [first, last)
size, align, pin   units; the offset that is given, or -1
sec_ptr            where the members of each section begin
pair_ptr           where the places of each buffer in its sections' lists begin
con_ptr, con_idx   neighbours of each buffer, those that share a section
pins_near          how many neighbours of a buffer are pinned; 0 for a buffer that is pinned itself
rank               which buffer comes first of equally low ones
roof, ceiling      the largest offset of each buffer; the largest top of one in each section

and the state of a search these, all scratch of the caller:

buffers    (4, n): low, base, the decision that placed it or -1, rises on record
secs       (4, n_sections): least low, members not placed, their sizes, a mark
member     (2, pairs): members of sections, those not placed first; the places of buffers in these lists
trail      (., 4): what to undo (0 a buffer rose, 1 only its base did, 2 it was lifted, 3 a section rose), which,
           old value, old base
rise_ptr   where the rises of each buffer begin; room for twice its neighbours and some more
rises      (3, .): low before a buffer rose, why, and a mark. Why is the decision that placed a neighbour below it, or
           -1 less a row of ``lifts``
decisions  (., 3): buffer, branch, trail before it
causes     (words,) a set of decisions, 32 in a word
kept       (decisions, words): causes that the first branches left
lifts      (., 1 + words): sets of decisions that other rises follow from, after how many words count
todo       (2, .) rises to be explained: buffer, offset; no more than neighbours of a buffer or members of a section
weight     (n_sections,) float64: sections count as that many times tighter
regs       (9,): trail, depth, nodes, decisions jumped over, mark of sections, mark of causes, state, rows of lifts, and
           the least by which roof or ceiling was ever missed: up to there a search is the same (2**62: never missed)
"""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import F64, I64


@kernel
def survey(first: I64, last: I64, sec_ptr: I64, pair_ptr: I64, born_ptr: I64, con_ptr: I64) -> None:
    """Fill what tells how large a model is; ``born_ptr`` (n_sections + 2,) is scratch that `connect` wants."""
    n = first.shape[0]
    n_sections = sec_ptr.shape[0] - 1
    for s in range(n_sections + 2):
        born_ptr[s] = 0
    for s in range(n_sections + 1):
        sec_ptr[s] = 0
    for i in range(n):
        born_ptr[first[i] + 1] += 1
        sec_ptr[first[i]] += 1
        sec_ptr[last[i]] -= 1
    for s in range(n_sections):
        born_ptr[s + 1] += born_ptr[s]
        sec_ptr[s + 1] += sec_ptr[s]
    born_ptr[n_sections + 1] = n
    pair_ptr[0] = 0
    con_ptr[0] = 0
    for i in range(n):
        # alive when it is born, and born while it lives
        degree = sec_ptr[first[i]] - 1 + born_ptr[last[i]] - born_ptr[first[i] + 1]
        pair_ptr[i + 1] = pair_ptr[i] + last[i] - first[i]
        con_ptr[i + 1] = con_ptr[i] + degree
    total = 0
    for s in range(n_sections + 1):
        alive = sec_ptr[s]
        sec_ptr[s] = total
        total += alive


@kernel
def connect(
    first: I64,
    last: I64,
    pin: I64,
    sec_ptr: I64,
    pair_ptr: I64,
    born_ptr: I64,
    con_ptr: I64,
    con_idx: I64,
    pins_near: I64,
    member: I64,
    work: I64,
) -> None:
    """Fill lists of members and neighbours; ``work`` (n + n_sections + 1,) is scratch.

    Notes
    -----
    O(n + n_sections + pairs of a buffer and a section + pairs of neighbours).
    """
    n = first.shape[0]
    n_sections = sec_ptr.shape[0] - 1
    for s in range(n_sections + 1):
        work[n + s] = born_ptr[s]
    for i in range(n):
        work[work[n + first[i]]] = i
        work[n + first[i]] += 1
    for s in range(n_sections):
        work[n + s] = sec_ptr[s]
    for i in range(n):
        for s in range(first[i], last[i]):
            place = work[n + s]
            work[n + s] += 1
            member[0, place] = i
            member[1, pair_ptr[i] + s - first[i]] = place
    for i in range(n):
        e = con_ptr[i]
        near = 0
        for k in range(sec_ptr[first[i]], sec_ptr[first[i] + 1]):
            if member[0, k] != i:
                con_idx[e] = member[0, k]
                near += pin[member[0, k]] >= 0
                e += 1
        for k in range(born_ptr[first[i] + 1], born_ptr[last[i]]):
            con_idx[e] = work[k]
            near += pin[work[k]] >= 0
            e += 1
        pins_near[i] = near if pin[i] < 0 else 0


@kernel
def clear_of_pins(at: int, i: int, size: I64, align: I64, pin: I64, con_ptr: I64, con_idx: I64, pins_near: I64) -> int:
    """Return the least offset from `at` on that is aligned and overlaps no pinned neighbour."""
    a = align[i]
    if a > 1:
        at = (at + a - 1) // a * a
    again = pins_near[i] > 0
    while again:
        again = False
        for e in range(con_ptr[i], con_ptr[i + 1]):
            p = pin[con_idx[e]]
            if p >= 0 and p < at + size[i]:
                end = p + size[con_idx[e]]
                if at < end:
                    at = (end + a - 1) // a * a
                    again = True
    return at


@kernel
def drop(
    i: int,
    buffers: I64,
    size: I64,
    align: I64,
    pin: I64,
    con_ptr: I64,
    con_idx: I64,
    pins_near: I64,
) -> int:
    """Return the least offset from its base on that a buffer could have if only those placed and pinned were there."""
    at = clear_of_pins(buffers[1, i], i, size, align, pin, con_ptr, con_idx, pins_near)
    again = True
    while again:
        again = False
        for e in range(con_ptr[i], con_ptr[i + 1]):
            d = con_idx[e]
            if buffers[2, d] >= 0 and buffers[0, d] < at + size[i]:
                end = buffers[0, d] + size[d]
                if at < end:
                    at = clear_of_pins(end, i, size, align, pin, con_ptr, con_idx, pins_near)
                    again = True
    return at


@kernel
def begin(
    first: I64,
    last: I64,
    size: I64,
    align: I64,
    pin: I64,
    sec_ptr: I64,
    con_ptr: I64,
    con_idx: I64,
    pins_near: I64,
    roof: I64,
    ceiling: I64,
    buffers: I64,
    secs: I64,
    regs: I64,
) -> None:
    """Put a search at its beginning, where nothing is placed; the weights stay."""
    n = first.shape[0]
    n_sections = sec_ptr.shape[0] - 1
    for r in range(8):
        regs[r] = 0
    regs[6] = 2
    missed = 0
    for s in range(n_sections):
        secs[0, s] = 1 << 62
        secs[1, s] = sec_ptr[s + 1] - sec_ptr[s]
        secs[2, s] = 0
        secs[3, s] = 0
        ceiling[s] = 0
    for i in range(n):
        low = pin[i]
        if low < 0:
            low = clear_of_pins(0, i, size, align, pin, con_ptr, con_idx, pins_near)
        buffers[0, i] = low
        buffers[1, i] = low
        buffers[2, i] = -1
        buffers[3, i] = 0
        missed = max(missed, low - roof[i])
        for s in range(first[i], last[i]):
            secs[0, s] = min(secs[0, s], low)
            secs[2, s] += size[i]
            ceiling[s] = max(ceiling[s], roof[i] + size[i])
    for s in range(n_sections):
        missed = max(missed, secs[0, s] + secs[2, s] - ceiling[s])
    regs[8] = 1 << 62
    if missed > 0:
        regs[6] = 0
        regs[8] = missed


@kernel
def choose(
    by_height: float,
    first: I64,
    last: I64,
    sec_ptr: I64,
    rank: I64,
    ceiling: I64,
    buffers: I64,
    secs: I64,
    member: I64,
    weight: F64,
) -> int:
    """Return a buffer none of whose neighbours can lie lower, near the tightest section; -1 if all are placed.

    The section has the least ``(spare + by_height * least low) / weight``.
    """
    s = -1
    best = 0.0
    for k in range(secs.shape[1]):
        if secs[1, k] > 0:
            low = secs[0, k]
            key = (ceiling[k] - secs[2, k] - low + by_height * low + 1.0) / weight[k]
            if s < 0 or key < best:
                best = key
                s = k
    found = -1
    while s >= 0:
        low = secs[0, s]
        found = -1
        for k in range(sec_ptr[s], sec_ptr[s] + secs[1, s]):
            i = member[0, k]
            if buffers[0, i] == low and (found < 0 or rank[i] < rank[found]):
                found = i
        s = -1
        for k in range(first[found], last[found]):
            if secs[0, k] < low:
                low = secs[0, k]
                s = k
    return found


@kernel
def explain(
    n_todo: int,
    size: I64,
    buffers: I64,
    decisions: I64,
    rise_ptr: I64,
    rises: I64,
    lifts: I64,
    todo: I64,
    mark: int,
    causes: I64,
) -> None:
    """Add to ``causes`` the decisions that the rises in ``todo`` follow from: why buffers cannot lie below offsets."""
    for x in range(n_todo):
        i = todo[0, x]
        least = todo[1, x]
        begin = rise_ptr[i]
        end = begin + buffers[3, i]
        while True:
            # the rise that took it there, the last from below `least`; what it rose later has no share
            low = begin
            while low < end:
                middle = (low + end) >> 1
                if rises[0, middle] < least:
                    low = middle + 1
                else:
                    end = middle
            end = low - 1
            if end < begin or rises[2, end] == mark:
                break
            rises[2, end] = mark
            k = rises[1, end]
            if k >= 0:
                # on top of a buffer that was placed: it did not fit below that
                causes[k >> 5] |= 1 << (k & 31)
                least = buffers[0, decisions[k, 0]] - size[i] + 1
            else:
                for w in range(lifts[-1 - k, 0]):
                    causes[w] |= lifts[-1 - k, w + 1]
                least = rises[0, end]


@kernel
def explain_lift(
    i: int,
    limit: int,
    top: int,
    size: I64,
    con_ptr: I64,
    con_idx: I64,
    buffers: I64,
    decisions: I64,
    rise_ptr: I64,
    rises: I64,
    lifts: I64,
    todo: I64,
    mark: int,
    causes: I64,
) -> None:
    """Add to ``causes`` why every neighbour is placed, begins at `limit` or above, or ends at `top` or above."""
    n_todo = 0
    for e in range(con_ptr[i], con_ptr[i + 1]):
        d = con_idx[e]
        k = buffers[2, d]
        if k >= 0:
            causes[k >> 5] |= 1 << (k & 31)
        elif buffers[3, d] > 0:
            todo[0, n_todo] = d
            todo[1, n_todo] = min(limit, top - size[d])
            n_todo += 1
    explain(n_todo, size, buffers, decisions, rise_ptr, rises, lifts, todo, mark, causes)


@kernel
def last_cause(k: int, causes: I64) -> int:
    """Return the last decision up to `k` that is among ``causes``, or -1."""
    w = k >> 5
    while w >= 0 and causes[w] == 0:
        w -= 1
    if w < 0:
        return -1
    k = 31
    while (causes[w] >> k) & 1 == 0:
        k -= 1
    return 32 * w + k


@kernel
def search(
    n_nodes: int,
    by_height: float,
    learn: float,
    first: I64,
    last: I64,
    size: I64,
    align: I64,
    pin: I64,
    sec_ptr: I64,
    pair_ptr: I64,
    con_ptr: I64,
    con_idx: I64,
    pins_near: I64,
    rank: I64,
    roof: I64,
    ceiling: I64,
    buffers: I64,
    secs: I64,
    member: I64,
    trail: I64,
    decisions: I64,
    rise_ptr: I64,
    rises: I64,
    causes: I64,
    kept: I64,
    lifts: I64,
    todo: I64,
    weight: F64,
    regs: I64,
) -> int:
    """Go on with a search for up to `n_nodes` nodes; return 0 no placement, 1 found, 2 not finished, 3 no room.

    If found, the offsets are ``buffers[0]``. `learn` is added to the weight of a section whenever it closes a case.

    Notes
    -----
    A node costs a look at each section, at the neighbours of the buffer, and at the members of sections where something
    rose; a closed case at the records it follows from.
    """
    status: int = regs[6]
    n_sections = secs.shape[1]
    n_trail = regs[0]
    depth = regs[1]
    nodes = regs[2]
    n_lifts = regs[7]
    stop = nodes + n_nodes
    while status == 2 and nodes < stop:
        b = choose(by_height, first, last, sec_ptr, rank, ceiling, buffers, secs, member, weight)
        if b < 0:
            status = 1
            break
        if (
            n_trail + con_ptr[b + 1] - con_ptr[b] + n_sections + 1 > trail.shape[0]
            or min(decisions.shape[0] - depth, lifts.shape[0] - n_lifts) < 1
        ):
            status = 3
            break
        nodes += 1
        # one that is higher than it could lie has to rise again, and no decision is made
        lifted = buffers[0, b] > buffers[1, b]
        why = -1
        if not lifted:
            decisions[depth, 0] = b
            decisions[depth, 1] = 0
            decisions[depth, 2] = n_trail
            depth += 1
        # place or lift `b`; where that closes the case, go back and lift another, until something holds
        while True:
            regs[4] += 1
            left = first[b]
            right = last[b]
            failed = 0  # 1 a section, 2 a neighbour above its roof, 3 `b` above its roof, 4 `b` is pinned
            who = -1
            at = 0
            limit = 0
            if not lifted:
                buffers[2, b] = depth - 1
                bottom = buffers[0, b]
                top = bottom + size[b]
                for s in range(left, right):
                    secs[1, s] -= 1
                    secs[2, s] -= size[b]
                    secs[3, s] = regs[4]
                    # it changes places with the last member that is not placed
                    p = member[1, pair_ptr[b] + s - left]
                    q = sec_ptr[s] + secs[1, s]
                    i = member[0, q]
                    member[0, p] = i
                    member[1, pair_ptr[i] + s - first[i]] = p
                    member[0, q] = b
                    member[1, pair_ptr[b] + s - left] = q
                for e in range(con_ptr[b], con_ptr[b + 1]):
                    i = con_idx[e]
                    if buffers[2, i] >= 0:
                        continue
                    low = buffers[0, i]
                    base = buffers[1, i]
                    if low < top:
                        v = top
                        if align[i] > 1 or pins_near[i] > 0:
                            v = clear_of_pins(top, i, size, align, pin, con_ptr, con_idx, pins_near)
                        if v > roof[i]:
                            if pin[i] < 0:
                                regs[8] = min(regs[8], v - roof[i])
                            failed = 2
                            who = i
                            break
                        trail[n_trail, 0] = 0
                        trail[n_trail, 1] = i
                        trail[n_trail, 2] = low
                        trail[n_trail, 3] = base
                        n_trail += 1
                        k = rise_ptr[i] + buffers[3, i]
                        rises[0, k] = low
                        rises[1, k] = depth - 1
                        rises[2, k] = 0
                        buffers[3, i] += 1
                        buffers[0, i] = v
                        left = min(left, first[i])
                        right = max(right, last[i])
                        for s in range(first[i], last[i]):
                            if secs[0, s] == low:
                                secs[3, s] = regs[4]
                        if low == base:
                            buffers[1, i] = v
                        elif base + size[i] > bottom:
                            buffers[1, i] = drop(i, buffers, size, align, pin, con_ptr, con_idx, pins_near)
                    elif base < top and base + size[i] > bottom:
                        trail[n_trail, 0] = 1
                        trail[n_trail, 1] = i
                        trail[n_trail, 3] = base
                        n_trail += 1
                        buffers[1, i] = drop(i, buffers, size, align, pin, con_ptr, con_idx, pins_near)
            elif pin[b] >= 0:
                failed = 4
            elif buffers[3, b] + con_ptr[b + 1] - con_ptr[b] >= rise_ptr[b + 1] - rise_ptr[b]:
                # each neighbour can still lift it once
                status = 3
            else:
                limit = buffers[1, b] + size[b]
                at = 1 << 62
                for e in range(con_ptr[b], con_ptr[b + 1]):
                    i = con_idx[e]
                    if buffers[2, i] < 0 and buffers[0, i] < limit:
                        at = min(at, buffers[0, i] + size[i])
                v = at
                if at <= roof[b] and (align[b] > 1 or pins_near[b] > 0):
                    v = clear_of_pins(at, b, size, align, pin, con_ptr, con_idx, pins_near)
                # what it follows from goes where it is wanted
                words = (depth >> 5) + 1
                regs[5] += 1
                row = causes
                if v <= roof[b]:
                    lifts[n_lifts, 0] = words
                    row = lifts[n_lifts, 1:]
                for w in range(words):
                    row[w] = 0
                if why >= 0:
                    row[why >> 5] |= 1 << (why & 31)
                explain_lift(b, limit, at, size, con_ptr, con_idx, buffers, decisions, rise_ptr, rises, lifts, todo,
                             regs[5], row)  # fmt: skip
                if v > roof[b]:
                    if v < 1 << 62:
                        regs[8] = min(regs[8], v - roof[b])
                    failed = 3
                else:
                    trail[n_trail, 0] = 2
                    trail[n_trail, 1] = b
                    trail[n_trail, 2] = buffers[0, b]
                    n_trail += 1
                    n_lifts += 1
                    k = rise_ptr[b] + buffers[3, b]
                    rises[0, k] = buffers[0, b]
                    rises[1, k] = -n_lifts
                    rises[2, k] = 0
                    buffers[3, b] += 1
                    for s in range(left, right):
                        if secs[0, s] == buffers[0, b]:
                            secs[3, s] = regs[4]
                    buffers[0, b] = v
            if failed == 0:
                for s in range(left, right):
                    if secs[3, s] == regs[4] and secs[1, s] > 0:
                        # not below what it was; on top of `b` where that was placed
                        least = secs[0, s]
                        if not lifted and first[b] <= s < last[b]:
                            least = buffers[0, b] + size[b]
                        low = 1 << 62
                        k = sec_ptr[s]
                        while low > least and k < sec_ptr[s] + secs[1, s]:
                            low = min(low, buffers[0, member[0, k]])
                            k += 1
                        if low != secs[0, s]:
                            trail[n_trail, 0] = 3
                            trail[n_trail, 1] = s
                            trail[n_trail, 2] = secs[0, s]
                            n_trail += 1
                            secs[0, s] = low
                            if low + secs[2, s] > ceiling[s]:
                                weight[s] += learn
                                regs[8] = min(regs[8], low + secs[2, s] - ceiling[s])
                                failed = 1
                                who = s
                                break
            if failed == 0:
                break
            # what it follows from
            if failed != 3:
                regs[5] += 1
                for w in range((depth >> 5) + 1):
                    causes[w] = 0
            n_todo = 0
            if failed == 1:
                for k in range(sec_ptr[who], sec_ptr[who] + secs[1, who]):
                    todo[0, n_todo] = member[0, k]
                    todo[1, n_todo] = secs[0, who]
                    n_todo += 1
            elif failed == 2:
                causes[(depth - 1) >> 5] |= 1 << ((depth - 1) & 31)
                todo[0, 0] = who
                todo[1, 0] = buffers[0, b] - size[who] + 1
                n_todo = 1
            elif failed == 3:
                todo[0, 0] = b
                todo[1, 0] = buffers[0, b]
                n_todo = 1
            else:
                causes[why >> 5] |= 1 << (why & 31)
            while True:
                explain(n_todo, size, buffers, decisions, rise_ptr, rises, lifts, todo, regs[5], causes)
                k = last_cause(depth, causes)
                if k < 0:
                    break
                # undo down to before decision k
                regs[3] += depth - 1 - k
                while depth > k:
                    depth -= 1
                    if decisions[depth, 1] == 0:
                        i = decisions[depth, 0]
                        buffers[2, i] = -1
                        for s in range(first[i], last[i]):
                            secs[1, s] += 1
                            secs[2, s] += size[i]
                while n_trail > decisions[k, 2]:
                    n_trail -= 1
                    i = trail[n_trail, 1]
                    if trail[n_trail, 0] == 3:
                        secs[0, i] = trail[n_trail, 2]
                    else:
                        if trail[n_trail, 0] != 2:
                            buffers[1, i] = trail[n_trail, 3]
                        else:
                            n_lifts -= 1
                        if trail[n_trail, 0] != 1:
                            buffers[0, i] = trail[n_trail, 2]
                            buffers[3, i] -= 1
                b = decisions[k, 0]
                if decisions[k, 1] == 0:
                    break
                # neither branch holds: the causes of both, and why it did not lie lower
                for w in range((k >> 5) + 1):
                    causes[w] |= kept[k, w]
                causes[k >> 5] &= ~(1 << (k & 31))
                todo[0, 0] = b
                todo[1, 0] = buffers[0, b]
                n_todo = 1
            if k < 0:
                status = 0
                break
            decisions[k, 1] = 1
            causes[k >> 5] &= ~(1 << (k & 31))
            for w in range((k >> 5) + 1):
                kept[k, w] = causes[w]
            depth = k + 1
            lifted = True
            why = k
    regs[0] = n_trail
    regs[1] = depth
    regs[2] = nodes
    regs[7] = n_lifts
    regs[6] = status
    return status
