"""The kernels behind execution orders, small enough to run uncompiled: graphs in flat arrays, words, limits."""

import itertools
import random
import threading

import numpy as np
import order_graphs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import graphs

from cnnlive import Graph, errors, lower, plan_inference
from cnnlive._kernels import order as kernels
from cnnlive._kernels import order_search as block_kernels
from cnnlive.plan import order_search
from cnnlive.plan.order import minimum_peaks, plan_order, share_codes
from cnnlive.profiles import Profile

COLUMNS = ("graph_ptr", "in_ptr", "in_idx", "nbytes", "share", "held", "scratch")


def flat(*nets):
    """Lay graphs end to end, given as lists of nodes (inputs, bytes, share, held, scratch)."""
    nodes = [node for net in nets for node in net]
    reads = [list(node[0]) for node in nodes]
    wide = [np.array([node[i] for node in nodes], np.int64) for i in (1, 4)]
    narrow = [np.array([node[i] for node in nodes], np.int32) for i in (2, 3)]
    return (
        np.cumsum([0, *map(len, nets)]),
        np.cumsum([0, *map(len, reads)]),
        np.array([x for row in reads for x in row], np.int32),
        wide[0],
        *narrow,
        wide[1],
    )


def of_plan(plan):
    """Return the nodes of a planned net whose ops write one tensor each; None of any other."""
    net, lives = plan.network, plan._lives
    if (np.diff(net.out_ptr) != 1).any():
        return None
    codes = share_codes(net.alias, plan.profile.inplace)
    reads = [net.in_idx[net.in_ptr[k] : net.in_ptr[k + 1]].tolist() for k in range(net.n_ops)]
    return list(zip(reads, *(a.tolist() for a in (plan._nbytes, codes, lives.held, plan._scratch)), strict=True))


def least_peak(net, most=10_000):
    """Return the least peak of a graph of nodes by running every order, from the meaning of the codes.

    None if there are more than `most` orders.
    """
    n = len(net)
    reads, nbytes, share, held, scratch = zip(*net, strict=True)
    seen = list(range(n))  # whose bytes a node looks at, by views alone
    for k in range(n):
        if share[k] == 1:
            seen[k] = seen[reads[k][0]]
    waits = [set(reads[k]) for k in range(n)]
    for k in range(n):
        if share[k] >= 4:
            target = seen[reads[k][0]]
            waits[k] |= {r for r in range(k) if share[r] != 1 and any(seen[x] == target for x in reads[r])}

    def run(order):
        home, peak, done = {}, 0, set()

        def wanted(buffer):
            tensors = [t for t in home if home[t] == buffer]
            unread = [k for k in range(n) if k not in done and any(t in reads[k] for t in tensors)]
            waits_for_itself = held[buffer] & 2 and buffer not in done
            return bool(unread) or any(held[t] & 4 for t in tensors) or waits_for_itself

        alive = {}
        for k in range(n):
            if held[k] & 3:
                home[k] = k
                alive[k] = 0 if held[k] & 1 else nbytes[k]
        for k in order:
            done.add(k)
            if not held[k] & 3:
                home[k] = k
                if share[k] in (1, 4):
                    home[k] = home[reads[k][0]]
                for x in reads[k][: share[k] - 1] if share[k] in (2, 3) else ():
                    root = home[x]
                    of_one_size = nbytes[root] == nbytes[x] == nbytes[k]
                    others = [t for t in home if home[t] == root]
                    used = any(t in reads[j] for t in others for j in range(n) if j not in done)
                    kept = any(held[t] & 4 for t in others) or held[root] & 5
                    if home[k] == k and of_one_size and not used and not kept:
                        home[k] = root
                if home[k] == k:
                    alive[k] = nbytes[k]
            peak = max(peak, sum(alive.values()) + scratch[k])
            for buffer in [b for b in alive if not wanted(b)]:
                del alive[buffer]
        return peak

    def extend(order):
        if len(order) == n:
            yield order
        for k in range(n):
            if k not in order and waits[k] <= set(order):
                yield from extend([*order, k])

    orders = list(itertools.islice(extend([]), most + 1))
    return min((run(order) for order in orders), default=0) if len(orders) <= most else None


@st.composite
def nodes(draw):
    """A small graph of nodes: a network input first, sometimes a stored parameter, few sizes so that many are equal."""
    size = st.sampled_from([1, 2, 2, 5])
    net = [((), draw(size), 0, draw(st.sampled_from([2, 6])), 0)]
    if draw(st.booleans()):
        net.append(((), draw(size), 0, draw(st.sampled_from([1, 2])), 0))
    gone = set()  # overwritten, and so never read again
    while len(net) < draw(st.integers(3, 8)):
        left = [k for k in range(len(net)) if k not in gone]
        reads = [left[draw(st.integers(0, len(left) - 1))] for _ in range(draw(st.integers(1, 3)))]
        share = draw(st.sampled_from([0, 0, 0, 1, 2, 3])) if len(reads) > 1 else draw(st.sampled_from([0, 1, 2]))
        keep = draw(st.sampled_from([0, 0, 0, 4]))
        net.append((tuple(reads), draw(size), share, keep, draw(st.sampled_from([0, 0, 3]))))
    return net


@settings(max_examples=80)
@given(nets=st.lists(nodes(), min_size=1, max_size=2))
def test_the_least_peaks_of_nodes_equal_the_definition(nets):
    expected = [least_peak(net, most=80) for net in nets]
    assume(None not in expected)
    peaks, bounds = minimum_peaks(*flat(*nets))
    assert peaks.tolist() == bounds.tolist() == expected


RULES = st.builds(
    Profile,
    name=st.just("drawn"),
    summary=st.just(""),
    inplace=st.sampled_from(["graph", "dead", "never"]),
    keeps_inputs=st.booleans(),
    pool_indices=st.booleans(),
)


@settings(max_examples=60)
@given(drawn=st.lists(graphs(max_ops=14), min_size=1, max_size=4), rules=RULES)
def test_flat_graphs_have_the_peaks_of_single_ones(drawn, rules):
    """With ops that overwrite what others read, and what those others have to run before."""
    plans = [plan_inference(graph, profile=rules) for graph in drawn]
    kept = [(plan, net) for plan, net in ((p, of_plan(p)) for p in plans) if net is not None]
    assume(kept)
    peaks, bounds = minimum_peaks(*flat(*[net for _, net in kept]))
    orders = [plan_order(plan.network, profile=plan.profile) for plan, _ in kept]
    assert peaks.tolist() == [order.peak_bytes for order in orders]
    assert bounds.tolist() == [order.lower_bound for order in orders]


def test_a_slice_of_a_batch_is_a_slice_of_its_arrays():
    nets = [of_plan(plan_inference(branch(n))) for n in (2, 3, 4)]
    graph_ptr, in_ptr, in_idx, *columns = flat(*nets)
    whole, _ = minimum_peaks(graph_ptr, in_ptr, in_idx, *columns)
    a, b = graph_ptr[1:3]
    cut = [column[a:b] for column in columns]
    part, _ = minimum_peaks(graph_ptr[1:3], in_ptr[a : b + 1], in_idx[in_ptr[a] : in_ptr[b]], *cut)
    assert part.tolist() == whole[1:2].tolist()


def test_no_graphs_and_graphs_without_nodes():
    assert [a.tolist() for a in minimum_peaks(*flat())] == [[], []]
    assert [a.tolist() for a in minimum_peaks(*flat([], []))] == [[0, 0], [0, 0]]
    assert [a.tolist() for a in minimum_peaks(*flat([], [((), 3, 0, 6, 0)], []))] == [[0, 3, 0], [0, 3, 0]]


def branch(n):
    """Return branches that widen and then narrow, opened one and all before any closes."""
    g = Graph("branches")
    x = g.input((1, 1, 4, 4))
    opened = [g.conv2d(x, 8 + k, 1) for k in range(n)]
    closed = [g.max_pool2d(y, 4) for y in opened]
    g.concat(closed)
    return g


def two_chains(length):
    """Return two chains that rise and fall in turns, written one behind the other, and what both end in."""
    g = Graph("chains")
    x = g.input((1, 1, 4, 4))
    ends = []
    for _ in range(2):
        y = x
        for k in range(length):
            y = g.conv2d(y, 3 + (7 * k * k) % 11, 1)
        ends.append(g.conv2d(y, 20, 1))
    y = g.add(*ends)
    g.output(y)
    return g


@pytest.mark.parametrize("length", [70, 140])
def test_chains_longer_than_a_word_and_than_two(length):
    """Behind the first chain, which reaches over more than two words, an op is ready from the beginning."""
    graph = two_chains(length)
    plan = plan_order(graph, max_states=5000)
    run = plan_inference(graph, order=plan.order.tolist())
    assert run.activation_peak_bytes == plan.peak_bytes
    assert plan.lower_bound <= plan.peak_bytes <= plan.program_peak_bytes
    assert plan.optimal


def test_a_ready_op_beyond_two_words_leaves_the_proof_open():
    plan = plan_inference(branch(125))
    (peak,), (bound,) = minimum_peaks(*flat(of_plan(plan)), max_states=50)
    assert bound < peak <= plan.activation_peak_bytes


@pytest.mark.parametrize("states", [1, 2, 3, 10, 40])
def test_few_states_leave_bound_and_peak_apart(states):
    net = of_plan(plan_inference(branch(6)))
    least, proof = minimum_peaks(*flat(net))
    assert least == proof
    peaks, bounds = minimum_peaks(*flat(net), max_states=states)
    assert bounds[0] <= least[0] <= peaks[0]


def test_a_part_whose_ops_all_run_at_once_needs_no_choice():
    """One op behind it takes more than it does, so the level is high when the search begins."""
    for length in (1, 70):
        net = [((), 90, 0, 2, 0), ((), 10, 0, 2, 0), ((0,), 90, 0, 0, 0)]
        net += [((k,), 90, 0, 0, 0) for k in range(2, length + 1)]
        n = len(net)
        net += [((1,), 1, 0, 0, 0), ((n - 1, n), 1, 0, 0, 0), ((n + 1,), 184, 0, 4, 0)]
        assert minimum_peaks(*flat(net))[0].tolist() == [185]
        assert length > 1 or least_peak(net) == 185


def test_an_op_that_takes_over_may_wait_for_its_scratch():
    opened, closed = ((0,), 20, 0, 0, 0), ((1,), 1, 0, 0, 0)
    net = [X, opened, opened, closed, ((2,), 1, 0, 0, 0), ((3,), 1, 2, 0, 30), ((4, 5), 1, 0, 4, 0)]
    peaks, bounds = minimum_peaks(*flat(net))
    assert peaks.tolist() == bounds.tolist() == [least_peak(net)]


def test_what_is_left_undecided_is_halved():
    """Out of states at a low level, a search from 28 bytes on is complete, and finds nothing."""
    net = [((), 9, 0, 2, 0), ((0,), 5, 0, 0, 0), ((1,), 2, 0, 4, 0), ((0,), 9, 0, 0, 0), ((0,), 9, 0, 4, 0),
           ((4, 3), 2, 0, 4, 0)]  # fmt: skip
    (peak,), (bound,) = minimum_peaks(*flat(net), max_states=8)
    assert bound <= least_peak(net) <= peak
    assert minimum_peaks(*flat(net))[0].tolist() == [least_peak(net)]


def test_states_grow_as_the_search_asks_for_more(monkeypatch):
    net = lower(branch(6))
    whole = plan_order(net)
    monkeypatch.setattr("cnnlive.plan.order_search._FIRST_ROOM", 1)
    grown = plan_order(net)
    assert grown.order.tolist() == whole.order.tolist()
    assert grown.n_states == whole.n_states > 100


@pytest.mark.parametrize("without", [(), ("_rules_of_thumb",), ("_rules_of_thumb", "_beam")])
def test_blocks_have_the_least_peak_of_all_sets(monkeypatch, without):
    for name in without:
        monkeypatch.setattr(order_search.BlockSearch, name, lambda self, *_: None)
    for seed in range(60):
        graph = order_graphs.drawn(random.Random(seed), 11, seed % 2 == 0)
        sets, found = order_graphs.Sets(graph), graph.best()
        assert found.peak == found.bound == sets.least() == sets.peak(found.order.tolist()), seed


@pytest.mark.parametrize("states", [1, 4, 30, 1000])
def test_a_search_within_limits(monkeypatch, states):
    monkeypatch.setattr(order_search, "_FIRST_ROOM", 1)
    monkeypatch.setattr(order_search, "_of_thread", threading.local())
    monkeypatch.setattr(order_search.BlockSearch, "_beam", lambda self, *_: None)
    graph = order_graphs.wide(7, random.Random(3))
    whole, sets = graph.best(), order_graphs.Sets(graph)
    found = graph.best(states)
    assert found.bound <= whole.peak == whole.bound <= found.peak == sets.peak(found.order.tolist())


@pytest.mark.parametrize("width", [1, 2, 5])
def test_beams_give_orders(monkeypatch, width):
    monkeypatch.setattr(order_search.BlockSearch, "_rules_of_thumb", lambda self: None)
    monkeypatch.setattr(order_search, "_WIDTHS", (width,))
    graph = order_graphs.wide(6, random.Random(4))
    found = graph.best(2)
    assert found.peak == order_graphs.Sets(graph).peak(found.order.tolist())


def test_sets_of_blocks_move_their_base_and_reach_over_words(monkeypatch):
    """Two long chains whose ops cannot be joined, in sets of one word and of more."""
    graph = order_graphs.Columns()
    x = graph.op([], [9], held=2)[0]
    ends = []
    for shift in range(2):
        y = x
        for k in range(70):
            y = graph.op([y, x], [3 + (7 * k * k + shift) % 11])[0]
        ends.append(y)
    graph.held[graph.op(ends, [40])[0]] = 4
    monkeypatch.setattr(order_search, "_FIRST_ROOM", 1)
    whole = graph.best(4000)
    monkeypatch.setattr(order_search, "_WORDS", 1)
    narrow = graph.best(4000)
    assert narrow.bound <= whole.peak
    assert whole.bound <= narrow.peak == order_graphs.Sets(graph).peak(narrow.order.tolist())


@pytest.mark.parametrize("alone", [False, True])
def test_a_valley_is_the_only_way_on(monkeypatch, alone):
    """Cells whose sums write into an input: branches end as high as they begin, and such an end is a valley."""
    if alone:
        monkeypatch.setattr(order_search.BlockSearch, "_rules_of_thumb", lambda self: None)
        monkeypatch.setattr(order_search.BlockSearch, "_beam", lambda self, *_: None)
    found = order_graphs.cells("amoebanet", 2, (), inplace=True).best()
    assert found.peak == found.bound == 241_472


def search_of(graph):
    """Return the search of a graph, with its blocks as the program has them and the cursor before the first."""
    kept = []

    class Search(order_search.BlockSearch):
        def run(self):
            kept.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnlive.plan.order.BlockSearch", Search)
        graph.best()
    (search,) = kept
    n_ready = block_kernels.start(
        0, search.n_blocks, *search._pre[:2], *[search._a[x] for x in STARTED], *search._cursor
    )
    return search, n_ready


STARTED = ("b_step_ptr", "b_use_ptr", "b_use_idx", "b_user_ptr", "b_user_idx", "n_users")


def test_what_lies_between_two_sets_is_looked_at():
    """Two branches that end with 4 and 5 bytes, of an image of 4 that the sum of both reads too."""
    graph = order_graphs.Columns()
    x = graph.op([], [4], held=2)[0]
    opened = [graph.op([x], [wide]) for wide in (30, 20)]
    ends = [graph.op(y, [end])[0] for y, end in zip(opened, (4, 5), strict=True)]
    graph.held[graph.op([*ends, x], [1])[0]] = 4
    search, n_ready = search_of(graph)
    assert (search.n_blocks, n_ready) == (3, 2)
    far, log = np.array([0, 1, 0, 0, 0, 0, 0]), np.empty(10, np.int64)
    rest = [*search._net, *search._cursor, far, log]
    before = [a.copy() for a in search._cursor]
    for goal, budget, lowest in ((0, 64, True), (8, 64, True), (9, 64, False), (0, 4, False), (0, 5, True)):
        found, ready = block_kernels.is_lowest(2, 4, goal, 3, n_ready, budget, *rest)
        assert (bool(found), ready) == (lowest, 2), (goal, budget)
        assert all((a == b).all() for a, b in zip(search._cursor[:3], before[:3], strict=True))


def test_least_cuts_bound_every_order(monkeypatch):
    found = {}

    def run(self):
        for first, last in self._parts.tolist():
            found["cut"] = max(found.get("cut", 0), self._cut(first, last))
            found["forced"] = max(found.get("forced", 0), self._forced(first, last))

    monkeypatch.setattr(order_search.BlockSearch, "run", run)
    better = 0
    for seed in range(150):
        graph = order_graphs.drawn(random.Random(seed), 11, seed % 2 == 0)
        found.clear()
        graph.best()
        if found:
            assert found["forced"] <= found["cut"] <= order_graphs.Sets(graph).least(), seed
            better += found["forced"] < found["cut"]
    assert better


def test_a_least_cut_runs_what_frees_and_leaves_what_adds():
    """While the branch of 60 narrows to 30, at least the image of 6 is alive, and that of 50 shrunk to 5."""
    graph = order_graphs.Columns()
    x, y = graph.op([], [50], held=2)[0], graph.op([], [6], held=6)[0]
    opened = graph.op([y], [60])[0]
    middle = graph.op([y], [20])[0]
    shut = graph.op([x], [5])[0]
    ends = [graph.op([opened], [30])[0], graph.op([shut], [7])[0], graph.op([middle], [9])[0]]
    graph.held[graph.op(ends, [1])[0]] = 4
    search, _ = search_of(graph)
    (first, last), *_ = search._parts.tolist()
    assert search._cut(first, last) == order_graphs.Sets(graph).least() == 101


def test_blocks_beyond_the_reach_of_a_set_wait(monkeypatch):
    """More inputs that shrink at once than a set of one word has places, and branches in a bad order."""
    graph = order_graphs.Columns()
    xs = [graph.op([], [2], held=2)[0] for _ in range(140)]
    ends = [graph.op([x], [1])[0] for x in xs[:70]]
    opened = [graph.op([xs[0], xs[-1]], [40 + k])[0] for k in range(3)]
    ends += [graph.op([x], [1])[0] for x in [*opened, *xs[70:]]]
    graph.held[graph.op([*ends, xs[-1]], [1])[0]] = 4
    monkeypatch.setattr(order_search.BlockSearch, "_rules_of_thumb", lambda self: None)
    monkeypatch.setattr(order_search.BlockSearch, "_beam", lambda self, *_: None)
    whole = graph.best()
    assert whole.peak == whole.bound == order_graphs.Sets(graph).peak(whole.order.tolist())
    monkeypatch.setattr(order_search, "_WORDS", 1)
    narrow = graph.best()
    assert narrow.peak == narrow.bound == whole.peak
    monkeypatch.setattr(order_search, "_MOST_WORDS", 1)
    narrow = graph.best(300)
    assert narrow.bound <= whole.peak <= narrow.peak


def test_wide_branches_beyond_the_reach_of_a_set_leave_the_proof_open(monkeypatch):
    monkeypatch.setattr(order_search, "_WORDS", 1)
    monkeypatch.setattr(order_search, "_MOST_WORDS", 1)
    monkeypatch.setattr(order_search, "_FIRST_ROOM", 1)
    monkeypatch.setattr(order_search, "_of_thread", threading.local())
    monkeypatch.setattr(order_search.BlockSearch, "_beam", lambda self, *_: None)
    graph = order_graphs.wide(70, random.Random(2))
    found = graph.best(30)
    assert found.bound < found.peak == order_graphs.Sets(graph).peak(found.order.tolist())


def test_stored_parameters_and_ops_that_overwrite_in_one_graph():
    """An overwriter waits for whoever reads those bytes, and what is made of a parameter for its only reader."""
    net = [((), 4, 0, 2, 0), ((), 2, 0, 1, 0), ((1,), 2, 0, 0, 0), ((0,), 4, 0, 0, 0), ((3, 2), 4, 0, 0, 0),
           ((3,), 4, 4, 0, 0), ((5, 4), 1, 0, 4, 0)]  # fmt: skip
    peaks, bounds = minimum_peaks(*flat(net))
    assert peaks.tolist() == bounds.tolist() == [least_peak(net)]


def test_rules_of_thumb_take_over_what_dies():
    g = Graph("dying")
    x = g.input((1, 1, 4, 4))
    tall = [g.relu(g.conv2d(x, 8, 1)) for _ in range(2)]
    flat_ones = [g.max_pool2d(y, 4) for y in tall]
    g.add(*flat_ones)
    plan = plan_order(g, inplace="dead")
    run = plan_inference(g, order=plan.order.tolist(), inplace="dead")
    assert run.activation_peak_bytes == plan.peak_bytes == 4 * (16 + 8 * 16 + 8)
    assert plan.optimal


def test_heaps_give_the_smallest_key_first():
    rng = np.random.default_rng(5)
    for n in (1, 2, 3, 10, 37):
        drawn = rng.integers(0, 20, n).tolist()
        keys, values = np.empty(n, np.int64), np.empty(n, np.int64)
        for i, key in enumerate(drawn):
            kernels.heap_push(i, key, 100 + i, keys, values)
        popped = []
        for left in range(n, 0, -1):
            assert drawn[values[0] - 100] == keys[0]
            popped.append(int(keys[0]))
            kernels.heap_pop(left, keys, values)
        assert popped == sorted(drawn)


def test_sets_hold_124_ops_from_the_first_that_has_not_run():
    base, low, high = 10, 0, 0
    for op in (12, 71, 72, 133):
        assert not kernels.has_run(op, base, low, high)
        base, low, high = kernels.with_op(op, base, low, high)
        assert kernels.has_run(op, base, low, high)
    assert base == 10
    for op in (10, 11):
        base, low, high = kernels.with_op(op, base, low, high)
    assert base == 13
    ran = [op for op in range(140) if kernels.has_run(op, base, low, high)]
    assert ran == [*range(13), 71, 72, 133]


X = ((), 4, 0, 2, 0)


@pytest.mark.parametrize(
    ("net", "match"),
    [
        ([X, ((1,), 4, 0, 0, 0)], r"node 1 of graph 1 reads \[1\]; allowed: nodes 0 to 0"),
        ([X, ((-1,), 4, 0, 0, 0)], r"node 1 of graph 1 reads \[-1\]"),
        ([X, ((0,), -4, 0, 0, 0)], "node 1 of graph 1 has -4 bytes"),
        ([X, ((0,), 4, 0, 0, -1)], "and -1 of scratch"),
        ([X, ((0,), 1 << 61, 0, 0, 0)], "allowed: 0 to"),
        ([X, ((0,), 4, 0, 0, 1 << 61)], "allowed: 0 to"),
        ([X, *[((0,), 1 << 60, 0, 0, 0)] * 2], "node 2 of graph 1 has"),
        ([X, ((0,), 4, 6, 0, 0)], "share 6 and held 0; allowed: 0 to 5 and 0 to 7"),
        ([X, ((0,), 4, -1, 0, 0)], "share -1"),
        ([X, ((0,), 4, 0, 8, 0)], "held 8"),
        ([X, ((0,), 4, 0, -1, 0)], "held -1"),
        ([X, ((0,), 4, 3, 0, 0)], "share 3 and 1 inputs; needed: 2"),
        ([((), 4, 1, 2, 0)], "share 1 and 0 inputs; needed: 1"),
        ([X, ((0,), 4, 0, 2, 0)], r"lives from the first step and reads \[0\]"),
    ],
)
def test_nodes_that_are_not_well_formed(net, match):
    with pytest.raises(errors.GraphError, match=match):
        minimum_peaks(*flat([X, ((0,), 4, 0, 4, 0)], net))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"graph_ptr": np.array([0, 3, 2])}, "graph_ptr does not rise"),
        ({"graph_ptr": np.array([], np.int64)}, "graph_ptr does not rise, or is empty"),
        ({"nbytes": np.array([4])}, "nbytes has 1 entries for 2 nodes"),
        ({"in_ptr": np.array([0, 0, 2])}, "in_ptr has 3 entries for 2 nodes, or does not span the 1 edges"),
        ({"in_ptr": np.array([0, 1])}, "in_ptr has 2 entries"),
        ({"in_ptr": np.array([0, 2, 1])}, "as many as in_ptr says"),
        ({"in_ptr": np.array([0, -1, 1])}, "as many as in_ptr says"),
        ({"share": np.array([0, 0])}, "share is no contiguous array of one dimension and type int32"),
        ({"nbytes": np.array([4.0, 4.0])}, "nbytes is no contiguous array of one dimension and type int64"),
        ({"nbytes": [4, 4]}, "nbytes is no contiguous"),
        ({"nbytes": np.arange(4)[::2]}, "nbytes is no contiguous"),
        ({"nbytes": np.array([[4, 4]])}, "nbytes is no contiguous"),
    ],
)
def test_arrays_that_do_not_fit_each_other(change, match):
    arrays = dict(zip(COLUMNS, flat([X, ((0,), 4, 0, 4, 0)]), strict=True))
    with pytest.raises(errors.GraphError, match=match):
        minimum_peaks(**{**arrays, **change})


@pytest.mark.parametrize("states", [0, -3, 2.5])
def test_states_are_a_positive_integer(states):
    with pytest.raises(errors.OrderError, match="max_states"):
        minimum_peaks(*flat([X]), max_states=states)


def test_arrays_of_the_caller_stay_writable_and_as_they_are():
    arrays = flat(of_plan(plan_inference(branch(3))))
    before = [a.copy() for a in arrays]
    minimum_peaks(*arrays)
    assert all(a.flags.writeable for a in arrays)
    assert all((a == b).all() for a, b in zip(arrays, before, strict=True))


@settings(max_examples=40)
@given(drawn=graphs(max_ops=12), rules=RULES)
def test_graphs_that_ask_for_more_states_are_planned_alone(drawn, rules):
    net = of_plan(plan_inference(drawn, profile=rules))
    assume(net is not None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnlive.plan.order._FIRST_STATES", 1)
        peaks, bounds = minimum_peaks(*flat(net[:1], net, net))
    least = plan_order(drawn, profile=rules).peak_bytes
    assert peaks[1:].tolist() == bounds[1:].tolist() == [least, least]
