"""A training step on tensors at fixed addresses; all that it needs is drawn ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headstart.bench.tasks.augment import Draws, draw
from headstart.bench.tasks.batches import DeviceTask, data_order
from headstart.bench.tasks.kinds import called
from headstart.bench.tasks.objectives import Objective
from headstart.bench.trials.optimizers import make_optimizer
from headstart.bench.trials.training import Axes, Training
from headstart.bench.trials.turns import Turns, at_once

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_DRAWN = ("mirrored", "shifts", "turns")


class Stretch:
    """Inputs and results of the steps between two evaluations: one row of a device tensor per step.

    The tensors stay the same from stretch to stretch, so that a captured graph can use them. For a graph, a tensor
    counts the current row; otherwise Python counts, which needs fewer operations.

    Args:
        data: The task on the device.
        config: Batch size and augmentation.
        axes: Seeds of the data order and of the augmentation.
        lengths: The number of steps of each stretch.
        own: This process's part of each batch.
    """

    def __init__(self, data: DeviceTask, config: Training, axes: Axes, lengths: Sequence[int], own: slice) -> None:
        self.device = data.train.labels.device
        self.losses = torch.zeros(max(lengths), device=self.device)
        self._turn: int | Tensor = 0
        self._config = config
        self._own = own
        self._order = data_order(len(data.train), config.batch_size, config.steps, axes.data_order)
        self._generator = torch.Generator().manual_seed(axes.augmentation)
        self._lengths = iter(lengths)
        self._longest = max(lengths)
        self._ahead: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}

    def draw(self) -> None:
        """Draw the values of the next stretch, if there is one, on the CPU."""
        steps = next(self._lengths, 0)
        if not steps:
            return
        config = self._config
        self._ahead = {"indices": torch.stack([next(self._order)[self._own] for _ in range(steps)])}
        # Drawn for the whole batch on every device, so that what an image gets depends on no other thing.
        draws = [
            draw(config.augment, config.batch_size, config.rotation, self._generator).part(self._own)
            for _ in range(steps)
        ]
        for name in _DRAWN:
            if getattr(draws[0], name) is not None:
                self._ahead[name] = torch.stack([getattr(each, name) for each in draws])

    def begin(self) -> None:
        """Copy the drawn values to the device, for the next steps."""
        for name, values in self._ahead.items():
            self.put(name, values)
        self.rewind()

    def count_on_device(self, on_device: bool) -> None:
        """Choose whether the device or Python counts the steps, and start with the first row."""
        self._turn = torch.zeros(1, dtype=torch.long, device=self.device) if on_device else 0

    def rewind(self) -> None:
        """Go back to the first row."""
        self._turn = self._turn.zero_() if isinstance(self._turn, Tensor) else 0

    def put(self, name: str, values: Tensor) -> None:
        """Copy rows to the device.

        Args:
            name: The name of the rows.
            values: ``(steps, ...)``.
        """
        if name not in self._rows:
            shape = (self._longest, *values.shape[1:])
            self._rows[name] = torch.zeros(shape, dtype=values.dtype, device=self.device)
        self._rows[name][: len(values)].copy_(values)

    def row(self, name: str) -> Tensor:
        """Return the current row."""
        rows, turn = self._rows[name], self._turn
        return rows.index_select(0, turn)[0] if isinstance(turn, Tensor) else rows[turn]

    def draws(self) -> Draws:
        """Return the augmentation of the current batch."""
        return Draws(*(self.row(name) if name in self._rows else None for name in _DRAWN))

    def end_step(self, loss: Tensor) -> None:
        """Store the loss of a step and go to the next row."""
        if self.losses.dtype != loss.dtype:
            self.losses = self.losses.to(loss.dtype)
        if isinstance(self._turn, Tensor):
            self.losses.index_copy_(0, self._turn, loss.reshape(1))
        else:
            self.losses[self._turn] = loss
        self._turn += 1


class Step:
    """Training steps, one after the other.

    Args:
        model: Trained in place.
        data: The task on the device.
        config: Optimizer and clipping.
        aim: The objective, with its loss.
        stretch: The inputs of the steps.
        fabric: The fabric of the process.
        capturable: Whether the steps can be captured as a CUDA graph; their rates are then the stretch's rows.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DeviceTask,
        config: Training,
        aim: Objective,
        stretch: Stretch,
        fabric: Fabric,
        capturable: bool = False,
    ) -> None:
        self.optimizer = make_optimizer(model, config, capturable)
        self._network, self._stepper = fabric.setup(model, self.optimizer, move_to_device=False)
        self._data = data
        self._clip = config.clip
        self._aim = aim
        self._stretch = stretch
        self._fabric = fabric

    def __call__(self) -> None:
        """Gather, augment, normalize, forward, backward, optimizer step; without reads from the device."""
        inputs, labels = self._data.training_batch(self._stretch.row("indices"), self._stretch.draws())
        loss = self._aim.loss(called(self._network, inputs).float(), labels)
        self._stepper.zero_grad(set_to_none=True)
        self._fabric.backward(loss)
        if self._clip:
            self._fabric.clip_gradients(self._network, self._stepper, max_norm=self._clip, error_if_nonfinite=False)
        self._stepper.step()
        self._stretch.end_step(loss.detach())

    def run(self, rates: Sequence[float]) -> Turns[None]:
        """Take one step for each learning rate, and stop after each."""
        for rate in rates:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self()
            yield at_once
