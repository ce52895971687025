"""Compute a start where the data is, save it, and apply it where the training runs.

Run: python examples/save_and_apply.py [FILE]
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import headstart as hs


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    )


def on_the_machine_with_the_data(path: Path) -> None:
    torch.manual_seed(1)
    model = build()
    data = torch.randn(128, 3, 12, 12)
    model(data[:2])  # gives the lazy layer its shape
    before = {name: value.clone() for name, value in model.state_dict().items()}
    init = hs.compute(model, data, ["prewarm", "within-layer:fill=keep"], seed=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())  # untouched
    init.save(path)
    print(f"wrote {path.name}: {len(init.tensors)} tensors, {path.stat().st_size / 1024:.0f} kB")


def on_the_machine_that_trains(path: Path) -> None:
    torch.manual_seed(2)
    model = build()
    model(torch.zeros(2, 3, 12, 12))
    init = hs.Init.load(path)  # tensors and JSON, nothing that could run
    report = hs.apply(model, init)
    print("applied to:", ", ".join(report.changed))
    print("computed by:", "; ".join(init.provenance["methods"]))
    print("from data with the fingerprint:", init.provenance["data"][:16])


with tempfile.TemporaryDirectory() as folder:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "start.safetensors"
    on_the_machine_with_the_data(path)
    on_the_machine_that_trains(path)
