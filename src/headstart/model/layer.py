"""A weight layer: its name, its module and its geometry. It is a module, or a part of one."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils import parametrize

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (*CONVS, *TRANSPOSED, nn.Linear)

Kind = Literal["conv", "transposed", "linear"]


class Layer:
    """A weight layer of a model: its name, module and geometry.

    Args:
        name: Qualified name in the model ("" for a model that is itself a layer).
        module: A Conv1-3d, ConvTranspose1-3d or Linear (or a subclass).

    Attributes:
        kind: ``"conv"``, ``"transposed"`` or ``"linear"``.
        groups: Number of groups (1 for linear layers).
        kernel: Kernel size per dimension, ``()`` for linear layers.
        out_channels: Output channels or features.
        in_channels: Input channels or features.
        parameter: The module's name for the parameter that holds the weight.
        form: How the weight is stored: ``"plain"``; ``"transposed"``, inputs first; ``"pairs"``, with one axis more.
        inside: Whether its host computes it directly, without calling it as a module.
        sees_input: Whether its input can be had, as numbers that the weight multiplies.
    """

    parameter = "weight"
    form: Literal["plain", "transposed", "pairs"] = "plain"
    inside = False
    sees_input = True

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module: Any = module  # one of LAYERS: torch types its attributes too loosely to follow
        self.kernel: tuple[int, ...]
        if isinstance(module, nn.Linear):
            self.kind: Kind = "linear"
            self.groups, self.kernel = 1, ()
            self.out_channels, self.in_channels = module.out_features, module.in_features
        else:
            assert isinstance(module, (*CONVS, *TRANSPOSED))
            self.kind = "transposed" if isinstance(module, TRANSPOSED) else "conv"
            self.groups = module.groups
            self.kernel = tuple(module.kernel_size)
            self.out_channels, self.in_channels = module.out_channels, module.in_channels

    @property
    def stored(self) -> Tensor:
        """The effective weight, as the module stores it."""
        weight: Tensor = self.module.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias that belongs to it, or None."""
        bias: Tensor | None = self.module.bias
        return bias

    @property
    def bias_parameter(self) -> Tensor | None:
        """The parameter that holds the bias, whole or in part."""
        return self.bias

    @property
    def is_complex(self) -> bool:
        """Whether its weight has an imaginary part."""
        return bool(self.stored.is_complex())

    def own(self, parameter: Tensor) -> Tensor:
        """The layer's part of a tensor of the parameter's shape."""
        return parameter

    def own_of(self, value: Tensor, what: str = "weight") -> Tensor | None:
        """The layer's part of a tensor of that name in another network, of any size; None if there is none."""
        return value

    def key(self, what: str = "weight") -> str:
        """The name of its weight or bias in a ``state_dict``."""
        return f"{self.name}.{what}" if self.name else what

    def tie(self, parameter: Tensor) -> object:
        """A key that is the same for layers that use the same part of one parameter."""
        return id(parameter)

    @property
    def shape(self) -> tuple[int, ...]:
        """Canonical weight shape ``(out, in/groups, *kernel)``."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def fan_in(self) -> float:
        """Inputs summed into one output value.

        A transposed convolution spreads each input over ``kernel / stride`` outputs, so its fan-in is
        divided by the stride (``torch.nn.init`` ignores that and takes the output channels instead).
        """
        return max(1.0, (self.in_channels // self.groups) * math.prod(self.kernel) / self._upsampling)

    @property
    def fan_out(self) -> float:
        """Outputs that one input value reaches, counted as by He et al. and ``torch.nn.init``, for a stride of 1."""
        return max(1.0, (self.out_channels // self.groups) * math.prod(self.kernel))

    @property
    def _upsampling(self) -> int:
        return math.prod(getattr(self.module, "stride", ())) if self.kind == "transposed" else 1

    @property
    def where(self) -> str:
        """How errors and reports name the layer."""
        return f"layer '{self.name}' ({type(self.module).__name__}, weight {self.shape})"

    def channel_axis(self, output: Tensor) -> int:
        """Axis of ``output`` that holds the channels, with or without a batch axis."""
        return output.dim() - 1 if self.kind == "linear" else output.dim() - 1 - len(self.kernel)

    @property
    def _is_parametrized(self) -> bool:
        return parametrize.is_parametrized(self.module, "weight")

    def weight_parameters(self) -> list[nn.Parameter]:
        """The parameters behind the weight: one, or those of its parametrization."""
        if self._is_parametrized:
            return list(self.module.parametrizations.weight.parameters(recurse=False))
        own = dict(self.module.named_parameters(recurse=False))
        return [p for n, p in own.items() if n == "weight" or n.startswith("weight_")]

    def weight_buffers(self) -> list[Tensor]:
        """The buffers that a parametrization keeps beside its parameters."""
        return list(self.module.parametrizations.weight.buffers()) if self._is_parametrized else []
