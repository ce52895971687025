"""The layers that take a model's input, and how their number of channels is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from headstart.adapt.channel_mix import Mix
from headstart.errors import DataError, HeadstartError, ModelError, WriteError, unknown
from headstart.model.forward import CurrentLayer, by_layer, first_input, run
from headstart.model.hooks import hooked
from headstart.model.inputs import Batch
from headstart.model.transaction import Transaction
from headstart.model.weights import Layer, is_plain, weight_layers

RECORDS = ("in_channels", "in_chans", "input_channels", "num_channels", "n_channels")
_CONFIGS = ("pretrained_cfg", "default_cfg", "config")


@dataclass(frozen=True)
class Stem:
    """A layer whose number of input channels changes.

    Attributes:
        layer: The layer before the change.
        mix: What the new channels are made of.
        old: Its old weight.
        new: Its new weight.
    """

    layer: Layer
    mix: Mix
    old: nn.Parameter
    new: nn.Parameter

    @property
    def name(self) -> str:
        """Qualified name of the layer."""
        return self.layer.name


class InputLayers:
    """Layers whose number of input channels changes.

    The changes are made in the dictionaries of the modules, so that they can be undone and redone: the parameter is a
    new object, and everything else of the module stays. Apart from these changes, every pass meets the original model.

    Args:
        transaction: The transaction of the model; it undoes what passes change.
        channels: The new number of input channels.
        make: ``layer -> (mix, weight)``, the weight as the layer stores it.

    Attributes:
        channels: How many input channels they take now.
        found: The layers that were changed.
        records: Attributes of surrounding modules that were changed too.
    """

    def __init__(self, transaction: Transaction, channels: int, make: Callable[[Layer], tuple[Mix, Tensor]]) -> None:
        self.found: list[Stem] = []
        self.records: list[str] = []
        self.channels = channels
        self._transaction, self._model, self._make = transaction, transaction.model, make
        self._edits: list[tuple[dict[str, Any], str, Any, Any]] = []

    def adapt(self, layer: Layer) -> None:
        """Give the layer a new weight.

        Raises:
            WriteError: Its weight is not a parameter of its own.
        """
        self._transaction.rewind()
        old = _own_weight(self._model, layer)
        mix, weight = self._make(layer)
        new = nn.Parameter(weight, requires_grad=old.requires_grad)
        new.__dict__.update(old.__dict__)
        self._set(layer.module._parameters, "weight", new)
        self._set(vars(layer.module), "in_channels", self.channels)
        self.found.append(Stem(layer, mix, old, new))
        path = layer.name.split(".") if layer.name and self.channels != layer.in_channels else []
        for depth in range(len(path)):
            name = ".".join(path[:depth])
            around = vars(self._model.get_submodule(name))
            for key in RECORDS:
                if type(around.get(key)) is int and around[key] == layer.in_channels:
                    self._set(around, key, self.channels)
                    self.records.append(f"{name}.{key}".lstrip("."))
        self._transaction.begin()

    def _set(self, holder: dict[str, Any], key: str, value: Any) -> None:
        self._edits.append((holder, key, holder[key], value))
        holder[key] = value

    def undo(self) -> None:
        """Undo all changes."""
        for holder, key, old, _ in reversed(self._edits):
            holder[key] = old

    def redo(self) -> None:
        """Make the changes again."""
        for holder, key, _, new in self._edits:
            holder[key] = new

    @contextmanager
    def undone(self) -> Iterator[None]:
        """A context in which the changes are undone."""
        self.undo()
        try:
            yield
        finally:
            self.redo()

    def find(self, batch: Batch | None, chosen: Sequence[Layer]) -> None:
        """Adapt the layers that take the input: run the model, adapt the layer that fails, and repeat until none fails.

        Args:
            batch: A batch with the new channels; without it the first convolution in registration order is taken.
            chosen: Adapt exactly these instead.

        Raises:
            HeadstartError: There is no such layer, or the forward pass fails elsewhere.
        """
        for named in chosen:
            self.adapt(named)
        if batch is None:
            if not chosen:
                self.adapt(self._first())
            return
        if not chosen and self._first_taking(batch):
            return
        while True:
            layer, shape, error = _stumble(self._transaction, batch)
            if error is None:
                return
            if layer is None and not self.found:
                self.adapt(self._first())  # the model itself looks at the channels before any layer does
            elif layer is not None and self._is_stem(layer, shape, bool(chosen)):
                self.adapt(layer)
            else:
                raise ModelError(
                    f"With {self.channels} input channels in {self._names()}: {error.message}",
                    remedy="The model fixes the number of channels elsewhere too (a normalization of the input, a"
                    " sum with it): change that first, or check the data.",
                ) from error

    def _first_taking(self, batch: Batch) -> bool:
        """Adapt the layer that takes the input of a model whose number of channels does not change."""
        order: list[Layer] = []
        small = batch.head(2)
        places = {t.untyped_storage().data_ptr() for t in small.tensors}
        direct: list[Layer] = []

        def enter(layer: Layer, args: Any, kwargs: Any) -> None:
            value = first_input(args, kwargs)
            order.append(layer)
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() in places and layer not in direct:
                direct.append(layer)

        try:
            with hooked(by_layer(_convolutions(self._model)), enter):
                run(self._model, small)
        except HeadstartError:  # with other channels it should; find looks where
            return False
        found = [la for la in direct or order[:1] if la.in_channels == self.channels]
        if not found:
            raise self._no_convolution()
        for layer in found:
            self.adapt(layer)
        return True

    def _first(self) -> Layer:
        found = _convolutions(self._model)
        if not found:
            raise self._no_convolution()
        return found[0]

    def _no_convolution(self) -> ModelError:
        return ModelError(
            f"No convolution of {type(self._model).__name__} takes its input.",
            remedy="Name the layer: layer='...', or adapt its weight with hs.adapt_weight.",
        )

    def _is_stem(self, layer: Layer, shape: tuple[int, ...], closed: bool) -> bool:
        """Tell whether a layer fails because it takes the new channels; raise if it cannot be adapted."""
        axis = len(shape) - 1 - len(layer.kernel)
        if layer.kind == "linear" or axis < 0 or any(layer.module is stem.layer.module for stem in self.found):
            if axis >= 0 and layer.kind != "linear" and shape[axis] != self.channels:
                raise DataError(
                    f"The data gives {shape[axis]} channels to {layer.where}, not in_channels={self.channels}.",
                    remedy="Pass data with the new channels, channels first.",
                )
            return False
        if shape[axis] == layer.in_channels:
            return False
        if shape[axis] != self.channels:
            what = "mixes the input with other features" if self.found else "takes the input"
            raise ModelError(
                f"{layer.where} {what}: {shape[axis]} channels reach it instead of {layer.in_channels}.",
                remedy=f"Pass data of {self.channels} channels, channels first; a layer that mixes the input with"
                " features has to be changed by hand (hs.adapt_weight with a mapping).",
            )
        if closed:
            raise ModelError(
                f"{layer.where} takes the input as well.",
                remedy=f"Name it too: layer={[*(stem.name for stem in self.found), layer.name]}, or none.",
            )
        return True

    def others(self, channels: int) -> list[str]:
        """Names of further convolutions that take this many channels."""
        mine = {id(stem.layer.module) for stem in self.found}
        rest = [la for la in _convolutions(self._model) if id(la.module) not in mine]
        return [la.name for la in rest if la.in_channels == channels]

    def _names(self) -> str:
        return ", ".join(f"'{stem.name}'" for stem in self.found) or "no layer so far"

    def elsewhere(self, old: int) -> list[str]:
        """List what else in the model is set for the old channels; it is not changed."""
        found = []
        seen: list[Any] = []  # modules may share one configuration
        for name, module in self._model.named_modules():
            place = f"{name}." if name else ""
            for key in _CONFIGS:
                config = vars(module).get(key)
                told = [] if any(config is other for other in seen) else _told(config, old)
                seen.append(config)
                if told:
                    found.append(f"{place}{key} ({', '.join(told)})")
            for key, buffer in module.named_buffers(recurse=False):
                if buffer.numel() == old and key.strip("_").split("_")[-1] in ("mean", "std") and "running" not in key:
                    found.append(f"the buffer {place}{key}")
        return found


def _told(config: Any, old: int) -> list[str]:
    """The entries of a configuration that state this number of input channels."""
    names = ("input_size", "mean", "std", *RECORDS)
    entries = {k: config.get(k) if isinstance(config, dict) else getattr(config, k, None) for k in names}
    size = entries.pop("input_size")
    found = ["input_size"] if isinstance(size, (tuple, list)) and size and size[0] == old else []
    return found + [
        k
        for k, value in entries.items()
        if (isinstance(value, (tuple, list)) and len(value) == old) or (type(value) is int and value == old)
    ]


def named_layers(model: nn.Module, names: str | Sequence[str] | None) -> list[Layer]:
    """The convolutions of these qualified names.

    Raises:
        HeadstartError: There is no such convolution.
    """
    wanted = [] if names is None else [names] if isinstance(names, str) else list(names)
    known = {layer.name: layer for layer in _convolutions(model)}
    for name in wanted:
        if name not in known:
            raise unknown("convolution", str(name), known)
    return [known[name] for name in dict.fromkeys(wanted)]


def _convolutions(model: nn.Module) -> list[Layer]:
    return [layer for layer in weight_layers(model) if layer.kind != "linear"]


def _stumble(transaction: Transaction, batch: Batch) -> tuple[Layer | None, tuple[int, ...], ModelError | None]:
    """Run two samples, or all if the model needs a fixed number; return the layer that fails, its input, the error."""
    found: tuple[Layer | None, tuple[int, ...], ModelError | None] = (None, (), None)
    for part in (batch.head(2), batch)[: 1 + (batch.size > 2)]:
        where = CurrentLayer()
        transaction.rewind()
        try:
            with where.following(transaction.model):
                run(transaction.model, part, where)
        except ModelError as error:
            found = where.layer, where.shape, error
            if where.layer is not None:
                break
        else:
            return None, (), None
    return found


def _own_weight(model: nn.Module, layer: Layer) -> nn.Parameter:
    remedy = (
        "Remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations, or the remove_... function"
        " of the older forms), adapt, and apply it again."
    )
    if not is_plain(layer):
        raise WriteError(f"The weight of {layer.where} is computed from other parameters.", remedy=remedy)
    weight = layer.module._parameters["weight"]
    if type(weight) is not nn.Parameter:
        raise WriteError(f"The weight of {layer.where} is a {type(weight).__name__}, not a plain parameter.")
    for name, module in model.named_modules():
        for key, other in module._parameters.items():
            if other is weight and module is not layer.module:
                raise WriteError(
                    f"The weight of {layer.where} is tied to '{f'{name}.{key}'.lstrip('.')}'.",
                    remedy="Untie them, or tie them again afterwards.",
                )
    return weight
