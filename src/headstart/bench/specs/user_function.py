"""Load a function from the user's own file: ``path/to/file.py:function``."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import HeadstartError, unknown


def is_user_function(spec: str) -> bool:
    """Tell whether a name has the form ``file.py:function``.

    Example:
        >>> is_user_function("nets/mine.py:build_model"), is_user_function("timm:resnet18")
        (True, False)
    """
    path, _, function = spec.rpartition(":")
    return path.endswith(".py") and function != ""


def load_function(spec: str) -> Callable[..., Any]:
    """Import the file and return the function.

    Args:
        spec: ``path/to/file.py:function``; a relative path counts from the working directory.

    Returns:
        The function. The file runs once per process and content.

    Raises:
        HeadstartError: The file is missing, or its import fails.
        UnknownNameError: The file has no function of that name; the nearest ones are listed.
    """
    path, name = _existing(spec), spec.rpartition(":")[2]
    module_name = f"_headstart_user_{file_fingerprint(spec)[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        found = importlib.util.spec_from_file_location(module_name, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[module_name] = module  # dataclasses and pickle look a class's module up by name
        try:
            found.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[module_name]
            if not isinstance(error, (Exception, SystemExit)):
                raise
            raise HeadstartError(f"Importing '{path}' failed: {_one_line(error)}.") from error
    function = getattr(module, name, None)
    if not callable(function):
        callables = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise unknown(f"function in '{path}':", name, callables)
    return function


def call_with_known(function: Callable[..., Any], offered: Mapping[str, Any], spec: str) -> Any:
    """Call a user's function with the offered keyword arguments that its signature takes.

    Args:
        function: The user's function.
        offered: Keyword arguments by name.
        spec: The user's name for the function, for messages.

    Returns:
        What the function returns.

    Raises:
        HeadstartError: The function has a required argument that is not offered, or raises.

    Example:
        >>> call_with_known(lambda classes: classes, {"classes": 10, "in_channels": 3}, "f.py:f")
        10
    """
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    lacking = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.name not in offered
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if lacking:
        raise HeadstartError(
            f"'{spec}' needs the argument(s) {', '.join(lacking)}, which headstart does not supply.",
            remedy=f"Give them defaults; available are: {', '.join(sorted(offered)) or 'none'}.",
        )
    chosen = offered if takes_any else {key: value for key, value in offered.items() if key in named}
    try:
        return function(**chosen)
    except HeadstartError:
        raise
    except (Exception, SystemExit) as error:  # a script's call of sys.exit() would end everything without a word
        raise HeadstartError(f"'{spec}' raised {_one_line(error)}.") from error


def file_fingerprint(spec: str) -> str:
    """Return the sha256 of the content of the file that a ``file.py:function`` name points to."""
    path = _existing(spec)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _existing(spec: str) -> Path:
    path = Path(spec.rpartition(":")[0]).expanduser()
    if not path.is_file():
        raise HeadstartError(
            f"There is no file '{path}' (asked for as '{spec}').",
            remedy="Give the path of a Python file, from the working directory, and a function in it.",
        )
    return path


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
