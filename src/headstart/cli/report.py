"""Make the page and the table again from the stored trials, also while they still run."""

from __future__ import annotations

import argparse
import json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart report``."""
    parser = subparsers.add_parser(
        "report",
        help="make the page and the table again from stored trials",
        description=__doc__,
        epilog="example:\n  headstart report runs/compare\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", help="the folder that 'headstart compare' wrote")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Read the store, write the page, print the verdicts."""
    from rich.console import Console

    from headstart.bench import Store, analyse
    from headstart.bench.page import write_report
    from headstart.bench.summary import as_dict
    from headstart.bench.terminal import show

    store = Store(args.folder)
    analysis = analyse(store)
    page = write_report(store, analysis)
    if args.json:
        print(json.dumps({**as_dict(analysis), "page": str(page)}, allow_nan=False))
        return 0
    show(analysis, page, Console())
    return 0
