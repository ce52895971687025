"""What the verdicts are worth, simulated through the package's own code: coverage, false verdicts, power, searches.

    python benchmarks/verdicts.py            run what docs/results/statistics.json does not hold yet, write the page
    python benchmarks/verdicts.py --again    run all of it again

About six minutes on one core. Every number has a seed of its own, so that a second run gives the same page.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pages.check import write_page

from headstart.bench import judge
from headstart.bench.runs.selector import Selector
from headstart.bench.statistics.over_tasks import random_effects
from headstart.bench.statistics.paired import flip_interval, holm, paired_test
from headstart.bench.statistics.power import detectable_effect
from headstart.bench.statistics.spending import plan_levels
from headstart.bench.trials.grid import Axis

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
FILE, PAGE = RESULTS / "statistics.json", RESULTS / "statistics.md"
ARMS, SEEDS = 5, 8
RATES = (0.001, 0.003, 0.01, 0.03)

Rng = np.random.Generator

LAWS: dict[str, tuple[float, Callable[[Rng, tuple[int, ...]], np.ndarray]]] = {
    "normal": (0.0, lambda rng, shape: rng.normal(0, 1, shape)),
    "t₃": (0.0, lambda rng, shape: rng.standard_t(3, shape)),
    "exponential": (1.0, lambda rng, shape: rng.exponential(1, shape)),
    "lognormal": (math.exp(0.5), lambda rng, shape: rng.lognormal(0, 1, shape)),
}


def by_seed(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Draw normal runs whose spread differs from seed to seed."""
    return rng.normal(0, 1, shape) * rng.uniform(0.2, 4, shape[-1])


def collapsing(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Draw normal runs of which one in ten collapses."""
    return np.where(rng.random(shape) < 0.1, -80.0, rng.normal(0, 1, shape))


ONE_LAW = {
    "normal": LAWS["normal"][1],
    "normal, another spread for each seed": by_seed,
    "t₃": LAWS["t₃"][1],
    "exponential": LAWS["exponential"][1],
    "normal, one run in ten collapses": collapsing,
}


def coverage(law: str, seeds: int, runs: int) -> dict[str, Any]:
    """How often the 95 % interval of paired differences of a law holds their mean."""
    mean, draw = LAWS[law]
    samples = draw(np.random.default_rng(seeds), (runs, seeds))
    found = [flip_interval(sample) for sample in samples]
    return {
        "law": law,
        "seeds": seeds,
        "runs": runs,
        "covered": float(np.mean([i.low <= mean <= i.high for i in found])),
    }


def table(scores: np.ndarray) -> dict[str, list[Any]]:
    """Write scores, ``(arms, seeds)``, as columns."""
    arms, seeds = scores.shape
    names = [f"arm {i}" for i in range(arms) for _ in range(seeds)]
    return {"arm": names, "seed": list(range(seeds)) * arms, "score": scores.ravel().tolist()}


def verdicts_of(scores: np.ndarray, margin: float = 0.5) -> list[str]:
    """Return the verdicts on all arms but the first."""
    return [c.verdict.value for c in judge(table(scores), margin=margin).comparisons]


def false_verdicts(law: str, runs: int) -> dict[str, Any]:
    """How often any of four arms that do what the baseline does gets a verdict, and collapses are counted right."""
    rng = np.random.default_rng(8)
    wrong = right = 0
    for _ in range(runs):
        scores = 90 + ONE_LAW[law](rng, (ARMS, SEEDS))
        found = judge(table(scores))
        wrong += any(c.verdict.value in ("helps", "hurts") for c in found.comparisons)
        truth = (scores < 50).sum(axis=1)
        counted = [found.comparisons[0].other_collapsed, *(c.collapsed for c in found.comparisons)]
        right += bool((truth == counted).all())
    return {"law": law, "runs": runs, "false": wrong / runs, "counted right": right / runs}


def power(seeds: int, arms: int, runs: int) -> dict[str, Any]:
    """How often an effect is found of which it is said that it is found in 80 %."""
    alpha = 0.05 / arms
    effect = detectable_effect(1.0, seeds, alpha)
    samples = np.random.default_rng(seeds).normal(effect, 1, (runs, seeds))
    found = float(np.mean([paired_test(sample).p <= alpha for sample in samples]))
    return {"seeds": seeds, "arms": arms, "effect": effect, "runs": runs, "found": found}


def no_difference(seeds: int, runs: int) -> dict[str, Any]:
    """How often "no clear difference" is said of an arm that is better by exactly the margin."""
    rng = np.random.default_rng(seeds)
    said = 0
    for _ in range(runs):
        scores = 90 + rng.normal(0, 0.2, (ARMS, seeds))
        scores[1] += 0.5
        said += verdicts_of(scores)[0] == "no clear difference"
    return {"seeds": seeds, "runs": runs, "said": said / runs}


def choose(rng: Rng, apart: float, noise: float) -> float:
    """Let one arm search with one seed, through the real selection; return what its choice is worth."""
    worth = {rate: -apart * abs(place - 2) for place, rate in enumerate(RATES)}
    selector = Selector([{"lr": rate} for rate in RATES], [Axis("lr", RATES)], lambda configuration: True)
    while selector.wanted:
        rates = [wanted.configuration["lr"] for wanted in selector.wanted]
        selector.tell([worth.get(rate, -3 * apart) + rng.normal(0, noise) for rate in rates])
    assert selector.chosen is not None
    return worth.get(selector.chosen["lr"], -3 * apart)


def searched(apart: float, each: bool, runs: int) -> dict[str, Any]:
    """How often identical arms that search for a rate get a verdict: each seed for itself, or once for all seeds."""
    rng = np.random.default_rng(int(100 * apart) + each)
    wrong = 0
    for _ in range(runs):
        chosen = [[choose(rng, apart, 1.5) for _ in range(SEEDS if each else 1)] for _ in range(ARMS)]
        scores = 60 + np.broadcast_to(np.array(chosen), (ARMS, SEEDS)) + rng.normal(0, 1, (ARMS, SEEDS))
        wrong += any(verdict in ("helps", "hurts") for verdict in verdicts_of(scores))
    return {"apart": apart, "each": each, "runs": runs, "false": wrong / runs}


def looks(seeds: list[int], effect: float, planned: bool, runs: int) -> dict[str, Any]:
    """How often four arms get a verdict at any look; those that are better by the effect, or false ones if it is 0."""
    rng = np.random.default_rng(seeds[-1] + int(10 * effect))
    methods = ARMS - 1
    found = np.zeros(methods)
    any_found = 0
    for _ in range(runs):
        differences = rng.normal(effect, 1, (methods, seeds[-1]))
        decided: set[int] = set()
        for place, count in enumerate(seeds):
            left = [i for i in range(methods) if i not in decided]
            p_values = [paired_test(differences[i, :count]).p for i in left]
            level = (
                plan_levels(0.05, [each / seeds[-1] for each in seeds])[place] if planned else 0.05 / (place + 1) ** 2
            )
            decided |= {i for i, p in zip(left, holm(p_values), strict=True) if p <= level}  # what is decided is kept
        any_found += bool(decided)
        found[list(decided)] += 1
    return {
        "seeds": seeds, "effect": effect, "planned": planned, "runs": runs,
        "any": any_found / runs, "each": float(found.mean() / runs),
    }  # fmt: skip


def over(tasks: int, between: float, runs: int) -> dict[str, Any]:
    """How often the interval over tasks holds their mean, and the prediction interval a new task."""
    rng = np.random.default_rng(tasks)
    mean = new = 0
    for _ in range(runs):
        errors = rng.uniform(0.1, 0.6, tasks)
        effects = rng.normal(1, between, tasks + 1)
        found = random_effects(effects[:-1] + rng.normal(0, errors), errors)
        mean += found.interval.low <= 1 <= found.interval.high
        new += found.prediction.low <= effects[-1] <= found.prediction.high
    return {"tasks": tasks, "between": between, "runs": runs, "mean": mean / runs, "new": new / runs}


def plan() -> dict[str, Callable[[], dict[str, Any]]]:
    """Name every simulation."""
    made: dict[str, Callable[[], dict[str, Any]]] = {}
    for law in LAWS:
        for seeds, runs in ((6, 4000), (8, 4000), (12, 2000), (20, 400), (30, 4000)):
            made[f"coverage, {law}, {seeds}"] = lambda law=law, seeds=seeds, runs=runs: coverage(law, seeds, runs)
    for law in ONE_LAW:
        made[f"false, {law}"] = lambda law=law: false_verdicts(law, 2000)
    for seeds, arms in ((6, 1), (8, 2), (8, 4), (12, 4), (20, 4), (30, 4)):
        made[f"power, {seeds}, {arms}"] = lambda s=seeds, a=arms: power(s, a, 600 if s == 20 else 2000)
    for seeds in (8, 16):
        made[f"no difference, {seeds}"] = lambda seeds=seeds: no_difference(seeds, 1000)
    for apart in (0.75, 1.5):
        for each in (False, True):
            made[f"searched, {apart}, {each}"] = lambda apart=apart, each=each: searched(apart, each, 2000)
    for effect in (0.0, 0.8):
        made[f"looks, planned, {effect}"] = lambda effect=effect: looks([9, 11, 14, 16], effect, True, 1500)
    made["looks, by hand, 0"] = lambda: looks([8, 12, 16, 20], 0.0, False, 300)
    for tasks, between in ((5, 0.0), (5, 1.0), (9, 1.0)):
        made[f"over, {tasks}, {between}"] = lambda t=tasks, b=between: over(t, b, 3000)
    return made


def main() -> None:
    """Run what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="run what is there, too")
    args = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    if FILE.exists() and not args.again:
        found = json.loads(FILE.read_text(encoding="utf-8"))
    wanted = plan()
    for name, simulate in wanted.items():
        if name not in found:
            found[name] = simulate()
            print(f"{name}: {found[name]}", flush=True)
            FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    FILE.write_text(json.dumps({name: found[name] for name in wanted}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    write_page(PAGE, RESULTS)


if __name__ == "__main__":
    main()
