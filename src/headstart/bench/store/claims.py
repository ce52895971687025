"""Claims: which process works on which trial, so that several processes can share one store."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from headstart.errors import HeadstartError

LIMIT = 120.0
"""Seconds without a heartbeat after which a claim counts as abandoned."""


class Claims:
    """The claims of one process on a store's trials.

    A claim is a file that is created only if it does not exist. It names its owner; a thread renews its time
    stamp. A claim is taken over if its owner is a process of this machine that has ended, or if its time
    stamp has not been renewed for `LIMIT` seconds, which also works for owners on other machines.

    Args:
        folder: The folder of the files; made with the first claim.
        limit: Seconds without a heartbeat after which a claim counts as abandoned.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with Claims(folder) as mine, Claims(folder) as theirs:
        ...     mine.take("a"), theirs.take("a"), theirs.take("b")
        (True, False, True)
    """

    def __init__(self, folder: Path, limit: float = LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._owner = {**_identity(os.getpid()), "token": uuid.uuid4().hex}
        self._held: set[str] = set()
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release all claims."""
        self._ended.set()
        if self._heart is not None:
            self._heart.join()
        for key in list(self._held):
            with contextlib.suppress(HeadstartError):  # what remains is abandoned, and found to be
                self.release(key)

    def take(self, key: str) -> bool:
        """Claim a trial, unless another process works on it.

        Returns:
            Whether the claim succeeded.

        Raises:
            HeadstartError: If the folder cannot be written to.
        """
        path = self._path(key)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            taken = self._create(path)
            if not taken and self._abandoned(path):
                with self._alone():
                    if self._abandoned(path):  # nobody else was faster
                        path.unlink(missing_ok=True)
                        taken = self._create(path)
        except OSError as error:
            raise _not_writable(path, error) from error
        if taken:
            self._held.add(key)
            self._beat()
        return taken

    def release(self, key: str) -> None:
        """Release a claim. If it was taken over meanwhile, the new owner keeps it.

        Raises:
            HeadstartError: If the file cannot be removed.
        """
        self._held.discard(key)
        path = self._path(key)
        try:
            with self._alone():
                if (_read(path) or {}).get("token") == self._owner["token"]:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _not_writable(path, error) from error

    def tidy(self) -> None:
        """Remove claims whose owners have ended: a process killed after storing a trial leaves its claim behind.

        Raises:
            HeadstartError: If a file cannot be removed.
        """
        path = self._folder
        try:
            for path in sorted(self._folder.glob("*.json")):
                if self._abandoned(path):
                    with self._alone():
                        if self._abandoned(path):
                            path.unlink(missing_ok=True)
        except OSError as error:
            raise _not_writable(path, error) from error

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _create(self, path: Path) -> bool:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({**self._owner, "time": time.time()}, file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return True

    def _abandoned(self, path: Path) -> bool:
        owner = _read(path)
        if owner is None:
            return False  # released this moment; the next look takes it
        pid = owner.get("pid")
        near = owner.get("space") == self._owner["space"]
        if near and isinstance(pid, int) and _started(pid) != owner.get("started"):
            return True
        try:
            return self._now() - path.stat().st_mtime > self._limit
        except FileNotFoundError:
            return False

    def _now(self) -> float:
        """Return the time of the clock that stamps the files, which may be a server's."""
        clock = self._folder / ".clock"
        clock.touch()
        return clock.stat().st_mtime

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from removing claims meanwhile. The lock ends with its process in any case."""
        try:
            import fcntl
        except ImportError:  # not on this system: two drivers could take the same abandoned claim over
            yield
            return
        with (self._folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _beat(self) -> None:
        if self._heart is None:
            self._heart = threading.Thread(target=self._renew, name="headstart-claims", daemon=True)
            self._heart.start()

    def _renew(self) -> None:
        while not self._ended.wait(self._limit / 8):
            for key in list(self._held):
                with contextlib.suppress(OSError):  # taken over, or the disk is away: the next beat may succeed
                    os.utime(self._path(key))


def _identity(pid: int) -> dict[str, Any]:
    """Describe a process so that no later one with its number passes for it; ``started`` is None if it has ended."""
    return {"host": socket.gethostname(), "space": _space(), "pid": pid, "started": _started(pid)}


@cache
def _space() -> str:
    """Name the scope of process numbers: this boot of this machine, or this container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """Return when a process started, by the system; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists() or os.name != "posix":
            return None if os.name == "posix" else "unknown"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of a claim, empty if it is incomplete; None if there is no claim."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _not_writable(path: Path, error: OSError) -> HeadstartError:
    return HeadstartError(
        f"'{path}' could not be written: {error.strerror or error}.",
        remedy="Check the folder's permissions and free space; finished trials are kept.",
    )
