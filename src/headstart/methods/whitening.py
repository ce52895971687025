"""Patch whitening: the first convolution from the eigenvectors of the patch covariance, with both signs.

This is the stem of the CIFAR-10 speed records (airbench), after Coates and Ng: the strongest simple data-dependent
first layer, and so the baseline that others must beat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.errors import DataError
from headstart.measure.patches import batched, every_patch, positions, sample_patches
from headstart.methods.shared.first_convolution import (
    ENTRIES,
    by_group,
    check_fraction,
    check_scale,
    filter_count,
    first_convolutions,
    matched_rms,
    note_missing,
    share,
)
from headstart.methods.shared.from_data import FromData
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer
from headstart.numerics.principal import leading, mean_square

PATCHES = 2**18


@register(
    "whitening",
    summary="first convolution from ± the leading eigenvectors of the patch covariance",
    reference="Jordan 2024, 94% on CIFAR-10 in 3.29 seconds on a single GPU; Coates and Ng 2012",
    scope="first convolution",
    needs_data=True,
    cost="the covariance of up to 262,144 patches and one eigendecomposition; no forward pass beyond the first layer",
    presets=("airbench",),
    deviations=(
        "scale='match' gives every filter the layer's mean norm; airbench divides by sqrt(eigenvalue + eps)"
        " (preset whitening:airbench).",
        "The layer stays trainable and its bias is left alone; airbench freezes the weights.",
        "Directions that the patches do not span are left out; those filters keep their random values.",
        "For kernels with more than 1,024 numbers (32×32×3, 16×16×16), fewer patches are drawn, and a randomized"
        " search finds the leading directions.",
    ),
    revision=3,  # 2: a search in large kernels; 3: eigenvectors with the largest first
)
@dataclass(frozen=True)
class Whitening(FromData):
    """Eigenvectors of the uncentred patch covariance, largest eigenvalue first, then their negatives.

    The idea: with decorrelated inputs every direction learns at the same rate, and with both signs a ReLU
    loses nothing. The first convolution may have one, two or three dimensions, and may be a patch embedding, whose
    stride equals its kernel: patches are drawn at all places of the input.

    Args:
        fraction: Share of the filters to write, the first ones; default all.
        signs: Whether to write every eigenvector with its negative, or once.
        scale: ``"match"`` (default): every filter has the root mean square of the layer's weights.
            ``"whiten"``: divided by ``sqrt(eigenvalue + eps)``, so that outputs are uncorrelated with mean square 1
            (variance 1 on standardized images). A number: the root mean square of every filter.
        eps: Added to the eigenvalues for ``scale="whiten"``, in the square of the input's unit; default 5e-4.
        zeros: ``"leave"`` (default) keeps layers whose weights are all zero, a choice of their author; ``"write"``
            writes them, too.
        recurrent: ``"leave"`` (default) keeps layers that run on their own earlier outputs; ``"all"`` calibrates
            them over all their steps, in several passes.

    Raises:
        HeadstartError: There is no convolution, images are smaller than the kernel, or all patches are zero.

    Example:
        >>> import torch, headstart as hs
        >>> conv = torch.nn.Conv2d(3, 16, 3)
        >>> report = hs.initialize(conv, torch.randn(64, 3, 12, 12), "whitening")
        >>> torch.equal(conv.weight[:8], -conv.weight[8:])
        True
    """

    fraction: float = 1.0
    signs: bool = True
    scale: float | str = "match"
    eps: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self, self.fraction)
        check_scale(self, self.scale, "match", "whiten")
        self.check(self.eps >= 0, f"eps={self.eps!r} is negative", "Pass 0 or more")

    @classmethod
    def airbench(cls, **options: Any) -> Whitening:
        """The published form: filters divided by ``sqrt(eigenvalue + 5e-4)``."""
        return cls(**{"scale": "whiten", **options})

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The first convolution."""
        return first_convolutions(self, layers, trace, report)

    def before(self, visit: Visit) -> None:
        """Write the eigenvectors."""
        layer, value = visit.layer, visit.input
        assert value is not None
        filters = filter_count(self, self.fraction, layer)
        images = batched(value, layer)
        entries = layer.in_channels * math.prod(layer.kernel)
        per_sample = max(1, min(PATCHES, ENTRIES // entries) // len(images))
        if positions(images, layer) <= per_sample:
            drawn = every_patch(images, layer, visit.counted_inputs)
        else:
            drawn = sample_patches(images, layer, per_sample, visit.generator("patches"), visit.counted_inputs)
        # Directions below the rounding of the input are not real.
        floor = max(torch.finfo(value.dtype).eps ** 2, 1e-12)
        weight = visit.weight
        size, written = layer.out_channels // layer.groups, 0
        for g, (patches, n) in enumerate(zip(by_group(layer, drawn), share(filters, layer.groups), strict=True)):
            block = self._block(visit, patches.flatten(1), n, floor, visit.generator(f"directions/{g}"))
            weight[g * size : g * size + len(block)] = block.reshape(-1, *layer.shape[1:]).to(weight)
            written += len(block)
        if written == 0 and not bool(value.isfinite().all()):
            raise DataError(
                f"The input of {layer.where} holds NaN or infinite values.",
                remedy="Look for what the model does before this layer.",
            )
        if written == 0:
            raise DataError(f"All patches of {layer.where}'s input are zero.", remedy="Pass real images.")
        note_missing(visit, written, filters, "patches span fewer directions than filters")
        visit.write(weight)

    def _block(self, visit: Visit, patches: Tensor, filters: int, floor: float, generator: torch.Generator) -> Tensor:
        """The filters of one group; there are fewer if the patches span fewer directions."""
        pairs = -(-filters // 2) if self.signs else filters
        values, vectors = leading(patches, pairs, floor * mean_square(patches), generator)
        if self.scale == "whiten":
            block = vectors / (values + self.eps).sqrt().unsqueeze(1)
        else:
            rms = matched_rms(visit) if self.scale == "match" else float(self.scale)
            block = vectors * rms * math.sqrt(vectors.shape[1])
        return torch.cat([block, -block])[:filters] if self.signs else block
