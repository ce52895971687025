"""What ``init``, ``diagnose`` and ``adapt`` share: arguments, loading, JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from headstart import rng
from headstart.bench.models.for_data import build
from headstart.bench.tasks.sources import Source, load_data
from headstart.cli import _models
from headstart.cli._dataroot import add_data_root
from headstart.errors import HeadstartError
from headstart.model import guard, inputs
from headstart.model.lazy import give_shapes
from headstart.model.sparse import MEMORY_LIMIT
from headstart.results.plain import to_json
from headstart.results.report import Report


def add_arguments(parser: argparse.ArgumentParser, *, data_help: str) -> None:
    """Add the arguments for model, data and selection."""
    add_model_arguments(parser, data_help=data_help)
    parser.add_argument("--include", nargs="+", metavar="LAYER", help="only these layers: names, globs or blocks")
    parser.add_argument("--exclude", nargs="+", metavar="LAYER", help="not these layers")


def add_model_arguments(parser: argparse.ArgumentParser, *, data_help: str) -> None:
    """Add the arguments for model and data."""
    parser.add_argument(
        "model", metavar="MODEL", help="headstart:NAME, torchvision:NAME, timm:NAME or file.py:function"
    )
    parser.add_argument("--data", metavar="DATA", help=data_help)
    add_data_root(parser)
    parser.add_argument("--checkpoint", metavar="FILE", type=Path, help="weights to start from (.safetensors, .pt)")
    parser.add_argument(
        "--model-args", default="", metavar="K=V,...", help="arguments of the model's builder: in_channels=1,classes=10"
    )
    parser.add_argument("--seed", type=int, default=0, help="all random draws follow from it (default: %(default)s)")
    parser.add_argument("--samples", type=int, metavar="N", help="number of samples to use")
    parser.add_argument("--raw", action="store_true", help="do not standardize data stored as bytes")
    parser.add_argument("--resize", type=int, metavar="N", help="scale and crop the images of a folder to N×N")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def add_mask(parser: argparse.ArgumentParser) -> None:
    """Add ``--mask``."""
    text = (
        "the array of --data that marks which positions count; the rest is padding (default: found by name; none:"
        " all count)"
    )
    parser.add_argument("--mask", metavar="NAME", help=text)


def add_memory_limit(parser: argparse.ArgumentParser) -> None:
    """Add ``--memory-limit``."""
    text = "largest size of sparse data that is made dense (default: %(default)s)"
    parser.add_argument("--memory-limit", type=int, default=MEMORY_LIMIT, metavar="MB", help=text)


def mask(args: argparse.Namespace) -> str | bool | None:
    """The value of ``--mask``."""
    return False if args.mask == "none" else args.mask


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of commands that write a checkpoint."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write: .safetensors or .pt")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--dry-run", action="store_true", help="only report what would be written")


def check_output(args: argparse.Namespace) -> None:
    """Raise before any work if ``--out`` cannot be written.

    Raises:
        HeadstartError: ``--out`` is missing or cannot be written.
    """
    if args.out is None and not args.dry_run:
        raise HeadstartError("--out is missing.", remedy="Pass --out FILE, or --dry-run to write nothing.")
    if args.out is not None:
        _models.check_output(args.out, args.force or args.dry_run, (".safetensors", ".pt"))


def show(args: argparse.Namespace, report: Report, notes: list[str], provenance: dict[str, Any]) -> None:
    """Print a report and what was written, as tables or JSON."""
    notes = [*notes, "Dry run: nothing was written." if args.dry_run else f"Wrote '{args.out}'."]
    if args.json:
        written = None if args.dry_run else str(args.out)
        print(to_json({**report.to_dict(), "notes": notes, "out": written, "provenance": provenance}, str))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(report)
    for note in notes:
        console.print(Text(note))


def load(
    args: argparse.Namespace, samples: int | None = None, *, own_channels: bool = False
) -> tuple[nn.Module, Source | None, list[str]]:
    """Load data, model and checkpoint.

    Args:
        args: The parsed arguments.
        samples: How many samples to load unless ``--samples`` is given.
        own_channels: Build the model with its own number of input channels instead of the data's.

    Returns:
        The model, the data if any, and sentences on what was done.

    Raises:
        HeadstartError: Something cannot be loaded.
    """
    source = None
    notes: list[str] = []
    if args.data is not None:
        with rng.untouched(args.seed):  # a user's function may draw from the global streams
            wanted = samples if args.samples is None else args.samples
            source = load_data(args.data, seed=args.seed, samples=wanted, raw=args.raw, resize=args.resize)
        notes += source.notes
    with rng.untouched():
        known = replace(source, channels=None) if source is not None and own_channels else source
        model, built = build(args.model, args.model_args, None if known is None else known.facts, args.seed)
    notes.append(built)
    if args.checkpoint is not None:
        notes.append(_models.load_checkpoint(model, args.checkpoint))
    if source is not None and guard.is_lazy(model) and not own_channels:
        give_shapes(model, inputs.load(source.value, model, seed=args.seed, samples=2), args.seed)
    return model, source, notes


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show on a terminal that work is in progress; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    from headstart.progress import report_progress_to

    status = Console(stderr=True).status(text)
    with status, report_progress_to(lambda what, done, total: status.update(f"{text}: {what}, {done} of {total}")):
        yield


@contextmanager
def counting() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """Show progress on a terminal; nothing elsewhere.

    Yields:
        A function that takes what is being done, how many steps are done, and how many there are (None if not known).
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
