"""Development, on the development side alone: rates, lengths, and rounds that halve the candidates of each kind.

What the committed tables hold counts as run, so that another machine goes on where one stopped.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import fmean, median

from evidence import cells, data
from evidence.cells import CANDIDATES, CORE, DRAWN, MEASURED, NETWORKS, RATES, Cell
from evidence.running import Machine, compared
from headstart.bench import Experiment, Store
from headstart.bench.store import export
from headstart.bench.trials.arms import Arm
from headstart.errors import HeadstartError

RESULTS = Path("docs/results")
LENGTHS_FILE, ROUNDS_FILE = "development-lengths.csv", "development.csv"
LENGTHS = (10, 20, 40, 80, 160, 320)
ENOUGH = 0.5
"""Points that twice the epochs have to bring, or the shorter training has reached its plateau."""
MEASURE_SEEDS = 3
WIDER = 3  # rates beyond the grid at most
LENGTH_COLUMNS = ("cell", "rate", "epochs", "seed", "accuracy")
COLUMNS = ("round", "cell", "arm", "spec", "seed", "status", "rate", "steps", "test_accuracy", "validation_accuracy")
COLUMNS += ("init_seconds", "step_seconds")


@dataclass(frozen=True)
class Round:
    """A round of development.

    Args:
        name: Its number.
        cells: What it runs on.
        seeds: Trials of each candidate on each cell.
        searched: Whether each candidate searches for its rate; else all train at the default's best.
    """

    name: str
    cells: Sequence[Cell]
    seeds: int
    searched: bool


ROUNDS: Sequence[Round] = (
    Round("1", CORE, 3, False),
    Round("2", tuple(replace(cell, images=2000) for cell in CORE), 6, True),
    Round("3", (*CORE, *(replace(cell, images=5000) for cell in CORE)), 12, True),
)


@dataclass(frozen=True)
class Place:
    """Where development reads and writes.

    Args:
        root: The folder that data sets lie in.
        folder: Of the packs and the trials.
        machine: Where trials run.
        results: Of the tables that were committed.
    """

    root: Path
    folder: Path
    machine: Machine
    results: Path = RESULTS

    def experiment(self, cell: Cell, arms: Sequence[Arm], seeds: int, **changes: float) -> Experiment:
        """Describe a comparison on the cell's development data."""
        task = data.task(data.DEVELOPMENT, cell.data, cell.images, self.root, self.folder / "data")
        augment = data.SIDES[data.DEVELOPMENT][cell.data].augment
        training = replace(cell.training(augment, self.machine.device), **changes)
        return cells.experiment(cell, task, arms, range(DRAWN, DRAWN + seeds), training)

    def store(self, *names: str) -> Store:
        """Return the store of a comparison."""
        return Store(self.folder.joinpath("development", *names))


def measure(cell: Cell, place: Place) -> None:
    """Find the default start's best rate and its plateau on a cell, and note both.

    Rates are compared at half of the usual length, on validation; beyond the edge of the grid, too, if the best lies
    there. Then the length is doubled until twice the epochs
    bring less than `ENOUGH` points; the shorter of the two is the plateau.
    """
    found: dict[float, float] = {}
    while wanted := rates_left(found, RATES[cell.optimizer]):
        arms = [Arm(f"default at {rate:g}", changes=(("lr", rate),)) for rate in wanted]
        means = _accuracies(place, cell, f"rates-{len(found)}", arms, cells.EPOCHS[cell.images] / 2)
        found |= {rate: means[f"default at {rate:g}"] for rate in wanted}
    rate = max(found, key=lambda each: found[each])
    reached: dict[float, float] = {}
    while plateau(reached) is None:
        epochs = LENGTHS[len(reached)]
        arm = Arm("default", changes=(("lr", rate),))
        reached[epochs] = _accuracies(place, cell, f"{epochs}-epochs", [arm], float(epochs))["default"]
    known = cells.measured()
    known[cell.name] = {"rate": rate, "epochs": plateau(reached)}
    MEASURED.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def rates_left(found: Mapping[float, float], grid: Sequence[float]) -> list[float]:
    """Return the rates to try next: the grid, then the one beyond its edge as long as the best lies there.

    Args:
        found: Accuracy by rate, of those that were tried.
        grid: Rates, rising.

    Example:
        >>> grid = (0.1, 0.2)
        >>> rates_left({}, grid), rates_left({0.1: 5, 0.2: 6}, grid), rates_left({0.1: 1, 0.2: 2, 0.4: 1}, grid)
        ([0.1, 0.2], [0.4], [])
    """
    if not found:
        return list(grid)
    best, tried = max(found, key=lambda each: found[each]), sorted(found)
    if len(tried) >= len(grid) + WIDER or tried[0] < best < tried[-1]:
        return []
    ratio = grid[-1] / grid[-2] if best == tried[-1] else grid[0] / grid[1]
    return [float(f"{best * ratio:.2g}")]


def plateau(reached: Mapping[float, float]) -> float | None:
    """Return the shortest length that twice the epochs do not improve on; the longest if there is none.

    Args:
        reached: Accuracy by epochs, as far as it was measured.

    Returns:
        The epochs; None if longer trainings have to tell.

    Example:
        >>> plateau({10: 50.0, 20: 52.0, 40: 52.4}), plateau({10: 50.0, 20: 52.0})
        (20, None)
    """
    for epochs in sorted(reached):
        if 2 * epochs in reached and reached[2 * epochs] - reached[epochs] < ENOUGH:
            return epochs
    return LENGTHS[-1] if LENGTHS[-1] in reached else None


def _accuracies(place: Place, cell: Cell, name: str, arms: Sequence[Arm], epochs: float) -> dict[str, float]:
    """Return each arm's mean validation accuracy."""
    store = place.store("lengths", cell.name, name)
    what = place.experiment(cell, arms, MEASURE_SEEDS, epochs=epochs)
    compared(f"{cell.name}, {name}", replace(what, test=False), store, place.machine)
    rows = export.trials(store)
    return means(rows, [arm.label for arm in arms], f"{cell.name}, {name}")


def means(trials: Sequence[Mapping[str, object]], arms: Sequence[str], name: str) -> dict[str, float]:
    """Return each arm's mean validation accuracy.

    Args:
        trials: Rows of the arms.
        arms: Their labels.
        name: Of the comparison, for the message.

    Raises:
        HeadstartError: If a trial has no score, or an arm no trial: a mean over what is left would favour arms that
            fail.
    """
    without = [f"{row['arm']}, seed {row['seed']}" for row in trials if not scored(row, "validation_accuracy")]
    without += [f"{arm}, no trial" for arm in arms if all(row["arm"] != arm for row in trials)]
    if without:
        raise HeadstartError(
            f"{name}: {'; '.join(without)}: no validation accuracy, so rates and lengths cannot be compared.",
            remedy="Find out why these trials gave none, remove them from the store, and run the same command again.",
        )
    found = {arm: [float(str(row["validation_accuracy"])) for row in trials if row["arm"] == arm] for arm in arms}
    return {arm: fmean(values) for arm, values in found.items()}


def scored(row: Mapping[str, object], score: str = "test_accuracy") -> bool:
    """Whether a trial has a number to compare: a row read from a table has an empty text where there is none.

    Example:
        >>> scored({"test_accuracy": "50.5"}), scored({"test_accuracy": ""}), scored({"test_accuracy": None})
        (True, False, False)
    """
    return row[score] is not None and row[score] != "" and isfinite(float(str(row[score])))


def without_score(trials: Sequence[Mapping[str, object]], round_: str) -> list[str]:
    """Name the trials of a round that are left out: they did not refuse the network, and have no score."""
    return [
        f"{row['cell']}, {row['arm']}, seed {row['seed']}"
        for row in trials
        if row["round"] == round_ and row["status"] != "refused" and not scored(row)
    ]


def lengths(place: Place) -> list[dict[str, object]]:
    """List what was measured of rates and lengths, a row for each trial."""
    made: list[dict[str, object]] = []
    for store in _stores(place.folder / "development" / "lengths"):
        plan = store.read_experiment()
        usual, epochs = plan["training"]["lr"], plan["training"]["epochs"]
        changed = {arm["label"]: dict(arm["changes"]).get("lr", usual) for arm in plan["arms"]}
        made += [
            {
                "cell": store.folder.parent.name,
                "rate": changed[row["arm"]],
                "epochs": epochs,
                "seed": row["seed"],
                "accuracy": round(row["validation_accuracy"], 3),
            }
            for row in export.trials(store)
            if scored(row, "validation_accuracy")
        ]
    kept = _committed(place.results / LENGTHS_FILE, rate=float, epochs=float, seed=int, accuracy=float)
    return _with(made, kept, ("cell", "rate", "epochs", "seed"))


def _committed(path: Path, **numbers: type) -> list[dict[str, object]]:
    """Read the rows of a committed table; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: numbers.get(k, str)(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _with(
    made: Sequence[dict[str, object]], kept: Sequence[dict[str, object]], key: Sequence[str]
) -> list[dict[str, object]]:
    """Add the committed rows that were not made here."""
    here = {tuple(row[name] for name in key) for row in made}
    return [*made, *(row for row in kept if tuple(row[name] for name in key) not in here)]


def develop(round_: Round, place: Place, only: Sequence[Cell] = ()) -> None:
    """Run a round on the candidates that the rounds before it left.

    Args:
        round_: Which.
        place: Where.
        only: Some of its cells; all of them if empty.
    """
    left = survivors(rows(place), ROUNDS.index(round_))
    for cell in only or round_.cells:
        if cell.name not in cells.measured():
            measure(cell, place)
        if _over(rows(place), round_, cell, left[NETWORKS[cell.network].kind]):
            continue
        arms = cells.candidates([label for label in CANDIDATES if label in left[NETWORKS[cell.network].kind]])
        grid = {"lr": RATES[cell.optimizer]} if round_.searched else None
        what = place.experiment(cell, arms, round_.seeds)
        compared(
            f"round {round_.name}, {cell.name}",
            what,
            place.store(f"round-{round_.name}", cell.name),
            place.machine,
            grid,
        )


def rows(place: Place) -> list[dict[str, object]]:
    """List all trials of the rounds, a row for each."""
    made: list[dict[str, object]] = []
    for round_ in ROUNDS:
        for store in _stores(place.folder / "development" / f"round-{round_.name}"):
            plan = store.read_experiment()
            for row in export.trials(store):
                changes = dict(part.split("=") for part in (row["changes"] or "").split(", ") if part)
                known = {"rate": changes.get("lr", plan["training"]["lr"]), "steps": plan["training"]["steps"]}
                made.append({"round": round_.name, "cell": store.folder.name, **known, **row})
    return _with(made, _committed(place.results / ROUNDS_FILE, seed=int), ("round", "cell", "arm", "seed"))


def _stores(folder: Path) -> list[Store]:
    found = sorted(path.parent for path in folder.rglob("experiment.json") if path.parent.name != "search")
    return [Store(path) for path in found]


def differences(trials: Sequence[Mapping[str, object]], round_: str) -> dict[str, dict[str, list[float]]]:
    """Return the candidates' differences from the default with the same seed, by cell and candidate.

    A candidate that refuses the network leaves it as it is: its differences are 0. Trials that have no score are left
    out, as `without_score` names them; `finished` does not count them, so a round drops nothing by what is left.
    """
    found: dict[str, dict[str, list[float]]] = {}
    here = [row for row in trials if row["round"] == round_]
    base = {(row["cell"], row["seed"]): row for row in here if row["arm"] == "default" and scored(row)}
    for row in here:
        if row["arm"] == "default" or (row["cell"], row["seed"]) not in base:
            continue
        refused = row["status"] == "refused"
        if not refused and not scored(row):
            continue
        other = base[row["cell"], row["seed"]]
        change = 0.0 if refused else float(str(row["test_accuracy"])) - float(str(other["test_accuracy"]))
        found.setdefault(str(row["cell"]), {}).setdefault(str(row["arm"]), []).append(change)
    return found


def ranking(trials: Sequence[Mapping[str, object]], round_: str, kind: str) -> list[tuple[str, float]]:
    """Order the candidates of a kind by the median, over its cells, of their mean difference from the default."""
    means: dict[str, list[float]] = {}
    for cell, arms in differences(trials, round_).items():
        if kind_of(cell) == kind:
            for arm, found in arms.items():
                means.setdefault(arm, []).append(fmean(found))
    scores = {arm: (median(found), fmean(found)) for arm, found in means.items()}
    return [(arm, scores[arm][0]) for arm in sorted(scores, key=lambda each: scores[each], reverse=True)]


def kind_of(cell: str) -> str:
    """Return the kind of a cell's network, by the cell's name."""
    return NETWORKS[cell.rsplit("-", 3)[0]].kind


def finished(trials: Sequence[Mapping[str, object]], round_: Round, kind: str, arms: Sequence[str]) -> bool:
    """Tell whether a round has all trials of a kind, with their scores: only then does it drop anything."""
    own = [cell for cell in round_.cells if NETWORKS[cell.network].kind == kind]
    return bool(own) and all(_over(trials, round_, cell, arms) for cell in own)


def _over(trials: Sequence[Mapping[str, object]], round_: Round, cell: Cell, arms: Sequence[str]) -> bool:
    """Tell whether a round has all trials of a cell, with their scores."""
    here = [row for row in trials if (row["round"], row["cell"]) == (round_.name, cell.name)]
    counted = Counter(row["arm"] for row in here if row["status"] == "refused" or scored(row))
    return all(counted[arm] == round_.seeds for arm in ("default", *arms))


def survivors(trials: Sequence[Mapping[str, object]], rounds: int) -> dict[str, list[str]]:
    """Return the candidates that are left after some rounds, by kind: the better half of each, and always `auto`.

    A round that is not finished for a kind drops nothing there.

    Args:
        trials: From `rows`.
        rounds: How many rounds are over.
    """
    left = {kind: list(CANDIDATES) for kind in cells.KINDS}
    for round_ in ROUNDS[:rounds]:
        for kind in cells.KINDS:
            order = [arm for arm, _ in ranking(trials, round_.name, kind) if arm in left[kind]]
            if finished(trials, round_, kind, left[kind]):
                kept = order[: (len(order) + 1) // 2]
                left[kind] = [*kept, *([cells.AUTO] if cells.AUTO not in kept else [])]
    return left
