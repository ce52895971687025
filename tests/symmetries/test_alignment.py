"""Alignment: functions stay, permuted copies find back, matching agrees with a plain loop."""

import copy
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import headstart as hs
from headstart.bench.models.builders import resolve_model
from headstart.conformance.state import Snapshot, same_bits
from headstart.model import inputs
from headstart.model.weights import weight_layers
from headstart.symmetries.alignment import canonical
from headstart.symmetries.channel_flow import trace_channels
from headstart.symmetries.matching import Matcher, units
from headstart.symmetries.permutation import order, permute
from headstart.symmetries.same_function import change, outputs


def make(spec, size, seed=0):
    """A model of the zoo whose batch norms have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = resolve_model(spec)(3, 5, (size, size))
        return trained(model, images(size))


def trained(model, x):
    model.train()
    for _ in range(3):
        model(x)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model.eval()


def images(size, channels=3, n=8):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def shuffled(model, x, seed=0):
    """A copy with the same function and its channels in other places, with its wiring and table."""
    wiring = trace_channels(model, inputs.load(x, model, seed=0))
    table = wiring.shuffled(torch.Generator().manual_seed(seed))
    twin = copy.deepcopy(model)
    permute(twin, wiring, table)
    return twin, wiring, table


def difference(a, b, x):
    batch = inputs.load(x, a, seed=0)
    return change(outputs(a, batch), outputs(b, batch), rounding=0)


def sizes(wiring):
    return [len(group) for group in wiring.groups]


class Dense(nn.Module):
    """Concatenations of all that came before, as in DenseNet; flattened at the end."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (6, 10, 14))
        self.convs = nn.ModuleList(nn.Conv2d(c, 4, 3, padding=1, bias=False) for c in (6, 10, 14))
        self.head = nn.Linear(18 * 16, 5)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Affine(nn.Module):
    """Everything per channel that is no weight layer: slopes, layer scale, group, instance and layer norm, a gate."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.slope, self.group = nn.PReLU(8), nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.1))
        self.place = nn.Parameter(torch.randn(1, 1, 8, 8))  # for positions, not for channels
        self.gate = nn.Linear(8, 8)
        self.layer = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.slope(self.a(x)) + self.place
        x = x + self.scale * self.instance(self.group(self.b(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        x = torch.where(x > 0, x, 0.1 * x)
        return self.head(F.gelu(self.layer(x.permute(0, 2, 3, 1))).mean((1, 2)))


class Shapes(nn.Module):
    """Transposed, grouped, depthwise with a multiplier, shared and tied layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=3)
        self.multiplied = nn.Conv2d(6, 12, 3, groups=6)
        self.loop = nn.Conv2d(12, 12, 1)
        self.tied = nn.Conv2d(12, 12, 1)
        self.tied.weight = self.loop.weight
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = F.relu(self.multiplied(F.relu(self.up(F.relu(self.grouped(F.relu(self.stem(x))))))))
        return self.head(F.relu(self.tied(F.relu(self.loop(x))))).mean((2, 3))


class Loop(nn.Module):
    """One layer used three times."""

    def __init__(self):
        super().__init__()
        self.stem, self.loop, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for _ in range(3):
            x = F.relu(self.loop(x))
        return self.head(x.mean((2, 3)))


ZOO = {
    "plain": ("headstart:plain-cnn:depth=4,width=8", 12),
    "flattened": ("headstart:prewarm-cnn", 16),
    "option A": ("headstart:cifar-resnet20", 16),
    "without norm": ("headstart:cifar-resnet20:norm=0", 16),
    "resnet18": ("headstart:resnet18", 32),
}
SLOW = {
    "mobilenet v1": ("headstart:mobilenet-v1", 32),
    "resnet50": ("headstart:resnet50", 32),
    "mobilenet v2": ("headstart:mobilenet-v2", 32),
    "mobilenet v3": ("headstart:mobilenet-v3-small", 32),
}
OWN = {"dense": Dense, "affine": Affine, "shapes": Shapes, "loop": Loop}
NAMES = [*OWN, *ZOO, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def build(name, seed=0):
    if name in OWN:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return trained(OWN[name](), images(8)), images(8)
    spec, size = {**ZOO, **SLOW}[name]
    return make(spec, size, seed), images(size)


@pytest.mark.parametrize("name", NAMES)
def test_a_permuted_copy_finds_back_and_functions_stay(name):
    model, x = build(name)
    twin, wiring, table = shuffled(model, x)
    assert any(not same_bits(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert difference(model, twin, x) < 1e-5
    before = [Snapshot(model), Snapshot(twin)]
    aligned = hs.align([model, twin], x)
    for snapshot in before:
        snapshot.require_kept()  # sources are not written
    for (key, a), b in zip(model.state_dict().items(), aligned.models[1].state_dict().values(), strict=True):
        assert same_bits(a, b), key
    back = torch.empty_like(table)
    back[table] = torch.arange(len(table))
    permute(twin, wiring, back)
    for (key, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert same_bits(a, b), key


@pytest.mark.slow
def test_vgg_keeps_its_function_in_other_places():
    # Assignments of its 4,096 features take minutes; that everything follows them is what matters here.
    model, x = make("headstart:vgg16-bn", 32), images(32)
    twin, wiring, _ = shuffled(model, x)
    assert sizes(wiring)[-2:] == [4096, 4096]
    assert difference(model, twin, x) < 1e-5


@pytest.mark.parametrize("name", [n for n in [*OWN, *ZOO] if n != "resnet18"])
def test_another_network_keeps_its_function_and_comes_closer(name):
    model, x = build(name)
    other, _ = build(name, seed=1)
    aligned = hs.align([model, other], x)
    assert difference(other, aligned.models[1], x) < 1e-5
    assert difference(model, aligned.models[0], x) == 0
    before, after = aligned.similarity[1]
    assert after > before + 0.02


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.half = (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.half, self.half)))


class Trained(nn.Module):
    """The CIFAR ResNet of the published weights, whose shortcuts pad channels on both sides."""

    def __init__(self, depth):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        widths = [16, *(w for w in (16, 32, 64) for _ in range((depth - 2) // 6))]
        blocks = [Block(a, b) for a, b in itertools.pairwise(widths)]
        n = len(blocks) // 3
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*blocks[i * n : (i + 1) * n]) for i in range(3))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize(
    "depth", [20, pytest.param(32, marks=pytest.mark.slow), pytest.param(56, marks=pytest.mark.slow)]
)
def test_trained_cifar_resnets(depth):
    folder = Path(os.environ.get("HEADSTART_DATA") or Path(__file__).parents[3] / "shared" / "data")
    path = folder / "weights" / f"cifar10_resnet{depth}.safetensors"
    if not path.is_file():
        pytest.skip(f"trained weights: there is no {path}; set HEADSTART_DATA")
    net, x = Trained(depth).eval(), images(16, n=2)
    assert not net.load_state_dict(load_file(str(path)), strict=False).unexpected_keys
    twin, wiring, _ = shuffled(net, x)
    # Of the 32 channels of the second stage, the middle 16 are the first stage's.
    blocks = (depth - 2) // 6
    assert sizes(wiring) == [16] * (blocks + 1) + [32, 16] + [32] * (blocks - 1) + [64, 32] + [64] * (blocks - 1)
    assert difference(net, twin, x) < 1e-5
    aligned = hs.align([net, twin], x)
    assert all(same_bits(a, b) for a, b in zip(net.parameters(), aligned.models[1].parameters(), strict=True))


def test_shortcuts_move_together_and_padded_channels_apart():
    model, x = build("option A")
    wiring = trace_channels(model, inputs.load(x, model, seed=0))
    # The first stage's 16 channels run through all stages; each later stage adds its own to them.
    assert sizes(wiring) == [16, 16, 16, 16, 32, 16, 32, 32, 64, 32, 64, 64]
    stream = set(wiring.groups[0].tolist())
    third = wiring.layers["9.conv2"].outputs.tolist()
    assert stream == set(third[:16])
    assert list(wiring.fixed) == ["14"]


def test_parts_of_a_concatenation_stay_parts():
    model, x = build("dense")
    wiring = trace_channels(model, inputs.load(x, model, seed=0))
    assert sizes(wiring) == [6, 4, 4, 4]
    labels = wiring.layers["convs.2"].inputs.tolist()
    assert [set(labels[:6]), set(labels[6:10])] == [set(g.tolist()) for g in wiring.groups[:2]]
    assert len(wiring.layers["head"].inputs.unique()) == 18


def test_what_stays_in_place_is_told():
    model, x = build("shapes")
    aligned = hs.align([model, copy.deepcopy(model)], x)
    # 8 channels in 2 groups; 12 that leave 2 groups for 3; those of the other layers cannot move.
    assert sorted(sizes(aligned.wiring)) == [2, 2, 4, 4, 4, 4]
    assert "shares a parameter" in aligned.fixed["loop"]
    assert aligned.fixed["head"] == "the model returns it"
    assert any("'loop' keeps the order" in sentence for sentence in aligned.sentences())
    assert "similarity" in str(aligned)


def test_per_channel_parameters_go_along():
    model, x = build("affine")
    wiring = trace_channels(model, inputs.load(x, model, seed=0))
    assert {"slope.weight", "scale", "group.weight", "instance.running_var", "layer.bias"} <= set(wiring.other_tensors)
    assert "place" not in wiring.other_tensors
    assert sizes(wiring) == [4, 4]  # one stream, in the two groups of its norm


class Attending(nn.Module):
    """Attention of one head: as one operation on every release, as long as there is an axis for heads."""

    def __init__(self, queries=7):
        super().__init__()
        self.queries = queries
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
        self.out = nn.Linear(6, 5)

    def forward(self, x):
        q, k, v = (layer(x).unsqueeze(1) for layer in (self.q, self.k, self.v))
        q = q[:, :, : self.queries]
        return self.out(F.scaled_dot_product_attention(q, k, v).squeeze(1).mean(1))


def test_the_channels_of_attention_trade_places_together():
    torch.manual_seed(0)
    model, x = Attending(), torch.randn(8, 7, 6)
    twin, wiring, _ = shuffled(model, x)
    assert sizes(wiring) == [6]
    assert list(wiring.fixed) == ["out"]
    assert not same_bits(model.v.weight, twin.v.weight)
    assert difference(model, twin, x) < 1e-5


def test_where_queries_are_fewer_than_values_the_values_trade_places():
    torch.manual_seed(0)
    model, x = Attending(queries=4), torch.randn(8, 7, 6)
    twin, wiring, _ = shuffled(model, x)
    assert sizes(wiring) == [6]
    assert list(wiring.fixed) == ["q", "k", "out"]
    assert not same_bits(model.v.weight, twin.v.weight)
    assert difference(model, twin, x) < 1e-5


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.a(x)).cumsum(1)  # channels in order
        return self.head(F.relu(self.b(x)).mean((2, 3)))


def test_channels_whose_order_matters_stay():
    model = Mixing()
    aligned = hs.align([model, copy.deepcopy(model)], images(8))
    assert aligned.fixed["a"] == "cumsum mixes channels"
    assert sizes(aligned.wiring) == [6]


def test_a_function_that_does_not_stay_is_refused(monkeypatch):
    model, x = build("plain")
    twin, wiring, _ = shuffled(model, x)
    broken = copy.deepcopy(wiring)
    name = list(broken.layers)[1]
    broken.layers[name].inputs[:] = 0  # a consumer that does not follow
    monkeypatch.setattr("headstart.symmetries.alignment.trace_channels", lambda *_: broken)
    before = Snapshot(twin)
    with pytest.raises(hs.ModelError, match=r"Model 1 computes another function.*differ by"):
        hs.align([model, twin], x)
    before.require_kept()


class Sneaky(nn.Module):
    """Uses a layer's weight outside of the layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.head(F.relu(self.b(x))) + self.b.weight[0, 0]


def test_what_the_trace_cannot_see_is_refused():
    with pytest.raises(hs.ModelError, match=r"cannot be followed.*differ by"):
        hs.align([Sneaky(), Sneaky()], torch.randn(8, 4))


def test_half_precision_and_modes_stay():
    model, x = build("plain")
    model = model.bfloat16().train()
    twin, _, _ = shuffled(model, x)
    aligned = hs.align([model, twin], x)
    assert aligned.models[1].training
    assert next(aligned.models[1].parameters()).dtype == torch.bfloat16
    assert all(same_bits(a, b) for a, b in zip(model.parameters(), aligned.models[1].parameters(), strict=True))


def test_weight_norm_is_written_through():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3))
    net[0] = nn.utils.parametrizations.weight_norm(net[0])
    other = copy.deepcopy(net)
    nn.init.normal_(other[0].parametrizations.weight.original1)
    aligned = hs.align([net, other], images(8))
    assert difference(other, aligned.models[1], images(8)) < 1e-5


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (1, {}, "1 models cannot be aligned"),
        (2, {"matching": "best"}, "matching='best'"),
        (2, {"reference": "last"}, "reference='last'"),
        (2, {"matching": "greedy", "reference": "mean"}, "no options"),
    ],
)
def test_wrong_arguments_are_told(models, options, message):
    with pytest.raises(hs.HeadstartError, match=message):
        hs.align([nn.Linear(3, 2)] * models, torch.randn(4, 3), **options)


def test_different_architectures_are_refused():
    nets = [nn.Sequential(nn.Linear(3, n), nn.ReLU(), nn.Linear(n, 2)) for n in (4, 5)]
    with pytest.raises(hs.ModelError, match=r"Model 1 differs from model 0: '0.bias' has shape \(5,\) there"):
        hs.align(nets, torch.randn(4, 3))


# Matching ----------------------------------------------------------------------------------------------------


def matcher_of(model, x, **options):
    wiring = trace_channels(model, inputs.load(x, model, seed=0))
    return Matcher(wiring, {la.name: la for la in weight_layers(model)}, **options)


def two_layer(seed, width=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2, bias=False))


@pytest.mark.parametrize("consumers", [True, False])
def test_the_assignment_is_the_best_of_all_permutations(consumers):
    a, b = two_layer(0), two_layer(1)
    matcher = matcher_of(a, torch.randn(8, 3), consumers=consumers)
    table = matcher.hungarian(units(canonical(a)), units(canonical(b)))
    found = order(matcher.wiring.layers["0"].outputs, table).tolist()

    @torch.no_grad()
    def total(permutation):
        cosine = F.cosine_similarity
        out = cosine(a[0].weight, b[0].weight[list(permutation)], dim=1).sum()
        into = cosine(a[2].weight, b[2].weight[:, list(permutation)], dim=1).sum() if consumers else 0
        return float(out + into)

    best = max(itertools.permutations(range(4)), key=total)
    assert found == list(best)


def test_every_round_raises_the_similarity():
    (a, x), (b, _) = build("option A"), build("option A", seed=1)
    matcher = matcher_of(a, x)
    mine, other = units(canonical(a)), units(canonical(b))
    start = matcher.wiring.stay()
    found = [matcher.similarity(mine, other)]
    for _ in range(4):
        # One sweep at a time from where the last one ended.
        start = matcher.hungarian(mine, other, start)
        found.append(matcher.similarity(mine, matcher.permuted(other, start)))
    assert found[1] > found[0]
    assert found[1:] == sorted(found[1:])
    assert torch.equal(start, matcher.hungarian(mine, other, start))


def test_greedy_is_the_published_loop():
    nets = [two_layer(seed, width=6) for seed in range(4)]
    matcher = matcher_of(nets[0], torch.randn(8, 3))
    tables = matcher.greedy([units(canonical(net)) for net in nets])
    groups = [[] for _ in range(6)]
    for net, table in zip(nets, tables, strict=True):
        filters = net[0].weight.detach().numpy()
        spectra = [np.fft.fft(f / np.linalg.norm(f)).real for f in filters]
        used, chosen = set(), []
        for group in groups:
            costs = [
                np.inf if i in used else sum(np.linalg.norm(s - member) for member in group)
                for i, s in enumerate(spectra)
            ]
            chosen.append(int(np.argmin(costs)))
            used.add(chosen[-1])
        for group, i in zip(groups, chosen, strict=True):
            group.append(spectra[i])
        assert order(matcher.wiring.layers["0"].outputs, table).tolist() == chosen


def test_greedy_keeps_functions_too():
    (a, x), (b, _) = build("option A"), build("option A", seed=1)
    aligned = hs.align([a, b], x, matching="greedy")
    assert difference(b, aligned.models[1], x) < 1e-5


def test_the_mean_as_reference():
    (a, x), (b, _) = build("plain"), build("plain", seed=1)
    copies = [shuffled(b, x, seed)[0] for seed in range(3)]
    aligned = hs.align([a, b, *copies], x, reference="mean")
    for model, source in zip(aligned, [a, b, *copies], strict=True):
        assert difference(model, source, x) < 1e-5
    for model in aligned.models[2:]:
        assert all(same_bits(p, q) for p, q in zip(model.parameters(), aligned.models[1].parameters(), strict=True))
    first = hs.align([a, b, *copies], x)
    assert sum(s for _, s in aligned.similarity[1:]) > sum(s for _, s in first.similarity[1:])


@given(st.permutations(range(6)), st.integers(1, 3))
def test_order_brings_content_where_the_table_says(permutation, repeats):
    labels = torch.arange(1, 7).repeat_interleave(repeats)
    table = torch.tensor([0, *(p + 1 for p in permutation)])
    content = torch.arange(6 * repeats)
    moved = content[order(labels, table)]
    for label in range(1, 7):
        assert torch.equal(moved[labels == table[label]], content[labels == label])
    fixed = torch.tensor([0, 0, -1, 3, 5])
    assert order(fixed, torch.arange(7))[:3].tolist() == [0, 1, 2]


def test_permutation_names_where_channels_came_from():
    model, x = build("plain")
    twin, _, _ = shuffled(model, x)
    aligned = hs.align([model, twin], x)
    place = aligned.permutation(1, "0")
    assert torch.equal(twin[0].weight[place], aligned.models[1][0].weight)
