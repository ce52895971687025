"""Images in two sides that share neither an image nor a class: one to develop on, one to judge with.

Each side packs what it needs into files of its own, small enough to be carried to another machine, and trains
from those alone. What the judging side holds is given out only to a run that is marked for it.
"""

from __future__ import annotations

import hashlib
import io
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart.bench.tasks import splits
from headstart.bench.tasks.data.catalogue import DATASETS, Parts, Request
from headstart.bench.tasks.loading import OWN
from headstart.engine import specs
from headstart.errors import DataError, HeadstartError

DEVELOPMENT, JUDGING, PAPERS = "development", "judging", "papers"
PARTS = ("train", "validation", "test")
LIMIT = 64 << 20  # bytes of the packs of a side
SEED = 0
SIDE = 32  # pixels of Tiny ImageNet's images here
AUGMENT = ("flip", "crop")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Source:
    """Some classes of a data set.

    Args:
        dataset: Its name in the benchmark.
        groups: The classes, or superclasses, that belong to it.
        coarse: Whether the groups are superclasses.
        sizes: Images to keep at most for training, validation and test.
        shares: What the official training images are parted into; two shares where the official test images test.
        augment: What may be done to its images: a mirrored digit is no digit.
    """

    dataset: str
    groups: range
    coarse: bool = False
    sizes: tuple[int, int, int] = (5000, 1000, 5000)
    shares: tuple[float, ...] = (0.6, 0.15, 0.25)
    augment: tuple[str, ...] = AUGMENT

    @property
    def test(self) -> str:
        """Where its test images come from."""
        return "official test images" if len(self.shares) == 2 else "a part of the training images"

    @property
    def what(self) -> str:
        """Say in a few words what it holds."""
        if len(self.groups) == DATASETS[self.dataset].classes:
            return self.dataset
        kind = "superclasses" if self.coarse else "classes"
        return f"{self.dataset}, {kind} {self.groups[0]} to {self.groups[-1]}"


SIDES: Mapping[str, Mapping[str, Source]] = {
    DEVELOPMENT: {
        "cifar": Source("cifar100", range(10), coarse=True),
        "gray": Source("mnist", range(10), augment=("crop",)),
        "tiny": Source("tiny-imagenet", range(100)),
    },
    JUDGING: {
        "cifar": Source("cifar100", range(10, 20), coarse=True, shares=(0.8, 0.2)),
        "gray": Source("fashion-mnist", range(10), sizes=(5000, 1000, 10_000), shares=(0.8, 0.2)),
        "tiny": Source("tiny-imagenet", range(100, 175), shares=(0.8, 0.2)),
    },
    PAPERS: {
        "cifar100": Source("cifar100", range(100), sizes=(18_000, 1000, 5000), shares=(0.9, 0.1)),
        "fashion-mnist": Source("fashion-mnist", range(10), sizes=(18_000, 1000, 5000), shares=(0.9, 0.1)),
    },
}
"""Data by side and name. A network that is developed on one name's development side is judged on its other side. The
papers' own data hold judged images, so they count as judged; their packs are for machines that lack the whole sets."""


@dataclass(frozen=True)
class Images:
    """What a source holds.

    Args:
        parts: Images ``(N, C, H, W)`` and labels from 0, by part.
        classes: Of each label, the class of the data set that it is.
    """

    parts: Mapping[str, tuple[Array, Array]]
    classes: Array


def read(side: str, name: str, root: Path) -> Images:
    """Read a source from the original files, and part it.

    Args:
        side: A key of `SIDES`.
        name: Of the data.
        root: The folder that data sets lie in.
    """
    source = SIDES[side][name]
    fine = _load(source.dataset, root, False)
    coarse = _load(source.dataset, root, True) if source.coarse else fine
    assert fine.test is not None
    chosen = {}
    for part, (labelled, grouped) in {"train": (fine.train, coarse.train), "test": (fine.test, coarse.test)}.items():
        assert labelled is not None
        assert grouped is not None
        rows = np.flatnonzero(np.isin(grouped.labels, list(source.groups)))
        chosen[part] = np.asarray(labelled.images)[rows], np.asarray(labelled.labels)[rows]
    classes = np.unique(chosen["train"][1])
    images, labels = chosen["train"]
    drawn = splits.stratified(torch.from_numpy(labels.astype(np.int64)), source.shares, SEED, source.what)
    made = {part: (images[rows.numpy()], labels[rows.numpy()]) for part, rows in zip(PARTS, drawn, strict=False)}
    made.setdefault("test", chosen["test"])
    kept = {}
    for size, part in zip(source.sizes, PARTS, strict=True):
        images, labels = made[part]
        numbers = torch.from_numpy(np.searchsorted(classes, labels).astype(np.int64))
        if size < len(numbers):
            rows = splits.subset(numbers, size, SEED, source.what, part).numpy()
            images, numbers = images[rows], numbers[rows]
        kept[part] = np.ascontiguousarray(images), np.asarray(numbers)
    return Images(kept, classes)


def _load(dataset: str, root: Path, coarse: bool) -> Parts:
    entry = DATASETS[dataset]
    options = {key: option.default for key, option in entry.choices.items()}
    wanted = {**options, "size": SIDE} if "size" in options else {**options, "coarse": coarse}
    return entry.load(Request(dataset, root, {key: wanted[key] for key in options}))


def checked(side: str, open_judged: bool) -> None:
    """Refuse judged data to a run that is not marked for it.

    Raises:
        HeadstartError: If the side holds judged images and the mark is missing.
    """
    if side != DEVELOPMENT and not open_judged:
        raise HeadstartError(
            "This run asks for judged images, and is not marked for it: each look at them before the protocol is "
            "frozen makes the judgement worth less.",
            remedy="Develop on the development side. Once docs/results/protocol.md is frozen, pass --open-judged-data.",
        )


def not_judged(task: str, root: Path, folder: Path) -> None:
    """Refuse a task of the user's own that reads judged images: a judgement has one way in, which is marked.

    Args:
        task: A spec.
        root: The folder that data sets lie in.
        folder: Of the packs.

    Raises:
        HeadstartError: If it names a data set of a side that is judged, or a folder of one, by whatever way.
    """
    datasets = {source.dataset for side in (JUDGING, PAPERS) for source in SIDES[side].values()}
    name, rest = specs.head(task)
    where = Path(specs.path_and_options(rest)[0] if name in OWN else task).expanduser()
    read = [path.resolve() for path in (where, *where.glob("*"))]
    places = [path for side in (JUDGING, PAPERS) for path in folder.resolve().glob(f"{side}-*")]
    files = [root / file for dataset in datasets for layout in DATASETS[dataset].layouts for file in layout]
    places += [file.resolve() for file in files if file.exists()]
    judged = any(path.is_relative_to(place) or place.is_relative_to(path) for path in read for place in places)
    if name in datasets or judged:
        raise HeadstartError(
            f"The task '{task}' holds images that are judged: --task is for images of your own.",
            remedy="Name another folder. --rehearse runs the same on the development side; the judgement itself takes "
            "--open-judged-data and no --task.",
        )


def pack(side: str, root: Path, folder: Path, open_judged: bool = False) -> list[Path]:
    """Write a side's images into files, one for each source that has none yet.

    Args:
        side: A key of `SIDES`.
        root: The folder that data sets lie in.
        folder: Where the packs go.
        open_judged: As for `checked`.

    Returns:
        The files.

    Raises:
        HeadstartError: If the side may not be opened, data is missing, or the packs are too large to carry.
    """
    checked(side, open_judged)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in SIDES[side]:
        path = folder / f"{side}-{name}.xz"
        if not path.is_file():
            images = read(side, name, root)
            arrays = {f"{part}-images": differences(pixels) for part, (pixels, _) in images.parts.items()}
            arrays |= {f"{part}-labels": labels.astype(np.int16) for part, (_, labels) in images.parts.items()}
            content = io.BytesIO()
            np.savez(content, classes=images.classes, **arrays)
            part = path.with_suffix(".part")
            part.write_bytes(lzma.compress(content.getvalue()))
            part.rename(path)
        found.append(path)
    size = sum(path.stat().st_size for path in found)
    if size > LIMIT:
        raise HeadstartError(f"The packs of the {side} side have {size / 2**20:.0f} MiB, more than 64.")
    return found


def differences(images: Array) -> Array:
    """Replace each pixel by its difference from the one to its left, modulo 256: a third smaller once compressed."""
    return np.concatenate([images[..., :1], images[..., 1:] - images[..., :-1]], -1)


def summed(changes: Array) -> Array:
    """Undo `differences`."""
    return np.cumsum(changes, -1, dtype=np.uint8)


def unpack(path: Path) -> Images:
    """Read a pack.

    Raises:
        DataError: If it is damaged.
    """
    try:
        with np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False) as stored:
            parts = {part: (summed(stored[f"{part}-images"]), stored[f"{part}-labels"]) for part in PARTS}
            return Images(parts, stored["classes"])
    except (lzma.LZMAError, ValueError, KeyError, EOFError, OSError) as error:
        raise DataError(
            f"'{path}' is no pack: {error}.", remedy="Remove it; it is made again from the data."
        ) from error


def task(side: str, name: str, images: int, root: Path, folder: Path, open_judged: bool = False) -> str:
    """Return the spec of a task, for an experiment; pack and unpack what is not there.

    Args:
        side: A key of `SIDES`.
        name: Of the data.
        images: To train on.
        root: The folder that data sets lie in; not needed where the packs are.
        folder: Of the packs.
        open_judged: As for `checked`.
    """
    checked(side, open_judged)
    made = folder / f"{side}-{name}"
    if not (made / "complete").is_file():
        pack(side, root, folder, open_judged)
        made.mkdir(exist_ok=True)
        for part, (pixels, labels) in unpack(folder / f"{side}-{name}.xz").parts.items():
            np.save(made / f"{part}-images.npy", pixels)
            np.save(made / f"{part}-labels.npy", labels.astype(np.int64))
        (made / "complete").touch()
    return f"arrays:{made}:train={images}"


def content(side: str, name: str, folder: Path) -> str | None:
    """Return the hash of the images and labels that trials would read; None where they are not packed yet.

    Args:
        side: A key of `SIDES`.
        name: Of the data.
        folder: Of the packs.
    """
    made, packed = folder / f"{side}-{name}", folder / f"{side}-{name}.xz"
    if (made / "complete").is_file():
        parts = {p: tuple(np.load(made / f"{p}-{kind}.npy") for kind in ("images", "labels")) for p in PARTS}
    elif packed.is_file():
        parts = dict(unpack(packed).parts)
    else:
        return None
    found = hashlib.sha256()
    for part in PARTS:
        images, labels = parts[part]
        found.update(f"{part} {images.shape} {images.dtype}".encode())
        found.update(np.ascontiguousarray(images).data)
        found.update(labels.astype("<i8").tobytes())
    return found.hexdigest()


def hashes(images: Array) -> set[bytes]:
    """Return the hash of each image's pixels."""
    return {hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images}
