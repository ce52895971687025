"""Judge any results: reads a table of arm, seed and score, and prints verdicts in plain words."""

from __future__ import annotations

import argparse
from pathlib import Path

from headstart.bench import judge
from headstart.cli._command import add_command, add_like
from headstart.errors import HeadstartError
from headstart.results.plain import to_json

_EXAMPLES = """\
examples:
  headstart judge results.csv                         columns arm, seed, score; the first arm is the baseline
  headstart judge results.csv --baseline sgd --margin 0.2 --out verdicts.html verdicts.md
  headstart judge losses.jsonl --lower-is-better      scores of which lower is better
  headstart judge all.parquet --primary adam --json   a column task, and the question declared beforehand
"""
_ENDINGS = (".html", ".md")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart judge``."""
    parser = add_command(subparsers, "judge", __doc__, _EXAMPLES)
    parser.add_argument("table", metavar="FILE", help=".csv, .parquet or JSON lines (.jsonl): arm, seed, score, task")
    parser.add_argument(
        "--baseline", metavar="ARM", help="the arm that all others are compared with (default: the first arm)"
    )
    for name, letter, text in (
        ("margin", "X", "smallest difference that matters, in the unit of the scores"),
        ("alpha", "P", "accepted chance of any false verdict"),
    ):
        add_like(parser, judge, name, text, metavar=letter)
    parser.add_argument("--lower-is-better", action="store_true", help="lower scores are better (losses, times)")
    parser.add_argument(
        "--primary", nargs="+", metavar="NAME", help="arm, or arm and task: the question declared beforehand"
    )
    parser.add_argument("--out", nargs="+", metavar="FILE", help="write the page (.html) or Markdown (.md)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Read the table, judge it, print the verdicts."""
    from rich.console import Console

    from headstart.results.whole_file import whole_file

    files = [Path(name) for name in args.out or ()]
    for path in files:
        if path.suffix not in _ENDINGS:
            raise HeadstartError(f"'{path}' is neither .html nor .md.", remedy="Name the file with one of the two.")
    primary = args.primary and (args.primary[0] if len(args.primary) == 1 else tuple(args.primary[:2]))
    if args.primary and len(args.primary) > 2:
        raise HeadstartError("--primary takes an arm, or an arm and a task.")
    found = judge(
        args.table,
        baseline=args.baseline,
        margin=args.margin,
        alpha=args.alpha,
        higher_is_better=not args.lower_is_better,
        primary=primary or None,
    )
    for path in files:
        text = found.to_page() if path.suffix == ".html" else found.to_markdown()
        try:
            with whole_file(path) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise HeadstartError(f"'{path}' could not be written: {error.strerror or error}.") from error
    if args.json:
        print(to_json({**found.to_dict(), "files": [str(path) for path in files]}))
        return 0
    Console().print(found)
    for path in files:
        print(f"Wrote '{path}'.")
    return 0
