"""One trial's training: a budget in steps, evaluations on validation, the test split once at the end."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.bench.batches import DeviceTask, check_augmentations, data_order
from headstart.bench.tasks import Split
from headstart.errors import HeadstartError, unknown
from headstart.rng import derive

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16")
MEMORY_FORMATS = ("contiguous", "channels_last")
# What fits a CPU's caches is 2.5 times as fast as 500; an accelerator wants more at once.
_EVALUATION_BATCH = {"cpu": 128}


@dataclass(frozen=True)
class Training:
    """How a trial trains. Every field is part of what identifies a trial.

    Args:
        steps: Optimizer steps.
        batch_size: Images per step.
        lr: Learning rate at the start.
        lr_end: Learning rate that the cosine schedule ends at.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"`` (Nesterov momentum 0.9).
        weight_decay: As the optimizer defines it.
        schedule: ``"cosine"`` per step, or ``"constant"``.
        augment: Any of ``"flip"`` and ``"crop"``.
        evaluations: How often the validation split is looked at, evenly spaced, the last at the end.
        calibration: Images in the batch that an initialization sees.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast).
        memory_format: ``"contiguous"`` or ``"channels_last"``.
        device: ``"cpu"``, ``"cuda"``, ...
    """

    steps: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    lr_end: float = 0.0
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "cosine"
    augment: tuple[str, ...] = ()
    evaluations: int = 10
    calibration: int = 256
    precision: str = "float32"
    memory_format: str = "contiguous"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("memory format", self.memory_format, MEMORY_FORMATS),
        ):
            if value not in known:
                raise unknown(kind, value, known)
        check_augmentations(self.augment)
        for name in ("steps", "batch_size", "evaluations", "calibration"):
            if getattr(self, name) < 1:
                raise HeadstartError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise HeadstartError(f"The learning rate is {self.lr}; it must be positive.")

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0.

        Example:
            >>> [round(Training(steps=4, lr=1.0).learning_rate(step), 3) for step in range(4)]
            [1.0, 0.854, 0.5, 0.146]
        """
        if self.schedule == "constant":
            return self.lr
        return self.lr_end + (self.lr - self.lr_end) * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def evaluation_steps(self) -> list[int]:
        """Return the numbers of finished steps after which to evaluate.

        Example:
            >>> Training(steps=10, evaluations=4).evaluation_steps()
            [2, 5, 8, 10]
        """
        count = min(self.evaluations, self.steps)
        return [round(self.steps * (i + 1) / count) for i in range(count)]


@dataclass(frozen=True)
class Axes:
    """The seeds of a trial's random streams, one per axis, so that one can change and the rest stay.

    Args:
        data_order: Which images are in which batch.
        augmentation: How they are flipped and cropped.
        weights: The weights that the model's constructor draws.
        forward: What the model itself draws while it trains (dropout).
        method: What an initialization draws, and the batch that it sees.
    """

    data_order: int
    augmentation: int
    weights: int
    forward: int
    method: int

    @classmethod
    def of(cls, seed: int, weights_draw: int = 0) -> Axes:
        """Derive the axes from a trial's seed.

        Args:
            seed: Arms with the same seed share all axes.
            weights_draw: Another number gives other default weights and leaves the other axes as they are.
        """
        again = () if weights_draw == 0 else (f"draw-{weights_draw}",)
        return cls(
            derive(seed, "data-order"),
            derive(seed, "augmentation"),
            derive(seed, "default-weights", *again),
            derive(seed, "forward"),
            derive(seed, "method-draw"),
        )


@dataclass(frozen=True)
class Point:
    """One point of a learning curve.

    Args:
        step: Finished steps.
        accuracy: On validation, in percent.
        loss: On validation.
        train_loss: Mean over the steps since the point before; None at step 0.
    """

    step: int
    accuracy: float
    loss: float
    train_loss: float | None


@dataclass
class Outcome:
    """What a trial's training came to.

    Args:
        curve: Points on validation, the first before any step.
        test_accuracy: In percent; None if training diverged, and then the test split was not looked at.
        test_loss: Mean cross-entropy; None likewise.
        diverged: Why training ended early, or an empty string.
        seconds: Spent on training steps, without evaluations.
        step_seconds: Median over the stretches between evaluations of the time per step.
    """

    curve: list[Point] = field(default_factory=list)
    test_accuracy: float | None = None
    test_loss: float | None = None
    diverged: str = ""
    seconds: float = 0.0
    step_seconds: float = 0.0


def train(
    model: nn.Module,
    data: DeviceTask,
    config: Training,
    axes: Axes,
    on_step: Callable[[int], None] | None = None,
) -> Outcome:
    """Train a model that is already initialized and on its device.

    torch's global random state is seeded with ``axes.forward``; the caller guards it.

    Args:
        model: Trained in place.
        data: The task on the device.
        config: Budget, optimizer and precision.
        axes: Seeds; ``weights`` and ``method`` are not used here.
        on_step: Called with the number of finished steps at every evaluation.

    Returns:
        The learning curve, the test result and the times.
    """
    torch.manual_seed(axes.forward)
    optimizer = _optimizer(model, config)
    order = data_order(len(data.train), config.batch_size, config.steps, axes.data_order)
    draw = torch.Generator().manual_seed(axes.augmentation)
    outcome = Outcome([_point(model, data, config, 0, None)])
    paces, done = [], 0
    for until in config.evaluation_steps():
        model.train()
        started = time.perf_counter()
        losses = []
        for step in range(done, until):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate(step)
            inputs, labels = data.training_batch(next(order), config.augment, draw)
            with _autocast(config):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        history = torch.stack(losses).cpu()  # waits for the device, so that the time is true
        taken = time.perf_counter() - started
        outcome.seconds += taken
        paces.append(taken / (until - done))
        broken = torch.nonzero(~history.isfinite()).flatten()
        if len(broken):
            outcome.diverged = f"the training loss was not finite at step {done + int(broken[0]) + 1}"
            break
        outcome.curve.append(_point(model, data, config, until, float(history.mean())))
        done = until
        if on_step is not None:
            on_step(done)
    outcome.step_seconds = sorted(paces)[len(paces) // 2]
    if not outcome.diverged:
        outcome.test_accuracy, outcome.test_loss = evaluate(model, data, data.test, config)
    return outcome


@torch.no_grad()
def evaluate(model: nn.Module, data: DeviceTask, split: Split, config: Training) -> tuple[float, float]:
    """Return accuracy in percent and mean cross-entropy on a split, in evaluation mode.

    An image whose outputs are not all finite counts as wrong.
    """
    model.eval()
    right = torch.zeros((), device=split.labels.device)
    total = torch.zeros((), device=split.labels.device)
    size = _EVALUATION_BATCH.get(split.labels.device.type, 1024)
    for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
        with _autocast(config):
            logits = model(data.normalize(images)).float()
        right += ((logits.argmax(1) == labels) & logits.isfinite().all(1)).sum()
        total += F.cross_entropy(logits, labels, reduction="sum")
    return 100 * float(right) / len(split), float(total) / len(split)


def _point(model: nn.Module, data: DeviceTask, config: Training, step: int, train_loss: float | None) -> Point:
    accuracy, loss = evaluate(model, data, data.validation, config)
    return Point(step, accuracy, loss, train_loss)


def _autocast(config: Training) -> contextlib.AbstractContextManager[object]:
    if config.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(config.device).type, torch.bfloat16)


def _optimizer(model: nn.Module, config: Training) -> torch.optim.Optimizer:
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    # One kernel for the whole step: on a small net the usual loop over parameters costs a fifth of the time.
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay, fused=fused
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, config.lr, weight_decay=config.weight_decay, fused=fused)
