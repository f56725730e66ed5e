"""Small spaces of slots that cover what may happen at a boundary: the tests' own, none is published."""

from __future__ import annotations

from functools import partial

from cnnlive.nas import Gene, Slot, Space


def stem(g, res=16, channels=8):
    x = g.conv2d(g.input((1, 3, res, res)), channels, 3, padding=1, bias=False)
    return g.relu(g.batch_norm2d(x), inplace=True)


def _separable(g, x, channels):
    y = g.relu6(g.batch_norm2d(g.conv2d(x, x.channels, 3, padding=1, groups=x.channels)), inplace=True)
    y = g.batch_norm2d(g.conv2d(y, channels, 1))
    return g.add(x, y) if y.shape == x.shape else y


def _gated(g, x, channels):
    y = g.batch_norm2d(g.conv2d(x, channels, 1))
    return g.mul(y, g.sigmoid(g.conv2d(g.adaptive_avg_pool2d(y, 1), channels, 1)))


# What a slot may do to one tensor: keep it, save it, overwrite it, look at it.
KINDS = {
    "preactivation": lambda g, x, c: g.conv2d(g.relu(g.batch_norm2d(x)), c, 3, padding=1, bias=False),
    "residual": lambda g, x, _c: g.add(x, g.conv2d(g.relu(g.batch_norm2d(x)), x.channels, 3, padding=1)),
    "in place first": lambda g, x, c: g.batch_norm2d(g.conv2d(g.relu(x, inplace=True), c, 3, padding=1)),
    "gated": _gated,
    "separable": _separable,
    "pool": lambda g, x, _c: g.avg_pool2d(x, 3, 1, 1),
    "max pool": lambda g, x, _c: g.max_pool2d(x, 3, 1, 1),
    "identity": lambda _g, x, _c: x,
    "dropout": lambda g, x, _c: g.dropout(x),
    "dropout in place": lambda g, x, _c: g.dropout(x, inplace=True),
    "silu": lambda g, x, _c: g.silu(x),
    "relu": lambda g, x, _c: g.relu(x),
    "group norm": lambda g, x, _c: g.group_norm(x, 2),
    "plus its gate": lambda g, x, _c: g.add(x, g.sigmoid(x)),
    "plus itself": lambda g, x, _c: g.add(x, x),
}


def block(g, x, kind, channels=0):
    return KINDS[kind](g, x, channels or x.channels)


def pool_flatten(g, x):
    return g.flatten(g.adaptive_avg_pool2d(x, 1))


def spread_mean(g, x):
    return g.mean(x, (2, 3))


def classifier(g, x, inplace=False):
    return g.linear(g.relu(g.linear(x, 16), inplace=inplace), 10)


def chain(kinds=tuple(KINDS), blocks=3, ending=pool_flatten, inplace=False):
    """A stem, blocks that a depth gene switches off, a head; widths and resolution are genes too."""
    every = tuple(range(1, blocks + 1))
    genes = [Gene("res", (8, 12)), Gene("depth", every)]
    slots = [Slot("stem", stem, {"res": "res"})]
    for i in range(blocks):
        genes += [Gene(f"kind{i}", kinds), Gene(f"channels{i}", (0, 4))]
        when = {"depth": every[i:]} if i else {}
        slots.append(Slot(f"block{i}", block, {"kind": f"kind{i}", "channels": f"channels{i}"}, when))
    slots += [Slot("pool", ending), Slot("head", partial(classifier, inplace=inplace))]
    return Space("chain", genes, slots)


def one_op(g, x, op):
    if op.startswith("conv"):
        return g.conv2d(x, x.channels, 1, bias="bias" in op)
    return {"norm": g.batch_norm2d, "relu": g.relu, "nothing": lambda t: t}[op](x)


def twice(_g, x):
    return x, x


def pair(g, x):
    return g.conv2d(x, 8, 1), g.conv2d(x, 8, 1)


OPS = {
    "conv": lambda g, x: g.batch_norm2d(g.conv2d(g.relu(x), 8, 3, padding=1, bias=False)),
    "skip": lambda _g, x: x,
    "pool": lambda g, x: g.max_pool2d(x, 3, 1, 1),
    "dropout": lambda g, x: g.dropout(x),
}
JOINS = {
    "add": lambda g, a, b: g.add(a, b),
    "add in place": lambda g, a, b: g.add(a, b, inplace=True),
    "concat": lambda g, a, b: g.conv2d(g.concat([a, b], 1), 8, 1),
    "relu": lambda g, a, b: g.relu(g.add(b, a), inplace=True),
}


def cell(g, before, last, op, join):
    """A cell that reads the two cells before it."""
    return last, JOINS[join](g, g.conv2d(before, 8, 1, bias=False), OPS[op](g, last))


def unread(g, before, last):
    """Hand one tensor on without reading it."""
    return before, g.relu(last)


def head_of_last(g, _before, last):
    return g.linear(g.flatten(g.adaptive_avg_pool2d(last, 1)), 10)


def head_of_both(g, before, last):
    return g.linear(g.flatten(g.adaptive_avg_pool2d(g.concat([before, last], 1), 1)), 10)


def two_heads(g, before, last):
    return g.linear(g.mean(last, (2, 3)), 10), g.linear(g.mean(before, (2, 3)), 5)


def cells(start=twice, head=head_of_last, shared=False):
    """Cells with two tensors at every boundary; one gene of ops for all cells if `shared`."""
    genes = [Gene(f"op{i}", tuple(OPS)) for i in range(1 if shared else 2)]
    genes += [Gene(f"join{i}", tuple(JOINS)) for i in range(2)] + [Gene("middle", (0, 1))]
    slots = [Slot("stem", stem), Slot("start", start)]
    for i in range(2):
        slots.append(Slot(f"cell{i}", cell, {"op": "op0" if shared else f"op{i}", "join": f"join{i}"}))
        if not i:
            slots.append(Slot("middle", unread, {}, {"middle": (1,)}))
    return Space("cells", genes, [*slots, Slot("head", head)])


#: Small enough to list, and without anything that fusion joins across a boundary.
def small(blocks=3, kinds=("residual", "gated", "separable", "pool", "identity")):
    return chain(kinds, blocks)


def wide_head(g, x):
    """A map that backward needs nothing of: the step peaks in forward."""
    return g.linear(g.mean(g.interpolate(x, scale_factor=8.0), (2, 3)), 3)


def forward_heavy():
    """Convolutions with biases, whose casts autocast holds until forward is over, and a head that peaks there."""
    genes = [Gene(f"op{i}", ("conv with bias", "nothing")) for i in range(2)]
    slots = [Slot(f"op{i}", one_op, {"op": f"op{i}"}) for i in range(2)]
    return Space("forward", genes, [Slot("stem", stem), *slots, Slot("head", wide_head)])
