"""JSON Schemas of what commands print, from the dataclasses that are printed and from a few words on the rest."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

Schema = dict[str, Any]
_PLAIN: Mapping[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},  # what is not finite is null
}


def text(meaning: str) -> Schema:
    """A text."""
    return {"type": "string", "description": meaning}


def whole(meaning: str) -> Schema:
    """A whole number."""
    return {"type": "integer", "description": meaning}


def number(meaning: str) -> Schema:
    """A number, or null where it is undefined or infinite."""
    return {"type": ["number", "null"], "description": meaning}


def switch(meaning: str) -> Schema:
    """True or false."""
    return {"type": "boolean", "description": meaning}


def many(item: Schema, meaning: str) -> Schema:
    """A list."""
    return {"type": "array", "items": item, "description": meaning}


def texts(meaning: str) -> Schema:
    """A list of texts."""
    return many({"type": "string"}, meaning)


def by_name(item: Schema, meaning: str) -> Schema:
    """An object whose keys are names."""
    return {"type": "object", "additionalProperties": item, "description": meaning}


def anything(meaning: str) -> Schema:
    """Plain data whose keys depend on the case."""
    return {"description": meaning}


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return schema if "null" in schema.get("type", ["null"]) else {**schema, "type": [*schema["type"], "null"]}


def thing(meaning: str = "", /, *parts: Schema, optional: Collection[str] = (), **keys: Schema) -> Schema:
    """An object with these keys and no others.

    Args:
        meaning: What it is.
        parts: Other objects, whose keys it has too.
        optional: Keys that may be left out.
        keys: Each with its schema.
    """
    properties: Schema = {}
    left_out = {*optional}
    for part in parts:
        properties |= part["properties"]
        left_out |= {*part["properties"]} - {*part["required"]}
    return _object({**properties, **keys}, left_out, meaning)


def _object(properties: Schema, left_out: Collection[str], meaning: str) -> Schema:
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    found["required"] = [key for key in properties if key not in left_out]
    return {**found, "description": meaning} if meaning else found


def of(cls: Any, meaning: str = "", without: Sequence[str] = ()) -> Schema:
    """What `dataclasses.asdict` makes of a class: types from its annotations, meanings from its docstring.

    Args:
        cls: A dataclass whose docstring names its fields.
        meaning: What it is.
        without: Fields that are not printed.
    """
    meanings, hints = _meanings(cls), typing.get_type_hints(cls)
    keys = {each.name: _typed(hints[each.name]) for each in fields(cls) if each.name not in without}
    return _object({key: {**schema, **_about(meanings.get(key))} for key, schema in keys.items()}, (), meaning)


def _about(meaning: str | None) -> Schema:
    return {"description": meaning} if meaning else {}


def _meanings(cls: type) -> dict[str, str]:
    """Field -> meaning, from the section on arguments or attributes of the class and those that it extends."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__doc__ or "")
        section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", doc, re.MULTILINE)
        for item in re.findall(r"^    (\w.*(?:\n     .*)*)", section.group(1) if section else "", re.MULTILINE):
            names, _, meaning = " ".join(item.split()).partition(": ")
            found |= dict.fromkeys(names.split(", "), meaning.rstrip(".").replace("``", "`"))
    return found


def _typed(hint: Any) -> Schema:
    """The schema of an annotation."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if is_dataclass(hint):
        return of(hint)
    if origin in (types.UnionType, typing.Union):
        return maybe(_typed(next(each for each in inside if each is not types.NoneType)))
    if origin is typing.Literal:
        return {"type": "string", "enum": list(inside)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _typed(inside[1])}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"type": "array", "items": _typed(inside[0])}
    return {}
