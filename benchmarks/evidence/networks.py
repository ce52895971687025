"""Networks of the cells that the benchmark's own models do not have: small ones with layer norms.

As ``benchmarks/evidence/networks.py:convnext`` and ``...:vit`` they are models of any comparison.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Channels(nn.Module):
    """Layer norm over channels, for ``(N, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return found


class _Block(nn.Module):
    """ConvNeXt's: a depthwise 7×7, layer norm, two linear layers, a scale for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.depthwise(x).movedim(1, -1))
        inner = self.narrow(nn.functional.gelu(self.wide(inner)))
        return x + (self.scale * inner).movedim(-1, 1)


def convnext(in_channels: int, classes: int) -> nn.Module:
    """Build a ConvNeXt for small images: a 4×4 stem, three stages of two blocks, 40 to 160 channels.

    Linear layers and convolutions start as in the original: truncated normal of deviation 0.02, biases zero.
    """
    widths = (40, 80, 160)
    layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, 4), _Channels(widths[0])]
    for place, width in enumerate(widths):
        if place:
            layers += [_Channels(widths[place - 1]), nn.Conv2d(widths[place - 1], width, 2, 2)]
        layers += [_Block(width), _Block(width)]
    made = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], classes)
    )
    for module in made.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return made


class ViT(nn.Module):
    """A small vision transformer with the norm first, patches of 4×4, and the mean over places.

    Args:
        in_channels: Of an image.
        classes: To tell apart.
        image_size: Height and width; multiples of 4.
        width: Of the embedding.
        depth: Blocks.
    """

    def __init__(
        self, in_channels: int, classes: int, image_size: tuple[int, int], width: int = 64, depth: int = 4
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 4, 4)
        places = (image_size[0] // 4) * (image_size[1] // 4)
        self.places = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, places, width), std=0.02))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with one number per class."""
        x = self.stem(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.head(self.norm(x).mean(1))
        return found


def vit(in_channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Build the small vision transformer."""
    return ViT(in_channels, classes, image_size)
