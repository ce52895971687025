"""One row model for every report: columns say once how a row reads as text and as data; renderers do the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from headstart.results.display import Table, printable

Item = TypeVar("Item")


@dataclass(frozen=True)
class Column(Generic[Item]):
    """What one column says of a row.

    Args:
        title: Its heading.
        text: Writes a row's cell for people; an empty string where there is nothing to say.
        key: Its name in data; empty if data has no such column.
        value: Returns the cell for machines.
        left: Whether it is aligned to the left, as words are.
    """

    title: str
    text: Callable[[Item], str]
    key: str = ""
    value: Callable[[Item], Any] | None = None
    left: bool = False


@dataclass(frozen=True)
class Sheet(Generic[Item]):
    r"""Rows under columns.

    Args:
        columns: From left to right.
        rows: From top to bottom.
        caption: What it shows.

    Example:
        >>> sheet = Sheet([Column("arm", str, "arm", str, True), Column("n", lambda a: f"{len(a)}")], ["a", "b|c"])
        >>> print("\n".join(sheet.markdown()))
        | arm | n |
        |---|--:|
        | a | 1 |
        | b\|c | 3 |
        >>> sheet.records()
        [{'arm': 'a'}, {'arm': 'b|c'}]
    """

    columns: Sequence[Column[Item]]
    rows: Sequence[Item]
    caption: str = ""

    def cells(self) -> list[list[str]]:
        """Return every row as text."""
        return [[column.text(row) for column in self.columns] for row in self.rows]

    def table(self) -> Table:
        """Return the table that terminals, notebooks and plain pages show."""
        return Table([column.title for column in self.columns], self.cells(), self.caption)

    def markdown(self) -> list[str]:
        """Return the lines of a Markdown table."""
        return markdown_table([c.title for c in self.columns], self.cells(), [c.left for c in self.columns])

    def records(self) -> list[dict[str, Any]]:
        """Return every row as data, by the columns' keys."""
        return [{c.key: c.value(row) for c in self.columns if c.value is not None} for row in self.rows]


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    """Return the lines of a Markdown table whose cells act as nothing but text."""
    lines = [
        "| " + " | ".join(map(inert, titles)) + " |",
        "|" + "|".join("---" if words else "--:" for words in left) + "|",
    ]
    return lines + ["| " + " | ".join(map(inert, row)) + " |" for row in rows]


def inert(text: str) -> str:
    r"""Keep a name from acting as Markdown or HTML.

    Example:
        >>> inert("# <b> *a*"), inert("1. digits")
        ('\\# &lt;b&gt; \\*a\\*', '1\\. digits')
    """
    plain = printable(" ".join(text.split()))
    for character in ("\\", "|", "`", "[", "]", "*", "_"):
        plain = plain.replace(character, "\\" + character)
    plain = re.sub(r"^(\d*)([-+#=~.)])(?=[-+#=~.)]*(\s|$))", r"\1\\\2", plain)  # what begins a list, heading or rule
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
