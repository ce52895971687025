"""The rows and findings of a diagnosis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


HE = math.sqrt(2)  # gain that keeps the variance through ReLU; LeCun's, without a nonlinearity, is 1


@dataclass
class LayerHealth:
    """One layer in a diagnosis. None means not measured. Formulas: ``docs/diagnose.md``.

    Attributes:
        name: Qualified name.
        kind: Module class.
        shape: Canonical weight shape ``(out, in/groups, *kernel)``.
        fan_in, fan_out: Inputs that one output value sums; outputs that one input value reaches.
        weight_std: Standard deviation of the weight; None if the weight is not finite.
        gain: ``weight_std * sqrt(fan_in)``: 1 is LeCun's scale, sqrt(2) He's.
        output_mean, output_std: Mean and deviation over samples, channels and positions.
        across_sample_std: Deviation between samples at the same channel and place: what distinguishes inputs.
        never_positive: Share of channels that are positive for no sample, measured where a rectifier or a
            normalization takes the output directly, else at the output itself.
        rectified: Whether a ReLU-like activation takes the output: such channels are then dead.
        saturated: Share of the output's values at which the sigmoid or tanh that takes them is flat.
        gradient_rms: Root mean square of the gradient of the weight.
        gradient_ratio: ``gradient_rms`` over the root mean square of the weight: the layer's *rate*.
        rate_variation: Coefficient of variation of the rates of its input channels.
        sparsity, variance_entropy, orthogonality: See ``headstart.diagnosis.filter_metrics``.
        notes: Other remarks.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    fan_in: float
    fan_out: float
    weight_std: float | None = None
    gain: float | None = None
    output_mean: float | None = None
    output_std: float | None = None
    across_sample_std: float | None = None
    never_positive: float | None = None
    rectified: bool = False
    saturated: float | None = None
    gradient_rms: float | None = None
    gradient_ratio: float | None = None
    rate_variation: float | None = None
    sparsity: float | None = None
    variance_entropy: float | None = None
    orthogonality: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name as sentences quote it."""
        return f"'{self.name}'" if self.name else f"the {self.kind} itself"


@dataclass(frozen=True)
class Finding:
    """A fault of a start.

    Attributes:
        kind: Which rule found it; the rules and their thresholds are in ``headstart.diagnosis.rules``.
        layers: Qualified names of layers, or of parameters if the rule is about these; the culprit first.
        text: What is wrong, with the numbers that show it.
        mend: What to do about it, in words; empty if nothing is known to help.
        code: The mend as Python code that runs as it is, with ``hs``, ``torch``, ``model`` and ``data``; empty if
            there is none.
    """

    kind: str
    layers: tuple[str, ...]
    text: str
    mend: str = ""
    code: str = ""

    def __str__(self) -> str:
        advice = ": ".join(part for part in (self.mend, self.code) if part)
        return f"{self.text} Mend: {advice}" if advice else self.text


def rate_spread(rows: Sequence[LayerHealth]) -> float | None:
    """The largest of the layers' rates of learning over the smallest; None if fewer than two were measured."""
    rates = [r.gradient_ratio for r in rows if r.gradient_ratio]
    return max(rates) / min(rates) if len(rates) > 1 else None
