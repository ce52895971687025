"""The places of data files, and their checks: the published checksum, and no links out of the folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from headstart.errors import DataError

# md5 of the files as torchvision publishes them; of unpacked IDX files, of what the published archives hold; of
# ImageNet 16×16 as its users' loaders publish them.
MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
    "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "MNIST/raw/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "MNIST/raw/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "MNIST/raw/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "MNIST/raw/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "FashionMNIST/raw/train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "FashionMNIST/raw/train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "FashionMNIST/raw/t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    "FashionMNIST/raw/train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    "svhn/train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "svhn/test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "svhn/extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
    "imagenet16/train_data_batch_1": "27846dcaa50de8e21a7d1a35f30f0e91",
    "imagenet16/train_data_batch_2": "c7254a054e0e795c69120a5727050e3f",
    "imagenet16/train_data_batch_3": "4333d3df2e5ffb114b05d2ffc19b1e87",
    "imagenet16/train_data_batch_4": "1620cdf193304f4a92677b695d70d10f",
    "imagenet16/train_data_batch_5": "348b3c2fdbb3940c4e9e834affd3b18d",
    "imagenet16/train_data_batch_6": "6e765307c242a1b3d7d5ef9139b48945",
    "imagenet16/train_data_batch_7": "564926d8cbf8fc4818ba23d2faac7564",
    "imagenet16/train_data_batch_8": "f4755871f718ccb653440b9dd0ebac66",
    "imagenet16/train_data_batch_9": "bb6dd660c38c58552125b1a92f86b5d4",
    "imagenet16/train_data_batch_10": "8f03f34ac4b42271a294f91bf480f29b",
    "imagenet16/val_data": "3410e3017fdaefba8d5073aaa65e4bd6",
}


def data_root(given: str | Path | None = None) -> Path:
    """Return the folder with the data sets: the given one, or ``$HEADSTART_DATA_ROOT``, or ``data``.

    Example:
        >>> data_root("/sets").name
        'sets'
    """
    return Path(given or os.environ.get("HEADSTART_DATA_ROOT") or "data").expanduser()


def place(root: Path, name: str) -> Path:
    """Return a file of a set. The set's folder may be a link, but no link below it may lead out of the folder.

    Raises:
        DataError: If it does, or is no file.
    """
    return inside(root / name.split("/")[0], root / name)


def inside(folder: Path, path: Path) -> Path:
    """Return the path if it is, after following links, a regular file inside the folder.

    Raises:
        DataError: If it leads out of the folder, or is no file.
    """
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise DataError(
            f"'{path}' leads out of '{folder}'.", remedy="Put the file itself there; links out are not followed."
        )
    if not real.is_file():
        raise DataError(f"'{path}' is not a file.")
    return path


def checked_bytes(path: Path, published: str) -> bytes:
    """Read a file and compare what was read with the checksum published for ``published``.

    Raises:
        DataError: If it cannot be read, is another file than the published one, or none was published.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}.") from error
    check(path, published, content)
    return content


def check(path: Path, published: str, content: bytes) -> None:
    """Raise if the content is not the one published under that name."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    expected = MD5.get(published)
    if found != expected:
        raise DataError(
            f"'{path}' is not the published file: its md5 is {found}, not {expected}; it was not opened.",
            remedy="It is damaged, incomplete or another file; fetch it again.",
        )


def lacking(root: Path, layouts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return, for each way to store a set, the missing paths."""
    return [[name for name in layout if not (root / name).exists()] for layout in layouts]


def missing(task: str, root: Path, layouts: Sequence[Sequence[str]], note: str = "") -> DataError:
    """Build the error that says which files to put where.

    Args:
        task: The task's name.
        root: The folder with the data sets.
        layouts: The ways to store them, each as paths from the root.
        note: A further remark.

    Example:
        >>> print(missing("svhn", Path("data"), [["svhn/train_32x32.mat", "svhn/test_32x32.mat"]]))
        Task 'svhn': its files are not in 'data'. Put there svhn/{train_32x32.mat, test_32x32.mat}, or name
        another folder with --data-root or HEADSTART_DATA_ROOT.
    """
    begun = [(s, layout) for s, layout in zip(lacking(root, layouts), layouts, strict=True) if 0 < len(s) < len(layout)]
    if begun:
        some, _ = min(begun, key=lambda pair: len(pair[0]))
        what = f"of its files in '{root}', {brace(some)} {'is' if len(some) == 1 else 'are'} missing"
    else:
        what = f"its files are not in '{root}'"
    ways = "; or ".join(brace(layout) for layout in layouts)
    elsewhere = "or name another folder with --data-root or HEADSTART_DATA_ROOT"
    return DataError(f"Task '{task}': {what}.", remedy=f"Put there {ways}, {elsewhere}.{note and ' ' + note}")


def brace(names: Sequence[str]) -> str:
    """Write paths with common folders in short form.

    Example:
        >>> brace(["a/x", "a/y", "b/z"])
        'a/{x, y} and b/z'
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        folders.setdefault(folder and folder + "/", []).append(base)
    return " and ".join(
        folder + (bases[0] if len(bases) == 1 else "{" + ", ".join(bases) + "}") for folder, bases in folders.items()
    )
