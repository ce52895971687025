"""A folder with one JSON file per trial, written atomically and named by the trial's determinants."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.bench.store.claims import Claims
from headstart.errors import HeadstartError
from headstart.results.whole_file import WRITING, whole_file

Facts = dict[str, Any]
MeasureOnce = Callable[[Facts, Callable[[], Facts]], Facts]
"""Takes a question and a function that answers it, and returns the answer, perhaps an earlier one."""

FORMAT = "headstart-trial-1"
EXPERIMENT = "headstart-experiment-1"
_CHOICE = "headstart-choice-1"
_POLL = 0.2  # seconds between looks at a choice that another driver makes
_KEY = re.compile(r"[0-9a-f]{32}")
_LARGEST = 64 * 2**20


def canonical(value: Any) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces, no NaN.

    Example:
        >>> canonical({"b": (1, 2.0), "a": None})
        '{"a":null,"b":[1,2.0]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def content_key(determinants: Mapping[str, Any]) -> str:
    """Hash everything that determines a trial into its name: 32 hexadecimal digits.

    Example:
        >>> content_key({"seed": 0, "steps": 5}) == content_key({"steps": 5, "seed": 0})
        True
    """
    return hashlib.sha256(canonical(determinants).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Record:
    """A finished trial as it is stored.

    Args:
        determinants: Everything that determines the trial.
        result: Its result.
        provenance: Versions, machine, command: what else it may depend on.
    """

    determinants: Mapping[str, Any]
    result: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name of the trial."""
        return content_key(self.determinants)

    @property
    def open(self) -> bool:
        """Whether the next run tries the trial again, since the method refused the model or the run failed."""
        return self.result.get("status") in ("refused", "failed")


@dataclass(frozen=True)
class Damage:
    """A damaged file.

    Args:
        file: Its name inside the folder.
        reason: What is wrong with it.
    """

    file: str
    reason: str


class Store:
    """The trials of one or several experiments in a folder.

    A trial's file is complete or absent, even if the process is killed. Nothing outside the folder is
    read or written, whatever the files hold.

    Args:
        folder: The folder; it is made when the first file is written.

    Example:
        >>> import tempfile
        >>> store = Store(tempfile.mkdtemp())
        >>> key = store.put(Record({"seed": 0}, {"accuracy": 97.5}))
        >>> store.get(key).result["accuracy"], store.damaged()
        (97.5, [])
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.trials = self.folder / "trials"
        self.claims = self.folder / "claims"
        self.choices = self.folder / "choices"
        self._sound: dict[str, tuple[int, ...]] = {}

    def put(self, record: Record) -> str:
        """Write a trial. A finished trial is kept; a damaged, refused or failed one is replaced.

        Returns:
            The trial's key.

        Raises:
            HeadstartError: If the folder cannot be written to.
        """
        body = {
            "format": FORMAT,
            "key": record.key,
            "determinants": record.determinants,
            "result": record.result,
            "provenance": record.provenance,
        }
        body = json.loads(canonical(body))
        there = self.get(record.key)
        if there is None or there.open:
            path = self.trials / f"{record.key}.json"
            self._write(path, {**body, "checksum": _checksum(body)}, replace=path.exists() or path.is_symlink())
        return record.key

    def get(self, key: str) -> Record | None:
        """Read a trial; None if it is absent or damaged.

        Raises:
            HeadstartError: If the key is not one.
        """
        if not _KEY.fullmatch(key):
            raise HeadstartError(f"{key!r} is not the key of a trial.")
        path = self.trials / f"{key}.json"
        stamp = _stamp(path)
        found = _read(path)
        if not isinstance(found, Record):
            return None
        self._sound[path.name] = stamp
        return found

    def present(self, keys: Iterable[str]) -> dict[str, Record]:
        """Read the trials that exist and are not damaged."""
        return {key: record for key in keys if (record := self.get(key)) is not None}

    def damaged(self) -> list[Damage]:
        """Find damaged files in the trials' folder: incomplete, changed, or foreign."""
        if not self.trials.is_dir():
            return []
        problems = []
        for path in sorted(self.trials.iterdir()):
            if path.name.startswith(WRITING):
                continue  # another process is at it, or was killed at it; it is never read
            if path.suffix != ".json" or not _KEY.fullmatch(path.stem):
                problems.append(Damage(path.name, "does not have the name of a trial"))
            elif self._sound.get(path.name, ()) == _stamp(path) != ():
                continue  # it was read before and has not changed since
            elif not isinstance(found := _read(path), Record):
                problems.append(Damage(path.name, found or "vanished"))
        return problems

    def measure_once(self, question: Facts, answer: Callable[[], Facts]) -> Facts:
        """Answer a question once: whoever asks again, now or later, gets the first answer.

        Otherwise a timing could give another choice the next time, and trials that depend on it
        would be different trials.

        Args:
            question: Everything that the answer depends on; its hash names the file.
            answer: Computes the answer. Only one process does so at a time; the others wait. If it raises, the
                question stays open.

        Returns:
            The answer, as plain data.

        Raises:
            HeadstartError: The folder cannot be written to, or the file of the answer is damaged.

        Example:
            >>> import tempfile
            >>> ask = Store(tempfile.mkdtemp()).measure_once
            >>> ask({"what": "number"}, lambda: {"is": 1}), ask({"what": "number"}, lambda: {"is": 2})
            ({'is': 1}, {'is': 1})
        """
        key = content_key(question)
        path = self.choices / f"{key}.json"
        with Claims(self.claims) as claims:
            while (found := self._decided(path)) is None:
                if not claims.take(key):
                    time.sleep(_POLL)
                elif self._decided(path) is None:
                    body = json.loads(canonical({"format": _CHOICE, "question": question, "answer": answer()}))
                    self._write(path, {**body, "checksum": _checksum(body)}, replace=False)
        return found

    def decided(self, question: Facts, answer: Callable[[], Facts]) -> Facts:
        """Return the earlier answer, or else compute one without storing it. Nothing is written.

        Args:
            question: As for :meth:`measure_once`.
            answer: As for :meth:`measure_once`.
        """
        found = self._decided(self.choices / f"{content_key(question)}.json")
        return answer() if found is None else found

    @staticmethod
    def _decided(path: Path) -> Facts | None:
        if not path.exists() and not path.is_symlink():
            return None
        body = _load(path)
        problem = body if isinstance(body, str) else ""
        if isinstance(body, dict) and body.pop("checksum", None) != _checksum(body):
            problem = "was changed after it was written"
        if problem or not isinstance(body, dict) or content_key(body["question"]) != path.stem:
            # Another answer could make other trials of those that are there: not without being asked.
            raise HeadstartError(
                f"'{path}' {problem or 'holds a choice that does not match its name'}.",
                remedy="Remove it: the choice is then made again, and the trials that it changes are repeated.",
            )
        answer: Facts = body["answer"]
        return answer

    def write_experiment(self, experiment: Mapping[str, Any]) -> None:
        """Write ``experiment.json``, from which the report can be made at any time."""
        body = json.loads(canonical(experiment))
        self._write(self.folder / "experiment.json", {**body, "checksum": _checksum(body)})

    @property
    def begun(self) -> bool:
        """Whether there is an experiment in the folder."""
        return (self.folder / "experiment.json").is_file()

    def read_experiment(self) -> dict[str, Any]:
        """Read ``experiment.json``.

        Raises:
            HeadstartError: If it is missing, damaged or of another format.
        """
        path = self.folder / "experiment.json"
        remedy = (
            "Give the folder that 'headstart compare' wrote; to repair it, run the same comparison again: finished"
            " trials are kept."
        )
        if not self.begun:
            raise HeadstartError(f"There is no experiment in '{self.folder}'.", remedy=remedy)
        body = _load(path)
        if isinstance(body, str):
            raise HeadstartError(f"'{path}' {body}.", remedy=remedy)
        checksum = body.pop("checksum", None)
        if checksum != _checksum(body):
            raise HeadstartError(f"'{path}' was changed after it was written.", remedy=remedy)
        if body.get("format") != EXPERIMENT:
            raise HeadstartError(
                f"'{self.folder}' holds an experiment of format {body.get('format')!r}, not {EXPERIMENT!r}.",
                remedy="Run the comparison again with this version.",
            )
        return body

    def write_text(self, name: str, text: str) -> Path:
        """Write a report into the folder, atomically.

        Args:
            name: A plain file name.
            text: Its content.

        Returns:
            The path.
        """
        assert name == Path(name).name
        path = self.folder / name
        _write_atomically(path, text)
        return path

    @staticmethod
    def _write(path: Path, body: Mapping[str, Any], replace: bool = True) -> None:
        _write_atomically(path, json.dumps(body, sort_keys=True, allow_nan=False) + "\n", replace)


def _write_atomically(path: Path, text: str, replace: bool = True) -> None:
    """Write a whole file to the disk; without ``replace``, a file that appeared meanwhile stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, sync=True, replace=replace) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HeadstartError(
            f"'{path}' could not be written: {error.strerror or error}.",
            remedy="Check the folder's permissions and free space; finished trials are kept.",
        ) from error


def _stamp(path: Path) -> tuple[int, ...]:
    """Return a stamp that changes with the file; nothing if there is no plain file."""
    try:
        found = path.lstat()
    except OSError:
        return ()
    return (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _load(path: Path) -> dict[str, Any] | str:
    """Read a JSON object, or return what is wrong, as words that follow the file's name."""
    try:
        if path.is_symlink():
            return "is a link, which may lead out of the folder"
        if path.stat().st_size > _LARGEST:
            return "is too large to be a file of headstart"
        body = json.loads(path.read_bytes())
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        return "is not complete JSON"
    return body if isinstance(body, dict) else "is not a JSON object"


def _read(path: Path) -> Record | str | None:
    """Return the trial, or what is wrong with its file, or None if there is no file."""
    if not path.exists() and not path.is_symlink():
        return None
    body = _load(path)
    if isinstance(body, str):
        return body
    checksum = body.pop("checksum", None)
    if body.get("format") != FORMAT:
        return f"has the format {body.get('format')!r}, not {FORMAT!r}"
    try:
        sound = checksum == _checksum(body)
    except ValueError:
        sound = False
    if not sound:
        return "was changed after it was written"
    record = Record(body["determinants"], body["result"], body["provenance"])
    if not (record.key == body["key"] == path.stem):
        return "holds a trial that does not match its name"
    return record
