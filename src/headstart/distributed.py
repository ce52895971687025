"""One initialization for all processes of a group: one process computes it and sends it to the others in one broadcast.

Methods themselves do not communicate. Call this on the plain model, before it is wrapped or sharded.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch import Tensor, nn

from headstart import api, rng
from headstart.api import MethodLike
from headstart.errors import HeadstartError, ModelError
from headstart.model import guard
from headstart.model.inputs import GetInputs, Mask
from headstart.model.selection import Selection
from headstart.model.sparse import MEMORY_LIMIT
from headstart.model.weights import store
from headstart.results.report import Report


def initialize(
    model: nn.Module,
    data: Any = None,
    method: MethodLike = "auto",
    *,
    seed: int | torch.Generator = 0,
    include: Selection = None,
    exclude: Selection = None,
    samples: int | None = None,
    batch_size: int | None = None,
    get_inputs: GetInputs | None = None,
    mask: Mask = None,
    memory_limit: int = MEMORY_LIMIT,
    src: int = 0,
    group: Any = None,
) -> Report:
    """Initialize a model on one rank and give every rank the same bits, or raise the same error on all of them.

    Every rank of the group calls it with the same model; its values may differ. Rank ``src`` runs
    :func:`headstart.initialize`; the others wait and never touch their ``data``. All parameters and
    buffers are then those of ``src``, so ranks agree even if their constructors drew different values.
    Without a process group it is :func:`headstart.initialize`, so a script also runs on its own.

    Args:
        model: The plain model, before ``DistributedDataParallel``, ``FSDP`` or ``fully_shard``.
        data: As for :func:`headstart.initialize`; used on ``src`` only.
        method: Likewise.
        seed: Likewise. A generator is advanced by one draw on every rank.
        include: Likewise.
        exclude: Likewise.
        samples: Likewise.
        batch_size: Likewise.
        get_inputs: Likewise.
        mask: Likewise.
        memory_limit: Likewise.
        src: The global rank of the process that computes.
        group: The process group; all processes by default.

    Returns:
        The report of rank ``src``, on every rank.

    Raises:
        HeadstartError: As :func:`headstart.initialize`, on every rank. The models are then unchanged.
        ModelError: On a rank whose model has other parameters than the model of ``src``.

    Cost: that of :func:`headstart.initialize` on ``src``, and one broadcast of the model's values.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
        >>> initialize(model, torch.rand(64, 1, 12, 12), "prewarm").changed
        ['0']
    """
    number = rng.seed_of(seed)

    def local() -> Report:
        return api.initialize(
            model,
            data,
            method,
            seed=number,
            include=include,
            exclude=exclude,
            samples=samples,
            batch_size=batch_size,
            get_inputs=get_inputs,
            mask=mask,
            memory_limit=memory_limit,
        )

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return local()
    if torch.distributed.get_rank(group) < 0:
        raise HeadstartError("This process is not in the group.", remedy="Call it on the ranks of the group only.")
    mine = torch.distributed.get_rank() == src
    message: list[Any] = [None]
    failure: Exception | None = None
    if mine:
        try:
            if guard.is_lazy(guard.unwrap(model)):
                raise ModelError(
                    "The model has lazy modules, whose shapes the other ranks do not know.",
                    remedy="Run one batch through it on every rank first.",
                )
            report = local()
            message = [(None, report, {name: value.detach().cpu() for name, value in _named(model).items()})]
        except Exception as error:  # whatever it is, the others are waiting
            packed = _pack(error)
            kept = isinstance(error, HeadstartError) or packed is error
            failure = error if kept else _chained(_unpack(packed), error)
            message = [(packed, None, {})]
    _broadcast(message, model, src, group)
    if failure is not None:
        raise failure
    packed, report, values = message[0]
    if packed is not None:
        raise _unpack(packed)
    if not mine:
        _write(guard.unwrap(model), values)
    return report


def _broadcast(message: list[Any], model: nn.Module, src: int, group: Any) -> None:
    """Send the message to all ranks, from the model's device where the backend needs that."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    accelerated = device.type != "cpu" and "nccl" in torch.distributed.get_backend(group)
    torch.distributed.broadcast_object_list(message, src, group, device if accelerated else None)


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers, each once."""
    plain = guard.unwrap(model)
    return {**dict(plain.named_parameters()), **dict(plain.named_buffers())}


def _write(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Write all values, or none."""
    own = _named(model)
    for name in sorted({*own, *values}):
        mine, theirs = own.get(name), values.get(name)
        if mine is None or theirs is None or mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            forms = [None if t is None else (*t.shape, t.dtype) for t in (mine, theirs)]
            raise ModelError(
                f"Rank {torch.distributed.get_rank()} has '{name}' as {forms[0]},"
                f" the rank that computed has it as {forms[1]}.",
                remedy="Build the same model on every rank.",
            )
    store(model, {name: (own[name], value) for name, value in values.items()})


def _pack(error: Exception) -> Any:
    """Turn an exception into data from which another process can raise it again, with its type and message."""
    if isinstance(error, HeadstartError):
        return type(error), error.message, error.remedy, error.args
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        copy = None
    if type(copy) is type(error) and str(copy) == str(error):
        return error
    packed = HeadstartError(
        f"{type(error).__name__}: {error}", remedy="The error was raised on the rank that computes the start."
    )
    return _pack(packed)


def _unpack(packed: Any) -> Exception:
    if isinstance(packed, Exception):
        return packed
    kind, message, remedy, arguments = packed
    error: HeadstartError = kind.__new__(kind)  # the children's constructors take other arguments
    HeadstartError.__init__(error, message, remedy=remedy)
    error.args = arguments
    return error


def _chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error
