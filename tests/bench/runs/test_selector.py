import numpy as np
import pytest
from scipy import stats

from headstart.bench import judge
from headstart.bench.runs.selector import WIDENINGS, Selector, beyond, rounds
from headstart.bench.trials.grid import Axis

RATES = (0.001, 0.003, 0.01, 0.03)


def follow(accuracy, rates=RATES, allowed=lambda configuration: True):
    made = Selector([{"lr": rate} for rate in rates], [Axis("lr", rates)], allowed)
    while made.wanted:
        made.tell([accuracy(wanted.configuration["lr"], wanted.share) for wanted in made.wanted])
    return made


def test_a_best_within_the_grid_is_taken_and_nothing_beyond_is_tried():
    found = follow(lambda rate, share: -abs(np.log(rate / 0.01)))
    assert (found.chosen, found.stopped) == ({"lr": 0.01}, ())
    assert [(share, len([t for t in found.tried if t[1] == share])) for share in (0.25, 1.0)] == [(0.25, 4), (1.0, 2)]


def test_a_best_at_the_edge_is_followed_beyond_it():
    found = follow(lambda rate, share: -abs(np.log(rate / 0.09)))
    assert (found.chosen, found.stopped) == ({"lr": 0.09}, ())


def test_a_limit_stops_it():
    found = follow(lambda rate, share: rate)
    assert found.chosen["lr"] == pytest.approx(0.03 * 3**WIDENINGS)
    assert found.stopped == ("lr",)
    other = follow(lambda rate, share: rate, allowed=lambda configuration: configuration["lr"] < 0.05)
    assert (other.chosen, other.stopped) == ({"lr": 0.03}, ("lr",))


def test_what_refuses_chooses_nothing():
    assert follow(lambda rate, share: None).chosen is None


def test_words_and_switches_have_no_edge():
    assert beyond("match", ["match", "paper"]) is None
    assert beyond(True, [True, False]) is None


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 27])
def test_rounds_halve_down_to_two_in_full(count):
    found = rounds(count)
    assert found[0][0] == count
    assert found[-1] == (min(count, 2), 1.0)
    assert sum(kept * share for kept, share in found) <= max(2.0, count * 0.75 + 1)


def test_identical_arms_that_search_for_themselves_seldom_get_a_verdict():
    """Rates 1.5 points apart: with one choice for all seeds one experiment in five had a false verdict."""
    rng = np.random.default_rng(0)
    experiments, wrong = 120, 0
    loss = dict(zip(RATES, (-3.0, -1.5, 0.0, -1.5), strict=True))
    for _ in range(experiments):
        rows = []
        for arm in "abcde":
            for seed in range(8):
                found = follow(lambda rate, share: 60 + loss.get(rate, -4.5) + rng.normal(0, 1.5))
                score = 60 + loss.get(found.chosen["lr"], -4.5) + rng.normal(0, 1.0)
                rows.append({"arm": arm, "seed": seed, "score": score})
        wrong += any(c.verdict.value in ("helps", "hurts") for c in judge(rows).comparisons)
    assert wrong <= stats.binom.ppf(0.999, experiments, 0.05)
