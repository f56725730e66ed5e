"""The command line: what it prints, its JSON, and how it fails."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import cnnlive
from cnnlive import cli
from cnnlive.report.text import shape_text, sparkline

ESCAPE = "\x1b["


def run(*arguments, env=None):
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], env=env, catch_exceptions=False)


def answer(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def complaint(*arguments):
    """Run what has to fail, and return its one line."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("cnnlive: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.strip()


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
    assert cli._settings(["batch-norm=true", "a=1e-3", "b=None", "c=mean"]) == {
        "batch_norm": True, "a": 1e-3, "b": None, "c": "mean",
    }  # fmt: skip


def test_the_trained_graph_can_be_asked_for():
    assert len(answer("inference", "googlenet", "--train")["order"]) > len(answer("inference", "googlenet")["order"])


@pytest.mark.parametrize("form", ["lines", "json"])
def test_an_order_is_read_from_a_file(tiny, tiny_file, tmp_path, form):
    order = ["b", "a", "r", "s"]
    (tmp_path / "order").write_text(json.dumps(order) if form == "json" else "\n".join(order) + "\n")
    assert answer("inference", tiny_file, "--order", tmp_path / "order")["order"] == ["input", *order]


def test_an_order_that_is_none_is_an_error(tiny_file, tmp_path):
    (tmp_path / "order").write_text("s\na\nb\nr\n")
    assert "before" in complaint("inference", tiny_file, "--order", tmp_path / "order")
    (tmp_path / "order").write_text("[1, 2")
    assert "JSON list" in complaint("inference", tiny_file, "--order", tmp_path / "order")
    assert "No such file" in complaint("inference", tiny_file, "--order", tmp_path / "nowhere")


def test_the_timeline_lists_every_step(tiny_file, tiny):
    lines = run("inference", tiny_file, "--timeline").stdout.splitlines()
    plan = cnnlive.plan_inference(tiny)
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("step")) + 1 :]
    assert [int(r.split()[1].replace(",", "")) for r in rows] == plan.timeline.tolist()


# ---------------------------------------------------------------------------------- the other commands


def test_ops_are_listed_in_order_with_their_sums():
    lines = run("ops", "alexnet").stdout.splitlines()
    rows = [line.split() for line in lines[3:-3]]
    plan = cnnlive.plan_inference(cnnlive.zoo.load("alexnet"))
    assert [r[1] for r in rows] == [r.name for r in plan.ops]
    assert [int(r[-1].replace(",", "")) for r in rows] == plan.timeline.tolist()
    assert "61,100,840 parameters" in lines[-2]
    assert f"({plan.activation_peak_bytes:,} B)" in lines[-1]


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
    assert answer("zoo", "--family", "vgg")["families"] == {"vgg": cnnlive.zoo.names("vgg")}


def test_the_zoo_says_what_a_network_takes():
    data = answer("zoo", "resnet18")
    assert data["arguments"] == json.loads(json.dumps(cnnlive.zoo.arguments("resnet18")))
    assert data["parameters"] == 11_689_512
    assert data["inputs"] == [{"name": "input", "shape": [1, 3, 224, 224], "dtype": "float32"}]
    assert "--set resolution" in run("zoo", "resnet18").stdout


def test_operators_are_listed():
    names = [row["name"] for row in answer("operators")["operators"]]
    assert names == sorted(cnnlive.ops.OPERATORS)
    assert [row["name"] for row in answer("operators", "conv2d")["operators"]] == ["conv2d"]
    assert "kernel_size" in run("operators", "conv2d").stdout


def test_profiles_are_listed():
    assert [p["name"] for p in answer("profiles")["profiles"]] == list(cnnlive.PROFILES)
    assert all(name in run("profiles").stdout for name in cnnlive.PROFILES)


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
        (["inference", __file__], "neither an .onnx nor a .json"),
        (["inference", "vgg16", "--batch", "0"], "batch=0"),
        (["inference", "vgg16", "--batch", "x"], "not a valid integer"),
        (["inference", "vgg16", "--dtype", "float7"], "float32, float16"),
        (["inference", "vgg16", "--profile", "paper"], "ideal, torch_fx"),
        (["inference", "vgg16", "--inplace", "maybe"], "'graph', 'dead', 'never'"),
        (["inference", "vgg16", "--set", "resolution"], "KEY=VALUE"),
        (["inference", "vgg16", "--set", "depth=3"], "takes no argument 'depth'"),
        (["inference", "vgg16", "--set", "resolution=7"], "does not fit"),
        (["inference", "vgg16", "--input-shape", "x=1,3"], "--input-shape is for .onnx"),
        (["inference", "a.json", "--set", "x=1"], "--set is for networks of the zoo"),
        (["inference", "a.onnx", "--train"], "--train and --eval"),
        (["inference", "a.onnx", "--input-shape", "x=1,y"], "NAME=SIZES"),
        (["inference"], "Missing argument"),
        (["ops", "vgg16", "--limit", "0"], "--limit"),
        (["ops", "vgg16", "--sort", "size"], "--sort"),
        (["zoo", "resnet5"], "did you mean"),
        (["zoo", "--family", "vgh"], "allowed: "),
        (["operators", "conv"], "did you mean"),
        (["guess"], "No such command"),
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


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "a.onnx").write_bytes(b"")
    assert "cnnlive[onnx]" in complaint("inference", tmp_path / "a.onnx")


def test_control_c_ends_with_130_and_no_traceback(monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_load", interrupt)
    result = run("inference", "vgg16")
    assert result.exit_code == 130
    assert "Traceback" not in result.output


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
        ["ops", "densenet121"],
        ["zoo"],
        ["operators"],
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
    for net in ("vgg16", "resnet50", "densenet121"):
        assert len(run("inference", net).stdout.splitlines()) <= 36


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
