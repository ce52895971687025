"""Tasks from the user's arrays, tensors, several inputs, or torch data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart.bench.tasks import splits
from headstart.bench.tasks.datasets import holds_datasets, read_datasets
from headstart.bench.tasks.kinds import Inputs, Kind, check_kind, kind_of, tensors
from headstart.bench.tasks.task import Split, Task
from headstart.errors import DataError

_TARGETS = ("labels", "label", "targets", "target", "y")


def from_arrays(
    name: str,
    images: Any,
    labels: Any,
    *,
    split_seed: int = 0,
    test: tuple[Any, Any] | None = None,
    validation: tuple[Any, Any] | None = None,
    kind: Kind | None = None,
) -> Task:
    """Build a task from arrays.

    Args:
        name: The task's name.
        images: The inputs: images ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``; signals ``(N, C, T)``; volumes
            ``(N, C, D, H, W)``; features ``(N, F)``; tokens ``(N, T)`` as 32- or 64-bit integers; all others uint8, or
            floating point in any unit. Or a tuple or dict of such arrays, the model's arguments.
        labels: The targets: ``(N,)`` integers, any values, which become ``0 .. classes - 1`` in sorted order; or as
            `headstart.bench.tasks.kinds.kind_of` says, with classes from 0.
        split_seed: The seed of the splits.
        test: Inputs and targets of an official test set. Without it, a fifth of the samples is the test
            split. A tenth of the rest (70/10/20 in all without a test set) is for validation.
        validation: Inputs and targets of your own validation split, together with a test set.
        kind: The kind of targets, if it is not clear from them.

    Returns:
        The task.

    Raises:
        DataError: If shapes or types do not fit, values are not finite, or a class has too few samples.

    Example:
        >>> images, labels = np.zeros((60, 8, 8), np.uint8), np.arange(60) % 3
        >>> print(from_arrays("zeros", images, labels).describe())
        zeros: 3 classes, 1×8×8, 42 train / 6 validation / 12 test
    """
    if kind is not None:
        check_kind(kind)
    whole = _along_time(_split(name, images, labels, kind))
    kind = kind or kind_of(whole.images, whole.labels, name)
    if kind == "multilabel":  # 0 and 1 may have come as integers
        whole = _along_time(_split(name, images, labels, kind))
    given = {part: pair for part, pair in (("validation", validation), ("test", test)) if pair is not None}
    if validation is not None and test is None:
        raise DataError(f"Task '{name}' has validation samples and no test samples.", remedy="Give both, or neither.")
    held = [_along_time(_split(f"{name} ({part})", *pair, kind)) for part, pair in given.items()]
    for part, split in zip(given, held, strict=True):
        _same_form(name, whole, split, part)
    if kind == "classification":
        names = torch.cat([split.labels for split in (whole, *held)]).unique()
        if len(names) < 2:
            raise DataError(f"Task '{name}' has only one class.")
        whole, *held = (Split(split.images, torch.searchsorted(names, split.labels)) for split in (whole, *held))
        classes = len(names)
    else:
        classes = _outputs(name, kind, [split.labels for split in (whole, *held)])
    if validation is not None:
        return Task(name, whole, held[0], held[1], classes, split_seed, kind)
    shares = splits.TEST_SET if held else splits.NO_TEST_SET
    if kind == "classification":
        parts = splits.stratified(whole.labels, shares, split_seed, name)
    else:
        parts = splits.plain(len(whole), shares, split_seed, name)
    made = [whole.take(part) for part in parts] + held
    return Task(name, made[0], made[1], made[2], classes, split_seed, kind)


def from_pair(spec: str, made: Any, split_seed: int) -> Task:
    """Build a task from what a user's function returned.

    Args:
        spec: How the user named the function.
        made: Inputs and targets; a torch ``Dataset`` of such pairs; or two of either, the second one for the test.
        split_seed: The seed of the splits.

    Raises:
        DataError: It is none of these.
    """
    if holds_datasets(made):
        (inputs, targets), test = read_datasets(made, spec, split_seed)
        return from_arrays(spec, inputs, targets, split_seed=split_seed, test=test)
    if isinstance(made, (tuple, list)) and len(made) == 2:
        if all(isinstance(each, (tuple, list)) and len(each) == 2 for each in made) and not _plain(made):
            return from_arrays(spec, *made[0], split_seed=split_seed, test=tuple(made[1]))
        if _target(made[1]):
            return from_arrays(spec, made[0], made[1], split_seed=split_seed)
    if isinstance(made, Mapping) and (found := [key for key in _TARGETS if key in made]):
        inputs = {key: value for key, value in made.items() if key not in _TARGETS}
        return from_arrays(spec, inputs, made[found[0]], split_seed=split_seed)
    raise DataError(
        f"'{spec}' returned {type(made).__name__}, not (images, labels), a Dataset or a Task.",
        remedy="Return (inputs, targets), a torch Dataset, two of either for training and test, a dict of inputs with "
        "'labels', or a Task.",
    )


def _plain(made: Any) -> bool:
    """Whether two lists are plain numbers (arrays written out), not pairs of arrays."""
    return all(not hasattr(part, "shape") for each in made for part in each)


def _target(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or (isinstance(value, (list, tuple)) and len(value) > 0)


def _split(name: str, inputs: Any, targets: Any, kind: str | None) -> Split:
    made = _inputs(name, inputs)
    found = _targets(name, targets, kind)
    count = len(tensors(made)[0])
    if any(len(tensor) != len(found) for tensor in tensors(made)):
        raise DataError(f"Task '{name}' has {count} images and {len(found)} labels.")
    return Split(made, found)


def _inputs(name: str, inputs: Any) -> Inputs:
    if isinstance(inputs, Mapping):
        return {str(key): _inputs(f"{name}, '{key}'", value) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_inputs(f"{name}, input {number}", value) for number, value in enumerate(inputs))
    return splits.as_inputs(inputs, name)


def _targets(name: str, targets: Any, kind: str | None) -> Tensor:
    values = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
    if values.dtype == bool:
        values = values.astype(np.float32 if values.ndim == 2 else np.int64)
    if values.ndim < 1 or values.dtype.kind not in "iuf":
        raise DataError(
            f"Task '{name}': labels have shape {values.shape} and type {values.dtype}.",
            remedy="Give one integer per image, or other targets as arrays of numbers.",
        )
    if values.dtype.kind == "f" or kind in ("regression", "multilabel"):
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"Task '{name}': targets hold NaN or infinite values.")
        if values.ndim == 1:
            values = values[:, None]
        return torch.from_numpy(np.array(values, order="C"))
    return torch.from_numpy(np.array(values, dtype=np.int64, order="C"))


def _along_time(split: Split) -> Split:
    """Signals whose targets have one class per time: their rows are channels, not an image."""
    images, labels = split.images, split.labels
    one = isinstance(images, Tensor) and images.dim() == 4 and images.shape[1] == 1
    classes = labels.dim() == 2 and not labels.is_floating_point() and bool((labels > 1).any())  # else several labels
    if one and classes and labels.shape[1] == images.shape[3]:
        return Split(images[:, 0], labels)
    return split


def _same_form(name: str, whole: Split, held: Split, part: str) -> None:
    one, other = tensors(whole.images), tensors(held.images)
    if [(t.shape[1:], t.dtype) for t in one] != [(t.shape[1:], t.dtype) for t in other]:
        raise DataError(
            f"Task '{name}': training images are {tuple(one[0].shape[1:])} and {part} images "
            f"{tuple(other[0].shape[1:])}, or of different types."
        )


def _outputs(name: str, kind: str, targets: list[Tensor]) -> int:
    """How many numbers a model returns for each sample or position."""
    if kind in ("regression", "multilabel"):
        if bool((targets[0] == targets[0][:1]).all()):
            raise DataError(f"Task '{name}': all targets are the same.", remedy="There is nothing to learn.")
        return int(targets[0].shape[1])
    low, high = min(int(t.min()) for t in targets), max(int(t.max()) for t in targets)
    if low < 0 or high < 1:
        raise DataError(f"Task '{name}': classes go from {low} to {high}.", remedy="Number them from 0.")
    return high + 1
