"""The whole model, as a method meets it after the walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart import weights
from headstart.inputs import Batch
from headstart.plan import Plan
from headstart.report import summarize
from headstart.transaction import Transaction
from headstart.weights import Layer


@dataclass(frozen=True)
class Whole:
    """What a method works with in its ``finish``.

    Attributes:
        model: In evaluation mode, inside the transaction.
        batch: The calibration batch; None without data.
        plan: What is known of the model.
        layers: Those that the method selected, in execution order.
        transaction: Restores the model if anything fails.
        seed: Names the streams.
        method: The method's name, for the report.
    """

    model: nn.Module
    batch: Batch | None
    plan: Plan
    layers: Sequence[Layer]
    transaction: Transaction
    seed: int
    method: str

    def rescale(self, layer: Layer, inputs: Tensor, output: float) -> None:
        """Multiply a layer's output by a factor, given that its inputs were multiplied by theirs.

        Args:
            layer: Its weight is multiplied by ``output / inputs``, its bias by ``output``.
            inputs: The factor of each input channel, ``(in_channels,)``.
            output: The factor of the output.

        Raises:
            WriteError: The weight cannot be written or is not finite afterwards.
        """
        weight = weights.read(layer)
        by_group = weight.unflatten(0, (layer.groups, -1)).unsqueeze(-1).flatten(3)  # (groups, out/g, in/g, taps)
        factors = (output / inputs.double()).to(weight).view(layer.groups, 1, -1, 1)
        self.transaction.mark(layer)
        weights.write(layer, (by_group * factors).view(weight.shape))
        bias = weights.read_bias(layer)
        if bias is not None and output != 1 and bool(bias.any()):
            self.transaction.mark(layer, bias=True)
            weights.write_bias(layer, bias * output)
        self._tell(layer, output)

    def rescale_statistics(self, name: str, factors: Tensor) -> None:
        """Make the batch norm of that name expect inputs that were multiplied by a factor per channel."""
        norm = self.model.get_submodule(name)
        assert isinstance(norm, _BatchNorm)
        if name not in self.plan.statistics:
            self.plan.statistics.append(name)
        for buffer, power in ((norm.running_mean, 1), (norm.running_var, 2)):
            if buffer is not None:
                self.transaction.mark_buffer(buffer)
                with torch.no_grad():
                    buffer.mul_(factors.to(buffer) ** power)

    def _tell(self, layer: Layer, output: float) -> None:
        row = self.plan.rows[layer.name]
        if row.action != "written":
            row.action = "scaled"
        if self.method not in row.methods:
            row.methods.append(self.method)
        mean, std = summarize(weights.read(layer))
        old_mean, old_std = row.weight_mean or (mean, mean), row.weight_std or (std, std)
        row.weight_mean, row.weight_std = (old_mean[0], mean), (old_std[0], std)
        for name in ("output_mean", "output_std", "across_sample_std"):
            if (value := getattr(row, name)) is not None:
                setattr(row, name, value * output)
        if layer is self.plan.first_convolution:
            before = self.plan.filters[0] if self.plan.filters else self.transaction.original(layer)
            self.plan.filters = (weights.read(layer) if before is None else before, weights.read(layer))
