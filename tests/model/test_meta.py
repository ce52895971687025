"""Models of the meta device get memory and their modules' own start; what has none is named."""

import pytest
import torch
from torch import nn

import headstart as hs


def on_meta(build):
    with torch.device("meta"):
        return build()


def everything():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.PReLU(),
        nn.Embedding(5, 4, padding_idx=1),
        nn.LSTM(4, 3),
        nn.Bilinear(2, 3, 4),
        nn.MultiheadAttention(8, 2),
    )


def test_every_module_of_torch_gets_its_own_start():
    model, plain = on_meta(everything), everything()
    before = torch.get_rng_state()
    assert hs.materialize(model, seed=3) == []
    assert torch.equal(before, torch.get_rng_state())
    for (name, mine), (other, theirs) in zip(model.state_dict().items(), plain.state_dict().items(), strict=True):
        assert name == other
        assert (mine.shape, mine.dtype, mine.device) == (theirs.shape, theirs.dtype, theirs.device)
        if theirs.unique().numel() < 3:  # what constructors set to ones and zeros
            assert torch.equal(mine, theirs), name
        elif theirs.numel() > 20:
            assert float(mine.std()) == pytest.approx(float(theirs.std()), rel=0.5), name
    assert not model[5].weight[1].any()
    assert model[6](torch.randn(2, 1, 4))[0].isfinite().all()
    again = on_meta(everything)
    hs.materialize(again, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    hs.initialize(model[:1], torch.randn(64, 3, 8, 8), "lsuv")


def test_a_transformer_is_written_by_its_own_method():
    model = on_meta(lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True))
    assert hs.materialize(model) == []
    limit = (6 / 32) ** 0.5  # Xavier's, of the whole transformer's _reset_parameters
    weight = model.encoder.layers[0].self_attn.out_proj.weight.detach()
    assert 0.9 * limit < float(weight.abs().max()) <= limit


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.register_buffer("index", torch.arange(4))
        self.f = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.g = nn.Linear(8, 8)
        self.h = nn.Linear(8, 8)
        self.h.weight = self.g.weight


def test_what_no_method_writes_is_named_and_holds_no_start():
    model = on_meta(Vit)
    names = hs.materialize(model)
    parts = [f"f.parametrizations.weight.original{i}" for i in (0, 1)]
    assert sorted(names) == sorted(["token", "index", *parts])
    assert model.token.isnan().all()
    assert (model.index < 0).all()
    assert model.h.weight is model.g.weight
    assert model.g.weight.isfinite().all()
    assert isinstance(model.token, nn.Parameter)


def test_what_is_there_keeps_its_values():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    kept = model[0].weight.detach().clone()
    model[0].bias = nn.Parameter(torch.empty(4, device="meta"), requires_grad=False)
    model[1].to("meta")
    assert hs.materialize(model) == []
    assert torch.equal(model[0].weight, kept)
    assert model[0].bias.isfinite().all()
    assert not model[0].bias.requires_grad
    assert hs.materialize(model) == []


def test_a_reset_that_fails_leaves_the_model_on_meta():
    class Bad(nn.Linear):
        def reset_parameters(self):
            if not self.weight.is_meta:
                raise ValueError("no")

    model = on_meta(lambda: nn.Sequential(Bad(2, 2), nn.Linear(2, 2)))
    before = list(model.parameters())
    with pytest.raises(hs.ModelError, match=r"reset_parameters of '0' \(Bad\) failed: ValueError: no"):
        hs.materialize(model)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(hs.ModelError, match="not a torch"):
        hs.materialize(3)
