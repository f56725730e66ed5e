"""Search for the order of least peak, over blocks of ops.

Ops that some best order runs one right after the other are one *block*, see :func:`contract`. A block has *steps*, most
one or two; bytes of other blocks can be freed only between them. The columns of blocks:

pred_ptr, pred_idx  blocks that have to run before a block, each once
next_ptr, next_idx  blocks that wait for it, each once
step_ptr            steps of a block
rise, least         bytes that a step adds while it runs, and how few if it may write into an input that dies there
gain                bytes that it adds once it has run, before anything is freed
use_ptr, use_idx    per step: groups of bytes that nobody in the block wants afterwards
takes               per use: the step may write into this group if nothing else wants it any more
size, n_users       per group: bytes; blocks that use it, and one more where it is kept for good

Blocks are numbered so that each comes after those that it waits for. A set of blocks is written as ``base``, the first
that has not run, and words of 62 bits for those from there on. The cursor is one set taken apart: ``waiting`` (blocks
that a block still waits for), ``wanted`` (users of a group that have not run), ``ran``, and the ready blocks in
``ready``, with their places in ``where``. One goes from set to set by running and undoing blocks.
"""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64


@kernel
def root_of(op: int, root: I64) -> int:
    """Return the op that stands for the block of an op, and shorten the way there."""
    while root[op] != op:
        root[op] = root[root[op]]
        op = root[op]
    return op


@kernel
def may_delay(
    u: int,
    v: int,
    stamp: int,
    n: int,
    first_step: I64,
    next_step: I64,
    first_use: I64,
    next_use: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    size: I64,
    mark: I64,
) -> bool:
    """Whether block `u`, for which nobody waits before `v`, may be delayed until right before `v`.

    So it is if it never frees more than it adds, and `v` takes as much as `u` took, whatever else has run.
    """
    low = 0
    before = 0
    s = first_step[v]
    while s >= 0:
        low = max(low, before + least[s])
        before += gain[s]
        e = first_use[s]
        while e >= 0:
            g = use_idx[e]
            mark[g] = stamp
            if user_idx[user_ptr[g + 1] - 1] < n:
                before -= size[g]
            e = next_use[e]
        s = next_step[s]
    stays = 0
    freed = 0
    s = first_step[u]
    while s >= 0:
        stays += gain[s]
        e = first_use[s]
        while e >= 0:
            g = use_idx[e]
            if mark[g] != stamp and user_idx[user_ptr[g + 1] - 1] < n:
                freed += size[g]
            e = next_use[e]
        s = next_step[s]
    if freed > stays:
        return False
    before = 0
    s = first_step[u]
    while s >= 0:
        # without an input to write into, none of those that it may take is freed
        high = rise[s] + freed
        here = 0
        e = first_use[s]
        while e >= 0:
            g = use_idx[e]
            if mark[g] != stamp and user_idx[user_ptr[g + 1] - 1] < n:
                here += size[g]
                if takes[e]:
                    high -= size[g]
            e = next_use[e]
        if before + max(high, least[s] + freed) > stays + low:
            return False
        before += gain[s]
        freed -= here
        s = next_step[s]
    return True


@kernel
def may_follow(
    u: int,
    v: int,
    stamp: int,
    first_step: I64,
    next_step: I64,
    first_use: I64,
    next_use: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_idx: I64,
    takes: I64,
    weight: I64,
    user_ptr: I64,
    size: I64,
    mark: I64,
    node: I64,
) -> bool:
    """Whether block `v`, which waits for nobody after `u`, may run right after `u`.

    So it is if it never adds more than it frees, and takes no more than `u` took, whatever else has run.
    """
    s = first_step[u]
    stays = 0
    surely = 0
    while s >= 0:
        stays += gain[s]
        e = first_use[s]
        while e >= 0:
            g = use_idx[e]
            mark[g] = stamp
            node[g] = e
            if weight[e] == user_ptr[g + 1] - user_ptr[g]:
                surely += size[g]
            e = next_use[e]
        s = next_step[s]
    high = 0
    after = 0
    s = first_step[v]
    while s >= 0:
        now = rise[s]
        freed = 0
        e = first_use[s]
        while e >= 0:
            g = use_idx[e]
            inside = weight[e]
            if mark[g] == stamp:
                inside += weight[node[g]]
            if inside == user_ptr[g + 1] - user_ptr[g]:
                freed += size[g]
                if takes[e]:
                    now = least[s]
            e = next_use[e]
        high = max(high, after + now)
        after += gain[s] - freed
        s = next_step[s]
    if after > 0:
        return False
    before = 0
    s = first_step[u]
    while s >= 0:
        now = rise[s]
        freed = 0
        e = first_use[s]
        while e >= 0:
            g = use_idx[e]
            if weight[e] == user_ptr[g + 1] - user_ptr[g]:
                freed += size[g]
                if takes[e]:
                    now = least[s]
            elif takes[e]:
                now = min(now, least[s] + size[g])
            e = next_use[e]
        if before + now + surely >= stays + high:
            return True
        before += gain[s]
        surely -= freed
        s = next_step[s]
    return False


@kernel
def join(
    u: int,
    v: int,
    spot: int,
    stamp: int,
    root: I64,
    count: I64,
    place: I64,
    head: I64,
    tail: I64,
    link: I64,
    first_step: I64,
    last_step: I64,
    next_step: I64,
    first_use: I64,
    next_use: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_idx: I64,
    takes: I64,
    weight: I64,
    user_ptr: I64,
    size: I64,
    birth: I64,
    mark: I64,
    node: I64,
) -> int:
    """Make one block of `u` and `v`, which runs right after it, in the place `spot`; return what stands for it.

    What is born in the block and used by nobody else is freed for sure, so it needs no use any more; and steps between
    which nothing else is freed are one.
    """
    b = v
    if count[u] >= count[v]:
        b = u
    first = first_step[u]
    next_step[last_step[u]] = first_step[v]
    begin = head[u]
    end = tail[v]
    link[tail[u]] = head[v]
    root[u] = b
    root[v] = b
    count[b] = count[u] + count[v]
    place[b] = spot
    head[b] = begin
    tail[b] = end
    # of several uses of one group the last counts
    s = first
    while s >= 0:
        e = first_use[s]
        while e >= 0:
            g = use_idx[e]
            if mark[g] == stamp:
                weight[e] += weight[node[g]]
                weight[node[g]] = 0
            mark[g] = stamp
            node[g] = e
            e = next_use[e]
        s = next_step[s]
    earlier = -1
    s = first
    while s >= 0:
        kept = -1
        e = first_use[s]
        first_use[s] = -1
        while e >= 0:
            g = use_idx[e]
            after = next_use[e]
            if weight[e] > 0:
                # an input of the network has no birth
                if weight[e] == user_ptr[g + 1] - user_ptr[g] and birth[g] >= 0 and root_of(birth[g], root) == b:
                    gain[s] -= size[g]
                    if takes[e]:
                        rise[s] = least[s]
                else:
                    if kept < 0:
                        first_use[s] = e
                    else:
                        next_use[kept] = e
                    next_use[e] = -1
                    kept = e
            e = after
        if earlier < 0:
            earlier = s
            first = s
        elif first_use[earlier] < 0:
            # a step without uses takes its rise for sure, since what it may have written into is read again
            high = rise[earlier]
            rise[earlier] = max(high, gain[earlier] + rise[s])
            least[earlier] = rise[earlier]
            if first_use[s] >= 0:
                least[earlier] = max(high, gain[earlier] + least[s])
            gain[earlier] += gain[s]
            first_use[earlier] = first_use[s]
        elif first_use[s] < 0 and gain[earlier] + rise[s] <= least[earlier]:
            gain[earlier] += gain[s]
        else:
            next_step[earlier] = s
            earlier = s
        s = next_step[s]
    next_step[earlier] = -1
    first_step[b] = first
    last_step[b] = earlier
    return b


@kernel
def contract(
    n: int,
    n_groups: int,
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
    birth: I64,
    follow_ptr: I64,
    follow_idx: I64,
    root: I64,
    count: I64,
    place: I64,
    head: I64,
    tail: I64,
    link: I64,
    n_in: I64,
    n_out: I64,
    first_step: I64,
    last_step: I64,
    next_step: I64,
    first_use: I64,
    next_use: I64,
    rise: I64,
    least: I64,
    gain: I64,
    weight: I64,
    mark: I64,
    node: I64,
    alive_at: I64,
) -> int:
    """Part the ops of a model, as ``order.model`` makes it, into blocks; return how many.

    A producer is delayed until right before the first that waits for it, or an op moved forward until right after what
    it waits for, where no order loses by that: see :func:`may_delay` and :func:`may_follow`. Moved ops change the bytes
    alive in between by what they add or free, never for the worse, and reach no level that the other does not reach.
    ``alive_at`` (n + 1) names the op that stands for the block at each place, -1 where there is none. The columns
    from `root` on are linked lists, kept in arrays of ops, of edges (``next_use``, ``weight``) and of groups (``mark``,
    ``node``). ``follow_ptr``, ``follow_idx``: ops that wait for each op, as `pred_ptr` has it.

    Notes
    -----
    O(n_edges) for bounded degrees: at most 32 ops of a block are looked at in each of at most four passes.
    """
    for k in range(n + 1):
        follow_ptr[k] = 0
    for e in range(pred_ptr[n]):
        follow_ptr[pred_idx[e] + 1] += 1
    for k in range(n):
        follow_ptr[k + 1] += follow_ptr[k]
        link[k] = follow_ptr[k]
    for k in range(n):
        for e in range(pred_ptr[k], pred_ptr[k + 1]):
            follow_idx[link[pred_idx[e]]] = k
            link[pred_idx[e]] += 1
    for g in range(n_groups):
        mark[g] = -1
    for k in range(n):
        root[k] = k
        count[k] = 1
        place[k] = k
        alive_at[k] = k
        head[k] = k
        tail[k] = k
        link[k] = -1
        n_in[k] = pred_ptr[k + 1] - pred_ptr[k]
        n_out[k] = follow_ptr[k + 1] - follow_ptr[k]
        first_step[k] = k
        last_step[k] = k
        next_step[k] = -1
        first_use[k] = -1
        rise[k] = fresh[k] + extra[k]
        least[k] = rise[k]
        gain[k] = stays[k]
        for e in range(use_ptr[k + 1] - 1, use_ptr[k] - 1, -1):
            weight[e] = 1
            next_use[e] = first_use[k]
            first_use[k] = e
            if takes[e]:
                least[k] = extra[k]
    n_blocks = n
    stamp = 0
    joined = 1
    rounds = 0
    while joined > 0 and rounds < 4:
        rounds += 1
        joined = 0
        for spot in range(n):
            again = alive_at[spot] >= 0
            while again:
                again = False
                v = alive_at[spot]
                op = head[v]
                left = 32
                while op >= 0 and left > 0 and not again:
                    left -= 1
                    e = pred_ptr[op]
                    while e < pred_ptr[op + 1] and not again:
                        u = root_of(pred_idx[e], root)
                        e += 1
                        if u == v or count[v] > 32:
                            continue
                        # edges from u to v; whether v waits for nobody but u and those before u
                        between = 0
                        alone = True
                        k = head[v]
                        while k >= 0:
                            for i in range(pred_ptr[k], pred_ptr[k + 1]):
                                p = pred_idx[i]
                                r = root_of(p, root)
                                if r == u:
                                    between += 1
                                elif r != v and alone:
                                    alone = False
                                    for j in range(follow_ptr[p], follow_ptr[p + 1]):
                                        alone = alone or root_of(follow_idx[j], root) == u
                            k = link[k]
                        stamp += 1
                        if alone and may_follow(u, v, stamp, first_step, next_step, first_use, next_use, rise, least,
                                                gain, use_idx, takes, weight, user_ptr, size, mark, node):  # fmt: skip
                            home = place[u]
                        else:
                            home = spot
                            # whether everybody who waits for u is v, or waits for v too
                            alone = n_out[u] == between
                            if not alone and count[u] <= 32:
                                alone = True
                                k = head[u]
                                while k >= 0 and alone:
                                    i = follow_ptr[k]
                                    while i < follow_ptr[k + 1] and alone:
                                        w = follow_idx[i]
                                        i += 1
                                        r = root_of(w, root)
                                        alone = r == u
                                        for j in range(pred_ptr[w], pred_ptr[w + 1]):
                                            alone = alone or r == v or root_of(pred_idx[j], root) == v
                                    k = link[k]
                            stamp += 1
                            if not alone or not may_delay(u, v, stamp, n, first_step, next_step, first_use, next_use,
                                                          rise, least, gain, use_idx, takes, user_ptr, user_idx, size,
                                                          mark):  # fmt: skip
                                continue
                        alive_at[place[u]] = -1
                        alive_at[spot] = -1
                        into = n_in[u] + n_in[v] - between
                        out = n_out[u] + n_out[v] - between
                        stamp += 1
                        b = join(u, v, home, stamp, root, count, place, head, tail, link, first_step, last_step,
                                 next_step, first_use, next_use, rise, least, gain, use_idx, takes, weight, user_ptr,
                                 size, birth, mark, node)  # fmt: skip
                        n_in[b] = into
                        n_out[b] = out
                        alive_at[home] = b
                        joined += 1
                        n_blocks -= 1
                        again = home == spot
                        if not again:
                            op = -1
                            break
                    if op >= 0:
                        op = link[op]
    return n_blocks


@kernel
def lay_out(
    n_blocks: int,
    n: int,
    n_groups: int,
    order: I64,
    pred_ptr: I64,
    pred_idx: I64,
    use_idx: I64,
    takes: I64,
    user_ptr: I64,
    user_idx: I64,
    birth: I64,
    root: I64,
    head: I64,
    link: I64,
    first_step: I64,
    next_step: I64,
    first_use: I64,
    next_use: I64,
    rise: I64,
    least: I64,
    gain: I64,
    number: I64,
    mark: I64,
    b_pred_ptr: I64,
    b_pred_idx: I64,
    b_next_ptr: I64,
    b_next_idx: I64,
    b_step_ptr: I64,
    b_rise: I64,
    b_least: I64,
    b_gain: I64,
    b_use_ptr: I64,
    b_use_idx: I64,
    b_takes: I64,
    b_user_ptr: I64,
    b_user_idx: I64,
    b_birth: I64,
    b_last: I64,
    n_users: I64,
) -> None:
    """Write the blocks of :func:`contract` as columns, numbered as they stand in `order` (n_blocks).

    ``b_birth``, ``b_last``: per group the block that begins it, -1 if it is there from the first step, and the last
    that uses it, `n_blocks` where it is kept for good. ``b_user_ptr``, ``b_user_idx``: blocks that use it, ascending.

    Notes
    -----
    O(n_edges).
    """
    for i in range(n_blocks):
        number[order[i]] = i
        mark[i] = -1
        b_next_ptr[i] = 0
    b_next_ptr[n_blocks] = 0
    for g in range(n_groups):
        n_users[g] = 0
        b_birth[g] = -1
        if birth[g] >= 0:
            b_birth[g] = number[root_of(birth[g], root)]
    n_pred = 0
    n_steps = 0
    n_uses = 0
    for i in range(n_blocks):
        b_pred_ptr[i] = n_pred
        op = head[order[i]]
        while op >= 0:
            for e in range(pred_ptr[op], pred_ptr[op + 1]):
                p = number[root_of(pred_idx[e], root)]
                if p != i and mark[p] != i:
                    mark[p] = i
                    b_pred_idx[n_pred] = p
                    b_next_ptr[p + 1] += 1
                    n_pred += 1
            op = link[op]
        b_step_ptr[i] = n_steps
        s = first_step[order[i]]
        while s >= 0:
            b_rise[n_steps] = rise[s]
            b_least[n_steps] = least[s]
            b_gain[n_steps] = gain[s]
            b_use_ptr[n_steps] = n_uses
            n_steps += 1
            e = first_use[s]
            while e >= 0:
                b_use_idx[n_uses] = use_idx[e]
                b_takes[n_uses] = takes[e]
                n_users[use_idx[e]] += 1
                b_last[use_idx[e]] = i
                n_uses += 1
                e = next_use[e]
            s = next_step[s]
    b_pred_ptr[n_blocks] = n_pred
    b_step_ptr[n_blocks] = n_steps
    b_use_ptr[n_steps] = n_uses
    for i in range(n_blocks):
        b_next_ptr[i + 1] += b_next_ptr[i]
        mark[i] = b_next_ptr[i]
    for i in range(n_blocks):
        for e in range(b_pred_ptr[i], b_pred_ptr[i + 1]):
            p = b_pred_idx[e]
            b_next_idx[mark[p]] = i
            mark[p] += 1
    n_uses = 0
    for g in range(n_groups):
        b_user_ptr[g] = n_uses
        n_uses += n_users[g]
        n_users[g] = 0
    b_user_ptr[n_groups] = n_uses
    for i in range(n_blocks):
        for e in range(b_use_ptr[b_step_ptr[i]], b_use_ptr[b_step_ptr[i + 1]]):
            g = b_use_idx[e]
            b_user_idx[b_user_ptr[g] + n_users[g]] = i
            n_users[g] += 1
    for g in range(n_groups):
        if user_ptr[g + 1] > user_ptr[g] and user_idx[user_ptr[g + 1] - 1] == n:
            n_users[g] += 1
            b_last[g] = n_blocks


@kernel
def cost_of(
    k: int,
    step_ptr: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    size: I64,
    wanted: I64,
) -> tuple[int, int]:
    """Bytes that a block that has not run adds while it runs, and once it has run."""
    high = 0
    change = 0
    for s in range(step_ptr[k], step_ptr[k + 1]):
        now = rise[s]
        freed = 0
        for e in range(use_ptr[s], use_ptr[s + 1]):
            g = use_idx[e]
            if wanted[g] == 1:
                freed += size[g]
                if takes[e]:
                    now = least[s]
        high = max(high, change + now)
        change += gain[s] - freed
    return high, change


@kernel
def run_block(
    k: int,
    last: int,
    n_ready: int,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    use_ptr: I64,
    use_idx: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
) -> int:
    """Run a ready block at the cursor, where blocks from `last` on do not count; return how many are ready."""
    ran[k] = 1
    n_ready -= 1
    moved = ready[n_ready]
    ready[where[k]] = moved
    where[moved] = where[k]
    for e in range(use_ptr[step_ptr[k]], use_ptr[step_ptr[k + 1]]):
        wanted[use_idx[e]] -= 1
    for e in range(next_ptr[k], next_ptr[k + 1]):
        v = next_idx[e]
        if v >= last:
            break
        waiting[v] -= 1
        if waiting[v] == 0:
            ready[n_ready] = v
            where[v] = n_ready
            n_ready += 1
    return n_ready


@kernel
def undo_block(
    k: int,
    last: int,
    n_ready: int,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    use_ptr: I64,
    use_idx: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
) -> int:
    """Undo :func:`run_block` of a block for which none that has run waits."""
    for e in range(next_ptr[k], next_ptr[k + 1]):
        v = next_idx[e]
        if v >= last:
            break
        if waiting[v] == 0:
            n_ready -= 1
            moved = ready[n_ready]
            ready[where[v]] = moved
            where[moved] = where[v]
        waiting[v] += 1
    for e in range(use_ptr[step_ptr[k]], use_ptr[step_ptr[k + 1]]):
        wanted[use_idx[e]] += 1
    ran[k] = 0
    ready[n_ready] = k
    where[k] = n_ready
    return n_ready + 1


@kernel
def settle(
    reach: int,
    last: int,
    live: int,
    bound: int,
    n_ready: int,
    n_log: int,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    size: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
    log: I64,
) -> tuple[int, int, int]:
    """Run every block before `reach` that stays within `bound` and leaves no more bytes alive than before.

    If any completion of a set stays within the bound, one does that runs such a block first. Moved forward, it frees
    at most as much as where it was, since more had run there; but it frees no less than it adds already here, so all
    sets between have no more alive than before. The others then allocate no more than before: what they may take over
    is no later out of use. Returns bytes alive, ready blocks, and entries of ``log``, which names what has run.
    """
    moved = True
    while moved:
        moved = False
        i = 0
        while i < n_ready:
            k = ready[i]
            i += 1
            if k >= reach:
                continue
            high, change = cost_of(k, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size, wanted)
            if change <= 0 and live + high <= bound:
                live += change
                log[n_log] = k
                n_log += 1
                n_ready = run_block(k, last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting, wanted,
                                    ran, ready, where)  # fmt: skip
                i -= 1
                moved = True
    return live, n_ready, n_log


@kernel
def start(
    first: int,
    last: int,
    pred_ptr: I64,
    pred_idx: I64,
    step_ptr: I64,
    use_ptr: I64,
    use_idx: I64,
    user_ptr: I64,
    user_idx: I64,
    n_users: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
) -> int:
    """Put the cursor on the set of all blocks before `first`; return how many of the part up to `last` are ready."""
    n_ready = 0
    for k in range(first, last):
        ran[k] = 0
        n = 0
        for e in range(pred_ptr[k], pred_ptr[k + 1]):
            if pred_idx[e] >= first:
                n += 1
        waiting[k] = n
        if n == 0:
            ready[n_ready] = k
            where[k] = n_ready
            n_ready += 1
        for e in range(use_ptr[step_ptr[k]], use_ptr[step_ptr[k + 1]]):
            g = use_idx[e]
            n = user_ptr[g]
            while user_idx[n] < first:
                n += 1
            wanted[g] = n_users[g] - (n - user_ptr[g])
    return n_ready


@kernel
def lookup(at: int, n_words: int, stamp: int, mask: int, words: I64, bases: I64, table: I64) -> tuple[int, int]:
    """Return the state that holds the same set as state `at`, or -1, and the place in the table that becomes its own.

    The sets stand end to end in ``words``; entries of `table` below `stamp` are old.
    """
    h = bases[at] & 0x7FFFFFFF
    for i in range(at * n_words, (at + 1) * n_words):
        w = words[i]
        h = (h ^ (w & 0x7FFFFFFF)) * 1640531527 ^ (w >> 31) * 1812433253
        h = (h ^ (h >> 29)) & 0x7FFFFFFF
    h = ((h * 1566083941) >> 23) & mask
    while table[h] >= stamp:
        s = table[h] - stamp
        if bases[s] == bases[at]:
            i = 0
            while i < n_words and words[s * n_words + i] == words[at * n_words + i]:
                i += 1
            if i == n_words:
                return s, h
        h = (h + 1) & mask
    return -1, h


@kernel
def write_down(at: int, source: int, n_words: int, n_log: int, log: I64, words: I64, bases: I64, tops: I64) -> None:
    """Write as state `at` the set of state `source` and the blocks of ``log``, all within reach of its base."""
    base = bases[source]
    top = tops[source]
    o = at * n_words
    for i in range(n_words):
        words[o + i] = words[source * n_words + i]
    for j in range(n_log):
        k = log[j] - base
        i = k // 62
        words[o + i] |= 1 << (k - 62 * i)
        top = max(top, log[j] + 1)
    full = (1 << 62) - 1
    skip = 0
    while skip < n_words and words[o + skip] == full:
        skip += 1
    if skip > 0:
        for i in range(n_words):
            words[o + i] = words[o + i + skip] if i + skip < n_words else 0
        base += 62 * skip
    shift = 0
    w = words[o]
    while w & 1:
        w >>= 1
        shift += 1
    if shift > 0:
        for i in range(n_words):
            w = words[o + i] >> shift
            if i + 1 < n_words:
                w |= (words[o + i + 1] & ((1 << shift) - 1)) << (62 - shift)
            words[o + i] = w
        base += shift
    bases[at] = base
    tops[at] = top


@kernel
def go_to(
    s: int,
    base: int,
    top: int,
    last: int,
    n_ready: int,
    n_words: int,
    words: I64,
    bases: I64,
    tops: I64,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    use_ptr: I64,
    use_idx: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
) -> int:
    """Move the cursor from a set that lies between `base` and `top` to that of state `s`; return the ready blocks."""
    there = bases[s]
    o = s * n_words
    for k in range(top - 1, min(base, there) - 1, -1):
        if ran[k]:
            d = k - there
            i = d // 62
            # what lies before the state's base has run there
            if d >= 0 and (i >= n_words or (words[o + i] >> (d - 62 * i)) & 1 == 0):
                n_ready = undo_block(k, last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting, wanted,
                                     ran, ready, where)  # fmt: skip
    for k in range(min(base, there), tops[s]):
        if not ran[k]:
            d = k - there
            i = d // 62
            if d < 0 or (i < n_words and (words[o + i] >> (d - 62 * i)) & 1 == 1):
                n_ready = run_block(k, last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting, wanted,
                                    ran, ready, where)  # fmt: skip
    return n_ready


@kernel
def begin(
    first: int,
    last: int,
    alive: int,
    bound: int,
    stamp: int,
    mask: int,
    n_words: int,
    pred_ptr: I64,
    pred_idx: I64,
    user_ptr: I64,
    user_idx: I64,
    n_users: I64,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    size: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
    words: I64,
    bases: I64,
    tops: I64,
    lives: I64,
    peaks: I64,
    parents: I64,
    moves: I64,
    stack: I64,
    table: I64,
    log: I64,
    mind: I64,
) -> bool:
    """Begin a search: state 0 is the part ``first .. last - 1`` before any choice. Returns whether that is the whole.

    ``mind`` is what the search keeps between calls: states, those on the stack, base and top of the set at the cursor,
    ready blocks, whether a block was ready beyond the reach of a set, the least level above the bound, and what is left
    of the budget.
    """
    n_ready = start(first, last, pred_ptr, pred_idx, step_ptr, use_ptr, use_idx, user_ptr, user_idx, n_users, waiting,
                    wanted, ran, ready, where)  # fmt: skip
    live, n_ready, n_log = settle(min(last, first + 62 * n_words), last, alive, bound, n_ready, 0, next_ptr, next_idx,
                                  step_ptr, rise, least, gain, use_ptr, use_idx, takes, size,
                                  waiting, wanted, ran, ready, where, log)  # fmt: skip
    for i in range(n_words):
        words[i] = 0
    bases[0] = first
    tops[0] = first
    write_down(0, 0, n_words, n_log, log, words, bases, tops)
    lives[0] = live
    peaks[0] = bound
    parents[0] = -1
    moves[0] = -1
    _, h = lookup(0, n_words, stamp, mask, words, bases, table)
    table[h] = stamp
    stack[0] = 0
    mind[0] = 1
    mind[1] = 1
    mind[2] = bases[0]
    mind[3] = tops[0]
    mind[4] = n_ready
    mind[5] = 0
    mind[6] = 1 << 62
    whole: bool = bases[0] == last
    return whole


@kernel
def is_lowest(
    n_far: int,
    live: int,
    goal: int,
    last: int,
    n_ready: int,
    budget: int,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    size: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
    far: I64,
    log: I64,
) -> tuple[bool, int]:
    """Whether no set between that at the cursor and that with the blocks of ``far`` (ascending) has less than `goal`.

    `live` bytes are alive at the cursor. Hills are not looked at. The answer is no, too, where there are more than
    `budget` such sets. Returns it and the ready blocks; the cursor stays. ``log`` is scratch.
    """
    lowest = True
    n_log = 0
    i = 0
    while lowest:
        # take in what can be run, in turn; then leave the last one out
        while i < n_far:
            k = far[i]
            if waiting[k] == 0:
                _, change = cost_of(k, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size, wanted)
                live += change
                n_ready = run_block(k, last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting, wanted,
                                    ran, ready, where)  # fmt: skip
                log[n_log] = i
                n_log += 1
                if live < goal:
                    lowest = False
            i += 1
        budget -= 1
        if budget == 0:
            lowest = False
        if n_log == 0:
            break
        n_log -= 1
        i = log[n_log]
        k = far[i]
        n_ready = undo_block(k, last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting, wanted, ran,
                             ready, where)  # fmt: skip
        _, change = cost_of(k, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size, wanted)
        live -= change
        i += 1
    while n_log > 0:
        n_log -= 1
        n_ready = undo_block(far[log[n_log]], last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx,
                             waiting, wanted, ran, ready, where)  # fmt: skip
    return lowest, n_ready


@kernel
def between(s: int, t: int, most: int, n_words: int, words: I64, bases: I64, tops: I64, far: I64) -> int:
    """List in ``far`` the blocks that state `t` has and state `s` has not; return how many, or `most` and one more."""
    n = 0
    for k in range(bases[s], tops[t]):
        d = k - bases[s]
        i = d // 62
        if i < n_words and (words[s * n_words + i] >> (d - 62 * i)) & 1:
            continue
        d = k - bases[t]
        i = d // 62
        if d < 0 or (i < n_words and (words[t * n_words + i] >> (d - 62 * i)) & 1):
            if n == most:
                return most + 1
            far[n] = k
            n += 1
    return n


@kernel
def explore(
    last: int,
    bound: int,
    budget: int,
    most: int,
    room: int,
    stamp: int,
    mask: int,
    n_words: int,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    size: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
    words: I64,
    bases: I64,
    tops: I64,
    lives: I64,
    peaks: I64,
    parents: I64,
    moves: I64,
    stack: I64,
    table: I64,
    log: I64,
    found: I64,
    far: I64,
    queued: I64,
    mind: I64,
) -> int:
    """Visit sets of blocks that can be reached within `bound`, depth first, until one is the whole.

    A set that leaves no more alive than the one it comes from is a valley if no set between the two leaves less. What
    completes the earlier set within the bound completes the valley too: join each set on that way with the valley, and
    as many bytes are alive or fewer, since bytes alive are a submodular function of the set. So one that has a valley
    next to it goes on with that alone.

    Parameters
    ----------
    budget : int
        States that may be visited before the search pauses; called again it goes on.
    most : int
        Blocks between two sets for which the latter is looked at as a valley.
    room : int
        States that the arrays hold.
    found, far, log : (n, 2), (most + 1), (n)
        Scratch.
    queued : (room)
        Whether a state is or was on the stack.

    Returns
    -------
    int
        0: the last state is the whole. 1: none is, as far as sets reach; no order stays below ``mind[6]`` unless
        ``mind[5]``. 2: paused. 3: the arrays are full.

    Notes
    -----
    O(sets x ready blocks x their uses).
    """
    n = mind[0]
    n_stack = mind[1]
    base = mind[2]
    top = mind[3]
    n_ready = mind[4]
    blind = mind[5]
    above = mind[6]
    end = 1
    while n_stack > 0:
        if budget == 0:
            end = 2
            break
        budget -= 1
        s = stack[n_stack - 1]
        n_ready = go_to(s, base, top, last, n_ready, n_words, words, bases, tops, next_ptr, next_idx, step_ptr, use_ptr,
                        use_idx, waiting, wanted, ran, ready, where)  # fmt: skip
        base = bases[s]
        top = tops[s]
        if n + n_ready + 1 > room:
            budget += 1
            end = 3
            break
        n_stack -= 1
        live = lives[s]
        reach = min(last, base + 62 * n_words)
        n_found = 0
        beyond = 0
        for i in range(n_ready):
            k = ready[i]
            high, change = cost_of(k, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size, wanted)
            if live + high > bound:
                above = min(above, live + high)
            elif k >= reach:
                beyond = 1
            elif change <= 0:
                found[0, 0] = k
                found[0, 1] = live + change
                n_found = 1
                beyond = 0
                break
            else:
                # the set that leaves least alive is looked at first
                j = n_found
                while j > 0 and found[j - 1, 1] > live + change:
                    found[j, 0] = found[j - 1, 0]
                    found[j, 1] = found[j - 1, 1]
                    j -= 1
                found[j, 0] = k
                found[j, 1] = live + change
                n_found += 1
        blind = max(blind, beyond)
        for i in range(n_found):
            log[0] = found[i, 0]
            n_ready = run_block(found[i, 0], last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting,
                                wanted, ran, ready, where)  # fmt: skip
            after, n_ready, n_log = settle(reach, last, found[i, 1], bound, n_ready, 1, next_ptr, next_idx, step_ptr,
                                           rise, least, gain, use_ptr, use_idx, takes, size,
                                           waiting, wanted, ran, ready, where, log)  # fmt: skip
            write_down(n, s, n_words, n_log, log, words, bases, tops)
            for j in range(n_log - 1, -1, -1):
                n_ready = undo_block(log[j], last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting,
                                     wanted, ran, ready, where)  # fmt: skip
            old, h = lookup(n, n_words, stamp, mask, words, bases, table)
            t = old
            if old < 0:
                t = n
                table[h] = stamp + n
                lives[n] = after
                peaks[n] = bound
                queued[n] = 0
                parents[n] = s
                moves[n] = found[i, 0]
                n += 1
                if bases[t] == last:
                    end = 0
                    n_stack = 0
                    n_found = 0
                    break
            elif not queued[t]:
                parents[t] = s
                moves[t] = found[i, 0]
            found[i, 0] = t
            if after <= live:
                n_far = between(s, t, most, n_words, words, bases, tops, far)
                if n_far <= most:
                    lowest, n_ready = is_lowest(n_far, live, after, last, n_ready, 64, next_ptr, next_idx, step_ptr,
                                                rise, least, gain, use_ptr, use_idx, takes, size, waiting, wanted,
                                                ran, ready, where, far,
                                                log)  # fmt: skip
                    if lowest:
                        found[0, 0] = t
                        n_found = 1
                        break
        for i in range(n_found - 1, -1, -1):
            t = found[i, 0]
            if not queued[t]:
                queued[t] = 1
                stack[n_stack] = t
                n_stack += 1
    mind[0] = n
    mind[1] = n_stack
    mind[2] = base
    mind[3] = top
    mind[4] = n_ready
    mind[5] = blind
    mind[6] = above
    mind[7] = budget
    return end


@kernel
def trace(
    goal: int,
    first: int,
    last: int,
    alive: int,
    n_words: int,
    pred_ptr: I64,
    pred_idx: I64,
    user_ptr: I64,
    user_idx: I64,
    n_users: I64,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    size: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
    words: I64,
    bases: I64,
    tops: I64,
    lives: I64,
    peaks: I64,
    parents: I64,
    moves: I64,
    stack: I64,
    table: I64,
    path: I64,
    sequence: I64,
    need: I64,
) -> int:
    """Write the blocks of the way to state `goal` into `sequence`, from its entry `first` on; return the peak.

    Between two states lie the move from the first and blocks that :func:`settle` ran; which of those can run, and that
    they stay within the bound, does not depend on the order in which they do. ``need`` is what each takes.
    """
    n = 0
    s = goal
    while s >= 0:
        path[n] = s
        n += 1
        s = parents[s]
    n_ready = start(first, last, pred_ptr, pred_idx, step_ptr, use_ptr, use_idx, user_ptr, user_idx, n_users, waiting,
                    wanted, ran, ready, where)  # fmt: skip
    live = alive
    at = first
    peak = alive
    for j in range(n - 1, -1, -1):
        s = path[j]
        bound = peaks[s]
        i = 0
        if moves[s] >= 0:
            i = where[moves[s]]
        moved = True
        forced = moves[s] >= 0
        while moved:
            moved = False
            while i < n_ready:
                k = ready[i]
                d = k - bases[s]
                w = d // 62
                i += 1
                if d >= 0 and (w >= n_words or (words[s * n_words + w] >> (d - 62 * w)) & 1 == 0):
                    continue
                high, change = cost_of(k, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size, wanted)
                if forced or (change <= 0 and live + high <= bound):
                    forced = False
                    peak = max(peak, live + high)
                    sequence[at] = k
                    need[at] = live + high
                    at += 1
                    live += change
                    n_ready = run_block(k, last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting,
                                        wanted, ran, ready, where)  # fmt: skip
                    i = 0
                    moved = True
            i = 0
    return peak


@kernel
def beam(
    first: int,
    last: int,
    alive: int,
    floor: int,
    cap: int,
    width: int,
    room: int,
    stamp: int,
    mask: int,
    n_words: int,
    pred_ptr: I64,
    pred_idx: I64,
    user_ptr: I64,
    user_idx: I64,
    n_users: I64,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    size: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
    words: I64,
    bases: I64,
    tops: I64,
    lives: I64,
    peaks: I64,
    parents: I64,
    moves: I64,
    stack: I64,
    table: I64,
    log: I64,
    found: I64,
    mind: I64,
    picked: I64,
) -> tuple[int, int]:
    """Find a good order of a part choice by choice, keeping the `width` sets of least peak, then of least bytes alive.

    Levels up to `floor` are not told apart, and none above `cap` is entered. Returns the state that is the whole, -1 if
    none was found, and the next stamp. State ``room - 1`` is set aside for the whole. ``picked`` (width) is scratch.

    Notes
    -----
    O(choices x width x (ready blocks x their uses + width)).
    """
    goal = -1
    best = cap + 1
    goal_at = room - 1
    if begin(first, last, alive, floor, stamp, mask, n_words, pred_ptr, pred_idx, user_ptr, user_idx, n_users,
             next_ptr, next_idx, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size,
             waiting, wanted, ran, ready, where, words, bases, tops, lives, peaks, parents, moves, stack, table, log,
             mind):  # fmt: skip
        return 0, stamp + 1
    stamp += 1
    base = mind[2]
    top = mind[3]
    n_ready = mind[4]
    low = 0
    high = 1
    while low < high:
        n = high
        for s in range(low, high):
            if peaks[s] >= best:
                continue
            n_ready = go_to(s, base, top, last, n_ready, n_words, words, bases, tops, next_ptr, next_idx, step_ptr,
                            use_ptr, use_idx, waiting, wanted, ran, ready, where)  # fmt: skip
            base = bases[s]
            top = tops[s]
            live = lives[s]
            if n + n_ready + 2 > room:
                return goal, stamp + n
            reach = min(last, base + 62 * n_words)
            n_found = 0
            for i in range(n_ready):
                k = ready[i]
                rises, change = cost_of(k, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size, wanted)
                level = max(peaks[s], live + rises)
                if k < reach and level < best:
                    found[n_found, 0] = k
                    found[n_found, 1] = level
                    n_found += 1
            for i in range(n_found):
                k = found[i, 0]
                level = found[i, 1]
                _, change = cost_of(k, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size, wanted)
                log[0] = k
                n_ready = run_block(k, last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting, wanted,
                                    ran, ready, where)  # fmt: skip
                after, n_ready, n_log = settle(reach, last, live + change, level, n_ready, 1, next_ptr, next_idx,
                                               step_ptr, rise, least, gain, use_ptr, use_idx, takes, size,
                                               waiting, wanted, ran, ready, where, log)  # fmt: skip
                write_down(n, s, n_words, n_log, log, words, bases, tops)
                for j in range(n_log - 1, -1, -1):
                    n_ready = undo_block(log[j], last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting,
                                         wanted, ran, ready, where)  # fmt: skip
                if bases[n] == last:
                    if level < best:
                        best = level
                        goal = goal_at
                        bases[goal] = last
                        tops[goal] = last
                        lives[goal] = after
                        peaks[goal] = level
                        parents[goal] = s
                        moves[goal] = k
                    continue
                old, h = lookup(n, n_words, stamp, mask, words, bases, table)
                if old < 0:
                    table[h] = stamp + n
                    old = n
                    n += 1
                elif peaks[old] <= level:
                    continue
                lives[old] = after
                peaks[old] = level
                parents[old] = s
                moves[old] = k
        stamp += n
        kept = n - high
        if kept > width:
            kept = 0
            for s in range(high, n):
                j = min(kept, width - 1)
                if kept == width:
                    worst = picked[j]
                    if peaks[worst] < peaks[s] or (peaks[worst] == peaks[s] and lives[worst] <= lives[s]):
                        continue
                else:
                    kept += 1
                while j > 0:
                    other = picked[j - 1]
                    if peaks[other] < peaks[s] or (peaks[other] == peaks[s] and lives[other] <= lives[s]):
                        break
                    picked[j] = other
                    j -= 1
                picked[j] = s
            # in ascending order none is overwritten before it is moved
            for i in range(1, width):
                s = picked[i]
                j = i
                while j > 0 and picked[j - 1] > s:
                    picked[j] = picked[j - 1]
                    j -= 1
                picked[j] = s
            for i in range(width):
                s = picked[i]
                to = high + i
                for j in range(n_words):
                    words[to * n_words + j] = words[s * n_words + j]
                bases[to] = bases[s]
                tops[to] = tops[s]
                lives[to] = lives[s]
                peaks[to] = peaks[s]
                parents[to] = parents[s]
                moves[to] = moves[s]
        low = high
        high += kept
    return goal, stamp


@kernel
def list_order(
    first: int,
    last: int,
    alive: int,
    rule: int,
    floor: int,
    pred_ptr: I64,
    pred_idx: I64,
    user_ptr: I64,
    user_idx: I64,
    n_users: I64,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    size: I64,
    waiting: I64,
    wanted: I64,
    ran: I64,
    ready: I64,
    where: I64,
    age: I64,
    sequence: I64,
    need: I64,
) -> int:
    """Write an order of a part by a rule of thumb into `sequence`, what each block takes into `need`; return the peak.

    What stays within the peak so far and leaves no more alive than before runs at once; else the block that leaves
    least alive (`rule` 0), that takes least while it runs (1), or that was made ready last (2), which goes depth first.
    ``age`` is scratch of blocks. Of many ready ones the last 256 are looked at.

    Notes
    -----
    O(blocks x ready blocks x their uses).
    """
    n_ready = start(first, last, pred_ptr, pred_idx, step_ptr, use_ptr, use_idx, user_ptr, user_idx, n_users, waiting,
                    wanted, ran, ready, where)  # fmt: skip
    for i in range(n_ready):
        age[ready[i]] = 0
    live = alive
    peak = max(floor, alive)
    for at in range(first, last):
        best = -1
        best_high = 0
        best_change = 0
        best_key = 0
        for i in range(n_ready - 1, max(n_ready - 257, -1), -1):
            k = ready[i]
            high, change = cost_of(k, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size, wanted)
            safe = change <= 0 and live + high <= peak
            key = change
            if rule == 1:
                key = high
            elif rule == 2:
                key = -age[k]
            if best < 0 or safe or key < best_key or (key == best_key and k < best):
                best = k
                best_high = high
                best_change = change
                best_key = key
                if safe:
                    break
        sequence[at] = best
        need[at] = live + best_high
        peak = max(peak, need[at])
        live += best_change
        earlier = n_ready - 1
        n_ready = run_block(best, last, n_ready, next_ptr, next_idx, step_ptr, use_ptr, use_idx, waiting, wanted, ran,
                            ready, where)  # fmt: skip
        for i in range(earlier, n_ready):
            age[ready[i]] = at
    return peak


@kernel
def survey(
    n: int,
    n_groups: int,
    alive: int,
    pred_ptr: I64,
    pred_idx: I64,
    user_ptr: I64,
    user_idx: I64,
    n_users: I64,
    birth: I64,
    last_use: I64,
    next_ptr: I64,
    next_idx: I64,
    step_ptr: I64,
    rise: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    takes: I64,
    size: I64,
    wanted: I64,
    latest: I64,
    level: I64,
    need: I64,
    part: I64,
) -> tuple[int, int]:
    """Run the blocks as numbered and bound every order from below; return ``(bound, peak)``.

    A block that every earlier one has to precede and every later one to follow runs after the same set in every order,
    so the parts between such blocks are apart: ``part[k]`` is the end of the part that begins at ``k``, 0 elsewhere.
    What is alive all through a part counts at each of its blocks, with what the block itself reads, writes and takes.
    ``level``, ``need`` (n + 1): bytes alive before a block and while it runs; ``latest`` (n + 1), ``wanted`` are
    scratch.

    Notes
    -----
    O(n_edges).
    """
    for g in range(n_groups):
        wanted[g] = n_users[g]
    live = alive
    peak = alive
    for k in range(n):
        high, change = cost_of(k, step_ptr, rise, least, gain, use_ptr, use_idx, takes, size, wanted)
        level[k] = live
        need[k] = live + high
        live += change
        peak = max(peak, need[k])
        part[k] = 0
        for e in range(use_ptr[step_ptr[k]], use_ptr[step_ptr[k + 1]]):
            wanted[use_idx[e]] -= 1
    level[n] = live
    latest[n] = n
    for k in range(n - 1, -1, -1):
        before = -1
        for e in range(pred_ptr[k], pred_ptr[k + 1]):
            before = max(before, pred_idx[e])
        latest[k] = min(before, latest[k + 1])
    first = 0
    reach = -1
    bound = max(alive, live)
    for i in range(1, n + 1):
        successor = n
        if next_ptr[i] > next_ptr[i - 1]:
            successor = next_idx[next_ptr[i - 1]]
        reach = max(reach, successor)
        if i < n and (reach > i or latest[i + 1] < i):
            continue
        part[first] = i
        bound = max(bound, level[first])
        if i == first + 1:
            bound = max(bound, need[first])
        else:
            through = level[first]
            for k in range(first, i):
                for e in range(use_ptr[step_ptr[k]], use_ptr[step_ptr[k + 1]]):
                    g = use_idx[e]
                    if birth[g] < first and last_use[g] == k:
                        through -= size[g]
            for k in range(first, i):
                own = 0
                high = 0
                change = 0
                for s in range(step_ptr[k], step_ptr[k + 1]):
                    high = max(high, change + least[s])
                    change += gain[s]
                    for e in range(use_ptr[s], use_ptr[s + 1]):
                        g = use_idx[e]
                        if birth[g] >= first or last_use[g] < i:
                            # what the block begins itself is in its gain
                            if birth[g] != k:
                                own += size[g]
                            if last_use[g] < n:
                                change -= size[g]
                bound = max(bound, through + own + high)
        first = i
    return bound, peak


@kernel
def least_rise(
    k: int,
    first: int,
    last: int,
    n_words: int,
    user_ptr: I64,
    user_idx: I64,
    last_use: I64,
    step_ptr: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    size: I64,
    below: I64,
) -> int:
    """Fewest bytes that a block of a part adds while it runs, whatever ran before; ``below`` as in :func:`forced`."""
    high = 0
    change = 0
    i = k - first
    for s in range(step_ptr[k], step_ptr[k + 1]):
        high = max(high, change + least[s])
        change += gain[s]
        for e in range(use_ptr[s], use_ptr[s + 1]):
            g = use_idx[e]
            wanted = last_use[g] >= last
            e2 = user_ptr[g]
            while e2 < user_ptr[g + 1] and not wanted:
                u = user_idx[e2] - first
                e2 += 1
                if u > i:
                    w = u // 62
                    wanted = (below[i * n_words + w] >> (u - 62 * w)) & 1 == 1
            if not wanted:
                change -= size[g]
    return high


@kernel
def forced(
    first: int,
    last: int,
    n_groups: int,
    live: int,
    n_words: int,
    pred_ptr: I64,
    pred_idx: I64,
    user_ptr: I64,
    user_idx: I64,
    n_users: I64,
    birth: I64,
    last_use: I64,
    step_ptr: I64,
    least: I64,
    gain: I64,
    use_ptr: I64,
    use_idx: I64,
    size: I64,
    above: I64,
    below: I64,
    during: I64,
) -> int:
    """Bound every order of a part from below by what is alive for sure while a block runs.

    A group is, if what begins it has to run before the block, or ran before the part, and somebody who uses it is the
    block or has to run after it. `live` bytes are alive before the part. ``above``, ``below`` (blocks x n_words): what
    has to run before a block and after it, itself included; ``during`` (blocks) is scratch.

    Notes
    -----
    O((edges + groups) x n_words + groups x blocks).
    """
    m = last - first
    for i in range(m):
        for w in range(n_words):
            above[i * n_words + w] = 0
            below[i * n_words + w] = 0
        w = i // 62
        above[i * n_words + w] = 1 << (i - 62 * w)
        below[i * n_words + w] = 1 << (i - 62 * w)
        during[i] = 0
        for e in range(pred_ptr[first + i], pred_ptr[first + i + 1]):
            p = pred_idx[e] - first
            if p >= 0:
                for w in range(n_words):
                    above[i * n_words + w] |= above[p * n_words + w]
    for i in range(m - 1, -1, -1):
        for e in range(pred_ptr[first + i], pred_ptr[first + i + 1]):
            p = pred_idx[e] - first
            if p >= 0:
                for w in range(n_words):
                    below[p * n_words + w] |= below[i * n_words + w]
    through = live
    for g in range(n_groups):
        born = birth[g] - first
        if n_users[g] > 0 and born < m and (born >= 0 or first <= last_use[g] < last):
            if born < 0:
                through -= size[g]
            for w in range(n_words):
                reach = 0
                if last_use[g] >= last:
                    reach = (1 << 62) - 1
                else:
                    for e2 in range(user_ptr[g], user_ptr[g + 1]):
                        u = user_idx[e2] - first
                        if u >= 0:
                            reach |= above[u * n_words + w]
                if born >= 0:
                    reach &= below[born * n_words + w]
                i = 62 * w
                while reach and i < m:
                    if reach & 1 and i != born:
                        during[i] += size[g]
                    reach >>= 1
                    i += 1
    bound = 0
    for i in range(m):
        high = least_rise(first + i, first, last, n_words, user_ptr, user_idx, last_use, step_ptr, least, gain, use_ptr,
                          use_idx, size, below)  # fmt: skip
        bound = max(bound, through + during[i] + high)
    return bound


@kernel
def lay_arcs(
    first: int,
    last: int,
    n_groups: int,
    live: int,
    pred_ptr: I64,
    pred_idx: I64,
    user_ptr: I64,
    user_idx: I64,
    n_users: I64,
    birth: I64,
    last_use: I64,
    size: I64,
    arc_to: I64,
    capacity: I64,
    arc_ptr: I64,
    arc_idx: I64,
) -> tuple[int, int]:
    """Write the network whose cuts are sets of a part: what a set leaves alive is the capacity from it to the rest.

    Nodes are the blocks of the part, all groups, what ran before the part, and what runs after it. A block leads to its
    groups with their bytes, a group to all its users and a block to those that it waits for without limit. Arcs stand
    in pairs, there and back. Returns how many, and what is alive all through the part.
    """
    m = last - first
    before = m + n_groups
    n_nodes = before + 2
    n = 0
    through = live
    no_limit = 1 << 61
    for node in range(n_nodes + 1):
        arc_ptr[node] = 0
    for k in range(first, last):
        for e in range(pred_ptr[k], pred_ptr[k + 1]):
            if pred_idx[e] >= first:
                arc_to[n] = pred_idx[e] - first
                capacity[n] = no_limit
                arc_to[n + 1] = k - first
                capacity[n + 1] = 0
                n += 2
    for g in range(n_groups):
        source = birth[g] - first
        if n_users[g] > 0 and source < m and (source >= 0 or first <= last_use[g] < last):
            if source < 0:
                source = before
                through -= size[g]
            arc_to[n] = m + g
            capacity[n] = size[g]
            arc_to[n + 1] = source
            capacity[n + 1] = 0
            n += 2
            for i in range(user_ptr[g], user_ptr[g + 1]):
                u = user_idx[i] - first
                if u >= 0 and u < m:
                    arc_to[n] = u
                    capacity[n] = no_limit
                    arc_to[n + 1] = m + g
                    capacity[n + 1] = 0
                    n += 2
            if last_use[g] >= last:
                arc_to[n] = before + 1
                capacity[n] = no_limit
                arc_to[n + 1] = m + g
                capacity[n + 1] = 0
                n += 2
    for a in range(n):
        arc_ptr[arc_to[a ^ 1] + 1] += 1
    for node in range(n_nodes):
        arc_ptr[node + 1] += arc_ptr[node]
    for a in range(n - 1, -1, -1):
        node = arc_to[a ^ 1]
        arc_ptr[node + 1] -= 1
        arc_idx[arc_ptr[node + 1]] = a
    # each pointer now stands where its node begins, one place too far up
    for node in range(n_nodes):
        arc_ptr[node] = arc_ptr[node + 1]
    arc_ptr[n_nodes] = n
    return n, through


@kernel
def least_alive(
    v: int,
    m: int,
    n_nodes: int,
    n_arcs: int,
    n_words: int,
    above: I64,
    below: I64,
    arc_to: I64,
    capacity: I64,
    arc_ptr: I64,
    arc_idx: I64,
    left: I64,
    via: I64,
    queue: I64,
) -> int:
    """Least bytes alive after any set of blocks after which block `v` of a part can run; see :func:`lay_arcs`.

    What `v` waits for is in the set, `v` and what waits for it is not; the rest as it is best, by a least cut.

    Notes
    -----
    Shortest paths one after the other; O(paths x arcs).
    """
    for a in range(n_arcs):
        left[a] = capacity[a]
    flow = 0
    while True:
        n = 0
        for node in range(n_nodes):
            via[node] = -1
        for i in range(m):
            w = i // 62
            if i != v and (above[v * n_words + w] >> (i - 62 * w)) & 1:
                via[i] = -2
                queue[n] = i
                n += 1
        via[n_nodes - 2] = -2
        queue[n] = n_nodes - 2
        n += 1
        at = 0
        goal = -1
        while at < n and goal < 0:
            node = queue[at]
            at += 1
            for e in range(arc_ptr[node], arc_ptr[node + 1]):
                a = arc_idx[e]
                to = arc_to[a]
                if left[a] == 0 or via[to] != -1:
                    continue
                via[to] = a
                queue[n] = to
                n += 1
                w = to // 62
                if to == n_nodes - 1 or (to < m and (below[v * n_words + w] >> (to - 62 * w)) & 1):
                    goal = to
                    break
        if goal < 0:
            return flow
        more = 1 << 61
        node = goal
        while via[node] >= 0:
            more = min(more, left[via[node]])
            node = arc_to[via[node] ^ 1]
        node = goal
        while via[node] >= 0:
            left[via[node]] -= more
            left[via[node] ^ 1] += more
            node = arc_to[via[node] ^ 1]
        flow += more


@kernel
def spell(n_blocks: int, order: I64, head: I64, link: I64, sequence: I64) -> None:
    """Write the ops of blocks, by what stands for them in `order`, one after the other into `sequence`."""
    at = 0
    for i in range(n_blocks):
        op = head[order[i]]
        while op >= 0:
            sequence[at] = op
            at += 1
            op = link[op]


@kernel
def refill(n_states: int, n_words: int, mask: int, words: I64, bases: I64, table: I64) -> None:
    """Enter states 0 to ``n_states - 1``, no two of them equal, into a table that holds -1."""
    for s in range(n_states):
        _, h = lookup(s, n_words, 0, mask, words, bases, table)
        table[h] = s
