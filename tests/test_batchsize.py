"""Whether a net fits, and with how many images: against every batch tried one by one."""

import json

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive import Graph, lower, zoo
from cnnlive.errors import AttributeValueError, CnnliveError, GraphError, ShapeError, UnitError
from cnnlive.plan.allocator import CudaAllocator
from cnnlive.plan.batchsize import CONTEXT_BYTES, fits, largest_batch
from cnnlive.plan.inference import plan_inference
from cnnlive.plan.training import plan_training

MIB, GIB = 2**20, 2**30


def small_net():
    g = Graph("small")
    x = g.relu(g.batch_norm2d(g.conv2d(g.input((1, 3, 16, 16)), 8, 3, padding=1)), inplace=True)
    x = g.add(g.conv2d(x, 8, 3, padding=1), x)
    g.linear(g.flatten(g.max_pool2d(x, 2)), 10)
    return lower(g)


SMALL = small_net()


def by_trying(budget, most, need, step=1):
    """The largest of the batches, all tried; none may fit after one that does not."""
    good = [batch for batch in range(step, most + 1, step) if need(batch) <= budget]
    assert good == list(range(step, len(good) * step + 1, step))
    return good[-1] if good else 0


# ---------------------------------------------------------------------------------- largest_batch


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_the_largest_batch_is_the_last_that_fits_of_all(optimizer, flavour):
    def need(batch):
        return plan_training(SMALL, batch=batch, optimizer=optimizer, device=flavour).peak_bytes

    options = {"optimizer": optimizer, "flavour": flavour}
    for budget in (need(1) - 1, need(1), need(2), need(7) - 1, need(7), need(7) + 1, need(8) - 1, need(32), need(33)):
        assert largest_batch(SMALL, budget=budget, **options) == by_trying(budget, 40, need)


@settings(max_examples=25)
@given(graph=strategies.training_graphs(max_ops=12), room=st.integers(0, 200_000), step=st.integers(1, 3))
def test_the_largest_batch_of_any_net_is_the_last_that_fits(graph, room, step):
    net = lower(graph)
    found = largest_batch(net, budget=room, optimizer="sgd", multiple_of=step, at_most=20)
    assert found == by_trying(room, 20, lambda b: plan_training(net, batch=b, optimizer="sgd").peak_bytes, step)


def test_the_largest_batch_of_an_inference():
    for profile in ("torch", "torch_fx"):

        def need(batch, profile=profile):
            return plan_inference(SMALL, batch=batch, profile=profile).peak_bytes

        for budget in (need(1) - 1, need(5), need(6) - 1, need(9) + 1):
            found = largest_batch(SMALL, budget=budget, mode="inference", profile=profile)
            assert found == by_trying(budget, 20, need)


def test_multiples_and_bounds():
    budget = plan_training(SMALL, batch=23).peak_bytes
    assert largest_batch(SMALL, budget=budget) == 23
    assert largest_batch(SMALL, budget=budget, multiple_of=8) == 16
    assert largest_batch(SMALL, budget=budget, multiple_of=23) == 23
    assert largest_batch(SMALL, budget=budget, multiple_of=24) == 0
    for most, found in ((1, 1), (2, 2), (16, 16), (22, 22), (23, 23), (24, 23)):
        assert largest_batch(SMALL, budget=budget, at_most=most) == found
    assert largest_batch(SMALL, budget=budget, multiple_of=8, at_most=15) == 8
    assert largest_batch(SMALL, budget=budget, multiple_of=8, at_most=7) == 0


def test_what_does_not_fit_at_all_has_no_batch():
    assert largest_batch(SMALL, budget=0) == 0
    assert largest_batch(zoo.load("vgg16"), budget="500MB") == 0


def test_a_set_aside_context_and_workspace_leave_less():
    need = plan_training(SMALL, batch=9).peak_bytes
    assert largest_batch(SMALL, budget=need + 1000, context_bytes=600, workspace_bytes=400) == 9
    assert largest_batch(SMALL, budget=need + 999, context_bytes=600, workspace_bytes=400) == 8
    assert largest_batch(SMALL, budget=100, context_bytes="1MiB") == 0


def test_the_text_of_an_amount_is_the_amount():
    net = zoo.load("resnet50")
    options = {"optimizer": "sgd", "momentum": 0.9}
    found = largest_batch(net, budget="24GiB", **options)
    assert found == largest_batch(net, budget=24 * GIB, **options)
    assert plan_training(net, batch=found, **options).peak_bytes <= 24 * GIB
    assert plan_training(net, batch=found + 1, **options).peak_bytes > 24 * GIB


def test_a_lighter_precision_optimizer_or_net_takes_more_images():
    net = lower(zoo.load("resnet18"))
    heavy = largest_batch(net, budget="2GiB", optimizer="adam")
    assert 0 < heavy <= largest_batch(net, budget="2GiB", optimizer="sgd")
    assert heavy < largest_batch(net, budget="2GiB", optimizer="adam", precision="autocast")
    assert heavy < largest_batch(net, budget="2GiB", optimizer="adam", frozen_layers=["conv1", "bn1", "layer?"])
    assert heavy < largest_batch(net, budget="2GiB", mode="inference")


def test_a_loss_of_ones_own_is_part_of_every_try():
    g = Graph("own")
    g.linear(g.flatten(g.conv2d(g.input((1, 1, 8, 8)), 4, 3)), 5)

    def squared(graph, outputs):
        return graph.mean(graph.mul(outputs[0], outputs[0]), dim=(0, 1), keepdim=True)

    def need(batch):
        return plan_training(g, batch=batch, loss=squared, optimizer="sgd").peak_bytes

    assert largest_batch(g, budget=need(6), loss=squared, optimizer="sgd") == by_trying(need(6), 12, need) == 6


# ---------------------------------------------------------------------------------- the allocator


def test_reserved_bytes_decide_where_an_allocator_is_given():
    net = lower(zoo.load("squeezenet1_1"))
    tensors = fits(net, device="1GiB", batch=16)
    reserved = fits(net, device="1GiB", batch=16, allocator="cuda")
    assert tensors.needed_bytes == tensors.plan.peak_bytes
    assert reserved.needed_bytes == reserved.plan.reserved_bytes > tensors.needed_bytes
    assert reserved.needed_bytes % (2 * MIB) == 0
    found = largest_batch(net, budget="1GiB", allocator="cuda")
    assert 0 < found <= largest_batch(net, budget="1GiB")
    assert fits(net, device="1GiB", batch=found, allocator="cuda")
    assert not fits(net, device="1GiB", batch=found + 1, allocator="cuda")


def test_an_allocator_short_of_room_gives_unused_segments_back_and_tries_again():
    net = lower(zoo.load("squeezenet1_1"))
    free = plan_training(net, batch=16, allocator="cuda")
    tight = fits(net, device=free.reserved_bytes - 2 * MIB, batch=16, allocator="cuda")
    assert tight.fits == (tight.plan.fits is not False and tight.needed_bytes <= tight.budget_bytes)
    assert tight.needed_bytes <= free.reserved_bytes
    # Less than the tensors themselves is too little for any allocator.
    assert not fits(net, device=free.peak_bytes - 1, batch=16, allocator="cuda")
    # No allocator does worse for having more room.
    answers = [bool(fits(net, device=free.peak_bytes + k * 16 * MIB, batch=16, allocator="cuda")) for k in range(8)]
    assert answers == sorted(answers)


def test_expandable_segments_need_no_more_than_fixed_ones():
    net = lower(zoo.load("resnet18"))
    fixed = fits(net, device="4GiB", batch=32, allocator=CudaAllocator())
    stretched = fits(net, device="4GiB", batch=32, allocator=CudaAllocator(expandable_segments=True))
    assert fixed.plan.peak_bytes <= stretched.needed_bytes <= fixed.needed_bytes
    assert fixed.needed_bytes == fits(net, device="4GiB", batch=32, allocator="cuda").needed_bytes


# ---------------------------------------------------------------------------------- fits


def test_an_answer_says_what_is_needed_and_what_is_left():
    plan = plan_training(SMALL, batch=4, optimizer="adam")
    yes = fits(SMALL, device=plan.peak_bytes + 30, batch=4, optimizer="adam", context_bytes=20, workspace_bytes=10)
    assert yes
    assert (yes.needed_bytes, yes.budget_bytes, yes.free_bytes) == (plan.peak_bytes + 30, plan.peak_bytes + 30, 0)
    assert (yes.context_bytes, yes.workspace_bytes) == (20, 10)
    no = fits(SMALL, device=plan.peak_bytes + 29, batch=4, optimizer="adam", context_bytes=20, workspace_bytes=10)
    assert not no
    assert no.free_bytes == -1
    assert str(yes).startswith("small, batch 4, fits: needs ")
    assert str(no).startswith("small, batch 4, does not fit: needs ")
    assert f"({yes.needed_bytes:,} B)" in str(yes)
    assert json.loads(json.dumps(no.to_dict()))["plan"]["peak_bytes"] == plan.peak_bytes


def test_an_inference_fits_by_its_own_plan():
    plan = plan_inference(SMALL, batch=4, profile="torch")
    assert fits(SMALL, device=plan.peak_bytes, batch=4, mode="inference", profile="torch")
    assert not fits(SMALL, device=plan.peak_bytes - 1, batch=4, mode="inference", profile="torch")


def test_the_context_constant_is_a_measurement_that_nobody_adds_unasked():
    assert 1.75 * GIB <= CONTEXT_BYTES <= 1.85 * GIB
    assert fits(SMALL, device="1GiB").needed_bytes == plan_training(SMALL).peak_bytes
    assert not fits(SMALL, device="1GiB", context_bytes=CONTEXT_BYTES)


# ---------------------------------------------------------------------------------- errors


ASKED = {
    "fits": lambda amount, **options: fits(SMALL, device=amount, **options),
    "largest_batch": lambda amount, **options: largest_batch(SMALL, budget=amount, **options),
}


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"amount": "24 bananas"}, UnitError, "24 bananas"),
        ({"amount": -1}, UnitError, "-1"),
        ({"amount": "1GiB", "context_bytes": "some"}, UnitError, "some"),
        ({"amount": "1GiB", "workspace_bytes": -5}, UnitError, "-5"),
        ({"amount": "1GiB", "mode": "both"}, GraphError, r"mode='both'; allowed: 'training', 'inference'"),
        ({"amount": "1GiB", "allocator": "cpu"}, GraphError, r"allocator='cpu'; allowed: None, 'cuda' or a Cuda"),
        ({"amount": "1GiB", "mode": "inference", "allocator": "cuda"}, GraphError, r"allocator is for mode='training'"),
        ({"amount": "1GiB", "optimizer": "adma"}, AttributeValueError, "adma"),
        ({"amount": "1GiB", "precision": "int4"}, GraphError, "precision='int4'"),
        ({"amount": "1GiB", "flavour": "tpu"}, GraphError, "tpu"),
    ],
)
def test_what_is_not_an_option_is_named(ask, options, error, words):
    with pytest.raises(error, match=words):
        ASKED[ask](**options)


@pytest.mark.parametrize("value", [0, -3, 1.5, True, "8"])
@pytest.mark.parametrize("name", ["multiple_of", "at_most"])
def test_bounds_of_the_batch_are_batches(name, value):
    with pytest.raises(CnnliveError, match=str(value)):
        largest_batch(SMALL, budget="1GiB", **{name: value})


def test_a_batch_that_the_net_cannot_have_is_an_error_and_not_an_answer():
    with pytest.raises(ShapeError):
        fits(SMALL, device="1GiB", batch=0)
    g = Graph("fixed")
    x = g.input((1, 4))
    g.linear(g.concat([x, g.parameter((1, 2))]), 3)  # a token that is not repeated for every image
    assert fits(g, device="1GiB")
    assert largest_batch(g, budget="1GiB") == 1
    with pytest.raises(ShapeError, match="batch 2"):
        fits(g, device="1GiB", batch=2)
    with pytest.raises(ShapeError, match="batch 2"):
        largest_batch(g, budget="1GiB", multiple_of=2)


def test_sizes_beyond_all_bounds_do_not_fit():
    net = lower(zoo.load("resnet18"))
    assert largest_batch(net, budget=2**62 - 1, at_most=1 << 16) == 1 << 16
    assert 0 < largest_batch(net, budget=2**62 - 1, at_most=(1 << 62) - 1) < 1 << 62


def test_an_error_names_the_argument_that_it_is_about():
    for name in ("multiple_of", "at_most"):
        with pytest.raises(ShapeError, match=rf"^{name}=0; allowed"):
            largest_batch(zoo.load("alexnet"), budget="1GiB", **{name: 0})
