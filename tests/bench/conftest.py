import numpy as np
import pytest

from headstart.bench import Arm, Experiment, Store, Training, from_arrays

TASK = """
import numpy as np

def load(seed=0):
    rng = np.random.default_rng(0)
    labels = np.arange(180) % 3
    images = rng.integers(0, 120, (180, 8, 8), dtype=np.uint8)
    for i, label in enumerate(labels):
        images[i, 2 * label : 2 * label + 3] += 100
    return images, labels
"""


@pytest.fixture
def task_file(tmp_path):
    """A task in a user's file: 180 images of 8×8 with a bright band whose place is the class."""
    path = tmp_path / "data.py"
    path.write_text(TASK)
    return f"{path}:load"


@pytest.fixture
def task():
    scope = {}
    exec(TASK, scope)
    images, labels = scope["load"]()
    return from_arrays("bands", images, labels)


@pytest.fixture
def colour_task():
    rng = np.random.default_rng(1)
    return from_arrays("colour", rng.integers(0, 255, (90, 10, 12, 3), dtype=np.uint8), np.arange(90) % 3)


@pytest.fixture
def make_experiment(task_file):
    """Build a small experiment; keyword arguments replace its fields."""

    def make(**changes):
        fields = {
            "arms": (Arm("default"), Arm("prewarm", "prewarm"), Arm("null", control="null", weights_draw=1)),
            "seeds": (0, 1),
            "task": task_file,
            "training": Training(steps=6, batch_size=16, evaluations=3, calibration=32),
            "auto": (),
        }
        return Experiment(**{**fields, **changes})

    return make


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")
