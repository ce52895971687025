"""The scaffold of a method: all of it is there and runs, and it cannot pass before it has an oracle."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import headstart as hs
from headstart.conformance import CHECKS

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tools", "docs/methods", "tests/conftest.py", "tests/methods/conftest.py", "pyproject.toml")
NEW = [
    "docs/methods/soft_start.md",
    "src/headstart/methods/soft_start.py",
    "tests/methods/test_soft_start.py",
]


def run(tree, *command):
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=tree, env=environment, capture_output=True, text=True, timeout=600
    )


def contents(tree):
    files = (p for p in tree.rglob("*") if p.is_file() and p.suffix != ".pyc")
    return {p.relative_to(tree).as_posix(): p.read_bytes() for p in files}


def copy(tree):
    for name in COPIED:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the sources with a new method ``soft-start``."""
    folder = copy(tmp_path_factory.mktemp("tree"))
    before = contents(folder)
    done = run(folder, "tools/new_method.py", "soft-start")
    assert done.returncode == 0, done.stderr
    after = contents(folder)
    assert sorted(after.keys() - before.keys()) == NEW
    assert sorted(name for name in before if before[name] != after[name]) == [
        "docs/methods/README.md",
        "src/headstart/__init__.py",
        "src/headstart/methods/__init__.py",
    ]
    return folder


def load(folder):
    spec = importlib.util.spec_from_file_location("new_method", folder / "tools" / "new_method.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


IN_THE_COPY = """
import sys
import pytest
import headstart as hs
sys.path.insert(0, "tools")
import method_pages
print("soft-start" in hs.list_methods(), hs.SoftStart(), hs.methods.SoftStart())
print([page.name for page, text in method_pages.pages().items() if page.read_text() != text])
sys.exit(pytest.main(["-q", "-n0", "tests/methods/test_soft_start.py"]))
"""


def test_it_is_there_and_keeps_the_contract_and_fails_for_want_of_an_oracle(tree):
    done = run(tree, "-c", IN_THE_COPY)
    assert done.stdout.splitlines()[:2] == ["True SoftStart(scale=0.1) SoftStart(scale=0.1)", "[]"]
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    assert failed == ["tests/methods/test_soft_start.py::test_against_an_oracle"]
    assert f"1 failed, {len(CHECKS) + 1} passed" in done.stdout
    assert "SoftStart has no oracle yet" in done.stdout
    page = (tree / "docs/methods/soft_start.md").read_text()
    assert "| `scale` | `0.1` |" in page.partition("<!-- registry: soft-start -->")[2].partition("<!-- end -->")[0]


@pytest.mark.parametrize("name", ["soft-start", "a", "zz-last", "l2-norm", "prewash", "with-thirty-letters-in-it-only"])
def test_what_it_writes_passes_the_linter_wherever_it_is_sorted_in(name, tmp_path):
    pytest.importorskip("ruff", reason="the extra dev brings it")
    copy(tmp_path)
    for path, text in load(tmp_path).wanted(name).items():
        path.write_text(text)
    for command in (["check"], ["format", "--check"]):
        done = run(
            tmp_path,
            "-m",
            "ruff",
            *command,
            "--no-cache",
            "src/headstart/methods",
            "src/headstart/__init__.py",
            "tests",
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("soft-start", "There is a method 'soft-start' already"),
        ("prewarm", "There is a method 'prewarm' already"),
        ("data-dependent", "There is a method 'data-dependent' already"),
        ("transfer", "src/headstart/methods/transfer.py exists"),
        ("shared", "src/headstart/methods/shared exists"),
        ("report", "headstart.Report is taken"),
        ("import", "'import' is a word of Python"),
        ("Sparse", "no name"),
        ("soft_start", "no name"),
        ("two words", "no name"),
        ("-x", "no name"),
        ("2fast", "no name"),
        ("../evil", "no name"),
        ("", "no name"),
        ("x" * 31, "30 letters at most"),
    ],
)
def test_a_name_that_cannot_be_taken_is_refused_and_nothing_is_written(tree, name, told, capsys, monkeypatch):
    before = contents(tree)
    monkeypatch.setattr(sys, "argv", ["new_method.py", "--", name])
    assert load(tree).main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert contents(tree) == before


def test_the_names_that_it_reads_are_those_of_the_registry():
    assert sorted(load(ROOT).registered()) == hs.list_methods()
