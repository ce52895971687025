"""A network of linear layers alone, for headstart compare --model benchmarks/auto/mlp.py:build_model."""

import math
from itertools import pairwise

from torch import nn


def build_model(in_channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Build four hidden layers of 128, as torch starts them."""
    sizes = [in_channels * math.prod(image_size), *[128] * 4]
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))
