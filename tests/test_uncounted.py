"""What torch or a loader does not count must not slip through: buffers that batch norm moves, odd batches."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import headstart as hs


class AlwaysTraining(nn.Module):
    """A batch norm of one's own that updates its statistics in evaluation mode too, without a version bump."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x):
        return F.batch_norm(self.layer(x), self.mean, self.var, training=True)


def test_buffers_that_move_without_being_counted_are_restored():
    model, x = AlwaysTraining(), torch.randn(64, 4) + 3
    version = model.mean._version
    model(x)
    assert model.mean._version == version  # if torch starts to count, the comparison of values can go
    model = AlwaysTraining()
    for call in (hs.diagnose, hs.initialize, hs.compute):
        call(model, x)
        assert torch.equal(model.mean, torch.zeros(4)), call
        assert torch.equal(model.var, torch.ones(4)), call


def test_batches_without_a_size_are_taken_once_and_not_to_the_end():
    taken = []

    def stream():
        for _ in range(1000):
            taken.append(1)
            yield {"image": object(), "pixels": [1.0] * 3}

    model = nn.Linear(3, 2)
    get_inputs = lambda batch: torch.tensor(batch["pixels"]).repeat(40, 1) + torch.randn(40, 3)  # noqa: E731
    hs.initialize(model, stream(), "within-layer", samples=16, get_inputs=get_inputs)
    assert len(taken) == 1
