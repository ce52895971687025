"""One operation on values that come from a layer, run again on probes to learn what it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

REACH = 3.0  # how far curves are looked at, in deviations of a normalized output
STEEPEST, FALLING = 1.8, -0.6  # slopes of the activations shown: SELU's 1.76 at zero, hard swish's -0.5 at -3
_POINTS = 128
ENOUGH = _POINTS  # values from which a probe shows all that it would of more
_FEWEST = 4  # values from which a curve can be drawn
_CLOSE = 1e-3  # of the largest value: what rounding may leave of a rule


@dataclass(frozen=True)
class Curve:
    """The function by which an operation maps each value.

    Attributes:
        z: Inputs in rising order, in standard deviations of the layer's output.
        y: The outputs.
        scale: Of what the operation itself took, per ``z``.
    """

    z: Tensor
    y: Tensor
    scale: float = 1.0

    @cached_property
    def line(self) -> tuple[float, float] | None:
        """Slope and shift, if it is a straight line."""
        slope = float((self.y[-1] - self.y[0]) / (self.z[-1] - self.z[0]))
        shift = float(self.y.mean()) - slope * float(self.z.mean())
        off = (self.y - slope * self.z - shift).abs().max()
        return (slope, shift) if bool(off <= _CLOSE * max(float(self.y.abs().max()), 1e-12)) else None

    @cached_property
    def shown(self) -> bool:
        """Whether its shape is that of an activation that the recipes were tested on: ReLU and the like, tanh, sigmoid.

        These rise, perhaps after a small fall, and nowhere steeply. A sine, a square or a step does not.
        """
        slopes = self.y.diff() / self.z.diff() / self.scale
        return bool(slopes.isfinite().all() and slopes.max() <= STEEPEST and slopes.min() >= FALLING)


@dataclass(frozen=True)
class Shown:
    """What the probes showed of an operation.

    Attributes:
        curve: The function that maps each value by itself; None if values are mixed or moved.
        lines: Whether it maps straight lines to straight lines.
        sizeless: Whether it removes the scale of its input.
    """

    curve: Curve | None = None
    lines: bool = False
    sizeless: bool = False


def probe_key(func: Any, args: Any, kwargs: Any, wanted: Callable[[Tensor], bool]) -> Any:
    """A key shared by all calls that do the same to values; None if other tensors take part, or values are few."""
    leaves, spec = tree_flatten((args, kwargs))
    parts: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if not wanted(leaf) or leaf.numel() < ENOUGH:
                return None
            parts.append((leaf.dtype, leaf.dim()))
        elif isinstance(leaf, (bool, int, float, str, type(None), torch.dtype)):
            parts.append((type(leaf), leaf))
        else:
            return None
    return func, str(spec), tuple(parts)


class ProbedCall:
    """An operation with copies of its arguments. It can be run again with some of them replaced.

    Args:
        func: The function, or a module's forward.
        args: Positional arguments, before the call.
        kwargs: Keyword arguments.
        wanted: Says which tensors among them are replaced.
    """

    def __init__(self, func: Callable[..., Any], args: Any, kwargs: Any, wanted: Callable[[Tensor], bool]) -> None:
        leaves, self._spec = tree_flatten((args, kwargs))
        self._places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and wanted(leaf)]
        self._func, self._leaves = func, [_copied(leaf) for leaf in leaves]

    @property
    def name(self) -> str:
        """Of the function."""
        return str(getattr(self._func, "__name__", type(self._func).__name__))

    def curve(self, scale: float, shift: float) -> Curve | None:
        """The function that maps each value by itself, or None if values are mixed or moved.

        Args:
            scale: The scale of the operation's input, per deviation of the layer's output.
            shift: The shift of the operation's input.
        """
        if len(self._places) != 1:
            return None
        like = self._leaves[self._places[0]]
        count = like.numel()
        if count < _FEWEST:
            return None
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        rounds, rounding = -(-_POINTS // count), 64 * torch.finfo(like.dtype).eps
        found = []
        for j in range(rounds):
            z = (REACH * (2 * (torch.arange(count) + j / rounds) / count - 1))[order]
            x = (scale * z + shift).to(like)
            first = self._run([x.view(like.shape)])
            if first is None or first.shape != like.shape:
                return None
            if j == 0:  # at another place a value becomes the same
                far = _shift(count)
                moved = self._run([x.roll(far).view(like.shape)])
                if moved is None or not _near(moved.flatten(), first.flatten().roll(far), share=rounding):
                    return None
            found.append((z, first.flatten().float().cpu()))
        z, y = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = z.argsort()[:: max(1, len(z) // _POINTS)]
        return Curve(z[order], y[order], scale)

    def shows(self, scale: float, shift: float) -> Shown:
        """Probe what the operation does; arguments as for :meth:`curve`."""
        curve = self.curve(scale, shift)
        if curve is not None:
            return Shown(curve)
        lines = self.keeps_lines()
        return Shown(lines=lines, sizeless=not lines and self.loses_size())

    def keeps_lines(self) -> bool:
        """Whether equal steps of the input change the output by equal amounts: sums, means, views, maxima."""
        nothing, once, twice = (self._scaled(factor) for factor in (0.0, 1.0, 2.0))
        if nothing is None or once is None or twice is None or not nothing.shape == once.shape == twice.shape:
            return False
        return _near(twice - once, once - nothing, float(twice.abs().max()) if twice.numel() else 0.0)

    def loses_size(self) -> bool:
        """Whether outputs do not change when inputs grow: a normalization."""
        once, more = self._scaled(1.0), self._scaled(4.0)
        if once is None or more is None or once.shape != more.shape or once.numel() < 2:
            return False
        slack = 0.05 * float(once.float().std())
        return slack > 0 and bool((more - once).abs().max() <= slack)

    def _scaled(self, factor: float) -> Tensor | None:
        return self._run([factor * self._leaves[i] for i in self._places])

    def _run(self, values: Sequence[Tensor]) -> Tensor | None:
        """All numbers of the output; in its shape if it is one tensor."""
        leaves = [_copied(leaf) for leaf in self._leaves]
        for place, value in zip(self._places, values, strict=True):
            leaves[place] = value.clone()  # the function may write into it
        args, kwargs = tree_unflatten(leaves, self._spec)
        try:
            out = [t for t in tree_flatten(self._func(*args, **kwargs))[0] if isinstance(t, Tensor)]
        except Exception:  # what does not take a probe is not understood
            return None
        out = [t for t in out if t.is_floating_point()]
        return None if not out else out[0] if len(out) == 1 else torch.cat([t.flatten() for t in out])


def _shift(count: int) -> int:
    """How far to move values so that no row, channel or sample lands on another: about a third, and not a divisor."""
    return next(far for far in range(int(0.3 * count) + 1, count + 1) if math.gcd(far, count) == 1)


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter) else leaf


def _near(a: Tensor, b: Tensor, size: float | None = None, share: float = _CLOSE) -> bool:
    if a.numel() == 0:
        return True
    size = float(b.abs().max()) if size is None else size
    return bool((a - b).abs().max() <= share * max(size, 1e-12))
