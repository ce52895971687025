"""Published against measured results: a row per arm under test."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from headstart.bench.analysis.analysis import Analysis, ArmSummary
from headstart.bench.papers.published import Figure, of_arm
from headstart.bench.papers.reproduction.plan import Comparison, base
from headstart.bench.report.summary import as_dict, cells, span
from headstart.bench.statistics.paired import Interval
from headstart.bench.statistics.verdicts import signed

MARK = "†"
CAVEAT = (
    f"{MARK} cannot be compared with the measured results: it is not a test accuracy, or not the effect of a start"
    " alone."
)


class Side(NamedTuple):
    """Numbers of one arm as text, published or measured; empty if there are none."""

    baseline: str = ""
    arm: str = ""
    gain: str = ""
    interval: str = ""
    runs: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Row:
    """One arm of a comparison.

    Args:
        arm: Its label.
        figure: The published figure; None if there is none.
        published: The same as text.
        measured: The measured results, as text.
    """

    arm: str
    figure: Figure | None
    published: Side
    measured: Side


@dataclass(frozen=True)
class Outcome:
    """A comparison that was run.

    Args:
        comparison: The comparison.
        analysis: Its analysis.
        page: Its own page.
    """

    comparison: Comparison
    analysis: Analysis
    page: Path

    def rows(self) -> list[Row]:
        """Return a row per arm under test; controls are on the comparison's own page."""
        return rows_of(self.comparison.name, self.analysis)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return {
            "name": self.comparison.name,
            "deviations": self.comparison.deviations(),
            "notes": [asdict(note) for note in self.comparison.protocol.notes],
            "published": {row.arm: asdict(row.figure) for row in self.rows() if row.figure},
            "measured": as_dict(self.analysis),
            "page": str(self.page),
        }


def rows_of(name: str, analysis: Analysis) -> list[Row]:
    """Put published and measured results of each arm under test side by side.

    Args:
        name: The name of the protocol, with its version.
        analysis: The analysis of the trials.
    """
    return [_row(name, arm, cells(analysis.baseline).accuracy) for arm in analysis.methods]


def _row(name: str, arm: ArmSummary, baseline: str) -> Row:
    figure = of_arm(base(name), arm.label)
    found, seeds = cells(arm), len(arm.comparison.seeds) if arm.comparison else 0
    measured = Side(baseline, found.accuracy, found.difference, found.interval, f"{seeds or ''}", found.verdict)
    return Row(arm.label, figure, side(figure) if figure else Side(), measured)


def side(figure: Figure) -> Side:
    """Write a published figure as text.

    Example:
        >>> side(of_arm("prewarm-svhn", "prewarm"))[:4]
        ('89.08', '89.56', '+0.48', '+0.26 to +0.71')
    """
    interval = span(Interval(*figure.interval)) if figure.interval else ""
    mark = MARK if figure.caveat else ""
    return Side(
        f"{figure.baseline:.2f}{mark}", f"{figure.treated:.2f}{mark}", signed(figure.gain), interval, f"{figure.runs}"
    )
