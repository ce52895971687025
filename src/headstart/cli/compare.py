"""Train with and without a start on paired seeds, and say whether it helps."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import fields
from typing import Any

from headstart.errors import HeadstartError

_EXAMPLES = """\
examples:
  headstart compare
      the demo: Pre-Warm and whitening against the default start, on 5,000 real digits
  headstart compare --arms lsuv within-layer --model timm:resnet18 --task cifar/ --steps 2000 --augment flip crop
      other starts, a model of timm, a folder of .npy arrays
  headstart compare --arms quarter=prewarm:fraction=0.25 prewarm:paper --seeds 20
      configured starts; 20 seeds, of which those already run are kept
  headstart compare --model net.py:build_model --task data.py:load
      your own model and images

An arm is a method's spec (see 'headstart methods') or label=spec; specs may also be joined by
commas. Run the same command again to go on after an interruption.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart compare``."""
    parser = subparsers.add_parser(
        "compare",
        help="train with and without a start on paired seeds, and say whether it helps",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to compare")
    what.add_argument(
        "--task", default="mnist5k", help="mnist5k, a folder of .npy arrays, or file.py:function (default: %(default)s)"
    )
    what.add_argument(
        "--model",
        default="headstart:prewarm-cnn",
        help="headstart:NAME, torchvision:NAME, timm:NAME or file.py:function (default: %(default)s)",
    )
    what.add_argument(
        "--arms",
        nargs="+",
        default=["prewarm", "whitening"],
        metavar="ARM",
        help="starts to test against the default one (default: prewarm whitening)",
    )
    what.add_argument("--seeds", default="8", help="how many (8), a range (0-7) or a list (3,5,9) (default: 8)")
    what.add_argument("--no-controls", action="store_true", help="leave out the control arms and the null arm")
    what.add_argument("--split-seed", type=int, default=0, help="draw of the task's splits (default: 0)")
    what.add_argument(
        "--margin", type=float, default=0.5, help="smallest difference that matters, in points (default: %(default)s)"
    )
    what.add_argument("--alpha", type=float, default=0.05, help="level of the tests (default: %(default)s)")
    how = parser.add_argument_group("how each trial trains")
    how.add_argument("--steps", type=int, default=100, help="optimizer steps (default: %(default)s)")
    how.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    how.add_argument("--lr", type=float, default=1e-3, help="learning rate (default: %(default)s)")
    how.add_argument("--lr-end", type=float, default=0.0, help="where the cosine ends (default: %(default)s)")
    how.add_argument("--optimizer", default="adam", help="adam, adamw or sgd (default: %(default)s)")
    how.add_argument("--weight-decay", type=float, default=0.0, help="default: %(default)s")
    how.add_argument("--schedule", default="cosine", help="cosine or constant (default: %(default)s)")
    how.add_argument("--augment", nargs="*", default=[], metavar="NAME", help="flip, crop (default: none)")
    how.add_argument("--evaluations", type=int, default=10, help="points of a curve (default: %(default)s)")
    how.add_argument("--calibration", type=int, default=256, help="images that a start sees (default: %(default)s)")
    how.add_argument("--precision", default="auto", help="auto, float32 or bfloat16 (default: %(default)s)")
    how.add_argument("--memory-format", default="auto", help="auto, contiguous or channels_last (default: auto)")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    out = parser.add_argument_group("output")
    out.add_argument(
        "--out",
        default="runs/compare",
        metavar="DIR",
        help="folder of the trials and the page; what it holds is not run again (default: %(default)s)",
    )
    out.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    out.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Run the comparison, write the page, print the verdicts."""
    from rich.console import Console

    from headstart.bench import Store, analyse
    from headstart.bench import run as run_experiment
    from headstart.bench.page import write_report
    from headstart.bench.summary import as_dict
    from headstart.bench.terminal import Bars, show

    experiment = _experiment(args)
    store = Store(args.out)
    errors = Console(stderr=True)
    try:
        with Bars(errors, hidden=args.quiet) as bars:
            done = run_experiment(experiment, store, bars, command=_command())
    except KeyboardInterrupt:
        errors.print(
            f"Finished trials are kept in '{store.folder}'; the same command goes on from there.", markup=False
        )
        raise
    analysis = analyse(store)
    page = write_report(store, analysis)
    if args.json:
        print(json.dumps({**as_dict(analysis), "page": str(page)}, allow_nan=False))
        return 0
    console = Console()
    show(analysis, page, console)
    again = f", {done.kept} were there already" if done.kept else ""
    console.print(f"{done.ran} trials run in {done.seconds:.0f} s{again}.", highlight=False)
    return 0


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read a number of seeds, a range or a list.

    Raises:
        HeadstartError: If it is none of them.

    Example:
        >>> parse_seeds("3"), parse_seeds("2-4"), parse_seeds("5,9")
        ((0, 1, 2), (2, 3, 4), (5, 9))
    """
    compact = text.replace(" ", "")
    if re.fullmatch(r"[1-9]\d{0,5}", compact):
        return tuple(range(int(compact)))
    if found := re.fullmatch(r"(\d{1,6})-(\d{1,6})", compact):
        first, last = map(int, found.groups())
        if first <= last:
            return tuple(range(first, last + 1))
    elif re.fullmatch(r"\d{1,9}(,\d{1,9})+,?|\d{1,9},", compact):
        return tuple(int(part) for part in compact.split(",") if part)
    raise HeadstartError(
        f"--seeds {text!r} is not understood.", remedy="Write a number (8), a range (0-7) or a list (3,5,9)."
    )


def _experiment(args: argparse.Namespace) -> Any:
    from headstart.bench import Experiment, Training, with_controls
    from headstart.bench.arms import parse_arms, with_default

    arms = parse_arms(args.arms)
    resolved = ("device", "precision", "memory_format")
    auto = tuple(name for name in resolved if getattr(args, name) == "auto")
    chosen = {field.name: getattr(args, field.name) for field in fields(Training) if field.name not in auto}
    return Experiment(
        arms=with_default(arms) if args.no_controls else with_controls(arms),
        seeds=parse_seeds(args.seeds),
        task=args.task,
        model=args.model,
        training=Training(**{**chosen, "augment": tuple(args.augment)}),
        split_seed=args.split_seed,
        margin=args.margin,
        alpha=args.alpha,
        auto=auto,
    )


def _command() -> list[str]:
    """The command line as a user types it."""
    return ["headstart", *sys.argv[1:]]
