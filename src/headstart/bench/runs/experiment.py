"""Experiments: task × model × arms × seeds, run by an executor and resumed from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

from headstart import rng
from headstart.bench.models.builders import check_outputs, parameter_count, resolve_model, takes_signals
from headstart.bench.specs.setting import AUTO, WHAT, check_settings, documented, setting
from headstart.bench.statistics.power import ALPHA, MARGIN, least_seeds
from headstart.bench.store.store import MeasureOnce, content_key
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.tasks.loading import load_task
from headstart.bench.tasks.objectives import TASK, objective
from headstart.bench.tasks.task import Task
from headstart.bench.trials import hardware
from headstart.bench.trials.arms import Arm, check_labels, check_primary, check_starts
from headstart.bench.trials.autotune import tune
from headstart.bench.trials.budget import resolve_equal_steps
from headstart.bench.trials.context import Context
from headstart.bench.trials.timing import measured
from headstart.bench.trials.training import Training
from headstart.bench.trials.trial import TrialContext
from headstart.errors import HeadstartError


@dataclass(frozen=True)
class Trial:
    """One cell of an experiment.

    Args:
        arm: Its arm.
        seed: Its seed.
        determinants: All that determines it.
        key: Their hash, which names its file.
    """

    arm: Arm
    seed: int
    determinants: dict[str, Any]
    key: str


@documented
@dataclass(frozen=True)
class Experiment:
    """A comparison of starts.

    Args:
        arms: The starts; the first is the baseline that all others are compared with.
        seeds: One trial per arm and seed; arms are compared within a seed.
        training: How each trial trains. Fields named in ``auto`` are resolved when the context is prepared.
        auto: Which fields of ``training`` the machine chooses: the device by availability, precision and
            memory format by timing training steps.
        stopping: The rule by which the number of seeds was chosen, for the report; empty if it was fixed.
        looks: How often the results may be looked at before the number of seeds is settled.
        test: Whether trials evaluate the test split at their end. Without it they get no test images.
        selection: How a search chose the arms' configurations, for the report; empty if there was none.
        kept: Verdicts from an earlier look, by label.
        configured: Arms as configured by a search, by label and seed; others are as in ``arms``.
        only: Labels and seeds of the trials to run; None for all.
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = tuple(range(8))
    task: str = setting(
        "mnist5k",
        "a task by name (mnist5k, cifar100:train=10000, ...), folder:PATH, arrays:PATH or file.py:function",
        group=WHAT,
    )
    model: str = setting(
        "headstart:prewarm-cnn", "headstart:NAME, torchvision:NAME, timm:NAME or file.py:function", group=WHAT
    )
    training: Training = field(default_factory=Training)
    split_seed: int = setting(0, "seed of the task's splits, the same in all trials", group=WHAT)
    margin: float = setting(MARGIN, "smallest difference that matters, in points", group=WHAT, above=0)
    alpha: float = setting(ALPHA, "level of the tests", group=WHAT, above=0, below=1)
    auto: tuple[str, ...] = ("device", "precision", "memory_format")
    stopping: str = ""
    looks: int = 1
    test: bool = True
    selection: Mapping[str, Any] = field(default_factory=dict)
    exploratory: bool = setting(False, "numbers without verdicts, from any number of seeds", group=WHAT)
    primary: str = setting(
        "",
        "the arm that is your question: it is judged first, and the others help or hurt only if it does",
        group=WHAT,
        metavar="ARM",
    )
    kept: Mapping[str, str] = field(default_factory=dict)
    configured: Mapping[tuple[str, int], Arm] = field(default_factory=dict)
    only: frozenset[tuple[str, int]] | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        check_arms_and_seeds(self.arms, self.seeds, self.primary)

    @property
    def size(self) -> int:
        """Number of arms times number of seeds; arms may share trials.

        Example:
            >>> Experiment((Arm("default"), Arm("null", weights_draw=1)), seeds=(0, 1, 2)).size
            6
        """
        return len(self.arms) * len(self.seeds)

    def context(self, measure_once: MeasureOnce = measured) -> TrialContext:
        """Load the task, find the model, and resolve the training settings that the machine decides.

        Args:
            measure_once: As for :meth:`prepare`.

        Returns:
            The context without arms, for all experiments that differ only in arms, seeds and ``test``.

        Raises:
            HeadstartError: The task, the model or the device is not available.
        """
        check_starts(self.arms)
        device = hardware.choose_device(AUTO if "device" in self.auto else self.training.device)
        builder = resolve_model(self.model)
        task = load_task(self.task, self.split_seed)
        training = replace(self.training, device=device).resolve(len(task.train))
        objective(task.kind, training.loss, training.metric)  # names that do not exist end here
        how = (device, training.memory_format, training.normalization, training.test_normalization)
        data = DeviceTask(task, *how)
        batch = next(data.batches(data.validation, 2))
        try:
            check_outputs(builder, task, *batch)
        except HeadstartError:
            if not takes_signals(builder, task, *batch):
                raise
            task = task.as_signals()
            data = DeviceTask(task, *how)
        if training.augment and not task.pictures:
            raise HeadstartError(
                f"'{training.augment[0]}' augments images; '{task.name}' has none.", remedy="Leave 'augment' out."
            )
        return tune(TrialContext(data, task.fingerprint(), builder, training), self.auto, measure_once)

    def prepare(self, measure_once: MeasureOnce = measured, context: TrialContext | None = None) -> TrialContext:
        """Resolve everything that the machine decides.

        Args:
            measure_once: Called for every measurement; `Store.measure_once` stores the answers. By default
                they are kept as long as this process exists.
            context: From :meth:`context`, if it is at hand.

        Returns:
            The context of the trials.

        Raises:
            HeadstartError: The task, the model or the device is not available.
        """
        check_starts(self.arms)
        context = context or self.context(measure_once)
        if not self.test:
            context = replace(context, data=context.data.without_test(), test=False)
        return resolve_equal_steps(context, self.arms, measure_once)

    def trials(self, context: TrialContext) -> list[Trial]:
        """List every arm's trials; see `list_trials`."""
        return list_trials(self, context, self._as_searched, self.only)

    def _as_searched(self, arm: Arm, seed: int) -> Arm:
        """Return the arm as a search configured it for this seed; a control's own steps stay."""
        found = self.configured.get((arm.label, seed))
        if found is None:
            return arm
        return replace(found, changes=tuple({**dict(found.changes), **dict(arm.changes)}.items()))

    def resolved(self, context: TrialContext) -> Experiment:
        """Return the fully resolved experiment, which another process can prepare without measuring."""
        return replace(self, training=context.training, auto=(), arms=context.arms, configured={}, only=None)

    def describe(self, context: TrialContext) -> dict[str, Any]:
        """Describe the comparison, so that the report can be made from the folder alone."""
        task = context.data.task
        with rng.untouched():
            model = context.builder(task.channels, task.classes, task.image_size)
        return {
            "task": {
                "name": self.task,
                "description": task.describe(),
                "classes": task.classes,
                "split_seed": self.split_seed,
                "test_images": len(task.test),
                **_score(task, context.training),
            },
            "model": {"name": self.model, "parameters": parameter_count(model)},
            "training": asdict(context.training),
            "stopping": self.stopping,
            "looks": self.looks,
            "test": self.test,
            "selection": self.selection,
            "exploratory": self.exploratory,
            "primary": self.primary,
            "kept": dict(self.kept),
        }


def _score(task: Task, training: Training) -> dict[str, Any]:
    """What the report must know about a score other than accuracy."""
    metric = objective(task.kind, training.loss, training.metric).metric
    if task.kind == "classification" and training.metric == TASK:
        return {}
    return {"score": metric.label, "guess": metric.guess(task.classes), "percent": not metric.whole}


Ground = TypeVar("Ground", bound=Context)


class HasSeeds(Protocol):
    """Anything with one trial per arm and seed."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Each names a trial's random streams."""


class AnyExperiment(HasSeeds, Protocol[Ground]):
    """What a run needs from an experiment, whichever loop trains."""

    @property
    def margin(self) -> float:
        """The smallest difference that matters."""

    @property
    def alpha(self) -> float:
        """The level of the tests."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Each way to start; the first is the baseline."""

    def prepare(self, measure_once: MeasureOnce = measured, context: Ground | None = None) -> Ground:
        """Resolve all that the machine decides."""

    def trials(self, context: Ground) -> list[Trial]:
        """List every arm's trials; see `list_trials`."""

    def resolved(self, context: Ground) -> AnyExperiment[Ground]:
        """Return the fully resolved experiment, which another process can prepare without measuring."""

    def describe(self, context: Ground) -> dict[str, Any]:
        """Describe the comparison, so that the report can be made from the folder alone."""


def check_arms_and_seeds(arms: Sequence[Arm], seeds: Sequence[int], primary: str) -> None:
    """Raise if there are no arms or seeds, if one repeats, or if the question is none of the arms.

    Raises:
        HeadstartError: It says what is wrong.
    """
    check_labels(arms)
    check_primary(primary, arms)
    if not arms or not seeds:
        raise HeadstartError("An experiment needs at least one arm and one seed.")
    if len(set(seeds)) != len(seeds):
        raise HeadstartError(f"Seeds {list(seeds)} repeat one.", remedy="A repeated seed is the same trial.")


def check_design(experiment: AnyExperiment[Any]) -> None:
    """Raise for a design that cannot give a verdict, however large the differences are.

    Raises:
        HeadstartError: The exact test needs more seeds for this number of arms.
    """
    methods = sum(not arm.control for arm in experiment.arms[1:])
    least, seeds = least_seeds(experiment.alpha / max(1, methods)), len(experiment.seeds)
    if methods and seeds < least:
        raise HeadstartError(
            f"With {seeds} seed{'s' * (seeds > 1)} no verdict on {methods} arm{'s' * (methods > 1)} is possible, "
            f"however large the differences: it takes at least {least}.",
            remedy=f"Pass --seeds {least}, or --exploratory for numbers without verdicts.",
        )


def list_trials(
    experiment: HasSeeds,
    context: Context,
    configured: Callable[[Arm, int], Arm] = lambda arm, seed: arm,
    only: frozenset[tuple[str, int]] | None = None,
) -> list[Trial]:
    """List every arm's trials, all arms of a seed before the next seed, so that finished trials are paired.

    A control that equals another arm shares that arm's trials: they have the same keys.

    Args:
        experiment: The experiment with the seeds.
        context: The context with the arms.
        configured: Returns an arm as configured for a seed.
        only: Labels and seeds of the wanted trials; None for all.
    """
    pairs = [
        (arm, seed) for seed in experiment.seeds for arm in context.arms if only is None or (arm.label, seed) in only
    ]
    made = [(configured(arm, seed), seed) for arm, seed in pairs]
    cells = [(arm, seed, context.determinants(arm, seed)) for arm, seed in made]
    return [Trial(arm, seed, what, content_key(what)) for arm, seed, what in cells]


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Leave out trials that an earlier arm shares."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(trial.key, trial)
    return list(first.values())
