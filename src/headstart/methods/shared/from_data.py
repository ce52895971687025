"""What methods that fill or rescale layers from data have in common: what they leave unless they are told."""

from __future__ import annotations

from dataclasses import dataclass, field

from headstart.engine.method import Method


@dataclass(frozen=True)
class FromData(Method):
    """Base of methods that write layers from their data.

    Args:
        zeros: ``"leave"`` (default) keeps layers whose weights are all zero: that is a choice of who built the model
            (residual branches, adapters). ``"write"`` writes them as all others.
        recurrent: ``"leave"`` (default) keeps layers that run again on their earlier steps, of which the first is
            unlike the others; ``"all"`` calibrates them over all their steps, in several passes.
    """

    zeros: str = field(default="leave", kw_only=True, repr=False)
    recurrent: str = field(default="leave", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self.check_choice("zeros", "leave", "write")
        self.check_choice("recurrent", "leave", "all")
