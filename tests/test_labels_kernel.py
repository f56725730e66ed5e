"""The kernels of labels, and the problems that they are given, against following every path."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive._types import column
from cnnlive.nas import labels
from cnnlive.nas.fragment import NONE
from cnnlive.nas.labels import Layer, Meeting, Term, TooManyError, reduce
from cnnlive.nas.trellis import Question

MOST = (10**6, 10**9)


@pytest.fixture(scope="module", autouse=True)
def _small_steps():
    """Tables that grow, ranges of a few labels, calls that end early: all that large cases do, on small ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("STEPS", 4), ("STRIDE", 1), ("BLOCK", 3), ("CHUNK", 5), ("LEAF", 2), ("CALL", 2),
                            ("SOME", 7)):  # fmt: skip
            patch.setattr(labels, f"_{name}", value)
        yield


def question_of(tail, n_adds=2):
    """Sums named a0, a1, ... and peaks p0, p1, ... that lie on what `tail` says."""
    return Question(
        (), (), tuple(f"a{k}" for k in range(n_adds)), tuple(f"p{j}" for j in range(len(tail))), column(tail)
    )


def layers_of(steps):
    """Layers of (left, right, numbers) rows."""
    found = []
    for rows in steps:
        left, right = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
        numbers = np.array([r[2] for r in rows], np.int64).reshape(len(rows), -1)
        found.append(Layer(left, right, np.arange(len(rows)), numbers, int(left.max()) + 1, int(right.max()) + 1))
    return found


def paths_of(steps):
    """Every path, as the number of its step in each layer."""
    found = [((), 0)]
    for rows in steps:
        found = [((*path, k), right) for path, at in found for k, (left, right, _) in enumerate(rows) if left == at]
    return [path for path, _ in found]


def amount(question, steps, path, term):
    """Return what a budget bounds, of one path; None: it has no such peak."""
    numbers = [rows[k][2] for rows, k in zip(steps, path, strict=True)]
    total = term.once + sum(f * (row[question.adds.index(a)] // d) for row in numbers for a, f, d in term.adds)
    if not term.peak:
        return total
    j = question.peaks.index(term.peak)
    at, tail = len(question.adds) + 2 * j, int(question.tail[j])
    found = []
    for i, row in enumerate(numbers):
        if row[at] > NONE:
            behind = sum(r[tail] for r in numbers[i + 1 :]) if tail >= 0 else 0
            found.append(sum(r[at + 1] for r in numbers[:i]) + row[at] + behind)
    return total + max(found) if found else None


def fitting(question, steps, terms):
    """Return the paths that keep every budget."""
    kept = []
    for path in paths_of(steps):
        amounts = [(amount(question, steps, path, term), term.budget) for term in terms]
        if all(a is None or a <= b for a, b in amounts):
            kept.append(path)
    return kept


@st.composite
def problems(draw):
    n_adds, tail = 2, draw(st.lists(st.sampled_from([-1, 0, 1]), max_size=2))
    question = question_of(tail, n_adds)
    scale = draw(st.sampled_from([1, 1 << 33]))
    number = st.integers(0, 6).map(lambda v: v * scale)
    own = st.one_of(number, st.just(NONE))
    width = [*[number] * n_adds, *[own, number] * len(tail)]
    steps, before = [], 1
    for i in range(draw(st.integers(2, 4))):
        last = draw(st.integers(1, 3)) if i else draw(st.integers(1, 2))
        ends = (st.integers(0, before - 1), st.integers(0, last - 1))
        rows = draw(st.lists(st.tuples(*ends, st.tuples(*width)), min_size=1, max_size=6))
        # Every node of both sides has a step.
        rows += [(left, 0, rows[0][2]) for left in range(before)] + [(0, right, rows[0][2]) for right in range(last)]
        steps.append(rows)
        before = last
    steps.append([(left, 0, draw(st.tuples(*width))) for left in range(before)])
    names = st.lists(st.tuples(st.sampled_from(question.adds), st.integers(1, 2), st.integers(1, 2)), max_size=2)
    terms = []
    for _ in range(draw(st.integers(0, 4))):
        peak = draw(st.sampled_from(["", *question.peaks]))
        terms.append(Term(tuple(draw(names)), peak, draw(st.integers(0, 40)) * scale, draw(st.integers(0, 3)) * scale))
    return question, steps, terms


@settings(max_examples=80)
@given(problem=problems())
def test_counts_and_draws_equal_following_every_path(problem):
    question, steps, terms = problem
    expected = fitting(question, steps, terms)
    met = Meeting(reduce(question, layers_of(steps), terms), *MOST)
    assert met.total == len(expected)
    drawn = met.draw(40, np.random.default_rng(0))
    if not expected:
        assert drawn is None
    else:
        assert {tuple(row) for row in np.stack(drawn, axis=1).tolist()} <= set(expected)


def spread(n_layers, seed, n_nodes=2, n_steps=3):
    """Layers of steps with two sums and a peak of a lead, all of them different."""
    rng = np.random.default_rng(seed)
    steps, before = [], 1
    for i in range(n_layers):
        after = n_nodes if i < n_layers - 1 else 1
        steps.append([(left, int(rng.integers(after)) if k else k, tuple(rng.integers(0, 50, 4).tolist()))
                      for left in range(before) for k in range(n_steps)])  # fmt: skip
        if after == 2:
            steps[-1].append((0, 1, (1, 2, 3, 4)))
        before = after
    return steps


TERMS = {
    "a sum": [Term((("a0", 1, 1),), "", 120)],
    "two sums": [Term((("a0", 1, 1),), "", 120), Term((("a1", 1, 1),), "", 140)],
    "a peak": [Term((), "p0", 160)],
    "a peak and sums": [
        Term((("a1", 1, 1),), "p0", 260),
        Term((("a0", 1, 1),), "", 130),
        Term((("a1", 2, 1),), "", 300),
    ],
    "nothing": [],
}


@pytest.mark.parametrize("call", [0, 10**9], ids=["label by label", "step by step"])
@pytest.mark.parametrize("name", TERMS)
def test_paths_are_drawn_uniformly(name, call, monkeypatch):
    monkeypatch.setattr(labels, "_CALL", call)
    question, steps, terms = question_of([0]), spread(5, 1), TERMS[name]
    expected = fitting(question, steps, terms)
    met = Meeting(reduce(question, layers_of(steps), terms), *MOST)
    assert met.total == len(expected) > 20
    each = 30
    drawn = np.stack(met.draw(each * len(expected), np.random.default_rng(5)), axis=1)
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert set(map(tuple, found.tolist())) <= set(expected)
    # the sum of squared standard deviations has mean n - 1 and variance 2 (n - 1)
    chi = (((counts - each) ** 2).sum() + (len(expected) - len(counts)) * each**2) / each
    assert abs(chi - len(expected) + 1) < 5 * np.sqrt(2 * len(expected))


@pytest.mark.parametrize("name", TERMS)
def test_middle_sized_problems_equal_following_every_path(name):
    question, steps, terms = question_of([0]), spread(6, 2, n_steps=4), TERMS[name]
    met = Meeting(reduce(question, layers_of(steps), terms), *MOST)
    assert met.total == len(fitting(question, steps, terms))


@pytest.mark.parametrize("n_layers", [4, 5, 6])
@pytest.mark.parametrize("tail", [-1, 0], ids=["alone", "on a sum"])
def test_peaks_whose_lead_differs_and_nothing_else(tail, n_layers):
    """What lies behind a peak is the same for all tails: labels lie on a line, and a step may be impossible."""
    question = question_of([tail])
    rng = np.random.default_rng(n_layers)
    numbers = rng.integers(0, (90, 30), (n_layers, 4, 2)).tolist()
    steps = [*([(0, 0, (0, 0, own, lead)) for own, lead in rows] for rows in numbers), [(0, 0, (5, 0, 0, 0))]]
    for budget in range(40, 200, 16):
        terms = [Term((), "p0", budget)]
        met = Meeting(reduce(question, layers_of(steps), terms), *MOST)
        expected = fitting(question, steps, terms)
        assert met.total == len(expected)
        if expected:
            drawn = np.stack(met.draw(30, np.random.default_rng(0)), axis=1)
            assert {tuple(row) for row in drawn.tolist()} <= set(expected)


@pytest.mark.parametrize("second", [False, True], ids=["one sum", "two sums"])
def test_counts_go_beyond_64_bits(second):
    """Every layer has `k` steps that add 1 and `m` that add nothing."""
    n, k, m, most = 40, 3, 5, 13
    rows = [(0, 0, (1, 1 if i % 2 else 0)) for i in range(k)] + [(0, 0, (0, 0))] * m
    question = question_of([], 2)
    terms = [Term((("a0", 1, 1),), "", most)]
    if second:
        terms.append(Term((("a1", 1, 1),), "", 4))
    met = Meeting(reduce(question, layers_of([rows] * n), terms), *MOST)
    # of the steps that add to the first sum, one of three adds to the second
    expected = sum(
        comb(n, j) * m ** (n - j) * sum(comb(j, i) * 2 ** (j - i) for i in range(min(j, 4 if second else j) + 1))
        for j in range(most + 1)
    )
    assert met.total == expected > 1 << 80
    drawn = np.stack(met.draw(50, np.random.default_rng(0)), axis=1)
    assert ((drawn < k).sum(axis=1) <= most).all()
    assert not second or ((drawn == 1).sum(axis=1) <= 4).all()


def test_steps_that_do_the_same_are_one_arc():
    steps = [[(0, 0, (1, 0)), (0, 0, (1, 7)), (0, 0, (2, 7))]] * 3
    problem = reduce(question_of([]), layers_of(steps), [Term((("a0", 1, 1),), "", 4)])
    assert [len(times) for times in problem.times] == [2, 2, 2]
    assert problem.times[0].tolist() == [2, 1]
    met = Meeting(problem, *MOST)
    assert met.total == 2**3 + 3 * 2**2
    drawn = np.stack(met.draw(4000, np.random.default_rng(1)), axis=1)
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(found) == 20
    assert abs(((counts - 200) ** 2 / 200).sum() - 19) < 5 * np.sqrt(38)


def width_of(tail, steps, terms):
    problem = reduce(question_of(tail), layers_of(steps), terms)
    return problem.width if problem.gain[0].any() or problem.own[0].size else 0


def test_what_need_not_be_told_apart_has_no_column():
    rows = [[(0, 0, (k, 2 * k, 10 + k, k)) for k in range(4)]] * 4
    sum_, double, peak = Term((("a0", 1, 1),), "", 7), Term((("a1", 1, 1),), "", 13), Term((), "p0", 17)
    assert width_of([-1], rows, [sum_]) == 1
    assert width_of([-1], rows, [sum_, double]) == 1  # a multiple
    assert width_of([-1], rows, [sum_, peak]) == 1  # what leads adds up to the same sum
    assert width_of([-1], rows, [Term((("a0", 1, 1),), "", 12)]) == 0  # no path has more
    assert width_of([0], rows, [Term((), "p0", 17)]) == 2
    assert width_of([0], rows, [Term((), "p0", 17), sum_]) == 2


def test_too_many_labels_are_given_up():
    problem = reduce(question_of([0]), layers_of(spread(6, 2)), TERMS["two sums"])
    for most in ((3, 10**9), (10**6, 100)):
        with pytest.raises(TooManyError):
            Meeting(problem, *most)
