"""First convolutions for other channels: what the new weights are, where they go, and what outputs they give."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import headstart as hs
from headstart.adapt.adapt_conv import MATCHES
from headstart.adapt.channel_mix import FILLS, RULES, STRATEGIES, mix
from headstart.adapt.input_layers import RECORDS, InputLayers


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(channels=3, **options):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, **options), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()
    ).eval()


def trained_net(channels=3):
    """A network whose batch norm has seen data of deviation 2 and mean 1."""
    model = net(channels).train()
    for step in range(60):
        model(2 * draw(16, channels, 10, 10, seed=step) + 1)
    return model.eval()


def variances(output):
    """Per channel, over samples and positions."""
    return output.detach().transpose(0, 1).flatten(1).var(1, unbiased=False)


def snapshot(model):
    values = {n: (id(t), t.clone(), t.requires_grad) for n, t in model.state_dict(keep_vars=True).items()}
    plain = {n: {k: v for k, v in vars(m).items() if not k.startswith("_")} for n, m in model.named_modules()}
    hooks = {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()}
    return values, plain, hooks


def assert_unchanged(model, before):
    values, plain, hooks = snapshot(model)
    assert values.keys() == before[0].keys()
    for name, (key, value, grad) in values.items():
        assert (key, grad) == (before[0][name][0], before[0][name][2]), name
        assert torch.equal(value, before[0][name][1]), name
    assert (plain, hooks) == before[1:]


# What the channels are made of ------------------------------------------------------------------------------------

counts = st.integers(1, 14)


@given(counts, counts, st.sampled_from(["repeat", "sum", "mean"]))
def test_the_response_to_equal_channels_holds(old, new, strategy):
    weight = draw(4, old, 3, 3)
    adapted = hs.adapt_weight(weight, new, strategy)
    assert adapted.shape == (4, new, 3, 3)
    grey = draw(2, 1, 6, 6, seed=1)
    expected = F.conv2d(grey.expand(-1, old, -1, -1), weight)
    assert torch.allclose(F.conv2d(grey.expand(-1, new, -1, -1), adapted), expected, atol=1e-4)


@given(counts, counts)
def test_repeat_is_what_a_loop_gives(old, new):
    weight = draw(2, old, 3)
    users = [[t for t in range(new) if t % min(old, new) == s % min(old, new)] for s in range(old)]
    expected = torch.zeros(2, new, 3)
    for s, takers in enumerate(users):
        for t in takers:
            expected[:, t] += weight[:, s] / len(takers)
    assert torch.allclose(hs.adapt_weight(weight, new), expected, atol=1e-6)


@given(counts, counts)
def test_sum_is_what_resampling_in_small_steps_gives(old, new):
    weight = draw(2, old, 1)
    fine = weight.repeat_interleave(new, 1) / new  # every old channel in as many pieces as there are new ones
    expected = fine.unflatten(1, (new, old)).sum(2)
    assert torch.allclose(hs.adapt_weight(weight, new, "sum"), expected, atol=1e-5)


@given(counts, st.sampled_from(["repeat", "sum", "select", "zeros"]))
def test_as_many_channels_as_before_are_the_same_bit_for_bit(n, strategy):
    weight = draw(3, n, 2, 2)
    assert torch.equal(hs.adapt_weight(weight, n, strategy), weight)


def test_thirteen_bands_twice_halve_the_weights():
    weight = draw(4, 13, 3, 3)
    assert torch.equal(hs.adapt_weight(weight, 26), torch.cat([weight, weight], 1) / 2)


def test_one_channel_gets_the_sum():
    weight = draw(4, 3, 3, 3)
    for strategy in ("repeat", "sum", "mean"):
        assert torch.allclose(hs.adapt_weight(weight, 1, strategy), weight.sum(1, keepdim=True), atol=1e-6)


def test_select_and_zeros():
    weight = draw(4, 3, 3)
    assert torch.equal(hs.adapt_weight(weight, 2, "select"), weight[:, :2])
    more = hs.adapt_weight(weight, 5, "zeros")
    assert torch.equal(more[:, :3], weight)
    assert not more[:, 3:].any()


@pytest.mark.parametrize("new", [1, 2, 3, 4, 6, 7, 13])
def test_as_timm_does_where_the_counts_divide_and_else_without_its_ratio(timm, new):
    weight = draw(8, 3, 3, 3)
    theirs = timm.models.adapt_input_conv(new, weight)
    ours = hs.adapt_weight(weight, new)
    if new % 3 == 0 or new == 1:
        assert torch.allclose(ours, theirs, atol=1e-6)
    elif new > 3:  # the page says so
        assert torch.allclose(hs.adapt_weight(weight, new, match="nothing") * 3 / new, theirs, atol=1e-6)


def test_a_map_takes_indices_names_weights_and_nothing():
    weight = draw(4, 3, 2, 2)
    rows = ["g", 2, {"r": 0.5, "g": 0.25}, None]
    adapted = hs.adapt_weight(weight, 4, mapping=rows, source_names=["r", "g", "b"], match="nothing")
    expected = [weight[:, 1], weight[:, 2], 0.5 * weight[:, 0] + 0.25 * weight[:, 1], torch.zeros(4, 2, 2)]
    assert torch.allclose(adapted, torch.stack(expected, 1), atol=1e-6)
    evened = hs.adapt_weight(weight, 4, mapping=rows, source_names=["r", "g", "b"])
    assert torch.allclose(evened.sum(1), weight.sum(1), atol=1e-6)  # every old channel is used, once in all


def test_names_meet():
    weight = draw(4, 3, 2, 2)
    bands = ["B02", "B03", "B04", "B08"]
    by_name = hs.adapt_weight(weight, 4, names=bands, source_names=["B04", "B03", "B02"])
    assert torch.equal(by_name, torch.cat([weight.flip(1), torch.zeros(4, 1, 2, 2)], 1))
    near = hs.adapt_weight(weight, 4, mapping={"B08": "B04"}, names=bands, source_names=["B04", "B03", "B02"])
    assert torch.equal(near[:, 3], weight[:, 0] / 2)
    assert torch.equal(near[:, 2], weight[:, 0] / 2)
    by_index = hs.adapt_weight(weight, 4, mapping={3: 0, 0: 2, 1: 1, 2: 0}, match="nothing")
    assert torch.equal(by_index, weight[:, [2, 1, 0, 0]])


def test_fills():
    weight = draw(64, 3, 3, 3) * torch.linspace(0.1, 4, 64).view(-1, 1, 1, 1)
    rows = [0, 1, 2, None, None]
    mean = hs.adapt_weight(weight, 5, mapping=rows, fill="mean", match="nothing")
    assert torch.allclose(mean[:, 4], weight.mean(1), atol=1e-6)
    random = hs.adapt_weight(weight, 5, mapping=rows, fill="random", seed=3)
    assert torch.equal(random[:, :3], weight)
    ratio = random[:, 3:].square().mean((1, 2, 3)) / weight.square().mean((1, 2, 3))
    assert 0.9 < float(ratio.mean()) < 1.1  # every filter at its own size
    assert not torch.equal(random[:, 3], random[:, 4])
    assert torch.equal(random, hs.adapt_weight(weight, 5, mapping=rows, fill="random", seed=3))
    six = hs.adapt_weight(weight, 6, mapping=[*rows, 0], fill="random", seed=3, match="nothing")
    assert torch.equal(random[:, 3:], six[:, 3:5])  # each channel has its own stream


@given(counts, counts, st.sampled_from(["layer", "channel"]))
def test_energy_holds(old, new, per):
    weight = draw(5, old, 3) * torch.arange(1.0, 6).view(-1, 1, 1)
    adapted = hs.adapt_weight(weight, new, "mean", match="energy", per=per)
    dims = (0, 1, 2) if per == "layer" else (1, 2)
    assert torch.allclose(adapted.square().sum(dims), weight.square().sum(dims), rtol=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("strategy", ["repeat", "sum", "mean"])
def test_groups_stay_apart(transposed, strategy):
    conv, cls = (F.conv_transpose2d, nn.ConvTranspose2d) if transposed else (F.conv2d, nn.Conv2d)
    weight = cls(4, 6, 3, groups=2).weight.detach()
    adapted = hs.adapt_weight(weight, 6, strategy, groups=2, transposed=transposed)
    a, b = draw(2, 1, 5, 5), draw(2, 1, 5, 5, seed=1)
    old = torch.cat([a.expand(-1, 2, -1, -1), b.expand(-1, 2, -1, -1)], 1)
    new = torch.cat([a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)], 1)
    assert torch.allclose(conv(new, adapted, groups=2), conv(old, weight, groups=2), atol=1e-5)


def test_precision_and_memory_format_stay():
    weight = draw(8, 3, 3, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    adapted = hs.adapt_weight(weight, 4)
    assert adapted.dtype == torch.bfloat16
    assert adapted.is_contiguous(memory_format=torch.channels_last)
    assert hs.adapt_weight(draw(8, 3, 3, 3).double(), 4).dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "not a number of channels"),
        ({"strategy": "repaet"}, "Did you mean 'repeat'"),
        ({"strategy": "select"}, "Use 'zeros'"),
        ({"in_channels": 2, "strategy": "zeros"}, "Use 'select'"),
        ({"strategy": "mean", "mapping": [0, 1, 2, None]}, "Both a strategy and a mapping"),
        ({"mapping": [0, 1]}, "2 entries for 4 new channels"),
        ({"mapping": [0, 1, 2, 3]}, "no old channel 3 of 3"),
        ({"mapping": [0, 1, 2, "nir"]}, "There is no old channel 'nir'"),
        ({"mapping": {"nir": 0}}, "There is no new channel 'nir'"),
        ({"mapping": [0, 1, 2, {0: math.nan}]}, "is not a number"),
        ({"mapping": [0, 1, 2, {0: -1.0}]}, "do not sum to a positive number"),
        ({"mapping": [0, 1, 2, 1.5]}, "1.5 is not a channel"),
        ({"names": ["a", "b"]}, "names holds 2 names for 4 channels"),
        ({"source_names": ["a", "b", "a"]}, "'a' more than once"),
        ({"names": "abcd", "source_names": "xyz"}, "None of the new names"),
        ({"fill": "noise"}, "There is no fill 'noise'"),
        ({"match": "unit"}, "There is no match 'unit'"),
        ({"per": "filter"}, "There is no per 'filter'"),
        ({"groups": 3}, "does not have 3 groups"),
    ],
)
def test_weights_that_cannot_be_made(options, message):
    with pytest.raises(hs.HeadstartError, match=message.replace("(", r"\(")):
        hs.adapt_weight(draw(4, 3, 2, 2), **{"in_channels": 4, **options})


def test_groups_that_do_not_divide_and_maps_across_them():
    with pytest.raises(hs.HeadstartError, match="5 input channels cannot be divided among 2 groups"):
        hs.adapt_weight(draw(4, 2, 3), 5, groups=2)
    with pytest.raises(hs.HeadstartError, match="they are in different ones"):
        hs.adapt_weight(draw(4, 1, 3), 2, mapping=[1, 0], groups=2)
    with pytest.raises(hs.HeadstartError, match="not finite"):
        hs.adapt_weight(torch.full((2, 3, 1), math.inf), 4)


@given(counts, counts, st.sampled_from(sorted(STRATEGIES)))
def test_stand_ins_are_channels_that_come_close(old, new, strategy):
    if (strategy == "select" and new > old) or (strategy == "zeros" and new < old):
        return
    found = mix(new, old, strategy)
    for s, t in enumerate(found.stand_ins()):
        assert found.matrix[t, s] == found.matrix[:, s].max()


def test_stand_ins_of_a_stack_are_one_image():
    assert mix(6, 3).stand_ins() == [0, 1, 2]
    assert mix(5, 3, "mean").stand_ins() == [0, 1, 2]
    assert mix(2, 3, "mean").stand_ins() == [0, 1, 0]
    assert mix(4, 6, groups=2).stand_ins() == [0, 1, 0, 2, 3, 2]


# In a model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, draw(16, 1, 10, 10)])
def test_a_grey_image_gives_what_the_colour_image_gave(data):
    model, grey = net(), draw(4, 1, 10, 10, seed=2)
    expected = model(grey.expand(-1, 3, -1, -1))
    report = hs.adapt_conv(model, 1, data=data)
    assert torch.allclose(model(grey), expected, atol=1e-5)
    assert report.changed == ["0"]
    assert (report.old_channels, report.new_channels) == (3, 1)
    assert report.row("0").shape == (8, 1, 3, 3)


def test_everything_but_the_parameter_stays():
    class Own(nn.Conv2d):
        marker = "mine"

    model = nn.Sequential(Own(3, 8, 3, padding=1, padding_mode="reflect", dtype=torch.float64), nn.ReLU())
    model = model.to(memory_format=torch.channels_last)
    model.train()
    conv, calls = model[0], []
    conv.extra = {"a": 1}
    conv.weight._no_weight_decay = True
    handle = conv.register_forward_hook(lambda *_: calls.append(1))
    bias, weight = conv.bias, conv.weight
    state = torch.get_rng_state()
    report = hs.adapt_conv(model, 5, data=draw(8, 5, 6, 6), mapping=[0, 1, 2, None, None], fill="random")
    assert torch.equal(torch.get_rng_state(), state)
    assert model[0] is conv
    assert type(conv) is Own
    assert (conv.in_channels, conv.extra, conv.training) == (5, {"a": 1}, True)
    assert conv.bias is bias
    assert conv.weight is not weight
    assert conv.weight._no_weight_decay
    assert conv.weight.dtype == torch.float64
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    calls.clear()
    model(draw(2, 5, 6, 6).double())
    assert calls == [1]
    handle.remove()
    assert any("new parameter: make the optimizer afterwards" in f for f in report.findings)


def test_a_frozen_stem_stays_frozen_and_is_told():
    model = net()
    model[0].weight.requires_grad_(False)
    report = hs.adapt_conv(model, 4)
    assert not model[0].weight.requires_grad
    assert any("is frozen and stays frozen" in f for f in report.findings)


def test_zeros_and_identity_maps_keep_outputs_bit_for_bit():
    images = draw(4, 4, 10, 10)
    model = net(bias=False)
    expected = model(images[:, :3])
    hs.adapt_conv(model, 4, "zeros", data=images, match="original")
    assert torch.allclose(model(images), expected, atol=1e-6)
    model = net()
    weight = model[0].weight
    expected = model(images[:, :3])
    hs.adapt_conv(model, 3, mapping=[0, 1, 2])
    assert torch.equal(model(images[:, :3]), expected)
    assert model[0].weight is not weight
    hs.adapt_conv(model, 3, mapping=[2, 1, 0], data=images[:, :3], match="nothing")  # channels in another order
    assert torch.allclose(model(images[:, [2, 1, 0]]), expected, atol=1e-5)


def test_the_new_layer_learns():
    model = trained_net()
    images = draw(16, 4, 10, 10)
    hs.adapt_conv(model, 4, "zeros", data=images)
    model(images).square().mean().backward()
    assert (model[0].weight.grad[:, 3].abs().amax((1, 2)) > 0).any()


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("conv", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2])
def test_outputs_get_the_deviation_that_was_asked_for(conv, groups, per):
    torch.manual_seed(0)
    dims = int(conv.__name__[-2])
    layer = conv(4, 6, 3, groups=groups)
    model = nn.Sequential(layer, nn.ReLU())
    data = draw(24, 6, *[7] * dims) * 3
    report = hs.adapt_conv(model, 6, data=data, match="unit", per=per)
    variance = variances(layer(data))
    assert float(variance.mean()) == pytest.approx(1, abs=1e-5)
    if per == "channel":
        assert torch.allclose(variance, torch.ones(6), atol=1e-5)
    (response,) = report.responses
    assert response.after == pytest.approx(1, abs=1e-5)
    assert response.after / response.before == pytest.approx(response.factors[0], rel=1e-4) or per == "channel"


def test_a_reference_says_what_the_deviation_was():
    model = net()
    old, new = draw(32, 3, 10, 10) * 0.3, draw(32, 7, 10, 10) * 5
    wanted = variances(model[0](old))
    report = hs.adapt_conv(model, 7, data=new, reference=old)
    got = variances(model[0](new))
    assert float(got.mean()) == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert report.responses[0].match == "the original layer on the reference"
    hs.adapt_conv(model, 5, data=new[:, :5], reference=new, per="channel", match="original")
    again = variances(model[0](new[:, :5]))
    assert torch.allclose(again, got, rtol=1e-4)


def test_without_a_reference_the_original_runs_on_the_channels_that_come_closest():
    model, data = net(), draw(32, 5, 10, 10) * torch.tensor([1.0, 2, 4, 8, 16]).view(-1, 1, 1)
    names = {"names": ["a", "b", "c", "d", "e"], "source_names": ["e", "c", "a"]}
    wanted = variances(model[0](data[:, [4, 2, 0]]))
    report = hs.adapt_conv(model, 5, **names, fill="mean", data=data)
    got = variances(model[0](data))
    assert float(got.mean()) == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert report.responses[0].match == "the original layer on the same data"


def test_a_trained_batch_norm_gets_what_it_expects():
    data = draw(64, 5, 10, 10) * 7 + 3
    for per in ("layer", "channel"):
        model = trained_net()
        norm, variance = model[1], model[1].running_var.clone()
        report = hs.adapt_conv(model, 5, data=data, per=per, recentre=True)
        out = F.batch_norm(model[0](data).detach(), norm.running_mean, norm.running_var, eps=0)
        assert out.mean((0, 2, 3)).abs().max() < 1e-4
        assert float(variances(out).mean()) == pytest.approx(1, abs=1e-4 if per == "channel" else 0.2)
        assert torch.equal(norm.running_var, variance)
        assert report.statistics == ["1"]
        assert report.responses[0].match == "batch norm '1'"
        assert report.responses[0].after == pytest.approx(float(variance.mean()) ** 0.5, rel=1e-5)
    assert torch.allclose(variances(out), torch.ones(8), atol=1e-4)  # per channel


def test_means_that_a_batch_norm_does_not_expect_are_told():
    model, data = trained_net(), draw(64, 4, 10, 10)
    mean = model[1].running_mean.clone()
    report = hs.adapt_conv(model, 4, data=data + 20)
    assert any("deviations off the means that batch norm '1' expects" in f for f in report.findings)
    assert torch.equal(model[1].running_mean, mean)
    model = trained_net()
    report = hs.adapt_conv(model, 4, data=2 * data + 1)
    assert not any("off the means" in f for f in report.findings)


class FrozenBatchNorm(nn.Module):
    """Buffers alone, as detectors use."""

    def __init__(self, norm):
        super().__init__()
        self.register_buffer("running_mean", norm.running_mean.clone())
        self.register_buffer("running_var", norm.running_var.clone())

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var)


def test_frozen_forms_of_batch_norm_know_as_well():
    model, data = trained_net(), draw(32, 4, 10, 10)
    model[1] = FrozenBatchNorm(model[1])
    report = hs.adapt_conv(model, 4, data=data)
    assert report.responses[0].match == "batch norm '1'"
    assert float(variances(model[0](data)).mean()) == pytest.approx(float(model[1].running_var.mean()), rel=1e-5)


def test_fresh_batch_norms_say_nothing():
    report = hs.adapt_conv(net(), 4, data=draw(16, 4, 10, 10))
    assert report.responses[0].match == "the original layer on the same data"
    with pytest.raises(hs.HeadstartError, match="'1' behind it has no trained statistics"):
        hs.adapt_conv(net(), 4, data=draw(16, 4, 10, 10), match="batch-norm")


def test_filters_for_colour_alone_do_not_explode_per_layer():
    model = trained_net()
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([1.0, -1.0, 1e-3]).view(3, 1, 1) * torch.rand(3, 3)
        for step in range(60):
            model.train()(2 * draw(16, 3, 10, 10, seed=step) + 1)
    grey = draw(32, 1, 10, 10)
    report = hs.adapt_conv(model.eval(), 1, data=grey, per="channel")
    assert report.responses[0].factors[1] > 100
    assert any("respond to differences of old channels" in f for f in report.findings)


def test_rules_measure_and_leave():
    data = draw(16, 6, 10, 10)
    model = net()
    report = hs.adapt_conv(model, 6, data=data, match="energy")
    assert report.responses[0].factors is None
    assert report.responses[0].before == report.responses[0].after
    energies = [m[0].weight.detach().square().sum() for m in (model, net())]
    assert torch.isclose(*energies, rtol=1e-5)


class TwoPaths(nn.Module):
    def __init__(self, mixes=False):
        super().__init__()
        self.later = nn.Conv2d(8, 8, 1)
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.again = nn.Conv2d(7, 2, 1) if mixes else None

    def forward(self, x):
        y = torch.cat([self.fine(x), self.coarse(F.avg_pool2d(x, 1))], 1)
        return self.later(y) if self.again is None else self.again(torch.cat([y[:, :4], x], 1))


def test_all_stems_are_found_and_matched_by_running_the_model():
    model, data = TwoPaths(), draw(16, 5, 8, 8)
    report = hs.adapt_conv(model, 5, data=data, match="unit")
    assert report.changed == ["fine", "coarse"]
    assert [r.after for r in report.responses] == pytest.approx([1, 1], abs=1e-5)
    assert model.later.in_channels == 8
    assert [c.layer for c in report.channels] == ["fine"] * 5 + ["coarse"] * 5
    again = hs.adapt_conv(model, 5, mapping=[4, 3, 2, 1, 0], data=data)
    assert again.changed == ["fine"]  # the other one takes a pooled copy, at a count that fits already
    assert any("These layers also take 5 channels, perhaps from the input: coarse." in f for f in again.findings)


class SlowFast(nn.Module):
    def __init__(self):
        super().__init__()
        self.slow, self.fast = nn.Conv3d(3, 8, (1, 5, 5)), nn.Conv3d(3, 4, (3, 5, 5))
        self.head = nn.Linear(12, 2)

    def forward(self, slow, fast):
        return self.head(torch.cat([self.slow(slow).mean((2, 3, 4)), self.fast(fast).mean((2, 3, 4))], 1))


def test_stems_of_several_inputs():
    model = SlowFast()
    data = {"slow": draw(8, 2, 2, 9, 9), "fast": draw(8, 2, 6, 9, 9)}
    assert hs.adapt_conv(model, 2, data=data).changed == ["slow", "fast"]
    assert model(**data).shape == (8, 2)


def test_half_precision_stays():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).to(torch.bfloat16)
    report = hs.adapt_conv(model, 5, data=draw(16, 5, 9, 9), match="unit")
    assert model[0].weight.dtype == torch.bfloat16
    assert report.responses[0].after == pytest.approx(1, abs=0.01)


def test_a_named_layer_is_the_only_one():
    model, data = TwoPaths(), draw(16, 5, 8, 8)
    before = snapshot(model)
    with pytest.raises(hs.ModelError, match=r"layer 'coarse' .* takes the input as well.*layer=\['fine', 'coarse'\]"):
        hs.adapt_conv(model, 5, data=data, layer="fine")
    assert_unchanged(model, before)
    hs.adapt_conv(model, 5, data=data, layer=["coarse", "fine"])
    assert model(data).shape == (16, 8, 8, 8)


def test_a_layer_that_mixes_the_input_with_features_is_refused():
    model = TwoPaths(mixes=True)
    before = snapshot(model)
    with pytest.raises(hs.ModelError, match="mixes the input with other features: 9 channels reach it instead of 7"):
        hs.adapt_conv(model, 5, data=draw(16, 5, 8, 8))
    assert_unchanged(model, before)


def test_without_data_the_first_registered_is_taken_and_the_others_are_named():
    report = hs.adapt_conv(TwoPaths(), 5, layer="fine")
    assert any("These layers also take 3 channels, perhaps from the input: coarse." in f for f in report.findings)
    model = TwoPaths()
    assert hs.adapt_conv(model, 5).changed == ["later"]  # registered first, and told so
    assert model.later.in_channels == 5


class Normalizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x - self.pixel_mean)


def test_models_that_hold_their_channels_elsewhere():
    model = Normalizes()
    before = snapshot(model)
    with pytest.raises(hs.ModelError, match=r"With 4 input channels in 'conv': .*elsewhere too"):
        hs.adapt_conv(model, 4, data=draw(8, 4, 6, 6))
    assert_unchanged(model, before)
    report = hs.adapt_conv(model, 4)
    assert any("Still set for 3 channels: the buffer pixel_mean" in f for f in report.findings)


class Checks(nn.Module):
    """Looks at the number of channels itself, as the patch embeddings of some libraries do."""

    def __init__(self):
        super().__init__()
        self.num_channels = 3
        self.projection = nn.Conv2d(3, 4, 2, stride=2)

    def forward(self, pixels):
        if pixels.shape[1] != self.num_channels:
            raise ValueError("Make sure that the channels match")
        return self.projection(pixels)


def test_a_count_beside_the_layer_is_set_too():
    model = nn.Sequential(Checks(), nn.ReLU())
    report = hs.adapt_conv(model, 6, data=draw(8, 6, 6, 6))
    assert model[0].num_channels == 6
    assert any("Also set to 6: 0.num_channels." in f for f in report.findings)
    assert model(draw(2, 6, 4, 4)).shape == (2, 4, 2, 2)
    assert not any("Also set" in f for f in hs.adapt_conv(model, 6, mapping=[5, 4, 3, 2, 1, 0]).findings)


def test_a_layer_that_runs_twice_and_by_keyword_is_matched_once():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(8, 2)

        def forward(self, left, right):
            pair = [self.conv(input=side).mean((2, 3)) for side in (left, right)]
            return self.head(torch.cat(pair, 1))

    torch.manual_seed(0)
    model, left = Twins(), draw(16, 5, 8, 8)
    wanted = variances(model.conv(left[:, [0, 1, 2]])).mean()  # repeat: 0, 1 and 2 come closest
    report = hs.adapt_conv(model, 5, data={"left": left, "right": 100 * left})
    assert len(report.responses) == 1
    assert torch.allclose(variances(model.conv(left)).mean(), wanted, rtol=1e-4)


def test_silent_filters_keep_their_scale_and_hooks_are_told():
    model = net(bias=False)
    with torch.no_grad():
        model[0].weight[2] = 0
    model[0].weight.register_hook(lambda gradient: gradient)
    report = hs.adapt_conv(model, 4, data=draw(16, 4, 10, 10), match="unit", per="channel")
    assert "1 output channels hardly vary on the data and keep their scale." in report.findings
    assert "Hooks on the old weight of '0' were not carried over." in report.findings
    expected = torch.ones(8)
    expected[2] = 0
    assert torch.allclose(variances(model[0](draw(16, 4, 10, 10))), expected, atol=1e-5)


def test_rules_need_no_data_that_varies():
    assert hs.adapt_conv(net(), 4, data=torch.zeros(4, 4, 10, 10), match="response").responses[0].after == 0


def test_a_named_layer_that_does_not_run_is_told():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.spare = nn.Conv2d(4, 2, 3), nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return self.main(x)

    model = Spare()
    report = hs.adapt_conv(model, 4, layer="spare", data=draw(8, 4, 6, 6))
    assert (model.main.in_channels, model.spare.in_channels) == (4, 4)
    assert report.changed == ["spare"]
    assert "'spare' is not run by the forward pass, so its output was not measured." in report.findings


def test_a_configuration_that_modules_share_is_told_once():
    model = net()
    model.config = model[0].config = model[3].config = {"num_channels": 3, "image_mean": 0}
    (told,) = [f for f in hs.adapt_conv(model, 4).findings if f.startswith("Still set")]
    assert told.count("config") == 1
    assert "config (num_channels)" in told


def test_filters_are_drawn_where_the_count_stays():
    pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra plot)")
    with pytest.raises(hs.HeadstartError, match="took 3 channels and take 4"):
        hs.adapt_conv(net(), 4).plot_filters()
    assert len(hs.adapt_conv(net(), 3, mapping=[2, 1, 0]).plot_filters().axes) == 2


def test_weight_standardization_is_told_or_refused():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            w = self.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
            return self._conv_forward(x, w, self.bias)

    torch.manual_seed(0)
    model = nn.Sequential(Standardized(3, 8, 3), nn.ReLU())
    before = snapshot(model)
    with pytest.raises(hs.WriteError, match="does not rescale its output"):
        hs.adapt_conv(model, 4, data=draw(8, 4, 6, 6), match="unit")
    assert_unchanged(model, before)
    report = hs.adapt_conv(model, 4, data=draw(8, 4, 6, 6))
    assert any("it was left" in f for f in report.findings)
    assert torch.equal(model[0].weight, hs.adapt_weight(before[0]["0.weight"][1], 4))


def tied():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].weight
    return model


class Buffered(nn.Parameter):
    pass


def own_parameter():
    model = net()
    model[0].weight = Buffered(model[0].weight.detach())
    return model


def silent():
    model = net()
    nn.init.zeros_(model[0].weight)
    return model


def pruned():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (pruned, {}, "is computed from other parameters"),
        (lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))), {}, "is computed from"),
        (tied, {}, "is tied to '1.weight'"),
        (lambda: nn.Linear(4, 4), {}, "No convolution of Linear takes its input"),
        (net, {"layer": "stem"}, "There is no convolution 'stem'"),
        (net, {"match": "std"}, "There is no match 'std'"),
        (net, {"per": "filter"}, "There is no per 'filter'"),
        (net, {"match": "unit"}, "there is none. Pass data="),
        (net, {"reference": draw(8, 3, 10, 10)}, "there is none. Pass data="),
        (net, {"recentre": True}, "there is none. Pass data="),
        (net, {"data": draw(8, 4, 10, 10), "recentre": True}, "needs a trained batch norm"),
        (net, {"data": draw(8, 4, 10, 10), "reference": draw(8, 3, 10, 10), "match": "unit"}, "does not use"),
        (net, {"data": draw(8, 4, 10, 10), "reference": draw(8, 4, 10, 10)}, "forward failed"),
        (net, {"data": draw(8, 5, 10, 10)}, "takes the input: 5 channels reach it instead of 3"),
        (net, {"data": draw(8, 4, 10, 10), "layer": "3"}, r"takes the input as well.*\['3', '0'\]"),
        (net, {"data": draw(8, 5, 10, 10), "layer": "0"}, "The data gives 5 channels to layer '0'"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), {"data": draw(2, 4, 4, 3)}, "gives 4 values per channel"),
        (silent, {"data": draw(8, 4, 10, 10), "match": "unit"}, "does not vary on the data, or its target is zero"),
        (own_parameter, {}, "is a Buffered, not a plain parameter"),
        (net, {"data": torch.zeros(8, 4, 10, 10)}, "differ|same|constant|vary"),
        (net, {"data": draw(8, 4, 10, 10).index_fill(0, torch.tensor(3), math.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_done_changes_nothing(make, options, message):
    torch.manual_seed(0)
    model = make()
    before, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(hs.HeadstartError, match=message):
        hs.adapt_conv(model, 4, **options)
    assert_unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_lazy_models_are_refused():
    with pytest.raises(hs.ModelError, match="lazy modules"):
        hs.adapt_conv(nn.Sequential(nn.LazyConv2d(4, 3)), 4)


def test_an_interrupt_at_the_last_moment_changes_nothing(monkeypatch):
    redo = InputLayers.redo

    def interrupted(stems):
        redo(stems)
        raise KeyboardInterrupt

    model = trained_net()
    before = snapshot(model)
    monkeypatch.setattr(InputLayers, "redo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hs.adapt_conv(model, 4, data=draw(16, 4, 10, 10), recentre=True)
    assert_unchanged(model, before)


def test_an_interrupt_changes_nothing():
    class Interrupted(nn.Sequential):
        runs = 0

        def forward(self, x):
            y = super().forward(x)
            type(self).runs += 1
            if self.runs > 1:
                raise KeyboardInterrupt
            return y

    model = Interrupted(*trained_net())
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        hs.adapt_conv(model, 4, data=draw(16, 4, 10, 10), recentre=True)
    assert_unchanged(model, before)


def test_the_report_shows_itself():
    report = hs.adapt_conv(trained_net(), 4, mapping=["r", "g", "b", {"r": 0.5, "b": 0.5}], source_names="rgb",
                           names=["red", "green", "blue", "nir"], data=draw(16, 4, 10, 10))  # fmt: skip
    assert [str(c) for c in report.channels] == ["0.667 × r", "g", "0.667 × b", "0.333 × r + 0.333 × b"]
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["channels"][3] == {
        "layer": "0",
        "name": "nir",
        "made_of": {"r": pytest.approx(1 / 3), "b": pytest.approx(1 / 3)},
        "drawn": False,
    }
    assert plain["responses"][0]["match"] == "batch norm '1'"
    for text in (str(report), report.to_html()):
        assert "0.333 × r + 0.333 × b" in text
        assert "output std wanted" in text


# Real architectures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0", "small_vit"])
def test_torchvision(torchvision_models, name):
    torch.manual_seed(0)
    size = 64
    vit = {"image_size": 64, "patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    small = {"small_vit": lambda **given: torchvision_models.VisionTransformer(**vit, **given)}
    model = (small.get(name) or getattr(torchvision_models, name))(num_classes=5).eval()
    grey = draw(2, 1, size, size)
    with torch.no_grad():
        expected = model(grey.expand(-1, 3, -1, -1))
        keys = list(model.state_dict())
        report = hs.adapt_conv(model, 6, data=draw(4, 6, size, size), match="response")
        assert torch.allclose(model(grey.expand(-1, 6, -1, -1)), expected, rtol=1e-3, atol=1e-4)
    assert len(report.changed) == 1
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("name", ["resnetv2_50", "tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_timm(timm, name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    size = 224 if "vit" in name else 64
    data = draw(2, 4, size, size)
    report = hs.adapt_conv(model, 4, data=data, match="response")
    assert (first.in_channels, first.weight.shape[1]) == (4, 4)
    assert any("Still set for 3 channels: pretrained_cfg (input_size, mean, std)" in f for f in report.findings)
    with torch.no_grad():
        assert model(data).shape == (2, 5)


class FirstBatch(nn.Module):
    """Divides by the deviation of the first batch that it meets, kept in an attribute or in a buffer."""

    def __init__(self, place):
        super().__init__()
        self.place, self.value = place, None
        self.register_buffer("scale", torch.zeros(()))

    def forward(self, x):
        if self.place == "buffer" and not self.scale:
            self.scale.copy_(x.std())
        if self.place == "attribute" and self.value is None:
            self.value = float(x.std())
        return x / (self.scale if self.place == "buffer" else self.value)


@pytest.mark.parametrize("place", ["buffer", "attribute"])
@pytest.mark.parametrize(("channels", "match", "referred"), [(5, "unit", False), (3, "unit", False), (5, "auto", True)])
def test_every_pass_meets_the_model_as_it_was(place, channels, match, referred):
    """What two samples, or the reference, set off does not reach the pass that is measured, nor the model."""
    x = draw(32, channels, 8, 8)
    x[:2] *= 0.05
    old = 3 * draw(32, 3, 8, 8, seed=1)
    model = nn.Sequential(FirstBatch(place), net(3)[0])
    expected = float(variances(nn.Sequential(FirstBatch(place), net(3)[0])(old)).mean().sqrt())
    report = hs.adapt_conv(model, channels, data=x, match=match, reference=old if referred else None)
    assert (float(model[0].scale), model[0].value) == (0, None)
    after = float(variances(model(x)).mean().sqrt())  # the first batch that it really meets
    assert report.responses[0].after == pytest.approx(after, rel=1e-4)
    assert after == pytest.approx(expected if referred else 1, rel=1e-4)


# Its page ---------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "adapt.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs():
    names = {"print": lambda *_: None}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    assert names["model"][0].in_channels == 5
    assert names["state"]["weight"].shape == (16, 13, 3, 3)


def test_the_page_names_every_choice():
    named = set(re.findall(r"^\| `([\w-]+)`", PAGE, re.MULTILINE))
    assert named == {*STRATEGIES, *set(MATCHES) - set(RULES)}
    assert all(f'`match="{rule}"`' in PAGE for rule in RULES)
    assert all(f"`{fill}`" in PAGE for fill in FILLS)
    assert all(f"`{record}`" in PAGE for record in RECORDS)
