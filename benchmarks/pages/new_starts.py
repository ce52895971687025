"""The page of first comparisons: a row for each start, and the controls that say why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headstart.bench.report.summary import cells
from headstart.bench.statistics.verdicts import compare_family, p_text
from headstart.results.sheet import inert
from pages.marks import MAIN
from pages.studies import Blocks
from pages.tables import facts, gain, mean_accuracy, table
from pages.trials import Compared, read, rows

STEM = "new-starts"
PANELS = {  # what a comparison is of: the network and its data
    "sound-stem": "convolutions over sound, first kernel of 80 taps · vowels",
    "volume-stem": "3-D convolutions, classes · textures",
    "unet-stem": "3-D U-Net · ellipsoids",
    "vit": "vision transformer · CIFAR-100, 10 superclasses",
    "convnext-stem": "ConvNeXt · CIFAR-100, 10 superclasses",
    "rare-classes": "small CNN, batch norm · CIFAR-100, classes from 40 % to 0.4 %",
    "rare-classes-balanced": "the same, scored by the mean over classes",
    "rare-classes-rarer-half": "the same, scored by the mean over the five rarest",
    "rare-classes-longer": "the same, scored by the mean over classes, 400 steps",
    "segmentation": "2-D U-Net · ellipses",
    "resnet20": "ResNet-20 · CIFAR-100, 10 superclasses",
    "deep-transformer": "12 blocks, layer norms first · letters",
    "partial-identity": "batch-normed convolutions · CIFAR-100, 10 superclasses",
    "sound-stem-kmeans": "the convolutions over sound · vowels",
    "volume-stem-kmeans": "the 3-D convolutions · textures",
    "vit-kmeans": "the vision transformer · CIFAR-100, 10 superclasses",
    "copy": "LSTM · copying three symbols",
}
AGAINST = (  # a start, and the arm that tells what its gain is due to
    ("mimetic", "same spectra"),
    ("whitening", "random at the same norm"),
    ("whitening and identity", "whitening"),
    ("whitening and identity", "identity"),
    ("k-means", "random at deviation 1"),
    ("chrono", "forget gate 1"),
)


def page(folder: Path) -> Blocks:
    """Write all tables of the page."""
    found = read(folder, STEM)
    lines = [*_starts(found), "", *_direct(found), "", *(f"- {PANELS[name]}: {facts(c)}" for name, c in found.items())]
    return {MAIN: lines, "rates": _rates(folder)}


def _starts(found: Mapping[str, Compared]) -> list[str]:
    lines = []
    for name, compared in found.items():
        default = f"{mean_accuracy(compared.analysis.baseline):.1f}"
        for arm in compared.analysis.methods:
            assert arm.comparison is not None
            row = cells(arm)
            verdict = arm.comparison.verdict.value
            lines.append([PANELS[name], inert(arm.label), default, gain(arm.comparison), row.wins, row.p, verdict])
    return table(
        ["network · data", "start", "default", "difference", "better in", "p (Holm)", "verdict"], lines, text=2
    )


def _direct(found: Mapping[str, Compared]) -> list[str]:
    lines = []
    for name, compared in found.items():
        accuracies = {
            arm.label: {seed: float(result["test_accuracy"]) for seed, result in arm.results.items()}
            for arm in compared.analysis.arms
        }
        pairs = [pair for pair in AGAINST if {*pair} <= accuracies.keys()]
        plan = compared.analysis.plan
        for c in compare_family(pairs, accuracies, plan["alpha"], plan["margin"]) if pairs else ():
            both = f"{inert(c.arm)} − {inert(c.against)}"
            lines.append([PANELS[name], both, gain(c), f"{c.wins}/{len(c.seeds)}", p_text(c.adjusted_p)])
    return table(["network · data", "against each other", "difference", "better in", "p (Holm)"], lines, text=2)


def _rates(folder: Path) -> list[str]:
    scores: dict[str, list[tuple[str, float]]] = {}
    for row in rows(folder / f"{STEM}-rates.csv"):
        scores.setdefault(row["network"], []).append((row["rate"], float(row["validation"])))
    lines = []
    for name, tried in scores.items():
        taken = max(tried, key=lambda pair: pair[1])[0]
        lines.append([PANELS[name], ", ".join(f"{rate}: {score:.1f}" for rate, score in tried), taken])
    return table(["network · data", "rate: score on validation", "taken"], lines, text=2)
