"""A comparison of starts with a user's command as training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from headstart import rng
from headstart.bench.models import from_config
from headstart.bench.models.builders import parameter_count, resolve_model
from headstart.bench.runs.experiment import Trial, check_arms_and_seeds, list_trials
from headstart.bench.specs import user_function
from headstart.bench.specs.setting import AUTO, TRAINER, check_settings, documented, setting
from headstart.bench.statistics.power import ALPHA
from headstart.bench.store.store import MeasureOnce
from headstart.bench.tasks.sources import Source, load_data
from headstart.bench.trainer.equal_cost import resolve_extra
from headstart.bench.trainer.trainer import Trainer
from headstart.bench.trainer.trial import TrainerContext
from headstart.bench.trials import hardware
from headstart.bench.trials.arms import EQUAL_STEPS, RESTARTS, Arm, check_starts
from headstart.bench.trials.timing import measured
from headstart.errors import HeadstartError
from headstart.model.inputs import map_tensors


@documented
@dataclass(frozen=True)
class TrainerExperiment:
    """A comparison of starts by a user's own training command.

    Args:
        trainer: The command.
        arms: The starts; the first is the baseline.
        model: The model's name; the command's script must build the same model.
        seeds: One trial per arm and seed.
        margin: The smallest difference that matters, in the metric's unit; 0 for half a percent of the baseline's mean.
        alpha: The level of the tests.
        device: Where starts are computed: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        stopping: The rule by which the number of seeds was chosen, for the report; empty if it was fixed.
        looks: How often the results may be looked at before the number of seeds is settled.
        exploratory: Whether the report gives numbers and no verdicts.
        primary: Label of the arm that is judged first; empty if none is.
        kept: Verdicts from an earlier look, by label.
        resolved_arms: Arms whose steps are already resolved.
    """

    trainer: Trainer
    arms: tuple[Arm, ...]
    model: str
    data: str = setting(
        "", "data for the starts, as for 'headstart init'; inputs without targets are enough", group=TRAINER
    )
    seeds: tuple[int, ...] = tuple(range(8))
    model_args: str = setting(
        "", "arguments of the model's builder: width=8,classes=3", group=TRAINER, metavar="K=V,..."
    )
    raw: bool = setting(False, "do not standardize data stored as bytes", group=TRAINER, kind="flag")
    resize: int = setting(0, "scale and crop the images of a folder to N×N; 0 for no change", group=TRAINER, least=0)
    samples: int = setting(0, "number of samples for a start; 0 for the usual number", group=TRAINER, least=0)
    margin: float = 0.0
    alpha: float = ALPHA
    device: str = AUTO
    stopping: str = ""
    looks: int = 1
    exploratory: bool = False
    primary: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)
    resolved_arms: tuple[Arm, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self)
        check_arms_and_seeds(self.arms, self.seeds, self.primary)

    @property
    def size(self) -> int:
        """Number of arms times number of seeds.

        Example:
            >>> trainer = Trainer("python train.py --init {start} --seed {seed} --out {out}")
            >>> TrainerExperiment(trainer, (Arm("default"),), "net.py:build", "images.npy", seeds=(0, 1)).size
            2
        """
        return len(self.arms) * len(self.seeds)

    def context(self, measure_once: MeasureOnce = measured) -> TrainerContext:
        """Load the data and build the model once, so that problems are reported before anything runs.

        Raises:
            HeadstartError: The data, the model or the device is not available.
        """
        check_starts(self.arms)
        for arm in self.arms:
            if not self.data and any(method.info.needs_data for method in arm.methods()):
                raise HeadstartError(
                    f"'{arm.label}' needs data.", remedy="Pass --data; inputs without targets are enough."
                )
        whole = any(method.takes_data_set for arm in self.arms for method in arm.methods())
        samples = 2**62 if whole else self.samples or None
        source = Source(None)
        if self.data:
            with rng.untouched(0):  # a user's function may draw from the global streams
                source = load_data(self.data, samples=samples, raw=self.raw, resize=self.resize or None)
        context = TrainerContext(
            self.trainer,
            self.model,
            self.model_args,
            _model_fingerprint(self.model),
            source,
            _data_fingerprint(source, self.data),
            self.samples or None,
            hardware.choose_device(self.device),
        )
        context.start(self.arms[0], self.seeds[0])
        return context

    def prepare(self, measure_once: MeasureOnce = measured, context: TrainerContext | None = None) -> TrainerContext:
        """Resolve how many extra steps each equal-steps control gets.

        Args:
            measure_once: Called for every measurement.
            context: From :meth:`context`, if it is at hand.

        Raises:
            HeadstartError: The data, the model or the device is not available, or the command fails in the run that
                times it.
        """
        context = context or self.context(measure_once)
        if self.resolved_arms:
            return replace(context, arms=self.resolved_arms)
        arms = tuple(arm for arm in self.arms if arm.control != RESTARTS)  # only the command knows its own schedule
        if not self.trainer.parsed.uses("extra"):
            arms = tuple(arm for arm in arms if arm.control != EQUAL_STEPS)
        return resolve_extra(context, arms, self.seeds[0], measure_once)

    def trials(self, context: TrainerContext) -> list[Trial]:
        """List every arm's trials; see `list_trials`."""
        return list_trials(self, context)

    def resolved(self, context: TrainerContext) -> TrainerExperiment:
        """Return the fully resolved experiment, which another process can prepare without measuring."""
        return replace(self, resolved_arms=context.arms, device=context.device)

    def describe(self, context: TrainerContext) -> dict[str, Any]:
        """Describe the comparison, so that the report can be made from the folder alone."""
        with rng.untouched():
            parameters = parameter_count(context.build(0))
        trainer = self.trainer
        return {
            "task": {"name": self.data, "description": f"data for the starts: {self.data or 'none'}"},
            "model": {"name": self.model, "parameters": parameters},
            "metric": {"name": trainer.metric, "lower_is_better": trainer.lower_is_better},
            "training": {
                "command": trainer.shown,
                "metric": trainer.metric,
                "metric_file": trainer.metric_file,
                "metric_pattern": trainer.metric_pattern,
                "lower_is_better": trainer.lower_is_better,
                "start_format": trainer.start_format,
                "timeout": trainer.timeout,
                "model_args": self.model_args,
                "samples": self.samples,
            },
            "notes": list(context.remarks),
            "stopping": self.stopping,
            "looks": self.looks,
            "exploratory": self.exploratory,
            "primary": self.primary,
            "kept": dict(self.kept),
            "test": True,
        }


def _model_fingerprint(model: str) -> str:
    if from_config.is_config_folder(model):
        return from_config.fingerprint(model)
    return (
        user_function.file_fingerprint(model)
        if user_function.is_user_function(model)
        else resolve_model(model).fingerprint
    )


def _data_fingerprint(source: Source, name: str) -> str:
    """Hash all tensors of the data; for other data, the user's file that makes it."""
    digest = hashlib.sha256()

    def add(tensor: torch.Tensor) -> torch.Tensor:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return tensor

    map_tensors(source.value, add)
    if user_function.is_user_function(name):
        digest.update(user_function.file_fingerprint(name).encode())
    return digest.hexdigest()
