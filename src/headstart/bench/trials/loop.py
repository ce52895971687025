"""The training loop: a budget in steps, evaluations on validation, the test split once at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.tasks.kinds import called
from headstart.bench.tasks.objectives import Objective, objective
from headstart.bench.tasks.task import Split
from headstart.bench.trials.capture import CapturedSteps, CaptureError, why_not
from headstart.bench.trials.devices import make_fabric
from headstart.bench.trials.optimizers import Rates
from headstart.bench.trials.step import Step, Stretch
from headstart.bench.trials.training import Axes, Training
from headstart.bench.trials.turns import Turns, device_done, finish
from headstart.errors import HeadstartError
from headstart.rng import derive

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# What fits a CPU's caches is 2.5 times as fast as 500; an accelerator wants more at once.
_EVALUATION_BATCH = {"cpu": 128}


@dataclass(frozen=True)
class Point:
    """One point of a learning curve.

    Args:
        step: Finished steps.
        accuracy: The score on validation, in percent: accuracy, or the task's metric.
        loss: The loss on validation.
        train_loss: Mean training loss since the previous point; None at step 0.
    """

    step: int
    accuracy: float
    loss: float
    train_loss: float | None


@dataclass
class Outcome:
    """The result of a trial's training.

    Args:
        curve: Points on validation, the first before any step.
        test_accuracy: In percent; None if training diverged or there is no test split.
        test_loss: Mean cross-entropy; None in the same cases.
        diverged: Why training ended early, or an empty string.
        seconds: Seconds of training steps, without evaluations.
        step_seconds: Seconds per step, the median over the stretches between evaluations.
        eager: Why steps ran one by one although they should be captured, or an empty string.
    """

    curve: list[Point] = field(default_factory=list)
    test_accuracy: float | None = None
    test_loss: float | None = None
    diverged: str = ""
    seconds: float = 0.0
    step_seconds: float = 0.0
    eager: str = ""


def train(
    model: nn.Module,
    data: DeviceTask,
    config: Training,
    axes: Axes,
    on_step: Callable[[int], None] | None = None,
    fabric: Fabric | None = None,
) -> Outcome:
    """Train a model that is already initialized and on its device.

    torch's global random state is seeded with ``axes.forward``; the caller guards it. On several devices every
    process calls this. Each takes its part of every batch, normalizes over that part, and returns
    the same outcome.

    Args:
        model: Trained in place.
        data: The task on the device.
        config: Budget, optimizer and precision.
        axes: Seeds; ``weights`` and ``method`` are not used here.
        on_step: Called with the number of finished steps at every evaluation.
        fabric: The fabric of the process that runs this; by default one for a single device.

    Returns:
        The learning curve, the test result and the times.
    """
    return finish(train_in_turns(model, data, config, axes, on_step, fabric))


def train_in_turns(
    model: nn.Module,
    data: DeviceTask,
    config: Training,
    axes: Axes,
    on_step: Callable[[int], None] | None = None,
    fabric: Fabric | None = None,
) -> Turns[Outcome]:
    """Train as :func:`train` does, with a stop after every step and before the device is waited for."""
    fabric = fabric or make_fabric(config)
    rank = fabric.global_rank
    torch.manual_seed(derive(axes.forward, f"rank-{rank}") if rank else axes.forward)
    aim = objective(data.task.kind, config.loss, config.metric)
    points = config.evaluation_steps()
    lengths = [until - done for done, until in zip([0, *points], points, strict=False)]
    share = config.batch_size // fabric.world_size
    stretch = Stretch(data, config, axes, lengths, slice(rank * share, (rank + 1) * share))
    rates = Rates(config, len(data.train))
    started = time.perf_counter()
    stretch.draw()
    steps, eager = _steps(model, data, config, aim, stretch, fabric)  # several devices share the weights from here on
    outcome = Outcome(seconds=time.perf_counter() - started, eager=eager)
    outcome.curve.append(_point(model, data, config, 0, None, fabric))
    paces, done = [], 0
    for until, length in zip(points, lengths, strict=True):
        model.train()
        started = time.perf_counter()
        stretch.begin()
        yield from steps.run(rates.ahead(length))
        stretch.draw()  # while the device computes
        yield device_done(stretch.device)
        history = _over_devices(stretch.losses[:length].clone(), fabric).cpu()  # waits for the device
        taken = time.perf_counter() - started
        outcome.seconds += taken
        paces.append(taken / length)
        broken = torch.nonzero(~history.isfinite()).flatten()
        if len(broken):
            outcome.diverged = f"the training loss was not finite at step {done + int(broken[0]) + 1}"
            break
        outcome.curve.append(_point(model, data, config, until, float(history.mean()), fabric))
        rates.after_evaluation(outcome.curve[-1].accuracy)
        done = until
        if on_step is not None:
            on_step(done)
    outcome.step_seconds = sorted(paces)[len(paces) // 2]
    if len(data.test) and not outcome.diverged:  # a search is given no test images
        outcome.test_accuracy, outcome.test_loss = evaluate(model, data, data.test, config, fabric)
    return outcome


def _steps(
    model: nn.Module, data: DeviceTask, config: Training, aim: Objective, stretch: Stretch, fabric: Fabric
) -> tuple[Step | CapturedSteps, str]:
    """Return captured steps if they are wanted and possible, else plain steps and the reason."""
    reason = why_not(config) if config.capture else ""
    if config.capture and not reason:
        try:
            capturable = Step(model, data, config, aim, stretch, fabric, capturable=True)
            return CapturedSteps(model, capturable, stretch), ""
        except CaptureError as error:
            reason = str(error)
    return Step(model, data, config, aim, stretch, fabric), reason


@torch.no_grad()
def evaluate(
    model: nn.Module, data: DeviceTask, split: Split, config: Training, fabric: Fabric | None = None
) -> tuple[float, float]:
    """Return the score and the mean loss on a split, in evaluation mode.

    A sample whose outputs are not all finite counts as wrong.

    Args:
        model: The plain model.
        data: The task of the split.
        split: The split to evaluate.
        config: The training, for its precision.
        fabric: The fabric of the process; by default one for a single device. Several devices share the work.
    """
    fabric = fabric or make_fabric(config)
    model.eval()
    size = _EVALUATION_BATCH.get(split.labels.device.type, 1024)
    aim = objective(data.task.kind, config.loss, config.metric)
    metric, sums, losses = aim.metric, None, torch.zeros(1, device=split.labels.device)
    if metric.whole and fabric.world_size > 1:
        raise HeadstartError("A metric of your own needs all outputs in one place.", remedy="Train on one device.")
    kept: list[tuple[Tensor, Tensor]] = []
    if fabric.world_size > 1:
        _first_devices_buffers(model)
    for number, (images, labels) in enumerate(data.batches(split, size)):
        if number % fabric.world_size == fabric.global_rank:
            with fabric.autocast():
                outputs = called(model, images).float()
            losses += aim.total(outputs, labels)
            if metric.whole:
                kept.append((outputs.cpu(), labels.cpu()))
            else:
                found = metric.sums(outputs, labels).double()
                sums = found if sums is None else sums + found
    total = float(_over_devices(losses, fabric, "sum")) / len(split)
    if metric.whole:
        return metric.score((torch.cat([o for o, _ in kept]), torch.cat([t for _, t in kept]))), total
    if sums is None:  # more devices than batches
        outputs = called(model, next(data.batches(split, 1))[0]).float()
        sums = torch.zeros_like(metric.sums(outputs, split.labels[:1]).double())
    return metric.score(_over_devices(sums, fabric, "sum").cpu()), total


def _point(
    model: nn.Module, data: DeviceTask, config: Training, step: int, train_loss: float | None, fabric: Fabric
) -> Point:
    accuracy, loss = evaluate(model, data, data.validation, config, fabric)
    return Point(step, accuracy, loss, train_loss)


def _over_devices(values: Tensor, fabric: Fabric, how: str = "mean") -> Tensor:
    if fabric.world_size > 1:
        fabric.all_reduce(values, reduce_op=how)  # in place
    return values


def _first_devices_buffers(model: nn.Module) -> None:
    """Copy the first device's running statistics, as the next training step would."""
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, 0)
