"""Turn what users hold (tensor, pair, dict, loader, dataset) into one checked batch for the model."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from headstart import rng
from headstart.errors import DataError, HeadstartError

GetInputs = Callable[[Any], Any]
DATASET_SAMPLES = 256
TENSOR_SAMPLES = 1024
_TARGET_KEYS = {"label", "labels", "target", "targets", "y"}


@dataclass
class Batch:
    """Arguments for one forward call.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        size: Samples along the first axis of the first tensor.
        note: How the samples were chosen, for the report ("" when all were used).
        raw: The batch as the data gave it, targets and all.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    raw: Any = None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in the arguments."""
        return list(_tensors((self.args, self.kwargs)))

    @property
    def size(self) -> int:
        """Samples in the batch; 0 when it holds no tensor with an axis."""
        return next((len(t) for t in self.tensors if t.dim()), 0)

    def head(self, n: int) -> Batch:
        """A copy of the first ``n`` samples: every tensor with ``size`` rows is cut."""
        size = self.size
        cut = map_tensors((self.args, self.kwargs), lambda t: (t[:n] if t.dim() and len(t) == size else t).clone())
        return Batch(*cut)

    def parts(self, n: int) -> list[Batch]:
        """Views of the batch, ``n`` samples each and the last as many as are left."""
        size = self.size

        def cut(start: int) -> Batch:
            def rows(t: Tensor) -> Tensor:
                return t[start : start + n] if t.dim() and len(t) == size else t

            return Batch(*map_tensors((self.args, self.kwargs), rows))

        return [cut(start) for start in range(0, size, n)]

    def __str__(self) -> str:
        shapes = [tuple(t.shape) for t in self.tensors]
        return f"inputs of shape {', '.join(map(str, shapes)) if shapes else '(none)'}"


def load(
    data: Any,
    model: nn.Module,
    *,
    seed: int,
    samples: int | None = None,
    get_inputs: GetInputs | None = None,
) -> Batch:
    """Take one batch from ``data``, on the model's device and in its floating precision.

    Args:
        data: A tensor or numpy array (the batch; above 1,024 samples a random subset drawn by ``seed``), a
            pair ``(inputs, targets)`` of those, a dict of keyword arguments, a ``DataLoader`` or another
            iterable of such batches (the first is used), or a ``Dataset`` (256 samples drawn by ``seed``).
        model: The model that will take the batch; its forward signature tells inputs from targets.
        seed: Names the draw.
        samples: Use this many samples: as many batches of a loader as it takes, or a draw of that size.
        get_inputs: ``batch -> tensor | tuple (positional) | dict (keyword)`` for anything else.

    Returns:
        The batch, checked to be non-empty and finite.

    Raises:
        DataError: Nothing in it, a kind that is not understood, or values that are not finite.
    """
    raw, note = take(data, seed=seed, samples=samples)
    return as_batch(raw, model, note=note, get_inputs=get_inputs)


def take(data: Any, *, seed: int, samples: int | None = None) -> tuple[Any, str]:
    """Take one raw batch from ``data``, targets and all, as :func:`load` does; and say how it was drawn.

    Raises:
        DataError: Nothing in it, or a kind that is not understood.
    """
    if samples is not None and not (isinstance(samples, int) and samples > 0):
        raise DataError(f"samples={samples!r} asks for no data.", remedy="Pass samples=None or a whole number from 1.")
    return _take(data, seed, samples)


def as_batch(raw: Any, model: nn.Module, *, note: str = "", get_inputs: GetInputs | None = None) -> Batch:
    """Find the model's inputs in a raw batch and bring them to its device and precision.

    Raises:
        DataError: ``get_inputs`` failed, nothing is in it, or values are not finite.
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
        args, kwargs = _arguments(raw)
    else:
        args, kwargs = _split(raw, model)
    batch = replace(_place(Batch(args, kwargs, note), model), raw=given)
    _check(batch)
    return batch


def fingerprint(batch: Batch) -> str:
    """Hash what a batch holds: types, shapes and values."""
    digest = hashlib.sha256()
    for t in batch.tensors:
        digest.update(repr((t.dtype, tuple(t.shape))).encode())
        digest.update(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_variation(batch: Batch) -> None:
    """Raise unless the samples differ from each other, as every data-dependent statistic needs.

    Raises:
        DataError: All values are equal, or all samples are the same.
    """
    for t in batch.tensors:
        if not t.is_floating_point():
            if t.numel() and bool((t != t.flatten()[0]).any()):
                return
        elif t.dim() and (len(t) == 1 or bool((t != t[:1]).any())) and bool((t != t.flatten()[0]).any()):
            return
    values = {f"{float(t.flatten()[0]):.3g}" for t in batch.tensors if t.numel()}
    raise DataError(
        f"The batch is constant: {batch}, one value ({', '.join(sorted(values))}) or one sample throughout.",
        remedy="Pass real, varied samples; a placeholder of zeros or ones has no statistics to initialize from.",
    )


def _take(data: Any, seed: int, samples: int | None) -> tuple[Any, str]:
    """Get one raw batch and a note on how it was drawn."""
    if isinstance(data, DataLoader):
        return _first_batches(data, samples)
    if isinstance(data, (Tensor, np.ndarray, Mapping, tuple)) or (isinstance(data, list) and _all_arrays(data)):
        return _subset(data, seed, samples)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _draw(data, seed, samples or DATASET_SAMPLES)
    if isinstance(data, Iterable):
        return _first_batches(data, samples)
    raise DataError(
        f"Data of type {type(data).__name__} is not understood.",
        remedy="Pass a tensor, (inputs, targets), a dict, a DataLoader or Dataset, or get_inputs= to unpack it.",
    )


def _all_arrays(items: list[Any]) -> bool:
    return (
        bool(items)
        and all(isinstance(i, (Tensor, np.ndarray)) for i in items)
        and len({len(i) for i in items}) == 1
        and len(items) == 2
    )


def _first_batches(loader: Iterable[Any], samples: int | None) -> tuple[Any, str]:
    batches: list[Any] = []
    seen = 0
    with _generators_kept(loader):
        for batch in loader:
            batches.append(batch)
            seen += Batch((batch,)).size
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
        whole = map_tensors(whole, lambda t: t[:samples])
    return whole, note


class _generators_kept:  # noqa: N801 - reads as a verb phrase in a with statement
    """Restore the random generators that a DataLoader owns, so that peeking moves no training order."""

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


def _subset(data: Any, seed: int, samples: int | None) -> tuple[Any, str]:
    size = Batch((data,)).size if not isinstance(data, np.ndarray) else len(data) if data.ndim else 0
    limit = samples or TENSOR_SAMPLES
    if size <= limit:
        return data, ""
    index = torch.randperm(size, generator=rng.generator(seed, "data"))[:limit].sort().values
    return map_tensors(
        data, lambda t: t[index] if t.dim() and len(t) == size else t
    ), f"{limit} of {size} samples, drawn by seed"


def _draw(dataset: Any, seed: int, samples: int) -> tuple[Any, str]:
    size = len(dataset) if hasattr(dataset, "__len__") else None
    if size is None:
        raise DataError(
            f"The {type(dataset).__name__} has no length, so no samples can be drawn from it.",
            remedy="Give it a __len__, or pass a DataLoader or an IterableDataset.",
        )
    if size == 0:
        raise DataError(f"The {type(dataset).__name__} is empty.", remedy="Pass a data set with samples.")
    index = torch.randperm(size, generator=rng.generator(seed, "data"))[:samples].tolist()
    try:
        batch = default_collate([dataset[i] for i in index])
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"Samples of the {type(dataset).__name__} cannot be stacked into a batch: {error}.",
            remedy="Wrap it in a DataLoader with its own collate_fn.",
        ) from error
    return batch, f"{len(index)} of {size} samples, drawn by seed"


def _split(raw: Any, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Tell inputs from targets by the forward signature."""
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
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


def _place(batch: Batch, model: nn.Module) -> Batch:
    floats = [p for p in model.parameters() if p.is_floating_point()]
    device = floats[0].device if floats else torch.device("cpu")
    dtypes = {p.dtype for p in floats}
    dtype = dtypes.pop() if len(dtypes) == 1 else None

    def put(t: Tensor) -> Tensor:
        # A copy, because a model whose first step works in place would write into the user's data.
        return t.detach().to(device, dtype if dtype and t.is_floating_point() else t.dtype, copy=True)

    args, kwargs = map_tensors((batch.args, batch.kwargs), put)
    return Batch(args, kwargs, batch.note)


def _check(batch: Batch) -> None:
    if not batch.tensors:
        raise DataError("The batch holds no tensor.", remedy="Pass get_inputs= to pick the model's inputs from it.")
    if batch.size == 0 or any(t.numel() == 0 for t in batch.tensors):
        raise DataError(f"The batch is empty: {batch}.", remedy="Pass at least one sample.")
    for t in batch.tensors:
        bad = int((~torch.isfinite(t)).sum()) if t.is_floating_point() else 0
        if bad:
            raise DataError(
                f"The batch holds {bad} NaN or infinite values of {t.numel()} (shape {tuple(t.shape)}).",
                remedy="Clean or mask the data before initializing from it.",
            )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray):
        yield from_numpy(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def map_tensors(value: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``f`` to every tensor inside nested tuples, lists and dicts; numpy arrays become tensors."""
    if isinstance(value, Tensor):
        return f(value)
    if isinstance(value, np.ndarray):
        return f(from_numpy(value))
    if isinstance(value, Mapping):
        return {k: map_tensors(v, f) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, f) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(v, f) for v in value)
    return value


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """Turn an array into a tensor, whichever its order of bytes.

    Raises:
        HeadstartError: It holds no numbers, or longer ones than torch has.

    Example:
        >>> from_numpy(np.ones(2, ">f4"))
        tensor([1., 1.])
    """
    native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.as_tensor(native if native.flags.writeable else native.copy())
    except TypeError as error:
        raise HeadstartError(
            f"A numpy array of dtype {array.dtype} is not numeric.", remedy="Pass integers or floats of up to 64 bits."
        ) from error


def _concatenate(batches: Sequence[Any]) -> Any:
    first = batches[0]
    if isinstance(first, (Tensor, np.ndarray)):
        return torch.cat([b if isinstance(b, Tensor) else from_numpy(b) for b in batches])
    if isinstance(first, Mapping):
        return {k: _concatenate([b[k] for b in batches]) for k in first}
    if isinstance(first, (tuple, list)):
        return tuple(_concatenate(parts) for parts in zip(*batches, strict=True))
    return first
