"""What is released: one version everywhere, a README that an index can show, commands that do without extras."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from headstart.cli._command import NEEDS
from headstart.version import __version__

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Runs each command where no package of an extra can be imported, and prints exit codes and what was said.
WITHOUT_EXTRAS = """
import contextlib, importlib.util, io, json, os, shlex, sys
import torch
for package in ("matplotlib", "PIL", "lightning_fabric", "mlxtend", "torchvision", "timm", "shtab"):
    sys.modules[package] = None
sys.path.insert(0, sys.argv[1])
import smoke
from headstart.cli.main import main
from pathlib import Path
Path("net.py").write_text(smoke.NET)
Path("scores.csv").write_text(smoke.SCORES)
Path("pictures").mkdir()
Path("pictures/a.png").touch()
found = {}
for line in [*smoke.ALONE, *smoke.NEEDS]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(shlex.split(line))
        except SystemExit as end:
            code = end.code
    found[line] = [code, " ".join(said.getvalue().split())]
print(json.dumps(found))
"""


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d\S+) \((.*)\)$", changelog, re.MULTILINE)[0] == (
        __version__,
        str(citation["date-released"]),
    )


def test_no_link_of_the_readme_on_an_index_is_relative(load_tool):
    made = load_tool("package_metadata").readme(README, "https://example.org/a/b", "1.2.3")
    links = re.findall(r"\]\(([^)]+)\)", made)
    assert len(links) == len(re.findall(r"\]\(([^)]+)\)", README))
    assert all(re.match(r"https://example\.org/a/b/(blob|raw)/v1\.2\.3/", link) for link in links)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", made)
    assert pictures
    assert all("/raw/" in picture for picture in pictures)
    without = load_tool("package_metadata").readme(README, "", "1.2.3")
    assert "](" not in without


@pytest.mark.slow
def test_the_core_runs_alone_and_what_it_cannot_names_its_extra(load_tool, tmp_path):
    smoke = load_tool("smoke")
    command = [sys.executable, "-c", WITHOUT_EXTRAS, ROOT / "tools"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": ROOT / "src"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for line in smoke.ALONE:
        assert found[line][0] == 0, (line, found[line][1])
    for line, extra in smoke.NEEDS.items():
        assert found[line][0] == 2, line
        assert f"headstart[{extra}]" in found[line][1], line


def test_commands_that_need_an_extra_are_tried_without_it(load_tool):
    smoke = load_tool("smoke")
    tried = {line.split()[0]: extra for line, extra in smoke.NEEDS.items()}
    assert {name: tried.get(name) for name in NEEDS if name != "report"} == {
        name: extra for name, extra in NEEDS.items() if name != "report"
    }  # a report needs trials, which need the extra as well
