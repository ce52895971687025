"""Dry runs: the trials are those that a run would do, the cost follows what was measured, nothing is written."""

from __future__ import annotations

import json

import pytest
import torch

from headstart.bench import Arm, Store, Training, run
from headstart.bench.runs.forecast import MEASURED, STORED, forecast
from headstart.bench.store.store import Record
from headstart.bench.trials import timing
from headstart.cli.main import main


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_done_all_to_do_and_nothing_written(make_experiment, store):
    state = torch.random.get_rng_state()
    found = forecast(make_experiment(), store)
    assert found.to_do == len(found.trials) == 6
    assert [(arm.label, arm.done, arm.to_do, arm.source) for arm in found.arms] == [
        (label, (), (0, 1), MEASURED) for label in ("default", "prewarm", "null")
    ]
    assert found.arms[0].init_seconds == 0 < found.arms[1].init_seconds
    assert all(arm.trial_seconds > arm.init_seconds for arm in found.arms)
    assert found.seconds == pytest.approx(sum(2 * arm.trial_seconds for arm in found.arms))
    assert not store.folder.exists()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_listed_to_do_is_what_is_run(make_experiment, store):
    run(make_experiment(seeds=(0,)), store)
    before = files(store.folder)
    more = make_experiment(seeds=(0, 1, 2))
    found = forecast(more, store)
    assert files(store.folder) == before
    assert [(arm.done, arm.to_do) for arm in found.arms] == [((0,), (1, 2))] * 3
    assert {key for *_, key, done in found.trials if done} == {path.stem for path in store.trials.iterdir()}
    done = run(more, store)
    assert (done.ran, done.kept) == (found.to_do, 3)
    assert forecast(more, store).seconds == 0


def test_stored_times_are_used_where_there_are_any(make_experiment, store):
    experiment = make_experiment(seeds=(0, 1))
    trial = next(t for t in experiment.trials(experiment.prepare()) if t.arm.label == "prewarm")
    store.put(Record(trial.determinants, {"status": "done", "init_seconds": 1000.0, "step_seconds": 100.0}))
    default, prewarm, _ = forecast(experiment, store).arms
    assert (default.source, prewarm.source) == (MEASURED, STORED)
    assert prewarm.init_seconds == 1000
    assert prewarm.trial_seconds >= 1000 + 6 * 100 > 100 * default.trial_seconds


def test_training_is_timed_once_and_only_if_something_is_to_do(make_experiment, store, monkeypatch):
    calls = []
    brief = timing.train_briefly
    monkeypatch.setattr(timing, "train_briefly", lambda *a: calls.append(a[2]) or brief(*a))
    experiment = make_experiment()
    forecast(experiment, store)
    assert calls[0] == 9
    timed = len(calls)
    assert timed <= 2  # nine steps are soon done, so it looks longer, unless the machine is busy
    run(experiment, store)
    forecast(experiment, store)
    assert len(calls) == timed


def test_a_shared_trial_costs_once(make_experiment, store):
    longer = (("steps", 8),)
    controls = [Arm(f"equal-steps of {of}", control="equal-steps", of=of, changes=longer) for of in ("a", "b")]
    experiment = make_experiment(arms=(Arm("default"), Arm("a", "lsuv"), Arm("b", "prewarm"), *controls))
    found = forecast(experiment, store)
    first, second = found.arms[3:]
    assert (found.to_do, found.total) == (8, 8)
    assert (first.shared, second.shared) == ("", "equal-steps of a")
    assert second.seconds == 0 < first.seconds
    assert first.trial_seconds > found.arms[0].trial_seconds
    run(experiment, store)
    assert forecast(experiment, store).arms[4].done == (0, 1)


def test_a_longer_budget_costs_more(make_experiment, store):
    short, long = (
        forecast(make_experiment(training=Training(steps=steps, batch_size=16, evaluations=2)), store).seconds
        for steps in (10, 100_000)
    )
    assert long > 10 * short


def test_an_arm_that_would_refuse_says_so(make_experiment, store, tmp_path):
    net = tmp_path / "net.py"
    net.write_text(
        "from torch import nn\n\ndef build(in_channels, classes, image_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size[0] * image_size[1], classes))\n"
    )
    arms = (Arm("default"), Arm("prewarm", "prewarm"))
    found = forecast(make_experiment(arms=arms, model=f"{net}:build"), store)
    assert "convolution" in found.arms[1].refusal
    assert found.arms[1].seconds == 0 < found.arms[0].seconds


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_lists_and_writes_nothing(task_file, tmp_path, capsys, as_json):
    line = ["compare", "--task", task_file, "--out", str(tmp_path / "out"), "--steps", "4", "--batch-size", "16"]
    line += ["--calibration", "32", "--arms", "lsuv", "[red]=prewarm", "--no-controls", "--seeds", "0-2", "--dry-run"]
    line += ["--exploratory"]
    assert main([*line, "--json"] if as_json else line) == 0
    out = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    if as_json:
        found = json.loads(out)
        assert found["to_do"] == len(found["trials"]) == 9
        assert [arm["label"] for arm in found["arms"]] == ["default", "lsuv", "[red]"]
    else:
        assert "9 of 9 trials to do: about" in out
        assert "[red]" in out
        assert "0-2" in out


def test_a_refused_trial_is_to_do_again(make_experiment, store):
    experiment = make_experiment(seeds=(0,))
    trial = experiment.trials(experiment.prepare())[1]
    store.put(Record(trial.determinants, {"status": "refused", "reason": "no"}))
    assert forecast(experiment, Store(store.folder)).arms[1].to_do == (0,)
