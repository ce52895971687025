"""What a diagnosis holds: one row per layer, findings with what mends them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from headstart.errors import MissingExtraError
from headstart.shown import Grid, Shown, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HE = math.sqrt(2)  # gain that keeps the variance through ReLU; LeCun's, without a nonlinearity, is 1


@dataclass
class LayerHealth:
    """One layer in a diagnosis; None is what was not or cannot be measured. Formulas: ``docs/diagnose.md``.

    Attributes:
        name: Qualified name.
        kind: Module class.
        shape: Canonical weight shape ``(out, in/groups, *kernel)``.
        fan_in, fan_out: Inputs that one output value sums; outputs that one input value reaches.
        weight_std: Standard deviation of the weight; None where the weight is not finite.
        gain: ``weight_std * sqrt(fan_in)``: 1 is LeCun's scale, sqrt(2) He's.
        output_mean, output_std: Over samples, channels and positions.
        across_sample_std: Deviation between samples at the same channel and place: what tells inputs apart.
        never_positive: Share of channels that no sample makes positive, measured where a rectifier or a
            normalization takes the output directly, else at the output itself.
        rectified: Whether a ReLU-like activation was seen to take the output: such channels are then dead.
        gradient_rms: Root mean square of the gradient of the weight.
        gradient_ratio: ``gradient_rms`` over the root mean square of the weight: the layer's *rate*.
        rate_variation: Coefficient of variation of the rates of its input channels.
        sparsity, variance_entropy, orthogonality: See ``headstart.filter_metrics``.
        notes: Anything else to know.
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
    """Something that is wrong with a start.

    Attributes:
        kind: Which rule found it; the rules and their thresholds are in ``headstart.findings``.
        layers: Qualified names (of parameters, where the rule is about those).
        text: What is the matter, in plain words.
        mend: What to do about it.
    """

    kind: str
    layers: tuple[str, ...]
    text: str
    mend: str

    def __str__(self) -> str:
        return f"{self.text} Mend: {self.mend}"


_SIGNALS = (
    "layer",
    "output mean",
    "output std",
    "across samples",
    "never positive",
    "gradient rms",
    "grad/weight",
    "variation",
)
_WEIGHTS = ("layer", "type", "weight", "fan in", "fan out", "weight std", "gain", "of He's")
_FILTERS = ("sparse", "entropy", "orthogonal")


@dataclass
class Diagnosis(Shown):
    """What :func:`headstart.diagnose` saw.

    Attributes:
        title: What was looked at.
        rows: One per weight layer, in execution order; layers that never run come last.
        findings: What is wrong, worst first; empty when all is well.
        notes: How it was measured.
        input_mean, input_std, input_across_sample_std: Of the first floating-point input.
        samples: Samples used; 0 without data.
        seconds: Wall time.
        seed: The seed in use.
    """

    title: str
    rows: list[LayerHealth] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    input_mean: float | None = None
    input_std: float | None = None
    input_across_sample_std: float | None = None
    samples: int = 0
    seconds: float = 0.0
    seed: int = 0

    def row(self, name: str) -> LayerHealth:
        """Return the row of a layer.

        Raises:
            KeyError: No layer has that name.
        """
        for r in self.rows:
            if r.name == name:
                return r
        raise KeyError(name)

    @property
    def rate_spread(self) -> float | None:
        """The largest of the layers' rates over the smallest; None where fewer than two were measured."""
        rates = [r.gradient_ratio for r in self.rows if r.gradient_ratio]
        return max(rates) / min(rates) if len(rates) > 1 else None

    def found(self, kind: str) -> list[Finding]:
        """Return the findings of one kind."""
        return [f for f in self.findings if f.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """The findings, or that there are none; then how it was measured."""
        return [*(map(str, self.findings) if self.findings else ["No finding."]), *self.notes]

    def grids(self) -> list[Grid]:
        """Signals (with data) and weights."""
        weights = Grid((*_WEIGHTS, *_FILTERS, "notes"), [_weight_cells(r) for r in self.rows], "weights")
        return [Grid(_SIGNALS, self._signal_cells(), "signals"), weights] if self.samples else [weights]

    def _signal_cells(self) -> list[list[str]]:
        measured = [number(self.input_mean), number(self.input_std), number(self.input_across_sample_std)]
        return [["(input)", *measured, "", "", "", ""], *map(_signals, self.rows)]

    def plot(self) -> Figure:
        """Draw deviations and gradient ratios over depth (needs the extra ``plot``).

        Raises:
            MissingExtraError: matplotlib is not installed.
            HeadstartError: The diagnosis had no data.
        """
        try:
            from headstart.plot import plot_diagnosis
        except ImportError as error:
            raise MissingExtraError(package="matplotlib", extra="plot", what="Diagnosis.plot()") from error
        return plot_diagnosis(self)

    def plot_rates(self, after: Diagnosis | None = None) -> Figure:
        """Draw how fast each layer would learn, and how much that varies inside it (needs the extra ``plot``).

        Args:
            after: A diagnosis of the same model later, such as after `headstart.Balance`.

        Raises:
            MissingExtraError: matplotlib is not installed.
            HeadstartError: A diagnosis had no gradients.
        """
        try:
            from headstart.plot import plot_rates
        except ImportError as error:
            raise MissingExtraError(package="matplotlib", extra="plot", what="Diagnosis.plot_rates()") from error
        return plot_rates(self, after)


def _signals(r: LayerHealth) -> list[str]:
    measured = [number(v) for v in (r.output_mean, r.output_std, r.across_sample_std)]
    silent = "" if r.never_positive is None else f"{r.never_positive:.0%}{' dead' if _dead(r) else ''}"
    return [r.name, *measured, silent, number(r.gradient_rms), number(r.gradient_ratio), number(r.rate_variation)]


def _dead(r: LayerHealth) -> bool:
    return r.rectified and bool(r.never_positive)


def _weight_cells(r: LayerHealth) -> list[str]:
    size = ["×".join(map(str, r.shape)), f"{r.fan_in:g}", f"{r.fan_out:g}"]
    scale = [number(r.weight_std), number(r.gain), "" if r.gain is None else f"{r.gain / HE:.2f}"]
    filters = [number(r.sparsity), number(r.variance_entropy), number(r.orthogonality)]
    return [r.name, r.kind, *size, *scale, *filters, "; ".join(r.notes)]
