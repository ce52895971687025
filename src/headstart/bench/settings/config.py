"""Experiments as TOML files: read with errors that name the line, and written from a command line."""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.bench.settings.words import (
    NOT_OF_A_TRAINER,
    SETTINGS,
    check,
    defaults,
    seeds_text,
)
from headstart.bench.specs.setting import HOW, OUTPUT, TRAINER, WHAT, Setting
from headstart.errors import HeadstartError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LARGEST = 64 * 2**10


@dataclass(frozen=True)
class Config:
    """The content of a file.

    Args:
        file: Its name.
        settings: Its settings with their values, in the form of the command line.
        lines: The line number of each setting.
    """

    file: str
    settings: Mapping[str, Any]
    lines: Mapping[str, int]

    def locate(self, error: HeadstartError, overruled: Mapping[str, Any] | None = None, about: str = "") -> None:
        """Add to a later error the line whose value it quotes, if there is one.

        Args:
            error: The error, such as an unknown model.
            overruled: Settings whose value does not come from the file.
            about: The setting that the error is about, if it is known.
        """
        if about in self.settings and about not in (overruled or {}):
            error.args = (f"{self.file}, line {self.lines[about]}: {error}",)
            return
        for name, value in self.settings.items():
            if name in (overruled or {}) or not isinstance(value, str):
                continue
            parts = value.split(":")  # family:NAME:options, each of which may be what the message quotes
            if any(f"'{part}'" in str(error) for part in (value, *parts, ":".join(parts[:2])) if len(part) > 1):
                error.args = (f"{self.file}, line {self.lines[name]}: {error}",)
                return


def read(path: str | os.PathLike[str]) -> Config:
    r"""Read an experiment's file.

    Args:
        path: A TOML file whose keys are settings of `headstart.bench.settings.words`. As on the command line, paths in
            it count from the working directory.

    Raises:
        HeadstartError: It is missing, is not TOML, has an unknown key, or a value out of range.
            The message names the line and, for an unknown key, the nearest one.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "experiment.toml")
        >>> _ = file.write_text('steps = 20\narms = ["lsuv"]\n')
        >>> read(file).settings
        {'steps': 20, 'arms': ('lsuv',)}
    """
    name = os.fspath(path)
    text = _text(name)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(name, text, error) from error
    lines = _lines(text)
    settings = {}
    for key, value in found.items():
        where = f"{name}, line {lines[key]}: "
        if key not in SETTINGS:
            raise _no_such_key(where, key, value)
        try:
            settings[key] = _READ[SETTINGS[key].kind](SETTINGS[key], value)
            check({key: settings[key]})
        except HeadstartError as error:
            message = str(error).replace(f"--{key} ", f"{key} = ")
            raise HeadstartError(f"{where}{message}") from error
    return Config(name, settings, lines)


def write(settings: Mapping[str, Any]) -> str:
    """Write settings as a file.

    Args:
        settings: Some settings; the others are written with their defaults, so that the file keeps its
            meaning if a default changes.

    Returns:
        TOML, which :func:`read` reads back to the same values.

    Example:
        >>> "steps = 20" in write({"steps": 20})
        True
    """
    trainer = bool(settings.get("trainer"))
    whole = {**defaults(trainer), **settings}
    groups = (WHAT, TRAINER, OUTPUT) if trainer else (WHAT, HOW, OUTPUT)
    if trainer:
        whole = {
            name: value
            for name, value in whole.items()
            if name not in NOT_OF_A_TRAINER and (name, value) != ("margin", 0)
        }
    parts = ["# Run it: headstart compare FILE. Options on the command line override these lines.\n"]
    for group in groups:
        parts.append(f"\n# {group}\n")
        parts += [f"{n} = {_toml(whole[n])}\n" for n, word in SETTINGS.items() if word.group == group and n in whole]
    return "".join(parts)


def save(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Write an experiment's file; an existing file is never replaced.

    Raises:
        HeadstartError: The file exists or cannot be written, or a value is out of range.
    """
    check(settings)
    text = write(settings)
    try:
        with Path(path).open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError as error:
        raise HeadstartError(f"'{path}' exists.", remedy="Choose another name, or remove it first.") from error
    except OSError as error:
        raise HeadstartError(f"'{path}' could not be written: {error.strerror or error}.") from error


def _text(name: str) -> str:
    try:
        raw = Path(name).read_bytes()
    except OSError as error:
        raise HeadstartError(
            f"The experiment's file '{name}' could not be read: {error.strerror or error}.",
            remedy="Write one with: headstart compare ... --write experiment.toml.",
        ) from error
    if len(raw) > _LARGEST:
        raise HeadstartError(f"'{name}' has {len(raw):,} bytes, too many for an experiment's file.")
    try:
        return raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise HeadstartError(f"{name}, line {line}: this is not UTF-8 text.") from error


def _syntax(name: str, text: str, error: Exception) -> HeadstartError:
    """Say where a file is not TOML; the parser has the place only in its message."""
    found = re.search(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error), re.DOTALL)
    message, line, _ = found.groups() if found else (str(error), None, None)
    last = max(1, len(text.rstrip("\n").split("\n")))
    number = min(int(line), last) if line else last
    shown = text.split("\n")[number - 1].strip()
    return HeadstartError(
        f"{name}, line {number}: {shown!r} is not TOML: {message[:1].lower()}{message[1:]}.",
        remedy='Write key = value, texts in quotes, lists in brackets: arms = ["prewarm", "lsuv"].',
    )


def _lines(text: str) -> dict[str, int]:
    """Find the line on which each key starts: the key appears once the file is parsed up to the statement's end."""
    lines = text.split("\n")
    places: dict[str, int] = {}
    start: int | None = None
    for number, line in enumerate(lines, 1):
        if start is None and line.strip() and not line.lstrip().startswith("#"):
            start = number
        if start is None:
            continue
        try:
            known = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # a value over several lines goes on
        for key in known:
            places.setdefault(key, start)
        start = None
    return places


def _no_such_key(where: str, key: str, value: Any) -> HeadstartError:
    if isinstance(value, dict):
        return HeadstartError(
            f"{where}there is no table '{key}'.", remedy="An experiment's file has no tables: write key = value."
        )
    near = difflib.get_close_matches(key.replace("_", "-"), SETTINGS, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(SETTINGS)}."
    return HeadstartError(f"{where}there is no key '{key}'.", remedy=hint)


def _wrong(word: Setting, value: Any, wanted: str) -> HeadstartError:
    shown = "a table" if isinstance(value, dict) else repr(value)
    return HeadstartError(f"{word.name} = {shown} is not {wanted}.")


def _read_text(word: Setting, value: Any) -> str:
    if not isinstance(value, str) or (not value and word.default):
        raise _wrong(word, value, 'a text: write it in quotes, "..."')
    return value


def _read_texts(word: Setting, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(word, value, 'a list of texts: write ["...", "..."]')
    if not value and word.default:
        raise HeadstartError(f"{word.name} = [] is empty.")
    return tuple(value)


def _read_whole(word: Setting, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(word, value, "a whole number")
    return value


def _read_number(word: Setting, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(word, value, "a number")
    return float(value)


def _read_numbers(word: Setting, value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise _wrong(word, value, "a list of numbers: write [7, 13]")
    return tuple(_read_number(word, item) for item in value)


def _read_switch(word: Setting, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(word, value, "true or false")
    return value


def _read_seeds(word: Setting, value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return seeds_text(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise _wrong(word, value, 'a number (8), a range ("0-7") or a list ([3, 5, 9])')
    return str(value)


_READ: dict[str, Callable[[Setting, Any], Any]] = {
    "text": _read_text,
    "texts": _read_texts,
    "whole": _read_whole,
    "number": _read_number,
    "numbers": _read_numbers,
    "switch": _read_switch,
    "flag": _read_switch,
    "seeds": _read_seeds,
}


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return '"' + "".join(map(_escaped, value)) + '"'
    return "[" + ", ".join(map(_toml, value)) + "]"


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        raise HeadstartError("A name that is not valid text cannot be written to a file.")
    return f"\\u{code:04x}" if code < 0x20 or code == 0x7F else character
