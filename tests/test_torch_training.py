"""Training steps and inferences of small nets, measured in PyTorch on the CPU, and what the planners say of them."""

from __future__ import annotations

import functools

import pytest
import torch_truth

from cnnlive import Graph, lower
from cnnlive.plan.inference import plan_inference
from cnnlive.plan.training import plan_training

torch = pytest.importorskip("torch", reason="torch is not installed")
nn, F = torch.nn, torch.nn.functional

from cnnlive.io.torch import from_torch  # noqa: E402 - after the check for torch

pytestmark = pytest.mark.usefixtures("one_thread")


def conv_norm(inputs, outputs, kernel=3, act=None, **options):
    layers = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([act] if act is not None else []))


class Head(nn.Module):
    """Global mean and a linear layer."""

    def __init__(self, channels, classes=10):
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, classes)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(x), 1))


class Basic(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = conv_norm(inputs, outputs, 1, stride=stride) if inputs != outputs else None

    def forward(self, x):
        identity = x if self.down is None else self.down(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


def residual():
    return nn.Sequential(conv_norm(3, 8, act=nn.ReLU(inplace=True)), nn.MaxPool2d(3, 2, 1), Basic(8, 8),
                         Basic(8, 16, 2), Basic(16, 16), Head(16))  # fmt: skip


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, features):
        return self.conv(self.relu(self.norm(torch.cat(features, 1))))


class DenseBlock(nn.Module):
    def __init__(self, inputs, growth, n):
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(inputs + k * growth, growth) for k in range(n))

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


def dense():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), DenseBlock(8, 4, 4), conv_norm(24, 12, 1), nn.AvgPool2d(2),
                         DenseBlock(12, 4, 3), nn.ReLU(inplace=True), Head(24))  # fmt: skip


class Inception(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.one = conv_norm(inputs, 4, 1, nn.ReLU(inplace=True))
        self.three = nn.Sequential(conv_norm(inputs, 4, 1, nn.ReLU()), conv_norm(4, 6, 3, nn.ReLU()))
        self.five = nn.Sequential(conv_norm(inputs, 2, 1, nn.ReLU(inplace=True)), nn.Conv2d(2, 4, 5, padding=2))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), nn.Conv2d(inputs, 4, 1))

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def inception():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Inception(8), nn.MaxPool2d(2), Inception(18), Head(18))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        scale = F.adaptive_avg_pool2d(x, 1)
        scale = F.relu(self.fc1(scale), inplace=True)
        return x * torch.sigmoid(self.fc2(scale))


def squeeze_excite():
    return nn.Sequential(conv_norm(3, 8, act=nn.SiLU(inplace=True)), SqueezeExcite(8), conv_norm(8, 16, act=nn.SiLU()),
                         SqueezeExcite(16), nn.Conv2d(16, 8, 1), Head(8))  # fmt: skip


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, act):
        super().__init__()
        wide = 3 * inputs
        self.expand = conv_norm(inputs, wide, 1, act(inplace=True))
        self.depthwise = conv_norm(wide, wide, 3, act(inplace=True), groups=wide)
        self.project = conv_norm(wide, outputs, 1)
        self.skip = inputs == outputs

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skip else y


def depthwise():
    return nn.Sequential(conv_norm(3, 6, act=nn.ReLU6(inplace=True)), Inverted(6, 6, nn.ReLU6),
                         Inverted(6, 8, nn.Hardswish), Inverted(8, 8, nn.Hardswish), Head(8))  # fmt: skip


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc1 = conv_norm(3, 6, act=nn.ReLU(inplace=True))
        self.enc2 = conv_norm(6, 8, act=nn.ReLU(inplace=True))
        self.middle = conv_norm(8, 12, act=nn.ReLU(inplace=True))
        self.up2, self.dec2 = nn.ConvTranspose2d(12, 8, 2, stride=2), nn.Conv2d(16, 8, 3, padding=1)
        self.dec1, self.out = nn.Conv2d(14, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        a = self.enc1(x)
        b = self.enc2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        y = F.relu(self.dec2(torch.cat([self.up2(c), b], dim=1)))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(F.relu(self.dec1(torch.cat([y, a], dim=1))))


class Dilated(nn.Module):
    """Atrous pyramid: dilated branches, one of them of pooled features that are resized."""

    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 8, act=nn.ReLU())
        self.branches = nn.ModuleList(nn.Conv2d(8, 4, 3, padding=d, dilation=d) for d in (1, 2, 3))
        self.pooled = nn.Conv2d(8, 4, 1)
        self.out = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 5, 1))

    def forward(self, x):
        x = self.stem(x)
        parts = [branch(x) for branch in self.branches]
        pooled = F.relu(self.pooled(F.adaptive_avg_pool2d(x, 1)))
        parts.append(F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False))
        return self.out(torch.cat(parts, dim=1))


class InPlace(nn.Module):
    """Ops in place of every kind: those that keep their output, those that keep a clone, sums and products."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if k == 0 else 6, 6, 3, padding=1) for k in range(8))

    def forward(self, x):
        x = F.relu_(self.convs[0](x))
        x = F.silu(self.convs[1](x), inplace=True)
        x = F.hardswish(self.convs[2](x), inplace=True)
        y = self.convs[3](x)
        y.add_(self.convs[4](F.leaky_relu(x)))
        y = torch.sigmoid_(self.convs[5](F.leaky_relu(y, inplace=True)))
        x = self.convs[6](x)
        x += y
        z = self.convs[7](x).mul_(y)
        z = F.relu6(z.clone(), inplace=True) * 2.0
        return torch.flatten(F.adaptive_avg_pool2d(z, 1), 1)


def dropouts():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.3),
                         nn.Conv2d(8, 8, 3, padding=1), nn.Dropout2d(0.2), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
                         nn.Flatten(), nn.Linear(32, 64), nn.Dropout(0.5, inplace=True), nn.ReLU(inplace=True),
                         nn.Linear(64, 32), nn.Dropout(0.0), nn.Linear(32, 10))  # fmt: skip


def group_norm():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.GELU(), nn.Conv2d(8, 12, 3, 2, 1),
                         nn.GroupNorm(3, 12, affine=False), nn.ELU(inplace=True), nn.Conv2d(12, 12, 3, padding=1),
                         nn.GroupNorm(1, 12), nn.Mish(), Head(12))  # fmt: skip


def transposed():
    """An autoencoder, trained with the mean squared error."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2, inplace=True),
                         nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(12, 8, 4, 2, 1, bias=False),
                         nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.ConvTranspose2d(8, 3, 4, 2, 1),
                         nn.Tanh())  # fmt: skip


class Shuffle(nn.Module):
    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        first, last = conv_norm(half, half, 1, nn.ReLU(inplace=True)), conv_norm(half, half, 1, nn.ReLU())
        self.branch = nn.Sequential(first, conv_norm(half, half, 3, groups=half), last)

    def forward(self, x):
        kept, changed = x.chunk(2, dim=1)
        out = torch.cat((kept, self.branch(changed)), dim=1)
        n, c, h, w = out.size()
        return torch.transpose(out.view(n, 2, c // 2, h, w), 1, 2).contiguous().view(n, c, h, w)


def channel_shuffle():
    return nn.Sequential(conv_norm(3, 8, act=nn.ReLU(inplace=True)), Shuffle(8), Shuffle(8), nn.ChannelShuffle(4),
                         Head(8))  # fmt: skip


class Drop(nn.Module):
    """Stochastic depth as torchvision and timm write it: noise per image, multiplied in."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        noise = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        noise.div_(1 - self.p)
        return x * noise


class Dropped(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body, self.drop = conv_norm(channels, channels, act=nn.ReLU()), Drop(0.2)

    def forward(self, x):
        return x + self.drop(self.body(x))


def stochastic_depth():
    return nn.Sequential(conv_norm(3, 8), Dropped(8), Dropped(8), Head(8))


class Next(nn.Module):
    """A ConvNeXt block: depthwise convolution, channels last, linear layers on maps, layer scale."""

    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x):
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.down(F.gelu(self.up(self.norm(y)))).permute(0, 3, 1, 2)
        return x + self.gamma * y


def convnext():
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), Next(8), Next(8), Head(8))


def instance_norm():
    return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU(True),
                         nn.Conv2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.Hardswish(), Head(8))  # fmt: skip


def pixel_shuffle():
    """Super-resolution, trained with the mean absolute error."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))


class Shared(nn.Module):
    """One block that runs twice, and two layers that share a weight."""

    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), conv_norm(8, 8, act=nn.ReLU())
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 10)
        self.second.weight = self.first.weight

    def forward(self, x):
        x = self.block(self.block(self.stem(x)))
        return self.head(self.second(torch.tanh(self.first(x.mean((2, 3))))))


def frozen():
    """The stem and a linear layer stand still; so do single biases and weights."""
    net = nn.Sequential(conv_norm(3, 8, act=nn.ReLU()), nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid(),
                        conv_norm(8, 8, act=nn.ReLU(inplace=True)), nn.Conv2d(8, 8, 1), Head(8))  # fmt: skip
    for part in (net[0], net[4]):
        part.requires_grad_(False)
    net[1].weight.requires_grad_(False)
    net[3][1].bias.requires_grad_(False)
    return net


class Auxiliary(nn.Module):
    """A second classifier on half of the net, in training only."""

    def __init__(self):
        super().__init__()
        self.stem, self.more = conv_norm(3, 8, act=nn.ReLU(inplace=True)), conv_norm(8, 12, act=nn.ReLU(inplace=True))
        self.aux, self.head = Head(8), Head(12)

    def forward(self, x):
        x = self.stem(x)
        aux = self.aux(x) if self.training else None
        y = self.head(self.more(x))
        return (y, aux) if self.training else y


class Attention(nn.Module):
    """Pixels that attend to pixels: reshapes, products, softmax, and statistics by hand."""

    def __init__(self, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, 4)
        self.query, self.key = nn.Conv2d(channels, 4, 1), nn.Conv2d(channels, 4, 1)
        self.value, self.head = nn.Conv2d(channels, channels, 1), Head(channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        x = self.stem(x)
        n, c, h, w = x.shape
        q = self.query(x).view(n, 4, h * w).permute(0, 2, 1)
        a = torch.softmax(torch.bmm(q, self.key(x).view(n, 4, h * w)), dim=-1)
        y = torch.bmm(self.value(x).view(n, c, h * w), a.permute(0, 2, 1)).view(n, c, h, w)
        x = self.gamma * y + x
        x = x - x.mean(dim=1, keepdim=True)
        return self.head(x / (x.abs().amax(dim=1, keepdim=True) + 1.0))


def alexnet_like():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.LocalResponseNorm(3),
                         nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(8, 12, 3, padding=1, groups=2),
                         nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.5),
                         nn.Linear(108, 40), nn.ReLU(inplace=True), nn.Linear(40, 10))  # fmt: skip


class Split(nn.Module):
    """Pieces of a map that go different ways, one of them nowhere; strides by slicing; sums of three."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 5, padding=2)
        self.head = Head(6)

    def forward(self, x):
        a, b, _ = torch.split(self.stem(x), 4, dim=1)
        y = self.left(a)
        z = y + self.right(b) + y
        return self.head(torch.cat([z[:, :, ::2], F.avg_pool2d(z, (2, 1))], dim=3))


NETS = {
    "residual": residual,
    "dense": dense,
    "inception": inception,
    "squeeze-excite": squeeze_excite,
    "depthwise": depthwise,
    "unet": UNet,
    "dilated": Dilated,
    "in place": InPlace,
    "dropouts": dropouts,
    "group norm": group_norm,
    "transposed": transposed,
    "channel shuffle": channel_shuffle,
    "stochastic depth": stochastic_depth,
    "convnext": convnext,
    "instance norm": instance_norm,
    "pixel shuffle": pixel_shuffle,
    "shared": Shared,
    "frozen": frozen,
    "auxiliary": Auxiliary,
    "attention": Attention,
    "alexnet": alexnet_like,
    "split": Split,
}

LOSSES = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
}
TRAINED_WITH = {"transposed": "mse", "pixel shuffle": "l1"}
OPTIMIZERS = {
    "none": (None, {"optimizer": "sgd"}),
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), {"optimizer": "sgd", "momentum": 0.9}),
    "adam": (lambda p: torch.optim.Adam(p, lr=0.01), {"optimizer": "adam"}),
}


def build(name):
    torch.manual_seed(0)
    return NETS[name]().train()


def criterion(loss, outputs):
    """A loss on the first output, and a weighted one on the second if there is one; its targets are in the closure."""
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    if loss == "cross_entropy":
        target = torch.randint(0, first.shape[1], (first.shape[0], *first.shape[2:]))
    else:
        target = torch.rand(first.shape)
    function = LOSSES[loss]

    def value(out):
        if not isinstance(out, tuple):
            return function(out, target)
        main, aux = function(out[0], target), function(out[1], target)
        return main + 0.4 * aux

    return value


def optimizer_peak(measured):
    """Bytes at the worst instant of the optimizer, without the numbers that PyTorch wraps as tensors there."""
    trace = measured.trace
    events = list(zip(trace.deltas, trace.blocks, trace.phases, trace.ops, strict=True))
    numbers = {block for d, block, phase, op in events if 0 < d <= 8 and phase == "optimizer" and op == ""}
    total, worst = trace.base, 0
    for nbytes, block, phase, _ in events:
        if phase == "optimizer":
            worst = max(worst, total)
        total += 0 if block in numbers else nbytes
        if phase == "optimizer":
            worst = max(worst, total)
    return worst or total


def measured_and_planned(net, shape, loss, optimizer="none", *, graph=None, dtype=None, precision="float32", **options):
    """The figures of one real step and those of the plan, by name."""
    x = torch.randn(shape, dtype=dtype, requires_grad=options.get("input_gradients", False))
    function = criterion(loss, net(x)) if isinstance(loss, str) else loss[0]
    make, named = OPTIMIZERS[optimizer]
    real = torch_truth.training_step(net, x, function, optimizer=make)
    plan = plan_training(
        graph or from_torch(net, shape, train=True), batch=shape[0], device="cpu", precision=precision,
        host_scalars=True, loss=loss if isinstance(loss, str) else loss[1], **named, **options,
    )  # fmt: skip
    mine = {
        "parameters": plan.parameter_bytes,
        "buffers": plan.buffer_bytes,
        "inputs": plan.input_bytes + plan.target_bytes,
        "saved": plan.saved_bytes,
        "end of forward": plan.forward_end_bytes + plan.static_bytes,
        "forward": plan.forward_peak,
        "backward": plan.backward_peak,
    }
    theirs = {
        "parameters": real.parameter_bytes,
        "buffers": real.buffer_bytes,
        "inputs": real.input_bytes,
        "saved": real.saved_bytes,
        "end of forward": real.forward_end_bytes,
        "forward": real.forward_peak,
        "backward": real.backward_peak,
    }
    if make is not None:
        worst = optimizer_peak(real)
        mine |= {"state": plan.optimizer_bytes, "optimizer": plan.optimizer_peak, "peak": plan.peak_bytes}
        theirs |= {
            "state": real.optimizer_bytes,
            "optimizer": worst,
            "peak": max(real.forward_peak, real.backward_peak, worst),
        }
    return theirs, mine


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NETS)
def test_a_training_step_takes_what_pytorch_takes(name, batch):
    net, shape, loss = build(name), (batch, 3, 16, 16), TRAINED_WITH.get(name, "cross_entropy")
    graph = lower(from_torch(net, shape, train=True))
    for optimizer in OPTIMIZERS:
        theirs, mine = measured_and_planned(net, shape, loss, optimizer, graph=graph)
        assert mine == theirs, optimizer


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [name for name in NETS if name != "alexnet"])
def test_an_inference_takes_what_eager_pytorch_takes(name, batch):
    net = build(name).eval()
    real = torch_truth.inference(net, torch.randn(batch, 3, 16, 16), scalars=False)
    plan = plan_inference(from_torch(net, (batch, 3, 16, 16)), batch=batch, profile="torch")
    assert plan.parameter_bytes == real.parameter_bytes
    assert plan.peak_bytes == real.peak_bytes


class Vector(nn.Module):
    def __init__(self, bounded):
        super().__init__()
        self.conv, self.fc, self.bounded = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 700), bounded

    def forward(self, x):
        x = self.fc(self.conv(x).mean((2, 3)))
        return torch.sigmoid(x) if self.bounded else x


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("maps", [False, True])
def test_every_loss_takes_what_pytorch_takes(loss, maps):
    torch.manual_seed(0)
    net = Vector(loss == "bce")
    if maps:
        net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.Sigmoid() if loss == "bce" else nn.Conv2d(40, 40, 1))
    theirs, mine = measured_and_planned(net, (3, 3, 8, 8), loss, "sgd")
    assert mine == theirs


def test_a_loss_of_ones_own_takes_what_pytorch_takes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))

    def loss(out):
        doubled = out * out
        return doubled.mean((0, 1, 2, 3), keepdim=True)

    def as_ops(graph: Graph, outputs):
        doubled = graph.mul(outputs[0], outputs[0])
        return graph.mean(doubled, dim=(0, 1, 2, 3), keepdim=True)

    theirs, mine = measured_and_planned(net, (2, 3, 8, 8), (loss, as_ops), "sgd")
    assert mine == theirs


class OverView(nn.Module):
    """An op in place on a view of a map: autograd then derives it on a clone of a part of the whole map's gradient."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.head, self.how = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 10), how
        self.other = nn.Conv2d(3, 4, 3, padding=1) if how in ("sum", "product") else None

    def forward(self, x):
        y = self.conv(x)
        if self.how == "half":
            F.relu_(y[:, :4])
        elif self.how == "sum":
            y[:, 4:].add_(self.other(x))
        elif self.how == "product":
            y[:, 4:].mul_(self.other(x))
        elif self.how == "twice":
            F.silu(y[:, :2], inplace=True)
            F.relu_(y[:, 4:])
        elif self.how == "flat":
            return self.head(F.relu_(torch.flatten(y, 1)))
        return self.head(torch.flatten(y, 1))


@pytest.mark.parametrize("how", ["half", "sum", "product", "twice", "flat"])
def test_an_op_in_place_on_a_view_takes_what_pytorch_takes(how):
    torch.manual_seed(0)
    theirs, mine = measured_and_planned(OverView(how), (2, 3, 8, 8), "cross_entropy", "sgd")
    assert mine == theirs


def test_a_linear_layer_on_maps_ends_in_a_view_which_an_op_in_place_notices():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Linear(16, 20), nn.ReLU(inplace=True), Head(8))
    theirs, mine = measured_and_planned(net, (3, 3, 16, 16), "cross_entropy", "adam")
    assert mine == theirs


@pytest.mark.parametrize("name", ["residual", "squeeze-excite", "convnext", "dropouts"])
def test_inputs_that_take_a_gradient(name):
    theirs, mine = measured_and_planned(build(name), (2, 3, 16, 16), "cross_entropy", "sgd", input_gradients=True)
    assert mine == theirs


@pytest.mark.parametrize(("dtype", "precision"), [("float64", "float64"), ("bfloat16", "bfloat16")])
@pytest.mark.parametrize("name", ["residual", "depthwise", "unet", "dropouts"])
def test_other_types(name, dtype, precision):
    kind = getattr(torch, dtype)
    theirs, mine = measured_and_planned(
        build(name).to(kind), (2, 3, 16, 16), "cross_entropy", "sgd", dtype=kind, precision=precision
    )
    assert mine == theirs


def test_layers_frozen_by_name_are_layers_frozen_in_pytorch():
    shape = (2, 3, 16, 16)
    graph = lower(from_torch(build("residual"), shape, train=True))
    net = build("residual")
    for part in (net[0], net[2]):
        part.requires_grad_(False)
    theirs, _ = measured_and_planned(net, shape, "cross_entropy", "adam")
    plan = plan_training(graph, batch=2, device="cpu", host_scalars=True, frozen_layers=["0", "2.*"])
    assert (plan.saved_bytes, plan.forward_peak, plan.backward_peak) == (
        theirs["saved"],
        theirs["forward"],
        theirs["backward"],
    )
    assert plan.peak_bytes == theirs["peak"]


def way_of_stepping(way, net, optimizer, x, function):
    """One step, as the user's loop has it."""
    if way == "zeros":
        optimizer.zero_grad(set_to_none=False)
    elif way != "before_backward":
        optimizer.zero_grad()
    out = net(x)
    value = function(out)
    if way == "before_backward":
        optimizer.zero_grad()
    value.backward()
    if way == "two":
        del out, value
        out = net(x)
        value = function(out)
        value.backward()
    optimizer.step()
    return out, value


@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("plain", {}),
        ("zeros", {"set_to_none": False}),
        ("two", {"micro_batches": 2}),
        ("before_backward", {"zero_grad": "before_backward"}),
    ],
)
@pytest.mark.parametrize("name", ["residual", "inception", "shared", "alexnet"])
def test_other_ways_of_stepping(name, way, options):
    net, x = build(name), torch.randn(2, 3, 16, 16)
    function = criterion("cross_entropy", net(x))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    step = functools.partial(way_of_stepping, way, net, optimizer, x, function)
    step()
    for p in net.parameters():
        p.grad = None
    state = [s["momentum_buffer"] for s in optimizer.state.values()]
    target = function.__closure__[1].cell_contents

    def two_steps():
        # The recording knows of blocks that were handed out in it: the first step makes the gradients.
        with torch.profiler.record_function("truth phase: first"):
            step()
        with torch.profiler.record_function("truth phase: second"):
            return step()

    _, trace = torch_truth.record(two_steps, alive=[*net.parameters(), *net.buffers(), x, target, *state])
    plan = plan_training(
        from_torch(net, (2, 3, 16, 16), train=True),
        batch=2,
        device="cpu",
        optimizer="sgd",
        momentum=0.9,
        host_scalars=True,
        **options,
    )
    assert plan.peak_bytes == trace.peak("second")


# ---------------------------------------------------------------------------------- pieces that nets are made of


class Around(nn.Module):
    """A convolution, a function of the module and of maps, and a classifier."""

    def __init__(self, function, **parts):
        super().__init__()
        self.stem, self.function, self.head = nn.Conv2d(3, 8, 3, padding=1), function, Head(8)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.head(self.function(self, self.stem(x)))


def response_norm(net, x):
    norms = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
    return net.a * (x * (norms / (norms.mean(dim=1, keepdim=True) + 1e-6))) + net.b + x


def attention_by_channels_and_places(net, x):
    both = [net.b(F.relu(net.a(pool(x, 1)))) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)]
    x = x * torch.sigmoid(both[0] + both[1])
    y = torch.cat([torch.max(x, 1, keepdim=True)[0], torch.mean(x, 1, keepdim=True)], 1)
    return x * torch.sigmoid(net.c(y))


def attention_by_neighbours(net, x):
    y = net.a(F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2))
    return x * torch.sigmoid(y.transpose(-1, -2).unsqueeze(-1)).expand_as(x)


def split_attention(net, x):
    y = torch.stack([net.a(x), net.b(x)], 1)
    gate = net.d(F.relu(net.c(y.sum(1).mean((2, 3), keepdim=True))))
    return (y * gate.view(x.shape[0], 2, 8, 1, 1).softmax(1)).sum(1)


def standardised_weight(net, x):
    w = net.a.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
    return F.conv2d(x, w, net.a.bias, padding=1)


def norm_by_hand(net, x):
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return net.a * ((x - mean) / torch.sqrt(variance + 1e-6)) + net.b


def self_attention(net, x):
    n, c, h, w = x.shape
    t = x.flatten(2).transpose(1, 2)
    q, k, v = net.a(net.c(t)).reshape(n, h * w, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    scores = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
    t = t + net.b((scores @ v).transpose(1, 2).reshape(n, h * w, c))
    return t.transpose(1, 2).reshape(n, c, h, w)


def mixing(net, x):
    n, c, h, w = x.shape
    t = x.flatten(2)
    return (t + net.b(F.gelu(net.a(t)))).view(n, c, h, w)


def shared_sums(net, x):
    a = F.relu(x)
    b = F.relu(net.a(a)) + a
    return F.relu(net.b(b)) + b + a + b


def quarters(_, x):
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)[:, :8]


def resized(net, x):
    y = F.interpolate(net.a(F.max_pool2d(x, 2)), scale_factor=2, mode="nearest")
    return F.interpolate(y + x, size=(8, 8), mode="bilinear", align_corners=True)


def numbers(_, x):
    return (x + 1.0) * x / 2.0 - x**2 + torch.exp(-x.abs()) + torch.sqrt(x * x + 1)


def functions(net, x):
    y = F.hardsigmoid(net.a(x), inplace=True) * F.hardtanh(x, 0, 3) + F.softplus(x) + F.selu(x) + F.elu(x)
    return y + F.log_softmax(x, 1) + torch.log(x.abs() + 1) + torch.rsqrt(x.abs() + 1) + torch.erf(x) + torch.sin(x)


def channels_last_convolution(net, x):
    y = net.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return net.c(net.b(y))


def recurrent(net, x):
    state = torch.zeros_like(x)
    for _ in range(3):
        gate, new = net.a(torch.cat([x, state], 1)).chunk(2, 1)
        state = torch.sigmoid(gate) * state + (1 - torch.sigmoid(gate)) * torch.tanh(new)
    return state


def pyramid(net, x):
    small = F.relu(net.a(x))
    large = net.b(x) + F.interpolate(small, scale_factor=2)
    maps = torch.cat([net.c(large).flatten(2), net.c(small).flatten(2)], 2)
    return maps.unsqueeze(-1)


def written_into(net, x):
    y = x.clone()
    y[:, :4] = net.a(x)[:, :4]
    return y * x.transpose(2, 3).contiguous()


def vector(n, *shape):
    return nn.Parameter(torch.ones(n, *shape))


PIECES = {
    "response norm": lambda: Around(response_norm, a=vector(1, 8, 1, 1), b=vector(1, 8, 1, 1)),
    "gates": lambda: Around(
        attention_by_channels_and_places, a=nn.Conv2d(8, 2, 1), b=nn.Conv2d(2, 8, 1), c=nn.Conv2d(2, 1, 7, padding=3)
    ),
    "neighbours": lambda: Around(attention_by_neighbours, a=nn.Conv1d(1, 1, 3, padding=1, bias=False)),
    "split attention": lambda: Around(
        split_attention, a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1), c=nn.Conv2d(8, 4, 1), d=nn.Conv2d(4, 16, 1)
    ),
    "standardised weight": lambda: Around(standardised_weight, a=nn.Conv2d(8, 8, 3)),
    "norm by hand": lambda: Around(norm_by_hand, a=vector(8, 1, 1), b=vector(8, 1, 1)),
    "self-attention": lambda: Around(self_attention, a=nn.Linear(8, 24), b=nn.Linear(8, 8), c=nn.LayerNorm(8)),
    "mixing": lambda: Around(mixing, a=nn.Linear(64, 32), b=nn.Linear(32, 64)),
    "shared sums": lambda: Around(shared_sums, a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 3, padding=1)),
    "quarters": lambda: Around(quarters),
    "resized": lambda: Around(resized, a=nn.Conv2d(8, 8, 1)),
    "numbers": lambda: Around(numbers),
    "functions": lambda: Around(functions, a=nn.Conv2d(8, 8, 1)),
    "powers": lambda: Around(lambda _, x: F.avg_pool2d(x.clamp(min=1e-6).pow(3.0), 4).pow(1 / 3.0)),
    "both signs": lambda: Around(lambda net, x: net.a(torch.cat([F.relu(x), F.relu(-x)], 1)), a=nn.Conv2d(16, 8, 1)),
    "extremes": lambda: Around(lambda net, x: torch.max(net.a(x), x) + torch.min(x, net.a(x)), a=nn.Conv2d(8, 8, 1)),
    "normalised": lambda: Around(lambda net, x: F.normalize(x, dim=1) * net.a, a=vector(1, 8, 1, 1)),
    "detached": lambda: Around(lambda net, x: net.a(x) + net.b(x).detach(), a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1)),
    "padded shortcut": lambda: Around(
        lambda net, x: net.a(x) + F.pad(x[:, :6], (0, 0, 0, 0, 1, 1)), a=nn.Conv2d(8, 8, 1)
    ),
    "recurrent": lambda: Around(recurrent, a=nn.Conv2d(16, 16, 3, padding=1)),
    "pyramid": lambda: Around(
        pyramid, a=nn.Conv2d(8, 8, 3, 2, 1), b=nn.Conv2d(8, 8, 1), c=nn.Conv2d(8, 8, 3, padding=1)
    ),
    "written into": lambda: Around(written_into, a=nn.Conv2d(8, 8, 1)),
    "channels last": lambda: Around(
        channels_last_convolution, a=nn.LayerNorm(8), b=nn.Conv2d(8, 8, 2, 2), c=nn.BatchNorm2d(8)
    ),
}


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_of_a_net_takes_what_pytorch_takes(name):
    torch.manual_seed(0)
    net = PIECES[name]().train()
    # With a single image the heads of self-attention lie one behind the other by chance, and PyTorch copies less.
    for shape in ((2 if name == "self-attention" else 1, 3, 8, 8), (3, 3, 8, 8)):
        theirs, mine = measured_and_planned(net, shape, "cross_entropy", "sgd")
        assert mine == theirs
        real = torch_truth.inference(net.eval(), torch.randn(shape), scalars=False)
        assert plan_inference(from_torch(net, shape), batch=shape[0], profile="torch").peak_bytes == real.peak_bytes
        net.train()


OTHER_RANKS = {
    "1-D": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(inplace=True),
                                  nn.MaxPool1d(2), nn.Conv1d(8, 8, 3), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1),
                                  nn.Flatten(), nn.Linear(8, 5)), (3, 32)),
    "3-D": (lambda: nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(inplace=True),
                                  nn.MaxPool3d(2), nn.Conv3d(4, 4, 3, padding=1), nn.AdaptiveAvgPool3d(1),
                                  nn.Flatten(), nn.Linear(4, 5)), (3, 8, 8, 8)),
    "vectors": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.BatchNorm1d(64), nn.LeakyReLU(0.1, True),
                                      nn.Dropout(0.5), nn.Linear(64, 64), nn.SiLU(True), nn.Linear(64, 5)), (3, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_RANKS)
def test_nets_of_other_ranks(name):
    torch.manual_seed(0)
    make, shape = OTHER_RANKS[name]
    for batch in (2, 3):
        theirs, mine = measured_and_planned(make().train(), (batch, *shape), "cross_entropy", "adam")
        assert mine == theirs
