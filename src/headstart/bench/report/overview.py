"""Several experiments side by side: each method's rows and their mean."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from headstart.bench.analysis.analysis import Analysis, ArmSummary, analyse
from headstart.bench.analysis.question import BEHIND, question_of
from headstart.bench.analysis.rows import say_overall
from headstart.bench.report.summary import listed, span
from headstart.bench.statistics import paired
from headstart.bench.statistics.metric import ACCURACY
from headstart.bench.statistics.over_tasks import Overall, judge_overall, over_tasks
from headstart.bench.statistics.verdicts import Comparison, Verdict, signed
from headstart.bench.store.store import Store
from headstart.errors import HeadstartError, unknown

RULES = (
    "A method is the same in two experiments if all its options are. Where a search chose them, search and method "
    "together are one method, whatever was chosen.",
    "Every experiment is judged by itself, by the rules on its own page; its verdicts are shown unchanged.",
    "“p, all rows” is the test's p after Holm's adjustment over all rows of this page: it asks which rows "
    "stand out even though there are so many. Where seeds were added until a verdict was in, p counts once for "
    "each look. It changes no verdict.",
    "An overall row has the median over experiments, in how many the method is better, and how often one of its runs "
    "beats one of the baseline's. From five experiments on it also has the mean on experiments like these, with the "
    "likely range of that mean and of one new experiment (random effects; Hartung and Knapp's interval, its factor at "
    "least 1), and a verdict, adjusted over the methods (Holm). With fewer, a mean would say nothing about other"
    " experiments, so there is none.",
    "Experiments may differ in budget, baseline and the margin that matters; the table of experiments shows it.",
)


@dataclass(frozen=True)
class Part:
    """One experiment among several.

    Args:
        number: Its number, from 1.
        name: Short names of task and model, and the folder's name if that is not unique.
        folder: The folder of its store.
        analysis: Its analysis.
    """

    number: int
    name: str
    folder: Path
    analysis: Analysis

    @property
    def title(self) -> str:
        """Number and name."""
        return f"{self.number}. {self.name}"


@dataclass(frozen=True)
class Row:
    """A method in an experiment.

    Args:
        part: The experiment.
        arm: The method's arm in it.
        p: The p-value of the comparison with the baseline, adjusted over all rows; None without comparison.
    """

    part: Part
    arm: ArmSummary
    p: float | None

    @property
    def comparison(self) -> Comparison | None:
        """The comparison with the baseline; None if there is no seed to compare."""
        c = self.arm.comparison
        return c if c is not None and c.seeds else None

    @property
    def state(self) -> str:
        """The verdict, or why there is none."""
        if self.comparison:
            return self.comparison.word
        return "did not run" if self.arm.refusal else "not finished"


@dataclass(frozen=True)
class MethodRows:
    """A method with all its experiments.

    Args:
        label: Its unique name.
        configurations: Its full configuration: one for all experiments, or one for each if a search chose it.
        rows: Its rows, in the order of the experiments.
        overall: The summary over experiments that have a comparison; None if there are fewer than two.
        primary: Whether it was declared as the question, so that it is judged first.
    """

    label: str
    configurations: tuple[str, ...]
    rows: tuple[Row, ...]
    overall: Overall | None
    primary: bool = False

    @property
    def compared(self) -> tuple[Row, ...]:
        """The rows that have a comparison."""
        return tuple(row for row in self.rows if row.comparison)

    def verdicts(self) -> str:
        """Count each verdict."""
        found = Counter(
            row.comparison.verdict for row in self.rows if row.comparison and not row.comparison.exploratory
        )
        counts = [f"“{verdict.value}” in {found[verdict]}" for verdict in Verdict if found[verdict]]
        return ", ".join(counts) or "no verdict"

    def sentence(self) -> str:
        """Say the verdicts and the overall result."""
        many = f"{len(self.rows)} experiment{'s' if len(self.rows) > 1 else ''}"
        together = f" {say_overall(self.overall)}" if self.overall else ""
        asked = "The question that was declared: " if self.primary else ""
        return f"{asked}{self.label}, {many}: {self.verdicts()}.{together}"


@dataclass(frozen=True)
class Overview:
    """Several experiments.

    Args:
        parts: The experiments, in the given order.
        methods: The methods, each with its rows.
        notes: Remarks for the reader.
        question: Why a method is judged first; empty if none is.
    """

    parts: tuple[Part, ...]
    methods: tuple[MethodRows, ...]
    notes: tuple[str, ...]
    question: str = ""

    def rules(self) -> list[str]:
        """Explain how to read the page."""
        return [*RULES, *filter(None, [self.question])]

    @property
    def score(self) -> str:
        """The score of all experiments."""
        names = {part.analysis.metric.name for part in self.parts}
        return names.pop() if len(names) == 1 else "the scores"

    def heading(self) -> str:
        """The heading: what is compared."""
        return f"{listed([method.label for method in self.methods]) or 'No method'} in {len(self.parts)} experiments"

    def facts(self) -> list[str]:
        """A few short phrases on what was run."""
        plans = [part.analysis.plan for part in self.parts]
        tasks, models = ({plan[kind]["name"] for plan in plans} for kind in ("task", "model"))
        trials = sum(len(plan["trials"]) for plan in plans)
        return [
            f"{len(tasks)} task{'s' * (len(tasks) > 1)}, {len(models)} model{'s' * (len(models) > 1)}",
            f"{sum(len(method.rows) for method in self.methods)} comparisons of methods",
            f"{trials:,} trials",
        ]


_Group = Sequence[tuple[Part, ArmSummary]]


def combine(folders: Sequence[str | os.PathLike[str]], primary: str | None = None) -> Overview:
    """Read several stores and show their methods side by side.

    A method is the same in two experiments if all its options are, or if a search chose the options in both. A trial
    that two stores hold counts once.

    Args:
        folders: The folders of experiments that were at least begun.
        primary: The method that is the question and is judged first. By default the one that all
            experiments declared before they ran, if they agree.

    Raises:
        HeadstartError: A folder holds no experiment, is given twice, or has a score that is not in percent; or there
            is no such method.
    """
    places = [Path(folder) for folder in folders]
    for place, count in Counter(place.resolve() for place in places).items():
        if count > 1:
            raise HeadstartError(f"'{place}' is given {count} times.", remedy="Name each experiment once.")
    analyses = [analyse(Store(place)) for place in places]
    for place, analysis in zip(places, analyses, strict=True):
        if analysis.metric.unit != ACCURACY.unit:
            raise HeadstartError(
                f"The score of '{place}', {analysis.metric.name}, is not in percent, so it cannot be compared with"
                " the others.",
                remedy="Leave it out; make its own page: headstart report FOLDER.",
            )
    names = _names(places, [analysis.plan for analysis in analyses])
    parts = tuple(Part(i + 1, *each) for i, each in enumerate(zip(names, places, analyses, strict=True)))
    groups: dict[tuple[str, bool], list[tuple[Part, ArmSummary]]] = {}
    notes = []
    for part in parts:
        for arm in part.analysis.methods:
            group = groups.setdefault(_identity(part, arm), [])
            twin = next((other for other, theirs in group if _keys(arm) & _keys(theirs)), None)
            if twin is None:
                group.append((part, arm))
            else:
                notes.append(
                    f"{part.title} and {twin.title} share trials of {arm.label}, which count only in the latter."
                )
        if part.analysis.missing:
            notes.append(f"{part.title}: {part.analysis.missing} trials are not finished.")
        notes += [f"{part.title}: {note}" for note in part.analysis.notes]
    labels = _labels(list(groups.values()))
    adjusted = _adjusted([pair for group in groups.values() for pair in group])
    methods = []
    for label, group in zip(labels, groups.values(), strict=True):
        rows = tuple(Row(part, arm, adjusted.get((part.number, arm.label))) for part, arm in group)
        methods.append(MethodRows(label, _configurations(group), rows, _together(label, rows)))
    methods, question = _asked(methods, parts, primary)
    return Overview(parts, tuple(_judged(methods)), tuple(notes), question)


def _together(label: str, rows: Sequence[Row]) -> Overall | None:
    """Combine a method's experiments."""
    compared = [(row.comparison, row) for row in rows if row.comparison]
    scores = [(row.arm.accuracies, row.part.analysis.baseline.accuracies) for _, row in compared]
    found = over_tasks([c for c, _ in compared], scores)
    return replace(found, arm=label) if found else None


def _asked(methods: Sequence[MethodRows], parts: Sequence[Part], named: str | None) -> tuple[list[MethodRows], str]:
    """Put the declared method first, and say what that means."""
    declared = {question_of(part.analysis.plan) for part in parts}
    wanted = named if named is not None else declared.pop() if len(declared) == 1 else ""
    if not wanted:
        return list(methods), ""
    first = [method for method in methods if wanted in (method.label, *(row.arm.label for row in method.rows))]
    if len(first) != 1:
        if named is None:  # its options differ from experiment to experiment
            return list(methods), ""
        raise unknown("method to judge first", wanted, [method.label for method in methods])
    asked = replace(first[0], primary=True)
    when = (
        f"{asked.label} was named as the question when this page was made, which is fair only if no result had been"
        " seen."
        if declared != {wanted} and named is not None
        else f"{asked.label} was declared as the question before the experiments ran."
    )
    return [asked, *(method for method in methods if method is not first[0])], f"{when} {BEHIND}"


def _judged(methods: Sequence[MethodRows]) -> list[MethodRows]:
    """Judge the methods over experiments at the strictest level and margin of the page: the question, then the rest."""
    rows = [row.comparison for method in methods for row in method.rows if row.comparison]
    alpha = min((c.alpha for c in rows), default=0.05)
    margin = min((c.margin for c in rows), default=0.5)
    asked, rest = ([m.overall for m in methods if m.primary is wanted and m.overall] for wanted in (True, False))
    first = judge_overall(asked, alpha, margin)
    own = [c.adjusted_p for method in methods if method.primary for row in method.rows if (c := row.comparison)]
    gates = [each.adjusted_p for each in first if each.effects is not None] or own  # without a mean, on every task
    none = float(any(method.primary for method in methods))  # a question without a comparison shows nothing
    found = [*first, *judge_overall(rest, alpha, margin, max(gates, default=none))]
    by = {each.arm: each for each in found}
    return [replace(method, overall=by.get(method.label)) for method in methods]


class OverallCells(NamedTuple):
    """An overall row as text."""

    title: str
    difference: str
    interval: str
    wins: str
    verdict: str


def overall_cells(found: Overall) -> OverallCells:
    """Write an overall row: the mean with its likely range if there is one, else the median."""
    title = f"{'mean' if found.effects else 'median'} of {found.tasks} experiments"
    centre = signed(found.effects.mean if found.effects else found.median)
    interval = span(found.effects.interval) if found.effects else ""
    return OverallCells(
        title, centre, interval, f"{found.wins}/{found.tasks}", found.verdict.value if found.verdict else ""
    )


def _configuration(part: Part, arm: ArmSummary) -> str:
    """Write the start of an arm, and its own training settings if any."""
    planned = next(found for found in part.analysis.plan["arms"] if found["label"] == arm.label)
    return " + ".join([*(arm.methods or (arm.spec,)), *(f"{key}={value}" for key, value in planned.get("changes", ()))])


def _searched(part: Part) -> bool:
    return bool(part.analysis.plan.get("selection"))


def _identity(part: Part, arm: ArmSummary) -> tuple[str, bool]:
    """Return the key that is the same for arms of one method."""
    return (arm.label, True) if _searched(part) else (_configuration(part, arm), False)


def _configurations(group: _Group) -> tuple[str, ...]:
    if _searched(group[0][0]):
        return tuple(f"{part.number}. {_configuration(part, arm)}" for part, arm in group)
    return (_configuration(*group[0]),)


def _keys(arm: ArmSummary) -> set[str]:
    return {str(result["key"]) for result in arm.results.values()}


def _adjusted(pairs: Sequence[tuple[Part, ArmSummary]]) -> dict[tuple[int, str], float]:
    """Adjust the p-values over all rows; in a sequential experiment first over its looks."""
    compared = [(part, arm.label, arm.comparison) for part, arm in pairs if arm.comparison and arm.comparison.seeds]
    p_values = [min(1.0, c.test.p * _looks(part)) for part, _, c in compared]
    adjusted = paired.holm(p_values, [(part.number, c.seeds, c.differences) for part, _, c in compared])
    return {(part.number, label): p for (part, label, _), p in zip(compared, adjusted, strict=True)}


def _looks(part: Part) -> int:
    """Return how often results could be seen: as planned, or before seeds were added by hand."""
    return int(part.analysis.plan.get("looks", 1)) * (1 + len(part.analysis.plan.get("looked") or ())) ** 2


def _names(folders: Sequence[Path], plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name experiments by task and model, without folders and repetitions."""
    names = [f"{_short(plan['task']['name'])} · {_short(plan['model']['name'])}" for plan in plans]
    return [
        f"{name} ({folder.resolve().name})" if names.count(name) > 1 else name
        for name, folder in zip(names, folders, strict=True)
    ]


def _short(name: str) -> str:
    r"""Leave out the folder of a file.

    Example:
        >>> _short("folder:/data/birds:size=64"), _short("headstart:prewarm-cnn"), _short("timm:resnet18")
        ('folder:birds:size=64', 'prewarm-cnn', 'timm:resnet18')
    """
    return re.sub(r"[^\s:]*[/\\]", "", name).removeprefix("headstart:")


def _labels(groups: Sequence[_Group]) -> list[str]:
    """Name each method by its arms' common label, or by its spec; add the spec if names would repeat."""
    names = []
    for group in groups:
        part, first = group[0]
        label = first.label if len({arm.label for _, arm in group}) == 1 else first.spec
        names.append(f"{label} (searched)" if _searched(part) else label)
    full = [
        f"{name} ({group[0][1].spec})" if names.count(name) > 1 and name != group[0][1].spec else name
        for name, group in zip(names, groups, strict=True)
    ]
    return [f"{name} #{full[:i].count(name) + 1}" if full.count(name) > 1 else name for i, name in enumerate(full)]
