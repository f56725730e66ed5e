"""`cnnlive report`: what it writes and prints, which options belong together, and how it fails."""

import json
import re
from pathlib import Path

import pytest
import shown_results
from command_line import answer, complaint, run

import cnnlive
from cnnlive.cli import main
from cnnlive.plan.compare import compare_profiles
from cnnlive.report.html import payload
from cnnlive.report.reasons import inference_rule, training_rules


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty folder, which is the one that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small(here):
    """Return the name of a file of a small net."""
    shown_results.net().to_json(here / "small.json")
    return "small.json"


def read(path):
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def kinds(data):
    return [s["kind"] for s in data["sections"]]


# ---------------------------------------------------------------------------------- what is in it


def test_a_report_of_inference_is_that_of_its_results(small):
    net = shown_results.net()
    plan = cnnlive.plan_inference(net, batch=2, dtype="int8", profile="tflm")
    arena = cnnlive.plan_arena(net, batch=2, dtype="int8", profile="tflm")
    results = [plan, inference_rule(net, plan), arena, compare_profiles(net, batch=2, dtype="int8", arena=True)]
    data = answer("report", small, "--batch", 2, "--dtype", "int8", "--profile", "tflm")
    command = "cnnlive report small.json --batch 2 --dtype int8 --profile tflm"
    assert data == payload(results, command=command)
    assert kinds(data) == ["timeline", "rules", "arena", "profiles", "table"]


def test_a_report_with_train_is_that_of_both(small):
    net = shown_results.net()
    how = {"batch": 4, "optimizer": "sgd", "momentum": 0.9}
    step, plan = cnnlive.plan_training(net, **how), cnnlive.plan_inference(net, batch=4)
    frontier = cnnlive.checkpoint_frontier(net, points=3, **how)
    results = [step, frontier, *training_rules(step), plan, inference_rule(net, plan), cnnlive.plan_arena(net, batch=4),
               compare_profiles(net, batch=4, profiles=["ideal", "torch"], arena=True)]  # fmt: skip
    line = "report small.json --train --batch 4 --profiles ideal,torch --optimizer sgd --momentum 0.9 --points 3"
    assert answer(*line.split()) == payload(results, command=f"cnnlive {line}")


def test_the_command_that_a_report_shows_makes_the_same_report(small):
    line = ("report small.json --train --budget 1MiB --title 'a title' --no-fuse --freeze 'stem.*' --freeze 'block.*' "
            "--no-set-to-none -O eps=0.1 --no-frontier")  # fmt: skip
    words = [w.strip("'") for w in re.findall(r"'[^']*'|\S+", line)]
    data = answer(*words)
    shown = [w.strip("'") for w in re.findall(r"'[^']*'|\S+", data["command"])]
    assert shown[:3] == ["cnnlive", "report", "small.json"]
    assert sorted(shown[1:]) == sorted(w.replace("-O", "--option") for w in words)
    assert answer(*shown[1:]) == data


def test_no_frontier_leaves_it_out(small):
    assert "frontier" in kinds(answer("report", small, "--train", "--points", 2))
    assert "frontier" not in kinds(answer("report", small, "--train", "--no-frontier"))


def test_a_network_of_the_zoo_is_taken_as_it_trains_and_as_it_is_used(here):
    data = answer("report", "googlenet", "--train", "--no-frontier", "--profiles", "ideal")
    step, inference = [s for s in data["sections"] if s["kind"] == "timeline"]
    assert any(op.startswith("aux1.") for op in step["steps"]["op"])
    assert not any(op.startswith("aux1.") for op in inference["steps"]["op"])


def test_a_budget_is_drawn_and_met_with_checkpoints(small):
    net = shown_results.net()
    step = cnnlive.plan_training(net, batch=8)
    budget = step.peak_bytes - 20_000
    data = answer("report", small, "--train", "--batch", 8, "--budget", budget + 3000, "--no-frontier", "--context",
                  1000, "--workspace", 2000)  # fmt: skip
    fit, checkpoints = [s for s in data["sections"] if s["kind"] == "timeline"][:2]
    assert fit["limit"] == budget + 3000
    assert [k["key"] for k in fit["kinds"][:2]] == ["context", "workspace"]
    assert fit["peak_bytes"] == step.peak_bytes + 3000
    assert checkpoints["peak_bytes"] <= checkpoints["limit"] == budget
    assert max(checkpoints["plain"]) == step.peak_bytes
    assert data["cards"][0]["hint"].startswith("does not fit")


def test_a_budget_that_is_met_needs_no_checkpoints(small):
    data = answer("report", small, "--train", "--budget", "1GiB", "--no-frontier")
    assert [s["title"] for s in data["sections"] if s["kind"] == "timeline"] == ["Training step", "Inference"]
    assert data["cards"][0]["hint"] == "fits 1.00 GiB"


def test_a_budget_that_nothing_meets_is_said(small):
    result = run("report", small, "--train", "--batch", 8, "--budget", 1000, "--no-frontier")
    assert result.exit_code == 0
    assert "No checkpoints make batch 8 fit 1000 B: the least that a plan was found for is" in result.stdout
    (notes,) = [s for s in read_written(result)["sections"] if s["kind"] == "text"]
    assert " ".join(result.stdout.split()).count(notes["paragraphs"][0]) == 1


def read_written(result):
    return read(Path(re.search(r"^wrote (.*)$", result.stdout, re.MULTILINE)[1]))


def test_a_budget_without_train_is_of_the_inference(small):
    data = answer("report", small, "--budget", "1MiB", "--context", "1KiB")
    (timeline,) = [s for s in data["sections"] if s["kind"] == "timeline"]
    assert (timeline["limit"], timeline["kinds"][0]["key"]) == (2**20, "context")
    plan = cnnlive.plan_inference(shown_results.net())
    assert timeline["peak_bytes"] == plan.peak_bytes + 1024


def test_an_order_from_a_file_is_that_of_the_whole_inference(here):
    net = shown_results.two_branches()
    net.to_json(here / "two.json")
    run("order", "two.json", "--out", "order.txt")
    data = answer("report", "two.json", "--order", "order.txt", "--profiles", "ideal,torch")
    best = cnnlive.plan_order(net)
    timeline, arena, profiles = (next(s for s in data["sections"] if s["kind"] == k)
                                 for k in ("timeline", "arena", "profiles"))  # fmt: skip
    assert timeline["steps"]["op"] == arena["steps"] == list(best.op_names)
    assert profiles["ideal_bytes"] == best.peak_bytes
    assert "order" in profiles["profiles"][1]["reason"]


# ---------------------------------------------------------------------------------- other files


def test_a_list_of_buffers_has_a_report_of_its_arena(here):
    (here / "buffers.csv").write_text("id,lower,upper,size\na,0,2,64\nb,1,3,32\n")
    result = run("report", "buffers.csv")
    data = read(here / "buffers.html")
    assert kinds(data) == ["arena"]
    assert data["sections"][0]["arena_bytes"] == 96
    assert "buffers  2 buffers" in result.stdout
    assert complaint("report", "buffers.csv", "--train") == (
        "cnnlive: error: --train is for networks, and buffers.csv is a list of buffers"
    )


def test_a_problem_has_a_report_of_its_frontier(here):
    problem = shown_results.checkpoint_frontier().remat.problem
    (here / "measured.json").write_text(json.dumps(problem.to_dict()))
    assert kinds(answer("report", "measured.json", "--points", 3)) == ["frontier"]
    with_plan = answer("report", "measured.json", "--points", 3, "--budget", problem.peak_bytes - 1000)
    assert kinds(with_plan) == ["timeline", "frontier", "table"]
    assert with_plan["sections"][0]["limit"] == problem.peak_bytes - 1000
    result = run("report", "measured.json", "--points", 3, "--budget", 10)
    assert "No plan was found within 10; the least that one was found for is" in result.stdout
    assert complaint("report", "measured.json", "--batch", 2) == (
        "cnnlive: error: --batch is for networks, and measured.json is a problem"
    )
    assert "an integer, in its unit" in complaint("report", "measured.json", "--budget", "1GiB", "--points", 2)


# ---------------------------------------------------------------------------------- files and output


@pytest.mark.parametrize(("net", "name"), [
    ("squeezenet1_1", "squeezenet1_1.html"), ("small.json", "small.html"), ("folder/small.json", "small.html"),
])  # fmt: skip
def test_the_file_is_named_after_the_network_and_lies_here(small, here, net, name):
    (here / "folder").mkdir()
    (here / "folder/small.json").write_text((here / small).read_text())
    result = run("report", net)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == f"wrote {name}"
    assert read(here / name)["command"] == f"cnnlive report {net}"


def test_what_is_printed_are_the_cards(small):
    result = run("report", small)
    data = answer("report", small)
    lines = result.stdout.splitlines()
    assert lines[0] == f"small  {data['subtitle']}"
    for line, card in zip(lines[1:], data["cards"], strict=False):
        assert line.split("  ")[1].strip() == card["label"]
        assert card["text"] in line
    assert result.stderr == ""


def test_a_report_of_ours_is_written_anew_and_another_file_is_not(small, here):
    run("report", small, "--title", "first")
    run("report", small, "--title", "second")
    assert read(here / "small.html")["title"] == "second"
    (here / "small.html").write_text("mine")
    message = complaint("report", small)
    assert message == (
        "cnnlive: error: small.html is there and no report of cnnlive; allowed: -o FILE, which overwrites it"
    )
    assert (here / "small.html").read_text() == "mine"
    assert run("report", small, "-o", "small.html").exit_code == 0
    assert read(here / "small.html")["title"] == "small"


def test_quiet_writes_and_says_nothing(small, here):
    result = run("report", small, "--quiet", "--out", "quiet.html")
    assert (result.stdout, result.stderr, result.exit_code) == ("", "", 0)
    assert read(here / "quiet.html")["title"] == "small"


def test_json_writes_a_file_only_where_one_is_asked_for(small, here):
    data = answer("report", small)
    assert not (here / "small.html").exists()
    result = run("report", small, "--json", "-o", "both.html")
    assert json.loads(result.stdout) == read(here / "both.html") == data


def test_open_opens_what_was_written(small, here, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    run("report", small, "--open", "--quiet")
    assert opened == [(here / "small.html").resolve().as_uri()]
    assert complaint("report", small, "--open", "--json") == (
        "cnnlive: error: --open opens the file, and --json writes none; allowed: --json with --out"
    )
    assert len(opened) == 1


@pytest.mark.parametrize(("arguments", "words"), [
    (["--optimizer", "sgd"], "--optimizer is for a training step; add --train"),
    (["--allocator"], "--allocator is for a training step; add --train"),
    (["--points", "4"], "--points is for a training step; add --train"),
    (["--train", "--no-frontier", "--points", "4"], "--points is for the frontier, and --no-frontier was given"),
    (["--train", "--no-frontier", "--costs", "flops"], "--costs is for checkpoints, of which there are none"),
    (["--train", "--optimizer", "adm"], "unknown optimizer 'adm'"),
    (["--context", "1GiB"], "--context is set aside of a device; add --budget"),
    (["--train", "--workspace", "1MiB"], "--workspace is set aside of a device; add --budget"),
    (["--profiles", ","], "--profiles ',' names none; allowed: ideal, "),
    (["--profiles", "tflmm"], "unknown profile 'tflmm'; did you mean tflm"),
    (["-o", "small.txt"], "--out small.txt ends in '.txt'; allowed: .html, .htm"),
    (["-o", "missing/small.html"], "missing/small.html: No such file or directory"),
    (["-o", "small.json"], "--out small.json ends in '.json'"),
    (["--order", "missing.txt"], "missing.txt: No such file or directory"),
])  # fmt: skip
def test_options_that_do_not_belong_together_are_refused(small, here, arguments, words):
    assert words in complaint("report", small, *arguments)
    assert sorted(p.name for p in here.iterdir()) == ["small.json"]


def test_an_allocator_s_bytes_are_those_that_have_to_fit(small):
    step = cnnlive.plan_training(shown_results.net(), batch=4, allocator="cuda")
    data = answer("report", small, "--train", "--batch", 4, "--allocator", "--budget", "1GiB", "--no-frontier")
    assert data["cards"][0]["text"] == f"{step.reserved_bytes:,} B"
    parts = next(s for s in data["sections"] if s["title"] == "What the device has to hold")
    assert sum(parts["rows"]["nbytes"]) == step.reserved_bytes


def test_without_plotly_nothing_is_computed(small, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    monkeypatch.setattr("cnnlive.plan.inference.plan_inference", None)
    message = complaint("report", small)
    assert message.endswith("a report needs the package plotly, installed by the extra 'report': "
                            "pip install 'cnnlive[report]'")  # fmt: skip


def test_the_command_is_listed_and_has_help():
    assert "report" in main.commands
    text = run("report", "--help").stdout
    for heading in ("Report:", "Inference:", "Step:", "Optimizer:", "Checkpoints:", "Examples:"):
        assert f"\n{heading}\n" in text


def test_the_keys_that_the_page_of_json_lists_are_the_real_ones(small):
    text = (Path(__file__).parents[1] / "docs/json.md").read_text(encoding="utf-8")
    section = re.search(r"^## report\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == list(answer("report", small))
