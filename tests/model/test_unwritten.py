"""Memory that nobody has written is told of."""

import pytest
import torch
from torch import nn

import headstart as hs


@pytest.mark.parametrize(
    ("name", "value"), [("weight", 2e9), ("bias", float("nan")), ("running_var", 0.0), ("running_mean", 3e-41)]
)
def test_a_model_whose_norms_nobody_wrote_says_so(name, value):
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model.to_empty(device="cpu")
    model[1].reset_parameters()
    nn.init.normal_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    x = torch.randn(64, 3, 8, 8)
    assert not any("nobody" in note for note in hs.initialize(model, x, "default").notes)
    with torch.no_grad():
        getattr(model[1], name).fill_(value)
    (note,) = hs.initialize(model, x, "default").notes
    assert f"'1.{name}'" in note
    assert "hs.materialize" in note
