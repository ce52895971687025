"""A small network and data for all hosts, and what a start is known by."""

import contextlib
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn

HOSTS = ("lightning", "transformers", "skorch", "monai", "fastai")


def _prepare():
    """Let hosts import that import torchvision, beside a torch that it was not built for; see `tests/conftest.py`."""
    if not any(importlib.util.find_spec(name) for name in HOSTS):
        return
    spec = importlib.util.spec_from_file_location("_tests_conftest", Path(__file__).parents[1] / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.suppress(pytest.skip.Exception):  # no torchvision, no trouble
        module._import_zoo("torchvision")


def pytest_collectstart(collector):
    """What hosts warn of when they are imported is theirs."""
    if isinstance(collector, pytest.Module) and Path(__file__).parent in collector.path.parents:
        _prepare_once()


def _prepare_once(done=[]):  # noqa: B006 - once in the life of the process
    if not done:
        done.append(True)
        _prepare()


def network():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


@pytest.fixture
def net():
    torch.manual_seed(0)
    return network()


@pytest.fixture
def images():
    return torch.randn(64, 1, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.arange(64) % 3


@pytest.fixture
def is_started(images):
    """Tell whether a model has the outputs of unit deviation that within-layer gives, and a default start has not."""

    def tell(model):
        with torch.no_grad():
            return abs(float(model[:3](images.to(torch.float32)).std()) - 1) < 0.15

    return tell


@pytest.fixture
def weights_of():
    return lambda model: [p.detach().clone() for p in model.parameters()]


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    """Run a block of Python of a page of the documentation, the one that imports the host's integration."""

    def run(name, host, **names):
        text = (Path(__file__).parents[2] / "docs" / name).read_text(encoding="utf-8")
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        (block,) = [block for block in blocks if f"headstart.integrations.{host} " in block]
        monkeypatch.chdir(tmp_path)
        exec(block, names)
        return names

    return run
