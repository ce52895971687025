"""Write what the registry knows of every method into its page, between two marks; ``--check`` only compares.

The rest of a page is written by hand.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from marks import with_block, write_or_check

from headstart.engine.method import Method
from headstart.engine.registry import get, list_methods

PAGES = Path(__file__).resolve().parents[1] / "docs" / "methods"
INDEX = PAGES / "README.md"


def page_of(name: str) -> Path:
    """The page of a method: named as the file that defines it."""
    return PAGES / f"{get(name).__module__.rpartition('.')[2]}.md"


def arguments(cls: type[Method]) -> dict[str, str]:
    """Option -> meaning, from the ``Args`` sections of the class and the classes that it extends."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE)
        for item in re.findall(r"^    (\w.*(?:\n     .*)*)", section.group(1) if section else "", re.MULTILINE):
            name, _, text = " ".join(item.split()).partition(": ")
            found[name] = text.replace("``", "`")
    return found


def block(name: str) -> str:
    """What the registry knows, as Markdown."""
    cls = get(name)
    info, meaning = cls.info, arguments(cls)
    lines = [f"Writes {info.scope}. Data: {'needed' if info.needs_data else 'not needed'}. Cost: {info.cost}.", ""]
    options = cls.option_fields()
    if options:
        lines += ["| option | default | meaning |", "|---|---|---|"]
        cells = ([f"`{f.name}`", f"`{f.default!r}`", meaning[f.name]] for f in options)
        lines += ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]
    else:
        lines.append("No options.")
    lines.append("")
    if info.presets:
        lines.append("Presets:")
        for preset in info.presets:
            doc = (inspect.getdoc(getattr(cls, preset)) or "").replace("``", "`")
            lines.append(f"- `{name}:{preset}`. {doc}")
        lines.append("")
    if info.deviations:
        lines += ["What differs from the source:", *(f"- {d}" for d in info.deviations), ""]
    lines.append(f"Source: {info.reference}.")
    return "\n".join(lines)


def index() -> str:
    """The table of all methods."""
    rows = ["| method | what it writes | data | page |", "|---|---|---|---|"]
    for name in list_methods():
        info, page = get(name).info, page_of(name).name
        rows.append(f"| `{name}` | {info.summary} | {'yes' if info.needs_data else 'no'} | [{page[:-3]}]({page}) |")
    return "\n".join(rows)


def pages() -> dict[Path, str]:
    """Every page as it should be."""
    wanted = {INDEX: with_block(INDEX.read_text(encoding="utf-8"), "registry: index", index())}
    for name in list_methods():
        page = page_of(name)
        wanted[page] = with_block(
            wanted.get(page) or page.read_text(encoding="utf-8"), f"registry: {name}", block(name)
        )
    return wanted


if __name__ == "__main__":
    sys.exit(write_or_check(pages, "method_pages.py"))
