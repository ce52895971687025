"""Say what is installed and what is missing: versions, devices, threads, extras, caches, data."""

from __future__ import annotations

import argparse

from headstart.cli._command import add_command
from headstart.results.plain import to_json

_EXAMPLES = """\
examples:
  headstart doctor              what is installed, what is missing, and the command that installs it
  headstart doctor --json       the same as JSON, for programs and bug reports
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart doctor``."""
    from headstart.cli._dataroot import add_data_root

    parser = add_command(subparsers, "doctor", __doc__, _EXAMPLES)
    add_data_root(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    """Run the checks and print them."""
    from headstart.cli._checkup import look

    found = look()
    if args.json:
        print(to_json(found.as_dict()))
        return 0
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for heading, lines in found.sections():
        console.print(Text(heading, style="bold"))
        for state, name, about in lines:
            style = {"ok": "green", "missing": "yellow", "broken": "red"}.get(state, "")
            console.print(
                Text.assemble("  ", (f"{state:<8}" if state else " " * 8, style), f"{name:<20} {about}"), soft_wrap=True
            )
    console.print()
    for line in found.advice:
        console.print(Text(f"• {line}"), soft_wrap=True)
    if not found.advice:
        console.print(Text("Nothing is missing.", style="green"))
    return 0
