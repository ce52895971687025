"""What the tutorial, the first page and the guides show is what happens: all their Python and commands run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from headstart.cli.main import main

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["tutorial.md", "index.md", *sorted(f"guides/{page.name}" for page in (DOCS / "guides").glob("*.md"))]
BLOCK = re.compile(
    r"(<!-- not run: .*-->\n)?```(python|bash)\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE
)
# The last of two equal options counts: short trainings, nothing timed, and no controls instead of what the page shows.
SHORT = shlex.split(
    "--quiet --steps 2 --evaluations 1 --seeds 2 --exploratory --no-controls"
    " --precision float32 --memory-format contiguous"
)


@pytest.mark.parametrize("page", PAGES)
def test_all_that_the_page_shows_runs(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip("PIL", reason="folders of images need Pillow (extra bench)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delitem(sys.modules, "net", raising=False)
    names: dict[str, object] = {"__name__": "page"}
    for skipped, language, block, shown in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        if language == "bash":
            if not skipped and not block.startswith("pip install"):
                run(block.replace("\\\n", ""), shown, capsys)
        elif saved := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / saved[1]).write_text(block)
        else:
            exec(compile(block, page, "exec"), names)
    sys.modules.pop("net", None)


def run(command: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one command, trainings short, and look for each line that the page shows of its output."""
    program, *words = shlex.split(command)
    assert program == "headstart"
    trains = words[0] == "compare" and "--dry-run" not in words
    assert main(words + SHORT * trains) == 0, command
    out, err = capsys.readouterr()
    for line in filter(None, shown.splitlines()):
        assert line in out + err, command


def test_the_guides_are_all_in_the_navigation_and_named_on_the_first_page():
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    first = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in PAGES[2:]:
        assert f": {page}\n" in navigation
        assert f"({page})" in first
