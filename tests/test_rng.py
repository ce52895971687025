"""Named streams, and global states that stay."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart import HeadstartError, rng

names = st.lists(st.text(max_size=8), max_size=4)


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@given(seed=st.integers(-(2**70), 2**70), a=names, b=names)
def test_streams_differ_exactly_where_seed_or_names_differ(seed, a, b):
    assert (rng.derive(seed, *a) == rng.derive(seed, *b)) == (a == b)
    assert rng.derive(seed, *a) != rng.derive(seed + 1, *a)
    assert 0 <= rng.derive(seed, *a) < 2**63


def test_derived_seeds_do_not_change_between_versions():
    """Saved seeds must keep their meaning: these numbers may never change."""
    assert rng.derive(0) == 3582888934675442504
    assert rng.derive(1, "conv1", "weight") == 7059406050997475504


def test_a_generator_is_its_own_stream():
    first = torch.rand(4, generator=rng.generator(0, "a"))
    torch.rand(9)
    assert torch.equal(first, torch.rand(4, generator=rng.generator(0, "a")))
    assert not torch.equal(first, torch.rand(4, generator=rng.generator(0, "b")))


@pytest.mark.parametrize("seed", [None, 0, -7, 2**65])
@pytest.mark.parametrize("fails", [False, True])
def test_global_states_come_back(seed, fails):
    before = states()
    try:
        with rng.untouched(seed), rng.untouched():
            torch.rand(3)
            np.random.rand(3)  # noqa: NPY002
            random.random()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert states() == before


def test_inside_the_seed_decides_the_global_streams():
    def draw(seed):
        with rng.untouched(seed):
            return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()  # noqa: NPY002

    first = draw(3)
    torch.rand(5), np.random.rand(5), random.random()  # noqa: NPY002
    assert draw(3) == first
    assert all(a != b for a, b in zip(draw(4), first, strict=True))


def test_seeds_may_be_whole_numbers_of_any_kind_or_generators():
    assert rng.seed_of(5) == rng.seed_of(np.int64(5)) == rng.seed_of(torch.tensor(5)) == 5
    a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert rng.seed_of(a) == rng.seed_of(b)
    assert rng.seed_of(a) != rng.seed_of(torch.Generator().manual_seed(1)), "a generator advances by one draw"


@pytest.mark.parametrize("seed", ["7", 1.5, None, [1]])
def test_other_seeds_are_refused(seed):
    with pytest.raises(HeadstartError, match="whole number"):
        rng.seed_of(seed)
