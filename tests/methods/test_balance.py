"""Between-layer balance: rates agree, the function stays, and the start's own scales do not matter."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import headstart as hs
from headstart import rng
from headstart.measure.gradients import forward_backward
from headstart.measure.sample_gradients import SampleGradients, directions
from headstart.methods.data_dependent import balance
from headstart.methods.data_dependent.rates import Energies, solve
from headstart.model.inputs import Batch
from headstart.model.trace import trace_model

X = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(5))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(12, 8, 2, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(72, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 10)
        self.first = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])
        self.second = nn.ModuleList([nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)])

    def forward(self, x):
        x = F.relu(self.stem(x))
        for branch in (self.first, self.second):
            value = x
            for layer in branch:
                value = F.relu(layer(value))
            x = x + value
        return self.head(x.mean((2, 3)))


class Concatenating(nn.Module):
    """Dense connections: every layer sees all that came before."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3 if i == 0 else 6 * i, 6, 3, padding=1) for i in range(4)])
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        parts = []
        for layer in self.layers:
            parts.append(F.relu(layer(torch.cat(parts, 1) if parts else x)))
        return self.head(F.avg_pool2d(torch.cat(parts, 1), 4).mean((2, 3)))


def rates(model, x=X, seed=0):
    """The definition, sample by sample with plain autograd, for the gradients at the top that the method draws."""
    x = x[: balance.SAMPLES]
    twin = copy.deepcopy(model).eval()
    layers = {n: m for n, m in twin.named_modules() if hasattr(m, "weight") and m.weight.dim() > 1}
    squares = torch.zeros(len(layers), dtype=torch.float64)
    for sample, top in zip(x, drawn(len(x), twin(x[:1]).shape[1], seed), strict=True):
        found = torch.autograd.grad(twin(sample[None]), [m.weight for m in layers.values()], top[None].to(x.dtype))
        squares += torch.stack([g.double().square().mean() for g in found])
    sizes = torch.stack([m.weight.detach().double().square().mean() for m in layers.values()])
    return dict(zip(layers, (squares / sizes).sqrt().tolist(), strict=True))


def drawn(samples, width, seed=0):
    return directions(samples, width, rng.generator(rng.derive(seed, "balance"), "top gradient", "0")) / samples


def independent(model, x, draws, seed=1):
    """Logarithms of the rates from gradients of the whole batch for independent normal numbers, draw by draw."""
    twin = copy.deepcopy(model).eval()
    weights = [m.weight for m in twin.modules() if hasattr(m, "weight") and m.weight.dim() > 1]
    y, generator, squares = twin(x), torch.Generator().manual_seed(seed), 0
    for _ in range(draws):
        top = torch.randn(y.shape, generator=generator)
        found = torch.autograd.grad(y, weights, top, retain_graph=True)
        squares = squares + torch.stack([g.double().square().mean() for g in found])
    return (
        0.5
        * torch.stack([s / w.detach().double().square().mean() for s, w in zip(squares, weights, strict=True)]).log()
    )


def spread(values):
    return max(values) / min(values)


@pytest.mark.parametrize("build", [plain, Concatenating])
def test_rates_agree_and_the_function_stays(build):
    model = build()
    before, logits = rates(model), model.eval()(X)
    hs.initialize(model, X, "balance")
    assert spread(before.values()) > 1.5
    assert spread(rates(model).values()) < 1.01
    assert (model(X) - logits).abs().max() <= 1e-5 * logits.abs().max()


@pytest.mark.parametrize(("draws", "limit"), [(64, 0.15), pytest.param(1024, 0.08, marks=pytest.mark.slow)])
@pytest.mark.parametrize("build", [plain, Concatenating])
def test_an_independent_estimate_finds_the_rates_alike(build, draws, limit):
    model = build()
    assert spread(independent(model, X, 64).exp().tolist()) > 2
    report = hs.initialize(model, X, "balance")
    found = independent(model, X, draws)
    assert float(found.max() - found.min()) < limit
    bound = math.log(float(report.findings[-1].split("less than ")[1].split("-fold")[0]))
    assert 0.01 < bound < 0.3  # what the report expects of the true rates
    if draws > 64:
        assert float(found.max() - found.min()) < bound


@pytest.mark.parametrize("build", [plain, Residual, Concatenating])
def test_a_measurement_costs_at_most_half_as_much_again(build):
    model = build().eval()
    trace, batch = trace_model(model, Batch((X[:32],))), Batch((X[:32],))

    def operations(samples):
        with FlopCounterMode(display=False) as counter:
            passes = forward_backward(model, trace, batch, None, None, 0, samples)
            if samples:
                samples.finish(passes.gradients)
        return counter.get_total_flops()

    assert 1 < operations(SampleGradients(trace.layers, 32)) / operations(None) < 1.5


def test_on_a_chain_rates_become_their_geometric_mean():
    model = plain()
    before = rates(model)
    hs.initialize(model, X, "balance")
    expected = math.exp(np.mean([math.log(rate) for rate in before.values()]))
    assert list(rates(model).values()) == pytest.approx([expected] * len(before), rel=1e-3)


def test_inside_a_residual_branch_rates_agree_and_factors_multiply_to_one():
    model = Residual()
    old, logits, before = copy.deepcopy(model), model(X), rates(model)
    report = hs.initialize(model, X, "balance")
    after = rates(model)
    for group in (["first.0", "first.1", "first.2"], ["second.0", "second.1"], ["stem", "head"]):
        assert spread([after[name] for name in group]) < 1.01
        with torch.no_grad():
            norms = [(model.get_submodule(n).weight.norm(), old.get_submodule(n).weight.norm()) for n in group]
        factors = [float(now / then) for now, then in norms]
        assert math.prod(factors) == pytest.approx(1, rel=1e-4)
        assert math.prod(after[n] for n in group) == pytest.approx(math.prod(before[n] for n in group), rel=1e-3)
    assert (model(X) - logits).abs().max() <= 1e-5 * logits.abs().max()
    assert "in closed form" in report.findings[-1]


def disturbed(model):
    """The same function at other scales: one layer ten times larger, the next a tenth."""
    if isinstance(model, Concatenating):
        first, columns = model.layers[0], [(layer, slice(0, 6)) for layer in (*model.layers[1:], model.head)]
    elif isinstance(model, Residual):
        first, columns = model.first[0], [(model.first[1], slice(None))]
    else:
        first, columns = model[0], [(model[3], slice(None))]
    with torch.no_grad():
        first.weight *= 10
        first.bias *= 10
        for layer, which in columns:
            layer.weight[:, which] *= 0.1
    return model


@pytest.mark.parametrize("build", [plain, Residual, Concatenating])
def test_the_scales_of_the_start_do_not_matter(build):
    model, other = build(), disturbed(build())
    assert torch.allclose(model.eval()(X), other.eval()(X), atol=1e-5)
    for each in (model, other):
        hs.initialize(each, X, "balance")
    for (name, mine), (_, its) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.allclose(mine, its, rtol=1e-3, atol=1e-6), name


def published(weights, biases, x, top):
    """Algorithm 2 on a ReLU perceptron as the authors' code has it, undamped, squares taken sample by sample."""
    values, masks = [x], []
    for w, b in zip(weights, biases, strict=True):
        z = values[-1] @ w.T + b
        masks.append(z > 0)
        values.append(z * masks[-1] if len(masks) < len(weights) else z)
    signal, gradients = top, []
    for k in reversed(range(len(weights))):
        if k < len(weights) - 1:
            signal = signal * masks[k]
        gradients.insert(0, torch.einsum("no,ni->noi", signal, values[k]))
        signal = signal @ weights[k]
    sizes = [(g.square().mean(0).sum() / w.square().sum()).sqrt() for g, w in zip(gradients, weights, strict=True)]
    target = math.exp(np.mean([math.log(size) for size in sizes]))
    factors = [math.sqrt(float(size) / target) for size in sizes]
    along = np.cumprod(factors)
    return [w * s for w, s in zip(weights, factors, strict=True)], [b * a for b, a in zip(biases, along, strict=True)]


def test_a_perceptron_gets_what_algorithm_two_gives():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 7)).double()
    x = torch.randn(64, 12, dtype=torch.float64)
    linears = [net[0], net[2], net[4]]
    seen = balance.SAMPLES
    top = drawn(seen, 7).double()
    state = [m.weight.detach().clone() for m in linears], [m.bias.detach().clone() for m in linears]
    weights, biases = published(*state, x[:seen], top)
    hs.initialize(net, x, "balance")
    for layer, weight, bias in zip(linears, weights, biases, strict=True):
        assert torch.allclose(layer.weight, weight, rtol=1e-6)
        assert torch.allclose(layer.bias, bias, rtol=1e-6)


def test_after_within_layer_normalization_deep_nets_keep_their_function_and_their_rates_agree():
    torch.manual_seed(0)
    blocks = [m for _ in range(30) for m in (nn.Linear(16, 16), nn.ReLU())]
    net, x = nn.Sequential(*blocks, nn.Linear(16, 4)), torch.randn(64, 16)
    other = copy.deepcopy(net)
    hs.initialize(net, x, "within-layer")
    hs.initialize(other, x, ["within-layer", "balance"])
    assert torch.allclose(net(x), other(x), atol=5e-3)  # rounding grows over thirty layers
    assert spread(rates(other, x).values()) < 1.01 < spread(rates(net, x).values())


def test_a_smooth_activation_is_balanced_step_by_step():
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(16, 16), nn.GELU())], nn.Linear(16, 4))
    x = torch.randn(64, 16)
    before = spread(rates(net, x).values())
    left = copy.deepcopy(net)
    report = hs.initialize(net, x, "balance")
    assert "damped steps" in report.findings[-1]
    assert spread(rates(net, x).values()) < 1.2 < before
    y = left(x)
    hs.initialize(left, x, "balance:almost=leave")
    assert torch.allclose(left(x), y, atol=1e-6)


def test_layers_before_a_fresh_batch_norm_get_the_others_rate_and_change_nothing():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    logits = copy.deepcopy(net).train()(X)
    report = hs.initialize(net, X, "balance")
    assert (copy.deepcopy(net).train()(X) - logits).abs().max() <= 1e-3 * logits.abs().max()  # the norms' epsilon
    assert float(report.findings[-1].split("less than ")[1].split("-fold")[0]) < 1.5
    assert report.statistics == []


def test_a_trained_batch_norm_follows_the_rescale():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
    with torch.no_grad():
        net[0].weight *= 7
        for _ in range(40):
            net.train()(X)
    logits = net.eval()(X)
    report = hs.initialize(net, X, "balance")
    assert report.statistics == ["1"]
    assert (net(X) - logits).abs().max() <= 1e-3 * logits.abs().max()
    assert not torch.equal(net[0].weight, copy.deepcopy(net)[0].weight * 7)


def test_the_task_loss_may_stand_in_for_random_gradients():
    torch.manual_seed(0)
    net, y = plain(), torch.arange(64) % 10
    report = hs.initialize(net, (X, y), hs.Balance(loss_fn=lambda out, batch: F.cross_entropy(out, batch[1])))
    twin = copy.deepcopy(net).eval()
    layers = [m for m in twin.modules() if hasattr(m, "weight")]
    gradients = torch.autograd.grad(F.cross_entropy(twin(X), y), [m.weight for m in layers])
    found = [
        float(g.square().mean() / m.weight.detach().square().mean()) for g, m in zip(gradients, layers, strict=True)
    ]
    assert spread(found) < 1.02
    assert "in closed form" in report.findings[-1]


def test_excluded_layers_stay_and_the_others_are_balanced_around_them():
    net = plain()
    before, logits = copy.deepcopy(net.state_dict()), net.eval()(X)
    report = hs.initialize(net, X, "balance", exclude="9")
    assert torch.equal(net[9].weight, before["9.weight"])
    assert torch.equal(net[9].bias, before["9.bias"])
    assert torch.equal(net[12].weight, before["12.weight"])  # alone behind a layer whose bias fixes the scale
    assert "'9' is left alone and has a bias" in " ".join(report.row("5").notes)
    assert spread([rates(net)[name] for name in ("0", "3", "5")]) < 1.01
    assert torch.allclose(net(X), logits, rtol=1e-4, atol=1e-6)


def test_a_frozen_bias_stays():
    net = plain()
    net[3].bias.requires_grad_(False)
    bias, logits = net[3].bias.detach().clone(), net.eval()(X)
    report = hs.initialize(net, X, "balance")
    assert torch.equal(net[3].bias, bias)
    assert {"0", "3", "5"} <= set(report.changed)
    assert torch.allclose(net(X), logits, rtol=1e-4, atol=1e-6)


def test_a_function_that_does_not_survive_is_put_back():
    class Shifty(nn.Module):
        """Looks homogeneous on two samples and is not on more."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            value = F.relu(self.a(x))
            return self.b(value if len(x) <= 2 else value.square())

    net, x = Shifty(), torch.randn(32, 6)
    before = copy.deepcopy(net.state_dict())
    report = hs.initialize(net, x, "balance")
    assert "would have changed the model's function" in " ".join(report.findings)
    assert report.changed == []
    assert all(row.methods == [] and row.weight_std[0] == row.weight_std[1] for row in report.rows)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def deep(depth, width=16):
    torch.manual_seed(0)
    layers = [part for i in range(depth) for part in (nn.Linear(width if i else 27, width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, 5))


def test_a_network_that_magnifies_rounding_errors_is_balanced():
    net, x = deep(36), X[:, :, :3, :3]
    report = hs.initialize(net, x, "within-layer")
    magnified = 1e-6 * rates(net, x)["1"] / rates(net, x)["73"]
    assert magnified > 1e-3  # what the outputs move by when every weight is rounded
    before = [p.detach().clone() for p in net.parameters()]
    report = hs.initialize(net, x, "balance")
    assert "(in closed form)" in report.findings[-1]
    assert spread(rates(net, x).values()) < 1.1  # measured anew: the rounding of the new weights is magnified, too
    exponents = [torch.log(after.detach() / old).median() for after, old in zip(net.parameters(), before, strict=True)]
    assert abs(sum(float(e) for e in exponents[::2])) < 1e-3  # the weights' factors multiply to one


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 88.7 / 3), (torch.float64, math.inf)])
def test_scales_stay_where_the_number_format_holds_them(dtype, limit):
    net, x = deep(120).to(dtype), X[:, :, :3, :3].to(dtype)
    hs.initialize(net, x, "within-layer")
    old = [layer.weight.detach().clone() for layer in net if isinstance(layer, nn.Linear)]
    before = spread(rates(net, x).values())
    report = hs.initialize(net, x, "balance")
    new = [layer.weight.detach() for layer in net if isinstance(layer, nn.Linear)]
    steps = [float((n / o).abs().log().median()) for n, o in zip(new, old, strict=True)]
    largest = np.abs(np.cumsum(steps)).max()
    after = spread(rates(net, x).values())
    if dtype == torch.float64:
        assert largest > 30
        assert after < 1.01
    else:
        assert largest == pytest.approx(limit, abs=0.05)
        assert 1.01 < after < before  # rates of so deep a net are magnified rounding: how much closer is the machine's
        assert "beyond the number format" in report.findings[-1]


def test_the_backward_hooks_of_a_user_do_not_fire():
    net, fired = plain(), []
    net[0].register_full_backward_hook(lambda *args: fired.append(1))
    hs.initialize(net, X, "balance")
    assert not fired
    assert len(net[0]._backward_hooks) == 1


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ("damping=0", "damping"),
        ("iterations=0", "iterations"),
        ("almost=maybe", "almost"),
        ("tolerance=-1", "tolerance"),
    ],
)
def test_options_that_make_no_sense_are_named(option, match):
    with pytest.raises(hs.HeadstartError, match=match):
        hs.initialize(plain(), X, f"balance:{option}")


energies = st.floats(1e-6, 1e6)


@given(st.lists(st.tuples(energies, energies), min_size=2, max_size=8))
def test_the_algebra_on_random_chains(parts):
    last = len(parts) - 1
    layers = {
        str(k): Energies(0 if k == last else k + 1, {k: gradient}, {k: weight})
        for k, (gradient, weight) in enumerate(parts)
    }
    scales = solve(layers)
    found = [layer.log_rate(scales) for layer in layers.values()]
    mean = np.mean([layer.log_rate({}) for layer in layers.values()])
    assert found == pytest.approx([mean] * len(parts), abs=1e-6)


@given(st.lists(energies, min_size=4, max_size=4), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_slopes_are_the_derivatives(values, at):
    layer = Energies(3, {1: values[0], 2: values[1]}, {1: values[2], 2: values[3]})
    scales = dict(zip((1, 2, 3), at, strict=True))
    for label, slope in layer.slopes(scales).items():
        if label in scales:
            up, down = ({**scales, label: scales[label] + sign * 1e-5} for sign in (1, -1))
            assert slope == pytest.approx((layer.log_rate(up) - layer.log_rate(down)) / 2e-5, abs=1e-4)


def test_layers_that_one_sample_alone_reaches_are_balanced_without_a_confidence():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        net[0].weight.abs_()
        net[0].bias.fill_(-50.0)
    x = torch.zeros(8, 6)
    x[0] = 40.0
    report = hs.initialize(net, x, "balance")
    assert any("by a single gradient" in finding for finding in report.findings)
