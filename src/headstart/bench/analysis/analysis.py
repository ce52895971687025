"""Analysis of a store: arms, verdicts, controls, costs; everything that a report prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.bench.analysis.conclusion import conclude
from headstart.bench.analysis.controls import read_control, read_null
from headstart.bench.analysis.families import judge_arms
from headstart.bench.analysis.judgement import RULES
from headstart.bench.analysis.looks import by_hand, level_of
from headstart.bench.analysis.provenance import eager, mixed, twins
from headstart.bench.analysis.question import question_rule
from headstart.bench.analysis.selection import Selection, selection_of
from headstart.bench.statistics import paired
from headstart.bench.statistics.collapses import find_collapsed
from headstart.bench.statistics.metric import ACCURACY, Metric, metric_of, own_metric
from headstart.bench.statistics.sentences import say
from headstart.bench.statistics.speed import RULE as SPEED
from headstart.bench.statistics.speed import Speed, Target, speed_to, target_of
from headstart.bench.statistics.verdicts import Comparison
from headstart.bench.store.store import Store
from headstart.bench.trials.autotune import rule as measured
from headstart.bench.trials.budget import more_steps, remarks
from headstart.errors import HeadstartError

Result = Mapping[str, Any]
FAMILIES = (
    "The same seed means the same data order, the same augmentation and, but for the null arm, the same default "
    "weights.",
    "Questions, each judged for itself: does a method help; what do the random controls do; what do more steps do; "
    "what do restarts do; is a method better than its random controls; than more steps; than restarts.",
)


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its finished seeds.

    Args:
        label: Its name.
        spec: Its method's spec.
        methods: The methods with all their options.
        control: Which control it is, or an empty string.
        of: The arm that it is a control of.
        results: Finished trials by seed; a diverged trial counts with the accuracy of guessing.
        refusal: Why the method refused the model, or an empty string.
        comparison: The comparison with the baseline; None for the baseline itself.
        speed: Steps to the baseline's mean final validation accuracy; None without results.
        area_difference: Area under the validation curve minus the baseline's with the same seed, in points; None
            for the baseline, without results, or if the arm trains for another number of steps.
        init_seconds: Median seconds of the initialization.
        init_steps: The same in training steps of the baseline; 0 if the time of a step is not known.
        metric: The score.
        failed: Number of seeds whose run failed.
    """

    label: str
    spec: str
    methods: tuple[str, ...]
    control: str
    of: str
    results: Mapping[int, Result]
    refusal: str
    comparison: Comparison | None
    speed: Speed | None
    area_difference: paired.Estimate | None
    init_seconds: float
    init_steps: float
    metric: Metric = ACCURACY
    failed: int = 0

    @property
    def accuracies(self) -> list[float]:
        """Test accuracies in percent, or another score in its displayed unit, one per finished seed."""
        return [float(result["test_accuracy"]) for result in self.results.values()]

    @property
    def diverged(self) -> int:
        """Number of seeds in which training diverged."""
        return sum(result["status"] == "diverged" for result in self.results.values())

    @property
    def area(self) -> float:
        """Mean over seeds of the area under the validation curve, in percent."""
        return float(np.mean([result["area"] for result in self.results.values()])) if self.results else float("nan")

    def curves(self) -> tuple[list[int], paired.Floats]:
        """Return steps and validation accuracies, ``(seeds, steps)``, of the trials that did not diverge."""
        whole = [r["curve"] for r in self.results.values() if r["status"] == "done"]
        if not whole:
            return [], np.zeros((0, 0))
        return [point["step"] for point in whole[0]], np.array([[p["accuracy"] for p in curve] for curve in whole])

    def sentence(self) -> str:
        """Say the verdict, how soon the arm reaches the baseline's accuracy, any faults, and the cost of the start."""
        if self.refusal:
            return f"{self.label} did not run: {self.refusal}"
        if self.comparison is None:
            mean = self.metric.value(float(np.mean(self.accuracies))) if self.results else ""
            return f"{self.label} is the baseline: {mean} {self.metric.name}." if self.results else ""
        return " ".join(filter(None, [str(say(self.comparison)), self.aside()]))

    def aside(self) -> str:
        """Say how soon the arm reaches the baseline's final accuracy, what went wrong, and what the start cost."""
        broke = f" Training diverged in {self.diverged} of {len(self.results)} seeds." if self.diverged else ""
        if self.failed:
            broke += f" The run failed in {self.failed} of {len(self.results) + self.failed} seeds, which are left out."
        cost = ""
        if self.init_seconds and not self.control:
            steps = "training step" if round(self.init_steps) == 1 else "training steps"
            time = f", the time of {self.init_steps:.0f} {steps}" if self.init_steps else ""
            cost = f" It costs {self.init_seconds:.2f} s{time}."
        soon = f" {self.speed.sentence()}" if self.speed and not self.control else ""
        return (soon + broke + cost).strip()


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Args:
        arm: Its arm.
        seed: Its seed.
        reason: Why, in a sentence.
        lines: The last lines that it printed.
    """

    arm: str
    seed: int
    reason: str
    lines: str


@dataclass(frozen=True)
class Analysis:
    """The content of a report.

    Args:
        plan: The experiment as it was stored: task, model, training, provenance.
        arms: Baseline first, then methods, controls and the null.
        beyond: Each method against each of its controls.
        missing: Trials that are not finished.
        notes: Remarks on the trials: damaged files, mixed versions.
        metric: The score.
        failures: Runs that failed.
    """

    plan: Mapping[str, Any]
    arms: tuple[ArmSummary, ...]
    beyond: tuple[Comparison, ...]
    missing: int
    notes: tuple[str, ...]
    metric: Metric = ACCURACY
    failures: tuple[Failure, ...] = ()

    @property
    def baseline(self) -> ArmSummary:
        """The arm that all others are compared with."""
        return self.arms[0]

    @property
    def methods(self) -> tuple[ArmSummary, ...]:
        """Arms under test."""
        return tuple(arm for arm in self.arms[1:] if not arm.control)

    @property
    def controls(self) -> tuple[ArmSummary, ...]:
        """Control arms, the null among them."""
        return tuple(arm for arm in self.arms if arm.control)

    @property
    def selection(self) -> Selection | None:
        """The result of a search before, if there was one."""
        return selection_of(self.plan)

    def rules(self) -> list[str]:
        """Return the verdict rules with this experiment's level and margin."""
        rules = [rule.format(alpha=level_of(self.plan), margin=self.plan["margin"]) for rule in (*RULES, *FAMILIES)]
        rules += [by_hand(self.plan)] if self.plan.get("looked") else []
        rules += [question_rule(self.plan)] if self.plan.get("primary") else []
        target = next((arm.speed.target for arm in self.arms if arm.speed), None)
        where = f" Here it is {target.accuracy:.2f} %." if target else ""
        speed = SPEED + where if self.metric.own else ""
        return [*rules, *filter(None, [speed, self.plan.get("stopping"), measured(self.plan.get("decided", {}))])]

    def conclusion(self) -> str:
        """Say the findings and what to do next; empty if there is no verdict."""
        compared = [arm.comparison for arm in self.methods if arm.comparison is not None]
        return conclude(compared, self.baseline.label, len(self.baseline.results))

    def control_readings(self) -> list[str]:
        """Say what each control shows: a question and its answer."""
        decided = self.plan.get("decided", {})
        by = {arm.label: arm for arm in self.arms}
        said = [
            read_control(c, by[c.against].control, arm.comparison, more_steps(decided, arm.label))
            for arm in self.methods
            for c in self.beyond
            if c.arm == arm.label and c.seeds
        ]
        nulls = [arm.comparison for arm in self.controls if arm.control == "null" and arm.comparison is not None]
        return [*said, *remarks(decided), *(read_null(c) for c in nulls if len(c.differences) > 1)]


def analyse(store: Store) -> Analysis:
    """Read a store and judge its trials, also before all are finished.

    Args:
        store: The store of an experiment that was at least begun.

    Returns:
        The analysis. The same store always gives the same analysis.

    Raises:
        HeadstartError: The folder holds no experiment.
    """
    plan = store.read_experiment()
    if not plan.get("test", True):
        raise HeadstartError(
            f"'{store.folder}' holds a search, whose trials do not look at the test split.",
            remedy="The report on its experiment shows what was chosen: pass the folder above.",
        )
    records = store.present(cell["key"] for cell in plan["trials"])
    results: dict[str, dict[int, Result]] = {arm["label"]: {} for arm in plan["arms"]}
    refusals: dict[str, str] = {}
    failures: list[Failure] = []
    missing: set[str] = set()
    for cell in plan["trials"]:
        record = records.get(cell["key"])
        if record is None:
            missing.add(cell["key"])
        elif record.result["status"] == "refused":
            refusals[cell["arm"]] = str(record.result["reason"])
        elif record.result["status"] == "failed":
            told = record.result
            failures.append(Failure(cell["arm"], cell["seed"], str(told["reason"]), str(told.get("lines", ""))))
        else:
            results[cell["arm"]][cell["seed"]] = {**record.result, "key": cell["key"]}
    notes = [f"{damage.file} {damage.reason}; it is left out." for damage in store.damaged()]
    notes += [*mixed([r.provenance for r in records.values()]), *eager([r.result for r in records.values()])]
    if "metric" in plan:
        return assemble_scores(plan, results, refusals, len(missing), notes, failures)
    return assemble(plan, results, refusals, len(missing), notes, metric=own_metric(plan["task"]))


def assemble_scores(
    plan: Mapping[str, Any],
    results: Mapping[str, Mapping[int, Result]],
    refusals: Mapping[str, str],
    missing: int,
    notes: Sequence[str],
    failures: Sequence[Failure],
) -> Analysis:
    """Judge the scores of a user's trainer, whose metric is not accuracy and whose steps are not known."""
    baseline = plan["arms"][0]["label"]
    metric, margin = metric_of(plan, [float(result["score"]) for result in results[baseline].values()])
    points = {tuple(p["step"] for p in r["curve"]) for by_seed in results.values() for r in by_seed.values()}
    alike = len(points) == 1  # curves of different lengths have no mean
    shown = {
        label: {seed: _as_shown(result, metric, alike) for seed, result in by_seed.items()}
        for label, by_seed in results.items()
    }
    notes = [*notes, *plan.get("notes", ())]
    if metric.lower_is_better:
        notes.append(f"Lower {metric.name} is better: a difference is {baseline}'s minus the arm's, above zero a gain.")
    found = assemble({**plan, "margin": margin}, shown, refusals, missing, notes, curves=False, metric=metric)
    counts = {arm.label: sum(failure.arm == arm.label for failure in failures) for arm in found.arms}
    arms = tuple(replace(arm, failed=counts[arm.label]) for arm in found.arms)
    return replace(found, arms=arms, failures=tuple(failures))


def _as_shown(result: Result, metric: Metric, curves: bool) -> Result:
    """Return a score in the form of a trial of headstart's own loop, in its displayed unit."""
    curve = [{"step": point["step"], "accuracy": metric.scale * point["score"]} for point in result["curve"] if curves]
    return {"step_seconds": 0.0, **result, "test_accuracy": metric.scale * float(result["score"]), "curve": curve}


def assemble(
    plan: Mapping[str, Any],
    results: Mapping[str, Mapping[int, Result]],
    refusals: Mapping[str, str],
    missing: int = 0,
    notes: Sequence[str] = (),
    curves: bool = True,
    metric: Metric = ACCURACY,
) -> Analysis:
    """Judge results from any source.

    Args:
        plan: As an experiment stores it: arms, training, task, level, margin.
        results: By arm and seed.
        refusals: Why an arm was refused, by arm.
        missing: Trials that are not finished.
        notes: Remarks on the results.
        curves: Whether the results have their learning curves. Without curves, the analysis omits
            steps to the baseline's accuracy, areas.
        metric: The score that ``test_accuracy`` of the results holds.
    """
    sign = -1 if metric.lower_is_better else 1  # what is judged is better if there is more of it
    accuracies = {
        label: {seed: sign * float(r["test_accuracy"]) for seed, r in by.items()} for label, by in results.items()
    }
    baseline = plan["arms"][0]["label"]
    diverged = {label: [s for s, r in by.items() if r["status"] == "diverged"] for label, by in results.items()}
    metric = own_metric(plan["task"]) if metric is ACCURACY else metric
    failed = find_collapsed(accuracies, metric.guess, diverged)
    judged, beyond = judge_arms(plan, accuracies, failed, refusals, metric)
    target = target_of(baseline, results[baseline], plan["training"]["steps"]) if curves else None
    arms = tuple(_summarize(arm, results, refusals, judged, baseline, target, curves, metric) for arm in plan["arms"])
    hollow = target.hollow(metric.guess) if target else ()
    edges = searched.warnings if (searched := selection_of(plan)) else ()
    alike = twins({arm.label: arm.results for arm in arms[1:] if not arm.control})
    return Analysis(plan, arms, tuple(beyond), missing, (*notes, *hollow, *edges, *alike), metric)


def _summarize(
    arm: Mapping[str, Any],
    results: Mapping[str, Mapping[int, Result]],
    refusals: Mapping[str, str],
    judged: Mapping[str, Comparison],
    baseline: str,
    target: Target | None,
    curves: bool,
    metric: Metric,
) -> ArmSummary:
    own, base = results[arm["label"]], results[baseline]
    step = float(np.median([r["step_seconds"] for r in base.values()])) if base else float("nan")
    seconds = float(np.median([r["init_seconds"] for r in own.values()])) if own else 0.0
    cost = seconds / step if step > 0 else 0.0
    alike = curves and "steps" not in dict(arm.get("changes", ()))  # more steps have more area for nothing
    areas = [own[seed]["area"] - base[seed]["area"] for seed in own if seed in base and alike]
    return ArmSummary(
        arm["label"],
        arm["spec"],
        tuple(arm["methods"]),
        arm["control"],
        arm["of"],
        own,
        refusals.get(arm["label"], ""),
        judged.get(arm["label"]),
        speed_to(target, own, cost) if target and own else None,
        None if arm["label"] == baseline else paired.estimate(areas),
        seconds,
        cost,
        metric,
    )
