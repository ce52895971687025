"""A bank as a table: what each entry holds, and where the bank comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headstart.banks.entry import Entry
from headstart.results.display import Displayable, Table, number

_COLUMNS = ("layer", "atoms", "depth", "clusters", "filters", "shares", "rms", "of centroids", "within")
_SHARES = 4  # that are listed


@dataclass
class Summary(Displayable):
    """The table of a bank.

    Attributes:
        title: The title of the bank.
        entries: The entries; each gets a row.
        provenance: The provenance of the bank.
    """

    title: str
    entries: Sequence[Entry]
    provenance: dict[str, Any]

    def sentences(self) -> list[str]:
        """Where the bank comes from, and its notes."""
        known = self.provenance
        lines = [f"Clusters by {known['distance']} distance, seed {known['seed']}."] if "seed" in known else []
        if known.get("sources"):
            lines.append(f"Made from {', '.join(map(str, known['sources']))}.")
        lines += [f"{word.capitalize()}: {known[word]}" for word in ("licence", "command") if known.get(word)]
        lines += [f"Part: {part.get('title', 'untitled')}." for part in known.get("merged", [])]
        return [*lines, *map(str, known.get("notes", []))]

    def to_tables(self) -> list[Table]:
        """One table with a row per entry."""
        return [Table(_COLUMNS, [_cells(entry) for entry in self.entries])]

    def to_dict(self) -> dict[str, Any]:
        """Everything except the filters as plain values, ready for JSON."""
        rows = [
            {
                "layer": entry.layer,
                "kernel": list(entry.kernel),
                "depthwise": entry.depthwise,
                "whole": entry.whole,
                "depth": entry.depth,
                "sizes": entry.sizes.tolist(),
                "inertia": entry.inertia,
                "norm": entry.norm,
            }
            for entry in self.entries
        ]
        return {"title": self.title, "entries": rows, "provenance": self.provenance}


def _cells(entry: Entry) -> list[str]:
    share = entry.sizes.double() / entry.sizes.sum()
    shown = " ".join(f"{100 * float(s):.0f}%" for s in share[:_SHARES]) + " …" * (len(share) > _SHARES)

    def rms(squares: Any) -> str:
        return number(float((squares.flatten(1).double().square().mean(1) * share).sum().sqrt()))

    return [
        entry.layer or "(pooled)",
        entry.form,
        number(entry.depth),
        str(len(entry)),
        f"{int(entry.sizes.sum()):,}",
        shown,
        number(entry.norm),
        rms(entry.centroids),
        rms(entry.deviations),
    ]
