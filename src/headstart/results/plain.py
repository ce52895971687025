"""Values that JSON can hold: every file and every ``--json`` is written from these."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def undefined(_: float) -> None:
    """Write a number that is not finite as null: it was not measured, or has no bound."""


def plain(value: Any, not_finite: Callable[[float], Any] = undefined) -> Any:
    """Turn a value into what JSON can hold: texts, numbers, truth values, lists, objects and null.

    Args:
        value: Any value; containers are searched. Scalars and arrays of numpy and torch become numbers and lists;
            other objects, such as a path, become text.
        not_finite: Returns the replacement for NaN and infinities, which JSON does not know. ``str`` keeps them as
            text.

    Example:
        >>> plain({"interval": (1.5, math.inf), 3: True})
        {'interval': [1.5, None], '3': True}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, not_finite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, not_finite) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), not_finite)
    if isinstance(value, float) and not math.isfinite(value):
        return not_finite(value)
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def to_json(value: Any, not_finite: Callable[[float], Any] = undefined) -> str:
    """Write standard JSON in one line.

    Args:
        value: As for :func:`plain`.
        not_finite: As for :func:`plain`.

    Example:
        >>> to_json({"a": float("nan"), "b": (1.0,)}), to_json([float("-inf")], str)
        ('{"a": null, "b": [1.0]}', '["-inf"]')
    """
    return json.dumps(plain(value, not_finite), allow_nan=False)
