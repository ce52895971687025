"""What a search tried and chose, as a report shows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from headstart.bench.runs.search import FOLDER, text


class Cell(NamedTuple):
    """What a configuration came to for an arm.

    Args:
        value: Mean validation accuracy in percent; empty where it was not tried, ``"refused"`` where it could not be.
        chosen: Whether the arm was given it.
    """

    value: str
    chosen: bool


@dataclass(frozen=True)
class Selection:
    """A search as a table.

    Args:
        columns: Labels of the arms.
        rows: Configurations, each with a cell for every arm.
        warnings: Where a better value may lie beyond those that were tried.
        sentence: How it was searched.
        choices: What each arm was given.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    warnings: tuple[str, ...]
    sentence: str
    choices: str


def selection_of(plan: Mapping[str, Any]) -> Selection | None:
    """Read the search out of a stored experiment; None if there was none.

    Args:
        plan: From `Store.read_experiment`.
    """
    found = plan.get("selection")
    if not found:
        return None
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
    """Warn where arms under test, or the baseline, were given the largest or smallest number that they tried."""
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
    return [f"The best {place}, for {', '.join(arms)}: widen the grid, if it can be." for place, arms in places.items()]
