"""Within-layer normalization (Krähenbühl, Doersch, Donahue and Darrell 2016, algorithm 1).

Every layer is filled (from its own input, if you choose so) and then rescaled so that each pre-activation channel has
mean beta and deviation 1 on the data. All layers are done in one forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from headstart.engine.method import OnComplex
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.measure.layer_patches import mean_patch
from headstart.methods.data_dependent.fills import FILLS, Limits, fill
from headstart.methods.shared.from_data import FromData
from headstart.methods.shared.normalization import constant_channels, deviations, leave_normed, tell_constant
from headstart.methods.shared.orthonormal import orthonormal_draws, orthonormal_weight
from headstart.methods.shared.spatial import check_count
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer
from headstart.numerics.fetching import Values

MANY = 100_000  # patches per layer at most in the presets, as when they were compared


@register(
    "within-layer",
    summary="each pre-activation channel brought to mean beta and deviation 1 on the data, in one pass",
    reference="Krähenbühl, Doersch, Donahue and Darrell 2016, Data-dependent Initializations of CNNs, algorithm 1",
    scope="all layers",
    needs_data=True,
    cost="one forward pass of the batch; for filters from patches also an eigendecomposition per layer, and for"
    " kmeans its iterations",
    presets=("paper", "kmeans"),
    deviations=(
        "beta is 0 by default (the authors' command line uses 0.1: within-layer:paper).",
        "Gaussian weights have deviation 1 / sqrt(fan_in) instead of 1, and filters from patches length 1. After"
        " normalization this makes no difference, and half precision does not overflow.",
        "Patches are taken from the input. The authors' code takes random projections of them, whose principal"
        " components are not those of the patches.",
        "Only as many filters come from patches as the patches have directions ('patches': as many as there are"
        " different patches). The rest are Gaussian, and so is a depthwise layer with kmeans or patches. The authors"
        " use Gaussian filters for the whole layer then.",
        "zca writes the rows of the whitening matrix whose inputs the kept directions represent best; the authors'"
        " code needs as many outputs as inputs.",
        "kmeans is full spherical k-means with centroids of length 1; the authors use mini-batches and ordinary"
        " centroids of unit patches.",
        "eps is a share of the mean eigenvalue, so it does not depend on the inputs' unit; the authors add 1e-3 to"
        " the eigenvalues of the scatter matrix.",
        "Transposed convolutions are filled from their patches too; the authors' code has Gaussian weights there.",
        "Layers followed by a normalization are left alone unless before_norm='normalize'.",
        "A layer without bias cannot be shifted. Instead, its filters lose their component along the mean input"
        " patch, which has the same effect, and filters from data are made from patches without it (center=False"
        " leaves the mean).",
        "Dropout is off during the measurement; a constant channel is scaled by the layer's deviation and reported.",
    ),
    # 2: moments in one pass; 3: fills with hardly a number read; 4: output layers found; 5: orthonormal rows;
    # 6: wide layers' directions by a search
    revision=6,
)
@dataclass(frozen=True)
class WithinLayer(FromData):
    """Fill each layer and divide every output channel by its deviation; the bias moves its mean to ``beta``.

    The idea: if all inputs of a layer have the same second moment, all its weights learn at the same rate,
    and no signal vanishes or explodes on the way. ``W <- W / s``, ``b <- beta - mean / s``.

    Args:
        fill: ``"gaussian"`` or ``"orthonormal"`` draws new weights, ``"keep"`` calibrates the present ones. From
            the patches that the layer sees: ``"pca"`` (eigenvectors of their covariance), ``"zca"`` (whitening that
            stays close to the input), ``"kmeans"`` (centroids of whitened patches of length 1), ``"patches"`` (some
            whitened patches).
        beta: Mean of every channel afterwards, for layers with a bias.
        per: ``"channel"``, or ``"layer"`` for one deviation per layer.
        before_norm: ``"skip"`` leaves layers that a normalization follows, ``"normalize"`` treats them too.
        output_layer: ``"normalize"`` or ``"keep"`` for layers whose output the model returns.
        center: Remove the mean patch from the filters of a layer without bias (not with ``fill="keep"``).
        patches: The largest number of patches per layer, drawn evenly over samples and places; at most 256 per filter
            or dimension. 4,000 trained as well as 100,000, which the presets keep.
        eps: Added to the eigenvalues before whitening, as a share of their mean.
        memory_limit: MB (2**20 bytes) for a layer's patches, their covariance and clustering. If it does not suffice,
            fewer patches are used.
        layers: How many layers to write, the first ones in execution order; None (default) for
            all.
        zeros: ``"leave"`` (default) keeps layers whose weights are all zero, a choice of their author; ``"write"``
            writes them, too.
        recurrent: ``"leave"`` (default) keeps layers that run on their own earlier outputs; ``"all"`` calibrates
            them over all their steps, in several passes.

    Raises:
        HeadstartError: There are fewer than 8 values per channel, or a weight cannot be rescaled.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5))
        >>> x = torch.randn(256, 20)
        >>> _ = hs.initialize(net, x, hs.WithinLayer(beta=0.1))
        >>> torch.allclose(net(x).std(0, correction=0), torch.ones(5), atol=1e-3)
        True
        >>> torch.allclose(net(x).mean(0), torch.full((5,), 0.1), atol=1e-3)
        True
    """

    fill: str = "gaussian"
    beta: float = 0.0
    per: str = "channel"
    before_norm: str = "skip"
    output_layer: str = "normalize"
    center: bool = True
    patches: int = 4000
    eps: float = 1e-3
    memory_limit: int = 512
    layers: int | None = field(default=None, repr=False)

    writes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("fill", "gaussian", "orthonormal", *FILLS, "keep")
        self.check_choice("per", "channel", "layer")
        self.check_choice("before_norm", "skip", "normalize")
        self.check_choice("output_layer", "normalize", "keep")
        ok = isinstance(self.beta, (int, float)) and math.isfinite(self.beta)
        self.check(ok, f"beta={self.beta!r} is not a number", "Pass a finite number, such as 0 or 0.1")
        self.check(self.patches > 1, f"patches={self.patches!r} is too few", "Pass 2 or more, such as 4000")
        self.check(0 <= self.eps < math.inf, f"eps={self.eps!r} is negative or infinite", "Pass 0 or more")
        self.check(self.memory_limit > 0, f"memory_limit={self.memory_limit!r} is not positive", "Pass MB, such as 512")
        check_count(self, self.layers)

    @classmethod
    def paper(cls, **options: Any) -> WithinLayer:
        """The authors' command line: Gaussian fill, every layer, beta 0.1, no centring of weights."""
        return cls(**{"beta": 0.1, "before_norm": "normalize", "center": False, "patches": MANY, **options})

    @classmethod
    def kmeans(cls, **options: Any) -> WithinLayer:
        """The authors' best: their command line with filters from k-means."""
        return cls.paper(**{"fill": "kmeans", **options})

    def on_complex(self) -> OnComplex:
        """Drawn and kept weights are normalized by the deviation of ``|y - mean|``; fills from data need real ones."""
        return "refused" if self.fill in FILLS else "written"

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """All layers except those that the options leave alone."""
        chosen = leave_normed(self, layers, trace, report, self.before_norm, self.output_layer)
        for layer in [] if self.layers is None else chosen[self.layers :]:
            report.skip(layer, f"not among the first {self.layers} layers")
        return chosen[: self.layers]

    def draws(self, layer: Layer) -> list[tuple[str, tuple[int, ...]]]:
        """The weights."""
        if self.fill == "orthonormal":
            return orthonormal_draws(layer)
        return [] if self.fill == "keep" else [("weight", layer.shape)]

    def before(self, visit: Visit) -> None:
        """Draw the weights, or make them from the input."""
        if self.fill == "keep":
            return
        center = visit.bias_free and self.center and not visit.layer.is_complex
        mean = mean_direction(visit) if center else None
        if self.fill == "orthonormal":
            weight = orthonormal_weight(visit)
        else:
            weight = visit.normal_weight(1 / math.sqrt(math.prod(visit.layer.shape[1:])))
        if self.fill in FILLS:
            limits = Limits(self.patches, self.eps, self.memory_limit)
            fill(visit, weight, self.fill, limits, mean)
        if mean is not None:
            for filters, direction in zip(weight.flatten(1).chunk(len(mean)), mean.to(weight), strict=True):
                filters.addr_(filters @ direction, direction, alpha=-1)
        visit.write(weight)
        visit.zero_bias()

    def after(self, visit: Visit) -> None:
        """Divide by the deviation and shift to beta."""
        moments = visit.moments
        assert visit.output is not None
        std, level = deviations(moments)
        dead = constant_channels(moments, visit.output.dtype, (std, level))
        nothing = dead.all()
        level = level.masked_fill(nothing, 1)  # a layer without any variation stays as it is
        scale = (torch.where(dead, level, std) if self.per == "channel" else level.expand(len(dead))).reciprocal()
        restore, layer, report, method = visit.checkpoint(), visit.layer, visit.report, visit.method
        if visit.bias_free:
            visit.affine(scale, keep_bias=True)  # frozen, if there is one
        else:
            beta = _number(self.beta, moments.mean.dtype, scale.device)
            visit.affine(scale, torch.addcmul(beta, moments.mean, scale, value=-1).masked_fill(nothing, 0))

        def tell(values: Values) -> None:
            channels, notes = layer.out_channels, report.rows[layer.name].notes
            constant = int(values[:channels].sum())
            rest = float(np.abs(values[channels:]).max(initial=0))
            if constant == channels:
                restore()
                tell_constant(method, layer, report)
                return
            if constant:
                notes.append(f"{constant} constant channels, scaled by the layer's deviation")
                report.add_finding(
                    f"{self.info.name}: {constant} channels of '{layer.name}' are constant on the batch."
                )
            if rest > 1e-3:
                notes.append(f"no bias to shift: channel means up to {rest:.2g} remain")

        visit.later([dead, *([visit.moments.mean.abs()] if visit.bias_free else [])], tell)


@lru_cache(maxsize=16)
def _number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number on a device, copied there once for all layers."""
    return torch.tensor(value, dtype=dtype, device=device)


def mean_direction(visit: Visit) -> Tensor | None:
    """The mean input patch of every group, at length 1, ``(groups, fan)``: orthogonal filters have mean 0."""
    assert visit.input is not None
    if math.prod(visit.layer.shape[1:]) < 2:
        visit.note("one weight per filter: its mean cannot be removed")
        return None
    patch = mean_patch(visit.layer, visit.input, visit.counted)
    return F.normalize(patch, dim=1, eps=torch.finfo(patch.dtype).tiny)
