"""Search under budgets against listing every member: random limits, uniform draws, and what is kept between calls."""

import functools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import slot_spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive.errors import SpaceError
from cnnlive.nas import Gene, Limit, Slot, Space, labels, search
from cnnlive.nas.search import Search

SPACES = {
    "small": slot_spaces.small(2),
    "chain": slot_spaces.chain(blocks=2),
    "cells": slot_spaces.cells(),
    "cells, one gene": slot_spaces.cells(shared=True),
    "cells, both read": slot_spaces.cells(slot_spaces.pair, slot_spaces.head_of_both),
}
BUDGETS = ("params", "macs", "peak", "total", "weights", "saved", "training")
OPTIMIZERS = ("sgd", "adam", "adagrad", "rprop_list")
INFERENCE = ({}, {"profile": "torch"}, {"dtype": "float16", "batch": 2})
TRAINING = ({}, {"train_batch": 3, "device": "cpu"}, {"train_batch": 2, "precision": "autocast"})


@functools.cache
def everything(name):
    return np.concatenate(list(SPACES[name].members()))


@st.composite
def limits(draw):
    """A space and a limit with budgets at quantiles of its members' metrics."""
    name = draw(st.sampled_from(sorted(SPACES)))
    space, X = SPACES[name], everything(name)
    budgets = draw(st.lists(st.sampled_from(BUDGETS), min_size=1, max_size=4, unique=True))
    rules = {}
    if set(budgets) - {"params", "macs", "saved", "training"}:
        rules |= draw(st.sampled_from(INFERENCE))
    if set(budgets) & {"saved", "training"}:
        rules |= draw(st.sampled_from(TRAINING))
    names = draw(st.lists(st.sampled_from(OPTIMIZERS[:3]), min_size=1, max_size=2, unique=True))
    huge = {b: dict.fromkeys(names, 1 << 60) if b == "training" else 1 << 60 for b in budgets}
    wide = Limit(space, **huge, **rules)
    at = {label: draw(st.sampled_from((0.1, 0.3, 0.5, 0.8, 0.95))) for label in wide.names}
    values = {k: space.answer(X, wide.metrics[k], wide.setting_of(k)) for k in wide.names}
    found = {k: max(1, int(np.quantile(v, at[k]))) for k, v in values.items()}
    tight = {}
    for b in budgets:
        label = search_label(wide, b)
        tight[b] = {n: found[f"training_peak:{n}"] if f"training_peak:{n}" in found else found["training_peak"]
                    for n in names} if b == "training" else found[label]  # fmt: skip
    return name, Limit(space, **tight, **rules)


def search_label(limit, keyword):
    full = {"peak": "inference_peak", "total": "inference_total", "weights": "weight_bytes"}
    return full.get(keyword, keyword)


@settings(max_examples=60)
@given(case=limits())
def test_counts_draws_and_the_best_equal_listing_every_member(case):
    name, limit = case
    space, X = SPACES[name], everything(name)
    fits = limit.mask(X)
    found = Search(space, limit)
    assert found.count() == fits.sum()
    if not fits.any():
        with pytest.raises(SpaceError, match="no member"):
            found.sample(1, np.random.default_rng(0))
        assert found.best("params").status == "infeasible"
        return
    drawn = found.sample(50, np.random.default_rng(0))
    assert limit.mask(drawn).all()
    assert (space.canonical(drawn) == drawn).all()
    best = found.best("params")
    assert (best.status, best.score) == ("optimal", space.evaluate(X[fits], "params")["params"].max())


@pytest.mark.parametrize(("few", "beam", "stairs"), [(1, 2, 2), (1, 2, 8), (40, 1, 3)])
def test_the_best_is_found_where_a_first_look_leaves_labels_out(few, beam, stairs, monkeypatch):
    monkeypatch.setattr(search, "_FEW_SCORED", few)
    monkeypatch.setattr(search, "_BEAM", beam)
    monkeypatch.setattr(search, "_STAIRS", stairs)
    rng = np.random.default_rng(0)
    for name in ("small", "cells", "cells, both read"):
        space, X = SPACES[name], everything(name)
        table = {g.name: rng.integers(0, 50, g.cardinality).tolist() for g in space.genes}
        halves = {name: [v / 2 for v in row] for name, row in table.items()}
        for budgets in ({"macs": 100_000}, {"training": "60KiB"}, {"params": 900, "peak": "16KiB", "macs": 400_000}):
            limit = Limit(space, **budgets)
            fits = X[limit.mask(X)]
            for metric in ("macs", "params"):
                best = Search(space, limit).best(metric)
                if len(fits):
                    top = space.evaluate(fits, metric)[metric].max()
                    assert (best.status, best.score, best.bound) == ("optimal", top, top)
                    assert limit.ok(best.x)
                else:
                    assert best.status == "infeasible"
            if len(fits):
                one, other = (Search(space, limit).best(scores) for scores in (table, halves))
                assert (one.status, other.status, one.score) == ("optimal", "optimal", 2 * other.score)


def test_what_is_not_proven_says_so_and_is_bounded(monkeypatch):
    monkeypatch.setattr(search, "_FEW_SCORED", 1)
    monkeypatch.setattr(search, "_BEAM", 3)
    space = wide()
    limit = Limit(space, params=700)
    table = {f"w{i}": [5 * w + (7 * i * w) % 11 for w in range(9)] for i in range(9)}
    monkeypatch.setattr(search, "_MOST_SCORED", 1 << 20)
    proven = Search(space, limit).best(table)
    assert (proven.status, proven.score) == ("optimal", proven.bound)
    monkeypatch.setattr(search, "_MOST_SCORED", 1)
    monkeypatch.setattr(search, "_STAIRS", 9)
    rough = Search(space, limit).best(table)
    assert rough.status == "feasible"
    assert rough.score <= proven.score <= rough.bound
    assert rough.score < rough.bound
    assert limit.ok(rough.x)
    # the budget itself is a bound on parameters
    full = Search(space, limit).best("params")
    assert full.score <= full.bound <= 700


@pytest.mark.parametrize(
    ("name", "budgets"),
    [
        ("small", {"macs": 120_000}),
        ("cells", {"peak": "24KiB", "params": 2000}),
        ("cells, one gene", {"training": "100KiB", "saved": "50KiB"}),
        ("small", {"training": {"sgd": "55KiB", "adagrad": "60KiB"}, "params": 800, "peak": "20KiB"}),
    ],
    ids=str,
)
def test_members_are_drawn_uniformly(name, budgets):
    space = SPACES[name]
    limit = Limit(space, **budgets)
    fits = everything(name)[limit.mask(everything(name))]
    assert 10 < len(fits) < len(everything(name))
    each = 100
    drawn, counts = np.unique(space.sample(each * len(fits), limit, rng=11), axis=0, return_counts=True)
    assert drawn.tolist() == fits.tolist()
    chi = ((counts - each) ** 2 / each).sum()
    assert abs(chi - (len(fits) - 1)) < 5 * np.sqrt(2 * len(fits))


def _width(g, x, width):
    return g.conv2d(x, width, 1, bias=False)


def wide(n=9, widths=tuple(range(3, 12))):
    """A space with many different sums: 9**9 members."""
    genes = [Gene(f"w{i}", widths) for i in range(n)]
    slots = [Slot(f"c{i}", _width, {"width": f"w{i}"}) for i in range(n)]
    return Space("wide", genes, [Slot("stem", functools.partial(slot_spaces.stem, res=4)), *slots])


def convolved(space, budget):
    """Return how many members have no more parameters than the budget, width by width."""
    widths = space.genes[0].values
    fixed = 3 * 8 * 9 + 16
    now = {(8, fixed): 1}
    for _ in space.genes:
        after = {}
        for (before, total), n in now.items():
            for width in widths:
                key = (width, total + before * width)
                after[key] = after.get(key, 0) + n
        now = after
    return sum(n for (_, total), n in now.items() if total <= budget)


@pytest.mark.parametrize("budget", [500, 700, 738, 950])
def test_counts_of_larger_spaces_equal_adding_up_sums(budget, monkeypatch):
    monkeypatch.setattr(labels, "_STEPS", 1 << 7)
    monkeypatch.setattr(labels, "_STRIDE", 1 << 3)
    space = wide()
    limit = Limit(space, params=budget)
    assert space.count(limit) == convolved(space, budget)
    drawn = space.sample(20_000, limit, rng=0)
    assert limit.mask(drawn).all()
    assert len(np.unique(drawn, axis=0)) > 19_000


def test_draws_do_not_depend_on_when_they_are_made():
    space = SPACES["small"]
    limit = Limit(space, peak="20KiB")
    found = Search(space, limit)
    first = found.sample(20, np.random.default_rng(4))
    assert (found.sample(20, np.random.default_rng(4)) == first).all()
    assert (Search(space, limit).sample(20, np.random.default_rng(4)) == first).all()
    # neither first ones nor last ones are like one another: they come in no order
    many = found.sample(2000, np.random.default_rng(5))
    assert abs(many[:1000].mean(axis=0) - many[1000:].mean(axis=0)).max() < 0.2


def test_threads_draw_from_one_search():
    space = SPACES["small"]
    found = Search(space, Limit(space, peak="20KiB", params=800))
    expected = [found.sample(300, np.random.default_rng(k)).tolist() for k in range(16)]
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda k: found.sample(300, np.random.default_rng(k)).tolist(), range(16)))
    assert drawn == expected


def test_large_labels_are_kept_by_the_last_search_only(monkeypatch):
    monkeypatch.setattr(search, "_SMALL_BYTES", 0)
    space = SPACES["small"]
    one, other = (Search(space, Limit(space, params=n)) for n in (1000, 2000))
    counts = one.count(), other.count()
    assert one._met is None
    assert other._met is not None
    assert one.sample(5, np.random.default_rng(0)).shape == (5, space.n_genes)
    assert other._met is None
    assert (one.count(), other.count()) == counts


def test_progress_is_shown_on_a_terminal_after_a_while(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    clock = iter(range(1000))
    monkeypatch.setattr(labels.time, "monotonic", lambda: next(clock))
    with labels.Progress("counting", 3) as bar:
        bar.at(1)
        bar.at(2.5)
    assert "counting" in capsys.readouterr().err


def test_a_fast_pass_shows_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(labels.time, "monotonic", lambda: 0.0)
    with labels.Progress("counting", 3) as bar:
        bar.at(1)
    assert capsys.readouterr().err == ""


def test_kernels_return_between_chunks(monkeypatch):
    """So that the keyboard interrupts a pass."""
    calls = []
    fill = labels.kernels.fill

    def counted(*given):
        if len(calls) > 50:
            raise KeyboardInterrupt
        calls.append(time.monotonic())
        return fill(*given)

    monkeypatch.setattr(labels, "_CHUNK", 100)
    monkeypatch.setattr(labels.kernels, "fill", counted)
    space = wide()
    with pytest.raises(KeyboardInterrupt):
        space.count(Limit(space, params=700))
    monkeypatch.undo()
    assert space.count(Limit(space, params=700)) == convolved(space, 700)
