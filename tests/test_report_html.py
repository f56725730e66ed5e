"""What the data of a report say is what the plans say; the file needs nothing else and holds any name."""

import dataclasses
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import shown_results
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from test_remat import any_problem, training_problem

import cnnlive
from cnnlive import zoo
from cnnlive._types import column
from cnnlive.buffers import Buffers
from cnnlive.plan import remat
from cnnlive.plan.remat import RematProblem, plan_remat, remat_frontier
from cnnlive.plan.training import TrainingPlan
from cnnlive.report.frame import TRAINING_KINDS, ReportError, columns_of, training_kinds
from cnnlive.report.html import fill, html_report, json_for_script, payload, write_report
from cnnlive.report.lives import alive_at, inference_lives, remat_lives, training_lives
from cnnlive.report.reasons import inference_rule, reasons, training_reasons, training_rules

KINDS = sorted(shown_results.results())
OF_SECTIONS = {
    "timeline": {"mode", "kinds", "bytes", "steps", "phases", "peak", "peak_bytes", "limit", "plain", "plain_label",
                 "buffers"},
    "arena": {"arena_bytes", "lower_bound", "status", "capacity", "alignment", "method", "steps", "scopes",
              "buffers"},
    "frontier": {"keep_bytes", "keep_cost", "least_bytes", "least_bound", "knee", "points", "modules"},
    "table": {"columns", "rows", "scope", "sort"},
    "profiles": {"ideal_bytes", "profiles", "steps"},
    "rules": {"rules"},
    "text": {"paragraphs"},
}  # fmt: skip


@pytest.fixture(scope="module")
def results():
    return shown_results.results()


def section(data, kind, number=0):
    return [s for s in data["sections"] if s["kind"] == kind][number]


def read(text):
    """Return the data that a report holds."""
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


# ---------------------------------------------------------------------------------- every result


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_has_a_report_in_strict_json(results, kind):
    data = payload(results[kind])
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text, parse_constant=refuse) == data
    assert data["format"] == "cnnlive-report-1"
    assert data["version"] == cnnlive.__version__
    assert data["title"]
    ids = [s["id"] for s in data["sections"]]
    assert len(ids) == len(set(ids)) >= 1
    for s in data["sections"]:
        assert set(s) == {"kind", "id", "title", "short", "words"} | OF_SECTIONS[s["kind"]]
        assert s["title"]
        assert re.fullmatch(r"[a-z]+(-\d+)?", s["id"])
    for card in data["cards"]:
        assert set(card) == {"label", "value", "text", "hint"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_lists_of_a_section_are_equally_long(results, kind):
    for s in payload(results[kind])["sections"]:
        if s["kind"] == "timeline":
            n = len(s["steps"]["op"])
            assert {len(row) for row in s["bytes"]} == {n} == {len(row) for row in s["steps"].values()}
            assert len(s["kinds"]) == len(s["bytes"])
            assert s["plain"] is None or len(s["plain"]) == n
            assert [p["begin"] for p in s["phases"]] == [0, *(p["end"] for p in s["phases"])][: len(s["phases"])]
            assert not s["phases"] or s["phases"][-1]["end"] == n
        for columns in (s.get("buffers"), s.get("rows"), s.get("points")):
            assert len({len(c) for c in (columns or {}).values() if c is not None}) <= 1
        if s["kind"] == "table":
            assert [c["key"] for c in s["columns"]] == list(s["rows"])
            assert {c["type"] for c in s["columns"]} <= {"text", "int", "bytes", "float"}
            assert s["sort"] is None or s["sort"] in s["rows"]


def test_all_results_together_are_one_report_in_the_order_of_the_page(results):
    data = payload(list(results.values()), title="everything", command="cnnlive report")
    kinds = [s["kind"] for s in data["sections"]]
    order = ["timeline", "rules", "frontier", "arena", "profiles", "table", "text"]
    assert kinds == sorted(kinds, key=order.index)
    assert set(kinds) == set(order)
    assert (data["title"], data["command"]) == ("everything", "cnnlive report")


def test_the_title_is_the_network_s_unless_another_is_given(results):
    assert payload(results["TrainingPlan"])["title"] == "small"
    assert payload(results["TrainingPlan"], title="mine")["title"] == "mine"
    assert payload(results["RuleOfThumb"])["title"] == "cnnlive report"


def test_several_networks_are_told_apart():
    nets = [zoo.load("alexnet"), zoo.load("squeezenet1_1")]
    plans = [cnnlive.plan_inference(net) for net in nets]
    rules = [inference_rule(net, plan) for net, plan in zip(nets, plans, strict=True)]
    arena = cnnlive.plan_arena(nets[1])
    data = payload([plans[0], rules[0], plans[1], rules[1], arena])
    assert (data["title"], data["subtitle"]) == ("alexnet, squeezenet1_1", "2 networks")
    titles = [s["title"] for s in data["sections"]]
    assert titles == ["Inference · alexnet", "Inference · squeezenet1_1", "Rules of thumb", "Arena · squeezenet1_1",
                      "Layers of the inference · alexnet", "Layers of the inference · squeezenet1_1"]  # fmt: skip
    assert [c["label"] for c in data["cards"]] == [
        "peak of an inference · alexnet", "activations · alexnet", "weights · alexnet",
        "peak of an inference · squeezenet1_1", "arena · squeezenet1_1",
    ]  # fmt: skip
    # Each rule is held against the plan before it.
    found = section(data, "rules")["rules"]
    assert [r["exact_bytes"] for r in found] == [p.peak_bytes for p in plans]
    assert [r["name"] for r in found] == ["inference · alexnet", "inference · squeezenet1_1"]


def test_sections_that_are_called_alike_are_numbered():
    net = zoo.load("alexnet")
    data = payload([cnnlive.plan_inference(net, batch=b) for b in (1, 2, 3)])
    timelines = [s for s in data["sections"] if s["kind"] == "timeline"]
    assert [s["title"] for s in timelines] == ["Inference", "Inference, 2", "Inference, 3"]
    assert [s["id"] for s in timelines] == ["timeline", "timeline-2", "timeline-3"]
    assert ["batch 3" in s["words"] for s in timelines] == [False, False, True]


@pytest.mark.parametrize("wrong", [3, None, "plan", {"a": 1}, [object()], [shown_results.net()]])
def test_what_has_no_report_is_refused_with_what_has_one(wrong):
    with pytest.raises(ReportError, match=r"has no report; allowed: .*TrainingPlan"):
        payload(wrong)


def test_a_report_of_nothing_is_refused():
    with pytest.raises(ReportError, match="a report of nothing; allowed: one or more of TrainingPlan"):
        html_report([])


def test_the_documented_keys_are_the_real_ones(results):
    text = (Path(__file__).parents[1] / "docs/report.md").read_text(encoding="utf-8")
    documented = {}
    for heading, body in re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL):
        rows = [line.split("|")[1:3] for line in body.splitlines() if line.startswith("| `")]
        documented[heading] = {k for first, _ in rows for k in re.findall(r"`(\w+)`", first)}
    data = payload(list(results.values()), notes=["a note"])
    assert documented.pop("report") == set(data)
    common = documented.pop("section")
    assert set(documented) == {s["kind"] for s in data["sections"]}
    for s in data["sections"]:
        assert common | documented[s["kind"]] | {"kind"} == set(s), s["kind"]
    # Keys further inside, of lists and of objects, are named on the page as well.
    named = set(re.findall(r"`(\w+)`", text))
    for s in data["sections"]:
        for value in s.values():
            inner = value[0] if isinstance(value, list) and value else value
            assert (
                set(inner if isinstance(inner, dict) and (s["kind"] != "table" or value is s["columns"]) else ())
                <= named
            )


# ---------------------------------------------------------------------------------- timelines


def above(s):
    """Return the bytes of a timeline's section that are not there all the time, and all of them."""
    rows = np.array(s["bytes"], dtype=np.int64).reshape(len(s["kinds"]), -1)
    constant = np.array([k["constant"] for k in s["kinds"]])
    return rows[~constant].sum(axis=0), rows.sum(axis=0)


def alive(s, n):
    """Return the bytes of a section's buffers alive at each step, counted one by one."""
    total = [0] * n
    for nbytes, born, dead in zip(*(s["buffers"][k] for k in ("nbytes", "born", "dead")), strict=True):
        for step in range(born, dead):
            total[step] += nbytes
    return total


NETS = ["vgg16", "resnet18", "densenet121", "googlenet", "shufflenet_v2_x1_0"]


@pytest.mark.parametrize("profile", ["ideal", "torch", "tflm", "tinyengine"])
@pytest.mark.parametrize("name", NETS)
def test_kinds_of_an_inference_and_its_buffers_add_up_to_the_timeline(name, profile):
    plan = cnnlive.plan_inference(zoo.load(name), batch=3, profile=profile, dtype="int8")
    s = section(payload(plan), "timeline")
    varying, total = above(s)
    assert varying.tolist() == plan.timeline.tolist() == alive(s, len(plan.order))
    assert total.max() == plan.peak_bytes == s["peak_bytes"]
    assert s["steps"]["op"][s["peak"]] == plan.peak_op
    at_peak = {
        n
        for n, born, dead, kind in zip(*(s["buffers"][k] for k in ("name", "born", "dead", "kind")), strict=True)
        if born <= s["peak"] < dead and kind != "scratch"
    }
    assert at_peak == {b.name for b in plan.live_at_peak}  # fmt: skip


STEPS = [
    {}, {"optimizer": "sgd", "momentum": 0.9}, {"micro_batches": 2}, {"zero_grad": "before_backward"},
    {"precision": "autocast"}, {"first_step": True}, {"set_to_none": False}, {"frozen_layers": "*conv1*"},
    {"input_gradients": True, "device": "cpu"},
]  # fmt: skip


@pytest.mark.parametrize("options", STEPS, ids=lambda o: ",".join(o) or "plain")
@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_kinds_of_a_training_step_and_its_buffers_add_up_to_the_timeline(name, options):
    plan = cnnlive.plan_training(zoo.load(name, train=True), **{"batch": 2, **options})
    s = section(payload(plan), "timeline")
    varying, total = above(s)
    there = plan.timeline > 0
    assert total[there].tolist() == plan.timeline[there].tolist()
    assert alive(s, len(total)) == varying.tolist()
    assert total.max() == plan.peak_bytes
    assert [p["label"] for p in s["phases"]] == ["forward", "backward", "optimizer"]
    # Kind by kind as well, and at the peak by the names that the plan gives.
    kinds = training_kinds(plan)
    lives = training_lives(plan)
    for row, kind in enumerate(TRAINING_KINDS[4:], 4):
        chosen = np.array([k == kind for k in lives.kind])
        of_kind = lives._replace(**{k: getattr(lives, k)[chosen] for k in ("nbytes", "born", "dead")})
        assert alive_at(of_kind, kinds.shape[1]).tolist() == kinds[row].tolist()
    assert min(lives.nbytes) > 0
    at_peak = sorted(
        (n, int(b))
        for n, b, born, dead in zip(lives.name, lives.nbytes, lives.born, lives.dead, strict=True)
        if born <= s["peak"] < dead
    )
    named = sorted((t.name, t.nbytes) for t in plan.live_at_peak)  # fmt: skip
    assert [x for x in at_peak if x[0] not in ("optimizer.step", "gradients of earlier passes")] == named


@settings(max_examples=25)
@given(graph=strategies.graphs(), profile=st.sampled_from(["ideal", "torch", "torch_fx", "tflite", "unas"]))
def test_buffers_of_any_inference_add_up_to_the_timeline(graph, profile):
    plan = cnnlive.plan_inference(graph, profile=profile)
    assert alive_at(inference_lives(plan), len(plan.order)).tolist() == plan.timeline.tolist()


@settings(max_examples=25)
@given(
    graph=strategies.training_graphs(),
    batch=st.integers(1, 3),
    micro_batches=st.sampled_from([1, 3]),
    precision=st.sampled_from([None, "float16", "autocast"]),
)
def test_buffers_of_any_training_step_add_up_to_the_timeline(graph, batch, micro_batches, precision):
    plan = cnnlive.plan_training(graph, batch=batch, micro_batches=micro_batches, precision=precision)
    kinds = training_kinds(plan)
    assert alive_at(training_lives(plan), kinds.shape[1]).tolist() == kinds[4:].sum(axis=0).tolist()


def test_buffers_of_recomputation_add_up_to_the_timeline(results):
    plans = [*results["CheckpointFrontier"].plans, *results["Frontier"].plans]
    plans += cnnlive.checkpoint_frontier(zoo.load("googlenet", train=True), batch=2, points=4).plans
    plans += cnnlive.checkpoint_frontier(shown_results.net(), batch=2, points=3, micro_batches=2).plans
    made_again = 0
    for plan in plans:
        s = section(payload(plan), "timeline")
        _, total = above(s)
        assert total.tolist() == plan.timeline.tolist()
        problem = plan.step.problem if hasattr(plan, "step") else plan.problem
        assert (np.array(alive(s, len(total))) + problem.fixed_bytes).tolist() == plan.timeline.tolist()
        assert max(s["plain"]) == (plan.keep_bytes if hasattr(plan, "step") else problem.peak_bytes)
        assert s["limit"] == plan.budget >= s["peak_bytes"]
        lives = remat_lives(plan)
        made_again += sum("made again" in what for what in lives.what)
        if hasattr(plan, "step"):
            last = len(total) - 1
            there = [int(n) for n, dead, kind in zip(lives.nbytes, lives.dead, lives.kind, strict=True)
                     if dead > last and kind == "gradients"]  # fmt: skip
            fixed = sum(b[0] for b, k in zip(s["bytes"], s["kinds"], strict=True) if k["key"] == "gradients")
            of_parameters = plan.training.gradient_bytes
            assert of_parameters in (sum(there), fixed)
            ops = {*plan.training.network.op_names, "loss", "optimizer.step"}
            assert len([op for op in s["steps"]["op"] if op in ops]) > 0.8 * len(total)
    assert made_again > 20


def test_buffers_of_any_recomputation_add_up_to_the_timeline():
    again = 0
    for seed in range(20):
        rng = random.Random(seed)
        for problem in (any_problem(rng, rng.randrange(2, 20)), training_problem(rng, rng.randrange(2, 10))):
            plan = plan_remat(problem, budget=problem.peak_bytes)
            evaluator = remat._Evaluator(problem)
            for _ in range(10):  # plans that are good and plans that are bad
                states = evaluator.model.start.copy()
                for gap in evaluator.model.free.tolist():
                    states[gap] = rng.randrange(5)
                if not evaluator.reset(states):
                    continue
                odd = dataclasses.replace(plan, states=column(states))
                lives = remat_lives(odd)
                assert (alive_at(lives, problem.n) + problem.fixed_bytes).tolist() == odd.timeline.tolist()
                assert set(lives.kind) <= {"forward", "backward", "gradients", "scratch"}
                again += sum("made again" in what for what in lives.what)
    assert again > 500


def test_buffers_of_an_inference_say_what_they_are_there_for():
    g = cnnlive.Graph("kinds")
    x = g.input((1, 3, 8, 8))
    g.output(g.relu(g.conv2d(x, 4, 3, name="inside"), name="end"))
    s = section(payload(cnnlive.plan_inference(g)), "timeline")
    rows = dict(zip(s["buffers"]["name"], zip(*(s["buffers"][k] for k in ("kind", "what")), strict=True), strict=True))
    assert rows == {
        "input": ("input", "1x3x8x8 float32"), "inside": ("activation", "1x4x6x6 float32"),
        "end": ("output", "1x4x6x6 float32"),
    }  # fmt: skip


def test_a_plan_that_keeps_everything_has_the_plain_timeline(results):
    frontier = results["CheckpointFrontier"]
    s = section(payload(frontier.plans[-1]), "timeline")
    assert frontier.plans[-1].overhead == 0
    assert above(s)[1].tolist() == s["plain"]


def test_an_order_s_timeline_has_the_program_s_beside_it(results):
    plan = results["OrderPlan"]
    s = section(payload(plan), "timeline")
    varying, _ = above(s)
    weights = plan.program.weight_bytes
    assert varying.max() == plan.peak_bytes < plan.program_peak_bytes == max(s["plain"]) - weights
    assert s["steps"]["op"] == list(plan.op_names)
    assert alive(s, len(plan.op_names)) == varying.tolist() == plan.best.timeline.tolist()


def test_wraps_and_chains_show_what_is_known_of_them(results):
    for kind in ("WrapPlan", "ChainPlan"):
        s = section(payload(results[kind]), "timeline")
        assert above(s)[1].tolist() == results[kind].timeline.tolist()
        assert s["buffers"] is None


def test_a_fit_draws_the_budget_and_what_is_set_aside(results):
    fit = results["Fit"]
    data = payload(fit)
    s = section(data, "timeline")
    assert s["limit"] == fit.budget_bytes
    assert s["kinds"][0]["key"] == "context"
    assert set(s["bytes"][0]) == {fit.context_bytes}
    assert above(s)[1].max() == fit.needed_bytes
    parts = data["sections"][-1]
    assert sum(parts["rows"]["nbytes"]) == fit.needed_bytes
    assert data["cards"][0]["text"] == f"{fit.needed_bytes:,} B"


# ---------------------------------------------------------------------------------- the other sections


@pytest.mark.parametrize("plan", [
    cnnlive.plan_arena(zoo.load("resnet18"), fuse=True), cnnlive.plan_arena(zoo.load("googlenet"), dtype="int8"),
    cnnlive.plan_arena(zoo.load("mobilenet_v2"), profile="tflm", dtype="int8"),
    cnnlive.plan_shared_objects(zoo.load("resnet18")),
], ids=["resnet18", "googlenet", "tflm", "shared objects"])  # fmt: skip
def test_rectangles_of_an_arena_never_overlap_and_fill_it(plan):
    s = section(payload(plan), "arena")
    rows = list(zip(*(s["buffers"][k] for k in ("born", "dead", "offset", "nbytes")), strict=True))
    for k, (born, dead, offset, nbytes) in enumerate(rows):
        assert born < dead
        for b2, d2, o2, n2 in rows[:k]:
            assert dead <= b2 or d2 <= born or offset + nbytes <= o2 or o2 + n2 <= offset
    total = getattr(plan, "arena_bytes", None) or plan.total_bytes
    assert max(offset + nbytes for *_, offset, nbytes in rows) == total == s["arena_bytes"]
    assert s["lower_bound"] <= total


def test_rectangles_of_an_arena_know_their_ops():
    plan = cnnlive.plan_arena(shown_results.net(), fuse=True)
    s = section(payload(plan), "arena")
    at = s["buffers"]["name"].index("block.conv2d_1")
    assert (s["buffers"]["op"][at], s["buffers"]["scope"][at]) == ("conv2d", "block")
    assert s["buffers"]["what"][at] == "1x8x16x16 float32"
    assert s["steps"] == [plan.plan.network.op_names[op] for op in plan.plan.order.tolist()]


def test_an_arena_without_a_placement_says_why():
    plan = cnnlive.plan_arena(shown_results.net(), capacity=100)
    data = payload(plan)
    s = section(data, "arena")
    assert s["arena_bytes"] is None
    assert s["buffers"]["offset"] is None
    assert "There is no placement" in s["words"]
    assert data["cards"][0]["value"] == "infeasible"


def test_a_frontier_has_its_bound_below_it_and_names_what_runs_again(results):
    found = results["CheckpointFrontier"]
    s = section(payload(found), "frontier")
    points = s["points"]
    assert points["budget"] == sorted(points["budget"])
    assert points["overhead"] == sorted(points["overhead"], reverse=True)
    assert all(0 <= bound <= over for bound, over in zip(points["bound"], points["overhead"], strict=True))
    assert all(peak <= budget for peak, budget in zip(points["peak"], points["budget"], strict=True))
    assert found.plans[s["knee"]] is found.knee
    assert points["recomputed"] == [len(p.recomputed) for p in found.plans]
    for names, plan in zip(s["modules"], found.plans, strict=True):
        assert bool(names) == bool(plan.recomputed)
        assert all(any(op == n or op.startswith(f"{n}.") for op in plan.recomputed) for n in names)


@pytest.mark.parametrize("kind", ["ChainFrontier", "WrapFrontier"])
def test_a_frontier_of_one_kind_of_plans_proves_nothing_of_others(results, kind):
    s = section(payload(results[kind]), "frontier")
    assert s["least_bound"] is s["points"]["bound"] is None
    assert s["least_bytes"] == s["points"]["peak"][0]
    assert s["keep_bytes"] == s["points"]["peak"][-1]
    assert s["points"]["overhead"][-1] == 0


def test_steps_of_profiles_add_up(results):
    s = section(payload(results["Comparison"]), "profiles")
    runs = [p for p in s["profiles"] if not p["reason"]]
    assert len(runs) >= 2
    for p in runs:
        change = sum(step["change"] for step in s["steps"] if step["profile"] == p["name"])
        end = p["activation_bytes"] if p["arena_bytes"] is None else p["arena_bytes"]
        assert s["ideal_bytes"] + change == end
        assert p["peak_bytes"] == p["activation_bytes"] + p["weight_bytes"]
    (refused,) = [p for p in s["profiles"] if p["reason"]]
    assert refused["name"] == "tinyengine"
    assert refused["activation_bytes"] is None


def test_reasons_add_up_from_each_rule_of_thumb_to_the_exact_figure():
    net = zoo.load("resnet18")
    inference, training = cnnlive.plan_inference(net, batch=4), cnnlive.plan_training(net, batch=4)
    rules = [inference_rule(net, inference), *training_rules(training)]
    s = section(payload([inference, training, *rules]), "rules")
    plans = (inference, training, training)
    split = (reasons, training_reasons, training_reasons)
    for found, rule, plan, why in zip(s["rules"], rules, plans, split, strict=True):
        assert found["exact_bytes"] == plan.peak_bytes
        assert found["rule_bytes"] == rule.nbytes == sum(t["nbytes"] for t in found["terms"])
        assert found["difference"] == plan.peak_bytes - rule.nbytes == sum(r["nbytes"] for r in found["reasons"])
        assert [r["words"] for r in found["reasons"]] == [r.words for r in why(plan, rule)]


def test_a_rule_of_thumb_is_held_against_the_plan_of_a_fit(results):
    fit = results["Fit"]
    (rule, _) = training_rules(fit.plan)
    (found,) = section(payload([fit, rule]), "rules")["rules"]
    assert found["exact_bytes"] == fit.plan.peak_bytes


def test_a_rule_of_thumb_alone_has_its_terms_only(results):
    (found,) = section(payload(results["RuleOfThumb"]), "rules")["rules"]
    assert found["exact_bytes"] is None
    assert found["reasons"] == []
    assert sum(t["nbytes"] for t in found["terms"]) == found["rule_bytes"]


@pytest.mark.parametrize("kind", ["InferencePlan", "TrainingPlan", "OrderPlan", "RematPlan"])
def test_a_table_is_that_of_data_frames(results, kind):
    s = section(payload(results[kind]), "table")
    for found in columns_of(results[kind]):
        assert s["rows"][found.name] == list(map(type(s["rows"][found.name][0]), found.values))
    if "scope" in s["rows"]:
        assert s["scope"] == s["rows"]["scope"]


def test_amounts_of_search_spaces_are_bytes_and_what_is_no_number_is_none(results):
    s = section(payload(results["Evaluation"]), "table")
    assert {c["key"]: c["type"] for c in s["columns"]}["inference_peak"] == "bytes"
    odd = cnnlive.nas.Evaluation(score=np.array([1.5, np.nan, np.inf]))
    assert section(payload(odd), "table")["rows"]["score"] == [1.5, None, None]


def test_modules_add_up_what_adds_up(results):
    s = section(payload(results["TrainingPlan"]), "table")
    assert {c["key"]: c["total"] for c in s["columns"]} == {
        "name": None, "op": None, "scope": None, "parameter_bytes": "sum", "saved_bytes": "sum",
        "gradient_bytes": "sum", "forward_bytes": "max", "backward_bytes": "max",
    }  # fmt: skip


def test_what_is_no_number_never_gets_into_a_file():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_for_script({"cost": float("nan")})


# ---------------------------------------------------------------------------------- names, sizes, degenerate nets

NAMES = ['</script><script>alert("1")</script>', "<!-- <b>&amp;", 'quote " and \' here', "line\nbreak", "naïve 网络 🙂",
         "{{data}} {{title}}", "\u2028\u2029", "back\\slash"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_arrives_as_it_is_and_ends_nothing(name):
    g = cnnlive.Graph(name)
    with g.scope(name.replace(".", "")):
        g.relu(g.conv2d(g.input((1, 3, 8, 8)), 4, 3), name=name)
    plans = [cnnlive.plan_inference(g), cnnlive.plan_training(g), cnnlive.plan_arena(g)]
    text = html_report(plans)
    assert read(text) == payload(plans)
    assert any(name in step for step in section(payload(plans), "timeline")["steps"]["op"])

    class Titles(HTMLParser):
        found, scripts = "", 0

        def handle_starttag(self, tag, attrs):
            self.scripts += tag == "script"

        def handle_data(self, data):
            self.found += data if self.lasttag == "title" else ""

    page, plain = Titles(), Titles()
    page.feed(text)
    plain.feed(html_report(shown_results.results()["ArenaPlan"]))
    assert page.found.strip() == name.strip()
    assert page.scripts == plain.scripts


def test_a_net_of_one_op_has_a_report():
    g = cnnlive.Graph("one")
    g.relu(g.input((1, 1, 1, 1)))
    data = payload([cnnlive.plan_inference(g), cnnlive.plan_arena(g), cnnlive.plan_order(g)])
    assert section(data, "timeline")["peak_bytes"] == 8


def test_a_net_of_an_input_alone_has_a_report():
    g = cnnlive.Graph("input")
    g.output(g.input((2, 3)))
    s = section(payload(cnnlive.plan_inference(g)), "timeline")
    assert above(s)[1].tolist() == [12]


def test_buffers_of_no_bytes_or_no_life_are_not_drawn():
    buffers = Buffers.of([0, 1, 3], [2, 5, 3], [8, 0, 16], ids=["a", "b", "c"])
    s = section(payload(cnnlive.plan_arena(buffers)), "arena")
    assert s["buffers"]["name"] == ["a"]
    assert s["steps"] == []
    nothing = section(payload(cnnlive.plan_arena(Buffers.of([], [], []))), "arena")
    assert nothing["buffers"]["name"] == []
    assert nothing["arena_bytes"] == 0


def test_values_of_no_bytes_are_not_listed():
    problem = RematProblem.of([1, 1, 1, 1, 1], [0, 8, 4, 8, 0], [(0, 1), (1, 2), (1, 3), (2, 3), (0, 4), (3, 4)], 2)
    frontier = remat_frontier(problem, points=3)
    for plan in frontier.plans:
        s = section(payload(plan), "timeline")
        assert above(s)[1].tolist() == plan.timeline.tolist()
        assert 0 not in s["buffers"]["nbytes"]


def test_bytes_near_the_largest_integer_are_exact():
    buffers = Buffers.of([0, 1], [2, 3], [2**61, 2**61 - 2**10])
    s = section(json.loads(json.dumps(payload(cnnlive.plan_arena(buffers)))), "arena")
    assert s["arena_bytes"] == 2**62 - 2**10
    assert max(s["buffers"]["nbytes"]) == 2**61


def deep(n):
    """Build a residual net of `n` blocks of seven ops."""
    g = cnnlive.Graph("deep")
    x = g.conv2d(g.input((1, 3, 32, 32)), 8, 3, padding=1)
    for k in range(n):
        with g.scope(f"layer{k // 50}"), g.scope(str(k % 50)):
            y = g.relu(g.batch_norm2d(g.conv2d(x, 8, 3, padding=1)))
            x = g.relu(g.add(g.batch_norm2d(g.conv2d(y, 8, 3, padding=1)), x))
    g.linear(g.flatten(g.adaptive_avg_pool2d(x, 1)), 10)
    return cnnlive.lower(g)


def test_a_net_of_two_thousand_layers_takes_less_than_three_megabytes():
    net = deep(300)
    assert net.n_ops > 2000
    plans = [cnnlive.plan_training(net, batch=8), cnnlive.plan_inference(net, batch=8), cnnlive.plan_arena(net)]
    data = payload([*plans, *training_rules(plans[0])])
    assert len(json.dumps(data)) < 3_000_000
    s = section(data, "timeline")
    assert alive_at(training_lives(plans[0]), len(plans[0].timeline)).tolist() == above(s)[0].tolist()
    assert alive_at(inference_lives(plans[1]), net.n_ops).tolist() == plans[1].timeline.tolist()


# ---------------------------------------------------------------------------------- the file


def test_a_report_is_one_file_that_fetches_nothing(results):
    text = html_report(list(results.values()))
    plotly = max(re.findall(r"<script>(.*?)</script>", text, re.DOTALL), key=len)
    assert len(plotly) > 1_000_000
    assert plotly.lstrip().startswith("/**\n* plotly.js")
    page = text.replace(plotly, "")
    for attribute, url in re.findall(r"\b(src|href|srcset|poster|action)\s*=\s*[\"']?([^\"'\s>]*)", page):
        assert url.startswith(("#", "data:")), (attribute, url)
    assert "@import" not in page
    assert re.findall(r"url\(\s*[\"']?(?!data:|#)", page) == []
    assert "default-src 'none'" in page
    assert "{{" not in re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def test_the_same_results_give_the_same_file():
    def made():
        net = shown_results.net()
        plan = cnnlive.plan_training(net, batch=2)
        return html_report([plan, *training_rules(plan), cnnlive.checkpoint_frontier(net, batch=2, points=3)])

    assert made() == made()


def test_a_report_is_written_whole(tmp_path, results):
    path = tmp_path / "small.html"
    write_report(path, results["ArenaPlan"], title="mine")
    text = path.read_text(encoding="utf-8")
    assert text == html_report(results["ArenaPlan"], title="mine")
    assert read(text)["title"] == "mine"


def test_a_report_without_plotly_names_the_extra(monkeypatch, results):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(cnnlive.errors.MissingExtraError, match=r"a report needs the package plotly.*cnnlive\[report\]"):
        fill(payload(results["ArenaPlan"]))


def test_a_title_that_is_no_text_is_written_all_the_same(tmp_path, results):
    write_report(tmp_path / "odd.html", results["ArenaPlan"], title="odd \udcff", command="cnnlive report \udcff.csv")
    data = read((tmp_path / "odd.html").read_text(encoding="utf-8"))
    assert (data["title"], data["command"]) == ("odd ?", "cnnlive report ?.csv")


def test_data_need_no_plotly(monkeypatch, results):
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    plan = results["TrainingPlan"]
    assert isinstance(plan, TrainingPlan)
    assert payload(plan)["sections"]


def test_a_result_writes_its_own_page(tmp_path, results):
    plan = results["InferencePlan"]
    plan.write_html(tmp_path / "one.html", title="mine")
    cnnlive.write_report(tmp_path / "other.html", plan, title="mine")
    pages = [(tmp_path / name).read_text(encoding="utf-8") for name in ("one.html", "other.html")]
    assert pages[0] == pages[1] == cnnlive.html_report([plan], title="mine")
