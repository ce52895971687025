"""Show the progress of an experiment: trials done, running, missing, refused, damaged; also while it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from headstart.cli._command import add_command
from headstart.results.plain import to_json

if TYPE_CHECKING:
    from rich.console import Console

    from headstart.bench.store.status import Status


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart status``."""
    parser = add_command(subparsers, "status", __doc__, "example:\n  headstart status runs/compare\n")
    parser.add_argument("folder", metavar="DIR", help="the folder that 'headstart compare' wrote")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Read the folder and print the counts, also of an unfinished search."""
    from rich.console import Console

    from headstart.bench import Store
    from headstart.bench.runs.search import folder_of
    from headstart.bench.store.status import status

    store = Store(args.folder)
    search = status(folder_of(store)) if folder_of(store).begun else None
    found = None if search is not None and not store.begun else status(store)
    if args.json:
        data = found.as_dict() if found else {}
        print(to_json({**data, "search": search.as_dict() if search else None}))
        return 0
    console = Console()
    if search is not None and (search.missing or found is None):
        console.print("Search")
        _show(search, console)
    if found is not None:
        _show(found, console)
    return 0


def _show(found: Status, console: Console) -> None:
    from rich.table import Table

    from headstart.bench.runs.forecast import duration, ranges
    from headstart.results.sheet import one_line as line

    table = Table("arm", "done", "missing", "notes", box=None, header_style="bold", pad_edge=False)
    for arm in found.arms:
        notes = [f"diverged: {ranges(arm.diverged)}"] if arm.diverged else []
        notes += [f"refused: {ranges(arm.refused)}"] if arm.refused else []
        notes += [f"failed: {ranges(arm.failed)}"] if arm.failed else []
        table.add_row(*(line(cell) for cell in (arm.label, ranges(arm.done), ranges(arm.missing), "; ".join(notes))))
    console.print(table)
    for trial in found.running:
        console.print(line(f"• running: {trial.arm}, seed {trial.seed}, for {duration(trial.seconds)} on {trial.host}"))
    for damage in found.damaged:
        console.print(line(f"! {damage.file} {damage.reason}; the next run repeats it.", "yellow"))
    counts = [f"{found.done} of {found.total} trials done", f"{len(found.running)} running", f"{found.missing} missing"]
    counts += [f"{found.refused} refused"] if found.refused else []
    left = "" if not found.eta else f" About {duration(found.eta)} left at the pace so far."
    console.print(line(", ".join(counts) + f".{left}"))
