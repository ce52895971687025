"""Start a small network of your own from its data, and see what changed.

Run: python examples/quickstart.py
"""

import torch
from torch import nn

import headstart as hs

torch.manual_seed(0)

# Your model and your data; here, images with soft stripes of one of two directions.
model = nn.Sequential(
    nn.Conv2d(1, 16, 5, padding=2),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 2),
)
labels = torch.randint(0, 2, (256,))
stripes = torch.sin(torch.arange(20) / 2 + 6 * torch.rand(256, 1))[:, None, None, :].expand(-1, 1, 20, 20)
images = torch.where(labels.view(-1, 1, 1, 1) == 1, stripes, stripes.mT) + 0.3 * torch.randn(256, 1, 20, 20)

# One call. It writes half of the first convolution's filters, or raises and leaves the model as it was.
report = hs.initialize(model, images, "prewarm", seed=0)
print(report)
print("written:", report.changed)

# Then train as always.
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for step in range(30):
    batch = slice(32 * (step % 8), 32 * (step % 8) + 32)
    loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss after 30 steps: {loss.item():.3f}")

# With the extra "plot": the filters before and after.
# report.plot_filters().savefig("filters.png")
