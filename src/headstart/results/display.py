"""The common base of results: tables and sentences, shown as text, in a terminal, a notebook or a page."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

_PADDING = 3  # between columns


@dataclass
class Table:
    """One table as text.

    Attributes:
        columns: The headings.
        cells: The rows, each with one string per column.
        caption: What the table shows, if a result has several tables.
    """

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    caption: str = ""

    def numeric(self, column: int) -> bool:
        """Whether every cell of the column is a number or empty."""
        return all(_is_number(row[column]) for row in self.cells if row[column])


class Displayable(ABC):
    """Base of results that show themselves: text, terminal, notebook, HTML."""

    title: str

    @abstractmethod
    def to_tables(self) -> list[Table]:
        """The tables."""

    @abstractmethod
    def sentences(self) -> list[str]:
        """The findings in plain words."""

    def to_html(self) -> str:
        """Return an HTML fragment: title, findings, tables. Every name is escaped."""
        return html_fragment(self.title, self.sentences(), self.to_tables())

    def _repr_html_(self) -> str:
        return self.to_html()

    def __rich__(self) -> RenderableType:
        return rich_group(self.title, self.sentences(), self.to_tables())

    def __str__(self) -> str:
        return to_text(self.__rich__())


def printable(text: str) -> str:
    """Replace characters that must not be sent to a page, table or terminal.

    Example:
        >>> printable("bell" + chr(7)) == "bell" + chr(0xFFFD)
        True
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def number(value: float | None) -> str:
    """The number with three digits; an empty string if it was not measured.

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


def rich_group(title: str, findings: Sequence[str], tables: Sequence[Table]) -> RenderableType:
    """Build tables with their findings below; names are shown as they are, never as markup."""
    alone = len(tables) == 1
    parts: list[RenderableType] = [] if alone else [Text(printable(title), style="bold")]
    parts += [FittedTable(table, title if alone else table.caption) for table in tables]
    return Group(*parts, *(Text(printable(f"• {f}")) for f in findings))


class FittedTable:
    """A table that fits its terminal: one that is too wide continues below, and its notes become lines.

    Rich alone narrows all columns until they fit, and so breaks names and numbers in two: at 80 columns the report
    of a ResNet-50 takes three times as many lines, and layer names cannot be searched for.

    Args:
        table: What to show.
        title: The title above it.
    """

    def __init__(self, table: Table, title: str) -> None:
        self.table, self.title = table, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table, room = self.table, options.max_width
        columns = range(len(table.columns))
        cells = [max([0, *(len(row[i]) for row in table.cells)]) for i in columns]
        widths = [max(len(table.columns[i]), cells[i]) for i in columns]
        notes = [i for i in columns if table.columns[i] == "notes"]
        apart: list[int] = []
        if sum(w + _PADDING for w in widths) > room:  # let headings break between words, and take notes out
            widths = [min(room - _PADDING, max(_longest_word(table.columns[i]), cells[i])) for i in columns]
            apart = notes
        title = self.title
        for part in _parts(widths, [i for i in columns if i not in apart], room):
            yield self._table(part, widths, title)
            yield Text()
            title = ""
        for i in apart:
            yield from (Text(printable(f"{', '.join(names)}: {text}")) for text, names in _by_note(table, i).items())

    def _table(self, part: Sequence[int], widths: Sequence[int], title: str) -> RichTable:
        table = RichTable(
            title=escape(printable(title)) or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD
        )
        table.show_edge = table.pad_edge = False
        for i in part:
            justify: JustifyMethod = "right" if i and self.table.numeric(i) else "left"
            table.add_column(escape(self.table.columns[i]), justify=justify, overflow="fold", width=widths[i])
        for row in self.table.cells:
            table.add_row(*(Text(printable(row[i])) for i in part))
        return table


def _longest_word(text: str) -> int:
    """Width of a heading whose words may be on several lines."""
    return max(len(word) for word in text.split())


def _parts(widths: Sequence[int], columns: Sequence[int], room: int) -> list[list[int]]:
    """Cut columns into tables that fit, each starting with the first column.

    Example:
        >>> _parts([5, 20, 20, 20], [0, 1, 2, 3], 56)
        [[0, 1, 2], [0, 3]]
    """
    first, *rest = columns
    parts, used = [[first]], widths[first] + _PADDING
    for i in rest:
        if used + widths[i] + _PADDING > room and len(parts[-1]) > 1:
            parts.append([first])
            used = widths[first] + _PADDING
        parts[-1].append(i)
        used += widths[i] + _PADDING
    return parts


def _by_note(table: Table, column: int) -> dict[str, list[str]]:
    """Rows grouped by note, in order."""
    found: dict[str, list[str]] = {}
    for row in table.cells:
        if row[column]:
            found.setdefault(row[column], []).append(f"'{row[0]}'")
    return found


def to_text(renderable: RenderableType) -> str:
    """Render without colour, for ``print`` and logs."""
    console = Console(width=160, no_color=True, highlight=False, force_terminal=False, record=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip()


def html_fragment(title: str, findings: Sequence[str], tables: Sequence[Table]) -> str:
    """Build an HTML fragment; every string is escaped.

    Example:
        >>> html_fragment("<b>", [], [Table(["a"], [["<script>"]])])
        '<div class="headstart"><p><strong>&lt;b&gt;</strong></p><table>...&lt;script&gt;...</div>'
    """
    found = "".join(f"<li>{html.escape(f)}</li>" for f in findings)
    shown = "".join(_html_table(table) for table in tables)
    listed = f"<ul>{found}</ul>" if found else ""
    return f'<div class="headstart"><p><strong>{html.escape(title)}</strong></p>{listed}{shown}</div>'


def _html_table(table: Table) -> str:
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    styles = [' style="text-align:right"' if i and table.numeric(i) else "" for i in range(len(table.columns))]

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{s}>{html.escape(c)}</{tag[:2]}>" for c, s in zip(cells, styles, strict=True))

    head = line(table.columns, 'th scope="col"')
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in table.cells)
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1a1a1a; }
.headstart { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #999; white-space: nowrap; }
li { margin: .4rem 0; max-width: 60rem; }
"""


def html_page(title: str, fragments: Sequence[str]) -> str:
    """Wrap fragments (HTML already) in a page that works offline.

    Example:
        >>> html_page("a < b", ["<p>c</p>"]).count("a &lt; b")
        1
    """
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return f'<!doctype html><html lang="en"><head>{head}{viewport}</head><body>{"".join(fragments)}</body></html>\n'
