"""Image files in folders: any folder with a sub-folder per class, Tiny ImageNet, ImageNetV2."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headstart.bench.tasks.data import files, pictures
from headstart.bench.tasks.data.cache import Array, Writer
from headstart.errors import DataError

Labelled = dict[str, tuple[list[Path], Array]]
_PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def any_folder(folder: Path) -> tuple[Labelled, list[str]]:
    """List a folder with a sub-folder per class, or with ``train`` and ``val`` or ``test`` that hold those.

    Returns:
        Files and labels of ``train`` and, where the folder has them, ``validation`` and ``test``; and the
        names of the classes. A ``val`` without a ``test`` is the test set.

    Raises:
        DataError: The folder has another content.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder '{folder}'.", remedy="folder:PATH counts from the working directory.")
    inner = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    parts: dict[str, Path] = {}
    if "train" in inner and set(inner) <= set(_PARTS):
        for name, path in inner.items():
            if _PARTS[name] in parts:
                raise DataError(f"'{folder}' has two folders for {_PARTS[name]}.")
            parts[_PARTS[name]] = path
        if "validation" in parts and "test" not in parts:
            parts["test"] = parts.pop("validation")
    else:
        parts["train"] = folder
    listed = {part: _by_class(folder, path) for part, path in parts.items()}
    names = sorted(listed["train"])
    found: Labelled = {}
    for part, classes in listed.items():
        for name in classes:
            if name not in listed["train"]:
                raise DataError(f"'{parts[part] / name}' is a class that the training images do not have.")
        labels = np.repeat([names.index(name) for name in sorted(classes)], [len(classes[c]) for c in sorted(classes)])
        found[part] = [path for name in sorted(classes) for path in classes[name]], labels.astype(np.int64)
    return found, names


def _by_class(root: Path, folder: Path) -> dict[str, list[Path]]:
    if folder.is_symlink() and folder != root:
        raise DataError(f"'{folder}' is a link to a folder.", remedy="Put the folder itself there.")
    classes: dict[str, list[Path]] = {}
    for path in pictures.listed(root, folder):
        classes.setdefault(path.relative_to(folder).parts[0], []).append(path)
    loose = [name for name in classes if (folder / name).is_file()]
    empty = [p.name for p in folder.iterdir() if p.is_dir() and p.name not in classes and not p.name.startswith(".")]
    if loose or empty or len(classes) < 2:
        what = (
            f"'{loose[0]}' is in no class"
            if loose
            else f"'{sorted(empty)[0]}' holds no image"
            if empty
            else f"it has {len(classes)} class(es)"
        )
        raise DataError(
            f"'{folder}' is not a folder of images by class: {what}.",
            remedy="Put the images of each class into its own sub-folder, all directly in the folder, or in "
            f"its folders train and val or test ({', '.join(pictures.SUFFIXES)}).",
        )
    return classes


def write(writer: Writer, parts: Labelled, size: int | None, what: str, *, cut: bool = True) -> None:
    """Decode all files and write them as arrays.

    Raises:
        DataError: A file is damaged, or sizes differ and no size is set.
    """
    looked = [pictures.looked_at(paths) for paths, _ in parts.values()]
    mode = "L" if all(mode == "L" for mode, _ in looked) else "RGB"
    sizes = set().union(*(sizes for _, sizes in looked))
    if size is None and len(sizes) > 1:
        some = ", ".join(f"{width}×{height}" for width, height in sorted(sizes)[:4])
        raise DataError(
            f"The images of '{what}' have different sizes: {some}{' …' * (len(sizes) > 4)}.",
            remedy="Choose one, for example: add size=64 after a colon.",
        )
    for part, (paths, labels) in parts.items():
        pieces = pictures.pixels(paths, mode, size, cut=cut, resample="bicubic" if cut else "box")
        writer.save(f"{part}-images", pieces, len(paths))
        writer.save(f"{part}-labels", labels)


TINY = "tiny-imagenet-200"
TINY_LAYOUT = [f"{TINY}/wnids.txt", f"{TINY}/train", f"{TINY}/val/val_annotations.txt", f"{TINY}/val/images"]


def tiny_imagenet(root: Path) -> tuple[Labelled, list[str]]:
    """List Tiny ImageNet in its original folders; its validation images are the test set.

    Raises:
        DataError: A class has no images, or the annotations name missing files or classes.
    """
    folder = root / TINY
    names = sorted(files.inside(folder, folder / "wnids.txt").read_text().split())
    if len(set(names)) != len(names) or len(names) < 2:
        raise DataError(f"'{folder / 'wnids.txt'}' does not list classes.")
    label = {name: i for i, name in enumerate(names)}
    train: list[Path] = []
    counts = []
    available = {path.name for path in (folder / "train").iterdir()}
    for name in names:
        found = pictures.listed(folder, folder / "train" / name) if name in available else []
        if not found:
            raise DataError(
                f"'{folder / 'train' / name}' holds no image.", remedy="Unpack tiny-imagenet-200.zip again."
            )
        train += found
        counts.append(len(found))
    rows = [
        line.split() for line in files.inside(folder, folder / "val" / "val_annotations.txt").read_text().splitlines()
    ]
    test, labels = [], []
    for row in rows:
        if len(row) < 2 or row[1] not in label or Path(row[0]).name != row[0]:
            raise DataError(f"'val_annotations.txt' has a line that names no image and class: {' '.join(row)!r}.")
        test.append(files.inside(folder, folder / "val" / "images" / row[0]))
        labels.append(label[row[1]])
    parts = {
        "train": (train, np.repeat(np.arange(len(names)), counts)),
        "test": (test, np.array(labels, np.int64)),
    }
    return parts, names


V2 = {
    "imagenetv2": "imagenetv2-matched-frequency-format-val",
    "imagenetv2-threshold0.7": "imagenetv2-threshold0.7-format-val",
    "imagenetv2-top-images": "imagenetv2-top-images-format-val",
}


def imagenet_v2(root: Path, name: str) -> tuple[list[Path], Array]:
    """List one of ImageNetV2's test sets: folders ``0`` to ``999`` in the order of sorted WordNet numbers.

    Raises:
        DataError: If a folder is missing or empty, or has another name.
    """
    folder = root / V2[name]
    expected = {str(i) for i in range(1000)}
    inner = {path.name for path in folder.iterdir() if path.is_dir()}
    if inner != expected:
        wrong = sorted(expected - inner, key=int) or sorted(inner - expected)
        raise DataError(f"'{folder}' does not hold the folders 0 to 999: see '{wrong[0]}'.")
    paths: list[Path] = []
    labels = []
    for place in range(1000):
        found = pictures.listed(folder, folder / str(place))
        if not found:
            raise DataError(f"'{folder / str(place)}' holds no image.")
        paths += found
        labels += [place] * len(found)
    return paths, np.array(labels, np.int64)
