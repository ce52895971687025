"""The ResNets for 32×32 images of He et al. 2016, section 4.2, with parameter-free shortcuts (option A)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, ...]


def _convolution(inputs: int, outputs: int, stride: int, norm: bool) -> tuple[nn.Conv2d, nn.Module]:
    """Build a 3×3 convolution, followed by a batch norm, or else with a bias."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not norm)
    return convolution, nn.BatchNorm2d(outputs) if norm else nn.Identity()


class Block(nn.Module):
    """Two 3×3 convolutions; the shortcut skips pixels and adds channels of zeros where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, outputs, stride, norm)
        self.conv2, self.bn2 = _convolution(outputs, outputs, 1, norm)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(y + shortcut)


def cifar_resnet(depth: int, in_channels: int, classes: int, norm: bool = True) -> nn.Sequential:
    """Build the network of depth ``6 n + 2``; without ``norm`` it has biases instead of batch norms.

    Example:
        >>> sum(p.numel() for p in cifar_resnet(20, 3, 10).parameters())
        269722
    """
    layers: list[nn.Module] = [*_convolution(in_channels, 16, 1, norm), nn.ReLU()]
    inputs = 16
    for stage, width in enumerate((16, 32, 64)):
        for place in range((depth - 2) // 6):
            layers.append(Block(inputs, width, 2 if stage and place == 0 else 1, norm))
            inputs = width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None and isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.bias)
    return net


def resnet20(in_channels: int, classes: int, image_size: Size, norm: int = 1) -> nn.Module:
    """Build the network of 20 layers."""
    return cifar_resnet(20, in_channels, classes, bool(norm))


def resnet56(in_channels: int, classes: int, image_size: Size, norm: int = 1) -> nn.Module:
    """Build the network of 56 layers."""
    return cifar_resnet(56, in_channels, classes, bool(norm))
