"""Within-layer normalization against a slow plain Algorithm 1: one full forward pass per layer."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs
from headstart import rng
from headstart.measure.layer_patches import mean_patch
from headstart.methods.data_dependent.fills import ITERATIONS, ROUNDS
from headstart.model.weights import Layer
from headstart.numerics.spherical import Directions

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
FILLS = ("gaussian", "orthonormal", "pca", "zca", "kmeans", "patches")


class Block(nn.Module):
    """A residual block, with batch norm or without, registered in another order than it runs."""

    def __init__(self, width: int, norm: bool, stride: int = 1) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(width, width, 1, stride, bias=not norm) if stride > 1 else nn.Identity()
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=not norm)
        self.first = nn.Conv2d(width, width, 3, stride, 1, bias=not norm)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norms[0](self.first(x)).relu_()
        return (self.norms[1](self.second(out)) + self.shortcut(x)).relu_()


def residual(norm: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=not norm),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(inplace=True),
        Block(6, norm),
        Block(6, norm, stride=2),
        Block(6, norm),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


class Tokens(nn.Module):
    """Linear layers on (batch, tokens, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(7, 12), nn.Linear(12, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


def stack(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.LeakyReLU(0.1))][:-1])


IMAGES = (24, 3, 11, 10)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: stack(nn.Linear(9, 16), nn.Linear(16, 8, bias=False), nn.Linear(8, 3)), (64, 9)),
    "plain": (lambda: stack(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, bias=False), nn.Conv2d(6, 4, 1)), IMAGES),
    "strided": (lambda: stack(nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 6, 3, (2, 1), 1, bias=False)), IMAGES),
    "dilated": (lambda: stack(nn.Conv2d(3, 6, 3, dilation=2), nn.Conv2d(6, 6, 3, padding=3, dilation=3)), IMAGES),
    "grouped": (
        lambda: stack(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False)),
        IMAGES,
    ),
    "depthwise": (
        lambda: stack(
            nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.Conv2d(8, 4, 1)
        ),
        IMAGES,
    ),
    "reflect": (
        lambda: stack(
            nn.Conv2d(3, 6, 5, padding=2, padding_mode="reflect"),
            nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular", bias=False),
            nn.Conv2d(6, 6, (3, 5), padding="same", padding_mode="replicate", bias=False),
        ),
        IMAGES,
    ),
    "transposed": (
        lambda: stack(
            nn.Conv2d(3, 6, 3, 2),
            nn.ConvTranspose2d(6, 8, 4, 2, 1, bias=False),
            nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2, dilation=2),
            nn.ConvTranspose2d(6, 6, 3, groups=3, bias=False),
        ),
        IMAGES,
    ),
    "one dimension": (
        lambda: stack(nn.Conv1d(2, 6, 5, padding=2, bias=False), nn.ConvTranspose1d(6, 4, 3, 2), nn.Conv1d(4, 4, 4)),
        (32, 2, 20),
    ),
    "three dimensions": (
        lambda: stack(nn.Conv3d(2, 5, 3, padding=1, bias=False), nn.Conv3d(5, 4, (1, 2, 3), 2)),
        (16, 2, 5, 6, 7),
    ),
    "tokens": (Tokens, (16, 6, 7)),
    "residual": (lambda: residual(norm=False), IMAGES),
    "residual with batch norm": (lambda: residual(norm=True), IMAGES),
}


def make(kind: str) -> tuple[nn.Module, Tensor]:
    build, shape = NETS[kind]
    torch.manual_seed(0)
    return build().eval(), torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 0.4


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, WEIGHT_LAYERS)}


@torch.no_grad()
def observe(model: nn.Module, x: Tensor, training_norms: bool = False) -> dict[str, tuple[Tensor, Tensor]]:
    """Input and output of every weight layer in a forward pass of its own, in execution order."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        m.register_forward_hook(lambda m, a, out, n=n: seen.update({n: (a[0].clone(), out.clone())}))
        for n, m in weight_layers(model).items()
    ]
    twin_state = copy.deepcopy(model.state_dict())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(training_norms)
    model(x)
    model.eval()
    model.load_state_dict(twin_state)
    for handle in handles:
        handle.remove()
    return seen


def per_channel(layer: nn.Module, out: Tensor) -> Tensor:
    """(values, channels) in float64."""
    moved = out if isinstance(layer, nn.Linear) else out.movedim(1, -1)
    return moved.reshape(-1, moved.shape[-1]).double()


def canonical_shape(layer: nn.Module) -> tuple[int, ...]:
    shape = tuple(layer.weight.shape)  # type: ignore[union-attr, arg-type]
    if not isinstance(layer, TRANSPOSED):
        return shape
    return (layer.out_channels, layer.in_channels // layer.groups, *shape[2:])


def store(layer: nn.Module, canonical: Tensor) -> None:
    """Put (out, in/groups, *kernel) where the layer keeps it, group by group."""
    if isinstance(layer, TRANSPOSED):
        blocks = canonical.chunk(layer.groups)
        canonical = torch.cat([block.transpose(0, 1) for block in blocks])
    layer.weight.copy_(canonical)  # type: ignore[union-attr, operator]


def patches_by_definition(layer: nn.Module, value: Tensor) -> np.ndarray:
    """(groups, places, in/groups * kernel): outputs for unit weights, tried one weight at a time."""
    twin = copy.deepcopy(layer).double()
    shape = canonical_shape(layer)
    groups = getattr(layer, "groups", 1)
    columns = []
    if twin.bias is not None:
        nn.init.zeros_(twin.bias)  # type: ignore[arg-type]
    for place in range(math.prod(shape[1:])):
        unit = torch.zeros(shape[0], math.prod(shape[1:]), dtype=torch.float64)
        unit[:, place] = 1
        with torch.no_grad():
            store(twin, unit.reshape(shape))
            seen = per_channel(layer, twin(value.double())).reshape(-1, groups, shape[0] // groups)
        columns.append(seen[:, :, 0].T.numpy())
    return np.stack(columns, 2)


def mean_patch_by_definition(layer: nn.Module, value: Tensor) -> np.ndarray:
    """(groups, in/groups * kernel)."""
    return patches_by_definition(layer, value).mean(1)


def filters_by_definition(fill: str, patches: np.ndarray, count: int, generator: torch.Generator) -> np.ndarray:
    """As many filters of length 1 as there are directions, from all patches of a group."""
    components = PCA(svd_solver="full").fit(patches)
    eigenvalues = components.explained_variance_ * (len(patches) - 1) / len(patches)
    rank = int((eigenvalues > 1e-13 * eigenvalues.sum()).sum())
    found = min(count, rank)
    v = components.components_[:found]
    v = v * np.sign(v[np.arange(found), np.abs(v).argmax(1)])[:, None]
    whiten = v / np.sqrt(eigenvalues[:found, None] + 1e-3 * eigenvalues.sum() / patches.shape[1])
    if fill == "pca":
        return v
    if fill == "zca":
        inputs, rest = [], v.copy()
        for _ in range(found):  # the input that those before tell least about
            inputs.append(int(np.linalg.norm(rest, axis=0).argmax()))
            unit = rest[:, inputs[-1]] / np.linalg.norm(rest[:, inputs[-1]])
            rest -= np.outer(unit, unit @ rest)
        rows = (v.T @ whiten)[sorted(inputs)]
    else:
        points = (patches - patches.mean(0)) @ whiten.T
        length = np.linalg.norm(points, axis=1, keepdims=True)
        seen = length > 1e-4 * math.sqrt(found)  # the mean patch has no direction
        white = Directions(torch.from_numpy(np.where(seen, points / np.where(seen, length, 1), 0)))
        centroids, taken = white.run(white.start(found, generator, ROUNDS), ITERATIONS)
        rows = centroids[taken].numpy() @ whiten
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def orthonormal_by_definition(seed: int, name: str, groups: int, rows: int, columns: int) -> Tensor:
    blocks, generator = [], rng.generator(seed, name, "weight/0")
    for tall in torch.randn(groups, max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64):
        q, r = np.linalg.qr(tall.numpy())
        q = q * np.sign(np.diag(r))
        blocks.append(q if rows >= columns else q.T)
    return torch.from_numpy(np.concatenate(blocks))


@torch.no_grad()
def plain_algorithm(model: nn.Module, x: Tensor, beta: float, seed: int, fill: str = "gaussian") -> None:
    """Fill and normalize one layer after the other, each from a full forward pass."""
    order = list(observe(model, x))
    layers = weight_layers(model)
    for name in order:
        layer = layers[name]
        shape = canonical_shape(layer)
        groups = getattr(layer, "groups", 1)
        value = observe(model, x, training_norms=True)[name][0]
        draw = torch.randn(shape, generator=rng.generator(seed, name, "weight"), dtype=x.dtype)
        if fill == "orthonormal":
            draw = orthonormal_by_definition(seed, name, groups, shape[0] // groups, math.prod(shape[1:])).reshape(
                shape
            )
        elif fill != "gaussian" and (fill != "kmeans" or shape[0] > groups):
            rows = draw.flatten(1) / math.sqrt(math.prod(shape[1:]))
            for g, patches in enumerate(patches_by_definition(layer, value)):
                if layer.bias is None:  # what can be seen without the mean patch
                    mean_of_group = patches.mean(0) / np.linalg.norm(patches.mean(0))
                    patches = patches - np.outer(patches @ mean_of_group, mean_of_group)
                generator = rng.generator(seed, name, f"{fill}/{g}")
                filters = filters_by_definition(fill, patches, shape[0] // groups, generator)
                rows[g * shape[0] // groups :][: len(filters)] = torch.from_numpy(filters)
            draw = rows.reshape(shape)
        if layer.bias is None:
            mean = torch.from_numpy(mean_patch_by_definition(layer, value)).to(x.dtype)
            groups = len(mean)
            flat = draw.reshape(groups, -1, mean.shape[1])
            along = torch.einsum("gof,gf->go", flat, mean) / mean.square().sum(1, keepdim=True)
            draw = (flat - along.unsqueeze(2) * mean.unsqueeze(1)).reshape(shape)
        else:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        store(layer, draw)
        out = per_channel(layer, observe(model, x, training_norms=True)[name][1])
        std, mean_out = out.std(0, correction=0).to(x.dtype), out.mean(0).to(x.dtype)
        store(layer, draw / std.reshape(-1, *[1] * (len(shape) - 1)))
        if layer.bias is not None:
            layer.bias.copy_(beta - mean_out / std)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("kind", NETS)
def test_equals_the_plain_algorithm(kind: str) -> None:
    model, x = make(kind)
    reference = copy.deepcopy(model)
    hs.initialize(model, x, hs.WithinLayer(beta=0.1, before_norm="normalize"), seed=3)
    plain_algorithm(reference, x, 0.1, 3)
    for (name, ours), theirs in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()) + 1e-6, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("kind", "fill"),
    # A fill sees the patches alone: every kind of layer with one fill, every fill with the kinds that shape patches.
    [
        pytest.param(kind, fill, marks=() if fill == "pca" or kind == "grouped" else pytest.mark.slow)
        for kind in NETS
        for fill in ("orthonormal", "pca", "zca", "kmeans")
    ],
)
def test_equals_the_plain_algorithm_with_every_fill(kind: str, fill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From all patches and in double precision, in which rounding decides on no eigenvector and no cluster."""
    monkeypatch.setattr("headstart.methods.data_dependent.fills.ENOUGH", 10_000)
    model, x = make(kind)
    model, x = model.double(), x.double()
    reference = copy.deepcopy(model)
    hs.initialize(model, x, hs.WithinLayer(fill=fill, beta=0.1, before_norm="normalize", patches=100_000), seed=3)
    plain_algorithm(reference, x, 0.1, 3, fill)
    for (name, ours), theirs in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6 * float(theirs.abs().max()), rtol=0, msg=name)


@pytest.mark.parametrize(("fill", "training_norms"), [("gaussian", False), *((fill, True) for fill in FILLS)])
@pytest.mark.parametrize("kind", NETS)
def test_every_channel_has_mean_beta_and_deviation_one(kind: str, fill: str, training_norms: bool) -> None:
    model, x = make(kind)
    report = hs.initialize(model, x, hs.WithinLayer(fill=fill, beta=0.25, before_norm="normalize"))
    layers = weight_layers(model)
    assert sorted(report.changed) == sorted(layers), "all were visited"
    for name, (_, out) in observe(model, x, training_norms).items():
        values = per_channel(layers[name], out)
        beta = 0.0 if layers[name].bias is None else 0.25
        torch.testing.assert_close(values.mean(0), torch.full_like(values[0], beta), atol=1e-3, rtol=0)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones_like(values[0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [k for k in NETS if "batch norm" not in k])
def test_keep_calibrates_the_weights_there_are(kind: str) -> None:
    model, x = make(kind)
    before = {n: m.weight.detach().clone() for n, m in weight_layers(model).items()}  # type: ignore[operator, union-attr]
    hs.initialize(model, x, "within-layer:fill=keep")
    for name, (_, out) in observe(model, x).items():
        layer = weight_layers(model)[name]
        values = per_channel(layer, out)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones_like(values[0]), atol=1e-3, rtol=0)
        if layer.bias is not None:
            torch.testing.assert_close(values.mean(0), torch.zeros_like(values[0]), atol=1e-3, rtol=0)
        if not isinstance(layer, TRANSPOSED):
            cosine = F.cosine_similarity(layer.weight.flatten(1), before[name].flatten(1))  # type: ignore[operator, union-attr]
            torch.testing.assert_close(cosine, torch.ones_like(cosine))


@settings(max_examples=15)
@given(
    factors=st.lists(st.floats(0.01, 100).map(lambda f: round(f, 3)), min_size=3, max_size=3),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_the_scale_that_was_there_before_does_not_matter(factors: list[float], sign: float) -> None:
    model, x = make("plain")
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for layer, factor in zip(weight_layers(scaled).values(), factors, strict=True):
            layer.weight.mul_(factor)  # type: ignore[union-attr, operator]
            if layer.bias is not None:
                layer.bias.mul_(factor)  # type: ignore[union-attr, operator]
        last = list(weight_layers(scaled).values())[-1]
        last.weight.mul_(sign)  # type: ignore[union-attr, operator]
        last.bias.mul_(sign)  # type: ignore[union-attr, operator]
    for net in (model, scaled):
        hs.initialize(net, x, hs.WithinLayer(fill="keep"))
    for name, ours in model.state_dict().items():
        theirs = scaled.state_dict()[name] * (sign if name.startswith("4") else 1)
        torch.testing.assert_close(ours, theirs, atol=2e-4 * float(ours.abs().max()), rtol=0, msg=name)


@pytest.mark.parametrize("kind", [k for k in NETS if k != "residual with batch norm"])
def test_the_mean_patch_is_that_of_the_definition(kind: str) -> None:
    model, x = make(kind)
    for name, (value, _) in observe(model, x).items():
        layer = weight_layers(model)[name]
        ours = mean_patch(Layer(name, layer), value).double().numpy()
        np.testing.assert_allclose(ours, mean_patch_by_definition(layer, value), atol=1e-5)


def test_the_mean_patch_by_slices_of_a_padded_image() -> None:
    """The same once more without any convolution at all."""
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2, bias=False)
    x = torch.rand(5, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = [
        padded[b, :, i : i + 5 : 2, j : j + 5 : 2].reshape(-1)
        for b, i, j in itertools.product(range(5), range(0, 11 - 4, 2), range(0, 10 - 4, 2))
    ]
    np.testing.assert_allclose(mean_patch(Layer("", conv), x)[0].numpy(), np.mean(patches, 0), atol=1e-6)


def test_without_centring_a_bias_free_layer_keeps_its_mean_and_says_so() -> None:
    model, x = make("plain")
    report = hs.initialize(model, x, hs.WithinLayer(center=False))
    values = per_channel(model[2], observe(model, x)["2"][1])  # type: ignore[index]
    assert values.mean(0).abs().max() > 1e-2
    torch.testing.assert_close(values.std(0, correction=0), torch.ones_like(values[0]), atol=1e-3, rtol=0)
    assert any("no bias to shift" in note for note in report.row("2").notes)


def test_the_preset_is_the_authors_command_line() -> None:
    model, x = make("residual with batch norm")
    hs.initialize(model, x, "within-layer:paper")
    values = per_channel(model[8], observe(model, x, training_norms=True)["8"][1])  # type: ignore[index]
    torch.testing.assert_close(values.mean(0), torch.full_like(values[0], 0.1), atol=1e-3, rtol=0)
    assert hs.WithinLayer.paper() == hs.WithinLayer(beta=0.1, before_norm="normalize", center=False, patches=100_000)


def test_per_layer_is_one_number_for_all_channels() -> None:
    model, x = make("plain")
    reference = copy.deepcopy(model)
    hs.initialize(model, x, "within-layer:fill=keep,per=layer")
    first, before = model[0], reference[0]  # type: ignore[index]
    ratio = first.weight / before.weight
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.detach().mean())))
    values = per_channel(first, observe(model, x)["0"][1])
    assert values.var(0, correction=0).mean().item() == pytest.approx(1, abs=1e-3)
    assert values.std(0, correction=0).max() > 1.05
    torch.testing.assert_close(values.mean(0), torch.zeros_like(values[0]), atol=1e-3, rtol=0)


def test_layers_before_a_normalization_and_output_layers_are_left_on_request() -> None:
    model, x = make("residual with batch norm")
    before = copy.deepcopy(model.state_dict())
    report = hs.initialize(model, x, "within-layer")
    assert report.changed == ["4.shortcut", "8"], "what no batch norm takes"
    assert any("7 layers that a normalization follows were left" in f for f in report.findings)
    model.load_state_dict(before)
    assert hs.initialize(model, x, "within-layer:output_layer=keep").changed == ["4.shortcut"]


def test_dead_channels_get_the_layers_deviation_and_a_finding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, groups=2))
    with torch.no_grad():
        model[0].weight[1:2] = 0
        model[0].bias[1] = 0.7  # type: ignore[index]
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = model[0].weight.detach().clone()
    report = hs.initialize(model, x, hs.WithinLayer(fill="keep", beta=0.2))
    assert any("1 channels of '0' are constant" in f for f in report.findings)
    out = per_channel(model[0], observe(model, x)["0"][1])
    torch.testing.assert_close(out.mean(0), torch.full_like(out[0], 0.2), atol=1e-3, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.tensor([1.0, 0, 1, 1]).double(), atol=1e-3, rtol=0)
    assert torch.equal(model[0].weight[1], kept[1])
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_dead_group_of_a_drawn_layer_keeps_its_gaussian() -> None:
    conv = nn.Conv2d(2, 4, 3, groups=2)
    x = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 0
    report = hs.initialize(conv, x, "within-layer", seed=1)
    draw = torch.randn(4, 1, 3, 3, generator=rng.generator(1, "", "weight")) / 3
    ratio = (conv.weight.detach() / draw)[2:]
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.mean())))
    layer_std = F.conv2d(x[:, :1], draw[:2]).var((0, 2, 3), correction=0).sum().div(4).sqrt()
    assert ratio.mean().item() == pytest.approx(1 / layer_std.item(), rel=1e-3)
    assert "2 constant channels, scaled by the layer's deviation" in report.row("").notes


def test_a_layer_whose_input_lost_all_variation_is_left() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Threshold(1e3, 0.3), nn.Linear(6, 4))
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
    report = hs.initialize(model, x, "within-layer:fill=keep")
    assert torch.equal(model[2].weight, before["2.weight"])
    assert report.row("2").action == "skipped"
    assert any("constant over the batch" in f for f in report.findings)


def test_a_frozen_bias_stays_bit_for_bit() -> None:
    model, x = make("plain")
    model[0].bias.requires_grad_(False)  # type: ignore[index]
    bias = model[0].bias.detach().clone()  # type: ignore[index]
    hs.initialize(model, x * 1e-3, "within-layer:fill=keep")
    assert torch.equal(model[0].bias, bias)  # type: ignore[index]
    values = per_channel(model[0], observe(model, x * 1e-3)["0"][1])  # type: ignore[index]
    torch.testing.assert_close(values.std(0, correction=0), torch.ones_like(values[0]), atol=1e-3, rtol=0)


def test_layers_behind_fresh_batch_norms_are_fitted_to_what_training_shows_them() -> None:
    torch.manual_seed(0)
    blocks = [m for _ in range(8) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4 * 64, 6))
    x = torch.randn(32, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    state = {k: v.clone() for k, v in model.state_dict().items() if "running" in k or "tracked" in k}
    hs.initialize(model, x, "within-layer:fill=keep")
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    out = model.train()(x)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("batches", "momentum", "trained"),
    [(0, 0.1, False), (1, 0.1, False), (21, 0.1, False), (22, 0.1, True), (1, 0.95, True), (1, None, True)],
)
def test_trained_batch_norms_act_by_their_own_statistics(batches: int, momentum: float | None, trained: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 6))
    x = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(batches):
            model(3 * x)  # training statistics of another scale
    hs.initialize(model, x, "within-layer:fill=keep")
    deviation = model.train(not trained)(x).std(0, correction=0)
    torch.testing.assert_close(deviation, torch.ones(6), atol=1e-3, rtol=0)
    assert (model.train(trained)(x).std(0, correction=0) - 1).abs().max() > 0.05, "the two modes differ"


def test_statistics_of_a_checkpoint_without_a_count_are_trained_ones() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(4, 4), norm, nn.ReLU(), nn.Linear(4, 6))
    norm.running_var.fill_(0.2)  # type: ignore[union-attr]
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    hs.initialize(model, x, "within-layer:fill=keep")
    torch.testing.assert_close(model.eval()(x).std(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype, fill: str) -> None:
    model, x = make("plain")
    model.to(dtype)
    hs.initialize(model, x.to(dtype), hs.WithinLayer(fill=fill, beta=0.1))
    tolerance = 1e-9 if dtype == torch.float64 else 0.05
    for name, (_, out) in observe(model, x.to(dtype)).items():
        values = per_channel(weight_layers(model)[name], out)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones_like(values[0]), atol=tolerance, rtol=0)


def test_too_few_values_for_statistics_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(hs.DataError, match=r"7 values per channel .* at least 8"):
        hs.initialize(model, torch.randn(7, 4), "within-layer")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        {"fill": "sparse"},
        {"patches": 1},
        {"eps": -1e-3},
        {"memory_limit": 0},
        {"per": "filter"},
        {"before_norm": "keep"},
        {"output_layer": "skip"},
        {"beta": math.inf},
        {"beta": "0.1"},
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(hs.HeadstartError, match="within-layer: "):
        hs.WithinLayer(**options)  # type: ignore[arg-type]


def test_the_first_layers_alone_are_written():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    before = [p.clone() for p in net[4].parameters()]
    report = hs.initialize(net, torch.randn(64, 12), hs.WithinLayer(layers=2))
    assert list(report.changed) == ["0", "2"]
    assert all(torch.equal(a, b) for a, b in zip(before, net[4].parameters(), strict=True))
    assert hs.WithinLayer(layers=2).key() != hs.WithinLayer().key()


def test_layers_are_chosen_by_within_layer_alone():
    with pytest.raises(hs.HeadstartError, match=r"layers=1 is not possible.*within-layer:layers=N\+balance"):
        hs.DataDependent(layers=1)
