"""The command line: what it prints, its JSON, and how it fails."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import answer, complaint, run

import cnnlive
from cnnlive import cli
from cnnlive.cli import _inference, _options
from cnnlive.report.text import shape_text, sparkline

ESCAPE = "\x1b["


def process(*arguments, **how):
    return subprocess.run(
        [sys.executable, "-m", "cnnlive", *arguments], check=False, capture_output=True, text=True, **how
    )


@pytest.fixture
def tiny():
    g = cnnlive.Graph("tiny")
    x = g.input((1, 3, 8, 8))
    y = g.conv2d(x, 4, 3, padding=1, name="a")
    z = g.conv2d(x, 4, 3, padding=1, name="b")
    g.output(g.add(g.relu(y, name="r"), z, name="s"))
    return g


@pytest.fixture
def tiny_file(tiny, tmp_path):
    tiny.to_json(tmp_path / "tiny.json")
    return tmp_path / "tiny.json"


# ---------------------------------------------------------------------------------- inference


def test_the_founding_figure_of_vgg16():
    data = answer("inference", "vgg16")
    assert data["peak_bytes"] == data["rule_of_thumb"]["nbytes"] == 579_120_288
    assert data["rule_of_thumb"]["reasons"] == []
    assert answer("inference", "vgg16", "--profile", "torch_fx")["peak_bytes"] == 579_722_400


def test_the_report_says_all_that_it_has_to():
    text = run("inference", "resnet50", "--batch", 1).stdout
    plan = cnnlive.plan_inference(cnnlive.zoo.load("resnet50"))
    rule = cnnlive.rules_of_thumb(cnnlive.zoo.load("resnet50"))["inference"]
    for nbytes in (
        plan.peak_bytes,
        plan.parameter_bytes,
        plan.activation_peak_bytes,
        plan.lower_bound,
        rule.nbytes,
    ):
        assert f"{nbytes:,} B" in text
    for buffer in plan.live_at_peak:
        assert re.search(rf"{re.escape(buffer.name)} .* {buffer.nbytes:,} B .*\[{buffer.born}, {buffer.dead}\)", text)
    assert f"step {plan.peak_step} of 0 to {len(plan.order) - 1}: {plan.peak_op} (batch_norm2d)" in text
    assert "the rule is 3.1 % too low" in text
    assert "█" in text
    assert "counted:" in text
    assert "Not counted:" in text


@pytest.mark.parametrize("profile", ["ideal", "torch_fx"])
@pytest.mark.parametrize("how", [[], ["--fuse"], ["--inplace", "dead"], ["--inplace", "never"], ["--dtype", "float16"]])
@pytest.mark.parametrize("net", ["squeezenet1_1", "densenet121", "googlenet", "alexnet"])
def test_the_reasons_add_up_to_the_difference(net, how, profile):
    data = answer("inference", net, "--batch", 3, "--profile", profile, *how)
    rule = data["rule_of_thumb"]
    assert rule["difference"] == data["peak_bytes"] - rule["nbytes"]
    assert sum(r["nbytes"] for r in rule["reasons"]) == rule["difference"]
    assert all(r["nbytes"] and r["words"] for r in rule["reasons"])
    assert rule["nbytes"] == sum(rule["terms"].values())


def test_types_may_be_mixed(tiny_file, tiny):
    data = answer("inference", tiny_file, "--dtype", "int8", "--dtype-of", "a=float16", "--dtype-of", "s:0=float32")
    types = {"*": "int8", "a": "float16", "s:0": "float32"}
    plan = cnnlive.plan_inference(tiny, dtype=types)
    assert data["peak_bytes"] == plan.peak_bytes
    assert data["dtype"] == types
    assert data["rule_of_thumb"]["terms"]["weights"] == tiny.n_parameters
    assert {row["name"]: row["output_bytes"] for row in answer("ops", tiny_file, "--dtype-of", "b=int8")["ops"]}[
        "b"
    ] == 256
    text = run("inference", tiny_file, "--dtype-of", "b=int8").stdout
    assert "float32 and int8" in text.splitlines()[0]
    assert re.search(r"^  b +256 B +256 B +1x4x8x8 +int8 ", text, re.M)


def test_the_rule_takes_the_type_of_the_weights_too():
    whole = answer("inference", "alexnet", "--dtype", "float16")
    mixed = answer("inference", "alexnet", "--dtype", "float16", "--weight-dtype", "int8")
    assert mixed["weight_dtype"] == "int8"
    assert mixed["parameter_bytes"] * 2 == whole["parameter_bytes"]
    assert mixed["rule_of_thumb"]["terms"]["weights"] * 2 == whole["rule_of_thumb"]["terms"]["weights"]
    assert mixed["rule_of_thumb"]["difference"] == whole["rule_of_thumb"]["difference"]


def test_the_rule_takes_the_type_that_the_network_was_built_with(tmp_path):
    g = cnnlive.Graph("half")
    g.conv2d(g.input((1, 3, 8, 8), dtype="float16"), 4, 1)
    g.to_json(tmp_path / "half.json")
    rule = answer("inference", tmp_path / "half.json")["rule_of_thumb"]
    assert rule["terms"]["weights"] == 2 * g.n_parameters


def test_json_is_the_plan_with_the_question_and_the_rule_beside_it():
    data = answer("inference", "alexnet", "--batch", 2, "--fuse")
    plan = cnnlive.plan_inference(cnnlive.zoo.load("alexnet"), batch=2, fuse=True)
    assert {k: data[k] for k in plan.to_dict()} == json.loads(json.dumps(plan.to_dict()))
    assert data["format"] == "cnnlive-inference-1"
    assert data["dtype"] is None
    assert sum(data["timeline"]) > 0


def test_a_json_file_is_read(tiny, tiny_file):
    assert answer("inference", tiny_file)["peak_bytes"] == cnnlive.plan_inference(tiny).peak_bytes


def test_an_onnx_file_is_read():
    onnx = importlib.util.find_spec("onnx")
    if onnx is None:
        pytest.skip("onnx is not installed")
    path = Path(onnx.submodule_search_locations[0]) / "backend/test/data/light/light_squeezenet.onnx"
    data = answer("inference", path, "--dtype", "float16")
    assert data["peak_bytes"] == cnnlive.plan_inference(cnnlive.read_onnx(path), dtype="float16").peak_bytes


def test_arguments_of_the_zoo_are_numbers_truths_or_tuples():
    small = answer("inference", "resnet18", "--set", "resolution=(64, 96)", "--set", "width=0.5")
    again = cnnlive.plan_inference(cnnlive.zoo.load("resnet18", resolution=(64, 96), width=0.5))
    assert small["peak_bytes"] == again.peak_bytes
    assert _options.read_settings(["batch-norm=true", "a=1e-3", "b=None", "c=mean"]) == {
        "batch_norm": True, "a": 1e-3, "b": None, "c": "mean",
    }  # fmt: skip


def test_the_trained_graph_can_be_asked_for():
    assert len(answer("inference", "googlenet", "--train")["order"]) > len(answer("inference", "googlenet")["order"])


def test_the_order_of_a_plan_is_read_back(tiny_file, tmp_path):
    (tmp_path / "order").write_text("b\na\nr\ns\n")
    first = run("inference", tiny_file, "--order", tmp_path / "order", "--json").stdout
    (tmp_path / "plan.json").write_text(first)
    assert run("inference", tiny_file, "--order", tmp_path / "plan.json", "--json").stdout == first


@pytest.mark.parametrize("form", ["lines", "json"])
def test_an_order_is_read_from_a_file(tiny, tiny_file, tmp_path, form):
    order = ["b", "a", "r", "s"]
    (tmp_path / "order").write_text(json.dumps(order) if form == "json" else "\n".join(order) + "\n")
    assert answer("inference", tiny_file, "--order", tmp_path / "order")["order"] == ["input", *order]


def test_an_order_that_is_none_is_an_error(tiny_file, tmp_path):
    (tmp_path / "order").write_text("s\na\nb\nr\n")
    assert "before" in complaint("inference", tiny_file, "--order", tmp_path / "order")
    for text, words in {
        "[1, 2": "is not JSON",
        "[1, 2]": "is no execution order",
        '{"a": 1}': "is no execution order",
        " \n": "is empty; allowed: op names",
        "aa\nb": "order: the order names 'aa', which is not an op of the network",
    }.items():
        (tmp_path / "order").write_text(text)
        assert words in complaint("inference", tiny_file, "--order", tmp_path / "order")
    (tmp_path / "order").write_bytes(b"\xff\xfe\x00")
    assert "is not text" in complaint("inference", tiny_file, "--order", tmp_path / "order")
    assert "No such file" in complaint("inference", tiny_file, "--order", tmp_path / "nowhere")


def test_the_timeline_lists_every_step(tiny_file, tiny):
    lines = run("inference", tiny_file, "--timeline").stdout.splitlines()
    plan = cnnlive.plan_inference(tiny)
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("step")) + 1 :]
    assert [int(r.split()[1].replace(",", "")) for r in rows] == plan.timeline.tolist()


# ---------------------------------------------------------------------------------- training


def test_the_founding_figures_of_training_vgg16():
    peaks = {batch: answer("training", "vgg16", "--batch", batch)["peak_bytes"] for batch in (1, 8, 16, 32)}
    assert peaks == {1: 2_767_757_132, 8: 2_772_478_788, 16: 3_361_777_796, 32: 4_540_375_812}


def test_the_training_report_says_all_that_it_has_to():
    text = run("training", "resnet50", "--batch", 8, "--optimizer", "sgd", "--momentum", 0.9).stdout
    plan = cnnlive.plan_training(cnnlive.zoo.load("resnet50"), batch=8, optimizer="sgd", momentum=0.9)
    amounts = [plan.peak_bytes, plan.static_bytes, plan.gradient_bytes, plan.saved_bytes, plan.forward_peak,
               plan.backward_peak, plan.optimizer_peak, *plan.composition.values()]  # fmt: skip
    for nbytes in amounts:
        assert f" {nbytes:,} B" in text
    for tensor in plan.live_at_peak[:6]:
        assert re.search(rf"^  {re.escape(tensor.name)} .* {tensor.nbytes:,} B  {tensor.kind}$", text, re.M)
    assert "training, batch 8 · sgd(momentum=0.9), foreach · float32 · cuda · cross_entropy" in text
    assert f"in backward at {plan.peak_op} ({plan.peak_record})" in text
    assert "the rule is 19.8 % too high" in text
    for words in ("counted: ", "Not counted: ", "--allocator", "--context", "--workspace", "█"):
        assert words in text


@pytest.mark.parametrize(
    "how",
    [
        [],
        ["--optimizer", "sgd"],
        ["--precision", "autocast"],
        ["--precision", "bfloat16"],
        ["--device", "cpu", "--zero-grad", "before_backward"],
        ["--freeze", "features.*"],
        ["--first-step"],
    ],
)
@pytest.mark.parametrize("net", ["vgg11", "squeezenet1_1", "densenet121"])
def test_the_reasons_of_training_add_up_to_the_difference(net, how):
    data = answer("training", net, "--batch", 3, *how)
    assert sum(data["composition"].values()) == data["peak_bytes"]
    for rule in data["rules_of_thumb"]:
        assert rule["nbytes"] == sum(rule["terms"].values())
        assert rule["difference"] == data["peak_bytes"] - rule["nbytes"]
        assert sum(r["nbytes"] for r in rule["reasons"]) == rule["difference"]
        assert all(r["nbytes"] and r["words"] for r in rule["reasons"])


def test_json_of_training_is_the_plan():
    data = answer("training", "alexnet", "--batch", 2, "--optimizer", "adamw", "--amsgrad", "--first-step")
    plan = cnnlive.plan_training(
        cnnlive.zoo.load("alexnet", train=True), batch=2, optimizer="adamw", amsgrad=True, first_step=True
    )
    expected = json.loads(json.dumps(plan.to_dict()))
    assert data["network"] == expected.pop("name")
    assert {k: data[k] for k in expected} == expected
    assert [row["nbytes"] for row in data["timeline"]] == plan.timeline.tolist()
    assert [tuple(row.values()) for row in data["ops"]] == [tuple(row) for row in plan.ops]
    assert max(row["nbytes"] for row in data["timeline"]) == plan.peak_bytes


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["-O", "centered=true", "--momentum", 0.9, "--optimizer", "rmsprop"],
         {"optimizer": "rmsprop", "centered": True, "momentum": 0.9}),
        (["--optimizer", "sgd", "--momentum", 0.9, "--nesterov", "--weight-decay", 1e-4],
         {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}),
        (["-O", "betas=0.8,0.9", "-O", "lr=0.1", "--implementation", "fused"], {"implementation": "fused"}),
        (["--precision", "autocast_bfloat16", "--autocast-loss"],
         {"precision": "autocast_bfloat16", "autocast_loss": True}),
        (["--device", "cpu", "--loss", "mse", "--micro-batches", 2],
         {"device": "cpu", "loss": "mse", "micro_batches": 2}),
        (["--no-set-to-none", "--zero-grad", "after_step"], {"set_to_none": False, "zero_grad": "after_step"}),
        (["--freeze", "layer1", "--freeze", "layer2.0.*", "--input-gradients"],
         {"frozen_layers": ["layer1", "layer2.0.*"], "input_gradients": True}),
        (["--allocator"], {"allocator": "cuda"}),
        (["--cuda-conf", "expandable_segments:True"],
         {"allocator": cnnlive.CudaAllocator(expandable_segments=True)}),
    ],
)  # fmt: skip
def test_options_of_a_training_step_reach_the_planner(arguments, options):
    data = answer("training", "resnet18", "--batch", 4, *arguments)
    plan = cnnlive.plan_training(cnnlive.zoo.load("resnet18", train=True), batch=4, **options)
    expected = json.loads(json.dumps(plan.to_dict()))
    expected.pop("name")
    assert {k: data[k] for k in expected} == expected


def test_networks_train_with_their_auxiliary_heads_unless_told_otherwise():
    whole, used = answer("training", "googlenet"), answer("training", "googlenet", "--eval")
    assert whole["parameter_bytes"] > used["parameter_bytes"]
    assert "3 outputs, auxiliary ones among them" in run("training", "googlenet").stdout
    less = answer("training", "googlenet", "--aux-weight", 0)
    plan = cnnlive.plan_training(cnnlive.zoo.load("googlenet", train=True), aux_weight=0)
    assert less["backward_peak"] == plan.backward_peak != whole["backward_peak"]


def test_what_is_set_aside_is_added_and_named():
    text = run("training", "alexnet", "--context", "1.8GiB", "--workspace", 8_519_680).stdout
    peak = cnnlive.plan_training(cnnlive.zoo.load("alexnet")).peak_bytes
    assert f"{cnnlive.CONTEXT_BYTES:,} B" in text
    assert f"{peak + cnnlive.CONTEXT_BYTES + 8_519_680:,} B" in text
    assert "--context" not in text
    text = run("training", "alexnet", "--allocator", "--context", "1GiB").stdout
    plan = cnnlive.plan_training(cnnlive.zoo.load("alexnet"), allocator="cuda")
    for nbytes in (plan.allocated_bytes, plan.reserved_bytes, plan.reserved_bytes + 2**30):
        assert f" {nbytes:,} B" in text
    assert "--allocator" not in text


def test_the_table_of_ops_and_the_timeline_of_training():
    plan = cnnlive.plan_training(cnnlive.zoo.load("alexnet"), batch=2)
    text = run("training", "alexnet", "--batch", 2, "--ops", "--timeline").stdout
    for row in plan.ops:
        assert re.search(rf"^{re.escape(row.name)} .* {row.saved_bytes:,} +{row.forward_bytes:,} ", text, re.M), row
    assert len(re.findall(r"^forward ", text, re.M)) == plan.tape.n_records
    assert re.search(rf"^optimizer +{plan.optimizer_peak:,} ", text, re.M)
    text = run("training", "alexnet", "--batch", 2, "--ops", "--top", 3).stdout
    rows = text[text.index("name ") :].splitlines()[1:4]
    most = sorted(plan.ops, key=lambda row: -row.saved_bytes)[:3]
    assert [line.split()[0] for line in rows] == [row.name for row in most]
    assert "(" + str(len(plan.live_at_peak) - 3) + " more)" in text


def test_the_training_report_fits_one_screen():
    wide = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "120"}
    for net in ("vgg16", "resnet50", "densenet121", "googlenet"):
        for how in ([], ["--allocator", "--context", "1GiB", "--workspace", "9MB"]):
            lines = run("training", net, "--batch", 8, *how, env=wide).stdout.splitlines()
            assert len(lines) <= 52


# ---------------------------------------------------------------------------------- what fits


def test_the_largest_batch_fits_and_the_next_does_not():
    data = answer("fit", "resnet50", "--budget", "24GiB", "--optimizer", "sgd", "--momentum", 0.9, "--no-checkpoints")
    largest = cnnlive.largest_batch(
        cnnlive.zoo.load("resnet50"), budget="24GiB", optimizer="sgd", momentum=0.9
    )  # fmt: skip
    assert data["largest_batch"] == largest
    assert [(row["batch"], row["fits"]) for row in data["batches"]] == [(largest, True), (largest + 1, False)]
    for row in data["batches"]:
        assert row["needed_bytes"] == row["plan"]["peak_bytes"] == row["budget_bytes"] - row["free_bytes"]
    text = run(
        "fit", "resnet50", "--budget", "24GiB", "--optimizer", "sgd", "--momentum", 0.9, "--no-checkpoints"
    ).stdout
    assert f"largest batch that fits: {largest}\n" in text
    assert f"batch {largest + 1} peaks in backward at " in text
    assert "one image more takes " in text


def test_multiples_and_what_is_set_aside():
    how = ["--multiple-of", 8, "--context", "1GiB", "--workspace", "9MB", "--no-checkpoints"]
    data = answer("fit", "resnet18", "--budget", "4GiB", *how)
    assert [row["batch"] % 8 for row in data["batches"]] == [0, 0]
    assert data["context_bytes"] == 2**30
    row = data["batches"][0]
    assert row["needed_bytes"] == row["plan"]["peak_bytes"] + 2**30 + 9_000_000


def test_the_allocator_takes_part_in_what_fits():
    how = ["fit", "resnet18", "--budget", "2GiB"]
    plain, replayed = answer(*how, "--no-checkpoints"), answer(*how, "--allocator")
    assert replayed["largest_batch"] < plain["largest_batch"]
    assert replayed["batches"][0]["needed_bytes"] == replayed["batches"][0]["plan"]["reserved_bytes"]


def test_an_inference_may_be_asked_for():
    data = answer("fit", "vgg16", "--budget", "1GiB", "--inference", "--dtype", "float16", "--profile", "torch_fx")
    graph = cnnlive.zoo.load("vgg16")
    largest = cnnlive.largest_batch(graph, budget="1GiB", mode="inference", dtype="float16", profile="torch_fx")
    assert data["mode"] == "inference"
    assert data["largest_batch"] == largest
    assert "vgg16  inference · float16 · profile torch_fx\n" in run(
        "fit", "vgg16", "--budget", "1GiB", "--inference", "--dtype", "float16", "--profile", "torch_fx"
    ).stdout  # fmt: skip


def test_not_to_fit_is_an_answer_and_an_exit_code_for_scripts():
    assert run("fit", "vgg16", "--budget", "1GiB").exit_code == 0
    assert "not even batch 1 fits" in run("fit", "vgg16", "--budget", "1GiB").stdout
    assert answer("fit", "vgg16", "--budget", "1GiB")["largest_batch"] == 0
    one = answer("fit", "vgg16", "--budget", "4GiB", "--batch", 64)
    assert (one["fits"], one["largest_batch"], len(one["batches"])) == (False, None, 1)
    for budget, code in (("1GiB", 1), ("16GiB", 0)):
        assert run("fit", "vgg16", "--budget", budget, "--batch", 64, "--check").exit_code == code
        assert run("fit", "vgg16", "--budget", budget, "--check").exit_code == code
    assert "batch 64 does not fit\n" in run("fit", "vgg16", "--budget", "4GiB", "--batch", 64).stdout


# ---------------------------------------------------------------------------------- sources


@pytest.fixture
def a_module(tmp_path, monkeypatch):
    """Stand in a folder with a module that makes networks."""
    (tmp_path / "nets_of_mine.py").write_text(
        "import cnnlive\n"
        "def graph():\n"
        "    g = cnnlive.Graph('mine')\n"
        "    g.output(g.linear(g.flatten(g.conv2d(g.input((1, 3, 8, 8)), 4, 3, padding=1)), 10))\n"
        "    return g\n"
        "def module():\n"
        "    from torch import nn\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))\n"
        "number = 7\n"
        "def broken(): raise KeyError('x')\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "nets_of_mine"
    sys.modules.pop("nets_of_mine", None)


@pytest.mark.parametrize("command", ["inference", "training", "ops"])
def test_a_graph_of_a_module_is_a_source(a_module, command):
    assert answer(command, f"{a_module}:graph", "--batch", 2)["network"] == "mine"
    assert answer("fit", f"{a_module}:graph", "--budget", "1MiB")["largest_batch"] > 0


def test_a_pytorch_module_is_a_source(a_module):
    pytest.importorskip("torch")
    shape = ["--input-shape", "1,1,8,8"]
    data = answer("training", f"{a_module}:module", "--batch", 3, "--optimizer", "sgd", *shape)
    graph = cnnlive.load_source(f"{a_module}:module", input_shape=(1, 1, 8, 8), train=True)
    assert data["peak_bytes"] == cnnlive.plan_training(graph, batch=3, optimizer="sgd").peak_bytes
    assert answer("inference", f"{a_module}:module", "--input-shape", "1x1x8x8")["input_bytes"] == 256


def test_a_source_that_is_none_is_one_line(a_module):
    for source, words in {
        f"{a_module}:nothing": "has no 'nothing'",
        f"{a_module}:number": "is a int; allowed",
        f"{a_module}:broken": "nets_of_mine:broken: KeyError: 'x'",
        "no_such_module:x": "no module 'no_such_module'",
        "torchvision:": "names no network",
    }.items():
        assert words in complaint("training", source)
    assert "--set is for networks of the zoo" in complaint("training", f"{a_module}:graph", "--set", "width=2")
    words = "allowed: one, its sizes with the batch"
    assert words in complaint("training", f"{a_module}:graph", "--input-shape", "x=1,2")
    assert words in complaint("ops", f"{a_module}:graph", "--input-shape", "1,2", "--input-shape", "1,2")


def test_without_pytorch_its_sources_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "cnnlive[torch]" in complaint("inference", "torchvision:resnet18")
    assert "cnnlive[torch]" in complaint("training", "timm:resnet18")


# ---------------------------------------------------------------------------------- the other commands


def test_ops_are_listed_in_order_with_their_sums():
    lines = run("ops", "alexnet").stdout.splitlines()
    rows = [line.split() for line in lines[3:-4]]
    plan = cnnlive.plan_inference(cnnlive.zoo.load("alexnet"))
    assert [r[1] for r in rows] == [r.name for r in plan.ops]
    assert [int(r[-1].replace(",", "")) for r in rows] == plan.timeline.tolist()
    assert "61,100,840 parameters" in lines[-3]
    assert f"({plan.activation_peak_bytes:,} B)" in lines[-2]
    assert "in place" in lines[-1]


@pytest.mark.parametrize(
    ("by", "key"),
    [("bytes", "output_bytes"), ("macs", "macs"), ("params", "parameters"), ("live", "live_bytes")],
)
def test_ops_are_sorted_the_largest_first(by, key):
    rows = cnnlive.plan_inference(cnnlive.zoo.load("alexnet")).ops
    largest = sorted((getattr(r, key) for r in rows), reverse=True)[:4]
    assert [row[key] for row in answer("ops", "alexnet", "--sort", by, "--limit", 4)["ops"]] == largest


def test_the_zoo_lists_every_network():
    families = answer("zoo")["families"]
    assert sorted(n for members in families.values() for n in members) == cnnlive.zoo.names()
    text = run("zoo").stdout
    assert all(name in text for name in cnnlive.zoo.names())
    assert answer("zoo", "--family", "vgg")["families"] == {"vgg": list(cnnlive.zoo.families()["vgg"])}


def test_the_zoo_says_what_a_network_takes():
    data = answer("zoo", "resnet18")
    assert data["arguments"] == json.loads(json.dumps(cnnlive.zoo.arguments("resnet18")))
    assert data["parameters"] == 11_689_512
    assert data["inputs"] == [{"name": "input", "shape": [1, 3, 224, 224], "dtype": "float32"}]
    text = run("zoo", "resnet50").stdout
    typed = re.findall(r"--set (\S+)$", text, re.M)
    assert "blocks=3,4,6,3" in typed
    assert _options.read_settings(typed) == cnnlive.zoo.arguments("resnet50")


@pytest.mark.parametrize("net", cnnlive.zoo.names())
def test_what_the_zoo_shows_of_arguments_can_be_typed(net):
    defaults = cnnlive.zoo.arguments(net)
    assert _options.read_settings([f"{key}={_options.as_typed(value)}" for key, value in defaults.items()]) == defaults


def test_operators_are_listed():
    names = [row["name"] for row in answer("operators")["operators"]]
    assert names == sorted(cnnlive.ops.OPERATORS)
    assert [row["name"] for row in answer("operators", "conv2d")["operators"]] == ["conv2d"]
    assert re.search(r"^ +kernel_size: 2 ints$", run("operators", "conv2d").stdout, re.M)


def test_optimizers_are_listed():
    from cnnlive.plan.optimizers import OPTIMIZERS  # noqa: PLC0415 - the rest of the file needs no planner

    rows = answer("optimizers")["optimizers"]
    assert list(dict.fromkeys(row["name"] for row in rows)) == list(OPTIMIZERS)
    adam = next(row for row in rows if row["name"] == "adam")
    assert (adam["state"], adam["single"], adam["foreach"], adam["fused"]) == (2, 2, 1, 0)
    assert {row["name"] for row in answer("optimizers", "sgd")["optimizers"]} == {"sgd"}
    text = run("optimizers").stdout
    assert re.search(r"^ +amsgrad=True +3 +2 +1 +0$", text, re.M)
    assert all(re.search(rf"^{name} ", text, re.M) for name in OPTIMIZERS)


def test_profiles_are_listed():
    assert [p["name"] for p in answer("profiles")["profiles"]] == list(cnnlive.PROFILES)
    text = run("profiles").stdout
    assert all(f"\n{p.name} " in text and p.summary in text for p in cnnlive.PROFILES.values())
    assert re.search(r"^torch_fx +keeps_inputs +the caller .* yes$", text, re.M)
    assert re.search(r"^tflm +alignment .* 16$", text, re.M)


def test_the_version_is_that_of_the_package():
    assert run("--version").stdout == f"cnnlive, version {cnnlive.__version__}\n"


# ---------------------------------------------------------------------------------- failing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inference", "vgg61"], "did you mean vgg"),
        (["inference", "VGG16"], "did you mean vgg16"),
        (["inference", "nowhere.onnx"], "nowhere.onnx"),
        (["inference", "nowhere.json"], "nowhere.json"),
        (["inference", __file__], "neither an .onnx, a .tflite nor a .json"),
        (["inference", "vgg16", "--batch", "0"], "batch=0"),
        (["inference", "vgg16", "--batch", "x"], "not a valid integer"),
        (["inference", "vgg16", "--dtype", "float7"], "float32, float16"),
        (["inference", "vgg16", "--profile", "paper"], "ideal, torch, torch_fx"),
        (["inference", "vgg16", "--profile", "onnxruntme"], "did you mean onnxruntime"),
        (["inference", "vgg16", "--batch", "9" * 30], "allowed: an integer >= 1"),
        (["inference", ""], "NET is empty"),
        (["inference", "vgg16", "--dtype-of", "features.0"], "NAME=TYPE"),
        (["inference", "vgg16", "--dtype-of", "features.0=int7"], "unknown dtype 'int7'"),
        (["inference", "vgg16", "--dtype-of", "feature.0=int8"], "did you mean features.0"),
        (["inference", "vgg16", "--inplace", "maybe"], "'--inplace': 'maybe' is not one of 'graph', 'dead', 'never'"),
        (["inference", "vgg16", "--set", "train=true"], "--train"),
        (["inference", "vgg16", "--set", "name=x"], "takes no argument 'name'"),
        (["inference", "vgg16", "--set", "num_classes=10**3"], "allowed: an integer >= 1"),
        (["inference", "resnet", "--set", "depth=10**9"], "depth='10**9'; allowed"),
        (["inference", "vgg16", "--set", "resolution"], "KEY=VALUE"),
        (["inference", "vgg16", "--set", "depth=3"], "takes no argument 'depth'"),
        (["inference", "vgg16", "--set", "resolution=7"], "does not fit"),
        (["inference", "vgg16", "--input-shape", "x=1,3"], "--input-shape is for .onnx files and PyTorch"),
        (["inference", "a.json", "--set", "x=1"], "--set is for networks of the zoo"),
        (["inference", "a.onnx", "--train"], "--train and --eval"),
        (["inference", "a.onnx", "--input-shape", "x=1,y"], "NAME=SIZES"),
        (["inference"], "Missing argument"),
        (["training"], "Missing argument"),
        (["training", "vgg61"], "did you mean vgg"),
        (["training", "vgg16", "--optimizer", "adma"], "did you mean adam"),
        (["training", "vgg16", "--nesterov"], "option 'nesterov' of optimizer adam; allowed: "),
        (["training", "vgg16", "-O", "momentum"], "-O 'momentum'; allowed: KEY=VALUE"),
        (["training", "vgg16", "-O", "device=cpu"], "the option for that is --device"),
        (["training", "vgg16", "--implementation", "fast"], "allowed: single, foreach, fused"),
        (["training", "vgg16", "--precision", "int8"], "'autocast'"),
        (["training", "vgg16", "--device", "tpu"], "cpu, cuda"),
        (["training", "vgg16", "--loss", "hinge"], "cross_entropy"),
        (["training", "vgg16", "--zero-grad", "never"], "'after_step'"),
        (["training", "vgg16", "--micro-batches", "0"], "micro_batches=0"),
        (["training", "vgg16", "--freeze", "feature.0"], "did you mean features.0"),
        (["training", "vgg16", "--cuda-conf", "expand:True"], "unknown key 'expand'"),
        (["training", "vgg16", "--allocator", "--device", "cpu"], "--device is cpu"),
        (["training", "vgg16", "--context", "much"], "'much' is not an amount of bytes"),
        (["training", "vgg16", "--batch", "0"], "batch=0"),
        (["training", "vgg16", "--top", "0"], "--top"),
        (["training", "a.json", "--train"], "--train and --eval"),
        (["fit", "vgg16"], "'--budget'"),
        (["fit", "vgg16", "--budget", "24GX"], "is not an amount of bytes"),
        (["fit", "vgg16", "--budget", "1GiB", "--fuse"], "--fuse is for inference; add --inference"),
        (
            ["fit", "vgg16", "--budget", "1GiB", "--inference", "--optimizer", "sgd"],
            "--optimizer is for a training step",
        ),
        (["fit", "vgg16", "--budget", "1GiB", "--multiple-of", "0"], "allowed: an integer >= 1"),
        (["fit", "vgg16", "--budget", "1GiB", "--batch", "-1"], "allowed: an integer >= 1"),
        (["optimizers", "adma"], "did you mean adam"),
        (["timm:resnet18"], "'cnnlive inference timm:resnet18'"),
        (["ops", "vgg16", "--limit", "0"], "--limit"),
        (["ops", "vgg16", "--sort", "size"], "--sort"),
        (["zoo", "resnet5"], "did you mean"),
        (["zoo", "--family", "vgh"], "allowed: "),
        (["zoo", "vgg16", "--family", "vgg"], "exclude each other"),
        (["zoo", "model.onnx"], "cnnlive inference model.onnx"),
        (["operators", "conv"], "did you mean"),
        (["vgg16"], "'cnnlive inference vgg16'"),
        (["model.onnx"], "'cnnlive inference model.onnx'"),
        (["guess"], "no command 'guess' (`cnnlive --help` lists them)"),
        (["tranning"], "no command 'tranning'; did you mean training?"),
        (["training", "vgg16", "--bacth", "3"], "--batch"),
        (["fit", "vgg16", "--budget", "1GiB", "--quiet"], "--quiet leaves no answer here; allowed: with --check"),
        (["--fast"], "No such option"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(arguments, words):
    assert words in complaint(*arguments)


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "a.json").write_text('{"format": "cnnlive-graph-1",\n "ops": 7}')
    assert "a.json" in complaint("inference", tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{\n")
    assert "not JSON" in complaint("inference", tmp_path / "a.json")


def test_an_open_shape_is_asked_for_by_the_name_of_the_option(tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    shape = ["N", 3, "H", "W"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["data"], ["y"])], "g", [value("data", 1, shape)], [value("y", 1, shape)]
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "a.onnx")
    assert "give it: --input-shape data=..." in complaint("inference", tmp_path / "a.onnx")
    words = complaint("inference", tmp_path / "a.onnx", "--input-shape", "x=1,3,8,8")
    assert "--input-shape names 'x', which is not an input; allowed: data" in words
    data = answer("inference", tmp_path / "a.onnx", "--input-shape", "data=1,3,8,8", "--batch", 2)
    assert data["input_bytes"] == 2 * 3 * 8 * 8 * 4


@pytest.mark.parametrize("name", ["a.onnx", "a.json"])
@pytest.mark.parametrize("content", [b"", b"some text\n", bytes(range(256)) * 8, b"[" * 100_000])
def test_what_is_no_network_is_one_line(tmp_path, name, content):
    if name == "a.onnx":
        pytest.importorskip("onnx")
    (tmp_path / name).write_bytes(content)
    assert name in complaint("inference", tmp_path / name)
    (tmp_path / "folder").mkdir()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert "directory" in complaint("inference", tmp_path / name)
    assert "neither an .onnx, a .tflite nor a .json file" in complaint("inference", tmp_path / "folder")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "cnnlive", "zoo"], check=False, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 2
    assert result.stderr == "cnnlive: error: No space left on device\n"


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "a.onnx").write_bytes(b"")
    assert "cnnlive[onnx]" in complaint("inference", tmp_path / "a.onnx")


def test_control_c_ends_with_130_and_no_traceback(monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_inference, "load_net", interrupt)
    result = run("inference", "vgg16")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.strip() == "cnnlive: interrupted"


@pytest.mark.skipif(os.name != "posix", reason="pipes break otherwise elsewhere")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_who_leaves_early_is_no_error(form):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "cnnlive", "ops", "alexnet", *form],
        check=False,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_an_error_of_the_real_program_has_no_traceback():
    result = process("inference", "nowhere.onnx")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"cnnlive: error: .*nowhere\.onnx.*\n", result.stderr)


# ---------------------------------------------------------------------------------- how it looks


def test_piped_output_has_no_escapes_and_cuts_no_name():
    result = process("ops", "densenet121")
    assert ESCAPE not in result.stdout
    assert "…" not in result.stdout
    for name in cnnlive.zoo.load("densenet121").nodes():
        assert f" {name} " in result.stdout
    assert not any(line.endswith(" ") for line in result.stdout.splitlines())


@pytest.mark.parametrize("columns", [60, 80, 100, 120])
@pytest.mark.parametrize(
    "arguments",
    [
        ["inference", "densenet121", "--timeline"],
        ["inference", "resnet50"],
        ["training", "googlenet", "--batch", "8", "--ops", "--timeline"],
        ["training", "vgg16", "--cuda-conf", "expandable_segments:True", "--context", "1GiB"],
        ["fit", "densenet121", "--budget", "4GiB"],
        ["fit", "densenet121", "--budget", "4GiB", "--allocator", "--context", "1GiB", "--workspace", "9MB"],
        ["fit", "densenet121", "--budget", "4GiB", "--inference"],
        ["optimizers"],
        ["ops", "densenet121"],
        ["zoo"],
        ["zoo", "resnet50"],
        ["operators"],
        ["operators", "conv2d"],
        ["profiles"],
    ],
)
def test_a_terminal_is_never_overflown(arguments, columns):
    text = run(*arguments, env={"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": str(columns)}).stdout
    assert max(map(len, text.splitlines())) <= columns


def test_colours_are_for_terminals_that_want_them():
    assert ESCAPE in run("inference", "alexnet", env={"FORCE_COLOR": "1", "TERM": "xterm"}).stdout
    assert ESCAPE not in run("inference", "alexnet", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert ESCAPE not in run("inference", "alexnet").stdout


def test_the_report_fits_one_screen():
    wide = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "120"}
    for net in ("vgg16", "resnet50", "densenet121", "randwire", "mobilenet_v2"):
        for profile in cnnlive.PROFILES:
            how = ["inference", net, "--profile", profile]
            assert len(run(*how, env=wide).stdout.splitlines()) <= 36
            assert len(run(*how, env={**wide, "COLUMNS": "80"}).stdout.splitlines()) <= 42


def test_a_narrow_table_keeps_what_is_alive():
    narrow = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "60"}
    text = run("ops", "vgg16", "--limit", 3, env=narrow).stdout
    assert re.search(r"live$", text.splitlines()[2])
    assert re.search(r"^ +1 +features\.0 .* 12\.8 MiB$", text, re.M)


def test_why_something_is_alive_is_said():
    text = run("inference", "resnet50", "--profile", "torch_fx").stdout
    for name, why in {
        "layer1.0.bn3": "until layer1.1.add",
        "layer1.0.downsample.0": "read here",
        "layer1.0.downsample.1": "written here",
        "input": "kept by the caller",
    }.items():
        assert re.search(rf"^  {re.escape(name)} .*\) +{why}$", text, re.M), name
    assert "1 more tensor" not in text
    assert "one more tensor is alive: layer1.0.bn3 until layer1.1.add" in text


def test_commands_are_listed_as_people_meet_them():
    text = run("--help").stdout
    sections = re.findall(r"^(What .*):\n((?:  \S.*\n| {10,}\S.*\n)+)", text, re.M)
    assert {head: re.findall(r"^  (\S+)", rows, re.M) for head, rows in sections} == {
        "What it takes": ["inference", "training", "fit", "ops", "report"],
        "What to do about it": ["checkpoint", "frontier", "order", "arena", "compare"],
        "What there is": ["zoo", "operators", "optimizers", "profiles"],
    }
    listed = [name for names in cli.main.sections.values() for name in names]
    assert sorted(listed) == sorted(cli.main.commands)
    assert all(f"  {name} " in text for name in listed)
    for words in ("Examples:", "Exit codes:", "  cnnlive fit resnet50 --budget 24GiB ", "  141  "):
        assert words in text
    assert "cnnlive inference mobilenet_v2 --dtype int8 --fuse\n" in run("inference", "--help").stdout


def test_an_ascii_terminal_gets_ascii():
    result = process("inference", "alexnet", env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    assert "?" not in result.stdout


def test_the_sparkline_keeps_the_peak_and_leaves_only_zero_blank():
    line = sparkline([0] * 500 + [9] + [1] * 499, 60)
    assert len(line) == 60
    assert line.count("█") == 1
    assert line.startswith(" " * 29)
    assert line.endswith("▁")
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "  "


def test_shapes_are_written_as_people_do():
    assert shape_text([(1, 2), (3,)]) == "1x2, 3"


# ---------------------------------------------------------------------------------- speed


def test_help_imports_nothing_slow():
    code = (
        "import sys; from cnnlive.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numba', 'numpy', 'networkx', 'rich', 'onnx'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stderr == "[]\n"
