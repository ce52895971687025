"""The settings of an experiment: each is a key of its file and an option of its command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from headstart.bench.analysis.sequential import LOOKS
from headstart.bench.runs.experiment import Experiment
from headstart.bench.runs.search import Search
from headstart.bench.specs.setting import AUTO, GROUPS, HOW, OUTPUT, TRAINER, WHAT, Setting, settings_of
from headstart.bench.statistics.power import ALPHA, default_seeds
from headstart.bench.tasks.objectives import TASK
from headstart.bench.trainer.experiment import TrainerExperiment
from headstart.bench.trainer.trainer import Trainer
from headstart.bench.trials.arms import DEFAULT, Arm, parse_arms, with_controls, with_default
from headstart.bench.trials.grid import make_grid, read_grid
from headstart.bench.trials.training import Training
from headstart.errors import HeadstartError

_TASK, _MODEL, *_DESIGN = settings_of(Experiment)
_OWN = (
    Setting("arms", "texts", ("auto", "prewarm", "whitening"), "starts to test against the default one", WHAT, "ARM"),
    Setting(
        "seeds",
        "seeds",
        AUTO,
        "a number (8), a range (0-7), a list (3,5,9), or auto: as many as a verdict needs, at least 8",
        WHAT,
    ),
    Setting(
        "until",
        "text",
        "all",
        "when to stop: after all seeds, or as soon as every verdict is decided",
        WHAT,
        choices=("all", "decided"),
        noun="when to stop",
    ),
    Setting("looks", "whole", LOOKS, "with --until decided: the largest number of looks at the results", WHAT, least=1),
    Setting("controls", "switch", True, "add the control arms and the null arm", WHAT),
    Setting(
        "search",
        "texts",
        (),
        "values to choose from on the validation split: lr=1e-3,3e-3 or ARM.option=a,b",
        WHAT,
        "GRID",
    ),
)
_OUT = Setting(
    "out", "text", "runs/compare", "folder of the trials and the page; trials in it are not run again", OUTPUT, "DIR"
)


def _in_experiments(found: Setting) -> Setting:
    """A setting that the machine can choose has the additional value ``auto``."""
    if not found.automatic:
        return found
    choices = (AUTO, *found.choices) if found.choices else ()
    return replace(found, default=AUTO, choices=choices, help=f"{found.help}; auto: {found.automatic}")


_ALL = [
    *(_TASK, _MODEL, *_OWN, *settings_of(Search), *_DESIGN),
    *map(_in_experiments, settings_of(Training)),
    *settings_of(Trainer),
    *settings_of(TrainerExperiment),
    _OUT,
]
SETTINGS: dict[str, Setting] = {found.name: found for group in GROUPS for found in _ALL if found.group == group}
"""Every setting by name: those of the experiment, the search, the training and a trainer's command."""
_FOR_A_TRAINER = {"model": "", "arms": ("auto",), "margin": 0.0}
NOT_OF_A_TRAINER = ("task", "split-seed", "search", "search-seeds", "search-trials")
"""Settings of the comparison that only headstart's own loop has."""


def defaults(trainer: bool = False) -> dict[str, Any]:
    """Return every setting with its default value.

    Args:
        trainer: Whether a user's command trains. Its margin is 0 by default: half a percent of the mean
            score of the baseline.

    Example:
        >>> defaults()["steps"]
        100
    """
    own = _FOR_A_TRAINER if trainer else {}
    return {name: own.get(name, word.default) for name, word in SETTINGS.items()}


def check_together(said: Mapping[str, Any]) -> None:
    """Raise for settings that do not fit together: those of a trainer's command and of headstart's own loop.

    Args:
        said: The settings that the user gave.

    Raises:
        HeadstartError: It names the first setting that does not fit.
    """
    own = {name for name, word in SETTINGS.items() if word.group == HOW and name != "device"} | {*NOT_OF_A_TRAINER}
    others = {name for name, word in SETTINGS.items() if word.group == TRAINER}
    for name in said:
        if said.get("trainer") and name in own:
            raise HeadstartError(
                f"--{name} belongs to headstart's own training, but with --trainer your command trains.",
                remedy="Put it into the trainer's command, or leave out --trainer.",
            )
        if not said.get("trainer") and name in others and said[name] != SETTINGS[name].default:
            raise HeadstartError(
                f"--{name} needs --trainer.",
                remedy=f"Add --trainer with the command that trains, or leave out --{name}.",
            )


def trainer_of(settings: Mapping[str, Any]) -> Trainer:
    """Read the settings of a trainer's command.

    Args:
        settings: ``trainer``, and any other settings.

    Raises:
        HeadstartError: A value is out of range.
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
        settings: Every setting with its value.

    Raises:
        HeadstartError: A value is out of range.
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
        primary=settings["primary"],
    )


def experiment(settings: Mapping[str, Any]) -> Experiment:
    """Build the experiment that the settings describe.

    Args:
        settings: Every setting with its value.

    Raises:
        HeadstartError: A value is out of range.

    Example:
        >>> experiment({**defaults(), "arms": ["lsuv"], "seeds": "0-2", "controls": False}).size
        6
    """
    given = {SETTINGS[name].field: value for name, value in settings.items()}
    arms = parse_arms(given["arms"])
    machine = [found.field for found in settings_of(Training) if found.automatic]
    auto = tuple(name for name in machine if given[name] == AUTO)
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
        primary=given["primary"],
    )


def check(settings: Mapping[str, Any]) -> None:
    """Raise for values that are out of range by themselves, without loading anything.

    Args:
        settings: Some settings.

    Raises:
        HeadstartError: It names the first value that is out of range.

    Example:
        >>> check({"steps": 5, "alpha": 0.01})
    """
    if settings.get("trainer"):
        trainer_of(settings)
    ours = {name: value for name, value in settings.items() if value or name not in _FOR_A_TRAINER}
    for name, value in settings.items():
        if not (settings.get("trainer") and name in _FOR_A_TRAINER and value == _FOR_A_TRAINER[name]):
            SETTINGS[name].check(value)
    experiment({**defaults(), **ours})


def search(settings: Mapping[str, Any], what: Experiment) -> Search | None:
    """Build the search that the settings describe, or None.

    Args:
        settings: Every setting with its value.
        what: The experiment that they describe.

    Raises:
        HeadstartError: The search names something that does not exist.

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
    """Read seeds, or find how many a verdict on every arm needs."""
    if text.strip() != AUTO:
        return parse_seeds(text)
    methods = sum(arm.spec != DEFAULT for arm in arms)
    return tuple(range(default_seeds(methods, alpha if 0 < alpha < 1 else ALPHA)))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read a number of seeds, a range or a list.

    Raises:
        HeadstartError: It is none of them.

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
