import json
from pathlib import Path

import pytest

from headstart.bench.settings.config import tomllib
from headstart.cli import _checkup
from headstart.cli._checkup import look
from headstart.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def told(monkeypatch):
    """Pretend that headstart's metadata say what it needs, and that packages have the versions given."""

    def pretend(requires, versions):
        def version(name):
            if name not in versions:
                raise _checkup.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(_checkup.metadata, "requires", lambda name: requires)
        monkeypatch.setattr(_checkup.metadata, "version", version)
        monkeypatch.setattr(_checkup, "_import_problem", lambda module: "")

    return pretend


def test_json_has_all_that_a_report_of_a_fault_needs(capsys, monkeypatch):
    monkeypatch.setattr(_checkup, "_import_problem", lambda module: "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"versions", "core", "extras", "devices", "threads", "folders", "tasks", "advice"}
    assert {"torch", "numpy", "safetensors"} <= {package["name"] for package in found["core"]}
    assert all(package["state"] == "ok" for package in found["core"])
    assert found["threads"]["OMP_NUM_THREADS"] == "1"
    assert found["tasks"]["cifar10"] in ("there", "missing", "incomplete")
    assert found["devices"][0][0] == "cpu"


def test_lines_name_every_part(capsys, monkeypatch):
    monkeypatch.setattr(_checkup, "_import_problem", lambda module: "")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for heading in ("Versions", "Needed", "Devices", "Threads", "Extras", "Folders", "Data sets"):
        assert f"\n{heading}\n" in f"\n{out}"


def test_what_is_missing_comes_with_the_command_that_installs_it(told):
    told(
        [
            "torch>=2.4",
            "numpy>=99",
            "ray>=2.30; extra == 'ray'",
            "timm>=1.0; extra == 'timm'",
            'tomli>=2; python_version < "3.0"',
        ],
        {"torch": "2.4.1+cpu", "numpy": "2.0", "timm": "1.0.3"},
    )
    found = look()
    assert [(p.name, p.state) for p in found.core] == [("torch", "ok"), ("numpy", "broken")]
    assert found.extras["timm"][0].state == "ok"
    assert "numpy 2.0 older than 99: pip install 'numpy>=99'" in found.advice
    assert any("pip install 'headstart[ray]' (ray missing)" in line for line in found.advice)
    assert not any("headstart[timm]" in line for line in found.advice)


def test_a_package_that_import_problem_is_broken(told, monkeypatch):
    told(["torchvision>=0.19; extra == 'torchvision'"], {"torchvision": "0.28.0"})
    monkeypatch.setattr(_checkup, "_import_problem", lambda module: "does not import: RuntimeError: nms")
    found = look()
    assert found.extras["torchvision"][0].state == "broken"
    assert any("built for another torch" in line for line in found.advice)


def test_the_import_is_tried_in_a_process_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "fragile.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert _checkup._import_problem("fragile") == "does not import: RuntimeError: operator nms does not exist"
    assert _checkup._import_problem("json") == ""


def test_every_extra_that_users_install_is_described():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) - set(_checkup.EXTRAS) <= {"test", "dev", "docs"}
    assert set(_checkup.EXTRAS) <= set(project["optional-dependencies"])


def test_folders_that_are_not_there_yet_and_cannot_be_written(tmp_path, monkeypatch):
    found = _checkup._folder("data", tmp_path / "a" / "b")
    assert (found["there"], found["writable"]) == (False, True)
    monkeypatch.setattr(_checkup.os, "access", lambda *args: False)
    assert "cannot be written" in _checkup._about_folder(_checkup._folder("data", tmp_path))
