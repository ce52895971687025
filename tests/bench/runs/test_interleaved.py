"""Trials that take turns in one process come to what they come to one after the other."""

import random
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart import rng
from headstart.bench import Store, run
from headstart.bench.runs.executors import InProcess, Interleaved
from headstart.bench.trials import loop
from headstart.bench.trials.trial import TrialContext
from headstart.errors import HeadstartError

TIMES = ("init_seconds", "train_seconds", "step_seconds", "report")
NET = """
import random
import numpy as np
import torch
from torch import nn

class Drawing(nn.Sequential):
    '''Draws from every global random state while it trains.'''

    def __init__(self, classes):
        inner = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
        super().__init__(*inner, nn.Dropout(0.3), nn.Linear(144, classes))

    def forward(self, x):
        if self.training:
            x = x + 0.1 * torch.rand(1) + 0.1 * np.random.random() + 0.1 * random.random()
        return super().forward(x)

class Failing(Drawing):
    begun = 0

    def __init__(self, classes):
        super().__init__(classes)
        Failing.begun += 1
        self.number, self.calls = Failing.begun, 0

    def forward(self, x):
        self.calls += self.training
        if self.number == ONE and self.calls == 3:
            raise ERROR
        return super().forward(x)
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"

    def write(one=0, error="ValueError('in the third step')"):
        path.write_text(NET.replace("ONE", str(one)).replace("ERROR", error) + f"# {tmp_path} {one} {error}\n")
        return path

    return write


def results(store):
    found = store.present(path.stem for path in store.trials.glob("*.json"))
    return {key: {k: v for k, v in r.result.items() if k not in TIMES} for key, r in found.items()}


@pytest.fixture
def order(monkeypatch):
    """Seeds and arms in the order of their turns."""
    seen, original = [], TrialContext.run_in_turns

    def spied(self, arm, seed, on_step=None):
        turns = original(self, arm, seed, on_step)
        while True:
            seen.append((arm.label, seed))
            try:
                ready = next(turns)
            except StopIteration as end:
                return end.value
            yield ready

    monkeypatch.setattr(TrialContext, "run_in_turns", spied)
    return seen


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@pytest.mark.parametrize("waits", [False, True])
def test_trials_in_turns_are_bit_for_bit_those_one_after_the_other(
    make_experiment, net, order, tmp_path, monkeypatch, waits
):
    if waits:  # as if the device were never done when Python looks
        monkeypatch.setattr(loop, "device_done", lambda device: lambda: False)
    experiment = make_experiment(model=f"{net()}:Drawing")
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    run(experiment, here, executor=InProcess())
    before = states()
    done = run(experiment, there, executor=Interleaved(3, steps=1))
    assert states() == before
    assert (done.ran, len(results(there))) == (6, 6)
    assert results(there) == results(here)
    first = [("default", 0), ("prewarm", 0), ("null", 0)]
    assert order[:6] == first * 2  # a step of one, a step of the next
    assert set(order) == {(label, seed) for label, _ in first for seed in (0, 1)}


def test_an_error_ends_its_trial_alone_and_no_other_begins(make_experiment, net, order, tmp_path):
    # The first model is that of the check before all trials, the second counts parameters.
    experiment = make_experiment(model=f"{net(one=4)}:Failing")
    store, before = Store(tmp_path / "store"), states()
    with pytest.raises(RuntimeError, match=r"'prewarm', seed 0, failed:[\s\S]*ValueError: in the third step"):
        run(experiment, store, executor=Interleaved(2, steps=1))
    assert states() == before
    assert set(order) == {("default", 0), ("prewarm", 0)}
    assert len(results(store)) == 1
    assert list(store.claims.glob("*.json")) == []


def test_an_interruption_leaves_the_states_and_no_lock(make_experiment, net, tmp_path):
    experiment = make_experiment(model=f"{net(one=4, error='KeyboardInterrupt')}:Failing")
    before = states()
    with pytest.raises(KeyboardInterrupt):
        run(experiment, Store(tmp_path / "store"), executor=Interleaved(3, steps=1))
    assert states() == before
    free = []

    def take():
        free.append(rng._LOCK.acquire(timeout=5))
        if free[0]:
            rng._LOCK.release()

    other = threading.Thread(target=take)
    other.start()
    other.join()
    assert free == [True]


@pytest.mark.parametrize("count", [0, 33])
def test_numbers_that_make_no_sense_are_refused(count):
    with pytest.raises(HeadstartError, match="from 1 to 32"):
        Interleaved(count)


def test_several_devices_for_one_trial_are_refused(make_experiment, tmp_path):
    experiment = make_experiment()
    experiment = replace(experiment, training=replace(experiment.training, devices=2))
    with pytest.raises(HeadstartError, match="with one device each"):
        run(experiment, Store(tmp_path / "store"), executor=Interleaved(2))
