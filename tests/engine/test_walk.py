"""The one pass: its cost, its order, what it refuses."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import headstart as hs
from headstart.conformance.state import Snapshot


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Counting(nn.Sequential):
    """Counts forward passes by batch size, outside of the module's own state."""

    def __init__(self, *layers):
        super().__init__(*layers)
        sizes = []  # a list of the module's own would be put back
        self.read = lambda: sizes

    @property
    def sizes(self):
        return self.read()

    def forward(self, x):
        self.sizes.append(len(x))
        return super().forward(x)


def mlp(depth=6, width=8):
    return Counting(*(m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())), nn.Linear(width, 3))


@pytest.mark.parametrize("method", ["within-layer", "lsuv", "auto", "kaiming", ["orthogonal", "lsuv:fill=keep"]])
def test_one_small_and_one_whole_pass_whatever_the_depth(method):
    for depth in (1, 12):
        model = mlp(depth)
        hs.initialize(model, randn(64, 8), method)
        assert model.sizes == [2, *[2] * (method == "auto"), 64]  # auto looks at what takes the outputs, too


def test_the_pass_ends_after_the_last_layer_that_is_written():
    class Fails(nn.Module):
        def forward(self, x):
            if len(x) > 2:
                raise AssertionError("computed for nothing")
            return x

    model = nn.Sequential(nn.Conv2d(1, 4, 3), Fails(), nn.Flatten(), nn.LazyLinear(2))
    assert hs.initialize(model, torch.rand(16, 1, 8, 8), "prewarm").changed == ["0"]


def test_a_deep_network_is_right_everywhere_after_one_pass():
    model, x = mlp(30), randn(128, 8)
    hs.initialize(model, x, "within-layer")
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                torch.testing.assert_close(x.std(0, correction=0), torch.ones(x.shape[1]), atol=1e-3, rtol=0)


def test_the_users_hooks_see_the_rescaled_output():
    model, x, seen = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), 50 * randn(64, 8), []
    model[0].register_forward_hook(lambda m, a, out: seen.append(float(out.std(correction=0))))
    hs.initialize(model, x, "lsuv")
    assert seen[-1] == pytest.approx(1, abs=1e-3)


def test_the_users_hook_that_changes_an_output_still_does():
    def make():
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
        model[0].register_forward_hook(lambda m, a, out: 10 * out)
        return model

    model, x = make(), randn(64, 8)
    hs.initialize(model, x, "lsuv")
    assert float(model(x).detach().std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_a_pre_hook_that_changes_the_input_is_heeded():
    model, x = nn.Sequential(nn.Linear(8, 8)), randn(64, 8)
    model[0].register_forward_pre_hook(lambda m, args: (7 * args[0],))
    hs.initialize(model, x, "lsuv")
    assert float(model(x).detach().std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_layers_called_by_keyword():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 4)

        def forward(self, x):
            return self.a(input=x)

    model, x = Model(), 9 * randn(64, 8)
    hs.initialize(model, x, "within-layer")
    torch.testing.assert_close(model(x).std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)


class Standardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class Harmless(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


def test_a_subclass_that_is_not_affine_in_its_weight_is_refused():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), Standardized(4, 4, 3)), torch.rand(8, 3, 9, 9)
    before = Snapshot(model)
    with pytest.raises(hs.WriteError, match=r"layer '1' .*Standardized is not affine.*exclude='1'"):
        hs.initialize(model, x, "within-layer")
    before.require_kept()
    assert hs.initialize(model, x, "within-layer", exclude=Standardized).changed == ["0"]


def test_a_subclass_that_is_affine_works():
    model, x = nn.Sequential(Harmless(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), torch.rand(8, 3, 9, 9)
    hs.initialize(model, x, "within-layer")
    torch.testing.assert_close(model(x).std((0, 2, 3), correction=0), torch.ones(2), atol=1e-3, rtol=0)


def test_a_layer_whose_forward_was_replaced_is_checked_too():
    model = nn.Sequential(nn.Linear(8, 4))
    model[0].forward = lambda x: F.linear(x, torch.tanh(100 * model[0].weight))
    with pytest.raises(hs.WriteError, match="not affine"):
        hs.initialize(model, randn(64, 8), "lsuv:fill=keep")


def test_a_layer_that_returns_no_tensor_is_named():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair(8, 4)

        def forward(self, x):
            return self.pair(x)[0]

    with pytest.raises(hs.ModelError, match=r"layer 'pair' .*returns a tuple"):
        hs.initialize(Model(), randn(64, 8), "lsuv")


def test_a_path_that_depends_on_the_batch_is_told():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.few, self.many = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            return self.many(x) + self.few(x) if len(x) < 9 else self.many(x)

    model = Model()
    before = Snapshot(model)
    with pytest.raises(hs.ModelError, match=r"\['few'\] on two samples, but not on the whole batch"):
        hs.initialize(model, randn(64, 8), "kaiming")
    before.require_kept()


def test_a_model_that_fixes_its_batch_size():
    class Fixed(nn.Linear):
        def forward(self, x):
            return super().forward(x).reshape(64, -1)

    for layer in (nn.Sequential(nn.Linear(8, 4), nn.Flatten(0), nn.Unflatten(0, (64, 4))), Fixed(8, 4)):
        model, x = nn.Sequential(layer), randn(64, 8)
        hs.initialize(model, x, "lsuv")
        assert float(model(x).detach().std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_a_forward_that_differentiates():
    """Forces are gradients of an energy: such a forward switches gradients on inside our pass."""

    class Forces(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 1)

        def forward(self, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.b(torch.tanh(self.a(x))).sum(), x, create_graph=True)[0]

    for method in ("kaiming", "lsuv", "within-layer"):
        assert hs.initialize(Forces(), randn(64, 8), method).changed == ["a", "b"]


def test_the_fused_attention_path_hides_no_layer():
    """In evaluation mode without gradients torch computes a whole encoder layer at once, past its linear layers."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    report = hs.initialize(model, randn(16, 5, 8), "lsuv")
    assert {"linear1", "linear2"} <= set(report.changed)
    assert torch.backends.mha.get_fastpath_enabled()


def test_checkpointed_layers_are_reached():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 1)

        def forward(self, x):
            return self.b(checkpoint(self.a, x, use_reentrant=False))

    assert hs.initialize(Model(), randn(64, 8), "lsuv").changed == ["a", "b"]


@pytest.mark.parametrize("samples", [1, 7])
@pytest.mark.parametrize("method", ["within-layer", "lsuv", "auto"])
def test_too_few_values_for_statistics(method, samples):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    before = Snapshot(model)
    with pytest.raises(hs.DataError, match=rf"{samples} values per channel in layer '0' .*at least 8.*larger batch"):
        hs.initialize(model, randn(samples, 8), method)
    before.require_kept()
    assert hs.initialize(model, randn(8, 8), method).changed


def test_a_layer_with_a_constant_output_is_told_and_not_blown_up():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    with torch.no_grad():
        model[0].weight.zero_()
    for method in ("within-layer:fill=keep,zeros=write", "lsuv:fill=keep,zeros=write"):
        report = hs.initialize(model, randn(64, 8), method)
        assert "0" not in report.changed
        assert any("'0' are all zero" in f for f in report.findings)
        assert any("'2' is constant" in f for f in report.findings)
        assert all(p.abs().max() < 10 for p in model.parameters())


def test_a_method_that_writes_what_is_not_finite_is_refused():
    model, x = nn.Sequential(nn.Linear(8, 8, bias=False)), randn(64, 8) * 1e-12
    before = Snapshot(model)
    with pytest.raises(hs.WriteError, match=r"layer '0' .*64 values that are not finite"):
        hs.initialize(model, x, hs.LSUV(std=1e30))
    before.require_kept()


def test_rows_tell_what_is_there():
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), randn(64, 8)
    old = model[0].weight.detach().clone()
    row = hs.initialize(model, x, "within-layer:beta=0.5").row("0")
    with torch.no_grad():
        out = model[0](x)
    assert (row.action, row.methods, row.kind, row.shape) == ("written", ["within-layer"], "Linear", (8, 8))
    new = model[0].weight.detach()
    assert row.weight_std == pytest.approx((float(old.std(correction=0)), float(new.std(correction=0))))
    assert row.weight_mean == pytest.approx((float(old.mean()), float(new.mean())), abs=1e-6)
    assert row.output_mean == pytest.approx(float(out.mean()), abs=1e-4)
    assert row.output_std == pytest.approx(float(out.std(correction=0)), abs=1e-3)
    assert row.across_sample_std == pytest.approx(math.sqrt(float((out[:8] - out[8:16]).square().mean() / 2)), rel=0.01)
    assert hs.initialize(model, x, "lsuv:fill=keep").row("0").action == "scaled"
