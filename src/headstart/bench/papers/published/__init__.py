"""The papers' published figures as data, each with its runs, its interval and notes."""

from __future__ import annotations

import csv
import functools
import importlib.resources
from dataclasses import dataclass

__all__ = ["Figure", "figures", "of_arm"]


@dataclass(frozen=True)
class Figure:
    """A published difference between two starts.

    Args:
        paper: As `headstart.bench.papers.reproduction` names it.
        protocol: The comparison, without its version.
        arm: The start, as the protocol calls it.
        setting: How it differs from the protocol's arm; empty if the arm measures the same.
        baseline: Mean of the baseline, in percent.
        treated: Mean of the start, in percent.
        gain: Their difference, in points.
        interval: 95 % of the paired gain by the t distribution, from released runs or from the published gain and
            p-value; None if there is neither, or runs are not paired.
        p: Of the two-sided paired t-test; None likewise.
        published_p: The p-value that the paper states: one-sided. None if it states none.
        runs: Of each.
        metric: What was measured.
        source: Where its runs are released: a file's stem, and what names the figure in it. Empty if they are not.
        caveat: Why it cannot be compared with a measured test accuracy: ``"measure"``, it is another one;
            ``"sequence"``, it is of a sequence of tasks, and not of a start alone; or empty.
        note: A remark.
    """

    paper: str
    protocol: str
    arm: str
    setting: str
    baseline: float
    treated: float
    gain: float
    interval: tuple[float, float] | None
    p: float | None
    published_p: float | None
    runs: int
    metric: str
    source: tuple[str, ...]
    caveat: str
    note: str


@functools.cache
def figures() -> tuple[Figure, ...]:
    """Return all published figures, paper by paper.

    Example:
        >>> figures()[0].protocol, figures()[0].gain
        ('prewarm-mnist', 0.055)
    """
    text = importlib.resources.files(__name__).joinpath("figures.csv").read_text(encoding="utf-8")
    return tuple(_figure(row) for row in csv.DictReader(text.splitlines()))


def of_arm(protocol: str, arm: str) -> Figure | None:
    """Return the published figure that an arm of a protocol measures again; None if there is none.

    Args:
        protocol: Its name without the version.
        arm: The arm's label.

    Example:
        >>> of_arm("clusters-tiny-imagenet", "clusters-paper").treated
        35.37
    """
    found = (figure for figure in figures() if (figure.protocol, figure.arm, figure.setting) == (protocol, arm, ""))
    return next(found, None)


def _figure(row: dict[str, str]) -> Figure:
    return Figure(
        row["paper"],
        row["protocol"],
        row["arm"],
        row["setting"],
        float(row["baseline"]),
        float(row["treated"]),
        float(row["gain"]),
        (float(row["low"]), float(row["high"])) if row["low"] else None,
        _number(row["p"]),
        _number(row["published_p"]),
        int(row["runs"]),
        row["metric"],
        tuple(filter(None, row["source"].split("/"))),
        row["caveat"],
        row["note"],
    )


def _number(text: str) -> float | None:
    return float(text) if text else None
