"""Chains of stages trained with recomputation: frontiers of bytes against extra cost, and what a plan takes.

A plan is a binary tree written in preorder, one number a node. A node is told stages ``a`` to ``b``, of which the
input is in memory already. Below 0, ``-1 - o``: stage `a` runs keeping what its option ``o`` saves, stages
``a + 1`` to ``b`` follow (one child), then `a` runs backward. Above 0, ``j``: stages ``a`` to ``j - 1`` run and keep
nothing but the last output; ``j`` to ``b`` follow (first child), that output is freed, and ``a`` to ``j - 1`` are
done from the start (second child). Each stage is kept by exactly one node.

Columns of a chain of n stages, all bytes beside the input of the stage that is named:

cost            (n,) forward cost
lead            (n,) what of it makes the stage's input; not spent where a part begins that is done again
act             (n + 1,) bytes of the input of each stage, and of the last output
held            (n,) gradient of the stage's output while the stages before it are done again; 0 for the last
first, through  (n,) bytes while a stage runs and keeps nothing: its input beside it, or counted and freed after
opt_ptr         (n + 1,) where the options of each stage are in the next four
extra           cost of an option beside one forward and one backward run; 0 for the first of a stage
saved           bytes that it keeps, the output of the stage among them
fwd, bwd        bytes while the stage runs forward, and backward
"""

from __future__ import annotations

import numpy as np

from cnnlive._kernels._jit import kernel
from cnnlive._types import F32, F64, I32, I64


@kernel
def merge(
    n: int, h: int, low: int, high: int, begin: int, base: float, shift: int, floor: int, choice: int, need: I64,
    over: F64, row_need: I64, row_over: F64, row_back: I64, new_need: I64, new_over: F64, new_back: I64,
) -> int:  # fmt: skip
    """Merge into entries `h` to `n` of a row the points `low` to `high` of a finished one; return the new length.

    Points run from most bytes to least, cost rising. A point of the finished row costs `base` more and takes `shift`
    bytes more, at least `floor`. -1 if the row is full.
    """
    last = row_need[h - 1] if h else 1 << 62
    x = 0
    v = 0.0
    back = 0
    i = low
    r = h
    k = h
    while i < high or r < n:
        if r == n or (i < high and base + over[i] < row_over[r]):
            x = max(shift + need[i], floor)
            v = base + over[i]
            back = (choice << 32) | (i - begin)
            i = high if x == floor else i + 1
        else:
            x = row_need[r]
            v = row_over[r]
            back = row_back[r]
            r += 1
        if x < last:
            if k == new_need.shape[0]:
                return -1
            last = x
            new_need[k] = x
            new_over[k] = v
            new_back[k] = back
            k += 1
    for r in range(h, k):
        row_need[r] = new_need[r]
        row_over[r] = new_over[r]
        row_back[r] = new_back[r]
    return k


@kernel
def scatter(
    low: int, high: int, begin: int, base: float, shift: int, floor: int, choice: int, origin: int,
    scale: float, need: I64, over: F64, row_need: I64, row_over: F64, row_back: I64,
) -> None:  # fmt: skip
    """Put the points `low` to `high` of a finished row, changed as by `merge`, into the slots of a row.

    A slot keeps its cheapest point, and the entry behind the last one that of fewest bytes.
    """
    least = row_need.shape[0] - 1
    x = 0
    v = 0.0
    back = 0
    i = low
    while i < high:
        x = max(shift + need[i], floor)
        v = base + over[i]
        back = (choice << 32) | (i - begin)
        i = high if x == floor else i + 1
        slot = int(np.sqrt((x - origin) * scale)) if scale else x - origin
        if v < row_over[slot] or (v == row_over[slot] and x < row_need[slot]):
            row_need[slot] = x
            row_over[slot] = v
            row_back[slot] = back
    if x < row_need[least] or (x == row_need[least] and v < row_over[least]):
        row_need[least] = x
        row_over[least] = v
        row_back[least] = back


@kernel
def collect(at: int, need: I64, over: F64, back: I64, row_need: I64, row_over: F64, row_back: I64) -> int:
    """Write the points of a row of slots that none is better than, from most bytes to least; return how many."""
    last = row_need.shape[0] - 1
    count = 1
    v = row_over[last]
    for slot in range(last):
        if row_over[slot] < v:
            v = row_over[slot]
            count += 1
    k = at + count - 1
    v = row_over[last]
    need[k] = row_need[last]
    over[k] = v
    back[k] = row_back[last]
    for slot in range(last):
        if row_over[slot] < v:
            v = row_over[slot]
            k -= 1
            need[k] = row_need[slot]
            over[k] = v
            back[k] = row_back[slot]
    return count


@kernel
def first_below(low: int, high: int, bytes_: int, need: I64) -> int:
    """Return the first of points `low` to `high`, bytes falling, that takes less than `bytes_`."""
    while low < high:
        mid = (low + high) >> 1
        if need[mid] < bytes_:
            high = mid
        else:
            low = mid + 1
    return low


@kernel
def one_level(
    begin: int, slots: int, cost: F64, lead: F64, act: I64, held: I64, first: I64, through: I64, opt_ptr: I64,
    extra: F64, saved: I64, fwd: I64, bwd: I64, state: I64, row_ptr: I64, need: I64, over: F64, back: I64,
    row_need: I64, row_over: F64, row_back: I64, new_need: I64, new_over: F64, new_back: I64,
) -> int:  # fmt: skip
    """Fill the rows of stages `begin` down to 0: bytes against extra cost of that stage and all behind it.

    Each stage is run forward at most twice. The row of stage ``j`` is ``need[row_ptr[n - 1 - j]:row_ptr[n - j]]``, from
    most bytes to least; ``back`` holds the choice of the node in its upper half and the place in the next row in its
    lower one. ``state[0]`` is the need of keeping everything from `begin` + 1 on. `slots` is how many points of a row
    are told apart, its own need of keeping everything parted evenly; 0 for all. ``need`` and ``over`` end in a zero.
    Returns the stage at which room ran out, -1 if none did.
    """
    n = cost.shape[0]
    for j in range(begin, -1, -1):
        at = row_ptr[n - 1 - j]
        o = opt_ptr[j]
        sat = max(fwd[o], bwd[o], saved[o] + state[0])
        # Each stage is kept once, so no plan takes less than origin.
        origin = max(fwd[o], bwd[o])
        for o in range(opt_ptr[j] + 1, opt_ptr[j + 1]):
            origin = min(origin, max(fwd[o], bwd[o]))
        origin = max(origin, state[1])
        scale = slots * (slots / (sat - origin)) if sat - origin > slots else 0.0
        least = row_need.shape[0] - 1
        size = 0
        if slots:
            for slot in range(least + 1):
                row_over[slot] = np.inf
            row_need[least] = 1 << 62
        base = 0.0
        acc = 0
        sweep = first[j]
        forward = 0
        backward = 0
        # First every option of this stage, then the segments from here to stage k.
        n_options = opt_ptr[j + 1] - opt_ptr[j]
        reach = least  # in slots: the first that costs no more than base; otherwise the first entry that costs more
        best = 1 << 62  # bytes of a point that costs no more than base
        for t in range(n_options + n - 1 - j):
            k = j + 1
            if t < n_options:
                o = opt_ptr[j] + t
                base = extra[o]
                shift = saved[o]
                floor = max(fwd[o], bwd[o])
                choice = -1 - t
                reach = least if slots else 0
                best = 1 << 62
            else:
                k = j + 1 + t - n_options
                o = opt_ptr[k - 1]
                if t == n_options:
                    base = -lead[j]
                    reach = least if slots else 0
                    best = 1 << 62
                else:
                    sweep = max(sweep, through[k - 1])
                base += cost[k - 1]
                forward = max(forward, acc + fwd[o])
                backward = max(backward, acc + bwd[o])
                acc += saved[o]
                shift = act[k]
                floor = max(sweep, forward, backward)
                choice = k
            if slots:
                for slot in range(reach):
                    if row_over[slot] <= base:
                        reach = slot
                        best = row_need[slot]
                        break
            else:
                while reach < size and row_over[reach] <= base:
                    best = row_need[reach]
                    reach += 1
            if t >= n_options:
                if best <= floor:
                    break  # base and floor only grow
                floor = max(floor, forward + held[k - 1])
            low = row_ptr[n - 1 - k] if k < n else need.shape[0] - 1
            high = row_ptr[n - k] if k < n else need.shape[0]
            if max(floor, shift + need[high - 1]) >= best:
                continue
            start = first_below(low, high, best - shift, need)
            if slots:
                scatter(start, high, low, base, shift, floor, choice, origin, scale, need, over, row_need,
                        row_over, row_back)  # fmt: skip
            else:
                size = merge(size, reach, start, high, low, base, shift, floor, choice, need, over, row_need, row_over,
                             row_back, new_need, new_over, new_back)  # fmt: skip
                if size < 0:
                    return j
        if slots:
            size = collect(at, need, over, back, row_need, row_over, row_back)
        elif at + size >= need.shape[0]:
            return j
        else:
            for r in range(size):
                need[at + r] = row_need[r]
                over[at + r] = row_over[r]
                back[at + r] = row_back[r]
        row_ptr[n - j] = at + size
        state[0] = sat
        state[1] = origin
    return -1


@kernel
def least_one_level(
    act: I64, held: I64, first: I64, through: I64, opt_ptr: I64, saved: I64, fwd: I64, bwd: I64, row_ptr: I64,
    need: I64, back: I64,
) -> None:  # fmt: skip
    """Fill rows of one point each as `one_level` does: the least bytes of each stage and all behind it."""
    n = held.shape[0]
    for j in range(n - 1, -1, -1):
        at = n - 1 - j
        best = 1 << 62
        choice = 0
        for o in range(opt_ptr[j], opt_ptr[j + 1]):
            x = max(fwd[o], bwd[o], saved[o] + (need[at - 1] if at else 0))
            if x < best:
                best = x
                choice = -1 - (o - opt_ptr[j])
        acc = 0
        floor = first[j]
        forward = 0
        for k in range(j + 1, n):
            o = opt_ptr[k - 1]
            if k > j + 1:
                floor = max(floor, through[k - 1])
            forward = max(forward, acc + fwd[o])
            floor = max(floor, acc + bwd[o], forward)
            if floor >= best:
                break
            acc += saved[o]
            x = max(floor, forward + held[k - 1], act[k] + need[n - 1 - k])
            if x < best:
                best = x
                choice = k
        need[at] = best
        back[at] = choice << 32
        row_ptr[at + 1] = at + 1


@kernel
def one_level_plans(begin: int, end: int, n: int, row_ptr: I64, back: I64, plan_ptr: I64, nodes: I32) -> int:
    """Write the plans of points `begin` to `end` of the first row; return how many were written before room ran out."""
    size = plan_ptr[begin]
    for p in range(begin, end):
        if size + 2 * n > nodes.shape[0]:
            return p
        j = 0
        i = p
        top = size
        while j < n:
            word = back[row_ptr[n - 1 - j] + i]
            c = word >> 32
            i = word & 0xFFFFFFFF
            nodes[top] = c
            top += 1
            j = j + 1 if c < 0 else c
        # What was dropped is done from the last segment to the first, keeping everything.
        spine = top
        k = spine - 1
        j = n
        while k >= size:
            c = nodes[k]
            if c > 0:
                k -= 1
                a = 0
                # The segment begins where the node before it ends.
                t = k
                while t >= size and nodes[t] < 0:
                    t -= 1
                a = (nodes[t] if t >= size else 0) + (k - t)
                for _ in range(c - a):
                    nodes[top] = -1
                    top += 1
            else:
                k -= 1
        size = top
        plan_ptr[p + 1] = size
    return end


@kernel
def limits(
    act: I64, held: I64, first: I64, through: I64, opt_ptr: I64, extra: F64, saved: I64, fwd: I64, bwd: I64, least: I64,
    free: I64,
) -> None:  # fmt: skip
    """Fill the least bytes of stages a to b, nested as deep as need be, and the least at no extra cost."""
    n = held.shape[0]
    for a in range(n - 1, -1, -1):
        for b in range(a, n):
            best = 1 << 62
            none = 1 << 62
            for o in range(opt_ptr[a], opt_ptr[a + 1]):
                floor = max(held[b] + fwd[o], bwd[o])
                x = floor if a == b else max(floor, saved[o] + least[a + 1, b])
                best = min(best, x)
                if extra[o] == 0.0:
                    x = floor if a == b else max(floor, saved[o] + free[a + 1, b])
                    none = min(none, x)
            sweep = held[b] + first[a]
            for j in range(a + 1, b + 1):
                if sweep >= best:
                    break
                best = min(best, max(sweep, least[a, j - 1], act[j] + least[j, b]))
                sweep = max(sweep, held[b] + through[j])
            least[a, b] = best
            free[a, b] = none


@kernel
def lay_out(most: int, least: I64, free: I64, rows: I64, columns: I64) -> int:
    """Fill where the rows of the table are, for up to `most` slots; return the table's length.

    ``rows[a, b]`` is told the first slot of the row of stages a to b, the slot behind its last one, from which on the
    extra cost is 0, and where slot 0 would lie; ``columns[b, a]`` the same, since both are walked along.
    """
    n = least.shape[0]
    size = 0
    for a in range(n - 1, -1, -1):
        for b in range(a, n):
            end = min(free[a, b], most + 1)
            rows[a, b, 0] = least[a, b]
            rows[a, b, 1] = end
            rows[a, b, 2] = size - least[a, b]
            for i in range(3):
                columns[b, a, i] = rows[a, b, i]
            size += max(0, end - least[a, b])
    return size


@kernel
def lower_by_one(row: F32, at: int, count: int, table: F32, x: int, base: np.float32) -> None:
    """Lower `count` entries of a row from `at` on to ``base`` and those of the table from `x` on, where that is less.

    Unsigned places, which cannot count from the end, are what lets the loop run on several entries at a time.
    """
    to = np.uint64(at)
    p = np.uint64(x)
    for i in range(np.uint64(count)):
        v = base + table[p + i]
        row[to + i] = min(row[to + i], v)


@kernel
def lower_by_two(row: F32, at: int, count: int, table: F32, x: int, y: int, base: np.float32) -> None:
    """Lower entries of a row as `lower_by_one` does, to the sum of ``base`` and two parts of the table."""
    to = np.uint64(at)
    p = np.uint64(x)
    q = np.uint64(y)
    for i in range(np.uint64(count)):
        v = base + table[p + i] + table[q + i]
        row[to + i] = min(row[to + i], v)


@kernel
def nested(
    cost: F64, lead: F64, act: I64, held: I64, first: I64, through: I64, opt_ptr: I64, extra: F64, saved: I64,
    fwd: I64, bwd: I64, rows: I64, columns: I64, row: F32, table: F32,
) -> None:  # fmt: skip
    """Fill the extra cost of stages a to b for each number of slots from the least to what costs nothing.

    A row falls with the slots, so a candidate that costs `base` at least is of use only left of where the row reaches
    that; and only the part of it between is looked at.
    """
    n = held.shape[0]
    for a in range(n - 1, -1, -1):
        for b in range(a, n):
            low = rows[a, b, 0]
            high = rows[a, b, 1]
            if high <= low:
                continue
            for m in range(high - low):
                row[m] = np.float32(np.inf)
            for o in range(opt_ptr[a], opt_ptr[a + 1]):
                base = np.float32(extra[o])
                begin = max(low, held[b] + fwd[o], bwd[o])
                end = begin
                if a < b:
                    begin = max(begin, saved[o] + columns[b, a + 1, 0])
                    end = min(high, saved[o] + columns[b, a + 1, 1])
                    if begin < end:
                        q = columns[b, a + 1, 2] - saved[o]
                        lower_by_one(row, begin - low, end - begin, table, q + begin, base)
                for m in range(max(begin, end), high):
                    row[m - low] = min(row[m - low], base)
            total = -lead[a]
            sweep = held[b] + first[a]
            h = high
            for j in range(a + 1, b + 1):
                total += cost[j - 1]
                base = np.float32(total)
                while h > low and row[h - 1 - low] <= base:
                    h -= 1
                if h <= sweep or h <= low:
                    break
                begin = max(low, sweep, rows[a, j - 1, 0], act[j] + columns[b, j, 0])
                sweep = max(sweep, held[b] + through[j])
                if begin >= h:
                    continue
                # Two rows, each up to where it is 0.
                x_end = max(begin, min(h, act[j] + columns[b, j, 1]))
                y_end = max(begin, min(h, rows[a, j - 1, 1]))
                both = min(x_end, y_end)
                q = columns[b, j, 2] - act[j]
                p = rows[a, j - 1, 2]
                if begin < both:
                    lower_by_two(row, begin - low, both - begin, table, q + begin, p + begin, base)
                if both < x_end:
                    lower_by_one(row, both - low, x_end - both, table, q + both, base)
                if both < y_end:
                    lower_by_one(row, both - low, y_end - both, table, p + both, base)
                for m in range(max(x_end, y_end), h):
                    row[m - low] = min(row[m - low], base)
            q = rows[a, b, 2]
            for m in range(low, high):
                table[q + m] = row[m - low]


@kernel
def estimate(first: int, end: int, origin: int, slot: int, table: F32) -> float:
    """Return the extra cost that a row of the table has for so many slots, or for those next to them that it has."""
    v = 0.0
    if slot < end:
        v = float(table[origin + max(slot, first)])
    elif end <= first:
        v = 1e30
    return v


@kernel
def nested_plans(
    budget: I64, scale: float, cost: F64, lead: F64, act: I64, held: I64, first: I64, through: I64, opt_ptr: I64,
    extra: F64, saved: I64, fwd: I64, bwd: I64, least: I64, free: I64, rows: I64, columns: I64, table: F32, stack: I64,
    plan_ptr: I64, nodes: I32,
) -> None:  # fmt: skip
    """Write a plan for each budget, of bytes beside the chain's input and none below the least; `scale` slots a byte.

    What a node may take is counted in bytes, so no plan passes its budget; the table, of slots, says what to prefer.
    """
    n = held.shape[0]
    size = 0
    for p in range(budget.shape[0]):
        stack[0, 0] = 0
        stack[0, 1] = n - 1
        stack[0, 2] = budget[p]
        top = 1
        while top:
            top -= 1
            a = stack[top, 0]
            b = stack[top, 1]
            m = stack[top, 2]
            best = np.inf
            found = 0
            for o in range(opt_ptr[a], opt_ptr[a + 1]):
                if extra[o] < best and m >= max(held[b] + fwd[o], bwd[o]):
                    rest = m - saved[o]
                    v = extra[o]
                    if a < b and rest < least[a + 1, b]:
                        continue
                    if a < b and rest < free[a + 1, b]:
                        v += estimate(columns[b, a + 1, 0], columns[b, a + 1, 1], columns[b, a + 1, 2],
                                      int(rest * scale + 0.5), table)  # fmt: skip
                    if v < best:
                        best = v
                        found = -1 - (o - opt_ptr[a])
            total = -lead[a]
            sweep = held[b] + first[a]
            slot = int(m * scale + 0.5)
            for j in range(a + 1, b + 1):
                total += cost[j - 1]
                if total >= best or sweep > m:
                    break
                sweep = max(sweep, held[b] + through[j])
                rest = m - act[j]
                if rest >= least[j, b] and m >= least[a, j - 1]:
                    v = total
                    if rest < free[j, b]:
                        v += estimate(columns[b, j, 0], columns[b, j, 1], columns[b, j, 2], int(rest * scale + 0.5),
                                      table)  # fmt: skip
                    if m < free[a, j - 1]:
                        v += estimate(rows[a, j - 1, 0], rows[a, j - 1, 1], rows[a, j - 1, 2], slot, table)
                    if v < best:
                        best = v
                        found = j
            if found > 0:
                stack[top, 1] = found - 1
                stack[top + 1, 0] = found
                stack[top + 1, 1] = b
                stack[top + 1, 2] = m - act[found]
                top += 2
            elif a < b:
                stack[top, 0] = a + 1
                stack[top, 2] = m - saved[opt_ptr[a] - found - 1]
                top += 1
            nodes[size] = found
            size += 1
        plan_ptr[p + 1] = size


@kernel
def merge_pairs(
    n: int, h: int, x: int, x_begin: int, x_end: int, y: int, y_begin: int, y_end: int, base: float, shift: int,
    floor: int, choice: int, need: I64, over: F64, row_need: I64, row_over: F64, row_back: I64, new_need: I64,
    new_over: F64, new_back: I64,
) -> int:  # fmt: skip
    """Merge into entries `h` to `n` of a row what two finished ones give together; return the new length.

    A pair costs `base` and what both cost, and takes as many bytes as the larger need, `shift` added to the first one,
    and at least `floor`. ``back`` is told the choice, and the place in either row in 22 bits. -1 if the row is full.
    """
    last = row_need[h - 1] if h else 1 << 62
    bytes_ = 0
    v = 0.0
    back = 0
    r = h
    k = h
    more = True
    while more or r < n:
        if r == n or (more and base + over[x] + over[y] < row_over[r]):
            v = base + over[x] + over[y]
            back = (choice << 44) | ((x - x_begin) << 22) | (y - y_begin)
            one = shift + need[x]
            two = need[y]
            bytes_ = max(one, two, floor)
            if one >= two:
                x += 1
            if two >= one:
                y += 1
            more = bytes_ > floor and x < x_end and y < y_end
        else:
            bytes_ = row_need[r]
            v = row_over[r]
            back = row_back[r]
            r += 1
        if bytes_ < last:
            if k == new_need.shape[0]:
                return -1
            last = bytes_
            new_need[k] = bytes_
            new_over[k] = v
            new_back[k] = back
            k += 1
    for r in range(h, k):
        row_need[r] = new_need[r]
        row_over[r] = new_over[r]
        row_back[r] = new_back[r]
    return k


@kernel
def lists(
    begin: int, at: int, cost: F64, lead: F64, act: I64, held: I64, first: I64, through: I64, opt_ptr: I64, extra: F64,
    saved: I64, fwd: I64, bwd: I64, rows: I64, need: I64, over: F64, back: I64, row_need: I64, row_over: F64,
    row_back: I64, new_need: I64, new_over: F64, new_back: I64,
) -> int:  # fmt: skip
    """Fill the whole frontier of stages a to b, for all of them, in exact bytes; nothing is rounded or left out.

    The list of stages a to b is ``need[rows[a, b, 0]:rows[a, b, 1]]``, from most bytes to least. Lists are made in
    rising order of ``(n - 1 - a) * n + b``, from the one numbered `begin` on, which goes to `at`. Returns the number of
    the list at which room ran out, -1 if none did.
    """
    n = held.shape[0]
    for number in range(begin, n * n):
        a = n - 1 - number // n
        b = number % n
        if b < a:
            continue
        size = 0
        for o in range(opt_ptr[a], opt_ptr[a + 1]):
            floor = max(held[b] + fwd[o], bwd[o])
            low = rows[a + 1, b, 0] if a < b else need.shape[0] - 1
            high = rows[a + 1, b, 1] if a < b else need.shape[0]
            h = 0
            while h < size and row_over[h] <= extra[o]:
                h += 1
            size = merge(size, h, low, high, low, extra[o], saved[o], floor, -1 - (o - opt_ptr[a]), need, over,
                         row_need, row_over, row_back, new_need, new_over, new_back)  # fmt: skip
            if size < 0:
                return number
        base = -lead[a]
        sweep = first[a]
        h = 0
        for j in range(a + 1, b + 1):
            base += cost[j - 1]
            while h < size and row_over[h] <= base:
                h += 1
            floor = held[b] + sweep
            sweep = max(sweep, through[j])
            best = row_need[h - 1] if h else 1 << 62
            if best <= floor:
                break
            x_end = rows[j, b, 1]
            y_end = rows[a, j - 1, 1]
            least = max(floor, act[j] + need[x_end - 1], need[y_end - 1])
            if least >= best:
                continue
            # The dearer the first pair is, the fewer bytes it has to take.
            x = first_below(rows[j, b, 0], x_end, best - act[j], need)
            y = first_below(rows[a, j - 1, 0], y_end, best, need)
            r = h
            while r < size and row_over[r] <= base + over[x] + over[y]:
                r += 1
            if r > h:
                best = row_need[r - 1]
                if least >= best:
                    continue
                x = first_below(x, x_end, best - act[j], need)
                y = first_below(y, y_end, best, need)
            size = merge_pairs(size, r, x, rows[j, b, 0], x_end, y, rows[a, j - 1, 0], y_end, base, act[j], floor, j,
                               need, over, row_need, row_over, row_back, new_need, new_over, new_back)  # fmt: skip
            if size < 0:
                return number
        if at + size >= need.shape[0]:
            return number
        rows[a, b, 0] = at
        for r in range(size):
            need[at] = row_need[r]
            over[at] = row_over[r]
            back[at] = row_back[r]
            at += 1
        rows[a, b, 1] = at
    return -1


@kernel
def lists_plans(begin: int, end: int, rows: I64, back: I64, stack: I64, plan_ptr: I64, nodes: I32) -> int:
    """Write the plans of points `begin` to `end` of the chain; return how many were written before room ran out."""
    n = rows.shape[0]
    size = plan_ptr[begin]
    for p in range(begin, end):
        if size + 2 * n > nodes.shape[0]:
            return p
        stack[0, 0] = 0
        stack[0, 1] = n - 1
        stack[0, 2] = p
        top = 1
        while top:
            top -= 1
            a = stack[top, 0]
            b = stack[top, 1]
            word = back[rows[a, b, 0] + stack[top, 2]]
            if word < 0:
                nodes[size] = word >> 32
                if a < b:
                    stack[top, 0] = a + 1
                    stack[top, 2] = word & 0xFFFFFFFF
                    top += 1
            else:
                j = word >> 44
                nodes[size] = j
                stack[top, 1] = j - 1
                stack[top, 2] = word & 0x3FFFFF
                stack[top + 1, 0] = j
                stack[top + 1, 1] = b
                stack[top + 1, 2] = (word >> 22) & 0x3FFFFF
                top += 2
            size += 1
        plan_ptr[p + 1] = size
    return end


@kernel
def measure(
    cost: F64, lead: F64, act: I64, held: I64, first: I64, through: I64, opt_ptr: I64, extra: F64,
    saved: I64, fwd: I64, bwd: I64, plan_ptr: I64, nodes: I32, stack: I64, lower: I64, upper: I64, peak: I64, over: F64,
) -> None:  # fmt: skip
    """Fill peak bytes and extra cost of plans, from their trees."""
    n = held.shape[0]
    for p in range(peak.shape[0]):
        low = plan_ptr[p]
        size = plan_ptr[p + 1] - low
        stack[0, 0] = 0
        stack[0, 1] = n - 1
        top = 1
        for t in range(size):
            top -= 1
            a = stack[top, 0]
            b = stack[top, 1]
            lower[t] = a
            upper[t] = b
            c = nodes[low + t]
            if c > 0:
                stack[top, 0] = a
                stack[top, 1] = c - 1
                top += 1
                stack[top, 0] = c
                stack[top, 1] = b
                top += 1
            elif a < b:
                stack[top, 0] = a + 1
                stack[top, 1] = b
                top += 1
        # From the last node back, both children of a node are done before it: the first lies on top.
        total = 0.0
        for t in range(size - 1, -1, -1):
            a = lower[t]
            b = upper[t]
            c = nodes[low + t]
            if c < 0:
                o = opt_ptr[a] - c - 1
                x = max(held[b] + fwd[o], bwd[o])
                if a < b:
                    top -= 1
                    x = max(x, saved[o] + stack[top, 2])
                total += extra[o]
            else:
                sweep = first[a]
                total += cost[a] - lead[a]
                for k in range(a + 1, c):
                    sweep = max(sweep, through[k])
                    total += cost[k]
                top -= 2
                x = max(held[b] + sweep, act[c] + stack[top + 1, 2], stack[top, 2])
            stack[top, 2] = x
            top += 1
        peak[p] = act[0] + stack[0, 2]
        over[p] = total


@kernel
def spell(nodes: I32, stack: I64, kind: I32, stage: I32, option: I32) -> int:
    """Write the runs of one plan, each with its stage; return how many.

    Kinds: 0 a stage runs, keeps nothing of itself, and leaves its input; 1 the same, its input is freed; 2 it runs and
    keeps what `option` saves; 3 it runs backward.
    """
    n = stack.shape[0] // 2 - 1
    stack[0, 0] = 0
    stack[0, 1] = n - 1
    top = 1
    size = 0
    t = 0
    while top:
        top -= 1
        a = stack[top, 0]
        b = stack[top, 1]
        if b < 0:  # what is left of a node once its child is done
            kind[size] = 3
            stage[size] = a
            option[size] = -1 - b
            size += 1
            continue
        c = nodes[t]
        t += 1
        if c > 0:
            for k in range(a, c):
                kind[size] = 0 if k == a else 1
                stage[size] = k
                option[size] = 0
                size += 1
            stack[top, 0] = a
            stack[top, 1] = c - 1
            top += 1
            stack[top, 0] = c
            stack[top, 1] = b
            top += 1
        else:
            kind[size] = 2
            stage[size] = a
            option[size] = -1 - c
            size += 1
            stack[top, 1] = c
            top += 1
            if a < b:
                stack[top, 0] = a + 1
                stack[top, 1] = b
                top += 1
    return size


@kernel
def replay(
    kind: I32, stage: I32, option: I32, act: I64, grad: I64, opt_ptr: I64, saved: I64, temp: I64, fwd_temp: I64,
    bwd_temp: I64, alone: I64, live: I64,
) -> int:  # fmt: skip
    """Fill the bytes in memory during each run, by what it makes and frees; return the most.

    `temp` is scratch of a stage that keeps nothing, the other two of each option; ``alone`` (n + 1,) is scratch, where
    a stage's input that belongs to nobody's savings is marked.
    """
    n = temp.shape[0]
    for k in range(n + 1):
        alone[k] = 0
    alone[0] = 1
    now = act[0]
    peak = now
    for r in range(kind.shape[0]):
        k = stage[r]
        o = opt_ptr[k] + option[r]
        if kind[r] < 2:
            now += act[k + 1]
            live[r] = now + temp[k]
            alone[k + 1] = 1
            if kind[r] == 1:
                now -= act[k]
                alone[k] = 0
        elif kind[r] == 2:
            now += saved[o]
            live[r] = now + fwd_temp[o]
        else:
            if k == n - 1:
                now += grad[n]
            now += grad[k]
            live[r] = now + bwd_temp[o]
            now -= saved[o] + grad[k + 1]
            if alone[k]:
                now -= act[k]
                alone[k] = 0
        peak = max(peak, live[r])
    most: int = peak
    return most


@kernel
def even_plans(n: int, counts: I64, plan_ptr: I64, nodes: I32) -> None:
    """Write plans of so many segments of an equal number of stages, of which the last is not done again."""
    size = 0
    for p in range(counts.shape[0]):
        k = counts[p]
        length = n // k
        for s in range(1, k):
            nodes[size] = s * length
            size += 1
        for _ in range(n):
            nodes[size] = -1
            size += 1
        plan_ptr[p + 1] = size


@kernel
def greedy_plans(limit: I64, opt_ptr: I64, saved: I64, plan_ptr: I64, nodes: I32) -> None:
    """Write a plan for each limit: a segment ends where its stages, kept whole, take more bytes than that."""
    n = opt_ptr.shape[0] - 1
    size = 0
    for p in range(limit.shape[0]):
        acc = 0
        for k in range(n - 1):
            acc += saved[opt_ptr[k]]
            if acc > limit[p]:
                nodes[size] = k + 1
                size += 1
                acc = 0
        for _ in range(n):
            nodes[size] = -1
            size += 1
        plan_ptr[p + 1] = size


@kernel
def revolve_plan(n: int, free: int, stack: I64, nodes: I32) -> int:
    """Write the binomial plan of n stages with room for `free` inputs beside the one in hand; return its nodes.

    With ``beta(s, r) = binomial(s + r, s)`` and r the least such that l stages are at most ``beta(s + 1, r)``, none
    takes more runs than one whose second part has up to ``beta(s + 1, r - 1)`` stages and the rest at least
    ``beta(s, r - 1)``.
    """
    stack[0, 0] = 0
    stack[0, 1] = n - 1
    stack[0, 2] = free
    top = 1
    size = 0
    while top:
        top -= 1
        a = stack[top, 0]
        b = stack[top, 1]
        s = stack[top, 2]
        length = b - a + 1
        if length == 1:
            nodes[size] = -1
            size += 1
            continue
        left = length - 1
        if s > 0:
            r = 0
            beta = 1  # (s + 1, r)
            while beta < length:
                r += 1
                beta = beta * (s + 1 + r) // r
            below = beta * r // (s + 1 + r)  # (s + 1, r - 1)
            rest = below * (s + 1) // (s + r)  # (s, r - 1)
            left = max(1, min(below, length - rest))
        nodes[size] = a + left
        size += 1
        stack[top, 1] = a + left - 1
        stack[top + 1, 0] = a + left
        stack[top + 1, 1] = b
        stack[top + 1, 2] = max(0, s - 1)
        top += 2
    return size


@kernel
def block(
    begin: int, end: int, p: int, q: int, choice: int, cost: F64, lead: F64, act: I64, held: I64, first: I64,
    through: I64, opt_ptr: I64, extra: F64, saved: I64, fwd: I64, bwd: I64,
) -> tuple[float, int, int, int]:  # fmt: skip
    """Return extra cost, saved bytes, and bytes while forward and backward run, of stages `begin` to `end` as one.

    Stages `p` to `q` are dropped and done again; the others keep what their option `choice`, or their last, saves.
    """
    total = 0.0
    acc = 0
    forward = 0
    backward = 0
    for k in range(begin, end):
        if p <= k < q:
            forward = max(forward, acc + (first[k] if k == p else through[k]))
            total += cost[k] - (lead[k] if k == p else 0.0)
            if k == q - 1:
                again = acc
                for i in range(p, q):
                    o = opt_ptr[i]
                    backward = max(backward, again + max(held[q - 1] + fwd[o], bwd[o]))
                    again += saved[o]
                acc += act[q]
        else:
            o = min(opt_ptr[k] + choice, opt_ptr[k + 1] - 1)
            forward = max(forward, acc + fwd[o])
            backward = max(backward, acc + bwd[o])
            acc += saved[o]
            total += extra[o]
    return total, acc, forward, backward


@kernel
def coarse(
    start: I64, places: int, cost: F64, lead: F64, act: I64, held: I64, first: I64, through: I64, opt_ptr: I64,
    extra: F64, saved: I64, fwd: I64, bwd: I64, new_cost: F64, new_lead: F64, new_act: I64, new_held: I64,
    new_first: I64, new_through: I64, new_ptr: I64, new_extra: F64, new_saved: I64, new_fwd: I64, new_bwd: I64,
    part: I64,
) -> None:  # fmt: skip
    """Fill the columns of a chain whose stage ``i`` is the stages ``start[i]`` to ``start[i + 1]`` of another.

    Its options: every choice for all its stages alike, then of the runs of its stages that may be dropped at up to a
    third, two thirds and all of its forward cost those that leave least. ``part`` (n_options, 3) is told the run and
    the choice. Ends of runs are looked at in at most `places` places.
    """
    m = start.shape[0] - 1
    size = 0
    new_act[0] = act[0]
    for i in range(m):
        begin = start[i]
        end = start[i + 1]
        total = 0.0
        sweep = first[begin]
        n_choices = 1
        for k in range(begin, end):
            total += cost[k]
            n_choices = max(n_choices, opt_ptr[k + 1] - opt_ptr[k])
            if k > begin:
                sweep = max(sweep, through[k])
        new_cost[i] = total
        new_lead[i] = lead[begin]
        new_act[i + 1] = act[end]
        new_held[i] = held[end - 1]
        new_first[i] = sweep
        new_through[i] = max(sweep, act[begin] + first[begin])
        for c in range(n_choices):
            part[size, 0] = begin
            part[size, 1] = begin
            part[size, 2] = c
            size += 1
        step = max(1, (end - begin) // places)
        for third in range(1, 4):
            most = total * third / 3.0
            best = 0
            at = 0
            to = 0
            for p in range(begin, end, step):
                spent = 0.0
                gain = 0
                for q in range(p + 1, end + 1):
                    spent += cost[q - 1]
                    gain += saved[opt_ptr[q - 1]]
                    if spent > most * (1.0 + 1e-12):
                        break
                    if gain - act[q] > best:
                        best = gain - act[q]
                        at = p
                        to = q
            if best > 0:
                part[size, 0] = at
                part[size, 1] = to
                part[size, 2] = 0
                size += 1
        for o in range(new_ptr[i], size):
            e, s, f, b = block(begin, end, part[o, 0], part[o, 1], part[o, 2], cost, lead, act, held, first, through,
                               opt_ptr, extra, saved, fwd, bwd)  # fmt: skip
            new_extra[o] = e
            new_saved[o] = s
            new_fwd[o] = f
            new_bwd[o] = b
        new_ptr[i + 1] = size


@kernel
def unfold(
    start: I64, new_ptr: I64, part: I64, opt_ptr: I64, plan_ptr: I64, nodes: I32, stack: I64, fine_ptr: I64, fine: I32
) -> None:
    """Write plans of a coarse chain as plans of its stages."""
    m = start.shape[0] - 1
    size = 0
    for plan in range(plan_ptr.shape[0] - 1):
        stack[0, 0] = 0
        stack[0, 1] = m - 1
        top = 1
        t = plan_ptr[plan]
        while top:
            top -= 1
            a = stack[top, 0]
            b = stack[top, 1]
            if b < 0:  # stages that were dropped inside one of the coarse ones
                for _ in range(a):
                    fine[size] = -1
                    size += 1
                continue
            c = nodes[t]
            t += 1
            if c > 0:
                fine[size] = start[c]
                size += 1
                stack[top, 1] = c - 1
                stack[top + 1, 0] = c
                stack[top + 1, 1] = b
                top += 2
                continue
            o = new_ptr[a] - c - 1
            p = part[o, 0]
            q = part[o, 1]
            if a == b and q == start[a + 1]:
                q = p  # what would be done again at once is kept
            k = start[a]
            while k < start[a + 1]:
                if k == p and p < q:
                    fine[size] = q
                    k = q
                else:
                    fine[size] = -1 - min(part[o, 2], opt_ptr[k + 1] - opt_ptr[k] - 1)
                    k += 1
                size += 1
            if p < q:
                stack[top, 0] = q - p
                stack[top, 1] = -1
                top += 1
            if a < b:
                stack[top, 0] = a + 1
                stack[top, 1] = b
                top += 1
        fine_ptr[plan + 1] = size
