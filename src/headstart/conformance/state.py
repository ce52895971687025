"""Take down everything about a model that a call must not disturb, and compare it afterwards."""

from __future__ import annotations

import pickle
import random
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headstart.model.parts import parts_of

_PLAIN = (bool, int, float, str, type(None))


def require(condition: object, message: str) -> None:
    """Raise ``AssertionError(message)`` unless ``condition`` holds (an ``assert`` that -O keeps)."""
    if not condition:
        raise AssertionError(message)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors agree in shape, dtype and every bit (NaN and signed zeros included).

    Example:
        >>> same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
        False
    """
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, by name."""
    return {n: t.detach().clone() for n, t in _named(model).items() if _comparable(t)}


def require_equal(a: dict[str, Tensor], b: dict[str, Tensor], what: str) -> None:
    """Raise unless both hold the same tensors, bit for bit, under the names that they share."""
    different = [n for n in a.keys() & b.keys() if not same_bits(a[n], b[n])]
    require(not different, f"{what}: {', '.join(sorted(different))} differ")


def require_close(a: dict[str, Tensor], b: dict[str, Tensor], what: str) -> None:
    """Raise unless tensors of the same name agree within a thousandth of the largest entry."""
    for name in sorted(a.keys() & b.keys()):
        x, y = a[name].double(), b[name].double()
        error, size = float((x - y).abs().max()), float(x.abs().max())
        require(error <= 1e-3 * max(size, 1e-6), f"{what}: '{name}' differs by {error:.3g} (largest {size:.3g})")


class Snapshot:
    """The state of a model and of the process, before a call.

    Args:
        model: Any module.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = _named(model)
        self.values = weights_of(model)
        self.facts = _facts(model)
        self.grads = {n: (g, g.clone()) for n, t in self.tensors.items() if (g := _grad(t)) is not None}
        self.process = _process()

    def require_kept(
        self, changed: Collection[str] = (), statistics: Collection[str] = (), others: Collection[str] = ()
    ) -> None:
        """Raise unless nothing differs but the weights of the layers named in ``changed``.

        Args:
            changed: Qualified names of the layers whose weights may differ.
            statistics: Qualified names of the normalizations whose buffers may differ.
            others: Names of other parameters and buffers that may.
        """
        now = _named(self.model)
        require(list(now) == list(self.tensors), f"names changed: {sorted(set(now) ^ set(self.tensors))}")
        for name, tensor in self.tensors.items():
            require(now[name] is tensor, f"'{name}' is another object than before")
        for fact, value in _facts(self.model).items():
            require(value == self.facts[fact], f"{fact} changed: {_difference(self.facts[fact], value)}")
        modules = dict(self.model.named_modules())
        parts = {part.name: part for part in parts_of(self.model)}
        whole = [modules[name] for name in changed if name not in parts]
        free = {id(p) for module in whole for p in module.parameters()}
        free |= {id(b) for module in whole for n, b in module.named_buffers() if "parametrizations" in n}
        for part in (parts[name] for name in changed if name in parts):  # beside its rows the parameter's others stay
            free |= {id(t) for t in [*part.weight_parameters(), *part.weight_buffers(), part.bias_parameter]}
        free |= {id(b) for name in statistics for b in modules[name].buffers()}
        free |= {id(now[name]) for name in others}
        for name, value in self.values.items():
            if id(now[name]) not in free:
                require(same_bits(now[name], value), f"'{name}' changed, which the report does not say")
        for name, (grad, value) in self.grads.items():
            require(_grad(now[name]) is grad, f"the gradient of '{name}' was replaced")
            require(same_bits(grad, value), f"the gradient of '{name}' changed")
        for name, tensor in now.items():
            require(name in self.grads or _grad(tensor) is None, f"'{name}' got a gradient")
        for what, state in _process().items():
            require(state == self.process[what], f"{what} changed")


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _comparable(tensor: Tensor) -> bool:
    lazy = is_lazy(tensor)
    return not (lazy or tensor.is_meta or tensor.is_quantized)


def _grad(tensor: Tensor) -> Tensor | None:
    return tensor.grad if tensor.is_leaf else None


def _facts(model: nn.Module) -> dict[str, Any]:
    """What can be compared with ``==``."""
    modules = list(model.named_modules(remove_duplicate=False))
    tensors = _named(model)
    return {
        "state_dict keys": list(model.state_dict()) if all(map(_comparable, tensors.values())) else [],
        "module types": [(n, type(m)) for n, m in modules],
        "training flags": [(n, m.training) for n, m in modules],
        "hooks": [(n, k, list(v)) for n, m in modules for k, v in vars(m).items() if "hooks" in k and v is not None],
        "attributes": [(n, sorted(vars(m))) for n, m in modules],
        "values of attributes": [(n, k, v) for n, m in modules for k, v in vars(m).items() if isinstance(v, _PLAIN)],
        "dtype": {n: t.dtype for n, t in tensors.items()},
        "device": {n: t.device for n, t in tensors.items()},
        "memory layout": {n: t.stride() for n, t in tensors.items() if _comparable(t)},
        "requires_grad": {n: t.requires_grad for n, t in tensors.items()},
        "tensor type": {n: type(t) for n, t in tensors.items()},
    }


def _process() -> dict[str, Any]:
    """Global state that a call may pass through."""
    return {
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's random state": pickle.dumps(np.random.get_state()),  # noqa: NPY002 - the global state is what must stay
        "Python's random state": random.getstate(),
        "gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
    }


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict):
        return ", ".join(f"{k}: {v} -> {after.get(k)}" for k, v in before.items() if after.get(k) != v)
    gone, new = [x for x in before if x not in after], [x for x in after if x not in before]
    return f"{gone} -> {new}"
