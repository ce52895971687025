"""Shared by all tests: the ``--slow`` option, quiet threads, model zoos, real data."""

import functools
import importlib
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

# Idle OpenMP threads sleep instead of spinning: tests of tiny models share cores with others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("headstart", deadline=None, derandomize=True, database=None, max_examples=40)
hypothesis.settings.load_profile("headstart")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")


def pytest_report_header(config):
    return [] if config.getoption("--slow") else "slow tests are left out: pass --slow to run them too"


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(scope="session")
def load_tool():
    """Import a file of tools/ by its name; the files import each other."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for it
        sys.path.insert(0, str(ROOT / "tools"))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(ROOT / "tools"))
        return module

    return load


@pytest.fixture(autouse=True)
def _process_state_stays():
    """A test that changes the number of threads or the default dtype would change the tests after it."""
    before = torch.get_num_threads(), torch.get_default_dtype()
    yield
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before


_SCHEMAS = []


def _import_zoo(name):
    """Import torchvision or a package that needs it, or skip.

    A torchvision that was built for CUDA does not import beside a CPU-only torch, because two operators have no
    schema there. Tests run none of those operators, so schemas alone will do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[module]
            library = torch.library.Library("torchvision", "FRAGMENT")
            _SCHEMAS.append(library)  # the schemas live as long as this object
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except ImportError:
            pytest.skip("torchvision is not installed")
        try:
            return importlib.import_module(name)
        except ImportError:
            pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def torchvision_models():
    """``torchvision.models``."""
    return _import_zoo("torchvision.models")


@pytest.fixture(scope="session")
def timm():
    """The package timm."""
    return _import_zoo("timm")


@pytest.fixture(scope="session")
def real_data(tmp_path_factory):
    """``real_data(name)`` unpacks a real data set and returns the folder that holds it, or skips.

    The archives and their ``unpack.py`` lie in the folder that the environment variable HEADSTART_DATA names, by
    default ``../shared/data`` beside the repository.
    """
    source = Path(os.environ.get("HEADSTART_DATA") or ROOT.parent / "shared" / "data")
    script = source / "unpack.py"
    target = tmp_path_factory.mktemp("data")

    @functools.cache
    def get(name):
        if not script.is_file():
            pytest.skip(f"real data: there is no {script}; set HEADSTART_DATA")
        done = subprocess.run([sys.executable, str(script), str(target), name], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"real data: unpacking {name} failed: {done.stderr.strip().splitlines()[-1:]}")
        return target

    return get
