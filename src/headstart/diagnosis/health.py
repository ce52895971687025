"""The result of a diagnosis: one row per layer, and findings with what mends them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from headstart.diagnosis.rows import HE, Finding, LayerHealth, rate_spread
from headstart.errors import needs_extra
from headstart.results.display import Displayable, Table, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
class Diagnosis(Displayable):
    """The result of :func:`headstart.diagnose`.

    Attributes:
        title: The title.
        rows: One row per weight layer, in execution order; layers that never run come last.
        findings: What is wrong, worst first; empty when all is well.
        notes: How it was measured.
        input_mean, input_std, input_across_sample_std: Mean and deviations of the first floating-point input.
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
        return {row.name: row for row in self.rows}[name]

    @property
    def rate_spread(self) -> float | None:
        """The largest of the layers' rates over the smallest; None if fewer than two were measured."""
        return rate_spread(self.rows)

    def found(self, kind: str) -> list[Finding]:
        """Return the findings of one kind."""
        return [f for f in self.findings if f.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """The findings, or that there are none; then how it was measured."""
        return [*(map(str, self.findings) if self.findings else ["No finding."]), *self.notes]

    def to_tables(self) -> list[Table]:
        """Signals (with data) and weights."""
        weights = Table((*_WEIGHTS, *_FILTERS, "notes"), [_weight_cells(r) for r in self.rows], "weights")
        return [Table(_SIGNALS, self._signal_cells(), "signals"), weights] if self.samples else [weights]

    def _signal_cells(self) -> list[list[str]]:
        measured = [number(self.input_mean), number(self.input_std), number(self.input_across_sample_std)]
        return [["(input)", *measured, "", "", "", ""], *map(_signals, self.rows)]

    def plot(self) -> Figure:
        """Draw deviations and gradient ratios over depth (needs the extra ``plot``).

        Raises:
            MissingExtraError: matplotlib is not installed.
            HeadstartError: The diagnosis had no data.
        """
        with needs_extra(package="matplotlib", extra="plot", what="Diagnosis.plot()"):
            from headstart.diagnosis.plot import plot_signals
        return plot_signals(self.title, self.rows)

    def plot_rates(self, after: Diagnosis | None = None) -> Figure:
        """Draw how fast each layer would learn, and how much this varies within it (needs the extra ``plot``).

        Args:
            after: A later diagnosis of the same model, such as after `headstart.Balance`.

        Raises:
            MissingExtraError: matplotlib is not installed.
            HeadstartError: A diagnosis had no gradients.
        """
        with needs_extra(package="matplotlib", extra="plot", what="Diagnosis.plot_rates()"):
            from headstart.diagnosis.plot import plot_rates
        return plot_rates(self.title, self.rows, None if after is None else after.rows)


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
