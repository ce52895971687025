"""Padding is left out of all statistics, by name or by mask=, however layers shape their positions."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import headstart as hs
from headstart.measure.layer_patches import LayerPatches, mean_patch
from headstart.measure.positions import Positions
from headstart.model.weights import Layer

G = torch.Generator().manual_seed(0)
IDS = torch.zeros(64, 40, dtype=torch.long)
for row, length in enumerate(torch.randint(2, 9, (64,), generator=G).tolist()):
    IDS[row, :length] = torch.randint(1, 100, (length,), generator=G)
REAL = IDS > 0


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.f, self.g = nn.Embedding(100, 32, padding_idx=0), nn.Linear(32, 32), nn.Linear(32, 16)

    def forward(self, input_ids, attention_mask=None):
        return self.g(self.f(self.e(input_ids)).relu())


@torch.no_grad()
def std_of_real(net, real=REAL, layer="g"):
    seen = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, a, y: seen.append(y))
    net(IDS)
    handle.remove()
    return float(seen[0][real].std(correction=0))


NAMED = {
    "attention_mask": lambda: {"attention_mask": REAL.long()},
    "float mask": lambda: {"attention_mask": REAL.float()},
    "additive mask": lambda: {"attention_mask": torch.zeros(64, 1, 1, 40).masked_fill(~REAL[:, None, None], -1e9)},
    "minus infinity": lambda: {"attention_mask": torch.zeros(64, 40).masked_fill(~REAL, float("-inf"))},
    "key_padding_mask": lambda: {"key_padding_mask": ~REAL},
    "padding mask of numbers": lambda: {"src_padding_mask": (~REAL).long()},
    "lengths": lambda: {"lengths": REAL.sum(1)},
    "input_lengths": lambda: {"input_lengths": REAL.sum(1).numpy()},
}


@pytest.mark.parametrize("name", NAMED)
def test_masks_are_recognized_by_name_and_the_report_says_so(name):
    net, data = Tokens(), {"input_ids": IDS, **NAMED[name]()}
    report = hs.initialize(net, data, "within-layer")
    assert std_of_real(net) == pytest.approx(1, rel=1e-3)
    assert report.row("g").output_std == pytest.approx(1, rel=1e-4)
    counted = f"{int(REAL.sum())} of {REAL.numel()} positions count."
    assert any(f.startswith("Padding is left out: by '") and f.endswith(counted) for f in report.findings)
    diagnosis = hs.diagnose(net, data)
    assert diagnosis.row("g").output_std == pytest.approx(1, rel=1e-3)
    assert any(n.startswith("Padding is left out") for n in diagnosis.notes)


GIVEN = {
    "a tensor": ((IDS,), REAL),
    "an array": (IDS.numpy(), REAL.numpy()),
    "a key": ({"input_ids": IDS, "real": REAL}, "real"),
    "a function": (IDS, lambda batch: batch > 0),
    "a function for a loader": (DataLoader(IDS, batch_size=64), lambda batch: batch > 0),
    "lengths": (IDS, REAL.sum(1)),
    "instead of what a name says": (
        {"input_ids": IDS, "attention_mask": torch.ones(64, 40)},
        lambda b: b["input_ids"] > 0,
    ),
}


@pytest.mark.parametrize("name", GIVEN)
def test_masks_are_given(name):
    data, mask = GIVEN[name]
    for method in ("within-layer", "lsuv"):
        net = Tokens()
        init = hs.compute(net, data, method, mask=mask)
        hs.apply(net, init)
        assert std_of_real(net) == pytest.approx(1, rel=0.02)
        assert init.report.row("g").output_std == pytest.approx(std_of_real(net), rel=1e-3)


def test_masks_are_drawn_and_split_with_the_data():
    many, real = IDS.repeat(40, 1), REAL.repeat(40, 1)
    for options in ({}, {"samples": 300}, {"batch_size": 200}):
        net = Tokens()
        hs.initialize(net, many, "within-layer", mask=real, **options)
        assert std_of_real(net) == pytest.approx(1, rel=0.05)
    assert hs.diagnose(net, many, mask=real).row("g").output_std == pytest.approx(1, rel=0.1)


def test_without_a_mask_and_with_one_that_is_switched_off_padding_counts():
    data = {"input_ids": IDS, "attention_mask": REAL.long()}
    for options in ({"mask": False}, {}):
        net = Tokens()
        hs.initialize(net, data if options else IDS, "within-layer", **options)
        assert std_of_real(net) > 1.5  # the padding, one vector, has taken most of the say


def test_masks_that_are_none_are_told():
    data = {"input_ids": IDS, "attention_mask": REAL}
    for mask, match in [
        ("no", r"no 'no' for mask=.*'input_ids', 'attention_mask'"),
        (lambda b: torch.ones(64, 3), r"mask= has shape \(64, 3\), which is not a mask of this batch"),
        (lambda b: torch.zeros(64, 40), "no position of the batch counts"),
        (lambda b: b["x"], "mask= failed on the batch: KeyError"),
        (REAL[:5], "does not fit data"),
    ]:
        with pytest.raises(hs.DataError, match=match):
            hs.initialize(Tokens(), data, "lsuv", mask=mask)
    with pytest.raises(hs.DataError, match="does not fit data of type DataLoader"):
        hs.initialize(Tokens(), DataLoader(IDS), "lsuv", mask=REAL)


def test_masks_that_disagree_and_lengths_of_targets():
    other = REAL.clone()
    other[:, 0] = False
    data = {
        "input_ids": IDS,
        "attention_mask": REAL,
        "key_padding_mask": ~other,
        "label_lengths": torch.ones(64).long(),
    }
    report = hs.initialize(Tokens(), data, "lsuv")
    assert "'attention_mask' and 'key_padding_mask' disagree on which positions count" in report.findings[0]
    plain = {"input_ids": IDS, "target_lengths": torch.ones(64).long()}
    assert not any("Padding" in f for f in hs.initialize(Tokens(), plain, "lsuv").findings)


class Shapes(nn.Module):
    """Flattened, time first, split into heads, one sample a row."""

    def __init__(self):
        super().__init__()
        self.flat, self.first, self.heads = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(4, 4)
        self.pooled, self.extra = nn.Linear(8, 3), nn.Linear(8, 8)

    def forward(self, x):
        n, t, _ = x.shape
        x = self.flat(x.reshape(n * t, 8)).view(n, t, 8)
        x = self.first(x.transpose(0, 1)).transpose(0, 1)
        x = self.heads(x.view(n, t, 2, 4).transpose(1, 2)).transpose(1, 2).reshape(n, t, 8)
        x = self.extra(torch.cat([x[:, :1], x], 1))
        return self.pooled(x.mean(1))


def padded(*shape, value=30.0):
    x = torch.randn(*shape, generator=G)
    real = torch.arange(shape[1]) < torch.randint(2, shape[1], (shape[0], 1), generator=G)
    x[~real] = value
    return x, real


def test_positions_are_followed_through_shapes():
    x, real = padded(48, 7, 8)
    net = Shapes()
    report = hs.initialize(net, x, "within-layer", mask=real)
    seen = {}
    for name in ("flat", "first", "heads"):
        net.get_submodule(name).register_forward_hook(lambda m, a, y, name=name: seen.update({name: y.detach()}))
    net(x)
    values = {
        "flat": seen["flat"].view(48, 7, 8)[real],
        "first": seen["first"].transpose(0, 1)[real],
        "heads": seen["heads"].transpose(1, 2)[real],
    }
    for name, value in values.items():
        assert float(value.std(correction=0)) == pytest.approx(1, rel=1e-3), name
        assert report.row(name).across_sample_std < 2
    assert "All positions count in extra: their positions are not those of the mask." in report.findings


@pytest.mark.parametrize("options", [{}, {"batch_size": 16}])
@pytest.mark.parametrize("method", ["within-layer", "lsuv", "data-dependent"])
def test_one_dimensional_convolutions(method, options):
    x, real = padded(48, 20, 4)
    net = nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3, stride=2, padding=1), nn.Conv1d(8, 6, 1)
    )
    report = hs.initialize(net, x.transpose(1, 2).contiguous(), method, mask=real, **options)
    halved = real[:, ::2]  # the middle taps of the strided convolution
    y = x.transpose(1, 2)
    with torch.no_grad():
        for i, mask in ((0, real), (1, None), (2, halved), (3, halved)):
            y = net[i](y)
            if mask is not None:
                own = y.transpose(1, 2)[mask]
                assert report.row(str(i)).output_std == pytest.approx(float(own.std(correction=0)), rel=1e-3)
                if method != "data-dependent":
                    assert float(own.std(correction=0)) == pytest.approx(1, rel=0.02)


def test_patches_come_from_what_counts():
    x, real = padded(16, 9, 4)
    layer, value = Layer("", nn.Conv1d(4, 6, 3, padding=1)), x.transpose(1, 2)
    patches = LayerPatches(layer, value, real)
    assert len(patches) == int(real.sum())
    everything = LayerPatches(layer, value).take(np.arange(16 * 9)).view(16, 9, -1)
    places = patches.spread(10, torch.Generator().manual_seed(0))
    rows = {tuple(row) for row in everything[real].tolist()}
    assert all(tuple(row) in rows for row in patches.take(places).tolist())
    assert torch.allclose(mean_patch(layer, value, real)[0], everything[real].mean(0), atol=1e-5)


@pytest.mark.parametrize("method", ["whitening", "prewarm:patches=40", "prewarm:patches=otsu"])
def test_patches_of_a_first_convolution(method):
    x, real = padded(32, 24, 1)
    x[~real] = torch.randn(int((~real).sum()), 1, generator=G) * 1000
    found = []
    for value in (x, x.masked_fill(~real[..., None], 7.0)):  # whatever the padding holds
        net = nn.Conv1d(1, 8, 3)
        with torch.no_grad():
            net.weight.copy_(torch.linspace(-1, 1, 24).view(8, 1, 3))
        hs.initialize(net, value.transpose(1, 2), method, mask=real)
        found.append(net.weight.detach())
    assert torch.equal(*found)
    assert not torch.equal(found[0].flatten(), torch.linspace(-1, 1, 24))
    with pytest.raises(hs.DataError, match=r"No patch of .* lies in positions that count"):
        hs.initialize(nn.Conv1d(1, 8, 3), x.transpose(1, 2), method, mask=torch.arange(24) % 2 * torch.ones(32, 1))


def test_channels_that_never_count_as_positive_and_images():
    images = torch.randn(32, 3, 8, 8, generator=G)
    valid = torch.ones(32, 8, 8, dtype=torch.bool)
    valid[:, :, 4:] = False
    images[:, :, :, 4:] = 50.0
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    hs.initialize(net, images, "within-layer", mask=valid)
    y = net[0](images).detach().movedim(1, -1)[valid]
    assert float(y.std(correction=0)) == pytest.approx(1, rel=1e-3)
    with torch.no_grad():  # positive on the padding alone
        net[0].weight.fill_(0.1)
        net[0].bias.fill_(-5)
    assert hs.diagnose(net, images, mask=valid).row("0").never_positive == 1
    assert hs.diagnose(net, images).row("0").never_positive == 0


def test_batch_norms_see_the_padding_as_in_training():
    x, real = padded(48, 20, 4)
    x = x.transpose(1, 2).contiguous()
    net = nn.Sequential(nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8), nn.Conv1d(8, 3, 1))
    hs.initialize(net, x, "within-layer", mask=real)
    own = net.train()(x).detach().transpose(1, 2)[real]
    assert float(own.std(correction=0)) == pytest.approx(1, rel=1e-3)


def test_no_place_that_counts_leaves_a_value_whole():
    layer, y = Layer("", nn.Linear(2, 2)), torch.randn(4, 3, 2)
    assert Positions([torch.zeros(4, 3, dtype=torch.bool)]).counting(layer, y) is y
    assert np.isnan(Positions([torch.eye(4, 3, dtype=torch.bool)]).across_sample_std(layer, y))


class Attending(nn.Module):
    """Tokens that attend to each other where the mask lets them, and a layer over each."""

    def __init__(self, dim=16):
        super().__init__()
        self.e, self.f, self.g = nn.Embedding(50, dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.q, self.k, self.v, self.last = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, ids, attention_mask=None):
        x = self.g(self.f(self.e(ids)).relu())
        scores = self.q(x) @ self.k(x).transpose(1, 2) / 4
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None] == 0, float("-inf"))
        return self.last(scores.softmax(-1) @ self.v(x)).tanh()


def numbers(row, names):
    return {name: value for name in names if (value := getattr(row, name)) is not None}


def same_with_and_without_padding(make, short, long, key, real, **options):
    """Diagnose, balance: whatever is measured of a padded batch is what the batch without its padding shows."""
    plain, padded_net = make(), make()
    a = hs.diagnose(plain, {key: short}, **options)
    b = hs.diagnose(padded_net, {key: long}, mask=real, **options)
    for one, other in zip(a.rows, b.rows, strict=True):
        names = ("output_std", "across_sample_std", "gradient_rms", "gradient_ratio", "rate_variation", "saturated")
        assert numbers(other, names) == pytest.approx(numbers(one, names), rel=1e-4), one.name
    names = ("input_std", "input_across_sample_std")
    assert numbers(b, names) == pytest.approx(numbers(a, names), rel=1e-5)
    assert [str(f) for f in a.findings] == [str(f) for f in b.findings]
    r, s = hs.initialize(plain, {key: short}, "balance"), hs.initialize(padded_net, {key: long}, "balance", mask=real)
    assert r.changed == s.changed
    assert r.changed
    assert r.findings[-1] == s.findings[-1]
    for one, other in zip(plain.parameters(), padded_net.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4)


def seeded(make):
    def build():
        torch.manual_seed(0)
        return make()

    return build


def test_gradients_are_of_the_positions_that_count():
    ids = torch.randint(50, (48, 5), generator=G)
    long = torch.cat([ids, torch.randint(50, (48, 7), generator=G)], 1)
    real = (torch.arange(12) < 5).expand(48, 12)

    class Masked(Attending):
        def forward(self, ids):
            return super().forward(ids, None if ids.shape[1] == 5 else real[: len(ids)])

    same_with_and_without_padding(seeded(Masked), ids, long, "ids", real)


def test_gradients_of_a_loss_and_of_channels_first():
    x = torch.randn(48, 4, 5, generator=G)
    long = torch.cat([x, 30 * torch.randn(48, 4, 1, generator=G).expand(-1, -1, 3)], 2)
    real = (torch.arange(8) < 5).expand(48, 8)

    def net():
        layers = nn.Conv1d(4, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 1)
        return nn.Sequential(*layers)  # as many channels as positions: which is which is known from the layers

    same_with_and_without_padding(seeded(net), x, long, "input", real)

    def loss(outputs, batch):  # a careless one, that also counts padding
        return outputs.square().sum()

    same_with_and_without_padding(seeded(net), x, long, "input", real, loss_fn=loss)
