"""What a person sees in the terminal: progress bars, the table, a verdict sentence per arm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from headstart.bench.analysis.analysis import Analysis
from headstart.bench.report.summary import cells, facts, heading
from headstart.bench.runs.executors.base import Working
from headstart.bench.statistics.metric import ACCURACY
from headstart.results.display import printable

_COLOURS = {"helps": "green", "hurts": "red", "not settled": "yellow", "refused": "red"}

_COLUMNS = ("arm", "accuracy", "diff.", "95 % interval", "wins", "verdict")

_AT_WORK = 8  # lines of trials at work that still fit a terminal


class Bars:
    """Progress bars for a run: all trials, and the steps of those at work.

    Args:
        console: Where to draw; standard error, so that the output can be piped.
        hidden: Draw nothing.
    """

    def __init__(self, console: Console, hidden: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=hidden,
            transient=True,
        )
        self._all = self._progress.add_task("trials", total=None)
        self._lines: dict[tuple[str, int], TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:  # what never showed has no last line to end
            self._progress.stop()

    def begin(self, total: int, kept: int) -> None:
        """Say how many trials there are and how many of them were already done."""
        self._progress.update(self._all, total=total, completed=kept)

    def working(self, trials: Sequence[Working]) -> None:
        """Say which trials are at work, all of them, and how far; the first few get a line each."""
        shown = {(trial.arm, trial.seed): trial for trial in trials[:_AT_WORK]}
        for gone in self._lines.keys() - shown.keys():
            self._progress.remove_task(self._lines.pop(gone))
        for (arm, seed), trial in shown.items():
            if (arm, seed) not in self._lines:
                name = line(f"{arm}, seed {seed}").plain
                self._lines[arm, seed] = self._progress.add_task(name, total=trial.steps)
            self._progress.update(self._lines[arm, seed], completed=trial.done)

    def end(self, result: dict[str, Any]) -> None:
        """Say that the trial ended, and with what."""
        self._progress.advance(self._all)


def line(text: str, style: str = "") -> Text:
    r"""Put a text that may hold any name on one line, where no character of it acts on the terminal.

    Example:
        >>> line("two\nlines and a bell" + chr(7)).plain == "two lines and a bell" + chr(0xFFFD)
        True
    """
    return Text(printable(re.sub(r"[\n\r\t]+", " ", text)), style=style)


def table(analysis: Analysis) -> Table:
    """Build the table of all arms, narrow enough for 80 columns; controls are dim and below their method."""
    built = Table(box=None, header_style="bold", pad_edge=False)
    own = analysis.metric is ACCURACY
    for index, column in enumerate(_COLUMNS if own else (_COLUMNS[0], printable(analysis.metric.name), *_COLUMNS[2:])):
        built.add_column(column, justify="left" if index in (0, len(_COLUMNS) - 1) else "right")
    for arm in analysis.arms:
        row = cells(arm)
        label = f"└ {arm.control}" if arm.control and arm.control != "null" else arm.label
        style = "dim" if arm.control else ""
        numbers = [line(cell, style) for cell in (row.accuracy, row.difference, row.interval, row.wins)]
        verdict = row.verdict
        built.add_row(line(label, style), *numbers, line(verdict, style or _COLOURS.get(verdict, "")))
    return built


def show(analysis: Analysis, page: Path, console: Console) -> None:
    """Print what was compared, the table, a sentence per arm, what the controls show, and where the page is.

    Args:
        analysis: What to print.
        page: The page's path.
        console: Where to print.
    """
    console.print(line(heading(analysis), "bold"))
    for fact in facts(analysis):
        console.print(line(f"  {fact}", "dim"))
    console.print()
    console.print(table(analysis))
    console.print()
    for arm in analysis.methods:
        console.print(line(f"• {arm.sentence()}"))
    for reading in analysis.control_readings(brief=True):
        console.print(line(f"• {reading}", "dim"))
    if analysis.selection:
        console.print(line(f"• {analysis.selection.choices}", "dim"))
    for note in [*analysis.notes, *([f"{analysis.missing} trials are not finished."] if analysis.missing else [])]:
        console.print(line(f"! {note}", "yellow"))
    for failure in analysis.failures:
        console.print(line(f"! {failure.arm}, seed {failure.seed}, failed: {failure.reason}", "yellow"))
    if analysis.failures and analysis.failures[0].lines:
        first = analysis.failures[0]
        console.print(line(f"  The last lines of {first.arm}, seed {first.seed}:", "dim"))
        for text in first.lines.splitlines():
            console.print(line(f"    {text}", "dim"))
    console.print()
    console.print(line(f"Page: {page}"), soft_wrap=True)
