"""A network trained on colour images, beside starts from scratch, on images of four bands: which one to take?

The first convolution of the trained network takes three channels; the method `pretrained` adapts it as `hs.adapt_conv`
does, leaves the head, and takes everything else. Tiny, so it cannot tell much. Needs the extra "bench".

Run: python examples/four_channels.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from headstart.bench import Arm, Experiment, Store, Training, analyse, parse_arm, run

BUILD = """
from torch import nn


def build(in_channels, classes):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )
"""
LOAD = """
import numpy as np


def load():
    images = np.load("bands.npy")
    return images, np.load("labels.npy")
"""


def images(count: int, channels: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stripes in as many directions as there are classes, every band with a brightness of its own."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows, columns = np.mgrid[:16, :16]
    angles = (np.pi * labels / classes)[:, None, None]
    waves = np.sin(0.9 * (rows * np.sin(angles) + columns * np.cos(angles)) + 6 * random.random((count, 1, 1)))
    bands = waves[..., None] * random.uniform(0.3, 1, (count, 1, 1, channels))
    noisy = 128 + 50 * bands + random.normal(0, 35, bands.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


with tempfile.TemporaryDirectory() as temporary:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(BUILD)

    # The trained network; yours is a file that you have, such as ImageNet's weights.
    scope: dict[str, object] = {}
    exec(BUILD, scope)
    torch.manual_seed(0)
    colour, labels = images(512, channels=3, classes=2, seed=0)
    x = torch.from_numpy(colour).permute(0, 3, 1, 2) / 255 - 0.5
    trained: nn.Module = scope["build"](3, 2)
    optimizer = torch.optim.Adam(trained.parameters(), lr=3e-3)
    for step in range(48):
        batch = torch.arange(64) + 64 * (step % 8)
        loss = nn.functional.cross_entropy(trained(x[batch]), torch.from_numpy(labels)[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(trained.state_dict(), folder / "rgb.pt")

    bands, labels = images(600, channels=4, classes=4, seed=1)
    np.save(folder / "bands.npy", bands)
    np.save(folder / "labels.npy", labels)
    (folder / "data.py").write_text(LOAD.replace('"bands', f'"{folder}/bands').replace('"labels', f'"{folder}/labels'))

    experiment = Experiment(
        # On the command line: headstart compare --arms auto pretrained:source=rgb.pt --model net.py:build ...
        arms=(Arm("default"), parse_arm("auto"), parse_arm(f"pretrained=pretrained:source={folder}/rgb.pt")),
        seeds=(0, 1),
        task=f"{folder}/data.py:load",
        model=f"{folder}/net.py:build",
        training=Training(steps=15, batch_size=32, evaluations=1, calibration=64),
    )
    store = Store(folder / "store")
    run(experiment, store)
    for arm in analyse(store).arms:
        print(f"{arm.label}: {arm.sentence()}")
    report = next(iter(analyse(store).arms[2].results.values()))["report"]
    print(*(f"{row['name']}: {'; '.join(row['notes'])}" for row in report["rows"]), sep="\n")
