"""Names, options, presets: what is understood, and what is told where it is not."""

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Optional, Union

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import headstart as hs
from headstart.engine import registry
from headstart.measure.gradients import LossFunction

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
    with pytest.raises(hs.HeadstartError, match=rf"^{name}: {option.partition('=')[0]}=.*type.*describe"):
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
    with pytest.raises(hs.HeadstartError, match="xavier: gain='1' is not of type float"):
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


class Alien:
    """Of no kind that any hint names."""


ALIEN = Alien()
LEAVES = [
    (int, st.integers()),
    (float, st.floats() | st.integers() | st.sampled_from([np.float32(1), np.int64(2)])),
    (bool, st.booleans()),
    (str, st.text()),
    (None, st.none()),
    (Path, st.just(Path("a"))),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (Callable[[Any, Any], torch.Tensor], st.sampled_from([F.mse_loss, nn.ReLU(), max, lambda a, b: a])),
    (LossFunction, st.just(F.cross_entropy)),
    (typing.Callable[..., int], st.just(len)),
    (nn.Module, st.just(nn.ReLU())),
]
leaves = st.sampled_from(LEAVES).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1], st.just(ALIEN)))


def around(inner):
    """Hints around others, each with a value that fits and one with an alien somewhere inside."""

    def optional(drawn, none_first, typed):
        hint, good, bad = drawn
        if typed or hint is None:
            return Optional[hint], good, bad  # noqa: UP045 - both spellings are tested
        return (None | hint if none_first else hint | None), good, bad

    def union(first, second):
        return Union[first[0], second[0]], second[1], ALIEN  # noqa: UP007

    def many(drawn, how, count):
        (hint, good, bad), (kind, build) = drawn, how
        items = [good] * count
        return kind(hint), build(items), build([*items, bad])

    def fixed(first, second, as_list):
        build = list if as_list else tuple
        hint = tuple[first[0], second[0]]
        return hint, build([first[1], second[1]]), build([first[1], second[2]])

    def mapping(drawn):
        return Mapping[str, drawn[0]], {"a": drawn[1]}, {"a": drawn[1], "b": drawn[2]}

    kinds = [
        (lambda h: tuple[h, ...], tuple),
        (lambda h: tuple[h, ...], list),
        (lambda h: typing.Tuple[h, ...], tuple),  # noqa: UP006
        (lambda h: list[h], list),
        (lambda h: Sequence[h], tuple),
        (lambda h: Iterable[h], list),
    ]
    return (
        st.builds(optional, inner, st.booleans(), st.booleans())
        | st.builds(union, inner, inner)
        | st.builds(many, inner, st.sampled_from(kinds), st.integers(0, 3))
        | st.builds(fixed, inner, inner, st.booleans())
        | st.builds(mapping, inner)
    )


@given(drawn=st.recursive(leaves, around, max_leaves=6))
def test_a_value_fits_a_hint_if_it_fits_every_part_of_it(drawn):
    hint, good, bad = drawn
    assert registry._fits(good, hint)
    assert not registry._fits(bad, hint)
    assert not registry._fits(ALIEN, hint)
    assert registry._fits(bad, Any)


Celsius = typing.NewType("Celsius", float)
Number = typing.TypeVar("Number", int, float)
Net = typing.TypeVar("Net", bound=nn.Module)


class Named(typing.Protocol):
    name: str


@pytest.mark.parametrize(
    ("hint", "fit", "do_not"),
    [
        (float, [0, 1.5, np.float64(1), np.int32(1)], [True, "1", None, 1j, [1.0]]),
        (int, [0, np.int64(1)], [False, 1.0, "1", None]),
        (complex, [1j, 2, np.complex64(1)], [True, "1j"]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "a"], [b"a", Path("a"), None, ["a"]]),
        (None, [None], [False, 0, ""]),
        (object, [True, None, ALIEN], []),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0, 2, None]),
        (LossFunction | None, [None, F.mse_loss, nn.MSELoss(), "text".join], ["mse", 5, True, [F.mse_loss]]),
        (Callable, [len, nn.ReLU], ["len", None]),
        (tuple, [(), (1, "a"), [1]], ["ab", None, {1}]),
        (typing.Tuple, [(), (1, "a"), [1]], ["ab", None]),  # noqa: UP006
        (tuple[()], [(), []], [(1,)]),
        (typing.Tuple[()], [(), []], [(1,)]),  # noqa: UP006
        (tuple[float, float], [(1, 2.5), [1, 2]], [(1,), (1, 2, 3), (), (1, "a"), (True, 1), 1, "ab"]),
        (tuple[int, ...], [(), (1, 2), [1]], [(1, "a"), (1.5,), 1]),
        (tuple[int | str, ...] | None, [None, (1, "a")], [(None,), "a"]),
        (list[int], [[], [1]], [(1,), ["a"], 1]),
        (Sequence[float], [[1], (1.5,), range(3)], [[True], {1.0}, "1"]),
        (Mapping[str, int], [{}, {"a": 1}], [{1: 1}, {"a": "b"}, [("a", 1)]]),
        (Iterable[int], [[1], iter(["left whole"])], [["a"], 1]),
        (type[nn.Module], [nn.Linear], [nn.ReLU(), "Linear"]),
        (Celsius, [20, 20.5], ["20"]),
        (Number, [1, 2.5], ["a"]),
        (Net, [nn.ReLU()], [nn.ReLU, 1]),
        (Named, [ALIEN, 1], []),  # of a protocol that cannot be asked nothing is known
        (Any, [ALIEN, None, True], []),
    ],
)
def test_what_fits_and_what_does_not(hint, fit, do_not):
    assert [value for value in fit if not registry._fits(value, hint)] == []
    assert [value for value in do_not if registry._fits(value, hint)] == []


@pytest.mark.parametrize("name", hs.list_methods())
def test_every_option_takes_its_default_and_nothing_strange(name):
    cls = registry.get(name)
    hints = typing.get_type_hints(cls)
    for option in fields(cls):
        assert registry._fits(option.default, hints[option.name]), option.name
        assert hints[option.name] is Any or not registry._fits(ALIEN, hints[option.name]), option.name


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (float, "float"),
        (LossFunction | None, "callable | None"),
        (Optional[int], "int | None"),  # noqa: UP045
        (int | str, "int | str"),
        (tuple[float, ...], "tuple[float, ...]"),
        (str | Path | tuple[str | Path, ...], "str | Path | tuple[str | Path, ...]"),
        (Literal["a", 1], "'a' | 1"),
        (Mapping[str, Any], "Mapping[str, Any]"),
    ],
)
def test_a_kind_is_told_in_the_same_words_on_every_python(hint, text):
    assert registry._spelled(hint) == text


def test_a_function_that_is_none_is_told_before_anything_runs():
    with pytest.raises(hs.HeadstartError, match=r"^balance: loss_fn='mse' is not of type callable \| None\."):
        registry.parse("balance:loss_fn=mse")
