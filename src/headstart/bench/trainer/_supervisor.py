"""Runs a command, and ends all its processes when it ends or when this process's standard input closes.

It is started as a script: the pipe to its standard input closes with the calling process, however that
process ends. It imports only the standard library, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE = 3.0
"""Seconds between asking processes to end and killing them."""


def main(command: list[str]) -> int:
    """Run the command and return its exit code, 128 and the signal's number if a signal ended it."""
    _adopt()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - as it was given
    except OSError as error:
        print(f"{command[0]}: {error.strerror or error}", file=sys.stderr)  # noqa: T201 - it is the command's output
        return 127
    threading.Thread(target=_end_with_parent, args=(child,), daemon=True).start()
    code = child.wait()
    end(child.pid)
    return code if code >= 0 else 128 - code


def end(leader: int) -> None:
    """Ask all descendants and the leader's group to end, and kill those that have not ended within `GRACE` seconds."""
    until = time.monotonic() + GRACE
    number = signal.SIGTERM
    while left := _alive(leader):
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        if number == signal.SIGKILL:
            break
        while time.monotonic() < until and _alive(leader):
            time.sleep(0.02)
        number = signal.SIGKILL


def _alive(leader: int) -> list[int]:
    """List descendants and other members of the leader's group, without zombies."""
    parents: dict[int, int] = {}
    groups: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                parents[int(entry.parent.name)], groups[int(entry.parent.name)] = int(fields[1]), int(fields[2])
    if not parents:  # no /proc: the group is all that can be reached
        with contextlib.suppress(OSError):
            os.killpg(leader, 0)
            return [-leader]
        return []
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return sorted((found - {os.getpid()}) | {pid for pid, group in groups.items() if group == leader})


def _adopt() -> None:
    """Become the parent of descendants whose own parent ends (Linux), so that none is lost."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _end_with_parent(child: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    end(child.pid)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # the thread that waits for the parent must not hold it up
