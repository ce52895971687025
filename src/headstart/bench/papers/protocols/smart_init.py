"""Smart-Init's comparisons: MobileNets on down-sampled ImageNet and on CIFAR-10, AdamW."""

from __future__ import annotations

from typing import Any

from headstart.bench.papers.protocols.base import VERSIONS, Entry, Protocol, Version

PAPER = "Denisov, Feldman, Dolev and Segal, Smart-Init of neural networks"
_PUBLISHED = ("smart-init=smart-init:paper{sample}",)
_CORRECTED = (
    "smart-init=smart-init{sample}",
    "repeats=smart-init:repeated",
    "warm-start",
    "shrink-perturb",
    "kaiming",
    "lsuv",
)
_EPOCHS = {16: (75.0, 0.9375), 32: (50.0, 0.925), 64: (35.0, 0.925)}  # and the factor of the rate per epoch
_REGISTER = (
    Entry.always(
        "left out",
        "The baseline got one more epoch before those that count (none on CIFAR-10), against 1.1 to 1.4 epochs of "
        "Smart-Init, and no restart of the learning rate.",
        "All arms have one budget. In the corrected version the control 'equal-steps' gives the default start the "
        "time that a start takes, as training steps, and 'restarts' trains on all images with the same restarts.",
    ),
    Entry.always(
        "differs",
        "Validation figures are those of the best epoch of each run.",
        "headstart reports the test accuracy at the end, and curves.",
    ),
    Entry.always(
        "differs",
        "'1.25 %' stands twice in the description of the method; all experiments take 1.25 % and 12.5 % (1 % and 10 % "
        "on CIFAR-10).",
        "The sizes of the experiments.",
    ),
    Entry(
        "The samples' batches, with their augmentation, were the same in every epoch of a stage.",
        ("reproduced", "frozen_batches, in smart-init:paper."),
        ("corrected", "The sample is fixed; batches and augmentation are drawn anew."),
    ),
    Entry.always(
        "differs",
        "Samples were whole batches of one pass over the data.",
        "Samples of the same share; the last batch of a sample is not left out.",
    ),
)
_IMAGENET = (
    Entry.always(
        "left out",
        "The 'test loss' of Tables I and V is the validation loss of the last epoch.",
        "A trial's test loss is that of the test split.",
    ),
    Entry(
        "Images are raw numbers from 0 to 255.",
        ("reproduced", "normalization = none."),
        ("corrected", "Normalized by channel: with raw numbers the first steps only undo the scale."),
    ),
    Entry(
        "The test set is the easiest ImageNetV2 (TopImages), scaled down by another filter than the training images.",
        ("reproduced", "imagenetv2-top-images by Lanczos' filter."),
        ("corrected", "ImageNetV2 of matched frequency, averaged over boxes as the training images were."),
    ),
    Entry(
        "Four runs, with which no exact test can go below 0.125.",
        ("reproduced", "Four seeds."),
        ("corrected", "Ten seeds, with controls."),
    ),
)
_CIFAR = (
    Entry(
        "Training and validation images are normalized by CIFAR-10's statistics, test images by ImageNet's.",
        ("reproduced", "test-normalization = imagenet."),
        ("corrected", "One normalization."),
    ),
    Entry.always(
        "differs",
        "The deviations that it divides by are means over images (0.20), not those of all pixels (0.25).",
        "headstart measures mean and deviation over all pixels of the training split.",
    ),
)


def _words(version: Version, sample: str = "") -> dict[str, Any]:
    published = version == "published"
    return {
        "model": "headstart:mobilenet-v1",
        "arms": tuple(arm.format(sample=_options(arm, sample)) for arm in (_PUBLISHED if published else _CORRECTED)),
        "controls": not published,
        "lr": 1e-3,
        "optimizer": "adamw",
        "weight-decay": 0.01,
        "schedule": "exponential",
        "precision": "float32",
    }


def _options(arm: str, sample: str) -> str:
    """The sample's size as the last option of an arm's spec."""
    return sample and ("," if ":paper" in arm else ":") + sample


def _imagenet(side: int, version: Version) -> Protocol:
    published = version == "published"
    epochs, decay = _EPOCHS[side]
    test = "imagenetv2-top-images,resample=lanczos" if published else "imagenetv2"
    name = f"smart-init-imagenet{side}-{version}"
    others = (
        (
            f"--arms repeats=smart-init:repeated,frozen_batches=true --out runs/{name}-repeats",
            "ten samples of 12.5 % (table II)",
        ),
        (f"--arms warm-start:frozen_batches=true --out runs/{name}-warm", "half of the data for 50 epochs (table III)"),
        (f"--model headstart:mobilenet-v2 --epochs 75 --evaluations 75 --out runs/{name}-v2", "MobileNet v2"),
        (
            f"--model headstart:mobilenet-v3-small --epochs 75 --evaluations 75 --decay 0.9 --out runs/{name}-v3",
            "MobileNet v3 small",
        ),
    )
    return Protocol(
        name,
        f"starts of a MobileNet v1 on ImageNet at {side}×{side}",
        PAPER,
        {
            **_words(version),
            "task": f"imagenet{side}:test-set={test}",
            "seeds": "4" if published else "10",
            "epochs": epochs,
            "batch-size": 64,
            "decay": decay,
            "evaluations": round(epochs),
            "normalization": "none" if published else "task",
        },
        tuple(entry.note(version) for entry in (*_REGISTER, *_IMAGENET)),
        others if side == 32 else (),
    )


def _cifar(version: Version) -> Protocol:
    return Protocol(
        f"smart-init-cifar10-{version}",
        "starts of a MobileNet v1 on CIFAR-10",
        PAPER,
        {
            **_words(version, "fractions=(0.01,0.1)"),
            "task": "cifar10",
            "seeds": "40",
            "epochs": 100.0,
            "batch-size": 32,
            "decay": 0.925,
            "augment": ("flip", "crop"),
            "evaluations": 100,
            "test-normalization": "imagenet" if version == "published" else "same",
        },
        tuple(entry.note(version) for entry in (*_REGISTER, *_CIFAR)),
    )


def protocols() -> list[Protocol]:
    """List the protocols of this paper."""
    return [_imagenet(side, version) for side in _EPOCHS for version in VERSIONS] + [_cifar(v) for v in VERSIONS]
