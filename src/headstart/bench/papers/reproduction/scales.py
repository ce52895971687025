"""The settings of each scale, with which a reproduction of a paper takes minutes, hours or days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headstart.bench.papers.protocols import find
from headstart.bench.trials.arms import parse_arm

SCALES = {
    "smoke": "It checks in minutes that everything runs. Its numbers say nothing about the paper: it uses other"
    " images, a small network, and few steps and seeds.",
    "small": "It takes a few hours on two cores: fewer training images, shorter training, some smaller networks, at"
    " least eight seeds. It shows the effect of a start early in training, not at the end of long training.",
    "full": "The protocols as they are.",
}


@dataclass(frozen=True)
class Part:
    """One protocol at a scale.

    Args:
        protocol: Without its version.
        words: The settings of both versions.
        published: Further settings of the published version.
        corrected: Further settings of the corrected version.
        why: Explanations of the settings, in sentences.
        optional: Whether it is left out, with a remark, if the files of its task are missing.
    """

    protocol: str
    words: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    corrected: Mapping[str, Any] = field(default_factory=dict)
    why: tuple[str, ...] = ()
    optional: bool = False


def _arms(protocol: str, *labels: str) -> tuple[str, ...]:
    """Select the protocol's arms with these labels."""
    return tuple(arm for arm in find(protocol).words["arms"] if parse_arm(arm).label in labels)


def _digits(train: int) -> str:
    return f"mnist5k:train={train},validation=200,test=500"


_DIGITS = (
    "Digits of MNIST, which need no download, stand for the paper's images, and are validated on apart from the test."
)
_SMOKE = {"seeds": "2", "evaluations": 2, "calibration": 64, "memory-format": "contiguous"}
_EARLY = "What a start gains early may be gone when training is long."

SMOKE: dict[str, tuple[Part, ...]] = {
    "pre-warm": (
        Part("prewarm-mnist", {**_SMOKE, "task": _digits(1000), "steps": 20, "batch-size": 64}, why=(_DIGITS,)),
    ),
    "filter-clusters": (
        Part(
            "clusters-pairs",
            {**_SMOKE, "task": _digits(320), "model": "headstart:cifar-resnet20", "epochs": 1.0, "batch-size": 32},
            published={"milestones": (0.5, 0.9)},
            why=(_DIGITS, "A ResNet-20 gets clusters of a ResNet-18's filters, by kernel size and depth."),
        ),
    ),
    "smart-init": (
        Part(
            "smart-init-cifar10",
            {
                **_SMOKE,
                "task": _digits(480),
                "model": "headstart:mobilenet-v1:width=8,stride=1",
                "epochs": 2.0,
                "batch-size": 16,
            },
            published={
                "arms": ("smart-init=smart-init:paper,fractions=(0.01,0.1),epochs=2",),
                "test-normalization": "same",
            },
            corrected={
                "arms": (
                    "smart-init=smart-init:fractions=(0.01,0.1),epochs=2",
                    "repeats=smart-init:repeated,epochs=1",
                    "warm-start=warm-start:epochs=1",
                    "shrink-perturb=shrink-perturb:epochs=1",
                    "kaiming",
                    "lsuv",
                )
            },
            why=(_DIGITS,),
        ),
    ),
    "data-dependent": (
        Part(
            "data-dependent",
            {
                **_SMOKE,
                "task": _digits(1000),
                "model": "headstart:plain-cnn:depth=8,width=8",
                "steps": 20,
                "milestones": (2.0, 5.0, 7.0, 10.0, 12.0, 15.0, 17.0),
                "normalization": "task",
            },
            why=(_DIGITS, "The network's default start is the framework's, not Caffe's Gaussian."),
        ),
    ),
}


def _pre_warm(data: str) -> Part:
    sizes = "train=10000,validation=1000,test=5000"
    return Part(
        f"prewarm-{data}",
        {"steps": 100, "evaluations": 4, "precision": "auto"},
        published={"task": f"{data}:validate-on-test,{sizes}"},
        corrected={"task": f"{data}:{sizes}", "seeds": "8"},
        why=(_EARLY,),
        optional=data in ("cifar10", "svhn"),
    )


SMALL: dict[str, tuple[Part, ...]] = {
    "pre-warm": tuple(map(_pre_warm, ("mnist", "fashion-mnist", "cifar100", "cifar10", "svhn"))),
    "filter-clusters": (
        Part(
            "clusters-pairs",
            {"seeds": "8", "epochs": 5.0, "evaluations": 5},
            published={"milestones": (2.3, 4.3)},
            corrected={
                "patience": 2,
                "arms": _arms("clusters-pairs-corrected", "clusters", "clusters-paper", "gabor", "gabor:paper"),
            },
            why=(_EARLY, "The rate falls after the same shares of the training as published."),
        ),
        Part(
            "clusters-tiny-imagenet",
            {"seeds": "8", "epochs": 3.0, "evaluations": 3},
            published={
                "milestones": (1.4, 2.6),
                "task": "tiny-imagenet:validate-on-test,size=32,train=10000,validation=1000,test=4000",
            },
            corrected={
                "patience": 1,
                "task": "tiny-imagenet:size=32,train=10000,validation=1000,test=4000",
                "arms": _arms("clusters-tiny-imagenet-corrected", "clusters", "clusters-paper"),
            },
            why=(_EARLY, "The rate falls after the same shares of the training as published."),
        ),
    ),
    "smart-init": (
        Part(
            "smart-init-cifar10",
            {
                "task": "cifar100:train=10000,validation=2000,test=5000",
                "model": "headstart:mobilenet-v1:width=8",
                "seeds": "8",
                "epochs": 8.0,
                "batch-size": 64,
                "evaluations": 8,
            },
            corrected={
                "arms": (
                    "smart-init=smart-init:fractions=(0.01,0.1)",
                    "repeats=smart-init:repeated,epochs=2",
                    "warm-start=warm-start:epochs=8",
                    "shrink-perturb=shrink-perturb:epochs=8",
                    "kaiming",
                    "lsuv",
                )
            },
            why=(
                "A fifth of CIFAR-100's training images stands for CIFAR-10 and for ImageNet, and a MobileNet of a "
                "quarter of the width for the whole one.",
                "Repeats and warm starts are shortened with the training that they precede: ten samples for a quarter "
                "of its steps, half of the data for half of them.",
            ),
        ),
    ),
    "data-dependent": (
        Part(
            "data-dependent",
            {
                "task": "cifar100:coarse,train=10000,validation=1000,test=5000",
                "model": "headstart:plain-cnn:depth=20,width=16",
                "seeds": "8",
                "steps": 4000,
                "milestones": tuple(float(step) for step in range(500, 4000, 500)),
                "evaluations": 8,
            },
            why=(
                "A plain network of 20 convolutions stands for CaffeNet, and its default start is the framework's, not "
                "Caffe's Gaussian; CIFAR-100's superclasses stand for VOC 2007.",
            ),
        ),
    ),
}
