"""What data-driven methods leave as it is by default: all-zero weights, and recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headstart.engine.method import Method
from headstart.engine.visit import ZEROS
from headstart.errors import HeadstartError
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer
from headstart.numerics.fetching import fetch

AGAIN = "it runs again on its own earlier outputs"


@torch.no_grad()
def all_zero(layers: Sequence[Layer]) -> frozenset[str]:
    """Names of layers whose weights are all zero; the device is read once for all."""
    kinds: dict[tuple[torch.device, torch.dtype], list[tuple[str, torch.Tensor]]] = {}
    for layer in layers:
        weight = layer.stored
        kinds.setdefault((weight.device, weight.dtype), []).append((layer.name, weight))
    names = [name for members in kinds.values() for name, _ in members]
    # Sums of magnitudes: on a CPU a fifth of the time of the largest.
    sizes = [n for members in kinds.values() for n in torch._foreach_norm([w for _, w in members], 1)]
    return frozenset(name for name, size in zip(names, fetch(sizes), strict=True) if size[0] == 0)


def without_recurrent(
    method: Method, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder
) -> Sequence[Layer]:
    """Drop the layers that run on their own earlier outputs, for a method that leaves them as they are.

    Raises:
        HeadstartError: There are no other layers.
    """
    if method.recurrences != "leave":
        return layers
    left = [layer for layer in layers if layer.name in trace.recurrent]
    if not left:
        return layers
    for layer in left:
        report.skip(layer, AGAIN)
    if len(left) == len(layers):
        raise HeadstartError(
            f"{method.info.name}: every layer that it may write runs again on its own earlier outputs"
            f" ({_named(left)}), and their first step is unlike the others.",
            remedy="Pass recurrent='all' to calibrate over all steps, or a method that needs no data.",
        )
    report.add_finding(
        f"{method.info.name}: {len(left)} layers run again on their own earlier outputs and were left"
        f" ({_named(left)}); recurrent='all' calibrates them over all their steps."
    )
    return [layer for layer in layers if layer.name not in trace.recurrent]


def require_other_than_zeros(method: Method, layers: Sequence[Layer], report: ReportBuilder) -> None:
    """Raise if a method wrote nothing because all its layers are zero.

    Raises:
        HeadstartError: With what to do.
    """
    rows = [report.rows[layer.name] for layer in layers]
    if rows and all(ZEROS in row.notes and method.info.name not in row.methods for row in rows):
        raise nothing_but_zeros(method, layers)


def nothing_but_zeros(method: Method, layers: Sequence[Layer]) -> HeadstartError:
    """The error of a method that leaves all-zero layers and finds no others."""
    name = method.info.name
    return HeadstartError(
        f"{name}: the weights of every layer that it may write are all zero ({_named(layers)}), which is taken for a"
        " choice.",
        remedy=f"Pass zeros='write' to the method ('{name}:zeros=write'), or initialize the layers first, such as"
        " 'default' before it.",
    )


def _named(layers: Sequence[Layer]) -> str:
    return ", ".join(f"'{layer.name}'" for layer in layers[:3]) + (", …" if len(layers) > 3 else "")
