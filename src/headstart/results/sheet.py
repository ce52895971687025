"""One row model for all reports: a column says once how a row reads as text and as data; renderers do the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from rich.table import Table as RichTable
from rich.text import Text

from headstart.results.display import Table, printable

Item = TypeVar("Item")


@dataclass(frozen=True)
class Column(Generic[Item]):
    """One column: how it writes a row.

    Args:
        title: The heading.
        text: Writes a row's cell for people; an empty string if there is nothing to say.
        key: The column's name in data; empty if data has no such column.
        value: Returns the cell for machines.
        left: Whether it is aligned to the left, as text.
        short: A shorter heading, for terminals.
        short_text: Writes a shorter cell, for terminals.
    """

    title: str
    text: Callable[[Item], str]
    key: str = ""
    value: Callable[[Item], Any] | None = None
    left: bool = False
    short: str = ""
    short_text: Callable[[Item], str] | None = None


class Mark(NamedTuple):
    """How a row is marked.

    Args:
        kind: ``"control"``, ``"group"`` (a heading), ``"overall"``, or nothing.
        colour: The colour of its last cell: ``"good"``, ``"bad"``, ``"open"``, ``"flat"``, or nothing.
        hue: Number of its line's colour in figures; None without one.
        dashes: Which dashes its line has in figures.
    """

    kind: str = ""
    colour: str = ""
    hue: int | None = None
    dashes: str = ""


_STYLES = {"control": "dim", "group": "bold", "overall": "italic"}
_COLOURS = {"good": "green", "bad": "red", "open": "yellow"}


@dataclass(frozen=True)
class Sheet(Generic[Item]):
    r"""Rows under columns.

    Args:
        columns: From left to right.
        rows: From top to bottom.
        caption: What it shows.
        mark: Returns how a row is marked.

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
    mark: Callable[[Item], Mark] = lambda _: Mark()

    def only(self, *titles: str) -> Sheet[Item]:
        """Return the sheet with only these columns, in this order."""
        by_title = {column.title: column for column in self.columns}
        return replace(self, columns=[by_title[title] for title in titles])

    def lines(self) -> list[tuple[Mark, list[str]]]:
        """Return every row as text, with its mark, for a page's template."""
        return [(self.mark(row), cells) for row, cells in zip(self.rows, self.cells(), strict=True)]

    def rich(self) -> RichTable:
        """Return a narrow table for a terminal, with short headings."""
        built = RichTable(box=None, header_style="bold", pad_edge=False)
        for column in self.columns:
            built.add_column(one_line(column.short or column.title), justify="left" if column.left else "right")
        for row in self.rows:
            mark = self.mark(row)
            style = _STYLES.get(mark.kind, "")
            cells = [one_line((column.short_text or column.text)(row), style) for column in self.columns]
            if style != "dim" and mark.colour in _COLOURS:
                cells[-1].stylize(_COLOURS[mark.colour])
            built.add_row(*cells)
        return built

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


def one_line(text: str, style: str = "") -> Text:
    r"""Put a text that may hold any name on one line, without characters that control the terminal.

    Example:
        >>> one_line("two\nlines and a bell" + chr(7)).plain == "two lines and a bell" + chr(0xFFFD)
        True
    """
    return Text(printable(re.sub(r"[\n\r\t]+", " ", text)), style=style)


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    """Return the lines of a Markdown table whose cells are plain text only."""
    lines = [
        "| " + " | ".join(map(inert, titles)) + " |",
        "|" + "|".join("---" if words else "--:" for words in left) + "|",
    ]
    return lines + ["| " + " | ".join(map(inert, row)) + " |" for row in rows]


def inert(text: str) -> str:
    r"""Escape a name, so that it is not read as Markdown or HTML.

    Example:
        >>> inert("# <b> *a*"), inert("1. digits")
        ('\\# &lt;b&gt; \\*a\\*', '1\\. digits')
    """
    plain = printable(" ".join(text.split()))
    for character in ("\\", "|", "`", "[", "]", "*", "_"):
        plain = plain.replace(character, "\\" + character)
    plain = re.sub(r"^(\d*)([-+#=~.)])(?=[-+#=~.)]*(\s|$))", r"\1\\\2", plain)  # what begins a list, heading or rule
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
