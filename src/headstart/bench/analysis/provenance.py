"""Where trials were run: what differs between them that should not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mixed(provenances: list[Mapping[str, Any]]) -> list[str]:
    """Note what differs between trials that should not."""
    notes = []
    for name, values in (
        ("versions", [str(sorted(p.get("versions", {}).items())) for p in provenances]),
        ("machines", [str(sorted(p.get("machine", {}).items())) for p in provenances]),
        ("thread counts", [str(p.get("threads")) for p in provenances]),
        ("commits", [str(p.get("commit")) for p in provenances]),
    ):
        if len(set(values)) > 1:
            notes.append(f"The trials were run with {len(set(values))} different {name}.")
    return notes
