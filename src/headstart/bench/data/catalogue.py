"""The data sets by name: what each needs, how it is loaded, and which of its images make a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart.bench.data import cifar, downsampled, files, folders, idx, pairs, pictures, svhn
from headstart.bench.data.cache import Array, Progress, Stored, Writer, converted
from headstart.errors import DataError, HeadstartError, unknown


@dataclass(frozen=True)
class Part:
    """Images with labels from 0; ``rows`` says which images, all of them if None."""

    images: Array
    labels: Array
    rows: Array | None = None


@dataclass(frozen=True)
class Parts:
    """What a task is drawn from: parts that do not exist are drawn from ``train``."""

    classes: int
    train: Part
    validation: Part | None = None
    test: Part | None = None


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    name: str
    root: Path
    options: Mapping[str, Any]
    progress: Progress | None = None

    def find(self, layouts: list[list[str]], note: str = "") -> list[str]:
        """Return the first layout whose files are all there, or raise the error that lists them."""
        for layout in layouts:
            if all((self.root / name).exists() for name in layout):
                return layout
        raise files.missing(self.name, self.root, layouts, note)

    def converted(self, paths: list[Path], convert: Callable[[Writer], None], **options: Any) -> Stored:
        """Return the converted data."""
        return converted(self.name, paths, convert, options=options, progress=self.progress)


@dataclass(frozen=True)
class Dataset:
    """A data set by name.

    Args:
        about: What it is, in a line.
        layouts: Each way to store it: paths from the root.
        load: Loads it.
        options: Options with their defaults, besides the sizes of the splits.
        positional: Options that values without a key stand for.
        downloads: Whether `headstart.bench.data.download` has it.
    """

    about: str
    layouts: list[list[str]]
    load: Callable[[Request], Parts]
    options: Mapping[str, Any] = field(default_factory=dict)
    positional: tuple[str, ...] = ()
    downloads: bool = False


DOWNLOAD = "load_task(..., download=True) fetches it with torchvision."


def _whole(stored: Stored, classes: int, labels: str = "labels") -> Parts:
    train, test = (Part(stored[f"{part}-images"], stored[f"{part}-{labels}"]) for part in ("train", "test"))
    return Parts(classes, train, test=test)


def _idx(folder: str) -> Callable[[Request], Parts]:
    def load(request: Request) -> Parts:
        found = request.find(idx.layouts(folder), DOWNLOAD)
        paths = [request.root / name for name in found]
        return _whole(request.converted(paths, lambda writer: idx.convert(request.root, found, writer)), 10)

    return load


def _cifar_arrays(request: Request, name: str) -> Stored:
    found = request.find(cifar.layouts(name), DOWNLOAD)
    paths = [request.root / place for place in found]
    convert = cifar.convert
    return converted(name, paths, lambda writer: convert(request.root, name, found, writer), progress=request.progress)


def _cifar(request: Request) -> Parts:
    stored = _cifar_arrays(request, request.name)
    if request.options.get("coarse"):
        return _whole(stored, 20, "coarse")
    return _whole(stored, cifar.CLASSES[request.name])


def _pairs(request: Request) -> Parts:
    wanted = chosen_pair(request.options)
    stored = _cifar_arrays(request, "cifar100")
    rows = {part: np.flatnonzero(np.isin(stored[f"{part}-coarse"], wanted)) for part in ("train", "test")}
    fine = {part: np.asarray(stored[f"{part}-labels"])[rows[part]] for part in rows}
    classes = np.unique(fine["train"])
    if len(np.setdiff1d(fine["test"], classes)) or len(classes) < 2:
        raise DataError(f"The training images do not have all classes of the superclasses {wanted}.")
    made = {
        part: Part(stored[f"{part}-images"], np.searchsorted(classes, fine[part]).astype(np.int64), rows[part])
        for part in rows
    }
    return Parts(len(classes), made["train"], test=made["test"])


def chosen_pair(options: Mapping[str, Any]) -> pairs.Pair:
    """Return the pair of superclasses that the options of ``cifar100-pairs`` name.

    Raises:
        HeadstartError: If they name none, or more than one way.

    Example:
        >>> chosen_pair({"first": None, "second": None, "published": 1, "random": None, "pair": None})
        (10, 13)
    """
    first, second, published, drawn, pair = (options[k] for k in ("first", "second", "published", "random", "pair"))
    ways = [first is not None or second is not None, published is not None, drawn is not None or pair is not None]
    if sum(ways) == 1:
        if published is not None and published < 10:
            return pairs.published_evaluation()[published]
        if drawn is not None and pair is not None and pair < 10:
            return pairs.disjoint(drawn)[pair]
        if first is not None and second is not None and first != second and max(first, second) < 20:
            return min(first, second), max(first, second)
    raise HeadstartError(
        "'cifar100-pairs' does not say which two superclasses.",
        remedy="Write cifar100-pairs:10,13 (two of 0 to 19), cifar100-pairs:published=0 (0 to 9, the evaluation "
        "pairs of filter clustering), or cifar100-pairs:random=SEED,pair=0 (0 to 9, disjoint ones).",
    )


def _svhn(request: Request) -> Parts:
    found = request.find(svhn.layouts(request.options["extra"]), DOWNLOAD)
    paths = [request.root / name for name in found]
    return _whole(request.converted(paths, lambda writer: svhn.convert(request.root, found, writer)), 10)


def _tiny(request: Request) -> Parts:
    request.find([folders.TINY_LAYOUT], "Unpack tiny-imagenet-200.zip there.")
    size = _size(request)
    listed, names = folders.tiny_imagenet(request.root)

    def convert(writer: Writer) -> None:
        writer.names["classes"] = names
        folders.write(writer, listed, size or 64, request.name, cut=False)

    paths = [request.root / folders.TINY_LAYOUT[0], request.root / folders.TINY_LAYOUT[2]]
    paths += [path for found, _ in listed.values() for path in found]
    return _whole(request.converted(paths, convert, size=size), len(names))


def _imagenet(side: int) -> Callable[[Request], Parts]:
    def load(request: Request) -> Parts:
        note = "" if side == 16 else "Pickled batches have no published checksum and are not read: take the npz files."
        wanted = request.options["test-set"]
        if wanted and wanted not in folders.V2:
            raise unknown("test set", wanted, folders.V2)
        if request.options["resample"] not in ("box", "lanczos"):
            raise unknown("resampling", request.options["resample"], ["box", "lanczos"])
        found = request.find(downsampled.layouts(side), note)
        paths = [request.root / name for name in found]
        stored = request.converted(paths, lambda writer: downsampled.convert(request.root, side, found, writer))
        whole = _whole(stored, 1000)
        return Parts(1000, whole.train, whole.test, _imagenet_v2(request, side, wanted)) if wanted else whole

    return load


def _imagenet_v2(request: Request, side: int, name: str) -> Part:
    places = [f"imagenet{side}/{downsampled.CLASS_LIST}", downsampled.CLASS_LIST]
    found = Request(name, request.root, {}, request.progress)
    layout = found.find([[folders.V2[name], place] for place in places])
    order = downsampled.label_of_sorted_class(files.place(request.root, layout[1]))
    paths, labels = folders.imagenet_v2(request.root, name)
    resample = request.options["resample"]

    def convert(writer: Writer) -> None:
        writer.save("test-images", pictures.pixels(paths, "RGB", side, resample=resample), len(paths))

    stored = found.converted(paths, convert, size=side, resample=resample)
    return Part(stored["test-images"], order[labels])


def image_folder(path: Path, request: Request) -> Parts:
    """Load any folder of images."""
    size = _size(request)
    listed, names = folders.any_folder(path)

    def convert(writer: Writer) -> None:
        writer.names["classes"] = names
        folders.write(writer, listed, size, str(path))

    stored = request.converted([p for found, _ in listed.values() for p in found], convert, size=size)
    parts = {part: Part(stored[f"{part}-images"], stored[f"{part}-labels"]) for part in listed}
    return Parts(len(names), **parts)


def _size(request: Request) -> int | None:
    size: int | None = request.options["size"]
    if size is not None and not 1 <= size <= 4096:
        raise HeadstartError(f"'{request.name}': size={size} is not between 1 and 4096.")
    return size


_COARSE = {"coarse": False}
_PAIR = dict.fromkeys(("first", "second", "published", "random", "pair"))
_V2 = {"test-set": "", "resample": "box"}
DATASETS: dict[str, Dataset] = {
    "mnist": Dataset("MNIST, 10 digits, 1×28×28", idx.layouts("MNIST"), _idx("MNIST"), downloads=True),
    "fashion-mnist": Dataset(
        "Fashion-MNIST, 10 kinds of clothing, 1×28×28",
        idx.layouts("FashionMNIST"),
        _idx("FashionMNIST"),
        downloads=True,
    ),
    "cifar10": Dataset("CIFAR-10, 10 classes, 3×32×32", cifar.layouts("cifar10"), _cifar, downloads=True),
    "cifar100": Dataset(
        "CIFAR-100, 100 classes or, with coarse, 20 superclasses, 3×32×32",
        cifar.layouts("cifar100"),
        _cifar,
        _COARSE,
        downloads=True,
    ),
    "cifar100-pairs": Dataset(
        "the 10 classes of two of CIFAR-100's superclasses, 3×32×32",
        cifar.layouts("cifar100"),
        _pairs,
        _PAIR,
        ("first", "second"),
        downloads=True,
    ),
    "svhn": Dataset(
        "SVHN, 10 digits in colour, 3×32×32; extra adds the 531,131 easier ones to training",
        svhn.layouts(),
        _svhn,
        {"extra": False},
        downloads=True,
    ),
    "tiny-imagenet": Dataset(
        "Tiny ImageNet, 200 classes, 3×64×64 or scaled to size",
        [folders.TINY_LAYOUT],
        _tiny,
        {"size": None},
    ),
    **{
        f"imagenet{side}": Dataset(
            f"ImageNet down-sampled to 3×{side}×{side}, 1000 classes; test-set takes ImageNetV2 for the test",
            downsampled.layouts(side),
            _imagenet(side),
            _V2,
        )
        for side in (16, 32, 64)
    },
}
