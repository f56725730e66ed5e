"""Hypothesis strategies: random CNN graphs with branches, views, ops in place and ops of several outputs."""

from __future__ import annotations

from hypothesis import strategies as st

from cnnlive import Graph

UNARY = ["relu", "silu", "sigmoid", "hardswish", "clip", "scale", "softmax", "prelu", "abs"]
INPLACE = {"relu", "silu", "sigmoid", "hardswish", "clip", "scale", "abs"}
BINARY = ["add", "sub", "mul", "maximum", "minimum", "div", "pow"]


@st.composite
def graphs(draw, max_ops=12, inplace=True):
    """A valid random graph of 4-D tensors (and flattened ones), small sizes with many ties.

    Which bytes a tensor shares is followed, so that nothing is read after an op has overwritten it.
    """
    g = Graph("random")
    integer = st.integers
    live = []  # tensors that may still be read
    way = {}  # tensor name -> (root, pieces on the way): who shares its bytes

    def put(tensor, source=None, piece=False):
        if source is None:
            way[tensor.name] = (tensor.name, ())
        else:
            root, pieces = way[source.name]
            way[tensor.name] = (root, (*pieces, (tensor.node, tensor.output)) if piece else pieces)
        live.append(tensor)
        return tensor

    def overlap(a, b):
        (ra, pa), (rb, pb) = way[a.name], way[b.name]
        return ra == rb and all(x == y or x[0] != y[0] for x, y in zip(pa, pb, strict=False))

    def computed(op, x, *others, here):
        """Add an elementwise op; in place (`here`) what shares the bytes of `x` can no longer be read."""
        y = g.op(op, x, *others, **({"inplace": True} if here else {}))
        gone = [t for t in live if here and overlap(t, x)]
        put(y, x if here else None)
        live[:] = [t for t in live if t not in gone]

    for _ in range(draw(integer(1, 2))):
        put(g.input((1, draw(st.sampled_from([2, 4])), 4, 4)))
    stored = set()
    if draw(st.booleans()):
        p = g.parameter((1, 1, draw(st.sampled_from([1, 4])), 4), trainable=draw(st.booleans()))
        stored.add(p.name)
        put(p)
    while len(g) < draw(integer(3, max_ops)):
        x = live[draw(integer(0, len(live) - 1))]
        kinds = ["unary", "linear", "reduce", "flatten", "identity", "cast"]
        if len(x.shape) == 4:
            kinds += [
                "conv",
                "norm",
                "pool",
                "chunk",
                "slice",
                "permute",
                "binary",
                "concat",
                "shuffle",
                "binary",
                "conv",
            ]
            kinds += ["conv_transpose", "adaptive", "pad", "resize", "layer_norm", "unary"]
        kind = draw(st.sampled_from(kinds))
        same = [t for t in live if t.shape == x.shape and t.dtype == x.dtype]
        owner_is_stored = way[x.name][0] in stored
        may = inplace and not owner_is_stored
        if kind == "unary":
            op = draw(st.sampled_from(UNARY))
            computed(op, x, here=may and op in INPLACE and draw(st.booleans()))
        elif kind == "binary":
            other = same[draw(integer(0, len(same) - 1))]
            here = may and draw(st.booleans())
            computed(draw(st.sampled_from(BINARY)), x, other, here=here)
        elif kind == "norm":
            put(g.batch_norm2d(x, affine=draw(st.booleans())))
        elif kind == "layer_norm":
            put(g.layer_norm(x, x.shape[-1:]))
        elif kind == "linear":
            put(g.linear(x, draw(integer(1, 4)), bias=draw(st.booleans())))
        elif kind == "conv":
            groups = draw(st.sampled_from([1, x.shape[1]]))
            put(
                g.conv2d(x, groups * draw(integer(1, 2)), draw(integer(1, 2)), stride=draw(integer(1, 2)),
                         padding=draw(st.sampled_from([1, "same", ((0, 1), (1, 0))])), groups=groups,
                         bias=draw(st.booleans()))
            )  # fmt: skip
        elif kind == "conv_transpose":
            put(g.conv_transpose2d(x, 2, 2, stride=draw(integer(1, 2))))
        elif kind == "pool":
            k = draw(integer(1, min(2, *x.shape[2:])))
            if draw(st.booleans()):
                put(g.max_pool2d(x, k, stride=draw(integer(1, 2)), ceil_mode=draw(st.booleans())))
            else:
                y, _ = g.max_pool2d_with_indices(x, k)
                put(y)
        elif kind == "adaptive":
            put(g.adaptive_avg_pool2d(x, (1, None)))
        elif kind == "chunk":
            for piece in g.chunk(x, draw(integer(1, 2)), dim=1):
                put(piece, x, piece=True)
        elif kind == "slice":
            put(g.slice(x, dim=2, start=0, stop=draw(integer(1, 2))), x)
        elif kind == "permute":
            put(g.permute(x, (0, 1, 3, 2)), x)
        elif kind == "flatten":
            if len(x.shape) > 2:
                put(g.flatten(x), x)
            else:
                put(g.unsqueeze(x, (2, 3)), x)
        elif kind == "identity":
            put(draw(st.sampled_from([g.identity, g.dropout]))(x), x)
        elif kind == "concat":
            put(g.concat([x, *same[: draw(integer(0, 2))]], dim=draw(st.sampled_from([1, 2]))))
        elif kind == "shuffle":
            put(g.channel_shuffle(x, x.shape[1]))
        elif kind == "pad":
            put(g.pad(x, (1, 0, 0, 1)))
        elif kind == "resize":
            put(g.interpolate(x, scale_factor=draw(st.sampled_from([1.0, 1.5, 2.0]))))
        elif kind == "reduce":
            put(g.op(draw(st.sampled_from(["mean", "sum", "amax"])), x, dim=len(x.shape) - 1, keepdim=True))
        elif kind == "cast":
            put(g.cast(x, draw(st.sampled_from(["float16", "int64", "float32"]))))
    # Sometimes the outputs are marked; they may be anything that nothing has overwritten.
    if draw(st.booleans()):
        readable = [t for t in live if t.name not in stored]
        chosen = {
            t.name: t for t in (readable[draw(integer(0, len(readable) - 1))] for _ in range(draw(integer(1, 2))))
        }
        g.output(*chosen.values())
    return g


@st.composite
def graphs_and_orders(draw, max_ops=12):
    """A graph and a legal order of its ops, drawn by picking among the ready ones."""
    import naive  # noqa: PLC0415 - the oracle's notion of legal

    g = draw(graphs(max_ops=max_ops))
    before = {n: {u for u, _ in naive.sources(g, n)} for n in g.nodes()}
    for reader, overwriter in naive.overwriter_conflicts(g):
        before[overwriter].add(reader)
    order = []
    while len(order) < len(g):
        ready = [n for n in g.nodes() if n not in order and before[n] <= set(order)]
        order.append(ready[draw(st.integers(0, len(ready) - 1))])
    return g, order
