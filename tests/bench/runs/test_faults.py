"""Whatever ends a run, the next one keeps what was finished, runs nothing twice, and comes to the same numbers."""

import contextlib
import importlib.util
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from headstart.bench import Store, analyse, run
from headstart.bench.report.summary import as_dict
from headstart.errors import HeadstartError

TIMES = ("init_seconds", "train_seconds", "step_seconds", "report")
# Writes a line when a training begins: the weights that it starts from, which no two trials share.
NET = """
import os
import time
from torch import nn

class Net(nn.Sequential):
    begun = False

    def __init__(self, classes):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))

    def forward(self, x):
        if self.training and not self.begun:
            self.begun = True
            start = [float(f"{value:.4g}") for value in self[0].weight.detach().flatten()[:6].tolist()]
            log = os.open(__file__.replace("net.py", "log.txt"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, f"{os.getpid()} {start}\\n".encode())
            os.close(log)
            time.sleep(float(os.environ.get("REST", "0.15")))
        return super().forward(x)
"""
DRIVER = """
import signal
import sys
import torch
from headstart.bench import Arm, Experiment, Store, Training, run
from headstart.bench.runs.executors import InProcess, Processes
from headstart.errors import HeadstartError

def experiment(folder):
    return Experiment(
        arms=(Arm("default"), Arm("lsuv", "lsuv"), Arm("null", control="null", weights_draw=1)),
        seeds=(0, 1, 2, 3),
        task=f"{folder}/data.py:load",
        model=f"{folder}/net.py:Net",
        training=Training(steps=6, batch_size=16, evaluations=3, calibration=32),
        auto=(),
    )

if __name__ == "__main__":
    folder, store, where = sys.argv[1:]
    # Interrupted as in the foreground, also where the tests run in the background of a shell, which ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if where == "ray":
        from headstart.bench.runs.executors.on_ray import OnRay

        executor = OnRay("local", 2)
    else:
        executor = Processes(int(where), threads=1) if int(where) else InProcess()
    try:
        done = run(experiment(folder), Store(store), executor=executor)
    except KeyboardInterrupt:
        sys.exit(130)
    except HeadstartError as error:
        sys.exit(str(error))
    print(done.ran, done.kept, done.elsewhere, len(done.redone))
"""
TRIALS = 12


class Bench:
    """A folder with a task, a model that writes a log, and drivers."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "net.py").write_text(f"{NET}# {folder}\n")  # a process imports a file once per content
        (folder / "driver.py").write_text(DRIVER)
        self.store = Store(folder / "store")

    def start(self, jobs=0, store=None, rest=0.15):
        """Start a driver with so many jobs, or with ``"ray"`` two jobs on a Ray of its own."""
        warnings = "default" if jobs == "ray" else "error"  # Ray's own are not ours to mend
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": warnings, "REST": str(rest)}
        command = [sys.executable, str(self.folder / "driver.py"), str(self.folder), str(store or self.store.folder)]
        return subprocess.Popen(
            [*command, str(jobs)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def finish(self):
        """Run the rest here, and return what was run, kept, done elsewhere and found damaged."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            done = run(runpy.run_path(str(self.folder / "driver.py"))["experiment"](self.folder), self.store)
        finally:
            torch.set_num_threads(threads)
        return done.ran, done.kept, done.elsewhere, len(done.redone)

    @staticmethod
    def end(driver):
        out, err = driver.communicate(timeout=100)
        assert (driver.returncode, err) == (0, "")
        return tuple(map(int, out.split()))

    def log(self):
        """Process and start of every training that was begun."""
        path = self.folder / "log.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), start) for pid, start in (line.split(" ", 1) for line in lines)]

    def begun(self):
        return Counter(start for _, start in self.log())

    def files(self):
        return {path.name: path.read_bytes() for path in self.store.trials.glob("*.json")}

    def until(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def finished(self, count):
        """Wait for some finished trials."""
        self.until(lambda: self.store.trials.is_dir() and len(list(self.store.trials.glob("*.json"))) >= count)


def starts(store):
    """The starts of the finished trials, as the log writes them."""
    found = store.present(path.stem for path in store.trials.glob("*.json")).values()
    return {str(record.result["first_layer"]["start"][:6]) for record in found}


def tables(store):
    """All trials without their times, and the table of verdicts."""
    trials = [
        [cell["arm"], cell["seed"], {k: v for k, v in store.get(cell["key"]).result.items() if k not in TIMES}]
        for cell in store.read_experiment()["trials"]
    ]
    arms = [
        {k: v for k, v in arm.items() if k not in ("sentence", "init_seconds", "init_steps", "steps_to_baseline")}
        for arm in as_dict(analyse(store))["arms"]
    ]
    return json.dumps([trials, arms], sort_keys=True)


@pytest.fixture
def bench(tmp_path, task_file):
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The tables of a run that nothing disturbs."""
    from_conftest = (Path(__file__).parents[1] / "conftest.py").read_text().split('"""')[1]
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "data.py").write_text(from_conftest)
    bench = Bench(folder)
    assert bench.finish() == (TRIALS, 0, 0, 0)
    assert sorted(bench.begun().values()) == [1] * TRIALS
    assert starts(bench.store) == set(bench.begun())
    return tables(bench.store)


def check(bench, before, kept_starts, lost, undisturbed):
    """What was finished is untouched and was begun once; at most those at work were begun again; same numbers."""
    after = bench.files()
    assert {name: after[name] for name in before} == before
    begun = bench.begun()
    assert len(begun) == TRIALS
    assert all(begun[start] == 1 for start in kept_starts)
    assert sum(begun.values()) <= TRIALS + lost
    assert tables(bench.store) == undisturbed
    assert bench.store.damaged() == []
    assert list(bench.store.claims.glob("*.json")) == []


SLOW = pytest.mark.slow  # several processes import torch, and another test of this file looks at the same mechanism
RAY = [SLOW, pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")]


@pytest.mark.parametrize(
    ("end", "jobs"),
    [
        (signal.SIGKILL, 0),
        pytest.param(signal.SIGINT, 0, marks=SLOW),
        pytest.param(signal.SIGKILL, 2, marks=SLOW),
        pytest.param(signal.SIGINT, 2, marks=SLOW),
        pytest.param(signal.SIGKILL, "ray", marks=RAY),
        pytest.param(signal.SIGINT, "ray", marks=RAY),
    ],
)
def test_a_driver_that_is_ended_at_work_goes_on_where_it_was(bench, undisturbed, end, jobs):
    driver = bench.start(jobs, rest=0.6)  # on a busy machine it must not be through before the signal comes
    bench.finished(3)
    driver.send_signal(end)
    said = driver.communicate(timeout=60)
    assert driver.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL), said
    workers = {pid for pid, _ in bench.log()}
    bench.until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))  # none outlives it
    before, kept = bench.files(), starts(bench.store)
    assert 3 <= len(before) < TRIALS
    ran, found, _, damaged = bench.finish()
    assert (found, ran, damaged) == (len(before), TRIALS - len(before), 0)
    check(bench, before, kept, 2 if jobs == "ray" else max(1, jobs), undisturbed)


@pytest.mark.parametrize("jobs", [pytest.param(2, marks=SLOW), pytest.param("ray", marks=RAY)])
def test_a_killed_worker_costs_its_own_trial_alone(bench, undisturbed, jobs):
    driver = bench.start(jobs)
    bench.finished(2)
    count = len(bench.log())
    bench.until(lambda: len(bench.log()) > count)  # a training has just begun: its process is at work
    os.kill(bench.log()[-1][0], signal.SIGKILL)
    before, kept = bench.files(), starts(bench.store)
    assert bench.end(driver)[0] == TRIALS
    assert sum(bench.begun().values()) == TRIALS + 1
    check(bench, before, kept, 1, undisturbed)


@pytest.mark.parametrize("jobs", [pytest.param("ray", marks=RAY)])
def test_a_killed_raylet_ends_the_run_in_one_error_and_the_next_run_goes_on(bench, undisturbed, jobs):
    psutil = pytest.importorskip("psutil", reason="finding Ray's processes needs psutil")
    driver = bench.start(jobs, rest=2)
    bench.finished(1)
    bench.until(lambda: len(bench.log()) > len(bench.files()))  # trials are at work
    started = psutil.Process(driver.pid).children(recursive=True)
    (raylet,) = (process for process in started if process.name() == "raylet")
    raylet.kill()
    out, err = driver.communicate(timeout=90)  # Ray takes some 15 seconds to be sure
    assert (driver.returncode, out) == (1, "")
    assert err.startswith("Ray could not run")
    assert err.endswith("finished trials are kept.\n")
    assert err.count("\n") == 1
    assert psutil.wait_procs(started, timeout=30)[1] == []  # nothing outlives the run
    before, kept = bench.files(), starts(bench.store)
    assert len(before) < TRIALS
    assert bench.finish()[:2] == (TRIALS - len(before), len(before))
    check(bench, before, kept, 2, undisturbed)


@SLOW
def test_two_drivers_share_the_work_and_run_nothing_twice(bench, undisturbed):
    drivers = [bench.start(), bench.start()]
    sums = [sum(column) for column in zip(*map(bench.end, drivers), strict=True)]
    assert sums[0] == TRIALS
    assert sums[0] + sums[1] + sums[2] == 2 * TRIALS
    assert len({pid for pid, _ in bench.log()}) == 2  # both did some
    check(bench, {}, starts(bench.store), 0, undisturbed)


@SLOW
def test_the_trials_of_a_killed_driver_go_to_the_other(bench, undisturbed):
    drivers = [bench.start(), bench.start()]
    bench.until(lambda: len({pid for pid, _ in bench.log()}) == 2)
    drivers[0].kill()
    drivers[0].communicate()
    before, kept = bench.files(), starts(bench.store)
    bench.end(drivers[1])
    check(bench, before, kept, 1, undisturbed)


def test_a_trial_file_cut_short_is_run_again_and_no_other(bench, undisturbed):
    bench.finish()
    victim = sorted(bench.files())[4]
    before = {name: text for name, text in bench.files().items() if name != victim}
    path = bench.store.trials / victim
    path.write_bytes(path.read_bytes()[:-100])
    assert bench.finish() == (1, TRIALS - 1, 0, 1)
    assert sorted(bench.begun().values()) == [1] * (TRIALS - 1) + [2]
    check(bench, before, (), 1, undisturbed)


@contextlib.contextmanager
def small_disk(size):
    """A disk of its own in memory, or skip."""
    folder = Path(tempfile.mkdtemp())
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        try:
            made = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            made = False
        if not made:
            pytest.skip("mounting a small disk needs rights that this machine does not give")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        shutil.rmtree(folder)


@SLOW
@pytest.mark.parametrize("jobs", [0, 2])
def test_a_full_disk_is_one_error_leaves_no_partial_file_and_does_not_cost_what_was_finished(bench, undisturbed, jobs):
    with small_disk("64k") as disk:
        driver = bench.start(jobs, disk / "store")
        _, err = driver.communicate(timeout=60)
        assert driver.returncode == 1
        assert "No space left on device" in err
        assert err.count("\n") == 1
        full = Store(disk / "store")
        assert 1 <= len(list(full.trials.iterdir())) < TRIALS
        assert {path.suffix for path in full.trials.iterdir()} == {".json"}
        assert full.damaged() == []
        assert list(full.claims.glob("*.json")) == []
        bench.store.folder.mkdir()
        shutil.copytree(disk / "store", bench.store.folder, dirs_exist_ok=True)  # a larger disk
    before, kept = bench.files(), starts(bench.store)
    assert bench.finish()[1] == len(before)
    check(bench, before, kept, max(1, jobs), undisturbed)


def test_a_full_disk_that_is_injected_is_one_error(bench, monkeypatch, make_experiment):
    real = os.fsync
    written = []

    def fsync(handle):
        written.append(handle)
        if len(written) > 3:  # the plan and two trials
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(HeadstartError, match=r"No space left.*finished trials are kept"):
        run(make_experiment(), bench.store)
    monkeypatch.undo()
    assert len(bench.files()) == len(list(bench.store.trials.iterdir())) == 2
    assert list(bench.store.claims.glob("*.json")) == []
    assert run(make_experiment(), bench.store).kept == 2
