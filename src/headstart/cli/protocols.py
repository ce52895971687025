"""List the papers' protocols, or describe one: its settings, and what was done about its defects."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

from headstart.cli._command import add_command, print_written
from headstart.results.plain import to_json

if TYPE_CHECKING:
    from headstart.bench.papers.protocols import Protocol

_WIDTH = 100
_EXAMPLES = """\
examples:
  headstart protocols                                   all of them, one line each
  headstart protocols prewarm-svhn-published            one: every setting, and what was done about the published
  defects headstart compare protocol:prewarm-svhn-published     run it; options override its settings
  headstart protocols prewarm-svhn-published --write prewarm.toml
      write it as an experiment's file, as headstart compare protocol:NAME --write FILE does
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart protocols``."""
    parser = add_command(subparsers, "protocols", __doc__, _EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the protocol to describe (default: list all)")
    parser.add_argument("--write", metavar="FILE", help="write it as an experiment's file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list or the description, or write the file."""
    from headstart.bench.papers.protocols import PROTOCOLS, find, words_of
    from headstart.bench.settings.config import save
    from headstart.errors import HeadstartError

    found = [find(args.name)] if args.name else list(PROTOCOLS.values())
    if args.write is not None:
        if not args.name:
            raise HeadstartError("--write needs the name of a protocol.")
        save(args.write, words_of(args.name))
        print_written(args.write, args.json)
    elif args.json:
        plain = [asdict(protocol) for protocol in found]
        print(to_json(plain[0] if args.name else plain))
    elif args.name:
        print("\n".join(_lines(found[0])))
    else:
        _table(found)
    return 0


def _table(protocols: list[Protocol]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("protocol", no_wrap=True)
    table.add_column("what it compares")
    for protocol in protocols:
        table.add_row(Text(protocol.name), Text(protocol.about))
    console = Console()
    console.print(table)
    console.print(
        "\n'headstart protocols NAME' describes one; 'headstart compare protocol:NAME' runs it.", highlight=False
    )


def _lines(protocol: Protocol) -> list[str]:
    """Describe one; settings are written as in an experiment's file."""
    from headstart.bench.settings.config import write
    from headstart.bench.settings.words import SETTINGS

    file = [line.partition(" = ") for line in write(protocol.words).splitlines() if " = " in line]
    values = {name: value for name, equals, value in file if name in SETTINGS}
    lines = [f"{protocol.name}: {protocol.about}", *_wrapped("paper", protocol.paper), ""]
    width = max(map(len, protocol.words))
    lines += [f"  {name:<{width}} = {values[name]}" for name in SETTINGS if name in protocol.words]
    others = [f"{name}={values[name]}" for name in values if name not in (*protocol.words, *protocol.needs, "out")]
    lines += ["", *_wrapped("by default", "; ".join(others))]
    lines += [line for word in protocol.needs for line in _wrapped("left to you", word)]
    for note in protocol.notes:
        lines += ["", *_wrapped(note.kind, note.what), *_wrapped("", f"→ {note.why}")]
    for options, about in protocol.variants:
        lines += ["", *_wrapped("also", f"{about}:"), f"{'':14}{options}"]
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"  {head:<12}", subsequent_indent=" " * 14, break_on_hyphens=False
    )
