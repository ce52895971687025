"""How a trial trains, and the seeds of its random streams."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from headstart.bench.specs.setting import WHAT, check_settings, documented, setting
from headstart.bench.tasks.augment import AUGMENTATIONS
from headstart.bench.tasks.batches import NORMALIZATIONS, SAME, steps_per_epoch
from headstart.bench.tasks.objectives import TASK, fingerprints
from headstart.errors import HeadstartError
from headstart.rng import derive

OPTIMIZERS = ("adam", "adamw", "sgd", "nesterov")
SCHEDULES = ("cosine", "constant", "exponential", "step", "plateau")
PRECISIONS = ("float32", "bfloat16")
MEMORY_FORMATS = ("contiguous", "channels_last")
_MEASURED = "what trains fastest on this machine, measured once"


@documented
@dataclass(frozen=True)
class Training:
    """How a trial trains. Every field is a setting of experiments, and part of what identifies a trial."""

    steps: int = setting(100, "the budget in optimizer steps", least=1)
    epochs: float = setting(
        0.0, "the budget in epochs instead, if it is not 0; an epoch has as many steps as whole batches", least=0
    )
    batch_size: int = setting(64, "images per step, over all devices together", least=1)
    lr: float = setting(1e-3, "learning rate at the start", above=0)
    lr_end: float = setting(0.0, "learning rate at the end of the cosine", least=0)
    optimizer: str = setting("adam", "torch's; sgd and nesterov with momentum", choices=OPTIMIZERS)
    momentum: float = setting(0.9, "of the optimizers sgd and nesterov", least=0)
    weight_decay: float = setting(0.0, "weight decay, as the optimizer defines it", least=0)
    schedule: str = setting("cosine", "how the learning rate falls", choices=SCHEDULES)
    decay: float = setting(
        0.1, "factor of the learning rate per epoch, per milestone, or at each plateau", above=0, most=1
    )
    milestones: tuple[float, ...] = setting(
        (), "when the schedule step falls: finished epochs if the budget is in epochs, else finished steps", metavar="N"
    )
    patience: int = setting(2, "evaluations without a rise before the schedule plateau falls", least=0)
    clip: float = setting(0.0, "largest norm of the gradient over all parameters; 0 for no limit", least=0)
    augment: tuple[str, ...] = setting(
        (),
        "random changes of the images at every step",
        choices=AUGMENTATIONS,
        noun="augmentation",
        metavar="NAME",
    )
    rotation: float = setting(15.0, "largest angle of rotate, in degrees", least=0)
    normalization: str = setting(
        "task",
        "task: mean 0 and deviation 1 over the training split; imagenet: its statistics; none: raw values",
        choices=NORMALIZATIONS,
    )
    test_normalization: str = setting(
        SAME, "another normalization for the test split only, as in some papers", choices=(SAME, *NORMALIZATIONS)
    )
    evaluations: int = setting(10, "points of a learning curve, evenly spaced, the last one at the end", least=1)
    calibration: int = setting(256, "training images that a start sees", least=1)
    precision: str = setting(
        "float32", "precision of the computation; weights stay float32", choices=PRECISIONS, automatic=_MEASURED
    )
    memory_format: str = setting(
        "contiguous", "layout of images and weights in memory", choices=MEMORY_FORMATS, automatic=_MEASURED
    )
    device: str = setting(
        "cpu", "device of the training: cpu, cuda, cuda:1 and so on", automatic="a GPU if there is one"
    )
    devices: int = setting(1, "how many devices train one model together", least=1)
    loss: str = setting(
        TASK,
        "the loss: a name, or file.py:function; task: the usual loss of the kind of task",
        metavar="NAME",
    )
    metric: str = setting(
        TASK,
        "the score of a trial: a name, or file.py:function; task: the usual score of the kind of task; with "
        "--trainer a key of JSON or a column of CSV",
        group=WHAT,
        metavar="NAME",
    )
    capture: bool = setting(False, "run steps as a CUDA graph where the model allows it")

    def __post_init__(self) -> None:
        check_settings(self)
        if list(self.milestones) != sorted({m for m in self.milestones if m > 0}):
            raise HeadstartError(f"milestones are {list(self.milestones)}; they must be positive and rising.")

    def identity(self) -> dict[str, Any]:
        """Everything that identifies a trial; fields that older versions lack are omitted if they are not used."""
        found = asdict(self)
        for name in ("loss", "metric"):
            if found[name] == TASK:
                del found[name]
        if not self.capture:
            del found["capture"]
        files = fingerprints(self.loss, self.metric)
        return {**found, **({"files": files} if files else {})}

    def resolve(self, images: int) -> Training:
        """Turn a budget in epochs into steps, and check that the settings fit together.

        Args:
            images: The number of training images.

        Raises:
            DataError: If a batch is larger than the training split.
            HeadstartError: The batch cannot be divided among the devices, or a step schedule has no milestones.

        Example:
            >>> Training(epochs=15, batch_size=128).resolve(5_000).steps
            585
        """
        if self.batch_size % self.devices:
            raise HeadstartError(
                f"A batch of {self.batch_size} images cannot be divided evenly among {self.devices} devices."
            )
        if self.devices > 1 and ":" in self.device:
            raise HeadstartError(
                f"{self.devices} devices are requested, but '{self.device}' is one.",
                remedy=f"Name only the kind: '{self.device.partition(':')[0]}'.",
            )
        if self.schedule == "step" and not self.milestones:
            raise HeadstartError(
                "The schedule 'step' has no milestones.", remedy="Set after which epochs or steps the rate falls."
            )
        per_epoch = steps_per_epoch(images, self.batch_size)
        return replace(self, steps=max(1, round(self.epochs * per_epoch))) if self.epochs else self

    def evaluation_steps(self) -> list[int]:
        """Return the steps after which to evaluate.

        Example:
            >>> Training(steps=10, evaluations=4).evaluation_steps()
            [2, 5, 8, 10]
        """
        count = min(self.evaluations, self.steps)
        return [round(self.steps * (i + 1) / count) for i in range(count)]


@dataclass(frozen=True)
class Axes:
    """The seeds of a trial's random streams, one per axis, so that each can change separately.

    Args:
        data_order: Which images are in which batch.
        augmentation: How they are flipped and cropped.
        weights: The weights that the model's constructor draws.
        forward: The model's own draws during training (dropout).
        method: The draws of an initialization, and its batch.
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
