"""The only module that writes parameters.

Weights are read and written in one *canonical* layout, ``(out, in/groups, *kernel)``, whatever the layer
stores: transposed convolutions keep ``(in, out/groups, *kernel)``, weight norm keeps a length and a
direction. Everything is computed in float32 or better, cast once, and read back. If the value read back
differs, an error is raised, and ``transaction.Transaction`` restores the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from headstart.errors import WriteError
from headstart.model.later import Later, checked
from headstart.model.layer import CONVS as CONVS
from headstart.model.layer import LAYERS as LAYERS
from headstart.model.layer import TRANSPOSED as TRANSPOSED
from headstart.model.layer import Layer as Layer
from headstart.model.tensor_state import HeldTensor
from headstart.numerics.fetching import Values
from headstart.restoring import put_back


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of statistics and linear algebra: double stays double, all else is single. Complex likewise."""
    if dtype.is_complex:
        return torch.complex128 if dtype == torch.complex128 else torch.complex64
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_canonical(layer: Layer, weight: Tensor) -> Tensor:
    """Reorder a stored weight to ``(out, in/groups, *kernel)``."""
    if layer.form != "plain":
        return weight.mT if layer.form == "transposed" else weight.flatten(1)
    if layer.kind != "transposed":
        return weight
    g = layer.groups
    grouped = weight.unflatten(0, (g, weight.shape[0] // g))  # (g, in/g, out/g, *k)
    return grouped.transpose(1, 2).flatten(0, 1)


def from_canonical(layer: Layer, weight: Tensor) -> Tensor:
    """Inverse of :func:`to_canonical`."""
    if layer.form != "plain":
        return weight.mT if layer.form == "transposed" else weight.view_as(layer.stored)
    if layer.kind != "transposed":
        return weight
    grouped = weight.unflatten(0, (layer.groups, -1))  # (g, out/g, in/g, *k)
    return grouped.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def read(layer: Layer) -> Tensor:
    """Return a copy of the effective weight, canonical, in working precision, on its device."""
    weight = layer.stored.detach()
    return to_canonical(layer, weight).to(working_dtype(weight.dtype), copy=True).contiguous()


@torch.no_grad()
def look(layer: Layer) -> Tensor:
    """Return the effective weight, canonical, without a copy where possible. It must not be written."""
    return to_canonical(layer, layer.stored.detach())


def is_plain(layer: Layer) -> bool:
    """Whether the weight is the parameter itself, not computed by a parametrization or a hook."""
    return layer.parameter in layer.module._parameters


def in_place(layer: Layer) -> Tensor | None:
    """The parameter itself, if a canonical weight in working precision can be drawn straight into it."""
    if not is_plain(layer) or layer.kind == "transposed" or layer.form != "plain":
        return None
    w = layer.stored  # written without gradients
    return w if w.dtype == working_dtype(w.dtype) and w.is_contiguous() and w.device.type == "cpu" else None


def require_finite(layer: Layer, weight: Tensor) -> None:
    """Raise if a value is NaN or infinite. One fast sum; an exact count only if the sum is not finite.

    Raises:
        WriteError: It says how many such values there are.
    """
    if torch.isfinite(weight.sum()):
        return
    bad = int((~torch.isfinite(weight)).sum())
    if bad:
        raise WriteError(
            f"The new weight of {layer.where} has {bad} values that are not finite.",
            remedy="Check the calibration data for extreme values; nothing was changed.",
        )


@torch.no_grad()
def read_bias(layer: Layer) -> Tensor | None:
    """Return a copy of the bias in working precision, or None."""
    bias = layer.bias
    return None if bias is None else bias.detach().to(working_dtype(bias.dtype), copy=True)


def look_bias(layer: Layer) -> Tensor | None:
    """Return the bias in working precision, without a copy where possible (it must not be written), or None."""
    bias = layer.bias
    return bias if bias is None or bias.dtype == working_dtype(bias.dtype) else read_bias(layer)


@torch.no_grad()
def write(layer: Layer, weight: Tensor, *, finite: bool = True, later: Later | None = None) -> None:
    """Write a canonical weight, through its parametrization if it has one, and check what reads back.

    Args:
        layer: The layer to write.
        weight: ``(out, in/groups, *kernel)``.
        finite: Check that all values are finite; a caller that has checked them saves a pass.
        later: Where to leave the check of what reads back; None checks it now.

    Raises:
        WriteError: Shape or values are wrong, or the parametrization returns other values.
    """
    if tuple(weight.shape) != layer.shape:
        raise WriteError(f"A weight of shape {tuple(weight.shape)} does not fit {layer.where}.")
    if finite:
        require_finite(layer, weight)
    stored = from_canonical(layer, weight)
    if parametrize.is_parametrized(layer.module, layer.parameter):
        _write_parametrized(layer, stored)
    elif is_plain(layer):
        target = layer.stored
        if stored.data_ptr() != target.data_ptr():
            target.copy_(stored)
        if target.dtype == stored.dtype:
            return  # nothing between the value and its place that could change it
    else:
        _write_hooked(layer, stored)
    _read_back(layer, weight, later)


@torch.no_grad()
def write_bias(layer: Layer, bias: Tensor, later: Later | None = None) -> None:
    """Write a bias that must be finite; ``later`` is where to leave that check, None checks it now."""
    target = layer.bias
    if not isinstance(layer.bias_parameter, nn.Parameter) or target is None or target.shape != bias.shape:
        shape = None if target is None else tuple(target.shape)
        raise WriteError(
            f"The bias of {layer.where} (shape {shape}) cannot take values of shape {tuple(bias.shape)}.",
            remedy="Exclude the layer or remove the parametrization of its bias.",
        )

    checked(
        torch.view_as_real(bias).flatten() if bias.is_complex() else bias,
        lambda values: _require_finite_bias(layer, values),
        later,
    )
    if bias is not target:  # already written in place
        target.copy_(bias)


@torch.no_grad()
def scale(factors: Sequence[tuple[Layer, float]]) -> None:
    """Multiply whole weights by one number each, in one operation per device and format.

    Args:
        factors: Layers whose weights are plain parameters, each once, with their factors.
    """
    _multiply([(layer.stored, factor) for layer, factor in factors])


@torch.no_grad()
def scale_bias(factors: Sequence[tuple[Layer, float]]) -> None:
    """Multiply biases by one number each, in the same way."""
    _multiply([(bias, factor) for layer, factor in factors if (bias := layer.bias) is not None])


def _multiply(factors: Sequence[tuple[Tensor, float]]) -> None:
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, float]]] = {}
    for tensor, factor in factors:
        groups.setdefault((tensor.device, tensor.dtype), []).append((tensor, factor))
    for group in groups.values():
        torch._foreach_mul_([tensor for tensor, _ in group], [factor for _, factor in group])


def _require_finite_bias(layer: Layer, values: Values) -> None:
    if not np.isfinite(values).all():
        raise WriteError(f"The new bias of {layer.where} is not finite; nothing was changed.")


@torch.no_grad()
def store(model: nn.Module, values: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Write raw parameters and buffers: all of them, or none.

    Args:
        model: Owns the tensors.
        values: Name -> the tensor to write and its new values, of the same shape.

    Raises:
        WriteError: A value does not fit the precision of its tensor.
    """
    held = [HeldTensor(name, target) for name, (target, _) in values.items()]
    try:
        for name, (target, value) in values.items():
            try:
                target.copy_(value)
            except RuntimeError as error:
                raise WriteError(f"'{name}' cannot be written: {str(error).partition('.')[0]}.") from error
            if target.dtype != value.dtype and not torch.isfinite(target).all():
                raise WriteError(
                    f"The values of '{name}' do not fit into {target.dtype} (largest {float(value.abs().max()):.3g}).",
                    remedy="Use a wider precision, or compute the initialization for this one.",
                )
    except BaseException as error:
        put_back(((h.name, h.restore) for h in held), error)
        raise
    finally:
        for module in model.modules():
            refresh(module)


def _write_parametrized(layer: Layer, stored: Tensor) -> None:
    chain = layer.module.parametrizations.weight
    value: Tensor | tuple[Tensor, ...] = stored.to(layer.stored.dtype)
    for step in reversed(list(chain)):
        inverse = getattr(step, "right_inverse", None)
        if inverse is None:
            raise WriteError(
                f"The weight of {layer.where} is parametrized by {type(step).__name__}, which has no right_inverse.",
                remedy=f"Give it one, initialize before parametrizing, or exclude='{layer.name}'.",
            )
        buffers = dict(step._buffers)
        try:
            value = inverse(*value) if isinstance(value, tuple) else inverse(value)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise WriteError(
                f"The weight of {layer.where} cannot be written through {type(step).__name__}: {error}.",
                remedy=f"Initialize before parametrizing, or exclude='{layer.name}'.",
            ) from error
        for name, buffer in buffers.items():  # some inverses keep part of the weight in a new buffer
            if buffer is not None and step._buffers[name] is not buffer:
                buffer.copy_(step._buffers[name])
                step._buffers[name] = buffer
    if isinstance(value, Tensor):
        chain.original.copy_(value)
    else:
        for i, part in enumerate(value):
            getattr(chain, f"original{i}").copy_(part)


def _write_hooked(layer: Layer, stored: Tensor) -> None:
    """Write through the older hook form of weight norm; other hooks that compute the weight are refused."""
    module = layer.module
    hook = _weight_norm_hook(module)
    if hook is None:
        raise WriteError(
            f"The weight of {layer.where} is computed by a hook and cannot be set.",
            remedy=f"Initialize before spectral_norm or pruning is applied, or exclude='{layer.name}'.",
        )
    g, v = module._parameters["weight_g"], module._parameters["weight_v"]
    assert g is not None
    assert v is not None
    stored = stored.to(v.dtype)
    v.copy_(stored)
    g.copy_(torch.norm_except_dim(stored, 2, hook.dim))
    refresh(module)


def _weight_norm_hook(module: nn.Module) -> WeightNorm | None:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            return hook
    return None


def refresh(module: nn.Module) -> None:
    """Recompute the plain ``weight`` attribute that the older weight norm keeps beside its parameters."""
    hook = _weight_norm_hook(module)
    if hook is not None:
        module.weight = hook.compute_weight(module)


def _read_back(layer: Layer, wanted: Tensor, later: Later | None) -> None:
    got = read(layer)
    wanted, dtype = wanted.to(got.dtype), layer.stored.dtype

    def require(values: Values) -> None:
        error, size, largest = values.tolist()
        if error <= max(16 * torch.finfo(dtype).eps * size, torch.finfo(dtype).tiny):  # not where something is NaN
            return
        how = _parametrization_names(layer.module)
        raise WriteError(
            f"The weight of {layer.where} reads back different from what was written"
            f" (largest entry {largest:.3g} instead of {size:.3g}{how}).",
            remedy="Spectral norm and other constraints fix the scale of a weight: initialize before applying"
            f" them, or exclude='{layer.name}'.",
        )

    checked([torch.linalg.vector_norm(t, math.inf) for t in (got - wanted, wanted, got)], require, later)


def _parametrization_names(module: nn.Module) -> str:
    if not parametrize.is_parametrized(module, "weight"):
        return ""
    names = [type(p).__name__.lstrip("_") for p in module.get_submodule("parametrizations.weight").children()]
    return f"; parametrized by {', '.join(names)}"


def weight_layers(model: nn.Module) -> list[Layer]:
    """All weight layers under their first qualified name, in registration order."""
    return [Layer(name, m) for name, m in model.named_modules() if isinstance(m, LAYERS)]
