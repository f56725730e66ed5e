"""What notebooks show is well-formed, escaped and self-contained; data frames hold the plans' numbers."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import shown_results

import cnnlive
from cnnlive.errors import MissingExtraError
from cnnlive.nas import Limit
from cnnlive.report.frame import ReportError, columns_of, tables_of, to_frame
from cnnlive.report.notebook import html
from cnnlive.units import format_bytes

ROOT = Path(__file__).parents[1]
KINDS = sorted(shown_results.results())
TABLES = [(kind, table) for kind in KINDS for table in tables_of(shown_results.results()[kind])]


@pytest.fixture(scope="module")
def results():
    return shown_results.results()


def text_of(fragment):
    return " ".join(ET.fromstring(fragment).itertext())


# ---------------------------------------------------------------------------------- fragments


@pytest.mark.parametrize("kind", KINDS)
def test_a_fragment_is_well_formed_small_and_needs_nothing_else(results, kind):
    fragment = html(results[kind])
    root = ET.fromstring(fragment)
    assert root.tag == "div"
    tags = {e.tag.rpartition("}")[2] for e in root.iter()}
    assert tags <= {"div", "strong", "span", "table", "thead", "tbody", "tr", "th", "td", "svg", "title", "path",
                    "rect", "circle", "text"}  # fmt: skip
    assert {"table", "svg"} <= tags
    attributes = {name for e in root.iter() for name in e.attrib}
    assert not {"href", "src", "id", "class", "onload", "onclick"} & attributes
    assert re.findall(r"https?://[^\"]*", fragment) == ["http://www.w3.org/2000/svg"] * fragment.count("<svg")
    assert "url(" not in fragment
    assert len(fragment) < 30_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_fragment_s_text_has_the_colour_of_the_page(results, kind):
    fragment = html(results[kind])
    assert not re.search(r"(?<![-\w])color:", fragment)
    backgrounds = set(re.findall(r"background:([^;\"]+)", fragment))
    assert backgrounds == {"transparent"}
    # Lines and areas are of colours that both a white and a black page show.
    colours = set(re.findall(r"(?:fill|stroke)=\"([^\"]+)\"", fragment)) - {"none", "currentColor"}
    for colour in colours:
        red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
        assert 60 < 0.3 * red + 0.59 * green + 0.11 * blue < 235, colour


def test_names_are_escaped():
    g = cnnlive.Graph("<script>alert('x')</script> & \"co\"")
    g.relu(g.input((1, 2), name="<b>in</b>"), name="a&b")
    plans = [cnnlive.plan_inference(g), cnnlive.plan_order(g), cnnlive.plan_arena(g), cnnlive.plan_shared_objects(g)]
    for plan in plans:
        fragment = html(plan)
        assert "<script>" not in fragment
        assert "<b>" not in fragment
        assert "&lt;script&gt;" in fragment
        assert "<script>alert('x')</script> & \"co\"" in text_of(fragment)


def test_a_fragment_has_the_plan_s_figures(results):
    plan = results["InferencePlan"]
    text = text_of(html(plan))
    for nbytes in (plan.peak_bytes, plan.weight_bytes, plan.activation_peak_bytes, plan.lower_bound):
        assert f"{nbytes:,} B" in text
        assert format_bytes(nbytes) in text
    assert plan.peak_op in text
    training = results["TrainingPlan"]
    text = text_of(html(training))
    assert all(f"{nbytes:,} B" in text for nbytes in training.composition.values() if nbytes)
    frontier = results["CheckpointFrontier"]
    text = text_of(html(frontier))
    assert all(f"{n:,} B" in text for n in (frontier.least_bytes, frontier.keep_bytes, frontier.knee.budget))
    comparison = text_of(html(results["Comparison"]))
    assert "no activations of type float32" in comparison


def test_the_sparkline_marks_the_peak_where_it_is(results):
    plan = results["InferencePlan"]
    root = ET.fromstring(html(plan))
    circle = next(e for e in root.iter() if e.tag.endswith("circle"))
    n = len(plan.order)
    assert float(circle.get("cx")) == pytest.approx((plan.peak_step + 0.5) * 480 / n, abs=0.01)
    assert float(circle.get("cy")) == pytest.approx(10)
    assert f"peak {format_bytes(plan.activation_peak_bytes)} at {plan.peak_op}" in circle[0].text


def test_a_long_timeline_is_joined_and_keeps_its_peak():
    plan = cnnlive.plan_training(cnnlive.zoo.load("darts_v2"), batch=2)
    fragment = html(plan)
    assert len(fragment) < 20_000
    path = max(re.findall(r" d=\"([^\"]+)\"", fragment), key=len)
    assert min(float(y) for y in re.findall(r"[V ]([\d.]+)", path)) == pytest.approx(10)


def test_an_arena_s_rectangles_lie_inside_the_drawing():
    plan = cnnlive.plan_arena(cnnlive.zoo.load("densenet121"), fuse=True)
    root = ET.fromstring(html(plan))
    rows = [[float(e.get(k)) for k in ("x", "y", "width", "height")] for e in root.iter() if e.tag.endswith("rect")]
    assert 0 < len(rows) <= 160
    assert all(x >= 0 and y >= 0 and x + w <= 480.5 and y + h <= 120.5 for x, y, w, h in rows)


def test_a_curve_of_very_many_plans_is_thinned_and_keeps_its_knee():
    found = cnnlive.chain_frontier(shown_results.long_chain())
    assert len(found) > 320
    fragment = html(found)
    assert len(fragment) < 20_000
    root = ET.fromstring(fragment)
    circle = next(e for e in root.iter() if e.tag.endswith("circle"))
    first, last = int(found.peak_bytes[0]), int(found.peak_bytes[-1])
    share = (int(found.peak_bytes[found.knee]) - first) / (last - first)
    assert float(circle.get("cx")) == pytest.approx(8 + 464 * share, abs=0.01)


def test_what_does_not_fit_lacks_bytes_and_an_allocator_reserves_some():
    found = cnnlive.fits(shown_results.net(), device="1KiB", allocator="cuda")
    text = text_of(html(found))
    assert "does not fit" in text
    assert f"{found.free_bytes:,} B" in text
    assert found.free_bytes < 0
    plan = cnnlive.plan_training(shown_results.net(), allocator="cuda")
    assert f"{plan.reserved_bytes:,} B" in text_of(html(plan))


def test_degenerate_results_have_fragments():
    g = cnnlive.Graph()
    g.input((1, 2))
    empty = cnnlive.Buffers.of([], [], [])
    tight = cnnlive.Buffers.of([0], [1], [100])
    space = shown_results.space()
    limit = Limit(space, params=1)
    found = [cnnlive.plan_inference(g), cnnlive.plan_order(g), cnnlive.plan_arena(empty),
             cnnlive.plan_shared_objects(empty), cnnlive.plan_arena(tight, capacity=10), space.best("macs", limit),
             space.pareto("macs", "params", limit), space.evaluate([])]  # fmt: skip
    for result in found:
        ET.fromstring(result._repr_html_())
        assert all(len(column.values) == len(columns_of(result)[0].values) for column in columns_of(result))
    assert "above the capacity of 10" in text_of(found[4]._repr_html_())
    assert "no member fits" in text_of(found[5]._repr_html_())


def test_the_method_is_the_function_and_other_things_have_none(results):
    assert results["ArenaPlan"]._repr_html_() == html(results["ArenaPlan"])
    with pytest.raises(ReportError, match="int has no HTML"):
        html(1)


# ---------------------------------------------------------------------------------- data frames


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas", reason="data frames need pandas or polars")


@pytest.fixture
def polars():
    return pytest.importorskip("polars", reason="data frames need pandas or polars")


def documented():
    """Return columns and their types by the heading of their table in docs/plots.md."""
    found, rows = {}, []
    for line in (ROOT / "docs/plots.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"### `(\w+)`, `\"(\w+)\"`", line):
            rows = found[match.groups()] = []
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows += [(name.strip("` "), cells[1]) for name in cells[0].split(",")]
    return found


def test_every_table_and_column_is_documented_with_its_type(results):
    found = documented()
    assert set(found) == set(TABLES)
    names = {"int": "int64", "int?": "int64 or missing", "float": "float64", "bool": "bool", "text": "text"}
    for kind, table in TABLES:
        columns = [(c.name, names[c.kind]) for c in columns_of(results[kind], table)]
        assert found[kind, table] == columns, (kind, table)


@pytest.mark.parametrize(("kind", "table"), TABLES)
def test_frames_of_both_libraries_hold_the_columns(results, kind, table, pandas, polars):
    columns = columns_of(results[kind], table)
    one, other = to_frame(results[kind], table), to_frame(results[kind], table, library="polars")
    names = [c.name for c in columns]
    assert one.columns.tolist() == other.columns == names
    n = len(columns[0].values)
    assert len(one) == len(other) == n
    types = {"int": ("int64", polars.Int64), "int?": ("Int64", polars.Int64), "float": ("float64", polars.Float64),
             "bool": ("bool", polars.Boolean), "text": ("string", polars.String)}  # fmt: skip
    for column in columns:
        values = list(column.values)
        assert other[column.name].to_list() == values
        assert [None if v is pandas.NA else v for v in one[column.name].tolist()] == values
        assert (str(one[column.name].dtype), other[column.name].dtype) == types[column.kind], column.name


def test_frames_have_the_numbers_of_to_dict(results, pandas):
    plan = results["InferencePlan"]
    data = plan.to_dict()
    ops = plan.to_frame()
    assert ops["live_bytes"].tolist() == data["timeline"]
    assert ops["name"].tolist() == data["order"]
    assert int(ops["macs"].sum()) == data["macs"]
    timeline = plan.to_frame("timeline")
    assert timeline.filter(like="_bytes").drop(columns="live_bytes").sum(axis=1).tolist() == data["timeline"]
    buffers = plan.to_frame("buffers").set_index("name")
    for b in data["live_at_peak"]:
        assert buffers.loc[b["name"], ["nbytes", "born", "dead"]].tolist() == [b["nbytes"], b["born"], b["dead"]]
    training = results["TrainingPlan"]
    assert training.to_frame()["saved_bytes"].sum() == training.to_dict()["saved_bytes"]
    assert training.to_frame("timeline")["live_bytes"].tolist() == training.timeline.tolist()
    assert training.to_frame("live")["nbytes"].tolist() == [t.nbytes for t in training.live_at_peak]
    arena = results["ArenaPlan"]
    assert arena.to_frame().to_dict("records") == arena.to_dict()["buffers"]
    shared = results["SharedObjectsPlan"]
    frame = shared.to_frame()
    objects = [None if k is pandas.NA else k for k in frame["object"].tolist()]
    assert dict(zip(frame["id"], objects, strict=True)) == {
        name: None if k < 0 else k for name, k in shared.to_dict()["object_of"].items()
    }
    assert shared.to_frame("objects")["nbytes"].tolist() == shared.to_dict()["object_bytes"]
    fit = results["Fit"]
    assert fit.to_frame()["nbytes"].sum() == fit.to_dict()["needed_bytes"]
    rule = results["RuleOfThumb"]
    assert dict(rule.to_frame().itertuples(index=False)) == rule.to_dict()["terms"]


def test_frames_of_orders_profiles_and_frontiers_have_the_numbers_of_to_dict(results, pandas):
    order = results["OrderPlan"]
    frame = order.to_frame()
    assert frame["name"].tolist() == order.to_dict()["order"]
    assert frame["live_bytes"].max() == order.to_dict()["peak_bytes"]
    assert frame["program_live_bytes"].max() == order.to_dict()["program_peak_bytes"]
    assert sorted(frame["program_step"]) == frame["step"].tolist()
    comparison = results["Comparison"]
    rows = comparison.to_dict()["profiles"]
    frame = comparison.to_frame().astype(object)
    for name in ("profile", "reason", "activation_peak_bytes", "arena_bytes", "weight_bytes", "workspace_bytes"):
        assert frame[name].where(frame[name].notna(), None).tolist() == [row[name] for row in rows]
    steps = comparison.to_frame("steps")
    assert steps["nbytes"].tolist() == [s["nbytes"] for row in rows for s in row["steps"]]
    for kind in ("Frontier", "CheckpointFrontier"):
        data = results[kind].to_dict()
        frame = to_frame(results[kind])
        for name in ("budget", "peak_bytes", "cost", "overhead", "lower_bound", "gap", "status"):
            assert frame[name].tolist() == [p[name] for p in data["plans"]]
        assert frame["knee"].tolist().index(True) == data["knee"]
        assert frame["knee"].sum() == 1
    plan = results["CheckpointPlan"]
    nodes = to_frame(plan)
    again = nodes[nodes["recomputed"] > 0].groupby("op")["recomputed"].max().to_dict()
    assert again == plan.to_dict()["recomputed"]
    assert nodes["live_bytes"].max() == plan.to_dict()["peak_bytes"]
    assert nodes["keep_all_bytes"].max() == plan.to_dict()["keep_bytes"]
    remat = to_frame(results["RematPlan"])
    assert (remat["cost"] * (1 + remat["recomputed"])).sum() == results["RematPlan"].to_dict()["cost"]
    wraps = results["WrapPlan"]
    assert to_frame(wraps)["module"].tolist() == [r["module"] for r in wraps.to_dict()["regions"]]
    assert to_frame(wraps, "timeline")["live_bytes"].tolist() == wraps.to_dict()["timeline"]
    choices = to_frame(results["WrapFrontier"])
    assert choices["peak_bytes"].tolist() == results["WrapFrontier"].peaks.tolist()
    assert choices["knee"].sum() == 1
    assert choices["modules"].tolist()[-1] == choices["overhead"].tolist()[-1] == 0


def test_frames_of_search_spaces_have_their_genes_and_metrics(results, pandas):
    found = results["Evaluation"]
    frame = found.to_frame()
    assert {name: frame[name].tolist() for name in found} == {name: v.tolist() for name, v in found.items()}
    best = results["Best"]
    genes = best.to_frame()
    assert dict(zip(genes["gene"], genes["value"], strict=True)) == {k: str(v) for k, v in best.values.items()}
    assert genes["position"].tolist() == best.x.tolist()
    metrics = best.to_frame("metrics").set_index("metric")
    assert metrics["value"].to_dict() == best.metrics
    assert metrics["budget"].to_dict() == best.budgets
    assert results["Walk"].to_frame("metrics")["budget"].isna().all()
    front = results["Front"].to_frame()
    assert front["score"].tolist() == [point.score for point in results["Front"]]
    assert front["gene.width"].tolist() == [str(point.values["width"]) for point in results["Front"]]
    scored = shown_results.space().pareto({"kernel": [0.5, 0.25]}, "params").to_frame()
    assert scored["score"].tolist() == [0.5]


def test_phases_follow_each_other(results, pandas):
    for kind, table in (("TrainingPlan", "timeline"), ("WrapPlan", "timeline"), ("CheckpointPlan", "nodes")):
        phases = to_frame(results[kind], table)["phase"].tolist()
        assert list(dict.fromkeys(phases)) == ["forward", "backward", "optimizer"]
        assert phases == sorted(phases, key=("forward", "backward", "optimizer").index)
    assert list(dict.fromkeys(to_frame(results["RematPlan"])["phase"])) == ["forward", "backward"]


def test_a_placement_that_there_is_none_of_has_no_offsets(pandas):
    frame = cnnlive.plan_arena(cnnlive.Buffers.of([0], [1], [100]), capacity=10).to_frame()
    assert frame["offset"].isna().all()
    assert frame["size"].tolist() == [100]


def test_sizes_past_32_bits_stay_exact(pandas, polars):
    plan = cnnlive.plan_arena(cnnlive.Buffers.of([0, 1], [2, 3], [2**60 + 1, 2**59 + 3]))
    for frame in (plan.to_frame(), plan.to_frame(library="polars")):
        assert list(frame["size"]) == [2**60 + 1, 2**59 + 3]


def test_an_unknown_table_or_library_is_an_error(results):
    plan = results["InferencePlan"]
    with pytest.raises(ReportError, match="has no table 'op'; did you mean ops\\?; allowed: 'ops', 'buffers', 'tim"):
        plan.to_frame("op")
    with pytest.raises(ReportError, match="library='dask'; allowed: 'pandas', 'polars'"):
        plan.to_frame(library="dask")
    with pytest.raises(ReportError, match="int has no tables; allowed: InferencePlan"):
        to_frame(1)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_missing_library_is_named(results, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=f"needs the package {library}.*pip install {library}"):
        results["InferencePlan"].to_frame(library=library)
