"""Join banks of one kind: clusters of the same layer or pool side by side, weighted by their filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from headstart.banks.entry import Entry
from headstart.banks.gather import depth_bin
from headstart.errors import HeadstartError

_KIND = ("distance", "pool", "bins")


def merged(
    banks: Sequence[tuple[tuple[Entry, ...], dict[str, Any]]],
) -> tuple[tuple[Entry, ...], dict[str, Any]]:
    """Entries and provenance of several banks together.

    Raises:
        HeadstartError: The banks are not of one kind.
    """
    if not banks:
        raise HeadstartError("There are no filter banks to merge.", remedy="Pass at least one.")
    provenances = [provenance for _, provenance in banks]
    for name in _KIND:
        values = [p.get(name) for p in provenances]
        if any(value != values[0] for value in values):
            raise HeadstartError(
                f"The banks are not of one kind: {name} is {', '.join(map(repr, values))}.",
                remedy="Build them with the same options.",
            )
    if len({entry.whole for entries, _ in banks for entry in entries}) > 1:
        raise HeadstartError("The banks are not of one kind: some hold slices, some whole filters.")
    bins = provenances[0].get("bins")
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for entries, _ in banks:
        for entry in entries:
            place = entry.layer or (depth_bin(entry.depth, bins) if bins else entry.depth)
            groups.setdefault((place, entry.depthwise, entry.kernel, entry.centroids.shape[1:]), []).append(entry)
    titles = dict.fromkeys(str(p.get("title", "untitled")) for p in provenances)
    licences = dict.fromkeys(str(p["licence"]) for p in provenances if p.get("licence"))
    provenance = {
        "title": " + ".join(titles),
        **{name: provenances[0][name] for name in _KIND if name in provenances[0]},
        **({"licence": "; ".join(licences)} if licences else {}),
        "merged": provenances,
    }
    return tuple(_joined(group) for group in groups.values()), provenance


def _joined(entries: Sequence[Entry]) -> Entry:
    if len(entries) == 1:
        return entries[0]
    first = entries[0]
    counts = torch.tensor([int(entry.sizes.sum()) for entry in entries], dtype=torch.float64)
    share = counts / counts.sum()
    norms = torch.tensor([entry.norm for entry in entries], dtype=torch.float64)
    depths = torch.tensor([entry.depth for entry in entries], dtype=torch.float64)
    sizes = torch.cat([entry.sizes for entry in entries])
    centroids = torch.cat([entry.centroids for entry in entries])
    deviations = torch.cat([entry.deviations for entry in entries])
    # A centroid that several banks have becomes one, with all their filters.
    distinct, owner = centroids.flatten(1).unique(dim=0, return_inverse=True)
    total = torch.zeros(len(distinct), dtype=torch.int64).index_add_(0, owner, sizes)
    variances = deviations.flatten(1).double().square() * sizes[:, None]
    pooled = torch.zeros(distinct.shape, dtype=torch.float64).index_add_(0, owner, variances) / total[:, None]
    order = total.argsort(descending=True, stable=True)
    return Entry(
        first.kernel,
        float((depths * share).sum()),
        first.depthwise,
        first.layer,
        distinct[order].reshape(-1, *first.centroids.shape[1:]),
        pooled.sqrt().float()[order].reshape(-1, *first.centroids.shape[1:]),
        total[order],
        sum(entry.inertia for entry in entries),
        float((norms.square() * share).sum().sqrt()),
        first.whole,
    )
