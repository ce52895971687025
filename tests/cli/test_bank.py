"""headstart bank build, info, show, merge."""

from __future__ import annotations

import json
import shlex
import sys

import pytest
import torch

from headstart.banks import FilterBank, shipped
from headstart.cli.main import main


@pytest.fixture
def nets(folder):
    """Weights of two small networks of ``net.py`` under ``nets/``."""
    sys.path.insert(0, str(folder))
    from headstart.bench.specs import user_function

    build = user_function.load_function("net.py:build_model")
    (folder / "nets").mkdir()
    for seed in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.save(build().state_dict(), folder / "nets" / f"{seed}.pt")
    sys.path.remove(str(folder))
    return folder


def test_build_as_the_library_does(nets, headstart):
    code, out, err = headstart("bank", "build", "nets", "--clusters", 2, "--seed", 3, "--out", "bank.safetensors")
    assert (code, err) == (0, "")
    assert "Wrote 'bank.safetensors'" in out
    bank = FilterBank.load("bank.safetensors")
    assert bank.fingerprint == FilterBank.from_models("nets", clusters=2, seed=3).fingerprint
    assert bank.provenance["sources"] == ["nets/0.pt", "nets/1.pt"]


def test_every_option_reaches_the_bank_and_the_recorded_command_makes_it_again(nets, headstart):
    options = ["--distance", "even", "--pool", "--bins", 2, "--exclude", "2", "--half", "--title", "a title"]
    options += ["--licence", "MIT, mine", "--seed", 5]
    code, _, err = headstart("bank", "build", "nets/0.pt", "nets/1.pt", *options, "--out", "a.safetensors")
    assert (code, err) == (0, "")
    bank = FilterBank.load("a.safetensors")
    known = bank.provenance
    assert (known["distance"], known["pool"], known["bins"], known["seed"]) == ("even", True, 2, 5)
    assert (known["title"], known["licence"], known["exclude"]) == ("a title", "MIT, mine", ["2"])
    program, *arguments = shlex.split(known["command"])
    assert program == "headstart"
    assert headstart(*arguments, "--force")[0] == 0
    assert FilterBank.load("a.safetensors").fingerprint == bank.fingerprint


def test_clusters_by_layer(nets, headstart):
    assert headstart("bank", "build", "nets", "--clusters", "0=4,*=2", "--out", "bank.safetensors")[0] == 0
    assert [len(entry) for entry in FilterBank.load("bank.safetensors").entries] == [4, 2]


def test_whole_filters(nets, result):
    done = result("bank", "build", "nets", "--whole", "--out", "bank.safetensors")
    assert [entry["whole"] for entry in done["entries"]] == [True, True]
    assert done["out"] == "bank.safetensors"


def test_named_model_with_checkpoints_is_as_its_files(nets, headstart):
    model = ["bank", "build", "net.py:build_model", "--checkpoint", "nets/0.pt", "nets/1.pt"]
    code, out, _ = headstart(*model, "--out", "a.safetensors")
    assert code == 0
    assert "Loaded 6 tensors of 'nets/1.pt'." in out
    bank = FilterBank.load("a.safetensors")
    assert bank.fingerprint == FilterBank.from_models(["nets/0.pt", "nets/1.pt"]).fingerprint
    assert bank.provenance["sources"] == [f"net.py:build_model with nets/{i}.pt" for i in range(2)]
    assert "--checkpoint nets/0.pt nets/1.pt" in bank.provenance["command"]


def test_named_model_without_weights_says_that_they_are_random(folder, headstart):
    code, out, _ = headstart("bank", "build", "headstart:prewarm-cnn", "--out", "bank.safetensors")
    assert code == 0
    assert "Its weights are random: --checkpoint loads trained ones." in out
    first = FilterBank.load("bank.safetensors")
    assert first.provenance["sources"] == ["headstart:prewarm-cnn"]
    headstart("bank", "build", "headstart:prewarm-cnn", "--out", "bank.safetensors", "--force")
    assert FilterBank.load("bank.safetensors").fingerprint == first.fingerprint


def test_elbow(nets, headstart, result):
    code, out, _ = headstart("bank", "build", "nets", "--elbow")
    assert code == 0
    assert "explained share, by clusters" in out
    assert "silhouette" in out
    measured = result("bank", "build", "nets", "--elbow", "2,4", "--distance", "cosine")
    assert [row["clusters"] for row in measured["tried"]] == [2, 4, 2, 4]
    assert sorted(path.name for path in nets.iterdir() if path.suffix == ".safetensors") == []


def test_info(nets, headstart, result):
    headstart("bank", "build", "nets", "--out", "bank.safetensors", "--title", "my nets")
    code, out, _ = headstart("bank", "info", "bank.safetensors")
    assert code == 0
    assert "my nets" in out
    assert "3×3 slices" in out
    known = result("bank", "info", "bank.safetensors")
    assert known["provenance"]["title"] == "my nets"
    assert [entry["layer"] for entry in known["entries"]] == ["0", "2"]


def test_info_lists_the_shipped_banks(headstart, result):
    code, out, _ = headstart("bank", "info")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == shipped()
    assert [bank["name"] for bank in result("bank", "info")["banks"]] == shipped()
    assert headstart("bank", "info", "efficientnet-lite0")[0] == 0


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_show(headstart, suffix):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra plot)")
    code, out, _ = headstart("bank", "show", "cifar10-resnets", "--out", f"filters{suffix}")
    assert (code, out) == (0, f"Wrote 'filters{suffix}'.\n")
    with open(f"filters{suffix}", "rb") as file:
        assert file.read(5) in (b"\x89PNG\r", b"<?xml")


def test_merge(nets, headstart, result):
    for i in range(2):
        headstart("bank", "build", f"nets/{i}.pt", "--out", f"{i}.safetensors")
    done = result("bank", "merge", "0.safetensors", "1.safetensors", "--out", "both.safetensors", "--title", "both")
    assert done["title"] == "both"
    bank = FilterBank.load("both.safetensors")
    assert [len(entry) for entry in bank.entries] == [6, 6]
    assert [int(entry.sizes.sum()) for entry in bank.entries] == [16, 128]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("build nets", "either --out"),
        ("build nets --elbow --out a.safetensors", "either --out"),
        ("build nets --elbow 2,x", "'x' is not a whole number"),
        ("build nets --out a.pt", "does not end in .safetensors"),
        ("build nets --out no/a.safetensors", "There is no folder 'no'"),
        ("build nets --out there.safetensors", "'there.safetensors' exists"),
        ("build none --out a.safetensors", "There is no checkpoint 'none'"),
        ("build empty --out a.safetensors", "has no weights"),
        ("build bad.pt --out a.safetensors", "'bad.pt' was refused"),
        ("build nets --clusters many --out a.safetensors", "--clusters: 'many' is not a whole number"),
        ("build nets --clusters 0 --out a.safetensors", "is neither a number of at least 1"),
        ("build nets --clusters conv1=3 --out a.safetensors", "no layer that matches 'conv1'"),
        ("build nets --include conv1 --out a.safetensors", "that matches 'conv1'"),
        ("build nets headstart:prewarm-cnn --out a.safetensors", "do not match"),
        ("build nets --checkpoint nets/0.pt --out a.safetensors", "into one named model"),
        ("build headstart:none --out a.safetensors", "There is no"),
        ("info missing.safetensors", "There is no filter bank"),
        ("info cifar10", "Did you mean 'cifar10-resnets'?"),
        ("show cifar10-resnets --out a.jpg", "does not end in .png"),
        ("merge cifar10-resnets efficientnet-lite0 --out a.safetensors", "not of one kind"),
    ],
)
def test_errors_are_one_line_and_write_nothing(nets, refused, arguments, message):
    (nets / "empty").mkdir()
    (nets / "bad.pt").write_bytes(b"not a checkpoint")
    (nets / "there.safetensors").write_bytes(b"mine")
    before = sorted(nets.rglob("*"))
    assert message in refused("bank", *shlex.split(arguments))
    assert sorted(p for p in nets.rglob("*") if "__pycache__" not in p.parts) == before
    assert (nets / "there.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["info", "--help"], ["merge", "--help"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bank", *arguments])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "usage: headstart bank" in out
    if arguments[0] in ("--help", "build"):
        assert "examples:\n  headstart bank build" in out


def test_progress_on_a_terminal(nets, headstart, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = headstart("bank", "build", "nets", "--out", "bank.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["out"] == "bank.safetensors"  # what is piped stays clean
    assert "clustering" in err
    assert "1/2" in err
