"""Steps with wrapped modules, measured in PyTorch on the CPU event by event, and what the planner says of them."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import wrap_truth

from cnnlive.errors import RematError
from cnnlive.plan.steps import step_graph
from cnnlive.plan.training import plan_training
from cnnlive.plan.wraps import Region, _Model, plan_wraps, simulate_wraps

torch = pytest.importorskip("torch", reason="torch is not installed")
nn, F = torch.nn, torch.nn.functional

from test_torch_training import DenseBlock, Head, residual  # noqa: E402 - after the check for torch

from cnnlive.io.torch import from_torch  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def conv_norm(inputs, outputs, kernel=3, act=None, **options):
    layers = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([act] if act is not None else []))


def chain():
    """Blocks of convolution, normalisation and activation, in place and not."""
    return nn.Sequential(conv_norm(3, 8, act=nn.ReLU(inplace=True)), conv_norm(8, 8, act=nn.ReLU()), nn.MaxPool2d(2),
                         conv_norm(8, 12, act=nn.SiLU(inplace=True)), nn.Conv2d(12, 12, 3, padding=1), nn.Sigmoid(),
                         Head(12))  # fmt: skip


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        scale = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)), inplace=True)
        return x * torch.sigmoid(self.fc2(scale))


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, act, squeeze=False):
        super().__init__()
        wide = 4 * inputs
        self.expand = conv_norm(inputs, wide, 1, act(inplace=True))
        self.depthwise = conv_norm(wide, wide, 3, act(inplace=True), groups=wide)
        self.squeeze = SqueezeExcite(wide) if squeeze else nn.Identity()
        self.project = conv_norm(wide, outputs, 1)
        self.skip = inputs == outputs

    def forward(self, x):
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.skip else y


def inverted():
    return nn.Sequential(conv_norm(3, 8, act=nn.ReLU6(inplace=True)), Inverted(8, 8, nn.ReLU6),
                         Inverted(8, 12, nn.Hardswish, True), Inverted(12, 12, nn.Hardswish), Head(12))  # fmt: skip


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc1 = conv_norm(3, 6, act=nn.ReLU(inplace=True))
        self.enc2 = conv_norm(6, 8, act=nn.ReLU(inplace=True))
        self.middle = conv_norm(8, 12, act=nn.ReLU(inplace=True))
        self.up2, self.dec2 = nn.ConvTranspose2d(12, 8, 2, stride=2), conv_norm(16, 8, act=nn.ReLU())
        self.dec1, self.out = conv_norm(14, 6, act=nn.ReLU(inplace=True)), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        a = self.enc1(x)
        b = self.enc2(F.max_pool2d(a, 2))
        y = self.dec2(torch.cat([self.up2(self.middle(F.max_pool2d(b, 2))), b], dim=1))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(self.dec1(torch.cat([y, a], dim=1)))


def dense():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), DenseBlock(8, 4, 3), conv_norm(20, 12, 1), nn.AvgPool2d(2),
                         DenseBlock(12, 4, 2), nn.ReLU(inplace=True), Head(20))  # fmt: skip


class Next(nn.Module):
    """Linear layers on maps, a scale that is a parameter, layer normalisation, a product with a number."""

    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x):
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.down(F.gelu(self.up(self.norm(y)))).permute(0, 3, 1, 2)
        return x * 2.0 + self.gamma * y


def convnext():
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), Next(8), Next(8), nn.GroupNorm(2, 8), Head(8))


class Attention(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.query, self.key = nn.Conv2d(channels, 4, 1), nn.Conv2d(channels, 4, 1)
        self.value, self.gamma = nn.Conv2d(channels, channels, 1), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        n, c, h, w = x.shape
        q = self.query(x).view(n, 4, h * w).permute(0, 2, 1)
        a = torch.softmax(torch.bmm(q, self.key(x).view(n, 4, h * w)), dim=-1)
        return self.gamma * torch.bmm(self.value(x).view(n, c, h * w), a.permute(0, 2, 1)).view(n, c, h, w) + x


def attention():
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), Attention(), Attention(), Head(8))


def dropouts():
    parts = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Dropout2d(0.2), nn.ReLU()),
             nn.Sequential(nn.Conv2d(8, 8, 3), nn.Dropout(0.3), nn.Tanh())]  # fmt: skip
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *parts, Head(8))


NETS = {"chain": chain, "residual": residual, "inverted": inverted, "unet": UNet, "dense": dense, "convnext": convnext,
        "attention": attention, "dropouts": dropouts}  # fmt: skip
OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.01),
    "adam": functools.partial(torch.optim.Adam, lr=0.01),
}


def build(name):
    torch.manual_seed(0)
    return NETS[name]().train()


def planned(name, batch=2, optimizer="sgd", **options):
    """The step of a net, and its input."""
    x = torch.randn(batch, 3, 16, 16)
    plan = plan_training(from_torch(build(name), x.shape, train=True), batch=batch, device="cpu", host_scalars=True,
                         optimizer=optimizer, **options)  # fmt: skip
    forward = np.arange(1, plan.tape.n_records + 1)
    return step_graph(plan, forward, 2 * forward, recompute_random=True), x


def measured(name, step, x, regions, optimizer="sgd", **options):
    """Totals after each event of the real step, by phase."""
    net = build(name)
    scores = net(x)
    target = torch.randint(0, scores.shape[1], (scores.shape[0], *scores.shape[2:]))
    wrap_truth.wrap(net, step.plan.network, regions)
    return wrap_truth.measure(net, [x], lambda out: F.cross_entropy(out, target), targets=[target],
                              optimizer=OPTIMIZERS[optimizer], **options)  # fmt: skip


def assert_as_measured(name, step, x, regions, optimizer="sgd", **options):
    """The planner's peaks are those of the events, and the events are PyTorch's, one by one."""
    found = simulate_wraps(step, [Region(*r) for r in regions])
    forward, backward, most = wrap_truth.simulate(step.plan, regions)
    assert found.timeline[:-1].tolist() == most
    totals = measured(name, step, x, regions, optimizer, **options)
    if (
        len(x) > 1
    ):  # of a single image PyTorch sums the gradient of a bias to as many bytes, where the tape sums nothing
        assert wrap_truth.maxima(totals["forward"]) == wrap_truth.maxima(forward)
        assert wrap_truth.maxima(totals["backward"]) == wrap_truth.maxima(backward)
    assert (max(totals["forward"]), max(totals["backward"])) == (max(forward), max(backward))
    assert found.peak_bytes == max(max(t) for t in totals.values())


def some_regions(step, rng, most):
    """Regions that do not overlap, some of them with saved results."""
    model = _Model(step, None, True)
    spans = rng.sample(model.spans, len(model.spans))[:most]
    chosen = []
    for span in spans:
        if all(span.hi <= other.lo or other.hi <= span.lo for other, _ in chosen):
            saved = [p for p in span.saveable if rng.random() < 0.5] if rng.random() < 0.5 else []
            chosen.append((span, saved))
    names = step.plan.network.op_names
    return [(span.module, tuple(names[model.op_of[p]] for p in saved), span.random) for span, saved in chosen]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("batch", "optimizer"), [(1, "adam"), (2, "sgd"), (3, "adam")])
def test_a_step_with_regions_takes_what_pytorch_takes(name, batch, optimizer):
    step, x = planned(name, batch, optimizer)
    rng = random.Random(f"{name} {batch}")
    for most in (0, 3, 40) if batch == 2 else (1, 40):
        assert_as_measured(name, step, x, some_regions(step, rng, most), optimizer)


@pytest.mark.parametrize("kind", ["modules", "policy"])
def test_all_choices_of_blocks_of_a_small_net_take_what_pytorch_takes(kind):
    step, x = planned("residual")
    saved = {"2": ("2.conv1", "2.conv2"), "3": ("3.conv1", "3.down.0"), "4": ("4.conv2",)} if kind == "policy" else {}
    blocks = ["0", "2", "3", "4"]
    for mask in range(1, 2 ** len(blocks)):
        chosen = [b for k, b in enumerate(blocks) if mask >> k & 1]
        regions = [(b, saved.get(b, ()), False) for b in chosen]
        found = simulate_wraps(step, [Region(*r) for r in regions])
        totals = measured("residual", step, x, regions)
        n = step.plan.tape.n_records
        assert found.timeline[:n].max() == max(totals["forward"])
        assert found.timeline[n:-1].max() == max(totals["backward"])


@pytest.mark.parametrize("name", ["residual", "inverted", "dense"])
def test_autocast_takes_what_pytorch_takes(name):
    step, x = planned(name, precision="autocast_bfloat16")
    rng = random.Random(name)
    context = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    for most in (0, 2, 40):
        assert_as_measured(name, step, x, some_regions(step, rng, most), context=context)


@pytest.mark.parametrize("kind", ["modules", "policy"])
@pytest.mark.parametrize("name", ["residual", "inverted", "unet", "dense"])
def test_a_plan_takes_what_it_says(name, kind):
    step, x = planned(name, batch=3, optimizer="adam")
    keep = step.plan.peak_bytes
    least = plan_wraps(step, 0, kind=kind)
    for plan in (least, plan_wraps(step, (least.peak_bytes + keep) // 2, kind=kind)):
        regions = [(r.module, r.saved, r.random) for r in plan.regions]
        totals = measured(name, step, x, regions, "adam")
        assert plan.peak_bytes == max(max(t) for t in totals.values()) < keep


def test_the_state_of_the_generator_is_kept_only_for_random_ops():
    step, x = planned("dropouts")
    with_state = [("1", (), True), ("2", (), True)]
    forward, _, _ = wrap_truth.simulate(step.plan, with_state)
    without, _, _ = wrap_truth.simulate(step.plan, with_state, keep_rng=False)
    assert max(forward) - max(without) == 2 * len(torch.get_rng_state())
    assert_as_measured("dropouts", step, x, with_state)
    assert plan_wraps(step, 0).regions == () == plan_wraps(step, 0, kind="policy").regions
    assert {r.module for r in plan_wraps(step, 0, recompute_random=True).regions} <= {"1", "2", "1.1", "2.1"}


class OverInput(nn.Module):
    """A block that overwrites what it is given, between convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.block, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Sequential(nn.ReLU(True), nn.Conv2d(8, 8, 3)),
            Head(8),
        )

    def forward(self, x):
        return self.head(self.block(self.first(x)))


class Later(nn.Module):
    """A block whose input is overwritten by what comes behind it."""

    def __init__(self):
        super().__init__()
        self.first, self.block, self.head = nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), Head(8)

    def forward(self, x):
        x = self.first(x)
        y = self.block(x)
        x += y
        return self.head(x)


@pytest.mark.parametrize(("net", "why"), [(OverInput, "overwrites its input"), (Later, "overwritten in place later")])
def test_what_pytorch_cannot_run_again_is_refused(net, why):
    step = step_of(net())
    with pytest.raises(RematError, match=f"'block' cannot be wrapped: it .*{why}"):
        simulate_wraps(step, [Region("block")])
    plan = plan_wraps(step, 0)
    assert "block" not in {r.module for r in plan.regions}
    assert any("block" in w and why in w for w in plan.warnings)
    wrapped = wrap_truth.wrap(net(), step.plan.network, [("block", (), False)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation|Expected|different"):
        wrapped(torch.randn(2, 3, 16, 16)).sum().backward()


def step_of(net, **options):
    plan = plan_training(
        from_torch(net, (2, 3, 16, 16), train=True), batch=2, device="cpu", host_scalars=True, **options
    )
    cost = np.ones(plan.tape.n_records, np.int64)
    return step_graph(plan, cost, cost)


class Twice(nn.Module):
    """A block that runs twice, once right after the other, and a pool that runs at three places."""

    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), conv_norm(8, 8, act=nn.Tanh())
        self.pool, self.last, self.head = nn.MaxPool2d(2), conv_norm(8, 8, act=nn.Tanh()), Head(8)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = self.pool(self.block(self.block(x)))
        return self.head(self.pool(self.last(x)))


def test_modules_that_run_more_than_once_are_left_out():
    step = step_of(Twice())
    for kind in ("modules", "policy"):
        plan = plan_wraps(step, 0, kind=kind)
        assert {r.module for r in plan.regions} <= {"last"}
        assert any("block" in w and "runs more than once" in w for w in plan.warnings)
    for module in ("block", "pool"):
        with pytest.raises(RematError, match="runs more than once, or not in one go"):
            simulate_wraps(step, [Region(module)])


class Tied(nn.Module):
    """Two blocks that share a weight, which autocast casts once in forward, and again where a block runs again."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), Head(8)
        self.first = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Tanh())
        self.second[0].weight = self.first[0].weight

    def forward(self, x):
        return self.head(self.second(self.first(self.stem(x))))


def test_shared_weights_are_left_out_where_autocast_casts_them():
    assert simulate_wraps(step_of(Tied()), [Region("second")]).regions
    with pytest.raises(RematError, match="'second' cannot be wrapped: it shares weights that autocast casts"):
        simulate_wraps(step_of(Tied(), precision="autocast_bfloat16"), [Region("second")])


class Lists(nn.Module):
    """Blocks in a list, which is no call."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), Head(8)
        self.blocks = nn.ModuleList([conv_norm(8, 8, act=nn.Tanh()), conv_norm(8, 8, act=nn.Tanh())])

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def modules_of(step, modules=None):
    return {s.module for s in _Model(step, modules, False).spans}


def test_a_list_of_modules_is_no_region_and_a_sequence_is_one():
    step = step_of(Lists())
    found = modules_of(step)
    assert "blocks" not in found
    assert {"blocks.0", "blocks.1"} <= found
    assert modules_of(step, ["blocks.1"]) == {"blocks.1"}
    blocks = [conv_norm(8, 8, act=nn.Tanh()), conv_norm(8, 8, act=nn.Tanh())]
    assert modules_of(step_of(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(*blocks), Head(8)))) >= {
        "1",
        "1.0",
        "1.1",
    }


def test_statistics_are_updated_twice_and_the_corrected_momentum_makes_up_for_it():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    plain, twice = conv_norm(3, 8, act=nn.Tanh()), conv_norm(3, 8, act=nn.Tanh())
    twice.load_state_dict(plain.state_dict())
    twice[1].momentum = 1 - (1 - plain[1].momentum) ** 0.5
    plain(x).sum().backward()
    step = step_of(nn.Sequential(twice, Head(8)))
    (warning,) = [w for w in simulate_wraps(step, [Region("0")]).warnings if "updated twice" in w]
    assert "0.0513 for 0.1" in warning
    assert "1 - sqrt(1 - m)" in warning
    wrap_truth.wrap(nn.Sequential(twice), step.plan.network, [("0", (), False)])
    twice(x).sum().backward()
    assert twice[1].num_batches_tracked == 2
    torch.testing.assert_close(twice[1].running_mean, plain[1].running_mean)
    torch.testing.assert_close(twice[1].running_var, plain[1].running_var)
    # what early stop leaves out is not updated again
    behind = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh())
    assert not any("updated twice" in w for w in simulate_wraps(step_of(nn.Sequential(behind, Head(8))),
                                                                [Region("0")]).warnings)  # fmt: skip
