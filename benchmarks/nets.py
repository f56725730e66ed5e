"""Nets to measure on, made here so that every size is at hand."""

from __future__ import annotations

from cnnlive import Graph


def residual(n_ops: int) -> Graph:
    """A residual net of bottlenecks at one resolution with `n_ops` ops: the mix of ops of a ResNet-50."""
    g = Graph(f"residual-{n_ops}")
    x = g.input((1, 64, 56, 56))
    while len(g) < n_ops:
        identity = x
        for kernel, out in ((1, 16), (3, 16)):
            x = g.conv2d(x, out, kernel, padding=kernel // 2, bias=False)
            x = g.relu(g.batch_norm2d(x), inplace=True)
        x = g.batch_norm2d(g.conv2d(x, 64, 1, bias=False))
        x = g.relu(g.add(x, identity, inplace=True), inplace=True)
    return g
