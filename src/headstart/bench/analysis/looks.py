"""The cost of seeds that were added by hand after results could be seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def level_of(plan: Mapping[str, Any]) -> float:
    """Return the level of the tests; it is smaller if seeds were added by hand after a look at results."""
    return float(plan["alpha"]) / (1 + len(plan.get("looked") or ())) ** 2


def by_hand(plan: Mapping[str, Any]) -> str:
    """Say what it costs to add seeds after a look."""
    counts = ", ".join(map(str, plan["looked"]))
    return (
        f"Seeds were added by hand after looks at {counts} seeds. Each look is another chance for luck, so the tests "
        f"of this one are stricter: at {level_of(plan):.2g} instead of {plan['alpha']:g}. Planned looks "
        "(--until decided) cost less."
    )
