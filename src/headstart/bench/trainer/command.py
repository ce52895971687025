"""The trainer's command: words with placeholders, filled for each trial and run without a shell."""

from __future__ import annotations

import difflib
import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import HeadstartError

PLACEHOLDERS = {
    "start": "the file of the start: a complete state_dict",
    "seed": "the trial's seed",
    "out": "a new file for the score",
    "dir": "an empty folder",
    "extra": "additional training steps; 0 except for the equal-steps control",
}
_PLACE = re.compile(r"\{\{|\}\}|\{(\w+)\}")
_LARGEST = 2**20  # bytes of a file whose content takes part in a trial's name


@dataclass(frozen=True)
class Command:
    """A command with placeholders.

    Args:
        words: Its words, split as by a shell.

    Example:
        >>> command = Command.parse("python 'my train.py' --init {start} --opt={{a}} --seed {seed}")
        >>> command.fill({"start": "/tmp/a b", "seed": "3"})
        ['python', 'my train.py', '--init', '/tmp/a b', '--opt={a}', '--seed', '3']
    """

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Command:
        """Read a command line.

        Args:
            text: It is split into words as by a POSIX shell, with quotes and backslashes; nothing else of a shell
                happens: no variables, no pipes, no ``&&``. ``{{`` and ``}}`` are braces.

        Raises:
            HeadstartError: It has no words, an open quote, an unknown placeholder, or no ``{start}``.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise HeadstartError(f"The trainer's command cannot be split into words: {error}.") from error
        if not words:
            raise HeadstartError("The trainer's command is empty.")
        command = cls(words)
        for name in command._names():
            if name not in PLACEHOLDERS:
                near = difflib.get_close_matches(name, PLACEHOLDERS, n=1, cutoff=0.5)
                hint = f"Did you mean {{{near[0]}}}? " if near else ""
                known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
                raise HeadstartError(
                    f"The trainer's command has the placeholder {{{name}}}, which does not exist.",
                    remedy=f"{hint}Known: {known}; write {{{{{name}}}}} for braces.",
                )
        if not command.uses("start"):
            raise HeadstartError(
                "The trainer's command has no {start}, so all arms would train in the same way.",
                remedy="Let the script load the start: model.load_state_dict(load_file(path)).",
            )
        return command

    def uses(self, name: str) -> bool:
        """Tell whether the command uses a placeholder."""
        return name in self._names()

    def fill(self, values: Mapping[str, str]) -> list[str]:
        """Fill in values; a value is one word, or part of one, whatever it holds."""
        return [fill(word, values) for word in self.words]

    def files(self) -> dict[str, str]:
        """Hash the small files that it names, such as the script: with another script, trials are different ones.

        Returns:
            The sha256 of each by the word that names it.
        """
        found = {}
        for word in self.words:
            path = Path(word)
            if not _PLACE.search(word) and path.is_file() and path.stat().st_size <= _LARGEST:
                found[word] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def _names(self) -> list[str]:
        return [found[1] for word in self.words for found in _PLACE.finditer(word) if found[1]]


def fill(word: str, values: Mapping[str, str]) -> str:
    """Fill in the values of one word.

    Example:
        >>> fill("{dir}/scores.json", {"dir": "/tmp/x"})
        '/tmp/x/scores.json'
    """
    return _PLACE.sub(lambda found: values[found[1]] if found[1] else found[0][0], word)
