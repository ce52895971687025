"""Seeds that were added by hand, after results had been there to be looked at: what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def level_of(plan: Mapping[str, Any]) -> float:
    """Return the level of the tests: smaller where the results were looked at before seeds were added by hand."""
    return float(plan["alpha"]) / (1 + len(plan.get("looked") or ())) ** 2


def by_hand(plan: Mapping[str, Any]) -> str:
    """Say what it costs that seeds were added after a look."""
    counts = ", ".join(map(str, plan["looked"]))
    return (
        f"Seeds were added by hand after looks at {counts} seeds. Each look is another chance for luck, so the tests "
        f"of this one are stricter: at {level_of(plan):.2g} instead of {plan['alpha']:g}. Planned looks "
        "(--until decided) cost less."
    )
