"""Networks of the first comparisons, small enough for eight seeds on one core."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEADS = 4


class Attention(nn.Module):
    """Attention of four heads, queries, keys and values from one layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens."""
        heads = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*heads.unbind(0))
        found: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return found


class Block(nn.Module):
    """Layer norm first, attention, and a hidden layer of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches."""
        x = x + self.attention(self.norm1(x))
        found: Tensor = x + self.hidden(self.norm2(x))
        return found


class ViT(nn.Module):
    """A vision transformer on patches of 4×4 pixels, drawn as usual: linear layers of deviation 0.02, biases zero.

    Args:
        channels: Of the images.
        classes: Numbers to answer with.
        tokens: Patches of an image.
        width: Of a token.
        depth: Blocks.
    """

    def __init__(self, channels: int, classes: int, tokens: int, width: int = 48, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Classify by the mean token."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        found: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return found


def vit(in_channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Build the vision transformer."""
    return ViT(in_channels, classes, image_size[0] // 4 * (image_size[1] // 4))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of images."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each place."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Mixer(nn.Module):
    """ConvNeXt's block: a depthwise 7×7 convolution, a norm, a hidden layer, a small scale, and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = [nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1)]
        self.branch = nn.Sequential(nn.Conv2d(width, width, 7, padding=3, groups=width), ChannelNorm(width), *hidden)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        return x + self.scale * self.branch(x)


def convnext(in_channels: int, classes: int) -> nn.Module:
    """Build a small ConvNeXt: patches of 4×4 pixels, then 2×2, two stages of two blocks, drawn as usual."""
    layers: list[nn.Module] = []
    inputs = in_channels
    for width, patch in ((32, 4), (64, 2)):
        step = nn.Conv2d(inputs, width, patch, patch)
        layers += [step, ChannelNorm(width)] if patch == 4 else [ChannelNorm(inputs), step]
        layers += [Mixer(width), Mixer(width)]
        inputs = width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, classes))
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def stacked(in_channels: int, classes: int) -> nn.Module:
    """Build a network of the kind that the speed records train: a stem, and pairs of convolutions with batch norm."""

    def pair(inputs: int, outputs: int) -> list[nn.Module]:
        first, second = (nn.Conv2d(count, outputs, 3, padding=1, bias=False) for count in (inputs, outputs))
        norms = [nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)]
        return [first, nn.MaxPool2d(2), norms[0], nn.GELU(), second, norms[1], nn.GELU()]

    stem = nn.Conv2d(in_channels, 24, 2)
    body = [*pair(24, 32), *pair(32, 64), *pair(64, 64)]
    return nn.Sequential(stem, nn.GELU(), *body, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def volume_cnn(in_channels: int, classes: int) -> nn.Module:
    """Build three convolutions over volumes, with batch norm and pooling."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((in_channels, 16, 5), (16, 24, 3), (24, 32, 3)):
        layers += [nn.Conv3d(inputs, outputs, kernel, 2, kernel // 2), nn.BatchNorm3d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, classes))


def sound_cnn(in_channels: int, classes: int) -> nn.Module:
    """Build convolutions over a waveform with a first kernel of 80 taps (Dai et al. 2017, M3)."""
    first = nn.Conv1d(in_channels, 32, 80, 4)
    layers: list[nn.Module] = [first, nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(4)]
    layers += [nn.Conv1d(32, 32, 3), nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, classes))


class Copier(nn.Module):
    """An LSTM that answers at every step.

    Args:
        tokens: How many there are.
        width: Of the embedding and of the state.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.lstm = nn.Embedding(tokens, width), nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Return a number per token for every step."""
        found: Tensor = self.head(self.lstm(self.tokens(x))[0])
        return found


def copier(in_channels: int) -> nn.Module:
    """Build the LSTM."""
    return Copier(in_channels, 64)
