"""Precision and memory format: timed fairly, chosen only if clearly faster, and once for all trials of a store."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.bench import Arm, Store, Training, analyse, run
from headstart.bench.runs.forecast import forecast
from headstart.bench.trials import autotune, hardware, timing
from headstart.bench.trials.autotune import Combination, candidates, measure, pick, tune
from headstart.bench.trials.loop import Outcome, Point

AUTO = ("precision", "memory_format")
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(256, classes)

    def forward(self, x):
        x = self.conv(x)
        return self.head(x.view(len(x), -1))

def flat(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def wrong(classes):
    return nn.Linear(3, classes)
"""


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch):
    monkeypatch.setattr(timing, "_answers", {})
    monkeypatch.setattr(hardware, "computes_bfloat16", lambda device: True)


COMPUTES = hardware.computes_bfloat16  # the tests below pretend that every machine does


@pytest.mark.parametrize(("capability", "computes"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_older_gpus_only_emulate_bfloat16(monkeypatch, capability, computes):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert COMPUTES("cuda:1") is (computes or torch.version.hip is not None)


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture
def pretend(monkeypatch):
    """Replace the training by one that says how long its steps took and what the loss was, and note the calls."""

    def replace(seconds, losses=None):
        calls = []

        def brief(context, data, steps):
            key = context.training.precision, context.training.memory_format
            calls.append((*key, steps))
            if isinstance(seconds[key], Exception):
                raise seconds[key]
            loss = (losses or {}).get(key, 2.0)
            curve = [Point(0, 10.0, 2.0, None)] + ([] if loss is None else [Point(steps, 10.0, 2.0, loss)])
            return Outcome(curve, diverged="" if loss else "not finite", step_seconds=seconds[key])

        monkeypatch.setattr(autotune, "train_briefly", brief)
        return calls

    return replace


def times(a, b, c, d):
    return {
        ("float32", "contiguous"): a,
        ("float32", "channels_last"): b,
        ("bfloat16", "contiguous"): c,
        ("bfloat16", "channels_last"): d,
    }


def chosen(context):
    return context.training.precision, context.training.memory_format


def test_real_steps_are_timed_in_every_combination_that_runs(make_experiment, net):
    state = torch.get_rng_state(), random.getstate()
    context = make_experiment().prepare()
    found = measure(context, candidates(context, AUTO))
    assert [(each.precision, each.memory_format) for each in found] == list(times(1, 1, 1, 1))
    assert all(0 < each.step_seconds < 10 and not each.problem for each in found)
    context = make_experiment(model=f"{net}:Net", arms=(Arm("default"),)).prepare()
    found = measure(context, candidates(context, AUTO))
    assert [each.step_seconds is None for each in found] == [False, True, False, True]
    assert "view" in found[1].problem  # a view does not work on channels-last tensors
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


def test_only_what_is_asked_for_and_possible_is_tried(make_experiment, net, monkeypatch):
    context = make_experiment().prepare()
    assert [each.memory_format for each in candidates(context, ["memory_format"])] == ["contiguous", "channels_last"]
    assert [each.precision for each in candidates(context, ["precision"])] == ["float32", "bfloat16"]
    flat = make_experiment(model=f"{net}:flat", arms=(Arm("default"),)).prepare()
    assert len(candidates(flat, AUTO)) == 2  # no convolution: no channels-last
    monkeypatch.setattr(hardware, "computes_bfloat16", lambda device: False)
    assert len(candidates(flat, AUTO)) == 1


@pytest.mark.parametrize(
    ("seconds", "losses", "expected"),
    [
        (times(1, 1, 1, 1), {}, ("float32", "contiguous")),
        (times(1, 0.92, 0.92, 0.92), {}, ("float32", "contiguous")),
        (times(1, 0.5, 1, 0.48), {}, ("float32", "channels_last")),
        (times(1, 0.5, 0.9, 0.3), {}, ("bfloat16", "channels_last")),
        (times(1, RuntimeError("view"), 0.7, RuntimeError("view")), {}, ("bfloat16", "contiguous")),
        (times(1, 0.5, 0.9, 0.3), {("bfloat16", "channels_last"): 2.2}, ("float32", "channels_last")),
        (times(1, 0.5, 0.9, 0.3), {("bfloat16", "channels_last"): None}, ("float32", "channels_last")),
        (times(RuntimeError("memory"), 9, 8, 7), {}, ("bfloat16", "channels_last")),
    ],
)
def test_another_is_taken_only_if_it_runs_computes_the_same_and_is_clearly_faster(
    make_experiment, pretend, seconds, losses, expected
):
    pretend(seconds, losses)
    assert chosen(tune(make_experiment().prepare(), AUTO)) == expected


def test_rounds_are_interleaved_and_slow_ones_end_early(make_experiment, pretend, monkeypatch):
    calls = pretend(times(0.01, 0.01, 0.01, 0.01))
    tune(make_experiment().prepare(), AUTO)
    assert [call[2] for call in calls[:4]] == [1] * 4  # the first round looks at the loss
    assert [call[:2] for call in calls] == list(times(1, 1, 1, 1)) * 6
    assert calls[-1][2] == 4
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: next(clock))  # each call takes five seconds
    monkeypatch.setattr(timing, "_answers", {})
    calls.clear()
    tune(make_experiment().prepare(), AUTO)
    assert len(calls) == 8
    assert [call[2] for call in calls[4:]] == [3] * 4


def test_a_model_that_does_not_run_at_all_says_why_and_nothing_is_kept(make_experiment, net, store):
    experiment = make_experiment(model=f"{net}:wrong", arms=(Arm("default"),), auto=AUTO)
    with pytest.raises(RuntimeError, match="shapes"):
        run(experiment, store)
    assert not store.choices.exists()


def test_the_choice_is_made_once_and_every_later_run_takes_it(make_experiment, pretend, store, monkeypatch):
    experiment = make_experiment(auto=AUTO, seeds=(0,))
    pretend(times(1, 0.5, 1, 1))
    run(experiment, store)
    assert store.read_experiment()["training"]["memory_format"] == "channels_last"
    monkeypatch.setattr(timing, "_answers", {})  # as another process would
    calls = pretend(times(1, 1, 0.5, 1))
    again = make_experiment(auto=AUTO, seeds=(0, 1))
    assert run(again, Store(store.folder)).kept == 3
    assert forecast(again, Store(store.folder)).to_do == 0
    assert calls == []
    plan = store.read_experiment()
    assert chosen(again.prepare(store.measure_once)) == ("float32", "channels_last")
    assert "float32, channels-last (500 ms, chosen); bfloat16" in " ".join(analyse(store).rules())
    measured = plan["decided"]["format"]["measured"]
    assert [each["step_seconds"] for each in measured] == [1, 0.5, 1, 1]


def test_a_dry_run_measures_and_keeps_nothing(make_experiment, store):
    forecast(make_experiment(auto=AUTO), store)
    assert not store.folder.exists()


def test_one_process_measures_once(make_experiment, pretend):
    calls = pretend(times(1, 1, 1, 1))
    for lr in (0.1, 0.2):
        make_experiment(auto=AUTO, training=Training(steps=6, batch_size=16, lr=lr)).prepare()
        assert len(calls) == 24
    make_experiment(auto=["memory_format"]).prepare()
    assert len(calls) == 36  # another question


@given(st.lists(st.one_of(st.none(), st.floats(0.001, 100)), min_size=1, max_size=6))
def test_what_is_picked_is_never_slower_than_the_first_that_runs(seconds):
    found = [Combination("float32", "contiguous", each) for each in seconds]
    best = seconds[pick(found)]
    usable = [each for each in seconds if each is not None]
    if usable:
        assert best <= usable[0]
        assert 0.9 * best <= min(usable) * (1 + 1e-9)
    else:
        assert pick(found) == 0
