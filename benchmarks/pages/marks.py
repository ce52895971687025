"""Where the tables of a page lie: between marks. The words around them are written by hand.

A page has a block between ``<!-- tables -->`` and ``<!-- end -->``, and others that have names:
``<!-- tables: NAME -->``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MAIN = "main"
_BLOCK = re.compile(r"(<!-- tables(?:: (?P<name>[\w-]+))? -->\n)(?P<lines>.*?)(<!-- end -->)", re.DOTALL)


class Table(NamedTuple):
    """A table as it is printed.

    Args:
        title: The last words before it.
        head: The cells of its first line.
        rows: The cells of the others.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def blocks(text: str) -> dict[str, str]:
    r"""Return what stands between the marks, by name; the block without a name is ``"main"``.

    Example:
        >>> blocks("a <!-- tables -->\n| b |\n<!-- end --> c")
        {'main': '| b |\n'}
    """
    return {found["name"] or MAIN: found["lines"] for found in _BLOCK.finditer(text)}


def replaced(text: str, new: Mapping[str, Sequence[str]]) -> str:
    """Put lines between the marks, where there are new ones."""

    def block(found: re.Match[str]) -> str:
        name = found["name"] or MAIN
        return f"{found[1]}{_joined(new[name])}{found[4]}" if name in new else found[0]

    return _BLOCK.sub(block, text)


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines).strip("\n") + "\n"


def outside(text: str) -> list[Table]:
    """Return the tables that are not between marks."""
    return tables(_BLOCK.sub("", text))


def tables(text: str) -> list[Table]:
    """Return the tables in a piece of Markdown, in order."""
    return [part for part in parts(text) if isinstance(part, Table)]


def parts(text: str) -> list[Table | str]:
    """Cut a piece of Markdown into tables and the lines around them, without blank ones."""
    found: list[Table | str] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if _cells(line) and at + 1 < len(lines) and re.fullmatch(r"[|:\- ]+", lines[at + 1]):
            end = at
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            words = [part for part in found if isinstance(part, str)]
            title = next((part for part in reversed(words) if part.startswith("#")), "").lstrip("# ")
            found.append(Table(title, _cells(line), tuple(map(_cells, lines[at + 2 : end]))))
            at = end
        else:
            found += [line] if line.strip() else []
            at += 1
    return found


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]) if line.startswith("|") else ()
