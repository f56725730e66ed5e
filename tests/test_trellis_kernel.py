"""The kernels of the trellis against walking its tables step by step."""

import numpy as np
import pytest
import slot_spaces

from cnnlive._kernels.trellis import compose, narrow
from cnnlive._types import column
from cnnlive.errors import SpaceError
from cnnlive.nas import trellis


def numbers_of(compiled, x):
    """Walk the stages of a genotype: forward for the states, backward for the numbers."""
    question, states, raws = compiled.question, [0], []
    for stage in compiled.stages:
        raw = 0
        for gene, card in zip(stage.genes, stage.cards, strict=True):
            raw = raw * card + int(x[gene])
        raws.append(raw)
        states.append(int(stage.next[states[-1], raw]))
    adds = [0] * len(question.adds)
    peaks = [-(2**62)] * len(question.peaks)
    behind = 0
    for k in range(len(compiled.stages) - 1, -1, -1):
        stage = compiled.stages[k]
        row = stage.numbers[states[k], raws[k], behind].tolist()
        behind = int(stage.front[states[k], raws[k], behind])
        assert behind >= 0
        for j, t in enumerate(question.tail.tolist()):
            own, lead = row[len(adds) + 2 * j : len(adds) + 2 * j + 2]
            peaks[j] = max(own + (adds[t] if t >= 0 else 0), lead + peaks[j])
        adds = [a + r for a, r in zip(adds, row, strict=False)]
    return adds + peaks


METRICS = ("params", "macs", "inference_total", "training_peak", "saved")


@pytest.mark.parametrize("space", [slot_spaces.small(2), slot_spaces.cells(shared=True)], ids=["chain", "cells"])
@pytest.mark.parametrize("rows", [0, 1 << 20], ids=["apart", "joined"])
def test_a_walk_reads_what_the_tables_say(space, rows, monkeypatch):
    monkeypatch.setattr(trellis, "_ROWS", rows)
    monkeypatch.setattr(trellis, "_COMBINATIONS", rows)
    monkeypatch.setattr(trellis, "_BLOCK", 4)
    space._trellises.clear()
    compiled = space.compile(METRICS, device="cpu")
    assert (compiled.tables.n_stages == len(space.slots)) == (rows == 0)
    X = space.random(11, rng=0)
    found = compiled.tables.numbers(X.astype(np.int16))
    expected = np.array([numbers_of(compiled, x) for x in X]).T
    assert found.tolist() == expected.tolist()
    one = compiled.walker()
    assert [one(x).tolist() for x in X] == expected.T.tolist()
    for x, numbers in zip(X, expected.T.tolist(), strict=True):
        walk = space.walk(x, METRICS, device="cpu")
        answered = compiled.question.answer(np.array(numbers)[:, None])
        assert walk.metrics == {label: int(v[0]) for label, v in answered.items()}
    space._trellises.clear()


def test_bad_values_stop_a_walk():
    space = slot_spaces.small(2)
    compiled = space.compile()
    X = space.random(9, rng=0)
    for row, gene, value in ((0, 0, 2), (8, 3, -1), (4, 1, 32767), (4, 1, -32768)):
        bad = X.copy()
        bad[row, gene] = value
        assert compiled.tables.numbers(bad.astype(np.int16)) is None
        assert compiled.tables.numbers(bad) is None
        with pytest.raises(SpaceError, match="no option"):
            compiled.walker()(bad[row])


def test_narrow_copies_and_finds_the_first_bad_row():
    wide = column([[0, 1], [2, 0], [1, 9], [-1, 0]])
    x = np.empty((4, 2), np.int16)
    assert narrow(wide, column([3, 10]), x) == 3
    assert x.tolist() == [[0, 1], [2, 0], [1, 9], [0, 0]]
    assert narrow(wide, column([3, 9]), x) == 2
    assert narrow(column(wide[:2]), column([3, 2]), x[:2]) == -1
    assert narrow(wide, column([0, 9]), x) == 0


def test_runs_of_slots_compose():
    # one add, one peak with that add behind on top; the second state from behind of run b is never met from state 0
    a = (column([1, 0]), column([[0, 1], [1, 0]]), column(np.arange(2 * 2 * 3).reshape(2, 2, 3)))
    b = (column([0, 0]), column([[1, -1], [0, 1]]), column(10 * np.arange(2 * 2 * 3).reshape(2, 2, 3)))
    after, front, numbers = np.zeros(2, np.int64), np.zeros((2, 2), np.int64), np.zeros((2, 2, 3), np.int64)
    compose(*a, *b, column([0]), after, front, numbers)
    assert after.tolist() == [0, 0]
    assert front.tolist() == [[0, 1], [0, -1]]
    # state 0: the middle is 1; from behind 0 the state between is 0: a (0, 1, 2) and b (60, 70, 80)
    assert numbers[0, 0].tolist() == [60, max(1 + 60, 2 + 70), 82]
    assert numbers[0, 1].tolist() == [3 + 90, max(4 + 90, 5 + 100), 5 + 110]
    assert numbers[1, 0].tolist() == [9 + 0, max(10 + 0, 11 + 10), 11 + 20]
