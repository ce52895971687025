"""Networks for inputs other than images, and for a class at every position."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

CONVS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
UPS: dict[int, Callable[..., nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[int, Callable[..., nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def mlp(in_channels: int, classes: int, sides: tuple[int, ...], width: int = 64, depth: int = 2) -> nn.Module:
    """Build ``depth`` hidden layers of ReLU units over all values of a sample."""
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = in_channels * math.prod(sides)
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def signal_cnn(in_channels: int, classes: int, sides: tuple[int, ...], width: int = 32) -> nn.Module:
    """Build three convolutions over time, each with batch norm, a ReLU and pooling, then the mean over time."""
    layers: list[nn.Module] = []
    inputs = in_channels
    for kernel in (7, 5, 3):
        layers += [
            nn.Conv1d(inputs, width, kernel, padding=kernel // 2),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.MaxPool1d(2, ceil_mode=True),
        ]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, classes))


class UNet(nn.Module):
    """Two levels down and up again, with shortcuts between them, for images or volumes.

    Args:
        in_channels: The channels of the input.
        classes: Numbers at every position of the output.
        dims: 1, 2 or 3.
        width: Channels of the first level.
    """

    def __init__(self, in_channels: int, classes: int, dims: int, width: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Module:
            layers: list[nn.Module] = []
            for count in (inputs, outputs):
                layers += [CONVS[dims](count, outputs, 3, padding=1), NORMS[dims](outputs), nn.ReLU()]
            return nn.Sequential(*layers)

        self.first, self.second = block(in_channels, width), block(width, 2 * width)
        self.middle = block(2 * width, 4 * width)
        self.up_second, self.up_first = UPS[dims](4 * width, 2 * width, 2, 2), UPS[dims](2 * width, width, 2, 2)
        self.back_second, self.back_first = block(4 * width, 2 * width), block(2 * width, width)
        self.head = CONVS[dims](width, classes, 1)
        self.pool = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims](2)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with one number per class at every position."""
        first = self.first(x)
        second = self.second(self.pool(first))
        up = self.back_second(torch.cat([second, self.up_second(self.middle(self.pool(second)))], 1))
        found: Tensor = self.head(self.back_first(torch.cat([first, self.up_first(up)], 1)))
        return found


def unet(in_channels: int, classes: int, sides: tuple[int, ...], width: int = 16) -> nn.Module:
    """Build a small U-Net of as many dimensions as the input has."""
    return UNet(in_channels, classes, len(sides), width)


class TokenTransformer(nn.Module):
    """A causal transformer with layer norms first, for the next token.

    Args:
        tokens: The number of different tokens.
        length: The largest number of positions.
        width: The width of the embedding.
        depth: The number of blocks.
    """

    def __init__(self, tokens: int, length: int, width: int, depth: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        options: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, activation="gelu", **options) for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with one number per token at every position."""
        steps = x.shape[1]
        mask = torch.ones(steps, steps, dtype=torch.bool, device=x.device).triu(1)
        value = self.tokens(x) + self.places.weight[:steps]
        for block in self.blocks:
            value = block(value, src_mask=mask)
        found: Tensor = self.head(self.norm(value))
        return found


def token_transformer(tokens: int, classes: int, sides: tuple[int, ...], width: int = 64, depth: int = 2) -> nn.Module:
    """Build a small causal transformer."""
    return TokenTransformer(max(tokens, classes), sides[0], width, depth)
