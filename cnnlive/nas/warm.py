"""Compile what search spaces and batches need, before it is needed."""

from __future__ import annotations

import numpy as np

from cnnlive.graph import Graph, Tensor
from cnnlive.nas import spaces
from cnnlive.nas.base import Gene, SearchSpace
from cnnlive.nas.batch import Batch, evaluate_batch
from cnnlive.nas.limit import Limit
from cnnlive.nas.palette import FREE, Palette
from cnnlive.nas.space import Slot, Space
from cnnlive.plan.warm import warm_up as warm_up_planners

__all__ = ["warm_up"]

_METRICS = ("params", "inference_peak", "minimum_peak", "training_peak")


def _stem(g: Graph, channels: int) -> Tensor:
    return g.conv2d(g.input((1, 1, 2, 2)), channels, 1)


def _conv(g: Graph, x: Tensor, channels: int) -> Tensor:
    return g.conv2d(x, channels, 1)


def _head(g: Graph, x: Tensor) -> Tensor:
    return g.linear(g.flatten(g.batch_norm2d(x)), 2)


def warm_up() -> None:
    """Compile every kernel of :mod:`cnnlive.nas` and of the planners, or load it from the cache on disk.

    Call it before forking workers or timing anything. In a process that finds nothing cached it takes a minute or two.
    """
    warm_up_planners()
    genes = [Gene(f"channels{i}", (1, 2, 3)) for i in range(4)]
    slots = [Slot("stem", _stem, {"channels": "channels0"})]
    slots += [Slot(f"conv{i}", _conv, {"channels": f"channels{i}"}) for i in range(1, 4)]
    space = Space("warm-up", genes, [*slots, Slot("head", _head)])
    x = np.concatenate(list(space.members()))
    found = space.evaluate(x, _METRICS)
    space.evaluate(x.astype(np.int16))
    space.evaluator("params")(x[0])
    middle = {name: int(np.median(column)) for name, column in found.items()}
    for limit in (
        Limit(space, params=middle["params"]),
        Limit(space, params=middle["params"], macs=1 + int(np.median(space.evaluate(x)["macs"]))),
        Limit(space, peak=middle["inference_peak"], training=middle["training_peak"]),
    ):
        assert len(space.sample(1, limit, rng=0)) == 1
        assert space.count(limit) == limit.mask(x).sum()
        assert space.best("macs", limit).x is not None
    assert space.mutate(x[0], {"channels0": 2}).x[0] == 1
    evaluate_batch(Batch.from_graphs([space.graph(row) for row in x[:2]]), metrics=_METRICS)
    palette = Palette()
    kinds = [palette.add("input", shape=(1, 1, 2, 2)), palette.add("conv2d", out_channels=FREE[0], kernel_size=1),
             palette.add("flatten"), palette.add("linear", out_features=2)]  # fmt: skip
    chain = Batch.from_nodes(palette, np.array([0, 4]), np.array(kinds, np.int32), np.array([0, 0, 1, 2, 3]),
                             np.array([0, 1, 2], np.int32), np.array([[0, 0], [3, 0], [0, 0], [0, 0]], np.int32),
                             np.zeros(4, np.int32))  # fmt: skip
    evaluate_batch(chain, metrics=_METRICS)
    evaluate_batch(chain, metrics="inference_peak", fuse=True)
    sizes = Batch.from_sizes(np.array([0, 2]), np.array([0, 0, 1]), np.array([0], np.int32), np.array([4, 8]))
    evaluate_batch(sizes, metrics="inference_peak")
    encoded: list[SearchSpace] = [spaces.nasbench101(), spaces.nasbench201(), spaces.darts(layers=3), spaces.regnet(),
                                  spaces.randwire()]  # fmt: skip
    for one in encoded:
        rows = one.random(1, rng=0)
        for fuse in (False, True):
            one.evaluate(rows, ("params", "inference_peak"), fuse=fuse)
        one.evaluate(rows, "training_peak")
    encoded[0].evaluate(encoded[0].random(1, rng=0), "minimum_peak")
