"""Published search spaces that are chains of slots: NATS size, NAS-Bench-Macro, the OFA spaces, MobileNets."""

from __future__ import annotations

import functools
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_truth
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnlive
from cnnlive import zoo
from cnnlive.errors import AttributeValueError, SpaceError
from cnnlive.nas.spaces.mobilenet import mobilenet
from cnnlive.nas.spaces.nasbench_macro import nasbench_macro
from cnnlive.nas.spaces.nats_size import nats_size
from cnnlive.nas.spaces.ofa_mobilenetv3 import ofa_mobilenetv3
from cnnlive.nas.spaces.ofa_proxyless import ofa_proxyless
from cnnlive.plan.order import plan_order

torch = pytest.importorskip("torch", reason="torch is not installed")
nn, F = torch.nn, torch.nn.functional

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "nas_spaces.json").read_text("utf-8"))
MCUNET = functools.partial(
    ofa_proxyless, widths=[w / 10 for w in range(2, 11)], resolutions=range(48, 225, 16), mix="mcunet"
)
SPACES = {
    "nats_size": nats_size,
    "nats_size imagenet16": functools.partial(nats_size, "imagenet16-120"),
    "nasbench_macro": nasbench_macro,
    "ofa_mobilenetv3": ofa_mobilenetv3,
    "ofa_mobilenetv3 fused": functools.partial(ofa_mobilenetv3, activations="fused", resolutions=(128, 160)),
    "ofa_proxyless": ofa_proxyless,
    "mcunet": functools.partial(MCUNET, widths=(0.2, 0.3, 1.0), resolutions=(48, 80)),
    "mobilenet_v2": functools.partial(mobilenet, 2, resolutions=(96, 128)),
    "mobilenet_v2 by stage": functools.partial(mobilenet, 2, per="stage"),
    "mobilenet_v3": functools.partial(mobilenet, 3, widths=(0.5, 1.0)),
}


@functools.cache
def space(name):
    return SPACES[name]()


def lowered(of, native):
    return cnnlive.lower(of.graph(of.encode(native)))


def with_biases(net, classes):
    """Convention "macs+bias" of a net whose only bias is the classifier's."""
    return net.macs() + classes


# ------------------------------------------------------------------ published numbers


@pytest.mark.parametrize("row", DATA["nats_size"]["cifar10"], ids=lambda r: r["arch"])
@pytest.mark.parametrize(("dataset", "classes", "pixels"), [("cifar10", 10, 4), ("cifar100", 100, 4),
                                                            ("imagenet16-120", 120, 1)])  # fmt: skip
def test_nats_size_counts_are_the_published_ones(row, dataset, classes, pixels):
    net = lowered(nats_size(dataset), row["arch"])
    last = int(row["arch"].split(":")[-1])
    # Other data sets have another classifier, ImageNet16 a quarter of the pixels.
    assert net.n_parameters == row["params"] + (classes - 10) * (last + 1)
    convolutions = row["flops"] - 10 * (last + 1)
    assert with_biases(net, classes) == convolutions * pixels // 4 + classes * (last + 1)


@pytest.mark.parametrize("row", DATA["nats_size"]["cifar10"], ids=lambda r: r["arch"])
def test_nats_size_genotypes_are_the_indices_of_the_bench(row):
    of = space("nats_size")
    x = of.encode(row["index"])
    assert of.decode(x) == row["arch"]
    assert x.tolist() == of.encode(row["arch"]).tolist()
    assert int("".join(map(str, x)), 8) == row["index"]


@pytest.mark.parametrize("arch", DATA["nasbench_macro"]["nets"])
def test_nasbench_macro_counts_are_the_published_ones(arch):
    net = lowered(space("nasbench_macro"), arch)
    assert {"params": net.n_parameters, "flops": net.macs()} == DATA["nasbench_macro"]["nets"][arch]


@given(arch=st.text("012", min_size=8, max_size=8))
def test_nasbench_macro_counts_follow_the_formula_of_the_bench(arch):
    params, flops, channels, pixels = 3 * 32 * 9 + 64, 3 * 32 * 9 * 32**2, 32, 32**2
    for place, layer in enumerate(arch):
        first = place in (0, 2, 5)
        out, after = (2 * channels, pixels // 4) if first else (channels, pixels)
        if layer != "0":
            hidden, taps = (3 * channels, 9) if layer == "1" else (6 * channels, 25)
            params += channels * hidden + 2 * hidden + taps * hidden + 2 * hidden + hidden * out + 2 * out
            flops += channels * hidden * pixels + taps * hidden * after + hidden * out * after
        elif first:
            params += channels * out + 2 * out
            flops += channels * out * after
        channels, pixels = out, after
    params += 256 * 1280 + 2 * 1280 + 1281 * 10
    flops += 256 * 1280 * pixels + 1280 * 10
    net = lowered(space("nasbench_macro"), arch)
    assert (net.n_parameters, net.macs()) == (params, flops)


@pytest.mark.parametrize("activations", ["composed", "fused"])
@pytest.mark.parametrize("row", DATA["ofa_mobilenetv3"]["uniform"], ids=str)
def test_ofa_mobilenetv3_counts_are_those_of_the_reference(row, activations):
    of = ofa_mobilenetv3(activations=activations)
    net = lowered(of, {k: row[k] for k in ("ks", "e", "d")} | {"r": 224})
    assert (net.n_parameters, net.macs()) == (row["params"], row["macs"])


@pytest.mark.parametrize("row", DATA["ofa_mobilenetv3"]["width 1.2"], ids=lambda row: row["macs"])
def test_ofa_mobilenetv3_of_width_1_2_has_the_multiply_accumulates_that_others_measured(row):
    assert lowered(ofa_mobilenetv3(width=1.2), row["arch"]).macs() == row["macs"]


@pytest.mark.parametrize("row", DATA["ofa_mobilenetv3"]["specialised"], ids=lambda row: row["name"])
def test_published_specialised_nets_round_to_their_published_counts(row):
    net = lowered(ofa_mobilenetv3(resolutions=range(128, 225, 4)), row["arch"])
    assert (f"{net.n_parameters / 1e6:.1f}M", f"{net.macs() / 1e6:.0f}M") == (row["params"], row["macs"])


@pytest.mark.parametrize("per", ["block", "stage"])
@pytest.mark.parametrize(("version", "name"), [(2, "mobilenet_v2"), (3, "mobilenet_v3_large")])
def test_one_width_for_all_is_the_mobilenet_of_the_zoo(version, name, per):
    of = mobilenet(version, per=per)
    assert lowered(of, 1.0).n_parameters == {2: 3504872, 3: 5483032}[version]  # torchvision's num_params
    for width in of.widths:
        net, reference = lowered(of, width), cnnlive.lower(zoo.load(name, width=width))
        assert (net.n_parameters, net.macs()) == (reference.n_parameters, reference.macs())
        for profile in ("ideal", "torch", "torch_fx"):
            plans = [cnnlive.plan_inference(g, batch=2, profile=profile) for g in (net, reference)]
            assert plans[0].peak_bytes == plans[1].peak_bytes
            assert plans[0].timeline.tolist() == plans[1].timeline.tolist()
        steps = [cnnlive.plan_training(g, batch=2, optimizer="sgd") for g in (net, reference)]
        assert (steps[0].peak_bytes, steps[0].saved_bytes) == (steps[1].peak_bytes, steps[1].saved_bytes)


# ------------------------------------------------------------------ members and notations


def members_of(of):
    """The number of members by walking the slots' switches: product over stages of sum over depths."""
    depths = [g.name for g in of.genes if g.name[0] == "d" and g.name[1:].isdigit()]
    if not depths:
        return math.prod(g.cardinality for g in of.genes)
    total = math.prod(g.cardinality for g in of.genes if g.name in ("r", "w"))
    total *= (len(of.kernel_sizes) * len(of.expansions)) ** of.stages.count(1)
    return total * sum((len(of.kernel_sizes) * len(of.expansions)) ** d for d in of.depths) ** len(depths)


MEMBERS = {
    "nats_size": 8**5,
    "nats_size imagenet16": 8**5,
    "nasbench_macro": 3**8,
    "ofa_mobilenetv3": (9**2 + 9**3 + 9**4) ** 5 * 7,
    "ofa_proxyless": (9**2 + 9**3 + 9**4) ** 5 * 9 * 7,
    "mcunet": (9**2 + 9**3 + 9**4) ** 5 * 9 * 6,
}


@pytest.mark.parametrize("name", SPACES)
def test_the_number_of_members_is_that_of_the_formula(name):
    of = space(name)
    assert members_of(of) == MEMBERS.get(name, members_of(of))
    assert of.count() == members_of(of)


@pytest.mark.parametrize("name", ["nats_size", "nasbench_macro"])
def test_small_spaces_list_every_member_once(name):
    of = space(name)
    everything = np.concatenate(list(of.members()))
    assert len(everything) == len(np.unique(everything, axis=0)) == MEMBERS[name]
    assert len({of.decode(x) for x in everything[:: 1 if name == "nasbench_macro" else 17]}) in (3**8, 1928)


def drawn(name):
    return st.tuples(*(st.integers(0, g.cardinality - 1) for g in space(name).genes))


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=40)
@given(data=st.data())
def test_decode_and_encode_are_inverse_on_canonical_genotypes(name, data):
    of = space(name)
    x = data.draw(drawn(name))
    canonical = of.canonical(x)[0]
    assert of.encode(of.decode(x)).tolist() == canonical.tolist()
    assert of.decode(canonical) == of.decode(x)
    assert of.canonical(canonical)[0].tolist() == canonical.tolist()


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=10)
@given(data=st.data())
def test_a_genotype_and_its_canonical_one_are_the_same_net(name, data):
    of = space(name)
    x = data.draw(drawn(name))
    assert of.graph(x).to_dict() == of.graph(of.canonical(x)[0]).to_dict()


@pytest.mark.parametrize("name", ["ofa_mobilenetv3", "ofa_proxyless"])
@settings(max_examples=60)
@given(data=st.data())
def test_what_ofa_says_of_blocks_that_are_off_is_not_read(name, data):
    of = space(name)
    x = data.draw(drawn(name))
    arch = of.decode(x)
    stages = [stage for stage, n in enumerate(of.stages) for _ in range(n)]
    first = [sum(of.stages[:stage]) for stage in stages]
    for key, values in (("ks", of.kernel_sizes), ("e", of.expansions)):
        for i, stage in enumerate(stages):
            if i - first[i] >= arch["d"][stage]:
                arch[key][i] = data.draw(st.sampled_from([0, None, *values]))
    assert of.encode(arch).tolist() == of.canonical(x)[0].tolist()


@pytest.mark.parametrize("name", ["ofa_mobilenetv3", "ofa_proxyless"])
@settings(max_examples=60)
@given(data=st.data())
def test_features_are_the_one_hot_vectors_of_ofas_predictor(name, data):
    of = space(name)
    x = np.array(data.draw(st.lists(drawn(name), min_size=1, max_size=4)))
    features = of.features(x)
    assert features.shape == (len(x), 6 * of.n_blocks + 8)
    assert features.dtype == np.float32
    assert of.from_features(features).tolist() == of.canonical(x).tolist()
    for row, hot in zip(x, features, strict=True):
        arch, expected = of.decode(row), []
        stages = [(stage, k) for stage, n in enumerate(of.stages) for k in range(n)]
        for key, values in (("ks", (3, 5, 7)), ("e", (3, 4, 6))):
            for i, (stage, k) in enumerate(stages):
                expected += [float(k < arch["d"][stage] and arch[key][i] == v) for v in values]
        expected += [float((arch["r"][0] - 112) // 16 == k) for k in range(8)]
        assert hot.tolist() == expected


def test_one_value_stands_for_all_blocks_and_numpy_is_welcome():
    of = space("ofa_mobilenetv3")
    x = of.encode({"ks": 5, "e": 4, "d": 3, "r": 192})
    same = [
        {"ks": [5] * 20, "e": [4] * 20, "d": [3] * 5, "r": [192]},
        {"ks": np.full(20, 5), "e": np.full(20, 4.0), "d": (3,) * 5, "image_size": np.int64(192), "wid": None},
        {"ks": 5, "e": 4, "d": 3, "r": 192, "image_size": [192]},
    ]
    for native in same:
        assert of.encode(native).tolist() == x.tolist()
    assert of.decode(x) == {"ks": [5, 5, 5, 3] * 5, "e": [4, 4, 4, 3] * 5, "d": [3] * 5, "r": [192]}


def test_the_last_stage_of_proxyless_has_one_block_whatever_is_asked():
    of = ofa_proxyless(resolutions=160)
    natives = [{"ks": 7, "e": 6, "d": [2, 3, 4, 2, 3, last]} for last in (1, 2, 3, 4)]
    assert len({tuple(of.encode(n)) for n in natives}) == 1
    assert of.decode(of.encode(natives[3]))["d"] == [2, 3, 4, 2, 3, 1]
    assert sum(name.endswith("depth_conv.conv") for name in of.graph(of.encode(natives[0])).nodes()) == 1 + 14 + 1


def test_widths_multiply_every_channel_and_the_first_block_of_proxyless_has_no_shortcut():
    of = MCUNET()
    assert (len(of.widths) * len(of.resolutions), members_of(of)) == (108, (9**2 + 9**3 + 9**4) ** 5 * 9 * 108)
    for wid, width in enumerate(of.widths):
        x = of.encode({"ks": 3, "e": 3, "d": 2, "r": 48, "wid": wid})
        assert of.decode(x)["wid"] == wid
        fixed = ofa_proxyless(width=width, resolutions=48, mix="mcunet")
        g = of.graph(x)
        assert g.to_dict() == fixed.graph(fixed.encode({"ks": 3, "e": 3, "d": 2})).to_dict()
        assert not [n for n in g.nodes() if n.startswith("blocks_0.") and g.op_of(n) == "add"]
        assert g.tensors_of("feature_mix_layer.conv")[0].channels == 1280
    narrow = ofa_proxyless(width=0.2, resolutions=48)
    assert narrow.graph([0] * narrow.n_genes).tensors_of("feature_mix_layer.conv")[0].channels == 256
    bare = ofa_proxyless(width=0.2, resolutions=48, mix="none")
    assert not [n for n in bare.graph([0] * bare.n_genes).nodes() if n.startswith("feature_mix_layer")]


def test_depths_and_other_choices_can_be_restricted():
    of = ofa_mobilenetv3(resolutions=64, kernel_sizes=(3,), expansions=(1, 6), depths=(1,), num_classes=7)
    assert (of.n_genes, of.stages, members_of(of)) == (11, (1, 1, 1, 1, 1), 2**5)
    g = of.graph(of.encode({"ks": 3, "e": [1, 6, 1, 6, 1], "d": 1}))
    assert g.outputs[0].shape == (1, 7)
    assert not [n for n in g.nodes() if n.startswith("blocks_1.conv.inverted_bottleneck")]
    assert [n for n in g.nodes() if n.startswith("blocks_2.conv.inverted_bottleneck")]
    deep = ofa_mobilenetv3(resolutions=64, depths=(4,))
    assert lowered(deep, {"ks": 3, "e": 3, "d": 4}).n_ops > lowered(of, {"ks": 3, "e": 6, "d": 1}).n_ops


def test_mobilenets_take_the_widths_that_give_the_same_channels_for_one():
    of = mobilenet(2, widths=(1.0, 0.35, 0.5), resolutions=(96, 128))
    assert of.widths == (0.35, 0.5, 1.0)
    stem = of.genes[1]
    assert (stem.name, stem.values) == ("features_0", (0.35, 1.0))  # 32 channels give 16 at 0.35 and at 0.5
    x = of.encode({"widths": 0.5, "r": 128})
    said = of.decode(x)
    assert said["r"] == 128
    assert said["widths"][0] == 0.35
    assert of.encode(said).tolist() == x.tolist()
    assert of.graph(x).n_parameters == zoo.load("mobilenet_v2", width=0.5).n_parameters
    with_r = of.encode({"widths": np.full(len(of.genes) - 1, 0.5), "r": 128})
    assert with_r.tolist() == x.tolist()


@pytest.mark.parametrize("name", SPACES)
def test_a_space_can_be_sent_to_another_process(name):
    of = space(name)
    sent = pickle.loads(pickle.dumps(of))
    x = of.random(1, rng=3)[0]
    assert sent.decode(x) == of.decode(x)
    assert sent.encode(of.decode(x)).tolist() == x.tolist()
    assert sent.graph(x).to_dict() == of.graph(x).to_dict()


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "native", "words"),
    [
        ("nats_size", "8:8:8:8", "five numbers"),
        ("nats_size", "8:8:8:8:9", "layer 4 .* has 9 channels"),
        ("nats_size", "8:8:8:8:+8", "five numbers"),
        ("nats_size", "8:8:8:8:08", "layer 4"),
        ("nats_size", 32768, "0 to 32767"),
        ("nats_size", -1, "is no architecture"),
        ("nats_size", None, "is no architecture"),
        ("nats_size", True, "is no architecture"),
        ("nasbench_macro", "0201210", "eight digits"),
        ("nasbench_macro", "02012103", "eight digits"),
        ("nasbench_macro", 2012100, "eight digits"),
        ("ofa_mobilenetv3", "ks", "is no dict"),
        ("ofa_mobilenetv3", {"ks": 3, "e": 3, "r": 224}, "'d' is missing"),
        ("ofa_mobilenetv3", {"ks": 3, "e": 3, "d": 2}, "'r' is missing"),
        ("ofa_mobilenetv3", {"ks": 3, "e": 3, "d": 2, "r": 100}, "r is 100; allowed: 128"),
        ("ofa_mobilenetv3", {"ks": 3, "e": 3, "d": 2, "r": [128, 224]}, "'r' has 2 entries"),
        ("ofa_mobilenetv3", {"ks": 3, "e": 3, "d": 2, "r": 128, "image_size": 224}, "disagree"),
        ("ofa_mobilenetv3", {"ks": 3, "e": 3, "d": 5, "r": 224}, r"d\[0\] is 5; allowed: 2, 3, 4"),
        ("ofa_mobilenetv3", {"ks": 4, "e": 3, "d": 2, "r": 224}, r"ks\[0\] is 4; allowed: 3, 5, 7"),
        ("ofa_mobilenetv3", {"ks": 3, "e": [3] * 19, "d": 2, "r": 224}, "'e' has 19 entries; allowed: 20"),
        ("ofa_mobilenetv3", {"ks": 3, "e": [3, 3, 5, 3] * 5, "d": 2, "r": 224}, r"e\[2\] is 5; allowed: 0, 3, 4, 6"),
        ("ofa_mobilenetv3", {"ks": 3, "e": [3, 0, 3, 3] * 5, "d": 2, "r": 224}, r"e\[1\] is 0; allowed: 3, 4, 6"),
        ("ofa_mobilenetv3", {"ks": None, "e": 3, "d": 2, "r": 224}, r"ks\[0\] is None"),
        ("ofa_mobilenetv3", {"ks": [np.array([3, 5])] * 20, "e": 3, "d": 2, "r": 224}, r"ks\[0\] is array"),
        ("ofa_mobilenetv3", {"ks": "3", "e": 3, "d": 2, "r": 224}, r"ks\[0\] is '3'"),
        ("ofa_mobilenetv3", {"ks": True, "e": 3, "d": 2, "r": 224}, r"ks\[0\] is True"),
        ("ofa_mobilenetv3", {"ks": 3, "e": 3, "d": 2, "r": 224, "wid": 0}, "width of this space is fixed"),
        ("ofa_mobilenetv3", {"ks": 3, "e": 3, "d": 2, "r": 224, "depth": 0}, "unknown key 'depth'"),
        ("ofa_proxyless", {"ks": 3, "e": 3, "d": [2] * 5, "r": 224}, "'d' has 5 entries; allowed: 6"),
        ("ofa_proxyless", {"ks": 3, "e": 3, "d": [2] * 5 + [5], "r": 224}, r"d\[5\] is 5; allowed: 1, 2, 3, 4"),
        ("mcunet", {"ks": 3, "e": 3, "d": 2, "r": 48}, "wid is None"),
        ("mcunet", {"ks": 3, "e": 3, "d": 2, "r": 48, "wid": 3}, "wid is 3; allowed: 0, 1, 2"),
        ("mobilenet_v2", 0.5, "'r' is missing"),
        ("mobilenet_v2", {"widths": 0.6, "r": 96}, "the width of features_0 is 0.6; allowed: 0.35"),
        ("mobilenet_v2", {"widths": [0.5] * 3, "r": 96}, "or 19 of them"),
        ("mobilenet_v2", {"width": 0.5, "r": 96}, "unknown key 'width'; did you mean widths"),
        ("mobilenet_v2", {"widths": 0.5, "r": 100}, "r is 100; allowed: 96, 128"),
        ("mobilenet_v2", "0.5", "is no net"),
    ],
)  # fmt: skip
def test_a_native_value_that_is_none_of_the_space_is_refused_and_says_why(name, native, words):
    with pytest.raises(SpaceError, match=words):
        space(name).encode(native)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nats_size("cifar"), "did you mean cifar10"),
        (lambda: ofa_mobilenetv3(width=0), "width=0"),
        (lambda: ofa_mobilenetv3(width="wide"), "width='wide'"),
        (lambda: ofa_mobilenetv3(resolutions=()), "resolutions="),
        (lambda: ofa_mobilenetv3(resolutions=(128, 128)), "differ"),
        (lambda: ofa_mobilenetv3(resolutions=(128, 0)), r"resolutions\[1\]=0"),
        (lambda: ofa_mobilenetv3(resolutions="224"), "resolutions='224'"),
        (lambda: ofa_mobilenetv3(kernel_sizes=(3, 4)), "odd"),
        (lambda: ofa_mobilenetv3(expansions=(0.5, 3)), "at least 1"),
        (lambda: ofa_mobilenetv3(depths=(0, 2)), "depths=0"),
        (lambda: ofa_mobilenetv3(num_classes=0), "num_classes=0"),
        (lambda: ofa_mobilenetv3(activations="inplace"), "'composed', 'fused'"),
        (lambda: ofa_proxyless(mix="all"), "'ofa', 'mcunet', 'none'"),
        (lambda: ofa_proxyless(widths=()), "widths="),
        (lambda: ofa_proxyless(widths=([1.0],)), r"widths\[0\]=\[1.0\]"),
        (lambda: mobilenet(2, widths=("wide", 1.0)), r"widths\[0\]='wide'"),
        (lambda: ofa_proxyless(widths=(1.0, 1.01)), "1.0 and 1.01 give the same channels"),
        (lambda: mobilenet(1), "2 or 3"),
        (lambda: mobilenet(True), "2 or 3"),
        (lambda: mobilenet(2, per="layer"), "'block', 'stage'"),
        (lambda: mobilenet(2, widths=(0.5, 0.5)), "differ"),
        (lambda: mobilenet(2, widths=(-1.0,)), r"widths\[0\]=-1.0"),
    ],
    ids=map(str, range(22)),
)
def test_an_argument_that_is_not_allowed_is_refused(make, words):
    with pytest.raises(AttributeValueError, match=words):
        make()


def test_features_are_refused_where_ofas_predictor_has_none():
    with pytest.raises(SpaceError, match="no widths"):
        space("mcunet").features(space("mcunet").random(1, rng=0))
    with pytest.raises(SpaceError, match="resolutions"):
        ofa_mobilenetv3(resolutions=(128, 132)).features([0] * 46)
    of = space("ofa_mobilenetv3")
    features = of.features(of.random(3, rng=0))
    features[1, 0:3] = 1
    with pytest.raises(SpaceError, match="row 1"):
        of.from_features(features)
    with pytest.raises(SpaceError, match=r"\(n, 128\)"):
        of.from_features(features[:, 1:])


# ------------------------------------------------------------------ real PyTorch


def cbr(inputs, outputs, kernel=1, stride=1, act=None, groups=1):
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), *([act] if act is not None else []))


class ReluConv(nn.Sequential):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__(nn.ReLU(), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class SizeCell(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.skip = nn.Identity() if inputs == outputs else cbr(inputs, outputs)
        self.first, self.second = ReluConv(inputs, outputs), ReluConv(inputs, outputs)
        self.third, self.fourth, self.fifth = (ReluConv(outputs, outputs) for _ in range(3))

    def forward(self, x):
        nodes = [x]
        for edges in (((self.first, 0),), ((self.second, 0), (self.third, 1)),
                      ((self.skip, 0), (self.fourth, 1), (self.fifth, 2))):  # fmt: skip
            nodes.append(sum(edge(nodes[i]) for edge, i in edges))
        return nodes[-1]


class SizeReduction(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.a, self.b = ReluConv(inputs, outputs, 2), ReluConv(outputs, outputs)
        self.down = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x):
        y = self.a(x)
        y = self.b(y)
        return self.down(x) + y


class SizeNet(nn.Module):
    def __init__(self, arch):
        super().__init__()
        c = [int(part) for part in arch.split(":")]
        self.stem = cbr(3, c[0], 3)
        self.cells = nn.ModuleList(kind(a, b) for kind, a, b in zip((SizeCell, SizeReduction) * 2 + (SizeCell,),
                                                                    [c[0], *c], c, strict=False))  # fmt: skip
        self.last, self.fc = nn.Sequential(nn.BatchNorm2d(c[-1]), nn.ReLU(inplace=True)), nn.Linear(c[-1], 10)

    def forward(self, x):
        feature = self.stem(x)
        for cell in self.cells:
            feature = cell(feature)
        out = self.last(feature)
        out = F.adaptive_avg_pool2d(out, 1)
        return self.fc(out.view(out.size(0), -1))


class HardSwish(nn.Module):
    def __init__(self, inplace=True):
        super().__init__()
        self.inplace = inplace

    def forward(self, x):
        return x * F.relu6(x + 3.0, inplace=self.inplace) / 6.0


class HardSigmoid(nn.Module):
    def forward(self, x):
        return F.relu6(x + 3.0, inplace=True) / 6.0


class Excite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        mid = max(8, int(channels // 4 + 4) // 8 * 8)
        self.fc = nn.Sequential(nn.Conv2d(channels, mid, 1), nn.ReLU(inplace=True), nn.Conv2d(mid, channels, 1),
                                HardSigmoid())  # fmt: skip

    def forward(self, x):
        y = x.mean(3, keepdim=True).mean(2, keepdim=True)
        y = self.fc(y)
        return x * y


class Bottleneck(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, e, act, squeeze):
        super().__init__()
        wide = inputs * e
        self.expand = cbr(inputs, wide, act=act()) if e != 1 else None
        self.depth = cbr(wide, wide, kernel, stride, act(), wide)
        if squeeze:
            self.depth.append(Excite(wide))
        self.project = cbr(wide, outputs)

    def forward(self, x):
        if self.expand is not None:
            x = self.expand(x)
        x = self.depth(x)
        return self.project(x)


class Residual(nn.Module):
    def __init__(self, block, shortcut):
        super().__init__()
        self.block, self.shortcut = block, shortcut

    def forward(self, x):
        return self.block(x) + x if self.shortcut else self.block(x)


class Pool(nn.Module):
    def __init__(self, keepdim):
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x):
        return x.mean(3, keepdim=self.keepdim).mean(2, keepdim=self.keepdim)


class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(960, 1280, 1, bias=False), HardSwish(inplace=False)

    def forward(self, x):
        x = self.conv(x)
        return self.act(x)


class OfaNet(nn.Module):
    """A net of either OFA space, from its dict."""

    def __init__(self, arch, v3):
        super().__init__()
        relu, swish = ((lambda: nn.ReLU(inplace=True)) if v3 else (lambda: nn.ReLU6(inplace=True))), HardSwish
        stages = (
            [(24, 2, relu, 0), (40, 2, relu, 1), (80, 2, swish, 0), (112, 1, swish, 1), (160, 2, swish, 1)] if v3 else
            [(24, 2, relu, 0), (40, 2, relu, 0), (80, 2, relu, 0), (96, 1, relu, 0), (192, 2, relu, 0),
             (320, 1, relu, 0)]
        )  # fmt: skip
        c = 16 if v3 else 32
        self.first = cbr(3, c, 3, 2, swish() if v3 else relu())
        blocks = [Residual(Bottleneck(c, 16, 3, 1, 1, relu, False), v3)]
        c, i = 16, 0
        for (out, stride, act, squeeze), depth in zip(stages, arch["d"], strict=True):
            for k in range(depth):
                s = 1 if k else stride
                block = Bottleneck(c, out, arch["ks"][i + k], s, arch["e"][i + k], act, squeeze)
                blocks.append(Residual(block, s == 1 and c == out))
                c = out
            i += 4
        self.blocks = nn.ModuleList(blocks)
        self.tail = nn.ModuleList([cbr(c, 960, act=swish()), Pool(True), Mix()] if v3 else
                                  [cbr(c, 1280, act=relu()), Pool(False)])  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.1, inplace=True), nn.Linear(1280, 10))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        for part in self.tail:
            x = part(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


class MacroBlock(nn.Module):
    def __init__(self, layer, inputs, outputs, stride):
        super().__init__()
        kernel, e = {"1": (3, 3), "2": (5, 6)}[layer]
        act = functools.partial(nn.ReLU, inplace=True)
        wide = e * inputs
        self.conv = nn.Sequential(*cbr(inputs, wide, act=act()), *cbr(wide, wide, kernel, stride, act(), wide),
                                  *cbr(wide, outputs))  # fmt: skip
        self.shortcut = inputs == outputs and stride == 1

    def forward(self, x):
        return self.conv(x) + x if self.shortcut else self.conv(x)


class MacroNet(nn.Module):
    """NAS-Bench-Macro without the bench's outer list of layers, whose call would hold the stem's output."""

    def __init__(self, arch):
        super().__init__()
        self.stem, c = cbr(3, 32, 3, act=nn.ReLU(inplace=True)), 32
        layers = []
        for place, layer in enumerate(arch):
            stride = 2 if place in (0, 2, 5) else 1
            out = c * stride
            if layer != "0":
                layers.append(MacroBlock(layer, c, out, stride))
            elif stride == 2:
                layers.append(cbr(c, out, 1, 2))
            c = out
        self.features = nn.ModuleList(layers)
        self.out = nn.Sequential(*cbr(c, 1280, act=nn.ReLU(inplace=True)), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(1280, 10)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.features:
            x = layer(x)
        x = self.out(x)
        return self.classifier(x.view(x.size(0), -1))


def real_nets():
    for arch in ("8:8:8:8:8", "16:8:24:8:16", "8:16:16:32:8"):
        yield f"nats_size {arch}", nats_size(), arch, functools.partial(SizeNet, arch), 32
    for arch in ("02012100", "11111111", "00000002"):
        yield f"nasbench_macro {arch}", nasbench_macro(), arch, functools.partial(MacroNet, arch), 32
    three = ofa_mobilenetv3(resolutions=(48, 64), num_classes=10)
    two = ofa_proxyless(resolutions=(48, 64), num_classes=10)
    for seed in range(2):
        for name, of in (("ofa_mobilenetv3", three), ("ofa_proxyless", two)):
            arch = of.decode(of.random(1, rng=seed)[0])
            make = functools.partial(OfaNet, arch, of is three)
            yield f"{name} {seed}", of, arch, make, arch["r"][0]


REAL = {name: rest for name, *rest in real_nets()}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", REAL)
def test_an_inference_takes_what_eager_pytorch_takes(name):
    of, arch, make, resolution = REAL[name]
    net = make().eval()
    real = torch_truth.inference(net, torch.randn(2, 3, resolution, resolution), scalars=False)
    plan = cnnlive.plan_inference(of.graph(of.encode(arch)), batch=2, profile="torch")
    assert plan.parameter_bytes == real.parameter_bytes
    assert plan.peak_bytes == real.peak_bytes


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", REAL)
def test_a_training_step_takes_what_pytorch_takes(name):
    of, arch, make, resolution = REAL[name]
    net, targets = make(), torch.randint(0, 10, (2,))
    real = torch_truth.training_step(net, torch.randn(2, 3, resolution, resolution),
                                     functools.partial(F.cross_entropy, target=targets), targets=[targets])  # fmt: skip
    plan = cnnlive.plan_training(
        of.graph(of.encode(arch)), batch=2, device="cpu", host_scalars=True, optimizer="sgd", loss="cross_entropy"
    )
    assert plan.saved_bytes == real.saved_bytes
    assert plan.forward_peak == real.forward_peak
    assert plan.backward_peak == real.backward_peak


# ------------------------------------------------------------------ the trellis and the plan


@pytest.mark.parametrize("name", SPACES)
def test_evaluate_gives_what_planning_the_graph_gives(name):
    of = space(name)
    xs = of.random(4, rng=7)
    nets = [cnnlive.lower(of.graph(x)) for x in xs]
    metrics = ("params", "macs", "weight_bytes", "inference_peak", "inference_total")
    for asked in ({"profile": "ideal"}, {"profile": "torch"}, {"profile": "torch_fx"}, {"fuse": True},
                  {"inplace": "dead"}, {"profile": "torch", "batch": 3, "dtype": "float16"}):  # fmt: skip
        found = of.evaluate(xs, metrics, **asked)
        for i, net in enumerate(nets):
            plan = cnnlive.plan_inference(net, **asked)
            numbers = (plan.network.n_parameters, plan.macs, plan.weight_bytes,
                       plan.activation_peak_bytes, plan.peak_bytes)  # fmt: skip
            assert [int(found[k][i]) for k in metrics] == list(numbers), (asked, xs[i].tolist())


@pytest.mark.parametrize("name", SPACES)
def test_evaluate_gives_the_least_peak_over_all_orders(name):
    of = space(name)
    xs = of.random(2, rng=9)
    found = of.evaluate(xs, ("minimum_peak", "inference_peak"))
    for i, x in enumerate(xs):
        plan = plan_order(of.graph(x))
        assert plan.optimal
        assert int(found["minimum_peak"][i]) == plan.peak_bytes <= int(found["inference_peak"][i])


@pytest.mark.parametrize("asked", [{}, {"batch": 5}, {"batch": 2, "precision": "autocast"},
                                   {"batch": 2, "device": "cpu"}], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", SPACES)
def test_evaluate_gives_what_planning_a_training_step_gives(name, asked):
    of = space(name)
    xs = of.random(3, rng=8)
    found = of.evaluate(xs, ("saved", "training_peak:sgd", "training_peak:adam"), **asked)
    for i, x in enumerate(xs):
        net = cnnlive.lower(of.graph(x))
        sgd, adam = (cnnlive.plan_training(net, optimizer=o, **asked) for o in ("sgd", "adam"))
        assert {k: int(v[i]) for k, v in found.items()} == {
            "saved": sgd.saved_bytes,
            "training_peak:sgd": sgd.peak_bytes,
            "training_peak:adam": adam.peak_bytes,
        }, x.tolist()
