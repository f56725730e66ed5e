from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cnnlive import zoo
from cnnlive.errors import AttributeValueError, CnnliveError, ShapeError, UnknownNetError
from cnnlive.graph import Graph
from cnnlive.zoo import densenet as densenet_file
from cnnlive.zoo import resnet as resnet_file
from cnnlive.zoo import vgg as vgg_file

DATA = Path(__file__).parent / "data"
COUNTS: dict[str, dict[str, float]] = json.loads((DATA / "torchvision_counts.json").read_text("utf-8"))["nets"]
TRACES: dict[str, dict[str, Any]] = json.loads((DATA / "torchvision_ops.json").read_text("utf-8"))["nets"]

_default = functools.cache(zoo.load)  # the tests below only read these


def kinds(g: Graph) -> Counter[str]:
    return Counter(g.op_of(n) + "_" * g.attributes(n).get("inplace", False) for n in g.nodes())


def convs(g: Graph) -> int:
    return kinds(g)["conv2d"]


def macs(g: Graph) -> int:
    total = 0
    for n in g.nodes():
        if g.op_of(n) not in ("conv2d", "linear"):
            continue
        (x,), (y,), a = g.inputs_of(n), g.tensors_of(n), g.attributes(n)
        each = x.shape[-1] if g.op_of(n) == "linear" else x.shape[1] // a["groups"] * math.prod(a["kernel_size"])
        total += math.prod(y.shape) * each
    return total


def digest(g: Graph) -> str:
    line = {n: i for i, n in enumerate(g.nodes())}
    rows: list[Any] = []
    for n in g.nodes():
        shapes = [list(t.shape) for t in g.tensors_of(n)]
        inputs = [[line[t.node], t.output] for t in g.inputs_of(n)]
        rows.append([g.op_of(n), shapes, g.attributes(n).get("inplace", False), inputs])
    rows.append([[line[t.node], t.output] for t in g.outputs])
    return hashlib.sha256("\n".join(map(json.dumps, rows)).encode()).hexdigest()


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_equal_the_published_ones(name):
    with_auxiliary_head = name == "inception_v3"
    assert _default(name, train=with_auxiliary_head).n_parameters == COUNTS[name]["params"]


@pytest.mark.parametrize("name", COUNTS)
def test_multiply_accumulates_equal_the_published_ones(name):
    assert round(macs(_default(name, train=False)) / 1e9, 3) == COUNTS[name]["gmacs"]


@pytest.mark.parametrize("key", TRACES)
def test_every_op_shape_flag_and_edge_equals_the_traced_module(key):
    name, _, mode = key.partition("@")
    g = _default(name, train=mode == "train")
    assert kinds(g) == TRACES[key]["kinds"]
    assert digest(g) == TRACES[key]["digest"]


def test_all_published_nets_are_traced_and_listed():
    assert set(COUNTS) == {key for key in TRACES if "@" not in key}
    assert set(COUNTS) <= set(zoo.names())


@pytest.mark.parametrize("family", sorted({zoo._FAMILY_OF[name] for name in COUNTS}))
def test_each_file_holds_what_its_family_lists(family):
    nets = importlib.import_module(f"cnnlive.zoo.{family}").NETS
    assert sorted(nets) == zoo.names(family)
    for name, builder in nets.items():
        assert zoo.load(name).name == name
        assert {"num_classes", "resolution"} <= set(zoo.arguments(name))
        parameters = list(inspect.signature(builder).parameters.values())
        assert parameters[0].name == "train"
        assert {p.kind for p in parameters[1:]} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("name", "evaluation", "training", "outputs"),
    [
        ("googlenet", 6_624_904, 13_004_888, ["fc", "aux2.fc2", "aux1.fc2"]),
        ("inception_v3", 23_834_568, 27_161_264, ["fc", "AuxLogits.fc"]),
    ],
)
def test_auxiliary_heads_exist_only_in_training(name, evaluation, training, outputs):
    g, trained = _default(name, train=False), _default(name, train=True)
    assert (g.n_parameters, trained.n_parameters) == (evaluation, training)
    assert [t.name for t in g.outputs] == ["fc"]
    assert [t.name for t in trained.outputs] == outputs
    assert [n for n in trained.nodes() if not n.startswith(("aux", "AuxLogits"))] == g.nodes()


@pytest.mark.parametrize(
    ("name", "expected", "last", "shape"),
    [
        ("alexnet", 5, "features.12", (1, 256, 6, 6)),
        ("vgg16", 13, "features.30", (1, 512, 7, 7)),
        ("resnet18", 20, "layer4.1.relu_1", (1, 512, 7, 7)),
        ("resnet50", 53, "layer4.2.relu_2", (1, 2048, 7, 7)),
        ("densenet121", 120, "features.norm5", (1, 1024, 7, 7)),
        ("inception_v3", 94, "Mixed_7c.concat_2", (1, 2048, 8, 8)),
        ("mobilenet_v2", 52, "features.18.2", (1, 1280, 7, 7)),
        ("efficientnet_b7", 273, "features.8.2", (1, 2560, 19, 19)),
        ("convnext_tiny", 22, "features.7.2.add", (1, 768, 7, 7)),
    ],
)
def test_convolutions_and_final_features_are_those_of_the_papers(name, expected, last, shape):
    g = _default(name, train=False)
    assert convs(g) == expected
    assert g.tensors_of(last)[0].shape == shape


def test_resnet_adds_and_activates_in_place_in_the_reference_order():
    g = _default("resnet50", train=False)
    block = [n for n in g.nodes() if n.startswith("layer1.0.")]
    assert [n.removeprefix("layer1.0.") for n in block] == [
        *("conv1", "bn1", "relu", "conv2", "bn2", "relu_1", "conv3", "bn3"),
        *("downsample.0", "downsample.1", "add", "relu_2"),
    ]
    assert [t.name for t in g.inputs_of("layer1.0.add")] == ["layer1.0.bn3", "layer1.0.downsample.1"]
    for n in g.nodes():
        if g.op_of(n) in ("relu", "add"):
            assert g.attributes(n)["inplace"]


def test_mobilenet_v2_adds_out_of_place_to_its_input_and_v3_in_place_to_its_branch():
    v2, v3 = _default("mobilenet_v2", train=False), _default("mobilenet_v3_large", train=False)
    assert [t.name for t in v2.inputs_of("features.3.add")] == ["features.2.conv.3", "features.3.conv.3"]
    assert [t.name for t in v3.inputs_of("features.1.add")] == ["features.1.block.1.1", "features.0.2"]
    assert (kinds(v2)["add"], kinds(v2)["add_"]) == (10, 0)
    assert (kinds(v3)["add"], kinds(v3)["add_"]) == (0, 10)


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_tiny", "vgg11", "mobilenet_v3_small"])
def test_dropout_and_stochastic_depth_stand_in_both_graphs(name):
    g, trained = _default(name, train=False), _default(name, train=True)
    assert g.nodes() == trained.nodes()
    assert {"dropout", "dropout_", "stochastic_depth"} & set(kinds(g))


@pytest.mark.parametrize("name", [n for n in COUNTS if not n.startswith(("regnet_y_128", "efficientnet_v2"))])
def test_other_classes_and_resolutions_change_what_they_should(name):
    g, other = _default(name, train=False), zoo.load(name, num_classes=10, resolution=(256, 320))
    assert other.inputs[0].shape == (1, 3, 256, 320)
    assert math.prod(other.outputs[0].shape) == 10
    assert g.nodes() == other.nodes()
    assert other.n_parameters < g.n_parameters


@pytest.mark.parametrize(
    ("name", "args", "same"),
    [
        ("mnasnet0_5", {"width": 2}, "mnasnet1_0"),
        ("efficientnet_b0", {"width": 1.4, "depth": 1.8}, "efficientnet_b4"),
        ("resnet50", {"width_per_group": 128}, "wide_resnet50_2"),
        ("resnet", {"depth": 152}, "resnet152"),
        ("resnet", {"depth": 101, "groups": 32, "width_per_group": 8}, "resnext101_32x8d"),
        ("densenet", {"depth": 161, "growth_rate": 48}, "densenet161"),
        ("vgg11", {"layers": (2, 2, 4, 4, 4), "batch_norm": True}, "vgg19_bn"),
        ("convnext_tiny", {"depths": (3, 3, 27, 3)}, "convnext_small"),
        ("regnet_x_400mf", {"depth": 16, "w_0": 56, "w_a": 35.73, "w_m": 2.28}, "regnet_x_800mf"),
    ],
)
def test_arguments_lead_from_one_published_net_to_another(name, args, same):
    published = _default(same, train=False)
    g = zoo.load(name, **args, resolution=zoo.arguments(same)["resolution"])
    assert digest(g) == digest(published)
    assert g.n_parameters == published.n_parameters


# Parameters of the reference implementation with width_mult (MobileNets), alpha (MNASNet) or both factors.
@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [
        ("mobilenet_v2", 0.35, 1_677_128),
        ("mobilenet_v2", 1.4, 6_108_776),
        ("mobilenet_v3_small", 0.75, 1_653_920),
        ("mobilenet_v3_large", 0.25, 617_000),
        ("mnasnet1_0", 0.35, 1_788_232),
    ],
)
def test_widths_round_channels_as_the_reference_does(name, width, parameters):
    assert zoo.load(name, width=width).n_parameters == parameters


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50", "shufflenet_v2_x1_0", "efficientnet_v2_s"])
def test_half_the_width_takes_away_at_least_a_third_of_the_parameters(name):
    ratio = zoo.load(name, width=0.5).n_parameters / _default(name, train=False).n_parameters
    assert 0.2 < ratio < 2 / 3


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("resnet50", {"width": 0}, "width=0; allowed: a number above 0"),
        ("resnet50", {"width": math.nan}, "width=nan"),
        ("vgg11", {"width": math.inf}, "width=inf"),
        ("mobilenet_v2", {"width": "wide"}, "width='wide'"),
        ("efficientnet_b0", {"depth": -1}, "depth=-1"),
        ("resnet18", {"num_classes": 0}, "fc (linear): out_features=0"),
        ("resnet18", {"resolution": 0}, "resolution=0; allowed: an integer of at least 1"),
        ("resnet18", {"resolution": (224, 224.5)}, "resolution[1]=224.5"),
        ("resnet18", {"resolution": (1, 2, 3)}, "allowed: 2 integers"),
        ("resnet18", {"groups": 2}, "allowed without bottleneck"),
        ("resnet18", {"depth": 50}, "takes no argument 'depth'; allowed: num_classes"),
        ("resnet50", {"blocks": (3, 0)}, "blocks[1]=0"),
        ("resnet50", {"blocks": ()}, "blocks=()"),
        ("resnext50_32x4d", {"width": 0.1}, "layer1.0.conv1 (conv2d): out_channels=0"),
        ("resnet", {"depth": 51}, "allowed: 3 n + 2, such as 50 or 53"),
        ("resnet", {"depth": 11}, "an integer of at least 14"),
        ("densenet", {"depth": 120}, "allowed: 2 n + 5, such as 119 or 121"),
        ("plain", {"depth": 5}, "an integer of at least 6"),
        ("vgg11", {"layers": (1, 1)}, "allowed: 5 integers"),
        ("regnet_x_400mf", {"w_m": 1}, "allowed: a number above 1"),
        ("regnet_x_400mf", {"w_0": 30}, "a multiple of 8"),
        ("regnet_x_400mf", {"w_a": -1}, "w_a=-1"),
        ("convnext_tiny", {"dims": (8, 16)}, "as many depths as dims"),
    ],
)
def test_wrong_arguments_are_named_with_what_is_allowed(name, args, words):
    with pytest.raises(AttributeValueError) as error:
        zoo.load(name, **args)
    assert words in str(error.value)


def test_an_image_too_small_for_a_pool_names_the_pool():
    with pytest.raises(ShapeError, match="maxpool2"):
        zoo.load("inception_v3", resolution=20)
    assert issubclass(ShapeError, CnnliveError)


def test_chains_of_ten_thousand_layers_build():
    g = resnet_file.resnet(depth=10_001)
    path = [n for n in g.nodes() if g.op_of(n) in ("conv2d", "linear") and ".downsample." not in n]
    assert len(path) == 10_001
    assert g.outputs[0].shape == (1, 1000)
    assert convs(vgg_file.plain(depth=10_000)) == 9_999


@pytest.mark.parametrize("depth", [14, 17, 26, 50, 101, 152, 200])
def test_resnet_has_the_depth_asked_for(depth):
    g = resnet_file.resnet(depth=depth, resolution=32)
    assert convs(g) + 1 - 4 == depth  # four projections stand beside the main path


@pytest.mark.parametrize("depth", [19, 21, 121, 163, 201])
def test_densenet_has_the_depth_asked_for(depth):
    assert convs(densenet_file.densenet(depth=depth)) + 1 == depth


@pytest.mark.parametrize("depth", [6, 7, 16, 99])
def test_plain_has_the_depth_asked_for(depth):
    g = vgg_file.plain(depth=depth, batch_norm=True)
    assert convs(g) + 1 == depth
    assert kinds(g)["batch_norm2d"] == depth - 1


@pytest.mark.parametrize("family", zoo._FAMILIES)
def test_every_network_is_built_at_a_batch_of_one_under_its_name(family):
    name = zoo.names(family)[0]
    graph = zoo.load(name)
    assert graph.name == name
    assert [t.shape[:2] for t in graph.inputs] == [(1, 3)]
    assert {t.shape[0] for t in graph.outputs} == {1}


def test_an_unknown_network_is_told_from_those_that_exist():
    for ask in (zoo.load, zoo.arguments):
        with pytest.raises(UnknownNetError, match=r"unknown network 'resnet51'; did you mean .*resnet50"):
            ask("resnet51")
    with pytest.raises(UnknownNetError, match="unknown family 'resnets'; allowed: alexnet, "):
        zoo.names("resnets")
