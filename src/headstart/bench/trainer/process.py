"""Run a command to its end; none of its processes is left over, however this process ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.bench.trainer import _supervisor

_LINES = 20
_CHARACTERS = 4000


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: Its exit code; 128 and more for the signal that ended it.
        seconds: How long it took.
        late: Whether it was ended because it took too long.
    """

    code: int
    seconds: float
    late: bool


def run_command(words: Sequence[str], log: Path, timeout: float, threads: int) -> Ended:
    """Run a command in the working directory, with its output in a file.

    The command runs under a small supervisor, which ends it and all that it started when the pipe to this
    process closes: at the time limit, at an interrupt, and if this process is killed.

    Args:
        words: The command; no shell is used.
        log: Gets its standard output and errors.
        timeout: Time limit in seconds; 0 for none.
        threads: Its ``OMP_NUM_THREADS``, unless the environment sets that.
    """
    environment = {**os.environ}
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    started = time.monotonic()
    late = False
    with log.open("wb") as output:
        supervised = subprocess.Popen(  # noqa: S603 - the user's own command, as it was given
            [sys.executable, "-I", "-S", _supervisor.__file__, *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        assert supervised.stdin is not None
        try:
            supervised.wait(timeout or None)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            supervised.stdin.close()
            supervised.wait()
    return Ended(supervised.returncode, time.monotonic() - started, late)


def last_lines(log: Path) -> str:
    """Return the last lines of an output, each as a terminal would show it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16 * _CHARACTERS))
        text = file.read().decode("utf-8", "replace")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return "\n".join([line for line in lines if line][-_LINES:])[-_CHARACTERS:]
