"""Chains with recomputation: plans against a machine that runs them, optima against exhaustive search, known rules."""

import heapq
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive.errors import BudgetError, RematError
from cnnlive.plan import chain as module
from cnnlive.plan.chain import BASELINES, Chain, chain_baseline, chain_frontier, plan_chain


@st.composite
def chains(draw, max_stages=6, most=5):
    """A small chain with options, temporary bytes and gradients of their own size; many ties and zeros."""
    n = draw(st.integers(1, max_stages))
    costs = st.integers(0, 4)
    size = st.integers(0, most)
    rows = lambda k, of=size: draw(st.lists(of, min_size=k, max_size=k))  # noqa: E731
    act = rows(n + 1)
    grad = rows(n + 1) if draw(st.booleans()) else act
    saved = [a + s for a, s in zip(act[1:], rows(n), strict=True)]
    options = [
        [(c, act[i + 1] + s, t) for c, s, t in draw(st.lists(st.tuples(costs, size, size), max_size=2))]
        for i in range(n)
    ]
    back = [draw(st.integers(-min(grad[i], saved[i] + grad[i + 1]), most)) for i in range(n)]
    back = [max(b, *(-min(grad[i], o[1] + grad[i + 1]) for o in options[i]), -most) for i, b in enumerate(back)]
    forward = rows(n, costs)
    lead = [draw(st.integers(0, c)) for c in forward] if draw(st.booleans()) else None
    return Chain.of(forward, rows(n, costs), act, saved, input_cost=lead, forward_temp=rows(n), backward_temp=back,
                    options=options, gradient_bytes=grad)  # fmt: skip


def random_chain(n, rng, most=60, partly=False):
    """A chain like a CNN's: sizes fall, what is saved is one and a half to five times the output."""
    act = (most * 0.5 ** (np.arange(n + 1) * 6 // (n + 1)) * rng.uniform(0.5, 1.5, n + 1)).astype(int)
    saved = (act[1:] * rng.uniform(1.5, 5, n)).astype(int)
    cost = rng.integers(1, 9, n)
    options = [[(0.5, int(a + s) // 2, 3)] for a, s in zip(act[1:], saved, strict=True)] if partly else None
    return Chain.of(cost, 2 * cost, act, saved, forward_temp=rng.integers(0, 5, n), options=options)


class Memory:
    """What is in memory, by name; every run is checked, and counted with what it reads, writes and needs beside."""

    def __init__(self, chain):
        self.chain = chain
        self.held = {("x", 0): int(chain.activation_bytes[0])}
        self.peak = sum(self.held.values())
        self.cost = 0.0
        self.live = []
        self.goes_back = False  # whether backward ran last: a part that is run again begins

    def count(self, temp):
        self.live.append(sum(self.held.values()) + int(temp))
        self.peak = max(self.peak, self.live[-1])

    def run(self, kind, stage, option):
        c, held = self.chain, self.held
        o = int(c.option_ptr[stage]) + option
        assert ("x", stage) in held or any(key[:2] == ("saved", stage - 1) for key in held), "no input"
        if kind != "backward" and self.goes_back:
            self.cost -= c.input_cost[stage]
        self.goes_back = kind == "backward"
        if kind in ("run", "advance"):
            assert ("x", stage + 1) not in held
            held["x", stage + 1] = int(c.activation_bytes[stage + 1])
            self.count(c.forward_temp[stage])
            self.cost += c.forward_cost[stage]
            if kind == "advance":
                del held["x", stage]  # a KeyError if somebody else needs it
        elif kind == "save":
            held["saved", stage, option] = int(c.option_saved[o])
            self.count(c.forward_temp[stage])
            self.cost += c.forward_cost[stage] + c.option_cost[o]
        else:
            if stage == c.n - 1:
                held["gradient", c.n] = int(c.gradient_bytes[c.n])
            held["gradient", stage] = int(c.gradient_bytes[stage])
            self.count(c.option_temp[o])
            self.cost += c.backward_cost[stage]
            del held["gradient", stage + 1], held["saved", stage, option]
            held.pop(("x", stage), None)


def run(plan):
    """Run a plan on the machine; return peak, cost beside a plain step, and the bytes at each run."""
    memory = Memory(plan.chain)
    for kind, stage, option in plan.runs:
        memory.run(kind, stage, option)
    assert set(memory.held) == {("gradient", 0)}
    return memory.peak, memory.cost - plan.chain.step_cost, memory.live


def check(frontier):
    """Every plan is what the frontier says; bytes rise, cost falls."""
    assert (np.diff(frontier.peak_bytes) > 0).all()
    assert (np.diff(frontier.overhead) < 0).all()
    for plan in map(frontier.__getitem__, range(len(frontier))):
        peak, cost, live = run(plan)
        assert peak == plan.peak_bytes
        assert cost == pytest.approx(plan.overhead, abs=1e-9)
        assert plan.timeline.tolist() == live
        assert max(live) == peak


def points(frontier):
    return [*zip(frontier.peak_bytes.tolist(), frontier.overhead.round(9).tolist(), strict=True)]


def never_above(one, other):
    """At every budget the plans of `one` cost no more than those of `other`."""
    for peak, cost in points(other):
        assert one.plan(peak).overhead <= cost + 1e-6


def persistent_optimum(chain, budget):
    """Return the least extra cost of any run within a budget that keeps what it has stored until its backward run.

    Exhaustive: any stage may run at any time from an input that is there. Only an output that was just made and not
    used yet may be dropped, by running the next stage. None if nothing fits.
    """
    n, act, grad = chain.n, chain.activation_bytes.tolist(), chain.gradient_bytes.tolist()
    temp, ptr, lead = chain.forward_temp.tolist(), chain.option_ptr.tolist(), chain.input_cost.tolist()
    saved, back = chain.option_saved.tolist(), chain.option_temp.tolist()
    # inputs (0 absent, 1 not used yet, 2 used), options saved or -1, stages that are not through backward, and whether
    # what makes the input of a stage has run for what there is of it
    start = ((2, *[0] * n), (-1,) * n, n, (0,) * (n + 1))
    best = {start: 0.0}
    heap = [(0.0, 0, start)]
    ticket = itertools.count(1)
    while heap:
        cost, _, state = heapq.heappop(heap)
        inputs, kept, left, made = state
        if cost > best[state]:
            continue
        if left == 0:
            return cost - chain.forward_cost.sum()
        held = sum(a for a, i in zip(act, inputs, strict=True) if i)
        held += sum(saved[ptr[k] + o] for k, o in enumerate(kept) if o >= 0)
        held += grad[left] if left < n else 0
        moves = []
        for k in range(left):
            if not inputs[k] and (k == 0 or kept[k - 1] < 0):
                continue
            used = (*inputs[:k], 2 if inputs[k] else 0, *inputs[k + 1 :])
            spent = cost + chain.forward_cost[k] - (lead[k] if made[k] else 0)
            there = (*made[:k], 1, 0 if not inputs[k + 1] else made[k + 1], *made[k + 2 :])
            if k + 1 < left and not inputs[k + 1] and kept[k] < 0 and held + act[k + 1] + temp[k] <= budget:
                moves.append((spent, ((*used[: k + 1], 1, *used[k + 2 :]), kept, left, there)))
                if inputs[k] == 1:
                    gone = (*inputs[:k], 0, 1, *inputs[k + 2 :])
                    moves.append((spent, (gone, kept, left, there)))
            if kept[k] >= 0:
                continue
            for o in range(ptr[k + 1] - ptr[k]):
                if held + saved[ptr[k] + o] + temp[k] <= budget:
                    extra = chain.option_cost[ptr[k] + o]
                    moves.append((spent + extra, (used, (*kept[:k], o, *kept[k + 1 :]), left, there)))
        k = left - 1
        if kept[k] >= 0 and (inputs[k] or k == 0 or kept[k - 1] >= 0):
            now = held + (grad[n] if left == n else 0) + grad[k] + back[ptr[k] + kept[k]]
            if now <= budget:
                moves.append((cost, ((*inputs[:k], 0, *inputs[k + 1 :]), (*kept[:k], -1, *kept[k + 1 :]), k, made)))
        for value, new in moves:
            if value < best.get(new, math.inf):
                best[new] = value
                heapq.heappush(heap, (value, next(ticket), new))
    return None


def one_level_optima(chain):
    """Return (peak, cost) of every way to keep stages by an option, or to drop and redo runs of them keeping all."""
    found = []

    def nodes_of(at):
        if at == chain.n:
            yield [], []
            return
        for o in range(chain.option_ptr[at + 1] - chain.option_ptr[at]):
            for spine, behind in nodes_of(at + 1):
                yield [-1 - o, *spine], behind
        for end in range(at + 1, chain.n):
            for spine, behind in nodes_of(end):
                yield [end, *spine], [*behind, *[-1] * (end - at)]

    for spine, behind in nodes_of(0):
        plan = module.ChainPlan(chain, module._narrow(np.array(spine + behind)), 0, 0.0, 0, 0)
        peak, cost, _ = run(plan)
        found.append((peak, cost))
    return found


@settings(max_examples=60)
@given(chain=chains())
def test_plans_run_as_they_say_and_no_rule_beats_them(chain):
    one, deep = chain_frontier(chain), chain_frontier(chain, nested=True)
    for frontier in (one, deep):
        check(frontier)
        assert frontier.overhead[-1] == 0.0
        assert frontier.plan(chain.keep_all_bytes).overhead == 0.0
    never_above(deep, one)
    for method in BASELINES:
        rule = chain_baseline(chain, method)
        check(rule)
        never_above(deep, rule)
        if method != "revolve":
            never_above(one, rule)


@settings(max_examples=40)
@given(chain=chains(max_stages=4))
def test_one_level_is_the_best_of_all_one_level_plans(chain):
    found = one_level_optima(chain)
    for frontier in (chain_frontier(chain), chain_frontier(chain, slots=None)):
        assert frontier.minimum_bytes == min(found)[0]
        for peak, cost in found:
            assert frontier.plan(peak).overhead <= cost + 1e-9


def by_table(chain, **options):
    """Return the nested frontier from the table of slots, which short chains do without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW", 0)
        return chain_frontier(chain, nested=True, **options)


@settings(max_examples=40)
@given(chain=chains(max_stages=4, most=3))
def test_nested_is_the_optimum_of_exhaustive_search(chain):
    frontier = chain_frontier(chain, nested=True)
    assert points(by_table(chain)) == points(frontier)
    assert persistent_optimum(chain, frontier.minimum_bytes - 1) is None
    budgets = {*frontier.peak_bytes.tolist(), *(frontier.peak_bytes[1:] - 1).tolist()}
    for budget in sorted(budgets):
        assert frontier.plan(budget).overhead == pytest.approx(persistent_optimum(chain, budget))


@pytest.mark.parametrize("seed", range(4))
def test_nested_is_the_optimum_of_longer_chains_too(seed):
    rng = np.random.default_rng(seed)
    n = 6 if seed else 5
    act = rng.integers(1, 5, n + 1)
    cost = rng.integers(1, 6, n)
    chain = Chain.of(
        cost, rng.integers(1, 6, n), act, act[1:] + rng.integers(0, 6, n), input_cost=cost * (seed % 3) // 2
    )
    frontier = chain_frontier(chain, nested=True)
    assert points(by_table(chain)) == points(frontier)
    assert len(frontier) > 3
    assert persistent_optimum(chain, frontier.minimum_bytes - 1) is None
    for peak, cost in points(frontier):
        assert persistent_optimum(chain, peak) == pytest.approx(cost)


def alone(chain, pool):
    """Return the frontier of one search, without what others find."""
    return module._pareto(chain, "alone", module._steps(chain), [pool], 0)


@settings(max_examples=30)
@given(chain=chains(max_stages=9))
def test_each_search_is_exact_without_the_others(chain):
    steps = module._steps(chain)
    expected = points(alone(chain, module._nested(steps, None)))
    assert points(alone(chain, module._by_table(steps, 10_000))) == expected
    slots = alone(chain, module._one_level(steps, 10_000))
    assert points(slots) == points(alone(chain, module._one_level(steps, None)))
    assert points(alone(chain, module._least(steps)))[0][0] == slots.minimum_bytes


@pytest.mark.parametrize("seed", range(3))
def test_the_table_is_exact_where_memory_is_short(seed):
    rng = np.random.default_rng(seed)
    act = rng.integers(1, 6, 13)
    chain = Chain.of(rng.integers(1, 6, 12), rng.integers(1, 6, 12), act, act[1:] + rng.integers(0, 9, 12),
                     forward_temp=rng.integers(0, 4, 12), backward_temp=rng.integers(0, 4, 12))  # fmt: skip
    steps = module._steps(chain)
    expected = points(alone(chain, module._nested(steps, None)))
    assert points(alone(chain, module._by_table(steps, 10_000))) == expected


@settings(max_examples=60)
@given(chain=chains(max_stages=8, most=9), slots=st.integers(1, 40))
def test_no_plan_of_the_table_passes_the_budget_it_was_asked_for(chain, slots):
    steps, write, asked = module._steps(chain), module.kernels.nested_plans, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module.kernels, "nested_plans", lambda budget, *rest: (asked.append(budget), write(budget, *rest))
        )
        pool = module._by_table(steps, slots)
    peaks, _ = module._measure(steps, *pool)
    assert (peaks <= asked[0] + chain.activation_bytes[0]).all()
    for nodes in np.split(pool[1][: pool[0][-1]], pool[0][1:-1]):
        assert (nodes != 0).all()
        assert (nodes < 0).sum() == chain.n


def test_recomputing_twice_pays_where_memory_is_short():
    chain = Chain.of(np.ones(12), np.ones(12), np.full(13, 4), np.full(12, 8))
    one, deep = chain_frontier(chain), chain_frontier(chain, nested=True)
    assert deep.minimum_bytes < one.minimum_bytes
    assert deep[0].nested
    assert not one[0].nested
    assert not any(one[i].nested for i in range(len(one)))


@pytest.mark.parametrize("nested", [False, True])
def test_few_slots_cost_a_little_and_never_pass_the_budget(nested):
    chain = random_chain(14, np.random.default_rng(1))
    exact = chain_frontier(chain, slots=None, nested=nested)
    check(exact)
    for slots in (1, 7, 40):
        rough = by_table(chain, slots=slots) if nested else chain_frontier(chain, slots=slots)
        check(rough)
        never_above(exact, rough)
        assert rough.minimum_bytes == exact.minimum_bytes
        assert rough.overhead[-1] == 0.0
        for method in BASELINES[: 4 if nested else 3]:
            never_above(rough, chain_baseline(chain, method))


def test_more_budget_never_costs_more_and_too_little_names_what_is_enough():
    chain = random_chain(12, np.random.default_rng(2))
    for nested in (False, True):
        frontier = chain_frontier(chain, nested=nested, slots=30)
        last = math.inf
        for budget in range(frontier.minimum_bytes, frontier.keep_all_bytes + 30, 29):
            plan = plan_chain(chain, budget=budget, nested=nested, slots=30)
            assert plan.peak_bytes <= budget
            assert plan.overhead <= last
            last = plan.overhead
        least = frontier.minimum_bytes
        with pytest.raises(BudgetError, match=f"{least} bytes at least .*; the budget is {least - 1}") as caught:
            frontier.plan(least - 1)
        assert caught.value.minimum_bytes == least


def test_rows_grow_where_all_plans_are_kept(monkeypatch):
    chain = random_chain(10, np.random.default_rng(3), most=4000, partly=True)
    expected = points(chain_frontier(chain, slots=None))
    deep = points(chain_frontier(chain, slots=None, nested=True))
    monkeypatch.setattr(module, "_PLANS", 2)
    for width, room in ((1, 1), (1, 999), (2, 999), (3, 999), (5, 3), (999, 1)):
        monkeypatch.setattr(module, "_WIDTH", width)
        monkeypatch.setattr(module, "_ROOM", room)
        assert points(chain_frontier(chain, slots=None)) == expected
        assert points(chain_frontier(chain, slots=None, nested=True)) == deep
    monkeypatch.setattr(module, "_MOST_POINTS", 100)
    with pytest.raises(RematError, match="the plans of 10 stages pass 100 points with slots=None"):
        chain_frontier(chain, slots=None, nested=True)
    monkeypatch.setattr(module, "_FEW_POINTS", 100)
    check(chain_frontier(chain, nested=True))  # by the table then
    monkeypatch.setattr(module, "_MOST_POINTS", 20)
    with pytest.raises(RematError, match="the plans of 10 stages pass 20 points with slots=None"):
        chain_frontier(chain, slots=None)
    monkeypatch.setattr(module, "_MOST_CELLS", 50)
    with pytest.raises(RematError, match="the nested table of 10 stages has [0-9,]+ cells; allowed: 50"):
        chain_frontier(chain, nested=True)


@settings(max_examples=20)
@given(chain=chains(max_stages=8), slots=st.integers(1, 12))
def test_the_table_of_few_slots_keeps_to_its_budgets(chain, slots):
    rough, exact = by_table(chain, slots=slots), chain_frontier(chain, nested=True)
    check(rough)
    never_above(exact, rough)
    assert rough.minimum_bytes == exact.minimum_bytes


@settings(max_examples=30)
@given(chain=chains(max_stages=9), stages=st.integers(2, 5), nested=st.booleans())
def test_a_chain_cut_into_runs_of_stages_has_plans_too(chain, stages, nested):
    cut = chain_frontier(chain, max_stages=stages, nested=nested)
    check(cut)
    assert cut.overhead[-1] == 0.0
    if not nested:
        assert cut.minimum_bytes == chain_frontier(chain).minimum_bytes
    never_above(chain_frontier(chain, nested=nested), cut)
    for method in BASELINES[: 4 if nested else 3]:
        never_above(cut, chain_baseline(chain, method))


@settings(max_examples=30)
@given(chain=chains(max_stages=9).filter(lambda c: c.n > 3), stages=st.integers(2, 3))
def test_a_plan_of_coarse_stages_takes_what_the_stages_do(chain, stages):
    steps = module._steps(chain)
    coarse = module._coarsen(steps, stages)
    n = len(coarse.steps.cost)
    rng = np.random.default_rng(chain.n)
    options = np.diff(coarse.steps.opt_ptr)
    # Every option, kept; the last stage, and what a segment does again, keep everything.
    rows = [[*(-1 - int(o) for o in rng.integers(0, options[:-1])), -1] for _ in range(6)]
    rows += [[j, *(-1 - int(o) for o in rng.integers(0, options[j:-1])), -1, *[-1] * j] for j in range(1, n)]
    pool = np.cumsum([0, *map(len, rows)]), np.concatenate(rows).astype(np.int32)
    fine = module._unfold(coarse, chain, *pool)
    for one, other in zip(module._measure(coarse.steps, *pool), module._measure(steps, *fine), strict=True):
        assert one.tolist() == pytest.approx(other.tolist())
    last = [[-1] * (n - 1) + [-1 - o] for o in range(options[-1])]
    pool = np.cumsum([0, *map(len, last)]), np.concatenate(last).astype(np.int32)
    fine = module._unfold(coarse, chain, *pool)
    for one, other in zip(module._measure(coarse.steps, *pool), module._measure(steps, *fine), strict=True):
        assert (one >= other - 1e-9).all()


def test_a_coarse_stage_may_drop_a_part_of_itself():
    chain = random_chain(40, np.random.default_rng(4))
    steps = module._steps(chain)
    coarse = module._coarsen(steps, 6)
    assert len(coarse.start) <= 7
    inner = coarse.part[coarse.part[:, 1] > coarse.part[:, 0]]
    assert len(inner) > 6
    # The cuts are at the smallest outputs of their window.
    assert all(chain.activation_bytes[c] <= chain.activation_bytes[1:9].min() for c in coarse.start[1:2])
    exact, cut = chain_frontier(chain, slots=None), chain_frontier(chain, max_stages=6)
    check(cut)
    never_above(exact, cut)


def test_revolve_takes_the_least_runs_of_alike_stages():
    n = 24

    @__import__("functools").cache
    def runs(length, free):
        if length == 1:
            return 0
        if free == 0:
            return length * (length - 1) // 2
        return min(j + runs(length - j, free - 1) + runs(j, free) for j in range(1, length))

    for length in range(1, n):
        chain = Chain.of(np.ones(length), np.ones(length), np.ones(length + 1, int), np.ones(length, int))
        steps = module._steps(chain)
        pool = module._baseline(chain, "revolve")
        _, over = module._measure(steps, *pool)
        assert over.tolist() == [runs(length, free) for free in range(length)]


@pytest.mark.parametrize("nested", [False, True])
def test_what_makes_the_input_of_a_part_is_not_run_again(nested):
    # stages that hold nothing but their output: to do without one of them costs one run, not two
    chain = Chain.of(np.ones(6), np.ones(6), np.full(7, 4), np.full(6, 4), input_cost=np.ones(6))
    frontier = chain_frontier(chain, nested=nested)
    check(frontier)
    assert frontier.plan(frontier.keep_all_bytes - 4).overhead == 1.0
    assert frontier.plan(frontier.keep_all_bytes - 8).overhead == 2.0
    long = random_chain(40, np.random.default_rng(3))
    columns = {"forward_temp": long.forward_temp, "ids": long.ids}
    args = (long.forward_cost, long.backward_cost, long.activation_bytes, long.option_saved)
    half = Chain.of(*args, input_cost=long.forward_cost / 2, **columns)
    for stages in (None, 9):
        plain, less = (chain_frontier(c, nested=nested, max_stages=stages) for c in (long, half))
        check(less)
        never_above(less, plain)
        assert less[0].overhead < plain[0].overhead


def test_known_rules_on_stages_alike():
    chain = Chain.of(np.ones(16), np.ones(16), np.full(17, 1), np.full(16, 3))
    assert chain_baseline(chain, "chen_sqrt")[0].segments == ((0, 4), (4, 8), (8, 12))
    even = chain_baseline(chain, "checkpoint_sequential")
    assert even.overhead.max() <= 15
    assert {plan.segments for plan in map(even.__getitem__, range(len(even)))} >= {((0, 4), (4, 8), (8, 12)), ()}
    assert chain_baseline(chain, "chen_greedy").minimum_bytes >= chain_frontier(chain).minimum_bytes
    long = Chain.of(np.ones(600), np.ones(600), np.full(601, 1), np.full(600, 3))
    few = module._counts(600, 1)
    assert few[:48] == list(range(1, 49))
    assert few[-1] == 600
    assert len(few) < 90
    assert len(module._baseline(long, "revolve")[0]) < 90


@pytest.mark.parametrize("nested", [False, True])
def test_degenerate_chains(nested):
    one = chain_frontier(Chain.of([3], [4], [5, 2], [7]), nested=nested)
    assert points(one) == [(5 + 7 + 2 + 5, 0.0)]
    nothing = chain_frontier(Chain.of([0, 0], [0, 0], [0, 0, 0], [0, 0]), nested=nested)
    assert points(nothing) == [(0, 0.0)]
    assert nothing[0].ratio == 0.0
    assert nothing.knee == 0
    free = chain_frontier(Chain.of([0, 0], [0, 0], [4, 4, 4], [9, 9]), nested=nested)
    assert [cost for _, cost in points(free)] == [0.0]
    huge = 2**58
    big = chain_frontier(Chain.of([1, 2, 3], [1, 1, 1], [huge] * 4, [huge + 1] * 3), nested=nested)
    check(big)
    assert big.overhead[-1] == 0.0


def test_plans_tell_what_they_do():
    chain = Chain.of([1] * 4, [2] * 4, [8] * 5, [16] * 4, options=[[], [(1, 8, 0)], [], []], ids="abcd", name="four")
    frontier = chain_frontier(chain)
    plan = frontier.plan(70)
    assert plan.to_dict()["peak_bytes"] == plan.peak_bytes <= 70
    assert plan.to_dict()["segments"] == [list(s) for s in plan.segments]
    assert len(plan.options) == chain.n == len(chain)
    assert "run again: " in str(plan)
    assert repr(frontier).startswith("<ChainFrontier 'four', one-level: ")
    assert repr(chain) == f"<Chain 'four': 4 stages, {chain.keep_all_bytes} B with everything kept>"
    assert repr(frontier[-1]) == f"<ChainPlan 'four': {chain.keep_all_bytes} B, 0.00% overhead>"
    assert 0 <= frontier.knee < len(frontier)
    assert frontier[-1].overhead == 0.0
    assert frontier[-1].runs[0] == ("save", 0, 0)
    with pytest.raises(IndexError, match="plan 99 of"):
        frontier[99]
    copy = pickle.loads(pickle.dumps(plan))
    assert copy.timeline.tolist() == plan.timeline.tolist()


GOOD = {"forward_cost": [1, 2], "backward_cost": [1, 2], "activation_bytes": [4, 4, 4], "saved_bytes": [8, 8]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forward_cost": []}, "a chain has no stages"),
        ({"forward_cost": [[1]]}, "forward_cost is 2-dimensional of int64; allowed: a list of numbers"),
        ({"forward_cost": [1, -2]}, "stage b has forward cost -2.0; allowed: a number of 0 or more"),
        ({"backward_cost": [1, math.inf]}, "stage b has backward cost inf"),
        ({"backward_cost": [1]}, "backward_cost has 1 entries; allowed: 2"),
        ({"input_cost": [1]}, "input_cost has 1 entries; allowed: 2"),
        ({"input_cost": [0, -1]}, "stage b has input cost -1.0; allowed: a number of 0 or more"),
        ({"input_cost": [0, 2.5]}, "stage b has input cost 2.5; allowed: up to its forward cost, 2"),
        ({"forward_cost": [1e308, 1e308]}, "the costs add up to inf; allowed: less than 1e.30"),
        ({"activation_bytes": [4, 4]}, "activation_bytes has 2 entries; allowed: 3"),
        (
            {"activation_bytes": [4, 4.5, 4]},
            "activation_bytes is 1-dimensional of float64; allowed: a list of integers",
        ),
        ({"activation_bytes": [4, -4, 4]}, "stage b has input bytes -4"),
        ({"activation_bytes": [4, 4, -4]}, "stage behind the last has input bytes -4"),
        ({"gradient_bytes": [-1, 4, 4]}, "stage a has gradient bytes of the input -1"),
        ({"saved_bytes": [8, 3]}, "stage b saves 3 bytes; allowed: 4 or more"),
        ({"saved_bytes": np.array([8, 2**63], np.uint64)}, "saved_bytes has 9223372036854775808; allowed: below 2"),
        ({"saved_bytes": [8, 2**62]}, r"2 stages have 4.61e\+18 bytes; allowed: less than 2"),
        ({"forward_temp": -1}, "stage a has forward temporary bytes -1"),
        ({"backward_temp": [0, -5]}, "stage b has backward temporary bytes -5; allowed: -4 or more"),
        ({"options": [[]]}, "options has 1 entries and the chain 2 stages"),
        ({"options": [[], [(1, 4)]]}, r"stage b has the options \[\(1, 4\)\]; allowed: up to 7"),
        ({"options": [[(1, 4, 0)] * 8, []]}, "stage a has the options"),
        ({"options": [[], [(-1, 4, 0)]]}, "stage b has the cost of an option -1.0"),
        ({"options": [[], [(1, 3, 0)]]}, "stage b saves 3 bytes"),
        ({"ids": ["a"]}, "ids has 1 entries and the chain 2 stages"),
    ],
)
def test_what_is_wrong_with_a_chain_is_named(change, words):
    with pytest.raises(RematError, match=words):
        Chain.of(**{**GOOD, "ids": ["a", "b"], **change})


def test_what_is_wrong_with_a_question_is_named():
    chain = Chain.of(**GOOD)
    for slots in (0, True, 2.5):
        with pytest.raises(RematError, match="slots is .*; allowed: a positive integer"):
            chain_frontier(chain, slots=slots)
    with pytest.raises(RematError, match="max_stages is 1; allowed: an integer of 2 or more, or None"):
        chain_frontier(chain, max_stages=1)
    with pytest.raises(RematError, match="unknown method 'chen'; allowed: checkpoint_sequential"):
        chain_baseline(chain, "chen")
