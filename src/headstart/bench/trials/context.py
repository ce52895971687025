"""What a run needs from the common context of trials, for headstart's own loop and for a user's command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from headstart.bench.trials.arms import Arm

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Context(Protocol):
    """The common context of all trials, loaded once."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms, fully resolved."""

    @property
    def decided(self) -> Mapping[str, Any]:
        """The measurements behind resolved values, for the report."""

    @property
    def device(self) -> str:
        """The device of the trials."""

    @property
    def devices(self) -> int:
        """How many devices train one model together."""

    def steps_of(self, arm: Arm) -> int:
        """Return how many steps an arm's trial trains, for progress bars."""

    def determinants(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Collect everything that determines a trial; its hash is the trial's name."""

    def run(
        self, arm: Arm, seed: int, on_step: Callable[[int], None] | None = None, fabric: Fabric | None = None
    ) -> dict[str, Any]:
        """Run a trial and return its result, ready for JSON, with a ``status``."""
