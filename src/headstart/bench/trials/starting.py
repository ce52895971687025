"""The start of a trial: apply an arm's methods; methods that train get the trial's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from headstart import progress
from headstart.bench.tasks.augment import draw
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.tasks.kinds import Inputs, called, mapped
from headstart.bench.tasks.objectives import objective
from headstart.bench.trials.optimizers import Schedule, make_optimizer
from headstart.bench.trials.training import Training
from headstart.distributed import initialize
from headstart.engine.method import Method
from headstart.errors import HeadstartError
from headstart.fitting import samples
from headstart.results.report import Report


class TrainingImages(Dataset[Any]):
    """A task's training images, normalized and not augmented, with their classes.

    Args:
        data: The task on its device.
    """

    def __init__(self, data: DeviceTask) -> None:
        self.data = data
        self.targets = data.train.labels.cpu()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Inputs, Any]:
        images, _ = self.data.training_batch(torch.tensor([index]))
        target = self.targets[index]
        return mapped(lambda t: t[0], images), int(target) if target.dim() == 0 else target


@dataclass(frozen=True)
class TrialFit:
    """Train on a sample of the training images as the trial does, with a schedule over the sample's steps.

    Args:
        config: Optimizer, schedule, augmentation and precision; the budget is not used.
        frozen: Draw batches and augmentations once and repeat them in every epoch.
    """

    config: Training
    frozen: bool = False
    takes_epochs: ClassVar[bool] = True

    def __call__(self, model: nn.Module, dataset: Any, epochs: int) -> None:
        """Train on a subset of `TrainingImages`, or on one for each epoch."""
        config, seed = self.config, torch.initial_seed()
        parts = dataset if isinstance(dataset, list) else [dataset] * epochs
        per_epoch = samples.steps(len(parts[0]), config.batch_size)
        config = replace(config, steps=per_epoch * epochs, devices=1)
        aim = objective(_images(parts[0])[0].task.kind, config.loss)
        optimizer = make_optimizer(model, config)
        # As many images as give the epoch its steps: the last batches of a sample are not left out.
        schedule = Schedule(optimizer, config, per_epoch * config.batch_size)
        generator = torch.Generator().manual_seed(seed)
        kept: list[tuple[Inputs, Tensor]] = []
        for epoch, part in enumerate(parts):
            if not (self.frozen and kept):
                data, indices = _images(part)
                kept = [
                    data.training_batch(chosen, draw(config.augment, len(chosen), config.rotation, generator))
                    for chosen in samples.batches(indices, config.batch_size, seed, f"epoch-{epoch}")
                ]
            for images, labels in kept:
                with torch.autocast(config.device.partition(":")[0], torch.bfloat16, config.precision == "bfloat16"):
                    outputs = called(model, images)
                loss = aim.loss(outputs.float(), labels)
                if not bool(torch.isfinite(loss)):
                    raise HeadstartError(f"The training loss was not finite in epoch {epoch + 1}.")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if config.clip:
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                schedule.after_step()


def _images(part: Subset[Any]) -> tuple[DeviceTask, Tensor]:
    whole = part.dataset
    assert isinstance(whole, TrainingImages)
    return whole.data, torch.as_tensor(part.indices)


def start(model: nn.Module, data: DeviceTask, training: Training, methods: Sequence[Method], seed: int) -> Report:
    """Apply an arm's methods.

    Args:
        model: The model, on its device.
        data: The task, on the same device.
        training: The training of the arm's trials. Methods that train on samples use it, except for their own options.
        methods: The methods, in order.
        seed: The seed of the method's axis.

    Raises:
        HeadstartError: A method refuses.
    """
    if not any(method.takes_data_set for method in methods):
        return initialize(model, data.calibration_batch(training.calibration, seed), list(methods), seed=seed)

    def fit_with(settings: Mapping[str, Any], frozen: bool) -> TrialFit:
        return TrialFit(replace(training, **settings), frozen)

    fitted = [method.trained_by(fit_with) for method in methods]
    with progress.no_progress():  # the comparison draws its own bars
        return initialize(
            model, TrainingImages(data), fitted, seed=seed, samples=min(training.calibration, len(data.train))
        )
