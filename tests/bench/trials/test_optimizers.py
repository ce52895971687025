from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headstart.bench.trials.optimizers import Schedule, make_optimizer
from headstart.bench.trials.training import Training
from headstart.errors import HeadstartError

CONFIG = Training(steps=12, batch_size=10, lr=0.5)
IMAGES = 34  # three whole batches in an epoch


def rates(config, accuracies=()):
    """The rate of every step; accuracies are seen after each third step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], config.lr)
    schedule = Schedule(optimizer, config, IMAGES)
    seen = []
    for step in range(config.steps):
        seen.append(schedule.rate)
        optimizer.step()
        schedule.after_step()
        if accuracies and step % 3 == 2:
            schedule.after_evaluation(accuracies[step // 3])
    return seen


def test_constant():
    assert rates(replace(CONFIG, schedule="constant")) == [0.5] * 12


def test_cosine_goes_from_the_first_rate_to_the_last():
    expected = [0.1 + 0.4 * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * t / 12)))) for t in range(12)]
    assert rates(replace(CONFIG, lr_end=0.1)) == pytest.approx(expected, rel=1e-5)


def test_exponential_falls_after_every_epoch():
    expected = [0.5 * 0.925 ** (step // 3) for step in range(12)]
    assert rates(replace(CONFIG, schedule="exponential", decay=0.925)) == pytest.approx(expected)


def test_milestones_are_steps_or_with_a_budget_in_epochs_epochs():
    steps = replace(CONFIG, schedule="step", milestones=(4, 10), decay=0.2)
    assert rates(steps) == pytest.approx([0.5] * 4 + [0.1] * 6 + [0.02] * 2)
    epochs = replace(steps, epochs=4, milestones=(1, 3)).resolve(IMAGES)
    assert epochs.steps == 12
    assert rates(epochs) == pytest.approx([0.5] * 3 + [0.1] * 6 + [0.02] * 3)


def test_plateau_falls_when_accuracy_has_not_risen_for_more_than_the_patience():
    config = replace(CONFIG, schedule="plateau", patience=1, decay=0.1, steps=21)
    # A best value, two that are not better: cut. A rise by a hair counts as one.
    accuracies = [50, 50, 49, 50.001, 50, 50, 60]
    expected = [0.5] * 9 + [0.05] * 9 + [0.005] * 3
    assert rates(config, accuracies) == pytest.approx(expected)


@given(
    st.integers(1, 60), st.floats(0.001, 1), st.integers(0, 4), st.lists(st.floats(0, 100), min_size=20, max_size=20)
)
def test_plateau_equals_its_definition(steps, decay, patience, accuracies):
    config = replace(CONFIG, schedule="plateau", patience=patience, decay=decay, steps=steps)
    rate, best, waited, expected = 0.5, -1.0, 0, []
    for step in range(steps):
        expected.append(rate)
        if step % 3 == 2:
            accuracy = accuracies[step // 3]
            best, waited = (accuracy, 0) if accuracy > best else (best, waited + 1)
            if waited > patience:
                lower = rate * decay
                rate, waited = (lower if rate - lower > 1e-8 else rate), 0
    assert rates(config, accuracies) == pytest.approx(expected)


def test_a_step_schedule_without_milestones_says_so():
    with pytest.raises(HeadstartError, match="no milestones"):
        replace(CONFIG, schedule="step").resolve(IMAGES)


@pytest.mark.parametrize("milestones", [(3, 2), (2, 2), (0, 4), (-1,)])
def test_milestones_must_rise(milestones):
    with pytest.raises(HeadstartError, match="positive and rising"):
        replace(CONFIG, milestones=milestones)


def test_several_devices_are_not_one_by_number():
    with pytest.raises(
        HeadstartError, match=r"2 devices are requested, but 'cuda:1' is one. Name only the kind: 'cuda'"
    ):
        replace(CONFIG, devices=2, device="cuda:1").resolve(IMAGES)


def test_a_batch_must_be_shared_out_evenly():
    with pytest.raises(HeadstartError, match="10 images cannot be divided evenly among 3 devices"):
        replace(CONFIG, devices=3).resolve(IMAGES)


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p, 0.5, momentum=0.9, weight_decay=0.01)),
        ({"optimizer": "sgd", "momentum": 0.0}, lambda p: torch.optim.SGD(p, 0.5, weight_decay=0.01)),
        (
            {"optimizer": "nesterov"},
            lambda p: torch.optim.SGD(p, 0.5, momentum=0.9, nesterov=True, weight_decay=0.01),
        ),
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, 0.5, weight_decay=0.01)),
        ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, 0.5, weight_decay=0.01)),
    ],
)
def test_optimizers_are_torchs(words, plain):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    optimizers = make_optimizer(ours, replace(CONFIG, weight_decay=0.01, **words)), plain(theirs.parameters())
    for _ in range(5):
        x = torch.randn(4, 3)
        for net, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)


def test_frozen_parameters_stay():
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    assert [id(p) for p in make_optimizer(net, CONFIG).param_groups[0]["params"]] == [id(net.weight)]
