"""Within-layer normalization (Krähenbühl, Doersch, Donahue and Darrell 2016, algorithm 1).

Every layer is filled and then rescaled so that each pre-activation channel has mean beta and deviation 1 on
the data. All layers are done in one forward pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from headstart.method import Method
from headstart.moments import Moments
from headstart.plan import Plan
from headstart.registry import register
from headstart.walk import Visit
from headstart.weights import Layer

DEAD = 1e-8  # of the layer's deviation: below, a channel counts as constant


def leave_normed(
    method: Method, layers: Sequence[Layer], plan: Plan, before_norm: str, output_layer: str
) -> list[Layer]:
    """Drop layers that a normalization follows, and output layers, where the options say so."""
    chosen, normed = [], 0
    for layer in layers:
        norm = plan.norm_after.get(layer.name)
        if norm is not None and before_norm == "skip":
            plan.skip(layer, f"'{norm}' normalizes its output")
            normed += 1
        elif layer.name in plan.outputs and output_layer == "keep" and len(plan.layers) > 1:
            plan.skip(layer, "an output layer, whose scale sets the first loss")
        else:
            chosen.append(layer)
    if normed:
        plan.find(f"{method.info.name}: {normed} layers whose output a normalization takes were left as they are.")
    return chosen


def constant_channels(moments: Moments, dtype: torch.dtype) -> Tensor:
    """Which channels do not vary over the batch beyond the rounding of ``dtype``, as a mask."""
    std = moments.var.sqrt()
    finfo = torch.finfo(dtype)
    # A half-precision value is rounded once; float32 sums round at every term.
    rounding = finfo.eps if finfo.bits == 16 else 8 * finfo.eps
    return (std <= DEAD * math.sqrt(float(moments.var.mean()))) | (std <= rounding * moments.mean.abs())


def leave_constant(visit: Visit, dead: Tensor) -> bool:
    """Leave a layer none of whose channels vary, say so, and return whether that was the case."""
    if not bool(dead.all()):
        return False
    visit.leave("its output does not vary over the batch")
    visit.find(
        f"{visit.method.info.name}: the output of '{visit.layer.name}' is constant over the batch, so it was not"
        " rescaled; layers before it, or the data, have lost all variation."
    )
    return True


@register(
    "within-layer",
    summary="each pre-activation channel brought to mean beta and deviation 1 on the data, in one pass",
    reference="Krähenbühl, Doersch, Donahue and Darrell 2016, Data-dependent Initializations of CNNs, algorithm 1",
    scope="all layers",
    needs_data=True,
    cost="one forward pass of the batch; moments in place, no copies of activations",
    presets=("paper",),
    deviations=(
        "beta is 0 by default (the authors' command line uses 0.1: within-layer:paper).",
        "Gaussian weights start at 1 / sqrt(fan_in) instead of 1, the same after normalization, so that half"
        " precision does not overflow.",
        "Layers followed by a normalization are left alone unless before_norm='normalize'.",
        "A layer without bias cannot be shifted: its filters lose their component along the mean input patch"
        " instead, which has the same effect (center=False leaves the mean).",
        "Dropout is off while measuring; a constant channel is scaled by the layer's deviation and reported.",
    ),
)
@dataclass(frozen=True)
class WithinLayer(Method):
    """Fill each layer and divide every output channel by its deviation; the bias moves its mean to ``beta``.

    The idea: when all inputs of a layer have the same second moment, all its weights learn at the same rate,
    and no signal dies or blows up on the way. ``W <- W / s``, ``b <- beta - mean / s``.

    Args:
        fill: ``"gaussian"`` draws new weights, ``"keep"`` calibrates those that are there.
        beta: Mean of every channel afterwards, for layers with a bias.
        per: ``"channel"``, or ``"layer"`` for one deviation per layer.
        before_norm: ``"skip"`` leaves layers that a normalization follows, ``"normalize"`` treats them too.
        output_layer: ``"normalize"`` or ``"keep"`` for layers whose output the model returns.
        center: Let the filters of a bias-free layer lose the mean patch (with ``fill="gaussian"`` only).

    Raises:
        HeadstartError: Fewer than 8 values per channel, or a weight that cannot be rescaled.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5))
        >>> x = torch.randn(256, 20)
        >>> _ = hs.initialize(net, x, hs.WithinLayer(beta=0.1))
        >>> torch.allclose(net(x).std(0, correction=0), torch.ones(5), atol=1e-3)
        True
        >>> torch.allclose(net(x).mean(0), torch.full((5,), 0.1), atol=1e-3)
        True
    """

    fill: str = "gaussian"
    beta: float = 0.0
    per: str = "channel"
    before_norm: str = "skip"
    output_layer: str = "normalize"
    center: bool = True

    def __post_init__(self) -> None:
        self.check_choice("fill", "gaussian", "keep")
        self.check_choice("per", "channel", "layer")
        self.check_choice("before_norm", "skip", "normalize")
        self.check_choice("output_layer", "normalize", "keep")
        ok = isinstance(self.beta, (int, float)) and math.isfinite(self.beta)
        self.check(ok, f"beta={self.beta!r} is not a number", "Pass a finite number, such as 0 or 0.1")

    @classmethod
    def paper(cls, **options: float | str | bool) -> WithinLayer:
        """The authors' command line: Gaussian fill, every layer, beta 0.1, no centring of weights."""
        return cls(**{"beta": 0.1, "before_norm": "normalize", "center": False, **options})  # type: ignore[arg-type]

    def select(self, layers: Sequence[Layer], plan: Plan) -> Sequence[Layer]:
        """All layers but those that the options leave alone."""
        return leave_normed(self, layers, plan, self.before_norm, self.output_layer)

    def before(self, visit: Visit) -> None:
        """Draw the weights."""
        if self.fill == "keep":
            return
        weight = visit.normal_weight(1 / math.sqrt(math.prod(visit.layer.shape[1:])))
        if visit.bias_free and self.center:
            remove_mean_patch(visit, weight)
        bias = visit.bias
        visit.write(weight, None if visit.bias_free or bias is None else torch.zeros_like(bias))

    def after(self, visit: Visit) -> None:
        """Divide by the deviation and shift to beta."""
        moments = visit.moments
        assert visit.output is not None
        dead = constant_channels(moments, visit.output.dtype)
        if leave_constant(visit, dead):
            return
        std, layer_std = moments.var.sqrt(), math.sqrt(float(moments.var.mean()))
        if bool(dead.any()):
            visit.note(f"{int(dead.sum())} constant channels, scaled by the layer's deviation")
            visit.find(
                f"{self.info.name}: {int(dead.sum())} channels of '{visit.layer.name}' are constant on the batch."
            )
        scale = 1 / torch.where(dead, layer_std, std if self.per == "channel" else torch.full_like(std, layer_std))
        if not visit.bias_free:
            visit.affine(scale, self.beta - moments.mean * scale)
            return
        visit.affine(scale, keep_bias=True)  # frozen, if there is one
        rest = float(visit.moments.mean.abs().max())
        if rest > 1e-3:
            visit.note(f"no bias to shift: channel means up to {rest:.2g} remain")


def remove_mean_patch(visit: Visit, weight: Tensor) -> None:
    """Take from every filter, in place, its component along the mean input patch: output means become zero."""
    assert visit.input is not None
    if math.prod(visit.layer.shape[1:]) < 2:
        visit.note("one weight per filter: its mean cannot be removed")
        return
    patch = mean_patch(visit.layer, visit.input).to(weight)  # (groups, fan)
    patch = F.normalize(patch, dim=1, eps=torch.finfo(weight.dtype).tiny)
    for filters, direction in zip(weight.flatten(1).chunk(visit.layer.groups), patch, strict=True):
        filters.addr_(filters @ direction, direction, alpha=-1)


def mean_patch(layer: Layer, value: Tensor) -> Tensor:
    """The mean input patch that the filters of each group see, ``(groups, in/groups * kernel)``.

    Every tap of the kernel sees the batch-mean input at a grid of places: stride, dilation and padding say which.
    """
    module = layer.module
    wide = value if value.dtype in (torch.float32, torch.float64) else value.float()
    if layer.kind == "linear":
        return wide.reshape(-1, wide.shape[-1]).mean(0, keepdim=True)
    dims = len(layer.kernel)
    mean = wide.mean(0) if value.dim() == dims + 2 else wide  # (in, *space)
    if layer.kind == "conv":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        mean = F.pad(mean.unsqueeze(0), module._reversed_padding_repeated_twice, mode=mode).squeeze(0)
        sizes = zip(mean.shape[1:], layer.kernel, module.stride, module.dilation, strict=True)
        axes = [_seen(size, k, stride, dilation) for size, k, stride, dilation in sizes]
        outputs = 1
    else:
        geometry = (layer.kernel, module.stride, module.dilation, module.padding, module.output_padding)
        pairs = [_reaching(*sizes) for sizes in zip(mean.shape[1:], *geometry, strict=True)]
        axes = [slices for slices, _ in pairs]
        outputs = math.prod(size for _, size in pairs)
    taps = []
    for place in itertools.product(*axes):
        part = mean[(slice(None), *place)].flatten(1)
        taps.append(part.mean(1) if layer.kind == "conv" else part.sum(1) / outputs)
    return torch.stack(taps, 1).reshape(layer.groups, -1)  # (in, taps), channels of a group in a row


def _seen(size: int, kernel: int, stride: int, dilation: int) -> list[slice]:
    """Where each tap of a convolution looks along an axis of the padded input."""
    last = (size - (kernel - 1) * dilation - 1) // stride * stride  # start of the last window
    return [slice(k * dilation, k * dilation + last + 1, stride) for k in range(kernel)]


def _reaching(
    size: int, kernel: int, stride: int, dilation: int, padding: int, output_padding: int
) -> tuple[list[slice], int]:
    """Which inputs of a transposed convolution each tap carries into the output along an axis, and its size."""
    outputs = (size - 1) * stride - 2 * padding + (kernel - 1) * dilation + output_padding + 1
    slices = []
    for k in range(kernel):
        offset = padding - k * dilation  # input i lands on i * stride - offset
        first = max(0, -(-offset // stride))
        last = min(size - 1, (outputs - 1 + offset) // stride)
        slices.append(slice(first, max(first, last + 1)))
    return slices, outputs
