"""Check that the files of all comparisons exist, before the first one runs."""

from __future__ import annotations

from collections.abc import Sequence

from headstart.bench.papers.reproduction.plan import Comparison, base
from headstart.bench.tasks.data import files
from headstart.bench.tasks.data.catalogue import DATASETS
from headstart.bench.tasks.data.download import download
from headstart.bench.tasks.data.listing import lacking
from headstart.engine import specs
from headstart.errors import DataError


def fetch(comparisons: Sequence[Comparison]) -> None:
    """Download the missing files of these comparisons' tasks, as far as possible.

    Raises:
        DataError: If one cannot be fetched after all.
        MissingExtraError: If torchvision is not installed.
    """
    for name in _absent(comparisons):
        if DATASETS[name].downloads:
            download(name, files.data_root())


def available(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], list[str]]:
    """Separate the comparisons that can run from those that lack files.

    Returns:
        The comparisons that can run, and a sentence for each protocol that is left out.

    Raises:
        DataError: Files of a required task are missing. The error names all such tasks.
    """
    absent = _absent([comparison for comparison in comparisons if not comparison.optional])
    if absent:
        fetched = [name for name in absent if DATASETS[name].downloads]
        by_hand = [name for name in absent if DATASETS[name].layouts and name not in fetched]
        ways = [f"fetch {_and(fetched)} with --download"] if fetched else []
        ways += [f"put {_and(by_hand)} there by hand (see 'headstart tasks NAME')"] if by_hand else []
        ways += ["install the package with: pip install 'headstart[bench]'"] if "mnist5k" in absent else []
        ways = ["; ".join([*ways, "name another folder with --data-root"]), "or pick other comparisons with --only"]
        remedy = ", ".join(ways)
        listed = "; ".join(f"{name}: {files.brace(paths)}" for name, paths in absent.items())
        raise DataError(
            f"Missing in '{files.data_root()}' for these comparisons: {listed}.",
            remedy=f"{remedy[0].upper()}{remedy[1:]}.",
        )
    kept: list[Comparison] = []
    left: dict[str, str] = {}
    for comparison in comparisons:
        if absent := _absent([comparison]):
            (name,) = absent
            way = "--download fetches them" if DATASETS[name].downloads else f"see 'headstart tasks {name}'"
            protocol = base(comparison.name)
            left[protocol] = f"{protocol} is left out: there are no files of {name} ({way})."
        else:
            kept.append(comparison)
    return kept, list(left.values())


def _absent(comparisons: Sequence[Comparison]) -> dict[str, list[str]]:
    """Return the missing files, by data set."""
    found: dict[str, list[str]] = {}
    for task in dict.fromkeys(comparison.task for comparison in comparisons):
        known = found.setdefault(specs.head(task)[0], [])
        known += [path for path in lacking(task) if path not in known]
    return {name: paths for name, paths in found.items() if paths}


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
