"""Show how batch norms that average slowly hide what a network has learned in a few hundred steps.

python benchmarks/running_averages.py --data-root data

Trains a MobileNet v3 for 200 steps on two superclasses of CIFAR-100, and validates it twice: as it is, and with the
norms' statistics taken anew from training images. One seed: it explains a result, and compares nothing.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import headstart as hs
from headstart.bench import load_task
from headstart.bench.models.builders import resolve_model
from headstart.bench.tasks.task import Split

STEPS, BATCH = 200, 64


def take(split: Split, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return a split's standardized images, and its labels."""
    images, labels = torch.as_tensor(split.images), torch.as_tensor(split.labels)
    return (images.float() / 255 - mean) / std, labels.long()


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the percentage of images that a network in evaluation mode gets right."""
    net.eval()
    with torch.no_grad():
        return 100 * float((net(images).argmax(1) == labels).float().mean())


def anew(net: nn.Module, images: Tensor) -> None:
    """Replace batch norms' running averages by the plain means over batches of images."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    net.train()
    with torch.no_grad():
        for batch in images[:2048].split(256):
            net(batch)


def main() -> None:
    """Train from each start, and print both accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    task = load_task("cifar100-pairs:16,17", root=parser.parse_args().data_root)
    mean, std = (torch.as_tensor(each, dtype=torch.float32).view(-1, 1, 1) for each in task.mean_std())
    images, labels = take(task.train, mean, std)
    for method in (None, "auto", "within-layer:kmeans+balance"):
        torch.manual_seed(0)
        net = resolve_model("headstart:mobilenet-v3-small").build(3, 10, (32, 32))
        if method:
            hs.initialize(net, images[:256], method, seed=0)
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            batch = torch.randint(len(images), (BATCH,))
            loss = nn.functional.cross_entropy(net.train()(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        as_it_is = accuracy(net, *take(task.validation, mean, std))
        anew(net, images)
        again = accuracy(net, *take(task.validation, mean, std))
        print(f"{method or 'default':28} {as_it_is:5.1f} %   with statistics taken anew {again:5.1f} %", flush=True)


if __name__ == "__main__":
    main()
