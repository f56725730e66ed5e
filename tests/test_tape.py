"""Every rise and fall of memory within a step, operator by operator, against PyTorch on the CPU and by hand."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
import torch_truth

from cnnlive import Graph, lower
from cnnlive.plan.training import plan_training

torch = pytest.importorskip("torch", reason="torch is not installed")
nn, F = torch.nn, torch.nn.functional

from cnnlive.io.torch import from_torch  # noqa: E402 - after the check for torch

pytestmark = pytest.mark.usefixtures("one_thread")


class Between(nn.Module):
    """A convolution, a function of the module and of its maps, their mean and a classifier."""

    def __init__(self, function, parts):
        super().__init__()
        self.stem, self.function, self.head = nn.Conv2d(3, 8, 3, padding=1), function, nn.Linear(8, 5)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.head(self.function(self, self.stem(x)).mean((2, 3)))


def vector(*shape):
    return nn.Parameter(torch.ones(shape))


def still(part):
    return part.requires_grad_(False)


def swings(deltas):
    """Bytes by which memory rises and falls in turn: within a rise or a fall the order says nothing of a peak."""
    return [sum(run) for _, run in groupby((d for d in deltas if d), key=lambda d: d > 0)]


def planned_and_measured(net, shape, loss=F.cross_entropy, **options):
    """Swings of memory from the start of forward to the end of backward, and what forward saved."""
    x = torch.randn(shape)
    with torch.no_grad():
        out = net(x)
    target = torch.randint(0, 5, (shape[0],)) if loss is F.cross_entropy else torch.rand(out.shape)
    real = torch_truth.training_step(net, x, lambda y: loss(y, target), targets=[target])
    plan = plan_training(
        from_torch(net, shape, train=True), batch=shape[0], device="cpu", optimizer="sgd", host_scalars=True, **options
    )
    events = plan._run.events[: int(plan._run.answer[0])]
    deltas = np.sign(events) * plan._run.nbytes[np.abs(events) - 1]
    mine = (plan.saved_bytes, swings(deltas.tolist()))
    theirs = (real.saved_bytes, swings(real.trace.deltas))
    return mine, theirs


def in_place_on_two_slices(net, x):
    y = net.a(x)
    F.silu(y[:, 2:6, 1:5], inplace=True)
    return y


def clamped_slice(net, x):
    y = net.a(x)
    y[:, :4].clamp_(0, 1)
    return y


def doubled_slice(net, x):
    y = net.a(x)
    y[:, :4].mul_(2.0)
    return y


def raised_slice(net, x):
    y = net.a(x)
    y[:, :4].add_(2.0)
    return y


def added_to_a_slice_of_what_takes_no_gradient(net, x):
    y = torch.zeros_like(x)
    y[:, :4].add_(net.a(x)[:, :4])
    return y + x


def in_place_on_a_piece(net, x):
    first, second = torch.chunk(net.a(x), 2, 1)
    return torch.cat([first * 1.5, second.clone().relu_()], 1)


def twice_on_one_view(net, x):
    y = net.a(x)
    view = y[:, :4]
    view.mul_(2.0)
    view.add_(net.b(x)[:, :4])
    return y


def norms(net, x):
    return net.a * torch.norm(x, p=2, dim=1, keepdim=True) + x


def permuted(x):
    return x.permute(0, 2, 3, 1)


def back(x):
    return x.permute(0, 3, 1, 2)


def conv():
    return nn.Conv2d(8, 8, 1)


def wide():
    return nn.Conv2d(8, 8, 3, padding=1)


def turned(op):
    """Put an op between a reshape and a permutation: its gradient comes in permuted, and the reshape copies it."""
    return lambda net, x: permuted(op(net, x.view(-1, 4, 16, 8))).reshape(x.shape)


def mapped(op):
    """Put an op between a permutation and a linear layer, which copies what is still permuted."""
    return lambda net, x: net.a(op(net, permuted(x)))[:, :8]


def rows():
    return nn.Linear(8, 8, bias=False)


def dropped_slice(net, x):
    y = net.a(x)
    F.dropout(y[:, :4], 0.5, net.training, inplace=True)
    return y


# A function of the module and of maps, and the parts of the module.
CASES = {
    "difference": (lambda net, x: net.a(x) - F.relu(x), {"a": conv}),
    "difference from a vector": (lambda net, x: x - net.a, {"a": lambda: vector(1, 8, 1, 1)}),
    "vector less a map": (lambda net, x: net.a - x, {"a": lambda: vector(1, 8, 1, 1)}),
    "quotient by a buffer": (lambda net, x: x / still(net.a), {"a": lambda: still(vector(1, 8, 1, 1))}),
    "product with what stands still": (lambda net, x: x * net.a(x.detach()), {"a": lambda: still(conv())}),
    "addcmul of a map and a vector": (
        lambda net, x: torch.addcmul(x, net.a(x), net.b), {"a": conv, "b": lambda: vector(1, 8, 1, 1)}),
    "addcmul of a vector and a map": (
        lambda net, x: torch.addcmul(x, net.b, net.a(x)), {"a": conv, "b": lambda: vector(1, 8, 1, 1)}),
    "addcmul to a vector": (
        lambda net, x: torch.addcmul(net.b, net.a(x), x), {"a": conv, "b": lambda: vector(1, 8, 1, 1)}),
    "addcmul with a factor that stands still": (
        lambda net, x: torch.addcmul(x, F.relu(net.a(x)), net.b),
        {"a": conv, "b": lambda: still(vector(1, 8, 1, 1))}),
    "maximum with a vector": (lambda net, x: torch.maximum(x, net.a), {"a": lambda: vector(1, 8, 1, 1)}),
    "clamp below and above": (lambda _, x: x.clamp(0, 1), {}),
    "clamp above": (lambda _, x: x.clamp(max=1), {}),
    "clamp below": (lambda _, x: x.clamp(min=0), {}),
    "clamp in place on a slice": (clamped_slice, {"a": conv}),
    "negative": (lambda _, x: -x, {}),
    "times one": (lambda _, x: x * 1.0, {}),
    "times and plus numbers": (lambda _, x: x * 2.0 + 1.0, {}),
    "times a number in place": (lambda net, x: net.a(x).mul_(2.0), {"a": conv}),
    "plus a number in place": (lambda net, x: net.a(x).add_(2.0), {"a": conv}),
    "times a number in place on a slice": (doubled_slice, {"a": conv}),
    "plus a number in place on a slice": (raised_slice, {"a": conv}),
    "a slice of two dimensions in place": (in_place_on_two_slices, {"a": conv}),
    "a sum in place on a slice of zeros": (added_to_a_slice_of_what_takes_no_gradient, {"a": conv}),
    "twice in place on one view": (twice_on_one_view, {"a": conv, "b": conv}),
    "pieces": (in_place_on_a_piece, {"a": conv}),
    "number times a turned map": (turned(lambda _, x: x * 2.0), {}),
    "vector times a turned map": (turned(lambda net, x: x * net.a), {"a": lambda: vector(1, 4, 1, 1)}),
    "dropout of a turned map": (turned(lambda net, x: F.dropout(x, 0.5, net.training)), {}),
    "linear layer on permuted maps": (mapped(lambda _, x: x), {"a": rows}),
    "linear layer on a copy of permuted maps": (mapped(lambda _, x: x.contiguous()), {"a": rows}),
    "linear layer on a multiple of permuted maps": (mapped(lambda _, x: x * 2.0), {"a": rows}),
    "linear layer on a product of permuted maps": (
        mapped(lambda net, x: x * net.b), {"a": rows, "b": lambda: vector(8)}),
    "linear layer on a dropout of permuted maps": (
        mapped(lambda net, x: F.dropout(x, 0.5, net.training)), {"a": rows}),
    "linear layer on a sum of permuted maps and others": (
        mapped(lambda net, x: x.contiguous() + x), {"a": rows}),
    "linear layer on a softmax of permuted maps": (mapped(lambda net, x: x.softmax(-1)), {"a": rows}),
    "linear layer on a norm of permuted maps": (
        mapped(lambda net, x: net.b(x)), {"a": rows, "b": lambda: nn.LayerNorm(8)}),
    "linear layer on permuted and other maps joined": (
        mapped(lambda net, x: torch.cat([x, x.contiguous()], 1)), {"a": rows}),
    "dropout of what takes no gradient": (lambda net, x: x + F.dropout(x.detach(), 0.5, net.training), {}),
    "dropout in place on a slice": (dropped_slice, {"a": conv}),
    "reciprocal": (lambda _, x: (x.abs() + 1).reciprocal(), {}),
    "error function": (lambda _, x: torch.erf(x), {}),
    "largest of channels": (lambda _, x: x + x.amax(1, keepdim=True), {}),
    "largest of everything in a map": (lambda _, x: x + x.amax((2, 3), keepdim=True), {}),
    "norms of channels": (norms, {"a": lambda: vector(1, 8, 1, 1)}),
    "concatenation counted from the end": (lambda net, x: torch.cat([x, net.a(x)], -3)[:, ::2], {"a": conv}),
    "concatenation of maps in two layouts": (
        lambda net, x: back(torch.cat([permuted(x), permuted(net.a(x)).contiguous()], 3))[:, ::2], {"a": conv}),
    "concatenation of permuted maps": (
        lambda net, x: back(torch.cat([permuted(x), permuted(net.a(x))], 3))[:, ::2], {"a": conv}),
    "slice of two dimensions": (lambda _, x: x[:, :, 1:7, 2:6], {}),
    "slice of images and rows": (lambda _, x: x[:, 1:7, 2:6].repeat(1, 2, 2, 1)[:, :8], {}),
    "slice of three dimensions from the end": (lambda _, x: x[..., 1:7, 2:6] * 2.0, {}),
    "pieces of permuted maps": (lambda net, x: torch.cat(net.a(x).permute(0, 2, 3, 1).chunk(2, 1), 3)
                                .permute(0, 3, 1, 2)[:, ::2], {"a": conv}),
    "dropout in place": (lambda net, x: F.dropout(net.a(x), 0.5, net.training, inplace=True), {"a": conv}),
    "dropout": (lambda net, x: F.dropout(x, 0.5, net.training), {}),
    "dropout of nothing": (lambda net, x: net.a(x), {"a": lambda: nn.Dropout(0.0)}),
    "dropout of channels": (lambda net, x: net.a(x), {"a": lambda: nn.Dropout2d(0.5)}),
    "dropout of channels in place": (
        lambda net, x: net.b(net.a(x)), {"a": conv, "b": lambda: nn.Dropout2d(0.5, inplace=True)}),
    "linear layer and a sum in place": (lambda net, x: net.a(x).add_(x), {"a": lambda: nn.Linear(8, 8)}),
    "instance norm and a rectifier in place": (
        lambda net, x: F.relu_(net.a(x)), {"a": lambda: nn.InstanceNorm2d(8, affine=True)}),
    "convolution of maps with channels last": (
        lambda net, x: net.b(back(net.a(permuted(x)))), {"a": lambda: nn.LayerNorm(8), "b": wide}),
    "pointwise convolution of maps with channels last": (
        lambda net, x: net.b(back(net.a(permuted(x)))), {"a": lambda: nn.LayerNorm(8), "b": conv}),
    "depthwise convolution of maps with channels last": (
        lambda net, x: net.b(back(net.a(permuted(x)))),
        {"a": lambda: nn.LayerNorm(8), "b": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8)}),
    "product and number on maps with channels last": (
        lambda net, x: back(net.a(permuted(x))) * 2.0 * F.relu(x), {"a": lambda: nn.LayerNorm(8)}),
    "pointwise convolution of permuted maps": (lambda net, x: back(net.a(permuted(x))), {"a": conv}),
    "depthwise convolution of permuted maps": (
        lambda net, x: back(net.a(permuted(x))), {"a": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8)}),
    "rectifier of permuted maps": (lambda net, x: back(F.relu(permuted(x))).reshape(x.shape[0], 8, 16, 4), {}),
    "product of permuted maps": (
        lambda net, x: back(permuted(x) * permuted(net.a(x))).reshape(x.shape[0], 8, 16, 4), {"a": conv}),
    "copy of permuted maps": (lambda net, x: back(permuted(x).contiguous() * 2.0).reshape(x.shape[0], 8, 16, 4), {}),
    "transposed and flattened": (lambda net, x: (x.transpose(1, 2).flatten(1).view(x.shape) * 2.0), {}),
    "batch taken apart": (lambda net, x: net.a(x.reshape(-1, 8, 4, 8)).reshape(x.shape), {"a": conv}),
    "pool with positions": (lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0], {}),
    "norm by running statistics": (lambda net, x: net.a.eval()(x), {"a": lambda: nn.BatchNorm2d(8)}),
    "norm without statistics": (
        lambda net, x: net.a(x), {"a": lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False)}),
    "norm of rows": (lambda net, x: net.a(x), {"a": lambda: nn.LayerNorm((8, 8))}),
    "sigmoid linear unit in place": (lambda net, x: F.silu(net.a(x), inplace=True), {"a": conv}),
    "sigmoid linear unit in place on what takes no gradient": (
        lambda net, x: x + F.silu(net.a(x.detach()), inplace=True), {"a": lambda: still(conv())}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_memory_rises_and_falls_within_a_step_as_in_pytorch(name):
    torch.manual_seed(0)
    function, parts = CASES[name]
    net = Between(function, {key: make() for key, make in parts.items()}).train()
    mine, theirs = planned_and_measured(net, (2, 3, 8, 8))
    assert mine == theirs


# ---------------------------------------------------------------------------------- by hand


def plain():
    """Two convolutions without biases and a classifier: maps of 4 * 64 * 4 bytes, 1 KiB, per image."""
    g = Graph("plain")
    x = g.input((1, 3, 8, 8), name="image")
    x = g.relu(g.conv2d(x, 4, 3, padding=1, bias=False, name="first"), name="rectifier")
    x = g.conv2d(x, 4, 3, padding=1, bias=False, name="second")
    g.linear(g.flatten(x), 5, bias=False, name="classifier")
    return g


PARAMETERS = 4 * (4 * 3 * 9 + 4 * 4 * 9 + 5 * 256)


def test_a_drop_of_whole_batches_keeps_one_number_and_one_of_images_a_number_each():
    def saved(mode, batch):
        g = Graph()
        x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, padding=1)
        g.linear(g.flatten(g.stochastic_depth(x, 0.5, mode)), 5)
        return plan_training(g, batch=batch).saved_bytes

    scores = 4 * 5  # of the loss; the total weight besides
    for batch in (1, 3):
        assert saved("batch", batch) == batch * (1024 + scores) + 4 + 4
        assert saved("row", batch) == batch * (1024 + scores) + 4 + 4 * batch


def test_what_has_no_backward_is_at_nothing_in_the_timeline_and_in_the_table():
    plan = plan_training(plain(), frozen_layers="first")
    asleep = [
        k for k, (phase, node, _) in enumerate(plan.steps) if phase == "backward" and node in ("first", "rectifier")
    ]
    assert len(asleep) == 2
    assert not plan.timeline[asleep].any()
    table = {row.name: row for row in plan.ops}
    assert table["first"].backward_bytes == table["rectifier"].backward_bytes == 0
    assert table["second"].backward_bytes > 0
    assert table["first"].forward_bytes > 0


@pytest.mark.parametrize("options", [{"set_to_none": False}, {"zero_grad": "before_backward"}])
def test_before_the_first_step_there_are_no_gradients_wherever_they_are_cleared(options):
    first, usual = (plan_training(plain(), first_step=True, **more) for more in (options, {}))
    assert (first.forward_peak, first.backward_peak) == (usual.forward_peak, usual.backward_peak)
    later = plan_training(plain(), **options)
    standard = plan_training(plain())
    assert later.forward_peak == standard.forward_peak + PARAMETERS


def test_state_that_is_made_with_the_optimizer_is_there_in_the_first_step():
    first, later = (plan_training(plain(), optimizer="adagrad", first_step=step) for step in (True, False))
    assert first.composition["optimizer_state"] == later.optimizer_bytes >= PARAMETERS
    assert first.forward_peak == later.forward_peak


@pytest.mark.parametrize("options", [{}, {"set_to_none": False}, {"micro_batches": 2}])
def test_a_peak_in_the_optimizer_consists_of_every_gradient_once(options):
    plan = plan_training(plain(), optimizer="adadelta", implementation="foreach", **options)
    assert plan.peak_phase == "optimizer"
    assert plan.composition["gradients"] == PARAMETERS
    assert sum(plan.composition.values()) == plan.peak_bytes


def test_what_is_alive_at_a_peak_in_forward_is_named_by_the_op_that_made_it():
    g = Graph("narrow end")
    x = g.conv2d(g.input((1, 3, 8, 8), name="image"), 4, 7, padding=3, bias=False, name="first")
    x = g.relu(x, name="rectifier")
    g.linear(g.flatten(g.max_pool2d(x, 8, name="pool")), 5, bias=False, name="classifier")
    plan = plan_training(g, zero_grad="before_backward", optimizer="sgd")
    assert plan.peak_phase == "forward"
    alive = plan.live_at_peak
    assert sum(t.nbytes for t in alive) == plan.composition["activations"]
    assert {t.kind for t in alive} == {"activation"}
    assert [(t.name, t.nbytes, t.op) for t in alive] == [("first", 1024, "first"), ("rectifier", 1024, "rectifier")]


def test_autocast_casts_a_shared_weight_once():
    def saved(tied):
        g = Graph()
        x = g.conv2d(g.input((1, 4, 8, 8)), 4, 3, padding=1, bias=False, name="first")
        x = g.op("conv2d", x, out_channels=4, kernel_size=3, padding=1, bias=False, tied="first" if tied else None)
        g.linear(g.flatten(x), 5)
        return plan_training(g, precision="autocast").saved_bytes

    assert saved(False) - saved(True) == 2 * 4 * 4 * 9


def test_a_tape_is_one_of_its_options():
    net = lower(plain())
    by_itself = [plan_training(lower(plain()), host_scalars=host).peak_bytes for host in (False, True)]
    assert [plan_training(net, host_scalars=host).peak_bytes for host in (False, True)] == by_itself
    inside = {"precision": "autocast", "autocast_loss": True}
    outside = {"precision": "autocast", "autocast_loss": False}
    apart = [plan_training(lower(plain()), **options).saved_bytes for options in (outside, inside)]
    assert [plan_training(net, **options).saved_bytes for options in (outside, inside)] == apart
    assert apart[0] != apart[1]


@pytest.mark.parametrize(
    "options", [{}, {"set_to_none": False}, {"micro_batches": 2}, {"zero_grad": "before_backward"}]
)
def test_what_an_allocator_hands_out_is_the_peak_but_for_its_rounding(options):
    plan = plan_training(plain(), batch=2, optimizer="adam", allocator="cuda", **options)
    assert 0 <= plan.allocated_bytes - plan.peak_bytes <= 512 * 40
