"""The script that waits for a GPU runs from end to end without one."""

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # a minute: every part of it
def test_all_parts_are_measured_and_the_page_is_written(tmp_path):
    import accelerator

    shutil.copy(ROOT / "docs" / "results" / "accelerator.md", tmp_path)
    accelerator.main(["--device", "cpu", "--small", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "accelerator.json").read_text())
    page = (tmp_path / "accelerator.md").read_text()
    for part in accelerator.PARTS:
        assert "error" not in found[part]
        assert f"### {part.capitalize()}" in page
    assert "Failed:" not in page
    assert "This part waits" not in page
    assert "Before: one NVIDIA H200" in page  # the baseline stays
    assert all(row["2 streams, the same losses"] for row in found["throughput"])
