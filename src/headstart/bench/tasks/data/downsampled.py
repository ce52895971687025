"""Down-sampled ImageNet 16, 32 and 64: ten training batches and one of validation, as npz or pickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headstart.bench.tasks.data import files
from headstart.bench.tasks.data.cache import Array, Writer
from headstart.bench.tasks.data.unpickle import array, plain
from headstart.errors import DataError

TRAIN = [f"train_data_batch_{i}" for i in range(1, 11)]
VAL = "val_data"
CLASS_LIST = "map_clsloc.txt"


def layouts(side: int) -> list[list[str]]:
    """Return the ways to store the set, each with its paths from the root.

    Pickled batches of 32 and 64 have no published checksum, so only their npz files are read.
    """
    flat = [f"imagenet{side}/{name}" for name in (*TRAIN, VAL)]
    apart = [*(f"Imagenet{side}_train_npz/{name}.npz" for name in TRAIN), f"Imagenet{side}_val_npz/{VAL}.npz"]
    return [[f"{name}.npz" for name in flat], apart, *([flat] if side == 16 else [])]


def convert(root: Path, side: int, paths: list[str], writer: Writer) -> None:
    """Read the batches one after the other and write them as arrays; labels then start at 0.

    Raises:
        DataError: If a file is damaged, does not fit, or is a pickle that is not the published file.
    """
    for part, names in (("train", paths[:-1]), ("test", paths[-1:])):
        labels = [read(files.place(root, name), side, images=False)[1] for name in names]
        writer.save(f"{part}-labels", np.concatenate(labels))
        writer.save(f"{part}-images", _images(root, side, names), sum(map(len, labels)))


def _images(root: Path, side: int, names: list[str]) -> Iterator[Array]:
    for name in names:
        images, labels = read(root / name, side)
        if images is None or len(images) != len(labels):
            raise DataError(f"'{root / name}': its images and labels differ in number.")
        yield images


def read(path: Path, side: int, images: bool = True) -> tuple[Array | None, Array]:
    """Read one batch.

    Args:
        path: An ``.npz`` file, or a pickle with a published checksum.
        side: Width and height of an image.
        images: False to read the labels alone.

    Returns:
        ``(N, 3, side, side)`` images and labels from 0.

    Raises:
        DataError: If it is refused.
    """
    if path.suffix == ".npz":
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                values = {key: archive[key] for key in (("data", "labels") if images else ("labels",))}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"'{path}' is not a readable batch: {type(error).__name__}: {error}.",
                remedy="It is damaged, incomplete or another file; fetch it again.",
            ) from error
    else:
        values = plain(files.checked_bytes(path, f"imagenet{side}/{path.name}"), path)
        if not {"data", "labels"} <= set(values):
            raise DataError(f"'{path}' lacks data or labels.")
    labels = array(values["labels"], "labels", path)
    if len(labels) == 0 or labels.min() < 1 or labels.max() > 1000:
        raise DataError(f"'{path}': labels are not between 1 and 1000.")
    if not images:
        return None, labels - 1
    pixels = array(values["data"], "images", path)
    if pixels.ndim != 2 or pixels.shape[1] != 3 * side * side:
        raise DataError(f"'{path}': its images have shape {pixels.shape}, not (N, {3 * side * side}).")
    return pixels.reshape(-1, 3, side, side), labels - 1


def label_of_sorted_class(path: Path) -> Array:
    """Read which label each class has, classes in the order of their WordNet numbers.

    Down-sampled ImageNet numbers classes in an order of its own, which ``map_clsloc.txt`` lists; ImageNetV2 and
    most other code number them by their sorted WordNet numbers.

    Raises:
        DataError: If the file does not list 1000 classes.
    """
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    good = all(len(row) >= 2 and row[1].isdigit() for row in rows)
    numbers = {row[0]: int(row[1]) - 1 for row in rows} if good else {}
    if sorted(numbers.values()) != list(range(1000)):
        raise DataError(f"'{path}' does not list 1000 classes as 'n01440764 449 tench'.")
    return np.array([numbers[wnid] for wnid in sorted(numbers)])
