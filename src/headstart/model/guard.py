"""Refuse models that cannot be initialized in place, and say how to solve each case."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy as waits

from headstart.errors import HeadstartError, ModelError
from headstart.model.shards import is_sharded

_FSDP2 = "FSDPModule"
_WRAPPERS = {
    "DistributedDataParallel": "hs.initialize(model.module, data) on rank 0 before wrapping, then wrap",
    "DataParallel": "hs.initialize(model.module, data), or initialize before wrapping",
    "FullyShardedDataParallel": "initialize the plain model on rank 0, then wrap it with sync_module_states=True",
    _FSDP2: "initialize the plain model before fully_shard; or compute on an unsharded copy,"
    " init = hs.compute(copy, data), and hs.apply(model, init) on every rank",
}


def unwrap(model: nn.Module) -> nn.Module:
    """Return the eager module behind ``torch.compile``; it owns the same parameters.

    Args:
        model: Any module.

    Returns:
        ``model`` itself, or the module that ``torch.compile`` wrapped.

    Raises:
        ModelError: ``model`` is not an ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The model is a {type(model).__name__}, not a torch.nn.Module.",
            remedy="Pass the module itself: hs.initialize(model, data, method).",
        )
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def check(model: nn.Module, *, sharded: bool = False) -> None:
    """Raise if the parameters of ``model`` cannot be read and written as plain tensors here.

    Args:
        model: Whatever the user passed.
        sharded: Accept parameters that are sharded over processes by DTensor or FSDP2.

    Raises:
        ModelError: The model is scripted, wrapped for data-parallel training, quantized, or has parameters
            on the meta device or sharded over processes.
    """
    for name, module in model.named_modules():
        where = f"'{name}'" if name else "The model"
        kinds = {cls.__name__ for cls in type(module).__mro__}
        for wrapper, remedy in _WRAPPERS.items():
            if wrapper in kinds and not (sharded and wrapper == _FSDP2):
                raise ModelError(f"{where} is wrapped in {wrapper}.", remedy=f"Instead: {remedy}.")
        if "ScriptModule" in kinds:
            raise ModelError(
                f"{where} is a TorchScript module ({type(module).__name__}), whose layers cannot be visited.",
                remedy="Initialize the eager model first, then script or trace it.",
            )
        if "quantized" in type(module).__module__.split("."):
            raise ModelError(
                f"{where} is quantized ({type(module).__name__}).",
                remedy="Initialize the floating-point model first, then quantize it.",
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        # Not by isinstance: before torch 2.5 parameters of every subclass of Tensor pass for UninitializedParameter.
        if waits(tensor):
            continue
        if tensor.is_inference() and isinstance(tensor, nn.Parameter):
            raise ModelError(
                f"Parameter '{name}' is an inference tensor, which cannot be written or trained.",
                remedy="Construct the model outside of torch.inference_mode().",
            )
        if tensor.is_meta:
            raise ModelError(
                f"Parameter '{name}' is on the meta device and has no storage.",
                remedy="Materialize it first: hs.materialize(model, device='cpu'). It gives every module memory and"
                " its own default start, and names the tensors that have none.",
            )
        if is_sharded(tensor) and not sharded:
            raise ModelError(
                f"Parameter '{name}' is a DTensor, sharded over processes.",
                remedy="Initialize the plain model before it is sharded; or compute on an unsharded copy,"
                " init = hs.compute(copy, data), and hs.apply(model, init) on every rank.",
            )
        if tensor.is_quantized:
            raise ModelError(
                f"Parameter '{name}' is quantized.",
                remedy="Initialize the floating-point model first, then quantize it.",
            )


def check_not_capturing() -> None:
    """Raise while a CUDA graph is being captured: a start reads numbers from the device, and a graph cannot.

    Raises:
        HeadstartError: A CUDA graph is being captured.
    """
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise HeadstartError(
            "A CUDA graph is being captured, and a start cannot be part of one: it reads numbers from the device.",
            remedy="Call it before torch.cuda.graph(...).",
        )


def is_lazy(model: nn.Module) -> bool:
    """Tell whether any parameter or buffer still has no shape (``nn.Lazy...`` modules)."""
    return any(map(is_lazy_itself, model.modules()))


def is_lazy_itself(module: nn.Module) -> bool:
    """Tell the same of the module's own parameters and buffers only."""
    return any(waits(t) for t in [*module._parameters.values(), *module._buffers.values()] if t is not None)
