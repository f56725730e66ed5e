"""Damaged files, names that break lines, sizes at the edge of what is counted: an error by name, or an exact answer."""

import io
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import fuzz_corpus
import numpy as np
import pytest
from command_line import answer, run
from hypothesis import given
from hypothesis import strategies as st

import cnnlive
from cnnlive.errors import AttributeValueError, CnnliveError, GraphError, ReadError, ShapeError
from cnnlive.io.buffers import read_buffers, write_buffers
from cnnlive.plan.checkpoint import CheckpointPlan
from cnnlive.plan.costs import read_costs

TOOL = Path(__file__).parents[1] / "tools" / "fuzz.py"


# ---------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("name", fuzz_corpus.READERS)
def test_a_thousand_damaged_files_are_refused_by_name_or_plan(name):
    """In a process of its own: a crash would end it, and it may not use more memory than sound files need."""
    for package in {"onnx": ["onnx"], "tflite": ["tflite", "flatbuffers"]}.get(name, []):
        pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, TOOL, name, "--files", "1000"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'refused'" in done.stdout
    assert "'planned'" in done.stdout


@given(st.binary(max_size=200))
def test_any_bytes_are_a_read_error_of_every_reader(data):
    for name in ("onnx", "tflite", "json", "costs"):
        try:
            fuzz_corpus.READERS[name].read(data)
        except (ReadError, cnnlive.errors.MissingExtraError):
            pass
        else:
            raise AssertionError(name)


@given(st.text(max_size=80))
def test_any_text_is_buffers_or_a_read_error(text):
    try:
        fuzz_corpus.check_buffers(read_buffers(io.StringIO(text, newline="")))
    except CnnliveError as error:
        assert isinstance(error, ReadError)  # noqa: PT017 - most texts are refused


def function_bomb(depth, width):
    """Write a model of a few hundred bytes whose functions stand for ``width ** depth`` nodes."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper  # noqa: PLC0415 - only where onnx is installed

    opsets, functions = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)], []
    for level in range(depth):
        steps = ["in", *(f"t{k}" for k in range(width - 1)), "out"]
        op, domain = (f"F{level - 1}", "own") if level else ("Relu", "")
        nodes = [helper.make_node(op, [a], [b], domain=domain) for a, b in itertools.pairwise(steps)]
        functions.append(helper.make_function("own", f"F{level}", ["in"], ["out"], nodes, opsets))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    call = helper.make_node(f"F{depth - 1}", ["x"], ["y"], domain="own")
    net = helper.make_graph([call], "net", [x], [onnx.ValueInfoProto(name="y")])
    return helper.make_model(net, opset_imports=opsets, functions=functions, ir_version=8)


def test_functions_that_multiply_each_other_are_refused_before_they_are_written_out():
    assert len(cnnlive.read_onnx(function_bomb(3, 4))) == 1 + 4**3
    with pytest.raises(ReadError, match=r"the functions of the file stand for 200,001 nodes or more; allowed: up to"):
        cnnlive.read_onnx(function_bomb(40, 9))
    with pytest.raises(ReadError, match="more than 100 deep"):
        cnnlive.read_onnx(function_bomb(300, 1))


def test_repeating_nothing_a_trillion_times_takes_no_memory():
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper  # noqa: PLC0415 - only where onnx is installed

    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])
    stored = [numpy_helper.from_array(np.ones((2, 2), np.float32), "w"),
              numpy_helper.from_array(np.asarray([2**40, 0], np.int64), "times")]  # fmt: skip
    nodes = [helper.make_node("Tile", ["w", "times"], ["none"]), helper.make_node("Add", ["x", "none"], ["y"])]
    net = helper.make_graph(nodes, "net", [x], [onnx.ValueInfoProto(name="y")], stored)
    with pytest.raises(CnnliveError):
        cnnlive.read_onnx(helper.make_model(net, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


def test_functions_that_call_themselves_are_refused():
    model = function_bomb(2, 2)
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "F1", "own"
    with pytest.raises(ReadError, match="the functions of the file"):
        cnnlive.read_onnx(model)


# ---------------------------------------------------------------------------------- sizes at the edge


def chain(shape, *ops, dtype="float32"):
    g = cnnlive.Graph("edge")
    x = g.input(shape, dtype)
    for op, attrs in ops:
        x = g.op(op, x, **attrs)
        x = x[0] if isinstance(x, tuple) else x
    return g


@pytest.mark.parametrize("exponent", [20, 40, 50])
def test_large_batches_are_counted_exactly(exponent):
    g = chain((1, 8, 4, 4), ("conv2d", {"out_channels": 8, "kernel_size": 3}), ("relu", {}))
    batch, weights = 2**exponent, g.n_parameters * 4
    # Arithmetic of Python: 128 elements come in, 32 come out, twice; they hold 8 x 8 x 9 weights and 8 biases.
    assert cnnlive.plan_inference(g, batch=batch).peak_bytes == weights + batch * 4 * (128 + 32)
    assert cnnlive.lower(g).macs(batch) == batch * 4 * 8 * 8 * 9
    assert cnnlive.plan_arena(g, batch=batch).arena_bytes == batch * 4 * (128 + 32)
    small, large = (cnnlive.plan_training(g, batch=b, optimizer="adam").peak_bytes for b in (2**10, batch))
    per_image = (cnnlive.plan_training(g, batch=2**11, optimizer="adam").peak_bytes - small) // 2**10
    assert large == small + per_image * (batch - 2**10)


TOO_LARGE = {
    "a batch": (lambda: cnnlive.plan_inference(chain((1, 8), ("relu", {})), batch=2**60), ShapeError, "2\\*\\*62"),
    "tensors": (lambda: cnnlive.plan_inference(chain((1, 2**30, 2**28), ("relu", {}))), ShapeError, "all tensors"),
    "an input": (lambda: chain((1, 2**31, 2**31)), ShapeError, "4611686018427387904 elements; allowed: 1 to 2\\*\\*62"),
    "weights": (
        lambda: cnnlive.lower(chain((1, 2**31), ("linear", {"out_features": 2**30}))), CnnliveError, "the parameters",
    ),
    "products": (
        lambda: cnnlive.lower(chain((1, 2**31), ("linear", {"out_features": 2**31}))), ShapeError, "2\\*\\*62 multiply",
    ),
    "what an optimizer keeps": (
        lambda: cnnlive.plan_training(chain((1, 2**30), ("linear", {"out_features": 2**29 - 1}), dtype="float64")),
        ShapeError, "all parameters together .* allowed for training: below 2\\*\\*58",
    ),
    "what backward makes": (
        lambda: cnnlive.plan_training(
            chain((1, 1, 2**57), ("linear", {"out_features": 1}), ("relu", {}), dtype="float64"), batch=4),
        ShapeError, "2\\*\\*6",
    ),
    "parts": (
        lambda: chain((1, 2**40), ("split", {"sizes": 1, "dim": 1})), ShapeError, "1099511627776 parts; allowed: up to",
    ),
    "chunks": (
        lambda: chain((1, 2**40), ("chunk", {"chunks": 2**39, "dim": 1})), ShapeError, "parts; allowed: up to 65536",
    ),
    "a stride": (
        lambda: chain((1, 1, 4), ("max_pool1d", {"kernel_size": 1, "stride": 2**63})), AttributeValueError, "64 bits",
    ),
    "a scale": (
        lambda: chain((1, 1, 4), ("interpolate", {"scale_factor": math.inf})), AttributeValueError, "positive numbers",
    ),
    "no number": (
        lambda: chain((1, 1, 4), ("interpolate", {"scale_factor": math.nan})), AttributeValueError, "positive numbers",
    ),
    "a number": (
        lambda: chain((1, 1, 4), ("leaky_relu", {"negative_slope": 10**400})), AttributeValueError, "a number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_is_too_large_to_count_is_refused(case):
    make, error, words = TOO_LARGE[case]
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("shape", [(0, 4), (1, 0, 4, 4), ()])
def test_tensors_of_nothing_are_refused(shape):
    with pytest.raises(CnnliveError, match="allowed: (an integer >= 1|1 to 6)"):
        chain(shape)
    with pytest.raises(CnnliveError, match="allowed"):
        cnnlive.Graph().op("parameter", shape=(3, *shape) if 0 in shape else (0,))


def test_sizes_near_two_to_the_62_pass_through_files():
    largest = 2**62 - 2**12
    text = f"id,lower,upper,size\na,0,1,{largest}\nb,1,{largest},0\n"
    b = read_buffers(io.StringIO(text))
    assert b.nbytes.tolist() == [largest, 0]
    out = io.StringIO()
    write_buffers(out, b)
    assert out.getvalue() == text
    assert cnnlive.plan_arena(b, method="greedy_by_size").arena_bytes == largest
    with pytest.raises(ReadError, match=r"line 2: size is 4611686018427387904; allowed: below 2\*\*62"):
        read_buffers(io.StringIO(text.replace(str(largest), str(2**62))))


# ---------------------------------------------------------------------------------- long nets


def test_a_net_of_twenty_thousand_ops_is_planned():
    """A million ops take the same path; nothing recurses, so only the time grows."""
    g = cnnlive.Graph("long")
    x = g.input((1, 2, 4, 4))
    for _ in range(5000):
        x = g.add(x, g.relu(g.batch_norm2d(g.conv2d(x, 2, 3, padding=1)), inplace=True))
    block = 2 * 2 * 9 + 2 + 4 * 2
    assert cnnlive.plan_inference(g).peak_bytes == 4 * (g.n_parameters + g.n_buffers) + 3 * 128
    assert g.n_parameters + g.n_buffers == 5000 * block
    assert cnnlive.plan_training(g, optimizer="sgd").saved_bytes >= 5000 * 2 * 128


# ---------------------------------------------------------------------------------- names

BAD_NAMES = ("a\rb", "\r", "a\r\nb", "a\nb", "\N{GRINNING FACE}", 'q"uo,te', " lead ", "\u2028", "=1+1", "\x0b", "-1")


def named(name):
    g = cnnlive.Graph("names")
    x = g.input((1, 2, 4, 4), name="x")
    y = g.relu(x, name=name)
    g.add(y, g.conv2d(y, 2, 1, name="z"), name="w")
    return g


@pytest.mark.parametrize("name", BAD_NAMES)
def test_any_name_survives_every_file_that_is_written(tmp_path, name):
    g = named(name)
    g.to_json(tmp_path / "net.json")
    assert cnnlive.read_json(tmp_path / "net.json").nodes() == g.nodes()
    for ending in ("csv", "json"):
        assert run("order", tmp_path / "net.json", "--out", tmp_path / f"order.{ending}").exit_code == 0
        found = answer("inference", tmp_path / "net.json", "--order", tmp_path / f"order.{ending}")
        assert found["peak_bytes"] == cnnlive.plan_inference(g).peak_bytes
    assert run("arena", tmp_path / "net.json", "--out", tmp_path / "arena.csv").exit_code == 0
    assert name in read_buffers(tmp_path / "arena.csv").ids
    for command in ("inference", "training", "order", "arena"):
        assert run(command, tmp_path / "net.json").exit_code == 0
    costs = read_costs([[n, 1.0, 1.0] for n in g.nodes() if n == n.strip()])
    assert read_costs(costs.to_dict()).times == costs.times


@pytest.mark.parametrize("name", ["", "\ud800", "a\udfffb"])
def test_a_name_that_no_file_can_hold_is_refused_at_once(name):
    with pytest.raises(GraphError, match="an op needs a non-empty text as name"):
        named(name)
    if name:
        with pytest.raises(GraphError, match="allowed: a text"):
            cnnlive.Graph(name)
        with pytest.raises(GraphError, match="allowed: a module path"), (g := cnnlive.Graph()).scope("m"):
            g._add("x", "input", (), {"shape": (1,)}, name)


def test_a_file_whose_name_is_no_text_is_read(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"a\xff.csv")
    try:
        with open(path, "w") as file:
            file.write("id,lower,upper,size\na,0,1,2\n")
    except OSError:
        pytest.skip("this file system takes texts only")
    assert read_buffers(os.fsdecode(path)).name == "a?"


# ---------------------------------------------------------------------------------- plans read back

WRONG_PLANS = {
    "no table": (lambda d: [1], "data is a list"),
    "budget": (lambda d: {**d, "budget": d["peak_bytes"] - 1}, "is below the plan's peak_bytes"),
    "cost": (lambda d: {**d, "cost": "1"}, "cost='1' in a checkpoint plan's data; allowed"),
    "method": (lambda d: {**d, "method": ["search"]}, r"method=\['search'\] in .*; allowed: 'search', 'chain'"),
    "options": (lambda d: {**d, "options": 7}, "options=7; allowed: a table"),
    "random": (lambda d: {**d, "recompute_random": 1}, "recompute_random=1; allowed: True or False"),
    "states": (lambda d: {**d, "states": [[0], 0]}, "allowed: a list of integers"),
    "fewer states": (lambda d: {**d, "states": d["states"][1:]}, "states are not those of small"),
    "nothing": (lambda d: {k: v for k, v in d.items() if k != "states"}, "lacks 'states'"),
}


@pytest.mark.parametrize("case", WRONG_PLANS)
def test_a_checkpoint_plan_of_the_wrong_form_is_refused_by_name(case):
    change, words = WRONG_PLANS[case]
    net = fuzz_corpus.small_net()
    keep = cnnlive.plan_training(net, batch=2).peak_bytes
    data = cnnlive.plan_checkpoints(net, batch=2, budget=keep).to_dict()
    with pytest.raises(CnnliveError, match=words):
        CheckpointPlan.from_dict(change(data), net)
