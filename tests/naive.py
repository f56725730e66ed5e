"""Oracles: every answer again, slow and obvious, from the definitions; no numba, no code of the planners.

They walk ``graph.nx`` and the shapes that the graph knows, and run the network op by op on a table of bytes.
"""

from __future__ import annotations

import itertools
import math

from cnnlive.ops import operator

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int8": 1, "uint8": 1, "bool": 1, "int16": 2,
            "int32": 4, "int64": 8}  # fmt: skip
FLOATS = ("float32", "float16", "bfloat16", "float64")
VIEWS = {"dropout", "dropout2d", "dropout3d", "stochastic_depth", "split", "chunk", "slice", "reshape", "flatten",
         "squeeze", "unsqueeze", "permute", "transpose", "expand", "identity"}  # fmt: skip
EITHER = {"add", "sub", "mul", "div", "minimum", "maximum", "pow"}
FIRST = {"relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid", "tanh", "softplus", "mish",
         "hardsigmoid", "hardswish", "clip", "prelu", "exp", "log", "sqrt", "abs", "neg", "reciprocal", "floor", "erf",
         "scale", "add_n", "batch_norm1d", "batch_norm2d", "batch_norm3d"}  # fmt: skip
MAX_POOLS = {f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)}


def sources(graph, name):
    """What an op reads, in order: (producer, output)."""
    edges = sorted((e["input"], u, e["output"]) for u, _, e in graph.nx.in_edges(name, data=True))
    return [(u, o) for _, u, o in edges]


def outputs(graph):
    return [(t.node, t.output) for t in graph.outputs]


def nbytes(graph, tensor, dtype=None):
    node, output = tensor
    t = graph.tensors_of(node)[output]
    kind = dtype if dtype and t.dtype in FLOATS else t.dtype
    return math.prod(t.shape) * ITEMSIZE[kind]


def overwriter_conflicts(graph):
    """Pairs (reader, overwriter): the reader has to run first. From the definition of shared bytes.

    Byte sets: a view of the whole is the whole; pieces of one split or slice are told apart by their path.
    """
    path = {}  # tensor -> (root tensor, tuple of pieces on the way)
    for n in graph.nodes():
        for t in graph.tensors_of(n):
            key = (n, t.output)
            op = graph.op_of(n)
            read = sources(graph, n)
            if op in VIEWS or graph.attributes(n).get("inplace"):
                root, way = path[read[0]]
                piece = (n, t.output) if op in ("split", "chunk") else None
                path[key] = (root, (*way, piece) if piece else way)
            else:
                path[key] = (key, ())
    generation = {}  # tensor -> how often its bytes were overwritten on the way to it
    for n in graph.nodes():
        for t in graph.tensors_of(n):
            read = sources(graph, n)
            step = 1 if graph.attributes(n).get("inplace") and graph.op_of(n) not in VIEWS else 0
            inherits = graph.op_of(n) in VIEWS or graph.attributes(n).get("inplace")
            generation[n, t.output] = generation[read[0]] + step if inherits else 0

    def overlap(a, b):
        (ra, wa), (rb, wb) = path[a], path[b]
        return ra == rb and all(x == y or x[0] != y[0] for x, y in zip(wa, wb, strict=False))

    pairs = []
    for p in graph.nodes():
        if not graph.attributes(p).get("inplace") or graph.op_of(p) in VIEWS:
            continue
        target = sources(graph, p)[0]
        for n in graph.nodes():
            if n == p or graph.op_of(n) in VIEWS:
                continue
            for s in sources(graph, n):
                if overlap(s, target) and generation[s] <= generation[target]:
                    pairs.append((n, p))
    return pairs


def is_legal(graph, order):
    """Every op after what it reads, and before what overwrites it."""
    step = {n: k for k, n in enumerate(order)}
    if sorted(order) != sorted(graph.nodes()):
        return False
    data = all(step[u] < step[n] for n in order for u, _ in sources(graph, n))
    return data and all(step[r] < step[p] for r, p in overwriter_conflicts(graph))


def all_orders(graph):
    """Every legal order, by brute force over permutations."""
    for order in itertools.permutations(graph.nodes()):
        if is_legal(graph, order):
            yield list(order)


def timeline(graph, order, *, inplace="graph", keeps_inputs=False, pool_indices=False, dtype=None):
    """Bytes alive during each step: the run itself, on a table buffer -> (bytes, tensors still wanted)."""
    wanted = {}  # tensor -> the ops that still have to read it
    for n in graph.nodes():
        for t in graph.tensors_of(n):
            wanted[n, t.output] = set()
    for n in graph.nodes():
        for s in sources(graph, n):
            wanted[s].add(n)
    keep = set(outputs(graph))
    if keeps_inputs:
        keep |= {(n, 0) for n in graph.nodes() if graph.op_of(n) == "input"}
    stored = {n for n in graph.nodes() if graph.op_of(n) == "parameter"}
    buffer_of, size, members = {}, {}, {}

    def begin(tensor):
        buffer_of[tensor], size[tensor], members[tensor] = tensor, nbytes(graph, tensor, dtype), [tensor]

    for n in graph.nodes():
        if graph.op_of(n) == "input":
            begin((n, 0))
        elif n in stored:
            begin((n, 0))
            size[n, 0] = 0

    def dead(buffer):
        return all(not wanted[t] and t not in keep for t in members[buffer])

    steps = []
    for n in order:
        op, read = graph.op_of(n), sources(graph, n)
        written = [(n, t.output) for t in graph.tensors_of(n)]
        for s in read:
            wanted[s].discard(n)
        root = None
        asked = graph.attributes(n).get("inplace") and inplace != "never"
        if op in VIEWS or asked:
            root = buffer_of[read[0]]
        elif inplace == "dead" and (op in FIRST or op in EITHER):
            for s in read[: 2 if op in EITHER else 1]:
                b = buffer_of[s]
                fits = size[b] == nbytes(graph, s, dtype) == nbytes(graph, written[0], dtype)
                pinned = b[0] in stored or (keeps_inputs and graph.op_of(b[0]) == "input")
                if root is None and dead(b) and fits and not pinned:
                    root = b
        for t in written:
            if op in ("input", "parameter"):
                continue
            if root is None:
                begin(t)
            else:
                buffer_of[t] = root
                members[root].append(t)
        now = sum(size.values())
        if pool_indices and op in MAX_POOLS and len(written) == 1:
            now += 8 * nbytes(graph, written[0]) // ITEMSIZE[graph.tensors_of(n)[0].dtype]
        steps.append(now)
        for b in list(size):
            if b[0] not in stored and dead(b):
                # A network input declared later in the program waits for its own step.
                if graph.op_of(b[0]) == "input" and b[0] not in order[: order.index(n) + 1]:
                    continue
                del size[b]
                members[b] = list(members[b])
    return steps


def least_needs(graph, *, inplace="graph", keeps_inputs=False, pool_indices=False):
    """Bytes that the neediest op needs by itself: its distinct inputs, outputs and scratch, and inputs kept for good.

    What an op in place saves is taken as saved wherever one of its inputs has the size of its output.
    """
    home = {}  # tensor -> the tensor whose bytes it shares
    kept = {(n, 0) for n in graph.nodes() if graph.op_of(n) == "input" and (keeps_inputs or (n, 0) in outputs(graph))}
    most = 0
    for n in graph.nodes():
        op, read = graph.op_of(n), sources(graph, n)
        written = [(n, t.output) for t in graph.tensors_of(n)]
        shares = op in VIEWS or (graph.attributes(n).get("inplace") and inplace != "never")
        for t in written:
            home[t] = home[read[0]] if shares else t
        may = inplace == "dead" and op in FIRST | EITHER
        saved = shares or (may and any(nbytes(graph, s) == nbytes(graph, written[0]) for s in read))
        needed = kept | {home[s] for s in read} | (set() if saved else set(written))
        scratch = 0
        if pool_indices and op in MAX_POOLS and len(written) == 1:
            scratch = 8 * math.prod(graph.tensors_of(n)[0].shape)
        most = max(most, scratch + sum(nbytes(graph, t) for t in needed if graph.op_of(t[0]) != "parameter"))
    return most


def weight_elements(graph):
    """(parameters, buffers, counters), from the definition of each layer."""
    parameters = buffers = counters = 0
    for n in graph.nodes():
        op, a = graph.op_of(n), graph.attributes(n)
        x = graph.inputs_of(n)[0].shape if graph.inputs_of(n) else ()
        if op.startswith("conv"):
            parameters += x[1] * a["out_channels"] // a["groups"] * math.prod(a["kernel_size"])
            parameters += a["out_channels"] if a["bias"] else 0
        elif op == "linear":
            parameters += x[-1] * a["out_features"] + (a["out_features"] if a["bias"] else 0)
        elif op.startswith(("batch_norm", "instance_norm", "group_norm")):
            parameters += 2 * x[1] if a["affine"] else 0
            buffers += 2 * x[1] if a.get("track_running_stats") else 0
            counters += 1 if a.get("track_running_stats") else 0
        elif op == "layer_norm":
            size = math.prod(a["normalized_shape"])
            parameters += size * (a["elementwise_affine"] + (a["elementwise_affine"] and a["bias"]))
        elif op == "prelu":
            parameters += a["num_parameters"]
        elif op == "parameter":
            if a["trainable"]:
                parameters += math.prod(a["shape"])
            else:
                buffers += math.prod(a["shape"])
    return parameters, buffers, counters


def macs(graph):
    """Multiply-accumulates: one per output element and weight that it meets."""
    total = 0
    for n in graph.nodes():
        op, a = graph.op_of(n), graph.attributes(n)
        if op.startswith("conv_transpose"):
            x = graph.inputs_of(n)[0].shape
            total += math.prod(x) * a["out_channels"] // a["groups"] * math.prod(a["kernel_size"])
        elif op.startswith("conv"):
            x, y = graph.inputs_of(n)[0].shape, graph.tensors_of(n)[0].shape
            total += math.prod(y) * x[1] // a["groups"] * math.prod(a["kernel_size"])
        elif op in ("linear", "matmul"):
            total += math.prod(graph.tensors_of(n)[0].shape) * graph.inputs_of(n)[0].shape[-1]
    return total


def saved_bytes(graph):
    """Bytes that one training step in PyTorch keeps for backward, from the operator table's column `saves`.

    Distinct storages beside parameters and network inputs, the cross-entropy of each output included
    (log-probabilities and a total weight). Dropouts write and keep a mask as on a CPU; float32.
    """
    where, kept, own, wants_gradient = {}, set(), 0, set()
    for n in graph.nodes():
        entry, a = operator(graph.op_of(n)), graph.attributes(n)
        reads = sources(graph, n)
        outs = graph.tensors_of(n)
        if entry.weights != "none" or any(s in wants_gradient for s in reads):
            wants_gradient |= {(n, t.output) for t in outs}
        drops = "mask" in entry.saves
        for t in outs:
            shares = (entry.alias == "view" and not drops) or a.get("inplace")
            where[n, t.output] = where[reads[0]] if shares else (n, t.output)
        if (n, 0) not in wants_gradient or entry.name == "parameter":
            continue
        x = graph.inputs_of(n)[0]
        for what in entry.saved(a):
            if what in ("input", "input1"):
                i = int(what == "input1")
                # A factor is kept for its partner's gradient.
                if entry.name not in ("mul", "div") or reads[1 - i] in wants_gradient:
                    kept.add(where[reads[i]])
            elif what == "output":
                kept.add(where[n, 0])
            elif what == "indices":
                own += 8 * math.prod(outs[0].shape)
            elif what == "statistics":
                groups = x.shape[1] if entry.name.startswith("batch") else math.prod(x.shape) // x.shape[-1]
                own += 2 * 4 * groups
            elif what == "clone":
                own += 4 * math.prod(x.shape)
            elif what == "mask" and a["p"] > 0:
                own += 4 * (x.shape[0] if entry.name == "stochastic_depth" else math.prod(x.shape))
    held = {n for n in graph.nodes() if graph.op_of(n) in ("input", "parameter")}
    own += sum(nbytes(graph, t) for t in kept if t[0] not in held)
    return own + sum(nbytes(graph, t) + 4 for t in outputs(graph))
