"""The rule that decides whether an iterable gives samples or batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from headstart.model.batch import indivisible, map_tensors, tensors_in
from headstart.model.weights import CONVS, LAYERS, TRANSPOSED

TARGET_KEYS = {"label", "labels", "target", "targets", "y"}


def are_samples(data: Any, first: Any, model: nn.Module | None = None) -> bool:
    """Tell whether an iterable gives samples (which are collated) or batches (of which the first is used).

    A ``DataLoader`` gives batches, and a ``Dataset`` with a length gives samples: neither needs this rule. For lists,
    generators and ``IterableDataset`` the first item decides, by the first of these that applies. (An item without
    tensors, or with objects that torch cannot collate, is a batch, and ``get_inputs=`` must unpack it.)

    1. A number or a string beside a tensor (``(image, 3)``, ``{"image": ..., "label": 3}``): a sample. (A batch has a
       tensor or a list of those there.)
    2. No tensor with two axes or more (``torch.randn(8)``, ``(features, target)``, rows of numbers): a sample.
    3. The model starts with a convolution of *d* dimensions. With *d + 2* axes, the first tensor is a batch. With
       *d + 1* axes, and as many entries on the first as the convolution has channels, it is a sample.
    4. Tensors with different lengths along the first axis, unless they are a graph: a sample.
    5. Otherwise: an ``IterableDataset`` gives samples, as a ``DataLoader`` would read it; all others give batches.

    The rule is not applied to a tuple, a dict or a list of two arrays of one length: they are one batch, unless the two
    arrays are samples by 2 or 3.

    Args:
        data: The iterable.
        first: Its first item.
        model: The model that will take it; None skips rule 3.

    Example:
        >>> image = torch.zeros(3, 8, 8)
        >>> are_samples([], (image, 7)), are_samples([], (image, torch.zeros(3)))
        (True, False)
        >>> are_samples([], image, nn.Conv2d(3, 4, 3)), are_samples([], image, nn.Conv1d(8, 4, 3))
        (True, False)
    """
    sure = _by_content(first, model)
    return isinstance(data, IterableDataset) if sure is None else sure


def _by_content(first: Any, model: nn.Module | None) -> bool | None:
    """The answer of all rules but the last; None if none applies."""
    tensors = list(tensors_in(as_row(first)))
    if not tensors or not _collates(first):
        return False
    if _has_scalar(first):
        return True
    if all(t.dim() < 2 for t in tensors):
        return True
    value = next((t for t in tensors if t.dim() > 1), tensors[0])
    if (by_model := _by_model(value, model)) is not None:
        return by_model
    lengths = {len(t) for t in tensors if t.dim()}
    if len(lengths) > 1 and not indivisible(first):
        return True
    return None


def _collates(value: Any) -> bool:
    """Whether torch can collate it, so that it does not need ``get_inputs=``."""
    if isinstance(value, Mapping):
        return all(_collates(v) for v in value.values())
    if isinstance(value, (tuple, list)):
        return all(_collates(v) for v in value)
    return isinstance(value, (Tensor, np.ndarray, np.generic, int, float, str, bytes))


def as_row(sample: Any) -> Any:
    """A sample with its lists of numbers turned into tensors: data sets of Hugging Face give such lists."""
    if isinstance(sample, Mapping):
        return {k: as_row(v) for k, v in sample.items()}
    if isinstance(sample, (list, tuple)) and sample and all(_numbers(v) for v in sample):
        try:
            return torch.as_tensor(np.asarray(sample)) if isinstance(sample, list) else sample
        except (TypeError, ValueError):
            return sample
    if isinstance(sample, (tuple, list)) and not hasattr(sample, "_fields"):
        return type(sample)(as_row(v) for v in sample)
    return map_tensors(sample, lambda t: t)


def _numbers(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_numbers(v) for v in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _has_scalar(first: Any) -> bool:
    """Whether there is a number or a string beside tensors: the label or the name of one sample."""
    if isinstance(first, Mapping):
        return any(_scalar(v) for k, v in first.items() if str(k).lower() in TARGET_KEYS)
    if isinstance(first, (tuple, list)):
        rest = [v for v in first if not isinstance(v, (Tensor, np.ndarray)) or v.ndim == 0]
        return len(rest) < len(first) and any(_scalar(v) for v in rest)
    return False


def _scalar(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.ndim == 0
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _by_model(value: Tensor, model: nn.Module | None) -> bool | None:
    """The answer from the axes of the model's first convolution; None if it starts with another layer."""
    layers = () if model is None else (m for m in model.modules() if isinstance(m, LAYERS))
    first: Any = next(iter(layers), None)
    if not isinstance(first, (*CONVS, *TRANSPOSED)) or not value.is_floating_point():
        return None
    axes = len(first.kernel_size)
    if value.dim() == axes + 2:
        return False
    channels = first.in_channels
    if value.dim() == axes + 1 and channels in (0, value.shape[0]):  # a lazy one does not know them yet
        return True
    return None
