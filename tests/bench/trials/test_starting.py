"""Starts by training inside a comparison: they train as the trial does, on the trial's images."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.bench.runs.experiment import Experiment
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.tasks.loading import load_task
from headstart.bench.trials import optimizers
from headstart.bench.trials.arms import parse_arm, with_controls
from headstart.bench.trials.starting import TrainingImages, start
from headstart.bench.trials.training import Training
from headstart.bench.trials.trial import run_trial


@pytest.fixture(scope="module")
def data():
    return DeviceTask(load_task("mnist5k:train=200,validation=50,test=50"), "cpu", "contiguous")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(676, 10))


def method(**options):
    return hs.SmartInit(**{"fractions": (0.1, 0.4), "epochs": 3, **options})


def watched(monkeypatch):
    """Record every optimizer that is made: its class, rates step by step, whether it was new."""
    seen = []
    make = optimizers.make_optimizer

    def watching(model, config):
        optimizer = make(model, config)
        rates = []
        seen.append((type(optimizer).__name__, rates, len(optimizer.state)))
        optimizer.register_step_pre_hook(lambda o, a, k: rates.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr("headstart.bench.trials.starting.make_optimizer", watching)
    return seen


def test_images_are_those_of_the_task(data):
    images = TrainingImages(data)
    assert len(images) == 200
    expected, labels = data.training_batch(torch.tensor([7]))
    assert torch.equal(images[7][0], expected[0])
    assert images[7][1] == int(labels)
    assert images.targets.tolist() == data.train.labels.tolist()


def test_stages_take_the_trials_optimizer_and_schedule_from_their_start(data, monkeypatch):
    seen = watched(monkeypatch)
    start(net(), data, Training(steps=500, batch_size=32, lr=0.1, optimizer="sgd"), [method()], seed=0)
    assert [(kind, len(rates), state) for kind, rates, state in seen] == [("SGD", 3, 0), ("SGD", 9, 0)]
    for _, rates, _ in seen:  # the cosine of a stage is that of its own steps
        n = len(rates)
        assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * i / n)) for i in range(n)])


def test_an_exponential_schedule_falls_after_each_pass_over_the_sample(data, monkeypatch):
    seen = watched(monkeypatch)
    training = Training(steps=500, batch_size=32, lr=0.1, optimizer="adamw", schedule="exponential", decay=0.5)
    start(net(), data, training, [method()], seed=0)
    assert seen[0][1] == pytest.approx([0.1, 0.05, 0.025])
    assert seen[1][1] == pytest.approx([0.1] * 3 + [0.05] * 3 + [0.025] * 3)


def test_what_the_method_says_of_training_counts(data, monkeypatch):
    seen = watched(monkeypatch)
    start(net(), data, Training(steps=500, batch_size=32, schedule="constant"), [method(lr=0.5, batch_size=10)], seed=0)
    assert [len(rates) for _, rates, _ in seen] == [6, 24]
    assert {rate for _, rates, _ in seen for rate in rates} == {0.5}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["sample", "all"])
def test_the_seed_decides_and_precision_is_the_trials(data, precision, source):
    training = Training(steps=50, batch_size=16, augment=("crop",), precision=precision, clip=1.0)
    models = [net() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        report = start(model, data, training, [method(source=source)], seed=seed)
    same = [torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True)]
    other = [torch.equal(a, b) for a, b in zip(models[0].parameters(), models[2].parameters(), strict=True)]
    assert all(same)
    assert not any(other)
    assert report.changed == ["0", "4"]


def test_frozen_batches_repeat(data):
    batches = []
    model = net()
    model[0].register_forward_pre_hook(lambda m, args: batches.append(args[0].clone()) if m.training else None)
    training = Training(steps=50, batch_size=16, augment=("crop",))
    start(model, data, training, [hs.SmartInit.paper(fractions=(0.2,), epochs=2)], seed=0)
    assert len(batches) == 6
    assert all(torch.equal(a, b) for a, b in zip(batches[:3], batches[3:], strict=True))


def test_other_methods_get_their_calibration_batch(data):
    alone, followed = net(), net()
    training = Training(steps=50, calibration=100)
    start(alone, data, training, [hs.LSUV()], seed=0)
    report = start(followed, data, training, [hs.LSUV(), method(epochs=0)], seed=0)
    assert report.changed == ["0", "4"]
    assert "100 of 200" in " ".join(report.findings)
    inputs, _ = data.calibration_batch(100, 0)
    expected = net()
    hs.initialize(expected, inputs, "lsuv", seed=0)
    assert torch.equal(alone[0].weight, expected[0].weight)


def test_a_comparison_gets_the_restarts_control():
    arms = with_controls([parse_arm("smart-init:fractions=(0.1,),epochs=2"), parse_arm("smart-init:restarts")])
    labels = [arm.label for arm in arms]
    assert "restarts of smart-init:fractions=(0.1,),epochs=2" in labels
    assert sum(arm.control == "restarts" for arm in arms) == 1
    control = next(arm for arm in arms if arm.control == "restarts")
    assert control.methods() == [hs.SmartInit(fractions=(0.1,), epochs=2, source="all")]


def test_the_restarts_control_of_frozen_batches_sees_all_images(data):
    seen = set()
    arms = with_controls([parse_arm("smart-init:paper,fractions=(0.5,),epochs=2")])
    control = next(arm for arm in arms if arm.control == "restarts")
    model = net()
    model[0].register_forward_pre_hook(lambda m, args: seen.update(map(float, args[0].sum((1, 2, 3)))))
    start(model, data, Training(steps=50, batch_size=20, calibration=1), control.methods(), seed=0)
    assert len(seen) > 190  # of 200, some of which may look alike


def test_trials_run_and_are_charged():
    arms = with_controls([parse_arm("smart-init:fractions=(0.1,),epochs=2")])
    experiment = Experiment(
        arms, task="mnist5k:train=200,validation=50,test=50", model="headstart:prewarm-cnn", seeds=(0,),
        training=Training(steps=20, batch_size=16, evaluations=2, precision="float32", memory_format="contiguous"),
    )  # fmt: skip
    context = experiment.prepare()
    results = {arm.label: run_trial(context, arm, 0) for arm in context.arms}
    assert {result["status"] for result in results.values()} == {"done"}
    label = "smart-init:fractions=(0.1,),epochs=2"
    assert results[label]["init_seconds"] > 0
    assert results[label]["curve"][0]["accuracy"] != results["default"]["curve"][0]["accuracy"]
    longer = next(arm for arm in context.arms if arm.control == "equal-steps")
    assert dict(longer.changes)["steps"] >= 22  # two passes over 20 images in batches of 16 are 4 of 20 steps


def test_a_diverging_start_is_refused(data):
    arm = replace(parse_arm("smart-init:lr=1e30,fractions=(0.5,)"))
    context = Experiment(
        (parse_arm("default"), arm), task="mnist5k:train=200,validation=50,test=50", model="headstart:prewarm-cnn",
        seeds=(0,), training=Training(steps=2, batch_size=16, precision="float32", memory_format="contiguous"),
    ).prepare()  # fmt: skip
    result = run_trial(context, arm, 0)
    assert result["status"] == "refused"
    assert "stage 1 of 1" in result["reason"]
