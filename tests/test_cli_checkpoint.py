"""The command line of checkpoints: plans, frontiers, and problems that were measured elsewhere."""

import contextlib
import csv
import io
import json
import re
from pathlib import Path

import pytest
from command_line import answer, complaint, run

import cnnlive
from cnnlive.cli import _checkpoint, _training
from cnnlive.plan.checkpoint import METHODS, CheckpointPlan, checkpoint_frontier, plan_checkpoints
from cnnlive.plan.remat import RematProblem, plan_remat, remat_frontier
from cnnlive.report.checkpoint import (
    FRONTIER_COLUMNS,
    _cost,
    frontier_curve,
    kept_by_module,
    kept_rows,
)
from cnnlive.verify_remat import replay

WIDE = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "120"}
NET, BATCH, BUDGET = "resnet18", 8, 290_000_000
ASKED = [NET, "--batch", BATCH, "--budget", BUDGET]
SGD = ["--optimizer", "sgd", "--momentum", 0.9, "--device", "cpu"]


@pytest.fixture(scope="module")
def net():
    return cnnlive.lower(cnnlive.zoo.load(NET, train=True))


@pytest.fixture(scope="module")
def plan(net):
    return plan_checkpoints(net, batch=BATCH, budget=BUDGET)


@pytest.fixture(scope="module")
def problem():
    chain = [(i, i + 1) for i in range(11)] + [(i, 10 - i) for i in range(5)]
    return RematProblem.of(cost=[1] * 12, nbytes=[10] * 6 + [1] * 6, edges=chain, loss=5, name="chain")


@pytest.fixture
def problem_file(problem, tmp_path):
    (tmp_path / "chain.json").write_text(json.dumps(problem.to_dict()))
    return tmp_path / "chain.json"


# ---------------------------------------------------------------------------------- checkpoint


def test_the_report_says_all_that_it_has_to(plan):
    text = run("checkpoint", *ASKED).stdout
    assert plan.peak_bytes <= BUDGET < plan.keep_bytes
    for nbytes in (plan.budget, plan.peak_bytes, plan.keep_bytes, plan.saved_bytes):
        assert f" {nbytes:,} B" in text
    assert f"{NET}  checkpoints, batch {BATCH} · adam, foreach · float32 · cuda · cross_entropy" in text
    assert "costs roofline · method search, effort default" in text
    assert f"with {100 * plan.overhead:.2f} % more time: {len(plan.recomputed)} ops run again" in text
    bound = (plan.lower_bound - plan.plain_cost) / plan.plain_cost
    for name, value in (("overhead", plan.overhead), ("lower bound", bound), ("gap", plan.gap)):
        assert re.search(rf"^  {name} +{100 * value:.2f} % ", text, re.M), name
    assert "keep all\n" in text
    assert "this plan\n" in text
    assert all(" ".join(w.split()) in " ".join(text.split()) for w in plan.warnings)
    assert "counted: what `cnnlive training` counts" in text


def test_json_of_a_plan_is_the_plan(plan):
    data = answer("checkpoint", *ASKED)
    assert data["format"] == "cnnlive-checkpoint-1"
    assert data["network"] == NET
    expected = json.loads(json.dumps(plan.to_dict()))
    del expected["name"], expected["options"]
    assert {key: data[key] for key in expected} == expected
    assert [row["nbytes"] for row in data["timeline"]] == plan.timeline.tolist()
    assert max(row["nbytes"] for row in data["timeline"]) == data["peak_bytes"] <= data["budget"]
    assert [row["phase"] for row in data["timeline"]] == sorted(
        (row["phase"] for row in data["timeline"]), key=["forward", "backward", "optimizer"].index
    )
    assert (data["modules"], data["policy"], data["minimum_bytes"], data["bound_bytes"]) == (None, None, None, None)
    assert data["options"]["optimizer"] == "adam"


def test_what_is_kept_and_what_is_dropped_adds_up(net, plan):
    rows = kept_rows(plan)
    assert [row.name for row in rows] == [*(n for n in net.op_names if n != "input"), "loss"]
    assert {row.name: row.times for row in rows if row.times} == plan.recomputed
    assert sum(row.cost for row in rows) == plan.cost - plan.plain_cost
    assert sum(row.kept_bytes for row in rows) == plan.saved_bytes
    whole = kept_rows(plan_checkpoints(net, batch=BATCH, budget=plan.keep_bytes))
    assert not any(row.dropped_bytes or row.times for row in whole)
    assert {r.name: r.kept_bytes + r.dropped_bytes for r in rows} == {r.name: r.kept_bytes for r in whole}
    data = answer("checkpoint", *ASKED)["ops"]
    assert [(r["name"], r["kept_bytes"], r["dropped_bytes"], r["times"], r["cost"]) for r in data] == [
        (r.name, r.kept_bytes, r.dropped_bytes, r.times, r.cost) for r in rows
    ]


@pytest.mark.parametrize("how", [{}, {"recompute_random": True}, {"micro_batches": 2}, {"precision": "autocast"}])
@pytest.mark.parametrize("name", ["unet", "mobilenet_v3_small", "googlenet"])
def test_what_forward_itself_makes_again_is_kept(name, how):
    for plan in checkpoint_frontier(cnnlive.zoo.load(name, train=True), batch=2, points=3, **how).plans:
        rows = kept_rows(plan)
        assert sum(row.kept_bytes for row in rows) == plan.saved_bytes
        assert sum(row.cost for row in rows) == plan.cost - plan.plain_cost
        assert {row.name: row.times for row in rows if row.times} == plan.recomputed


@pytest.mark.parametrize("most", [1, 4, 8, 20, 1000])
def test_modules_add_up_to_their_ops(plan, most):
    rows = kept_rows(plan)
    modules = kept_by_module(rows, most)
    for column in ("kept_bytes", "dropped_bytes", "cost", "n_again"):
        assert sum(getattr(m, column) for m in modules) == sum(getattr(r, column) for r in rows), column
    assert len({m.name for m in modules}) == len(modules)
    outermost = {r.scope.split(".")[0] or r.name for r in rows if r.kept_bytes or r.dropped_bytes or r.times}
    assert len(modules) <= max(most, len(outermost))
    if most == 1000:
        # what is still together has one fate
        assert all(m.n_ops == 1 or not (m.kept_bytes and m.dropped_bytes) for m in modules)


def test_an_op_beside_a_module_of_its_name_is_a_row_of_its_own():
    from cnnlive.report.checkpoint import KeptRow  # noqa: PLC0415 - the row alone

    rows = [
        KeptRow("a", "relu", "", 1, 0, 0, 5, 0, 0),
        KeptRow("a.b", "relu", "a", 1, 1, 2, 0, 7, 3),
        KeptRow("a.c", "relu", "a", 1, 0, 0, 1, 0, 0),
    ]
    joined = kept_by_module(rows, 2)
    assert [(m.name, m.n_ops, m.n_again, m.times, m.kept_bytes, m.dropped_bytes) for m in joined] == [
        ("a", 1, 0, 0, 5, 0), ("a", 2, 1, 2, 1, 7),
    ]  # fmt: skip
    assert [m.name for m in kept_by_module(rows, 3)] == ["a", "a.b", "a.c"]


def test_every_op_may_be_listed(plan):
    rows = kept_rows(plan)
    text = run("checkpoint", *ASKED, "--ops").stdout
    table = text[text.index("\nname ") :].splitlines()[2:]
    assert len(table) == len(rows)
    for line, row in zip(table, rows, strict=True):
        cells = line.split()
        assert cells[:5] == [row.name, row.op, f"{row.kept_bytes:,}", f"{row.dropped_bytes:,}", str(row.times or "-")]
    top = run("checkpoint", *ASKED, "--ops", "--top", 3).stdout
    assert len(top[top.index("\nname ") :].splitlines()[2:]) == 3


def test_options_of_training_reach_the_planner(net):
    budget = 235_000_000
    data = answer("checkpoint", NET, "--batch", BATCH, "--budget", budget, *SGD)
    plan = plan_checkpoints(net, batch=BATCH, budget=budget, optimizer="sgd", momentum=0.9, device="cpu")
    assert (data["peak_bytes"], data["cost"], data["states"]) == (
        plan.peak_bytes, plan.cost, plan.remat.states.tolist(),
    )  # fmt: skip
    assert data["keep_bytes"] == answer("training", NET, "--batch", BATCH, *SGD)["peak_bytes"]
    half = answer("checkpoint", NET, "--budget", "1GiB", "--precision", "float16")
    assert half["keep_bytes"] == answer("training", NET, "--precision", "float16")["peak_bytes"]


def test_options_of_the_search_reach_the_planner(net):
    for option, key, value in (("--seed", "seed", 3), ("--costs", "costs", "flops"),
                               ("--method", "method", "chain"), ("--time-limit", "time_limit", 5.0)):  # fmt: skip
        data = answer("checkpoint", *ASKED, option, value)
        plan = plan_checkpoints(net, batch=BATCH, budget=BUDGET, **{key: value})
        assert (data["cost"], data["states"], data["method"]) == (plan.cost, plan.remat.states.tolist(), plan.method)
    assert answer("checkpoint", *ASKED, "--costs", "flops")["costs"] == {"name": "flops"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_may_be_asked_for(method, net):
    asked = [NET, "--batch", BATCH, "--budget", "320MB", "--method", method]
    data = answer("checkpoint", *asked)
    assert data["method"] == method
    assert data["peak_bytes"] <= 320_000_000
    assert f"method {method}" in run("checkpoint", *asked).stdout


def test_the_help_and_the_page_name_every_method():
    shown = run("checkpoint", "--help").stdout
    page = (Path(__file__).parents[1] / "docs/checkpoints.md").read_text(encoding="utf-8")
    for method in METHODS:
        assert re.search(rf"\b{method}\b", shown), method
        assert f"`{method}`" in page, method


def test_the_help_has_the_options_of_a_training_step():
    training = {p.name: p for p in cnnlive_options("training")}
    for command in ("checkpoint", "frontier"):
        mine = {p.name: p for p in cnnlive_options(command)}
        own = {"context", "workspace", "with_ops", "top", "timeline", "allocator", "cuda_conf"}
        missing = set(training) - set(mine) - own
        assert not missing
        assert all(training[n].opts == mine[n].opts for n in set(training) & set(mine))


def cnnlive_options(command):
    from cnnlive import cli  # noqa: PLC0415 - the commands alone

    return cli.main.commands[command].params


def test_measured_times_are_read(tmp_path, net):
    op_times = {name: 1.0 for name, kind in zip(net.op_names, net.op_kinds, strict=True) if kind not in (
        "input", "flatten")}  # fmt: skip
    (tmp_path / "times.json").write_text(json.dumps(op_times))
    data = answer("checkpoint", *ASKED, "--costs", tmp_path / "times.json")
    assert data["costs"]["name"] == "measured"
    plan = plan_checkpoints(net, batch=BATCH, budget=BUDGET, costs=str(tmp_path / "times.json"))
    assert data["cost"] == plan.cost
    assert "costs measured" in run("checkpoint", *ASKED, "--costs", tmp_path / "times.json").stdout


def test_random_ops_run_again_only_where_asked():
    how = ["alexnet", "--batch", 32, "--device", "cpu", "--optimizer", "sgd"]
    keep = answer("training", *how)["peak_bytes"]
    least = answer("frontier", *how, "--points", 2)["least_bytes"]
    again = answer("frontier", *how, "--points", 2, "--recompute-random")
    assert least <= keep
    assert again["recompute_random"] is True
    assert again["least_bytes"] <= least
    budget = (least + keep) // 2
    assert not any(n.endswith(("dropout", ".0", ".3")) and n.startswith("classifier")
                   for n in answer("checkpoint", *how, "--budget", budget)["recomputed"])  # fmt: skip
    assert "random ops may run again" in run("checkpoint", *how, "--budget", budget, "--recompute-random").stdout


def test_where_everything_fits_nothing_runs_again():
    result = run("checkpoint", NET, "--budget", "1GiB")
    assert result.exit_code == 0
    assert "with everything kept: nothing has to run again" in result.stdout
    assert "run again:" not in result.stdout
    data = answer("checkpoint", NET, "--budget", "1GiB")
    assert (data["recomputed"], data["overhead"], data["status"]) == ({}, 0.0, "optimal")
    assert data["peak_bytes"] == data["keep_bytes"] == answer("training", NET)["peak_bytes"]


# ---------------------------------------------------------------------------------- no plan


def test_a_budget_below_the_proven_floor_is_answered_with_the_least_budget(net):
    least = checkpoint_frontier(net, batch=BATCH, points=2)
    result = run("checkpoint", NET, "--batch", BATCH, "--budget", least.least_bound - 1)
    assert result.exit_code == 1
    assert result.stderr == ""
    assert "does not fit: proven" in result.stdout
    for nbytes in (least.least_bytes, least.least_bound, least.keep_bytes):
        assert f" {nbytes:,} B" in result.stdout
    result = run("checkpoint", NET, "--batch", BATCH, "--budget", least.least_bound - 1, "--json")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["status"]) == (1, "infeasible")
    assert (data["minimum_bytes"], data["bound_bytes"]) == (least.least_bytes, least.least_bound)
    assert (data["peak_bytes"], data["overhead"], data["recomputed"], data["states"]) == (None, None, {}, [])
    assert data["keep_bytes"] == least.keep_bytes
    assert set(data) == set(answer("checkpoint", NET, "--batch", BATCH, "--budget", least.least_bytes))


def test_not_known_is_another_answer_than_proven(net):
    # the rule plans whole segments, the search single values: between the two nothing is proven of the budget
    floor = checkpoint_frontier(net, batch=BATCH, points=2).least_bytes
    result = run("checkpoint", NET, "--batch", BATCH, "--budget", floor, "--method", "chen_sqrt", "--json")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["status"], data["method"]) == (3, "unknown", "chen_sqrt")
    assert data["minimum_bytes"] > floor
    text = run("checkpoint", NET, "--batch", BATCH, "--budget", floor, "--method", "chen_sqrt").stdout
    assert "not known: no plan was found, and nothing is proven" in text
    assert re.search(rf"^  least of chen_sqrt .* {data['minimum_bytes']:,} B", text, re.M)
    good = answer("checkpoint", NET, "--batch", BATCH, "--budget", data["minimum_bytes"], "--method", "chen_sqrt")
    assert good["peak_bytes"] <= data["minimum_bytes"]


def test_nothing_is_written_where_there_is_no_plan(tmp_path):
    result = run("checkpoint", NET, "--budget", "1MiB", "--out", tmp_path / "p.json")
    assert result.exit_code == 1
    assert "nothing to write to" in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_frontier_of_budgets_that_are_all_too_small_has_no_points():
    result = run("frontier", NET, "--budgets", "1MiB,2MiB", "--json")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["points"], data["knee"]) == (1, [], None)
    assert data["least_bytes"] > 2 * 2**20
    assert "does not fit: proven" in run("frontier", NET, "--budgets", "1MiB,2MiB").stdout


# ---------------------------------------------------------------------------------- modules


def test_what_wrapping_loses_stands_beside_the_plan(plan):
    modules, policy = plan.modules(), plan.policy()
    data = answer("checkpoint", *ASKED, "--modules", "--policy")
    for key, wraps in (("modules", modules), ("policy", policy)):
        found = data[key]
        expected = json.loads(json.dumps(wraps.to_dict()))
        assert {k: found[k] for k in found} == {k: expected[k] for k in found}
        assert {"fits", "peak_bytes", "least_bytes", "overhead", "regions", "warnings"} <= set(found)
    text = run("checkpoint", *ASKED, "--modules", "--policy", env={**WIDE, "COLUMNS": "160"}).stdout
    for words, nbytes, overhead in (("op by op", plan.peak_bytes, plan.overhead),
                                    ("modules", modules.peak_bytes, modules.overhead),
                                    ("modules and saved ops", policy.peak_bytes, policy.overhead)):  # fmt: skip
        assert re.search(rf"^  {words} .* {nbytes:,} B +{100 * overhead:.2f} % ", text, re.M), words
    assert modules.regions
    assert ", ".join(r.module for r in modules.regions[:3]) in text
    assert all(f"  {r.module}" in text for r in policy.regions)
    words = " ".join(text.split())
    assert all(" ".join(w.split()) in words for w in (*modules.warnings, *policy.warnings))


def test_modules_that_cannot_meet_the_budget_are_said_not_to(net):
    least = checkpoint_frontier(net, batch=BATCH, points=2).plans[0]
    modules = least.modules()
    assert not modules.fits
    text = run("checkpoint", NET, "--batch", BATCH, "--budget", least.budget, "--modules").stdout
    assert re.search(rf"^  modules .* {modules.peak_bytes:,} B .* does not fit", text, re.M)
    assert f"the least peak found is {cnnlive.format_bytes(modules.least_bytes)} ({modules.least_bytes:,} B)" in text


# ---------------------------------------------------------------------------------- read and write


def test_a_plan_that_was_written_is_read_back(tmp_path, net, plan):
    out = tmp_path / "plan.json"
    assert f"wrote {out}" in run("checkpoint", *ASKED, "--out", out).stdout
    data = json.loads(out.read_text())
    assert data == answer("checkpoint", *ASKED)
    assert answer("checkpoint", NET, "--read", out) == data
    assert run("checkpoint", NET, "--read", out).stdout == run("checkpoint", *ASKED).stdout
    again = CheckpointPlan.from_dict(data, net)
    assert (again.peak_bytes, again.cost) == (plan.peak_bytes, plan.cost)
    # with the modules that it had not been asked for
    assert answer("checkpoint", NET, "--read", out, "--modules")["modules"]["regions"]


def test_options_are_read_back_with_the_plan(tmp_path):
    out = tmp_path / "plan.json"
    how = ["--batch", 4, "--budget", "200MiB", *SGD, "--weight-decay", 0.01, "--precision", "float32",
           "--freeze", "layer1*", "--costs", "roofline:v100"]  # fmt: skip
    run("checkpoint", NET, *how, "--out", out)
    assert json.loads(out.read_text()) == answer("checkpoint", NET, "--read", out)


def test_a_plan_of_something_else_is_refused(tmp_path):
    out = tmp_path / "plan.json"
    run("checkpoint", *ASKED, "--out", out)
    assert f"{out}: the plan's states are not those of resnet34" in complaint("checkpoint", "resnet34", "--read", out)
    data = json.loads(out.read_text())
    for key, value, words in (
        ("peak_bytes", 1, "its peak_bytes is"),
        ("cost", 1, "its cost is"),
        ("states", [7], "states are not those"),
        ("format", "cnnlive-arena-1", "is no plan"),
        ("costs", {"name": "magic"}, "plan.json"),
        ("batch", "many", "plan.json"),
        ("options", 3, "plan.json"),
    ):
        out.write_text(json.dumps({**data, key: value}))
        assert words in complaint("checkpoint", NET, "--read", out), key
    del data["states"]
    out.write_text(json.dumps(data))
    assert "lacks 'states'" in complaint("checkpoint", NET, "--read", out)
    for text in ("[1]", "{", "", "\x00"):
        out.write_text(text)
        assert "plan.json is no plan" in complaint("checkpoint", NET, "--read", out)
    refused = run("checkpoint", NET, "--budget", "1MiB", "--json").stdout
    out.write_text(refused)
    assert "says that no plan was found" in complaint("checkpoint", NET, "--read", out)


# ---------------------------------------------------------------------------------- frontier


def test_the_report_of_a_frontier_says_all_that_it_has_to(net):
    frontier = checkpoint_frontier(net, batch=BATCH, points=8)
    text = run("frontier", NET, "--batch", BATCH, "--points", 8).stdout
    for nbytes in (frontier.least_bytes, frontier.least_bound, frontier.keep_bytes, frontier.knee.budget):
        assert f" {nbytes:,} B" in text
    for p in frontier.plans:
        assert re.search(rf" {p.budget:,} B +{p.peak_bytes:,} B +{100 * p.overhead:.2f} % +{100 * p.gap:.2f} %", text)
    knee = next(line for line in text.splitlines() if f" {frontier.knee.budget:,} B  " in line and "%" in line)
    assert knee.endswith(("knee", "more time"))
    assert len(re.findall(r"knee$", text, re.M)) == 2
    assert "│█" in text


def test_json_of_a_frontier_is_the_frontier(net):
    frontier = checkpoint_frontier(net, batch=BATCH, points=6)
    data = answer("frontier", NET, "--batch", BATCH, "--points", 6)
    assert data["format"] == "cnnlive-frontier-1"
    assert (data["network"], data["batch"], data["method"]) == (NET, BATCH, "search")
    assert (data["least_bytes"], data["least_bound"], data["keep_bytes"]) == (
        frontier.least_bytes, frontier.least_bound, frontier.keep_bytes,
    )  # fmt: skip
    for row, p in zip(data["points"], frontier.plans, strict=True):
        assert row == {key: getattr(p, key) for key in row}
    costs = [row["cost"] for row in data["points"]]
    assert costs == sorted(costs, reverse=True)
    assert data["points"][data["knee"]]["budget"] == frontier.knee.budget


def test_budgets_may_be_given(net):
    data = answer("frontier", NET, "--batch", BATCH, "--budgets", "1MiB, 290000000,1GiB", "--method", "chain")
    assert [row["budget"] for row in data["points"]] == [290_000_000, 2**30]
    assert data["method"] == "chain"
    assert data["points"][1]["overhead"] == 0
    text = run("frontier", NET, "--batch", BATCH, "--budgets", "1GiB").stdout
    assert "overhead of the cheapest plan" not in text  # no curve of one point


def test_a_frontier_is_written_as_a_table(tmp_path):
    how = ["frontier", NET, "--batch", BATCH, "--points", 5]
    data = answer(*how)
    assert f"wrote {tmp_path / 'f.csv'}" in run(*how, "--out", tmp_path / "f.csv").stdout
    run(*how, "--out", tmp_path / "f.json")
    assert json.loads((tmp_path / "f.json").read_text()) == data
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(FRONTIER_COLUMNS)
    for k, (row, expected) in enumerate(zip(rows, data["points"], strict=True)):
        assert row == {**{key: str(value) for key, value in expected.items()}, "knee": str(int(k == data["knee"]))}


def test_a_curve_falls_and_is_as_wide_as_asked(net):
    frontier = checkpoint_frontier(net, batch=BATCH, points=9)
    for width, height, plain in ((40, 7, False), (64, 3, True), (5, 1, False), (1, 4, False)):
        *rows, mark = frontier_curve(frontier, width=width, height=height, ascii_only=plain)
        assert len(rows) == height
        assert all(len(row) == width for row in rows)
        heights = [sum(row[c] != " " for row in rows) for c in range(width)]
        assert heights == sorted(heights, reverse=True)
        assert heights[0] == height
        assert mark.strip() == "^"
        assert not plain or set("".join(rows)) <= {"#", " "}
    assert heights == [4]


# ---------------------------------------------------------------------------------- problems


def test_a_problem_is_planned_as_it_is(problem, problem_file):
    plan = plan_remat(problem, budget=42)
    data = answer("checkpoint", problem_file, "--budget", 42)
    assert data["format"] == "cnnlive-remat-1"
    assert data["network"] == "chain"
    expected = plan.to_dict()
    del expected["name"]
    assert {key: data[key] for key in expected} == expected
    assert data["timeline"] == plan.timeline.tolist()
    assert data["keep_bytes"] == problem.peak_bytes
    assert replay(problem, [(what, i) for what, i in data["schedule"]]) == (data["peak_bytes"], data["cost"])
    text = run("checkpoint", problem_file, "--budget", 42).stdout
    assert "fits 42 with 16.67 % more time: 2 nodes run again" in text
    assert "amounts in the unit of the problem" in text
    assert " B " not in text


@pytest.mark.parametrize("method", METHODS)
def test_every_method_plans_a_problem(method, problem_file):
    data = answer("checkpoint", problem_file, "--budget", 45, "--method", method)
    assert (data["method"], data["peak_bytes"] <= 45) == (method, True)


def test_a_problem_that_fits_nowhere_is_answered(problem, problem_file, tmp_path):
    least = remat_frontier(problem, points=2)
    result = run("checkpoint", problem_file, "--budget", 12, "--json", "--out", tmp_path / "p.json")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["status"]) == (1, "infeasible")
    assert (data["minimum_bytes"], data["bound_bytes"]) == (least.least_bytes, least.least_bound)
    assert set(data) == set(answer("checkpoint", problem_file, "--budget", 42))
    assert not (tmp_path / "p.json").exists()
    text = run("checkpoint", problem_file, "--budget", 12).stdout
    assert re.search(rf"^  least budget found +{least.least_bytes}  with", text, re.M)


def test_a_problem_may_be_planned_with_more_effort(problem_file):
    assert answer("checkpoint", problem_file, "--budget", 32, "--effort", "best")["effort"] == "best"
    assert answer("frontier", problem_file, "--effort", "best")["effort"] == "best"
    assert "effort best" in run("checkpoint", problem_file, "--budget", 32, "--effort", "best", "--seed", 2).stdout


def test_the_frontier_of_a_problem(problem, problem_file, tmp_path):
    frontier = remat_frontier(problem, points=6)
    data = answer("frontier", problem_file, "--points", 6)
    assert [row["cost"] for row in data["points"]] == [p.cost for p in frontier.plans]
    for key in ("batch", "costs", "options", "recompute_random"):
        assert data[key] is None
    text = run("frontier", problem_file, "--points", 6).stdout
    assert re.search(r"^  proven floor +21  below", text, re.M)
    assert " B " not in text
    run("frontier", problem_file, "--points", 6, "--out", tmp_path / "f.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "f.csv").read_text())))
    assert [int(row["budget"]) for row in rows] == [p.budget for p in frontier.plans]
    chain = answer("frontier", problem_file, "--budgets", "30,41,61", "--method", "chain")
    assert [row["budget"] for row in chain["points"]] == [41, 61]
    assert run("frontier", problem_file, "--budgets", "3,4").exit_code == 1


def test_a_plan_of_a_problem_is_written(problem_file, tmp_path):
    assert (
        f"wrote {tmp_path / 'p.json'}"
        in run("checkpoint", problem_file, "--budget", 42, "--out", tmp_path / "p.json").stdout
    )
    assert json.loads((tmp_path / "p.json").read_text()) == answer("checkpoint", problem_file, "--budget", 42)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": 99}, "loss is 99; allowed: a node, 0 to 11"),
        ({"loss": None}, "chain.json"),
        ({"in_ptr": [0, 1]}, "in_ptr does not run from 0"),
        ({"in_idx": None}, "chain.json"),
        ({"cost": [-1] * 12}, "cost of node 0 is -1; allowed: 0 or more"),
        ({"cost": [1.5] * 12}, "chain.json"),
        ({"nbytes": 3}, "chain.json"),
        ({"names": ["a"] * 12}, "two nodes are called 'a'"),
    ],
)
def test_a_problem_that_is_wrong_is_one_line(change, words, problem, problem_file):
    problem_file.write_text(json.dumps({**problem.to_dict(), **change}))
    for command in (["checkpoint", problem_file, "--budget", 9], ["frontier", problem_file]):
        found = complaint(*command)
        assert words in found
        assert "chain.json" in found


def test_a_problem_without_something_is_one_line(problem, problem_file):
    data = problem.to_dict()
    del data["nbytes"]
    problem_file.write_text(json.dumps(data))
    assert "lacks 'nbytes'" in complaint("frontier", problem_file)


def test_a_graph_is_no_problem(tmp_path):
    g = cnnlive.Graph("small")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="conv")
    g.output(g.linear(g.flatten(g.relu(x)), 10))
    g.to_json(tmp_path / "small.json")
    data = answer("checkpoint", tmp_path / "small.json", "--budget", "1GiB")
    assert (data["format"], data["network"]) == ("cnnlive-checkpoint-1", "small")
    (tmp_path / "odd.json").write_text("[1, 2]")
    assert "odd.json" in complaint("checkpoint", tmp_path / "odd.json", "--budget", "1GiB")


# ---------------------------------------------------------------------------------- fit


def test_the_largest_batch_with_checkpoints_stands_beside_that_without():
    how = ["fit", "squeezenet1_1", "--budget", "1GiB", "--optimizer", "sgd"]
    data = answer(*how)
    rows = data["checkpoints"]
    assert [row["max_overhead"] for row in rows] == [0.1, 0.2, 0.3]
    sizes = [data["largest_batch"], *(row["largest_batch"] for row in rows)]
    assert sizes == sorted(sizes)
    assert sizes[1] > sizes[0]
    net = cnnlive.zoo.load("squeezenet1_1", train=True)
    expected = cnnlive.largest_batch(net, budget="1GiB", checkpoints=True, max_overhead=0.1, optimizer="sgd")
    assert sizes[1] == expected
    text = run(*how).stdout
    for size in sizes:
        assert re.search(rf" {size:,}( |$)", text[text.index("with checkpoints") :], re.M)
    even = answer(*how, "--checkpoints", "--multiple-of", 8)["checkpoints"]
    assert all(row["largest_batch"] % 8 == 0 for row in even)


def test_checkpoints_are_looked_for_where_they_have_a_meaning_and_are_quick(monkeypatch):
    asked = []

    def largest_batch(*_net, checkpoints=False, **how):
        asked.append(how["max_overhead"] if checkpoints else None)
        return 3

    monkeypatch.setattr("cnnlive.plan.batchsize.largest_batch", largest_batch)
    small = ["fit", "squeezenet1_1", "--budget", "1GiB"]
    for more, with_checkpoints in (
        ([], True), (["--no-checkpoints"], False), (["--check"], False), (["--inference"], False),
        (["--batch", 2], False), (["--allocator"], False), (["--check", "--checkpoints"], True),
    ):  # fmt: skip
        asked.clear()
        run(*small, *more)
        assert asked == [None] * ("--batch" not in more) + [0.1, 0.2, 0.3] * with_checkpoints, more
    asked.clear()
    text = run("fit", "densenet121", "--budget", "4GiB", "--optimizer", "sgd").stdout
    assert asked == [None]
    assert "Batches with checkpoints take a while for 432 ops: --checkpoints finds them." in text


def test_a_budget_for_no_batch_at_all_has_none_with_checkpoints():
    data = answer("fit", "squeezenet1_1", "--budget", "1MiB", "--checkpoints")
    assert [row["largest_batch"] for row in data["checkpoints"]] == [0, 0, 0]
    assert "times as many" not in run("fit", "squeezenet1_1", "--budget", "1MiB", "--checkpoints").stdout


# ---------------------------------------------------------------------------------- documentation


def documented(heading):
    """Return the keys under a heading of the page of JSON, with their types."""
    page = (Path(__file__).parents[1] / "docs/json.md").read_text(encoding="utf-8")
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#)", page, re.M | re.S)
    rows = [line for line in section[1].splitlines() if line.startswith("| `")]
    return {row.split("|")[1].strip().strip("`"): row.split("|")[2].strip() for row in rows}


KINDS = {"text": str, "integer": int, "number": int | float, "true or false": bool, "object": dict,
         "list of texts": list, "list of integers": list, "list of objects": list, "list of lists": list}  # fmt: skip


def agrees(data, heading):
    kinds = documented(heading)
    assert set(kinds) == set(data), heading
    for key, words in kinds.items():
        may_be_none = words.endswith(" or null")
        kind = words.removesuffix(" or null").replace("true, false", "true or false")
        assert (may_be_none and data[key] is None) or isinstance(data[key], KINDS[kind]), (heading, key)
        if kind.startswith("list of ") and data[key]:
            inside = {"texts": str, "integers": int, "objects": dict, "lists": list}[kind.removeprefix("list of ")]
            assert all(isinstance(x, inside) for x in data[key]), (heading, key)


def test_the_documented_keys_are_the_real_ones(problem_file):
    data = answer("checkpoint", *ASKED, "--modules", "--policy")
    refused = json.loads(run("checkpoint", NET, "--budget", "1MiB", "--json").stdout)
    for found in (data, refused):
        agrees(found, "checkpoint")
    agrees(data["timeline"][0], "checkpoint: timeline")
    agrees(data["ops"][0], "checkpoint: ops")
    for key in ("modules", "policy"):
        agrees(data[key], "checkpoint: modules")
        agrees(data[key]["regions"][0], "checkpoint: modules.regions")
    for budget in (42, 2):
        found = json.loads(run("checkpoint", problem_file, "--budget", budget, "--json").stdout)
        agrees(found, "checkpoint PROBLEM")
    frontier = answer("frontier", NET, "--points", 2)
    for found in (frontier, answer("frontier", problem_file)):
        agrees(found, "frontier")
        agrees(found["points"][0], "frontier: points")
    agrees(json.loads(run("frontier", NET, "--budgets", "1MiB", "--json").stdout), "frontier")
    agrees(answer("fit", "squeezenet1_1", "--budget", "1GiB", "--checkpoints")["checkpoints"][0], "fit: checkpoints")


# ---------------------------------------------------------------------------------- failing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["checkpoint"], "Missing argument"),
        (["checkpoint", "alexnet"], "Missing option '--budget'"),
        (["checkpoint", "alxnet", "--budget", "1GiB"], "did you mean alexnet"),
        (["checkpoint", "alexnet", "--budget", "much"], "'much' is not an amount of bytes"),
        (["checkpoint", "alexnet", "--budget", ""], "is not an amount of bytes"),
        (["checkpoint", "alexnet", "--budget", "-1"], "'-1' is not an amount of bytes"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--batch", "0"], "batch=0"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--method", "best"], "allowed: 'search', 'chain', 'nested'"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--effort", "much"], "allowed: default, best"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--time-limit", "0"], "time_limit is 0.0"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--costs", "rooflin"], "did you mean roofline"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--costs", "nowhere.csv"], "nowhere.csv"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--optimizer", "adm"], "adam"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--allocator"], "No such option"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--exact", "--method", "chain"], "method='search'"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--out", "plan.txt"], "ends in '.txt'; allowed: .json"),
        (["checkpoint", "alexnet", "--budget", "1GiB", "--out", "no/such/folder/a.json"], "No such file"),
        (["checkpoint", "alexnet", "--read", "nowhere.json"], "nowhere.json"),
        (["checkpoint", "alexnet", "--read", "a.json", "--budget", "1GiB"], "--budget is for a new plan, and --read"),
        (["checkpoint", "alexnet", "--read", "a.json", "--optimizer", "sgd"], "--optimizer is for a new plan"),
        (["checkpoint", "nowhere.json", "--budget", "1"], "nowhere.json"),
        (["checkpoint", "buffers.csv", "--budget", "1"], "buffers.csv"),
        (["frontier"], "Missing argument"),
        (["frontier", "alexnet", "--points", "1"], "--points"),
        (["frontier", "alexnet", "--budgets", " , "], "--budgets ' , ' names none; allowed: amounts"),
        (["frontier", "alexnet", "--budgets", "1GiB,much"], "'much' is not an amount of bytes"),
        (["frontier", "alexnet", "--method", "best"], "allowed: 'search', 'chain', 'nested'"),
        (["frontier", "alexnet", "--out", "f.txt"], "allowed: .csv, .json"),
        (["fit", "alexnet", "--budget", "1GiB", "--checkpoints", "--inference"], "--checkpoints is for a training"),
        (["fit", "alexnet", "--budget", "1GiB", "--checkpoints", "--batch", "4"],
         "try: cnnlive checkpoint alexnet --batch 4 --budget 1GiB"),
        (["fit", "alexnet", "--budget", "1GiB", "--checkpoints", "--allocator"], "leave --allocator out"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_exit_code_2(arguments, words):
    assert words in complaint(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "4GiB"], "--budget '4GiB'; allowed for the problem"),
        (["--budget", "-4"], "budget is -4; allowed"),
        (["--budget", "42", "--batch", "2"], "--batch is for networks"),
        (["--budget", "42", "--optimizer", "sgd"], "--optimizer is for networks"),
        (["--budget", "42", "--train"], "is for networks"),
        (["--budget", "42", "--modules"], "--modules is for networks"),
        (["--budget", "42", "--method", "best"], "allowed: search, chain, nested"),
        (["--budget", "42", "--exact", "--method", "chain"], "--exact with --method chain; allowed"),
        (["--budget", "42", "--read", "plan.json"], "--read is for networks"),
    ],
)
def test_what_no_problem_takes_is_one_line(arguments, words, problem_file):
    assert words in complaint("checkpoint", problem_file, *arguments)


def test_what_no_frontier_of_a_problem_takes_is_one_line(problem_file):
    assert "--budgets '4GiB'; allowed for the problem" in complaint("frontier", problem_file, "--budgets", "4GiB")
    assert "--costs is for networks" in complaint("frontier", problem_file, "--costs", "flops")
    assert "allowed: search, chain" in complaint("frontier", problem_file, "--method", "greedy")


def test_the_source_is_not_overwritten(problem_file):
    assert "is what the command reads" in complaint("frontier", problem_file, "--out", problem_file)


# ---------------------------------------------------------------------------------- how it looks


@pytest.mark.parametrize("columns", [60, 80, 100, 120])
@pytest.mark.parametrize("arguments", [["checkpoint", *ASKED, "--modules", "--policy", "--ops"],
                                       ["checkpoint", "densenet121", "--batch", 4, "--budget", "500MiB"],
                                       ["checkpoint", NET, "--budget", "1MiB"],
                                       ["fit", "squeezenet1_1", "--budget", "1GiB", "--checkpoints"],
                                       ["frontier", NET, "--batch", BATCH, "--points", 4]])  # fmt: skip
def test_a_terminal_is_never_overflown(arguments, columns):
    text = run(*arguments, env={**WIDE, "COLUMNS": str(columns)}).stdout
    assert text
    assert max(map(len, text.splitlines())) <= columns
    if "--modules" in arguments:
        # no column is cut off, and what is wrapped goes on under its own beginning
        assert re.search(r"kept +dropped +run again( +time)? *$", text, re.M)
        assert re.search(r"overhead +budget( +how)? *$", text, re.M)


@pytest.mark.parametrize("columns", [60, 120])
def test_a_terminal_is_not_overflown_by_problems(columns, problem_file):
    for arguments in (["checkpoint", problem_file, "--budget", 42], ["checkpoint", problem_file, "--budget", 2],
                      ["frontier", problem_file]):  # fmt: skip
        text = run(*arguments, env={**WIDE, "COLUMNS": str(columns)}).stdout
        assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("arguments", [["checkpoint", *ASKED],
                                       ["checkpoint", "vgg16", "--batch", 32, "--budget", "4GiB"],
                                       ["checkpoint", "densenet121", "--batch", 4, "--budget", "600MiB"],
                                       ["frontier", NET, "--batch", BATCH, "--points", 16]])  # fmt: skip
def test_a_report_fits_one_screen(arguments):
    assert len(run(*arguments, env=WIDE).stdout.splitlines()) <= 40
    assert len(run(*arguments, env={**WIDE, "COLUMNS": "80"}).stdout.splitlines()) <= 44


def test_an_ascii_terminal_gets_ascii(monkeypatch, problem_file):
    monkeypatch.setattr("cnnlive.report.text.is_ascii", lambda _console: True)
    for arguments in (["checkpoint", *ASKED, "--modules"], ["frontier", NET, "--batch", BATCH, "--points", 4],
                      ["checkpoint", problem_file, "--budget", 42], ["frontier", problem_file]):  # fmt: skip
        text = run(*arguments).stdout
        assert not set(text) & set("█▁▂▃▄▅▆▇…│")


def test_there_are_colours_on_a_terminal_only(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    escape = "\x1b["
    assert escape not in run("checkpoint", *ASKED).stdout
    colour = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "120"}
    assert escape in run("checkpoint", *ASKED, env=colour).stdout
    assert "\x1b[3" not in run("checkpoint", *ASKED, env={**colour, "NO_COLOR": "1"}).stdout


def test_quiet_prints_nothing_and_answers_all_the_same(tmp_path, problem_file):
    for arguments, code in (
        (["checkpoint", *ASKED, "--out", tmp_path / "p.json"], 0),
        (["checkpoint", NET, "--budget", "1MiB"], 1),
        (["frontier", NET, "--points", 2, "--out", tmp_path / "f.csv"], 0),
        (["frontier", NET, "--budgets", "1MiB"], 1),
        (["checkpoint", problem_file, "--budget", 42], 0),
        (["checkpoint", problem_file, "--budget", 2], 1),
        (["frontier", problem_file], 0),
    ):
        result = run(*arguments, "--quiet")
        assert (result.exit_code, result.stdout, result.stderr) == (code, "", ""), arguments
    assert json.loads((tmp_path / "p.json").read_text())["budget"] == BUDGET
    assert (tmp_path / "f.csv").read_text().startswith("budget,")
    assert "is not an amount" in complaint("checkpoint", NET, "--budget", "much", "--quiet")
    data = run("checkpoint", NET, "--budget", "1MiB", "--json", "--quiet")
    assert (data.exit_code, json.loads(data.stdout)["status"]) == (1, "infeasible")


@pytest.mark.parametrize("arguments", [["checkpoint", *ASKED, "--modules"], ["frontier", NET, "--points", 3],
                                       ["fit", "squeezenet1_1", "--budget", "1GiB", "--checkpoints"]])  # fmt: skip
def test_progress_changes_no_answer(arguments, monkeypatch):
    expected = run(*arguments).stdout
    told = []

    @contextlib.contextmanager
    def bar(words):
        yield lambda share, what: told.append((share, what))

    for module in (_checkpoint, _training):
        monkeypatch.setattr(module, "progress_bar", bar)
    assert run(*arguments).stdout == expected
    assert all(0 <= share <= 1 and isinstance(what, str) for share, what in told)
    assert told


def test_costs_are_written_for_people():
    assert [_cost(n, "ns") for n in (0, 999, 1500, 12_345_678, 2_500_000_000)] == [
        "0 ns", "999 ns", "1.5 us", "12.35 ms", "2.5 s",
    ]  # fmt: skip
    assert [_cost(n, "kFLOP") for n in (3, 30_955_646)] == ["3000 FLOP", "30.96 GFLOP"]
    assert _cost(1234, "tick") == "1,234 tick"
