"""Fold trained batch norms into the layers before them: the same function with fewer modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from headstart import rng
from headstart.errors import ModelError, WriteError, one_error
from headstart.model import guard, inputs, weights
from headstart.model.forward import by_layer, full_precision
from headstart.model.hooks import hooked
from headstart.model.inputs import GetInputs
from headstart.model.norms import never_run
from headstart.model.returned import all_tensors
from headstart.model.transaction import Transaction
from headstart.model.weights import Layer, weight_layers
from headstart.restoring import Step, put_back
from headstart.symmetries.same_function import change, outputs

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Folded:
    """The result of folding.

    Attributes:
        layers: Name of each folded batch norm -> the layer that computes it now.
        left: Name of each batch norm that stayed -> why.
    """

    layers: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    _undo: list[Step] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Undo the folding: restore modules, weights and biases.

        Raises:
            ModelError: Some of it could not be restored; all else was.
        """
        self._back_to(0)
        self.layers.clear()

    def _back_to(self, done: int) -> None:
        steps = self._undo[done:][::-1]
        del self._undo[done:]
        put_back(steps)

    def __str__(self) -> str:
        text = f"{len(self.layers)} batch norms were folded into the layers before them."
        if self.left:
            reasons: dict[str, list[str]] = {}
            for name, reason in self.left.items():
                reasons.setdefault(reason, []).append(name)
            told = "; ".join(f"{', '.join(v[:3])}{' …' if len(v) > 3 else ''} ({k})" for k, v in reasons.items())
            text += f" {len(self.left)} stayed: {told}."
        return text


@one_error("hs.fold_batch_norms stopped at an error")
def fold_batch_norms(
    model: nn.Module, data: Any, *, samples: int | None = None, get_inputs: GetInputs | None = None
) -> Folded:
    """Fold trained batch norms into the layers before them, and replace the norms by ``Identity``.

    The idea: in evaluation mode a batch norm scales and shifts every channel by constants, which the weights
    and the bias of the layer before it can absorb. The function in evaluation mode does not change. In training mode
    the model no longer normalizes. That is the purpose: one network without norms to deploy, calibrate or fine-tune.

    Args:
        model: A trained model. Layers keep their weight parameters; layers without bias get one. The folded norms'
            tensors disappear from the ``state_dict``.
        data: As for :func:`headstart.initialize`. They show which norm takes which layer's output.
        samples: How many samples to use.
        get_inputs: Takes the model's inputs out of data of any other form.

    Returns:
        What was folded and what was not; its ``undo()`` reverses the folding.

    Raises:
        HeadstartError: The model cannot be run, or would compute another function. It is then unchanged.

    Cost: three forward passes of up to 16 samples; memory for a copy of the weights as long as the result exists.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
        >>> x = torch.randn(32, 1, 8, 8)
        >>> _ = net(x)  # training mode: the batch norm learns its statistics
        >>> y = net.eval()(x)
        >>> print(hs.fold_batch_norms(net, x))
        1 batch norms were folded into the layers before them.
        >>> torch.allclose(net(x), y, atol=1e-6), type(net[1]).__name__
        (True, 'Identity')
    """
    model = guard.unwrap(model)
    guard.check(model)
    if guard.is_lazy(model):
        raise ModelError("The model has lazy modules without shapes.", remedy="Run one batch through it first.")
    with rng.untouched(0), torch.inference_mode(False), torch.no_grad(), full_precision(model):
        batch = inputs.load(data, model, seed=0, samples=samples, get_inputs=get_inputs)
        watch = _Watch(model)
        with Transaction(model):
            before = outputs(watch.run, batch)
        if not before:
            raise ModelError(
                "The model returns no tensors that can be compared.",
                remedy="Fold a part of it that returns tensors, alone or in tuples, lists or dicts.",
            )
        # A layer with a forward of its own may not be linear in its weight: without those if it goes wrong with them.
        for own in (True, False):
            folded = Folded(left=dict(watch.left))
            try:
                for norm, layer in watch.pairs(own, folded.left):
                    _try(model, norm, layer, folded)
                with Transaction(model):
                    after = outputs(model, batch)
                if not change(before, after):
                    return folded
            except BaseException:
                folded.undo()
                raise
            folded.undo()
    raise ModelError(
        "With its batch norms folded, the model computes another function.",
        remedy="Check that its forward does not depend on attributes of the norms, or do not fold.",
    )


def _try(model: nn.Module, name: str, layer: Layer, folded: Folded) -> None:
    """Fold one pair, or leave it as it was if the layer's weight cannot be written."""
    done = len(folded._undo)
    try:
        _fold(model, name, layer, folded)
    except WriteError as error:
        folded._back_to(done)
        folded.left[name] = str(error).partition(".")[0]


def _fold(model: nn.Module, name: str, layer: Layer, folded: Folded) -> None:
    norm, module = model.get_submodule(name), layer.module
    scale, shift = _constants(norm)
    weight, bias = weights.read(layer), weights.read_bias(layer)
    stored = [(t, t.detach().clone()) for t in [*layer.weight_parameters(), *layer.weight_buffers()]]
    old = module._parameters.get("bias")
    kept = None if old is None else old.detach().clone()

    @torch.no_grad()
    def undo_layer() -> None:
        steps: list[Step] = [(layer.name, partial(tensor.copy_, value)) for tensor, value in stored]
        steps.append((layer.name, partial(weights.refresh, module)))
        steps.append((f"{layer.name}.bias", partial(module._parameters.__setitem__, "bias", old)))
        if old is not None and kept is not None:
            steps.append((f"{layer.name}.bias", partial(old.copy_, kept)))
        put_back(steps)

    folded._undo.append((layer.name, undo_layer))
    if old is None:
        like: Tensor = module.weight
        taught = norm.bias if isinstance(norm.bias, nn.Parameter) else like
        module._parameters["bias"] = nn.Parameter(
            torch.zeros(layer.out_channels, dtype=like.dtype, device=like.device), requires_grad=taught.requires_grad
        )
    scale, shift = scale.to(weight), shift.to(weight)
    weights.write(layer, weight * scale.view(-1, *[1] * (weight.dim() - 1)))
    weights.write_bias(layer, shift if bias is None else bias * scale + shift)
    rest = _rest(norm)
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is norm:
                parent._modules[key] = rest
                folded._undo.append((name, partial(parent._modules.__setitem__, key, norm)))
    folded.layers[name] = layer.name


def _constants(norm: Any) -> tuple[Tensor, Tensor]:
    """The factor and the shift of a batch norm, in float64."""
    scale: Tensor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def _rest(norm: nn.Module) -> nn.Module:
    """What remains of a norm: nothing, or the dropout and activation inside timm's norms."""
    parts = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    return (nn.Sequential(*parts) if parts else nn.Identity()).train(norm.training)


def _reason(norm: nn.Module) -> str | None:
    """Why a norm cannot be folded, independent of the layer before it."""
    kept = {"BatchNormAct2d": {"drop", "act"}, "FrozenBatchNorm2d": set()}.get(type(norm).__name__)
    if not (type(norm) in _PLAIN or (kept is not None and {n for n, _ in norm.named_children()} <= kept)):
        return "it is of an unknown class"
    if getattr(norm, "running_mean", None) is None:
        return "it has no running statistics"
    if isinstance(norm, _BatchNorm) and never_run(norm):
        return "it was never trained"
    if norm._forward_hooks or norm._forward_pre_hooks:
        return "it has hooks"
    return None


class _Watch(TorchDispatchMode):
    """Finds the layers whose output goes into one batch norm, and nowhere else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._norms = {n: m for n, m in model.named_modules() if "BatchNorm" in type(m).__name__}
        self._layers = {layer.name: layer for layer in weight_layers(model)}
        self._hooked = {layer.name for layer in self._layers.values() if layer.module._forward_hooks}
        self._reasons = {name: _reason(norm) for name, norm in self._norms.items()}
        self._calls: dict[str, int] = {}
        self._outputs: dict[int, tuple[str, Tensor]] = {}  # by storage, which is kept alive
        self._before: dict[str, str] = {}
        self._spoiled: set[str] = set()
        self._inside: str | None = None

    @property
    def left(self) -> dict[str, str]:
        return {name: reason for name, reason in self._reasons.items() if reason is not None}

    def pairs(self, own: bool, left: dict[str, str]) -> Iterator[tuple[str, Layer]]:
        """Each norm that can be folded, with its layer; ``left`` says why others cannot."""
        uses: dict[int, int] = {}
        for _, tensor in self._model.named_parameters(remove_duplicate=False):
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
        for name in self._norms:
            if self._reasons[name] is not None:
                continue
            source = self._before.get(name)
            if source is None:
                left[name] = "no layer's output goes straight into it"
            elif source in self._spoiled or self._calls[source] > 1 or self._calls[name] > 1:
                left[name] = "it, or the layer before it, is used more than once"
            elif source in self._hooked:
                left[name] = "the layer before it has hooks"
            elif any(uses.get(id(t), 1) > 1 for t in self._layers[source].module.parameters()):
                left[name] = "the weights before it are shared"
            elif not own and type(self._layers[source].module).__module__.split(".")[0] != "torch":
                left[name] = "the layer before it has its own forward"
            else:
                yield name, self._layers[source]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model and watch."""
        norms = [(name, norm) for name, norm in self._norms.items() if self._reasons[name] is None]
        with (
            hooked(by_layer(self._layers.values()), after=self._made, place="last"),
            hooked(norms, self._enter, self._leave, place="last"),
            self,
        ):
            returned = self._model(*args, **kwargs)
        for leaf in all_tensors(returned):  # it has a user outside
            self._spoil(leaf)
        return returned

    def _made(self, layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        self._calls[layer.name] = self._calls.get(layer.name, 0) + 1
        if isinstance(output, Tensor) and layer.channel_axis(output) == 1:
            self._outputs[output.untyped_storage().data_ptr()] = (layer.name, output)

    def _enter(self, name: str, args: tuple[Any, ...], kwargs: Any) -> None:
        self._calls[name] = self._calls.get(name, 0) + 1
        found = self._outputs.get(args[0].untyped_storage().data_ptr()) if args else None
        channels = len(self._norms[name].running_mean)
        if found is not None and args[0] is found[1] and channels == args[0].shape[1]:
            if found[0] in self._before.values():  # of another norm, or of this one before
                self._spoiled.add(found[0])
            self._before[name] = found[0]
            self._inside = found[0]

    def _leave(self, *_: Any) -> None:
        self._inside = None

    def _spoil(self, value: Any) -> None:
        found = self._outputs.get(value.untyped_storage().data_ptr()) if isinstance(value, Tensor) else None
        if found is not None and found[0] != self._inside:
            self._spoiled.add(found[0])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_flatten((args, kwargs or {}))[0]:
            self._spoil(leaf)
        return func(*args, **(kwargs or {}))
