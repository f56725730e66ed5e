"""RandWire: stages that are random graphs; here any graphs at all.

Xie et al., "Exploring Randomly Wired Neural Networks for Image Recognition", https://arxiv.org/abs/1904.01569. The ops
are those of :mod:`cnnlive.zoo.randwire`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._kernels import encoders
from cnnlive._types import I64, frozen
from cnnlive.errors import SpaceError
from cnnlive.graph import Graph
from cnnlive.nas.base import Gene
from cnnlive.nas.encoded import EncodedSpace, Encoder, number_kinds
from cnnlive.nas.palette import FREE, Palette
from cnnlive.zoo._blocks import whole
from cnnlive.zoo.randwire import _HEAD as HEAD
from cnnlive.zoo.randwire import _stage as add_stage
from cnnlive.zoo.randwire import _wiring as wiring

if TYPE_CHECKING:
    import networkx

__all__ = ["RandWire", "randwire"]

_REGIMES: Final = ("small", "regular")


def _build(
    row: tuple[int, ...], *, channels: int, stages: tuple[tuple[int, int], ...], small: bool, resolution: int,
    classes: int,
) -> Graph:  # fmt: skip
    g = Graph("randwire")
    x = g.input((1, 3, resolution, resolution))
    x = g.conv2d(x, channels // 2, 3, stride=2, padding=1, bias=False, name="conv1")
    x = g.batch_norm2d(x, name="bn1")
    if small:
        x = g.conv2d(g.relu(x, inplace=True, name="relu2"), channels, 3, 2, 1, bias=False, name="conv2")
        x = g.batch_norm2d(x, name="bn2")
    for i, ((_, width), before) in enumerate(zip(stages, _wirings(row, stages), strict=True), 6 - len(stages)):
        with g.scope(f"dagly{i}"):
            x = add_stage(g, x, width, before)
    x = g.conv2d(g.relu(x, inplace=True, name="relulast"), HEAD, 1, bias=False, name="convlast")
    x = g.flatten(g.global_avg_pool2d(g.batch_norm2d(x, name="bnlast"), name="pool"), name="flatten")
    if small:
        x = g.dropout(x, 0.2, name="dropout")
    g.output(g.linear(x, classes, name="fc"))
    return g


def _wirings(row: Sequence[int], stages: Sequence[tuple[int, int]]) -> list[list[list[int]]]:
    """Return the predecessors of each node of each stage."""
    bits = iter(row)
    return [[[u for u in range(v) if next(bits)] for v in range(nodes)] for nodes, _ in stages]


class RandWire(EncodedSpace):
    """The space that :func:`randwire` makes; its notation is, per stage, the predecessors of each node."""

    def __init__(self, nodes: int, channels: int, regime: str, resolution: int, classes: int) -> None:
        if regime not in _REGIMES:
            raise SpaceError(f"regime={regime!r}; allowed: {', '.join(map(repr, _REGIMES))}")
        small = regime == "small"
        channels, nodes = whole("channels", channels, 2), whole("nodes", nodes, 1 if small else 2)
        resolution, classes = whole("resolution", resolution), whole("classes", classes)
        stages = [(nodes, channels), (nodes, 2 * channels), (nodes, 4 * channels)]
        if not small:
            stages = [(nodes // 2, channels), *((n, 2 * c) for n, c in stages)]
        self.stages = tuple(stages)
        palette = Palette()
        conv: dict[str, Any] = {"out_channels": FREE[0], "bias": False}
        depthwise = conv | {"kernel_size": 3, "padding": 1, "groups": FREE[0]}
        kinds = number_kinds(palette, (
            ("input", {"shape": (1, 3, resolution, resolution)}),
            ("conv2d", conv | {"kernel_size": 3, "padding": 1, "stride": 2}),
            ("batch_norm2d", {}),
            ("relu", {"inplace": True}),
            ("parameter", {"shape": (1,)}),
            ("sigmoid", {}),
            ("mul", {}),
            ("add", {}),
            ("relu", {}),
            ("conv2d", depthwise),
            ("conv2d", depthwise | {"stride": 2}),
            ("conv2d", conv | {"kernel_size": 1}),
            ("scale", {"factor": 0.5}),  # for any number but 1
            ("adaptive_avg_pool2d", {"output_size": 1}),
            ("flatten", {}),
            ("dropout", {"p": 0.2}),
            ("linear", {"out_features": FREE[0]}),
        ))  # fmt: skip
        table = frozen(np.array(stages, np.int64))
        shape = frozen(np.array([channels // 2, channels * small, HEAD, small, classes], np.int64))
        pairs = sum(n * (n - 1) // 2 for n, _ in stages)
        total = sum(n for n, _ in stages)
        # An edge is a parameter, a sigmoid, a product and a sum; a node 4 ops, and a sum where nothing reads it.
        most = 13 + 4 * pairs + 5 * total + len(stages)
        encoder = Encoder(encoders.randwire, (kinds, table, shape), most, most + 2 * pairs + total, nodes)
        build = partial(_build, channels=channels, stages=self.stages, small=small, resolution=resolution,
                        classes=classes)  # fmt: skip
        genes = [Gene(f"{s}:{u}->{v}", (0, 1)) for s, (n, _) in enumerate(stages) for v in range(n) for u in range(v)]
        super().__init__("randwire", genes, palette, encoder, build)

    def wire(self, seed: int = 0, *, k: int = 4, p: float = 0.75) -> I64:
        """Return the genotype of Watts-Strogatz graphs WS(k, p), as :func:`cnnlive.zoo.randwire.randwire` draws them.

        Parameters
        ----------
        seed : int
            All graphs are drawn one after the other from ``random.Random(seed)``.
        k : int
            Neighbours of each node before rewiring.
        p : float
            Chance of rewiring an edge.

        Raises
        ------
        SpaceError
            If a stage has too few nodes for k neighbours, or p is no chance.
        """
        if not 0 <= p <= 1:
            raise SpaceError(f"p={p!r}; allowed: 0 to 1")
        least = min(n for n, _ in self.stages)
        if whole("k", k, 2) >= least:
            raise SpaceError(f"k={k} neighbours in a stage of {least} nodes; allowed: fewer than there are nodes")
        rng = random.Random(whole("seed", seed, 0))
        return self.encode([wiring(n, k, p, rng) for n, _ in self.stages])

    def encode(self, native: Any) -> I64:
        """Return the genotype of a wiring.

        Parameters
        ----------
        native : sequence, or mapping of gene to value
            For each stage either the predecessors of each node, or a networkx graph over the nodes 0 to n - 1: of an
            undirected one each edge leads from the lower to the higher node, a directed one has to be like that.

        Raises
        ------
        SpaceError
            If there is another number of stages or nodes, an edge twice, or one that does not lead to a higher node
            (as some edge of every cycle).
        """
        if isinstance(native, Mapping):
            return super().encode(native)
        try:
            given = list(native)
        except TypeError:
            raise SpaceError(f"{native!r} is not a wiring; allowed: a graph, or predecessors of each node, "
                             "for each stage") from None  # fmt: skip
        if len(given) != len(self.stages):
            raise SpaceError(f"a wiring of {len(given)} stages; allowed: {len(self.stages)}")
        row: list[int] = []
        for s, ((n, _), stage) in enumerate(zip(self.stages, given, strict=True)):
            before = _predecessors(stage, s, n)
            row += [int(u in before[v]) for v in range(n) for u in range(v)]
        return np.array(row, np.int64)

    def decode(self, x: ArrayLike) -> list[list[list[int]]]:
        """Return the predecessors of each node, for each stage."""
        return _wirings(self.row(x), self.stages)

    def to_networkx(self, x: ArrayLike) -> list[networkx.DiGraph]:
        """Return the wiring of each stage as a networkx graph."""
        import networkx as nx  # noqa: PLC0415 - only for this

        found = []
        for before in self.decode(x):
            graph = nx.DiGraph()
            graph.add_nodes_from(range(len(before)))
            graph.add_edges_from((u, v) for v, row in enumerate(before) for u in row)
            found.append(graph)
        return found


def _predecessors(stage: Any, s: int, n: int) -> list[set[int]]:
    """Read the wiring of a stage of n nodes."""
    if hasattr(stage, "is_directed"):
        if sorted(stage, key=str) != sorted(range(n), key=str):
            raise SpaceError(f"stage {s} has nodes {list(stage)[:12]!r}; allowed: 0 to {n - 1}")
        edges = [(u, v) if stage.is_directed() else (min(u, v), max(u, v)) for u, v in stage.edges()]
    else:
        try:
            rows = [list(row) for row in stage]
        except TypeError:
            raise SpaceError(f"stage {s} is {stage!r}; allowed: a networkx graph, or the predecessors of each "
                             "node") from None  # fmt: skip
        if len(rows) != n:
            raise SpaceError(f"stage {s} has {len(rows)} nodes; allowed: {n}")
        edges = [(u, v) for v, row in enumerate(rows) for u in row]
    found: list[set[int]] = [set() for _ in range(n)]
    for u, v in edges:
        if isinstance(u, bool) or not isinstance(u, int | np.integer) or not 0 <= u < v:
            raise SpaceError(f"stage {s} has an edge {u!r}->{v}; allowed: from a lower to a higher node, so that there "
                             "is no cycle")  # fmt: skip
        if u in found[v]:
            raise SpaceError(f"stage {s} has the edge {u}->{v} twice")
        found[v].add(int(u))
    return found


def randwire(
    *, nodes: int = 32, channels: int = 78, regime: str = "small", resolution: int = 224, classes: int = 1000
) -> RandWire:  # fmt: skip
    """Return the space of randomly wired nets: one gene for each possible edge of each stage.

    Edges lead from lower to higher nodes. Nodes without a predecessor read the stage's input at stride 2, outputs of
    nodes without a successor are averaged; so every combination of edges is a net. :meth:`RandWire.wire` draws those of
    the paper.

    Parameters
    ----------
    nodes : int
        Of each stage; of the regular regime's first stage half as many.
    channels : int
        C of the paper: 78 in the small regime, 109 and 154 in the regular one.
    regime : str
        ``"small"`` (two convolutions, then three stages) or ``"regular"`` (one, then four).
    resolution, classes : int

    Returns
    -------
    RandWire
        Notation: for each stage the predecessors of each node, or networkx graphs.

    Examples
    --------
    >>> space = randwire(nodes=8)
    >>> x = space.wire(seed=3)
    >>> bool((space.encode(space.decode(x)) == x).all())
    True
    """
    return RandWire(nodes, channels, regime, resolution, classes)
