"""Download sets that torchvision knows, with torchvision's own downloader, without unpacking."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from headstart.bench.tasks.data import files
from headstart.bench.tasks.data.catalogue import DATASETS
from headstart.errors import DataError, MissingExtraError


def download(name: str, root: Path, *, extra: bool = False) -> None:
    """Download missing files; each file's md5 is compared with the published one.

    Args:
        name: A data set's name, such as ``cifar100``.
        root: The folder of data sets.
        extra: Fetch SVHN's extra images too.

    Raises:
        DataError: If torchvision does not have it, or it cannot be fetched.
        MissingExtraError: If torchvision is not installed or does not import.
    """
    if name not in DATASETS or not DATASETS[name].downloads:
        known = ", ".join(sorted(key for key, found in DATASETS.items() if found.downloads))
        raise DataError(f"'{name}' cannot be downloaded by headstart; {known} can.")
    try:
        datasets = importlib.import_module("torchvision.datasets")
        fetch = importlib.import_module("torchvision.datasets.utils").download_url
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(package="torchvision", extra="torchvision", what="A download") from error
    for urls, published in _files(name, datasets, extra):
        path = root / published
        if path.is_file():
            continue
        failures = []
        for url in urls:
            try:
                fetch(url, str(path.parent), filename=path.name, md5=files.MD5[published])
                break
            except (RuntimeError, OSError) as error:
                failures.append(f"{url}: {error}")
        else:
            raise DataError(
                f"'{published}' could not be fetched: {'; '.join(failures)}.",
                remedy=f"Put it into '{path.parent}' by hand.",
            )


def _files(name: str, datasets: Any, extra: bool) -> list[tuple[list[str], str]]:
    """Return torchvision's addresses for each file, and the file's path from the root."""
    if name in ("mnist", "fashion-mnist"):
        kind = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
        return [
            ([mirror + file for mirror in kind.mirrors], f"{kind.__name__}/raw/{file}") for file, _ in kind.resources
        ]
    if name == "svhn":
        parts = ["train", "test", *(["extra"] if extra else [])]
        return [([datasets.SVHN.split_list[part][0]], f"svhn/{part}_32x32.mat") for part in parts]
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    return [([kind.url], kind.filename)]
