"""Names, options, presets: what is understood, and what is told where it is not."""

from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import headstart as hs
from headstart.engine import registry

VALUES = {
    "kaiming": {"distribution": ["normal", "uniform"], "mode": ["fan_in", "fan_out"], "nonlinearity": ["relu", "tanh"]},
    "lsuv": {"fill": ["orthogonal", "keep"], "std": [0.5, 1, 2e-3, 1e20], "before_norm": ["skip", "normalize"]},
    "within-layer": {"beta": [-0.5, 0, 1], "center": [True, False], "per": ["channel", "layer"]},
    "prewarm": {
        "fraction": [0.25, 1],
        "patches": ["auto", "otsu", 7],
        "scale": ["match", 0.5, 1e-3],
        "bound": [True, False],
        "source": ["centroids", "patches"],
    },
    "gabor": {"layers": [1, 3], "sigma": [(1.0, 2.0), (0.5, 0.5)], "channels": ["same", "random"]},
    "whitening": {"fraction": [0.5], "signs": [True, False], "eps": [0, 1e-9]},
    "matched-random": {"of": ["gabor", "whitening"]},
    "filter-clusters": {"bank": ["a.safetensors", ("one", "other")], "draw": ["gaussian"], "layers": [1, None]},
    "covariance": {"depthwise": [True, False], "resize": [False], "scale": ["source", 0.1]},
    "zero": {},
}


@st.composite
def configured(draw):
    name = draw(st.sampled_from(sorted(VALUES)))
    known = VALUES[name]
    keys = draw(st.lists(st.sampled_from(sorted(known)), unique=True)) if known else []
    return name, {k: draw(st.sampled_from(known[k])) for k in keys}


@given(methods=st.lists(configured(), min_size=1, max_size=3))
def test_a_spec_says_what_the_constructor_says(methods):
    parts = []
    for name, options in methods:
        text = ",".join(f"{k}={v}" for k, v in options.items())
        parts.append(f"{name}:{text}" if text else name)
    assert registry.parse("+".join(parts)) == [registry.get(n)(**o) for n, o in methods]
    assert registry.resolve(parts) == registry.resolve([registry.get(n)(**o) for n, o in methods])


REQUIRED = {"structured-covariance": "structured-covariance:s0=2,v=1,a=0.5"}  # these have options without defaults


@pytest.mark.parametrize("name", hs.list_methods())
def test_every_method_is_described_and_prints_as_what_builds_it(name):
    cls = registry.get(name)
    text = hs.describe(name)
    assert text.startswith(f"{name}: {cls.info.summary}")
    assert all(f.name in text for f in fields(cls))
    assert all(f"{name}:{p}" in text for p in cls.info.presets)
    assert cls.info.reference in text
    (method,) = registry.parse(REQUIRED.get(name, name))
    assert eval(repr(method), {cls.__name__: cls}) == method
    for preset in cls.info.presets:
        assert registry.parse(f"{name}:{preset}") == [getattr(cls, preset)()]
    with pytest.raises(AttributeError):
        method.info_that_is_not_there = 1  # frozen: nothing can be set


def test_spaces_case_and_literals():
    assert registry.parse(" lsuv : std = 2 , fill = keep ".replace(" : ", ":")) == [hs.LSUV(std=2, fill="keep")]
    assert registry.parse("whitening:signs=FALSE") == registry.parse("whitening:signs=False")
    assert registry.parse("prewarm:mean=(0.1, 0.2),std=(1, 2)") == [hs.PreWarm(mean=(0.1, 0.2), std=(1, 2))]
    assert registry.parse("prewarm:mean=none") == [hs.PreWarm()]
    assert registry.parse("lsuv:std=1e+2+zero") == [hs.LSUV(std=100.0), hs.Zero()]


def test_quotes_hold_a_spec_within_a_spec():
    spec = "matched-random:of='prewarm:fraction=1,norm=filter'+zero"
    assert registry.parse(spec) == [hs.MatchedRandom(of="prewarm:fraction=1,norm=filter"), hs.Zero()]


def test_a_preset_takes_options():
    assert registry.parse("prewarm:paper,fraction=0.25") == [hs.PreWarm.paper(fraction=0.25)]
    assert registry.parse("prewarm:fraction=0.25,paper") == [hs.PreWarm.paper(fraction=0.25)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("prewram", r"no method 'prewram'\. Did you mean 'prewarm'"),
        ("prewarm:fractoin=1", r"no option of method 'prewarm': 'fractoin'\. Did you mean 'fraction'"),
        ("prewarm:papre", r"no preset of method 'prewarm': 'papre'\. Did you mean 'paper'"),
        ("kaiming:mode", r"no preset of method 'kaiming': 'mode'\. Did you mean 'mode='"),
        ("kaiming+lsvu", r"no method 'lsvu'\. Did you mean 'lsuv'"),
        ("", "no method ''.* Known: .*auto, balance"),
        ("xyz", "no method 'xyz'"),
    ],
)
def test_unknown_names_tell_the_nearest(spec, message):
    with pytest.raises(hs.UnknownNameError, match=message):
        hs.initialize(nn.Linear(2, 2), torch.randn(9, 2), spec)


@pytest.mark.parametrize(
    "spec",
    [
        "xavier:gain=foo",
        "orthogonal:gain=none",
        "delta-orthogonal:gain=[1]",
        "dirac:linear=maybe",
        "whitening:eps=a",
        "whitening:signs=1",
        "within-layer:center=5",
        "within-layer:beta=true",
        "prewarm:bound=x",
        "prewarm:mean=0.5,std=0.5",
        "prewarm:fraction=half",
        "prewarm:patches=2.5",
        "matched-random:of=3",
        "gabor:sigma=(a,b)",
        "lsuv:fill=5",
    ],
)
def test_an_option_of_the_wrong_kind_is_told(spec):
    name, _, option = spec.partition(":")
    with pytest.raises(hs.HeadstartError, match=rf"^{name}: {option.partition('=')[0]}=.*kind.*describe"):
        registry.parse(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "kaiming:mode=fanin",
        "kaiming:nonlinearity=gelu6",
        "lsuv:std=0",
        "lsuv:fill=random",
        "within-layer:per=filter",
        "prewarm:fraction=0",
        "prewarm:fraction=1.5",
        "prewarm:scale=-1",
        "prewarm:patches=0",
        "prewarm:taper=never",
        "gabor:layers=0",
        "gabor:wavelength=(3, 2)",
        "whitening:eps=-1",
        "matched-random:of='prewarm+lsuv'",
        "matched-random:of=zero-dc-random",
    ],
)
def test_an_option_out_of_range_is_told_with_the_choices(spec):
    with pytest.raises(hs.HeadstartError, match=rf"^{spec.partition(':')[0]}: ") as caught:
        registry.parse(spec)
    assert caught.value.remedy


def test_wrong_kinds_are_told_for_configured_methods_too():
    model = nn.Linear(2, 2)
    with pytest.raises(hs.HeadstartError, match="xavier: gain='1' is not of the kind float"):
        hs.initialize(model, method=hs.Xavier(gain="1"))
    assert hs.initialize(model, method=hs.Xavier(gain=np.float32(1))).changed == [""]
    assert hs.initialize(model, method=hs.Xavier(gain=2)).changed == [""]


@pytest.mark.parametrize("method", [None, 5, [], (), [None], nn.Linear, torch.nn.init.kaiming_normal_, {"a": 1}])
def test_what_is_no_method_is_told(method):
    with pytest.raises(hs.HeadstartError, match="is not a method"):
        hs.initialize(nn.Linear(2, 2), method=method)


def test_classes_instances_names_and_nested_lists_resolve():
    expected = [hs.Zero(), hs.Kaiming(), hs.LSUV(), hs.Xavier(gain=2.0)]
    assert registry.resolve([hs.Zero, ["kaiming", hs.LSUV()], "xavier:gain=2.0"]) == expected


def test_options_declared_with_local_types_are_left_to_the_method(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @hs.register("local", summary="", reference="", scope="all layers", needs_data=False, cost="")
    @dataclass(frozen=True)
    class Local(hs.Method):
        size: "Unknown" = 1  # noqa: F821

    assert registry.parse("local:size=text") == [Local("text")]
