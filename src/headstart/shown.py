"""What results have in common: tables and sentences, shown as text, in a terminal, a notebook or a page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass
class Grid:
    """One table as text.

    Attributes:
        columns: Headings.
        cells: Rows of as many strings.
        caption: What it shows, where a result has several.
    """

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    caption: str = ""

    def numeric(self, column: int) -> bool:
        """Whether every cell of the column that is not empty is a number."""
        return all(_is_number(row[column]) for row in self.cells if row[column])


class Shown(ABC):
    """Base of results that show themselves: text, terminal, notebook, HTML."""

    title: str

    @abstractmethod
    def grids(self) -> list[Grid]:
        """The tables."""

    @abstractmethod
    def sentences(self) -> list[str]:
        """The findings in plain words."""

    def to_html(self) -> str:
        """Return an HTML fragment: title, findings, tables. Every name is escaped."""
        from headstart.render import html_fragment

        return html_fragment(self.title, self.sentences(), self.grids())

    def _repr_html_(self) -> str:
        return self.to_html()

    def __rich__(self) -> RenderableType:
        from headstart.render import rich_group

        return rich_group(self.title, self.sentences(), self.grids())

    def __str__(self) -> str:
        from headstart.render import to_text

        return to_text(self.__rich__())


def printable(text: str) -> str:
    """Replace the characters that no page, table or terminal should be sent.

    Example:
        >>> printable("bell" + chr(7)) == "bell" + chr(0xFFFD)
        True
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def number(value: float | None) -> str:
    """Three digits, or nothing for what was not measured.

    Example:
        >>> number(0.123456), number(None)
        ('0.123', '')
    """
    return "" if value is None else f"{value:.3g}"


def _is_number(text: str) -> bool:
    try:
        float(text.split(" → ")[0].removesuffix(" dead").rstrip("%"))
    except ValueError:
        return False
    return True
