"""What a report says of verdicts, speed and controls, against the table that was read aloud: `sentences.md`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headstart.bench import judge
from headstart.bench.analysis.analysis import assemble
from headstart.bench.analysis.conclusion import conclude
from headstart.bench.analysis.controls import read_control, read_null
from headstart.bench.analysis.question import question_rule
from headstart.bench.analysis.rows import say_overall
from headstart.bench.statistics.metric import Metric
from headstart.bench.statistics.sentences import say
from headstart.bench.statistics.speed import Target, speed_to
from headstart.bench.statistics.verdicts import Contrast, compare_family, judge_family

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


def contrast(gains):
    base = {s: 90 + s / 10 for s in range(8)}
    return Contrast("new", "default", {s: base[s] + gain for s, gain in enumerate(gains)}, base)


def spread(mean, deviation, n=8):
    steps = np.linspace(-1, 1, n)
    return mean + deviation * steps / steps.std(ddof=1)


def conclusion(*kinds):
    """Say what arms come to: + helps, - hurts, 0 makes no difference, ? is not settled."""
    gains = {"+": spread(2, 0.3), "-": spread(-2, 0.3), "0": spread(0, 0.01), "?": spread(0.4, 1)}
    gains["+small"] = spread(0.3, 0.05)
    found = [replace(comparison(gains[kind]), arm=name) for kind, name in zip(kinds, "abcd", strict=False)]
    return conclude(found, "default", 8)


SAID = {
    "in short, one that helps": lambda: conclusion("+"),
    "in short, one that helps by less than matters": lambda: conclusion("+small"),
    "in short, all kinds": lambda: conclusion(*"+-0?"),
    "in short, several that help": lambda: conclusion(*"++"),
    "in short, none that helps": lambda: conclusion(*"-0"),
    "in short, nothing settled": lambda: conclusion(*"??"),
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
    "it would help, behind a question that does not": lambda: say(
        judge_family([contrast(spread(2, 0.5))], 0.05, 0.5, gate=0.3)[0]
    ),
    "every run fails": lambda: say(comparison([0.0] * 8, failed=range(8), other_failed=range(8))),
    "exploratory": lambda: say(replace(comparison(spread(2, 0.5)), exploratory=True)),
    "how soon": lambda: speed(8),
    "how soon, the default being late itself": lambda: speed(8, own=None),
    "how soon, in most runs": lambda: speed(6),
    "how soon, of few runs": lambda: speed(3, 3),
    "not soon enough": lambda: speed(3),
    "never": lambda: speed(0),
    "the default hardly learned": lambda: Target("default", 11.0, 100, None).hollow(guess=10.0)[0],
    "some runs diverged, one failed, the start costs something": lambda: aside(),
    "it is not the size": lambda: control("matched-random", 1.0, 0.3),
    "it may be the size": lambda: control("matched-random", 0.1, 1.0),
    "random filters do better": lambda: control("matched-random", -1.0, 0.3),
    "without a gain, better than the control": lambda: control("zero-dc-random", 1.0, 0.3, gain=0.1),
    "without a gain, not told apart": lambda: control("zero-dc-random", 0.1, 1.0, gain=0.1),
    "it is not brightness": lambda: control("zero-dc-random", 1.0, 0.3),
    "longer training does not": lambda: control("equal-steps", 1.0, 0.3, more="5 more training steps"),
    "longer training may do": lambda: control("equal-steps", 0.1, 1.0, more="1 more training step"),
    "restarts alone may do": lambda: control("restarts", 0.1, 1.0),
    "a control in an exploratory run": lambda: read_control(
        replace(comparison(spread(2, 0.5), against="matched-random of new"), exploratory=True), "matched-random", None
    ),
    "how much is luck": lambda: read_null(comparison(spread(0.02, 0.3))),
    "a question": lambda: question_rule({"primary": "new"}),
    "a question that came late": lambda: question_rule({"primary": "new", "primary_late": True}),
    "over two tasks": lambda: over(2, 2.0, 0.3),
    "over six tasks, it helps": lambda: over(6, 2.0, 0.3),
    "over six tasks, no clear difference": lambda: over(6, 0.02, 0.05),
    "over six tasks that differ": lambda: over(6, 0.5, 4.0),
}


def speed(reached, runs=8, own=97.0):
    """Say how soon so many runs are where the default ends: after 70 to 84 of 100 steps."""
    ends = [90.0 if i < reached else 80.0 for i in range(runs)]
    curves = [[(0, 10.0), (70 + 2 * i, end), (100, end)] for i, end in enumerate(ends)]
    results = {
        i: {"status": "done", "curve": [{"step": s, "accuracy": a} for s, a in curve]} for i, curve in enumerate(curves)
    }
    return speed_to(Target("default", 90.0, 100, own), results, 0.0).sentence()


def control(kind, mean, deviation, gain=2.0, more=""):
    """Say what a control shows of an arm that gains so much over the default, and so much over the control."""
    beyond = comparison(spread(mean, deviation), against=f"{kind} of new")
    return read_control(beyond, kind, comparison(spread(gain, 0.2)), more)


def aside():
    """Say what else there is to say of an arm: two of its runs diverged, one failed."""
    arms = [{"label": a, "spec": a, "methods": [], "control": "", "of": "", "changes": []} for a in ("default", "new")]
    plan = {"arms": arms, "alpha": 0.05, "margin": 0.5, "training": {"steps": 9}, "task": {"name": "t", "classes": 10}}
    run = {"status": "done", "test_accuracy": 90.0, "init_seconds": 0.5, "step_seconds": 0.1}
    runs = {s: {**run, "status": "diverged" if s < 2 else "done"} for s in range(8)}
    found = assemble(plan, {"default": dict.fromkeys(range(8), run), "new": runs}, {}, curves=False)
    return replace(found.arms[1], failed=1).aside()


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
