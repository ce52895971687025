"""What a user's model, data or function raises comes back as one error that quotes it, and the model is as it was."""

from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.errors import one_error, origin, quote
from headstart.model.hooks import hooked

X = torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(0))
KINDS = [
    KeyError("x"),
    ValueError("two\nlines."),
    IndexError(),
    StopIteration(3),
    AssertionError("no"),
    OSError(2, "gone"),
]


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


def net(*more):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *more, nn.Conv2d(4, 2, 3))


def raising(error):
    class Raises(nn.Module):
        def forward(self, x):
            if len(x) > 2:
                raise error
            return x

    return Raises()


@pytest.mark.parametrize("error", [*KINDS, Odd()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("call", [hs.initialize, hs.compute, hs.diagnose])
def test_what_a_forward_raises(call, error):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(raising(error)), nn.Conv2d(4, 2, 3))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(hs.ModelError) as caught:
        call(model, X)
    said = str(caught.value)
    assert type(error).__name__ in said
    assert "in module '1.0' (Raises)" in said
    assert "test_foreign.py" in said
    assert "by `raise error`" in said
    assert caught.value.__cause__ is error
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.training


def test_what_a_layer_raises_names_it_and_its_input():
    with pytest.raises(hs.ModelError, match=r"in layer '2' \(Conv2d.*input of shape \(\d+, 4, 8, 8\).*RuntimeError"):
        hs.initialize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(5, 2, 3)), X, "lsuv")


@pytest.mark.parametrize("where", ["include", "exclude"])
@pytest.mark.parametrize("call", [hs.initialize, hs.diagnose])
def test_a_predicate(call, where):
    with pytest.raises(hs.HeadstartError, match=r"include= or exclude= failed on layer '0'.*ZeroDivisionError"):
        call(net(), X, **{where: lambda name, module: 1 / 0})


def test_a_loss():
    with pytest.raises(hs.HeadstartError, match=r"loss_fn failed: TypeError: tuple indices"):
        hs.diagnose(net(), (X, X), loss_fn=lambda outputs, batch: batch["label"])


def test_get_inputs():
    with pytest.raises(hs.DataError, match=r"get_inputs failed.*KeyError: 'image'"):
        hs.initialize(net(), {"x": X}, "lsuv", get_inputs=lambda batch: batch["image"])


class Breaks(torch.utils.data.Dataset):
    def __init__(self, at=5):
        self.at = at

    def __len__(self):
        return 40

    def __getitem__(self, i):
        if i == self.at:
            raise FileNotFoundError("image 5 is gone")
        return X[i % len(X)], 0


class Lengthless(Breaks):
    def __len__(self):
        raise ZeroDivisionError("no length")


def generator():
    yield X[:4]
    raise PermissionError("second shard")


@pytest.mark.parametrize("call", [hs.initialize, hs.diagnose])
@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (torch.utils.data.DataLoader(Breaks(), 4), {"samples": 20}, "FileNotFoundError: image 5 is gone"),
        (torch.utils.data.DataLoader(Breaks(2), 4), {}, "FileNotFoundError: image 5 is gone"),
        (Breaks(), {}, "FileNotFoundError: image 5 is gone"),
        (Lengthless(), {}, "ZeroDivisionError: no length"),
        (generator, {"samples": 12}, "PermissionError: second shard"),
        (
            torch.utils.data.DataLoader([(torch.randn(n, 8), 0) for n in (3, 5)], 2),
            {},
            "stack expects each tensor to be equal size",
        ),
    ],
    ids=["loader", "first batch", "data set", "length", "generator", "unequal"],
)
def test_data(call, data, options, said):
    model = net()
    before = model[0].weight.detach().clone()
    if data is generator:
        data = generator()
    with pytest.raises(hs.HeadstartError, match=said):
        call(model, data, **options)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("step", ["select", "start", "before", "after", "finish"])
def test_a_method_of_the_user(step):
    from dataclasses import make_dataclass

    def fails(self, *args):
        raise KeyError("layer3")

    info = hs.LSUV.info
    method = make_dataclass("Mine", [], bases=(hs.Method,), namespace={"info": info, step: fails}, frozen=True)()
    with pytest.raises(hs.HeadstartError, match=r"lsuv failed .*KeyError: 'layer3'"):
        hs.initialize(net(), X, method)


def test_depthwise_of_one_tap_beside_others():
    def depthwise(k):
        return [nn.Conv2d(8, 8, k, groups=8), nn.BatchNorm2d(8)]

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *depthwise(1), *depthwise(3))
    report = hs.initialize(model, X)
    assert report.changed == ["0", "4"]
    assert "nothing was found to help" in report.row("2").notes[0]


def test_the_older_weight_norm_beside_a_lazy_layer():
    with pytest.warns(FutureWarning):
        normed = nn.utils.weight_norm(nn.Conv1d(1, 8, 3))
    model = nn.Sequential(normed, nn.Flatten(), nn.LazyLinear(4))
    x = torch.randn(32, 1, 20)
    assert isinstance(hs.diagnose(model, x), hs.Diagnosis)
    assert isinstance(model[2], nn.LazyLinear)
    report = hs.initialize(model, x, "within-layer")
    assert report.changed == ["0", "2"]
    assert model(x).std(0, correction=0).tolist() == pytest.approx([1] * 4, abs=1e-3)


def test_an_exception_that_ends_iterations():
    """Of contextlib's generators it would pass through."""

    def stop(*_):
        raise StopIteration

    class Stops(torch.utils.data.Dataset):
        __len__ = lambda self: 4  # noqa: E731
        __getitem__ = stop

    with pytest.raises(hs.DataError, match=r"Sample \d of the Stops cannot be read: StopIteration"):
        hs.initialize(nn.Linear(2, 2), Stops(), "lsuv")
    for options in ({"get_inputs": stop}, {"mask": stop}, {"include": stop}):
        with pytest.raises(hs.HeadstartError, match="StopIteration"):
            hs.initialize(nn.Linear(2, 2), torch.randn(8, 2), "lsuv", **options)


@pytest.mark.parametrize(
    "call",
    [lambda layer, x: layer(x), lambda layer, x: layer(input=x), lambda layer, x: layer([x])],
    ids=["positional", "named", "nested"],
)
def test_a_layer_is_told_of_a_transform_however_it_gets_its_values(call):
    class Sums(nn.Module):
        def forward(self, input):
            return input[0] if isinstance(input, list) else input

    layer = Sums()
    with (
        hooked([("a", layer)], lambda *_: None),
        pytest.raises(hs.ModelError, match=r"inside a transform of torch.func"),
    ):
        torch.func.vmap(lambda x: call(layer, x))(torch.ones(4, 3))
    with hooked([("a", layer)], lambda *_: None):
        call(layer, torch.ones(4, 3))


def test_layers_inside_a_transform():
    class Forces(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = nn.Linear(3, 8), nn.Linear(8, 1)

        def forward(self, x):
            return torch.func.vmap(torch.func.grad(lambda q: self.g(self.f(q).tanh()).sum()))(x)

    model = Forces()
    before = model.f.weight.detach().clone()
    for call in (hs.initialize, hs.diagnose):
        with pytest.raises(hs.ModelError, match=r"runs layers inside a transform of torch.func"):
            call(model, torch.randn(32, 3))
    assert torch.equal(before, model.f.weight)


@dataclass
class Result:
    y: torch.Tensor
    more: object = None


class Holder:
    def __init__(self, y):
        self.y, self.me = y, self


RETURNED = {
    "a data class": Result,
    "a data class in another": lambda y: Result(None, Result(y)),
    "an object": Holder,
    "a name space": lambda y: SimpleNamespace(y=y),
    "a distribution": lambda y: torch.distributions.Categorical(logits=y, validate_args=False),
    "a mapping": lambda y: UserDict(y=(y,)),
}


@pytest.mark.parametrize("kind", RETURNED)
def test_whatever_a_model_returns_its_tensors_are_found(kind):
    class Net(nn.Sequential):
        def forward(self, x):
            return RETURNED[kind](super().forward(x))

    torch.manual_seed(0)
    x = torch.randn(32, 8)
    net = Net(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    assert all(row.gradient_rms > 0 for row in hs.diagnose(net, x).rows)
    report = hs.initialize(net, x, "balance")
    assert "spread" in report.findings[-1]


def test_quotations():
    assert quote(ValueError("two\n  lines.")) == "ValueError: two lines"
    assert quote(Odd()) == "Odd"
    assert quote(IndexError()) == "IndexError"
    assert len(quote(ValueError("x" * 9999))) < 700
    text = "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\nKeyError: 3\n"
    assert quote(KeyError(3)) == "KeyError: 3"
    assert quote(ValueError(text)) == "ValueError: KeyError: 3"


def test_where_an_error_came_from():
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert "test_foreign.py" in origin(caught.value)
    assert "torch.zeros(2) @ torch.zeros(3)" in origin(caught.value)
    with (
        pytest.raises(hs.DataError, match=r"^It failed: KeyError: 1 \(raised in .*test_foreign.py, line \d+, in"),
        one_error("It failed", hs.DataError),
    ):
        {}[1]
