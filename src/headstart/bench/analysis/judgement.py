"""Verdicts on any results, from the scores of runs, by the same rules as the benchmark's own."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from headstart.bench.analysis.rows import COLUMNS, OVERALL, record, record_overall, say_overall
from headstart.bench.analysis.score_table import Scores, read_scores
from headstart.bench.statistics.collapses import find_collapsed, largest_share
from headstart.bench.statistics.metric import SCORE
from headstart.bench.statistics.over_tasks import Overall, judge_overall, over_tasks
from headstart.bench.statistics.power import ALPHA, MARGIN
from headstart.bench.statistics.sentences import say
from headstart.bench.statistics.verdicts import Comparison, Contrast, judge_family
from headstart.errors import HeadstartError, unknown
from headstart.results.display import Displayable, Table, html_page
from headstart.results.plain import plain
from headstart.results.sheet import Sheet, inert

RULES = (
    "We say “helps” only if luck alone would rarely (under {alpha:.0%}) give any arm of this table such a lead. "
    "“Hurts” likewise.",
    "“No clear difference”: the likely range lies within ±{margin:g}, the smallest difference that you said matters, "
    "or the scores are the same. “Not settled”: the runs cannot tell.",
    "Runs with the same seed are compared with each other. The test flips the signs of these differences in every way, "
    "and counts how often luck would do as well: it asks whether gains and losses are symmetric about zero. If they "
    "are skewed although neither arm is better on average, false verdicts are more frequent: with exponential "
    "differences and eight seeds one in ten instead of one in twenty. From 30 seeds on it is Student's t.",
    "All comparisons of the table are judged together (Holm); those with the same scores count once. A likely range is "
    "a 95 % interval of the same test, each by itself.",
    "A run that diverged, is at guessing or lies far outside its arm (15 standard deviations) has failed. Failed runs "
    "are counted apart, and left out of the difference, unless an arm fails in half of its runs or more often than "
    "the other by more than luck: then all runs count.",
)


@dataclass(frozen=True)
class Judgement(Displayable):
    """Verdicts on arms, from :func:`judge`.

    Args:
        baseline: The arm that every other is compared with.
        comparisons: Each arm on each task.
        overall: Each arm over several tasks; empty with one task.
        baselines: Task -> the number of the baseline's collapsed runs and of all its runs.
        notes: What was left out, and other remarks.
        alpha: Level of the tests.
        margin: Smallest difference that matters.
        higher_is_better: Whether a higher score is better; if not, differences are the baseline's score minus the
            arm's.

    Example:
        >>> rows = [{"arm": arm, "seed": s, "score": 90 + s % 3 + (arm == "new") * (2 + s % 2)}
        ...         for s in range(8) for arm in ("old", "new")]
        >>> [row["verdict"] for row in judge(rows).to_dict()["arms"]]
        ['helps']
    """

    baseline: str
    comparisons: tuple[Comparison, ...]
    overall: tuple[Overall, ...]
    baselines: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]
    alpha: float
    margin: float
    higher_is_better: bool

    @property
    def title(self) -> str:  # type: ignore[override]
        """The title: which arms are compared."""
        arms = list(dict.fromkeys(c.arm for c in self.comparisons))
        names = f"{len(arms)} arms" if len(arms) > 4 else ", ".join(arms)
        return f"{names} against {self.baseline}"

    def sentences(self) -> list[str]:
        """One sentence per verdict with what to do next, then what was left out."""
        several = len({c.task for c in self.comparisons}) > 1
        said = [(f"{c.task}: " if several else "") + str(say(c)) for c in self.comparisons]
        return [*map(say_overall, self.overall), *said, *self.notes]

    def sheet(self) -> Sheet[Comparison]:
        """Return the table of all comparisons."""
        several = any(c.task for c in self.comparisons)
        columns = [column for column in COLUMNS if several or column.key != "task"]
        return Sheet(columns, self.comparisons, "" if not self.overall else "Each task")

    def overall_sheet(self) -> Sheet[Overall]:
        """Return the table over tasks."""
        return Sheet(OVERALL, self.overall, "Over tasks")

    def to_tables(self) -> list[Table]:
        """The table over tasks, if there are several, and the table of all comparisons."""
        return [*([self.overall_sheet().table()] if self.overall else []), self.sheet().table()]

    def rules(self) -> list[str]:
        """Say how it was decided."""
        return [rule.format(alpha=self.alpha, margin=self.margin) for rule in RULES]

    def to_markdown(self) -> str:
        """Return a page in Markdown: sentences, tables, rules."""
        lines = [f"# {inert(self.title)}", "", *(f"- {inert(said)}" for said in self.sentences()), ""]
        if self.overall:
            lines += ["## Over tasks", "", *self.overall_sheet().markdown(), "", "## Each task", ""]
        lines += [*self.sheet().markdown(), "", "## How it was decided", "", *(f"- {rule}" for rule in self.rules())]
        return "\n".join(lines) + "\n"

    def to_page(self) -> str:
        """Return a page in HTML that works offline: sentences, tables, and the rules one click below."""
        rules = "".join(f"<li>{html.escape(rule)}</li>" for rule in self.rules())
        below = f"<details><summary>How it was decided</summary><ul>{rules}</ul></details>"
        return html_page(self.title, [self.to_html(), below])

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON. Missing bounds are None."""
        runs = [
            {"task": task or None, "collapsed": lost, "runs": runs, "could_fail": largest_share(lost, runs)}
            for task, (lost, runs) in self.baselines.items()
        ]
        found: dict[str, Any] = {
            "baseline": self.baseline,
            "arms": self._records(),
            **({"overall": [record_overall(o) for o in self.overall]} if self.overall else {}),
            "baseline_runs": runs,
            "notes": list(self.notes),
            "alpha": self.alpha,
            "margin": self.margin,
            "higher_is_better": self.higher_is_better,
            "rules": self.rules(),
        }
        cleaned: dict[str, Any] = plain(found)
        return cleaned

    def _records(self) -> list[dict[str, Any]]:
        return [{**record(c), "sentence": str(say(c))} for c in self.comparisons]


def judge(
    table: Any,
    *,
    baseline: str | None = None,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    higher_is_better: bool = True,
    primary: str | tuple[str, str] | None = None,
) -> Judgement:
    """Judge any results: does an arm help, hurt, or neither?

    Runs of two arms with the same seed are compared with each other, by the exact sign-flip test (Student's t from 30
    seeds on). Arms without shared seeds are compared as independent samples, with a note. All comparisons are one
    family (Holm).

    Args:
        table: A path (``.csv``, ``.parquet``, JSON lines), rows as dicts, or a dict of columns: ``arm``, ``seed``,
            ``score`` and, if there are several tasks, ``task``. An empty score is a missing run; NaN is a run that
            diverged.
        baseline: The arm that all others are compared with; by default the first.
        margin: The smallest difference that matters, in the unit of the score.
        alpha: The chance of any false "helps" or "hurts" in the table.
        higher_is_better: Whether a higher score is better. If not, differences are the baseline's score minus the
            arm's, so that they are above zero if the arm is better.
        primary: The arm, or arm and task, that was declared beforehand to be the question. It is judged first, at the
            full level; the others get a verdict only if it has one. On five tasks or more, an arm's question is its
            mean over tasks.

    Returns:
        The verdicts: ``print`` shows them, ``to_dict()`` gives plain data, ``to_markdown()`` and ``to_html()`` pages.

    Raises:
        DataError: The table lacks a column, or has a run twice.
        HeadstartError: There is no such arm, or a number is out of range.

    Example:
        >>> table = {"arm": ["sgd", "adam"] * 6, "seed": [s for s in range(6) for _ in range(2)],
        ...          "score": [90, 92, 91, 94, 90, 91, 89, 92, 92, 94, 90, 93]}
        >>> judge(table).to_dict()["arms"][0]["verdict"]
        'helps'
    """
    numbers = isinstance(alpha, Real) and isinstance(margin, Real)
    if not numbers or not 0 < alpha < 1 or not margin > 0 or math.isinf(margin):
        raise HeadstartError(f"alpha is {alpha!r} and margin {margin!r}: alpha lies between 0 and 1, margin above 0.")
    scores = read_scores(table)
    return judge_scores(scores, baseline, margin, alpha, higher_is_better, primary)


def judge_scores(
    scores: Scores,
    baseline: str | None,
    margin: float,
    alpha: float,
    higher_is_better: bool,
    primary: str | tuple[str, str] | None,
) -> Judgement:
    """Judge scores that were read; see :func:`judge`."""
    arms = scores.arms
    first = arms[0] if baseline is None else baseline
    if first not in arms:
        raise unknown("arm", first, arms)
    if len(arms) < 2:
        raise HeadstartError(f"The table has one arm, {first!r}.", remedy="A comparison needs two arms.")
    sign = 1.0 if higher_is_better else -1.0
    tasks = {
        task: {arm: {s: sign * v for s, v in by.items()} for arm, by in found.items()}
        for task, found in scores.by_task.items()
    }
    lost = {task: find_collapsed(found) for task, found in tasks.items()}
    filled = {task: _filled(found) for task, found in tasks.items()}
    contrasts = [
        Contrast(
            arm,
            first,
            filled[task].get(arm, {}),
            filled[task].get(first, {}),
            lost[task].get(arm, ()),
            lost[task].get(first, ()),
            task,
        )
        for arm in arms
        if arm != first
        for task in tasks
        if arm in tasks[task] and filled[task].get(first)
    ]
    if not contrasts:
        raise HeadstartError(f"{first!r} has no run on any task of the other arms.", remedy="Pass another baseline=.")
    comparisons, overall = _judged(contrasts, alpha, margin, primary)
    baselines = {task: (len(lost[task].get(first, ())), len(found.get(first, {}))) for task, found in tasks.items()}
    notes = [*_left_out(scores, first), *_diverged(scores), *_warnings(scores, margin)]
    return Judgement(
        first, tuple(comparisons), tuple(overall), baselines, tuple(notes), alpha, margin, higher_is_better
    )


def _judged(
    contrasts: Sequence[Contrast], alpha: float, margin: float, primary: str | tuple[str, str] | None
) -> tuple[list[Comparison], list[Overall]]:
    """Judge all contrasts: a declared one first, then the others."""
    family = functools.partial(judge_family, alpha=alpha, margin=margin, metric=SCORE, unpaired=True)
    if primary is None:
        found = family(contrasts)
        return found, judge_overall(_overall(contrasts, found), alpha, margin)
    own = [
        c
        for c in contrasts
        if primary in (c.arm, (c.arm, c.task)) or (not isinstance(primary, str) and list(primary) == [c.arm, c.task])
    ]
    if not own:
        raise unknown("arm to judge first", str(primary), [c.arm for c in contrasts])
    first = family(own)
    summary = judge_overall(_overall(own, first), alpha, margin) if isinstance(primary, str) else []
    led = summary and summary[0].effects is not None
    gate = summary[0].adjusted_p if led else max(c.adjusted_p for c in first)
    others = [c for c in contrasts if c not in own]
    rest = family(contrasts if led else others, gate=gate)
    if led:
        found = rest
    else:
        of = {(c.arm, c.task): c for c in [*first, *rest]}
        found = [of[c.arm, c.task] for c in contrasts]
    everyone = _overall(contrasts, found)
    behind = judge_overall([each for each in everyone if each.arm != primary], alpha, margin, gate)
    return found, [*(summary if isinstance(primary, str) else []), *behind]


def _overall(contrasts: Sequence[Contrast], comparisons: Sequence[Comparison]) -> list[Overall]:
    found = []
    for arm in dict.fromkeys(c.arm for c in contrasts):
        own = [(c, done) for c, done in zip(contrasts, comparisons, strict=True) if c.arm == arm]
        scores = [(list(c.own.values()), list(c.other.values())) for c, _ in own]
        found.append(over_tasks([done for _, done in own], scores))
    return [each for each in found if each is not None]


def _filled(found: Mapping[str, Mapping[Any, float]]) -> dict[str, dict[Any, float]]:
    """Give diverged runs the worst score of the task."""
    known = [v for by in found.values() for v in by.values() if not math.isnan(v)]
    worst = min(known, default=0.0)
    return {arm: {s: worst if math.isnan(v) else v for s, v in by.items()} for arm, by in found.items()}


def _left_out(scores: Scores, baseline: str) -> list[str]:
    """Name the runs that have no partner."""
    notes = []
    for task, arms in scores.by_task.items():
        where = f" on {task}" if task else ""
        base = arms.get(baseline, {})
        if not base:
            notes.append(f"{baseline} has no run{where}: no arm is compared there.")
            continue
        for arm, own in arms.items():
            if arm == baseline:
                continue
            if own and not set(own) & set(base):
                notes.append(
                    f"{arm} and {baseline} share no seed{where}: they are compared as independent samples, which"
                    " needs more runs for a verdict."
                )
                continue
            for who, lone in ((arm, set(base) - set(own)), (baseline, set(own) - set(base))):
                if lone:
                    many = f"seed{'s' * (len(lone) > 1)} {', '.join(map(str, sorted(lone, key=_order)))}"
                    notes.append(f"{who} has no run with {many}{where}: left out of its comparison.")
    return list(dict.fromkeys(notes))


def _diverged(scores: Scores) -> list[str]:
    """Name the runs whose score is not finite; in a data frame these may be missing scores."""
    found = [
        f"{arm} with seed {seed}{f' on {task}' if task else ''}"
        for task, arms in scores.by_task.items()
        for arm, by in arms.items()
        for seed, score in by.items()
        if math.isnan(score)
    ]
    if not found:
        return []
    more = f" and {len(found) - 4} others" if len(found) > 4 else ""
    return [
        f"Not finite: the score of {', '.join(found[:4])}{more}. These count as diverged runs; leave out the rows of"
        " missing runs."
    ]


def _order(seed: Any) -> tuple[bool, Any, str]:
    return (isinstance(seed, str), 0 if isinstance(seed, str) else seed, str(seed))


def _warnings(scores: Scores, margin: float) -> list[str]:
    values = [v for arms in scores.by_task.values() for by in arms.values() for v in by.values() if not math.isnan(v)]
    if values and margin >= 0.1 and max(map(abs, values)) <= 1:
        return [
            f"All scores lie between −1 and 1, and the smallest difference that matters is {margin:g}: "
            f"if they are shares, pass margin={margin / 100:g}."
        ]
    return []
