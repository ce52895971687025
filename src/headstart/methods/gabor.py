"""Gabor filters: oriented waves under a Gaussian window, in any dimension (Rivas and Rai 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.engine.method import Method
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.methods.shared.first_convolution import check_scale, first_convolutions, matched_rms
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

REFERENCE_KERNEL = 7  # the ranges below are stated for it


@register(
    "gabor",
    summary="first convolutions from random Gabor filters: centred, with zero mean, at the layer's norm",
    reference="Rivas and Rai 2023, Gabor filters as initializers for convolutional neural networks; ranges from"
    " the filter-clustering study of Ulm et al.",
    scope="first convolution",
    needs_data=False,
    cost="no forward pass of its own",
    presets=("paper",),
    deviations=(
        "The grid is centred; the published one is half a pixel off.",
        "The mean is removed and the norm matched; published filters have 12 times the default norm and a large mean.",
        "Every input channel gets its own random weight; published filters repeat one plane.",
        "Window and wavelength scale with the kernel (the ranges are for 7 taps), and wavelengths stay above 2 pixels.",
    ),
)
@dataclass(frozen=True)
class Gabor(Method):
    """``exp(-(u^2 / sx^2 + r^2 / sy^2) / 2) * cos(2 pi u / wavelength + phase)`` along a random direction ``u``.

    Args:
        layers: How many convolutions to write, in execution order; default 1.
        scale: ``"match"`` (default) the root mean square of the layer's weights, ``"raw"`` as computed, or a
            number.
        centred: Whether the grid is symmetric around the kernel's centre, and the mean of every filter is removed.
        channels: ``"random"`` weights each input channel at random, ``"same"`` repeats one plane.
        sigma: Range of the window in pixels of a 7-tap kernel.
        wavelength: Range of the wavelength in the same unit.
        aspect: Range of ``sx / sy``.

    Example:
        >>> import torch, headstart as hs
        >>> conv = torch.nn.Conv2d(3, 16, 7)
        >>> _ = hs.initialize(conv, method="gabor", seed=0)
        >>> bool(conv.weight.sum((1, 2, 3)).abs().max() < 1e-4)
        True
    """

    layers: int = 1
    scale: float | str = "match"
    centred: bool = True
    channels: str = "random"
    sigma: tuple[float, float] = (1.5, 2.5)
    wavelength: tuple[float, float] = (2.0, 13.0)
    aspect: tuple[float, float] = (0.9, 1.1)

    def __post_init__(self) -> None:
        self.check_choice("channels", "random", "same")
        check_scale(self, self.scale, "match", "raw")
        ok = isinstance(self.layers, int) and self.layers >= 1
        self.check(ok, f"layers={self.layers!r} is not a positive number", "Pass 1 or more")
        for name in ("sigma", "wavelength", "aspect"):
            pair = getattr(self, name)
            ok = isinstance(pair, (tuple, list)) and len(pair) == 2 and 0 < pair[0] <= pair[1]
            self.check(ok, f"{name}={pair!r} is not a range", "Pass (low, high) with 0 < low <= high")

    @classmethod
    def paper(cls, **options: Any) -> Gabor:
        """The published form: off-centre grid, one plane for all channels, no normalization."""
        return cls(**{"centred": False, "channels": "same", "scale": "raw", **options})

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The first convolutions."""
        return first_convolutions(self, layers, trace, report, self.layers)

    def before(self, visit: Visit) -> None:
        """Draw and write the filters."""
        layer = visit.layer
        if self.centred and min(k for k in layer.kernel if k > 1) < 5:
            visit.add_finding(
                f"{self.info.name}: a kernel of {layer.kernel} is too small for most waves; use 5 or more taps."
            )
        planes = self._planes(visit)  # (out, *kernel)
        block = planes.unsqueeze(1).expand(layer.shape)
        if self.channels == "random":
            shape = (*layer.shape[:2], *[1] * len(layer.kernel))
            block = block * visit.normal(*shape, purpose="channels").to(block)
        if self.scale != "raw":
            rms = matched_rms(visit) if self.scale == "match" else float(self.scale)
            size = block.flatten(1).square().mean(1).sqrt().clamp_min(1e-12)
            block = block * (rms / size).reshape(-1, *[1] * (block.dim() - 1))
        visit.write(block.to(visit.weight_before))

    def _planes(self, visit: Visit) -> Tensor:
        layer, dims = visit.layer, len(visit.layer.kernel)
        draw = visit.generator()

        def uniform(low: float, high: float) -> Tensor:
            unit = torch.rand(layer.out_channels, generator=draw, dtype=torch.float64)
            return (low + (high - low) * unit).reshape(-1, *[1] * dims)

        size = max(layer.kernel) / REFERENCE_KERNEL if self.centred else 1.0
        direction = torch.randn(layer.out_channels, dims, generator=draw, dtype=torch.float64)
        direction = direction / direction.norm(dim=1, keepdim=True)
        sx = uniform(*(s * size for s in self.sigma))
        sy = sx / uniform(*self.aspect)
        waves = uniform(*(max(2.0, w * size) for w in self.wavelength))
        phase = uniform(0.0, 2 * math.pi)
        axes = torch.meshgrid(*(self._grid(k) for k in layer.kernel), indexing="ij")
        along = sum(direction[:, i].reshape(-1, *[1] * dims) * axes[i] for i in range(dims))
        assert isinstance(along, Tensor)
        square: Tensor = torch.stack([a**2 for a in axes]).sum(0)
        across = (square - along**2).clamp_min(0)
        planes = torch.exp(-(along**2 / sx**2 + across / sy**2) / 2) * torch.cos(2 * math.pi * along / waves + phase)
        if self.centred:
            planes = planes - planes.flatten(1).mean(1).reshape(-1, *[1] * dims)
        return planes

    def _grid(self, k: int) -> Tensor:
        low, high = (-(k - 1) / 2, (k - 1) / 2) if self.centred else (float(-k // 2), float(k // 2))
        return torch.linspace(low, high, k, dtype=torch.float64)
