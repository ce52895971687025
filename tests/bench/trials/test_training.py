from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from headstart.bench.tasks.batches import DeviceTask, data_order
from headstart.bench.tasks.task import Split
from headstart.bench.trials import loop, training
from headstart.bench.trials.loop import evaluate, train
from headstart.bench.trials.training import Axes, Training
from headstart.errors import HeadstartError, UnknownNameError

CONFIG = Training(steps=6, batch_size=16, evaluations=3, augment=("flip", "crop"))


class Watched(nn.Module):
    """A net with dropout that keeps what it saw: training batches, dropout masks, evaluation flags."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)
        self.drop = nn.Dropout(0.5)
        self.seen, self.masks, self.evaluated = [], [], 0

    def forward(self, x):
        if self.training:
            self.seen.append(x.clone())
            self.masks.append(self.drop(torch.ones(len(x), 64)))
            return self.layer(x.flatten(1) * self.masks[-1])
        self.evaluated += 1
        return self.layer(x.flatten(1))


def run(task, axes, config=CONFIG):
    data = DeviceTask(task, "cpu", "contiguous")
    torch.manual_seed(axes.weights)
    model = Watched()
    first = model.layer.weight.detach().clone()
    outcome = train(model, data, config, axes)
    plain = replace(config, augment=())
    bare = Watched()
    train(bare, data, plain, axes)
    return (
        {
            "weights": first,
            "forward": torch.stack(model.masks),
            "data_order": torch.stack(bare.seen),
            "augmentation": torch.stack(model.seen),
            "method": data.calibration_batch(16, axes.method)[0],
        },
        outcome,
        model,
    )


@pytest.mark.parametrize("axis", [field.name for field in fields(Axes)])
def test_changing_one_axis_leaves_the_others_bitwise_unchanged(task, axis):
    axes = Axes.of(0)
    before, _, _ = run(task, axes)
    after, _, _ = run(task, replace(axes, **{axis: 12345}))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Another data order shows other images, so the augmented ones differ too; their shifts do not (below).
    assert changed == ({axis, "augmentation"} if axis == "data_order" else {axis})


def test_augmentation_draws_do_not_depend_on_the_data_order(task):
    # White images: what comes in at the border shows the shift, whichever image it is.
    white = Split(torch.full_like(task.train.images, 255), torch.zeros_like(task.train.labels))
    data = DeviceTask(replace(task, train=white), "cpu", "contiguous")

    def shifts(axes):
        model = Watched()
        train(model, data, CONFIG, axes)
        return torch.stack(model.seen)

    axes = Axes.of(0)
    assert torch.equal(shifts(axes), shifts(replace(axes, data_order=99)))
    assert not torch.equal(shifts(axes), shifts(replace(axes, augmentation=99)))


def test_another_draw_of_the_default_weights_is_the_only_axis_that_moves():
    first, other = Axes.of(4), Axes.of(4, weights_draw=1)
    assert replace(other, weights=first.weights) == first
    assert other.weights != first.weights
    assert len({first.data_order, first.augmentation, first.weights, first.forward, first.method}) == 5


def test_a_trial_repeats_bitwise(task):
    results = [run(task, Axes.of(1)) for _ in range(2)]
    assert results[0][1].curve == results[1][1].curve
    assert torch.equal(results[0][2].layer.weight, results[1][2].layer.weight)


def test_the_test_split_is_looked_at_once_and_last(task, monkeypatch):
    looked = []

    def watch(model, data, split, *rest):
        looked.append("test" if split is data.test else "validation")
        assert split is not data.train
        return evaluate(model, data, split, *rest)

    monkeypatch.setattr(loop, "evaluate", watch)
    run(task, Axes.of(0), replace(CONFIG, augment=()))
    assert looked == (["validation"] * 4 + ["test"]) * 2


def test_training_learns_and_evaluates_in_evaluation_mode(task):
    _, outcome, model = run(task, Axes.of(0), replace(CONFIG, steps=60, lr=0.01, augment=()))
    assert outcome.test_accuracy > 80
    assert [point.step for point in outcome.curve] == [0, 20, 40, 60]
    assert model.evaluated == 5
    assert len(model.seen) == 60


def test_evaluation_equals_a_plain_loop(task):
    data = DeviceTask(task, "cpu", "contiguous")
    model = Watched().eval()
    accuracy, loss = evaluate(model, data, data.test, CONFIG)
    with torch.no_grad():
        logits = torch.cat([model(data.normalize(image[None])) for image in data.test.images])
    assert accuracy == pytest.approx(100 * float((logits.argmax(1) == data.test.labels).float().mean()))
    assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, data.test.labels)), rel=1e-5)


def test_outputs_that_are_not_finite_are_wrong_answers(task):
    data = DeviceTask(task, "cpu", "contiguous")
    model = Watched()
    nn.init.constant_(model.layer.weight, float("nan"))
    assert evaluate(model, data, data.test, CONFIG)[0] == 0.0


class Explodes(Watched):
    def forward(self, x):
        return super().forward(x) * (float("nan") if self.training and len(self.seen) == 5 else 1)


def test_a_loss_that_is_not_finite_ends_the_trial_with_its_reason(task, monkeypatch):
    data = DeviceTask(task, "cpu", "contiguous")
    outcome = train(Explodes(), data, CONFIG, Axes.of(0))
    assert outcome.diverged == "the training loss was not finite at step 5"
    assert outcome.test_accuracy is None
    assert [point.step for point in outcome.curve] == [0, 2, 4]


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
@pytest.mark.parametrize("precision", training.PRECISIONS)
def test_every_optimizer_and_precision_learns(task, optimizer, precision):
    config = replace(CONFIG, steps=80, lr=0.01, optimizer=optimizer, precision=precision, augment=())
    _, outcome, _ = run(task, Axes.of(0), config)
    assert outcome.test_accuracy > 80


def test_fused_steps_equal_torchs_plain_ones(task):
    axes, config = Axes.of(0), replace(CONFIG, augment=(), lr=0.01)
    _, _, model = run(task, axes, config)
    data = DeviceTask(task, "cpu", "contiguous")
    torch.manual_seed(axes.weights)
    plain = Watched()
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, foreach=False, fused=False)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    torch.manual_seed(axes.forward)
    for indices in data_order(len(data.train), 16, 6, axes.data_order):
        x, y = data.training_batch(indices)
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(x), y).backward()
        optimizer.step()
        scheduler.step()
    assert torch.allclose(model.layer.weight, plain.layer.weight, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "adamm"),
        ("schedule", "cos"),
        ("precision", "half"),
        ("memory_format", "nhwc"),
        ("augment", ("flop",)),
    ],
)
def test_an_unknown_word_is_named(field, value):
    with pytest.raises(UnknownNameError, match="Known"):
        Training(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("batch_size", -1), ("lr", 0.0), ("lr", float("nan")), ("evaluations", 0)]
)
def test_a_number_out_of_range_is_named(field, value):
    with pytest.raises(HeadstartError, match=field.replace("_", "-")):
        Training(**{field: value})


def test_evaluations_end_at_the_budget_and_never_repeat():
    for steps in (1, 7, 100):
        for evaluations in (1, 3, 10, 500):
            points = Training(steps=steps, evaluations=evaluations).evaluation_steps()
            assert points[-1] == steps
            assert points == sorted(set(points))
