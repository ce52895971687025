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


def rates(experiment, seed=0):
    return {
        arm.label: dict(experiment.configured.get((arm.label, seed), arm).changes).get("lr") for arm in experiment.arms
    }


def test_every_arm_takes_its_best_on_validation_and_equal_steps_follow_the_default(make_experiment, store):
    made = Made(best_at(default=0.003, prewarm=0.0029))
    chosen = search(make_experiment(arms=ARMS), {"lr": [0.001, 0.003, 0.01]}, store, executor=made)
    assert rates(chosen) == rates(chosen, 1)
    assert rates(chosen) == {
        "default": 0.003,
        "prewarm": 0.003,
        "matched-random of prewarm": 0.003,
        "zero-dc-random of prewarm": 0.003,
        "equal-steps of prewarm": 0.003,
        "lsuv": 0.001,  # at the edge; what lies beyond was tried and is worse
        "equal-steps of lsuv": 0.003,
        "default, other draw": 0.003,
    }
    seeds = {trial.seed for trial in made.seen}
    assert seeds == {FIRST_SEED, FIRST_SEED + 1}
    assert not {trial.determinants["test"] for trial in made.seen} - {False}
    context = chosen.prepare(store.measure_once)
    judged = [trial for trial in chosen.trials(context) if trial.arm.control == "equal-steps"]
    assert {context.training_of(trial.arm).lr for trial in judged} == {0.003}
    assert all(context.training_of(trial.arm).steps > context.training.steps for trial in judged)


def test_every_seed_chooses_for_itself_the_null_arm_too(make_experiment, store):
    def accuracy(arm, training, seed):
        wanted = 0.001 if (seed + bool(arm.weights_draw)) % 2 else 0.003
        return 90 - 100 * abs(training.lr - wanted)

    grid = {"lr": [0.0003, 0.001, 0.003, 0.01]}
    chosen = search(make_experiment(arms=ARMS), grid, store, executor=Made(accuracy))
    first, second = rates(chosen, 0), rates(chosen, 1)
    assert (first["default"], second["default"]) == (0.003, 0.001)
    assert (first["default, other draw"], second["default, other draw"]) == (0.001, 0.003)
    assert (first["equal-steps of lsuv"], second["equal-steps of lsuv"]) == (0.003, 0.001)
    run(chosen, store, executor=Made(accuracy))
    keys = {cell["key"] for cell in store.read_experiment()["trials"]}
    assert len(keys) > len(ARMS)


def test_halving_tries_all_with_few_steps_and_two_in_full(make_experiment, store):
    made = Made(best_at(default=0.003))
    experiment = make_experiment(arms=ARMS[:1], seeds=(0,), training=Training(steps=32, batch_size=16, evaluations=1))
    search(experiment, {"lr": [0.0003, 0.001, 0.003, 0.01, 0.03]}, store, executor=made)
    tried = [(dict(trial.arm.changes).get("steps", 32), dict(trial.arm.changes)["lr"]) for trial in made.seen]
    assert Counter(steps for steps, _ in tried) == {2: 5, 8: 3, 32: 2}
    assert {lr for steps, lr in tried if steps == 32} == {0.003, 0.001}


def test_options_are_searched_too_with_no_more_trials(make_experiment, store):
    made = Made(lambda arm, training, seed: 90 + ("fraction=0.25" in repr(arm.methods())) - training.lr)
    entries = {**GRID, "prewarm.fraction": [0.5, 0.25, 0.75]}
    chosen = search(make_experiment(arms=ARMS), entries, store, executor=made)
    first = Counter(trial.arm.label.partition(",")[0] for trial in made.seen if "of the steps" in trial.arm.label)
    assert set(first.values()) == {
        6,
        12,
    }  # three configurations with two seeds; default and its other draw share a name
    assert chosen.configured["lsuv", 0].methods() == Arm("lsuv", "lsuv").methods()
    if any("fraction=0.25" in trial.arm.label for trial in made.seen):
        assert "fraction=0.25" in repr(chosen.configured["prewarm", 0].methods())


def test_of_equals_the_first_is_taken(make_experiment, store):
    even = search(make_experiment(arms=ARMS), {"lr": [0.003, 0.001, 0.01]}, store, executor=Made(lambda *_: 50.0))
    assert set(rates(even).values()) == {0.003}


def test_a_limit_stops_the_widening_and_the_page_says_so(make_experiment, store):
    def accuracy(arm, training, seed):
        return 50 + training.lr

    chosen = search(make_experiment(arms=ARMS[:1]), GRID, store, executor=Made(accuracy))
    assert rates(chosen)["default"] == pytest.approx(0.01 * (10 / 3) ** 3, rel=1e-4)
    run(chosen, store, executor=Made(accuracy))
    (warning,) = analyse(store).selection.warnings
    assert warning == (
        "default chose lr at the edge of what was tried in 2 of 2 searches, where the limit of widening stopped it."
    )
    assert warning in render(analyse(store))


def test_a_method_that_refuses_keeps_its_defaults(make_experiment, store):
    made = Made(lambda arm, training, seed: None if arm.label.startswith("prewarm") else 50 - abs(training.lr - 0.003))
    chosen = search(make_experiment(arms=ARMS), GRID, store, executor=made)
    assert rates(chosen)["prewarm"] is None
    assert rates(chosen)["lsuv"] == 0.003
    run(chosen, store, executor=made)
    analysis = analyse(store)
    assert "prewarm nothing, refused" in analysis.selection.choices
    assert analysis.selection.rows[0][1][1].value == "refused"
    assert "refused" in render(analysis)


def test_interrupted_it_goes_on_and_comes_to_the_same(make_experiment, store, tmp_path):
    accuracy = best_at(default=0.003, prewarm=0.003, lsuv=0.003)
    experiment = make_experiment(arms=ARMS)
    once = Made(accuracy)
    whole = search(experiment, GRID, Store(tmp_path / "whole"), executor=once)
    with pytest.raises(KeyboardInterrupt):
        search(experiment, GRID, store, executor=Made(accuracy, stop_after=11))
    rest = Made(accuracy)
    assert search(experiment, GRID, store, executor=rest).configured == whole.configured
    assert len(rest.seen) == len(once.seen) - 11


def test_real_trials_run_and_look_at_no_test_image(make_experiment, store):
    chosen = search(make_experiment(arms=ARMS[:2]), {"lr": [0.001, 0.01]}, store)
    assert run(chosen, store).ran == 4
    inner = Store(store.folder / "search")
    results = [inner.get(cell["key"]).result for cell in inner.read_experiment()["trials"]]
    assert {result["test_accuracy"] for result in results} == {None}
    for arm in chosen.selection["arms"]:
        for seed, told in arm["seeds"].items():
            best = max(row["accuracy"] for row in told["tried"])
            first = next(row for row in told["tried"] if row["accuracy"] == best)
            assert told["chosen"] == first["values"]
            assert dict(chosen.configured[arm["arm"], int(seed)].changes) == told["chosen"]
    with pytest.raises(HeadstartError, match="holds a search"):
        analyse(inner)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"seeds": 0}, "search-seeds is 0; it must be at least 1"),
        ({"trials": -1}, "search-trials is -1; it must be at least 0"),
        ({"trials": 4}, "The default start has 3 configurations to try, and no arm may try more"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make_experiment, store, numbers, message):
    with pytest.raises(HeadstartError, match=message):
        search(make_experiment(arms=ARMS), GRID, store, **numbers)
    assert not store.folder.exists()


def test_a_search_that_would_favour_the_methods_is_refused(make_experiment, store):
    with pytest.raises(HeadstartError, match="Search more values of a training setting"):
        search(make_experiment(arms=ARMS), {"prewarm.fraction": [0.25, 0.5]}, store)
    with pytest.raises(HeadstartError, match="seeds must be below"):
        search(make_experiment(arms=ARMS, seeds=(FIRST_SEED,)), GRID, store)


@pytest.fixture
def reported(make_experiment, store):
    made = Made(best_at(default=0.003, prewarm=0.003, lsuv=0.003))
    entries = {**GRID, "weight-decay": [0.0, 0.1], "prewarm.fraction": [0.5, 0.25]}
    run(search(make_experiment(arms=ARMS), entries, store, executor=made), store, executor=made)
    return analyse(store)


def test_the_report_shows_how_often_each_configuration_was_chosen(reported):
    found = reported.selection
    assert found.columns[:2] == ("default", "prewarm")
    rows = dict(found.rows)
    assert rows["lr=0.003, weight_decay=0.0"][0] == ("2 of 2", True)
    assert rows["lr=0.003, weight_decay=0.0"][1] == ("", False)  # another grid
    assert "default lr=0.003, weight_decay=0.0 (2 of 2)" in found.choices
    text = markdown(reported)
    assert "## What was searched" in text
    assert "**2 of 2**" in text
    page = render(reported)
    assert "What was searched" in page
    assert "<strong>2 of 2</strong>" in page
    assert "In how many seeds each configuration was chosen" in page
    assert as_dict(reported)["selection"]["budget"] == 6


def test_a_search_of_an_earlier_version_is_still_shown(store, fill_store, make_result):
    rows = [
        {"values": {"lr": lr}, "accuracies": [a], "mean": a, "diverged": 0, "refusal": ""}
        for lr, a in ((0.1, 80.0), (0.2, 90.0))
    ]
    axes = [{"name": "lr", "arm": "", "key": "lr", "values": [0.1, 0.2]}]
    arms = [{"arm": label, "chosen": 1, "tried": rows} for label in ("default", "new")]
    results = {label: {s: make_result(90 + s / 10) for s in range(8)} for label in ("default", "new")}
    fill_store(store, results, selection={"axes": axes, "seeds": 2, "budget": 2, "arms": arms})
    found = analyse(store)
    assert found.selection.rows[1] == ("lr=0.2", (("90.00", True), ("90.00", True)))
    assert found.selection.warnings == (
        "The best lr is the largest tried, 0.2, for default, new: widen the grid, if possible.",
    )
    assert "<strong>90.00</strong>" in render(found)
    assert "**90.00**" in markdown(found)


def test_without_a_search_there_is_nothing_to_show(make_experiment, store):
    run(make_experiment(), store, executor=Made(best_at()))
    assert analyse(store).selection is None
    assert "What was searched" not in render(analyse(store)) + markdown(analyse(store))
    assert selection_of({}) is None


def test_a_dry_run_counts_the_round_that_comes_next_and_knows_when_it_is_done(make_experiment, store):
    experiment = make_experiment(arms=ARMS[:2])
    what = Search(experiment, make_grid({"lr": [0.001, 0.003, 0.01]}, experiment.arms, experiment.training))
    found = forecast(experiment, store, what)
    assert (found.search.to_do, found.to_do) == (12, 16)
    assert found.seconds > found.search.seconds > 0
    assert not store.folder.exists()
    chosen, done = run_search(what, store)
    assert done.ran >= 12 + 8
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
    line = [
        "--arms",
        "lsuv",
        "--no-controls",
        "--exploratory",
        "--seeds",
        "2",
        "--search",
        "lr=1e-3,1e-2",
        "lsuv.std=1.0,0.5",
    ]
    assert command(*line, "--dry-run") == 0
    assert "Search: 8 of 8 trials to do" in capsys.readouterr().out
    assert command(*line) == 0
    out = capsys.readouterr().out
    trials = int(re.search(r"Search: (\d+) trials run", out)[1])
    assert trials >= 8
    assert "Chosen on validation: default lr=" in " ".join(out.split())
    assert "4 trials run" in out
    assert command(*line, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["selection"]["arms"]) == 2
    assert command(*line, "--until", "decided") == 0
    out = capsys.readouterr().out
    assert "Search: 0 trials run" in out
    assert f"{trials} existed already" in out
    assert main(["status", str(tmp_path / "out" / "search")]) == 0
    assert f"{trials} of {trials} trials done" in capsys.readouterr().out
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["search"]["done"] == trials
    assert main(["status", str(tmp_path / "out")]) == 0
    assert "Search" not in capsys.readouterr().out  # it is finished


def test_the_status_of_a_search_that_goes_on(make_experiment, store, capsys):
    with pytest.raises(KeyboardInterrupt):
        search(make_experiment(arms=ARMS), GRID, store, executor=Made(best_at(), stop_after=11))
    assert main(["status", str(store.folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Search")
    assert "11 of 36 trials done" in out
    assert main(["status", str(store.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["search"]["missing"] == 25


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("'lf=1,2'", "There is no training setting to search: 'lf'. Did you mean 'lr'"),
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
    assert capsys.readouterr().err.startswith("There is no training setting")  # what was typed is not the file's fault
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


@pytest.mark.slow  # it trains
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
