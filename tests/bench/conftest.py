import numpy as np
import pytest

from headstart.bench import Arm, Experiment, Store, Training, from_arrays
from headstart.bench.store.store import Record
from headstart.bench.trials import timing

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


@pytest.fixture(autouse=True)
def _nothing_measured_before(monkeypatch):
    """What one test measures, or pretends to, is no other's answer."""
    monkeypatch.setattr(timing, "_answers", {})


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


def made_result(test=90.0, points=(10.0, 80.0, 90.0), **changes):
    """A trial's result with a learning curve of one point every ten steps."""
    return {
        "status": "done",
        "reason": "",
        "test_accuracy": test,
        "test_loss": 0.1,
        "validation_accuracy": points[-1],
        "area": 70.0,
        "curve": [{"step": 10 * i, "accuracy": a, "loss": 1.0, "train_loss": None} for i, a in enumerate(points)],
        "init_seconds": 0.0,
        "train_seconds": 1.0,
        "step_seconds": 0.01,
        "first_layer": None,
        "report": None,
        **changes,
    }


@pytest.fixture(scope="session")
def fill_store():
    """Write an experiment of given results, ``{label: {seed: result or None}}``; the first label is the baseline.

    Controls are ``{label: (control, of)}``; ``threads`` says with how many threads a trial ran; other keywords are
    parts of the experiment.
    """

    def write(store, results, controls=None, threads=lambda label, seed: 2, methods=(), changes=None, **plan):
        cells = []
        for label, by_seed in results.items():
            for seed, value in by_seed.items():
                what = {"arm": label, "seed": seed, "task": plan.get("task", {}).get("name")}
                record = Record(what, value, {"threads": threads(label, seed)})
                cells.append({"arm": label, "seed": seed, "key": store.put(record) if value else record.key})
        arms = [
            {"label": label, "spec": label, "methods": list(dict(methods).get(label, ())), "weights_draw": 0}
            | dict(zip(("control", "of"), (controls or {}).get(label, ("", "")), strict=True))
            | {"changes": (changes or {}).get(label, [])}
            for label in results
        ]
        experiment = {
            "format": "headstart-experiment-1",
            "arms": arms,
            "trials": cells,
            "seeds": list(range(8)),
            "alpha": 0.05,
            "margin": 0.5,
            "task": {"description": "t", "name": "t", "classes": 10},
            "model": {"name": "m", "parameters": 5},
            "training": {"steps": 20, "batch_size": 8, "lr": 0.1, "optimizer": "adam", "schedule": "cosine"},
            "provenance": {
                "command": [],
                "versions": {"python": "3"},
                "machine": {"processor": "p", "cores": 2, "system": "s", "accelerator": None},
                "threads": 2,
                "commit": None,
                "data": "0",
            },
        }
        store.write_experiment({**experiment, **plan})
        return store

    return write


@pytest.fixture(scope="session")
def make_result():
    return made_result
