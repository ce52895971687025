"""MobileNets: v1 of Howard et al. 2017; v2 and v3-small with the names and the start that torchvision's have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

Size = tuple[int, ...]
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# Expansion, channels, blocks, stride of the first.
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# Kernel, expanded channels, channels, squeeze-and-excitation, hard swish, stride.
_V3 = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


def _divisible(value: float) -> int:
    """Round to a multiple of 8, never down by more than a tenth."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def _unit(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[..., nn.Module] | None = nn.ReLU,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm(outputs)]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


def mobilenet_v1(in_channels: int, classes: int, image_size: Size, stride: int = 2, width: int = 32) -> nn.Module:
    """Build MobileNet v1: a stem and 13 depthwise-separable blocks, in torch's own start.

    The stem has ``width`` channels and all else in proportion: 32 is the paper's width multiplier 1, 8 is 0.25.
    """
    layers: list[nn.Module] = [*_unit(in_channels, width, 3, stride)]
    inputs = width
    for channels, step in ((width * channels // 32, step) for channels, step in _V1):
        layers += [*_unit(inputs, inputs, 3, step, groups=inputs), *_unit(inputs, channels)]
        inputs = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Inverted(nn.Module):
    """Widen, filter each channel, narrow; with a shortcut where the shape stays."""

    def __init__(self, name: str, inputs: int, outputs: int, stride: int, layers: list[nn.Module]) -> None:
        super().__init__()
        self.add_module(name, nn.Sequential(*layers))
        self._body = name
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y: Tensor = self.get_submodule(self._body)(x)
        return x + y if self.shortcut else y


class SqueezeExcitation(nn.Module):
    """Scale each channel by a function of all channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels."""
        scale: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x


def mobilenet_v2(in_channels: int, classes: int, image_size: Size, stride: int = 2) -> nn.Module:
    """Build MobileNet v2."""
    features: list[nn.Module] = [_unit(in_channels, 32, 3, stride, activation=nn.ReLU6)]
    inputs = 32
    for expansion, width, count, first in _V2:
        for place in range(count):
            step, wide = first if place == 0 else 1, inputs * expansion
            layers: list[nn.Module] = [] if expansion == 1 else [_unit(inputs, wide, activation=nn.ReLU6)]
            layers += [_unit(wide, wide, 3, step, wide, nn.ReLU6), *_unit(wide, width, activation=None)]
            features.append(Inverted("conv", inputs, width, step, layers))
            inputs = width
    features.append(_unit(inputs, 1280, activation=nn.ReLU6))
    return _assemble(features, [nn.Dropout(0.2), nn.Linear(1280, classes)])


def mobilenet_v3_small(in_channels: int, classes: int, image_size: Size, stride: int = 2) -> nn.Module:
    """Build MobileNet v3 small."""

    def norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, eps=0.001, momentum=0.01)

    features: list[nn.Module] = [_unit(in_channels, 16, 3, stride, activation=nn.Hardswish, norm=norm)]
    inputs = 16
    for kernel, wide, width, excite, swish, step in _V3:
        act: Callable[..., nn.Module] = nn.Hardswish if swish else nn.ReLU
        layers: list[nn.Module] = [] if wide == inputs else [_unit(inputs, wide, activation=act, norm=norm)]
        layers.append(_unit(wide, wide, kernel, step, wide, act, norm))
        if excite:
            layers.append(SqueezeExcitation(wide, _divisible(wide / 4)))
        layers.append(_unit(wide, width, activation=None, norm=norm))
        features.append(Inverted("block", inputs, width, step, layers))
        inputs = width
    features.append(_unit(inputs, 6 * inputs, activation=nn.Hardswish, norm=norm))
    head = [nn.Linear(6 * inputs, 1024), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(1024, classes)]
    return _assemble(features, head)


def _assemble(features: list[nn.Module], head: list[nn.Module]) -> nn.Sequential:
    """Join the parts, with the start that torchvision gives both."""
    net = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*features),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(*head),
        )
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return net
