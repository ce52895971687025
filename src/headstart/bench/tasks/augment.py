"""Augmentation of a whole batch at once, on its device: mirror, turn and shift in a single gather."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.errors import DataError

AUGMENTATIONS = ("flip", "crop", "rotate")
_PADDING = 4


@dataclass(frozen=True)
class Draws:
    """The draws for each image of a batch; None for what is not done.

    Args:
        mirrored: ``(B,)``, whether the image is mirrored left to right.
        shifts: ``(2, B)``, pixels down and to the right by which the window that is kept moves.
        turns: ``(2, B)``, cosine and sine of the angle, clockwise. Both come from the CPU: a cosine's last
            bit is not the same on every device.
    """

    mirrored: Tensor | None = None
    shifts: Tensor | None = None
    turns: Tensor | None = None

    @property
    def nothing(self) -> bool:
        """Whether nothing is done."""
        return self.mirrored is None and self.shifts is None and self.turns is None

    def part(self, which: slice) -> Draws:
        """Return the draws of a part of the batch."""
        return Draws(*(None if t is None else t[..., which] for t in (self.mirrored, self.shifts, self.turns)))


def draw(names: Sequence[str], images: int, degrees: float, generator: torch.Generator) -> Draws:
    """Draw the augmentation of a batch.

    Args:
        names: ``"flip"`` mirrors each image left to right with probability one half; ``"rotate"`` turns it by an
            angle that is uniform within ``degrees`` each way; ``"crop"`` shifts it by up to four pixels
            each way. Applied in this order, whatever the order of the names.
        images: Number of images.
        degrees: Largest angle.
        generator: On the CPU, so that every device gets the same draws.

    Example:
        >>> draw(("flip",), 3, 15.0, torch.Generator().manual_seed(0)).mirrored
        tensor([ True, False,  True])
    """
    flip = crop = turn = None
    if "flip" in names:
        flip = torch.rand(images, generator=generator) < 0.5
    if "crop" in names:
        crop = torch.randint(-_PADDING, _PADDING + 1, (2, images), generator=generator)
    if "rotate" in names:
        angle = (torch.rand(images, generator=generator) * 2 - 1) * math.radians(degrees)
        turn = torch.stack([angle.cos(), angle.sin()])
    return Draws(flip, crop, turn)


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Augment a batch: each pixel gets the value of the nearest source pixel, or zero.

    Args:
        images: ``(B, C, H, W)``, of any type.
        draws: The draws for each image.

    Returns:
        A batch of the same shape and type; the images themselves if nothing is done.

    Example:
        >>> image = torch.arange(4).reshape(1, 1, 1, 4)
        >>> augment(image, Draws(mirrored=torch.tensor([True]))).flatten()
        tensor([3, 2, 1, 0])
    """
    if draws.nothing:
        return images
    if images.dim() != 4:
        raise DataError(
            f"Only images can be augmented, but these have shape {tuple(images.shape[1:])}.",
            remedy="Leave out the augmentations (--augment, or augment = in a file).",
        )
    batch, channels, height, width = images.shape
    rows, columns = _sources(draws, batch, height, width, images.device)
    # What comes from outside comes from a border of zeros.
    places = torch.add(columns, rows, alpha=width + 2).view(batch, 1, -1).expand(-1, channels, -1)
    return F.pad(images, (1, 1, 1, 1)).flatten(2).gather(2, places).view(images.shape)


def _sources(draws: Draws, batch: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the source row and column of each pixel, counted in images with a border of one pixel.

    From the centre, the way back goes through shift, turn and mirror. All of these are linear, so the parts that depend
    on the row and on the column are computed separately and only added for every pixel.

    Returns:
        Two int64 tensors of shape ``(B, H, W)``.
    """
    zero, one = torch.zeros(batch, device=device), torch.ones(batch, device=device)
    down, right = (zero, zero) if draws.shifts is None else draws.shifts.to(device)
    cos, sin = (one, zero) if draws.turns is None else draws.turns.to(device)
    sign = one if draws.mirrored is None else 1 - 2 * draws.mirrored.to(device, torch.float32)
    rows = (torch.arange(height, device=device) - (height - 1) / 2 + down[:, None])[:, :, None]
    columns = (torch.arange(width, device=device) - (width - 1) / 2 + right[:, None])[:, None, :]
    cos, sin, sign = (value[:, None, None] for value in (cos, sin, sign))
    from_row = (cos * rows + (height + 1) / 2) + -sin * columns
    from_column = (sign * sin * rows + (width + 1) / 2) + sign * cos * columns
    return from_row.round_().clamp_(0, height + 1).long(), from_column.round_().clamp_(0, width + 1).long()
