"""Least activation peak over all legal execution orders, proven.

The state of a run is the set of ops that have run. Tensors that share bytes by views and ops in place are one
*group*; the bytes alive after a set of ops are those of the groups that were begun and are still wanted, whatever
the order within the set. So the least peak is a bottleneck path from the empty set to the full one.

Ops are numbered 0 to n - 1 in program order, without network inputs and stored parameters: those write nothing while
they run, and run first. A model of a graph is these columns:

pred_ptr, pred_idx  ops that have to run before an op: producers of its inputs, readers of bytes it overwrites
latest              (n + 1,) the smallest, over an op and all later ones, of the last op that has to run before it
use_ptr, use_idx    groups that an op reads, each once
takes               per use: the op may write into this group if nothing else wants it any more
user_ptr, user_idx  ops that read a group, ascending; last comes `n`, which never runs, where the group is kept for good
size, birth         bytes of a group; the op that begins it, -1 for network inputs
fresh, stays        bytes that an op allocates, and how many of them anybody wants afterwards
extra               bytes that an op takes beside its outputs while it runs

A set of ops is written as ``base``, the first op that has not run, and two words of 62 bits for the ops from there
on; ``top`` is the op behind the last that has run.
"""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I32, I64


@kernel
def has_run(op: int, base: int, low: int, high: int) -> bool:
    """Whether an op is in a set."""
    k = op - base
    if k < 0:
        return True
    if k < 62:
        return (low >> k) & 1 == 1
    return k < 124 and (high >> (k - 62)) & 1 == 1


@kernel
def is_ready(op: int, base: int, low: int, high: int, pred_ptr: I64, pred_idx: I64) -> bool:
    """Whether an op has not run and everything before it has."""
    if has_run(op, base, low, high):
        return False
    e = pred_ptr[op]
    while e < pred_ptr[op + 1] and has_run(pred_idx[e], base, low, high):
        e += 1
    ready: bool = e == pred_ptr[op + 1]
    return ready


@kernel
def cost_of(
    op: int,
    base: int,
    low: int,
    high: int,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
) -> tuple[int, int]:
    """Bytes that an op adds while it runs after a set, and once it has run."""
    rise = fresh[op]
    change = stays[op]
    for e in range(use_ptr[op], use_ptr[op + 1]):
        g = use_idx[e]
        u = user_ptr[g + 1] - 1
        # The last reader in the program is the likeliest to be still to come.
        while u >= user_ptr[g] and (user_idx[u] == op or has_run(user_idx[u], base, low, high)):
            u -= 1
        if u < user_ptr[g]:
            change -= size[g]
            if takes[e]:
                rise = 0
    return rise + extra[op], change


@kernel
def settle(
    base: int,
    low: int,
    high: int,
    top: int,
    live: int,
    last: int,
    bound: int,
    pred_ptr: I64,
    pred_idx: I64,
    latest: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
) -> tuple[int, int, int, int, int]:
    """Run every op that stays within `bound` and leaves no more bytes alive than before, until none is left.

    If any completion of a set stays within the bound, one does that runs such an op first. Moved forward, the op frees
    at most as much as where it was, since more ops were done there; but it frees no less than it adds already here, so
    all sets between have no more alive than before. The others then allocate no more than before: what they may take
    over is no later out of use.
    """
    moved = True
    while moved:
        moved = False
        k = base
        while k < last and latest[k] < top:
            if k - base < 124 and is_ready(k, base, low, high, pred_ptr, pred_idx):
                rise, change = cost_of(k, base, low, high, use_ptr, use_idx, takes, user_ptr, user_idx, size, fresh,
                                       stays, extra)  # fmt: skip
                if change <= 0 and live + rise <= bound:
                    live += change
                    top = max(top, k + 1)
                    base, low, high = with_op(k, base, low, high)
                    moved = True
            k += 1
    return base, low, high, top, live


@kernel
def with_op(op: int, base: int, low: int, high: int) -> tuple[int, int, int]:
    """Return a set and one op more, with ``base`` moved to the first op that has not run."""
    k = op - base
    if k < 62:
        low |= 1 << k
    else:
        high |= 1 << (k - 62)
    while low & 1:
        low = (low >> 1) | ((high & 1) << 61)
        high >>= 1
        base += 1
    return base, low, high


@kernel
def find(
    base: int, low: int, high: int, stamp: int, mask: int, table: I64, bases: I64, lows: I64, highs: I64
) -> tuple[int, int]:
    """Return the state that holds a set, or -1, and the place in the table that is or becomes its own."""
    h = (low & 0x7FFFFFFF) * 1640531527 ^ (low >> 31) * 1812433253 ^ (high & 0x7FFFFFFF) * 1566083941
    h ^= (high >> 31) * 1099087573 ^ (base & 0x7FFFFFFF) * 2057273503
    h ^= h >> 31
    h = (h & 0x7FFFFFFF) * 1640531527
    h = (h >> 29) & mask
    while table[h] >= stamp:
        s = table[h] - stamp
        if lows[s] == low and bases[s] == base and highs[s] == high:
            return s, h
        h = (h + 1) & mask
    return -1, h


@kernel
def heap_push(n: int, key: int, value: int, keys: I64, values: I64) -> None:
    """Put an entry into a heap of `n` entries, the smallest key first."""
    i = n
    while i > 0 and keys[(i - 1) >> 1] > key:
        keys[i] = keys[(i - 1) >> 1]
        values[i] = values[(i - 1) >> 1]
        i = (i - 1) >> 1
    keys[i] = key
    values[i] = value


@kernel
def heap_pop(n: int, keys: I64, values: I64) -> None:
    """Drop the first of the `n` entries of a heap."""
    key = keys[n - 1]
    value = values[n - 1]
    i = 0
    child = 1
    while child < n - 1:
        if child + 1 < n - 1 and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[i] = keys[child]
        values[i] = values[child]
        i = child
        child = 2 * i + 1
    keys[i] = key
    values[i] = value


@kernel
def search(
    first: int,
    last: int,
    alive: int,
    bound: int,
    ceiling: int,
    limit: int,
    stamp: int,
    mask: int,
    pred_ptr: I64,
    pred_idx: I64,
    latest: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
    bases: I64,
    lows: I64,
    highs: I64,
    tops: I64,
    lives: I64,
    parents: I64,
    moves: I64,
    tried: I64,
    stack: I64,
    keys: I64,
    values: I64,
    table: I64,
    found: I64,
) -> tuple[int, int, int, int]:
    """Find the least level at which ops ``first .. last - 1`` can run, all earlier ones done and `alive` bytes alive.

    Levels below `bound` and from `ceiling` on are not told apart. At each level every set that can be reached is
    visited, the deepest first; a set waits for the level at which its next op can run.

    Parameters
    ----------
    limit : int
        Sets that may be kept; the arrays of states have as many entries, `table` has ``mask + 1``, twice that or more.
    stamp : int
        Entries of `table` below it are old; the caller adds the number of sets kept for the next search.
    found : (124, 3)
        Scratch.

    Returns
    -------
    (end, level, sure, n_states)
        `end` 0: state ``n_states - 1`` is the whole, at `level`. 1: no order stays below `ceiling`. 2: out of states,
        and undecided from `level` on. No order stays below `sure`, which is less than `level` where an op was ready
        that lies further from ``base`` than two words reach.

    Notes
    -----
    O(sets x ready ops x their inputs).
    """
    base, low, high, top, live = settle(first, 0, 0, first, alive, last, bound, pred_ptr, pred_idx, latest, use_ptr,
                                        use_idx, takes, user_ptr, user_idx, size, fresh, stays, extra)  # fmt: skip
    bases[0] = base
    lows[0] = low
    highs[0] = high
    tops[0] = top
    lives[0] = live
    parents[0] = -1
    moves[0] = -1
    tried[0] = -1
    if base == last:
        return 0, bound, bound, 1
    _, h = find(base, low, high, stamp, mask, table, bases, lows, highs)
    table[h] = stamp
    n = 1
    stack[0] = 0
    n_stack = 1
    n_heap = 0
    sure = -1
    while True:
        if n_stack == 0:
            if n_heap == 0:
                return 1, ceiling, ceiling if sure < 0 else sure, n
            bound = keys[0]
            while n_heap > 0 and keys[0] == bound:
                stack[n_stack] = values[0]
                n_stack += 1
                heap_pop(n_heap, keys, values)
                n_heap -= 1
        n_stack -= 1
        s = stack[n_stack]
        base = bases[s]
        low = lows[s]
        high = highs[s]
        top = tops[s]
        live = lives[s]
        before = tried[s]
        tried[s] = bound
        wait = ceiling
        n_found = 0
        k = base
        while k < last and latest[k] < top:
            if is_ready(k, base, low, high, pred_ptr, pred_idx):
                if k - base >= 124:
                    if sure < 0:
                        sure = bound
                    k += 1
                    continue
                rise, change = cost_of(k, base, low, high, use_ptr, use_idx, takes, user_ptr, user_idx, size, fresh,
                                       stays, extra)  # fmt: skip
                now = live + rise
                if now > bound:
                    wait = min(wait, now)
                elif change <= 0:
                    found[0, 0] = k
                    found[0, 1] = live + change
                    n_found = 1
                    wait = ceiling
                    break
                elif now > before:
                    # the set that leaves least alive is looked at first
                    i = n_found
                    while i > 0 and found[i - 1, 1] < live + change:
                        found[i, 0] = found[i - 1, 0]
                        found[i, 1] = found[i - 1, 1]
                        i -= 1
                    found[i, 0] = k
                    found[i, 1] = live + change
                    n_found += 1
            k += 1
        if wait < ceiling:
            heap_push(n_heap, wait, s, keys, values)
            n_heap += 1
        for i in range(n_found):
            k = found[i, 0]
            b, lo, hi = with_op(k, base, low, high)
            b, lo, hi, t, after = settle(b, lo, hi, max(top, k + 1), found[i, 1], last, bound, pred_ptr, pred_idx,
                                         latest, use_ptr, use_idx, takes, user_ptr, user_idx, size, fresh, stays,
                                         extra)  # fmt: skip
            old, h = find(b, lo, hi, stamp, mask, table, bases, lows, highs)
            if old >= 0:
                continue
            if n == limit:
                return 2, bound, bound if sure < 0 else sure, n
            bases[n] = b
            lows[n] = lo
            highs[n] = hi
            tops[n] = t
            lives[n] = after
            parents[n] = s
            moves[n] = k
            tried[n] = -1
            table[h] = stamp + n
            n += 1
            if b == last:
                return 0, bound, bound if sure < 0 else sure, n
            stack[n_stack] = n - 1
            n_stack += 1


@kernel
def trace(
    goal: int,
    first: int,
    bound: int,
    pred_ptr: I64,
    pred_idx: I64,
    latest: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
    bases: I64,
    lows: I64,
    highs: I64,
    tops: I64,
    parents: I64,
    moves: I64,
    alive: int,
    path: I64,
    sequence: I64,
) -> int:
    """Write the ops of the way to state `goal` into `sequence`, from its entry `first` on.

    Between two states lie the move from the first and ops that :func:`settle` ran; which of those can run, and that
    they stay within `bound`, does not depend on the order in which they do. Returns the peak.
    """
    n = 0
    s = goal
    while s >= 0:
        path[n] = s
        n += 1
        s = parents[s]
    base = first
    low = 0
    high = 0
    top = first
    live = alive
    at = first
    peak = alive
    for i in range(n - 1, -1, -1):
        s = path[i]
        k = moves[s]
        if k >= 0:
            rise, change = cost_of(k, base, low, high, use_ptr, use_idx, takes, user_ptr, user_idx, size, fresh, stays,
                                   extra)  # fmt: skip
            peak = max(peak, live + rise)
            live += change
            sequence[at] = k
            at += 1
            top = max(top, k + 1)
            base, low, high = with_op(k, base, low, high)
        moved = True
        while moved:
            moved = False
            k = base
            while k < tops[s] and latest[k] < top:
                if has_run(k, bases[s], lows[s], highs[s]) and is_ready(k, base, low, high, pred_ptr, pred_idx):
                    rise, change = cost_of(k, base, low, high, use_ptr, use_idx, takes, user_ptr, user_idx, size, fresh,
                                           stays, extra)  # fmt: skip
                    if change <= 0 and live + rise <= bound:
                        peak = max(peak, live + rise)
                        live += change
                        sequence[at] = k
                        at += 1
                        top = max(top, k + 1)
                        base, low, high = with_op(k, base, low, high)
                        moved = True
                k += 1
    return peak


@kernel
def model(
    n_ops: int,
    delays: bool,
    in_ptr: I64,
    in_idx: I64,
    out_ptr: I64,
    share: I64,
    held: I64,
    nbytes: I64,
    scratch: I64,
    before_ptr: I64,
    before_idx: I64,
    order: I64,
    group: I64,
    place: I64,
    maker: I64,
    cursor: I64,
    readers: I64,
    reader: I64,
    carried: I64,
    op_of: I64,
    pred_ptr: I64,
    pred_idx: I64,
    latest: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
    birth: I64,
) -> tuple[int, int, int]:
    """Fill the model of a graph, its ops numbered as they stand in `order`; see the top of this file.

    With `delays`, an op that only one other waits for is part of that one, and runs right before it, if it adds bytes,
    never frees any and takes no scratch: the sigmoid of a stored parameter, say. Moved forward past another op, it
    leaves less alive while that runs, and afterwards as much as before.

    `share` and `held` are what ``liveness.live_ranges`` takes. ``op_of`` (n,) names the op at each number of the model;
    ``place`` (n_ops,) is its inverse, -1 for what runs first and -2 - k for what is part of op k. ``user_idx`` has as
    many entries as edges and tensors together, ``pred_idx`` as edges and `before_idx`. Scratch: ``group``, ``maker``,
    ``cursor`` (n_tensors), ``readers``, ``reader``, ``carried`` (n_ops + 1).

    Returns
    -------
    (n, alive, start)
        Ops of the model; bytes of network inputs that somebody reads or that are kept; bytes of all of them, which
        are alive during the first step.

    Notes
    -----
    O(n_edges).
    """
    n_tensors = out_ptr[n_ops]
    for op in range(n_ops):
        readers[op] = 0
        reader[op] = -1
        carried[op] = 0
        for t in range(out_ptr[op], out_ptr[op + 1]):
            maker[t] = op
    if delays:
        for op in range(n_ops):
            for e in range(in_ptr[op], in_ptr[op + 1]):
                p = maker[in_idx[e]]
                if reader[p] != op:
                    reader[p] = op
                    readers[p] += 1
            for e in range(before_ptr[op], before_ptr[op + 1]):
                p = before_idx[e]
                if reader[p] != op:
                    reader[p] = op
                    readers[p] += 1
    for t in range(n_tensors + 1):
        user_ptr[t] = 0
    n = 0
    for i in range(n_ops):
        op = order[i]
        start = in_ptr[op]
        end = in_ptr[op + 1]
        written = out_ptr[op]
        view = share[op] == 1
        part = readers[op] == 1 and scratch[op] == 0 and out_ptr[op + 1] == written + 1
        for e in range(start, end):
            x = in_idx[e]
            stored = held[group[x]] & 1 == 1
            part = part and (stored or (view and place[maker[x]] < -1))
        if start == end or before_ptr[op] < before_ptr[op + 1]:
            part = False
        if start == end and written < out_ptr[op + 1] and held[written] & 3:
            place[op] = -1
        elif part:
            place[op] = -2
        else:
            place[op] = n
            op_of[n] = op
            n += 1
        for t in range(written, out_ptr[op + 1]):
            g = group[in_idx[start]] if view else t
            group[t] = g
            size[t] = 0 if held[t] & 1 or g != t else nbytes[t]
            if part:
                carried[op] += size[t]
            # until a group's readers are counted, its entry says whether it is kept for good
            if held[t] & 4 and held[g] & 1 == 0:
                user_ptr[g + 1] = 1
        if part:
            carried[reader[op]] += carried[op]
    for i in range(n_ops - 1, -1, -1):
        op = order[i]
        if place[op] == -2:
            home = place[reader[op]]
            place[op] = -2 - home if home >= 0 else home
        for t in range(out_ptr[op], out_ptr[op + 1]):
            birth[t] = place[op] if place[op] >= -1 else -2 - place[op]
            cursor[t] = user_ptr[t + 1]
    m = 0
    n_pred = 0
    pred_ptr[0] = 0
    use_ptr[0] = 0
    for k in range(n):
        op = op_of[k]
        mode = share[op]
        written = out_ptr[op]
        for e in range(in_ptr[op], in_ptr[op + 1]):
            x = in_idx[e]
            if place[maker[x]] >= 0:
                pred_idx[n_pred] = place[maker[x]]
                n_pred += 1
            g = group[x]
            if held[g] & 1:
                continue
            may = e - in_ptr[op] < mode - 1
            if mode < 0 and e - in_ptr[op] < 61:
                may = (~mode >> (e - in_ptr[op] + 1)) & 1 == 1
            smaller = mode < 0 and ~mode & 1 and nbytes[g] > nbytes[written]
            may = may and nbytes[x] == nbytes[g] and (smaller or nbytes[g] == nbytes[written])
            i = use_ptr[k]
            while i < m and use_idx[i] != g:
                i += 1
            if i == m:
                use_idx[m] = g
                takes[m] = 0
                user_ptr[g + 1] += 1
                m += 1
            if may:
                takes[i] = 1
        for e in range(before_ptr[op], before_ptr[op + 1]):
            if place[before_idx[e]] >= 0:
                pred_idx[n_pred] = place[before_idx[e]]
                n_pred += 1
        use_ptr[k + 1] = m
        pred_ptr[k + 1] = n_pred
    alive = 0
    everything = 0
    for t in range(n_tensors):
        if held[t] & 3 == 2:
            everything += nbytes[t]
            if user_ptr[t + 1]:
                alive += nbytes[t]
        user_ptr[t + 1] += user_ptr[t]
        if cursor[t]:
            user_idx[user_ptr[t + 1] - 1] = n
        cursor[t] = user_ptr[t]
    for k in range(n):
        for e in range(use_ptr[k], use_ptr[k + 1]):
            user_idx[cursor[use_idx[e]]] = k
            cursor[use_idx[e]] += 1
    latest[n] = n
    for k in range(n - 1, -1, -1):
        op = op_of[k]
        fresh[k] = 0
        stays[k] = carried[op]
        extra[k] = scratch[op] + carried[op]
        for t in range(out_ptr[op], out_ptr[op + 1]):
            fresh[k] += size[t]
            if user_ptr[t + 1] > user_ptr[t]:
                stays[k] += size[t]
        last = -1
        for e in range(pred_ptr[k], pred_ptr[k + 1]):
            last = max(last, pred_idx[e])
        latest[k] = min(last, latest[k + 1])
    return n, alive, everything


@kernel
def survey(
    n: int,
    alive: int,
    start: int,
    pred_ptr: I64,
    pred_idx: I64,
    latest: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
    birth: I64,
    successor: I64,
    level: I64,
    need: I64,
    part: I64,
) -> tuple[int, int]:
    """Run a model in program order and bound every order from below; return ``(bound, peak of the program order)``.

    An op that every earlier op has to precede and every later one to follow runs after the same set in every order, so
    the parts between such ops are apart: ``part[k]`` is the end of the part that begins at ``k``, 0 elsewhere. What is
    alive all through a part counts at each of its ops, with what the op itself reads, writes and takes.
    ``level``, ``need`` (n + 1,): bytes alive before an op and while it runs; ``successor`` is scratch.

    Notes
    -----
    O(n_edges).
    """
    live = alive
    peak = start
    for k in range(n):
        rise, change = cost_of(k, k, 0, 0, use_ptr, use_idx, takes, user_ptr, user_idx, size, fresh, stays,
                               extra)  # fmt: skip
        level[k] = live
        need[k] = live + rise
        live += change
        peak = max(peak, need[k])
        successor[k] = n
        part[k] = 0
        for e in range(pred_ptr[k], pred_ptr[k + 1]):
            if successor[pred_idx[e]] == n:
                successor[pred_idx[e]] = k
    level[n] = live
    begin = 0
    reach = -1
    bound = max(start, live)
    for i in range(1, n + 1):
        reach = max(reach, successor[i - 1])
        if i < n and (reach > i or latest[i + 1] < i):
            continue
        part[begin] = i
        bound = max(bound, level[begin])
        if i == begin + 1:
            bound = max(bound, need[begin])
        else:
            through = level[begin]
            for k in range(begin, i):
                for e in range(use_ptr[k], use_ptr[k + 1]):
                    g = use_idx[e]
                    if birth[g] < begin and user_idx[user_ptr[g + 1] - 1] == k:
                        through -= size[g]
            for k in range(begin, i):
                least = through + extra[k]
                taken = False
                for e in range(use_ptr[k], use_ptr[k + 1]):
                    g = use_idx[e]
                    # what is part of op k is in its extra bytes
                    if birth[g] != k and (birth[g] >= begin or user_idx[user_ptr[g + 1] - 1] < i):
                        least += size[g]
                    taken = taken or takes[e] == 1
                bound = max(bound, least if taken else least + fresh[k])
        begin = i
    return bound, peak


@kernel
def solve(
    at: int,
    n: int,
    bound: int,
    peak: int,
    limit: int,
    stamp: int,
    mask: int,
    pred_ptr: I64,
    pred_idx: I64,
    latest: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
    level: I64,
    need: I64,
    part: I64,
    bases: I64,
    lows: I64,
    highs: I64,
    tops: I64,
    lives: I64,
    parents: I64,
    moves: I64,
    tried: I64,
    stack: I64,
    keys: I64,
    values: I64,
    table: I64,
    found: I64,
    sequence: I64,
) -> tuple[int, int, int]:
    """Find the best order of each part from op `at` on, after :func:`survey`; `sequence` first counts from 0.

    `bound` is what no order goes below and `peak` what the parts so far (and `bound`) come to. A part that stays within
    `peak` as it is numbered is left alone; so is one for which the states do not reach.

    Returns
    -------
    (bound, peak, stamp)
        The order is optimal if ``bound == peak``.
    """
    while at < n:
        end = part[at]
        ceiling = peak
        for k in range(at, end):
            ceiling = max(ceiling, need[k])
        if ceiling > peak:
            what, reached, sure, n_states = search(
                at, end, level[at], peak, ceiling, limit, stamp, mask, pred_ptr, pred_idx, latest, use_ptr, use_idx,
                takes, user_ptr, user_idx, size, fresh, stays, extra, bases, lows, highs, tops, lives, parents, moves,
                tried, stack, keys, values, table, found)  # fmt: skip
            stamp += n_states
            if what == 0:
                trace(n_states - 1, at, reached, pred_ptr, pred_idx, latest, use_ptr, use_idx, takes, user_ptr,
                      user_idx, size, fresh, stays, extra, bases, lows, highs, tops, parents, moves, level[at], stack,
                      sequence)  # fmt: skip
            else:
                reached = ceiling
            # A search that starts higher up soon finds what it leaves undecided how much lower one could go.
            under = max(sure, peak)
            tries = 8 if what != 0 and sure < ceiling else 0
            while tries > 0 and reached - under > 1:
                tries -= 1
                middle = under + (reached - under) // 2
                what, _, proof, n_states = search(
                    at, end, level[at], middle, middle + 1, min(limit, 65536), stamp, mask, pred_ptr, pred_idx, latest,
                    use_ptr, use_idx, takes, user_ptr, user_idx, size, fresh, stays, extra, bases, lows, highs, tops,
                    lives, parents, moves, tried, stack, keys, values, table, found)  # fmt: skip
                stamp += n_states
                if what == 0:
                    reached = trace(n_states - 1, at, middle, pred_ptr, pred_idx, latest, use_ptr, use_idx, takes,
                                    user_ptr, user_idx, size, fresh, stays, extra, bases, lows, highs, tops, parents,
                                    moves, level[at], stack, sequence)  # fmt: skip
                    reached = max(reached, peak)
                else:
                    under = middle
                    if proof > middle:
                        sure = max(sure, proof)
            # below the peak so far nothing was told apart
            if sure > peak:
                bound = max(bound, sure)
            peak = reached
        at = end
    return bound, peak, stamp


@kernel
def settle_small(
    done: int,
    live: int,
    m: int,
    bound: int,
    first: int,
    before: I64,
    own_ptr: I64,
    others: I64,
    freed: I64,
    may: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
) -> tuple[int, int]:
    """Do what :func:`settle` does, for a part of at most 62 ops; a set is one word."""
    moved = True
    while moved:
        moved = False
        for i in range(m):
            if (done >> i) & 1 == 0 and before[i] & ~done == 0:
                rise = fresh[first + i]
                change = stays[first + i]
                for e in range(own_ptr[i], own_ptr[i + 1]):
                    if others[e] & ~done == 0:
                        change -= freed[e]
                        if may[e]:
                            rise = 0
                if change <= 0 and live + rise + extra[first + i] <= bound:
                    live += change
                    done |= 1 << i
                    moved = True
    return done, live


@kernel
def search_small(
    first: int,
    last: int,
    alive: int,
    bound: int,
    ceiling: int,
    limit: int,
    stamp: int,
    mask: int,
    pred_ptr: I64,
    pred_idx: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
    before: I64,
    own_ptr: I64,
    others: I64,
    freed: I64,
    may: I64,
    sets: I64,
    lives: I64,
    tried: I64,
    stack: I64,
    keys: I64,
    values: I64,
    table: I64,
    found: I64,
) -> tuple[int, int, int]:
    """Do what :func:`search` does, for a part of at most 62 ops and without the way; ``(end, level, n_states)``.

    A part of a dozen ops takes a third of the time. Scratch: ``before``, ``own_ptr`` (63,); ``others``, ``freed``,
    ``may`` as `use_idx`.
    """
    m = last - first
    n_own = 0
    for i in range(m):
        k = first + i
        bits = 0
        for e in range(pred_ptr[k], pred_ptr[k + 1]):
            if pred_idx[e] >= first:
                bits |= 1 << (pred_idx[e] - first)
        before[i] = bits
        own_ptr[i] = n_own
        for e in range(use_ptr[k], use_ptr[k + 1]):
            g = use_idx[e]
            # the last reader comes last, so what outlives the part is seen at once
            if user_idx[user_ptr[g + 1] - 1] >= last:
                continue
            bits = 0
            for u in range(user_ptr[g], user_ptr[g + 1]):
                if user_idx[u] >= first and user_idx[u] != k:
                    bits |= 1 << (user_idx[u] - first)
            others[n_own] = bits
            freed[n_own] = size[g]
            may[n_own] = takes[e]
            n_own += 1
    own_ptr[m] = n_own
    if m < 30:
        # a table no larger than sets there are stays in the processor's cache
        mask = min(mask, (2 << m) - 1)
    whole = (1 << m) - 1
    done, live = settle_small(0, alive, m, bound, first, before, own_ptr, others, freed, may, fresh, stays,
                              extra)  # fmt: skip
    if done == whole:
        return 0, bound, 0
    sets[0] = done
    lives[0] = live
    tried[0] = -1
    stack[0] = 0
    n = 1
    n_stack = 1
    n_heap = 0
    while True:
        if n_stack == 0:
            if n_heap == 0:
                return 1, ceiling, n
            bound = keys[0]
            while n_heap > 0 and keys[0] == bound:
                stack[n_stack] = values[0]
                n_stack += 1
                heap_pop(n_heap, keys, values)
                n_heap -= 1
        n_stack -= 1
        s = stack[n_stack]
        done = sets[s]
        live = lives[s]
        earlier = tried[s]
        tried[s] = bound
        wait = ceiling
        n_found = 0
        for i in range(m):
            if (done >> i) & 1 or before[i] & ~done:
                continue
            rise = fresh[first + i]
            change = stays[first + i]
            for e in range(own_ptr[i], own_ptr[i + 1]):
                if others[e] & ~done == 0:
                    change -= freed[e]
                    if may[e]:
                        rise = 0
            now = live + rise + extra[first + i]
            if now > bound:
                wait = min(wait, now)
            elif change <= 0:
                found[0, 0] = i
                found[0, 1] = live + change
                n_found = 1
                wait = ceiling
                break
            elif now > earlier:
                j = n_found
                while j > 0 and found[j - 1, 1] < live + change:
                    found[j, 0] = found[j - 1, 0]
                    found[j, 1] = found[j - 1, 1]
                    j -= 1
                found[j, 0] = i
                found[j, 1] = live + change
                n_found += 1
        if wait < ceiling:
            heap_push(n_heap, wait, s, keys, values)
            n_heap += 1
        for j in range(n_found):
            after, left = settle_small(done | 1 << found[j, 0], found[j, 1], m, bound, first, before, own_ptr, others,
                                       freed, may, fresh, stays, extra)  # fmt: skip
            if after == whole:
                return 0, bound, n
            h = (((after & 0x7FFFFFFF) * 1640531527 ^ (after >> 31) * 1812433253) >> 13) & mask
            while table[h] >= stamp and sets[table[h] - stamp] != after:
                h = (h + 1) & mask
            if table[h] >= stamp:
                continue
            if n == limit:
                return 2, bound, n
            sets[n] = after
            lives[n] = left
            tried[n] = -1
            table[h] = stamp + n
            n += 1
            stack[n_stack] = n - 1
            n_stack += 1


@kernel
def minimum_peaks(
    graph_ptr: I64,
    in_ptr: I64,
    in_idx: I32,
    nbytes: I64,
    share: I32,
    held: I32,
    scratch: I64,
    limit: int,
    mask: int,
    needs: I64,
    node_ptr: I64,
    edges: I64,
    modes: I64,
    holds: I64,
    own_bytes: I64,
    own_scratch: I64,
    root: I64,
    reads: I64,
    before_ptr: I64,
    before_idx: I64,
    group: I64,
    place: I64,
    maker: I64,
    cursor: I64,
    readers: I64,
    reader: I64,
    carried: I64,
    op_of: I64,
    pred_ptr: I64,
    pred_idx: I64,
    latest: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    fresh: I64,
    stays: I64,
    extra: I64,
    birth: I64,
    successor: I64,
    level: I64,
    need: I64,
    part: I64,
    before: I64,
    own_ptr: I64,
    others: I64,
    freed: I64,
    may: I64,
    bases: I64,
    lows: I64,
    highs: I64,
    tops: I64,
    lives: I64,
    parents: I64,
    moves: I64,
    tried: I64,
    stack: I64,
    keys: I64,
    values: I64,
    table: I64,
    found: I64,
    sequence: I64,
    peaks: I64,
    bounds: I64,
) -> int:
    """Least peak of each of many graphs whose nodes write one tensor each; ``plan.order.minimum_peaks`` words it all.

    Fills ``peaks`` and ``bounds``; returns -1, or the first node that is not well formed. `needs` (6,): inputs
    that each code of `share` needs. The rest is scratch for the largest graph, but ``node_ptr`` counts from 0 and
    ``table`` (mask + 1,) holds -1. Pointers need not begin with 0.
    """
    stamp = 0
    first_node = graph_ptr[0]
    for g in range(graph_ptr.shape[0] - 1):
        origin = graph_ptr[g] - first_node
        n_ops = graph_ptr[g + 1] - graph_ptr[g]
        first_edge = in_ptr[origin]
        total = 0
        overwrites = False
        stored = False
        reads[0] = 0
        for k in range(n_ops):
            node: int = origin + k
            code = share[node]
            hold = held[node]
            bytes_here = nbytes[node]
            extra_here = scratch[node]
            end = in_ptr[node + 1] - first_edge
            if end < reads[k] or end > edges.shape[0] or bytes_here < 0 or extra_here < 0 or hold < 0 or hold > 7:
                return node
            if code < 0 or code > 5 or end - reads[k] < needs[code] or (hold & 2 and end > reads[k]):
                return node
            for e in range(reads[k], end):
                x = in_idx[first_edge - in_ptr[0] + e]
                if x < 0 or x >= k:
                    return node
                edges[e] = x
            # each addend is checked, so that the sum cannot wrap before it is seen to be too large
            if bytes_here >= 1 << 61 or extra_here >= 1 << 61:
                return node
            total += bytes_here
            if total >= 1 << 61:
                return node
            reads[k + 1] = end
            modes[k] = 1 if code == 4 else 0 if code == 5 else code
            holds[k] = hold
            own_bytes[k] = bytes_here
            own_scratch[k] = extra_here
            root[k] = root[edges[reads[k]]] if code == 1 else k
            overwrites = overwrites or code >= 4
            stored = stored or hold & 1 == 1
        for k in range(n_ops + 1):
            before_ptr[k] = 0
        if overwrites:
            n_before = 0
            for k in range(n_ops):
                before_ptr[k] = n_before
                if share[origin + k] < 4:
                    continue
                target = root[edges[reads[k]]]
                for r in range(k):
                    overlaps = False
                    for e in range(reads[r], reads[r + 1]):
                        overlaps = overlaps or root[edges[e]] == target
                    if overlaps and share[origin + r] != 1:
                        before_idx[n_before] = r
                        n_before += 1
            before_ptr[n_ops] = n_before
        n, alive, start = model(n_ops, stored, reads, edges, node_ptr, modes, holds, own_bytes, own_scratch, before_ptr,
                                before_idx, node_ptr, group, place, maker, cursor, readers, reader, carried, op_of,
                                pred_ptr, pred_idx, latest, use_ptr, use_idx, takes, user_ptr, user_idx, size, fresh,
                                stays, extra, birth)  # fmt: skip
        bound, peak = survey(n, alive, start, pred_ptr, pred_idx, latest, use_ptr, use_idx, takes, user_ptr, user_idx,
                             size, fresh, stays, extra, birth, successor, level, need, part)  # fmt: skip
        if peak > bound:
            at = 0
            peak = bound
            while at < n:
                end = part[at]
                ceiling = peak
                for k in range(at, end):
                    ceiling = max(ceiling, need[k])
                if ceiling > peak:
                    if end - at > 62:
                        break
                    what, level_found, n_states = search_small(
                        at, end, level[at], peak, ceiling, limit, stamp, mask, pred_ptr, pred_idx, use_ptr, use_idx,
                        takes, user_ptr, user_idx, size, fresh, stays, extra, before, own_ptr, others, freed, may, lows,
                        lives, tried, stack, keys, values, table, found)  # fmt: skip
                    stamp += n_states
                    if what == 2:
                        break
                    peak = level_found
                    bound = peak
                at = end
            for k in range(at, n):
                sequence[k] = k
            bound, peak, stamp = solve(at, n, bound, peak, limit, stamp, mask, pred_ptr, pred_idx, latest,
                                          use_ptr, use_idx, takes, user_ptr, user_idx, size, fresh, stays, extra, level,
                                          need, part, bases, lows, highs, tops, lives, parents, moves, tried, stack,
                                          keys, values, table, found, sequence)  # fmt: skip
        peaks[g] = peak
        bounds[g] = bound
    return -1
