"""What a search tried and chose, for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from headstart.bench.runs.search import FOLDER, text


class Cell(NamedTuple):
    """The result of a configuration for an arm.

    Args:
        value: How many seeds chose it (in stores of earlier versions: its mean validation accuracy in percent);
            empty if it was not tried, ``"refused"`` if the method refused the model.
        chosen: Whether any seed of the arm chose it.
    """

    value: str
    chosen: bool


@dataclass(frozen=True)
class Selection:
    """A search as a table.

    Args:
        columns: Labels of the arms.
        rows: Configurations, each with a cell for every arm.
        warnings: Settings for which a better value may lie beyond the tried ones.
        sentence: How the search worked.
        choices: What each arm chose.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    warnings: tuple[str, ...]
    sentence: str
    choices: str


def selection_of(plan: Mapping[str, Any]) -> Selection | None:
    """Read the search of a stored experiment; None if there was none.

    Args:
        plan: From `Store.read_experiment`.
    """
    found = plan.get("selection")
    if not found:
        return None
    return _of_each_seed(found) if found.get("each") else _of_all_seeds(plan, found)


def _of_each_seed(found: Mapping[str, Any]) -> Selection:
    """Show a search that every seed ran separately: how often each configuration was chosen."""
    arms = found["arms"]
    tries = [(arm["arm"], told) for arm in arms for told in arm["seeds"].values()]
    listed = list(dict.fromkeys(text(row["values"]) for _, told in tries for row in told["tried"]))
    rows = tuple((name, tuple(_chosen_cell(arm["seeds"].values(), name) for arm in arms)) for name in listed)
    values = ", ".join(f"{axis['key']}={','.join(map(str, axis['values']))}" for axis in found["axes"])
    draws = f", {found['seeds']} draws each" if found["seeds"] > 1 else ""
    stopped = Counter((label, key) for label, told in tries for key in told["stopped"])
    warnings = [
        f"{label} chose {key.rpartition('.')[2]} at the edge of what was tried in {count} of {len(arms[0]['seeds'])} "
        "searches, where the limit of widening stopped it."
        for (label, key), count in stopped.items()
    ]
    return Selection(
        tuple(arm["arm"] for arm in arms),
        rows,
        tuple(warnings),
        f"Searched before: {values}. Every arm, the null arm too, chose for itself with every seed, among "
        f"{found['budget']} configurations{draws}, by validation accuracy at the end of training: all with few steps, "
        "the better half with four times as many, until two were trained in full. Where the best number lay at the "
        "edge, the next one beyond was tried. These trials are none of those above, and none looked at the test split. "
        f"They are in the folder '{FOLDER}'. One search and its trial are what is compared, so the noise of the "
        "choice is in the intervals.",
        f"Chosen on validation: {'; '.join(_choices(arm) for arm in arms)}.",
    )


def _chosen_cell(told: Iterable[Mapping[str, Any]], name: str) -> Cell:
    """Say how many seeds chose a configuration, of those that tried it."""
    tries = [each for each in told if any(text(row["values"]) == name for row in each["tried"])]
    chosen = sum(each["chosen"] is not None and text(each["chosen"]) == name for each in tries)
    refused = bool(tries) and all(row["accuracy"] is None for each in tries for row in each["tried"])
    return Cell("refused" if refused else f"{chosen} of {len(tries)}" if tries else "", bool(chosen))


def _choices(arm: Mapping[str, Any]) -> str:
    counted = Counter(text(told["chosen"]) for told in arm["seeds"].values() if told["chosen"] is not None)
    often = [f"{name} ({count} of {len(arm['seeds'])})" for name, count in counted.most_common(2)]
    return f"{arm['arm']} {' or '.join(often) or 'nothing, refused'}"


def _of_all_seeds(plan: Mapping[str, Any], found: Mapping[str, Any]) -> Selection:
    """Show a search of earlier versions, which chose once for all seeds."""
    arms = found["arms"]
    listed = list(dict.fromkeys(text(row["values"]) for arm in arms for row in arm["tried"]))
    rows = tuple((name, tuple(_cell(arm, name) for arm in arms)) for name in listed)
    controls = {arm["label"] for arm in plan["arms"] if arm["control"]}
    values = ", ".join(f"{axis['key']}={','.join(map(str, axis['values']))}" for axis in found["axes"])
    seeds = f"{found['seeds']} seeds" if found["seeds"] > 1 else "one seed"
    return Selection(
        tuple(arm["arm"] for arm in arms),
        rows,
        tuple(_edges(found, controls)),
        f"Searched before: {values}. Every arm tried {found['budget']} configurations with {seeds}, which are none of "
        "those above, and took the one with the best mean validation accuracy at the end of training; none of these "
        f"trials looked at the test split. They are in the folder '{FOLDER}'. The verdicts are on the arms as then "
        "configured: that another search could have chosen otherwise is not in their intervals.",
        f"Chosen on validation: {'; '.join(_choice(arm) for arm in arms)}.",
    )


def _choice(arm: Mapping[str, Any]) -> str:
    chosen = "nothing, refused" if arm["chosen"] is None else text(arm["tried"][arm["chosen"]]["values"])
    return f"{arm['arm']} {chosen}"


def _cell(arm: Mapping[str, Any], name: str) -> Cell:
    for place, row in enumerate(arm["tried"]):
        if text(row["values"]) == name:
            value = "refused" if row["refusal"] else "" if row["mean"] is None else f"{row['mean']:.2f}"
            return Cell(value, place == arm["chosen"])
    return Cell("", chosen=False)


def _edges(found: Mapping[str, Any], controls: Collection[str]) -> list[str]:
    """Warn if arms under test, or the baseline, chose the largest or smallest number that they tried."""
    places: dict[str, list[str]] = {}
    for arm in found["arms"]:
        if arm["arm"] in controls or arm["chosen"] is None:
            continue
        for axis in found["axes"]:
            values = [row["values"].get(axis["key"]) for row in arm["tried"]]
            numbers = {v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)}
            chosen = values[arm["chosen"]]
            if chosen not in numbers or len(numbers) < 2:
                continue
            if chosen == max(numbers):
                places.setdefault(f"{axis['name']} is the largest tried, {chosen}", []).append(arm["arm"])
            elif chosen == min(numbers) and chosen:  # nothing lies below a rate or share of zero
                places.setdefault(f"{axis['name']} is the smallest tried, {chosen}", []).append(arm["arm"])
    return [f"The best {place}, for {', '.join(arms)}: widen the grid, if possible." for place, arms in places.items()]
