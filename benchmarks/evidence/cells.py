"""Cells (a network on some images, with an optimizer), the starts under development, and the starts that are judged."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evidence.data import SIDES
from headstart.bench.runs.experiment import Experiment
from headstart.bench.trials.arms import Arm, parse_arm, with_controls
from headstart.bench.trials.training import Training

MEASURED = Path(__file__).parent / "measured.json"
"""By cell, as measured on the development side: the default start's best rate, and the epochs at which it no longer
improves."""


@dataclass(frozen=True)
class Network:
    """A network of the cells.

    Args:
        model: Its spec.
        kind: What its layers are followed by; candidates are chosen for each kind by itself, as `auto` has a recipe for
            each.
        fast: Precision and memory format of its trials: what was fastest on the two cores that develop and judge.
        matched: The control that writes random filters of the sizes that `auto` writes; empty where it writes none, or
            keeps the random directions that are there.
    """

    model: str
    kind: str
    fast: tuple[str, str] = ("bfloat16", "channels_last")
    matched: str = ""


NORMS, LAYER_NORMS, NO_NORMS = KINDS = "batch norms", "layer norms", "no norms"


_PLAIN = ("float32", "contiguous")
_LAST = ("float32", "channels_last")  # depthwise convolutions are slow in bfloat16
_STEM = "matched-random:of=whitening"
_SCALED = "within-layer:beta=0.1+balance"
_OWN = "benchmarks/evidence/networks.py"
NETWORKS: Mapping[str, Network] = {
    "small-cnn": Network("headstart:prewarm-cnn", NORMS, matched=_STEM),
    "resnet20": Network("headstart:cifar-resnet20", NORMS, matched=_STEM),
    "resnet20-no-norm": Network("headstart:cifar-resnet20:norm=0", NO_NORMS, matched=_SCALED),
    "mobilenet": Network(
        "headstart:mobilenet-v1:width=8", NORMS, _LAST, matched="matched-random:of='filter-clusters:paper'"
    ),
    "convnext": Network(f"{_OWN}:convnext", LAYER_NORMS, _LAST),
    "vit": Network(f"{_OWN}:vit", LAYER_NORMS, fast=_PLAIN),
    "plain20": Network("headstart:plain-cnn:depth=20,width=16", NO_NORMS, matched=_SCALED),
    "mlp": Network("headstart:mlp:width=256,depth=3", NO_NORMS, fast=_PLAIN),
}
IMAGES = (500, 2000, 5000)
DECAY = {"sgd": 5e-4, "adamw": 0.05}
RATES = {"sgd": (0.03, 0.1, 0.3), "adamw": (3e-4, 1e-3, 3e-3)}
EPOCHS = {500: 80, 2000: 60, 5000: 40}  # where nothing was measured yet
BATCH = 64
SEEDS = 12
MARGIN = 0.5
DRAWN = 1_000_000
"""Seeds of development begin here, so that no draw of it comes again in the judgement."""


@dataclass(frozen=True)
class Cell:
    """A network on some images, with an optimizer.

    Args:
        network: A key of `NETWORKS`.
        data: A name that both sides have.
        images: To train on.
        optimizer: A key of `RATES`.
    """

    network: str
    data: str
    images: int
    optimizer: str

    @property
    def name(self) -> str:
        """For folders and tables."""
        return f"{self.network}-{self.data}-{self.images}-{self.optimizer}"

    def training(self, augment: Sequence[str], device: str = "cpu", evaluations: int = 20) -> Training:
        """Say how its trials train: at the length and rate that were measured, else at what is usual."""
        found = measured().get(self.name, {})
        precision, memory_format = NETWORKS[self.network].fast
        return Training(
            epochs=found.get("epochs", EPOCHS[self.images]),
            batch_size=BATCH,
            optimizer=self.optimizer,
            lr=found.get("rate", RATES[self.optimizer][1]),
            weight_decay=DECAY[self.optimizer],
            augment=tuple(augment),
            evaluations=evaluations,
            device=device,
            precision=precision,
            memory_format=memory_format,
        )


CORE: Sequence[Cell] = (
    Cell("mlp", "gray", 500, "adamw"),
    Cell("small-cnn", "gray", 500, "adamw"),
    Cell("small-cnn", "cifar", 500, "sgd"),
    Cell("mobilenet", "cifar", 500, "adamw"),
    Cell("plain20", "gray", 500, "adamw"),
    Cell("convnext", "cifar", 500, "adamw"),
)
"""What two cores can judge in the background, the cheapest first."""
EVERY: Sequence[Cell] = tuple(
    dict.fromkeys(
        [
            *CORE,
            *(
                Cell(*choice)
                for choice in itertools.product(NETWORKS, SIDES["development"], IMAGES, RATES)
                if choice[0] != "mlp" or choice[1] == "gray"
            ),
        ]
    )
)

AUTO = "auto"
METHODS: Mapping[str, str] = {
    "kaiming": "kaiming",
    "LSUV": "lsuv",
    "orthogonal": "orthogonal",
    "pre-warm": "prewarm:paper,patches=30",
    "data-dependent": "within-layer:kmeans+balance",
    "filter clusters": "filter-clusters:paper",
    "smart-init": "smart-init",
}
"""The other starts that `auto` is judged beside: usual ones, and a method of each paper as it was published."""
CANDIDATES: Mapping[str, str] = {
    AUTO: "auto",
    "whitening": "whitening",
    "pre-warm": "prewarm",
    "k-means in all layers": "within-layer:kmeans,patches=4000",
    "k-means in four layers": "within-layer:kmeans,patches=4000,layers=4",
    "PCA in all layers": "within-layer:paper,fill=pca,patches=4000",
    "patches in all layers": "within-layer:paper,fill=patches,patches=4000",
    "clusters in the first layer": "filter-clusters:paper,layers=1",
    "partial identity": "airbench",
    "residual zero": "residual",
    "whitening with residual zero": "whitening+residual",
    "output prior": "output-prior",
    "within-layer": "within-layer:fill=keep,before_norm=normalize,output_layer=keep",
    "within-layer with balance": "within-layer:fill=keep,before_norm=normalize,output_layer=keep+balance",
    "k-means behind whitening": "within-layer:kmeans,patches=4000+whitening",
}
"""Candidates for `auto`'s next recipe, alone and in sensible pairs."""


def judged_arms(network: str, primary: bool = False) -> tuple[Arm, ...]:
    """List the arms of a judged cell: `auto` with all of its controls, and the other starts.

    Args:
        network: A key of `NETWORKS`.
        primary: Only what the primary contrast takes: the default start and `auto`.
    """
    if primary:
        return (Arm("default"), parse_arm(AUTO))
    matched = {"random at auto's sizes": NETWORKS[network].matched} if NETWORKS[network].matched else {}
    others = (parse_arm(f"{label}={spec}") for label, spec in {**matched, **METHODS}.items())
    return (*with_controls([parse_arm(AUTO)]), *others)


def candidates(labels: Sequence[str] = tuple(CANDIDATES)) -> tuple[Arm, ...]:
    """List the default start and candidates as arms."""
    return (Arm("default"), *(parse_arm(f"{label}={CANDIDATES[label]}") for label in labels))


def measured() -> dict[str, dict[str, float]]:
    """Read what was measured of the default start: the best rate and the length of each cell."""
    return dict(json.loads(MEASURED.read_text())) if MEASURED.exists() else {}


def experiment(cell: Cell, task: str, arms: Sequence[Arm], seeds: Sequence[int], training: Training) -> Experiment:
    """Describe a comparison on a cell; nothing is left to the machine."""
    model = NETWORKS[cell.network].model
    return Experiment(tuple(arms), tuple(seeds), task, model, training, margin=MARGIN, auto=())
