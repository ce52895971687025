"""Turn the user's data (tensor, pair, dict, loader, dataset) into one checked batch for the model."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.errors import DataError
from headstart.model.batch import Batch, are_images, from_numpy, indivisible, map_tensors, size_of, tensors_in
from headstart.model.masks import Mask, find_masks
from headstart.model.sparse import MEMORY_LIMIT
from headstart.model.take import densified, take

__all__ = [
    "Batch",
    "GetInputs",
    "Mask",
    "as_batch",
    "fingerprint",
    "from_numpy",
    "load",
    "map_tensors",
    "require_variation",
    "take",
    "take_masked",
]

GetInputs = Callable[[Any], Any]
_TARGET_KEYS = {"label", "labels", "target", "targets", "y"}


def load(
    data: Any,
    model: nn.Module,
    *,
    seed: int,
    samples: int | None = None,
    get_inputs: GetInputs | None = None,
    mask: Mask = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Batch:
    """Take one batch from ``data``, on the model's device and in its floating precision.

    Args:
        data: A tensor or numpy array (the batch; above 1,024 samples a random subset drawn by ``seed``), a
            pair ``(inputs, targets)`` of those, a dict of keyword arguments, a ``DataLoader`` or another iterable of
            such batches (the first is used), a ``Dataset`` or a list of samples (256 drawn by ``seed``), or an
            ``IterableDataset`` or another iterable of samples (the first 256). For how samples and batches are told
            apart see :func:`headstart.model.sample_rule.are_samples`. A graph ``(x, edge_index)`` is not cut.
        model: The model that will take the batch; its forward signature tells inputs from targets.
        seed: The seed of the draw.
        samples: Use this many samples: from as many batches of a loader as needed, or drawn.
        get_inputs: ``batch -> tensor | tuple (positional) | dict (keyword)``, for any other form. It gets samples
            after they are collated.
        mask: Which positions count in all statistics; the rest is padding. A key of the batch or the name of an
            argument; a function of the raw batch; or, beside data that are tensors, a tensor. True or nonzero counts,
            ``(N, T)``; integers ``(N,)`` are lengths. In what is named ``..._padding_mask`` True is padding. By default
            ``..._attention_mask``, ``..._padding_mask`` and ``..._lengths`` are recognized by name; False ignores them.
        memory_limit: MB (2**20 bytes) that a sparse tensor of the samples may take once it is dense.

    Returns:
        The batch, checked to be non-empty and finite.

    Raises:
        DataError: The data are empty, of an unknown kind, or not finite.
    """
    raw, note, mask = take_masked(data, mask, seed=seed, samples=samples, model=model, memory_limit=memory_limit)
    return as_batch(raw, model, note=note, get_inputs=get_inputs, mask=mask, memory_limit=memory_limit)


def take_masked(
    data: Any,
    mask: Mask,
    *,
    seed: int,
    samples: int | None,
    model: nn.Module,
    most: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> tuple[Any, str, Mask]:
    """Take a raw batch, and the same samples of a mask that was given beside the data.

    Raises:
        DataError: As :func:`take`, or the mask does not fit the data.
    """
    taking = partial(take, seed=seed, samples=samples, most=most, model=model, memory_limit=memory_limit)
    if not isinstance(mask, (Tensor, np.ndarray)):
        return *taking(data), mask
    if not isinstance(data, (Tensor, np.ndarray, Mapping, tuple)) or len(mask) != size_of(data):
        raise DataError(
            f"mask= of shape {tuple(mask.shape)} does not fit data of type {type(data).__name__}.",
            remedy="A mask tensor needs data tensors with as many samples. Otherwise pass a key of the batch, or a"
            " function of it.",
        )
    both, note = taking({"data": data, "mask": mask})
    return both["data"], note, both["mask"]


def as_batch(
    raw: Any,
    model: nn.Module,
    *,
    note: str = "",
    get_inputs: GetInputs | None = None,
    mask: Mask = False,
    memory_limit: int = MEMORY_LIMIT,
) -> Batch:
    """Find the model's inputs in a raw batch, and move them to its device and precision.

    Args:
        raw: As the data gave it, collated.
        model: Its forward signature tells inputs from targets.
        note: How the batch was drawn.
        get_inputs: Takes the inputs out of the raw batch.
        mask: As for :func:`load`, but a tensor belongs to this batch; by default no mask is looked for.
        memory_limit: As for :func:`load`.

    Raises:
        DataError: ``get_inputs`` failed, the batch is empty, or values are not finite.
    """
    given = raw
    if get_inputs is not None:
        try:
            raw = get_inputs(raw)
        except Exception as error:
            raise DataError(
                f"get_inputs failed on the batch: {type(error).__name__}: {error}.",
                remedy="It gets one batch of the data and returns a tensor, a tuple or a dict of the model's inputs.",
            ) from error
        args, kwargs = _arguments(densified(raw, memory_limit))
    else:
        args, kwargs = _split(raw, model)
    batch = replace(_place(Batch(args, kwargs, note), model), raw=given)
    _check(batch, model)
    batch.whole = indivisible((batch.args, batch.kwargs))
    if mask is not False:
        batch.masks, batch.findings = find_masks(mask, given, dict(_named_arguments(batch, model)), model)
    return batch


def fingerprint(batch: Batch) -> str:
    """Hash what a batch holds: types, shapes and values."""
    digest = hashlib.sha256()
    for t in batch.tensors:
        digest.update(repr((t.dtype, tuple(t.shape))).encode())
        digest.update(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_variation(batch: Batch) -> None:
    """Raise unless the samples differ from each other: every data-dependent statistic needs that.

    Raises:
        DataError: All values are equal, or all samples are the same.
    """
    for t in batch.tensors:
        if t.is_floating_point() and bool(torch.isneginf(t).any()):
            continue  # a mask
        if not (t.is_floating_point() or t.is_complex()):
            if t.numel() and bool((t != t.flatten()[0]).any()):
                return
        elif t.dim() and (len(t) == 1 or bool((t != t[:1]).any())) and bool((t != t.flatten()[0]).any()):
            return
    values = {f"{t.flatten()[0].item():.3g}" for t in batch.tensors if t.numel()}
    raise DataError(
        f"The batch is constant: {batch}, one value ({', '.join(sorted(values))}) or the same sample repeated.",
        remedy="Pass real, varied samples; a placeholder of zeros or ones has no statistics to initialize from.",
    )


def _split(raw: Any, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Separate inputs from targets by the forward signature."""
    positional, names, open_ended = _signature(model)
    if isinstance(raw, Mapping):
        keys = {str(k): v for k, v in raw.items()}
        if not names & set(keys) and not open_ended:
            return (raw,), {}
        kept = {k: v for k, v in keys.items() if k in names or (open_ended and k not in _TARGET_KEYS)}
        return (), kept
    if isinstance(raw, (tuple, list)):
        if not raw:
            raise DataError("The batch is an empty tuple.", remedy="Pass at least one input tensor.")
        first = raw[0]
        if isinstance(first, Mapping):
            return _split(first, model)
        if isinstance(first, (tuple, list)) and len(first) == positional and positional > 1:
            return tuple(first), {}
        return tuple(raw[: max(1, positional)]), {}
    return (raw,), {}


def _signature(model: nn.Module) -> tuple[int, set[str], bool]:
    """Required positional parameters, all parameter names, and whether **kwargs is accepted."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return 1, set(), False
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in plain if p.default is p.empty]
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return len(required), names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), {str(k): v for k, v in inputs.items()}
    if isinstance(inputs, tuple) or (isinstance(inputs, list) and not are_images(inputs)):
        return tuple(inputs), {}
    return (inputs,), {}


def _place(batch: Batch, model: nn.Module) -> Batch:
    floats = [p for p in model.parameters() if p.is_floating_point() or p.is_complex()]
    device = floats[0].device if floats else torch.device("cpu")
    real, imaginary = ({p.dtype for p in floats if p.is_complex() == kind} for kind in (False, True))

    def put(t: Tensor) -> Tensor:
        # A copy, because a model whose first step works in place would write into the user's data.
        own = imaginary if t.is_complex() else real if t.is_floating_point() else set()
        return t.detach().to(device, next(iter(own)) if len(own) == 1 else t.dtype, copy=True)

    args, kwargs = map_tensors((batch.args, batch.kwargs), put)
    return Batch(args, kwargs, batch.note)


def _check(batch: Batch, model: nn.Module) -> None:
    if not batch.tensors:
        raise DataError("The batch holds no tensor.", remedy="Pass get_inputs= to pick the model's inputs from it.")
    if batch.size == 0 or any(t.numel() == 0 for t in batch.tensors):
        raise DataError(f"The batch is empty: {batch}.", remedy="Pass at least one sample.")
    for i, (name, t) in enumerate(_named_tensors(batch, model)):
        bad = int((~torch.isfinite(t)).sum()) if t.is_floating_point() or t.is_complex() else 0
        if bad and not _masks(name, t, first=i == 0):
            raise DataError(
                f"The batch holds {bad} NaN or infinite values of {t.numel()} (shape {tuple(t.shape)}).",
                remedy="Clean or mask the data before initializing from it. (-inf is accepted in an argument named a"
                " mask or a bias, and in a later argument that otherwise holds only zeros.)",
            )


def _named_tensors(batch: Batch, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All tensors, each with the name of its argument."""
    for name, value in _named_arguments(batch, model):
        yield from ((name, t) for t in tensors_in(value))


def _named_arguments(batch: Batch, model: nn.Module) -> Iterator[tuple[str, Any]]:
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    others = [f"input {i}" for i in range(len(names), len(batch.args))]
    yield from zip([*names, *others], batch.args, strict=False)
    yield from batch.kwargs.items()


def _masks(name: str, t: Tensor, first: bool) -> bool:
    """Whether a non-finite tensor is a mask that is added to attention's scores: -inf hides a position."""
    hidden = torch.isneginf(t)
    rest = t[~hidden]
    if not bool(hidden.any()) or not bool(torch.isfinite(rest).all()):
        return False
    named = any(word in name.lower() for word in ("mask", "bias"))
    return named or (not first and rest.numel() > 0 and not bool(rest.any()))
