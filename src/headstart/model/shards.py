"""Parameters that are sharded over processes (DTensor, FSDP2). Each process writes its part."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, so that this process holds only a part of it."""
    if type(tensor) in (Tensor, nn.Parameter):  # a look into it takes time
        return False
    return type(tensor).__name__ == "DTensor" or type(tensor.data).__name__ == "DTensor"


def reshard(model: nn.Module) -> None:
    """Let FSDP2 drop the parameters that it has gathered: a write to them would be lost."""
    for module in model.modules():
        if any(cls.__name__ == "FSDPModule" for cls in type(module).__mro__):
            module.reshard()  # type: ignore[operator]


@torch.no_grad()
def own_part(target: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a sharded parameter that this process holds, and the values that belong there.

    Args:
        target: A DTensor.
        value: All values of the parameter, the same on every process.

    Returns:
        The local tensor, which shares the parameter's memory, and its new values. Nothing is sent.
    """
    try:
        tensors: Any = importlib.import_module("torch.distributed.tensor")
        replicate = tensors.Replicate
    except (ImportError, AttributeError):  # its place before torch 2.5
        tensors = importlib.import_module("torch.distributed._tensor")
        replicate = tensors.Replicate
    mesh = target.device_mesh
    local = target.to_local()
    whole = tensors.DTensor.from_local(value.to(local.device), mesh, [replicate()] * mesh.ndim, run_check=False)
    return local, whole.redistribute(mesh, target.placements).to_local()
