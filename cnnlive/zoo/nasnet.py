"""NASNet-A: Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition".

https://arxiv.org/abs/1707.07012. Module paths and op order follow timm's ``nasnetalarge``.
"""

from __future__ import annotations

from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo import _separable as sep
from cnnlive.zoo._blocks import Builder, Resolution, image, whole

__all__ = ["NETS", "nasnet_a_large"]


def _branch(g: Graph, x: Tensor, c: int, kernel: int, stride: int, name: str, stem: bool = False) -> Tensor:
    return sep.branch(g, x, c, kernel, stride, name, inplace=True, stem=stem)


def _reduction_nodes(g: Graph, left: Tensor, right: Tensor, c: int, stem: bool = False) -> Tensor:
    """Five sums of the reduction cell; `left` is the older input, in the first stem cell the raw one."""
    a = _branch(g, right, c, 5, 2, "comb_iter_0_left")
    s0 = g.add(a, _branch(g, left, c, 7, 2, "comb_iter_0_right", stem), name="comb_iter_0")
    a = sep.pool_same(g, right, "max", 2, "comb_iter_1_left")
    s1 = g.add(a, _branch(g, left, c, 7, 2, "comb_iter_1_right", stem), name="comb_iter_1")
    a = sep.pool_same(g, right, "avg", 2, "comb_iter_2_left")
    s2 = g.add(a, _branch(g, left, c, 5, 2, "comb_iter_2_right", stem), name="comb_iter_2")
    s3 = g.add(sep.pool_same(g, s0, "avg", 1, "comb_iter_3_right"), s1, name="comb_iter_3")
    a = _branch(g, s0, c, 3, 1, "comb_iter_4_left")
    s4 = g.add(a, sep.pool_same(g, right, "max", 2, "comb_iter_4_right"), name="comb_iter_4")
    return g.concat([s1, s2, s3, s4], name="cat")


def _normal_nodes(g: Graph, left: Tensor, right: Tensor, c: int) -> Tensor:
    a = _branch(g, right, c, 5, 1, "comb_iter_0_left")
    s0 = g.add(a, _branch(g, left, c, 3, 1, "comb_iter_0_right"), name="comb_iter_0")
    a = _branch(g, left, c, 5, 1, "comb_iter_1_left")
    s1 = g.add(a, _branch(g, left, c, 3, 1, "comb_iter_1_right"), name="comb_iter_1")
    s2 = g.add(sep.pool_same(g, right, "avg", 1, "comb_iter_2_left"), left, name="comb_iter_2")
    a = sep.pool_same(g, left, "avg", 1, "comb_iter_3_left")
    s3 = g.add(a, sep.pool_same(g, left, "avg", 1, "comb_iter_3_right"), name="comb_iter_3")
    s4 = g.add(_branch(g, right, c, 3, 1, "comb_iter_4_left"), right, name="comb_iter_4")
    return g.concat([left, s0, s1, s2, s3, s4], name="cat")


def _cell(g: Graph, x: Tensor, prev: Tensor, c: int, kind: str, name: str) -> Tensor:
    """Add a cell: ``stem`` and ``first`` halve the older input, ``stem`` and ``reduction`` the result."""
    with g.scope(name):
        if kind == "stem":
            right = sep.act_conv_bn(g, x, c, 1, "conv_1x1")
        if kind in ("stem", "first"):
            left = sep.factorized_reduction(g, prev, c)
        else:
            left = sep.act_conv_bn(g, prev, c, 1, "conv_prev_1x1")
        if kind != "stem":
            right = sep.act_conv_bn(g, x, c, 1, "conv_1x1")
        nodes = _reduction_nodes if kind in ("stem", "reduction") else _normal_nodes
        return nodes(g, left, right, c)


def nasnet_a_large(
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 331,
    num_cells: int = 6,
    penultimate_filters: int = 4032,
    stem_filters: int = 96,
) -> Graph:
    """Build NASNet-A (6 @ 4032) or another size of it.

    Parameters
    ----------
    train : bool
        Makes no difference: the reference has neither auxiliary head nor, by default, dropout.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.
    num_cells : int
        Normal cells in each of the three stages, N in the paper.
    penultimate_filters : int
        Channels before the classifier, a multiple of 96.
    stem_filters : int
        Channels of the first convolution.

    Returns
    -------
    Graph
    """
    whole("num_cells", num_cells)
    if whole("penultimate_filters", penultimate_filters) % 96:
        raise ValueError(f"penultimate_filters={penultimate_filters}; allowed: multiples of 96")
    channels = penultimate_filters // 24
    g = Graph("nasnet_a_large")
    stem = sep.stem_conv(g, image(g, resolution), stem_filters, "conv0")
    with g.scope("cell_stem_0"):
        right = sep.act_conv_bn(g, stem, channels // 4, 1, "conv_1x1")
        prev = _reduction_nodes(g, stem, right, channels // 4, stem=True)
    x = _cell(g, prev, stem, channels // 2, "stem", "cell_stem_1")
    index = 0
    for stage in range(3):
        c = channels * 2**stage
        if stage:
            # The cell after a reduction pairs the reduced tensor with the input before the reduction's own.
            x = _cell(g, x, prev, c, "reduction", f"reduction_cell_{stage - 1}")
        for i in range(num_cells):
            x, prev = _cell(g, x, prev, c, "normal" if i else "first", f"cell_{index}"), x
            index += 1
    x = g.relu(x, inplace=True, name="act")
    x = g.flatten(g.global_avg_pool2d(x, name="global_pool.pool"), name="global_pool.flatten")
    g.linear(x, num_classes, name="last_linear")
    return g


NETS: Final[dict[str, Builder]] = {"nasnet_a_large": nasnet_a_large}
