"""What control arms show, in plain words: a question about the gain, and the answer of the runs."""

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
    """A plain name for a control.

    Example:
        >>> plain_name("matched-random"), plain_name("equal-steps")
        ('random filters of the same size', 'the default start, trained longer')
    """
    return "the default start, trained longer" if kind == EQUAL_STEPS else _ASKED[kind][1]


def read_control(c: Comparison, kind: str, gain: Comparison | None, more: str = "more training steps") -> str:
    """Say what a control shows of a method.

    Args:
        c: The method against the control.
        kind: The kind of control.
        gain: The comparison of the method with the baseline.
        more: How many more steps the control has, if it is the control of equal time.

    Returns:
        A question and its answer. "No" needs a verdict on this comparison; without one the answer is "it may".
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
        return f"{size} {f'{c.arm} does better than this control.' if better else 'This does not separate the two.'}"
    return f"{question} {'No' if better else 'It may be' if kind != EQUAL_STEPS else 'It may'}. {size}" + (
        "" if better else " This does not separate the two."
    )


def read_null(c: Comparison) -> str:
    """Say how much two default starts differ by chance.

    Args:
        c: Other draws of the default weights against the baseline, with two seeds or more.
    """
    spread = float(np.std(c.differences, ddof=1))
    return (
        f"How much is luck? Two default starts that differ only in the draw of their weights ({c.arm}) are"
        f" {c.metric.amount(spread)} apart within a seed (standard deviation), and on average {amount(c)}."
    )
