"""Small models and batches, each with one of the things that break initializers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def images(samples: int = 16, channels: int = 3, size: int = 9, *, dims: int = 2) -> Tensor:
    """Uniform values in [0, 1], as raw pixels are."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(samples, channels, *[size] * dims, generator=generator)


def labels(samples: int = 16) -> Tensor:
    """Class numbers."""
    return torch.arange(samples) % 5


class Reference(nn.Module):
    """A residual network with and without normalization, with dropout, with and without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 12, 1, bias=False)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12, 5)
        assert isinstance(self.norm.running_mean, Tensor)
        assert isinstance(self.norm.running_var, Tensor)
        self.norm.running_mean.uniform_(-0.1, 0.1)
        self.norm.running_var.uniform_(0.5, 2)

    def features(self, x: Tensor) -> Tensor:
        """Everything but the head."""
        x = F.relu(self.norm(self.stem(x)))
        x = x + F.relu(self.body(x))
        return self.drop(F.relu(self.wide(x)).mean((2, 3)))

    def forward(self, x: Tensor) -> Any:
        """Class scores."""
        return self.head(self.features(x))


class Reordered(Reference):
    """The same network, its layers registered in reverse."""

    def __init__(self) -> None:
        super().__init__()
        children = dict(self._modules)
        self._modules.clear()
        self._modules.update(reversed(children.items()))


class Branched(Reference):
    """The same network with one more layer, registered first and run between the others."""

    def __init__(self) -> None:
        super().__init__()
        children = dict(self._modules)
        self._modules.clear()
        self.aside = nn.Linear(9, 4)
        self._modules.update(children)

    def forward(self, x: Tensor) -> Any:
        """Class scores and the new layer's output."""
        x = F.relu(self.norm(self.stem(x)))
        aside = self.aside(x)
        x = x + F.relu(self.body(x))
        return self.head(self.drop(F.relu(self.wide(x)).mean((2, 3)))), aside


class Ticking(Reference):
    """The same network, calling ``tick`` before, between and after its layers."""

    def tick(self) -> None:
        """Do nothing; a check puts an exception here."""

    def forward(self, x: Tensor) -> Any:
        """Class scores."""
        self.tick()
        x = F.relu(self.norm(self.stem(x)))
        self.tick()
        x = x + F.relu(self.body(x))
        self.tick()
        x = self.head(F.relu(self.wide(x)).mean((2, 3)))
        self.tick()
        return x


class Remembering(Reference):
    """The same network with a forward that keeps state: counters, a late buffer, tensors that grow."""

    calls: Tensor
    sizes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("sizes", torch.empty(0))
        self.seen, self.last = 0, torch.zeros(1)

    def forward(self, x: Tensor) -> Any:
        """Class scores."""
        self.seen += 1
        self.calls.data.add_(1)
        self.sizes.resize_(len(x)).fill_(1)
        self.last.data = x.detach().clone()
        if not hasattr(self, "cache"):
            self.register_buffer("cache", x.mean())
        return super().forward(x)


class InPlaceInput(Reference):
    """The same network, with a first step that writes into its input."""

    def forward(self, x: Tensor) -> Any:
        """Class scores."""
        return super().forward(x.mul_(0.5))


class ByKeyword(Reference):
    """The same network, called by keyword only."""

    def forward(self, *, image: Tensor, scale: float = 1.0) -> Any:  # type: ignore[override]
        """Class scores."""
        return super().forward(image * scale)


class Named(Reference):
    """The same network, its input called ``image``."""

    def forward(self, image: Tensor) -> Any:
        """Class scores."""
        return super().forward(image)


class TwoInputs(Reference):
    """An image and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(4, 12)

    def forward(self, image: Tensor, vector: Tensor) -> Any:  # type: ignore[override]
        """Class scores."""
        return self.head(self.features(image) + self.side(vector))


def stack(*layers: nn.Module) -> nn.Sequential:
    """Layers with a ReLU behind each but the last."""
    modules: list[nn.Module] = []
    for layer in layers:
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


class Shared(nn.Module):
    """A convolution that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.loop = nn.Conv2d(6, 6, 3, padding=1)
        self.again = self.loop
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = F.relu(self.stem(x))
        for layer in (self.loop, self.again, self.loop):
            x = F.relu(layer(x))
        return self.head(x.mean((2, 3)))


def tied_convolutions() -> nn.Module:
    """Two modules over one weight, each with its own bias."""
    model = stack(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 4, 3))
    model[4].weight = model[2].weight
    return model


def tied_linears() -> nn.Module:
    """A convolution, then two linear modules over one weight."""
    model = stack(nn.Conv2d(3, 6, 3), nn.Linear(7, 7), nn.Linear(7, 7), nn.Linear(7, 4))
    model[4].weight = model[2].weight
    return model


class TiedText(nn.Module):
    """A language model whose last layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.mix = nn.Conv1d(8, 8, 3, padding=1)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token."""
        x = self.mix(self.embedding(tokens).mT).mT
        return self.head(F.gelu(self.inner(F.gelu(x))))


def tokens() -> Tensor:
    """Token numbers."""
    return torch.randint(0, 11, (16, 6), generator=torch.Generator().manual_seed(0))
