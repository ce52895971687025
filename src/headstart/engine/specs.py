"""The grammar of a name with options: one for methods, arms, models, tasks and searches.

A spec is ``name``, ``name:key=value,...`` or ``name:word,...``; ``+`` joins several, ``label=`` names one::

    prewarm:fraction=0.25,scale=match+within-layer:fill=keep
    mine=zero-dc-random:of='prewarm:fraction=1,norm=filter'
    cifar100:coarse,train=10000

A separator inside brackets or quotes belongs to a value. The grammar does not know which names, options and words
exist: the caller that reads a spec checks them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Item(NamedTuple):
    """One of the texts behind a name.

    Attributes:
        key: The text before the equals sign, or the whole word.
        value: The text behind it; None for a word.
    """

    key: str
    value: str | None

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"


def head(spec: str) -> tuple[str, str]:
    """Split a name from its options, if there are any.

    Example:
        >>> head("plain-cnn:depth=20"), head("lsuv")
        (('plain-cnn', 'depth=20'), ('lsuv', ''))
    """
    name, _, rest = spec.partition(":")
    return name, rest


def item(text: str) -> Item:
    """Read ``key=value`` or a word; spaces around both do not count.

    Example:
        >>> item("of = 'a=b'").value, item("coarse").value
        ("'a=b'", None)
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    return Item(key, value if equals else None)


def items(text: str) -> list[Item]:
    """Read what follows a name: items separated by commas.

    Example:
        >>> [str(each) for each in items("paper, std=(1, 2)")]
        ['paper', 'std=(1, 2)']
    """
    return [item(part) for part in split(text, ",")] if text.strip() else []


def split(text: str, separator: str) -> list[str]:
    """Split at separators that stand outside brackets and quotes (and are no exponent's sign).

    Example:
        >>> split("lsuv:std=1e+2+zero", "+"), split("a=(1,2),b='x,y'", ",")
        (['lsuv:std=1e+2', 'zero'], ['a=(1,2)', "b='x,y'"])
    """
    parts, depth, start, quote, escaped = [], 0, 0, "", False
    for i, c in enumerate(text):
        if quote:  # as Python reads a text: nothing in it counts, nor what follows a backslash
            quote = "" if c == quote and not escaped else quote
            escaped = c == "\\" and not escaped
            continue
        quote = c if c in "'\"" else ""
        depth += (c in "([{") - (c in ")]}")
        exponent = c == "+" and i > 1 and text[i - 1] in "eE" and text[i - 2].isdigit()
        if c == separator and depth == 0 and not exponent:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def literal(text: str) -> Any:
    """Read a value as Python writes it (and ``true``, ``false``, ``none``); anything else is text.

    Example:
        >>> literal("1e-3"), literal("(1, 2)"), literal("True"), literal("none"), literal("match")
        (0.001, (1, 2), True, None, 'match')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def labelled(text: str) -> tuple[str, str]:
    """Split ``label=spec``; without a label, the spec is its own label.

    Example:
        >>> labelled("quarter=prewarm:fraction=0.25"), labelled("prewarm:fraction=0.25")[0]
        (('quarter', 'prewarm:fraction=0.25'), 'prewarm:fraction=0.25')
    """
    head, equals, tail = text.partition("=")
    named = bool(equals) and ":" not in head  # a spec has its first = behind a colon
    return " ".join((head if named else text).split()), (tail if named else text).strip()


def path_and_options(text: str) -> tuple[str, str]:
    """Split a path, which may hold colons, from the options behind it.

    Example:
        >>> path_and_options("C:/cats:size=64,train=100"), path_and_options("C:/cats")
        (('C:/cats', 'size=64,train=100'), ('C:/cats', ''))
    """
    found = re.fullmatch(r"(.*?)(?::((?:[\w-]+=[\w.+-]+)(?:,[\w-]+=[\w.+-]+)*))?", text, re.DOTALL)
    assert found is not None
    return found[1], found[2] or ""


def write(name: str, options: Mapping[str, Any]) -> str:
    """Write a spec that reads back to the same name and options.

    Example:
        >>> write("prewarm", {"fraction": 0.25, "scale": "match"}), write("lsuv", {})
        ('prewarm:fraction=0.25,scale=match', 'lsuv')
    """
    written = ",".join(f"{key}={_value(value)}" for key, value in options.items())
    return f"{name}:{written}" if written else name


def _value(value: Any) -> str:
    """Write a value so that it reads back. Text that would otherwise be split or read as another type is quoted."""
    if not isinstance(value, str):
        return repr(value)
    whole = value == value.strip() and all(split(f"{value}{sign}", sign) == [value, ""] for sign in ",+")
    return value if whole and literal(value) == value else repr(value)
