"""The equal-steps control: the default start with the method's cost as training steps, found out once."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.bench import Arm, Store, Training, analyse, run, with_controls
from headstart.bench.runs.executors import Processes
from headstart.bench.trials import timing
from headstart.bench.trials.budget import LEAST, extra_steps, remarks, stretch
from headstart.bench.trials.optimizers import Schedule
from headstart.bench.trials.timing import Clock
from headstart.errors import HeadstartError

METHODS = (Arm("prewarm", "prewarm"), Arm("lsuv", "lsuv"))


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch):
    monkeypatch.setattr(timing, "_answers", {})


@pytest.fixture
def costing(monkeypatch):
    """Say what each start costs, in training steps; a text is a refusal. Return the arms whose start was timed."""

    def say(**steps):
        timed = []

        def init(self, arm, seed):
            timed.append(arm.label)
            if isinstance(steps[arm.label], str):
                raise HeadstartError(steps[arm.label])
            return 0.01 * steps[arm.label]

        monkeypatch.setattr(Clock, "init", init)
        monkeypatch.setattr(Clock, "step", lambda self: 0.01)
        return timed

    return say


@pytest.fixture
def controlled(make_experiment):
    def make(steps=100, methods=METHODS, **changes):
        training = Training(steps=steps, batch_size=16, evaluations=2, calibration=32)
        return make_experiment(**{"arms": with_controls(methods), "training": training, **changes})

    return make


def steps_of(context):
    return {arm.of: context.training_of(arm).steps for arm in context.arms if arm.control == "equal-steps"}


def test_the_control_is_the_default_start_with_the_methods_cost_in_steps(controlled, costing):
    costing(prewarm=7.2, lsuv=0.4)
    context = controlled().prepare()
    assert steps_of(context) == {"prewarm": 108, "lsuv": 101}
    control = next(arm for arm in context.arms if arm.control == "equal-steps")
    default = context.determinants(context.arms[0], 3)
    longer = context.determinants(control, 3)
    assert longer["training"].pop("steps") == 108
    assert default["training"].pop("steps") == 100
    assert default == longer
    assert context.decided["equal_steps"][0]["steps"] == 8


@given(st.floats(LEAST, 5), st.integers(1, 100_000))
def test_extra_steps_cover_the_cost_and_no_more_than_a_hundredth_beyond_it(share, steps):
    more = extra_steps(share, steps)
    assert share * steps <= more + 1e-9
    assert more <= share * steps + max(1, 0.01 * steps + 1)
    assert more % -(-steps // 100) == 0


def test_a_start_by_training_is_counted_and_not_timed(controlled, costing):
    timed = costing(lsuv=7.2, first=3)
    methods = (Arm("short", "smart-init:epochs=2"), Arm("warm", "warm-start:epochs=1"), Arm("lsuv", "lsuv"))
    methods += (Arm("shrunk", "shrink-perturb:epochs=1"), Arm("first", "warm-start:epochs=1,batch_size=8"))
    context = controlled(methods=methods).prepare()
    size = len(context.data.train)
    short = 2 * (ceil(round(0.0125 * size) / 16) + ceil(round(0.125 * size) / 16))
    warm = ceil(round(0.5 * size) / 16)
    assert steps_of(context) == {
        "short": 100 + short,
        "warm": 100 + warm,
        "shrunk": 100 + warm,
        "lsuv": 108,
        "first": 103,
    }
    assert timed == ["lsuv", "first"]


def test_what_costs_next_to_nothing_has_no_control_and_the_report_says_so(controlled, costing, store):
    costing(prewarm=5, lsuv=0.1)
    experiment = controlled(seeds=(0,))
    context = experiment.prepare(store.measure_once)
    assert steps_of(context) == {"prewarm": 105}
    assert remarks(context.decided) == [
        "The start of lsuv takes less than 0.2 % of the training's time: budgets are equal to within that, "
        "and there is no equal-steps control."
    ]
    assert remarks({}) == []


def test_a_method_that_refuses_has_none_and_is_asked_again(controlled, costing, store):
    timed = costing(prewarm="no convolution", lsuv=3)
    assert steps_of(controlled().prepare(store.measure_once)) == {"lsuv": 103}
    timing._answers.clear()
    costing(prewarm=4, lsuv=30)
    assert steps_of(controlled().prepare(store.measure_once)) == {"prewarm": 104, "lsuv": 103}
    assert timed == ["prewarm", "lsuv"]


def test_the_cost_is_found_out_once_whatever_the_budget(controlled, costing, store):
    timed = costing(prewarm=7.2, lsuv=3)
    controlled().prepare(store.measure_once)
    timing._answers.clear()
    costing(prewarm=50, lsuv=50)
    again = Store(store.folder)
    assert steps_of(controlled().prepare(again.measure_once)) == {"prewarm": 108, "lsuv": 103}
    assert steps_of(controlled(steps=1000).prepare(again.measure_once)) == {"prewarm": 1010, "lsuv": 1010}
    assert steps_of(controlled().prepare(again.decided)) == {"prewarm": 108, "lsuv": 103}
    assert timed == ["prewarm", "lsuv"]


def test_a_real_start_is_timed_and_its_control_runs(make_experiment, store):
    experiment = make_experiment(arms=with_controls([Arm("lsuv", "lsuv")]), seeds=(0,))
    run(experiment, store)
    analysis = analyse(store)
    control = analysis.arms[2]
    assert (control.control, control.of) == ("equal-steps", "lsuv")
    (cost,) = analysis.plan["decided"]["equal_steps"]
    assert f"the default start with {cost['steps']} more training step" in analysis.control_readings()[0]
    assert 0.01 < cost["init_seconds"] / cost["step_seconds"] < 1000
    assert control.results[0]["curve"][-1]["step"] == 6 + cost["steps"]
    assert analysis.missing == 0


def test_a_control_of_nothing_is_refused(make_experiment):
    arms = (Arm("default"), Arm("longer", control="equal-steps", of="prewram"))
    with pytest.raises(HeadstartError, match="'longer' is a control of 'prewram', but there is no such arm"):
        make_experiment(arms=arms).prepare()


@pytest.mark.slow  # two processes import torch
def test_worker_processes_run_what_was_settled_here(controlled, costing, store, tmp_path):
    costing(prewarm=3, lsuv=3)  # the workers know nothing of it
    experiment = controlled(steps=4, seeds=(0,))
    done = run(experiment, store, executor=Processes(2, threads=1))
    other = Store(tmp_path / "other")
    assert run(experiment, other).ran == done.ran == 7  # of eight arms two share theirs
    keys = {cell["key"] for cell in store.read_experiment()["trials"]}
    assert {store.get(key).result["test_accuracy"] for key in keys} == {
        other.get(key).result["test_accuracy"] for key in keys
    }


def test_a_switch_leaves_it_out(make_experiment, costing):
    timed = costing()
    assert len(make_experiment().prepare().arms) == 3
    assert timed == []


@pytest.mark.parametrize(
    "training",
    [
        Training(steps=100, batch_size=16, schedule="cosine", lr=0.1),
        Training(steps=100, batch_size=16, schedule="constant", lr=0.1),
        Training(steps=100, batch_size=16, schedule="step", milestones=(25, 50), lr=0.1),
        Training(steps=100, epochs=10, batch_size=16, schedule="step", milestones=(2.5, 5), lr=0.1),
        Training(steps=100, batch_size=16, schedule="exponential", decay=0.5, lr=0.1),
    ],
    ids=lambda training: f"{training.schedule}{' by epochs' * bool(training.epochs)}",
)
def test_the_schedule_stretches_over_all_steps(training):
    short, long = rates(training), rates(replace(training, **stretch(training, 200)))
    if training.schedule == "exponential":  # it falls after epochs, of which there are twice as many
        assert long[::20] == pytest.approx(short[::10])
    else:
        assert long[::2] == pytest.approx(short, abs=1e-9)


def rates(training):
    """The learning rate of each step; an epoch has ten."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], training.lr)
    schedule = Schedule(optimizer, training, 160)
    found = []
    for _ in range(training.steps):
        found.append(schedule.rate)
        optimizer.step()
        schedule.after_step()
    return found
