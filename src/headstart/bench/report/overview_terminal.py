"""What a person sees of several experiments in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from headstart.bench.report.overview import Overview, overall_cells
from headstart.bench.report.summary import cells
from headstart.bench.report.templating import PILLS
from headstart.bench.report.terminal import line

_COLOURS = {"good": "green", "bad": "red", "open": "yellow"}


def show(overview: Overview, page: Path, console: Console) -> None:
    """Print a table of all methods in all experiments, a sentence per method, and where the page is.

    Args:
        overview: What to print.
        page: The page's path.
        console: Where to print.
    """
    console.print(line(overview.heading(), "bold"))
    built = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(("method, experiment", "diff.", "95 % interval", "steps", "verdict")):
        built.add_column(column, justify="left" if index in (0, 4) else "right")
    for method in overview.methods:
        built.add_row(line(method.label, "bold"))
        for row in method.rows:
            verdict, row_cells = row.state, cells(row.arm)
            speed = row.arm.speed.share() if row.arm.speed else ""
            numbers = [line(cell) for cell in (f"  {row.part.title}", row_cells.difference, row_cells.interval, speed)]
            style = _COLOURS.get(PILLS[row.comparison.verdict], "") if row.comparison else ""
            built.add_row(*numbers, line(verdict, style))
        if method.overall:
            whole = overall_cells(method.overall)
            shown = (f"  {whole.title}", whole.difference, whole.interval, "", whole.verdict)
            built.add_row(*(line(cell, "italic") for cell in shown))
    console.print()
    console.print(built)
    console.print()
    for method in overview.methods:
        console.print(line(f"• {method.sentence()}"))
    for note in overview.notes:
        console.print(line(f"! {note}", "yellow"))
    console.print()
    console.print(line(f"Page: {page}"), soft_wrap=True)
