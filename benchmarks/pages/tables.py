"""Tables in Markdown, and the one that most pages have: a comparison's arms, a row each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

from headstart.bench.analysis.analysis import ArmSummary
from headstart.bench.report.summary import NO_INTERVAL, cells, span
from headstart.bench.statistics.paired import Interval
from headstart.bench.statistics.verdicts import Comparison, p_text, signed
from headstart.results.sheet import inert
from pages.trials import Compared

DAGGER = "†"
STATED = f"{DAGGER} Stated when the trials were there; they were not kept, so this cannot be recomputed."
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
LEVEL = 1e-3  # at which a test accuracy is above guessing


def row(*parts: str) -> str:
    """Write a row of a table."""
    return "| " + " | ".join(parts) + " |"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> list[str]:
    """Write a table.

    Args:
        head: Names of the columns.
        rows: Its cells.
        text: Columns from the left that hold words; the others are set to the right.
    """
    return [row(*head), "|" + "---|" * text + "--:|" * (len(head) - text), *(row(*cells) for cells in rows)]


def interval(found: Interval) -> str:
    """Write an interval, or the sign that there is none."""
    return span(found) or NO_INTERVAL


def gain(compared: Comparison) -> str:
    """Write a mean difference with its interval, or the sign that there is none."""
    return f"{signed(compared.mean)} ({interval(compared.interval)})"


def unbounded(lines: Sequence[str], seeds: int) -> list[str]:
    """Return the line that says what the sign for no interval means, if the lines have it."""
    if not any(NO_INTERVAL in line for line in lines):
        return []
    return ["", f"{NO_INTERVAL}: {_NUMBERS.get(seeds, f'{seeds}')} seeds cannot give a 95 % interval."]


def stated(lines: Sequence[str]) -> list[str]:
    """Return the line that says what a dagger means, if the lines have one."""
    return ["", STATED] if any(DAGGER in line for line in lines) else []


def learns(arm: ArmSummary, images: int, classes: int) -> int:
    """Count the seeds whose test accuracy is above what guessing can give."""
    most = 100 * binom.isf(LEVEL, images, 1 / classes) / images
    return sum(accuracy > most for accuracy in arm.accuracies)


def facts(compared: Compared) -> str:
    """Say what was compared, in a line."""
    known, plan = compared.facts, compared.analysis.plan
    text = f"{known['steps']} steps of {known['batch_size']}, {len(plan['seeds'])} paired seeds, {known['task']}"
    if not known["trials"]:
        return f"{text}."
    mark = "" if "train_seconds" in compared.kept else DAGGER
    searched = " with those of the search" if known["search_seeds"] else ""
    return f"{text}; {known['trials']} trials{searched}, {float(known['hours']):.1f} hours of one core{mark}."


def takes(compared: Compared, arm: ArmSummary) -> str:
    """Write what a start takes, in seconds and in training steps."""
    if "step_seconds" in compared.kept or not arm.init_seconds:
        return cells(arm).start
    steps = compared.stated[arm.label]["start_steps"]
    return f"{arm.init_seconds:.2f} s = {steps} step{'' if steps == '1' else 's'}"


def rate(compared: Compared, arm: ArmSummary) -> str:
    """Return the learning rate that an arm chose."""
    if "lr" in compared.kept:
        return next(str(planned["lr"]) for planned in compared.analysis.plan["arms"] if planned["label"] == arm.label)
    return compared.stated[arm.label]["rate"]


def arms(compared: Compared, count_learning: bool = False, score: str = "test accuracy") -> list[str]:
    """Write one comparison's rows: baseline, methods, controls."""
    analysis = compared.analysis
    searched, task = bool(compared.facts["search_seeds"]), analysis.plan["task"]
    head = ["start", *([_marked("rate", compared, "lr")] if searched else [])]
    head += ["seeds that learn"] if count_learning else []
    head += [score, "difference", "95 % interval", "wins", "p (Holm)", _marked("takes", compared)]
    lines = []
    for arm in (analysis.baseline, *analysis.methods, *analysis.controls):
        found = cells(arm)
        parts = [f"*{inert(arm.label)}*" if arm.control else inert(arm.label)]
        parts += [rate(compared, arm)] if searched else []
        parts += [f"{learns(arm, task['test_images'], task['classes'])}/{len(arm.results)}"] if count_learning else []
        parts += [
            "did not run" if arm.refusal else found.accuracy,
            found.difference,
            found.interval,
            found.wins,
            found.p,
            takes(compared, arm),
        ]
        lines.append(parts)
    written = table(head, lines)
    return [*written, *unbounded(written, len(analysis.plan["seeds"])), *twins(analysis.arms)]


def _marked(name: str, compared: Compared, column: str = "step_seconds") -> str:
    return name if column in compared.kept else name + DAGGER


def against(compared: Sequence[Comparison]) -> list[str]:
    """Write arms against each other; nothing if there are none."""
    lines = [
        (
            f"{inert(c.arm)} − {inert(c.against)}",
            signed(c.mean),
            interval(c.interval),
            f"{c.wins}/{len(c.seeds)}",
            p_text(c.adjusted_p),
        )
        for c in compared
    ]
    head = ("against each other", "difference", "95 % interval", "wins", "p (Holm)")
    alike = _same({f"{c.arm} − {c.against}": (c.seeds, c.differences) for c in compared})
    return ["", *table(head, lines), *alike] if lines else []


def twins(found: Sequence[ArmSummary]) -> list[str]:
    """Say which arms have the same test accuracy in every seed, and so count as one comparison."""
    return _same({arm.label: tuple(sorted(map(_accuracy, arm.results.items()))) for arm in found if arm.results})


def same(found: Sequence[ArmSummary], label: str) -> str:
    """Return the first arm that has the same test accuracies as the named one, without itself."""
    own = {arm.label: sorted(map(_accuracy, arm.results.items())) for arm in found}
    return next((other for other, values in own.items() if other != label and values == own[label]), "")


def _accuracy(result: tuple[int, object]) -> tuple[int, float]:
    return result[0], float(result[1]["test_accuracy"])  # type: ignore[index]


def _same(found: dict[str, object]) -> list[str]:
    groups: dict[object, list[str]] = {}
    for label, values in found.items():
        groups.setdefault(values, []).append(inert(label))
    alike = [", ".join(names[:-1]) + " and " + names[-1] for names in groups.values() if len(names) > 1]
    return ["", f"The same in every seed (counted once in p): {'; '.join(alike)}."] if alike else []


def mean_accuracy(arm: ArmSummary) -> float:
    """Return an arm's mean test accuracy."""
    return float(np.mean(arm.accuracies))
