"""Modules to wrap with ``torch.utils.checkpoint``: the memory model, and the choice of modules under a budget."""

from __future__ import annotations

import functools
import itertools
import json
import pickle
import random

import numpy as np
import pytest
import wrap_truth

from cnnlive import Graph, zoo
from cnnlive.errors import RematError, UnitError
from cnnlive.plan import wraps
from cnnlive.plan.costs import read_cost_model
from cnnlive.plan.steps import step_graph
from cnnlive.plan.training import plan_training
from cnnlive.plan.wraps import Region, WrapPlan, plan_wraps, simulate_wraps, wrap_frontier


def step_of(graph, batch=2, *, costs=None, **options):
    options = {"device": "cpu", "optimizer": "sgd"} | options
    plan = plan_training(graph, batch=batch, **options)
    rng = np.random.default_rng(plan.tape.n_records)
    cost = rng.integers(1, 100, plan.tape.n_records) if costs is None else np.full(plan.tape.n_records, costs)
    return step_graph(plan, cost, 2 * cost, recompute_random=True)


def conv_norm(g, x, channels, act="relu", inplace=False, k=3):
    x = g.conv2d(x, channels, k, padding=k // 2, bias=False, name="conv")
    x = g.batch_norm2d(x, name="norm")
    return getattr(g, act)(x, inplace=inplace, name="act") if act else x


def net(kinds, size=8, channels=4, seed=0):
    """Build blocks one behind the other: plain, residual, with a skip, of branches, with dropout, over their input."""
    rng = random.Random(seed)
    g = Graph("net")
    x = g.input((1, 3, size, size))
    x = g.conv2d(x, channels, 3, padding=1, name="stem")
    for k, kind in enumerate(kinds):
        with g.scope(f"block{k}"):
            width = rng.choice([channels, 2 * channels])
            if kind == "plain":
                x = conv_norm(g, x, width, inplace=rng.random() < 0.5)
            elif kind == "residual":
                y = conv_norm(g, x, x.shape[1], act=None)
                with g.scope("inner"):
                    y = conv_norm(g, y, x.shape[1], "silu")
                x = g.relu(g.add(y, x, inplace=True), inplace=True, name="last")
            elif kind == "branches":
                parts = []
                for b in range(2):
                    with g.scope(f"branch{b}"):
                        parts.append(conv_norm(g, x, width // 2, "sigmoid" if b else "relu"))
                x = g.concat(parts, dim=1)
            elif kind == "pool":
                x = g.max_pool2d(conv_norm(g, x, width), 3, 1, padding=1, name="pool")
            elif kind == "dropout":
                x = g.dropout(conv_norm(g, x, width), p=0.5)
            elif kind == "scaled":
                x = g.mul(x, g.adaptive_avg_pool2d(x, 1), name="product")
                y = g.conv2d(x, width, 1, name="conv")
                x = g.mul(y, g.sigmoid(g.adaptive_avg_pool2d(y, 1), name="gate"), name="gated")
            elif kind == "noisy":
                y = g.conv2d(x, x.shape[1], 3, padding=1, name="conv")
                x = g.add(x, g.dropout(y, p=0.5), name="sum")
            elif kind == "wide":
                x = g.scale(x, factor=2.0, name="twice")
                y = g.add(g.conv2d(x, 4 * width, 1, name="a"), g.conv2d(x, 4 * width, 1, name="b"))
                y = g.mean(y, dim=1, keepdim=True)
                x = g.add(x, g.sigmoid(y, name="act"), name="sum")
            elif kind == "over":
                x = g.conv2d(g.relu(x, inplace=True, name="first"), width, 3, padding=1, name="conv")
                x = g.sigmoid(x, name="last")
    with g.scope("head"):
        x = g.flatten(g.adaptive_avg_pool2d(x, 1), 1)
        x = g.linear(x, 10, name="fc")
    g.output(x)
    return g


KINDS = ("plain", "residual", "branches", "pool", "dropout", "scaled", "noisy", "wide", "over")


def some_net(seed):
    rng = random.Random(seed)
    return net([rng.choice(KINDS) for _ in range(rng.randrange(2, 5))], rng.choice([4, 8]), rng.choice([2, 4]), seed)


def modules_of(step):
    """Blocks and what lies in them, without single ops: few enough for all choices."""
    spans = wraps._Model(step, None, True).spans
    return [s.module for s in spans if s.module.count(".") <= 1 and not s.module.endswith((".conv", ".norm", ".act"))]


def choices(step, modules, kind):
    """Return every set of regions that do not overlap, with every set of results that they may save."""
    model = wraps._Model(step, modules, True)
    names = step.plan.network.op_names
    options = []
    for span in model.spans:
        again = span.saveable if kind == "policy" else ()
        subsets = [c for k in range(len(again) + 1) for c in itertools.combinations(again, k)]
        options.append([(span, Region(span.module, tuple(names[model.op_of[p]] for p in saved), span.random))
                        for saved in subsets])  # fmt: skip
    found = [[]]
    for same in options:
        found += [[*chosen, (span, region)] for chosen in found for span, region in same
                  if all(span.hi <= s.lo or s.hi <= span.lo for s, _ in chosen)]  # fmt: skip
    return [[region for _, region in chosen] for chosen in found]


def as_rows(regions):
    return [(r.module, r.saved, r.random) for r in regions]


# ---------------------------------------------------------------------------------------------- the memory model
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "googlenet", "unet", "vgg11"])
@pytest.mark.parametrize(
    "options",
    [{}, {"device": "cuda", "optimizer": "adam", "precision": "autocast"}, {"micro_batches": 2},
     {"zero_grad": "before_backward", "host_scalars": True}, {"first_step": True}],
    ids=["plain", "autocast", "micro-batches", "late zero_grad", "first step"],
)  # fmt: skip
def test_a_step_without_regions_is_the_training_plan(name, options):
    step = step_of(zoo.load(name), 2, **options)
    plan = simulate_wraps(step, [])
    np.testing.assert_array_equal(plan.timeline, step.plan.timeline)
    assert plan.peak_bytes == plan.keep_bytes == step.plan.peak_bytes
    assert plan.cost == plan.plain_cost == step.problem.plain_cost
    assert plan.overhead == 0


@pytest.mark.parametrize("seed", range(40))
def test_peaks_are_those_of_the_events(seed):
    step = step_of(some_net(seed), 1 + seed % 3, host_scalars=bool(seed % 2))
    n = step.plan.tape.n_records
    model = wraps._Model(step, None, True)
    names = step.plan.network.op_names
    rng = random.Random(seed)
    for _ in range(8):
        chosen = []
        for span in rng.sample(model.spans, len(model.spans))[: rng.choice([1, 3, 20])]:
            if all(span.hi <= s.lo or s.hi <= span.lo for s, _ in chosen):
                saved = [names[model.op_of[p]] for p in span.saveable if rng.random() < 0.5]
                chosen.append((span, Region(span.module, tuple(saved if rng.random() < 0.7 else ()), span.random)))
        regions = [region for _, region in chosen]
        plan = simulate_wraps(step, regions)
        forward, backward, most = wrap_truth.simulate(step.plan, as_rows(regions))
        assert plan.timeline[:-1].tolist() == most
        assert (plan.timeline[:n].max(), plan.timeline[n:-1].max()) == (max(forward), max(backward))
        assert plan.peak_bytes == plan.timeline.max()


@pytest.mark.parametrize("seed", range(6))
def test_the_cost_is_that_of_the_records_that_run_again(seed):
    step = step_of(some_net(seed), costs=1)
    plan, tape, net_ = step.plan, step.plan.tape, step.plan.network
    works = {p for p in range(tape.n_records) if tape.alloc_ptr[p] < tape.alloc_ptr[p + 1] or tape.over[p] >= 0}
    for module in modules_of(step):
        ours = [p for p, (op, _) in enumerate(tape.records) if op >= 0 and wrap_truth.in_module(net_, op, module)]
        last = max(p for p in ours if wrap_truth.packs(plan, p)[0])
        runs = [p for p in ours if p in works and (p < last or (p == last and wrap_truth.packs(plan, p)[1]))]
        random_ = any(tape.random[p] for p in ours)
        found = simulate_wraps(step, [Region(module, (), random_)])
        assert found.cost - found.plain_cost == len(runs)
        saved = tuple({net_.op_names[tape.records[p][0]]: None for p in runs if tape.records[p][1] == "conv2d"})
        spared = simulate_wraps(step, [Region(module, saved, random_)])
        assert spared.cost - spared.plain_cost == len(runs) - len(saved)


def test_recomputation_ends_before_an_op_that_packs_only_what_it_reads():
    g = Graph("g")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="stem")
    with g.scope("block"):
        x = g.conv2d(g.tanh(x, name="act"), 4, 3, name="conv")
    g.output(g.linear(g.flatten(x, 1), 10, name="fc"))
    step = step_of(g, costs=1)
    plan = simulate_wraps(step, [Region("block")])
    assert plan.cost - plan.plain_cost == 1  # the convolution does not run again


def test_ops_of_several_records_pack_where_pytorch_does():
    g = Graph("g")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="stem")
    with g.scope("first"):
        x = g.local_response_norm(g.tanh(x, name="act"), 3, name="norm")
    with g.scope("second"):
        y = g.sigmoid(x, name="act")
        x = g.addcmul(x, y, g.tanh(x, name="other"), name="sum")
    with g.scope("third"):
        x = g.instance_norm2d(g.scale(x, factor=2.0, offset=1.0, name="scale"), affine=True, name="norm")
    g.output(g.linear(g.flatten(x, 1), 10, name="fc"))
    step = step_of(g, host_scalars=True)
    blocks = ["first", "first.norm", "second", "third"]
    for chosen in itertools.chain.from_iterable(itertools.combinations(blocks, k) for k in (1, 2, 3)):
        if {"first", "first.norm"} <= set(chosen):
            continue
        plan = simulate_wraps(step, [Region(m) for m in chosen])
        _, _, most = wrap_truth.simulate(step.plan, [(m, (), False) for m in chosen])
        assert plan.timeline[:-1].tolist() == most


def test_a_region_lets_go_before_its_first_node_hands_on():
    g = Graph("g")
    x = g.sigmoid(g.conv2d(g.input((1, 3, 8, 8)), 16, 1, name="stem"), name="held")
    with g.scope("block"):
        y = g.dropout(g.conv2d(x, 2, 1, name="conv"), p=0.5)
    # the gradient of x is a view of one number per channel, to which nothing can be added in place
    g.output(g.linear(g.concat([g.sum(x, dim=(2, 3)), g.sum(y, dim=(2, 3))], dim=1), 10, name="fc"))
    step = step_of(g)
    _, _, most = wrap_truth.simulate(step.plan, [("block", (), True)])
    assert simulate_wraps(step, [Region("block", (), True)]).timeline[:-1].tolist() == most


def test_a_region_holds_all_its_inputs():
    g = Graph("g")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="stem")
    y, z = g.conv2d(x, 4, 1, name="left"), g.conv2d(x, 4, 1, name="right")
    with g.scope("block"):
        y = g.tanh(g.add(g.conv2d(y, 4, 1, name="conv"), z, name="sum"), name="act")
    g.output(g.linear(g.flatten(y, 1), 10, name="fc"))
    step = step_of(g)
    _, _, most = wrap_truth.simulate(step.plan, [("block", (), False)])
    assert simulate_wraps(step, [Region("block")]).timeline[:-1].tolist() == most


def test_a_blocks_output_is_no_longer_held_twice_by_the_block_and_what_reads_it():
    step = step_of(net(["plain", "plain"], seed=3), batch=4)
    one = simulate_wraps(step, [Region("block0")])
    both = simulate_wraps(step, [Region("block0"), Region("block1")])
    n = step.plan.tape.n_records
    kept = [plan.timeline[n - 1] for plan in (simulate_wraps(step, []), one, both)]
    assert kept[0] > kept[1] > kept[2]


# ---------------------------------------------------------------------------------------------- the choice
@functools.cache
def frontier_of(seed, kind, few=True):
    step = step_of(some_net(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wraps, "_FEW", 10**6 if few else 0)
        return step, wrap_frontier(step, kind=kind, modules=modules_of(step), recompute_random=True)


@pytest.mark.parametrize("kind", ["modules", "policy"])
@pytest.mark.parametrize("seed", range(10))
def test_plans_are_the_best_of_all_choices(seed, kind):
    step, frontier = frontier_of(seed, kind)
    every = choices(step, modules_of(step), kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wraps, "_FEW", 10**6)
        assert len(wraps._Search(frontier._model, kind, 0).seen) <= len(every)
    if len(every) > 400:
        every = [[], *random.Random(seed).sample(every, 400)]
        complete = False
    else:
        complete = True
    model_found = [simulate_wraps(step, regions) for regions in every]
    for found in model_found:
        assert frontier.plan(found.peak_bytes).cost <= found.cost
    if complete:
        assert frontier.least_bytes == min(f.peak_bytes for f in model_found)
        for peak, cost in zip(frontier.peaks.tolist(), frontier.costs.tolist(), strict=True):
            assert cost == min(f.cost for f in model_found if f.peak_bytes <= peak)


@pytest.mark.parametrize("kind", ["modules", "policy"])
@pytest.mark.parametrize("seed", range(10))
def test_the_search_of_large_nets_finds_the_best_of_small_ones(seed, kind):
    _, every = frontier_of(seed, kind)
    _, climbed = frontier_of(seed, kind, few=False)
    assert climbed.peaks.tolist() == every.peaks.tolist()
    assert climbed.costs.tolist() == every.costs.tolist()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet"])
def test_a_plan_keeps_its_budget_and_more_budget_never_costs_more(name):
    step = step_of(zoo.load(name), 4)
    least = {}
    found = {kind: wrap_frontier(step, kind=kind) for kind in ("modules", "policy")}
    for kind, frontier in found.items():
        assert (np.diff(frontier.peaks) > 0).all()
        assert (np.diff(frontier.costs) < 0).all()
        least[kind] = frontier.least_bytes
        assert frontier.keep_bytes == frontier.peaks[-1] == step.plan.peak_bytes
        last = None
        for budget in np.linspace(0.9 * frontier.least_bytes, frontier.keep_bytes, 7).astype(int).tolist():
            plan = frontier.plan(budget)
            assert plan.fits == (plan.peak_bytes <= budget) == (budget >= frontier.least_bytes)
            assert last is None or plan.cost <= last
            last = plan.cost
            again = simulate_wraps(step, plan.regions, budget=budget)
            assert (again.peak_bytes, again.cost, again.fits) == (plan.peak_bytes, plan.cost, plan.fits)
            np.testing.assert_array_equal(again.timeline, plan.timeline)
        assert plan.regions == ()
    for budget in np.linspace(least["policy"], step.plan.peak_bytes, 20).astype(int).tolist():
        assert found["policy"].plan(budget).cost <= found["modules"].plan(budget).cost
    assert least["policy"] <= least["modules"]


def test_the_same_seed_gives_the_same_plan():
    graph = zoo.load("mobilenet_v2")
    budget = step_of(graph, 4).plan.peak_bytes // 2
    first, second = (plan_wraps(step_of(graph, 4), budget, kind="policy", seed=3) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert plan_wraps(step_of(graph, 4), budget, kind="policy", seed=4).fits


def test_a_budget_that_nothing_meets_gives_the_least_peak():
    step = step_of(zoo.load("resnet18"), 4)
    plan = plan_wraps(step, "1MiB")
    assert not plan.fits
    assert plan.budget == 2**20
    assert plan.peak_bytes == plan.least_bytes == wrap_frontier(step).least_bytes
    assert plan_wraps(step, plan.least_bytes).fits


def test_policies_save_results_and_cost_less_than_modules():
    plan = plan_training(zoo.load("resnet50"), batch=16)
    step = step_graph(plan, *read_cost_model("roofline").of(plan.network, plan.tape, 16))
    frontier = wrap_frontier(step, kind="policy")
    budget = (frontier.least_bytes + frontier.keep_bytes) // 2
    plan, plain = frontier.plan(budget), plan_wraps(step, budget)
    assert plan.cost < plain.cost
    saved = [name for r in plan.regions for name in r.saved]
    assert saved
    assert all(".conv" in name or "downsample.0" in name for name in saved)
    assert {r.saved for r in plain.regions} == {()}


# ---------------------------------------------------------------------------------------------- what may be a region
def numbered(between):
    """Two blocks under one numbered path, behind a stem."""
    g = Graph("g")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="stem")
    first = x
    made = []
    for k in range(2):
        with g.scope("list"), g.scope(str(k)):
            x = conv_norm(g, x, 4)
            made.append(x)
    if between == "a second result is read":
        x = g.add(x, made[0], name="sum")
    elif between == "its input is let go":
        g.hold(first, "list.0.act")
    g.output(g.linear(g.flatten(x, 1), 10, name="fc"))
    return g


@pytest.mark.parametrize(
    ("between", "call"), [("", True), ("a second result is read", False), ("its input is let go", False)]
)
def test_numbered_modules_are_a_sequence_if_nothing_speaks_against_it(between, call):
    spans = {s.module for s in wraps._Model(step_of(numbered(between)), None, False).spans}
    assert ("list" in spans) == call
    assert {"list.0", "list.1"} <= spans


def test_stages_of_zoo_nets_are_regions():
    spans = {s.module for s in wraps._Model(step_of(zoo.load("resnet18")), None, False).spans}
    assert {"layer1", "layer1.0", "layer4.1"} <= spans


def test_random_ops_run_again_only_if_asked():
    step = step_of(net(["dropout", "plain"], channels=8))
    assert "block0" not in {s.module for s in wraps._Model(step, None, False).spans}
    left = plan_wraps(step, 0)
    assert any("block0" in w and "draws random numbers" in w for w in left.warnings)
    with pytest.raises(RematError, match=r"'block0' draws random numbers; allowed: a region with random=True"):
        simulate_wraps(step, [Region("block0")])
    asked = plan_wraps(step, 0, recompute_random=True)
    assert [r for r in asked.regions if r.module == "block0"] == [Region("block0", (), True)]
    assert any("block0" in w and "preserve_rng_state" in w for w in asked.warnings)


@pytest.mark.parametrize(
    ("kinds", "module", "why"),
    [(["over"], "block0", "overwrites its input in place"), (["plain"], "nothing", "no module that runs ops")],
)
def test_errors_name_the_module_and_the_reason(kinds, module, why):
    step = step_of(net(kinds))
    with pytest.raises(RematError, match=f"'{module}'.*{why}"):
        simulate_wraps(step, [Region(module)])


def test_errors_name_what_is_allowed():
    step = step_of(net(["plain", "residual", "plain"]))
    with pytest.raises(RematError, match="'block1' and 'block1.inner' overlap"):
        simulate_wraps(step, [Region("block1.inner"), Region("block1")])
    with pytest.raises(
        RematError, match=r"'block1' cannot save 'block0.conv'; allowed: .*block1.conv, block1.inner.conv"
    ):
        simulate_wraps(step, [Region("block1", ("block0.conv",))])
    with pytest.raises(RematError, match=r"cannot save 'block1.norm'"):
        simulate_wraps(step, [Region("block1", ("block1.norm",))])
    with pytest.raises(RematError, match="kind='layers'; allowed: 'modules', 'policy'"):
        plan_wraps(step, 0, kind="layers")
    with pytest.raises(RematError, match=r"'blok1' is no module that runs ops; did you mean block1"):
        plan_wraps(step, 0, modules=["blok1"])
    for budget in (-1, "much", 1.5):
        with pytest.raises(UnitError):
            plan_wraps(step, budget)


def test_a_module_that_is_called_again_right_away_is_left_out():
    g = Graph("g")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="stem")
    for call in ("block", "block@1"):
        with g.scope(call):
            x = g.tanh(g.batch_norm2d(x, name="norm"), name="act")
    g.output(g.linear(g.flatten(x, 1), 10, name="fc"))
    step = step_of(g)
    assert not [
        s.module for s in wraps._Model(step, None, False).spans if s.module.startswith("block") and "." not in s.module
    ]
    with pytest.raises(RematError, match="'block' cannot be wrapped: it runs more than once"):
        simulate_wraps(step, [Region("block")])


def test_what_reads_a_tensor_that_is_overwritten_later_is_left_out():
    g = Graph("g")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="stem")
    with g.scope("block"):
        y = g.tanh(g.conv2d(x, 4, 1, name="conv"), name="act")
    g.output(g.linear(g.flatten(g.add(x, y, inplace=True, name="sum"), 1), 10, name="fc"))
    with pytest.raises(
        RematError, match="'block' cannot be wrapped: it has an input that is overwritten in place later"
    ):
        simulate_wraps(step_of(g), [Region("block")])


def test_what_reads_an_input_that_is_overwritten_is_left_out():
    g = Graph("g")
    x = g.input((1, 3, 8, 8))
    with g.scope("block"):
        y = g.tanh(g.conv2d(x, 3, 1, name="conv"), name="act")
    x = g.sigmoid(x, inplace=True, name="over")
    g.output(g.linear(g.flatten(g.add(x, y, name="sum"), 1), 10, name="fc"))
    with pytest.raises(RematError, match="'block' cannot be wrapped: it reads an input of the network"):
        simulate_wraps(step_of(g), [Region("block")])


def test_a_result_that_is_overwritten_is_not_saved():
    g = Graph("g")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="stem")
    with g.scope("block"):
        x = g.relu(g.conv2d(x, 4, 3, name="conv"), inplace=True, name="act")
    g.output(g.linear(g.flatten(x, 1), 10, name="fc"))
    step = step_of(g)
    with pytest.raises(RematError, match="cannot save 'block.conv'; allowed: .*: none"):
        simulate_wraps(step, [Region("block", ("block.conv",))])


def test_what_the_loss_does_not_lead_back_to_is_left_out():
    g = Graph("g")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="stem")
    with g.scope("aux"):
        y = g.linear(g.flatten(g.tanh(x, name="act"), 1), 10, name="fc")
    with g.scope("main"):
        x = g.linear(g.flatten(g.tanh(x, name="act"), 1), 10, name="fc")
    g.output(x, y)
    spans = {s.module for s in wraps._Model(step_of(g, aux_weight=0), None, False).spans}
    assert "main" in spans
    assert "aux" not in spans
    assert "aux" in {s.module for s in wraps._Model(step_of(g, aux_weight=1), None, False).spans}


def test_statistics_that_are_updated_twice_are_named():
    step = step_of(net(["plain"] * 12))
    plan = simulate_wraps(step, [Region(f"block{k}") for k in range(12)])
    (warning,) = plan.warnings
    assert "block0.norm, block1.norm" in warning
    assert "block7.norm and 4 more" in warning
    assert simulate_wraps(step, []).warnings == ()


# ---------------------------------------------------------------------------------------------- results
def test_a_plan_goes_through_json_and_says_what_it_is():
    step = step_of(zoo.load("resnet18"), 16)
    for kind in ("modules", "policy"):
        plan = plan_wraps(step, int(0.85 * step.plan.peak_bytes), kind=kind)
        assert plan.fits
        assert plan.regions
        data = json.loads(json.dumps(plan.to_dict()))
        again = WrapPlan.from_dict(data)
        assert again.to_dict() == plan.to_dict()
        assert again.regions == plan.regions
        text = str(plan)
        assert "fits" in text
        assert all(r.module in text for r in plan.regions)
        assert f"{plan.peak_bytes:,}" in repr(plan)
        copied = pickle.loads(pickle.dumps(plan))
        assert copied.to_dict() == plan.to_dict()
        assert not copied.timeline.flags.writeable
    del data["regions"]
    with pytest.raises(RematError, match="lacks 'regions'"):
        WrapPlan.from_dict(data)


def test_a_plan_without_a_budget_fits():
    plan = simulate_wraps(step_of(net(["plain"])), [Region("block0")])
    assert plan.fits
    assert plan.budget is None
    assert "budget" not in str(plan)
    assert WrapPlan.from_dict(plan.to_dict()).budget is None


def test_a_search_that_is_cut_short_still_keeps_its_promises(monkeypatch):
    monkeypatch.setattr(wraps, "_TRIES", 3)
    monkeypatch.setattr(wraps, "_MOST_LABELS", 4)
    step = step_of(zoo.load("mobilenet_v2"), 4)
    frontier = wrap_frontier(step, kind="policy")
    assert (np.diff(frontier.costs) < 0).all()
    budget = (frontier.least_bytes + frontier.keep_bytes) // 2
    plan = frontier.plan(budget)
    assert simulate_wraps(step, plan.regions).peak_bytes == plan.peak_bytes <= budget


def test_a_frontier_says_what_it_is():
    frontier = wrap_frontier(step_of(zoo.load("resnet18"), 4))
    assert len(frontier) == len(frontier.peaks)
    assert f"{frontier.least_bytes:,}" in repr(frontier)
    assert frontier.plain_cost == frontier.costs[-1]
