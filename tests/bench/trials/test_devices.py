"""Several devices that train one model: here two processes of the CPU, which talk through gloo."""

from dataclasses import replace

import pytest
import torch

from headstart.bench import Arm, run
from headstart.bench.trials import devices
from headstart.bench.trials.training import Training
from headstart.errors import HeadstartError

# No batch norm, whose statistics are those of each device's part of the batch, and no dropout.
MODEL = """
from torch import nn

def build(in_channels, classes, image_size):
    height, width = image_size
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * height * width, classes)
    )
"""


@pytest.fixture
def experiment(make_experiment, tmp_path):
    (tmp_path / "net.py").write_text(MODEL)
    training = Training(steps=24, batch_size=16, lr=0.02, optimizer="sgd", evaluations=4, augment=("flip", "rotate"))
    return make_experiment(
        model=f"{tmp_path}/net.py:build", training=training, arms=(Arm("prewarm", "prewarm"),), seeds=(0,)
    )


def only_result(store, experiment):
    context = experiment.prepare()
    (trial,) = experiment.trials(context)
    return store.get(trial.key).result


def test_two_devices_train_as_one_does(experiment, store):
    both = replace(experiment, training=replace(experiment.training, devices=2))
    for which in (experiment, both):
        run(which, store)
    one, two = only_result(store, experiment), only_result(store, both)
    assert one["status"] == two["status"] == "done"
    assert one["first_layer"]["start"] == two["first_layer"]["start"]
    assert two["first_layer"]["trained"] == pytest.approx(one["first_layer"]["trained"], abs=1e-3)
    assert one["test_accuracy"] > 80
    for name in ("step", "loss", "train_loss"):
        first, *rest = [point[name] for point in one["curve"]]
        mine, *others = [point[name] for point in two["curve"]]
        assert others == pytest.approx(rest, rel=1e-3)
        assert mine == (pytest.approx(first, rel=1e-3) if first else first)
    assert two["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=3)


def fail(fabric, text):
    if fabric.global_rank == 1:
        try:
            raise HeadstartError("The cause.")
        except HeadstartError as cause:
            raise HeadstartError(text, remedy="Do another thing.") from cause
    return 0


@pytest.mark.slow  # two processes import torch
def test_an_error_on_one_device_is_told_as_it_is(capfd):
    with pytest.raises(HeadstartError) as caught:
        devices.launch(Training(devices=2), fail, "It does not fit.")
    assert str(caught.value) == str(HeadstartError("It does not fit.", remedy="Do another thing."))
    assert "Initializing distributed" not in capfd.readouterr().err


def whole(fabric, size):
    return (
        fabric.world_size,
        float(fabric.all_reduce(torch.tensor(fabric.global_rank + 1.0), reduce_op="sum")),
        "x" * size,
    )


@pytest.mark.slow
def test_a_result_may_be_long_and_the_environment_stays(monkeypatch):
    import os

    monkeypatch.setenv("MASTER_PORT", "1")  # of another group, which is not to be disturbed
    before = dict(os.environ)
    assert devices.launch(Training(devices=2), whole, 10**6) == (2, 3.0, "x" * 10**6)
    assert dict(os.environ) == before


def leave(fabric, code):
    import os

    os._exit(code)


@pytest.mark.slow
def test_a_process_that_dies_is_named():
    with pytest.raises(HeadstartError, match="on several devices died"):
        devices.launch(Training(devices=2), leave, 3)


def stumble(fabric, text):
    raise KeyError(text)


@pytest.mark.slow
def test_any_other_error_comes_with_its_traceback():
    with pytest.raises(RuntimeError, match=r"in stumble[\s\S]*KeyError: 'what'"):
        devices.launch(Training(devices=2), stumble, "what")
