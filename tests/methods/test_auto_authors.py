"""Auto leaves what an author chose and what it does not understand, and says by which rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs


class Cell(nn.Module):
    """A tanh cell on ``[x, h]``."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = nn.Linear(56, 48), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 48)
        for t in range(x.shape[1]):
            h = torch.tanh(self.c(torch.cat([x[:, t], h], 1)))
        return self.o(h)


class LSTMCell(Cell):
    """An LSTM cell on ``[x, h]``."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(8 + 24, 4 * 24)
        self.o = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 24)
        for t in range(x.shape[1]):
            i, f, g, o = self.c(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.o(h)


class ConvLSTM(nn.Module):
    """A convolutional LSTM over frames, and a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = nn.Conv2d(1 + 8, 32, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 8, *x.shape[-2:])
        for t in range(x.shape[1]):
            i, f, g, o = self.c(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.o(h)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


class Fixup(nn.Module):
    """A residual branch that ends in a convolution of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.b(self.a(x).relu())).relu()


def siren() -> nn.Module:
    parts: list[nn.Module] = []
    n = 2
    for i in range(3):
        layer = nn.Linear(n, 128)
        b = 1 / n if i == 0 else (6 / n) ** 0.5 / 30
        nn.init.uniform_(layer.weight, -b, b)
        parts += [layer, Sine()]
        n = 128
    return nn.Sequential(*parts, nn.Linear(n, 1))


def fixup() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), Fixup(), Fixup(), nn.Flatten(), nn.Linear(24 * 64, 5)
    )


IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
STEPS = torch.randn(32, 5, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("build", "data", "reason"),
    [
        (Cell, STEPS, "its own earlier outputs"),
        (LSTMCell, STEPS, "its own earlier outputs"),
        (ConvLSTM, torch.randn(16, 4, 1, 8, 8), "its own earlier outputs"),
        (siren, torch.rand(128, 2) * 2 - 1, "no usual start gives"),
        (fixup, IMAGES, "all zero"),
    ],
    ids=["tanh cell", "LSTM cell", "ConvLSTM", "SIREN", "Fixup"],
)
def test_what_the_default_once_made_worse_is_left_bit_for_bit(
    build: Callable[[], nn.Module], data: Tensor, reason: str
) -> None:
    torch.manual_seed(0)
    model = build()
    before = copy.deepcopy(model.state_dict())
    report = hs.initialize(model, data)
    assert report.changed == []
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert any(reason in note for row in report.rows for note in row.notes)
    assert any("force=True" in finding for finding in report.findings)


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Hidden(nn.Module):
    """An activation whose inside no mode sees."""

    def forward(self, x: Tensor) -> Tensor:
        return _Silu.apply(x)  # type: ignore[no-any-return]


def mlp(activation: Callable[[Tensor], Tensor] = torch.relu) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = activation if isinstance(activation, nn.Module) else None
            self.a, self.b, self.c = nn.Linear(16, 32), nn.Linear(32, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(activation(self.b(activation(self.a(x)))))

    torch.manual_seed(0)
    return Net()


ROWS = torch.randn(64, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "activation",
    [
        *(torch.relu, torch.tanh, torch.sigmoid, torch.selu, F.elu, F.gelu, F.silu, F.hardswish, F.mish, F.relu6),
        *(nn.GELU("tanh"), nn.Hardswish(inplace=True), nn.SiLU(inplace=True)),
        lambda x: F.leaky_relu(x, 0.2),
        lambda x: x * torch.sigmoid(x),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: x.clamp_(min=0),
        Hidden(),
    ],
)
def test_activations_that_recipes_were_shown_on_are_known_by_their_shape(
    activation: Callable[[Tensor], Tensor],
) -> None:
    assert hs.initialize(mlp(activation), ROWS).changed == ["a", "b"]


@pytest.mark.parametrize(
    "activation",
    [
        lambda x: x.softmax(1),
        torch.sin,
        torch.abs,
        torch.square,
        torch.sign,
        torch.exp,
        lambda x: x * x,
        lambda x: torch.sin(30 * x),
    ],
)
def test_other_activations_are_not_understood(activation: Callable[[Tensor], Tensor]) -> None:
    report = hs.initialize(mlp(activation), ROWS)
    assert report.changed == []
    assert any("behind it" in note or "takes its output" in note for note in report.row("a").notes)
    assert hs.initialize(mlp(activation), ROWS, hs.Auto(force=True)).changed == ["a", "b"]


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (nn.init.orthogonal_, "orthogonal"),
        (lambda w: nn.init.normal_(w, 0, 1), "deviation"),
        (lambda w: nn.init.uniform_(w, 0, 0.1), "mean"),
        (lambda w: w.normal_().mul_(torch.rand_like(w) < 0.3), "distribution"),
        (nn.init.zeros_, "all zero"),
        (lambda w: w.copy_(F.normalize(torch.randn_like(w), dim=1)), "of one length"),
        (lambda w: w.copy_(torch.outer(torch.randn(24), torch.randn(32)) + 0.5 * torch.randn(24, 32)), ""),
    ],
)
def test_weights_that_are_no_usual_draw_are_their_authors(start: Callable[[Tensor], Tensor], reason: str) -> None:
    model = mlp()
    with torch.no_grad():
        start(model.b.weight)  # type: ignore[arg-type]
    report = hs.initialize(model, ROWS)
    assert report.changed == []  # without norms the others' scales hang together with it
    assert any(reason in note and "author" in note for note in report.row("b").notes)


@pytest.mark.parametrize(
    "start",
    [
        *(nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_),
        lambda w: nn.init.kaiming_normal_(w, mode="fan_out"),
        lambda w: nn.init.trunc_normal_(w, 0, 1, -2, 2).mul_((2 / w.shape[1]) ** 0.5 / 0.8796),
    ],
)
def test_usual_starts_are_written(start: Callable[[Tensor], Tensor]) -> None:
    model = mlp()
    with torch.no_grad():
        for layer in (model.a, model.b):
            start(layer.weight)  # type: ignore[arg-type]
    changed = hs.initialize(model, ROWS).changed
    assert changed == ["a", "b"]


def test_too_few_weights_to_tell_leave_their_layer_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1, bias=False), nn.Linear(1, 20), nn.Linear(20, 4)
    )
    report = hs.initialize(model, ROWS)
    assert report.changed == ["0", "2"]
    assert "its 20 weights are too few to judge" in report.row("3").notes


def test_a_siamese_network_is_written_and_a_shared_layer_on_inputs_of_two_sizes_is_not() -> None:
    class Twins(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.net, self.factor = mlp(), factor

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) - self.net(self.factor * x.roll(1, 0))

    assert hs.initialize(Twins(1.0), ROWS).changed == ["net.a", "net.b"]
    report = hs.initialize(Twins(10.0), ROWS)
    assert report.changed == []
    assert any("different scales" in note for note in report.row("net.a").notes)


class Normalize(nn.Module):
    """Not one: fixed numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class Evened(nn.Module):
    """One, by another name."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.square().mean((1, 2, 3), keepdim=True).add(1e-6).sqrt()


@pytest.mark.parametrize(("kind", "written"), [(Evened, ["0"]), (Normalize, ["0", "3", "7"])])
def test_a_norm_is_known_by_what_it_does(kind: type[nn.Module], written: list[str]) -> None:
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)]
    blocks = [m for conv in convs for m in (conv, kind(), nn.ReLU())]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16 * 64, 5))
    assert hs.initialize(model, IMAGES).changed == written


class Standardized(nn.Conv2d):
    """Weight standardization."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, padding=1)


def test_weight_standardization_is_worked_around() -> None:
    model = nn.Sequential(Standardized(3, 16, 3), nn.ReLU(), Standardized(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    report = hs.initialize(model, IMAGES)
    assert report.changed == []
    assert any("standardization" in note for note in report.row("0").notes)


def test_norms_let_the_first_layer_be_written_whatever_the_others_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 4)),
    )
    nn.init.zeros_(model[3].weight)  # type: ignore[arg-type]
    assert hs.initialize(model, IMAGES).changed == ["0"]
    nn.init.trunc_normal_(model[0].weight, std=0.02)  # type: ignore[arg-type]
    assert hs.initialize(model, IMAGES).changed == ["0"]
    report = hs.initialize(model, IMAGES)  # its eigenvectors are structured now
    assert report.changed == []


def test_zeros_are_written_if_asked_and_nothing_else_is_forced() -> None:
    torch.manual_seed(0)
    model = fixup()
    assert {"0", "2.a", "2.b", "3.b"} <= set(hs.initialize(model, IMAGES, "auto:zeros=write").changed)
    model = fixup()
    nn.init.orthogonal_(model[0].weight)  # type: ignore[index, arg-type]
    assert hs.initialize(model, IMAGES, hs.Auto(zeros="write")).changed == []


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)
    )


def with_norms(drawn: bool = False) -> nn.Module:
    torch.manual_seed(0)
    convs = [m for a in (3, 16) for m in (nn.Conv2d(a, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())]
    if drawn:  # as DCGAN's authors do
        nn.init.normal_(convs[1].weight, 1, 0.02)  # type: ignore[arg-type]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(256, 4))


@pytest.mark.parametrize(
    ("build", "data", "reason"),
    [(mlp, ROWS, "trained"), (cnn, IMAGES, "trained"), (with_norms, IMAGES, "'1' behind it was trained")],
)
def test_a_network_that_took_one_step_is_trained(build: Callable[[], nn.Module], data: Tensor, reason: str) -> None:
    model = build()
    assert hs.initialize(copy.deepcopy(model), data).changed
    rule = torch.optim.Adam(model.parameters(), 1e-3)
    model(data).square().mean().backward()
    rule.step()
    report = hs.initialize(model, data)
    assert report.changed == []
    assert any(reason in note for row in report.rows for note in row.notes)


def test_factors_of_a_norm_that_its_author_drew_are_no_training() -> None:
    assert hs.initialize(with_norms(drawn=True), IMAGES).changed == ["0"]


@pytest.mark.parametrize(
    ("start", "written"),
    [
        (nn.init.zeros_, True),
        (lambda b: nn.init.normal_(b, 0, 1e-6), True),
        (lambda b: nn.init.normal_(b, 0, 1), False),
        (lambda b: nn.init.uniform_(b, -0.05, 0.05), False),  # a third of the framework's bound
    ],
)
def test_biases_are_an_authors_choice_where_no_usual_start_gives_them(
    start: Callable[[Tensor], Tensor], written: bool
) -> None:
    model = mlp()
    start(model.b.bias)  # type: ignore[arg-type]
    report = hs.initialize(model, ROWS)
    assert report.changed == (["a", "b"] if written else [])
    assert written or any("biases" in note for note in report.row("b").notes)


def test_a_norm_written_out_in_a_forward_is_one() -> None:
    class Inline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
            self.c = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            for conv in (self.a, self.b):
                x = conv(x)
                x = ((x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-5)).relu()
            return self.c(x.mean((2, 3)))

    torch.manual_seed(0)
    report = hs.initialize(Inline(), IMAGES)
    assert report.changed == []
    assert "norms set the scales" in report.row("b").notes[0]


def test_the_head_behind_a_recurrent_module_is_an_output_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.out = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.gru(x)[0][:, -1])

    report = hs.initialize(Net(), STEPS)
    assert report.changed == []
    assert any("an output layer" in note for note in report.row("out").notes)


def test_zeros_of_a_linear_layer_are_drawn_if_they_are_to_be_written() -> None:
    model = mlp()
    nn.init.zeros_(model.b.weight)  # type: ignore[arg-type]
    report = hs.initialize(model, ROWS, "auto:zeros=write")
    assert report.changed == ["a", "b"]
    assert report.row("b").output_std == pytest.approx(1, abs=1e-2)
    nn.init.zeros_(model.b.weight)  # type: ignore[arg-type]
    report = hs.initialize(model, ROWS, "within-layer:fill=keep,zeros=write")
    assert report.changed == ["a"]
    assert any("all zero" in note for note in report.row("b").notes)
    assert not any("lost all variation" in finding and "'b'" in finding for finding in report.findings)


class Gated(nn.Module):
    """A branch behind a factor: of zero (ReZero), of zeros for each channel, or of one."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.factor = nn.Parameter(factor)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.factor * self.b(self.a(x).relu())).relu()


@pytest.mark.parametrize(
    ("factor", "left"), [(torch.zeros(1), True), (torch.zeros(16, 1, 1), True), (torch.ones(1), False)]
)
def test_a_branch_that_begins_closed_is_its_authors_choice(factor: Tensor, left: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), Gated(factor), nn.Flatten(), nn.Linear(16 * 36, 4))
    report = hs.initialize(model, IMAGES)
    assert (report.changed == []) is left
    assert any("begins closed" in note for note in report.row("2.b").notes) is left


def test_a_network_of_scaled_standardized_convolutions_is_left(timm: Any) -> None:
    torch.manual_seed(0)
    report = hs.initialize(timm.create_model("test_nfnet", num_classes=5), torch.randn(16, 3, 32, 32))
    assert report.changed == []
    assert any("its forward changes its weight" in note for row in report.rows for note in row.notes)
