"""Sources of weights for any model, for the contract: what a trained network of the same architecture would be."""

import torch

from headstart import rng
from headstart.model.weights import weight_layers


def _network(model, number):
    """The model's tensors with noise that depends on their names."""
    own = {**model.state_dict(), **{la.key(): la.module.weight.detach() for la in weight_layers(model)}}
    found = {}
    for name, value in own.items():
        noise = torch.rand(value.shape, generator=rng.generator(number, name)).to(value)
        found[name] = value * (0.5 + noise) if value.is_floating_point() else value.clone()
    return found


def first(model):
    return _network(model, 1)


def second(model):
    return _network(model, 2)
