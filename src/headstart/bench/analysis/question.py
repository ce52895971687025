"""The question of an experiment: an arm that was declared beforehand and is judged first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BEHIND = "It is judged first, at the full level. The others can get a verdict only if it helps or hurts."


def question_of(plan: Mapping[str, Any]) -> str:
    """Return the label of the declared arm; empty if there is none, or if it was named too late.

    Args:
        plan: An experiment as it is stored.

    Example:
        >>> question_of({"primary": "auto"}), question_of({"primary": "auto", "primary_late": True}), question_of({})
        ('auto', '', '')
    """
    return "" if plan.get("primary_late") else str(plan.get("primary", ""))


def question_rule(plan: Mapping[str, Any]) -> str:
    """Say what the declaration of an arm as the question means.

    Args:
        plan: An experiment as it is stored, with such an arm.
    """
    if plan.get("primary_late"):
        return (
            f"{plan['primary']} was named as the question when results could already be seen. That is too late: "
            "all methods are judged together."
        )
    return f"{plan['primary']} was declared as the question before anything ran. {BEHIND}"
