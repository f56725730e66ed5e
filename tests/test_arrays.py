"""Nets of plain arrays: sizes, and which tensors each op reads and writes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnlive import Lowered, plan_inference, plan_order, plan_training, rules_of_thumb
from cnnlive.errors import CycleError, GraphError, LoweringError, ShapeError
from cnnlive.nas import evaluate_batch


def chain(**how):
    return Lowered.from_arrays([8, 4, 4, 2], [[0], [1], [2]], [[1], [2], [3]], **how)


def test_sizes_and_edges_are_those_given():
    net = Lowered.from_arrays([8, 4, 6, 2], [[0], [0, 1]], [[1, 2], [3]], name="plain")
    assert net.op_names == ("input0", "op0", "op1")
    assert [net.tensor_name(t) for t in range(4)] == ["input0", "op0", "op0:1", "op1"]
    plan = plan_inference(net)
    assert plan.timeline.tolist() == [8, 18, 20]  # op0:1 is an output, and kept
    assert plan.weight_bytes == 0
    assert [b.name for b in plan.outputs] == ["op0:1", "op1"]


def test_lists_and_pairs_of_arrays_are_the_same():
    rows = [[0], [1, 0], [2]]
    ptr, idx = np.array([0, 1, 3, 4]), np.array([0, 1, 0, 2])
    a = Lowered.from_arrays([8, 4, 4, 2], rows, [[1], [2], [3]])
    b = Lowered.from_arrays(np.array([8, 4, 4, 2]), (ptr, idx), (np.arange(4), np.array([1, 2, 3])))
    assert a.in_idx.tolist() == b.in_idx.tolist()
    assert a.out_ptr.tolist() == b.out_ptr.tolist()
    assert all(not v.flags.writeable and v.dtype == np.int64 for v in (b.in_idx, b.scratch, b.alias, b.reads))


def test_scratch_counts_while_its_op_runs_under_every_profile():
    net = chain(scratch=[0, 100, 0])
    for profile in ("ideal", "torch_fx"):
        plan = plan_inference(net, profile=profile, inplace="never")
        assert plan.activation_peak_bytes == 108 + (8 if profile == "torch_fx" else 0)
        assert plan.scratch_at_peak == 100


def test_an_op_takes_over_the_first_input_that_dies_with_its_size():
    # op 2 may write into either input; the first is wanted later, the second is not
    net = Lowered.from_arrays([4, 4, 4, 4, 4], [[0], [0], [1, 2], [1, 3]], [[1], [2], [3], [4]],
                              inplace=[[], [], [1, 2], []])  # fmt: skip
    plan = plan_inference(net)
    assert plan.buffer_of["op2"] == "op1"
    assert plan_inference(net, inplace="never").buffer_of["op2"] == "op2"
    assert plan_inference(net, inplace="dead").buffer_of["op2"] == "op1"


def test_inputs_to_take_over_are_tried_in_the_order_named():
    net = Lowered.from_arrays([4, 4, 4, 4], [[0], [0], [1, 2, 1]], [[1], [2], [3]], inplace=[[], [], [2]])
    assert plan_inference(net).buffer_of["op2"] == "op1"
    net = Lowered.from_arrays([4, 4, 4, 4], [[0], [0], [1, 2, 1]], [[1], [2], [3]], inplace=[[], [], [1, 2]])
    assert plan_inference(net).buffer_of["op2"] == "op0"


def test_views_share_bytes():
    net = chain(views=[1])
    assert plan_inference(net).buffer_of["op1"] == "op0"
    assert plan_inference(net).activation_peak_bytes == 12


def test_outputs_may_be_named():
    assert plan_inference(chain(outputs=[1, 3])).timeline.tolist() == [8, 12, 8, 10]
    # a tensor that nobody reads and nobody asked for is dropped at once
    net = Lowered.from_arrays([8, 4, 4], [[0], [0]], [[1], [2]], outputs=[2])
    assert plan_inference(net).timeline.tolist() == [8, 12, 12]


def test_ops_are_put_into_a_legal_order():
    net = Lowered.from_arrays([8, 4, 4, 2], [[2], [0], [1]], [[3], [1], [2]])
    assert net.op_names == ("input0", "op1", "op2", "op0")
    assert plan_inference(net).timeline.tolist() == [8, 12, 8, 6]


def test_a_cycle_is_named():
    with pytest.raises(CycleError, match=r"cycle: op1 -> op2 -> op1|cycle: op2 -> op1 -> op2"):
        Lowered.from_arrays([1, 1, 1, 1], [[0], [1, 3], [2]], [[1], [2], [3]])


def test_there_is_one_batch_and_nothing_to_train_or_fuse():
    net = chain(name="plain")
    with pytest.raises(ShapeError, match="at batch 2: it was made of plain sizes"):
        plan_inference(net, batch=2)
    for ask in (
        lambda: plan_training(net, batch=1),
        lambda: rules_of_thumb(net, batch=1),
        lambda: evaluate_batch([net]),
    ):
        with pytest.raises(GraphError, match="needs to know what the ops of plain do"):
            ask()
    assert net.fused() is net
    assert plan_inference(net, dtype="float16").activation_peak_bytes == 12


GOOD = ([8, 4, 2], [[0], [1]], [[1], [2]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nbytes": [8, -4, 2]}, r"nbytes\[1\] is -4; allowed: 0 or more"),
        ({"nbytes": [8, 4.5, 2]}, "nbytes is 1-dimensional of float64"),
        ({"nbytes": [2**62, 4, 2]}, "allowed: 0 or more, below"),
        ({"nbytes": [2**61, 2**61, 2]}, "all sizes together reach"),
        ({"op_inputs": [[0], [7]]}, "op_inputs of op 1 has tensor 7; allowed: 0 to 2"),
        ({"op_inputs": [[0]]}, "op_inputs has 1 ops and op_outputs 2"),
        ({"op_inputs": [[0], [1.5]]}, r"op_inputs has 1\.5; allowed: numbers of tensors"),
        ({"op_inputs": [], "op_outputs": []}, "op_inputs has no ops"),
        ({"op_inputs": (np.array([0, 1, 3]), np.array([0, 1]))}, "op_inputs is no CSR pair; allowed: pointers"),
        ({"op_inputs": (np.array([0.0, 1, 2]), np.array([0, 1]))}, "op_inputs is no CSR pair; allowed: two"),
        ({"op_outputs": [[1], [1]]}, "tensor 1 is written by op0 and by op1"),
        ({"op_outputs": [[1, 1], [2]]}, "tensor 1 is written by op0 and by op0"),
        ({"op_outputs": [[1, 2], []]}, "op1 writes no tensor"),
        ({"nbytes": [8, 4, 2, 9]}, "tensor 3 is neither written nor read"),
        ({"scratch": [1]}, "scratch has 1 ops and op_outputs 2"),
        ({"scratch": [1, -1]}, r"scratch\[1\] is -1"),
        ({"inplace": [[], [0]]}, "op1 takes over tensor 0, which it does not read"),
        ({"inplace": [[]]}, "inplace has 1 ops"),
        ({"inplace": [[], [1]], "views": [1]}, "op1 takes over an input; allowed"),
        ({"views": [2]}, "views names op 2; allowed: 0 to 1"),
        ({"op_inputs": [[], [1, 0]], "views": [0]}, "op0 is a view, and reads no tensor"),
        ({"outputs": [3]}, "outputs names tensor 3; allowed: 0 to 2"),
        ({"op_names": ["a", "a"]}, "two ops are called 'a'"),
        ({"op_names": ["a"]}, "op_names has 1 ops"),
    ],
)
def test_what_is_not_well_formed_is_named(change, words):
    arguments = dict(zip(("nbytes", "op_inputs", "op_outputs"), GOOD, strict=True)) | change
    with pytest.raises(LoweringError, match=words):
        Lowered.from_arrays(**arguments)


@st.composite
def nets(draw):
    n = draw(st.integers(1, 9))
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=n + 1, max_size=n + 1))
    rows = [sorted(draw(st.sets(st.integers(0, i), min_size=1, max_size=3))) for i in range(n)]
    return sizes, rows, [[i + 1] for i in range(n)], draw(st.permutations(range(n)))


@given(nets())
def test_shuffled_ops_are_the_same_net(net):
    sizes, reads, writes, shuffle = net
    # what no op reads is an output either way, so only the order of ops is up to the shuffle
    a = Lowered.from_arrays(sizes, reads, writes)
    b = Lowered.from_arrays(sizes, [reads[i] for i in shuffle], [writes[i] for i in shuffle],
                            op_names=[f"op{i}" for i in shuffle])  # fmt: skip
    assert set(a.op_names) == set(b.op_names)
    assert plan_order(a).peak_bytes == plan_order(b).peak_bytes
    assert plan_inference(b, order=a.op_names).timeline.tolist() == plan_inference(a).timeline.tolist()
