"""Calibration of a trained network: channels and layers at even scales, without changing the function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.measure.gradients import LossFunction
from headstart.measure.positions import Positions
from headstart.methods.data_dependent.balance import Balance
from headstart.methods.shared.normalization import constant_channels
from headstart.model.forward import by_layer, first_input, run
from headstart.model.hooks import hooked
from headstart.model.norms import batch_statistics
from headstart.model.weights import Layer
from headstart.numerics.moments import Moments
from headstart.symmetries.operations import PINNED
from headstart.symmetries.rescaling import follow, rescale_checked, within_range
from headstart.symmetries.scale_classes import ScaleFlow

SAMPLES = 64


@register(
    "calibrate",
    summary="a trained network's channels and layers brought to even scales, without changing the function",
    reference="Krähenbühl, Doersch, Donahue and Darrell 2016, Data-dependent Initializations of CNNs, section 5",
    scope="all layers",
    needs_data=True,
    cost="two traces of two samples, a forward pass of up to 64 samples, and the cost of balance",
    deviations=(
        "Channels are rescaled as well, and the layers that use them compensate; this part is missing in the"
        " authors' code.",
        "A channel gets the mean deviation of its layer instead of 1: balance chooses the scale of a layer.",
        "If an activation is not homogeneous, the scale is left alone, so that the function is kept.",
    ),
    depends_on_other_layers=True,
    # 2: balance squares gradients sample by sample; 3: moments in one pass; 4, 5: balance
    revision=5,
)
@dataclass(frozen=True)
class Calibrate(Method):
    """Rescale channels to one deviation per layer, then balance the layers; the layers that follow compensate.

    The idea: in a network that was trained elsewhere, or whose batch norms were folded, the scales of channels and
    layers may differ a thousandfold. This does not change its outputs, but it changes fine-tuning: weights behind
    small channels hardly learn. See `Balance` for which scales can be changed.

    Args:
        balance: Also make all layers learn at one rate.
        loss_fn: As for `Balance`.

    Raises:
        HeadstartError: The model cannot be run.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
        >>> with torch.no_grad():
        ...     _ = net[0].weight[:15].mul_(100), net[0].bias[:15].mul_(100)
        >>> x = torch.randn(64, 20)
        >>> y = net(x)
        >>> _ = hs.calibrate(net, x)
        >>> torch.allclose(net(x), y, rtol=1e-4, atol=1e-4)
        True
        >>> deviations = net[0](x).std(0)
        >>> bool(deviations.max() / deviations.min() < 1.001)
        True
    """

    balance: bool = True
    loss_fn: LossFunction | None = None

    def finish(self, view: ModelView) -> None:
        """Even out the channels, then the layers."""
        if view.batch is None or not view.layers:
            return
        flow = follow(view, channels=True)
        moments = _moments(view)
        scales = _scales(flow, moments)
        if rescale_checked(view, flow, within_range(view, scales, {})) is None:
            view.report.add_finding(
                "calibrate: the rescale of channels would have changed the function, so they were left alone."
            )
        else:
            _report(view, moments, _moments(view))
        if self.balance:
            Balance(loss_fn=self.loss_fn, almost="leave").finish(view)


def _moments(view: ModelView) -> dict[str, Moments]:
    """Measure every layer's output channels, on its first use."""
    assert view.batch is not None
    found: dict[str, Moments] = {}

    def look(layer: Layer, args: Any, kwargs: Any, output: Tensor) -> None:
        if layer.name not in found:
            found[layer.name] = positions.moments(layer, output)
        positions.follow(layer, first_input(args, kwargs), output)

    batch = view.batch.head(SAMPLES)
    positions = Positions(batch.masks)
    view.transaction.rewind()
    with hooked(by_layer(view.layers), after=look), batch_statistics(view.model, {}), torch.no_grad():
        run(view.model, batch)
    return found


def _scales(flow: ScaleFlow, moments: Mapping[str, Moments]) -> dict[int, float]:
    """Choose the factor of every channel's class: the geometric mean of its members' factors."""
    asked: dict[int, list[float]] = {}
    for name, found in moments.items():
        variance = found.var.double()
        dead = constant_channels(found, found.var.dtype)
        level = 0.5 * math.log(max(float(variance[~dead].mean()), 1e-300)) if bool((~dead).any()) else 0.0
        for channel, label in enumerate(flow.uses[name].outputs.tolist()):
            free = label != PINNED and label not in flow.normed and label not in flow.almost
            if free and not bool(dead[channel]):
                asked.setdefault(label, []).append(level - 0.5 * math.log(float(variance[channel])))
    return {label: sum(values) / len(values) for label, values in asked.items()}


def _report(view: ModelView, before: Mapping[str, Moments], after: Mapping[str, Moments]) -> None:
    worst = [max((_spread(m) for m in found.values()), default=1.0) for found in (before, after)]
    view.report.add_finding(
        f"calibrate: within a layer, channels' deviations spread up to {worst[0]:.3g}-fold before and"
        f" {worst[1]:.3g}-fold after."
    )
    for name, found in after.items():
        row = view.report.rows[name]
        row.output_mean, row.output_std = found.total_mean, found.total_std


def _spread(found: Moments) -> float:
    alive = found.var[~constant_channels(found, found.var.dtype)]
    return float((alive.max() / alive.min()).sqrt()) if len(alive) else 1.0
