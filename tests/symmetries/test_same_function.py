"""Whether two sets of outputs are the same but for rounding."""

import math

import pytest
import torch

from headstart.symmetries.same_function import change

BASE = torch.tensor([1.0, -2.0, 0.5])


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [(torch.float32, 1e-3), (torch.float64, 1e-3), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)],
)
def test_a_difference_counts_from_what_the_format_rounds(dtype, rounding):
    old = BASE.to(dtype)
    for share in (0.5, 2.0):
        new = BASE.double() + torch.tensor([0.0, 0.0, share * rounding * 2])  # of the largest value, which is 2
        found = change([old], [new])
        assert found == (0 if share < 1 else pytest.approx(share * rounding, rel=0.01))


def test_the_coarsest_output_tells_in_what_the_network_computes():
    old, new = [BASE, BASE.bfloat16()], [BASE * 1.02, BASE.bfloat16()]
    assert change(old, new) == 0
    assert change(old[:1], new[:1]) == pytest.approx(0.02, rel=1e-4)


def test_what_was_not_finite_is_not_compared_and_what_no_longer_is_differs():
    old = torch.tensor([1.0, math.nan, math.inf])
    assert change([old], [torch.tensor([1.0, 3.0, 4.0])]) == 0
    assert change([old], [torch.tensor([math.nan, 3.0, 4.0])]) == math.inf
    assert change([torch.full((2,), math.nan)], [BASE[:2]]) == 0


def test_outputs_of_zeros_stay_zeros():
    assert change([torch.zeros(3)], [torch.zeros(3)]) == 0
    assert change([torch.zeros(3)], [BASE * 1e-6]) > 1
