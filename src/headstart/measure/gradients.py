"""One forward and one backward pass in which a probe measures every layer. Nothing is changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from headstart import rng
from headstart.errors import HeadstartError
from headstart.measure.positions import Places, Positions
from headstart.measure.probe import Probe, UsedWeights, weight_gradients
from headstart.measure.sample_gradients import SampleGradients, directions
from headstart.model import inputs
from headstart.model.forward import CurrentLayer, by_layer, first_input, run
from headstart.model.hooks import hooked
from headstart.model.inputs import Batch
from headstart.model.norms import as_in_training
from headstart.model.returned import all_tensors
from headstart.model.tensors_together import copies, form
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer
from headstart.numerics.moments import across_sample_std

LossFunction = Callable[[Any, Any], Tensor]
Counting = Callable[[Tensor], Places | None]


@dataclass
class Passes:
    """What the forward and backward pass showed.

    Attributes:
        probe: Its measurements of every layer's output, if outputs were measured.
        gradients: Gradients of the effective weights, as the layers store them; None where there is none, or for all if
            they could not be measured.
        notes: Why they could not be measured.
        returned: For every floating-point tensor that the model returned: its deviation between samples and over all. A
            tensor without values has neither.
    """

    probe: Probe
    gradients: dict[str, Tensor | None] | None = None
    notes: list[str] = field(default_factory=list)
    returned: list[tuple[float, float] | None] = field(default_factory=list)


def forward_backward(
    model: nn.Module,
    trace: ModelTrace,
    batch: Batch,
    raw: Any,
    loss_fn: LossFunction | None,
    seed: int,
    samples: SampleGradients | None = None,
    *,
    look: bool = True,
) -> Passes:
    """Run the model forward and backward on copies of its parameters.

    Args:
        model: In evaluation mode, inside a transaction. Fresh batch norms act as in training.
        trace: The trace of the model.
        batch: The inputs.
        raw: The batch with its targets, for the loss.
        loss_fn: ``loss_fn(outputs, raw) -> scalar``; None for independent normal gradients at the outputs. With a mask
            these are zero at positions that do not count, and no gradient passes through such a position of a layer.
        seed: The seed of these gradients.
        samples: Watches both passes; the gradients at the outputs are then drawn orthogonal to each other.
        look: Whether outputs are measured too, and not only gradients.

    Raises:
        HeadstartError: The forward or the loss failed.

    Cost: one forward and one backward pass; the memory of one more copy of the model and of the activations.
    """
    where = CurrentLayer()
    called = [*trace.layers, *(part for part in trace.parts if part.is_called)]
    probe = Probe(called, Positions(batch.masks))
    used = UsedWeights(called, where)
    stand_ins = _stand_ins(model)
    own = {id(p): stand_ins[n] for n, p in model.named_parameters()}
    passes = Passes(probe)
    with ExitStack() as stack:
        stack.enter_context(_undisturbed(model))
        if batch.size > 1:  # one sample has no batch statistics
            stack.enter_context(as_in_training(model))
        stack.enter_context(parametrize.cached())  # one weight per layer, so that its gradient can be asked for
        stack.enter_context(torch.enable_grad())
        fresh = batch.head(batch.size)  # a model may write into its input
        with ExitStack() as watching:
            watching.enter_context(_masked(trace.layers, probe.positions))
            watching.enter_context(samples.hooked() if samples else nullcontext())
            watching.enter_context(used.hooked())
            if look:
                watching.enter_context(probe.hooked(model))
                watching.enter_context(probe)
            returned = run(partial(_call, model, stand_ins), fresh, where)
        tops = [layer for layer in trace.layers if layer.name in trace.outputs]
        counting = partial(probe.positions.places, tops)
        passes.returned = _looked_at(returned, counting) if look else []
        try:
            turned = samples is not None
            top, top_gradients = _top(returned, raw, loss_fn, batch, model, seed, turned, counting)
            if top:
                passes.gradients = weight_gradients(top, top_gradients, trace, used.found, own)
            else:
                passes.notes.append("Gradients were not measured: the model's output does not depend on its weights.")
        except RuntimeError as error:
            if isinstance(error, HeadstartError):
                raise
            reason = " ".join(str(error).split())
            passes.notes.append(f"Gradients could not be measured: {type(error).__name__}: {reason}")
    return passes


@torch.no_grad()
def _stand_ins(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters. Their gradients touch neither flags nor the user's gradient hooks."""
    named = dict(model.named_parameters())
    plain = [name for name, p in named.items() if form(p) is not None]
    found = dict(zip(plain, copies([named[name] for name in plain]), strict=True))
    for name, p in named.items():
        copy = found[name] if name in found else p.detach().clone()
        found[name] = copy.requires_grad_(p.is_floating_point() or p.is_complex())
    return found


@torch.no_grad()
def _looked_at(returned: Any, counting: Counting) -> list[tuple[float, float] | None]:
    found: list[tuple[float, float] | None] = []
    for value in all_tensors(returned):
        if value.is_floating_point() and value.dim():
            wide = value.detach().double()
            if not wide.numel():
                found.append(None)
            elif (places := counting(wide)) is not None:
                found.append((places.across_sample_std(wide), places.std(wide)))
            else:
                found.append((across_sample_std(wide), float(wide.std(correction=0))))
    return found


def _call(model: nn.Module, stand_ins: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    return torch.func.functional_call(model, stand_ins, args, kwargs)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Keep the user's backward hooks from running, and undo what torch leaves exchanged in shared modules."""
    held = [(m, m._backward_hooks, m._backward_pre_hooks, dict(m._parameters)) for m in model.modules()]
    for module, *_ in held:
        module._backward_hooks, module._backward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, hooks, pre_hooks, parameters in held:
            module._backward_hooks, module._backward_pre_hooks = hooks, pre_hooks
            module._parameters.update(parameters)


@contextmanager
def _masked(layers: Sequence[Layer], positions: Positions) -> Iterator[None]:
    """Let no gradient pass through the positions of a layer's output that do not count.

    Enter it before anything that reads gradients: hooks on a tensor see what earlier hooks made of its gradient.
    """

    def leave(layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        positions.follow(layer, first_input(args, kwargs), output)
        if not isinstance(output, Tensor) or not output.requires_grad:
            return
        counted = positions.of(layer, output)
        if counted is not None:
            places = counted.unsqueeze(layer.channel_axis(output))
            output.register_hook(lambda gradient: gradient.masked_fill(~places, 0))

    with hooked(by_layer(layers) if positions else (), after=leave):
        yield


def _top(
    returned: Any,
    raw: Any,
    loss_fn: LossFunction | None,
    batch: Batch,
    model: nn.Module,
    seed: int,
    turned: bool,
    counting: Counting,
) -> tuple[list[Tensor], list[Tensor] | None]:
    """What to differentiate, and the gradients at the outputs."""
    if loss_fn is None:
        outputs = [t for t in all_tensors(returned) if t.requires_grad]
        drawn = [
            _drawn_where(counting(t), t, turned, rng.generator(seed, "top gradient", str(i))) / max(1, batch.size)
            for i, t in enumerate(outputs)
        ]
        return outputs, drawn
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        loss = loss_fn(returned, inputs.map_tensors(raw, lambda t: t.to(device)))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise HeadstartError(
            f"loss_fn failed: {type(error).__name__}: {reason}.",
            remedy="It gets the model's outputs and the whole batch, and returns a scalar.",
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise HeadstartError(f"loss_fn returned {what}.", remedy="Return a scalar tensor, such as the mean loss.")
    return ([loss], None) if loss.requires_grad else ([], None)


def _drawn_where(places: Places | None, output: Tensor, turned: bool, generator: torch.Generator) -> Tensor:
    """Draw a gradient for an output: zero at places that do not count, and elsewhere as if these did not exist."""
    if places is None or not output.numel():
        return _drawn(output, turned, generator).to(output)
    rows, counted = torch.zeros_like(places.rows(output.detach())), places.counted.flatten(1)
    flat = rows.flatten(1, -2)  # (N, places, C)
    number = counted.sum(1, keepdim=True)
    packed = flat[:, : int(number.max())]
    first = places.axis == 1  # channels first: in the order in which it would be drawn without the others
    drawn = _drawn(packed.movedim(-1, 1) if first else packed, turned, generator).to(flat)
    kept = torch.arange(packed.shape[1], device=counted.device) < number
    flat[counted] = (drawn.movedim(1, -1) if first else drawn)[kept]
    return places.back(flat.reshape(rows.shape))


def _drawn(output: Tensor, turned: bool, generator: torch.Generator) -> Tensor:
    """Draw a gradient for an output: independent normal numbers, or orthogonal samples."""
    if output.is_complex():
        return torch.randn(output.shape, generator=generator, dtype=torch.complex64)
    if not turned or output.dim() < 2 or not output.numel():
        return torch.randn(output.shape, generator=generator)
    return directions(len(output), output[0].numel(), generator).reshape(output.shape)
