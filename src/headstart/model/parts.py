"""Layers that are parts of modules: attention's projections, a recurrent layer's gates, embeddings, bilinear layers.

A part names a piece of a parameter, and reads and writes it in the canonical layout like any other layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headstart.model.layer import Layer

GATES = {"LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n"), "RNN": ("h",)}
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class OwnStart:
    """How the module itself draws the part.

    Attributes:
        distribution: ``"uniform"`` or ``"normal"``.
        size: The bound, or the deviation.
        bias: The bound of its uniform bias.
    """

    distribution: Literal["uniform", "normal"]
    size: float
    bias: float = 0.0


class Part(Layer):
    """A layer that is a piece of a module's parameter.

    Args:
        name: Qualified, unique in the model.
        module: Holds the parameter.
        parameter: Its name there.
        own_start: How the module draws it.
        rows: The rows of the parameter's first axis; all by default.
        bias: Name of the bias there; the same rows of it belong to the layer. "" for none.
        form: How the weight is stored.
        inside: Whether the module computes it directly, without calling a module.
        sees_input: Whether its input can be had.

    Attributes:
        host: The module whose call computes it.
        host_name: Its qualified name.
        block: Which block of the parameter it is, such as ``"q"`` or ``"f"``; "" if there is only one.
        padding: Input whose weights stay zero, or None.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        parameter: str,
        own_start: OwnStart,
        *,
        rows: tuple[int, int] | None = None,
        bias: str = "",
        form: Literal["plain", "transposed", "pairs"] = "plain",
        inside: bool = False,
        sees_input: bool = True,
        block: str = "",
        padding: int | None = None,
        fan_in: int | None = None,
    ) -> None:
        self.name, self.module, self.parameter, self.own_start = name, module, parameter, own_start
        self.host: Any = module
        self.host_name = name
        self.rows, self._bias, self.form, self.inside = rows, bias, form, inside
        self.sees_input, self.block, self.padding, self._fan_in = sees_input, block, padding, fan_in
        self.kind, self.groups, self.kernel = "linear", 1, ()
        shape = self.stored.shape
        self.out_channels = shape[1] if form == "transposed" else shape[0]
        self.in_channels = shape[0] if form == "transposed" else math.prod(shape[1:])

    @property
    def stored(self) -> Tensor:
        """The effective weight, as the module stores it."""
        return self.own(getattr(self.module, self.parameter))

    def own(self, parameter: Tensor) -> Tensor:
        """The layer's part of a tensor of the parameter's shape."""
        return parameter if self.rows is None else parameter[slice(*self.rows)]

    def own_of(self, value: Tensor, what: str = "weight") -> Tensor | None:
        """The same block of a tensor with as many blocks, whatever their size."""
        mine = self.bias_parameter if what == "bias" else getattr(self.module, self.parameter)
        if self.rows is None or mine is None or self.own(mine) is mine:
            return value
        size = self.rows[1] - self.rows[0]
        place, count = self.rows[0] // size, len(mine) // size
        return value.unflatten(0, (count, -1))[place] if value.dim() and len(value) % count == 0 else None

    def key(self, what: str = "weight") -> str:
        """The name of the whole parameter in a ``state_dict``."""
        path = self.name if self.block == "out" else self.host_name
        return _join(path, self._bias if what == "bias" else self.parameter)

    @property
    def bias(self) -> Tensor | None:
        """The bias that belongs to it, or None."""
        bias = self.bias_parameter
        return None if bias is None else self.own(bias)

    @property
    def bias_parameter(self) -> Tensor | None:
        """The parameter that holds the bias, whole or in part."""
        return getattr(self.module, self._bias, None) if self._bias else None

    def tie(self, parameter: Tensor) -> object:
        """A key that is the same for layers that use the same part of one parameter."""
        return id(parameter) if self.rows is None else (id(parameter), self.rows)

    @property
    def is_called(self) -> bool:
        """Whether it is the whole call of a module: input times weight, as in a linear layer."""
        return self.sees_input and not self.inside

    @property
    def fan_in(self) -> float:
        """Inputs summed into one output value: 1 for an embedding, which looks one up."""
        return super().fan_in if self._fan_in is None else float(self._fan_in)

    @property
    def _is_parametrized(self) -> bool:
        return nn.utils.parametrize.is_parametrized(self.module, self.parameter)

    def weight_parameters(self) -> list[nn.Parameter]:
        """The parameters behind the weight."""
        if self._is_parametrized:
            return list(self.module.parametrizations[self.parameter].parameters(recurse=False))
        return [p for n, p in self.module.named_parameters(recurse=False) if n == self.parameter]

    def weight_buffers(self) -> list[Tensor]:
        """The buffers that a parametrization keeps beside its parameters."""
        return list(self.module.parametrizations[self.parameter].buffers()) if self._is_parametrized else []


class Projection(Part):
    """A projection in ``nn.MultiheadAttention``, which computes it internally."""

    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Its input in a call of the module; for the output projection this needs a separate run."""
        if self.block == "out":
            return self._attended(args, kwargs)
        name, place = {"q": ("query", 0), "k": ("key", 1), "v": ("value", 2)}[self.block]
        value = args[place] if len(args) > place else kwargs.get(name)
        return value if isinstance(value, Tensor) and not value.is_nested else None

    def output(self, value: Tensor) -> Tensor:
        """Its output for its input, with the present weights."""
        return F.linear(value, self.stored, self.bias)

    def _attended(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Run the attention with an identity in place of the output projection."""
        linear = self.module
        kept = dict(linear._parameters)
        try:
            linear._parameters["weight"] = torch.eye(*kept["weight"].shape).to(kept["weight"])
            if kept["bias"] is not None:
                linear._parameters["bias"] = torch.zeros_like(kept["bias"])
            found = self.host.forward(*args, **kwargs)[0]
        finally:
            linear._parameters.update(kept)
        return found if isinstance(found, Tensor) and not found.is_nested else None


def parts_of(model: nn.Module) -> list[Part]:
    """All parts in a model, under the first qualified names of their modules, in registration order."""
    found = []
    for name, module in model.named_modules():
        for part in _parts(name, module):
            part.host_name = name
            found.append(part)
    return found


def _parts(name: str, module: nn.Module) -> Iterator[Part]:
    if isinstance(module, nn.MultiheadAttention):
        yield from _attention(name, module)
    elif isinstance(module, RECURRENT):
        yield from _recurrent(name, module)
    elif isinstance(module, EMBEDDINGS):
        start = OwnStart("normal", 1.0)
        yield Part(
            name, module, "weight", start, form="transposed", sees_input=False, padding=module.padding_idx, fan_in=1
        )
    elif isinstance(module, nn.Bilinear):
        bound = 1 / math.sqrt(module.in1_features)
        start = OwnStart("uniform", bound, bound)
        yield Part(name, module, "weight", start, bias=_has(module, "bias"), form="pairs", sees_input=False)
    elif _is_conv1d(module):
        start = OwnStart("normal", 0.02)
        yield Part(name, module, "weight", start, bias=_has(module, "bias"), form="transposed")


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is Hugging Face's linear layer with the inputs first: by its name and attributes."""
    if type(module).__name__ != "Conv1D" or isinstance(module, nn.Conv1d):
        return False  # before the weight is looked at: a parametrization may compute, and count, when it is
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return False
    return weight.dim() == 2 and getattr(module, "nf", weight.shape[1]) == weight.shape[1]


def _has(module: nn.Module, name: str) -> str:
    return name if isinstance(getattr(module, name, None), Tensor) else ""


def _join(name: str, *parts: str) -> str:
    return ".".join(p for p in (name, *parts) if p)


def _attention(name: str, module: nn.MultiheadAttention) -> Iterator[Part]:
    width = module.embed_dim
    packed = module.in_proj_weight is not None
    for place, block in enumerate("qkv"):
        rows = (place * width, (place + 1) * width)
        parameter = "in_proj_weight" if packed else f"{block}_proj_weight"
        inputs = width if packed else getattr(module, parameter).shape[1]
        start = OwnStart("uniform", math.sqrt(6 / (inputs + (3 if packed else 1) * width)))
        part = _Packed if packed else _Separate
        yield part(
            _join(name, block), module, parameter, start, rows=rows, bias="in_proj_bias", inside=True, block=block
        )
    start = OwnStart("uniform", 1 / math.sqrt(width))
    out = Projection(_join(name, "out_proj"), module.out_proj, "weight", start, bias="bias", inside=True, block="out")
    out.host = module
    yield out


class _Packed(Projection):
    """One of three projections in one parameter."""


class _Separate(Projection):
    """A projection with its own parameter, and a third of the bias."""

    @property
    def stored(self) -> Tensor:
        """The effective weight."""
        weight: Tensor = getattr(self.module, self.parameter)
        return weight

    def own(self, parameter: Tensor) -> Tensor:
        """The whole weight; for the bias, the block's rows."""
        assert self.rows is not None
        return parameter if parameter.dim() > 1 else parameter[slice(*self.rows)]


def _recurrent(name: str, module: nn.Module) -> Iterator[Part]:
    kinds = {"LSTM": (nn.LSTM, nn.LSTMCell), "GRU": (nn.GRU, nn.GRUCell)}
    kind = next((k for k, classes in kinds.items() if isinstance(module, classes)), "RNN")
    gates, size = GATES[kind], int(module.hidden_size)  # type: ignore[arg-type]
    bound = 1 / math.sqrt(size)
    start = OwnStart("uniform", bound, bound)
    for parameter, value in module.named_parameters(recurse=False):
        if not parameter.startswith("weight_"):
            continue
        bias = _has(module, parameter.replace("weight_", "bias_", 1))
        if parameter.startswith("weight_hr"):  # projects the hidden state: no gate
            yield Part(_join(name, parameter), module, parameter, start, inside=True, sees_input=False)
            continue
        assert len(value) == size * len(gates)
        for place, gate in enumerate(gates):
            rows = (place * size, (place + 1) * size)
            yield Part(
                _join(name, parameter, gate),
                module,
                parameter,
                start,
                rows=rows,
                bias=bias,
                inside=True,
                sees_input=False,
                block=gate,
            )
