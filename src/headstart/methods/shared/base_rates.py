"""Base rates of targets: class shares, prevalences and means, and the bias that an output layer needs for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from headstart.errors import DataError
from headstart.model.weights import Layer
from headstart.numerics.moments import rows

UNSEEN = 0.25  # of a sample, for all classes together that have none
IGNORED = 255  # the class number that marks what is not counted in many segmentation sets


@dataclass(frozen=True)
class Prior:
    """The mean outputs that an output layer should have.

    Attributes:
        kind: ``"softmax"``, ``"sigmoid"`` or ``"regression"``.
        rates: Share or mean of every channel, ``(channels,)`` in float64.
        bias: The outputs that express these rates.
        unit: The unit of deviations: 1 for logits, the targets' deviation for regression.
        count: How many targets were counted.
        findings: What the user should know.
    """

    kind: str
    rates: Tensor
    bias: Tensor
    unit: float
    count: int
    findings: tuple[str, ...] = ()

    @property
    def entropy(self) -> float:
        """The loss of the base rates themselves: cross-entropy, its mean over channels, or the variance."""
        p = self.rates
        if self.kind == "softmax":
            return float(-torch.special.xlogy(p, p).sum())
        if self.kind == "sigmoid":
            return float(-(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)).mean())
        return self.unit**2

    def tell(self, output: Tensor, layer: Layer) -> str:
        """Describe the loss before the first step, from the layer's present output."""
        if self.kind == "regression":
            return f"mean {float(self.rates.mean()):.4g}, targets deviate by {self.unit:.4g}"
        axis = layer.channel_axis(output)
        values = rows(output, axis)
        values = (values if values.dim() == 2 else values.movedim(1, -1).flatten(0, 1)).double()
        p = self.rates.to(values)
        if self.kind == "softmax":
            loss = float(-(F.log_softmax(values, 1).mean(0) * p).sum())
        else:
            loss = float(F.binary_cross_entropy_with_logits(values, p.expand_as(values)))
        return f"the first loss is {loss:.4f}, their entropy {self.entropy:.4f}"


def kind_of(targets: Tensor, output: Tensor, channels: int, axis: int) -> str:
    """Decide by type and values what targets are: ``"softmax"``, ``"sigmoid"`` or ``"regression"``."""
    whole = not targets.is_floating_point() and targets.dtype != torch.bool
    per_channel = _per_channel(targets, output, channels, axis)
    binary = bool(((targets == 0) | (targets == 1)).all())
    if whole and channels > 1 and (per_channel is None or not binary):
        return "softmax"
    if per_channel is not None and channels > 1 and targets.is_floating_point() and not targets.lt(0).any():
        sums = per_channel.double().sum(1)
        if bool((sums - 1).abs().max() < 1e-4):
            return "softmax"  # one-hot, or shares
    if per_channel is not None and channels > 1 and whole and bool((per_channel.sum(1) == 1).all()):
        return "softmax"
    return "sigmoid" if binary else "regression"


def channels_of(targets: Tensor, output: Tensor, channels: int, axis: int, *, counted: bool) -> Tensor | None:
    """Targets as ``(values, channels)``, or ``counted`` class numbers as ``(values,)``; None if they do not fit."""
    values = _per_channel(targets, output, channels, axis)
    numbers = not targets.is_floating_point() or bool((targets == targets.round()).all())
    if not counted or (values is not None and channels > 1 and _sum_to_one(values)):
        return values
    if not numbers or channels < 2:
        return None
    return targets.flatten().long()


def _sum_to_one(values: Tensor) -> bool:
    return bool(((values.double().sum(1) - 1).abs() < 1e-4).all()) and not bool(values.lt(0).any())


def _per_channel(targets: Tensor, output: Tensor, channels: int, axis: int) -> Tensor | None:
    """``(values, channels)``, if targets hold a number for every channel."""
    if targets.dim() == output.dim() and targets.shape[axis] == channels:
        return targets.movedim(axis, -1).reshape(-1, channels)
    if channels == 1 and targets.shape == output.squeeze(axis).shape[:1] + output.squeeze(axis).shape[1:]:
        return targets.reshape(-1, 1)
    if channels == 1 and targets.dim() <= 1:
        return targets.reshape(-1, 1)
    if channels == 1 and targets.dim() == output.dim() - 1:
        return targets.reshape(-1, 1)  # at another size, or of more samples
    if targets.dim() == 2 and targets.shape[1] == channels:
        return targets
    return None


def shares(values: Tensor, channels: int, kind: str) -> Prior | None:
    """The prior of classes, from class numbers or from values per channel."""
    if kind == "sigmoid":
        return _prevalence(values)
    findings: tuple[str, ...] = ()
    if values.dim() == 1:
        kept = values[values >= 0]
        if channels <= IGNORED and bool((kept >= channels).any()):
            kept = kept[kept != IGNORED]
        if not len(kept):
            raise DataError("No target is counted: all class numbers are negative.", remedy="Check the targets.")
        if int(kept.max()) >= channels:
            return None
        counts, total = torch.bincount(kept, minlength=channels).double(), len(kept)
    else:
        counts, total = values.double().sum(0), len(values)
    missing = counts <= 0
    if bool(missing.any()):
        number = int(missing.sum())
        counts = torch.where(missing, UNSEEN / number, counts)
        findings = (
            f"{number} of {channels} classes have no sample among {total} targets; their logits are low. Pass more data"
            " if they do occur.",
        )
    p = counts / counts.sum()
    return Prior("softmax", p, p.log(), 1.0, total, findings)


def _prevalence(values: Tensor) -> Prior:
    if bool((values < 0).any()) or bool((values > 1).any()):
        raise DataError(
            f"Targets between {float(values.min()):.3g} and {float(values.max()):.3g} are not between 0 and 1.",
            remedy="Pass kind='regression', or kind='softmax' for class numbers.",
        )
    total = len(values)
    p = values.double().mean(0)
    rare = UNSEEN / total
    findings: tuple[str, ...] = ()
    if bool((p <= 0).any()) or bool((p >= 1).any()):
        findings = (f"{int(((p <= 0) | (p >= 1)).sum())} outputs are always 0 or always 1 in {total} targets.",)
    p = p.clamp(rare, 1 - rare)
    return Prior("sigmoid", p, torch.logit(p), 1.0, total, findings)


def gaussian(values: Tensor) -> Prior:
    """The prior of numbers."""
    mean = values.double().mean(0)
    deviation = math.sqrt(float((values.double() - mean).square().mean()))
    if not deviation:
        raise DataError("All targets are the same number.", remedy="Check the targets in the data.")
    return Prior("regression", mean, mean, deviation, len(values))
