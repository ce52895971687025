"""Pre-Warm: half of the first convolution from clustered, tapered image patches (2026).

Steps: draw patches from a batch, remove each patch's mean, cluster them, taper the centroids around the kernel's
centre, scale them, and write them over the first half of the filters. The other half keeps its random values.
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
from headstart.measure.patches import (
    batched,
    foreground_density,
    mean_patch_norm,
    raw_pixels,
    sample_patches,
    taper,
)
from headstart.methods.shared.first_convolution import (
    ENTRIES,
    by_group,
    check_fraction,
    check_scale,
    filter_count,
    first_convolutions,
    matched_rms,
    note_missing,
    parity_bound,
    share,
)
from headstart.methods.shared.from_data import FromData
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer
from headstart.numerics.clustering import kmeans

NORM_RULE = 6.65  # the published constant c of the colour rule
RULE_PATCHES = 20  # patches per image in which the colour rule measures the mean norm
POINTS_PER_CLUSTER = 256  # what "auto" falls back to: enough points for stable centroids
LLOYD = {"n_init": 4, "moves": 2, "max_iter": 4}  # enough for patches; more iterations cost launches
MOST_PATCHES = 2**18  # what a rule may ask for in all; the published runs used 3,840 to 14,848


@register(
    "prewarm",
    summary="half of the first convolution from clustered, tapered image patches",
    reference="Martinshn 2026 (the sources spell the name in three ways), Pre-Warm: Input-Conditioned Weight"
    " Initialization for Convolutional Neural Networks (arXiv 2606.25256)",
    scope="first convolution",
    needs_data=True,
    cost="patches and k-means on one batch, and the forward pass up to the first convolution",
    presets=("paper",),
    deviations=(
        "scale='match' keeps the layer's own norm. The published 0.20 (gray) and 0.25 (colour) are 1 to 2.3 times"
        " the framework's default deviation, so the published comparison mixes scale and structure. Preset:"
        " prewarm:paper.",
        "Full k-means with four starts on the data's device, instead of MiniBatchKMeans with three; the preset uses"
        " MiniBatchKMeans.",
        "Patch counts come from the batch, not from the whole training set. A rule gets at most 262,144 patches in"
        " all, and fewer for kernels with more than 128 numbers (33.5 million numbers in all).",
        "Even kernels are tapered around (k - 1) / 2, and 1-D and 3-D kernels by the Manhattan distance in their"
        " dimensions.",
        "Each group is clustered on its own channels; all are clustered together if a group gets fewer than two"
        " filters.",
        "Centroids that coincide, are zero or have no patch are left out, and those filters keep their random values.",
        "The seed of k-means depends on the call's seed and the layer's name.",
    ),
    # 2: k-means on the data's device; 3: fewer patches of large kernels; 4: its sums row by row on the CPU
    revision=4,
)
@dataclass(frozen=True)
class PreWarm(FromData):
    """Fill part of the first convolution with centroids of the data's own patches.

    The idea: filters that look like the data respond to them from the first step.

    Args:
        fraction: Share of the filters to write, the first ones; default half.
        patches: Patches per image: a number, or a rule. ``"rule"`` is the published one: for one channel
            ``floor((F / 4) / d)`` with ``d`` the share of pixels above Otsu's threshold, otherwise
            ``floor((F / 4) * 6.65 * m)`` with ``m`` the mean norm of mean-free patches of pixels in [0, 1], ``F``
            the layer's filters. ``"otsu"`` and ``"norm"`` force one of them. ``"auto"`` (default) is the rule, or
            256 patches per cluster if raw pixels are not known (the report says so).
        scale: ``"match"`` (default) gives the written filters the root mean square of the layer's weights;
            ``"bound"`` He's deviation ``sqrt(2 / fan_in)``; ``"paper"`` 0.20 for one channel and 0.25 otherwise;
            or a standard deviation. Never above He's deviation unless ``bound=False``.
        norm: ``"global"`` scales all filters by one number (published); ``"filter"`` gives all filters the same norm.
        taper: ``"after"`` clustering (published), ``"before"`` clustering, or ``"none"``.
        source: ``"centroids"``, or a control: ``"patches"`` (random patches, not clustered), ``"shuffled"``
            (the centroids' entries in random order).
        algorithm: ``"lloyd"`` or ``"minibatch"`` (published).
        bound: Whether to cap the scale at He's deviation, the "parity bound".
        mean: What the normalization subtracted per channel, so that the colour rule sees pixels in [0, 1].
        std: What the normalization divided by.
        zeros: ``"leave"`` (default) keeps layers whose weights are all zero, a choice of their author; ``"write"``
            writes them, too.
        recurrent: ``"leave"`` (default) keeps layers that run on their own earlier outputs; ``"all"`` calibrates
            them over all their steps, in several passes.

    Raises:
        HeadstartError: There is no convolution, images are smaller than the kernel, or the rule does not fit the data.

    Cost: no forward pass beyond the first convolution; memory for the patches.

    Example:
        >>> import torch, headstart as hs
        >>> conv = torch.nn.Conv2d(1, 8, 3)
        >>> second_half = conv.weight[4:].clone()
        >>> report = hs.initialize(conv, torch.rand(64, 1, 12, 12), hs.PreWarm())
        >>> torch.equal(conv.weight[4:], second_half)
        True
    """

    fraction: float = 0.5
    patches: int | str = "auto"
    scale: float | str = "match"
    norm: str = "global"
    taper: str | None = "after"
    source: str = "centroids"
    algorithm: str = "lloyd"
    bound: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.taper is None:  # what the text "taper=none" reads as
            object.__setattr__(self, "taper", "none")
        check_fraction(self, self.fraction)
        check_scale(self, self.scale, "match", "bound", "paper")
        self.check_choice("norm", "global", "filter")
        self.check_choice("taper", "after", "before", "none")
        self.check_choice("source", "centroids", "patches", "shuffled")
        self.check_choice("algorithm", "lloyd", "minibatch")
        number = isinstance(self.patches, int) and not isinstance(self.patches, bool) and self.patches > 0
        ok = self.patches in ("auto", "rule", "otsu", "norm") or number
        self.check(ok, f"patches={self.patches!r} is not known", "Pass auto, rule, otsu, norm or a positive number")
        self.check((self.mean is None) == (self.std is None), "mean and std go together", "Pass both or neither")
        if self.mean is not None and self.std is not None:
            for name in ("mean", "std"):
                value = getattr(self, name)  # one number stands for one channel
                object.__setattr__(self, name, tuple(value) if isinstance(value, (tuple, list)) else (value,))
            finite = all(isinstance(v, (int, float)) and math.isfinite(v) for v in (*self.mean, *self.std))
            self.check(
                finite and all(v > 0 for v in self.std),
                f"mean={self.mean!r}, std={self.std!r} are not a normalization",
                "Pass what was subtracted and what was divided by, one number per channel",
            )

    @classmethod
    def paper(cls, **options: Any) -> PreWarm:
        """The published form: 0.20 or 0.25 as scale, MiniBatchKMeans with three starts, the rules as printed."""
        return cls(**{"scale": "paper", "algorithm": "minibatch", "patches": "rule", **options})

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The first convolution."""
        return first_convolutions(self, layers, trace, report)

    def before(self, visit: Visit) -> None:
        """Write the block of centroids over the first filters."""
        layer, value = visit.layer, visit.input
        assert value is not None
        filters = filter_count(self, self.fraction, layer)
        images = batched(value, layer)
        count = self._count(visit, images, filters)
        drawn = sample_patches(images, layer, count, visit.generator("patches"), visit.counted_inputs)
        slots: list[int] = []
        blocks: list[Tensor] = []
        for points, places in self._tasks(layer, drawn, filters):
            block = self._block(visit, points, len(places), f"clusters/{len(blocks)}")
            slots += places[: len(block)]
            blocks.append(block)
        if not slots:
            raise DataError(
                f"No patch of {layer.where}'s input has any structure: all are constant.",
                remedy="Pass real images, or leave this layer's start as it is.",
            )
        note_missing(visit, len(slots), filters, "fewer distinct patches than filters")
        weight = visit.weight
        weight[slots] = self._scaled(visit, torch.cat(blocks)).to(weight)
        visit.note(f"{count} patches per sample, {len(drawn)} in all")
        visit.write(weight)

    def _tasks(self, layer: Layer, drawn: Tensor, filters: int) -> list[tuple[Tensor, list[int]]]:
        """Which patches to cluster for which filters: each group's own channels, or all groups pooled."""
        size = layer.out_channels // layer.groups
        places = [list(range(g * size, g * size + n)) for g, n in enumerate(share(filters, layer.groups))]
        groups = by_group(layer, drawn)
        if len(groups) > 1 and min(map(len, places)) < 2:  # one cluster is the mean patch, which says nothing
            return [(torch.cat(groups), [i for slots in places for i in slots])]
        return list(zip(groups, places, strict=True))

    def _count(self, visit: Visit, images: Tensor, clusters: int) -> int:
        """Patches per sample."""
        if isinstance(self.patches, int):
            return self.patches
        wanted = self._rule(visit, images, clusters)
        entries = images.shape[1] * math.prod(visit.layer.kernel)
        most = max(1, min(MOST_PATCHES, ENTRIES // entries) // len(images))
        if wanted > most:
            visit.add_finding(
                f"{self.info.name}: {wanted} patches per sample were reduced to {most}, {most * len(images)} in all."
            )
        return max(1, min(wanted, most))

    def _rule(self, visit: Visit, images: Tensor, clusters: int) -> int:
        layer = visit.layer
        quarter = layer.out_channels / 4
        pixels = raw_pixels(images, self.mean, self.std)
        if self.patches == "otsu" or (layer.in_channels == 1 and self.patches in ("auto", "rule")):
            seen = images if pixels is None else pixels
            counted = visit.counted_inputs
            density = foreground_density(seen if counted is None else seen.movedim(1, -1)[counted])
            return math.floor(quarter / density) if density > 0 else 1
        if pixels is not None:
            sample = sample_patches(pixels, layer, RULE_PATCHES, visit.generator("rule"), visit.counted_inputs)
            return math.floor(quarter * NORM_RULE * mean_patch_norm(sample))
        if self.patches != "auto":
            raise DataError(
                f"{self.info.name}: the rule for several channels uses norms of patches of pixels in [0, 1], but the"
                f" input of {layer.where} spans {float(images.min()):.3g} to {float(images.max()):.3g}.",
                remedy="Pass mean= and std= of your normalization, a number as patches=, or patches='auto'.",
            )
        visit.add_finding(
            f"{self.info.name}: raw pixels are not known, so {POINTS_PER_CLUSTER} patches per cluster were drawn;"
            " pass mean= and std= of the normalization for the published rule."
        )
        return math.ceil(POINTS_PER_CLUSTER * clusters / len(images))

    def _block(self, visit: Visit, patches: Tensor, clusters: int, purpose: str) -> Tensor:
        """Tapered centroids of one set of patches, or what a control puts in their place."""
        view = patches.flatten(1)
        flat = view - view.mean(1, keepdim=True)
        noise = 16 * torch.finfo(flat.dtype).eps * float(view.norm(dim=1).max())  # rounding of the mean
        weights = taper(visit.layer.kernel).to(flat).expand(patches.shape[1:]).flatten()
        if self.taper == "before":
            flat = flat * weights
        floor = max(noise, 1e-6 * float(flat.norm(dim=1).max()))
        if self.source == "patches":
            flat = flat[flat.norm(dim=1) > floor]
            if len(flat) == 0:
                return patches[:0]
            order = torch.randperm(len(flat), generator=visit.generator(purpose)).to(flat.device)
            found = _distinct(flat[order], max(noise, 1e-4 * float(flat.norm(dim=1).max())))[:clusters]
        else:
            published = {"algorithm": "minibatch", "n_init": 3, "max_iter": 100}
            how: dict[str, Any] = published if self.algorithm == "minibatch" else LLOYD
            found = kmeans(flat, clusters, seed=visit.integer(purpose), noise=noise, **how).centroids
        found = found[found.norm(dim=1) > floor]
        if self.taper == "after":
            found = found * weights
        if self.source == "shuffled":
            keys = torch.rand(found.shape, generator=visit.generator(f"{purpose}/shuffle")).to(found.device)
            found = found.gather(1, keys.argsort(1))
        return found.reshape(-1, *patches.shape[1:])

    def _scaled(self, visit: Visit, block: Tensor) -> Tensor:
        """The block at the scale that the options set."""
        bound = parity_bound(visit.layer)
        if self.scale == "match":
            alpha = matched_rms(visit)
        elif self.scale == "bound":
            alpha = bound
        elif self.scale == "paper":
            alpha = 0.20 if visit.layer.in_channels == 1 else 0.25
        else:
            alpha = float(self.scale)
        if self.bound and alpha > bound * (1 + 1e-6):
            visit.add_finding(f"{self.info.name}: scale {alpha:.3g} was capped at the parity bound {bound:.3g}.")
            alpha = bound
        flat = block.flatten(1).double()
        if self.norm == "filter":
            size = flat.square().mean(1, keepdim=True).sqrt()
        elif self.scale in ("match", "bound"):
            size = flat.square().mean().sqrt()
        else:
            size = flat.std(correction=0) + 1e-8
        return (flat * (alpha / size)).reshape(block.shape).to(block.dtype)


def _distinct(rows: Tensor, same: float) -> Tensor:
    """Rows without repetitions (within ``same`` in each entry), in the order of first appearance."""
    _, inverse = (rows / same).round().unique(dim=0, return_inverse=True)
    place = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(place, len(rows)).scatter_reduce(0, inverse, place, "amin").sort().values
    return rows[first[first < len(rows)]]
