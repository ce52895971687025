"""Images and models of the examples beside this file: which way stripes run, and where a blob lies."""

import numpy as np
import torch
from torch import nn


def images(count: int, channels: int = 3, size: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy stripes, ``(count, channels, size, size)``, and whether they run across."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    waves = np.sin(np.arange(size) * 0.9 + 6 * random.random((count, 1)))[:, None, None, :]
    drawn = np.where(labels[:, None, None, None] == 1, waves.swapaxes(2, 3), waves)
    noisy = drawn * random.uniform(0.3, 1, (count, channels, 1, 1)) + random.normal(
        0, 0.7, (count, channels, size, size)
    )
    return torch.from_numpy(noisy.astype(np.float32)), torch.from_numpy(labels)


def inputs() -> torch.Tensor:
    """What the starts look at: inputs alone suffice."""
    return images(128)[0]


def volumes(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy volumes, ``(count, 1, 12, 12, 12)``, and the ball in each."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"))
    centres, radii = random.uniform(3, 9, (count, 3, 1, 1, 1)), random.uniform(2, 4, (count, 1, 1, 1))
    ball = ((grid - centres) ** 2).sum(1) < radii**2
    noisy = ball + random.normal(0, 0.8, ball.shape)
    return torch.from_numpy(noisy[:, None].astype(np.float32)), torch.from_numpy(ball.astype(np.int64))


def volumes_alone() -> torch.Tensor:
    """What the starts of the segmentation network look at."""
    return volumes(8)[0]


class Segmenter(nn.Module):
    """A U-Net of two levels with an output at each, named as nnU-Net names them: ``decoder.seg_layers``."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([_block(1, width), _block(width, 2 * width)])
        self.decoder = nn.Module()
        self.decoder.up = nn.ConvTranspose3d(2 * width, width, 2, 2)
        self.decoder.stage = _block(2 * width, width)
        self.decoder.seg_layers = nn.ModuleList([nn.Conv3d(2 * width, 2, 1), nn.Conv3d(width, 2, 1)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        skip = self.encoder[0](x)
        deep = self.encoder[1](nn.functional.max_pool3d(skip, 2))
        up = self.decoder.stage(torch.cat([self.decoder.up(deep), skip], 1))
        return [self.decoder.seg_layers[1](up), self.decoder.seg_layers[0](deep)]


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1), nn.InstanceNorm3d(outputs, affine=True), nn.LeakyReLU()
    )
