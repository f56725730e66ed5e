"""The nets that every tool is asked about, as PyTorch modules: one definition for all of them.

They are nets of cnnlive's zoo, written again as modules so that torch alone is enough; ``check`` says whether a module
and the net of the zoo have the same parameters and peaks. Sources of the nets: the files of ``cnnlive/zoo``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

__all__ = ["BEYOND", "NETS", "Macro", "Net", "StochasticDepth"]


def _conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: Any = None) -> Any:
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
              nn.BatchNorm2d(outputs)]  # fmt: skip
    return nn.Sequential(*layers, *([act(inplace=True)] if act else []))


class VGG16(nn.Module):
    """Thirteen convolutions in five stages, three linear layers."""

    def __init__(self):
        super().__init__()
        layers, inputs = [], 3
        for outputs, n in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(n):
                layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 49, 4096), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 1000),
        )  # fmt: skip

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class Residual(nn.Module):
    """A basic block or a bottleneck around a sum in place."""

    def __init__(self, inputs, planes, stride, bottleneck):
        super().__init__()
        outputs = planes * (4 if bottleneck else 1)
        shapes = [(planes, 1, 1), (planes, 3, stride), (outputs, 1, 1)]
        shapes = shapes if bottleneck else [(planes, 3, stride), (planes, 3, 1)]
        self.n, at = len(shapes), inputs
        for i, (channels, kernel, s) in enumerate(shapes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(at, channels, kernel, s, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(channels))
            at = channels
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None if stride == 1 and inputs == outputs else _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.n > 2:
            out = self.relu(out)
            out = self.conv3(out)
            out = self.bn3(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A stem with a pool, four stages of residual blocks, mean and linear."""

    def __init__(self, blocks, bottleneck):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for k, n in enumerate(blocks):
            stage = []
            for i in range(n):
                stage.append(Residual(inputs, 64 << k, 2 if k and not i else 1, bottleneck))
                inputs = (64 << k) * (4 if bottleneck else 1)
            setattr(self, f"layer{k + 1}", nn.Sequential(*stage))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, 1000)

    def forward(self, x):
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.maxpool(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        x = self.avgpool(x)
        return self.fc(torch.flatten(x, 1))


class DenseLayer(nn.Module):
    """Reads all that the block has made so far, and adds 32 channels."""

    def __init__(self, inputs):
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, 128, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(128), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(128, 32, 3, 1, 1, bias=False)

    def bottleneck(self, features):
        joined = torch.cat(features, 1)
        return self.conv1(self.relu1(self.norm1(joined)))

    def forward(self, features):
        narrow = self.bottleneck(features)
        return self.conv2(self.relu2(self.norm2(narrow)))


class DenseBlock(nn.ModuleDict):
    """Dense layers one after the other, joined at the end."""

    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet121(nn.Module):
    """Four dense blocks, halved between."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                  nn.MaxPool2d(3, 2, 1)]  # fmt: skip
        channels = 64
        for k, n in enumerate((6, 12, 24, 16)):
            layers.append(DenseBlock({f"denselayer{i + 1}": DenseLayer(channels + 32 * i) for i in range(n)}))
            channels += 32 * n
            if k < 3:
                halves = nn.Conv2d(channels, channels // 2, 1, bias=False)
                layers.append(
                    nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), halves, nn.AvgPool2d(2, 2))
                )
                channels //= 2
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, 1000)

    def forward(self, x):
        features = self.features(x)
        out = nn.functional.relu(features, inplace=True)
        out = nn.functional.adaptive_avg_pool2d(out, 1)
        return self.classifier(torch.flatten(out, 1))


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2: wider, by channel, narrower again."""

    def __init__(self, inputs, outputs, stride, expand):
        super().__init__()
        wide = inputs * expand
        layers = [_conv_bn(inputs, wide, act=nn.ReLU6)] if expand > 1 else []
        layers += [_conv_bn(wide, wide, 3, stride, wide, nn.ReLU6), *_conv_bn(wide, outputs)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Seventeen inverted residuals between two convolutions."""

    def __init__(self):
        super().__init__()
        layers, inputs = [_conv_bn(3, 32, 3, 2, act=nn.ReLU6)], 32
        stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                  (6, 320, 1, 1))  # fmt: skip
        for expand, outputs, n, first in stages:
            for i in range(n):
                layers.append(Inverted(inputs, outputs, 1 if i else first, expand))
                inputs = outputs
        self.features = nn.Sequential(*layers, _conv_bn(inputs, 1280, act=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x):
        x = self.features(x)
        x = nn.functional.adaptive_avg_pool2d(x, 1)
        return self.classifier(torch.flatten(x, 1))


class Fire(nn.Module):
    """Narrow, then twice wide, side by side."""

    def __init__(self, inputs, squeeze):
        super().__init__()
        self.squeeze, self.squeeze_activation = nn.Conv2d(inputs, squeeze, 1), nn.ReLU(inplace=True)
        self.expand1x1, self.expand1x1_activation = nn.Conv2d(squeeze, 4 * squeeze, 1), nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, 4 * squeeze, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


class SqueezeNet(nn.Module):
    """Version 1.1: fire modules between pools, and a convolution for a classifier."""

    def __init__(self):
        super().__init__()
        layers, inputs = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(inplace=True)], 64
        for squeeze in (0, 16, 16, 0, 32, 32, 0, 48, 48, 64, 64):
            layers.append(Fire(inputs, squeeze) if squeeze else nn.MaxPool2d(3, 2, ceil_mode=True))
            inputs = 8 * squeeze or inputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(inputs, 1000, 1), nn.ReLU(inplace=True),
                                        nn.AdaptiveAvgPool2d(1))  # fmt: skip

    def forward(self, x):
        x = self.features(x)
        x = self.classifier(x)
        return torch.flatten(x, 1)


class StochasticDepth(nn.Module):
    """In training, drops whole images of a residual branch at random."""

    def __init__(self, p, mode="row"):
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, x):
        if not self.training or not self.p:
            return x
        noise = torch.empty([x.shape[0], 1, 1, 1], dtype=x.dtype, device=x.device)
        noise = noise.bernoulli_(1 - self.p)
        noise.div_(1 - self.p)
        return x * noise


class Excitation(nn.Module):
    """Squeeze and excitation: a factor for each channel."""

    def __init__(self, channels, squeeze):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeeze, 1), nn.Conv2d(squeeze, channels, 1)
        self.activation, self.scale = nn.SiLU(inplace=True), nn.Sigmoid()

    def factors(self, x):
        x = self.avgpool(x)
        x = self.fc1(x)
        x = self.activation(x)
        x = self.fc2(x)
        return self.scale(x)

    def forward(self, x):
        scale = self.factors(x)
        return scale * x


class MBConv(nn.Module):
    """EfficientNet's block: an inverted residual with squeeze and excitation."""

    def __init__(self, inputs, outputs, kernel, stride, expand, p):
        super().__init__()
        wide = inputs * expand
        layers = [_conv_bn(inputs, wide, act=nn.SiLU)] if expand > 1 else []
        layers += [_conv_bn(wide, wide, kernel, stride, wide, nn.SiLU), Excitation(wide, max(1, inputs // 4))]
        self.block = nn.Sequential(*layers, _conv_bn(wide, outputs))
        self.stochastic_depth = StochasticDepth(p)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        result = self.block(x)
        if self.residual:
            result = self.stochastic_depth(result)
            result += x
        return result


class EfficientNetB0(nn.Module):
    """Sixteen blocks between two convolutions."""

    def __init__(self):
        super().__init__()
        layers, inputs, block = [_conv_bn(3, 32, 3, 2, act=nn.SiLU)], 32, 0
        stages = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
                  (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))  # fmt: skip
        for expand, kernel, first, outputs, n in stages:
            stage = []
            for i in range(n):
                stage.append(MBConv(inputs, outputs, kernel, 1 if i else first, expand, 0.2 * block / 16))
                inputs, block = outputs, block + 1
            layers.append(nn.Sequential(*stage))
        self.features = nn.Sequential(*layers, _conv_bn(inputs, 4 * inputs, act=nn.SiLU))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(4 * inputs, 1000))

    def forward(self, x):
        x = self.features(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.classifier(x)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_conv_bn(inputs, outputs, 3, act=nn.ReLU), *_conv_bn(outputs, outputs, 3, act=nn.ReLU))


class Up(nn.Module):
    """Twice the resolution, joined behind what the way down has left."""

    def __init__(self, inputs):
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
        self.conv = _double(inputs, inputs // 2)

    def forward(self, x, skip):
        x = self.up(x)
        dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = nn.functional.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        joined = torch.cat([skip, x], 1)
        return self.conv(joined)


class UNet(nn.Module):
    """Four levels down, four up, and a map of two classes."""

    def __init__(self):
        super().__init__()
        self.inc = _double(3, 64)
        for i in range(1, 5):
            setattr(self, f"down{i}", nn.Sequential(nn.MaxPool2d(2), _double(32 << i, 64 << i)))
            setattr(self, f"up{i}", Up(128 << (4 - i)))
        self.outc = nn.Conv2d(64, 2, 1)

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x = self.up1(x5, x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        x = self.up4(x, x1)
        return self.outc(x)


class Halve(nn.Module):
    """DARTS's factorized reduction: two convolutions of stride 2, one of them shifted by a pixel."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.conv_2 = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = self.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], 1))


def _candidate(kind: str, channels: int, stride: int) -> nn.Module:
    """Return an operation of DARTS's cells."""
    if kind == "skip":
        return nn.Identity() if stride == 1 else Halve(channels, channels)
    if kind == "max":
        return nn.MaxPool2d(3, stride, 1)
    dilation = 2 if kind == "dil3" else 1
    layers = []
    for s in (stride, 1) if kind == "sep3" else (stride,):
        depthwise = nn.Conv2d(channels, channels, 3, s, dilation, dilation, channels, bias=False)
        layers += [nn.ReLU(), depthwise, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers)


class Cell(nn.Module):
    """Four sums of two operations each, joined."""

    NORMAL = (("sep3", 0), ("sep3", 1), ("sep3", 0), ("sep3", 1), ("sep3", 1), ("skip", 0), ("skip", 0), ("dil3", 2))
    REDUCE = (("max", 0), ("max", 1), ("skip", 2), ("max", 1), ("max", 0), ("skip", 2), ("skip", 2), ("max", 1))

    def __init__(self, older, newer, channels, reduction, halve):
        super().__init__()
        plain = [nn.ReLU(), *_conv_bn(older, channels)]
        self.preprocess0 = Halve(older, channels) if halve else nn.Sequential(*plain)
        self.preprocess1 = nn.Sequential(nn.ReLU(), *_conv_bn(newer, channels))
        chosen = self.REDUCE if reduction else self.NORMAL
        self.reads = [state for _, state in chosen]
        self.ops = nn.ModuleList(_candidate(kind, channels, 2 if reduction and s < 2 else 1) for kind, s in chosen)

    def forward(self, s0, s1):
        s0 = self.preprocess0(s0)
        s1 = self.preprocess1(s1)
        states = [s0, s1]
        for i in range(0, 8, 2):
            h1 = states[self.reads[i]]
            h2 = states[self.reads[i + 1]]
            h1 = self.ops[i](h1)
            h2 = self.ops[i + 1](h2)
            s = h1 + h2
            states += [s]
        return torch.cat(states[2:], 1)


class Darts(nn.Module):
    """The net of DARTS's second genotype for ImageNet, without the auxiliary head: 14 cells that branch."""

    def __init__(self):
        super().__init__()
        c = 48
        self.stem0 = nn.Sequential(*_conv_bn(3, c // 2, 3, 2, act=nn.ReLU), *_conv_bn(c // 2, c, 3, 2))
        self.stem1 = nn.Sequential(nn.ReLU(inplace=True), *_conv_bn(c, c, 3, 2))
        cells, older, newer, halve = [], c, c, True
        for i in range(14):
            reduction = i in (4, 9)
            c *= 2 if reduction else 1
            cells.append(Cell(older, newer, c, reduction, halve))
            older, newer, halve = newer, 4 * c, reduction
        self.cells = nn.ModuleList(cells)
        self.global_pooling, self.classifier = nn.AvgPool2d(7), nn.Linear(newer, 1000)

    def forward(self, x):
        s0 = self.stem0(x)
        s1 = self.stem1(s0)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        out = self.global_pooling(s1)
        return self.classifier(out.view(out.size(0), -1))


class Macro(nn.Module):
    """A member of NAS-Bench-Macro: eight layers, each nothing (0), or a small (1) or a large (2) inverted residual."""

    def __init__(self, layers: Iterable[int]):
        super().__init__()
        self.stem = _conv_bn(3, 32, 3, act=nn.ReLU)
        inputs, found = 32, []
        places = ((64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1))
        for kind, (outputs, stride) in zip(layers, places, strict=True):
            if kind:
                found.append(MacroLayer(inputs, outputs, stride, *((3, 3) if kind == 1 else (5, 6))))
            elif stride > 1:
                found.append(_conv_bn(inputs, outputs, 1, stride))
            inputs = outputs
        self.layers = nn.ModuleList(found)
        self.out = _conv_bn(inputs, 1280, act=nn.ReLU)
        self.avgpool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(1280, 10)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        x = self.out(x)
        x = self.avgpool(x)
        return self.classifier(torch.flatten(x, 1))


class MacroLayer(nn.Module):
    """An inverted residual of NAS-Bench-Macro."""

    def __init__(self, inputs, outputs, stride, kernel, expand):
        super().__init__()
        wide = inputs * expand
        self.conv = nn.Sequential(*_conv_bn(inputs, wide, act=nn.ReLU),
                                  *_conv_bn(wide, wide, kernel, stride, wide, nn.ReLU),
                                  *_conv_bn(wide, outputs))  # fmt: skip
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return self.conv(x) + x if self.residual else self.conv(x)


class Gated(nn.Module):
    """A net that exists as Python code only: what runs depends on the image."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.light, self.heavy = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        x = self.heavy(x) if x.mean() > 0 else self.light(x)
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    """A net that is no CNN: an LSTM over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(96, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x):
        out, _ = self.lstm(x.permute(0, 2, 1, 3).flatten(2))
        return self.head(out[:, -1])


class Net(NamedTuple):
    """A net: its name here and in the zoo, how to make it, the shape of one image, options of the zoo's.

    `maps` says that the target is a map of classes, `real` that it runs on data only.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int] = (3, 224, 224)
    options: tuple[tuple[str, Any], ...] = ()
    maps: bool = False
    real: bool = False


NETS = {
    net.name: net
    for net in (
        Net("vgg16", VGG16),
        Net("resnet18", lambda: ResNet((2, 2, 2, 2), False)),
        Net("resnet50", lambda: ResNet((3, 4, 6, 3), True)),
        Net("densenet121", DenseNet121),
        Net("mobilenet_v2", MobileNetV2),
        Net("efficientnet_b0", EfficientNetB0),
        Net("squeezenet1_1", SqueezeNet),
        Net("darts_v2_imagenet", Darts, options=(("train", False),)),
        Net("unet", UNet, (3, 96, 96), (("resolution", 96),), True),
    )
}

# Nets that cnnlive does not read: what runs depends on the data, and what is no CNN.
BEYOND = (Net("control flow on data", Gated, (3, 32, 32), real=True), Net("LSTM", Recurrent, (3, 32, 32), real=True))
