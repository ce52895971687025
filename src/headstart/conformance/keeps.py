"""Checks: what a call must leave alone."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from headstart.api import MethodLike
from headstart.conformance.models import InPlaceInput, Reference, Remembering, images, labels
from headstart.conformance.runs import attempt, build, contract, refused, result, run
from headstart.conformance.state import require, require_close, same_bits


@contract
def keeps_structure(method: MethodLike) -> None:
    """State-dict keys, module types, parameter identity, dtype, device, layout and ``requires_grad`` stay."""
    model = build(Reference)
    model.get_parameter("norm.weight").requires_grad_(False)
    run(method, model, images())


@contract
def keeps_memory_format(method: MethodLike) -> None:
    """Channels-last weights stay channels-last, and come out as those of a contiguous model."""
    plain = result(method, build(Reference), images())
    model = build(Reference).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    other = result(method, model, images().contiguous(memory_format=torch.channels_last))
    weight = model.get_parameter("body.weight")
    require(weight.is_contiguous(memory_format=torch.channels_last), "'body.weight' lost its channels-last layout")
    require_close(plain, other, "contiguous and channels-last models")


@contract
def keeps_hooks(method: MethodLike) -> None:
    """The user's hooks stay and ours go, whether the call succeeds or fails."""
    model = build(Reference)
    model.register_forward_pre_hook(lambda module, args: None)
    for module in model.children():
        module.register_forward_hook(lambda module, args, output: None)
        module.register_forward_pre_hook(lambda module, args, kwargs: None, with_kwargs=True)
        module.register_full_backward_hook(lambda module, gradient, output: None)
    run(method, model, images())
    refused(method, model, images(channels=2))


@contract
def keeps_training_flags(method: MethodLike) -> None:
    """Every submodule stays in its own mode."""
    model = build(Reference).train()
    model.get_submodule("norm").eval()
    model.get_submodule("body").eval()
    run(method, model, images())
    model.eval().get_submodule("drop").train()
    run(method, model, images())


@contract
def keeps_gradients(method: MethodLike) -> None:
    """``.grad`` of every parameter stays the object and the value that it was, or None."""
    model = build(Reference)
    for parameter in list(model.parameters())[::2]:
        parameter.grad = torch.full_like(parameter, 0.5)
    run(method, model, images())


@contract
def keeps_pending_backward(method: MethodLike) -> None:
    """Layers that are not written can still run the backward pass of a loss computed before the call."""
    model = build(Reference).eval()
    head = model.get_submodule("head")
    loss = head(torch.ones(2, 12).requires_grad_()).sum()
    run(method, model, images(), exclude="head")
    loss.backward()


@contract
def keeps_batchnorm_buffers(method: MethodLike) -> None:
    """Running statistics and their counter stay, whatever the mode and momentum."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6, momentum=None),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        nn.InstanceNorm2d(6, track_running_stats=True),
        nn.Conv2d(6, 6, 3),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.Conv2d(6, 4, 1),
    )
    for mode in (True, False):
        run(method, model.train(mode), images())


@contract
def keeps_what_a_forward_stores(method: MethodLike) -> None:
    """State that the model's own forward keeps is put back: counters, cached tensors, late buffers, what grows."""
    model = build(Remembering)
    run(method, model, images())
    require(same_bits(model.last, torch.zeros(1)), "a tensor in an attribute was changed")


@contract
def keeps_random_states(method: MethodLike) -> None:
    """The global torch, numpy and Python random states stay, after success and after failure."""
    run(method, build(Reference), images())
    refused(method, build(Reference), images(channels=2))


@contract
def keeps_inputs(method: MethodLike) -> None:
    """The data stays as it was even if the model writes into its input; a loader's generator does not move."""
    x, y = images(), labels()
    before, version = x.clone(), x._version
    run(method, build(InPlaceInput), x)
    require(same_bits(x, before) and x._version == version, "the input tensor was written")
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, generator=generator)
    state = generator.get_state()
    run(method, build(InPlaceInput), loader)
    require(same_bits(x, before) and x._version == version, "a tensor of the data set was written")
    require(torch.equal(generator.get_state(), state), "the loader's generator was advanced")


@contract
def keeps_frozen_layers(method: MethodLike) -> None:
    """A layer without gradients stays bit for bit, and the report does not claim otherwise."""
    for name in ("body", "stem"):
        model = build(Reference)
        model.get_submodule(name).requires_grad_(False)
        report = attempt(method, model, images())
        if report is None:
            refused(method, model, images(), f"'{name}'", "frozen")
        else:
            require(name not in report.changed, f"the frozen layer '{name}' was written")


@contract
def keeps_frozen_biases(method: MethodLike) -> None:
    """A bias without gradients stays although its weight may be written."""
    model = build(Reference)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("bias")}
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    run(method, model, images())
    for name, value in frozen.items():
        require(same_bits(model.get_parameter(name), value), f"the frozen '{name}' changed")
