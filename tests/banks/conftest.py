"""Small networks, as modules and as what is left of them in files."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def make_net(seed=0, width=4, channels=3):
    """A dense stem, a block with a depthwise 5×5 and a 1×1, a last 3×3, a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, width, 3),
            nn.BatchNorm2d(width),
            nn.Sequential(nn.Conv2d(width, width, 5, groups=width), nn.Conv2d(width, 2 * width, 1)),
            nn.Conv2d(2 * width, 2 * width, 3, bias=False),
            nn.Flatten(),
            nn.Linear(2 * width, 2),
        )


@pytest.fixture
def net():
    """Build a small network."""
    return make_net
