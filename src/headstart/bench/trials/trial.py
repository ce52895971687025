"""One trial: build, initialize, train, and record the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headstart import rng
from headstart.bench.models.builders import ModelBuilder, first_layer
from headstart.bench.specs import user_function
from headstart.bench.statistics.paired import area_under_curve
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.tasks.objectives import objective
from headstart.bench.trials.arms import Arm
from headstart.bench.trials.loop import train_in_turns
from headstart.bench.trials.starting import start
from headstart.bench.trials.training import Axes, Training
from headstart.bench.trials.turns import Turns, finish
from headstart.errors import HeadstartError
from headstart.results.plain import plain

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Values of the first layer that a trial's file keeps for the report.
_KEPT_VALUES = 4096
_KEPT_FILTERS = 32


@dataclass(frozen=True)
class TrialContext:
    """The common context of all trials, loaded once.

    Args:
        data: The task on the device.
        fingerprint: The fingerprint of the task.
        builder: The builder of the model.
        training: The training, with every "auto" resolved.
        arms: The arms, with their steps resolved.
        test: Whether a trial evaluates the test split at its end.
        decided: The measurements behind resolved values, for the report.
    """

    data: DeviceTask
    fingerprint: str
    builder: ModelBuilder
    training: Training
    arms: tuple[Arm, ...] = ()
    test: bool = True
    decided: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device of the trials."""
        return self.training.device

    @property
    def devices(self) -> int:
        """How many devices train one model together."""
        return self.training.devices

    def steps_of(self, arm: Arm) -> int:
        """Return how many steps an arm's trial trains."""
        return self.training_of(arm).steps

    def run(
        self, arm: Arm, seed: int, on_step: Callable[[int], None] | None = None, fabric: Fabric | None = None
    ) -> dict[str, Any]:
        """Run a trial; see `run_trial`."""
        return run_trial(self, arm, seed, on_step, fabric)

    def run_in_turns(self, arm: Arm, seed: int, on_step: Callable[[int], None] | None = None) -> Turns[dict[str, Any]]:
        """Run a trial that stops after every step; see `run_trial_in_turns`."""
        return run_trial_in_turns(self, arm, seed, on_step)

    def training_of(self, arm: Arm) -> Training:
        """Return the training of an arm's trials: the common one with the arm's changes.

        Raises:
            HeadstartError: It changes an unknown field, or to a value that is not allowed.
        """
        try:
            return replace(self.training, **dict(arm.changes))
        except TypeError as error:
            raise HeadstartError(
                f"The arm {arm.label!r} changes a setting that training does not have: {error}."
            ) from error

    def identity(self) -> dict[str, Any]:
        """Identify the task and the model by their content, not by paths."""
        spec = self.builder.spec
        name = spec.rpartition(":")[2] if user_function.is_user_function(spec) else spec
        return {"task": self.fingerprint, "model": [name, self.builder.fingerprint]}

    def determinants(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Collect everything that determines a trial; its hash is the trial's name.

        Labels and paths do not count: a renamed arm or a moved file is still the same trial.
        """
        return {
            **self.identity(),
            "methods": [method.key() for method in arm.methods()],
            "weights_draw": arm.weights_draw,
            "seed": seed,
            "training": self.training_of(arm).identity(),
            "test": self.test,
        }


def run_trial(
    context: TrialContext,
    arm: Arm,
    seed: int,
    on_step: Callable[[int], None] | None = None,
    fabric: Fabric | None = None,
) -> dict[str, Any]:
    """Run one trial. The global random states are restored afterwards.

    Args:
        context: The common context.
        arm: The arm.
        seed: Names the trial's random streams; arms with the same seed share data order, augmentation
            and (but for the null arm) default weights.
        on_step: Called with the number of finished steps.
        fabric: The fabric of this process, if it is one of several that run the trial together.

    Returns:
        The result, ready for JSON. ``status`` is ``"done"``, ``"diverged"`` (the loss was not finite; the
        accuracy is that of guessing) or ``"refused"`` (the method said that it cannot do this model).
    """
    return finish(run_trial_in_turns(context, arm, seed, on_step, fabric))


def run_trial_in_turns(
    context: TrialContext,
    arm: Arm,
    seed: int,
    on_step: Callable[[int], None] | None = None,
    fabric: Fabric | None = None,
) -> Turns[dict[str, Any]]:
    """Run one trial as `run_trial` does, with a stop after every step.

    Whoever lets something else run in between puts the global random states back before the next turn:
    `headstart.rng.OwnStates`.
    """
    axes = Axes.of(seed, arm.weights_draw)
    task, training = context.data.task, context.training_of(arm)
    with rng.untouched():
        model = build(context, axes)
        before = _first_weight(model)
        started = time.perf_counter()
        try:
            report = _start(model, context, arm, axes)
        except HeadstartError as error:
            return {"status": "refused", "reason": str(error)}
        init_seconds = time.perf_counter() - started
        begun = _first_weight(model)
        outcome = yield from train_in_turns(model, context.data, training, axes, on_step, fabric)
        trained = _first_weight(model)
    guess = objective(task.kind, training.loss, training.metric).metric.guess(task.classes)
    curve = [asdict(point) for point in outcome.curve]
    result = {
        "status": "diverged" if outcome.diverged else "done",
        "reason": outcome.diverged,
        "test_accuracy": guess if outcome.diverged and context.test else outcome.test_accuracy,
        "test_loss": outcome.test_loss,
        "validation_accuracy": guess if outcome.diverged else outcome.curve[-1].accuracy,
        "area": _area(curve, training.steps, guess),
        "curve": curve,
        "init_seconds": init_seconds if report is not None else 0.0,
        "train_seconds": outcome.seconds,
        "step_seconds": outcome.step_seconds,
        "first_layer": _layer_record(model, before, begun, trained),
        "report": report,
        **({"eager": outcome.eager} if training.capture else {}),
    }
    cleaned: dict[str, Any] = plain(result)
    return cleaned


def build(context: TrialContext, axes: Axes) -> nn.Module:
    """Build the model with the weights of the axis, on the device. Seeds the global random state."""
    torch.manual_seed(axes.weights)
    task = context.data.task
    model = context.builder(task.channels, task.classes, task.image_size)
    channels_last = context.training.memory_format == "channels_last" and len(task.image_size) == 2
    return model.to(  # type: ignore[call-overload]
        device=context.training.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def _start(model: nn.Module, context: TrialContext, arm: Arm, axes: Axes) -> dict[str, Any] | None:
    methods = arm.methods()
    if not methods:
        return None
    report = start(model, context.data, context.training_of(arm), methods, axes.method)
    if torch.device(context.training.device).type == "cuda":
        torch.cuda.current_stream(context.training.device).synchronize()
    return report.to_dict()


def _first_weight(model: nn.Module) -> Tensor | None:
    found = first_layer(model)
    if found is None or not isinstance(found[1].weight, Tensor):
        return None
    return found[1].weight.detach().float().cpu().clone(memory_format=torch.contiguous_format)


def _layer_record(
    model: nn.Module, before: Tensor | None, start: Tensor | None, trained: Tensor | None
) -> dict[str, Any] | None:
    found = first_layer(model)
    if found is None or before is None or start is None or trained is None:
        return None
    kept = min(len(before), _KEPT_FILTERS, _KEPT_VALUES // before[0].numel())
    cosine = torch.nn.functional.cosine_similarity(start.flatten(1), trained.flatten(1), dim=1)
    return {
        "name": found[0],
        "kind": type(found[1]).__name__,
        "shape": list(before.shape),
        "kept": kept,
        "default": _compact(before[:kept]),
        "start": _compact(start[:kept]),
        "trained": _compact(trained[:kept]),
        "measures": {name: _measures(w) for name, w in (("default", before), ("start", start), ("trained", trained))},
        "kept_direction": float(cosine.mean()),
    }


def _measures(weight: Tensor) -> dict[str, float]:
    """The mean norm of filters, and the share of their energy in the response to brightness (0 to 1)."""
    flat = weight.flatten(1).double()
    norms = flat.norm(dim=1)
    constant = flat.mean(dim=1).square() * flat.shape[1] / norms.square().clamp_min(1e-30)
    return {"norm": float(norms.mean()), "brightness_share": float(constant.mean())}


def _compact(weight: Tensor) -> list[float]:
    """Flatten to four significant digits."""
    return [float(f"{value:.4g}") for value in weight.flatten().tolist()]


def _area(curve: list[dict[str, Any]], steps: int, guess: float) -> float:
    """Area under the validation curve; a trial that ended early counts as guessing for the rest of its budget."""
    points = [(point["step"], point["accuracy"]) for point in curve]
    if points[-1][0] < steps:
        points += [(points[-1][0], guess), (steps, guess)]
    return area_under_curve([step for step, _ in points], [accuracy for _, accuracy in points])
