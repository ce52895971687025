"""Tables and findings for terminals, notebooks and pages."""

from __future__ import annotations

import html
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from headstart.shown import Grid


def rich_group(title: str, findings: Sequence[str], grids: Sequence[Grid]) -> RenderableType:
    """Build tables with their findings below; names are shown as they are, never as markup."""
    alone = len(grids) == 1
    parts: list[RenderableType] = [] if alone else [Text(title, style="bold")]
    for grid in grids:
        caption = title if alone else grid.caption
        table = Table(title=escape(caption), title_justify="left", title_style="bold" if alone else "italic")
        for i, column in enumerate(grid.columns):
            table.add_column(column, justify="right" if i and grid.numeric(i) else "left", overflow="fold")
        for row in grid.cells:
            table.add_row(*(Text(c) for c in row))
        parts.append(table)
    return Group(*parts, *(Text(f"• {f}") for f in findings))


def to_text(renderable: RenderableType, width: int = 160) -> str:
    """Render without colour, as ``print`` and logs want it."""
    console = Console(width=width, no_color=True, highlight=False, force_terminal=False, record=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip()


def html_fragment(title: str, findings: Sequence[str], grids: Sequence[Grid]) -> str:
    """Build an HTML fragment; every string is escaped.

    Example:
        >>> html_fragment("<b>", [], [Grid(["a"], [["<script>"]])])
        '<div class="headstart"><p><strong>&lt;b&gt;</strong></p><table>...&lt;script&gt;...</div>'
    """
    found = "".join(f"<li>{html.escape(f)}</li>" for f in findings)
    tables = "".join(_html_table(grid) for grid in grids)
    listed = f"<ul>{found}</ul>" if found else ""
    return f'<div class="headstart"><p><strong>{html.escape(title)}</strong></p>{tables}{listed}</div>'


def _html_table(grid: Grid) -> str:
    caption = f"<caption>{html.escape(grid.caption)}</caption>" if grid.caption else ""
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in grid.columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in grid.cells)
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
