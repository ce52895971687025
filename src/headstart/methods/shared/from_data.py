"""Shared by methods that fill or rescale layers from data: which layers they leave by default."""

from __future__ import annotations

from dataclasses import dataclass, field

from headstart.engine.method import Method


@dataclass(frozen=True)
class FromData(Method):
    """Base of methods that write layers from data.

    Args:
        zeros: ``"leave"`` (default) keeps layers whose weights are all zero: that is a choice of the model's author
            (residual branches, adapters). ``"write"`` writes them like all others.
        recurrent: ``"leave"`` (default) keeps layers that run on their own earlier outputs, whose first step is
            unlike the others. ``"all"`` calibrates them over all their steps, in several passes.
    """

    zeros: str = field(default="leave", kw_only=True, repr=False)
    recurrent: str = field(default="leave", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self.check_choice("zeros", "leave", "write")
        self.check_choice("recurrent", "leave", "all")
