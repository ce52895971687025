"""The equal-steps control: the default start gets the cost of a method's start as extra training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headstart.bench.store.store import MeasureOnce
from headstart.bench.trials.arms import EQUAL_STEPS, Arm
from headstart.bench.trials.timing import Clock, measured
from headstart.bench.trials.training import Training
from headstart.bench.trials.trial import TrialContext
from headstart.errors import HeadstartError

LEAST = 0.002
"""Share of the budget below which the cost of a start is ignored."""
_MATTERS = ("calibration", "batch_size", "devices", "precision", "memory_format", "optimizer", "augment")
_UNIT = 0.01  # of the budget, to whole multiples of which the steps are rounded up


class _RefusedError(Exception):
    """A method refuses the model. This answer is not stored, since the user may follow the remedy."""


def resolve_equal_steps(
    context: TrialContext, arms: Sequence[Arm], measure_once: MeasureOnce = measured
) -> TrialContext:
    """Set the steps of the equal-steps controls that have none yet.

    Args:
        context: The context, with its training resolved.
        arms: The arms of the experiment, the baseline first.
        measure_once: Called for the cost of each start, so that earlier answers are reused.

    Returns:
        The context with its arms. A control is left out if its method refuses the model or costs less than
        `LEAST` of the budget; ``decided["equal_steps"]`` says what each start costs.
    """
    kept: list[Arm] = []
    costs: list[dict[str, Any]] = []
    clock = Clock(context)
    by_label = {arm.label: arm for arm in arms}
    for arm in arms:
        if arm.control != EQUAL_STEPS or "steps" in dict(arm.changes):
            kept.append(arm)
            continue
        if arm.of not in by_label:
            raise HeadstartError(f"{arm.label!r} is a control of {arm.of!r}, but there is no such arm.")
        method = by_label[arm.of]
        training = context.training_of(arm)
        cost: dict[str, Any] = {}
        counted = counted_steps(method, len(context.data.train), training.batch_size)
        if counted is None:
            try:
                cost = dict(measure_once(*_question(context, method, clock)))
            except _RefusedError:
                continue
            share = cost["init_seconds"] / cost["step_seconds"] / training.steps
            more = 0 if share < LEAST else extra_steps(share, training.steps)
        else:
            share, more = counted / training.steps, counted
        costs.append({"of": arm.of, **cost, "share": share, "steps": more})
        if more:
            kept.append(replace(arm, changes=(*arm.changes, *stretch(training, training.steps + more).items())))
    decided = {**context.decided, "equal_steps": costs} if costs else context.decided
    return replace(context, arms=tuple(kept), decided=decided)


def counted_steps(arm: Arm, images: int, batch_size: int) -> int | None:
    """Count the steps of a start that only trains, as the trial does; None for any other start.

    Args:
        arm: The arm.
        images: The number of training images.
        batch_size: The batch size of the trial.

    Example:
        >>> counted_steps(Arm("short", "smart-init:epochs=2"), images=8000, batch_size=64)
        36
    """
    counted = [method.training_steps(images, batch_size) for method in arm.methods()]
    known = [steps for steps in counted if steps is not None]
    return sum(known) if len(known) == len(counted) else None


def extra_steps(share: float, steps: int) -> int:
    """Return the cost of a start in whole steps, rounded up to whole hundredths of the budget.

    Args:
        share: The start's cost as a share of the budget.
        steps: The budget.

    Example:
        >>> extra_steps(0.0234, 1000), extra_steps(0.0234, 50)
        (30, 2)
    """
    unit = math.ceil(_UNIT * steps)
    return unit * math.ceil(share * steps / unit)


def stretch(training: Training, steps: int) -> dict[str, Any]:
    """Return the changes that spread a training and its schedule over another number of steps.

    Args:
        training: The training, with its steps resolved.
        steps: The new budget.

    Example:
        >>> stretch(Training(steps=100, schedule="step", milestones=(50, 75)), 120)
        {'steps': 120, 'milestones': (60.0, 90.0)}
    """
    ratio = steps / training.steps
    changes: dict[str, Any] = {"steps": steps}
    if training.schedule == "step":
        changes["milestones"] = tuple(milestone * ratio for milestone in training.milestones)
    if training.schedule == "exponential":
        changes["decay"] = training.decay ** (1 / ratio)
    return changes


def more_steps(decided: Mapping[str, Any], label: str) -> str:
    """Say how many more steps a method's equal-steps control has.

    Args:
        decided: ``decided`` of a context, as stored with the experiment.
        label: The label of the method's arm.

    Example:
        >>> more_steps({"equal_steps": [{"of": "lsuv", "steps": 1}]}, "lsuv"), more_steps({}, "lsuv")
        ('1 more training step', 'more training steps')
    """
    steps = {cost["of"]: cost["steps"] for cost in decided.get("equal_steps", ())}.get(label)
    return "more training steps" if steps is None else f"{steps} more training step{'s' * (steps != 1)}"


def remarks(decided: Mapping[str, Any]) -> list[str]:
    """Say which methods have no equal-steps control because they cost next to nothing.

    Args:
        decided: ``decided`` of a context, as stored with the experiment.
    """
    free = [cost["of"] for cost in decided.get("equal_steps", ()) if not cost["steps"]]
    if not free:
        return []
    names = " and of ".join(filter(None, [", ".join(free[:-1]), free[-1]]))
    return [
        f"The start of {names} takes less than {100 * LEAST:g} % of the training's time: budgets are equal to "
        "within that, and there is no equal-steps control."
    ]


def _question(context: TrialContext, method: Arm, clock: Clock) -> Any:
    training = context.training_of(method)
    question = {
        "what": "cost of a start",
        **context.identity(),
        "methods": [repr(each) for each in method.methods()],
        "training": {name: getattr(training, name) for name in _MATTERS},
        "device": training.device.partition(":")[0],
    }

    def answer() -> dict[str, Any]:
        try:
            seconds = clock.init(method, 0)
        except HeadstartError as error:
            raise _RefusedError from error
        return {"init_seconds": seconds, "step_seconds": clock.step()}

    return question, lambda: measured(question, answer)
