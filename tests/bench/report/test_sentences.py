"""Every sentence that a verdict can be said in, against the table that was read aloud: `sentences.md`."""

from pathlib import Path

import numpy as np
import pytest

from headstart.bench import judge
from headstart.bench.analysis.rows import say_overall
from headstart.bench.statistics.metric import Metric
from headstart.bench.statistics.sentences import say
from headstart.bench.statistics.verdicts import compare_family

TABLE = Path(__file__).with_name("sentences.md")


def comparison(gains, failed=(), other_failed=(), seeds=None, against="default", margin=0.5, metric=None, **kinds):
    """Compare an arm that differs from the baseline by these gains, seed by seed."""
    base = {s: 90 + s / 10 for s in range(len(gains))}
    arm = {s: v + g for (s, v), g in zip(base.items(), gains, strict=True)}
    arm |= dict.fromkeys(failed, 10.0)
    base |= dict.fromkeys(other_failed, 10.0)
    lost = {"new": set(failed), against: set(other_failed)}
    results = {"new": arm, against: base}
    (found,) = compare_family([("new", against)], results, 0.05, margin, metric or Metric(), lost)
    return found


def spread(mean, deviation, n=8):
    steps = np.linspace(-1, 1, n)
    return mean + deviation * steps / steps.std(ddof=1)


SAID = {
    "it helps": lambda: say(comparison(spread(2, 0.5))),
    "it helps, by less than matters": lambda: say(comparison(spread(0.3, 0.1))),
    "it helps against another arm": lambda: say(comparison(spread(2, 0.5), against="old")),
    "it helps, and fails once": lambda: say(comparison(spread(2, 0.5), failed=[3])),
    "it helps, and the default fails once": lambda: say(comparison(spread(2, 0.5), other_failed=[3])),
    "it hurts": lambda: say(comparison(spread(-2, 0.5))),
    "it fails more often than it trains": lambda: say(comparison(spread(2, 0.5), failed=range(6))),
    "the scores are the same": lambda: say(comparison([0.0] * 8)),
    "no clear difference": lambda: say(comparison(spread(0.1, 0.2))),
    "probably better": lambda: say(comparison(spread(1.03, 1.5))),
    "probably worse": lambda: say(comparison(spread(-1.03, 1.5))),
    "better in every run, and too few": lambda: say(comparison(spread(8.5, 2, 5))),
    "worse in every run, and too few": lambda: say(comparison(spread(-8.5, 2, 4))),
    "two runs": lambda: say(comparison([0.5, -0.4])),
    "the runs cannot tell": lambda: say(comparison(spread(0.1, 1.5))),
    "much too noisy": lambda: say(comparison(spread(0.1, 9))),
    "not settled, and fails": lambda: say(comparison(spread(0.3, 1.5), failed=[2])),
    "nothing to compare": lambda: say(comparison([])),
    "another score, of which less is better": lambda: say(
        comparison(spread(0.02, 0.004), margin=0.005, metric=Metric("loss", lower_is_better=True, unit="", digits=4))
    ),
    "over two tasks": lambda: over(2, 2.0, 0.3),
    "over six tasks, it helps": lambda: over(6, 2.0, 0.3),
    "over six tasks, no clear difference": lambda: over(6, 0.02, 0.05),
    "over six tasks that differ": lambda: over(6, 0.5, 4.0),
}


def over(tasks, mean, between):
    gains = spread(mean, between, tasks)
    rows = [
        {"task": t, "arm": arm, "seed": s, "score": 90 + s / 10 + (arm == "new") * (gain + (s - 3.5) / 50)}
        for t, gain in enumerate(gains)
        for arm in ("default", "new")
        for s in range(8)
    ]
    return say_overall(judge(rows).overall[0])


def lines():
    return [f"| {name} | {said()!s} |" for name, said in SAID.items()]


@pytest.mark.parametrize(("name", "line"), [(line.split(" | ")[0][2:], line) for line in lines()])
def test_what_is_said_is_what_was_read(name, line):
    table = {row.split(" | ")[0][2:]: row for row in TABLE.read_text(encoding="utf-8").splitlines() if row[:2] == "| "}
    assert table[name] == line


def test_the_table_has_no_sentence_that_nobody_says():
    table = [row for row in TABLE.read_text(encoding="utf-8").splitlines() if row[:2] == "| "]
    assert len(table) == 1 + len(SAID)
