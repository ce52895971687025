"""``headstart init --format``: what is written is what each host's own option loads."""

import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture
def start(headstart, folder):
    """Write a start in a form; give the file and what was printed."""

    def write(name, out, *more, model="net.py:build_model", data="images.npy"):
        code, text, err = headstart(
            "init", model, "--data", data, "--method", "lsuv", "--format", name, "--out", out, *more
        )
        assert code == 0, err
        return folder / out, text

    return write


@pytest.fixture
def wanted(start):
    """The start that all forms have to hold."""
    return load_file(start("safetensors", "wanted.safetensors")[0])


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torch(start, wanted, suffix):
    path, text = start("torch", f"start{suffix}")
    assert same(torch.load(path, weights_only=True), wanted)
    assert f"Load it: model.load_state_dict(torch.load('start{suffix}', weights_only=True))" in text


def test_nnunet_finds_its_key(start, wanted):
    path, text = start("nnunet", "start.pth")
    found = torch.load(path, weights_only=True)
    assert list(found) == ["network_weights"]
    assert same(found["network_weights"], wanted)
    assert "-pretrained_weights start.pth" in text


@pytest.mark.parametrize("out", ["start.safetensors", "start.pth"])
def test_timm_loads_it_by_its_own_option(start, timm, out, folder):
    torch.save(torch.rand(32, 3, 32, 32), folder / "colour.pt")
    arguments = ("--model-args", "classes=5")
    plain = start("safetensors", "plain.safetensors", *arguments, model="timm:test_resnet", data="colour.pt")[0]
    path, text = start("timm", out, *arguments, model="timm:test_resnet", data="colour.pt")
    model = timm.create_model("test_resnet", num_classes=5, checkpoint_path=str(path))
    assert same(model.state_dict(), load_file(plain))
    assert f"--initial-checkpoint {out}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onnx", "--out", "a.pt"), "no format 'onnx'"),
        (("--format", "torch", "--out", "a.safetensors"), "does not end in .pt or .pth"),
        (("--format", "safetensors", "--out", "a.pt"), "does not end in .safetensors"),
        (("--format", "nnunet", "--out", "a.safetensors"), "does not end in .pt or .pth"),
        (("--format", "hf", "--out", "images.npy"), "exists"),
        (("--format", "hf", "--out", "none/start"), "no folder 'none'"),
        (("--format", "hf", "--out", "start"), "not a model of Hugging Face"),
        (("--format", "torch"), "--out is missing"),
    ],
)
def test_what_cannot_be_written_is_said(refused, folder, arguments, message):
    before = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    assert message in refused("init", "net.py:build_model", "--data", "images.npy", *arguments)
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before


def test_a_state_that_is_no_tensor_is_said(refused, folder):
    (folder / "extra.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def get_extra_state(self): return {'version': 2}\n"
        "    def set_extra_state(self, state): pass\n"
        "def build(): return Net(10, 10)\n"
    )
    error = refused("init", "extra.py:build", "--method", "kaiming", "--out", "a.safetensors")
    assert "'_extra_state' of the model's state_dict is a dict" in error
