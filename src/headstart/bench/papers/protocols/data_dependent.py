"""The comparison of data-dependent initializations: CaffeNet, SGD, on a task of the user's."""

from __future__ import annotations

from typing import Any

from headstart.bench.papers.protocols.base import VERSIONS, Entry, Protocol, Version

PAPER = "Krähenbühl, Doersch, Donahue and Darrell 2016, Data-dependent Initializations of CNNs"
_PUBLISHED = ("gaussian=within-layer:paper+balance:paper", "k-means=within-layer:paper,fill=kmeans+balance:paper")
_CORRECTED = ("gaussian=within-layer+balance", "k-means=within-layer:fill=kmeans+balance", "kaiming", "lsuv")
_REGISTER = (
    Entry.always(
        "differs",
        "Classification of VOC 2007 is 20 yes-or-no questions per image, judged by mean average precision.",
        "headstart's tasks have one class per image and are judged by accuracy: say your own with --task.",
    ),
    Entry.always(
        "differs",
        "Images were scaled by 0.5 to 2 at random, mirrored and cut; the mean pixel was subtracted.",
        "Mirrored and shifted, and normalized by ImageNet's means and deviations.",
    ),
    Entry(
        "One run per number.",
        ("reproduced", "One seed, from which nothing can be concluded."),
        ("corrected", "Ten seeds, with controls."),
    ),
    Entry(
        "Calibrated starts were compared with pre-trained networks that were not calibrated; two of three win by 6 to "
        "9 points once they are.",
        ("left out", "Pre-trained networks are no starts here."),
        ("left out", "Pre-trained networks are no starts here; LSUV and He's start are calibrated references."),
    ),
    Entry.always(
        "differs",
        "The exponent of the rescaling between layers is printed with the wrong sign, with which rates drift apart.",
        "'balance' takes the sign of the authors' code, with which the numbers were made.",
    ),
    Entry.always(
        "left out",
        "A port to Torch forgets factors that it has to undo, so that the network computes something else.",
        "'balance' keeps the function, and is tested for it.",
    ),
    Entry.always(
        "left out",
        "Dropout was active while layers were measured.",
        "headstart's within-layer normalization measures without it, so that units are not scaled by chance.",
    ),
)


def _words(version: Version) -> dict[str, Any]:
    published = version == "published"
    return {
        "model": "headstart:caffenet",
        "arms": _PUBLISHED if published else _CORRECTED,
        "seeds": "1" if published else "10",
        "controls": not published,
        "steps": 80_000,
        "batch-size": 16,
        "lr": 1e-3,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight-decay": 1e-6,
        "schedule": "step",
        "decay": 0.5,
        "milestones": tuple(float(step) for step in range(10_000, 80_000, 10_000)),
        "clip": 10.0,
        "augment": ("flip", "crop"),
        "normalization": "imagenet",
        "evaluations": 80,
        "calibration": 160,
        "precision": "float32",
    }


def protocols() -> list[Protocol]:
    """List the protocols of this paper."""
    return [
        Protocol(
            f"data-dependent-{version}",
            "starts of CaffeNet that are normalized on the data, on a task of yours",
            PAPER,
            _words(version),
            tuple(entry.note(version) for entry in _REGISTER),
            (("--task folder:PATH:size=227", "a folder of images, scaled to what CaffeNet was made for"),),
            needs=("task",),
        )
        for version in VERSIONS
    ]
