"""docs/banks.md: what it shows runs, what it names exists."""

import re
from pathlib import Path

import pytest
import torch

import headstart as hs
from headstart.banks import shipped
from headstart.banks.build import BINS, SAMPLE
from headstart.banks.distances import DISTANCES
from headstart.banks.storage import FORMAT

PAGE = Path(__file__).parents[2] / "docs" / "banks.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_code_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra plot)")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {"hs": hs, "torch": torch, "print": lambda *_: None}
    exec(code, names)
    assert names["entry"] is names["bank"].entries[1]
    assert len(names["both"].entries[0]) == 6
    assert (tmp_path / "filters.png").is_file()


def test_names_and_numbers():
    assert re.findall(r"^\| `([\w-]+)` \|", TEXT, re.MULTILINE) == [*DISTANCES, *shipped()]
    assert f"`bins={BINS}`" in TEXT
    assert eval(re.search(r"`sample=([\d*]+)`", TEXT)[1]) == SAMPLE
    assert f"`{FORMAT}`" in TEXT
