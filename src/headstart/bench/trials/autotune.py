"""Choose precision and memory format by timing real training steps of the model."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from torch import nn

from headstart import rng
from headstart.bench.store.store import Facts, MeasureOnce
from headstart.bench.trials import hardware
from headstart.bench.trials.timing import measured, shortened, train_briefly
from headstart.bench.trials.trial import TrialContext

GAIN = 0.1
"""The share of a step's time that another combination must save to be chosen."""
_AXES = ("precision", "memory_format")
_CLOSE = 0.05  # of the loss, between bfloat16 and float32 on the same batch
_ROUNDS = 5
_STEPS = 3  # at least in each round, of which the median counts: the first of a new model takes longer
_BLOCK = 0.04  # seconds that a combination trains in each round, if so many steps are not longer
_LIMIT = 3.0  # seconds for each combination, after which it is not trained again
_IMAGES = 8  # to evaluate on; evaluations are not timed


@dataclass(frozen=True)
class Combination:
    """A precision and a memory format, with the time of a training step.

    Args:
        precision: ``"float32"`` or ``"bfloat16"``.
        memory_format: ``"contiguous"`` or ``"channels_last"``.
        step_seconds: Median of a training step; None if it cannot be used.
        problem: Why it cannot be used, or an empty string.
    """

    precision: str
    memory_format: str
    step_seconds: float | None = None
    problem: str = ""


def tune(context: TrialContext, auto: Collection[str], measure_once: MeasureOnce = measured) -> TrialContext:
    """Resolve precision and memory format, if they are to be chosen.

    Args:
        context: The context; its training has float32 and the contiguous format until others are chosen.
        auto: Which of ``"precision"`` and ``"memory_format"`` to choose.
        measure_once: Called for the measurement, so that an earlier answer is reused. A new measurement of the same
            experiment could choose differently, and its trials would be different ones.

    Returns:
        The context with both resolved.
    """
    given = context.training
    precision = "float32" if "precision" in auto else given.precision
    context = _in(context, precision, "contiguous" if "memory_format" in auto else given.memory_format)
    combinations = candidates(context, auto)
    if len(combinations) < 2:
        return context
    question = {
        "what": "precision and memory format",
        **context.identity(),
        "batch_size": given.batch_size,
        "devices": given.devices,
        "device": given.device.partition(":")[0],
        **{name: "auto" if name in auto else getattr(given, name) for name in _AXES},
    }

    def answer() -> Facts:
        found = measure(context, combinations)
        return {"measured": [vars(each) for each in found], "chosen": vars(found[pick(found)])}

    fact = measure_once(question, lambda: measured(question, answer))
    chosen = fact["chosen"]
    tuned = _in(context, chosen["precision"], chosen["memory_format"])
    return replace(tuned, decided={**context.decided, "format": fact})


def candidates(context: TrialContext, auto: Collection[str]) -> list[Combination]:
    """List the combinations to try; the first is the fallback.

    bfloat16 is tried if the hardware computes in it, channels-last if the model has convolutions.
    """
    training, task = context.training, context.data.task
    precisions, formats = [training.precision], [training.memory_format]
    if "precision" in auto and hardware.computes_bfloat16(training.device):
        precisions.append("bfloat16")
    if "memory_format" in auto and len(task.image_size) == 2:
        with rng.untouched():
            model = context.builder(task.channels, task.classes, task.image_size)
        if any(isinstance(module, nn.Conv2d) for module in model.modules()):
            formats.append("channels_last")
    return [Combination(precision, layout) for precision in precisions for layout in formats]


def measure(context: TrialContext, combinations: Sequence[Combination]) -> list[Combination]:
    """Time training steps in every combination, in rounds, so that other load on the machine affects all equally.

    Args:
        context: What to train.
        combinations: float32 before bfloat16, which is used only if its loss on the same batch from the same
            weights is finite and within 5 % of float32's.

    Returns:
        The combinations, each with its median or why it cannot be used. One that raises cannot.

    Raises:
        RuntimeError: The error of the first combination, if none can be used.
    """
    found = list(combinations)
    blocks: list[list[float]] = [[] for _ in found]
    spent, steps = [0.0] * len(found), [_STEPS] * len(found)
    losses: dict[str, float | None] = {}
    failures: list[RuntimeError] = []
    for turn in range(-1, _ROUNDS):  # the first warms up and looks at the loss
        for i, each in enumerate(found):
            if each.problem or (len(blocks[i]) > 0 and spent[i] > _LIMIT):
                continue
            began = time.perf_counter()
            try:
                placed = _in(context, each.precision, each.memory_format)
                outcome = train_briefly(placed, shortened(placed.data, _IMAGES), steps[i] if turn >= 0 else 1)
            except RuntimeError as error:  # such as a view of a channels-last tensor, or too little memory
                found[i] = replace(each, problem=str(error).partition("\n")[0])
                failures.append(error)
                if all(each.problem for each in found):
                    raise failures[0] from None
                continue
            spent[i] += time.perf_counter() - began
            if turn >= 0:
                blocks[i].append(outcome.step_seconds)
                steps[i] = max(_STEPS, math.ceil(_BLOCK / outcome.step_seconds))
            elif each.precision == "float32":
                losses[each.memory_format] = outcome.curve[-1].train_loss
            elif problem := _differs(outcome.diverged, outcome.curve[-1].train_loss, losses.get(each.memory_format)):
                found[i] = replace(each, problem=problem)
    return [replace(each, step_seconds=None if each.problem else median(blocks[i])) for i, each in enumerate(found)]


def pick(found: Sequence[Combination]) -> int:
    """Choose a combination: start with the first, and switch if another saves a tenth of the time.

    Example:
        >>> times = (10.0, 9.5, 8.0, 7.5)
        >>> pick([Combination("float32", "contiguous", seconds) for seconds in times])
        2
    """
    usable = [i for i, each in enumerate(found) if each.step_seconds is not None]
    best = usable[0] if usable else 0
    for i in usable:
        if (found[i].step_seconds or 0.0) <= (1 - GAIN) * (found[best].step_seconds or 0.0):
            best = i
    return best


def rule(decided: Mapping[str, Any]) -> str:
    """Say in a sentence what was timed and chosen; empty if nothing was.

    Args:
        decided: ``decided`` of a context, as stored with the experiment.

    Example:
        >>> one = vars(Combination("float32", "contiguous", 0.01))
        >>> rule({"format": {"measured": [one], "chosen": one}})
        'Precision and memory format were chosen by timing training steps: float32, contiguous (10 ms, chosen).'
    """
    if "format" not in decided:
        return ""
    parts = []
    for each in decided["format"]["measured"]:
        seconds = each["step_seconds"]
        result = each["problem"] if seconds is None else f"{1000 * seconds:.3g} ms"
        chosen = ", chosen" if each == decided["format"]["chosen"] else ""
        parts.append(f"{each['precision']}, {each['memory_format'].replace('_', '-')} ({result}{chosen})")
    return f"Precision and memory format were chosen by timing training steps: {'; '.join(parts)}."


def _in(context: TrialContext, precision: str, memory_format: str) -> TrialContext:
    training = replace(context.training, precision=precision, memory_format=memory_format)
    return replace(context, training=training, data=context.data.in_format(memory_format))


def _differs(diverged: str, loss: float | None, wanted: float | None) -> str:
    if diverged or loss is None:
        return diverged or "the loss was not finite"
    if wanted is not None and abs(loss - wanted) > _CLOSE * abs(wanted):
        return f"its loss on the same batch is {loss:.4g}, that of float32 {wanted:.4g}"
    return ""
