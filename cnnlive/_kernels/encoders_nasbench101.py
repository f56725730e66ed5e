"""Cells of NAS-Bench-101: pruning, packing, one cell of each class of isomorphic ones.

A row is a genotype of 26: the upper triangle of the 7x7 matrix in row-major order, then the labels of vertices 1 to 5.
Packed, it is one integer whose bits 30 to 10 are the triangle, the first entry highest, and 2 bits for each label; so
codes sort as rows do. The output is vertex 6 also where there are fewer than 5 interior vertices, which come first.
"""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64


@kernel
def prune(rows: I64, limit: int, codes: I64) -> tuple[int, int]:
    """Drop the vertices that lie on no path from input to output, and pack; return status and the offending row.

    Status 1: the output cannot be reached from the input; 2: more than `limit` edges are left.
    """
    for r in range(rows.shape[0]):
        after = 1  # vertices that the input reaches
        for i in range(6):
            if (after >> i) & 1:
                for j in range(i + 1, 7):
                    if rows[r, i * (13 - i) // 2 + j - i - 1]:
                        after |= 1 << j
        kept = 1 << 6  # and that reach the output
        for i in range(5, -1, -1):
            for j in range(i + 1, 7):
                if (kept >> j) & 1 and rows[r, i * (13 - i) // 2 + j - i - 1]:
                    kept |= 1 << i
        kept &= after
        if not kept & 1:
            return 1, r
        code = 0
        edges = 0
        a = 0
        for i in range(6):
            if (kept >> i) & 1:
                b = a
                for j in range(i + 1, 7):
                    if (kept >> j) & 1:
                        b = b + 1 if j < 6 else 6
                        if rows[r, i * (13 - i) // 2 + j - i - 1]:
                            code |= 1 << (30 - (a * (13 - a) // 2 + b - a - 1))
                            edges += 1
                if i:
                    code |= rows[r, 20 + i] << (2 * (5 - a))
                a += 1
        if edges > limit:
            return 2, r
        codes[r] = code
    return 0, 0


@kernel
def unpack(codes: I64, rows: I64) -> None:
    """Fill the rows of packed cells."""
    for r in range(codes.shape[0]):
        for bit in range(21):
            rows[r, bit] = (codes[r] >> (30 - bit)) & 1
        for v in range(5):
            rows[r, 21 + v] = (codes[r] >> (2 * (4 - v))) & 3


@kernel
def relabelled(bits: int, interior: int, order: I64, which: int) -> int:
    """Return the matrix with interior vertex v at place ``order[which, v]``, or -1 where an edge points back.

    Bit ``i + j (j - 1) / 2`` of `bits` is the edge i -> j; the output is vertex ``interior + 1``.
    """
    found = 0
    for j in range(1, interior + 2):
        for i in range(j):
            if (bits >> (i + j * (j - 1) // 2)) & 1:
                a = i if i == 0 else order[which, i - 1]
                b = j if j > interior else order[which, j - 1]
                if a > b:
                    return -1
                found |= 1 << (a + b * (b - 1) // 2)
    return found


@kernel
def unique_cells(interior: int, limit: int, order: I64, same: I64, codes: I64, counts: I64) -> int:
    """Pack one cell of each class with so many interior vertices; return how many there are.

    Of isomorphic cells it is the first in the order of google-research/nasbench: the least `bits`, of those the least
    labels. All vertices lie on a path from input to output. order : (n, 5), all permutations of 1 to `interior` with
    the identity first; same : (n,), scratch; codes may be too short: what does not fit is counted. counts : (1,), cells
    before isomorphic ones are dropped.
    """
    n = interior + 2
    labels = 1
    for _ in range(interior):
        labels *= 3
    total = 0
    counts[0] = 0
    for bits in range(1 << (n * (n - 1) // 2)):
        edges = 0
        rest = bits
        while rest:
            rest &= rest - 1
            edges += 1
        if edges > limit or edges < n - 1:
            continue
        read = 0
        written = 1 << (n - 1)
        for j in range(1, n):
            for i in range(j):
                if (bits >> (i + j * (j - 1) // 2)) & 1:
                    written |= 1 << i
                    read |= 1 << j
        if written != (1 << n) - 1 or read != (1 << n) - 2:
            continue
        counts[0] += labels
        alike = 0
        first = True
        for p in range(order.shape[0]):
            other = relabelled(bits, interior, order, p)
            if other == bits:
                same[alike] = p
                alike += 1
            elif 0 <= other < bits:
                first = False
                break
        if not first:
            continue
        packed = 0
        for j in range(1, n):
            for i in range(j):
                if (bits >> (i + j * (j - 1) // 2)) & 1:
                    b = j if j <= interior else 6
                    packed |= 1 << (30 - (i * (13 - i) // 2 + b - i - 1))
        for label in range(labels):
            least = True
            for k in range(1, alike):
                # The labels under an automorphism, in base 3 with the first vertex highest.
                other = 0
                rest = label
                for v in range(interior, 0, -1):
                    power = 1
                    for _ in range(interior - order[same[k], v - 1]):
                        power *= 3
                    other += rest % 3 * power
                    rest //= 3
                if other < label:
                    least = False
                    break
            if least:
                if total < codes.shape[0]:
                    code = packed
                    rest = label
                    for v in range(interior, 0, -1):
                        code |= rest % 3 << (2 * (5 - v))
                        rest //= 3
                    codes[total] = code
                total += 1
    return total
