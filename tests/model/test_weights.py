"""The only writer: layouts, parametrizations, read-back, transaction."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import headstart as hs
from headstart.conformance.state import Snapshot
from headstart.model import weights
from headstart.model.transaction import Transaction
from headstart.model.weights import Layer

KINDS = {
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "transposed": (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
}


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def layers(draw):
    """A random layer of any kind in float64, with a batch that fits it."""
    kind = draw(st.sampled_from(["linear", "conv", "transposed"]))
    seed = draw(st.integers(0, 1000))
    bias = draw(st.booleans())
    if kind == "linear":
        inside, outside = draw(st.integers(1, 5)), draw(st.integers(1, 5))
        middle = draw(st.lists(st.integers(1, 3), max_size=2))
        return nn.Linear(inside, outside, bias).double(), randn(9, *middle, inside, seed=seed, dtype=torch.float64)
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    inside, outside = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, stride, dilation, padding = (
        tuple(draw(st.integers(low, high)) for _ in range(dims)) for low, high in ((1, 3), (1, 2), (1, 2), (0, 1))
    )
    options = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups, "bias": bias}
    if kind == "conv":
        options["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    module = KINDS[kind][dims - 1](inside, outside, kernel, **options).double()
    size = (9, inside, *[draw(st.integers(6, 7)) for _ in range(dims)])
    return module, randn(*size, seed=seed, dtype=torch.float64)


@given(case=layers())
def test_the_canonical_layout_goes_both_ways(case):
    layer = Layer("x", case[0])
    stored = layer.module.weight.detach()
    canonical = weights.to_canonical(layer, stored)
    assert tuple(canonical.shape) == layer.shape
    assert torch.equal(weights.from_canonical(layer, canonical), stored)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_the_canonical_layout_of_transposed_convolutions_by_a_naive_loop(groups):
    """Output channel o of group g gets input channel i of that group through stored[g * I + i, o]."""
    module = nn.ConvTranspose2d(2 * groups, 4 * groups, (2, 3), groups=groups, bias=False)
    layer, x = Layer("x", module), randn(1, 2 * groups, 3, 3)
    canonical = weights.read(layer)
    assert canonical.shape == (4 * groups, 2, 2, 3)
    expected = torch.zeros(4 * groups, 4, 5)
    for o in range(4 * groups):
        for i in range(2):
            for row in range(3):
                for column in range(3):
                    value = x[0, (o // 4) * 2 + i, row, column]
                    expected[o, row : row + 2, column : column + 3] += value * canonical[o, i]
    torch.testing.assert_close(module(x)[0].detach(), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_canonical_transposed_weight_is_a_flipped_convolution(groups):
    module = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    x, canonical = randn(2, 4, 5, 5), weights.read(Layer("x", module))
    torch.testing.assert_close(module(x).detach(), F.conv2d(x, canonical.flip(2, 3), padding=2, groups=groups))


class Rescale(hs.Method):
    """Apply a fixed affine map to the output, and keep what the pass went on with."""

    info = hs.Info("rescale", "", "", "all layers", True, "")

    def __init__(self, scale, shift):
        self.scale, self.shift, self.seen = scale, shift, None

    def options(self):
        return {}

    def after(self, visit):
        visit.affine(self.scale, None if visit.bias_free else self.shift)
        self.seen = visit.output.clone()


@given(case=layers(), seed=st.integers(0, 99))
def test_affine_of_any_layer_is_what_the_written_layer_computes(case, seed):
    module, x = case
    scale = randn(Layer("", module).out_channels, seed=seed, dtype=torch.float64)
    shift = randn(len(scale), seed=seed + 1, dtype=torch.float64)
    layer = Layer("", module)
    with torch.no_grad():
        before = module(x)
    method = Rescale(scale, shift)
    hs.initialize(module, x, method)
    shape = [1] * before.dim()
    shape[layer.channel_axis(before)] = -1
    expected = before * scale.reshape(shape) + (0 if module.bias is None else shift.reshape(shape))
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(method.seen, expected)


def test_affine_cannot_shift_a_layer_without_bias_and_spares_a_frozen_one():
    class Shift(Rescale):
        def after(self, visit):
            visit.affine(self.scale, self.shift)

    method, x = Shift(torch.tensor(2.0), torch.ones(3)), randn(9, 4)
    with pytest.raises(hs.WriteError, match="no bias that may be written"):
        hs.initialize(nn.Linear(4, 3, bias=False), x, method)
    module = nn.Linear(4, 3)
    module.bias.requires_grad_(False)
    with torch.no_grad():
        expected = 2 * (module(x) - module.bias) + module.bias
    hs.initialize(module, x, Rescale(torch.tensor(2.0), torch.ones(3)))
    torch.testing.assert_close(module(x).detach(), expected)


class TestWrite:
    def test_the_wrong_shape_and_values_are_refused(self):
        layer = Layer("block.conv", nn.Conv2d(2, 3, 3))
        with pytest.raises(hs.WriteError, match=r"\(3, 2, 1, 1\) does not fit layer 'block.conv' \(Conv2d"):
            weights.write(layer, torch.zeros(3, 2, 1, 1))
        bad = torch.zeros(3, 2, 3, 3)
        bad[0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
        with pytest.raises(hs.WriteError, match="2 values that are not finite"):
            weights.write(layer, bad)

    @pytest.mark.parametrize("value", [1e6, -7e4])
    def test_what_overflows_the_dtype_is_refused(self, value):
        model = nn.Sequential(nn.Linear(2, 2)).half()

        class Huge(hs.Method):
            info = hs.Info("huge", "", "", "all layers", False, "")

            def options(self):
                return {}

            def before(self, visit):
                visit.write(torch.full(visit.layer.shape, value))

        before = Snapshot(model)
        with pytest.raises(hs.WriteError, match="reads back different"):
            hs.initialize(model, method=Huge())
        before.require_kept()

    @pytest.mark.parametrize("make", [lambda: nn.Conv2d(4, 6, 3), lambda: nn.ConvTranspose1d(4, 6, 3, groups=2)])
    @pytest.mark.parametrize("dim", [0, 1, None])
    @pytest.mark.parametrize("old", [True, False], ids=["hook", "parametrization"])
    def test_weight_norm_over_any_axis(self, make, dim, old):
        if old:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                module = nn.utils.weight_norm(make(), dim=dim)
        else:
            module = parametrizations.weight_norm(make(), dim=-1 if dim is None else dim)
        layer = Layer("x", module)
        wanted = randn(*layer.shape)
        weights.write(layer, wanted)
        torch.testing.assert_close(weights.read(layer), wanted)
        x = randn(2, 4, *[6] * len(layer.kernel))
        plain = make()
        weights.write(Layer("y", plain), wanted)
        plain.bias.data.copy_(module.bias)
        torch.testing.assert_close(module(x), plain(x))

    def test_a_parametrization_without_inverse_is_refused(self):
        class Double(nn.Module):
            def forward(self, weight):
                return 2 * weight

        module = nn.Linear(3, 3)
        parametrize.register_parametrization(module, "weight", Double())
        with pytest.raises(hs.WriteError, match=r"Double, which has no right_inverse.*exclude='x'"):
            weights.write(Layer("x", module), torch.zeros(3, 3))

    def test_an_inverse_that_fails_is_told(self):
        module = parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="cayley", use_trivialization=False)
        for data in (None, randn(9, 3)):
            with pytest.raises(hs.WriteError, match=r"layer 'a' .*cannot be written through _Orthogonal"):
                hs.initialize(_holder(module), data, "kaiming")

    def test_a_chain_of_parametrizations_is_inverted_from_the_end(self):
        class Exp(nn.Module):
            def forward(self, weight):
                return weight.exp()

            def right_inverse(self, weight):
                return weight.log()

        class Shift(nn.Module):
            def forward(self, weight):
                return weight - 1

            def right_inverse(self, weight):
                return weight + 1

        module = nn.Linear(3, 2)
        parametrize.register_parametrization(module, "weight", Exp(), unsafe=True)
        parametrize.register_parametrization(module, "weight", Shift(), unsafe=True)
        wanted = randn(2, 3).abs()
        weights.write(Layer("x", module), wanted)
        torch.testing.assert_close(module.weight.detach(), wanted)

    def test_pruned_weights_are_refused(self):
        model = nn.Sequential(prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5))
        before = Snapshot(model)
        with pytest.raises(hs.WriteError, match=r"layer '0' .*computed by a hook"):
            hs.initialize(model, method="kaiming")
        before.require_kept()

    def test_a_parametrized_bias_stays(self):
        class Exp(nn.Module):
            def forward(self, bias):
                return bias.exp()

        module = nn.Linear(4, 4)
        parametrize.register_parametrization(module, "bias", Exp())
        original, x = module.parametrizations.bias.original.detach().clone(), randn(50, 4)
        hs.initialize(_holder(module), x, "within-layer")
        assert torch.equal(module.parametrizations.bias.original, original)
        torch.testing.assert_close(module(x).std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)


def _holder(module):
    model = nn.Module()
    model.a = module
    model.forward = lambda x: module(x)
    return model


class TestOrthogonalParametrization:
    """Its inverse keeps the weight in a new buffer, which has to survive the call."""

    def make(self):
        return nn.Sequential(parametrizations.orthogonal(nn.Linear(5, 5)), nn.Linear(5, 2))

    def test_the_report_tells_the_weight_that_is_there(self):
        model = self.make()
        base = model[0].parametrizations.weight[0].base
        report = hs.initialize(model, method="orthogonal", seed=1)
        plain = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2))
        hs.initialize(plain, method="orthogonal", seed=1)
        torch.testing.assert_close(model[0].weight, plain[0].weight)
        assert report.row("0").weight_std[1] == pytest.approx(float(model[0].weight.detach().std(correction=0)))
        assert model[0].parametrizations.weight[0].base is base

    def test_compute_carries_the_buffer(self):
        a, b = self.make(), self.make()
        b.load_state_dict(a.state_dict())
        before = Snapshot(a)
        init = hs.compute(a, method="orthogonal", seed=1)
        before.require_kept()
        hs.apply(a, init)
        hs.initialize(b, method="orthogonal", seed=1)
        assert torch.equal(a[0].weight, b[0].weight)

    def test_an_error_later_restores_it(self):
        model = self.make()
        before = Snapshot(model)
        with pytest.raises(hs.WriteError, match=r"layer '0' .*reads back different"):
            hs.initialize(model, method=["orthogonal", "kaiming"])
        before.require_kept()


class TestTransaction:
    def test_everything_comes_back_after_any_exception(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
        model[1].eval()
        before = Snapshot(model)

        @torch.no_grad()
        def disturb(transaction):
            transaction.mark(Layer("0", model[0]))
            model[0].weight.fill_(7)
            model[2].weight = nn.Parameter(torch.zeros(3, 3))
            model[1].running_mean.data.fill_(9)  # not counted as a write
            model[1].running_var = torch.zeros(3)
            model[0].register_buffer("late", torch.zeros(1))
            model[0].extra = nn.ReLU()
            model[2].note = "x"
            model.train()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), Transaction(model) as transaction:
            disturb(transaction)
        before.require_kept()

    def test_without_commit_nothing_is_kept_and_with_it_only_what_was_marked(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        before = Snapshot(model)
        for commit in (False, True):
            with Transaction(model) as transaction, torch.no_grad():
                transaction.mark(Layer("0", model[0]))
                model[0].weight.fill_(7)
                model[1].weight.fill_(7)
                if commit:
                    transaction.commit()
            if not commit:
                before.require_kept()
        before.require_kept(["0"])
        assert (model[0].weight == 7).all()

    def test_untouched_parameters_are_not_written_so_graphs_stay_valid(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        versions = [p._version for p in model.parameters()]
        with Transaction(model):
            model(torch.ones(1, 3))
        assert [p._version for p in model.parameters()] == versions

    def test_buffers_made_in_inference_mode_are_restored(self):
        model = nn.BatchNorm1d(2)
        with torch.inference_mode():
            model.running_mean = torch.ones(2)
        with Transaction(model), torch.inference_mode():
            model.running_mean.add_(1)
        assert model.running_mean.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("module", "fan_in", "fan_out"),
    [
        (nn.Linear(6, 4), 6, 4),
        (nn.Conv2d(6, 4, (3, 5)), 90, 60),
        (nn.Conv2d(6, 4, 3, groups=2), 27, 18),
        (nn.Conv1d(6, 6, 3, groups=6), 3, 3),
        (nn.ConvTranspose2d(6, 4, 4, stride=2), 24, 64),
        (nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), 3, 8),
    ],
)
def test_fans(module, fan_in, fan_out):
    layer = Layer("", module)
    assert (layer.fan_in, layer.fan_out) == (fan_in, fan_out)
