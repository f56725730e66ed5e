"""Spaces, batches of lowered graphs and batches of flat nodes: three ways, one meaning."""

import numpy as np
import pytest
import slot_spaces

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
