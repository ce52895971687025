"""SIREN's start: uniform weights whose bounds suit sines of a given frequency (Sitzmann et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from headstart.engine.method import Method
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

FREQUENCY = 30.0  # of the paper
NAMES = ("omega_0", "omega0", "omega", "w0", "w_0", "frequency", "omega_hidden", "hidden_omega_0", "hidden_omega")
FIRST = ("is_first", "first")


@register(
    "siren",
    summary="for sine networks: first layer U(±1/n), the others U(±√(6/n)/ω)",
    reference="Sitzmann, Martel, Bergman, Lindell and Wetzstein 2020, Implicit neural representations with periodic"
    " activation functions",
    scope="all layers",
    needs_data=False,
    cost="no forward pass of its own",
    deviations=(
        "A layer's draw depends only on the seed and the layer's name, not on the layers before it.",
        "Biases are left as they are. The paper does not mention them; its code keeps the framework's biases.",
    ),
)
@dataclass(frozen=True)
class Siren(Method):
    """Uniform weights for layers whose outputs go through ``sin(ω ·)``.

    The idea: with inputs in ``[-1, 1]``, a first layer drawn from ``U(±1/n)`` makes ``sin(ω ·)`` cover several periods.
    After it, with ``U(±√(6/n)/ω)``, ``ω`` times the output has deviation 1, so that sines at every depth
    have the same distribution. ``n`` is the number of inputs that one output sums.

    Args:
        omega: The frequency. ``"auto"`` (default) finds it for every layer, from an attribute ``omega_0``, ``omega``,
            ``w0`` or ``frequency`` of the module that holds the layer, or of a module inside or after it. If there is
            none, it is 30; the report says so.

    Raises:
        HeadstartError: The frequency is not a positive number.

    Example:
        >>> import torch, headstart as hs
        >>> class Sine(torch.nn.Module):
        ...     w0 = 10.0
        ...     def forward(self, x):
        ...         return torch.sin(self.w0 * x)
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 64), Sine(), torch.nn.Linear(64, 64), Sine())
        >>> _ = hs.initialize(net, method="siren")
        >>> [round(net[i].weight.abs().max().item(), 3) for i in (0, 2)]  # 1 / 2, and sqrt(6 / 64) / 10 = 0.0306
        [0.5, 0.031]
    """

    omega: float | str = "auto"

    def __post_init__(self) -> None:
        ok = self.omega == "auto" or (isinstance(self.omega, (int, float)) and 0 < self.omega < math.inf)
        self.check(ok, f"omega={self.omega!r} is not a positive number", "Pass such as 30, or 'auto'")

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """All layers; without data the first is the first registered."""
        if not trace.traced and len(trace.layers) > 1 and not any(_marked(la.module) for la in trace.layers):
            report.add_finding(
                f"siren: without data the first layer is the first registered, '{trace.layers[0].name}'."
            )
        return layers

    def before(self, visit: Visit) -> None:
        """Draw the weight."""
        layer, model = visit.layer, visit.view.model
        omega = self._omega(visit)
        first = _is_first(layer, visit.trace, model)
        bound = 1 / layer.fan_in if first else math.sqrt(6 / layer.fan_in) / omega
        like = visit.weight_before
        unit = torch.rand(like.shape, generator=visit.generator(), dtype=like.dtype).to(like.device)
        visit.write((2 * unit - 1) * bound)
        visit.note(f"{'first layer, ' if first else ''}frequency {omega:g}")

    def _omega(self, visit: Visit) -> float:
        if not isinstance(self.omega, str):
            return float(self.omega)
        found = _frequency(visit.layer, visit.view.model)
        if found is None:
            visit.add_finding(
                f"siren: no module has a frequency ({', '.join(NAMES[:4])} …), so {FREQUENCY:g} was used. Pass"
                " siren:omega= for another."
            )
        return FREQUENCY if found is None else found


def _parents(name: str, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold a layer, innermost first, each with the name of the child that leads to the layer."""
    parts = name.split(".")
    for i in range(len(parts) - 1, -1, -1):
        yield parts[i], model.get_submodule(".".join(parts[:i]))


def _number(module: nn.Module) -> float | None:
    for name in NAMES:
        value = getattr(module, name, None)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
    return None


def _frequency(layer: Layer, model: nn.Module) -> float | None:
    """The frequency in the module that holds the layer (later children first), then in the modules around it."""
    if not layer.name:
        return _number(layer.module)
    for child, parent in _parents(layer.name, model):
        own = _number(parent)
        if own is not None:
            return own
        children = list(parent.named_children())
        place = next((i for i, (name, _) in enumerate(children) if name == child), 0)
        for _, other in [*children[place + 1 :], *reversed(children[:place])]:
            found = next((n for m in other.modules() if (n := _number(m)) is not None), None)
            if found is not None:
                return found
    return None


def _marked(module: nn.Module) -> bool:
    return any(getattr(module, name, False) is True for name in FIRST)


def _is_first(layer: Layer, trace: ModelTrace, model: nn.Module) -> bool:
    """Whether the layer takes the coordinates: it is marked so, or else it is the first to run."""

    def marked(name: str) -> bool:
        return bool(name) and _marked(next(m for _, m in _parents(name, model)))

    marks = {la.name for la in trace.layers if marked(la.name)}
    return layer.name in marks if marks else layer is trace.layers[0]
