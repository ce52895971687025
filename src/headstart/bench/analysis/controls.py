"""What control arms show, in plain words: a question about the gain, and the answer that the runs give."""

from __future__ import annotations

import numpy as np

from headstart.bench.statistics.sentences import amount
from headstart.bench.statistics.verdicts import Comparison, Verdict
from headstart.bench.trials.arms import EQUAL_STEPS, RESTARTS

_ASKED = {
    "matched-random": ("Is it only the size of the filters?", "random filters of the same size"),
    "zero-dc-random": ("Is it only that its filters ignore brightness?", "random filters that ignore brightness"),
    EQUAL_STEPS: ("Would training longer do as well?", "the default start with {more}, the time that {arm} takes"),
    RESTARTS: ("Is it only the restarts of the learning rate?", "the same restarts on all images"),
}


def plain_name(kind: str) -> str:
    """Name a control by what it is.

    Example:
        >>> plain_name("matched-random"), plain_name("equal-steps")
        ('random filters of the same size', 'the default start, trained longer')
    """
    return "the default start, trained longer" if kind == EQUAL_STEPS else _ASKED[kind][1]


def read_control(c: Comparison, kind: str, gain: Comparison | None, more: str = "more training steps") -> str:
    """Say what a control shows of a method.

    Args:
        c: The method against the control.
        kind: Which control it is.
        gain: The method against the baseline.
        more: How many steps more the control has, if it is that of equal time.

    Returns:
        A question and its answer. "No" takes a verdict on this very comparison; what is not told apart is "it may".
    """
    question, what = _ASKED[kind]
    who = f"{what.format(arm=c.arm, more=more)} ({c.against})"
    size = f"{c.arm} against {who}: {amount(c)}."
    if c.exploratory:
        return size
    if c.verdict is Verdict.HURTS:
        return f"{size} This control does better than {c.arm}."
    better = c.verdict is Verdict.HELPS
    if gain is None or gain.verdict is not Verdict.HELPS:
        return f"{size} {f'{c.arm} does better than this control.' if better else 'This does not tell the two apart.'}"
    return f"{question} {'No' if better else 'It may be' if kind != EQUAL_STEPS else 'It may'}. {size}" + (
        "" if better else " This does not tell the two apart."
    )


def read_null(c: Comparison) -> str:
    """Say how much two default starts differ.

    Args:
        c: Other draws of the default weights against the baseline, with two seeds or more.
    """
    spread = float(np.std(c.differences, ddof=1))
    return (
        f"How much is luck? Two default starts that differ in nothing but the draw of their weights ({c.arm}) are"
        f" {c.metric.amount(spread)} apart within a seed (standard deviation), and on average {amount(c)}."
    )
