"""Turn arrays into images and labels, and draw stratified splits by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart.errors import DataError
from headstart.rng import generator

NO_TEST_SET, TEST_SET = (0.7, 0.1, 0.2), (0.9, 0.1)
"""Shares of training, validation and test; and of training and validation if there is a test set."""
# Counts that are channels rather than a side of an image, when a 4-D array leaves it open.
_CHANNELS = (1, 2, 3, 4)


def as_images(array: Any, name: str) -> Tensor:
    """Turn an array into ``(N, C, H, W)`` images, or ``(N, C, D, H, W)`` volumes.

    Args:
        array: ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, or with a depth before the height; numpy or torch.
            It is taken as channels-last only if its last side, and not its second, is at most 4. Signals ``(N, C, T)``
            become images of one channel: see ``Task.as_signals``.
        name: The task's name, for messages.

    Returns:
        A contiguous uint8 tensor, or float32 for floating-point input and 16-bit integers.

    Raises:
        DataError: If the shape or type does not fit, or a value is not finite.

    Example:
        >>> as_images(np.zeros((5, 8, 8, 3), np.uint8), "mine").shape
        torch.Size([5, 3, 8, 8])
    """
    values = as_values(array, name, "images")
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim in (4, 5):
        values = _channels_first(values)
    if values.ndim not in (4, 5):
        raise DataError(
            f"Task '{name}': images have shape {_numpy(array).shape}.",
            remedy="Give (N, H, W), (N, H, W, C) or (N, C, H, W); signals as (N, C, T), volumes as (N, C, D, H, W).",
        )
    return torch.from_numpy(np.array(values, order="C"))


def as_inputs(array: Any, name: str) -> Tensor:
    """Turn an array into a model's inputs, samples first and channels second.

    Args:
        array: ``(N, F)`` features; ``(N, T)`` 32- or 64-bit integers, which are tokens; or
            images and volumes as for `as_images`.
        name: The task's name, for messages.

    Raises:
        DataError: If the shape or type does not fit, or a value is not finite.

    Example:
        >>> [tuple(as_inputs(np.zeros(shape, np.float32), "mine").shape) for shape in ((5, 28, 28), (5, 7))]
        [(5, 1, 28, 28), (5, 7)]
    """
    found = _numpy(array)
    if found.ndim == 2 and found.dtype in (np.int32, np.int64):
        if found.min(initial=0) < 0:
            raise DataError(f"Task '{name}': tokens go down to {found.min()}.", remedy="Number them from 0.")
        return torch.from_numpy(np.array(found, np.int64, order="C"))
    if found.ndim != 2:
        return as_images(array, name)
    return torch.from_numpy(np.array(as_values(array, name, "inputs"), order="C"))


def as_values(array: Any, name: str, what: str) -> np.ndarray[Any, Any]:
    """Return bytes as they are and numbers as float32.

    Raises:
        DataError: If the type does not fit, there is nothing, or a value is not finite.
    """
    values = _numpy(array)
    if values.dtype != np.uint8:
        if values.dtype not in (np.float16, np.float32, np.float64, np.int16, np.uint16):
            raise DataError(
                f"Task '{name}': {what} are of type {values.dtype}.",
                remedy="Give uint8 in 0..255, 16-bit integers, or floating point.",
            )
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"Task '{name}': {what} hold NaN or infinite values.")
    if values.ndim > 1 and 0 in values.shape:
        remedy = f"Give at least one {'image' if what == 'images' else 'sample'}."
        raise DataError(f"Task '{name}': {what} have shape {values.shape}.", remedy=remedy)
    return values


def _channels_first(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    last = values.shape[-1] in _CHANNELS and values.shape[1] not in _CHANNELS
    return np.moveaxis(values, -1, 1) if last else values


def as_labels(array: Any, name: str) -> np.ndarray[Any, Any]:
    """Turn an array of class numbers into int64.

    Raises:
        DataError: If it is not one-dimensional or does not hold integers.
    """
    values = _numpy(array)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(
            f"Task '{name}': labels have shape {values.shape} and type {values.dtype}.",
            remedy="Give one integer per image.",
        )
    return np.array(values, dtype=np.int64)


def stratified(labels: Tensor, shares: Sequence[float], seed: int, name: str) -> list[Tensor]:
    """Split indices so that each part has each class in the same proportion.

    Args:
        labels: ``(N,)`` class numbers.
        shares: The parts' shares, which add up to 1. The first part gets the remainder of rounding.
        seed: The seed of the draw. A class's draw depends only on the seed and the class.
        name: The task's name, for messages.

    Returns:
        One sorted index tensor per share.

    Raises:
        DataError: If a class has too few images to be in every part.

    Example:
        >>> [len(part) for part in stratified(torch.arange(40) % 2, (0.7, 0.1, 0.2), 0, "mine")]
        [28, 4, 8]
    """
    parts: list[list[Tensor]] = [[] for _ in shares]
    for value in labels.unique().tolist():
        members = torch.nonzero(labels == value).flatten()
        order = members[torch.randperm(len(members), generator=generator(seed, "split", str(value)))]
        counts = [max(1, round(share * len(members))) for share in shares[1:]]
        first = len(members) - sum(counts)
        if first < 1:
            raise DataError(
                f"Task '{name}': class {value} has only {len(members)} image(s).",
                remedy=f"Each class needs at least {len(shares)}, better 30 or more.",
            )
        for part, chunk in zip(parts, torch.split(order, [first, *counts]), strict=True):
            part.append(chunk)
    return [torch.cat(part).sort().values for part in parts]


def plain(count: int, shares: Sequence[float], seed: int, name: str) -> list[Tensor]:
    """Split indices at random, for targets without classes.

    Args:
        count: Samples.
        shares: The parts' shares, which add up to 1. The first part gets the remainder of rounding.
        seed: The seed of the draw.
        name: The task's name, for messages.

    Returns:
        One sorted index tensor per share.

    Raises:
        DataError: If there are too few samples.

    Example:
        >>> [len(part) for part in plain(40, (0.7, 0.1, 0.2), 0, "mine")]
        [28, 4, 8]
    """
    counts = [max(1, round(share * count)) for share in shares[1:]]
    if count - sum(counts) < 1:
        raise DataError(f"Task '{name}' has only {count} sample(s).", remedy="Give at least some tens of samples.")
    order = torch.randperm(count, generator=generator(seed, "split"))
    return [part.sort().values for part in torch.split(order, [count - sum(counts), *counts])]


def plain_subset(labels: Tensor, size: int, seed: int, name: str, part: str) -> Tensor:
    """Choose some of the samples at random; otherwise as `subset`."""
    if not 1 <= size <= len(labels):
        raise DataError(
            f"Task '{name}': {part}={size} is not possible.", remedy=f"Its {part} split has {len(labels)} samples."
        )
    return torch.randperm(len(labels), generator=generator(seed, "subset", part))[:size].sort().values


def subset(labels: Tensor, size: int, seed: int, name: str, part: str) -> Tensor:
    """Choose some of the images; each class keeps its share.

    Args:
        labels: ``(N,)`` class numbers.
        size: How many to choose.
        seed: The seed of the draw. A class's order depends only on the seed, the part and the class.
        name: The task's name, for messages.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Returns:
        Sorted indices.

    Raises:
        DataError: If there are fewer images, or not even one for each class.

    Example:
        >>> labels = torch.arange(40) % 4
        >>> labels[subset(labels, 6, 0, "mine", "train")].bincount().tolist()
        [2, 2, 1, 1]
    """
    values, counts = labels.unique(return_counts=True)
    if not len(values) <= size <= len(labels):
        raise DataError(
            f"Task '{name}': {part}={size} is not possible.",
            remedy=f"Its {part} split has {len(labels)} images in {len(values)} classes; ask for a number between.",
        )
    shares = counts.double() * size / len(labels)
    chosen = shares.floor().long().clamp_min(1)
    # What rounding left goes to, or is taken from, the classes whose share was cut, or raised, the most.
    for _ in range(abs(size - int(chosen.sum()))):
        step = 1 if int(chosen.sum()) < size else -1
        gaps = (shares - chosen) * step
        gaps[chosen + step < 1] = -torch.inf
        chosen[int(gaps.argmax())] += step
    picked = []
    for value, count in zip(values.tolist(), chosen.tolist(), strict=True):
        members = torch.nonzero(labels == value).flatten()
        draw = generator(seed, "subset", part, str(value))
        picked.append(members[torch.randperm(len(members), generator=draw)[:count]])
    return torch.cat(picked).sort().values


def _numpy(array: Any) -> np.ndarray[Any, Any]:
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
