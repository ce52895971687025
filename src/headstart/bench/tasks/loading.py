"""Tasks by name: built-in ones, folders of images, arrays, and the user's own functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart.bench.specs import options as reader
from headstart.bench.specs import user_function
from headstart.bench.tasks import small, splits
from headstart.bench.tasks.arrays import from_arrays, from_pair
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
from headstart.bench.tasks.task import Split, Task
from headstart.engine import specs
from headstart.errors import DataError, unknown

OWN = {
    "folder": "any folder of images: a sub-folder per class, or train and val or test that hold those",
    "arrays": "a folder with {train,test}-{images,labels}.npy, and optionally validation-…",
}


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
            or ``arrays:PATH``, with options likewise; ``file.py:function``, where the function returns
            ``(inputs, targets)``, a torch ``Dataset``, two of either (the second one for the test) or a `Task`; or a
            folder with ``{train,test}-{images,labels}.npy``, and optionally ``validation-…``.
            ``train``, ``validation`` and ``test`` are numbers of images to keep of each split.
        split_seed: The seed of the splits. An official test set is kept.
        root: The folder with the data sets; by default ``$HEADSTART_DATA_ROOT``, or else ``data``.
        download: Download missing files, if torchvision can.
        progress: Gets the number of converted images and the total, when a set is used for the first time.

    Returns:
        The task, held in memory.

    Raises:
        DataError: The data are missing, are not the published files, or cannot be used.
        UnknownNameError: If there is neither a task nor a folder of that name, or no such option.
        MissingExtraError: If a package that is needed is not installed.
    """
    name, rest = specs.head(spec)
    if user_function.is_user_function(spec):
        made = user_function.call_with_known(user_function.load_function(spec), {"seed": split_seed}, spec)
        return made if isinstance(made, Task) else from_pair(spec, made, split_seed)
    if name in OWN and rest:
        where, text = specs.path_and_options(rest)
        path = Path(where).expanduser()
        if name == "arrays":
            chosen = reader.read(text, _defaults(SIZES), name)
            return _limited(replace(_from_folder(path, split_seed), name=spec), chosen)
        chosen = reader.read(text, {"size": None, **_defaults(SIZES)}, name)
        parts = image_folder(path, Request(path.resolve().name, path, chosen, progress))
        return _assemble(spec, parts, split_seed, chosen, splits.NO_TEST_SET if parts.test is None else splits.TEST_SET)
    if name in small.SMALL:
        return small.load(spec, split_seed)
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
    raise unknown(
        "task or folder", spec, [*DATASETS, *small.SMALL, *(f"{kind}:PATH" for kind in OWN), "file.py:function"]
    )


def is_task(spec: str) -> bool:
    """Tell whether a name (without options) is a built-in task, or starts with ``folder:`` or ``arrays:``.

    Example:
        >>> is_task("cifar100:coarse"), is_task("folder:cats"), is_task("cats")
        (True, True, False)
    """
    name, rest = specs.head(spec)
    return name in DATASETS or name in small.SMALL or (name in OWN and bool(rest))


def _defaults(options: Mapping[str, Option]) -> dict[str, Any]:
    return {name: option.default for name, option in options.items()}


def _assemble(spec: str, parts: Parts, split_seed: int, sizes: Mapping[str, Any], shares: tuple[float, ...]) -> Task:
    """Draw the splits, and read only their images."""
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
    """Reduce each split to the size in the options."""
    changed: dict[str, Any] = {}
    for name in SIZES:
        if sizes[name] is not None:
            split: Split = getattr(task, name)
            draw = splits.subset if task.kind == "classification" else splits.plain_subset
            changed[name] = split.take(draw(split.labels, sizes[name], task.split_seed, task.name, name))
    return replace(task, **changed)


def _from_folder(folder: Path, split_seed: int) -> Task:
    validation = ["validation"] if any(folder.glob("validation-*.npy")) else []
    pairs = {
        part: (_array(folder / f"{part}-images.npy"), _array(folder / f"{part}-labels.npy"))
        for part in ("train", *validation, "test")
    }
    name, (images, labels) = folder.name or str(folder), pairs["train"]
    return from_arrays(
        name, images, labels, split_seed=split_seed, validation=pairs.get("validation"), test=pairs["test"]
    )


def _array(path: Path) -> np.ndarray[Any, Any]:
    if not path.is_file():
        raise DataError(
            f"The folder '{path.parent}' has no '{path.name}'.",
            remedy="A task folder holds train-images.npy, train-labels.npy, test-images.npy and "
            "test-labels.npy: uint8 images (N, H, W, C) or (N, C, H, W), and integer labels (N,), or other inputs "
            "and targets. "
            "A folder of image files is folder:PATH.",
        )
    try:
        array: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"'{path}' is not a readable .npy array: {error}.") from error
    return array
