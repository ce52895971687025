"""What an ImageNet network still knows right after `adapt_conv`, without training: the table of docs/adapt.md.

EfficientNet-Lite0 on validation images of Tiny ImageNet (64×64, enlarged), among its 200 classes. The folder
needs `tiny-imagenet-200/` and `efficientnet-lite0-imagenet.safetensors` (names of its authors' code).

Run: python benchmarks/adapt.py FOLDER [IMAGES]
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import headstart as hs

DEPTHWISE = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
INVERTED = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
ENDS = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}


def network(folder: Path) -> nn.Module:
    """Build it with the weights of its authors."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    names = dict(ENDS)
    blocks = [(f"blocks.{i}.{j}", b) for i, stage in enumerate(model.blocks) for j, b in enumerate(stage)]
    for number, (place, block) in enumerate(blocks):
        parts = DEPTHWISE if type(block).__name__.startswith("Depthwise") else INVERTED
        names.update({f"{place}.{ours}": f"_blocks.{number}.{theirs}" for ours, theirs in parts.items()})
    back = {theirs: ours for ours, theirs in names.items()}
    weights = load_file(folder / "efficientnet-lite0-imagenet.safetensors")
    model.load_state_dict({f"{back[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": v for n, v in weights.items()})
    return model


def images(folder: Path, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images scaled as the network expects, their labels, and the classes that take part."""
    synsets = (resources.files("timm.data") / "_info" / "imagenet_synsets.txt").read_text().split()
    lines = (folder / "tiny-imagenet-200/val/val_annotations.txt").read_text().splitlines()
    wanted = {name: synset for name, synset, *_ in (line.split("\t") for line in lines)}
    paths = [p for p in sorted((folder / "tiny-imagenet-200/val/images").iterdir()) if p.name in wanted]
    paths = paths[:: max(1, len(paths) // count)][:count]
    pixels = [torch.from_numpy(np.asarray(Image.open(p).convert("RGB"))).permute(2, 0, 1) for p in paths]
    large = nn.functional.interpolate(torch.stack(pixels).float(), size=128, mode="bicubic", antialias=True)
    classes = sorted({synsets.index(s) for s in wanted.values()})
    labels = [classes.index(synsets.index(wanted[p.name])) for p in paths]
    return large.clamp(0, 255) / 127.5 - 1, torch.tensor(labels), torch.tensor(classes)


def main() -> None:
    """Print the table."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    colour, labels, classes = images(folder, count)

    @torch.no_grad()
    def accuracy(model: nn.Module, data: Tensor) -> float:
        found = torch.cat([model(part)[:, classes].argmax(1) for part in data.split(50)])
        return 100 * float((found == labels).float().mean())

    def row(what: str, data: Tensor, how: str, ratio: float = 1.0, **options: Any) -> None:
        model = network(folder)
        report = hs.adapt_conv(model, data.shape[1], data=data[:: max(1, len(data) // 200)], **options)
        with torch.no_grad():
            model.conv_stem.weight.mul_(ratio)
        factors = report.responses[0].factors
        scale = "" if factors is None else " … ".join(f"{f:.3g}" for f in dict.fromkeys(factors))
        print(f"| {what} | {how} | {scale} | {accuracy(model, data):.1f} |", flush=True)

    grey = colour.mean(1, keepdim=True)
    own = (grey - grey.mean()) / grey.std()
    noise = torch.randn(grey.shape, generator=torch.Generator().manual_seed(0)) * colour.std()
    print(f"Colour: {accuracy(network(folder), colour):.1f} %.")
    print(f"Grey in all three channels: {accuracy(network(folder), grey.expand(-1, 3, -1, -1)):.1f} %.")
    print("| input | how | factor | accuracy |\n|---|---|---|---|")
    row("grey", grey, "mean, not scaled", strategy="mean", match="nothing")
    row("grey", grey, "sum (`response`)", match="response")
    row("grey", grey, "`energy`", match="energy")
    for name, data in (("grey", grey), ("grey, deviation 1", own), ("grey, 0 to 255", 127.5 * (grey + 1))):
        row(name, data, "`original`", match="original")
        row(name, data, "`batch-norm`")
        row(name, data, "`batch-norm`, `recentre`", recentre=True)
        row(name, data, "`batch-norm`, `per=channel`", per="channel", recentre=True)
    known = [0, 1, 2, None]
    for name, band in (("RGB and noise", noise), ("RGB and red again, halved", colour[:, :1] / 2)):
        for fill in ("zeros", "mean", "random"):
            row(name, torch.cat([colour, band], 1), f"map, `{fill}`", mapping=known, fill=fill)
    four = torch.cat([colour, colour[:, :1]], 1)
    row("RGBR", four, "repeat", match="response")
    row("RGBR", four, "repeat, all by 3/4", ratio=3 / 4, match="nothing")
    row("RGBR", four, "mean", strategy="mean", match="response")
    twice = torch.cat([colour, colour.roll(2, -1)], 1)
    row("RGB and RGB moved by 2 pixels", twice, "repeat")
    row("RGB and RGB moved by 2 pixels", twice, "mean", strategy="mean")


if __name__ == "__main__":
    main()
