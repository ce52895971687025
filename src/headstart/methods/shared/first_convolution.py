"""Shared by methods that write the first convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from headstart.engine.method import Method
from headstart.engine.visit import Visit
from headstart.errors import HeadstartError
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

ENTRIES = 2**25  # numbers in all patches that are drawn, for large kernels and many channels


def first_convolutions(
    method: Method, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder, count: int = 1
) -> list[Layer]:
    """The first ``count`` convolutions in execution order whose kernel has more than one tap.

    Raises:
        HeadstartError: There is none, or the first is frozen.
    """
    name = method.info.name
    candidates = {layer.name for layer in layers}
    found: list[Layer] = []
    for layer in trace.layers:
        point = layer.kind == "conv" and math.prod(layer.kernel) == 1
        if layer.kind != "conv" or point or len(found) == count:
            if layer.name in candidates:
                report.skip(layer, _why_not(name, point and len(found) < count, count))
            if layer.name in candidates and point and not found:
                report.add_finding(
                    f"{name}: '{layer.name}' has a 1×1 kernel; the next convolution is taken as the first."
                )
        elif layer.name in trace.frozen:
            raise HeadstartError(
                f"{name}: the first convolution, {layer.where}, is frozen (requires_grad=False).",
                remedy=f"Unfreeze it, or name it: include='{layer.name}'.",
            )
        elif layer.name in candidates:
            found.append(layer)
    if not found:
        kinds = sorted({type(la.module).__name__ for la in trace.layers})
        raise HeadstartError(
            f"{name} writes a convolution with a kernel larger than 1, and none was selected"
            f" (the model runs {', '.join(kinds)}).",
            remedy="Use a method for all layers (within-layer, lsuv, kaiming), or widen include=.",
        )
    if not trace.traced:
        report.add_finding(f"{name}: without data the first convolution is the first registered, '{found[0].name}'.")
    return found


def _why_not(name: str, point: bool, count: int) -> str:
    if point:
        return "a 1×1 kernel has no spatial structure"
    return f"{name} writes the first convolution only" if count == 1 else f"not among the first {count} convolutions"


def filter_count(method: Method, fraction: float, layer: Layer) -> int:
    """How many filters a fraction of the layer is, rounded down; raise if it is zero."""
    filters = math.floor(fraction * layer.out_channels + 1e-9)  # 0.29 * 100 is a little less than 29
    method.check(
        filters > 0,
        f"fraction={fraction} of the {layer.out_channels} filters of {layer.where} is none",
        "Pass a larger fraction",
    )
    return filters


def matched_rms(visit: Visit) -> float:
    """Root mean square of the layer's weights before the method writes them.

    Raises:
        HeadstartError: They are all zero.
    """
    weight = visit.weight_now
    size = math.sqrt(float(weight.double().square().mean()))
    if size == 0:
        raise HeadstartError(
            f"{visit.method}: the weights of {visit.layer.where} are all zero, so there is no size to match.",
            remedy="Pass a number as scale=, or initialize the layer first, such as 'default' before this method.",
        )
    return size


def note_missing(visit: Visit, written: int, filters: int, why: str) -> None:
    """Report that fewer filters than requested were written."""
    if written < filters:
        visit.note(f"{written} of {filters} filters written, the rest kept")
        visit.add_finding(
            f"{visit.method}: {why} in '{visit.layer.name}': {filters - written} of {filters} filters keep"
            " their random values."
        )


def parity_bound(layer: Layer) -> float:
    """He's deviation ``sqrt(2 / fan_in)``: new filters must not be larger than Kaiming's."""
    return math.sqrt(2 / math.prod(layer.shape[1:]))


def check_fraction(method: Method, fraction: float) -> None:
    """Raise unless 0 < fraction <= 1."""
    ok = isinstance(fraction, (int, float)) and not isinstance(fraction, bool) and 0 < fraction <= 1
    method.check(ok, f"fraction={fraction!r} is not in (0, 1]", "Pass the share of filters to write, such as 0.5")


def check_scale(method: Method, scale: float | str, *names: str) -> None:
    """Raise unless ``scale`` is a positive number or one of the names."""
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool) and 0 < scale < math.inf
    ok = scale in names if isinstance(scale, str) else number
    method.check(ok, f"scale={scale!r} is not known", f"Pass a positive number or one of {', '.join(names)}")


def by_group(layer: Layer, patches: Tensor) -> list[Tensor]:
    """Split patches ``(n, channels, *kernel)`` into one tensor per group of input channels."""
    return list(patches.chunk(layer.groups, dim=1))


def share(total: int, groups: int) -> list[int]:
    """Spread ``total`` filters over groups as evenly as whole numbers allow.

    Example:
        >>> share(5, 3)
        [1, 2, 2]
    """
    return [(g + 1) * total // groups - g * total // groups for g in range(groups)]
