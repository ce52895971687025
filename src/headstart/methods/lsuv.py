"""LSUV: orthonormal weights, then each layer's output scaled to unit deviation (Mishkin and Matas 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from headstart.engine.method import OnComplex
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.errors import WriteError
from headstart.methods.shared.from_data import FromData
from headstart.methods.shared.normalization import largest_variation, leave_normed, tell_constant
from headstart.methods.shared.orthonormal import orthonormal_draws, orthonormal_weight
from headstart.model import weights
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer
from headstart.numerics.fetching import Values


@register(
    "lsuv",
    summary="orthonormal weights, each layer's output scaled to unit deviation",
    reference="Mishkin and Matas 2016, All you need is a good init",
    scope="all layers",
    needs_data=True,
    cost="one forward pass of the batch; a decomposition per layer",
    deviations=(
        "The factor is computed in closed form, biases included, instead of iterated 10 or 20 times to a tolerance"
        " of 0.1.",
        "Layers run in execution order, not in registration order; a shared layer is treated on its first use.",
        "Biases are left alone, as in the authors' Caffe script; the PyTorch ports zero them.",
        "Statistics are of the whole output tensor, as published: channels may differ (see within-layer).",
    ),
    revision=4,  # 3: one layer beside recurrent ones is an output layer; 4: orthonormal rows round differently
)
@dataclass(frozen=True)
class LSUV(FromData):
    """Layer-sequential unit-variance: one factor per layer, so that its output has deviation ``std``.

    The idea: orthonormal weights keep directions apart, and unit variance on real data keeps signals alive,
    whatever the activations are. The output is ``t * z + b``: ``z`` comes from the weights, ``b`` is the bias;
    its variance is a quadratic in ``t``, solved exactly.

    Args:
        fill: ``"orthogonal"`` draws new weights, ``"keep"`` rescales the present ones.
        std: The deviation to reach, default 1.
        before_norm: ``"normalize"`` (published) or ``"skip"`` layers that a normalization follows.
        output_layer: ``"normalize"`` (published) or ``"keep"`` layers whose output the model returns.
        zeros: ``"leave"`` (default) keeps layers whose weights are all zero, a choice of their author; ``"write"``
            writes them, too.
        recurrent: ``"leave"`` (default) keeps layers that run on their own earlier outputs; ``"all"`` calibrates
            them over all their steps, in several passes.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5))
        >>> report = hs.initialize(net, torch.randn(64, 20), "lsuv")
        >>> [round(r.output_std, 4) for r in report.rows]
        [1.0, 1.0]
    """

    fill: str = "orthogonal"
    std: float = 1.0
    before_norm: str = "normalize"
    output_layer: str = "normalize"

    writes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("fill", "orthogonal", "keep")
        self.check_choice("before_norm", "skip", "normalize")
        self.check_choice("output_layer", "normalize", "keep")
        ok = isinstance(self.std, (int, float)) and 0 < self.std < math.inf
        self.check(ok, f"std={self.std!r} is not a positive number", "Pass the deviation to reach, such as 1")

    def on_complex(self) -> OnComplex:
        """They are drawn and rescaled by the deviation of ``|y - mean|``."""
        return "written"

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """All layers except those that the options leave alone."""
        return leave_normed(self, layers, trace, report, self.before_norm, self.output_layer)

    def draws(self, layer: Layer) -> list[tuple[str, tuple[int, ...]]]:
        """The matrices."""
        return orthonormal_draws(layer) if self.fill == "orthogonal" else []

    def before(self, visit: Visit) -> None:
        """Draw the weights."""
        if self.fill == "orthogonal":
            visit.write(orthonormal_weight(visit))

    def after(self, visit: Visit) -> None:
        """Find the factor and rescale."""
        moments = visit.moments
        assert visit.output is not None
        bias, n = weights.look_bias(visit.layer), len(moments.var)
        inside = moments.var.mean()
        # Sums over channels of the variance of t * z + b over samples, positions and channels: a t^2 + 2 c t + d.
        if bias is None:
            a, d = torch.add(moments.mean.var(correction=0), inside), torch.zeros_like(inside)
            factor = self.std * a.rsqrt()
        else:
            parts = torch.stack([moments.mean - bias, bias])
            parts = parts - parts.mean(1, keepdim=True)
            a, c, _, d = (parts @ parts.mH).real.view(4).unbind()
            a = torch.add(a, inside, alpha=n)
            # NaN where there is no solution.
            factor = (torch.addcmul(c * c, a, d - n * self.std**2, value=-1).sqrt() - c) / a
        # A layer without any variation, or one whose biases alone are beyond the deviation, stays as it is.
        varies = largest_variation(moments, visit.output.dtype)
        good = torch.minimum(factor, varies) > 0
        factor = factor.where(good, 1)
        restore, layer, report = visit.checkpoint(), visit.layer, visit.report
        visit.affine(factor.to(moments.var.dtype), keep_bias=True)

        def tell(values: Values) -> None:
            alive, written, total, whole = values.tolist()
            if not math.isfinite(whole):
                raise WriteError(
                    f"The output of {layer.where} is not finite, so there is no factor for its weight.",
                    remedy="Check the calibration data for extreme values; nothing was changed.",
                )
            if alive <= 0:
                restore()
                tell_constant(self.info.name, layer, report)
            elif not written:
                restore()
                deviation = math.sqrt(total / n)
                report.skip(layer, f"the deviation of its biases alone, {deviation:.3g}, is above {self.std:g}")
                report.add_finding(
                    f"{self.info.name}: '{layer.name}' cannot reach deviation {self.std:g} by its weights alone."
                )

        visit.later([varies, good, d, a], tell)
