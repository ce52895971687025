"""The whole model, as a method sees it before and after the walk."""

from __future__ import annotations

import math
from collections import Counter
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
from headstart.numerics.fetching import fetch
from headstart.numerics.lengths import largest
from headstart.results.report import Row, summarize

OUTPUTS = ("output_mean", "output_std", "across_sample_std")  # of a row


@dataclass(frozen=True)
class ModelView:
    """What a method works with in its ``start`` and its ``finish``.

    Attributes:
        model: In evaluation mode, inside the transaction.
        batch: The calibration batch; None without data.
        trace: What is known of the model.
        report: The report of the call, being written.
        layers: Those that the method selected, in execution order.
        transaction: Restores the model on any failure.
        seed: The call's seed, which names the random streams.
        method: The name of the method, for the report.
        data: The data that the user passed; ``batch`` is a part of them.
        get_inputs: What the user passed to unpack them.
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
            layer: The layer to write.
            weight: The weight, canonical.
            bias: The bias; ignored where the layer has none, or one that is frozen or belongs to an earlier layer.

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
            tensor: The tensor to write.
            value: Its new values, of the same shape.

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
        """Multiply a layer's output channels by factors, where its inputs have already been multiplied by theirs.

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

    def rescale_whole(self, factors: Sequence[tuple[Layer, float, float]]) -> None:
        """Multiply whole layers by one factor each, all at once: a few operations and one read for all layers.

        Args:
            factors: Layers, each with one factor for all its inputs and one for all its outputs, as in :meth:`rescale`.

        Raises:
            WriteError: A weight cannot be written or would not be finite.
        """
        seen = Counter(layer.stored.data_ptr() for layer, _, _ in factors)
        plain = [part for part in factors if _is_simple(part[0]) and seen[part[0].stored.data_ptr()] == 1]
        kept = {id(layer) for layer, _, _ in plain}
        for layer, into, out in factors:
            if id(layer) not in kept:
                inputs = torch.full((layer.in_channels,), into, dtype=torch.float64)
                self.rescale(layer, inputs, torch.full((layer.out_channels,), out, dtype=torch.float64))
        biases = [(layer, bias, out) for layer, _, out in plain if out != 1 and (bias := layer.bias) is not None]
        tensors = [*(layer.stored for layer, _, _ in plain), *(bias for _, bias, _ in biases)]
        sizes = [float(size[0]) for size in fetch(largest(tensors))]
        for (layer, into, out), size in zip(plain, sizes, strict=False):
            if not size * out / into <= torch.finfo(layer.stored.dtype).max:
                raise WriteError(f"The rescaled weight of {layer.where} is not finite; nothing was changed.")
            self.transaction.mark(layer)
        # A bias of nothing but zeros stays unmarked: it may be one that must stay.
        moved = [(*part, size) for part, size in zip(biases, sizes[len(plain) :], strict=True) if size]
        for layer, bias, out, size in moved:
            if not size * out <= torch.finfo(bias.dtype).max:
                raise WriteError(f"The rescaled bias of {layer.where} is not finite; nothing was changed.")
            self.transaction.mark(layer, bias=True)
        weights.scale([(layer, out / into) for layer, into, out in plain])
        weights.scale_bias([(layer, out) for layer, _, out, _ in moved])
        for layer, into, out in plain:
            self._tell_scaled(layer, out / into, out)

    def rescale_statistics(self, name: str, factors: Tensor) -> None:
        """Adapt the running statistics of a batch norm to inputs that were multiplied by one factor per channel."""
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

    def _tell_scaled(self, layer: Layer, factor: float, outputs: float) -> None:
        row = self._scaled(layer)
        if row.weight_mean is None or row.weight_std is None:  # it was not looked at before
            mean, std = summarize(weights.read(layer))
            row.weight_mean, row.weight_std = (mean / factor, mean), (std / factor, std)
        else:
            row.weight_mean = row.weight_mean[0], row.weight_mean[1] * factor
            row.weight_std = row.weight_std[0], row.weight_std[1] * factor
        for name in OUTPUTS:
            if (value := getattr(row, name)) is not None:
                setattr(row, name, value * outputs)
        self._tell_filters(layer)

    def _scaled(self, layer: Layer) -> Row:
        written = self.report.rows[layer.name].action == "written"
        return self.report.wrote(layer, self.method, "written" if written else "scaled")

    def _tell(self, layer: Layer, outputs: Tensor) -> None:
        row = self._scaled(layer)
        mean, std = summarize(weights.read(layer))
        old_mean, old_std = row.weight_mean or (mean, mean), row.weight_std or (std, std)
        row.weight_mean, row.weight_std = (old_mean[0], mean), (old_std[0], std)
        alike = bool((outputs == outputs[0]).all())  # not so if they are NaN: then nothing is known
        for name in OUTPUTS:
            if (value := getattr(row, name)) is not None:
                setattr(row, name, value * float(outputs[0]) if alike else None)
        self._tell_filters(layer)

    def _tell_filters(self, layer: Layer) -> None:
        if layer is self.trace.first_convolution:
            before = self.report.filters[0] if self.report.filters else self.transaction.original(layer)
            self.report.filters = (weights.read(layer) if before is None else before, weights.read(layer))


def _is_simple(layer: Layer) -> bool:
    """Whether scaling the parameter scales the weight by the same factor, and no other layer."""
    return weights.is_plain(layer) and not layer.inside and not layer.is_complex
