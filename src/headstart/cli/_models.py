"""Checkpoints for ``init``, ``adapt`` and ``diagnose``: read into a model, and where they may be written."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from headstart.bench.models.formats import FORMATS
from headstart.errors import HeadstartError, unknown
from headstart.model import checkpoints


def load_checkpoint(model: nn.Module, path: Path) -> str:
    """Load weights into a model. A file that holds other objects than tensors is refused.

    Args:
        model: Takes the weights.
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` reads.

    Returns:
        A sentence on what was loaded.

    Raises:
        HeadstartError: There is no such file, it holds other objects, or it does not fit the model.
    """
    from headstart.api import apply
    from headstart.results.report import Init

    found, metadata = checkpoints.read_checkpoint(path)
    if metadata.get("format") == "headstart-init-1":
        apply(model, Init.load(path))
        return f"Applied the initialization '{path}'."
    state, notes = checkpoints.state_dict(found, path)
    own = model.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        parts = [
            f"{len(names)} {word} (such as '{names[0]}')"
            for names, word in ((missing, "missing"), (extra, "unknown"))
            if names
        ]
        raise HeadstartError(
            f"The checkpoint '{path}' does not fit the model: {' and '.join(parts)} of its {len(own)} tensors.",
            remedy="Build the same architecture as when it was saved (--model-args).",
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":\n")[2].split()) or " ".join(str(error).split())
        raise HeadstartError(f"The checkpoint '{path}' does not fit the model: {reason}") from error
    return f"Loaded {len(state)} tensors of '{path}'{notes}."


def check_output(path: Path, force: bool, suffixes: tuple[str, ...]) -> None:
    """Raise before any work if the output cannot be written there.

    Raises:
        HeadstartError: Wrong ending, a folder, a missing folder, or the file exists and ``--force`` is not given.
    """
    if path.suffix not in suffixes:
        raise HeadstartError(
            f"'{path}' does not end in {' or '.join(suffixes)}.", remedy="The ending decides the format."
        )
    # Not by the path's own methods: they raise for a name that is longer than the file system takes.
    if os.path.isdir(path):
        raise HeadstartError(f"'{path}' is a folder.", remedy="Name a file.")
    if not os.path.isdir(path.parent):
        raise HeadstartError(f"There is no folder '{path.parent}'.", remedy="Create it first.")
    if os.path.exists(path) and not force:
        raise HeadstartError(f"'{path}' exists.", remedy="Pass --force to replace it.")


def check_format(name: str | None, out: Path | None, force: bool) -> None:
    """Raise before any work if the start cannot be written in a format.

    Args:
        name: The format; None for that of the file's ending.
        out: The file, or for ``hf`` the folder; None if nothing is written.
        force: Whether an existing file may be replaced.

    Raises:
        HeadstartError: There is no such format, the file has another ending, or it cannot be written there.
    """
    if name is not None and name not in FORMATS:
        raise unknown("format", name, FORMATS)
    if out is None:
        return
    if name != "hf":
        check_output(out, force, FORMATS[name].suffixes if name else (".safetensors", ".pt"))
    elif out.exists() and not (out.is_dir() and (force or not any(out.iterdir()))):
        raise HeadstartError(
            f"'{out}' exists.", remedy="Name a new folder." if not out.is_dir() else "Pass --force to replace it."
        )
    elif not os.path.isdir(out.absolute().parent):
        raise HeadstartError(f"There is no folder '{out.parent}'.", remedy="Create it first.")
