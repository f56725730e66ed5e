"""The command line of orders, arenas and profiles side by side."""

import csv
import json
import os
import re

import pytest
from command_line import answer, complaint, run

import cnnlive
from cnnlive.report.order import order_runs

WIDE = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "120"}


@pytest.fixture
def branches():
    """Two branches whose large ends come one after the other in the best order only."""
    g = cnnlive.Graph("branches")
    x = g.input((1, 1, 8, 8), name="x")
    a, b = g.conv2d(x, 8, 1, name="a"), g.conv2d(x, 8, 1, name="b")
    c, d = g.max_pool2d(a, 8, name="c"), g.max_pool2d(b, 8, name="d")
    g.output(g.add(c, d, name="s"))
    return g


@pytest.fixture
def branches_file(branches, tmp_path):
    branches.to_json(tmp_path / "branches.json")
    return tmp_path / "branches.json"


# ---------------------------------------------------------------------------------- order


def test_the_best_order_is_printed_beside_the_program_and_the_bound(branches, branches_file):
    plan = cnnlive.plan_order(branches)
    text = run("order", branches_file).stdout
    for nbytes in (plan.peak_bytes, plan.program_peak_bytes, plan.lower_bound):
        assert f"{nbytes:,} B" in text
    assert "proven: no order takes less" in text
    assert f"-{plan.program_peak_bytes - plan.peak_bytes:,} B" in text
    assert "ops run at another step than in the program:" in text
    assert "counted: activations" in text
    assert "Not counted: weights" in text


def test_an_order_that_is_the_programs_is_said_to_be():
    text = run("order", "alexnet").stdout
    assert "The program's order is as good as any." in text
    assert "difference" not in text


def test_where_no_proof_closes_the_gap_is_named(monkeypatch):
    plan = cnnlive.plan_order(cnnlive.zoo.load("nasnet_a"), max_states=1)
    assert plan.status == "feasible"
    text = run("order", "nasnet_a", "--max-states", 1).stdout
    assert f"the best found; at most {100 * plan.gap:.2g} % above the least" in text
    data = answer("order", "nasnet_a", "--max-states", 1)
    assert (data["status"], data["optimal"]) == ("feasible", False)
    assert data["lower_bound"] < data["peak_bytes"] <= data["program_peak_bytes"]


def test_json_of_an_order_is_the_plan(branches, branches_file):
    data = answer("order", branches_file, "--batch", 3, "--dtype", "int8", "--inplace", "dead")
    how = {"batch": 3, "dtype": "int8", "inplace": "dead"}
    plan = cnnlive.plan_order(branches, **how)
    assert data["format"] == "cnnlive-order-1"
    assert data["order"] == list(plan.op_names)
    assert data["ops"] == plan.order.tolist()
    assert (data["peak_bytes"], data["lower_bound"], data["status"]) == (
        plan.peak_bytes, plan.lower_bound, plan.status,
    )  # fmt: skip
    best = cnnlive.plan_inference(branches, order=plan.order.tolist(), **how)
    assert data["timeline"] == best.timeline.tolist()
    assert max(data["program_timeline"]) == data["program_peak_bytes"] == plan.program_peak_bytes
    assert (data["batch"], data["dtype"], data["inplace"]) == (3, "int8", "dead")


@pytest.mark.parametrize("ending", ["txt", "csv", "json"])
@pytest.mark.parametrize("net", ["branches", "randwire"])
def test_an_order_that_was_written_is_read_back(net, ending, branches_file, tmp_path):
    how = [branches_file, "--fuse"] if net == "branches" else [net]
    out = tmp_path / f"order.{ending}"
    assert f"wrote {out}" in run("order", *how, "--out", out).stdout
    best = answer("order", *how)
    again = answer("inference", *how, "--order", out)
    assert again["order"] == best["order"]
    assert again["activation_peak_bytes"] == best["peak_bytes"]


def test_the_files_of_an_order_are_as_documented(branches_file, tmp_path):
    best = answer("order", branches_file)
    for ending in ("txt", "csv", "json"):
        run("order", branches_file, "--out", tmp_path / f"o.{ending}")
    assert (tmp_path / "o.txt").read_text().splitlines() == best["order"]
    assert json.loads((tmp_path / "o.json").read_text()) == best
    with (tmp_path / "o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["name"] for r in rows] == best["order"]
    assert [int(r["op"]) for r in rows] == best["ops"]
    assert [int(r["step"]) for r in rows] == list(range(len(rows)))


def test_the_best_order_may_be_asked_for_by_name(branches_file):
    best = answer("order", branches_file)
    assert answer("inference", branches_file, "--order", "best")["activation_peak_bytes"] == best["peak_bytes"]
    assert answer("inference", branches_file, "--order", "program") == answer("inference", branches_file)
    assert "--order best: the Python frames" in complaint("ops", "alexnet", "--profile", "torch", "--order", "best")


def test_names_that_no_line_holds_go_into_other_files(tmp_path):
    g = cnnlive.Graph("odd")
    g.output(g.relu(g.relu(g.input((1, 4), name="[x"), name=" y"), name="a\nb"))
    g.to_json(tmp_path / "odd.json")
    assert "cannot stand on a line of its own" in complaint("order", tmp_path / "odd.json", "--out", tmp_path / "o.txt")
    for ending in ("csv", "json"):
        run("order", tmp_path / "odd.json", "--out", tmp_path / f"o.{ending}")
        data = answer("inference", tmp_path / "odd.json", "--order", tmp_path / f"o.{ending}")
        assert data["order"] == ["[x", " y", "a\nb"]


def test_runs_lead_from_the_program_to_the_order():
    plan = cnnlive.plan_order(cnnlive.zoo.load("randwire"))
    runs = order_runs(plan)
    for run_ in runs:
        ops = plan.order[run_.step : run_.step + run_.n_ops].tolist()
        assert ops == list(range(run_.program_step, run_.program_step + run_.n_ops))
        assert run_.first == plan.network.op_names[ops[0]]
        assert run_.last == plan.network.op_names[ops[-1]]
    # What is left out at both ends stands where the program has it.
    begin, end = runs[0].step, runs[-1].step + runs[-1].n_ops
    assert plan.order[:begin].tolist() == list(range(begin))
    assert plan.order[end:].tolist() == list(range(end, len(plan.order)))
    assert runs[0].step != runs[0].program_step
    assert sum(r.n_ops for r in runs) == end - begin
    assert order_runs(cnnlive.plan_order(cnnlive.zoo.load("alexnet"))) == ()


def test_the_timeline_of_an_order_lists_every_step(branches, branches_file):
    plan = cnnlive.plan_order(branches)
    best = cnnlive.plan_inference(branches, order=plan.order.tolist())
    text = run("order", branches_file, "--timeline").stdout
    rows = [line.split() for line in text[text.rindex("step ") :].splitlines()[1:]]
    assert [int(r[0]) for r in rows] == list(range(len(plan.order)))
    assert [int(r[1].replace(",", "")) for r in rows] == best.timeline.tolist()
    assert [(int(r[-2]), r[-1]) for r in rows] == [(op, plan.network.op_names[op]) for op in plan.order.tolist()]


# ---------------------------------------------------------------------------------- failing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["order"], "Missing argument"),
        (["order", "vgg61"], "did you mean vgg"),
        (["order", "nowhere.onnx"], "nowhere.onnx"),
        (["order", "alexnet", "--batch", "0"], "batch=0"),
        (["order", "alexnet", "--dtype", "int7"], "unknown dtype 'int7'"),
        (["order", "alexnet", "--profile", "paper"], "unknown profile 'paper'"),
        (["order", "alexnet", "--profile", "torch"], "the Python frames"),
        (["order", "alexnet", "--max-states", "0"], "max_states=0"),
        (["order", "alexnet", "--weight-dtype", "int8"], "No such option"),
        (["order", "alexnet", "--out", "order.xml"], "--out order.xml ends in '.xml'; allowed: .json, .csv, .txt"),
        (["order", "alexnet", "--out", "order.jsn"], "did you mean .json"),
        (["order", "alexnet", "--out", "order"], "ends in 'nothing'"),
        (["order", "alexnet", "--out", "no/such/folder/a.txt"], "No such file or directory"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(arguments, words):
    assert words in complaint(*arguments)


def cyclic():
    ops = [
        {"name": "x", "op": "input", "inputs": [], "attributes": {"shape": [1, 4], "dtype": "float32"}},
        {"name": "a", "op": "add", "inputs": [["x", 0], ["b", 0]], "attributes": {}},
        {"name": "b", "op": "relu", "inputs": [["a", 0]], "attributes": {}},
    ]
    return {"format": "cnnlive-graph-1", "name": "cyclic", "ops": ops, "outputs": [["b", 0]]}


@pytest.mark.parametrize("command", ["order", "inference"])
def test_a_cyclic_graph_is_one_line(command, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(cyclic()))
    words = complaint(command, tmp_path / "a.json")
    assert re.search(r"a\.json.*\bb\b", words)


@pytest.mark.parametrize("command", ["order"])
def test_a_truncated_file_is_one_line(command, branches_file):
    whole = branches_file.read_text()
    branches_file.write_text(whole[: len(whole) // 2])
    assert "branches.json" in complaint(command, branches_file)


@pytest.mark.parametrize(("command", "out"), [("order", "o.txt")])
def test_what_cannot_be_written_is_one_line(command, out, branches_file, tmp_path):
    (tmp_path / out).mkdir()
    assert f"{out}: Is a directory" in complaint(command, branches_file, "--out", tmp_path / out)
    assert "is what the command reads" in complaint(command, branches_file, "--out", branches_file)
    assert json.loads(branches_file.read_text())["name"] == "branches"


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "geteuid"), reason="permissions differ elsewhere")
def test_a_file_is_whole_or_as_it_was(branches_file, tmp_path, monkeypatch):
    out = tmp_path / "o.txt"
    out.write_text("as it was")

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert f"{out}: No space left on device" in complaint("order", branches_file, "--out", out)
    assert out.read_text() == "as it was"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["branches.json", "o.txt"]


# ---------------------------------------------------------------------------------- how it looks


@pytest.mark.parametrize("columns", [60, 80, 100, 120])
@pytest.mark.parametrize("arguments", [["order", "randwire", "--timeline"], ["order", "alexnet"]])
def test_a_terminal_is_never_overflown(arguments, columns):
    text = run(*arguments, env={**WIDE, "COLUMNS": str(columns)}).stdout
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("arguments", [["order", "randwire"], ["order", "hrnet_w18"]])
def test_a_report_fits_one_screen(arguments):
    assert len(run(*arguments, env=WIDE).stdout.splitlines()) <= 40
    assert len(run(*arguments, env={**WIDE, "COLUMNS": "80"}).stdout.splitlines()) <= 44


@pytest.mark.parametrize("arguments", [["order", "randwire"]])
def test_an_ascii_terminal_gets_ascii(arguments, monkeypatch):
    monkeypatch.setattr("cnnlive.report.text.is_ascii", lambda _console: True)
    text = run(*arguments).stdout
    assert not set(text) & set("█▁▂▃▄▅▆▇…")
