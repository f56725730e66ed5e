"""Labels of a trellis: merging equal ones in a hash table, and pairs of labels that fit together.

A *label* is a row of integers: a vector, and what it stands for in limbs of 40 bits. Vectors of one side are carried
over *arcs*: ``x[c] = v[c] + gain[arc, c]``, then ``x[target] = max(x[target], own[arc, e] + v[source])`` for every
entry `e`. A source of -1 stands for 0; a target of -1 says that the value must not be above 0. What is above `high`
of the node that the arc leads to is dropped, and what is below its `low` is raised to it.
"""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import F64, I64


@kernel
def advance(
    rows: I64, begin: int, end: int, gain: I64, own: I64, a: int, source: I64, target: I64, low: I64, high: I64,
    node: int, x: I64, kept: I64, mix: I64,
) -> None:  # fmt: skip
    """Fill ``x`` (width, block) with vectors ``begin .. end`` carried over arc `a` to `node`, column by column.

    ``kept`` (block,) is 0 where one is dropped, and ``mix`` (block,) a mixture of its bits, at least 0.
    """
    n = end - begin
    for i in range(n):
        kept[i] = 1
        mix[i] = 0
    for c in range(x.shape[0]):
        add = gain[a, c]
        for i in range(n):
            x[c, i] = rows[begin + i, c] + add
    for e in range(source.shape[0]):
        s = source[e]
        t = target[e]
        add = own[a, e]
        if add <= -4611686018427387904:
            continue
        for i in range(n):
            value = add
            if s >= 0:
                value += rows[begin + i, s]
            if t >= 0:
                x[t, i] = max(x[t, i], value)
            elif value > 0:
                kept[i] = 0
    for c in range(x.shape[0]):
        least = low[node, c]
        largest = high[node, c]
        for i in range(n):
            v = x[c, i]
            if v > largest:
                kept[i] = 0
            v = max(v, least)
            x[c, i] = v
            # Products of 31 by 32 bits, below 2**63 together: nothing wraps, compiled or not.
            p = ((v ^ mix[i]) & 2147483647) * 2654435761 + ((v >> 31) & 2147483647) * 1540483477
            mix[i] = (p ^ (p >> 32)) & 2147483647
    for i in range(n):
        mix[i] = ((mix[i] * 2654435761) >> 16) & 2147483647


@kernel
def place(x: I64, i: int, mix: int, table: I64) -> int:
    """Return the row of a hash table where vector `i` of `x` stands, or the free one where it belongs.

    A free row has -2**63 in front. The table has a power of two of rows, at least one of them free.
    """
    mask = table.shape[0] - 1
    slot = mix & mask
    while table[slot, 0] != -9223372036854775808:
        c = 0
        while c < x.shape[0] and table[slot, c] == x[c, i]:
            c += 1
        if c == x.shape[0]:
            break
        slot = (slot + 1) & mask
    return int(slot)


@kernel
def cut(
    rows: I64, ptr: I64, first: int, last: int, origin: I64, gain: I64, own: I64, source: I64, target: I64, c: int,
    bound: int, out: I64,
) -> None:  # fmt: skip
    """Fill ``out[first:last]``: the first label that each arc carries to `bound` or more in column `c`.

    Labels of a node rise in that column, and what an entry raises it to is the same for all of them.

    Notes
    -----
    O(log n) an arc.
    """
    for a in range(first, last):
        begin = ptr[origin[a]]
        end = ptr[origin[a] + 1]
        while begin < end:
            i = (begin + end) // 2
            value = rows[i, c] + gain[a, c]
            for e in range(source.shape[0]):
                if target[e] == c:
                    value = max(value, own[a, e] + (rows[i, source[e]] if source[e] >= 0 else 0))
            if value < bound:
                begin = i + 1
            else:
                end = i
        out[a] = begin


@kernel
def fill(
    rows: I64,
    begin: I64,
    end: I64,
    last: int,
    gain: I64,
    own: I64,
    times: I64,
    source: I64,
    target: I64,
    low: I64,
    high: I64,
    node: int,
    x: I64,
    kept: I64,
    mix: I64,
    table: I64,
    at: I64,
    most: int,
) -> int:
    """Carry labels over the arcs to one node and add up the counts of equal ones in ``table``.

    Parameters
    ----------
    rows : (n, width + limbs) int64
        Labels of the boundary that the arcs come from.
    begin, end : (n_arcs,) int64
        Which of them each arc carries.
    last : int
        Arcs ``at[0] .. last`` lead to `node`.
    gain, own : (n_arcs, width), (n_arcs, n_entries) int64
    times : (n_arcs,) int64
        How many equal steps an arc stands for, less than 2**22.
    source, target : (n_entries,) int64
    low, high : (n_nodes, width) int64
    x, kept, mix : (width, block), (block,), (block,) int64
        Scratch.
    table : (rows, width + limbs) int64
        See :func:`place`; gets no fuller than half.
    at : (3,) int64
        Next arc, how many of its labels are done, and labels in the table; all are moved on.
    most : int
        After this many labels it returns.

    Returns
    -------
    int
        0: all is done; 1: the table is half full, and a larger one has to take its place; 2: `most` labels or a few
        more have been carried, and there are others.

    Notes
    -----
    O(labels carried), a read of the table each: 15 ns where it stays in a core's own cache, 150 ns where it does not.
    """
    width = gain.shape[1]
    limbs, given = table.shape[1] - width, rows.shape[1] - width
    half = table.shape[0] // 2
    while at[0] < last:
        a = at[0]
        start = begin[a] + at[1]
        stop = min(end[a], start + mix.shape[0])
        advance(rows, start, stop, gain, own, a, source, target, low, high, node, x, kept, mix)
        for i in range(stop - start):
            if at[2] >= half:
                at[1] += i
                return 1
            if kept[i] == 0:
                continue
            slot = place(x, i, mix[i], table)
            if table[slot, 0] == -9223372036854775808:
                for c in range(width):
                    table[slot, c] = x[c, i]
                for k in range(limbs):
                    table[slot, width + k] = 0
                at[2] += 1
            carry = 0
            for k in range(limbs):
                value = table[slot, width + k] + carry
                if k < given:
                    value += rows[start + i, width + k] * times[a]
                table[slot, width + k] = value & 1099511627775
                carry = value >> 40
        most -= max(0, stop - start)
        if stop < end[a]:
            at[1] += stop - start
        else:
            at[0] += 1
            at[1] = 0
        if most <= 0:
            return 2
    return 0


@kernel
def trace(
    rows: I64,
    weight: F64,
    begin: I64,
    end: I64,
    last: int,
    gain: I64,
    own: I64,
    times: I64,
    source: I64,
    target: I64,
    low: I64,
    high: I64,
    node: int,
    x: I64,
    kept: I64,
    mix: I64,
    table: I64,
    goal_ptr: I64,
    goal: F64,
    running: F64,
    done: I64,
    arc: I64,
    label: I64,
    at: I64,
    most: int,
) -> int:
    """Find the steps that lead to some labels of a node, where running sums of weights pass given goals.

    As :func:`fill`, but nothing is entered: ``table`` (rows, width + 1) has the number of each label that is looked
    for behind its vector. Goals of label `s` stand, rising, at ``goal_ptr[s] .. goal_ptr[s + 1]``; the first
    ``done[s]`` of them have been passed, by the sum ``running[s]``. Filled in for each goal: ``arc`` and ``label``, a
    row of `rows`, of the step that passed it. Should rounding keep the sum below some of them, the last one has the
    last step that leads to the label. Returns 0 when all is done, 2 after `most` labels.
    """
    width = gain.shape[1]
    while at[0] < last:
        a = at[0]
        start = begin[a] + at[1]
        stop = min(end[a], start + mix.shape[0])
        advance(rows, start, stop, gain, own, a, source, target, low, high, node, x, kept, mix)
        for i in range(stop - start):
            if kept[i] == 0:
                continue
            slot = place(x, i, mix[i], table)
            if table[slot, 0] == -9223372036854775808:
                continue
            s = table[slot, width]
            running[s] += weight[start + i] * times[a]
            g = goal_ptr[s] + done[s]
            while g < goal_ptr[s + 1] and goal[g] < running[s]:
                arc[g] = a
                label[g] = start + i
                g += 1
            done[s] = g - goal_ptr[s]
            if g < goal_ptr[s + 1]:
                arc[goal_ptr[s + 1] - 1] = a
                label[goal_ptr[s + 1] - 1] = start + i
        most -= max(0, stop - start)
        if stop < end[a]:
            at[1] += stop - start
        else:
            at[0] += 1
            at[1] = 0
        if most <= 0:
            return 2
    return 0


@kernel
def cross(
    fronts: I64,
    begin: int,
    end: int,
    tails: I64,
    first: int,
    c: int,
    gain: I64,
    own: I64,
    times: I64,
    a: int,
    source: I64,
    target: I64,
    at: I64,
    total: I64,
    most: int,
    weight: F64,
    out: I64,
) -> int:
    """Add up the pairs of fronts of one node and tails of another that fit when fronts are carried over arc `a`.

    Both rise in column `c`, in which entries raise all of them to the same, and are alike in all others.

    Parameters
    ----------
    fronts, tails : (n, width + limbs) int64
        Labels; `begin` .. `end` of the former, and of the latter those from `first` on.
    gain, own, times, source, target
        As in :func:`fill`, from fronts on.
    at : (1,) int64
        How many tails fit the front `begin`, or more; moved on.
    total : (limbs,) int64
        The sum of their counts; moved on.
    most : int
        Fronts and tails together after which it returns.
    weight : (n,) float64
        Of each front: what its tails come to is added.
    out : (limbs + 2,) int64
        Gets the sum of the products of counts.

    Returns
    -------
    int
        The front to go on with; `end`: all are done.

    Notes
    -----
    O(fronts + tails).
    """
    width = gain.shape[1]
    for i in range(begin, end):
        if most <= 0:
            return i
        most -= 1
        top = 0
        for b in range(width):
            value = fronts[i, b] + gain[a, b]
            for e in range(source.shape[0]):
                if target[e] == b:
                    value = max(value, own[a, e] + (fronts[i, source[e]] if source[e] >= 0 else 0))
            if b == c:
                top = value
            elif value + tails[first, b] > 0:
                return end  # and so it is for every front behind
        for e in range(source.shape[0]):
            if target[e] < 0 and own[a, e] + (fronts[i, source[e]] if source[e] >= 0 else 0) > 0:
                return end
        while at[0] > 0 and tails[first + at[0] - 1, c] + top > 0:
            at[0] -= 1
            most -= 1
            for j in range(tails.shape[1] - width):
                total[j] -= tails[first + at[0], width + j]
            for j in range(total.shape[0] - 1):
                total[j + 1] += total[j] >> 40
                total[j] &= 1099511627775
        if at[0] == 0:
            return end
        value = 0.0
        for j in range(total.shape[0] - 1, -1, -1):
            value = value * 1099511627776.0 + total[j]
        weight[i] += value * times[a]
        for j in range(total.shape[0]):
            for k in range(fronts.shape[1] - width):
                count = fronts[i, width + k]
                # 20 by 40 bits, times less than 2**22 apart
                low = (count & 1048575) * total[j]
                high = (count >> 20) * total[j] + (low >> 20)
                out[j + k] += ((high & 1048575) << 20) + (low & 1048575)
                out[j + k + 1] += high >> 20
        for j in range(out.shape[0] - 1):
            out[j + 1] += out[j] >> 40
            out[j] &= 1099511627775
    return end


@kernel
def boxes(points: I64, limbs: I64, leaf: int, least: I64, largest: I64, total: I64) -> None:
    """Fill a binary tree over points (n, d) in their order: bounds of what lies below each node, and sums of limbs.

    Node 1 is the root, those below `k` are ``2 k`` and ``2 k + 1``; the second half of the (2 m, d), (2 m, d) and
    (2 m, limbs) arrays are leaves of `leaf` points each. An empty one has bounds that nothing fits.
    """
    m = least.shape[0] // 2
    for k in range(2 * m - 1, 0, -1):
        for c in range(points.shape[1]):
            least[k, c] = 4611686018427387904
            largest[k, c] = -4611686018427387904
        for j in range(total.shape[1]):
            total[k, j] = 0
        if k >= m:
            for i in range((k - m) * leaf, min((k - m + 1) * leaf, points.shape[0])):
                for c in range(points.shape[1]):
                    least[k, c] = min(least[k, c], points[i, c])
                    largest[k, c] = max(largest[k, c], points[i, c])
                for j in range(limbs.shape[1]):
                    total[k, j] += limbs[i, j]
        else:
            for b in range(2 * k, 2 * k + 2):
                for c in range(points.shape[1]):
                    least[k, c] = min(least[k, c], least[b, c])
                    largest[k, c] = max(largest[k, c], largest[b, c])
                for j in range(total.shape[1]):
                    total[k, j] += total[b, j]
        for j in range(total.shape[1] - 1):
            total[k, j + 1] += total[k, j] >> 40
            total[k, j] &= 1099511627775


@kernel
def fits(least: I64, k: int, query: I64, i: int) -> bool:
    """Whether row `k` of bounds and row `i` of queries add up to no more than 0 everywhere."""
    c = 0
    while c < query.shape[1] and least[k, c] + query[i, c] <= 0:
        c += 1
    return bool(c == query.shape[1])


@kernel
def weigh(
    points: I64, limbs: I64, leaf: int, least: I64, largest: I64, total: I64, query: I64, begin: int, end: int,
    stack: I64, out: I64,
) -> None:  # fmt: skip
    """Fill ``out[begin:end]`` (n, limbs): sums over the points that fit each query, nowhere above 0 together with it.

    The tree is that of :func:`boxes`; ``stack`` (64,) is scratch.

    Notes
    -----
    O(log n) a query in one dimension, O(n^(1 - 1/d)) where points lie well in `d`.
    """
    m = least.shape[0] // 2
    for q in range(begin, end):
        for j in range(out.shape[1]):
            out[q, j] = 0
        stack[0] = 1
        n = 1
        while n > 0:
            n -= 1
            k = stack[n]
            if not fits(least, k, query, q):
                continue
            if fits(largest, k, query, q):
                for j in range(total.shape[1]):
                    out[q, j] += total[k, j]
            elif k < m:
                stack[n] = 2 * k + 1
                stack[n + 1] = 2 * k
                n += 2
            else:
                for i in range((k - m) * leaf, min((k - m + 1) * leaf, points.shape[0])):
                    if fits(points, i, query, q):
                        for j in range(limbs.shape[1]):
                            out[q, j] += limbs[i, j]
            for j in range(out.shape[1] - 1):
                out[q, j + 1] += out[q, j] >> 40
                out[q, j] &= 1099511627775


@kernel
def sweep(points: I64, limbs: I64, query: I64, begin: int, end: int, at: I64, total: I64, out: I64) -> None:
    """As :func:`weigh` in one dimension, where points and queries rise.

    ``at`` (1,) holds how many points fit the query before `begin`, all of them at first, and ``total`` (limbs,) their
    sum.

    Notes
    -----
    O(points + queries).
    """
    for q in range(begin, end):
        while at[0] > 0 and points[at[0] - 1, 0] + query[q, 0] > 0:
            at[0] -= 1
            for j in range(limbs.shape[1]):
                total[j] -= limbs[at[0], j]
            for j in range(total.shape[0] - 1):
                total[j + 1] += total[j] >> 40
                total[j] &= 1099511627775
        for j in range(total.shape[0]):
            out[q, j] = total[j]


@kernel
def pick(
    points: I64, weight: F64, leaf: int, least: I64, largest: I64, total: F64, query: I64, begin: int, end: int,
    goal: F64, stack: I64, out: I64,
) -> None:  # fmt: skip
    """Fill ``out[begin:end]``: of each query, the point at which the sum of weights of those that fit passes its goal.

    As :func:`weigh`, with weights for limbs. Where rounding keeps the sum below the goal it is one of the last that
    fit; -1 where none fits.
    """
    m = least.shape[0] // 2
    for q in range(begin, end):
        out[q] = -1
        rest = goal[q]
        stack[0] = 1
        n = 1
        while n > 0:
            n -= 1
            k = stack[n]
            if not fits(least, k, query, q):
                continue
            inside = fits(largest, k, query, q)
            if inside and rest >= total[k] and n > 0:
                rest -= total[k]
                while k < m:
                    k = 2 * k
                out[q] = (k - m) * leaf
            elif k < m:
                stack[n] = 2 * k + 1
                stack[n + 1] = 2 * k
                n += 2
            else:
                for i in range((k - m) * leaf, min((k - m + 1) * leaf, points.shape[0])):
                    if fits(points, i, query, q):
                        out[q] = i
                        if rest < weight[i]:
                            n = 0
                            break
                        rest -= weight[i]
