"""Small networks that are made ill and mended, and the task that they learn meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from architectures import images
from planting import ILLNESSES
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs

STEPS, SAMPLES, CLASSES, SIDE = 60, 32, 4, 16


class Transformer(nn.Module):
    """Patches, positions, three encoder layers: clones of each other, as the framework makes them, or drawn anew."""

    def __init__(self, cloned: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, 32))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True), 3, enable_nested_tensor=False
        )
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, CLASSES)
        for module in () if cloned else self.encoder.modules():
            for name in ("reset_parameters", "_reset_parameters"):
                if hasattr(module, name):
                    getattr(module, name)()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        value = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.encoder(value)).mean(1))
        return logits


def plain(depth: int = 6, kaiming: bool = True) -> nn.Module:
    """Convolutions without norms."""
    layers = [part for i in range(depth) for part in (nn.Conv2d(3 if i == 0 else 24, 24, 3, padding=1), nn.ReLU())]
    for layer in layers if kaiming else ():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(24 * 16, CLASSES))


def normed() -> nn.Module:
    """Convolutions with batch norms."""
    sizes = [3, 16, 32, 32, 64, 64]
    parts = [part for a, b in pairwise(sizes) for part in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def perceptron() -> nn.Module:
    """Linear layers of many widths, with a tanh and a ReLU each."""
    sizes = [3 * SIDE * SIDE, 64, 256, 32, 256, 32, 128]
    parts: list[nn.Module] = [nn.Flatten()]
    for i, (a, b) in enumerate(pairwise(sizes)):
        parts += [nn.Linear(a, b), nn.Tanh() if i % 2 else nn.ReLU()]
    parts.append(nn.Linear(128, CLASSES))
    for layer in parts:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return nn.Sequential(*parts)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "6 convolutions": plain,
    "convolutions with batch norm": normed,
    "perceptron": perceptron,
    "transformer": lambda: Transformer(cloned=False),
}


def constant(model: nn.Module) -> None:
    """One layer's weights are all equal."""
    nn.init.constant_(_middle(model).weight, 0.05)


def vanishing(model: nn.Module) -> None:
    """One layer's weights are a hundred thousandth of what they were, and biases are zero."""
    with torch.no_grad():
        _middle(model).weight.mul_(1e-5)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()


def huge(model: nn.Module) -> None:
    """One raw parameter holds 1e37."""
    with torch.no_grad():
        model.get_parameter("positions").mul_(0).add_(1e37)


def _middle(model: nn.Module) -> nn.Module:
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return layers[len(layers) // 2]


# (what is planted, into which networks, which findings are then mended)
CASES: list[tuple[str, list[str], tuple[str, ...]]] = [
    ("NaN in a norm", ["convolutions with batch norm", "transformer"], ("not finite",)),
    ("1e37 in a position embedding", ["transformer"], ("huge values",)),
    ("equal weights", ["6 convolutions", "perceptron", "convolutions with batch norm"], ("constant weights",)),
    ("clones", ["6 convolutions", "transformer", "perceptron"], ("duplicates",)),
    ("clones of nn.TransformerEncoder", ["cloned transformer"], ("duplicates",)),
    ("swapped fan", ["perceptron"], ("swapped fan",)),
    ("exploding branch", ["6 convolutions", "perceptron"], ("activations explode",)),
    ("exploding layer of a transformer", ["transformer"], ("activations explode",)),
    ("vanishing layer", ["6 convolutions", "perceptron"], ("activations vanish",)),
    ("20 layers, the framework's start", ["20 convolutions"], ("signals lost",)),
    ("20 layers, the framework's start", ["20 convolutions"], ("gradient spread",)),
    ("saturated sigmoid", ["perceptron"], ("saturated units",)),
    ("dead layer", ["6 convolutions", "perceptron", "convolutions with batch norm"], ("dead units",)),
]


def patient(illness: str, network: str, seed: int) -> tuple[nn.Module, Tensor]:
    """Build a network and make it ill."""
    torch.manual_seed(seed)
    if network == "20 convolutions":
        return plain(20, kaiming=False), task(seed, 0)[0]
    model = Transformer(cloned=True) if network == "cloned transformer" else NETWORKS[network]()
    x = task(seed, 0)[0]
    if illness in ("clones of nn.TransformerEncoder",):
        return model, x
    own = {"equal weights": constant, "vanishing layer": vanishing, "1e37 in a position embedding": huge}
    if illness in own:
        own[illness](model)
    elif illness == "exploding layer of a transformer":
        with torch.no_grad():
            model.get_parameter("encoder.layers.1.linear1.weight").mul_(1e6)
    elif ILLNESSES[illness](model, x, hs.diagnose(model, x)) is None:
        raise RuntimeError(f"{network} has no place for {illness}")
    return model, x


def task(seed: int, step: int) -> tuple[Tensor, Tensor]:
    """A batch of a task: which of four fields with long waves is hidden in another one?"""
    templates = images(CLASSES, 3, SIDE, seed=1000 + seed)
    labels = torch.arange(SAMPLES) % CLASSES
    return templates[labels] + images(SAMPLES, 3, SIDE, seed=10_000 * (seed + 1) + step), labels


def train(model: nn.Module, seed: int) -> float:
    """Train for 60 steps; the mean loss of the last five, infinite if it is not finite."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(STEPS):
        x, labels = task(seed, step)
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    last = sum(losses[-5:]) / 5
    return last if math.isfinite(last) else math.inf
