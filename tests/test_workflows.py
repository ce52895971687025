"""The workflows of the repository parse, and whatever they name is there."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path):
    found = yaml.safe_load(path.read_text())
    found["on"] = found.pop(True, found.get("on"))  # YAML 1.1 reads the key `on` as true
    return found


def commands(job):
    return [step["run"] for step in job.get("steps", []) if "run" in step]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_job_says_where_it_runs_and_each_step_does_one_thing(path):
    workflow = load(path)
    assert workflow["on"]
    assert workflow["permissions"] == {"contents": "read"}  # a job that needs more asks for it
    for name, job in workflow["jobs"].items():
        assert ("uses" in job) != ("runs-on" in job), name
        assert all(("uses" in step) != ("run" in step) for step in job.get("steps", [])), name
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= set(workflow["jobs"]), name
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_the_steps_call_exists(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = [command for job in load(path)["jobs"].values() for command in commands(job)]
    assert called
    for command in called:
        words = command.split()
        if words[0] == "make":
            assert words[1] in targets
        for word in words:
            if word.endswith(".py"):
                assert (ROOT / word).is_file()


def test_the_tests_run_on_every_python_that_the_package_promises():
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert load(ROOT / ".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert len(named) == 4
