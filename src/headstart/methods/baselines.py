"""The usual starts: those of ``torch.nn.init``, and two that it lacks.

Each draws every layer from its own stream, in float32 or better, for any kind of layer, and sets biases to
zero (``default`` draws them, as the framework does).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import init

from headstart.engine.method import Method, OnComplex
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.methods.shared.orthonormal import orthonormal, orthonormal_draws, orthonormal_weight
from headstart.methods.shared.own_start import draw_own, looks_up, uniform, without_padding
from headstart.model.parts import Part
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

_COST = "no forward pass of its own"
_FAN = (
    "Fans are those of one group: torch.nn.init counts the outputs of all groups in fan_out.",
    "Transposed convolutions use fan_in = in/groups * kernel / stride, the inputs that reach an output, and"
    " fan_out = out/groups * kernel; torch.nn.init swaps the two and ignores the stride.",
)


def zero_bias(visit: Visit) -> None:
    """Set the bias to zero, if there is one that may be written."""
    visit.zero_bias()


def gain_of(nonlinearity: str, slope: float = 0.0) -> float:
    """The gain that preserves the variance through a nonlinearity (``torch.nn.init.calculate_gain``).

    Example:
        >>> round(gain_of("relu"), 4)
        1.4142
    """
    return float(init.calculate_gain(nonlinearity, slope if nonlinearity == "leaky_relu" else None))  # type: ignore[arg-type]


class _Baseline(Method):
    """The common base: all of them draw complex weights too."""

    def on_complex(self) -> OnComplex:
        """Each part gets half of the variance."""
        return "written"


@register(
    "default",
    summary="the framework's own start, drawn again from the call's seed",
    reference="PyTorch reset_parameters: He et al. 2015 with a = sqrt(5), that is U(-1, 1) / sqrt(fan_in)",
    scope="all layers",
    needs_data=False,
    cost=_COST,
    deviations=("A layer's draw depends on the seed and its name only, not on the layers before it.",),
)
@dataclass(frozen=True)
class Default(_Baseline):
    """PyTorch's default: weights and biases uniform in ``±1 / sqrt(fan_in)``.

    The idea: LeCun's scale with a third of the variance, kept by the framework for compatibility. In deep plain
    networks activations vanish with it: see ``headstart.diagnose``.

    Example:
        >>> import torch, headstart as hs
        >>> layer = torch.nn.Conv2d(3, 8, 3)
        >>> _ = hs.initialize(layer, method="default", seed=0)
        >>> bool(layer.weight.abs().max() <= 27 ** -0.5)
        True
    """

    writes_parts: ClassVar[bool] = True

    def before(self, visit: Visit) -> None:
        """Draw weight and bias."""
        # torch takes the stored axis 1 for the fan, so a transposed layer counts its output channels.
        layer = visit.layer
        if isinstance(layer, Part):
            draw_own(visit, layer)
            return
        shape = layer.shape if layer.kind != "transposed" else (0, layer.out_channels // layer.groups, *layer.kernel)
        bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        weight = visit.weight
        visit.write(uniform(visit, weight, bound))
        if not visit.bias_free:
            bias = visit.bias
            assert bias is not None
            visit.write(bias=uniform(visit, bias, bound, "bias"))


@dataclass(frozen=True)
class _VarianceScaling(_Baseline):
    """The base of the starts that only set a variance."""

    distribution: str = "normal"
    writes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_choice("distribution", "normal", "uniform")

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """All layers except embeddings, which look up a row and sum nothing."""
        for layer in layers:
            if looks_up(layer):
                report.skip(layer, "an embedding sums no inputs, so its fans have no meaning")
        return [layer for layer in layers if not looks_up(layer)]

    def _draw(self, visit: Visit, std: float) -> None:
        weight = visit.weight
        if self.distribution == "normal":
            visit.write(visit.normal(*weight.shape) * std)
        else:
            visit.write(uniform(visit, weight, std * math.sqrt(3)))
        zero_bias(visit)


@register(
    "kaiming",
    summary="variance 2 / fan: keeps activations (or gradients) alive through ReLU",
    reference="He, Zhang, Ren and Sun 2015, Delving deep into rectifiers",
    scope="all layers",
    needs_data=False,
    cost=_COST,
    deviations=_FAN,
)
@dataclass(frozen=True)
class Kaiming(_VarianceScaling):
    """He's start: ``std = gain / sqrt(fan)``, bias 0.

    Args:
        distribution: ``"normal"`` or ``"uniform"`` (same variance).
        mode: ``"fan_in"`` keeps the variance of activations, ``"fan_out"`` that of gradients.
        nonlinearity: As in ``torch.nn.init.calculate_gain``; default ``"relu"``, gain sqrt(2).

    Example:
        >>> import torch, headstart as hs
        >>> layer = torch.nn.Linear(1000, 200)
        >>> _ = hs.initialize(layer, method=hs.Kaiming(), seed=0)
        >>> round(layer.weight.std().item(), 2)
        0.04
    """

    mode: str = "fan_in"
    nonlinearity: str = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("mode", "fan_in", "fan_out")
        self.check_choice("nonlinearity", "linear", "relu", "leaky_relu", "tanh", "sigmoid", "selu")

    def before(self, visit: Visit) -> None:
        """Draw the weight, zero the bias."""
        fan = visit.layer.fan_in if self.mode == "fan_in" else visit.layer.fan_out
        self._draw(visit, gain_of(self.nonlinearity, 0.01) / math.sqrt(fan))


@register(
    "xavier",
    summary="variance 2 / (fan_in + fan_out): a compromise for forward and backward",
    reference="Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks",
    scope="all layers",
    needs_data=False,
    cost=_COST,
    deviations=_FAN,
)
@dataclass(frozen=True)
class Xavier(_VarianceScaling):
    """Glorot's start: ``std = gain * sqrt(2 / (fan_in + fan_out))``, bias 0.

    Args:
        distribution: ``"normal"`` or ``"uniform"``.
        gain: Factor on the deviation, default 1.
    """

    gain: float = 1.0

    def before(self, visit: Visit) -> None:
        """Draw the weight, zero the bias."""
        self._draw(visit, self.gain * math.sqrt(2 / (visit.layer.fan_in + visit.layer.fan_out)))


@register(
    "lecun",
    summary="variance 1 / fan_in: right for linear layers and SELU",
    reference="LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp",
    scope="all layers",
    needs_data=False,
    cost=_COST,
    deviations=_FAN,
)
@dataclass(frozen=True)
class LeCun(_VarianceScaling):
    """LeCun's start: ``std = 1 / sqrt(fan_in)``, bias 0.

    Args:
        distribution: ``"normal"`` or ``"uniform"``.
    """

    def before(self, visit: Visit) -> None:
        """Draw the weight, zero the bias."""
        self._draw(visit, 1 / math.sqrt(visit.layer.fan_in))


@register(
    "orthogonal",
    summary="weights with orthonormal rows (or columns) per group: no direction vanishes or explodes",
    reference="Saxe, McClelland and Ganguli 2014, Exact solutions to the nonlinear dynamics of learning",
    scope="all layers",
    needs_data=False,
    cost=f"{_COST}; a decomposition per layer",
    deviations=(
        "Grouped layers are orthonormal within each group; decompositions run in float32 or better, so half precision"
        " works.",
    ),
    revision=3,  # 2: one stream for all groups; 2, 3: another decomposition
)
@dataclass(frozen=True)
class Orthogonal(_Baseline):
    """Semi-orthogonal weights: the ``out × in*kernel`` matrix of each group has orthonormal rows or columns.

    Args:
        gain: Factor on the weights, default 1.

    Example:
        >>> import torch, headstart as hs
        >>> layer = torch.nn.Linear(8, 4)
        >>> _ = hs.initialize(layer, method="orthogonal", seed=0)
        >>> torch.allclose(layer.weight @ layer.weight.T, torch.eye(4), atol=1e-5)
        True
    """

    gain: float = 1.0
    writes_parts: ClassVar[bool] = True

    def draws(self, layer: Layer) -> list[tuple[str, tuple[int, ...]]]:
        """The matrices."""
        return orthonormal_draws(layer)

    def before(self, visit: Visit) -> None:
        """Draw the weight, zero the bias."""
        visit.write(without_padding(visit.layer, self.gain * orthonormal_weight(visit)))
        zero_bias(visit)


def _centre(layer: Layer) -> int:
    """Index of the centre tap among the kernel's flattened taps (0 for a linear layer)."""
    place = 0
    for k in layer.kernel:
        place = place * k + k // 2
    return place


@register(
    "dirac",
    summary="each layer passes its input channels through: identity at the kernel's centre",
    reference="Zagoruyko and Komodakis 2017, DiracNets; torch.nn.init.dirac_",
    scope="all layers",
    needs_data=False,
    cost=_COST,
    deviations=(
        "Filters beyond the number of input channels keep the layer's own values (as in airbench), instead of"
        " zero, unless rest='zero'.",
        "Linear layers get a partial identity when linear=True, and are left alone by default.",
    ),
)
@dataclass(frozen=True)
class Dirac(_Baseline):
    """Identity convolution per group for the first ``in/groups`` filters, bias 0.

    Args:
        rest: ``"keep"`` leaves the other filters as they are; ``"zero"`` sets them to zero, as torch does.
        linear: Also write linear layers.
    """

    rest: str = "keep"
    linear: bool = False

    def __post_init__(self) -> None:
        self.check_choice("rest", "keep", "zero")

    def before(self, visit: Visit) -> None:
        """Write the identity, zero the bias."""
        layer = visit.layer
        if layer.kind == "linear" and not self.linear:
            visit.skip("a linear layer: pass dirac:linear=true to write it")
            return
        weight = visit.weight.unflatten(0, (layer.groups, -1))  # (groups, out/groups, in/groups, *kernel)
        if self.rest == "zero":
            weight.zero_()
        n = min(weight.shape[1], weight.shape[2])
        weight[:, :n] = 0
        identity = torch.eye(n, dtype=weight.dtype, device=weight.device)
        weight.view(*weight.shape[:3], -1)[:, :n, :n, _centre(layer)] = identity
        visit.write(weight.flatten(0, 1))
        zero_bias(visit)


@register(
    "delta-orthogonal",
    summary="an orthogonal matrix at the kernel's centre, zeros elsewhere: signals keep their length at any depth",
    reference="Xiao et al. 2018, Dynamical isometry and a mean field theory of CNNs",
    scope="all layers",
    needs_data=False,
    cost=f"{_COST}; a decomposition per layer",
    deviations=(
        "Layers with more inputs than outputs get orthonormal rows (the paper asks for out >= in).",
        "Linear layers get an orthogonal matrix.",
    ),
    revision=3,  # 2: one stream for all groups; 2, 3: another decomposition
)
@dataclass(frozen=True)
class DeltaOrthogonal(_Baseline):
    """Delta-orthogonal convolutions for deep nets without normalization and shortcuts, bias 0.

    Args:
        gain: Factor on the weights; sqrt(2) for ReLU, 1 for linear and critical tanh. Default 1.
    """

    gain: float = 1.0

    def before(self, visit: Visit) -> None:
        """Write the matrix at the centre, zero the bias."""
        layer = visit.layer
        rows, columns = layer.out_channels // layer.groups, layer.shape[1]
        weight = torch.zeros_like(visit.weight_before)
        blocks = orthonormal(visit, rows, columns).reshape(-1, columns)
        weight.view(rows * layer.groups, columns, -1)[:, :, _centre(layer)] = self.gain * blocks
        visit.write(weight)
        zero_bias(visit)


@register(
    "zero",
    summary="all weights zero: for the last layer of a residual branch or a head, never for a whole net",
    reference="Goyal et al. 2017 (zero gamma); Zhang, Dauphin and Ma 2019, Fixup",
    scope="all layers",
    needs_data=False,
    cost=_COST,
)
@dataclass(frozen=True)
class Zero(_Baseline):
    """Zero weights and biases. Name the layers with ``include=``, since a network of zeros does not train.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> hs.initialize(net, method="zero", include="2").changed
        ['2']
    """

    writes_parts: ClassVar[bool] = True

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """All layers, with a warning if that is every layer of the network."""
        if 1 < len([*trace.layers, *trace.parts]) == len(layers):
            report.add_finding(
                "zero: every weight layer is zero, so the network cannot train. Name some with include=."
            )
        return layers

    def before(self, visit: Visit) -> None:
        """Write zeros."""
        visit.write(torch.zeros_like(visit.weight_before))
        zero_bias(visit)
