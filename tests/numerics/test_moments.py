"""Moments against numpy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.numerics.moments import ACROSS_SAMPLES, Moments, across_sample_std, channel_moments

shapes = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def reference(array, axis):
    moved = np.moveaxis(np.asarray(array, dtype=np.float64), axis, 0)
    flat = moved.reshape(moved.shape[0], -1)
    return flat.mean(1), flat.var(1)


@given(shape=shapes, data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_moments_are_those_of_numpy_for_any_shape_axis_and_layout(shape, data, seed):
    axis = data.draw(st.integers(0, len(shape) - 1))
    order = data.draw(st.permutations(range(len(shape))))
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 1
    laid_out = values.permute(order).contiguous().permute([order.index(i) for i in range(len(shape))])
    assert torch.equal(values, laid_out)
    mean, var = reference(values.numpy(), axis)
    found = channel_moments(laid_out, axis)
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.var.numpy(), var, rtol=1e-4, atol=1e-5)
    assert found.count == values.numel() // shape[axis]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6])
def test_a_mean_far_above_the_deviation_loses_no_digits(ratio, layout):
    values = torch.randn(16, 5, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = (values + ratio * torch.tensor([1, -1, 0, 0.5, 1.0]).reshape(5, 1, 1)).float()
    mean, var = reference(values.numpy(), 1)  # of the float32 values, so their own rounding does not count
    found = channel_moments(values.contiguous(memory_format=layout), 1)
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.var.numpy(), var, rtol=2e-4)


def test_a_constant_channel_has_variance_zero():
    values = torch.full((7, 3, 5), 0.1)
    values[:, 1] = 1e20
    values[:, 2] = 0
    assert channel_moments(values, 1).var.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_low_precision_is_widened(dtype):
    values = (torch.randn(64, 4, 30, 30, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
    mean, var = reference(values.double().numpy(), 1)
    found = channel_moments(values, 1)
    assert found.mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(found.var.numpy(), var, rtol=1e-5)
    np.testing.assert_allclose(found.mean.numpy(), mean, atol=1e-3)


def test_not_finite_values_show():
    values = torch.randn(4, 3)
    values[0, 1] = float("nan")
    found = channel_moments(values, 1)
    assert torch.isnan(found.var).tolist() == [False, True, False]


@given(
    scale=st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    shift=st.lists(st.floats(-5, 5), min_size=3, max_size=3),
)
def test_affine_gives_the_moments_of_the_mapped_values(scale, shift):
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s, t = (torch.tensor(v, dtype=torch.float64) for v in (scale, shift))
    told, measured = channel_moments(values, 1).affine(s, t), channel_moments(values * s + t, 1)
    torch.testing.assert_close(told.mean, measured.mean)
    torch.testing.assert_close(told.var, measured.var)


def test_totals_are_over_everything():
    values = torch.randn(9, 4, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 2, 3, 4])[:, None]
    found = channel_moments(values, 1)
    assert found.total_mean == pytest.approx(float(values.double().mean()), abs=1e-6)
    assert found.total_std == pytest.approx(float(values.double().std(correction=0)), rel=1e-5)
    assert Moments(torch.zeros(2), torch.zeros(2), 3).total_std == 0


@given(samples=st.integers(2, 80), width=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_across_sample_std_is_that_of_disjoint_pairs(samples, width, seed):
    values = torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))
    pairs = min(ACROSS_SAMPLES, samples) // 2
    array = values.double().numpy()
    expected = np.sqrt(((array[:pairs] - array[pairs : 2 * pairs]) ** 2 / 2).mean())
    assert across_sample_std(values) == pytest.approx(expected, rel=1e-5)


def test_across_sample_std_estimates_the_deviation_between_samples():
    between = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)) * 2
    places = torch.randn(1, 50, generator=torch.Generator().manual_seed(1)) * 30  # alike in all samples
    values = between + places
    assert across_sample_std(values, samples=400) == pytest.approx(float(np.std(between.numpy())), rel=0.1)


def test_across_sample_std_of_equal_samples_is_exactly_zero():
    one = torch.rand(1, 4, 7) * 1e6
    assert across_sample_std(one.expand(10, -1, -1)) == 0.0


def test_across_sample_std_of_one_sample_is_not_known():
    assert np.isnan(across_sample_std(torch.rand(1, 3)))
