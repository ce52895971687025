"""Find the targets in the user's data: all of them if that costs nothing, or those of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from headstart.engine.model_view import ModelView
from headstart.errors import DataError
from headstart.fitting import samples

KEYS = ("labels", "label", "targets", "target", "y", "masks", "mask")


def find_targets(view: ModelView, function: Callable[[Any], Any] | None) -> Tensor | Mapping[str, Any] | None:
    """The targets, on the device where they are.

    Args:
        view: The view of the call.
        function: The user's function of the raw batch.

    Returns:
        A tensor, what the user's function returns as a dict, or None if none are found.

    Raises:
        DataError: The function failed, or returns something else.
    """
    assert view.batch is not None
    if function is None:
        everything = _of_data_set(view.data)
        if everything is None and samples.holds_rows(view.data):
            everything = _in(view.data, len(view.batch.args))
        return _in(view.batch.raw, len(view.batch.args)) if everything is None else everything
    try:
        found = function(view.batch.raw)
        if isinstance(found, Mapping):
            return {name: torch.as_tensor(value) for name, value in found.items()}
        return torch.as_tensor(found)
    except Exception as error:
        raise DataError(
            f"targets= failed on the batch: {type(error).__name__}: {error}.",
            remedy="It gets one batch of the data and returns a tensor, or a dict of tensors by layer name.",
        ) from error


def _in(raw: Any, inputs: int) -> Tensor | None:
    """The targets of a raw batch: after its inputs, or by name."""
    if isinstance(raw, Mapping):
        return _tensor(next((raw[key] for key in KEYS if key in raw), None))
    if isinstance(raw, (tuple, list)) and len(raw) > 1:
        first = raw[0]
        behind = 1 if isinstance(first, (Mapping, tuple, list)) else max(1, inputs)
        return _tensor(raw[behind]) if len(raw) > behind else None
    return _in(raw[0], inputs) if isinstance(raw, (tuple, list)) and raw and isinstance(raw[0], Mapping) else None


def _of_data_set(data: Any) -> Tensor | None:
    """All targets of a data set, if it holds them in memory."""
    if samples.holds_rows(data):
        return None
    try:
        dataset: Any = samples.as_dataset(data)
    except DataError:  # an iterable, or a loader that draws unevenly
        return None
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        return dataset.tensors[1]
    found = getattr(dataset, "targets", None)
    plain = getattr(dataset, "target_transform", None) is None
    if plain and isinstance(found, (Tensor, np.ndarray, Sequence)) and len(found) == len(dataset):
        return _tensor(found)
    return None


def _tensor(value: Any) -> Tensor | None:
    try:
        return None if value is None else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
