"""Turn a torch ``Dataset``, which a user's function may return for a task, into arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from headstart import rng
from headstart.errors import DataError

Arrays = tuple[Any, Any]


def holds_datasets(made: Any) -> bool:
    """Tell whether something is a ``Dataset``, or a pair of them for training and test."""
    pair = isinstance(made, (tuple, list)) and len(made) == 2
    return isinstance(made, Dataset) or (pair and all(isinstance(part, Dataset) for part in made))


def training_part(made: Any) -> Any:
    """The data set to train on."""
    return made[0] if isinstance(made, (tuple, list)) else made


def read_datasets(made: Any, name: str, seed: int) -> tuple[Arrays, Arrays | None]:
    """Read data sets once, sample by sample: random transforms are drawn then, by the seed, and never again.

    Args:
        made: A ``Dataset`` of pairs ``(input, target)``, or two of them for training and test.
        name: The name of the task, for messages.
        seed: The seed of random transforms.

    Returns:
        Inputs and targets to train on, and those of the test set if there is one.

    Raises:
        DataError: A sample is not such a pair, or samples differ in shape.

    Example:
        >>> data = TensorDataset(torch.zeros(5, 1, 8, 8), torch.arange(5))
        >>> (images, classes), test = read_datasets((data, data), "mine", 0)
        >>> images.shape, classes.tolist()
        (torch.Size([5, 1, 8, 8]), [0, 1, 2, 3, 4])
    """
    parts = made if isinstance(made, (tuple, list)) else [made]
    with rng.untouched(seed):
        read = [_read(part, name) for part in parts]
    return read[0], read[1] if len(read) > 1 else None


def _read(dataset: Any, name: str) -> Arrays:
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        return dataset.tensors[0], dataset.tensors[1]
    count = len(dataset) if hasattr(dataset, "__len__") else None
    samples = (dataset[i] for i in range(count)) if count is not None else iter(dataset)
    images: list[np.ndarray[Any, Any]] = []
    targets: list[np.ndarray[Any, Any]] = []
    try:
        for image, label in samples:
            images.append(np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image))
            found = np.asarray(label.detach().cpu() if isinstance(label, Tensor) else label)
            if found.dtype.kind not in "biuf":
                raise TypeError(f"{label!r} is not a number")
            targets.append(found if found.ndim else found.astype(np.float32 if found.dtype.kind == "f" else np.int64))
    except Exception as error:
        raise DataError(
            f"Task '{name}': sample {len(targets)} of the {type(dataset).__name__} cannot be read as a pair"
            f" (input, target): {type(error).__name__}: {error}.",
            remedy="Let the data set return an array, tensor or picture, and a number or an array.",
        ) from error
    shapes = {(image.shape, target.shape) for image, target in zip(images, targets, strict=True)}
    if len(shapes) != 1:
        where = 0 if len({image for image, _ in shapes}) > 1 else 1  # the inputs differ, or the targets
        differing = sorted({pair[where] for pair in shapes})[:3]
        raise DataError(
            f"Task '{name}': the samples of the {type(dataset).__name__} have shapes {differing}.",
            remedy="Let its transform give them the same shape.",
        )
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))
