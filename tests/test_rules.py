"""The rules of thumb, by hand."""

import pytest

import cnnlive
from cnnlive import Graph, errors, rules_of_thumb


def test_the_three_rules_by_hand():
    g = Graph()
    x = g.input((1, 2, 4, 4))
    x = g.relu(g.conv2d(x, 4, 1), inplace=True)  # a map of 64 numbers; the ReLU works in it
    x = g.max_pool2d(x, 2)  # 16
    g.linear(g.flatten(x), 3)  # 3; flatten is a view
    w, maps = 4 * (2 * 4 + 4 + 16 * 3 + 3), 4 * (64 + 16 + 3)
    rules = rules_of_thumb(g, batch=5)
    assert rules["training_adam"].nbytes == 2 * w + 5 * maps + w + w
    assert rules["inference"].nbytes == w + 5 * 4 * (64 + 16)
    assert rules["practitioner"].nbytes == 5 * (4 * maps + 4 * 32) + 4 * w
    for rule in rules.values():
        assert sum(rule.terms.values()) == rule.nbytes
        assert rule.to_dict()["nbytes"] == rule.nbytes
        assert rule.formula
        assert rule.goes_wrong


def test_vgg16_is_the_founding_question():
    rules = rules_of_thumb(cnnlive.zoo.load("vgg16"))
    assert rules["inference"].nbytes == 553_430_176 + 2 * 64 * 224 * 224 * 4


def test_half_precision_halves_the_rules():
    net = cnnlive.zoo.load("resnet18")
    full, half = rules_of_thumb(net), rules_of_thumb(net, dtype="float16")
    assert all(full[k].nbytes == 2 * half[k].nbytes for k in full)


def test_an_impossible_batch_is_an_error():
    with pytest.raises(errors.ShapeError, match="batch=0"):
        rules_of_thumb(cnnlive.zoo.load("resnet18"), batch=0)


def test_a_net_of_one_map_has_one():
    g = Graph()
    g.linear(g.input((1, 4)), 2)
    assert rules_of_thumb(g)["inference"].terms["two_maps"] == 8
