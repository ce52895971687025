import json
import shlex
import sys
from pathlib import Path

import pytest

from headstart.bench.settings.config import read
from headstart.cli.main import main

ONE = ("--arms", "lsuv", "--no-controls", "--quiet")


@pytest.fixture
def compare(command, capsys):
    """Run a comparison by the script; give its exit code, output and errors."""

    def call(*arguments, mode=(), trainer=True):
        words = ["--trainer", command(*mode, extra="0")] if trainer else []
        code = main(
            [
                "compare",
                *words,
                "--model",
                "net.py:build",
                "--data",
                "images.npy",
                "--out",
                "out",
                "--exploratory",
                *arguments,
            ]
        )
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_it_answers_and_writes_a_page_in_the_metrics_words(compare, folder):
    code, out, err = compare(*ONE, "--seeds", "2")
    assert (code, err) == (0, "")
    assert "so there is no verdict" in out
    assert "accuracy of: " in out
    assert "4 trials run" in out
    page = (folder / "out" / "report.html").read_text()
    twin = (folder / "out" / "report.md").read_text()
    for text in (out, page, twin):
        assert "train.py" in text
        assert "test accuracy" not in text.partition("How it was decided")[0]
    assert "| arm | accuracy |" in twin
    assert "training.steps" not in page
    code, again, _ = compare(*ONE, "--seeds", "2")
    assert "0 trials run" in again


def test_json_status_export_and_report(compare, folder, capsys):
    data = json.loads(compare(*ONE, "--seeds", "2", "--json", "--lower-is-better", "--metric", "seed")[1])
    assert data["metric"] == {"name": "seed", "lower_is_better": True}
    assert data["arms"][1]["scores"] == {"0": 0.0, "1": 1.0}
    assert data["arms"][1]["comparison"]["differences"] == [0.0, 0.0]
    assert main(["status", "out"]) == 0
    assert "4 of 4 trials done" in capsys.readouterr().out
    assert main(["export", "out", "--out", "rows.csv"]) == 0
    header, first, *_ = (folder / "rows.csv").read_text().splitlines()
    assert dict(zip(header.split(","), first.split(","), strict=True))["score"] == "0.0"
    capsys.readouterr()
    assert main(["report", "out"]) == 0
    assert "lsuv against default" in capsys.readouterr().out


def test_failed_runs_are_shown_with_their_last_lines(compare, folder, capsys):
    code, out, _ = compare(*ONE, "--seeds", "2", mode=("fail",))
    assert code == 0
    assert "! lsuv, seed 1, failed: it ended with exit code 1" in out
    assert "    there is no such layer" in out
    page = (folder / "out" / "report.html").read_text()
    assert "Runs that failed" in page
    assert "there is no such layer" in page
    assert main(["status", "out"]) == 0
    assert "failed: 1" in capsys.readouterr().out


def test_words_of_the_command_line_make_a_file_that_says_the_same(compare, folder):
    assert compare(*ONE, "--write", "mine.toml", "--timeout", "60")[0] == 0
    settings = read("mine.toml").settings
    assert settings["timeout"] == 60
    assert "steps" not in settings
    assert "margin" not in settings
    text = (folder / "mine.toml").read_text()
    assert "# a command of your own trains" in text
    assert main(["compare", "mine.toml", "--exploratory", "--seeds", "1", "--quiet"]) == 0
    assert main(["compare", "mine.toml", "--exploratory", "--seeds", "1", "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "5"), "--steps belongs to headstart's own training"),
        (("--task", "mnist5k"), "--task belongs to headstart's own training"),
        (("--search", "lr=1,2"), "--search belongs to headstart's own training"),
        (("--metric-pattern", "("), "not a regular expression"),
        (("--timeout", "-1"), "timeout is -1"),
        (("--margin", "-1"), "margin is -1"),
        (("--start-format", "pt"), "no format of a start 'pt'"),
    ],
)
def test_what_does_not_go_together_is_one_line(compare, folder, arguments, message):
    code, out, err = compare(*ONE, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", ["--metric", "--metric-pattern", "--timeout", "--model-args"])
def test_words_of_a_trainer_need_one(compare, name):
    code, _, err = compare(name, "5", trainer=False)
    assert code == 2
    assert "needs --trainer" in err


def test_the_command_of_the_page_runs(folder, monkeypatch, capsys):
    page = (Path(__file__).parents[3] / "docs" / "own-trainer.md").read_text(encoding="utf-8")
    words = shlex.split(page.partition("```bash\n")[2].partition("```")[0].replace("\\\n", " "))
    (folder / "train.py").write_text(
        "import argparse, json\n"
        "parser = argparse.ArgumentParser()\n"
        "for name in ('init', 'seed', 'out'): parser.add_argument(f'--{name}', required=True)\n"
        "args = parser.parse_args()\n"
        "assert open(args.init, 'rb').read(8)\n"
        "json.dump({'accuracy': 0.5 + int(args.seed) / 100}, open(args.out, 'w'))\n"
    )
    place = words.index("--trainer") + 1
    words[place] = words[place].replace("python", f"{sys.executable} -S", 1)
    assert main([*words[1:], "--seeds", "1", "--exploratory", "--no-controls", "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [arm["label"] for arm in found["arms"]] == ["default", "auto", "kaiming"]
    assert (folder / "runs" / "mine" / "report.html").is_file()


def test_one_page_over_several_takes_scores_in_percent_alone(compare, folder, capsys):
    for seed in ("3", "4"):
        assert compare(*ONE, "--seeds", f"{seed},", "--out", f"s{seed}")[0] == 0
    assert main(["report", "s3", "s4", "--out", "both"]) == 0
    assert "lsuv in 2 experiments" in capsys.readouterr().out
    page = (folder / "both" / "overview.html").read_text()
    assert "Difference in accuracy to the baseline" in page
    assert "train.py" in page
    assert compare(*ONE, "--seeds", "4,", "--metric", "steps", "--out", "steps")[0] == 0
    assert main(["report", "s3", "steps", "--out", "mixed"]) == 2
    assert "steps, is not in percent" in capsys.readouterr().err
