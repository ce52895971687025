import csv
import io
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import markupsafe
import pytest

import headstart.bench
import headstart.cli
from headstart.bench import Store
from headstart.bench.settings.config import read
from headstart.bench.settings.words import defaults, experiment, parse_seeds
from headstart.bench.trials.arms import parse_arms
from headstart.cli import main as dispatcher
from headstart.cli.main import main
from headstart.errors import HeadstartError
from headstart.results.sheet import inert

SMALL = ["--steps", "4", "--batch-size", "16", "--evaluations", "2", "--calibration", "32", "--quiet", "--exploratory"]


@pytest.fixture
def compare(task_file, tmp_path):
    """Run a small comparison in a folder of its own; what is given is added to the command line."""

    def call(*arguments):
        return main(["compare", "--task", task_file, "--out", str(tmp_path / "out"), *SMALL, *arguments])

    return call


def test_compare_answers_and_writes_a_page(compare, tmp_path, capsys):
    assert compare("--arms", "prewarm", "--seeds", "2") == 0
    out = capsys.readouterr().out
    assert "prewarm against default" in out
    assert re.search(r"Exploratory, so there is no verdict. Run (at least|about) \d+ seeds.", " ".join(out.split()))
    assert "└ matched-random" in out
    assert "12 trials run" in out
    assert "<!doctype html>" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "report.md").is_file()


def test_the_table_fits_80_columns_with_nothing_cut(compare, capsys):
    compare("--arms", "prewarm", "--seeds", "2")
    table = capsys.readouterr().out.split("\n\n")[1]
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "…" not in table
    assert len(table.splitlines()) == 7


def test_a_design_that_cannot_reach_a_verdict_is_refused_before_it_runs(task_file, tmp_path, capsys):
    line = ["compare", "--task", task_file, "--out", str(tmp_path / "out"), *SMALL[:-1]]
    assert main([*line, "--arms", "lsuv", "kaiming", "--seeds", "6"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "With 6 seeds no verdict on 2 arms is possible" in said
    assert "Pass --seeds 7, or --exploratory" in said
    assert not (tmp_path / "out").exists()


def test_an_exploratory_comparison_has_no_verdict_words(compare, tmp_path, capsys):
    compare("--arms", "lsuv", "--no-controls", "--seeds", "3", "--json")
    data = json.loads(capsys.readouterr().out)
    assert data["arms"][1]["comparison"]["verdict"] is None
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text().partition("How it was decided")[0]
        assert "exploratory" in text.lower()
        assert not [word for word in ("helps", "hurts", "no clear difference", "not settled") if word in text.lower()]


@pytest.mark.parametrize(("arms", "seeds"), [(["lsuv"], 8), (["lsuv", "prewarm", "whitening"], 8), (None, 8)])
def test_without_a_number_there_are_as_many_seeds_as_a_verdict_needs(arms, seeds):
    made = experiment({**defaults(), **({"arms": arms} if arms else {})})
    assert len(made.seeds) == seeds
    many = [f"a{i}=prewarm:fraction=0.{i}" for i in range(1, 9)]
    assert len(experiment({**defaults(), "arms": many}).seeds) == 9
    assert "auto" in [arm.label for arm in experiment(defaults()).arms]


def test_compare_goes_on_with_more_seeds(compare, capsys):
    compare("--arms", "lsuv", "--no-controls", "--seeds", "1")
    compare("--arms", "lsuv", "--no-controls", "--seeds", "0-2")
    assert "4 trials run" in (out := capsys.readouterr().out)
    assert "2 existed already" in out


def test_json_is_all_that_is_printed(compare, capsys):
    assert compare("--arms", "within-layer", "--no-controls", "--seeds", "2", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert [arm["label"] for arm in data["arms"]] == ["default", "within-layer"]
    assert set(data["arms"][1]["test_accuracy"]) == {"0", "1"}
    assert data["page"].endswith("report.html")
    assert data["provenance"]["command"][0] == "headstart"


def test_report_makes_the_same_again(compare, tmp_path, capsys):
    compare("--arms", "prewarm", "--seeds", "2", "--json")
    first = json.loads(capsys.readouterr().out)
    page = tmp_path / "out" / "report.html"
    text = page.read_text()
    page.unlink()
    assert main(["report", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert page.read_text() == text
    assert main(["report", str(tmp_path / "out")]) == 0
    assert "prewarm against default" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--arms", "prewarn"], "Did you mean 'prewarm'"),
        (["--arms", "prewarm:fractoin=1"], "fraction"),
        (["--model", "timm"], "There is no model 'timm'"),
        (["--seeds", "many"], "--seeds 'many' is not understood"),
        (["--optimizer", "adan"], "Did you mean"),
        (["--batch-size", "9999"], "cannot be drawn from 126"),
        (["--device", "warp"], "device 'warp' cannot be used"),
        (["--jobs", "0", "--dry-run"], "The number of jobs is 0"),
        (["--gpus-per-trial", "1", "--dry-run"], "--gpus-per-trial needs Ray"),
        (["--model", "{net}:two", "--arms", "lsuv"], "returned a tensor of shape (2, 2)"),
    ],
)
def test_a_wrong_word_is_one_message_on_stderr_and_code_2(compare, capsys, tmp_path, arguments, match):
    two = "from torch import nn\ndef two():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    (tmp_path / "net.py").write_text(two)
    assert compare(*(word.format(net=tmp_path / "net.py") for word in arguments)) == 2
    captured = capsys.readouterr()
    assert match in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
def test_a_package_that_the_page_needs_is_missed_before_anything_runs(compare, tmp_path, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert compare("--arms", "lsuv") == 2
    assert "pip install 'headstart[bench]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


EMPTY = [
    ["compare", "--out", ""],
    ["compare", "--arms", "lsuv", ""],
    ["compare", ""],
    ["init", "net.py:build", "--data", ""],
    ["bank", "show", "cifar10-resnets", "--out", ""],
    ["bank", "build", ""],
    ["report", "runs", ""],
]


@pytest.mark.parametrize("arguments", EMPTY)
def test_an_empty_text_is_not_taken_for_the_working_directory(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "it is empty; is a shell variable not set?" in capsys.readouterr().err


def test_an_empty_text_may_stand_where_it_means_none(capsys, tmp_path):
    assert main(["reproduce", "pre-warm", "--seeds", "", "--task", "", "--only", "nothing"]) == 2
    assert "no protocol of pre-warm at the scale 'smoke': 'nothing'" in capsys.readouterr().err


def test_a_terminal_of_few_characters_gets_escapes_for_the_others():
    command = [sys.executable, "-m", "headstart.cli.main", "tasks"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, encoding="ascii", env=environment)
    assert done.returncode == 0, done.stderr
    assert r"1\xd728\xd728" in done.stdout


def test_a_report_of_no_folder_is_code_2(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no experiment in" in capsys.readouterr().err


def test_an_interruption_is_code_130_and_says_how_to_go_on(compare, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(headstart.bench, "run", interrupt)
    assert compare() == 130
    assert "the same command continues" in " ".join(capsys.readouterr().err.split())


def test_an_error_of_our_own_is_not_hidden(compare, monkeypatch):
    monkeypatch.setattr(headstart.bench, "analyse", lambda store: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare("--arms", "lsuv", "--no-controls", "--seeds", "1")


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["report", "--help"]])
def test_help_has_examples(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "example" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("headstart ")


@pytest.mark.parametrize("arguments", [[], ["compair"], ["compare", "--stps", "3"]])
def test_a_wrong_command_line_is_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_a_command_that_does_not_import_leaves_the_others_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "headstart.cli.compare", None)
    assert main(["compare"]) == 2
    assert "command 'compare' cannot be loaded" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "no experiment" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is one of Linux's OpenMP")
@pytest.mark.parametrize(
    ("command", "chosen", "patient"),
    [("compare", {}, True), pytest.param("compare", {"GOMP_SPINCOUNT": "7"}, False, marks=pytest.mark.slow)],
)
def test_a_command_that_trains_has_threads_that_sleep_while_they_wait(command, chosen, patient):
    launcher = Path(__file__).parents[2] / "src" / "headstart_command.py"
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, str(launcher), "compare", "--arms", "nothing"],
        env={**kept, **chosen, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "nothing" in done.stderr
    assert ("GOMP_SPINCOUNT = '1000'" in done.stderr) == patient  # as libgomp found it when torch was loaded


def test_every_command_is_a_module_and_has_a_summary():
    names = {found.name for found in pkgutil.iter_modules(headstart.cli.__path__)}
    assert {name for name in names if name != "main" and not name.startswith("_")} == set(dispatcher.COMMANDS)


@pytest.mark.parametrize("text", ["0", "-1", "a", "5-3", "1,,2", "3.5", ""])
def test_seeds_that_make_no_sense_are_refused(text):
    with pytest.raises(HeadstartError, match="is not understood"):
        parse_seeds(text)


LABELS = ("a+b", "|`<b>&\"'[x]$y$", "漢字 é", "LSUV", "x" * 120)


def test_any_label_is_the_same_everywhere(compare, tmp_path, capsys):
    starts = ("lsuv", "kaiming", "xavier", "orthogonal", "zero-dc-random")
    arms = [f"{label}={start}" for label, start in zip(LABELS, starts, strict=True)]
    out = tmp_path / "out"
    assert compare("--arms", *arms, "--no-controls", "--seeds", "1") == 0
    shown = "".join(capsys.readouterr().out.split())
    page, short = (out / "report.html").read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8")
    main(["export", str(out)])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["arm"] for row in rows] == ["default", *LABELS]
    main(["status", str(out)])
    progress = "".join(capsys.readouterr().out.split())
    table = [line for line in short.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {11}
    for label in LABELS:
        assert "".join(label.split()) in shown
        assert f"<h3>{markupsafe.escape(label)}</h3>" in page
        assert f"| {inert(label)} |" in short
        assert "".join(label.split())[:20] in progress
    assert compare("--arms", *arms, "--write", str(tmp_path / "again.toml")) == 0
    assert [arm.label for arm in parse_arms(read(tmp_path / "again.toml").settings["arms"])] == list(LABELS)


def test_what_others_stored_cannot_act_on_the_terminal(store, fill_store, make_result, capsys, tmp_path):
    label = "red\x1b[31m\nx\tz\x07"
    refusal = make_result(status="refused", reason="no\x1b[0m", curve=[], first_layer=None)
    fill_store(store, {"default": {0: make_result()}, label: {0: make_result()}, "r": {0: refusal}})
    fill_store(Store(tmp_path / "more"), {"default": {1: make_result()}, label: {1: make_result()}})
    both = ["report", "--out", str(tmp_path / "both"), str(tmp_path / "more")]
    for command in (["status"], ["report"], both):
        assert main([*command, str(store.folder)]) == 0
        out = capsys.readouterr().out
        assert "red\ufffd[31m x z\ufffd" in out
        assert "\x1b" not in out
