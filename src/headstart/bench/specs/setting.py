"""Settings as dataclass fields: one line gives the default, the check, the option, the key and the documentation."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar

from headstart.errors import HeadstartError, unknown

Kind = Literal["text", "texts", "whole", "number", "numbers", "switch", "flag", "seeds"]
AUTO = "auto"
WHAT, HOW, OUTPUT = "what to compare", "how each trial trains", "output"
TRAINER = "a command of your own trains"
GROUPS = (WHAT, HOW, TRAINER, OUTPUT)
_KEY = "setting"
_KINDS: Mapping[str, Kind] = {
    "int": "whole",
    "float": "number",
    "str": "text",
    "bool": "switch",
    "tuple[str, ...]": "texts",
    "tuple[float, ...]": "numbers",
}
Settled = TypeVar("Settled")


@dataclass(frozen=True)
class Setting:
    """One setting of an experiment.

    Args:
        name: The key in the file; the option is the same with two dashes before it.
        kind: The kind of value. A switch is ``true`` or ``false`` in the file, ``--name`` or ``--no-name`` on
            the command line; a flag is a switch that is off unless ``--name`` is given.
        default: The default value.
        help: What it means, in a few words.
        group: The heading that it belongs to.
        metavar: The placeholder of the value in the help.
        choices: The possible values, if they can be listed.
        least: The smallest allowed number.
        above: The number must be above this.
        most: The largest allowed number.
        below: The number must be below this.
        noun: Its name in messages, if different.
        automatic: What ``auto`` chooses, the default of an experiment; empty if there is no ``auto``.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    group: str = HOW
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    noun: str = ""
    automatic: str = ""

    @property
    def field(self) -> str:
        """The name as a Python identifier."""
        return self.name.replace("-", "_")

    def check(self, value: Any) -> None:
        """Raise for a value that is not allowed.

        Raises:
            HeadstartError: It is none of the choices, or out of range.

        Example:
            >>> Setting("decay", "number", 0.1, "factor", above=0, most=1).check(2.0)
            Traceback (most recent call last):
                ...
            headstart.errors.HeadstartError: decay is 2; it must be above 0 and at most 1.
        """
        for each in ((value,) if isinstance(value, str) else tuple(value)) if self.choices else ():
            if each not in self.choices:
                raise unknown(self.noun or self.name.replace("-", " "), each, self.choices)
        if self._bounds and not (math.isfinite(value) and self._within(value)):
            shown = value if isinstance(value, int) else f"{value:g}"
            raise HeadstartError(f"{self.name} is {shown}; it must be {' and '.join(self._bounds)}.")

    @property
    def _bounds(self) -> list[str]:
        words = {"above": self.above, "at least": self.least, "below": self.below, "at most": self.most}
        return [f"{word} {bound:g}" for word, bound in words.items() if bound is not None]

    def _within(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def row(self) -> tuple[str, str, str]:
        """Name, values and meaning, as Markdown for a table of the documentation.

        Example:
            >>> Setting("decay", "number", 0.1, "factor of the schedule", above=0, most=1).row()
            ('`decay`', '0.1', 'factor of the schedule')
        """
        if self.choices and self.kind == "text":
            values = ", ".join(f"`{choice}`" for choice in _first(self.default, self.choices))
        elif self.choices:
            values = f"{_shown(self.default)}; any of {', '.join(f'`{choice}`' for choice in self.choices)}"
        else:
            values = _shown(self.default)
        return f"`{self.name}`", values, self.help.replace("|", "\\|")


def _first(value: str, choices: tuple[str, ...]) -> list[str]:
    return [value, *(choice for choice in choices if choice != value)]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(f"`{each}`" for each in value) or "none"
    return (f"`{value}`" if value else "none") if isinstance(value, str) else f"{value:g}"


def setting(default: Any, help: str, **how: Any) -> Any:
    """Make a field of a dataclass a setting of experiments.

    Args:
        default: The default of the field.
        help: What it means, in a few words.
        how: Further fields of `Setting`, beyond the field's own name, type and default.

    Returns:
        What :func:`dataclasses.field` returns.

    Example:
        >>> @dataclass(frozen=True)
        ... class Walk:
        ...     steps: int = setting(3, "how many", least=1)
        >>> settings_of(Walk)[0].kind
        'whole'
    """
    return field(default=default, metadata={_KEY: {"help": help, **how}})


def settings_of(cls: type) -> list[Setting]:
    """List the settings among a dataclass's fields, in their order."""
    found = []
    for each in fields(cls):
        if _KEY in each.metadata:
            own = {"name": each.name.replace("_", "-"), "kind": _KINDS[str(each.type)]}
            own["default"] = "" if each.default is MISSING else each.default
            found.append(Setting(**{**own, **each.metadata[_KEY]}))
    return found


def _names(cls: Any) -> list[str]:
    return [each.name for each in fields(cls) if _KEY in each.metadata]


def check_settings(one: Any) -> None:
    """Raise for the first setting of an instance whose value is not allowed.

    Raises:
        HeadstartError: It is none of the choices, or out of range.
    """
    for name, found in zip(_names(type(one)), settings_of(type(one)), strict=True):
        found.check(getattr(one, name))


def documented(cls: type[Settled]) -> type[Settled]:
    """Add the meaning of every setting to a class's docstring, so that it is written only once.

    Args:
        cls: A dataclass. Its docstring ends with the section ``Args``, or has none.
    """
    entries = []
    for field_name, found in zip(_names(cls), settings_of(cls), strict=True):
        known = f" One of {', '.join(f'``{choice}``' for choice in found.choices)}." if found.choices else ""
        entries.append(f"{field_name}: {found.help}.{known}")
    lines = "\n".join(textwrap.fill(entry, 110, subsequent_indent="    ") for entry in entries)
    doc = (cls.__doc__ or "").rstrip()
    head = doc if "    Args:\n" in doc else f"{doc}\n\n    Args:"
    cls.__doc__ = f"{head}\n{textwrap.indent(lines, ' ' * 8)}\n    "
    return cls
