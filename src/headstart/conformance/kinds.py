"""Checks: precisions, kinds of layers, ties, parametrizations, lazy modules."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from headstart.api import MethodLike, compute, initialize
from headstart.conformance.models import (
    Reference,
    Shared,
    TiedText,
    images,
    stack,
    tied_convolutions,
    tied_linears,
    tokens,
)
from headstart.conformance.runs import attempt, build, contract, knows_some_kernels, refused, run
from headstart.conformance.state import Snapshot, require, require_close, require_equal, weights_of
from headstart.results.report import Report


def _precision(method: MethodLike, dtype: torch.dtype) -> None:
    model = build(Reference).to(dtype).eval()
    try:
        with torch.no_grad():
            model(images(4).to(dtype))
    except RuntimeError:
        return  # this build of torch cannot run such a model
    wide = run(method, build(Reference), images())
    report = run(method, model, images())
    require(report.changed == wide.changed, f"{dtype} changes layers {report.changed}, float32 {wide.changed}")


@contract
def float64(method: MethodLike) -> None:
    """Double-precision models stay so."""
    _precision(method, torch.float64)


@contract
def bfloat16(method: MethodLike) -> None:
    """A bfloat16 model is initialized as a float32 one is."""
    _precision(method, torch.bfloat16)


@contract
def float16(method: MethodLike) -> None:
    """A float16 model is initialized as a float32 one is."""
    _precision(method, torch.float16)


@contract
def mixed_precision(method: MethodLike) -> None:
    """A bfloat16 model with a float32 head keeps both."""
    model = build(Reference).bfloat16()
    model.get_submodule("head").float()
    model.get_submodule("drop").register_forward_hook(lambda module, args, output: output.float())
    run(method, model, images().bfloat16())


def _run(method: MethodLike, model: nn.Module, data: Tensor) -> None:
    """Run; a method that has filters for some kernels only may refuse."""
    if knows_some_kernels(method):
        attempt(method, model, data)
    else:
        run(method, model, data)


@contract
def conv1d(method: MethodLike) -> None:
    """Signals."""
    _run(method, build(lambda: stack(nn.Conv1d(2, 6, 5), nn.Conv1d(6, 4, 4, stride=2))), images(8, 2, 20, dims=1))


@contract
def conv3d(method: MethodLike) -> None:
    """Volumes."""
    model = build(lambda: stack(nn.Conv3d(1, 5, 3), nn.Conv3d(5, 3, (1, 2, 3))))
    _run(method, model, images(8, 1, 7, dims=3))


@contract
def transposed(method: MethodLike) -> None:
    """Transposed convolutions of every dimension, strided, grouped, with output padding."""
    for dims in (1, 2, 3):
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]

        def make(conv: type[nn.Module] = conv, up: type[nn.Module] = up) -> nn.Module:
            wide = up(6, 4, 3, stride=2, groups=2, output_padding=1, padding=1)
            return stack(conv(2, 6, 3), wide, up(4, 3, 4, bias=False))

        _run(method, build(make), images(6, 2, 6, dims=dims))


@contract
def grouped(method: MethodLike) -> None:
    """Grouped convolutions, the first one included."""
    model = build(lambda: stack(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 12, 3, groups=4)))
    run(method, model, images(channels=4))


@contract
def depthwise(method: MethodLike) -> None:
    """Depthwise convolutions, the first one included, with a channel multiplier."""
    model = build(
        lambda: stack(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.Conv2d(6, 4, 1))
    )
    run(method, model, images())


@contract
def dilated(method: MethodLike) -> None:
    """Dilated and strided kernels, even ones and flat ones."""
    model = build(
        lambda: stack(
            nn.Conv2d(3, 6, 3, dilation=2), nn.Conv2d(6, 6, (2, 4), stride=(1, 2), dilation=(3, 1), padding=2)
        )
    )
    run(method, model, images())


@contract
def reflect_padded(method: MethodLike) -> None:
    """Padding by reflection, by repetition, around the edge, and ``same``."""
    model = build(
        lambda: stack(
            nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect", bias=False),
            nn.Conv2d(6, 6, 3, padding=2, padding_mode="replicate"),
            nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular", bias=False),
            nn.Conv2d(6, 4, 4, padding="same"),
        )
    )
    with warnings.catch_warnings():  # torch remarks on `same` for even kernels, whoever calls it
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")
        run(method, model, images())


@contract
def unbatched(method: MethodLike) -> None:
    """A fully convolutional model fed one image without a batch axis works or is refused."""
    attempt(method, build(lambda: stack(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3))), images()[0])


@contract
def inplace_activations(method: MethodLike) -> None:
    """Activations that overwrite a layer's output give the bits of those that do not."""
    found = []
    for inplace in (False, True):
        model = build(lambda: stack(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 4, 3)))
        for module in model:
            if isinstance(module, nn.ReLU):
                module.inplace = inplace
        run(method, model, images())
        found.append(weights_of(model))
    require_equal(found[0], found[1], "activations in place and not")


@contract
def shared_modules(method: MethodLike) -> None:
    """A module that runs three times is written once, at its first use, and the report says so."""
    model = build(Shared)
    report = run(method, model, images())
    require(len([r for r in report.rows if r.name in ("loop", "again")]) == 1, "a shared module has several rows")
    if "loop" in report.changed:
        require("3 times" in " ".join(report.row("loop").notes), "the report does not tell that 'loop' runs 3 times")


def _tied(method: MethodLike, model: nn.Module, data: Tensor, one: str, other: str) -> Report | None:
    report = attempt(method, model, data)
    require(model.get_parameter(f"{one}.weight") is model.get_parameter(f"{other}.weight"), "the tie was cut")
    if report is not None:
        both = {one, other} <= set(report.changed)
        require(not both, f"one weight was written twice, for '{one}' and for '{other}'")
    return report


@contract
def tied_convolution_weights(method: MethodLike) -> None:
    """Two convolutions over one weight: written for the first, and still tied."""
    _tied(method, build(tied_convolutions), images(size=11), "2", "4")


@contract
def tied_linear_weights(method: MethodLike) -> None:
    """Two linear layers over one weight: written for the first, and still tied."""
    _tied(method, build(tied_linears), images(), "2", "4")


@contract
def tied_embedding(method: MethodLike) -> None:
    """A linear layer over an embedding's weight: the embedding, which runs first, owns it, and is written as such."""
    model = build(TiedText)
    before = model.get_parameter("embedding.weight").detach().clone()
    report = _tied(method, model, tokens(), "embedding", "head")
    told = report is not None and ("embedding.weight" in report.other_tensors or "embedding" in report.changed)
    require(told or torch.equal(before, model.get_parameter("embedding.weight")), "the embedding was written")


def _parametrized(method: MethodLike, wrap: Callable[[nn.Module], nn.Module]) -> None:
    plain = build(lambda: stack(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 4, 1, bias=False)))
    # In evaluation mode, since spectral norm changes its weight a little whenever it is read in training mode.
    model = stack(*(wrap(copy.deepcopy(m)) for m in plain if isinstance(m, nn.Conv2d))).eval()
    with torch.no_grad():
        for a, b in zip(plain, model, strict=True):
            if isinstance(a, nn.Conv2d) and isinstance(b.weight, Tensor):
                a.weight.copy_(b.weight)  # spectral norm rescales it
    if _attempt_uncopied(method, model):
        run(method, plain, images())
        with torch.no_grad():
            effective = {
                f"{n}.weight": m.weight.detach() for n, m in model.named_children() if isinstance(m, nn.Conv2d)
            }
        require_close(weights_of(plain), effective, "plain and parametrized weights")


def _attempt_uncopied(method: MethodLike, model: nn.Module) -> bool:
    """As :func:`attempt`, for models that cannot be copied: compute first, which must leave the model alone."""
    before = Snapshot(model)
    try:
        compute(model, images(), method, seed=0)
    except Exception:
        before.require_kept()
        refused(method, model, images())
        return False
    before.require_kept()
    return bool(run(method, model, images()).changed)  # left alone is fine


@contract
def weight_norm(method: MethodLike) -> None:
    """Weight norm (parametrization): the effective weight is that of a plain layer, or the model is refused."""
    _parametrized(method, parametrizations.weight_norm)


@contract
def weight_norm_hook(method: MethodLike) -> None:
    """Weight norm (the older hook): likewise."""

    def wrap(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return torch.nn.utils.weight_norm(module)

    _parametrized(method, wrap)


@contract
def spectral_norm(method: MethodLike) -> None:
    """Spectral norm (parametrization): likewise."""
    _parametrized(method, parametrizations.spectral_norm)


@contract
def spectral_norm_hook(method: MethodLike) -> None:
    """Spectral norm (the older hook): likewise."""

    def wrap(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return torch.nn.utils.spectral_norm(module)

    _parametrized(method, wrap)


@contract
def orthogonal_parametrization(method: MethodLike) -> None:
    """Orthogonal weights, whose parametrization keeps a buffer: likewise."""
    _parametrized(method, parametrizations.orthogonal)


@contract
def lazy_modules(method: MethodLike) -> None:
    """Lazy modules get their shapes and are initialized; ``compute`` leaves them lazy."""

    def make() -> nn.Module:
        return nn.Sequential(
            nn.LazyConv2d(6, 3),
            nn.LazyBatchNorm2d(),
            nn.ReLU(),
            nn.LazyConv2d(6, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(4),
        )

    model = build(make)
    before = Snapshot(model)
    init = compute(model, images(), method, seed=0)
    before.require_kept()
    report = initialize(model, images(), method, seed=0)
    require(init.report is not None and report.changed == init.report.changed, "compute and initialize differ")
    weights = weights_of(model)
    require(len(weights) == len(model.state_dict()), "a module is still lazy")
    require(type(model.get_submodule("0")) is nn.Conv2d, "a lazy module did not become its plain kind")
    require_equal(weights, init.tensors, "compute and initialize on a lazy model")
