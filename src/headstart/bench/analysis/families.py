"""Which comparisons of an experiment are judged together: one family for each question."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from headstart.bench.analysis.looks import level_of
from headstart.bench.analysis.question import question_of
from headstart.bench.statistics.metric import Metric
from headstart.bench.statistics.verdicts import Comparison, Verdict, compare_family
from headstart.bench.trials.arms import EQUAL_STEPS, RESTARTS


def judge_arms(
    plan: Mapping[str, Any],
    accuracies: Mapping[str, Mapping[int, float]],
    failed: Mapping[str, Collection[int]],
    refusals: Collection[str],
    metric: Metric,
) -> tuple[dict[str, Comparison], list[Comparison]]:
    """Judge each question as its own family, so that a further control does not make other tests stricter.

    Args:
        plan: As an experiment stores it; its first arm is the baseline.
        accuracies: By label and seed; more is better.
        failed: Seeds that collapsed, by label.
        refusals: Labels of arms that were refused.
        metric: What the score is.

    Returns:
        The comparison with the baseline, by label; and each method's comparisons with its controls.
    """
    alpha, margin = level_of(plan), float(plan["margin"])
    kept = plan.get("kept") or {}
    baseline = plan["arms"][0]["label"]
    others = [arm for arm in plan["arms"][1:] if arm["label"] not in refusals]
    against: dict[str, list[tuple[str, str]]] = {}
    beyond: dict[str, list[tuple[str, str]]] = {}
    for arm in others:
        kind = arm["control"] if arm["control"] in ("", "null", EQUAL_STEPS, RESTARTS) else "random"
        kind = "decided before" if arm["label"] in kept else kind
        against.setdefault(kind, []).append((arm["label"], baseline))
        if kind in ("random", EQUAL_STEPS, RESTARTS) and arm["of"] not in refusals:
            beyond.setdefault(kind, []).append((arm["of"], arm["label"]))
    family_of = partial(compare_family, results=accuracies, alpha=alpha, margin=margin, metric=metric, failed=failed)
    question = question_of(plan)
    first = family_of([pair for pair in against.get("", ()) if pair[0] == question])
    gate = max((c.adjusted_p for c in first), default=float(_closed(question, kept)))
    judged = {c.arm: c for c in first}
    for kind, family in against.items():
        left = [pair for pair in family if pair[0] not in judged]
        judged |= {c.arm: c for c in family_of(left, gate=0.0 if kind else gate)}
    compared = [c for family in beyond.values() for c in family_of(family)]
    judged |= {label: replace(judged[label], verdict=Verdict(word)) for label, word in kept.items() if label in judged}
    if plan.get("exploratory"):
        return {label: _without_verdict(c) for label, c in judged.items()}, list(map(_without_verdict, compared))
    return judged, compared


def _closed(question: str, kept: Mapping[str, str]) -> bool:
    """Whether a question that is not tested now (refused, or decided earlier) neither helps nor hurts."""
    return bool(question) and kept.get(question) not in (Verdict.HELPS.value, Verdict.HURTS.value)


def _without_verdict(c: Comparison) -> Comparison:
    return replace(c, exploratory=True, verdict=Verdict.NOT_SETTLED)
