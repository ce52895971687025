"""The kinds of tasks: a class, several labels, numbers, a class at every position, the next token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from headstart.errors import DataError, unknown

Kind = Literal["classification", "multilabel", "regression", "segmentation", "next-token"]
KINDS: tuple[Kind, ...] = ("classification", "multilabel", "regression", "segmentation", "next-token")
Inputs = Any
"""A tensor, or a tuple, list or dict of tensors, all with the samples first."""


def mapped(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Apply a function to every tensor of a model's inputs.

    Example:
        >>> mapped(lambda t: t + 1, {"a": torch.zeros(2)})
        {'a': tensor([1., 1.])}
    """
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, dict):
        return {name: mapped(function, value) for name, value in inputs.items()}
    return tuple(mapped(function, value) for value in inputs)


def tensors(inputs: Inputs) -> list[Tensor]:
    """List the tensors of a model's inputs, in their order.

    Example:
        >>> [t.shape[1] for t in tensors((torch.zeros(2, 3), {"b": torch.zeros(2, 4)}))]
        [3, 4]
    """
    if isinstance(inputs, Tensor):
        return [inputs]
    return [found for value in (inputs.values() if isinstance(inputs, dict) else inputs) for found in tensors(value)]


def called(model: Callable[..., Any], inputs: Inputs) -> Any:
    """Call a model: a tuple gives its positional arguments, a dict its keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def kind_of(inputs: Inputs, targets: Tensor, name: str) -> Kind:
    """Find the kind of a task from its inputs and targets.

    Args:
        inputs: With the samples first.
        targets: ``(N,)`` integers are classes. ``(N,)`` or ``(N, K)`` floating point are numbers to predict, or several
            labels if all are 0 or 1 and ``K`` is above 1, as integers, too. Integers that have the sides of the inputs
            are a class at every position; if the inputs are tokens of that shape, the next token.
        name: The task's name, for messages.

    Raises:
        DataError: The kind is not clear.

    Example:
        >>> kind_of(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]), "a"), kind_of(torch.zeros(4, 3), torch.zeros(4), "b")
        ('classification', 'regression')
    """
    first = tensors(inputs)[0]
    if targets.is_floating_point():
        if targets.dim() > 2:
            raise DataError(
                f"Task '{name}': targets have shape {tuple(targets.shape)} and type {targets.dtype}.",
                remedy="Give (N,) or (N, K) numbers, or integers for classes.",
            )
        several = targets.dim() == 2 and targets.shape[1] > 1
        return "multilabel" if several and bool(((targets == 0) | (targets == 1)).all()) else "regression"
    if targets.dim() == 1:
        return "classification"
    tokens = isinstance(inputs, Tensor) and not first.is_floating_point() and first.dtype != torch.uint8
    if tokens and targets.shape == first.shape:
        return "next-token"
    if targets.shape[1:] == first.shape[2:]:
        return "segmentation"
    if targets.dim() == 2 and bool(((targets == 0) | (targets == 1)).all()):
        return "multilabel"
    raise DataError(
        f"Task '{name}': labels have shape {tuple(targets.shape)} and type {targets.dtype};"
        f" the inputs have {tuple(first.shape)}.",
        remedy="Give one integer per image, one for every position of it, or 0 and 1 for several labels.",
    )


def check_kind(kind: str) -> None:
    """Raise if there is no such kind."""
    if kind not in KINDS:
        raise unknown("kind of task", kind, KINDS)
