"""Filters from a layer's real input: principal components, ZCA, spherical k-means, whitened patches.

Patches are gathered, decomposed and clustered on the layer's device in float32 or better, one group of channels after
the other, within a memory limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import scipy.linalg
import torch
from torch import Tensor

from headstart.engine.visit import Visit
from headstart.errors import DataError
from headstart.measure.layer_patches import Integers, LayerPatches
from headstart.model.report_builder import ReportBuilder
from headstart.model.weights import Layer
from headstart.numerics.clustering import SAME
from headstart.numerics.fetching import Values, fetch
from headstart.numerics.principal import Spectrum, few_of_many, largest_side, leading
from headstart.numerics.spherical import Directions

ITERATIONS = 10  # of k-means: more move no filter that matters
ROUNDS = 4  # in which its start is drawn
ENOUGH = 256  # patches per filter or dimension: more hardly move a centroid or a covariance
MEGABYTE = 2**20


@dataclass(frozen=True)
class Whitener:
    """The leading directions of one group's patches, and the factors that give all of them the same variance.

    Attributes:
        mean: The mean patch, ``(dimensions,)``.
        vectors: Unit eigenvectors of the centred covariance, ``(found, dimensions)``, largest eigenvalue first.
        factors: ``(eigenvalue + eps * mean eigenvalue) ** -0.5``, ``(found,)``.
    """

    mean: Tensor
    vectors: Tensor
    factors: Tensor

    @classmethod
    def of(
        cls,
        patches: Tensor,
        most: int,
        eps: float,
        rounding: float,
        without: Tensor | None,
        search: Callable[[], torch.Generator],
    ) -> Whitener:
        """Decompose patches, which are centred in place.

        Args:
            patches: ``(n, dimensions)``.
            most: The largest number of directions.
            eps: Added to the eigenvalues, as a share of their mean.
            rounding: Relative error of an output; directions that vary less, relative to the patches' length, are
                left out.
            without: A unit direction to which all vectors are orthogonal.
            search: Gives the random numbers of a search, which finds a few of very many directions.
        """
        taken_out = [] if without is None else [patches @ without]
        if without is not None:
            patches.addr_(taken_out[0], without, alpha=-1)
        mean = patches.mean(0)
        patches.sub_(mean)
        spectrum = None if few_of_many(patches, most) else Spectrum(patches)
        sizes = [torch.linalg.vector_norm(part) for part in (mean, *taken_out)]
        # All that must be known to go on, in one read.
        first = torch.linalg.vector_norm(patches) if spectrum is None else spectrum.values
        values, size, *taken = fetch([first, *sizes])
        spread = float(values.sum())  # the mean squared length of centred patches
        if spectrum is None:
            spread = spread**2 / len(patches)
        length = spread + float(size[0]) ** 2 + sum(float(part[0]) ** 2 for part in taken) / len(patches)
        floor = rounding**2 * length
        if spectrum is None:
            eigenvalues, vectors = leading(patches, most, floor, search())
        else:
            found = spectrum.count(values, most, floor)
            eigenvalues, vectors = spectrum.values[:found], spectrum.vectors(found)
        factors = (eigenvalues + eps * spread / patches.shape[1]).rsqrt_()
        return cls(mean, vectors.to(patches), factors.to(patches))

    def directions(self, centred: Tensor) -> Tensor:
        """Patches, centred, whitened and scaled to length 1; zeros where a patch equals the mean."""
        white = centred @ (self.vectors * self.factors.unsqueeze(1)).T
        length = torch.linalg.vector_norm(white, dim=1, keepdim=True)
        return white.div_(length.masked_fill_(length <= SAME * math.sqrt(len(self.factors)), math.inf))

    def filters(self, white: Tensor) -> Tensor:
        """Turn directions of the whitened space into filters whose output is the product with a whitened patch."""
        return (white * self.factors) @ self.vectors


Points = Callable[[], Tensor]  # the whitened patches of a group, gathered when a fill asks for them
Filled = tuple[Tensor, Tensor | None]  # filters, and which of them there are: all by default


def _pca(whitener: Whitener, points: Points, filters: int, generator: torch.Generator, memory: int) -> Filled:
    return whitener.vectors, None


def _zca(whitener: Whitener, points: Points, filters: int, generator: torch.Generator, memory: int) -> Filled:
    # Of the rows of V diag(factors) V^T, as many as V has columns: those of the inputs that V tells apart best.
    _, order = scipy.linalg.qr(whitener.vectors.cpu().numpy(), mode="r", pivoting=True)
    inputs = torch.as_tensor(order[: len(whitener.vectors)]).long().sort().values
    return whitener.filters(whitener.vectors[:, inputs].T), None


def _kmeans(whitener: Whitener, points: Points, filters: int, generator: torch.Generator, memory: int) -> Filled:
    white = Directions(points(), memory=memory)
    start = white.start(min(len(whitener.vectors), len(white.points)), generator, ROUNDS)
    centroids, taken = white.run(start, ITERATIONS)
    return whitener.filters(centroids), taken


def _patches(whitener: Whitener, points: Points, filters: int, generator: torch.Generator, memory: int) -> Filled:
    white = points()
    white = white[white.any(1)]
    chosen = white[:0]
    # In random order, without those that are there already: equal patches would make equal filters.
    for block in torch.randperm(len(white), generator=generator).to(white.device).split(filters):
        candidates = white[block]
        apart = _distances(candidates, candidates).tril(-1) + white.new_ones(len(block), len(block)).triu()
        new = (apart > SAME).all(1) & (_distances(candidates, chosen) > SAME).all(1)
        chosen = torch.cat([chosen, candidates[new]])[:filters]
        if len(chosen) == filters:
            break
    return whitener.filters(chosen), None


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # By products of vectors, as torch computes it for many, small distances would drown in rounding.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


FILLS = {"pca": _pca, "zca": _zca, "kmeans": _kmeans, "patches": _patches}


@dataclass(frozen=True)
class Limits:
    """The limits of a fill.

    Attributes:
        patches: The largest number of patches.
        eps: Share of the mean eigenvalue that is added to the eigenvalues.
        memory: MB for the patches, their covariance and intermediate results.
    """

    patches: int
    eps: float
    memory: int


def fill(visit: Visit, weight: Tensor, kind: str, limits: Limits, without: Tensor | None = None) -> None:
    """Replace filters by filters from the layer's patches, as many as the patches support; the rest stay.

    Args:
        visit: The layer and its input.
        weight: Its new weight, ``(out, in/groups, *kernel)``, so far random; written in place, with filters of length
            1.
        kind: One of ``FILLS``.
        limits: The limits of patches, eigenvalues and memory.
        without: For each group, a unit direction to which all filters are orthogonal, ``(groups, dimensions)``.

    Raises:
        DataError: The layer's input is not finite.
    """
    layer = visit.layer
    each, dimensions = layer.out_channels // layer.groups, math.prod(layer.shape[1:])
    if each == 1 and kind in ("kmeans", "patches"):
        why = f"with one filter per group, {kind} has no choice"
        _Told(visit.report, layer, visit.method, why)(0)
        return
    assert visit.input is not None
    source = LayerPatches(layer, visit.input, visit.counted)
    wanted = min(limits.patches, ENOUGH * max(dimensions, each), len(source))
    share = limits.memory * MEGABYTE // 4 // weight.element_size()  # a quarter for patches, the rest to decompose them
    basis, side = min(wanted, share // dimensions), largest_side(limits.memory * MEGABYTE * 3 // 4)
    if min(basis, dimensions) > side:
        basis = side
    seen = source.spread(max(1, basis), visit.generator("patches"))
    count = max(1, min(wanted, share // min(each, dimensions)))
    clustered = seen if count == max(1, basis) else source.spread(count, visit.generator("patches"))
    written: list[Tensor | int] = []

    def require(values: Values) -> None:
        if not values.all():
            raise DataError(
                f"The input of {layer.where} holds NaN or infinite values.",
                remedy="Find the layer that overflows before it: headstart.diagnose names it.",
            )

    for g, filters in enumerate(weight.flatten(1).chunk(layer.groups)):
        drawn = _gathered(source, seen, g)
        visit.later(torch.isfinite(drawn.sum(dtype=torch.float64)), require)
        avoided = None if without is None else without[g].to(drawn)
        most, rounding = min(each, dimensions), _rounding(visit.input.dtype)
        whitener = Whitener.of(drawn, most, limits.eps, rounding, avoided, partial(visit.generator, f"directions/{g}"))
        if len(whitener.vectors) == 0:
            continue
        if len(clustered) != len(seen):
            drawn = drawn[:0]  # its memory is for others

        def points(g: int = g, whitener: Whitener = whitener, centred: Tensor = drawn) -> Tensor:
            if len(centred):  # the places are the same
                return whitener.directions(centred)
            taken = (source.take(block, g) for block in source.blocks(clustered))
            return torch.cat([whitener.directions(block - whitener.mean) for block in taken])

        rows, taken = FILLS[kind](whitener, points, each, visit.generator(f"{kind}/{g}"), limits.memory * MEGABYTE // 4)
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny)
        place, rows = filters[: len(rows)], rows / length
        place.copy_(rows if taken is None else torch.where(taken.unsqueeze(1), rows, place))
        written.append(len(rows) if taken is None else taken.sum())
    used = len(seen if kind in ("pca", "zca") else clustered)
    visit.note(f"{kind} of {used} patches")
    told = _Told(visit.report, layer, visit.method, f"{used} patches support fewer {kind} filters than it has")
    known = sum(count for count in written if isinstance(count, int))
    counts = [count for count in written if isinstance(count, Tensor)]
    visit.later(counts, lambda values: told(known + int(values.sum())))


def _gathered(source: LayerPatches, places: Integers, group: int) -> Tensor:
    parts = [source.take(block, group) for block in source.blocks(places)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rounding(dtype: torch.dtype) -> float:
    """Relative error of an output, but at least what an eigendecomposition in float64 resolves."""
    finfo = torch.finfo(dtype)
    # Inputs in half precision are rounded once; float32 sums round at every term, and deviations want three digits.
    return max(finfo.eps if finfo.bits == 16 else 1e3 * finfo.eps, 1e-7)


@dataclass(frozen=True)
class _Told:
    """Reports that some filters are Gaussian, and why, once the number is read."""

    report: ReportBuilder
    layer: Layer
    method: str
    why: str

    def __call__(self, written: int) -> None:
        filters, name = self.layer.out_channels, self.layer.name
        if written < filters:
            self.report.rows[name].notes.append(f"{filters - written} of {filters} filters Gaussian")
            self.report.add_finding(
                f"{self.method}: {filters - written} of {filters} filters of '{name}' are Gaussian: {self.why}."
            )
