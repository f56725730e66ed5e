"""The command line of orders, arenas and profiles side by side."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import pytest
from command_line import answer, complaint, run

import cnnlive
import cnnlive.io.tflite
from cnnlive.io.buffers import read_buffers
from cnnlive.plan.arena import METHODS, SHARED_METHODS, plan_arena, plan_shared_objects
from cnnlive.plan.compare import STEPS, compare_profiles
from cnnlive.report.arena import arena_picture
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
    assert {key: data[key] for key in plan.to_dict()} == plan.to_dict()


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


# ---------------------------------------------------------------------------------- arena


BUFFERS = """id,lower,upper,size
a,0,3,64
b,2,5,32
c,4,9,100
d,9,9,500
e,1,8,0
"""


@pytest.fixture
def buffers_file(tmp_path):
    (tmp_path / "buffers.csv").write_text(BUFFERS)
    return tmp_path / "buffers.csv"


def placed(data):
    """Check the placement of what --json printed, pair by pair, and return its height."""
    rows = [r for r in data["buffers"] if r["size"] and r["lower"] < r["upper"]]
    for i, a in enumerate(rows):
        assert a["offset"] % a["alignment"] == 0
        for b in rows[:i]:
            together = a["lower"] < b["upper"] and b["lower"] < a["upper"]
            apart = a["offset"] + a["size"] <= b["offset"] or b["offset"] + b["size"] <= a["offset"]
            assert apart or not together, (a, b)
    return max((r["offset"] + r["size"] for r in rows), default=0)


@pytest.mark.parametrize("net", ["googlenet", "mobilenet_v2"])
@pytest.mark.parametrize("how", [[], ["--order", "best"], ["--dtype", "int8", "--fuse"], ["--profile", "torch_fx"]])
def test_an_arena_of_a_network_is_legal_and_as_the_planner_says(net, how):
    data = answer("arena", net, *how)
    assert data["format"] == "cnnlive-arena-1"
    assert data["network"] == net
    assert placed(data) == data["arena_bytes"] >= data["lower_bound"]
    assert data["optimal"] == (data["status"] == "optimal")
    assert data["fragmentation_bytes"] == data["arena_bytes"] - data["peak_load_bytes"]
    inference_ = answer("inference", net, *how)
    assert data["ops"] == inference_["order"]
    assert data["peak_load_bytes"] == inference_["activation_peak_bytes"]


def test_the_report_of_an_arena_says_all_that_it_has_to():
    plan = plan_arena(cnnlive.zoo.load("googlenet"))
    text = run("arena", "googlenet").stdout
    for nbytes in (plan.arena_bytes, plan.lower_bound, plan.fragmentation_bytes, int(plan.buffers.nbytes.sum())):
        assert f" {nbytes:,} B" in text
    assert "googlenet  arena, batch 1 · float32 · profile ideal" in text
    assert "program order · method auto · aligned to 64 B" in text
    largest = max(plan.buffers.nbytes.tolist())
    assert re.search(rf"^  A  \S+ .* {largest:,} B +[\d,]+  \[\d+, \d+\)$", text, re.M)
    assert "Not in the arena: weights" in text
    assert " |A" in text


def test_what_kernels_keep_besides_is_named():
    plan = plan_arena(cnnlive.zoo.load("mobilenet_v2"), dtype="int8", profile="tinyengine")
    text = " ".join(run("arena", "mobilenet_v2", "--dtype", "int8", "--profile", "tinyengine").stdout.split())
    assert f"Kernels keep a workspace of {plan.plan.workspace_bytes:,} B besides." in text
    assert "Kernels keep a workspace" not in run("arena", "alexnet").stdout


def test_buffers_of_a_file_are_placed(buffers_file):
    data = answer("arena", buffers_file)
    assert data["status"] == "optimal"
    assert placed(data) == data["arena_bytes"] == 132
    assert [r["id"] for r in data["buffers"]] == list("abcde")
    for key in ("dtype", "inplace", "fuse", "profile", "batch", "ops"):
        assert data[key] is None
    text = run("arena", buffers_file).stdout
    assert "buffers  arena of given buffers\n" in text
    assert "placed: every buffer that the file lists" in text


def test_whether_a_capacity_is_enough_is_an_answer_and_an_exit_code(buffers_file):
    for capacity, code, status in ((132, 0, "optimal"), ("1KiB", 0, "optimal"), (131, 1, "infeasible")):
        result = run("arena", buffers_file, "--capacity", capacity, "--json")
        assert result.exit_code == code
        data = json.loads(result.stdout)
        assert (data["status"], data["capacity"]) == (status, 1024 if capacity == "1KiB" else capacity)
        assert (data["arena_bytes"] is None) == (code == 1)
        assert all((r["offset"] is None) == (code == 1) for r in data["buffers"])
    result = run("arena", buffers_file, "--capacity", 131)
    assert result.exit_code == 1
    assert "does not fit: proven" in result.stdout
    assert "132 bytes at once, above the capacity of 131: c (100 B), b (32 B)" in result.stdout
    assert "fits, 892 B are left" in run("arena", buffers_file, "--capacity", "1KiB").stdout


def test_not_known_is_another_answer_than_infeasible(tmp_path):
    # 4 B are alive at once and no placement takes less than 5, which a greedy planner cannot prove.
    rows = [(0, 1, 3), (0, 3, 1), (4, 5, 3), (2, 5, 1), (1, 2, 2), (3, 4, 2), (1, 4, 1)]
    lines = [f"{i},{lower},{upper},{size}" for i, (lower, upper, size) in enumerate(rows)]
    (tmp_path / "t.csv").write_text("\n".join(["id,lower,upper,size", *lines]) + "\n")
    greedy = run("arena", tmp_path / "t.csv", "--capacity", 4, "--method", "greedy_by_size")
    assert greedy.exit_code == 3
    assert "not known: nothing was found, and nothing is proven" in greedy.stdout
    assert "that proves nothing" in greedy.stdout
    exact = run("arena", tmp_path / "t.csv", "--capacity", 4, "--json")
    assert (exact.exit_code, json.loads(exact.stdout)["status"]) == (1, "infeasible")
    data = answer("arena", tmp_path / "t.csv")
    assert (data["status"], data["arena_bytes"]) == ("optimal", 5)


def test_fixed_buffers_that_overlap_are_infeasible_with_the_reason(tmp_path):
    (tmp_path / "f.csv").write_text("id,lower,upper,size,offset\na,0,3,64,0\nb,2,5,32,32\nc,2,5,8,\n")
    result = run("arena", tmp_path / "f.csv")
    assert result.exit_code == 1
    words = " ".join(result.stdout.split())
    assert "the fixed buffers a at [0, 64) and b at [32, 64) overlap, and both are alive at step 2" in words
    data = json.loads(run("arena", tmp_path / "f.csv", "--json").stdout)
    assert data["status"] == "infeasible"
    assert "overlap" in data["reason"]


@pytest.mark.parametrize("net", ["buffers", "googlenet"])
def test_offsets_that_were_written_are_read_back_as_fixed(net, buffers_file, tmp_path):
    source = buffers_file if net == "buffers" else net
    out = tmp_path / "offsets.csv"
    assert f"wrote {out}" in run("arena", source, "--out", out).stdout
    first, again = answer("arena", source), answer("arena", out)
    assert again["buffers"] == first["buffers"]
    assert again["arena_bytes"] == first["arena_bytes"]
    buffers = read_buffers(out)
    assert buffers.fixed.tolist() == [r["offset"] for r in first["buffers"]]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    aligned = ["alignment"] if net == "googlenet" else []
    assert list(rows[0]) == ["id", "lower", "upper", "size", *aligned, "offset"]


def test_offsets_as_json_are_what_json_prints(buffers_file, tmp_path):
    result = run("arena", buffers_file, "--out", tmp_path / "offsets.json", "--json")
    assert result.stdout == (tmp_path / "offsets.json").read_text()


def test_nothing_is_written_where_there_is_nothing_to_write(buffers_file, tmp_path):
    result = run("arena", buffers_file, "--capacity", 10, "--out", tmp_path / "offsets.csv")
    assert result.exit_code == 1
    assert "nothing to write to" in result.stdout
    assert not (tmp_path / "offsets.csv").exists()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_may_be_asked_for(method, buffers_file):
    data = answer("arena", buffers_file, "--method", method)
    assert data["method"] == method
    assert placed(data) == data["arena_bytes"] >= 132


def test_the_help_and_the_page_name_every_method():
    shown = run("arena", "--help").stdout
    page = (Path(__file__).parents[1] / "docs/arena.md").read_text(encoding="utf-8")
    for method in {*METHODS, *SHARED_METHODS}:
        assert re.search(rf"\b{method}\b", shown), method
        assert f"`{method}`" in page, method


def test_options_of_an_arena_reach_the_planner(buffers_file):
    aligned = answer("arena", buffers_file, "--alignment", 48)
    assert {r["alignment"] for r in aligned["buffers"]} == {48}
    padded = answer("arena", buffers_file, "--alignment", 48, "--pads")
    assert [r["size"] for r in padded["buffers"]] == [96, 48, 144, 528, 0]
    assert answer("arena", "alexnet", "--alignment", 1)["buffers"][0]["alignment"] == 1
    assert answer("arena", "alexnet", "--batch", 4)["arena_bytes"] > answer("arena", "alexnet")["arena_bytes"]
    answer("arena", buffers_file, "--time-limit", 0.5, "--max-nodes", 10)


def test_an_order_of_a_file_is_that_of_the_arena(branches_file, tmp_path):
    best = answer("order", branches_file)
    run("order", branches_file, "--out", tmp_path / "o.txt")
    given = answer("arena", branches_file, "--order", tmp_path / "o.txt")
    assert given["ops"] == best["order"]
    assert given["order"] == "given"
    assert given["peak_load_bytes"] == best["peak_bytes"]
    joint = answer("arena", branches_file, "--order", "best")
    assert joint["arena_bytes"] <= min(given["arena_bytes"], answer("arena", branches_file)["arena_bytes"])
    (tmp_path / "o.txt").write_text("s\na\n")
    assert f"{tmp_path / 'o.txt'}: the order" in complaint("arena", branches_file, "--order", tmp_path / "o.txt")


def test_objects_may_be_shared_as_wholes(buffers_file):
    plan = plan_shared_objects(cnnlive.zoo.load("mobilenet_v2"))
    data = answer("arena", "mobilenet_v2", "--shared-objects")
    assert data["format"] == "cnnlive-shared-objects-1"
    assert data["total_bytes"] == sum(data["object_bytes"]) == plan.total_bytes >= data["lower_bound"]
    text = run("arena", "mobilenet_v2", "--shared-objects").stdout
    assert f"{plan.total_bytes:,} B" in text
    assert f"in {plan.n_objects} objects" in text
    one = answer("arena", buffers_file, "--shared-objects", "--method", "greedy_by_breadth")
    assert (one["method"], one["total_bytes"]) == ("greedy_by_breadth", 132)


def test_a_picture_shows_what_lies_where_at_the_fullest_steps():
    plan = plan_arena(cnnlive.zoo.load("squeezenet1_1"))
    b, offsets = plan.buffers, plan.offsets
    span, top = int(b.upper.max()), plan.arena_bytes
    lines = arena_picture(plan, width=span, height=8)
    by_size = sorted(range(b.n), key=lambda i: (-b.nbytes[i], b.lower[i]))
    letters = {i: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[k] if k < 52 else ":"
               for k, i in enumerate(by_size)}  # fmt: skip
    for r, line in enumerate(reversed(lines)):
        middle = (2 * r + 1) * top // 16
        for step, character in enumerate(line):
            there = [i for i in range(b.n) if b.lower[i] <= step < b.upper[i]
                     and offsets[i] <= middle < offsets[i] + b.nbytes[i]]  # fmt: skip
            assert character == (letters[there[0]] if there else " ")
    # However narrow, the peak is seen: the column at it is full up to what gaps there are.
    peak = int(plan.timeline[plan.timeline[:, 1].argmax(), 0])
    for width in (1, 3, 10):
        narrow = arena_picture(plan, width=width, height=8)
        at = next(c for c in range(width) if (c + 1) * span // width > peak)
        assert [line[at] for line in narrow] == [line[peak] for line in lines]


def test_a_picture_of_nothing_is_none(tmp_path):
    (tmp_path / "n.csv").write_text("id,lower,upper,size\na,0,0,5\nb,1,2,0\n")
    data = answer("arena", tmp_path / "n.csv")
    assert (data["arena_bytes"], data["status"]) == (0, "optimal")
    assert "what lies where" not in run("arena", tmp_path / "n.csv").stdout
    (tmp_path / "n.csv").write_text("id,lower,upper,size\n")
    assert answer("arena", tmp_path / "n.csv")["arena_bytes"] == 0
    assert "0 buffers" in run("arena", tmp_path / "n.csv").stdout


def test_time_of_any_length_is_drawn(tmp_path):
    far = 10**15
    (tmp_path / "n.csv").write_text(f"id,lower,upper,size\na,-5,{far},8\nb,{far - 1},{far + 7},{10**12}\n")
    text = run("arena", tmp_path / "n.csv").stdout
    assert re.search(rf"^ +step  -5 +{far + 6:,}$", text, re.M)


# ---------------------------------------------------------------------------------- profiles side by side


def test_profiles_are_compared_with_what_makes_the_difference():
    found = compare_profiles(cnnlive.zoo.load("mobilenet_v2"), dtype="int8", batch=2)
    data = answer("compare", "mobilenet_v2", "--dtype", "int8", "--batch", 2)
    assert data == {"format": "cnnlive-compare-1", **json.loads(json.dumps(found.to_dict()))}
    for row in data["profiles"]:
        assert data["ideal_bytes"] + sum(step["nbytes"] for step in row["steps"]) == row["arena_bytes"]
        one = answer("arena", "mobilenet_v2", "--dtype", "int8", "--batch", 2, "--profile", row["profile"])
        assert (one["arena_bytes"], one["method"]) == (row["arena_bytes"], row["placement"])
    text = run("compare", "mobilenet_v2", "--dtype", "int8", "--batch", 2).stdout
    for row in data["profiles"]:
        words = rf"^  {row['profile']} .* {row['activation_peak_bytes']:,} .* {re.escape(row['peak_op'])}$"
        assert re.search(words, text, re.M)
    assert "What makes the difference" in text


def test_some_profiles_may_be_compared():
    data = answer("compare", "alexnet", "--profiles", "tflm, torch,tflm", "--no-arena")
    assert [row["profile"] for row in data["profiles"]] == ["tflm", "torch"]
    assert {row["arena_bytes"] for row in data["profiles"]} == {None}


def test_a_profile_that_cannot_take_the_network_is_a_row_with_the_reason():
    data = answer("compare", "alexnet", "--profiles", "ideal,tinyengine")
    ideal, tiny = data["profiles"]
    assert (ideal["reason"], tiny["activation_peak_bytes"]) == ("", None)
    assert "float32" in tiny["reason"]
    assert (
        "tinyengine: profile 'tinyengine' has no" in run("compare", "alexnet", "--profiles", "ideal,tinyengine").stdout
    )


def test_a_comparison_is_written_as_a_table(tmp_path):
    how = ["compare", "alexnet", "--profiles", "ideal,tflm,tinyengine"]
    data = answer(*how)
    assert f"wrote {tmp_path / 'c.csv'}" in run(*how, "--out", tmp_path / "c.csv").stdout
    run(*how, "--out", tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()) == data
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, expected in zip(rows, data["profiles"], strict=True):
        for key, value in expected.items():
            if key != "steps":
                assert row[key] == ("" if value is None else str(value))
        steps = {step["name"]: step["nbytes"] for step in expected["steps"]}
        for name in STEPS:
            empty = expected["activation_peak_bytes"] is None
            assert row["step_" + name.replace(" ", "_")] == ("" if empty else str(steps.get(name, 0)))


def test_a_comparison_takes_an_order(branches_file, tmp_path):
    best = answer("compare", branches_file, "--order", "best", "--profiles", "ideal")
    assert best["ideal_bytes"] == answer("order", branches_file)["peak_bytes"]
    run("order", branches_file, "--out", tmp_path / "o.txt")
    given = answer("compare", branches_file, "--order", tmp_path / "o.txt", "--profiles", "ideal")
    assert given["ideal_bytes"] == best["ideal_bytes"]


# ---------------------------------------------------------------------------------- TFLite files


@pytest.fixture
def tflite_file(tmp_path):
    pytest.importorskip("tflite")
    import tflite_models  # noqa: PLC0415 - needs the schema package

    net = tflite_models.Net("int8")
    tflite_models.residual(net)
    (tmp_path / "residual.tflite").write_bytes(net.write())
    return tmp_path / "residual.tflite"


def test_a_tflite_file_is_a_network_for_every_command(tflite_file):
    graph = cnnlive.io.tflite.read_tflite(tflite_file)
    plan = cnnlive.plan_inference(graph, profile="tflm")
    for command, key in (("inference", "activation_peak_bytes"), ("order", "program_peak_bytes"),
                         ("arena", "peak_load_bytes")):  # fmt: skip
        data = answer(command, tflite_file, "--profile", "tflm")
        assert data["network"] == "residual.tflite"
        assert data[key] >= plan.activation_peak_bytes
    assert [row["name"] for row in answer("ops", tflite_file)["ops"]] == list(graph.nodes())
    assert answer("fit", tflite_file, "--inference", "--budget", "1MiB")["fits"]
    assert answer("arena", tflite_file, "--profile", "tflm")["method"] == "tflm"


def test_options_of_other_sources_are_refused_for_a_tflite_file(tflite_file):
    assert "--set is for networks of the zoo" in complaint("arena", tflite_file, "--set", "width=2")
    assert "--train and --eval" in complaint("order", tflite_file, "--train")
    assert "--input-shape is for .onnx files" in complaint("inference", tflite_file, "--input-shape", "x=1,2")
    assert f"'cnnlive inference {tflite_file}'" in complaint(tflite_file)
    assert f"cnnlive inference {tflite_file}" in complaint("zoo", tflite_file)


@pytest.mark.parametrize("command", ["arena", "order", "compare", "inference", "ops"])
def test_a_damaged_tflite_file_is_one_line(command, tflite_file):
    whole = tflite_file.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], bytes(range(256)) * 8, b"some text\n"):
        tflite_file.write_bytes(content)
        assert "residual.tflite" in complaint(command, tflite_file)


def test_without_the_schema_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tflite", None)
    (tmp_path / "a.tflite").write_bytes(b"")
    assert "cnnlive[tflite]" in complaint("inference", tmp_path / "a.tflite")


def test_a_list_of_buffers_is_no_network(buffers_file):
    assert f"try: cnnlive arena {buffers_file}" in complaint("inference", buffers_file)
    assert f"'cnnlive arena {buffers_file}'" in complaint(buffers_file)


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
        (["order", "alexnet", "--time-limit", "0"], "time_limit=0.0"),
        (["order", "alexnet", "--time-limit", "soon"], "'soon' is not a valid float"),
        (["order", "alexnet", "--weight-dtype", "int8"], "No such option"),
        (["order", "alexnet", "--out", "order.xml"], "--out order.xml ends in '.xml'; allowed: .json, .csv, .txt"),
        (["order", "alexnet", "--out", "order.jsn"], "did you mean .json"),
        (["order", "alexnet", "--out", "order"], "ends in 'nothing'"),
        (["order", "alexnet", "--out", "no/such/folder/a.txt"], "No such file or directory"),
        (["arena"], "Missing argument"),
        (["arena", "vgg61"], "did you mean vgg"),
        (["arena", "nowhere.csv"], "nowhere.csv"),
        (["arena", "alexnet", "--method", "gredy_by_size"], "did you mean greedy_by_size"),
        (["arena", "alexnet", "--method", "best"], "allowed: auto, exact, skyline"),
        (["arena", "alexnet", "--shared-objects", "--method", "tflm"], "allowed: auto, greedy_by_size"),
        (["arena", "alexnet", "--shared-objects", "--capacity", "1"], "--capacity is for offsets"),
        (["arena", "alexnet", "--profile", "papr"], "unknown profile 'papr'"),
        (["arena", "alexnet", "--capacity", "much"], "'much' is not an amount of bytes"),
        (["arena", "alexnet", "--capacity", "-1"], "'-1' is not an amount of bytes"),
        (["arena", "alexnet", "--alignment", "0"], "alignment=0; allowed: 1 or more"),
        (["arena", "alexnet", "--time-limit", "-1"], "time_limit=-1.0"),
        (["arena", "alexnet", "--time-limit", "nan"], "time_limit=nan"),
        (["arena", "alexnet", "--max-nodes", "-1"], "max_nodes=-1"),
        (["arena", "alexnet", "--order", "nowhere.txt"], "nowhere.txt"),
        (["arena", "alexnet", "--profile", "torch", "--order", "best"], "--order best: the Python frames"),
        (["arena", "alexnet", "--out", "a.txt"], "--out a.txt ends in '.txt'; allowed: .csv, .json"),
        (["compare"], "Missing argument"),
        (["compare", "alexnet", "--profiles", "tflm,tflit"], "did you mean tflite"),
        (["compare", "alexnet", "--profiles", " , "], "--profiles ' , ' names none; allowed: ideal, "),
        (["compare", "alexnet", "--dtype", "int7"], "unknown dtype 'int7'"),
        (["compare", "alexnet", "--batch", "0"], "batch=0"),
        (["compare", "alexnet", "--out", "a.txt"], "allowed: .csv, .json"),
        (["compare", "alexnet", "--order", "nowhere"], "nowhere"),
        (["compare", "alxnet"], "did you mean alexnet"),
        (["arena", "a.csv", "--batch", "2"], "--batch is for networks, and a.csv is a list of buffers"),
        (["arena", "a.csv", "--no-fuse"], "is for networks, and a.csv is a list of buffers"),
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


@pytest.mark.parametrize("command", ["order", "inference", "arena", "compare"])
def test_a_cyclic_graph_is_one_line(command, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(cyclic()))
    words = complaint(command, tmp_path / "a.json")
    assert re.search(r"a\.json.*\bb\b", words)


@pytest.mark.parametrize("command", ["order", "arena", "compare"])
def test_a_truncated_file_is_one_line(command, branches_file):
    whole = branches_file.read_text()
    branches_file.write_text(whole[: len(whole) // 2])
    assert "branches.json" in complaint(command, branches_file)


@pytest.mark.parametrize("command", ["order", "arena", "compare"])
def test_a_truncated_onnx_file_is_one_line(command, tmp_path):
    onnx = pytest.importorskip("onnx")
    whole = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"
    (tmp_path / "a.onnx").write_bytes(whole.read_bytes()[:-2000])
    assert "a.onnx" in complaint(command, tmp_path / "a.onnx")


@pytest.mark.parametrize(("command", "out"), [("order", "o.txt"), ("arena", "o.csv"), ("compare", "o.json")])
def test_what_cannot_be_written_is_one_line(command, out, branches_file, tmp_path):
    (tmp_path / out).mkdir()
    assert f"{out}: Is a directory" in complaint(command, branches_file, "--out", tmp_path / out)
    assert "is what the command reads" in complaint(command, branches_file, "--out", branches_file)
    assert json.loads(branches_file.read_text())["name"] == "branches"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,lower,upper,size\na,0,3,-64\n", "line 2: size is -64; allowed: 0 or more"),
        ("id,lower,upper,size\na,3,0,64\n", "line 2: upper is 0; allowed: lower, which is 3, or more"),
        ("id,lower,upper,size\na,0,3,64\na,1,2,3\n", "line 3: the id 'a' is that of line 2"),
        ("id,lower,upper,size,alignment\na,0,3,64,0\n", "alignment is 0; allowed: 1 or more"),
        (
            "id,lower,upper,size,alignment,offset\na,0,3,64,16,8\n",
            "offset is 8; allowed: multiples of the alignment, which is 16",
        ),
        ("id,lower,upper,size\na,0,3,6.5\n", "size is '6.5'; allowed: an integer"),
        ("id,lower,upper,size\na,0,3\n", "line 2: 3 values for the 4 columns"),
        ("id,lower,upper\na,0,3\n", "line 1: the column 'size' is missing"),
        ("id,lower,upper,size\na,0,3,1e9\n", "1e9"),
        ("", "is empty; needed"),
        ("\xff\xfe", "is no UTF-8 text"),
    ],
)
def test_a_list_of_buffers_that_is_wrong_is_one_line(text, words, buffers_file):
    buffers_file.write_bytes(text.encode("latin-1"))
    found = complaint("arena", buffers_file)
    assert words in found
    assert "buffers.csv" in found


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
@pytest.mark.parametrize("arguments", [["order", "randwire", "--timeline"], ["order", "alexnet"],
                                       ["arena", "randwire"], ["arena", "densenet121", "--capacity", "1KiB"],
                                       ["arena", "densenet121", "--shared-objects"],
                                       ["arena", "vgg16", "--capacity", "1GiB"],
                                       ["compare", "densenet121"],
                                       ["compare", "mobilenet_v2", "--dtype", "int8"]])  # fmt: skip
def test_a_terminal_is_never_overflown(arguments, columns):
    text = run(*arguments, env={**WIDE, "COLUMNS": str(columns)}).stdout
    assert text
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("arguments", [["order", "randwire"], ["order", "hrnet_w18"], ["arena", "densenet121"],
                                       ["arena", "randwire", "--capacity", "1GiB", "--order", "best"],
                                       ["arena", "densenet121", "--shared-objects"],
                                       ["compare", "mobilenet_v2", "--dtype", "int8"]])  # fmt: skip
def test_a_report_fits_one_screen(arguments):
    assert len(run(*arguments, env=WIDE).stdout.splitlines()) <= 40
    assert len(run(*arguments, env={**WIDE, "COLUMNS": "80"}).stdout.splitlines()) <= 44


@pytest.mark.parametrize("arguments", [["order", "randwire"], ["arena", "densenet121"], ["compare", "mobilenet_v2"]])
def test_an_ascii_terminal_gets_ascii(arguments, monkeypatch):
    monkeypatch.setattr("cnnlive.report.text.is_ascii", lambda _console: True)
    text = run(*arguments).stdout
    assert not set(text) & set("█▁▂▃▄▅▆▇…")
