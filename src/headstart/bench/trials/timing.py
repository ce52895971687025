"""Time the parts of a trial on this machine: starts, training steps, evaluations."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from headstart import rng
from headstart.bench.store.store import Facts, content_key
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.trials.arms import Arm
from headstart.bench.trials.loop import Outcome, evaluate, train
from headstart.bench.trials.starting import start
from headstart.bench.trials.training import Axes, Training
from headstart.bench.trials.trial import TrialContext, build

_STEPS = 9  # in three stretches, of which the median counts: the first one warms up
_MOST = 300
_LONG = 0.3  # seconds that steps are timed for, if so many are enough
_IMAGES = 256
_QUICK = 2.0
_answers: dict[str, Facts] = {}


def measured(question: Facts, answer: Callable[[], Facts]) -> Facts:
    """Answer a question by measuring, once per process.

    Args:
        question: Everything that the answer depends on.
        answer: Measures and returns the answer.

    Example:
        >>> measured({"what": "a"}, lambda: {"seconds": 1.0}), measured({"what": "a"}, lambda: {"seconds": 2.0})
        ({'seconds': 1.0}, {'seconds': 1.0})
    """
    key = content_key(question)
    if key not in _answers:
        _answers[key] = answer()
    return _answers[key]


def shortened(data: DeviceTask, images: int = _IMAGES) -> DeviceTask:
    """Return the same task with only the first images of the validation and test splits."""
    small = copy.copy(data)
    small.validation, small.test = (split.first(images) for split in (data.validation, data.test))
    return small


def train_briefly(context: TrialContext, data: DeviceTask, steps: int) -> Outcome:
    """Build the model and train it for a few steps, in up to three stretches.

    With several devices, one trains on its share of the batch. The random states do not change.

    Args:
        context: The context, with the training.
        data: The task, preferably with few images to evaluate on.
        steps: The number of steps.
    """
    training = _one_device(context.training)
    axes = Axes.of(0)
    with rng.untouched():
        return train(build(context, axes), data, replace(training, steps=steps, evaluations=3), axes)


def _one_device(training: Training) -> Training:
    return replace(training, devices=1, batch_size=training.batch_size // training.devices)


class Clock:
    """Times the parts of a trial, each once and only on request.

    Args:
        context: The context of the trials.
    """

    def __init__(self, context: TrialContext) -> None:
        self._ground = context
        self._small = shortened(context.data)
        self._inits: dict[str, float] = {}
        self._step: float | None = None
        self._image: float | None = None

    def init(self, arm: Arm, seed: int) -> float:
        """Seconds of an arm's start.

        Raises:
            HeadstartError: If the method refuses the model.
        """
        name = repr(([method.spelled() for method in arm.methods()], self._ground.training_of(arm).calibration))
        if name not in self._inits:
            self._inits[name] = self._best_init(arm, seed)
        return self._inits[name]

    def _best_init(self, arm: Arm, seed: int) -> float:
        seconds = self._init(arm, seed)
        # The first call of a method also loads what it needs.
        return min(self._init(arm, seed) for _ in range(2)) if seconds < _QUICK else seconds

    def _init(self, arm: Arm, seed: int) -> float:
        methods = arm.methods()
        if not methods:
            return 0.0
        axes, data = Axes.of(seed, arm.weights_draw), self._ground.data
        with rng.untouched():
            model = build(self._ground, axes)
            started = time.perf_counter()
            start(model, data, self._ground.training_of(arm), methods, axes.method)
            if self._ground.training.device.startswith("cuda"):
                torch.cuda.synchronize()
            return time.perf_counter() - started

    def step(self) -> float:
        """Seconds of a training step, which is the same for all arms."""
        if self._step is None:
            self._step = train_briefly(self._ground, self._small, _STEPS).step_seconds
            if self._step * _STEPS < _LONG:
                steps = min(_MOST, math.ceil(_LONG / self._step))
                self._step = train_briefly(self._ground, self._small, steps).step_seconds
        return self._step

    def training(self, arm: Arm, step: float) -> float:
        """Seconds of the training of an arm's trial, given those of a step."""
        training, data = self._ground.training_of(arm), self._ground.data
        looks = len(training.evaluation_steps()) + 1
        return training.steps * step + (looks * len(data.validation) + len(data.test)) * self._evaluation()

    def _evaluation(self) -> float:
        """Seconds per image."""
        if self._image is None:
            training = _one_device(self._ground.training)
            with rng.untouched():
                model = build(self._ground, Axes.of(0))
                times = []
                for _ in range(3):
                    started = time.perf_counter()
                    evaluate(model, self._small, self._small.validation, training)
                    times.append(time.perf_counter() - started)
            self._image = median(times) / len(self._small.validation)
        return self._image
