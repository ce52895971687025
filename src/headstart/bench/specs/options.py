"""Options behind a name, as in ``cifar100:coarse,train=10000`` or ``headstart:plain-cnn:depth=20``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.engine import specs
from headstart.errors import HeadstartError, unknown


def read(text: str, known: Mapping[str, Any], what: str, positional: Sequence[str] = ()) -> dict[str, Any]:
    """Read ``key=value`` options, flags and positional values.

    Args:
        text: The text after the name and its colon, separated by commas.
        known: The default value of each option; its type (``int``, ``bool`` or ``str``) is the option's type. An
            option without a default is an ``int`` that defaults to ``None``.
        what: The name that the options belong to, for messages.
        positional: Options for values without a key, in this order.

    Returns:
        Every known option with its value.

    Raises:
        UnknownNameError: There is no such option.
        HeadstartError: An option repeats, or its value does not fit.

    Example:
        >>> read("coarse,train=100", {"coarse": False, "train": None}, "cifar100")
        {'coarse': True, 'train': 100}
        >>> read("10,13", {"first": None, "second": None}, "cifar100-pairs", ("first", "second"))
        {'first': 10, 'second': 13}
    """
    found: dict[str, Any] = {}
    places = iter(positional)
    for item in specs.items(text):
        key, value = item
        if not str(item):
            continue
        if value is None:
            if isinstance(known.get(key), bool):
                value = "true"
            elif key not in known and (place := next(places, None)) is not None:
                key, value = place, key
        if key not in known:
            raise (
                unknown(f"option of '{what}':", key, known)
                if known
                else HeadstartError(f"'{what}' takes no options, such as {str(item)!r}.")
            )
        if key in found:
            raise HeadstartError(f"'{what}:{text}' gives '{key}' twice.")
        found[key] = _value(key, value or "", known[key], what)
    return {**known, **found}


def _value(key: str, value: str, default: Any, what: str) -> Any:
    if isinstance(default, bool):
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise HeadstartError(f"'{what}': {key}={value!r} is neither true nor false.")
    if isinstance(default, str):
        return value
    if value.isascii() and value.isdigit() and len(value) < 12:
        return int(value)
    raise HeadstartError(f"'{what}': {key}={value!r} is not a whole number.", remedy=f"Write {key}=NUMBER.")
