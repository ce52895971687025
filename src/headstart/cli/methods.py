"""List the methods, or describe one: options, presets, cost, deviations, reference."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from headstart.cli._command import add_command
from headstart.results.plain import to_json

_EXAMPLES = """\
examples:
  headstart methods                    all of them, one line each
  headstart methods prewarm            one of them
  headstart methods prewarm --json     the same as JSON
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart methods``."""
    parser = add_command(subparsers, "methods", __doc__, _EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the method to describe (default: list all)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list or the description."""
    from headstart.engine import registry

    names = [args.name] if args.name else registry.list_methods()
    if args.json:
        found = [as_dict(name) for name in names]
        print(to_json(found[0] if args.name else found))
    elif args.name:
        print(registry.describe(args.name))
    else:
        _table(names)
    return 0


def as_dict(name: str) -> dict[str, Any]:
    """The registry's data on a method, as plain values.

    Example:
        >>> as_dict("kaiming")["options"]["mode"]
        "'fan_in'"
    """
    from headstart.engine import registry

    cls = registry.get(name)
    options = {f.name: repr(f.default) for f in cls.option_fields()}
    return {**asdict(cls.info), "options": options}


def _table(names: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from headstart.engine import registry

    table = Table(box=None, pad_edge=False)
    for column in ("method", "what it writes", "data", "summary"):
        table.add_column(column, no_wrap=column != "summary")
    for name in names:
        info = registry.get(name).info
        table.add_row(*(Text(t) for t in (name, info.scope, "needed" if info.needs_data else "", info.summary)))
    console = Console()
    console.print(table)
    console.print("\nA spec is name, name:option=value,... or name:preset; '+' joins several.", highlight=False)
    console.print("'headstart methods NAME' describes one.", highlight=False)
    for problem in registry.plugin_problems():
        console.print(Text(f"! {problem}", style="yellow"))
