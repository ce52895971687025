"""Auto still writes where evidence has it: the networks with rows in the results, and common ones of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import headstart as hs
from headstart.bench.models.builders import resolve_model

ROOT = Path(__file__).resolve().parents[2]
IMAGES = torch.nn.functional.avg_pool2d(torch.randn(16, 3, 34, 34, generator=torch.Generator().manual_seed(0)), 3, 1)

# The networks of docs/results, with the number of layers that auto writes in each.
ROWS = {
    "headstart:prewarm-cnn": 1,
    "headstart:resnet18": 1,
    "headstart:mobilenet-v1:width=8": 7,  # the others see inputs smaller than their kernel
    "headstart:mobilenet-v3-small": 4,  # likewise
    "headstart:plain-cnn:depth=5,width=16": 6,
    "headstart:plain-cnn:depth=20,width=16": 21,
    "benchmarks/auto/mlp.py:build_model": 4,
}
SLOW = {
    "headstart:cifar-resnet20:norm=0": 20,
    "headstart:plain-cnn:depth=50,width=16": 51,
    "headstart:plain-cnn:depth=100,width=16": 101,
}


def written(spec: str) -> int:
    torch.manual_seed(0)
    spec = str(ROOT / spec) if spec.startswith("benchmarks/") else spec
    model = resolve_model(spec)(3, 20, (32, 32))
    return len(hs.initialize(model, IMAGES).changed)


@pytest.mark.parametrize("spec", ROWS)
def test_networks_that_have_rows_in_the_results_are_written(spec: str) -> None:
    assert written(spec) == ROWS[spec]


@pytest.mark.slow
@pytest.mark.parametrize("spec", SLOW)
def test_deep_networks_that_have_rows_in_the_results_are_written(spec: str) -> None:
    assert written(spec) == SLOW[spec]


def test_every_network_of_the_comparisons_is_among_them() -> None:
    """But those over sound, volumes, tokens and patches, which compare other starts: pages say why auto leaves."""
    files = [file for file in (ROOT / "benchmarks").glob("*/*.toml") if file.parent.name not in ("new_starts", "monai")]
    lines = [line for file in files for line in file.read_text().splitlines() if line.startswith("model = ")]
    named = {line.partition(" = ")[2].strip('"') for line in lines} - {"headstart:cifar-resnet20"}
    assert named <= {*ROWS, *SLOW}


@pytest.mark.parametrize(
    ("name", "side", "layers"),  # of MobileNet's layers those whose input is at least as large as their kernel
    [("resnet18", 32, 1), ("mobilenet_v2", 32, 8), ("mobilenet_v2", 96, 18), ("convnext_tiny", 32, 1)],
)
def test_common_networks_of_torchvision_are_written(name: str, side: int, layers: int, torchvision_models: Any) -> None:
    torch.manual_seed(0)
    build: Callable[..., torch.nn.Module] = torchvision_models.get_model
    images = torch.nn.functional.interpolate(IMAGES, side)
    assert len(hs.initialize(build(name, weights=None), images).changed) == layers
