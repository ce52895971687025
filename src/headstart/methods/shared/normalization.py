"""Shared by methods that normalize outputs: which layers and channels they leave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headstart.engine.method import Method
from headstart.model import weights
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer
from headstart.numerics.moments import Moments

DEAD = 1e-8  # of the layer's deviation: below, a channel counts as constant


def leave_normed(
    method: Method,
    layers: Sequence[Layer],
    trace: ModelTrace,
    report: ReportBuilder,
    before_norm: str,
    output_layer: str,
) -> list[Layer]:
    """Drop layers that a normalization follows, and output layers, if the options say so."""
    reasons = {layer.name: reason_to_leave(layer, trace, before_norm, output_layer) for layer in layers}
    for layer in layers:
        if reasons[layer.name]:
            report.skip(layer, reasons[layer.name])
    normed = sum(before_norm == "skip" and layer.name in trace.norm_after for layer in layers)
    if normed:
        report.add_finding(f"{method.info.name}: {normed} layers that a normalization follows were left as they are.")
    return [layer for layer in layers if not reasons[layer.name]]


def reason_to_leave(layer: Layer, trace: ModelTrace, before_norm: str, output_layer: str) -> str:
    """Why a method that normalizes outputs leaves a layer; empty if it writes it."""
    norm = trace.norm_after.get(layer.name)
    if norm is not None and before_norm == "skip":
        return f"'{norm}' normalizes its output"
    if layer.name in trace.outputs and output_layer == "keep" and len(trace.layers) + len(trace.parts) > 1:
        return "an output layer, whose scale sets the first loss"
    return ""


def deviations(moments: Moments) -> tuple[Tensor, Tensor]:
    """Each channel's deviation, and the root mean square of all."""
    return moments.var.sqrt(), moments.var.mean().sqrt()


def constant_channels(moments: Moments, dtype: torch.dtype, known: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Which channels do not vary over the batch beyond the rounding of ``dtype``, as a mask.

    Args:
        moments: The moments of the channels.
        dtype: The dtype of the output.
        known: The result of :func:`deviations`, if it is already known.
    """
    std, level = known or deviations(moments)
    return std <= torch.add(moments.mean.abs() * _rounding(dtype), level, alpha=DEAD)


def largest_variation(moments: Moments, dtype: torch.dtype) -> Tensor:
    """The largest variance of a channel beyond the rounding of ``dtype``; not above 0 if no channel varies."""
    mean = moments.mean.abs() if moments.mean.is_complex() else moments.mean
    return torch.addcmul(moments.var, mean, mean, value=-(_rounding(dtype) ** 2)).amax()


def _rounding(dtype: torch.dtype) -> float:
    """How much a channel's values may differ, relative to their mean, through the rounding of ``dtype`` alone."""
    finfo = torch.finfo(dtype)
    # A half-precision value is rounded once; float32 sums round at every term.
    return finfo.eps if finfo.bits == 16 else 8 * finfo.eps


def tell_constant(method: str, layer: Layer, report: ReportBuilder) -> None:
    """Report that a layer was left because none of its channels vary."""
    if not bool(weights.look(layer).any()):
        report.skip(layer, "its weights are all zero and were kept: there is nothing to rescale")
        report.add_finding(
            f"{method}: the weights of '{layer.name}' are all zero and were kept: there is nothing to rescale. Use a"
            " method that draws weights."
        )
        return
    report.skip(layer, "its output does not vary over the batch")
    report.add_finding(
        f"{method}: the output of '{layer.name}' is constant over the batch, so it was not rescaled: the data, or"
        " the layers before it, have lost all variation."
    )
