"""Which iterables give samples and which give batches: the rule, in one place."""

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
    """Tell whether an iterable gives samples, which are collated, or batches, of which the first is used.

    A ``DataLoader`` gives batches; a ``Dataset`` with a length gives samples; neither comes here. For lists,
    generators and ``IterableDataset`` the first thing that they give decides, by the first of these that applies. (What
    holds no tensor, or objects that torch cannot collate, is a batch, for ``get_inputs=`` to unpack.)

    1. A number or a string beside a tensor (``(image, 3)``, ``{"image": ..., "label": 3}``): a sample. A batch holds a
       tensor or a list of those.
    2. No tensor of two axes or more (``torch.randn(8)``, ``(features, target)``, rows of numbers): a sample.
    3. The model starts with a convolution of *d* dimensions: with *d + 2* axes the first tensor is a batch, with
       *d + 1* axes, of which the first has as many entries as the convolution has channels, a sample.
    4. Tensors of several lengths along the first axis that is not that of a graph: a sample.
    5. Else an ``IterableDataset`` gives samples, as a ``DataLoader`` would read it, and all others give batches.

    A tuple, a dict and a list of two arrays of one length are never asked: they are one batch, unless the two arrays
    are samples by 2 or 3.

    Args:
        data: The iterable.
        first: The first thing that it gives.
        model: The model that will take it; None leaves rule 3 out.

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
    """What the rules but the last say; None if nothing."""
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
    """Whether there is nothing in it that only ``get_inputs=`` can know what to do with."""
    if isinstance(value, Mapping):
        return all(_collates(v) for v in value.values())
    if isinstance(value, (tuple, list)):
        return all(_collates(v) for v in value)
    return isinstance(value, (Tensor, np.ndarray, np.generic, int, float, str, bytes))


def as_row(sample: Any) -> Any:
    """A sample whose rows of numbers are tensors, as data sets of Hugging Face give them in lists."""
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
    """Whether a number or a string stands beside tensors: the label or the name of one sample."""
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
    """What the axes of a model's first convolution say; None if it starts with another layer."""
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
