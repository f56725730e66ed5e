"""What the theory pages state as propositions holds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs

import cnnlive
from cnnlive.lowered import OVERWRITES


@settings(max_examples=100)
@given(graph=graphs(inplace=False))
def test_without_ops_in_place_the_rule_of_thumb_is_a_lower_bound(graph):
    net = cnnlive.lower(graph)
    assert not (net.alias == OVERWRITES).any()
    plan, rule = cnnlive.plan_inference(net), cnnlive.rules_of_thumb(net)["inference"]
    assert rule.terms["two_maps"] <= plan.activation_peak_bytes


@settings(max_examples=30)
@given(channels=st.lists(st.integers(1, 64), min_size=1, max_size=10))
def test_a_chain_takes_its_two_largest_successive_maps_and_so_does_its_arena(channels):
    g = cnnlive.Graph("chain")
    x = g.input((1, channels[0], 8, 8))
    for width in channels[1:]:
        x = g.conv2d(x, width, kernel_size=1)
    maps = [64 * 4 * width for width in channels]
    most = max((a + b for a, b in pairwise(maps)), default=maps[0])
    assert cnnlive.plan_inference(g).activation_peak_bytes == most
    arena = cnnlive.plan_arena(g, alignment=1)
    assert (arena.arena_bytes, arena.status) == (most, "optimal")


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=20))
def test_buffers_of_one_size_reach_the_load(lives):
    born, length = np.array(lives).T
    plan = cnnlive.plan_arena(cnnlive.Buffers.of(born, born + length, [7] * len(lives)))
    assert plan.arena_bytes == plan.peak_load


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "vgg16"])
def test_the_peak_of_each_phase_is_convex_in_the_batch(name):
    net = cnnlive.lower(cnnlive.zoo.load(name, train=True))
    plans = [cnnlive.plan_training(net, batch=batch) for batch in range(2, 40)]
    for phase in ("forward_peak", "backward_peak", "optimizer_peak", "peak_bytes"):
        slopes = np.diff([getattr(plan, phase) for plan in plans])
        assert (slopes > 0).all()
        assert (np.diff(slopes) >= 0).all()
        assert len(set(slopes.tolist())) <= 8  # straight but for a few bends
