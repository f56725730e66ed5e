from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

import cnnlive
from cnnlive import zoo
from cnnlive.errors import AttributeValueError, CnnliveError, ShapeError
from cnnlive.graph import Graph
from cnnlive.zoo.darts import GENOTYPES, Genotype

NETS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "nas_nets.json").read_text("utf-8"))[
    "nets"
]
FAMILIES = ("darts", "hrnet", "mobilenetv1", "nasnet", "pnasnet", "randwire", "segmentation", "unet")

# Operators as the traces name them; views and what is the identity in inference are left out there.
_TRACED = {
    "conv2d": "conv",
    "batch_norm2d": "bn",
    "max_pool2d": "max_pool",
    "avg_pool2d": "avg_pool",
    "adaptive_avg_pool2d": "gap",
}
_UNTRACED = ("input", "flatten", "dropout")


@functools.cache  # the tests only read these
def net(key: str, train: bool = False) -> Graph:
    return zoo.load(key.split(maxsplit=1)[0], train=train, **NETS.get(key, {}).get("args", {}))


def trace(g: Graph) -> str:
    line: dict[str, int] = {}
    rows: list[str] = []
    for n in g.nodes():
        op, a = g.op_of(n), g.attributes(n)
        inputs = [line[t.node] for t in g.inputs_of(n)]
        if op in _UNTRACED:
            line[n] = inputs[0] if inputs else -1
            continue
        conv = [list(a[k]) for k in ("kernel_size", "stride", "dilation")] if op == "conv2d" else []
        conv += [a["groups"], a["bias"]] if conv else []
        shape = list(g.tensors_of(n)[0].shape)
        line[n] = len(rows)
        rows.append(json.dumps([_TRACED.get(op, op) + "_" * a.get("inplace", False), shape, conv, inputs]))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


@pytest.mark.parametrize("key", NETS)
def test_parameter_counts_equal_the_published_ones(key):
    assert net(key).n_parameters == NETS[key]["params"]


@pytest.mark.parametrize("key", [k for k in NETS if "macs" in NETS[k]])
def test_multiply_accumulates_equal_the_published_ones(key):
    assert cnnlive.lower(net(key)).macs() == NETS[key]["macs"]


@pytest.mark.parametrize("key", [k for k in NETS if "args" not in NETS[k]])
def test_only_training_adds_the_auxiliary_head(key):
    expected = NETS[key].get("train_params", NETS[key]["params"])
    assert net(key, train=True).n_parameters == expected
    assert len(net(key).outputs) == 1
    assert len(net(key, train=True).outputs) == 1 + ("train_params" in NETS[key])


@pytest.mark.parametrize(("key", "mode"), [(k, m) for k in NETS for m in ("trace", "train_trace") if m in NETS[k]])
def test_every_op_shape_flag_and_edge_equals_the_traced_module(key, mode):
    assert trace(net(key, train=mode == "train_trace")) == NETS[key][mode]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_file_holds_what_its_family_lists(family):
    nets = importlib.import_module(f"cnnlive.zoo.{family}").NETS
    assert sorted(nets) == zoo.names(family)
    for name, builder in nets.items():
        assert name in NETS or name == "randwire"
        assert net(name).name == name
        assert {"num_classes", "resolution"} <= set(zoo.arguments(name))
        first, *others = inspect.signature(builder).parameters.values()
        assert first.name == "train"
        assert {p.kind for p in others} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", [n for f in FAMILIES for n in zoo.names(f)])
def test_classes_and_resolution_are_arguments(name):
    resolution = 64 if zoo.arguments(name)["resolution"] == 32 else 96
    g = zoo.load(name, num_classes=7, resolution=(resolution, 2 * resolution))
    assert g.inputs[0].shape == (1, 3, resolution, 2 * resolution)
    dense = name == "unet" or name in zoo.names("segmentation")
    assert g.outputs[0].shape == ((1, 7, resolution, 2 * resolution) if dense else (1, 7))


@pytest.mark.parametrize(
    (
        "name",
        "args",
        "params",
    ),  # NASNet-A (4 @ 1056) of pretrained-models.pytorch, timm's hrnet_w30 and hrnet_w48
    [
        ("nasnet_a_large", {"num_cells": 4, "penultimate_filters": 1056, "stem_filters": 32}, 5_289_978),
        ("darts_v1", {"genotype": "darts_v2"}, 3_349_342),
        ("hrnet_w18", {"width": 30}, 37_712_220),
        ("hrnet_w18", {"width": 48}, 77_469_864),
    ],
)
def test_other_sizes_have_their_published_counts(name, args, params):
    assert zoo.load(name, **args).n_parameters == params


def test_size_arguments_change_the_net():
    assert len(zoo.load("pnasnet5_large", num_cells=2)) < len(net("pnasnet5_large"))
    assert len(zoo.load("darts_v2", layers=8)) < len(net("darts_v2"))
    assert zoo.load("darts_v2", channels=16).n_parameters < net("darts_v2").n_parameters
    assert len(zoo.load("unet", depth=3)) < len(net("unet"))
    assert zoo.load("unet", width=32).n_parameters < net("unet").n_parameters
    pyramid = zoo.load("deeplabv3_resnet50", rates=(6, 12, 18, 24))
    assert pyramid.attributes("classifier.0.convs.4.0")["dilation"] == (24, 24)


def test_a_dilated_backbone_keeps_an_eighth_of_the_resolution():
    g = net("fcn_resnet50")
    for name, dilation in (("layer3.0", 1), ("layer3.1", 2), ("layer4.0", 2), ("layer4.1", 4)):
        assert g.attributes(f"backbone.{name}.conv2")["dilation"] == (dilation, dilation)
        assert g.tensors_of(f"backbone.{name}.conv2")[0].shape[2:] == (28, 28)


def test_plain_skip_connections_add_no_op_and_reducing_ones_do():
    g = net("darts_v2")
    assert not [n for n in g.nodes() if n.startswith("cells.0._ops.5")]
    reduce = zoo.load("darts_v2", genotype=GENOTYPES["darts_v2"]._replace(reduce=(("skip_connect", 0),) * 8))
    assert g.op_of("cells.6.preprocess1.op.1") == "conv2d"
    assert reduce.op_of("cells.6._ops.0.shift") == "slice"
    assert reduce.op_of("cells.6._ops.0.conv_2") == "conv2d"


def test_drop_path_is_active_in_training_and_spares_plain_skip_connections():
    def drops(g: Graph) -> list[str]:
        return [n for n in g.nodes() if g.op_of(n) == "stochastic_depth" and n.startswith("cells.0.")]

    assert drops(net("darts_v2")) == []
    expected = [f"cells.0.drop_path.{i}" for i in (0, 1, 2, 3, 4, 7)]
    assert drops(net("darts_v2", train=True)) == expected
    assert drops(zoo.load("darts_v2", train=True, drop_path=0.0)) == []
    assert drops(net("darts_v2_imagenet", train=True)) == []


def test_the_auxiliary_head_overwrites_what_later_cells_read():
    g = net("darts_v2", train=True)
    assert g.attributes("auxiliary_head.features.0")["inplace"]
    for reader in ("cells.14.preprocess1.op.0", "cells.15.preprocess0.op.0", "auxiliary_head.features.1"):
        assert [t.node for t in g.inputs_of(reader)] == ["auxiliary_head.features.0"]


def test_one_seed_gives_one_random_net_and_another_seed_another():
    assert zoo.load("randwire", seed=3).to_dict() == zoo.load("randwire", seed=3).to_dict()
    assert zoo.load("randwire", seed=3).to_dict() != zoo.load("randwire", seed=4).to_dict()


def test_the_first_random_stage_is_wired_as_networkx_draws_it():
    g = zoo.load("randwire", seed=5)
    expected = nx.connected_watts_strogatz_graph(32, 4, 0.75, seed=5)
    for v in range(32):
        before = sorted(u for u in expected[v] if u < v)
        sources = [f"dagly3.nodes.{u}.bn" for u in before] or ["bn2"]
        if len(before) > 1:
            found = [g.inputs_of(f"dagly3.nodes.{v}.mul.{i}")[0].node for i in range(len(before))]
            assert g.op_of(f"dagly3.nodes.{v}.agg_weight.{len(before) - 1}") == "parameter"
        else:
            found = [t.node for t in g.inputs_of(f"dagly3.nodes.{v}.relu")]
            assert f"dagly3.nodes.{v}.agg_weight.0" not in g
        assert found == sources
        assert g.attributes(f"dagly3.nodes.{v}.conv.conv")["stride"] == ((1, 1) if before else (2, 2))


@pytest.mark.parametrize(
    ("args", "params", "macs"),  # Xie et al., arXiv:1904.01569: mean of five random nets
    [
        ({}, 5.6e6, 583e6),
        ({"regime": "regular", "channels": 109}, 31.9e6, 4.0e9),
        ({"regime": "regular", "channels": 154}, 61.5e6, 7.9e9),
    ],
)
def test_five_random_nets_have_the_published_mean_size(args, params, macs):
    nets = [zoo.load("randwire", seed=seed, **args) for seed in range(5)]
    assert sum(g.n_parameters for g in nets) / 5 == pytest.approx(params, rel=0.02)
    assert sum(cnnlive.lower(g).macs() for g in nets) / 5 == pytest.approx(macs, rel=0.02)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("mobilenet_v1", {"width": 0}, "width=0"),
        ("mobilenet_v1", {"depth": 3}, "no argument 'depth'"),
        ("unet", {"depth": 0}, "depth=0"),
        ("hrnet_w18", {"modules": (1, 2)}, "modules"),
        ("nasnet_a_large", {"num_cells": 0}, "num_cells=0"),
        ("nasnet_a_large", {"penultimate_filters": 100}, "multiples of 96"),
        ("pnasnet5_large", {"filters": 50}, "multiples of 8"),
        ("darts_v2", {"genotype": "darts_v3"}, "darts_v1, darts_v2, nasnet_a, amoebanet"),
        ("darts_v2", {"layers": 2}, "layers=2"),
        ("darts_v2", {"channels": 35}, "even"),
        ("darts_v2", {"drop_path": 1.0}, "less than 1"),
        ("randwire", {"regime": "large"}, "'small', 'regular'"),
        ("randwire", {"nodes": 4}, "nodes=4"),
        ("randwire", {"p": 2}, "p=2"),
        ("randwire", {"seed": None}, "seed=None"),
    ],
)
def test_wrong_arguments_are_clear_errors(name, args, words):
    with pytest.raises(AttributeValueError, match=words):
        zoo.load(name, **args)


def test_a_genotype_of_your_own_is_checked():
    good = Genotype((("dil_conv_5x5", 0), ("max_pool_3x3", 1)), (2,), (("sep_conv_3x3", 0), ("skip_connect", 1)), (2,))
    assert zoo.load("darts_v2", genotype=good, layers=3).name == "darts"
    with pytest.raises(AttributeValueError, match="unknown operation 'none'"):
        zoo.load("darts_v2", genotype=good._replace(normal=(("none", 0), ("none", 1))))
    with pytest.raises(AttributeValueError, match="reads state 2; allowed: 0 to 1"):
        zoo.load("darts_v2", genotype=good._replace(normal=(("skip_connect", 2), ("skip_connect", 1))))


def test_impossible_resolutions_name_the_op_that_fails():
    with pytest.raises(ShapeError, match=r"auxiliary_head\.features\.1"):
        zoo.load("darts_v2", train=True, resolution=16)
    with pytest.raises(AttributeValueError, match="auxiliary head"):
        zoo.load("darts_v2_imagenet", train=True, resolution=288)
    with pytest.raises(CnnliveError, match="fuse_add"):
        zoo.load("hrnet_w18", resolution=200)
