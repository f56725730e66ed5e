"""Cost models: against counts by hand on small nets, the definition record by record, and measured times."""

import io
import json
import math
import pickle
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import training_graphs

from cnnlive import Graph, lower, zoo
from cnnlive.errors import ReadError, RematError, ShapeError
from cnnlive.plan.costs import (
    GPUS,
    Costs,
    Flops,
    Measured,
    OpTime,
    Roofline,
    read_cost_model,
    read_costs,
    work_of,
)
from cnnlive.plan.training import plan_training

DATA = Path(__file__).parents[2] / "shared" / "data" / "checkpointing" / "monet_zoo"
PAGE = Path(__file__).parents[1] / "docs" / "costs.md"


def tape_of(graph, batch=1, **options):
    plan = plan_training(graph, batch=batch, **options)
    return plan.network, plan.tape


def work(graph, batch=1, **options):
    """Return bytes and products of each record: {(op, PyTorch's op): (forward, backward)}, twice."""
    net, tape = tape_of(graph, batch, **options)
    w = work_of(net, tape, batch)
    names = [("loss" if op < 0 else net.op_names[op], name) for op, name in tape.records]
    assert len(set(names)) == len(names)
    moved = zip(w.forward_bytes.tolist(), (w.backward_bytes + w.sum_bytes).tolist(), strict=True)
    products = zip(w.forward_macs.tolist(), w.backward_macs.tolist(), strict=True)
    return dict(zip(names, moved, strict=True)), dict(zip(names, products, strict=True))


def small():
    """Convolution, batch norm, ReLU in place, a residual convolution, pool, classifier; names are short."""
    g = Graph("small")
    x = g.input((1, 3, 8, 8))
    x = g.conv2d(x, 4, 3, padding=1, name="first")
    x = g.batch_norm2d(x, name="norm")
    x = g.relu(x, inplace=True, name="relu")
    y = g.conv2d(x, 4, 1, bias=False, name="second")
    x = g.add(y, x, name="add")
    x = g.max_pool2d(x, 2, name="pool")
    x = g.flatten(x, name="flat")
    g.output(g.linear(x, 5, name="head"))
    return g


# ---------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_small_net_reads_writes_and_multiplies_what_it_does_by_hand(batch):
    moved, products = work(small(), batch)
    m = 4 * batch * 4 * 8 * 8  # bytes of a map of four channels
    x, p, index, score = 4 * batch * 3 * 8 * 8, m // 4, 8 * batch * 4 * 4 * 4, 4 * batch * 5
    w1, w2, w3, vector = 4 * 4 * 3 * 9, 4 * 4 * 4, 4 * 5 * 64, 4 * 4
    one = 4
    assert moved == {
        # reads the image, weight and bias; backward has the products of the weight alone, and a sum for the bias
        ("first", "conv2d"): (x + w1 + vector + m, x + w1 + m + w1 + vector),
        # reads its input twice, writes it and two vectors; the four vectors that it holds are read
        ("norm", "batch_norm2d"): (2 * m + m + 6 * vector, 2 * (m + 2 * vector) + 2 * m + m + 2 * vector),
        ("relu", "relu_"): (2 * m, 3 * m),
        # two products backward read the gradient, then, beside them, that of the branch is added: two reads and a write
        ("second", "conv2d"): (2 * m + w2, m + w2 + 2 * m + m + w2 + 3 * m),
        ("add", "add"): (3 * m, 0),
        ("pool", "max_pool2d"): (m + p + index, m + index + p + m),
        ("flat", "flatten"): (0, 0),
        # the gradient of the bias is the sum of that which comes in
        ("head", "addmm"): (p + w3 + 20 + score, p + w3 + 2 * score + p + w3 + (score + 20 if batch > 1 else 0)),
        ("loss", "_log_softmax"): (2 * score, 3 * score),
        ("loss", "nll_loss_forward"): (score + 2 * one + 8 * batch, score + one + one + score),
    }
    macs = {"first": 64 * 4 * 27, "second": 64 * 16, "head": 5 * 64}
    assert products == {
        (op, name): (batch * macs.get(op, 0), batch * macs.get(op, 0) * (1 if op == "first" else 2))
        for op, name in products
    }


def test_models_price_the_same_work():
    net, tape = tape_of(small(), 8)
    w = work_of(net, tape, 8)
    forward, backward = Roofline(1e9, 1e9).of(net, tape, 8)
    assert forward.tolist() == np.maximum(2 * w.forward_macs, w.forward_bytes).tolist()
    assert backward.tolist() == (np.maximum(2 * w.backward_macs, w.backward_bytes) + w.sum_bytes).tolist()
    # one element each where there is no product
    forward, backward = Flops().of(net, tape, 1024)
    m = 1024 * 4 * 64 / 1000
    assert forward.tolist()[:7] == [round(2 * 27 * m), *map(round, (m, m, 2 * 4 * m, m, m / 4, 0))]
    assert backward.tolist()[:7] == [round(2 * 27 * m), *map(round, (m, m, 4 * 4 * m, 0, m / 4, 0))]


def test_what_runs_costs_something_and_views_nothing():
    net, tape = tape_of(small())
    for model in (Flops(), Roofline(), Roofline(1e30, 1e30)):
        forward, backward = model.of(net, tape, 1)
        assert forward.dtype == backward.dtype == np.int64
        idle = [name == "flatten" for _, name in tape.records]
        assert ((forward == 0) == idle).all()
        assert backward[[name in ("add", "flatten") for _, name in tape.records]].tolist() == [0, 0]
        assert (backward > 0).sum() == tape.n_records - 2


def test_a_first_convolution_makes_one_product_backward_unless_the_image_takes_a_gradient():
    _, products = work(small())
    forward, backward = products["first", "conv2d"]
    assert backward == forward
    before = work(small())[0]["first", "conv2d"]
    moved, products = work(small(), input_gradients=True)
    assert products["first", "conv2d"] == (forward, 2 * forward)
    # the gradient comes in once more, the weight is read, the gradient of the image written
    weight, vector, image, m = 4 * 108, 16, 4 * 192, 4 * 256
    assert before == (image + weight + vector + m, m + image + weight + weight + vector)
    assert moved["first", "conv2d"] == (before[0], before[1] + m + image)
    net, tape = tape_of(small(), input_gradients=True, precision="autocast")
    w = work_of(net, tape, 1)
    at = [
        k for k, (op, name) in enumerate(tape.records) if name == "_to_copy" and tape.edge_value[tape.edge_ptr[k]] == 0
    ]
    assert w.backward_bytes[at].tolist() == [image + image // 2]


def test_frozen_layers_make_no_products_for_their_weights():
    moved, products = work(small(), frozen_layers=["first", "norm", "second"])
    forward, backward = products["first", "conv2d"]
    assert (forward, backward) == (64 * 4 * 27, 0)
    assert moved["first", "conv2d"] == (4 * (3 * 64 + 4 * 27 + 4 + 4 * 64), 0)
    assert products["second", "conv2d"] == (64 * 16, 0)
    g = small()
    moved, products = work(g, frozen_layers=["second"])
    assert products["second", "conv2d"] == (64 * 16, 64 * 16)


def test_a_bias_alone_is_a_sum_and_no_product():
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="first")
    g.output(g.op("conv2d", x, out_channels=4, kernel_size=1, frozen=("weight",), name="second"))
    for options in ({}, {"precision": "autocast"}):
        net, tape = tape_of(g, loss="mse", **options)
        at = [k for k, (op, name) in enumerate(tape.records) if op == 2 and name == "conv2d"]
        macs = 36 * 16
        w = work_of(net, tape, 1)
        assert (w.forward_macs[at].tolist(), w.backward_macs[at].tolist()) == ([macs], [macs])


def test_autocast_casts_and_halves_what_is_read():
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, padding=1, bias=False, name="first")
    g.output(g.conv2d(x, 4, 3, padding=1, bias=False, name="second"))
    net, tape = tape_of(g, precision="autocast", loss="mse")
    w = work_of(net, tape, 1)
    rows = [(net.op_names[op], name) for op, name in tape.records if op >= 0]
    image, weight, m = 2 * 3 * 64, 2 * 4 * 27, 2 * 4 * 64
    assert rows[:3] == [("first", "_to_copy"), ("first", "_to_copy"), ("first", "conv2d")]
    assert sorted(w.forward_bytes[:2].tolist()) == sorted([3 * weight, 3 * image])
    assert w.forward_bytes[2] == image + weight + m
    # the first has the product of its weight alone, and reads the cast image; the second holds its cast weight
    at = [k for k, (_, name) in enumerate(tape.records) if name == "conv2d"]
    weight2 = 2 * 4 * 36
    assert w.backward_bytes[at].tolist() == [image + weight + m + weight, m + weight2 + 2 * m + m + weight2]


def test_parts_of_a_tensor_count_as_parts():
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 8, 1, name="stem")
    left, right = g.chunk(x, 2, name="chunk")
    left = g.relu(left, name="relu")
    g.output(g.concat([left, right], name="cat"))
    moved, _ = work(g, loss="mse")
    half = 4 * 4 * 64
    assert moved["relu", "relu"] == (2 * half, 3 * half)
    assert moved["cat", "cat"] == (4 * half, 0)
    # the halves' gradients are joined
    assert moved["chunk", "chunk"] == (0, 4 * half)


def test_both_halves_are_the_whole():
    g = Graph()
    left, right = g.chunk(g.conv2d(g.input((1, 3, 8, 8)), 8, 1, name="stem"), 2, name="chunk")
    g.output(g.mul(left, right, name="mul"))
    half = 4 * 4 * 64
    assert work(g, loss="mse")[0]["mul", "mul"] == (3 * half, 2 * half + half + 2 * half)


def test_a_gradient_that_lies_another_way_than_its_weight_is_copied():
    g = Graph()
    x = g.permute(g.linear(g.input((1, 8, 8, 3)), 4, name="stem"), (0, 3, 1, 2), name="permute")
    g.output(g.conv2d(x, 4, 3, padding=1, bias=False, name="conv"))
    moved, _ = work(g, loss="mse")
    m, w = 4 * 4 * 64, 4 * 4 * 36
    assert moved["conv", "conv2d"] == (2 * m + w, m + w + 2 * m + m + w + 2 * w)


def test_computed_weights_are_tensors_that_are_read():
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, padding=1, bias=False, name="stem")
    weight = g.reshape(
        g.linear(g.flatten(g.global_avg_pool2d(x, name="pool"), name="flat"), 16, name="make"),
        (4, 4, 1, 1),
        name="weight",
    )
    bias = g.reshape(
        g.linear(g.flatten(g.global_avg_pool2d(x, name="pool2"), name="flat2"), 4, name="make2"), (4,), name="bias"
    )
    g.output(g.op("conv2d", x, weight, bias, out_channels=4, kernel_size=1, name="conv"))
    moved, products = work(g, loss="mse")
    m, w, v = 4 * 4 * 64, 64, 16
    assert products["conv", "conv2d"] == (16 * 64, 2 * 16 * 64)
    # the gradient of the stem's map is the third that is made of it, and the first to come
    assert moved["conv", "conv2d"] == (2 * m + w + v, m + w + 2 * m + m + w + v)


def test_what_overwrites_the_image_runs():
    g = Graph()
    x = g.relu(g.input((1, 3, 8, 8)), inplace=True, name="relu")
    g.output(g.conv2d(x, 4, 1, bias=False, name="conv"))
    moved, _ = work(g, loss="mse")
    image, m, w = 4 * 3 * 64, 4 * 4 * 64, 4 * 12
    assert moved["relu", "relu_"] == (2 * image, 0)
    assert moved["conv", "conv2d"] == (image + m + w, image + m + w + w)


def test_constants_and_trained_parameters_are_read_once():
    for trainable in (False, True):
        g = Graph()
        x = g.conv2d(g.input((1, 3, 8, 8)), 4, 1, bias=False, name="conv")
        p = g.parameter((1, 4, 1, 1), trainable=trainable, name="scale")
        g.output(g.mul(x, p, name="mul"))
        moved, _ = work(g, loss="mse")
        m, v = 4 * 4 * 64, 16
        assert moved["mul", "mul"][0] == 2 * m + v
        # the gradient of the factor needs the map, is made at its size and summed
        assert moved["mul", "mul"][1] == (2 * m if not trainable else 2 * m + 2 * m + m + v)


def test_shared_weights_are_read_wherever_they_are_used_and_their_gradients_added():
    g = Graph()
    x = g.conv2d(g.input((1, 4, 8, 8)), 4, 1, bias=False, name="a")
    g.output(g.op("conv2d", x, out_channels=4, kernel_size=1, bias=False, tied="a", name="b"))
    moved, products = work(g, loss="mse")
    m, w = 4 * 4 * 64, 64
    assert moved["b", "conv2d"] == (2 * m + w, m + w + 2 * m + m + w)
    assert moved["a", "conv2d"] == (2 * m + w, m + w + m + w + 3 * w)
    assert products["a", "conv2d"][1] * 2 == products["b", "conv2d"][1]


@pytest.mark.parametrize("running", [False, True])
def test_batch_statistics_take_another_pass(running):
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 1, bias=False, name="conv")
    g.output(g.batch_norm2d(x, affine=False, track_running_stats=running, use_running_stats=running, name="norm"))
    moved, _ = work(g, loss="mse")
    m, v = 4 * 4 * 64, 16
    # running statistics are read, batch statistics made, and held
    assert moved["norm", "batch_norm2d"] == ((2 * m + 2 * v, 3 * m) if running else (3 * m + 2 * v, 5 * m + 4 * v))


def test_batch_statistics_of_the_image_take_another_pass():
    g = Graph()
    x = g.batch_norm2d(g.input((1, 3, 8, 8)), affine=False, track_running_stats=False, name="norm")
    g.output(g.conv2d(x, 4, 1, bias=False, name="conv"))
    assert work(g, loss="mse")[0]["norm", "batch_norm2d"] == (3 * 4 * 192 + 24, 0)


def test_random_masks_are_written_and_read():
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 1, bias=False, name="conv")
    g.output(g.dropout(x, 0.5, name="drop"))
    m = 4 * 4 * 64
    assert work(g, loss="mse")[0]["drop", "native_dropout"] == (2 * m + m / 4, m / 4 + 2 * m)
    moved, _ = work(g, loss="mse", device="cpu")
    assert (moved["drop", "bernoulli_"], moved["drop", "mul"]) == ((m, 0), (3 * m, 3 * m))


def test_an_output_that_is_in_no_loss_has_no_backward():
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 1, name="conv")
    g.output(x, g.relu(x, name="aside"))
    moved, _ = work(g, loss="mse", aux_weight=0)
    assert moved["aside", "relu"] == (2 * 4 * 4 * 64, 0)


def test_products_of_two_maps_count_twice_backward():
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 1, name="conv")
    g.output(g.matmul(x, g.relu(x, name="relu"), name="product"))
    _, products = work(g, loss="mse")
    assert products["product", "matmul"] == (4 * 8 * 8 * 8, 2 * 4 * 8 * 8 * 8)


# ---------------------------------------------------------------------------------- by the definition


def naive(net, tape, batch):
    """Bytes forward and backward of each record, from the definition, one tensor after the other."""
    dims = net.sizes_at(batch).dims.tolist()

    def size(spec):
        tensor, low, high, k, without = tape.spec[spec].tolist()
        return k * math.prod(dims[tensor][d] for d in range(low, high) if d != without)

    def rows(what, k):
        ptr = getattr(tape, f"{what}_ptr")
        return range(int(ptr[k]), int(ptr[k + 1]))

    makes = [len(rows("alloc", k)) > 0 or tape.over[k] >= 0 for k in range(tape.n_records)]
    of_op = defaultdict(list)
    for k, (op, name) in enumerate(tape.records):
        if makes[k] and name != "_to_copy":
            of_op[op].append(k)
    main = {op: ks[-1] for op, ks in of_op.items()}
    wanted, reached = {tape.root}, set()
    for k in reversed(range(tape.n_records)):
        if any(int(tape.out_value[i]) in wanted for i in rows("out", k)):
            reached.add(k)
            wanted |= {int(tape.edge_value[i]) for i in rows("edge", k)}
    given_gradient = set()
    backward = []
    for k in reversed(range(tape.n_records)):
        total = 0
        codes = [tape.code[i].tolist() for i in rows("code", k)] if k in reached else []
        op = tape.records[k][0]
        if any(code[0] in (0, 1) for code in codes):
            kind = net.op_kinds[op] if op >= 0 else "loss"
            twice = kind.startswith(("batch_norm", "group_norm", "instance_norm")) and main[op] == k
            for i in rows("saved", k):
                total += size(tape.store_spec[tape.saved_idx[i]]) * (1 + twice)
            for i in rows("out", k):
                total += size(tape.value_spec[tape.out_value[i]]) * (1 + twice)
            total += sum({0: 2 * size(code[1]), 1: size(code[2])}.get(code[0], 0) for code in codes)
        for i in rows("edge", k) if k in reached else ():
            value = int(tape.edge_value[i])
            a, b = size(tape.edge_spec[i]), size(tape.value_spec[value])
            total += a + b if a != b else 0
            total += 3 * b if value in given_gradient else 0
            total += 2 * b if tape.edge_copies[i] else 0
            given_gradient.add(value)
        backward.append(total)
    forward = []
    for k in range(tape.n_records):
        kind = net.op_kinds[tape.records[k][0]] if tape.records[k][0] >= 0 else "loss"
        twice = kind.startswith(("batch_norm", "group_norm", "instance_norm")) and main[tape.records[k][0]] == k
        read = sum(size(tape.store_spec[tape.read_idx[i]]) for i in rows("read", k)) * (1 + twice)
        written = sum(size(tape.store_spec[tape.alloc_idx[i]]) for i in rows("alloc", k))
        over = size(tape.store_spec[tape.over[k]]) if tape.over[k] >= 0 else 0
        forward.append(read + written + over if makes[k] else 0)
    return forward, backward[::-1]


def given_bytes(net, tensor):
    """Whether a tensor is an input of the network, a view of one, or one that was overwritten."""
    while net.kind[tensor] == 0:
        op = net.producer[tensor]
        same = net.alias[op] == 2 or (net.alias[op] == 1 and "dropout" not in net.op_kinds[op]
                                      and net.op_kinds[op] != "stochastic_depth")  # fmt: skip
        if not (same or net.op_attrs[op].get("inplace")):
            return False
        tensor = net.in_idx[net.in_ptr[op]]
    return True


@given(graph=training_graphs(), batch=st.sampled_from([1, 3]), device=st.sampled_from(["cpu", "cuda"]))
def test_records_move_what_the_definition_says(graph, batch, device):
    net, tape = tape_of(graph, batch, loss="mse", device=device)
    w = work_of(net, tape, batch)
    forward, backward = naive(net, tape, batch)
    plain = not any(k in ("chunk", "slice", "split") for k in net.op_kinds)
    macs = net.macs_rule > 0
    for k, (op, _) in enumerate(tape.records):
        runs = w.forward_runs[k]
        assert runs or w.forward_bytes[k] == 0
        own = net.counts[op, 1:4].sum() if op >= 0 else 0
        reads_given = op >= 0 and (own > 0 or (net.kind[net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]]] > 0).any())
        if op >= 0 and plain and not reads_given and not macs[op] and runs and w.forward_bytes[k] != forward[k]:
            # it reads an input of the network through a view, or shares another op's parameters
            assert w.forward_bytes[k] > forward[k]
        if op >= 0 and plain and not macs[op]:
            assert (w.backward_bytes + w.sum_bytes)[k] == backward[k], tape.records[k]
        if op >= 0 and plain and macs[op]:
            entry = net.op_attrs[op]
            ins = net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]].tolist()
            weight = 4 * math.prod(net.shape(ins[0])[-1:]) * entry.get("out_features", 0) if len(ins) == 1 else 0
            if net.op_kinds[op] == "conv2d":
                weight = (
                    4 * net.shape(ins[0])[1] // entry["groups"] * entry["out_channels"] * entry["kernel_size"][0] ** 2
                )
            if not w.backward_macs[k]:
                assert (w.backward_bytes + w.sum_bytes)[k] == backward[k]
                continue
            made = w.backward_macs[k] / w.forward_macs[k]
            out = sum(4 * int(net.sizes_at(batch).numel[t]) for t in range(net.out_ptr[op], net.out_ptr[op + 1]))
            image = sum(4 * int(net.sizes_at(batch).numel[t]) for t in ins if given_bytes(net, t))
            expected = backward[k] + (made - 1) * out + weight + image
            assert (w.backward_bytes + w.sum_bytes)[k] == expected, tape.records[k]
        assert w.backward_runs[k] == (w.backward_bytes[k] + w.sum_bytes[k] > 0)
    assert w.forward_macs.sum() == net.macs(batch)
    assert (w.backward_macs <= 2 * w.forward_macs).all()


@given(graph=training_graphs(), model=st.sampled_from([Flops(), Roofline(), GPUS["t4"]]))
def test_costs_grow_with_the_batch_and_fit_a_problem(graph, model):
    net, tape = tape_of(graph, 1, loss="mse")
    before = model.of(net, tape, 1)
    for batch in (2, 64, 4096):
        after = model.of(net, tape, batch)
        for a, b in zip(before, after, strict=True):
            assert (a <= b).all()
            assert (b <= np.maximum(a + 1, 1) * 4 * batch).all()
        before = model.of(net, tape, 1)
    assert (float(after[0].sum()) + float(after[1].sum())) * 4 * tape.n_records < 2**60


def test_large_nets_at_large_batches_stay_far_below_the_limit():
    for name, batch in (("densenet201", 1024), ("vgg19", 4096)):
        net, tape = tape_of(zoo.load(name), batch)
        for model in (Flops(), Roofline(), GPUS["t4"]):
            forward, backward = model.of(net, tape, batch)
            assert float(forward.sum() + backward.sum()) * 4 * tape.n_records < 2**60


def test_costs_that_are_too_large_are_an_error_with_their_sum():
    net, tape = tape_of(zoo.load("vgg16"))
    with pytest.raises(RematError, match=r"costs of the step add up to .* ns; allowed: below 2\*\*60"):
        Roofline(1.0, 1e-3).of(net, tape, 1)


def test_answers_do_not_depend_on_what_was_asked_before():
    g = zoo.load("resnet18")
    net, tape = tape_of(g)
    first = [Roofline().of(net, tape, b)[0].tolist() for b in (1, 2, 3, 4, 5, 6)]
    again = [Roofline().of(net, tape, b)[0].tolist() for b in (6, 5, 4, 3, 2, 1)]
    assert first == again[::-1]
    fresh = pickle.loads(pickle.dumps(tape))
    assert Roofline().of(net, fresh, 4)[0].tolist() == first[3]
    with pytest.raises(ShapeError, match="batch=0"):
        Roofline().of(net, tape, 0)


# ---------------------------------------------------------------------------------- measured times

OPS = ("first", "norm", "relu", "second", "add", "pool", "head")


def measured(net, tape, batch, times):
    forward, backward = times.of(net, tape, batch)
    sums = defaultdict(lambda: [0, 0])
    for (op, _), f, b in zip(tape.records, forward.tolist(), backward.tolist(), strict=True):
        name = "loss" if op < 0 else net.op_names[op]
        sums[name][0] += f
        sums[name][1] += b
    return {name: tuple(pair) for name, pair in sums.items()}


def test_measured_times_are_taken_as_they_are():
    net, tape = tape_of(small(), 4)
    times = read_costs({op: [k + 1, 10 * (k + 1)] for k, op in enumerate(OPS)} | {"loss": [0.5, 0.25], "flat": 0})
    found = measured(net, tape, 4, times)
    ms = 10**6
    assert found == {
        **{op: ((k + 1) * ms, 10 * (k + 1) * ms) for k, op in enumerate(OPS)},
        "flat": (0, 0), "loss": (ms // 2, ms // 4),
    }  # fmt: skip


def test_the_time_of_an_op_is_shared_among_what_pytorch_makes_of_it():
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="conv")
    g.output(g.linear(g.permute(x, (0, 2, 3, 1), name="last"), 5, name="head"))
    net, tape = tape_of(g, precision="autocast", loss="mse")
    times = read_costs({"conv": [3.000001, 7.0], "head": [1e-6, 5]})
    found = measured(net, tape, 1, times)
    assert (found["conv"], found["head"]) == ((3000001, 7000000), (1, 5000000))
    forward, _ = times.of(net, tape, 1)
    assert (forward >= 0).all()
    assert sum(op == 1 for op, _ in tape.records) > 1


def test_backward_that_was_not_measured_follows_the_roofline_or_a_factor():
    net, tape = tape_of(small(), 64)
    forward, backward = Roofline().of(net, tape, 64)
    ratio = {net.op_names[op]: b / f for (op, _), f, b in zip(tape.records, forward, backward, strict=True) if op >= 0
             and f}  # fmt: skip
    found = measured(net, tape, 64, read_costs(dict.fromkeys(OPS, 2.0)))
    assert {op: found[op] for op in OPS} == {op: (2_000_000, round(2_000_000 * ratio[op])) for op in OPS}
    assert ratio["relu"] == pytest.approx(1.5, rel=1e-2)
    assert ratio["norm"] == pytest.approx(5 / 3, rel=1e-2)
    found = measured(net, tape, 64, read_costs(dict.fromkeys(OPS, 2.0), backward_factor=3))
    # a sum hands its gradient on
    assert {op: found[op] for op in OPS} == {op: (2_000_000, 0 if op == "add" else 6_000_000) for op in OPS}


def test_a_measured_backward_that_does_not_run_costs_nothing():
    net, tape = tape_of(small(), 4, frozen_layers=["first", "norm"])
    found = measured(net, tape, 4, read_costs([(op, 1.0, 2.0) for op in OPS]))
    ms = 10**6
    assert {op: found[op] for op in OPS} == {op: (ms, 0 if op in ("first", "norm", "relu") else 2 * ms) for op in OPS}


def test_times_of_one_batch_scale_to_another():
    net, tape = tape_of(small(), 8)
    times = read_costs([(op, 1.0, 2.0) for op in OPS], batch=4)
    assert {k: v for k, v in measured(net, tape, 8, times).items() if k in OPS} == dict.fromkeys(
        OPS, (2 * 10**6, 4 * 10**6)
    )
    assert times.of(net, tape, 4)[0][1] == 10**6


def test_a_module_stands_for_the_ops_under_it():
    net, tape = tape_of(zoo.load("resnet18"), 2)
    modules = ["conv1", "bn1", "relu", "maxpool", "layer1.0", "layer1.1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    times = read_costs({m: [4.0, 8.0] for m in modules})
    forward, backward = times.of(net, tape, 2)
    scope = [net.op_scopes[op] + "." if op >= 0 else "" for op, _ in tape.records]
    for module in ("layer1.0.", "layer1.1.", "layer2.", "layer4."):
        at = [s.startswith(module) for s in scope]
        assert (forward[at].sum(), backward[at].sum()) == (4 * 10**6, 8 * 10**6)
        assert (forward[at] > 0).all()
    base, _ = Roofline().of(net, tape, 2)
    at = np.array([s.startswith("layer2.") for s in scope])
    assert np.abs(forward[at] - base[at] * (4e6 / base[at].sum())).max() <= 1


def test_a_module_is_no_prefix_of_a_name():
    net, tape = tape_of(zoo.load("densenet121"))
    forward, _ = read_costs({"features.denseblock2.denselayer1": 5.0}, fill="roofline").of(net, tape, 1)
    scopes = [net.op_scopes[op] if op >= 0 else "" for op, _ in tape.records]
    assert forward[[s == "features.denseblock2.denselayer1" for s in scopes]].sum() == 5 * 10**6
    assert "features.denseblock2.denselayer10" in scopes


def test_a_view_whose_backward_runs_is_priced_by_the_roofline_unless_it_was_measured():
    g = Graph()
    left, right = g.chunk(g.conv2d(g.input((1, 3, 8, 8)), 8, 1, name="stem"), 2, name="chunk")
    g.output(g.mul(left, right, name="mul"))
    net, tape = tape_of(g, loss="mse")
    forward, backward = Roofline().of(net, tape, 1)
    k = next(k for k, (_, name) in enumerate(tape.records) if name == "chunk")
    ops = [op for op, _ in tape.records].index(-1)
    agree = 2e6 / forward[[i for i in range(ops) if i != k]].sum()
    for times in ({"stem": 1.0, "mul": 1.0}, {"stem": 1.0, "mul": 1.0, "chunk": 0.0}):
        found = measured(net, tape, 1, read_costs(times))
        assert found["chunk"] == (0, round(backward[k] * agree))
    assert measured(net, tape, 1, read_costs(times | {"chunk": [0.5, 0.25]}))["chunk"] == (500_000, 250_000)


def test_what_lacks_a_time_is_listed_or_filled_in():
    net, tape = tape_of(small(), 2)
    times = {"first": [1.0, 1.0], "second": [2.0, 4.0]}
    with pytest.raises(RematError, match=re.escape(
            "measured times: no time of 5 of the ops that small runs: norm, relu, add, pool, head; give them, or "
            'fill="roofline"')):  # fmt: skip
        read_costs(times).of(net, tape, 2)
    base, back = Roofline().of(net, tape, 2)
    number = {net.op_names[op]: k for k, (op, _) in enumerate(tape.records) if op >= 0}
    agree = 3e6 / (base[number["first"]] + base[number["second"]])
    found = measured(net, tape, 2, read_costs(times, fill="roofline"))
    assert found["second"] == (2_000_000, 4_000_000)
    for op in ("norm", "relu", "pool", "head"):
        assert found[op] == (round(base[number[op]] * agree), round(back[number[op]] * agree))
    assert found["add"][1] == found["flat"][1] == 0
    # the loss is no op of the graph
    everything = read_costs(dict.fromkeys(OPS, 1.0))
    assert measured(net, tape, 2, everything)["loss"][0] > 0


def test_a_name_that_is_no_op_is_an_error_with_close_names():
    net, tape = tape_of(small())
    with pytest.raises(RematError, match=r"measured times: 'norn' is no op or module of small; did you mean norm\?"):
        read_costs({"norn": 1.0}, fill="roofline").of(net, tape, 1)
    with pytest.raises(RematError, match=r"'a', 'b' are no op or module of small"):
        read_costs({"a": 1.0, "b": 1.0, "first": 1}).of(net, tape, 1)
    net, tape = tape_of(zoo.load("resnet18"))
    with pytest.raises(RematError, match=r"rows 'layer1.0.conv1' and 'layer1' both give a time of layer1.0.conv1"):
        read_costs({"layer1.0.conv1": 1.0, "layer1": 2.0}, fill="roofline").of(net, tape, 1)


CSV = "op,forward_ms,backward_ms\nfirst,1.5,3\n\nnorm,0.25,\n"


def test_every_form_says_the_same(tmp_path):
    expected = (OpTime("first", 1.5, 3.0), OpTime("norm", 0.25, None))
    path = tmp_path / "times.csv"
    path.write_text(CSV, encoding="utf-8-sig")
    other = tmp_path / "times.json"
    other.write_text('{"first": [1.5, 3], "norm": 0.25}')
    forms = [
        CSV, CSV.replace("\n", "\r\n"), path, str(path), other, io.StringIO(CSV),
        "backward_us,op,forward_us\n3000,first,1500\n,norm,250\n",
        '{"first": [1.5, 3], "norm": 0.25}',
        '{"first": {"forward_ms": 1.5, "backward_ms": 3}, "norm": {"forward_s": 0.00025, "backward_ms": null}}',
        '[["first", 1.5, 3], ["norm", 0.25]]',
        [{"op": "first", "forward_ms": 1.5, "backward_ns": 3e6}, {"op": "norm", "forward_ms": 0.25}],
        [("first", 1.5, 3), ("norm", 0.25, None)], expected,
        {"ops": {"first": [1.5, 3], "norm": [0.25, None]}},
    ]  # fmt: skip
    for form in forms:
        assert read_costs(form).times == expected, form
    assert (read_costs(path).source, read_costs(CSV).source) == (repr(str(path)), "measured times")
    assert read_costs({"op,forward_ms\n": 1.0}).times == (OpTime("op,forward_ms\n", 1.0),)


@pytest.mark.parametrize(("source", "message"), [
    ("op,forward_ms\na,-1\n", "measured times, line 2: op 'a' has forward_ms='-1'; allowed: a number, 0 or more"),
    ("op,forward_ms\n\na,nan\n", "line 3: op 'a' has forward_ms='nan'"),
    ("op,forward_ms\na,1e999\n", "line 2: op 'a' has forward_ms='1e999'"),
    ("op,forward_ms\na,\n", "line 2: op 'a' has forward_ms=''"),
    ("op,forward_ms,backward_ms\na,1,fast\n", "line 2: op 'a' has backward_ms='fast'"),
    ("op,forward_ms\na,1\nb,1\na,2\n", "line 4: op 'a' stands in line 2 already; allowed: once"),
    ("op,forward_ms\na,1,2\n", "line 2: 3 values for the 2 columns op,forward_ms"),
    ("op,forward_ms\n,1\n", "line 2: no op"),
    ("op,forwards_ms\na,1\n", "line 1: unknown column 'forwards_ms'; allowed: op, forward_ms, backward_ms, or _us, "
     "_ns, _s; did you mean forward_ms"),
    ("op,backward_ms\na,1\n", "line 1: no column forward_ms"),
    ("op,forward_ms,forward_us\na,1,2\n", "line 1: two columns of forward times"),
    ("name,forward_ms\na,1\n", "line 1: the columns are name,forward_ms; allowed: op,forward_ms,backward_ms"),
    ("op,op,forward_ms\na,b,1\n", "each once"),
    ('op,forward_ms\n"a"b,1\n', "line 2: "),
    ("\n\n", "measured times: empty"),
    ("op,forward_ms\n", "measured times: no times"),
    ('{"a": 1, "a": 2}', "'a' stands twice"),
    ('{"a": ', "no JSON"),
    ('{"a": -0.5}', "op 'a' has -0.5; allowed: a number, 0 or more"),
    ('{"a": NaN}', "op 'a' has nan"),
    ('{"a": true}', "op 'a' has True"),
    ('{"a": [1, 2, 3]}', "op 'a' has [1, 2, 3]; allowed: milliseconds forward, or forward and backward"),
    ('{"a": {"backward_ms": 1}}', "op 'a' has no column forward_ms"),
    ('{"a": {"forward_ms": 1, "grad_ms": 1}}', "unknown column 'grad_ms'"),
    ('{"a": {"forward_ms": 1, "backward_ms": "2"}}', "backward_ms='2'"),
    ('[["a", 1], ["a", 2]]', "op 'a' stands twice"),
    ('[["a"]]', "row 1: ['a']; allowed"),
    ('[{"forward_ms": 1}]', "row 1: no op"),
    ("[[3, 1]]", "row 1: 3 as its op"),
    ('[["", 1]]', "an op is called ''"),
    ('{"ops": {"a": 1}, "bacth": 3}', "'bacth' stands beside 'ops'; allowed: batch, backward_factor, fill, source, "
     "name; did you mean batch"),
    ('{"ops": {"a": 1}, "name": "flops"}', "name='flops'"),
    ('{"ops": {"a": 1}, "backward_factor": -1}', "backward_factor=-1; allowed: a number, 0 or more"),
    ('{"ops": {"a": 1}, "fill": "flops"}', "fill='flops'; allowed: 'roofline'"),
    ('{"ops": {"a": 1}, "fill": "roofline:x"}', "fill: costs='roofline:x'"),
    (3, "measured times: 3; allowed: a mapping of ops to milliseconds, or a list of rows"),
    ({}, "no times"),
])  # fmt: skip
def test_what_is_no_time_is_an_error_that_names_the_row(source, message):
    with pytest.raises(ReadError, match=re.escape(message)):
        read_costs(source)


def test_a_measured_batch_is_a_batch():
    with pytest.raises(ShapeError, match="measured times: batch=0"):
        read_costs({"a": 1}, batch=0)
    with pytest.raises(ReadError, match="fill=3"):
        Measured((OpTime("a", 1.0),), fill=3)


def test_files_that_cannot_be_read_are_errors(tmp_path):
    with pytest.raises(ReadError, match=r"missing.csv' cannot be read as times of ops: No such file"):
        read_costs(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(b"op,forward_ms\n\xff\xfe,1\n")
    with pytest.raises(ReadError, match=r"binary.csv' cannot be read as times of ops"):
        read_cost_model(str(tmp_path / "binary.csv"))


# ---------------------------------------------------------------------------------- names of models


def test_options_name_models(tmp_path):
    assert read_cost_model("flops") == Flops()
    assert read_cost_model("roofline") == read_cost_model("Roofline: a100") == Roofline() == GPUS["a100"]
    assert read_cost_model("roofline:10e12,1e12") == Roofline(10e12, 1e12)
    assert read_cost_model(Roofline(1, 2)) == Roofline(1.0, 2.0)
    (tmp_path / "times.CSV").write_text(CSV)
    assert read_cost_model(str(tmp_path / "times.CSV")).times == read_cost_model(CSV).times
    assert read_cost_model(tmp_path / "times.CSV").name == "measured"
    assert read_cost_model({"first": 1.0}).times == (OpTime("first", 1.0),)
    assert read_cost_model(Roofline(1e12 / 3, 0.1).name) == Roofline(1e12 / 3, 0.1)


@pytest.mark.parametrize(("costs", "message"), [
    ("rofline", "costs='rofline'; allowed: 'flops', 'roofline', 'roofline:FLOP/s,bytes/s', 'roofline:' and one of "
     "p100, v100, t4, a100, h100, or a file .csv or .json of measured times; did you mean roofline"),
    ("flops:3", "costs='flops:3'"),
    ("roofline:", "costs='roofline:'; allowed behind 'roofline:': FLOP/s and bytes/s"),
    ("roofline:v10", "did you mean v100"),
    ("roofline:1e12", "allowed behind 'roofline:'"),
    ("roofline:0,1e12", "roofline: flops_per_second=0.0; allowed: a positive number"),
    ("roofline:1e12,nan", "roofline: bytes_per_second=nan"),
    (3, "costs=3; allowed: a name, a file, a mapping of ops to milliseconds or a Costs"),
    ({"name": "rooflines"}, "costs of name 'rooflines'; allowed: flops, roofline, measured; did you mean roofline"),
    ({"name": "roofline", "flops": 3}, "roofline: unknown 'flops'"),
])  # fmt: skip
def test_what_names_no_model_is_an_error(costs, message):
    with pytest.raises(RematError, match=re.escape(message)):
        read_cost_model(costs)


@pytest.mark.parametrize("model", [
    Flops(), Roofline(), GPUS["p100"],
    Measured((OpTime("first", 1.5, 3.0), OpTime("norm", 0.25)), 4, 2.5, GPUS["v100"], "a file"),
    Measured((OpTime("first", 1.5),)),
], ids=str)  # fmt: skip
def test_models_round_trip(model):
    assert read_cost_model(json.loads(json.dumps(model.to_dict()))) == model
    assert pickle.loads(pickle.dumps(model)) == model
    assert hash(model) == hash(read_cost_model(model.to_dict()))


def test_a_model_of_ones_own_is_taken():
    class Each(Costs):
        name = "each"

        def of(self, net, tape, batch):
            w = work_of(net, tape, batch)
            return w.forward_runs.astype(np.int64), w.backward_runs.astype(np.int64)

        def to_dict(self):
            return {"name": "each"}

    model = Each()
    assert read_cost_model(model) is model
    net, tape = tape_of(small())
    assert [c.sum() for c in model.of(net, tape, 1)] == [9, 8]


# ---------------------------------------------------------------------------------- against measured nets


def ranks(values):
    return np.argsort(np.argsort(values))


@pytest.mark.parametrize(("file", "name", "batch", "least"), [
    ("vgg16_b176", "vgg16", 176, 0.95), ("mobilenet_v2_b272", "mobilenet_v2", 272, 0.85),
])  # fmt: skip
def test_the_roofline_ranks_measured_ops_better_than_flops(file, name, batch, least):
    path = DATA / f"{file}.json"
    if not path.exists():
        pytest.skip("no monet_zoo beside the project")
    nodes = json.loads(path.read_text())["nodes"]
    forward = [x for x in nodes if x["fwd"] and "loss" not in x["op"]]
    backward = Counter()
    for x in nodes:
        if not x["fwd"]:
            backward[x["fwd_id"]] += x["time_ms"]
    net, tape = tape_of(zoo.load(name), batch)
    records = [k for k, (op, _) in enumerate(tape.records) if op >= 0]
    assert len(records) == len(forward)
    times = np.array([(x["time_ms"], backward[x["id"]]) for x in forward])
    found = {}
    for model in (GPUS["p100"], Flops()):
        ahead, behind = (c[records] for c in model.of(net, tape, batch))
        for column, costs in enumerate((ahead, behind)):
            some = (times[:, column] > 0.05) & (costs > 0)
            found[model.name, column] = np.corrcoef(ranks(costs[some]), ranks(times[some, column]))[0, 1]
    for column in (0, 1):
        assert found[GPUS["p100"].name, column] > found["flops", column]
    assert found[GPUS["p100"].name, 0] > least


def test_the_page_measures_a_module_whose_times_are_read():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from cnnlive.io.torch import from_torch  # noqa: PLC0415 - after the check for torch

    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Linear(8, 5)
            self.block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))

        def forward(self, x):
            x = self.relu(self.conv(x))
            return self.head(self.relu(x + self.block(x)).mean((2, 3)))

    code = re.search(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)[1]
    space = {}
    exec(code, space)
    model, x = Net(), torch.ones(2, 3, 16, 16)
    times = space["measure"](model, x)
    net = lower(from_torch(model, x.shape))
    assert set(times) == {"conv", "relu", "relu_1", "head", "block.0", "block.1"} <= set(net.op_names)
    assert all(t > 0 for t in times.values())
    plan = plan_training(net, batch=2)
    forward, _ = read_costs(times, fill="roofline").of(net, plan.tape, 2)
    assert forward.sum() > sum(times.values()) * 0.99e6
