"""Image files through Pillow: list them, and read their pixels at one size."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from headstart.bench.tasks.data import files
from headstart.bench.tasks.data.cache import Array
from headstart.errors import DataError, needs_extra

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")
_PIECE = 512


def listed(boundary: Path, folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted, without hidden ones.

    Raises:
        DataError: A link leads out of ``boundary``, or a folder is a link.
    """
    if not folder.resolve().is_relative_to(boundary.resolve()):
        raise DataError(f"'{folder}' leads out of '{boundary}'.", remedy="Put the folder itself there.")
    found = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        for name in folders:
            if (here / name).is_symlink():
                raise DataError(f"'{here / name}' is a link to a folder.", remedy="Put the folder itself there.")
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = here / name
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                found.append(files.inside(boundary, path) if path.is_symlink() else path)
    return sorted(found)


def looked_at(paths: Sequence[Path]) -> tuple[str, set[tuple[int, int]]]:
    """Read all headers.

    Returns:
        The common mode (``"L"`` if every image is gray, otherwise ``"RGB"``), and the
        sizes (width, height) that occur.

    Raises:
        DataError: If a file is no image.
        MissingExtraError: If Pillow is not installed.
    """
    mode, sizes = "L", set()
    for path in paths:
        with _opened(path) as image:
            sizes.add(image.size)
            if image.mode not in ("L", "1"):
                mode = "RGB"
    return mode, sizes


def pixels(
    paths: Sequence[Path], mode: str, size: int | None, *, cut: bool = False, resample: str = "box"
) -> Iterator[Array]:
    """Yield the images in pieces of ``(n, C, H, W)``.

    Args:
        paths: The files.
        mode: ``"L"`` or ``"RGB"``.
        size: Side to scale to; None leaves images as they are.
        cut: Crop a centred square first; otherwise the whole image is stretched.
        resample: ``"box"``, ``"lanczos"`` or ``"bicubic"``.

    Raises:
        DataError: If a file cannot be read to its end.
    """

    def one(path: Path) -> Array:
        from PIL import Image, ImageOps

        with _opened(path) as image:
            read = image if image.mode == mode else image.convert(mode)
            if size is not None and read.size != (size, size):
                filter_ = Image.Resampling[resample.upper()]
                read = ImageOps.fit(read, (size, size), filter_) if cut else read.resize((size, size), filter_)
            array = np.asarray(read)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _PIECE):
            yield np.stack(list(pool.map(one, paths[start : start + _PIECE])))


class _opened:  # noqa: N801 - used like a function
    """An open image file; all its failures become one error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        with needs_extra(package="pillow", extra="bench", what="A data set of image files"):
            from PIL import Image
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                self._image = Image.open(self._path)
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise DataError(f"'{self._path}' is not a readable image: {error}.") from error
        return self._image

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._image.close()
        if isinstance(error, (OSError, ValueError, SyntaxError)):
            raise DataError(f"'{self._path}' is damaged: {error}.", remedy="Remove it or fetch it again.") from error
