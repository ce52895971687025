"""VGG-16, with the names and the start that torchvision's has."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

Size = tuple[int, ...]
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def _vgg(in_channels: int, classes: int, norm: bool) -> nn.Sequential:
    features: list[nn.Module] = []
    inputs = in_channels
    for width, count in _STAGES:
        for _ in range(count):
            features.append(nn.Conv2d(inputs, width, 3, padding=1))
            features += [nn.BatchNorm2d(width)] if norm else []
            features.append(nn.ReLU(inplace=True))
            inputs = width
        features.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        nn.Linear(512 * 49, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, classes),
    )
    net = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*features),
            avgpool=nn.AdaptiveAvgPool2d(7),
            flatten=nn.Flatten(),
            classifier=classifier,
        )
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return net


def vgg16(in_channels: int, classes: int, image_size: Size) -> nn.Module:
    """Build VGG-16; the output of the last pooling is averaged to 7×7."""
    return _vgg(in_channels, classes, norm=False)


def vgg16_bn(in_channels: int, classes: int, image_size: Size) -> nn.Module:
    """Build VGG-16 with a batch norm after each convolution."""
    return _vgg(in_channels, classes, norm=True)
