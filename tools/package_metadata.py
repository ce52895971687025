"""What the build adds to the package's metadata: the README as a package index shows it, and addresses.

Relative links lead nowhere on an index. HEADSTART_REPOSITORY names the repository's address (the release workflow sets
it); then they lead there, to the tag of this version. Without it they become plain text, and pictures are left out.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

try:
    from hatchling.metadata.plugin.interface import MetadataHookInterface as _Hook
except ImportError:  # outside of a build, for the tests
    _Hook = object

LINKED_PICTURE = re.compile(r"\[!\[([^\]]*)\]\(([^)\s:]+)\)\]\(([^)\s:]+)\)\n*")
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s:]+)\)")


def readme(text: str, repository: str, version: str) -> str:
    """Make every relative link of a README absolute.

    Args:
        text: Markdown.
        repository: Its address; empty if it is not known.
        version: Whose tag the links lead to.

    Example:
        >>> readme("See [the contract](docs/contract.md).", "https://example.org/a/b", "0.2.0")
        'See [the contract](https://example.org/a/b/blob/v0.2.0/docs/contract.md).'
        >>> readme("See [the contract](docs/contract.md).", "", "0.2.0")
        'See the contract.'
    """
    if not repository:
        return LINK.sub(r"\1", LINKED_PICTURE.sub("", text))
    at = f"{repository.rstrip('/')}/{{}}/v{version}/"
    text = LINKED_PICTURE.sub(rf"[![\1]({at.format('raw')}\2)]({at.format('blob')}\3)\n\n", text)
    return LINK.sub(rf"[\1]({at.format('blob')}\2)", text)


class CustomMetadataHook(_Hook):
    """Called by the build."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what pyproject.toml calls dynamic."""
        root = Path(self.root)
        repository = os.environ.get("HEADSTART_REPOSITORY", "")
        found = re.search(r'__version__ = "(.+)"', (root / "src/headstart/version.py").read_text(encoding="utf-8"))
        text = readme((root / "README.md").read_text(encoding="utf-8"), repository, found[1] if found else "")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        if repository:
            metadata["urls"] = {"Source": repository, "Changelog": f"{repository.rstrip('/')}/blob/main/CHANGELOG.md"}
