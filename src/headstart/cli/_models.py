"""Checkpoints for ``init``, ``adapt`` and ``diagnose``: read into a model, and where they may be written."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from headstart.bench.models.formats import FORMATS
from headstart.errors import HeadstartError, unknown
from headstart.model import checkpoints


def load_checkpoint(model: nn.Module, path: Path) -> str:
    """Load weights into a model, from tensors only: a file that holds other objects is refused.

    Args:
        model: Takes the weights.
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` reads.

    Returns:
        A sentence on what was loaded.

    Raises:
        HeadstartError: No such file, not a file of tensors, or one that does not fit the model.
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
            remedy="Build the architecture that it was saved from (--model-args).",
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":\n")[2].split()) or " ".join(str(error).split())
        raise HeadstartError(f"The checkpoint '{path}' does not fit the model: {reason}") from error
    return f"Loaded {len(state)} tensors of '{path}'{notes}."


def check_output(path: Path, force: bool, suffixes: tuple[str, ...]) -> None:
    """Raise before any work if the output cannot be written where it is asked for.

    Raises:
        HeadstartError: Wrong suffix, a folder or in none, or a file is there and ``--force`` is not given.
    """
    if path.suffix not in suffixes:
        raise HeadstartError(
            f"'{path}' does not end in {' or '.join(suffixes)}.", remedy="The ending names the format."
        )
    # Not by the path's own methods: they raise for a name that is longer than the file system takes.
    if os.path.isdir(path):
        raise HeadstartError(f"'{path}' is a folder.", remedy="Name a file.")
    if not os.path.isdir(path.parent):
        raise HeadstartError(f"There is no folder '{path.parent}'.", remedy="Create it first.")
    if os.path.exists(path) and not force:
        raise HeadstartError(f"'{path}' exists.", remedy="Pass --force to replace it.")


def check_format(name: str | None, out: Path | None, force: bool) -> None:
    """Raise before any work if the start cannot be written so.

    Args:
        name: The form; by the file's ending if it is not said.
        out: The file, or the folder of the form ``hf``; None where nothing is written.
        force: Whether what is there may be replaced.

    Raises:
        HeadstartError: There is no such form, its file ends otherwise, or it cannot be written there.
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
