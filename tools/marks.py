"""Parts of pages that are written by a tool, between two marks, and the loop that writes or compares them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def with_block(text: str, mark: str, content: str) -> str:
    """Put the content between ``<!-- mark -->`` and ``<!-- end -->``.

    Raises:
        ValueError: The text has no such marks.
    """
    start, end = f"<!-- {mark} -->", "<!-- end -->"
    before, found, rest = text.partition(start)
    if not found or end not in rest:
        raise ValueError(f"no {start} … {end}")
    return f"{before}{start}\n{content}\n{end}{rest.partition(end)[2]}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Write a table as Markdown."""
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    lines = [head, ("---",) * len(head), *cells]
    return "\n".join("|" + "|".join(row) + "|" if row[0] == "---" else "| " + " | ".join(row) + " |" for row in lines)


def write_or_check(pages: Callable[[], dict[Path, str]], tool: str) -> int:
    """Write the pages that are out of date, or with ``--check`` name them.

    Args:
        pages: Gives every page as it should be.
        tool: What to run.

    Returns:
        The exit code.
    """
    wanted = pages()
    check = "--check" in sys.argv[1:]
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    for page in stale:
        if check:
            print(f"{page} is out of date: run python tools/{tool}")
        else:
            page.write_text(wanted[page], encoding="utf-8")
            print(f"wrote {page}")
    return 1 if stale and check else 0
