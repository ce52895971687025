"""One forward pass of the user's model: which layer it is in, and one clear error for whatever it raises."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from headstart.errors import HeadstartError, ModelError, origin, quote
from headstart.model.batch import Batch, map_tensors
from headstart.model.hooks import Hooks, hooked
from headstart.model.parts import Part, Projection
from headstart.model.weights import Layer, weight_layers

T = TypeVar("T")


def full_precision(model: nn.Module) -> torch.autocast:
    """Switch off the caller's autocast, if any: statistics need the model's own precision."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    return torch.autocast(device, enabled=False)


class CurrentLayer:
    """The layer that is computing, for error messages."""

    layer: Layer | None = None
    shape: tuple[int, ...] = ()

    def enter(self, layer: Layer, value: Any) -> None:
        """Note that ``layer`` starts on ``value``."""
        self.layer, self.shape = layer, tuple(value.shape) if isinstance(value, Tensor) else ()

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Keep track of the layers of ``model`` by hooks."""

        def enter(layer: Layer, args: Any, kwargs: Any) -> None:
            self.enter(layer, first_input(args, kwargs))

        def leave(layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
            self.layer = None

        with hooked(by_layer(weight_layers(model)), enter, leave, place="last"):
            yield


def by_layer(layers: Iterable[Layer]) -> list[tuple[Layer, nn.Module]]:
    """Layers with their modules, as :func:`headstart.model.hooks.hooked` takes them."""
    return [(layer, layer.module) for layer in layers]


@contextmanager
def layers_hooked(layers: Iterable[Layer], before: Callable[..., Any], after: Callable[..., Any]) -> Iterator[Hooks]:
    """Call functions before and after layers compute, including parts of modules; see :func:`hooked`.

    A projection of attention is computed beside the module, from its input and its present weights; for the output
    projection, the module's own output is passed on. For a part whose input cannot be had, ``before`` is called
    before its module runs, without input, and ``after`` is not called.

    Args:
        layers: The layers to watch.
        before: ``before(layer, args, kwargs)``.
        after: ``after(layer, args, kwargs, output)``.
    """
    hosts: dict[nn.Module, list[Part]] = {}
    keys: list[tuple[Any, nn.Module]] = []
    for layer in layers:
        if isinstance(layer, Part) and layer.inside:
            hosts.setdefault(layer.host, []).append(layer)
        else:
            keys.append((layer, layer.module))
    waiting: dict[nn.Module, tuple[Any, ...]] = {}

    def enter(key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if isinstance(key, Layer):
            before(key, args, kwargs)
            return
        for part in hosts[key]:
            value = part.input(args, kwargs) if isinstance(part, Projection) else None
            taken = () if value is None else (value,)
            before(part, taken, {})
            if isinstance(part, Projection) and part.block == "out":
                waiting[key] = (part, taken)
            elif isinstance(part, Projection) and value is not None:
                after(part, taken, {}, part.output(value))

    def leave(key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if isinstance(key, Layer):
            return after(key, args, kwargs, output)
        if key in waiting:
            part, taken = waiting.pop(key)
            made = output[0] if isinstance(output, tuple) else output
            if taken and isinstance(made, Tensor):
                after(part, taken, {}, made)
        return None

    with hooked([*keys, *((host, host) for host in hosts)], enter, leave) as hooks:
        yield hooks


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first tensor that a layer is called with."""
    return args[0] if args else kwargs.get("input", next(iter(kwargs.values()), None))


def run(
    model: Callable[..., Any], batch: Batch, where: CurrentLayer | None = None, *, until: Hooks | None = None
) -> Any:
    """Run the user's model once.

    Args:
        model: The model; it takes what the batch holds.
        batch: The batch; the model may write into it.
        where: The layer that is computing, for error messages.
        until: Callbacks that may end the pass, by :class:`headstart.model.hooks.EndOfPass` or by an error. That
            holds even if the model's own code catches the exception and goes on, or raises another.

    Returns:
        The model's output, without gradients unless they are enabled; None if a callback ended the pass.

    Raises:
        HeadstartError: A callback failed, or the model's own code did (a ModelError that says where). If it failed for
            lack of gradients, ``batch.needs_grad`` is set, and the next run has them.
    """
    hooks, where = until or Hooks(), where or CurrentLayer()
    wanted, returned = torch.is_grad_enabled(), None
    try:
        try:
            with torch.set_grad_enabled(wanted or batch.needs_grad):
                returned = model(*batch.args, **batch.kwargs)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            if not hooks.ended and hooks.error is None:
                raise
        if hooks.error is not None:
            raise hooks.error
        if batch.needs_grad and not wanted:
            returned = map_tensors(returned, Tensor.detach)
        return None if hooks.ended else returned
    except HeadstartError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "require grad" in str(error) and not wanted:
            batch.needs_grad = True  # whoever called may try again
        raise ModelError(
            f"The model's forward failed on {batch}{_inside(model, where, error)}: {quote(error)}{origin(error)}.",
            remedy="Check the shape, channels, size and dtype of the data against the model, or pass get_inputs=.",
        ) from error


def _inside(model: Callable[..., Any], where: CurrentLayer, error: BaseException) -> str:
    """The layer that was computing, or else the innermost module whose code the error came through."""
    if where.layer is not None:
        return f" in {where.layer.where}, given an input of shape {where.shape}"
    candidates = (model, *getattr(model, "args", ()))  # it may be bound to more
    root = next((m for m in candidates if isinstance(m, nn.Module)), None)
    names = {} if root is None else {id(m): n for n, m in root.named_modules() if n}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        module = next(iter(frame.f_locals.values()), None)  # self, whatever it is called
        if id(module) in names:
            return f" in module '{names[id(module)]}' ({type(module).__name__})"
    return ""


def run_small(batch: Batch, n: int, attempt: Callable[[Batch], T]) -> T:
    """Try something on a few samples of a batch; try again with gradients if the forward needs them.

    Args:
        batch: Its ``needs_grad`` is set if so.
        n: The number of samples.
        attempt: Runs the model once on the batch that it gets.

    Raises:
        ModelError: The forward failed.
    """
    small = batch.head(n)
    try:
        return attempt(small)
    except ModelError:
        if not small.needs_grad or batch.needs_grad:
            raise
    batch.needs_grad = True
    return attempt(batch.head(n))
