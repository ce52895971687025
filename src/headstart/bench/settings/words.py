"""The words of an experiment: each is a key of its file and an option of its command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from headstart.bench.runs.experiment import AUTO, Experiment
from headstart.bench.runs.search import Search
from headstart.bench.tasks.batches import NORMALIZATIONS, SAME
from headstart.bench.trials.arms import parse_arms, with_controls, with_default
from headstart.bench.trials.grid import make_grid, read_grid
from headstart.bench.trials.training import MEMORY_FORMATS, OPTIMIZERS, PRECISIONS, SCHEDULES, Training
from headstart.errors import HeadstartError, unknown

Kind = Literal["text", "texts", "whole", "number", "numbers", "switch", "seeds"]
UNTIL = ("all", "decided")
WHAT, HOW, OUTPUT = "what to compare", "how each trial trains", "output"


@dataclass(frozen=True)
class Setting:
    """One setting of an experiment.

    Args:
        name: The key in the file; the option is the same with two dashes before it.
        kind: What its value is. A switch is ``true`` or ``false`` in the file, ``--name`` or ``--no-name`` on
            the command line.
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
        Setting("arms", "texts", ("prewarm", "whitening"), "starts to test against the default one", WHAT, "ARM"),
        Setting("seeds", "seeds", "8", "how many (8), a range (0-7) or a list (3,5,9)", WHAT),
        Setting(
            "until", "text", "all", "all: run all seeds; decided: stop when all verdicts are in", WHAT, choices=UNTIL
        ),
        Setting("looks", "whole", 4, "with --until decided: how often to look at most", WHAT),
        Setting(
            "search", "texts", (), "values to choose from on validation: lr=1e-3,3e-3 or ARM.option=a,b", WHAT, "GRID"
        ),
        Setting("search-seeds", "whole", 2, "seeds for each configuration of the search", WHAT),
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


def defaults() -> dict[str, Any]:
    """Return every word with its default value.

    Example:
        >>> defaults()["steps"]
        100
    """
    return {name: word.default for name, word in SETTINGS.items()}


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
        seeds=parse_seeds(given["seeds"]),
        task=given["task"],
        model=given["model"],
        training=Training(**{**chosen, **lists}),
        split_seed=given["split_seed"],
        margin=given["margin"],
        alpha=given["alpha"],
        auto=auto,
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
    experiment({**defaults(), **settings})
    if (until := settings.get("until", "all")) not in UNTIL:
        raise unknown("rule to run until", until, UNTIL)
    for name, least in (("looks", 1), ("search-seeds", 1), ("search-trials", 0)):
        if (count := settings.get(name, least)) < least:
            raise HeadstartError(f"{name} is {count}; it must be at least {least}.")
    for name in ("alpha", "margin"):
        value = settings.get(name, SETTINGS[name].default)
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
