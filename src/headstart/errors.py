"""The one exception of the package and its few children.

A message says what failed, where (the layer's qualified name), with which shapes or values, and what you can
do about it. After any error, the model is bit for bit as it was.
"""

from __future__ import annotations

import difflib
import importlib.util
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ContextDecorator, contextmanager
from pathlib import Path
from types import TracebackType

_LONGEST = 600  # characters of a message that are quoted
_TORCH = importlib.util.find_spec("torch")
_OURS = (str(Path(__file__).parent), str(Path(_TORCH.origin or "torch").parent) if _TORCH else "torch", "<frozen")
_PYTHON = sysconfig.get_path("stdlib")


class HeadstartError(RuntimeError):
    """The base of all errors. The call failed, and nothing was changed.

    Args:
        message: What failed, where and with which shapes or values.
        remedy: What the user can do about it, as a full sentence.

    Example:
        >>> print(HeadstartError("Layer 'conv1' has 0 filters.", remedy="Exclude it."))
        Layer 'conv1' has 0 filters. Exclude it.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message} {remedy}".strip())


class DataError(HeadstartError):
    """The data cannot be used: empty, not finite, constant, or of the wrong shape or kind."""


class ModelError(HeadstartError):
    """The model cannot be run or written: on the meta device, wrapped, quantized or scripted, or its forward fails."""


class WriteError(HeadstartError):
    """A weight cannot be written, or reads back different from what was written."""


class UnknownNameError(HeadstartError):
    """No method, option, task or model has that name; the nearest ones are listed."""


class MissingExtraError(HeadstartError):
    """A feature needs an optional dependency; the message names the extra that brings it.

    Args:
        package: The missing package, by its name on the package index.
        extra: The extra of headstart that installs it.
        what: The feature that needs it.

    Example:
        >>> print(MissingExtraError(package="ray", extra="ray", what="--ray"))
        --ray needs the package 'ray', which is not installed or does not import. Install it with: pip install
        'headstart[ray]'.
    """

    def __init__(self, *, package: str, extra: str, what: str) -> None:
        super().__init__(
            f"{what} needs the package '{package}', which is not installed or does not import.",
            remedy=f"Install it with: pip install 'headstart[{extra}]'.",
        )


@contextmanager
def needs_extra(*, package: str, extra: str, what: str) -> Iterator[None]:
    """Turn a failed import inside the context into one error that names the extra.

    Args:
        package: As for `MissingExtraError`.
        extra: As there.
        what: As there.

    Raises:
        MissingExtraError: If the import fails.

    Example:
        >>> with needs_extra(package="torch", extra="bench", what="Everything"):
        ...     import torch
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(package=package, extra=extra, what=what) from error


class MissingHostError(HeadstartError, ImportError):
    """An integration was imported, but its host is not installed. Also an ``ImportError``."""


def unknown(kind: str, name: str, known: Iterable[str], notes: Iterable[str] = ()) -> UnknownNameError:
    """Build the error for an unknown name; it lists the nearest known names.

    Args:
        kind: The kind of thing, such as ``"method"``.
        name: The unknown name.
        known: The known names.
        notes: Sentences that say why it may be missing.

    Example:
        >>> print(unknown("method", "prewram", ["prewarm", "lsuv"]))
        There is no method 'prewram'. Did you mean 'prewarm'? Known: lsuv, prewarm.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UnknownNameError(
        " ".join([f"There is no {kind} {name!r}.", *notes]), remedy=f"{hint}Known: {', '.join(names)}."
    )


class one_error(ContextDecorator):  # noqa: N801 - reads as a verb phrase in a with statement and as a decorator
    """Turn any other exception inside the context into one error that quotes it and says where it came from.

    This is a class because a generator with ``contextmanager`` cannot turn a ``StopIteration`` into another error.

    Args:
        what: What failed. A colon and the quotation follow it.
        kind: Of the error.
        remedy: What to do. By default: correct the code that raised it, or report a defect if that is this package.

    Raises:
        HeadstartError: Of the type ``kind``; one that is already a HeadstartError passes unchanged.

    Example:
        >>> with one_error("The reader failed on batch 3"):
        ...     {}["label"]
        Traceback (most recent call last):
            ...
        headstart.errors.HeadstartError: The reader failed on batch 3: KeyError: 'label' (raised in <doctest ...).
        Mend the code that raises it, or leave that part out (exclude=, get_inputs=).
    """

    def __init__(self, what: str, kind: type[HeadstartError] | None = None, remedy: str = "") -> None:
        self._what, self._kind, self._remedy = what, kind or HeadstartError, remedy

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not isinstance(error, Exception) or isinstance(error, HeadstartError):
            return
        place = origin(error)
        default = (
            "Mend the code that raises it, or leave that part out (exclude=, get_inputs=)."
            if place
            else "This may be a defect of headstart: please report it, with this traceback."
        )
        raise self._kind(f"{self._what}: {quote(error)}{place}.", remedy=self._remedy or default) from error


def quote(error: BaseException) -> str:
    r"""An error's type and message in one line, ready to be followed by a full stop.

    Example:
        >>> quote(ValueError("two\n  lines."))
        'ValueError: two lines'
    """
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a message that cannot be made is none
        lines = []
    if any(line.startswith("Original Traceback") for line in lines):  # a loader's worker sends all of its own
        lines = lines[-1:]
    text = " ".join(" ".join(lines).split()).rstrip(".")
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    name = type(error).__name__
    return text if text.startswith(f"{name}: ") else f"{name}: {text}" if text else name


def origin(error: BaseException) -> str:
    """Where the user's code or a library of theirs raised an error, as `` (raised in ...)``; empty if neither did."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_theirs(f.filename)]
    if not frames:
        return ""
    last = frames[-1]
    code = f" by `{last.line}`" if last.line else ""
    return f" (raised in {last.filename}, line {last.lineno}, in {last.name}{code})"


def _is_theirs(file: str) -> bool:
    """Whether code belongs neither to this package, nor to torch, nor to Python itself."""
    python = file.startswith(_PYTHON) and "site-packages" not in file and "dist-packages" not in file
    return not python and not file.startswith(_OURS)
