"""Models and checkpoints for ``init`` and ``diagnose``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.cli._sources import Source
from headstart.engine import specs
from headstart.errors import HeadstartError, ModelError, unknown
from headstart.model import checkpoints

_DEFAULT_CLASSES = {"headstart": 10}  # the families of larger models have 1,000 by default


def build(spec: str, model_args: str, source: Source | None, seed: int) -> tuple[nn.Module, str]:
    """Build a model for the data.

    Args:
        spec: ``headstart:NAME``, ``torchvision:NAME``, ``timm:NAME`` or ``file.py:function``.
        model_args: ``key=value,...`` of the builder; what is missing comes from the data.
        source: The data, if there is any.
        seed: Names the weights that the constructor draws.

    Returns:
        The model, and a sentence on how it was built.

    Raises:
        HeadstartError: There is no such model, or it cannot be built so.
    """
    from headstart.bench.models.builders import resolve_model
    from headstart.bench.specs import user_function

    given = parse_arguments(model_args)
    family = specs.head(spec)[0]
    known: dict[str, Any] = {"in_channels": 3, "classes": _DEFAULT_CLASSES.get(family, 1000), "image_size": (224, 224)}
    if source is not None:
        found = {"in_channels": source.channels, "classes": source.classes, "image_size": source.image_size}
        known.update({k: v for k, v in found.items() if v is not None})
    torch.manual_seed(seed & 0xFFFF_FFFF_FFFF_FFFF)  # as torch reads a negative one; it takes no longer ones
    if user_function.is_user_function(spec):
        function = user_function.load_function(spec)
        # Only what is known is offered: a guess would hide that the function needs an answer.
        offered = {k: v for k, v in known.items() if source is not None and found[k] is not None}
        for name, other in (("classes", "num_classes"), ("in_channels", "in_chans")):
            if name in offered:
                offered[other] = offered[name]
        used, accepted = _accepted(function, {**offered, **given})
        refused = sorted(set(given) - accepted)
        if refused:
            raise unknown(f"argument of '{spec}':", refused[0], accepted)
        model = user_function.call_with_known(function, used, spec)
        if not isinstance(model, nn.Module):
            raise ModelError(f"'{spec}' returned {type(model).__name__}, not a torch.nn.Module.")
    else:
        for name in given:
            if name not in known:
                raise unknown(f"argument of '{spec}':", name, known)
        used = {**known, **given}
        try:
            model = resolve_model(spec)(used["in_channels"], used["classes"], tuple(used["image_size"]))
        except HeadstartError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"'{spec}' cannot be built: {type(error).__name__}: {reason}.") from error
    arguments = ", ".join(f"{k}={v}" for k, v in used.items())
    return model, f"Built '{spec}'{f' with {arguments}' if arguments else ''}."


def parse_arguments(text: str) -> dict[str, Any]:
    """Read ``key=value,...``.

    Raises:
        HeadstartError: A part without ``=``.

    Example:
        >>> parse_arguments("classes=10,image_size=(32,32),name=small")
        {'classes': 10, 'image_size': (32, 32), 'name': 'small'}
    """
    arguments = {}
    for item in specs.items(text):
        key, value = item
        if value is None or not key.isidentifier():
            raise HeadstartError(
                f"--model-args: {str(item)!r} is not key=value.",
                remedy="Write: --model-args in_channels=1,classes=10",
            )
        arguments[key] = specs.literal(value)
    return arguments


def _accepted(function: Any, offered: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Those of the offered arguments that the function takes, and all that it takes."""
    import inspect

    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return offered, set(offered)
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {k: v for k, v in offered.items() if k in names}, names


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


def save_checkpoint(model: nn.Module, path: Path, provenance: dict[str, Any]) -> None:
    """Write the model's ``state_dict``: safetensors with provenance in its metadata, or ``.pt``.

    The file appears complete or not at all. Tied weights are written under each of their names.
    """
    state: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in model.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        shared = tensor.untyped_storage().data_ptr() in places
        places.add(tensor.untyped_storage().data_ptr())
        state[name] = tensor.clone() if shared else tensor
    checkpoints.write(path, state, {"format": "pt", "headstart": json.dumps(provenance)})


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
