"""Drawings say what the plans say: heights, marks, names and axes."""

import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys

import numpy as np
import pytest
import shown_results
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs, training_graphs

import cnnlive
from cnnlive._types import Shown
from cnnlive.errors import MissingExtraError
from cnnlive.nas import Evaluation, Limit
from cnnlive.plan.remat import remat_frontier
from cnnlive.report import plot as module
from cnnlive.report.frame import (
    _TABLES,
    INFERENCE_KINDS,
    TRAINING_KINDS,
    ReportError,
    inference_kinds,
    keep_all_timeline,
    training_kinds,
)
from cnnlive.report.notebook import _FRAGMENTS
from cnnlive.report.plot import drawings_of, maxima, plot, scope_bands
from cnnlive.units import format_bytes

KINDS = sorted(shown_results.results())
NO_BYTES = ("Best", "Walk")  # what is drawn of these first has no amount on its axes


@pytest.fixture
def pyplot():
    """Draw on the backend without a screen; close what was drawn."""
    matplotlib = pytest.importorskip("matplotlib", reason="drawings need matplotlib: pip install 'cnnlive[viz]'")
    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 - after the backend is chosen

    yield pyplot
    pyplot.close("all")


@pytest.fixture(scope="module")
def results():
    return shown_results.results()


def words(ax):
    """Return everything that is written in the axes."""
    found = [t.get_text() for t in ax.texts] + [ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()]
    legend = ax.get_legend()
    return "\n".join(found + ([] if legend is None else [t.get_text() for t in legend.get_texts()]))


def peaks(ax):
    """Return the points that annotations beginning with "peak" are of."""
    return [t.xy for t in ax.texts if t.get_text().startswith("peak")]


def stairs(ax):
    from matplotlib.patches import StepPatch  # noqa: PLC0415 - may be missing

    return [p for p in ax.patches if isinstance(p, StepPatch)]


def outline(ax):
    """Return values and edges of the last line of steps without a fill."""
    data = [p.get_data() for p in stairs(ax) if not p.get_fill()][-1]
    return data.values, data.edges


# ---------------------------------------------------------------------------------- every kind


def classes():
    """Return the classes of the package by name."""
    found = {}
    for info in pkgutil.walk_packages(cnnlive.__path__, "cnnlive."):
        if "__main__" not in info.name:
            inside = vars(importlib.import_module(info.name))
            found |= {n: c for n, c in inside.items() if inspect.isclass(c) and c.__module__ == info.name}
    return found


def returned():
    """Yield the name of each public function and method, with the names of classes that it says it returns."""
    for package in (cnnlive, cnnlive.nas):
        for name in package.__all__:
            thing = getattr(package, name)
            functions = {name: thing} if inspect.isfunction(thing) else {}
            if inspect.isclass(thing):
                methods = inspect.getmembers(thing, lambda v: inspect.isfunction(v) or inspect.ismethod(v))
                functions = {f"{name}.{k}": v for k, v in methods if not k.startswith("_")}
            for function, call in functions.items():
                yield function, re.findall(r"[A-Z]\w+", str(inspect.signature(call).return_annotation))


# What functions return that is no answer: what is planned, and with which rules; parts of results and of graphs.
NO_RESULTS = {
    "Graph", "Tensor", "OwnedWeight", "Lowered", "Sizes", "Buffers", "Chain", "RematProblem", "Batch", "Nodes",
    "Trellis", "Costs", "Measured", "CudaAllocator", "Setting", "Efficiency", "Row", "LiveBuffer",
}  # fmt: skip


def test_whatever_a_public_function_returns_is_shown():
    """A new kind of result needs tables, drawings, a fragment, and an example in shown_results."""
    known = classes()
    shown = {name for name, c in known.items() if issubclass(c, Shown)} - {"Shown", "Result"}
    assert shown == set(shown_results.results()) == set(module._DRAWINGS) == set(_TABLES) == set(_FRAGMENTS)
    met = set()
    for function, names in returned():
        for name in set(names) & set(known):
            assert name in shown | NO_RESULTS, f"{function} returns {name}, which is not shown"
            met.add(name)
    assert {"CheckpointFrontier", "Evaluation", "Front", "RuleOfThumb", "WrapFrontier"} <= met


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_draws_and_is_named_with_units_on_its_axes(pyplot, results, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(pyplot, "show", lambda *a, **k: pytest.fail("a drawing is not shown by itself"))
    ax = plot(results[kind])
    ax.figure.savefig(tmp_path / "drawn.png")
    title = ax.get_title(loc="left")
    assert any(name in title for name in ("small", "two branches", "chain", "rule of thumb", "8 candidates"))
    labels = [t.get_text() for axis in (ax.xaxis, ax.yaxis) for t in axis.get_ticklabels()]
    assert any(label.endswith(("B", "KiB", "MiB")) for label in labels) != (kind in NO_BYTES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_draws_into_the_axes_it_is_given_and_leaves_the_style_alone(pyplot, results, kind):
    before = dict(pyplot.rcParams)
    _, axes = pyplot.subplots(1, 2)
    assert plot(results[kind], ax=axes[1]) is axes[1]
    assert not axes[0].has_data()
    assert len(pyplot.get_fignums()) == 1
    assert dict(pyplot.rcParams) == before


@pytest.mark.parametrize(("kind", "suffix"), [("TrainingPlan", "svg"), ("ArenaPlan", "pdf")])
def test_drawings_are_written_as_vectors(pyplot, results, kind, suffix, tmp_path):
    plot(results[kind]).figure.savefig(tmp_path / f"drawn.{suffix}")
    assert (tmp_path / f"drawn.{suffix}").stat().st_size > 1000


def test_a_dark_style_is_drawn_in_light_ink(pyplot, results):
    with pyplot.style.context("dark_background"):
        ax = plot(results["InferencePlan"])
        assert {t.get_color() for t in ax.texts} == {"white"}


# ---------------------------------------------------------------------------------- kinds of bytes


@given(graph=graphs())
@settings(max_examples=40)
def test_the_kinds_of_inference_are_what_each_op_reads_writes_and_leaves_alone(graph):
    plan = cnnlive.plan_inference(graph)
    rows = dict(zip(INFERENCE_KINDS, inference_kinds(plan).tolist(), strict=True))
    for step in range(len(plan.order)):
        alive = {b.name: b.nbytes for b in plan.live_at(step)}
        read = {b.name for b in plan.reads_at(step)} & set(alive)
        written = {b.name for b in plan.writes_at(step)} & set(alive) - read
        assert rows["read"][step] == sum(alive[name] for name in read)
        assert rows["written"][step] == sum(alive[name] for name in written)
        assert rows["held"][step] == sum(alive.values()) - rows["read"][step] - rows["written"][step]
        assert rows["scratch"][step] == plan.timeline[step] - sum(alive.values())


@pytest.mark.parametrize("profile", ["torch", "torch_fx", "tflm", "onnxruntime"])
def test_the_kinds_of_inference_add_up_under_every_profile(profile):
    plan = cnnlive.plan_inference(cnnlive.zoo.load("mobilenet_v2"), profile=profile)
    rows = inference_kinds(plan)
    assert rows.min() >= 0
    assert (rows.sum(axis=0) == plan.timeline).all()


OPTIONS = st.sampled_from([
    {}, {"optimizer": "sgd", "momentum": 0.9, "micro_batches": 2}, {"zero_grad": "before_backward"},
    {"first_step": True}, {"precision": "autocast"}, {"device": "cpu", "set_to_none": False},
])  # fmt: skip


@given(graph=training_graphs(max_ops=16), options=OPTIONS)
@settings(max_examples=40)
def test_the_kinds_of_training_add_up_and_are_those_alive_at_the_peak(graph, options):
    plan = cnnlive.plan_training(graph, batch=2, **{"loss": "mse", **options})
    rows, timeline = training_kinds(plan), plan.timeline
    assert rows.min() >= 0
    assert (rows.sum(axis=0)[timeline > 0] == timeline[timeline > 0]).all()
    at = dict(zip(TRAINING_KINDS, rows[:, timeline.argmax()].tolist(), strict=True))
    alive = {"activation": 0, "temporary": 0, "gradient": 0}
    for tensor in plan.live_at_peak:
        alive[tensor.kind] += tensor.nbytes
    assert at["saved"] + at["activations"] == alive["activation"]
    assert at["parameters"] == plan.composition["parameters"]
    assert at["optimizer_state"] == plan.composition["optimizer_state"]
    if plan.peak_phase != "optimizer":
        assert at["temporaries"] == alive["temporary"]


def test_what_is_saved_when_backward_begins_is_what_the_plan_says():
    plan = cnnlive.plan_training(cnnlive.zoo.load("resnet18"), batch=2)
    rows = dict(zip(TRAINING_KINDS, training_kinds(plan), strict=True))
    n = plan.tape.n_records
    assert rows["saved"][n] == plan.saved_bytes
    assert rows["gradients"][-1] == plan.gradient_bytes
    assert not rows["gradients"][:n].any()


# ---------------------------------------------------------------------------------- timelines


def test_the_inference_drawing_is_as_high_as_the_timeline_and_names_the_peak(pyplot, results):
    plan = results["InferencePlan"]
    ax = plot(plan)
    values, edges = outline(ax)
    assert values.tolist() == plan.timeline.tolist()
    assert edges.tolist() == [k - 0.5 for k in range(len(plan.order) + 1)]
    assert peaks(ax) == [(plan.peak_step, plan.activation_peak_bytes)]
    assert f"peak {format_bytes(plan.activation_peak_bytes)}" in words(ax)
    assert f"at {plan.peak_op} (relu), step {plan.peak_step}" in words(ax)
    assert ax.get_ylabel() == "activations alive"
    assert [t.get_text() for t in ax.get_xticklabels()] == [plan.network.op_names[op] for op in plan.order]
    with_weights = plot(plan, weights=True)
    assert (outline(with_weights)[0] == plan.timeline + plan.weight_bytes).all()
    assert peaks(with_weights) == [(plan.peak_step, plan.peak_bytes)]


def test_layers_of_the_stack_are_the_kinds(pyplot, results):
    plan = results["InferencePlan"]
    ax = plot(plan)
    fills = [p for p in stairs(ax) if p.get_fill()]
    held = inference_kinds(plan)[2]
    assert fills[0].get_label() == "held for later"
    assert (fills[0].get_data().values == held).all()
    assert held.any()


def test_the_training_drawing_parts_the_phases_and_names_the_peak(pyplot, results):
    plan = results["TrainingPlan"]
    ax = plot(plan)
    values, edges = outline(ax)
    rows = training_kinds(plan).sum(axis=0)
    assert values.tolist() == rows.tolist()
    step = int(plan.timeline.argmax())
    assert peaks(ax) == [(step, plan.peak_bytes)]
    assert {"forward", "backward", "optimizer"} <= set(words(ax).splitlines())
    assert {"parameters", "optimizer state", "saved for backward", "gradients"} <= set(words(ax).splitlines())
    n = plan.tape.n_records
    assert sorted({float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 2}) == [
        n - 0.5, 2 * n - 0.5
    ]  # fmt: skip
    assert edges[-1] - edges[-2] >= 0.04 * n


def test_the_optimizer_s_peak_is_wide_enough_to_be_seen(pyplot):
    plan = cnnlive.plan_training(cnnlive.zoo.load("resnet18"), batch=1, optimizer="adam")
    assert plan.peak_phase == "optimizer"
    ax = plot(plan)
    values, edges = outline(ax)
    assert values[-1] == plan.peak_bytes
    assert (edges[-1] - edges[-2]) / (edges[-1] - edges[0]) > 0.03
    ((x, y),) = peaks(ax)
    assert x == pytest.approx((edges[-2] + edges[-1]) / 2)
    assert y == plan.peak_bytes


@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=60), most=st.integers(1, 70))
def test_joined_steps_show_the_first_largest_of_their_share(values, most):
    values = np.array(values)
    edges, steps = maxima(values, most)
    assert edges[0] == 0
    assert edges[-1] == len(values)
    assert len(steps) == len(edges) - 1 == min(most, len(values))
    for a, b, step in zip(edges[:-1], edges[1:], steps, strict=True):
        assert step == a + np.argmax(values[a:b])
    assert values[steps].max() == values.max()


def test_two_thousand_steps_keep_their_peak(pyplot):
    g = cnnlive.Graph("long")
    x = g.input((1, 1, 4, 4))
    for k in range(2000):
        x = g.conv2d(x, 64 if k == 1234 else 1, 1)
    plan = cnnlive.plan_inference(g)
    ax = plot(plan)
    values, edges = outline(ax)
    assert len(values) <= 900
    assert values.max() == plan.activation_peak_bytes
    column = int(values.argmax())
    assert edges[column] <= plan.peak_step <= edges[column + 1]
    assert peaks(ax) == [(plan.peak_step, plan.activation_peak_bytes)]
    assert ax.get_xlabel() == "step"


def test_layers_are_named_above_a_long_timeline(pyplot):
    ax = plot(cnnlive.plan_inference(cnnlive.zoo.load("resnet50")))
    assert {"layer1", "layer2", "layer3", "layer4"} <= {t.get_text() for t in ax.texts}


def test_scopes_are_grouped_at_the_depth_that_tells_most():
    assert scope_bands(["a.x", "a.x", "a.y", "b.z"]) == [("a.x", 0, 2), ("a.y", 2, 3), ("b.z", 3, 4)]
    assert scope_bands(["a.x", "a.x", "a.y", "b.z"], most=2) == [("a", 0, 3), ("b", 3, 4)]
    assert scope_bands(["a"] * 5) == scope_bands([]) == scope_bands(["", ""]) == []
    assert scope_bands(["a", "b"] * 50) == []


def test_the_order_s_drawing_has_both_timelines_and_the_bound(pyplot, results):
    plan = results["OrderPlan"]
    ax = plot(plan)
    lines = [p.get_data().values.tolist() for p in stairs(ax) if not p.get_fill()]
    program = cnnlive.plan_inference(plan.network, profile=plan.profile)
    best = cnnlive.plan_inference(plan.network, profile=plan.profile, order=plan.order.tolist())
    assert lines == [program.timeline.tolist(), best.timeline.tolist()]
    assert max(lines[0]) == plan.program_peak_bytes
    assert max(lines[1]) == plan.peak_bytes
    bound = [line for line in ax.lines if line.get_label().startswith("no order below")]
    assert set(bound[0].get_ydata()) == {plan.lower_bound}
    assert f"best order's peak {format_bytes(plan.peak_bytes)}" in words(ax)
    assert f"program's peak {format_bytes(plan.program_peak_bytes)}" in words(ax)


@pytest.mark.parametrize("profile", ["ideal", "torch_fx", "tflm", "tinyengine"])
def test_an_order_s_own_plans_have_its_peaks(profile):
    plan = cnnlive.plan_order(cnnlive.zoo.load("mobilenet_v2"), profile=profile, batch=2, dtype="int8")
    assert plan.best.activation_peak_bytes == plan.peak_bytes
    assert plan.program.activation_peak_bytes == plan.program_peak_bytes
    assert plan.best.order.tolist() == plan.order.tolist()


def test_an_order_that_is_the_program_s_has_one_peak(pyplot):
    plan = cnnlive.plan_order(cnnlive.zoo.load("vgg11"))
    assert plan.peak_bytes == plan.program_peak_bytes
    assert len(peaks(plot(plan))) == 1


def test_checkpoints_are_drawn_under_what_keeping_everything_takes(pyplot, results):
    plan = results["CheckpointPlan"]
    kept = keep_all_timeline(plan)
    assert kept.max() == plan.keep_bytes
    for result in (plan, plan.remat):
        ax = plot(result)
        lines = [p.get_data().values.tolist() for p in stairs(ax) if not p.get_fill()]
        assert lines == [kept.tolist(), plan.timeline.tolist()]
        assert plan.budget in [line.get_ydata()[0] for line in ax.lines]
        assert f"budget {format_bytes(plan.budget)}" in words(ax)
        assert [y for _, y in peaks(ax)] == [plan.peak_bytes]
        assert ax.get_xlabel() == ("node (forward, then backward)" if len(kept) > 48 else "")
        rug = next(line for line in ax.lines if line.get_label() == "runs again in backward")
        assert {plan.remat.problem.names[int(x)] for x in rug.get_xdata()} == set(plan.remat.recomputed)


def test_wrapped_modules_are_drawn_with_budget_and_what_nothing_wrapped_takes(pyplot, results):
    plan = results["WrapPlan"]
    ax = plot(plan)
    assert outline(ax)[0].tolist() == plan.timeline.tolist()
    levels = [line.get_ydata()[0] for line in ax.lines]
    assert plan.keep_bytes in levels
    assert plan.budget in levels
    assert [y for _, y in peaks(ax)] == [plan.peak_bytes]


# ---------------------------------------------------------------------------------- arenas


def rectangles(ax):
    boxes = [path.get_extents() for path in ax.collections[0].get_paths()]
    return [(b.x0, b.x1, b.y0, b.y1) for b in boxes]


@pytest.mark.parametrize("colour", ["layer", "op"])
def test_the_arena_s_rectangles_are_its_buffers(pyplot, results, colour):
    plan = results["ArenaPlan"]
    ax = plot(plan, colour=colour)
    b = plan.buffers
    assert rectangles(ax) == [
        (lower - 0.5, upper - 0.5, offset, offset + nbytes)
        for lower, upper, offset, nbytes in zip(b.lower, b.upper, plan.offsets, b.nbytes, strict=True)
        if lower < upper and nbytes
    ]
    assert f"arena {format_bytes(plan.arena_bytes)} = lower bound" in words(ax)
    assert plan.arena_bytes in [line.get_ydata()[0] for line in ax.lines]


def test_there_is_no_half_of_a_byte(pyplot):
    ax = plot(cnnlive.plan_arena(cnnlive.Buffers.of([0, 1, 1], [2, 3, 4], [4, 5, 3])))
    ax.figure.draw_without_rendering()
    assert {t.get_text() for t in ax.get_yticklabels()} == {"0", "5 B", "10 B", "15 B"}


def test_names_in_rectangles_are_of_the_ink_that_is_read_better(pyplot):
    ax = plot(cnnlive.plan_arena(cnnlive.Buffers.of([0, 2], [2, 4], [5000, 5000], ids=["blue", "orange"])))
    assert {t.get_text(): t.get_color() for t in ax.texts if t.get_text() in ("blue", "orange")} == {
        "blue": "white", "orange": "black"
    }  # fmt: skip


def test_an_arena_above_its_bound_shows_both(pyplot):
    buffers = cnnlive.Buffers.of([0, 0, 2], [1, 3, 4], [4096, 1024, 5000])
    plan = cnnlive.plan_arena(buffers, method="greedy_by_size", capacity=10_000)
    ax = plot(plan)
    assert "capacity" in words(ax)
    assert {float(plan.arena_bytes), 10_000.0} <= {float(line.get_ydata()[0]) for line in ax.lines}


def test_an_arena_that_there_is_none_of_shows_what_is_alive(pyplot):
    buffers = cnnlive.Buffers.of([0, 1, 1], [2, 3, 4], [4096, 1024, 2048], name="too much")
    plan = cnnlive.plan_arena(buffers, capacity=6000)
    assert plan.status == "infeasible"
    ax = plot(plan)
    values, edges = outline(ax)
    assert dict(zip((edges[:-1] + 0.5).tolist(), values.tolist(), strict=True)) == dict(plan.timeline.tolist()[:-1])
    assert "infeasible" in words(ax)
    assert "capacity 5.86 KiB" in words(ax)


def test_what_is_not_proven_least_shows_its_bound(pyplot):
    buffers = cnnlive.Buffers.of([0, 3, 3, 0, 2, 1], [2, 4, 5, 1, 4, 3], [500, 100, 300, 600, 700, 400])
    placed = cnnlive.plan_arena(buffers, method="greedy_by_size")
    shared = cnnlive.plan_shared_objects(buffers, method="greedy_in_order")
    for plan in (placed, shared):
        assert plan.gap > 0
        ax = plot(plan)
        assert plan.lower_bound in [line.get_ydata()[0] for line in ax.lines]
        assert f"lower bound {format_bytes(plan.lower_bound)}" in words(ax)


def test_a_large_arena_draws_every_buffer(pyplot):
    plan = cnnlive.plan_arena(cnnlive.zoo.load("densenet121"), fuse=True)
    ax = plot(plan)
    assert len(rectangles(ax)) == plan.buffers.n
    assert "colours repeat" in ax.get_xlabel()


def test_shared_objects_are_stacked(pyplot, results):
    plan = results["SharedObjectsPlan"]
    ax = plot(plan)
    floor = np.concatenate([[0], np.cumsum(plan.object_bytes)])
    at = plan.object_of[plan.object_of >= 0]
    assert [bottom for _, _, bottom, _ in rectangles(ax)] == floor[at].tolist()
    assert all(top <= floor[k + 1] for (_, _, _, top), k in zip(rectangles(ax), at, strict=True))


# ---------------------------------------------------------------------------------- frontiers


@pytest.mark.parametrize("kind", ["CheckpointFrontier", "Frontier"])
def test_the_frontier_s_points_are_its_plans(pyplot, results, kind):
    found = results[kind]
    ax = plot(found)
    lines = {line.get_label(): line for line in ax.lines}
    points = lines["plans"]
    assert points.get_xdata().tolist() == [p.budget for p in found.plans]
    assert points.get_ydata().tolist() == pytest.approx([100 * p.overhead for p in found.plans])
    bound = lines["lower bound"].get_ydata()[1:]
    plain = found.plans[0].problem.plain_cost if kind == "Frontier" else found.plans[0].plain_cost
    assert bound.tolist() == pytest.approx([100 * (p.lower_bound - plain) / plain for p in found.plans])
    assert (bound <= points.get_ydata() + 1e-9).all()
    assert lines["knee"].get_xdata() == [found.knee.budget]
    assert lines["everything kept"].get_xdata() == [found.keep_bytes]
    assert f"knee: {format_bytes(found.knee.budget)}" in words(ax)
    by_peak = {line.get_label(): line for line in plot(found, x="peak").lines}
    assert by_peak["plans"].get_xdata().tolist() == [p.peak_bytes for p in found.plans]


def test_a_curve_holds_from_its_budget_on_and_a_bound_up_to_its_own(pyplot, results):
    ax = plot(results["Frontier"])
    styles = {line.get_drawstyle() for line in ax.lines if not line.get_label().startswith(("plans", "knee"))}
    assert {"steps-post", "steps-pre"} <= styles
    shaded = [p for p in ax.patches if p.get_label() == "proven: no plan"]
    assert shaded[0].get_x() + shaded[0].get_width() == pytest.approx(results["Frontier"].least_bound)


def test_a_chain_s_frontier_and_its_plans(pyplot, results):
    found = results["ChainFrontier"]
    lines = {line.get_label(): line for line in plot(found).lines}
    assert lines["plans"].get_xdata().tolist() == found.peak_bytes.tolist()
    assert lines["plans"].get_ydata().tolist() == pytest.approx([100 * found[i].ratio for i in range(len(found))])
    assert lines["knee"].get_xdata() == [found.peak_bytes[found.knee]]
    plan = results["ChainPlan"]
    ax = plot(plan)
    assert outline(ax)[0].tolist() == plan.timeline.tolist()
    assert peaks(ax) == [(plan.timeline.argmax(), plan.peak_bytes)]


def test_a_frontier_of_very_many_plans_is_a_line(pyplot):
    found = cnnlive.chain_frontier(shown_results.long_chain())
    assert len(found) > 320
    lines = {line.get_label(): line for line in plot(found).lines}
    line = lines[f"{len(found):,} plans"]
    assert line.get_xdata()[:-1].tolist() == found.peak_bytes.tolist()
    runs = plot(found[0])
    assert runs.get_xlabel() == "run of a stage"
    assert outline(runs)[0].max() == found[0].peak_bytes


def test_choices_of_modules_are_drawn_by_peak(pyplot, results):
    found = results["WrapFrontier"]
    lines = {line.get_label(): line for line in plot(found).lines}
    assert lines["plans"].get_xdata().tolist() == found.peaks.tolist()
    plans = [found[k] for k in range(len(found))]
    assert lines["plans"].get_ydata().tolist() == pytest.approx([100 * plan.overhead for plan in plans])
    assert [len(plan.regions) for plan in plans] == found.modules.tolist()
    assert [plan.peak_bytes for plan in plans] == found.peaks.tolist()
    assert all(plan.fits for plan in plans)
    assert lines["everything kept"].get_xdata() == [found.keep_bytes] == [found[-1].peak_bytes]
    with pytest.raises(IndexError, match="choice 2 of 2"):
        found[2]


# ---------------------------------------------------------------------------------- search spaces


def test_candidates_are_points_of_two_metrics_or_shares_of_one(pyplot, results):
    found = results["Evaluation"]
    ax = plot(found)
    assert ax.lines[0].get_xdata().tolist() == found["inference_peak"].tolist()
    assert ax.lines[0].get_ydata().tolist() == found["params"].tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("inference peak", "params")
    ax = plot(found, x="macs", y="share")
    x, y = ax.lines[0].get_xdata(), ax.lines[0].get_ydata()
    for amount in sorted(found["macs"].tolist()):
        assert y[x == amount].max() == pytest.approx(100 * (found["macs"] <= amount).mean())
    alone = Evaluation(params=found["params"])
    assert plot(alone).get_ylabel() == "candidates that take no more"
    for wrong in ({"x": "mac"}, {"y": "peak"}):
        with pytest.raises(ReportError, match="allowed: 'params', 'macs', 'inference_peak'"):
            plot(found, **wrong)


def test_a_member_is_drawn_by_its_genes_and_by_its_budgets(pyplot, results):
    best = results["Best"]
    ax = plot(best)
    chosen = next(line for line in ax.lines if line.get_label() == "chosen")
    assert list(chosen.get_ydata()) == best.x.tolist()
    assert {str(v) for v in best.values.values()} <= {t.get_text() for t in ax.texts}
    assert [t.get_text() for t in ax.get_xticklabels()] == [g.name for g in best.genes]
    bars = plot(best, "metrics")
    shares = [bar.get_width() for group in bars.containers for bar in group]
    assert shares[::-1] == pytest.approx([100 * v / best.budgets[name] for name, v in best.metrics.items()])
    assert "32.0 KiB of 64.0 KiB, 50.0 %" in words(bars)
    assert "16.0 KiB" in words(plot(results["Walk"], "metrics"))


def test_no_member_is_drawn_as_none(pyplot, tmp_path):
    space = shown_results.space()
    limit = Limit(space, params=1)
    for result in (space.best("macs", limit), space.pareto("macs", "inference_peak", limit), space.evaluate([])):
        for kind in drawings_of(result):
            plot(result, kind).figure.savefig(tmp_path / "drawn.png")
    assert "no member fits" in words(plot(space.best("macs", limit)))


def test_a_front_is_the_best_score_within_each_amount(pyplot, results):
    found = results["Front"]
    lines = {line.get_label(): line for line in plot(found).lines}
    assert lines["members"].get_xdata().tolist() == found.values.tolist() == sorted(found.values)
    assert lines["members"].get_ydata().tolist() == found.scores.tolist() == sorted(found.scores)
    at = found[found.knee]
    assert (lines["knee"].get_xdata(), lines["knee"].get_ydata()) == ([at.metrics["inference_peak"]], [at.score])
    assert found[1:] == found.points[1:]


# ---------------------------------------------------------------------------------- bars


def test_bars_of_profiles_are_their_figures(pyplot, results):
    found = results["Comparison"]
    ax = plot(found)
    peaks_, arenas = ([bar.get_width() for bar in bars][::-1] for bars in ax.containers)
    assert peaks_ == [row.activation_peak_bytes or 0 for row in found.rows]
    assert arenas == [row.arena_bytes or 0 for row in found.rows]
    assert [t.get_text() for t in ax.get_yticklabels()][::-1] == [row.profile.name for row in found.rows]
    assert "profile 'tinyengine' has no activations of type float32" in words(ax)


def test_the_parts_of_what_is_needed_add_up(pyplot, results):
    fit = results["Fit"]
    ax = plot(fit)
    assert sum(bar.get_width() for bars in ax.containers for bar in bars) == fit.needed_bytes
    assert fit.budget_bytes in [line.get_xdata()[0] for line in ax.lines]
    assert "fits, " in words(ax)
    tight = cnnlive.fits(shown_results.net(), device="32KiB", mode="inference")
    assert "does not fit" in words(plot(tight))
    reserved = cnnlive.fits(shown_results.net(), device="1GiB", allocator="cuda")
    ax = plot(reserved)
    assert "allocator's rounding, gaps" in words(ax)
    assert sum(bar.get_width() for bars in ax.containers for bar in bars) == reserved.needed_bytes


def test_the_terms_of_a_rule_add_up(pyplot, results):
    rule = results["RuleOfThumb"]
    ax = plot(rule)
    assert sum(bar.get_width() for bars in ax.containers for bar in bars) == rule.nbytes
    assert rule.formula in words(ax)


# ---------------------------------------------------------------------------------- degenerate


def test_a_net_of_one_op_draws(pyplot, tmp_path):
    g = cnnlive.Graph()
    g.input((1, 2))
    plan = cnnlive.plan_inference(g)
    for result in (plan, cnnlive.plan_order(g), cnnlive.plan_arena(g), cnnlive.plan_shared_objects(g)):
        ax = plot(result)
        ax.figure.savefig(tmp_path / "drawn.png")
    assert peaks(plot(plan)) == [(0, 8)]


def test_nothing_to_place_draws(pyplot, tmp_path):
    for buffers in (cnnlive.Buffers.of([], [], []), cnnlive.Buffers.of([0], [1], [0])):
        for result in (cnnlive.plan_arena(buffers), cnnlive.plan_shared_objects(buffers)):
            plot(result).figure.savefig(tmp_path / "drawn.png")


def test_a_frontier_of_one_plan_draws(pyplot, results, tmp_path):
    problem = results["RematPlan"].problem
    found = remat_frontier(problem, budgets=[problem.peak_bytes])
    ax = plot(found)
    ax.figure.savefig(tmp_path / "drawn.png")
    assert len(found.plans) == 1
    plot(found.plans[0]).figure.savefig(tmp_path / "drawn.png")


def test_sizes_beyond_all_units_draw(pyplot, tmp_path):
    plan = cnnlive.plan_arena(cnnlive.Buffers.of([0, 1], [2, 3], [2**60, 2**59]))
    plot(plan).figure.savefig(tmp_path / "drawn.png")


def test_names_are_no_formulas(pyplot, tmp_path):
    g = cnnlive.Graph("$a_b$ & <c>")
    g.relu(g.input((1, 2), name="$x^2$"), name="y" * 200)
    ax = plot(cnnlive.plan_inference(g))
    ax.figure.savefig(tmp_path / "drawn.png")
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels[0] == r"\$x^2\$"
    assert labels[1].startswith("…y")
    assert len(labels[1]) < 30


# ---------------------------------------------------------------------------------- what else is asked


def test_only_results_draw_themselves(pyplot, results):
    for name, result in results.items():
        assert drawings_of(result), name
    assert not hasattr(cnnlive.Buffers.of([0], [1], [1]), "plot")
    with pytest.raises(ReportError, match="int has no drawings; allowed: InferencePlan"):
        plot(1)


def test_methods_of_results_are_the_functions(pyplot, results):
    pytest.importorskip("pandas", reason="data frames need pandas")
    for name, result in results.items():
        assert result.plot().get_title(loc="left") == plot(result).get_title(loc="left")
        pyplot.close("all")
        if name != "Walk":  # of a space whose options are functions within a function
            assert pickle.loads(pickle.dumps(result)).to_frame().equals(result.to_frame())


def test_an_unknown_drawing_or_option_is_an_error(results):
    plan = results["InferencePlan"]
    with pytest.raises(ReportError, match="InferencePlan has no drawing 'timelin'; did you mean timeline"):
        plan.plot("timelin")
    with pytest.raises(ReportError, match="has no option 'wieghts'; allowed: 'weights'"):
        plan.plot(wieghts=True)
    with pytest.raises(ReportError, match="has no option 'x'; allowed: none"):
        results["OrderPlan"].plot(x=1)
    pytest.importorskip("matplotlib")
    with pytest.raises(ReportError, match="colour='size'; allowed: 'layer', 'op'"):
        results["ArenaPlan"].plot(colour="size")
    with pytest.raises(ReportError, match="x='time'; allowed: 'budget', 'peak'"):
        plot(results["Frontier"], x="time")


def test_without_matplotlib_the_extra_is_named(results, monkeypatch):
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cnnlive\[viz\]'"):
        results["InferencePlan"].plot()


def test_planning_imports_no_drawing_library():
    code = (
        "import sys, cnnlive\n"
        "plan = cnnlive.plan_inference(cnnlive.zoo.load('vgg11'))\n"
        "str(plan), plan._repr_html_()\n"
        "print(sorted({'matplotlib', 'pandas', 'polars'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
