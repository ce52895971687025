"""Batch norms that were hardly trained are made to act as they will in training.

In evaluation mode a fresh batch norm passes its input through, so the layers behind it would be fitted to a
scale that they never see in training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from headstart import rng
from headstart.model.hooks import hooked
from headstart.model.tensor_state import restored
from headstart.model.weights import LAYERS
from headstart.numerics.fetching import fetch
from headstart.numerics.moments import Moments, channel_moments

CONSTRUCTORS_SHARE = 0.1
CHANNEL_NORMS = (_NormBase,)
NORMS = (*CHANNEL_NORMS, nn.LayerNorm, nn.GroupNorm, *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []))
_LOUDER = 4.0  # factor on a probe that a normalization takes away again
_SAME = 0.02  # of the output's deviation: what its epsilon may leave of the factor


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module normalizes activations (local response normalization does not set a scale).

    A block that holds weight layers is not a norm, whatever its name (ConvNormAct, PreNorm): the norm inside it counts.
    """
    name = type(module).__name__.lower()
    named = "norm" in name and "response" not in name and "parametriz" not in type(module).__module__
    return named and not any(isinstance(m, LAYERS) for m in module.modules())


def may_normalize(module: nn.Module) -> bool:
    """Tell whether :func:`normalizes` should probe a module: it is not one of torch's, and holds no weight layer."""
    if isinstance(module, NORMS):
        return True
    foreign = not type(module).__module__.startswith("torch.nn.")
    return foreign and not any(isinstance(m, LAYERS) for m in module.modules())


def normalizes(module: nn.Module, value: Any) -> bool:
    """Tell by a probe whether a module normalizes: it removes the scale of its input, and it mixes values.

    A name is not evidence. A module called ``Normalize`` may subtract and divide by fixed numbers, which sets no scale;
    a norm may have any other name. The probe runs on a copy, in its present mode and in training mode.

    Args:
        module: A module for which :func:`may_normalize` holds.
        value: The input that it is called with.
    """
    if isinstance(module, NORMS) or {"running_mean", "running_var"} <= module._buffers.keys():  # a frozen batch norm
        return True
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() < 4:
        return False
    noise = torch.Generator().manual_seed(0)
    probe = torch.randn(value.shape, generator=noise).to(value)
    half = (torch.rand(value.shape, generator=noise) < 0.5).to(value.device)
    for training in (False, True):
        try:
            with rng.untouched(0), torch.no_grad():
                tried = copy.deepcopy(module).train(training)
                for part in tried.modules():
                    part.training &= "drop" not in type(part).__name__.lower()
                first, louder, mixed = (
                    tried(x.clone()) for x in (probe, _LOUDER * probe, torch.where(half, 3 * probe, probe))
                )
                found = all(isinstance(y, Tensor) and y.shape == value.shape for y in (first, louder, mixed))
                slack = _SAME * float(first.float().std(correction=0)) if found else 0.0
        except Exception:  # a module of several inputs, or of state that this value does not fit
            return is_norm(module)
        if slack > 0 and bool((louder - first).abs().max() <= slack):
            return bool((mixed - first)[~half].abs().max() > slack)
    return False


def fresh_batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Batch norms whose running statistics are mostly those of the constructor, by qualified name.

    A shape check or a summary may run a batch or two through a new model in training mode. With the usual momentum
    the constructor's values then still have the largest weight; after 22 batches it is below a tenth.
    """
    norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    counted = [m.num_batches_tracked for m in norms.values() if m.num_batches_tracked is not None]
    counts = iter(fetch(counted))
    batches = {n: 0 if m.num_batches_tracked is None else int(next(counts)[0]) for n, m in norms.items()}
    # Old checkpoints have no count, but have statistics.
    untouched = _untouched([m for n, m in norms.items() if batches[n] == 0])
    return {n: m for n, m in norms.items() if (next(untouched) if batches[n] == 0 else _is_fresh(m, batches[n]))}


def _is_fresh(norm: _BatchNorm, batches: int) -> bool:
    return norm.momentum is not None and (1 - norm.momentum) ** batches > CONSTRUCTORS_SHARE


def never_run(norm: _BatchNorm) -> bool:
    """Tell whether a batch norm's running statistics, if it has any, are exactly the constructor's."""
    return norm.running_mean is None or norm.running_var is None or next(_untouched([norm]))


def _untouched(norms: Sequence[_BatchNorm]) -> Iterator[bool]:
    """For each norm, whether its running statistics are the constructor's; the device is read once for all."""
    found = iter(fetch([b for m in norms for b in (m.running_mean, m.running_var) if b is not None]))
    for mean, var in zip(found, found, strict=True):
        yield not mean.any() and bool((var == 1).all())


@contextmanager
def batch_statistics(model: nn.Module, known: dict[str, Moments]) -> Iterator[None]:
    """Give fresh batch norms the statistics of the batch as running statistics, each when data reaches it.

    This is much faster than training mode, and has no side effects on other processes. The running statistics
    are restored afterwards.

    Args:
        model: In evaluation mode.
        known: Moments of inputs that are already measured, by the norm's name; looked up when the norm runs.
    """
    fresh = fresh_batch_norms(model)

    def enter(name: str, args: tuple[Any, ...], kwargs: Any) -> None:
        norm = fresh[name]
        value = args[0] if args and isinstance(args[0], Tensor) else None
        if value is None or value.dim() < 2 or value.shape[1] != norm.num_features:
            return  # its own error will be clearer
        moments = known.pop(name, None) or channel_moments(value, 1)
        if moments.count > 1:
            _set(norm.running_mean, moments.mean)
            _set(norm.running_var, moments.var)

    with hooked(fresh.items(), enter), settled(fresh.values()):
        yield


@contextmanager
def settled(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Restore the running statistics of batch norms at the end."""
    kept = [(m, n, getattr(m, n)) for m in norms for n in ("running_mean", "running_var")]
    with restored((f"{type(m).__name__}.{n}", b) for m, n, b in kept if b is not None):
        yield


def _set(buffer: Tensor | None, value: Tensor) -> None:
    assert buffer is not None
    with torch.no_grad():
        buffer.copy_(value)


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """Put fresh batch norms in training mode, for passes whose gradients should flow through the statistics.

    Flags and running statistics are restored afterwards.
    """
    fresh = [m for m in fresh_batch_norms(model).values() if not isinstance(m, nn.SyncBatchNorm)]
    flags = [(m, m.training) for m in fresh]
    with restored((f"{type(m).__name__}.{n}", b) for m in fresh for n, b in m.named_buffers()):
        for module in fresh:
            module.training = True
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training
