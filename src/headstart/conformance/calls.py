"""Checks: forms of data, and the circumstances of a call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from headstart.api import MethodLike
from headstart.conformance.models import ByKeyword, Named, Reference, TwoInputs, images, labels
from headstart.conformance.runs import attempt, build, contract, needs_data, refused, result, run
from headstart.conformance.state import require_equal


def _same(method: MethodLike, factory: type[nn.Module], *forms: Any, **options: Any) -> None:
    plain = result(method, build(Reference), images())
    for data in forms:
        found = result(method, build(factory), data, **options)
        require_equal(plain, found, f"a tensor and a {type(data).__name__}")


@contract
def tuple_inputs(method: MethodLike) -> None:
    """Pairs, lists, arrays and loaders of inputs and targets give the bits of the input tensor."""
    x, y = images(), labels()
    _same(
        method,
        Reference,
        (x, y),
        [x, y],
        x.numpy(),
        (x.numpy(), np.asarray(y)),
        [(x, y)],
        iter([(x, y), (x, y)]),
        DataLoader(TensorDataset(x, y), batch_size=16),
    )


@contract
def dict_inputs(method: MethodLike) -> None:
    """A dict goes to the arguments of its names; labels stay behind."""
    x, y = images(), labels()
    _same(method, Named, {"image": x, "label": y}, ({"image": x}, y), [{"image": x, "label": y}])


@contract
def keyword_inputs(method: MethodLike) -> None:
    """A forward with keyword-only arguments."""
    _same(method, ByKeyword, {"image": images()})


@contract
def unpacked_inputs(method: MethodLike) -> None:
    """``get_inputs`` reaches into a batch of any form."""
    data = [{"sample": {"pixels": images()}}]
    _same(method, Reference, data, get_inputs=lambda batch: batch["sample"]["pixels"])


@contract
def several_inputs(method: MethodLike) -> None:
    """A model with two inputs, by position, by name and from pairs of inputs and targets."""
    x, v, y = images(), images(channels=4, size=1).flatten(1), labels()
    found = [
        result(method, build(TwoInputs), data)
        for data in ((x, v), (x, v, y), ((x, v), y), {"image": x, "vector": v, "label": y})
    ]
    for other in found[1:]:
        require_equal(found[0], other, "forms of two inputs")


@contract
def datasets(method: MethodLike) -> None:
    """A data set is drawn from by the seed; ``samples`` limits it and gathers several batches of a loader."""
    data = TensorDataset(images(24), labels(24))
    found = [result(method, build(Reference), data, samples=16) for _ in range(2)]
    require_equal(found[0], found[1], "two draws from a data set")
    loader = DataLoader(data, batch_size=6)
    gathered = result(method, build(Reference), loader, samples=16)
    require_equal(gathered, result(method, build(Reference), images(24)[:16]), "16 samples of a loader and of a tensor")


@contract
def without_data(method: MethodLike) -> None:
    """Without data it works, or says that it needs some."""
    if needs_data(method):
        refused(method, build(Reference), None, "data")
    else:
        run(method, build(Reference), None)


@contract
def training_or_evaluation_mode(method: MethodLike) -> None:
    """The mode of the model changes nothing: dropout is off and running statistics are used in both."""
    train, evaluate = (result(method, build(Reference).train(mode), images()) for mode in (True, False))
    require_equal(train, evaluate, "training and evaluation mode")


@contract
def surroundings_do_not_matter(method: MethodLike) -> None:
    """Inside no_grad, inference mode or autocast the bits are the same."""
    plain = result(method, build(Reference), images())
    with torch.no_grad():
        require_equal(plain, result(method, build(Reference), images()), "with and without no_grad")
    with torch.autocast("cpu", torch.bfloat16):
        require_equal(plain, result(method, build(Reference), images()), "with and without autocast")
    model = build(Reference)
    with torch.inference_mode():
        run(method, model, images())
    require_equal(plain, {n: p.detach() for n, p in model.named_parameters()}, "with and without inference mode")
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise AssertionError(f"'{name}' became an inference tensor")


@contract
def repeats(method: MethodLike) -> None:
    """A second call on its own result works (or is refused) as the first did."""
    model = build(Reference)
    run(method, model, images())
    attempt(method, model, images())
