"""Rules of runtimes: their definition run slowly, networks by hand, and figures that others published."""

import json
import math
from dataclasses import replace
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs, graphs_and_orders

import cnnlive
from cnnlive import Graph, Lowered, errors, lower, nas, plan_inference, plan_order, verify
from cnnlive.plan.inference import plain_rules
from cnnlive.profiles import BYTE_ORDER, PROFILES, Profile, Takeover

REARRANGE = ("split", "chunk", "slice", "permute", "transpose", "expand")
KERNELS = (("add", (0, 1)), ("sub", (0, 1)), ("relu", (0,)), ("softmax", (0,)), ("depthwise", (0,)), ("clip", (0,)))
TAKEOVERS = st.builds(
    Takeover,
    ops=st.sampled_from([None, KERNELS, (("conv2d", (0,)), ("mul", (1, 0)), ("linear", (0,)))]),
    fits=st.sampled_from(["bytes", "shape", "smaller"]),
    alone=st.booleans(),
    over=st.sampled_from([0, 4, 64]),
    from_inputs=st.booleans(),
    to_outputs=st.booleans(),
)
RULES = st.builds(
    Profile,
    name=st.just("drawn"),
    summary=st.just(""),
    inplace=st.just("dead"),
    takeover=st.none() | TAKEOVERS,
    copies=st.sampled_from([(), REARRANGE, (*REARRANGE, *BYTE_ORDER)]),
    copies_at_ends=st.sampled_from([(), BYTE_ORDER]),
    keeps_inputs=st.booleans(),
    counts_inputs=st.booleans(),
    reuses=st.booleans(),
)
DTYPES = st.sampled_from([None, "int8", "float16"])


# ------------------------------------------------------------------ the definition


def vanishes(graph, n, p):
    op = graph.op_of(n)
    return op in naive.VIEWS and op not in p.copies and op not in p.copies_at_ends


def is_output(graph, t, p):
    """Of the network, itself or through ops that vanish."""
    if t in naive.outputs(graph):
        return True
    reads_it = [n for n in graph.nodes() if t in naive.sources(graph, n) and vanishes(graph, n, p)]
    return any(is_output(graph, (n, o.output), p) for n in reads_it for o in graph.tensors_of(n))


def root_of(graph, t, p):
    while is_view(graph, t[0], p):
        t = naive.sources(graph, t[0])[0]
    return t


def is_view(graph, n, p):
    op = graph.op_of(n)
    if op not in naive.VIEWS or op in p.copies:
        return False
    if op not in p.copies_at_ends:
        return True
    reads_input = graph.op_of(root_of(graph, naive.sources(graph, n)[0], p)[0]) == "input"
    return not reads_input and not any(is_output(graph, (n, t.output), p) for t in graph.tensors_of(n))


def shape(graph, t):
    return graph.tensors_of(t[0])[t[1]].shape


def may_take(graph, n, i, p, dtype):
    """The rule as it is written, for input `i` of an op."""
    rule, op, read = p.takeover, graph.op_of(n), naive.sources(graph, n)
    x, out = read[i], (n, 0)
    if rule.ops is None:
        kernels = {k: entry.overwrites for k, entry in cnnlive.ops.OPERATORS.items()}
    else:
        kernels = dict(rule.ops)
    which = kernels.get(op, ())
    if op == "conv2d" and "depthwise" in kernels:
        a = graph.attributes(n)
        if a["groups"] == a["out_channels"] == shape(graph, read[0])[1] != 1:
            which = kernels["depthwise"]
    root = root_of(graph, x, p)
    mentions = [m for m in graph.nodes() for s in naive.sources(graph, m) if s == x]
    of_root = [m for m in graph.nodes() for s in naive.sources(graph, m) if s == root]
    of_bytes = [m for m in graph.nodes() for s in naive.sources(graph, m)
                if root_of(graph, s, p) == root and not is_view(graph, m, p)]  # fmt: skip
    a, b = naive.nbytes(graph, root, dtype), naive.nbytes(graph, out, dtype)
    return (
        i in which
        and len(graph.tensors_of(n)) == 1
        and [root_of(graph, s, p) for s in read].count(root) == 1
        and (rule.from_inputs or graph.op_of(root[0]) != "input")
        and (rule.to_outputs or not is_output(graph, out, p))
        and (not rule.alone or len(mentions) == len(of_root) == len(of_bytes) == 1)
        and naive.nbytes(graph, x, dtype) == a
        and (rule.fits != "shape" or shape(graph, x) == shape(graph, out))
        and (a == b or (rule.fits == "smaller" and a > b))
        and b > rule.over
    )


def timeline(graph, order, p, dtype=None):
    """Bytes alive during each step, from the definition: who lies where, and from when to when."""
    wanted = {(n, t.output): set() for n in graph.nodes() for t in graph.tensors_of(n)}
    for n in graph.nodes():
        for s in naive.sources(graph, n):
            wanted[s].add(n)
    keep = set(naive.outputs(graph))
    if p.keeps_inputs:
        keep |= {(n, 0) for n in graph.nodes() if graph.op_of(n) == "input"}
    nothing = {"parameter"} if p.counts_inputs else {"parameter", "input"}
    home, members = {}, {}
    born, last, sizes = {}, {}, {}
    free = []  # most recently freed first

    def dead(b):
        return all(not wanted[t] and t not in keep for t in members[b])

    for step, n in enumerate(order):
        read, written = naive.sources(graph, n), [(n, t.output) for t in graph.tensors_of(n)]
        for s in wanted.values():
            s.discard(n)
        for s in read:
            last[home[s]] = step
        place, cut = None, False
        if is_view(graph, n, p):
            place = home[read[0]]
        elif p.takeover is None:
            op = graph.op_of(n)
            asked = graph.attributes(n).get("inplace")
            for i in (0,) if asked else range(2 if op in naive.EITHER else 1 if op in naive.FIRST else 0):
                b = home[read[i]]
                fits = sizes[b][-1][1] == naive.nbytes(graph, read[i], dtype) == naive.nbytes(graph, (n, 0), dtype)
                if asked or (place is None and graph.op_of(b[0]) not in nothing and dead(b) and fits):
                    place = b
        else:
            for i, s in enumerate(read):
                b = home[s]
                now = sizes[b][-1][1]
                may = graph.op_of(b[0]) not in nothing and dead(b) and now == naive.nbytes(graph, s, dtype)
                if place is None and may and may_take(graph, n, i, p, dtype):
                    place, cut = b, naive.nbytes(graph, (n, 0), dtype) < now
        for t in written:
            b = place
            if b is None and p.reuses and shape(graph, t) and not is_end(graph, t):
                b = next((f for f in free if alike(graph, f, t, dtype)), None)
                if b is not None:
                    free.remove(b)
                    members[b] = []
            if b is None:
                b = t
                born[b] = 0 if graph.op_of(n) == "input" else step
                members[b] = []
                sizes[b] = [(0, 0 if graph.op_of(n) in nothing else naive.nbytes(graph, t, dtype))]
            home[t] = b
            members[b].append(t)
            last[b] = max(last.get(b, step), step)
            if cut:
                sizes[b].append((step + 1, naive.nbytes(graph, t, dtype)))
        for b in dict.fromkeys([home[s] for s in read] + [home[t] for t in written]):
            ends = graph.op_of(b[0]) in ("parameter", "input") or any(t in keep for t in members[b])
            if dead(b) and not ends and b not in free:
                free.insert(0, b)
    n_steps = len(order)
    for b, inside in members.items():
        if any(t in keep for t in inside):
            last[b] = n_steps - 1
    return [
        sum([size for since, size in sizes[b] if since <= s][-1] for b in members if born[b] <= s <= last[b])
        for s in range(n_steps)
    ]


def is_end(graph, t):
    return t in naive.outputs(graph) or graph.op_of(t[0]) in ("parameter", "input")


def alike(graph, f, t, dtype):
    return shape(graph, f) == shape(graph, t) and naive.nbytes(graph, f, dtype) == naive.nbytes(graph, t, dtype)


@settings(max_examples=300)
@given(drawn=graphs_and_orders(), rules=RULES, dtype=DTYPES)
def test_timeline_equals_the_definition(drawn, rules, dtype):
    graph, order = drawn
    plan = plan_inference(graph, order=order, profile=rules, dtype=dtype)
    assert plan.timeline.tolist() == timeline(graph, order, rules, dtype)


@settings(max_examples=150)
@given(graph=graphs(), rules=RULES)
def test_plans_pass_the_independent_check_and_name_what_is_alive(graph, rules):
    plan = plan_inference(graph, profile=rules)
    assert plan.timeline.tolist() == timeline(graph, graph.nodes(), rules)
    verify.check_inference(graph, plan)
    for step, live in enumerate(plan.timeline.tolist()):
        assert sum(b.nbytes for b in plan.live_at(step)) == live
        assert sum(b.nbytes for b in plan.buffers if b.born <= step < b.dead) >= live
    assert plan.lower_bound <= plan.activation_peak_bytes
    assert {b.name for b in plan.buffers} <= set(plan.buffer_of.values())
    assert sum(r.output_bytes for r in plan.ops) == plan.activation_bytes


@settings(max_examples=60)
@given(graph=graphs(max_ops=7), rules=RULES)
def test_no_order_is_better_than_the_bound(graph, rules):
    found = [max(timeline(graph, order, rules)) for order in naive.all_orders(graph)]
    plan = plan_inference(graph, profile=rules)
    assert plan.lower_bound <= min(found)
    if plan.optimal:
        assert plan.activation_peak_bytes == min(found)


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=40)
@given(graph=graphs())
def test_built_in_profiles_equal_the_definition(name, graph):
    rules = replace(PROFILES[name], fuse=False, pad_ops=False, dtypes=(), frames=False, pool_indices=False)
    plan = plan_inference(graph, profile=rules, dtype="int8")
    if rules.takeover is not None:
        assert plan.timeline.tolist() == timeline(graph, graph.nodes(), rules, "int8")
    verify.check_inference(graph, plan)


# ------------------------------------------------------------------ by hand


def inverted(channels, expanded, stride=1, size=4):
    """An inverted bottleneck, with its residual where the stride is 1."""
    g = Graph("inverted")
    x = g.input((1, channels, size, size), "int8", name="x")
    y = g.conv2d(x, expanded, 1, name="up")
    y = g.conv2d(y, expanded, 3, stride=stride, padding="same", groups=expanded, name="depthwise")
    y = g.conv2d(y, channels, 1, name="down")
    if stride == 1:
        g.add(y, x, name="sum")
    return g


def test_a_depthwise_convolution_that_halves_frees_three_quarters_of_its_input():
    g = inverted(2, 8, stride=2)
    plan = plan_inference(g, profile="mcunet")
    # while it runs its input counts, afterwards what it wrote
    assert plan.timeline.tolist() == [32, 32 + 128, 128, 32 + 8]
    assert [b.name for b in plan.live_at(2)] == ["up"]
    assert [(b.name, b.nbytes, b.born, b.dead) for b in plan.live_at(3)] == [
        ("depthwise", 32, 3, 4), ("down", 8, 3, 4)
    ]  # fmt: skip
    # for an arena that is one buffer of its first size
    assert [(b.name, b.nbytes, b.born, b.dead) for b in plan.buffers] == [
        ("x", 32, 0, 2), ("up", 128, 1, 4), ("down", 8, 3, 4)
    ]  # fmt: skip
    assert plan.buffer_of == {"x": "x", "up": "up", "depthwise": "up", "down": "down"}
    assert [r.output_bytes for r in plan.ops] == [32, 128, 0, 8]
    assert plan.activation_bytes == 32 + 128 + 8
    assert plan.reads_at(2)[0].name == "up"
    assert plan.writes_at(2)[0].nbytes == 32
    verify.check_inference(g, unfused(g, "mcunet"))


def unfused(g, name):
    return plan_inference(g, profile=replace(PROFILES[name], fuse=False))


def test_a_buffer_that_shrinks_twice_is_one_for_an_arena():
    g = Graph()
    y = g.input((1, 4, 8, 8), "int8", name="x")
    for name in "abc":
        y = g.conv2d(y, 4, 3, stride=2, padding="same", groups=4, name=name)
    plan = unfused(g, "mcunet")
    assert plan.timeline.tolist() == [256, 256, 64, 16]
    assert [(b.name, b.nbytes, b.born, b.dead) for b in plan.buffers] == [("x", 256, 0, 4)]
    assert set(plan.buffer_of.values()) == {"x"}
    assert plan.outputs[0].nbytes == 4
    verify.check_inference(g, plan)


def test_a_smaller_output_that_nobody_reads_leaves_nothing_behind():
    g = Graph()
    x = g.conv2d(g.input((1, 4, 4, 4), "int8", name="x"), 4, 1, name="a")
    g.conv2d(x, 4, 3, stride=2, padding="same", groups=4, name="unread")
    g.output(g.conv2d(g.tensors_of("x")[0], 1, 1, name="b"))
    plan = unfused(g, "mcunet")
    assert plan.timeline.tolist() == [64, 128, 128, 64 + 16]
    verify.check_inference(g, plan)


def chain_of_equal_maps():
    g = Graph("chain")
    x = g.input((1, 1, 4, 4), name="x")
    a = g.conv2d(x, 1, 1, name="a")
    b = g.conv2d(a, 1, 1, name="b")
    c = g.conv2d(b, 1, 1, name="c")
    d = g.conv2d(c, 2, 1, name="d")
    g.conv2d(d, 1, 1, name="e")
    return g


def test_a_dead_buffer_is_used_again_and_held_until_then():
    rules = Profile("mine", "", inplace="dead", takeover=Takeover(()), reuses=True)
    plan = plan_inference(chain_of_equal_maps(), profile=rules)
    # c lies where a did, a itself held over b's own step; x is the network's and e its output: both have their own.
    assert plan.buffer_of == {"x": "x", "a": "a", "b": "b", "c": "a", "d": "d", "e": "e"}
    assert plan.timeline.tolist() == [64, 128, 128, 128, 192, 192]
    without = plan_inference(chain_of_equal_maps(), profile=replace(rules, reuses=False))
    assert without.timeline.tolist() == [64, 128, 128, 128, 192, 192]
    g = chain_of_equal_maps()
    f = g.conv2d(g.tensors_of("d")[0], 1, 1, name="f")
    g.output(g.conv2d(f, 1, 1, name="g"), g.tensors_of("e")[0])
    plan = plan_inference(g, profile=rules)
    # a was freed last: f takes it, and b waits in vain; between, a is held although nothing is in it.
    assert plan.buffer_of["f"] == "a"
    assert plan.timeline.tolist()[5] == 128 + 64 + 64  # d, e, and the bytes that f will lie in
    verify.check_inference(g, plan)


def test_onnx_runtime_takes_the_buffer_that_was_freed_last():
    g = Graph()
    x = g.input((1, 1, 4, 4), name="x")
    a, b = g.conv2d(x, 1, 1, name="a"), g.conv2d(x, 1, 1, name="b")
    s = g.concat([a, b], name="s")  # frees a, then b
    g.conv2d(g.conv2d(s, 1, 1, name="c"), 1, 3, name="d")
    plan = unfused(g, "onnxruntime")
    assert plan.buffer_of["c"] == "b"


def test_tensorflow_lite_writes_into_the_input_that_nobody_else_reads():
    g = Graph()
    x = g.conv2d(g.input((1, 2, 4, 4), name="x"), 2, 1, name="a")
    y = g.conv2d(x, 2, 1, name="b")
    z = g.add(x, y, name="s")  # x has another reader, though an earlier one; y has none
    w = g.relu(z, name="r")  # no kernel in place
    g.softmax(g.reshape(w, (1, 32), name="flat"), name="out")  # an output of the network: not in place
    plan = unfused(g, "tflite")
    assert plan.buffer_of == {"x": "x", "a": "a", "b": "b", "s": "b", "r": "r", "flat": "r", "out": "out"}
    assert plan.profile.keeps_inputs
    verify.check_inference(g, plan)
    g = Graph()
    g.relu(g.flatten(g.relu(g.flatten(g.input((1, 2, 2, 2), name="x"), name="f"), name="r"), name="g"), name="out")
    assert unfused(g, "tflite").buffer_of == {"x": "x", "f": "f", "r": "r", "g": "r", "out": "out"}
    g = Graph()
    a = g.mean(g.conv2d(g.input((1, 1, 2, 2)), 1, 1), (1, 2, 3), name="a")
    g.relu(g.add(g.mean(a, 0, keepdim=True, name="b"), g.parameter((1,)), name="s"))
    assert unfused(g, "tflite").buffer_of["s"] == "s"  # 4 bytes are too few
    assert plan_inference(g, batch=1, profile=replace(PROFILES["tflite"], fuse=False), dtype="float64").buffer_of[
        "s"] == "b"  # fmt: skip


def test_tflm_copies_what_is_a_view_elsewhere_and_drops_what_does_nothing():
    g = Graph()
    x = g.conv2d(g.input((1, 2, 4, 4), name="x"), 4, 1, name="a")
    p, q = g.chunk(g.dropout(g.identity(x, name="i"), name="d"), 2, name="cut")
    y = g.concat([p, q], name="c")
    g.linear(g.flatten(y, name="f"), 3, name="fc")
    home = unfused(g, "tflm").buffer_of
    assert {k: v for k, v in home.items() if k != v} == {"i": "a", "d": "a"}


def test_the_graphs_own_wishes_are_not_looked_at_where_kernels_decide():
    g = Graph()
    y = g.relu(g.conv2d(g.input((1, 2, 2, 2)), 2, 1, name="a"), inplace=True, name="r")
    g.conv2d(y, 2, 1, name="b")
    assert unfused(g, "tflite").buffer_of["r"] == "r"
    assert unfused(g, "tflm").buffer_of["r"] == "r"
    assert unfused(g, "onnxruntime").buffer_of["r"] == "a"
    # a caller who asks for another way in place gets that
    asked = plan_inference(g, profile="tflite", fuse=False, inplace="graph")
    assert asked.buffer_of["r"] == "a"
    assert asked.profile.takeover is None
    assert plan_inference(g, profile="tflite", fuse=False, inplace="dead").profile.takeover is None


def test_unas_does_not_count_the_input_of_the_network():
    g = inverted(4, 8)
    plan = unfused(g, "unas")
    # up, depthwise 128 B each, down and sum 64: the sum works in down, x is nobody's
    assert plan.timeline.tolist() == [0, 128, 256, 192, 64]
    assert plan.buffer_of["sum"] == "down"
    assert plan.inputs == ()
    assert plan.input_bytes == 64
    assert [b.name for b in plan.buffers] == ["up", "depthwise", "down"]


def test_plain_arrays_say_themselves_what_ops_take_over():
    net = Lowered.from_arrays([8, 8, 8], [[0], [1]], [[1], [2]], inplace=[[0], [1]])
    peaks = {name: plan_inference(net, profile=p).activation_peak_bytes for name, p in PROFILES.items()}
    kept = {"torch", "torch_fx", "tflite", "onnxruntime", "tflm"}
    assert peaks == {name: 16 if name in kept else 0 if name == "unas" else 8 for name in PROFILES} | {"unas": 8}


def test_an_op_that_reads_a_tensor_twice_does_not_take_it_over():
    g = Graph()
    x = g.conv2d(g.input((1, 2, 2, 2)), 2, 1, name="a")
    g.conv2d(g.add(x, x, name="s"), 2, 1)
    assert unfused(g, "tflite").buffer_of["s"] == "s"
    assert plan_inference(g, inplace="dead").buffer_of["s"] == "a"


def test_more_inputs_than_a_code_has_bits_are_not_taken_over():
    g = Graph()
    x = g.input((1, 1, 2, 2), name="x")
    tensors = [g.conv2d(x, 1, 1, name=f"t{i}") for i in range(70)]
    g.relu(g.add_n(tensors, name="s"))
    rules = Profile("mine", "", inplace="dead", takeover=Takeover((("add_n", (65, 2)),)))
    plan = plan_inference(g, profile=rules)
    assert plan.buffer_of["s"] == "t2"
    verify.check_inference(g, plan)


def test_types_that_a_runtime_does_not_have_are_refused():
    g = inverted(2, 8)
    float_net = Graph()
    float_net.conv2d(float_net.input((1, 1, 2, 2)), 1, 1, name="c")
    with pytest.raises(errors.DTypeError, match=r"'tinyengine' has no activations of type float32, which input has; "
                                                r"allowed: 'int8', 'uint8' \(dtype='int8'\)"):  # fmt: skip
        plan_inference(float_net, profile="tinyengine")
    with pytest.raises(errors.DTypeError, match="type float16, which c has"):
        plan_inference(float_net, profile="mcunet", dtype={"*": "int8", "c": "float16"})
    for name in ("tinyengine", "mcunet"):
        assert plan_inference(float_net, profile=name, dtype="int8").activation_peak_bytes == 8
        assert plan_inference(g, profile=name).activation_peak_bytes > 0


def test_rules_that_do_not_exist_are_refused():
    with pytest.raises(errors.GraphError, match="fits='larger'; allowed: 'bytes', 'shape', 'smaller'"):
        Takeover(fits="larger")
    with pytest.raises(errors.GraphError, match="takeover with inplace='never'; allowed with it: 'dead'"):
        Profile("mine", "", inplace="never", takeover=Takeover())
    with pytest.raises(errors.GraphError, match="workspace='gpu'; allowed: '', 'tinyengine'"):
        Profile("mine", "", workspace="gpu")


@pytest.mark.parametrize("name", [n for n in PROFILES if n not in ("ideal", "torch", "torch_fx")])
def test_planners_of_many_networks_refuse_rules_that_they_do_not_know(name):
    graph = inverted(2, 8)
    words = f"profile '{name}' has rules that batches and search spaces do not know: "
    with pytest.raises(errors.GraphError, match=words):
        plain_rules(name, None, None)
    with pytest.raises(errors.GraphError, match=words):
        nas.evaluate_batch([graph, graph], metrics=["inference_peak"], profile=name)


def test_spaces_and_limits_refuse_them_too():
    words = "profile 'tflm' has rules that batches and search spaces do not know: copies, activations, bases, pad_ops"
    space = nas.spaces.nats_size()
    with pytest.raises(errors.GraphError, match=words):
        space.evaluate(space.random(2, rng=0), "inference_peak", profile="tflm")
    with pytest.raises(errors.GraphError, match=words):
        nas.Limit(space, peak="1MiB", profile="tflm")


def test_plain_rules_may_be_had_of_any_profile_by_leaving_others_out():
    rules = PROFILES["onnxruntime"]
    plain = replace(rules, takeover=None, copies=(), activations=None, reuses=False)
    assert plain_rules(plain, None, None) is plain
    assert plain_rules("torch_fx", True, "dead").fuse


# ------------------------------------------------------------------ padding as ops


def windows(attrs, axis, size, out):
    """First and last position of an axis that a convolution or pool reads, padding below 0 and from `size` on."""
    dilation = attrs.get("dilation", (1,) * len(attrs["kernel_size"]))[axis]
    extent = dilation * (attrs["kernel_size"][axis] - 1) + 1
    padding = attrs["padding"]
    if isinstance(padding, str):
        total = max((out - 1) * attrs["stride"][axis] + extent - size, 0)
        first = -(total // 2) if padding == "same_upper" else -(total - total // 2)
    else:
        first = -padding[axis][0]
    return first, first + (out - 1) * attrs["stride"][axis] + extent - 1


def written_out(graph):
    """The graph with its padding as ops, from what SAME and VALID mean."""
    data = graph.to_dict()
    rows = []
    for row in data["ops"]:
        kind, attrs = row["op"], graph.attributes(row["name"])
        if kind.rpartition("_")[2] in ("conv2d", "pool2d") and not kind.startswith("adaptive"):
            size, out = graph.inputs_of(row["name"])[0].shape[2:], graph.tensors_of(row["name"])[0].shape[2:]
            reads = [windows(attrs, i, size[i], out[i]) for i in (0, 1)]
            same = [windows({**attrs, "padding": "same_upper"}, i, size[i], -(-size[i] // attrs["stride"][i]))
                    for i in (0, 1)]  # fmt: skip
            inside = all(first == 0 and last < n for (first, last), n in zip(reads, size, strict=True))
            counted = attrs.get("count_include_pad", False) and attrs["padding"] != "same_upper"
            if not inside and (reads != same or counted):
                name = f"{row['name']}.pad"
                given = attrs["padding"] if not isinstance(attrs["padding"], str) else ((0, 0), (0, 0))
                pad = [(-first, max(last - n + 1, 0, given[i][1])) for i, ((first, last), n) in
                       enumerate(zip(reads, size, strict=True))]  # fmt: skip
                rows.append({"name": name, "op": "pad", "inputs": [row["inputs"][0]],
                             "attributes": {"pad": [*pad[1], *pad[0]], "mode": "constant"}})  # fmt: skip
                if "scope" in row:
                    rows[-1]["scope"] = row["scope"]
                row["inputs"][0] = [name, 0]
                row["attributes"]["padding"] = [[0, 0], [0, 0]]
                if "ceil_mode" in attrs:
                    row["attributes"]["ceil_mode"] = False
        rows.append(row)
    data["ops"] = rows
    return Graph.from_dict(data)


COLUMNS = [
    *("op_names", "op_kinds", "op_scopes", "in_ptr", "in_idx", "out_ptr", "producer", "reads", "kind", "is_output"),
    *("outputs", "dtype", "rule", "attr_ptr", "attr", "macs_rule", "weight_rule", "owner", "tied", "frozen", "alias"),
    *("fold", "statistics", "index_bytes", "scratch", "before_ptr", "before_idx", "counts", "holds"),
]


def assert_same_net(one, two):
    for name in COLUMNS:
        a, b = getattr(one, name), getattr(two, name)
        assert (a == b) if isinstance(a, tuple) else (a.tolist() == b.tolist()), name
    assert one.sizes.dims.tolist() == two.sizes.dims.tolist()
    assert one.sizes.rank.tolist() == two.sizes.rank.tolist()


@given(graph=graphs())
def test_padding_as_ops_is_the_graph_with_pads_written_out(graph):
    assert_same_net(lower(graph).padded(), lower(written_out(graph)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet", "inception_v3", "shufflenet_v2_x0_5",
                                  "efficientnet_b0", "nasnet_a"])  # fmt: skip
def test_padding_of_real_nets_as_ops(name):
    net = lower(cnnlive.zoo.load(name)).padded()
    assert_same_net(net, lower(written_out(cnnlive.zoo.load(name))))
    assert net.padded() is net
    assert net.sizes_at(3).numel.tolist() == lower(written_out(cnnlive.zoo.load(name))).sizes_at(3).numel.tolist()


@pytest.mark.parametrize(
    ("op", "size", "attrs", "padded"),
    [
        ("conv2d", 8, {"kernel_size": 3, "stride": 2, "padding": 1}, 10),  # SAME would pad behind only
        ("conv2d", 9, {"kernel_size": 3, "stride": 2, "padding": 1}, None),  # SAME
        ("conv2d", 8, {"kernel_size": 3, "padding": 1}, None),
        ("conv2d", 8, {"kernel_size": 3, "padding": 2}, 12),
        ("conv2d", 8, {"kernel_size": 3}, None),  # VALID
        ("conv2d", 8, {"kernel_size": 2, "stride": 2, "padding": "same_lower"}, None),  # nothing to pad
        ("conv2d", 8, {"kernel_size": 2, "padding": "same_lower"}, 9),
        ("conv2d", 8, {"kernel_size": 2, "padding": "same"}, None),
        ("conv2d", 8, {"kernel_size": 3, "dilation": 2, "padding": 2}, None),
        ("max_pool2d", 8, {"kernel_size": 3, "stride": 2, "padding": 1}, 10),
        ("max_pool2d", 8, {"kernel_size": 3, "stride": 2, "ceil_mode": True}, None),  # SAME: one column behind
        ("max_pool2d", 7, {"kernel_size": 2, "stride": 2, "ceil_mode": True}, None),
        ("max_pool2d", 8, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, 11),  # one more behind
        ("avg_pool2d", 9, {"kernel_size": 3, "stride": 1, "padding": 1}, 11),  # the zeros are counted in
        ("avg_pool2d", 9, {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}, None),
    ],
)
def test_what_same_and_valid_can_say(op, size, attrs, padded):
    g = Graph()
    x = g.input((1, 2, size, size), name="x")
    g.op(op, x, name="y", **attrs, **({"out_channels": 2} if op == "conv2d" else {}))
    net = lower(g).padded()
    assert net.op_names == (("x", "y") if padded is None else ("x", "y.pad", "y"))
    assert net.shape(net.n_tensors - 1) == lower(g).shape(1)
    if padded is not None:
        assert net.shape(1) == (1, 2, padded, padded)
        assert net.op_attrs[2]["padding"] == ((0, 0), (0, 0))


def test_a_pad_gets_a_name_of_its_own():
    g = Graph()
    x = g.input((1, 2, 8, 8), name="x")
    g.conv2d(g.relu(x, name="c.pad"), 2, 3, stride=2, padding=1, name="c")
    net = lower(g).padded()
    assert net.op_names == ("x", "c.pad", "c.pad@pad", "c")


def test_pads_keep_parameters_where_they_were():
    g = cnnlive.zoo.load("mobilenet_v2")
    net, padded = lower(g), lower(g).padded()
    assert padded.n_parameters == net.n_parameters
    assert padded.macs() == net.macs()
    named = [padded.op_names[op] for op in padded.parameter_order.tolist()]
    assert named[: net.n_ops] == [net.op_names[op] for op in net.parameter_order.tolist()]
    assert all(name.endswith(".pad") for name in named[net.n_ops :])


def test_a_plan_with_pads_is_of_another_graph():
    g = Graph()
    g.conv2d(g.input((1, 1, 8, 8)), 1, 3, stride=2, padding=1, name="c")
    with pytest.raises(verify.VerificationError, match="pads as ops is of another graph"):
        verify.check_inference(g, unfused(g, "tflm"))
    plan = plan_inference(g, profile=replace(PROFILES["tflm"], fuse=False, pad_ops=False))
    verify.check_inference(g, plan)
    assert plan_inference(g, profile="tflm").ops[1].op == "pad"


# ------------------------------------------------------------------ fusion as converters do it


def test_fusion_takes_in_the_activations_that_a_profile_names():
    g = Graph()
    x = g.input((1, 2, 4, 4), name="x")
    y = g.relu(g.batch_norm2d(g.conv2d(x, 2, 1, name="a"), name="n"), name="r")
    y = g.hardswish(g.conv2d(y, 2, 1, name="b"), name="h")
    y = g.relu(g.add(y, x, name="s"), name="t")
    g.silu(g.sub(y, x, name="d"), name="u")
    net = lower(g)
    assert net.fused().op_names == ("x", "a+n+r", "b+h", "s", "t", "d", "u")
    assert net.fused((), ("relu",)).op_names == ("x", "a+n+r", "b", "h", "s", "t", "d", "u")
    assert net.fused((), ("relu",), ("add", "sub")).op_names == ("x", "a+n+r", "b", "h", "s+t", "d", "u")
    assert net.fused((), None, ("sub",)).op_names == ("x", "a+n+r", "b+h", "s", "t", "d+u")
    assert net.fused() is net.fused()
    tflm = plan_inference(g, profile="tflm")
    assert tflm.network.op_names == ("x", "a+n+r", "b", "h", "s+t", "d", "u")
    assert tflm.network.counts.sum() == net.fused().counts.sum()


def test_a_sum_takes_in_no_normalisation():
    g = Graph()
    x = g.input((1, 2, 4, 4), name="x")
    g.relu(g.batch_norm2d(g.add(x, x, name="s"), name="n"), name="r")
    assert lower(g).fused((), None, ("add",)).op_names == ("x", "s", "n", "r")


# ------------------------------------------------------------------ orders


@settings(max_examples=60)
@given(graph=graphs(max_ops=8), rules=RULES)
def test_the_best_order_is_no_worse_than_the_programs_and_its_bound_holds(graph, rules):
    plan = plan_inference(graph, profile=rules, order="best")
    names = [graph.nodes()[op] for op in plan.order.tolist()]
    assert plan.timeline.tolist() == timeline(graph, names, rules)
    assert plan.activation_peak_bytes <= plan_inference(graph, profile=rules).activation_peak_bytes
    verify.check_inference(graph, plan)
    least = min(max(timeline(graph, order, rules)) for order in naive.all_orders(graph))
    assert plan.lower_bound <= least
    if plan.optimal:
        assert plan.activation_peak_bytes == least
    if not rules.reuses:
        assert plan.optimal
    order = plan_order(graph, profile=rules)
    assert order.peak_bytes == plan.activation_peak_bytes
    assert order.peak_bytes == max(timeline(graph, list(order.op_names), rules))
    assert order.optimal == plan.optimal


@settings(max_examples=100)
@given(graph=graphs(max_ops=8), takeover=TAKEOVERS)
def test_the_least_peak_over_all_orders_is_that_of_brute_force(graph, takeover):
    rules = Profile("mine", "", inplace="dead", takeover=takeover)
    best = plan_order(graph, profile=rules)
    assert best.status == "optimal"
    assert best.peak_bytes == min(max(timeline(graph, order, rules)) for order in naive.all_orders(graph))


@pytest.mark.parametrize("name", ["tinyengine", "mcunet", "tflite", "unas"])
def test_the_best_order_under_kernels_that_write_into_smaller_and_larger_inputs(name):
    # Two strided branches: whichever runs first leaves little behind, where its depthwise convolution is in place.
    g = Graph("branches")
    x = g.input((1, 2, 4, 4), "int8", name="x")
    ends = []
    for k in "ab":
        y = g.conv2d(x, 8, 1, name=f"{k}.up")
        y = g.conv2d(y, 8, 3, stride=2, padding="same", groups=8, name=f"{k}.dw")
        ends.append(y)
    g.add(*ends, name="sum")
    rules = replace(PROFILES[name], fuse=False, pad_ops=False)
    orders = list(naive.all_orders(g))
    least = min(max(timeline(g, order, rules, "int8")) for order in orders)
    best = plan_order(g, profile=rules, dtype="int8")
    assert (best.peak_bytes, best.status) == (least, "optimal")
    plan = plan_inference(g, profile=rules, dtype="int8", order="best")
    assert (plan.activation_peak_bytes, plan.optimal) == (least, True)
    verify.check_inference(g, plan)
    if name in ("tinyengine", "mcunet"):
        assert least == 32 + 32 + 128


# ------------------------------------------------------------------ published

DATA = json.loads((Path(__file__).parent / "data" / "profiles.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", DATA["zoo"], ids=lambda row: f"{row['net']}-{row['profile']}")
def test_published_activations_of_whole_nets(row):
    graph = cnnlive.zoo.load(row["net"], **row.get("arguments", {}))
    options = {k: row[k] for k in ("fuse", "inplace") if k in row}
    plan = plan_inference(graph, dtype="int8", profile=row["profile"], **options)
    assert plan.activation_peak_bytes == row["activation_peak_bytes"]


@pytest.mark.parametrize("row", DATA["blocks"], ids=lambda row: row["name"])
def test_published_activations_of_blocks(row):
    g = inverted(row["channels"], row["expanded"], row["stride"], row["size"])
    for name, nbytes in row["activation_peak_bytes"].items():
        assert plan_inference(g, profile=name, fuse=True, inplace="never" if name == "ideal" else None
                              ).activation_peak_bytes == nbytes  # fmt: skip


def person(channels):
    """MobileNetV1 0.25 at 96 x 96, int8, as MLPerf Tiny (3 channels) and TFLM's person_detect (1) have it."""
    g = Graph("person")
    x = g.conv2d(g.input((1, channels, 96, 96), "int8"), 8, 3, stride=2, padding="same")
    for wide, stride in [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]:
        x = g.conv2d(x, x.shape[1], 3, stride=stride, padding="same", groups=x.shape[1])
        x = g.conv2d(x, wide, 1)
    x = g.avg_pool2d(x, 3)
    g.softmax(g.reshape(g.conv2d(x, 2, 1), (1, 2)))
    return g


@pytest.mark.parametrize("channels", [1, 3])
def test_liveness_of_person_detection(channels):
    want = DATA["person_detection"]
    plan = plan_inference(person(channels), profile="tflm")
    assert plan.activation_peak_bytes == want["liveness_bytes"]
    assert plan.optimal
    if channels == 1:
        # "241 KB" of static allocation: every activation
        assert plan.activation_bytes == want["sum_of_activations"]
    assert plan_inference(person(channels)).activation_peak_bytes == want["liveness_bytes"]
    plan_arena = getattr(cnnlive, "plan_arena", None)
    if plan_arena is not None:
        assert plan_arena(person(channels), profile="tflm").arena_bytes == want["tflm_head_bytes"][str(channels)]


def test_the_table_in_the_readme_of_tflite_tools():
    g = Graph("cifar")
    x = g.conv2d(g.conv2d(g.input((1, 3, 32, 32), "int8"), 16, 3), 16, 3)
    x = g.flatten(g.max_pool2d(x, 2))
    g.softmax(g.linear(g.linear(x, 128), 10))
    plan = plan_inference(g)
    rows = [r.live_bytes for r in plan.ops if r.op not in ("input", "flatten")]
    assert rows == DATA["tflite_tools"]["live_bytes"]
    assert plan.activation_peak_bytes == max(DATA["tflite_tools"]["live_bytes"])


def test_the_example_of_liberis_and_lane():
    want = DATA["liberis_lane"]
    edges = want["edges"]
    readers = range(1, 8)
    net = Lowered.from_arrays(want["nbytes"], [[a for a, b in edges if b == op] for op in readers],
                              [[op] for op in readers])  # fmt: skip
    default = plan_inference(net)
    assert default.activation_peak_bytes == want["default_peak"]
    assert default.peak_step == 3
    better = plan_inference(net, order=[0, *want["better_order"]])
    assert better.activation_peak_bytes == want["better_peak"]
    best = plan_order(net)
    assert (best.peak_bytes, best.status) == (want["better_peak"], "optimal")


@pytest.mark.parametrize("row", DATA["tinyengine_assets"], ids=lambda row: row["model"])
def test_assets_of_tinyengine(row):
    shared = Path(__file__).parents[2] / "shared/data/scheduling/tflite_activation_graphs.json"
    if not shared.exists():
        pytest.skip("needs the activation graphs of public TFLite models, which are not part of the project")
    models = json.loads(shared.read_text(encoding="utf-8"))["models"]
    model = next(m for m in models if m["name"] == row["model"])
    # Its converter drops quantisation of the input and fuses pads.
    gone = {o["output"]: o["inputs"][0] for o in model["ops"] if o["builtin_code"] in (34, 114)}
    begins = {o["inputs"][0]: o["output"] for o in model["ops"] if o["builtin_code"] == 114}
    ops = [o for o in model["ops"] if o["output"] not in gone]

    def source(t):
        while t in gone and t not in begins.values():
            t = gone[t]
        return begins.get(t, t)

    used = sorted({source(t) for o in ops for t in o["inputs"]} | {o["output"] for o in ops})
    number = {t: i for i, t in enumerate(used)}
    net = Lowered.from_arrays(
        [model["tensor_bytes"][t] for t in used], [[number[source(t)] for t in o["inputs"]] for o in ops],
        [[number[o["output"]]] for o in ops], outputs=[number[t] for t in model["graph_outputs"]],
    )  # fmt: skip
    kinds = ["input"] * (net.n_ops - len(ops)) + ["dw" if o["builtin_code"] == 4 else "op" for o in ops]
    net = replace(net, op_kinds=tuple(kinds), _cache={})
    by_kind = replace(PROFILES["mcunet"], takeover=replace(PROFILES["mcunet"].takeover, ops=(("dw", (0,)),)))
    assert plan_inference(net, profile=by_kind).activation_peak_bytes == row["activation_peak_bytes"]
    assert plan_inference(net).activation_peak_bytes == row["without_in_place"]


def test_the_workspace_of_tinyengine():
    want = DATA["tinyengine_workspace"]
    g = Graph()
    x = g.conv2d(g.input((1, 3, 80, 80), "int8"), 16, 3, stride=2, padding=1)
    g.conv2d(g.conv2d(x, 16, 3, padding=1, groups=16), 8, 1)
    plan = plan_inference(g, profile="tinyengine")
    assert plan.workspace_bytes == want["im2col"] + want["kernel"]
    assert plan_inference(g).workspace_bytes == 0
    one = Graph()
    one.conv2d(one.input((1, 4, 2, 2), "int8"), 4, 1)
    assert plan_inference(one, profile="tinyengine").workspace_bytes == 4 * 4
    assert math.gcd(*plan.timeline.tolist()) > 0
    assert np.array_equal(plan.timeline, plan_inference(g, profile="mcunet").timeline)


# ------------------------------------------------------------------ what the check sees


class Changed:
    """A plan with some of its properties replaced."""

    def __init__(self, plan, **changes):
        self._plan, self._changes = plan, changes

    def __getattr__(self, name):
        return self._changes[name] if name in self._changes else getattr(self._plan, name)


def assert_refused(graph, plan, words, **changes):
    verify.check_inference(graph, plan)
    with pytest.raises(verify.VerificationError, match=words):
        verify.check_inference(graph, Changed(plan, **changes))


def test_the_check_sees_what_kernels_may_not_do():
    g = Graph()
    x = g.conv2d(g.input((1, 2, 4, 4), name="x"), 2, 1, name="a")
    y = g.conv2d(x, 2, 1, name="b")
    g.conv2d(g.add(x, y, name="s"), 2, 1, name="c")
    tflite = unfused(g, "tflite")
    assert_refused(g, tflite, "s may not take over the bytes of a", buffer_of={**tflite.buffer_of, "s": "a"})
    assert_refused(g, unfused(g, "tflm"), "s may not take over the bytes of b",
                   buffer_of={**tflite.buffer_of, "s": "b"})  # fmt: skip
    assert_refused(g, tflite, "s may not take over the bytes of b", profile=PROFILES["ideal"])


def test_the_check_sees_views_that_should_copy_and_copies_that_should_not():
    g = Graph()
    y = g.conv2d(g.input((1, 2, 2, 2), name="x"), 2, 1, name="a")
    g.linear(g.flatten(y, name="f"), 1, name="fc")
    ideal, tflm = unfused(g, "ideal"), unfused(g, "tflm")
    copying = Profile("mine", "", copies=("flatten",))
    assert_refused(g, ideal, "f may not take over the bytes of a", profile=copying)
    assert_refused(g, tflm, "f has to share the bytes of its input", profile=PROFILES["ideal"])


def test_the_check_sees_buffers_that_shrink_too_early_or_not_at_all():
    g = inverted(2, 8, stride=2)
    plan = unfused(g, "mcunet")
    early = plan.timeline.copy()
    early[2] = 32
    assert_refused(g, plan, "step 2 .* holds 128 bytes, the timeline says 32", timeline=early)
    late = plan.timeline.copy()
    late[3] = 136
    assert_refused(g, plan, "step 3 .* holds 40 bytes, the timeline says 136", timeline=late)
    equal = replace(plan.profile, takeover=replace(plan.profile.takeover, fits="bytes"))
    assert_refused(g, plan, "depthwise writes 32 bytes into the 128 of up", profile=equal)


def test_the_check_sees_what_may_not_be_used_again():
    g = chain_of_equal_maps()
    rules = Profile("mine", "", inplace="dead", takeover=Takeover(()), reuses=True)
    plan = plan_inference(g, profile=rules)
    assert_refused(g, plan, "c may not take over the bytes of a", profile=replace(rules, reuses=False))
    for tensor, home in (("b", "x"), ("e", "a"), ("d", "a")):
        assert_refused(g, plan, f"{tensor} may not take over the bytes of {home}",
                       buffer_of={**plan.buffer_of, tensor: home})  # fmt: skip
    # what is still wanted is not dead
    held = chain_of_equal_maps()
    held.output(held.conv2d(held.concat([held.tensors_of("a")[0], held.tensors_of("c")[0]]), 1, 1))
    plan = plan_inference(held, profile=rules)
    assert_refused(held, plan, "concat reads a after its bytes were overwritten",
                   buffer_of={**plan.buffer_of, "c": "a"})  # fmt: skip
