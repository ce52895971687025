"""The words of an experiment: each is a key of its file and an option of its command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from headstart.bench.models.formats import FORMATS
from headstart.bench.runs.experiment import AUTO, Experiment
from headstart.bench.runs.search import Search
from headstart.bench.statistics.power import default_seeds
from headstart.bench.tasks.batches import NORMALIZATIONS, SAME
from headstart.bench.tasks.objectives import TASK
from headstart.bench.trainer.experiment import TrainerExperiment
from headstart.bench.trainer.trainer import Trainer
from headstart.bench.trials.arms import DEFAULT, Arm, parse_arms, with_controls, with_default
from headstart.bench.trials.grid import make_grid, read_grid
from headstart.bench.trials.training import MEMORY_FORMATS, OPTIMIZERS, PRECISIONS, SCHEDULES, Training
from headstart.errors import HeadstartError, unknown

Kind = Literal["text", "texts", "whole", "number", "numbers", "switch", "flag", "seeds"]
UNTIL = ("all", "decided")
WHAT, HOW, OUTPUT = "what to compare", "how each trial trains", "output"
TRAINER = "a command of your own trains"


@dataclass(frozen=True)
class Setting:
    """One setting of an experiment.

    Args:
        name: The key in the file; the option is the same with two dashes before it.
        kind: What its value is. A switch is ``true`` or ``false`` in the file, ``--name`` or ``--no-name`` on
            the command line; a flag is a switch that is off unless ``--name`` is there.
        default: Its value if nothing is said.
        help: A few words on it.
        group: Under which heading it stands.
        metavar: What stands for the value in the help.
        choices: The values that there are, if they can be listed.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    group: str = HOW
    metavar: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """The name as Python writes it."""
        return self.name.replace("-", "_")


SETTINGS: dict[str, Setting] = {
    word.name: word
    for word in (
        Setting(
            "task",
            "text",
            "mnist5k",
            "a task by name (mnist5k, cifar100:train=10000, …), folder:PATH, arrays:PATH or file.py:function",
            WHAT,
        ),
        Setting(
            "model",
            "text",
            "headstart:prewarm-cnn",
            "headstart:NAME, torchvision:NAME, timm:NAME or file.py:function",
            WHAT,
        ),
        Setting(
            "arms", "texts", ("auto", "prewarm", "whitening"), "starts to test against the default one", WHAT, "ARM"
        ),
        Setting(
            "seeds",
            "seeds",
            AUTO,
            "how many (8), a range (0-7), a list (3,5,9), or auto: as many as a verdict needs, at least 8",
            WHAT,
        ),
        Setting("exploratory", "switch", False, "numbers alone, without verdicts, from any number of seeds", WHAT),
        Setting(
            "until", "text", "all", "all: run all seeds; decided: stop when all verdicts are in", WHAT, choices=UNTIL
        ),
        Setting("looks", "whole", 4, "with --until decided: how often to look at most", WHAT),
        Setting(
            "search", "texts", (), "values to choose from on validation: lr=1e-3,3e-3 or ARM.option=a,b", WHAT, "GRID"
        ),
        Setting("search-seeds", "whole", 1, "draws of each configuration, for each seed", WHAT),
        Setting("search-trials", "whole", 0, "configurations per arm, 0: all that training's values give", WHAT),
        Setting("controls", "switch", True, "the control arms and the null arm", WHAT),
        Setting("split-seed", "whole", 0, "draw of the task's splits", WHAT),
        Setting("margin", "number", 0.5, "smallest difference that matters, in points", WHAT),
        Setting("alpha", "number", 0.05, "level of the tests", WHAT),
        Setting("steps", "whole", 100, "optimizer steps"),
        Setting("epochs", "number", 0.0, "the budget in epochs instead of steps"),
        Setting("batch-size", "whole", 64, "images per step"),
        Setting("lr", "number", 1e-3, "learning rate"),
        Setting("lr-end", "number", 0.0, "where the cosine ends"),
        Setting("optimizer", "text", "adam", "adam, adamw, sgd or nesterov (both with momentum)", choices=OPTIMIZERS),
        Setting("momentum", "number", 0.9, "of sgd and nesterov"),
        Setting("weight-decay", "number", 0.0, "as the optimizer defines it"),
        Setting("schedule", "text", "cosine", "cosine, constant, exponential, step or plateau", choices=SCHEDULES),
        Setting("decay", "number", 0.1, "factor: exponential per epoch, step per milestone, plateau each time"),
        Setting(
            "milestones", "numbers", (), "of the schedule step: in epochs with --epochs, else in steps", metavar="N"
        ),
        Setting("patience", "whole", 2, "of the schedule plateau: evaluations without a rise"),
        Setting("clip", "number", 0.0, "largest norm of the gradient; 0 cuts none"),
        Setting("augment", "texts", (), "flip, crop, rotate", metavar="NAME"),
        Setting("rotation", "number", 15.0, "largest angle of rotate, in degrees"),
        Setting("normalization", "text", "task", "task, imagenet or none (raw values)", choices=NORMALIZATIONS),
        Setting(
            "test-normalization", "text", SAME, "another one for the test split alone", choices=(SAME, *NORMALIZATIONS)
        ),
        Setting("evaluations", "whole", 10, "points of a curve"),
        Setting("calibration", "whole", 256, "images that a start sees"),
        Setting("precision", "text", AUTO, "auto, float32 or bfloat16", choices=(AUTO, *PRECISIONS)),
        Setting("memory-format", "text", AUTO, "auto, contiguous or channels_last", choices=(AUTO, *MEMORY_FORMATS)),
        Setting("device", "text", AUTO, "auto, cpu, cuda, ..."),
        Setting("devices", "whole", 1, "how many of them train one model together"),
        Setting("capture", "switch", False, "steps as a CUDA graph, where the model lets them be"),
        Setting("loss", "text", TASK, "task: that of the kind of task; a name, or file.py:function", metavar="NAME"),
        Setting(
            "metric",
            "text",
            TASK,
            "task: that of the kind of task; a name, file.py:function; with --trainer a key of JSON, a column of CSV",
            WHAT,
            "NAME",
        ),
        Setting(
            "trainer", "text", "", "the command, with {start}, {seed} and {out}; it replaces all of the above", TRAINER
        ),
        Setting("data", "text", "", "what the starts see, as for 'headstart init'; inputs suffice", TRAINER),
        Setting("metric-file", "text", "", "where the score is instead of {out}: {dir}/results.json", TRAINER, "FILE"),
        Setting("metric-pattern", "text", "", "a pattern that finds the score in the output", TRAINER, "REGEX"),
        Setting("lower-is-better", "flag", False, "a lower score is the better one", TRAINER),
        Setting(
            "start-format",
            "text",
            "safetensors",
            "of {start}: safetensors, torch, timm, nnunet or hf",
            TRAINER,
            choices=(*FORMATS,),
        ),
        Setting("timeout", "number", 0.0, "seconds that a run may take, 0 for any", TRAINER),
        Setting("trainer-steps", "whole", 0, "steps that the command trains without {extra}", TRAINER),
        Setting("model-args", "text", "", "arguments of the model's builder: width=8,classes=3", TRAINER, "K=V,..."),
        Setting("samples", "whole", 0, "samples that a start sees, 0 for the usual number", TRAINER),
        Setting("raw", "flag", False, "take bytes of the data as they are", TRAINER),
        Setting("resize", "whole", 0, "scale and crop the images of a folder to N×N", TRAINER),
        Setting(
            "out",
            "text",
            "runs/compare",
            "folder of the trials and the page; what it holds is not run again",
            OUTPUT,
            "DIR",
        ),
    )
}
_RESOLVED = ("device", "precision", "memory_format")
_FOR_A_TRAINER = {"model": "", "arms": ("auto",), "margin": 0.0}
NOT_OF_A_TRAINER = ("task", "split-seed", "search", "search-seeds", "search-trials")
"""Words on what to compare that only headstart's own loop has."""


def defaults(trainer: bool = False) -> dict[str, Any]:
    """Return every word with its default value.

    Args:
        trainer: Whether a command of the user's own trains. Its margin is 0 by default: half a percent of the mean
            score of the baseline.

    Example:
        >>> defaults()["steps"]
        100
    """
    own = _FOR_A_TRAINER if trainer else {}
    return {name: own.get(name, word.default) for name, word in SETTINGS.items()}


def check_together(said: Mapping[str, Any]) -> None:
    """Raise the error for words that do not go together: of a trainer's command and of headstart's own loop.

    Args:
        said: The words that the user said.

    Raises:
        HeadstartError: For the first that is out of place.
    """
    own = {name for name, word in SETTINGS.items() if word.group == HOW and name != "device"} | {*NOT_OF_A_TRAINER}
    others = {name for name, word in SETTINGS.items() if word.group == TRAINER}
    for name in said:
        if said.get("trainer") and name in own:
            raise HeadstartError(
                f"--{name} is of headstart's own training, and a command of yours trains.",
                remedy="Say it in the trainer's command, or leave out --trainer.",
            )
        if not said.get("trainer") and name in others and said[name] != SETTINGS[name].default:
            raise HeadstartError(
                f"--{name} goes with --trainer.", remedy="Give the command that trains, or leave it out."
            )


def trainer_of(settings: Mapping[str, Any]) -> Trainer:
    """Read the words on a trainer's command.

    Args:
        settings: ``trainer``, and any of the other words.

    Raises:
        HeadstartError: If they make no sense.
    """
    words = {**defaults(trainer=True), **settings}
    return Trainer(
        words["trainer"],
        "accuracy" if words["metric"] == TASK else words["metric"],
        words["metric-file"],
        words["metric-pattern"],
        words["lower-is-better"],
        words["start-format"],
        words["timeout"],
        words["trainer-steps"],
    )


def trainer_experiment(settings: Mapping[str, Any]) -> TrainerExperiment:
    """Build the experiment of a trainer's command.

    Args:
        settings: Every word with its value.

    Raises:
        HeadstartError: If a value makes no sense.
    """
    if not settings["model"]:
        raise HeadstartError("--trainer needs --model.", remedy="Name what the script builds: file.py:build.")
    arms = parse_arms(settings["arms"])
    return TrainerExperiment(
        trainer_of(settings),
        with_controls(arms) if settings["controls"] else with_default(arms),
        settings["model"],
        settings["data"],
        _seeds(settings["seeds"], arms, settings["alpha"]),
        settings["model-args"],
        settings["raw"],
        settings["resize"],
        settings["samples"],
        settings["margin"],
        settings["alpha"],
        settings["device"],
        exploratory=settings["exploratory"],
    )


def experiment(settings: Mapping[str, Any]) -> Experiment:
    """Build the experiment that the settings describe.

    Args:
        settings: Every word with its value.

    Raises:
        HeadstartError: If a value makes no sense.

    Example:
        >>> experiment({**defaults(), "arms": ["lsuv"], "seeds": "0-2", "controls": False}).size
        6
    """
    given = {SETTINGS[name].field: value for name, value in settings.items()}
    arms = parse_arms(given["arms"])
    auto = tuple(name for name in _RESOLVED if given[name] == AUTO)
    chosen: dict[str, Any] = {field.name: given[field.name] for field in fields(Training) if field.name not in auto}
    lists = {name: tuple(value) for name, value in chosen.items() if isinstance(value, (list, tuple))}
    return Experiment(
        arms=with_controls(arms) if given["controls"] else with_default(arms),
        seeds=_seeds(given["seeds"], arms, given["alpha"]),
        task=given["task"],
        model=given["model"],
        training=Training(**{**chosen, **lists}),
        split_seed=given["split_seed"],
        margin=given["margin"],
        alpha=given["alpha"],
        auto=auto,
        exploratory=given["exploratory"],
    )


def check(settings: Mapping[str, Any]) -> None:
    """Raise the error for values that make no sense by themselves, without loading anything.

    Args:
        settings: Any of the words.

    Raises:
        HeadstartError: For the first that cannot be.

    Example:
        >>> check({"steps": 5, "alpha": 0.01})
    """
    if settings.get("trainer"):
        trainer_of(settings)
    ours = {name: value for name, value in settings.items() if value or name not in _FOR_A_TRAINER}
    experiment({**defaults(), **ours})
    if (until := settings.get("until", "all")) not in UNTIL:
        raise unknown("rule to run until", until, UNTIL)
    for name, least in (("looks", 1), ("search-seeds", 1), ("search-trials", 0), ("samples", 0), ("resize", 0)):
        if (count := settings.get(name, least)) < least:
            raise HeadstartError(f"{name} is {count}; it must be at least {least}.")
    for name in ("alpha", "margin"):
        value = settings.get(name, SETTINGS[name].default)
        if name == "margin" and settings.get("trainer") and value == 0:
            continue
        if not 0 < value < (1 if name == "alpha" else float("inf")):
            raise HeadstartError(f"{name} is {value:g}; it must be above 0{' and below 1' if name == 'alpha' else ''}.")


def search(settings: Mapping[str, Any], what: Experiment) -> Search | None:
    """Describe the search that the settings ask for, if they ask for one.

    Args:
        settings: Every word with its value.
        what: The experiment that they describe.

    Raises:
        HeadstartError: If there is no such thing to search.

    Example:
        >>> settings = {**defaults(), "search": ["lr=1e-3,3e-3"]}
        >>> search(settings, experiment(settings)).budget
        2
    """
    if not settings["search"]:
        return None
    axes = make_grid(read_grid(settings["search"], what.arms), what.arms, what.training)
    return Search(what, axes, settings["search-seeds"], settings["search-trials"])


def _seeds(text: str, arms: Sequence[Arm], alpha: float) -> tuple[int, ...]:
    """Read seeds, or find how many it takes for a verdict on every arm."""
    if text.strip() != AUTO:
        return parse_seeds(text)
    methods = sum(arm.spec != DEFAULT for arm in arms)
    return tuple(range(default_seeds(methods, alpha if 0 < alpha < 1 else 0.05)))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read a number of seeds, a range or a list.

    Raises:
        HeadstartError: If it is none of them.

    Example:
        >>> parse_seeds("3"), parse_seeds("2-4"), parse_seeds("5,9")
        ((0, 1, 2), (2, 3, 4), (5, 9))
    """
    compact = text.replace(" ", "")
    if re.fullmatch(r"[1-9]\d{0,5}", compact):
        return tuple(range(int(compact)))
    if found := re.fullmatch(r"(\d{1,6})-(\d{1,6})", compact):
        first, last = map(int, found.groups())
        if first <= last:
            return tuple(range(first, last + 1))
    elif re.fullmatch(r"\d{1,9}(,\d{1,9})+,?|\d{1,9},", compact):
        return tuple(int(part) for part in compact.split(",") if part)
    raise HeadstartError(
        f"--seeds {text!r} is not understood.", remedy="Write a number (8), a range (0-7) or a list (3,5,9)."
    )


def seeds_text(seeds: Sequence[int]) -> str:
    """Write seeds so that :func:`parse_seeds` reads them.

    Example:
        >>> seeds_text([3, 5, 9]), seeds_text([4])
        ('3,5,9', '4,')
    """
    return ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
