"""Oracles: every answer again, slow and obvious, from the definitions; no numba, no code of the planners.

They walk ``graph.nx`` and the shapes that the graph knows, and run the network op by op on a table of bytes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from types import SimpleNamespace

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


def eager_scratch(graph, name):
    """Bytes that an op of eager PyTorch allocates beside its outputs and drops."""
    op, a = graph.op_of(name), graph.attributes(name)
    if op in MAX_POOLS and len(graph.tensors_of(name)) == 1:
        return 8 * math.prod(graph.tensors_of(name)[0].shape)
    shape = graph.inputs_of(name)[0].shape if graph.inputs_of(name) else ()
    if op == "layer_norm":  # mean and inverse deviation
        return 2 * 4 * math.prod(shape) // math.prod(a["normalized_shape"])
    if op == "group_norm":
        return 2 * 4 * shape[0] * a["num_groups"]
    if op.startswith("instance_norm"):  # and weight and bias, repeated per image
        return (4 if a["affine"] else 2) * 4 * shape[0] * shape[1]
    return 0


def timeline(graph, order, *, inplace="graph", keeps_inputs=False, pool_indices=False, frames=False, dtype=None):
    """Bytes alive during each step: the run itself, on a table buffer -> (bytes, tensors still wanted)."""
    wanted = {}  # tensor -> the ops that still have to read it
    for n in graph.nodes():
        for t in graph.tensors_of(n):
            wanted[n, t.output] = set()
    for n in graph.nodes():
        for s in sources(graph, n):
            wanted[s].add(n)
    for tensor, last in held_through(graph).items() if frames else ():
        wanted[tensor].add(last)
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
        for waiting in wanted.values():
            waiting.discard(n)
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
        if pool_indices:
            now += eager_scratch(graph, n)
        steps.append(now)
        for b in list(size):
            if b[0] not in stored and dead(b):
                # A network input declared later in the program waits for its own step.
                if graph.op_of(b[0]) == "input" and b[0] not in order[: order.index(n) + 1]:
                    continue
                del size[b]
                members[b] = list(members[b])
    return steps


def calls(graph):
    """Every module call as the list of its ops: runs of ops under one path that nothing else interrupts."""
    ran = [n for n in graph.nodes() if graph.op_of(n) not in ("input", "parameter")]
    place = {n: graph.nx.nodes[n].get("scope", "") for n in ran}
    paths = {".".join(p.split(".")[: k + 1]) for p in place.values() if p for k in range(p.count(".") + 1)}
    found = []
    for path in sorted(paths):
        for under, run in itertools.groupby(ran, lambda n, path=path: f"{place[n]}.".startswith(f"{path}.")):
            if under:
                found.append(list(run))
    return found


def held_through(graph):
    """The op through which eager Python holds each tensor that somebody reads, or that is said to be held."""
    position = {n: i for i, n in enumerate(graph.nodes())}
    ends = {}
    for n in graph.nodes():
        for s in sources(graph, n):
            ends.setdefault(s, []).append(n)
    for run in calls(graph):
        for n in run:
            for u, o in sources(graph, n):
                said = o in graph.nx.nodes[u].get("until", {})
                before = graph.op_of(u) == "input" or position[u] < position[run[0]]
                if before and not said and graph.op_of(u) != "parameter":
                    ends[u, o].append(run[-1])
    for n in graph.nodes():
        for o, last in graph.nx.nodes[n].get("until", {}).items():
            ends.setdefault((n, o), []).append(last)
    return {tensor: max(found, key=position.__getitem__) for tensor, found in ends.items()}


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
        scratch = eager_scratch(graph, n) if pool_indices else 0
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
        elif op == "rms_norm":
            parameters += math.prod(a["normalized_shape"]) if a["elementwise_affine"] else 0
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
        drops = "mask" in entry.saved(a)
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


class Storage:
    """Bytes that live as long as somebody holds them."""

    def __init__(self, memory, nbytes, made):
        self.memory, self.nbytes, self.made, self.holders = memory, nbytes, made, 0
        memory.change(nbytes, made)

    def take(self):
        self.holders += 1
        return self

    def release(self):
        self.holders -= 1
        if self.holders == 0:
            self.memory.change(-self.nbytes, self.made)


class Gradient:
    """A tensor of backward: a storage, how it lies in it, and who holds the tensor."""

    def __init__(self, storage, dense=True, contiguous=True):
        self.storage, self.dense, self.contiguous, self.holders = storage.take(), dense, contiguous, 0

    def take(self):
        self.holders += 1
        return self

    def release(self):
        self.holders -= 1
        if self.holders == 0:
            self.storage.release()


class Memory:
    """Every total after every event, and the worst instants."""

    def __init__(self):
        self.alive = Counter()
        self.totals = []
        self.phase = None
        self.peaks = {}

    def begin(self, phase):
        self.phase = phase
        self.peaks[phase] = (sum(self.alive.values()), dict(self.alive))

    def change(self, nbytes, made):
        self.alive[made] += nbytes
        total = sum(self.alive.values())
        self.totals.append(total)
        if total > self.peaks[self.phase][0]:
            self.peaks[self.phase] = (total, dict(self.alive))


class Node:
    """A backward node: the engine's view of a record, or of a leaf that gathers its gradient."""

    def __init__(self, priority):
        self.priority, self.waits, self.arrived = priority, 0, {}


def train_step(tape, dims, accumulates=False):
    """Run a tape by the definition of the autograd engine: counted references, a heap of nodes, input buffers.

    A node is ready when all its consumers have delivered; of the ready ones that with the highest sequence number
    runs, and leaves gather at once. Returned are the totals after every event, the peak of each phase with what it
    consists of, and what is alive at the end.
    """

    def size(spec):
        tensor, low, high, k, without = (int(x) for x in tape.spec[spec])
        return k * math.prod(int(dims[tensor][d]) for d in range(low, high) if d != without)

    def row(pointer, column, p):
        return column[int(pointer[p]) : int(pointer[p + 1])].tolist()

    memory = Memory()
    memory.begin("forward")
    value_size = [size(spec) for spec in tape.value_spec]
    records = range(len(tape.records))
    edges = {p: row(tape.edge_ptr, tape.edge_value, p) for p in records}
    outs = {p: row(tape.out_ptr, tape.out_value, p) for p in records}
    # Forward. A storage is held by Python, by each backward node that is going to run, and by nodes that never will.
    stores = {}
    for p in records:
        for s in row(tape.alloc_ptr, tape.alloc_idx, p):
            stores[s] = Storage(memory, size(tape.store_spec[s]), "forward")
            stores[s].holders = int(tape.store_refs[s])
        for s in row(tape.drop_ptr, tape.drop_idx, p):
            stores[s].release()
    forward_end = sum(memory.alive.values())
    memory.begin("backward")

    def answer():
        return SimpleNamespace(
            totals=memory.totals, forward_end=forward_end, peaks=memory.peaks, end=dict(memory.alive)
        )

    if tape.root < 0:
        return answer()

    # The graph that the loss leads to, and how many edges lead to each node.
    maker = {v: p for p in records for v in outs[p]}
    nodes = {}

    def node(value):
        key = ("record", maker[value]) if value in maker else ("leaf", value)
        if key not in nodes:
            nodes[key] = Node(maker.get(value, math.inf))
            if key[0] == "record":
                for v in edges[key[1]]:
                    nodes[node(v)].waits += 1
        return key

    ticket = itertools.count()
    ready = []
    copies = set()  # leaves whose last gradient lies otherwise than the parameter does

    def deliver(value, gradient):
        """Put a gradient, held by the caller, into the buffer of the node that made the value."""
        key = node(value)
        buffers = nodes[key].arrived
        if value not in buffers:
            buffers[value] = gradient
            return
        old = buffers[value]
        if old.dense and old.holders == 1 and old.storage.holders == 1:
            gradient.release()
            return
        new = Gradient(Storage(memory, value_size[value], "backward")).take()
        old.release()
        buffers[value] = new
        gradient.release()

    def push(key):
        heapq.heappush(ready, (-nodes[key].priority, next(ticket), key))

    def run_leaf(key):
        ((_, gradient),) = nodes[key].arrived.items()
        copied = key[1] in copies
        if not accumulates and gradient.holders == 1 and not copied:
            if gradient.storage.made == "backward":
                gradient.storage.made = "gradient"
                memory.alive["backward"] -= gradient.storage.nbytes
                memory.alive["gradient"] += gradient.storage.nbytes
            return
        if not accumulates:
            Gradient(Storage(memory, value_size[key[1]], "gradient")).take()
        gradient.release()

    def run_record(p):
        came = nodes["record", p].arrived
        results = [None] * len(edges[p])
        temporaries = []
        for what, a, b, layout in row(tape.code_ptr, tape.code, p):
            if what == 0:
                temporaries.append(Storage(memory, size(a), "backward").take())
            elif what == 8:
                if outs[p][a] not in came:
                    temporaries.append(Storage(memory, value_size[outs[p][a]], "backward").take())
            elif what == 9:
                for t in temporaries:
                    t.release()
                temporaries = []
            elif what == 1:
                lies = (True, layout != 2)
                for v in outs[p]:
                    if layout == 1 and v in came and came[v].dense:
                        lies = (True, came[v].contiguous)
                results[a] = Gradient(Storage(memory, size(b), "backward"), *lies).take()
            else:
                g = came[outs[p][b if what in (2, 3, 7) else 0]]
                if what == 2:
                    results[a] = g.take()
                elif what == 5 and not g.contiguous:
                    results[a] = Gradient(Storage(memory, size(b), "backward")).take()
                else:
                    dense, contiguous = {
                        3: (g.dense, g.contiguous),
                        4: (g.dense, g.contiguous) if what == 4 and size(b) == 1 else (False, False),
                        5: (g.dense, g.contiguous),
                        6: (False, False),
                        7: (g.dense, g.dense and not g.contiguous),
                    }[what]
                    results[a] = Gradient(g.storage, dense, contiguous).take()
        for t in temporaries:
            t.release()
        specs = row(tape.edge_ptr, tape.edge_spec, p)
        for k, v in enumerate(edges[p]):
            if size(specs[k]) != value_size[v]:
                summed = Gradient(Storage(memory, value_size[v], "backward")).take()
                results[k].release()
                results[k] = summed
        for v in outs[p]:
            if v in came:
                came.pop(v).release()
        for s in row(tape.saved_ptr, tape.saved_idx, p):
            stores[s].release()
        for v, result, copied in zip(edges[p], results, row(tape.edge_ptr, tape.edge_copies, p), strict=True):
            deliver(v, result)
            key = node(v)
            (copies.add if copied else copies.discard)(v)
            nodes[key].waits -= 1
            if nodes[key].waits == 0:
                push(key)

    root = node(tape.root)
    seed = Gradient(Storage(memory, value_size[tape.root], "backward")).take()
    if tape.root_held:
        seed.take()
    nodes[root].arrived[tape.root] = seed
    push(root)
    while ready:
        _, _, key = heapq.heappop(ready)
        if key[0] == "leaf":
            run_leaf(key)
        else:
            run_record(key[1])
    if tape.root_held:
        seed.release()
    return answer()
