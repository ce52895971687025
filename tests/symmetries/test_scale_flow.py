"""How scales travel: what is found by trying must hold when the scales are applied."""

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headstart.model import inputs
from headstart.model.trace import trace_model
from headstart.model.transaction import Transaction
from headstart.symmetries import known_operations, scale_flow
from headstart.symmetries.operations import ANY, PINNED, family
from headstart.symmetries.scale_flow import trace_scales


def follow(model, x, fixed=(), rigid=()):
    with Transaction(model), torch.no_grad():
        batch = inputs.load(x, model, seed=0)
        trace = trace_model(model, batch)
        return trace_scales(model, batch.head(2), trace.layers, fixed, rigid)


def output(flow, name):
    """The class of a layer's output."""
    (label,) = set(flow.uses[name].outputs.tolist())
    return label


def classes(flow, *names):
    return [output(flow, name) for name in names]


class Net(nn.Module):
    """A net whose forward is given; layers a, b, c of four channels and a head."""

    def __init__(self, forward, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1, bias=bias), nn.Conv2d(4, 4, 3, padding=1, bias=bias)
        self.c, self.head = nn.Conv2d(4, 4, 3, padding=1, bias=bias), nn.Linear(4, 3, bias=bias)
        self.wide = nn.Conv2d(8, 4, 1, bias=bias)
        self.body = forward

    def forward(self, x):
        return self.body(self, x)


X = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))

HOMOGENEOUS = {
    "relu": torch.relu,
    "relu_": lambda v: F.relu(v, inplace=True),
    "leaky relu": lambda v: F.leaky_relu(v, 0.2),
    "maximum": lambda v: torch.maximum(v, 0.5 * v),
    "clamp": lambda v: v.clamp(min=0),
    "absolute value": torch.abs,
    "max pooling": lambda v: F.max_pool2d(v, 2),
    "average pooling": lambda v: F.avg_pool2d(v, 2, padding=1),
    "adaptive pooling": lambda v: F.adaptive_avg_pool2d(v, 3),
    "interpolation": lambda v: F.interpolate(v, scale_factor=2, mode="bilinear"),
    "a constant factor": lambda v: 3 * v,
    "padding": lambda v: F.pad(v, (1, 1, 1, 1)),
    "a view back and forth": lambda v: v.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (8, 8)),
    "shuffled channels": lambda v: v.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
    "dropout": lambda v: F.dropout(v, 0.5, training=False),
    "relu_ through a view of all of it": lambda v: (F.relu(v.view_as(v), inplace=True), v)[1],
}
BENT = {
    # Homogeneous as a whole, but not step by step.
    "square root of squares": lambda v: v.square().sqrt(),
    "sigmoid": torch.sigmoid,
    "a constant added": lambda v: v + 1,
    "exponential": torch.exp,
    "relu6 by clamping": lambda v: v.clamp(0, 6),
    "softmax": lambda v: v.softmax(1),
    "its own square": lambda v: v * v,
    "local response": lambda v: F.local_response_norm(v, 2),
    "sigmoid_ through a view of all of it": lambda v: (v.view_as(v).sigmoid_(), v)[1],
    "relu_ through a view of a part of it": lambda v: (F.relu(v[:, :2], inplace=True), v)[1],
    "thresholded": lambda v: torch.where(v > 0.1, v, 0.0),
}


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_homogeneous_operations_hand_the_scale_on(name):
    flow = follow(Net(lambda m, x: m.head(m.b(HOMOGENEOUS[name](m.a(x))).mean((2, 3)))), X)
    a, b = classes(flow, "a", "b")
    assert PINNED not in (a, b)
    assert a != b
    assert set(flow.uses["b"].inputs.tolist()) == {a}
    assert output(flow, "head") == PINNED
    assert not flow.almost


@pytest.mark.parametrize("name", BENT)
def test_what_is_not_homogeneous_fixes_the_scale(name):
    flow = follow(Net(lambda m, x: m.head(m.b(BENT[name](m.a(x))).relu().mean((2, 3)))), X)
    assert output(flow, "a") == PINNED
    assert output(flow, "b") != PINNED
    assert flow.reasons["a"]


@pytest.mark.parametrize("activation", [F.gelu, F.silu, F.hardswish, F.elu, torch.tanh, F.relu6])
def test_smooth_activations_are_almost_homogeneous(activation):
    flow = follow(Net(lambda m, x: m.head(activation(m.a(x)).mean((2, 3)))), X)
    assert output(flow, "a") in flow.almost


def test_a_sum_makes_its_terms_one_class():
    flow = follow(Net(lambda m, x: m.head((m.a(x) + m.c(m.b(m.a(x).relu()).relu())).mean((2, 3)))), X)
    a, b, c = classes(flow, "a", "b", "c")
    assert a == c != b


def test_a_concatenation_keeps_its_parts_apart():
    def body(m, x):
        first = m.a(x).relu()
        joined = torch.cat([m.b(first).relu(), first], 1)
        return m.head(m.wide(F.max_pool2d(joined, 2)).relu().mean((2, 3)))

    flow = follow(Net(body), X)
    a, b = classes(flow, "a", "b")
    assert flow.uses["wide"].inputs.tolist() == [b] * 4 + [a] * 4


def test_a_concatenation_through_an_in_place_activation():
    def body(m, x):
        first = m.a(x)
        return m.head(m.wide(F.relu(torch.cat([m.b(first), first], 1), inplace=True)).mean((2, 3)))

    flow = follow(Net(body), X)
    assert flow.uses["wide"].inputs.tolist() == [output(flow, "b")] * 4 + [output(flow, "a")] * 4


def test_channels_padded_with_zeros_take_any_scale():
    flow = follow(Net(lambda m, x: m.head(m.wide(F.pad(m.a(x), (0, 0, 0, 0, 2, 2))).relu().mean((2, 3)))), X)
    a = output(flow, "a")
    assert flow.uses["wide"].inputs.tolist() == [ANY] * 2 + [a] * 4 + [ANY] * 2


def test_a_gate_scales_nothing_and_what_it_gates_passes():
    def body(m, x):
        value = m.a(x).relu()
        return m.head(m.c(value * torch.sigmoid(m.b(value).mean((2, 3), keepdim=True))).relu().mean((2, 3)))

    flow = follow(Net(body), X)
    # The gate is made from the value, so the value's own scale goes through b; b's output is pinned.
    assert output(flow, "b") == PINNED
    assert set(flow.uses["c"].inputs.tolist()) == {output(flow, "a")} != {PINNED}


def test_a_product_of_two_scales_fixes_both():
    flow = follow(Net(lambda m, x: m.head((m.a(x) * m.b(m.a(x))).mean((2, 3)))), X)
    assert classes(flow, "a", "b") == [PINNED, PINNED]


def test_a_layer_used_twice_is_scaled_alike():
    flow = follow(Net(lambda m, x: m.head(m.b(m.b(m.a(x)).relu()).relu().mean((2, 3)))), X)
    a, b = classes(flow, "a", "b")
    assert a == b


def test_a_layer_whose_inputs_are_zero_in_its_first_use_takes_the_class_of_the_second():
    def body(m, x):
        value = m.a(x).relu()
        padded = m.wide(F.pad(value, (0, 0, 0, 0, 0, 4))).relu()
        return m.head(m.wide(torch.cat([padded, m.b(value).relu()], 1)).relu().mean((2, 3)))

    flow = follow(Net(body), X)
    assert ANY not in flow.uses["wide"].inputs.tolist()
    assert set(flow.uses["wide"].inputs.tolist()[4:]) == {output(flow, "b")}


def test_every_output_of_the_model_keeps_its_scale():
    flow = follow(Net(lambda m, x: {"early": m.a(x), "late": [m.head(m.b(m.a(x)).mean((2, 3)))]}), X)
    assert output(flow, "a") == PINNED
    assert flow.reasons["a"] == "the model returns it"


def test_a_part_that_is_written_over_fixes_the_scale():
    def body(m, x):
        value = m.a(x)
        value[:, :2] += 1.0
        return m.head(m.b(value).relu().mean((2, 3)))

    flow = follow(Net(body), X)
    assert output(flow, "a") == PINNED
    assert output(flow, "b") != PINNED


def test_a_comparison_with_a_number_fixes_the_scale():
    def body(m, x):
        value = m.a(x)
        return m.head(m.b(value * (value > 0.1)).relu().mean((2, 3)))

    assert output(follow(Net(body), X), "a") == PINNED


def test_a_layer_that_must_stay_hands_its_inputs_scale_on_or_fixes_it():
    def body(m, x):
        return m.head(m.c(m.b(m.a(x).relu()).relu()).relu().mean((2, 3)))

    with_bias, without = follow(Net(body), X, fixed={"b"}), follow(Net(body, bias=False), X, fixed={"b"})
    assert classes(with_bias, "a", "b") == [PINNED, PINNED]
    a, b = classes(without, "a", "b")
    assert a == b != PINNED


def test_a_bias_that_must_stay_fixes_the_output_alone():
    flow = follow(Net(lambda m, x: m.head(m.b(m.a(x).relu()).relu().mean((2, 3)))), X, rigid={"b"})
    assert output(flow, "b") == PINNED != output(flow, "a")


def test_a_fresh_batch_norm_frees_what_comes_before_it():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    flow = follow(net, X)
    assert output(flow, "0") != PINNED
    assert set(flow.uses["3"].inputs.tolist()) == {PINNED}
    assert flow.normed == {output(flow, "0")}
    assert not flow.norms


def test_a_trained_batch_norm_takes_the_scale_into_its_statistics():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    net[1].running_mean.fill_(0.1)
    flow = follow(net, X)
    assert flow.norms["1"].tolist() == [output(flow, "0")] * 4


@pytest.mark.parametrize("norm", [nn.LayerNorm(8, eps=0.0), nn.GroupNorm(2, 4, eps=0.0), nn.InstanceNorm2d(4, eps=0.0)])
def test_other_norms_free_what_comes_before_them(norm):
    flow = follow(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm, nn.Conv2d(4, 4, 3)), X)
    assert output(flow, "0") in flow.normed
    assert set(flow.uses["2"].inputs.tolist()) == {PINNED}


def of_another_library(q, k, v):
    """Attention that torch does not know, as one operation that also returns sums for its backward and a seed."""
    return torch.ops.headstart_tests.fused_attn_forward(q, k, v)[0]


@torch.library.custom_op("headstart_tests::fused_attn_forward", mutates_args=())
def _fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scores = q @ k.mT
    return scores.softmax(-1) @ v, scores.logsumexp(-1), torch.randint(1 << 30, (2,))


def in_heads(attention):
    """Two heads; with more than three axes torch computes it as one operation on every release."""

    def run(*values):
        return attention(*(v.unflatten(-1, (2, 3)).transpose(1, 2) for v in values)).transpose(1, 2).flatten(2)

    return run


ATTENTION = {
    "three axes": F.scaled_dot_product_attention,  # from torch 2.14 on as one operation, before in steps
    "heads": in_heads(F.scaled_dot_product_attention),
    "another library": of_another_library,
    "another library in heads": in_heads(of_another_library),
}


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("shared", [False, True], ids=["own keys", "keys like queries"])
@pytest.mark.parametrize("places", [5, 7])
def test_attention_hands_on_the_scale_of_its_values_only(name, shared, places):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            keys = (self.q if shared else self.k)(x)
            return self.out(ATTENTION[name](self.q(x[:, :5]), keys, self.v(x)))

    flow = follow(Attention(), torch.randn(4, places, 6))
    assert classes(flow, "q", *([] if shared else ["k"]), "out") == [PINNED] * (2 if shared else 3)
    assert output(flow, "v") != PINNED
    assert set(flow.uses["out"].inputs.tolist()) == {output(flow, "v")}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_of_one_layer_on_itself_fixes_its_scale(name):
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.all, self.out = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.out(ATTENTION[name](*[self.all(x)] * 3))

    flow = follow(Alone(), torch.randn(4, 5, 6))
    assert output(flow, "all") == PINNED
    assert set(flow.uses["out"].inputs.tolist()) == {PINNED}


def test_nothing_of_the_model_moves():
    net = Net(lambda m, x: m.head(F.relu(m.b(F.relu(m.a(x), inplace=True)), inplace=True).mean((2, 3))))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    expected = net(X)
    follow(net, X)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(net(X), expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Every(nn.Module):
    """Every operation that is looked up, on values of one class, in a branch of its own."""

    CALLS: ClassVar = {
        "relu": torch.relu, "relu_": lambda v: v.clone().relu_(), "leaky_relu": lambda v: F.leaky_relu(v, 0.1),
        "abs": torch.abs, "neg": torch.neg, "mean": lambda v: v.mean((2, 3)), "sum": lambda v: v.sum(3),
        "amax": lambda v: v.amax(2), "amin": lambda v: v.amin(2), "max_pool1d": lambda v: F.max_pool1d(v.flatten(2), 2),
        "max_pool2d": lambda v: F.max_pool2d(v, 2), "max_pool3d": lambda v: F.max_pool3d(v, 2),
        "avg_pool1d": lambda v: F.avg_pool1d(v.flatten(2), 2), "avg_pool2d": lambda v: F.avg_pool2d(v, 3, 2, 1),
        "avg_pool3d": lambda v: F.avg_pool3d(v, 2), "adaptive_avg_pool2d": lambda v: F.adaptive_avg_pool2d(v, 3),
        "adaptive_max_pool2d": lambda v: F.adaptive_max_pool2d(v, 3), "transpose": lambda v: v.transpose(2, 3),
        "adaptive_avg_pool3d": lambda v: F.adaptive_avg_pool3d(v, 2), "view": lambda v: v.view(len(v), 4, 64),
        "reshape": lambda v: v.mT.reshape(len(v), -1), "permute": lambda v: v.permute(0, 2, 3, 1),
        "t": lambda v: v[0, 0].t(), "slice": lambda v: v[..., 2:], "select": lambda v: v[..., 0],
        "expand": lambda v: v[..., None].expand(-1, -1, -1, -1, 2), "clone": torch.clone, "detach": torch.detach,
        "contiguous": lambda v: v.mT.contiguous(), "squeeze": lambda v: v[..., :1].squeeze(3),
        "unsqueeze": lambda v: v.unsqueeze(1), "alias": torch.ops.aten.alias, "narrow": lambda v: v.narrow(1, 0, 2),
        "flip": lambda v: v.flip(3), "split": lambda v: v.split(2, 1)[0], "unbind": lambda v: v.unbind(1)[1],
        "split_with_sizes": lambda v: v.split([1, 3], 1)[1], "cat": lambda v: torch.cat([v, v], 1),
        "stack": lambda v: torch.stack([v, v]), "add": lambda v: v + v.relu(), "sub": lambda v: v - 2 * v.relu(),
        "maximum": lambda v: torch.maximum(v, 0.5 * v), "minimum": lambda v: torch.minimum(v, 2 * v),
        "mul": lambda v: 3 * v, "div": lambda v: v / 3, "add_": lambda v: v.clone().add_(v),
    }  # fmt: skip

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.call = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(1, 3), self.CALLS[name]

    def forward(self, x):
        return self.b(self.call(self.a(x)).flatten()[:, None])


@pytest.mark.parametrize("name", Every.CALLS)
def test_what_is_looked_up_is_what_a_trial_finds(name, monkeypatch):
    looked_up = follow(Every(name), X)
    assert output(looked_up, "a") != PINNED
    monkeypatch.setattr(scale_flow, "is_known", lambda *args: False)
    tried = follow(Every(name), X)
    assert classes(looked_up, "a", "b") == classes(tried, "a", "b")
    assert looked_up.uses["b"].inputs.tolist() == tried.uses["b"].inputs.tolist()


def test_every_operation_that_is_looked_up_is_tried():
    known = known_operations._OF_ONE | known_operations._JOINS | known_operations._SUMS | known_operations._SCALES
    names = {family(name) for name in Every.CALLS}
    assert known <= names | {"max_pool2d_with_indices", "max_pool3d_with_indices"}


@pytest.mark.parametrize(
    "call",
    [
        lambda v: v + 1,
        lambda v: torch.div(v, 3, rounding_mode="floor"),
        lambda v: v * v,
        lambda v: v.view(torch.int32).float(),
        lambda v: v.sum(3, dtype=torch.int64).float(),
        lambda v: v.sum(dtype=torch.int64).float(),
    ],
)
def test_what_is_near_a_known_operation_is_not_taken_for_it(call, monkeypatch):
    monkeypatch.setitem(Every.CALLS, "other", call)
    assert output(follow(Every("other"), X), "a") == PINNED


def test_a_mean_that_names_its_precision_is_found_by_a_trial(monkeypatch):
    monkeypatch.setitem(Every.CALLS, "other", lambda v: v.mean(3, dtype=torch.float32))
    assert output(follow(Every("other"), X), "a") != PINNED
