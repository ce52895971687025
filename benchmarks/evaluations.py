"""What a trial on a CPU would gain from other evaluation batches, and from denormals flushed to zero.

    python benchmarks/evaluations.py --data-root DATA --out docs/results

CIFAR-100. Evaluation batches of several sizes take turns over the same validation images. Then a trial trains for a
while, and steps from there with and without ``torch.set_flush_denormal`` take turns; their losses are compared bit for
bit. Each turn gives a ratio; medians and ranges are reported, because machines drift.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pages.check import write_page
from throughput import spread
from torch import Tensor, nn

from headstart.bench import Task, load_task, resolve_model
from headstart.bench.tasks.batches import DeviceTask, data_order
from headstart.bench.trials import hardware, loop
from headstart.bench.trials.optimizers import make_optimizer
from headstart.bench.trials.training import MEMORY_FORMATS, Training

SIZES = (32, 64, 128, 256, 512, 1024)
USUAL = 128


def built(name: str, task: Task, memory_format: str) -> nn.Module:
    """Build a model, the same each time."""
    torch.manual_seed(0)
    model = resolve_model(f"headstart:{name}")(task.channels, task.classes, task.image_size)
    layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    return model.to(memory_format=layout)  # type: ignore[call-overload,no-any-return]


def evaluations(name: str, task: Task, memory_format: str, images: int, turns: int) -> dict[str, Any]:
    """Time an evaluation with each batch size, in turn."""
    model, config = built(name, task, memory_format), Training(memory_format=memory_format)
    data = DeviceTask(task, "cpu", memory_format)
    split = data.validation.first(images)
    sizes = [size for size in SIZES if size <= images]
    times: dict[int, list[float]] = {size: [] for size in sizes}
    scores = {}
    for turn in range(turns + 1):  # the first warms up
        for size in sizes:
            loop._EVALUATION_BATCH["cpu"] = size
            began = time.perf_counter()
            scores[size] = loop.evaluate(model, data, split, config)
            if turn:
                times[size].append(time.perf_counter() - began)
    return {
        "model": name,
        "memory_format": memory_format,
        "of_usual": {s: spread([t / u for t, u in zip(times[s], times[USUAL], strict=True)]) for s in sizes},
        "same_loss": {s: scores[s] == scores[USUAL] for s in sizes},
    }


def denormals(tensors: Iterator[Tensor]) -> int:
    """Count the numbers that are not zero and too small for a float32's usual form."""
    return sum(int(((t != 0) & (t.abs() < torch.finfo(t.dtype).tiny)).sum()) for t in tensors)


class Trained:
    """A model that takes steps on CIFAR-100.

    Args:
        name: Of the model.
        task: CIFAR-100.
        steps: To train before anything is measured.
        most: To be measured.
    """

    def __init__(self, name: str, task: Task, steps: int, most: int) -> None:
        config = Training(batch_size=128, steps=steps + most)
        self.data = DeviceTask(task, "cpu", "contiguous")
        self.model = built(name, task, "contiguous")
        self.optimizer = make_optimizer(self.model, config)
        self.batches = list(data_order(len(self.data.train), 128, steps + most, 0))
        self.run(self.batches[:steps])
        self.batches = self.batches[steps:]

    def run(self, batches: list[Tensor]) -> list[float]:
        """Take a step for each batch; return the losses."""
        losses = []
        for indices in batches:
            x, y = self.data.training_batch(indices)
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def state(self) -> list[Tensor]:
        """All that the optimizer and the gradients hold."""
        held = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*held, *(p.grad for p in self.model.parameters() if p.grad is not None)]


def flushing(name: str, task: Task, steps: int, most: int, turns: int) -> dict[str, Any]:
    """Time steps from the same trained state, with denormals flushed and not, in turn."""
    trained = Trained(name, task, steps, most)
    start = copy.deepcopy((trained.model.state_dict(), trained.optimizer.state_dict()))
    state = trained.state()
    times: dict[bool, list[float]] = {False: [], True: []}
    losses = {}
    for turn in range(turns + 1):
        for flush in times:
            trained.model.load_state_dict(start[0])
            trained.optimizer.load_state_dict(copy.deepcopy(start[1]))
            torch.set_flush_denormal(flush)
            began = time.perf_counter()
            losses[flush] = trained.run(trained.batches)
            if turn:
                times[flush].append(time.perf_counter() - began)
            torch.set_flush_denormal(False)
    return {
        "model": name,
        "share": denormals(iter(state)) / sum(t.numel() for t in state),
        "flushed": spread([f / u for f, u in zip(times[True], times[False], strict=True)]),
        "same_losses": losses[True] == losses[False],
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="the folder that holds cifar100")
    parser.add_argument("--out", type=Path, help="folder of evaluations.json and throughput.md, whose tables it fills")
    parser.add_argument("--models", nargs="+", default=["prewarm-cnn", "cifar-resnet20"])
    parser.add_argument("--images", type=int, default=1024, help="of an evaluation")
    parser.add_argument("--trained", type=int, default=400, help="steps before denormals are looked for")
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    task = load_task("cifar100", root=args.data_root)
    found: dict[str, Any] = {
        "command": f"python benchmarks/evaluations.py --data-root DATA --models {' '.join(args.models)} --images "
        f"{args.images} --trained {args.trained} --steps {args.steps} --turns {args.turns}",
        "turns": args.turns,
        "images": args.images,
        "trained": args.trained,
        "evaluations": [
            evaluations(name, task, layout, args.images, args.turns)
            for name in args.models
            for layout in MEMORY_FORMATS
        ],
        "denormals": [flushing(name, task, args.trained, args.steps, args.turns) for name in args.models],
        "provenance": hardware.provenance(),
    }
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if args.out:
        (args.out / "evaluations.json").write_text(text)
        write_page(args.out / "throughput.md", args.out)


if __name__ == "__main__":
    main()
