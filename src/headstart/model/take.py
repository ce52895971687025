"""Take one raw batch from any kind of data, and say how it was taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from headstart import rng
from headstart.errors import DataError
from headstart.model import reading
from headstart.model.batch import from_numpy, indivisible, map_tensors, rows_of, size_of
from headstart.model.sample_rule import are_samples, as_row
from headstart.model.sparse import MEMORY_LIMIT, dense, holds_sparse

DATASET_SAMPLES = 256
TENSOR_SAMPLES = 1024


def take(
    data: Any,
    *,
    seed: int,
    samples: int | None = None,
    most: int | None = None,
    model: nn.Module | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> tuple[Any, str]:
    """Take one raw batch, with targets, from ``data``, as ``headstart.model.inputs.load`` does.

    Args:
        data: As for ``load``.
        seed: Names the draw.
        samples: The number of samples; by default as for :func:`~headstart.model.inputs.load`.
        most: If ``samples`` is None, draw at most this many. A batch is taken as it is.
        model: Helps to decide between samples and batches.
        memory_limit: MB that a sparse tensor may take once it is dense.

    Returns:
        The batch, and how it was drawn.

    Raises:
        DataError: The data are empty or of an unknown kind.
    """
    if samples is not None and not (isinstance(samples, int) and samples > 0):
        raise DataError(f"samples={samples!r} asks for no data.", remedy="Pass samples=None or a whole number from 1.")
    if not (isinstance(memory_limit, int) and memory_limit > 0):
        raise DataError(f"memory_limit={memory_limit!r} is not positive.", remedy="Pass MB, such as 512.")
    raw, note = _take(data, seed, samples, samples or most, model, memory_limit)
    return densified(raw, memory_limit), note


def densified(raw: Any, memory_limit: int = MEMORY_LIMIT, samples: int | None = None) -> Any:
    """The data with sparse tensors made dense, within the memory limit."""
    return map_tensors(raw, lambda t: dense(t, memory_limit, samples)) if holds_sparse(raw) else raw


def _take(
    data: Any, seed: int, samples: int | None, draws: int | None, model: nn.Module | None, memory_limit: int
) -> tuple[Any, str]:
    """Get one raw batch and a note on how it was drawn."""
    if isinstance(data, DataLoader):
        return _first_batches(data, reading.batches(data), samples)
    if lists_samples(data, model):
        return _draw(data, seed, draws or DATASET_SAMPLES, memory_limit)
    if isinstance(data, (Tensor, np.ndarray, Mapping, tuple)) or (isinstance(data, list) and _is_pair(data)):
        return _subset(data, seed, draws or TENSOR_SAMPLES)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _draw(data, seed, draws or DATASET_SAMPLES, memory_limit)
    if isinstance(data, Iterable):
        return _of_iterable(data, samples, draws or DATASET_SAMPLES, model, memory_limit)
    raise DataError(
        f"Data of type {type(data).__name__} is not understood.",
        remedy="Pass a tensor, (inputs, targets), a dict, a DataLoader or Dataset, or get_inputs= to unpack it.",
    )


def cut(raw: Any, limit: int) -> tuple[Any, str]:
    """The first samples of a raw batch, and a note on it. A graph stays whole."""
    size = size_of(raw)
    if size <= limit:
        return raw, ""
    if whole := indivisible(raw):
        return raw, f"all {size} entries of the first axis, not cut: {whole}"
    return rows_of(raw, slice(limit), size), f"{limit} of {size} samples"


def _is_pair(items: list[Any]) -> bool:
    """Whether a list is ``[inputs, targets]``."""
    arrays = len(items) == 2 and all(isinstance(i, (Tensor, np.ndarray)) and i.ndim for i in items)
    return arrays and len(items[0]) == len(items[1])


def lists_samples(data: Any, model: nn.Module | None) -> bool:
    """Tell whether data are a list of samples, by :func:`~headstart.model.sample_rule.are_samples`."""
    if not isinstance(data, list) or not data or not are_samples(data, data[0], model):
        return False
    return not _is_pair(data) or (data[0].shape == data[1].shape and are_samples(data, data[1], model))


def _of_iterable(
    data: Iterable[Any], samples: int | None, draws: int, model: nn.Module | None, memory_limit: int
) -> tuple[Any, str]:
    """Samples or batches; the first item decides."""
    with _generators_kept(data):
        given = reading.batches(data)
        first = list(islice(given, 1))
        rest = chain(first, given)
        if not first or not are_samples(data, first[0], model):
            return _first_batches(data, rest, samples)
        taken = list(islice(rest, draws))
        return _collate(taken, data, memory_limit), f"first {len(taken)} samples of the {type(data).__name__}"


def _collate(samples: Sequence[Any], source: Any, memory_limit: int) -> Any:
    try:
        return default_collate([as_row(densified(sample, memory_limit, len(samples))) for sample in samples])
    except (RuntimeError, TypeError, KeyError) as error:
        raise DataError(
            f"Samples of the {type(source).__name__} cannot be stacked into a batch: {error}.",
            remedy="Wrap it in a DataLoader with its own collate_fn.",
        ) from error


def _first_batches(loader: Iterable[Any], given: Iterable[Any], samples: int | None) -> tuple[Any, str]:
    batches: list[Any] = []
    seen = 0
    with _generators_kept(loader):
        for batch in given:
            batches.append(batch)
            seen += size_of(batch)
            if samples is None or seen >= samples or not seen:  # what cannot be counted is taken once
                break
    if not batches:
        raise DataError(
            f"The {type(loader).__name__} is empty: it gave no batch.",
            remedy="Check the data set's length, the batch size and drop_last.",
        )
    if len(batches) == 1:
        whole = batches[0]
    else:
        try:
            whole = _concatenate(batches)
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"Batches of the {type(loader).__name__} cannot be joined to {samples} samples: {error}.",
                remedy="Pass samples=None to use its first batch only.",
            ) from error
    note = f"first {len(batches)} batch{'es' if len(batches) > 1 else ''} of the {type(loader).__name__}"
    if samples is not None and seen > samples:
        whole, said = cut(whole, samples)
        note += f", {said}" if "not cut" in said else ""
    return whole, note


class _generators_kept:  # noqa: N801 - reads as a verb phrase in a with statement
    """Restore the random generators that a DataLoader owns, so that a peek does not change the order of training."""

    def __init__(self, loader: object) -> None:
        owners = [
            loader,
            getattr(loader, "sampler", None),
            getattr(getattr(loader, "batch_sampler", None), "sampler", None),
        ]
        found = {id(g): g for o in owners if isinstance(g := getattr(o, "generator", None), torch.Generator)}
        self._states = [(g, g.get_state()) for g in found.values()]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for g, state in self._states:
            g.set_state(state)


def _subset(data: Any, seed: int, limit: int) -> tuple[Any, str]:
    size = size_of(data)
    if size <= limit:
        return data, ""
    if whole := indivisible(data):
        return data, f"all {size} entries of the first axis, not cut: {whole}"
    index = torch.randperm(size, generator=rng.generator(seed, "data"))[:limit].sort().values
    return rows_of(data, index, size), f"{limit} of {size} samples, drawn by seed"


def _draw(dataset: Any, seed: int, samples: int, memory_limit: int) -> tuple[Any, str]:
    size = reading.length(dataset)
    if size is None:
        raise DataError(
            f"The {type(dataset).__name__} has no length, so no samples can be drawn from it.",
            remedy="Give it a __len__, or pass a DataLoader or an IterableDataset.",
        )
    if size == 0:
        raise DataError(f"The {type(dataset).__name__} is empty.", remedy="Pass a data set with samples.")
    index = torch.randperm(size, generator=rng.generator(seed, "data"))[:samples].tolist()
    taken = _collate(reading.samples(dataset, index), dataset, memory_limit)
    return taken, f"{len(index)} of {size} samples, drawn by seed"


def _concatenate(batches: Sequence[Any]) -> Any:
    first = batches[0]
    if isinstance(first, (Tensor, np.ndarray)):
        return torch.cat([b if isinstance(b, Tensor) else from_numpy(b) for b in batches])
    if isinstance(first, Mapping):
        return {k: _concatenate([b[k] for b in batches]) for k in first}
    if isinstance(first, (tuple, list)):
        return tuple(_concatenate(parts) for parts in zip(*batches, strict=True))
    return first
