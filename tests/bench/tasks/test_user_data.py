"""Tasks from data that a user's function returns: torch data sets, signals and volumes."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from headstart.bench.runs.experiment import Experiment
from headstart.bench.tasks.augment import Draws, augment
from headstart.bench.tasks.datasets import read_datasets
from headstart.bench.tasks.loading import load_task
from headstart.bench.tasks.sources import load_data
from headstart.bench.tasks.splits import as_images
from headstart.bench.trials.arms import Arm
from headstart.bench.trials.training import Training
from headstart.bench.trials.trial import run_trial
from headstart.errors import DataError

FILE = """
import numpy as np, torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

def draw(n, *shape):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    return torch.randn(n, *shape, generator=g) + y.view(-1, *[1] * len(shape)), y

class Pairs(Dataset):
    def __init__(self, x, y): self.x, self.y = x, y
    def __len__(self): return len(self.y)
    def __getitem__(self, i): return self.x[i].numpy(), int(self.y[i])

class Stream(IterableDataset):
    def __iter__(self): return iter(list(zip(*draw(60, 1, 8, 8))))

def one(): return Pairs(*draw(60, 1, 8, 8))
def two(): return TensorDataset(*draw(60, 1, 8, 8)), Pairs(*draw(30, 1, 8, 8))
def stream(): return Stream()
def signals(): return draw(90, 1, 20)
def channels(): return draw(90, 6, 20)
def volumes(): return draw(90, 2, 4, 5, 6)

def net1d(in_channels, classes):
    pool = nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, classes)
    return nn.Sequential(nn.Conv1d(in_channels, 8, 3), nn.ReLU(), *pool)
def fixed1d(classes): return net1d(1, classes)
def net3d(in_channels, classes):
    pool = nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, classes)
    return nn.Sequential(nn.Conv3d(in_channels, 8, 3), nn.ReLU(), *pool)
"""


@pytest.fixture
def user(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return lambda name: f"{path}:{name}"


@pytest.mark.parametrize("name", ["one", "stream"])
def test_a_data_set_is_split(user, name):
    task = load_task(user(name))
    assert [len(part) for part in (task.train, task.validation, task.test)] == [42, 6, 12]
    assert task.train.images.shape[1:] == (1, 8, 8)
    assert load_task(user(name)).fingerprint() == task.fingerprint()


def test_a_pair_of_data_sets_is_training_and_test(user):
    task = load_task(user("two"))
    assert [len(part) for part in (task.train, task.validation, task.test)] == [54, 6, 30]


def test_init_takes_data_sets(user):
    for name in ("one", "two"):
        assert isinstance(load_data(user(name)).value, Dataset)
    assert load_data(user("two")).classes == 3


TASKS = {
    "signals": ("signals", "net1d", (1, 20)),
    "signals for a fixed model": ("signals", "fixed1d", (1, 20)),
    "channels": ("channels", "net1d", (6, 20)),
    "volumes": ("volumes", "net3d", (2, 4, 5, 6)),
}


@pytest.mark.parametrize("name", TASKS)
def test_signals_and_volumes_are_compared(user, name):
    task, model, shape = TASKS[name]
    training = Training(steps=2, batch_size=16, evaluations=1, device="cpu", memory_format="channels_last")
    experiment = Experiment((Arm("within-layer", "within-layer"),), (0,), user(task), user(model), training, auto=())
    context = experiment.prepare()
    assert tuple(context.data.train.images.shape[1:]) == shape
    assert str(shape[-1]) in experiment.describe(context)["task"]["description"]
    result = run_trial(context, experiment.arms[0], 0)
    assert result["status"] == "done", result


def test_shapes_of_arrays():
    assert as_images(np.zeros((5, 8, 6, 6, 2), np.uint8), "mine").shape == (5, 2, 8, 6, 6)
    assert as_images(np.zeros((5, 1, 6), np.float32), "mine").shape == (5, 1, 1, 6)
    with pytest.raises(DataError, match=r"volumes as \(N, C, D, H, W\)"):
        as_images(np.zeros((5, 6)), "mine")
    with pytest.raises(DataError, match="Only images can be augmented"):
        augment(torch.zeros(2, 3, 8), Draws(mirrored=torch.tensor([True, False])))


class Odd(IterableDataset):
    def __init__(self, *samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


def test_data_sets_that_are_no_tasks_are_told():
    for dataset, match in [
        (Odd(torch.zeros(3)), r"sample 0 of the Odd cannot be read as a pair"),
        (Odd((torch.zeros(3), "cat")), r"'cat' is not a number"),
        (Odd((torch.zeros(3), 1), (torch.zeros(4), 1)), r"have shapes \[\(3,\), \(4,\)\]"),
    ]:
        with pytest.raises(DataError, match=match):
            read_datasets(dataset, "mine", 0)
    images, labels = read_datasets(TensorDataset(torch.zeros(4, 2, 2), torch.arange(4)), "mine", 0)[0]
    assert images.shape == (4, 2, 2)
    assert labels.tolist() == [0, 1, 2, 3]
