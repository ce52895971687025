"""Baselines against torch.nn.init and the distributions that their papers give."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import init

import headstart as hs

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(200, 100),
    "conv1d": lambda: nn.Conv1d(20, 60, 7),
    "conv2d": lambda: nn.Conv2d(16, 64, 3),
    "strided": lambda: nn.Conv2d(16, 64, 3, stride=2),
    "grouped": lambda: nn.Conv2d(32, 128, 3, groups=4),
    "depthwise": lambda: nn.Conv2d(256, 512, 5, groups=256),
    "conv3d": lambda: nn.Conv3d(8, 32, 3),
    "transposed": lambda: nn.ConvTranspose2d(32, 24, 4, stride=2),
    "transposed grouped": lambda: nn.ConvTranspose1d(64, 48, 8, stride=4, groups=4),
}
# (fan_in, fan_out): inputs of one output value, outputs of one input value
FANS = {
    "linear": (200, 100),
    "conv1d": (140, 420),
    "conv2d": (144, 576),
    "strided": (144, 576),
    "grouped": (72, 288),
    "depthwise": (25, 50),
    "conv3d": (216, 864),
    "transposed": (32 * 16 / 4, 24 * 16),
    "transposed grouped": (16 * 8 / 4, 12 * 8),
}


def initialized(kind: str, method: hs.Method | str, seed: int = 0) -> nn.Module:
    layer = LAYERS[kind]()
    hs.initialize(layer, method=method, seed=seed)
    return layer


def values(layer: nn.Module) -> np.ndarray:
    return layer.weight.detach().double().flatten().numpy()  # type: ignore[union-attr, operator]


def assert_drawn_from(sample: np.ndarray, distribution: str, std: float) -> None:
    if distribution == "normal":
        law = stats.norm(scale=std)
    else:
        law = stats.uniform(-std * math.sqrt(3), 2 * std * math.sqrt(3))
    assert stats.kstest(sample, law.cdf).pvalue > 1e-3
    assert sample.std() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_variances(kind: str, distribution: str) -> None:
    fan_in, fan_out = FANS[kind]
    for method, std in (
        (hs.Kaiming(distribution), math.sqrt(2 / fan_in)),
        (hs.Kaiming(distribution, mode="fan_out"), math.sqrt(2 / fan_out)),
        (hs.Kaiming(distribution, nonlinearity="tanh"), 5 / 3 / math.sqrt(fan_in)),
        (hs.Xavier(distribution), math.sqrt(2 / (fan_in + fan_out))),
        (hs.Xavier(distribution, gain=2.0), 2 * math.sqrt(2 / (fan_in + fan_out))),
        (hs.LeCun(distribution), 1 / math.sqrt(fan_in)),
    ):
        layer = initialized(kind, method, seed=1)
        assert_drawn_from(values(layer), distribution, std)
        assert not layer.bias.any()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "strided", "conv3d"])
@pytest.mark.parametrize(
    ("method", "reference"),
    [
        (hs.Kaiming(), init.kaiming_normal_),
        (hs.Kaiming("uniform"), init.kaiming_uniform_),
        (hs.Kaiming(mode="fan_out"), lambda w: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu")),
        (hs.Kaiming(nonlinearity="leaky_relu"), lambda w: init.kaiming_normal_(w, a=0.01)),
        (hs.Xavier(), init.xavier_normal_),
        (hs.Xavier("uniform"), init.xavier_uniform_),
    ],
)
def test_the_same_law_as_torch_draws_from(kind: str, method: hs.Method, reference: Callable[[Tensor], Tensor]) -> None:
    layer = initialized(kind, method)
    torch.manual_seed(0)
    other = LAYERS[kind]()
    reference(other.weight.data)  # type: ignore[union-attr, operator, arg-type]
    assert stats.ks_2samp(values(layer), values(other)).pvalue > 1e-3
    assert values(layer).std() == pytest.approx(values(other).std(), rel=0.04)


@pytest.mark.parametrize("kind", LAYERS)
def test_default_has_the_bounds_of_reset_parameters(kind: str) -> None:
    layer = initialized(kind, "default")
    torch.manual_seed(0)
    reference = LAYERS[kind]()
    for name in ("weight", "bias"):
        ours, theirs = (getattr(m, name).detach().double().flatten().numpy() for m in (layer, reference))
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.15 if name == "bias" else 0.01)
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_every_layer_has_a_stream_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    hs.initialize(model, method="kaiming")
    assert not torch.equal(model[0].weight, model[1].weight)
    alone = nn.Sequential(nn.Identity(), nn.Linear(8, 8))
    hs.initialize(alone, method="kaiming")
    assert torch.equal(model[1].weight, alone[1].weight)


def canonical(layer: nn.Module) -> Tensor:
    """(groups, out/groups, in/groups * kernel), by the definition of the layers."""
    weight, groups = layer.weight.detach().double(), getattr(layer, "groups", 1)  # type: ignore[union-attr, operator]
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        blocks = [block.transpose(0, 1) for block in weight.chunk(groups, 0)]
    else:
        blocks = list(weight.chunk(groups, 0))
    return torch.stack([block.flatten(1) for block in blocks])


@pytest.mark.parametrize("kind", [*LAYERS, "wide linear"])
@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_orthogonal_rows_or_columns_in_every_group(kind: str, gain: float) -> None:
    layer = nn.Linear(30, 100) if kind == "wide linear" else LAYERS[kind]()
    hs.initialize(layer, method=hs.Orthogonal(gain=gain))
    for matrix in canonical(layer):
        singular = torch.linalg.svdvals(matrix)
        torch.testing.assert_close(singular, torch.full_like(singular, gain), atol=1e-4, rtol=0)


def test_orthogonal_draws_are_uniform_and_differ_between_groups() -> None:
    layer = nn.Conv1d(400, 800, 1, groups=200)  # 200 matrices of 4 by 2
    hs.initialize(layer, method="orthogonal")
    matrices = canonical(layer).numpy()
    assert len(np.unique(matrices[:, 0, 0].round(5))) == 200
    # An entry of a uniform orthonormal frame in 4 dimensions: x^2 follows Beta(1/2, 3/2).
    assert stats.kstest((matrices[:, 0, 0] ** 2), stats.beta(0.5, 1.5).cdf).pvalue > 1e-3
    assert stats.kstest((matrices[:, 3, 1] ** 2), stats.beta(0.5, 1.5).cdf).pvalue > 1e-3
    assert 0.35 < (matrices[:, 0, 0] > 0).mean() < 0.65, "QR without its sign fixed has one sign only"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_orthogonal_works_in_half_precision_where_torch_raises(dtype: torch.dtype) -> None:
    layer = nn.Linear(64, 32).to(dtype)
    hs.initialize(layer, method="orthogonal")
    gram = layer.weight.detach().float() @ layer.weight.detach().float().T
    assert layer.weight.dtype == dtype
    torch.testing.assert_close(gram, torch.eye(32), atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 4, 5, padding=2),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2),
        nn.Conv2d(6, 6, 3, padding=1, groups=3),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv3d(3, 3, 3, padding=1),
        nn.ConvTranspose2d(5, 5, 3, padding=1),
        nn.ConvTranspose2d(6, 6, 3, padding=1, groups=2),
    ],
    ids=str,
)
def test_dirac_passes_every_channel_through(layer: nn.Module) -> None:
    hs.initialize(layer, method="dirac")
    dims = layer.weight.dim() - 2  # type: ignore[union-attr, operator]
    x = torch.randn(2, layer.in_channels, *[7] * dims)  # type: ignore[arg-type]
    torch.testing.assert_close(layer(x), x)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 4), (4, 8), (8, 8)])
def test_dirac_with_zero_rest_is_torchs(groups: int, inputs: int, outputs: int) -> None:
    ours, theirs = nn.Conv2d(inputs, outputs, 3, groups=groups), nn.Conv2d(inputs, outputs, 3, groups=groups)
    hs.initialize(ours, method="dirac:rest=zero")
    init.dirac_(theirs.weight, groups)
    assert torch.equal(ours.weight, theirs.weight)


def test_dirac_keeps_further_filters_and_leaves_linear_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(5, 3))
    before = [model[0].weight.detach().clone(), model[2].weight.detach().clone()]
    report = hs.initialize(model, method="dirac")
    assert torch.equal(model[0].weight[2:], before[0][2:])
    assert not torch.equal(model[0].weight[:2], before[0][:2])
    assert torch.equal(model[2].weight, before[1])
    assert report.changed == ["0"]
    hs.initialize(model, method=hs.Dirac(linear=True, rest="zero"))
    assert torch.equal(model[2].weight, torch.eye(3, 5))


@pytest.mark.parametrize("dims", [1, 2])
def test_delta_orthogonal_keeps_every_signals_length_through_fifty_layers(dims: int) -> None:
    conv = (nn.Conv1d, nn.Conv2d)[dims - 1]
    widths = [8, 8, 12, *[16] * 48]
    net = nn.Sequential(*(conv(a, b, 3, padding=1) for a, b in pairwise(widths)))
    assert len(net) == 50
    hs.initialize(net, method="delta-orthogonal")
    x = torch.randn(3, 8, *[9] * dims)
    out = net(x)
    torch.testing.assert_close(out.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-3, atol=0)
    plain = nn.Sequential(*(conv(a, b, 3, padding=1) for a, b in pairwise(widths)))
    hs.initialize(plain, method="lecun")
    assert (plain(x).norm() / x.norm() - 1).abs() > 0.1, "what it is better than"


def test_delta_orthogonal_is_zero_off_the_centre() -> None:
    layer = nn.Conv2d(6, 8, (3, 4), groups=2)
    hs.initialize(layer, method=hs.DeltaOrthogonal(gain=2.0))
    weight = layer.weight.detach().clone()
    for block in weight[:, :, 1, 2].chunk(2):
        torch.testing.assert_close(block.T @ block, 4 * torch.eye(3), atol=1e-5, rtol=0)
    weight[:, :, 1, 2] = 0
    assert not weight.any()


def test_zero_and_its_warning() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    report = hs.initialize(model, method="zero", include="1")
    assert not model[1].weight.any()
    assert not model[1].bias.any()
    assert model[0].weight.any()
    assert not any("cannot train" in f for f in report.findings)
    report = hs.initialize(model, method="zero")
    assert any("cannot train" in f for f in report.findings)


@pytest.mark.parametrize("method", ["default", "kaiming", "xavier", "lecun", "orthogonal", "dirac", "delta-orthogonal"])
def test_a_frozen_bias_stays(method: str) -> None:
    layer = nn.Conv2d(3, 8, 3)
    layer.bias.requires_grad_(False)  # type: ignore[union-attr]
    before = layer.bias.detach().clone()  # type: ignore[union-attr]
    hs.initialize(layer, method=method)
    assert torch.equal(layer.bias, before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (hs.Kaiming, {"distribution": "cauchy"}),
        (hs.Kaiming, {"mode": "fan"}),
        (hs.Kaiming, {"nonlinearity": "gelu"}),
        (hs.Xavier, {"distribution": 1}),
        (hs.Dirac, {"rest": "random"}),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    method: Callable[..., hs.Method], options: dict[str, object]
) -> None:
    with pytest.raises(hs.HeadstartError, match="is not known"):
        method(**options)
