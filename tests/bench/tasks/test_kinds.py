"""Tasks of every kind: what is told from arrays, what a model is asked for, what it is judged by."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from headstart.bench.models.builders import check_outputs, resolve_model
from headstart.bench.tasks.arrays import from_arrays, from_pair
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.tasks.kinds import called
from headstart.bench.tasks.loading import load_task
from headstart.bench.tasks.objectives import METRICS, objective
from headstart.errors import DataError, HeadstartError, ModelError, UnknownNameError

RANDOM = np.random.default_rng(0)
CLASSES = np.arange(60) % 3


def noise(*shape):
    return RANDOM.normal(size=(60, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("inputs", "targets", "kind", "shape", "outputs"),
    [
        (noise(12, 40), CLASSES, "classification", (1, 12, 40), 3),
        (noise(3, 40), RANDOM.integers(0, 4, (60, 40)), "segmentation", (3, 40), 4),
        (noise(1, 9, 9), CLASSES, "classification", (1, 9, 9), 3),
        (noise(2, 6, 6, 6), CLASSES, "classification", (2, 6, 6, 6), 3),
        (noise(6, 6, 6, 2), CLASSES, "classification", (2, 6, 6, 6), 3),
        (noise(7), CLASSES, "classification", (7,), 3),
        (noise(7), noise(), "regression", (7,), 1),
        (noise(7), noise(2), "regression", (7,), 2),
        (noise(7), (noise(4) > 0).astype(np.float32), "multilabel", (7,), 4),
        (noise(7), (noise(4) > 0).astype(int), "multilabel", (7,), 4),
        (noise(1, 8, 8), (noise(8, 8) > 0).astype(int), "segmentation", (1, 8, 8), 2),
        (noise(1, 4, 4, 4), RANDOM.integers(0, 3, (60, 4, 4, 4)), "segmentation", (1, 4, 4, 4), 3),
        (RANDOM.integers(0, 9, (60, 5)), RANDOM.integers(0, 9, (60, 5)), "next-token", (5,), 9),
        (RANDOM.integers(0, 9, (60, 5)), CLASSES, "classification", (5,), 3),
    ],
)
def test_the_kind_is_told_from_the_arrays(inputs, targets, kind, shape, outputs):
    task = from_arrays("mine", inputs, targets)
    assert (task.kind, task.classes) == (kind, outputs)
    assert tuple(task.train.images.shape[1:]) == shape
    assert [len(task.train), len(task.validation), len(task.test)] == [42, 6, 12]
    assert "42 train / 6 validation / 12 test" in task.describe()
    other = from_arrays("mine", inputs, targets, split_seed=1)
    assert task.fingerprint() == from_arrays("other name", inputs, targets).fingerprint() != other.fingerprint()


def test_features_and_signals_are_standardized_by_channel_and_tokens_are_not():
    signals = from_arrays("s", noise(3, 50) * [[[1], [10], [100]]] + 5, CLASSES).as_signals()
    batch, _ = DeviceTask(signals, "cpu", "contiguous").training_batch(torch.arange(42))
    assert batch.mean((0, 2)).abs().max() < 1e-4
    assert batch.std((0, 2)) == pytest.approx([1, 1, 1], abs=1e-3)
    tokens = from_arrays("t", RANDOM.integers(0, 9, (60, 5)), CLASSES)
    batch, _ = DeviceTask(tokens, "cpu", "contiguous").training_batch(torch.arange(4))
    assert torch.equal(batch, tokens.train.images[:4])


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, a, b):
        return self.a(a) + self.b(b)


@pytest.mark.parametrize("form", [tuple, dict])
def test_several_inputs_reach_the_model_as_its_arguments(form):
    parts = {"a": noise(4), "b": noise(6)}
    task = from_arrays("two", parts if form is dict else tuple(parts.values()), CLASSES)
    inputs, labels = DeviceTask(task, "cpu", "contiguous").training_batch(torch.tensor([3, 1]))
    assert called(Two(), inputs).shape == (2, 3)
    assert torch.equal(labels, task.train.labels[[3, 1]])
    with pytest.raises(DataError, match="60 images and 59 labels"):
        from_arrays("two", (parts["a"], parts["b"]), CLASSES[:59])


def test_a_users_function_may_return_data_sets():
    one = TensorDataset(torch.from_numpy(noise(4)), torch.from_numpy(CLASSES))
    other = TensorDataset(torch.from_numpy(noise(4)[:9]), torch.from_numpy(CLASSES[:9]))
    assert [len(from_pair("f", one, 0).test), len(from_pair("f", (one, other), 0).test)] == [12, 9]
    pairs = ((noise(4), CLASSES), (noise(4)[:6], CLASSES[:6]))
    assert len(from_pair("f", pairs, 0).test) == 6
    assert from_pair("f", {"a": noise(4), "labels": CLASSES}, 0).train.images["a"].shape == (42, 4)
    for wrong in (3, one.tensors[:1], {"a": noise(4)}, {}):
        with pytest.raises(DataError, match=r"'f' returned .* Return \(inputs, targets\)"):
            from_pair("f", wrong, 0)
    uneven = [(torch.zeros(n), 0) for n in (3, 4)]
    with pytest.raises(DataError, match="have shapes"):
        from_pair("f", type("Uneven", (TensorDataset,), {"__getitem__": lambda s, i: uneven[i % 2]})(one.tensors[0]), 0)


SMALL = {
    "digits": "headstart:plain-cnn:depth=2,width=4",
    "digit-pairs:samples=60": "headstart:mlp",
    "breast-cancer": "headstart:mlp",
    "diabetes": "headstart:mlp:depth=1",
    "text:length=32": "headstart:token-transformer:width=8,depth=1",
    "shapes:samples=20,size=8": "headstart:unet:width=2",
    "volumes:samples=12,size=8": "headstart:unet:width=2",
}


@pytest.mark.parametrize("name", SMALL)
def test_small_tasks_come_with_a_network_that_answers_them(name):
    task, builder = load_task(name), resolve_model(SMALL[name])
    data = DeviceTask(task, "cpu", "contiguous")
    inputs, targets = data.training_batch(torch.arange(4))
    check_outputs(builder, task, inputs, targets)
    model = builder(task.channels, task.classes, task.image_size)
    aim = objective(task.kind)
    loss = aim.loss(called(model, inputs), targets)
    loss.backward()
    loss = loss.item()
    assert np.isfinite(loss)
    assert aim.total(called(model, inputs), targets).item() == pytest.approx(4 * loss, rel=1e-5)
    assert task.fingerprint() == load_task(name).fingerprint()


@pytest.mark.parametrize(
    ("task", "shape", "match"),
    [
        ("diabetes", (2, 3), r"not a tensor of shape \(2, 1\)"),
        ("digit-pairs:samples=60", (2, 9), r"not a tensor of shape \(2, 10\)"),
        ("shapes:samples=20,size=8", (2, 3, 8, 7), r"not a tensor of shape \(2, 3, 8, 8\)"),
        ("text:length=32", (2, 31, 99), r"not a tensor of shape \(2, 32, \d+\)"),
    ],
)
def test_a_model_that_answers_something_else_is_refused_by_kind(task, shape, match):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(shape))

        def forward(self, x):
            return self.p

    found = load_task(task)
    builder = resolve_model("headstart:mlp")
    with pytest.raises(ModelError, match=match):
        check_outputs(
            type(builder)("f.py:f", "", lambda *_: Fixed()), found, found.train.images[:2], found.train.labels[:2]
        )


def test_networks_say_what_they_take():
    with pytest.raises(ModelError, match=r"takes images; these inputs have 1 sides"):
        resolve_model("headstart:resnet18")(3, 10, (40,))
    with pytest.raises(ModelError, match=r"at least 4×4×4, not 2×8×8"):
        resolve_model("headstart:unet")(1, 2, (2, 8, 8))


def test_metrics_against_plain_formulas():
    draw = torch.Generator().manual_seed(0)
    outputs, classes = torch.randn(50, 4, 6, 6, generator=draw), torch.randint(0, 4, (50, 6, 6), generator=draw)

    def in_halves(name, y, t):
        metric = METRICS[name]
        return metric.score(sum(metric.sums(a, b).double() for a, b in zip(y.split(30), t.split(30), strict=True)))

    found = outputs.argmax(1)
    dice = [2 * ((found == c) & (classes == c)).sum() / ((found == c).sum() + (classes == c).sum()) for c in (1, 2, 3)]
    assert in_halves("dice", outputs, classes) == pytest.approx(100 * float(sum(dice)) / 3)
    assert in_halves("position-accuracy", outputs, classes) == pytest.approx(
        100 * float((found == classes).float().mean())
    )
    last = outputs.movedim(1, -1)
    assert in_halves("position-accuracy", last, classes) == in_halves("position-accuracy", outputs, classes)
    y, t = torch.randn(50, 3, generator=draw), torch.randn(50, 3, generator=draw)
    from sklearn.metrics import f1_score, r2_score

    close = t + 0.3 * y
    assert in_halves("r2", close, t) == pytest.approx(100 * r2_score(t, close), rel=1e-6)
    assert in_halves("r2", 100 * y, t) == -100
    assert in_halves("f1", y, (t > 0).float()) == pytest.approx(100 * f1_score(t > 0, y > 0, average="micro"))
    broken = y.clone()
    broken[0] = torch.nan
    labels = broken.nan_to_num().argmax(1)
    assert in_halves("accuracy", broken, labels) == pytest.approx(98)


def test_losses_and_metrics_from_the_users_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def loss(y, t):\n    return (y - t).abs().mean()\n"
        "def score(y, t):\n    return -float((y - t).abs().median())\n"
        "def broken(y, t):\n    raise ValueError('no')\n"
    )
    aim = objective("regression", f"{tmp_path}/mine.py:loss", f"{tmp_path}/mine.py:score")
    y, t = torch.zeros(3, 1), torch.tensor([[1.0], [2.0], [6.0]])
    assert (float(aim.loss(y, t)), aim.metric.score((y, t)), aim.metric.label) == (3.0, -2.0, "score")
    with pytest.raises(HeadstartError, match=r"The loss '.*mine.py:broken' raised ValueError: no"):
        objective("regression", f"{tmp_path}/mine.py:broken").loss(y, t)
    with pytest.raises(UnknownNameError, match="dice"):
        objective("segmentation", metric="dise")
