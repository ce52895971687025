import importlib.util
import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import headstart as hs
from headstart.bench.models.builders import resolve_model


def user(folder, name, *args, **kwargs):
    spec = importlib.util.spec_from_file_location("net_for_test", folder / "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)(*args, **kwargs)


@pytest.mark.parametrize("name", ["start.safetensors", "start.pt"])
def test_writes_what_the_library_computes(folder, result, name):
    printed = result("init", "net.py:build_model", "--data", "net.py:load", "--method", "within-layer", "--out", name)
    torch.manual_seed(0)  # --seed names the constructor's draws too
    model = user(folder, "build_model")
    hs.initialize(model, user(folder, "load"), "within-layer", seed=0)
    read = load_file(name) if name.endswith("s") else torch.load(name, weights_only=True)
    assert read.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(read[key], value), key
    assert printed["out"] == name
    assert [r["action"] for r in printed["rows"]] == ["written"] * 3
    assert os.listdir(folder).count(name) == 1
    assert not [f for f in os.listdir(folder) if f.endswith(".part")]


def test_a_seed_names_the_users_draws_and_moves_no_global_stream(folder, result):
    (folder / "drawn.py").write_text("import torch\ndef load(): return torch.randn(64, 1, 10, 10)\n")
    state = torch.get_rng_state()
    base = ("init", "net.py:build_model", "--data", "drawn.py:load", "--method", "within-layer", "--dry-run")
    first, again, other = (result(*base, "--seed", seed)["provenance"]["data"] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)


def test_calibrate_keeps_the_function_of_a_checkpoint(folder, result):
    torch.manual_seed(3)
    trained = user(folder, "build_model").eval()
    save_file(trained.state_dict(), "trained.safetensors")
    base = ("init", "net.py:build_model", "--data", "net.py:load", "--checkpoint", "trained.safetensors")
    printed = result(*base, "--calibrate", "--out", "even.safetensors")
    assert "balance: the rates" in " ".join(printed["findings"])
    assert [r["action"] for r in printed["rows"]].count("scaled") >= 2
    images = user(folder, "load")
    images = images[0] if isinstance(images, (tuple, list)) else images
    expected = trained(images)
    trained.load_state_dict(load_file("even.safetensors"))
    assert torch.allclose(trained(images), expected, rtol=1e-4, atol=1e-5)


def test_fold_writes_a_checkpoint_without_batch_norms(folder, result):
    torch.manual_seed(3)
    model, x = resolve_model("headstart:cifar-resnet20")(1, 3, (12, 12)), torch.randn(64, 1, 12, 12)
    with torch.no_grad():
        for _ in range(3):
            model.train()(x)
        expected = model.eval()(x)
    save_file(model.state_dict(), "trained.safetensors")
    np.save("x.npy", x.numpy())
    base = ["init", "headstart:cifar-resnet20", "--model-args", "in_channels=1,classes=3,image_size=(12,12)"]
    base += ["--data", "x.npy", "--checkpoint", "trained.safetensors", "--raw", "--fold", "--calibrate"]
    printed = result(*base, "--out", "even.safetensors")
    assert "19 batch norms were folded" in " ".join(printed["notes"])
    assert len(printed["provenance"]["folded"]) == 19
    plain = resolve_model("headstart:cifar-resnet20:norm=0")(1, 3, (12, 12)).eval()
    plain.load_state_dict(load_file("even.safetensors"))
    with torch.no_grad():
        assert (plain(x) - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_a_start_by_training_gets_all_of_the_data(folder, result):
    base = ("init", "net.py:build_model", "--data", "mnist5k", "--method", "smart-init:fractions=(0.01,),epochs=1")
    base += ("--model-args", "classes=10", "--dry-run")
    assert "(30 samples, 1 epochs)" in " ".join(result(*base)["findings"])
    assert "(5 samples, 1 epochs)" in " ".join(result(*base, "--samples", 500)["findings"])


def test_fold_needs_data(folder, refused):
    line = refused("init", "net.py:build_model", "--method", "kaiming", "--fold", "--dry-run")
    assert "--fold needs --data" in line


def test_provenance_travels_in_the_file(folder, result):
    result(
        "init",
        "net.py:build_model",
        "--data",
        "net.py:load",
        "--method",
        "prewarm",
        "--seed",
        7,
        "--out",
        "s.safetensors",
    )
    with safe_open("s.safetensors", framework="pt") as file:
        provenance = json.loads(file.metadata()["headstart"])
    assert provenance["seed"] == 7
    assert provenance["methods"][0].startswith("PreWarm(")


def test_report_is_printed(headstart):
    code, out, _ = headstart(
        "init", "net.py:build_model", "--data", "images.npy", "--method", "prewarm", "--out", "s.pt"
    )
    assert code == 0
    assert "written by prewarm" in out
    assert "Bytes were scaled to [0, 1] and standardized" in out
    assert "with in_channels=1" in out
    assert "Wrote 's.pt'." in out


def test_starts_from_a_checkpoint_and_leaves_the_rest_of_it(folder, result):
    old = user(folder, "build_model", width=4)
    torch.save({"state_dict": {f"module.{k}": v for k, v in old.state_dict().items()}, "epoch": 3}, "old.pt")
    printed = result(
        *("init", "net.py:build_model", "--model-args", "width=4", "--checkpoint", "old.pt"),
        *("--data", "net.py:load", "--method", "prewarm", "--exclude", "2", "--out", "new.safetensors"),
    )
    new = load_file("new.safetensors")
    assert torch.equal(new["2.weight"], old[2].weight)
    assert torch.equal(new["0.weight"][2:], old[0].weight[2:])
    assert not torch.equal(new["0.weight"][:2], old[0].weight[:2])
    assert any("under 'state_dict', without the prefix 'module.'" in note for note in printed["notes"])


def test_applies_a_saved_initialization(folder, result):
    init = hs.compute(user(folder, "build_model"), user(folder, "load"), "within-layer", seed=3)
    init.save("i.safetensors")
    result(
        "init",
        "net.py:build_model",
        "--checkpoint",
        "i.safetensors",
        "--method",
        "dirac",
        "--include",
        "0",
        "--out",
        "o.pt",
    )
    written = torch.load("o.pt", weights_only=True)
    assert torch.equal(written["2.weight"], init.tensors["2.weight"])
    assert not torch.equal(written["0.weight"], init.tensors["0.weight"])


def test_dry_run_and_existing_files(folder, result, refused):
    base = ("init", "net.py:build_model", "--data", "net.py:load", "--method", "lsuv")
    assert result(*base, "--dry-run", "--out", "s.pt")["out"] is None
    assert not (folder / "s.pt").exists()
    result(*base, "--out", "s.pt")
    content = (folder / "s.pt").read_bytes()
    assert "'s.pt' exists. Pass --force" in refused(*base, "--seed", 1, "--out", "s.pt")
    assert (folder / "s.pt").read_bytes() == content
    result(*base, "--seed", 1, "--force", "--out", "s.pt")
    assert (folder / "s.pt").read_bytes() != content


def test_lazy_and_tied_models(folder, result):
    result("init", "net.py:lazy", "--data", "net.py:load", "--method", "within-layer", "--out", "lazy.safetensors")
    assert load_file("lazy.safetensors")["3.weight"].shape == (2, 256)
    result("init", "net.py:tied", "--method", "orthogonal", "--out", "tied.safetensors")
    read = load_file("tied.safetensors")
    assert torch.equal(read["0.weight"], read["2.weight"])
    user(folder, "tied").load_state_dict(read)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch run-by-pickle",)


def test_a_malicious_pickle_is_refused_and_not_run(folder, refused):
    base = ("init", "net.py:build_model", "--method", "kaiming", "--out", "o.pt")
    torch.save({"0.weight": Malicious()}, "evil.pt")
    (folder / "plain.pt").write_bytes(pickle.dumps(Malicious()))
    for name in ("evil.pt", "plain.pt"):
        assert "was refused" in refused(*base, "--checkpoint", name)
        assert "files that need unpickling are refused" in refused(*base, "--data", name)
    assert not (folder / "run-by-pickle").exists()
    assert not (folder / "o.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.py:build_model", "--method", "kaiming"], "--out is missing"),
        (["net.py:build_model", "--method", "kaiming", "--out", "o.bin"], "does not end in .safetensors or .pt"),
        (["net.py:build_model", "--method", "kaiming", "--out", "no/o.pt"], "There is no folder 'no'"),
        (["net.py:build_model", "--method", "kaimin", "--out", "o.pt"], "Did you mean 'kaiming'"),
        (["net.py:build_model", "--method", "prewarm", "--out", "o.pt"], "works from data and got none"),
        (["net.py:build", "--method", "kaiming", "--out", "o.pt"], "Did you mean 'build_model'"),
        (["nets.py:build_model", "--method", "kaiming", "--out", "o.pt"], "There is no file 'nets.py'"),
        (["net.py:not_a_model", "--method", "kaiming", "--out", "o.pt"], "returned int, not a torch.nn.Module"),
        (["net.py:needs_depth", "--method", "kaiming", "--out", "o.pt"], "needs the argument(s) depth"),
        (["resnet18", "--method", "kaiming", "--out", "o.pt"], "There is no model 'resnet18'"),
        (["net.py:build_model", "--model-args", "width", "--dry-run"], "'width' is not key=value"),
        (["net.py:build_model", "--model-args", "widht=3", "--dry-run"], "Did you mean 'width'"),
        (["headstart:prewarm-cnn", "--model-args", "widht=3", "--dry-run"], "argument of 'headstart:prewarm-cnn'"),
        (["net.py:build_model", "--checkpoint", "no.pt", "--dry-run"], "There is no checkpoint 'no.pt'"),
        (["net.py:build_model", "--data", "images.npz", "--dry-run"], "There is no file 'images.npz'"),
        (["net.py:build_model", "--data", "mnist6k", "--dry-run"], "Did you mean 'mnist5k'"),
        (["net.py:build_model", "--data", ".", "--dry-run"], "holds no image"),
        (["net.py:build_model", "--method", "kaiming", "--out", "dir.pt", "--force"], "'dir.pt' is a folder"),
        (["net.py:leaves", "--dry-run"], "'net.py:leaves' raised SystemExit: 3"),
        (["leaves.py:f", "--dry-run"], "Importing 'leaves.py' failed: SystemExit"),
        (["net.py:build", "--dry-run"], "There is no function in 'net.py': 'build'."),
        (["net.py:needs_depth", "--dry-run"], "available are: none."),
        (["net.py:build_model", "--data", "net.py:load", "--include", "7", "--dry-run"], "no layer that matches '7'"),
    ],
)
def test_errors_are_one_line(refused, folder, arguments, message):
    (folder / "dir.pt").mkdir()
    (folder / "leaves.py").write_text("import sys\nsys.exit()\n")
    before = sorted(os.listdir(folder))
    assert message in refused("init", *arguments)
    assert [f for f in sorted(os.listdir(folder)) if f != "__pycache__"] == before


def test_checkpoints_that_do_not_fit(folder, refused):
    base = ("init", "net.py:build_model", "--method", "kaiming", "--dry-run", "--checkpoint")
    state = user(folder, "build_model").state_dict()
    save_file({"0.weight": state["0.weight"], "extra": torch.zeros(2)}, "part.safetensors")
    line = refused(*base, "part.safetensors")
    assert "5 missing (such as '0.bias') and 1 unknown (such as 'extra')" in line
    save_file({**state, "0.weight": torch.zeros(8, 2, 3, 3)}, "shape.safetensors")
    assert "size mismatch for 0.weight" in refused(*base, "shape.safetensors")
    (folder / "damaged.safetensors").write_bytes(b"no")
    assert "not a readable safetensors file" in refused(*base, "damaged.safetensors")
    torch.save([1, 2], "list.pt")
    assert "holds no state_dict" in refused(*base, "list.pt")


@pytest.mark.parametrize("seed", [2**64 + 5, -(2**70), -1])
def test_any_whole_number_is_a_seed(result, seed):
    assert result("init", "net.py:build_model", "--method", "kaiming", "--dry-run", "--seed", seed)["seed"] == seed


def test_help_has_examples(capsys):
    from headstart.cli.main import main

    for command in ("init", "diagnose", "methods"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert "examples:" in out
        assert f"  headstart {command} " in out


def test_masks_are_named_or_switched_off(folder, result):
    (folder / "tokens.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Tokens(nn.Linear):\n"
        "    def forward(self, x, attention_mask=None): return super().forward(x)\n"
        "def build(): return Tokens(8, 8)\n"
    )
    real = torch.arange(12).expand(64, -1) < 3
    x = torch.randn(64, 12, 8, generator=torch.Generator().manual_seed(0)).masked_fill(~real[..., None], 0)
    save_file({"x": x, "attention_mask": real.long(), "all": torch.ones(64, 12)}, folder / "tokens.safetensors")
    counts = {}
    for options in ((), ("--mask", "all"), ("--mask", "none")):
        printed = result(
            "init",
            "tokens.py:build",
            "--data",
            "tokens.safetensors",
            "--method",
            "lsuv:fill=keep",
            "--dry-run",
            *options,
        )
        looked = result("diagnose", "tokens.py:build", "--data", "tokens.safetensors", *options)
        counts[options[-1:]] = any("192 of 768" in f for f in printed["findings"]), looked["rows"][0]["output_std"]
    assert [masked for masked, _ in counts.values()] == [True, False, False]
    assert counts[()][1] > 1.5 * counts[("none",)][1]
    assert counts[("all",)][1] == counts[("none",)][1]
