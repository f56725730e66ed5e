"""Lowering and fusion."""

import pickle

import naive
import numpy as np
import pytest
from hypothesis import given
from strategies import graphs, graphs_in_frames

import cnnlive
from cnnlive import Graph, errors, lower, plan_inference


def test_a_graph_is_lowered_once_and_again_after_a_change():
    g = Graph()
    x = g.input((1, 3))
    net = lower(g)
    assert lower(g) is net
    assert lower(net) is net
    g.linear(x, 4)
    assert lower(g) is not net
    assert (lower(g).n_ops, net.n_ops) == (2, 1)


def test_marking_an_output_is_a_change():
    g = Graph()
    x = g.input((1, 8))
    y = g.linear(x, 8)
    g.linear(y, 1)
    assert plan_inference(g).timeline.tolist() == [32, 64, 36]
    g.output(x, y)
    assert plan_inference(g).timeline.tolist() == [32, 64, 68]


def test_an_empty_graph_is_an_error():
    with pytest.raises(errors.LoweringError, match="no ops"):
        lower(Graph())


@given(graph=graphs())
def test_lowered_arrays_say_what_the_graph_says(graph):
    net = lower(graph)
    assert list(net.op_names) == graph.nodes()
    assert [net.tensor_name(t) for t in range(net.n_tensors)] == [
        t.name for n in graph.nodes() for t in graph.tensors_of(n)
    ]
    for op, name in enumerate(graph.nodes()):
        read = net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]]
        assert [net.tensor_name(t) for t in read] == [t.name for t in graph.inputs_of(name)]
    assert {net.tensor_name(t) for t in net.is_output.nonzero()[0]} == {t.name for t in graph.outputs}


def block(bias=False, **after):
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, bias=bias, name="conv")
    x = g.batch_norm2d(x, name="bn")
    x = g.relu(x, name="relu", **after)
    g.linear(g.flatten(x), 10, name="fc")
    return g


def test_convolution_norm_and_activation_become_one_op():
    fused = lower(block()).fused()
    assert fused.op_names == ("input", "conv+bn+relu", "flatten", "fc")
    assert fused.n_parameters == 3 * 4 * 9 + 4 + 4 * 36 * 10 + 10  # the norm leaves a bias
    assert fused.n_buffers == 0
    assert fused.macs() == lower(block()).macs()
    assert lower(block(bias=True)).fused().n_parameters == fused.n_parameters
    assert plan_inference(block(), fuse=True).timeline.tolist() == [768, 768 + 576, 576, 576 + 40]
    assert fused.fused().op_names == fused.op_names


def test_what_somebody_else_reads_is_not_fused_away():
    g = Graph()
    conv = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="conv")
    g.add(g.batch_norm2d(conv, name="bn"), conv, name="sum")
    assert lower(g).fused().op_names == ("input", "conv", "bn", "sum")
    g = Graph()
    conv = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="conv")
    g.relu(conv, name="relu")
    g.output(conv)
    assert lower(g).fused().op_names == ("input", "conv", "relu")


def test_a_norm_without_running_statistics_is_not_folded():
    g = Graph()
    conv = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="conv")
    g.relu(g.batch_norm2d(conv, track_running_stats=False, name="bn"), name="relu")
    assert lower(g).fused().op_names == ("input", "conv", "bn", "relu")


def test_an_activation_ends_the_chain():
    g = Graph()
    x = g.relu(g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="conv"), name="relu")
    g.sigmoid(g.batch_norm2d(x, name="bn"), name="last")
    assert lower(g).fused().op_names == ("input", "conv+relu", "bn", "last")


@given(graph=graphs())
def test_fusing_changes_no_shape_and_never_needs_more(graph):
    net, fused = lower(graph), lower(graph).fused()
    assert fused.macs() == net.macs()
    names = [n for name in fused.op_names for n in name.split("+")]
    assert sorted(n.rpartition(".")[2] for n in graph.nodes()) == sorted(n.rpartition(".")[2] for n in names)
    kept = {fused.tensor_name(t).partition("+")[0]: fused.shape(t) for t in range(fused.n_tensors)}
    for name in graph.nodes():
        if name in kept:
            assert kept[name] == graph.tensors_of(name)[0].shape
    never = {"inplace": "never"}
    assert (
        plan_inference(graph, fuse=True, **never).activation_peak_bytes
        <= plan_inference(graph, **never).activation_peak_bytes
    )


def test_fused_names_serve_as_an_order():
    plan = plan_inference(block(), fuse=True, order=["conv+bn+relu", "flatten", "fc"])
    assert plan.order.tolist() == [0, 1, 2, 3]


def test_a_reshape_to_literal_sizes_names_itself_at_another_batch():
    g = Graph()
    x = g.input((1, 4, 2))
    g.reshape(x, (2, 4), name="merge")
    with pytest.raises(errors.ShapeError, match=r"merge \(reshape\) at batch 3: .* fits one batch only"):
        plan_inference(g, batch=3)
    plan_inference(g)


def test_many_batches_do_not_pile_up():
    net = lower(block())
    for batch in range(1, 40):
        assert net.sizes_at(batch).numel[0] == batch * 3 * 64
    assert len(net._cache["sizes"]) <= 8


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "unet", "darts_v2", "shufflenet_v2_x0_5"])
def test_real_nets_equal_the_oracles(name):
    graph = cnnlive.zoo.load(name)
    net = lower(graph)
    assert (net.n_parameters, net.n_buffers, int(net.counts[:, 4].sum())) == naive.weight_elements(graph)
    assert net.macs() == naive.macs(graph)
    for mode in ("graph", "dead", "never"):
        assert plan_inference(graph, inplace=mode).timeline.tolist() == naive.timeline(
            graph, graph.nodes(), inplace=mode
        )


def test_pickled_copies_plan_the_same_on_read_only_arrays():
    g = block()
    plan = plan_inference(g, profile="torch_fx", batch=2)
    for copy in (pickle.loads(pickle.dumps(g)), pickle.loads(pickle.dumps(lower(g)))):
        again = plan_inference(copy, profile="torch_fx", batch=2)
        assert again.timeline.tolist() == plan.timeline.tolist()
        assert again.weight_bytes == plan.weight_bytes
    net, thawed = pickle.loads(pickle.dumps(lower(g))), pickle.loads(pickle.dumps(plan))
    for columns in (net, net.sizes, thawed, thawed._lives):
        arrays = [a for f in type(columns).__slots__ if isinstance(a := getattr(columns, f), np.ndarray)]
        assert len(arrays) > 2
        assert not any(a.flags.writeable for a in arrays)
    assert net._cache.keys() <= {"weight_dtype"}
    assert thawed.to_dict() == plan.to_dict()


def test_all_parameters_together_stay_below_2_to_the_62_bytes_exactly():
    def wide(out):
        g = Graph()
        g.linear(g.input((1, 2**30)), out, bias=False)
        return g

    assert lower(wide(2**29 - 1)).n_parameters == 2**30 * (2**29 - 1)
    with pytest.raises(errors.LoweringError, match=r"parameters together take 2\*\*62 bytes or more"):
        lower(wide(2**29))  # 2**59 numbers of 8 bytes


def test_columns_by_hand():
    g = Graph()
    x = g.input((3, 2, 4, 4), name="x")
    p = g.parameter((2, 1, 1), "float16", name="p")
    y = g.conv2d(x, 2, 1, name="c")
    y = g.relu(g.batch_norm2d(y, name="n"), inplace=True, name="r")
    y = g.mul(y, p, name="m")
    y = g.prelu(y, name="q")
    pooled = g.max_pool2d(y, 2, name="pool")
    z, _ = g.max_pool2d_with_indices(y, 2, name="with")
    a, b = g.chunk(g.add(pooled, z, name="sum"), 2, name="cut")
    g.concat([b, a], name="cat")
    net = lower(g)
    columns = {n: i for i, n in enumerate(net.op_names)}
    assert {n: int(net.alias[i]) for n, i in columns.items()} == {
        "x": 0, "p": 0, "c": 0, "n": 3, "r": 2, "m": 4, "q": 3, "pool": 0, "with": 0, "sum": 4, "cut": 1, "cat": 0,
    }  # fmt: skip
    assert {n: int(net.fold[i]) for n, i in columns.items() if net.fold[i]} == {"c": 1, "n": 2, "r": 3}
    assert {n: int(net.index_bytes[i]) for n, i in columns.items() if net.index_bytes[i]} == {"pool": 8}
    names = [net.tensor_name(t) for t in range(net.n_tensors)]
    assert names == ["x", "p", "c", "n", "r", "m", "q", "pool", "with", "with:1", "sum", "cut", "cut:1", "cat"]
    assert net.kind.tolist() == [1, 2] + [0] * 12
    assert net.reads.tolist() == [1, 1, 1, 1, 1, 1, 2, 1, 1, 0, 1, 1, 1, 0]
    assert net.is_output.tolist() == [0] * 13 + [1]  # indices that nobody reads are no output
    assert net.producer.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 10, 11]
    assert net.batch == 3
    assert net.macs() == net.macs(3) == 3 * 32 * 2
    assert net.macs(5) == 5 * 32 * 2


def test_a_net_without_inputs_has_a_batch_of_one():
    g = Graph()
    g.relu(g.parameter((4, 2)))
    assert lower(g).batch == 1
    assert plan_inference(g, batch=7).activation_peak_bytes == 4 * 2 * 4


def test_only_ops_that_read_the_bytes_have_to_run_before_one_that_overwrites_them():
    g = Graph()
    y = g.conv2d(g.input((1, 2, 2, 2), name="x"), 2, 1, name="y")
    flat = g.flatten(y, name="flat")
    g.linear(flat, 1, name="a")
    g.tanh(y, name="b")
    g.relu(y, inplace=True, name="r")
    net = lower(g)
    before = {
        net.op_names[i]: [net.op_names[b] for b in net.before_idx[net.before_ptr[i] : net.before_ptr[i + 1]]]
        for i in range(net.n_ops)
    }
    assert {n: sorted(rows) for n, rows in before.items() if rows} == {"r": ["a", "b"]}


def test_the_last_few_batches_are_kept():
    net = lower(block())
    assert net.sizes_at(net.batch) is net.sizes
    three = net.sizes_at(3)
    for batch in range(10, 17):
        net.sizes_at(batch)
    assert net.sizes_at(3) is three


def test_an_order_may_put_a_view_that_nobody_reads_anywhere():
    g = Graph()
    y = g.conv2d(g.input((1, 2, 2, 2), name="x"), 2, 1, name="y")
    g.flatten(y, name="unread")
    r = g.relu(y, inplace=True, name="r")
    g.output(r)
    for order in (["y", "unread", "r"], ["y", "r", "unread"]):
        assert plan_inference(g, order=order).activation_peak_bytes == 2 * 32


@pytest.mark.parametrize("bias", [False, True])
def test_a_shared_convolution_takes_a_bias_of_its_own_from_each_norm(bias):
    g = Graph()
    x = g.input((1, 4, 2, 2))
    for name, tied in (("a", None), ("b", "a")):
        y = g.op("conv2d", x, out_channels=4, kernel_size=1, bias=bias, name=name, tied=tied)
        g.batch_norm2d(y, name=f"{name}_norm")
    net = lower(g)
    assert (net.n_parameters, net.n_buffers) == (16 + 4 * bias + 2 * (4 + 4), 2 * 8)
    assert (net.fused().n_parameters, net.fused().n_buffers) == (16 + 2 * 4, 0)


def test_what_a_folded_norm_held_stays_with_those_that_share_it():
    g = Graph()
    x = g.input((1, 4, 2, 2))
    y = g.batch_norm2d(g.conv2d(x, 4, 1, bias=False), name="folds")
    y = g.op("batch_norm2d", g.relu(y), name="second", tied="folds")
    g.op("batch_norm2d", g.sigmoid(y), name="third", tied="folds")
    net = lower(g)
    assert (net.n_parameters, net.n_buffers) == (16 + 8, 8)
    # The convolution gets a bias of its own; what "second" and "third" share is still there, once.
    fused = net.fused()
    assert (fused.n_parameters, fused.n_buffers) == (16 + 4 + 8, 8)
    assert {fused.op_names[op]: fused.op_names[holder] for op, _, holder in fused.tied.tolist()} == {"third": "second"}
    assert fused.fused().n_parameters == fused.n_parameters


# ------------------------------------------------------------------ Python frames


def frames(g):
    net = lower(g)
    return {net.tensor_name(t): net.op_names[op] for t, op in enumerate(net.frames().tolist())}


@given(graph=graphs_in_frames())
def test_frames_equal_the_definition(graph):
    held = naive.held_through(graph)
    assert frames(graph) == {
        t.name: held.get((n, t.output), n)
        for n in graph.nodes()
        for t in graph.tensors_of(n)
    }  # fmt: skip


@given(graph=graphs())
def test_without_modules_a_tensor_is_held_through_its_last_reader(graph):
    net = lower(graph)
    last = net.producer.copy()
    for op in range(net.n_ops):
        last[net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]]] = op
    assert net.frames().tolist() == last.tolist()
    columns = net.in_ptr, net.in_idx, net.reads
    assert all(a.tolist() == b.tolist() for a, b in zip(net.held_reads(), columns, strict=True))


def unary(g, x, *names):
    for name in names:
        x = g.sigmoid(x, name=name)
    return x


def test_a_call_ends_where_an_op_of_another_module_runs():
    g = Graph()
    x = unary(g, g.input((1, 2), name="x"), "y")
    with g.scope("m"):
        a = unary(g, x, "a", "b")
    c = unary(g, a, "c")
    with g.scope("m"):  # the second call
        unary(g, g.add(x, c, name="d"), "e", "f")
    assert frames(g) == {
        "x": "y", "y": "m.f", "m.a": "m.b", "m.b": "c", "c": "m.f", "m.d": "m.e", "m.e": "m.f", "m.f": "m.f",
    }  # fmt: skip


def test_calls_without_anything_between_need_paths_of_their_own():
    def twice(second):
        g = Graph()
        x = unary(g, g.input((1, 2), name="x"), "y")
        with g.scope("m"):
            x = unary(g, x, "a", "b")
        with g.scope(second):
            unary(g, x, "c", "d")
        return frames(g)

    assert (twice("m")["y"], twice("m")["m.b"]) == ("m.d", "m.c")
    assert (twice("m@1")["y"], twice("m@1")["m.b"]) == ("m.b", "m@1.d")


def test_the_outermost_call_that_was_given_a_tensor_holds_it():
    g = Graph()
    x = g.input((1, 2), name="x")
    with g.scope("outer"):
        y = unary(g, x, "y")
        with g.scope("inner"):
            z = g.add(unary(g, y, "z"), x, name="sum")
            g.parameter((2,), name="weight")
            g.input((1, 2), name="other")
            z = unary(g, z, "last")
        unary(g, z, "end")
    assert frames(g) == {
        "x": "outer.end", "outer.y": "outer.inner.last", "outer.inner.z": "outer.inner.sum",
        "outer.inner.sum": "outer.inner.last", "outer.inner.weight": "outer.inner.weight",
        "outer.inner.other": "outer.inner.other", "outer.inner.last": "outer.end", "outer.end": "outer.end",
    }  # fmt: skip


def test_what_the_graph_says_takes_the_place_of_the_rule():
    g = Graph()
    x = unary(g, g.input((1, 2), name="x"), "y")
    with g.scope("m"):
        z = unary(g, x, "a", "b")
        g.add(z, x, name="sum")
        unary(g, z, "c")
    last = unary(g, z, "d", "last")
    assert (frames(g)["y"], frames(g)["m.a"]) == ("m.c", "m.b")
    g.hold(x, until="m.a")  # but its readers keep it
    g.hold(g.tensors_of("m.a")[0], until=last)
    assert (frames(g)["y"], frames(g)["m.a"]) == ("m.sum", "last")
    net = lower(g)
    in_ptr, in_idx, reads = net.held_reads()
    a = net.op_names.index("m.a")
    assert in_idx[in_ptr[-2] : in_ptr[-1]].tolist() == [net.n_tensors - 2, a]
    assert reads.tolist() == [n + (t == a) for t, n in enumerate(net.reads.tolist())]
    assert net.holds.tolist() == [[1, 2], [2, 7]]
    assert pickle.loads(pickle.dumps(net)).frames().tolist() == net.frames().tolist()
    assert not net.frames().flags.writeable


def test_fusion_keeps_holds_of_what_is_still_written():
    g = Graph()
    y = g.conv2d(g.input((1, 3, 8, 8), name="x"), 4, 3, name="a")
    z = g.batch_norm2d(y, name="n")
    w = g.conv2d(z, 4, 3, name="b")
    v = g.relu(g.batch_norm2d(w, name="o"), name="r")
    g.hold(y, until=v)  # written no more
    g.hold(z, until=v)
    net = lower(g).fused()
    assert net.op_names == ("x", "a+n", "b+o+r")
    assert net.holds.tolist() == [[1, 2]]
    assert net.frames().tolist() == [1, 2, 2]


def test_what_is_not_trained_is_not_trained_wherever_it_is_shared():
    g = Graph()
    x = g.input((1, 4, 8, 8), name="x")
    for name, tied in (("a", None), ("b", "a"), ("c", {"weight": "b"}), ("d", None)):
        x = g.op("conv2d", x, out_channels=4, kernel_size=1, name=name, tied=tied)
    g.batch_norm2d(x, name="n")
    assert lower(g).frozen.tolist() == [[0] * 4] * 6
    g.freeze("c", "n")
    neither, weight, both = [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]
    assert lower(g).frozen.tolist() == [neither, weight, weight, both, neither, both]
    assert lower(g).fused().frozen.tolist() == [neither, weight, weight, both, neither]
