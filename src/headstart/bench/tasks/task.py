"""Tasks: images in memory, split by a named seed, with a fingerprint of all that is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart.bench.specs import options as reader
from headstart.bench.specs import user_function
from headstart.bench.tasks import splits
from headstart.bench.tasks.data import folders
from headstart.bench.tasks.data.cache import Progress
from headstart.bench.tasks.data.catalogue import (
    DATASETS,
    SIZES,
    Option,
    Part,
    Parts,
    Request,
    image_folder,
)
from headstart.bench.tasks.data.download import download as fetch
from headstart.bench.tasks.data.files import data_root
from headstart.bench.tasks.datasets import holds_datasets, read_datasets
from headstart.engine import specs
from headstart.errors import DataError, unknown


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Args:
        images: ``(N, C, H, W)``, uint8 in 0..255 or float32 in the user's own units. Signals are ``(N, C, T)``, volumes
            ``(N, C, D, H, W)``.
        labels: ``(N,)``, int64 in ``0 .. classes - 1``.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Split:
        """Return a copy with only these images, in this order."""
        return Split(self.images[indices].contiguous(), self.labels[indices].contiguous())


@dataclass(frozen=True)
class Task:
    """An image classification task, ready to train on.

    Args:
        name: The name it was asked for by.
        train: Images to train on; the only ones that ``mean`` and ``std`` are measured on.
        validation: Images for learning curves and for every choice.
        test: Images that each trial looks at once, at its end.
        classes: Number of classes.
        split_seed: The seed that the splits were drawn with.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    split_seed: int = 0

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return int(self.train.images.shape[1])

    @property
    def image_size(self) -> tuple[int, ...]:
        """Height and width of an image; the length of a signal; depth, height and width of a volume."""
        return tuple(self.train.images.shape[2:])

    def as_signals(self) -> Task:
        """The same data with rows as channels, ``(N, 1, C, T)`` as ``(N, C, T)``."""

        def rows(split: Split) -> Split:
            return Split(split.images[:, 0], split.labels)

        return replace(self, train=rows(self.train), validation=rows(self.validation), test=rows(self.test))

    def mean_std(self) -> tuple[Tensor, Tensor]:
        """Measure each channel's mean and standard deviation on the training split.

        Returns:
            Two float32 tensors of shape ``(C,)``, in units of ``[0, 1]`` for uint8 images. A channel
            without any spread gets the deviation 1, so that it can be divided by.
        """
        images = self.train.images
        unit = 255.0 if images.dtype == torch.uint8 else 1.0
        moments = [
            (channel.double().mean(), channel.double().var(correction=0))
            for channel in (images[:, c] for c in range(self.channels))
        ]
        mean = torch.stack([m for m, _ in moments]) / unit
        std = torch.stack([v for _, v in moments]).sqrt() / unit
        return mean.float(), torch.where(std > 0, std, torch.ones_like(std)).float()

    def fingerprint(self) -> str:
        """Return the sha256 of every image and label of the three splits, shapes and types included."""
        digest = hashlib.sha256(f"classes={self.classes}".encode())
        for split in (self.train, self.validation, self.test):
            for tensor in (split.images, split.labels):
                digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def describe(self) -> str:
        """Say in one line what is in it."""
        shape = "×".join(map(str, (self.channels, *self.image_size)))
        return (
            f"{self.name}: {self.classes} classes, {shape}, "
            f"{len(self.train):,} train / {len(self.validation):,} validation / {len(self.test):,} test"
        )


OWN = {
    "folder": "any folder of images: a sub-folder per class, or train and val or test that hold those",
    "arrays": "a folder with {train,test}-{images,labels}.npy",
}
_NO_TEST_SET, _TEST_SET = (0.7, 0.1, 0.2), (0.9, 0.1)


def load_task(
    spec: str,
    split_seed: int = 0,
    *,
    root: str | Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> Task:
    """Load a task by name.

    Args:
        spec: A built-in name, with options behind a colon (``cifar100:coarse,train=10000``); ``folder:PATH``
            or ``arrays:PATH``, with options likewise; a folder with ``{train,test}-{images,labels}.npy``; or
            ``file.py:function``, where the function returns ``(images, labels)``, a torch ``Dataset``, two of them for
            training and test, or a `Task`.
            ``train``, ``validation`` and ``test`` are numbers of images to keep of each split.
        split_seed: Names the draw of the splits. Data that come with an official test set keep it.
        root: The folder that data sets lie in; by default ``$HEADSTART_DATA_ROOT``, or else ``data``.
        download: Fetch what is missing, where torchvision can.
        progress: Is told how many images of how many are converted, the first time that a set is used.

    Returns:
        The task, held in memory.

    Raises:
        DataError: If the data is missing, is not what was published, or cannot serve.
        UnknownNameError: If there is neither a task nor a folder of that name, or no such option.
        MissingExtraError: If a package that is needed is not installed.
    """
    name, rest = specs.head(spec)
    if user_function.is_user_function(spec):
        made = user_function.call_with_known(user_function.load_function(spec), {"seed": split_seed}, spec)
        return made if isinstance(made, Task) else _from_pair(spec, made, split_seed)
    if name in OWN and rest:
        where, text = specs.path_and_options(rest)
        path = Path(where).expanduser()
        if name == "arrays":
            chosen = reader.read(text, _defaults(SIZES), name)
            return _limited(replace(_from_folder(path, split_seed), name=spec), chosen)
        chosen = reader.read(text, {"size": None, **_defaults(SIZES)}, name)
        parts = image_folder(path, Request(path.resolve().name, path, chosen, progress))
        return _assemble(spec, parts, split_seed, chosen, _NO_TEST_SET if parts.test is None else _TEST_SET)
    if name in DATASETS:
        entry = DATASETS[name]
        chosen = reader.read(rest, _defaults(entry.choices), name, entry.positional)
        place = data_root(root)
        if download and entry.layouts:
            fetch(name, place, extra=bool(chosen.get("extra")))
        parts = entry.load(Request(name, place, chosen, progress))
        if chosen.get("validate-on-test"):
            parts = replace(parts, validation=parts.test)
        return _assemble(spec, parts, split_seed, chosen, entry.shares)
    if name in folders.V2:
        raise DataError(f"'{name}' is a test set only.", remedy=f"Write imagenet64:test-set={name}, or 16 or 32.")
    if Path(spec).is_dir():
        return _from_folder(Path(spec), split_seed)
    raise unknown("task or folder", spec, [*DATASETS, *(f"{kind}:PATH" for kind in OWN), "file.py:function"])


def is_task(spec: str) -> bool:
    """Tell whether a name is a built-in task's or starts as ``folder:`` or ``arrays:`` do, options aside.

    Example:
        >>> is_task("cifar100:coarse"), is_task("folder:cats"), is_task("cats")
        (True, True, False)
    """
    name, rest = specs.head(spec)
    return name in DATASETS or (name in OWN and bool(rest))


def _defaults(options: Mapping[str, Option]) -> dict[str, Any]:
    return {name: option.default for name, option in options.items()}


def _assemble(spec: str, parts: Parts, split_seed: int, sizes: Mapping[str, Any], shares: tuple[float, ...]) -> Task:
    """Draw the splits and read only the images that they keep."""
    labels = torch.from_numpy(np.array(parts.train.labels, np.int64))
    everything = torch.arange(len(labels))
    drawn: dict[str, tuple[Part, Tensor]] = {"train": (parts.train, everything)}
    if parts.validation is None:
        chosen = splits.stratified(labels, shares, split_seed, spec)
        drawn = {name: (parts.train, index) for name, index in zip(SIZES, chosen, strict=False)}
    for name, part in (("validation", parts.validation), ("test", parts.test)):
        if part is not None:
            drawn[name] = (part, torch.arange(len(part.labels)))
    made = {}
    for name, (part, index) in drawn.items():
        kept = torch.from_numpy(np.array(part.labels, np.int64))[index]
        if sizes[name] is not None:
            smaller = splits.subset(kept, sizes[name], split_seed, spec, name)
            kept, index = kept[smaller], index[smaller]
        rows = index.numpy() if part.rows is None else part.rows[index.numpy()]
        made[name] = Split(torch.from_numpy(np.asarray(part.images)[rows]), kept)
    return Task(spec, made["train"], made["validation"], made["test"], parts.classes, split_seed)


def _limited(task: Task, sizes: Mapping[str, Any]) -> Task:
    """Keep as many images of each split as the options say."""
    changed: dict[str, Any] = {}
    for name in SIZES:
        if sizes[name] is not None:
            split: Split = getattr(task, name)
            changed[name] = split.take(splits.subset(split.labels, sizes[name], task.split_seed, task.name, name))
    return replace(task, **changed)


def from_arrays(
    name: str, images: Any, labels: Any, *, split_seed: int = 0, test: tuple[Any, Any] | None = None
) -> Task:
    """Build a task from arrays.

    Args:
        name: What to call it.
        images: ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``; volumes ``(N, C, D, H, W)``; signals ``(N, C, T)``,
            which stay images of one channel until a model takes them as signals. uint8, or floating point in any unit.
        labels: ``(N,)`` integers; any values, which become ``0 .. classes - 1`` in sorted order.
        split_seed: Names the draw of the splits.
        test: Images and labels of an official test set. Without it, a fifth of the images is the test
            split. A tenth of the rest (70/10/20 in all without a test set) is for validation.

    Returns:
        The task.

    Raises:
        DataError: If shapes or types do not fit, values are not finite, or a class has too few images.

    Example:
        >>> images, labels = np.zeros((60, 8, 8), np.uint8), np.arange(60) % 3
        >>> print(from_arrays("zeros", images, labels).describe())
        zeros: 3 classes, 1×8×8, 42 train / 6 validation / 12 test
    """
    x, y = splits.as_images(images, name), splits.as_labels(labels, name)
    whole = _checked(name, x, y)
    if test is None:
        names = np.unique(y)
        parts = splits.stratified(torch.from_numpy(np.searchsorted(names, y)), _NO_TEST_SET, split_seed, name)
        labelled = Split(whole.images, torch.from_numpy(np.searchsorted(names, y)))
        train, validation, held = (labelled.take(part) for part in parts)
    else:
        x_test, y_test = (
            splits.as_images(test[0], f"{name} (test)"),
            splits.as_labels(test[1], f"{name} (test)"),
        )
        held = _checked(f"{name} (test)", x_test, y_test)
        if held.images.shape[1:] != whole.images.shape[1:] or held.images.dtype != whole.images.dtype:
            raise DataError(
                f"Task '{name}': training images are {tuple(whole.images.shape[1:])} and test images "
                f"{tuple(held.images.shape[1:])}, or of different types."
            )
        names = np.unique(np.concatenate([y, y_test]))
        held = Split(held.images, torch.from_numpy(np.searchsorted(names, y_test)))
        labelled = Split(whole.images, torch.from_numpy(np.searchsorted(names, y)))
        parts = splits.stratified(labelled.labels, _TEST_SET, split_seed, name)
        train, validation = (labelled.take(part) for part in parts)
    if len(names) < 2:
        raise DataError(f"Task '{name}' has only one class.")
    return Task(name, train, validation, held, len(names), split_seed)


def _checked(name: str, images: Tensor, labels: np.ndarray[Any, Any]) -> Split:
    if len(images) != len(labels):
        raise DataError(f"Task '{name}' has {len(images)} images and {len(labels)} labels.")
    return Split(images, torch.from_numpy(labels))


def _from_pair(spec: str, made: Any, split_seed: int) -> Task:
    if holds_datasets(made):
        (images, labels), test = read_datasets(made, spec, split_seed)
        return from_arrays(spec, images, labels, split_seed=split_seed, test=test)
    if not (isinstance(made, (tuple, list)) and len(made) == 2):
        raise DataError(f"'{spec}' returned {type(made).__name__}, not (images, labels), a Dataset or a Task.")
    return from_arrays(spec, made[0], made[1], split_seed=split_seed)


def _from_folder(folder: Path, split_seed: int) -> Task:
    arrays = {}
    for part in ("train-images", "train-labels", "test-images", "test-labels"):
        path = folder / f"{part}.npy"
        if not path.is_file():
            raise DataError(
                f"The folder '{folder}' has no '{path.name}'.",
                remedy="A task folder holds train-images.npy, train-labels.npy, test-images.npy and "
                "test-labels.npy: uint8 images (N, H, W, C) or (N, C, H, W), and integer labels (N,). "
                "A folder of image files is folder:PATH.",
            )
        try:
            arrays[part] = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"'{path}' is not a readable .npy array: {error}.") from error
    return from_arrays(
        folder.name or str(folder),
        arrays["train-images"],
        arrays["train-labels"],
        split_seed=split_seed,
        test=(arrays["test-images"], arrays["test-labels"]),
    )
