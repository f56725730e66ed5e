"""The arena of TensorFlow Lite Micro, byte for byte: the real interpreter, and figures measured with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tflm
from click.testing import CliRunner

import cnnlive
from cnnlive import cli
from cnnlive.plan.arena import plan_arena

pytest.importorskip("tflite", reason="the schema package tflite is not installed (extra 'tflite')")
import tflite_models as models

from cnnlive.io.tflite import read_tflite

DATA = Path(__file__).parent / "data" / "tflm.json"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "scheduling" / "tflite_activation_graphs.json"
MEASURED = json.loads(DATA.read_text(encoding="utf-8"))
REAL = pytest.mark.skipif("tflm.reason()", reason=tflm.reason() or "never")


def arena(path, **more):
    """Return the arena that cnnlive plans for a file."""
    graph = read_tflite(path)
    return plan_arena(graph, profile="tflm", batch=graph.inputs[0].shape[0], **more)


def written(folder, nets):
    """Write nets as files; return the files."""
    files = []
    for i, net in enumerate(nets):
        files.append(folder / f"net{i}.tflite")
        files[-1].write_bytes(net.write())
    return files


def built(make, dtype):
    net = models.Net(dtype)
    make(net)
    return net


# ---------------------------------------------------------------------------------- the real interpreter


@REAL
def test_the_interpreter_allocates_what_is_planned(tmp_path):
    wide = (models.chain, models.residual, models.inception, models.decoder, models.two_inputs)
    cases = [(make, dtype) for make in models.NETS for dtype in ("float32", "int8")]
    cases += [(make, "int16") for make in wide] + [(models.recurrent, "float32")]
    nets = {(make.__name__, dtype): built(make, dtype) for make, dtype in cases}
    files = written(tmp_path, nets.values())
    found = dict(zip(nets, tflm.heads(files), strict=True))
    planned = {name: arena(file).arena_bytes for name, file in zip(nets, files, strict=True)}
    assert {name: row[0] for name, row in found.items()} == planned
    assert len(planned) == 28


@REAL
def test_the_interpreter_allocates_what_is_planned_for_random_nets(tmp_path):
    nets = [models.random_net(seed) for seed in range(60)]
    files = written(tmp_path, nets)
    found = tflm.heads(files)
    assert [row[0] for row in found] == [arena(file).arena_bytes for file in files]


@REAL
def test_the_order_in_which_a_file_lists_tensors_decides_between_equal_ones(tmp_path):
    nets = []
    for seed in range(12):
        net = models.Net("int8", seed)
        x = net.conv(net.input((1, 8, 8, 4)), 4)
        for _ in range(4):
            x = net.binary("ADD", net.conv(x, 4), net.depthwise(x))
        net.output(x)
        nets.append(net.shuffle())
    files = written(tmp_path, nets)
    found = [row[0] for row in tflm.heads(files)]
    assert found == [arena(file).arena_bytes for file in files]


# ---------------------------------------------------------------------------------- its planner, written down


@pytest.mark.parametrize("seed", range(40))
def test_plans_equal_the_planner_written_down(seed, tmp_path):
    net = models.random_net(seed)
    (file,) = written(tmp_path, [net])
    plan = arena(file)
    assert plan.arena_bytes == tflm.head(net.rows())


def lowered(model):
    ops = model["ops"]
    outs = [op.get("outputs", [op["output"]] if "output" in op else []) for op in ops]
    return cnnlive.Lowered.from_arrays(
        model["tensor_bytes"], [op["inputs"] for op in ops], outs, outputs=model["graph_outputs"], name=model["name"]
    )


def check(model):
    net = lowered(model)
    plan = plan_arena(net, method="tflm", alignment=16, pads=True)
    assert plan.arena_bytes == model["tflm_head_bytes"]
    assert cnnlive.plan_inference(net).activation_peak_bytes == model["liveness_peak"]
    best = cnnlive.plan_inference(net, order="best")
    assert (best.activation_peak_bytes, best.optimal) == (model["optimal_order_peak"], True)


@pytest.mark.parametrize("model", MEASURED["models"], ids=lambda m: m["name"])
def test_measured_arenas_of_public_models(model):
    check(model)


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED.name} is not here")
def test_measured_arenas_of_all_models():
    found = json.loads(SHARED.read_text(encoding="utf-8"))["models"]
    assert len(found) == 15
    for model in found:
        check(model)


# ---------------------------------------------------------------------------------- the page


def test_the_page_s_lines_run(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "tflite.md").read_text(encoding="utf-8")
    (tmp_path / "model.tflite").write_bytes(built(models.streaming, "int8").write())
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)), names)
    assert {names["graph"].op_of(name) for name in names["graph"].nodes()} >= {"opaque", "linear"}
    for line in re.findall(r"^cnnlive (.*)$", page, re.M):
        result = CliRunner().invoke(cli.main, line.split(), catch_exceptions=False)
        assert result.exit_code == 0
        assert f"{arena('model.tflite').arena_bytes:,} B" in result.output


def test_the_page_s_figures_are_those_of_the_data():
    page = (Path(__file__).parents[1] / "docs" / "tflite.md").read_text(encoding="utf-8")
    rows = [
        re.findall(r"[\d,]+", line)[-4:] for line in page.splitlines() if re.match(r"\| (MLPerf|person|micro_)", line)
    ]
    found = sorted(tuple(int(cell.replace(",", "")) for cell in row) for row in rows)
    assert found == sorted(
        (m["liveness_peak"], m["tflm_head_bytes"], m["tflm_total_bytes"] - m["tflm_head_bytes"], m["tflm_total_bytes"])
        for m in MEASURED["models"]
    )
