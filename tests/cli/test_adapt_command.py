import importlib.util
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import headstart as hs
from headstart.cli.adapt import parse_map


def build(folder, in_channels=3):
    spec = importlib.util.spec_from_file_location("net_for_adapt", folder / "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_model(in_channels=in_channels)


@pytest.fixture
def trained(folder):
    """``old.safetensors`` of a network that takes three channels, and the network."""
    torch.manual_seed(5)
    model = build(folder).eval()
    save_file(model.state_dict(), "old.safetensors")
    np.save("bands.npy", np.random.default_rng(0).normal(size=(40, 5, 10, 10)).astype(np.float32))
    return model


COMMAND = ("adapt", "net.py:build_model", "--model-args", "in_channels=3", "--checkpoint", "old.safetensors")


@pytest.mark.parametrize("name", ["new.safetensors", "new.pt"])
def test_writes_what_the_library_makes(folder, trained, result, name):
    printed = result(*COMMAND, "--in-channels", 5, "--data", "bands.npy", "--out", name)
    hs.adapt_conv(trained, 5, data=np.load("bands.npy"))
    read = load_file(name) if name.endswith("s") else torch.load(name, weights_only=True)
    assert read.keys() == trained.state_dict().keys()
    for key, value in trained.state_dict().items():
        assert torch.equal(read[key], value), key
    assert (printed["old_channels"], printed["new_channels"], printed["out"]) == (3, 5, name)
    assert printed["responses"][0]["match"] == "the original layer on the same data"
    result("init", "net.py:build_model", "--data", "bands.npy", "--checkpoint", name, "--method", "auto", "--dry-run")


def test_a_map_by_names_without_data(folder, trained, result):
    printed = result(
        *(*COMMAND, "--in-channels", 4, "--source-names", "r", "g", "b", "--names", "b", "g", "r", "nir"),
        *("--map", "nir=0.5*r+0.5*g", "--match", "nothing", "--out", "n.safetensors"),
    )
    old, new = trained[0].weight, load_file("n.safetensors")["0.weight"]
    assert torch.equal(new[:, :3], old[:, [2, 1, 0]])
    assert torch.allclose(new[:, 3], (old[:, 0] + old[:, 1]) / 2)
    assert printed["channels"][3]["made_of"] == {"r": 0.5, "g": 0.5}
    with safe_open("n.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["headstart"])["channels"]["nir"] == "0.5 × r + 0.5 × g"


def test_a_reference_and_tables(folder, trained, headstart):
    np.save("colours.npy", np.random.default_rng(1).normal(size=(40, 3, 10, 10)).astype(np.float32) * 4)
    code, out, _ = headstart(
        *COMMAND, "--in-channels", 5, "--data", "bands.npy", "--reference", "colours.npy", "--dry-run"
    )
    assert code == 0
    assert "the original layer on the reference" in out
    assert "Dry run: nothing was written." in out


def test_what_a_map_says():
    assert parse_map(["0", "r", "None", "2*r+b"]) == [0, "r", None, {"r": 2.0, "b": 1.0}]
    assert parse_map(["nir=r", "3=none"]) == {"nir": "r", 3: None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--in-channels", 5), "--out is missing"),
        (("--in-channels", 5, "--out", "old.safetensors"), "'old.safetensors' exists. Pass --force"),
        (("--in-channels", 4, "--data", "bands.npy", "--dry-run"), "5 channels reach it instead of 3"),
        (("--in-channels", 5, "--strategy", "repaet", "--dry-run"), "Did you mean 'repeat'"),
        (("--in-channels", 4, "--map", "0", "1", "--dry-run"), "2 entries for 4 new channels"),
        (("--in-channels", 4, "--map", "0", "3=1", "--dry-run"), "names the new channel in some entries"),
        (("--in-channels", 1, "--map", "x*0", "--dry-run"), "'x' in 'x*0' is not a number"),
        (("--in-channels", 1, "--map", "²", "--dry-run"), "There is no old channel '²'"),
        (("--in-channels", 5, "--layer", "stem", "--dry-run"), "There is no convolution 'stem'"),
        (("--in-channels", 5, "--match", "unit", "--dry-run"), "Pass data="),
    ],
)
def test_errors_are_one_line(trained, refused, arguments, message):
    assert message in refused(*COMMAND, *arguments)


def test_a_checkpoint_of_other_channels_is_refused(trained, refused):
    arguments = ("--checkpoint", "old.safetensors", "--in-channels", 5, "--dry-run")
    assert "size mismatch for 0.weight" in refused("adapt", "net.py:build_model", *arguments)


def test_help_has_examples(capsys):
    from headstart.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["adapt", "--help"])
    assert stop.value.code == 0
    assert "  headstart adapt timm:resnet18 --in-channels 13" in capsys.readouterr().out
