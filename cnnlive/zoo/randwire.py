"""RandWire: Xie et al., "Exploring Randomly Wired Neural Networks for Image Recognition".

https://arxiv.org/abs/1904.01569. The paper's definition with Watts-Strogatz graphs WS(k, p): edges run from
the lower to the higher index; a node adds up its inputs, each times the sigmoid of one learned weight if
there are several, and applies ReLU, a separable 3x3 convolution and batch normalisation. Nodes without a
predecessor read the stage's input at stride 2; the outputs of nodes without a successor are averaged.
Module paths follow seungwonpark/RandWireNN where it has the module; its convolutions have biases, the
paper's have none.
"""

from __future__ import annotations

import random
from typing import Final

import networkx as nx

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo._blocks import Builder, Resolution, image, whole

__all__ = ["NETS", "randwire"]

_HEAD: Final = 1280


def _wiring(nodes: int, k: int, p: float, rng: random.Random) -> list[list[int]]:
    """Return the predecessors of each node."""
    ws = nx.connected_watts_strogatz_graph(nodes, k, p, tries=1000, seed=rng)
    return [sorted(u for u in ws[v] if u < v) for v in range(nodes)]


def _node(g: Graph, inputs: list[Tensor], channels: int, stride: int) -> Tensor:
    x = inputs[0]
    for i, t in enumerate(inputs if len(inputs) > 1 else ()):
        weight = g.sigmoid(g.parameter((1,), name=f"agg_weight.{i}"), name=f"sigmoid.{i}")
        term = g.mul(t, weight, name=f"mul.{i}")
        x = g.add(x, term, name=f"add.{i}") if i else term
    x = g.relu(x, name="relu")
    with g.scope("conv"):
        x = g.conv2d(x, x.channels, 3, stride=stride, padding=1, groups=x.channels, bias=False, name="conv")
        x = g.conv2d(x, channels, 1, bias=False, name="pointwise")
    return g.batch_norm2d(x, name="bn")


def _stage(g: Graph, x: Tensor, channels: int, predecessors: list[list[int]]) -> Tensor:
    outputs: list[Tensor] = []
    for v, before in enumerate(predecessors):
        with g.scope(f"nodes.{v}"):
            outputs.append(_node(g, [outputs[u] for u in before] or [x], channels, 1 if before else 2))
    read = {u for before in predecessors for u in before}
    last = [t for v, t in enumerate(outputs) if v not in read]
    y = last[0]
    for i, t in enumerate(last[1:], start=1):
        y = g.add(y, t, name=f"sum.{i}")
    return g.scale(y, factor=1 / len(last), name="mean") if len(last) > 1 else y


def randwire(
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 224,
    channels: int = 78,
    nodes: int = 32,
    k: int = 4,
    p: float = 0.75,
    seed: int = 0,
    regime: str = "small",
) -> Graph:
    """Build a randomly wired net.

    Parameters
    ----------
    train : bool
        Makes no difference: the dropout of 0.2 that the paper uses in the small regime is always there.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.
    channels : int
        C of the paper: 78 in the small regime, 109 and 154 in the regular one.
    nodes : int
        Nodes of each random graph, N in the paper; the first graph of the regular regime has half as many.
    k : int
        Neighbours of each node before rewiring.
    p : float
        Chance of rewiring an edge.
    seed : int
        One seed gives one net: all graphs are drawn one after the other from ``random.Random(seed)``.
    regime : str
        ``small`` (two convolutions, then three random graphs) or ``regular`` (one, then four).

    Returns
    -------
    Graph
    """
    if regime not in ("small", "regular"):
        raise ValueError(f"regime={regime!r}; allowed: 'small', 'regular'")
    if not 0 <= p <= 1:
        raise ValueError(f"p={p!r}; allowed: 0 to 1")
    whole("channels", channels, 2)
    whole("nodes", nodes, (whole("k", k, 2) + 1) * (1 if regime == "small" else 2))
    rng = random.Random(whole("seed", seed, 0))
    g = Graph("randwire")
    x = g.conv2d(image(g, resolution), channels // 2, 3, stride=2, padding=1, bias=False, name="conv1")
    x = g.batch_norm2d(x, name="bn1")
    stages = [(nodes, channels), (nodes, 2 * channels), (nodes, 4 * channels)]
    if regime == "small":
        x = g.conv2d(g.relu(x, inplace=True, name="relu2"), channels, 3, 2, 1, bias=False, name="conv2")
        x = g.batch_norm2d(x, name="bn2")
    else:
        stages = [(nodes // 2, channels), *((n, 2 * c) for n, c in stages)]
    for i, (n, c) in enumerate(stages, start=6 - len(stages)):
        with g.scope(f"dagly{i}"):
            x = _stage(g, x, c, _wiring(n, k, p, rng))
    x = g.conv2d(g.relu(x, inplace=True, name="relulast"), _HEAD, 1, bias=False, name="convlast")
    x = g.flatten(g.global_avg_pool2d(g.batch_norm2d(x, name="bnlast"), name="pool"), name="flatten")
    if regime == "small":
        x = g.dropout(x, 0.2, name="dropout")
    g.linear(x, num_classes, name="fc")
    return g


NETS: Final[dict[str, Builder]] = {"randwire": randwire}
