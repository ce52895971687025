"""A task: samples and targets in three splits, with a fingerprint of their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headstart.bench.tasks.kinds import Inputs, Kind, mapped, tensors


@dataclass(frozen=True)
class Split:
    """Samples and targets.

    Args:
        images: The inputs, samples first: images ``(N, C, H, W)``, signals ``(N, C, T)``, volumes ``(N, C, D, H, W)``
            or features ``(N, F)``, as uint8 in 0..255 or float32 in the user's own units; tokens ``(N, T)`` as int64;
            or a tuple or dict of tensors, the model's arguments.
        labels: The targets: ``(N,)`` int64 in ``0 .. classes - 1``; ``(N, K)`` float32 for numbers or several labels;
            int64 with a class at every position.
    """

    images: Inputs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Split:
        """Return a copy with only these samples, in this order."""
        return Split(mapped(lambda t: t[indices].contiguous(), self.images), self.labels[indices].contiguous())

    def to(self, device: str) -> Split:
        """Return the samples on a device."""
        return Split(mapped(lambda t: t.to(device), self.images), self.labels.to(device))

    def first(self, count: int) -> Split:
        """Return the first samples alone."""
        return Split(mapped(lambda t: t[:count], self.images), self.labels[:count])


@dataclass(frozen=True)
class Task:
    """A task, ready to train on.

    Args:
        name: The name by which it was requested.
        train: Samples to train on; ``mean`` and ``std`` are measured only on these.
        validation: Samples for learning curves and for every choice.
        test: Samples that each trial evaluates once, at its end.
        classes: How many numbers the model returns for each sample or position: classes, labels, or values to predict.
        split_seed: The seed that the splits were drawn with.
        kind: ``"classification"``, ``"multilabel"``, ``"regression"``, ``"segmentation"`` or ``"next-token"``.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    split_seed: int = 0
    kind: Kind = "classification"

    @property
    def tokens(self) -> bool:
        """Whether the inputs are token numbers."""
        first = tensors(self.train.images)[0]
        return not first.is_floating_point() and first.dtype != torch.uint8

    @property
    def pictures(self) -> bool:
        """Whether the inputs are images that may be mirrored and turned without a change of their targets."""
        return isinstance(self.train.images, Tensor) and self.train.images.dim() == 4 and self.kind != "segmentation"

    @property
    def channels(self) -> int:
        """Channels or features of a sample, or the number of tokens. For several inputs, those of the first."""
        first = tensors(self.train.images)[0]
        if self.tokens:
            splits = (self.train, self.validation, self.test)
            return 1 + max(int(tensors(split.images)[0].max()) for split in splits if len(split))
        return int(first.shape[1]) if first.dim() > 1 else 1

    @property
    def image_size(self) -> tuple[int, ...]:
        """Sides of a sample: length, height and width, or depth, height and width; none for features."""
        first = tensors(self.train.images)[0]
        return tuple(first.shape[1:] if self.tokens else first.shape[2:])

    def as_signals(self) -> Task:
        """The same data with rows as channels, ``(N, 1, C, T)`` as ``(N, C, T)``."""

        def rows(split: Split) -> Split:
            return Split(split.images[:, 0], split.labels)

        return replace(self, train=rows(self.train), validation=rows(self.validation), test=rows(self.test))

    def mean_std(self) -> tuple[Tensor, Tensor]:
        """Measure each channel's mean and standard deviation on the training split.

        Returns:
            Two float32 tensors of shape ``(C,)``, in units of ``[0, 1]`` for uint8 images. A channel
            without any spread gets the deviation 1, so that it can be divided by.
        """
        images = self.train.images
        assert isinstance(images, Tensor)
        unit = 255.0 if images.dtype == torch.uint8 else 1.0
        moments = [
            (channel.double().mean(), channel.double().var(correction=0))
            for channel in (images[:, c] for c in range(self.channels))
        ]
        mean = torch.stack([m for m, _ in moments]) / unit
        std = torch.stack([v for _, v in moments]).sqrt() / unit
        return mean.float(), torch.where(std > 0, std, torch.ones_like(std)).float()

    def fingerprint(self) -> str:
        """Return the sha256 of every input and target of the three splits, shapes and types included."""
        digest = hashlib.sha256(f"classes={self.classes}".encode())
        if self.kind != "classification":
            digest.update(f"kind={self.kind}".encode())
        for split in (self.train, self.validation, self.test):
            for tensor in (*tensors(split.images), split.labels):
                digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def describe(self) -> str:
        """Describe it in one line."""
        asked = {
            "classification": f"{self.classes} classes",
            "multilabel": f"{self.classes} labels",
            "regression": f"{self.classes} value{'s' * (self.classes > 1)} to predict",
            "segmentation": f"{self.classes} classes at every position",
            "next-token": "the next token",
        }[self.kind]
        sides = "×".join(map(str, self.image_size))
        if self.tokens:
            shape = f"{sides} tokens of {self.channels}"
        else:
            shape = f"{self.channels}×{sides}" if sides else f"{self.channels} features"
        several = len(tensors(self.train.images))
        return (
            f"{self.name}: {asked}, {shape}{f' and {several - 1} more inputs' * (several > 1)}, "
            f"{len(self.train):,} train / {len(self.validation):,} validation / {len(self.test):,} test"
        )
