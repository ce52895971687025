"""The whole model, as a method meets it before and after the walk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.engine.draws_ahead import DrawsAhead
from headstart.errors import WriteError
from headstart.model import weights
from headstart.model.inputs import Batch, GetInputs
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.transaction import Transaction
from headstart.model.weights import Layer
from headstart.results.report import summarize


@dataclass(frozen=True)
class ModelView:
    """What a method works with in its ``start`` and its ``finish``.

    Attributes:
        model: In evaluation mode, inside the transaction.
        batch: The calibration batch; None without data.
        trace: What is known of the model.
        report: What the call will say.
        layers: Those that the method selected, in execution order.
        transaction: Restores the model if anything fails.
        seed: Names the streams.
        method: The method's name, for the report.
        data: What the user passed, of which ``batch`` is a part.
        get_inputs: Likewise, for what it holds.
        ahead: Random values that are drawn while the device computes.
    """

    model: nn.Module
    batch: Batch | None
    trace: ModelTrace
    report: ReportBuilder
    layers: Sequence[Layer]
    transaction: Transaction
    seed: int
    method: str
    data: Any = None
    get_inputs: GetInputs | None = None
    ahead: DrawsAhead | None = None

    def write(self, layer: Layer, weight: Tensor, bias: Tensor | None = None) -> None:
        """Set a layer's weight, and its bias if one is given and may be written; before the walk or after.

        Args:
            layer: Which.
            weight: Canonical.
            bias: Left out where the layer has none, or one that is frozen or belongs to a layer before it.

        Raises:
            WriteError: The weight cannot be written or is not finite.
        """
        self.transaction.mark(layer)
        like = weights.look(layer)
        weights.write(layer, weight.to(like.device, weights.working_dtype(like.dtype)))
        own = layer.bias
        free = own is not None and layer.bias_parameter is not None and layer.bias_parameter.requires_grad
        if bias is not None and own is not None and free and layer.name not in self.trace.tied_biases:
            self.transaction.mark(layer, bias=True)
            weights.write_bias(layer, bias.to(own.device))
        row = self.report.wrote(layer, self.method)
        if row.weight_std is not None:  # the walk is over, and what it measured is no longer so
            self._tell(layer, torch.full((layer.out_channels,), math.nan))

    def write_tensor(self, name: str, tensor: Tensor, value: Tensor) -> None:
        """Set a parameter or buffer outside of the weight layers.

        Args:
            name: Its name in the model.
            tensor: Itself.
            value: Of its shape.

        Raises:
            WriteError: The value is not finite.
        """
        self.transaction.mark_tensor(tensor)
        weights.store(self.model, {name: (tensor, value.to(tensor.device))})
        if not bool(torch.isfinite(tensor).all()):
            raise WriteError(f"The new value of '{name}' is not finite; nothing was changed.")
        if name not in self.report.other_tensors:
            self.report.other_tensors.append(name)

    def rescale(self, layer: Layer, inputs: Tensor, outputs: Tensor) -> None:
        """Multiply a layer's output channels by factors, given that its inputs were multiplied by theirs.

        Args:
            layer: Each weight is multiplied by ``output / input`` of its channels, the bias by ``output``.
            inputs: The factor of each input channel, ``(in_channels,)``.
            outputs: The factor of each output channel, ``(out_channels,)``.

        Raises:
            WriteError: The weight cannot be written or is not finite afterwards.
        """
        weight = weights.read(layer)
        by_group = weight.unflatten(0, (layer.groups, -1)).unsqueeze(-1).flatten(3)  # (groups, out/g, in/g, taps)
        into, out = inputs.to(weight).view(layer.groups, 1, -1, 1), outputs.to(weight).view(layer.groups, -1, 1, 1)
        self.transaction.mark(layer)
        weights.write(layer, (by_group * out / into).view(weight.shape))
        bias = weights.read_bias(layer)
        if bias is not None and bool((outputs != 1).any()) and bool(bias.any()):
            scaled = bias * outputs.to(bias)
            if not torch.equal(scaled, bias):  # a bias that must stay belongs to a class that does
                self.transaction.mark(layer, bias=True)
                weights.write_bias(layer, scaled)
        self._tell(layer, outputs)

    def rescale_statistics(self, name: str, factors: Tensor) -> None:
        """Make the batch norm of that name expect inputs that were multiplied by a factor per channel."""
        norm = self.model.get_submodule(name)
        assert isinstance(norm, _BatchNorm)
        if name not in self.report.statistics:
            self.report.statistics.append(name)
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        self.transaction.mark_tensor(mean)
        self.transaction.mark_tensor(var)
        with torch.no_grad():
            mean.mul_(factors.to(mean))
            # So that the epsilon grows with it. Below an epsilon of the new scale this cannot be had in full.
            var.copy_((factors.to(var) ** 2 * (var + norm.eps) - norm.eps).clamp_min(0))

    def _tell(self, layer: Layer, outputs: Tensor) -> None:
        written = self.report.rows[layer.name].action == "written"
        row = self.report.wrote(layer, self.method, "written" if written else "scaled")
        mean, std = summarize(weights.read(layer))
        old_mean, old_std = row.weight_mean or (mean, mean), row.weight_std or (std, std)
        row.weight_mean, row.weight_std = (old_mean[0], mean), (old_std[0], std)
        alike = bool((outputs == outputs[0]).all())  # not so if they are NaN: then nothing is known
        for name in ("output_mean", "output_std", "across_sample_std"):
            if (value := getattr(row, name)) is not None:
                setattr(row, name, value * float(outputs[0]) if alike else None)
        if layer is self.trace.first_convolution:
            before = self.report.filters[0] if self.report.filters else self.transaction.original(layer)
            self.report.filters = (weights.read(layer) if before is None else before, weights.read(layer))
