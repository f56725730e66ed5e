"""Spaces of slots: exact against planning the graph, and search by dynamic programming against listing everything."""

import concurrent.futures
import functools
import multiprocessing
import pickle

import numpy as np
import pytest
import slot_spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnlive
from cnnlive.errors import AttributeValueError, GraphError, SpaceError
from cnnlive.nas import Gene, Limit, Slot, Space, search

SPACES = {
    "chain": slot_spaces.chain(),
    "chain, mean": slot_spaces.chain(blocks=2, ending=slot_spaces.spread_mean, inplace=True),
    "cells": slot_spaces.cells(),
    "cells, one gene": slot_spaces.cells(shared=True),
    "cells, both read": slot_spaces.cells(slot_spaces.pair, slot_spaces.head_of_both),
    "cells, two outputs": slot_spaces.cells(slot_spaces.pair, slot_spaces.two_heads),
    "small": slot_spaces.small(),
}
INFERENCE = [
    {},
    {"profile": "torch", "batch": 3},
    {"profile": "torch_fx"},
    {"inplace": "dead"},
    {"inplace": "never", "profile": "torch_fx", "dtype": "float16"},
    {"inplace": "dead", "dtype": "int8", "weight_dtype": "float32"},
]
TRAINING = [
    {},
    {"batch": 3, "precision": "autocast"},
    {"device": "cpu", "batch": 2},
    {"loss": "mse", "precision": "float16"},
]


def planned(space, x, setting):
    graph = space.graph(x)
    plan = cnnlive.plan_inference(graph, **setting)
    return {
        "params": plan.network.n_parameters,
        "macs": plan.macs,
        "weight_bytes": plan.weight_bytes,
        "inference_peak": plan.activation_peak_bytes,
        "inference_total": plan.peak_bytes,
    }


def trained(space, x, setting):
    graph = space.graph(x)
    plans = {name: cnnlive.plan_training(graph, optimizer=name, **setting) for name in ("adam", "sgd", "adagrad")}
    return {
        "saved": plans["adam"].saved_bytes,
        **{f"training_peak:{name}": plan.peak_bytes for name, plan in plans.items()},
    }


def agree(space, X, setting, planner):
    wanted = [planner(space, x, setting) for x in X]
    found = space.evaluate(X, tuple(wanted[0]), **setting)
    for i, row in enumerate(wanted):
        assert {k: int(v[i]) for k, v in found.items()} == row, X[i]


@pytest.mark.parametrize("setting", INFERENCE, ids=str)
@pytest.mark.parametrize("name", SPACES)
def test_inference_equals_planning_the_graph(name, setting):
    space = SPACES[name]
    agree(space, space.random(12, rng=1), setting, planned)


@pytest.mark.parametrize("setting", TRAINING, ids=str)
@pytest.mark.parametrize("name", SPACES)
def test_training_equals_planning_the_graph(name, setting):
    space = SPACES[name]
    agree(space, space.random(8, rng=2), setting, trained)


@settings(max_examples=60)
@given(data=st.data())
def test_any_candidate_equals_planning_its_graph(data):
    space = SPACES[data.draw(st.sampled_from(sorted(SPACES)))]
    x = [data.draw(st.integers(0, gene.cardinality - 1)) for gene in space.genes]
    agree(space, [x], data.draw(st.sampled_from(INFERENCE)), planned)
    agree(space, [x], data.draw(st.sampled_from(TRAINING)), trained)


FUSED = [{"fuse": True}, {"fuse": True, "inplace": "dead", "dtype": "int8"}, {"fuse": True, "profile": "torch_fx"}]


@pytest.mark.parametrize("setting", FUSED, ids=str)
@pytest.mark.parametrize("name", [name for name in SPACES if name not in ("cells", "cells, one gene")])
def test_fusion_across_slots_equals_planning_the_graph(name, setting):
    space = SPACES[name]
    agree(space, space.random(12, rng=3), setting, planned)


def test_fusion_of_what_is_handed_on_for_nobody_is_refused():
    with pytest.raises(SpaceError, match="slot 'cell1', option .* hands a tensor on that nobody reads"):
        SPACES["cells"].evaluate(SPACES["cells"].random(1, rng=0), fuse=True)


def test_a_chain_of_ops_that_slots_cut_is_fused_whole():
    ops = ("conv", "conv with bias", "norm", "relu", "nothing")
    genes = [Gene(f"op{i}", ops) for i in range(4)]
    slots = [Slot(f"op{i}", slot_spaces.one_op, {"op": f"op{i}"}) for i in range(4)]
    space = Space("ops", genes, [Slot("stem", slot_spaces.stem), *slots, Slot("pool", slot_spaces.pool_flatten)])
    X = np.concatenate(list(space.members()))[::3]
    for setting in FUSED:
        agree(space, X, setting, planned)
    least = space.evaluate(X[::9], "minimum_peak", fuse=True)["minimum_peak"]
    plans = [cnnlive.plan_inference(space.graph(x), order="best", fuse=True) for x in X[::9]]
    assert least.tolist() == [plan.activation_peak_bytes for plan in plans]


def test_the_least_peak_over_all_orders_is_that_of_the_graph():
    space = slot_spaces.chain(("gated", "separable", "residual", "plus its gate", "identity"), 2)
    X = space.random(10, rng=4)
    for setting in ({}, {"profile": "torch_fx", "batch": 2}, {"inplace": "dead"}):
        found = space.evaluate(X, "minimum_peak", **setting)["minimum_peak"]
        plans = [cnnlive.plan_inference(space.graph(x), order="best", **setting) for x in X]
        assert found.tolist() == [plan.activation_peak_bytes for plan in plans]
    with pytest.raises(SpaceError, match="between 2 and 1 tensors"):
        SPACES["cells"].evaluate(SPACES["cells"].random(1, rng=0), "minimum_peak")


def test_conventions_of_multiply_accumulates():
    space = SPACES["small"]
    X = space.random(5, rng=5)
    plain, biased, flops = (space.evaluate(X, "macs", convention=c)["macs"] for c in ("macs", "macs+bias", "flops"))
    assert (flops == 2 * plain).all()
    for x, macs, with_bias in zip(X, plain.tolist(), biased.tolist(), strict=True):
        graph = space.graph(x)
        biases = sum(
            np.prod(graph.tensors_of(n)[0].shape)
            for n in graph.nodes()
            if graph.op_of(n) in ("conv2d", "linear") and graph.attributes(n)["bias"]
        )
        assert with_bias == macs + biases


# ---------------------------------------------------------------------------------- search


def everything(space):
    return np.concatenate(list(space.members()))


LIMITS = [
    None,
    {"peak": "20KiB"},
    {"peak": "24KiB", "params": 900},
    {"training": "100KiB"},
    {"training": {"sgd": "90KiB"}, "peak": "18KiB", "dtype": "float16", "macs": 150_000, "train_batch": 2},
    {"total": "20KiB", "profile": "torch"},
    {"saved": "40KiB", "weights": "3KiB"},
    {"training": "90KiB", "device": "cpu"},
    {"peak": 10},
]


@pytest.mark.parametrize("name", ["small", "cells, one gene", "cells"])
@pytest.mark.parametrize("budgets", LIMITS, ids=str)
def test_search_equals_listing_every_member(name, budgets):
    space = SPACES[name] if name != "small" else slot_spaces.small(2)
    X = everything(space)
    limit = Limit(space, **budgets) if budgets else None
    fits = limit.mask(X) if limit else np.ones(len(X), bool)
    assert space.count(limit) == fits.sum()
    rng = np.random.default_rng(0)
    once = [g for g in space.genes if g.name != "op0"]
    table = {gene.name: rng.integers(0, 50, gene.cardinality).tolist() for gene in once}
    column = {gene.name: k for k, gene in enumerate(space.genes)}
    reads = {g.name: [s for s in space.slots if g.name in s.genes.values()] for g in once}
    score = np.zeros(len(X), int)
    for gene in once:
        on = np.array([not reads[gene.name] or any(space.is_on(s, x) for s in reads[gene.name]) for x in X])
        score += np.where(on, np.array(table[gene.name])[X[:, column[gene.name]]], 0)
    values = space.evaluate(X, ("macs", "params"))
    for objective, of in ((table, score), ("macs", values["macs"]), ("params", values["params"])):
        best = space.best(objective, limit)
        if not fits.any():
            assert (best.x, best.status) == (None, "infeasible")
            continue
        assert (best.score, best.status, best.bound) == (of[fits].max(), "optimal", of[fits].max())
        assert limit is None or limit.ok(best.x)
        assert of[(best.x == X).all(axis=1)] == best.score
    if not fits.any():
        with pytest.raises(SpaceError, match="no member .* fits the limit"):
            space.sample(1, limit)
        return
    drawn = space.sample(4000, limit, rng=1)
    assert limit is None or limit.mask(drawn).all()
    for metric in ("inference_peak", "params", "training_peak:sgd"):
        amount = space.evaluate(X, metric)[metric]
        front = [(p.metrics[metric], p.score) for p in space.pareto(table, metric, limit)]
        points = sorted({(int(a), -int(s)) for a, s in zip(amount[fits], score[fits], strict=True)})
        expected, top = [], -1
        for a, s in points:
            if -s > top:
                expected.append((a, -s))
                top = -s
        assert front == expected


def test_members_are_drawn_uniformly():
    space = slot_spaces.small(2)
    X = everything(space)
    limit = Limit(space, peak="20KiB", params=3000)
    fits = X[limit.mask(X)]
    n = 200 * len(fits)
    drawn, counts = np.unique(space.sample(n, limit, rng=3), axis=0, return_counts=True)
    assert drawn.tolist() == fits.tolist()
    # the sum of squared standard deviations has mean len - 1 and deviation sqrt(2 (len - 1))
    chi = ((counts - 200) ** 2 / 200).sum()
    assert abs(chi - (len(fits) - 1)) < 5 * np.sqrt(2 * len(fits))
    assert (space.sample(50, limit, rng=7) == space.sample(50, limit, rng=7)).all()
    assert space.sample(0, limit).shape == (0, space.n_genes)


def test_counts_are_exact_beyond_64_bits():
    kinds = tuple(slot_spaces.KINDS)[3:6]
    genes = [Gene(f"kind{i}", kinds) for i in range(60)]
    slots = [Slot(f"block{i}", slot_spaces.block, {"kind": f"kind{i}"}) for i in range(60)]
    space = Space("long", genes, [Slot("stem", slot_spaces.stem), *slots, Slot("pool", slot_spaces.pool_flatten)])
    assert space.count() == 3**60
    few = Limit(space, params=space.evaluate([[1] * 60], "params")["params"][0] - 1)
    assert space.count(few) == 3**60 - 1  # the separable block has the most parameters
    assert space.sample(3, few, rng=0).shape == (3, 60)
    assert space.best("params", few).status == "optimal"


def test_scores_of_options_of_a_slot():
    space = slot_spaces.small(2)
    slot = space.slots[2]
    table = {slot.name: {None: 5, **{(k, c): 1 for k in space.genes[4].values for c in (0, 4)}}}
    best = space.best(table)
    assert best.score == 5
    assert not space.is_on(slot, best.x)
    with pytest.raises(SpaceError, match="no score for option"):
        space.best({slot.name: {None: 1}})
    for wrong in ("accuracy", {}, {"kind0": [1]}, {"nothing": [1]}, 3, {"kind0": ["a"] * 5}):
        with pytest.raises(SpaceError):
            space.best(wrong)
    shared = SPACES["cells, one gene"]
    assert shared.best({"op0": [0.5, 0.25, 0.0, 1.5]}).score == 1.5


def test_too_many_labels_are_reported(monkeypatch):
    monkeypatch.setattr(search, "MAX_LABELS", 3)
    space = slot_spaces.small(2)
    with pytest.raises(SpaceError, match="different sums and peaks"):
        space.count(Limit(space, params=900))


# ---------------------------------------------------------------------------------- changing a candidate


@settings(max_examples=40)
@given(data=st.data())
def test_a_changed_candidate_is_evaluated_as_a_new_one(data):
    space = SPACES[data.draw(st.sampled_from(["chain", "cells", "cells, one gene"]))]
    metrics = ("params", "inference_peak", "training_peak")
    walk = space.walk(space.random(1, rng=data.draw(st.integers(0, 99)))[0], metrics)
    for _ in range(3):
        gene = data.draw(st.sampled_from(space.genes))
        value = data.draw(st.sampled_from(gene.values))
        after = space.mutate(walk, {gene.name: value})
        expected = space.evaluate([after.x], metrics)
        assert after.metrics == {k: int(v[0]) for k, v in expected.items()}
        assert space.values(after.x)[gene.name] == value
        walk = after
    again = space.mutate(walk.x, {}, metrics=metrics)
    assert again.metrics == walk.metrics
    assert "params" in repr(walk)
    with pytest.raises(SpaceError, match="no value"):
        space.mutate(walk, {space.genes[0].name: "none"})
    with pytest.raises(SpaceError, match="no gene"):
        space.mutate(walk, {"none": 1})


def test_one_candidate_at_a_time():
    space = SPACES["chain"]
    labels = ("macs", "inference_total", "training_peak:sgd", "params")
    one = space.evaluator(labels, batch=2)
    X = space.random(5, rng=6)
    found = space.evaluate(X, labels, batch=2)
    for i, x in enumerate(X):
        for form in (x, x.tolist(), tuple(x.tolist()), x.astype(np.int16), X[i : i + 1]):
            assert one(form) == tuple(int(found[k][i]) for k in labels)
    plain = space.evaluator(("params", "inference_peak"))
    assert plain(X[0]) == tuple(int(v[0]) for v in space.evaluate(X[:1], ("params", "inference_peak")).values())
    wrong = X[0].copy()
    wrong[2] = 99
    for bad in (wrong, X[0][:-1], wrong.tolist()):
        with pytest.raises(SpaceError):
            plain(bad)


# ---------------------------------------------------------------------------------- bad input


def test_bad_genotypes_are_named():
    space = SPACES["chain"]
    X = space.random(300, rng=0)
    X[217, 3] = 7
    with pytest.raises(SpaceError, match=r"row 217 .* has 7 at gene 'channels0' \(column 3\); allowed: 0 to 1"):
        space.evaluate(X)
    X[217, 3] = -1
    for kind in (np.int64, np.int32, np.int16, np.int8):
        with pytest.raises(SpaceError, match="row 217 .* has -1"):
            space.evaluate(X.astype(kind))
    X[217, 3] = 65536  # 0 in 16 bits
    with pytest.raises(SpaceError, match="row 217 .* has 65536"):
        space.evaluate(X)
    with pytest.raises(SpaceError, match="row 217"):
        space.evaluate(X, executor=_Here())
    for bad in (X[:, :3], X.astype(float), np.zeros((2, 2, 8), int), [["a"] * 8]):
        with pytest.raises(SpaceError, match="allowed"):
            space.evaluate(bad)


class _Here(concurrent.futures.Executor):
    """Runs what is submitted at once."""

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        future.set_result(function(*args))
        return future


def test_no_candidates_give_empty_columns():
    space = SPACES["chain"]
    for empty in ([], np.zeros((0, space.n_genes), int), np.zeros((0,), np.int16)):
        found = space.evaluate(empty, ("params", "training_peak"))
        assert {k: v.tolist() for k, v in found.items()} == {"params": [], "training_peak": []}
    assert space.evaluate([], executor=_Here())["macs"].tolist() == []


def _fails(g, x, k):
    return g.conv2d(x, 8, k)


def _odd(_g, x, what):
    return {"none": (), "text": "x", "number": [x, 3]}[what]


def _raises(_g, x, what):
    return {"value": 1}[what]


def test_an_option_that_cannot_be_built_is_named():
    stem = Slot("stem", functools.partial(slot_spaces.stem, res=8))
    kernel = Space("t", [Gene("k", (3, 99))], [stem, Slot("conv", _fails, {"k": "k"})])
    message = r"slot 'conv', option k=99, cannot be built for input shapes \(1, 8, 8, 8\)"
    with pytest.raises(SpaceError, match=message):
        kernel.evaluate([[0]])
    with pytest.raises(SpaceError, match=message):
        kernel.graph([1])
    for what, match in (("none", "no tensor"), ("text", "not tensors"), ("number", "not tensors")):
        with pytest.raises(SpaceError, match=match):
            Space("t", [Gene("w", (what,))], [stem, Slot("odd", _odd, {"what": "w"})]).graph([0])
    with pytest.raises(SpaceError, match="KeyError"):
        Space("t", [Gene("w", ("x",))], [stem, Slot("odd", _raises, {"what": "w"})]).evaluate([[0]])


def _second_input(g, x):
    return g.add(x, g.input((1, 8, 16, 16)))


def _hands_parameter_on(g, x):
    return x, g.parameter((1,))


def _views(g, x):
    return x, g.permute(x, (0, 1, 3, 2))


def _overwrites(g, before, last):
    g.relu(before, inplace=True)
    return before, last


def _reads(g, before, last):
    return g.add(before, last)


def _early(g, x):
    return g.linear(g.flatten(x), 3), x


def _hands_output_on(g, early, x):
    return g.linear(g.flatten(x), 4), early


def test_what_does_not_come_apart_is_refused():
    stem = Slot("stem", slot_spaces.stem)
    end = Slot("end", _reads)

    def space(*slots):
        return Space("t", [], [stem, *slots])

    with pytest.raises(SpaceError, match="adds an input"):
        space(Slot("a", _second_input)).evaluate([[]])
    with pytest.raises(SpaceError, match="stored parameter"):
        space(Slot("a", _hands_parameter_on), end).evaluate(np.zeros((1, 0), int))
    with pytest.raises(SpaceError, match="share bytes"):
        space(Slot("a", _views), end).evaluate(np.zeros((1, 0), int))
    with pytest.raises(SpaceError, match="overwrites"):
        space(Slot("a", slot_spaces.pair), Slot("b", _overwrites), end).evaluate(np.zeros((1, 0), int))
    outputs = space(Slot("a", _early), Slot("b", _hands_output_on))
    with pytest.raises(SpaceError, match="made by the last slot"):
        outputs.evaluate(np.zeros((1, 0), int), "training_peak")
    assert outputs.evaluate(np.zeros((1, 0), int))["inference_peak"] == (
        cnnlive.plan_inference(outputs.graph([])).activation_peak_bytes
    )


def test_spaces_that_are_not_well_formed_are_refused():
    gene, stem = Gene("k", (1, 2)), Slot("stem", slot_spaces.stem)
    used = Slot("b", slot_spaces.block, {"kind": "k"})
    for genes, slots in (
        ([], []),
        ([gene], [stem]),
        ([gene, gene], [stem, used]),
        ([gene], [stem, used, used]),
        ([gene], [Slot("a.b", slot_spaces.stem), used]),
        ([], [stem, used]),
        ([gene], [stem, Slot("b", slot_spaces.pool_flatten, {}, {"k": (7,)})]),
    ):
        with pytest.raises(SpaceError):
            Space("t", genes, slots)
    for values in ((), (1, 1)):
        with pytest.raises(SpaceError):
            Gene("k", values)
    with pytest.raises(SpaceError):
        Gene("", (1,))
    with pytest.raises(SpaceError, match="hashed"):
        Gene("k", ([1], [2]))
    first = Space("t", [gene], [Slot("stem", slot_spaces.stem, {}, {"k": (1,)}), Slot("p", slot_spaces.pool_flatten)])
    with pytest.raises(SpaceError, match="first one and may be switched off"):
        first.evaluate([[0]])


def test_what_overflows_is_refused():
    space = slot_spaces.chain(("preactivation",), 3)
    x = space.random(1, rng=0)
    huge = 2**44
    assert space.evaluate(x, "params", batch=1)["params"] > 0
    with pytest.raises(SpaceError, match=r"slot 'block\d' brings space 'chain' to 2\*\*62"):
        space.evaluate(x, "macs", batch=huge)
    with pytest.raises(SpaceError, match=r"slot 'stem', option res=8, given none: .*2\*\*62"):
        space.evaluate(x, batch=2**60)


def test_arguments_of_partials_need_not_be_hashable():
    build = functools.partial(_listed, channels=[4, 8])
    space = Space("t", [], [Slot("stem", slot_spaces.stem), Slot("a", build), Slot("b", build)])
    assert space.evaluate(np.zeros((1, 0), int), "params")["params"] == space.graph([]).n_parameters


def _listed(g, x, channels):
    for c in channels:
        x = g.conv2d(x, c, 1)
    return x


def test_settings_and_metrics_that_do_not_exist():
    space = SPACES["small"]
    x = space.random(1, rng=0)
    for setting in ({"precision": "float8"}, {"device": "tpu"}, {"convention": "madds"}, {"threads": 0}):
        with pytest.raises(AttributeValueError):
            space.evaluate(x, **setting)
    for metrics in ("peak", ("params", "params"), "params:adam"):
        with pytest.raises(AttributeValueError, match="metric"):
            space.evaluate(x, metrics)
    with pytest.raises(AttributeValueError, match="not known in bulk|lists and single|goes through lists"):
        space.evaluate(x, "training_peak", optimizer="rprop")
    with pytest.raises(GraphError, match="loss"):
        space.evaluate(x, "training_peak", loss="output")
    with pytest.raises(SpaceError):
        space.evaluate(x, "training_peak", loss="no such loss")


# ---------------------------------------------------------------------------------- threads, processes


def test_threads_executors_and_pickled_spaces_agree():
    space = SPACES["chain"]
    X = space.random(60_000, rng=0)
    expected = space.evaluate(X, threads=1)
    for options in ({"threads": 2}, {"executor": _Here()}):
        found = space.evaluate(X, **options)
        assert all((found[k] == expected[k]).all() for k in expected)
    for kind in (np.int8, np.int16, np.int32, np.uint16):
        assert (space.evaluate(X[:100].astype(kind))["macs"] == expected["macs"][:100]).all()
    assert (space.evaluate(np.asfortranarray(X[:100]))["macs"] == expected["macs"][:100]).all()
    copy = pickle.loads(pickle.dumps(SPACES["cells"]))
    rows = copy.random(3, rng=0)
    assert copy.evaluate(rows)["params"].tolist() == SPACES["cells"].evaluate(rows)["params"].tolist()


def _child(n):
    return int(SPACES["chain"].evaluate(SPACES["chain"].random(n, rng=n))["inference_peak"].sum())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_evaluates_after_its_parent_has():
    expected = [_child(n) for n in (3, 4, 50_000)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_child, (3, 4, 50_000)) == expected


def test_equal_options_are_built_once():
    space = slot_spaces.chain(("separable",), 3)
    space.compile()
    # stem, block (to 8 and to 4 channels, from 8 and from 4), pool, head, each at two resolutions; equal ones once
    assert len(space.fragments) <= 2 * (1 + 4 + 2) + 2


def test_progress_is_shown_when_asked_for(capsys):
    slot_spaces.small(2).compile(progress=False)
    assert capsys.readouterr().err == ""
    slot_spaces.small(2).compile(progress=True)
    assert capsys.readouterr().err != ""


def test_a_step_that_peaks_in_forward_equals_planning_the_graph():
    space = slot_spaces.forward_heavy()
    X = everything(space)
    setting = {"precision": "autocast", "batch": 4}
    phases = [cnnlive.plan_training(space.graph(x), optimizer="sgd", **setting).peak_phase for x in X]
    assert phases.count("forward") >= 2  # casts of biases count there, and are gone in backward
    agree(space, X, setting, trained)
