"""Statistics over the positions that count, and how a mask is carried through layers.

A mask has the shape ``(N, *positions)``. It fits a value whose places (all axes but the channels) start with that
shape; for linear layers also ``(N * T, C)``, time first ``(T, N, C)`` and heads ``(N, heads, T, C)``. A
convolution that changes the number of positions makes a new mask: an output position counts if the middle tap of the
kernel reads one that counts. Values that no mask fits, as after a pooling over positions, count in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.measure.layer_patches import taps
from headstart.model.weights import Layer
from headstart.numerics.moments import ACROSS_SAMPLES, Moments, across_sample_square, channel_moments


@dataclass(frozen=True)
class Places:
    """Which places of a value count. Its places are all axes but the channels.

    Args:
        counted: ``(N, *places)``.
        axis: The axis of the channels; None if it has none.

    Example:
        >>> places = Places(torch.tensor([[True, False], [True, False]]), axis=1)  # values are (N, C, T)
        >>> places.std(torch.tensor([[[1.0, 9]], [[3, 9]]]))
        1.0
    """

    counted: Tensor
    axis: int | None

    def rows(self, value: Tensor) -> Tensor:
        """The value as ``(N, *places, C)``."""
        return value.unsqueeze(-1) if self.axis is None else value.movedim(self.axis, -1)

    def back(self, rows: Tensor) -> Tensor:
        """Undo :meth:`rows`: the value in its own order of axes."""
        return rows.squeeze(-1) if self.axis is None else rows.movedim(-1, self.axis)

    def std(self, value: Tensor) -> float:
        """Deviation over all values that count."""
        return float(self.rows(value)[self.counted].std(correction=0))

    def across_sample_square(self, value: Tensor) -> Tensor | None:
        """Mean squared difference between pairs of samples, at places where both count; None without any."""
        rows, counted = self.rows(value), self.counted
        pairs = min(ACROSS_SAMPLES, len(rows)) // 2
        both = counted[:pairs] & counted[pairs : 2 * pairs]
        if not bool(both.any()):
            return None
        difference = (rows[:pairs] - rows[pairs : 2 * pairs])[both]
        wide = difference if difference.dtype == torch.float64 else difference.float()
        return wide.square().mean()

    def across_sample_std(self, value: Tensor) -> float:
        """As :func:`headstart.numerics.moments.across_sample_std`, where both samples count; NaN if they never do."""
        square = self.across_sample_square(value)
        return math.nan if square is None else math.sqrt(float(square) / 2)


class Positions:
    """The masks of one batch, and those that convolutions make from them in a pass.

    Args:
        masks: ``(N, *positions)``, True where a position counts.

    Attributes:
        whole: Names of layers whose positions no mask fits, in the order of execution.

    Example:
        >>> mask = torch.tensor([[True, True, False], [True, False, False]])
        >>> layer, y = Layer("", torch.nn.Linear(2, 1)), torch.tensor([[1.0, 3, 9], [5, 9, 9]])[..., None]
        >>> Positions([mask]).moments(layer, y).mean.tolist()
        [3.0]
    """

    def __init__(self, masks: Sequence[Tensor]) -> None:
        self._masks = list(masks)
        self.whole: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._masks)

    def of(self, layer: Layer, value: Tensor) -> Tensor | None:
        """Which places of a layer's input or output count: the shape of ``value`` without channels; None for all."""
        axis = layer.channel_axis(value)
        places = (*value.shape[:axis], *value.shape[axis + 1 :])
        return next((m for mask in self._masks if (m := _fitted(mask, places, layer)) is not None), None)

    def note(self, layer: Layer, value: Tensor) -> None:
        """Remember a layer whose positions all count because no mask fits."""
        if self._masks and value.dim() > 2 and self.of(layer, value) is None:
            self.whole.setdefault(layer.name)

    def outputs(self, layer: Layer, value: Tensor) -> Tensor | None:
        """Which places of the output count, derived from the input; None for all."""
        counted = self.of(layer, value) if self._masks else None
        return counted if counted is None or layer.kind == "linear" else handed_on(layer, counted)

    def follow(self, layer: Layer, value: Any, output: Any) -> None:
        """Add the mask after a convolution that changes the number of positions."""
        if layer.kind == "linear" or not isinstance(value, Tensor) or not isinstance(output, Tensor):
            return
        if self._masks and self.of(layer, output) is None and (made := self.outputs(layer, value)) is not None:
            self._masks.append(made)

    def places(self, layers: Iterable[Layer], value: Tensor) -> Places | None:
        """Find which places of a model's input or output count; None if all do, or if no mask fits.

        Args:
            layers: The layers that take or make it; they show which axis holds its channels.
            value: The input or output, with or without channels.
        """
        for layer in layers if self._masks else ():
            axis = layer.channel_axis(value)
            if 0 < axis < value.dim() and (counted := self.of(layer, value)) is not None and counted.dim() > 1:
                return Places(counted, axis)
        same = next((m for m in self._masks if m.shape == value.shape), None)
        return None if same is None else Places(same, None)

    def counting(self, layer: Layer, value: Tensor) -> Tensor:
        """The values that count, ``(number, channels)``; ``value`` itself if all do."""
        counted = self.of(layer, value) if self._masks else None
        if counted is None or not bool(counted.any()):
            return value
        return value.movedim(layer.channel_axis(value), -1)[counted]

    def moments(self, layer: Layer, output: Tensor) -> Moments:
        """Mean and variance of each channel over the places that count."""
        rows = self.counting(layer, output)
        return channel_moments(rows, layer.channel_axis(output) if rows is output else 1)

    def across_sample_std(self, layer: Layer, output: Tensor) -> float:
        """As :func:`headstart.numerics.moments.across_sample_std`, at places where both samples count."""
        square = self.across_sample_square(layer, output)
        return math.nan if square is None else math.sqrt(float(square) / 2)

    def across_sample_square(self, layer: Layer, output: Tensor) -> Tensor | None:
        """Twice its square, still on the device; None if there are no two samples to compare."""
        counted = self.of(layer, output) if self._masks else None
        if counted is None or len(counted) != len(output):
            return across_sample_square(output)
        return Places(counted, layer.channel_axis(output)).across_sample_square(output)


def _fitted(mask: Tensor, places: tuple[int, ...], layer: Layer) -> Tensor | None:
    """The mask in the shape of the places; None if it does not fit."""
    shape, axes = tuple(mask.shape), mask.dim()
    if places[:axes] == shape:
        return mask.view(*shape, *[1] * (len(places) - axes)).expand(places)
    if layer.kind != "linear" or axes != 2:
        return None
    if places == (mask.numel(),):
        return mask.reshape(-1)
    if places == shape[::-1]:
        return mask.T
    if len(places) == 3 and (places[0], places[2]) == shape:
        return mask[:, None, :].expand(places)
    return None


def handed_on(layer: Layer, counted: Tensor) -> Tensor:
    """The mask after a convolution: an output counts if the middle tap of the kernel reads a position that counts.

    Where the middle tap reads none (in the gaps of a transposed convolution, or in padding), any other tap decides.

    Example:
        >>> conv = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1)
        >>> handed_on(Layer("", conv), torch.tensor([[True, True, True, False, False, False]])).tolist()
        [[True, True, False]]
    """
    for axis in range(len(layer.kernel)):
        table = torch.from_numpy(taps(layer, axis, counted.shape[1 + axis])).to(counted.device)
        middle = table[:, table.shape[1] // 2]
        reads = torch.where(middle >= 0, middle, table.amax(1))
        shape = [1] * counted.dim()
        shape[1 + axis] = -1
        counted = counted.index_select(1 + axis, reads.clamp_min(0)) & (reads >= 0).view(shape)
    return counted
