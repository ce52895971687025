"""Methods from data leave all-zero weights and recurrences unless they are told otherwise; baselines write zeros."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import headstart as hs

ROWS = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(16, 3, 10, 10, generator=torch.Generator().manual_seed(1))
STEPS = torch.randn(64, 6, 8, generator=torch.Generator().manual_seed(2))


class LoRA(nn.Module):
    """A layer with an adapter whose second factor is zero, so that it begins as the layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(12, 10), nn.Linear(12, 4, bias=False), nn.Linear(4, 10, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))


@pytest.mark.parametrize(
    "method", ["within-layer", "within-layer:fill=keep", "lsuv", "lsuv:fill=keep", "data-dependent"]
)
def test_methods_from_data_leave_zeros_and_say_so(method: str) -> None:
    torch.manual_seed(0)
    model = LoRA()
    report = hs.initialize(model, ROWS, method)
    assert "b" not in report.changed
    assert "base" in report.changed
    assert not model.b.weight.any()
    assert any("all its weights are zero" in note for note in report.row("b").notes)
    assert any("zeros='write'" in finding for finding in report.findings)


@pytest.mark.parametrize("method", ["within-layer:zeros=write", "lsuv:zeros=write", "kaiming", "default", "xavier"])
def test_who_names_a_baseline_or_asks_for_it_gets_zeros_written(method: str) -> None:
    model = LoRA()
    assert "b" in hs.initialize(model, ROWS, method).changed
    assert model.b.weight.all()


def test_donors_write_zeros() -> None:
    torch.manual_seed(0)
    donor, model = LoRA(), LoRA()
    nn.init.normal_(donor.b.weight)
    hs.initialize(model, method=hs.Pretrained(donor, head="require"))
    assert torch.equal(model.b.weight, donor.b.weight)


def test_what_a_method_before_has_written_is_zero_no_more() -> None:
    torch.manual_seed(0)
    model = LoRA()
    report = hs.initialize(model, ROWS, ["kaiming", "within-layer:fill=keep"])
    assert report.row("b").methods == ["kaiming", "within-layer"]
    assert report.row("b").output_std == pytest.approx(1, abs=2e-2)


@pytest.mark.parametrize("method", ["auto", "within-layer", "lsuv", "whitening", "whitening:scale=whiten", "prewarm"])
def test_nothing_but_zeros_is_an_error(method: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 4))
    for layer in (model[0], model[3]):
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(hs.HeadstartError, match=r"all zero.*\n?.*zeros='write'"):
        hs.initialize(model, IMAGES, method)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.c, self.o = nn.Linear(8, 8), nn.Linear(8 + 24, 24), nn.Linear(24, 2)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x, h = self.into(x), x.new_zeros(len(x), 24)
        self.seen = []
        for t in range(x.shape[1]):
            z = self.c(torch.cat([x[:, t], h], 1))
            self.seen.append(z.detach())
            h = torch.tanh(z)
        return self.o(h)


@pytest.mark.parametrize("method", ["within-layer", "lsuv", "data-dependent"])
def test_a_recurrence_is_left_and_the_layers_around_it_are_not(method: str) -> None:
    torch.manual_seed(0)
    model = Cell()
    before = copy.deepcopy(model.c.state_dict())
    report = hs.initialize(model, STEPS, method)
    assert report.changed == ["into", "o"]
    assert all(torch.equal(v, before[k]) for k, v in model.c.state_dict().items())
    assert any("its own earlier outputs" in note for note in report.row("c").notes)
    assert any("recurrent='all'" in finding for finding in report.findings)


@pytest.mark.parametrize("method", ["within-layer:recurrent=all", "within-layer:fill=pca,recurrent=all"])
def test_a_recurrence_can_be_calibrated_over_all_its_steps(method: str) -> None:
    torch.manual_seed(0)
    model = Cell()
    report = hs.initialize(model, STEPS, method)
    out = model(STEPS).detach()
    steps = torch.cat(model.seen).detach()
    torch.testing.assert_close(steps.std(0, correction=0), torch.ones(24), atol=1e-2, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(2), atol=1e-2, rtol=0)  # behind it, at the end
    assert report.changed == ["into", "c", "o"]
    assert any("over all 6 steps" in note for note in report.row("c").notes)


def test_lsuv_brings_all_steps_to_one_deviation_together() -> None:
    torch.manual_seed(0)
    model = Cell()
    hs.initialize(model, STEPS, "lsuv:recurrent=all")
    model(STEPS)
    assert float(torch.cat(model.seen).std()) == pytest.approx(1, abs=5e-3)


def test_all_steps_want_the_whole_batch_at_once() -> None:
    with pytest.raises(hs.HeadstartError, match="all of them together"):
        hs.initialize(Cell(), STEPS, "within-layer:recurrent=all", batch_size=16)


def test_a_network_of_one_recurrence_is_refused() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 8)
            for t in range(x.shape[1]):
                h = torch.tanh(self.c(torch.cat([x[:, t], h], 1)))
            return h

    with pytest.raises(hs.HeadstartError, match="recurrent='all'"):
        hs.initialize(Alone(), STEPS, "lsuv")
    assert hs.initialize(Alone(), STEPS, "lsuv:recurrent=all").changed == ["c"]


def test_stored_trials_keep_their_names() -> None:
    assert hs.WithinLayer().identity() == repr(hs.WithinLayer())
    assert "zeros" not in hs.LSUV().identity()
    assert hs.LSUV(zeros="write").identity() == f"{repr(hs.LSUV())[:-1]}, zeros='write')"
    assert hs.Auto(force=True).identity() != hs.Auto().identity()
