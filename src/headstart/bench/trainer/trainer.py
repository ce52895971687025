"""The user's settings of the training command, and one run of it, from the start to the score."""

from __future__ import annotations

import tempfile
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from headstart.bench.models.formats import FORMATS, save
from headstart.bench.specs.setting import TRAINER, check_settings, documented, setting
from headstart.bench.trainer.command import PLACEHOLDERS, Command, fill
from headstart.bench.trainer.process import last_lines, run_command
from headstart.bench.trainer.scores import Score, check_pattern, find_score, read_score
from headstart.bench.trainer.secrets import without_secrets
from headstart.errors import HeadstartError

_ENDINGS = ("", ".json", ".csv")


@documented
@dataclass(frozen=True)
class Trainer:
    """The training command, and where its score is.

    Args:
        metric: The score's name: a key of JSON, a column of CSV.
    """

    command: str = setting(
        MISSING,
        "the command, with {start}, {seed} and {out}; it replaces headstart's own training",
        group=TRAINER,
        name="trainer",
    )
    metric: str = "accuracy"
    metric_file: str = setting(
        "", "the file of the score, instead of {out}: {dir}/results.json", group=TRAINER, metavar="FILE"
    )
    metric_pattern: str = setting(
        "", "a regular expression that finds the score in the output", group=TRAINER, metavar="REGEX"
    )
    lower_is_better: bool = setting(False, "a lower score is better", group=TRAINER, kind="flag")
    start_format: str = setting(
        "safetensors", "format of the file {start}", group=TRAINER, choices=(*FORMATS,), noun="format of a start"
    )
    timeout: float = setting(0.0, "time limit of a run in seconds; 0 for none", group=TRAINER, least=0)
    steps: int = setting(
        0,
        "training steps of the command when {extra} is 0; 0 if the score's file gives them or they are not known",
        group=TRAINER,
        name="trainer-steps",
        least=0,
    )

    def __post_init__(self) -> None:
        parsed = self.parsed
        check_settings(self)
        check_pattern(self.metric_pattern)
        if not self.metric.strip():
            raise HeadstartError("The metric has no name.")
        if self.metric_pattern and self.metric_file:
            raise HeadstartError(
                "The score is in a file or in the output: give only one of metric-file and metric-pattern."
            )
        for name in Command(("{start}", self.metric_file))._names():
            if name not in PLACEHOLDERS:
                raise HeadstartError(f"The metric's file has the placeholder {{{name}}}, which does not exist.")
        if not (self.metric_pattern or self.metric_file or parsed.uses("out")):
            raise HeadstartError(
                "The trainer's command has no {out}, so that its score cannot be read.",
                remedy="Let the script write the score to the file {out}, or give --metric-file or --metric-pattern.",
            )

    @property
    def parsed(self) -> Command:
        """The parsed command."""
        return Command.parse(self.command)

    @property
    def shown(self) -> str:
        """The command, without secrets."""
        return without_secrets(self.command)

    def identity(self) -> dict[str, Any]:
        """Collect the settings that determine a score."""
        return {
            "command": self.shown,
            "files": self.parsed.files(),
            "metric": [self.metric, self.metric_file, self.metric_pattern],
        }


class Outcome(NamedTuple):
    """How a run of the command ended.

    Args:
        score: None if it failed.
        reason: Why it failed, in a sentence; empty if it did not.
        lines: The last lines of its output, if it failed.
        seconds: Its run time.
    """

    score: Score | None
    reason: str
    lines: str
    seconds: float


def train_once(trainer: Trainer, model: nn.Module, seed: int, extra: int = 0, source: str = "") -> Outcome:
    """Write a model's start, run the command with it, and read the score.

    Args:
        trainer: The command.
        model: The initialized model. Its whole ``state_dict`` is written.
        seed: The value of ``{seed}``.
        extra: The value of ``{extra}``.
        source: The model's name; for a configuration's folder, its other files are written too.

    Raises:
        HeadstartError: The start cannot be written in the format.
    """
    with tempfile.TemporaryDirectory(prefix="headstart-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        start = folder / "".join(["start", *FORMATS[trainer.start_format].suffixes[:1]])
        save(model, start, trainer.start_format, {"written_for": "a trainer's command"}, source)
        (folder / "dir").mkdir()
        values = {
            "start": str(start),
            "seed": str(seed),
            "out": str(folder / "score"),
            "dir": str(folder / "dir"),
            "extra": str(extra),
        }
        log = folder / "output"
        ended = run_command(trainer.parsed.fill(values), log, trainer.timeout, torch.get_num_threads())
        reason, score = "", None
        if ended.late:
            reason = f"it took longer than {trainer.timeout:g} s and was ended"
        elif ended.code:
            reason = f"it ended with exit code {ended.code}"
        else:
            try:
                score = _score(trainer, values, log)
            except HeadstartError as error:
                reason = str(error)
        return Outcome(score, without_secrets(reason), "" if score else without_secrets(last_lines(log)), ended.seconds)


def _score(trainer: Trainer, values: dict[str, str], log: Path) -> Score:
    if trainer.metric_pattern:
        return find_score(log.read_text(encoding="utf-8", errors="replace"), trainer.metric_pattern, trainer.metric)
    told = trainer.metric_file or "{out}"
    named = [Path(fill(told, values) + ending) for ending in _ENDINGS]
    found = next((path for path in named if path.is_file()), None)
    if found is None:
        raise HeadstartError(f"The command succeeded, but wrote no score to {told}.")
    return read_score(found, trainer.metric)
