"""What a run asks of the trials' common ground, whoever trains: headstart's own loop or a user's command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from headstart.bench.trials.arms import Arm

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Context(Protocol):
    """What all trials of an experiment share, loaded once."""

    @property
    def fingerprint(self) -> str:
        """Of the data."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """With everything resolved."""

    @property
    def decided(self) -> Mapping[str, Any]:
        """What was measured to resolve it, for the report."""

    @property
    def device(self) -> str:
        """Where trials compute."""

    @property
    def devices(self) -> int:
        """How many devices train one model together."""

    def steps_of(self, arm: Arm) -> int:
        """Return how many steps an arm's trial trains, for the progress."""

    def determinants(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Collect all that determines a trial; its hash is the trial's name."""

    def run(
        self, arm: Arm, seed: int, on_step: Callable[[int], None] | None = None, fabric: Fabric | None = None
    ) -> dict[str, Any]:
        """Run a trial and return its result, ready for JSON, with a ``status``."""
