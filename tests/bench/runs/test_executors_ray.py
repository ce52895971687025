"""Trials on Ray. Slow: Ray takes seconds to start, and its workers import torch once more."""

import os

import pytest
import torch

from headstart.bench import Arm, Store, run
from headstart.cli._executors import executor_from
from headstart.errors import HeadstartError

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.slow

from headstart.bench.runs.executors import on_ray  # noqa: E402
from headstart.bench.runs.executors.base import Silent  # noqa: E402
from headstart.bench.runs.executors.on_ray import OnRay  # noqa: E402

TIMES = ("init_seconds", "train_seconds", "step_seconds", "report")
NET = """
import os
import signal
from pathlib import Path
from torch import nn

def build(classes):
    once = Path(__file__).with_name("died")
    if os.getpid() != {driver} and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))
"""

SLOW = """
import time
from torch import nn

class Slow(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))

    def forward(self, x):
        time.sleep(0.1)
        return super().forward(x)
"""


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
    torch.set_num_threads(threads)


def results(store):
    found = store.present(path.stem for path in store.trials.iterdir())
    return {key: {k: v for k, v in r.result.items() if k not in TIMES} for key, r in found.items()}


def test_ray_gives_what_one_process_gives_bit_for_bit(make_experiment, tmp_path):
    experiment = make_experiment()
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    run(experiment, here)
    done = run(experiment, there, executor=OnRay("local"))
    assert (done.ran, done.kept) == (6, 0)
    assert results(there) == results(here)
    assert {record.provenance["threads"] for record in there.present(results(there)).values()} == {1}
    assert ray.is_initialized()  # a Ray that was there before is left as it was


def test_a_task_whose_worker_is_killed_is_run_again(make_experiment, tmp_path, store):
    net = tmp_path / "net.py"
    net.write_text(NET.format(driver=os.getpid()))
    experiment = make_experiment(model=f"{net}:build", arms=(Arm("default"),))
    assert run(experiment, store, executor=OnRay("local")).ran == 2
    assert (tmp_path / "died").exists()
    assert len(results(store)) == 2


def test_workers_tell_how_far_they_are(make_experiment, tmp_path, store, monkeypatch):
    monkeypatch.setattr(on_ray, "LOOK", 0.02)
    net = tmp_path / "net.py"
    net.write_text(SLOW)
    progress, most = Silent(), {}

    def working(trials):
        most.update({trial.seed: max(trial.done, most.get(trial.seed, 0)) for trial in trials})

    progress.working = working
    experiment = make_experiment(model=f"{net}:Slow", arms=(Arm("default"),))
    assert run(experiment, store, progress, executor=OnRay("local")).ran == 2
    assert set(most) == {0, 1}
    assert all(2 <= done <= 6 for done in most.values())  # evaluated, and so told, after 2, 4 and 6 steps


def test_a_board_that_is_lost_is_not_the_trials_affair(make_experiment, tmp_path, store, monkeypatch):
    real = on_ray._Board.wait

    def lose(board, busy):
        ray.kill(board.actor)
        return real(board, busy)

    monkeypatch.setattr(on_ray._Board, "wait", lose)
    assert run(make_experiment(), store, executor=OnRay("local")).ran == 6


def test_a_ray_that_fails_is_one_error(make_experiment, store, monkeypatch):
    def fail(*_, **__):
        raise ray.exceptions.RaySystemError("Broken pipe")

    monkeypatch.setattr(on_ray._Board, "wait", fail)
    with pytest.raises(HeadstartError, match=r"Broken pipe.*finished trials are kept"):
        run(make_experiment(), store, executor=OnRay("local"))
    assert list(store.claims.glob("*.json")) == []


def test_a_ray_that_does_not_start_is_one_error(make_experiment, store, monkeypatch):
    def fail(**_):
        raise Exception("The current node timed out during startup.")  # as Ray does if a process of it dies there

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(HeadstartError, match=r"'local' cannot be reached: The current node timed out.*or give --jobs"):
        run(make_experiment(), store, executor=OnRay("local"))
    with pytest.raises(HeadstartError, match=r"'auto' cannot be reached.*ray start --head"):
        run(make_experiment(), store, executor=OnRay("auto"))
    assert list(store.claims.glob("*.json")) == []


def test_an_error_in_a_task_is_told(make_experiment, tmp_path, store):
    net = tmp_path / "net.py"
    net.write_text(
        "import os\nfrom torch import nn\n"
        f"def build():\n    return nn.Flatten() if os.getpid() == {os.getpid()} else 3\n"
    )
    experiment = make_experiment(model=f"{net}:build", arms=(Arm("default"),))
    with pytest.raises(HeadstartError, match="returned int, not a"):
        run(experiment, store, executor=OnRay("local"))
    assert list(store.claims.glob("*.json")) == []


def test_more_than_there_is_room_for_is_refused(make_experiment, store):
    with pytest.raises(HeadstartError, match="no room for a trial of 1 cores and 1 GPUs"):
        run(make_experiment(), store, executor=OnRay("local", gpus_per_trial=1))
    with pytest.raises(HeadstartError, match="no room for a trial of 64 cores"):
        run(make_experiment(), store, executor=OnRay("local", threads=64))


@pytest.mark.parametrize("gpus", [-1, 1.5, float("nan"), float("inf")])
def test_a_number_of_gpus_that_makes_no_sense_is_refused(gpus):
    with pytest.raises(HeadstartError, match="GPUs per trial are not possible"):
        OnRay("local", gpus_per_trial=gpus)


def test_the_arguments_choose_ray():
    import argparse

    executor = executor_from(argparse.Namespace(ray="local", jobs=None, gpus_per_trial=0.25))
    assert isinstance(executor, OnRay)
