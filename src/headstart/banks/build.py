"""Make the entries of a bank: gather filters, cluster each group, record the provenance."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from headstart import rng
from headstart.banks.distances import Found, cluster, require_distance
from headstart.banks.entry import Entry
from headstart.banks.gather import Gathered, Group, Progress, gather
from headstart.banks.source_filters import Model, Names
from headstart.errors import HeadstartError, unknown
from headstart.version import __version__

SAMPLE = 2**24  # weights per entry: 64 MiB
BINS = 4
_NAMED = 20  # sources that are listed by name


def build(
    models: Iterable[Model] | Model,
    *,
    clusters: int | Mapping[str, int],
    distance: str,
    pool: bool,
    whole: bool,
    include: Names,
    exclude: Names,
    seed: int | torch.Generator,
    bins: int,
    sample: int,
    progress: Progress | None,
) -> tuple[tuple[Entry, ...], dict[str, Any]]:
    """Entries and provenance; the arguments are those of ``FilterBank.from_models``."""
    require_distance(distance)
    _check_clusters(clusters, pool)
    seed = rng.seed_of(seed)
    gathered = gather(
        models,
        pool=pool,
        bins=bins,
        whole=whole,
        include=include,
        exclude=exclude,
        sample=sample,
        seed=seed,
        progress=progress,
    )
    asked = _asked(clusters, gathered.groups)
    entries: list[Entry] = []
    notes: list[str] = []
    while gathered.groups:
        if progress is not None:
            progress("clustering", len(entries), len(entries) + len(gathered.groups))
        group = gathered.groups.pop(0)  # its filters are let go of once they are clustered
        atoms = group.filters.take()
        k = asked[group.name]
        found = cluster(atoms, k, distance, len(group.kernel), seed, group.name)
        entries.append(_entry(group, found, len(atoms), whole))
        notes += _notes(group, found, len(atoms), k)
    provenance = {
        "title": _title(gathered, pool),
        "sources": _listed(gathered.sources),
        "distance": distance,
        "clusters": clusters if isinstance(clusters, int) else dict(clusters),
        "pool": pool,
        **({"bins": bins} if pool else {}),
        "include": include if include is None or isinstance(include, str) else list(include),
        "exclude": exclude if exclude is None or isinstance(exclude, str) else list(exclude),
        "seed": seed,
        "sample": sample,
        "notes": notes,
        "versions": _versions(),
    }
    return tuple(entries), provenance


def _check_clusters(clusters: int | Mapping[str, int], pool: bool) -> None:
    counts = [clusters] if isinstance(clusters, int) else list(clusters.values())
    if not counts or not all(isinstance(k, int) and not isinstance(k, bool) and k >= 1 for k in counts):
        raise HeadstartError(f"clusters={clusters!r} is neither a number of at least 1 nor {{layer glob: number}}.")
    if pool and not isinstance(clusters, int):
        raise HeadstartError("Pooled filters have no layer names.", remedy="Pass one number as clusters=.")


def _asked(clusters: int | Mapping[str, int], groups: list[Group]) -> dict[str, int]:
    """The number of clusters for each group, by the first glob that matches its layer."""
    if isinstance(clusters, int):
        return {group.name: clusters for group in groups}
    layers = [group.layer for group in groups]
    for glob in clusters:
        if not any(fnmatch.fnmatchcase(layer, glob) for layer in layers):
            raise unknown("layer that matches", glob, layers)
    asked = {}
    for group in groups:
        counts = [k for glob, k in clusters.items() if fnmatch.fnmatchcase(group.layer, glob)]
        if not counts:
            raise HeadstartError(
                f"clusters= says nothing about {group.name}.", remedy="Add '*': 3, or exclude the layer."
            )
        asked[group.name] = counts[0]
    return asked


def _entry(group: Group, found: Found, kept: int, whole: bool) -> Entry:
    """An entry. Its sizes and inertia stand for all filters, also those that were not sampled."""
    seen = group.filters.seen
    alive = round((kept - found.left_out) * seen / kept)
    weights = seen * found.centroids[0].numel()
    return Entry(
        group.kernel,
        group.depth,
        group.depthwise,
        group.layer,
        found.centroids,
        found.deviations,
        _share_out(found.sizes, alive),
        found.inertia * seen / kept,
        (group.filters.squares / weights) ** 0.5,
        whole,
    )


def _share_out(sizes: torch.Tensor, total: int) -> torch.Tensor:
    """Sizes in the same proportions that add up to ``total``, rounded by largest remainders."""
    if int(sizes.sum()) == total:
        return sizes
    exact = sizes.double() * total / sizes.sum()
    shares = exact.floor().long()
    left = total - int(shares.sum())
    shares[(exact - shares).argsort(descending=True, stable=True)[:left]] += 1
    return shares


def _notes(group: Group, found: Found, kept: int, asked: int) -> list[str]:
    what = group.name[0].upper() + group.name[1:]
    notes = []
    if len(found.sizes) < asked:
        notes.append(f"{what}: {len(found.sizes)} clusters instead of {asked}: there are no more distinct filters.")
    if kept < group.filters.seen:
        notes.append(f"{what}: clustered on a sample of {kept:,} of {group.filters.seen:,}.")
    if found.left_out:
        notes.append(f"{what}: {found.left_out:,} filters are zero and have no direction; left out.")
    return notes


def _title(gathered: Gathered, pool: bool) -> str:
    count = len(gathered.sources)
    return f"filters of {count} network{'s' * (count > 1)}, {'pooled' if pool else 'by layer'}"


def _listed(sources: list[str]) -> list[str]:
    more = len(sources) - _NAMED
    return [*sources[:_NAMED], f"and {more} more"] if more > 0 else sources


def _versions() -> dict[str, str]:
    import sklearn

    return {"headstart": __version__, "torch": torch.__version__, "scikit-learn": sklearn.__version__}
