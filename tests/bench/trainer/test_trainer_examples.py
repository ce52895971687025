"""The scripts of examples/trainers train under compare, each by the command that stands in it."""

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from headstart.cli.main import main

EXAMPLES = Path(__file__).parents[3] / "examples" / "trainers"
# In a process of its own a torchvision that was built for CUDA does not import beside a CPU-only torch.
SHIM = """
import torch
_library = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    try:
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass
"""


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Run the command of a script's docstring, with fewer seeds and steps, and give its result."""

    def call(name, *more):
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        said = re.search(r"headstart (compare .*?)(?:\n\n|\n\"\"\")", text, re.DOTALL)[1]
        words = shlex.split(said.replace("\\\n", " "))
        place = words.index("--trainer") + 1
        words[place] = words[place].replace("python", f"{sys.executable} -W ignore", 1) + " ".join(["", *more])
        monkeypatch.chdir(tmp_path)
        for file in EXAMPLES.glob("*.py"):
            (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"))
        few = ("--seeds", "1", "--exploratory", "--arms", "lsuv", "--no-controls")
        assert main([*words, *few, "--json", "--quiet"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["failures"] == []
        assert [len(arm["scores"]) for arm in found["arms"]] == [1, 1]
        return found

    return call


@pytest.mark.slow  # processes that train
def test_a_script_like_nnunets(compare):
    found = compare("nnunet_train.py", "--steps", "10")
    assert found["metric"]["name"] == "dice"
    assert all(0 <= arm["scores"]["0"] <= 1 for arm in found["arms"])


@pytest.fixture
def shim(tmp_path, monkeypatch):
    """Let scripts import a torchvision, directly or through another package."""
    (tmp_path / "sitecustomize.py").write_text(SHIM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("shim")
def test_a_script_on_timms_functions(compare, timm):
    found = compare("timm_train.py", "--epochs", "1")
    assert all(0 <= arm["scores"]["0"] <= 100 for arm in found["arms"])


@pytest.mark.slow
@pytest.mark.usefixtures("shim")
@pytest.mark.filterwarnings("ignore")
def test_a_script_with_hugging_faces_trainer(compare, tmp_path, request):
    if importlib.util.find_spec("torchvision"):
        request.getfixturevalue("torchvision_models")  # transformers imports it where it is
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: make test-hosts")
    pytest.importorskip("accelerate", reason="accelerate is not installed: make test-hosts")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=4,
        num_labels=2,
        architectures=["ViTForImageClassification"],
    )
    config.save_pretrained(tmp_path / "config")
    found = compare("transformers_train.py", "--steps", "3")
    assert all(0 <= arm["scores"]["0"] <= 1 for arm in found["arms"])
