"""How findings name layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headstart.diagnosis.rows import LayerHealth


def names(rows: Sequence[LayerHealth]) -> tuple[str, ...]:
    """The layers' names."""
    return tuple(r.name for r in rows)


def listed(rows: Sequence[LayerHealth]) -> str:
    """A single layer by its label; several by their number and some names."""
    return f"{len(rows)} layers ({some(r.name for r in rows)})" if len(rows) > 1 else rows[0].label


def some(items: Iterable[str]) -> str:
    """The first four names."""
    every = list(items)
    return ", ".join(f"'{n}'" for n in every[:4]) + (f" and {len(every) - 4} more" if len(every) > 4 else "")


def count(items: Sequence[object], one: str, many: str) -> str:
    """A number with its noun."""
    return f"{len(items)} {one if len(items) == 1 else many}"
