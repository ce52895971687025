"""Covariances of slices: measured on trained networks, estimated from clusters, or constructed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart.banks import Entry, FilterBank
from headstart.banks.source_filters import Model, chosen, each_source
from headstart.errors import HeadstartError


@dataclass(frozen=True, eq=False, repr=False)
class Measured(Entry):
    """An entry with one cluster, which also holds the covariance of its slices.

    Args:
        covariance: ``(taps, taps)``, float64.
    """

    covariance: Tensor | None = None


class Covariances(FilterBank):
    """A bank of measured covariances, which exists only in memory."""

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Refuse to save: a bank's file holds clusters, and would lose the covariances."""
        raise HeadstartError(
            "Measured covariances have no file format.",
            remedy="Keep the weights and measure again, or save a bank of many clusters (FilterBank.from_models).",
        )

    @property
    def fingerprint(self) -> str:
        """A short hash of the covariances."""
        tensors = [covariance_of(entry).contiguous().numpy().tobytes() for entry in self.entries]
        return hashlib.sha256(b"".join([super().fingerprint.encode(), *tensors])).hexdigest()[:12]


def measure(models: Iterable[Model] | Model) -> FilterBank:
    """Measure the covariance of slices, layer by layer, one model after the other.

    Raises:
        HeadstartError: A source cannot be read, or has no convolution of more than one tap.
    """
    sums: dict[tuple[str, tuple[int, ...], bool], list[Any]] = {}
    for label, convolutions in each_source(models):
        for conv in chosen(convolutions, None, None, label):
            slices = conv.weight.detach().cpu().double().flatten(2).flatten(0, 1)
            new = [len(slices), conv.depth * len(slices), slices.sum(0), slices.T @ slices]
            old = sums.get((conv.name, conv.kernel, conv.depthwise))
            sums[conv.name, conv.kernel, conv.depthwise] = (
                new if old is None else [a + b for a, b in zip(old, new, strict=True)]
            )
    entries = tuple(_measured(*kind, *found) for kind, found in sums.items())
    count = sum(int(entry.sizes) for entry in entries)
    return Covariances(entries, {"title": f"covariance of {count:,} slices"})


def _measured(
    layer: str, kernel: tuple[int, ...], depthwise: bool, count: int, depth: float, total: Tensor, products: Tensor
) -> Measured:
    mean, second = total / count, products / count
    covariance = second - mean.outer(mean)
    spread = covariance.diagonal().clamp_min(0).sqrt()
    return Measured(
        kernel,
        depth / count,
        depthwise,
        layer,
        mean.float().reshape(1, *kernel),
        spread.float().reshape(1, *kernel),
        torch.tensor([count]),
        float(spread.square().sum()) * count,
        math.sqrt(float(second.trace()) / len(mean)),
        covariance=covariance,
    )


def covariance_of(entry: Entry) -> Tensor:
    """Covariance of the slices of an entry, ``(taps, taps)`` in float64.

    It is exact if it was measured. From clusters it is the covariance between clusters plus the variances within them.
    """
    if isinstance(entry, Measured) and entry.covariance is not None:
        return entry.covariance
    share = (entry.sizes.double() / entry.sizes.sum()).unsqueeze(1)
    centroids = entry.centroids.double().flatten(1)
    apart = centroids - (share * centroids).sum(0)
    within = (share * entry.deviations.double().flatten(1).square()).sum(0)
    return apart.T @ (share * apart) + within.diag()


def structured(kernel: Sequence[int], s: float) -> Tensor:
    """Build a covariance from a Gaussian window of variance ``s``, ``(taps, taps)`` in float64.

    With ``Z`` the window at the centre and ``Z_t`` the same shifted to tap ``t`` and cut at the kernel's border, the
    row of ``t`` is ``Z[t] * (Z_t - Z / 2)``. The matrix is made symmetric; :func:`factor_of` makes it positive.
    """
    places = torch.cartesian_prod(*(torch.arange(k, dtype=torch.float64) for k in kernel)).reshape(-1, len(kernel))
    reach = torch.tensor([k // 2 for k in kernel])
    centre = torch.tensor([(k - 1) / 2 for k in kernel], dtype=torch.float64)
    window = (-(places - centre).square().sum(1) / (2 * s)).exp()
    apart = places.unsqueeze(1) - places
    shifted = (-apart.square().sum(2) / (2 * s)).exp() * (apart.abs() <= reach).all(2)
    masked = window.unsqueeze(1) * (shifted - window / 2)
    return (masked + masked.T) / 2


def factor_of(covariance: Tensor) -> Tensor:
    """The symmetric ``F`` with ``F @ F`` the nearest positive semi-definite matrix to ``covariance``.

    Unlike other factors it does not depend on the order or sign of eigenvectors. For the identity it is the identity.
    """
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
