"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WRITING = ".writing-"
"""Names of files that are being written start with this. A file that stays was left by a process that was killed."""


@contextmanager
def whole_file(path: Path, *, sync: bool = False, replace: bool = True) -> Iterator[Path]:
    """Yield a file beside the target to write to; it gets the target's name at the end.

    A reader sees the old file or the new one, and a failed write leaves nothing behind. The file gets the same
    permissions as any other file of this process, whichever library writes it.

    Args:
        path: The target, in a folder that exists.
        sync: Flush to the disk before renaming, so that the file is complete even after a power failure.
        replace: Replace the target. Otherwise a file that another process has written meanwhile stays.

    Yields:
        The path to write to.

    Raises:
        OSError: It cannot be written there.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with whole_file(folder / "a.txt") as part:
        ...     _ = part.write_text("all of it")
        >>> [path.name for path in folder.iterdir()]
        ['a.txt']
    """
    part = path.with_name(f"{WRITING}{uuid.uuid4().hex}")
    try:
        part.touch(exist_ok=False)
        mode = part.stat().st_mode  # safetensors makes files that nobody else may read
        yield part
        part.chmod(mode)
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        if replace or not _link(part, path):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _link(part: Path, path: Path) -> bool:
    """Give a file its name unless the name is taken; False if this file system cannot do that."""
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        return False
    return True
