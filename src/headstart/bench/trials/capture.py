"""Training steps as a CUDA graph: the device repeats a captured step without Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart import rng
from headstart.bench.trials.step import Step, Stretch
from headstart.bench.trials.training import Training
from headstart.bench.trials.turns import Turns, at_once
from headstart.errors import HeadstartError
from headstart.model.transaction import Transaction

_WARM_UP = 3  # as torch advises: libraries choose their kernels, the optimizer builds its state


class CaptureError(HeadstartError):
    """Steps cannot be captured, but can run one by one."""


def why_not(config: Training) -> str:
    """Say why a trial cannot be captured, whatever its model; an empty string if it may be.

    Example:
        >>> why_not(Training(device="cpu"))
        'the device is no CUDA device'
    """
    if torch.device(config.device).type != "cuda":
        return "the device is no CUDA device"
    return "several devices train one model" if config.devices > 1 else ""


class CapturedSteps:
    """Training steps that are captured once and replayed from then on.

    A few steps warm up, then one is captured. The model, the optimizer and all random states are then restored.

    Args:
        model: The model that the step trains, in training mode.
        step: A capturable step, before its first call.
        stretch: The stretch of the step, after the first draw.

    Raises:
        CaptureError: The model draws random numbers while it trains, or reads numbers from the device, or fails.
    """

    def __init__(self, model: nn.Module, step: Step, stretch: Stretch) -> None:
        self._step = step
        self._stretch = stretch
        self._rates = [group["lr"] for group in step.optimizer.param_groups]
        stretch.begin()
        stretch.count_on_device(True)
        stretch.put("rate", torch.zeros(1))
        try:
            with rng.untouched(), Transaction(model), _without_autocast_cache():
                model.train()
                before = _random_states()
                stream = _stream(stretch.device)
                _aside(self._warm_up, stream)
                if _random_states() != before:
                    raise CaptureError("the model draws random numbers while it trains")
                stretch.rewind()
                self._replay = _captured(self._take, stream)
        except CaptureError:
            stretch.count_on_device(False)
            raise
        except Exception as error:
            stretch.count_on_device(False)
            told = " ".join(str(error).split())[:200]
            raise CaptureError(f"capturing failed with {type(error).__name__}: {told}") from error
        for state in step.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()  # what every optimizer here begins with

    def run(self, rates: Sequence[float]) -> Turns[None]:
        """Take one step for each learning rate, and stop after each."""
        self._stretch.put("rate", torch.tensor(rates))
        for _ in rates:
            self._replay()
            yield at_once

    def _warm_up(self) -> None:
        for _ in range(_WARM_UP):
            self._stretch.rewind()
            self._take()

    def _take(self) -> None:
        for rate in self._rates:
            rate.copy_(self._stretch.row("rate"))
        self._step()


def _stream(device: torch.device) -> torch.cuda.Stream:
    """The trial's own stream, or a new one where it computes on the device's default stream, which cannot capture.

    Libraries keep working memory for each stream, and a graph uses that of the stream it was captured on: graphs that
    run at the same time must not have been captured on one.
    """
    current = torch.cuda.current_stream(device)
    return torch.cuda.Stream(device) if current == torch.cuda.default_stream(device) else current


def _aside(function: Callable[[], None], stream: torch.cuda.Stream) -> None:
    """Call a function on a stream, as warming up for a graph must."""
    before = torch.cuda.current_stream(stream.device)
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        function()
    before.wait_stream(stream)


def _captured(function: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        function()
    replay: Callable[[], None] = graph.replay
    return replay


class _without_autocast_cache:  # noqa: N801 - a context
    """Cast weights at every use, since a graph must not use cached casts of another step."""

    def __enter__(self) -> None:
        self._before = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)

    def __exit__(self, *of_an_error: object) -> None:
        torch.set_autocast_cache_enabled(self._before)


def _random_states() -> list[Any]:
    """All global random states, to be compared."""
    of_numpy = np.random.get_state()  # noqa: NPY002 - the global state
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return [[state.tolist() for state in states], str(of_numpy), random.getstate()]
