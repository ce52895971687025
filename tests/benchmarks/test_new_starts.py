"""First comparisons of new starts: every file has a rate to look for and a place on the page; scores by class."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"new_starts_{name}", BENCHMARKS / "new_starts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_comparison_is_run_and_shown(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from pages import new_starts

    files = {path.stem for path in (BENCHMARKS / "new_starts").glob("*.toml")}
    assert files == set(load("run").ORDER) == set(new_starts.PANELS)


def test_classes_count_alike_however_rare_they_are():
    data = load("data")
    targets = torch.tensor([0] * 8 + [5, 5, 9, 9])
    outputs = torch.nn.functional.one_hot(torch.tensor([0] * 6 + [1, 1] + [5, 0, 9, 9]), 10).float()
    assert data.balanced(outputs, targets) == pytest.approx((75 + 50 + 100) / 3)
    assert data.rarer_half(outputs, targets) == pytest.approx((50 + 100) / 2)
