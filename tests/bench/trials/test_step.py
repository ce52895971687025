import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from headstart.bench import from_arrays
from headstart.bench.tasks.augment import draw
from headstart.bench.tasks.batches import DeviceTask, data_order
from headstart.bench.trials.loop import evaluate, train
from headstart.bench.trials.optimizers import Schedule, make_optimizer
from headstart.bench.trials.training import Axes, Training

CONFIG = Training(steps=13, batch_size=20, evaluations=3, augment=("flip", "crop", "rotate"), lr=0.01)


def net(outputs=3, drop=0.3):
    torch.manual_seed(7)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, outputs)]
    return nn.Sequential(*layers, nn.Dropout(drop)) if drop else nn.Sequential(*layers)


def plain_loop(model, data, config, axes, loss):
    """A trial written down without anything ahead: each step draws, computes and is read."""
    torch.manual_seed(axes.forward)
    optimizer = make_optimizer(model, config)
    schedule = Schedule(optimizer, config, len(data.train))
    generator = torch.Generator().manual_seed(axes.augmentation)
    losses, points = [], [evaluate(model, data, data.validation, config)]
    for step, indices in enumerate(
        data_order(len(data.train), config.batch_size, config.steps, axes.data_order), start=1
    ):
        model.train()
        x, y = data.training_batch(indices, draw(config.augment, len(indices), config.rotation, generator))
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            outputs = model(x)
        optimizer.zero_grad()
        value = loss(outputs.float(), y)
        value.backward()
        if config.clip:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        schedule.after_step()
        losses.append(value.detach())
        if step in config.evaluation_steps():
            points.append(evaluate(model, data, data.validation, config))
            schedule.after_evaluation(points[-1][0])
    return losses, points


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": (), "optimizer": "nesterov", "schedule": "plateau", "patience": 0, "evaluations": 6},
        {"optimizer": "adamw", "precision": "bfloat16", "clip": 0.1, "schedule": "exponential", "weight_decay": 0.1},
    ],
)
def test_a_trial_is_bit_for_bit_that_of_a_plain_loop(task, changes):
    config, axes = replace(CONFIG, **changes), Axes.of(3)
    data = DeviceTask(task, "cpu", "contiguous")
    ours, theirs = net(), net()
    outcome = train(ours, data, config, axes)
    losses, points = plain_loop(theirs, data, config, axes, nn.functional.cross_entropy)
    ends = [0, *config.evaluation_steps()]
    means = [float(torch.stack(losses[a:b]).mean()) for a, b in itertools.pairwise(ends)]
    assert [point.train_loss for point in outcome.curve] == [None, *means]
    assert [(point.accuracy, point.loss) for point in outcome.curve] == points
    for ours_value, theirs_value in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(ours_value, theirs_value)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(5, 1)

    def forward(self, a, b):
        return self.layer(torch.cat([a, b], 1))


def test_inputs_by_name_and_losses_in_double_precision_go_through_a_stretch(tmp_path):
    path = tmp_path / "loss.py"
    path.write_text("def loss(outputs, targets):\n    return (outputs.double() - targets).square().mean()\n")
    draw_inputs = torch.Generator().manual_seed(0)
    inputs = {"a": torch.randn(120, 2, generator=draw_inputs), "b": torch.randn(120, 3, generator=draw_inputs)}
    task = from_arrays("pair", inputs, inputs["a"].sum(1, keepdim=True))
    config, axes = replace(CONFIG, augment=(), evaluations=1, loss=f"{path}:loss"), Axes.of(0)
    data, ours, theirs = DeviceTask(task, "cpu", "contiguous"), Pair(), Pair()
    outcome = train(ours, data, config, axes)
    optimizer = make_optimizer(theirs, config)
    schedule = Schedule(optimizer, config, len(data.train))
    losses = []
    for indices in data_order(len(data.train), config.batch_size, config.steps, axes.data_order):
        x = {name: values[indices] for name, values in data.train.images.items()}
        losses.append((theirs(**x).double() - data.train.labels[indices]).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
        schedule.after_step()
    assert outcome.curve[1].train_loss == float(torch.stack(losses).detach().mean())
    assert torch.equal(ours.layer.weight, theirs.layer.weight)
