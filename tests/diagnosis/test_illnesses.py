"""Planted illnesses: the culprit is named first, and every printed mend runs as it is printed and takes them away."""

import itertools
import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.diagnosis.mends import anew

IMAGES = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(64, 24, generator=torch.Generator().manual_seed(1))


def mended(model, data, finding):
    """Run a mend as it is printed, and look again."""
    assert finding.code in str(finding)
    exec(finding.code, {"hs": hs, "torch": torch, "model": model, "data": data})
    return hs.diagnose(model, data)


def block(norm):
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(8, 8, 3, padding=1), norm=norm, act=nn.ReLU()))


def normed():
    torch.manual_seed(0)
    blocks = nn.Sequential(*(block(nn.BatchNorm2d(8)) for _ in range(6)))
    return nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 3), blocks=blocks, pool=nn.Flatten(), head=nn.Linear(800, 5)))


def plain():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(part for i in range(4) for part in (nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1), nn.ReLU())),
        nn.Flatten(), nn.Linear(8 * 144, 5),
    )  # fmt: skip
    for module in net:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net


def perceptron(gate=nn.Tanh):
    torch.manual_seed(0)
    sizes = [24, 96, 32, 128, 32, 256, 24]
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), gate())]
    for module in layers:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return nn.Sequential(*layers, nn.Linear(24, 5))


class Positions(nn.Module):
    def __init__(self, cloned):
        super().__init__()
        torch.manual_seed(0)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 6, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3 if cloned else 1, enable_nested_tensor=False)
        self.table, self.head = nn.Embedding(7, 8), nn.Linear(8, 3)

    def forward(self, x):
        value = x.reshape(len(x), 6, 4).repeat(1, 1, 2) + self.positions + self.table.weight[3]
        return self.head(self.encoder(value).mean(1))


@torch.no_grad()
def ill(kind):
    """A model, its data, the kind of finding, and the names of which one must come first."""
    if kind == "dead layer":
        net = plain()
        net[4].bias.fill_(-500)
        return net, IMAGES, "dead units", ["4"]
    if kind == "exploding layer":
        net = plain()
        net[4].weight.mul_(1e6)
        return net, IMAGES, "activations explode", ["4"]
    if kind == "vanishing layer":
        net = plain()
        for i in (4, 6, 9):
            net[i].bias.zero_()
        net[4].weight.mul_(1e-6)
        return net, IMAGES, "activations vanish", ["4"]
    if kind == "exploding branch between norms":
        net = normed()
        net.blocks[2].norm.weight.fill_(1e5)
        return net, IMAGES, "huge values", ["blocks.2.norm.weight"]
    if kind == "swapped fan":
        net = perceptron()
        net[4].weight.mul_(math.sqrt(32 / 128))
        return net, VECTORS, "swapped fan", ["4"]
    if kind == "missing norm":
        net = normed()
        net.blocks[3].norm = nn.Identity()
        return net, IMAGES, "missing norm", ["blocks.3"]
    if kind == "saturated sigmoid":
        net = perceptron(nn.Sigmoid)
        net[4].weight.mul_(1e4)
        return net, VECTORS, "saturated units", ["4"]
    if kind == "NaN in a norm":
        net = normed()
        net.blocks[3].norm.bias[2] = math.nan
        return net, IMAGES, "not finite", ["blocks.3.norm.bias"]
    if kind == "infinite statistics":
        net = normed()
        net.blocks[1].norm.running_var[0] = math.inf
        return net, IMAGES, "not finite", ["blocks.1.norm.running_var"]
    if kind == "NaN in a layer":
        net = plain()
        net[2].weight[0, 0, 0, 0] = math.nan
        return net, IMAGES, "not finite", ["2.weight"]
    if kind == "1e37 in a position embedding":
        net = Positions(cloned=False)
        net.positions[0, 0, 0] = 1e37
        return net, VECTORS, "huge values", ["positions"]
    if kind == "NaN in a table":
        net = Positions(cloned=False)
        net.table.weight[3, 0] = math.nan
        return net, VECTORS, "not finite", ["table.weight"]
    if kind == "clones of nn.TransformerEncoder":
        return Positions(cloned=True), VECTORS, "duplicates", ["encoder.layers.0.self_attn.in_proj_weight"]
    if kind == "NaN in an attention":
        net = Positions(cloned=False)
        net.encoder.layers[0].self_attn.in_proj_weight[0, 0] = math.nan
        return net, VECTORS, "not finite", ["encoder.layers.0.self_attn.in_proj_weight"]
    if kind == "clones":
        net = plain()
        net[4].load_state_dict(net[2].state_dict())
        return net, IMAGES, "duplicates", ["2.weight"]
    if kind == "equal weights":
        net = plain()
        net[4].weight.fill_(0.1)
        return net, IMAGES, "constant weights", ["4"]
    if kind == "constant input channel":
        images = IMAGES.clone()
        images[:, 1] = 0.3
        return normed(), images, "constant channel", ["1"]
    assert kind == "label-free output"
    return nn.Sequential(plain(), nn.Unflatten(1, (5, 1)), nn.Softmax(2)), IMAGES, "constant output", ["0.9"]


MENDED = [
    "dead layer", "exploding layer", "vanishing layer", "exploding branch between norms",
    "saturated sigmoid", "NaN in a norm", "infinite statistics", "NaN in a layer", "1e37 in a position embedding",
    "NaN in a table", "NaN in an attention", "equal weights",
]  # fmt: skip
LOOKED_AT = [
    "swapped fan",
    "missing norm",
    "clones of nn.TransformerEncoder",
    "clones",
    "constant input channel",
    "label-free output",
]


@pytest.mark.parametrize("kind", [*MENDED, *LOOKED_AT])
def test_a_planted_illness_is_found_with_its_culprit_and_its_mend_runs_as_printed(kind):
    model, data, wanted, culprits = ill(kind)
    diagnosis = hs.diagnose(model, data)
    found = diagnosis.found(wanted)
    assert found, [f.kind for f in diagnosis.findings]
    assert found[0].layers[0] in culprits
    assert bool(found[0].code) is (kind in MENDED)
    if kind in MENDED:
        assert mended(model, data, found[0]).found(wanted) == []


@pytest.mark.parametrize("build", [plain, normed, perceptron, lambda: Positions(cloned=False)])
def test_healthy_networks_have_no_finding(build):
    model = build()
    images = isinstance(next(model.children()), nn.Conv2d)
    assert hs.diagnose(model, IMAGES if images else VECTORS).findings == []


def up_and_down(transposed):
    """Convolutions whose fans differ, and transposed ones, all as torch draws them."""
    torch.manual_seed(0)
    widths = [3, 64, 16, 96, 12, 64, 8]
    down = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)]
    up = [nn.ConvTranspose2d(8, 8, 8, stride=2, padding=3, groups=8) for _ in range(transposed)]
    return nn.Sequential(
        *(part for layer in (*down, nn.MaxPool2d(4), *up) for part in (layer, nn.ReLU())), nn.Flatten()
    )


def test_a_transposed_convolution_as_torch_draws_it_is_no_swapped_fan():
    model = up_and_down(transposed=1)
    assert hs.diagnose(model).findings == []
    assert hs.diagnose(model, IMAGES).found("swapped fan") == []


def test_among_transposed_convolutions_the_one_that_differs_is_found():
    model = up_and_down(transposed=6)
    layer = model[18]
    with torch.no_grad():
        layer.weight.mul_(2)  # by its fan_in, which the stride makes a quarter of its fan_out
    (found,) = hs.diagnose(model).found("swapped fan")
    assert found.layers == ("18",)
    assert "scaled by fan_in" in found.text


def test_blocks_may_have_a_word_before_their_number():
    blocks = nn.Sequential(OrderedDict((f"layer{i}", block(nn.BatchNorm2d(8))) for i in range(1, 8)))
    model = nn.Sequential(
        OrderedDict(stem=nn.Conv2d(3, 8, 3), blocks=blocks, pool=nn.Flatten(), head=nn.Linear(800, 5))
    )
    assert hs.diagnose(model).findings == []
    blocks.layer4.norm = nn.Identity()
    (found,) = hs.diagnose(model).found("missing norm")
    assert found.layers == ("blocks.layer4",)


def test_an_authors_small_branches_and_zero_weights_are_notes():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(24, 24), nn.Linear(24, 24)
            self.gamma = nn.Parameter(torch.full((24,), 1e-6))

        def forward(self, x):
            return x + self.gamma * self.outer(torch.relu(self.inner(x)))

    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(3)), nn.Linear(24, 5))
    nn.init.zeros_(model[1].outer.weight)
    diagnosis = hs.diagnose(model, VECTORS)
    assert diagnosis.findings == []
    assert "'1.outer' starts at zero" in " ".join(diagnosis.notes)
    assert "taken as a choice" in " ".join(diagnosis.notes)


def test_a_mend_reaches_any_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("a-b", nn.ModuleList([nn.LayerNorm(3), nn.Linear(3, 3)]))
            self.register_parameter("pos-1", nn.Parameter(torch.full((2, 3), math.nan)))
            self.weird = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))

        def forward(self, x):
            return x

    model = Odd()
    names = ["a-b.0.weight", "a-b.1.weight", "pos-1", "weird.parametrizations.weight.original1"]
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).fill_(math.nan)
    exec(anew(model, names), {"hs": hs, "torch": torch, "model": model})
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_single_layer_is_drawn_anew_by_itself():
    layer = nn.Linear(4, 3)
    nn.init.constant_(layer.weight, 0.5)
    (found,) = hs.diagnose(layer).found("constant weights")
    assert mended(layer, None, found).findings == []


def test_zeros_that_nothing_passes_are_to_blame_and_not_the_layers_behind():
    net = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.zeros_(net[2].weight)
    diagnosis = hs.diagnose(net, VECTORS)
    (found,) = diagnosis.findings
    assert (found.kind, found.layers) == ("constant weights", ("2",))
    assert not any("taken as a choice" in note for note in diagnosis.notes)
    assert mended(net, VECTORS, found).findings == []


def test_a_head_of_zeros_with_a_bias_is_a_choice():
    net = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.zeros_(net[2].weight)
    assert hs.diagnose(net, VECTORS).findings == []


def test_samples_that_are_all_the_same_are_to_blame_and_no_layer():
    (found,) = hs.diagnose(plain(), IMAGES[:1].expand(16, -1, -1, -1)).findings
    assert (found.kind, found.code) == ("constant data", "")


def test_what_follows_from_huge_values_points_at_them():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(4, 24), nn.Linear(24, 3)
            with torch.no_grad():
                self.table.weight[2, 1] = 1e37

        def forward(self, x):
            return self.head(x.unsqueeze(1) + self.table.weight).mean(1)

    findings = hs.diagnose(Positions(), VECTORS).findings
    assert len(findings) > 1
    assert all(f.kind == "huge values" or f.mend == "see 'table.weight' first." for f in findings)


def test_units_that_no_signal_reaches_are_not_called_dead():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )
    nn.init.zeros_(model[0].weight)
    found = hs.diagnose(model, torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(1)))
    assert [f.kind for f in found.findings] == ["constant weights"]
    assert found.findings[0].layers == ("0",)
