"""Problems as chains of blocks: cut vertices by their definition, plans against brute force and against the chain."""

import itertools
import pickle
import random

import numpy as np
import pytest
from test_remat import any_problem, cnn, files, optimum, small_problems, training_problem, zoo_problem

from cnnlive.errors import BudgetError, RematError
from cnnlive.plan import blocks as module
from cnnlive.plan import remat
from cnnlive.plan.blocks import METHODS, blocks_frontier, collapse, plan_blocks, start_states
from cnnlive.plan.chain import chain_frontier
from cnnlive.plan.remat import RematProblem
from cnnlive.verify_remat import check_remat


def chain_problem(rng, n, reads_input=1.0, limit=9):
    """A chain whose backward reads the output of each node, and its input with some chance."""
    nbytes = [rng.randrange(1, limit) for _ in range(n)]
    cost = [rng.randrange(1, limit) for _ in range(n)]
    edges = [(i, i + 1) for i in range(n - 1)]
    for i in reversed(range(n)):
        p = len(nbytes)
        nbytes.append(nbytes[i - 1] if i else 1)
        cost.append(2 * cost[i])
        reads = {i} | ({i - 1} if i and (rng.random() < reads_input or i == n - 1) else set())
        edges += [(j, p) for j in sorted(reads | {p - 1})]
    return RematProblem.of(cost, nbytes, edges, n - 1)


def some_problems(count, nodes=24):
    for seed in range(count):
        rng = random.Random(seed)
        yield any_problem(rng, rng.randrange(1, nodes))
        yield training_problem(rng, rng.randrange(1, nodes // 2))
        yield chain_problem(rng, rng.randrange(2, nodes // 2), 0.7)
    for kind in ("resnet", "inception", "unet"):
        yield cnn(kind, size=16)


# ---------------------------------------------------------------------------------------------- blocks


def droppable(problem):
    """Values of forward nodes that a choice of states can drop while the loss runs."""
    m = remat._model(problem)
    free = set(m.free.tolist())
    gaps = range(len(m.gap_value))
    return {
        int(m.gap_value[g]) for g in gaps if g in free and m.gap_begin[g] <= problem.loss < m.gap_end[g]
    }  # fmt: skip


def forward_readers(problem, value):
    """Forward nodes that read a value, or a view of it, and may run again for what they write."""
    shown = [value]
    for v in shown:
        shown += np.flatnonzero((problem.share == v) & (problem.overwrites == 0)).tolist()
    reads = [problem.in_idx[problem.in_ptr[i] : problem.in_ptr[i + 1]].tolist() for i in range(problem.loss + 1)]
    again = remat._model(problem).may_rerun
    return [i for i, row in enumerate(reads) if set(row) & set(shown) and again[i] and np.diff(problem.out_ptr)[i]]


def test_blocks_part_the_forward_nodes_and_know_what_crosses():
    for problem in some_problems(40):
        blocks = collapse(problem)
        owner = np.repeat(np.arange(problem.n), np.diff(problem.out_ptr))
        assert [i for k in range(blocks.n) for i in blocks.nodes(k)] == list(range(problem.loss + 1))
        assert len(blocks) == blocks.chain.n == blocks.n
        chosen = set(np.flatnonzero(blocks.made >= 0).tolist())
        # of several that one node writes, one at least is a choice
        assert chosen <= droppable(problem)
        assert {int(owner[v]) for v in droppable(problem) - chosen} <= {
            i for i in range(problem.loss + 1) if np.diff(problem.out_ptr)[i] > 1
        }
        last = {v: max([int(owner[v]), *forward_readers(problem, v)]) for v in chosen}
        for k in range(1, blocks.n):
            begin = int(blocks.start[k])
            assert set(blocks.crossing(k)) == {v for v, i in last.items() if owner[v] < begin <= i}
            for v in blocks.crossing(k):
                # nothing to go on from that is overwritten
                over = np.flatnonzero((problem.share == v) & (problem.overwrites == 1) & (owner >= begin))
                assert not (owner[over] <= problem.loss).any()
        assert (np.diff(blocks.end[problem.loss + 1 :]) <= 0).all()


def test_all_later_nodes_reach_earlier_values_only_through_a_cut_vertex():
    found = 0
    for seed in range(60):
        problem = training_problem(random.Random(seed), 12)
        blocks = collapse(problem)
        loss, free = problem.loss, droppable(problem)
        reads = [problem.in_idx[problem.in_ptr[i] : problem.in_ptr[i + 1]].tolist() for i in range(problem.n)]

        def earlier(begin, reads=reads, free=free, loss=loss):
            return {v for row in reads[begin : loss + 1] for v in row if v < begin and v in free}

        through = [earlier(int(begin)) for begin in blocks.start[1:-1]]
        assert {v for row in through if len(row) == 1 for v in row} == set(blocks.cut_vertices)
        # no such place is missing where backward reads the value too
        used = {v for row in reads[loss + 1 :] for v in row}
        begins = blocks.start.tolist()
        for b in range(1, loss + 1):
            if len(earlier(b)) == 1 and earlier(b) <= used:
                assert any(earlier(begin) == earlier(b) for begin in begins if begin <= b)
        found += len(blocks.cut_vertices)
    assert found > 60


def test_a_network_input_that_several_nodes_read_is_no_obstacle_if_it_is_always_there():
    edges = [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (0, 4), (4, 5), (4, 6), (5, 6), (3, 7), (6, 7), (2, 8), (7, 8),
             (1, 9), (8, 9)]  # fmt: skip
    # node 0 may not run again: it is held whatever is chosen, though nodes 2 and 4 read it
    problem = RematProblem.of([1] * 10, [5] * 10, edges, 5, may_rerun=[False, *[True] * 9])
    assert collapse(problem).cut_vertices == (1, 2, 3)
    assert collapse(RematProblem.of([1] * 10, [5] * 10, edges, 5)).cut_vertices == ()


def test_views_in_place_ops_and_outputs_of_one_node_are_seen_through():
    # 0 conv, 1 ReLU in place, 2 a view of it, 3 conv, 4 two outputs, 5 reads both, 6 loss; backward as usual
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0, 5), (4, 1, 5), (5, 6), (6, 7), (7, 8), (5, 8), (8, 9), (3, 9),
             (9, 10), (2, 10), (10, 11), (1, 11), (11, 12)]  # fmt: skip
    nbytes = [[8]] * 4 + [[8, 8]] + [[8]] * 8
    problem = RematProblem.of([1] * 13, nbytes, edges, 6, overwrites={1: 0}, views={2: 1})
    blocks = collapse(problem)
    # not behind 0, which is overwritten; behind 2 the bytes are those of 1; behind 4 there are two values
    assert blocks.cut_vertices == (1, 3, 5)
    assert blocks.start.tolist() == [0, 2, 4, 6, 7]
    for method in METHODS:
        for plan in blocks_frontier(problem, method=method).plans:
            check_remat(plan)


def test_what_a_node_writes_beside_its_main_output_is_kept_or_tried_both_ways():
    # each node of a chain writes an output and something beside, which its backward reads one step after the output
    n = 6
    edges = [(i, 0, i + 1) for i in range(n - 1)]
    for i in reversed(range(n)):
        a = n + 2 * (n - 1 - i)
        edges += [(i, 0, a), (a, 0, a + 1), (i, 1, a + 1), *([(a - 1, 0, a)] if a > n else [])]
        edges += [(i - 1, 0, a)] if i else []
    for beside, works in ((1, 1), (32, 2)):
        nbytes = [[32, beside]] * n + [[4]] * (2 * n)
        problem = RematProblem.of([1] * (3 * n), nbytes, edges, n - 1)
        found = module._works(problem)
        assert len(found) == works
        assert (found[0].blocks.made[1 : 2 * (n - 2) : 2] == -1).all()
        frontier = blocks_frontier(problem)
        for plan in frontier.plans:
            check_remat(plan)
        assert frontier.plans[-2].cost == problem.plain_cost + 1
        # with everything beside kept, costs are those of the chain
        chain = chain_frontier(found[0].chains[0], slots=None)
        for k in range(len(chain)):
            assert found[0].e.reset(found[0].states(module._layout(found[0].blocks.n, chain[k].nodes.tolist())))
            assert found[0].e.cost == problem.plain_cost + chain[k].overhead
            # a node that runs again makes what is beside once more
            assert found[0].e.peak_bytes <= chain[k].peak_bytes + beside


def test_a_node_that_only_reads_parts_no_blocks():
    # node 2 holds the output of node 0 until it has run, as Python does; it writes nothing
    edges = [(0, 1), (0, 2), (1, 3), (3, 4), (3, 5), (4, 5), (1, 6), (5, 6), (0, 7), (6, 7)]
    problem = RematProblem.of([2, 2, 0, 2, 1, 1, 1, 1], [[8], [8], [], [8], [8], [8], [8], [8]], edges, 4, held={0: 2})
    assert collapse(problem).cut_vertices == (0, 1)
    assert collapse(problem).start.tolist() == [0, 1, 2, 4, 5]


def test_a_value_that_a_frame_holds_is_no_choice():
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (2, 4), (4, 5), (1, 5), (5, 6), (0, 6)]
    free = RematProblem.of([1] * 7, [5] * 7, edges, 3)
    assert collapse(free).cut_vertices == (0, 1)
    assert collapse(RematProblem.of([1] * 7, [5] * 7, edges, 3, held={0: 6})).cut_vertices == (1,)


def test_long_blocks_are_cut_where_little_crosses(monkeypatch):
    problem = cnn("unet", size=16)
    monkeypatch.setattr(module, "_LONG", 5)
    blocks = collapse(problem)
    assert max(len(blocks.nodes(k)) for k in range(blocks.n)) <= 6
    assert max(len(blocks.crossing(k)) for k in range(1, blocks.n)) > 1
    # what crosses several blocks is counted once in one chain, and at each of them in the other
    once, each = module._works(problem)[0].chains
    assert (once.activation_bytes <= each.activation_bytes).all()
    assert once.activation_bytes.sum() < each.activation_bytes.sum()
    for plan in blocks_frontier(problem).plans:
        check_remat(plan)


def test_options_drop_more_and_more_of_what_is_inside():
    for kind in ("resnet", "inception", "unet"):
        blocks = collapse(cnn(kind, size=16))
        chain = blocks.chain
        for k in range(blocks.n):
            a, b = chain.option_ptr[k], chain.option_ptr[k + 1]
            inside = (blocks.made == k) & (blocks.dropped > 0)
            assert sorted(set(blocks.dropped[inside].tolist())) == list(range(1, b - a))
            assert (np.diff(chain.option_saved[a:b]) < 0).all()
            assert chain.option_cost[a] == 0
        assert len(chain.option_cost) > blocks.n


# ---------------------------------------------------------------------------------------------- plans


def test_a_chains_plans_cost_and_hold_what_the_chain_says():
    several = 0
    for seed in range(60):
        reads = 1.0 if seed % 2 else 0.6
        problem = chain_problem(random.Random(seed), 9, reads)
        work = module._works(problem)[0]
        frontier = chain_frontier(work.blocks.chain, slots=None)
        for i in range(len(frontier)):
            plan = frontier[i]
            assert work.e.reset(work.states(module._layout(work.blocks.n, plan.nodes.tolist())))
            assert work.e.cost == problem.plain_cost + plan.overhead
            # where backward does not read the input, it is let go before the end of its block
            assert work.e.peak_bytes == plan.peak_bytes or (reads < 1.0 and work.e.peak_bytes < plan.peak_bytes)
        for budget in frontier.peak_bytes.tolist():
            plan, said = plan_blocks(problem, budget), frontier.plan(budget).overhead
            assert plan.cost == problem.plain_cost + said or (reads < 1.0 and plan.cost < problem.plain_cost + said)
        several += len(frontier) > 3
    assert several > 30


def test_what_is_dropped_twice_costs_what_the_nested_chain_says():
    deep = same = 0
    for seed in range(40):
        problem = chain_problem(random.Random(seed), 9)
        work = module._works(problem)[0]
        frontier = chain_frontier(work.blocks.chain, slots=None, nested=True)
        for i in range(len(frontier)):
            layout = module._layout(work.blocks.n, frontier[i].nodes.tolist())
            assert work.e.reset(work.states(layout))
            more = work.e.cost - problem.plain_cost - frontier[i].overhead
            # what is dropped three times is made again in each step that needs it, unless it is the last to be
            assert more == 0 if layout.level.max() <= 2 else more >= 0
            if layout.level.max() == 2:
                deep, same = deep + 1, same + (work.e.peak_bytes == frontier[i].peak_bytes)
    assert deep > 40
    assert same > 0.7 * deep


def test_a_chains_plan_is_the_best_of_all_choices_of_what_to_drop_once():
    for seed in range(12):
        problem = chain_problem(random.Random(seed), 7)
        e = remat._Evaluator(problem)
        points = []
        for choice in itertools.product(range(2), repeat=len(e.model.free)):
            state = e.model.start.copy()
            state[e.model.free] = choice
            assert e.reset(state)
            points.append((e.peak_bytes, e.cost))
        assert blocks_frontier(problem).least_bytes == min(points)[0]
        for budget in sorted({peak for peak, _ in points}):
            assert plan_blocks(problem, budget).cost == min(cost for peak, cost in points if peak <= budget)


def test_what_was_dropped_is_run_again_once_where_backward_first_needs_it():
    # six nodes alike; backward of node i reads the outputs of i - 1 and i
    n = 6
    edges = [(i, i + 1) for i in range(2 * n - 1)] + [(i, 2 * n - 1 - i) for i in range(n - 1)]
    edges += [(i - 1, 2 * n - 1 - i) for i in range(1, n - 1)]
    problem = RematProblem.of([1] * n + [2] * n, [10] * n + [1] * n, edges, n - 1)
    work = module._works(problem)[0]
    assert work.blocks.n == n
    # drop nodes 1 to 3, go on from the output of node 3
    states = work.states(module._layout(n, [-1, 4, -1, -1, -1, -1, -1]))
    assert work.e.reset(states)
    plan = module._answer(problem, module._Plan(work.e.peak_bytes, work.e.cost, states), work.e.peak_bytes, 0, "chain")
    check_remat(plan)
    runs = [i for what, i in plan.schedule if what == "run"]
    # the backward of node 3 is node 8, and the output of node 3 is there
    assert runs == [0, 1, 2, 3, 4, 5, 6, 7, 1, 2, 8, 9, 10, 11]
    # nested: nodes 1 to 3 again, of which 1 and 2 are dropped again
    states = work.states(module._layout(n, [-1, 5, -1, 3, -1, -1, -1, -1]))
    assert work.e.reset(states)
    plan = module._answer(problem, module._Plan(work.e.peak_bytes, work.e.cost, states), work.e.peak_bytes, 0, "nested")
    check_remat(plan)
    assert plan.recomputed["1"] == 2


def test_brute_force_bounds_every_method():
    tried = reached = 0
    for problem, model in small_problems(range(70), 4):
        points = list(optimum(problem, model))
        for method in METHODS:
            for plan in blocks_frontier(problem, points=4, method=method).plans:
                check_remat(plan)
                best = min(cost for peak, cost in points if peak <= plan.budget)
                assert plan.lower_bound <= best <= plan.cost
                assert plan.status == ("optimal" if plan.cost == plan.lower_bound else "feasible")
                tried, reached = tried + 1, reached + (best == plan.cost)
    assert tried > 200
    assert reached > 0.9 * tried


@pytest.mark.parametrize("method", METHODS)
def test_more_budget_never_costs_more_and_all_plans_replay(method):
    for problem in some_problems(12):
        frontier = blocks_frontier(problem, points=6, method=method)
        assert frontier.least_bound <= frontier.least_bytes == frontier.plans[0].budget
        assert frontier.plans[-1].budget == frontier.keep_bytes == problem.peak_bytes
        assert frontier.plans[-1].overhead == 0.0
        for plan in frontier.plans:
            check_remat(plan)
            assert plan.peak_bytes <= plan.budget
            assert plan.effort == method
            again = plan_blocks(problem, plan.budget, method=method)
            assert (again.cost, again.peak_bytes) == (plan.cost, plan.peak_bytes)
            assert (again.states == plan.states).all()
        for tight, loose in itertools.pairwise(frontier.plans):
            assert tight.cost >= loose.cost
        if frontier.least_bytes:
            with pytest.raises(
                BudgetError, match=f"{method} has no plan .*; allowed: {frontier.least_bytes:,} or"
            ) as e:
                plan_blocks(problem, frontier.least_bytes - 1, method=method)
            assert e.value.minimum_bytes == frontier.least_bytes
            with pytest.raises(BudgetError):
                blocks_frontier(problem, budgets=[frontier.least_bytes - 1], method=method)


def test_known_rules_cost_more_than_the_chain_and_nesting_takes_less():
    for kind in ("resnet", "inception"):
        problem = cnn(kind, size=16)
        best = blocks_frontier(problem, points=8)
        budgets = [p.budget for p in best.plans]
        for method in ("checkpoint_sequential", "chen_sqrt", "chen_greedy"):
            rule = {p.budget: p for p in blocks_frontier(problem, budgets=budgets, method=method).plans}
            assert all(p.cost <= rule[p.budget].cost for p in best.plans if p.budget in rule)
            # blocks that are kept whole miss what is cheap inside them
            assert best.plans[-2].cost < rule[best.plans[-2].budget].cost
        deep = blocks_frontier(problem, nested=True)
        low = blocks_frontier(problem, budgets=[problem.peak_bytes * 29 // 100, problem.peak_bytes])
        assert {p.effort for p in low.plans} == {"nested"}
        assert {p.effort for p in (*best.plans, *blocks_frontier(problem, nested=False).plans)} == {"chain"}
        assert deep.least_bytes <= best.least_bytes


def test_a_plan_that_cannot_be_evaluated_is_no_plan_of_a_low_peak(monkeypatch):
    problem = cnn("resnet", size=16)
    keep = module._works(problem)[0].keep
    peak, refused = remat._Evaluator.peak_bytes.fget, []
    monkeypatch.setattr(remat._Evaluator, "go", lambda self, states: bool(refused.append(states)))
    monkeypatch.setattr(remat._Evaluator, "peak_bytes", property(lambda self: 0 if refused else peak(self)))
    assert (start_states(problem, 1) == keep).all()
    assert refused


def test_start_states_are_within_the_budget_where_the_chain_has_a_plan():
    for problem in some_problems(10):
        work = module._works(problem)[0]
        least = {m: blocks_frontier(problem, method=m).least_bytes for m in ("chain", "nested")}
        for budget in {*least.values(), (least["chain"] + work.keep_peak) // 2, work.keep_peak}:
            states = start_states(problem, budget)
            assert not states.flags.writeable
            assert work.e.reset(states)
            if budget >= least["chain"]:
                assert work.e.peak_bytes <= budget
        assert work.e.reset(start_states(problem, 0))
        assert work.e.peak_bytes <= work.keep_peak


def test_measured_chain_like_graphs_are_near_the_best_known():
    # overhead in points above that of a day of integer programming, by budget
    most = {"mobilenet_v2": {6.0: 0.25, 7.0: 0.25, 8.0: 0.15, 9.0: 0.15, 10.0: 0.05}, "vgg16": {10.0: 0.05}}
    for file in files("monet_zoo"):
        problem, best = zoo_problem(file)
        budgets = [int(gb * 2**20) for gb in most.get(problem.name, {})]
        if not budgets:
            continue
        plans = {p.budget: p for p in blocks_frontier(problem, budgets=budgets).plans}
        for gb, points in most[problem.name].items():
            plan = plans[int(gb * 2**20)]
            check_remat(plan)
            assert plan.overhead <= best[gb] / problem.plain_cost - 1 + points / 100, (problem.name, gb)


# ---------------------------------------------------------------------------------------------- results, arguments


def test_blocks_tell_what_they_are():
    problem = cnn("resnet", size=16)
    blocks = collapse(problem)
    assert repr(blocks) == f"<Blocks 'resnet': {blocks.n} blocks of {problem.loss + 1} forward nodes>"
    copy = pickle.loads(pickle.dumps(blocks))
    assert copy.cut_vertices == blocks.cut_vertices
    assert copy.chain.keep_all_bytes == blocks.chain.keep_all_bytes == problem.peak_bytes - problem.fixed_bytes
    assert not copy.start.flags.writeable
    assert blocks.chain.step_cost == problem.plain_cost


@pytest.mark.parametrize("n", [1, 2])
def test_degenerate_problems(n):
    for size in (0, 2**40):
        problem = RematProblem.of([0] * n, [size] * n, [(i, i + 1) for i in range(n - 1)], n - 1)
        assert 1 <= len(collapse(problem)) <= n
        for method in METHODS:
            plan = plan_blocks(problem, problem.peak_bytes, method=method)
            assert (plan.cost, plan.overhead, plan.optimal) == (0, 0.0, True)
            assert len(blocks_frontier(problem, method=method).plans) == 1
        assert (start_states(problem, problem.peak_bytes) == plan.states).all()


def test_arguments_are_checked():
    problem = cnn("resnet", size=16)
    for call, words in (
        (
            lambda: plan_blocks(problem, 10**9, method="best"),
            "method is 'best'; allowed: chain, nested, checkpoint_seq",
        ),
        (lambda: plan_blocks(problem, 1.5), "budget is 1.5; allowed: an integer of 0 or more"),
        (lambda: plan_blocks(problem, 10**9, slots=0), "slots is 0; allowed: an integer of 1 or more"),
        (lambda: blocks_frontier(problem, points=1), "points is 1; allowed: an integer of 2 or more"),
        (lambda: blocks_frontier(problem, budgets=[-1]), "budget is -1"),
        (
            lambda: blocks_frontier(problem, method="chain", nested=True),
            "method is 'chain' and nested True; allowed: one",
        ),
        (lambda: start_states(problem, True), "budget is True"),
    ):
        with pytest.raises(RematError, match=words):
            call()
    with pytest.raises(BudgetError, match="allowed: .* or more; below .* there is no plan by any method"):
        blocks_frontier(problem, budgets=[])
