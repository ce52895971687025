"""What methods that write the first convolution share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from headstart.errors import HeadstartError
from headstart.method import Method
from headstart.plan import Plan
from headstart.walk import Visit
from headstart.weights import Layer


def first_convolutions(method: Method, layers: Sequence[Layer], plan: Plan, count: int = 1) -> list[Layer]:
    """The first ``count`` convolutions in execution order whose kernel has more than one tap.

    Raises:
        HeadstartError: There is none, or the first is frozen.
    """
    name = method.info.name
    candidates = {layer.name for layer in layers}
    found: list[Layer] = []
    for layer in plan.layers:
        if layer.kind != "conv" or len(found) == count:
            if layer.name in candidates:
                plan.skip(
                    layer,
                    f"{name} writes the first convolution only" if count == 1 else f"not among the first {count}",
                )
            continue
        if layer.name in plan.frozen:
            raise HeadstartError(
                f"{name}: the first convolution, {layer.where}, is frozen (requires_grad=False).",
                remedy=f"Unfreeze it, or name it: include='{layer.name}'.",
            )
        if layer.name not in candidates:
            continue
        if math.prod(layer.kernel) == 1:
            plan.skip(layer, "a 1×1 kernel has no spatial structure")
            plan.find(f"{name}: '{layer.name}' has a 1×1 kernel; the next convolution is taken as the first.")
            continue
        found.append(layer)
    if not found:
        kinds = sorted({type(la.module).__name__ for la in plan.layers})
        raise HeadstartError(
            f"{name} writes a convolution with a kernel larger than 1, and none was selected"
            f" (the model runs {', '.join(kinds)}).",
            remedy="Use a method for all layers (within-layer, lsuv, kaiming), or widen include=.",
        )
    if not plan.traced:
        plan.find(f"{name}: without data the first convolution is the first registered, '{found[0].name}'.")
    return found


def matched_rms(visit: Visit) -> float:
    """Root mean square of the layer's weights as the call found them."""
    return math.sqrt(float(visit.weight_before.double().square().mean()))


def parity_bound(visit: Visit) -> float:
    """He's deviation ``sqrt(2 / fan_in)``, the bound that keeps new filters no larger than Kaiming's."""
    return math.sqrt(2 / math.prod(visit.layer.shape[1:]))


def check_fraction(method: Method, fraction: float) -> None:
    """Raise unless 0 < fraction <= 1."""
    ok = isinstance(fraction, (int, float)) and 0 < fraction <= 1
    method.check(ok, f"fraction={fraction!r} is not in (0, 1]", "Pass the share of filters to write, such as 0.5")


def check_scale(method: Method, scale: float | str, *names: str) -> None:
    """Raise unless ``scale`` is a positive number or one of the names."""
    ok = scale in names if isinstance(scale, str) else isinstance(scale, (int, float)) and scale > 0
    method.check(ok, f"scale={scale!r} is not known", f"Pass a positive number or one of {', '.join(names)}")


def by_group(visit: Visit, patches: Tensor) -> list[Tensor]:
    """Split patches ``(n, channels, *kernel)`` into one tensor per group of input channels."""
    return list(patches.chunk(visit.layer.groups, dim=1))


def share(total: int, groups: int) -> list[int]:
    """Spread ``total`` filters over groups as evenly as whole numbers allow.

    Example:
        >>> share(5, 3)
        [1, 2, 2]
    """
    return [(g + 1) * total // groups - g * total // groups for g in range(groups)]
