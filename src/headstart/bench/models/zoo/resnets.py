"""ResNets with the ImageNet stem, with the names and the start that torchvision's have."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

Size = tuple[int, ...]


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Return the 1×1 shortcut where the shape changes."""
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Two 3×3 convolutions, with or without a shortcut around them."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: bool = True) -> None:
        super().__init__()
        downsample = _projection(inputs, width, stride)
        self.conv1 = _convolution(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.shortcut:
            y = y + (x if self.downsample is None else self.downsample(x))
        return self.relu(y)


class Bottleneck(nn.Module):
    """A 1×1, a 3×3 (with the stride) and a widening 1×1 convolution, with a shortcut around them."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: bool = True) -> None:
        super().__init__()
        downsample = _projection(inputs, 4 * width, stride)
        self.conv1 = _convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        if self.shortcut:
            y = y + (x if self.downsample is None else self.downsample(x))
        return self.relu(y)


def _resnet(
    block: type[Basic] | type[Bottleneck],
    counts: tuple[int, ...],
    in_channels: int,
    classes: int,
    plain_stages: tuple[int, ...] = (),
) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, 1),
    )
    inputs = 64
    for stage, count in enumerate(counts, start=1):
        width = 32 * 2**stage
        blocks: list[nn.Module] = []
        for place in range(count):
            stride = 2 if stage > 1 and place == 0 else 1
            blocks.append(block(inputs, width, stride, stage not in plain_stages))
            inputs = width * block.expansion
        parts[f"layer{stage}"] = nn.Sequential(*blocks)
    parts["avgpool"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    parts["fc"] = nn.Linear(inputs, classes)
    net = nn.Sequential(parts)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def resnet18(in_channels: int, classes: int, image_size: Size) -> nn.Module:
    """Build ResNet-18."""
    return _resnet(Basic, (2, 2, 2, 2), in_channels, classes)


def resnet18_plain_stage1(in_channels: int, classes: int, image_size: Size) -> nn.Module:
    """Build ResNet-18 whose two blocks of the first stage add nothing to their output."""
    return _resnet(Basic, (2, 2, 2, 2), in_channels, classes, plain_stages=(1,))


def resnet50(in_channels: int, classes: int, image_size: Size) -> nn.Module:
    """Build ResNet-50 with the stride in the 3×3 convolutions."""
    return _resnet(Bottleneck, (3, 4, 6, 3), in_channels, classes)
