"""Pretrained: what is copied, what is not, and that the report says so."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import headstart as hs
from headstart.bench.models.builders import resolve_model
from headstart.conformance.runs import run
from headstart.conformance.state import Snapshot, same_bits
from headstart.engine import registry


def net(classes=10, width=8, seed=0, channels=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(channels, width, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )
        for _ in range(3):
            model(torch.randn(16, channels, 9, 9))
        with torch.no_grad():
            model[1].weight.uniform_(0.5, 1.5)
    return model.eval()


def equal_state(a, b, skip=()):
    return all(same_bits(v, b.state_dict()[k]) for k, v in a.state_dict().items() if not k.startswith(skip))


def forms(model, folder):
    """Everything that a source may be."""
    torch.save(model.state_dict(), folder / "plain.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "ddp.pt")
    save_file(model.state_dict(), str(folder / "plain.safetensors"))
    return {
        "model": model,
        "state_dict": model.state_dict(),
        "prefixed": {f"module._orig_mod.{k}": v for k, v in model.state_dict().items()},
        "text": str(folder / "plain.pt"),
        "path": folder / "plain.safetensors",
        "checkpoint": folder / "ddp.pt",
        "data parallel": nn.DataParallel(copy.deepcopy(model)),
        "function": lambda target: model if isinstance(target, nn.Module) else None,
    }


@pytest.mark.parametrize("data", [None, torch.randn(4, 3, 9, 9)], ids=["without data", "with data"])
@pytest.mark.parametrize(
    "form", ["model", "state_dict", "prefixed", "text", "path", "checkpoint", "data parallel", "function"]
)
def test_every_form_of_source_gives_the_same_model(form, data, tmp_path):
    old, new = net(), net(seed=1)
    before = Snapshot(old)
    report = run(hs.Pretrained(forms(old, tmp_path)[form]), new, data)
    before.require_kept()
    assert equal_state(old, new)
    assert report.changed == ["0", "3", "7"]
    assert report.others == ["1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert report.row("3").notes == ["from '3.weight'"]
    assert "100.0% of the weights" in report.findings[0]


def test_a_head_of_another_size_keeps_its_start():
    old, new = net(10), net(4, seed=1)
    head = copy.deepcopy(new[7])
    report = run(hs.Pretrained(old), new, None)
    assert report.row("7").notes == ["the head keeps its start: (10, 8) in the source"]
    assert report.row("7").action == "skipped"
    assert equal_state(old, new, skip="7.")
    assert same_bits(head.weight, new[7].weight)
    assert same_bits(head.bias, new[7].bias)
    assert "100.0% of the weights" in report.findings[0]  # the head apart


def test_head_policies():
    old, new = net(), net(seed=1)
    head = copy.deepcopy(new[7])
    assert run(hs.Pretrained(old, head="skip"), new, None).row("7").notes == ["the head keeps its start"]
    assert same_bits(head.weight, new[7].weight)
    other = net(4)
    before = Snapshot(other)
    with pytest.raises(hs.HeadstartError, match=r"the head, layer '7' .* does not fit: \(10, 8\) in the source"):
        hs.initialize(other, method=hs.Pretrained(old, head="require"))
    before.require_kept()


def test_the_head_is_what_the_model_returns():
    class Features(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.score, self.body = nn.Linear(6, width), nn.Linear(4, 6)

        def forward(self, x):
            return self.score(torch.relu(self.body(x)))

    old, new = Features(3), Features(5)
    report = run(hs.Pretrained(old), new, torch.randn(8, 4))
    assert report.changed == ["body"]
    assert "head" in report.row("score").notes[0]


@pytest.mark.parametrize("channels", ["repeat", "mean", "sum", "zeros"])
def test_a_stem_for_other_channels_is_adapted_as_adapt_weight_does(channels):
    old, new = net(), net(channels=4, seed=1)
    report = run(hs.Pretrained(old, channels=channels), new, torch.randn(4, 4, 9, 9))
    assert torch.equal(new[0].weight, hs.adapt_weight(old[0].weight.detach(), 4, channels))
    assert equal_state(old, new, skip="0.")
    assert report.row("0").notes == [f"from '0.weight', 3 input channels adapted to 4 by '{channels}'"]


def test_an_input_that_is_the_same_in_all_channels_gets_the_same_answer():
    old, new = net(), net(channels=4, seed=1)
    hs.initialize(new, method=hs.Pretrained(old))
    grey = torch.randn(4, 1, 9, 9)
    torch.testing.assert_close(new(grey.expand(-1, 4, -1, -1)), old(grey.expand(-1, 3, -1, -1)))


def test_only_the_first_layer_is_adapted():
    def wide(width):
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3))

    report = run(hs.Pretrained(wide(4), strict=0.0), new := wide(4), None)
    assert report.changed == ["0", "2"]
    old = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(5, 8, 3))
    with pytest.raises(hs.HeadstartError, match="nothing"):
        hs.initialize(new, method=hs.Pretrained(old))


def test_a_stem_for_other_channels_is_left_with_its_norm():
    old, new = net(), net(channels=4, seed=1)
    norm = copy.deepcopy(new[1])
    report = run(hs.Pretrained(old, channels="skip"), new, None)
    assert report.changed == ["3", "7"]
    assert report.row("0").notes == ["(8, 3, 3, 3) in the source"]
    assert equal_state(norm, new[1])
    assert report.others == []


def test_networks_of_other_depth_share_the_blocks_of_one_name():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        deep, shallow = (resolve_model(f"headstart:cifar-resnet{n}")(3, 10, (32, 32)) for n in (56, 20))
    start = copy.deepcopy(deep)
    report = run(hs.Pretrained(shallow), deep, None)
    own, there, first = deep.state_dict(), shallow.state_dict(), start.state_dict()
    fits = {k for k, v in there.items() if k in own and own[k].shape == v.shape}
    for key, value in own.items():
        if key in report.others or key.removesuffix(".weight") in report.changed:
            assert same_bits(value, there[key]), key
        elif not key.endswith(".bias"):
            assert same_bits(value, first[key]), key
    assert {f"{name}.weight" for name in report.changed} <= fits
    assert "the source has no '13.conv1.weight'" in report.row("13.conv1").notes


def test_strict_counts_weights():
    old, new = net(), net(seed=1)
    state = {k: v for k, v in old.state_dict().items() if not k.startswith("3.")}
    share = 1 - new[3].weight.numel() / sum(new[i].weight.numel() for i in (0, 3, 7))
    before = Snapshot(new)
    with pytest.raises(hs.HeadstartError, match=r"less than strict=.*'3': the source has no '3.weight'"):
        hs.initialize(new, method=hs.Pretrained(state, strict=share + 0.01))
    before.require_kept()
    report = run(hs.Pretrained(state, strict=share - 0.01), new, None)
    assert f"{share:.1%} of the weights" in report.findings[0]


def test_nothing_that_fits_is_an_error():
    new = net()
    before = Snapshot(new)
    with pytest.raises(hs.HeadstartError, match=r"0.0% .* that is nothing: '0': the source has no '0.weight'"):
        hs.initialize(new, method=hs.Pretrained({"stem.weight": torch.zeros(2, 2)}))
    before.require_kept()


def test_a_prefix_is_taken_off():
    old, new = net(), net(seed=1)
    state = {f"backbone.{k}": v for k, v in old.state_dict().items()} | {"head.weight": torch.zeros(3, 3)}
    run(hs.Pretrained(state, prefix="backbone."), new, None)
    assert equal_state(old, new)
    with pytest.raises(hs.HeadstartError, match=r"begins with 'body\.'.*'backbone', 'head'"):
        hs.initialize(new, method=hs.Pretrained(state, prefix="body."))


def test_only_what_is_included_is_copied_and_frozen_parameters_stay():
    old, new = net(), net(seed=1)
    first = copy.deepcopy(new)
    report = run(hs.Pretrained(old), new, None, include="3")
    assert report.changed == ["3"]
    assert report.others == []
    assert equal_state(new[:3], first[:3])
    new[1].weight.requires_grad_(False)
    report = run(hs.Pretrained(old), new, None, exclude="7")
    assert "1.weight" not in report.others
    assert same_bits(first[1].weight, new[1].weight)
    assert same_bits(old[1].running_var, new[1].running_var)


def test_later_methods_see_what_was_transferred():
    old, new = net(), net(seed=1)
    report = hs.initialize(new, torch.randn(64, 3, 9, 9), [hs.Pretrained(old), hs.WithinLayer(fill="keep")], seed=0)
    assert report.row("3").methods == ["pretrained", "within-layer"]
    old.eval(), new.eval()
    ratio = new[3].weight.flatten(1) / old[3].weight.flatten(1)
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4)


def test_weight_norm_on_either_side():
    old, new = net(), net(seed=1)
    old[3] = nn.utils.parametrizations.weight_norm(old[3])
    new[0] = nn.utils.parametrizations.weight_norm(new[0])
    run(hs.Pretrained(old), new, None)
    assert torch.allclose(new[0].weight, old[0].weight, rtol=1e-5)
    assert torch.allclose(new[3].weight, old[3].weight, rtol=1e-5)


def test_half_precision_targets_take_float_sources():
    old, new = net(), net(seed=1).bfloat16()
    run(hs.Pretrained(old), new, None)
    assert torch.equal(new[3].weight, old[3].weight.bfloat16())


def test_embeddings_go_along_though_they_are_tied():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.inner, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(torch.relu(self.inner(self.embedding(x))))

    old, new = Text(), Text()
    report = run(hs.Pretrained(old), new, torch.arange(12).reshape(4, 3) % 7)
    assert report.row("embedding").methods == ["pretrained"]
    assert equal_state(old, new)
    left = Text()
    run(hs.Pretrained(old, head="skip"), left, torch.arange(12).reshape(4, 3) % 7)
    assert equal_state(old, left), "a head that is the embedding goes with the tokens"


def test_parts_of_one_parameter_are_layers_that_may_be_left():
    def net():
        module = nn.Module()
        module.attention = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
        module.lstm = nn.LSTM(8, 8, batch_first=True)
        module.forward = lambda x: module.lstm(module.attention(x, x, x)[0])[0]
        return module

    old, new = net(), net()
    for p in old.parameters():
        nn.init.normal_(p)
    keys = new.attention.in_proj_weight[8:16].clone()
    report = hs.initialize(new, torch.randn(4, 5, 8), hs.Pretrained(old), exclude="attention.k")
    assert torch.equal(new.attention.in_proj_weight[8:16], keys)
    assert torch.equal(new.attention.in_proj_weight[:8], old.attention.in_proj_weight[:8])
    assert torch.equal(new.attention.in_proj_bias[16:], old.attention.in_proj_bias[16:])
    assert torch.equal(new.attention.bias_k, old.attention.bias_k)
    assert equal_state(old.lstm, new.lstm)
    assert report.row("lstm.weight_hh_l0.f").notes == ["from 'lstm.weight_hh_l0'"]


def test_projections_of_another_size_are_left_and_named():
    old, new = nn.MultiheadAttention(8, 2, kdim=6, vdim=6), nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    report = hs.initialize(new, method=hs.Pretrained(old))
    assert torch.equal(new.v_proj_weight, old.v_proj_weight)
    assert report.row("k").notes == ["(8, 6) in the source"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has no source"),
        ({"source": "nowhere.pt"}, "no checkpoint 'nowhere.pt'"),
        ({"source": {"a": 1}}, "holds no state_dict"),
        ({"source": {}}, "holds no state_dict"),
        ({"source": lambda model: lambda: 0}, "returned a function"),
        ({"source": lambda model: 3}, "3 is no source of weights"),
    ],
)
def test_what_is_no_source_is_told(options, message):
    model = net()
    before = Snapshot(model)
    with pytest.raises(hs.HeadstartError, match=message):
        hs.initialize(model, method=hs.Pretrained(**options))
    before.require_kept()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": 3}, "3 is no source of weights"),
        ({"head": "drop"}, "head='drop' is not known"),
        ({"strict": 2.0}, "strict=2.0 is no share"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(hs.HeadstartError, match=message):
        hs.Pretrained(**options)


def test_values_that_are_not_finite_are_refused():
    state = net().state_dict()
    for key, where in (("3.weight", "layer '3'"), ("1.running_var", "'1.running_var'")):
        broken = {**state, key: torch.full_like(state[key], float("nan"))}
        model = net(seed=1)
        before = Snapshot(model)
        with pytest.raises(hs.WriteError, match=where):
            hs.initialize(model, method=hs.Pretrained(broken))
        before.require_kept()


def test_names_and_identity_tell_sources_apart_and_stay_short(tmp_path):
    a, b = net(), net(seed=1)
    assert repr(hs.Pretrained(a)).startswith("Pretrained(source=<Sequential of 906 parameters>, ")
    assert "<state_dict of 10 tensors>" in repr(hs.Pretrained(a.state_dict()))
    torch.save(a.state_dict(), tmp_path / "w.pt")
    method = registry.parse(f"pretrained:source={tmp_path / 'w.pt'},head=skip")[0]
    assert str(tmp_path / "w.pt") in repr(method)
    assert method.identity() == hs.Pretrained(a, head="skip").identity() != hs.Pretrained(b, head="skip").identity()
    assert hs.Pretrained(a).identity() != hs.Pretrained(a, head="skip").identity()
