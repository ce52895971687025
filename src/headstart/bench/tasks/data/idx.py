"""MNIST and Fashion-MNIST: the four IDX files, as they are or compressed, in torchvision's folders."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from headstart.bench.tasks.data import files
from headstart.bench.tasks.data.cache import Array, Writer
from headstart.errors import DataError

PARTS = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "test-images": "t10k-images-idx3-ubyte",
    "test-labels": "t10k-labels-idx1-ubyte",
}


def layouts(folder: str) -> list[list[str]]:
    """Return the ways to store the set, each with its paths from the root."""
    plain = [f"{folder}/raw/{name}" for name in PARTS.values()]
    return [plain, [f"{name}.gz" for name in plain]]


def convert(root: Path, paths: list[str], writer: Writer) -> None:
    """Read the four files and write them as arrays.

    Raises:
        DataError: If one is not the published file.
    """
    arrays = {}
    for part, name in zip(PARTS, paths, strict=True):
        path = files.place(root, name)
        content = files.checked_bytes(path, name)
        if name.endswith(".gz"):
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"'{path}' cannot be decompressed: {error}.") from error
        arrays[part] = parse(content, path)
    for part in ("train", "test"):
        images, labels = arrays[f"{part}-images"], arrays[f"{part}-labels"]
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or labels.max(initial=0) > 9:
            raise DataError(f"The {part} files in '{root / paths[0]}' do not belong together.")
        writer.save(f"{part}-images", images[:, None])
        writer.save(f"{part}-labels", labels.astype(np.int64))


def parse(content: bytes, path: Path) -> Array:
    """Read an IDX file of bytes.

    Raises:
        DataError: It is not an IDX file, or its length does not match its header.

    Example:
        >>> parse(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), Path("labels"))
        array([7, 9], dtype=uint8)
    """
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:3] != b"\0\0\x08" or not 1 <= dimensions <= 4 or len(content) < start:
        raise DataError(f"'{path}' is not an IDX file of bytes.")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise DataError(f"'{path}' has {len(content) - start} bytes where its header says {math.prod(shape)}.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
