"""Filter clusters: every slice of every convolution comes from a cluster of trained slices (Ulm et al.).

The clusters come from a filter bank: see ``headstart.banks``. A layer takes the clusters of its own name, or of its
kernel size and depth, and draws them in proportion to their sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.methods.shared.bank_lookup import (
    DEFAULT,
    Banks,
    Match,
    draw_clusters,
    identity,
    match,
    matched,
    open_banks,
    plain,
    resized,
    resized_deviations,
)
from headstart.methods.shared.first_convolution import check_scale
from headstart.methods.shared.spanned import tell_narrow
from headstart.methods.shared.spatial import check_count, spatial_convolutions, wanted_rms, write_sized
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer


@register(
    "filter-clusters",
    summary="every slice of every convolution is drawn from clusters of trained networks' slices",
    reference="Ulm, Bayer, Diaz-Bone and Jüni, Learning an Informed CNN Initialization for Image Classification",
    scope="convolutions",
    needs_data=False,
    cost="no forward pass of its own",
    presets=("paper",),
    deviations=(
        "draw='gaussian' draws around the centroids. With copies of a few centroids, as published, dense layers span"
        " few directions, and a ResNet-20 ended 8 points lower. Preset: filter-clusters:paper.",
        "scale='match' keeps the layer's own norm. The paper writes centroids as they are, and these are shorter"
        " than the slices of their clusters. Preset: filter-clusters:paper.",
        "A layer whose name is not in the bank takes the clusters of its kernel size at the nearest relative depth,"
        " so that a bank can be used for other architectures. The paper stays with one.",
        "Draws depend on the call's seed and the layer's name; published draws are not seeded.",
        "Depthwise layers take clusters of depthwise slices only; the paper has none.",
        "Filters that come out as zero keep the layer's own values.",
    ),
)
@dataclass(frozen=True)
class FilterClusters(Method):
    """Fill convolutions with centroids from a filter bank, drawn in proportion to the sizes of their clusters.

    The idea: slices of trained networks have a few typical forms, which differ between layers. A new network can
    start from these. 1×1 convolutions, linear layers, biases and normalization keep their values.

    Args:
        bank: A shipped bank's name, a file, a ``FilterBank``, or several of these. The first one that has the
            layer's kernel is used. The default has slices of ResNets trained on CIFAR-10, depthwise slices of an
            EfficientNet trained on ImageNet, and 7×7 slices of ResNets trained on parts of CIFAR-100.
        draw: ``"gaussian"`` (default) draws around a centroid for each pair of output and input channel, with the
            deviations of its cluster; ``"slices"`` copies the centroid (published), so that a layer has at most as many
            forms as clusters; ``"whole"`` copies whole filters, from banks that have them.
        scale: ``"match"`` (default) gives each layer the root mean square of its weights; ``"source"`` that of the
            layers that the bank was made from; ``"paper"`` leaves the centroids as they are; or a number.
        norm: ``"layer"`` scales all filters of a layer by one number; ``"filter"`` gives all filters the same norm.
        layers: How many convolutions of more than one tap to write, in execution order; None (default) for all.
        resize: Whether a layer whose kernel is in no bank takes the interpolated clusters of the nearest kernel.

    Raises:
        HeadstartError: The bank does not exist, is damaged, or fits no layer.

    Cost: no forward pass; memory for one layer's draws.

    Example:
        >>> import torch, headstart as hs
        >>> atoms = torch.eye(9).reshape(9, 3, 3)[:2]
        >>> sizes = torch.tensor([9, 1])
        >>> entry = hs.banks.Entry((3, 3), 0.0, False, "", atoms, torch.zeros_like(atoms), sizes, 0.0, 0.1)
        >>> conv = torch.nn.Conv2d(64, 64, 3)
        >>> bank = hs.FilterBank((entry,), {"title": "two taps"})
        >>> _ = hs.initialize(conv, method=hs.FilterClusters(bank, draw="slices"), seed=0)
        >>> (conv.weight != 0).float().mean((0, 1)).flatten()[:3].round(decimals=1)
        tensor([0.9000, 0.1000, 0.0000])
    """

    bank: Banks = DEFAULT
    draw: str = "gaussian"
    scale: float | str = "match"
    norm: str = "layer"
    layers: int | None = None
    resize: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bank", plain(self.bank))
        self.check(self.bank != (), "bank=() names none", "Pass a name, a file or a FilterBank")
        self.check_choice("draw", "slices", "gaussian", "whole")
        self.check_choice("norm", "layer", "filter")
        check_scale(self, self.scale, "match", "source", "paper")
        check_count(self, self.layers)
        ok = not (self.scale == "paper" and self.norm == "filter")
        self.check(ok, "norm='filter' changes sizes and scale='paper' keeps them", "Pass one of them")

    @classmethod
    def paper(cls, **options: Any) -> FilterClusters:
        """The published form: copies of centroids at their own scale. The bank decides the number of clusters."""
        return cls(**{"scale": "paper", "draw": "slices", **options})

    def identity(self) -> str:
        """The options, with fingerprints of the banks."""
        return identity(self)

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The convolutions of more than one tap that the bank fits."""
        spatial = spatial_convolutions(self, layers, trace, report, self.layers)
        return matched(self, spatial, trace, report, open_banks(self.bank), whole=self._whole, resize=self.resize)

    def before(self, visit: Visit) -> None:
        """Draw and write the filters."""
        found = match(visit.layer, visit.trace, open_banks(self.bank), whole=self._whole, resize=self.resize)
        assert found is not None
        visit.note(f"{len(found.entry)} clusters of {found.words}")
        write_sized(visit, self._drawn(visit, found), wanted_rms(visit, self.scale, found.entry.norm), self.norm)

    def finish(self, view: ModelView) -> None:
        """Report layers whose filters span few directions."""
        copied = self.draw != "gaussian"
        tell_narrow(view, "; draw='gaussian' gives every slice its own form" if copied else "")

    @property
    def _whole(self) -> bool:
        return self.draw == "whole"

    def _drawn(self, visit: Visit, found: Match) -> Tensor:
        shape = visit.layer.shape
        count = shape[0] if self._whole else math.prod(shape[:2])
        drawn = draw_clusters(found.entry, count, visit.generator())
        block = resized(found.entry.centroids, found)[drawn].reshape(shape)
        if self.draw == "gaussian":
            deviations = resized_deviations(found.entry.deviations, found)[drawn].reshape(shape)
            block = block + deviations * visit.normal(*shape, purpose="deviations").to(deviations)
        return block
