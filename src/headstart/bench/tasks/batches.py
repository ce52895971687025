"""Batches on the device: data order, augmentation and normalization, without Python code per image."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from operator import itemgetter

import torch
from torch import Tensor

from headstart.bench.tasks.augment import Draws, augment
from headstart.bench.tasks.kinds import Inputs, mapped
from headstart.bench.tasks.task import Split, Task
from headstart.errors import DataError

NORMALIZATIONS = ("task", "imagenet", "none")
SAME = "same"
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def data_order(images: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield the indices of each step's batch.

    Each epoch is a new permutation; an incomplete batch at the end of an epoch is left out.

    Args:
        images: Number of training images.
        batch_size: Images in a batch.
        steps: Number of batches.
        seed: It alone decides the order.

    Yields:
        ``(batch_size,)`` int64 indices, ``steps`` times.

    Raises:
        DataError: If a batch is larger than the training split.

    Example:
        >>> orders = [torch.cat(list(data_order(8, 4, 2, seed))) for seed in (0, 0, 1)]
        >>> torch.equal(orders[0], orders[1]), sorted(orders[2].tolist()) == list(range(8))
        (True, True)
    """
    per_epoch = steps_per_epoch(images, batch_size)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        place = step % per_epoch
        if place == 0:
            order = torch.randperm(images, generator=draw)
        yield order[place * batch_size : (place + 1) * batch_size]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return how many whole batches the training split gives.

    Raises:
        DataError: If a batch is larger than the training split.

    Example:
        >>> steps_per_epoch(50_000, 128)
        390
    """
    if not 1 <= batch_size <= images:
        raise DataError(
            f"A batch of {batch_size} images cannot be drawn from {images} training images.",
            remedy="Choose a smaller batch size.",
        )
    return images // batch_size


class DeviceTask:
    """A task's images on the device, and batches of them ready for a model.

    Args:
        task: The task.
        device: The device that holds the images, in their own type (uint8 stays uint8).
        memory_format: ``"contiguous"`` or ``"channels_last"``, of the batches.
        normalization: ``"task"`` gives each channel mean 0 and deviation 1 over the training split; ``"imagenet"``
            uses ImageNet's statistics; ``"none"`` leaves the values as they are, 0 to 255 for uint8.
        test_normalization: The normalization of the test split only, for protocols that were published so; or
            ``"same"``.

    Raises:
        DataError: ImageNet's statistics are used for images that do not have three channels.
    """

    def __init__(
        self, task: Task, device: str, memory_format: str, normalization: str = "task", test_normalization: str = SAME
    ) -> None:
        self.task = task
        self.train, self.validation, self.test = (
            split.to(device) for split in (task.train, task.validation, task.test)
        )
        self._affine = _affine(task, normalization, device)
        of_test = normalization if test_normalization == SAME else test_normalization
        self._test_affine = _affine(task, of_test, device)
        self._format = _FORMATS[memory_format]

    def in_format(self, memory_format: str) -> DeviceTask:
        """Return the same task with batches in another memory format."""
        other = copy.copy(self)
        other._format = _FORMATS[memory_format]
        return other

    def without_test(self) -> DeviceTask:
        """Return the same task with no test images."""
        other = copy.copy(self)
        other.test = self.test.first(0)
        return other

    def normalize(self, images: Inputs, test: bool = False) -> Inputs:
        """Return normalized float32 inputs, images in the memory format. Tokens and several inputs stay as they are.

        Args:
            images: ``(B, C, H, W)``, or other inputs as in `Split`.
            test: Whether they are of the test split.
        """
        affine = self._test_affine if test else self._affine
        if affine is None:
            return images
        layout = self._format if images.dim() == 4 else torch.contiguous_format
        return torch.addcmul(affine[1], images.to(torch.float32, memory_format=layout), affine[0])

    def training_batch(self, indices: Tensor, draws: Draws | None = None) -> tuple[Inputs, Tensor]:
        """Gather, augment and normalize some images of the training split.

        Args:
            indices: ``(B,)``.
            draws: The draws of the augmentation; None for none.
        """
        where = indices.to(self.train.labels.device)
        images = mapped(lambda t: t[where], self.train.images)
        if draws is not None and not draws.nothing:
            images = augment(images, draws)
        return self.normalize(images), self.train.labels[where]

    def batches(self, split: Split, size: int) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield a split's normalized images and labels in order; the last batch may be smaller.

        Args:
            split: A split of the task, or a part of one that is not the test split.
            size: Images in a batch.
        """
        for start in range(0, len(split), size):
            part = slice(start, start + size)
            yield self.normalize(mapped(itemgetter(part), split.images), test=split is self.test), split.labels[part]

    def calibration_batch(self, size: int, seed: int) -> tuple[Inputs, Tensor]:
        """Draw the batch for an initialization: normalized training images, not augmented.

        Args:
            size: Number of images; all of them if there are fewer.
            seed: It alone decides the draw.
        """
        count = len(self.train)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: min(size, count)]
        return self.training_batch(order)


def _affine(task: Task, normalization: str, device: str) -> tuple[Tensor, Tensor] | None:
    """Return scale and shift of each channel, ``(1, C, 1, 1)``; None for tokens and several inputs."""
    if task.tokens or not isinstance(task.train.images, Tensor):
        return None
    unit = 255.0 if task.train.images.dtype == torch.uint8 else 1.0
    mean, std = torch.zeros(task.channels), torch.full((task.channels,), 1 / unit)
    if normalization == "task":
        mean, std = task.mean_std()
    elif normalization == "imagenet":
        if task.channels != 3:
            raise DataError(
                f"Task '{task.name}' has images of {task.channels} channels; ImageNet's statistics are for three.",
                remedy="Leave the normalization at 'task'.",
            )
        mean, std = _IMAGENET
    shape = (1, -1) + (1,) * (task.train.images.dim() - 2)
    return (1 / (unit * std)).to(device).view(shape), (-mean / std).to(device).view(shape)
