"""Protocols: the settings of an experiment from a paper, and what was done about the paper's defects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Version = Literal["published", "corrected"]
VERSIONS: tuple[Version, ...] = ("published", "corrected")
Kind = Literal["reproduced", "corrected", "left out", "differs"]


@dataclass(frozen=True)
class Note:
    """How a protocol treats one point.

    Args:
        kind: ``"reproduced"`` as published; ``"corrected"``; ``"left out"``: it does not arise here; or
            ``"differs"``: headstart does it in another way.
        what: The point, mostly a defect of the publication.
        why: What is done about it, and why.
    """

    kind: Kind
    what: str
    why: str


@dataclass(frozen=True)
class Entry:
    """One point in the register of a paper, and how both versions of its protocols treat it.

    Args:
        what: The point.
        published: How the published version treats it, and why.
        corrected: How the corrected version treats it, and why.
    """

    what: str
    published: tuple[Kind, str]
    corrected: tuple[Kind, str]

    @classmethod
    def always(cls, kind: Kind, what: str, why: str) -> Entry:
        """Make the entry of a point that both versions treat in the same way."""
        return cls(what, (kind, why), (kind, why))

    def note(self, version: Version) -> Note:
        """Return the note for a version."""
        kind, why = self.published if version == "published" else self.corrected
        return Note(kind, self.what, why)


@dataclass(frozen=True)
class Protocol:
    """A paper's comparison as a named configuration.

    Args:
        name: Ends with the version: ``-published`` or ``-corrected``.
        about: A line on what is compared, and on which data.
        paper: Authors, year and title.
        words: The settings that the protocol fixes; the others keep their defaults.
        notes: What was done about the paper's defects.
        variants: Other comparisons of the paper, as command lines with descriptions.
        needs: Settings that the user must give.
    """

    name: str
    about: str
    paper: str
    words: Mapping[str, Any]
    notes: tuple[Note, ...]
    variants: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()
