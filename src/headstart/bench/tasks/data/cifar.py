"""CIFAR-10 and CIFAR-100: the pickled batches, in their folder or their archive, or plain arrays."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np

from headstart.bench.tasks.data import files
from headstart.bench.tasks.data.cache import Array, Writer
from headstart.bench.tasks.data.unpickle import array, plain
from headstart.errors import DataError

BATCHES = {
    "cifar10": ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch"),
    "cifar100": ("cifar-100-python", ["train"], "test"),
}
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
CLASSES = {"cifar10": 10, "cifar100": 100}


def layouts(name: str) -> list[list[str]]:
    """Return the ways to store the set, each with its paths from the root."""
    folder, train, test = BATCHES[name]
    kinds = ["images", "labels", *(["coarse"] if name == "cifar100" else [])]
    return [
        [f"{folder}/{batch}" for batch in (*train, test)],
        [ARCHIVES[name]],
        [f"{name}/{part}-{kind}.npy" for part in ("train", "test") for kind in kinds],
    ]


def convert(root: Path, name: str, paths: list[str], writer: Writer) -> None:
    """Read one of the layouts and write it as arrays.

    Raises:
        DataError: If a file is not the published one, or its arrays do not fit.
    """
    parts = _from_arrays(root, name, writer) if paths[0].endswith(".npy") else _from_batches(root, name, paths)
    for part, arrays in parts.items():
        images, fine, coarse = arrays["images"], arrays["labels"], arrays.get("coarse")
        where = f"'{root / paths[0]}' ({part})"
        if images.shape[1:] != (3, 32, 32) or len(images) != len(fine):
            raise DataError(f"{where}: {len(fine)} labels for images of shape {images.shape}.")
        if len(fine) == 0 or fine.min() < 0 or fine.max() >= CLASSES[name]:
            raise DataError(f"{where}: labels are not between 0 and {CLASSES[name] - 1}.")
        if coarse is not None:
            _check_coarse(fine, coarse, where)
            writer.save(f"{part}-coarse", coarse)
        writer.save(f"{part}-images", images)
        writer.save(f"{part}-labels", fine)


def _check_coarse(fine: Array, coarse: Array, where: str) -> None:
    """Refuse superclasses that do not follow from the classes."""
    if len(coarse) != len(fine) or coarse.min() < 0 or coarse.max() > 19:
        raise DataError(f"{where}: coarse labels do not fit the fine ones.")
    if len(set(zip(fine.tolist(), coarse.tolist(), strict=True))) != len(np.unique(fine)):
        raise DataError(f"{where}: a class lies in two superclasses.")


def _from_batches(root: Path, name: str, paths: list[str]) -> dict[str, dict[str, Array]]:
    folder, train, test = BATCHES[name]
    contents = _unpacked(root, name) if paths == [ARCHIVES[name]] else {}
    label = "fine_labels" if name == "cifar100" else "labels"
    parts = {}
    for part, batches in (("train", train), ("test", [test])):
        found: dict[str, list[Array]] = {"images": [], "labels": [], "coarse": []}
        for batch in batches:
            published = f"{folder}/{batch}"
            if published in contents:
                path = root / ARCHIVES[name] / published
                files.check(path, published, contents[published])
                values = plain(contents[published], path)
            else:
                path = files.place(root, published)
                values = plain(files.checked_bytes(path, published), path)
            lacking = {"data", label, *(["coarse_labels"] if name == "cifar100" else [])} - set(values)
            if lacking:
                raise DataError(f"'{path}' lacks {', '.join(sorted(lacking))}.")
            images = array(values["data"], "images", path)
            if images.ndim != 2 or images.shape[1] != 3072:
                raise DataError(f"'{path}': its images have shape {images.shape}, not (N, 3072).")
            found["images"].append(images.reshape(-1, 3, 32, 32))
            found["labels"].append(array(values[label], "labels", path))
            if name == "cifar100":
                found["coarse"].append(array(values["coarse_labels"], "labels", path))
        parts[part] = {kind: np.concatenate(arrays) for kind, arrays in found.items() if arrays}
    return parts


def _unpacked(root: Path, name: str) -> dict[str, bytes]:
    """Read the batches from the archive, without writing anything."""
    path = files.place(root, ARCHIVES[name])
    folder, train, test = BATCHES[name]
    wanted = {f"{folder}/{batch}" for batch in (*train, test)}
    content = files.checked_bytes(path, ARCHIVES[name])
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                if place.is_absolute() or ".." in place.parts or not (member.isfile() or member.isdir()):
                    raise DataError(f"'{path}' holds '{member.name}', a link or a path out of its folder.")
                if str(place) in wanted and member.isfile():
                    file = archive.extractfile(member)
                    assert file is not None
                    found[str(place)] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"'{path}' cannot be unpacked: {error}.") from error
    if wanted - set(found):
        raise DataError(f"'{path}' lacks {', '.join(sorted(wanted - set(found)))}.")
    return found


def _from_arrays(root: Path, name: str, writer: Writer) -> dict[str, dict[str, Array]]:
    parts: dict[str, dict[str, Array]] = {"train": {}, "test": {}}
    for relative in layouts(name)[2]:
        path = files.place(root, relative)
        part, _, kind = path.stem.partition("-")
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"'{path}' is not a readable .npy array: {error}.") from error
        values = array(found, "images" if kind == "images" else "labels", path)
        parts[part][kind] = values.transpose(0, 3, 1, 2) if kind == "images" and values.ndim == 4 else values
    names = f"{name}/classes.json"
    if (root / names).is_file():
        try:
            read = json.loads(files.place(root, names).read_text())
            writer.names.update({str(key): [str(v) for v in values] for key, values in read.items()})
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"'{root / names}' does not list class names: {error}.") from error
    return parts
