"""The papers' own comparisons at the lengths that they published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from evidence import data
from evidence.running import Machine, compared
from headstart.bench import Experiment, Store
from headstart.bench.papers.protocols import words_of
from headstart.bench.settings.words import defaults, experiment
from headstart.bench.tasks.data.catalogue import DATASETS
from headstart.bench.tasks.data.files import lacking
from headstart.engine import specs

PAPERS: Mapping[str, str] = {
    "prewarm-cifar100-corrected": "Pre-Warm, CIFAR-100: 5,000 steps of 256, 20 seeds",
    "prewarm-fashion-mnist-corrected": "Pre-Warm, Fashion-MNIST: 5,000 steps of 256, 20 seeds",
    "smart-init-imagenet64-corrected": "Smart-Init's first table, 64×64: 35 epochs, 10 seeds",
    "smart-init-imagenet32-corrected": "Smart-Init's first table, 32×32: 50 epochs, 10 seeds",
    "smart-init-imagenet16-corrected": "Smart-Init's first table, 16×16: 75 epochs, 10 seeds",
}
"""Protocols of the benchmark, which keep the published lengths, and what they are."""


def described(name: str, root: Path, folder: Path, machine: Machine, open_judged: bool) -> Experiment:
    """Describe a paper's comparison; on its packed data where the data set itself is not there.

    Args:
        name: A key of `PAPERS`.
        root: The folder that data sets lie in.
        folder: Of the packs.
        machine: Where it would run.
        open_judged: As for `evidence.data.checked`.
    """
    data.checked(data.PAPERS, open_judged)
    what = experiment({**defaults(), **words_of(name)})
    dataset, _ = specs.head(what.task)
    absent = all(lacking(root, DATASETS[dataset].layouts))
    if absent and dataset in data.SIDES[data.PAPERS]:
        most = data.SIDES[data.PAPERS][dataset].sizes[0]
        what = replace(what, task=data.task(data.PAPERS, dataset, most, root, folder, open_judged))
    return _here(what, machine)


def alike(name: str, root: Path, folder: Path, machine: Machine) -> Experiment:
    """Describe the comparison on development images of the same shape: what it costs, without opening anything."""
    what = experiment({**defaults(), **words_of(name)})
    like = {"cifar100": "cifar", "fashion-mnist": "gray"}.get(specs.head(what.task)[0])
    return _here(replace(what, task=data.task(data.DEVELOPMENT, like, 5000, root, folder)) if like else what, machine)


def _here(what: Experiment, machine: Machine) -> Experiment:
    return replace(what, training=replace(what.training, device=machine.device), auto=())


def reproduce(name: str, what: Experiment, folder: Path, machine: Machine) -> None:
    """Run a paper's comparison, as far as the time reaches."""
    compared(name, what, Store(folder / "papers" / name), machine)
