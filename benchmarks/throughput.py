"""What a trial's training costs per step, against the usual way to write it and against its bare arithmetic.

    python benchmarks/throughput.py --data-root DATA --out docs/results

CIFAR-100 with flip, crop and rotation, batches of 128, Adam. Three ways take turns in one process:

- headstart: the training loop of a trial, images as uint8 on the device, augmented a batch at a time;
- usual: torchvision's transforms image by image in a ``DataLoader`` with as many workers as there are cores;
- bare: forward, backward and optimizer step on one batch that lies ready.

All have the same model, precision and memory format; the usual way is also timed as it is usually written, in
float32 and contiguous. Each turn gives a ratio; medians and ranges are reported, because machines drift.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pages.write import finish
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from headstart.bench import Task, load_task, resolve_model
from headstart.bench.runs.executors.processes import cores
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.tasks.task import Split
from headstart.bench.trials import hardware, loop
from headstart.bench.trials.optimizers import make_optimizer
from headstart.bench.trials.training import Axes, Training

MODELS = ("prewarm-cnn", "cifar-resnet20", "resnet18")
AUGMENT = ("flip", "crop", "rotate")
WARM_UP = 10
REST = 2.0
FORMATS = (("float32", "contiguous"), ("float32", "channels_last"), ("bfloat16", "channels_last"))


def transforms() -> Any:
    """Import torchvision's transforms; beside a CPU-only torch two operators of torchvision need a schema first."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision import transforms

    transforms.keep = library  # the schemas live as long as this object
    return transforms


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images one by one, as torchvision's own data sets give them."""

    def __init__(self, task: Task) -> None:
        from PIL import Image

        t = transforms()
        mean, std = task.mean_std()
        self._images = task.train.images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = task.train.labels.tolist()
        self._open = Image.fromarray
        self._transform = t.Compose(
            [
                t.RandomHorizontalFlip(),
                t.RandomRotation(15),
                t.RandomCrop(32, padding=4),
                t.ToTensor(),
                t.Normalize(mean.tolist(), std.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._open(self._images[index])), self._labels[index]


def forever(loader: DataLoader[Any]) -> Iterator[Any]:
    """Batches without end."""
    while True:
        yield from loader


class Way:
    """A model with its optimizer that takes training steps."""

    def __init__(self, name: str, task: Task, config: Training) -> None:
        torch.manual_seed(0)
        self.config = config
        self.format = torch.channels_last if config.memory_format == "channels_last" else torch.contiguous_format
        model = resolve_model(f"headstart:{name}")(task.channels, task.classes, task.image_size)
        self.model: nn.Module = model.to(memory_format=self.format)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.model, config)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Forward, backward, step."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def ours(name: str, task: Task, config: Training) -> Callable[[], float]:
    """Return what trains for the config's steps as a trial does, and says how long a step took."""
    way = Way(name, task, config)
    data = DeviceTask(task, "cpu", config.memory_format)
    head = Split(task.validation.images[:128], task.validation.labels[:128])
    data.validation = data.test = head

    def turn() -> float:
        return loop.train(way.model, data, config, Axes.of(0)).seconds / config.steps

    return turn


def usual(name: str, task: Task, config: Training) -> Callable[[], float]:
    """The same with a ``DataLoader``; its workers are started and its first batches ready before the clock runs."""
    way = Way(name, task, config)
    loader = DataLoader(
        Pictures(task), config.batch_size, shuffle=True, num_workers=cores(), persistent_workers=True, drop_last=True
    )
    batches = forever(loader)

    def turn() -> float:
        way.model.train()
        for step in range(WARM_UP + config.steps):
            if step == WARM_UP:
                began = time.perf_counter()
            images, labels = next(batches)
            way.step(images.contiguous(memory_format=way.format), labels)
        return (time.perf_counter() - began) / config.steps

    return turn


def bare(name: str, task: Task, config: Training) -> Callable[[], float]:
    """The same steps on one batch that lies ready."""
    way = Way(name, task, config)
    images, labels = DeviceTask(task, "cpu", config.memory_format).training_batch(torch.arange(config.batch_size))

    def turn() -> float:
        way.model.train()
        began = time.perf_counter()
        for _ in range(config.steps):
            way.step(images, labels)
        return (time.perf_counter() - began) / config.steps

    return turn


def measure(name: str, task: Task, config: Training, turns: int) -> dict[str, Any]:
    """Let the ways take turns, each with a rest before it: the loaders' workers fill their queues and then wait."""
    ways = {"headstart": ours(name, task, config), "bare": bare(name, task, config), "usual": usual(name, task, config)}
    if config != (plain := replace(config, precision="float32", memory_format="contiguous")):
        ways["plain"] = usual(name, task, plain)
    for turn in ways.values():
        turn()
        time.sleep(REST)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, turn in ways.items():
            times[way].append(turn())
            time.sleep(REST)
    times.setdefault("plain", times["usual"])
    own = times["headstart"]
    return {
        "model": name,
        "precision": config.precision,
        "memory_format": config.memory_format,
        "milliseconds": {way: 1e3 * statistics.median(values) for way, values in times.items()},
        "faster_than_usual": spread([t / o for t, o in zip(times["usual"], own, strict=True)]),
        "faster_than_plain": spread([t / o for t, o in zip(times["plain"], own, strict=True)]),
        "of_bare": spread([o / t for t, o in zip(times["bare"], own, strict=True)]),
    }


def spread(ratios: list[float]) -> list[float]:
    """Median, least and largest."""
    return [statistics.median(ratios), min(ratios), max(ratios)]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="the folder that holds cifar100")
    parser.add_argument(
        "--out", type=Path, help="folder of throughput.json and of its page, whose tables are rewritten"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    task = load_task("cifar100", root=args.data_root)
    rows = []
    for name in args.models:
        for precision, memory_format in FORMATS:
            config = Training(
                steps=args.steps,
                batch_size=128,
                augment=AUGMENT,
                evaluations=1,
                precision=precision,
                memory_format=memory_format,
            )
            rows.append(measure(name, task, config, args.turns))
            print(json.dumps(rows[-1]), flush=True)
    command = (
        f"python benchmarks/throughput.py --data-root DATA --models {' '.join(args.models)} "
        f"--steps {args.steps} --turns {args.turns}"
    )
    found = {
        "command": command,
        "batch_size": 128,
        "steps": args.steps,
        "turns": args.turns,
        "rows": rows,
        "provenance": hardware.provenance(),
    }
    finish(found, "throughput", args.out)


if __name__ == "__main__":
    main()
