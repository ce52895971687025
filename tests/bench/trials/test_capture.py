import contextlib
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from headstart.bench import Arm, Store, run
from headstart.bench.runs.executors import InProcess, Interleaved
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.trials import loop
from headstart.bench.trials.capture import why_not
from headstart.bench.trials.loop import train
from headstart.bench.trials.training import OPTIMIZERS, Axes, Training
from headstart.bench.trials.trial import TrialContext, run_trial

CONFIG = Training(
    steps=11, batch_size=20, evaluations=3, augment=("flip", "crop", "rotate"), lr=0.01, capture=True, clip=1.0
)
READS = ("_local_scalar_dense", "nonzero", "equal")


class Recorder(TorchDispatchMode):
    """Keeps each operation with its tensors, as a CUDA graph keeps kernels with their addresses."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if not function.is_view:
            self.operations.append((function, args, kwargs, result))
        return result


class StandIn:
    """In place of a CUDA graph: replays the recorded operations on the same tensors."""

    def __init__(self):
        self.recorder = Recorder()

    def replay(self):
        with torch._C._AutoDispatchBelowAutograd():  # kernels know nothing of gradients
            for function, args, kwargs, result in self.recorder.operations:
                again = function(*args, **kwargs)
                pairs = zip(result, again, strict=True) if isinstance(result, (tuple, list)) else [(result, again)]
                for old, new in pairs:
                    if isinstance(old, torch.Tensor) and old is not new:
                        old.copy_(new)


class Stream:
    def __init__(self, device=None):
        self.device = device

    def wait_stream(self, other):
        assert isinstance(other, Stream)


@pytest.fixture
def graphs(monkeypatch):
    """Put stand-ins in the place of CUDA's streams and graphs; all graphs that were made."""
    made = []

    def graph():
        made.append(StandIn())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    default = Stream()
    for name in ("current_stream", "default_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None: default)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: graph.recorder)
    monkeypatch.setattr(loop, "why_not", lambda config: "")
    return made


class Net(nn.Module):
    """Counts its calls in training mode, in Python and in a buffer."""

    def __init__(self, drop=None):
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        self.drop = drop or (lambda x: x)
        self.calls = 0
        self.caches = set()

    def forward(self, x):
        if self.training:
            self.calls += 1
            self.caches.add(torch.is_autocast_cache_enabled())
        return self.drop(self.layers(x))


def trained(task, config, model=None):
    model = model or Net()
    outcome = train(model, DeviceTask(task, "cpu", "contiguous"), config, Axes.of(0))
    return model, outcome


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replayed_steps_lose_what_steps_of_python_lose(task, graphs, optimizer, precision):
    config = replace(CONFIG, optimizer=optimizer, precision=precision, weight_decay=0.01)
    model, outcome = trained(task, config)
    _, expected = trained(task, replace(config, capture=False))
    assert outcome.eager == ""
    assert len(graphs) == 1
    for measure in ("loss", "train_loss", "accuracy"):
        ours, theirs = ([getattr(point, measure) for point in o.curve[1:]] for o in (outcome, expected))
        assert ours == pytest.approx(theirs, rel=5e-4)
    assert int(model.layers[1].num_batches_tracked) == 11  # the steps of warming up are undone
    assert model.calls == 0  # no step was Python's
    assert torch.is_autocast_cache_enabled()


def test_no_step_finds_the_casts_of_another_in_a_cache(task, graphs):
    seen = set()

    def watch(x):
        seen.add(torch.is_autocast_cache_enabled())
        return x

    trained(task, replace(CONFIG, precision="bfloat16", evaluations=1), Net(watch))
    assert seen == {False, True}  # evaluations keep theirs


def draws_by_numpy(x):
    return x * float(np.random.random() < 2)  # noqa: NPY002


def draws_by_python(x):
    return x * float(random.random() < 2)


def reads(x):
    return x * float(x.abs().max() >= 0)


def fails_when_captured(x):
    if any(isinstance(mode, Recorder) for mode in torch.utils._python_dispatch._get_current_dispatch_mode_stack()):
        raise ValueError("a\nlong story")
    return x


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        (nn.Dropout(0.2), "draws random numbers"),
        (draws_by_numpy, "draws random numbers"),
        (draws_by_python, "draws random numbers"),
        (reads, "RuntimeError: operation not permitted when stream is capturing"),
        (fails_when_captured, "ValueError: a long story"),
    ],
)
def test_what_cannot_be_captured_runs_as_ever_and_says_why(task, graphs, inside, reason):
    states = []
    for config in (CONFIG, replace(CONFIG, capture=False)):
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        model, outcome = trained(task, config, Net(inside))
        assert (reason in outcome.eager) == config.capture
        assert model.calls == 11
        states.append(
            (outcome.curve, [v.tolist() for v in model.state_dict().values()], torch.rand(1), random.random())
        )
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({}, "no CUDA device"), ({"device": "cuda", "devices": 2}, "several devices"), ({"device": "cuda:1"}, "")],
)
def test_what_is_never_captured_is_told_without_trying(changes, reason):
    said = why_not(replace(CONFIG, **changes))
    assert reason in said
    assert bool(said) == bool(reason)


def test_a_trials_result_says_why_and_only_if_it_was_asked_for(make_experiment):
    for asked in (True, False):
        experiment = make_experiment()
        experiment = replace(experiment, training=replace(experiment.training, capture=asked))
        context: TrialContext = experiment.prepare()
        result = run_trial(context, experiment.arms[0], 0)
        assert result.get("eager") == ("the device is no CUDA device" if asked else None)


def test_captured_trials_that_take_turns_do_not_meet(make_experiment, graphs, tmp_path):
    experiment = make_experiment(model="headstart:plain-cnn", arms=(Arm("default"), Arm("null", weights_draw=1)))
    experiment = replace(experiment, training=replace(experiment.training, capture=True))
    found = []
    for name, executor in (("alone", InProcess()), ("turns", Interleaved(2, steps=1))):
        store = Store(tmp_path / name)
        run(experiment, store, executor=executor)
        records = store.present(path.stem for path in store.trials.glob("*.json"))
        found.append({key: (r.result["eager"], r.result["curve"]) for key, r in records.items()})
    assert {eager for eager, _ in found[0].values()} == {""}
    assert len(graphs) == 8
    assert found[0] == found[1]


def test_what_is_off_is_no_part_of_a_trials_name():
    assert "capture" not in Training().identity()
    assert Training(capture=True).identity()["capture"] is True
