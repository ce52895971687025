"""Patches of any layer: against the layer's own output, and against loops over pixels that share nothing with torch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from headstart.measure.layer_patches import LayerPatches, mean_patch
from headstart.model.weights import Layer, read

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MODES = ("zeros", "reflect", "replicate", "circular")


def every_patch(patches: LayerPatches) -> Tensor:
    """(groups, places, dimensions)."""
    places = np.arange(len(patches))
    return torch.stack([patches.take(places, g) for g in range(patches.layer.groups)])


def check(module: nn.Module, x: Tensor) -> None:
    """Hold the patches to their definition: the layer's output is their product with the filters."""
    layer = Layer("", module)
    with torch.no_grad(), warnings.catch_warnings():  # torch remarks on `same` for even kernels, whoever calls it
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")
        out = module(x)
    patches = LayerPatches(layer, x)
    filters = read(layer).flatten(1).unflatten(0, (layer.groups, -1))
    ours = torch.einsum("gpd,god->pgo", every_patch(patches), filters).flatten(1)
    if module.bias is not None:
        ours += module.bias.detach()
    theirs = out.movedim(layer.channel_axis(out), -1).reshape(-1, layer.out_channels)
    assert ours.shape == theirs.shape, "as many places"
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    torch.testing.assert_close(mean_patch(layer, x), every_patch(patches).mean(1), atol=1e-10, rtol=0)


def numbers(dims: int, least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(least, most)] * dims)


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return {
        "dims": dims,
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel_size": draw(numbers(dims, 1, 4)),
        "dilation": draw(numbers(dims, 1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
        "space": draw(numbers(dims, 7, 9)),
        "batch": draw(st.integers(0, 3)),  # 0: one sample without a batch axis
    }


def build(classes: dict[int, type[nn.Module]], geometry: dict[str, Any], **options: Any) -> tuple[nn.Module, Tensor]:
    own = {k: v for k, v in geometry.items() if k not in ("dims", "space", "batch")}
    module = classes[geometry["dims"]](**own, **options, dtype=torch.float64)
    batch = (geometry["batch"],) if geometry["batch"] else ()
    x = torch.rand(*batch, geometry["in_channels"], *geometry["space"], dtype=torch.float64) + 0.5
    return module, x


@settings(max_examples=150, deadline=None)
@given(geometry=geometries(), mode=st.sampled_from(MODES), data=st.data())
def test_a_convolution_is_the_product_of_patches_and_filters(
    geometry: dict[str, Any], mode: str, data: st.DataObject
) -> None:
    dims = geometry["dims"]
    padding = data.draw(st.one_of(st.sampled_from(["same", "valid"]), numbers(dims, 0, 3)))
    stride = (1,) * dims if padding == "same" else data.draw(numbers(dims, 1, 3))
    check(*build(CONVS, geometry, stride=stride, padding=padding, padding_mode=mode))


@settings(max_examples=100, deadline=None)
@given(geometry=geometries(), data=st.data())
def test_a_transposed_convolution_is_the_product_of_patches_and_filters(
    geometry: dict[str, Any], data: st.DataObject
) -> None:
    dims = geometry["dims"]
    stride = data.draw(numbers(dims, 1, 3))
    largest = [max(s, d) - 1 for s, d in zip(stride, geometry["dilation"], strict=True)]
    extra = tuple(data.draw(st.integers(0, most)) for most in largest)
    padding = data.draw(numbers(dims, 0, 2))
    check(*build(TRANSPOSED, geometry, stride=stride, padding=padding, output_padding=extra))


@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 4, 5), (2, 3, 2, 5)])
def test_a_linear_layer_sees_the_rows_of_its_input(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, dtype=torch.float64)
    check(nn.Linear(5, 3, dtype=torch.float64), x)
    places = np.arange(x.numel() // 5)
    assert torch.equal(LayerPatches(Layer("", nn.Linear(5, 3)), x).take(places), x.reshape(-1, 5))


def test_channels_last_and_strided_inputs() -> None:
    conv = nn.Conv2d(4, 6, 3, 2, 1, groups=2, dtype=torch.float64)
    x = torch.rand(3, 4, 8, 9, dtype=torch.float64)
    check(conv, x.contiguous(memory_format=torch.channels_last))
    check(conv, x[:, :, ::2, 1:])
    check(conv, x[:1].expand(5, -1, -1, -1))


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 3, 2), (3, 2, 2)])
def test_windows_of_a_padded_image_pixel_by_pixel(stride: int, padding: int, dilation: int) -> None:
    x = np.random.default_rng(0).random((2, 3, 6, 7))
    reach = 2 * dilation + 1
    rows, columns = ((s + 2 * padding - reach) // stride + 1 for s in x.shape[2:])
    expected = np.zeros((2, rows, columns, 3, 3, 3))
    for b, i, j, c, u, v in np.ndindex(*expected.shape):
        row, column = i * stride - padding + u * dilation, j * stride - padding + v * dilation
        if 0 <= row < 6 and 0 <= column < 7:
            expected[b, i, j, c, u, v] = x[b, c, row, column]
    layer = Layer("", nn.Conv2d(3, 4, 3, stride, padding, dilation))
    ours = every_patch(LayerPatches(layer, torch.from_numpy(x)))[0]
    np.testing.assert_array_equal(ours.numpy(), expected.reshape(-1, 27))


def test_inputs_that_reach_each_output_of_a_transposed_convolution() -> None:
    x = np.random.default_rng(0).random((2, 3, 4, 5))
    layer = Layer("", nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1))
    expected = np.zeros((2, 8, 10, 3, 3, 3))
    for b, c, i, j, u, v in np.ndindex(2, 3, 4, 5, 3, 3):
        row, column = 2 * i - 1 + u, 2 * j - 1 + v  # where tap (u, v) carries input (i, j)
        if 0 <= row < 8 and 0 <= column < 10:
            expected[b, row, column, c, u, v] = x[b, c, i, j]
    ours = every_patch(LayerPatches(layer, torch.from_numpy(x)))[0]
    np.testing.assert_array_equal(ours.numpy(), expected.reshape(-1, 27))


def test_half_precision_is_widened() -> None:
    layer = Layer("", nn.Conv2d(1, 4, 3, padding=1))
    x = torch.rand(2, 1, 6, 6).bfloat16()
    assert LayerPatches(layer, x).take(np.arange(9)).dtype == torch.float32
    assert mean_patch(layer, x).dtype == torch.float32


def test_places_are_spread_evenly_at_random() -> None:
    patches = LayerPatches(Layer("", nn.Conv2d(1, 1, 3)), torch.zeros(10, 1, 12, 12))
    places = patches.spread(300, torch.Generator().manual_seed(0))
    assert np.array_equal(places, np.sort(places))
    assert len(places) == 300
    stretches = 1000 / 300 * np.arange(301)
    assert ((places >= np.floor(stretches[:-1])) & (places <= stretches[1:])).all(), "one from each of 300 stretches"
    assert (np.bincount(places // 100, minlength=10) == 30).all(), "every sample gives its share"
    counts = np.zeros(100)
    for seed in range(100):
        drawn = patches.spread(300, torch.Generator().manual_seed(seed))
        counts += np.bincount(drawn % 100, minlength=100)
    assert stats.chisquare(counts).pvalue > 1e-3, "and every place of a sample is as likely as the others"
    again = patches.spread(300, torch.Generator().manual_seed(0))
    assert np.array_equal(places, again)
    assert not np.array_equal(places, patches.spread(300, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("count", [1000, 5000])
def test_no_more_places_than_there_are(count: int) -> None:
    patches = LayerPatches(Layer("", nn.Conv2d(1, 1, 3)), torch.zeros(10, 1, 12, 12))
    assert np.array_equal(patches.spread(count, torch.Generator()), np.arange(1000))


def test_only_what_is_asked_for_is_gathered() -> None:
    """Windows of this batch would take 40 terabytes."""
    x = torch.rand(1, 1, 1000, 1000).expand(100_000, 10, -1, -1)
    patches = LayerPatches(Layer("", nn.Conv2d(10, 4, 3)), x)
    assert len(patches) == 100_000 * 998**2
    taken = patches.take(patches.spread(50, torch.Generator().manual_seed(0)))
    assert taken.shape == (50, 90)
    assert torch.equal(taken[:, :9], taken[:, 9:18])


def test_blocks_cover_all_places_in_order() -> None:
    patches = LayerPatches(Layer("", nn.Conv2d(64, 4, 7)), torch.zeros(4, 64, 32, 32))
    places = np.arange(len(patches))
    blocks = patches.blocks(places)
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks), places)
    assert max(map(len, blocks)) * 64 * 49 <= 2**20
