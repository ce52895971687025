"""MONAI's U-Net for volumes: channels 8, 16, 32, strides of 2, instance norms, PReLU, all else as MONAI has it."""

from __future__ import annotations

from monai.networks.nets import UNet
from torch import nn


def build(in_channels: int, classes: int) -> nn.Module:
    """Build it with MONAI's own weights."""
    return UNet(3, in_channels, classes, channels=(8, 16, 32), strides=(2, 2))
