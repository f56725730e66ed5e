"""Walks through a trellis: many genotypes at once, or one."""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I16, I64


@kernel
def narrow(wide: I64, cardinality: I64, x: I16) -> int:
    """Copy genotypes (n, n_genes) into 16 bits; return the first row with a value that is no option, or -1."""
    bad = wide.shape[0]
    for g in range(wide.shape[1]):
        if cardinality[g] < 1:
            return 0
    for i in range(wide.shape[0]):
        for g in range(wide.shape[1]):
            v = wide[i, g]
            if v < 0 or v >= cardinality[g]:
                bad = min(bad, i)
                v = 0
            x[i, g] = v
    return bad if bad < wide.shape[0] else -1


@kernel
def walk(
    x: I16,
    begin: int,
    end: int,
    cardinality: I16,
    program: I64,
    table: I64,
    tail: I64,
    genes: I16,
    arc: I64,
    state: I64,
    total: I64,
    out: I64,
    at_out: int,
) -> int:
    """Fill ``out`` (n_numbers, n) from place `at_out` on for genotypes ``x[begin:end]`` (n, n_genes).

    Returns -1, or a row at or before the first bad one.

    `program` holds, per stage, the number of its genes, of combinations of their values and of states behind it as seen
    from behind; where its columns begin in `table` (next state, state in front, numbers); then gene, stride and
    cardinality of each of its genes. At its end stand where each stage begins, and the number of stages. Row
    ``state * combinations + combination`` of the next states leads forward; row ``that * states behind + state behind``
    of the others belongs to the step between the two. Of the numbers of a row, the first add up; a peak takes two, its
    own bytes and its lead, and becomes ``max(own + tail, lead + peak of what lies behind)`` with what number `tail`
    (n_peaks,) of what lies behind adds up to, -1: nothing.

    ``genes`` (n_genes, block), ``arc`` (n_stages, block), ``state`` (block,) and ``total`` (n_numbers, block) are
    scratch. A bad row is one with a value that is no option; nothing behind its block is filled.

    Notes
    -----
    O(n · genes). A block of rows at a time is turned into columns, so that combinations are sums of whole columns and
    the reads of one stage for different rows overlap: half the time of walking row by row.
    """
    block = state.shape[0]
    n_stages = arc.shape[0]
    n_peaks = tail.shape[0]
    n_numbers = total.shape[0]
    n_adds = n_numbers - n_peaks
    width = n_adds + 2 * n_peaks
    for start in range(begin, end, block):
        m = min(block, end - start)
        for c in range(m):
            for g in range(x.shape[1]):
                genes[g, c] = x[start + c, g]
        bad = 0
        for g in range(x.shape[1]):
            top = int(cardinality[g]) - 1
            for c in range(m):
                # Below 0 where a value is, or is above the last.
                bad |= int(genes[g, c]) | (top - int(genes[g, c]))
        if bad < 0:
            return start
        for c in range(m):
            state[c] = 0
        p = 0
        for k in range(n_stages):
            n_genes = program[p]
            n_raw = program[p + 1]
            next_at = program[p + 3]
            p += 6
            for c in range(m):
                arc[k, c] = state[c] * n_raw
            for g in range(p, p + 3 * n_genes, 3):
                gene = program[g]
                stride = program[g + 1]
                for c in range(m):
                    arc[k, c] += genes[gene, c] * stride
            p += 3 * n_genes
            for c in range(m):
                state[c] = table[next_at + arc[k, c]]
        for i in range(n_numbers):
            for c in range(m):
                total[i, c] = 0 if i < n_adds else -4611686018427387904
        for c in range(m):
            state[c] = 0
        for k in range(n_stages - 1, -1, -1):
            p = program[program.shape[0] - 1 - n_stages + k]
            behind = program[p + 2]
            front_at = program[p + 4]
            numbers_at = program[p + 5]
            for c in range(m):
                a = arc[k, c] * behind + state[c]
                state[c] = table[front_at + a]
                arc[k, c] = numbers_at + a * width
            for j in range(n_peaks):
                i = n_adds + j
                at = n_adds + 2 * j
                t = tail[j]
                if t < 0:
                    for c in range(m):
                        a = arc[k, c] + at
                        total[i, c] = max(table[a], table[a + 1] + total[i, c])
                else:
                    for c in range(m):
                        a = arc[k, c] + at
                        total[i, c] = max(table[a] + total[t, c], table[a + 1] + total[i, c])
            for i in range(n_adds):
                for c in range(m):
                    total[i, c] += table[arc[k, c] + i]
        for i in range(n_numbers):
            for c in range(m):
                out[i, at_out + start - begin + c] = total[i, c]
    return -1


@kernel
def walk_one(x: I64, program: I64, table: I64, tail: I64, scratch: I64) -> int:
    """Fill the first numbers of ``scratch`` for one genotype; return 0, or 1 if a value is no option.

    As :func:`walk`; ``scratch`` is n_numbers long and as many places more as there are stages.
    """
    n_peaks = tail.shape[0]
    n_stages = program[program.shape[0] - 1]
    n_numbers = scratch.shape[0] - n_stages
    n_adds = n_numbers - n_peaks
    width = n_adds + 2 * n_peaks
    at = 0
    p = 0
    for k in range(n_stages):
        n_genes = program[p]
        a = at * program[p + 1]
        next_at = program[p + 3]
        p += 6
        for g in range(p, p + 3 * n_genes, 3):
            v = x[program[g]]
            if v < 0 or v >= program[g + 2]:
                return 1
            a += v * program[g + 1]
        p += 3 * n_genes
        scratch[n_numbers + k] = a
        at = table[next_at + a]
    for i in range(n_numbers):
        scratch[i] = 0 if i < n_adds else -4611686018427387904
    at = 0
    for k in range(n_stages - 1, -1, -1):
        p = program[program.shape[0] - 1 - n_stages + k]
        a = scratch[n_numbers + k] * program[p + 2] + at
        at = table[program[p + 4] + a]
        a = program[p + 5] + a * width
        for j in range(n_peaks):
            i = n_adds + j
            own = table[a + n_adds + 2 * j]
            if tail[j] >= 0:
                own += scratch[tail[j]]
            scratch[i] = max(own, table[a + n_adds + 2 * j + 1] + scratch[i])
        for i in range(n_adds):
            scratch[i] += table[a + i]
    return 0


@kernel
def compose(
    next_a: I64,
    front_a: I64,
    numbers_a: I64,
    next_b: I64,
    front_b: I64,
    numbers_b: I64,
    tail: I64,
    next_ab: I64,
    front_ab: I64,
    numbers_ab: I64,
) -> None:
    """Fill what two runs of slots come to, one behind the other.

    Of each run: the state behind it (n_states,), the state in front as seen from behind (n_states, n_behind), -1 where
    never met, and its numbers (n_states, n_behind, width) as in :func:`walk`.

    Notes
    -----
    O(n_states · n_behind · width).
    """
    n_peaks = tail.shape[0]
    n_adds = numbers_a.shape[2] - 2 * n_peaks
    for f in range(next_a.shape[0]):
        middle = next_a[f]
        next_ab[f] = next_b[middle]
        for b in range(front_b.shape[1]):
            met = front_b[middle, b]
            if met < 0:
                front_ab[f, b] = -1
                continue
            front_ab[f, b] = front_a[f, met]
            for i in range(n_adds):
                numbers_ab[f, b, i] = numbers_a[f, met, i] + numbers_b[middle, b, i]
            for j in range(n_peaks):
                at = n_adds + 2 * j
                own = numbers_a[f, met, at]
                if tail[j] >= 0:
                    own += numbers_b[middle, b, tail[j]]
                lead = numbers_a[f, met, at + 1]
                numbers_ab[f, b, at] = max(own, lead + numbers_b[middle, b, at], -4611686018427387904)
                numbers_ab[f, b, at + 1] = lead + numbers_b[middle, b, at + 1]
