"""Profiles side by side: the same network under each, and steps that add up."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from strategies import graphs

import cnnlive
from cnnlive import Graph, errors, plan_inference
from cnnlive.plan.arena import plan_arena
from cnnlive.plan.compare import STEPS, compare_profiles
from cnnlive.profiles import PROFILES, Profile
from cnnlive.report.compare import compare_report, compare_summary


def net():
    g = Graph("net")
    x = g.input((1, 3, 16, 16), name="x")
    y = g.relu(g.batch_norm2d(g.conv2d(x, 8, 3, stride=2, padding=1, bias=False)), inplace=True)
    z = g.relu6(g.conv2d(y, 8, 3, stride=2, padding=1, groups=8))
    z = g.interpolate(z, scale_factor=2.0)
    g.linear(g.flatten(g.max_pool2d(g.relu(g.add(y, z)), 3, 2, 1)), 10)
    return g


def assert_adds_up(found):
    for row in found.rows:
        if row.activation_peak_bytes is None:
            continue
        end = row.activation_peak_bytes if row.arena_bytes is None else row.arena_bytes
        assert found.ideal_bytes + sum(s.nbytes for s in row.steps) == end
        assert all(s.nbytes for s in row.steps)
        names = [s.name for s in row.steps]
        assert names == [n for n in STEPS if n in names]  # each once, in the order of STEPS


@settings(max_examples=25)
@given(graph=graphs(), dtype=st.sampled_from([None, "int8"]), arena=st.booleans())
def test_steps_add_up_exactly(graph, dtype, arena):
    found = compare_profiles(graph, dtype=dtype, arena=arena)
    assert [row.profile.name for row in found.rows] == list(PROFILES)
    assert_adds_up(found)
    for row in found.rows:
        if row.reason:
            assert dtype is None
            continue
        plan = plan_inference(graph, dtype=dtype, profile=row.profile)
        assert (row.activation_peak_bytes, row.weight_bytes) == (plan.activation_peak_bytes, plan.weight_bytes)
        assert (row.arena_bytes is None) == (not arena)
        if arena:
            assert row.arena_bytes == plan_arena(graph, dtype=dtype, profile=row.profile).arena_bytes
            assert row.arena.method == row.profile.placement


@settings(max_examples=8)
@given(graph=graphs(max_ops=8))
def test_steps_add_up_under_the_best_orders_too(graph):
    found = compare_profiles(graph, dtype="int8", order="best")
    assert_adds_up(found)
    assert "program" in found["torch"].reason  # frames are of the program's order
    assert found["torch"].activation_peak_bytes is None
    for row in found.rows:
        if not row.reason:
            assert row.activation_peak_bytes <= plan_inference(graph, dtype="int8", profile=row.profile
                                                               ).activation_peak_bytes  # fmt: skip


def test_mobilenet_v2_in_int8_side_by_side():
    found = compare_profiles(cnnlive.zoo.load("mobilenet_v2"), dtype="int8")
    peaks = {row.profile.name: row.activation_peak_bytes for row in found.rows}
    assert (peaks["tinyengine"], peaks["mcunet"], peaks["tflm"]) == (1_404_928, 1_404_928, 2_451_840)
    assert [(s.name, s.nbytes) for s in found["tflm"].steps] == [
        ("fusion", 1_505_280 - 2_408_448), ("pad ops", 2_451_840 - 1_505_280)
    ]  # fmt: skip
    assert [s.name for s in found["tinyengine"].steps] == ["fusion", "in place"]
    assert found["tinyengine"].peak_op == "features.2.conv.0.0+1+2"
    assert found["tflm"].overhead == 0.0
    assert_adds_up(found)


def flat():
    g = Graph("flat")
    x = g.conv2d(g.input((1, 1, 5, 5), name="x"), 8, 1, name="a")
    g.linear(g.flatten(x), 1)
    return g


def test_every_group_of_rules_is_a_step_somewhere():
    everything = replace(PROFILES["onnxruntime"], name="everything", pad_ops=True, frames=True, pool_indices=True)
    seen = set()
    for graph in (net(), flat(), *map(cnnlive.zoo.load, ("mobilenet_v2", "densenet121", "resnet18"))):
        found = compare_profiles(graph, profiles=["ideal", everything, "tinyengine", "tflm", "torch"], dtype="int8")
        assert_adds_up(found)
        assert {s.name for s in found["ideal"].steps} <= {"placement"}  # gaps that alignment leaves
        seen |= {s.name for row in found.rows for s in row.steps}
    assert seen | {"whole"} == set(STEPS)


def test_a_buffer_that_shrinks_is_whole_in_the_arena():
    g = Graph()
    x = g.conv2d(g.input((1, 4, 8, 8), "int8", name="x"), 4, 1, name="a")
    x = g.conv2d(x, 4, 3, stride=2, padding="same", groups=4, name="dw")
    g.conv2d(x, 16, 1, name="b")
    g.conv2d(x, 16, 1, name="c")
    found = compare_profiles(g, profiles=["mcunet"])
    # 16 x 16 B are written twice beside dw's 64, which lie where a's 256 do
    assert found["mcunet"].activation_peak_bytes == 64 + 2 * 256
    assert ("whole", 192) in [(s.name, s.nbytes) for s in found["mcunet"].steps]
    assert found["mcunet"].arena_bytes == 256 + 2 * 256
    assert_adds_up(found)


def test_what_a_runtime_cannot_take_is_a_row_with_the_reason():
    found = compare_profiles(net(), arena=False)
    row = found["tinyengine"]
    assert "no activations of type float32" in row.reason
    assert (row.activation_peak_bytes, row.arena_bytes, row.weight_bytes, row.steps) == (None, None, None, ())
    assert row.overhead is None
    assert "tinyengine   -: profile 'tinyengine' has no" in str(found)
    ordered = compare_profiles(net(), dtype="int8", order=net().nodes())
    assert "is not an op of the network" in ordered["tflm"].reason  # fused ops have other names
    assert ordered["torch_fx"].activation_peak_bytes is not None
    assert ordered["ideal"].overhead == 0.0


def test_what_is_wrong_everywhere_is_an_error():
    with pytest.raises(errors.UnknownProfileError):
        compare_profiles(net(), profiles=["tpu"])
    with pytest.raises(errors.GraphError, match="no profiles to compare"):
        compare_profiles(net(), profiles=[])
    with pytest.raises(errors.OrderError):
        compare_profiles(net(), order="fastest")
    with pytest.raises(errors.DTypeError):
        compare_profiles(net(), dtype="int7")
    with pytest.raises(KeyError):
        compare_profiles(net(), profiles=["ideal"])["tflm"]


def test_profiles_of_ones_own_are_compared_too():
    mine = Profile("mine", "", keeps_inputs=True, alignment=512, pads=True)
    found = compare_profiles(net(), profiles=[mine, "ideal"], batch=2)
    assert [row.profile.name for row in found.rows] == ["mine", "ideal"]
    assert found.batch == 2
    assert_adds_up(found)
    assert repr(found) == "<Comparison 'net': mine, ideal>"


def test_plain_data_says_what_the_rows_say():
    found = compare_profiles(net(), dtype="int8", profiles=["tflm", "tinyengine"])
    data = json.loads(json.dumps(found.to_dict()))
    assert (data["network"], data["batch"], data["dtype"]) == ("net", 1, "int8")
    assert data["ideal_bytes"] == found.ideal_bytes
    for row, plain in zip(found.rows, data["profiles"], strict=True):
        assert plain["profile"] == row.profile.name
        assert plain["activation_peak_bytes"] == row.activation_peak_bytes
        assert plain["arena_bytes"] == row.arena_bytes
        assert plain["workspace_bytes"] == row.workspace_bytes
        assert [s["nbytes"] for s in plain["steps"]] == [s.nbytes for s in row.steps]
    named = compare_profiles(net(), dtype={"*": "int8"}, profiles=["tinyengine"])
    assert named.to_dict()["dtype"] == {"*": "int8"}
    assert "types by name" in str(named)
    assert "types as built" in str(compare_profiles(net(), profiles=["ideal"]))


def text_of(found, columns):
    console = Console(width=columns, highlight=False, no_color=True)
    with console.capture() as captured:
        console.print(compare_report(found, columns=columns))
    return captured.get()


@pytest.mark.parametrize("columns", [70, 120])
@pytest.mark.parametrize("arena", [True, False])
def test_the_report_shows_every_figure(columns, arena):
    found = compare_profiles(net(), dtype="int8", arena=arena)
    text = text_of(found, columns)
    for row in found.rows:
        assert row.profile.name in text
        assert f"{row.activation_peak_bytes:,}" in text
        for step in row.steps:
            assert step.name in text
            assert f"{step.nbytes:+,}" in text
    assert "kernels keep a workspace: tinyengine" in text
    assert ("arena bytes" in text) == arena
    assert all(len(line) <= columns for line in text.splitlines())


def test_the_report_says_why_a_runtime_cannot_take_a_network():
    found = compare_profiles(net(), profiles=["ideal", "mcunet"])
    assert "cannot take it, see below" in text_of(found, 120)
    assert "mcunet: profile 'mcunet' has no activations of type float32" in text_of(found, 200)
    alone = compare_profiles(net(), profiles=["ideal"])
    assert "What makes the difference" not in text_of(alone, 120)
    assert str(compare_summary(alone)) == "net · batch 1 · types as built"
    assert len(text_of(compare_profiles(cnnlive.zoo.load("mobilenet_v2")), 120).splitlines()) <= 45
