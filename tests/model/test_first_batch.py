"""What a pass sets off in a model reaches neither the pass that is measured nor the model after the call."""

import copy
import random
from collections import UserDict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import headstart as hs

X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.rand(
    64, 1, 1, 1, generator=torch.Generator().manual_seed(1)
)


@dataclass
class Record:
    ready: bool = False
    shift: torch.Tensor | None = None
    parts: list = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    inside: dict


class Slotted:
    __slots__ = ("ready", "shift")

    def __init__(self):
        self.ready = False


class Plain:
    def __init__(self):
        self.ready, self.shift, self.parts = False, None, []


Pair = namedtuple("Pair", "first second")

# Where a flag and a shift can live: how to make the place, how to read the flag, how to set both.
PLACES = {
    "attribute": (lambda: None, lambda m: m.flag, lambda m, v: (setattr(m, "flag", True), setattr(m, "value", v))),
    "buffer": (
        lambda: None,
        lambda m: bool(m.counted),
        lambda m, v: (m.counted.add_(1), setattr(m, "value", v)),
    ),
    "list": (list, lambda m: bool(m.place), lambda m, v: m.place.append(v)),
    "dict": (dict, lambda m: "v" in m.place, lambda m, v: m.place.update(v=v)),
    "set": (set, lambda m: bool(m.place), lambda m, v: m.place.add(v)),
    "named tuple": (lambda: Pair([], {}), lambda m: bool(m.place.first), lambda m, v: m.place.first.append(v)),
    "dataclass": (Record, lambda m: m.place.ready, lambda m, v: vars(m.place).update(ready=True, shift=v)),
    "frozen dataclass": (lambda: Frozen({}), lambda m: bool(m.place.inside), lambda m, v: m.place.inside.update(v=v)),
    "slots": (
        Slotted,
        lambda m: m.place.ready,
        lambda m, v: (setattr(m.place, "ready", True), setattr(m.place, "shift", v)),
    ),
    "own class": (Plain, lambda m: m.place.ready, lambda m, v: (setattr(m.place, "ready", 1), m.place.parts.append(v))),
    "namespace": (
        lambda: SimpleNamespace(ready=False),
        lambda m: m.place.ready,
        lambda m, v: vars(m.place).update(ready=True, shift=v),
    ),
    "user dict": (UserDict, lambda m: "v" in m.place, lambda m, v: m.place.update(v=v)),
    "array": (lambda: np.zeros(2), lambda m: m.place[0] > 0, lambda m, v: m.place.__iadd__(1)),
    "nested": (
        lambda: {"a": [Record(parts=[{"b": ()}])]},
        lambda m: "v" in m.place["a"][0].parts[0],
        lambda m, v: m.place["a"][0].parts[0].update(v=v),
    ),
    "module in a list": (
        lambda: [nn.BatchNorm1d(1)],
        lambda m: bool(m.place[0].num_batches_tracked),
        lambda m, v: m.place[0].num_batches_tracked.add_(1),
    ),
}


class Act(nn.Module):
    """Takes shift and gain from its first batch, and remembers in some place that it did."""

    def __init__(self, place, channels=8):
        super().__init__()
        make, self.is_ready, self.set_ready = PLACES[place]
        self.place, self.flag, self.value = make(), False, None
        self.register_buffer("counted", torch.zeros(()))
        self.shift, self.gain = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.ones(channels))

    def forward(self, x):
        if not self.is_ready(self):
            with torch.no_grad():
                self.shift.copy_(-x.mean((0, 2, 3)))
                self.gain.copy_(1 / x.std((0, 2, 3)))
            self.set_ready(self, x.detach().mean())
        return self.gain[:, None, None] * (x + self.shift[:, None, None])


def network(place):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), Act(place), nn.ReLU(), nn.Conv2d(8, 8, 3), Act(place), nn.Conv2d(8, 4, 3))


def first_stds(model):
    """Deviations of the layers' outputs as the first real batch has them."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, args, y, name=name: found.update({name: float(y.std(correction=0))}))
    with torch.no_grad():
        model(X.clone())
    return found


def fresh(model):
    acts = [m for m in model.modules() if isinstance(m, Act)]
    return not any(m.is_ready(m) or m.shift.any() or (m.gain != 1).any() or m.counted for m in acts)


@pytest.mark.parametrize("place", PLACES)
def test_the_report_says_what_the_first_real_batch_shows(place):
    model = network(place)
    diagnosis = hs.diagnose(model, X)
    assert fresh(model)
    init = hs.compute(model, X, "within-layer")
    assert fresh(model)
    report = hs.initialize(model, X, "within-layer")
    assert fresh(model)
    before, after = first_stds(network(place)), first_stds(model)
    assert {n: r.output_std for n in after for r in [report.row(n)]} == pytest.approx(after, rel=1e-4)
    assert {n: r.output_std for n in after for r in [diagnosis.row(n)]} == pytest.approx(before, rel=1e-4)
    assert init.report.row("5").output_std == report.row("5").output_std


@pytest.mark.parametrize("method", ["lsuv", "data-dependent", "kaiming", "orthogonal+lsuv:fill=keep"])
def test_likewise_after_every_pass_of_a_method(method):
    model = network("own class")
    report = hs.initialize(model, X, method)
    assert {n: report.row(n).output_std for n in ("0", "3", "5")} == pytest.approx(first_stds(model), rel=1e-3)


def test_a_lazy_model_likewise():
    model = network("dataclass")
    model[5] = nn.LazyConv2d(4, 3)
    report = hs.initialize(model, X, "within-layer")
    assert fresh(model)
    assert {n: report.row(n).output_std for n in ("0", "3", "5")} == pytest.approx(first_stds(model), rel=1e-4)
    lazy = network("own class")
    lazy[5] = nn.LazyConv2d(4, 3)
    diagnosis = hs.diagnose(lazy, X)
    assert fresh(lazy)
    assert diagnosis.row("3").output_std == pytest.approx(first_stds(network("own class"))["3"], rel=1e-4)
    assert isinstance(lazy[5], nn.LazyConv2d)


def test_parts_of_a_batch_start_alike_at_every_layer():
    seen = []

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            seen.append((self.calls, len(x)))
            return x

    model = nn.Sequential(Counts(), nn.Linear(6, 6), nn.Linear(6, 3))
    hs.initialize(model, torch.randn(40, 6), "within-layer", batch_size=16)
    assert [(call, size) for call, size in seen if size > 2] == [(1, 16), (2, 16), (3, 8)] * 2
    assert model[0].calls == 0


def test_what_an_evaluation_mode_does_is_kept_for_all_passes():
    class Merges(nn.Linear):
        """Adds its low-rank part to the weight while it is in evaluation mode."""

        def __init__(self):
            super().__init__(6, 6)
            self.a, self.merged = nn.Parameter(torch.ones(6, 6)), False

        def train(self, mode=True):
            if self.merged == mode:
                with torch.no_grad():
                    self.weight.data += -self.a if mode else self.a
                self.merged = not mode
            return super().train(mode)

        def forward(self, x):
            states.append(self.merged)
            return nn.functional.linear(x, self.weight if self.merged else self.weight + self.a)

    states = []
    model = nn.Sequential(Merges(), nn.Linear(6, 2))
    weight = model[0].weight.detach().clone()
    hs.diagnose(model, torch.randn(30, 6))
    hs.compute(model, torch.randn(30, 6), "lsuv")
    assert all(states)
    assert torch.equal(model[0].weight, weight)
    assert not model[0].merged


def test_generators_and_unregistered_modules_are_put_back():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(4, 2)
            self.teacher = [nn.Linear(4, 4)]
            self.draws = (np.random.default_rng(0), np.random.RandomState(0), random.Random(0), Plain())
            self.shape = np.zeros(3)
            self.file = np.zeros(2)
            self.file.flags.writeable = False

        def forward(self, x):
            numpy, old, python, plain = self.draws
            numpy.random(), old.rand(), python.random(), setattr(plain, "late", x)
            self.shape.resize(5, refcheck=False)
            self.teacher[0].weight.data += 1
            self.teacher[0].train(not self.teacher[0].training)
            return self.f(x)

    model = Draws()
    expected = [d.random() if hasattr(d, "random") else d.rand() for d in copy.deepcopy(model.draws[:3])]
    weight = model.teacher[0].weight.clone()
    hs.initialize(model, torch.randn(20, 4), "lsuv")
    assert [model.draws[0].random(), model.draws[1].rand(), model.draws[2].random()] == expected
    assert not hasattr(model.draws[3], "late")
    assert model.shape.shape == (3,)
    assert torch.equal(model.teacher[0].weight, weight)
    assert model.teacher[0].training


class Place(nn.Module):
    """Holds a value that was drawn, and disturbs it."""

    def __init__(self, value):
        super().__init__()
        self.f, self.value = nn.Linear(4, 2), value

    def forward(self, x):
        disturb(self.value)
        return self.f(x)


def disturb(value):
    """Change a structure and everything in it."""
    if isinstance(value, torch.Tensor):
        value.resize_(value.numel() + 1).fill_(7)
    elif isinstance(value, list):
        [disturb(v) for v in value]
        value.insert(0, "new")
    elif isinstance(value, dict):
        [disturb(v) for v in value.values()]
        value.clear()
    elif isinstance(value, set):
        value.add("new")
    elif isinstance(value, tuple):
        [disturb(v) for v in value]
    elif isinstance(value, (Record, Plain)):
        disturb(value.parts)
        value.parts, value.ready, value.late = 3, not value.ready, 1
    elif isinstance(value, Frozen):
        disturb(value.inside)
    elif isinstance(value, np.ndarray):
        value += 1


def told(value):
    """What a structure holds, with the identities of its mutable parts."""
    if isinstance(value, torch.Tensor):
        return id(value), value.tolist()
    if isinstance(value, np.ndarray):
        return id(value), value.tolist()
    if isinstance(value, (list, tuple)):
        return id(value), [told(v) for v in value]
    if isinstance(value, dict):
        return id(value), [(k, told(v)) for k, v in value.items()]
    if isinstance(value, set):
        return id(value), sorted(value)
    if isinstance(value, (Record, Plain, Frozen)):
        return id(value), told(vars(value))
    return value


def holding(parts):
    thing = Plain()
    thing.parts = parts
    return thing


LEAVES = st.one_of(
    st.integers(0, 9),
    st.builds(lambda n: torch.arange(float(n)), st.integers(0, 3)),
    st.builds(lambda n: np.arange(n), st.integers(0, 3)),
    st.builds(set, st.sets(st.integers(0, 9).map(str))),
)
STRUCTURES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.lists(inner, max_size=2).map(tuple),
        st.builds(Pair, inner, inner),
        st.builds(lambda parts: Record(parts=parts), st.lists(inner, max_size=2)),
        st.builds(lambda inside: Frozen({"x": inside}), inner),
        st.lists(inner, max_size=2).map(holding),
    ),
    max_leaves=8,
)


@settings(max_examples=25)
@given(STRUCTURES, st.booleans())
def test_any_structure_is_as_before(value, fails):
    model = Place(value)
    if fails:
        model.f.register_forward_hook(lambda *_: 1 / 0)
    before = told(value)
    for call in (
        lambda: hs.initialize(model, torch.ones(8, 4).cumsum(0), "lsuv"),
        lambda: hs.diagnose(model, torch.ones(8, 4).cumsum(0)),
    ):
        if fails:
            with pytest.raises(hs.ModelError, match="ZeroDivisionError"):
                call()
        else:
            call()
        assert told(model.value) == before


def test_what_the_trace_does_to_flags_does_not_reach_the_selection():
    class Freezing(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(16, 8)

        def forward(self, x):
            self.f.weight.requires_grad_(False)
            return self.f(x)

    model = Freezing()
    assert hs.initialize(model, torch.randn(32, 16), "lsuv").changed == ["f"]
    assert model.f.weight.requires_grad
