"""Placing buffers in one block: sections of time, loads, the fits that planners use, and a dive along the skyline.

Columns of buffers (``lower, upper, nbytes, alignment, fixed``, one entry each) are read-only; whatever else is passed
may be written. A buffer without bytes, or whose life is empty, conflicts with none: its offset is 0 unless it is fixed,
and its sections ``first == last == 0``.

A *section* is a moment at which no more buffers could be alive together: something was born since the last death and
something dies next. Two buffers conflict if and only if their ranges of sections ``[first, last)`` have one in common.
"""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64


@kernel
def sort_run(begin: int, end: int, keys: I64, order: I64) -> None:
    """Sort a few entries as `stable_sort` does, by insertion."""
    for i in range(begin + 1, end):
        key = keys[i]
        who = order[i]
        j = i
        while j > begin and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            order[j] = order[j - 1]
            j -= 1
        keys[j] = key
        order[j] = who


@kernel
def merge_runs(n: int, width: int, keys: I64, order: I64, to_keys: I64, to_order: I64) -> None:
    """Merge each two sorted runs of `width` entries into one, elsewhere."""
    for begin in range(0, n, 2 * width):
        mid = min(begin + width, n)
        end = min(mid + width, n)
        i = begin
        j = mid
        for k in range(begin, end):
            if j >= end or (i < mid and keys[i] <= keys[j]):
                to_keys[k] = keys[i]
                to_order[k] = order[i]
                i += 1
            else:
                to_keys[k] = keys[j]
                to_order[k] = order[j]
                j += 1


@kernel
def stable_sort(n: int, keys: I64, order: I64, other_keys: I64, other_order: I64) -> None:
    """Sort the first `n` of ``keys``, ascending, and move ``order`` along; equal keys stay as they are.

    Notes
    -----
    O(n) where they are in order, else O(n log n): runs of sixteen by insertion, then merging from one pair of arrays to
    the other and back.
    """
    k = 1
    while k < n and keys[k - 1] <= keys[k]:
        k += 1
    if k >= n:
        return
    for begin in range(0, n, 16):
        sort_run(begin, min(begin + 16, n), keys, order)
    width = 16
    while width < n:
        merge_runs(n, width, keys, order, other_keys, other_order)
        merge_runs(n, 2 * width, other_keys, other_order, keys, order)
        width *= 4


@kernel
def sections(lower: I64, upper: I64, nbytes: I64, first: I64, last: I64, work: I64) -> int:
    """Fill ``first`` and ``last`` (n,) with each buffer's sections ``[first, last)``; return how many there are.

    ``work`` (6, n) is scratch.

    Notes
    -----
    O(n log n); O(n) where buffers come in the order of their births and deaths.
    """
    n = 0
    for i in range(nbytes.shape[0]):
        first[i] = 0
        last[i] = 0
        if nbytes[i] > 0 and lower[i] < upper[i]:
            work[0, n] = lower[i]
            work[1, n] = i
            work[2, n] = upper[i]
            work[3, n] = i
            n += 1
    stable_sort(n, work[0], work[1], work[4], work[5])
    stable_sort(n, work[2], work[3], work[4], work[5])
    here = -1
    died = True
    d = 0
    for b in range(n):
        while work[2, d] <= work[0, b]:
            last[work[3, d]] = here + 1
            died = True
            d += 1
        if died:
            here += 1
            died = False
        first[work[1, b]] = here
    for k in range(d, n):
        last[work[3, k]] = here + 1
    return here + 1


@kernel
def section_loads(n_sections: int, first: I64, last: I64, nbytes: I64, load: I64) -> int:
    """Fill ``load`` (n_sections,) with the bytes alive in each section; return the most: no arena is smaller.

    Notes
    -----
    O(n + n_sections).
    """
    for s in range(n_sections):
        load[s] = 0
    for i in range(nbytes.shape[0]):
        if first[i] < last[i]:
            load[first[i]] += nbytes[i]
            if last[i] < n_sections:
                load[last[i]] -= nbytes[i]
    total = 0
    best = 0
    for s in range(n_sections):
        total += load[s]
        load[s] = total
        best = max(best, total)
    return best


@kernel
def arena_bound(
    n_sections: int, first: I64, last: I64, nbytes: I64, alignment: I64, fixed: I64, load: I64, slack: I64
) -> tuple[int, int]:
    """Return bytes that no arena goes below, and the greatest common divisor of the alignments of buffers alive.

    Every offset is a multiple of that divisor. So in a section all buffers but the top one take their bytes rounded up
    to it, and the top one is at best the one that rounding costs most. A buffer that is fixed ends where it ends.
    ``load`` is filled with the rounded bytes of each section, ``slack`` with what rounding costs that top buffer (both
    (n_sections,)).

    Notes
    -----
    O(n + n_sections), and one step more for each section of a buffer that rounding changes.
    """
    best = 0
    grain = 0
    for i in range(nbytes.shape[0]):
        if first[i] < last[i]:
            a = alignment[i]
            while a > 0:
                rest = grain % a
                grain = a
                a = rest
            best = max(best, fixed[i] + nbytes[i] if fixed[i] >= 0 else 0)
    grain = max(grain, 1)
    for s in range(n_sections):
        load[s] = 0
        slack[s] = 0
    for i in range(nbytes.shape[0]):
        if first[i] < last[i]:
            rounded = (nbytes[i] + grain - 1) // grain * grain
            load[first[i]] += rounded
            if last[i] < n_sections:
                load[last[i]] -= rounded
            lost = rounded - nbytes[i]
            if lost > 0:
                for s in range(first[i], last[i]):
                    slack[s] = max(slack[s], lost)
    total = 0
    for s in range(n_sections):
        total += load[s]
        load[s] = total
        best = max(best, total - slack[s])
    return best, grain


@kernel
def fit(
    order: I64,
    lower: I64,
    upper: I64,
    nbytes: I64,
    alignment: I64,
    fixed: I64,
    rule: int,
    work: I64,
    offsets: I64,
) -> int:
    """Place buffers one after the other as `order` says, each into a gap between those placed; return the height.

    Fixed buffers come first, wherever `order` has them. `rule`: 0 the first gap that is large enough; 1 the smallest,
    measured from the first offset in it that is aligned; 2 as TensorFlow Lite and IREE measure, where the best gap so
    far is remembered from its unaligned begin; 3 as 1, and the space up to the top of the arena is a gap as well. Of
    equal gaps the lowest; without a gap, on top of what is in the way. ``work`` (11, n) is scratch.

    Notes
    -----
    For each buffer, those placed before that are alive with it are collected and sorted by offset. Buffers stand in the
    order of their births, so those born too late are not looked at, nor those before which all are dead, nor blocks of
    64 without one that is alive. O(n^2 log n) in the worst case, O(n log n) where few are alive together; O(n) memory.
    """
    births = work[0]
    who = work[1]
    deaths = work[2]
    reach = work[3]
    begin = work[4]
    end = work[5]
    wall = work[6]
    wall_end = work[7]
    spare = work[8]
    other = work[9]
    place = work[10]
    n = 0
    for i in range(nbytes.shape[0]):
        offsets[i] = max(fixed[i], 0)
        place[i] = -1
        if nbytes[i] > 0 and lower[i] < upper[i]:
            births[n] = lower[i]
            who[n] = i
            n += 1
    stable_sort(n, births, who, deaths, reach)
    latest = 0
    top = 0
    for p in range(n):
        i = who[p]
        place[i] = p
        deaths[p] = upper[i]
        if p == 0 or upper[i] > latest:
            latest = upper[i]
        reach[p] = latest
        begin[p] = fixed[i]
        end[p] = fixed[i] + nbytes[i]
        if fixed[i] >= 0:
            top = max(top, end[p])
    # the last death of what is placed, by blocks; the first birth is as good as never
    late = work[1]
    for p in range(n):
        i = who[p]
        if p & 63 == 0:
            late[p >> 6] = births[0]
        if fixed[i] >= 0:
            late[p >> 6] = max(late[p >> 6], deaths[p])
    for turn in range(order.shape[0]):
        i = order[turn]
        here = place[i]
        if here < 0 or fixed[i] >= 0:
            continue
        size = nbytes[i]
        born = births[here]
        dead = deaths[here]
        m = 0
        p = here - 1
        while p >= 0 and reach[p] > born:
            if p & 63 == 63 and late[p >> 6] <= born:
                p -= 64
                continue
            if begin[p] >= 0 and deaths[p] > born:
                wall[m] = begin[p]
                wall_end[m] = end[p]
                m += 1
            p -= 1
        p = here + 1
        while p < n and births[p] < dead:
            if begin[p] >= 0:
                wall[m] = begin[p]
                wall_end[m] = end[p]
                m += 1
            p += 1
        if m > 16:
            stable_sort(m, wall, wall_end, spare, other)
        else:
            sort_run(0, m, wall, wall_end)
        best = -1
        smallest = 1 << 62
        floor = 0
        align = alignment[i]
        for w in range(m):
            if wall[w] - floor >= size:
                at = floor
                if align > 1:
                    at = (floor + align - 1) // align * align
                gap = wall[w] - at
                if gap >= size and gap < smallest:
                    best = at
                    smallest = gap
                    if rule == 0:
                        break
                    if rule == 2:
                        smallest = wall[w] - floor
            floor = max(floor, wall_end[w])
        if best < 0 or (rule == 3 and floor < top):
            at = (floor + align - 1) // align * align
            if best < 0 or (top - at >= size and top - at < smallest):
                best = at
        offsets[i] = best
        begin[here] = best
        end[here] = best + size
        late[here >> 6] = max(late[here >> 6], dead)
        top = max(top, best + size)
    return top


@kernel
def section_ranks(n_sections: int, load: I64, rank: I64, work: I64) -> None:
    """Fill ``rank`` (n_sections,) with each section's place by descending load, the earlier first; ``work`` (4, .)."""
    for s in range(n_sections):
        work[0, s] = -load[s]
        work[1, s] = s
    stable_sort(n_sections, work[0], work[1], work[2], work[3])
    for k in range(n_sections):
        rank[work[1, k]] = k


@kernel
def value_of(letter: int, i: int, lower: I64, upper: I64, nbytes: I64, first: I64, last: I64, over: I64) -> int:
    """Return what a buffer is sorted by; letters as for `order_by`."""
    value: int = nbytes[i]
    if letter == 0:
        width = upper[i] - lower[i]
        value = min(value, (1 << 62) // max(width, 1)) * width
    elif letter == 1:
        value = upper[i] - lower[i]
    elif letter == 2:
        value = lower[i]
    elif letter == 3:
        value = upper[i]
    elif letter == 4:
        value = last[i] - first[i]
    elif letter == 5 or letter == 6:
        value = 0 if letter == 5 else 1 << 62
        for s in range(first[i], last[i]):
            value = max(value, over[s]) if letter == 5 else min(value, over[s])
    elif letter == 7:
        value = i
    return value


@kernel
def order_by(
    letters: I64, lower: I64, upper: I64, nbytes: I64, first: I64, last: I64, over: I64, order: I64, work: I64
) -> None:
    """Fill ``order`` with the buffers sorted by several values, the first of ``letters`` counting most.

    A letter stands for 0 size times life, 1 life, 2 birth, 3 death, 4 sections, 5 the most and 6 the least of ``over``
    among its sections, 7 number, 8 size; descending, or ascending as ``-1 - letter``. 9 puts those first that live from
    the first birth to the last death. Ties go by ascending number. ``work`` (3, n) is scratch.

    Notes
    -----
    O(n log n) per letter; 5 and 6 take a step for each section of each buffer.
    """
    n = nbytes.shape[0]
    earliest = 1 << 62
    latest = 0
    for i in range(n):
        order[i] = i
        if lower[i] < upper[i]:
            earliest = min(earliest, lower[i])
            latest = max(latest, upper[i])
    keys = work[0]
    spare = work[1]
    other = work[2]
    for k in range(letters.shape[0] - 1, -1, -1):
        letter = letters[k]
        for p in range(n):
            i = order[p]
            if letter == 9:
                keys[p] = 0 if lower[i] == earliest and upper[i] == latest else 1
            elif letter == 8:
                keys[p] = -nbytes[i]
            elif letter >= 0:
                keys[p] = -value_of(letter, i, lower, upper, nbytes, first, last, over)
            else:
                keys[p] = value_of(-1 - letter, i, lower, upper, nbytes, first, last, over)
        stable_sort(n, keys, order, spare, other)


@kernel
def greedy(
    letters: I64, lower: I64, upper: I64, nbytes: I64, alignment: I64, fixed: I64, rule: int, work: I64, offsets: I64
) -> int:
    """Sort as `order_by` by letters other than 4 to 6, and place as `fit`; return the height. ``work`` is (12, n)."""
    order = work[11]
    order_by(letters, lower, upper, nbytes, work[3], work[4], work[5], order, work)
    return fit(order, lower, upper, nbytes, alignment, fixed, rule, work, offsets)


@kernel
def best_inside(begin: int, end: int, latest: int, n_leaves: int, tree: I64, stack: I64) -> int:
    """Return the least rank among the leaves ``begin .. end - 1`` whose buffer is over by section `latest`, or -1.

    ``tree`` (2, 2 * n_leaves) holds the least rank under a node, and the least `last`.
    """
    best: int = 1 << 62
    low = begin + n_leaves
    high = end + n_leaves
    while low < high:
        # the nodes that cover the leaves, two at a time from the bottom
        m = 0
        if low & 1:
            stack[m] = low
            m += 1
            low += 1
        if high & 1:
            high -= 1
            stack[m] = high
            m += 1
        while m > 0:
            m -= 1
            x = stack[m]
            if tree[0, x] < best and tree[1, x] <= latest:
                if x >= n_leaves:
                    best = tree[0, x]
                else:
                    left_first = tree[0, 2 * x] < tree[0, 2 * x + 1]
                    stack[m] = 2 * x + 1 if left_first else 2 * x
                    stack[m + 1] = 2 * x if left_first else 2 * x + 1
                    m += 2
        low >>= 1
        high >>= 1
    return best if best < 1 << 62 else -1


@kernel
def dive(
    order: I64,
    n_sections: int,
    grain: int,
    first: I64,
    last: I64,
    nbytes: I64,
    alignment: I64,
    n_leaves: int,
    tree: I64,
    leaf: I64,
    begin: I64,
    sky: I64,
    stack: I64,
    offsets: I64,
) -> int:
    """Place the lowest buffer first, of equally low ones the first in `order`; return the height.

    The skyline is the top of what is placed over each section. Where it has a valley, the first buffer in `order` that
    lives inside the valley is put on its floor; where none does, the floor rises to the lower of the two sides. That
    is what trying the buffers by the lowest offset they can take comes to, whichever valley goes first. Fixed offsets
    are not looked at.

    Parameters
    ----------
    order : (n,) int64
    grain : int
        The greatest common divisor of the alignments: tops are rounded up to it.
    n_leaves : int
        A power of two, at least the number of buffers that live in a section, and at least 2.
    tree, leaf, begin, sky, stack : (2, 2 * n_leaves), (n,), (n_sections + 1,), (3, n_sections + 1), (130,) int64
        Scratch.

    Notes
    -----
    Linear memory. The buffers stand in a tree by their first section with the earliest last section and the best rank
    below each node. Each buffer costs a search and at most two more for the floors that rise; a search goes down into
    nodes that have a better rank and a buffer over in time, a few dozen as a rule.
    """
    n = 0
    for s in range(n_sections + 1):
        begin[s] = 0
    for i in range(nbytes.shape[0]):
        offsets[i] = 0
        if first[i] < last[i]:
            begin[first[i] + 1] += 1
            n += 1
    for s in range(n_sections):
        begin[s + 1] += begin[s]
    for x in range(2 * n_leaves):
        tree[0, x] = 1 << 62
        tree[1, x] = 1 << 62
    for k in range(order.shape[0]):
        i = order[k]
        if first[i] < last[i]:
            x = begin[first[i]]
            begin[first[i]] += 1
            leaf[i] = n_leaves + x
            tree[0, n_leaves + x] = k
            tree[1, n_leaves + x] = last[i]
    for s in range(n_sections, 0, -1):
        begin[s] = begin[s - 1]
    begin[0] = 0
    for x in range(n_leaves - 1, 0, -1):
        tree[0, x] = min(tree[0, 2 * x], tree[0, 2 * x + 1])
        tree[1, x] = min(tree[1, 2 * x], tree[1, 2 * x + 1])
    # A piece of the skyline goes by its first section: 0 its height, 1 where it ends, 2 where the piece before begins.
    sky[0, 0] = 0
    sky[1, 0] = n_sections
    a = 0
    height = 0
    while n > 0:
        b = sky[1, a]
        y = sky[0, a]
        if a > 0 and sky[0, sky[2, a]] < y:
            a = sky[2, a]
            continue
        if b < n_sections and sky[0, b] < y:
            a = b
            continue
        k = best_inside(begin[a], begin[b], b, n_leaves, tree, stack)
        if k < 0:
            left = sky[0, sky[2, a]] if a > 0 else 1 << 62
            right = sky[0, b] if b < n_sections else 1 << 62
            y = min(left, right)
        else:
            n -= 1
            i = order[k]
            x = leaf[i]
            tree[0, x] = 1 << 62
            tree[1, x] = 1 << 62
            x >>= 1
            while x > 0:
                tree[0, x] = min(tree[0, 2 * x], tree[0, 2 * x + 1])
                tree[1, x] = min(tree[1, 2 * x], tree[1, 2 * x + 1])
                x >>= 1
            align = alignment[i]
            offsets[i] = (y + align - 1) // align * align
            top = offsets[i] + nbytes[i]
            height = max(height, top)
            # the piece is cut in up to three, of which the middle one, [f, b), rises
            f = first[i]
            if f > a:
                sky[1, a] = f
                sky[1, f] = b
                sky[2, f] = a
                if b < n_sections:
                    sky[2, b] = f
                a = f
            if last[i] < b:
                f = last[i]
                sky[0, f] = y
                sky[1, f] = b
                sky[2, f] = a
                sky[1, a] = f
                if b < n_sections:
                    sky[2, b] = f
                b = f
            y = (top + grain - 1) // grain * grain
        sky[0, a] = y
        if b < n_sections and sky[0, b] == y:
            b = sky[1, b]
            sky[1, a] = b
            if b < n_sections:
                sky[2, b] = a
        if a > 0 and sky[0, sky[2, a]] == y:
            a = sky[2, a]
            sky[1, a] = b
            if b < n_sections:
                sky[2, b] = a
    return height


@kernel
def positional_maxima(order: I64, n_sections: int, first: I64, last: I64, nbytes: I64, alive: I64, maxima: I64) -> int:
    """Fill ``maxima`` with the largest k-th largest buffer of any section, for each k; return how many there are.

    As many objects as that are needed, and the k-th largest of them is no smaller, so their sum is a lower bound of
    shared objects (Pisarchyk and Lee 2020). `order` has the buffers by descending size; ``alive`` (n_sections,) is
    scratch, ``maxima`` (n,).

    Notes
    -----
    One step for each section of each buffer.
    """
    n = 0
    for s in range(n_sections):
        alive[s] = 0
    for k in range(order.shape[0]):
        i = order[k]
        for s in range(first[i], last[i]):
            if alive[s] == n:
                maxima[n] = nbytes[i]
                n += 1
            alive[s] += 1
    return n


@kernel
def apart(i: int, j: int, lower: I64, upper: I64) -> int:
    """Return the steps between the lives of two buffers, or -1 where they have one in common."""
    steps = -1
    if upper[i] <= lower[j]:
        steps = lower[j] - upper[i]
    elif upper[j] <= lower[i]:
        steps = lower[i] - upper[j]
    return steps


@kernel
def nearest(i: int, member: int, lower: I64, upper: I64, link: I64) -> int:
    """Return the fewest steps between a buffer and those of an object, or -1 if it is alive with one of them.

    `member` is the first of them, ``link`` leads on to the next, -1 ends.
    """
    best = 1 << 62
    while member >= 0 and best >= 0:
        best = min(best, apart(i, member, lower, upper))
        member = link[member]
    return best


@kernel
def objects_by_size(
    n_maxima: int,
    maxima: I64,
    lower: I64,
    upper: I64,
    nbytes: I64,
    head: I64,
    link: I64,
    work: I64,
    object_of: I64,
    sizes: I64,
) -> int:
    """Share objects by size and distance, as TensorFlow Lite's GPU delegate does; return how many objects.

    Next comes the buffer whose size is at the leftmost positional maximum, of those the one with the fewest steps to
    the nearest object it can go into, of those the largest. It goes into that object or makes a new one.
    ``object_of`` (n,) is filled, -1 where a buffer conflicts with none; ``sizes`` (n,) with the objects' bytes.
    ``head`` and ``link`` (n,) and ``work`` (3, n) are scratch.

    Notes
    -----
    O(n^2), and up to O(n) more each time a buffer loses the object that was nearest.
    """
    n = nbytes.shape[0]
    left = 0
    n_objects = 0
    never = 1 << 62
    for i in range(n):
        object_of[i] = -1
        link[i] = -1
        work[0, i] = -1
        work[1, i] = never
        work[2, i] = -1
        if nbytes[i] > 0 and lower[i] < upper[i]:
            left += 1
            work[0, i] = 0
            while work[0, i] + 1 < n_maxima and maxima[work[0, i] + 1] >= nbytes[i]:
                work[0, i] += 1
    while left > 0:
        left -= 1
        b = -1
        for i in range(n):
            if work[0, i] >= 0 and object_of[i] < 0:
                better = b < 0 or work[0, i] < work[0, b]
                if not better and work[0, i] == work[0, b]:
                    better = work[1, i] < work[1, b]
                    if work[1, i] == work[1, b]:
                        better = nbytes[i] > nbytes[b]
                if better:
                    b = i
        target = work[2, b]
        fresh = target < 0
        if fresh:
            target = n_objects
            n_objects += 1
            head[target] = -1
            sizes[target] = 0
        object_of[b] = target
        sizes[target] = max(sizes[target], nbytes[b])
        link[b] = head[target]
        head[target] = b
        for i in range(n):
            if work[0, i] < 0 or object_of[i] >= 0:
                continue
            steps = apart(i, b, lower, upper)
            if steps < 0 and work[2, i] == target:
                work[1, i] = never
                work[2, i] = -1
                for k in range(n_objects):
                    steps = nearest(i, head[k], lower, upper, link)
                    if steps >= 0 and steps < work[1, i]:
                        work[1, i] = steps
                        work[2, i] = k
            elif steps >= 0 and steps < work[1, i] and nearest(i, head[target], lower, upper, link) >= 0:
                work[1, i] = steps
                work[2, i] = target
    return n_objects


@kernel
def objects_in_turn(
    order: I64, closest: int, lower: I64, upper: I64, nbytes: I64, head: I64, link: I64, object_of: I64, sizes: I64
) -> int:
    """Put one buffer after the other, as `order` says, into the object that fits best; return how many objects.

    `closest` 0: into the smallest free object that is large enough, else the largest free one, which grows. 1: into the
    one whose size differs least. 2: into the first that is large enough. With none free, a new one. Arguments else as
    for `objects_by_size`.

    Notes
    -----
    O(n^2) in the worst case.
    """
    n_objects = 0
    for i in range(nbytes.shape[0]):
        object_of[i] = -1
        link[i] = -1
    for turn in range(order.shape[0]):
        i = order[turn]
        size = nbytes[i]
        if size == 0 or lower[i] >= upper[i]:
            continue
        above = -1
        below = -1
        for k in range(n_objects):
            better = above < 0 or (closest < 2 and sizes[k] < sizes[above])
            if sizes[k] < size:
                # of equal ones, the pool of the delegate yields the last
                better = below < 0 or sizes[k] > sizes[below] or (closest == 1 and sizes[k] == sizes[below])
            if better and nearest(i, head[k], lower, upper, link) >= 0:
                if sizes[k] < size:
                    below = k
                else:
                    above = k
        target = above if above >= 0 else below
        if closest == 1 and above >= 0 and below >= 0 and size - sizes[below] < sizes[above] - size:
            target = below
        if target < 0:
            target = n_objects
            n_objects += 1
            head[target] = -1
            sizes[target] = 0
        object_of[i] = target
        sizes[target] = max(sizes[target], size)
        link[i] = head[target]
        head[target] = i
    return n_objects


@kernel
def objects_by_flow(order: I64, lower: I64, upper: I64, nbytes: I64, work: I64, object_of: I64, sizes: I64) -> int:
    """Share objects so that the bytes by which each buffer exceeds the one before it add up to least.

    That is a flow of least cost from each buffer to the next in its object, here solved as an assignment: a buffer
    gets either one that is dead before it is born, at the cost of the bytes by which it is larger, or a new object, at
    the cost of its size. An object's size is the largest of its buffers, so the sum of costs is only an estimate of
    it. `order` has the buffers by birth. ``work`` (7, 2 * n + 1) is scratch; else as for `objects_by_size`.

    Notes
    -----
    The Hungarian algorithm with potentials, O(n^3).
    """
    never = 1 << 62
    n = 0
    for k in range(order.shape[0]):
        i = order[k]
        object_of[i] = -1
        if nbytes[i] > 0 and lower[i] < upper[i]:
            work[0, n] = i
            n += 1
    # rows: 1 potential of a buffer, 2 of a choice, 3 whose a choice is, 4 slack, 5 where a path came from, 6 seen.
    # Choice 1 .. n is a buffer that comes before, n + 1 .. 2n a new object; 0 is where a path starts.
    for j in range(2 * n + 1):
        work[1, j] = 0
        work[2, j] = 0
        work[3, j] = 0
    for row in range(1, n + 1):
        work[3, 0] = row
        here = 0
        for j in range(2 * n + 1):
            work[4, j] = never
            work[6, j] = 0
        while work[3, here] != 0:
            work[6, here] = 1
            r = work[3, here]
            i = work[0, r - 1]
            least = never
            following = 0
            for j in range(1, 2 * n + 1):
                if work[6, j] == 1:
                    continue
                cost = -1
                if j == n + r:
                    cost = nbytes[i]
                elif j < r and upper[work[0, j - 1]] <= lower[i]:
                    cost = max(nbytes[i] - nbytes[work[0, j - 1]], 0)
                if cost >= 0 and cost - work[1, r] - work[2, j] < work[4, j]:
                    work[4, j] = cost - work[1, r] - work[2, j]
                    work[5, j] = here
                if work[4, j] < least:
                    least = work[4, j]
                    following = j
            for j in range(2 * n + 1):
                if work[6, j] == 1:
                    work[1, work[3, j]] += least
                    work[2, j] -= least
                elif work[4, j] < never:
                    work[4, j] -= least
            here = following
        while here != 0:
            work[3, here] = work[3, work[5, here]]
            here = work[5, here]
    n_objects = 0
    for j in range(1, 2 * n + 1):
        if work[3, j] != 0:
            work[4, work[3, j]] = j
    for r in range(1, n + 1):
        i = work[0, r - 1]
        j = work[4, r]
        if j > n:
            object_of[i] = n_objects
            sizes[n_objects] = 0
            n_objects += 1
        else:
            object_of[i] = object_of[work[0, j - 1]]
        sizes[object_of[i]] = max(sizes[object_of[i]], nbytes[i])
    return n_objects
