"""Which positions of a batch count: masks that the user names, or that the batch contains."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.errors import DataError
from headstart.model.batch import from_numpy, tensors_in
from headstart.model.weights import CONVS, LAYERS, TRANSPOSED

Mask = str | bool | Tensor | np.ndarray[Any, Any] | Callable[[Any], Any] | None

_PADDING = re.compile(r"(^|_)(padding|pad)_mask$")
_LENGTHS = re.compile(r"(^|_)(lengths?|lens)$")
_OF_TARGETS = re.compile(r"^(label|target|y_)")


def find_masks(
    mask: Mask, raw: Any, arguments: Mapping[str, Any], model: nn.Module
) -> tuple[tuple[Tensor, ...], list[str]]:
    """Find the masks of a batch.

    Args:
        mask: What the user passed: a key, a function of the raw batch, or the values. None looks for known names;
            False ignores masks.
        raw: The batch as the data gave it.
        arguments: The model's inputs by name.
        model: It shows which axis of ``(N, C, T)`` inputs holds the positions.

    Returns:
        Masks ``(N, *positions)``, True where a position counts, and sentences about them.

    Raises:
        DataError: There is no such key, or the values are not a mask of this batch.
    """
    if mask is False:
        return (), []
    if mask is None or mask is True:
        found, notes = _by_name({**_keys(raw), **arguments}, arguments, model)
    else:
        name, value = _asked_for(mask, raw, arguments)
        made = _as_mask(name, value, arguments, model)
        if made is None:
            raise DataError(
                f"{name} has shape {tuple(_tensor(value).shape)}, which is not a mask of this batch:"
                f" {', '.join(str(tuple(t.shape)) for t in tensors_in(arguments))}.",
                remedy="A mask has one entry per sample and position, (N, T); lengths have one per sample, (N,).",
            )
        found, notes = [(name, made)], []
    kept: list[tuple[str, Tensor]] = []
    for name, made in found:
        if not bool(made.any()):
            raise DataError(
                f"{name} says that no position of the batch counts.", remedy="Pass mask=False to ignore it."
            )
        if not bool(made.all()):
            kept.append((name, made))
            notes.append(f"Padding is left out: by {name}, {int(made.sum())} of {made.numel()} positions count.")
    return tuple(made for _, made in kept), notes


def _asked_for(mask: Any, raw: Any, arguments: Mapping[str, Any]) -> tuple[str, Any]:
    if isinstance(mask, str):
        given = {**_keys(raw), **arguments}
        if mask not in given:
            known = ", ".join(map(repr, given)) or "none"
            raise DataError(f"The batch has no {mask!r} for mask=.", remedy=f"Its names are: {known}.")
        return f"'{mask}'", given[mask]
    if callable(mask) and not isinstance(mask, Tensor):
        try:
            return "mask=", mask(raw)
        except Exception as error:
            raise DataError(
                f"mask= failed on the batch: {type(error).__name__}: {error}.",
                remedy="It gets one batch of the data and returns which positions count.",
            ) from error
    return "mask=", mask


def _keys(raw: Any) -> dict[str, Any]:
    if isinstance(raw, Mapping):
        return {str(k): v for k, v in raw.items()}
    if isinstance(raw, (tuple, list)) and raw and isinstance(raw[0], Mapping):
        return _keys(raw[0])
    return {}


def _by_name(
    given: Mapping[str, Any], arguments: Mapping[str, Any], model: nn.Module
) -> tuple[list[tuple[str, Tensor]], list[str]]:
    """Attention masks and padding masks, or else lengths."""
    found: dict[tuple[int, ...], tuple[str, Tensor]] = {}
    notes: list[str] = []
    for kind in (_is_mask, _is_lengths):
        for name, value in given.items():
            made = _as_mask(f"'{name}'", value, arguments, model) if kind(name, value) else None
            if made is None:
                continue
            shape = tuple(made.shape)
            if shape in found and not torch.equal(found[shape][1], made):
                notes.append(
                    f"{found[shape][0]} and '{name}' disagree on which positions count; {found[shape][0]} is used."
                    " Pass mask= to choose."
                )
            found.setdefault(shape, (f"'{name}'", made))
        if found:
            break
    return list(found.values()), notes


def _is_mask(name: str, value: Any) -> bool:
    named = name.endswith("attention_mask") or _PADDING.search(name)
    return bool(named) and isinstance(value, (Tensor, np.ndarray)) and not _OF_TARGETS.match(name)


def _is_lengths(name: str, value: Any) -> bool:
    fits = isinstance(value, (Tensor, np.ndarray)) and value.ndim == 1 and not _tensor(value).is_floating_point()
    return fits and bool(_LENGTHS.search(name)) and not _OF_TARGETS.match(name)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return from_numpy(np.asarray(value))


def _as_mask(name: str, value: Any, arguments: Mapping[str, Any], model: nn.Module) -> Tensor | None:
    """Which positions count, ``(N, *positions)``; None if the values do not have the batch's shape."""
    inputs = [t for t in tensors_in(arguments) if t.dim() > 1]
    given = _tensor(value)
    if not inputs or given.dim() == 0 or len(given) != len(inputs[0]):
        return None
    given = given.to(inputs[0].device)
    if given.dim() == 1:
        if given.is_floating_point() or given.dtype == torch.bool:
            return None
        longest = int(given.max())
        steps = next(_steps(inputs, longest, model), 0)
        return torch.arange(steps, device=given.device) < given[:, None] if steps else None
    while given.dim() > 2 and given.shape[1] == 1:
        given = given.squeeze(1)
    if given.is_floating_point() and bool((given < 0).any()):
        counts = given >= 0  # it is added to scores: minus infinity, or a huge negative number, hides
    elif _PADDING.search(name.strip("'")):
        counts = given == 0
    else:
        counts = given != 0
    places = given.shape[1:]
    fits = any(t.shape[1 : 1 + len(places)] == places or t.shape[-len(places) :] == places for t in inputs)
    return counts if fits else None


def _steps(inputs: list[Tensor], longest: int, model: nn.Module) -> Iterator[int]:
    """How many positions samples may have when the longest has ``longest``; the most likely first."""
    first: Any = next((m for m in model.modules() if isinstance(m, LAYERS)), None)
    last = isinstance(first, (*CONVS, *TRANSPOSED))
    sizes = [size for t in inputs for size in ((t.shape[-1], t.shape[1]) if last else (t.shape[1], t.shape[-1]))]
    yield from (size for size in sizes if size == longest)
    yield from (size for size in sizes if size >= longest)
