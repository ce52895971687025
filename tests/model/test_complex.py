"""Complex weights are initialized as such, or refused; their imaginary part is never lost."""

import contextlib
import math

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.numerics.moments import across_sample_std, channel_moments, pooled
from headstart.results.report import summarize

DRAWS = torch.Generator().manual_seed(0)
X = torch.randn(128, 24, generator=DRAWS, dtype=torch.cfloat) * 3 + (1 - 2j)
TAKES = {
    "default",
    "kaiming",
    "xavier",
    "lecun",
    "orthogonal",
    "dirac",
    "delta-orthogonal",
    "zero",
    "lsuv",
    "within-layer",
}


def variance(weight):
    return float((weight - weight.mean()).abs().square().mean())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("kaiming", 2 / 400),
        ("kaiming:distribution=uniform", 2 / 400),
        ("lecun", 1 / 400),
        ("xavier:distribution=uniform", 2 / 700),
        ("default", 1 / (3 * 400)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.cfloat, torch.cdouble])
def test_variance_is_split_over_both_parts(spec, expected, dtype):
    layer = nn.Linear(400, 300, dtype=dtype)
    hs.initialize(layer, method=spec)
    weight = layer.weight.detach()
    for part in (weight.real, weight.imag):
        assert float(part.var()) == pytest.approx(expected / 2, rel=0.05)
    assert float((weight.real * weight.imag).mean()) == pytest.approx(0, abs=expected / 20)
    assert layer.weight.dtype == dtype


def test_orthogonal_is_unitary():
    layer = nn.Linear(12, 8, dtype=torch.cfloat)
    hs.initialize(layer, method="orthogonal")
    w = layer.weight.detach()
    torch.testing.assert_close(w @ w.mH, torch.eye(8, dtype=torch.cfloat), rtol=0, atol=1e-5)
    assert w.imag.abs().max() > 0.1


@pytest.mark.parametrize("spec", ["lsuv", "lsuv:fill=keep", "within-layer", "within-layer:fill=keep"])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_get_deviation_one(spec, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16, bias, dtype=torch.cfloat), nn.Linear(16, 4, bias, dtype=torch.cfloat))
    before = model[0].weight.detach().clone()
    report = hs.initialize(model, X, spec)
    y = model(X).detach()
    assert math.sqrt(variance(y)) == pytest.approx(report.row("1").output_std, rel=1e-4)
    if "lsuv" in spec:
        assert math.sqrt(variance(y)) == pytest.approx(1, abs=1e-4)
    else:
        deviations = (y - y.mean(0)).abs().square().mean(0).sqrt()
        assert deviations.tolist() == pytest.approx([1] * 4, abs=1e-4)
    if "keep" in spec:  # one real factor per channel: phases stay
        torch.testing.assert_close(model[0].weight.angle(), before.angle(), rtol=0, atol=1e-5)
    if bias and "within" in spec:
        assert y.mean(0).abs().max() < 1e-4
    streamed = hs.initialize(model, X, f"{spec}", batch_size=50)
    assert streamed.row("1").output_std == pytest.approx(report.row("1").output_std, abs=1e-3)


def test_complex_convolutions():
    model = nn.Sequential(nn.Conv1d(2, 6, 3, dtype=torch.cfloat), nn.Conv1d(6, 2, 3, dtype=torch.cfloat))
    x = torch.randn(32, 2, 20, generator=DRAWS, dtype=torch.cfloat)
    report = hs.initialize(model, x, "within-layer")
    assert report.row("1").output_std == pytest.approx(1, abs=1e-4)
    assert report.filters is None


@pytest.mark.parametrize("name", sorted(set(hs.list_methods()) - TAKES - {"auto"}))
def test_other_methods_refuse_or_write_nothing(name):
    model = nn.Linear(24, 8, dtype=torch.cfloat)
    before = model.weight.detach().clone()
    with contextlib.suppress(hs.HeadstartError):  # a method of recurrent layers finds none, and says so
        assert hs.initialize(model, X, name).changed == []
    assert torch.equal(model.weight, before)


def test_the_refusal_says_what_serves():
    with pytest.raises(hs.ModelError, match=r"balance is made for real weights.*Linear.*'lsuv' or 'within-layer'"):
        hs.initialize(nn.Linear(24, 8, dtype=torch.cfloat), X, "balance")


def test_the_default_leaves_them_and_treats_the_rest():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(24, 8, dtype=torch.cfloat), nn.Linear(8, 8)
            self.c = nn.Linear(8, 2)

        def forward(self, x):
            return self.c(self.b(self.a(x).abs()).relu())

    model = Mixed()
    before = model.a.weight.detach().clone()
    report = hs.initialize(model, X)
    assert torch.equal(model.a.weight, before)
    assert report.changed == ["b"]
    assert "complex" in report.row("a").notes[0]


def test_diagnosis_sees_both_parts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16, dtype=torch.cfloat), nn.Linear(16, 4, dtype=torch.cfloat))
    row = hs.diagnose(model, X[:64]).row("0")
    y = model[0](X[:64]).detach()
    assert row.weight_std == pytest.approx(math.sqrt(variance(model[0].weight.detach())), rel=1e-4)
    assert row.output_std == pytest.approx(math.sqrt(variance(y)), rel=1e-4)
    assert row.gradient_rms > 0


def test_moments_against_both_parts_by_hand():
    y = torch.randn(20, 3, 5, generator=DRAWS, dtype=torch.cfloat) + 100j
    m = channel_moments(y, 1)
    flat = y.movedim(1, 0).flatten(1).to(torch.cdouble)
    torch.testing.assert_close(m.mean.to(torch.cdouble), flat.mean(1), rtol=1e-5, atol=1e-5)
    expected = (flat - flat.mean(1, keepdim=True)).abs().square().mean(1)
    torch.testing.assert_close(m.var.double(), expected, rtol=1e-4, atol=1e-5)
    both = pooled([channel_moments(y[:7], 1), channel_moments(y[7:], 1)])
    torch.testing.assert_close(both.var, m.var, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.mean, m.mean)
    assert m.total_std == pytest.approx(math.sqrt(variance(y.to(torch.cdouble))), rel=1e-4)
    pair = torch.tensor([[1 + 1j], [3 - 2j]])
    assert across_sample_std(pair) == pytest.approx(math.sqrt((2**2 + 3**2) / 2))
    mean, std = summarize(y[:, :, 0])
    assert mean == pytest.approx(float(y[:, :, 0].mean().abs()), rel=1e-4)
    assert std == pytest.approx(math.sqrt(variance(y[:, :, 0].to(torch.cdouble))), rel=1e-2)
