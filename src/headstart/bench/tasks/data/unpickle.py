"""Unpickling that can only make numbers, texts and arrays."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import DataError

_RECONSTRUCT = np.empty(0).__reduce__()[0]
_NUMPY = {"numpy", "numpy.core.multiarray", "numpy._core.multiarray"}


def _encode(text: str, encoding: str) -> bytes:
    """Stand for ``_codecs.encode``, which Python 3 writes into old protocols for bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few parts that arrays need; nothing is imported."""
        if module in _NUMPY and name in ("ndarray", "dtype", "_reconstruct"):
            return {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": _RECONSTRUCT}[name]
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def plain(content: bytes, path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of arrays, lists and texts.

    Args:
        content: The file's content, whose checksum was compared before.
        path: Its file, for messages.

    Raises:
        DataError: It needs anything else, is damaged, or is not a dictionary.

    Example:
        >>> plain(pickle.dumps({"labels": [1, 2]}), Path("batch"))
        {'labels': [1, 2]}
    """
    try:
        found = _Plain(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:
        raise DataError(
            f"'{path}' was refused while it was unpickled: {type(error).__name__}: {error}.",
            remedy="Only arrays, numbers and texts are unpickled.",
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"'{path}' holds {type(found).__name__}, not a dictionary.")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}


def array(value: Any, kind: str, path: Path) -> np.ndarray[Any, Any]:
    """Return a value as an array of numbers.

    Args:
        value: An array or a list of whole numbers.
        kind: ``"images"`` for uint8, ``"labels"`` for int64.
        path: Its file, for messages.

    Raises:
        DataError: It is not such an array.
    """
    try:
        found = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"'{path}': its {kind} are not an array.") from error
    good = found.dtype == np.uint8 if kind == "images" else found.ndim == 1 and found.dtype.kind in "iu"
    if not good:
        raise DataError(f"'{path}': its {kind} have type {found.dtype} and shape {found.shape}.")
    return found if kind == "images" else found.astype(np.int64)
