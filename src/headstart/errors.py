"""The one exception of the package and its few children.

A message says what failed, where (the layer's qualified name), with which shapes or values, and what to
do about it. Whatever raises, the model is left bit for bit as it was.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeadstartError(RuntimeError):
    """Something could not be done; nothing was changed.

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
    """The data cannot serve: empty, not finite, constant, of the wrong shape or kind."""


class ModelError(HeadstartError):
    """The model cannot be walked or written: meta, wrapped, quantized, scripted, or its forward fails."""


class WriteError(HeadstartError):
    """A weight could not be written so that reading it back gives what was asked."""


class UnknownNameError(HeadstartError):
    """No method, option, task or model has that name; the nearest ones are listed."""


class MissingExtraError(HeadstartError):
    """A feature needs an optional dependency; the message names the extra that brings it.

    Args:
        package: What is not installed, by the name that pip knows.
        extra: Of headstart, which brings it.
        what: What needs it.

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


def unknown(kind: str, name: str, known: Iterable[str], notes: Iterable[str] = ()) -> UnknownNameError:
    """Build the error for a name that is not known, with the nearest names that are.

    Args:
        kind: What has names.
        name: The one that is not known.
        known: Those that are.
        notes: Sentences on why it may be missing.

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
