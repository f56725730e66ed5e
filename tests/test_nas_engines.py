"""Spaces, batches of lowered graphs and batches of flat nodes: three ways, one meaning."""

import numpy as np
import pytest
import slot_spaces

from cnnlive import lower, zoo
from cnnlive.nas import Batch, evaluate_batch, spaces

METRICS = ("params", "macs", "weight_bytes", "inference_peak", "inference_total", "saved", "training_peak:sgd",
           "training_peak:adam")  # fmt: skip
SETTINGS = [
    {},
    {"batch": 3, "profile": "torch"},
    {"fuse": True, "inplace": "dead", "dtype": "int8", "convention": "macs+bias"},
    {"batch": 2, "precision": "bfloat16", "profile": "torch_fx", "device": "cpu"},
]
SPACES = {
    "chain": slot_spaces.chain,
    "cells": lambda: slot_spaces.cells(slot_spaces.pair, slot_spaces.head_of_both),
    "nats_size": spaces.nats_size,
    "nasbench201": spaces.nasbench201,
    "nasbench101": spaces.nasbench101,
}


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", SPACES)
def test_a_space_gives_what_a_batch_of_its_graphs_gives(name, setting):
    space = SPACES[name]()
    rows = space.random(6, rng=3)
    batch = Batch.from_graphs([space.graph(x) for x in rows])
    by_space = space.evaluate(rows, METRICS, **setting)
    by_batch = evaluate_batch(batch, metrics=METRICS, **setting)
    assert {k: v.tolist() for k, v in by_space.items()} == {k: v.tolist() for k, v in by_batch.items()}


def test_every_space_answers_alike():
    """One interface: genotypes in, columns out, members drawn, native notation both ways."""
    made = [spaces.nasbench101(), spaces.nasbench201(), spaces.nats_size(), spaces.nasbench_macro(), spaces.darts(),
            spaces.ofa_mobilenetv3(), spaces.ofa_proxyless(), spaces.mobilenet(), spaces.regnet(),
            spaces.randwire()]  # fmt: skip
    for space in made:
        rows = space.random(2, rng=0)
        assert (space.canonical(rows) == rows).all()
        found = space.evaluate(rows)
        assert [found[k].dtype for k in found] == [np.int64] * 3
        for x, params in zip(rows, found["params"].tolist(), strict=True):
            assert space.encode(space.decode(x)).tolist() == x.tolist()
            assert space.graph(x).n_parameters == params
        assert space.evaluate([])["params"].tolist() == []


# Parameters and multiply-accumulates at 224: torchvision, timm and Keras agree on them (MobileNetV2, last channels not
# scaled below 1.0; MobileNetV3-large).
MOBILENETS = {
    (2, 0.35): (1_677_128, 59_285_808),
    (2, 0.5): (1_968_680, 97_131_840),
    (2, 0.75): (2_636_424, 209_069_792),
    (2, 1.0): (3_504_872, 300_774_272),
    (2, 1.4): (6_108_776, 582_195_824),
    (3, 1.0): (5_483_032, 216_589_760),
}


@pytest.mark.parametrize("version", [2, 3])
def test_mobilenets_of_published_widths(version):
    widths = tuple(w for v, w in MOBILENETS if v == version)
    space = spaces.mobilenet(version, widths=widths)
    found = space.evaluate([space.encode(w) for w in widths], ("params", "macs"))
    for w, params, macs in zip(widths, found["params"].tolist(), found["macs"].tolist(), strict=True):
        assert (params, macs) == MOBILENETS[version, w]


def test_resnet50_as_pycls_counts_it():
    """facebookresearch/pycls, model_complexity.json, R-50: flops with the bias of the classifier, and activations."""
    net = lower(zoo.load("resnet50"))
    assert evaluate_batch([net], metrics="macs", convention="macs+bias")["macs"] == 4_089_185_256
    counted = np.isin(net.op_kinds, ("conv2d", "max_pool2d", "linear"))
    assert net.sizes.numel[net.out_ptr[:-1][counted]].sum() == 11_315_688
