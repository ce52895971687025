"""Gaussian filters with the covariance of trained filters, or with a constructed one (Trockman et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headstart.banks.source_filters import Model
from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.methods.shared.bank_lookup import (
    DEFAULT,
    Banks,
    identity,
    match,
    matched,
    open_banks,
    plain,
)
from headstart.methods.shared.first_convolution import check_scale
from headstart.methods.shared.slice_covariance import covariance_of, factor_of, measure, structured
from headstart.methods.shared.spanned import tell_narrow
from headstart.methods.shared.spatial import (
    check_count,
    depths,
    spatial_convolutions,
    wanted_rms,
    write_sized,
)
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

REFERENCE = (
    "Trockman, Willmott and Kolter 2023, Understanding the Covariance Structure of Convolutional Filters"
    " (arXiv 2210.03651)"
)
SMALL = 5  # taps below which smooth and rough filters hardly differ


@register(
    "covariance",
    summary="Gaussian slices with the covariance of trained networks' slices",
    reference=REFERENCE,
    scope="convolutions",
    needs_data=False,
    cost="no forward pass of its own; an eigendecomposition of taps × taps per layer",
    deviations=(
        "A bank of clusters gives the covariance between clusters and the deviations within them, but no"
        " correlations within them; more clusters are more exact. CovarianceTransfer.from_models measures the"
        " covariance exactly.",
        "All convolutions of more than one tap are written; the paper writes depthwise ones (depthwise=true).",
        "scale='match' keeps the layer's own norm; scale='paper' keeps that of the covariance.",
        "For other kernel sizes the covariance's factor is interpolated linearly, so that the covariance stays"
        " positive.",
    ),
)
@dataclass(frozen=True)
class CovarianceTransfer(Method):
    """Draw every slice of a convolution from a zero-mean Gaussian with the covariance of trained slices.

    The idea: the taps of trained filters are correlated, neighbours most of all, and the correlations differ with
    depth.

    Args:
        bank: A shipped bank's name, a file, a ``FilterBank``, or several of these. The first one that has the
            layer's kernel is used: clusters of the layer's name, or else of its depth.
        depthwise: Whether to write only depthwise convolutions; they take covariances of depthwise slices.
        scale: ``"match"`` (default) gives each layer the root mean square of its weights; ``"source"`` that of the
            layers that the bank was made from; ``"paper"`` keeps the drawn values; or a number.
        layers: How many convolutions to write, in execution order; None (default) for all.
        resize: Whether a layer whose kernel is in no bank takes the interpolated covariance of the nearest kernel.

    Raises:
        HeadstartError: The bank does not exist, is damaged, or fits no layer.

    Example:
        >>> import torch, headstart as hs
        >>> _ = torch.manual_seed(0)
        >>> trained = torch.nn.Conv2d(8, 8, 3)
        >>> method = hs.CovarianceTransfer.from_models([trained])
        >>> hs.initialize(torch.nn.Conv2d(4, 6, 5), method=method, seed=0).row("").notes
        ['3×3 slices, resized, depth 0, covariance of 64 slices', 'effective rank: slices 6.4 of 12']
    """

    bank: Banks = DEFAULT
    depthwise: bool = False
    scale: float | str = "match"
    layers: int | None = None
    resize: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "bank", plain(self.bank))
        self.check(self.bank != (), "bank=() names none", "Pass a name, a file or a FilterBank")
        check_scale(self, self.scale, "match", "source", "paper")
        check_count(self, self.layers)

    @classmethod
    def from_models(cls, models: Iterable[Model] | Model, **options: Any) -> CovarianceTransfer:
        """Measure the covariance of the slices of trained models, layer by layer.

        Args:
            models: Modules, state dicts, files of those, or folders; layers with the same name are pooled.
            options: The options of the method.

        Raises:
            HeadstartError: A source cannot be read, or has no convolution of more than one tap.
        """
        return cls(measure(models), **options)

    def identity(self) -> str:
        """The options, with fingerprints of the banks."""
        return identity(self)

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The convolutions of more than one tap that the bank fits."""
        spatial = spatial_convolutions(self, layers, trace, report, self.layers, self.depthwise)
        return matched(self, spatial, trace, report, open_banks(self.bank), whole=False, resize=self.resize)

    def before(self, visit: Visit) -> None:
        """Draw and write the filters."""
        found = match(visit.layer, visit.trace, open_banks(self.bank), whole=False, resize=self.resize)
        assert found is not None
        factor = factor_of(covariance_of(found.entry))
        if found.matrix is not None:
            factor = found.matrix @ factor
        visit.note(found.words)
        write_sized(visit, drawn(visit, factor), wanted_rms(visit, self.scale, found.entry.norm), "layer")

    def finish(self, view: ModelView) -> None:
        """Report layers whose filters span few directions."""
        tell_narrow(view)


@register(
    "structured-covariance",
    summary="Gaussian depthwise filters with a constructed covariance: smooth, and wider in deeper layers",
    reference=REFERENCE,
    scope="convolutions",
    needs_data=False,
    cost="no forward pass of its own; an eigendecomposition of taps × taps per layer",
    deviations=(
        "s0, v and a have no defaults: the paper states them per architecture, and they could not be verified.",
        "The mask is taken as the window over the outer index (the tap of the block), before the matrix is made"
        " symmetric. Negative eigenvalues are set to zero.",
        "scale='match' keeps the layer's own norm; scale='paper' keeps that of the covariance.",
        "One and three dimensions, and even kernels, use the same formula.",
    ),
)
@dataclass(frozen=True)
class StructuredCovariance(Method):
    """Draw depthwise filters from a zero-mean Gaussian whose covariance is built from a Gaussian window.

    The idea: filters of trained networks with large kernels are smooth and vanish towards the border, less so in
    later layers. The window's variance at relative depth ``d`` is ``s0 + v * d + a * d**2 / 2``.

    Args:
        s0: Variance of the window in the first layer, in squared taps. Must be given.
        v: Its growth with depth. Must be given.
        a: The growth of ``v`` with depth. Must be given.
        depthwise: Whether to write only depthwise convolutions (published), and to count depth among these.
        scale: ``"match"`` (default) gives each layer the root mean square of its weights; ``"paper"`` keeps the
            drawn values; or a number.
        layers: How many convolutions to write, in execution order; None (default) for all.

    Raises:
        HeadstartError: A constant is missing, there is no depthwise convolution, or a variance is not positive.

    Example:
        >>> import torch, headstart as hs
        >>> conv = torch.nn.Conv2d(64, 64, 7, groups=64)
        >>> _ = hs.initialize(conv, method=hs.StructuredCovariance(s0=2.0, v=0.0, a=0.0), seed=0)
        >>> border, centre = conv.weight[:, 0, 0, 0].std(), conv.weight[:, 0, 3, 3].std()
        >>> bool(border < 0.5 * centre)
        True
    """

    s0: float | None = None
    v: float | None = None
    a: float | None = None
    depthwise: bool = True
    scale: float | str = "match"
    layers: int | None = None

    def __post_init__(self) -> None:
        for name in ("s0", "v", "a"):
            value = getattr(self, name)
            ok = isinstance(value, (int, float)) and math.isfinite(value)
            remedy = "Pass s0, v and a: they depend on the architecture"
            self.check(ok, f"{name}={value!r} is not a number, and it has no default", remedy)
        check_scale(self, self.scale, "match", "paper")
        check_count(self, self.layers)

    def variance(self, depth: float) -> float:
        """Variance of the window at a relative depth."""
        assert self.s0 is not None
        assert self.v is not None
        assert self.a is not None
        return self.s0 + self.v * depth + self.a * depth**2 / 2

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The depthwise convolutions of more than one tap."""
        spatial = spatial_convolutions(self, layers, trace, report, self.layers, self.depthwise)
        place = depths(trace, self.depthwise)
        for layer in spatial:
            s = self.variance(place[layer.name])
            wrong = f"the window of {layer.where} at depth {place[layer.name]:.2g} has a variance of {s:.3g}"
            self.check(s > 0, wrong, "Pass s0, v and a that keep it positive from 0 to 1")
            if max(layer.kernel) < SMALL:
                report.add_finding(
                    f"{self.info.name}: kernels with fewer than {SMALL} taps per side hardly show the structure; it"
                    " was made for 7 or more."
                )
        return spatial

    def before(self, visit: Visit) -> None:
        """Draw and write the filters."""
        s = self.variance(depths(visit.trace, self.depthwise)[visit.layer.name])
        visit.note(f"window of variance {s:.3g}")
        factor = factor_of(structured(visit.layer.kernel, s))
        write_sized(visit, drawn(visit, factor), wanted_rms(visit, self.scale, 0.0), "layer")


def drawn(visit: Visit, factor: Tensor) -> Tensor:
    """Draw every slice of a layer from a zero-mean Gaussian with the covariance ``factor @ factor.T``."""
    shape = visit.layer.shape
    normal = visit.normal(math.prod(shape[:2]), factor.shape[1])
    return (normal @ factor.T.to(normal)).reshape(shape)
