"""A small network and data for all hosts, and what a start is known by."""

import pytest
import torch
from torch import nn


def network():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


@pytest.fixture
def net():
    torch.manual_seed(0)
    return network()


@pytest.fixture
def images():
    return torch.randn(64, 1, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.arange(64) % 3


@pytest.fixture
def is_started(images):
    """Tell whether a model has the outputs of unit deviation that within-layer gives, and a default start has not."""

    def tell(model):
        with torch.no_grad():
            return abs(float(model[:3](images.to(torch.float32)).std()) - 1) < 0.15

    return tell


@pytest.fixture
def weights_of():
    return lambda model: [p.detach().clone() for p in model.parameters()]
