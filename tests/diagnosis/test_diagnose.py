"""diagnose: it changes nothing, its numbers are right, and it says what is wrong and nothing else."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

import headstart as hs


def deep_stack(width=24, depth=20, **options):
    layers = []
    for i in range(depth):
        layers += [nn.Conv2d(3 if i == 0 else width, width, 3, padding=1, **options), nn.ReLU()]
    return nn.Sequential(*layers)


def everything_of(model):
    """All that a read-only call must leave alone."""
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "ids": [id(p) for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "attributes": [set(vars(m)) for m in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global state is the point
        "python": random.getstate(),
        "fastpath": torch.backends.mha.get_fastpath_enabled(),
    }


def assert_same(a, b):
    assert a["state"].keys() == b["state"].keys()
    for key in a["state"]:
        assert torch.equal(a["state"][key], b["state"][key]), key
    for x, y in zip(a["grads"], b["grads"], strict=True):
        assert (x is None) == (y is None)
        assert x is None or torch.equal(x, y)
    assert torch.equal(a["torch"], b["torch"])
    for key in ("ids", "requires", "training", "hooks", "attributes", "numpy", "python", "fastpath"):
        assert a[key] == b[key], key


class Everything(nn.Module):
    """Norms, dropout, parametrizations of both kinds, in-place activations, frozen parts, a draw in forward."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.grouped = parametrizations.weight_norm(nn.Conv2d(8, 8, 3, groups=2, padding=1))
        with pytest.warns(FutureWarning):
            self.old = nn.utils.weight_norm(nn.Conv2d(8, 8, 1))
        self.bound = parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)
        self.head.weight.requires_grad_(False)
        self.fail = False

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = self.bound(F.relu(self.old(self.grouped(x)), inplace=True))
        if self.fail:
            raise KeyboardInterrupt
        x = self.drop(x).mean((2, 3))
        return self.head(x + 0.01 * torch.randn_like(x) + float(np.random.rand()) * 0)  # noqa: NPY002


@pytest.mark.parametrize("training", [True, False])
def test_changes_nothing(training):
    model = Everything().train(training)
    model.norm.eval()
    calls = []
    model.conv.weight.register_hook(lambda g: calls.append("gradient hook"))
    x = torch.randn(16, 3, 8, 8)
    model(x).sum().backward()
    calls.clear()
    before, data = everything_of(model), x.clone()
    first = hs.diagnose(model, x)
    assert_same(before, everything_of(model))
    assert torch.equal(x, data)
    assert calls == []
    assert all(r.gradient_rms is not None and r.gradient_rms > 0 for r in first.rows)
    again = hs.diagnose(model, x)
    assert again.rows == first.rows
    model.fail = True
    before = everything_of(model)
    with pytest.raises(KeyboardInterrupt):
        hs.diagnose(model, x)
    assert_same(before, everything_of(model))


def test_changes_nothing_under_no_grad_and_inference_mode():
    model, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(32, 6)
    usual = hs.diagnose(model, x)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert hs.diagnose(model, x).rows == usual.rows
            assert torch.is_grad_enabled() is False


def test_the_deep_default_stack_collapses_and_is_mended():
    torch.manual_seed(0)
    model, x = deep_stack(), torch.randn(64, 3, 12, 12)
    sick = hs.diagnose(model, x)
    last = sick.rows[-1]
    assert last.across_sample_std < 1e-7
    assert 0.01 < last.output_std < 0.2  # the total looks healthy: what the demonstration is about
    (lost,) = sick.found("signals lost")
    assert lost.layers[-1] == "38"
    assert "0" not in lost.layers
    assert lost.code == 'hs.initialize(model, data, "within-layer")'
    assert sick.found("gradient spread")
    (dead,) = sick.found("dead units")
    assert not set(dead.layers) & set(lost.layers)  # there, units are constant: one finding says it

    hs.initialize(model, x, "within-layer")
    mended = hs.diagnose(model, x)
    assert mended.findings == []
    assert mended.rows[-1].across_sample_std > 0.5
    assert "No finding." in str(mended)


def test_columns_against_plain_formulas():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 3))
    x, y = torch.randn(40, 2, 6, 6), torch.randint(0, 3, (40,))
    seen = {}

    def loss_fn(outputs, batch):
        seen["targets"] = batch[1]
        return F.cross_entropy(outputs, batch[1])

    diagnosis = hs.diagnose(model, (x, y), loss_fn=loss_fn)
    assert torch.equal(seen["targets"], y)
    out = model[0](x).detach()
    row = diagnosis.row("0")
    assert (row.fan_in, row.fan_out, row.shape) == (18, 54, (6, 2, 3, 3))
    w = model[0].weight.detach().double()
    assert row.weight_std == pytest.approx(float(w.std(correction=0)))
    assert row.gain == pytest.approx(row.weight_std * math.sqrt(18))
    assert row.output_mean == pytest.approx(float(out.mean()), abs=1e-6)
    assert row.output_std == pytest.approx(float(out.std(correction=0)), rel=1e-4)
    variance_at_each_place = out.double().var(0)
    assert row.across_sample_std == pytest.approx(float(variance_at_each_place.mean().sqrt()), rel=0.2)
    F.cross_entropy(model(x), y).backward()
    for name in ("0", "3"):
        gradient = model.get_submodule(name).weight.grad.double()
        assert diagnosis.row(name).gradient_rms == pytest.approx(float(gradient.square().mean().sqrt()), rel=1e-4)
        columns = gradient.transpose(0, 1).flatten(1).square().mean(1).sqrt()
        variation = float(columns.std(correction=0) / columns.mean())
        assert diagnosis.row(name).rate_variation == pytest.approx(variation, rel=1e-3)
    weight_rms = float(w.square().mean().sqrt())
    assert row.gradient_ratio == pytest.approx(row.gradient_rms / weight_rms)


def test_gradient_is_that_of_the_effective_weight():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    normed = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    normed.load_state_dict(plain.state_dict())
    parametrizations.weight_norm(normed[0])
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(normed[2])
    x = torch.randn(32, 6)
    for a, b in zip(hs.diagnose(plain, x).rows, hs.diagnose(normed, x).rows, strict=True):
        assert b.gradient_rms == pytest.approx(a.gradient_rms, rel=1e-4)
        assert b.weight_std == pytest.approx(a.weight_std, rel=1e-5)


def relu_by(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 5)
            self.relu = nn.ReLU(inplace=True)
            self.head = nn.Linear(5, 2)

        def forward(self, x):
            x = self.layer(x)
            x = {
                "module": lambda: self.relu(x),
                "functional": lambda: F.relu(x),
                "method": lambda: x.relu_(),
                "clamp": lambda: x.clamp(min=0),
                "relu6": lambda: F.relu6(x),
                "threshold": lambda: F.threshold(x, 0.0, 0.0),
                "after dropout": lambda: torch.relu(F.dropout(x, 0.5, self.training)),
                "gelu": lambda: F.gelu(x),
                "leaky": lambda: F.leaky_relu(x),
                "clamp at -1": lambda: x.clamp(min=-1),
                "after a sum": lambda: torch.relu(x + 1),
                "written in between": lambda: torch.relu(x.add_(1)),
            }[kind]()
            return self.head(x)

    net = Net()
    with torch.no_grad():
        net.layer.weight.copy_(torch.eye(5, 4))
        net.layer.bias.copy_(torch.tensor([0.0, -100, -100, -100, -100]))  # four of five units are never positive
    return net


RECTIFIERS = ["module", "functional", "method", "clamp", "relu6", "threshold", "after dropout"]


@pytest.mark.parametrize("kind", [*RECTIFIERS, "gelu", "leaky", "clamp at -1", "after a sum", "written in between"])
def test_units_are_called_dead_only_where_a_rectifier_is_seen_to_take_them(kind):
    diagnosis = hs.diagnose(relu_by(kind), torch.randn(64, 4))
    row = diagnosis.row("layer")
    assert row.never_positive == 0.8
    assert row.rectified is (kind in RECTIFIERS)
    assert bool(diagnosis.found("dead units")) is (kind in RECTIFIERS)
    if kind in RECTIFIERS:
        assert diagnosis.found("dead units")[0].layers == ("layer",)


def test_dead_units_are_counted_after_the_normalization():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100)  # dead without the norm, which takes the mean away
    row = hs.diagnose(model, torch.randn(32, 1, 8, 8)).row("0")
    assert (row.never_positive, row.rectified) == (0.0, True)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([-100.0, 0, 0, 0]))
    diagnosis = hs.diagnose(model, torch.randn(32, 1, 8, 8))
    assert diagnosis.row("0").never_positive == 0.25
    assert diagnosis.found("dead units") == []  # the threshold is "more than a quarter"


def test_pooling_before_the_rectifier_and_lost_signals_before_a_batch_norm():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[3].bias.copy_(torch.tensor([1.0, -1, 2, -2]) * 1e4)  # the batch norm takes it away again
    diagnosis = hs.diagnose(model, torch.randn(32, 1, 8, 8))
    assert diagnosis.row("0").rectified
    assert diagnosis.row("3").across_sample_std < 1e-3 * diagnosis.row("3").output_std
    assert diagnosis.found("signals lost") == []


def test_few_values_call_nothing_dead():
    assert hs.diagnose(relu_by("module"), torch.randn(31, 4)).found("dead units") == []


def test_transformer_clones_are_duplicates_until_drawn_anew():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    x = torch.randn(32, 5, 16)
    diagnosis = hs.diagnose(model, x)
    (found,) = diagnosis.found("duplicates")
    assert "layers.2.linear1.weight" in found.layers
    assert "layers.1.self_attn.in_proj_weight" in found.layers
    assert not any("norm" in name for name in found.layers)  # ones and zeros are no copies
    assert diagnosis.found("unused layers") == []  # attention uses out_proj without calling it
    assert "used without being called" in diagnosis.row("layers.0.self_attn.out_proj").notes
    names = [row.name for row in diagnosis.rows[:6]]
    assert names == [
        *(f"layers.0.self_attn.{p}" for p in ("q", "k", "v", "out_proj")),
        "layers.0.linear1",
        "layers.0.linear2",
    ]
    queries, values = diagnosis.row("layers.0.self_attn.q"), diagnosis.row("layers.0.self_attn.v")
    assert 0 < queries.gradient_rms < values.gradient_rms, "each has its own rows of the gradient"
    assert queries.weight_std == pytest.approx(
        float(model.layers[0].self_attn.in_proj_weight[:16].detach().std(correction=0))
    )
    hs.initialize(model, method="default")
    for block in model.layers:
        block.self_attn._reset_parameters()
    assert hs.diagnose(model, x).found("duplicates") == []


def test_a_linear_layer_with_inputs_first_is_seen_as_any_other():
    class Conv1D(nn.Module):  # as Hugging Face's
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight, self.bias, self.nf = (
                nn.Parameter(torch.empty(inputs, outputs)),
                nn.Parameter(torch.zeros(outputs)),
                outputs,
            )

        def forward(self, x):
            return x @ self.weight + self.bias

    plain = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    other = nn.Sequential(Conv1D(6, 12), nn.ReLU(), nn.Linear(12, 3))
    other.load_state_dict({k: v.mT if k == "0.weight" else v for k, v in plain.state_dict().items()})
    x = torch.randn(32, 6)
    one, two = (hs.diagnose(net, x) for net in (plain, other))
    assert [row.name for row in two.rows] == ["0", "2"]
    for field in ("fan_in", "weight_std", "output_std", "rectified", "gradient_rms", "rate_variation"):
        assert getattr(two.row("0"), field) == pytest.approx(getattr(one.row("0"), field), rel=1e-5), field


def test_ties_are_no_duplicates():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(20, 8)
            self.inner = nn.Linear(8, 8)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(torch.relu(self.inner(self.embed(x))))

    model = Tied()
    diagnosis = hs.diagnose(model, torch.randint(0, 20, (40, 3)))
    assert diagnosis.findings == []
    assert diagnosis.input_std is None  # integers have no scale
    model.head.weight = nn.Parameter(model.embed.weight.detach().clone())
    assert hs.diagnose(model).found("duplicates")[0].layers == ("embed.weight", "head.weight")


@pytest.mark.parametrize(("factor", "kind"), [(1e-4, "activations vanish"), (1e5, "activations explode")])
def test_scale(factor, kind):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[2].weight.mul_(factor)
        model[2].bias.zero_()
        model[4].bias.zero_()
    x = torch.randn(64, 8)
    diagnosis = hs.diagnose(model, x)
    assert diagnosis.found(kind)[0].layers == ("2", "4")
    assert diagnosis.found("gradient spread")
    hs.initialize(model, x, "within-layer")
    assert hs.diagnose(model, x).findings == []


def test_scale_before_a_normalization_is_nobodys_business():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight.mul_(1e5)
        model[0].bias.mul_(1e5)
    assert not hs.diagnose(model, torch.randn(64, 8)).found("activations explode")


def test_not_finite():
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(32, 8)
    with torch.no_grad():
        model[2].weight[1, 2] = math.nan
    weights, activations = hs.diagnose(model, x).found("not finite")
    assert weights.layers == ("2.weight",)
    assert activations.layers == ("2",)
    assert hs.diagnose(model).row("2").weight_std is None
    hs.initialize(model, method="default", include=["2"])
    assert hs.diagnose(model, x).findings == []


def test_constant_weights():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    nn.init.constant_(model[0].weight, 0.1)
    (found,) = hs.diagnose(model).found("constant weights")
    assert found.layers == ("0",)


def test_unused_layers_and_missing_gradients():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.spare = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(x).detach())

    diagnosis = hs.diagnose(Net(), torch.randn(32, 4))
    assert diagnosis.found("unused layers")[0].layers == ("spare",)
    assert diagnosis.found("no gradient")[0].layers == ("a",)
    assert diagnosis.row("a").output_std is not None
    assert [r.name for r in diagnosis.rows] == ["a", "b", "spare"]


class Detector(nn.Module):
    """Takes a list of images, and returns for each what it is sure of: nothing yet."""

    def __init__(self):
        super().__init__()
        self.body, self.scores = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, images):
        scores = self.scores(self.body(torch.stack(list(images))).relu()).sigmoid().flatten(2)
        return [{"scores": s[s > 0.999], "labels": (s > 0.999).nonzero()[:, 0]} for s in scores]


def test_a_detector_that_finds_nothing_yet_is_not_told_that_no_gradient_reaches_it():
    images = list(torch.randn(5, 3, 12, 12))
    pairs = DataLoader(
        [(image, {"labels": 1}) for image in images], batch_size=5, collate_fn=lambda b: tuple(zip(*b, strict=True))
    )
    calls = ((images, None), (pairs, None), (pairs, lambda b: (b[0],)), (pairs, lambda b: list(b[0])))
    for found in (hs.diagnose(Detector(), data, get_inputs=get_inputs) for data, get_inputs in calls):
        assert found.findings == []
        assert any("returned no values" in note for note in found.notes)
        assert found.samples == 5


def test_branches_that_start_at_zero_are_no_finding():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

        def forward(self, x):
            return self.head(x + self.outer(torch.relu(self.inner(x))))

    diagnosis = hs.diagnose(Block(), torch.randn(64, 8))
    assert diagnosis.findings == []
    assert "no gradient yet: something starts at zero" in diagnosis.row("inner").notes
    assert diagnosis.row("outer").notes == ["starts at zero"]


@pytest.mark.parametrize("purpose", ["layer gain", "free number", "norm weight"])
def test_other_ways_to_start_silent(purpose):
    class Gained(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.gain = nn.Parameter(torch.zeros(8, 1))

        def forward(self, x):
            return F.linear(x, self.weight * self.gain)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
            self.outer = Gained() if purpose == "layer gain" else nn.Linear(8, 8)
            self.alpha = nn.Parameter(torch.full((1,), 0.0 if purpose == "free number" else 1.0))
            if purpose == "norm weight":
                nn.init.zeros_(self.norm.weight)

        def forward(self, x):
            return x + self.alpha * self.norm(self.outer(torch.relu(self.inner(x))))

    assert hs.diagnose(Block(), torch.randn(64, 8)).findings == []


def test_rates_behind_a_normalization_or_a_small_scale_are_no_finding():
    class Scaled(nn.Module):
        def __init__(self, gamma):
            super().__init__()
            self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
            self.gamma = nn.Parameter(gamma)

        def forward(self, x):
            return self.head(x + self.gamma * torch.relu(self.inner(x)))

    x = torch.randn(64, 8)
    quiet = hs.diagnose(Scaled(torch.full((8,), 1e-6)), x)
    assert quiet.findings == []
    assert any("start small: gamma" in n for n in quiet.notes)
    assert hs.diagnose(Scaled(1e-6 * torch.rand(8)), x).found("gradient spread")  # no constant: not on purpose
    for norm in (nn.BatchNorm1d(8), nn.Identity()):
        model = nn.Sequential(nn.Linear(8, 8), norm, nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        with torch.no_grad():
            model[0].weight.mul_(1e3)  # gradient/weight falls by a million behind the norm, by a thousand without
        spread = hs.diagnose(model, x).found("gradient spread")
        assert bool(spread) is isinstance(norm, nn.Identity)


def test_a_healthy_net_has_no_finding():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(32, 10)),
    )
    x = torch.randn(64, 3, 16, 16)
    assert hs.diagnose(model, x).findings == []
    loaders = (DataLoader(TensorDataset(x, torch.zeros(64)), batch_size=16), TensorDataset(x, torch.zeros(64)))
    assert [hs.diagnose(model, data).samples for data in loaders] == [16, 64]


def test_samples():
    model, x = nn.Linear(3, 2), torch.randn(200, 3)
    assert hs.diagnose(model, x).samples == 64
    assert hs.diagnose(model, x, samples=150).samples == 150
    assert hs.diagnose(model, DataLoader(TensorDataset(x), batch_size=100)).samples == 64
    sizes = []

    def loss_fn(outputs, batch):
        sizes.append((len(outputs), len(batch[1])))
        return outputs.sum()

    hs.diagnose(model, DataLoader(TensorDataset(x, x), batch_size=100), loss_fn=loss_fn)
    assert sizes == [(64, 64)]
    assert hs.diagnose(model, iter([{"x": x}]), get_inputs=lambda b: b["x"]).samples == 64
    for data in (x, DataLoader(TensorDataset(x))):
        with pytest.raises(hs.DataError, match="samples=0 asks for no data"):
            hs.diagnose(model, data, samples=0)
    assert hs.diagnose(model, x[:1]).row("").across_sample_std is None


def test_shared_lazy_and_low_precision():
    shared = nn.Linear(6, 6)
    row = hs.diagnose(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(32, 6)).row("0")
    assert any("runs 2 times" in n for n in row.notes)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    assert hs.diagnose(lazy, torch.randn(8, 2, 3)).row("1").shape == (3, 6)
    assert isinstance(lazy[1], nn.LazyLinear)
    half = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).bfloat16()
    assert hs.diagnose(half, torch.randn(32, 6)).findings == []


def test_without_data_only_the_weights():
    diagnosis = hs.diagnose(deep_stack(depth=3))
    assert len(diagnosis.to_tables()) == 1
    assert diagnosis.row("2").gain == pytest.approx(1 / math.sqrt(3), rel=0.05)
    assert diagnosis.row("2").output_std is None
    assert diagnosis.findings == []


def test_include_exclude():
    model, x = deep_stack(depth=3), torch.randn(8, 3, 8, 8)
    assert [r.name for r in hs.diagnose(model, x, exclude="0").rows] == ["2", "4"]
    assert [r.name for r in hs.diagnose(model, x, include=["4", "0"]).rows] == ["0", "4"]
    with pytest.raises(hs.UnknownNameError, match="layer that matches"):
        hs.diagnose(model, x, include="nothing")


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda o, b: o, "returned a tensor of shape"),
        (lambda o, b: 1.0, "returned a float"),
        (lambda o, b: b[5], "loss_fn failed: IndexError"),
    ],
)
def test_a_bad_loss(loss_fn, message):
    with pytest.raises(hs.HeadstartError, match=message):
        hs.diagnose(nn.Linear(3, 2), (torch.randn(8, 3), torch.zeros(8)), loss_fn=loss_fn)


def test_an_output_without_gradient_is_said():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x).argmax(1)

    diagnosis = hs.diagnose(Net(), torch.randn(32, 4))
    assert diagnosis.row("layer").gradient_rms is None
    assert any("Gradients were not measured" in n for n in diagnosis.notes)
    assert diagnosis.findings == []


def test_shows_itself():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("<b>[red]", nn.Linear(4, 4))

        def forward(self, x):
            return getattr(self, "<b>[red]")(x)

    diagnosis = hs.diagnose(Odd(), torch.randn(32, 4))
    assert "<b>[red]" in str(diagnosis)
    assert "&lt;b&gt;[red]" in diagnosis.to_html()
    assert "<b>" not in diagnosis.to_html()
    assert diagnosis._repr_html_() == diagnosis.to_html()
    assert json.loads(json.dumps(diagnosis.to_dict()))["rows"][0]["name"] == "<b>[red]"
    with pytest.raises(KeyError):
        diagnosis.row("other")


def test_the_code_on_the_page_runs(capsys):
    import re
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    assert "Signals are lost" in capsys.readouterr().out


def test_the_page_defines_every_column_finding_and_threshold():
    import inspect
    import re
    from dataclasses import fields
    from pathlib import Path

    from headstart.diagnosis import odd_ones, parameters, rules, weight_rules

    page = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text(encoding="utf-8")
    columns = [f.name for f in fields(hs.LayerHealth) if f.name not in ("name", "kind", "shape")]
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|\n]", page, re.MULTILINE)[: len(columns)] == columns
    constants = {
        k: v
        for module in (rules, parameters, weight_rules, odd_ones)
        for k, v in vars(module).items()
        if k.isupper() and isinstance(v, (int, float))
    }
    stated = dict(re.findall(r"^\| `([A-Z_]+)` \| ([\d.e-]+) \|", page, re.MULTILINE))
    assert {k: float(v) for k, v in stated.items()} == constants
    source = inspect.getsource(rules) + inspect.getsource(weight_rules)
    kinds = set(re.findall(r'Finding\(\s*f?"([^"]+)"', source))
    kinds = kinds - {"activations {word}"} | {"activations vanish", "activations explode"}
    assert kinds == set(re.findall(r"^\| `([a-z ]+)` \|.*\|.*\|$", page, re.MULTILINE)) - {"notes"} - set(columns)
