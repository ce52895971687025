"""Searches: equal budgets, validation alone, the best chosen, the same again after an interruption."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from headstart.bench import Arm, Store, Training, analyse, run, with_controls
from headstart.bench.analysis.selection import selection_of
from headstart.bench.report.page import render
from headstart.bench.report.summary import as_dict, markdown
from headstart.bench.runs.executors.base import Finished
from headstart.bench.runs.forecast import forecast
from headstart.bench.runs.search import FIRST_SEED, Search, run_search, search
from headstart.bench.settings import config, words
from headstart.bench.trials import autotune
from headstart.bench.trials.grid import make_grid
from headstart.bench.trials.timing import Clock
from headstart.cli.main import main
from headstart.errors import HeadstartError

GRID = {"lr": [0.001, 0.003, 0.01]}
ARMS = with_controls([Arm("prewarm", "prewarm"), Arm("lsuv", "lsuv")])


@pytest.fixture(autouse=True)
def known_costs(monkeypatch):
    monkeypatch.setattr(Clock, "init", lambda self, arm, seed: 0.05)
    monkeypatch.setattr(Clock, "step", lambda self: 0.01)


class Made:
    """An executor that makes results up: validation accuracy by arm and learning rate; None is a refusal."""

    def __init__(self, accuracy, stop_after=10**9):
        self.accuracy, self.seen, self.left = accuracy, [], stop_after

    def threads(self):
        return 1

    def execute(self, experiment, context, trials, progress):
        for trial in trials:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.seen.append(trial)
            assert len(context.data.test) == (len(context.data.task.test) if experiment.test else 0)
            value = self.accuracy(trial.arm, context.training_of(trial.arm), trial.seed)
            if value is None:
                yield Finished(trial, {"status": "refused", "reason": "no convolution"}, {})
                continue
            result = {
                "status": "diverged" if value == 10.0 else "done",
                "reason": "",
                "test_accuracy": value if experiment.test else None,
                "test_loss": None,
                "validation_accuracy": value,
                "area": value,
                "curve": [{"step": step, "accuracy": value, "loss": 1.0, "train_loss": None} for step in (0, 6)],
                "init_seconds": 0.1,
                "train_seconds": 1.0,
                "step_seconds": 0.1,
                "first_layer": None,
                "report": None,
            }
            yield Finished(trial, result, {})

    def close(self):
        pass


def best_at(**rates):
    """Accuracy falls with the distance to an arm's best learning rate."""

    def accuracy(arm, training, seed):
        wanted = rates.get((arm.of or arm.label).partition(",")[0], 0.001)
        return 90 - 100 * abs(training.lr - wanted) + (seed % 2)

    return accuracy


def rates(experiment):
    return {arm.label: dict(arm.changes).get("lr") for arm in experiment.arms}


def test_the_best_on_validation_is_taken_and_the_null_follows_the_default(make_experiment, store):
    made = Made(best_at(default=0.003, prewarm=0.01))
    chosen = search(make_experiment(arms=ARMS), GRID, store, executor=made)
    assert rates(chosen) == {
        "default": 0.003,
        "prewarm": 0.01,
        "matched-random of prewarm": 0.01,
        "zero-dc-random of prewarm": 0.01,
        "equal-steps of prewarm": 0.003,
        "lsuv": 0.001,
        "equal-steps of lsuv": 0.003,
        "default, other draw": 0.003,
    }
    counts = Counter(trial.arm.label.partition(",")[0] for trial in made.seen)
    assert set(counts.values()) == {6}  # three configurations with two seeds, for every arm
    assert {trial.seed for trial in made.seen} == {FIRST_SEED, FIRST_SEED + 1}
    assert not {trial.determinants["test"] for trial in made.seen} - {False}
    context = chosen.prepare(store.measure_once)
    assert {context.training_of(arm).lr for arm in context.arms if arm.control == "equal-steps"} == {0.003}


def test_options_are_searched_too_with_no_more_trials(make_experiment, store):
    made = Made(lambda arm, training, seed: 90 + ("fraction=0.25" in repr(arm.methods())))
    entries = {**GRID, "prewarm.fraction": [0.5, 0.25, 0.75]}
    chosen = search(make_experiment(arms=ARMS), entries, store, executor=made)
    counts = Counter(trial.arm.label.partition(",")[0] for trial in made.seen)
    assert set(counts.values()) == {6}
    tried = {trial.arm.label for trial in made.seen if trial.arm.label.startswith("prewarm")}
    if any("fraction=0.25" in label for label in tried):
        assert "fraction=0.25" in repr(chosen.arms[1].methods())
    assert "prewarm, lr=0.001, fraction=0.5" in tried
    assert chosen.arms[5].methods() == Arm("lsuv", "lsuv").methods()


def test_of_equals_the_first_is_taken_and_what_diverged_counts_as_guessing(make_experiment, store, tmp_path):
    even = search(make_experiment(arms=ARMS), GRID, store, executor=Made(lambda *_: 50.0))
    assert set(rates(even).values()) == {0.001}
    made = Made(lambda arm, training, seed: 10.0 if training.lr < 0.01 and seed % 2 else 60.0 + training.lr)
    other = search(make_experiment(arms=ARMS), GRID, Store(tmp_path / "b"), executor=made)
    assert set(rates(other).values()) == {0.01}
    rows = other.selection["arms"][0]["tried"]
    assert [row["diverged"] for row in rows] == [1, 1, 0]
    assert rows[0]["accuracies"] == [60.001, 10.0]


def test_a_method_that_refuses_keeps_its_defaults(make_experiment, store):
    made = Made(lambda arm, training, seed: None if arm.label.startswith("prewarm") else 50 + training.lr)
    chosen = search(make_experiment(arms=ARMS), GRID, store, executor=made)
    assert rates(chosen)["prewarm"] is None
    assert rates(chosen)["lsuv"] == 0.01
    run(chosen, store, executor=made)
    analysis = analyse(store)
    assert "prewarm nothing, refused" in analysis.selection.choices
    assert analysis.selection.rows[0][1][1].value == "refused"
    assert "refused" in render(analysis)


def test_interrupted_it_goes_on_and_comes_to_the_same(make_experiment, store, tmp_path):
    accuracy = best_at(default=0.003, prewarm=0.01)
    experiment = make_experiment(arms=ARMS)
    whole = search(experiment, GRID, Store(tmp_path / "whole"), executor=Made(accuracy))
    with pytest.raises(KeyboardInterrupt):
        search(experiment, GRID, store, executor=Made(accuracy, stop_after=11))
    rest = Made(accuracy)
    assert search(experiment, GRID, store, executor=rest).arms == whole.arms
    assert len(rest.seen) == 30 - 11
    wider = Made(accuracy)
    search(experiment, {"lr": [0.0003, *GRID["lr"]]}, store, executor=wider)
    assert len(wider.seen) == 10  # only the new value


def test_real_trials_run_and_look_at_no_test_image(make_experiment, store):
    chosen = search(make_experiment(arms=ARMS[:2]), {"lr": [0.001, 0.01]}, store, seeds=1)
    assert run(chosen, store).ran == 4
    inner = Store(store.folder / "search")
    results = [inner.get(cell["key"]).result for cell in inner.read_experiment()["trials"]]
    assert len(results) == 4
    assert {result["test_accuracy"] for result in results} == {None}
    for arm, tried in zip(chosen.arms, chosen.selection["arms"], strict=True):
        best = max(row["mean"] for row in tried["tried"])
        first = next(row for row in tried["tried"] if row["mean"] == best)
        assert dict(arm.changes) == first["values"]
    with pytest.raises(HeadstartError, match="holds a search"):
        analyse(inner)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"seeds": 0}, "at least one seed"),
        ({"trials": -1}, "at least one seed and one trial"),
        ({"trials": 4}, "The default start has 3 configurations to try, and no arm may try more"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make_experiment, store, numbers, message):
    with pytest.raises(HeadstartError, match=message):
        search(make_experiment(arms=ARMS), GRID, store, **numbers)
    assert not store.folder.exists()


def test_a_search_that_would_favour_the_methods_is_refused(make_experiment, store):
    with pytest.raises(HeadstartError, match="a word of training with more values"):
        search(make_experiment(arms=ARMS), {"prewarm.fraction": [0.25, 0.5]}, store)
    with pytest.raises(HeadstartError, match="seeds must be below"):
        search(make_experiment(arms=ARMS, seeds=(FIRST_SEED,)), GRID, store)


@pytest.fixture
def reported(make_experiment, store):
    made = Made(best_at(default=0.003, prewarm=0.01, lsuv=0.001))
    entries = {**GRID, "weight-decay": [0.0, 0.1], "prewarm.fraction": [0.5, 0.25]}
    run(search(make_experiment(arms=ARMS), entries, store, executor=made), store, executor=made)
    return analyse(store)


def test_the_report_shows_what_was_tried_and_chosen(reported):
    found = reported.selection
    assert found.columns[:2] == ("default", "prewarm")
    rows = dict(found.rows)
    assert rows["lr=0.003, weight_decay=0.0"][0] == ("90.50", True)
    assert rows["lr=0.003, weight_decay=0.0"][1] == ("", False)  # another grid
    for column in range(len(found.columns)):
        assert sum(cells[column].chosen for cells in rows.values()) == 1
        assert sum(bool(cells[column].value) for cells in rows.values()) == 6
    text = markdown(reported)
    assert "## What was searched" in text
    assert "**90.50**" in text
    page = render(reported)
    assert "What was searched" in page
    assert "<strong>90.50</strong>" in page
    assert as_dict(reported)["selection"]["budget"] == 6
    assert "lr=0.01" in page  # in prewarm's exact configuration


def test_a_best_value_at_the_edge_of_what_was_tried_is_told(make_experiment, store):
    made = Made(best_at(default=0.003, prewarm=0.01, lsuv=0.001))
    entries = {**GRID, "weight-decay": [0.0, 0.1]}
    run(search(make_experiment(arms=ARMS), entries, store, executor=made), store, executor=made)
    analysis = analyse(store)
    assert analysis.selection.warnings == (
        "The best lr is the largest tried, 0.01, for prewarm: widen the grid, if it can be.",
        "The best lr is the smallest tried, 0.001, for lsuv: widen the grid, if it can be.",
    )  # nothing of the default start, whose best is in between, nor of a weight decay of zero
    assert set(analysis.selection.warnings) <= set(analysis.notes)
    alone = search(make_experiment(arms=ARMS), GRID, store, trials=1, executor=made)
    plan = {"selection": alone.selection, "arms": [vars(arm) for arm in ARMS]}
    assert selection_of(plan).warnings == ()  # one value has no edge


def test_without_a_search_there_is_nothing_to_show(make_experiment, store):
    run(make_experiment(), store, executor=Made(best_at()))
    assert analyse(store).selection is None
    assert "What was searched" not in render(analyse(store)) + markdown(analyse(store))
    assert selection_of({}) is None


def test_a_dry_run_counts_the_search_and_knows_when_it_is_done(make_experiment, store):
    experiment = make_experiment(arms=ARMS[:2])
    what = Search(experiment, make_grid({"lr": [0.001, 0.01]}, experiment.arms, experiment.training))
    found = forecast(experiment, store, what)
    assert (found.search.to_do, found.to_do, found.total) == (8, 12, 12)
    assert found.seconds > found.search.seconds > 0
    assert found.as_dict()["search"]["to_do"] == 8
    assert not store.folder.exists()
    chosen, done = run_search(what, store)
    assert done.ran == 8
    run(chosen, store)
    found = forecast(experiment, store, what)
    assert (found.search.to_do, found.to_do) == (0, 0)
    assert found.seconds == 0


SMALL = ["--steps", "4", "--batch-size", "16", "--evaluations", "2", "--calibration", "32", "--quiet"]


@pytest.fixture
def command(task_file, tmp_path):
    def call(*arguments):
        fixed = ["--task", task_file, "--out", str(tmp_path / "out"), "--precision", "float32"]
        return main(["compare", *arguments, *fixed, "--memory-format", "contiguous", *SMALL])

    return call


def test_the_command_searches_then_compares_and_goes_on(command, tmp_path, capsys):
    line = ["--arms", "lsuv", "--no-controls", "--seeds", "2", "--search", "lr=1e-3,1e-2", "lsuv.std=1.0,0.5"]
    assert command(*line, "--dry-run") == 0
    assert "Search: 8 of 8 trials to do" in capsys.readouterr().out
    assert command(*line) == 0
    out = capsys.readouterr().out
    assert "Search: 8 trials run" in out
    assert "Chosen on validation: default lr=" in " ".join(out.split())
    assert "4 trials run" in out
    assert command(*line, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["selection"]["arms"]) == 2
    assert command(*line, "--until", "decided") == 0
    out = capsys.readouterr().out
    assert "Search: 0 trials run" in out
    assert "8 were there already" in out
    assert main(["status", str(tmp_path / "out" / "search")]) == 0
    assert "8 of 8 trials done" in capsys.readouterr().out
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["search"]["done"] == 8
    assert main(["status", str(tmp_path / "out")]) == 0
    assert "Search" not in capsys.readouterr().out  # it is finished


def test_the_status_of_a_search_that_goes_on(make_experiment, store, capsys):
    with pytest.raises(KeyboardInterrupt):
        search(make_experiment(arms=ARMS), GRID, store, executor=Made(best_at(), stop_after=11))
    assert main(["status", str(store.folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Search")
    assert "11 of 30 trials done" in out
    assert main(["status", str(store.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["search"]["missing"] == 19


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("'lf=1,2'", "There is no word of training to search: 'lf'. Did you mean 'lr'"),
        ("'lsuv.target=1,2', 'lr=1,2'", "There is no option of the arm 'lsuv': 'target'"),
        ("'lsuv.std=1.0,0.5'", "The default start has 1 configuration to try"),
    ],
)
def test_a_file_with_a_wrong_search_is_told_the_line(command, tmp_path, capsys, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.toml").write_text(f'search = [{line}]\narms = ["lsuv"]\n')
    assert command("e.toml") == 2
    assert capsys.readouterr().err.startswith(f"e.toml, line 1: {message}")
    assert command("e.toml", "--search", "lg=1,2") == 2
    assert capsys.readouterr().err.startswith("There is no word")  # what was typed is not the file's fault
    assert not (tmp_path / "out").exists()


def test_a_file_says_the_same_words(tmp_path):
    (tmp_path / "e.toml").write_text('search = ["lr=1e-3,3e-3"]\nsearch-seeds = 3\nsearch-trials = 1\narms = "lsuv"\n')
    found = {**words.defaults(), **config.read(tmp_path / "e.toml").settings}
    what = words.search(found, words.experiment(found))
    assert (what.budget, what.seeds, what.axes[0].values) == (1, 3, (0.001, 0.003))
    assert "search = []" in config.write({})
    (tmp_path / "e.toml").write_text("search-seeds = 0\n")
    with pytest.raises(HeadstartError, match="line 1: search-seeds is 0; it must be at least 1"):
        config.read(tmp_path / "e.toml")


def test_the_documented_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Made(best_at(default=0.003))
    monkeypatch.setattr("headstart.bench.runs.run.InProcess", lambda: made)
    monkeypatch.setattr(autotune, "_BLOCK", 0.0)
    monkeypatch.setattr(autotune, "_ROUNDS", 1)
    text = (Path(__file__).parents[3] / "docs" / "experiments.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block, {})
    assert "default lr=0.003" in analyse(Store("runs/searched")).selection.choices


def test_the_search_trains_as_the_experiment_does(make_experiment, store):
    made = Made(best_at())
    training = Training(steps=6, batch_size=16)
    experiment = make_experiment(arms=ARMS[:2], auto=("device", "memory_format"), training=training)
    run(search(experiment, GRID, store, executor=made), store, executor=made)
    assert len({trial.determinants["training"]["memory_format"] for trial in made.seen}) == 1
    assert len(list(store.choices.iterdir())) == 1
    assert not (store.folder / "search" / "choices").exists()
