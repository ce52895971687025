"""One trial of a user's trainer: build, initialize, write the start, run the command, keep the score."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from headstart import api, rng
from headstart.bench.models.for_data import build
from headstart.bench.specs import user_function
from headstart.bench.tasks.sources import Source
from headstart.bench.trainer.trainer import Trainer, train_once
from headstart.bench.trials.arms import Arm
from headstart.bench.trials.training import Axes
from headstart.errors import HeadstartError
from headstart.model import guard, inputs
from headstart.model.lazy import give_shapes
from headstart.results.plain import plain

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FAILED = "failed"


@dataclass(frozen=True)
class TrainerContext:
    """The common context of a user's trainer's trials.

    Args:
        trainer: The command.
        model: The model's name, as requested.
        model_args: ``key=value,...`` of its builder.
        model_fingerprint: It identifies the content behind the name.
        source: The data for the starts.
        fingerprint: The fingerprint of the data.
        samples: The number of samples for a start; None for the usual number.
        device: The device on which starts are computed.
        arms: The arms, fully resolved.
        decided: The measurements behind resolved values.
        remarks: Remarks on the design, for the reader.
    """

    trainer: Trainer
    model: str
    model_args: str
    model_fingerprint: str
    source: Source
    fingerprint: str
    samples: int | None = None
    device: str = "cpu"
    arms: tuple[Arm, ...] = ()
    decided: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        """The devices that Ray reserves for a trial."""
        return 1

    def steps_of(self, arm: Arm) -> int:
        """Return 1: the steps of a command are not known."""
        return 1

    def identity(self) -> dict[str, Any]:
        """Identify the trainer, the data and the model by their content."""
        name = self.model.rpartition(":")[2] if user_function.is_user_function(self.model) else self.model
        return {
            "trainer": self.trainer.identity(),
            "task": self.fingerprint,
            "model": [name, self.model_fingerprint, self.model_args],
        }

    def determinants(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Collect everything that determines a trial; its hash is the trial's name."""
        return {
            **self.identity(),
            "methods": [method.key() for method in arm.methods()],
            "weights_draw": arm.weights_draw,
            "seed": seed,
            "extra": extra_of(arm),
            "samples": self.samples,
        }

    def build(self, seed: int) -> nn.Module:
        """Build the model with the weights of a seed. Seeds the global random state."""
        facts = {**self.source.facts, "classes": None}
        model, _ = build(self.model, self.model_args, facts, seed)
        if guard.is_lazy(model):
            give_shapes(model, inputs.load(self.source.value, model, seed=seed, samples=2), seed)
        return model.to(self.device)

    def start(self, arm: Arm, seed: int) -> tuple[nn.Module, dict[str, Any] | None, float]:
        """Build a trial's model and initialize it.

        Returns:
            The model, the report on its start, and the seconds that the start took.

        Raises:
            HeadstartError: The method refuses the model.
        """
        axes = Axes.of(seed, arm.weights_draw)
        with rng.untouched():
            model = self.build(axes.weights)
            methods = arm.methods()
            if not methods:
                return model, None, 0.0
            started = time.perf_counter()
            report = api.initialize(model, self.source.value, list(methods), seed=axes.method, samples=self.samples)
            if torch.device(self.device).type == "cuda":
                torch.cuda.synchronize()
            return model, report.to_dict(), time.perf_counter() - started

    def run(
        self, arm: Arm, seed: int, on_step: Callable[[int], None] | None = None, fabric: Fabric | None = None
    ) -> dict[str, Any]:
        """Run a trial.

        Returns:
            The result, ready for JSON. ``status`` is ``"done"``, ``"failed"`` (the command failed, or left no score)
            or ``"refused"`` (the method said that it cannot do this model).
        """
        try:
            model, report, seconds = self.start(arm, seed)
        except HeadstartError as error:
            return {"status": "refused", "reason": str(error)}
        outcome = train_once(self.trainer, model, seed, extra_of(arm), self.model)
        timed = {"init_seconds": seconds, "train_seconds": outcome.seconds, "report": report}
        if outcome.score is None:
            return dict(plain({"status": FAILED, "reason": outcome.reason, "lines": outcome.lines, **timed}))
        score = outcome.score
        curve = [{"step": step, "score": value} for step, value in score.curve]
        return dict(plain({"status": "done", "reason": "", "score": score.value, "curve": curve, **timed}))


def extra_of(arm: Arm) -> int:
    """Return how many extra steps an arm trains."""
    return int(dict(arm.changes).get("extra", 0))
