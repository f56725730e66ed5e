"""Small nets in the shape of known ones, for tests that train them: few channels, few pixels, all the same ops.

torch is imported where the module is: tests ask for it first.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Mixed", "mobilenet_v2", "resnet18"]


class Basic(nn.Module):
    """Two convolutions around a sum, with normalisations and activations in place."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """The ops of ResNet-18: a stem with a pool, four stages of two blocks, mean and linear."""

    def __init__(self, width, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        inputs = width
        for k in range(4):
            outputs = width << k
            stage = nn.Sequential(Basic(inputs, outputs, 2 if k else 1), Basic(outputs, outputs, 1))
            setattr(self, f"layer{k + 1}", stage)
            inputs = outputs
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(width=4, classes=10):
    """Return a net with ResNet-18's ops."""
    return ResNet(width, classes)


def _layer(inputs, outputs, kernel=3, stride=1, groups=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
                         nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))  # fmt: skip


class Inverted(nn.Module):
    """An inverted residual: wider, by channel, narrower again; added to what came in where shapes allow."""

    def __init__(self, inputs, outputs, stride, expand):
        super().__init__()
        wide = inputs * expand
        layers = [_layer(inputs, wide, 1)] if expand > 1 else []
        layers += [_layer(wide, wide, 3, stride, wide), nn.Conv2d(wide, outputs, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


def mobilenet_v2(width=4, classes=10):
    """Return a net with MobileNetV2's ops: inverted residuals, ReLU6 in place, a dropout before the classifier."""
    layers = [_layer(3, width, stride=2)]
    inputs = width
    for expand, outputs, n, first in ((1, width, 1, 1), (6, width, 2, 2), (6, 2 * width, 3, 2), (6, 4 * width, 2, 1)):
        for k in range(n):
            layers.append(Inverted(inputs, outputs, first if k == 0 else 1, expand))
            inputs = outputs
    layers.append(_layer(inputs, 8 * width, 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * width, classes))


class Mixed(nn.Module):
    """Dropouts of both kinds among normalisations, activations and sums in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=0.3), nn.Dropout2d(0.3))
        self.act = nn.SiLU(inplace=True)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.4), nn.Linear(32, 10))

    def forward(self, x):
        x = self.stem(x)
        y = self.body(x).add_(x)
        return self.head(self.act(y))
