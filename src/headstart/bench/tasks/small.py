"""Small tasks of every kind, from data of scikit-learn or generated data: nothing is downloaded."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart import rng
from headstart.bench.specs import options as reader
from headstart.bench.tasks.arrays import from_arrays
from headstart.bench.tasks.task import Task
from headstart.engine import specs
from headstart.errors import DataError, needs_extra, unknown

Made = tuple[Any, Any]


@dataclass(frozen=True)
class Small:
    """A small task by name.

    Args:
        about: A line on what it is.
        make: Takes the options and returns inputs and targets.
        defaults: The options and their values.
        positional: Options for values without a key.
    """

    about: str
    make: Callable[..., Made]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positional: tuple[str, ...] = ()


def load(spec: str, split_seed: int) -> Task:
    """Load a small task; see `headstart.bench.load_task`.

    Example:
        >>> print(load("breast-cancer", 0).describe())
        breast-cancer: 2 classes, 30 features, 399 train / 57 validation / 113 test
    """
    name, rest = specs.head(spec)
    entry = SMALL[name]
    chosen = reader.read(rest, dict(entry.defaults), name, entry.positional)
    inputs, targets = entry.make(**{key.replace("-", "_"): value for key, value in chosen.items()})
    made = from_arrays(spec, inputs, targets, split_seed=split_seed)
    return made.as_signals() if name == "series" else made


def _digits() -> Made:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images * (255 / 16)).astype(np.uint8), found.target


def _digit_pairs(samples: int) -> Made:
    """Two digits side by side; the labels say which of the ten are there."""
    images, digits = _digits()
    draw = rng.generator(0, "digit-pairs")
    left, right = (torch.randint(len(images), (samples,), generator=draw).numpy() for _ in range(2))
    labels = np.zeros((samples, 10), np.float32)
    rows = np.arange(samples)
    labels[rows, digits[left]] = 1
    labels[rows, digits[right]] = 1
    return np.concatenate([images[left], images[right]], 2), labels


def _breast_cancer() -> Made:
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)


def _diabetes() -> Made:
    from sklearn.datasets import load_diabetes

    inputs, targets = load_diabetes(return_X_y=True)
    return inputs, (targets - targets.mean()) / targets.std()


def _text(length: int) -> Made:
    """English prose, letter by letter: the descriptions of scikit-learn's data sets."""
    folder = resources.files("sklearn.datasets.descr")
    files = sorted((each for each in folder.iterdir() if each.is_file()), key=lambda each: each.name)
    texts = [each.read_text(encoding="utf-8") for each in files]
    letters = np.frombuffer("\n".join(texts).encode("ascii", "replace"), np.uint8)
    _, tokens = np.unique(letters, return_inverse=True)
    count = (len(tokens) - 1) // length
    shape = (count, length)
    return (tokens[: count * length].reshape(shape), tokens[1 : count * length + 1].reshape(shape))


def _shapes(samples: int, size: int) -> Made:
    return _ellipsoids(samples, size, 2)


def _volumes(samples: int, size: int) -> Made:
    return _ellipsoids(samples, size, 3)


def _ellipsoids(samples: int, size: int, dims: int) -> Made:
    """One bright and one textured ellipsoid in noise; the classes are background and the two."""
    draw = rng.generator(0, "ellipsoids", str(dims), str(size))
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size)] * dims, indexing="ij")
    grid = torch.stack(axes)
    side = (1,) * dims
    images = 0.6 * torch.randn(samples, *(size,) * dims, generator=draw)
    labels = torch.zeros(samples, *(size,) * dims, dtype=torch.long)
    waves = torch.sin(12 * grid.sum(0))
    for number, texture in ((1, torch.ones_like(waves)), (2, 1.4 * waves)):
        centres = torch.rand(samples, dims, generator=draw) * 1.2 - 0.6
        radii = torch.rand(samples, dims, generator=draw) * 0.25 + 0.2
        shifted = (grid[None] - centres.view(samples, dims, *side)) / radii.view(samples, dims, *side)
        inside = shifted.square().sum(1) < 1
        images = images + inside * texture
        labels = torch.where(inside, number, labels)
    return images[:, None].numpy(), labels.numpy()


def _series(name: str) -> Made:
    """A data set that comes with aeon, such as ArrowHead (outlines) or BasicMotions (a watch's sensors)."""
    with needs_extra(package="aeon", extra="series", what=f"The task 'series:{name}'"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aeon import datasets
    folder = Path(datasets.__file__).parent / "data"
    shipped = sorted(
        path.parent.name for path in folder.glob("*/*_TRAIN.ts") if path.stem == f"{path.parent.name}_TRAIN"
    )
    if name not in shipped:  # aeon would download it
        raise unknown("time series that aeon ships:", name, shipped)
    try:
        # Of series that differ in length, or lack values, aeon ships a mended form, too.
        inputs, targets = datasets.load_classification(name, load_equal_length=True, load_no_missing=True)
        return np.asarray(inputs, np.float32), np.unique(targets, return_inverse=True)[1]
    except Exception as error:
        raise DataError(f"aeon's data set '{name}' cannot be used: {' '.join(str(error).split())}") from error


_SIZES = {"samples": 2000, "size": 32}
SMALL: dict[str, Small] = {
    "digits": Small("1,797 digits of 8×8 pixels, 10 classes (scikit-learn)", _digits),
    "digit-pairs": Small(
        "two digits side by side; which of the ten are there (several labels)", _digit_pairs, {"samples": 3000}
    ),
    "breast-cancer": Small("30 features of 569 tumours, 2 classes (scikit-learn)", _breast_cancer),
    "diabetes": Small("10 features of 442 patients, one value to predict (scikit-learn)", _diabetes),
    "text": Small("English prose; the next letter (scikit-learn's descriptions)", _text, {"length": 64}),
    "shapes": Small("two ellipses in noise; which pixel is of which (generated)", _shapes, _SIZES),
    "volumes": Small(
        "two ellipsoids in a noisy volume; which voxel is of which (generated)",
        _volumes,
        {"samples": 400, "size": 24},
    ),
    "series": Small(
        "time series that aeon ships, such as series:BasicMotions", _series, {"name": "BasicMotions"}, ("name",)
    ),
}
