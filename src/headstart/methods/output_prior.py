"""Output prior: the network starts from the base rates of its targets (Karpathy 2019; Lin et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.engine.method import Method
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.errors import DataError
from headstart.methods.shared.base_rates import Prior, channels_of, gaussian, kind_of, shares
from headstart.methods.shared.targets import find_targets
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer
from headstart.numerics.moments import rows

BEYOND = 5.0  # standard deviations that stand for the largest deviation, where not all outputs are at hand


@register(
    "output-prior",
    summary="output layer scaled down, its bias set so that the mean output is the base rate of the targets",
    reference="Lin et al. 2017, Focal loss for dense object detection (the bias of a rare class); Karpathy 2019,"
    " A recipe for training neural networks",
    scope="all layers",
    needs_data=True,
    cost="one forward pass of the batch, and one pass over the targets",
    deviations=(
        "The weights are scaled down, never to zero: a zero head would pass no gradient to the layers before it.",
        "The base rates are counted on the targets; the focal loss paper sets 0.01 by hand.",
        "Classes without a sample count as a quarter of a sample together, so that their logits stay finite.",
    ),
)
@dataclass(frozen=True)
class OutputPrior(Method):
    """Start with outputs that match the base rates of the targets and ignore the inputs.

    The idea: a new head guesses at random. With rare classes, the first hundred steps only learn what
    can be counted: how often each class occurs. So the last layer's bias becomes ``log p`` (softmax),
    ``log(p / (1 - p))`` (sigmoid) or the mean (regression), and its weights are scaled down until outputs hardly
    deviate from it. The loss before the first step is then the entropy of the base rates.

    It writes the layers whose output the model returns; ``include=`` chooses among several.

    Args:
        kind: ``"softmax"`` (class numbers or shares), ``"sigmoid"`` (0 or 1 for every channel), ``"regression"``
            (numbers), or ``"auto"`` (default), which decides by the type and the values of the targets.
        targets: ``batch -> tensor`` or ``batch -> dict`` by layer name, for segmentation and detection heads and data
            of any other form. Default: what follows the inputs, or the values under ``label``, ``labels``, ``target``,
            ``targets``, ``y``, ``mask``. Negative class numbers, and 255 if there are fewer classes, are not counted.
        deviation: How far an output may deviate from its mean on the batch, in logits, or for regression in standard
            deviations of the targets. Smaller deviations are kept. Default 0.02.

    Raises:
        HeadstartError: There are no targets, or they do not fit the output layer.

    Example:
        >>> import torch, headstart as hs
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 2))
        >>> x, y = torch.randn(200, 20), (torch.arange(200) % 10 == 0).long()  # one in ten
        >>> report = hs.initialize(net, (x, y), "output-prior")
        >>> round(torch.nn.functional.cross_entropy(net(x), y).item(), 2)  # 0.9 log(1/0.9) + 0.1 log(1/0.1)
        0.33
    """

    kind: str = "auto"
    targets: Callable[[Any], Any] | None = None
    deviation: float = 0.02

    def __post_init__(self) -> None:
        self.check_choice("kind", "auto", "softmax", "sigmoid", "regression")
        ok = isinstance(self.deviation, (int, float)) and 0 < self.deviation < math.inf
        self.check(ok, f"deviation={self.deviation!r} is not a positive number", "Pass such as 0.02")

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The layers whose output the model returns."""
        for layer in layers:
            if layer.name not in trace.outputs:
                report.skip(layer, "not an output layer")
        chosen = [layer for layer in layers if layer.name in trace.outputs]
        if not chosen:
            report.add_finding("output-prior: no output layer was selected.")
        return chosen

    def after(self, visit: Visit) -> None:
        """Scale the weights and set the bias."""
        output, moments, layer = visit.output, visit.moments, visit.layer
        assert output is not None
        targets = self._targets(visit)
        if targets is None:
            visit.skip("no targets for this output")
            return
        prior = self._prior(targets, output, layer)
        if prior is None:
            visit.skip(f"targets of shape {tuple(targets.shape)} do not fit its {layer.out_channels} outputs")
            return
        farthest = _farthest(output, layer.channel_axis(output), moments.mean)
        if moments.count * layer.out_channels > output.numel():
            farthest = max(farthest, BEYOND * float(moments.var.max().sqrt()))
        limit = self.deviation * prior.unit
        scale = torch.tensor(min(1.0, limit / farthest) if farthest else 1.0).to(moments.mean)
        bias = prior.bias.to(moments.mean)
        for sentence in prior.findings:
            visit.add_finding(f"output-prior: {sentence}")
        if visit.bias_free:
            visit.affine(scale, keep_bias=True)
            visit.add_finding(
                f"output-prior: '{layer.name}' has no bias that may be written, so its outputs were scaled down, but"
                " do not match the base rates."
            )
            return
        visit.affine(scale, bias - moments.mean * scale)
        visit.note(f"{prior.kind}, {prior.count} targets")
        visit.add_finding(f"output-prior: '{layer.name}' starts from the base rates: {prior.tell(output, layer)}.")

    def _targets(self, visit: Visit) -> Tensor | None:
        found = find_targets(visit.view, self.targets)
        if isinstance(found, Mapping):
            found = found.get(visit.layer.name)
            return None if found is None else torch.as_tensor(found)
        if found is None:
            raise DataError(
                "output-prior counts targets, and finds none in the data.",
                remedy="Pass (inputs, targets), a dict with labels, or hs.OutputPrior(targets=lambda batch: ...).",
            )
        return found

    def _prior(self, targets: Tensor, output: Tensor, layer: Layer) -> Prior | None:
        channels, axis = layer.out_channels, layer.channel_axis(output)
        if targets.numel() == 0 or not bool(torch.isfinite(targets.double()).all()):
            raise DataError(
                f"The targets, of shape {tuple(targets.shape)}, are empty or hold NaN or infinite values.",
                remedy="Check the targets in the data.",
            )
        kind = kind_of(targets, output, channels, axis) if self.kind == "auto" else self.kind
        values = channels_of(targets, output, channels, axis, counted=kind == "softmax")
        if values is None:
            return None
        return gaussian(values) if kind == "regression" else shares(values, channels, kind)


def _farthest(output: Tensor, axis: int, mean: Tensor) -> float:
    """The largest distance of an output from its channel's mean."""
    values = rows(output, axis)
    low, high = (values.amin(0), values.amax(0)) if values.dim() == 2 else (values.amin((0, 2)), values.amax((0, 2)))
    return float(torch.maximum(high.to(mean) - mean, mean - low.to(mean)).max())
