"""Read the user's loaders and data sets. Whatever they raise becomes one error that names the batch or sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from headstart.errors import DataError, one_error

_COLLATE = (
    "If its samples differ in shape or kind, give the loader a collate_fn that pads or crops; otherwise correct the"
    " data"
    " set that raises it."
)


def batches(source: Iterable[Any]) -> Iterator[Any]:
    """Iterate over a loader or another iterable.

    Args:
        source: It gives batches or samples.

    Raises:
        DataError: It failed. The error has the number of the batch or sample, from 0.

    Example:
        >>> next(batches(1 / n for n in [0]))
        Traceback (most recent call last):
            ...
        headstart.errors.DataError: The generator failed at item 0: ZeroDivisionError: division by zero ...
    """
    what = "batch" if isinstance(source, DataLoader) else "item"
    kind, remedy = type(source).__name__, _COLLATE if isinstance(source, DataLoader) else ""
    with one_error(f"The {kind} failed before its first {what}", DataError, remedy):
        iterator = iter(source)
    number, end = 0, object()
    while True:
        with one_error(f"The {kind} failed at {what} {number}", DataError, remedy):
            found = next(iterator, end)
        if found is end:
            return
        yield found
        number += 1


def samples(dataset: Any, index: Iterable[int]) -> list[Any]:
    """Read some samples of a data set.

    Raises:
        DataError: It failed. The error has the sample's number.
    """
    return [_sample(dataset, i) for i in index]


def _sample(dataset: Any, i: int) -> Any:
    with one_error(f"Sample {i} of the {type(dataset).__name__} cannot be read", DataError):
        return dataset[i]


def length(dataset: Any) -> int | None:
    """The number of samples of a data set; None if it has no length.

    Raises:
        DataError: Its ``__len__`` failed.
    """
    if not hasattr(dataset, "__len__"):
        return None
    try:
        return len(dataset)
    except (NotImplementedError, TypeError):  # how data sets say that they have none
        return None
    except Exception as error:
        with one_error(f"The length of the {type(dataset).__name__} cannot be told", DataError):
            raise error
