"""Sources of weights for any model, for the contract: what a trained network of the same architecture would be."""

import torch

from headstart import rng
from headstart.model.weights import weight_layers


def _network(model, number):
    """The model's tensors with noise that depends on their names."""
    own = {**model.state_dict(), **{la.key(): la.module.weight.detach() for la in weight_layers(model)}}
    found = {}
    for name, value in own.items():
        noise = _noise(name, value.shape, number).to(value)
        found[name] = value * (0.5 + noise) if value.is_floating_point() else value.clone()
    return found


def _noise(name, shape, number):
    """Attention's packed weights get what the three separate ones get."""
    if name.endswith("in_proj_weight"):
        rows = (shape[0] // 3, shape[1])
        return torch.cat([_noise(name.replace("in_proj", f"{block}_proj"), rows, number) for block in "qkv"])
    return torch.rand(shape, generator=rng.generator(number, name))


def first(model):
    return _network(model, 1)


def second(model):
    return _network(model, 2)
