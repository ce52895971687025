"""Data sets are converted once into memory-mapped arrays, in a cache folder that processes share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import DataError

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int], None]
_FORMAT = "headstart-arrays-1"


@dataclass(frozen=True)
class Stored:
    """A converted data set.

    Args:
        arrays: Arrays by name, mapped read-only: only what is used is read.
        names: Class names by the labels that they belong to, such as ``fine``.
    """

    arrays: Mapping[str, Array]
    names: Mapping[str, list[str]]

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays


class Writer:
    """Writes arrays in pieces, so that a set larger than memory can be converted.

    Args:
        folder: The folder to write to.
        progress: Gets the number of images done and the total of the current array.
    """

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        self.folder = folder
        self.names: dict[str, list[str]] = {}
        self._progress = progress
        self._shapes: dict[str, tuple[list[int], str]] = {}

    def save(self, name: str, pieces: Array | Iterable[Array], count: int | None = None) -> None:
        """Write one array.

        Args:
            name: Its name.
            pieces: The array, or ``count`` rows in pieces.
            count: Number of rows; needed for pieces.

        Raises:
            DataError: There are more or fewer rows than ``count``.
        """
        if isinstance(pieces, np.ndarray):
            pieces, count = [pieces], len(pieces)
        assert count is not None
        done = 0
        shape: tuple[int, ...] = ()
        with (self.folder / f"{name}.npy").open("wb") as file:
            for piece in pieces:
                if not done:
                    shape = (count, *piece.shape[1:])
                    header = np.lib.format.header_data_from_array_1_0(np.empty((0, *shape[1:]), piece.dtype))
                    np.lib.format.write_array_header_1_0(file, {**header, "shape": shape, "fortran_order": False})
                    self._shapes[name] = (list(shape), piece.dtype.str)
                file.write(np.ascontiguousarray(piece).data)
                done += len(piece)
                if self._progress is not None:
                    self._progress(done, count)
        if done != count or count == 0:
            raise DataError(f"'{name}' has {done} rows where {count} were announced.")

    def close(self) -> None:
        """Mark the folder as complete."""
        meta = {"format": _FORMAT, "arrays": self._shapes, "names": self.names}
        (self.folder / "meta.json").write_text(json.dumps(meta))


def cache_root() -> Path:
    """Return the folder for converted data: ``$HEADSTART_CACHE``, or ``headstart`` in the user's cache folder."""
    if given := os.environ.get("HEADSTART_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "headstart"


def converted(
    name: str,
    sources: Iterable[Path],
    convert: Callable[[Writer], None],
    *,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Stored:
    """Return the converted data; convert them if no process has done so before.

    Args:
        name: The data set's name, for the folder's.
        sources: The source files. Their paths, sizes and times decide whether an existing conversion
            belongs to these files.
        convert: Writes the arrays.
        options: What else determines the arrays.
        progress: Gets the progress of a conversion.

    Returns:
        The arrays. The folder appears complete or not at all. If two processes convert at once, the
        first one to finish wins, and the other uses its result.

    Raises:
        DataError: If the source is refused or the cache cannot be written.
    """
    key = hashlib.sha256(f"{_FORMAT} {name} {json.dumps(dict(options or {}), sort_keys=True)}".encode())
    for path in sources:
        state = path.stat()
        key.update(f"\n{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode())
    target = cache_root() / f"{name}-{key.hexdigest()[:24]}"
    found = _open(target)
    if found is not None:
        return found
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
        try:
            writer = Writer(making, progress)
            convert(writer)
            writer.close()
            _publish(making, target)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"'{name}' cannot be converted in '{target.parent}': {error.strerror or error}.",
            remedy="Set HEADSTART_CACHE to a folder with free space.",
        ) from error
    found = _open(target)
    if found is None:
        raise DataError(f"'{target}' was written and cannot be read back.")
    return found


def _publish(made: Path, target: Path) -> None:
    """Move a complete folder to its name, unless there is already a complete one."""
    with contextlib.suppress(OSError):  # it is there already
        made.rename(target)
        return
    if _open(target) is None and target.exists():
        aside = Path(tempfile.mkdtemp(prefix=".damaged-", dir=target.parent))
        with contextlib.suppress(OSError):  # another process may have moved it
            target.rename(aside / "it")
        shutil.rmtree(aside, ignore_errors=True)
    if not target.exists():
        with contextlib.suppress(FileExistsError):
            made.rename(target)


def _open(folder: Path) -> Stored | None:
    """Map the arrays of a folder; None if it is missing or incomplete."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        arrays = {}
        for name, (shape, dtype) in meta["arrays"].items():
            array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if list(array.shape) != shape or array.dtype.str != dtype:
                return None
            arrays[name] = array
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return Stored(arrays, meta["names"]) if meta.get("format") == _FORMAT else None
