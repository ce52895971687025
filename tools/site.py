"""Hooks of the site: links out of it become text, lists get an empty line before them, folders become their pages.

Pages are written for the repository first, where a link to a source file works. The site holds no sources.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

LIST = re.compile(r"^(?!(?:[-*|#>\s]|\d+\. |<!--))(.*\S.*)\n(?=(?:[-*]|\d+\.) )", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)\s#]*|[^)\s#:]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Turn links that leave the site into their text; one to the README leads home. Part lists from what is before.

    A repository shows a list right below a line of text; the site's Markdown takes it for more of that line.
    """
    here = posixpath.dirname(page.file.src_uri)
    known = {file.src_uri for file in files}

    def replaced(found: re.Match[str]) -> str:
        text, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        path = posixpath.normpath(posixpath.join(here, target))
        if path == "../README.md":
            home = posixpath.relpath("index.md", here or ".")
            return f"[{text}]({home})"
        if path.startswith("../"):
            return text
        if path not in known and f"{path}/README.md" in known:
            return f"[{text}]({target.rstrip('/')}/README.md{anchor})"
        return found.group(0)

    if page.file.src_uri == "changes.md":
        changelog = (Path(config["docs_dir"]).parent / "CHANGELOG.md").read_text(encoding="utf-8")
        markdown += "\n" + changelog.partition("\n\n")[2].replace("](docs/", "](")
    return "".join(
        part if part.startswith("```") else LIST.sub(r"\1\n\n", LINK.sub(replaced, part))
        for part in re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    )


def on_config(config: Any) -> Any:
    """Put all pages of a folder in place of its name in the navigation, its README first."""
    config["nav"] = _expanded(config["nav"], Path(config["docs_dir"]))
    return config


def _expanded(nav: Any, docs: Path) -> Any:
    if isinstance(nav, list):
        return [_expanded(entry, docs) for entry in nav]
    if isinstance(nav, dict):
        return {name: _expanded(entry, docs) for name, entry in nav.items()}
    if nav.endswith("/"):
        pages = sorted((docs / nav).glob("*.md"), key=lambda path: (path.name != "README.md", path.name))
        return [page.relative_to(docs).as_posix() for page in pages]
    return nav
