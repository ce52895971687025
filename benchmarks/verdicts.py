"""What the verdicts are worth, simulated through the package's own code: coverage, false verdicts, power, searches.

    python benchmarks/verdicts.py            run what docs/results/statistics.json does not hold yet, write the page
    python benchmarks/verdicts.py --again    run all of it again

About six minutes on one core. Every number has a seed of its own, so that a second run gives the same page.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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


def percent(value: float, digits: int = 1) -> str:
    """Write a share."""
    return f"{100 * value:.{digits}f} %"


def lines(columns: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    head = f"| {' | '.join(columns)} |\n|---{'|--:' * (len(columns) - 1)}|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def page(found: dict[str, dict[str, Any]]) -> str:
    """Write the page."""

    def of(prefix: str) -> list[dict[str, Any]]:
        return [row for name, row in found.items() if name.startswith(prefix + ",")]

    seeds = sorted({row["seeds"] for row in of("coverage")})
    cover = [
        [
            law,
            *(percent(next(r["covered"] for r in of("coverage") if (r["law"], r["seeds"]) == (law, n))) for n in seeds),
        ]
        for law in LAWS
    ]
    false = [[r["law"], percent(r["false"]), percent(r["counted right"])] for r in of("false")]
    powers = [[str(r["seeds"]), str(r["arms"]), f"{r['effect']:.2f}", percent(r["found"], 0)] for r in of("power")]
    equal = [[str(r["seeds"]), percent(r["said"])] for r in of("no difference")]
    search = [
        [f"{r['apart']} points", "each seed for itself" if r["each"] else "once for all seeds", percent(r["false"])]
        for r in of("searched")
    ]
    seen = [
        [", ".join(map(str, r["seeds"])), "planned" if r["planned"] else "added by hand", f"{r['effect']:g}",
         percent(r["any"]), percent(r["each"], 0)]
        for r in of("looks")
    ]  # fmt: skip
    whole = [[str(r["tasks"]), f"{r['between']:g}", percent(r["mean"]), percent(r["new"])] for r in of("over")]
    return TEXT.format(
        coverage=lines(["law of the differences", *(f"{n} seeds" for n in seeds)], cover),
        false=lines(["law of arm and baseline", "experiments with a false verdict", "collapses counted right"], false),
        power=lines(["seeds", "arms", "effect, deviations", "found"], powers),
        equal=lines(["seeds", "“no clear difference” at the margin"], equal),
        search=lines(["rates apart", "searched", "experiments with a false verdict"], search),
        looks=lines(["looks, seeds", "how", "effect, deviations", "any verdict", "found, each arm"], seen),
        over=lines(["tasks", "deviation between tasks", "mean covered", "new task covered"], whole),
        machine=f"Python {platform.python_version()}, numpy {np.__version__}",
    )


TEXT = """\
# What the verdicts are worth

Every number here is simulated through the code that judges your results. The noise is made up, so the truth is
known.

```sh
python benchmarks/verdicts.py            # what is not in statistics.json yet, then this page
python benchmarks/verdicts.py --again    # all of it
```

Made with {machine}. A share from 2,000 experiments is known to about ±1 point, one from 300 to about ±2.5.

## False verdicts

Four arms do exactly what the baseline does, with eight seeds. At most 5 % of experiments may call any of them
better or worse. Runs that collapse (here by 80 points) must be counted as such.

{false}
The test asks whether gains and losses are symmetric about zero. Two arms of one law always are, whatever the law.
Arms whose means agree but whose laws differ, one skewed and the other not, are not: there the rate can be higher.

## Intervals

How often the 95 % interval of a mean difference holds the true one. Differences of one law minus itself are
symmetric; the skewed laws here are the bad case, where the difference itself is skewed.

{coverage}
## Power

“Found in 80 %” is checked against the test that is used: the exact sign-flip test, at the level that Holm leaves.

{power}
An arm that is better by exactly the margin (0.5 points; runs scatter by 0.2) must seldom be called “no clear
difference”:

{equal}
## Searches

Five identical arms choose their learning rate among four by validation. Neighbouring rates differ by the points
given; one validation accuracy scatters by 1.5 points, one test accuracy by 1. What is compared is one search
together with its trial. The choice goes through the real code: halving, and widening at the edge.

{search}
“Once for all seeds” is how it was done before: the same luck of the choice was in all seeds, and in no interval.

## Looks

`--until decided` looks several times. Its levels follow O'Brien and Fleming's spending, and what was decided stays
decided. Seeds that are added by hand, one run after the other, are recorded; the k-th look then tests at a level k²
times smaller. With four arms that keeps 5 % here. With one arm the first look alone spends nearly all of it, so such a
chain may exceed it a little: plan the looks if you can.

{looks}
## Over tasks

From five tasks on, the mean over tasks has an interval (Hartung and Knapp, factor at least 1) and a prediction
interval for a new task. Both should hold the truth in 95 %.

{over}
"""


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
    PAGE.write_text(page({name: found[name] for name in wanted}), encoding="utf-8")


if __name__ == "__main__":
    main()
