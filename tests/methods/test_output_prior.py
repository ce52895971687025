"""Output prior: the first loss against the entropy that numpy computes, for each kind of target and head."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import headstart as hs
from headstart import conformance
from headstart.conformance import CHECKS, Check
from headstart.model.inputs import Batch


@pytest.fixture(autouse=True)
def _without_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("contract" in request.node.name):
        yield


def some_classes(raw: object) -> Tensor:
    """Class numbers for any batch, so that the contract can be asked for."""
    return torch.arange(Batch((raw,)).size) % 3


CONFIGURED = [hs.OutputPrior(targets=some_classes), hs.OutputPrior(kind="softmax", targets=some_classes, deviation=1)]


@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ != "other_seed_differs"], ids=lambda c: c.__name__)
@pytest.mark.parametrize("method", CONFIGURED, ids=("default", "wide"))
def test_keeps_the_contract(method: hs.OutputPrior, check: Check) -> None:
    check(method)


def net(outputs: int, inputs: int = 20) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 50), nn.ReLU(), nn.Linear(50, outputs))


def imbalanced(samples: int = 600) -> Tensor:
    """Five classes with shares of 60, 20, 10, 7 and 3 %."""
    shares = torch.tensor([0.6, 0.2, 0.1, 0.07, 0.03])
    y = torch.arange(5).repeat_interleave((shares * samples).round().long())
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]


def entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(shares)).sum())


def test_class_numbers_start_at_the_entropy_of_their_shares() -> None:
    x, y, model = torch.randn(600, 20), imbalanced(), net(5)
    before = model[2].weight.detach().clone()
    report = hs.initialize(model, (x, y), "output-prior")
    shares = np.bincount(y.numpy()) / len(y)
    logits = model(x)
    assert abs(float(F.cross_entropy(logits, y)) - entropy(shares)) < 0.001
    assert np.allclose(logits.softmax(1).mean(0).detach().numpy(), shares, atol=1e-3)
    assert float((logits - logits.mean(0)).abs().max()) <= 0.02 * 1.0001
    ratio = model[2].weight / before  # scaled, and never to zero
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)
    assert 0 < float(ratio[0, 0]) < 1
    assert report.changed == ["2"]
    assert any(f"their entropy {entropy(shares):.4f}" in f for f in report.findings)


@pytest.mark.parametrize("form", ["loader", "dataset", "dict", "one-hot", "numpy", "iterator"])
def test_every_form_of_data(form: str) -> None:
    x, y, model = torch.randn(600, 20), imbalanced(), net(5)
    everything = TensorDataset(x, y)
    data = {
        "loader": DataLoader(everything, batch_size=50, shuffle=True),
        "dataset": everything,
        "dict": {"input": x, "labels": y},
        "one-hot": (x, F.one_hot(y, 5)),
        "numpy": (x.numpy(), y.numpy()),
        "iterator": iter([(x, y)]),
    }[form]
    hs.initialize(model, data, "output-prior", seed=3)
    shares = np.bincount(y.numpy()) / len(y)  # of all, though a loader's first batch has 50
    assert abs(float(F.cross_entropy(model(x), y)) - entropy(shares)) < 0.001


def test_one_output_of_zeros_and_ones() -> None:
    y = (torch.arange(1000) % 20 == 0).float()
    for targets in (y, y.long(), y.bool(), y[:, None]):
        x, model = torch.randn(1000, 20), net(1)
        hs.initialize(model, (x, targets), "output-prior")
        assert math.isclose(float(model(x).sigmoid().mean()), 0.05, rel_tol=0.01)
        loss = float(F.binary_cross_entropy_with_logits(model(x)[:, 0], y))
        assert abs(loss - entropy(np.array([0.05, 0.95]))) < 0.001


def test_several_labels_at_once() -> None:
    prevalence = torch.tensor([0.5, 0.1, 0.02])
    y = (torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) < prevalence).float()
    x, model = torch.randn(2000, 20), net(3)
    hs.initialize(model, (x, y), "output-prior", samples=2000)
    assert torch.allclose(model(x).sigmoid().mean(0), y.mean(0), atol=1e-3)
    wanted = [entropy(np.array([p, 1 - p])) for p in y.mean(0).tolist()]
    assert abs(float(F.binary_cross_entropy_with_logits(model(x), y)) - sum(wanted) / 3) < 0.001


def test_regression_starts_at_the_variance() -> None:
    y = 40 + 5 * torch.randn(800, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0])
    x, model = torch.randn(800, 20), net(2)
    hs.initialize(model, (x, y), "output-prior")
    assert torch.allclose(model(x).mean(0), y.mean(0), atol=1e-2)
    assert abs(float(F.mse_loss(model(x), y)) / float(y.var(0, correction=0).mean()) - 1) < 0.005
    deviation = float((y - y.mean(0)).square().mean().sqrt())
    assert float((model(x) - model(x).mean(0)).abs().max()) <= 0.02 * deviation * 1.001


class Segmenter(nn.Module):
    """Logits at half the size, brought to the size of the image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.head(self.body(x).relu()), scale_factor=2.0)


def test_segmentation_maps_with_pixels_that_do_not_count() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(16, 12, 12, dtype=torch.long)
    mask[:, :2], mask[:, 3, :4], mask[:, -1] = 1, 2, 255
    x, model = torch.rand(16, 3, 12, 12), Segmenter(4)
    hs.initialize(model, {"x": x, "mask": mask}, hs.OutputPrior(kind="softmax", targets=lambda batch: batch["mask"]))
    counted = mask[mask != 255]
    shares = np.bincount(counted.numpy()) / len(counted)
    loss = float(F.cross_entropy(model(x), mask, ignore_index=255))
    assert abs(loss - entropy(shares)) < 0.01


def test_two_heads_by_name() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.score, self.box = nn.Linear(20, 30), nn.Linear(30, 1), nn.Linear(30, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.body(x).relu()
            return {"score": self.score(x), "box": self.box(x)}

    x, score, box = torch.randn(400, 20), (torch.arange(400) % 50 == 0).float(), torch.rand(400, 4) * 100
    model = Detector()
    before = model.box.weight.detach().clone()
    found = hs.initialize(model, x, hs.OutputPrior(targets=lambda batch: {"score": score}))
    assert found.changed == ["score"]
    assert torch.equal(model.box.weight, before)
    hs.initialize(model, x, hs.OutputPrior(targets=lambda batch: {"score": score, "box": box}))
    assert math.isclose(float(model(x)["score"].sigmoid().mean()), 0.02, rel_tol=0.01)
    assert torch.allclose(model(x)["box"].mean(0), box.mean(0), rtol=1e-3)


def test_the_next_token_starts_at_the_entropy_of_tokens() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 11))
    tokens = (torch.rand(64, 13) ** 3 * 11).long()
    hs.initialize(model, (tokens[:, :-1], tokens[:, 1:]), "output-prior")
    shares = np.bincount(tokens[:, 1:].flatten().numpy(), minlength=11) / (64 * 12)
    loss = float(F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()))
    assert abs(loss - entropy(shares)) < 0.001


def test_a_class_without_a_sample_gets_a_finite_logit_and_is_told() -> None:
    x, y, model = torch.randn(90, 20), torch.arange(90) % 3, net(5)
    report = hs.initialize(model, (x, y), "output-prior")
    assert any("2 of 5 classes have no sample among 90 targets" in f for f in report.findings)
    assert abs(float(F.cross_entropy(model(x), y)) - math.log(3)) < 0.01
    assert bool(torch.isfinite(model(x)).all())


def test_more_data_than_fit_at_once_give_the_same_start() -> None:
    x, y = torch.randn(600, 20), imbalanced()
    whole, parts = net(5), net(5)
    hs.initialize(whole, (x, y), "output-prior")
    hs.initialize(parts, (x, y), "output-prior", batch_size=100)
    assert abs(float(F.cross_entropy(parts(x), y)) - float(F.cross_entropy(whole(x), y))) < 1e-3
    assert float((parts(x) - parts(x).mean(0)).abs().max()) < 0.02


def test_a_loader_that_draws_unevenly_is_counted_as_it_draws() -> None:
    from torch.utils.data import WeightedRandomSampler

    x, y, model = torch.randn(600, 20), imbalanced(), net(5)
    even = (1 / torch.bincount(y).double())[y]
    sampler = WeightedRandomSampler(even.tolist(), 500, generator=torch.Generator().manual_seed(0))
    hs.initialize(model, DataLoader(TensorDataset(x, y), batch_size=500, sampler=sampler), "output-prior")
    assert torch.allclose(model(x).softmax(1).mean(0), torch.full((5,), 0.2), atol=0.06)


def test_a_head_without_bias_is_only_scaled() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5, bias=False))
    report = hs.initialize(model, (torch.randn(600, 20), imbalanced()), "output-prior")
    assert report.changed == ["2"]
    assert any("no bias that may be written" in f for f in report.findings)


def test_what_cannot_be_counted_is_refused() -> None:
    x, refused = torch.randn(64, 20), conformance.runs.refused
    refused("output-prior", net(5), x, "finds none in the data", "targets=")
    refused(hs.OutputPrior(targets=lambda batch: batch["no"]), net(5), x, "targets= failed")
    refused("output-prior", net(1), (x, torch.full((64,), float("nan"))), "NaN")
    refused("output-prior", net(1), (x, torch.full((64,), 3.5)), "same number")
    refused(hs.OutputPrior(kind="sigmoid"), net(3), (x, torch.randn(64, 3)), "not between 0 and 1")
    refused("output-prior", net(5), (x, torch.full((64,), -100)), "all class numbers are negative")
    report = hs.initialize(net(5), (x, torch.arange(64)), "output-prior")
    assert "do not fit its 5 outputs" in " ".join(report.row("2").notes)


def test_a_data_set_with_targets_in_memory_is_counted_whole() -> None:
    class Pictures(Dataset):
        def __init__(self) -> None:
            self.targets = imbalanced(2000).tolist()

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return torch.randn(20, generator=torch.Generator().manual_seed(i)), self.targets[i]

    model = net(5)
    hs.initialize(model, Pictures(), "output-prior", samples=64)
    shares = model(torch.randn(100, 20)).softmax(1).mean(0)
    assert torch.allclose(shares, torch.tensor([0.6, 0.2, 0.1, 0.07, 0.03]), atol=1e-3)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(hs.HeadstartError, match="kind='hinge' is not known"):
        hs.OutputPrior(kind="hinge")
    with pytest.raises(hs.HeadstartError, match="deviation=0 is not a positive number"):
        hs.OutputPrior(deviation=0)
