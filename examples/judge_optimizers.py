"""Does Adam beat SGD here? Any two ways to train can be judged: arm, seed, score in, a verdict out.

Nothing of the benchmark is needed, nor any extra: the scores may come from wherever you train.

Run: python examples/judge_optimizers.py
"""

import torch
from torch import nn

from headstart.bench import judge

torch.set_num_threads(1)
angle = torch.rand(600, generator=torch.Generator().manual_seed(0)) * 9
spiral = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 9
inputs = torch.cat([spiral, -spiral])
labels = torch.arange(1200) // 600
seen = torch.randperm(1200, generator=torch.Generator().manual_seed(1))
train, test = seen[:400], seen[400:]


def accuracy(optimizer: str, seed: int) -> float:
    """Train a small network and return its test accuracy in percent. The same seed gives both the same start."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    update = {
        "sgd": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "adam": torch.optim.Adam(model.parameters(), lr=0.01),
    }[optimizer]
    for _ in range(150):
        update.zero_grad()
        nn.functional.cross_entropy(model(inputs[train]), labels[train]).backward()
        update.step()
    return 100 * (model(inputs[test]).argmax(1) == labels[test]).float().mean().item()


rows = [
    {"arm": optimizer, "seed": seed, "score": accuracy(optimizer, seed)}
    for optimizer in ("sgd", "adam")
    for seed in range(8)
]
print(judge(rows, margin=1.0))
