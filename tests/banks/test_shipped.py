"""The banks that come with the package: small, documented, licensed, and what their commands make."""

import os
import re
import shlex
from pathlib import Path

import pytest
import torch

from headstart.banks import FilterBank, shipped
from headstart.cli.main import main

FOLDER = Path(__file__).parents[2] / "src" / "headstart" / "banks" / "shipped"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
COMMANDS = {shlex.split(line)[-1]: line for line in re.findall(r"^\$ headstart (.*)$", README, re.MULTILINE)}


def test_each_has_a_section_with_its_command():
    assert shipped() == sorted(re.findall(r"^## (.*)$", README, re.MULTILINE))
    assert shipped() == sorted(name.removesuffix(".safetensors") for name in COMMANDS)
    assert {"cifar10-resnets", "efficientnet-lite0", "cifar100-pairs-resnet18"} <= set(shipped())


@pytest.mark.parametrize("name", shipped())
def test_small_licensed_and_loadable(name):
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 50_000
    bank = FilterBank.load(name)
    assert bank.provenance["licence"]
    assert bank.provenance["licence"].split(",")[0].split(" (")[0] in README
    assert "/" not in bank.provenance["command"].split(" --out ")[1]
    assert all(source.startswith("weights/") for source in bank.provenance["sources"])


def test_what_they_serve():
    dense, depthwise = FilterBank.load("cifar10-resnets"), FilterBank.load("efficientnet-lite0")
    assert dense.find((3, 3), 0.0).depth == 0
    assert dense.find((3, 3), 0.5, depthwise=True) is None
    for kernel in ((3, 3), (5, 5)):
        assert depthwise.find(kernel, 0.5, depthwise=True).depthwise
        assert depthwise.find(kernel, 0.5) is None
    stems = FilterBank.load("cifar100-pairs-resnet18")
    assert stems.find((7, 7), 0.0).layer == "conv1"
    assert len(stems.entries) == 17
    assert {len(entry) for entry in stems.entries} == {10}


@pytest.mark.parametrize("name", shipped())
def test_built_again(name, tmp_path, monkeypatch, capsys):
    """The documented command, where the weights are, makes the bank that is shipped."""
    data = Path(os.environ.get("HEADSTART_DATA") or FOLDER.parents[4] / "shared" / "data")
    command = shlex.split(COMMANDS[f"{name}.safetensors"])
    lacking = [word for word in command if word.startswith("weights/") and not (data / word).exists()]
    if lacking:
        pytest.skip(f"weights: there is no {lacking[0]} in {data}; set HEADSTART_DATA")
    (tmp_path / "weights").symlink_to(data / "weights")
    monkeypatch.chdir(tmp_path)
    assert main(command) == 0
    capsys.readouterr()
    bank, again = FilterBank.load(name), FilterBank.load(tmp_path / f"{name}.safetensors")
    assert {**again.provenance, "versions": 0} == {**bank.provenance, "versions": 0}
    for one, other in zip(bank.entries, again.entries, strict=True):
        assert (one.layer, one.kernel, one.depthwise) == (other.layer, other.kernel, other.depthwise)
        assert one.depth == pytest.approx(other.depth, abs=1e-12)  # other versions round the last digit otherwise
        if again.provenance["versions"]["scikit-learn"] != bank.provenance["versions"]["scikit-learn"]:
            # Another release's k-means may end in other clusters; they have to explain as much.
            assert one.sizes.sum() == other.sizes.sum()
            assert explained(other) == pytest.approx(explained(one), rel=0.02)
            continue
        assert torch.equal(one.sizes, other.sizes)
        assert torch.allclose(one.centroids, other.centroids, atol=1e-3 * one.norm)
        assert torch.allclose(one.deviations, other.deviations, atol=1e-3 * one.norm)


def explained(entry):
    """The sum of squares that the centroids stand for."""
    return float((entry.sizes[:, None] * entry.centroids.flatten(1).double() ** 2).sum())
