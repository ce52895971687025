"""Take a network that was trained on three channels to other data: one channel, then five bands with names.

Run: python examples/adapt_channels.py
"""

import copy

import torch
from torch import nn

import headstart as hs

torch.manual_seed(0)


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour images with horizontal or vertical stripes."""
    labels = torch.randint(0, 2, (count,))
    stripes = torch.sin(torch.arange(20) / 2 + 6 * torch.rand(count, 1))[:, None, None, :].expand(-1, 3, 20, 20)
    tints = 0.5 + torch.rand(count, 3, 1, 1)
    drawn = torch.where(labels.view(-1, 1, 1, 1) == 1, stripes, stripes.mT)
    return tints * drawn + 0.3 * torch.randn(count, 3, 20, 20), labels


# A network trained on colour images; yours comes from a checkpoint.
trained = nn.Sequential(
    nn.Conv2d(3, 16, 5, padding=2, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 16, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 2),
)
optimizer = torch.optim.Adam(trained.parameters(), lr=3e-3)
for _ in range(60):
    colour, labels = images(64)
    loss = nn.functional.cross_entropy(trained(colour), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
trained.eval()


def accuracy(model: nn.Module, data: torch.Tensor) -> float:
    return float((model(data).argmax(1) == labels).float().mean())


colour, labels = images(400)
print(f"colour: {accuracy(trained, colour):.2f}")

# One channel, at ten times the scale: the batch norm behind the layer knows which deviation it expects.
grey = 10 * colour.mean(1, keepdim=True)
model = copy.deepcopy(trained)
report = hs.adapt_conv(model, 1, data=grey)
print(f"grey: {accuracy(model, grey):.2f}, weights times {report.responses[0].factors[0]:.2f}")

# Five bands: three are the old colours, in another order; the others start at zero and learn from there.
bands = torch.cat([colour.flip(1), torch.randn(400, 2, 20, 20)], 1)
model = copy.deepcopy(trained)
report = hs.adapt_conv(
    model, 5, names=["blue", "green", "red", "nir", "swir"], source_names=["red", "green", "blue"], data=bands
)
print(report)
print(f"five bands: {accuracy(model, bands):.2f}")

# The weight is a new parameter: make the optimizer now, not before.
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
