"""Optimizers and learning-rate schedules of a trial: torch's own, from the settings of `Training`."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import lr_scheduler

from headstart.bench.tasks.batches import steps_per_epoch
from headstart.bench.trials.training import Training


def make_optimizer(model: nn.Module, config: Training, capturable: bool = False) -> torch.optim.Optimizer:
    """Build the optimizer of the parameters that train.

    Args:
        model: The model with the parameters.
        config: The training settings.
        capturable: Whether its steps can be part of a CUDA graph; its counters and its rate are then tensors.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    # One kernel for the whole step: on a small net the usual loop over parameters costs a fifth of the time.
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    if config.optimizer in ("sgd", "nesterov"):
        nesterov = config.optimizer == "nesterov" and config.momentum > 0
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            parameters, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=nesterov, fused=fused
        )
    else:
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(parameters, config.lr, weight_decay=config.weight_decay, fused=fused, capturable=capturable)
    if capturable:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(config.lr, device=parameters[0].device)
    return optimizer


class Schedule:
    """The learning rate over a trial.

    Args:
        optimizer: The optimizer whose rate it sets.
        config: The training settings.
        images: The number of training images, which gives the length of an epoch.

    Example:
        >>> optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = Schedule(optimizer, Training(steps=2, lr=1.0, batch_size=4), images=8)
        >>> rates = []
        >>> for _ in range(2):
        ...     rates.append(round(schedule.rate, 3))
        ...     optimizer.step()
        ...     schedule.after_step()
        >>> rates
        [1.0, 0.5]
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: Training, images: int) -> None:
        per_epoch = steps_per_epoch(images, config.batch_size)
        self._optimizer = optimizer
        self._by_step: lr_scheduler.LRScheduler | None = None
        self._by_accuracy: lr_scheduler.ReduceLROnPlateau | None = None
        if config.schedule == "cosine":
            self._by_step = lr_scheduler.CosineAnnealingLR(optimizer, config.steps, config.lr_end)
        elif config.schedule == "exponential":
            self._by_step = lr_scheduler.StepLR(optimizer, per_epoch, config.decay)
        elif config.schedule == "step":
            unit = per_epoch if config.epochs else 1
            self._by_step = lr_scheduler.MultiStepLR(
                optimizer, [round(milestone * unit) for milestone in config.milestones], config.decay
            )
        elif config.schedule == "plateau":
            self._by_accuracy = lr_scheduler.ReduceLROnPlateau(
                optimizer, mode="max", factor=config.decay, patience=config.patience, threshold=0.0
            )

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Advance after an optimizer step."""
        if self._by_step is not None:
            self._by_step.step()

    def after_evaluation(self, accuracy: float) -> None:
        """Advance after an evaluation.

        Args:
            accuracy: The validation accuracy.
        """
        if self._by_accuracy is not None:
            self._by_accuracy.step(accuracy)


class Rates:
    """The learning rates of a trial, computed ahead of its steps.

    Args:
        config: The training settings.
        images: The number of training images.

    Example:
        >>> Rates(Training(steps=2, lr=1.0, batch_size=4), images=8).ahead(2)
        [1.0, 0.5]
    """

    def __init__(self, config: Training, images: int) -> None:
        # torch's schedules need an optimizer: this one trains nothing.
        self._optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], config.lr)
        self._schedule = Schedule(self._optimizer, config, images)

    def ahead(self, steps: int) -> list[float]:
        """Return the rates of the next steps.

        Args:
            steps: The number of steps, at most up to the next evaluation.
        """
        found = []
        for _ in range(steps):
            found.append(self._schedule.rate)
            self._optimizer.step()
            self._schedule.after_step()
        return found

    def after_evaluation(self, accuracy: float) -> None:
        """Advance after an evaluation.

        Args:
            accuracy: The validation accuracy.
        """
        self._schedule.after_evaluation(accuracy)
