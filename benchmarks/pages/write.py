"""What a benchmark does with its figures: it writes its file, and has the tables of its page made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pages.check import PAGES, RESULTS, write_page


def finish(found: Mapping[str, Any], stem: str, out: Path | None) -> None:
    """Write what was measured and rewrite the tables of its page, if there is one; or only print the figures.

    Args:
        found: What was measured, ready for JSON.
        stem: Of the file and of the page.
        out: The folder of both; None to print.
    """
    text = json.dumps(found, indent=1) + "\n"
    if out is None:
        print(text)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{stem}.json").write_text(text)
    if (out / f"{stem}.md").exists():
        write_page(out / f"{stem}.md", out)
    for lines in PAGES[RESULTS / f"{stem}.md"].blocks(out).values():
        print("\n".join([*lines, ""]))
