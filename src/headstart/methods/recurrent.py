"""Recurrent layers: orthogonal hidden weights in every gate, and a forget gate that starts open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from headstart import rng
from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.methods.shared.orthonormal import orthonormal_weight
from headstart.model.parts import RECURRENT, Part
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

LONGEST = 100  # steps, for chrono


@register(
    "recurrent",
    summary="LSTM, GRU, RNN: orthogonal hidden weights per gate, Xavier's input weights, the forget gate starts open",
    reference="Saxe et al. 2014 (orthogonal); Gers, Schmidhuber and Cummins 2000, Jozefowicz et al. 2015 (forget bias);"
    " Tallec and Ollivier 2018, Can recurrent neural networks warp time? (chrono)",
    scope="all layers",
    needs_data=False,
    cost="no forward pass of its own; a decomposition per gate",
    presets=("chrono",),
    deviations=(
        "torch has two biases per gate and adds them, so the first holds the value and the second is zero.",
        "A GRU's update gate keeps the old state when it is near 1, so chrono treats it as an LSTM's forget gate."
        " Without chrono it keeps the usual start (one half).",
    ),
)
@dataclass(frozen=True)
class Recurrent(Method):
    """Start recurrent layers so that they remember.

    The idea: over ``t`` steps, a layer's memory is multiplied ``t`` times, by the hidden weights and by the forget
    gate. Orthogonal hidden weights keep its length. A forget gate with bias 0 halves it at every step; with bias 1
    it keeps 73 %. With chrono's ``log(u)``, ``u ~ U(1, T - 1)``, the units' memory times cover all times up to ``T``.

    Other layers are left alone.

    Args:
        forget: The value of ``bias_ih + bias_hh`` of an LSTM's forget gate. Default 1.
        longest: ``T`` of chrono, in steps: the longest dependence. None (default) for no chrono.
        hidden: ``"orthogonal"`` (default) or ``"keep"``.
        inputs: ``"xavier"`` (default; per gate) or ``"keep"``.

    Raises:
        HeadstartError: An option is out of range.

    Example:
        >>> import torch, headstart as hs
        >>> lstm = torch.nn.LSTM(3, 5)
        >>> _ = hs.initialize(lstm, method="recurrent")
        >>> (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().view(4, 5)[1]
        tensor([1., 1., 1., 1., 1.])
    """

    forget: float = 1.0
    longest: int | None = None
    hidden: str = "orthogonal"
    inputs: str = "xavier"
    writes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_choice("hidden", "orthogonal", "keep")
        self.check_choice("inputs", "xavier", "keep")
        self.check(math.isfinite(self.forget), f"forget={self.forget!r} is not finite", "Pass such as 1")
        ok = self.longest is None or self.longest > 2
        self.check(ok, f"longest={self.longest!r} is too short", "Pass the number of steps, 3 or more, such as 100")

    @classmethod
    def chrono(cls, **options: Any) -> Recurrent:
        """Forget gates for all times up to 100 steps; set another limit with ``longest=``."""
        return cls(**{"longest": LONGEST, **options})

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The gates of recurrent layers."""
        chosen = [layer for layer in layers if isinstance(layer, Part) and isinstance(layer.module, RECURRENT)]
        for layer in layers:
            if layer not in chosen:
                report.skip(layer, "not a recurrent layer")
        if not chosen:
            report.add_finding("recurrent: no LSTM, GRU or RNN layer was selected.")
        return chosen

    def before(self, visit: Visit) -> None:
        """Write a gate's weights."""
        layer = visit.layer
        assert isinstance(layer, Part)
        if layer.parameter.startswith("weight_ih"):
            if self.inputs == "xavier":
                bound = math.sqrt(6 / (layer.in_channels + layer.out_channels))
                like = visit.weight_before
                unit = torch.rand(like.shape, generator=visit.generator(), dtype=like.dtype).to(like.device)
                visit.write((2 * unit - 1) * bound)
        elif self.hidden == "orthogonal":
            visit.write(orthonormal_weight(visit))
        if not visit.bias_free:
            bias = self._bias(visit, layer) if layer.parameter.startswith("weight_ih") else None
            old = visit.bias
            assert old is not None
            visit.write(bias=torch.zeros_like(old) if bias is None else bias.to(old))

    def _bias(self, visit: Visit, layer: Part) -> Tensor | None:
        """The bias of a gate, held by ``bias_ih`` alone."""
        lstm = isinstance(layer.module, (nn.LSTM, nn.LSTMCell))
        role = {"f": "keep", "i": "take"}.get(layer.block, "") if lstm else {"z": "keep"}.get(layer.block, "")
        if self.longest is not None and role:
            # One draw for both gates of a unit: what is not forgotten leaves room for nothing new.
            name = f"{layer.parameter}/chrono"
            unit = torch.rand(layer.out_channels, generator=rng.generator(visit.view.seed, layer.host_name, name))
            keep = torch.log(1 + unit * (self.longest - 2))
            return keep if role == "keep" else -keep
        return torch.full((layer.out_channels,), float(self.forget)) if lstm and layer.block == "f" else None

    def finish(self, view: ModelView) -> None:
        """Report the recurrent modules."""
        gated = {la.host_name for la in view.layers if isinstance(la, Part)}
        if gated:
            view.report.add_finding(
                f"recurrent: {len(gated)} recurrent modules: {', '.join(map(repr, sorted(gated)))}."
            )
