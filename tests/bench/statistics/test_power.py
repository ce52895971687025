import math

import numpy as np
import pytest

from headstart.bench.statistics.paired import paired_test
from headstart.bench.statistics.power import default_seeds, detectable_effect, least_seeds, seeds_for


@pytest.mark.parametrize(("n", "alpha"), [(6, 0.05), (8, 0.0125), (10, 0.05), (14, 0.025), (30, 0.01)])
def test_the_test_that_is_used_finds_the_effect_with_the_stated_power(n, alpha):
    samples = np.random.default_rng(n).normal(detectable_effect(2.0, n, alpha), 2.0, size=(600, n))
    found = np.mean([paired_test(sample).p <= alpha for sample in samples])
    assert found == pytest.approx(0.8, abs=0.02 + 3 * math.sqrt(0.16 / 600))


def test_a_design_that_cannot_reach_its_level_detects_nothing():
    assert detectable_effect(1.0, 6, 0.025) == detectable_effect(0.0, 5) == detectable_effect(math.inf, 8) == math.inf
    assert detectable_effect(0.0, 8) == 0.0


@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_seeds_for_an_effect_is_the_least_number_that_finds_it(deviation, alpha):
    needed = seeds_for(0.7, deviation, alpha)
    assert detectable_effect(deviation, needed, alpha) <= 0.7 * (1 + 1e-9)
    assert detectable_effect(deviation, needed - 1, alpha) > 0.7


@pytest.mark.parametrize("comparisons", [1, 2, 4, 5, 9])
def test_the_default_number_of_seeds_can_reach_a_verdict_on_every_arm(comparisons):
    seeds = default_seeds(comparisons)
    assert seeds == max(8, least_seeds(0.05 / comparisons))
    assert paired_test([1.0 + i / 10 for i in range(seeds)]).p <= 0.05 / comparisons
