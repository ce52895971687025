"""A deep plain network whose start has forgotten its input, and what mends it.

Twenty 3x3 convolutions with ReLU, initialized as the framework does. The deviation of each layer's output looks
healthy, about 0.04 at any depth. But it comes from the biases: what differs between two inputs shrinks to about
1e-8 of a unit at the last layer, below what float32 can carry. No training signal comes back through that.

Run: python examples/deep_collapse.py
"""

import torch
from torch import nn

import headstart as hs


def build(depth: int = 20, width: int = 32) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(3 if i == 0 else width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def show(diagnosis: hs.Diagnosis) -> None:
    for row in diagnosis.rows[:: len(diagnosis.rows) // 4] + diagnosis.rows[-1:]:
        print(f"  layer {row.name:>2}: output std {row.output_std:.2g}, across samples {row.across_sample_std:.2g}")
    for sentence in diagnosis.sentences():
        print(f"  • {sentence}")


torch.manual_seed(0)
model = build()
images = torch.randn(64, 3, 16, 16)

print("the framework's start:")
before = hs.diagnose(model, images, seed=0)
show(before)

hs.initialize(model, images, "within-layer", seed=0)

print("after within-layer normalization:")
after = hs.diagnose(model, images, seed=0)
show(after)

# With the extra "plot": both deviations and the gradient/weight ratio over depth.
# before.plot().savefig("before.png"); after.plot().savefig("after.png")
