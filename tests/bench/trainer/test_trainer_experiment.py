import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from headstart.bench import Arm, Store, analyse, parse_arm, run, with_controls
from headstart.bench.analysis.sequential import run_until_decided
from headstart.bench.runs.executors import InProcess, Processes
from headstart.bench.runs.executors.worker import Job, work
from headstart.bench.trainer.experiment import TrainerExperiment
from headstart.bench.trainer.forecast import forecast_trainer
from headstart.bench.trainer.trainer import Trainer, train_once
from headstart.errors import HeadstartError

ARMS = (Arm("default"), Arm("lsuv", "lsuv"))


@pytest.fixture
def make(command):
    """Build a small experiment; what is given replaces its fields, or those of its trainer."""

    def build(*mode, extra="0", **changes):
        own = {name: changes.pop(name) for name in list(changes) if name in Trainer.__dataclass_fields__}
        trainer = Trainer(command(*mode, extra=extra), **own)
        return TrainerExperiment(
            trainer, **{"arms": ARMS, "model": "net.py:build", "data": "images.npy", "seeds": (0, 1), **changes}
        )

    return build


def scores(store):
    cells = store.read_experiment()["trials"]
    found = store.present(cell["key"] for cell in cells)
    return {(cell["arm"], cell["seed"]): found[cell["key"]].result.get("score") for cell in cells}


@pytest.mark.slow  # two workers import torch
def test_every_executor_gives_the_same_scores_and_a_second_run_runs_nothing(make, tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    assert run(make(), here, executor=InProcess()).ran == 4
    assert run(make(), there, executor=Processes(2, threads=1)).ran == 4
    assert scores(here) == scores(there)
    assert len(set(scores(here).values())) == 4
    again = run(make(seeds=(0, 1, 2)), here)
    assert (again.ran, again.kept) == (2, 4)
    assert run(make(timeout=99, margin=0.1), here).kept == 4  # what changes no score makes no other trial


def test_arms_of_a_seed_share_the_default_weights_and_the_data_is_what_starts_see(make):
    experiment = make()
    context = experiment.prepare()
    default, _, _ = context.start(ARMS[0], 0)
    lsuv, report, seconds = context.start(ARMS[1], 0)
    other, _, _ = context.start(replace(ARMS[0], weights_draw=1), 0)
    assert torch.equal(context.start(ARMS[0], 0)[0][0].weight, default[0].weight)
    assert not torch.equal(other[0].weight, default[0].weight)
    assert not torch.equal(lsuv[0].weight, default[0].weight)
    assert report["rows"]
    assert seconds > 0
    assert default[6].weight.shape == (3, 64)  # lazy, given its shape by the data


@pytest.mark.parametrize(
    ("form", "load"), [("safetensors", load_file), ("torch", lambda p: torch.load(p, weights_only=True))]
)
@pytest.mark.parametrize("name", ["build", "tied"])
def test_the_start_is_a_complete_state_dict(make, folder, form, load, name):
    if name == "tied":
        torch.save(torch.rand(40, 6, 6), folder / "small.pt")
    copying = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[1][-3:] + 'kept'); print('score 1')"
    trainer = Trainer(f'python -c "{copying}" {{start}}', metric_pattern=r"score (\d)", start_format=form)
    experiment = make(
        model=f"net.py:{name}", data="small.pt" if name == "tied" else "images.npy", arms=(Arm("x", "lsuv"),)
    )
    model, _, _ = replace(experiment, trainer=trainer).context().start(experiment.arms[0], 0)
    assert train_once(trainer, model, 0).score.value == 1
    (kept,) = folder.glob("*kept")
    fresh, _, _ = experiment.context().start(Arm("default"), 5)
    fresh.load_state_dict(load(kept))
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True))


def test_a_failed_run_is_one_failed_trial_and_is_tried_again(make, store_of, monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", "abc-very-secret")
    store = store_of("fail")
    found = analyse(store)
    assert [(f.arm, f.seed, f.reason) for f in found.failures] == [
        ("default", 1, "it ended with exit code 1"),
        ("lsuv", 1, "it ended with exit code 1"),
    ]
    lines = found.failures[0].lines.splitlines()
    assert {"loading", "token <MY_API_TOKEN>", "there is no such layer"} <= set(lines)
    assert all("abc-very-secret" not in path.read_text() for path in store.folder.rglob("*.json"))
    assert found.arms[1].failed == 1
    assert len(found.arms[1].results) == 1
    assert "failed in 1 of 2 seeds, which are left out" in found.arms[1].sentence()
    again = run(make("fail"), store)
    assert (again.ran, again.kept) == (2, 2)


@pytest.fixture
def store_of(make, tmp_path):
    """Run an experiment whose script is told a mode."""

    def fill(*mode, **changes):
        store = Store(tmp_path / "-".join(["store", *mode]).replace("{", "").replace("}", ""))
        run(make(*mode, **changes), store)
        return store

    return fill


def test_a_run_that_takes_too_long_or_leaves_no_score_fails(store_of):
    slow = analyse(store_of("slow", timeout=0.5, arms=ARMS[:1], seeds=(0,)))
    assert slow.failures[0].reason == "it took longer than 0.5 s and was ended"
    silent = analyse(store_of("silent", arms=ARMS[:1], seeds=(0,)))
    assert silent.failures[0].reason == "The command succeeded, but wrote no score to {out}."
    assert "names: 0.bias" in silent.failures[0].lines


def test_where_the_score_is(store_of):
    told = scores(store_of())
    assert scores(store_of("print", metric_pattern=r"accuracy: (\S+)")) == pytest.approx(told)
    assert scores(store_of("folder", "{dir}", metric_file="{dir}/results.json")) == pytest.approx(told)
    csv = store_of("csv")
    assert scores(csv) == pytest.approx(told)
    steps, values = analyse(csv).baseline.curves()
    assert (steps, values.shape) == ([1, 2, 3, 4, 5], (2, 5))


def test_lower_is_better_turns_the_verdict_and_a_margin_follows_from_the_baseline(store_of):
    up = analyse(store_of())
    down = analyse(store_of("", lower_is_better=True))
    assert up.metric.unit == "points"  # scores within 0 and 1 are shown in percent
    assert down.arms[1].comparison.differences == pytest.approx([-d / 100 for d in up.arms[1].comparison.differences])
    mean = sum(up.baseline.accuracies) / 2
    assert up.plan["margin"] == pytest.approx(mean * 0.005, rel=0.05)
    assert any("Lower accuracy is better" in note for note in down.notes)
    assert analyse(store_of("", " ", margin=0.02)).plan["margin"] == 2


def test_the_equal_steps_control_gets_the_time_of_the_start_as_steps(make, tmp_path, monkeypatch):
    arms = with_controls([parse_arm("lsuv")])
    assert [arm.control for arm in make(arms=arms).prepare().arms] == ["", "", "null"]  # no {extra} in the command
    experiment = make(extra="{extra}", arms=arms, seeds=(0,))
    store = Store(tmp_path / "store")
    run(experiment, store)
    plan = store.read_experiment()
    (cost,) = plan["decided"]["equal_steps"]
    assert cost["steps"] >= 1000 * cost["share"]  # the script says that it trains 1,000 steps
    (equal,) = [arm for arm in plan["arms"] if arm["control"] == "equal-steps"]
    assert equal["changes"] == [["extra", cost["steps"]]]
    assert scores(store)[equal["label"], 0] == pytest.approx(scores(store)["default", 0] + cost["steps"] / 1e6)
    assert run(experiment, store).ran == 0  # what was timed holds
    told = make(extra="{extra}", steps=10, arms=arms, seeds=(0,)).prepare(store.measure_once)
    assert told.decided["equal_steps"][0]["steps"] < cost["steps"]


def test_without_a_number_of_steps_there_is_no_equal_steps_control(make, store_of):
    found = analyse(
        store_of("print", metric_pattern=r"accuracy: (\S+)", extra="{extra}", arms=with_controls([ARMS[1]]))
    )
    assert not any(arm.control == "equal-steps" for arm in found.arms)
    assert any("--trainer-steps" in note for note in found.notes)


def test_a_command_that_fails_in_the_run_that_times_it_is_an_error(make):
    experiment = make("fail", extra="{extra}", arms=with_controls([ARMS[1]]), seeds=(1,))
    with pytest.raises(HeadstartError, match="there is no such layer"):
        experiment.prepare()


def test_a_method_that_refuses_is_refused(store_of, folder):
    torch.save(torch.rand(40, 6, 6), folder / "small.pt")
    arms = (ARMS[0], Arm("prewarm", "prewarm"))
    found = analyse(store_of(arms=arms, seeds=(0,), model="net.py:tied", data="small.pt"))
    assert "prewarm" in found.arms[1].refusal
    assert found.failures == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "'lsuv' needs data.*--data"),
        ({"data": "none.npy"}, "none.npy"),
        ({"model": "net.py:nothing"}, "nothing"),
        ({"model_args": "depth=3"}, "depth"),
        ({"arms": ()}, "at least one arm"),
        ({"arms": (ARMS[0], replace(ARMS[1], label="default"))}, "Two arms"),
        ({"device": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(make, folder, changes, message):
    (folder / "train.py").unlink()
    with pytest.raises(HeadstartError, match=message):
        make(**changes).prepare()


def test_another_worker_that_sees_other_data_says_so(make, folder):
    experiment = make()
    context = experiment.prepare()
    job = Job.of(experiment, context, experiment.trials(context)[0], torch.get_num_threads())
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:-1] + b"\x07")
    assert "sees other data" in work(job).error


def test_a_dry_run_runs_nothing_and_knows_what_is_done(make, folder, tmp_path):
    store = Store(tmp_path / "store")
    experiment = make(extra="{extra}", arms=with_controls([ARMS[1]]))
    script = (folder / "train.py").read_text()
    found = forecast_trainer(experiment, store)
    assert (found.to_do, found.total) == (6, 6)
    assert not store.folder.exists()
    run(experiment, store)
    assert (folder / "train.py").read_text() == script
    more = forecast_trainer(replace(experiment, seeds=(0, 1, 2)), store)
    assert more.to_do == more.total / 3
    assert all(arm.trial_seconds > 0 for arm in more.arms)


@pytest.mark.slow
def test_ray_gives_the_same_scores(make, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from headstart.bench.runs.executors.on_ray import OnRay

    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    run(make(), here)
    assert run(make(), there, executor=OnRay(jobs=2)).ran == 4
    assert scores(here) == scores(there)


def test_seeds_are_added_until_there_is_a_verdict(make, tmp_path):
    store = Store(tmp_path / "store")
    decision = run_until_decided(make(seeds=tuple(range(8)), margin=0.001), store, looks=2)
    assert decision.summary.ran == 2 * decision.looks.seeds[decision.used - 1]
    assert analyse(store).plan["stopping"]


@pytest.mark.slow
def test_a_killed_driver_leaves_no_run_behind(make, folder, tmp_path):
    code = (
        "import sys; from headstart.cli.main import main;"
        "main(['compare', '--trainer', sys.argv[1], '--model', 'net.py:build', '--data', 'images.npy',"
        " '--arms', 'lsuv',"
        " '--no-controls', '--seeds', '2', '--out', 'out', '--jobs', '2', '--quiet'])"
    )
    (folder / "slow.py").write_text("import os, time; open(f'{os.getpid()}.pid', 'w').close(); time.sleep(99)")
    driver = subprocess.Popen([sys.executable, "-c", code, f"{sys.executable} -S slow.py {{start}} {{out}}"])
    try:
        until = time.monotonic() + 120
        while len(list(folder.glob("*.pid"))) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        pids = [int(path.stem) for path in folder.glob("*.pid")]
        assert len(pids) == 2
        until = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    finally:
        driver.kill()
