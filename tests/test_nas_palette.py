"""Palettes, and the training memory of flat graphs: what a Graph of the same ops costs, byte for byte."""

import dataclasses
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from cnnlive import Graph, plan_training
from cnnlive.errors import AttributeValueError, DTypeError, GraphError, ShapeError, SpaceError, UnknownOperatorError
from cnnlive.lowered import lower
from cnnlive.nas.batch import Batch, evaluate_batch
from cnnlive.nas.palette import FREE, Palette
from cnnlive.nas.steps import read_step
from cnnlive.nas.training import Scratch, templates, train
from cnnlive.ops import operator, weights_of
from cnnlive.plan.optimizers import read_optimizer
from cnnlive.tape import LOSSES

F0, F1 = FREE
SAME_SHAPE = [
    ("relu", {}), ("relu", {"inplace": True}), ("relu6", {}), ("relu6", {"inplace": True}), ("hardswish", {}),
    ("hardswish", {"inplace": True}), ("silu", {}), ("silu", {"inplace": True}), ("sigmoid", {}),
    ("hardsigmoid", {"inplace": True}), ("clip", {"min": -1.0, "max": 1.0}), ("clip", {"min": 0.0, "inplace": True}),
    ("gelu", {}), ("leaky_relu", {"inplace": True}), ("elu", {}), ("tanh", {}), ("mish", {}), ("abs", {}),
    ("sqrt", {}), ("exp", {}), ("erf", {"inplace": True}), ("reciprocal", {}), ("prelu", {}),
    ("scale", {"factor": 2.0}), ("scale", {"offset": 1.0}), ("scale", {"factor": 2.0, "offset": 1.0}),
    ("scale", {"factor": 0.5, "inplace": True}), ("scale", {"factor": -1.0, "offset": 1.0}), ("identity", {}),
    ("dropout", {}), ("dropout", {"inplace": True}), ("dropout", {"p": 0.0}), ("softmax", {}),
]  # fmt: skip
MAPS = [
    ("batch_norm2d", {}), ("batch_norm2d", {"affine": False}), ("batch_norm2d", {"track_running_stats": False}),
    ("batch_norm2d", {"track_running_stats": False, "affine": False}), ("batch_norm2d", {"use_running_stats": True}),
    ("max_pool2d", {"kernel_size": 3, "stride": 1, "padding": 1}), ("max_pool2d", {"kernel_size": 2, "stride": 2,
     "ceil_mode": True}), ("avg_pool2d", {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("adaptive_avg_pool2d", {"output_size": 1}), ("adaptive_avg_pool2d", {"output_size": 2}),
    ("adaptive_max_pool2d", {"output_size": 1}), ("mean", {"dim": (2, 3)}), ("mean", {"dim": (2, 3), "keepdim": True}),
    ("sum", {"dim": (2, 3), "keepdim": True}), ("amax", {"dim": (2, 3), "keepdim": True}), ("flatten", {}),
    ("reshape", {"shape": (0, -1)}), ("dropout2d", {}), ("stochastic_depth", {"p": 0.5}),
    ("stochastic_depth", {"p": 0.5, "mode": "batch"}), ("channel_shuffle", {"groups": 2}),
    ("interpolate", {"scale_factor": 2.0}), ("group_norm", {"num_groups": 2}),
    ("pad", {"pad": (0, 1, 0, 1)}),
]  # fmt: skip
BINARY = [("add", {}), ("add", {"inplace": True}), ("mul", {}), ("mul", {"inplace": True}), ("sub", {}), ("div", {}),
          ("maximum", {})]  # fmt: skip


def palette(dtype="float32"):
    """A palette of many kinds, and where each stands: {"name": [(number, attributes)]}."""
    p = Palette(dtype)
    kinds = {}

    def add(group, op, inputs=None, **attributes):
        kinds.setdefault(group, []).append(p.add(op, inputs=inputs, **attributes))

    add("input", "input", shape=(1, F0, F1, F1))
    for op, attributes in SAME_SHAPE:
        add("same", op, **attributes)
    for op, attributes in MAPS:
        add("maps", op, **attributes)
    for bias in (False, True):
        add("conv", "conv2d", out_channels=F0, kernel_size=3, padding=1, bias=bias)
        add("conv", "conv2d", out_channels=F0, kernel_size=F1, padding="same", stride=2, bias=bias)
        add("depthwise", "conv2d", out_channels=F0, groups=F0, kernel_size=3, padding="same", bias=bias)
        add("linear", "linear", out_features=F0, bias=bias)
        add("wide", "linear", inputs=[(1, 4, 4, 4)], out_features=F0, bias=bias)
    for op, attributes in BINARY:
        add("binary", op, **attributes)
    add("many", "add_n")
    add("many", "concat", dim=1)
    add("slice", "slice", dim=1, start=0, stop=F0)
    add("scale", "parameter", shape=(1,))
    add("scale", "parameter", shape=(1, 1), trainable=False)
    add("leaf", "parameter", shape=(1, 2, 2, 2))
    add("leaf", "parameter", shape=(1, 2, 2, 2), trainable=False)
    return p, kinds


PALETTE, KINDS = palette()


class Nodes:
    """The flat arrays of one graph, and the Graph that is grown beside them."""

    def __init__(self, p, kinds):
        self.p, self.kinds = p, kinds
        self.graph = Graph()
        self.rows = []  # kind, reads, free
        self.tensors = []
        self.live = []  # numbers of nodes that may still be read
        self.root = []

    def put(self, k, reads=(), free=(0, 0)):
        what = self.p._kinds[k]
        attributes = {a: palette_filled(v, free) for a, v in what.attributes.items()}
        t = self.graph.op(what.op, *[self.tensors[i] for i in reads], **attributes)
        n = len(self.rows)
        self.rows.append((k, tuple(reads), free))
        self.tensors.append(t)
        alias = self.p.kinds.alias[k]
        self.root.append(self.root[reads[0]] if alias in (1, 2) else n)
        if alias == 2:
            self.live = [i for i in self.live if self.root[i] != self.root[n]]
        self.live.append(n)
        return n

    def shape(self, n):
        return self.tensors[n].shape

    def arrays(self, until=None):
        kind, reads, free = zip(*self.rows, strict=True)
        return flat(kind, reads, free, until or [0] * len(kind))


def palette_filled(value, free):
    if isinstance(value, tuple):
        return tuple(palette_filled(v, free) for v in value)
    return free[FREE.index(value)] if value in FREE else value


def flat(kind, reads, free, until):
    ptr = np.cumsum([0, *map(len, reads)])
    idx = [i for row in reads for i in row]
    return (np.array(kind, np.int32), ptr.astype(np.int64), np.array(idx, np.int32),
            np.array(free, np.int32).reshape(-1, 2), np.array(until, np.int32))  # fmt: skip


@st.composite
def nodes(draw, max_ops=25, p=PALETTE, kinds=KINDS, inplace=True):
    """A random graph of palette nodes: branches, reuse, views and ops in place, values that frames hold."""
    integer, flag = st.integers, st.booleans
    n = Nodes(p, kinds)

    def pick(candidates):
        return candidates[draw(integer(0, len(candidates) - 1))]

    alias = p.kinds.alias
    n.put(kinds["input"][0], (), (draw(st.sampled_from([2, 4])), draw(st.sampled_from([1, 4, 6]))))
    if draw(integer(0, 4)) == 0:
        n.put(kinds["input"][0], (), (2, 4))
    for _ in range(draw(integer(0, max_ops))):
        x = pick(n.live)
        shape = n.shape(x)
        if n.graph.op_of(n.tensors[x].node) == "parameter":
            continue
        groups = ["same", "same", "many", "binary", "scale", "wide" if len(shape) > 2 else "linear"]
        if len(shape) == 4:
            groups += ["maps", "maps", "conv", "conv", "depthwise", "slice", "binary", "wide", "gate", "many"]
        group = draw(st.sampled_from(groups))
        k = pick(kinds.get(group, [0]))
        if alias[k] == 2 and not inplace:
            continue
        others = [i for i in n.live if n.shape(i) == shape]
        try:
            if group in ("same", "maps"):
                n.put(k, (x,))
            elif group == "conv":
                n.put(k, (x,), (draw(st.sampled_from([2, 4])), draw(st.sampled_from([1, 3]))))
            elif group == "depthwise":
                n.put(k, (x,), (shape[1], 0))
            elif group in ("linear", "wide"):
                n.put(k, (x,), (draw(integer(1, 4)), 0))
            elif group == "binary":
                n.put(k, (x, pick(others)))
            elif group == "many":
                n.put(k, (x, *[pick(others) for _ in range(draw(integer(0, 3)))]))
            elif group == "slice":
                n.put(k, (x,), (draw(integer(1, shape[1])), 0))
            elif group == "scale":
                n.put(pick(kinds["binary"]), (x, n.put(k)))
            else:
                gate = n.put(kinds["conv"][2 * draw(integer(0, 1))], (n.put(kinds["maps"][8], (x,)),), (shape[1], 3))
                n.put(kinds["binary"][2 + draw(flag())], (x, n.put(kinds["same"][8], (gate,))))
        except ShapeError:
            continue
    x = pick([i for i in n.live if n.graph.op_of(n.tensors[i].node) != "parameter"])
    if draw(integer(0, 5)):
        n.put(pick(kinds["linear" if len(n.shape(x)) == 2 else "wide"]), (x,), (3, 0))
    else:
        n.put(kinds["same"][0], (x,))
    until = [draw(integer(i + 1, len(n.rows) - 1)) if i < len(n.rows) - 1 and draw(integer(0, 5)) == 0 else 0
             for i in range(len(n.rows))]  # fmt: skip
    return n.arrays(until if draw(flag()) else None)


def attributes_of(k, free):
    """The attribute columns of a node."""
    c = PALETTE.kinds
    span = range(c.attr_ptr[k], c.attr_ptr[k + 1])
    return [int(c.attr[j]) if c.attr_free[j] < 0 else int(free[c.attr_free[j]]) for j in span]


@given(arrays=nodes())
def test_the_columns_of_kinds_are_those_of_the_lowered_graph(arrays):
    kind, ptr, idx, free, _until = arrays
    net = lower(PALETTE.graph(*arrays))
    c = PALETTE.kinds
    assert [net.attr[net.attr_ptr[i] : net.attr_ptr[i + 1]].tolist() for i in range(len(kind))] == [
        attributes_of(k, f) for k, f in zip(kind, free, strict=True)
    ]
    assert net.rule.tolist() == c.rule[kind].tolist()
    assert net.macs_rule.tolist() == c.macs_rule[kind].tolist()
    assert net.weight_rule.tolist() == c.weight_rule[kind].tolist()
    assert net.kind.tolist() == c.kind[kind].tolist()
    assert net.alias.tolist() == c.alias[kind].tolist()
    assert net.fold.tolist() == c.fold[kind].tolist()
    assert net.index_bytes.tolist() == c.index_bytes[kind].tolist()
    assert net.statistics.tolist() == [[i, *c.statistics[k]] for i, k in enumerate(kind) if c.statistics[k, 2]]
    assert (net.dtype == c.dtype).all()
    assert net.in_idx.tolist() == idx.tolist()
    assert net.in_ptr.tolist() == ptr.tolist()
    for i, k in enumerate(kind):
        if c.rank[k]:
            assert c.rank[k] == net.sizes.rank[idx[ptr[i]]]
        assert c.inputs[k, 0] <= ptr[i + 1] - ptr[i]
        assert c.inputs[k, 1] < 0 or ptr[i + 1] - ptr[i] <= c.inputs[k, 1]


def test_a_kind_says_what_it_is():
    p = Palette("float16")
    p.add("input", shape=(1, 3, F0, F0))
    p.add("conv2d", out_channels=F0, kernel_size=3, groups=F1)
    p.add("linear", out_features=10)
    p.add("add_n")
    p.add("layer_norm", inputs=[(1, 4, 8)], normalized_shape=8)
    p.add("squeeze", dim=(2, 3))
    c = pickle.loads(pickle.dumps(p)).kinds
    assert c.ops == ("input", "conv2d", "linear", "add_n", "layer_norm", "squeeze")
    assert c.n_kinds == len(p) == 6
    assert c.bias.tolist() == [0, 1, 1, 0, 0, 0]
    assert c.rank.tolist() == [0, 4, 2, 0, 3, 4]
    assert c.inputs.tolist() == [[0, 0], [1, 1], [1, 1], [1, -1], [1, 1], [1, 1]]
    assert c.uses.tolist() == [[1, 0], [1, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert c.attr_free[: c.attr_ptr[1]].tolist() == [-1, -1, 0, 0]
    assert "conv2d" in repr(p)


@pytest.mark.parametrize(
    ("op", "attributes", "error", "words"),
    [
        ("conv", {}, UnknownOperatorError, "conv1d"),
        ("conv2d", {"kernel_size": 3}, AttributeValueError, "out_channels is missing"),
        ("channel_shuffle", {"groups": F0}, SpaceError, "in no column"),
        ("parameter", {"shape": (1, F0, 1, 1)}, SpaceError, "more than the columns"),
        ("chunk", {"chunks": 2}, SpaceError, "2 outputs"),
        ("cast", {"dtype": "float16"}, SpaceError, "one type"),
        ("input", {"shape": (1, 3), "dtype": "int64"}, SpaceError, "one type"),
        ("input", {"shape": (2, 3)}, SpaceError, "batch of 1"),
        ("topk", {"k": 2}, SpaceError, "Python function"),
        ("squeeze", {}, SpaceError, "dimensions"),
        ("interpolate", {"scale_factor": F0}, SpaceError, "not a column as it stands"),
        ("flatten", {"start_dim": 7}, ShapeError, "outside"),
    ],
)
def test_what_no_palette_holds_is_refused(op, attributes, error, words):
    p = Palette()
    with pytest.raises(error, match=words):
        p.add(op, **attributes)
    assert len(p) == 0


def test_a_palette_has_a_floating_type():
    with pytest.raises(DTypeError, match="float32"):
        Palette("int8")


def test_nodes_that_make_no_graph_are_refused():
    with pytest.raises(SpaceError, match="node 0 is of kind 99"):
        PALETTE.graph([99], [0, 0], [], [[0, 0]])
    with pytest.raises(SpaceError, match="node 0 reads"):
        PALETTE.graph([1], [0, 1], [0], [[0, 0]])
    assert len(PALETTE.graph([], [0], [], [])) == 0


# ------------------------------------------------------------------ training


def sizes_of(net, kind, t):
    """The columns of sizes of one graph, from the definition."""
    rows = []
    for p in range(net.n_ops):
        x = int(net.in_idx[net.in_ptr[p]]) if net.in_ptr[p + 1] > net.in_ptr[p] else -1
        entry = operator(net.op_kinds[p])
        shapes = [net.shape(i) for i in net.in_idx[net.in_ptr[p] : net.in_ptr[p + 1]].tolist()]
        rule = net.weight_rule[p].tolist()
        mine = {w.role: math.prod(w.shape) for w in weights_of(entry, shapes, net.op_attrs[p])}
        attrs = net.op_attrs[p]
        weight = mine.get("weight", 1) if rule[0] else 1
        vector = {0: 1, 1: attrs.get("out_channels"), 2: attrs.get("out_features"), 4: weight}.get(rule[0])
        vector = shapes[0][1] if vector is None else vector
        lo, hi = t.span[kind[p]].tolist()
        rows.append((int(net.sizes.numel[p]), weight, vector, math.prod(net.sizes.dims[x, lo:hi].tolist())))
    return np.array(rows, np.int64)


def joined(graphs):
    """Several graphs end to end; indices stay local."""
    start = np.cumsum([0, *(len(a[0]) for a in graphs)])
    edges = np.cumsum([0, *(len(a[2]) for a in graphs)])
    ptr = np.concatenate([[0], *(a[1][1:] + e for a, e in zip(graphs, edges, strict=False))])
    kind, idx, until = (np.concatenate([a[i] for a in graphs]) for i in (0, 2, 4))
    arrays = [start.astype(np.int64), kind.astype(np.int32), ptr.astype(np.int64), idx.astype(np.int32),
              until.astype(np.int32)]  # fmt: skip
    for a in arrays:
        a.setflags(write=False)
    return arrays


def trained(graphs, optimizers, batch, precision, device, loss, p=PALETTE):
    """Saved bytes and peaks of some graphs in bulk."""
    t = templates(p, precision=precision, device=device, loss=loss)
    nets = [lower(p.graph(*a)) for a in graphs]
    at = [dataclasses.replace(n, sizes=n.sizes_at(batch)) for n in nets]
    sizes = np.concatenate([sizes_of(n, a[0], t) for n, a in zip(at, graphs, strict=True)])
    classes = np.array([n.shape(n.n_tensors - 1)[1] if n.sizes.rank[-1] > 1 else 0 for n in at], np.int64)
    rules = [read_step(r, device, t.item) for r in optimizers]
    scratch = Scratch(max(len(a[0]) for a in graphs), max(len(a[2]) for a in graphs))
    found = train(t, *joined(graphs), sizes, classes, rules, scratch)
    return found[:, 0], found[:, 1:].T


OPTIMIZERS = [("sgd", {}), ("adam", {}), ("adamw", {"amsgrad": True}), ("rmsprop", {"momentum": 0.9}),
              ("adagrad", {}), ("rprop", {"implementation": "single"}), ("adadelta", {"implementation": "single"}),
              ("asgd", {"implementation": "single"}), ("adam", {"implementation": "fused"})]  # fmt: skip


def same_as_plans(graphs, options, batch, precision, device, loss, p=PALETTE):
    optimizers = [read_optimizer(name, device=device, **o) for name, o in options]
    plans = [[plan_training(p.graph(*a), batch=batch, optimizer=o, precision=precision, device=device, loss=loss)
              for a in graphs] for o in optimizers]  # fmt: skip
    saved, peaks = trained(graphs, optimizers, batch, precision, device, loss, p)
    assert saved.tolist() == [plan.saved_bytes for plan in plans[0]]
    assert peaks.tolist() == [[plan.peak_bytes for plan in row] for row in plans]


SETTINGS = {
    "options": st.lists(st.sampled_from(OPTIMIZERS), min_size=1, max_size=2),
    "batch": st.sampled_from([1, 2, 3]),
    "precision": st.sampled_from([None, "float16", "bfloat16", "float64"]),
    "device": st.sampled_from(["cuda", "cpu"]),
    "loss": st.sampled_from(LOSSES),
}


@given(graphs=st.lists(nodes(), min_size=1, max_size=2), **SETTINGS)
def test_training_in_bulk_gives_what_plans_give(graphs, options, batch, precision, device, loss):
    try:
        same_as_plans(graphs, options, batch, precision, device, loss)
    except (SpaceError, GraphError) as error:
        if not REFUSED.search(str(error)):
            raise
        event(REFUSED.search(str(error)).group())


REFUSED = re.compile("in place on a view|no parameter that takes a gradient")


@st.composite
def sums(draw, max_ops=14):
    """A graph of one shape, whose gradients are handed on, sliced and added up in every way."""
    n = Nodes(PALETTE, KINDS)
    of = {k.op: i for i, k in reversed(list(enumerate(PALETTE._kinds)))}
    integer = st.integers
    n.put(KINDS["input"][0], (), (2, 2))
    n.put(KINDS["conv"][0], (0,), (2, 3))
    n.live = [1]
    for _ in range(draw(integer(1, max_ops))):
        x, y, z = (n.live[draw(integer(0, len(n.live) - 1))] for _ in range(3))
        op = draw(st.sampled_from(["add", "add", "add_n", "relu", "conv", "mul", "leaf", "scale", "concat", "slices"]))
        if op == "relu":
            n.put(of["relu"], (x,))
        elif op == "conv":
            n.put(KINDS["conv"][draw(integer(0, 1)) * 2], (x,), (2, 3))
        elif op == "leaf":
            p = n.put(KINDS["leaf"][draw(integer(0, 1))])
            n.live.remove(p)
            for _ in range(draw(integer(1, 2))):
                x = n.put(of["add"], (x, p))
        elif op == "scale":
            p = n.put(KINDS["scale"][0])
            n.live.remove(p)
            n.put(of[draw(st.sampled_from(["add", "mul"]))], (x, p))
        elif op in ("concat", "slices"):
            # A slice of what was joined: its gradient may lie in strides.
            c = n.put(of["concat"], (x, y))
            n.live.remove(c)
            if op == "concat":
                n.put(KINDS["conv"][0], (c,), (2, 3))
            else:
                n.put(of["slice"], (c,), (2, 0))
        else:
            n.put(of[op], (x, y, z) if op == "add_n" else (x, y))
    x = n.live[-1]
    while len(n.live) > 1 and draw(st.booleans()):
        x = n.put(of["add"], (x, n.live.pop(0)))
    n.put(KINDS["conv"][0], (x,), (2, 3))
    if draw(st.booleans()):
        n.put(KINDS["linear"][1], (n.put(of["flatten"], (len(n.rows) - 1,)),), (2, 0))
    return n.arrays()


@given(graphs=st.lists(sums(), min_size=1, max_size=3), **SETTINGS)
def test_sums_in_bulk_give_what_plans_give(graphs, options, batch, precision, device, loss):
    same_as_plans(graphs, options, batch, precision, device, loss)


def rows(*nodes_of, p=PALETTE):
    """The arrays of nodes ``(operator, reads[, free])``, of the first kind of that operator."""
    first = {k.op: i for i, k in reversed(list(enumerate(p._kinds)))}
    kind = [first[n[0]] if isinstance(n[0], str) else n[0] for n in nodes_of]
    return flat(kind, [n[1] for n in nodes_of], [n[2] if len(n) > 2 else (0, 0) for n in nodes_of], [0] * len(kind))


IMAGE = ("input", (), (2, 2))
LARGE = ("input", (), (2, 16))
CONV = ("conv2d", (0,), (2, 3))
CASES = {
    "one convolution": [IMAGE, CONV],
    "one vector": [IMAGE, ("flatten", (0,)), ("linear", (1,), (3, 0))],
    "a dead end": [IMAGE, CONV, ("relu", (1,)), ("batch_norm2d", (1,)), ("max_pool2d", (1,)), ("dropout", (1,)), CONV],
    "dead parameters": [IMAGE, ("parameter", ()), ("parameter", ()), ("add", (0, 1)), CONV],
    "an image that nobody reads": [IMAGE, IMAGE, CONV],
    "pools before the first parameter": [IMAGE, ("max_pool2d", (0,)), ("batch_norm2d", (1,)), ("relu", (2,))],
    "an output that is read": [IMAGE, CONV, ("relu", (1,)), ("identity", (1,))],
    "an identity in between": [IMAGE, CONV, ("identity", (1,)), ("relu", (2,))],
    "a tensor and itself": [LARGE, CONV, ("add", (1, 1))],
    "a tensor, itself and more": [LARGE, CONV, ("add", (1, 1)), ("add", (2, 1)), ("add_n", (3, 3, 1))],
    "a product with itself": [LARGE, CONV, ("mul", (1, 1))],
    "a gradient that others look at": [LARGE, CONV, CONV, ("channel_shuffle", (2,)), ("add_n", (2, 3, 1))],
    "the same behind a difference": [LARGE, CONV, CONV, ("sub", (0, 2)), ("add_n", (2, 3, 1))],
    "most in forward": [LARGE, ("relu", (0,)), ("relu", (1,)), ("adaptive_avg_pool2d", (2,)), ("conv2d", (3,), (2, 3))],
    "most in two ops of one": [LARGE, (KINDS["same"][25], (0,)), ("adaptive_avg_pool2d", (1,)),
                               ("conv2d", (2,), (2, 3))],
    "twice the same": [IMAGE, CONV, ("add", (1, 1)), ("concat", (2, 2)), ("mul", (3, 3))],
    "a parameter three times": [IMAGE, ("parameter", ()), ("mul", (0, 1)), ("add", (2, 1)), ("mul", (3, 1))],
    "a gradient for two parameters": [IMAGE, (KINDS["leaf"][0], ()), (KINDS["leaf"][0], ()), ("add", (1, 2)),
                                      ("add", (3, 0))],
    "slices for a parameter": [IMAGE, (KINDS["leaf"][0], ()), ("concat", (1, 1)), ("concat", (2, 1)),
                               ("relu", (3,))],
    "a parameter through an activation": [IMAGE, (KINDS["leaf"][0], ()), ("relu", (1,)), ("add", (0, 2))],
    "a parameter as output": [IMAGE, (KINDS["leaf"][0], ())],
    "a parameter as output of an identity": [IMAGE, (KINDS["leaf"][0], ()), ("add", (0, 1)), ("identity", (1,))],
    "in place on a view of no gradient": [IMAGE, ("flatten", (0,)), (2, (1,)), ("linear", (2,), (3, 0))],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 2])
def test_small_graphs_give_what_plans_give(case, batch):
    for loss in LOSSES:
        for device in ("cpu", "cuda"):
            if loss == "output" and case.startswith("a parameter as output"):
                continue
            same_as_plans([rows(*CASES[case])], OPTIMIZERS[:2], batch, None, device, loss)


@pytest.mark.parametrize(
    ("case", "batch", "loss", "error", "words"),
    [
        ([IMAGE, ("relu", (0,))], 1, "mse", GraphError, "graph 1 has no parameter"),
        ([IMAGE, CONV, ("amax_all", (1,))], 1, "cross_entropy", GraphError, "graph 1: .* one dimension"),
        ([IMAGE, CONV, ("pow", (1, 1))], 1, "mse", SpaceError, "graph 1, node 2: .*pow.*more than two"),
        ([IMAGE, CONV, ("flatten", (1,)), (2, (2,))], 1, "mse", SpaceError, "graph 1, node 3: .*in place on a view"),
        (
            [IMAGE, CONV, ("reshape", (1,)), ("reshape", (1,)), ("concat", (2, 3))],
            2,
            "mse",
            SpaceError,
            "graph 1, node 3: .*reshape",
        ),
        ([IMAGE, ("parameter", ())], 1, "output", SpaceError, "graph 1, node 1: .*loss that is a parameter"),
    ],
)
def test_a_graph_that_bulk_training_does_not_know_is_named(case, batch, loss, error, words):
    p = Palette()
    for k in PALETTE._kinds:
        if k.op != "reshape":
            p.add(k.op, inputs=k.shapes or None, **k.attributes)
        else:
            p.add("reshape", shape=(0, 4, 2), inputs=[(1, 2, 2, 2)])
    p.add("pow")
    p.add("sum", dim=(1, 2, 3))
    case = [(len(p) - 1, *n[1:]) if n[0] == "amax_all" else n for n in case]
    good = rows(IMAGE, CONV, ("dropout", (1,)), ("relu", (2,)), p=p)
    bad = rows(*case, p=p)
    with pytest.raises(error, match=words):
        trained([good, bad, good], [read_optimizer("sgd")], batch, None, "cuda", loss, p)
    same_as_plans([good], OPTIMIZERS[:1], batch, None, "cuda", loss, p)


def test_a_reshape_of_gradients_in_one_piece_is_known():
    p = Palette()
    p.add("input", shape=(1, F0, F1, F1))
    p.add("conv2d", out_channels=F0, kernel_size=3, padding=1)
    p.add("reshape", shape=(0, 4, 2), inputs=[(1, 2, 2, 2)])
    p.add("linear", out_features=F0, inputs=[(1, 4, 2)])
    same_as_plans(
        [rows(IMAGE, CONV, ("reshape", (1,)), ("linear", (2,), (3, 0)), p=p)], OPTIMIZERS, 2, None, "cuda", "mse", p
    )


def test_weights_are_those_of_the_graph_as_written_where_the_batch_moves():
    p = Palette()
    p.add("input", shape=(1, F0, F1, F1))
    p.add("conv2d", out_channels=F0, kernel_size=3, padding=1)
    p.add("flatten", start_dim=0)
    p.add("linear", inputs=[(8,)], out_features=F0)
    arrays = rows(IMAGE, CONV, ("flatten", (1,)), ("linear", (2,), (3, 0)), p=p)
    graph_ptr, kind, ptr, idx, until = joined([arrays])
    batch = Batch.from_nodes(p, graph_ptr, kind, ptr, idx, arrays[3], until)
    plan = plan_training(p.graph(*arrays), batch=3, loss="mse")
    found = evaluate_batch(batch, metrics=("training_peak", "saved"), batch=3, loss="mse")
    assert (found["training_peak"], found["saved"]) == (plan.peak_bytes, plan.saved_bytes)


@given(
    graphs=st.lists(sums(), min_size=1, max_size=5),
    batch=st.sampled_from([1, 3]),
    device=st.sampled_from(["cuda", "cpu"]),
    loss=st.sampled_from(LOSSES),
    name=st.sampled_from(["sgd", "adam", "rmsprop"]),
)
@settings(max_examples=40)
def test_a_batch_of_nodes_is_trained_like_its_graphs(graphs, batch, device, loss, name):
    graph_ptr, kind, ptr, idx, until = joined(graphs)
    many = Batch.from_nodes(PALETTE, graph_ptr, kind, ptr, idx, np.concatenate([a[3] for a in graphs]), until)
    found = evaluate_batch(many, metrics=("saved", f"training_peak:{name}"), batch=batch, device=device, loss=loss)
    plans = [plan_training(PALETTE.graph(*a), batch=batch, device=device, loss=loss, optimizer=name) for a in graphs]
    assert found["saved"].tolist() == [plan.saved_bytes for plan in plans]
    assert found[f"training_peak:{name}"].tolist() == [plan.peak_bytes for plan in plans]


@pytest.mark.parametrize(
    ("op", "attributes", "words"),
    [
        ("detach", {}, "more than this op"),
        ("permute", {"dims": (0, 2, 3, 1)}, "more than this op"),
        ("local_response_norm", {"size": 3}, "another size"),
        ("adaptive_avg_pool2d", {"output_size": F0}, "what is free"),
        ("slice", {"dim": (2, 3), "start": 0, "stop": 3}, ""),
        ("addcmul", {}, "3 inputs"),
        ("expand_as", {}, "no gradient"),
        ("conv_transpose2d", {"out_channels": F0, "kernel_size": 2}, None),
        ("interpolate", {"size": F0}, None),
        ("layer_norm", {"normalized_shape": 8, "inputs": [(1, 4, 8)]}, None),
        ("unsqueeze", {"dim": 1}, None),
        ("squeeze", {"dim": (2, 3)}, None),
        ("softplus", {}, None),
        ("hardtanh", {}, UnknownOperatorError),
    ],
)
def test_which_kinds_are_known(op, attributes, words):
    p = Palette()
    if words is UnknownOperatorError:
        with pytest.raises(words):
            p.add(op, **attributes)
        return
    p.add(op, **attributes)
    for device in ("cpu", "cuda"):
        reason = templates(p, device=device).reasons[0]
        if words is None:
            assert reason == ""
        else:
            assert reason.startswith(f"kind 0 ({op}): ")
            assert words in reason


def test_templates_say_what_is_allowed():
    with pytest.raises(SpaceError, match="autocast.*one type, float32"):
        templates(PALETTE, precision="autocast")
    with pytest.raises(GraphError, match="precision='float8'"):
        templates(PALETTE, precision="float8")
    with pytest.raises(GraphError, match="loss='dice'"):
        templates(PALETTE, loss="dice")
    assert templates(PALETTE) is templates(PALETTE, precision="fp32")
