"""The terminal output for several experiments."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from headstart.bench.report.overview import Overview
from headstart.bench.report.overview_page import overview_sheet
from headstart.results.sheet import one_line as line


def show(overview: Overview, page: Path, console: Console) -> None:
    """Print a table of all methods in all experiments, a sentence per method, and where the page is.

    Args:
        overview: The content.
        page: The page's path.
        console: The console to print to.
    """
    console.print(line(overview.heading(), "bold"))
    console.print()
    console.print(
        overview_sheet(overview).only("method, experiment", "difference", "95 % interval", "steps", "verdict").rich()
    )
    console.print()
    for method in overview.methods:
        console.print(line(f"• {method.sentence()}"))
    for note in overview.notes:
        console.print(line(f"! {note}", "yellow"))
    console.print()
    console.print(line(f"Page: {page}"), soft_wrap=True)
