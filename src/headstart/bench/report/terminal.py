"""The terminal output: progress bars, the table, one verdict sentence per arm."""

from __future__ import annotations

import time
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

from headstart.bench.analysis.analysis import Analysis
from headstart.bench.report.summary import arm_sheet, facts, heading, mark_of
from headstart.bench.runs.executors.base import Working
from headstart.bench.runs.forecast import duration
from headstart.results.sheet import one_line as line

_SILENCE = 30.0  # seconds without a word, where there is no terminal
_AT_WORK = 8  # lines of trials at work that still fit a terminal


class Bars:
    """Progress bars for a run: for all trials, and for the steps of running trials.

    Args:
        console: The console to draw on; standard error by default, so that the output can be piped.
        hidden: Draw no bars.
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
        self._console = None if hidden or console.is_terminal else console
        self._begun = self._said = time.monotonic()
        self._total = self._done = 0
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
        """Show how many trials there are and how many are already done."""
        self._progress.update(self._all, total=total, completed=kept)
        self._total, self._done = total, kept

    def working(self, trials: Sequence[Working]) -> None:
        """Show which trials are running and their progress; the first few get a line each."""
        shown = {(trial.arm, trial.seed): trial for trial in trials[:_AT_WORK]}
        for gone in self._lines.keys() - shown.keys():
            self._progress.remove_task(self._lines.pop(gone))
        for (arm, seed), trial in shown.items():
            if (arm, seed) not in self._lines:
                name = line(f"{arm}, seed {seed}").plain
                self._lines[arm, seed] = self._progress.add_task(name, total=trial.steps)
            self._progress.update(self._lines[arm, seed], completed=trial.done)
        self._live(trials)

    def end(self, result: dict[str, Any]) -> None:
        """Show that a trial ended, and its result."""
        self._progress.advance(self._all)
        self._done += 1
        self._live(())

    def _live(self, trials: Sequence[Working]) -> None:
        """Print a line every half minute if there are no bars."""
        now = time.monotonic()
        if self._console is None or now - self._said < _SILENCE:
            return
        self._said = now
        work = "; ".join(f"{trial.arm}, seed {trial.seed}: step {trial.done} of {trial.steps}" for trial in trials[:2])
        after = duration(now - self._begun)
        text = f"{self._done} of {self._total} trials done after {after}{'; at work: ' * bool(work)}{work}."
        self._console.print(line(text), soft_wrap=True)


def table(analysis: Analysis) -> Table:
    """Build the table of all arms, narrow enough for 80 columns; controls are dim and below their method."""
    whole = arm_sheet(analysis, mark_of)
    return whole.only("arm", analysis.metric.name, "difference", "95 % interval", "wins", "verdict").rich()


def show(analysis: Analysis, page: Path, console: Console) -> None:
    """Print what was compared, the table, a sentence per arm, what the controls show, and where the page is.

    Args:
        analysis: The content.
        page: The page's path.
        console: The console to print to.
    """
    console.print(line(heading(analysis), "bold"))
    for fact in facts(analysis):
        console.print(line(f"  {fact}", "dim"))
    console.print()
    console.print(table(analysis))
    console.print()
    if analysis.conclusion():
        console.print(line(analysis.conclusion(), "bold"))
        console.print()
    for arm in analysis.methods:
        console.print(line(f"• {arm.sentence()}"))
    for reading in analysis.control_readings():
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
