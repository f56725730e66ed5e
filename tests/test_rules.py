"""The rules of thumb, by hand."""

import pytest

import cnnlive
from cnnlive import Graph, errors, lower, rules_of_thumb


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


def test_the_rules_name_themselves_in_words():
    g = Graph()
    g.linear(g.input((1, 4)), 2)
    found = {k: (r.name, r.formula, r.words) for k, r in rules_of_thumb(g).items()}
    assert found == {
        "training_adam": ("training with Adam", "2w + B·ΣF + w + w",
                          "two moments, every feature map of the batch, the weights and their gradients"),
        "inference": ("inference", "w + max(F_i + F_{i+1})",
                      "the weights and the two most expensive successive feature maps"),
        "practitioner": ("practitioner", "B·(4·ΣF + input) + 4·params",
                         "four times every feature map, the input, and four times the parameters"),
    }  # fmt: skip


def test_running_statistics_stored_operands_and_what_is_not_written_are_no_part_of_the_rules():
    g = Graph()
    x = g.conv2d(g.input((1, 1, 4, 4)), 1, 1, bias=False)  # 16
    x = g.batch_norm2d(x)  # 16, with 2 parameters and 2 statistics
    x = g.mul(x, g.parameter((1, 4, 4)))  # 16, and 16 parameters
    x = g.conv2d(x, 4, 1)  # 64, the middle of the widest pair
    x = g.conv2d(x, 2, 1)  # 32
    x = g.relu(g.reshape(x, (0, -1)), inplace=True)
    w = 1 + 2 + 16 + (4 + 4) + (4 * 2 + 2)
    rules = rules_of_thumb(lower(g), dtype="half")
    assert rules["inference"].nbytes == 2 * (w + 64 + 32)
    assert rules["training_adam"].terms == {
        "weights": 2 * w, "gradients": 2 * w, "moments": 4 * w, "feature_maps": 2 * (3 * 16 + 64 + 32)}  # fmt: skip
    assert rules["practitioner"].terms["input"] == 2 * 16
    with pytest.raises(errors.DTypeError, match="unknown dtype 'int7'"):
        rules_of_thumb(g, dtype="int7")
