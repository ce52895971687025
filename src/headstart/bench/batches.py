"""Batches on the device: data order, augmentation and normalization, without any per-image Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.bench.tasks import Split, Task
from headstart.errors import DataError, unknown

AUGMENTATIONS = ("flip", "crop")
_PADDING = 4


def data_order(images: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield the indices of each step's batch.

    Each epoch is a new permutation; what does not fill a batch at an epoch's end is left out.

    Args:
        images: Number of training images.
        batch_size: Images in a batch.
        steps: Number of batches.
        seed: Alone decides the order.

    Yields:
        ``(batch_size,)`` int64 indices, ``steps`` times.

    Raises:
        DataError: If a batch is larger than the training split.

    Example:
        >>> orders = [torch.cat(list(data_order(8, 4, 2, seed))) for seed in (0, 0, 1)]
        >>> torch.equal(orders[0], orders[1]), sorted(orders[2].tolist()) == list(range(8))
        (True, True)
    """
    if not 1 <= batch_size <= images:
        raise DataError(
            f"A batch of {batch_size} images cannot be drawn from {images} training images.",
            remedy="Choose a smaller batch size.",
        )
    draw = torch.Generator().manual_seed(seed)
    per_epoch = images // batch_size
    for step in range(steps):
        place = step % per_epoch
        if place == 0:
            order = torch.randperm(images, generator=draw)
        yield order[place * batch_size : (place + 1) * batch_size]


def check_augmentations(names: Sequence[str]) -> None:
    """Raise the error for an unknown augmentation, if there is one."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)


def augment(images: Tensor, names: Sequence[str], draw: torch.Generator) -> Tensor:
    """Augment a batch where it lies.

    Args:
        images: ``(B, C, H, W)``.
        names: ``"flip"`` mirrors each image left to right with probability one half; ``"crop"`` shifts it
            by up to four pixels each way, with zeros coming in. Applied in this fixed order.
        draw: A CPU generator, so that a device draws what the CPU draws.

    Returns:
        A batch of the same shape.
    """
    batch, _, height, width = images.shape
    device = images.device
    if "flip" in names:
        mirrored = (torch.rand(batch, generator=draw) < 0.5).to(device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if "crop" in names:
        shifts = torch.randint(0, 2 * _PADDING + 1, (2, batch), generator=draw).to(device)
        padded = F.pad(images, (_PADDING,) * 4)
        rows = shifts[0][:, None] + torch.arange(height, device=device)
        columns = shifts[1][:, None] + torch.arange(width, device=device)
        which = torch.arange(batch, device=device)[:, None, None]
        # Indices around a slice put the channels last, hence the permutation back.
        images = padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images


class DeviceTask:
    """A task's images on the device, and batches of them ready for a model.

    Args:
        task: The task.
        device: Where to hold the images, in the type that they have (uint8 stays uint8).
        memory_format: ``"contiguous"`` or ``"channels_last"``, of the batches.
    """

    def __init__(self, task: Task, device: str, memory_format: str) -> None:
        self.task = task
        self.train, self.validation, self.test = (
            Split(split.images.to(device), split.labels.to(device))
            for split in (task.train, task.validation, task.test)
        )
        unit = 255.0 if task.train.images.dtype == torch.uint8 else 1.0
        mean, std = task.mean_std()
        self._scale = (1 / (unit * std)).to(device)[None, :, None, None]
        self._shift = (-mean / std).to(device)[None, :, None, None]
        self._format = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format

    def normalize(self, images: Tensor) -> Tensor:
        """Return float32 images with mean 0 and deviation 1 per channel over the training split."""
        return torch.addcmul(self._shift, images.float(), self._scale).contiguous(memory_format=self._format)

    def training_batch(self, indices: Tensor, names: Sequence[str], draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Gather, augment and normalize one batch of the training split."""
        where = indices.to(self.train.labels.device)
        return self.normalize(augment(self.train.images[where], names, draw)), self.train.labels[where]

    def calibration_batch(self, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draw the batch that an initialization sees: training images, not augmented, normalized.

        Args:
            size: Number of images; all of them if there are fewer.
            seed: Alone decides the draw.
        """
        count = len(self.train)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: min(size, count)]
        return self.training_batch(order, (), torch.Generator())
