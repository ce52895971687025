"""The equal-steps control of a user's trainer: the default start gets the cost of a start as extra steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headstart.bench.store.store import MeasureOnce
from headstart.bench.trainer.trainer import train_once
from headstart.bench.trainer.trial import TrainerContext
from headstart.bench.trials.arms import EQUAL_STEPS, Arm
from headstart.bench.trials.budget import LEAST, extra_steps
from headstart.bench.trials.timing import measured
from headstart.errors import HeadstartError


class _RefusedError(Exception):
    """A method refuses the model. This answer is not stored."""


def resolve_extra(
    context: TrainerContext, arms: Sequence[Arm], seed: int, measure_once: MeasureOnce = measured
) -> TrainerContext:
    """Set the steps of the equal-steps controls.

    The command runs once with the default start, to time it; each method's start is timed once.

    Args:
        context: The context, without arms.
        arms: The arms of the experiment, the baseline first.
        seed: The seed of the run that is timed.
        measure_once: Called for each time, so that earlier answers are reused.

    Returns:
        The context with its arms. A control is left out if its method refuses the model or costs less than `LEAST` of
        the training. All are left out, with a remark, if the number of the command's steps is not known.

    Raises:
        HeadstartError: The command fails.
    """
    kept: list[Arm] = []
    costs: list[dict[str, Any]] = []
    remarks: list[str] = []
    by_label = {arm.label: arm for arm in arms}
    for arm in arms:
        if arm.control != EQUAL_STEPS or "extra" in dict(arm.changes):
            kept.append(arm)
            continue
        run = _run(context, arms[0], seed, measure_once)
        steps = context.trainer.steps or run["steps"]
        if not steps:
            remarks = [
                "There is no equal-steps control, since the number of the command's training steps is not known."
                " Give it as --trainer-steps, or as 'steps' in the score's file."
            ]
            continue
        try:
            seconds = _start(context, by_label[arm.of], seed, measure_once)
        except _RefusedError:
            continue
        share = seconds / run["seconds"]
        more = 0 if share < LEAST else extra_steps(share, int(steps))
        costs.append({"of": arm.of, "init_seconds": seconds, "share": share, "steps": more})
        if more:
            kept.append(replace(arm, changes=(("extra", more),)))
    decided = {"equal_steps": costs} if costs else {}
    return replace(context, arms=tuple(kept), decided=decided, remarks=tuple(remarks))


def _run(context: TrainerContext, baseline: Arm, seed: int, measure_once: MeasureOnce) -> dict[str, Any]:
    question = {"what": "a run of the trainer", **context.determinants(baseline, seed)}

    def answer() -> dict[str, Any]:
        outcome = train_once(context.trainer, context.start(baseline, seed)[0], seed, source=context.model)
        if outcome.score is None:
            raise HeadstartError(
                f"The trainer's command failed in the run that times it: {outcome.reason}\n{outcome.lines}"
            )
        return {"seconds": outcome.seconds, "steps": outcome.score.steps}

    return dict(measure_once(question, lambda: measured(question, answer)))


def _start(context: TrainerContext, arm: Arm, seed: int, measure_once: MeasureOnce) -> float:
    question = {
        "what": "cost of a start",
        **context.determinants(arm, seed),
        "device": context.device.partition(":")[0],
    }

    def answer() -> dict[str, Any]:
        try:
            return {"init_seconds": context.start(arm, seed)[2]}
        except HeadstartError as error:
            raise _RefusedError from error

    return float(measure_once(question, lambda: measured(question, answer))["init_seconds"])
