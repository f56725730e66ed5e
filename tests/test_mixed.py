"""Autocast written out in the graph: what is cast, once or each time, and the bytes that PyTorch takes."""

import csv
from pathlib import Path

import pytest

import cnnlive
from cnnlive import Graph, autocast, plan_inference, zoo
from cnnlive.errors import DTypeError, GraphError
from cnnlive.ops import operator

TRUTH = Path(__file__).parents[2] / "shared/data/truth/truth_amp.csv"


def small():
    g = Graph("small")
    x = g.input((2, 3, 8, 8))
    x = g.relu(g.batch_norm2d(g.conv2d(x, 4, 3, padding=1, bias=False, name="conv"), name="bn"))
    g.softmax(g.linear(g.flatten(g.adaptive_avg_pool2d(x, 1)), 5, name="fc"), name="softmax")
    return g


def dtypes(graph):
    return {n: graph.tensors_of(n)[0].dtype for n in graph.nodes()}


def test_convolutions_and_linear_layers_run_in_16_bits_and_a_softmax_in_32():
    found = dtypes(autocast(small()))
    assert found["conv"] == found["bn"] == found["fc"] == "float16"
    assert found["input"] == found["softmax"] == found["conv.weight"] == "float32"
    assert found["softmax.input.cast"] == "float32"
    assert found["conv.input.cast"] == found["conv.weight.cast"] == found["fc.bias.cast"] == "float16"


def test_only_what_is_of_another_type_is_cast():
    nodes = autocast(small()).nodes()
    assert "fc.input.cast" not in nodes
    assert "bn.input.cast" not in nodes


def test_a_concatenation_runs_in_the_widest_type_of_its_inputs():
    g = Graph()
    x = g.input((2, 4, 8, 8))
    g.concat([g.conv2d(x, 4, 1, name="a"), x], name="mixed")
    g.concat([g.conv2d(x, 4, 1, name="b"), g.conv2d(x, 4, 1, name="c")], name="low")
    found = dtypes(autocast(g))
    assert (found["mixed"], found["mixed.input.cast"], found["low"]) == ("float32", "float32", "float16")
    # Integers alone are taken as autocast takes them: there is nothing to narrow.
    assert operator("concat").autocast_type("float16", ["int64"]) == "float32"
    plan = cnnlive.plan_training(g, batch=2, precision="autocast", loss="mse")
    names = [name for _, name in plan.tape.records]
    assert names[names.index("cat") - 1] == "_to_copy"


def test_parameters_and_macs_stay_what_they_were():
    plain = zoo.load("resnet18")
    cast = autocast(plain)
    assert cast.n_parameters == plain.n_parameters
    assert cast.n_buffers == plain.n_buffers
    assert cnnlive.lower(cast).macs() == cnnlive.lower(plain).macs()


def test_a_shared_weight_is_stored_and_cast_once():
    g = Graph()
    x = g.input((1, 4, 8, 8))
    y = g.conv2d(x, 4, 1, bias=False, name="a")
    g.op("conv2d", y, name="b", tied="a", out_channels=4, kernel_size=1, bias=False)
    nodes = autocast(g).nodes()
    assert [n for n in nodes if "weight" in n] == ["a.weight", "a.weight.cast"]
    assert autocast(g).n_parameters == g.n_parameters == 16


def test_the_cast_of_a_frozen_weight_is_made_for_each_use_and_not_kept():
    def peak(frozen):
        g = Graph()
        x = g.input((1, 64, 2, 2))
        for _ in range(4):
            x = g.op("conv2d", x, out_channels=64, kernel_size=3, padding=1, bias=False, frozen=frozen)
        return plan_inference(g, autocast="float16").peak_bytes

    weight = 64 * 64 * 9 * 2
    assert peak(()) - peak(("weight",)) == pytest.approx(3 * weight, abs=4096)


def test_a_graph_is_cast_once_until_it_changes():
    g = small()
    first = autocast(g)
    assert autocast(g) is first
    assert autocast(g, "bfloat16") is not first
    g.relu(g.outputs[0])
    assert len(autocast(g)) > len(first)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_autocast_is_to_16_bits(dtype):
    with pytest.raises(DTypeError, match=f"autocast to '{dtype}'; allowed: 'float16', 'bfloat16'"):
        autocast(small(), dtype)


def test_a_lowered_net_takes_no_casts():
    with pytest.raises(GraphError, match="autocast writes casts into a Graph"):
        plan_inference(cnnlive.lower(small()), autocast="float16")


def test_a_dtype_and_autocast_exclude_each_other():
    with pytest.raises(DTypeError, match="exclude each other"):
        plan_inference(small(), autocast="float16", dtype="float16")


# Peaks of PyTorch 2.14.1 with fake CUDA tensors under autocast to float16, eager, without labels; measured by us.
@pytest.mark.parametrize(("net", "batch", "peak"), [("resnet18", 8, 80533760 - 64)])
def test_the_peak_is_the_one_that_pytorch_takes(net, batch, peak):
    assert plan_inference(zoo.load(net), batch=batch, autocast="float16", profile="torch").peak_bytes == peak


def rows():
    if not TRUTH.exists():
        return []
    with TRUTH.open(newline="") as file:
        return [r for r in csv.DictReader(file) if r["mode"] != "train"]


@pytest.mark.skipif(not TRUTH.exists(), reason="the folder with measured peaks is not there")
@pytest.mark.parametrize("row", rows(), ids=lambda r: f"{r['model']}-{r['batch']}-{r['mode']}")
def test_every_measured_inference_under_autocast_is_exact(row):
    profile = "torch" if row["mode"] == "infer" else "torch_fx"
    batch = int(row["batch"])
    plan = plan_inference(zoo.load(row["model"]), batch=batch, autocast="float16", profile=profile)
    labels = 8 * batch
    assert plan.peak_bytes + labels == int(row["peak_bytes"])
