"""Callbacks around modules while a model runs: registered, called without gradients, and always removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from headstart.errors import ModelError

Key = TypeVar("Key")
Before = Callable[[Key, tuple[Any, ...], dict[str, Any]], None]
After = Callable[[Key, tuple[Any, ...], dict[str, Any], Any], Any]


class EndOfPass(BaseException):
    """Raised by a callback once it has seen enough of the forward pass. See :func:`headstart.model.forward.run`."""


class Hooks:
    """The callbacks that are registered now.

    Attributes:
        ended: Whether one of them ended the pass.
        error: Any other exception that one of them raised; it also ends the pass.

    Once the pass is over, none is called: the model's own code may catch all exceptions and continue.
    """

    def __init__(self) -> None:
        self.ended = False
        self.error: BaseException | None = None

    def call(self, callback: Callable[..., Any], *args: Any) -> Any:
        """Call a callback, unless the pass is over."""
        if self.ended or self.error is not None:
            return None
        try:
            return callback(*args)
        except EndOfPass:
            self.ended = True
            raise
        except BaseException as error:
            self.error = error
            raise


@contextmanager
def hooked(
    modules: Iterable[tuple[Key, nn.Module]],
    before: Before[Key] | None = None,
    after: After[Key] | None = None,
    *,
    place: Literal["inside", "first", "last"] = "inside",
    no_grad: bool = True,
) -> Iterator[Hooks]:
    """Call functions before and after modules run, for as long as the context lasts.

    Args:
        modules: Pairs of a key and a module. The functions get the key.
        before: ``before(key, args, kwargs)``, with what the module is called with.
        after: ``after(key, args, kwargs, output)``; what it returns replaces the output, unless it is None.
        place: Order among the user's own hooks. ``"inside"``: next to the module, so that the functions see what the
            module itself takes and returns. ``"first"``: before all others. ``"last"``: after them.
        no_grad: Call the functions without gradients, even if the model's forward has enabled them.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> with hooked(net.named_children(), before=lambda name, args, kwargs: print(name, tuple(args[0].shape))):
        ...     _ = net(torch.zeros(4, 2))
        0 (4, 2)
        1 (4, 3)
    """
    hooks, handles = Hooks(), []

    def register(key: Key, module: nn.Module) -> None:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert before is not None
            with torch.no_grad() if no_grad else nullcontext():
                hooks.call(_outside_transforms, args, kwargs)
                hooks.call(before, key, args, kwargs)

        def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            assert after is not None
            with torch.no_grad() if no_grad else nullcontext():
                hooks.call(_outside_transforms, args, kwargs)
                return hooks.call(after, key, args, kwargs, output)

        if before is not None:
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True, prepend=place == "first"))
        if after is not None:
            handles.append(module.register_forward_hook(leave, with_kwargs=True, prepend=place != "last"))

    try:
        for key, module in modules:
            register(key, module)
        yield hooks
    finally:
        for handle in handles:
            handle.remove()
        hooks.error = None  # its traceback holds all that the pass computed


def _outside_transforms(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise where a module runs inside a transform of torch.func, whose tensors have no plain values."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    if any(isinstance(leaf, torch.Tensor) and wrapped(leaf) for leaf in tree_flatten((args, kwargs))[0]):
        raise ModelError(
            "The model's forward runs layers inside a transform of torch.func (vmap, grad, jacrev, jvp), where their"
            " values cannot be read.",
            remedy="Initialize the inner network by itself, on a whole batch of its inputs; or use"
            " torch.autograd.grad instead.",
        )
