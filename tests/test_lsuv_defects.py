"""The defects of the PyPI package lsuv 0.3.0, each as a test that headstart gets the case right.

The deviations are measured here by plain forward hooks, not by the engine.
"""

import copy
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import headstart as hs

LSUV_AND_WITHIN = ["lsuv", "within-layer"]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(model, *args, **kwargs):
    """Every output of every weight layer, in order: ``{name: [output of the first call, ...]}``."""
    found, handles = {}, []
    for name, module in model.named_modules():
        if hasattr(module, "weight"):
            keep = lambda m, a, out, name=name: found.setdefault(name, []).append(out.detach().float().clone())  # noqa: E731
            handles.append(module.register_forward_hook(keep))
    model.eval()(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return found


def deviations(model, *args, **kwargs):
    """Deviation of the first output of every layer, over everything."""
    return {n: float(o[0].std(correction=0)) for n, o in outputs(model, *args, **kwargs).items()}


class Backwards(nn.Module):
    """Layers registered in the reverse of their execution."""

    def __init__(self):
        super().__init__()
        self.third, self.second, self.first = nn.Linear(16, 8), nn.Linear(16, 16), nn.Linear(8, 16)

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(3 * x)))))


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_layers_registered_in_reverse_of_execution(method):
    model, x = Backwards(), randn(64, 8)
    hs.initialize(model, x, method)
    assert deviations(model, x) == pytest.approx({"first": 1, "second": 1, "third": 1}, abs=1e-3)


class Siamese(Twice):
    def forward(self, x):
        return self.head(torch.tanh(self.inner(x)) - torch.tanh(self.inner(2 * x)))


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_module_called_twice_is_calibrated_on_its_first_call(method):
    model, x = Siamese(), randn(256, 12)
    report = hs.initialize(model, x, method)
    first, second = outputs(model, x)["inner"]
    assert float(first.std(correction=0)) == pytest.approx(1, abs=1e-3)
    assert abs(float(second.std(correction=0)) - 1) > 0.05, "the case would not tell first from last"
    assert deviations(model, x)["head"] == pytest.approx(1, abs=1e-3), "what follows sees the second call"
    assert "runs 2 times" in " ".join(report.row("inner").notes)


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_module_that_runs_on_its_own_output_is_left(method):
    model, x = Twice(), randn(256, 12)
    before = model.inner.weight.clone()
    report = hs.initialize(model, x, method)
    assert torch.equal(model.inner.weight, before)
    assert deviations(model, x)["head"] == pytest.approx(1, abs=1e-3)
    assert "runs 2 times" in " ".join(report.row("inner").notes)


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_weight_tied_in_two_modules(method):
    model = nn.Sequential(nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 4))
    model[2].weight = model[0].weight
    x = 3 * randn(200, 10)
    report = hs.initialize(model, x, method)
    assert model[2].weight is model[0].weight
    found = deviations(model, x)
    assert (found["0"], found["4"]) == pytest.approx((1, 1), abs=1e-3)
    assert report.changed == ["0", "4"]
    assert "tied to '0'" in " ".join(report.row("2").notes)


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_weight_norm_reaches_the_deviation(method):
    x = randn(64, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        older = nn.utils.weight_norm(nn.Linear(20, 5))
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(10, 20)), nn.ReLU(), older)
    names = list(model.state_dict())
    hs.initialize(model, x, method)
    with torch.no_grad():
        hidden = model[0](x)
        assert float(hidden.std(correction=0)) == pytest.approx(1, abs=1e-3)
        assert float(model[2](torch.relu(hidden)).std(correction=0)) == pytest.approx(1, abs=1e-3)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_spectral_norm_is_refused_aloud(method):
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(10, 10)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(hs.HeadstartError, match=r"layer '2' .*SpectralNorm.*exclude='2'"):
        hs.initialize(model, 3 * randn(64, 10), method)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("value", [0.0, 1e-12], ids=["zero batch", "constant tiny batch"])
@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_constant_batch_makes_no_infinite_or_huge_weights(method, value):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(hs.DataError, match="constant"):
        hs.initialize(model, torch.full((8, 3, 9, 9), value), method)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_nan_batch_is_told(method):
    x = randn(16, 10)
    x[3, 4] = float("nan")
    with pytest.raises(hs.DataError, match="1 NaN or infinite"):
        hs.initialize(nn.Linear(10, 10), x, method)


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_no_hook_is_left_after_an_exception(method):
    class Fails(nn.Sequential):
        def forward(self, x):
            super().forward(x)
            raise ValueError("in forward")

    model = Fails(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with pytest.raises(hs.ModelError, match="in forward"):
        hs.initialize(model, randn(16, 4), method)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("method", [*LSUV_AND_WITHIN, "kaiming", "default", "orthogonal"])
def test_frozen_layers_stay(method):
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = hs.initialize(model, randn(64, 10), method)
    assert report.changed == ["4"]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items() if k[0] in "02")
    assert "frozen" in " ".join(report.row("0").notes)


def test_biases_are_not_zeroed():
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))
    before = [m.bias.clone() for m in (model[0], model[2])]
    x = randn(64, 10)
    hs.initialize(model, x, "lsuv")
    assert all(torch.equal(m.bias, b) for m, b in zip((model[0], model[2]), before, strict=True))
    assert deviations(model, x) == pytest.approx({"0": 1, "2": 1}, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [*LSUV_AND_WITHIN, "orthogonal"])
def test_half_precision_models(method, dtype):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).to(dtype)
    x = randn(16, 3, 10, 10)
    hs.initialize(model, x, method)
    assert {p.dtype for p in model.parameters()} == {dtype}
    if method != "orthogonal":
        assert deviations(model, x.to(dtype)) == pytest.approx({"0": 1, "2": 1}, abs=0.02)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)

    def forward(self, a, b, scale=1.0):
        return scale * (self.left(a) + self.right(b))


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
@pytest.mark.parametrize(
    "data",
    [
        (5 * randn(32, 4), randn(32, 6)),
        {"b": randn(32, 6), "a": 5 * randn(32, 4), "labels": torch.zeros(32)},
        {"a": 5 * randn(32, 4), "b": randn(32, 6), "scale": torch.tensor(2.0)},
    ],
    ids=["two inputs", "dict", "dict with a scalar"],
)
def test_several_inputs(method, data):
    model = Two()
    hs.initialize(model, data, method)
    a, b = data if isinstance(data, tuple) else (data["a"], data["b"])
    assert deviations(model, a, b) == pytest.approx({"left": 1, "right": 1}, abs=1e-3)


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_lazy_modules(method):
    model = nn.Sequential(nn.LazyConv2d(6, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    x = randn(16, 2, 6, 6)
    hs.initialize(model, x, method)
    assert type(model[0]) is nn.Conv2d
    assert deviations(model, x) == pytest.approx({"0": 1, "3": 1}, abs=1e-3)


def test_every_channel_reaches_the_deviation():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 8, 1))
    x = randn(32, 3, 10, 10) * torch.tensor([1.0, 5.0, 0.2]).reshape(3, 1, 1) + 2
    hs.initialize(model, x, "within-layer")
    for found in outputs(model, x).values():
        torch.testing.assert_close(found[0].std((0, 2, 3), correction=0), torch.ones(8), atol=1e-3, rtol=0)
        torch.testing.assert_close(found[0].mean((0, 2, 3)), torch.zeros(8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_device_stays_and_data_comes_to_it(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 4)).to(device)
    hs.initialize(model, randn(64, 10), "lsuv")
    assert {p.device.type for p in model.parameters()} == {device}
    assert deviations(model, randn(64, 10).to(device)) == pytest.approx({"0": 1, "2": 1}, abs=1e-3)


@pytest.mark.parametrize("method", LSUV_AND_WITHIN)
def test_random_states_stay_and_the_seed_decides(method):
    a, b = nn.Linear(10, 10), nn.Linear(10, 10)
    b.load_state_dict(a.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    hs.initialize(a, randn(64, 10), method, seed=3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    torch.rand(7)
    hs.initialize(b, randn(64, 10), method, seed=3)
    assert torch.equal(a.weight, b.weight)


def test_calls_in_several_threads_do_not_mix():
    def make(i):
        with torch.random.fork_rng():
            torch.manual_seed(i)
            return nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 4))

    x = randn(64, 10)
    alone = [make(i) for i in range(6)]
    for model in alone:
        hs.initialize(model, x, "lsuv")
    together = [make(i) for i in range(6)]
    state = torch.get_rng_state()
    threads = [threading.Thread(target=hs.initialize, args=(m, x, "lsuv")) for m in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_call_inside_a_call():
    """A forward that initializes another model shares nothing with the call around it."""
    x = randn(64, 10)

    class Nested(nn.Sequential):
        def forward(self, value):
            hs.initialize(nn.Linear(10, 10), x, "lsuv", seed=5)
            return super().forward(value)

    plain = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 4))
    nested = Nested(*(copy.deepcopy(m) for m in plain))
    hs.initialize(plain, x, "lsuv")
    hs.initialize(nested, x, "lsuv")
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), nested.parameters(), strict=True))
    assert torch.backends.mha.get_fastpath_enabled()
