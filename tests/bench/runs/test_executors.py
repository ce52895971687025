import argparse
import contextlib
import functools
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import headstart.bench
from headstart.bench import Arm, Store, run
from headstart.bench.report.terminal import Bars
from headstart.bench.runs.executors import InProcess, Interleaved, Processes, processes, worker
from headstart.bench.runs.executors.base import Silent, Working
from headstart.bench.runs.executors.worker import Job, Reply, work
from headstart.bench.trials import trial as trial_module
from headstart.cli._executors import add_executor_arguments, executor_from
from headstart.cli.main import main
from headstart.errors import HeadstartError, MissingExtraError

TIMES = ("init_seconds", "train_seconds", "step_seconds", "report")
NET = """
import os
import signal
import time
from pathlib import Path
from torch import nn

class Slow(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))

    def forward(self, x):
        time.sleep(0.02)
        return super().forward(x)

def build(classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))

def noted(classes):
    Path(__file__).with_name(f"{os.getpid()}.pid").touch()
    return Slow(classes)

def deadly(classes):
    count = Path(__file__).with_name("deaths.txt")
    if os.environ.get("DRIVER") != str(os.getpid()):
        with count.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if len(count.read_text().splitlines()) <= int(os.environ["DEATHS"]):
            os.kill(os.getpid(), getattr(signal, os.environ.get("DEATH", "SIGKILL")))
    return build(classes)

def wrong(classes):
    if os.environ.get("DRIVER") != str(os.getpid()):
        raise KeyError("only in a worker")
    return build(classes)
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    path = tmp_path / "net.py"
    path.write_text(NET)
    monkeypatch.setenv("DRIVER", str(os.getpid()))
    return path


def results(store):
    """The results without the times, by key."""
    found = store.present(path.stem for path in store.trials.iterdir())
    return {key: {k: v for k, v in r.result.items() if k not in TIMES} for key, r in found.items()}


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_executor_arguments(parser.add_argument_group("where"))
    return executor_from(parser.parse_args(arguments))


class Count(Silent):
    def __init__(self):
        self.begun, self.ends, self.most = (), 0, {}

    def working(self, trials):
        for trial in trials:
            assert 0 <= trial.done <= trial.steps
            key = trial.arm, trial.seed
            self.most[key] = max(trial.done, self.most.get(key, 0))

    def begin(self, total, kept):
        self.begun = total, kept

    def end(self, result):
        self.ends += 1


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_processes_give_what_one_process_gives_bit_for_bit(make_experiment, net, tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr(processes, "LOOK", 0.01)
    experiment = make_experiment(model=f"{net}:Slow")
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    run(experiment, here, executor=InProcess())
    progress = Count()
    done = run(experiment, there, progress, executor=Processes(2, threads=1))
    assert (done.ran, done.kept, progress.begun, progress.ends) == (6, 0, (6, 0), 6)
    assert set(progress.most) == {(arm.label, seed) for arm in experiment.arms for seed in experiment.seeds}
    assert all(2 <= most <= 6 for most in progress.most.values())  # evaluated, and so told, after 2, 4 and 6 steps
    assert results(there) == results(here)
    assert here.read_experiment() == there.read_experiment()
    records = there.present(path.stem for path in there.trials.iterdir()).values()
    assert {record.provenance["threads"] for record in records} == {1}
    assert list(there.claims.glob("*.json")) == []


def test_each_trial_at_work_has_a_bar_while_it_is():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Bars(console) as bars:
        bars.begin(6, 0)
        bars.working([Working("lsuv[1]", 0, 3, 10), Working("default", 1, 0, 10)])
        bars.working([Working("default", 1, 4, 10), Working("lsuv[1]", 2, 0, 10)])
        lines = [(task.description, task.completed, task.total) for task in bars._progress.tasks]
        bars.working([Working("a", seed, 1, 10) for seed in range(99)])
        assert len(bars._progress.tasks) < 12
        bars.working([])
        assert len(bars._progress.tasks) == 1
    assert lines == [("trials", 0, 6), ("default, seed 1", 4, 10), ("lsuv[1], seed 2", 0, 10)]
    assert "lsuv[1], seed 2" in console.file.getvalue()


@pytest.mark.parametrize("death", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_trial_whose_worker_dies_is_run_again_and_the_others_are_kept(
    make_experiment, net, store, monkeypatch, death
):
    monkeypatch.setenv("DEATHS", "1")
    monkeypatch.setenv("DEATH", death)
    experiment = make_experiment(model=f"{net}:deadly", arms=(Arm("default"),), seeds=(0, 1))
    assert run(experiment, store, executor=Processes(1)).ran == 2
    assert len(results(store)) == 2
    assert len((net.parent / "deaths.txt").read_text().splitlines()) == 4  # one that died, one to look at, two to train


@pytest.mark.slow  # three workers import torch
def test_a_worker_that_always_dies_ends_in_one_error(make_experiment, net, store, monkeypatch):
    monkeypatch.setenv("DEATHS", "99")
    monkeypatch.setattr(processes, "RETRIES", 1)
    experiment = make_experiment(model=f"{net}:deadly", arms=(Arm("default"),), seeds=(0,))
    with pytest.raises(HeadstartError, match="'default', seed 0, died 2 times"):
        run(experiment, store, executor=Processes(1))
    assert list(store.claims.glob("*.json")) == []


def test_an_error_of_the_users_model_in_a_worker_is_one_error(make_experiment, net, store):
    experiment = make_experiment(model=f"{net}:wrong", arms=(Arm("default"),), seeds=(0,))
    with pytest.raises(HeadstartError, match="only in a worker"):
        run(experiment, store, executor=Processes(1))


def test_an_error_of_our_own_keeps_its_trace(make_experiment, monkeypatch):
    experiment = make_experiment()
    context = experiment.prepare()
    trial = experiment.trials(context)[0]
    monkeypatch.setattr(trial_module, "run_trial", lambda *args: 1 / 0)
    reply = work(Job.of(experiment, context, trial, torch.get_num_threads()))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        reply.finished(trial)


def test_a_worker_that_sees_other_data_says_so(make_experiment, tmp_path):
    experiment = make_experiment()
    context = experiment.prepare()
    trial = replace(experiment.trials(context)[0], key="0" * 32)
    reply = work(Job.of(experiment, context, trial, torch.get_num_threads()))
    assert reply.result is None
    with pytest.raises(HeadstartError, match="sees other data"):
        reply.finished(trial)


def test_a_worker_prepares_once(make_experiment, monkeypatch):
    experiment = make_experiment()
    context = experiment.prepare()
    calls = []
    real = type(experiment).prepare
    monkeypatch.setattr(type(experiment), "prepare", lambda self: calls.append(1) or real(self))
    monkeypatch.setattr(worker, "_prepared", {})
    for trial in experiment.trials(context)[:3]:
        assert isinstance(work(Job.of(experiment, context, trial, torch.get_num_threads())), Reply)
    assert len(calls) == 1


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [Processes(n).threads() for n in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # what the user asked for is not exceeded
    assert Processes(2).threads() == 2


def test_closing_stops_what_runs():
    executor = Processes(1)
    (slot,) = executor._workers
    pid = slot.submit(os.getpid).result()
    slot.submit(signal.pause)
    executor.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_closing_does_not_wait_for_a_worker_that_does_not_listen(monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.1)
    executor = Processes(1)
    (slot,) = executor._workers
    slot.submit(exec, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)").result()
    slot.submit(signal.pause)
    executor.close()
    assert multiprocessing.active_children() == []


def test_closing_stops_a_worker_that_still_starts():
    executor = Processes(1)
    (slot,) = executor._workers
    slot.submit(signal.pause)  # in the queue that the worker reads as soon as it can
    executor.close()
    assert multiprocessing.active_children() == []


def processes_of(session):
    """The process ids of a session that are no zombies."""
    lines = subprocess.run(["ps", "-e", "-o", "sess=,pid=,stat="], capture_output=True, text=True).stdout.splitlines()
    return [line.split()[1] for line in lines if line.split()[0] == str(session) and "Z" not in line.split()[2]]


@pytest.mark.slow  # three processes import torch
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the session's processes as Linux lists them")
def test_a_driver_that_a_signal_ends_leaves_nothing_behind(net, task_file, tmp_path):
    out = tmp_path / "out"
    arguments = ["--task", task_file, "--model", f"{net}:noted", "--out", str(out), "--arms", "lsuv", "--seeds", "2"]
    arguments += ["--no-controls", "--jobs", "2", "--quiet", "--exploratory", "--steps", "4000", "--batch-size", "16"]
    default = functools.partial(signal.signal, signal.SIGTERM, signal.SIG_DFL)  # whatever this shell ignores
    command = [sys.executable, "-m", "headstart.cli.main", "compare", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=default
    ) as driver:
        try:
            deadline = time.monotonic() + 300
            while len(list(tmp_path.glob("*.pid"))) < 3 and driver.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)  # until the driver and two workers have built the model
            driver.send_signal(signal.SIGTERM)
            printed, said = driver.communicate(timeout=120)
            while processes_of(driver.pid) and time.monotonic() < deadline:
                time.sleep(0.1)  # what counts semaphores ends last
            assert processes_of(driver.pid) == []
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
    assert driver.returncode == 128 + signal.SIGTERM
    assert printed == ""
    assert " ".join(said.split()) == (
        f"Finished trials are kept in '{out}'; the same command continues from there. Ended by SIGTERM."
    )
    assert list(out.glob("claims/*.json")) == []


def test_the_arguments_choose_the_executor():
    assert isinstance(parse(), InProcess)
    assert isinstance(parse("--jobs", "1"), InProcess)
    assert isinstance(parse("--jobs", "3"), Processes)
    for wrong in ("0", "-2"):
        with pytest.raises(HeadstartError, match="at least 1"):
            parse("--jobs", wrong)
    with pytest.raises(HeadstartError, match="needs Ray"):
        parse("--gpus-per-trial", "0.5")
    assert isinstance(parse("--streams", "3"), Interleaved)
    for other in (["--jobs", "2"], ["--ray", "local"]):
        with pytest.raises(HeadstartError, match="for one process"):
            parse("--streams", "3", *other)


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"headstart\[ray\]"):
        parse("--ray", "local")


def test_compare_hands_the_executor_on(task_file, tmp_path, capsys, monkeypatch):
    small = ["--steps", "4", "--batch-size", "16", "--evaluations", "2", "--calibration", "32", "--quiet"]
    out = ["--out", str(tmp_path / "out"), "--arms", "lsuv", "--no-controls", "--seeds", "1", "--exploratory"]
    seen = []

    def spy(experiment, store, progress, command, executor):
        seen.append(executor)
        return run(experiment, store, progress, command)

    monkeypatch.setattr(headstart.bench, "run", spy)
    assert main(["compare", "--task", task_file, *out, *small, "--jobs", "2"]) == 0
    assert "2 trials run" in capsys.readouterr().out
    assert isinstance(seen[0], Processes)
    assert main(["compare", "--task", task_file, *out, *small, "--gpus-per-trial", "1"]) == 2
    assert "--gpus-per-trial needs Ray" in capsys.readouterr().err
