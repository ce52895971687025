"""Shared by methods that write every convolution of more than one tap: which layers, at which depth and scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headstart.engine.method import Method
from headstart.engine.visit import Visit
from headstart.errors import HeadstartError
from headstart.methods.shared.first_convolution import matched_rms
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

DEAD = 1e-6  # of the longest filter: a shorter one is none


def is_spatial(layer: Layer) -> bool:
    """Whether the layer is a convolution (or a transposed one) of more than one tap."""
    return layer.kind != "linear" and math.prod(layer.kernel) > 1


def is_depthwise(layer: Layer) -> bool:
    """Whether every filter sees only one of several channels."""
    return layer.groups > 1 and layer.shape[1] == 1


def depths(trace: ModelTrace, depthwise: bool = False) -> dict[str, float]:
    """Relative position of each convolution of more than one tap among those of the model: 0 the first, 1 the last.

    Args:
        trace: The trace, which has the layers in order.
        depthwise: Count depthwise ones only.
    """
    names = [la.name for la in trace.layers if is_spatial(la) and (is_depthwise(la) or not depthwise)]
    return {name: i / max(1, len(names) - 1) for i, name in enumerate(names)}


def spatial_convolutions(
    method: Method,
    layers: Sequence[Layer],
    trace: ModelTrace,
    report: ReportBuilder,
    count: int | None = None,
    depthwise: bool = False,
) -> list[Layer]:
    """The selected convolutions of more than one tap; every other layer gets its reason.

    Args:
        method: The method.
        layers: Layers that may be written.
        trace: What is known of the model.
        report: Gets the reasons for layers that are left.
        count: Only this many of the model's first ones; None for all.
        depthwise: Take, and count, only depthwise ones.

    Raises:
        HeadstartError: None of the layers is such a convolution.
    """
    first = list(depths(trace, depthwise))[:count]
    found = []
    for layer in layers:
        if layer.kind == "linear":
            report.skip(layer, "a linear layer has no kernel")
        elif not is_spatial(layer):
            report.skip(layer, f"a {sizes(layer.kernel)} kernel has no spatial structure")
        elif depthwise and not is_depthwise(layer):
            report.skip(layer, "not depthwise")
        elif layer.name not in first:
            report.skip(layer, f"not among the first {len(first)} convolutions")
        else:
            found.append(layer)
    if not found:
        kinds = sorted({type(la.module).__name__ for la in trace.layers})
        frozen = "".join(f"; '{name}' is frozen" for name in first if name in trace.frozen)
        raise HeadstartError(
            f"{method.info.name} writes {'depthwise ' * depthwise}convolutions with a kernel larger than 1, and none"
            f" was selected (the model runs {', '.join(kinds)}{frozen}).",
            remedy="Pass depthwise=False, or widen include=."
            if depthwise
            else "Use a method for all layers (within-layer, lsuv, kaiming), or widen include=.",
        )
    if not trace.traced:
        report.add_finding(
            f"{method.info.name}: without data the depth of a layer is its position in the order of registration."
        )
    return found


def sizes(kernel: Sequence[int]) -> str:
    """A kernel size as text.

    Example:
        >>> sizes((3, 5))
        '3×5'
    """
    return "×".join(map(str, kernel)) if len(kernel) > 1 else f"{kernel[0]}-tap"


def check_count(method: Method, layers: int | None) -> None:
    """Raise unless ``layers`` is None or a positive number."""
    ok = layers is None or (isinstance(layers, int) and not isinstance(layers, bool) and layers >= 1)
    method.check(ok, f"layers={layers!r} is not a positive number", "Pass 1 or more, or None for all")


def write_sized(visit: Visit, block: Tensor, rms: float | None, per: str) -> None:
    """Scale filters and write them; filters that are zero keep the layer's own values.

    Args:
        visit: The layer.
        block: ``(out, in/groups, *kernel)``, changed in place.
        rms: Root mean square to scale them to; None writes them as they are.
        per: ``"layer"``: one factor for all; ``"filter"``: each to the same root mean square.
    """
    block = block.to(visit.weight_before)
    lengths = torch.linalg.vector_norm(block.flatten(1), dim=1, dtype=torch.float64)
    alive = lengths > DEAD * lengths.max()
    if not bool(alive.any()):
        visit.skip("all of its filters would be zero")
        return
    if rms is not None:
        count = 1 if per == "filter" else int(alive.sum())
        length = lengths if per == "filter" else torch.linalg.vector_norm(lengths[alive])
        factor = rms * math.sqrt(count * block[0].numel()) / length
        block.mul_(factor.to(block.dtype).reshape(-1, *[1] * (block.dim() - 1)))
    if not bool(alive.all()):
        block[~alive] = visit.weight_now[~alive]
        dead = int((~alive).sum())
        visit.note(f"{dead} filters came out as zero and keep their values")
        visit.add_finding(
            f"{visit.method}: {dead} of {len(block)} filters of '{visit.layer.name}' came out as zero and"
            " keep their values."
        )
    visit.write(block)


def wanted_rms(visit: Visit, scale: float | str, source: float) -> float | None:
    """The root mean square that ``scale`` sets: the layer's own, the source's, a number, or None for no change."""
    if scale == "match":
        return matched_rms(visit)
    if scale == "paper":
        return None
    return source if scale == "source" else float(scale)


def resizing(source: Sequence[int], target: Sequence[int]) -> Tensor:
    """The matrix that interpolates a kernel linearly in each dimension, ``(taps of target, taps of source)``.

    Taps lie at the centres of equal parts of the same area. The values are interpolated, and repeated at the border.
    Rows sum to one.

    Example:
        >>> resizing((2,), (4,)).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    whole = torch.ones(1, 1, dtype=torch.float64)
    for old, new in zip(source, target, strict=True):
        place = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
        apart = (place.unsqueeze(1) - torch.arange(old, dtype=torch.float64)).abs()
        rows = (1 - apart / max(1.0, old / new)).clamp_min(0)
        whole = torch.kron(whole, rows / rows.sum(1, keepdim=True))
    return whole
