"""Run a method on a model and hold it to the contract, whatever the model is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from headstart import rng
from headstart.api import MethodLike, initialize
from headstart.conformance.state import Snapshot, require, weights_of
from headstart.engine import registry
from headstart.errors import HeadstartError
from headstart.results.report import Report

M = TypeVar("M", bound=nn.Module)
Check = Callable[[MethodLike], None]
CHECKS: list[Check] = []


def contract(function: Check) -> Check:
    """Add a check to the suite."""
    CHECKS.append(function)
    return function


def writes_stem(method: MethodLike) -> bool:
    """Tell whether the method writes the first convolution only."""
    return any(m.info.scope == "first convolution" for m in registry.resolve(method))


def needs_convolution(method: MethodLike) -> bool:
    """Tell whether the method writes convolutions only, so that a model without one must be refused."""
    return any(m.info.scope != "all layers" for m in registry.resolve(method))


def knows_some_kernels(method: MethodLike) -> bool:
    """Tell whether the method may refuse a model because it knows no filters for its kernels."""
    return any(m.info.scope == "convolutions" for m in registry.resolve(method))


def needs_data(method: MethodLike) -> bool:
    """Tell whether the method works from a batch."""
    return any(m.info.needs_data for m in registry.resolve(method))


def depends_on_other_layers(method: MethodLike) -> bool:
    """Tell whether what a layer gets depends on the layers behind it."""
    return any(m.info.depends_on_other_layers for m in registry.resolve(method))


def build(factory: Callable[[], M], seed: int = 0) -> M:
    """Construct a model with weights drawn from ``seed``; the global random states stay."""
    with rng.untouched(seed):
        return factory()


def run(method: MethodLike, model: nn.Module, data: Any, **options: Any) -> Report:
    """Initialize and require that nothing changed but the weights of the layers that the report names."""
    before = Snapshot(model)
    report = initialize(model, data, method, **{"seed": 0, **options})
    before.require_kept(report.changed, report.statistics, report.other_tensors)
    for name, value in weights_of(model).items():
        require(not value.is_floating_point() or bool(torch.isfinite(value).all()), f"'{name}' is not finite")
    return report


def refused(method: MethodLike, model: Any, data: Any, *words: str, **options: Any) -> HeadstartError:
    """Require one HeadstartError whose message holds ``words``, and a model as it was.

    Returns:
        The error.
    """
    before = Snapshot(model) if isinstance(model, nn.Module) else None
    try:
        initialize(model, data, method, **{"seed": 0, **options})
    except HeadstartError as error:
        if before is not None:
            before.require_kept()
        for word in words:
            require(word in str(error), f"the message does not tell {word!r}: {error}")
        return error
    except Exception as error:
        raise AssertionError(f"raised {type(error).__name__}: {error}, not a HeadstartError") from error
    raise AssertionError("was accepted; it must raise a HeadstartError")


def attempt(method: MethodLike, model: nn.Module, data: Any, **options: Any) -> Report | None:
    """Require that it either works (see :func:`run`) or is refused (see :func:`refused`).

    Returns:
        The report, or None if it was refused.
    """
    try:
        initialize(copy.deepcopy(model), data, method, **{"seed": 0, **options})
    except HeadstartError:
        refused(method, model, data, **options)
        return None
    except Exception as error:
        raise AssertionError(f"raised {type(error).__name__}: {error}, not a HeadstartError") from error
    return run(method, model, data, **options)


def result(method: MethodLike, model: nn.Module, data: Any, **options: Any) -> dict[str, Tensor]:
    """All weights after a run."""
    run(method, model, data, **options)
    return weights_of(model)
