"""Filters as small pictures: a PNG in a data address, one cell per filter."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_COLUMNS = 8
# Blue for negative, near white for zero, red for positive: readable without telling red from green.
_NEGATIVE, _ZERO, _POSITIVE = np.array([33, 102, 172]), np.array([247, 247, 247]), np.array([178, 24, 43])


def common_scale(layers: Sequence[Mapping[str, Any]]) -> float:
    """Find one scale for all pictures, so that arms can be compared.

    Args:
        layers: The first-layer records of trials.

    Returns:
        The 99.5th percentile of all magnitudes.
    """
    values = [abs(v) for layer in layers for part in ("default", "start", "trained") for v in layer[part] if v]
    return float(np.percentile(values, 99.5)) if values else 1.0


def filter_picture(layer: Mapping[str, Any], part: str, scale: float) -> tuple[str, int, int]:
    """Draw the kept filters of a layer.

    Args:
        layer: The first-layer record of a trial.
        part: ``"default"``, ``"start"`` or ``"trained"``.
        scale: The magnitude of full colour.

    Returns:
        A data address, and width and height in cells of one weight. Filters of three channels are shown
        in colour, others as the mean over channels on a scale from blue through white to red.
    """
    shape = [layer["kept"], *layer["shape"][1:]]
    values = np.array([0.0 if v is None else v for v in layer[part]]).reshape(shape)
    tiles = _colour(_planes(values), scale)
    count, height, width, _ = tiles.shape
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    for index in range(count):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[top : top + height, left : left + width, :3] = tiles[index]
        canvas[top : top + height, left : left + width, 3] = 255
    return "data:image/png;base64," + base64.b64encode(_png(canvas)).decode(), canvas.shape[1], canvas.shape[0]


def _planes(values: Floats) -> Floats:
    """Bring filters of any rank to ``(N, H, W)``, or ``(N, H, W, 3)`` for colour."""
    if values.ndim == 4 and values.shape[1] == 3:
        return values.transpose(0, 2, 3, 1)
    if values.ndim == 2:  # a linear layer: a square where its inputs make one
        side = round(values.shape[1] ** 0.5)
        return values.reshape(len(values), side, side) if side * side == values.shape[1] else values[:, None, :]
    if values.ndim == 3:
        return values
    while values.ndim > 3:
        values = values.mean(axis=1)
    return values


def _colour(planes: Floats, scale: float) -> NDArray[np.uint8]:
    level = np.clip(planes / scale, -1, 1)
    if planes.ndim == 4:
        return np.round(127.5 + 127.5 * level).astype(np.uint8)
    level = level[..., None]
    end = np.where(level > 0, _POSITIVE, _NEGATIVE)
    return np.round(_ZERO + np.abs(level) * (end - _ZERO)).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
