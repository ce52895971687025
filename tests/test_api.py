"""initialize, compute, apply: arguments, atomicity, lazy models."""

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.conformance.models import Reference, images
from headstart.conformance.runs import build
from headstart.conformance.state import Snapshot, same_bits


@pytest.fixture
def model():
    return build(Reference)


def test_the_default_is_auto():
    a, b = build(Reference), build(Reference)
    assert hs.initialize(a, images()).methods == ["Auto()"]
    hs.initialize(b, images(), "auto", seed=0)
    assert all(same_bits(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_list_fills_then_scales_at_every_layer(model):
    """Pre-Warm writes half of the stem; normalization then rescales all of it, and every other layer."""
    init = hs.compute(model, images(), ["prewarm", "within-layer:fill=keep,before_norm=normalize"])
    alone = hs.compute(model, images(), "prewarm")
    assert alone.report.changed == ["stem"]
    assert init.report.changed == ["stem", "body", "wide", "head"]
    together, filled = init.tensors["stem.weight"], alone.tensors["stem.weight"]
    ratio = together.flatten(1).norm(dim=1) / filled.flatten(1).norm(dim=1)
    torch.testing.assert_close(together, filled * ratio.reshape(-1, 1, 1, 1))
    assert init.report.row("stem").methods == ["prewarm", "within-layer"]


class TestApply:
    def test_what_does_not_fit_is_told_and_changes_nothing(self, model):
        init = hs.compute(model, method="kaiming", seed=1)
        other = nn.Sequential(nn.Conv2d(3, 8, 3))
        before = Snapshot(other)
        with pytest.raises(hs.HeadstartError, match=r"no parameter 'body.bias', .*\(7 of 7 missing\)"):
            hs.apply(other, init)
        before.require_kept()
        narrow = build(Reference)
        narrow.head = nn.Linear(12, 4)
        before = Snapshot(narrow)
        with pytest.raises(hs.HeadstartError, match=r"'head.weight' has shape \(4, 12\), the initialization \(5, 12\)"):
            hs.apply(narrow, init)
        before.require_kept()
        init.tensors["head.weight"][0, 0] = float("nan")
        before = Snapshot(model)
        with pytest.raises(hs.HeadstartError, match=r"'head.weight' holds values that are not finite"):
            hs.apply(model, init)
        before.require_kept()

    @pytest.mark.parametrize("what", ["init.safetensors", {"stem.weight": torch.zeros(8, 3, 3, 3)}, None])
    def test_only_an_init_is_applied(self, model, what):
        with pytest.raises(hs.HeadstartError, match=r"is not an initialization.*Init\.load"):
            hs.apply(model, what)

    def test_it_casts_to_the_models_dtype_and_leaves_the_rest(self, model):
        init = hs.compute(model, method="kaiming", seed=1, include="body")
        half = build(Reference).bfloat16()
        before = Snapshot(half)
        hs.apply(half, init)
        before.require_kept(["body"])
        assert torch.equal(half.body.weight, init.tensors["body.weight"].bfloat16())

    def test_a_loaded_init_reports_what_was_written(self, model, tmp_path):
        hs.compute(model, method="kaiming", seed=4, include=["body", "head"]).save(tmp_path / "x")
        report = hs.apply(model, hs.Init.load(tmp_path / "x"))
        assert report.changed == ["body", "head"]
        assert report.seed == 4

    def test_weight_norm_in_its_older_form_is_refreshed(self):
        def make():
            with pytest.warns(FutureWarning):
                return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)))

        a, b = make(), make()
        hs.apply(b, hs.compute(a, method="kaiming", seed=2))
        hs.initialize(a, method="kaiming", seed=2)
        assert torch.equal(a[0].weight, b[0].weight), "read without a forward in between"

    def test_a_lazy_model_is_refused(self):
        with pytest.raises(hs.HeadstartError, match="lazy"):
            hs.apply(nn.LazyLinear(3), hs.Init({}))


class TestLazy:
    def make(self):
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))

    def test_a_failure_leaves_the_model_lazy(self):
        for data, method in ((images(2)[:, :, :1], "lsuv"), (images(5), "gabor:layers=1+lsuv:std=1e30")):
            model = self.make()
            before = Snapshot(model)
            with pytest.raises(hs.HeadstartError):
                hs.initialize(model, data * 1e-12, method)
            before.require_kept()

    def test_without_data_it_asks_for_some(self):
        with pytest.raises(hs.DataError, match=r"lazy.*Pass a batch"):
            hs.initialize(self.make(), method="kaiming")

    def test_what_is_not_written_comes_from_the_seed(self):
        models = []
        for start in (1, 2):
            with torch.random.fork_rng():
                torch.manual_seed(start)
                models.append(self.make())
                hs.initialize(models[-1], images(), "prewarm", seed=3)
        a, b = (m.state_dict() for m in models)
        assert a.keys() == b.keys()
        assert all(same_bits(a[k], b[k]) for k in a)


def test_compiled_models_are_initialized_behind_the_wrapper(model):
    class Compiled(nn.Module):  # what torch.compile returns, as far as this package looks at it
        def __init__(self, inner):
            super().__init__()
            self._orig_mod = inner

    init = hs.compute(Compiled(model), method="kaiming")
    assert "stem.weight" in init.tensors


@pytest.mark.slow
def test_torch_compile(model):
    compiled = torch.compile(model, backend="eager")
    report = hs.initialize(compiled, images(), "lsuv")
    assert report.changed == ["stem", "body", "wide", "head"]
    compiled(images())


def test_seconds_are_told(model):
    report = hs.initialize(model, images(), "lsuv")
    assert report.seconds >= max(r.seconds for r in report.rows) > 0


def test_findings_tell_how_the_data_was_drawn(model):
    report = hs.initialize(model, images(40), "lsuv", samples=16)
    assert "Used 16 of 40 samples, drawn by seed." in report.findings


def test_nothing_written_is_said(model):
    assert "No layer was written." in hs.initialize(model, method="kaiming", exclude="*").findings


def test_optimizers_built_before_stay_valid(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hs.initialize(model, images(), "lsuv")
    before = model.head.weight.detach().clone()
    model(images()).sum().backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before)


def test_apply_of_values_that_do_not_fit_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to(torch.float16)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    init = hs.Init({"0.weight": torch.ones(3, 3), "1.weight": torch.full((3, 3), 1e9)})
    with pytest.raises(hs.WriteError, match=r"'1.weight' do not fit into torch.float16"):
        hs.apply(model, init)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_lazy_model_that_fails_names_the_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    hooks = [len(m._forward_pre_hooks) for m in model.modules()]
    with pytest.raises(hs.ModelError, match=r"layer '0' \(Conv2d, .*given an input of shape \(2, 1, 9, 9\)"):
        hs.initialize(model, torch.rand(8, 1, 9, 9), "kaiming")
    assert hooks == [len(m._forward_pre_hooks) for m in model.modules()]
