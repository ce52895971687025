"""Make page and table again from stored trials, also while trials run; for several experiments a common page."""

from __future__ import annotations

import argparse

from headstart.cli._command import add_command
from headstart.errors import HeadstartError
from headstart.results.plain import to_json

OVERVIEW = "runs/overview"

_EXAMPLES = """\
examples:
  headstart report runs/compare
  headstart report runs/a runs/b --out runs/both
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart report``."""
    parser = add_command(subparsers, "report", __doc__, _EXAMPLES)
    parser.add_argument(
        "folders", metavar="DIR", nargs="+", help="a folder that 'headstart compare' wrote; several give a common page"
    )
    parser.add_argument(
        "--out", metavar="DIR", help=f"folder of the page (default: the experiment's own; {OVERVIEW} for several)"
    )
    parser.add_argument(
        "--primary",
        metavar="METHOD",
        help="for several: the question that is judged first (default: the one that all of them declared)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Read the stores, write the page, print the verdicts."""
    from rich.console import Console

    if len(args.folders) > 1:
        from headstart.bench.report import overview_page, overview_terminal
        from headstart.bench.report.overview import combine

        overview = combine(args.folders, args.primary)
        page = overview_page.write_overview(overview, args.out or OVERVIEW)
        if args.json:
            print(to_json({**overview_page.as_dict(overview), "page": str(page)}))
        else:
            overview_terminal.show(overview, page, Console())
        return 0

    if args.primary:
        raise HeadstartError(
            "--primary is for several experiments.", remedy="For one experiment, pass --primary to headstart compare."
        )

    from headstart.bench import Store, analyse
    from headstart.bench.report.page import write_report
    from headstart.bench.report.summary import as_dict
    from headstart.bench.report.terminal import show

    store = Store(args.folders[0])
    analysis = analyse(store)
    page = write_report(store, analysis, args.out)
    if args.json:
        print(to_json({**as_dict(analysis), "page": str(page)}))
        return 0
    show(analysis, page, Console())
    return 0
