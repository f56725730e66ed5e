"""The inference planner against its definition, brute force, hand-derived and published figures."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs, graphs_and_orders, graphs_in_frames

import cnnlive
from cnnlive import Graph, errors, lower, plan_inference, verify
from cnnlive.profiles import PROFILES, Profile

MODES = ["graph", "dead", "never"]
RULES = st.builds(
    Profile,
    name=st.just("drawn"),
    summary=st.just(""),
    inplace=st.sampled_from(MODES),
    keeps_inputs=st.booleans(),
    pool_indices=st.booleans(),
)
EAGER = RULES.map(lambda rules: replace(rules, frames=True))


def oracle(graph, order, rules, dtype=None):
    return naive.timeline(
        graph,
        order,
        inplace=rules.inplace,
        keeps_inputs=rules.keeps_inputs,
        pool_indices=rules.pool_indices,
        frames=rules.frames,
        dtype=dtype,
    )


# ------------------------------------------------------------------ definition


@given(drawn=graphs_and_orders(), rules=RULES, dtype=st.sampled_from([None, "float16", "int8", "float64"]))
def test_timeline_equals_the_definition(drawn, rules, dtype):
    graph, order = drawn
    plan = plan_inference(graph, order=order, profile=rules, dtype=dtype)
    assert plan.timeline.tolist() == oracle(graph, order, rules, dtype)


@given(graph=graphs(), rules=RULES)
def test_program_order_equals_the_definition(graph, rules):
    assert plan_inference(graph, profile=rules).timeline.tolist() == oracle(graph, graph.nodes(), rules)


@given(drawn=graphs_and_orders(), rules=RULES)
def test_peak_summarises_the_timeline_of_the_same_pass(drawn, rules):
    graph, order = drawn
    plan = plan_inference(graph, order=order, profile=rules)
    assert plan.activation_peak_bytes == plan.timeline.max()
    assert plan.peak_step == int(np.argmax(plan.timeline))  # the first step that reaches it
    assert plan.peak_op == order[plan.peak_step]
    assert plan.peak_bytes == plan.activation_peak_bytes + plan.weight_bytes
    for step in range(len(order)):
        live = sum(b.nbytes for b in plan.live_at(step))
        assert live <= plan.timeline[step]
        if not rules.pool_indices:
            assert live == plan.timeline[step]
    assert sum(b.nbytes for b in plan.live_at_peak) + plan.scratch_at_peak == plan.activation_peak_bytes


@given(drawn=graphs_and_orders(), rules=RULES)
def test_every_plan_passes_the_independent_check(drawn, rules):
    graph, order = drawn
    verify.check_inference(graph, plan_inference(graph, order=order, profile=rules))


@settings(max_examples=40)
@given(graph=graphs(max_ops=7), rules=RULES)
def test_the_bound_holds_for_every_order(graph, rules):
    bound = plan_inference(graph, profile=rules).lower_bound
    best = min(max(oracle(graph, order, rules)) for order in naive.all_orders(graph))
    assert bound <= best
    if plan_inference(graph, profile=rules).optimal:
        assert plan_inference(graph, profile=rules).activation_peak_bytes == best


# ------------------------------------------------------------------ relations


@given(graph=graphs(), rules=RULES)
def test_bytes_grow_with_the_type(graph, rules):
    half, single = (plan_inference(graph, profile=rules, dtype=d) for d in ("float16", "float32"))
    assert half.activation_peak_bytes <= single.activation_peak_bytes <= 2 * half.activation_peak_bytes


@given(graph=graphs())
def test_less_in_place_never_needs_less(graph):
    never, asked = (plan_inference(graph, inplace=mode).activation_peak_bytes for mode in ("never", "graph"))
    assert asked <= never
    assert plan_inference(graph).lower_bound <= asked <= plan_inference(graph).activation_bytes


@given(graph=graphs(), batch=st.integers(2, 5))
def test_another_batch_equals_a_graph_built_at_it(graph, batch):
    data = graph.to_dict()
    for row in data["ops"]:
        if row["op"] == "input":
            row["attributes"]["shape"] = [batch, *row["attributes"]["shape"][1:]]
    rebuilt = Graph.from_dict(data)
    assert (
        plan_inference(graph, batch=batch).timeline.tolist() == plan_inference(rebuilt, batch=batch).timeline.tolist()
    )
    assert plan_inference(rebuilt, batch=1).timeline.tolist() == plan_inference(graph).timeline.tolist()


@given(graph=graphs())
def test_an_unread_op_changes_only_its_own_step(graph):
    before = plan_inference(graph).timeline.tolist()
    copy = Graph.from_dict(graph.to_dict())
    outputs = copy.outputs
    copy.output(*outputs)
    first = copy.inputs[0]
    if any(copy.attributes(n).get("inplace") for n in copy.nodes()):
        return
    copy.mean(first, dim=1)
    after = plan_inference(copy).timeline.tolist()
    assert [a >= b for a, b in zip(after[:-1], before, strict=True)]


# ------------------------------------------------------------------ by hand


def vgg16() -> Graph:
    return cnnlive.zoo.load("vgg16")


def test_vgg16_peak_is_two_maps_of_the_first_block():
    # conv1_2 reads 64 x 224 x 224 and writes as much; ReLU works in place and the image (3 x 224 x 224) is
    # dead by then. No later op needs more: conv2_1 reads 64 x 112^2 and writes 128 x 112^2, three quarters of it;
    # fc1 reads 25,088 and writes 4,096 numbers.
    plan = plan_inference(vgg16())
    assert plan.activation_peak_bytes == 2 * 64 * 224 * 224 * 4 == 25_690_112
    assert plan.weight_bytes == 138_357_544 * 4 == 553_430_176
    assert plan.peak_bytes == 579_120_288
    assert plan.peak_op == "features.2"
    assert [b.name for b in plan.live_at_peak] == ["features.0", "features.2"]
    assert plan.optimal


def test_vgg16_in_pytorch_also_keeps_the_image():
    plan = plan_inference(vgg16(), profile="torch_fx")
    assert plan.peak_bytes == 579_120_288 + 3 * 224 * 224 * 4 == 579_722_400


@pytest.mark.parametrize(
    ("inplace", "nbytes"), [(True, (64 + 256 + 256) * 56 * 56 * 4), (False, 3 * 256 * 56 * 56 * 4)]
)
def test_resnet50_needs_three_maps_less_what_the_addition_overwrites(inplace, nbytes):
    plan = plan_inference(cnnlive.zoo.load("resnet50"), fuse=True, inplace=inplace)
    assert plan.activation_peak_bytes == nbytes
    assert nbytes == (7_225_344 if inplace else 9_633_792)


def test_mobilenet_v2_int8_peaks_where_the_expanded_map_is_strided():
    # The depthwise convolution of the second block reads 96 x 112 x 112 and writes 96 x 56 x 56.
    plan = plan_inference(cnnlive.zoo.load("mobilenet_v2"), fuse=True, dtype="int8")
    assert plan.activation_peak_bytes == 96 * 112 * 112 + 96 * 56 * 56 == 1_505_280


def chain():
    g = Graph("chain")
    x = g.input((1, 2, 4, 4), name="x")
    y = g.conv2d(x, 4, 1, name="a")
    y = g.relu(y, inplace=True, name="r")
    g.conv2d(y, 1, 1, name="b")
    return g


def test_a_chain_by_hand():
    plan = plan_inference(chain())
    assert plan.timeline.tolist() == [128, 128 + 256, 256, 256 + 64]
    assert plan_inference(chain(), inplace="never").timeline.tolist() == [128, 384, 512, 320]
    assert plan_inference(chain(), profile="torch_fx").timeline.tolist() == [128, 384, 384, 448]
    assert plan_inference(chain(), fuse=True).timeline.tolist() == [128, 384, 320]
    assert plan_inference(chain(), batch=3).timeline.tolist() == [384, 1152, 768, 960]


def test_dead_inputs_are_overwritten_only_where_sizes_are_equal():
    g = Graph()
    x = g.input((1, 4, 2, 2))
    y = g.conv2d(x, 4, 1)
    small = g.parameter((1, 4, 1, 1))
    g.sigmoid(g.mul(small, y))  # input 0 is stored, input 1 dies: it is input 1 that is overwritten
    dead = plan_inference(g, inplace="dead")
    assert dead.timeline.tolist() == [64, 128, 64, 64, 64]
    assert plan_inference(g).timeline.tolist() == [64, 128, 64, 128, 128]


def test_an_output_is_never_overwritten_and_lives_to_the_end():
    g = Graph()
    x = g.input((1, 1, 4, 4))
    y = g.conv2d(x, 1, 1)
    z = g.relu(y)
    g.output(y, z)
    assert plan_inference(g, inplace="dead").timeline.tolist() == [64, 128, 128]


def test_the_pieces_of_a_split_keep_the_whole_alive():
    g = Graph()
    a, b = g.chunk(g.input((1, 2, 4, 4)), 2)
    c = g.conv2d(a, 1, 1)
    g.concat([c, b])
    plan = plan_inference(g)
    assert plan.timeline.tolist() == [128, 128, 192, 128 + 64 + 128]
    assert {x.name for x in plan.live_at_peak} == {"input", "conv2d", "concat"}


def test_stored_parameters_are_weights_and_never_activations():
    g = Graph()
    x = g.input((1, 8, 1, 1))
    g.mul(x, g.reshape(g.parameter((8,)), (1, 8, 1, 1)))
    plan = plan_inference(g)
    assert plan.parameter_bytes == 32
    assert plan.timeline.max() == 64


def test_pool_indices_are_scratch_of_pytorch_only():
    g = Graph()
    g.max_pool2d(g.input((1, 1, 4, 4)), 2)
    assert plan_inference(g).timeline.tolist() == [64, 80]
    assert plan_inference(g, profile="torch_fx").timeline.tolist() == [64, 80 + 4 * 8]
    g = Graph()
    y, _ = g.max_pool2d_with_indices(g.input((1, 1, 4, 4)), 2)
    assert plan_inference(g, profile="torch_fx").activation_peak_bytes == 64 + 16 + 32
    assert y.shape == (1, 1, 2, 2)


def test_batch_counters_are_stored_by_pytorch_only():
    g = Graph()
    g.batch_norm2d(g.input((1, 4, 2, 2)))
    assert plan_inference(g).weight_bytes == 4 * 4 * 4
    assert plan_inference(g, profile="torch_fx").weight_bytes == 4 * 4 * 4 + 8


def test_shared_weights_count_once():
    g = Graph()
    x = g.input((1, 4, 8, 8))
    x = g.conv2d(x, 4, 3, padding=1, name="first")
    g.op("conv2d", x, out_channels=4, kernel_size=3, padding=1, name="second", tied="first")
    assert g.n_parameters == 4 * 4 * 9 + 4
    assert plan_inference(g).weight_bytes == 4 * (4 * 4 * 9 + 4)


# ------------------------------------------------------------------ types


def test_integer_tensors_keep_their_type():
    g = Graph()
    g.cast(g.input((1, 10), dtype="uint8"), "int64")
    assert plan_inference(g, dtype="float16").timeline.tolist() == [10, 90]


def test_types_per_op_reach_what_shares_the_bytes():
    g = chain()
    plan = plan_inference(g, dtype={"a": "int8"})
    assert plan.timeline.tolist() == [128, 128 + 64, 64, 64 + 64]
    assert plan.parameter_bytes == 4 * (2 * 4 + 4 + 4 + 1)
    assert {b.dtype for b in plan.buffers} == {"float32", "int8"}
    with pytest.raises(errors.DTypeError, match=r"r \(relu\) writes no bytes of its own"):
        plan_inference(g, dtype={"r": "int8"})
    with pytest.raises(errors.GraphError, match="'nope', which is not an op"):
        plan_inference(g, dtype={"nope": "int8"})
    with pytest.raises(errors.DTypeError, match="unknown dtype 'int7'"):
        plan_inference(g, dtype="int7")


def test_types_per_tensor_and_for_the_rest():
    g = Graph()
    x = g.input((1, 1, 4, 4), name="x")
    y, where = g.max_pool2d_with_indices(x, 2, name="pool")
    g.output(g.conv2d(y, 1, 1, name="a"), where)
    types = {"*": "float16", "x": "uint8", "pool:1": "int32"}
    plan = plan_inference(g, dtype=types)
    assert {b.name: b.dtype for b in plan.buffers} == {
        "x": "uint8",
        "pool": "float16",
        "pool:1": "int32",
        "a": "float16",
    }
    assert plan.timeline.tolist() == [16, 16 + 8 + 16, 8 + 16 + 8]
    assert plan.weight_bytes == 2 * 2
    assert plan.dtype == plan.to_dict()["dtype"] == types
    assert plan_inference(g, dtype={**types, "pool:0": "int8"}).timeline.tolist() == [16, 16 + 4 + 16, 4 + 16 + 8]
    # By the name of its op, a pool's values change and its indices do not.
    whole = plan_inference(g, dtype={"pool": "int8"})
    assert {b.name: b.dtype for b in whole.buffers} == {
        "x": "float32",
        "pool": "int8",
        "pool:1": "int64",
        "a": "float32",
    }
    with pytest.raises(errors.GraphError, match="'pool:2', and pool has outputs :0 to :1"):
        plan_inference(g, dtype={"pool:2": "int8"})
    with pytest.raises(errors.GraphError, match="'a:1', and a has output :0"):
        plan_inference(g, dtype={"a:1": "int8"})
    with pytest.raises(errors.GraphError, match="'pol', which is not an op of the network; did you mean pool"):
        plan_inference(g, dtype={"pol": "int8"})


def test_a_type_for_a_view_is_an_error_by_either_name():
    g = Graph()
    g.add(*g.split(g.conv2d(g.input((1, 1, 2, 2)), 4, 1), 2, name="split"))
    for name in ("split", "split:0", "split:1"):
        with pytest.raises(errors.DTypeError, match=r"\(split\) writes no bytes of its own"):
            plan_inference(g, dtype={name: "int8"})


def test_a_plan_says_what_it_was_asked():
    net = lower(chain())
    assert [(p.dtype, p.weight_dtype) for p in (
        plan_inference(net), plan_inference(net, dtype="half"), plan_inference(net, dtype="int8", weight_dtype="fp16"),
    )] == [(None, None), ("float16", None), ("int8", "float16")]  # fmt: skip
    assert plan_inference(net).network is net
    assert plan_inference(net, fuse=True).network is net.fused()
    assert plan_inference(net, dtype="int8").to_dict()["dtype"] == "int8"


@given(drawn=graphs_and_orders(), rules=RULES)
def test_what_a_step_reads_and_writes_is_alive_then(drawn, rules):
    graph, order = drawn
    plan = plan_inference(graph, order=order, profile=rules)
    net, buffer_of = plan.network, plan.buffer_of
    stored = {net.tensor_name(t) for t in np.flatnonzero(net.kind == 2).tolist()}
    for step, op in enumerate(plan.order.tolist()):
        written = range(int(net.out_ptr[op]), int(net.out_ptr[op + 1]))
        read = net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]].tolist()
        for tensors, buffers in ((written, plan.writes_at(step)), (read, plan.reads_at(step))):
            names = dict.fromkeys(buffer_of[net.tensor_name(t)] for t in tensors)
            assert [b.name for b in buffers] == [n for n in names if n not in stored]
            assert set(buffers) <= set(plan.live_at(step))
    with pytest.raises(errors.OrderError, match="no step"):
        plan.reads_at(len(plan.order))
    assert stored or sum(b.nbytes for b in plan.outputs) == plan.output_bytes
    assert sum(b.nbytes for b in plan.inputs) == plan.input_bytes


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"dtype": 3}, errors.DTypeError, "unknown dtype 3"),
        ({"order": 3}, errors.OrderError, "order=3"),
        ({"order": ["a", "bb"]}, errors.OrderError, "'bb', which is not an op"),
        ({"fuse": "no"}, errors.GraphError, "fuse='no'"),
        ({"batch": 10**30}, errors.ShapeError, "batch=1000"),
        ({"profile": None}, errors.UnknownProfileError, "unknown profile None"),
    ],
)
def test_a_wrong_argument_is_an_error_of_cnnlive(how, error, words):
    with pytest.raises(error, match=words):
        plan_inference(chain(), **how)


def test_a_profile_that_cannot_be_is_an_error_at_once():
    with pytest.raises(errors.GraphError, match=r"inplace='always'; allowed: 'graph', 'dead', 'never'"):
        cnnlive.Profile("mine", "", inplace="always")


def test_a_name_instead_of_a_network_is_told_how_to_load_one():
    with pytest.raises(errors.GraphError, match=r"cnnlive\.zoo\.load"):
        plan_inference("resnet50")


def test_weights_may_have_a_type_of_their_own():
    plan = plan_inference(chain(), dtype="float16", weight_dtype="int8")
    assert plan.weight_bytes == 2 * 4 + 4 + 4 + 1
    assert plan.timeline.tolist() == [64, 192, 128, 160]


# ------------------------------------------------------------------ orders


def branch():
    g = Graph()
    x = g.input((1, 1, 2, 2), name="x")
    a = g.conv2d(x, 1, 1, name="a")
    b = g.conv2d(x, 1, 1, name="b")
    g.add(a, b, name="sum")
    return g


def test_an_illegal_order_names_the_first_offending_op():
    g = branch()
    with pytest.raises(errors.OrderError, match="runs sum before b, whose output it reads"):
        plan_inference(g, order=["x", "a", "sum", "b"])
    with pytest.raises(errors.OrderError, match="runs a twice"):
        plan_inference(g, order=["x", "a", "a", "b"])
    with pytest.raises(errors.OrderError, match="leaves out sum"):
        plan_inference(g, order=["x", "a", "b"])
    with pytest.raises(errors.OrderError, match="'c', which is not an op"):
        plan_inference(g, order=["x", "a", "b", "c"])
    with pytest.raises(errors.OrderError, match="has op 9; allowed: 0 to 3"):
        plan_inference(g, order=[0, 1, 2, 9])
    with pytest.raises(errors.OrderError, match="'program', 'best' or a sequence"):
        plan_inference(g, order="fastest")
    with pytest.raises(errors.OrderError, match="neither a sequence of op numbers"):
        plan_inference(g, order=[None, 1, 2, 3])


def test_an_op_in_place_runs_after_every_other_reader():
    g = Graph()
    x = g.input((1, 1, 2, 2), name="x")
    y = g.conv2d(x, 1, 1, name="y")
    flat = g.flatten(y, name="flat")
    g.linear(flat, 1, name="reader")
    g.relu(y, inplace=True, name="r")
    plan_inference(g, order=["x", "y", "flat", "reader", "r"])
    with pytest.raises(errors.OrderError, match="runs r before reader, which reads the bytes that it overwrites"):
        plan_inference(g, order=["x", "y", "flat", "r", "reader"])


@given(drawn=graphs_and_orders())
def test_orders_are_legal_exactly_as_defined(drawn):
    graph, order = drawn
    for i, j in pairwise(range(len(order))):
        swapped = list(order)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        if naive.is_legal(graph, swapped):
            plan_inference(graph, order=swapped)
        else:
            with pytest.raises(errors.OrderError):
                plan_inference(graph, order=swapped)


def test_names_may_leave_inputs_and_parameters_out():
    assert plan_inference(branch(), order=["b", "a", "sum"]).order.tolist() == [0, 2, 1, 3]
    assert plan_inference(branch(), order=np.array([0, 2, 1, 3])).order.tolist() == [0, 2, 1, 3]


# ------------------------------------------------------------------ overwriting


def test_reading_what_was_overwritten_is_an_error_that_names_both():
    g = Graph()
    x = g.input((1, 1, 2, 2), name="x")
    y = g.conv2d(x, 1, 1, name="y")
    g.relu(y, inplace=True, name="r")
    g.conv2d(y, 1, 1, name="late")
    with pytest.raises(errors.GraphError, match=r"late \(conv2d\) reads y after r \(relu\) has overwritten it"):
        plan_inference(g)


def test_reading_another_view_of_what_was_overwritten_is_an_error():
    g = Graph()
    y = g.conv2d(g.input((1, 1, 2, 2)), 1, 1, name="y")
    one, other = g.flatten(y, name="one"), g.reshape(y, (1, 4), name="other")
    g.relu(one, inplace=True, name="r")
    g.linear(other, 1, name="late")
    with pytest.raises(errors.GraphError, match=r"late \(linear\) reads other after r"):
        lower(g)


def test_pieces_of_one_split_do_not_overlap():
    g = Graph()
    a, b = g.chunk(g.conv2d(g.input((1, 2, 2, 2)), 2, 1), 2)
    a = g.relu(a, inplace=True)
    g.concat([a, b])
    assert plan_inference(g).activation_peak_bytes == 64


def test_outputs_and_stored_parameters_cannot_be_overwritten():
    g = Graph()
    y = g.conv2d(g.input((1, 1, 2, 2)), 1, 1, name="y")
    g.relu(y, inplace=True, name="r")
    g.output(y)
    with pytest.raises(errors.GraphError, match="overwrites y, an output"):
        lower(g)
    g = Graph()
    g.relu(g.reshape(g.parameter((4,), name="p"), (2, 2)), inplace=True, name="r")
    with pytest.raises(errors.GraphError, match="overwrites p, a stored parameter"):
        lower(g)


# ------------------------------------------------------------------ the rest of the result


def test_the_table_adds_up():
    graph = cnnlive.zoo.load("resnet18")
    plan = plan_inference(graph, batch=2)
    rows = plan.ops
    assert sum(r.parameters for r in rows) == graph.n_parameters + graph.n_buffers
    assert sum(r.macs for r in rows) == plan.macs == 2 * lower(graph).macs()
    assert sum(r.output_bytes for r in rows) == plan.activation_bytes
    assert [r.live_bytes for r in rows] == plan.timeline.tolist()
    assert rows[1].input_shapes == ((2, 3, 224, 224),)
    assert plan.input_bytes == 2 * 3 * 224 * 224 * 4
    assert plan.output_bytes == 2 * 1000 * 4


def test_a_result_is_plain_data_and_prints_on_one_screen():
    plan = plan_inference(cnnlive.zoo.load("resnet18"))
    data = json.loads(json.dumps(plan.to_dict()))
    assert data["peak_bytes"] == plan.peak_bytes
    assert len(str(plan).splitlines()) < 24
    assert "resnet18" in repr(plan)
    with pytest.raises(errors.OrderError, match="no step 9999"):
        plan.live_at(9999)
    with pytest.raises(ValueError, match="read-only"):
        plan.timeline[0] = 1


def test_wrong_arguments_are_named():
    g = chain()
    for batch in (0, -1, 1.5, True, "two"):
        with pytest.raises(errors.ShapeError, match="allowed: an integer >= 1"):
            plan_inference(g, batch=batch)
    with pytest.raises(errors.UnknownProfileError, match="'tpu'; allowed: ideal, torch, torch_fx"):
        plan_inference(g, profile="tpu")
    with pytest.raises(errors.GraphError, match="allowed: 'graph', 'dead', 'never'"):
        plan_inference(g, inplace="always")
    with pytest.raises(errors.GraphError, match="neither a Graph nor a Lowered"):
        plan_inference("resnet50")
    assert list(PROFILES)[:3] == ["ideal", "torch", "torch_fx"]


def test_thirty_thousand_ops():
    g = Graph("long")
    x = g.input((1, 8, 4, 4))
    while len(g) < 30_000:
        y = g.relu(g.conv2d(x, 8, 3, padding=1), inplace=True)
        x = g.add(y, x)
    plan = plan_inference(g)
    assert plan.activation_peak_bytes == 3 * 8 * 16 * 4
    assert plan.order.shape[0] == len(g)


def test_sizes_past_32_bits_are_exact_and_past_62_bits_refused():
    g = Graph()
    g.relu(g.input((1, 2**20, 2**15)))
    assert plan_inference(g).activation_peak_bytes == 2 * 2**35 * 4
    assert plan_inference(g, batch=2**22).activation_peak_bytes == 2 * 2**57 * 4
    with pytest.raises(errors.ShapeError, match=r"2\*\*62"):
        plan_inference(g, batch=2**24)
    # Uncompiled, the product that the kernel then finds too large warns first.
    with pytest.raises(errors.ShapeError, match=r"2\*\*62 elements or more"), np.errstate(over="ignore"):
        plan_inference(g, batch=2**28)


# ------------------------------------------------------------------ promises of the docstrings


@given(graph=graphs(), rules=RULES)
def test_the_bound_is_what_the_neediest_op_needs(graph, rules):
    needed = naive.least_needs(
        graph, inplace=rules.inplace, keeps_inputs=rules.keeps_inputs, pool_indices=rules.pool_indices
    )
    assert plan_inference(graph, profile=rules).lower_bound == needed


def test_the_bound_and_the_best_order_of_two_branches_by_hand():
    # Each branch widens one channel to eight (128 bytes) and narrows it again (16 bytes).
    g = Graph()
    x = g.input((1, 1, 2, 2), name="x")
    first, second = (g.conv2d(g.conv2d(x, 8, 1, name=n), 1, 1, name=f"{n}2") for n in "ab")
    g.add(first, second, name="sum")
    plan = plan_inference(g)
    assert plan.timeline.tolist() == [16, 144, 160, 160, 160, 48]  # first a, then b; x dies with b
    assert plan.lower_bound == 16 + 128
    assert not plan.optimal
    worse = plan_inference(g, order=["a", "b", "a2", "b2", "sum"])
    assert worse.timeline.tolist() == [16, 144, 272, 272, 160, 48]
    assert worse.lower_bound == plan.lower_bound  # it is of the network, not of the order
    assert plan_inference(g, profile="torch_fx").lower_bound == 16 + 128 + 16  # x stays, also beside a and a2


def test_scratch_is_part_of_what_an_op_needs():
    g = Graph()
    g.max_pool2d(g.input((1, 1, 4, 4)), 2)
    plan = plan_inference(g, profile="torch_fx")
    assert plan.lower_bound == plan.activation_peak_bytes == 64 + 16 + 4 * 8
    assert plan.optimal
    assert plan.scratch_at_peak == 32
    assert "(scratch)" in str(plan)
    assert "(scratch)" not in str(plan_inference(g))


def test_the_first_of_two_dying_inputs_is_overwritten():
    g = Graph()
    x = g.input((1, 4, 2, 2))
    a, b = g.conv2d(x, 4, 1, name="a"), g.conv2d(x, 4, 1, name="b")
    g.add(a, b, name="sum")
    assert plan_inference(g, inplace="dead").buffer_of["sum"] == "a"
    g.output(a)  # it has to stay: then the second
    g.output(g.add(a, b, name="again"))
    assert plan_inference(g, inplace="dead").buffer_of["again"] == "b"


def test_a_part_of_a_buffer_is_not_overwritten_as_if_it_were_the_whole():
    g = Graph()
    y = g.conv2d(g.input((1, 1, 2, 2)), 2, 1, name="y")  # 32 bytes
    g.sigmoid(g.slice(y, 1, 0, 1), name="z")  # half of them
    plan = plan_inference(g, inplace="dead")
    assert plan.buffer_of["z"] == "z"
    assert plan.timeline.tolist() == [16, 48, 32, 48]


def test_what_is_alive_is_listed_the_largest_first():
    assert [(b.name, b.nbytes) for b in plan_inference(chain()).live_at(1)] == [("a", 256), ("x", 128)]


def test_buffers_say_when_and_what_they_are():
    plan = plan_inference(chain(), batch=2)
    assert [tuple(b) for b in plan.buffers] == [
        ("x", 256, 0, 2, (2, 2, 4, 4), "float32"),
        ("a", 512, 1, 4, (2, 4, 4, 4), "float32"),  # the ReLU works in it
        ("b", 128, 3, 4, (2, 1, 4, 4), "float32"),
    ]
    assert plan.buffer_of == {"x": "x", "a": "a", "r": "a", "b": "b"}
    assert plan.activation_bytes == 256 + 512 + 128
    assert plan.macs == 2 * (4 * 16 * 2 + 16 * 4)
    assert [b.dtype for b in plan_inference(chain(), dtype="half").buffers] == ["float16"] * 3


def test_outputs_that_share_a_buffer_count_once():
    g = Graph()
    y = g.conv2d(g.input((1, 1, 2, 2)), 2, 1)
    g.output(y, g.flatten(y))
    plan = plan_inference(g)
    assert (plan.input_bytes, plan.output_bytes) == (16, 32)


def test_the_table_by_hand():
    g = Graph()
    x = g.input((1, 2, 4, 4), name="x")
    with g.scope("body"):
        y = g.relu(g.conv2d(x, 2, 1, name="a"), inplace=True, name="r")
        y = g.op("conv2d", y, out_channels=2, kernel_size=1, name="b", tied="body.a")
    y = g.mul(y, g.parameter((2, 1, 1), trainable=False, name="p"), name="m")
    g.linear(g.flatten(y, name="f"), 3, name="fc")
    plan = plan_inference(g, batch=2)
    rows = [(r.step, r.name, r.op, r.scope, r.parameters, r.macs, r.output_bytes, r.live_bytes) for r in plan.ops]
    assert rows == [
        (0, "x", "input", "", 0, 0, 256, 256),
        (1, "body.a", "conv2d", "body", 2 * 2 + 2, 2 * 32 * 2, 256, 512),
        (2, "body.r", "relu", "body", 0, 0, 0, 256),
        (3, "body.b", "conv2d", "body", 0, 2 * 32 * 2, 256, 512),  # shared parameters stand at their first op
        (4, "p", "parameter", "", 2, 0, 0, 256),
        (5, "m", "mul", "", 0, 0, 256, 512),
        (6, "f", "flatten", "", 0, 0, 0, 256),
        (7, "fc", "linear", "", 32 * 3 + 3, 2 * 32 * 3, 2 * 3 * 4, 256 + 24),
    ]
    assert plan.ops[7].input_shapes == ((2, 32),)
    assert plan.ops[7].output_shapes == ((2, 3),)
    assert (plan.parameter_bytes, plan.buffer_bytes) == (4 * (6 + 99), 4 * 2)
    assert [r.name for r in plan_inference(branch(), order=["b", "a", "sum"]).ops] == ["x", "b", "a", "sum"]


def test_one_type_is_that_of_the_weights_too_and_integers_keep_theirs():
    g = Graph()
    x = g.input((1, 2, 4, 4), "uint8", name="image")
    x = g.mul(g.cast(x, "float32"), g.parameter((2, 1, 1), "int64"), name="m")
    x = g.add(x, g.parameter((2, 1, 1), "float64"))
    g.conv2d(x, 1, 1, name="c")
    assert plan_inference(g).weight_bytes == 2 * 8 + 2 * 8 + (2 + 1) * 8  # the sum is float64, so is what reads it
    assert plan_inference(g, dtype="float16").weight_bytes == 2 * 8 + 2 * 2 + 3 * 2
    assert plan_inference(g, dtype="float16").input_bytes == 32
    assert plan_inference(g, weight_dtype="int8").weight_bytes == 2 * 8 + 2 + 3
    assert plan_inference(g, weight_dtype="int8").timeline.tolist() == plan_inference(g).timeline.tolist()
    g = Graph()
    g.conv2d(g.input((1, 2, 4, 4), "uint8"), 1, 1)  # integers in, integers out: the weights are float32
    assert plan_inference(g).weight_bytes == 3 * 4
    with pytest.raises(errors.DTypeError, match="unknown dtype 'int7'"):
        plan_inference(g, weight_dtype="int7")


def test_the_profile_says_whether_to_fuse_and_to_work_in_place_unless_the_caller_does():
    fused, unfused, apart = [128, 384, 320], [128, 384, 256, 320], [128, 384, 512, 320]
    mine = Profile(name="mine", summary="", fuse=True, inplace="never")
    assert plan_inference(chain(), profile=mine).timeline.tolist() == fused
    plan = plan_inference(chain(), profile=mine, fuse=False)
    assert (plan.timeline.tolist(), plan.profile.fuse) == (apart, False)
    plan = plan_inference(chain(), profile=mine, fuse=False, inplace=True)
    assert (plan.timeline.tolist(), plan.profile.inplace) == (unfused, "graph")
    assert plan_inference(chain(), inplace=False).timeline.tolist() == apart
    assert mine.fuse  # a profile is never changed
    assert mine.inplace == "never"


def test_an_order_of_names_may_leave_stored_parameters_out_too():
    g = Graph()
    x = g.input((1, 2, 2, 2), name="x")
    y = g.conv2d(x, 2, 1, name="y")
    g.mul(y, g.parameter((2, 1, 1), name="p"), name="m")
    assert plan_inference(g, order=["y", "m"]).order.tolist() == [0, 2, 1, 3]
    assert plan_inference(g, order=["y", "p", "m"]).order.tolist() == [0, 1, 2, 3]
    with pytest.raises(errors.OrderError, match="has op -1; allowed: 0 to 3"):
        plan_inference(g, order=[0, 1, 2, -1])
    with pytest.raises(errors.OrderError, match="has op 4; allowed: 0 to 3"):
        plan_inference(g, order=[0, 1, 2, 4])


def test_there_is_no_step_before_the_first_or_after_the_last():
    plan = plan_inference(chain())
    assert [b.name for b in plan.live_at(0)] == ["x"]
    assert {b.name for b in plan.live_at(3)} == {"a", "b"}
    for step in (-1, 4):
        with pytest.raises(errors.OrderError, match=f"no step {step}; allowed: 0 to 3"):
            plan.live_at(step)


def test_all_tensors_together_stay_below_2_to_the_62_bytes_exactly():
    g = Graph()
    g.relu(g.input((1, 2**20, 2**15)))  # two tensors of 2**35 elements, taken as 8 bytes each
    plan_inference(g, batch=2**23 - 1)
    with pytest.raises(errors.ShapeError, match=rf"at batch {2**23} can take 4.61e\+18 bytes"):
        plan_inference(g, batch=2**23)


def test_types_per_op_follow_bytes_and_not_names():
    g = Graph()
    y = g.conv2d(g.input((1, 1, 2, 2), name="x"), 4, 1, name="y")  # 16 numbers
    a, b = g.chunk(y, 2, name="cut")
    a = g.relu(a, inplace=True, name="r")
    g.concat([a, b], name="cat")
    as_built = plan_inference(g)
    assert as_built.timeline.tolist() == [16, 16 + 64, 64, 64, 128]
    plan = plan_inference(g, dtype={"y": "int8"})  # the pieces and what works in one of them are y's bytes
    assert plan.timeline.tolist() == [16, 16 + 16, 16, 16, 16 + 64]
    apart = plan_inference(g, dtype={"y": "int8"}, inplace="never")  # here r writes bytes of its own
    assert apart.timeline.tolist() == [16, 32, 16, 16 + 32, 16 + 32 + 64]
    apart = plan_inference(g, dtype={"r": "float16"}, inplace="never")
    assert apart.timeline.tolist() == [16, 80, 64, 64 + 16, 64 + 16 + 64]
    with pytest.raises(errors.DTypeError, match=r"cut \(chunk\) writes no bytes of its own"):
        plan_inference(g, dtype={"cut": "int8"}, inplace="never")


def test_a_batch_may_be_an_integer_of_numpy():
    assert plan_inference(chain(), batch=np.int64(1)).batch == 1
    assert plan_inference(chain(), batch=np.int32(3)).timeline.tolist() == [384, 1152, 768, 960]


@pytest.mark.parametrize("op", ["add", "add_n"])
def test_what_broadcasting_makes_fits_into_none_of_its_inputs(op):
    g = Graph()
    x = g.input((1, 4, 4, 4))  # 256 bytes
    a, b = g.mean(x, (2, 3), True), g.mean(x, 1, True)  # 16 and 64
    g.op(op, a, b)
    plan = plan_inference(g, inplace="dead")
    assert plan.timeline.tolist() == [256, 256 + 16, 256 + 16 + 64, 16 + 64 + 256]
    assert plan.lower_bound == 16 + 64 + 256


# ------------------------------------------------------------------ eager Python


@given(graph=graphs_in_frames(), rules=EAGER, dtype=st.sampled_from([None, "float16", "float64"]))
def test_eager_frames_equal_the_definition(graph, rules, dtype):
    plan = plan_inference(graph, profile=rules, dtype=dtype)
    assert plan.timeline.tolist() == oracle(graph, graph.nodes(), rules, dtype)
    assert plan.activation_peak_bytes == plan.timeline.max()


@given(graph=graphs_in_frames(), rules=EAGER)
def test_eager_plans_pass_the_independent_check(graph, rules):
    verify.check_inference(graph, plan_inference(graph, profile=rules))


@given(graph=graphs_in_frames(), rules=EAGER)
def test_frames_only_ever_keep_more_alive(graph, rules):
    if rules.inplace == "dead":
        return  # what is held cannot be overwritten either
    without = plan_inference(graph, profile=replace(rules, frames=False)).timeline
    assert (plan_inference(graph, profile=rules).timeline >= without).all()


@given(graph=graphs(), rules=EAGER)
def test_without_modules_and_variables_frames_change_nothing(graph, rules):
    without = plan_inference(graph, profile=replace(rules, frames=False))
    plan = plan_inference(graph, profile=rules)
    assert plan.timeline.tolist() == without.timeline.tolist()
    assert plan.buffers == without.buffers


def modules():
    g = Graph("modules")
    x = g.input((1, 2, 2, 2), name="x")  # 32 bytes, like everything here
    x = g.conv2d(x, 2, 1, name="stem")
    with g.scope("block"):
        y = g.conv2d(x, 2, 1, name="a")
        with g.scope("deep"):
            y = g.conv2d(y, 2, 1, name="b")
            y = g.conv2d(y, 2, 1, name="c")
        y = g.conv2d(y, 2, 1, name="d")
    g.conv2d(y, 2, 1, name="head")
    return g


def test_a_module_keeps_what_it_was_given_until_it_returns():
    plan = plan_inference(modules(), profile="torch")
    # The caller keeps x and block keeps stem; deep keeps what a wrote, through c.
    assert {b.name: (b.born, b.dead) for b in plan.buffers} == {
        "x": (0, 7), "stem": (1, 6), "block.a": (2, 5), "block.deep.b": (3, 5), "block.deep.c": (4, 6),
        "block.d": (5, 7), "head": (6, 7),
    }  # fmt: skip
    assert plan.timeline.tolist() == [32, 64, 96, 128, 160, 128, 96]
    assert plan_inference(modules(), profile="torch_fx").timeline.tolist() == [32, 64, 96, 96, 96, 96, 96]
    assert plan.profile.frames
    assert not plan.optimal
    assert plan.lower_bound == 96  # x, which the caller keeps, and what one op reads and writes


def test_a_python_variable_keeps_a_tensor_as_long_as_it_is_said_to():
    g = modules()
    g.hold(g.tensors_of("stem")[0], until="block.a")  # as if the caller had moved it into the module
    g.hold(g.tensors_of("block.deep.b")[0], until="head")
    plan = plan_inference(g, profile="torch")
    lives = {b.name: (b.born, b.dead) for b in plan.buffers}
    assert (lives["stem"], lives["block.deep.b"]) == ((1, 3), (3, 7))
    assert plan_inference(g, profile="torch_fx").timeline.tolist() == [32, 64, 96, 96, 96, 96, 96]


def test_a_held_view_holds_the_bytes_that_it_looks_at():
    g = Graph()
    y = g.conv2d(g.input((1, 2, 2, 2), name="x"), 2, 1, name="y")
    flat = g.flatten(y, name="flat")
    z = g.linear(flat, 1, name="z")
    g.hold(flat, until=g.sigmoid(z, name="last"))
    lives = {b.name: (b.born, b.dead) for b in plan_inference(g, profile="torch").buffers}
    assert lives["y"] == (1, 5)


def test_what_python_holds_is_not_overwritten():
    g = Graph()
    y = g.conv2d(g.input((1, 2, 2, 2), name="x"), 2, 1, name="y")
    z = g.sigmoid(y, name="z")
    mine = Profile("mine", "", inplace="dead", frames=True)
    assert plan_inference(g, profile=mine).buffer_of["z"] == "y"
    g.hold(y, until=g.sigmoid(z, name="last"))
    plan = plan_inference(g, profile=mine)
    assert plan.buffer_of == {"x": "x", "y": "y", "z": "z", "last": "z"}
    verify.check_inference(g, plan)


def test_python_frames_are_those_of_the_program():
    g = branch()
    assert plan_inference(g, profile="torch", order=["x", "a", "b", "sum"]).order.tolist() == [0, 1, 2, 3]
    with pytest.raises(errors.OrderError, match="moves b, and the Python frames of profile 'torch' are those of"):
        plan_inference(g, profile="torch", order=["x", "b", "a", "sum"])


def test_a_fused_net_has_frames_too():
    g = Graph()
    x = g.input((1, 2, 2, 2), name="x")
    with g.scope("m"):
        y = g.batch_norm2d(g.conv2d(x, 2, 1, name="a"), name="n")
        y = g.conv2d(y, 2, 1, name="b")
    plan = plan_inference(g, profile=replace(PROFILES["torch"], keeps_inputs=False), fuse=True)
    assert {b.name: (b.born, b.dead) for b in plan.buffers} == {"x": (0, 3), "m.a+n": (1, 3), "m.b": (2, 3)}


class Changed:
    """A plan with some of its properties replaced."""

    def __init__(self, plan, **changes):
        self._plan, self._changes = plan, changes

    def __getattr__(self, name):
        return self._changes[name] if name in self._changes else getattr(self._plan, name)


def test_the_check_sees_what_dies_too_early_or_is_overwritten_while_held():
    g = modules()
    plan = plan_inference(g, profile="torch")
    verify.check_inference(g, plan)
    early = tuple(b._replace(dead=5) if b.name == "stem" else b for b in plan.buffers)
    with pytest.raises(verify.VerificationError, match="Python holds stem through step 5, and stem dies at 5"):
        verify.check_inference(g, Changed(plan, buffers=early))
    ordered = plan_inference(branch(), order=["x", "b", "a", "sum"])
    with pytest.raises(verify.VerificationError, match="'torch' is of the program's order"):
        verify.check_inference(branch(), Changed(ordered, profile=PROFILES["torch"]))
    g = Graph()
    y = g.conv2d(g.input((1, 2, 2, 2), name="x"), 2, 1, name="y")
    g.sigmoid(g.sigmoid(y, name="z"), name="last")
    mine = Profile("mine", "", inplace="dead", frames=True)
    plan = plan_inference(g, profile=mine)
    g.hold(y, until="last")
    with pytest.raises(verify.VerificationError, match="z takes over the bytes of y, which a Python frame still holds"):
        verify.check_inference(g, plan)


# ------------------------------------------------------------------ measured in PyTorch

TRUTH = json.loads((Path(__file__).parent / "data" / "torch_fx_inference.json").read_text(encoding="utf-8"))
MEASURED = TRUTH["nets"]


@pytest.mark.parametrize("name", MEASURED)
def test_torch_fx_equals_what_pytorch_was_measured_to_hold(name):
    graph = cnnlive.zoo.load(name, resolution=MEASURED[name]["resolution"])
    for batch, nbytes in MEASURED[name]["activation_peak_bytes"].items():
        assert plan_inference(graph, batch=int(batch), profile="torch_fx").activation_peak_bytes == nbytes


@pytest.mark.parametrize("name", TRUTH["peak_bytes_at_batch_1"])
def test_torch_fx_weights_are_what_pytorch_holds_too(name):
    plan = plan_inference(cnnlive.zoo.load(name, resolution=224), profile="torch_fx")
    assert plan.peak_bytes == TRUTH["peak_bytes_at_batch_1"][name]


EAGER_TRUTH = json.loads((Path(__file__).parent / "data" / "torch_eager_inference.json").read_text(encoding="utf-8"))
FAMILIES = {}
for net in EAGER_TRUTH["nets"]:
    FAMILIES.setdefault(cnnlive.zoo._FAMILY_OF[net], []).append(net)


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_equals_what_pytorch_was_measured_to_hold(family):
    for name in FAMILIES[family]:
        measured = EAGER_TRUTH["nets"][name]
        graph = cnnlive.zoo.load(name, resolution=measured["resolution"])
        for batch, nbytes in measured["activation_peak_bytes"].items():
            plan = plan_inference(graph, batch=int(batch), profile="torch")
            assert plan.activation_peak_bytes == nbytes, (name, batch)


def test_every_net_of_torchvision_was_measured_eagerly():
    counts = json.loads((Path(__file__).parent / "data" / "torchvision_counts.json").read_text(encoding="utf-8"))
    assert set(counts["nets"]) <= set(EAGER_TRUTH["nets"])
    assert set(EAGER_TRUTH["nets"]) - set(counts["nets"]) == {"deeplabv3_resnet50", "fcn_resnet50"}
