"""Models built on the meta device: give them memory, and the default start of their modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy as waits

from headstart import rng
from headstart.errors import ModelError

_RESETS = ("reset_parameters", "_reset_parameters")
_BLANK = {torch.bool: True, torch.uint8: 255}


def materialize(model: nn.Module, device: str | torch.device = "cpu", *, seed: int | torch.Generator = 0) -> list[str]:
    """Give a model on the meta device memory, and let its modules initialize themselves.

    ``model.to_empty`` alone leaves arbitrary values in that memory, also in norms, embeddings and buffers. This calls
    ``reset_parameters`` of every module that has it, else ``_reset_parameters``; inner modules come first, as in
    constructors. Tied tensors stay tied. Tensors that are not on the meta device keep their values.

    Args:
        model: Has parameters or buffers on the meta device; changed in place. It gets new parameters, so build its
            optimizer afterwards.
        device: The device of the memory.
        seed: The draws depend on it alone; the global random states do not change.

    Returns:
        The names of the tensors that no such method has written, such as class tokens, position tables, and weights
        behind parametrizations. They hold NaN, or the most negative number of their type (bytes 255, booleans True), so
        that nobody takes them for a start. Write them, call the model's own ``init_weights``, or load a checkpoint.

    Raises:
        ModelError: A module's reset failed; the model is on the meta device again.

    Cost: the memory of the model, once.

    Example:
        >>> with torch.device("meta"):
        ...     model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> materialize(model)
        []
        >>> model[1].running_var.tolist() == [1.0] * 8
        True
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"{type(model).__name__} is not a torch.nn.Module.", remedy="Pass the model itself.")
    old: dict[int, Tensor] = {}
    new: dict[int, Tensor] = {}
    places: list[tuple[nn.Module, str, Tensor]] = []
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and not waits(tensor) and tensor.is_meta:
                places.append((module, name, tensor))
                old[id(tensor)] = tensor
                if id(tensor) not in new:
                    new[id(tensor)] = _memory(tensor, device)
    _put(places, lambda tensor: new[id(tensor)])
    try:
        with rng.untouched(rng.seed_of(seed)), torch.no_grad():
            _reset(model, {id(t) for t in new.values()})
    except BaseException:
        _put(places, lambda tensor: old[id(tensor)])
        raise
    ours = {id(t) for t in new.values()}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in tensors if id(tensor) in ours and _holds_blanks(tensor)]


def _memory(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Memory for a tensor, filled with values that cannot pass for a start."""
    fresh = torch.empty_like(tensor.detach(), device=device).fill_(_blank(tensor.dtype))
    made = nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh
    made.__dict__.update(tensor.__dict__)
    return made


def _blank(dtype: torch.dtype) -> Any:
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return _BLANK[dtype] if dtype in _BLANK else torch.iinfo(dtype).min


def _holds_blanks(tensor: Tensor) -> bool:
    blank = _blank(tensor.dtype)
    found = tensor.isnan() if blank != blank else tensor == blank
    return bool(found.any()) if blank != blank else tensor.numel() > 0 and bool(found.all())


def _put(places: list[tuple[nn.Module, str, Tensor]], choose: Callable[[Tensor], Tensor]) -> None:
    for module, name, tensor in places:
        setattr(module, name, choose(tensor))  # recurrent layers keep a list of their weights, and follow


def _reset(model: nn.Module, fresh: set[int]) -> None:
    """Let modules initialize themselves, inner ones first. Tensors that existed before keep their values."""
    for name, module in reversed(list(model.named_modules())):
        inside = [*module.parameters(), *module.buffers()]
        reset = next((f for f in (getattr(module, n, None) for n in _RESETS) if callable(f)), None)
        if reset is None or not any(id(t) in fresh for t in inside):
            continue
        kept = [(t, t.detach().clone()) for t in inside if id(t) not in fresh and not waits(t)]
        try:
            reset()
        except Exception as error:
            raise ModelError(
                f"{reset.__name__} of '{name}' ({type(module).__name__}) failed: {type(error).__name__}: {error}.",
                remedy="Build the model on a device, or write its tensors after model.to_empty(device=...).",
            ) from error
        for tensor, values in kept:
            tensor.copy_(values)
