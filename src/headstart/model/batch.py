"""One batch for one forward call, and how to cut it into samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart.errors import HeadstartError
from headstart.model.sparse import rows


@dataclass
class Batch:
    """Arguments for one forward call.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        size: Samples: along the first axis of the first tensor, or images of a list.
        note: How the samples were chosen, for the report ("" when all were used).
        raw: The batch as the data gave it, with targets.
        whole: Why the batch cannot be cut into samples, see :func:`indivisible`; "" if it can.
        masks: Which positions count, each ``(N, *positions)``; empty if all do.
        findings: Sentences on the masks, for the report.
        needs_grad: Whether the forward computes gradients itself, and so runs with them enabled. The first pass that
            fails without them sets it.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    raw: Any = None
    whole: str = ""
    masks: tuple[Tensor, ...] = ()
    findings: list[str] = field(default_factory=list)
    needs_grad: bool = False

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in the arguments."""
        return list(tensors_in((self.args, self.kwargs)))

    @property
    def size(self) -> int:
        """Samples in the batch; 0 when it holds no tensor with an axis."""
        return size_of((*self.args, *self.kwargs.values()))

    def head(self, n: int) -> Batch:
        """A copy of the first ``n`` samples: every tensor with ``size`` rows is cut. All if it cannot be cut."""
        part = self._cut(slice(self.size if self.whole else n))
        args, kwargs = map_tensors((part.args, part.kwargs), lambda t: t.detach().clone())
        return replace(part, args=args, kwargs=kwargs)

    def parts(self, n: int) -> list[Batch]:
        """Views of the batch with ``n`` samples each; the last has the rest. A single one if it cannot be cut."""
        step = max(1, self.size) if self.whole else n
        return [self._cut(slice(start, start + step)) for start in range(0, self.size, step)]

    def _cut(self, which: slice) -> Batch:
        args, kwargs = (rows_of(value, which, self.size) for value in (self.args, self.kwargs))
        masks = tuple(m[which] if len(m) == self.size else m for m in self.masks)
        return replace(self, args=args, kwargs=kwargs, masks=masks, note="", raw=None)

    def __str__(self) -> str:
        shapes = [tuple(t.shape) for t in self.tensors]
        return f"inputs of shape {', '.join(map(str, shapes)) if shapes else '(none)'}"


def are_images(value: Any) -> bool:
    """Whether a list holds the samples of a batch one by one: images of any sizes, channels first.

    Detectors take them so. The tensors of other lists each hold all samples.

    Example:
        >>> are_images([torch.rand(3, 20, 30), torch.rand(3, 40, 30)]), are_images([torch.rand(32, 20, 30)])
        (True, False)
    """
    if not isinstance(value, (tuple, list)) or not value:
        return False
    if not all(isinstance(item, (Tensor, np.ndarray)) and item.ndim == 3 for item in value):
        return False
    channels = value[0].shape[0]
    return channels in (1, 3, 4) and all(v.shape[0] == channels < min(v.shape[1:]) for v in value)


def size_of(value: Any) -> int:
    """Samples along the first axis of the first tensor that has one, or images of a list; 0 without any.

    Example:
        >>> size_of((torch.rand(5, 3, 8, 8), [torch.rand(3, 8, 8)])), size_of(([torch.rand(3, 8, 8)] * 7, 0))
        (5, 7)
    """
    if isinstance(value, (Tensor, np.ndarray)):
        return value.shape[0] if value.ndim else 0
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    sizes = (len(item) if are_images(item) else size_of(item) for item in items)
    return next((size for size in sizes if size), 0)


def rows_of(value: Any, which: slice | Tensor, size: int) -> Any:
    """Take some samples: of every tensor with ``size`` rows, and of every list of ``size`` images."""
    return _rows(value, which, size, nested=False)


def _rows(value: Any, which: slice | Tensor, size: int, *, nested: bool) -> Any:
    if isinstance(value, np.ndarray):
        value = from_numpy(value)
    if isinstance(value, Tensor):
        return rows(value, which) if value.dim() and len(value) == size else value
    if isinstance(value, Mapping):
        return {k: _rows(v, which, size, nested=True) for k, v in value.items()}
    if not isinstance(value, (tuple, list)):
        return value
    if nested and len(value) == size and are_images(value):
        return type(value)(value[which] if isinstance(which, slice) else [value[i] for i in which.tolist()])
    parts = [_rows(item, which, size, nested=True) for item in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def indivisible(value: Any) -> str:
    """Say why data, such as a graph, cannot be cut along the first axis of its first tensor; "" if they can.

    A graph comes as the values of its nodes and a tensor of integers that points at them (``(x, edge_index)``), or
    matrix between them. Some nodes without the others are another graph, and numbers that point at what was cut off are
    an error.

    Args:
        value: Data, or a model's arguments.

    Example:
        >>> x, edges = torch.zeros(50, 3), torch.randint(50, (2, 200))
        >>> indivisible((x, edges)), indivisible((x, torch.zeros(50, dtype=torch.long)))
        ('integers of shape (2, 200) point into the first axis', '')
    """
    tensors = [t for t in tensors_in(value) if t.dim()]
    if len(tensors) < 2 or tensors[0].layout is not torch.strided:
        return ""
    size = len(tensors[0])
    for t in tensors[1:]:
        if size > 2 and tuple(t.shape) == (size, size):
            return f"a square matrix of shape {tuple(t.shape)} joins the entries of the first axis"
        of_places = t.dim() > 1 and t.shape == tensors[0].shape[-t.dim() :]  # classes of an image's pixels
        if not of_places and _points(t, size):
            return f"integers of shape {tuple(t.shape)} point into the first axis"
    return ""


def _points(t: Tensor, size: int) -> bool:
    """Whether integers may be numbers of entries of an axis: those of edges, for instance."""
    if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool or t.dim() > 2 or not t.numel():
        return False
    if len(t) == 1 or (len(t) == size and (t.dim() == 1 or t.shape[1] != 2 or int(t.max()) < size // 2)):
        return False  # for all samples alike, or of the samples themselves: positions; classes, lengths
    return t.layout is torch.strided and int(t.min()) >= 0 and int(t.max()) < size


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors inside nested tuples, lists and dicts; numpy arrays become tensors."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray):
        yield from_numpy(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


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
