import importlib.util
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recompute():
    before = list(sys.path)
    yield load(ROOT / "tools" / "recompute.py")
    sys.path[:] = before


@pytest.fixture
def copy(tmp_path):
    """The pages and their files, elsewhere."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png", "methods"))
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def change(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1, old
    path.write_text(text.replace(old, new, 1))


def test_every_page_prints_what_its_files_give(recompute, capsys):
    assert recompute.main([]) == 0, capsys.readouterr().out


def test_what_was_changed_is_named_and_written_anew(recompute, copy, capsys):
    results = copy / "docs" / "results"
    change(results / "auto.md", "| 16.60 | +8.71 |", "| 16.60 | +8.77 |")
    change(results / "starts.csv", "plain-fashion,auto,,,0,done,6", "plain-fashion,auto,,,0,done,5")
    (slope,) = re.findall(r"\| forward \| ([0-9.]+) \|", (results / "growth.md").read_text())
    change(results / "growth.md", f"| forward | {slope} |", "| forward | 9.99 |")
    change(results / "samples-stated.csv", "cifar100,smart-init,,228", "cifar100,smart-init,,229")
    change(results / "load.md", "10,000 trials are reported", "20,000 trials are reported")
    change(results / "clusters.md", "<!-- tables: moved -->", "<!-- moved -->")
    (results / "new.md").write_text("# New\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    (results / "marked.md").write_text("<!-- tables -->\n| a |\n|---|\n<!-- end -->\n")
    assert recompute.main(["--root", str(copy)]) == 1
    found = capsys.readouterr().out.splitlines()
    table = "docs/results/auto.md, block 'main', table 3 (Plain, 5 layers, no norm)"
    assert f"{table}, row 'k-means-balanced', column 'difference': printed '+8.77', recomputed '+8.71'" in found
    row = "row '20 plain layers, no norm · Fashion-MNIST', column 'auto': printed '**+56.70"
    assert any(line.startswith("README.md, block 'main', table 1") and row in line for line in found)
    assert any(line.startswith("docs/results/starts.md, block 'main', table 1") and row in line for line in found)
    table = "docs/results/growth.md, block 'main', table 1"
    assert f"{table}, row 'forward', column 'batch 16 to 256': printed '9.99', recomputed '{slope}'" in found
    table = "docs/results/samples.md, block 'main', table 1 (CIFAR-100, published rate and schedule)"
    change_of_steps = "printed '3.86 s = 228 steps', recomputed '3.86 s = 229 steps'"
    assert f"{table}, row 'smart-init', column 'takes†': {change_of_steps}" in found
    assert any("load.md, block 'about', a line between the tables: printed '**20,000 trials" in line for line in found)
    assert "docs/results/clusters.md: the block 'moved' is missing." in found
    assert any(line.startswith("docs/results/clusters.md: a table outside of the marks: layer | ") for line in found)
    assert "docs/results/new.md: a table outside of the marks: a | b" in found
    assert "docs/results/marked.md: nothing recomputes the block 'main'." in found
    assert "docs/results/README.md: lists new.md 0 times." in found

    change(results / "clusters.md", "<!-- moved -->", "<!-- tables: moved -->")
    (results / "new.md").unlink()
    (results / "marked.md").unlink()
    assert recompute.main(["--root", str(copy), "--write"]) == 0, capsys.readouterr().out
    assert "3.86 s = 229 steps" in (results / "samples.md").read_text()
    assert (results / "auto.md").read_text() == (ROOT / "docs" / "results" / "auto.md").read_text()


def test_steps_to_an_accuracy_lie_on_the_line_over_the_logarithms(recompute):
    from pages.budgets import steps_to

    values = np.array([[10.0, 20, 40], [10, 20, 40], [10, 20, 40], [10, 8, 12], [10, 8, 12], [30, 30, 31]])
    found = steps_to(np.array([30.0, 20.0, 41.0, 9.0, 11.0, 30.0]), np.array([50.0, 100.0, 400.0]), values)
    expected = [200.0, 100.0, np.inf, np.nan, 100 * 4**0.75, 50.0]
    assert found == pytest.approx(expected, nan_ok=True)
