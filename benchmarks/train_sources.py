"""Train the networks whose filters a bank is made of, one per task, and save their state_dicts.

    python benchmarks/train_sources.py --data-root DATA --out runs/sources

Defaults are filter clustering's source models: ResNet-18s on pairs of CIFAR-100's superclasses 0 to 9, SGD at 0.01
with a momentum of 0.9, flips and rotations. A file that is there is not trained again. The learning rate falls to a
fifth after half and after four fifths of the epochs; the published scheduler got the training loss in the wrong
direction, which did about that.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from headstart.bench.models.builders import resolve_model
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.tasks.loading import load_task
from headstart.bench.trials.loop import train
from headstart.bench.trials.training import Axes, Training

PAIRS = ("0,1", "2,3", "4,5", "6,7", "8,9", "0,5")


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--data-root", type=Path, help="the folder that data sets lie in")
    parser.add_argument("--model", default="headstart:resnet18")
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS), help="pairs of superclasses")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for number, pair in enumerate(args.pairs):
        path = args.out / f"pair-{pair.replace(',', '-')}.safetensors"
        if path.exists():
            continue
        task = load_task(f"cifar100-pairs:{pair}", root=args.data_root)
        milestones = (round(0.5 * args.epochs), round(0.8 * args.epochs))
        training = Training(
            epochs=args.epochs,
            batch_size=128,
            lr=0.01,
            optimizer="sgd",
            weight_decay=1e-4,
            schedule="step",
            decay=0.2,
            milestones=milestones,
            augment=("flip", "rotate"),
            evaluations=args.epochs,
            memory_format="channels_last",
        ).resolve(len(task.train.images))
        axes = Axes.of(number)
        torch.manual_seed(axes.weights)
        model = resolve_model(args.model)(task.channels, task.classes, task.image_size)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        outcome = train(model, DeviceTask(task, "cpu", training.memory_format), training, axes)
        state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
        accuracy = f"{outcome.test_accuracy:.2f}"
        part = path.with_suffix(".part")
        save_file(state, part, metadata={"task": f"cifar100-pairs:{pair}", "test_accuracy": accuracy})
        os.replace(part, path)
        print(f"{path}: test accuracy {accuracy} % in {outcome.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
