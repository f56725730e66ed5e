"""Ragged batches: equal, number for number, to the planners of one graph."""

import concurrent.futures
import itertools
import multiprocessing
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs, graphs_in_frames, training_graphs
from test_nas_palette import PALETTE, joined, nodes

from cnnlive import Graph, lower, plan_inference, plan_training
from cnnlive._kernels.shapes import propagate
from cnnlive.errors import AttributeValueError, DTypeError, GraphError, LoweringError, ShapeError, SpaceError
from cnnlive.nas import _chunks
from cnnlive.nas.base import read_setting
from cnnlive.nas.batch import Batch, evaluate_batch
from cnnlive.nas.palette import FREE, Palette
from cnnlive.plan.order import minimum_peak

METRICS = ("params", "macs", "weight_bytes", "inference_peak", "inference_total")


def planned(graph, **options):
    plan = plan_inference(graph, **options)
    return (plan.network.n_parameters, plan.macs, plan.weight_bytes, plan.activation_peak_bytes, plan.peak_bytes)


def rows(found):
    return list(zip(*(found[name].tolist() for name in found), strict=True))


OPTIONS = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "dtype": st.sampled_from([None, "float16", "int8"]),
        "weight_dtype": st.sampled_from([None, "float64"]),
        "profile": st.sampled_from(["ideal", "torch", "torch_fx"]),
        "inplace": st.sampled_from([None, "graph", "dead", "never"]),
        "fuse": st.sampled_from([None, True]),
    }
)


@given(many=st.lists(graphs() | graphs_in_frames(), min_size=1, max_size=3), options=OPTIONS)
def test_a_batch_gives_what_the_planner_gives_for_each_graph(many, options):
    expected = []
    for g in many:
        try:
            expected.append(planned(g, **options))
        except ShapeError:  # a reshape to literal sizes fits one batch only
            with pytest.raises(ShapeError, match="graph"):
                evaluate_batch(many, metrics=METRICS, threads=1, **options)
            return
    assert rows(evaluate_batch(many, metrics=METRICS, threads=1, **options)) == expected


def columns_of(nets):
    """The columns of lowered graphs end to end, as a user's own encoder would write them."""

    def pointer(name):
        return np.cumsum([0, *np.concatenate([np.diff(getattr(n, name)) for n in nets])])

    def together(name):
        return np.concatenate([getattr(n, name) for n in nets])

    ops = np.cumsum([0, *(n.n_ops for n in nets)])
    statistics = [
        [op + start, *rest] for n, start in zip(nets, ops, strict=False) for op, *rest in n.statistics.tolist()
    ]
    names = ("in_idx", "rule", "attr", "is_output", "kind", "dtype", "macs_rule", "weight_rule", "owner", "alias",
             "fold", "index_bytes")  # fmt: skip
    return {
        "graph_ptr": ops, "statistics": statistics, "until": np.concatenate([n.frames() for n in nets]),
        **{name: pointer(name) for name in ("in_ptr", "out_ptr", "attr_ptr")},
        **{name: together(name) for name in names},
    }  # fmt: skip


@given(many=st.lists(graphs_in_frames(), min_size=1, max_size=3),
       profile=st.sampled_from(["ideal", "torch", "torch_fx"]), inplace=st.sampled_from([None, "dead"]))  # fmt: skip
def test_plain_arrays_give_what_the_graphs_give(many, profile, inplace):
    nets = [lower(g) for g in many]
    batch = Batch.from_arrays(**columns_of(nets))
    options = {"profile": profile, "inplace": inplace}
    expected = [planned(g, **options) for g in nets]
    assert rows(evaluate_batch(batch, metrics=METRICS, threads=1, **options)) == expected


# ------------------------------------------------------------------ nodes of a palette


def end_to_end(many):
    """Graphs of nodes, as test_nas_palette draws them, end to end."""
    start, kind, ptr, idx, until = joined(many)
    return start, kind, ptr, idx, np.concatenate([a[3] for a in many]), until


@given(many=st.lists(nodes(), min_size=1, max_size=3), batch=st.integers(1, 3),
       profile=st.sampled_from(["ideal", "torch", "torch_fx"]), inplace=st.sampled_from([None, "dead", "never"]),
       dtype=st.sampled_from([None, "float16"]))  # fmt: skip
def test_nodes_give_what_the_graphs_of_the_same_ops_give(many, **options):
    nets = [PALETTE.graph(*a) for a in many]
    found = evaluate_batch(Batch.from_nodes(PALETTE, *end_to_end(many)), metrics=METRICS, threads=1, **options)
    assert rows(found) == [planned(g, **options) for g in nets]


@given(many=st.lists(nodes(), min_size=1, max_size=3), batch=st.integers(1, 3),
       precision=st.sampled_from([None, "bfloat16"]), profile=st.sampled_from(["ideal", "torch_fx"]))  # fmt: skip
def test_nodes_are_trained_and_run_in_one_go(many, batch, precision, profile):
    flat = Batch.from_nodes(PALETTE, *end_to_end(many))
    metrics = ("training_peak:sgd", "params", "saved", "inference_peak", "training_peak", "macs")
    nets = [lower(PALETTE.graph(*a)) for a in many]
    try:
        found = evaluate_batch(flat, metrics=metrics, batch=batch, precision=precision, profile=profile, threads=1)
    except (SpaceError, GraphError):  # what training in bulk does not know; test_nas_palette says when
        return
    for net, row in zip(nets, rows(found), strict=True):
        run = plan_inference(net, batch=batch, profile=profile)
        sgd, adam = (plan_training(net, batch=batch, precision=precision, optimizer=o) for o in ("sgd", "adam"))
        assert row == (sgd.peak_bytes, net.n_parameters, sgd.saved_bytes, run.activation_peak_bytes, adam.peak_bytes,
                       run.macs)  # fmt: skip


def nodes_at_the_same_place_in_a_batch():
    start, kind, ptr, idx, until = (np.array(a) for a in ([0, 2], [0, 1], [0, 0, 1], [0], [0, 0]))
    return start, kind, ptr, idx, np.array([[3, 8], [4, 0]]), until


SMALL = Palette()
SMALL.add("input", shape=(1, FREE[0], FREE[1], FREE[1]))
SMALL.add("conv2d", out_channels=FREE[0], kernel_size=3)
SMALL.add("add")
SMALL.add("slice", dim=1, start=0, stop=FREE[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": [0, 7]}, "graph 0, op 1 is of kind 7; allowed: 0 to 3"),
        ({"kind": [0, -1]}, "graph 0, op 1 is of kind -1; allowed: 0 to 3"),
        ({"in_idx": [1]}, r"graph 0, op 1 \(conv2d\) reads \[1\]; allowed: tensors that come before it"),
        ({"in_idx": [-1]}, r"graph 0, op 1 \(conv2d\) reads \[-1\]"),
        ({"in_ptr": [0, 0, 0], "in_idx": []}, r"op 1 \(conv2d\) reads 0 tensors; allowed: 1"),
        ({"kind": [0, 2]}, r"op 1 \(add\) reads 1 tensors; allowed: 2"),
        ({"free": [[3, 8], [-4, 0]]}, r"graph 0, op 1 \(conv2d\) has free values \[-4, 0\]; allowed: \[0, 0\] or more"),
        ({"free": [[0, 8], [4, 0]]}, r"op 0 \(input\) has free values \[0, 8\]; allowed: \[1, 1\] or more"),
        ({"free": None}, "kinds of the palette have free values, and no node gives any"),
        ({"until": [2, 0]}, "graph 0: tensor 0 is held through no op of it"),
        ({"graph_ptr": [0, 2, 2]}, "graph 1 has no ops"),
        ({"graph_ptr": [0, 1]}, "in_ptr has 3 entries for 1 nodes; allowed: 2"),
        ({"graph_ptr": [1, 2]}, "graph_ptr has to begin with 0 and must not fall"),
        ({"in_ptr": [0, 1, 0]}, "in_ptr has to begin with 0 and must not fall"),
        ({"kind": [0]}, r"kind has shape \(1,\); allowed here: \(2,\)"),
        ({"kind": [0.5, 1.0]}, "kind is of type float64; allowed: integers"),
        ({"free": [[3, 2**40], [4, 0]]}, "free holds 1099511627776; allowed: what fits 32 bits"),
    ],
)
def test_wrong_nodes_are_refused_by_graph_and_op(change, message):
    names = ("graph_ptr", "kind", "in_ptr", "in_idx", "free", "until")
    arrays = dict(zip(names, nodes_at_the_same_place_in_a_batch(), strict=True))
    assert len(Batch.from_nodes(SMALL, **arrays)) == 1
    with pytest.raises(LoweringError, match=message):
        Batch.from_nodes(SMALL, **(arrays | change))


def test_an_impossible_shape_names_the_graph_and_the_op():
    batch = Batch.from_nodes(SMALL, [0, 2, 4], [0, 1, 0, 1], [0, 0, 1, 1, 2], [0, 0], [[3, 8], [4, 0], [3, 2], [4, 0]])
    with pytest.raises(ShapeError, match=r"^graph 1: op 1 \(conv2d\) at batch 2: the shapes are impossible$"):
        evaluate_batch(batch, batch=2)
    with pytest.raises(ShapeError, match=r"^graph 1: op 1 \(conv2d\) at batch 1"):
        evaluate_batch(batch[1:])
    assert evaluate_batch(batch[:1])["params"].tolist() == [112]


def test_the_batch_dimension_may_move_and_weights_stay_those_of_the_graph():
    g = Graph()
    x = g.permute(g.input((1, 4, 3, 3)), (1, 0, 2, 3))
    g.output(g.batch_norm2d(x), g.flatten(g.unsqueeze(x, 0), 0, 2))
    plan = plan_inference(g, batch=5)
    assert plan.network.n_parameters == 2  # of the graph as it was built
    assert rows(evaluate_batch([g], metrics=METRICS, batch=5)) == [planned(g, batch=5)]


def test_multiply_accumulates_by_three_conventions():
    g = Graph()
    x = g.relu(g.conv2d(g.input((1, 3, 8, 8)), 4, 3, padding=1))
    x = g.conv2d(x, 4, 1, bias=False)
    g.linear(g.flatten(x), 10)

    def macs(convention, **options):
        return int(evaluate_batch([g], metrics="macs", batch=2, convention=convention, **options)["macs"][0])

    products = 2 * (64 * 4 * 27 + 64 * 4 * 4 + 256 * 10)
    assert macs("macs") == products
    assert macs("flops") == 2 * products
    assert macs("macs+bias") == products + 2 * (64 * 4 + 10)


# ------------------------------------------------------------------ sizes


@st.composite
def sized(draw):
    """Graphs of which only edges and bytes are known."""
    graph_ptr, in_ptr, in_idx, nbytes = [0], [0], [], []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 8))
        for node in range(n):
            in_idx += draw(st.lists(st.integers(0, node - 1), max_size=4)) if node else []
            in_ptr.append(len(in_idx))
            nbytes.append(draw(st.integers(0, 9)))
        graph_ptr.append(len(nbytes))
    return graph_ptr, in_ptr, in_idx, nbytes


def peaks_by_definition(graph_ptr, in_ptr, in_idx, nbytes):
    found = []
    for a, b in itertools.pairwise(graph_ptr):
        reads = [in_idx[in_ptr[n] : in_ptr[n + 1]] for n in range(a, b)]
        last = [max([t, *(s for s, row in enumerate(reads) if t in row)]) for t in range(b - a)]
        last[-1] = b - a - 1
        found.append(max(sum(nbytes[a + t] for t in range(s + 1) if last[t] >= s) for s in range(b - a)))
    return found


@given(arrays=sized())
def test_peaks_of_sizes_follow_the_definition(arrays):
    found = evaluate_batch(Batch.from_sizes(*arrays), metrics="inference_peak", threads=1)
    assert found["inference_peak"].tolist() == peaks_by_definition(*arrays)


def test_sizes_beyond_32_bits():
    batch = Batch.from_sizes([0, 3], [0, 0, 1, 2], [0, 1], [2**60, 2**59, 1])
    assert evaluate_batch(batch, metrics="inference_peak")["inference_peak"].tolist() == [2**60 + 2**59]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([0, 2], [0, 0, 1], [0], [1, -1]), "graph 0, node 1 has -1 bytes"),
        (([0, 1, 3], [0, 0, 0, 1], [0], [1, 2**61, 2**61]), "graph 1 has tensors of 4.61e.18 bytes together"),
        (([0, 2], [0, 0, 1], [1], [1, 1]), r"graph 0, op 1 reads \[1\]"),
        (([0, 2], [0, 0], [], [1, 1]), "in_ptr has 2 entries for 2 nodes; allowed: 3"),
        (
            ([0, 2], [0, 0, 1], [0], np.array([2**64 - 1, 1], np.uint64)),
            "nbytes holds 18446744073709551615; allowed: below 2",
        ),
    ],
)
def test_wrong_sizes_are_refused(arrays, message):
    with pytest.raises(LoweringError, match=message):
        Batch.from_sizes(*arrays)


def test_sizes_tell_the_peak_alone():
    batch = Batch.from_sizes([0, 2], [0, 0, 1], [0], [1, 1])
    with pytest.raises(GraphError, match="does not tell params; allowed: inference_peak"):
        evaluate_batch(batch)
    with pytest.raises(GraphError, match="a batch of sizes has no batch, types or profile"):
        evaluate_batch(batch, metrics="inference_peak", batch=2)


# ------------------------------------------------------------------ other questions


@given(many=st.lists(training_graphs(max_ops=8), min_size=1, max_size=2),
       precision=st.sampled_from([None, "float16", "autocast"]), device=st.sampled_from(["cpu", "cuda"]),
       loss=st.sampled_from(["cross_entropy", "mse"]))  # fmt: skip
def test_training_of_graphs_is_what_the_planner_says(many, precision, device, loss):
    options = {"batch": 2, "precision": precision, "device": device, "loss": loss}
    try:
        plans = [[plan_training(g, optimizer=o, **options) for o in ("adam", "sgd")] for g in many]
    except GraphError:
        with pytest.raises(GraphError, match="graph "):
            evaluate_batch(many, metrics=("saved", "training_peak"), **options)
        return
    found = evaluate_batch(many, metrics=("saved", "training_peak", "training_peak:sgd"), threads=1, **options)
    assert rows(found) == [(adam.saved_bytes, adam.peak_bytes, sgd.peak_bytes) for adam, sgd in plans]


@given(many=st.lists(graphs(max_ops=8), min_size=1, max_size=2), profile=st.sampled_from(["ideal", "torch_fx"]),
       inplace=st.sampled_from([None, "dead"]))  # fmt: skip
def test_least_peaks_of_graphs(many, **options):
    found = evaluate_batch(many, metrics="minimum_peak", threads=1, **options)
    assert found["minimum_peak"].tolist() == [minimum_peak(g, **options) for g in many]


@given(many=st.lists(nodes(max_ops=8), min_size=1, max_size=2), profile=st.sampled_from(["ideal", "torch_fx"]),
       inplace=st.sampled_from([None, "dead", "never"]))  # fmt: skip
def test_least_peaks_of_nodes(many, **options):
    flat = Batch.from_nodes(PALETTE, *end_to_end(many))
    found = evaluate_batch(flat, metrics="minimum_peak", threads=1, batch=2, **options)
    assert found["minimum_peak"].tolist() == [minimum_peak(PALETTE.graph(*a), batch=2, **options) for a in many]


# ------------------------------------------------------------------ batches


def small_nets(n):
    """Nets that differ in their width and depth."""
    nets = []
    for i in range(n):
        g = Graph(f"net{i}")
        x = g.input((1, 3, 8, 8))
        for k in range(1 + i % 3):
            x = g.relu(g.batch_norm2d(g.conv2d(x, 4 + i % 5 + k, 3, padding=1, bias=False)), inplace=True)
        g.linear(g.flatten(g.adaptive_avg_pool2d(x, 1)), 10)
        nets.append(lower(g))
    return nets


def test_a_slice_of_a_batch_is_a_batch_of_views():
    nets = small_nets(7)
    batch = Batch.from_lowered(nets)
    whole = evaluate_batch(batch, metrics=METRICS, profile="torch")
    part = batch[2:5]
    assert (len(batch), len(part), repr(part)) == (7, 3, f"<Batch of 3 graphs, {sum(n.n_ops for n in nets[2:5])} ops>")
    assert np.shares_memory(part.in_idx, batch.in_idx)
    assert rows(evaluate_batch(part, metrics=METRICS, profile="torch")) == rows(whole)[2:5]
    assert rows(evaluate_batch(part[1:], metrics=METRICS, fuse=True)) == [planned(n, fuse=True) for n in nets[3:5]]
    assert len(batch[5:2]) == 0
    for wrong in (3, slice(None, None, 2)):
        with pytest.raises(TypeError, match="a slice of consecutive graphs"):
            batch[wrong]


def test_a_batch_comes_back_from_a_pickle():
    nets = small_nets(3)
    batch = Batch.from_lowered(nets)
    evaluate_batch(batch, profile="torch", fuse=True)
    again = pickle.loads(pickle.dumps(batch[1:]))
    assert rows(evaluate_batch(again, metrics=METRICS, profile="torch", fuse=True)) == [
        planned(n, profile="torch", fuse=True) for n in nets[1:]
    ]


def test_ops_that_are_alike_are_kept_once():
    batch = Batch.from_lowered(small_nets(60))
    assert batch.rules.n_kinds < 60 < batch.n_ops


def test_no_graphs_give_columns_of_no_rows():
    for nothing in ([], Batch.from_graphs([]), Batch.from_nodes(SMALL, [0], [], [0], [], np.zeros((0, 2))),
                    Batch.from_lowered(small_nets(2))[1:1]):  # fmt: skip
        found = evaluate_batch(nothing, metrics=("params", "training_peak:sgd", "minimum_peak"))
        assert {name: (column.shape, column.dtype) for name, column in found.items()} == dict.fromkeys(
            ("params", "training_peak:sgd", "minimum_peak"), ((0,), np.dtype(np.int64))
        )


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # where nothing is compiled
@pytest.mark.parametrize(
    ("graphs_", "options", "error", "message"),
    [
        ([3], {}, GraphError, "number 0 of the list is 3, neither a Graph nor a Lowered"),
        ([*small_nets(1), "vgg16"], {}, GraphError, "number 1 of the list is 'vgg16'"),
        (small_nets(1)[0], {}, GraphError, "is one graph; a batch is made of a list of them"),
        (small_nets(1), {"metrics": "flops"}, AttributeValueError, "unknown metric 'flops'"),
        (small_nets(1), {"metrics": ("macs", "macs")}, AttributeValueError, "metric 'macs' is named twice"),
        (small_nets(1), {"batch": 0}, ShapeError, "batch=0; allowed: an integer >= 1"),
        (small_nets(1), {"dtype": "int3"}, DTypeError, "unknown dtype 'int3'"),
        (small_nets(1), {"threads": 0}, AttributeValueError, "threads=0; allowed: an integer >= 1"),
        (small_nets(1), {"executor": 3}, AttributeValueError, "executor=3; allowed: a concurrent.futures.Executor"),
        (
            small_nets(2),
            {"batch": 2**56},
            ShapeError,
            "graph 0: input .input. at batch .*: the result has 2..62 elements or more",
        ),
    ],
)
def test_wrong_questions_say_what_is_allowed(graphs_, options, error, message):
    with pytest.raises(error, match=message):
        evaluate_batch(graphs_, **options)


def test_an_empty_graph_among_others_is_named():
    with pytest.raises(LoweringError, match="the graph has no ops") as caught:
        evaluate_batch([*small_nets(1), Graph()])
    assert caught.value.__notes__ == ["(number 1 of the list)"]


def test_what_flat_arrays_do_not_know_is_an_error():
    flat = Batch.from_nodes(SMALL, [0, 2], [0, 1], [0, 0, 1], [0], [[3, 8], [4, 0]])
    with pytest.raises(GraphError, match="give until"):
        evaluate_batch(flat, fuse=True, profile="torch")
    with pytest.raises(GraphError, match="give until"):
        evaluate_batch(flat, profile="torch")
    with pytest.raises(GraphError, match="give until"):
        evaluate_batch(flat, metrics="training_peak")
    arrays = Batch.from_arrays(**columns_of(small_nets(1)))
    with pytest.raises(GraphError, match="training needs a batch made of graphs"):
        evaluate_batch(arrays, metrics="training_peak")


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # where nothing is compiled
@pytest.mark.parametrize(
    ("free", "batch", "message"),
    [
        ((2**31 - 1, 2**31 - 1, 8), 1, "graph 1: op 0 .input.: the result has 2..62 elements or more"),
        ((2**20, 2**20, 2**20), 1, "graph 1: op 1 .conv2d. at batch 1: 2..62 multiply-accumulates or more"),
        ((8, 8, 8), 2**56, "graph 1: op 0 .input. at batch .*: the result has 2..62 elements or more"),
    ],
)
def test_counts_beyond_62_bits_name_the_graph(free, batch, message):
    p = Palette()
    p.add("input", shape=(1, FREE[0], FREE[1], FREE[1]))
    p.add("conv2d", out_channels=FREE[0], kernel_size=1)
    channels, side, out = free
    many = Batch.from_nodes(
        p, [0, 2, 4], [0, 1, 0, 1], [0, 0, 1, 1, 2], [0, 0], [[3, 8], [4, 0], [channels, side], [out, 0]]
    )
    with pytest.raises((ShapeError, LoweringError), match=message.replace(": the result", ".*: the result")):
        evaluate_batch(many[1:] if batch > 1 else many, batch=batch)


# ------------------------------------------------------------------ threads, processes


def big_batch(n=400):
    return Batch.from_lowered(small_nets(40) * (n // 40))


@pytest.fixture
def in_small_chunks(monkeypatch):
    """Chunks so small that every thread gets several."""
    for name in ("_INLINE", "_LARGEST", "_REMOTE"):
        monkeypatch.setattr(_chunks, name, 64)


def test_threads_change_nothing(in_small_chunks):
    batch = big_batch()
    one = evaluate_batch(batch, metrics=METRICS, threads=1, profile="torch")
    for threads in (2, 3, None):
        assert rows(evaluate_batch(batch, metrics=METRICS, threads=threads, profile="torch")) == rows(one)


def test_callers_may_share_a_batch():
    batch = big_batch()
    expected = rows(evaluate_batch(batch, metrics=METRICS, threads=1))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = [pool.submit(evaluate_batch, batch, metrics=METRICS, threads=2) for _ in range(8)]
        assert all(rows(f.result()) == expected for f in found)


def test_an_executor_gets_pickled_chunks(in_small_chunks):
    batch = big_batch(80)
    flat = Batch.from_nodes(SMALL, np.arange(0, 201, 2), [0, 1] * 100, np.repeat(np.arange(101), 2)[:201], [0] * 100,
                            [[3, 8], [4, 0]] * 100, [0] * 200)  # fmt: skip
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        for options in ({"metrics": METRICS}, {"metrics": "training_peak"}, {"metrics": METRICS, "profile": "torch"}):
            found = evaluate_batch(batch, executor=pool, **options)
            assert rows(found) == rows(evaluate_batch(batch, threads=1, **options))
        metrics = ("params", "training_peak", "minimum_peak")
        assert rows(evaluate_batch(flat, metrics=metrics, executor=pool)) == rows(evaluate_batch(flat, metrics=metrics))
        with pytest.raises(ShapeError, match="graph 0: op 1 .conv2d. at batch 1: the shapes are impossible"):
            evaluate_batch(Batch.from_nodes(SMALL, [0, 2], [0, 1], [0, 0, 1], [0], [[3, 2], [4, 0]]), executor=pool)


def test_an_interruption_cancels_the_chunks_that_have_not_begun():
    begun, let_go = [], threading.Event()

    def work(begin, end):
        begun.append(begin)
        if begin == 0:
            raise KeyboardInterrupt
        let_go.wait(10)
        return begin

    class Waiting(concurrent.futures.ThreadPoolExecutor):
        def submit(self, *args):
            future = super().submit(*args)
            if len(begun) == 1:
                let_go.set()
            return future

    with Waiting(1) as pool, pytest.raises(KeyboardInterrupt):
        _chunks.run_chunks(100 * _chunks._REMOTE, lambda a, b: (work, (a, b)), executor=pool)
    assert len(begun) < 32


def test_the_first_failing_chunk_is_the_one_that_is_raised(in_small_chunks):
    def work(begin, _end):
        raise ValueError(begin)

    with pytest.raises(ValueError, match="^0$"):
        _chunks.run_chunks(100_000, lambda a, b: (work, (a, b)), threads=2)


@given(weights=st.lists(st.integers(0, 9), min_size=1, max_size=30), pieces=st.integers(1, 40))
def test_chunks_are_contiguous_and_cover_everything(weights, pieces):
    for bounds in (
        _chunks.chunk_bounds(np.cumsum([5, *weights]), pieces), _chunks.chunk_bounds(len(weights), pieces),
    ):  # fmt: skip
        assert bounds[0] == 0
        assert bounds[-1] == len(weights)
        assert bounds == sorted(set(bounds))
        assert len(bounds) <= pieces + 1


def test_chunks_of_nothing():
    assert _chunks.run_chunks(0, lambda a, b: (max, (a, b))) == []
    assert _chunks.chunk_bounds(0, 3) == [0, 0]


def child(batch, queue):
    queue.put(rows(evaluate_batch(batch, metrics=METRICS, threads=2)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_evaluates_after_its_parent_has():
    batch = big_batch()
    expected = rows(evaluate_batch(batch, metrics=METRICS, threads=2))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(batch, queue))
    process.start()
    assert queue.get(timeout=120) == expected
    process.join(timeout=60)
    assert process.exitcode == 0


# ------------------------------------------------------------------ arrays of one op, every rule


def one_op(rule, attr, shapes, n_out=1, **more):
    """Columns of a graph that is one op behind network inputs of some shapes."""
    n = len(shapes)
    rows = [*map(list, shapes), attr]
    weighed = more.pop("weight_rule", (0,) * 6)
    arrays = {
        "graph_ptr": [0, n + 1],
        "in_ptr": [0] * (n + 1) + [n],
        "in_idx": list(range(n)),
        "out_ptr": [*range(n + 1), n + n_out],
        "rule": [0] * n + [rule],
        "attr_ptr": np.cumsum([0, *map(len, rows)]),
        "attr": [v for row in rows for v in row],
        "is_output": [0] * n + [1] * n_out,
        "kind": [1] * n + [0] * n_out,
        "weight_rule": [(0,) * 6] * n + [weighed],
        "macs_rule": [0] * n + [more.pop("macs_rule", 0)],
        "names": ["input"] * n + ["it"],
    }
    return arrays | more


IMAGE = (1, 4, 6, 5)
FITS = {
    "conv1d": (3, [1, 2, 1, 0, 0, 3, 2, 1, 1, 1, 0], [(1, 4, 9)], [(1, 2, 5)]),
    "conv of ceil": (3, [2, 2, 1, 0, 1, 3, 2, 0, 0, 1, 0, 3, 1, 0, 0, 1, 0], [IMAGE], [(1, 2, 3, 5)]),
    "transposed": (3, [1, 2, 2, 1, 0, 3, 2, 1, 1, 1, 1], [(1, 4, 9)], [(1, 2, 18)]),
    "transposed, same": (3, [1, 2, 1, 1, 1, 3, 2, 0, 0, 1, 0], [(1, 4, 9)], [(1, 2, 18)]),
    "pool of ceil": (4, [1, 0, 1, 3, 2, 0, 0, 1], [(1, 4, 6)], [(1, 4, 3)]),
    "pool of ceil, last outside": (4, [1, 0, 1, 1, 2, 1, 1, 1], [(1, 4, 2)], [(1, 4, 2)]),
    "pool of same": (4, [1, 1, 0, 3, 2, 0, 0, 1], [(1, 4, 5)], [(1, 4, 3)]),
    "adaptive with indices": (5, [1, 0], [IMAGE], [(1, 4, 1, 5), (1, 4, 1, 5)]),
    "matmul": (7, [], [(1, 2, 3), (1, 3, 4)], [(1, 2, 4)]),
    "matmul of matrices": (7, [], [(2, 3), (3, 4)], [(2, 4)]),
    "broadcast of ranks": (9, [], [IMAGE, (5,)], [IMAGE]),
    "broadcast moves": (9, [], [IMAGE, (6, 1)], [IMAGE]),
    "reshape": (10, [2, 0, -1], [IMAGE], [(2, 4, 15)]),
    "reshape to literals": (10, [0, 24, 5], [IMAGE], [(1, 24, 5)]),
    "flatten all": (11, [0, 3], [IMAGE], [(120,)]),
    "flatten within": (11, [1, 2], [IMAGE], [(1, 24, 5)]),
    "permute": (12, [1, 0, 3, 2], [IMAGE], [(4, 1, 5, 6)]),
    "reduce": (13, [0, 1, 3], [IMAGE], [(1, 6)]),
    "resize to sizes": (14, [0, 3, 4], [IMAGE], [(1, 4, 3, 4)]),
    "resize by factors": (14, [1, 3, -1, 1, 1], [IMAGE], [(1, 4, 9, 10)]),
    "split in chunks": (15, [1, 3], [IMAGE], [(1, 2, 6, 5), (1, 2, 6, 5)]),
    "split by sizes": (15, [1, 0, 1, 3], [IMAGE], [(1, 1, 6, 5), (1, 3, 6, 5)]),
    "slice": (16, [2, -4, -1, 2], [IMAGE], [(1, 4, 2, 5)]),
    "slice backwards": (16, [2, 5, 0, -2], [IMAGE], [(1, 4, 3, 5)]),
    "pad": (17, [1, 2, 0, -1], [IMAGE], [(1, 4, 5, 8)]),
    "squeeze": (18, [0], [IMAGE], [(4, 6, 5)]),
    "unsqueeze": (19, [0, 2], [(3, 4)], [(1, 3, 1, 4)]),
    "shuffle": (20, [2, 1], [IMAGE], [(1, 1, 12, 10)]),
    "unshuffle": (20, [2, 0], [(1, 4, 6, 4)], [(1, 16, 3, 2)]),
    "expand": (21, [2, 0, 3], [(4, 1)], [(2, 4, 3)]),
    "literals": (1, [2, 1, 3, 5, 1, 0, 7], [IMAGE], [(3, 5), (7,)]),
}


@pytest.mark.parametrize("case", FITS)
def test_every_shape_rule_gives_its_shape(case):
    rule, attr, shapes, expected = FITS[case]
    batch = Batch.from_arrays(**one_op(rule, attr, shapes, len(expected)))
    peak = sum(4 * int(np.prod(s)) for s in (*shapes, *expected))
    as_written = batch._ask(read_setting(), 0, False, None, 1, None)
    assert as_written[:, 3].tolist() == [peak]
    assert columns_of_one(*FITS[case]) == expected


def columns_of_one(rule, attr, shapes, expected):
    """What the shapes' kernel makes of the same columns."""
    a = {k: np.asarray(v, np.int64) for k, v in one_op(rule, attr, shapes, len(expected)).items() if k != "names"}
    n = len(a["kind"])
    rank, numel, dims = np.empty(n, np.int64), np.empty(n, np.int64), np.empty((n, 6), np.int64)
    for array in (columns := [a[k] for k in ("rule", "attr_ptr", "attr", "in_ptr", "in_idx", "out_ptr")]):
        array.setflags(write=False)
    status, _ = propagate(*columns, 0, rank, dims, numel)
    assert status == 0
    return [tuple(dims[t, : rank[t]].tolist()) for t in range(len(shapes), n)]


IMPOSSIBLE = {
    "conv of another rank": (3, [1, 2, 1, 0, 0, 3, 2, 1, 1, 1, 0], [IMAGE]),
    "conv whose window does not fit": (3, [1, 2, 1, 0, 0, 30, 2, 1, 1, 1, 0], [(1, 4, 9)]),
    "image conv whose window does not fit": (3, [2, 2, 1, 0, 0, 9, 1, 0, 0, 1, 0, 3, 1, 0, 0, 1, 0], [IMAGE]),
    "groups that do not divide": (3, [1, 2, 3, 0, 0, 3, 2, 1, 1, 1, 0], [(1, 4, 9)]),
    "image groups that do not divide": (3, [2, 3, 3, 0, 0, 3, 1, 0, 0, 1, 0, 3, 1, 0, 0, 1, 0], [IMAGE]),
    "pool of another rank": (4, [1, 0, 0, 3, 2, 0, 0, 1], [IMAGE]),
    "pool that does not fit": (4, [1, 0, 0, 30, 2, 0, 0, 1], [(1, 4, 9)]),
    "adaptive of another rank": (5, [1], [IMAGE]),
    "broadcast": (9, [], [IMAGE, (1, 3, 6, 5)]),
    "matmul": (7, [], [(1, 2, 3), (1, 4, 4)]),
    "matmul of a vector": (7, [], [(1, 2, 3), (3,)]),
    "concat of another rank": (8, [1], [IMAGE, (1, 4)]),
    "concat of other sizes": (8, [1], [IMAGE, (1, 4, 6, 6)]),
    "concat along no dimension": (8, [4], [IMAGE, IMAGE]),
    "reshape": (10, [0, 7, -1], [IMAGE]),
    "reshape to literals": (10, [0, 7], [IMAGE]),
    "flatten": (11, [1, 4], [IMAGE]),
    "permute": (12, [0, 1], [IMAGE]),
    "resize of another rank": (14, [0, 3], [IMAGE]),
    "resize to nothing": (14, [1, 1, -4, 1, 0], [IMAGE]),
    "split along no dimension": (15, [4, 1], [IMAGE]),
    "split that leaves something": (15, [1, 0, 3], [IMAGE]),
    "split in too many": (15, [1, 9], [(1, 4, 6, 5)]),
    "slice along no dimension": (16, [4, 0, 1, 1], [IMAGE]),
    "slice of nothing": (16, [1, 2, 2, 1], [IMAGE]),
    "pad of more dimensions": (17, [1, 1, 1, 1], [(3,)]),
    "pad to nothing": (17, [-3, -2], [IMAGE]),
    "squeeze": (18, [1], [IMAGE]),
    "unsqueeze": (19, [0, 1, 2], [IMAGE]),
    "shuffle of another rank": (20, [2, 1], [(1, 4)]),
    "shuffle": (20, [3, 1], [IMAGE]),
    "unshuffle": (20, [2, 0], [IMAGE]),
    "expand": (21, [0, 3, 0, 0], [IMAGE]),
    "expand to fewer dimensions": (21, [0, 4], [IMAGE]),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_shapes_of_arrays_are_errors(case):
    rule, attr, shapes = IMPOSSIBLE[case]
    n_out = len(attr) - 2 if rule == 15 and attr[1] == 0 else 9 if attr == [1, 9] else 1
    columns = one_op(rule, attr, shapes, n_out)
    if case.startswith("image"):
        columns |= {"weight_rule": [(0,) * 6, (1, 1, 0, 0, 0, 0)], "macs_rule": [0, 1]}
    with pytest.raises(ShapeError, match=rf"^graph 0: op {len(shapes)} \(it\): the shapes are impossible$"):
        Batch.from_arrays(**columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": [0, 22]}, "graph 0, op 1: shape rule 22; allowed: 0 to 21"),
        ({"attr": [1, 4, 9, 1]}, r"graph 0, op 1: columns \[1\] of shape rule 2, with 1 outputs"),
        ({"attr": [1, -4, 9]}, r"graph 0, op 0: columns \[1, -4, 9\] of shape rule 0"),
        ({"rule": [0, 9], "alias": [0, 4]}, r"op 1 \(it\) reads 1 tensors; allowed: 2 or more"),
        ({"weight_rule": [(0,) * 6, (1, 1, 0, 0, 0, 0)]}, r"op 1: weight_rule \[1, 1, 0, 0, 0, 0\] with shape rule 2"),
        ({"weight_rule": [(0,) * 6, (0, -1, 0, 0, 0, 0)]}, r"op 1: weight_rule \[0, -1, 0, 0, 0, 0\]"),
        ({"macs_rule": [0, 1]}, "op 1: macs_rule 1 with shape rule 2"),
        ({"alias": [0, 5]}, "op 1: alias 5; allowed: 0 to 4"),
        ({"alias": [1, 0]}, "op 0: an op without inputs has nothing to share"),
        ({"kind": [1, 3]}, "op 1: kind 3; allowed: 0 to 2"),
        ({"kind": [1, 1]}, "op 1: a network input with shape rule 2; allowed: 0"),
        ({"owner": [[1, 1, 1, 1], [2, 1, 1, 1]]}, "op 1: owner 2; allowed: 0 to 1"),
        ({"index_bytes": [0, 100]}, "op 1: index_bytes 100; allowed: 0 to 64"),
        ({"statistics": [[1, 0, 7, 8]]}, "op 1: statistics 7; allowed: 0 to 6"),
        ({"statistics": [[2, 0, 2, 8]]}, "statistics name op 2; allowed: 0 to 1"),
        ({"dtype": [0, 99]}, "dtype holds 99; allowed: 0 to 9"),
        ({"names": ["one"]}, "1 names for 2 ops"),
        ({"out_ptr": [0, 1, 1], "kind": [1], "is_output": [1]}, "graph 0, op 1 writes no tensor"),
        ({"out_ptr": [0, 2]}, "out_ptr has 2 entries for 2 ops; allowed: 3"),
        ({"is_output": [0, 0]}, "graph 0 has no output"),
        ({"in_idx": [1]}, r"graph 0, op 1 \(it\) reads \[1\]; allowed: tensors that come before it"),
        ({"until": [0, 2]}, "graph 0: tensor 1 is held through no op of it"),
    ],
)
def test_wrong_arrays_are_refused_by_graph_and_op(change, message):
    arrays = one_op(2, [], [(1, 4, 9)])
    assert len(Batch.from_arrays(**arrays)) == 1
    if "attr" in change:
        change["attr_ptr"] = [0, 3, len(change["attr"])]
    with pytest.raises(LoweringError, match=message):
        Batch.from_arrays(**(arrays | change))


@pytest.mark.parametrize(
    ("rule", "attr"),
    [(0, []), (0, [1] * 7), (1, [1]), (1, [2, 0, 3]), (3, [2, 1, 1, 0, 0]), (3, [1, 2, 1, 0, 0, 3, 0, 1, 1, 1, 0]),
     (4, [1, 0, 0, 0, 2, 0, 0, 1]), (5, []), (5, [-1]), (6, [0]), (7, [1]), (8, [6]), (8, []), (10, []),
     (10, [-1, -1]), (11, [2, 1]), (12, [0, 0]), (13, [2]), (13, [0, 1, 1]), (14, [0]), (14, [1, 2]),
     (14, [1, 2, 5000]), (15, [1]), (15, [1, 0, 2, 2]), (15, [7, 2]), (16, [0, 0, 1]), (16, [0, 0, 1, 0]),
     (16, [6, 0, 1, 1]), (17, [1]), (17, [1] * 14), (18, [1, 0]), (19, []), (20, [0, 1]), (20, [2, 2]), (21, [-1])],
)  # fmt: skip
def test_columns_that_a_shape_rule_cannot_read_are_refused(rule, attr):
    with pytest.raises(LoweringError, match=rf"columns .* of shape rule {rule}"):
        Batch.from_arrays(**one_op(rule, attr, [IMAGE, IMAGE][: 1 + (rule == 7)] if rule else []))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # where nothing is compiled
@pytest.mark.parametrize(
    ("rule", "attr", "shape", "weight_rule", "macs_rule", "status"),
    [
        (3, [2, 2**30, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0], (1, 4, 2**20, 2**20), 1, 1, "2..62 elements"),
        (3, [2, 2**30, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0], (1, 2**30, 1, 1), 1, 1, "parameters"),
        (3, [2, 2**20, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0], (1, 2**20, 2**15, 2**15), 1, 1, "accumulates"),
        (3, [2, 2**27, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0], (1, 2**31, 1, 1), 1, 1, "parameters"),
        (3, [1, 2**30, 1, 0, 0, 1, 1, 0, 0, 1, 0], (1, 2**30, 1), 1, 1, "parameters"),
        (3, [1, 2**20, 1, 0, 0, 1, 1, 0, 0, 1, 0], (1, 2**20, 2**30), 1, 1, "accumulates"),
        (6, [2**30], (1, 2**30), 2, 2, "parameters"),
        (6, [2**20], (2**25, 2**20), 2, 2, "accumulates"),
        (2, [], (1, 2**57), 3, 0, "parameters"),
        (2, [], (2**30, 2**29), 0, 0, "all tensors together"),
        (10, [-1], (2**31, 2**31), 0, 0, "2..62 elements"),
    ],
)
def test_what_does_not_fit_62_bits_is_an_error(rule, attr, shape, weight_rule, macs_rule, status):
    columns = one_op(rule, attr, [shape], weight_rule=(weight_rule, 1, 0, 0, 0, 0), macs_rule=macs_rule)
    with pytest.raises((ShapeError, LoweringError), match=f"^graph 0: .*{status}"):
        Batch.from_arrays(**columns)


def test_sums_of_counts_that_do_not_fit_are_errors():
    p = Palette()
    p.add("input", shape=(1, 2**18, FREE[0], FREE[0]))
    p.add("conv2d", out_channels=2**18, kernel_size=1)

    def chain(n, side):
        return Batch.from_nodes(p, [0, n + 1], [0] + [1] * n, [0, *range(n + 1)], range(n), [[side, 0]] * (n + 1))

    assert evaluate_batch(chain(2, 2**12))["macs"].tolist() == [2 * 2**60]
    with pytest.raises(ShapeError, match=r"^graph 0: 2\*\*62 multiply-accumulates or more at batch 1, with op 4 "):
        evaluate_batch(chain(4, 2**12))
    assert evaluate_batch(chain(4, 2**12), metrics="params")["params"].tolist() == [4 * (2**36 + 2**18)]


@pytest.mark.parametrize(
    ("op", "attributes", "free", "inputs"),
    [
        ("conv2d", {"out_channels": 4, "kernel_size": FREE[0]}, 0, None),
        ("max_pool2d", {"kernel_size": 2, "stride": FREE[0]}, 0, None),
        ("slice", {"dim": 1, "start": 0, "stop": 9, "step": FREE[0]}, 0, None),
        ("linear", {"out_features": FREE[0]}, 3, None),
    ],
)
def test_free_values_that_make_no_shape_are_errors(op, attributes, free, inputs):
    p = Palette()
    p.add("input", shape=(1, 8, 9, 9))
    p.add(op, inputs=inputs, **attributes)
    batch = Batch.from_nodes(p, [0, 2], [0, 1], [0, 0, 1], [0], [[0, 0], [free, 0]])
    with pytest.raises(ShapeError, match=rf"^graph 0: op 1 \({op}\) at batch 1: the shapes are impossible$"):
        evaluate_batch(batch)


def test_matrix_products_and_numbers():
    g = Graph()
    x = g.flatten(g.input((1, 4, 6, 6)), 2)
    g.output(g.matmul(g.permute(x, (0, 2, 1)), x), g.linear(x, 5), g.layer_norm(x, (4, 36)))
    assert rows(evaluate_batch([g], metrics=METRICS, batch=3)) == [planned(g, batch=3)]
    # A reduction to a number, which no linear layer takes.
    arrays = {
        "graph_ptr": [0, 3], "in_ptr": [0, 0, 1, 2], "in_idx": [0, 1], "out_ptr": [0, 1, 2, 3], "rule": [0, 13, 6],
        "attr_ptr": [0, 2, 5, 6], "attr": [1, 4, 0, 0, 1, 5], "is_output": [0, 0, 1], "kind": [1, 0, 0],
    }  # fmt: skip
    with pytest.raises(ShapeError, match=r"^graph 0: op 2 \(op\): the shapes are impossible$"):
        Batch.from_arrays(**arrays)


@given(many=st.lists(nodes(), min_size=1, max_size=3), profile=st.sampled_from(["ideal", "torch_fx"]),
       inplace=st.sampled_from([None, "dead"]), convention=st.sampled_from(["macs", "macs+bias"]))  # fmt: skip
def test_nodes_fuse_as_graphs_do(many, profile, inplace, convention):
    options = {"fuse": True, "profile": profile, "inplace": inplace}
    nets = [PALETTE.graph(*a) for a in many]
    flat = Batch.from_nodes(PALETTE, *end_to_end(many))
    metrics = (*METRICS, "minimum_peak") if max(len(a[0]) for a in many) < 12 else METRICS
    found = evaluate_batch(flat, metrics=metrics, threads=1, convention=convention, **options)
    of_graphs = evaluate_batch(nets, metrics=metrics, threads=1, convention=convention, **options)
    assert rows(found) == rows(of_graphs)
    if convention == "macs":
        assert [row[:5] for row in rows(found)] == [planned(g, **options) for g in nets]


def test_fusion_leaves_training_as_it_is():
    p = Palette()
    p.add("input", shape=(1, 3, 8, 8))
    p.add("conv2d", out_channels=FREE[0], kernel_size=3, bias=False)
    p.add("batch_norm2d")
    flat = Batch.from_nodes(p, [0, 3], [0, 1, 2], [0, 0, 1, 2], [0, 1], [[0, 0], [4, 0], [0, 0]], [0, 0, 0])
    net = p.graph([0, 1, 2], [0, 0, 1, 2], [0, 1], [[0, 0], [4, 0], [0, 0]])
    found = evaluate_batch(flat, metrics=("inference_total", "training_peak"), fuse=True, batch=2)
    assert rows(found) == [(plan_inference(net, fuse=True, batch=2).peak_bytes, plan_training(net, batch=2).peak_bytes)]
    assert rows(evaluate_batch([net], metrics=("inference_total", "training_peak"), fuse=True, batch=2)) == rows(found)
    several = Batch.from_arrays(**one_op(15, [1, 2], [IMAGE], 2))
    with pytest.raises(GraphError, match="ops of one output each, which share no weights"):
        evaluate_batch(several, fuse=True)
    with pytest.raises(GraphError, match="ops of one output each; or give graphs"):
        evaluate_batch(several, metrics="minimum_peak")
