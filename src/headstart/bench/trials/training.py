"""How a trial trains, and the seeds of its random streams."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from headstart.bench.tasks.augment import check_augmentations
from headstart.bench.tasks.batches import NORMALIZATIONS, SAME, steps_per_epoch
from headstart.bench.tasks.objectives import TASK, fingerprints
from headstart.errors import HeadstartError, unknown
from headstart.rng import derive

OPTIMIZERS = ("adam", "adamw", "sgd", "nesterov")
SCHEDULES = ("cosine", "constant", "exponential", "step", "plateau")
PRECISIONS = ("float32", "bfloat16")
MEMORY_FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Training:
    """How a trial trains. Every field is part of what identifies a trial.

    Args:
        steps: Optimizer steps.
        epochs: If it is not 0, the budget in epochs, from which the steps follow (see :meth:`resolve`). An epoch has
            as many steps as there are whole batches.
        batch_size: Images per step, over all devices together.
        lr: Learning rate at the start.
        lr_end: Learning rate that the cosine schedule ends at.
        optimizer: ``"adam"``, ``"adamw"``, ``"sgd"`` (with momentum) or ``"nesterov"`` (with Nesterov's).
        momentum: Of ``"sgd"`` and ``"nesterov"``.
        weight_decay: As the optimizer defines it.
        schedule: ``"cosine"`` per step; ``"constant"``; ``"exponential"``: times ``decay`` after every epoch;
            ``"step"``: times ``decay`` at each of the ``milestones``; ``"plateau"``: times ``decay`` when
            validation accuracy has not risen for more than ``patience`` evaluations.
        decay: Factor of the last three.
        milestones: Finished epochs if the budget is in epochs, else finished steps.
        patience: Evaluations.
        clip: Largest norm of the gradient over all parameters, to which longer ones are cut; 0 cuts none.
        augment: Any of ``"flip"``, ``"crop"`` and ``"rotate"``.
        rotation: Largest angle of ``"rotate"``, in degrees.
        normalization: ``"task"``, ``"imagenet"`` or ``"none"``; see `DeviceTask`.
        test_normalization: Of the test split alone; ``"same"`` for no other.
        evaluations: How often the validation split is looked at, evenly spaced, the last at the end.
        calibration: Images in the batch that an initialization sees.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast).
        memory_format: ``"contiguous"`` or ``"channels_last"``.
        device: ``"cpu"``, ``"cuda"``, ...
        devices: How many of them train one model together, data-parallel.
        loss: ``"task"`` for that of the kind of task, or as `headstart.bench.tasks.objectives.objective` takes it.
        metric: Likewise.
        capture: Whether steps are replayed as a CUDA graph where that can be.
    """

    steps: int = 100
    epochs: float = 0.0
    batch_size: int = 64
    lr: float = 1e-3
    lr_end: float = 0.0
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    decay: float = 0.1
    milestones: tuple[float, ...] = ()
    patience: int = 2
    clip: float = 0.0
    augment: tuple[str, ...] = ()
    rotation: float = 15.0
    normalization: str = "task"
    test_normalization: str = SAME
    evaluations: int = 10
    calibration: int = 256
    precision: str = "float32"
    memory_format: str = "contiguous"
    device: str = "cpu"
    devices: int = 1
    loss: str = TASK
    metric: str = TASK
    capture: bool = False

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("normalization", self.normalization, NORMALIZATIONS),
            ("test normalization", self.test_normalization, (SAME, *NORMALIZATIONS)),
            ("precision", self.precision, PRECISIONS),
            ("memory format", self.memory_format, MEMORY_FORMATS),
        ):
            if value not in known:
                raise unknown(kind, value, known)
        check_augmentations(self.augment)
        for name in ("steps", "batch_size", "evaluations", "calibration", "devices"):
            if getattr(self, name) < 1:
                raise HeadstartError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("epochs", "lr_end", "momentum", "weight_decay", "patience", "clip", "rotation"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise HeadstartError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise HeadstartError(f"The learning rate is {self.lr}; it must be positive.")
        if not 0 < self.decay <= 1:
            raise HeadstartError(f"decay is {self.decay}; it must be above 0 and at most 1.")
        if list(self.milestones) != sorted({m for m in self.milestones if m > 0}):
            raise HeadstartError(f"milestones are {list(self.milestones)}; they must be positive and rising.")

    def identity(self) -> dict[str, Any]:
        """All that identifies a trial; what older versions did not have is left out where it is not used."""
        found = asdict(self)
        for name in ("loss", "metric"):
            if found[name] == TASK:
                del found[name]
        if not self.capture:
            del found["capture"]
        files = fingerprints(self.loss, self.metric)
        return {**found, **({"files": files} if files else {})}

    def resolve(self, images: int) -> Training:
        """Turn a budget in epochs into steps, and check what only fits together or does not.

        Args:
            images: In the training split.

        Raises:
            DataError: If a batch is larger than the training split.
            HeadstartError: If the batch cannot be shared out to the devices, or a step schedule has no milestones.

        Example:
            >>> Training(epochs=15, batch_size=128).resolve(5_000).steps
            585
        """
        if self.batch_size % self.devices:
            raise HeadstartError(
                f"A batch of {self.batch_size} images cannot be shared out evenly to {self.devices} devices."
            )
        if self.devices > 1 and ":" in self.device:
            raise HeadstartError(
                f"{self.devices} devices are asked for, and '{self.device}' is one.",
                remedy=f"Name the kind alone: '{self.device.partition(':')[0]}'.",
            )
        if self.schedule == "step" and not self.milestones:
            raise HeadstartError(
                "The schedule 'step' has no milestones.", remedy="Say after which epochs or steps the rate falls."
            )
        per_epoch = steps_per_epoch(images, self.batch_size)
        return replace(self, steps=max(1, round(self.epochs * per_epoch))) if self.epochs else self

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
