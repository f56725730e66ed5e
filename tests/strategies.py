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
    lost = set()  # names of those that may not
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
        lost.update(t.name for t in gone)

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
    # Sometimes the outputs are marked, and always where one that nobody reads is overwritten; they may be anything
    # that nothing has overwritten.
    if draw(st.booleans()) or any(t.name in lost for t in g.outputs):
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


PATHS = ["", "a", "a.b", "a.b.c", "a.d", "e", "e.b"]


@st.composite
def graphs_in_frames(draw, max_ops=12):
    """A random graph whose ops lie in modules, and some of whose tensors a Python variable holds."""
    data = draw(graphs(max_ops=max_ops)).to_dict()
    names = [row["name"] for row in data["ops"]]
    plain = Graph.from_dict(data)
    path = ""
    for k, row in enumerate(data["ops"]):
        if draw(st.booleans()):
            path = draw(st.sampled_from(PATHS))
        row["scope"] = path
        later = names[k + 1 :]
        if later and draw(st.integers(0, 3)) == 0:
            output = draw(st.integers(0, len(plain.tensors_of(row["name"])) - 1))
            row["until"] = {str(output): draw(st.sampled_from(later))}
    return Graph.from_dict(data)


class Growing:
    """A graph that grows, and the tensors that may still be read: an op in place ends those that share its bytes."""

    def __init__(self):
        self.g = Graph("random")
        self.live = []
        self.way = {}  # tensor name -> (root, pieces on the way)

    def put(self, tensor, source=None, piece=False):
        root, pieces = (tensor.name, ()) if source is None else self.way[source.name]
        self.way[tensor.name] = (root, (*pieces, (tensor.node, tensor.output)) if piece else pieces)
        self.live.append(tensor)
        return tensor

    def elementwise(self, op, x, *others, here=False, view=False, **attributes):
        y = self.g.op(op, x, *others, inplace=here, **attributes)
        root, pieces = self.way[x.name]

        def overlaps(t):
            other, theirs = self.way[t.name]
            return other == root and all(a == b or a[0] != b[0] for a, b in zip(theirs, pieces, strict=False))

        if here:
            self.live[:] = [t for t in self.live if not overlaps(t)]
        return self.put(y, x if here or view else None)


TRAINED_UNARY = ["relu", "relu6", "silu", "sigmoid", "hardswish", "gelu", "clip", "scale", "abs", "sqrt", "erf",
                 "reciprocal", "leaky_relu", "tanh", "exp"]  # fmt: skip


@st.composite
def training_graphs(draw, max_ops=30):
    """A random CNN as it trains: every kind of backward node, shared and frozen weights, one to three outputs."""
    integer, flag = st.integers, st.booleans
    growing = Growing()
    g, live, put = growing.g, growing.live, growing.put
    channels = draw(st.sampled_from([2, 4]))
    put(g.input((1, channels, 4, 4)))
    if draw(integer(0, 3)) == 0:
        put(g.input((1, channels, 4, 4)))
    convs = {}

    def pick(candidates):
        return candidates[draw(integer(0, len(candidates) - 1))]

    n_ops = draw(integer(8, max_ops))
    while len(g) < n_ops:
        x = pick(live)
        maps = len(x.shape) == 4
        same = [t for t in live if t.shape == x.shape]
        kinds = ["unary", "unary", "linear", "dropout", "identity", "flatten", "mean"]
        if maps:
            kinds += ["conv", "conv", "conv", "norm", "norm", "pool", "binary", "binary", "gate", "concat"]
            kinds += ["layer_scale", "chunk", "slice", "permute", "shuffle", "depth", "resize", "reduce"]
            kinds += ["matmul", "expand"]
        kind = draw(st.sampled_from(kinds))
        if kind == "unary":
            op = draw(st.sampled_from(TRAINED_UNARY))
            attributes = {"clip": {"min": 0.0}, "scale": {"factor": draw(st.sampled_from([1.0, 2.0])), "offset": 1.0}}
            growing.elementwise(op, x, here=draw(flag()), **attributes.get(op, {}))
        elif kind == "binary":
            other = pick(same)
            op = draw(st.sampled_from(["add", "add", "sub", "mul", "div", "maximum", "pow"]))
            growing.elementwise(op, x, other, here=draw(flag()))
        elif kind == "conv":
            groups = draw(st.sampled_from([1, x.shape[1]]))
            attributes = {
                "out_channels": draw(st.sampled_from([channels, 2 * groups, x.shape[1]])) // groups * groups or groups,
                "kernel_size": draw(st.sampled_from([1, 3])),
                "padding": "same",
                "groups": groups,
                "bias": draw(flag()),
            }
            holder = convs.get((x.shape[1], *attributes.values()))
            shares = holder is not None and draw(flag())
            y = g.op("conv2d", x, **attributes, tied=holder if shares else None)
            convs.setdefault((x.shape[1], *attributes.values()), y.node)
            put(y)
        elif kind == "norm":
            what = draw(st.sampled_from(["batch", "batch", "group", "layer", "instance", "response"]))
            if what == "batch":
                put(g.batch_norm2d(x, affine=draw(flag())))
            elif what == "group":
                put(g.group_norm(x, 1))
            elif what == "layer":
                put(g.layer_norm(x, x.shape[-1:]))
            elif what == "instance":
                put(g.instance_norm2d(x, affine=draw(flag())))
            else:
                put(g.local_response_norm(x, 3))
        elif kind == "pool":
            what = draw(st.sampled_from(["max", "indices", "avg", "adaptive"]))
            k = min(2, *x.shape[2:])
            if what == "max":
                put(g.max_pool2d(x, k, stride=1, ceil_mode=draw(flag())))
            elif what == "indices":
                put(g.max_pool2d_with_indices(x, k, stride=1)[0])
            else:
                put(g.avg_pool2d(x, k, stride=1) if what == "avg" else g.adaptive_avg_pool2d(x, 1))
        elif kind == "gate":
            y = g.conv2d(g.global_avg_pool2d(x), x.shape[1], 1)
            growing.elementwise("mul", x, g.sigmoid(y, inplace=draw(flag())), here=draw(flag()))
        elif kind == "layer_scale":
            p = g.parameter((1, x.shape[1], 1, 1), trainable=draw(flag()))
            growing.elementwise(draw(st.sampled_from(["mul", "add"])), x, p)
        elif kind == "concat":
            put(g.concat([x, *[pick(same) for _ in range(draw(integer(0, 2)))]], dim=draw(integer(1, 2))))
        elif kind == "chunk":
            for piece in g.chunk(x, 2, dim=draw(integer(1, 2))):
                put(piece, x, piece=True)
        elif kind == "slice":
            put(g.slice(x, dim=draw(integer(1, 2)), start=0, stop=1), x)
        elif kind == "permute":
            y = put(g.permute(x, draw(st.sampled_from([(0, 2, 3, 1), (0, 1, 3, 2)]))), x)
            if draw(flag()):
                put(g.linear(y, y.shape[-1], bias=draw(flag())))
        elif kind == "shuffle":
            put(g.channel_shuffle(x, x.shape[1]) if draw(flag()) else g.contiguous(x))
        elif kind == "depth":
            put(g.stochastic_depth(x, draw(st.sampled_from([0.0, 0.5])), draw(st.sampled_from(["row", "batch"]))), x)
        elif kind == "dropout":
            op = draw(st.sampled_from(["dropout", "dropout2d"] if maps else ["dropout"]))
            p = draw(st.sampled_from([0.0, 0.5]))
            growing.elementwise(op, x, here=draw(flag()), view=True, p=p)
        elif kind == "resize":
            put(g.interpolate(x, scale_factor=2.0) if x.shape[-1] < 8 else g.pad(x, (0, 1, 0, 0)))
        elif kind == "reduce":
            op = draw(st.sampled_from(["mean", "sum", "amax", "vector_norm"]))
            put(g.op(op, x, dim=draw(st.sampled_from([3, (2, 3)])), keepdim=True))
        elif kind == "matmul":
            put(g.matmul(x, g.permute(pick(same), (0, 1, 3, 2))))
        elif kind == "expand":
            y = g.mean(x, dim=(2, 3), keepdim=True)
            put(g.expand(y, (-1, *x.shape[1:])), put(y))
        elif kind == "flatten":
            put(g.flatten(x) if len(x.shape) > 2 else g.unsqueeze(x, (2, 3)), x)
        elif kind == "linear":
            put(g.linear(x, draw(integer(1, 4)), bias=draw(flag())))
        elif kind == "identity":
            put(g.identity(x), x)
        else:
            put(g.mean(x, dim=-1, keepdim=True))
    weighted = sorted({w.op for w in g.weights() if w.weight.role in ("weight", "bias")})
    if weighted and draw(flag()):
        g.freeze(*[name for name in weighted if draw(flag())])
    heads = [g.linear(pick(live), 3)]
    for _ in range(draw(integer(0, 2))):
        x = pick(live)
        heads.append(g.linear(x, 3, bias=False) if draw(flag()) else x)
    g.output(*{t.name: t for t in heads}.values())
    return g


TRAINING_OPTIONS = st.fixed_dictionaries(
    {
        "device": st.sampled_from(["cpu", "cuda"]),
        "precision": st.sampled_from([(None, None), ("float16", None), ("float32", "float16"), (None, "bfloat16")]),
        "loss": st.sampled_from(["cross_entropy", "mse", "bce", "bce_with_logits", "l1", "smooth_l1"]),
        "aux_weight": st.sampled_from([None, 0, 1]),
        "autocast_loss": st.booleans(),
        "input_gradients": st.booleans(),
        "frames": st.booleans(),
        "host_scalars": st.booleans(),
    }
)
