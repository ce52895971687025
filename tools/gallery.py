"""Draw every method's filters before and after on real images, and list its cost and paper: docs/gallery.md.

    python tools/gallery.py            draw and write everything anew
    python tools/gallery.py --check    name what is missing or out of date, without drawing

The images are patches of the two photographs that scikit-learn brings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from method_pages import page_of
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

import headstart as hs
from headstart.engine.registry import get

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURES = DOCS / "gallery.md", DOCS / "gallery"
SIDE, ZOOM, GAP, COLUMNS = 3, 10, 4, 16
HEAD = """# Gallery

Every method, on one small network: 16 filters of 3×3 pixels in the first convolution, a batch norm, ReLU, and a second
convolution. The data are patches of two photographs. The upper row of a picture is the framework's start. The lower
row is what the method made of it. Each row has a scale of its own; grey is zero. Colours are the red, green and blue
weights.

A picture shows how a start looks. It does not say whether it helps: see [which start?](which-start.md) and
[results](results/README.md).
Methods that start from trained networks got networks that were trained for 60 steps on these patches; take better ones.
`python tools/gallery.py` draws the page anew.
"""
NOT_DRAWN = {
    "structured-covariance": "Not drawn: it is for depthwise filters, and needs values for your architecture.",
}


def photographs(count: int = 512, side: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardized patches of both photographs, and which one each is from."""
    random = np.random.default_rng(0)
    photos = load_sample_images().images
    labels = np.arange(count) % len(photos)
    corners = random.integers(0, 400, (count, 2))
    patches = [photos[k][y : y + side, x : x + side] for k, (y, x) in zip(labels, corners, strict=True)]
    images = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() / 255
    return (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True), torch.from_numpy(
        labels
    )


def build(seed: int = 0, width: int = 16) -> nn.Sequential:
    """The network of the page."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, width, SIDE, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, width, SIDE, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2)),
    )


def trained(seed: int, images: torch.Tensor, labels: torch.Tensor, width: int = 16) -> nn.Sequential:
    """A network after 60 steps."""
    network = build(seed, width)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(60):
        batch = torch.arange(64) + 64 * (step % 8)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    return network


def drawn(before: torch.Tensor, after: torch.Tensor) -> Image.Image:
    """Both sets of filters as two rows, each on its own scale."""
    cell = SIDE * ZOOM + GAP
    sheet = np.full((2 * cell + GAP, COLUMNS * cell + GAP, 3), 255, np.uint8)
    for row, weight in enumerate((before, after)):
        largest = float(weight.abs().max()) or 1.0
        values = (127.5 + 127.5 * weight.permute(0, 2, 3, 1).numpy() / largest).round().astype(np.uint8)
        for column, value in enumerate(values[:COLUMNS]):
            y, x = GAP + row * cell, GAP + column * cell
            sheet[y : y + SIDE * ZOOM, x : x + SIDE * ZOOM] = value.repeat(ZOOM, 0).repeat(ZOOM, 1)
    return Image.fromarray(sheet)


def started(name: str, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The first convolution after the method."""
    sources: dict[str, Callable[[], object]] = {
        "pretrained": lambda: hs.Pretrained(trained(1, images, labels)),
        "weight-selection": lambda: hs.WeightSelection(trained(1, images, labels, width=32)),
        "aligned-clusters": lambda: hs.AlignedClusters([trained(seed, images, labels) for seed in (1, 2, 3)]),
    }
    network = build()
    hs.initialize(network, (images, labels), sources.get(name, lambda: name)(), seed=0)  # type: ignore[arg-type]
    return network[0].weight.detach()


def section(name: str) -> str:
    """What the page says of a method, with a picture if there is one."""
    info, link = get(name).info, page_of(name).name
    seen = NOT_DRAWN.get(name, "It leaves these filters as they are.")
    if (PICTURES / f"{name}.png").exists():
        seen = f"![16 filters of the default start, and below of {name}](gallery/{name}.png)"
    summary = info.summary[0].upper() + info.summary[1:]
    return (
        f"\n## {name}\n\n{summary}.\n\n{seen}\n\n"
        f"**Cost:** {info.cost}. **Source:** {info.reference}. [Its page](methods/{link}).\n"
    )


def page() -> str:
    """The whole page, from the registry and the pictures that are there."""
    return HEAD + "".join(map(section, hs.list_methods()))


def main() -> int:
    """Draw and write, or with ``--check`` compare the page's text with the registry."""
    if "--check" in sys.argv[1:]:
        stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page()
        if stale:
            print("docs/gallery.md is out of date: run python tools/gallery.py")
        return int(stale)
    PICTURES.mkdir(exist_ok=True)
    images, labels = photographs()
    before = build()[0].weight.detach()
    for name in hs.list_methods():
        file = PICTURES / f"{name}.png"
        file.unlink(missing_ok=True)
        if name in NOT_DRAWN:
            continue
        after = started(name, images, labels)
        if not torch.equal(before, after):
            drawn(before, after).save(file, optimize=True)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
