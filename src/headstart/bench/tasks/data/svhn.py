"""SVHN's cropped digits: MATLAB files, read through scipy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from headstart.bench.tasks.data import files
from headstart.bench.tasks.data.cache import Writer
from headstart.bench.tasks.data.unpickle import array
from headstart.errors import DataError


def layouts(extra: bool = False) -> list[list[str]]:
    """Return the ways to store the set, each with its paths from the root."""
    names = [f"{part}_32x32.mat" for part in ("train", "test", *(["extra"] if extra else []))]
    return [[f"svhn/{name}" for name in names], names]


def convert(root: Path, paths: list[str], writer: Writer) -> None:
    """Read the files and write them as arrays; the label 10 is the digit 0; ``extra`` joins ``train``.

    Raises:
        DataError: If one is not the published file.
    """
    from scipy.io import loadmat

    parts = {}
    for name in paths:
        path = files.place(root, name)
        content = files.checked_bytes(path, f"svhn/{path.name}")
        try:
            found = loadmat(io.BytesIO(content), variable_names=["X", "y"])
            pixels, labels = array(found["X"], "images", path), array(found["y"].ravel(), "labels", path)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"'{path}' is not SVHN's MATLAB file: {type(error).__name__}: {error}.") from error
        if pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or pixels.shape[3] != len(labels):
            raise DataError(f"'{path}': {len(labels)} labels for images of shape {pixels.shape}.")
        if len(labels) == 0 or labels.min() < 1 or labels.max() > 10:
            raise DataError(f"'{path}': labels are not between 1 and 10.")
        parts[path.name.partition("_")[0]] = pixels.transpose(3, 2, 0, 1), labels % 10
    images, labels = parts["train"]
    if "extra" in parts:
        images, labels = (np.concatenate(pair) for pair in zip(parts["train"], parts["extra"], strict=True))
    writer.save("train-images", images)
    writer.save("train-labels", labels)
    writer.save("test-images", parts["test"][0])
    writer.save("test-labels", parts["test"][1])
