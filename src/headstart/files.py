"""Files of weights: read without running any code in them, written complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headstart.errors import HeadstartError

SAFETENSORS = ".safetensors"
_NESTED = ("state_dict", "model_state_dict", "model")


def read_checkpoint(path: Path) -> tuple[Any, Mapping[str, str]]:
    """Read what a checkpoint holds: tensors in containers, nothing that could run.

    Args:
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` reads.

    Returns:
        What it holds, on the CPU, and the metadata of a safetensors file.

    Raises:
        HeadstartError: There is no such file, it is damaged, or it holds other objects.
    """
    if not path.is_file():
        raise HeadstartError(f"There is no checkpoint '{path}'.", remedy="Check the path.")
    if path.suffix == SAFETENSORS:
        try:
            with safe_open(str(path), framework="pt") as file:
                return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise HeadstartError(f"'{path}' is not a readable safetensors file: {error}.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:
        raise HeadstartError(
            f"The checkpoint '{path}' was refused: it is damaged, or holds more than tensors, and loading"
            f" such a file can run code ({type(error).__name__}).",
            remedy="Save its state_dict, best as safetensors.",
        ) from error


def state_dict(found: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """Find the ``state_dict`` in what a checkpoint holds.

    Args:
        found: Content of the file.
        path: Names it in errors.

    Returns:
        Tensors by name, without the prefix of a data-parallel wrapper, and what was done, for a sentence on it.

    Raises:
        HeadstartError: There is none.
    """
    note = ""
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found, note = found[key], f" under '{key}'"
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise HeadstartError(f"'{path}' holds no state_dict.", remedy="Save model.state_dict().")
    if all(str(k).startswith("module.") for k in found):
        return {str(k).removeprefix("module."): v for k, v in found.items()}, f"{note}, without the prefix 'module.'"
    return {str(k): v for k, v in found.items()}, note


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors: safetensors with metadata where the name ends so, or else what ``torch.load`` reads.

    The file appears complete or not at all.

    Args:
        path: Where to.
        tensors: Contiguous, on the CPU, none sharing memory with another.
        metadata: For a safetensors file.

    Raises:
        HeadstartError: It cannot be written there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.touch()
        mode = part.stat().st_mode  # safetensors makes files that nobody else may read
        if path.suffix == SAFETENSORS:
            save_file(dict(tensors), str(part), metadata=dict(metadata))
        else:
            torch.save(dict(tensors), part)
        part.chmod(mode)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise HeadstartError(f"'{path}' cannot be written: {error}.") from error
    finally:
        part.unlink(missing_ok=True)
