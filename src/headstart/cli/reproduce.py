"""Run a paper's comparisons, as published and as corrected, and compare published with measured results."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.bench.papers.reproduction import PAPERS, SCALES, available, fetch, plan
from headstart.bench.store.store import Store
from headstart.cli._command import add_command
from headstart.cli._dataroot import add_data_root
from headstart.cli._executors import add_executor_arguments, executor_from
from headstart.results.plain import to_json

if TYPE_CHECKING:
    from rich.console import Console

    from headstart.bench.papers.reproduction import Comparison, Outcome, Reproduction

_EXAMPLES = """\
examples:
  headstart reproduce pre-warm                          minutes, no download: checks that everything runs
  headstart reproduce pre-warm --scale small --dry-run  what would run, and how long it would take
  headstart reproduce pre-warm --scale small --data-root data --download --jobs 2
      hours: fewer images and steps than published; downloads what it can
  headstart reproduce smart-init --scale full --only smart-init-cifar10 --ray auto
      one of the paper's protocols unchanged, on a cluster
  headstart reproduce data-dependent --scale full --task folder:VOC2007:size=227

After an interruption, run the same command again. 'headstart protocols' lists the protocols.
"""


_COLUMNS = {"arm": 10, "": 5, "default": 7, "start": 6, "gain": 6, "95 % interval": 14, "runs": 4, "verdict": 13}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart reproduce``."""
    parser = add_command(subparsers, "reproduce", __doc__, _EXAMPLES)
    parser.add_argument("paper", metavar="PAPER", help=", ".join(PAPERS))
    parser.add_argument("--scale", default="smoke", help=f"{', '.join(SCALES)} (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="PROTOCOL", help="only these of the scale's protocols")
    parser.add_argument("--seeds", default="", help="seeds instead of each protocol's: a number (8), a range or a list")
    parser.add_argument("--task", default="", help="the task for data-dependent, whose protocol does not set one")
    parser.add_argument("--out", metavar="DIR", help="output folder (default: runs/reproduce/PAPER-SCALE)")
    add_data_root(parser)
    parser.add_argument("--download", action="store_true", help="first download missing files")
    add_executor_arguments(parser.add_argument_group("where trials run"))
    parser.add_argument("--dry-run", action="store_true", help="only list the comparisons and their cost")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Run the comparisons one after the other, write the page, print the table."""
    from rich.console import Console

    from headstart.bench.papers.reproduction import Reproduction, markdown
    from headstart.bench.report.page import check_packages

    comparisons = plan(args.paper, args.scale, args.only, args.seeds, args.task)
    if args.download:
        fetch(comparisons)
    comparisons, left_out = available(comparisons)
    executor_from(args)  # what it refuses is said before any work
    out = Path(args.out or f"runs/reproduce/{args.paper}-{args.scale}")
    errors = Console(stderr=True)
    for sentence in left_out:
        errors.print(f"! {sentence}", style="yellow", markup=False, highlight=False)
    if args.dry_run:
        return _dry_run(comparisons, out, left_out, args.json)
    check_packages()
    command = _command(args)
    try:
        outcomes = [_outcome(args, comparison, out, command, errors) for comparison in comparisons]
    except KeyboardInterrupt:
        errors.print(f"Finished trials are kept in '{out}'; the same command continues from there.", markup=False)
        raise
    found = Reproduction(args.paper, args.scale, tuple(outcomes), tuple(left_out), command)
    page = Store(out).write_text("reproduction.md", markdown(found))
    if args.json:
        print(to_json(_as_dict(found, page)))
    else:
        _show(found, page)
    return 0


def _outcome(
    args: argparse.Namespace, comparison: Comparison, out: Path, command: tuple[str, ...], errors: Console
) -> Outcome:
    """Run what is missing of one comparison, and write its page."""
    from headstart.bench import analyse
    from headstart.bench import run as run_experiment
    from headstart.bench.papers.reproduction import Outcome
    from headstart.bench.report.page import write_report
    from headstart.bench.report.terminal import Bars

    store = Store(out / comparison.name)
    with Bars(errors, hidden=args.quiet) as bars:
        done = run_experiment(comparison.experiment(), store, bars, command, executor_from(args))
    if not args.quiet:
        kept = f", {done.kept} existed already" if done.kept else ""
        errors.print(f"{comparison.name}: {done.ran} trials run in {done.seconds:.0f} s{kept}.", highlight=False)
    analysis = analyse(store)
    return Outcome(comparison, analysis, write_report(store, analysis))


def _dry_run(comparisons: list[Comparison], out: Path, left_out: list[str], as_json: bool) -> int:
    """List the comparisons with their trials, done and to do, and their estimated cost."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from headstart.bench.runs.forecast import duration, forecast
    from headstart.cli._common import working

    found = []
    for comparison in comparisons:
        with working(f"Timing a few steps of {comparison.name}"):
            found.append(forecast(comparison.experiment(), Store(out / comparison.name)))
    if as_json:
        plain = [
            {"name": comparison.name, "deviations": comparison.deviations(), **each.as_dict()}
            for comparison, each in zip(comparisons, found, strict=True)
        ]
        print(to_json({"comparisons": plain, "left_out": left_out, "out": str(out)}))
        return 0
    table = Table("comparison", "arms", "trials", "to do", "about", box=None, header_style="bold", pad_edge=False)
    for comparison, each in zip(comparisons, found, strict=True):
        cells = (comparison.name, f"{len(each.arms)}", f"{each.total}", f"{each.to_do}", duration(each.seconds))
        table.add_row(*map(Text, cells))
    console = Console()
    console.print(table)
    for comparison, each in zip(comparisons, found, strict=True):
        for arm in each.arms:
            if arm.refusal:
                console.print(Text(f"! {comparison.name}: {arm.label} would refuse: {arm.refusal}", style="yellow"))
    to_do, total = sum(each.to_do for each in found), sum(each.total for each in found)
    seconds = duration(sum(each.seconds for each in found))
    console.print(
        f"{to_do} of {total} trials to do: about {seconds}, one after the other. Dry run: nothing was written.",
        highlight=False,
    )
    return 0


def _show(found: Reproduction, page: Path) -> None:
    """Print one line of published and one of measured results for each arm."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from headstart.bench.papers.reproduction import CAVEAT

    console = Console()
    for outcome in found.outcomes:
        table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
        for name, width in _COLUMNS.items():
            table.add_column(name, min_width=width, justify="left" if name in ("arm", "", "verdict") else "right")
        for row in outcome.rows():
            sides = [("paper", row.published, "dim"), ("here", row.measured, "")]
            for index, (where, side, style) in enumerate(sides if row.figure else sides[1:]):
                cells = (row.arm if index == 0 else "", where, *side[:5], side.verdict)
                table.add_row(*(Text(cell, style=style) for cell in cells))
        console.print(Text(outcome.comparison.name, style="bold"))
        console.print(table)
        console.print()
    if any(row.figure and row.figure.caveat for outcome in found.outcomes for row in outcome.rows()):
        console.print(Text(CAVEAT))
    console.print(Text(SCALES[found.scale]))
    console.print(Text(f"Deviations, and what the controls show: {page}"), soft_wrap=True)


def _as_dict(found: Reproduction, page: Path) -> dict[str, object]:
    return {
        "paper": found.paper,
        "scale": found.scale,
        "comparisons": [outcome.as_dict() for outcome in found.outcomes],
        "left_out": list(found.left_out),
        "command": shlex.join(found.command),
        "page": str(page),
    }


def _command(args: argparse.Namespace) -> tuple[str, ...]:
    """The command line that does the same again, whatever the executor."""
    said = [
        word for name in ("seeds", "task", "out") if getattr(args, name) for word in (f"--{name}", getattr(args, name))
    ]
    only = ["--only", *args.only] if args.only else []
    return ("headstart", "reproduce", args.paper, "--scale", args.scale, *only, *said)
