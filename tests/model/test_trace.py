"""What a trace finds: order, norms, outputs, ties; and who may be written."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import headstart as hs
from headstart.model.inputs import Batch
from headstart.model.report_builder import ReportBuilder
from headstart.model.selection import select
from headstart.model.trace import trace_model


def plan_of(model, *args):
    return trace_model(model.eval(), Batch(args))


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


X = images(4, 3, 8, 8)


class Net(nn.Module):
    """Layers ``a`` (3 to 4) and ``b`` (4 to 4), joined by ``between``, then ``norm``."""

    def __init__(self, between=lambda x: x, norm=None):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(4)
        self.between = between

    def forward(self, x):
        return self.b(self.norm(self.between(self.a(x))))


class ConvNormAct(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class AdaptiveNorm(nn.Module):
    """A normalization with a weight layer inside, fed by something else."""

    def __init__(self):
        super().__init__()
        self.norm, self.style = nn.InstanceNorm2d(4), nn.Linear(1, 4)

    def forward(self, x):
        return self.norm(x) * self.style(x.new_ones(1, 1)).reshape(1, 4, 1, 1)


@pytest.mark.parametrize(
    ("norm", "found"),
    [
        (nn.BatchNorm2d(4), "norm"),
        (nn.GroupNorm(2, 4), "norm"),
        (nn.InstanceNorm2d(4), "norm"),
        (nn.LayerNorm([4, 8, 8]), "norm"),
        (AdaptiveNorm(), "norm.norm"),
        (ConvNormAct(), None),
        (nn.LocalResponseNorm(2), None),
        (nn.Identity(), None),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_what_counts_as_a_norm(norm, found):
    assert plan_of(Net(norm=norm), X).norm_after.get("a") == found


@pytest.mark.parametrize(
    ("between", "direct"),
    [
        (lambda x: x, True),
        (lambda x: x.reshape(x.shape), True),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), True),
        (nn.Dropout(0.5), True),
        (F.relu, False),
        (nn.ReLU(inplace=True), False),
        (lambda x: x + x, False),
        (lambda x: x.add_(1), False),
    ],
    ids=["nothing", "reshape", "permute", "dropout", "relu", "relu in place", "sum", "sum in place"],
)
def test_a_norm_counts_where_it_takes_the_output_itself(between, direct):
    assert ("a" in plan_of(Net(between), X).norm_after) is direct


@dataclass
class Returned:
    logits: torch.Tensor
    hidden: tuple
    name: str = "record"


def test_outputs_in_a_data_class_are_outputs():
    class Record(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.side = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            x = torch.relu(self.body(x))
            return Returned(self.head(x), (self.side(x),))

    assert plan_of(Record(), torch.rand(4, 4)).outputs == {"head", "side"}


def test_outputs_are_the_layers_whose_output_is_returned():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.one, self.two, self.three = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            x = torch.relu(self.body(x))
            return {"a": self.one(x), "rest": [(self.two(x).reshape(-1),), F.relu(self.three(x))]}

    assert plan_of(Heads(), torch.rand(4, 4)).outputs == {"one", "two"}
    softmax = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3), nn.LogSoftmax(1))
    assert plan_of(softmax, torch.rand(4, 4)).outputs == {"1"}, "the last that ran stands in"


def test_order_calls_and_layers_that_never_run():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused, self.late, self.early = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.late(self.early(self.early(x)))

    trace = plan_of(Odd(), torch.rand(4, 4))
    assert [la.name for la in trace.layers] == ["early", "late"]
    assert trace.calls == {"early": 2, "late": 1}
    assert [la.name for la in trace.unreached] == ["unused"]
    assert ReportBuilder.of(trace).rows["unused"].action == "not reached"
    report = hs.initialize(Odd(), torch.randn(32, 4), "kaiming")
    assert "never called" in " ".join(report.findings)
    assert [r.name for r in report.rows] == ["early", "late", "unused"]


def test_without_data_the_order_is_that_of_registration():
    trace = trace_model(Net(), None)
    assert [la.name for la in trace.layers] == ["a", "b"]
    assert not trace.traced


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        self.layer10 = nn.Sequential(nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer10(self.layer1(self.stem(x))).mean((2, 3)))


ALL = ["stem", "layer1.0", "layer1.1", "layer10.0", "head"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, ALL),
        ("layer1", None, ["layer1.0", "layer1.1"]),
        ("layer1*", None, ["layer1.0", "layer1.1", "layer10.0"]),
        ("layer?.1", None, ["layer1.1"]),
        (["stem", nn.Linear], None, ["stem", "head"]),
        (nn.Conv2d, ["layer1"], ["stem", "layer10.0"]),
        (lambda name, module: module.bias.numel() == 2, None, ["head"]),
        (None, lambda name, module: "layer" in name, ["stem", "head"]),
        (("head", "stem"), "head", ["stem"]),
        ("*", "*", []),
    ],
)
def test_include_and_exclude(include, exclude, expected):
    model = Nested()
    trace = plan_of(model, X)
    report = ReportBuilder.of(trace)
    assert [la.name for la in select(trace, report, model, include, exclude)[1]] == expected
    for name in set(ALL) - set(expected):
        assert report.rows[name].action == "skipped"
        assert report.rows[name].notes in (["not included"], ["excluded"])


@pytest.mark.parametrize("selection", [5, [5], [], {}, [None], ["stem", 1]])
def test_what_selects_no_layers_is_refused(selection):
    for key in ("include", "exclude"):
        with pytest.raises(hs.HeadstartError, match="does not select layers"):
            hs.initialize(Nested(), method="kaiming", **{key: selection})


def test_unknown_patterns_name_the_nearest():
    with pytest.raises(hs.UnknownNameError, match=r"'haed'.*Did you mean 'head'"):
        hs.initialize(Nested(), method="kaiming", exclude="haed")
    with pytest.raises(hs.UnknownNameError, match="Conv3d"):
        hs.initialize(Nested(), method="kaiming", include=nn.Conv3d)


def test_frozen_layers_are_written_only_when_named_in_full():
    for include, written in ((None, False), ("*", False), ("layer1", False), ("layer1.0", True)):
        model = Nested()
        model.layer1.requires_grad_(False)
        before = model.layer1[0].weight.clone()
        report = hs.initialize(model, method="kaiming", include=include)
        assert torch.equal(before, model.layer1[0].weight) is not written
        assert ("layer1.0" in report.changed) is written
        assert not model.layer1[0].weight.requires_grad


@pytest.mark.parametrize("flag", ["_is_hf_initialized", "_no_reinit"])
def test_parameters_flagged_as_loaded_stay(flag):
    model = Nested()
    setattr(model.head.weight, flag, True)
    report = hs.initialize(model, method="kaiming")
    assert "head" not in report.changed
    assert report.row("head").notes == ["flagged as already loaded"]


def test_a_weight_norm_with_one_frozen_half_counts_as_frozen():
    """As in self-distillation heads, whose magnitude is fixed at 1."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    magnitude = model[0].parametrizations.weight.original0
    magnitude.requires_grad_(False)
    before = magnitude.clone()
    assert hs.initialize(model, method="kaiming").changed == ["1"]
    assert torch.equal(magnitude, before)


def test_the_first_of_tied_layers_to_run_owns_the_weight():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.Linear(4, 4), nn.Linear(4, 4)
            self.first.weight = self.second.weight

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    report = hs.initialize(Tied(), torch.randn(32, 4), "lsuv")
    assert report.changed == ["first"]
    assert report.row("second").notes == ["tied to 'first', which runs first"]
    excluded = hs.initialize(Tied(), torch.randn(32, 4), "lsuv", exclude="first")
    assert excluded.changed == [], "the weight belongs to an excluded layer"


def test_a_bias_tied_to_an_earlier_layer_stays_that_layers():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].bias = model[0].bias
    x = 3 + torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    hs.initialize(model, x, "within-layer")
    with torch.no_grad():
        first, last = model[0](x), model(x)
    torch.testing.assert_close(first.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    for out in (first, last):
        torch.testing.assert_close(out.std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)


def test_a_weight_that_another_kind_of_module_owns_stays():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.mirror = self.a.weight

        def forward(self, x):
            return self.b(self.a(x)) + x @ self.mirror

    report = hs.initialize(Model(), torch.randn(32, 4), "kaiming")
    assert report.changed == ["b"]
    assert report.row("a").notes == ["tied to '' (Model)"]
