"""Filter clustering's comparisons: ResNet-18 on pairs of CIFAR-100's superclasses and on Tiny ImageNet."""

from __future__ import annotations

from typing import Any

from headstart.bench.papers.protocols.base import VERSIONS, Entry, Protocol, Version

PAPER = "Ulm, Bayer, Diaz-Bone and Jüni, Learning an Informed CNN Initialization for Image Classification"
_BANK = "bank=cifar100-pairs-resnet18"
_CLUSTERS = (f"clusters=filter-clusters:draw=slices,{_BANK}", f"clusters-paper=filter-clusters:paper,{_BANK}")
_REFERENCES = ("gabor", "gabor:paper", "kaiming", "orthogonal", "lsuv", "whitening")
_REGISTER = (
    Entry(
        "The paper halves the learning rate when validation accuracy has not risen for five epochs. Its scheduler got "
        "the training loss, in the wrong direction, and the factor 0.2: the rate always fell after epochs 7 and 13.",
        ("reproduced", "0.01 for epochs 1 to 7, 0.002 for 8 to 13, 0.0004 for 14 and 15."),
        ("corrected", "As the paper says it: halved when validation accuracy has not risen for five epochs."),
    ),
    Entry(
        "Accuracy on the test images is called validation, and the number of clusters, of models and of layers was "
        "chosen by it.",
        ("reproduced", "The task validates on its test images."),
        ("corrected", "A tenth of the training images validates; each trial looks at the test images once."),
    ),
    Entry(
        "Five replicates, and no test.",
        ("reproduced", "Five seeds, with which no exact test can reach 0.05."),
        ("corrected", "Ten seeds, with controls of the same norms, without brightness and of equal steps."),
    ),
    Entry(
        "Centroids are written as they are, shorter than the slices that they stand for. Before batch norm a shorter "
        "filter learns faster, and no random filters of the same norms were tried.",
        ("reproduced", "'filter-clusters:paper' writes them as they are."),
        (
            "corrected",
            "The arm 'clusters' has the layer's norm, 'clusters-paper' the published one, and random filters of the "
            "same norms stand beside both.",
        ),
    ),
    Entry.always(
        "differs",
        "1 to 50 clusters per layer of 2 to 20 ResNet-18s, trained on superclasses 0 to 9 of CIFAR-100.",
        "10 per layer of six such networks, trained on five disjoint pairs of these superclasses and a sixth: the bank "
        "'cifar100-pairs-resnet18'. Another one: --arms filter-clusters:paper,bank=FILE.",
    ),
    Entry.always(
        "left out",
        "'Fourier' clusters are those of filters made symmetric, because the real part was taken for the magnitude.",
        "It is a property of a bank: 'headstart bank build --distance even' makes the published one, 'magnitude' the "
        "one that the paper describes.",
    ),
    Entry.always(
        "reproduced",
        "The 2 to 45 trainings of source models are not counted.",
        "Nor are those of the bank's: a bank is made once for many tasks.",
    ),
)
_PAIRS = (
    Entry.always(
        "left out",
        "One model object went through all ten pairs without a reset, so that only the first pair measures a start.",
        "Each trial builds its own model: a sequence of ten tasks answers another question.",
    ),
    Entry.always(
        "left out",
        "The random start was trained for 25 epochs and cut at 15.",
        "All arms train for 15 epochs: unequal budgets compare budgets.",
    ),
    Entry(
        "The published Gabor filters are half a pixel off centre, not normalized (12 times the default norm), and the "
        "same in all replicates.",
        (
            "reproduced",
            "Off centre and not normalized; but drawn anew for each seed, or their variance would be hidden.",
        ),
        ("corrected", "The arm 'gabor' is centred and has the layer's norm; 'gabor:paper' stands beside it."),
    ),
    Entry(
        "The ten pairs overlap: superclasses 10 and 18 occur in five of them each.",
        ("reproduced", "published=0 is the first of them; the other nine by --task."),
        ("corrected", "10,11 is the first of five pairs that share no superclass; the other four by --task."),
    ),
    Entry.always(
        "differs",
        "Images were normalized by the statistics of all of CIFAR-100.",
        "By those of the training images of the pair: no others are known to a task.",
    ),
)
_TINY = (
    Entry.always(
        "left out",
        "The code as published gives the clustered and the pre-trained model 10 outputs for 200 classes.",
        "Models are built for the task's classes.",
    ),
)


def _words(version: Version) -> dict[str, Any]:
    published = version == "published"
    schedule = (
        {"schedule": "step", "decay": 0.2, "milestones": (7.0, 13.0)}
        if published
        else {"schedule": "plateau", "decay": 0.5, "patience": 5}
    )
    return {
        "model": "headstart:resnet18",
        "seeds": "5" if published else "10",
        "controls": not published,
        "epochs": 15.0,
        "batch-size": 128,
        "lr": 0.01,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight-decay": 1e-4,
        **schedule,
        "evaluations": 15,
        "precision": "float32",
    }


def _pairs(version: Version) -> Protocol:
    published = version == "published"
    name = f"clusters-pairs-{version}"
    task = "published=0,validate-on-test" if published else "10,11"
    more = "cifar100-pairs:published=9,validate-on-test" if published else "cifar100-pairs:18,19"
    return Protocol(
        name,
        "starts of a ResNet-18 on ten classes of CIFAR-100, two of its superclasses",
        PAPER,
        {
            **_words(version),
            "task": f"cifar100-pairs:{task}",
            "arms": (_CLUSTERS[1], "gabor:paper") if published else (*_CLUSTERS, *_REFERENCES),
            "augment": ("flip", "rotate"),
            "rotation": 15.0,
        },
        tuple(entry.note(version) for entry in (*_REGISTER, *_PAIRS)),
        (
            (f"--task {more} --out runs/{name}-9", "another pair, into a folder of its own"),
            (
                f"--arms {_CLUSTERS[1]},layers=6",
                "clusters in the first 6 convolutions (the paper: 1, 2, 6, 10, 17)",
            ),
            (
                "--arms filter-clusters:paper,bank=FILE",
                "clusters of source models of your own: 'headstart bank build MODELS --clusters 10 --out FILE'",
            ),
            ("--arms gabor:paper,layers=6", "Gabor filters in the first 6 convolutions (the paper: 1, 2, 6, 10, 17)"),
        ),
    )


def _tiny(version: Version) -> Protocol:
    published = version == "published"
    return Protocol(
        f"clusters-tiny-imagenet-{version}",
        "starts of a ResNet-18 on Tiny ImageNet",
        PAPER,
        {
            **_words(version),
            "task": "tiny-imagenet:validate-on-test" if published else "tiny-imagenet",
            "arms": _CLUSTERS[1:] if published else (*_CLUSTERS, *_REFERENCES),
            "normalization": "imagenet",
        },
        tuple(entry.note(version) for entry in (*_REGISTER, *_TINY)),
    )


def protocols() -> list[Protocol]:
    """List the protocols of this paper."""
    return [make(version) for make in (_pairs, _tiny) for version in VERSIONS]
