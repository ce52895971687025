"""Samples of a data set for the stages of a start by training: how many, which, and whether they miss classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
)

from headstart import rng
from headstart.errors import DataError
from headstart.model.inputs import Batch, map_tensors
from headstart.model.sample_rule import as_row
from headstart.model.take import lists_samples

_TARGETS = ("labels", "label", "targets", "target", "y")
DRAWS = ("nested", "disjoint", "independent")


def sample_count(dataset: Dataset[Any]) -> int:
    """The number of samples of a data set; torch's own type does not promise a length.

    Example:
        >>> sample_count(TensorDataset(torch.zeros(3)))
        3
    """
    return len(cast(Sized, dataset))


class Rows(Dataset[Any]):
    """Samples along the first axis of tensors, which may be nested in tuples, lists or dicts.

    Args:
        value: What holds the tensors; tensors of another length are passed on whole.

    Example:
        >>> rows = Rows({"x": torch.arange(6).reshape(3, 2), "label": torch.tensor([0, 1, 0])})
        >>> len(rows), rows[torch.tensor([1])]["x"].tolist()
        (3, [[2, 3]])
    """

    def __init__(self, value: Any) -> None:
        self.value = map_tensors(value, lambda t: t)
        self._size = Batch((self.value,)).size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        return map_tensors(self.value, lambda t: t[index] if t.dim() and len(t) == self._size else t)


class Listed(Dataset[Any]):
    """A list of samples.

    Args:
        samples: The list of the user.
    """

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return as_row(self.samples[index])


def as_dataset(data: Any, batch: Any = None, model: nn.Module | None = None) -> Dataset[Any]:
    """Return the data set behind the user's data: itself, that of a ``DataLoader``, or the rows of tensors.

    Args:
        data: A ``Dataset`` with a length, a ``DataLoader`` of one, tensors such as ``(inputs, targets)``, or a list of
            samples.
        model: Helps to decide whether a list holds samples or batches.
        batch: Used in place of any other kind of data, such as the first batch of an iterable.

    Raises:
        DataError: There are fewer than two samples.

    Example:
        >>> len(as_dataset((torch.zeros(8, 3), torch.zeros(8))))
        8
    """
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        found: Any = _of_loader(data)
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__"):
        found = data
    elif lists_samples(data, model):
        found = Listed(data)
    elif holds_rows(data) or batch is not None:
        found = Rows(data if holds_rows(data) else batch)
    else:
        raise DataError(
            f"{type(data).__name__} is not a data set.", remedy="Pass a Dataset with a length, or (inputs, targets)."
        )
    if len(found) < 2:
        raise DataError(f"There are {len(found)} samples to train on.", remedy="Pass two or more.")
    return found


def holds_rows(data: Any) -> bool:
    """Tell whether data are tensors or arrays, and not an object that gives batches."""
    pair = isinstance(data, list) and len(data) == 2 and all(isinstance(v, (Tensor, np.ndarray)) for v in data)
    return pair or isinstance(data, (Tensor, np.ndarray, Mapping, tuple))


class Collated(Dataset[Any]):
    """A data set, with the function that makes a batch of its samples.

    Args:
        dataset: Gives samples.
        collate: Takes a list of them.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return sample_count(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]


def _of_loader(loader: DataLoader[Any]) -> Dataset[Any]:
    """Return the data set of a loader, with its collate function; the order is drawn anew."""
    if not isinstance(loader.sampler, (SequentialSampler, RandomSampler)):
        raise DataError(
            f"The DataLoader draws by a {type(loader.sampler).__name__}, but samples are drawn uniformly from all.",
            remedy="Pass its dataset to train on samples of all of it.",
        )
    plain = loader.collate_fn in (None, default_collate, default_convert)
    return loader.dataset if plain else Collated(loader.dataset, loader.collate_fn)


def draw(size: int, fractions: Sequence[float], how: str, seed: int) -> list[Tensor]:
    """Draw the samples of all stages, as indices.

    Args:
        size: The size of the data set.
        fractions: Share of it, stage by stage.
        how: ``"nested"``: a larger sample holds the smaller ones; ``"disjoint"``: no element twice;
            ``"independent"``: each from all.
        seed: The seed of the draw.

    Returns:
        One vector of distinct indices per stage, at least two of them.

    Raises:
        DataError: Disjoint samples would need more data than there are.

    Example:
        >>> small, large = draw(100, (0.1, 0.5), "nested", seed=0)
        >>> len(small), len(large), set(small.tolist()) <= set(large.tolist())
        (10, 50, True)
    """
    counts = [min(size, max(2, round(fraction * size))) for fraction in fractions]
    if how == "independent":
        return [_order(size, seed, f"stage-{i}")[:count] for i, count in enumerate(counts)]
    order = _order(size, seed, "stages")
    if how == "nested":
        return [order[:count] for count in counts]
    if sum(counts) > size:
        raise DataError(
            f"Disjoint samples of {', '.join(map(str, counts))} are more than the {size} available.",
            remedy="Pass smaller fractions, or draw='nested' or 'independent'.",
        )
    return list(order.split([*counts, size - sum(counts)]))[: len(counts)]


def _order(size: int, seed: int, name: str) -> Tensor:
    return torch.randperm(size, generator=rng.generator(seed, "sample", name))


def batches(indices: Tensor, batch_size: int, seed: int, *names: str) -> list[Tensor]:
    """Split a sample, shuffled, into ``ceil(n / batch_size)`` batches whose sizes differ by one at most.

    So there is no small remainder: a batch norm cannot train on a single sample.

    Example:
        >>> [len(b) for b in batches(torch.arange(10), 4, 0, "epoch-0")]
        [4, 3, 3]
    """
    order = indices[torch.randperm(len(indices), generator=rng.generator(seed, "batches", *names))]
    return list(order.tensor_split(steps(len(indices), batch_size)))


def steps(samples: int, batch_size: int) -> int:
    """Count the batches of an epoch."""
    return math.ceil(samples / batch_size)


def fetch(dataset: Dataset[Any], chosen: Sequence[Tensor]) -> Iterator[Any]:
    """Collate batches of a data set, one after the other; random transforms draw anew every time."""
    whole, places = dataset, None
    if type(dataset) is Subset:  # a class of the user's may give something else
        whole, places = dataset.dataset, torch.as_tensor(dataset.indices)
    if isinstance(whole, Collated):
        for indices in chosen:
            found = indices if places is None else places[indices]
            yield whole.collate([whole.dataset[i] for i in found.tolist()])
        return
    if type(whole) in (Rows, TensorDataset):  # one look-up instead of many
        for indices in chosen:
            found = whole[indices if places is None else places[indices]]
            yield list(found) if type(whole) is TensorDataset else found
        return
    yield from DataLoader(dataset, batch_sampler=[indices.tolist() for indices in chosen])


def labels(dataset: Dataset[Any]) -> Tensor | None:
    """Return the class of every sample if it is known without loading them, from ``targets`` or ``labels``.

    Example:
        >>> labels(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, 1]))).tolist()
        [0, 1, 1]
    """
    if isinstance(dataset, Subset):
        whole = labels(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, Collated):
        return labels(dataset.dataset)
    if isinstance(dataset, (Rows, TensorDataset)):
        found = target_of(dataset.value if isinstance(dataset, Rows) else dataset.tensors)
    else:
        found = next((v for name in ("targets", "labels") if (v := getattr(dataset, name, None)) is not None), None)
    try:
        values = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole_numbers = not values.is_floating_point() and values.dim() == 1
    return values.cpu() if whole_numbers and len(values) == sample_count(dataset) else None


def target_of(batch: Any) -> Any:
    """Return the targets of a batch: its second part, or the value under ``labels`` or the like."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in _TARGETS if key in batch), None)
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


def missing_classes(dataset: Dataset[Any], indices: Tensor) -> int:
    """Count the classes that a sample misses; 0 if classes are not known."""
    found = labels(dataset)
    return 0 if found is None else len(found.unique()) - len(found[indices].unique())
