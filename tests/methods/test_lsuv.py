"""LSUV against the published loop, run until it stands still, with a full forward pass for every try."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import headstart as hs


def conv_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, 2), nn.Tanh(), nn.Conv2d(6, 4, 1))


def grouped_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, 2, groups=2))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 32), nn.GELU(), nn.Linear(32, 5, bias=False))


class Residual(nn.Module):
    """Two residual blocks with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(4))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in (0, 2):
            inner = self.norms[i](self.convs[i](x)).relu()
            x = (x + self.norms[i + 1](self.convs[i + 1](inner))).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


NETS: dict[str, Callable[[], nn.Module]] = {
    "conv": conv_net,
    "grouped and transposed": grouped_net,
    "mlp": mlp,
    "residual": Residual,
}


def make(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return NETS[kind]().to(dtype).eval(), x.to(dtype)


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))}


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Every layer's output, batch norms by the batch, in execution order."""
    seen: dict[str, Tensor] = {}
    handles = [
        m.register_forward_hook(lambda m, a, out, n=n: seen.update({n: out.clone()}))
        for n, m in layers_of(model).items()
    ]
    twin = copy.deepcopy(model.state_dict())
    model.train()(x)
    model.eval().load_state_dict(twin)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def published_loop(model: nn.Module, x: Tensor, target: float = 1.0) -> None:
    """Divide each layer's weight by its output's deviation until that stands still; biases untouched."""
    layers = layers_of(model)
    for name in list(outputs(model, x)):
        for _ in range(400):
            std = float(outputs(model, x)[name].std(correction=0)) / target
            if abs(std - 1) < 1e-12:
                break
            layers[name].weight.div_(std)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("target", [1.0, 0.6])
def test_the_closed_form_is_the_limit_of_the_published_loop(kind: str, target: float) -> None:
    model, x = make(kind, torch.float64)
    hs.initialize(model, x, hs.LSUV(fill="orthogonal", std=1.0), seed=2)
    reference = make(kind, torch.float64)[0]
    hs.initialize(reference, method="orthogonal", seed=2)
    for name, layer in layers_of(reference).items():  # the same orthonormal weights, the biases of before
        bias = layers_of(make(kind, torch.float64)[0])[name].bias
        if bias is not None:
            with torch.no_grad():
                layer.bias.copy_(bias)  # type: ignore[union-attr, operator, arg-type]
    again = copy.deepcopy(reference)
    hs.initialize(again, x, hs.LSUV(fill="keep", std=target))
    published_loop(reference, x, target)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-6, rtol=1e-6, msg=name)
        if target == 1.0:
            torch.testing.assert_close(model.state_dict()[name], value, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("kind", NETS)
def test_all_layers_have_unit_deviation_after_one_call_and_keep_their_biases(kind: str) -> None:
    model, x = make(kind)
    biases = {n: b.clone() for n, b in model.state_dict().items() if n.endswith("bias")}
    report = hs.initialize(model, x, "lsuv")
    assert sorted(report.changed) == sorted(layers_of(model))
    for name, out in outputs(model, x).items():
        assert float(out.double().std(correction=0)) == pytest.approx(1, abs=1e-4), name
    for name, bias in biases.items():
        assert torch.equal(model.state_dict()[name], bias), name


@pytest.mark.parametrize("kind", ["conv", "grouped and transposed", "mlp"])
def test_weights_stay_orthonormal_up_to_the_factor(kind: str) -> None:
    model, x = make(kind)
    hs.initialize(model, x, "lsuv")
    for layer in layers_of(model).values():
        weight = layer.weight.detach()  # type: ignore[union-attr, operator]
        if isinstance(layer, nn.ConvTranspose2d):
            weight = torch.cat([w.transpose(0, 1) for w in weight.chunk(layer.groups)])
        for block in weight.chunk(getattr(layer, "groups", 1)):
            singular = torch.linalg.svdvals(block.flatten(1))
            assert float(singular.max() / singular.min()) == pytest.approx(1, abs=1e-4)


@given(
    bias=st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4),
    scale=st.floats(0.125, 50, width=32),
    std=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_reaches_the_deviation_or_says_that_the_biases_forbid_it(bias: list[float], scale: float, std: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4).double()
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.copy_(torch.tensor(bias))
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)).double() + 0.5
    before = copy.deepcopy(layer)
    report = hs.initialize(layer, x, hs.LSUV(fill="keep", std=std))
    if report.changed:
        assert float(layer(x).detach().std(correction=0)) == pytest.approx(std, rel=1e-6)
        ratio = (layer.weight / before.weight).detach()
        assert ratio.min() > 0
        torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.mean())))
    else:
        assert float(before.bias.detach().std(correction=0)) >= std * (1 - 1e-9)
        assert any("cannot reach deviation" in f for f in report.findings)
        assert torch.equal(layer.weight, before.weight)
    assert torch.equal(layer.bias, before.bias)


def test_a_large_factor_moves_no_bias() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    bias = layer.bias.detach().clone()
    x = 1e-5 * torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    hs.initialize(layer, x, "lsuv")
    assert torch.equal(layer.bias, bias)
    assert float(layer(x).detach().std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_a_layer_whose_input_lost_all_variation_is_left() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Threshold(1e3, 0.3), nn.Linear(6, 4))
    before = model[2].weight.detach().clone()
    x = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
    report = hs.initialize(model, x, "lsuv:fill=keep")
    assert torch.equal(model[2].weight, before), "scaling it up would only enlarge a constant"
    assert any("constant over the batch" in f for f in report.findings)


def test_options_for_norms_and_outputs() -> None:
    model, x = make("residual")
    report = hs.initialize(model, x, "lsuv:before_norm=skip,output_layer=keep")
    assert report.changed == ["stem"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, x = make("conv", dtype)
    hs.initialize(model, x, "lsuv")
    for out in outputs(model, x).values():
        assert float(out.double().std(correction=0)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    "options", [{"fill": "normal"}, {"std": 0.0}, {"std": math.inf}, {"before_norm": 1}, {"output_layer": "skip"}]
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(hs.HeadstartError, match="lsuv: "):
        hs.LSUV(**options)  # type: ignore[arg-type]
