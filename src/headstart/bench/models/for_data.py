"""Build a model for a command: for the given data, with the user's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstart.bench.models import from_config
from headstart.bench.models.builders import resolve_model
from headstart.bench.specs import user_function
from headstart.engine import specs
from headstart.errors import HeadstartError, ModelError, unknown

_DEFAULT_CLASSES = {"headstart": 10}  # the families of larger models have 1,000 by default


def build(spec: str, model_args: str, facts: Mapping[str, Any] | None, seed: int) -> tuple[nn.Module, str]:
    """Build a model for the data.

    Args:
        spec: ``headstart:NAME``, ``torchvision:NAME``, ``timm:NAME``, ``file.py:function``, or a folder with the
            ``config.json`` of Hugging Face, whose values ``model_args`` may replace.
        model_args: ``key=value,...`` of the builder; what is missing comes from the data.
        facts: The data's ``in_channels``, ``classes`` and ``image_size``; None for what is not known, and
            None if there is no data.
        seed: The seed of the constructor's weights.

    Returns:
        The model, and a sentence on how it was built.

    Raises:
        HeadstartError: There is no such model, or it cannot be built with these arguments.
    """
    given = parse_arguments(model_args)
    family = specs.head(spec)[0]
    known: dict[str, Any] = {"in_channels": 3, "classes": _DEFAULT_CLASSES.get(family, 1000), "image_size": (224, 224)}
    found = {name: value for name, value in (facts or {}).items() if value is not None}
    known.update(found)
    if from_config.is_config_folder(spec):
        torch.manual_seed(seed & 0xFFFF_FFFF_FFFF_FFFF)
        return from_config.build_from_config(spec, given), f"Built the model of '{Path(spec, from_config.CONFIG)}'."
    torch.manual_seed(seed & 0xFFFF_FFFF_FFFF_FFFF)  # as torch reads a negative one; it takes no longer ones
    if user_function.is_user_function(spec):
        function = user_function.load_function(spec)
        # Only what is known is offered: a guess would hide that the function needs an answer.
        offered = dict(found)
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
    """The offered arguments that the function takes, and all arguments that it takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return offered, set(offered)
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {k: v for k, v in offered.items() if k in names}, names
