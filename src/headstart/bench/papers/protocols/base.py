"""What a protocol is: words of an experiment as a paper says them, and what became of the paper's defects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Version = Literal["published", "corrected"]
VERSIONS: tuple[Version, ...] = ("published", "corrected")
Kind = Literal["reproduced", "corrected", "left out", "differs"]


@dataclass(frozen=True)
class Note:
    """What a protocol does about one thing.

    Args:
        kind: ``"reproduced"`` as published; ``"corrected"``; ``"left out"``: it does not arise here; or
            ``"differs"``: headstart does it in another way.
        what: The thing: mostly a defect of what was published.
        why: What is done about it, and why.
    """

    kind: Kind
    what: str
    why: str


@dataclass(frozen=True)
class Entry:
    """One thing in the register of a paper, and what both versions of its protocols do about it.

    Args:
        what: The thing.
        published: What the published version does about it, and why.
        corrected: The same of the corrected version.
    """

    what: str
    published: tuple[Kind, str]
    corrected: tuple[Kind, str]

    @classmethod
    def always(cls, kind: Kind, what: str, why: str) -> Entry:
        """Make the entry of a thing that both versions treat alike."""
        return cls(what, (kind, why), (kind, why))

    def note(self, version: Version) -> Note:
        """Return what a version does."""
        kind, why = self.published if version == "published" else self.corrected
        return Note(kind, self.what, why)


@dataclass(frozen=True)
class Protocol:
    """How a paper compared, as a named configuration.

    Args:
        name: Ends with the version: ``-published`` or ``-corrected``.
        about: What is compared on what, in a line.
        paper: Authors, year and title.
        words: Those words of an experiment that the protocol says; the others keep their defaults.
        notes: What became of the paper's defects.
        variants: Other command lines that the paper ran, with what they are.
        needs: Words that the user has to say.
    """

    name: str
    about: str
    paper: str
    words: Mapping[str, Any]
    notes: tuple[Note, ...]
    variants: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()
