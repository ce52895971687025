"""Networks that the benchmarks run on, and torchvision beside a CPU build of torch."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

_KEPT: list[Any] = []


def torchvision_models() -> Any:
    """Import ``torchvision.models``, declaring two operators that its binary cannot bring to a CPU-only torch."""
    try:
        import torchvision.models as models
    except RuntimeError:
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision.models as models
    return models


class Block(nn.Module):
    """Basic block of the CIFAR ResNets, with the parameter-free shortcut (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions and the shortcut."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return torch.relu(y + shortcut)


def cifar_resnet(depth: int, classes: int = 10) -> nn.Sequential:
    """He et al. 2016, section 4.2: depth 6n + 2."""
    n = (depth - 2) // 6
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for stage, width in enumerate((16, 32, 64)):
        for i in range(n):
            layers.append(Block(inputs, width, 2 if stage and i == 0 else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def mobilenet_v1(classes: int = 1000) -> nn.Sequential:
    """Howard et al. 2017: a stride-2 stem and 13 depthwise-separable blocks."""
    widths = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]

    def unit(conv: nn.Conv2d) -> list[nn.Module]:
        return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]

    layers, inputs = unit(nn.Conv2d(3, 32, 3, 2, 1, bias=False)), 32
    for width, stride in widths:
        layers += unit(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False))
        layers += unit(nn.Conv2d(inputs, width, 1, bias=False))
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def build(name: str) -> tuple[nn.Module, int]:
    """Return a network and the image size that it is measured at."""
    if name.startswith("cifar-resnet"):
        return cifar_resnet(int(name.removeprefix("cifar-resnet"))), 32
    if name == "mobilenet-v1":
        return mobilenet_v1(), 64
    return getattr(torchvision_models(), name)(), 64
