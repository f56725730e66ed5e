"""The inference planner against its definition, brute force, hand-derived and published figures."""

import json
from itertools import pairwise
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs, graphs_and_orders

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


def oracle(graph, order, rules, dtype=None):
    return naive.timeline(
        graph,
        order,
        inplace=rules.inplace,
        keeps_inputs=rules.keeps_inputs,
        pool_indices=rules.pool_indices,
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
    with pytest.raises(errors.OrderError, match="'program' or a sequence"):
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
    with pytest.raises(errors.UnknownProfileError, match="'tpu'; allowed: ideal, torch_fx"):
        plan_inference(g, profile="tpu")
    with pytest.raises(errors.GraphError, match="allowed: 'graph', 'dead', 'never'"):
        plan_inference(g, inplace="always")
    with pytest.raises(errors.GraphError, match="neither a Graph nor a Lowered"):
        plan_inference("resnet50")
    assert set(PROFILES) == {"ideal", "torch_fx"}


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
