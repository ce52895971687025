"""What a diagnosis shows of gates, embeddings, projections and bilinear layers, and what it says of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs
from headstart.conformance.parts import Text
from headstart.model.parts import parts_of

TOKENS = torch.randint(1, 11, (32, 9), generator=torch.Generator().manual_seed(0))


def text(**options) -> Text:
    torch.manual_seed(0)
    return Text(**options)


def loss(outputs: Tensor, batch: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), batch.flatten() % 4)


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU, nn.RNN], ids=lambda c: c.__name__)
def test_every_part_has_a_row_with_its_own_rows_of_the_gradient(recurrent):
    net = text(recurrent=recurrent)
    diagnosis = hs.diagnose(net, TOKENS, loss_fn=loss)
    names = [row.name for row in diagnosis.rows]
    assert names == [*(part.name for part in parts_of(net)), "head"]
    loss(net.eval()(TOKENS), TOKENS).backward()
    for part in parts_of(net):
        row = diagnosis.row(part.name)
        wanted = part.own(getattr(part.module, part.parameter).grad)
        assert row.gradient_rms == pytest.approx(float(wanted.square().mean().sqrt()), rel=1e-4), part.name
        assert row.weight_std == pytest.approx(float(part.stored.detach().std(correction=0)), rel=1e-5), part.name
        assert row.output_std is None
    assert diagnosis.findings == []
    assert not any("does not treat" in note for note in diagnosis.notes)
    inside = (
        "memory.weight_hh_l1.h"
        if recurrent is nn.RNN
        else f"memory.weight_hh_l1.{'f' if recurrent is nn.LSTM else 'z'}"
    )
    assert diagnosis.row(inside).notes == [f"inside the {recurrent.__name__}: its output is not measured"]
    assert [row.name for row in hs.diagnose(net, include="memory").rows] == [n for n in names if "memory" in n]


def test_gradients_of_the_rows_that_were_looked_up_count_as_those_of_all():
    rows = []
    for sparse in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Embedding(50, 8, sparse=sparse), nn.Linear(8, 3))
        rows.append(hs.diagnose(net, TOKENS).row("0"))
    assert rows[0].gradient_rms == pytest.approx(rows[1].gradient_rms, rel=1e-5)
    assert rows[0].rate_variation == pytest.approx(rows[1].rate_variation, rel=1e-5)


@pytest.mark.parametrize("name", ["memory.weight_hh_l0.f", "attention.v", "pair"])
def test_units_that_start_as_copies_are_named_and_drawn_anew(name):
    net = text()
    part = next(part for part in parts_of(net) if part.name == name)
    with torch.no_grad():
        part.stored.fill_(0.1)
    before = net.memory.weight_hh_l0.detach().clone()
    (found,) = hs.diagnose(net, TOKENS).found("constant weights")
    assert found.layers == (name,)
    exec(found.code, {"hs": hs, "torch": torch, "model": net, "data": TOKENS})
    assert hs.diagnose(net, TOKENS).findings == []
    assert torch.equal(net.memory.weight_hh_l0[:6], before[:6]), "other gates stay"


def test_an_embedding_of_equal_gains_is_no_illness():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.gain, self.head = nn.Linear(9, 16), nn.Embedding(11, 16), nn.Linear(16, 3)
            nn.init.ones_(self.gain.weight)

        def forward(self, x):
            return self.head(torch.relu(self.body(x.float()) * self.gain(x[:, 0])))

    assert hs.diagnose(Conditional(), TOKENS).findings == []


class Reader(nn.Module):
    """The last step of a recurrent layer over both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(5, 8, bidirectional=True, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


def test_hidden_weights_that_nothing_teaches_are_named():
    (found,) = hs.diagnose(Reader(), torch.randn(32, 6, 5)).findings
    assert found.kind == "no gradient"  # backwards the last step is the first, from a state of zeros
    hidden = [name for name in found.layers if "weight_hh_l0_reverse" in name]
    assert len(hidden) == 4
    assert all("reverse" in name for name in found.layers)
    assert "a state of zeros uses no hidden weights" in found.mend


def test_what_never_runs_is_named_unless_its_weights_are_used():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.places, self.spare, self.memory = nn.Embedding(9, 4), nn.Embedding(9, 4), nn.GRU(4, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x[..., None] * self.places.weight)

    diagnosis = hs.diagnose(Net(), torch.randn(32, 9))
    (found,) = diagnosis.findings
    assert found.kind == "unused layers"
    assert found.layers[0] == "spare"
    assert {name.split(".")[0] for name in found.layers} == {"spare", "memory"}
    assert diagnosis.row("places").gradient_rms > 0


def test_starts_of_their_own_are_held_against_no_fan():
    torch.manual_seed(0)

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [(64, 256), (256, 64), (64, 512), (512, 32), (32, 256), (256, 64)]
            self.words, self.layers = nn.Embedding(1000, 64), nn.Sequential(*(nn.Linear(i, o) for i, o in sizes))
            self.memory = nn.LSTM(64, 16, batch_first=True)

        def forward(self, x):
            return self.memory(self.layers(self.words(x)))[0]

    net = Wide()
    for layer in net.layers:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    with torch.no_grad():
        net.words.weight.mul_(64**-0.5)  # the other fan's law
    assert hs.diagnose(net, TOKENS).findings == []
