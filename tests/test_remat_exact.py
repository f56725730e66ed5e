"""Exact rematerialisation: against all states, against all schedules, and on measured graphs."""

import _thread
import importlib.util
import itertools
import random
import signal
import sys
import threading
import time
from dataclasses import fields

import numpy as np
import pytest
from test_remat import files, small_problems, training_problem, zoo_problem

from cnnlive.errors import BudgetError, MissingExtraError, RematError
from cnnlive.plan import remat, remat_exact
from cnnlive.plan.remat import RematPlan, RematProblem, plan_remat
from cnnlive.plan.remat_exact import prove_remat
from cnnlive.verify_remat import check_remat

needs = pytest.mark.skipif(importlib.util.find_spec("ortools") is None, reason="the extra 'exact' is not installed")


# ---------------------------------------------------------------------------------------------- the definition


def cheapest(problem, budget, inner=True):
    """Least cost of all schedules, by trying each choice of nodes that run again and each of what is held after.

    A choice of nodes runs before each step, in program order; what is not held after the step is freed as soon as
    nothing in it reads it any more. Views are folded as the model has them. None where no schedule meets the budget.
    Without `inner`, bytes are counted only while the steps themselves run.
    """
    m = remat._model(problem)
    n = m.n
    in_ptr, idx, out_ptr, takes, nbytes, owner, may, root, scratch, again, until = (
        a.tolist() for a in (m.in_ptr, m.in_idx, m.out_ptr, m.takes, m.nbytes, m.value_node, m.may_rerun, m.root,
                             m.scratch, m.again, m.kept_until)
    )  # fmt: skip
    reads = [set(idx[in_ptr[i] : in_ptr[i + 1]]) for i in range(n)]
    outputs = [[v for v in range(out_ptr[i], out_ptr[i + 1]) if root[v] == v] for i in range(n)]
    outlives = {root[v] for v in range(len(root)) if problem.outlives[v]}
    charge = {(int(m.gap_value[g]), int(m.gap_end[g])): int(m.gap_cost[g]) for g in range(len(m.gap_value))}
    shown = {v for (v, _), cost in charge.items() if cost}
    room = budget - problem.fixed_bytes
    used = [[i for i in range(n) if v in reads[i]] for v in range(len(owner))]

    def fate(v, p):
        """Whether a value has to be held after step p, may be (None), or is of no more use."""
        ends = [x for x in used[v] if x > p]
        if not ends:
            return True if v in outlives else None if any(may[x] for x in used[v]) else False
        return True if not may[owner[v]] or not nbytes[v] or ends[0] <= until[v] else None

    def step(p, nodes, held):
        """Yield what can be held after a step, if it is possible at all."""
        there = set(held)
        for c in nodes:
            if not reads[c] <= there:
                return
            there -= {takes[v] for v in outputs[c]}
            there.update(outputs[c])
        after = {v: fate(v, p) for v in range(len(owner)) if owner[v] <= p and root[v] == v}
        taken = {u for i in range(p + 1) for v in outputs[i] for u in [takes[v]] if u >= 0}
        if any(stay and v not in there and v not in taken for v, stay in after.items()):
            return
        free = [v for v in there if after[v] is None]
        always = frozenset(v for v in there if after[v])
        for k in range(len(free) + 1):
            for some in itertools.combinations(free, k):
                keep = always | frozenset(some)
                if fits(nodes, held, keep):
                    yield keep

    def fits(nodes, held, keep):
        there = set(held)
        last = {v: i for i, c in enumerate(nodes) for v in reads[c]}
        there = {v for v in there if v in keep or v in last}
        for i, c in enumerate(nodes):
            made = sum(nbytes[v] for v in outputs[c] if takes[v] < 0)
            if sum(nbytes[v] for v in there) + made + scratch[c] > room and (inner or i == len(nodes) - 1):
                return False
            there -= {takes[v] for v in outputs[c]}
            there.update(outputs[c])
            there = {v for v in there if v in keep or last.get(v, -1) > i}
        return True

    now = {(frozenset(), frozenset()): 0}  # what is held, and what with views was not held in all of its gap, to cost
    for p in range(n):
        then = {}
        can = [c for c in range(p) if may[c] and outputs[c]]
        for (held, broken), cost in now.items():
            missed = broken | {v for v in shown if owner[v] < p and v not in held}
            spent = cost + int(problem.cost[p]) + sum(charge[v, p] for v in missed if v in reads[p])
            for k in range(len(can) + 1):
                for nodes in itertools.combinations(can, k):
                    total = spent + sum(again[c] for c in nodes)
                    for keep in step(p, [*nodes, p], held):
                        key = keep, missed - reads[p]
                        then[key] = min(total, then.get(key, total))
        now = then
    return min(now.values(), default=None)


def loose(plan, **change):
    """A plan of which less is known, so that the solver has to prove it."""
    known = {f.name: getattr(plan, f.name) for f in fields(plan)}
    return RematPlan(**(known | {"lower_bound": plan.problem.plain_cost, "status": "feasible"} | change))


def every(problem, model):
    """States, peak and cost of every choice of states."""
    e = remat._Evaluator(problem, model)
    for choice in itertools.product(range(5), repeat=len(model.free)):
        state = model.start.copy()
        state[model.free] = choice
        assert e.reset(state)
        yield state, e.peak_bytes, e.cost


def small_plans(seeds, most):
    """The worst plans of problems of which all states are tried, unproven; the least costs; and known bounds."""
    for problem, model in small_problems(seeds, most):
        points = list(every(problem, model))
        peaks = sorted({peak for _, peak, _ in points if peak < problem.peak_bytes})
        for budget in random.Random(0).sample(peaks, min(2, len(peaks))):
            within = [x for x in points if x[1] <= budget]
            state, peak, cost = max(within, key=lambda x: x[2])
            plan = RematPlan(problem, budget, state, peak, cost, problem.plain_cost, "feasible", "none")
            bound = max(*remat._Bounds(problem, model)([budget]), problem.plain_cost)
            yield plan, min(cost for _, _, cost in within), bound


def tangled(rng):
    """A few nodes whose recomputation takes other nodes again: several outputs, in-place ops, scratch, held values."""
    n_forward, n_backward = rng.randrange(3, 6), rng.randrange(2, 4)
    n = n_forward + n_backward
    nbytes, edges, over, gone, values = [], [], {}, set(), []
    for i in range(n):
        live = [v for v in values if v not in gone]
        if i < n_forward:
            reads = set(live[-1:]) | {v for v in live[-3:] if rng.random() < 0.3}
        else:
            reads = {v for v in live if rng.random() < (0.9 if v[0] == i - 1 else 0.35)}
        made = [(i, k) for k in range(2 if rng.random() < 0.2 else 1)]
        nbytes.append([rng.randrange(1, 10) for _ in made])
        mine = sorted(reads)
        if mine and rng.random() < 0.2:
            over[made[0]] = rng.choice(mine)
            gone.add(over[made[0]])
        edges += [(*v, i) for v in mine]
        values += made
    held = {(i, k): c for i, k, c in edges if rng.random() < 0.05}
    outlives = [v for v in values if v not in gone and rng.random() < 0.05]
    return RematProblem.of(
        [rng.randrange(1, 6) for _ in range(n)], nbytes, edges, n_forward - 1, overwrites=over, held=held,
        scratch=[rng.choice([0, 0, 4, 9]) for _ in range(n)], outlives=outlives,
        may_rerun=[rng.random() < 0.95 for _ in range(n)],
    )  # fmt: skip


def tangled_plan(seed):
    """A plan of a tangled problem for some budget; None where everything fits or nothing does."""
    rng = random.Random(seed)
    problem = tangled(rng)
    least, most = remat._Bounds(problem, remat._model(problem)).least_bytes, problem.peak_bytes
    try:
        plan = plan_remat(problem, budget=rng.randrange(least, most)) if least < most else None
    except BudgetError:
        return None
    return plan


# u is large, v small and made of it; v does not fit beside u in the loss, nor u beside what step 4 takes
EARLY = RematProblem.of(
    [10, 1, 1, 1, 1, 1], [10, 1, 1, 1, 1, 1], [(0, 1), (0, 2), (0, 3), (2, 3), (3, 4), (1, 5), (4, 5)], 2,
    scratch=[0, 0, 5, 0, 13, 0], names=["u", "v", "loss", "u'", "tight", "v'"],
)  # fmt: skip


@needs
def test_the_optimum_is_that_of_all_states_and_the_bound_that_of_all_schedules():
    tried = compared = 0
    for plan, best, knapsack in small_plans(range(250), 4):
        found = prove_remat(plan, time_limit=60)
        check_remat(found)
        assert found.cost == best <= plan.cost
        assert knapsack <= found.lower_bound <= best
        assert found.status == ("optimal" if found.lower_bound == best else "feasible")
        assert (found.budget, found.effort, found.problem) == (plan.budget, "exact", plan.problem)
        if plan.problem.n <= 8:
            assert found.lower_bound == cheapest(plan.problem, plan.budget)
            compared += 1
        tried += 1
    assert tried > 30
    assert compared > 10


@needs
def test_the_bound_is_of_schedules_that_compute_before_the_need_and_the_plan_is_one_that_states_express():
    model = remat._model(EARLY)
    least = min(cost for _, peak, cost in every(EARLY, model) if peak <= 16)
    assert (EARLY.plain_cost, cheapest(EARLY, 16), least) == (15, 16, 26)
    found = prove_remat(plan_remat(EARLY, budget=16))
    check_remat(found)
    assert (found.cost, found.lower_bound, found.status) == (26, 16, "feasible")


@needs
@pytest.mark.parametrize("seed", [9, 17, 44, 97, 99, 105, 113, 233, 242, 246, 328])
def test_what_is_alive_while_nodes_run_again_counts(seed):
    plan = tangled_plan(seed)
    least = cheapest(plan.problem, plan.budget)
    found = prove_remat(loose(plan))
    check_remat(found)
    assert plan.lower_bound <= found.lower_bound == least <= found.cost <= plan.cost


@needs
@pytest.mark.parametrize("last", [6, 7])
def test_what_one_node_made_again_is_alive_while_another_runs_for_a_third(last):
    # c is made of a and b; it does not fit beside k in step 5, nor are a, b's scratch and k together small enough
    problem = RematProblem.of(
        [1, 1, 1, 50, 1, 1, 1, 1], [5, 5, 4, 3, 0, 0, 0, 0], [(0, 2), (1, 2), (2, 4), (2, 6), (3, last)], 4,
        scratch=[0, 4, 0, 0, 0, 10, 0, 0],
    )  # fmt: skip
    for budget, more in ((17, 0), (16, 50)):
        found = prove_remat(loose(plan_remat(problem, budget=budget)))
        check_remat(found)
        assert found.cost == found.lower_bound == problem.plain_cost + more == cheapest(problem, budget)


@needs
def test_what_the_second_search_finds_is_what_states_express():
    plans = [(plan, best) for plan, best, _ in small_plans(range(120), 4)]
    plans.append((plan_remat(EARLY, budget=16), 26))
    plans += [(plan, None) for plan in map(tangled_plan, (17, 99, 105, 113, 242, 246, 328))]
    # more nodes, whose plans have gaps in all states
    plans += [(deep(*x), None) for x in ((1, 12, 0.1), (2, 9, 0.1), (4, 12, 0.25), (6, 12, 0.1), (8, 12, 0.1))]
    for plan, best in plans:
        run = remat_exact._Run(loose(plan), time.monotonic() + 60, 60.0, None, 1, 0, None)
        run.search = remat._Search(plan.problem, 0, None)
        e, costs = run.search.e, []

        def offer(states, e=e, costs=costs, budget=plan.budget):
            assert e.go(states)
            assert e.peak_bytes <= budget
            costs.append(e.cost)

        run.offer = offer
        program = remat_exact._Program(plan.problem, e.model, plan.budget, True)
        assert program.solve(run, 60.0) == costs[-1] <= plan.cost
        assert best is None or costs[-1] == best


@needs
def test_the_example_of_the_docstring():
    chain = RematProblem.of(
        cost=[1] * 12, nbytes=[10] * 6 + [1] * 6, loss=5, name="chain",
        edges=[(i, i + 1) for i in range(11)] + [(i, 10 - i) for i in range(5)],
    )  # fmt: skip
    plan = prove_remat(plan_remat(chain, budget=32))
    assert (plan.cost, plan.lower_bound, plan.status) == (15, 15, "optimal")


@needs
def test_a_plan_that_is_known_to_be_optimal_is_given_back(monkeypatch):
    monkeypatch.setattr(remat_exact, "_Program", None)
    problem = training_problem(random.Random(3), 6)
    found = prove_remat(plan_remat(problem, budget=problem.peak_bytes))
    assert (found.cost, found.optimal, found.effort) == (problem.plain_cost, True, "exact")


def deep(seed, n_forward, share):
    """A plan for a graph of twice as many nodes, that share of the way from the least budget there might be."""
    problem = training_problem(random.Random(seed), n_forward, limit=60)
    least = remat._Bounds(problem, remat._model(problem)).least_bytes
    return plan_remat(problem, budget=int(least + share * (problem.peak_bytes - least)))


@needs
@pytest.mark.parametrize(("work", "ends"), [(None, True), (0.05, False)])
def test_equal_arguments_give_equal_plans_also_where_the_work_is_limited(work, ends):
    plan = deep(2, 26, 0.3)
    told = []
    found = prove_remat(plan, time_limit=300, work_limit=work, progress=lambda *now: told.append(now))
    check_remat(found)
    assert plan.lower_bound <= found.lower_bound <= found.cost <= plan.cost
    assert found.optimal == (found.lower_bound == found.cost) == ends
    if ends:
        assert found.cost < plan.cost
    for (cost, bound), (less, more) in itertools.pairwise([(plan.cost, plan.lower_bound), *told]):
        assert less <= cost
        assert more >= bound
        assert (less, more) != (cost, bound)
    assert not told or told[-1] == (found.cost, found.lower_bound)
    again = prove_remat(plan, time_limit=300, work_limit=work)
    assert (again.states == found.states).all()
    assert (again.cost, again.lower_bound) == (found.cost, found.lower_bound)


@needs
def test_more_workers_prove_the_same():
    plan = deep(1, 16, 0.3)
    assert prove_remat(plan, workers=2).cost == prove_remat(plan, seed=5).cost == prove_remat(plan).lower_bound


@needs
def test_time_that_is_up_gives_back_the_plan_with_the_bound_so_far():
    plan = deep(1, 60, 0.2)
    found = prove_remat(plan, time_limit=1e-6)
    assert (found.cost, found.lower_bound, found.status) == (plan.cost, plan.lower_bound, "feasible")
    start = time.monotonic()
    found = prove_remat(plan, time_limit=0.8)
    check_remat(found)
    assert plan.lower_bound <= found.lower_bound < found.cost <= plan.cost
    assert found.status == "feasible"
    assert time.monotonic() - start < 30


@needs
def test_an_interrupt_gives_back_the_best_so_far_and_leaves_no_thread():
    plan, threads = deep(1, 60, 0.2), threading.active_count()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background has it ignored
    timer = threading.Timer(1.0, _thread.interrupt_main)
    timer.start()
    try:
        found = prove_remat(plan, time_limit=60)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    check_remat(found)
    assert plan.lower_bound <= found.lower_bound <= found.cost <= plan.cost
    assert threading.active_count() == threads


@needs
def test_what_progress_raises_ends_the_search():
    plan, threads = plan_remat(EARLY, budget=16), threading.active_count()
    worse = loose(plan)

    def fail(cost, bound):
        raise ZeroDivisionError(f"{cost} {bound}")

    with pytest.raises(ZeroDivisionError, match="26 16"):
        prove_remat(worse, progress=fail)
    assert threading.active_count() == threads


@needs
def test_amounts_too_large_for_the_solver_are_rounded_so_that_the_bound_holds():
    tried = 0
    for small, _ in small_problems(range(1, 60, 2), 4):
        cost, nbytes = ((x * f + np.arange(small.n)).tolist()
                        for x, f in ((small.cost, 2**49 + 1), (small.nbytes, 2**50 + 7)))  # fmt: skip
        edges = [(int(v), i) for i in range(small.n) for v in small.in_idx[small.in_ptr[i] : small.in_ptr[i + 1]]]
        problem = RematProblem.of(cost, nbytes, edges, small.loss)
        points = list(every(problem, remat._model(problem)))
        budget = sorted(p for _, p, _ in points)[len(points) // 4]
        best = min(c for _, p, c in points if p <= budget)
        tried += best > problem.plain_cost
        found = prove_remat(loose(plan_remat(problem, budget=budget)))
        check_remat(found)
        assert found.lower_bound <= best <= found.cost
        assert found.lower_bound >= best - problem.plain_cost // 10**6
    assert tried > 3


@needs
def test_a_graph_too_large_for_all_rows_goes_without_and_one_too_large_is_an_error(monkeypatch):
    monkeypatch.setattr(remat_exact, "_TERMS", 0)
    for plan, best, knapsack in small_plans(range(30), 4):
        found = prove_remat(plan)
        check_remat(found)
        assert knapsack <= found.lower_bound <= best <= found.cost <= plan.cost
    monkeypatch.setattr(remat_exact, "_DECISIONS", 10)
    with pytest.raises(RematError, match="an exact plan of 6 nodes has about 20 decisions; allowed: 10"):
        prove_remat(plan_remat(EARLY, budget=16))


@needs
def test_a_plan_that_is_not_what_it_says_is_refused():
    plan = plan_remat(EARLY, budget=16)
    for change in ({"cost": 25}, {"peak_bytes": 15}, {"budget": 15}, {"states": plan.states[:-1]}):
        with pytest.raises(RematError, match="the plan"):
            prove_remat(loose(plan, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plan": 3}, "plan is int"),
        ({"workers": 0}, "workers is 0"),
        ({"workers": True}, "workers is True"),
        ({"seed": -1}, "seed is -1"),
        ({"time_limit": 0}, "time_limit is 0"),
        ({"time_limit": None}, "time_limit is None"),
        ({"work_limit": -1.0}, "work_limit is -1.0"),
    ],
)
def test_arguments_are_checked(change, words):
    given = {"plan": plan_remat(EARLY, budget=16)} | change
    with pytest.raises(RematError, match=words):
        prove_remat(given.pop("plan"), **given)


def test_without_the_solver_the_error_names_the_extra(monkeypatch):
    remat_exact._cp_model.cache_clear()
    monkeypatch.setitem(sys.modules, "ortools.sat.python.cp_model", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cnnlive\[exact\]'"):
        prove_remat(plan_remat(EARLY, budget=16))


@needs
def test_vgg16_is_proven_as_the_mixed_integer_program_did():
    (file,) = [x for x in files("monet_zoo") if x.name.startswith("vgg16")]
    problem, best = zoo_problem(file)
    for gb in (8.0, 9.0, 10.0):
        found = prove_remat(plan_remat(problem, budget=int(gb * 2**20)), time_limit=300)
        check_remat(found)
        assert found.optimal
        assert found.cost == best[gb]
