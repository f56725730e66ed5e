"""PNASNet-5: Liu et al., "Progressive Neural Architecture Search", https://arxiv.org/abs/1712.00559.

Module paths and op order follow timm's ``pnasnet5large``.
"""

from __future__ import annotations

from typing import Final

from cnnlive.graph import Graph, Tensor
from cnnlive.zoo import _separable as sep
from cnnlive.zoo._blocks import Builder, Resolution, image, whole

__all__ = ["NETS", "pnasnet5_large"]


def _nodes(g: Graph, left: Tensor, right: Tensor, c: int, stride: int, stem: bool = False) -> Tensor:
    """Five sums of the cell; in the first stem cell `left` is the raw tensor, projected where it is read."""

    def branch(x: Tensor, kernel: int, s: int, name: str) -> Tensor:
        return sep.branch(g, x, c, kernel, s, name, inplace=False, stem=stem and x is left)

    a = branch(left, 5, stride, "comb_iter_0_left")
    if stem:
        with g.scope("comb_iter_0_right"):
            b = sep.pool_same(g, left, "max", stride, "max_pool")
            b = g.batch_norm2d(g.conv2d(b, c, 1, bias=False, name="conv"), eps=0.001, name="bn")
    else:
        b = sep.pool_same(g, left, "max", stride, "comb_iter_0_right")
    s0 = g.add(a, b, name="comb_iter_0")
    a = branch(right, 7, stride, "comb_iter_1_left")
    s1 = g.add(a, sep.pool_same(g, right, "max", stride, "comb_iter_1_right"), name="comb_iter_1")
    a = branch(right, 5, stride, "comb_iter_2_left")
    s2 = g.add(a, branch(right, 3, stride, "comb_iter_2_right"), name="comb_iter_2")
    a = branch(s2, 3, 1, "comb_iter_3_left")
    s3 = g.add(a, sep.pool_same(g, right, "max", stride, "comb_iter_3_right"), name="comb_iter_3")
    a = branch(left, 3, stride, "comb_iter_4_left")
    b = right if stride == 1 else sep.act_conv_bn(g, right, c, stride, "comb_iter_4_right")
    s4 = g.add(a, b, name="comb_iter_4")
    return g.concat([s0, s1, s2, s3, s4], name="cat")


def _cell(g: Graph, prev: Tensor, x: Tensor, c: int, stride: int, name: str) -> Tensor:
    with g.scope(name):
        if prev.shape[2:] != x.shape[2:]:
            with g.scope("conv_prev_1x1"):
                left = sep.factorized_reduction(g, prev, c)
        else:
            left = sep.act_conv_bn(g, prev, c, 1, "conv_prev_1x1")
        right = sep.act_conv_bn(g, x, c, 1, "conv_1x1")
        return _nodes(g, left, right, c, stride)


def pnasnet5_large(
    train: bool = False,
    *,
    num_classes: int = 1000,
    resolution: Resolution = 331,
    num_cells: int = 4,
    filters: int = 216,
    stem_filters: int = 96,
) -> Graph:
    """Build PNASNet-5 (N=4, F=216) or another size of it.

    Parameters
    ----------
    train : bool
        Makes no difference: the reference has neither auxiliary head nor, by default, dropout.
    num_classes : int
    resolution : int or (int, int)
        Height and width of the image.
    num_cells : int
        Cells in each of the three stages, N in the paper; the first of a later stage reduces.
    filters : int
        Channels of the first stage's branches, F in the paper, a multiple of 8.
    stem_filters : int
        Channels of the first convolution.

    Returns
    -------
    Graph
    """
    whole("num_cells", num_cells)
    if whole("filters", filters) % 8:
        raise ValueError(f"filters={filters}; allowed: multiples of 8")
    g = Graph("pnasnet5_large")
    stem = sep.stem_conv(g, image(g, resolution), stem_filters, "conv_0")
    with g.scope("cell_stem_0"):
        right = sep.act_conv_bn(g, stem, filters // 4, 1, "conv_1x1")
        prev = _nodes(g, stem, right, filters // 4, 2, stem=True)
    x = _cell(g, stem, prev, filters // 2, 2, "cell_stem_1")
    for i in range(3 * num_cells):
        stage, first = divmod(i, num_cells)
        stride = 2 if stage and not first else 1
        x, prev = _cell(g, prev, x, filters * 2**stage, stride, f"cell_{i}"), x
    x = g.relu(x, name="act")
    x = g.flatten(g.global_avg_pool2d(x, name="global_pool.pool"), name="global_pool.flatten")
    g.linear(x, num_classes, name="last_linear")
    return g


NETS: Final[dict[str, Builder]] = {"pnasnet5_large": pnasnet5_large}
