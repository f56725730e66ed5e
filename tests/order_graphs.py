"""Graphs in flat columns for tests of execution orders: random ones, and ones like those of architecture search.

A graph here is what ``plan.order.best_order`` takes: lists of tensors that each op reads and how many it writes, what
each op does with the bytes of its inputs, and how tensors are held; see ``liveness.live_ranges``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import numpy as np

from cnnlive import Lowered
from cnnlive.plan.order import best_order


@dataclass
class Columns:
    """A graph op by op; tensors are numbered as they are written."""

    reads: list[list[int]] = field(default_factory=list)
    writes: list[list[int]] = field(default_factory=list)
    share: list[int] = field(default_factory=list)
    scratch: list[int] = field(default_factory=list)
    before: list[list[int]] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def op(self, reads, sizes, share=0, scratch=0, before=(), held=0):
        """Add an op and return the tensors that it writes."""
        first = len(self.nbytes)
        self.reads.append(list(reads))
        self.writes.append(list(range(first, first + len(sizes))))
        self.share.append(share)
        self.scratch.append(scratch)
        self.before.append(list(before))
        self.nbytes += sizes
        self.held += [held] * len(sizes)
        return self.writes[-1]

    def arrays(self):
        """Return the columns that ``best_order`` takes."""

        def csr(rows):
            return np.cumsum([0, *map(len, rows)]), np.array([x for row in rows for x in row], np.int64)

        in_ptr, in_idx = csr(self.reads)
        before_ptr, before_idx = csr(self.before)
        net = SimpleNamespace(in_ptr=in_ptr, in_idx=in_idx, out_ptr=csr(self.writes)[0], before_ptr=before_ptr,
                              before_idx=before_idx)  # fmt: skip
        return net, *(np.array(a, np.int64) for a in (self.share, self.held, self.nbytes, self.scratch))

    def lowered(self, name=""):
        """Return a net of inputs, and of ops that may write into the first inputs that die, as ``Lowered`` has it."""
        ops = [k for k, row in enumerate(self.writes) if not self.held[row[0]] & 2]
        return Lowered.from_arrays(
            self.nbytes,
            [self.reads[k] for k in ops],
            [self.writes[k] for k in ops],
            scratch=[self.scratch[k] for k in ops],
            inplace=[self.reads[k][: max(self.share[k] - 1, 0)] for k in ops],
            outputs=[t for t, h in enumerate(self.held) if h & 4],
            name=name,
        )

    def best(self, *limits, **more):
        """Plan the order."""
        return best_order(*self.arrays(), *limits, **more)


class Sets:
    """What is alive after each set of ops, from the definition; sets are words of bits."""

    def __init__(self, graph):
        self.graph = graph
        n = len(graph.reads)
        maker = {t: k for k, row in enumerate(graph.writes) for t in row}
        home = list(range(len(graph.nbytes)))  # the tensor whose bytes one looks at
        for reads, writes, share in zip(graph.reads, graph.writes, graph.share, strict=True):
            if share == 1:
                for t in writes:
                    home[t] = home[reads[0]]
        self.home = home
        self.users = [0] * len(home)
        self.kept = [False] * len(home)
        self.waits = [0] * n
        for k, row in enumerate(graph.reads):
            for t in row:
                self.users[home[t]] |= 1 << k
                self.waits[k] |= 1 << maker[t]
            for other in graph.before[k]:
                self.waits[k] |= 1 << other
        for t, h in enumerate(graph.held):
            self.kept[home[t]] |= bool(h & 4)
        self.born = [maker[t] for t in range(len(home))]
        self.free = {k for k, row in enumerate(graph.writes) if not graph.reads[k] and graph.held[row[0]] & 3}

    def counted(self, t):
        return self.home[t] == t and not self.graph.held[t] & 1

    def alive(self, done):
        """Bytes alive after a set of ops."""
        total = 0
        for t, size in enumerate(self.graph.nbytes):
            begun = done >> self.born[t] & 1 or self.graph.held[t] & 2
            if self.counted(t) and begun and (self.kept[t] or self.users[t] & ~done):
                total += size
        return total

    def taken(self, k, done):
        """Bytes alive while an op runs after a set."""
        graph = self.graph
        new = sum(graph.nbytes[t] for t in graph.writes[k] if self.counted(t) and not graph.held[t] & 2)
        share = graph.share[k]
        for i, t in enumerate(graph.reads[k]):
            g = self.home[t]
            size = graph.nbytes[graph.writes[k][0]]
            dies = not self.kept[g] and not graph.held[g] & 1 and not self.users[g] & ~(done | 1 << k)
            may = i < share - 1 if share >= 0 else ~share >> i + 1 & 1
            fits = graph.nbytes[g] == size or (share < 0 and ~share & 1 and graph.nbytes[g] > size)
            if may and dies and fits and graph.nbytes[g] == graph.nbytes[t]:
                new = 0
        return self.alive(done) + new + graph.scratch[k]

    def peak(self, order):
        """Peak of an order, which has to be a legal one."""
        assert sorted(order) == list(range(len(self.waits)))
        done = 0
        peak = sum(size for t, size in enumerate(self.graph.nbytes) if self.graph.held[t] & 3 == 2)
        for k in order:
            assert not self.waits[k] & ~done, f"op {k} runs too early"
            peak = max(peak, self.taken(k, done))
            done |= 1 << k
        return max(peak, self.alive(done))

    def least(self):
        """Least peak of all orders, by recursion over sets."""
        n = len(self.waits)
        start = sum(1 << k for k in self.free)
        first = sum(size for t, size in enumerate(self.graph.nbytes) if self.graph.held[t] & 3 == 2)

        @cache
        def rest(done):
            ready = [k for k in range(n) if not done >> k & 1 and not self.waits[k] & ~done]
            if not ready:
                return self.alive(done)
            return min(max(self.taken(k, done), rest(done | 1 << k)) for k in ready)

        return max(first, rest(start))


SIZES = (1, 2, 3, 4, 8)


def drawn(rng: random.Random, most: int = 12, inplace: bool = True) -> Columns:
    """Draw a small graph: several inputs and outputs, stored parameters, ops of two outputs, views, ops in place."""
    g = Columns()
    tensors: list[int] = []
    root: dict[int, int] = {}
    for _ in range(rng.randint(1, 3)):
        tensors += g.op([], [rng.choice(SIZES)], held=rng.choice((2, 2, 2, 6, 1)))
    for t in tensors:
        root[t] = t
    usable = list(tensors)
    narrow = rng.random() < 0.5
    while len(g.reads) < rng.randint(4, most) and usable:
        pool = usable[-4:] if narrow else usable
        reads = [rng.choice(pool) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
        roll = rng.random()
        scratch = rng.choice((0, 0, 0, 0, 1, 5))
        stored = [t for t in reads if g.held[root[t]] & 1]
        if roll < 0.1 and not stored:  # a view, or a split
            made = g.op(reads, [rng.choice(SIZES) for _ in range(rng.choice((1, 1, 2)))], share=1)
            for t in made:
                root[t] = root[reads[0]]
        elif roll < 0.17 and inplace and not stored:  # overwrites, so nobody reads what was there afterwards
            target = root[reads[0]]
            if any(g.held[t] & 4 for t in root if root[t] == target):
                continue
            k = len(g.reads)
            before = [j for j in range(k) if g.share[j] != 1 or g.before[j]]
            before = [j for j in before if any(root[t] == target for t in g.reads[j])]
            usable = [t for t in usable if root[t] != target]
            made = g.op(reads, [g.nbytes[reads[0]]], share=1, scratch=scratch, before=before)
            root[made[0]] = target
        elif roll < 0.6 and inplace:
            share = rng.choice((2, len(reads) + 1, ~(1 << len(reads)), ~(rng.randrange(1 << len(reads) + 1))))
            made = g.op(reads, [rng.choice((g.nbytes[reads[0]], rng.choice(SIZES)))], share=share, scratch=scratch)
            root[made[0]] = made[0]
        else:
            made = g.op(reads, [rng.choice(SIZES) for _ in range(rng.choice((1, 1, 1, 2)))], scratch=scratch)
            root |= {t: t for t in made}
        for t in made:
            if rng.random() < 0.12 and not g.held[root[t]] & 1:
                g.held[t] |= 4
            usable.append(t)
    return g


# Cells of two inputs, as (kind, input) pairs, two to a node that is their sum; and the nodes that a cell puts together.
# From quark0/darts, ``cnn/genotypes.py`` (Apache-2.0).
CELLS = {
    "nasnet_a": (
        "sep5 1 sep3 0 sep5 0 sep3 0 avg 1 skip 0 avg 0 avg 0 sep3 1 skip 1",
        (2, 3, 4, 5, 6),
        "sep5 1 sep7 0 max 1 sep7 0 avg 1 sep5 0 skip 3 avg 2 sep3 2 max 1",
        (3, 4, 5, 6),
    ),
    "amoebanet": (
        "avg 0 max 1 sep3 0 sep5 2 sep3 0 avg 3 sep3 1 skip 1 skip 0 avg 1",
        (4, 5, 6),
        "avg 0 sep3 1 max 0 sep7 2 sep7 0 avg 1 max 0 max 1 conv 0 sep3 5",
        (3, 4, 6),
    ),
    "darts_v2": (
        "sep3 0 sep3 1 sep3 0 sep3 1 sep3 1 skip 0 skip 0 dil3 2",
        (2, 3, 4, 5),
        "max 0 max 1 skip 2 max 1 max 0 skip 2 skip 2 max 1",
        (2, 3, 4, 5),
    ),
}
# Ops of each kind, convolution and normalisation in one.
LENGTHS = {"sep3": 4, "sep5": 4, "sep7": 4, "conv": 2, "dil3": 2, "avg": 1, "max": 1, "skip": 0}


def cells(kind: str, n: int, reductions: tuple[int, ...], side: int = 28, channels: int = 44, inplace: bool = False):
    """Return a net of `n` cells, the `reductions` of which halve the image and double the channels; bytes are int8.

    Each cell reads the last two, brought to its size by a convolution; convolutions take their own space, pools too.
    """
    normal, keeps, reduction, keeps_reduced = CELLS[kind]
    g = Columns()

    def op(*reads, nbytes, add=False):
        return g.op(reads, [nbytes], share=3 if add and inplace else 0)[0]

    image = g.op([], [3 * side * side], held=2)[0]
    older = newer = op(image, nbytes=3 * channels * side * side)
    for i in range(n):
        words = (reduction if i in reductions else normal).split()
        before = channels * side * side
        if i in reductions:
            channels, side = 2 * channels, side // 2
        size = channels * side * side
        first = [op(older, nbytes=before), op(newer, nbytes=before)]
        nodes = list(first)
        branches = []
        for what, source in zip(words[::2], words[1::2], strict=True):
            x = nodes[int(source)]
            for _ in range(LENGTHS[what]):
                x = op(x, nbytes=size)
            if what == "skip" and i in reductions and int(source) < 2:
                x = op(x, nbytes=size)
            branches.append(x)
            if len(branches) == 2:
                nodes.append(op(*branches, nbytes=size, add=True))
                branches = []
        kept = [nodes[k] for k in (keeps_reduced if i in reductions else keeps)]
        older, newer = newer, op(*kept, nbytes=len(kept) * size)
    last = op(newer, nbytes=1000)
    g.held[last] = 4
    return g


def small_world(nodes: int, k: int, p: float, rng: random.Random) -> list[list[int]]:
    """Wire a random graph after Watts and Strogatz, as RandWire does; return the earlier neighbours of each node."""
    edges = {tuple(sorted((v, (v + d) % nodes))) for d in range(1, k // 2 + 1) for v in range(nodes)}
    for d in range(1, k // 2 + 1):
        for v in range(nodes):
            edge = tuple(sorted((v, (v + d) % nodes)))
            if rng.random() < p and edge in edges:
                free = [u for u in range(nodes) if u != v and tuple(sorted((u, v))) not in edges]
                if free:
                    edges.discard(edge)
                    edges.add(tuple(sorted((v, rng.choice(free)))))
    return [sorted(a for a, b in edges if b == v) for v in range(nodes)]


def randwire(seed: int, nodes: int = 32, k: int = 4, p: float = 0.75, stages: int = 3, inplace: bool = False):
    """Return a RandWire net: stages of random graphs, a node being a sum, a depthwise and a pointwise convolution."""
    rng = random.Random(seed)
    g = Columns()

    def op(*reads, nbytes, add=False):
        return g.op(reads, [nbytes], share=len(reads) + 1 if add and inplace else 0)[0]

    x = op(g.op([], [3 * 224 * 224], held=2)[0], nbytes=39 * 112 * 112)
    x = op(x, nbytes=78 * 56 * 56)
    side, channels = 28, 78
    for _ in range(stages):
        size = side * side * channels
        wiring = small_world(nodes, k, p, rng)
        read = {u for row in wiring for u in row}
        made = []
        for row in wiring:
            y = x
            if len(row) > 1:
                y = op(*[made[u] for u in row], nbytes=size, add=True)
            elif row:
                y = made[row[0]]
            y = op(y, nbytes=size if row else max(size, g.nbytes[x] // 4))
            made.append(op(y, nbytes=size))
        x = op(*[made[v] for v in range(nodes) if v not in read], nbytes=size, add=True)
        side, channels = side // 2, 2 * channels
    g.held[op(x, nbytes=1000)] = 4
    return g


def wide(n: int, rng: random.Random) -> Columns:
    """Return `n` branches of one image that widen and narrow by sizes of their own, in a sum of all."""
    g = Columns()
    x = g.op([], [4], held=2)[0]
    ends = []
    for _ in range(n):
        ends.append(g.op(g.op([x], [rng.randint(20, 90)]), [rng.randint(1, 9)])[0])
    g.held[g.op(ends, [1])[0]] = 4
    return g
