"""Aligned clusters: means of corresponding filters, against plain loops."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import headstart as hs
from headstart.bench.models.builders import resolve_model
from headstart.conformance.runs import run
from headstart.conformance.state import Snapshot, same_bits
from headstart.model import inputs
from headstart.symmetries.channel_flow import trace_channels
from headstart.symmetries.permutation import permute


def net(seed=0, classes=4, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3)
        model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
        for _ in range(3):
            model(torch.randn(16, 3, 9, 9))
    return model


X = torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(5))


def shuffled(model, x, seed):
    """The same function with channels in other places."""
    wiring = trace_channels(model, inputs.load(x, model, seed=0))
    twin = copy.deepcopy(model)
    permute(twin, wiring, wiring.shuffled(torch.Generator().manual_seed(seed)))
    return twin


def rms(weight):
    return float(weight.detach().double().square().mean().sqrt())


@pytest.mark.parametrize("scale", ["match", "source", "paper", 0.3])
def test_permuted_copies_average_to_the_network_itself(scale):
    source, model = net(), net(1)
    sizes = [rms(model[i].weight) for i in (0, 3)]
    keep = copy.deepcopy(model)
    report = run(hs.AlignedClusters([source, *(shuffled(source, X, i) for i in range(3))], scale=scale), model, X)
    assert report.changed == ["0", "3"]
    assert report.others == []
    for i, size in zip((0, 3), sizes, strict=True):
        wanted = {"match": size, "source": rms(source[i].weight), "paper": rms(source[i].weight), 0.3: 0.3}[scale]
        assert torch.allclose(model[i].weight, source[i].weight * (wanted / rms(source[i].weight)), rtol=1e-4)
    for name, value in keep.state_dict().items():
        if name not in ("0.weight", "3.weight"):
            assert same_bits(value, model.state_dict()[name]), name
    assert "and 1 after alignment" in report.findings[0]
    assert report.row("0").notes == ["mean of 4 sources"]


def test_sources_are_not_written_and_a_second_call_gives_the_same():
    sources, model = [net(i) for i in range(3)], net(9)
    before = [Snapshot(source) for source in sources]
    first = hs.compute(model, X, hs.AlignedClusters(sources))
    again = hs.compute(model, X, hs.AlignedClusters(sources))
    for snapshot in before:
        snapshot.require_kept()
    assert all(same_bits(v, again.tensors[k]) for k, v in first.tensors.items())


def test_means_are_those_of_aligned_copies():
    sources, model = [net(i) for i in range(3)], net(9)
    run(hs.AlignedClusters(sources, scale="paper"), model, X)
    aligned = hs.align(sources, X)
    for i in (0, 3):
        mean = sum(a[i].weight for a in aligned) / 3
        assert torch.allclose(model[i].weight, mean, atol=1e-6)


def published(sources, names):
    """The published procedure, on copies: greedy groups, the next layer's inputs follow, means of unit filters."""
    weights = [{n: m.get_parameter(f"{n}.weight").detach().numpy().copy() for n in names} for m in sources]
    result = {}
    for place, name in enumerate(names):
        count = len(weights[0][name])
        groups = [[] for _ in range(count)]
        for w in weights:
            flat = w[name].reshape(count, -1)
            unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
            spectra = np.fft.fft(unit, axis=1).real
            used, chosen = set(), []
            for group in groups:
                costs = [
                    np.inf if i in used else sum(np.linalg.norm(spectra[i] - s) for _, s in group) for i in range(count)
                ]
                chosen.append(int(np.argmin(costs)))
                used.add(chosen[-1])
            for group, i in zip(groups, chosen, strict=True):
                group.append((unit[i], spectra[i]))
            if place + 1 < len(names):
                w[names[place + 1]] = w[names[place + 1]][:, chosen]
        result[name] = np.stack([np.mean([u for u, _ in group], axis=0) for group in groups])
    return result


def test_the_preset_is_the_published_loop():
    def chain(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths = [3, 6, 6, 5, 6, 6]
            layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Conv2d(a, b, 3, 1, 1), nn.ReLU())]
            return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))

    sources, model = [chain(i) for i in range(5)], chain(9)
    report = run(hs.AlignedClusters.paper(models=sources), model, X)
    assert report.changed == ["0", "2", "4", "6"]
    assert report.row("8").notes == ["not among the first 4 convolutions"]
    for name, wanted in published(sources, ["0", "2", "4", "6"]).items():
        got = model.get_parameter(f"{name}.weight").detach()
        assert np.allclose(got.numpy().reshape(wanted.shape), wanted, atol=1e-5), name
        assert float(got.flatten(1).norm(dim=1).max()) <= 1 + 1e-6


def test_shortcuts_are_aligned_as_one():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source, model = (resolve_model("headstart:cifar-resnet20")(3, 10, (16, 16)) for _ in range(2))
    x = torch.randn(8, 3, 16, 16)
    run(hs.AlignedClusters([source, shuffled(source, x, 1)], scale="paper"), model, x)
    for name, module in source.named_modules():
        if isinstance(module, nn.Conv2d):
            assert torch.allclose(model.get_parameter(f"{name}.weight"), module.weight, atol=1e-6), name


@pytest.mark.parametrize("layers", [None, 1, 2])
def test_heads_of_other_sizes_do_not_matter(layers):
    sources, model = [net(0, classes=10), net(1, classes=7)], net(9, classes=3)
    report = run(hs.AlignedClusters(sources, layers=layers), model, X)
    assert report.changed == ["0", "3"][:layers]
    assert report.row("7").notes == ["a linear layer"]


def test_files_by_pattern_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources, found = [net(0), net(1)], []
    for name, source in zip("ab", sources, strict=True):
        torch.save(source.state_dict(), f"{name}.pt")
    for method in (
        hs.AlignedClusters(sources),
        hs.AlignedClusters([s.state_dict() for s in sources]),
        hs.AlignedClusters(("a.pt", "b.pt")),
        "aligned-clusters:models=*.pt",
        "aligned-clusters:models=('a.pt','b.pt')",
    ):
        model = net(9)
        run(method, model, X)
        found.append(model)
    for other in found[1:]:
        assert all(same_bits(a, b) for a, b in zip(found[0].parameters(), other.parameters(), strict=True))
    identities = {m.identity() for m in (hs.AlignedClusters(sources), hs.AlignedClusters(("a.pt", "b.pt")))}
    assert len(identities) == 1
    assert hs.AlignedClusters(("b.pt", "a.pt")).identity() not in identities


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (None, "models=None names 0 sources"),
        ("nowhere/*.pt", "names 0 sources"),
        ([{"0.weight": torch.zeros(8, 3, 3, 3)}], "names 1 sources"),
        ([{"a": torch.zeros(1)}] * 2, r"not all of 2 sources have the weights of '0', '3'"),
        (["nowhere.pt"] * 2, "There is no checkpoint"),
    ],
)
def test_missing_sources_are_told(models, message):
    model = net()
    before = Snapshot(model)
    with pytest.raises(hs.HeadstartError, match=message):
        hs.initialize(model, X, hs.AlignedClusters(models))
    before.require_kept()


def test_layers_that_not_all_sources_have_are_left():
    sources = [net(0).state_dict(), {k: v for k, v in net(1).state_dict().items() if not k.startswith("3.")}]
    model = net(9)
    report = run(hs.AlignedClusters(sources), model, X)
    assert report.changed == ["0"]
    assert report.row("3").notes == ["not all sources have its weight in its shape"]


@pytest.mark.parametrize(
    "option",
    [
        {"average": "median"},
        {"scale": "none"},
        {"scale": -1.0},
        {"layers": 0},
        {"matching": "best"},
        {"models": nn.ReLU()},
    ],
)
def test_wrong_options_are_told(option):
    with pytest.raises(hs.HeadstartError, match="aligned-clusters: "):
        hs.AlignedClusters(**option)


def test_it_writes_convolutions_and_says_when_there_is_none():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(hs.HeadstartError, match=r"writes a convolution.*Linear"):
        hs.initialize(model, torch.randn(8, 4), hs.AlignedClusters([model, model]))


def test_zero_weights_have_no_size_to_match():
    model = net(9)
    nn.init.zeros_(model[3].weight)
    with pytest.raises(hs.HeadstartError, match=r"layer '3' .*all zero"):
        hs.initialize(model, X, hs.AlignedClusters([net(0), net(1)]))
    run(hs.AlignedClusters([net(0), net(1)], scale="source"), model, X)
    # Sources that cancel each other leave the layer as it is.
    a = net(0)
    b = copy.deepcopy(a)
    with torch.no_grad():
        a[3].weight.zero_(), b[3].weight.zero_()
    report = run(hs.AlignedClusters([a, b]), net(9), X)
    assert report.row("3").notes == ["the mean of the sources is zero"]


@pytest.mark.parametrize("control", [hs.MatchedRandom, hs.ZeroDCRandom])
def test_controls_replace_the_means(control, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        torch.save(net(ord(name)).state_dict(), f"{name}.pt")
    spec = "aligned-clusters:models=*.pt,scale=source"
    start, treated, controlled = net(9), net(9), net(9)
    run(spec, treated, X)
    report = run(control(of=spec), controlled, X)
    assert report.changed == ["0", "3"]
    for i in (0, 3):
        own, mean, found = (m[i].weight.detach().flatten(1) for m in (start, treated, controlled))
        if control is hs.MatchedRandom:
            assert torch.allclose(found.norm(dim=1), mean.norm(dim=1), rtol=1e-5)
            assert float(torch.cosine_similarity(found, mean).abs().max()) < 0.9
        else:
            assert torch.allclose(found.norm(dim=1), own.norm(dim=1), rtol=1e-5)
            assert float(torch.cosine_similarity(found, own).min()) > 0.5
