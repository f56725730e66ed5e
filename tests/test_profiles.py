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
        kernels = {**{k: (0, 1) for k in naive.EITHER}, **{k: (0,) for k in naive.FIRST | {"log_softmax"}}}
        kernels |= {k: cnnlive.ops.operator(k).overwrites for k in cnnlive.ops.OPERATORS}
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
        before = {b for b in members if b in last}
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
                if place is None and graph.op_of(b[0]) not in nothing and dead(b) and may_take(graph, n, i, p, dtype):
                    if sizes[b][-1][1] == naive.nbytes(graph, s, dtype):
                        place, cut = b, naive.nbytes(graph, (n, 0), dtype) < sizes[b][-1][1]
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
        del before
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
