"""Tables and findings for terminals and notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text


def rich_table(
    title: str, findings: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> RenderableType:
    """Build a table with its findings below; names are shown as they are, never as markup."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        numeric = 0 < i < len(columns) - 1
        table.add_column(column, justify="right" if numeric and "std" in column else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(c) for c in row))
    return Group(table, *(Text(f"• {f}") for f in findings))


def to_text(renderable: RenderableType, width: int = 160) -> str:
    """Render without colour, as ``print`` and logs want it."""
    console = Console(width=width, no_color=True, highlight=False, force_terminal=False, record=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip()


def html_table(title: str, findings: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Build an HTML fragment; every string is escaped.

    Example:
        >>> html_table("<b>", [], ["a"], [["<script>"]])
        '<div class="headstart"><p><strong>&lt;b&gt;</strong></p><table>...&lt;script&gt;...</div>'
    """
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in cells)
    found = "".join(f"<li>{html.escape(f)}</li>" for f in findings)
    return (
        f'<div class="headstart"><p><strong>{html.escape(title)}</strong></p>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        + (f"<ul>{found}</ul>" if found else "")
        + "</div>"
    )
