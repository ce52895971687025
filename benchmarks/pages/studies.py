"""The pages that show comparisons one after the other, each with all its arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headstart.bench.papers.reproduction.page import table as published_table
from headstart.bench.papers.reproduction.rows import rows_of
from headstart.bench.statistics.verdicts import Comparison, compare_family
from pages.dense import dense
from pages.marks import MAIN
from pages.tables import DAGGER, against, arms, facts, gain, stated, table, unbounded
from pages.trials import Compared, read, rows

Blocks = dict[str, list[str]]
NOT_KEPT = f"{DAGGER} Measured on the sources' weights, which were not kept, so this cannot be recomputed."


@dataclass(frozen=True)
class Study:
    """What a page is made of.

    Args:
        panels: Title of each comparison, by its name.
        learns: Whether to count the seeds that learn anything.
        pairs: Arms to compare with each other, as a family of its own.
        beyond: Whether to compare each method with each of its controls.
        runs: Folder of its comparisons in ``runs``, if it is not named as the page.
        score: What a trial's score is.
        extra: Writes further blocks of the page.
    """

    panels: Mapping[str, str]
    learns: bool = False
    pairs: tuple[tuple[str, str], ...] = ()
    beyond: bool = False
    runs: str = ""
    score: str = "test accuracy"
    extra: Callable[[Path, Mapping[str, Compared]], Blocks] = lambda folder, found: {}
    before: Callable[[Mapping[str, Compared]], list[str]] = lambda found: []


def direct(compared: Compared, study: Study) -> list[Comparison]:
    """Compare arms with each other: a study's pairs, and methods with their controls."""
    analysis = compared.analysis
    accuracies = {
        arm.label: {seed: float(result["test_accuracy"]) for seed, result in arm.results.items()}
        for arm in analysis.arms
    }
    alpha, margin = analysis.plan["alpha"], analysis.plan["margin"]
    pairs = [pair for pair in study.pairs if accuracies.keys() >= set(pair)]
    own = compare_family(pairs, accuracies, alpha, margin) if pairs else []
    return [*own, *(analysis.beyond if study.beyond else ())]


def sections(found: Mapping[str, Compared], study: Study) -> list[str]:
    """Write all comparisons, each under its title."""
    lines: list[str] = []
    for name, compared in found.items():
        title = study.panels[name]
        lines += ["", f"### {title[0].upper()}{title[1:]}", "", facts(compared), ""]
        lines += [*arms(compared, study.learns, study.score), *against(direct(compared, study))]
    return lines


def page(folder: Path, stem: str) -> Blocks:
    """Write all blocks of a study's page."""
    study, found = STUDIES[stem], read(folder, stem)
    lines = [*study.before(found), *sections(found, study)]
    return {MAIN: [*lines, *stated(lines)], **study.extra(folder, found)}


def reproduced(found: Mapping[str, Compared]) -> list[str]:
    """Write what was published beside what was measured, as ``headstart reproduce`` does."""
    lines = published_table([(name, rows_of(name, compared.analysis)) for name, compared in found.items()])
    return ["### Published against measured", "", *lines]


def clusters_extra(folder: Path, found: Mapping[str, Compared]) -> Blocks:
    """Write what the paper published on clusters beside the trials, and how far filters moved."""
    measured = [
        (row["start"], row["published"], measured_gain(found[row["network"]], row["arm"]))
        for row in rows(folder / "clusters-published.csv")
    ]
    moved = [
        (
            f"`{row['layer']}`",
            row["cosine"],
            f"{row['explained_trained']} %",
            f"{row['explained_random']} %",
            row["size_trained"],
            row["size_random"],
        )
        for row in rows(folder / "clusters-moved.csv")
    ]
    columns = ("cosine to the start", "explained, trained", "explained, random", "size, trained", "size, random")
    lines = table(["layer", *(f"{name}{DAGGER}" for name in columns)], moved)
    beside = table(["start", "published", "measured here"], measured, text=3)
    return {
        "published": [*beside, *unbounded(beside, 5)],
        "moved": [*lines, "", NOT_KEPT],
        "dense": dense(rows(folder / "clusters-dense.csv")),
    }


def samples_extra(folder: Path, found: Mapping[str, Compared]) -> Blocks:
    """Write what the paper published on starts by samples beside the trials."""
    head = [
        "start",
        "published, CIFAR-10, 40 runs",
        "published, ImageNet at 32×32, 4 runs",
        "measured, published rate",
        "measured, tuned",
    ]
    lines = [
        (
            row["start"],
            row["cifar10"],
            row["imagenet32"],
            measured_gain(found["cifar100"], row["arm"]),
            measured_gain(found["cifar100-tuned"], row["arm"]),
        )
        for row in rows(folder / "samples-published.csv")
    ]
    return {"published": table(head, lines, text=len(head))}


def measured_gain(compared: Compared, label: str) -> str:
    """Write an arm's gain over the default start."""
    (found,) = (arm.comparison for arm in compared.analysis.arms if arm.label == label)
    assert found is not None
    return gain(found)


STUDIES = {
    "trainability": Study(
        {
            "plain20": "plain, 20 layers",
            "plain50": "plain, 50 layers",
            "plain100": "plain, 100 layers",
            "resnet20": "ResNet-20 without batch norm",
        },
        learns=True,
    ),
    "clusters": Study(
        {
            "pairs": "two superclasses of CIFAR-100 that no source saw",
            "tiny": "Tiny ImageNet at 32×32",
            "dense": "all layers of a CIFAR ResNet-20, CIFAR-100's superclasses",
        },
        pairs=(
            ("clusters at the layer's norm", "clusters at their own norm"),
            ("clusters at their own norm", "random at the clusters' norm"),
        ),
        extra=clusters_extra,
    ),
    "samples": Study(
        {
            "cifar100": "CIFAR-100, published rate and schedule",
            "tiny": "Tiny ImageNet at 32×32, published rate and schedule",
            "cifar100-tuned": "CIFAR-100, augmented, cosine schedule, rates searched",
        },
        beyond=True,
        extra=samples_extra,
    ),
    "pre-warm": Study(
        {
            f"prewarm-{data}-{version}": f"{title}, {'as published' if version == 'published' else 'with controls'}"
            for data, title in (("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST"), ("cifar100", "CIFAR-100"))
            for version in ("published", "corrected")
        },
        beyond=True,
        before=reproduced,
        runs="reproduce/pre-warm-small",
    ),
    "monai": Study({"unet": "MONAI's U-Net on volumes of 24×24×24, instance norms"}, score="Dice (%)"),
    "auto": Study(
        {
            "plain20": "plain, 20 layers, no norm",
            "resnet20-without-norm": "ResNet-20 without batch norm",
            "shallow": "plain, 5 layers, no norm",
            "mlp": "linear layers, no norm",
            "small-cnn": "small CNN, batch norm",
            "mobilenet": "MobileNet v1, batch norm",
            "resnet18": "ResNet-18, batch norm",
        },
    ),
}
