"""PyTorch's caching allocator of CUDA memory, replayed over a trace of allocations and frees.

A *segment* is what the driver gave, a *block* a piece of one. Blocks are rows of ``nodes``: 0 address, 1 bytes,
2 block before and 3 block after in the same segment (-1 none), 4 state (0 free, 1 in use, 2 addresses without
memory), 5 pool (0 small, 1 large). A row out of use is on a stack, linked by its column 3.

The free blocks of a pool are sorted by bytes, then address, in chunks of at most `width` slots. Slot ``s`` holds a
block's bytes ``sizes[s]`` and its row ``rows[s]``; chunk ``c`` has the slots from ``c * width`` on, ``chunks[2, c]``
of them filled; ``chunks[pool, k]`` is the ``k``-th chunk of a pool. Two neighbours fill more than half a chunk
together, so that chunks stay few. ``tally``: 0 and 1 how many chunks each pool has, 2 stack of chunks out of use
(linked by ``chunks[2, c]``), 3 chunks ever used, 4 stack of rows out of use, 5 rows ever used.
"""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64


@kernel
def rounded(nbytes: int, min_block: int, divisions: I64) -> int:
    """Bytes of the block that a request of `nbytes` takes.

    ``divisions[i]`` divides the powers of two from ``2**(20 + i)`` on; no division: multiples of `min_block`.
    """
    if divisions.shape[0] > 0 and nbytes > min_block:
        power = 0
        while nbytes >> (power + 1) > 0:
            power += 1
        parts: int = divisions[min(max(power - 20, 0), divisions.shape[0] - 1)]
        if parts > 1 and nbytes > min_block * parts:
            step = (1 << power) // parts
            return (nbytes + step - 1) // step * step
    return (nbytes + min_block - 1) // min_block * min_block


@kernel
def new_row(tally: I64, nodes: I64) -> int:
    """Take a row of ``nodes`` that is out of use."""
    row: int = tally[4]
    if row >= 0:
        tally[4] = nodes[row, 3]
    else:
        row = tally[5]
        tally[5] += 1
    return row


@kernel
def lower(nbytes: int, address: int, low: int, high: int, nodes: I64, sizes: I64, rows: I64) -> int:
    """First slot of ``low .. high - 1`` with a block not before ``(nbytes, address)``, or `high`."""
    while low < high:
        mid = (low + high) >> 1
        here = sizes[mid]
        if here < nbytes or (here == nbytes and nodes[rows[mid], 0] < address):
            low = mid + 1
        else:
            high = mid
    return low


@kernel
def rank_of(
    pool: int, nbytes: int, address: int, width: int, nodes: I64, sizes: I64, rows: I64, chunks: I64, tally: I64
) -> int:
    """Rank of the first chunk that ends in a block not before ``(nbytes, address)``, or of the last chunk."""
    low = 0
    high = tally[pool] - 1
    while low < high:
        mid = (low + high) >> 1
        c = chunks[pool, mid]
        s = c * width + chunks[2, c] - 1
        if lower(nbytes, address, s, s + 1, nodes, sizes, rows) > s:
            low = mid + 1
        else:
            high = mid
    return low


@kernel
def split_chunk(pool: int, rank: int, width: int, sizes: I64, rows: I64, chunks: I64, tally: I64) -> None:
    """Move the upper half of the `rank`-th chunk into a new one after it."""
    c = chunks[pool, rank]
    other = tally[2]
    if other >= 0:
        tally[2] = chunks[2, other]
    else:
        other = tally[3]
        tally[3] += 1
    for k in range(tally[pool], rank + 1, -1):
        chunks[pool, k] = chunks[pool, k - 1]
    chunks[pool, rank + 1] = other
    tally[pool] += 1
    half = width >> 1
    for k in range(width - half):
        sizes[other * width + k] = sizes[c * width + half + k]
        rows[other * width + k] = rows[c * width + half + k]
    chunks[2, c] = half
    chunks[2, other] = width - half


@kernel
def join_chunks(pool: int, rank: int, width: int, sizes: I64, rows: I64, chunks: I64, tally: I64) -> None:
    """Join the `rank`-th chunk with the one before or after if that leaves at most half a chunk or one is empty."""
    for first in range(max(rank - 1, 0), min(rank + 1, tally[pool] - 1)):
        c = chunks[pool, first]
        other = chunks[pool, first + 1]
        n = chunks[2, c]
        m = chunks[2, other]
        if n + m <= width >> 1 or n == 0 or m == 0:
            for k in range(m):
                sizes[c * width + n + k] = sizes[other * width + k]
                rows[c * width + n + k] = rows[other * width + k]
            chunks[2, c] = n + m
            chunks[2, other] = tally[2]
            tally[2] = other
            tally[pool] -= 1
            for k in range(first + 1, tally[pool]):
                chunks[pool, k] = chunks[pool, k + 1]
            break


@kernel
def open_gap(at: int, end: int, nbytes: int, row: int, sizes: I64, rows: I64) -> None:
    """Put a free block into slot `at`; the blocks up to `end` move up by one."""
    for k in range(end, at, -1):
        sizes[k] = sizes[k - 1]
        rows[k] = rows[k - 1]
    sizes[at] = nbytes
    rows[at] = row


@kernel
def close_gap(at: int, end: int, sizes: I64, rows: I64) -> None:
    """Drop the free block in slot `at`; the blocks up to `end` move down by one."""
    for k in range(at, end - 1):
        sizes[k] = sizes[k + 1]
        rows[k] = rows[k + 1]


@kernel
def insert(pool: int, row: int, width: int, nodes: I64, sizes: I64, rows: I64, chunks: I64, tally: I64) -> None:
    """Put a free block among the free blocks of its pool."""
    nbytes = nodes[row, 1]
    address = nodes[row, 0]
    rank = tally[pool] - 1
    if rank > 0:
        rank = rank_of(pool, nbytes, address, width, nodes, sizes, rows, chunks, tally)
    c = chunks[pool, rank]
    if chunks[2, c] == width:
        split_chunk(pool, rank, width, sizes, rows, chunks, tally)
        rank = rank_of(pool, nbytes, address, width, nodes, sizes, rows, chunks, tally)
        c = chunks[pool, rank]
    end = c * width + chunks[2, c]
    at = lower(nbytes, address, c * width, end, nodes, sizes, rows)
    open_gap(at, end, nbytes, row, sizes, rows)
    chunks[2, c] += 1


@kernel
def remove(pool: int, rank: int, at: int, width: int, sizes: I64, rows: I64, chunks: I64, tally: I64) -> None:
    """Take the free block in slot `at` of the `rank`-th chunk from the free blocks of its pool."""
    c = chunks[pool, rank]
    close_gap(at, c * width + chunks[2, c], sizes, rows)
    chunks[2, c] -= 1
    if tally[pool] > 1 and chunks[2, c] <= width >> 1:
        join_chunks(pool, rank, width, sizes, rows, chunks, tally)


@kernel
def unlist(row: int, width: int, nodes: I64, sizes: I64, rows: I64, chunks: I64, tally: I64) -> None:
    """Take a free block from the free blocks of its pool."""
    pool = nodes[row, 5]
    rank = tally[pool] - 1
    if rank > 0:
        rank = rank_of(pool, nodes[row, 1], nodes[row, 0], width, nodes, sizes, rows, chunks, tally)
    c = chunks[pool, rank]
    at = lower(nodes[row, 1], nodes[row, 0], c * width, c * width + chunks[2, c], nodes, sizes, rows)
    remove(pool, rank, at, width, sizes, rows, chunks, tally)


@kernel
def absorb(row: int, other: int, tally: I64, nodes: I64) -> None:
    """Let a block swallow its neighbour `other`, which is on no list; the neighbour's row goes out of use."""
    if nodes[row, 3] == other:
        after = nodes[other, 3]
        nodes[row, 3] = after
        if after >= 0:
            nodes[after, 2] = row
    else:
        before = nodes[other, 2]
        nodes[row, 0] = nodes[other, 0]
        nodes[row, 2] = before
        if before >= 0:
            nodes[before, 3] = row
    nodes[row, 1] += nodes[other, 1]
    nodes[other, 3] = tally[4]
    tally[4] = other


@kernel
def cut(row: int, nbytes: int, tally: I64, nodes: I64) -> int:
    """Cut the first `nbytes` off a block as a free block of its own and return it; the rest keeps its row."""
    new = new_row(tally, nodes)
    address = nodes[row, 0]
    before = nodes[row, 2]
    nodes[new, 0] = address
    nodes[new, 1] = nbytes
    nodes[new, 2] = before
    nodes[new, 3] = row
    nodes[new, 4] = 0
    nodes[new, 5] = nodes[row, 5]
    if before >= 0:
        nodes[before, 3] = new
    nodes[row, 0] = address + nbytes
    nodes[row, 1] -= nbytes
    nodes[row, 2] = new
    return new


@kernel
def release_segments(
    pool: int, width: int, nodes: I64, sizes: I64, rows: I64, chunks: I64, tally: I64
) -> tuple[int, int]:
    """Give every segment of a pool that is one free block back to the driver; ``(bytes, segments)`` released."""
    nbytes = 0
    released = 0
    kept = 0
    # What stays moves up, filling one chunk after the other; no slot is written before it was read.
    for rank in range(tally[pool]):
        c = chunks[pool, rank]
        for s in range(c * width, c * width + chunks[2, c]):
            row = rows[s]
            if nodes[row, 2] < 0 and nodes[row, 3] < 0:
                nbytes += nodes[row, 1]
                released += 1
                nodes[row, 3] = tally[4]
                tally[4] = row
            else:
                to = chunks[pool, kept // width] * width + kept % width
                sizes[to] = sizes[s]
                rows[to] = row
                kept += 1
    needed = max((kept + width - 1) // width, 1)
    for rank in range(tally[pool]):
        c = chunks[pool, rank]
        if rank < needed:
            chunks[2, c] = min(max(kept - rank * width, 0), width)
        else:
            chunks[2, c] = tally[2]
            tally[2] = c
    tally[pool] = needed
    return nbytes, released


@kernel
def unmap(
    pool: int, granule: int, width: int, nodes: I64, sizes: I64, rows: I64, chunks: I64, tally: I64
) -> tuple[int, int, int]:
    """Take the memory from every whole granule inside the free blocks of an expandable segment.

    Row `pool` is the unmapped end of the segment. Returns ``(bytes, blocks that lost some, change in the number of
    holes)``, a hole being an unmapped block other than the end.
    """
    nbytes = 0
    released = 0
    holes = 0
    row = nodes[pool, 2]
    while row >= 0:
        if nodes[row, 4] == 0:
            start = (nodes[row, 0] + granule - 1) // granule * granule
            end = (nodes[row, 0] + nodes[row, 1]) // granule * granule
            if start < end:
                unlist(row, width, nodes, sizes, rows, chunks, tally)
                nbytes += end - start
                released += 1
                if start > nodes[row, 0]:
                    rest = cut(row, start - nodes[row, 0], tally, nodes)
                    insert(pool, rest, width, nodes, sizes, rows, chunks, tally)
                if end < nodes[row, 0] + nodes[row, 1]:
                    hole = cut(row, end - start, tally, nodes)
                    insert(pool, row, width, nodes, sizes, rows, chunks, tally)
                    row = hole
                nodes[row, 4] = 2
                holes += 1
                after = nodes[row, 3]
                if nodes[after, 4] == 2:  # there is one: the end of the segment is nobody's
                    absorb(after, row, tally, nodes)
                    holes -= 1
                    row = after
                before = nodes[row, 2]
                if before >= 0 and nodes[before, 4] == 2:
                    absorb(row, before, tally, nodes)
                    holes -= 1
        row = nodes[row, 2]
    return nbytes, released, holes


@kernel
def lowest_room(pool: int, want: int, holes: int, nodes: I64) -> int:
    """Find the unmapped block at the lowest address from which on, or from the free block before, `want` bytes fit."""
    found = pool
    if holes > 0:
        room = 0
        row = pool
        while row >= 0:
            before = nodes[row, 2]
            if nodes[row, 4] == 1:
                room = 0
            else:
                room += nodes[row, 1]
                if nodes[row, 4] == 2:
                    spare = nodes[before, 1] if before >= 0 and nodes[before, 4] == 0 else 0
                    if room + spare >= want:
                        found = row
            row = before
    return found


@kernel
def replay(
    events: I64,
    nbytes: I64,
    min_block: int,
    small_size: int,
    small_segment: int,
    large_segment: int,
    min_large: int,
    round_large: int,
    max_split: int,
    max_slack: int,
    divisions: I64,
    expandable: bool,
    capacity: int,
    width: int,
    nodes: I64,
    sizes: I64,
    rows: I64,
    chunks: I64,
    tally: I64,
    place: I64,
    allocated: I64,
    reserved: I64,
) -> tuple[int, int, int, int, int, int, int]:
    """Replay a trace; fill the bytes ``allocated`` and ``reserved`` (n_events,) after each event.

    Event ``b + 1`` allocates block ``b`` of ``nbytes[b]``, below 2**60, and ``-(b + 1)`` frees it; zero bytes
    allocate nothing. A request takes a multiple of `min_block` (see :func:`rounded`). Up to `small_size` it comes
    from the small pool, in segments of `small_segment`; in the large pool it comes from segments of `large_segment`
    up to below `min_large` and from there on from one of its own, a multiple of `round_large`. It takes the
    smallest free block it fits, at the lowest address, and leaves the rest free if that is at least `min_block` in
    the small pool, more than `small_size` in the large one. Freed blocks merge with free neighbours. `max_split`
    (<= 0: none): requests from there on are not cut off larger blocks, and take one only if less than `max_slack`
    is wasted; smaller requests take no free block that large. `expandable`: one segment per pool that grows at its
    end by multiples of the segment size, and where the rest always stays free. `capacity` (<= 0: 2**61): what may
    be reserved; a request beyond it first has free segments, or with `expandable` free granules, released.

    Scratch: ``nodes`` (n_rows, 6) with n_rows = 4 * n_events + 16; ``sizes`` and ``rows`` (n_chunks * width,) and
    ``chunks`` (3, n_chunks) with n_chunks = 4 * n_rows // width + 4; ``tally`` (6,); ``place`` (n_blocks,).

    Returns
    -------
    status, event, peak_allocated, peak_reserved, n_taken, n_released, n_retries
        0 fits, 1 out of memory, 2 no such block, 3 allocated twice, 4 freed without being allocated, 5 more than
        2**62 bytes of addresses; the event where it stopped; segments (or extensions) taken from and given back to
        the driver; how often everything free was given back.

    Notes
    -----
    O(n_events * (log n_free + width + n_free / width)) for n_free free blocks, while nothing has to be given back.
    On the trace of a training step 40-65 ns per event (a list in one piece: 20-30), with 6,000 free blocks 350 ns
    (in one piece: 1,650).
    """
    n_blocks = nbytes.shape[0]
    if capacity <= 0:
        capacity = 1 << 61
    for b in range(n_blocks):
        place[b] = -1
    for pool in range(2):
        chunks[pool, 0] = pool
        chunks[2, pool] = 0
        tally[pool] = 1
    tally[2] = -1
    tally[3] = 2
    tally[4] = -1
    tally[5] = 0
    holes = 0
    addresses = 1 << 62
    top = 0
    if expandable:
        for pool in range(2):
            granule = small_segment if pool == 0 else large_segment
            row = new_row(tally, nodes)
            nodes[row, 0] = 0
            nodes[row, 1] = addresses // granule * granule
            nodes[row, 2] = -1
            nodes[row, 3] = -1
            nodes[row, 4] = 2
            nodes[row, 5] = pool
    now = 0
    held = 0
    peak = 0
    peak_held = 0
    taken = 0
    released = 0
    retries = 0
    for e in range(events.shape[0]):
        event = events[e]
        b = abs(event) - 1
        put = -1
        gap = -1
        pool = 0
        rank = b  # any integer that is no constant: a constant would compile `join_chunks` again
        if b < 0 or b >= n_blocks:
            return 2, e, peak, peak_held, taken, released, retries
        if event > 0:
            if place[b] != -1:
                return 3, e, peak, peak_held, taken, released, retries
            place[b] = -2
            if nbytes[b] > 0:
                want = rounded(nbytes[b], min_block, divisions)
                pool = 0 if want <= small_size else 1
                granule = small_segment if pool == 0 else large_segment
                rank = tally[pool] - 1
                # The search starts below every address, at -event: a constant would compile `lower` again.
                if rank > 0:
                    rank = rank_of(pool, want, -event, width, nodes, sizes, rows, chunks, tally)
                c = chunks[pool, rank]
                at = lower(want, -event, c * width, c * width + chunks[2, c], nodes, sizes, rows)
                row = -1
                if at < c * width + chunks[2, c]:
                    row = rows[at]
                    if expandable:
                        # What a block can grow into counts as its size for best fit, so larger ones may be nearer.
                        after = nodes[row, 3]
                        size = nodes[row, 1] + (nodes[after, 1] if nodes[after, 4] == 2 else 0)
                        while True:
                            if at + 1 < c * width + chunks[2, c]:
                                next_rank = rank
                                next_at = at + 1
                            elif rank + 1 < tally[pool]:
                                next_rank = rank + 1
                                next_at = chunks[pool, next_rank] * width
                            else:
                                break
                            other = rows[next_at]
                            after = nodes[other, 3]
                            other_size = nodes[other, 1] + (nodes[after, 1] if nodes[after, 4] == 2 else 0)
                            if other_size >= size:
                                break
                            rank = next_rank
                            c = chunks[pool, rank]
                            at = next_at
                            row = other
                            size = other_size
                    if max_split > 0:
                        size = nodes[row, 1]
                        if (want < max_split and size >= max_split) or (want >= max_split and size >= want + max_slack):
                            row = -1
                if row >= 0:
                    gap = at
                elif expandable:
                    for attempt in range(2):
                        hole = lowest_room(pool, want, holes, nodes)
                        before = nodes[hole, 2]
                        have = 0
                        if before >= 0 and nodes[before, 4] == 0:
                            row = before
                            have = nodes[row, 1]
                            unlist(row, width, nodes, sizes, rows, chunks, tally)
                        while have < want:
                            grow = (min(want - have, nodes[hole, 1]) + granule - 1) // granule * granule
                            if held + grow > capacity:
                                break
                            if grow < nodes[hole, 1]:
                                new = cut(hole, grow, tally, nodes)
                            elif hole == pool:
                                return 5, e, peak, peak_held, taken, released, retries
                            else:
                                new = hole
                                nodes[new, 4] = 0
                                holes -= 1
                            held += grow
                            peak_held = max(peak_held, held)
                            taken += 1
                            if row >= 0:
                                absorb(row, new, tally, nodes)
                            else:
                                row = new
                            hole = nodes[row, 3]
                            if nodes[hole, 4] == 0:
                                unlist(hole, width, nodes, sizes, rows, chunks, tally)
                                absorb(row, hole, tally, nodes)
                                hole = nodes[row, 3]
                            have = nodes[row, 1]
                        if have >= want:
                            break
                        if row >= 0:
                            insert(pool, row, width, nodes, sizes, rows, chunks, tally)
                            row = -1
                        if attempt == 0:
                            retries += 1
                            for k in range(2):
                                step = small_segment if k == 0 else large_segment
                                size, n, change = unmap(k, step, width, nodes, sizes, rows, chunks, tally)
                                held -= size
                                released += n
                                holes += change
                else:
                    if pool == 0 or want < min_large:
                        size = granule
                    else:
                        size = (want + round_large - 1) // round_large * round_large
                    fits = held + size <= capacity
                    if not fits and max_split > 0:
                        # One free block that is large enough goes, or else the largest that are never split.
                        least = max(want, max_split)
                        rank = rank_of(pool, least, -event, width, nodes, sizes, rows, chunks, tally)
                        c = chunks[pool, rank]
                        at = lower(least, -event, c * width, c * width + chunks[2, c], nodes, sizes, rows)
                        given = 0
                        while given < least and chunks[2, c] > 0:
                            if at == c * width + chunks[2, c]:
                                at -= 1
                            old = rows[at]
                            if nodes[old, 1] < max_split:
                                break
                            given += nodes[old, 1]
                            held -= nodes[old, 1]
                            released += 1
                            remove(pool, rank, at, width, sizes, rows, chunks, tally)
                            nodes[old, 3] = tally[4]
                            tally[4] = old
                            rank = tally[pool] - 1
                            c = chunks[pool, rank]
                            at = c * width + chunks[2, c]
                        fits = given >= least and held + size <= capacity
                    if not fits:
                        retries += 1
                        for k in range(2):
                            given, n = release_segments(k, width, nodes, sizes, rows, chunks, tally)
                            held -= given
                            released += n
                        fits = held + size <= capacity
                    if fits:
                        if top > addresses - size:
                            return 5, e, peak, peak_held, taken, released, retries
                        row = new_row(tally, nodes)
                        nodes[row, 0] = top
                        nodes[row, 1] = size
                        nodes[row, 2] = -1
                        nodes[row, 3] = -1
                        nodes[row, 5] = pool
                        top += size
                        held += size
                        peak_held = max(peak_held, held)
                        taken += 1
                if row < 0:
                    return 1, e, peak, peak_held, taken, released, retries
                rest = nodes[row, 1] - want
                if pool == 0 or expandable:
                    split = rest >= min_block
                else:
                    split = rest > small_size and (max_split <= 0 or want < max_split)
                if split:
                    new = cut(row, want, tally, nodes)
                    nodes[row, 4] = 0
                    put = row
                    row = new
                nodes[row, 4] = 1
                place[b] = row
                now += nodes[row, 1]
                peak = max(peak, now)
        else:
            row = place[b]
            if row == -1:
                return 4, e, peak, peak_held, taken, released, retries
            place[b] = -1
            if row >= 0:
                now -= nodes[row, 1]
                pool = nodes[row, 5]
                nodes[row, 4] = 0
                put = row
                for side in range(2, 4):
                    other = nodes[row, side]
                    if other >= 0 and nodes[other, 4] == 0:
                        if gap >= 0:
                            remove(pool, rank, gap, width, sizes, rows, chunks, tally)
                        rank = tally[pool] - 1
                        if rank > 0:
                            rank = rank_of(
                                pool, nodes[other, 1], nodes[other, 0], width, nodes, sizes, rows, chunks, tally
                            )
                        c = chunks[pool, rank]
                        end = c * width + chunks[2, c]
                        gap = lower(nodes[other, 1], nodes[other, 0], c * width, end, nodes, sizes, rows)
                        absorb(row, other, tally, nodes)
        # What `remove` and `insert` do, here without the calls: they took half the time.
        if gap >= 0:
            moved = False
            c = chunks[pool, rank]
            start = c * width
            end = start + chunks[2, c]
            if put >= 0:
                # A block that shrank or grew mostly stays near its slot: only what lies between moves.
                size = nodes[put, 1]
                if size < sizes[gap]:
                    at = lower(size, nodes[put, 0], start, gap, nodes, sizes, rows)
                    if at > start or rank == 0:
                        open_gap(at, gap, size, put, sizes, rows)
                        put = -1
                        moved = True
                else:
                    at = lower(size, nodes[put, 0], gap + 1, end, nodes, sizes, rows)
                    if at < end or rank == tally[pool] - 1:
                        close_gap(gap, at, sizes, rows)
                        sizes[at - 1] = size
                        rows[at - 1] = put
                        put = -1
                        moved = True
            if not moved:
                close_gap(gap, end, sizes, rows)
                chunks[2, c] -= 1
                if tally[pool] > 1 and chunks[2, c] <= width >> 1:
                    join_chunks(pool, rank, width, sizes, rows, chunks, tally)
        if put >= 0:
            c = chunks[pool, 0]
            if tally[pool] > 1 or chunks[2, c] == width:
                insert(pool, put, width, nodes, sizes, rows, chunks, tally)
            else:
                start = c * width
                end = start + chunks[2, c]
                at = lower(nodes[put, 1], nodes[put, 0], start, end, nodes, sizes, rows)
                open_gap(at, end, nodes[put, 1], put, sizes, rows)
                chunks[2, c] += 1
        allocated[e] = now
        reserved[e] = held
    return 0, events.shape[0], peak, peak_held, taken, released, retries
