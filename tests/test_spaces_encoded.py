"""Spaces with encoders: published numbers, and every number equal to what planning the candidate's graph gives.

Runs uncompiled too, where it covers the encoders' kernels; what takes too long then is left out.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import json
import multiprocessing
import os
import pickle
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnlive
from cnnlive import zoo
from cnnlive._kernels import encoders_nasbench101
from cnnlive._kernels.encoders import block_widths, nearest
from cnnlive.errors import AttributeValueError, OrderError, ShapeError, SpaceError
from cnnlive.nas.base import Gene
from cnnlive.nas.encoded import EncodedSpace, non_dominated
from cnnlive.nas.limit import Limit
from cnnlive.nas.spaces.darts import MORE_OPERATIONS, OPERATIONS, darts
from cnnlive.nas.spaces.nasbench101 import OPERATIONS as LABELS
from cnnlive.nas.spaces.nasbench101 import nasbench101, permutations, vertex_channels
from cnnlive.nas.spaces.nasbench201 import nasbench201
from cnnlive.nas.spaces.randwire import randwire
from cnnlive.nas.spaces.regnet import regnet, stages_of
from cnnlive.plan.inference import plan_inference
from cnnlive.plan.training import plan_training
from cnnlive.zoo.darts import GENOTYPES

# The package's attributes of these names are the functions.
darts_module = sys.modules["cnnlive.nas.spaces.darts"]
module101 = sys.modules["cnnlive.nas.spaces.nasbench101"]

PUBLISHED = json.loads((Path(__file__).parent / "data" / "nas_encoded.json").read_text("utf-8"))
COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
slow = pytest.mark.skipif(not COMPILED, reason="takes long, or overflows with a warning, where nothing is compiled")

GRIDS = {"depths": (3, 5), "initial_widths": (8, 16, 24), "slopes": (0, 8.5, 20), "factors": (1.5, 2.5),
         "group_widths": (1, 8, 12, 16), "resolution": 32, "classes": 7}  # fmt: skip
SMALL = {
    "nasbench201": lambda: nasbench201(channels=4, cells=2),
    "nasbench101": lambda: nasbench101(channels=7, modules=2, resolution=8),
    "darts": lambda: darts(channels=4, layers=4, resolution=16),
    "darts_imagenet": lambda: darts("imagenet", channels=4, layers=3, resolution=64, steps=3, concat="loose",
                                    operations=OPERATIONS + MORE_OPERATIONS),
    "regnet": lambda: regnet(**GRIDS),
    "regnet_se": lambda: regnet(se=True, rounding="divisible", **GRIDS),
    "randwire": lambda: randwire(nodes=5, channels=6, resolution=64),
    "randwire_regular": lambda: randwire(nodes=6, channels=4, resolution=64, regime="regular", classes=5),
}  # fmt: skip
INFERENCE = ("params", "macs", "weight_bytes", "inference_peak", "inference_total")
SETTINGS = (
    {}, {"batch": 3, "dtype": "float16"}, {"profile": "torch"}, {"profile": "torch_fx", "batch": 2}, {"fuse": True},
    {"inplace": "dead"}, {"inplace": "never", "weight_dtype": "int8"}, {"fuse": True, "inplace": "dead", "batch": 2},
    {"profile": "torch", "fuse": True},
)  # fmt: skip
TRAINING = ("saved", "training_peak:sgd", "training_peak:adam")


@functools.cache
def small(name):
    space = SMALL[name]()
    if not COMPILED and name == "nasbench101":
        space._listed = space.pack(space.encode("1:"))  # going through all 2**21 matrices takes long then
    return space


@st.composite
def candidates(draw, names=tuple(SMALL)):
    space = small(draw(st.sampled_from(names)))
    return space, space.random(1, rng=draw(st.integers(0, 10**6)))[0]


def table(space, x):
    """The metrics of inference as a planner gives them."""

    def of(**how):
        plan = plan_inference(space.graph(x), **how)
        return (plan.network.n_parameters, plan.macs, plan.weight_bytes, plan.activation_peak_bytes, plan.peak_bytes)

    return of


# ---------------------------------------------------------------------------------------------- encoders


@given(candidates())
@settings(max_examples=150 if COMPILED else 40)
def test_an_encoder_writes_the_ops_edges_attributes_and_frames_of_the_graph(found):
    space, x = found
    nodes = space.nodes(x)
    assert len(nodes.kind) <= space.encoder.nodes
    assert len(nodes.in_idx) <= space.encoder.edges
    net = cnnlive.lower(space.graph(x))
    flat = cnnlive.lower(space.palette.graph(nodes.kind, nodes.in_ptr, nodes.in_idx, nodes.free, nodes.until))
    # A slice of rows and columns is two, of one dimension each, as in PyTorch.
    assert "-".join(flat.op_kinds).replace("slice-slice", "slice") == "-".join(net.op_kinds)
    assert np.array_equal(np.sort(flat.counts, axis=0)[-net.n_ops :], np.sort(net.counts, axis=0))
    if "slice-slice" not in "-".join(flat.op_kinds):
        for column in ("in_ptr", "in_idx", "attr_ptr", "attr", "counts", "alias", "fold", "is_output", "statistics"):
            assert np.array_equal(getattr(net, column), getattr(flat, column)), column
        assert np.array_equal(net.frames(), flat.frames())


@given(candidates(), st.sampled_from(SETTINGS))
@settings(max_examples=120 if COMPILED else 30)
def test_inference_of_a_candidate_is_that_of_its_graph(found, how):
    space, x = found
    space.forget()
    columns = space.evaluate(x, INFERENCE, **how)
    assert tuple(int(columns[m][0]) for m in INFERENCE) == table(space, x)(**how)


@slow
@given(candidates(), st.sampled_from(({}, {"batch": 2}, {"batch": 3, "device": "cpu"}, {"precision": "autocast"})))
@settings(max_examples=100)
def test_training_of_a_candidate_is_that_of_its_graph(found, how):
    space, x = found
    space.forget()
    columns = space.evaluate(x, TRAINING, **how)
    graph = space.graph(x)
    plans = {name: plan_training(graph, optimizer=name, **{"batch": 1} | how) for name in ("sgd", "adam")}
    expected = (plans["sgd"].saved_bytes, plans["sgd"].peak_bytes, plans["adam"].peak_bytes)
    assert tuple(int(columns[m][0]) for m in TRAINING) == expected


@slow
def test_fusion_is_of_inference_alone():
    space = small("nasbench201")
    x = space.random(2, rng=3)
    asked = ("params", "saved", "inference_peak")
    both = space.evaluate(x, asked, fuse=True)
    assert np.array_equal(both["saved"], space.evaluate(x, "saved")["saved"])
    assert np.array_equal(both["inference_peak"], space.evaluate(x, "inference_peak", fuse=True)["inference_peak"])
    assert (both["params"] != space.evaluate(x, "params")["params"]).all()


@slow
@given(
    candidates(names=("nasbench101", "nasbench201")),
    st.sampled_from(({}, {"batch": 2}, {"inplace": "dead"}, {"fuse": True})),
)
@settings(max_examples=15)
def test_the_minimum_peak_is_that_of_the_whole_graph_over_all_orders(found, how):
    space, x = found
    space.forget()
    plan = plan_inference(space.graph(x), order="best", **how)
    assert plan.optimal
    assert int(space.evaluate(x, "minimum_peak", **how)["minimum_peak"][0]) == plan.activation_peak_bytes


def test_no_candidates_give_empty_columns_and_no_metrics_none():
    space = small("darts")
    found = space.evaluate(np.zeros((0, space.n_genes), np.int64), ("params", "inference_peak"))
    assert list(found) == ["params", "inference_peak"]
    assert all(len(c) == 0 and c.dtype == np.int64 for c in found.values())
    assert space.evaluate(space.random(2, rng=0), ()) == {}


@slow
def test_a_candidate_that_cannot_be_counted_is_named():
    space = small("regnet")
    x = space.random(3, rng=0)
    with pytest.raises(ShapeError, match=r"^genotype \[\d, .*\]: .*2\*\*62"):
        space.evaluate(x, "inference_peak", batch=2**58)
    with pytest.raises(AttributeValueError, match="unknown metric 'peak'"):
        space.evaluate(x, "peak")
    with pytest.raises(OrderError, match="frames of profile 'torch'"):
        space.evaluate(x, "minimum_peak", profile="torch")


@pytest.mark.parametrize("name", SMALL)
def test_rows_that_are_no_genotypes_are_named(name):
    space = small(name)
    x = space.random(3, rng=0)
    x[1, 2] = 99
    with pytest.raises(SpaceError, match=r"row 1 of the genotypes has 99 at gene"):
        space.evaluate(x)
    with pytest.raises(SpaceError, match=rf"allowed: \(n, {space.n_genes}\)"):
        space.evaluate(x[:, 1:])
    with pytest.raises(SpaceError, match="3 genotypes where one is expected"):
        space.graph(space.random(3, rng=0))


# ---------------------------------------------------------------------------------------------- NAS-Bench-201


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "imagenet16-120"])
def test_nasbench201_has_the_published_parameters_and_flops(dataset):
    space = nasbench201(dataset)
    cells = [c for c in PUBLISHED["nasbench201"]["cells"] if dataset in c]
    x = np.stack([space.encode(c["arch"]) for c in cells])
    found = space.evaluate(x, ("params", "macs"), convention="macs+bias")
    assert np.array_equal(np.stack([found["params"], found["macs"]], axis=1), [c[dataset] for c in cells])
    assert [space.decode(row) for row in x] == [c["arch"] for c in cells]


@slow
def test_nasbench201_adds_up_to_the_published_sums():
    space = nasbench201()
    x = np.concatenate(list(space.members()))
    assert len(x) == space.count() == 5**6
    found = space.evaluate(x, ("params", "macs"), convention="macs+bias")
    expected = PUBLISHED["nasbench201"]["cifar10"]
    assert found["params"].sum() == expected["params_sum"]
    assert found["macs"].sum() == expected["macs_sum"]
    assert len(np.unique(found["params"])) == expected["params_distinct"]
    extremes = [c["cifar10"][0] for c in PUBLISHED["nasbench201"]["cells"][3:]]
    assert [found["params"].max(), found["params"].min()] == extremes


@slow
@pytest.mark.parametrize("how", [*SETTINGS[:-1], {"profile": "torch", "batch": 2, "dtype": "bfloat16"}])
def test_what_nasbench201_composes_is_what_every_single_net_gives(how):
    space = nasbench201(channels=3, cells=3)
    x = np.concatenate(list(space.members()))[::3]
    whole = space.run(space.encoder, x, INFERENCE, how, None, None)
    composed = space.evaluate(x, INFERENCE, **how)
    for metric in INFERENCE:
        assert np.array_equal(composed[metric], whole[metric]), metric


@slow
def test_minimum_peaks_of_many_cells_are_those_of_single_ones():
    for space in (nasbench201(channels=3, cells=2), nasbench101(channels=9, modules=2, resolution=8)):
        x = space.sample(4000, rng=5)
        many = space.evaluate(x, "minimum_peak")["minimum_peak"]
        few = space.run(space.encoder, space.pack(x[:150]), ("minimum_peak",), {}, None, None)["minimum_peak"]
        assert np.array_equal(many[:150], few)
        assert (many <= space.evaluate(x, "inference_peak")["inference_peak"]).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not an architecture"),
        ("|none~0|+|none~0|none~1|", "is not an architecture"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|none~3|", "is not an architecture"),
        ("|none~0|+|none~1|none~0|+|none~0|none~1|none~2|", "'none~1'.*'~0'"),
        ("|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", "'conv~0'.*skip_connect"),
        ("|none|+|none~0|none~1|+|none~0|none~1|none~2|", "'none'"),
    ],
)
def test_malformed_architectures_are_clear_errors(text, words):
    with pytest.raises(SpaceError, match=words):
        nasbench201().encode(text)


def test_nasbench201_reads_mappings_too_and_refuses_what_does_not_exist():
    space = nasbench201()
    assert space.encode({"3<-2": "nor_conv_3x3"}).tolist() == [0, 0, 0, 0, 0, 3]
    with pytest.raises(SpaceError, match="no gene '3<-4'"):
        space.encode({"3<-4": "none"})
    with pytest.raises(SpaceError, match="'imagenet16-120'"):
        nasbench201("imagenet")
    with pytest.raises(AttributeValueError, match="cells=0"):
        nasbench201(cells=0)


def test_a_cell_runs_like_the_reference_code_in_real_pytorch(one_thread):
    torch = pytest.importorskip("torch")
    import torch_truth  # noqa: PLC0415 - needs torch

    nn = torch.nn

    def relu_conv_bn(channels_in, channels, kernel, stride=1):
        conv = nn.Conv2d(channels_in, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        return nn.Sequential(nn.ReLU(inplace=False), conv, nn.BatchNorm2d(channels))

    class Zero(nn.Module):
        def forward(self, x):
            return x.mul(0.0)

    class Cell(nn.Module):
        def __init__(self, row, channels):
            super().__init__()
            make = {
                0: Zero, 1: nn.Identity, 2: functools.partial(relu_conv_bn, channels, channels, 1),
                3: functools.partial(relu_conv_bn, channels, channels, 3),
                4: functools.partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False),
            }  # fmt: skip
            self.layers = nn.ModuleList(make[int(op)]() for op in row)

        def forward(self, inputs):
            nodes = [inputs]
            for first, last in ((0, 1), (1, 3), (3, 6)):
                node_feature = sum(self.layers[e](nodes[e - first]) for e in range(first, last))
                nodes.append(node_feature)
            return nodes[-1]

    class Block(nn.Module):
        def __init__(self, channels_in, channels):
            super().__init__()
            self.conv_a = relu_conv_bn(channels_in, channels, 3, 2)
            self.conv_b = relu_conv_bn(channels, channels, 3)
            self.downsample = nn.Sequential(nn.AvgPool2d(2, stride=2), nn.Conv2d(channels_in, channels, 1, bias=False))

        def forward(self, inputs):
            basicblock = self.conv_a(inputs)
            basicblock = self.conv_b(basicblock)
            residual = self.downsample(inputs)
            return residual + basicblock

    class Net(nn.Module):
        def __init__(self, row, channels):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
            c = channels
            self.cells = nn.ModuleList(
                [Cell(row, c), Block(c, 2 * c), Cell(row, 2 * c), Block(2 * c, 4 * c), Cell(row, 4 * c)]
            )
            self.lastact = nn.Sequential(nn.BatchNorm2d(4 * c), nn.ReLU(inplace=True))
            self.global_pooling = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Linear(4 * c, 10)

        def forward(self, inputs):
            feature = self.stem(inputs)
            for cell in self.cells:
                feature = cell(feature)
            out = self.lastact(feature)
            out = self.global_pooling(out)
            out = out.view(out.size(0), -1)
            return self.classifier(out)

    space = nasbench201(channels=8, cells=1)
    x, labels = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)
    optimizer = functools.partial(torch.optim.SGD, lr=0.1, foreach=False)

    def criterion(out):
        return nn.functional.cross_entropy(out, labels)

    for row in space.random(6, rng=2):
        net = Net(row, 8).eval()
        measured = torch_truth.inference(net, (x,))
        found = space.evaluate(row, ("inference_total", "params"), batch=2, profile="torch")
        assert int(found["params"][0]) == sum(p.numel() for p in net.parameters())
        assert int(found["inference_total"][0]) == measured.peak_bytes
        real = torch_truth.training_step(net.train(), x, criterion, optimizer=optimizer)
        plan = plan_training(space.graph(row), batch=2, device="cpu", optimizer="sgd", host_scalars=True)
        assert (plan.saved_bytes, plan.forward_peak, plan.backward_peak) == (
            real.saved_bytes, real.forward_peak, real.backward_peak,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- NAS-Bench-101


def test_nasbench101_has_the_published_inception_like_cell():
    space = nasbench101()
    cell = PUBLISHED["nasbench101"]["inception_like"]
    x = space.encode((cell["matrix"], cell["ops"]))
    assert space.run(space.encoder, space.pack(x), ("params",), {}, 1, None)["params"].tolist() == [cell["params"]]
    assert space.graph(x).n_parameters == cell["params"]
    assert space.decode(x) == (cell["matrix"], cell["ops"])


def test_channels_that_do_not_divide_are_cut_to_what_a_vertex_takes():
    space = small("nasbench101")
    x = space.encode("101011:00")  # 0->1, 1->2, 1 and 2 -> 3: vertices of 4 and 3 channels
    graph = space.graph(x)
    assert [graph.attributes(n)["stop"] for n in graph.nodes() if graph.op_of(n) == "slice"] == [(3,), (3,)]
    found = space.evaluate(x, INFERENCE)
    assert tuple(int(found[m][0]) for m in INFERENCE) == table(space, x)()


@pytest.mark.parametrize("case", PUBLISHED["nasbench101"]["vertex_channels"])
def test_channels_are_those_of_the_benchmarks_own_tests(case):
    matrix = np.zeros((case["vertices"],) * 2, np.int64)
    for u, v in case["edges"]:
        matrix[u, v] = 1
    assert vertex_channels(case["input"], case["output"], matrix) == case["channels"]


@pytest.mark.parametrize("vertices", [2, 3, 4, 5, *([6, 7] if COMPILED else [])])
def test_there_are_as_many_unique_cells_as_published(vertices):
    unique = labelled = 0
    for interior in range(vertices - 1):
        order = permutations(interior)
        codes, counts = np.empty(4, np.int64), np.zeros(1, np.int64)
        unique += encoders_nasbench101.unique_cells(interior, 9, order, np.empty(len(order), np.int64), codes, counts)
        labelled += int(counts[0])
    assert unique == PUBLISHED["nasbench101"]["unique_cells"][vertices - 2]
    assert labelled == PUBLISHED["nasbench101"]["labelled_cells"][vertices - 2]


@slow
def test_all_nasbench101_cells_have_the_published_extremes_and_sums():
    space = nasbench101()
    x = np.concatenate(list(space.members()))
    assert len(x) == space.count() == PUBLISHED["nasbench101"]["unique_cells"][-1]
    assert np.array_equal(x, space.canonical(x))
    assert (np.lexsort(x.T[::-1]) == np.arange(len(x))).all()
    found = space.evaluate(x, ("params", "macs", "inference_peak"))
    params, macs = PUBLISHED["nasbench101"]["params"], PUBLISHED["nasbench101"]["macs"]
    values = found["params"]
    assert (values.min(), values.max(), values.sum(), len(np.unique(values))) == tuple(
        params[k] for k in ("min", "max", "sum", "distinct")
    )
    assert (found["macs"].min(), found["macs"].max()) == (macs["min"], macs["max"])
    some = np.random.default_rng(0).integers(0, len(x), 1500)
    whole = space.run(space.encoder, space.pack(x[some]), tuple(found), {}, None, None)
    for metric, column in found.items():
        assert np.array_equal(column[some], whole[metric]), metric


@slow
@pytest.mark.parametrize("how", SETTINGS[:-1])
def test_what_nasbench101_composes_is_what_every_single_net_gives(how):
    space = nasbench101(channels=10, modules=3, resolution=8)
    x = space.sample(2500, rng=1)
    whole = space.run(space.encoder, space.pack(x), INFERENCE, how, None, None)
    composed = space.evaluate(x, INFERENCE, **how)
    for metric in INFERENCE:
        assert np.array_equal(composed[metric], whole[metric]), metric


def moved(space, x, rng):
    """The same labelled graph with its interior vertices in another order, and its vertices that no path needs."""
    matrix, ops = (np.array(v) for v in space.decode(x))
    n = len(ops)
    for _ in range(50):
        order = np.r_[0, 1 + rng.permutation(n - 2), n - 1]
        if not np.tril(matrix[np.ix_(order, order)]).any():
            return space.encode((matrix[np.ix_(order, order)], ops[order].tolist()))
    return x


@given(st.integers(0, 10**6))
@settings(max_examples=40)
def test_isomorphic_cells_have_one_representative_and_it_is_a_member(seed):
    space = small("nasbench101")
    rng = np.random.default_rng(seed)
    x = space.random(1, rng=rng)[0]
    other = moved(space, x, rng)
    first, second = space.representative([x, other])
    assert np.array_equal(first, second)
    if COMPILED:
        assert space._positions(space.pack(first)) >= 0
    whole = nx.DiGraph(np.array(space.decode(x)[0])), nx.DiGraph(np.array(space.decode(first)[0]))
    for graph, row in zip(whole, (x, first), strict=True):
        nx.set_node_attributes(graph, dict(enumerate(space.decode(row)[1])), "op")
    assert nx.is_isomorphic(*whole, node_match=lambda a, b: a["op"] == b["op"])


@given(st.integers(0, 10**6))
@settings(max_examples=60)
def test_pruning_drops_what_lies_on_no_path_and_nothing_else(seed):
    space = small("nasbench101")
    rng = np.random.default_rng(seed)
    row = np.r_[rng.random(21) < rng.uniform(0.2, 0.7), rng.integers(0, 3, 5)].astype(np.int64)
    graph = nx.DiGraph([(u, v) for bit, (u, v) in zip(row, itertools.combinations(range(7), 2), strict=False) if bit])
    graph.add_nodes_from((0, 6))
    kept = sorted((nx.descendants(graph, 0) | {0}) & (nx.ancestors(graph, 6) | {6}))
    if 6 not in kept or 0 not in kept:
        assert space.is_valid(row).tolist() == [False]
        with pytest.raises(SpaceError, match="row 0 of the genotypes: no path"):
            space.canonical(row)
    elif graph.subgraph(kept).size() > 9:
        assert space.is_valid([row, row]).tolist() == [False, False]
        with pytest.raises(SpaceError, match="more than 9 edges"):
            space.canonical(row)
    else:
        matrix, ops = space.decode(row)
        assert np.array_equal(matrix, nx.to_numpy_array(graph, kept, dtype=int))
        assert ops[1:-1] == [LABELS[row[20 + v]] for v in kept[1:-1]]
        assert np.array_equal(space.canonical(row)[0], space.encode((matrix, ops)))
        assert np.array_equal(space.encode(space.text(row)), space.canonical(row)[0])
        assert space.is_valid(row).tolist() == [True]


@pytest.mark.parametrize(
    ("native", "words"),
    [
        (3, "is not a cell"),
        (([[0, 1], [0, 0]],), "is not a cell"),
        (([[0, 1]], ["input", "output"]), r"shape \(1, 2\)"),
        ((np.zeros((8, 8), int), ["input"] * 8), r"2 to 7 vertices"),
        (([[0, 2], [0, 0]], ["input", "output"]), "other values than 0 and 1"),
        (([[0, 0.5], [0, 0]], ["input", "output"]), "other values than 0 and 1"),
        (([[0, 1, 0], [0, 0, 1], [1, 0, 0]], ["input", "maxpool3x3", "output"]), "edge 2->0: a cycle"),
        (([[0, 1], [0, 0]], ["input", "maxpool3x3", "output"]), "3 operations for 2 vertices"),
        (([[0, 1], [0, 0]], ["output", "input"]), "'input' and 'output'"),
        (([[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["input", "conv5x5", "output"]), "vertex 1 has operation 'conv5x5'"),
        (([[0, 0], [0, 0]], ["input", "output"]), "no path leads"),
        (([[0, 1, 0], [0, 0, 0], [0, 0, 0]], ["input", "maxpool3x3", "output"]), "no path leads"),
        ("101", "is not a cell"),
        ("101:3", "is not a cell"),
        ("10:2", "is not a cell"),
        ("1" * 21 + ":00000", "more than 9 edges"),
    ],
)
def test_malformed_cells_are_clear_errors(native, words):
    with pytest.raises(SpaceError, match=words):
        small("nasbench101").encode(native)


def test_nasbench101_reads_bits_column_by_column_and_mappings():
    space = small("nasbench101")
    assert space.decode(space.encode("101:2")) == (
        [[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["input", "maxpool3x3", "output"],
    )  # fmt: skip
    assert space.text(space.encode({"0->6": 1})) == "1:"
    x = space.encode({"0->6": 1})
    assert space.graph(x).n_parameters == space.evaluate(x, "params")["params"][0]


# ---------------------------------------------------------------------------------------------- DARTS


@pytest.mark.parametrize("dataset", ["cifar10", "imagenet"])
@pytest.mark.parametrize("name", GENOTYPES)
def test_darts_genotypes_have_their_parameters_and_products(dataset, name):
    more = {} if name.startswith("darts") else {
        "steps": 5, "operations": OPERATIONS + MORE_OPERATIONS, "concat": "loose",
    }  # fmt: skip
    space = darts(dataset, **more)
    x = space.encode(GENOTYPES[name])
    assert space.decode(x) == GENOTYPES[name]
    found = space.evaluate(x, ("params", "macs"))
    assert [int(found["params"][0]), int(found["macs"][0])] == PUBLISHED["darts"][dataset][name]
    net = zoo.load(name if dataset == "cifar10" else f"{name}_imagenet")
    assert cnnlive.lower(space.graph(x)).op_names == cnnlive.lower(net).op_names


def test_genotypes_are_read_from_anything_with_their_fields():
    space, genotype = darts(), GENOTYPES["darts_v1"]
    assert np.array_equal(space.encode(genotype._asdict()), space.encode(genotype))
    assert np.array_equal(space.encode({"normal1_state": 1}), space.from_values({"normal1_state": 1}))
    assert space.n_members() == np.prod([(7 * n) ** 2 for n in (2, 3, 4, 5)], dtype=object) ** 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normal": (("skip_connect", 0),) * 7}, "normal has 7 edges; allowed: 8"),
        ({"reduce": (("none", 0),) * 8}, "reduce, edge 0: operation 'none'"),
        ({"reduce": (("skip_connect", 2),) * 8}, "reduce, edge 0: state 2; allowed: 0 to 1"),
        ({"normal": (("skip_connect", -1),) * 8}, "state -1"),
        ({"normal": (("skip_connect", "0"),) * 8}, "state '0'"),
        ({"normal": (0,) * 8}, "pairs"),
        ({"normal_concat": (2, 3, 4)}, r"normal_concat is \(2, 3, 4\); allowed in this space: \(2, 3, 4, 5\)"),
        ({"normal_concat": None}, "is not a genotype"),
    ],
)
def test_malformed_genotypes_are_clear_errors(change, words):
    with pytest.raises(SpaceError, match=words):
        darts().encode(GENOTYPES["darts_v1"]._replace(**change))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": "mnist"}, "'cifar10', 'imagenet'"),
        ({"concat": "some"}, "'all', 'loose'"),
        ({"operations": ("none",)}, "max_pool_3x3"),
        ({"operations": ()}, "operations"),
        ({"channels": 5}, "even channels"),
        ({"layers": 2}, "at least 3 layers"),
    ],
)
def test_wrong_arguments_of_darts_are_clear_errors(arguments, words):
    with pytest.raises(SpaceError, match=words):
        darts(**arguments)


# ---------------------------------------------------------------------------------------------- RegNet


@pytest.mark.parametrize("case", PUBLISHED["regnet"]["nets"], ids=lambda c: c["name"])
def test_regnets_have_the_published_parameters_flops_and_activations(case):
    space = regnet(se=case["se"])
    x = space.encode(case["net"])
    assert space.decode(x) == case["net"]
    found = space.evaluate(x, ("params", "macs"), convention="macs+bias")
    assert int(found["params"][0]) == case["params"]
    if "flops" in case:
        assert int(found["macs"][0]) == case["flops"]
        net = cnnlive.lower(space.graph(x))
        layers = [k for k, op in enumerate(net.op_kinds) if op in ("conv2d", "linear")]
        assert net.sizes.numel[net.out_ptr[layers]].sum() == case["acts"]


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf", "regnet_x_8gf"])
def test_torchvisions_rounding_gives_the_nets_of_the_zoo(name):
    arguments = zoo.arguments(name)
    space = regnet(se="_y_" in name, rounding="divisible")
    keys = dict(zip(("depth", "w0", "wa", "wm", "gw"), ("depth", "w_0", "w_a", "w_m", "group_width"), strict=True))
    x = space.encode({ours: arguments[theirs] for ours, theirs in keys.items()})
    assert cnnlive.lower(space.graph(x)).op_names == cnnlive.lower(zoo.load(name)).op_names
    assert space.evaluate(x, "params")["params"][0] == zoo.load(name).n_parameters


@given(
    st.integers(1, 40), st.integers(1, 64), st.integers(0, 25600), st.integers(101, 300), st.integers(1, 400),
    st.booleans(),
)  # fmt: skip
@settings(max_examples=300 if COMPILED else 60)
def test_stages_follow_the_papers_rule(depth, first, slope, factor, group, divisible):
    width, blocks, groups = (np.zeros(40, np.int64) for _ in range(3))
    n = block_widths(depth, 8.0 * first, slope / 100, factor / 100, group, int(divisible), width, blocks, groups)
    found = list(zip(blocks[:n].tolist(), width[:n].tolist(), groups[:n].tolist(), strict=True))
    rounding = "divisible" if divisible else "nearest"
    assert found == stages_of(depth, 8 * first, slope / 100, factor / 100, group, rounding)
    assert all(w % g == 0 for _, w, g in found)
    assert sum(b for b, _, _ in found) == depth


def test_halves_round_to_even_numbers():
    assert [nearest(v) for v in (0.5, 1.5, 2.5, 2.51, 2.49)] == [round(v) for v in (0.5, 1.5, 2.5, 2.51, 2.49)]


@pytest.mark.parametrize(
    ("native", "words"),
    [
        ({"depth": 13}, "keys depth, w0, wa, wm, gw"),
        ({"depth": 13, "w0": 20, "wa": 36.44, "wm": 2.49, "gw": 8}, "gene 'w0' has no value 20"),
        ([13, 24, 36.44, 2.49, 8], "is not a RegNet"),
    ],
)
def test_regnets_off_the_grid_are_clear_errors(native, words):
    with pytest.raises(SpaceError, match=words):
        regnet().encode(native)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rounding": "up"}, "'nearest', 'divisible'"),
        ({"initial_widths": (12,)}, "w0 may be 12; allowed: multiples of 8"),
        ({"factors": (1.0,)}, "wm may be 1.0; allowed: numbers above 1"),
        ({"slopes": (-1.0,)}, "wa may be -1.0"),
        ({"group_widths": (0,)}, "gw may be 0"),
        ({"depths": ()}, "allowed: 1 to 32,767 different ones"),
    ],
)
def test_wrong_grids_are_clear_errors(arguments, words):
    with pytest.raises(SpaceError, match=words):
        regnet(**arguments)


# ---------------------------------------------------------------------------------------------- RandWire


@pytest.mark.parametrize(("regime", "channels"), [("small", 78), ("regular", 109)])
def test_wired_like_the_paper_a_net_is_that_of_the_zoo(regime, channels):
    space = randwire(regime=regime, channels=channels)
    x = space.wire(seed=7)
    net = zoo.load("randwire", seed=7, regime=regime, channels=channels)
    assert cnnlive.lower(space.graph(x)).op_names == cnnlive.lower(net).op_names
    found = space.evaluate(x, ("params", "macs", "inference_peak"))
    plan = plan_inference(net)
    assert [int(c[0]) for c in found.values()] == [net.n_parameters, plan.macs, plan.activation_peak_bytes]


def test_wirings_go_both_ways_also_through_networkx():
    space = small("randwire")
    x = space.random(1, rng=4)[0]
    assert np.array_equal(space.encode(space.decode(x)), x)
    assert np.array_equal(space.encode(space.to_networkx(x)), x)
    assert np.array_equal(space.encode([g.to_undirected() for g in space.to_networkx(x)]), x)
    assert space.encode({"1:0->2": 1}).sum() == 1
    for extreme in (np.zeros_like(x), np.ones_like(x)):
        found = space.evaluate(extreme, INFERENCE)
        assert tuple(int(found[m][0]) for m in INFERENCE) == table(space, extreme)()


@pytest.mark.parametrize(
    ("native", "words"),
    [
        (3, "is not a wiring"),
        ([[[]] * 5] * 2, "2 stages; allowed: 3"),
        ([[[]] * 4] * 3, "stage 0 has 4 nodes; allowed: 5"),
        ([[[], [0], [1], [4], [3]]] * 3, "edge 4->3.*no cycle"),
        ([[[], [0], [0, 0], [], []]] * 3, "0->2 twice"),
        ([[[], [0], [0.5], [], []]] * 3, "edge 0.5->2"),
        ([1, 2, 3], "stage 0 is 1"),
        ([nx.DiGraph([(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)])] * 3, "edge 4->0"),
        ([nx.path_graph(6)] * 3, "stage 0 has nodes"),
    ],
)
def test_malformed_wirings_are_clear_errors(native, words):
    with pytest.raises(SpaceError, match=words):
        small("randwire").encode(native)


def test_wrong_arguments_of_randwire_are_clear_errors():
    with pytest.raises(SpaceError, match="'small', 'regular'"):
        randwire(regime="large")
    with pytest.raises(SpaceError, match="k=4 neighbours in a stage of 3 nodes"):
        randwire(nodes=6, regime="regular").wire()
    with pytest.raises(SpaceError, match="p=2"):
        randwire().wire(p=2)
    with pytest.raises(AttributeValueError, match="nodes=0"):
        randwire(nodes=0)


# ---------------------------------------------------------------------------------------------- what every space can do


class Budget:
    """A limit of one metric, as any object with a mask may be."""

    def __init__(self, space, metric, top):
        self.space, self.metric, self.top = space, metric, top

    def mask(self, X):
        return self.space.evaluate(X, self.metric)[self.metric] <= self.top


def tiny():
    """A space of 2 * 3 * 3 * 2 * 4 = 144 RegNets."""
    return small("regnet")


def test_counting_sampling_and_searching_agree_with_going_through_all():
    space = tiny()
    x = np.concatenate(list(space.members(50)))
    assert len(x) == space.count() == 144
    values = space.evaluate(x, ("params", "inference_peak"))
    limit = Budget(space, "inference_peak", int(np.median(values["inference_peak"])))
    fit = values["inference_peak"] <= limit.top
    assert space.count(limit) == fit.sum()
    drawn = space.sample(300, limit, rng=0)
    assert drawn.shape == (300, 5)
    assert limit.mask(drawn).all()
    assert len(np.unique(drawn, axis=0)) > fit.sum() / 2
    best = space.best("params", limit)
    assert best.score == best.bound == values["params"][fit].max() == space.evaluate(best.x, "params")["params"][0]
    assert best.status == "optimal"
    best = space.best({"depth": [0, 1.5], "gw": [1, 2, 3, 5]}, limit)
    every = np.array([0, 1.5])[x[:, 0]] + np.array([1, 2, 3, 5])[x[:, 4]]
    assert best.score == every[fit].max()
    assert np.array_equal(best.x, x[fit][np.argmax(every[fit])])
    real = Limit(space, peak=limit.top)
    assert space.count(real) == fit.sum()
    assert space.best("params", real).metrics == {
        "inference_peak": values["inference_peak"][fit][np.argmax(values["params"][fit])]
    }


@pytest.mark.parametrize("objective", [None, "macs"])
def test_the_front_is_what_nothing_is_better_than(objective):
    space = tiny()
    x = np.concatenate(list(space.members()))
    values = space.evaluate(x, ("params", "inference_peak", "macs"))
    limit = Budget(space, "params", int(np.median(values["params"])))
    rows, columns = space.front(("params", "inference_peak"), limit, objective=objective)
    assert list(columns) == ["params", "inference_peak", *(["score"] if objective else [])]
    points = np.stack([values["params"], values["inference_peak"], *([-values["macs"]] if objective else [])], axis=1)
    points = points[values["params"] <= limit.top]
    better = {tuple(p) for p in points if not ((points <= p).all(axis=1) & (points < p).any(axis=1)).any()}
    found = np.stack([*list(columns.values())[:2], *([-columns["score"]] if objective else [])], axis=1)
    assert sorted(map(tuple, found)) == sorted(better)
    assert np.array_equal(space.evaluate(rows, "params")["params"], columns["params"])


def test_trade_offs_of_score_and_metric_come_by_rising_metric():
    space = tiny()
    x = np.concatenate(list(space.members()))
    values = space.evaluate(x, ("params", "inference_peak"), batch=2)
    found = space.pareto("params", "inference_peak", batch=2)
    points = [(b.metrics["inference_peak"], b.score) for b in found]
    assert points == sorted(set(points))
    for peak, score in points:
        assert score == values["params"][values["inference_peak"] <= peak].max()
        assert (values["params"][values["inference_peak"] < peak] < score).all()
    assert points[-1][1] == values["params"].max()
    assert all(b.status == "optimal" and space.graph(b.x).n_parameters == b.score for b in found)


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=30), st.integers(1, 3))
def test_non_dominated_rows_by_definition(points, k):
    values = np.array(points)[:, :k]
    found = [tuple(values[i]) for i in non_dominated(values)]
    expected = {tuple(p) for p in values if not ((values <= p).all(axis=1) & (values < p).any(axis=1)).any()}
    assert sorted(found) == sorted(expected)


def test_a_space_that_is_too_large_says_how_large():
    space = darts()
    for call in (
        lambda: space.count(Budget(space, "params", 1)), lambda: space.best("params"), lambda: space.pareto("params"),
        lambda: next(space.members()), lambda: space.sample(1, Budget(space, "params", 1)),
    ):  # fmt: skip
        with pytest.raises(SpaceError, match=r"cannot be enumerated: about 10\*\*21 members"):
            call()
    assert space.count() == space.n_members()
    assert space.sample(5, rng=0).shape == (5, 32)


def test_impossible_questions_are_clear_errors():
    space = tiny()
    none = Budget(space, "params", 0)
    assert space.count(none) == 0
    assert space.sample(0, none).shape == (0, 5)
    assert len(space.pareto("params", "inference_peak", none)) == 0
    nothing = space.best("params", none)
    assert (nothing.x, nothing.score, nothing.metrics, nothing.status) == (None, None, {}, "infeasible")
    for call, words in (
        (lambda: space.sample(1, none), "no member of space 'regnetx' fits"),
        (lambda: space.sample(-1), "n=-1"),
        (lambda: space.best("parms"), "did you mean params"),
        (lambda: space.best(3), "objective=3"),
        (lambda: space.best({"width": [1]}), "no gene 'width'"),
        (lambda: space.best({"depth": [1]}), "a number for each of its 2 values"),
        (lambda: space.count(3), "limit=3"),
        (lambda: space.count(Budget(small("regnet_se"), "params", 1)), "the limit is of another space"),
    ):
        with pytest.raises(SpaceError, match=words):
            call()


def test_what_is_known_is_not_computed_again(monkeypatch):
    space = tiny()
    space.forget()
    x = space.random(20, rng=1)
    first = space.evaluate(x, ("params", "inference_peak"))
    asked = []
    inner = EncodedSpace._compute
    monkeypatch.setattr(
        EncodedSpace, "_compute", lambda self, packed, *a: asked.append(len(packed)) or inner(self, packed, *a)
    )
    again = space.evaluate(x[::-1], ("inference_peak", "params"))
    assert not asked
    assert all(np.array_equal(again[m], first[m][::-1]) for m in first)
    new = np.array([[1, 2, 2, 1, 3]])
    space.evaluate(np.concatenate([x, new]), "params")
    assert asked in ([], [1])
    space.evaluate(x, "params", convention="flops")
    assert asked[-1] == 20


def test_single_candidates_are_looked_up_once_their_space_is_known():
    space = tiny()
    space.forget()
    run = space.evaluator(("params", "inference_peak"), batch=2)
    for row in space.random(5, rng=2):
        expected = tuple(int(c[0]) for c in space.evaluate(row, ("params", "inference_peak"), batch=2).values())
        assert run(row) == run(tuple(row.tolist())) == expected
    for bad in ([0, 0, 0, 0, 9], [0] * 4, [0.5] * 5):
        with pytest.raises(SpaceError):
            run(bad)
    wide = small("darts")
    row = wide.random(1, rng=0)[0]
    assert wide.evaluator(("params",))(row) == (wide.graph(row).n_parameters,)
    cells = small("nasbench101")
    row = cells.random(1, rng=0)[0]
    if COMPILED:
        assert cells.evaluator("params")(row) == (cells.graph(row).n_parameters,)


@slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["nasbench101", "darts", "regnet"])
def test_threads_and_processes_give_the_same_numbers(name):
    space = small(name)
    x = space.random(300, rng=6)
    space.forget()
    expected = space.evaluate(x, ("params", "inference_peak"), threads=1)
    for how in ({"threads": 4}, {"executor": "processes"}):
        space.forget()
        if "executor" in how:
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
                found = space.evaluate(x, ("params", "inference_peak"), executor=pool)
        else:
            found = space.evaluate(x, ("params", "inference_peak"), **how)
        assert all(np.array_equal(found[m], expected[m]) for m in expected)


@pytest.mark.parametrize("name", SMALL)
def test_a_pickled_space_gives_the_same_numbers(name):
    space = small(name)
    copy = pickle.loads(pickle.dumps(space))
    x = space.random(2, rng=8)
    found = copy.run(copy.encoder, copy.pack(x), ("inference_peak",), {}, 1, None)["inference_peak"]
    assert np.array_equal(found, space.evaluate(x, "inference_peak")["inference_peak"])
    assert copy.graph(x[0]).to_dict() == space.graph(x[0]).to_dict()


def test_genes_are_named_and_typed():
    for name in SMALL:
        space = small(name)
        assert all(isinstance(gene, Gene) for gene in space.genes)
        assert space.random(4, rng=0).shape == (4, space.n_genes)
        assert np.array_equal(space.canonical(space.random(4, rng=0)), space.random(4, rng=0))
